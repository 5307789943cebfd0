//! Statistics of the breaker: outcomes of calls and pings, and the time in each state. They decide
//! nothing.

use std::time::Duration;

use crate::domain::{BreakerReason, BreakerState};

/// Outcomes of calls and pings since the start.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Calls answered in time.
    pub successes: u64,
    /// Failures by kind, slow answers included.
    pub failures: Vec<(BreakerReason, u64)>,
    /// Calls that ended after a change of state.
    pub late: u64,
    /// Number of times the breaker opened.
    pub trips: u64,
    /// Passed and failed pings.
    pub pings: (u64, u64),
}

impl Counters {
    pub(super) fn count_failure(&mut self, reason: BreakerReason) {
        let mut failures = self.failures.iter_mut();
        match failures.find(|(kind, _)| *kind == reason) {
            Some((_, count)) => *count += 1,
            None => self.failures.push((reason, 1)),
        }
    }
}

/// Time spent in each state that was left.
#[derive(Debug, Default)]
pub(super) struct TimeInStates(Vec<(BreakerState, Duration)>);

impl TimeInStates {
    pub(super) fn add(&mut self, state: BreakerState, spent: Duration) {
        match self.0.iter_mut().find(|(name, _)| *name == state) {
            Some((_, time)) => *time += spent,
            None => self.0.push((state, spent)),
        }
    }

    /// Returns the times of all states, with the time in the present one added.
    pub(super) fn with(&self, present: (BreakerState, Duration)) -> Vec<(BreakerState, Duration)> {
        let spent = |state: BreakerState| {
            let times = self.0.iter().chain([&present]);
            times
                .filter(|(name, _)| *name == state)
                .map(|(_, time)| *time)
                .sum()
        };
        BreakerState::ALL
            .iter()
            .map(|state| (*state, spent(*state)))
            .collect()
    }
}
