//! Access control of the LAN: the layer before every route, and logging in and out.
//!
//! A change needs the administrator's token, sent as a bearer or as a password, or exchanged for a
//! session by the form; reading and submitting are as configured. Any page can make a browser send
//! requests, so the layer also checks the name in the request (Host) and the page it comes from
//! (Origin, Sec-Fetch-Site). The control socket has no such layer: every user who may open it may
//! change things.

mod hosts;
mod sessions;
mod token;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Extension, Form, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cookie::{Cookie, SameSite};
use parking_lot::{Mutex, MutexGuard};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::page::Visit;
use super::visitor::Visitor;
use super::{Framing, accepts_html, page, wants_page};
use crate::api::request::QUERY_VALUE;
use crate::config::Http;
use crate::http_server::Arrival;
use crate::problem::Problem;
use crate::status::health::{Condition, Health};
use hosts::Hosts;
pub use hosts::own_names;
use sessions::Sessions;
use token::Secret;
pub use token::TokenError;

/// Routes for submitting pictures, which change nothing that exists.
const SUBMITTING: [&str; 4] = ["/image/post", "/images/post", "/v1/images", "/v1/identify"];
/// Routes that export the faces of all people.
const WITH_FACES: [&str; 2] = ["/v1/backup", "/v1/people/export"];
/// Route of the bytes of refused messages, which may hold anything.
const MESSAGES: &str = "/v1/rejected/";
const PAYLOAD: &str = "/payload";
/// Headers that proxies add: a request with one of them does not count as local although it comes
/// from the board's own address.
const FORWARDED: [&str; 7] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];
/// Shortest time between log lines about wrong tokens.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Number of foreign host names that are remembered, and most characters of each.
const STRANGE: usize = 16;
const STRANGE_LETTERS: usize = 100;
const FORM_BYTES: usize = 4096;
/// The challenge of a 401.
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"kithd\"");

/// Token, sessions and rules; clones share them.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    state_dir: PathBuf,
    hosts: Hosts,
    open_read: bool,
    open_submit: bool,
    /// Addresses whose requests never count as local.
    proxies: Vec<IpAddr>,
    framing: Framing,
    /// Recently requested host names that are not the board's.
    strange: Mutex<VecDeque<String>>,
    health: Health,
    keys: Mutex<Keys>,
}

/// Secrets that requests are compared with.
struct Keys {
    /// The token; `None` if it could not be read or made.
    token: Option<Secret>,
    sessions: Sessions,
    wrong: Wrong,
}

/// Wrong tokens, for the log. They lock no client out: 256 bits cannot be guessed.
#[derive(Default)]
struct Wrong {
    unsaid: u64,
    said: Option<Instant>,
}

impl Wrong {
    fn note(&mut self, peer: IpAddr) {
        self.unsaid += 1;
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            tracing::warn!(
                "{} wrong tokens were sent, the last by {}",
                self.unsaid,
                peer.to_canonical()
            );
            *self = Self {
                unsaid: 0,
                said: Some(Instant::now()),
            };
        }
    }
}

impl Access {
    /// Reads the token, or makes one at the first start. If there is none, changes from the LAN are
    /// refused and the part `access` says so.
    pub fn open(state_dir: &Path, http: &Http, health: Health) -> Self {
        let hosts = Hosts::new(&http.names);
        let keys = Keys {
            token: None,
            sessions: Sessions::default(),
            wrong: Wrong::default(),
        };
        let access = Self(Arc::new(Inner {
            state_dir: state_dir.into(),
            hosts,
            open_read: http.open_read,
            open_submit: http.open_submit,
            proxies: http.proxies.clone(),
            framing: Framing::by(&http.frame_ancestors),
            strange: Mutex::default(),
            health,
            keys: Mutex::new(keys),
        }));
        // The part reports an error already.
        let _ = access.take(&mut access.lock(), token(state_dir, false));
        access
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock()
    }

    /// Returns the token as text, for the control socket; makes it if there is none, replaces it on
    /// request. Sessions of an old token end.
    pub fn token(&self, replace: bool) -> Result<String, TokenError> {
        let mut keys = self.lock();
        let text = self.take(&mut keys, token(&self.0.state_dir, replace))?;
        if replace {
            tracing::warn!("the administrator's token was replaced; all sessions have ended");
        }
        Ok(text)
    }

