//! The words of the product as types: image, state, outcome, face, result.
//!
//! No I/O and no rules here; the rules are in `queue`, `pipeline`, `engines` and `people`.

mod certainty;
mod engine_error;
mod moment;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::certainty::Certainty;
pub use self::engine_error::{EngineError, EngineErrorKind};
pub use self::moment::{Moment, wall_clock_ms};
pub use self::sighting::{
    CameraLook, FaceAddress, SeenStranger, SightingId, SightingMessage, SightingState,
    SightingStep, StrangerId, TrackedFace,
};

/// Row number of an image; grows with acceptance order.
pub type ImageId = i64;
/// Row number of a person.
pub type PersonId = i64;
/// Reads the queue clock, in milliseconds.
pub type Clock = std::sync::Arc<dyn Fn() -> i64 + Send + Sync>;

/// Declares an enum whose variants have one fixed spelling everywhere: database, API, MQTT, page,
/// metrics.
macro_rules! spelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in the order of the design.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The one spelling used everywhere.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|v| v.as_str()).collect();
                    format!("\"{text}\" is not one of {}", known.join(", "))
                })
            }
        }
    };
}

// Below the macro, which it uses.
mod sighting;

spelled! {
    /// The state of an image in the queue.
    State {
        /// Accepted, waiting for recognition or for a retry.
        Pending = "pending",
        /// Claimed by the dispatcher.
        Processing = "processing",
        /// Finished with a result.
        Processed = "processed",
        /// Given up, always with a reason.
        Failed = "failed",
    }
}

spelled! {
    /// The outcome of a processed image: the best of its faces, in this order.
    Outcome {
        /// At least one face is an enrolled person.
        Known = "known",
        /// At least one face lies in the band around the threshold.
        Uncertain = "uncertain",
        /// There are faces, none of them enrolled.
        Unknown = "unknown",
        /// No face found.
        NoFace = "no_face",
    }
}

spelled! {
    /// The way an image came in.
    Source {
        /// The HTTP API.
        Http = "http",
        /// An MQTT message.
        Mqtt = "mqtt",
        /// A watched folder.
        Folder = "folder",
        /// A camera of this board.
        Camera = "camera",
        /// A camera of Frigate's.
        Frigate = "frigate",
    }
}

spelled! {
    /// The engine that recognised an image.
    EngineRole {
        /// The engine that the circuit breaker guards.
        Primary = "primary",
        /// The engine that takes over while the breaker is open.
        Fallback = "fallback",
    }
}

spelled! {
    /// The state of the circuit breaker.
    BreakerState {
        /// Pictures go to the primary engine.
        Closed = "closed",
        /// Pictures are not sent to the primary engine until a ping succeeds.
        Open = "open",
        /// A ping is in progress.
        HalfOpen = "half_open",
        /// Pictures are not sent to the primary engine until an operator allows it.
        ForcedOpen = "forced_open",
    }
}

spelled! {
    /// A command for the circuit breaker.
    BreakerCommand {
        /// Stop using the primary engine until told otherwise.
        Open = "open",
        /// Send pictures to it again, now.
        Close = "close",
        /// After `open`: ping it, and close if that succeeds.
        Auto = "auto",
    }
}

spelled! {
    /// The reason why the circuit breaker counted a call or changed.
    BreakerReason {
        /// The engine died or failed at a picture.
        Crash = "crash",
        /// The call took longer than allowed.
        Deadline = "deadline",
        /// The answer was malformed.
        Malformed = "malformed",
        /// The engine cannot be reached.
        Unreachable = "unreachable",
        /// The engine answered, but too slowly.
        Slow = "slow",
        /// The engine fails the self-test with the bundled picture.
        SelfTest = "self_test",
        /// The engine does not start.
        Start = "start",
        /// An operator changed it.
        Operator = "operator",
    }
}

impl Source {
    /// True for pictures of cameras, which have their own limits of bytes and age.
    pub fn is_of_cameras(self) -> bool {
        matches!(self, Self::Camera | Self::Frigate)
    }
}

/// The camera and the event that a picture comes from, as far as there are such.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// Name of the camera.
    pub camera: Option<String>,
    /// Id of the event, given by the system that sent the picture.
    pub event: Option<String>,
}

impl Origin {
    /// Most characters of a camera's name or an event's id.
    const LONGEST: usize = 64;

    /// The camera of this name, without an event.
    pub fn camera(name: impl Into<String>) -> Self {
        Self {
            camera: Some(name.into()),
            event: None,
        }
    }

