//! The join code: all that a board needs to become one of a fleet, to be copied by hand or as a QR
//! code. It contains the secret of the fleet.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use prost::Message;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::seal::Secret;

/// Most characters of a fleet's name.
pub const NAME_CHARS: usize = 40;
/// Most bytes of a topic prefix, and of a broker's address.
pub const ADDRESS_BYTES: usize = 255;

const START: &str = "kithd-fleet-";
const VERSION: u32 = 1;
/// Bytes of the sum against typing errors.
const SUM_BYTES: usize = 3;
/// Most characters of a code: name, secret, prefix and broker at their longest, as base64.
const CODE_CHARS: usize = 1024;

/// A reason why a text is no join code. The sentence is for its typist.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodeError {
    /// The beginning is missing.
    #[error("a join code begins with \"{START}\"")]
    NoCode,
    /// More characters than any code.
    #[error("this is no join code: it has {chars} characters, and {CODE_CHARS} is the limit")]
    TooLong {
        /// Its characters.
        chars: usize,
    },
    /// Mistyped, or not all of it was copied.
    #[error("the join code is not complete or has a typing error")]
    Mistyped,
    /// Another format than this version of kithd reads.
    #[error("the join code was made by a newer kithd: update this board")]
    Newer,
    /// The name of the fleet is none.
    #[error("a fleet's name has 1 to {NAME_CHARS} characters, of a to z, 0 to 9 and -")]
    Name,
    /// The topic prefix or the address is empty or too long.
    #[error("the {what} of the fleet has {size} bytes; 1 to {ADDRESS_BYTES} are allowed")]
    Address {
        /// The one that is wrong.
        what: &'static str,
        /// Its size.
        size: usize,
    },
}

/// The content of a join code. `Debug` does not show the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinCode {
    name: String,
    secret: Secret,
    prefix: String,
    broker: String,
}

#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bytes = "vec", tag = "3")]
    secret: Vec<u8>,
    #[prost(string, tag = "4")]
    prefix: String,
    #[prost(string, tag = "5")]
    broker: String,
}

impl JoinCode {
    /// Makes the code of a fleet: its name (see [`check_name`]), secret, topic prefix and the
    /// address of its broker.
    pub fn new(
        name: String,
        secret: Secret,
        prefix: String,
        broker: String,
    ) -> Result<Self, CodeError> {
        check_name(&name)?;
        for (what, text) in [("topic prefix", &prefix), ("broker's address", &broker)] {
            let size = text.len();
            if !(1..=ADDRESS_BYTES).contains(&size) {
                return Err(CodeError::Address { what, size });
            }
        }
        Ok(Self {
            name,
            secret,
            prefix,
            broker,
        })
    }

