//! Frigate's HTTP API, as far as kithd uses it: login, version, events, pictures, sub labels, and
//! the differences between versions 0.14 to 0.18. Not for deciding what is fetched when.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, DATE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use parking_lot::Mutex;
use serde_json::json;
use time::PrimitiveDateTime;
use time::macros::format_description;
use tokio::time::Instant;

use super::event::Event;
use super::tracker::Shot;
use crate::config::{self, read_password};
use crate::http_client::{Client, HttpError, Response, Timeouts};

/// Times within which Frigate must answer. It makes pictures while it is asked.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(10),
    quiet: Duration::from_secs(10),
    body: Duration::from_secs(20),
};
/// Most bytes of an answer that is no picture.
const MAX_ANSWER: usize = 4 << 20;
/// Most events of one answer.
pub const MOST_LISTED: usize = 100;
/// Time for which a refused login is not tried again: Frigate may limit how often that is done.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Most characters of a sub label.
const LONGEST_LABEL: usize = 100;

/// Reasons why Frigate did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No answer, or no useful one.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// User and password are wrong.
    #[error(
        "Frigate refuses frigate.username and its password; set them as under Settings, Users in \
         Frigate"
    )]
    LoginRefused,
    /// The file with the password cannot be read.
    #[error("frigate.password_file = {0} cannot be read: {1}")]
    NoPassword(PathBuf, std::io::Error),
    /// The user may not do this.
    #[error(
        "Frigate does not allow it: the user of frigate.username needs the role admin to set sub \
         labels and access to the cameras; so does a Frigate without login, except on its port 5000"
    )]
    NotAllowed,
    /// There is no such event, picture or camera.
    #[error("Frigate has no such event, picture or camera")]
    Missing,
    /// Frigate is there and cannot do it now.
    #[error("Frigate answers {0}; its log says more")]
    Trouble(StatusCode),
    /// Frigate finds the request wrong.
    #[error("Frigate refuses the request ({0}); is its version one of 0.14 to 0.18?")]
    Refused(StatusCode),
    /// Something else answers.
    #[error("what answers at frigate.url is not Frigate: {0}")]
    NotFrigate(String),
}

/// Version of Frigate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// As Frigate writes it: "0.16.1-e664cb2".
    pub text: String,
    /// 16 of 0.16.1; `None` for a version that is written otherwise.
    minor: Option<u32>,
}

/// All clients' login and knowledge of one Frigate.
pub struct Session {
    settings: config::Frigate,
    /// `Authorization` of the requests, once there was a login.
    token: tokio::sync::Mutex<Token>,
    /// Frigate's clock at a moment.
    clock: Mutex<Option<(f64, Instant)>>,
    version: Mutex<Option<Version>>,
}

#[derive(Default)]
struct Token {
    value: Option<HeaderValue>,
    refused: Option<Instant>,
}

impl Session {
    /// Makes a session; nothing is asked yet.
    pub fn new(settings: config::Frigate) -> Arc<Self> {
        Arc::new(Self {
            settings,
            token: tokio::sync::Mutex::default(),
            clock: Mutex::default(),
            version: Mutex::default(),
        })
    }

    /// Returns Frigate's time now, seconds since 1970, once it has answered. The board's own clock
    /// may be wrong.
    pub fn clock(&self) -> Option<f64> {
        let (seconds, at) = (*self.clock.lock())?;
        Some(seconds + at.elapsed().as_secs_f64())
    }

    /// Returns Frigate's version, once it has answered.
    pub fn version(&self) -> Option<Version> {
        self.version.lock().clone()
    }

    fn hear(&self, headers: &HeaderMap) {
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        if let Some(seconds) = date.and_then(seconds_of) {
            *self.clock.lock() = Some((seconds, Instant::now()));
        }
    }
}

/// A client of Frigate, with a connection of its own.
pub struct Api {
    client: Client,
    session: Arc<Session>,
}

impl Api {
    /// Makes a client; there is no connection yet.
    pub fn new(session: Arc<Session>) -> Self {
        let settings = &session.settings;
        let client = Client::new(
            settings.address.clone(),
            None,
            settings.trust.clone(),
            TIMEOUTS,
        );
        Self { client, session }
    }

