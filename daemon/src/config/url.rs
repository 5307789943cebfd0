//! Addresses with a login, as operators type them: `rtsp://user:password@host:554/path?query`.
//!
//! The login is split off at once, and only the origin is ever shown: paths and queries of cameras
//! contain passwords too.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::Raw;
use crate::http_client::{Login, Trust};

/// Longest address.
const LONGEST: usize = 2048;
/// Characters of a login that stand for themselves in an address.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An address without its login. `Display` shows scheme, host and port only.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// In lower case: `rtsp`.
    pub scheme: String,
    /// Host and, if given, port: `192.168.1.20:8554`.
    pub host: String,
    /// Path and query, with the slash; never empty.
    pub path: String,
}

impl Url {
    /// Splits an address; the error is the rule that it breaks, without the address.
    pub fn parse(text: &str) -> Result<(Self, Option<Login>), &'static str> {
        const RULE: &str = "must be an address such as \"rtsp://192.168.1.20/stream1\"";
        let (scheme, rest) = text.split_once("://").ok_or(RULE)?;
        if text.len() > LONGEST || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("must be an address of at most 2048 characters without blanks");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // A password may contain an @ although it should be written %40.
        let (login, host) = match rest[..end].rsplit_once('@') {
            Some((login, host)) => (Some(login), host),
            None => (None, &rest[..end]),
        };
        let path = rest[end..].split('#').next().unwrap_or_default();
        let valid = |c: char| c.is_alphanumeric() || "-._:[]%".contains(c);
        if host.is_empty() || host.starts_with(':') || !host.chars().all(valid) {
            return Err(RULE);
        }
        let plain = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| "has a login that is no text")
        };
        let login = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => Some(Login {
                user: plain(user)?,
                password: plain(password)?,
            }),
            None => None,
        };
        let path = match path {
            path if path.starts_with('/') => path.to_string(),
            path => format!("/{path}"),
        };
        let url = Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.into(),
            path,
        };
        Ok((url, login))
    }

    /// Returns the whole address, with the login in it. For a program that takes it no other way.
    pub fn with_login(&self, login: Option<&Login>) -> String {
        let Self { scheme, host, path } = self;
        let encode = |text| utf8_percent_encode(text, UNRESERVED);
        match login {
            Some(Login { user, password }) => {
                format!(
                    "{scheme}://{}:{}@{host}{path}",
                    encode(user),
                    encode(password)
                )
            }
            None => format!("{scheme}://{host}{path}"),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// Replaces every address in a text by its origin, for words of programs that repeat what they were
/// given.
pub fn without_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let scheme = rest[..at]
            .rfind(|c: char| !c.is_ascii_alphanumeric())
            .map_or(0, |before| {
                before + rest[before..].chars().next().map_or(1, char::len_utf8)
            });
        shown.push_str(&rest[..scheme]);
        let end = rest[at..]
            .find(|c: char| c.is_whitespace() || c == '\'' || c == '"')
            .map_or(rest.len(), |length| at + length);
        match Url::parse(&rest[scheme..end]) {
            Ok((url, _)) => shown.push_str(&url.to_string()),
            // A scheme by itself, as in "must begin with rtsp://, …".
            Err(_) if matches!(&rest[at..end], "://" | "://," | "://.") => {
                shown.push_str(&rest[scheme..end]);
            }
            Err(_) => shown.push('…'),
        }
        rest = &rest[end..];
    }
    shown.push_str(rest);
    shown
}

/// A user name with the file of its password, read when it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordFile {
    /// User name.
    pub user: String,
    /// File with the password; `None`: there is none.
    pub file: Option<PathBuf>,
}

impl PasswordFile {
    /// Reads the password.
    pub fn login(&self) -> Result<Login, String> {
        let password = match &self.file {
            None => String::new(),
            Some(file) => read_password(file).map_err(|error| {
                format!(
                    "the password cannot be read from {}: {error}",
                    file.display()
                )
            })?,
        };
        Ok(Login {
            user: self.user.clone(),
            password,
        })
    }
}

/// Reads a password from its file, without the end of the line.
pub fn read_password(file: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(file)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_string())
}

/// Reads the keys `ca_file` and `fingerprint` behind `prefix`, for the address in the key `address`.
pub(super) fn trust(raw: &mut Raw, prefix: &str, address: &str, https: bool) -> Trust {
    let (ca_key, pin_key) = (format!("{prefix}ca_file"), format!("{prefix}fingerprint"));
    let (ca, pin) = (raw.text(&ca_key), raw.text(&pin_key));
    for (key, value) in [(&ca_key, &ca), (&pin_key, &pin)] {
        if let Some(value) = value.as_ref().filter(|_| !https) {
            let rule = format!("is for an encrypted connection; write https:// in {address}");
            raw.problem(key, value, rule);
        }
    }
    match (ca, pin) {
        (None, None) => Trust::System,
        (Some(file), Some(_)) => {
            let rule = format!("is one of two ways; leave out this or {pin_key}");
            raw.problem(&ca_key, file, rule);
            Trust::System
        }
        (Some(file), None) => Trust::of_file(file.as_ref()).unwrap_or_else(|why| {
            raw.problem(&ca_key, file, why);
            Trust::System
        }),
        (None, Some(text)) => Trust::of_fingerprint(&text).unwrap_or_else(|| {
            let rule = "must be the SHA-256 of the certificate, 64 hexadecimal digits";
            raw.problem(&pin_key, text, rule);
            Trust::System
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_split_off_and_only_the_origin_is_shown() {
        let (url, login) =
            Url::parse("RTSP://me:p%40ss@w:rd@10.0.0.9:8554/live?user=me&password=x").unwrap();
        assert_eq!(url.to_string(), "rtsp://10.0.0.9:8554");
        assert_eq!(url.path, "/live?user=me&password=x");
        let login = login.unwrap();
        assert_eq!(
            (login.user.as_str(), login.password.as_str()),
            ("me", "p@ss@w:rd")
        );
        assert_eq!(
            url.with_login(Some(&login)),
            "rtsp://me:p%40ss%40w%3Ard@10.0.0.9:8554/live?user=me&password=x"
        );
        assert_eq!(
            format!("{url:?} {login:?}"),
            "Url(rtsp://10.0.0.9:8554) Login(hidden)"
        );
        assert_eq!(Url::parse("http://cam").unwrap().0.path, "/");
        assert_eq!(Url::parse("http://[fe80::1]:80?x").unwrap().0.path, "/?x");
        for wrong in [
            "cam",
            "rtsp://",
            "rtsp://:554/",
            "rtsp://a b/",
            "rtsp://a\n",
            "http://u@/",
        ] {
            assert!(Url::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn addresses_in_a_text_lose_login_path_and_query() {
        let text =
            "Impossible to open 'rtsp://me:secret@cam:554/a?pw=secret': x, see http://u:p@h/.";
        assert_eq!(
            without_secrets(text),
            "Impossible to open 'rtsp://cam:554': x, see http://h"
        );
        assert_eq!(without_secrets("no address: //x"), "no address: //x");
        assert_eq!(without_secrets("rtsp://, http://."), "rtsp://, http://.");
        assert_eq!(without_secrets("é://me:secret@@@/"), "é…");
    }
}
