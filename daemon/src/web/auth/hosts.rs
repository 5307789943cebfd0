//! By which names the board may be asked. A page elsewhere can make a name of its own lead here (DNS rebinding), and its
//! browser then believes that both are one site.
//!
//! The port is not looked at: it is in the address, which no page can choose, and tunnels and proxies change it.

use std::net::IpAddr;

use axum::http::uri::Authority;

/// The board's own names.
pub struct Hosts(Vec<String>);

impl Hosts {
    /// By the system's host name, and by the configuration.
    pub fn new(hostname: &str, configured: &[String]) -> Self {
        let mut names: Vec<String> = own_names(hostname);
        names.extend(configured.iter().map(|name| plain(name)));
        Self(names)
    }

    /// Whether a host, perhaps with a port, is the board, which was asked at the address `local`.
    pub fn own(&self, host: &str, local: IpAddr) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if host.contains('@') {
            return false;
        }
        let name = plain(authority.host());
        match name.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                address == local.to_canonical() || address.is_loopback() || self.0.contains(&address.to_string())
            }
            Err(_) => self.0.contains(&name),
        }
    }
}

/// `board.lan`, `board`, `board.local` and `localhost`.
pub fn own_names(hostname: &str) -> Vec<String> {
    let whole = plain(hostname);
    let first = whole.split('.').next().unwrap_or_default().to_string();
    let mut names = vec!["localhost".to_string()];
    if !first.is_empty() {
        names.extend([format!("{first}.local"), first, whole]);
    }
    names
}

/// In small letters, without brackets and the dot at the end.
fn plain(name: &str) -> String {
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_is_known_by_its_names_its_addresses_and_what_was_configured() {
        let hosts = Hosts::new("Gate.lan", &["kithd.example".into(), "203.0.113.7".into()]);
        let local = IpAddr::from([192, 168, 1, 20]);
        for host in [
            "192.168.1.20:8000",
            "192.168.1.20",
            "127.0.0.1:8000",
            "localhost:8000",
            "LOCALHOST.",
            "[::1]:8000",
            "gate",
            "gate.local:8000",
            "gate.lan",
            "kithd.example",
            "kithd.example:443",
            "203.0.113.7",
        ] {
            assert!(hosts.own(host, local), "{host}");
        }
        for host in [
            "evil.example",
            "192.168.1.21:8000",
            "gate.local.evil.example",
            "localhost.evil.example",
            "gate.local@evil.example",
            "x@gate.local",
            "",
            ":8000",
            "gate.local/",
            "127.0.0.1.evil.example",
        ] {
            assert!(!hosts.own(host, local), "{host}");
        }
        let six = "fd00::7".parse().unwrap();
        assert!(hosts.own("[fd00::7]:8000", six) && !hosts.own("[fd00::8]", six));
        assert!(hosts.own("192.168.1.20", "::ffff:192.168.1.20".parse().unwrap()));
    }
}
