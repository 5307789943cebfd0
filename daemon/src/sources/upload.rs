//! Reads request bodies for every route: a picture, a form with files, or JSON.
//!
//! Bodies go to the spool as they arrive, in turns (`reading`). The caller decides what becomes of
//! the pictures.

mod headers;
mod reading;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::headers::{content_type, file_name};
use self::reading::{Reading, SMALL, Watch, in_turns, too_long};
use super::incoming::Incoming;
pub use super::incoming::Spooled;
use super::{Intake, IntakeError};
use crate::domain::Source;
use crate::problem::Problem;
use kith_pictures::kind::{
    HEAD_BYTES, NotAPicture, picture_in_json, torn, unread_in_field, wrapping,
};

/// Bodies read at a time.
const READ_AT_ONCE: usize = 4;
/// Bodies in progress, whether read or waiting; requests beyond are asked to retry.
const UNDER_WAY: usize = 128;
/// Largest JSON body.
const JSON_LIMIT: usize = 1 << 20;
/// Bytes of pictures in memory for the engine at a time, or one larger picture.
const MEMORY: usize = 32 << 20;
/// Most files in a form.
const MOST_FILES: usize = 256;
/// Most text fields in a form, and the bytes of each that are examined.
const MOST_FIELDS: usize = 64;
const FIELD_BYTES: usize = 4 << 10;
/// Largest form, in pictures of the largest size, and an allowance for boundaries and headers.
const FORM_PICTURES: usize = 4;
const FRAMING: usize = 64 << 10;
/// Bytes of a form that may be read before a part's headers or a piece of its content end.
const HEADERS: usize = 256 << 10;
/// Name of a picture without one.
const UNNAMED: &str = "upload";

/// Reader of bodies; clones share its places.
#[derive(Clone)]
pub struct Uploads {
    intake: Intake,
    places: Arc<Semaphore>,
    under_way: Arc<Semaphore>,
    /// Permits in KiB.
    memory: Arc<Semaphore>,
    memory_kib: u32,
}

/// Content of a request.
#[derive(Default)]
pub struct Brought {
    /// Pictures, in order.
    pub pictures: Vec<Spooled>,
    /// Text fields of a form by name, in order.
    pub fields: Vec<(String, String)>,
    /// JSON body, if any.
    pub json: Option<Loaded>,
    /// The body was a form, possibly with a single file.
    pub is_form: bool,
}

/// Bytes in memory, with their permit.
pub struct Loaded {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Permit, held until the bytes are no longer needed.
    pub memory: Option<OwnedSemaphorePermit>,
}

impl Brought {
    /// Returns the single picture that a route takes.
    pub fn picture(self) -> Result<Spooled, Problem> {
        let mut pictures = self.pictures;
        match (pictures.pop(), pictures.len()) {
            (Some(picture), 0) => Ok(picture),
            (Some(_), others) => {
                let detail = format!(
                    "The form holds {} pictures; send one at a time.",
                    others + 1
                );
                Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
            }
            (None, _) if self.json.is_some() => Err(IntakeError::NotAPicture(
                "the body".into(),
                NotAPicture::Known {
                    what: "JSON".into(),
                    instead: "send the bytes of a picture, or a form with a file",
                },
            )
            .into()),
            (None, _) => Err(no_file(&self.fields)),
        }
    }
}

/// Describes a form without a file.
pub fn no_file(fields: &[(String, String)]) -> Problem {
    let names: Vec<_> = fields.iter().map(|(name, _)| format!("{name:?}")).collect();
    let found = match names.as_slice() {
        [] => String::new(),
        names => format!(", only text: {}", names.join(", ")),
    };
    Problem::bad_request(format!(
        "the form holds no file{found}; for example: curl -F picture=@face.jpg"
    ))
}

impl Uploads {
    /// Creates a reader that spools for this intake.
    pub fn new(intake: Intake) -> Self {
        let memory = MEMORY.max(intake.max_bytes()).div_ceil(1024);
        let memory_kib = u32::try_from(memory).unwrap_or(u32::MAX >> 3);
        Self {
            intake,
            places: Arc::new(Semaphore::new(READ_AT_ONCE)),
            under_way: Arc::new(Semaphore::new(UNDER_WAY)),
            memory: Arc::new(Semaphore::new(memory_kib as usize)),
            memory_kib,
        }
    }

