//! Reads what decides about access from a request: the sender, the credentials, and the page that
//! made a browser send it. `policy` decides.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderMap, Method, Version, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use cookie::Cookie;

use super::hosts::{self, Hosts};
use crate::http_server::Arrival;

/// Headers that proxies add: a request with one of them does not count as local although it comes
/// from the board's own address.
pub(super) const FORWARDED: [&str; 7] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

/// The properties of a request that decide about access.
pub struct AccessRequest<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub query: &'a str,
    pub version: Version,
    pub headers: &'a HeaderMap,
    pub peer: IpAddr,
    pub arrival: Arrival,
    /// Host as the client sent it, perhaps with a port.
    pub host: &'a str,
}

impl<'a> AccessRequest<'a> {
    /// Reads the properties; `None` if the request names no host, or several.
    pub fn of(request: &'a Request) -> Option<Self> {
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

    pub fn bearer(&self) -> Option<&'a str> {
        let value = self.headers.get(header::AUTHORIZATION)?;
        // Bytes that are no text count as a token too, a wrong one.
        let (scheme, token) = value.to_str().unwrap_or("bearer ?").split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then_some(token.trim())
    }

    /// Returns the password of Basic authentication, for programs that support nothing else; the
    /// user's name is ignored.
    pub fn password(&self) -> Option<String> {
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

    pub fn session(&self) -> Option<Cookie<'a>> {
        cookie(self.headers, cookie_name(self.arrival.encrypted))
    }

    pub fn csrf(&self) -> Option<&'a str> {
        let header = one(self.headers, "x-csrf-token");
        header.or_else(|| {
            self.query
                .split('&')
                .find_map(|pair| pair.strip_prefix("csrf="))
        })
    }

    /// Returns true if both ends of the connection are on this board. A proxy there may forward
    /// requests of others.
    pub fn is_on_the_board(&self) -> bool {
        let peer = self.peer.to_canonical();
        peer.is_loopback() || peer == self.arrival.local.ip().to_canonical()
    }

    /// Returns true if a proxy forwarded the request. Some proxies add headers; others use
    /// HTTP/1.0, as nginx does by default, or pass on the Host they got, with their own port.
    pub fn came_by_a_proxy(&self) -> bool {
        let port = hosts::split(self.host).and_then(|(_, port)| port);
        let usual = if self.arrival.encrypted { 443 } else { 80 };
        self.version < Version::HTTP_11
            || port.unwrap_or(usual) != self.arrival.local.port()
            || FORWARDED
                .iter()
                .any(|name| self.headers.contains_key(*name))
    }

    /// Returns true if a page of ours made the browser send it, by Sec-Fetch-Site or Origin.
    pub fn of_own_page(&self, hosts: &Hosts) -> bool {
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
    pub fn is_origin_of_own_proxy(&self, hosts: &Hosts) -> bool {
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
    pub fn of_another_site(&self) -> bool {
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
pub fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Returns the cookie's name. With the prefix, browsers accept it only over TLS and only for this
/// host.
pub fn cookie_name(encrypted: bool) -> &'static str {
    if encrypted {
        "__Host-kithd_session"
    } else {
        "kithd_session"
    }
}

pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cookie<'a>> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(Cookie::split_parse)
        .filter_map(Result::ok)
        .find(|cookie| cookie.name() == name)
}
