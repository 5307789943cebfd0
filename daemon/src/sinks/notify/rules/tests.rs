//! The filter by identity, source and hour, and what is not told twice.

use super::super::tests::target;
use super::*;
use crate::domain::SightingMessage;

const MINUTE: i64 = 60_000;
const NOW: Now = Now {
    queue_ms: 100 * MINUTE,
    minute: Some(12 * 60),
};
const WAIT: i64 = 10_000;

fn seen(outcome: Outcome) -> SeenSighting {
    let person = (outcome != Outcome::Unknown).then(|| (7, "Ann Lee".to_owned()));
    SeenSighting {
        id: 3,
        source: "front".into(),
        outcome,
        person,
        stranger: None,
        returning: false,
        ignored: false,
        last_came_ms: NOW.queue_ms,
    }
}

/// A row about the sighting of `seen`, or another one.
fn told(outcome: Outcome, sighting: i64, minutes_ago: i64, ending: Option<Ending>) -> Told {
    Told {
        id: 1,
        target: "a".into(),
        sighting,
        outcome,
        person: (outcome != Outcome::Unknown).then_some(7),
        came_ms: NOW.queue_ms - minutes_ago * MINUTE,
        ending,
    }
}

/// Returns the wait after which it is told; `None`: it is not.
fn tells(target: &Notify, seen: &SeenSighting, told: &[Told], now: Now) -> Option<i64> {
    match &decide(std::slice::from_ref(target), seen, told, now)[..] {
        [] => None,
        [NotificationStep::Tell { due_ms, .. }] => Some(due_ms - now.queue_ms),
        other => panic!("{other:?}"),
    }
}

fn due(row: Told, seen: SeenSighting, others: Vec<Told>) -> DueNotification {
    DueNotification {
        told: [vec![row.clone()], others].concat(),
        row,
        uid: "u".into(),
        attempts: 0,
        seen,
        message: SightingMessage {
            step: crate::domain::SightingStep::Begin,
            ..super::super::tests::sighting(Outcome::Unknown)
        },
    }
}

#[test]
fn the_filter_chooses_by_identity_source_and_hour() {
    let (known, uncertain, unknown) = (
        seen(Outcome::Known),
        seen(Outcome::Uncertain),
        seen(Outcome::Unknown),
    );
    let mut returning = unknown.clone();
    (returning.stranger, returning.returning) = (Some(12), true);
    let mut new = returning.clone();
    new.returning = false;
    let mut ignored = returning.clone();
    ignored.ignored = true;
    let all = [&known, &uncertain, &unknown, &returning, &new, &ignored];
    let told_of = |more: &str| {
        let target = target(more);
        all.map(|seen| tells(&target, seen, &[], NOW))
    };
    let (at_once, later) = (Some(0), Some(WAIT));
    assert_eq!(told_of(""), [at_once, later, later, later, later, None]);
    assert_eq!(
        told_of("who = [\"known\"]\n"),
        [at_once, None, None, None, None, None]
    );
    assert_eq!(
        told_of("who = [\"ANN  lee\"]\n"),
        [at_once, None, None, None, None, None]
    );
    assert_eq!(told_of("who = [\"Bob\"]\n"), [None; 6]);
    assert_eq!(
        told_of("who = [\"uncertain\"]\nwait = \"0s\"\n"),
        [None, Some(0), None, None, None, None]
    );
    // An unknown face has no number at first.
    assert_eq!(
        told_of("who = [\"returning\"]\n"),
        [None, None, later, later, None, None]
    );
    assert_eq!(told_of("sources = [\"yard\"]\n"), [None; 6]);
    assert_eq!(
        told_of("sources = [\"yard\", \"front\"]\nwho = [\"known\"]\n")[0],
        at_once
    );
    assert_eq!(
        told_of("hours = [\"22:00-06:00\", \"13:00-14:00\"]\n"),
        [None; 6]
    );
    assert_eq!(
        told_of("hours = [\"22:00-06:00\", \"11:00-12:01\"]\n")[0],
        at_once
    );
    let unset = Now {
        minute: None,
        ..NOW
    };
    let night = target("hours = [\"22:00-06:00\"]\n");
    assert_eq!(tells(&night, &known, &[], unset), at_once);
}

#[test]
fn old_news_is_not_told() {
    let target = target("expires = \"5m\"\n");
    let mut known = seen(Outcome::Known);
    known.last_came_ms -= 5 * MINUTE;
    assert_eq!(tells(&target, &known, &[], NOW), Some(0));
    known.last_came_ms -= 1;
    assert_eq!(tells(&target, &known, &[], NOW), None);
}

#[test]
fn the_same_person_is_told_again_only_after_a_while() {
    let target = target("again_after = \"10m\"\n");
    let known = seen(Outcome::Known);
    let told_of = |row| tells(&target, &known, &[row], NOW).is_some();
    let before = |minutes, ending| told(Outcome::Known, 2, minutes, ending);
    assert!(!told_of(before(9, Some(Ending::Sent))));
    assert!(!told_of(before(9, None)));
    assert!(told_of(before(10, Some(Ending::Sent))));
    // Nobody has heard of these.
    for ending in [Ending::Refused, Ending::Expired, Ending::Dropped] {
        assert!(told_of(before(1, Some(ending))), "{ending:?}");
    }
    let mut other = before(1, Some(Ending::Sent));
    other.target = "b".into();
    assert!(told_of(other.clone()));
    (other.target, other.person) = ("a".into(), Some(8));
    assert!(told_of(other));
    assert!(told_of(told(Outcome::Uncertain, 2, 1, Some(Ending::Sent))));
    let unknown = seen(Outcome::Unknown);
    let row = told(Outcome::Unknown, 2, 9, Some(Ending::Sent));
    assert_eq!(tells(&target, &unknown, &[row], NOW), None);
}

