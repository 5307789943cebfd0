//! The words of the product as types: image, state, outcome, face, result.
//!
//! No I/O and no rules here; the rules are in `queue` and `recognition`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Row number of an image; grows with acceptance order.
pub type ImageId = i64;
/// Row number of a person.
pub type PersonId = i64;

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

spelled! {
    /// Where an image is in its life.
    State {
        /// Accepted, waiting for its turn or for a retry.
        Pending = "pending",
        /// Claimed by the dispatcher.
        Processing = "processing",
        /// Has its result.
        Processed = "processed",
        /// Given up, always with a reason.
        Failed = "failed",
    }
}

spelled! {
    /// What was found in a processed image; the best of its faces, in this order.
    Outcome {
        /// At least one face is an enrolled person.
        Known = "known",
        /// At least one face lies in the band around the threshold.
        Uncertain = "uncertain",
        /// Faces, none of them enrolled.
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
        /// A camera.
        Camera = "camera",
    }
}

spelled! {
    /// Which of the two engines recognised an image.
    EngineRole {
        /// The one the circuit breaker guards.
        Primary = "primary",
        /// The one that stands in while the breaker is open.
        Fallback = "fallback",
    }
}

spelled! {
    /// Where the circuit breaker is.
    BreakerState {
        /// Pictures go to the primary engine.
        Closed = "closed",
        /// They do not, until a ping succeeds.
        Open = "open",
        /// One ping is under way.
        HalfOpen = "half_open",
        /// They do not, until an operator says so.
        ForcedOpen = "forced_open",
    }
}

spelled! {
    /// What an operator may tell the circuit breaker.
    BreakerCommand {
        /// Leave the primary engine alone until told otherwise.
        Open = "open",
        /// Send it pictures again, now.
        Close = "close",
        /// After `open`: ping it, and close if that succeeds.
        Auto = "auto",
    }
}

spelled! {
    /// Why the circuit breaker counted a call or changed.
    BreakerReason {
        /// The engine died or failed over a picture.
        Crash = "crash",
        /// It took longer than allowed.
        Deadline = "deadline",
        /// Its answer made no sense.
        Malformed = "malformed",
        /// It cannot be reached.
        Unreachable = "unreachable",
        /// It answered, but too slowly.
        Slow = "slow",
        /// It does not give what it must for the bundled picture.
        SelfTest = "self_test",
        /// It does not start.
        Start = "start",
        /// Somebody said so.
        Operator = "operator",
    }
}

/// An image about to be accepted.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The way it came in.
    pub source: Source,
    /// The path as the sender named it, or a made-up name for bytes.
    pub path: String,
    /// Spooled bytes: their name (`spool::new_name`), to which its row adds its number.
    pub file: Option<String>,
    /// Size of `file`; without one 0.
    pub bytes: u64,
    /// Given by the sender: the same key is the same image.
    pub idempotency_key: Option<String>,
    /// sha256 of the bytes, when they came with it.
    pub picture_key: Option<String>,
    /// Drop it when an unfinished image has the same path (MQTT may deliver twice).
    pub unless_unfinished: bool,
    /// The file of a watched folder it comes from: a file taken before, unchanged, makes no second
    /// image.
    pub seen: Option<SeenFile>,
}

/// Names a file below a watched folder: the first 16 bytes of its path's sha256.
pub type FileKey = [u8; 16];

/// What tells a file from another of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub size: i64,
    /// Time of the last write by the file system's clock, nanoseconds since 1970.
    pub mtime_ns: i64,
}

/// A file as it stood when its image was queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Size and time.
    pub stamp: Stamp,
    /// Its number in the file system; 0 where those numbers do not last.
    pub inode: i64,
}

impl Standing {
    /// The remark on a result for which `now` was read, when that is another file than this one.
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

/// A file of a watched folder as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// The folder's number.
    pub folder: i64,
    /// The file in it.
    pub key: FileKey,
    /// As it was taken.
    pub stamp: Stamp,
    /// Its number in the file system; 0 where those numbers do not last.
    pub inode: i64,
    /// It is moved or deleted when its image has ended.
    pub put_away: bool,
}

