//! The names under which the board may be requested. A foreign page can point a name of its own
//! here (DNS rebinding), and its browser then takes both for one site. No page can do that with an
//! address, nor with a name that only the board's network assigns: its host name, in `.local` and
//! in the domains that this network searches.
//!
//! The port is ignored here: tunnels and proxies change it.

use std::net::{IpAddr, UdpSocket};

/// File with the domains that the system searches for short names; DHCP sets them.
const SEARCHED: &str = "/etc/resolv.conf";

/// The names the configuration adds to the board's own.
pub struct Hosts(Vec<String>);

impl Hosts {
    /// Makes the list from the configuration.
    pub fn new(configured: &[String]) -> Self {
        Self(configured.iter().map(|name| plain(name)).collect())
    }

    /// Returns true if a host, perhaps with a port, is the board, which got the request at the
    /// address `local`.
    pub fn own(&self, host: &str, local: IpAddr) -> bool {
        let Some((name, _)) = split(host) else {
            return false;
        };
        match name.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                address == local.to_canonical()
                    || address.is_loopback()
                    || self.0.contains(&address.to_string())
                    || is_here(address)
            }
            Err(_) => {
                let searched = || std::fs::read_to_string(SEARCHED).unwrap_or_default();
                self.0.contains(&name) || is_own_name(&name, &super::hostname(), searched)
            }
        }
    }

    /// Returns true if the configuration names this host.
    pub fn configured(&self, host: &str) -> bool {
        split(host).is_some_and(|(name, _)| self.0.contains(&name))
    }
}

/// Splits a Host header into name and port; `None` if it is invalid.
pub fn split(host: &str) -> Option<(String, Option<u16>)> {
    let (name, rest) = match host.strip_prefix('[') {
        // Browsers omit the zone of a link-local address, other programs include it.
        Some(rest) => {
            let (inside, rest) = rest.split_once(']')?;
            let address = inside.split('%').next()?.parse::<IpAddr>().ok()?;
            (address.to_string(), rest)
        }
        None => {
            let (name, rest) = host.split_at(host.find(':').unwrap_or(host.len()));
            let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            let name =
                Some(plain(name)).filter(|name| !name.is_empty() && name.chars().all(letters))?;
            (name, rest)
        }
    };
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((name, None)),
        Some("") => Some((name, None)),
        port => Some((name, Some(port?.parse().ok()?))),
    }
}

/// Returns true if this board has the address: binding a socket to it succeeds only then. Nothing
/// is sent.
fn is_here(address: IpAddr) -> bool {
    let has_address =
        !address.is_unspecified() && !address.is_multicast() && address != IpAddr::from([255; 4]);
    has_address && UdpSocket::bind((address, 0)).is_ok()
}

/// Returns true if a name is the board's. `searched` returns the search domains; it is called only
/// if the host name is followed by a domain.
fn is_own_name(name: &str, hostname: &str, searched: impl FnOnce() -> String) -> bool {
    let own = own_names(hostname);
    if own.iter().any(|own| own == name) {
        return true;
    }
    let whole = plain(hostname);
    let first = whole.split('.').next().unwrap_or_default();
    let Some(rest) = name.strip_prefix(first).filter(|_| !first.is_empty()) else {
        return false;
    };
    // mDNS appends a number to the second of two boards of one name.
    let numbered = rest
        .strip_prefix('-')
        .and_then(|rest| rest.strip_suffix(".local"));
    if numbered.is_some_and(|number| {
        (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
    }) {
        return true;
    }
    let Some(domain) = rest.strip_prefix('.') else {
        return false;
    };
    let searched = searched();
    let domains = searched.lines().flat_map(|line| {
        let mut words = line.split_whitespace();
        let wanted = matches!(words.next(), Some("search" | "domain"));
        words.filter(move |_| wanted)
    });
    domains
        .map(plain)
        .any(|searched| !searched.is_empty() && searched == domain)
}

/// Returns `board.lan`, `board`, `board.local` and `localhost`.
pub fn own_names(hostname: &str) -> Vec<String> {
    let whole = plain(hostname);
    let first = whole.split('.').next().unwrap_or_default().to_string();
    let mut names = vec!["localhost".to_string()];
    if !first.is_empty() {
        names.extend([format!("{first}.local"), first, whole]);
    }
    names
}

/// Normalises a name: small letters, no trailing dot.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADVERSE: [&str; 14] = [
        "evil.example",
        "192.0.2.7:8000",
        "localhost.evil.example",
        "localhost@evil.example",
        "x@localhost",
        "",
        ":8000",
        "localhost/",
        "127.0.0.1.evil.example",
        "0.0.0.0",
        "[::]",
        "255.255.255.255",
        "localhost:80000",
        "[::1",
    ];

    #[test]
    fn the_board_is_known_by_its_addresses_and_what_was_configured() {
        let hosts = Hosts::new(&[
            "kithd.example".into(),
            "203.0.113.7".into(),
            "fd00::9".into(),
        ]);
        let local = IpAddr::from([192, 168, 1, 20]);
        for host in [
            "192.168.1.20:8000",
            "192.168.1.20",
            "127.0.0.1:8000",
            "127.0.1.1",
            "localhost:8000",
            "LOCALHOST.",
            "localhost:",
            "[::1]:8000",
            "[::ffff:192.168.1.20]:8000",
            "kithd.example",
            "Kithd.Example.:443",
            "203.0.113.7",
            "[fd00::9]",
        ] {
            assert!(hosts.own(host, local), "{host}");
        }
        for host in ADVERSE {
            assert!(!hosts.own(host, local), "{host}");
        }
        let six = "fe80::7".parse().unwrap();
        for host in ["[fe80::7]:8000", "[fe80::7%eth0]:8000", "[fe80::7%25eth0]"] {
            assert!(hosts.own(host, six), "{host}");
        }
        assert!(!hosts.own("[fe80::8]", six) && !hosts.own("fe80::7", six));
        assert!(hosts.own("192.168.1.20", "::ffff:192.168.1.20".parse().unwrap()));
    }

    #[test]
    fn names_are_the_boards_own_as_its_network_has_them() {
        let searched = "nameserver 192.168.1.1\nsearch fritz.box corp.example\n#search evil.example\ndomain home.arpa\noptions edns0";
        let own = |name: &str| is_own_name(name, "Gate", || searched.to_string());
        for name in [
            "gate",
            "gate.local",
            "gate-2.local",
            "gate-17.local",
            "gate.fritz.box",
            "gate.corp.example",
            "gate.home.arpa",
            "localhost",
        ] {
            assert!(own(name), "{name}");
        }
        for name in [
            "gate.evil.example",
            "gate.example",
            "gate-2.fritz.box",
            "gate-2",
            "gate-.local",
            "gate-x.local",
            "gate2.local",
            "gate-2.local.evil.example",
            "gate.fritz.box.evil.example",
            "door.fritz.box",
            "fritz.box",
            "gate.",
        ] {
            assert!(!own(name), "{name}");
        }
        assert!(is_own_name("gate.lan", "gate.lan", String::new));
        assert!(!is_own_name("gate.box", "gate.lan", || "search .\n".to_string()));
        assert!(!is_own_name("-2.local", "", || "search local".to_string()));
    }
}
