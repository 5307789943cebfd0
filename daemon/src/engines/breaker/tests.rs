//! The breaker's rules one by one, then invariants over a long random walk.

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