    fn take(
        &self,
        keys: &mut Keys,
        made: Result<String, TokenError>,
    ) -> Result<String, TokenError> {
        let (condition, text) = match &made {
            Ok(text) => {
                let token = Secret::of(text);
                if keys.token.as_ref() != Some(&token) {
                    keys.sessions = Sessions::default();
                }
                keys.token = Some(token);
                (Condition::Ok, self.rules())
            }
            Err(error) => {
                (keys.token, keys.sessions) = (None, Sessions::default());
                (
                    Condition::Degraded,
                    format!("nothing can be changed over the network: {error}"),
                )
            }
        };
        if self.0.health.set("access", condition, text.as_str()) && condition == Condition::Degraded
        {
            tracing::error!("{text}");
        }
        made
    }

    fn rules(&self) -> String {
        let looking = if self.0.open_read {
            "is open"
        } else {
            "needs the token"
        };
        let sending = if self.0.open_submit {
            "is open"
        } else {
            "needs the token except on the board itself"
        };
        format!(
            "reading {looking}, submitting pictures {sending}, every change needs the token (kithd token)"
        )
    }

    /// Returns the origins that may embed the board's pages.
    pub fn framing(&self) -> Framing {
        self.0.framing.clone()
    }

    /// Returns recently requested host names that are not the board's.
    pub fn strange_names(&self) -> Vec<String> {
        self.0.strange.lock().iter().cloned().collect()
    }

    /// Remembers such a name, and logs it once.
    fn misdirected(&self, host: &str) -> Refusal {
        let name =
            hosts::split(host).map_or_else(|| host.escape_default().to_string(), |(name, _)| name);
        let name: String = name.chars().take(STRANGE_LETTERS).collect();
        let mut strange = self.0.strange.lock();
        if !strange.contains(&name) {
            // A client with invented names must not fill the log.
            if strange.len() < STRANGE {
                tracing::warn!("{}", Refusal::Misdirected(name.clone()).sentence());
            } else {
                strange.pop_front();
            }
            strange.push_back(name.clone());
        }
        Refusal::Misdirected(name)
    }

    /// Lets a request pass, or returns why it is refused.
    fn judge(&self, asked: &Asked<'_>) -> Result<Visitor, Refusal> {
        if !self.0.hosts.own(asked.host, asked.arrival.local.ip()) {
            return Err(self.misdirected(asked.host));
        }
        let reading = matches!(*asked.method, Method::GET | Method::HEAD);
        let always = reading
            && (asked.path.starts_with("/assets/") || matches!(asked.path, "/healthz" | "/readyz"));
        if always {
            return Ok(Visitor::default());
        }
        if let Some(token) = asked.bearer() {
            return self
                .try_token(asked.peer, token)
                .map(|()| Visitor::default());
        }
        let password = asked.password();
        if let Some(password) = &password
            && self.is_token(password)
        {
            // Browsers attach the password to requests from any page.
            return if !reading && asked.of_another_site() {
                Err(Refusal::Foreign)
            } else {
                Ok(Visitor::default())
            };
        }
        let csrf = asked
            .session()
            .and_then(|session| self.lock().sessions.csrf(session.value()));
        let secret = WITH_FACES.contains(&asked.path)
            || (asked.path.starts_with(MESSAGES) && asked.path.ends_with(PAYLOAD));
        let open_to_read = self.0.open_read && !secret;
        if asked.path == "/login" || (reading && (open_to_read || csrf.is_some())) {
            return Ok(Visitor { csrf });
        }
        let submitting = *asked.method == Method::POST && SUBMITTING.contains(&asked.path);
        let on_the_board =
            asked.is_on_the_board() && !self.0.proxies.contains(&asked.peer.to_canonical());
        if submitting && (self.0.open_submit || (on_the_board && !asked.came_by_a_proxy())) {
            // Otherwise every page in a browser on the board could submit.
            return if asked.of_another_site() {
                Err(Refusal::Foreign)
            } else {
                Ok(Visitor { csrf })
            };
        }
        let Some(csrf) = csrf else {
            return Err(match password {
                // Not checked earlier: the header may be meant for a proxy in between.
                Some(_) => self.wrong_token(asked.peer),
                None if submitting && asked.is_on_the_board() => Refusal::ByProxy,
                None => Refusal::NobodyKnown,
            });
        };
        // A browser sends its cookie with requests from any page.
        if !reading && !asked.of_own_page(&self.0.hosts) {
            return Err(Refusal::Foreign);
        }
        if !reading
            && !asked
                .csrf()
                .is_some_and(|sent| bool::from(sent.as_bytes().ct_eq(csrf.as_bytes())))
        {
            return Err(Refusal::Unsigned);
        }
        Ok(Visitor { csrf: Some(csrf) })
    }

