//! Errors of the API as RFC 9457 problem details: a status and a sentence. Pages show their own
//! notice.

use std::collections::BTreeMap;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response as Documented, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::store::StoreError;

/// An error response; `type` is `about:blank`, so the title is the status' own phrase.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    again: bool,
    report: Option<Value>,
}

/// Seconds after which a temporarily refused request may be sent again.
const RETRY_AFTER: &str = "10";

impl Problem {
    /// Makes a response with this status and a sentence for the client.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            again: false,
            report: None,
        }
    }

    /// 503: refused for now; the same request may succeed later.
    pub fn later(detail: impl Into<String>) -> Self {
        Self {
            again: true,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }

    /// Adds the outcome for a picture that was not enrolled.
    pub fn with_report(mut self, report: Value) -> Self {
        self.report = Some(report);
        self
    }

    /// 400: the request makes no sense.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Returns status and sentence, for a page that shows the same.
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
        // The details may name folders of the board, so they go to the log only.
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
        // For the layer that shows problems as pages.
        let problem = self.clone();
        let body = ProblemDetails {
            kind: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.detail,
            report: self.report,
        };
        // Serialising plain text and a number cannot fail.
        let body = serde_json::to_string(&body).unwrap_or_default();
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let again = self.again.then_some([(header::RETRY_AFTER, RETRY_AFTER)]);
        let mut response = (self.status, kind, again, body).into_response();
        response.extensions_mut().insert(problem);
        response
    }
}

/// RFC 9457.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemDetails {
    /// Always about:blank: the status says which kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status' own phrase.
    title: &'static str,
    /// HTTP status.
    status: u16,
    /// A sentence that says which thing failed, why, and the remedy.
    detail: String,
    /// The outcome for a picture that was not enrolled, as in the answer for one that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    report: Option<Value>,
}

/// Error responses that any request may get.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<Documented>> {
        let content = || {
            let schema = Ref::from_schema_name("ProblemDetails");
            ContentBuilder::new().schema(Some(schema)).build()
        };
        let answers = [
            (400, "The request is malformed"),
            (401, "The request needs the administrator's token"),
            (403, "This client may not make this request"),
            (404, "There is nothing under this path or number"),
            (405, "The path does not allow this method"),
            (408, "The request did not end in time"),
            (409, "The current state does not allow this request"),
            (411, "The request needs the length of its body"),
            (413, "The body is too large"),
            (415, "The content type is not supported"),
            (421, "The Host header names no address of this board"),
            (422, "The request is well formed but cannot be carried out"),
            (431, "The header is too large"),
            (500, "The database could not be read"),
            (
                503,
                "kithd cannot do this now; Retry-After says when to try again",
            ),
        ];
        let documented = |(status, text): (u16, &str)| {
            let response = ResponseBuilder::new()
                .description(text)
                .content("application/problem+json", content());
            (status.to_string(), RefOr::T(response.build()))
        };
        answers.into_iter().map(documented).collect()
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
