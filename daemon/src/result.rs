//! The result message that reports an image's end by MQTT, byte for byte, and the answer to a
//! synchronous identification.
//!
//! A result is rendered once, when the image ends, and stored in the outbox; it is never rendered
//! again.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{
    Claimed, Identified, IdentifiedFace, ImageId, NamedCandidate, Outcome, Source, State, Timings,
};

#[derive(Serialize)]
struct ResultMessage<'a> {
    result_id: &'a str,
    image_id: ImageId,
    device: &'a str,
    source: Source,
    path: &'a str,
    state: State,
    outcome: Option<Outcome>,
    reason: Option<&'a str>,
    remark: Option<&'a str>,
    picture_key: Option<&'a str>,
    supersedes: Option<&'a str>,
    width: Option<u32>,
    height: Option<u32>,
    faces: Vec<FaceMessage<'a>>,
    timings: Option<Timings>,
    engine: Option<&'a str>,
    attempts: u32,
    accepted_at_ms: i64,
    finished_at_ms: i64,
    duration_ms: i64,
}

/// A face of a result.
#[derive(Serialize, ToSchema)]
pub struct FaceMessage<'a> {
    #[serde(rename = "box")]
    bounds: [f32; 4],
    score: f32,
    quality: f32,
    /// Says why the face is not judged as it might be: too small, cut by the edge, dark, blurred,
    /// turned away. Always present below the pack's least quality, where no person is recognised;
    /// also if another face of the picture is nearer to the person.
    objection: Option<&'a str>,
    outcome: Outcome,
    #[schema(value_type = Option<NamedCandidate>)]
    person: Option<&'a NamedCandidate>,
    distance: Option<f32>,
    margin: Option<f32>,
    #[schema(value_type = Vec<NamedCandidate>)]
    candidates: &'a [NamedCandidate],
}

impl<'a> From<&'a IdentifiedFace> for FaceMessage<'a> {
    fn from(face: &'a IdentifiedFace) -> Self {
        Self {
            bounds: face.bounds,
            score: face.score,
            quality: face.quality,
            objection: face.objection.as_deref(),
            outcome: face.outcome,
            person: face.person.as_ref(),
            distance: face.distance,
            margin: face.margin,
            candidates: &face.candidates,
        }
    }
}

/// Id, device and times of an image's end.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// Id of the result wherever it is sent.
    pub result_id: &'a str,
    /// Name of the board.
    pub device: &'a str,
    /// Wall clock.
    pub finished_at_ms: i64,
    /// Time from claim to finish.
    pub duration_ms: i64,
}

/// Renders the message of an image that ended as JSON: `Ok` if processed, `Err` with the reason if
/// failed.
pub fn message(
    claimed: &Claimed,
    end: Result<&Identified, &str>,
    stamp: Stamp<'_>,
) -> serde_json::Result<String> {
    let identified = end.ok();
    let size = identified.and_then(|identified| identified.size);
    serde_json::to_string(&ResultMessage {
        result_id: stamp.result_id,
        image_id: claimed.id,
        device: stamp.device,
        source: claimed.source,
        path: &claimed.path,
        state: if identified.is_some() {
            State::Processed
        } else {
            State::Failed
        },
        outcome: identified.map(|i| i.outcome),
        reason: end.err(),
        remark: identified.and_then(|i| i.remark.as_deref()),
        picture_key: identified.map(|i| i.picture_key.as_str()),
        supersedes: claimed.supersedes.as_deref(),
        width: size.map(|(width, _)| width),
        height: size.map(|(_, height)| height),
        faces: identified
            .map(|i| i.faces.iter().map(FaceMessage::from).collect())
            .unwrap_or_default(),
        timings: identified.and_then(|i| i.timings),
        engine: identified.map(|i| i.engine.as_str()),
        attempts: claimed.attempts,
        accepted_at_ms: claimed.accepted_at_ms,
        finished_at_ms: stamp.finished_at_ms,
        duration_ms: stamp.duration_ms,
    })
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
    faces: Vec<FaceMessage<'a>>,
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
