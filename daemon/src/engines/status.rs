//! What page, API, metrics, MQTT and command line see of the engines and the circuit breaker, and
//! what they may tell it; and the question that a camera has for the engine. Words and doors only,
//! so that none of them knows `recognition`.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use kith_vision::Caution;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{BreakerCommand, BreakerReason, BreakerState, PersonId};

/// One engine as it is now.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct EngineLine {
    /// Where it runs.
    pub place: String,
    /// Whether it takes pictures.
    pub up: bool,
    /// Why it does not.
    pub why: Option<String>,
    /// Id of its model pack.
    pub pack: String,
    /// cpu, cuda, or what another server says.
    pub device: String,
    /// Precision that runs.
    pub precision: String,
    /// Library and version.
    pub runtime: String,
    /// Pictures at the same time.
    pub threads: u32,
    /// What the process may still do.
    pub confinement: String,
    /// Each precision with its time on this board, once measured.
    pub timings: Vec<PrecisionTime>,
    /// Process number of our own child.
    pub pid: Option<u32>,
    /// Memory of our own child.
    pub resident_bytes: Option<u64>,
}

impl EngineLine {
    /// Pack, precision, device and threads, for people.
    pub fn name(&self) -> String {
        let words = [&self.pack, &self.precision, &self.device].map(String::as_str);
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        format!("{} on {} threads", words.join(" "), self.threads)
    }
}

/// The circuit breaker as it is now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BreakerLine {
    /// Where it is.
    pub state: BreakerState,
    /// For how long, in seconds.
    pub for_seconds: f64,
    /// Failures in a row while closed.
    pub failures: u32,
    /// Kind of the last failure or trip since the start.
    pub last_reason: Option<BreakerReason>,
    /// The same in words.
    pub last_sentence: Option<String>,
    /// Seconds until the next ping, while open.
    pub next_ping_seconds: Option<f64>,
    /// How often it opened since the start.
    pub trips: u64,
    /// Calls answered in time.
    pub successes: u64,
    /// Failed calls by kind.
    pub failures_by_reason: Vec<ReasonCount>,
    /// Calls that ended too late to count.
    pub late: u64,
    /// Pings that passed.
    pub pings_passed: u64,
    /// Pings that failed.
    pub pings_failed: u64,
    /// Time spent in each state since the start.
    pub seconds_in_state: Vec<StateTime>,
}

/// How long one face takes in one precision.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PrecisionTime {
    /// Of the networks.
    pub precision: String,
    /// Median milliseconds.
    pub milliseconds: f64,
}

/// How many calls failed for one reason.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct ReasonCount {
    /// Why.
    pub reason: BreakerReason,
    /// How many since the start.
    pub count: u64,
}

/// How long the breaker was in one state.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct StateTime {
    /// Where it was.
    pub state: BreakerState,
    /// For so long in all.
    pub seconds: f64,
}

/// Engines and breaker as they are now.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EngineReport {
    /// The breaker.
    pub breaker: BreakerLine,
    /// The engine it guards.
    pub primary: EngineLine,
    /// The one that stands in for it, if configured.
    pub fallback: Option<EngineLine>,
    /// Pictures the fallback was sent since the start.
    pub fallback_calls: u64,
}

/// The door: clones share it.
#[derive(Clone)]
pub struct EngineDesk {
    /// As it is now.
    pub report: Arc<dyn Fn() -> EngineReport + Send + Sync>,
    /// Tells the breaker something; answers what it is then.
    pub command: Arc<dyn Fn(BreakerCommand) -> BreakerState + Send + Sync>,
}

/// What speaks about one enrolled picture, seen beside all others.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "remark")]
pub enum PictureRemark {
    /// So much like another picture of the same person that it adds nothing.
    Redundant {
        /// That other picture.
        like: i64,
        /// How far apart they are.
        distance: f32,
    },
    /// Far from all others of the same person.
    Outlier {
        /// To the nearest of them.
        distance: f32,
    },
    /// Nearer to somebody else than people should be.
    LooksLike {
        /// Who that is.
        person_id: PersonId,
        /// Their name.
        name: String,
        /// To their nearest picture.
        distance: f32,
    },
}

