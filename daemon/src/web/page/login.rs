//! The login page. `web::auth` decides who is let in.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::{Frame, Visit, bare_frame, filled};

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    /// Page to go to after the login.
    next: String,
    /// Reason why the last attempt failed.
    refused: Option<String>,
    /// True if the visitor is logged in already.
    known: bool,
}

/// Shows the form, or for a logged-in visitor the link onward and a button to log out.
pub fn form(visit: Visit, next: String) -> Response {
    let known = visit.csrf.is_some();
    // The frame has a button to log out, but no link to this page itself.
    let frame = bare_frame(if known { visit } else { Visit::default() });
    filled(&LoginPage {
        frame,
        next,
        refused: None,
        known,
    })
}

/// Shows the form again with the reason of the failure.
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
