//! Common parts of requests and answers: ids, limits, moments, ETags.

use std::collections::HashMap;

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};
use utoipa::IntoParams;

use crate::domain::Origin;
use crate::problem::Problem;

/// Characters of a query's value that are escaped: all but RFC 3986's unreserved ones and `/`.
pub const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'/')
    .remove(b'_')
    .remove(b'~');

const DEFAULT_LIMIT: u32 = 50;
const MOST: u32 = 500;

/// Position in a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default, deny_unknown_fields)]
pub struct PageQuery {
    /// Most entries in the answer; 50 by default.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
    /// `next_cursor` of the previous page.
    #[param(minimum = 1)]
    pub cursor: Option<i64>,
}

impl PageQuery {
    /// Returns the limit and the cursor.
    pub fn read(self) -> Result<(usize, Option<i64>), Problem> {
        let limit = limit(self.limit)?;
        let cursor = self
            .cursor
            .map(|cursor| number(cursor, "cursor"))
            .transpose()?;
        Ok((limit, cursor))
    }
}

/// A parsed query; an invalid one becomes a problem with a sentence.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        query
            .map(|Query(query)| Self(query))
            .map_err(|error| Problem::bad_request(format!("{}.", error.body_text())))
    }
}

/// The `{id}` of a URL; anything else, even bytes that are no text, becomes a problem with a
/// sentence.
pub struct Id(pub i64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let id = path
            .ok()
            .and_then(|Path(mut path)| path.remove("id"))
            .unwrap_or_default();
        let parsed = id
            .parse()
            .ok()
            .filter(|number| *number > 0 && id == format!("{number}"));
        parsed.map(Self).ok_or_else(|| {
            Problem::bad_request(format!("An id is a whole number from 1, not \"{id}\"."))
        })
    }
}

/// Checks an id in a query.
pub fn number(number: i64, name: &str) -> Result<i64, Problem> {
    let refused = || {
        Problem::bad_request(format!(
            "\"{name}\" is a whole number from 1, not {number}."
        ))
    };
    (number > 0).then_some(number).ok_or_else(refused)
}

/// Checks the limit of a list.
pub fn limit(limit: Option<u32>) -> Result<usize, Problem> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let refused = || {
        Problem::bad_request(format!(
            "\"limit\" is a whole number from 1 to {MOST}, not {limit}."
        ))
    };
    (1..=MOST)
        .contains(&limit)
        .then_some(limit as usize)
        .ok_or_else(refused)
}

fn milliseconds(moment: OffsetDateTime) -> Option<i64> {
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000).ok()
}

pub fn rfc3339(text: &str) -> Result<i64, Problem> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .and_then(milliseconds);
    let refused = || {
        Problem::bad_request(format!(
            "A moment is written like 2026-11-24T07:21:05Z, not \"{text}\"."
        ))
    };
    parsed.ok_or_else(refused)
}

/// Checks a camera's name or an event's id.
pub fn origin(parameter: &str, text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if !Origin::is_valid(&text) => Err(Problem::bad_request(format!(
            "\"{parameter}\" is 1 to 64 letters, digits, dots, - or _."
        ))),
        text => Ok(text),
    }
}

/// Parses a moment as browsers' forms send it: a date with or without a time, UTC; or RFC 3339.
pub fn moment(text: &str) -> Result<i64, Problem> {
    let minutes = format_description!("[year]-[month]-[day]T[hour]:[minute]");
    let seconds = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let day = format_description!("[year]-[month]-[day]");
    let typed = PrimitiveDateTime::parse(text, seconds)
        .or_else(|_| PrimitiveDateTime::parse(text, minutes))
        .or_else(|_| Date::parse(text, day).map(|day| day.with_time(Time::MIDNIGHT)));
    typed
        .ok()
        .and_then(|typed| milliseconds(typed.assume_utc()))
        .map_or_else(|| rfc3339(text), Ok)
}

/// Adds ETags to JSON, and answers 304 if the client has the same already.
pub async fn etags(request: Request, next: Next) -> Response {
    let get = request.method() == axum::http::Method::GET;
    let headers = request.headers().clone();
    let response = next.run(request).await;
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    if !get || !json || response.status() != StatusCode::OK {
        return response;
    }
    // Our own answers are complete in memory already.
    match response.into_body().collect().await {
        Ok(body) => with_etag(&headers, "application/json", body.to_bytes()),
        Err(_) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "The answer could not be completed.",
        )
        .into_response(),
    }
}

/// Parses the number in "7.jpg", accepting only its canonical spelling.
pub fn jpeg_number(file: &str) -> Option<i64> {
    let digits = file.strip_suffix(".jpg")?;
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    (digits == format!("{number}")).then_some(number)
}

/// Parses the digits of a cursor.
pub fn digits(text: &str) -> Option<i64> {
    let digits = (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Returns bytes with an ETag, or 304 if the browser has them already.
pub fn with_etag(headers: &HeaderMap, kind: &'static str, bytes: impl Into<Bytes>) -> Response {
    let bytes = bytes.into();
    let etag = format!("\"{}\"", fingerprint(&bytes));
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| {
        known
            .split(',')
            .any(|one| one.trim().trim_start_matches("W/") == etag)
    }) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    (
        [(header::ETAG, etag), (header::CONTENT_TYPE, kind.into())],
        bytes,
    )
        .into_response()
}

/// Cuts a list that was requested with one more than `limit`; returns the last remaining entry if
/// more follow.
pub fn cut<T>(rows: &mut Vec<T>, limit: usize) -> Option<&T> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    rows.last().filter(|_| more)
}

/// Returns the short name of a content: the first 16 hex digits of its SHA-256.
pub fn fingerprint(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_machines_browsers_and_people_write_them() {
        let ms = |text: &str| moment(text).unwrap();
        assert_eq!(ms("1970-01-02T00:00:00Z"), 86_400_000);
        assert_eq!(ms("1970-01-02T01:00:00.5+01:00"), 86_400_500);
        assert_eq!(ms("1970-01-02T00:00"), 86_400_000);
        assert_eq!(ms("1970-01-02"), 86_400_000);
        for text in [
            "",
            "yesterday",
            "86400000",
            "1970-13-01",
            "1970-01-02T25:00",
        ] {
            assert!(moment(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_picture_has_one_name() {
        assert_eq!(jpeg_number("7.jpg"), Some(7));
        for file in ["07.jpg", "+7.jpg", "0.jpg", "7.png", ".jpg"] {
            assert_eq!(jpeg_number(file), None, "{file}");
        }
    }
}
