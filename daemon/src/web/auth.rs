//! Who may do what on the LAN: the guard before every route, and logging in and out.
//!
//! A change needs the administrator's token, sent as a bearer or as a password, or exchanged for a
//! session by the form; looking and submitting as the configuration says. A browser sends what any
//! page it shows makes it send, so the guard also looks at the name it was asked under (Host) and
//! at which page the request comes from (Origin, Sec-Fetch-Site). The control socket has no such
//! guard: who may open it may change things.

mod hosts;
mod sessions;
mod token;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tokio::time::Instant;

use super::page::Visit;
use super::{Framing, accepts_html, page};
use crate::config::Http;
use crate::http_server::Arrival;
use crate::problem::Problem;
use crate::status::health::{Condition, Health};
use hosts::Hosts;
pub use hosts::own_names;
use sessions::Sessions;
use token::Secret;
pub use token::TokenError;

/// What may be submitted without changing anything that is there.
const SUBMITTING: [&str; 4] = ["/image/post", "/images/post", "/v1/images", "/v1/identify"];
/// What everybody's faces leave the board by.
const WITH_FACES: [&str; 2] = ["/v1/backup", "/v1/people/export"];
/// The bytes of refused messages, which may be anything.
const MESSAGES: &str = "/v1/rejected/";
const PAYLOAD: &str = "/payload";
/// Proxies add one of these: what comes from the board's own address is not from the board then.
const FORWARDED: [&str; 7] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];
/// Wrong tokens are said in the log so often at most.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// Names that are not the board's and were asked for lately: so many are remembered, and so many
/// letters of each.
const STRANGE: usize = 16;
const STRANGE_LETTERS: usize = 100;
const FORM_BYTES: usize = 4096;
/// How the token is asked for.
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"kithd\"");

/// The reader of a page; put into each request by the guard.
#[derive(Debug, Clone, Default)]
pub struct Visitor {
    /// Of somebody logged in: what their forms must carry, as `?csrf=` in the form's action.
    pub csrf: Option<String>,
}

/// The token, who is logged in, and the rules; clones share them.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    state_dir: PathBuf,
    hosts: Hosts,
    open_read: bool,
    open_submit: bool,
    /// Whose requests are never the board's own.
    proxies: Vec<IpAddr>,
    framing: Framing,
    /// Names that are not the board's, as they were asked for last.
    strange: Mutex<VecDeque<String>>,
    health: Health,
    keys: Mutex<Keys>,
}

/// What is compared with what was sent.
struct Keys {
    /// `None`: it could not be read or made.
    token: Option<Secret>,
    sessions: Sessions,
    wrong: Wrong,
}