    /// Returns the fleet's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the fleet's secret.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Returns the prefix of the fleet's topics.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the address of the fleet's broker.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// Returns the code as text, with the secret: `kithd-fleet-` and base64url without padding
    /// (RFC 4648, section 5) of the content and the first 3 bytes of its SHA-256.
    pub fn to_text(&self) -> String {
        let wire = Wire {
            version: VERSION,
            name: self.name.clone(),
            secret: self.secret.bytes().to_vec(),
            prefix: self.prefix.clone(),
            broker: self.broker.clone(),
        };
        let mut bytes = wire.encode_to_vec();
        bytes.extend_from_slice(&sum(&bytes));
        format!("{START}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads a code; white space in it, as of a line that was broken, does not matter.
    pub fn parse(typed: &str) -> Result<Self, CodeError> {
        let chars = typed.chars().count();
        if chars > CODE_CHARS {
            return Err(CodeError::TooLong { chars });
        }
        let code: String = typed.split_whitespace().collect();
        let encoded = code.strip_prefix(START).ok_or(CodeError::NoCode)?;
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(encoded);
        let bytes = decoded.map_err(|_| CodeError::Mistyped)?;
        let (content, typed_sum) = bytes
            .split_last_chunk::<SUM_BYTES>()
            .ok_or(CodeError::Mistyped)?;
        if sum(content) != *typed_sum {
            return Err(CodeError::Mistyped);
        }
        let wire = Wire::decode(content).map_err(|_| CodeError::Mistyped)?;
        if wire.version > VERSION {
            return Err(CodeError::Newer);
        }
        let secret = wire.secret.try_into().map_err(|_| CodeError::Mistyped)?;
        Self::new(wire.name, Secret::new(secret), wire.prefix, wire.broker)
    }
}

/// Checks a fleet's name: 1 to 40 characters of a to z, 0 to 9 and -. It is a level of topics.
pub fn check_name(name: &str) -> Result<(), CodeError> {
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
    if (1..=NAME_CHARS).contains(&name.len()) && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(CodeError::Name)
    }
}

fn sum(content: &[u8]) -> [u8; SUM_BYTES] {
    let sum: [u8; 32] = Sha256::digest(content).into();
    [sum[0], sum[1], sum[2]]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> JoinCode {
        JoinCode::new(
            "home-2".into(),
            Secret::new([7; 32]),
            "kithd".into(),
            "mqtts://broker.lan:8883".into(),
        )
        .unwrap()
    }

    #[test]
    fn a_code_is_read_as_it_was_made() {
        let text = code().to_text();
        assert_eq!(text, GOLDEN);
        assert_eq!(JoinCode::parse(&text).unwrap(), code());
        // Broken over lines, as a message with it may be.
        let broken = format!("  {}\n{}\n", &text[..40], &text[40..]);
        assert_eq!(JoinCode::parse(&broken).unwrap(), code());
    }

    /// The text of [`code`]: codes already printed must stay readable.
    const GOLDEN: &str = "kithd-fleet-CAESBmhvbWUtMhogBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwci\
        BWtpdGhkKhdtcXR0czovL2Jyb2tlci5sYW46ODg4MznHxw";

    #[test]
    fn a_code_with_any_wrong_character_is_refused() {
        const LETTERS: &[u8] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=. ";
        let text = code().to_text();
        for place in 0..text.len() {
            for letter in LETTERS.iter().map(|letter| char::from(*letter)) {
                let mut wrong = text.clone();
                wrong.replace_range(place..=place, letter.encode_utf8(&mut [0; 4]));
                if wrong != text {
                    assert!(JoinCode::parse(&wrong).is_err(), "{place}: {letter:?}");
                }
            }
            assert!(JoinCode::parse(&text[..place]).is_err());
        }
    }

    #[test]
    fn each_wrong_code_is_named() {
        let refused = |text: &str| JoinCode::parse(text).unwrap_err();
        assert_eq!(refused("hello"), CodeError::NoCode);
        assert_eq!(refused("kithd-fleet-"), CodeError::Mistyped);
        assert_eq!(refused("kithd-fleet-A*"), CodeError::Mistyped);
        let long = refused(&"x".repeat(2000));
        assert_eq!(long, CodeError::TooLong { chars: 2000 });
        let with = |wire: &Wire| {
            let mut bytes = wire.encode_to_vec();
            bytes.extend_from_slice(&sum(&bytes));
            refused(&format!("{START}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
        };
        let good = Wire {
            version: 1,
            name: "home".into(),
            secret: vec![7; 32],
            prefix: "kithd".into(),
            broker: "mqtt://b".into(),
        };
        let newer = with(&Wire {
            version: 2,
            ..good.clone()
        });
        assert_eq!(newer, CodeError::Newer);
        let unnamed = with(&Wire {
            name: "Home/1".into(),
            ..good.clone()
        });
        assert_eq!(unnamed, CodeError::Name);
        let short = with(&Wire {
            secret: vec![7; 31],
            ..good.clone()
        });
        assert_eq!(short, CodeError::Mistyped);
        let nowhere = with(&Wire {
            broker: String::new(),
            ..good
        });
        assert_eq!(
            nowhere.to_string(),
            "the broker's address of the fleet has 0 bytes; 1 to 255 are allowed"
        );
    }

    #[test]
    fn names_of_fleets_are_levels_of_topics() {
        for name in ["home", "7", "a-b", &"x".repeat(40)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "Home", "a/b", "a b", "ä", "+", &"x".repeat(41)] {
            assert_eq!(check_name(name), Err(CodeError::Name), "{name}");
        }
    }

    #[test]
    fn the_longest_code_can_be_read() {
        let longest = JoinCode::new(
            "x".repeat(NAME_CHARS),
            Secret::random().unwrap(),
            "p".repeat(ADDRESS_BYTES),
            "b".repeat(ADDRESS_BYTES),
        );
        let longest = longest.unwrap();
        assert_eq!(JoinCode::parse(&longest.to_text()).unwrap(), longest);
    }

    #[test]
    fn what_is_logged_does_not_show_the_secret() {
        let text = format!("{:?}", code());
        assert!(text.contains("home-2") && !text.contains("7, 7"), "{text}");
    }
}