/// What became of one submitted image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its row.
    pub id: ImageId,
    /// False when an idempotency key or an unfinished equal path named an image already there.
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
    /// Spooled bytes, relative to the state folder.
    pub file: Option<String>,
    /// Their size.
    pub bytes: u64,
    /// This attempt included.
    pub attempts: u32,
    /// Queue clock of the first time the file was not there, in milliseconds.
    pub missing_since_ms: Option<i64>,
    /// When this attempt was claimed.
    pub claimed_at: std::time::Instant,
    /// When the image was accepted, wall clock.
    pub accepted_at_ms: i64,
    /// Id of an earlier result that the next one replaces.
    pub supersedes: Option<String>,
    /// The file at `path` as it stood when it was queued, where that is known.
    pub standing: Option<Standing>,
}

/// A person and the distance to their nearest enrolled picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NamedCandidate {
    /// Row of the person.
    pub person_id: PersonId,
    /// Their name.
    pub name: String,
    /// In the pack's metric; an engine that names people itself tells none.
    pub distance: Option<f32>,
}

/// One face of a recognised image with its own outcome.
#[derive(Debug, Clone)]
pub struct IdentifiedFace {
    /// Left, top, right, bottom in pixels of the upright picture.
    pub bounds: [f32; 4],
    /// Left eye, right eye, nose tip, left and right mouth corner as seen in the picture, pixels.
    pub landmarks: [[f32; 2]; 5],
    /// Detector's confidence, 0 to 1.
    pub score: f32,
    /// How fit it is to be known by, 0 to 1.
    pub quality: f32,
    /// What speaks against the face, as a sentence; always there when it is too poor to be known,
    /// or when the person it would be is nearer in another face of the picture.
    pub objection: Option<String>,
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// Who it is (known) or may be (uncertain).
    pub person: Option<NamedCandidate>,
    /// Distance to the nearest enrolled picture of anybody.
    pub distance: Option<f32>,
    /// How much farther the next person is.
    pub margin: Option<f32>,
    /// The nearest people, nearest first.
    pub candidates: Vec<NamedCandidate>,
    /// In the embedding space of the engine's pack.
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
    /// Cutting out and judging faces.
    pub align_ms: f64,
    /// Faces to embeddings.
    pub embed_ms: f64,
    /// Thumbnail and crops.
    pub encode_ms: f64,
}

/// Everything known of an image once it is recognised.
#[derive(Debug)]
pub struct Identified {
    /// Best of the faces.
    pub outcome: Outcome,
    /// Width and height in pixels, upright, where the engine tells them.
    pub size: Option<(u32, u32)>,
    /// Best first.
    pub faces: Vec<IdentifiedFace>,
    /// Where the engine tells them.
    pub timings: Option<Timings>,
    /// Small JPEG of the whole picture.
    pub thumbnail: Vec<u8>,
    /// What is wrong with the file although it could be read.
    pub remark: Option<String>,
    /// Pack, precision and device.
    pub engine: String,
    /// Which engine that was.
    pub role: EngineRole,
    /// Embedding space of the faces.
    pub space: String,
    /// sha256 of the picture's bytes, hex.
    pub picture_key: String,
}

