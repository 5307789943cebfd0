//! Records on their way: sealed by authenticated encryption, under topics that tell nothing. The
//! broker and its other clients see numbers and sizes only.
//!
//! Not for what is believed of a record that opens; joining it decides, so an old one changes
//! nothing.

use std::fmt;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;

use super::record::{Kind, RECORD_BYTES, Record, RecordError, Uid};
use crate::domain::hex;

/// Bytes of a fleet's secret.
pub const SECRET_BYTES: usize = 32;
/// Most bytes of a sealed record.
pub const SEALED_BYTES: usize = HEADER_BYTES + padded(RECORD_BYTES) + TAG_BYTES;

const MAGIC: [u8; 2] = *b"kf";
/// The format that this version writes, and the only one that it opens.
const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
/// Magic, version, key.
const HEAD_BYTES: usize = MAGIC.len() + 1 + KEY_ID_BYTES;
/// The head and the nonce.
const HEADER_BYTES: usize = HEAD_BYTES + NONCE_LEN;
const TAG_BYTES: usize = 16;
const LENGTH_BYTES: usize = 4;
/// The plaintext is filled up to a multiple of this, so that the length of a name does not show.
const PADDING: usize = 64;

const fn padded(record_bytes: usize) -> usize {
    (LENGTH_BYTES + record_bytes).next_multiple_of(PADDING)
}