    /// Returns the queue's intake.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Waits for memory for this many bytes.
    pub async fn reserve_memory(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024))
            .unwrap_or(u32::MAX)
            .min(self.memory_kib);
        // The semaphore is never closed.
        Arc::clone(&self.memory).acquire_many_owned(kib).await.ok()
    }

    /// Reads a picture back, once there is memory for it.
    pub async fn load(&self, picture: Spooled) -> Result<Loaded, Problem> {
        let memory = self.reserve_memory(picture.bytes).await;
        let reading = tokio::task::spawn_blocking(move || picture.file.read());
        let read = reading.await.unwrap_or_else(|error| Err(error.into()));
        Ok(Loaded {
            bytes: read.map_err(|error| self.intake.not_written(&error))?,
            memory,
        })
    }

    /// Reads a request to its end. A picture outside a form gets the name `name`.
    pub async fn receive(
        &self,
        request: Request,
        name: Option<String>,
    ) -> Result<Brought, Problem> {
        let (parts, body) = request.into_parts();
        let content_type = content_type(&parts.headers);
        let is = |kind: &str| {
            content_type
                .as_ref()
                .is_some_and(|found| found.essence_str() == kind)
        };
        let form = self
            .intake
            .max_bytes()
            .saturating_mul(FORM_PICTURES)
            .saturating_add(FRAMING);
        let mut reading = self.reading(&parts.headers, body, form)?;
        if is("multipart/form-data") {
            return self.form(Request::from_parts(parts, ()), reading).await;
        }
        let head = reading.head().await?;
        let is_picture = wrapping(&head).is_ok();
        if looks_like_json(&head) || (is("application/json") && !is_picture && !head.is_empty()) {
            if let Some(why) = picture_in_json(&head) {
                return Err(IntakeError::NotAPicture("the body".into(), why).into());
            }
            return Ok(Brought {
                json: Some(self.json(head, reading).await?),
                ..Brought::default()
            });
        }
        let called = name
            .as_ref()
            .map_or_else(|| "the body".into(), |name| format!("{name:?}"));
        let name = name.as_deref().unwrap_or(UNNAMED);
        let mut incoming = Incoming::picture(&self.intake, Source::Http, name, called.clone());
        incoming.push(&head).await?;
        while let Some(bytes) = reading.next().await? {
            incoming.push(&bytes).await?;
        }
        drop(reading);
        let picture = incoming.end().await?;
        if picture.torn && is("application/x-www-form-urlencoded") {
            return Err(IntakeError::NotAPicture(called, torn()).into());
        }
        Ok(Brought {
            pictures: vec![picture],
            ..Brought::default()
        })
    }

    /// Reads a JSON request, whatever its content type.
    pub async fn receive_json(&self, request: Request) -> Result<Loaded, Problem> {
        let (parts, body) = request.into_parts();
        let reading = self.reading(&parts.headers, body, JSON_LIMIT)?;
        self.json(Vec::new(), reading).await
    }

    /// Reads JSON. A body larger than a connection's buffer is spooled until it is complete.
    async fn json(&self, mut text: Vec<u8>, mut reading: Reading) -> Result<Loaded, Problem> {
        reading.limit = JSON_LIMIT;
        while text.len() <= SMALL {
            match reading.next().await? {
                Some(bytes) => text.extend_from_slice(&bytes),
                None => {
                    return Ok(Loaded {
                        bytes: text,
                        memory: None,
                    });
                }
            }
        }
        let mut incoming = Incoming::raw(&self.intake, Source::Http, UNNAMED, JSON_LIMIT);
        incoming.push(&text).await?;
        drop(text);
        while let Some(bytes) = reading.next().await? {
            incoming.push(&bytes).await?;
        }
        drop(reading);
        self.load(incoming.end().await?).await
    }

    async fn form(&self, request: Request<()>, reading: Reading) -> Result<Brought, Problem> {
        let watch = Arc::new(Watch::default());
        let body = Body::from_stream(in_turns(reading, Arc::clone(&watch)));
        let mut request = request.map(|()| body);
        // `reading` has its own limit.
        DefaultBodyLimit::disable().apply(&mut request);
        let broken = |error: MultipartError| {
            let ours = watch.failure.lock().take();
            ours.unwrap_or_else(|| {
                Problem::bad_request(format!(
                    "the multipart body is broken: {}",
                    error.body_text()
                ))
            })
        };
        let mut form = Multipart::from_request(request, &())
            .await
            .map_err(|error| {
                Problem::bad_request(format!("{}; curl -F sets it", error.body_text()))
            })?;
        let mut brought = Brought {
            is_form: true,
            ..Brought::default()
        };
        while let Some(part) = form.next_field().await.map_err(&broken)? {
            watch.progress();
            self.part(part, &watch, &mut brought)
                .await
                .map_err(|error| match error {
                    PartError::Broken(error) => broken(error),
                    PartError::Refused(problem) => problem,
                })?;
        }
        Ok(brought)
    }

    /// Reads a part of a form. Its bytes decide whether it is a picture; a part without a file name
    /// is text unless its bytes are a picture of any kind.
    async fn part(
        &self,
        mut part: Field<'_>,
        watch: &Watch,
        brought: &mut Brought,
    ) -> Result<(), PartError> {
        let file_name = file_name(part.headers());
        let field = part.name().unwrap_or_default().to_string();
        let called = match &file_name {
            Some(name) if !name.is_empty() => format!("{name:?}"),
            _ => format!("the part {field:?}"),
        };
        let mut head = Vec::new();
        while head.len() < HEAD_BYTES
            && let Some(bytes) = part.chunk().await?
        {
            watch.progress();
            head.extend_from_slice(&bytes);
        }
        match (&file_name, wrapping(&head)) {
            // Browsers send a file without name and bytes when none was chosen.
            (Some(name), _) if name.is_empty() && head.is_empty() => return Ok(()),
            (None, Err(_)) => match unread_in_field(&head) {
                None => return text(part, watch, brought, field, head).await,
                Some(why) => return Err(IntakeError::NotAPicture(called, why).into()),
            },
            _ => {}
        }
        if brought.pictures.len() == MOST_FILES {
            let detail =
                format!("a form has at most {MOST_FILES} files; send the others in another one");
            return Err(PartError::Refused(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                detail,
            )));
        }
        let name = file_name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| UNNAMED.into());
        let mut incoming = Incoming::picture(&self.intake, Source::Http, &name, called);
        incoming.push(&head).await?;
        while let Some(bytes) = part.chunk().await? {
            watch.progress();
            incoming.push(&bytes).await?;
        }
        brought.pictures.push(incoming.end().await?);
        Ok(())
    }

    fn reading(&self, headers: &HeaderMap, body: Body, limit: usize) -> Result<Reading, Problem> {
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > limit) {
            return Err(too_long(limit));
        }
        let is_small = length.is_some_and(|length| length <= SMALL);
        let under_way = Arc::clone(&self.under_way).try_acquire_owned();
        let under_way = match under_way {
            _ if is_small => None,
            Ok(permit) => Some(permit),
            Err(_) => {
                let detail = format!(
                    "{UNDER_WAY} uploads are under way, as many as there may be; send it again \
                     later"
                );
                return Err(Problem::later(detail));
            }
        };
        let places = (!is_small).then(|| Arc::clone(&self.places));
        let body = body.into_data_stream();
        Ok(Reading {
            body,
            limit,
            read: 0,
            places,
            place: None,
            _under_way: under_way,
        })
    }
}

/// Keeps the text of a field, or its beginning.
async fn text(
    mut part: Field<'_>,
    watch: &Watch,
    brought: &mut Brought,
    field: String,
    mut value: Vec<u8>,
) -> Result<(), PartError> {
    while let Some(bytes) = part.chunk().await? {
        watch.progress();
        if value.len() < FIELD_BYTES {
            value.extend_from_slice(&bytes);
        }
    }
    value.truncate(FIELD_BYTES);
    if brought.fields.len() < MOST_FIELDS {
        brought
            .fields
            .push((field, String::from_utf8_lossy(&value).into_owned()));
    }
    Ok(())
}

enum PartError {
    Broken(MultipartError),
    Refused(Problem),
}

impl From<MultipartError> for PartError {
    fn from(error: MultipartError) -> Self {
        Self::Broken(error)
    }
}

impl From<IntakeError> for PartError {
    fn from(error: IntakeError) -> Self {
        Self::Refused(error.into())
    }
}

fn looks_like_json(head: &[u8]) -> bool {
    matches!(
        without_mark(head).trim_ascii_start().first(),
        Some(b'{' | b'[')
    )
}

/// Strips a byte order mark, which Windows writes and JSON forbids.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text)
}