    fn try_token(&self, peer: IpAddr, sent: &str) -> Result<(), Refusal> {
        if self.is_token(sent) {
            Ok(())
        } else {
            Err(self.wrong_token(peer))
        }
    }

    fn is_token(&self, sent: &str) -> bool {
        let mut keys = self.lock();
        if keys.token.is_none() {
            // The disk may have space again. Other errors have been reported.
            let _ = self.take(&mut keys, token(&self.0.state_dir, false));
        }
        keys.token.as_ref().is_some_and(|token| token.is(sent))
    }

    fn wrong_token(&self, peer: IpAddr) -> Refusal {
        self.lock().wrong.note(peer);
        Refusal::WrongToken
    }
}

/// Returns the token of a state folder; makes it if there is none, replaces it on request.
pub fn token(state_dir: &Path, replace: bool) -> Result<String, TokenError> {
    if replace {
        token::replace(state_dir)
    } else {
        token::read_or_make(state_dir)
    }
}

/// Returns the system's host name.
pub fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The properties of a request that decide about access.
struct Asked<'a> {
    method: &'a Method,
    path: &'a str,
    query: &'a str,
    version: Version,
    headers: &'a HeaderMap,
    peer: IpAddr,
    arrival: Arrival,
    /// Host as the client sent it, perhaps with a port.
    host: &'a str,
}

impl<'a> Asked<'a> {
    /// Reads the properties; `None` if the request names no host, or several.
    fn of(request: &'a Request) -> Option<Self> {
        let headers = request.headers();
        let host = match request.uri().authority() {
            Some(authority) => authority.as_str(),
            None => one(headers, header::HOST.as_str())?,
        };
        let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
        Some(Self {
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query().unwrap_or_default(),
            version: request.version(),
            headers,
            peer: peer.ip(),
            arrival: *request.extensions().get::<Arrival>()?,
            host,
        })
    }

    fn bearer(&self) -> Option<&'a str> {
        let value = self.headers.get(header::AUTHORIZATION)?;
        // Bytes that are no text count as a token too, a wrong one.
        let (scheme, token) = value.to_str().unwrap_or("bearer ?").split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    }

    /// Returns the password of Basic authentication, for programs that support nothing else; the
    /// user's name is ignored.
    fn password(&self) -> Option<String> {
        let (scheme, pair) = self
            .headers
            .get(header::AUTHORIZATION)?
            .to_str()
            .ok()?
            .split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(BASE64_STANDARD.decode(pair.trim()).ok()?).ok()?;
        pair.split_once(':')
            .map(|(_, password)| password.trim().to_string())
    }

    fn session(&self) -> Option<Cookie<'a>> {
        cookie(self.headers, cookie_name(self.arrival.encrypted))
    }

    fn csrf(&self) -> Option<&'a str> {
        let header = one(self.headers, "x-csrf-token");
        header.or_else(|| {
            self.query
                .split('&')
                .find_map(|pair| pair.strip_prefix("csrf="))
        })
    }

    /// Returns true if both ends of the connection are on this board. A proxy there may forward
    /// requests of others.
    fn is_on_the_board(&self) -> bool {
        let peer = self.peer.to_canonical();
        peer.is_loopback() || peer == self.arrival.local.ip().to_canonical()
    }

    /// Returns true if a proxy forwarded the request. Some proxies add headers; others use
    /// HTTP/1.0, as nginx does by default, or pass on the Host they got, with their own port.
    fn came_by_a_proxy(&self) -> bool {
        let port = hosts::split(self.host).and_then(|(_, port)| port);
        let usual = if self.arrival.encrypted { 443 } else { 80 };
        self.version < Version::HTTP_11
            || port.unwrap_or(usual) != self.arrival.local.port()
            || FORWARDED
                .iter()
                .any(|name| self.headers.contains_key(*name))
    }

    /// Returns true if a page of ours made the browser send it, by Sec-Fetch-Site or Origin.
    fn of_own_page(&self, hosts: &Hosts) -> bool {
        match (
            self.headers.contains_key(header::ORIGIN),
            one(self.headers, "sec-fetch-site"),
        ) {
            // Browsers send Sec-Fetch-Site only for pages over TLS or from the same machine. A
            // proxy's change of Host does not affect it.
            (_, Some(site)) => site == "same-origin",
            (true, None) => self.is_own_origin() || self.is_origin_of_own_proxy(hosts),
            (false, None) => false,
        }
    }

    /// Returns true if the page came by a proxy that replaces Host: Origin names the board as its
    /// network or `http.names` does, on any port.
    fn is_origin_of_own_proxy(&self, hosts: &Hosts) -> bool {
        let Some((_, origin)) =
            one(self.headers, "origin").and_then(|origin| origin.split_once("://"))
        else {
            return false;
        };
        let here = |host: &str| {
            hosts::split(host).is_some_and(|(name, _)| {
                name == "localhost"
                    || name
                        .parse::<IpAddr>()
                        .is_ok_and(|address| address.is_loopback())
            })
        };
        let changed = self.is_on_the_board() && here(self.host) && !here(origin);
        hosts.configured(origin) || (changed && hosts.own(origin, self.arrival.local.ip()))
    }

    /// Returns true if a foreign page made a browser send it. Programs that are no browsers send
    /// neither header.
    fn of_another_site(&self) -> bool {
        if self.headers.contains_key("sec-fetch-site") {
            return !matches!(
                one(self.headers, "sec-fetch-site"),
                Some("same-origin" | "none")
            );
        }
        self.headers.contains_key(header::ORIGIN) && !self.is_own_origin()
    }

    /// Returns true if scheme, host and port of the origin are those of the request. If a proxy
    /// encrypts, the browser's scheme is https.
    fn is_own_origin(&self) -> bool {
        let Some((scheme, authority)) =
            one(self.headers, "origin").and_then(|origin| origin.split_once("://"))
        else {
            return false;
        };
        let port = match scheme {
            "https" => ":443",
            "http" if !self.arrival.encrypted => ":80",
            _ => return false,
        };
        let bare = |authority: &str| {
            let authority = authority.to_ascii_lowercase();
            authority
                .strip_suffix(port)
                .map_or(authority.clone(), String::from)
        };
        bare(authority) == bare(self.host)
    }
}

