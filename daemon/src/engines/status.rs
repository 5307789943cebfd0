//! Status of the engines and the circuit breaker, as page, API, metrics, MQTT and command line show
//! it. Words only.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{BreakerReason, BreakerState};

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