    /// Returns true for text that can be a camera's name or an event's id: 1 to 64 letters, digits,
    /// dots, hyphens and underscores of ASCII.
    pub fn is_valid(text: &str) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        (1..=Self::LONGEST).contains(&text.len()) && text.chars().all(allowed)
    }

    /// Takes what is missing from another origin.
    pub fn or(self, other: &Self) -> Self {
        Self {
            camera: self.camera.or_else(|| other.camera.clone()),
            event: self.event.or_else(|| other.event.clone()),
        }
    }

    /// Returns a sentence about the first invalid part.
    pub fn objection(&self) -> Option<String> {
        let parts = [("camera", &self.camera), ("event", &self.event)];
        let is_invalid =
            |part: &Option<String>| part.as_ref().is_some_and(|it| !Self::is_valid(it));
        let (what, _) = parts.into_iter().find(|(_, part)| is_invalid(part))?;
        Some(format!(
            "the picture's \"{what}\" must be 1 to {} letters, digits, dots, - or _",
            Self::LONGEST
        ))
    }

    /// Drops invalid parts, and returns a sentence about each.
    pub fn drop_invalid(&mut self) -> Vec<String> {
        let parts = [("camera", &mut self.camera), ("event", &mut self.event)];
        let invalid = |(what, part): (&str, &mut Option<String>)| {
            let dropped = part.take_if(|text| !Self::is_valid(text))?;
            let shown: String = dropped.chars().take(Self::LONGEST).collect();
            Some(format!(
                "the picture's {what} {shown:?} is left out: it must be 1 to {} letters, digits, \
                 dots, - or _",
                Self::LONGEST
            ))
        };
        parts.into_iter().filter_map(invalid).collect()
    }
}

/// An image about to be accepted.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The way it came in.
    pub source: Source,
    /// The path as the sender named it, or a generated name for bytes.
    pub path: String,
    /// The camera and the event that it comes from.
    pub origin: Origin,
    /// Name of the spooled bytes (`spool::new_name`), to which its row adds its number.
    pub file: Option<String>,
    /// Size of `file`; 0 without one.
    pub bytes: u64,
    /// Key given by the sender: the same key means the same image.
    pub idempotency_key: Option<String>,
    /// SHA-256 of the bytes, if they came with the request.
    pub picture_key: Option<String>,
    /// Drops this image if an unfinished one has the same path (MQTT may deliver twice).
    pub unless_unfinished: bool,
    /// The file of a watched folder that it comes from: an unchanged file makes no second image.
    pub seen: Option<SeenFile>,
}

impl NewImage {
    /// An image whose picture lies at `path`, with no bytes or key of its sender's.
    pub fn path(source: Source, path: impl Into<String>) -> Self {
        Self {
            source,
            path: path.into(),
            origin: Origin::default(),
            file: None,
            bytes: 0,
            idempotency_key: None,
            picture_key: None,
            unless_unfinished: false,
            seen: None,
        }
    }
}

/// Key of a file below a watched folder: the first 16 bytes of its path's SHA-256.
pub type FileKey = [u8; 16];

/// Size and time of a file, which distinguish it from another of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: i64,
    /// Last modification by the file system's clock, in nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// A file as it was when its image was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Size and time.
    pub stamp: Stamp,
    /// Inode number; 0 on file systems where inode numbers change.
    pub inode: i64,
}

impl Standing {
    /// Returns the remark for a result if the file that was read, `now`, differs from this one.
    pub fn objection(&self, now: &Self) -> Option<String> {
        let renumbered = self.inode != now.inode && self.inode != 0 && now.inode != 0;
        if self.stamp == now.stamp && !renumbered {
            return None;
        }
        let described = |stamp: &Stamp| {
            format!(
                "{} bytes written at {}",
                stamp.size,
                Moment::from_ms(stamp.mtime_ns.div_euclid(1_000_000)).iso
            )
        };
        let (queued, read) = (described(&self.stamp), described(&now.stamp));
        Some(format!(
            "the file was replaced after it was queued: another file stood there when it was read ({read}; queued: {queued})"
        ))
    }
}

/// A remembered file of a watched folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// Row of the folder.
    pub folder: i64,
    /// The file in it.
    pub key: FileKey,
    /// Size and time when its image was queued.
    pub stamp: Stamp,
    /// Inode number; 0 on file systems where inode numbers change.
    pub inode: i64,
    /// True if the file is moved or deleted when its image has ended.
    pub put_away: bool,
}

/// The outcome of submitting one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its row.
    pub id: ImageId,
    /// False if an idempotency key or an unfinished equal path named an image that exists already.
    pub new: bool,
}

/// An image claimed for recognition. `Queue::finish` and `Queue::fail` consume it, so it ends once.
#[derive(Debug)]
pub struct Claimed {
    /// Its row.
    pub id: ImageId,
    /// The way it came in.
    pub source: Source,
    /// The path as the sender named it.
    pub path: String,
    /// Path of the spooled bytes, relative to the state folder.
    pub file: Option<String>,
    /// Their SHA-256, if it is known.
    pub picture_key: Option<String>,
    /// Number of attempts, including this one.
    pub attempts: u32,
    /// True if it must be the only picture in the engine: an earlier attempt killed one.
    pub alone: bool,
    /// Queue clock when the file was first missing, in milliseconds.
    pub missing_since_ms: Option<i64>,
    /// When this attempt was claimed.
    pub claimed_at: std::time::Instant,
    /// Id of an earlier result that the next one replaces.
    pub supersedes: Option<String>,
    /// The file at `path` as it was when queued, if known.
    pub standing: Option<Standing>,
}

