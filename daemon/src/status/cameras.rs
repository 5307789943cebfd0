//! Counts and troubles of cameras, for the metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::Outcome;

/// Names of troubles, with one of which the text of a camera's part begins.
pub const TROUBLES: [&str; 18] = [
    "unplugged",
    "name not found",
    "refused",
    "unreachable",
    "unauthorised",
    "untrusted",
    "unavailable",
    "not a stream",
    "not offered",
    "codec unknown",
    "program not installed",
    "stalled",
    "the stream ended",
    "only broken frames came",
    "frames come, but none is looked at",
    "too slow for its rate",
    "paused",
    OTHER,
];
/// Name of every other trouble.
const OTHER: &str = "other";

/// Outcomes of tracks, in the order of [`FollowCounts::ended`].
pub const TRACK_OUTCOMES: [Outcome; 3] = [Outcome::Known, Outcome::Uncertain, Outcome::Unknown];

/// Counts of each camera by its name; clones share them.
#[derive(Clone, Default)]
pub struct Cameras(Arc<Mutex<BTreeMap<String, CameraCounts>>>);

/// Counts of one camera since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CameraCounts {
    /// Frames that came, broken ones included.
    pub frames: u64,
    /// Broken frames.
    pub broken: u64,
    /// Frames that were to be looked at, by the engine or for a picture, and were dropped for lack
    /// of room.
    pub dropped: u64,
    /// Times that its process was started again.
    pub restarts: u64,
    /// Name of the present trouble, of [`TROUBLES`].
    pub trouble: Option<&'static str>,
    /// Counts of a followed camera.
    pub follow: Option<FollowCounts>,
}

/// Counts of a followed camera since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FollowCounts {
    /// Frames in which the engine looked for faces.
    pub looked: u64,
    /// Faces that are followed now.
    pub tracks: usize,
    /// Tracks that have ended, by [`TRACK_OUTCOMES`].
    pub ended: [u64; TRACK_OUTCOMES.len()],
}

impl Cameras {
    /// Sets the counts of a camera.
    pub fn set(&self, camera: &str, counts: CameraCounts) {
        let mut all = self.0.lock();
        match all.get_mut(camera) {
            Some(before) => *before = counts,
            None => _ = all.insert(camera.into(), counts),
        }
    }

    /// Returns all counts.
    pub fn all(&self) -> Vec<(String, CameraCounts)> {
        let counts = self.0.lock();
        counts
            .iter()
            .map(|(camera, counts)| (camera.clone(), *counts))
            .collect()
    }
}

impl FollowCounts {
    /// Counts a track that has ended.
    pub fn end(&mut self, outcome: Outcome) {
        if let Some(at) = TRACK_OUTCOMES.iter().position(|other| *other == outcome) {
            self.ended[at] += 1;
        }
    }
}

/// Returns the name of the trouble with which a text begins.
pub fn trouble(text: &str) -> &'static str {
    let mut names = TROUBLES.into_iter();
    names.find(|name| text.starts_with(name)).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_is_explained_to_the_operator() {
        let page = include_str!("../../../docs/cameras.md");
        for name in TROUBLES {
            assert!(page.contains(&format!("\n| `{name}` |")), "{name}");
            assert_eq!(trouble(&format!("{name}: why")), name);
        }
        assert_eq!(trouble("the camera process was killed"), OTHER);
    }
}
