//! People: enrolled, renamed, merged, erased; strangers grouped; the gallery in memory and what it
//! says of the threshold.

pub mod calibration;
pub mod edit;
pub mod enroll;
pub mod folder_names;
pub mod gallery;
pub mod matcher;
pub mod relabel;
pub mod resemblance;
pub mod strangers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

pub use calibration::{Calibration, CalibrationPoint, PictureRemark, calibrate};
pub use edit::{Forgotten, Imported, Restored};
pub use enroll::{Enrolment, Report};
pub use folder_names::person_of;
pub use matcher::Matcher;
pub use relabel::{NamedStranger, RelabelError};
pub use strangers::Strangers;

use crate::engines::Engines;
use crate::store::Store;

/// All changes of people go through here; clones share it.
#[derive(Clone)]
pub struct People {
    /// Home of the gallery.
    pub store: Store,
    /// Where faces are found.
    pub engines: Engines,
    /// Folder of the gallery's backup.
    pub state_dir: PathBuf,
    /// Name of the board, for its backups.
    pub device: String,
    /// Changes when a person was erased: faces shown elsewhere are to be cleared.
    pub erasures: watch::Sender<u64>,
    /// Changes when a backup was restored: memory of rows from before is stale.
    pub restores: watch::Sender<u64>,
    /// Serialises changes in the order of the calls: a person who is enrolled and then erased is
    /// erased.
    turn: Arc<tokio::sync::Mutex<()>>,
    matcher: watch::Sender<Option<Arc<Matcher>>>,
    calibrated: Arc<calibration::Cache>,
}

/// The gallery is not in memory yet.
#[derive(Debug, thiserror::Error)]
#[error("the engine is not up yet; kithd status says why")]
pub struct GalleryNotLoaded;

impl People {
    /// People of a store; nobody is compared before [`People::load`].
    pub fn new(store: Store, engines: Engines, state_dir: &Path, device: &str) -> Self {
        Self {
            store,
            engines,
            state_dir: state_dir.into(),
            device: device.into(),
            erasures: watch::Sender::default(),
            restores: watch::Sender::default(),
            turn: Arc::default(),
            matcher: watch::Sender::default(),
            calibrated: Arc::default(),
        }
    }

    /// The gallery in memory.
    pub fn matcher(&self) -> Result<Arc<Matcher>, GalleryNotLoaded> {
        self.matcher.borrow().clone().ok_or(GalleryNotLoaded)
    }

    /// Waits until the gallery is in memory.
    pub async fn loaded(&self) -> Arc<Matcher> {
        let mut loaded = self.matcher.subscribe();
        loop {
            if let Some(matcher) = loaded.borrow_and_update().clone() {
                return matcher;
            }
            // The sender lives as long as this handle.
            let _ = loaded.changed().await;
        }
    }
}
