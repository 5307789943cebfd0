//! Status of the engines and the circuit breaker, as page, API, metrics, MQTT and command line show
//! it: types and sentences only.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{BreakerReason, BreakerState};

/// State of one engine.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct EngineLine {
    /// Location of the engine: its process, or an address.
    pub place: String,
    /// True if it takes pictures.
    pub up: bool,
    /// Reason why it takes none.
    pub why: Option<String>,
    /// Id of its model pack.
    pub pack: String,
    /// Device: cpu, cuda, or another server's word for its own.
    pub device: String,
    /// Precision in use.
    pub precision: String,
    /// Library and version.
    pub runtime: String,
    /// Number of pictures it takes at the same time.
    pub threads: u32,
    /// Confinement of the process, as a sentence.
    pub confinement: String,
    /// Time of each measured precision on this board.
    pub timings: Vec<PrecisionTime>,
    /// Process number of the child process.
    pub pid: Option<u32>,
    /// Memory of the child process.
    pub resident_bytes: Option<u64>,
}

impl EngineLine {
    /// Returns pack, precision, device and threads as one text.
    pub fn name(&self) -> String {
        let words = [&self.pack, &self.precision, &self.device].map(String::as_str);
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        format!("{} on {} threads", words.join(" "), self.threads)
    }
}

/// State of the circuit breaker.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BreakerLine {
    /// State of the breaker.
    pub state: BreakerState,
    /// Seconds spent in this state.
    pub for_seconds: f64,
    /// Failures in a row while closed.
    pub failures: u32,
    /// Kind of the last failure or trip since the start.
    pub last_reason: Option<BreakerReason>,
    /// The same as a sentence.
    pub last_sentence: Option<String>,
    /// Seconds until the next ping, while open.
    pub next_ping_seconds: Option<f64>,
    /// Number of times the breaker opened since the start.
    pub trips: u64,
    /// Calls answered in time.
    pub successes: u64,
    /// Failed calls by kind.
    pub failures_by_reason: Vec<ReasonCount>,
    /// Calls that ended after a change of state and did not count.
    pub late: u64,
    /// Pings that passed.
    pub pings_passed: u64,
    /// Pings that failed.
    pub pings_failed: u64,
    /// Time spent in each state since the start.
    pub seconds_in_state: Vec<StateTime>,
}

/// Time of one face in one precision.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PrecisionTime {
    /// Precision of the recogniser.
    pub precision: String,
    /// Median milliseconds.
    pub milliseconds: f64,
}

/// Number of calls that failed for one reason.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct ReasonCount {
    /// Kind of failure.
    pub reason: BreakerReason,
    /// Number of failures since the start.
    pub count: u64,
}

/// Time that the breaker spent in one state.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct StateTime {
    /// State of the breaker.
    pub state: BreakerState,
    /// Seconds spent in it, in all.
    pub seconds: f64,
}

/// State of the engines and the circuit breaker.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EngineReport {
    /// The circuit breaker.
    pub breaker: BreakerLine,
    /// The primary engine, which the breaker guards.
    pub primary: EngineLine,
    /// The fallback engine, if one is configured.
    pub fallback: Option<EngineLine>,
    /// Pictures that the fallback engine was sent since the start.
    pub fallback_calls: u64,
}

impl EngineReport {
    /// Returns the breaker's state as one sentence.
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