impl Identified {
    /// The outcome of an image is the best of its faces' outcomes.
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
        // No schema tells a picture from other bytes. By these two words generated clients know
        // that they are bytes.
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

/// Milliseconds since 1970 by the board's clock, which may be wrong: for people to read, never for
/// order.
pub fn wall_clock_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// A moment as people read it, by the board's clock.
pub struct Moment {
    /// As machines read it too: 2026-11-23T07:21:05.000Z.
    pub iso: String,
    /// 2026-11-23 07:21:05 UTC.
    pub text: String,
}

impl Moment {
    /// From milliseconds since 1970.
    pub fn from_ms(ms: i64) -> Self {
        let seconds = ms.div_euclid(1000);
        let (year, month, day) = civil(seconds.div_euclid(86_400));
        let of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let date = format!("{year:04}-{month:02}-{day:02}");
        let time = format!("{hour:02}:{minute:02}:{second:02}");
        Self {
            iso: format!("{date}T{time}.{:03}Z", ms.rem_euclid(1000)),
            text: format!("{date} {time} UTC"),
        }
    }
}

/// Year, month and day of a day number since 1970-01-01, proleptic Gregorian.
///
/// Years are counted from March, so that the leap day is the last of its year and months have a
/// linear formula.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_TO_1970: i64 = 719_468; // from 0000-03-01
    const DAYS_PER_ERA: i64 = 146_097; // 400 years
    let days = days + DAYS_TO_1970;
    let of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + days.div_euclid(DAYS_PER_ERA) * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Sha256 of a picture, as it is stored and sent: lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why an engine gave no answer about a picture, or did not pass its self-test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineError {
    /// Kind of error.
    pub kind: EngineErrorKind,
    /// For the operator.
    pub sentence: String,
}

/// Kind of an [`EngineError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// The engine says that the picture cannot be decoded.
    Unreadable,
    /// The engine lives and says that it failed over this picture.
    Failed,
    /// The answer cannot be right.
    Malformed,
    /// The connection could not be made or broke.
    Unreachable,
    /// No answer in time; `lone`: no other picture was in the engine.
    TimedOut {
        /// Time the picture had.
        limit: Duration,
        /// No other picture was in flight.
        lone: bool,
    },
    /// The engine's process died.
    Died {
        /// No other picture was in flight.
        lone: bool,
    },
    /// The engine went away for reasons that have nothing to do with this picture.
    Aborted,
    /// The engine did not start.
    NotStarted,
    /// A well-formed answer to the self-test's picture, but not the right one: no result since the
    /// last passed self-test can be trusted.
    WrongAnswer,
}

impl EngineError {
    /// An error of this kind.
    pub fn new(kind: EngineErrorKind, sentence: impl Into<String>) -> Self {
        Self {
            kind,
            sentence: sentence.into(),
        }
    }

    /// The engine takes no pictures now, for this reason.
    pub fn aborted(sentence: impl Into<String>) -> Self {
        Self::new(EngineErrorKind::Aborted, sentence)
    }

    /// Reason for the circuit breaker.
    pub fn reason(&self) -> BreakerReason {
        match self.kind {
            EngineErrorKind::Malformed => BreakerReason::Malformed,
            EngineErrorKind::Unreachable => BreakerReason::Unreachable,
            EngineErrorKind::TimedOut { .. } => BreakerReason::Deadline,
            EngineErrorKind::NotStarted => BreakerReason::Start,
            EngineErrorKind::WrongAnswer => BreakerReason::SelfTest,
            EngineErrorKind::Unreadable
            | EngineErrorKind::Failed
            | EngineErrorKind::Died { .. }
            | EngineErrorKind::Aborted => BreakerReason::Crash,
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_iso_and_as_words_over_leap_days_and_before_1970() {
        assert_eq!(Moment::from_ms(0).iso, "1970-01-01T00:00:00.000Z");
        assert_eq!(
            Moment::from_ms(951_782_400_123).iso,
            "2000-02-29T00:00:00.123Z"
        );
        assert_eq!(
            Moment::from_ms(1_795_418_465_000).text,
            "2026-11-23 07:21:05 UTC"
        );
        assert_eq!(Moment::from_ms(-1).iso, "1969-12-31T23:59:59.999Z");
        assert_eq!(
            Moment::from_ms(4_107_542_399_000).iso,
            "2100-02-28T23:59:59.000Z"
        );
        assert_eq!(
            Moment::from_ms(4_107_542_400_000).iso,
            "2100-03-01T00:00:00.000Z"
        );
    }

    #[test]
    fn outcomes_are_ordered_from_known_to_no_face() {
        assert!(Outcome::ALL.is_sorted_by_key(|outcome| *outcome as u8));
        assert_eq!(Identified::best_outcome(&[]), Outcome::NoFace);
    }

    #[test]
    fn a_word_reads_back_as_it_is_spelled_and_a_wrong_one_lists_the_right_ones() {
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
