//! Cameras with HTTP: one JPEG for each request, or a stream of them as
//! `multipart/x-mixed-replace`, whatever answers.
//!
//! A stream is passed on as it comes: the camera process finds the JPEGs in it (`frames`). So no
//! boundary and no length of a part, which cameras write in every wrong way, decides anything.
//! Single pictures are cut at their end, and the same one is not passed on twice.

use std::convert::Infallible;
use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH};
use tokio::time::{Instant, sleep_until, timeout};

use crate::camera_process::frames::{Frames, Next, UNCHANGED};
use crate::config::{self, Url};
use crate::http_client::{Address, Client, HttpError, Login, Response, Timeouts, Trust};

/// Start of every JPEG.
const START: [u8; 3] = [0xFF, 0xD8, 0xFF];
/// Wait after the first failure that may pass, doubled by each further one, up to the second.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Wait for bytes behind a picture that is complete, so that its connection can be kept.
const GRACE: Duration = Duration::from_millis(300);
/// Bytes of an answer by which a stream is told from a picture.
const ENOUGH: usize = 16;

/// A camera that is read by HTTP.
pub struct HttpCamera {
    /// Its address.
    pub address: Address,
    /// Path with query.
    pub path: String,
    /// User and password, if it asks for them.
    pub login: Option<Login>,
    /// Certificates that are trusted.
    pub trust: Trust,
    /// Requests a second, if it answers each by a picture.
    pub rate: f32,
    /// Most bytes of a picture.
    pub max_bytes: usize,
    /// Time without a picture after which the process would be ended from outside.
    pub stall_after: Duration,
}

/// Reasons why no more pictures come. Each begins with a name that operators know.
#[derive(Debug, thiserror::Error)]
pub enum HttpCameraError {
    /// No answer, or one that is an error.
    #[error("{name}: {0}", name = name(.0))]
    Http(HttpError),
    /// Answers without a picture.
    #[error("not a stream: {0} answers without a picture: {1}; check the path")]
    NoPicture(Address, String),
    /// The camera process has gone.
    #[error("the pictures cannot be passed on: {0}")]
    Output(#[from] std::io::Error),
}

// By hand, so that it is no `source`, whose words would be said twice.
impl From<HttpError> for HttpCameraError {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

fn name(error: &HttpError) -> &'static str {
    match error {
        HttpError::NameNotFound(_) => "name not found",
        HttpError::Refused(_) => "refused",
        HttpError::Unreachable(..) | HttpError::Tls(..) => "unreachable",
        HttpError::Untrusted(..) => "untrusted",
        HttpError::Unauthorised(..) | HttpError::Status(_, StatusCode::FORBIDDEN) => "unauthorised",
        HttpError::Status(_, status) if status.is_server_error() => "unavailable",
        HttpError::Stalled(..) => "stalled",
        HttpError::Ended(_) => "the stream ended",
        HttpError::SentOn(..)
        | HttpError::SentInCircles(_)
        | HttpError::Status(..)
        | HttpError::NotHttp(..)
        | HttpError::TooLarge(..) => "not a stream",
    }
}

impl HttpCameraError {
    /// Returns true if the next request may succeed; `before`: one has.
    fn passes(&self, before: bool) -> bool {
        match self {
            Self::Http(HttpError::Status(_, status)) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Http(HttpError::Ended(_)) => true,
            Self::Http(HttpError::TooLarge(..)) | Self::NoPicture(..) => before,
            Self::Http(_) | Self::Output(_) => false,
        }
    }
}

impl HttpCamera {
    /// Makes it of the configuration. Reads the file of its authority.
    pub fn new(
        url: &Url,
        login: Option<Login>,
        trust: Option<&config::Trust>,
        camera: &config::Camera,
        max_bytes: usize,
    ) -> anyhow::Result<Self> {
        let (address, path) = Address::of(url)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("the address {url}"))?;
        let trust = match trust {
            None => Trust::System,
            Some(config::Trust::Fingerprint(fingerprint)) => Trust::Fingerprint(*fingerprint),
            Some(config::Trust::Ca(file)) => Trust::of_file(file)
                .map_err(|why| anyhow::anyhow!("untrusted: {} {why}", file.display()))?,
        };
        Ok(Self {
            address,
            path,
            login,
            trust,
            rate: camera.rate as f32,
            max_bytes,
            stall_after: camera.stall_after,
        })
    }
}

/// Writes the camera's pictures to standard output; returns only an error.
pub fn run(camera: HttpCamera) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the frame producer cannot be started")?;
    match runtime.block_on(produce(camera, &mut std::io::stdout().lock()))? {}
}

