//! Logging in by a form, and out again: the token is exchanged for a session. `auth` keeps both.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Extension, Form, Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use cookie::{Cookie, SameSite};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;

use super::accepts_html;
use super::auth::refusal::{BEARER, Refusal};
use super::auth::request::{AccessRequest, cookie, cookie_name, one};
use super::auth::{Access, LONGEST_SESSION};
use super::page::{self, Visit};
use crate::http_server::Arrival;
use crate::problem::Problem;

const FORM_BYTES: usize = 4096;

/// `/login` and `/logout`.
pub fn routes(access: Access) -> Router {
    Router::new()
        .route("/login", get(login_page).post(login))
        .route("/logout", post(logout))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .with_state(access)
}

#[derive(Deserialize)]
struct Place {
    next: Option<String>,
}

async fn login_page(visit: Visit, place: Result<Query<Place>, QueryRejection>) -> Response {
    page::login::form(
        visit,
        own_place(place.ok().and_then(|Query(place)| place.next)),
    )
}

/// Returns the place if it is on this board; anything that a browser could take for another site
/// becomes the first page.
fn own_place(next: Option<String>) -> String {
    let own = |next: &String| {
        let mut letters = next.chars();
        letters.next() == Some('/')
            && !matches!(letters.next(), Some('/' | '\\'))
            && !next.contains(|c: char| c.is_control() || c == '\\')
    };
    next.filter(own).unwrap_or_else(|| "/".into())
}

#[derive(Deserialize)]
struct LoginForm {
    token: String,
    next: Option<String>,
}

async fn login(
    State(access): State<Access>,
    request_headers: HeaderMap,
    uri: Uri,
    Extension(ConnectInfo(peer)): Extension<ConnectInfo<SocketAddr>>,
    Extension(arrival): Extension<Arrival>,
    form: Result<Form<LoginForm>, FormRejection>,
) -> Response {
    let headers = &request_headers;
    let asked = AccessRequest {
        method: &Method::POST,
        path: "/login",
        query: "",
        version: Version::HTTP_11,
        headers,
        peer: peer.ip(),
        arrival,
        host: uri.authority().map_or_else(
            || one(headers, "host").unwrap_or_default(),
            |authority| authority.as_str(),
        ),
    };
    if asked.of_another_site() && !access.is_origin_of_own_proxy(&asked) {
        return Refusal::Foreign.answer(accepts_html(headers), None);
    }
    let Form(LoginForm { token, next }) = match form {
        Ok(form) => form,
        Err(wrong) => {
            return Problem::new(wrong.status(), "The form has the fields token and next.")
                .into_response();
        }
    };
    let next = own_place(next);
    if let Err(refusal) = access.try_token(peer.ip(), token.trim()) {
        let page = page::login::refused(refusal.status(), next, refusal.sentence());
        return ([(header::WWW_AUTHENTICATE, BEARER)], page).into_response();
    }
    let old = asked.session();
    let Some(id) = access.begin_session(old.as_ref().map(Cookie::value)) else {
        return Problem::later(
            "This board has no random numbers for a session yet; try again in a moment.",
        )
        .into_response();
    };
    let cookie = set_cookie(arrival.encrypted, &id, LONGEST_SESSION);
    ([(header::SET_COOKIE, cookie)], see_other(&next)).into_response()
}

async fn logout(
    State(access): State<Access>,
    headers: HeaderMap,
    Extension(arrival): Extension<Arrival>,
) -> Response {
    if let Some(session) = cookie(&headers, cookie_name(arrival.encrypted)) {
        access.end_session(session.value());
    }
    (
        [(
            header::SET_COOKIE,
            set_cookie(arrival.encrypted, "", Duration::ZERO),
        )],
        see_other("/"),
    )
        .into_response()
}

fn set_cookie(encrypted: bool, value: &str, age: Duration) -> String {
    let cookie = Cookie::build((cookie_name(encrypted), value))
        .max_age(cookie::time::Duration::seconds(age.as_secs().cast_signed()))
        .http_only(true)
        .same_site(SameSite::Strict);
    // Without Path, the cookie applies to everything in the login form's folder, under whatever
    // path a proxy serves this board.
    if encrypted {
        cookie.path("/").secure(true).to_string()
    } else {
        cookie.to_string()
    }
}

/// Redirects to a place as it was typed, or to the first page if it cannot be in a header.
fn see_other(place: &str) -> Response {
    const UNPRINTABLE: &AsciiSet = &CONTROLS.add(b' ');
    let place = utf8_percent_encode(place, UNPRINTABLE).to_string();
    let place = HeaderValue::from_str(&place).unwrap_or(HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response()
}
