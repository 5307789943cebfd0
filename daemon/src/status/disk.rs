//! Disk space of the state folder: free, reserved, and used by kithd.
//!
//! For display only (page, API, metrics, MQTT health). `sources` enforces the reserve, and `queue`
//! decides what to remove.

use std::path::PathBuf;

use serde::Serialize;

use crate::files::disk::free_bytes;
use crate::store::{Removed, Store, StoreError, Usage};

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