/// Wrong tokens, for the log. Nobody is kept out for them: 256 bits are not guessed.
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
    /// Reads the token, or makes one at the first start. Without one, which the part `access` says,
    /// nobody may change anything from the LAN.
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
        // Said in the part already.
        let _ = access.take(&mut access.lock(), token(state_dir, false));
        access
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token as text, for the control socket; made if there is none, replaced if told so. Who
    /// was logged in by another one is not any more.
    pub fn token(&self, replace: bool) -> Result<String, TokenError> {
        let mut keys = self.lock();
        let text = self.take(&mut keys, token(&self.0.state_dir, replace))?;
        if replace {
            tracing::warn!(
                "the administrator's token was replaced; whoever was logged in is not any more"
            );
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
            "needs it except on the board itself"
        };
        format!(
            "looking {looking}, submitting pictures {sending}, every change needs the token (kithd token)"
        )
    }

    /// Who may show the board's pages in theirs.
    pub fn framing(&self) -> Framing {
        self.0.framing.clone()
    }

    /// Names that are not the board's and were asked for lately.
    pub fn strange_names(&self) -> Vec<String> {
        self.0
            .strange
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// Remembers such a name, and says it in the log once.
    fn misdirected(&self, host: &str) -> Refusal {
        let name =
            hosts::split(host).map_or_else(|| host.escape_default().to_string(), |(name, _)| name);
        let name: String = name.chars().take(STRANGE_LETTERS).collect();
        let mut strange = self
            .0
            .strange
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !strange.contains(&name) {
            // Whoever makes up names fills no log.
            if strange.len() < STRANGE {
                tracing::warn!("{}", Refusal::Misdirected(name.clone()).sentence());
            } else {
                strange.pop_front();
            }
            strange.push_back(name.clone());
        }
        Refusal::Misdirected(name)
    }

    /// Lets a request pass, or says why not.
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
            // Browsers send it with whatever any page makes them send.
            return if !reading && asked.of_another_site() {
                Err(Refusal::Foreign)
            } else {
                Ok(Visitor::default())
            };
        }
        let csrf = asked.session().and_then(|id| self.lock().sessions.csrf(id));
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
            // Browsers on the board would be every page's way in.
            return if asked.of_another_site() {
                Err(Refusal::Foreign)
            } else {
                Ok(Visitor { csrf })
            };
        }
        let Some(csrf) = csrf else {
            return Err(match password {
                // Not above: it may be meant for a proxy in between.
                Some(_) => self.wrong_token(asked.peer),
                None if submitting && asked.is_on_the_board() => Refusal::ByProxy,
                None => Refusal::NobodyKnown,
            });
        };
        // A reader's browser sends its cookie whoever makes it ask.
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
            // A disk that was full may not be any more. What is wrong else was said.
            let _ = self.take(&mut keys, token(&self.0.state_dir, false));
        }
        keys.token.as_ref().is_some_and(|token| token.is(sent))
    }

    fn wrong_token(&self, peer: IpAddr) -> Refusal {
        self.lock().wrong.note(peer);
        Refusal::WrongToken
    }
}

/// The token of a state folder, made if there is none, replaced if told so.
pub fn token(state_dir: &Path, replace: bool) -> Result<String, TokenError> {
    if replace {
        token::replace(state_dir)
    } else {
        token::read_or_make(state_dir)
    }
}

/// As the system is called.
pub fn hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// What the guard looks at.
struct Asked<'a> {
    method: &'a Method,
    path: &'a str,
    query: &'a str,
    version: Version,
    headers: &'a HeaderMap,
    peer: IpAddr,
    arrival: Arrival,
    /// As typed: host, perhaps with a port.
    host: &'a str,
}

impl<'a> Asked<'a> {
    /// `None`: it names no host, or several.
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
        // Bytes that are no text are a token too: a wrong one.
        let (scheme, token) = value.to_str().unwrap_or("bearer ?").split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    }

    /// Of Basic authentication, for programs that know nothing else; the user's name does not
    /// matter.
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

    fn session(&self) -> Option<&'a str> {
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

    /// Both ends of the connection are here. Whoever is at the other end may speak for others.
    fn is_on_the_board(&self) -> bool {
        let peer = self.peer.to_canonical();
        peer.is_loopback() || peer == self.arrival.local.ip().to_canonical()
    }

    /// Some proxies say so; those that say nothing speak HTTP/1.0, as nginx does unless told
    /// otherwise, or pass on the Host that they were asked under, whose port is theirs.
    fn came_by_a_proxy(&self) -> bool {
        let port = hosts::split(self.host).and_then(|(_, port)| port);
        let usual = if self.arrival.encrypted { 443 } else { 80 };
        self.version < Version::HTTP_11
            || port.unwrap_or(usual) != self.arrival.local.port()
            || FORWARDED
                .iter()
                .any(|name| self.headers.contains_key(*name))
    }

    /// A page of ours made the browser send it; browsers say so in one way or the other.
    fn of_own_page(&self, hosts: &Hosts) -> bool {
        match (
            self.headers.contains_key(header::ORIGIN),
            one(self.headers, "sec-fetch-site"),
        ) {
            // Of a page that came encrypted or from this very machine. It knows of no proxy, which
            // Host may be about.
            (_, Some(site)) => site == "same-origin",
            (true, None) => self.is_own_origin() || self.is_origin_of_own_proxy(hosts),
            (false, None) => false,
        }
    }

    /// The page came by a proxy that asks under another Host than it was asked under: the browser
    /// names the board as its network does, or as `http.names` does, whatever the port.
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

    /// A page that is not ours made a browser send it. Programs that are no browsers say nothing
    /// either way.
    fn of_another_site(&self) -> bool {
        if self.headers.contains_key("sec-fetch-site") {
            return !matches!(
                one(self.headers, "sec-fetch-site"),
                Some("same-origin" | "none")
            );
        }
        self.headers.contains_key(header::ORIGIN) && !self.is_own_origin()
    }

    /// Scheme, host and port are those it was sent to. Where a proxy does the encrypting, the
    /// browser's is https.
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

