//! The circuit breaker around the primary engine: states and transitions (M. Nygard, Release It!,
//! "Circuit Breaker"). It is pure: time and randomness are passed in, and the supervisor makes the
//! calls.

mod stats;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::stats::Counters;
use self::stats::TimeInStates;
use crate::config;
use crate::domain::{BreakerCommand, BreakerReason, BreakerState, ImageId};

/// Largest share of a cool-down that is added at random, so that boards on one remote engine do not
/// ping in step.
const JITTER: f64 = 0.2;

/// State of the breaker, with the data that belongs to each state.
#[derive(Debug, Clone, PartialEq)]
enum State {
    Closed { failed: Vec<ImageId>, failures: u32 },
    Open { until: Instant, pings_failed: u32 },
    HalfOpen { pings_failed: u32 },
    ForcedOpen,
}

impl State {
    fn name(&self) -> BreakerState {
        match self {
            Self::Closed { .. } => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
            Self::ForcedOpen => BreakerState::ForcedOpen,
        }
    }

    fn closed() -> Self {
        Self::Closed {
            failed: Vec::new(),
            failures: 0,
        }
    }
}

/// A change of state, for the log and for the supervisor.
#[derive(Debug, Clone, PartialEq)]
pub struct Transition {
    /// State before the change.
    pub from: BreakerState,
    /// State after the change.
    pub to: BreakerState,
    /// Kind of cause; `None` on recovery.
    pub reason: Option<BreakerReason>,
    /// Sentence for the operator.
    pub sentence: String,
    /// Images whose failures opened the breaker, except the last one. The engine is at fault, so
    /// their attempts are refunded.
    pub blamed: Vec<ImageId>,
}

/// Closed period in which a call began. A call that ends in a later period does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// State that survives a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Half-open counts as open.
    pub state: BreakerState,
    /// Remaining cool-down of an open breaker.
    pub remaining_ms: u64,
    /// Failed pings in a row.
    pub pings_failed: u32,
    /// Cause of the opening.
    pub reason: BreakerReason,
    /// The cause as a sentence.
    pub sentence: String,
}

/// The circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: config::Breaker,
    state: State,
    period: u64,
    entered: Instant,
    before: TimeInStates,
    counters: Counters,
    last: Option<(BreakerReason, String)>,
    /// The operator's last command, which may come before the last run's state is restored.
    told: Option<BreakerCommand>,
}

impl Breaker {
    /// Makes a closed breaker.
    pub fn new(settings: config::Breaker, now: Instant) -> Self {
        Self {
            settings,
            state: State::closed(),
            period: 0,
            entered: now,
            before: TimeInStates::default(),
            counters: Counters::default(),
            last: None,
            told: None,
        }
    }

    /// Restores the state of the last run, then applies a command that an operator gave meanwhile.
    pub fn restore(&mut self, snapshot: Snapshot, now: Instant) -> Option<Transition> {
        let Snapshot {
            state,
            remaining_ms,
            pings_failed,
            reason,
            sentence,
        } = snapshot;
        let longest = self.settings.longest_cool_down.mul_f64(1.0 + JITTER);
        let remaining = Duration::from_millis(remaining_ms).min(longest);
        self.state = match state {
            BreakerState::Closed => return None,
            BreakerState::Open => State::Open {
                until: now + remaining,
                pings_failed,
            },
            BreakerState::HalfOpen => State::Open {
                until: now,
                pings_failed,
            },
            BreakerState::ForcedOpen => State::ForcedOpen,
        };
        self.last = Some((reason, sentence));
        self.period += 1;
        self.entered = now;
        self.told.and_then(|command| self.command(command, now))
    }

