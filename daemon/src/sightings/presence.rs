//! Presence: for each person present or away, for each source who is there, from open sightings.
//!
//! Pure: sightings in, presence out. Its publisher is `sinks::presence`.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{Outcome, PersonId};
use crate::store::{Latest, Seen};

/// Presence at one moment. Its JSON is the message and the answer of the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Presence {
    /// Name of the board.
    pub device: String,
    /// When this was true, wall clock.
    pub at_ms: i64,
    /// People who have been seen: those who are present first, then the others by their last
    /// sighting, newest first; at most 500.
    pub people: Vec<PersonPresence>,
    /// Sources by name; at most 200.
    pub sources: Vec<SourcePresence>,
}

/// A person, present or away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PersonPresence {
    /// Number of the person.
    pub person_id: PersonId,
    /// Name.
    pub name: String,
    /// Last level of the person's topic.
    pub topic: Option<String>,
    /// The person is seen now.
    pub present: bool,
    /// Source that sees them, or saw them last.
    pub source: String,
    /// Begin of that sighting, wall clock.
    pub since_ms: i64,
    /// Last look at them, wall clock.
    pub last_ms: i64,
    /// Id of that sighting.
    pub sighting_id: String,
}

/// A source and who is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SourcePresence {
    /// Name of the camera, or the way the images came in.
    pub source: String,
    /// Names of known people who are there.
    pub people: Vec<String>,
    /// Number of faces there that may be a person.
    pub uncertain: u32,
    /// Number of unknown faces there.
    pub unknown: u32,
    /// The newest sighting of the source.
    pub last: LastAtSource,
}

/// The newest sighting of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LastAtSource {
    /// Name of the person who it is, or may be.
    pub name: Option<String>,
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// Its last look, wall clock.
    pub at_ms: i64,
}

impl Presence {
    /// Makes presence of the latest sightings. Open ones count until `gap` has passed since their
    /// last look, by the queue clock `came_now_ms`. The second value is the time until one of them
    /// stops to count.
    pub fn of(
        device: &str,
        at_ms: i64,
        came_now_ms: i64,
        gap: Duration,
        latest: &Latest,
    ) -> (Self, Option<Duration>) {
        let gap_ms = i64::try_from(gap.as_millis()).unwrap_or(i64::MAX);
        let left_ms = |seen: &Seen| seen.last_came_ms.saturating_add(gap_ms) - came_now_ms;
        let here: Vec<&Seen> = latest
            .open
            .iter()
            .filter(|seen| left_ms(seen) >= 0)
            .collect();
        let known = here.iter().filter(|seen| seen.outcome == Outcome::Known);
        let mut people: Vec<PersonPresence> = Vec::new();
        // The sighting with the last look, of several of one person, says where they are.
        let mut nearest: Vec<_> = known.collect();
        nearest.sort_by_key(|seen| std::cmp::Reverse(seen.last_came_ms));
        let present = nearest.into_iter().map(|seen| (*seen, true));
        let away = latest.people.iter().map(|seen| (seen, false));
        for (seen, present) in present.chain(away) {
            let Some(person) = &seen.person else {
                continue;
            };
            if people.iter().all(|one| one.person_id != person.id) {
                people.push(PersonPresence {
                    person_id: person.id,
                    name: person.name.clone(),
                    topic: person.topic.clone(),
                    present,
                    source: seen.source.clone(),
                    since_ms: seen.began_ms,
                    last_ms: seen.last_ms,
                    sighting_id: seen.uid.clone(),
                });
            }
        }
        let sources = latest.sources.iter();
        let presence = Self {
            device: device.into(),
            at_ms,
            people,
            sources: sources
                .map(|last| SourcePresence::of(last, &here))
                .collect(),
        };
        let next_ms = here.into_iter().map(left_ms).min();
        let next = next_ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0) + 1));
        (presence, next)
    }

    /// Returns presence without the times that grow while nothing else changes, to compare it with
    /// an earlier one.
    pub fn without_clock(&self) -> Self {
        let mut still = self.clone();
        still.at_ms = 0;
        for person in still.people.iter_mut().filter(|person| person.present) {
            person.last_ms = 0;
        }
        for source in &mut still.sources {
            source.last.at_ms = 0;
        }
        still
    }
}

