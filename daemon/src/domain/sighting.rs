//! The words of sightings as types: state, message, address of a face. No rules here; those are in
//! `sightings`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ImageId, NamedCandidate, Outcome, PersonId};

/// Row number of a sighting.
pub type SightingId = i64;

/// Row number of a group of strangers, which is the number that people see.
pub type StrangerId = i64;

spelled! {
    /// The step in a sighting's life that a message tells.
    SightingStep {
        /// The first look came.
        Begin = "begin",
        /// Its identity changed, or a clearly better face came.
        Update = "update",
        /// Nothing was seen for longer than the gap.
        End = "end",
    }
}

/// A face of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FaceAddress {
    /// The image.
    pub image_id: ImageId,
    /// Number of the face in it; 1 is the best.
    pub number: u32,
}

/// A stranger as a sighting tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeenStranger {
    /// Number of the stranger.
    pub number: StrangerId,
    /// Sightings of this stranger so far, including this one.
    pub sightings: u32,
    /// The ones among them that began in the last seven days.
    pub this_week: u32,
    /// Begin of the sighting before this one, wall clock; `None`: this is the first.
    pub before_ms: Option<i64>,
}

/// Identity and best face of a sighting at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SightingState {
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// The person it is (known) or may be (uncertain).
    pub person: Option<NamedCandidate>,
    /// The stranger it is, if it is unknown and its faces are in a group.
    pub stranger: Option<SeenStranger>,
    /// Distance of all looks as one to the nearest person.
    pub distance: Option<f32>,
    /// Additional distance of the next person.
    pub margin: Option<f32>,
    /// Number of looks.
    pub looks: u32,
    /// Quality of the best face, 0 to 1.
    pub quality: Option<f32>,
    /// The best face; `None`: none is stored, or it was erased.
    pub face: Option<FaceAddress>,
}

/// A step in a sighting's life. Its JSON is the message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SightingMessage {
    /// The step.
    pub step: SightingStep,
    /// Id of the sighting wherever it is sent.
    pub sighting_id: String,
    /// Name of the board.
    pub device: String,
    /// Name of the camera, or the way the images came in.
    pub source: String,
    /// First look, wall clock.
    pub began_ms: i64,
    /// Last look, wall clock.
    pub last_ms: i64,
    /// End; `None`: it goes on.
    pub ended_ms: Option<i64>,
    /// State that the message before told; `None` at the begin.
    pub before: Option<SightingState>,
    /// State now.
    pub after: SightingState,
}

/// The faces of a followed camera's frame, of which nothing is stored.
#[derive(Debug, Clone)]
pub struct CameraLook {
    /// Name of the camera.
    pub camera: String,
    /// When the frame came.
    pub came: std::time::Instant,
    /// Its faces that belong to a track.
    pub faces: Vec<TrackedFace>,
    /// Every track that has not ended.
    pub live: Vec<u64>,
}

/// A face of such a frame.
#[derive(Debug, Clone)]
pub struct TrackedFace {
    /// Number of its track.
    pub track: u64,
    /// Left, top, right, bottom in pixels.
    pub bounds: [f32; 4],
    /// Quality, 0 to 1.
    pub quality: f32,
    /// Known, uncertain or unknown, by itself.
    pub outcome: Outcome,
    /// The person it is (known) or may be (uncertain).
    pub person: Option<PersonId>,
    /// Embedding in the space of the gallery.
    pub embedding: Vec<f32>,
}