/// Returns a header that is present once and is text.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Returns the cookie's name. With the prefix, browsers accept it only over TLS and only for this
/// host.
fn cookie_name(encrypted: bool) -> &'static str {
    if encrypted {
        "__Host-kithd_session"
    } else {
        "kithd_session"
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cookie<'a>> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(Cookie::split_parse)
        .filter_map(Result::ok)
        .find(|cookie| cookie.name() == name)
}

/// Reasons why a request is refused.
enum Refusal {
    /// The request names this host, which is not the board's.
    Misdirected(String),
    NobodyKnown,
    /// The request lacks the token and comes from a proxy on the board.
    ByProxy,
    WrongToken,
    /// A foreign page made the browser send it.
    Foreign,
    /// It lacks the CSRF token that only our pages know.
    Unsigned,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Misdirected(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::NobodyKnown | Self::ByProxy | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::Foreign | Self::Unsigned => StatusCode::FORBIDDEN,
        }
    }

    fn sentence(&self) -> String {
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
    fn answer(&self, html: bool, next: Option<&Uri>) -> Response {
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

/// The layer before every route of the LAN, including those that do not exist.
pub async fn guard(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let html = wants_page(&request);
    let Some(asked) = Asked::of(&request) else {
        return Problem::bad_request("The request must name its host, once.").into_response();
    };
    match access.judge(&asked) {
        Ok(visitor) => {
            request.extensions_mut().insert(visitor);
            next.run(request).await
        }
        Err(refusal) => {
            let back = (*request.method() == Method::GET).then(|| request.uri());
            refusal.answer(html, back)
        }
    }
}

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
    let asked = Asked {
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
    if asked.of_another_site() && !asked.is_origin_of_own_proxy(&access.0.hosts) {
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
    let mut keys = access.lock();
    if let Some(old) = asked.session() {
        keys.sessions.end(old.value());
    }
    let Some(id) = keys.sessions.begin() else {
        return Problem::later(
            "This board has no random numbers for a session yet; try again in a moment.",
        )
        .into_response();
    };
    drop(keys);
    let cookie = set_cookie(arrival.encrypted, &id, sessions::LONGEST);
    ([(header::SET_COOKIE, cookie)], see_other(&next)).into_response()
}

async fn logout(
    State(access): State<Access>,
    headers: HeaderMap,
    Extension(arrival): Extension<Arrival>,
) -> Response {
    if let Some(session) = cookie(&headers, cookie_name(arrival.encrypted)) {
        access.lock().sessions.end(session.value());
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

#[cfg(test)]
mod tests;
