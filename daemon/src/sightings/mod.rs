//! Sightings: one person, or one unknown face, seen by one source without a gap.
//!
//! `task` follows the results and gives each face its place; `joining` and `identity` decide which
//! and who, and know no database.

pub mod identity;
pub mod joining;
pub mod presence;
mod task;

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

use crate::domain::CameraLook;
pub use task::{Counts, Sightings};

/// Looks at followed cameras that may wait: a few seconds of all cameras.
const WAITING: usize = 64;

/// The way of looks at followed cameras to their sightings; clones share it.
#[derive(Clone)]
pub struct Sights {
    sender: mpsc::Sender<CameraLook>,
    receiver: Arc<Mutex<mpsc::Receiver<CameraLook>>>,
}

impl Default for Sights {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            sender,
            receiver: Arc::new(Mutex::new(receiver)),
        }
    }
}

impl Sights {
    /// Hands a look over; without room it is dropped, and the next one says the same.
    pub fn send(&self, look: CameraLook) {
        // The receiver lives as long as this handle.
        let _ = self.sender.try_send(look);
    }
}
