//! Disk space of the state folder: free, reserved, and used by kithd.
//!
//! For display only (page, API, metrics, MQTT health). `sources` enforces the reserve, and `queue`
//! decides what to remove.

use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::Serialize;

use crate::store::{Removed, Store, StoreError, Usage};

/// Explains an error of the state folder's disk to the operator, with the remedy; `None` for other
/// errors. Names no path, which must not reach clients on the LAN.
pub fn trouble(error: &std::io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::ROFS => READ_ONLY,
        Errno::IO => FAILING,
        Errno::NOENT | Errno::NOTDIR | Errno::STALE => GONE,
        Errno::ACCESS | Errno::PERM => CLOSED,
        Errno::MFILE | Errno::NFILE => {
            "kithd has reached its limit of open files; connect fewer clients, or raise \
             LimitNOFILE="
        }
        _ => return None,
    })
}

/// The file system is mounted read-only.
pub const READ_ONLY: &str = "the disk of the state folder is read-only, as a failing card makes itself; see dmesg, then \
                             replace the card, or mount it for writing and restart kithd";
/// The disk reports I/O errors.
pub const FAILING: &str =
    "the disk of the state folder reports errors; see dmesg, save what is on it, and replace it";
/// The folder was deleted or moved, or its disk unmounted.
pub const GONE: &str = "the state folder, or something in it, was deleted or replaced while kithd runs; put it back, or \
                        restart kithd";
/// Write permission was withdrawn.
pub const CLOSED: &str =
    "the state folder may not be written by the user kithd runs as; give it back to that user";

/// Returns the bytes an unprivileged process may still write on the disk of a folder, if known.
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
    /// The database.
    pub store: Store,
}

/// State of the disk.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct DiskReport {
    /// Free bytes; unknown where the disk does not say.
    pub free_bytes: Option<u64>,
    /// Free bytes below which nothing is accepted.
    pub reserve_bytes: u64,
    /// Bytes used by kithd, by kind.
    pub used_bytes: Usage,
    /// Amounts removed by retention since the start.
    pub removed: Removed,
}

impl Disk {
    /// Measures the disk.
    pub async fn report(&self) -> Result<DiskReport, StoreError> {
        Ok(DiskReport {
            free_bytes: free_bytes(&self.folder),
            reserve_bytes: self.reserve_bytes,
            used_bytes: self.store.usage().await?,
            removed: self.store.removed(),
        })
    }
}
