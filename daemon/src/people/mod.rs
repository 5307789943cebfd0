//! People and strangers: enrolment, renaming, merging, erasing and grouping, and the gallery in
//! memory with its calibration.

pub mod calibration;
pub mod edit;
pub mod enroll;
pub mod fleet;
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
pub use enroll::{Enrolment, EnrolmentReport};
pub use folder_names::person_of;
pub use matcher::Matcher;
pub use relabel::{NamedStranger, RelabelError};
pub use strangers::Strangers;

use crate::domain::{EngineError, EngineErrorKind, IdentifiedFace};
use crate::engines::client::EngineReply;
use crate::engines::{Engines, Recognised};
use crate::queue::Failure;
use crate::store::Store;

/// People and the gallery. All changes of people go through here; clones share it.
#[derive(Clone)]
pub struct People {
    /// Database of the gallery.
    pub store: Store,
    /// Engines that find the faces.
    pub engines: Engines,
    /// State folder, which holds the gallery's backup.
    pub state_dir: PathBuf,
    /// Name of the board, for its backups.
    pub device: String,
    /// Changes when a person is erased: faces shown elsewhere must be cleared.
    pub erasures: watch::Sender<u64>,
    /// Changes when a backup is restored: cached rows are stale.
    pub restores: watch::Sender<u64>,
    /// Serialises changes in the order of the calls: a person who is enrolled and then erased is
    /// erased.
    turn: Arc<tokio::sync::Mutex<()>>,
    matcher: watch::Sender<Option<Arc<Matcher>>>,
    calibrated: Arc<calibration::Cache>,
}

/// Error: the gallery is not in memory yet.
#[derive(Debug, thiserror::Error)]
#[error("the engine is not up yet; kithd status says why")]
pub struct GalleryNotLoaded;

impl People {
    /// Makes a handle without a gallery; [`People::load`] loads it.
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

    /// Returns the gallery in memory.
    pub fn matcher(&self) -> Result<Arc<Matcher>, GalleryNotLoaded> {
        self.matcher.borrow().clone().ok_or(GalleryNotLoaded)
    }

    /// Identifies the faces that an engine found in a frame of which nothing is stored.
    pub fn identify(&self, recognised: Recognised) -> Result<Vec<IdentifiedFace>, Failure> {
        let matcher = self.matcher();
        let matcher = matcher.map_err(|error| Failure::engine_away(error.to_string()))?;
        match recognised.answer {
            EngineReply::Faces(reply) => matcher.identify(reply.faces).map_err(|error| {
                let kind = EngineErrorKind::Malformed;
                Failure::Engine(EngineError::new(kind, error.to_string()))
            }),
            EngineReply::Name(_) => Err(Failure::engine_away(
                "the configured engine does not return faces; set engine.protocol to recognizer",
            )),
        }
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
