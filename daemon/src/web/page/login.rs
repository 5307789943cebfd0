//! The page to log in with the token. Who is let in is decided in `web::auth`.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::{Frame, Visit, bare_frame, filled};

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    /// Where to go after it.
    next: String,
    /// Why the last try did not work.
    refused: Option<String>,
    /// Somebody is logged in already.
    known: bool,
}

/// The form, or for somebody logged in the way on and, in the frame, out.
pub fn form(visit: Visit, next: String) -> Response {
    let known = visit.csrf.is_some();
    // A way out, but none to this very page.
    let frame = bare_frame(if known { visit } else { Visit::default() });
    filled(&LoginPage {
        frame,
        next,
        refused: None,
        known,
    })
}

/// The form again, with why it did not work.
pub fn refused(status: StatusCode, next: String, refused: String) -> Response {
    let frame = bare_frame(Visit::default());
    (
        status,
        filled(&LoginPage {
            frame,
            next,
            refused: Some(refused),
            known: false,
        }),
    )
        .into_response()
}