/// A person and the distance to their nearest enrolled picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NamedCandidate {
    /// Row of the person.
    pub person_id: PersonId,
    /// Their name.
    pub name: String,
    /// Distance in the pack's metric; `None` from an engine that names people itself.
    pub distance: Option<f32>,
}

/// A face of a recognised image with its own outcome.
#[derive(Debug, Clone)]
pub struct IdentifiedFace {
    /// Left, top, right, bottom in pixels of the upright picture.
    pub bounds: [f32; 4],
    /// Left eye, right eye, nose tip, left and right mouth corner as seen in the picture, pixels.
    pub landmarks: [[f32; 2]; 5],
    /// Detector's confidence, 0 to 1.
    pub score: f32,
    /// Suitability for recognition, 0 to 1.
    pub quality: f32,
    /// Why the face is not judged as it might be, as a sentence. Always set if the quality is too
    /// low to recognise the person, or if another face of the picture is nearer to that person.
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
    /// Embedding in the space of the engine's pack.
    pub embedding: Vec<f32>,
    /// Aligned crop, JPEG.
    pub crop: Vec<u8>,
    /// File name of the nearest enrolled picture of `person`.
    pub enrolled_image: Option<String>,
}

/// Time spent in each stage of the engine, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Timings {
    /// Bytes to pixels.
    pub decode_ms: f64,
    /// Pixels to boxes and landmarks.
    pub detect_ms: f64,
    /// Aligning and judging faces.
    pub align_ms: f64,
    /// Faces to embeddings.
    pub embed_ms: f64,
    /// Thumbnail and crops.
    pub encode_ms: f64,
}

/// The complete result of recognising an image.
#[derive(Debug)]
pub struct Identified {
    /// Best of the faces.
    pub outcome: Outcome,
    /// Width and height of the upright picture in pixels, if the engine reports them.
    pub size: Option<(u32, u32)>,
    /// Best first.
    pub faces: Vec<IdentifiedFace>,
    /// Durations, if the engine reports them.
    pub timings: Option<Timings>,
    /// Small JPEG of the whole picture.
    pub thumbnail: Vec<u8>,
    /// A defect of the file that did not prevent reading it.
    pub remark: Option<String>,
    /// Pack, precision and device.
    pub engine: String,
    /// Role of that engine.
    pub role: EngineRole,
    /// Embedding space of the faces.
    pub space: String,
    /// SHA-256 of the picture's bytes, in hexadecimal.
    pub picture_key: String,
}

impl Identified {
    /// Returns the best of the faces' outcomes, which is the outcome of the image.
    pub fn best_outcome(faces: &[IdentifiedFace]) -> Outcome {
        faces
            .iter()
            .map(|face| face.outcome)
            .min_by_key(|outcome| *outcome as u8)
            .unwrap_or(Outcome::NoFace)
    }
}

/// The bytes of a picture, as the API's documentation names them.
pub struct PictureBytes;

impl utoipa::PartialSchema for PictureBytes {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        // A schema cannot tell a picture from other bytes. Generated clients know by these two
        // words that the content is binary.
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(
                utoipa::openapi::KnownFormat::Binary,
            )))
            .description(Some("The bytes of a picture"))
            .into()
    }
}

impl utoipa::ToSchema for PictureBytes {}

/// Returns the SHA-256 of a picture as it is stored and sent: lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Formats bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_ordered_from_known_to_no_face() {
        assert!(Outcome::ALL.is_sorted_by_key(|outcome| *outcome as u8));
        assert_eq!(Identified::best_outcome(&[]), Outcome::NoFace);
    }

    #[test]
    fn an_origin_that_is_no_name_is_left_out_with_its_reason() {
        let mut origin = Origin {
            camera: Some("front_door-2".into()),
            event: Some("1700000000.123456-abcdef".into()),
        };
        let whole = origin.clone();
        assert!(origin.drop_invalid().is_empty());
        assert_eq!(origin, whole);
        for wrong in ["", "two words", "a/b", "ä", "line\n", &"a".repeat(65)] {
            let mut origin = Origin {
                camera: Some(wrong.into()),
                ..whole.clone()
            };
            let said = origin.drop_invalid();
            assert_eq!((&origin.camera, &origin.event), (&None, &whole.event));
            assert!(said.len() == 1 && said[0].contains("camera"), "{said:?}");
        }
        assert!(Origin::is_valid(&"a".repeat(64)));
    }

    #[test]
    fn words_read_back_as_spelled_and_a_wrong_one_lists_the_others() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse::<State>(), Ok(*state));
        }
        assert!(
            "done"
                .parse::<State>()
                .unwrap_err()
                .contains("pending, processing, processed, failed")
        );
    }
}
