//! The circuit breaker around the primary engine: states and transitions (M. Nygard, Release It!,
//! "Circuit Breaker"). It is pure: time and randomness are passed in, and the supervisor makes the
//! calls.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

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
    before: Vec<(BreakerState, Duration)>,
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
            before: Vec::new(),
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
        let mut times: Vec<_> = BreakerState::ALL
            .iter()
            .map(|state| (*state, Duration::ZERO))
            .collect();
        let present = (self.state(), now.saturating_duration_since(self.entered));
        for (state, spent) in self.before.iter().chain([&present]) {
            times
                .iter_mut()
                .filter(|(name, _)| name == state)
                .for_each(|(_, time)| *time += *spent);
        }
        times
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
        match self
            .counters
            .failures
            .iter_mut()
            .find(|(kind, _)| *kind == reason)
        {
            Some((_, count)) => *count += 1,
            None => self.counters.failures.push((reason, 1)),
        }
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
        match self.before.iter_mut().find(|(name, _)| *name == from) {
            Some((_, time)) => *time += spent,
            None => self.before.push((from, spent)),
        }
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
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        let settings = config::Breaker {
            failures: 3,
            cool_down: 10 * SECOND,
            longest_cool_down: 60 * SECOND,
            slow_call: 2 * SECOND,
            self_test: 300 * SECOND,
        };
        let now = Instant::now();
        (Breaker::new(settings, now), now)
    }

    fn fail(breaker: &mut Breaker, image: ImageId, now: Instant) -> Option<Transition> {
        let ticket = breaker.begin().unwrap();
        breaker.failed(
            ticket,
            Some(image),
            BreakerReason::Crash,
            "boom".into(),
            now,
        )
    }

    fn opened() -> (Breaker, Instant) {
        let (mut breaker, now) = breaker();
        breaker
            .trip(BreakerReason::Start, "no GPU".into(), now)
            .unwrap();
        (breaker, now)
    }

    #[test]
    fn failures_in_a_row_open_it_and_name_the_images_charged() {
        let (mut breaker, now) = breaker();
        assert_eq!(fail(&mut breaker, 1, now), None);
        assert_eq!(fail(&mut breaker, 2, now), None);
        let opened = fail(&mut breaker, 3, now).unwrap();
        assert_eq!(
            (opened.from, opened.to),
            (BreakerState::Closed, BreakerState::Open)
        );
        assert_eq!(
            (opened.blamed, opened.reason),
            (vec![1, 2], Some(BreakerReason::Crash))
        );
        assert_eq!(opened.sentence, "3 failures in a row; the last one: boom");
        assert_eq!(breaker.begin(), None);
    }

    #[test]
    fn one_picture_that_always_fails_opens_it_and_is_not_refunded() {
        let (mut breaker, now) = breaker();
        assert_eq!(
            (fail(&mut breaker, 1, now), fail(&mut breaker, 1, now)),
            (None, None)
        );
        assert!(fail(&mut breaker, 1, now).unwrap().blamed.is_empty());
    }

    #[test]
    fn a_quick_answer_ends_a_row_of_failures() {
        let (mut breaker, now) = breaker();
        for image in 0..10 {
            assert_eq!(fail(&mut breaker, image, now), None);
            assert_eq!(fail(&mut breaker, image, now), None);
            let ticket = breaker.begin().unwrap();
            assert_eq!(breaker.answered(ticket, image, SECOND, now), None);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn slow_answers_count_as_failures_without_a_refund() {
        let (mut breaker, now) = breaker();
        let mut last = None;
        for image in 0..3 {
            let ticket = breaker.begin().unwrap();
            last = breaker.answered(ticket, image, 3 * SECOND, now);
        }
        let opened = last.unwrap();
        assert_eq!(
            (opened.reason, opened.blamed),
            (Some(BreakerReason::Slow), vec![])
        );
        assert_eq!(breaker.counters().successes, 0);
    }

    /// Calls that ended after the breaker opened are late.
    #[test]
    fn late_calls_change_nothing_even_after_it_closed_again() {
        let (mut breaker, now) = breaker();
        let ticket = breaker.begin().unwrap();
        breaker
            .trip(BreakerReason::SelfTest, "it lies".into(), now)
            .unwrap();
        assert_eq!(
            breaker.failed(ticket, Some(1), BreakerReason::Crash, "late".into(), now),
            None
        );
        assert_eq!(breaker.last_reason().unwrap().1, "it lies");
        breaker.command(BreakerCommand::Close, now).unwrap();
        for _ in 0..5 {
            assert_eq!(
                breaker.failed(ticket, Some(1), BreakerReason::Crash, "later".into(), now),
                None
            );
        }
        assert_eq!(
            (breaker.state(), breaker.counters().late),
            (BreakerState::Closed, 6)
        );
    }

    #[test]
    fn it_pings_once_after_the_cool_down_and_closes_if_that_passes() {
        let (mut breaker, now) = opened();
        assert_eq!(breaker.begin_ping(now + 9 * SECOND), None);
        let later = now + 12 * SECOND;
        assert_eq!(
            breaker.begin_ping(later).unwrap().to,
            BreakerState::HalfOpen
        );
        assert_eq!((breaker.begin_ping(later), breaker.begin()), (None, None));
        assert_eq!(breaker.ping_passed(later).unwrap().to, BreakerState::Closed);
        assert_eq!(breaker.ping_passed(later), None);
        assert!(breaker.begin().is_some());
    }

    /// The doubling stops at the longest cool-down.
    #[test]
    fn the_cool_down_doubles_per_failed_ping_and_resets_on_close() {
        let (mut breaker, mut now) = opened();
        for seconds in [10, 20, 40, 60, 60] {
            let wait = breaker.next_ping(now).unwrap();
            assert!(
                (f64::from(seconds)..=f64::from(seconds) * 1.2).contains(&wait.as_secs_f64()),
                "{wait:?}"
            );
            now += wait;
            breaker.begin_ping(now).unwrap();
            let reopened = breaker
                .ping_failed(BreakerReason::Unreachable, "refused".into(), now)
                .unwrap();
            assert_eq!(
                (reopened.from, reopened.to),
                (BreakerState::HalfOpen, BreakerState::Open)
            );
        }
        now += breaker.next_ping(now).unwrap();
        breaker.begin_ping(now).unwrap();
        breaker.ping_passed(now).unwrap();
        breaker.trip(BreakerReason::Start, "x".into(), now).unwrap();
        assert!(breaker.next_ping(now).unwrap() <= 12 * SECOND);
        assert_eq!(
            (breaker.counters().trips, breaker.counters().pings),
            (2, (1, 5))
        );
    }

    #[test]
    fn an_operator_forces_it_open_until_told_otherwise() {
        let (mut breaker, now) = breaker();
        let opened = breaker.command(BreakerCommand::Open, now).unwrap();
        assert_eq!(
            (opened.to, opened.reason),
            (BreakerState::ForcedOpen, Some(BreakerReason::Operator))
        );
        assert_eq!(breaker.command(BreakerCommand::Open, now), None);
        let later = now + 10_000 * SECOND;
        assert_eq!(
            (
                breaker.next_ping(later),
                breaker.begin_ping(later),
                breaker.begin()
            ),
            (None, None, None)
        );
        assert_eq!(breaker.trip(BreakerReason::Start, "x".into(), later), None);
        assert_eq!(
            breaker.command(BreakerCommand::Auto, later).unwrap().to,
            BreakerState::Open
        );
        assert_eq!(
            breaker.begin_ping(later).unwrap().to,
            BreakerState::HalfOpen
        );
        assert_eq!(
            breaker.command(BreakerCommand::Open, later).unwrap().to,
            BreakerState::ForcedOpen
        );
        assert_eq!(breaker.ping_passed(later), None);
        assert_eq!(
            breaker.command(BreakerCommand::Close, later).unwrap().to,
            BreakerState::Closed
        );
        assert_eq!(breaker.command(BreakerCommand::Auto, later), None);
    }

    #[test]
    fn an_open_breaker_stays_open_for_its_time_over_a_restart() {
        let (open, now) = opened();
        let kept = open.snapshot(now + 4 * SECOND);
        let text = serde_json::to_string(&kept).unwrap();
        let (mut restarted, later) = breaker();
        restarted.restore(serde_json::from_str(&text).unwrap(), later);
        assert_eq!(
            (restarted.state(), restarted.begin()),
            (BreakerState::Open, None)
        );
        let wait = restarted.next_ping(later).unwrap();
        assert!(wait > 5 * SECOND && wait <= 8 * SECOND, "{wait:?}");
        assert_eq!(restarted.last_reason().unwrap().1, "no GPU");
    }

    #[test]
    fn a_ping_cut_off_by_a_restart_is_due_at_once_and_force_stays() {
        let (mut open, now) = opened();
        open.begin_ping(now + 12 * SECOND).unwrap();
        let (mut restarted, later) = breaker();
        restarted.restore(open.snapshot(now), later);
        assert_eq!(restarted.next_ping(later), Some(Duration::ZERO));
        open.command(BreakerCommand::Open, now).unwrap();
        restarted.restore(open.snapshot(now), later);
        assert_eq!(restarted.state(), BreakerState::ForcedOpen);
    }

    #[test]
    fn what_an_operator_says_before_a_restart_is_done_holds() {
        use BreakerCommand::{Auto, Close, Open};
        let (mut forced, now) = breaker();
        forced.command(Open, now).unwrap();
        let opened = opened().0;
        for (last_run, said, then) in [
            (&forced, Close, BreakerState::Closed),
            (&forced, Auto, BreakerState::Open),
            (&forced, Open, BreakerState::ForcedOpen),
            (&opened, Close, BreakerState::Closed),
            (&opened, Open, BreakerState::ForcedOpen),
        ] {
            let (mut restarted, now) = breaker();
            restarted.command(said, now);
            let kept = restarted.restore(last_run.snapshot(now), now);
            assert_eq!(restarted.state(), then, "{said:?}");
            // A restored state is written down unless the last run wrote the same.
            assert_eq!(
                kept.map(|kept| kept.to),
                (then != last_run.state()).then_some(then),
                "{said:?}"
            );
        }
    }

    #[test]
    fn time_is_booked_to_the_state_it_was_spent_in() {
        let (mut breaker, now) = breaker();
        breaker.command(BreakerCommand::Open, now + 5 * SECOND);
        breaker.command(BreakerCommand::Close, now + 8 * SECOND);
        let times = breaker.time_in_states(now + 10 * SECOND);
        let of = |state| times.iter().find(|(name, _)| *name == state).unwrap().1;
        assert_eq!(
            (of(BreakerState::Closed), of(BreakerState::ForcedOpen)),
            (7 * SECOND, 3 * SECOND)
        );
        assert_eq!(of(BreakerState::HalfOpen), Duration::ZERO);
    }

    #[test]
    fn in_any_order_it_closes_only_after_a_ping_or_by_an_operator() {
        let mut chance = fastrand::Rng::with_seed(7);
        let (mut breaker, mut now) = breaker();
        let mut tickets: Vec<Ticket> = Vec::new();
        let mut pinging = false;
        for step in 0..50_000 {
            now += Duration::from_millis(chance.u64(0..5000));
            let before = breaker.state();
            let event = chance.u8(0..9);
            tickets.extend(breaker.begin());
            let ticket = tickets[chance.usize(..tickets.len())];
            let change = match event {
                0 => breaker.answered(
                    ticket,
                    step,
                    Duration::from_millis(chance.u64(0..4000)),
                    now,
                ),
                1 | 2 => breaker.failed(ticket, Some(step), BreakerReason::Crash, "x".into(), now),
                3 if chance.u8(..) < 20 => breaker.trip(BreakerReason::SelfTest, "x".into(), now),
                4 => {
                    let began = breaker.begin_ping(now);
                    assert!(began.is_none() || !pinging, "two pings at once");
                    began
                }
                5 => breaker.ping_passed(now),
                6 => breaker.ping_failed(BreakerReason::Deadline, "x".into(), now),
                7 if chance.u8(..) < 10 => {
                    breaker.command(*chance.choice(BreakerCommand::ALL).unwrap(), now)
                }
                _ => None,
            };
            let after = breaker.state();
            pinging = after == BreakerState::HalfOpen;
            assert_eq!(
                change.is_some(),
                before != after || matches!(event, 6) && change.is_some(),
                "step {step}"
            );
            if let Some(change) = change {
                assert_eq!((change.from, change.to), (before, after));
                assert!(
                    after != BreakerState::Closed || matches!(event, 5 | 7),
                    "closed by event {event}"
                );
                assert!(change.blamed.is_empty() || before == BreakerState::Closed);
            }
            assert_eq!(breaker.begin().is_some(), after == BreakerState::Closed);
            assert!(
                breaker
                    .next_ping(now)
                    .is_none_or(|wait| wait <= 72 * SECOND)
            );
        }
    }
}
