//! Read-only report about breaker and engines for page, API, MQTT and health.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::domain::BreakerState;
use crate::engines::instance::{EngineInstance, EngineState};
use crate::engines::state::Inner;
use crate::engines::status::{BreakerLine, EngineLine, EngineReport, ReasonCount, StateTime};
use crate::status::health::Condition;

impl Inner {
    pub(super) fn show(&self) {
        let report = self.report();
        let (condition, text) = match report.breaker.state {
            BreakerState::Closed if report.primary.up => (Condition::Ok, report.primary.name()),
            BreakerState::Closed => (Condition::Starting, "the engine is being started".into()),
            _ => {
                // The countdown is left out: it would log a new line each time.
                let sentence = report.sentence();
                let steady = sentence.split("; next try").next().unwrap_or_default();
                (
                    Condition::Degraded,
                    format!("the circuit breaker is {steady}"),
                )
            }
        };
        self.health.set("engine", condition, text);
    }

    pub(super) fn report(&self) -> EngineReport {
        let now = Instant::now();
        let breaker = self.breaker();
        let counters = breaker.counters();
        let last = breaker.last_reason();
        let line = BreakerLine {
            state: breaker.state(),
            for_seconds: now.saturating_duration_since(breaker.since()).as_secs_f64(),
            failures: breaker.failures(),
            last_reason: last.map(|(reason, _)| *reason),
            last_sentence: last.map(|(_, sentence)| sentence.clone()),
            next_ping_seconds: breaker.next_ping(now).map(|wait| wait.as_secs_f64()),
            trips: counters.trips,
            successes: counters.successes,
            failures_by_reason: counters
                .failures
                .iter()
                .map(|(reason, count)| ReasonCount {
                    reason: *reason,
                    count: *count,
                })
                .collect(),
            late: counters.late,
            pings_passed: counters.pings.0,
            pings_failed: counters.pings.1,
            seconds_in_state: breaker
                .time_in_states(now)
                .into_iter()
                .map(|(state, time)| StateTime {
                    state,
                    seconds: time.as_secs_f64(),
                })
                .collect(),
        };
        drop(breaker);
        EngineReport {
            breaker: line,
            primary: EngineLine {
                // An earlier process of this run may have measured them.
                timings: self.timings.borrow().clone(),
                ..engine_line(&self.primary)
            },
            fallback: self.fallback.as_ref().map(engine_line),
            fallback_calls: self.fallback_calls.load(Ordering::Relaxed),
        }
    }
}

fn engine_line(instance: &EngineInstance) -> EngineLine {
    let place = instance.place();
    let Some(up) = instance.running() else {
        let why = match &*instance.watch().borrow() {
            EngineState::Failed(failure) => Some(failure.to_string()),
            EngineState::Starting => Some("it is being started".into()),
            EngineState::Stopped | EngineState::Running(_) => None,
        };
        return EngineLine {
            place,
            why,
            ..EngineLine::default()
        };
    };
    let said = up.description();
    EngineLine {
        place,
        up: true,
        why: None,
        pack: said.pack,
        device: said.device,
        precision: said.precision,
        runtime: said.runtime,
        threads: up.threads() as u32,
        confinement: said.confinement,
        timings: Vec::new(),
        pid: up.pid(),
        resident_bytes: up.resident_bytes(),
    }
}