impl SourcePresence {
    fn of(last: &Seen, here: &[&Seen]) -> Self {
        let there = || here.iter().filter(|seen| seen.source == last.source);
        let count = |outcome| {
            let number = there().filter(|seen| seen.outcome == outcome).count();
            u32::try_from(number).unwrap_or(u32::MAX)
        };
        let name = |seen: &Seen| seen.person.as_ref().map(|person| person.name.clone());
        let mut people: Vec<_> = there()
            .filter(|seen| seen.outcome == Outcome::Known)
            .filter_map(|seen| name(seen))
            .collect();
        people.sort_unstable();
        people.dedup();
        Self {
            source: last.source.clone(),
            people,
            uncertain: count(Outcome::Uncertain),
            unknown: count(Outcome::Unknown),
            last: LastAtSource {
                name: name(last),
                outcome: last.outcome,
                at_ms: last.last_ms,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SeenPerson;

    const GAP: Duration = Duration::from_secs(60);

    /// A sighting whose person is named by the first letter of its id.
    fn seen(uid: &str, source: &str, outcome: Outcome, last_came_ms: i64) -> Seen {
        let person = SeenPerson {
            id: uid.as_bytes()[0].into(),
            name: uid[..1].into(),
            topic: Some(uid[..1].to_lowercase()),
        };
        Seen {
            uid: uid.into(),
            source: source.into(),
            outcome,
            person: Some(person).filter(|_| outcome != Outcome::Unknown),
            began_ms: 1000,
            last_ms: 1000 + last_came_ms,
            last_came_ms,
        }
    }

    fn presence(came_now_ms: i64, latest: &Latest) -> (Presence, Option<Duration>) {
        Presence::of("gate", 5_000_000, came_now_ms, GAP, latest)
    }

    #[test]
    fn people_are_present_by_open_sightings_and_away_by_others() {
        let latest = Latest {
            open: vec![
                seen("x", "yard", Outcome::Unknown, 95_000),
                seen("A1", "front", Outcome::Known, 60_000),
                seen("A2", "yard", Outcome::Known, 90_000),
                seen("C1", "yard", Outcome::Uncertain, 90_000),
            ],
            people: vec![
                seen("A2", "yard", Outcome::Known, 90_000),
                seen("B1", "front", Outcome::Known, 7_000),
            ],
            sources: vec![
                seen("B1", "front", Outcome::Known, 7_000),
                seen("x", "yard", Outcome::Unknown, 95_000),
            ],
        };
        let (now, next) = presence(100_000, &latest);
        let people: Vec<_> = now
            .people
            .iter()
            .map(|one| (one.name.as_str(), one.present, one.sighting_id.as_str()))
            .collect();
        // Ann is at two sources: where she was seen last counts. Who may be Carl is not Carl.
        assert_eq!(people, [("A", true, "A2"), ("B", false, "B1")]);
        assert_eq!(now.people[0].topic.as_deref(), Some("a"));
        let sources: Vec<_> = now
            .sources
            .iter()
            .map(|one| (one.people.len(), one.uncertain, one.unknown))
            .collect();
        assert_eq!(sources, [(1, 0, 0), (1, 1, 1)]);
        assert_eq!(now.sources[0].last.name.as_deref(), Some("B"));
        assert_eq!(now.sources[1].last.name, None);
        assert_eq!(next, Some(Duration::from_millis(20_001)));
    }

    #[test]
    fn a_sighting_that_is_still_open_stops_to_count_after_the_gap() {
        let latest = Latest {
            open: vec![seen("A1", "front", Outcome::Known, 10_000)],
            people: vec![seen("A1", "front", Outcome::Known, 10_000)],
            sources: vec![seen("A1", "front", Outcome::Known, 10_000)],
        };
        let (there, next) = presence(70_000, &latest);
        assert!(there.people[0].present && there.sources[0].people == ["A"]);
        assert_eq!(next, Some(Duration::from_millis(1)));
        let (gone, next) = presence(70_001, &latest);
        assert!(!gone.people[0].present && gone.sources[0].people.is_empty());
        assert_eq!((next, gone.people[0].last_ms), (None, 11_000));
    }

    #[test]
    fn a_further_look_at_the_same_people_is_no_change() {
        let at = |came_ms, outcome| {
            let seen = || vec![seen("A1", "front", outcome, came_ms)];
            let latest = Latest {
                open: seen(),
                people: seen(),
                sources: seen(),
            };
            presence(came_ms, &latest).0.without_clock()
        };
        assert_eq!(at(1000, Outcome::Known), at(9000, Outcome::Known));
        assert_ne!(at(1000, Outcome::Known), at(9000, Outcome::Uncertain));
    }
}
