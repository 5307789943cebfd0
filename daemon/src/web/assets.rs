//! Stylesheet, script and icon, compiled in. Their URLs carry a hash of the content, so browsers keep them for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::fingerprint;
use crate::problem::Problem;

/// URLs for the templates.
pub struct Assets {
    /// Stylesheet.
    pub style: String,
    /// Script.
    pub script: String,
    /// Icon of the tab.
    pub icon: String,
}

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/app.js");
const ICON: &str = include_str!("assets/icon.svg");

/// The URLs of this build.
pub static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
    style: format!("/assets/style-{}.css", fingerprint(STYLE.as_bytes())),
    script: format!("/assets/app-{}.js", fingerprint(SCRIPT.as_bytes())),
    icon: format!("/assets/icon-{}.svg", fingerprint(ICON.as_bytes())),
});

/// `GET /assets/{file}`.
pub async fn asset(Path(file): Path<String>) -> Response {
    let url = format!("/assets/{file}");
    let (kind, content) = match url {
        _ if url == ASSETS.style => ("text/css; charset=utf-8", STYLE),
        _ if url == ASSETS.script => ("text/javascript; charset=utf-8", SCRIPT),
        _ if url == ASSETS.icon => ("image/svg+xml", ICON),
        _ => return Problem::not_found("This build of kithd has no such file; load the page again.").into_response(),
    };
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")], content)
        .into_response()
}
