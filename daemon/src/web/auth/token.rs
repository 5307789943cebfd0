//! The administrator's token: 32 random bytes in a file that only its owner may read. Memory holds
//! only its hash.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// File name in the state folder.
const FILE: &str = "token";
/// Shortest token that an operator may choose; shorter ones can be guessed.
const SHORTEST: usize = 32;
const LONGEST: usize = 512;

/// Reasons why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error(
        "{0} holds no token of {SHORTEST} to {LONGEST} visible characters; kithd token --new makes a new one"
    )]
    Damaged(PathBuf),
    /// The board has just started and has no random numbers.
    #[error("the system has no random numbers yet")]
    NoRandom,
}

/// The hash of a secret, compared in constant time.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Hashes a text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Returns true if the sent text is the secret.
    pub fn is(&self, sent: &str) -> bool {
        *self == Self::of(sent)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// Returns 32 random bytes as text.
pub fn random() -> Option<String> {
    let mut bytes = [0; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .ok()?;
    Some(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Returns the token of a state folder; makes one if there is none.
pub fn read_or_make(state_dir: &Path) -> Result<String, TokenError> {
    let path = state_dir.join(FILE);
    let io = |source| TokenError::Io {
        path: path.clone(),
        source,
    };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().to_string(),
        Err(error) if error.kind() == ErrorKind::NotFound => return replace(state_dir),
        Err(error) => return Err(io(error)),
    };
    if !(SHORTEST..=LONGEST).contains(&text.len())
        || !text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(TokenError::Damaged(path));
    }
    let mode = std::fs::metadata(&path).map_err(io)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(
            "{} was readable by other users and is not any more; replace the token with kithd token --new",
            path.display()
        );
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).map_err(io)?;
    }
    Ok(text)
}

/// Makes a new token, which is on disk when this returns; the file is complete or absent.
pub fn replace(state_dir: &Path) -> Result<String, TokenError> {
    let token = random().ok_or(TokenError::NoRandom)?;
    let path = state_dir.join(FILE);
    let write = || {
        // The file is created with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
        writeln!(file, "{token}")?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        std::fs::File::open(state_dir)?.sync_all()
    };
    write().map_err(|source| TokenError::Io {
        path: path.clone(),
        source,
    })?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_readable_by_its_owner_and_replaceable() {
        let folder = tempfile::tempdir().unwrap();
        let first = read_or_make(folder.path()).unwrap();
        assert_eq!(
            (first.len(), read_or_make(folder.path()).unwrap()),
            (43, first.clone())
        );
        let file = folder.path().join(FILE);
        let mode = || std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        read_or_make(folder.path()).unwrap();
        assert_eq!(mode(), 0o600);
        assert_ne!(replace(folder.path()).unwrap(), first);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
        for wrong in ["", "short", "with spaces in it, whatever its length may be"] {
            std::fs::write(&file, wrong).unwrap();
            assert!(
                matches!(read_or_make(folder.path()), Err(TokenError::Damaged(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_secret_knows_itself() {
        let secret = Secret::of("abc");
        assert!(secret.is("abc") && !secret.is("abd") && !secret.is(""));
    }
}