/// Writes the camera's pictures to `out`, `frames::UNCHANGED` for one that is the same as the last.
/// Failures that may pass are met by growing waits, as long as pictures are not missed for long.
pub async fn produce(
    camera: HttpCamera,
    out: &mut impl Write,
) -> Result<Infallible, HttpCameraError> {
    // Before the process is ended from outside it can say why.
    let patience = camera.stall_after.mul_f32(0.75);
    let timeouts = Timeouts {
        connect: patience,
        answer: patience,
        quiet: patience,
        body: patience,
    };
    let every = Duration::from_secs_f32(1.0 / camera.rate.max(0.01));
    let client = Client::new(
        camera.address.clone(),
        camera.login.clone(),
        camera.trust.clone(),
        timeouts,
    );
    let mut fetching = Fetching {
        camera,
        client,
        out,
        last: None,
        etag: None,
    };
    let (mut came, mut before) = (Instant::now(), false);
    let (mut next, mut wait) = (came, FIRST_WAIT);
    loop {
        sleep_until(next).await;
        match fetching.picture().await {
            Ok(()) => {
                (came, before, wait) = (Instant::now(), true, FIRST_WAIT);
                // Missed times are not made up for.
                next = came.max(next + every);
            }
            Err(error) if error.passes(before) && came.elapsed() + wait < patience => {
                next = Instant::now() + wait;
                wait = LONGEST_WAIT.min(wait * 2);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A camera, and its picture before.
struct Fetching<'o, W> {
    camera: HttpCamera,
    client: Client,
    out: &'o mut W,
    last: Option<Vec<u8>>,
    /// Names the last picture.
    etag: Option<HeaderValue>,
}

impl<W: Write> Fetching<'_, W> {
    /// Passes on the picture that answers a request, or all of a stream.
    async fn picture(&mut self) -> Result<(), HttpCameraError> {
        let etag = self.etag.clone().map(|etag| (IF_NONE_MATCH, etag));
        let request = self.client.get(&self.camera.path, etag.as_slice()).await?;
        if request.status == StatusCode::NOT_MODIFIED {
            return Ok(pass(self.out, &UNCHANGED)?);
        }
        let mut response = request.success()?;
        let etag = response.headers.get(ETAG).cloned();
        let mut read = Vec::new();
        while read.len() < ENOUGH {
            match response.chunk().await? {
                Some(chunk) => read.extend_from_slice(&chunk),
                None => break,
            }
        }
        if is_stream(&response.headers, &read) {
            (self.last, self.etag) = (None, None);
            return stream(response, &read, self.out, &self.camera.address).await;
        }
        let picture = single(response, read, &self.camera).await?;
        self.etag = etag;
        if self.last.as_ref() == Some(&picture) {
            pass(self.out, &UNCHANGED)?;
        } else {
            pass(self.out, &picture)?;
            self.last = Some(picture);
        }
        Ok(())
    }
}

fn pass(out: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}

/// Returns true if this is the beginning of a `multipart` body, by its type or by itself.
fn is_stream(headers: &HeaderMap, beginning: &[u8]) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |v| v.as_bytes());
    let declared = content_type
        .get(..10)
        .is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/"));
    declared || beginning.trim_ascii_start().starts_with(b"--")
}

/// Passes on a stream to its end; the error says if there was no picture in it.
async fn stream(
    mut response: Response<'_>,
    beginning: &[u8],
    out: &mut impl Write,
    address: &Address,
) -> Result<(), HttpCameraError> {
    pass(out, beginning)?;
    let mut seen = beginning.to_vec();
    let mut pictures = false;
    loop {
        pictures |= seen.windows(START.len()).any(|three| three == START);
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            // Some close the connection behind each picture.
            Err(HttpError::Ended(_)) if pictures => break,
            Err(error) => return Err(error.into()),
        };
        pass(out, &chunk)?;
        if !pictures {
            // A start may be cut in two.
            seen.drain(..seen.len().saturating_sub(START.len() - 1));
            seen.extend_from_slice(&chunk);
        }
    }
    match pictures {
        true => Ok(()),
        false => {
            let why = "its stream ended before the first one".into();
            Err(HttpCameraError::NoPicture(address.clone(), why))
        }
    }
}

/// Reads a picture whose beginning is `read` to its end.
async fn single(
    mut response: Response<'_>,
    mut read: Vec<u8>,
    camera: &HttpCamera,
) -> Result<Vec<u8>, HttpCameraError> {
    let limit = camera.max_bytes;
    loop {
        // Whatever follows, and if the length is wrong or the connection stays open for ever.
        let complete = ends_like_a_picture(&read) && picture(&read, limit).is_ok();
        let more = match complete {
            true => timeout(GRACE, response.chunk()).await.unwrap_or(Ok(None)),
            false => response.chunk().await,
        };
        let failed = match more {
            Ok(None) => break,
            Ok(Some(chunk)) if read.len() + chunk.len() > limit => {
                read.extend_from_slice(&chunk[..limit - read.len()]);
                HttpError::TooLarge(camera.address.clone(), limit)
            }
            Ok(Some(chunk)) => {
                read.extend_from_slice(&chunk);
                continue;
            }
            Err(error) => error,
        };
        return picture(&read, limit).map_err(|_| failed.into());
    }
    picture(&read, limit).map_err(|why| HttpCameraError::NoPicture(camera.address.clone(), why))
}

/// Returns true if a picture may end here, with zeros or line ends behind it.
fn ends_like_a_picture(read: &[u8]) -> bool {
    let end = read
        .iter()
        .rposition(|byte| !matches!(byte, 0 | b'\r' | b'\n'));
    end.is_some_and(|end| read[..=end].ends_with(&[0xFF, 0xD9]))
}

/// Returns the first JPEG in these bytes, or says what they are instead.
fn picture(read: &[u8], limit: usize) -> Result<Vec<u8>, String> {
    let mut frames = Frames::new(read, limit);
    let mut broken = None;
    loop {
        match frames.next().map_err(|error| error.to_string())? {
            Next::Frame(frame) => return Ok(frame.to_vec()),
            Next::Broken(why) | Next::NotAStream(why) => broken = Some(why),
            Next::Unchanged => {}
            Next::Ended => break,
        }
    }
    Err(match (broken, frames.instead()) {
        (Some(why), _) => why,
        _ if read.windows(START.len()).any(|three| three == START) => {
            "the picture is cut off".into()
        }
        (None, Some(what)) => what,
        (None, None) => "nothing came".into(),
    })
}

#[cfg(test)]
mod tests;
