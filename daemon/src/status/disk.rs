//! Room on the disk of the state folder: what is free, what is left free, and what kithd holds
//! there.
//!
//! For those who look (page, API, metrics, MQTT health). What comes in is held against it by
//! `sources`, what is removed is decided in `queue`.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::Serialize;

use crate::store::{Removed, Store, StoreError, Usage};

/// What an error of the state folder's disk means to the operator, and what to do; without a path,
/// which is nobody's business on the LAN. `None`: nothing in particular.
pub fn trouble(error: &std::io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::ROFS => READ_ONLY,
        Errno::IO => FAILING,
        Errno::NOENT | Errno::NOTDIR | Errno::STALE => GONE,
        Errno::ACCESS | Errno::PERM => CLOSED,
        Errno::MFILE | Errno::NFILE => {
            "kithd has as many files open as it may; fewer clients, or a higher LimitNOFILE="
        }
        _ => return None,
    })
}

/// The file system allows no writing.
pub const READ_ONLY: &str = "the disk of the state folder is read-only, as a failing card makes itself; see dmesg, then \
                             replace the card, or mount it for writing and restart kithd";
/// It reports errors.
pub const FAILING: &str =
    "the disk of the state folder reports errors; see dmesg, save what is on it, and replace it";
/// The folder was deleted or moved, or its disk unmounted.
pub const GONE: &str = "the state folder, or something in it, was deleted or replaced while kithd runs; put it back, or \
                        restart kithd";
/// Rights were taken away.
pub const CLOSED: &str =
    "the state folder may not be written by the user kithd runs as; give it back to that user";

/// Bytes anybody may still write on the disk of a folder, if it says.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The disk of the state folder; clones share it.
#[derive(Clone)]
pub struct Disk {
    /// The state folder.
    pub folder: PathBuf,
    /// `intake.disk_reserve`.
    pub reserve_bytes: u64,
    /// What it holds.
    pub store: Store,
}

/// How it is with the disk.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct DiskReport {
    /// Unknown where the disk does not say.
    pub free_bytes: Option<u64>,
    /// Below so much nothing is accepted.
    pub reserve_bytes: u64,
    /// What kithd holds, by kind.
    pub used_bytes: Usage,
    /// What retention took away since the start.
    pub removed: Removed,
}

impl Disk {
    /// Looks, without reading what is looked at.
    pub async fn report(&self) -> Result<DiskReport, StoreError> {
        Ok(DiskReport {
            free_bytes: free_bytes(&self.folder),
            reserve_bytes: self.reserve_bytes,
            used_bytes: self.store.usage().await?,
            removed: self.store.removed(),
        })
    }
}
