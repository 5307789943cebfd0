//! The administrator's token: 32 random bytes in a file that only its owner may read. In memory
//! there is its hash.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// In the state folder.
const FILE: &str = "token";
/// Of one that somebody chose; shorter ones can be guessed.
const SHORTEST: usize = 32;
const LONGEST: usize = 512;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something else is in it.
    #[error(
        "{0} holds no token of {SHORTEST} to {LONGEST} visible characters; kithd token --new makes a new one"
    )]
    Damaged(PathBuf),
    /// Just after the start of a board.
    #[error("the system has no random numbers yet")]
    NoRandom,
}

/// A secret as it is kept: what was sent is compared in a time that tells nothing.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Of a text.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Whether that is it.
    pub fn is(&self, sent: &str) -> bool {
        *self == Self::of(sent)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// 32 random bytes as text.
pub fn random() -> Option<String> {
    let mut bytes = [0; 32];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .ok()?;
    Some(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// The token of a state folder; a new one if there is none.
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
            "{} could be read by others and is closed to them; kithd token --new replaces it",
            path.display()
        );
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).map_err(io)?;
    }
    Ok(text)
}

/// A new token, on disk when this returns; the file is whole or not there.
pub fn replace(state_dir: &Path) -> Result<String, TokenError> {
    let token = random().ok_or(TokenError::NoRandom)?;
    let path = state_dir.join(FILE);
    let write = || {
        // Made with mode 0600.
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
    fn a_token_is_made_once_for_its_owner_only_and_replaced_by_another() {
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
