//! Errors of the API as RFC 9457 problem details: a status and a sentence. Pages have their own notice.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::store::StoreError;

/// An error answer; `type` is `about:blank`, so the title is the status' own phrase.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    again: bool,
}

/// Seconds after which something refused for now may be sent again.
const RETRY_AFTER: &str = "10";

impl Problem {
    /// An answer with this status and a sentence for whoever sent the request.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), again: false }
    }

    /// 503: not now; the same request may succeed in a while.
    pub fn later(detail: impl Into<String>) -> Self {
        Self { again: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// 400: the request makes no sense.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Status and sentence, for a page that says the same.
    pub fn into_parts(self) -> (StatusCode, String) {
        (self.status, self.detail)
    }

    /// 404: no such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match error {
            StoreError::Closed | StoreError::DiskFull => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // The details may name folders of the board: they are for the log.
        tracing::error!(%error, "cannot answer a request");
        let detail = match error {
            StoreError::Closed => "kithd is stopping.",
            StoreError::DiskFull => "The disk that holds the database is full.",
            _ => "The database could not be read; kithd's log says why.",
        };
        Self::new(status, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let again = self.again.then_some([(header::RETRY_AFTER, RETRY_AFTER)]);
        (self.status, kind, again, body.to_string()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_sent_again_says_when() {
        let later = Problem::later("the queue is full").into_response();
        assert_eq!(later.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(later.headers()[header::RETRY_AFTER], "10");
        let never = Problem::bad_request("that is no picture").into_response();
        assert!(!never.headers().contains_key(header::RETRY_AFTER));
    }
}
