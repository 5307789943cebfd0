//! Address of a server: parsed from a URL, from which the login is split off, shown without path
//! and query, and connected to.

use std::fmt::{Display, Formatter};
use std::io::ErrorKind;
use std::time::Duration;

use hyper::http::uri::Authority;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::{HttpError, Login};
use crate::config::Url;

/// Characters that people type into paths, but that no path has. `%` stays: it may be an escape.
const NOT_IN_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Scheme, host and port of a server. Logins, paths and queries, which may hold secrets, are not
/// part of it, so that it can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// True if the connection is encrypted.
    pub https: bool,
    /// Name or address in figures; IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Display for Address {
    fn fmt(&self, out: &mut Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(out, "{scheme}://{}:{}", self.bracketed(), self.port)
    }
}

/// Splits a URL into address, path with query, and the login it holds. Errors are the end of a
/// sentence about the URL and never quote it.
pub fn parse(url: &str) -> Result<(Address, String, Option<Login>), String> {
    let (url, login) = Url::parse(url.trim())?;
    let (address, path) = Address::of(&url)?;
    Ok((address, path, login))
}

/// Returns a path as a request has it: from the root, with escapes for what is none of a path.
fn typed_path(path: &str) -> String {
    let root = if path.starts_with('/') { "" } else { "/" };
    format!("{root}{}", utf8_percent_encode(path, NOT_IN_PATHS))
}

impl Address {
    /// Returns the address and the path of a URL. Errors are as `parse` has them.
    pub fn of(url: &Url) -> Result<(Self, String), String> {
        let https = match url.scheme.as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("must begin with http:// or https://".into()),
        };
        let authority: Authority = url
            .host
            .parse()
            .map_err(|_| "must have a host in letters, digits, - and .".to_owned())?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = match authority.port_u16() {
            Some(port @ 1..) => port,
            // A colon with something else behind it.
            _ if authority.as_str() != authority.host() => {
                return Err("must have a port of 1 to 65535 after the colon".into());
            }
            _ if https => 443,
            _ => 80,
        };
        Ok((Self { https, host, port }, typed_path(&url.path)))
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }

    /// Returns the `Host` field of a request.
    pub(super) fn host_field(&self) -> String {
        match (self.https, self.port) {
            (false, 80) | (true, 443) => self.bracketed(),
            _ => format!("{}:{}", self.bracketed(), self.port),
        }
    }

    /// Returns the path that `location` names, as seen from `path`. The error names the other
    /// server that it is on.
    pub(super) fn resolve(&self, path: &str, location: &str) -> Result<String, String> {
        let absolute = if location.starts_with("//") {
            let scheme = if self.https { "https" } else { "http" };
            format!("{scheme}:{location}")
        } else {
            location.to_owned()
        };
        let before_query = absolute.split(['?', '#']).next().unwrap_or_default();
        if before_query.contains("://") {
            let (other, path, _) =
                parse(&absolute).map_err(|_| "an address that is no URL".to_owned())?;
            return if other == *self {
                Ok(path)
            } else {
                Err(other.to_string())
            };
        }
        let location = location.split('#').next().unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        Ok(match location.chars().next() {
            Some('/') => typed_path(location),
            None | Some('?') => format!("{path}{}", utf8_percent_encode(location, NOT_IN_PATHS)),
            Some(_) => {
                let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                typed_path(&format!("{folder}/{location}"))
            }
        })
    }

    /// Connects within `limit`, which the addresses of the name share.
    pub(super) async fn connect(&self, limit: Duration) -> Result<TcpStream, HttpError> {
        let found = lookup_host((self.host.as_str(), self.port)).await;
        let found: Vec<_> = found.into_iter().flatten().collect();
        let share = limit / u32::try_from(found.len().max(1)).unwrap_or(1);
        let mut last = HttpError::NameNotFound(self.clone());
        for address in found {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Requests are single small writes; an error costs only time.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                    last = HttpError::Refused(self.clone());
                }
                Ok(Err(error)) => last = HttpError::Unreachable(self.clone(), error.to_string()),
                Err(_) => {
                    let why = format!("no connection in {share:?}");
                    last = HttpError::Unreachable(self.clone(), why);
                }
            }
        }
        Err(last)
    }
}