    /// Asks for the version, and remembers it.
    pub async fn version(&mut self) -> Result<Version, ApiError> {
        let body = self.get("/api/version", MAX_ANSWER).await?;
        let text = String::from_utf8_lossy(&body)
            .trim()
            .trim_matches('"')
            .to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
        if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
            let shown = "its /api/version is no version; check the port and the path".into();
            return Err(ApiError::NotFrigate(shown));
        }
        let minor = text.strip_prefix("0.").and_then(|rest| {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse().ok()
        });
        let version = Version { text, minor };
        *self.session.version.lock() = Some(version.clone());
        Ok(version)
    }

    /// Lists events that began after a moment, oldest first, [`MOST_LISTED`] at most.
    pub async fn events(&mut self, after: f64) -> Result<Vec<Event>, ApiError> {
        let config::Frigate {
            labels, cameras, ..
        } = &self.session.settings;
        let mut path = format!(
            "/api/events?after={after}&sort=date_asc&limit={MOST_LISTED}\
             &include_thumbnails=0&labels={}",
            listed(labels)
        );
        if !cameras.is_empty() {
            path.push_str(&format!("&cameras={}", listed(cameras)));
        }
        let body = self.get(&path, MAX_ANSWER).await?;
        let (events, left_out) = Event::of_list(&body)
            .map_err(|why| ApiError::NotFrigate(format!("its list of events is none: {why}")))?;
        if left_out > 0 {
            tracing::debug!("{left_out} events of Frigate's list make no sense and are left out");
        }
        Ok(events)
    }

    /// Fetches a picture of an event or its camera.
    pub async fn picture(
        &mut self,
        shot: Shot,
        event: &str,
        camera: &str,
        max_bytes: usize,
    ) -> Result<Bytes, ApiError> {
        // Zeros, because newer versions take what is not said from the camera's settings. Without a
        // height the picture has its full size.
        let plain = "bbox=0&timestamp=0&quality=95";
        let path = match shot {
            Shot::Best => format!("/api/events/{event}/snapshot.jpg?crop=0&{plain}"),
            Shot::Cut => format!("/api/events/{event}/snapshot.jpg?crop=1&{plain}"),
            Shot::Latest => {
                format!("/api/{camera}/latest.jpg?{plain}&zones=0&mask=0&motion=0&regions=0")
            }
            Shot::Final => {
                // By the camera's settings the stored snapshot may have a frame and words painted
                // on it, and there may be a clean copy beside it; both is the default.
                let clean = match self.session.version().and_then(|version| version.minor) {
                    Some(..17) => "png",
                    _ => "webp",
                };
                let clean = format!("/api/events/{event}/snapshot-clean.{clean}");
                match self.get(&clean, max_bytes).await {
                    Err(ApiError::Missing | ApiError::Refused(_)) => {}
                    other => return other,
                }
                format!("/api/events/{event}/snapshot.jpg?crop=0&{plain}")
            }
        };
        self.get(&path, max_bytes).await
    }

    /// Sets the sub label of an event, with a score from 0 to 1.
    pub async fn set_sub_label(
        &mut self,
        event: &str,
        name: &str,
        score: f64,
    ) -> Result<(), ApiError> {
        let name: String = name.chars().take(LONGEST_LABEL).collect();
        let body = json!({ "subLabel": name, "subLabelScore": score }).to_string();
        let path = format!("/api/events/{event}/sub_label");
        self.ask(&path, Some(body.into()), MAX_ANSWER).await?;
        Ok(())
    }

    async fn get(&mut self, path: &str, limit: usize) -> Result<Bytes, ApiError> {
        self.ask(path, None, limit).await
    }

    /// Sends a request, again after a login if Frigate wants one.
    async fn ask(
        &mut self,
        path: &str,
        body: Option<Bytes>,
        limit: usize,
    ) -> Result<Bytes, ApiError> {
        let path = format!("{}{path}", self.session.settings.base);
        let token = self.session.token.lock().await.value.clone();
        match self.send(&path, body.clone(), token.as_ref(), limit).await {
            Err(ApiError::Http(HttpError::Unauthorised(..)))
                if self.session.settings.username.is_some() =>
            {
                let token = self.log_in(token.as_ref()).await?;
                match self.send(&path, body, Some(&token), limit).await {
                    Err(ApiError::Http(HttpError::Unauthorised(..))) => {
                        // The cookie is none that Frigate takes; nothing more can be done.
                        Err(ApiError::LoginRefused)
                    }
                    other => other,
                }
            }
            other => other,
        }
    }

    async fn send(
        &mut self,
        path: &str,
        body: Option<Bytes>,
        token: Option<&HeaderValue>,
        limit: usize,
    ) -> Result<Bytes, ApiError> {
        let headers: Vec<_> = token
            .map(|token| (AUTHORIZATION, token.clone()))
            .into_iter()
            .collect();
        let session = Arc::clone(&self.session);
        let response = request(&mut self.client, path, body, &headers).await?;
        session.hear(&response.headers);
        match response.status {
            status if status.is_success() => Ok(response.bytes(limit).await?),
            StatusCode::NOT_FOUND => Err(ApiError::Missing),
            StatusCode::FORBIDDEN => Err(ApiError::NotAllowed),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(ApiError::Trouble(response.status))
            }
            status if status.is_client_error() => Err(ApiError::Refused(status)),
            status => Err(ApiError::Trouble(status)),
        }
    }

    /// Logs in, unless another client has done so since `old` was refused.
    async fn log_in(&mut self, old: Option<&HeaderValue>) -> Result<HeaderValue, ApiError> {
        let session = Arc::clone(&self.session);
        let mut token = session.token.lock().await;
        if let Some(value) = &token.value
            && Some(value) != old
        {
            return Ok(value.clone());
        }
        if token.refused.is_some_and(|at| at.elapsed() < REFUSED_FOR) {
            return Err(ApiError::LoginRefused);
        }
        token.value = None;
        let user = session.settings.username.clone().unwrap_or_default();
        let password = match session.settings.password_file.clone() {
            None => String::new(),
            // Read each time: it may have been replaced.
            Some(file) => {
                let read = file.clone();
                tokio::task::spawn_blocking(move || read_password(&read))
                    .await
                    .unwrap_or_else(|error| Err(error.into()))
                    .map_err(|error| ApiError::NoPassword(file, error))?
            }
        };
        let body = json!({ "user": user, "password": password }).to_string();
        let path = format!("{}/api/login", session.settings.base);
        let answer = request(&mut self.client, &path, Some(body.into()), &[]).await;
        let refused = match &answer {
            // 0.14 answers 400, later versions 401.
            Ok(response) => response.status == StatusCode::BAD_REQUEST,
            Err(HttpError::Unauthorised(..)) => true,
            Err(_) => false,
        };
        if refused {
            token.refused = Some(Instant::now());
            return Err(ApiError::LoginRefused);
        }
        let response = answer?;
        if !response.status.is_success() {
            return Err(ApiError::Trouble(response.status));
        }
        // The cookie's name can be configured in Frigate, so its value is sent as a bearer's.
        let mut cookies = response.headers.get_all(SET_COOKIE).iter();
        let value = cookies.find_map(|cookie| {
            let (_, rest) = cookie.to_str().ok()?.split_once('=')?;
            let value = rest.split(';').next()?.trim();
            (!value.is_empty()).then(|| format!("Bearer {value}"))
        });
        let value = value.and_then(|value| HeaderValue::try_from(value).ok());
        let mut value =
            value.ok_or_else(|| ApiError::NotFrigate("its login gives no cookie".into()))?;
        value.set_sensitive(true);
        // Read to its end, so that the connection is kept.
        let _ = response.bytes(MAX_ANSWER).await;
        token.value = Some(value.clone());
        token.refused = None;
        Ok(value)
    }
}