/// A point of the calibration's curves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct CalibrationPoint {
    /// Pairs nearer than this pass.
    pub threshold: f32,
    /// Share of pairs of two people that pass (false match rate).
    pub fmr: f64,
    /// Share of pairs of one person that do not (false non-match rate).
    pub fnmr: f64,
}

/// What the own gallery says about the threshold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Calibration {
    /// People with an enrolled picture.
    pub people: usize,
    /// Enrolled pictures.
    pub pictures: usize,
    /// Pairs of pictures of one person.
    pub genuine: usize,
    /// Pairs of pictures of two people.
    pub impostors: usize,
    /// The threshold in use; where the lines follow the gallery, the one below which a face is
    /// known.
    pub threshold: f32,
    /// How many strangers may get a name, as chosen; `None`: the threshold is fixed, by the
    /// operator or by the pack.
    #[schema(value_type = Option<String>)]
    pub caution: Option<Caution>,
    /// A face nearer than this to a person is known…
    pub known_below: f32,
    /// …and one farther than this from everybody is unknown.
    pub unknown_above: f32,
    /// The share of strangers that is expected to come out as known, 0 to 1; with `caution` only.
    pub strangers_known: Option<f64>,
    /// The share of strangers that is expected to get a name, known or uncertain; with `caution`
    /// only.
    pub strangers_named: Option<f64>,
    /// False match and false non-match rate at it; `None`: too few pairs of either kind.
    pub now: Option<CalibrationPoint>,
    /// The threshold to use, with its rates; `None`: the gallery is too small to say.
    pub recommended: Option<CalibrationPoint>,
    /// Why that one, or why none, in a sentence.
    pub reason: String,
    /// Upper edge of each bin of the two histograms.
    pub bins: Vec<f32>,
    /// Share of the genuine pairs in each.
    pub genuine_share: Vec<f64>,
    /// Share of the impostor pairs in each.
    pub impostor_share: Vec<f64>,
    /// Rates over the threshold.
    pub curve: Vec<CalibrationPoint>,
}

/// What the gallery in memory says of itself; clones share it.
#[derive(Clone)]
pub struct GalleryDesk {
    /// Two pictures of one person are nearer than this.
    pub threshold: f32,
    /// Remarks on the enrolled pictures of a person, by the picture's row; one without any is not
    /// in it. May take a while.
    pub remarks: Arc<dyn Fn(PersonId) -> Vec<(i64, PictureRemark)> + Send + Sync>,
    /// All enrolled pictures against each other. May take a while.
    pub calibration: Arc<dyn Fn() -> Calibration + Send + Sync>,
}

/// Whether there is a face in a picture, asked of the engine behind the circuit breaker; clones
/// share it.
#[derive(Clone)]
pub struct FaceDesk {
    /// The quality of the best face, 0 to 1; `None` when there is no face.
    pub best_face: Arc<dyn Fn(Bytes) -> Asking + Send + Sync>,
}

/// An answer that is being waited for.
pub type Asking = Pin<Box<dyn Future<Output = Result<Option<f32>, NoAnswer>> + Send>>;

/// Why the engine did not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// It cannot read this picture.
    Unreadable(String),
    /// It answers none now.
    Away(String),
}

impl EngineReport {
    /// The breaker in one line for people.
    pub fn sentence(&self) -> String {
        let BreakerLine {
            state,
            last_sentence,
            next_ping_seconds,
            ..
        } = &self.breaker;
        let why = last_sentence
            .as_deref()
            .map_or_else(String::new, |why| format!(": {why}"));
        let stand_in = match &self.fallback {
            Some(fallback) if fallback.up => "; the fallback engine takes its pictures",
            _ => "; pictures wait",
        };
        match state {
            BreakerState::Closed if self.primary.up => format!("closed; {}", self.primary.name()),
            BreakerState::Closed => "closed; the engine is being started".into(),
            BreakerState::Open => {
                let next = next_ping_seconds.unwrap_or_default().ceil();
                format!("open{why}{stand_in}; next try in {next} s")
            }
            BreakerState::HalfOpen => format!("half open, the engine is being tested{stand_in}"),
            BreakerState::ForcedOpen => {
                format!("held open by an operator{stand_in}; kithd breaker auto ends that")
            }
        }
    }
}
