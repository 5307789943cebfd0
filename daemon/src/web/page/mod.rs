//! The HTML pages, complete without JavaScript, and their common frame.
//!
//! Pages only show; the routes that forms are sent to make the changes.

mod api_docs;
mod calibration;
mod health;
mod image;
mod images;
pub mod login;
mod manual;
mod people;
mod strangers;
mod timeline;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::str::FromStr;

use askama::Template;
use axum::Router;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;

use super::assets::{ASSETS, Assets};
use super::format;
use super::visitor::Visitor;
use crate::api::request::QUERY_VALUE;
use crate::api::{VERSION, View};
use crate::domain::{Moment, wall_clock_ms};
use crate::problem::Problem;

/// Longest sentence that is repeated on a page, in characters.
const SENTENCE: usize = 400;

/// Routes of all pages.
pub fn routes() -> Router<View> {
    Router::new()
        .route("/", get(images::show))
        .route("/images/{id}", get(image::show))
        .route("/sightings", get(timeline::show))
        .route("/people", get(people::list))
        .route("/people/{id}", get(people::one))
        .route("/strangers", get(strangers::list))
        .route("/strangers/{id}", get(strangers::one))
        .route("/health", get(health::show))
        .route("/calibration", get(calibration::show))
        .route("/api", get(api_docs::show))
        .route("/docs", get(manual::first))
        .route("/docs/{*name}", get(manual::one))
}

/// The content around every page.
pub struct Frame {
    assets: &'static Assets,
    version: &'static str,
    device: String,
    /// Name of the engine, once it is up.
    engine: Option<String>,
    /// The entry of the navigation that this page belongs to.
    here: &'static str,
    visit: Visit,
    /// Time of the page by the board's clock, so that ages are right whatever the reader's clock
    /// says.
    now_ms: i64,
}

/// The visitor of a page, the page's address, and the outcome of a form sent before.
#[derive(Default)]
pub struct Visit {
    /// CSRF token of a logged-in visitor.
    csrf: Option<String>,
    /// Address of this page for the return from the login; empty if there is nothing to return to.
    address: String,
    notice: Option<Notice>,
}

/// The outcome of a form sent before.
struct Notice {
    refused: bool,
    sentence: String,
}

#[derive(Deserialize)]
struct NoticeQuery {
    done: Option<String>,
    refused: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Visit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let query = Query::<NoticeQuery>::try_from_uri(&parts.uri).ok();
        let notice = query.and_then(|Query(query)| {
            let refused = query.refused.is_some();
            let sentence = query
                .refused
                .or(query.done)?
                .chars()
                .take(SENTENCE)
                .collect();
            Some(Notice { refused, sentence })
        });
        let visitor = parts
            .extensions
            .get::<Visitor>()
            .cloned()
            .unwrap_or_default();
        let address = parts
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default();
        Ok(Self {
            csrf: visitor.csrf,
            address,
            notice,
        })
    }
}

/// The number at the end of a page's address; anything else becomes a page with a sentence.
pub struct Number(i64);

impl<S: Send + Sync> FromRequestParts<S> for Number {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await;
        let text = path
            .ok()
            .and_then(|Path(mut path)| path.remove("id"))
            .unwrap_or_default();
        let number = text.parse().ok().filter(|number| *number > 0);
        number.map(Self).ok_or_else(|| {
            let sentence = format!(
                "The address of this page ends in a whole number from 1, not in \"{text}\"."
            );
            Problem::bad_request(sentence)
        })
    }
}

/// Result of a page's handler.
type Page = Result<Response, Problem>;

#[derive(Template)]
#[template(path = "notice.html")]
struct NoticePage {
    frame: Frame,
    title: &'static str,
    sentence: String,
}

/// Makes a page with a single sentence.
pub fn notice(status: StatusCode, sentence: String) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let frame = bare_frame(Visit::default());
    let mut page = filled(&NoticePage {
        frame,
        title,
        sentence,
    });
    *page.status_mut() = status;
    page
}

/// Makes the frame of a page without data of the board.
fn bare_frame(visit: Visit) -> Frame {
    let (device, engine) = (String::new(), None);
    Frame {
        assets: &ASSETS,
        version: VERSION,
        device,
        engine,
        here: "",
        visit,
        now_ms: wall_clock_ms(),
    }
}

/// Makes the frame of a page.
pub fn frame(view: &View, visit: Visit, here: &'static str) -> Frame {
    let report = Some(view.people.engines.report());
    let engine = report
        .filter(|report| report.primary.up)
        .map(|report| report.primary.name());
    let device = view.device.clone();
    Frame {
        assets: &ASSETS,
        version: VERSION,
        device,
        engine,
        here,
        visit,
        now_ms: wall_clock_ms(),
    }
}

/// Renders a page.
pub fn filled(page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => Html(html).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot fill in a page");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The page could not be made.",
            )
            .into_response()
        }
    }
}

/// Returns the distance below which two faces are one person, once the model pack is loaded.
fn threshold(view: &View) -> Option<f32> {
    view.people.threshold()
}

/// Parses a field of the filter; an empty one means no filter.
fn word<T: FromStr>(name: &str, text: &str) -> Result<Option<T>, Problem> {
    let wrong = || {
        Problem::bad_request(format!(
            "\"{text}\" is not a value of \"{name}\"; go back and choose again."
        ))
    };
    if text.is_empty() {
        Ok(None)
    } else {
        Ok(Some(text.parse().map_err(|_| wrong())?))
    }
}

/// Returns the address of a page at `path` with the given fields of its filter that are not empty.
fn address(path: &str, fields: &[(&str, &String)], cursor: Option<i64>) -> String {
    let cursor = cursor.map(|id| id.to_string()).unwrap_or_default();
    let given: Vec<_> = fields
        .iter()
        .chain(&[("cursor", &cursor)])
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, QUERY_VALUE)))
        .collect();
    if given.is_empty() {
        path.into()
    } else {
        format!("{path}?{}", given.join("&"))
    }
}

/// Returns true if a field of the filter has this value.
fn has(fields: &[(&str, &String)], field: &str, value: impl Display) -> bool {
    let value = value.to_string();
    fields
        .iter()
        .any(|(name, text)| *name == field && **text == value)
}

/// Returns the text of a field; an empty one means no filter.
fn text(field: &str) -> Option<String> {
    Some(field.trim().to_owned()).filter(|text| !text.is_empty())
}

/// A moment and its age.
struct Ago {
    moment: Moment,
    age: String,
    past: String,
}

impl Ago {
    fn new(at_ms: i64, now_ms: i64) -> Self {
        let ms = now_ms - at_ms;
        Self {
            moment: Moment::from_ms(at_ms),
            age: format::age(ms),
            past: format::past(ms),
        }
    }
}

impl Frame {
    fn ago(&self, at_ms: i64) -> Ago {
        Ago::new(at_ms, self.now_ms)
    }
}