async fn request<'c>(
    client: &'c mut Client,
    path: &str,
    body: Option<Bytes>,
    headers: &[(HeaderName, HeaderValue)],
) -> Result<Response<'c>, HttpError> {
    match body {
        None => client.get(path, headers).await,
        Some(body) => client.post(path, "application/json", headers, body).await,
    }
}

/// Returns names as a list in a query.
fn listed(names: &[String]) -> String {
    let escaped = |name: &String| {
        percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    names.iter().map(escaped).collect::<Vec<_>>().join(",")
}

/// Parses the date of an answer: "Sun, 06 Nov 1994 08:49:37 GMT", seconds since 1970.
fn seconds_of(date: &str) -> Option<f64> {
    let form = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let parsed = PrimitiveDateTime::parse(date, form).ok()?;
    Some(parsed.assume_utc().unix_timestamp() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_frigates_clock() {
        assert_eq!(
            seconds_of("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(784_111_777.0)
        );
        for wrong in ["", "yesterday", "Sun, 31 Feb 1994 08:49:37 GMT"] {
            assert_eq!(seconds_of(wrong), None);
        }
    }

    #[test]
    fn names_are_listed_with_escapes() {
        let names = ["person", "a&b,c"].map(String::from);
        assert_eq!(listed(&names), "person,a%26b%2Cc");
        assert_eq!(listed(&["front_door".into()]), "front%5Fdoor");
    }
}
