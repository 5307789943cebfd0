//! Counts of the frames of followed cameras, for the metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts of each followed camera by its name; clones share them.
#[derive(Clone, Default)]
pub struct Looks(Arc<Mutex<BTreeMap<String, LookCounts>>>);

/// Counts of one camera since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LookCounts {
    /// Frames in which the engine looked for faces.
    pub looked: u64,
    /// Frames that were to be looked at and gave way to a newer one, for lack of room in the
    /// engine.
    pub dropped: u64,
    /// Faces that are followed now.
    pub tracks: usize,
}

impl Looks {
    /// Sets the counts of a camera.
    pub fn set(&self, camera: &str, counts: LookCounts) {
        self.0.lock().insert(camera.into(), counts);
    }

    /// Returns all counts.
    pub fn all(&self) -> Vec<(String, LookCounts)> {
        let counts = self.0.lock();
        counts
            .iter()
            .map(|(camera, counts)| (camera.clone(), *counts))
            .collect()
    }
}
