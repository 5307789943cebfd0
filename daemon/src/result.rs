//! The result message that reports an image's end by MQTT, and the answer to a synchronous
//! identification.
//!
//! `store/results.rs` makes a message from the image's rows when the image ends, and keeps its bytes
//! until the broker has acknowledged them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{
    Identified, IdentifiedFace, ImageId, NamedCandidate, Outcome, Source, State, Timings,
};

/// The end of an image, as its rows tell it. Its JSON is the message.
#[derive(Debug, Clone, Serialize)]
pub struct ResultMessage {
    /// Id of the result wherever it is sent.
    pub result_id: String,
    /// The image.
    pub image_id: ImageId,
    /// Name of the board.
    pub device: String,
    /// The way it came in.
    pub source: Source,
    /// The path as the sender named it.
    pub path: String,
    /// Name of the camera that took it, if one did.
    pub camera: Option<String>,
    /// Id of the event that it belongs to, given by the system that sent it.
    pub event: Option<String>,
    /// `processed` or `failed`.
    pub state: State,
    /// Best of the faces; `None` when failed.
    pub outcome: Option<Outcome>,
    /// Why it failed.
    pub reason: Option<String>,
    /// A defect of the file that did not prevent reading it.
    pub remark: Option<String>,
    /// SHA-256 of the picture's bytes; `None` when failed.
    pub picture_key: Option<String>,
    /// Id of the result that it replaces.
    pub supersedes: Option<String>,
    /// Width in pixels, upright.
    pub width: Option<u32>,
    /// Height in pixels, upright.
    pub height: Option<u32>,
    /// Best first.
    pub faces: Vec<FaceMessage>,
    /// Durations, if the engine reports them.
    pub timings: Option<Timings>,
    /// Pack, precision and device.
    pub engine: Option<String>,
    /// Number of attempts.
    pub attempts: u32,
    /// Acceptance, wall clock.
    pub accepted_at_ms: i64,
    /// End, wall clock.
    pub finished_at_ms: i64,
    /// Time from claim to end.
    pub duration_ms: i64,
}

/// A face of a result.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FaceMessage {
    /// Left, top, right, bottom in pixels.
    #[serde(rename = "box")]
    pub bounds: [f32; 4],
    /// Detector's confidence, 0 to 1.
    pub score: f32,
    /// Suitability for recognition, 0 to 1.
    pub quality: f32,
    /// Says why the face is not judged as it might be: too small, cut by the edge, dark, blurred,
    /// turned away. Always present below the pack's least quality, where no person is recognised;
    /// also if another face of the picture is nearer to the person.
    pub objection: Option<String>,
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// The person it is (known) or may be (uncertain).
    pub person: Option<NamedCandidate>,
    /// Distance to the nearest enrolled picture of any person.
    pub distance: Option<f32>,
    /// Additional distance of the next person.
    pub margin: Option<f32>,
    /// The nearest people, nearest first.
    pub candidates: Vec<NamedCandidate>,
}

impl From<&IdentifiedFace> for FaceMessage {
    fn from(face: &IdentifiedFace) -> Self {
        Self {
            bounds: face.bounds,
            score: face.score,
            quality: face.quality,
            objection: face.objection.clone(),
            outcome: face.outcome,
            person: face.person.clone(),
            distance: face.distance,
            margin: face.margin,
            candidates: face.candidates.clone(),
        }
    }
}

/// The people in a picture of which nothing is stored.
#[derive(Serialize, ToSchema)]
pub struct IdentifyAnswer<'a> {
    outcome: Outcome,
    /// A defect of the file that did not prevent reading it.
    remark: Option<&'a str>,
    picture_key: &'a str,
    width: Option<u32>,
    height: Option<u32>,
    faces: Vec<FaceMessage>,
    timings: Option<Timings>,
    engine: &'a str,
}

/// Returns the answer to a synchronous identification.
pub fn answer(identified: &Identified) -> IdentifyAnswer<'_> {
    IdentifyAnswer {
        outcome: identified.outcome,
        remark: identified.remark.as_deref(),
        picture_key: &identified.picture_key,
        width: identified.size.map(|(width, _)| width),
        height: identified.size.map(|(_, height)| height),
        faces: identified.faces.iter().map(FaceMessage::from).collect(),
        timings: identified.timings,
        engine: &identified.engine,
    }
}
