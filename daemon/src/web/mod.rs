//! The LAN page, the reading half of the HTTP API, live events and metrics: looks on, and changes nothing but the
//! circuit breaker, from the board itself.
//!
//! Submitting pictures is `sources::http`, whose router is merged with this one.

mod api;
mod assets;
pub mod auth;
mod breaker;
mod live;
mod metrics;
mod page;
mod wording;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::desk::{EngineDesk, GalleryDesk};
use crate::disk::Disk;
use crate::health::Health;
use crate::problem::Problem;
use crate::store::Store;

/// What this program calls itself on the page, in the API and in the metrics.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything the page reads; clones share it.
#[derive(Clone)]
pub struct Web {
    /// Images, people, results.
    pub store: Store,
    /// What each part says of itself.
    pub health: Health,
    /// Engines and breaker, once the model pack is loaded.
    pub desk: watch::Receiver<Option<EngineDesk>>,
    /// What the gallery says of itself, once it is up.
    pub gallery: Arc<dyn Fn() -> Option<GalleryDesk> + Send + Sync>,
    /// Room on the disk.
    pub disk: Disk,
    /// Name of this device.
    pub device: String,
    /// MQTT topic that takes paths, for the example on the empty table.
    pub topic: String,
    /// Cancelled when the server stops, so that live pages do not hold it open.
    pub stop: CancellationToken,
}

/// Every route that only reads.
pub fn router(web: Web) -> Router {
    Router::new()
        .route("/", get(page::images))
        .route("/images/{id}", get(page::image))
        .route("/assets/{file}", get(assets::asset))
        .route("/events", get(live::events))
        .route("/v1/images", get(api::images))
        .route("/v1/images/{id}", get(api::image))
        .route("/v1/images/{id}/thumbnail.jpg", get(api::thumbnail))
        .route("/v1/images/{id}/faces/{file}", get(api::face))
        .route("/v1/status", get(api::status))
        .route("/v1/breaker", get(breaker::show).post(breaker::tell))
        .route("/v1/people", get(api::people))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(api::ready))
        .route("/metrics", get(metrics::metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(axum::middleware::from_fn(guard))
        .with_state(web)
}

async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    if accepts_html(request.headers()) && !path.starts_with("/v1/") {
        return page::notice(StatusCode::NOT_FOUND, format!("There is no page at {path}."));
    }
    Problem::not_found(format!("There is nothing at {path}.")).into_response()
}

async fn method_not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}."))
}

fn accepts_html(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains("text/html"))
}

/// Paths and names come from strangers: nothing but our own files may run or be loaded, and nobody may frame us.
async fn guard(request: Request, next: Next) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Faces and names: every browser asks again, no shared cache keeps them. Assets say otherwise themselves.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    response
}

/// Bytes with an ETag, or 304 when the browser has them already.
fn with_etag(headers: &HeaderMap, kind: &'static str, bytes: Vec<u8>) -> Response {
    let etag = format!("\"{}\"", fingerprint(&bytes));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == etag)) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    ([(header::ETAG, etag), (header::CONTENT_TYPE, kind.into())], bytes).into_response()
}

/// Short name of a content: its sha256's first 16 hex digits.
fn fingerprint(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
