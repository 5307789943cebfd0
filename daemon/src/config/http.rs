//! `[http]`: the address of page and API, access from the LAN, and encryption.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::{Raw, address};

/// Settings of page and API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Address and port.
    pub listen: SocketAddr,
    /// True if every client on the LAN may read; otherwise reading needs the token.
    pub open_read: bool,
    /// True if every client on the LAN may submit pictures; otherwise that needs the token, or a
    /// client on the board.
    pub open_submit: bool,
    /// Further names and addresses under which the board may be requested, in small letters.
    pub names: Vec<String>,
    /// Path under which a proxy serves kithd, if the proxy passes it on; empty if it strips the
    /// path.
    pub base_path: String,
    /// Addresses of proxies: a request from one never counts as local.
    pub proxies: Vec<IpAddr>,
    /// Origins whose pages may embed ours.
    pub frame_ancestors: Vec<String>,
    /// Encryption.
    pub tls: Tls,
}

/// Certificate for the encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// No encryption.
    Off,
    /// A certificate that the board generates.
    SelfSigned,
    /// A given certificate, in PEM.
    Files {
        /// The certificate and its intermediates.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

impl Http {
    /// Returns the address of the page for other machines, without a slash at the end; `None` if
    /// it answers this machine only. `host` is the board's host name.
    pub fn address(&self, host: &str) -> Option<String> {
        let ip = self.listen.ip();
        if ip.is_loopback() {
            return None;
        }
        let host = host.split('.').next().unwrap_or_default();
        let name = match self.names.first() {
            Some(name) => name.clone(),
            None if !ip.is_unspecified() => ip.to_string(),
            None if host.is_empty() => return None,
            None => format!("{}.local", host.to_ascii_lowercase()),
        };
        let name = match name.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => name,
        };
        let scheme = match self.tls {
            Tls::Off => "http",
            Tls::SelfSigned | Tls::Files { .. } => "https",
        };
        let (port, path) = (self.listen.port(), &self.base_path);
        Some(format!("{scheme}://{name}:{port}{path}"))
    }
}

pub fn http(raw: &mut Raw) -> Http {
    let default = SocketAddr::from(([127, 0, 0, 1], 8000));
    Http {
        listen: raw
            .text("http.listen")
            .and_then(|text| address(raw, "http.listen", &text))
            .unwrap_or(default),
        open_read: raw.flag("http.open_read", true),
        open_submit: raw.flag("http.open_submit", false),
        names: names(raw),
        base_path: base_path(raw),
        proxies: proxies(raw),
        frame_ancestors: frame_ancestors(raw),
        tls: tls(raw),
    }
}

fn names(raw: &mut Raw) -> Vec<String> {
    let typed = raw.texts("http.names").unwrap_or_default();
    let allowed = |name: &str| {
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        name.parse::<IpAddr>().is_ok() || (!name.is_empty() && name.chars().all(letters))
    };
    for name in typed.iter().filter(|name| !allowed(name)) {
        raw.problem(
            "http.names",
            format!("{name:?}"),
            "each must be a host name or an address without scheme and port, for example \"kithd.example\"",
        );
    }
    typed
        .iter()
        .map(|name| name.trim_end_matches('.').to_ascii_lowercase())
        .collect()
}

fn base_path(raw: &mut Raw) -> String {
    let typed = raw.text("http.base_path").unwrap_or_default();
    let path = typed.trim_end_matches('/').to_string();
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/');
    if !path.is_empty()
        && (!path.starts_with('/') || path.contains("//") || !path.chars().all(letters))
    {
        raw.problem(
            "http.base_path",
            format!("{typed:?}"),
            "must be a path of letters and digits, for example \"/kithd\"",
        );
    }
    path
}

fn proxies(raw: &mut Raw) -> Vec<IpAddr> {
    let typed = raw.texts("http.proxies").unwrap_or_default();
    let parsed = typed
        .iter()
        .filter_map(|text| match text.parse::<IpAddr>() {
            Ok(address) => Some(address.to_canonical()),
            Err(_) => {
                raw.problem(
                    "http.proxies",
                    format!("{text:?}"),
                    "each must be an address, for example \"127.0.0.1\"",
                );
                None
            }
        });
    parsed.collect()
}

fn frame_ancestors(raw: &mut Raw) -> Vec<String> {
    let typed = raw.texts("http.frame_ancestors").unwrap_or_default();
    let allowed = |origin: &String| {
        let host = ["http://", "https://"]
            .iter()
            .find_map(|scheme| origin.strip_prefix(scheme))
            .unwrap_or_default();
        let letters =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':' | '[' | ']');
        !host.is_empty() && host.chars().all(letters)
    };
    for origin in typed.iter().filter(|origin| !allowed(origin)) {
        raw.problem(
            "http.frame_ancestors",
            format!("{origin:?}"),
            "each must be scheme, host and port of a page, for example \"http://homeassistant.local:8123\"",
        );
    }
    typed
}

