//! Joins the faces of one picture to the open sightings of its source.
//!
//! Pure: faces and sightings in, pairs out; likeness decides, time and place help. Not for who it is
//! (`identity`), and not for consecutive frames (`sources/camera/tracks`), where movement says more.

use std::time::Duration;

use kith_vision::{Matching, Metric};

use super::identity::Template;
use crate::assignment::assign;
use crate::domain::{Outcome, PersonId, SightingId};

/// Longest time between two looks in which a place says anything, in milliseconds.
const NEARBY_MS: u64 = 2_000;
/// Movement that is allowed in it, in face sizes: at once, and for each second.
const REACH: (f32, f32) = (0.5, 2.0);
/// Factor by which a face may grow or shrink in it.
const GROWTH: f32 = 2.0;
/// Cost of a face that is elsewhere, or of which nothing is known; at its last place it is 0.
const ELSEWHERE: f32 = 0.5;
/// Cost of a likeness of which nothing is known; a face like itself has 0.
const UNSURE: f32 = 0.7;
/// Cost of a face that joins none. Above that of every allowed pair, but below that of two unlike
/// ones.
const ALONE: f32 = 1.6;
const IMPOSSIBLE: f32 = 1e6;
/// Lowest quality of a face that founds a sighting, as a share of the quality from which a face may
/// be known. Patterns that are taken for faces are below it.
const FOUNDS: f32 = 0.4;

/// Rules for one source.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    metric: Metric,
    /// Below this distance two looks show one face even if they have two names.
    same_below: f32,
    /// Below this one two looks show one face wherever the second is. Of good looks at the same
    /// place within two seconds 9 999 in 10 000 are, of those at another face there one in 9 000.
    alike_below: f32,
    /// Below this one they do if one is poor and the second is near the place of the first. Of
    /// these 97 % are, of those at other faces one in twenty.
    poor_below: f32,
    /// Lowest quality at which a face may be known.
    known_from: f32,
    gap_ms: u64,
    mirrors: bool,
}

impl Rules {
    /// Makes rules of a pack's limits: `matching` and the quality `known_from`, which a
    /// [`crate::people::Matcher`] has. With `mirrors` a person may be in a picture more than once.
    pub fn new(matching: &Matching, known_from: f32, gap: Duration, mirrors: bool) -> Self {
        let linking = matching.linking_distance();
        Self {
            metric: matching.metric,
            same_below: linking,
            alike_below: matching.threshold,
            poor_below: 2.0 * matching.threshold - linking,
            known_from,
            gap_ms: u64::try_from(gap.as_millis()).unwrap_or(u64::MAX),
            mirrors,
        }
    }
}

/// A face of the picture, as it was judged alone.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// Left, top, right, bottom in pixels of the upright picture.
    pub bounds: [f32; 4],
    /// Suitability for recognition, 0 to 1.
    pub quality: f32,
    /// In the space of the sightings' templates; empty if the engine makes none.
    pub embedding: &'a [f32],
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// The person it is (known) or may be (uncertain).
    pub person: Option<PersonId>,
}

/// An open sighting of the same source.
#[derive(Debug, Clone)]
pub struct Open {
    /// The sighting.
    pub id: SightingId,
    /// Queue clock when the first look came.
    pub began_came_ms: i64,
    /// Queue clock when the last look came.
    pub last_came_ms: i64,
    /// Place of that look.
    pub bounds: [f32; 4],
    /// All its looks.
    pub template: Template,
    /// Outcome by all of them.
    pub outcome: Outcome,
    /// The person it is (known) or may be (uncertain).
    pub person: Option<PersonId>,
}

/// The place of a face among the sightings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// It belongs to this one of the open sightings.
    To(usize),
    /// It founds a sighting.
    New,
    /// It has none. It is too poor to found one, perhaps no face at all; or it is in a mirror, and
    /// the face that it is like founds one in this picture.
    Nowhere,
}