#[test]
fn a_sighting_is_told_once_and_then_only_better() {
    let target = target("again_after = \"0s\"\n");
    let tells = |outcome, row| tells(&target, &seen(outcome), &[row], NOW).is_some();
    let own = |outcome, ending| told(outcome, 3, 50, ending);
    for ending in [Ending::Sent, Ending::Refused, Ending::Expired] {
        assert!(!tells(Outcome::Known, own(Outcome::Known, Some(ending))));
    }
    let (sent, dropped) = (Some(Ending::Sent), Some(Ending::Dropped));
    assert!(tells(Outcome::Known, own(Outcome::Known, dropped)));
    assert!(tells(Outcome::Known, own(Outcome::Unknown, sent)));
    assert!(tells(Outcome::Uncertain, own(Outcome::Unknown, sent)));
    assert!(!tells(Outcome::Uncertain, own(Outcome::Known, sent)));
    assert!(!tells(Outcome::Unknown, own(Outcome::Uncertain, sent)));
    let mut bob = own(Outcome::Known, sent);
    bob.person = Some(8);
    assert!(tells(Outcome::Known, bob));
}

#[test]
fn a_waiting_notification_gives_way_to_a_better_one() {
    let all = target("");
    let waiting = told(Outcome::Unknown, 3, 0, None);
    let steps = |target: &Notify, seen: &SeenSighting| {
        decide(
            std::slice::from_ref(target),
            seen,
            std::slice::from_ref(&waiting),
            NOW,
        )
    };
    assert_eq!(steps(&all, &seen(Outcome::Unknown)), []);
    let dropped = NotificationStep::End(1, Ending::Dropped);
    let at_once = NotificationStep::Tell {
        target: "a".into(),
        due_ms: NOW.queue_ms,
    };
    assert_eq!(
        steps(&all, &seen(Outcome::Known)),
        [dropped.clone(), at_once]
    );
    let strangers = target("who = [\"unknown\"]\n");
    assert_eq!(steps(&strangers, &seen(Outcome::Known)), [dropped]);
}

#[test]
fn what_is_due_is_looked_at_again() {
    let all = target("expires = \"30m\"\n");
    let row = |minutes| told(Outcome::Unknown, 3, minutes, None);
    let fate = |target: &Notify, due: DueNotification| super::fate(target, &due, NOW);
    let end = |ending| Fate::Change(vec![NotificationStep::End(1, ending)]);
    let unknown = seen(Outcome::Unknown);
    assert_eq!(fate(&all, due(row(0), unknown.clone(), vec![])), Fate::Send);
    assert_eq!(
        fate(&all, due(row(30), unknown.clone(), vec![])),
        Fate::Send
    );
    assert_eq!(
        fate(&all, due(row(31), unknown.clone(), vec![])),
        end(Ending::Expired)
    );
    // A person, which the filter of this target wants, or not.
    let known = seen(Outcome::Known);
    let tell = NotificationStep::Tell {
        target: "a".into(),
        due_ms: NOW.queue_ms,
    };
    let renewed = Fate::Change(vec![NotificationStep::End(1, Ending::Dropped), tell]);
    assert_eq!(fate(&all, due(row(0), known.clone(), vec![])), renewed);
    let strangers = target("who = [\"unknown\"]\n");
    assert_eq!(
        fate(&strangers, due(row(0), known, vec![])),
        end(Ending::Dropped)
    );
    let mut ignored = unknown.clone();
    ignored.ignored = true;
    assert_eq!(
        fate(&all, due(row(0), ignored, vec![])),
        end(Ending::Dropped)
    );
    // Two unknown faces that turned out to be one stranger; the first of them is told.
    let other = |id| Told {
        id,
        ..told(Outcome::Unknown, 2, 1, Some(Ending::Sent))
    };
    let due_with = |id| due(row(0), unknown.clone(), vec![other(id)]);
    assert_eq!(fate(&all, due_with(0)), end(Ending::Dropped));
    assert_eq!(fate(&all, due_with(2)), Fate::Send);
}

#[test]
fn a_stranger_has_a_while_to_turn_out_to_be_returning() {
    let target = target("who = [\"returning\"]\n");
    let row = |seconds: i64| Told {
        came_ms: NOW.queue_ms - 1000 * seconds,
        ..told(Outcome::Unknown, 3, 0, None)
    };
    let unknown = seen(Outcome::Unknown);
    let fate = |due: DueNotification| super::fate(&target, &due, NOW);
    let later = Fate::Later(NOW.queue_ms + 5000);
    let dropped = Fate::Change(vec![NotificationStep::End(1, Ending::Dropped)]);
    assert_eq!(fate(due(row(10), unknown.clone(), vec![])), later);
    assert_eq!(fate(due(row(70), unknown.clone(), vec![])), dropped);
    let mut numbered = unknown;
    numbered.stranger = Some(12);
    assert_eq!(fate(due(row(10), numbered.clone(), vec![])), dropped);
    numbered.returning = true;
    assert_eq!(fate(due(row(10), numbered, vec![])), Fate::Send);
}
