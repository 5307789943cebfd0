//! Decides what targets are told, when, and whether it is still true when its time has come. Pure.

use std::time::Duration;

use crate::config::Notify;
use crate::domain::{Outcome, PersonId};
use crate::store::{DueNotification, Ending, NotificationStep, SeenSighting, Told};

/// Wait for the number of a stranger if only those who were seen before are told, beside `wait`.
const NUMBERED_WITHIN: Duration = Duration::from_secs(60);
/// Interval at which such a number is looked for.
const NUMBER_EVERY: Duration = Duration::from_secs(5);

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Queue clock, in milliseconds.
    pub queue_ms: i64,
    /// Minute of the day in the board's time zone; `None`: its clock was not set yet.
    pub minute: Option<u16>,
}

/// The fate of a notification whose time has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is sent.
    Send,
    /// It is looked at again at this time of the queue clock, in milliseconds.
    Later(i64),
    /// It is not sent; these steps are made.
    Change(Vec<NotificationStep>),
}

/// The interest of a target in a sighting as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Yes,
    /// Once the stranger has a number and turns out to have been seen before.
    Perhaps,
    No,
}

/// Returns the steps for a sighting that changed.
pub fn decide(
    targets: &[Notify],
    seen: &SeenSighting,
    told: &[Told],
    now: Now,
) -> Vec<NotificationStep> {
    let steps = targets
        .iter()
        .flat_map(|target| decide_for(target, seen, told, now));
    steps.collect()
}

/// Returns the fate of a notification.
pub fn fate(target: &Notify, due: &DueNotification, now: Now) -> Fate {
    let DueNotification {
        row, seen, told, ..
    } = due;
    let end = |ending| Fate::Change(vec![NotificationStep::End(row.id, ending)]);
    let age_ms = now.queue_ms - row.came_ms;
    if age_ms > millis(target.expires) {
        return end(Ending::Expired);
    }
    if identity(row) != (seen.outcome, person(seen)) {
        let others: Vec<_> = told
            .iter()
            .filter(|other| other.id != row.id)
            .cloned()
            .collect();
        let mut steps = decide_for(target, seen, &others, now);
        steps.insert(0, NotificationStep::End(row.id, Ending::Dropped));
        return Fate::Change(steps);
    }
    // A stranger's number may have come since; two that began as unknown faces may be one.
    let again = told
        .iter()
        .any(|other| other.id < row.id && keeps_away(target, other, seen, now));
    match wanted(target, seen) {
        Wanted::Yes if !again => Fate::Send,
        Wanted::Perhaps if age_ms < millis(target.wait + NUMBERED_WITHIN) => {
            Fate::Later(now.queue_ms + millis(NUMBER_EVERY))
        }
        _ => end(Ending::Dropped),
    }
}

fn decide_for(
    target: &Notify,
    seen: &SeenSighting,
    told: &[Told],
    now: Now,
) -> Vec<NotificationStep> {
    let told: Vec<_> = told
        .iter()
        .filter(|row| row.target == target.name)
        .collect();
    let mut steps = Vec::new();
    for row in told
        .iter()
        .filter(|row| row.sighting == seen.id && row.ending.is_none())
    {
        if identity(row) == (seen.outcome, person(seen)) {
            return steps;
        }
        steps.push(NotificationStep::End(row.id, Ending::Dropped));
    }
    let fresh = now.queue_ms - seen.last_came_ms <= millis(target.expires);
    let source = target.sources.is_empty() || target.sources.contains(&seen.source);
    let hour = match now.minute {
        Some(minute) if !target.hours.is_empty() => {
            target.hours.iter().any(|hours| hours.hold(minute))
        }
        // Better at a wrong hour than never.
        _ => true,
    };
    let excluded = told
        .iter()
        .any(|row| is_said(row, seen) || keeps_away(target, row, seen, now));
    if !fresh || !source || !hour || excluded || wanted(target, seen) == Wanted::No {
        return steps;
    }
    let wait = match seen.outcome {
        Outcome::Known => Duration::ZERO,
        _ => target.wait,
    };
    steps.push(NotificationStep::Tell {
        target: target.name.clone(),
        due_ms: now.queue_ms + millis(wait),
    });
    steps
}

/// Returns whether a notification about this very sighting has said as much or more.
fn is_said(row: &Told, seen: &SeenSighting) -> bool {
    row.sighting == seen.id
        && row.ending.is_some_and(|ending| ending != Ending::Dropped)
        && ((row.outcome as u8) < (seen.outcome as u8)
            || identity(row) == (seen.outcome, person(seen)))
}

/// Returns whether another sighting of the same person or stranger was told not long ago.
fn keeps_away(target: &Notify, row: &Told, seen: &SeenSighting, now: Now) -> bool {
    row.target == target.name
        && row.sighting != seen.id
        && matches!(row.ending, None | Some(Ending::Sent))
        && identity(row) == (seen.outcome, person(seen))
        && now.queue_ms - row.came_ms < millis(target.again_after)
}

fn wanted(target: &Notify, seen: &SeenSighting) -> Wanted {
    let who = &target.who;
    match seen.outcome {
        Outcome::Known => {
            let name = seen
                .person
                .as_ref()
                .map(|(_, name)| crate::names::fold(name));
            let named = name.is_some_and(|name| who.names.contains(&name));
            if who.known || named {
                Wanted::Yes
            } else {
                Wanted::No
            }
        }
        Outcome::Uncertain if who.uncertain => Wanted::Yes,
        Outcome::Unknown if seen.ignored => Wanted::No,
        Outcome::Unknown if who.unknown || (who.returning && seen.returning) => Wanted::Yes,
        Outcome::Unknown if who.returning && seen.stranger.is_none() => Wanted::Perhaps,
        Outcome::Uncertain | Outcome::Unknown | Outcome::NoFace => Wanted::No,
    }
}

fn identity(row: &Told) -> (Outcome, Option<PersonId>) {
    (row.outcome, row.person)
}

fn person(seen: &SeenSighting) -> Option<PersonId> {
    seen.person.as_ref().map(|(id, _)| *id)
}

/// Returns a duration in milliseconds; one too long for the clock as a quarter of its range.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests;
