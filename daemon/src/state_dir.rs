//! The state folder: made, owned, and held by one process at a time.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// A daemon that was killed may have been starting an engine just then: the child holds the lock until it becomes one.
const LET_GO: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process has it.
    #[error("{0} is in use by another kithd; stop it, or let this command talk to it through {0}/control.sock")]
    Held(PathBuf),
    /// Files of another owner would be left behind.
    #[error("{folder} belongs to user {owner}; run this as that user: sudo -u '#{owner}' {command}")]
    NotOwner {
        /// The state folder.
        folder: PathBuf,
        /// Its owner's number.
        owner: u32,
        /// What was typed.
        command: String,
    },
    /// It cannot be made or opened.
    #[error("the state folder {folder} cannot be used: {source}; set state_dir to a folder you may write")]
    Io {
        /// The state folder.
        folder: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Holds the state folder until dropped.
#[derive(Debug)]
pub struct StateDir {
    _lock: File,
}

impl StateDir {
    /// Makes the folder and its parts and takes its lock.
    pub fn hold(folder: &Path) -> Result<Self, StateDirError> {
        let io = |source| StateDirError::Io { folder: folder.into(), source };
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true).mode(0o750);
        make.create(folder).map_err(io)?;
        let owner = std::fs::metadata(folder).map_err(io)?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            let command = std::env::args().collect::<Vec<_>>().join(" ");
            return Err(StateDirError::NotOwner { folder: folder.into(), owner, command });
        }
        for part in [crate::spool::SPOOL, "inbox"] {
            make.create(folder.join(part)).map_err(io)?;
        }
        let lock =
            File::options().create(true).truncate(false).write(true).open(folder.join("kithd.lock")).map_err(io)?;
        let begun = Instant::now();
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LET_GO => std::thread::sleep(LOOK_AGAIN),
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateDirError::Held(folder.into())),
                Err(error) => return Err(io(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_just_being_let_go_is_waited_for_and_one_that_is_held_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let held = StateDir::hold(folder.path()).unwrap();
        let error = StateDir::hold(folder.path()).unwrap_err().to_string();
        assert!(error.contains("is in use by another kithd; stop it"), "{error}");
        let dying = std::thread::spawn(move || {
            std::thread::sleep(LET_GO / 4);
            drop(held);
        });
        StateDir::hold(folder.path()).unwrap();
        dying.join().unwrap();
    }
}
