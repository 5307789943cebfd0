//! Decides which pictures of which event are fetched next: a state machine without clock or
//! network.
//!
//! An event that is under way gets a look every so often. Frigate's best picture of it is fetched
//! when it has become another one, the camera's current picture each time; the last picture allowed
//! is kept for the best one at the end. While several objects are under way at one camera, pictures
//! of the whole scene would show the others as well: then only cuttings of each event are fetched.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::event::Event;

/// Most events that are watched at a time. The rest is found again by the API.
const MOST_WATCHED: usize = 256;
/// Most events that are remembered as done.
const MOST_DONE: usize = 2000;
/// Times that the picture of an ended event may be missing. Frigate may store it shortly after the
/// end.
const MISSING: u32 = 4;
/// Longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Seconds before the position that are listed again: Frigate lists an event only once it has a
/// picture of it.
const OVERLAP: f64 = 60.0;

/// Choice of the operator.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Kinds of objects.
    pub labels: Vec<String>,
    /// Names of cameras; none means all.
    pub cameras: Vec<String>,
    /// Time between two looks at an event.
    pub every: Duration,
    /// Most pictures of an event.
    pub pictures: u32,
    /// Age up to which an event is fetched.
    pub news: Duration,
}

/// A picture to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shot {
    /// Frigate's best picture of an event under way, whole.
    Best,
    /// The same, cut out.
    Cut,
    /// The camera's current picture.
    Latest,
    /// Frigate's best picture of an event that has ended.
    Final,
}

/// What to fetch of one event now.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Event.
    pub id: String,
    /// Its camera.
    pub camera: String,
    /// Pictures, most important first.
    pub shots: Vec<Shot>,
    /// Most pictures that may be taken of them.
    pub left: u32,
    /// This is the first look at it since the start of the program.
    pub first: bool,
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Everything was there.
    All,
    /// The event has no picture, or not yet.
    Missing,
    /// Frigate cannot be asked, or the picture cannot be accepted; again later.
    Later,
}

/// Answer to a message about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// It is watched from now on.
    Begun,
    /// It was known, or is none that is watched.
    Nothing,
    /// Too many are watched.
    Over,
}

struct Watched {
    camera: String,
    start: f64,
    ended: bool,
    has_snapshot: bool,
    /// Frame time of Frigate's best picture.
    best: Option<f64>,
    /// The same of the one that was fetched last.
    fetched: Option<Option<f64>>,
    looked: bool,
    taken: u32,
    failures: u32,
    /// Time of the next look; `None`: none before something happens.
    due: Option<Instant>,
    busy: bool,
}

/// All events that are watched or were.
pub struct Tracker {
    rules: Rules,
    watched: BTreeMap<String, Watched>,
    done: HashSet<String>,
    done_order: VecDeque<String>,
    /// Start of the newest event that was noted.
    newest: Option<f64>,
}

