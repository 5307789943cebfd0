//! The broker's address as typed in the configuration: `mqtt://host[:port]`, or encrypted
//! `mqtts://host[:port]`. Not a general URL parser; credentials have configuration keys of their
//! own.

use std::fmt;
use std::str::FromStr;

const PORT: u16 = 1883;
const ENCRYPTED_PORT: u16 = 8883;

/// Address of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address; IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS.
    pub encrypted: bool,
}

impl Address {
    /// Returns the host as written before `:port`, IPv6 in brackets.
    pub(super) fn bracketed_host(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        }
    }
}

/// Reason for refusing an address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// rumqttc checks certificates against names and IPv4 addresses only.
    #[error("an encrypted connection (mqtts://) needs the broker's name or its IPv4 address")]
    EncryptedV6,
    /// Another scheme, or none.
    #[error("a broker address starts with mqtt:// or mqtts://, as in mqtt://broker.lan:1883")]
    Scheme,
    /// `user:password@`, which would end up in logs and process lists.
    #[error("a broker address holds no user name or password; they have keys of their own")]
    Credentials,
    /// A path, query or fragment follows the port.
    #[error("a broker address ends after the port")]
    Trailing,
    /// The host is missing, or has characters that no host has.
    #[error(
        "the host of the broker address is missing or malformed; IPv6 goes in brackets, as in mqtt://[::1]:1883"
    )]
    Host,
    /// Not a number from 1 to 65535.
    #[error("the port of the broker address is not a number from 1 to 65535")]
    Port,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some((scheme, rest)) = text.trim().split_once("://") else {
            return Err(AddressError::Scheme);
        };
        let encrypted = match scheme.to_ascii_lowercase().as_str() {
            "mqtt" => false,
            "mqtts" => true,
            _ => return Err(AddressError::Scheme),
        };
        if rest.contains('@') {
            return Err(AddressError::Credentials);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(AddressError::Trailing);
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or(AddressError::Host)?;
                host.parse::<std::net::Ipv6Addr>()
                    .map_err(|_| AddressError::Host)?;
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':').ok_or(AddressError::Host)?),
                };
                (host, port)
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        // A second colon outside brackets means an IPv6 address without its brackets.
        if host.is_empty()
            || host.contains(char::is_whitespace)
            || port.is_some_and(|port| port.contains(':'))
        {
            return Err(AddressError::Host);
        }
        let port = match port {
            None if encrypted => ENCRYPTED_PORT,
            None => PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or(AddressError::Port)?,
        };
        if encrypted && host.contains(':') {
            return Err(AddressError::EncryptedV6);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            encrypted,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.encrypted { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.bracketed_host(), self.port)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn address(host: &str, port: u16) -> Result<Address, AddressError> {
        Ok(Address {
            host: host.to_owned(),
            port,
            encrypted: false,
        })
    }

    #[test]
    fn names_and_both_ip_versions_are_read_with_or_without_a_port() {
        assert_eq!("mqtt://broker.lan".parse(), address("broker.lan", 1883));
        assert_eq!("mqtt://10.0.0.5:2883".parse(), address("10.0.0.5", 2883));
        assert_eq!("mqtt://[::1]:1884".parse(), address("::1", 1884));
        assert_eq!("MQTT://[fd00::5]/".parse(), address("fd00::5", 1883));
        let encrypted = Address {
            host: "broker.lan".to_owned(),
            port: 8883,
            encrypted: true,
        };
        assert_eq!("mqtts://broker.lan".parse(), Ok(encrypted));
    }

    #[test]
    fn an_address_is_shown_as_it_can_be_typed() {
        for text in [
            "mqtt://broker.lan:1883",
            "mqtt://[::1]:1883",
            "mqtts://broker.lan:8883",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn every_refused_address_says_what_is_wrong_with_it() {
        for (text, expected) in [
            ("mqtts://[::1]", AddressError::EncryptedV6),
            ("broker:1883", AddressError::Scheme),
            ("http://broker", AddressError::Scheme),
            ("mqtt://me:secret@broker", AddressError::Credentials),
            ("mqtt://broker/path", AddressError::Trailing),
            ("mqtt://broker?x=1", AddressError::Trailing),
            ("mqtt://", AddressError::Host),
            ("mqtt://:1883", AddressError::Host),
            ("mqtt://::1", AddressError::Host),
            ("mqtt://fd00::5:1883", AddressError::Host),
            ("mqtt://[nonsense]:1883", AddressError::Host),
            ("mqtt://[::1]1883", AddressError::Host),
            ("mqtt://broker:0", AddressError::Port),
            ("mqtt://broker:70000", AddressError::Port),
            ("mqtt://broker:", AddressError::Port),
        ] {
            assert_eq!(text.parse::<Address>(), Err(expected), "{text}");
        }
    }
}
