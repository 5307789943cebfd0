//! One notification as an HTTP request, JSON for a webhook or as ntfy takes it, and what the
//! answer means.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use ring::hmac;
use serde::Serialize;

use super::words::Words;
use crate::config::{Notify, PasswordFile, Service, read_password};
use crate::domain::{Outcome, SightingMessage, hex};
use crate::http_client::{Client, HttpError, Timeouts};

/// Limits of the time that a target takes.
const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    answer: Duration::from_secs(20),
    quiet: Duration::from_secs(10),
    body: Duration::from_secs(10),
};
/// Longest wait that a target may ask for.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(900);
/// Bytes of a piece of an encoded header (RFC 2047 allows 75 characters, with 12 around it).
const ENCODED_PIECE: usize = 45;

/// A picture that goes with a notification.
#[derive(Debug, Clone)]
pub struct Picture {
    /// `face` or `picture`.
    pub kind: &'static str,
    /// JPEG.
    pub jpeg: Bytes,
}

/// A notification.
#[derive(Debug)]
pub struct Notification<'a> {
    /// Id, the same in every repetition.
    pub uid: &'a str,
    /// True if nothing was seen.
    pub test: bool,
    /// The sighting.
    pub message: &'a SightingMessage,
    /// Title and text.
    pub words: Words,
    /// Picture.
    pub picture: Option<Picture>,
}

/// Result of sending.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// The target has it; the sentence says what it does not have, if anything.
    Taken(Option<String>),
    /// The target will never take it; a sentence.
    Refused(String),
    /// It may take it later; a sentence, and the wait that it asks for.
    Later(String, Option<Duration>),
}

/// The body of a webhook's request.
#[derive(Serialize)]
struct Body<'a> {
    notification_id: &'a str,
    name: &'a str,
    test: bool,
    title: &'a str,
    text: &'a str,
    url: Option<String>,
    #[serde(flatten)]
    sighting: &'a SightingMessage,
    #[serde(skip_serializing_if = "Option::is_none")]
    face: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<String>,
}

/// Sends a notification to its target. `wall_ms` dates the signature.
pub async fn send(target: &Notify, notification: &Notification<'_>, wall_ms: i64) -> Answer {
    let sent = match &target.service {
        Service::Webhook { .. } => post(target, notification, wall_ms).await,
        Service::Ntfy { .. } => publish(target, notification).await,
    };
    sent.unwrap_or_else(|refused| refused)
}

async fn post(
    target: &Notify,
    notification: &Notification<'_>,
    wall_ms: i64,
) -> Result<Answer, Answer> {
    let body = webhook_body(target, notification);
    let mut headers = authorization(target)?;
    let id = HeaderName::from_static("idempotency-key");
    headers.extend(
        HeaderValue::from_str(notification.uid)
            .ok()
            .map(|uid| (id, uid)),
    );
    if let Service::Webhook {
        secret_file: Some(file),
    } = &target.service
    {
        let secret = read("secret_file", file)?;
        headers.extend(signature(secret.as_bytes(), wall_ms / 1000, &body));
    }
    let login = target.login.as_ref().map(PasswordFile::login).transpose();
    let login = login.map_err(|why| Answer::Later(why, None))?;
    let mut client = Client::new(
        target.address.clone(),
        login,
        target.trust.clone(),
        TIMEOUTS,
    );
    let sent = client
        .post(&target.path.0, "application/json", &headers, body.into())
        .await;
    let sent = sent.map(|response| (response.status, response.headers.clone()));
    Ok(answer(target, sent))
}

async fn publish(target: &Notify, notification: &Notification<'_>) -> Result<Answer, Answer> {
    let headers = ntfy_headers(target, notification)?;
    let mut client = Client::new(target.address.clone(), None, target.trust.clone(), TIMEOUTS);
    let text = Bytes::from(notification.words.text.clone());
    if let Some(picture) = &notification.picture {
        let mut headers = headers.clone();
        let name = HeaderValue::from_static(match picture.kind {
            "face" => "face.jpg",
            _ => "picture.jpg",
        });
        headers.push((HeaderName::from_static("filename"), name));
        // A header has one line; ntfy reads these two signs as the end of one.
        let text = notification.words.text.replace('\n', "\\n");
        headers.push((HeaderName::from_static("message"), header_value(&text)?));
        let sent = client
            .put(&target.path.0, "image/jpeg", &headers, picture.jpeg.clone())
            .await;
        let sent = sent.map(|response| (response.status, response.headers.clone()));
        // These say that the server takes no files, or none of this size.
        if !matches!(
            sent,
            Ok((StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, _))
        ) {
            return Ok(answer(target, sent));
        }
    }
    let sent = client
        .post(&target.path.0, "text/plain; charset=utf-8", &headers, text)
        .await;
    let sent = sent.map(|response| (response.status, response.headers.clone()));
    Ok(match (answer(target, sent), &notification.picture) {
        (Answer::Taken(None), Some(_)) => Answer::Taken(Some(format!(
            "{} takes no attachments, or none of this size: sent without the picture; set \
             attachment-cache-dir there, or attach = \"none\" here",
            target.address
        ))),
        (answer, _) => answer,
    })
}

