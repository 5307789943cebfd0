//! The state folder: created, checked for ownership, and locked by one process at a time.

use std::fs::{File, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, flock};

/// A killed daemon may have been starting an engine: the child holds the lock until it has called
/// exec, which takes seconds on a busy board.
const LET_GO: Duration = Duration::from_secs(5);
/// Permissions that only the owner may have: writing by the group, and any access by others.
const OPEN: u32 = 0o027;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Reasons why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another process holds it.
    #[error(
        "{0} is in use by another kithd; stop it, or let this command talk to it through {0}/control.sock"
    )]
    Held(PathBuf),
    /// Files of another owner would be left behind.
    #[error(
        "{folder} belongs to user {owner}; run this as that user: sudo -u '#{owner}' {command}"
    )]
    NotOwner {
        /// The state folder.
        folder: PathBuf,
        /// User number of its owner.
        owner: u32,
        /// The command line.
        command: String,
    },
    /// The folder cannot be created or opened.
    #[error(
        "the state folder {folder} cannot be used: {source}; set state_dir to a folder you may write"
    )]
    Io {
        /// The state folder.
        folder: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Holds the state folder until dropped.
#[derive(Debug)]
pub struct StateDir {
    _lock: File,
}

impl StateDir {
    /// Creates the folder and its subfolders and takes the lock.
    pub fn hold(folder: &Path) -> Result<Self, StateDirError> {
        let io = |source| StateDirError::Io {
            folder: folder.into(),
            source,
        };
        // Everything that creates files in it, SQLite too, leaves them readable by owner and group
        // only.
        rustix::process::umask(Mode::from_raw_mode(OPEN));
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true).mode(0o750);
        make.create(folder).map_err(io)?;
        let owner = std::fs::metadata(folder).map_err(io)?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            let command = std::env::args().collect::<Vec<_>>().join(" ");
            return Err(StateDirError::NotOwner {
                folder: folder.into(),
                owner,
                command,
            });
        }
        make.create(folder.join(crate::spool::SPOOL)).map_err(io)?;
        // A link to a mount that is away is one reason; paths below it wait for their root.
        if let Err(error) = make.create(folder.join("inbox")) {
            tracing::warn!("{}/inbox cannot be created: {error}", folder.display());
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("kithd.lock"))
            .map_err(io)?;
        close_to_others(folder);
        let begun = Instant::now();
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LET_GO => {
                    std::thread::sleep(LOOK_AGAIN);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(StateDirError::Held(folder.into()));
                }
                Err(error) => return Err(io(error.into())),
            }
        }
    }
}

/// Removes permissions for others from a folder made by hand, or from files made under another
/// umask. `inbox` stays open: others put pictures into it.
fn close_to_others(folder: &Path) {
    let mut paths = vec![folder.to_path_buf()];
    for part in [folder.to_path_buf(), folder.join(crate::spool::SPOOL)] {
        paths.extend(
            std::fs::read_dir(part)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path()),
        );
    }
    for path in paths
        .into_iter()
        .filter(|path| *path != folder.join("inbox"))
    {
        let Ok(metadata) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        let closed = metadata.mode() & 0o7777 & !OPEN;
        if is_open(&metadata)
            && let Err(error) = std::fs::set_permissions(&path, PermissionsExt::from_mode(closed))
        {
            tracing::warn!(
                "{} is accessible to other users and its permissions cannot be changed: {error}",
                path.display()
            );
        }
    }
}

/// Returns true for a file or folder that others may access or the group may write.
fn is_open(metadata: &Metadata) -> bool {
    (metadata.is_file() || metadata.is_dir()) && metadata.mode() & OPEN != 0
}

/// Lists files and folders directly below the state folder that others may access or the group may
/// write.
pub fn open_to_others(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let open = entries.filter(|entry| {
        entry.file_name() != "inbox" && entry.metadata().is_ok_and(|metadata| is_open(&metadata))
    });
    let mut open: Vec<_> = open.map(|entry| entry.path()).collect();
    open.sort();
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_of_any_mode_are_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        std::fs::create_dir(path("inbox")).unwrap();
        std::fs::create_dir(path("spool")).unwrap();
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        set(elsewhere.path(), 0o666);
        std::os::unix::fs::symlink(elsewhere.path(), path("link")).unwrap();
        for (name, open) in [
            ("kithd.db", 0o644),
            ("kithd.lock", 0o666),
            ("token", 0o600),
            ("spool/a", 0o777),
        ] {
            std::fs::write(path(name), "").unwrap();
            set(&path(name), open);
        }
        [folder.path(), &path("inbox"), &path("spool")]
            .iter()
            .for_each(|folder| set(folder, 0o777));
        assert_eq!(
            open_to_others(folder.path()),
            ["kithd.db", "kithd.lock", "spool"].map(path)
        );
        let _held = StateDir::hold(folder.path()).unwrap();
        let expected = [
            ("", 0o750),
            ("kithd.db", 0o640),
            ("kithd.lock", 0o640),
            ("token", 0o600),
            ("spool", 0o750),
        ];
        for (name, closed) in
            expected
                .into_iter()
                .chain([("spool/a", 0o750), ("inbox", 0o777), ("link", 0o666)])
        {
            assert_eq!(mode(&path(name)), closed, "{name}");
        }
        assert_eq!(open_to_others(folder.path()), [""; 0].map(PathBuf::from));
        std::fs::write(path("new"), "").unwrap();
        assert_eq!(mode(&path("new")), 0o640);
    }

    #[test]
    fn a_lock_being_released_is_awaited_and_a_held_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let held = StateDir::hold(folder.path()).unwrap();
        let error = StateDir::hold(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("is in use by another kithd; stop it"),
            "{error}"
        );
        let dying = std::thread::spawn(move || {
            std::thread::sleep(LET_GO / 4);
            drop(held);
        });
        StateDir::hold(folder.path()).unwrap();
        dying.join().unwrap();
    }
}