/// A header that is there once, and text.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// With the prefix, browsers take it only encrypted and for this host alone.
fn cookie_name(encrypted: bool) -> &'static str {
    if encrypted {
        "__Host-kithd_session"
    } else {
        "kithd_session"
    }
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut pairs = values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// Why a request does not pass.
enum Refusal {
    /// Asked under this name, which is not the board's.
    Misdirected(String),
    NobodyKnown,
    /// The same, and what sent it is on the board: some proxy.
    ByProxy,
    WrongToken,
    /// Another page made the browser send it.
    Foreign,
    /// It lacks what only our pages know.
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
                    "The request was sent to {name}, which is no name of this board; if it is one, add it to http.names in \
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

    /// As a problem, or for people as a page; who only lacks the token is asked for it.
    fn answer(&self, html: bool, next: Option<&Uri>) -> Response {
        let status = self.status();
        if html && status == StatusCode::UNAUTHORIZED {
            let next = next
                .and_then(Uri::path_and_query)
                .map_or("/", |next| next.as_str());
            return Redirect::to(&format!("/login?next={}", encoded(next))).into_response();
        }
        let mut response = if html {
            page::notice(status, self.sentence())
        } else {
            Problem::new(status, self.sentence()).into_response()
        };
        if status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.append(header::WWW_AUTHENTICATE, BEARER);
            // Where a page of ours only lost its session, browsers would ask for a password
            // themselves.
            if next.is_none() {
                let basic = HeaderValue::from_static("Basic realm=\"kithd\", charset=\"UTF-8\"");
                headers.append(header::WWW_AUTHENTICATE, basic);
            }
        }
        response
    }
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Stands before every route of the LAN, those that do not exist included.
pub async fn guard(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let html = accepts_html(request.headers()) && !request.uri().path().starts_with("/v1/");
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

/// Only a place on this board: what else could be taken for one by some browser is not.
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
        keys.sessions.end(old);
    }
    let Some(id) = keys.sessions.begin() else {
        return Problem::later("This board has no random numbers to make a session of yet.")
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
    if let Some(id) = cookie(&headers, cookie_name(arrival.encrypted)) {
        access.lock().sessions.end(id);
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
    // Without a path it is for all beside the form that it was asked for by, under whatever path a
    // proxy serves this board.
    let (name, rest) = (
        cookie_name(encrypted),
        if encrypted { "; Path=/; Secure" } else { "" },
    );
    format!(
        "{name}={value}; Max-Age={}; HttpOnly; SameSite=Strict{rest}",
        age.as_secs()
    )
}

/// A place is sent as it was typed; one that cannot stand in a header leads to the first page.
fn see_other(place: &str) -> Response {
    let place = header::HeaderValue::from_str(&ascii(place))
        .unwrap_or(header::HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response()
}

fn ascii(place: &str) -> String {
    let kept = |byte: u8| byte.is_ascii_graphic();
    place
        .bytes()
        .map(|byte| {
            if kept(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