fn webhook_body(target: &Notify, notification: &Notification<'_>) -> Vec<u8> {
    let Words { title, text } = &notification.words;
    let picture = |kind| {
        let picture = notification.picture.as_ref();
        let picture = picture.filter(|picture| picture.kind == kind);
        picture.map(|picture| BASE64_STANDARD.encode(&picture.jpeg))
    };
    let body = Body {
        notification_id: notification.uid,
        name: &target.name,
        test: notification.test,
        title,
        text,
        url: url(target, notification.message),
        sighting: notification.message,
        face: picture("face"),
        picture: picture("picture"),
    };
    // No value of these types fails to be written.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// Returns the address on kithd's page that shows the sighting's best picture.
fn url(target: &Notify, message: &SightingMessage) -> Option<String> {
    let page = target.page.as_ref()?;
    Some(match &message.after.face {
        Some(face) => format!("{page}/images/{}", face.image_id),
        None => format!("{page}/"),
    })
}

/// Returns the time in seconds since 1970 and the signature of `time.body`.
fn signature(secret: &[u8], seconds: i64, body: &[u8]) -> [(HeaderName, HeaderValue); 2] {
    let mut signing = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    signing.update(format!("{seconds}.").as_bytes());
    signing.update(body);
    let signature = format!("sha256={}", hex(signing.sign().as_ref()));
    // Digits and letters are valid in a header.
    let signature = HeaderValue::from_str(&signature).unwrap_or(HeaderValue::from_static(""));
    [
        (
            HeaderName::from_static("x-kithd-timestamp"),
            HeaderValue::from(seconds),
        ),
        (HeaderName::from_static("x-kithd-signature-256"), signature),
    ]
}

fn ntfy_headers(
    target: &Notify,
    notification: &Notification<'_>,
) -> Result<Vec<(HeaderName, HeaderValue)>, Answer> {
    let mut headers = authorization(target)?;
    if let Some(login) = &target.login {
        // ntfy asks for no login, so it is sent at once.
        let login = login.login().map_err(|why| Answer::Later(why, None))?;
        let pair = BASE64_STANDARD.encode(format!("{}:{}", login.user, login.password));
        headers.push(secret_header(&format!("Basic {pair}"))?);
    }
    let tag = match notification.message.after.outcome {
        _ if notification.test => "white_check_mark",
        Outcome::Known => "bust_in_silhouette",
        Outcome::Uncertain => "grey_question",
        Outcome::Unknown | Outcome::NoFace => "warning",
    };
    let mut add = |name: &'static str, value| headers.push((HeaderName::from_static(name), value));
    add("title", header_value(&notification.words.title)?);
    add("tags", HeaderValue::from_static(tag));
    if let Service::Ntfy {
        priority: Some(priority),
    } = target.service
    {
        add("priority", HeaderValue::from(priority));
    }
    if let Some(url) = url(target, notification.message) {
        add("click", header_value(&url)?);
    }
    // Subscribers show a repetition in the place of the first one.
    add("x-sequence-id", header_value(notification.uid)?);
    Ok(headers)
}

fn authorization(target: &Notify) -> Result<Vec<(HeaderName, HeaderValue)>, Answer> {
    let Some(file) = &target.token_file else {
        return Ok(Vec::new());
    };
    let token = read("token_file", file)?;
    Ok(vec![secret_header(&format!("Bearer {token}"))?])
}

fn secret_header(text: &str) -> Result<(HeaderName, HeaderValue), Answer> {
    let value = HeaderValue::from_str(text);
    let mut value = value.map_err(|_| {
        let why = "token or password has characters that no header can have; check its file";
        Answer::Later(why.into(), None)
    })?;
    value.set_sensitive(true);
    Ok((AUTHORIZATION, value))
}

fn read(key: &str, file: &Path) -> Result<String, Answer> {
    let why = match read_password(file) {
        Ok(secret) if !secret.trim().is_empty() => return Ok(secret.trim().to_owned()),
        Ok(_) => "is empty".to_owned(),
        Err(error) => format!("cannot be read: {error}; kithd's user must be able to"),
    };
    Err(Answer::Later(
        format!("{key} = {} {why}", file.display()),
        None,
    ))
}

/// Encodes a text as the value of a header: by RFC 2047 if it is not ASCII.
fn header_value(text: &str) -> Result<HeaderValue, Answer> {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !text.contains("=?");
    let encoded = if plain {
        text.to_owned()
    } else {
        let mut pieces = vec![String::new()];
        for letter in text.chars() {
            if pieces
                .last()
                .is_some_and(|piece| piece.len() + letter.len_utf8() > ENCODED_PIECE)
            {
                pieces.push(String::new());
            }
            if let Some(piece) = pieces.last_mut() {
                piece.push(letter);
            }
        }
        let encode = |piece: &String| format!("=?UTF-8?B?{}?=", BASE64_STANDARD.encode(piece));
        pieces.iter().map(encode).collect::<Vec<_>>().join(" ")
    };
    HeaderValue::from_str(&encoded)
        .map_err(|_| Answer::Refused("its words fit into no header".into()))
}

/// Judges an answer: what is never taken, and what may be taken later.
fn answer(target: &Notify, sent: Result<(StatusCode, HeaderMap), HttpError>) -> Answer {
    let (status, headers) = match sent {
        Ok(answered) => answered,
        Err(error @ HttpError::Unauthorised(..)) => return Answer::Refused(error.to_string()),
        Err(error) => return Answer::Later(error.to_string(), None),
    };
    if status.is_success() {
        return Answer::Taken(None);
    }
    let advice = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "check its token_file, or username and password_file"
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => "check its address",
        StatusCode::PAYLOAD_TOO_LARGE => "it takes less; attach = \"face\" or \"none\" sends less",
        StatusCode::TOO_MANY_REQUESTS => "it takes fewer; raise again_after",
        _ if status.is_redirection() => "configure the address to which it sends on",
        _ => "its log says more",
    };
    let why = format!("{} answers {status}; {advice}", target.address);
    let again = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        );
    if !again {
        return Answer::Refused(why);
    }
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let wait = seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_RETRY_AFTER));
    Answer::Later(why, wait)
}

#[cfg(test)]
mod tests;