    /// Returns the state to keep for the next run.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let (reason, sentence) = self
            .last
            .clone()
            .unwrap_or((BreakerReason::Operator, String::new()));
        let (remaining, pings_failed) = match &self.state {
            State::Open {
                until,
                pings_failed,
            } => (until.saturating_duration_since(now), *pings_failed),
            State::HalfOpen { pings_failed } => (Duration::ZERO, *pings_failed),
            State::Closed { .. } | State::ForcedOpen => (Duration::ZERO, 0),
        };
        let remaining_ms = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
        Snapshot {
            state: self.state.name(),
            remaining_ms,
            pings_failed,
            reason,
            sentence,
        }
    }

    /// Returns the state.
    pub fn state(&self) -> BreakerState {
        self.state.name()
    }

    /// Returns the number of failures in a row while closed.
    pub fn failures(&self) -> u32 {
        match self.state {
            State::Closed { failures, .. } => failures,
            _ => 0,
        }
    }

    /// Returns the time of the last change of state.
    pub fn since(&self) -> Instant {
        self.entered
    }

    /// Returns the time spent in each state so far, the current one included.
    pub fn time_in_states(&self, now: Instant) -> Vec<(BreakerState, Duration)> {
        let present = now.saturating_duration_since(self.entered);
        self.before.with((self.state(), present))
    }

    /// Returns the counts of calls and pings.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the cause of the last opening or counted failure.
    pub fn last_reason(&self) -> Option<&(BreakerReason, String)> {
        self.last.as_ref()
    }

    /// Returns the time until the next ping; `None` if none is scheduled.
    pub fn next_ping(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until, .. } => Some(until.saturating_duration_since(now)),
            _ => None,
        }
    }

    /// Begins a call; `None` if no call is allowed.
    pub fn begin(&self) -> Option<Ticket> {
        matches!(self.state, State::Closed { .. }).then_some(Ticket(self.period))
    }

    /// Records an answer after `took`. A slow answer counts as a failure.
    pub fn answered(
        &mut self,
        ticket: Ticket,
        image: ImageId,
        took: Duration,
        now: Instant,
    ) -> Option<Transition> {
        if took > self.settings.slow_call {
            let sentence = format!("a call took {:.1} s", took.as_secs_f32());
            return self.failed(ticket, Some(image), BreakerReason::Slow, sentence, now);
        }
        if self.is_late(ticket) {
            return None;
        }
        self.counters.successes += 1;
        if let State::Closed { failed, failures } = &mut self.state {
            failed.clear();
            *failures = 0;
        }
        None
    }

    /// Records a failure of the engine; enough of them in a row open the breaker.
    pub fn failed(
        &mut self,
        ticket: Ticket,
        image: Option<ImageId>,
        reason: BreakerReason,
        sentence: String,
        now: Instant,
    ) -> Option<Transition> {
        if self.is_late(ticket) {
            return None;
        }
        self.counters.count_failure(reason);
        self.last = Some((reason, sentence.clone()));
        let State::Closed { failed, failures } = &mut self.state else {
            return None;
        };
        // A slow answer is kept, so there is no attempt to refund.
        failed.extend(image.filter(|_| reason != BreakerReason::Slow));
        *failures += 1;
        let failures = *failures;
        if failures < self.settings.failures {
            return None;
        }
        Self::others(failed, image);
        let sentence = match failures {
            1 => sentence,
            failures => format!("{failures} failures in a row; the last one: {sentence}"),
        };
        self.trip(reason, sentence, now)
    }

    fn is_late(&mut self, ticket: Ticket) -> bool {
        let late = ticket.0 != self.period || !matches!(self.state, State::Closed { .. });
        self.counters.late += u64::from(late);
        late
    }

    /// Opens the breaker at once: the engine does not start, or it fails its self-test.
    pub fn trip(
        &mut self,
        reason: BreakerReason,
        sentence: String,
        now: Instant,
    ) -> Option<Transition> {
        let State::Closed { failed, .. } = &mut self.state else {
            return None;
        };
        let blamed = std::mem::take(failed);
        self.counters.trips += 1;
        self.open(0, blamed, reason, sentence, now)
    }

    /// Keeps the images before `last`, or none if all are the same image: one picture alone proves
    /// nothing against the engine.
    fn others(failed: &mut Vec<ImageId>, last: Option<ImageId>) {
        if failed.last().copied() == last {
            failed.pop();
        }
        if failed.iter().all(|image| Some(*image) == last) {
            failed.clear();
        }
    }

    /// Begins a ping that is due; `None` if none is due or one is under way.
    pub fn begin_ping(&mut self, now: Instant) -> Option<Transition> {
        match self.state {
            State::Open {
                until,
                pings_failed,
            } if until <= now => {
                let sentence = "the engine is tested".to_string();
                self.enter(
                    State::HalfOpen { pings_failed },
                    None,
                    sentence,
                    Vec::new(),
                    now,
                )
            }
            _ => None,
        }
    }

    /// Records a passed ping and closes the breaker.
    pub fn ping_passed(&mut self, now: Instant) -> Option<Transition> {
        if !matches!(self.state, State::HalfOpen { .. }) {
            return None;
        }
        self.counters.pings.0 += 1;
        self.enter(
            State::closed(),
            None,
            "the engine passed its test".into(),
            Vec::new(),
            now,
        )
    }

    /// Records a failed ping: the next cool-down is twice as long.
    pub fn ping_failed(
        &mut self,
        reason: BreakerReason,
        sentence: String,
        now: Instant,
    ) -> Option<Transition> {
        let State::HalfOpen { pings_failed } = self.state else {
            return None;
        };
        self.counters.pings.1 += 1;
        self.open(pings_failed + 1, Vec::new(), reason, sentence, now)
    }

    /// Executes an operator's command.
    pub fn command(&mut self, command: BreakerCommand, now: Instant) -> Option<Transition> {
        let by_operator = Some(BreakerReason::Operator);
        self.told = Some(command);
        match (command, &self.state) {
            (BreakerCommand::Open, State::ForcedOpen)
            | (BreakerCommand::Close, State::Closed { .. }) => None,
            (BreakerCommand::Open, _) => {
                self.counters.trips += 1;
                let blamed = match &mut self.state {
                    State::Closed { failed, .. } => std::mem::take(failed),
                    _ => Vec::new(),
                };
                let sentence = "opened by an operator".to_string();
                self.last = Some((BreakerReason::Operator, sentence.clone()));
                self.enter(State::ForcedOpen, by_operator, sentence, blamed, now)
            }
            (BreakerCommand::Close, _) => self.enter(
                State::closed(),
                by_operator,
                "closed by an operator".into(),
                Vec::new(),
                now,
            ),
            (BreakerCommand::Auto, State::ForcedOpen) => {
                let open = State::Open {
                    until: now,
                    pings_failed: 0,
                };
                self.enter(
                    open,
                    by_operator,
                    "returned to automatic control by an operator".into(),
                    Vec::new(),
                    now,
                )
            }
            (BreakerCommand::Auto, _) => None,
        }
    }

    fn open(
        &mut self,
        pings_failed: u32,
        blamed: Vec<ImageId>,
        reason: BreakerReason,
        sentence: String,
        now: Instant,
    ) -> Option<Transition> {
        let doubled = self
            .settings
            .cool_down
            .saturating_mul(1 << pings_failed.min(20));
        let cool_down = doubled
            .min(self.settings.longest_cool_down)
            .mul_f64(1.0 + JITTER * fastrand::f64());
        self.last = Some((reason, sentence.clone()));
        self.enter(
            State::Open {
                until: now + cool_down,
                pings_failed,
            },
            Some(reason),
            sentence,
            blamed,
            now,
        )
    }

    fn enter(
        &mut self,
        state: State,
        reason: Option<BreakerReason>,
        sentence: String,
        blamed: Vec<ImageId>,
        now: Instant,
    ) -> Option<Transition> {
        let from = self.state();
        let spent = now.saturating_duration_since(self.entered);
        self.before.add(from, spent);
        self.entered = now;
        self.period += 1;
        self.state = state;
        Some(Transition {
            from,
            to: self.state(),
            reason,
            sentence,
            blamed,
        })
    }
}

#[cfg(test)]
mod tests;