impl Tracker {
    /// Starts with nothing watched.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            watched: BTreeMap::new(),
            done: HashSet::new(),
            done_order: VecDeque::new(),
            newest: None,
        }
    }

    /// Takes in a message about an event. `clock`: Frigate's, where it is known.
    pub fn note(&mut self, event: Event, now: Instant, clock: Option<f64>) -> Noted {
        if let Some(watched) = self.watched.get_mut(&event.id) {
            watched.has_snapshot |= event.has_snapshot;
            if event.best.is_some() {
                watched.best = event.best;
            }
            if event.ended && !watched.ended {
                watched.ended = true;
                watched.failures = 0;
                watched.due = Some(now);
                self.end_if_complete(&event.id);
            }
            return Noted::Nothing;
        }
        let Rules {
            labels, cameras, ..
        } = &self.rules;
        let wanted = labels.contains(&event.label)
            && (cameras.is_empty() || cameras.contains(&event.camera));
        if !wanted || event.false_positive || self.done.contains(&event.id) {
            return Noted::Nothing;
        }
        if self.is_old(event.start, clock) {
            self.forget(event.id);
            return Noted::Nothing;
        }
        if self.watched.len() >= MOST_WATCHED {
            return Noted::Over;
        }
        self.newest = Some(
            self.newest
                .map_or(event.start, |newest| newest.max(event.start)),
        );
        let watched = Watched {
            camera: event.camera,
            start: event.start,
            ended: event.ended,
            has_snapshot: event.has_snapshot,
            best: event.best,
            fetched: None,
            looked: false,
            taken: 0,
            failures: 0,
            due: Some(now),
            busy: false,
        };
        self.watched.insert(event.id.clone(), watched);
        self.end_if_complete(&event.id);
        Noted::Begun
    }

    fn is_old(&self, start: f64, clock: Option<f64>) -> bool {
        clock.is_some_and(|clock| clock - start > self.rules.news.as_secs_f64())
    }

    /// Forgets an ended event if there is nothing more to fetch of it.
    fn end_if_complete(&mut self, id: &str) {
        let complete = self.watched.get(id).is_some_and(|watched| {
            let has_best = watched.best.is_some() && watched.fetched == Some(watched.best);
            let nothing = !watched.has_snapshot || has_best || watched.taken >= self.rules.pictures;
            watched.ended && !watched.busy && nothing
        });
        if complete {
            self.forget(id.into());
        }
    }

    fn forget(&mut self, id: String) {
        self.watched.remove(&id);
        if self.done.insert(id.clone()) {
            self.done_order.push_back(id);
        }
        if self.done_order.len() > MOST_DONE
            && let Some(oldest) = self.done_order.pop_front()
        {
            self.done.remove(&oldest);
        }
    }

    /// Returns the look that has been due for longest, if any.
    pub fn next(&mut self, now: Instant) -> Option<Look> {
        loop {
            let due = |watched: &Watched| watched.due.filter(|due| !watched.busy && *due <= now);
            let (_, id) = self
                .watched
                .iter()
                .filter_map(|(id, watched)| Some((due(watched)?, id.clone())))
                .min()?;
            if let Some(look) = self.look(id, now) {
                return Some(look);
            }
        }
    }

    fn look(&mut self, id: String, now: Instant) -> Option<Look> {
        let (every, pictures) = (self.rules.every, self.rules.pictures);
        let camera = self.watched.get(&id)?.camera.clone();
        let beside = |other: &&Watched| other.camera == camera && !other.ended;
        let alone = self.watched.values().filter(beside).count() <= 1;
        let watched = self.watched.get_mut(&id)?;
        // The last one is kept for the end.
        let allowed = match watched.ended {
            true => pictures,
            false => pictures.saturating_sub(1).max(1),
        };
        let left = allowed.saturating_sub(watched.taken);
        if left == 0 {
            watched.due = None;
            return None;
        }
        let better = watched
            .fetched
            .is_none_or(|fetched| fetched != watched.best);
        let mut shots = Vec::new();
        if watched.ended {
            shots.push(Shot::Final);
        } else {
            if better {
                shots.push(if alone { Shot::Best } else { Shot::Cut });
            }
            if alone {
                shots.push(Shot::Latest);
            }
        }
        watched.due = Some(now + every);
        if shots.is_empty() {
            return None;
        }
        watched.busy = true;
        // The picture that is fetched is at least as good as this one.
        if better {
            watched.fetched = Some(watched.best);
        }
        Some(Look {
            id,
            camera,
            shots,
            left,
            first: !std::mem::replace(&mut watched.looked, true),
        })
    }

    /// Takes in how a look ended and how many pictures were taken by it, or before this start.
    pub fn looked(&mut self, look: &Look, taken: u32, seen: Seen, now: Instant) {
        let Some(watched) = self.watched.get_mut(&look.id) else {
            return;
        };
        let was_final = look.shots.contains(&Shot::Final);
        watched.busy = false;
        watched.taken += taken;
        let had_best = look.shots.iter().any(|shot| *shot != Shot::Latest);
        if had_best && seen != Seen::All {
            watched.fetched = None;
        }
        if seen == Seen::All {
            watched.failures = 0;
        } else {
            watched.failures += 1;
        }
        let over = seen == Seen::All || (seen == Seen::Missing && watched.failures >= MISSING);
        if was_final && over {
            return self.forget(look.id.clone());
        }
        watched.due = Some(if watched.ended && !was_final {
            // It ended during the look.
            now
        } else if seen == Seen::All || (seen == Seen::Missing && !was_final) {
            watched.due.unwrap_or(now).max(now)
        } else {
            let wait = Duration::from_secs(1) * 2_u32.pow((watched.failures - 1).min(5));
            now + wait.min(LONGEST_WAIT)
        });
        self.end_if_complete(&look.id);
    }

    /// Returns the time of the next look.
    pub fn due(&self) -> Option<Instant> {
        let waiting = self.watched.values().filter(|watched| !watched.busy);
        waiting.filter_map(|watched| watched.due).min()
    }

    /// Makes looks that wait for Frigate due: it answers again.
    pub fn hurry(&mut self, now: Instant) {
        for watched in self.watched.values_mut().filter(|one| one.failures > 0) {
            watched.due = watched.due.map(|due| due.min(now));
        }
    }

    /// Ends looks that nothing reports any more: their task has begun anew.
    pub fn begin_anew(&mut self) {
        for watched in self.watched.values_mut() {
            watched.busy = false;
        }
    }

    /// Forgets events that are no news any more, unless they are under way and still looked at.
    pub fn expire(&mut self, clock: f64) {
        let old: Vec<_> = self
            .watched
            .iter()
            .filter(|(_, watched)| {
                !watched.busy
                    && (watched.ended || watched.due.is_none())
                    && self.is_old(watched.start, Some(clock))
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in old {
            self.forget(id);
        }
    }

    /// Returns the moment of Frigate's clock after which events are listed to find those that were
    /// missed; `None` before the first event.
    pub fn position(&self) -> Option<f64> {
        let oldest = self.watched.values().map(|watched| watched.start);
        let oldest = oldest.min_by(f64::total_cmp).or(self.newest)?;
        Some((oldest - OVERLAP).max(0.0))
    }

    /// True if an event has begun and not ended, as far as is known.
    pub fn is_under_way(&self, id: &str) -> bool {
        self.watched.get(id).is_some_and(|watched| !watched.ended)
    }

    /// Returns how many events are under way, and how many ended ones wait for their picture.
    pub fn counts(&self) -> (usize, usize) {
        let ended = self
            .watched
            .values()
            .filter(|watched| watched.ended)
            .count();
        (self.watched.len() - ended, ended)
    }
}

#[cfg(test)]
mod tests;
