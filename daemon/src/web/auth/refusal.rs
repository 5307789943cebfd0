//! Refusals of the access layer, and their answers: a problem, or for browsers the login page.

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use percent_encoding::utf8_percent_encode;

use crate::api::request::QUERY_VALUE;
use crate::problem::Problem;

/// The challenge of a 401.
pub const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"kithd\"");

/// Reasons why a request is refused.
pub enum Refusal {
    /// The request names this host, which is not the board's.
    Misdirected(String),
    /// The request lacks the token.
    NobodyKnown,
    /// The request lacks the token and comes from a proxy on the board.
    ByProxy,
    /// The token is wrong.
    WrongToken,
    /// A foreign page made the browser send it.
    Foreign,
    /// It lacks the CSRF token that only our pages know.
    Unsigned,
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::NobodyKnown | Self::ByProxy | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::Foreign | Self::Unsigned => StatusCode::FORBIDDEN,
        }
    }

    pub fn sentence(&self) -> String {
        let sentence = match self {
            Self::Misdirected(name) => {
                return format!(
                    "The request was sent to {name}, which is not a name of this board; if it should be, add it to http.names in \
                     the configuration."
                );
            }
            Self::NobodyKnown => {
                "This needs the administrator's token, which the command kithd token shows on the board. Programs send it \
                 as \"Authorization: Bearer TOKEN\", or as the password of Basic authentication with any user name."
            }
            Self::ByProxy => {
                "The request came by a proxy, or in HTTP/1.0 as proxies send it, so it does not count as the board's own and needs the administrator's token \
                 (kithd token), as \"Authorization: Bearer TOKEN\" or as the password of Basic authentication; or set \
                 http.open_submit."
            }
            Self::WrongToken => {
                "That is not the administrator's token; the command kithd token shows it on the board."
            }
            Self::Foreign => "The request was made by a page that is not this board's own.",
            Self::Unsigned => "The form is out of date; load its page again and send it once more.",
        };
        sentence.into()
    }

    /// Makes the response: a problem, or a page for people. If only the token is missing, it asks
    /// for one.
    pub fn answer(&self, html: bool, next: Option<&Uri>) -> Response {
        let status = self.status();
        if html && status == StatusCode::UNAUTHORIZED {
            let next = next
                .and_then(Uri::path_and_query)
                .map_or("/", |next| next.as_str());
            let next = utf8_percent_encode(next, QUERY_VALUE);
            return Redirect::to(&format!("/login?next={next}")).into_response();
        }
        let mut response = Problem::new(status, self.sentence()).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.append(header::WWW_AUTHENTICATE, BEARER);
            // If only the session of our page expired, browsers would show their own password
            // dialog.
            if next.is_none() {
                let basic = HeaderValue::from_static("Basic realm=\"kithd\", charset=\"UTF-8\"");
                headers.append(header::WWW_AUTHENTICATE, basic);
            }
        }
        response
    }
}