/// Joins all faces of a picture that came at `came_ms` by the queue clock. Each open sighting gets
/// at most one of them, unless there are mirrors. Pictures may come in any order.
pub fn join(rules: &Rules, open: &[Open], looks: &[Look<'_>], came_ms: i64) -> Vec<Joined> {
    let costs: Vec<Vec<f32>> = looks
        .iter()
        .map(|look| {
            let cost = |open| rules.cost(open, look, came_ms).unwrap_or(IMPOSSIBLE);
            open.iter().map(cost).collect()
        })
        .collect();
    let taken: Vec<Option<usize>> = if rules.mirrors {
        let nearest = |costs: &Vec<f32>| {
            let nearest = (0..costs.len()).min_by(|a, b| costs[*a].total_cmp(&costs[*b]));
            nearest.filter(|at| costs[*at] < ALONE)
        };
        costs.iter().map(nearest).collect()
    } else {
        let alone = || std::iter::repeat_n(ALONE, looks.len());
        let with_alone = |costs: &Vec<f32>| {
            let costs = costs.iter().copied().chain(alone());
            costs.map(f64::from).collect()
        };
        let columns = assign(&costs.iter().map(with_alone).collect::<Vec<_>>());
        let columns = columns.into_iter();
        columns.map(|at| (at < open.len()).then_some(at)).collect()
    };
    let mut joined: Vec<Joined> = Vec::with_capacity(looks.len());
    for (at, (taken, look)) in taken.into_iter().zip(looks).enumerate() {
        let is_founded = |before: usize| {
            joined[before] == Joined::New && rules.alike(looks[before].embedding, look.embedding)
        };
        let mirrored = rules.mirrors && (0..at).any(is_founded);
        joined.push(match taken {
            Some(at) => Joined::To(at),
            None if !mirrored && rules.founds(open, look, came_ms) => Joined::New,
            None => Joined::Nowhere,
        });
    }
    joined
}

impl Rules {
    /// Returns the cost of joining a face, or `None` if it cannot be the same.
    fn cost(&self, open: &Open, look: &Look<'_>, came_ms: i64) -> Option<f32> {
        let within = came_ms.clamp(open.began_came_ms, open.last_came_ms);
        if came_ms.abs_diff(within) > self.gap_ms {
            return None;
        }
        let place = place(
            open.bounds,
            look.bounds,
            came_ms.abs_diff(open.last_came_ms),
        );
        let distance = self.distance(&open.template, look.embedding);
        let sure = look.quality >= self.known_from && open.template.weight > 0.0;
        let known =
            |outcome, person: Option<PersonId>| person.filter(|_| outcome == Outcome::Known);
        let people = [
            known(open.outcome, open.person),
            known(look.outcome, look.person),
        ];
        let likeness = match (people, distance) {
            ([Some(one), Some(other)], _) if one == other => Some(0.0),
            // One face under two names: of the two, one is wrong. Two people are not as alike.
            ([Some(_), Some(_)], Some(distance)) => {
                let same = sure && place.is_some() && distance < self.same_below;
                same.then(|| distance / self.same_below)
            }
            ([Some(_), Some(_)], None) => None,
            (_, None) => place.map(|_| UNSURE),
            (_, Some(distance)) => {
                let below = match place {
                    Some(_) if !sure => self.poor_below,
                    _ => self.alike_below,
                };
                (distance < below).then(|| distance / self.poor_below)
            }
        };
        Some(likeness? + ELSEWHERE * place.unwrap_or(1.0))
    }

    /// Tells whether a face that joins no sighting founds one. A poor one does only where nothing
    /// was seen lately: it is more likely an unlike look at the same face than another one.
    fn founds(&self, open: &[Open], look: &Look<'_>, came_ms: i64) -> bool {
        let is_near = |open: &Open| {
            let passed_ms = came_ms.abs_diff(open.last_came_ms);
            place(open.bounds, look.bounds, passed_ms).is_some()
        };
        look.outcome == Outcome::Known
            || look.embedding.is_empty()
            || look.quality >= self.known_from
            || look.quality >= FOUNDS * self.known_from && !open.iter().any(is_near)
    }

    /// Tells whether two faces are one wherever they are.
    fn alike(&self, one: &[f32], other: &[f32]) -> bool {
        !one.is_empty()
            && one.len() == other.len()
            && self.metric.distance(one, other) < self.alike_below
    }

    fn distance(&self, template: &Template, embedding: &[f32]) -> Option<f32> {
        let mean = template.mean()?;
        (mean.len() == embedding.len()).then(|| self.metric.distance(&mean, embedding))
    }
}

/// Returns the difference of two places, or of their sizes if that is more, as a share of what is
/// allowed after this time; `None` beyond it.
fn place(from: [f32; 4], to: [f32; 4], passed_ms: u64) -> Option<f32> {
    if passed_ms > NEARBY_MS {
        return None;
    }
    let [centre, next] =
        [from, to].map(|[left, top, right, bottom]| [(left + right) / 2.0, (top + bottom) / 2.0]);
    let [size, next_size] = [from, to]
        .map(|[left, top, right, bottom]| ((right - left) * (bottom - top)).max(1.0).sqrt());
    let away = (next[0] - centre[0]).hypot(next[1] - centre[1]);
    let reach = (REACH.0 + REACH.1 * passed_ms as f32 / 1e3) * (size * next_size).sqrt();
    let grown = (next_size / size).ln().abs() / GROWTH.ln();
    let share = (away / reach).max(grown);
    (share <= 1.0).then_some(share)
}

#[cfg(test)]
mod tests;
