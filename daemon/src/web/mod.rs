//! The LAN page, live events and metrics, and the access layer before all of the LAN's routes. It
//! changes nothing.
//!
//! Submitting pictures is in `sources::http`, `/v1` and every other change in `api`; their routes
//! are merged with these.

mod assets;
pub mod auth;
mod charts;
mod encoding;
mod events;
mod format;
mod login;
mod metrics;
pub mod page;
mod relative;
mod visitor;

#[cfg(test)]
mod tests;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;

use crate::api::{self, View};
use crate::problem::Problem;
pub use assets::ASSETS;

/// Pages, and routes for machines beside `/v1`.
pub fn router(view: View) -> Router {
    Router::new()
        .merge(page::routes())
        .route("/assets/{file}", get(assets::asset))
        .route("/events", get(events::events))
        .route("/v1/status", get(api::health::status))
        .route("/openapi.json", get(api::document))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(api::health::ready))
        .route("/metrics", get(metrics::metrics))
        .with_state(view)
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
        complete(routes.merge(login::routes(access))).layer(guard),
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
        .layer(axum::middleware::from_fn(problems_as_pages))
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

async fn not_found(request: Request) -> Problem {
    let path = request.uri().path();
    Problem::not_found(format!("There is nothing at {path}."))
}

async fn method_not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{path} does not take {method}."),
    )
}

/// Shows a problem as a page to browsers. Clients of the API get it as JSON.
async fn problems_as_pages(request: Request, next: Next) -> Response {
    let page = wants_page(&request);
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) if page => {
            let (status, sentence) = problem.into_parts();
            let mut shown = page::notice(status, sentence);
            // Retry-After and WWW-Authenticate stay.
            for (name, value) in response.headers() {
                if !matches!(*name, header::CONTENT_TYPE | header::CONTENT_LENGTH) {
                    shown.headers_mut().append(name, value.clone());
                }
            }
            shown
        }
        _ => response,
    }
}

/// Returns true if a browser asks for a page. `/v1` answers every client in JSON.
fn wants_page(request: &Request) -> bool {
    accepts_html(request.headers()) && !request.uri().path().starts_with("/v1/")
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
