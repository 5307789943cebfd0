//! The LAN page, the reading half of the HTTP API, live events and metrics, and the access layer
//! before all of the LAN's routes. It changes nothing.
//!
//! Submitting pictures is in `sources::http`, every other change in `api`; their routes are merged
//! with these.

pub mod api;
mod assets;
pub mod auth;
pub mod breaker;
mod charts;
mod encoding;
mod live;
mod metrics;
pub mod page;
pub mod rejected;
mod relative;
mod wording;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::people::People;
use crate::problem::{Problem, ProblemDetails};
use crate::status::disk::Disk;
use crate::status::health::Health;
use crate::status::thermal::Board;
use crate::store::Store;

/// Version shown on the page, in the API and in the metrics.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything the page reads; clones share it.
#[derive(Clone)]
pub struct Web {
    /// Images, people, results.
    pub store: Store,
    /// State of each part.
    pub health: Health,
    /// Engines, breaker and gallery.
    pub people: People,
    /// Room on the disk.
    pub disk: Disk,
    /// Temperature and throttling.
    pub board: Board,
    /// Name of this device.
    pub device: String,
    /// MQTT topic that takes paths, for the example on an empty board.
    pub topic: String,
    /// The OpenAPI document of `/v1`; set when all routes are known.
    pub document: Arc<OnceLock<Value>>,
    /// Cancelled when the server stops, so that live pages do not delay it.
    pub stop: CancellationToken,
}

/// The reading half of `/v1`, with its documentation.
pub fn api(web: Web) -> OpenApiRouter {
    api::routes()
        .layer(axum::middleware::from_fn(api::etags))
        .with_state(web)
}

/// Pages, and routes for machines beside `/v1`.
pub fn router(web: Web) -> Router {
    Router::new()
        .merge(page::routes())
        .route("/assets/{file}", get(assets::asset))
        .route("/events", get(live::events))
        .route("/v1/status", get(api::status))
        .route("/openapi.json", get(document))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(api::ready))
        .route("/metrics", get(metrics::metrics))
        .with_state(web)
}

/// Completes the routes of the control socket: every user who may open it may change things.
pub fn dress(routes: Router) -> Router {
    outermost(complete(routes), Framing::by(&[]))
}

/// Completes the routes of the LAN with the access layer and the routes to log in and out.
pub fn guarded(routes: Router, access: auth::Access) -> Router {
    let framing = access.framing();
    let guard = axum::middleware::from_fn_with_state(access.clone(), auth::guard);
    outermost(
        complete(routes.merge(auth::routes(access))).layer(guard),
        framing,
    )
}

/// Serves the same routes also below the path of a proxy.
pub fn below(path: &str, routes: Router) -> Router {
    if path.is_empty() {
        routes
    } else {
        Router::new()
            .nest(path, routes.clone())
            .fallback_service(routes)
    }
}

/// Adds the layers that apply to every answer.
fn outermost(routes: Router, framing: Framing) -> Router {
    routes
        .layer(axum::middleware::from_fn_with_state(
            framing,
            forbid_foreign_code,
        ))
        .layer(axum::middleware::from_fn(relative::relative))
}

/// Origins that may embed our pages and pictures.
#[derive(Debug, Clone)]
pub struct Framing {
    policy: HeaderValue,
    pictures: HeaderValue,
}

impl Framing {
    /// Allows these origins; without any, none may embed.
    pub fn by(origins: &[String]) -> Self {
        let ancestors = if origins.is_empty() {
            "'none'".into()
        } else {
            format!("'self' {}", origins.join(" "))
        };
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             base-uri 'none'; form-action 'self'; frame-ancestors {ancestors}"
        );
        let pictures = if origins.is_empty() {
            "same-origin"
        } else {
            "cross-origin"
        };
        Self {
            // The origins were validated; any other text would mean that none may embed.
            policy: HeaderValue::from_str(&policy)
                .unwrap_or(HeaderValue::from_static("default-src 'none'")),
            pictures: HeaderValue::from_static(pictures),
        }
    }
}

/// Adds the answers for unknown routes and the decoding of bodies.
fn complete(routes: Router) -> Router {
    let routes = routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed);
    routes.layer(axum::middleware::from_fn(encoding::undo))
}

/// OpenAPI 3.1 of `/v1`, made from the code.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "kithd",
        description = "Pictures in, names out. Reading is open unless the operator closed it; every change needs the \
                       administrator's token (`kithd token`). Errors are RFC 9457 problem details."
    ),
    components(schemas(ProblemDetails)),
    tags(
        (name = "images", description = "Pictures to identify, and their results"),
        (name = "people", description = "Enrolled people and their pictures"),
        (name = "strangers", description = "Unknown faces, grouped by likeness"),
        (name = "messages", description = "MQTT messages that were refused and are kept"),
        (name = "board", description = "Engine, circuit breaker, health, backup")
    )
)]
pub struct Document;

/// `GET /openapi.json`.
async fn document(State(web): State<Web>, headers: HeaderMap) -> Response {
    match web.document.get() {
        Some(document) => with_etag(&headers, "application/json", document.to_string()),
        None => Problem::later("kithd is starting.").into_response(),
    }
}

async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    if accepts_html(request.headers()) && !path.starts_with("/v1/") {
        return page::notice(
            StatusCode::NOT_FOUND,
            format!("There is no page at {path}."),
        );
    }
    Problem::not_found(format!("There is nothing at {path}.")).into_response()
}

async fn method_not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{path} does not take {method}."),
    )
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/html"))
}

/// Sets the content security policy: paths and names are untrusted, so only our own files may run
/// or be loaded, and only configured origins may embed a page.
async fn forbid_foreign_code(
    State(framing): State<Framing>,
    request: Request,
    next: Next,
) -> Response {
    const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let picture = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"image/"));
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, framing.policy),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        // Without a referrer, browsers send the page's own forms with an Origin of "null".
        (header::REFERRER_POLICY, SAME_ORIGIN),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            if picture {
                framing.pictures
            } else {
                SAME_ORIGIN
            },
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            SAME_ORIGIN,
        ),
    ] {
        headers.insert(name, value);
    }
    // Faces and names: every browser asks again, and no shared cache keeps them. Assets set their
    // own header.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("private, no-cache"));
    response
}

/// Returns bytes with an ETag, or 304 if the browser has them already.
fn with_etag(headers: &HeaderMap, kind: &'static str, bytes: impl Into<Bytes>) -> Response {
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
fn cut<T>(rows: &mut Vec<T>, limit: usize) -> Option<&T> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    rows.last().filter(|_| more)
}

/// Returns the short name of a content: the first 16 hex digits of its SHA-256.
fn fingerprint(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