/// The secret of a fleet: its holder reads and writes all records.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// Takes a secret from the database or a code.
    pub fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// Draws a secret. `None`: the system gives no random numbers.
    pub fn random() -> Option<Self> {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// Returns the bytes, for the database and a code.
    pub fn bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A reason why a message is not taken. The sentence is for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// More bytes than any sealed record.
    #[error("the message has {bytes} bytes, and {SEALED_BYTES} is the limit")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// No message of a fleet.
    #[error("the message is no sealed record")]
    NotSealed,
    /// Another format than this version of kithd opens.
    #[error(
        "the message was sealed by a newer kithd (format {version}; this one opens format {VERSION}): update this board"
    )]
    Newer {
        /// The format.
        version: u8,
    },
    /// Sealed with the key of another fleet, or with a former key of this one.
    #[error("the message was sealed with another key ({theirs}; this board has {ours})")]
    OtherKey {
        /// The number of the message's key.
        theirs: String,
        /// The number of this board's key.
        ours: String,
    },
    /// The sum does not fit: changed on its way, made without the key, or put under another topic.
    #[error("the message is damaged, forged, or from another topic")]
    Damaged,
    /// Sealed for this topic by a board with the key, but not the record that belongs there.
    #[error("the record does not belong to its topic")]
    OtherTopic,
    /// Opened, but the record is not taken.
    #[error("the record was refused: {0}")]
    Record(#[from] RecordError),
    /// Not sealed, since the nonce must be random.
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// Seals and opens the records of one fleet.
///
/// A sealed record is `kf` ‖ version (1 byte) ‖ number of the key (4) ‖ nonce (12) ‖ ciphertext ‖ tag
/// (16), by ChaCha20-Poly1305 (RFC 8439). Each record has a key of its own, HMAC-SHA-256 (RFC 2104)
/// of the secret over `record` ‖ tail of the topic; head and tail are authenticated with it. So the
/// random nonces of one key are as many as the changes of one record. The plaintext is the record's
/// length (4 bytes, big-endian), its bytes, and zeros up to a multiple of 64.
pub struct Seal {
    secret: hmac::Key,
    topics: hmac::Key,
    key_id: [u8; KEY_ID_BYTES],
    random: SystemRandom,
}

impl Seal {
    /// Makes what seals with a secret.
    pub fn new(secret: &Secret) -> Self {
        let secret = hmac::Key::new(HMAC_SHA256, &secret.0);
        let topics = hmac::sign(&secret, b"topics");
        let mut key_id = [0; KEY_ID_BYTES];
        key_id.copy_from_slice(&hmac::sign(&secret, b"id").as_ref()[..KEY_ID_BYTES]);
        Self {
            topics: hmac::Key::new(HMAC_SHA256, topics.as_ref()),
            secret,
            key_id,
            random: SystemRandom::new(),
        }
    }

    /// Returns the number of the key, 8 hexadecimal digits. It tells the keys of a fleet apart and
    /// nothing of the secret.
    pub fn key_id(&self) -> String {
        hex(&self.key_id)
    }

    /// Returns the filter for the topics of all records: `<prefix>/fleet/<name>/<key>/+`.
    pub fn filter(&self, prefix: &str, name: &str) -> String {
        format!("{prefix}/fleet/{name}/{}/+", self.key_id())
    }

    /// Returns the topic of a record: `<prefix>/fleet/<name>/<key>/<tail>`.
    pub fn topic(&self, prefix: &str, name: &str, kind: Kind, uid: &Uid) -> String {
        let tail = self.tail(kind, uid);
        format!("{prefix}/fleet/{name}/{}/{tail}", self.key_id())
    }

    /// Returns the last level of a record's topic, 32 hexadecimal digits, from which nobody without
    /// the secret learns kind or uid.
    pub fn tail(&self, kind: Kind, uid: &Uid) -> String {
        let mut name = vec![kind as u8];
        name.extend_from_slice(uid);
        hex(&hmac::sign(&self.topics, &name).as_ref()[..16])
    }

    /// Seals a record for its topic. Fails only without random numbers.
    pub fn seal(&self, record: &Record) -> Result<Vec<u8>, SealError> {
        let tail = self.tail(record.kind(), record.uid());
        let mut nonce = [0; NONCE_LEN];
        let drawn = self.random.fill(&mut nonce);
        drawn.map_err(|_| SealError::NoRandom)?;
        self.seal_as(&tail, nonce, &record.encode())
    }

    /// Opens a message that came under a topic with this tail. Fails, and names why, unless a board
    /// with the key sealed exactly this record for exactly this topic.
    pub fn open(&self, tail: &str, sealed: &[u8]) -> Result<Record, SealError> {
        if sealed.len() > SEALED_BYTES {
            let bytes = sealed.len();
            return Err(SealError::TooLarge { bytes });
        }
        let Some(rest) = sealed.strip_prefix(&MAGIC) else {
            return Err(SealError::NotSealed);
        };
        match rest.first() {
            Some(&VERSION) => {}
            Some(&version) if version > VERSION => return Err(SealError::Newer { version }),
            _ => return Err(SealError::NotSealed),
        }
        let Some((key_id, rest)) = rest[1..].split_first_chunk::<KEY_ID_BYTES>() else {
            return Err(SealError::Damaged);
        };
        if *key_id != self.key_id {
            return Err(SealError::OtherKey {
                theirs: hex(key_id),
                ours: self.key_id(),
            });
        }
        let Some((nonce, ciphertext)) = rest.split_first_chunk::<NONCE_LEN>() else {
            return Err(SealError::Damaged);
        };
        let (key, aad) = self.of_record(tail).map_err(|_| SealError::Damaged)?;
        let mut plain = ciphertext.to_vec();
        let opened = key.open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(&aad),
            &mut plain,
        );
        let plain = opened.map_err(|_| SealError::Damaged)?;
        let bytes = unpadded(plain).ok_or(SealError::Damaged)?;
        let record = Record::decode(bytes)?;
        if self.tail(record.kind(), record.uid()) != tail {
            return Err(SealError::OtherTopic);
        }
        Ok(record)
    }

    fn seal_as(
        &self,
        tail: &str,
        nonce: [u8; NONCE_LEN],
        record: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        let mut plain = vec![0; padded(record.len())];
        plain[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
        plain[LENGTH_BYTES..][..record.len()].copy_from_slice(record);
        let sealed = self.of_record(tail).and_then(|(key, aad)| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            key.seal_in_place_append_tag(nonce, Aad::from(&aad), &mut plain)
        });
        // The cipher refuses only texts of gigabytes.
        let too_large = |_| SealError::TooLarge {
            bytes: record.len(),
        };
        sealed.map_err(too_large)?;
        let mut message = self.head().to_vec();
        message.extend_from_slice(&nonce);
        message.append(&mut plain);
        Ok(message)
    }

    /// Returns the key of the record under a topic, and what is authenticated beside its content.
    fn of_record(&self, tail: &str) -> Result<(LessSafeKey, Vec<u8>), Unspecified> {
        let key = hmac::sign(&self.secret, format!("record{tail}").as_bytes());
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_ref())?;
        let mut aad = self.head().to_vec();
        aad.extend_from_slice(tail.as_bytes());
        Ok((LessSafeKey::new(key), aad))
    }

    fn head(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..2].copy_from_slice(&MAGIC);
        head[2] = VERSION;
        head[3..].copy_from_slice(&self.key_id);
        head
    }
}

/// Returns the record's bytes of a plaintext. `None`: no board makes such a one.
fn unpadded(plain: &[u8]) -> Option<&[u8]> {
    let (length, rest) = plain.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (record, zeros) = rest.split_at_checked(length)?;
    let whole = plain.len() == padded(length) && zeros.iter().all(|byte| *byte == 0);
    whole.then_some(record)
}

#[cfg(test)]
mod tests;
