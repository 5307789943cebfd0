//! Room on the disk of the state folder: what is free, what is left free, and what kithd holds there.
//!
//! For those who look (page, API, metrics, MQTT health). What comes in is held against it by `sources`, what is removed
//! is decided in `queue`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::store::{Removed, Store, StoreError, Usage};

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