fn tls(raw: &mut Raw) -> Tls {
    let word = raw.text("http.tls");
    let (certificate, key) = (raw.text("http.certificate"), raw.text("http.key"));
    match (word.as_deref(), certificate, key) {
        (None, Some(certificate), Some(key)) => {
            let (certificate, key) = (PathBuf::from(certificate), PathBuf::from(key));
            for (name, path) in [("http.certificate", &certificate), ("http.key", &key)] {
                if !path.is_absolute() {
                    raw.problem(name, path.display(), "must be an absolute path");
                }
            }
            Tls::Files { certificate, key }
        }
        (None | Some("off"), None, None) => Tls::Off,
        (Some("self-signed"), None, None) => Tls::SelfSigned,
        (None, certificate, _) => {
            let (there, missing) = match certificate {
                Some(_) => ("http.certificate", "http.key"),
                None => ("http.key", "http.certificate"),
            };
            raw.problem(there, "", format!("needs {missing} as well"));
            Tls::Off
        }
        (Some("off" | "self-signed"), ..) => {
            raw.problem(
                "http.tls",
                "",
                "goes without http.certificate and http.key; leave it out to use those files",
            );
            Tls::Off
        }
        (Some(other), ..) => {
            let rule = "must be \"off\" or \"self-signed\"; for files of your own set http.certificate and http.key";
            raw.problem("http.tls", format!("{other:?}"), rule);
            Tls::Off
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    use super::*;

    fn check(text: &str) -> Result<Http, String> {
        let (config, _) = Config::check(Raw::parse(&format!("[http]\n{text}")));
        config
            .map(|config| config.http)
            .map_err(|problems| Config::problems_text(None, &problems))
    }

    #[test]
    fn a_certificate_needs_its_key_and_no_word_beside_them() {
        let tls = |text: &str| check(text).unwrap().tls;
        assert_eq!(tls(""), Tls::Off);
        assert_eq!(tls("tls = \"off\""), Tls::Off);
        assert_eq!(tls("tls = \"self-signed\""), Tls::SelfSigned);
        let files = tls("certificate = \"/etc/a.pem\"\nkey = \"/etc/a.key\"");
        assert_eq!(
            files,
            Tls::Files {
                certificate: "/etc/a.pem".into(),
                key: "/etc/a.key".into()
            }
        );
        for (text, complaint) in [
            (
                "certificate = \"/etc/a.pem\"",
                "http.certificate: needs http.key",
            ),
            ("key = \"/etc/a.key\"", "http.key: needs http.certificate"),
            ("tls = \"on\"", "must be \"off\" or \"self-signed\""),
            (
                "tls = \"self-signed\"\ncertificate = \"/a\"\nkey = \"/b\"",
                "goes without http.certificate",
            ),
            (
                "certificate = \"a.pem\"\nkey = \"/b\"",
                "must be an absolute path",
            ),
        ] {
            let said = check(text).unwrap_err();
            assert!(said.contains(complaint), "{said}");
        }
    }

    #[test]
    fn proxies_are_addresses_their_paths_paths_and_frames_origins() {
        let http = check(
            "proxies = [\"127.0.0.1\", \"::ffff:10.0.0.7\"]\nframe_ancestors = [\"https://ha.lan:8123\", \"http://[fd00::7]\"]",
        );
        let http = http.unwrap();
        assert_eq!(
            http.proxies,
            ["127.0.0.1", "10.0.0.7"].map(|text| text.parse::<IpAddr>().unwrap())
        );
        assert_eq!(
            http.frame_ancestors,
            ["https://ha.lan:8123", "http://[fd00::7]"]
        );
        assert_eq!(
            check("base_path = \"/doors/gate/\"").unwrap().base_path,
            "/doors/gate"
        );
        for wrong in ["kithd", "/a//b", "/{id}", "/a b"] {
            assert!(
                check(&format!("base_path = \"{wrong}\""))
                    .unwrap_err()
                    .contains("http.base_path"),
                "{wrong}"
            );
        }
        assert!(
            check("proxies = [\"nginx.lan\"]")
                .unwrap_err()
                .contains("http.proxies")
        );
        for wrong in [
            "ha.lan",
            "https://",
            "https://ha.lan/",
            "https://a b",
            "https://a;script-src",
            "*",
            "'self'",
        ] {
            let said = check(&format!("frame_ancestors = [\"{wrong}\"]")).unwrap_err();
            assert!(said.contains("http.frame_ancestors"), "{wrong}: {said}");
        }
    }

    #[test]
    fn names_are_hosts_without_scheme_and_port() {
        let names = check("names = [\"Kithd.Example.\", \"fd00::7\", \"10.0.0.7\"]")
            .unwrap()
            .names;
        assert_eq!(names, ["kithd.example", "fd00::7", "10.0.0.7"]);
        for wrong in ["https://kithd.example", "kithd.example:443", ""] {
            assert!(
                check(&format!("names = [\"{wrong}\"]"))
                    .unwrap_err()
                    .contains("http.names"),
                "{wrong}"
            );
        }
    }
}
