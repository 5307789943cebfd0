//! Short-term tracks: one face followed through consecutive frames of one camera, in memory only.
//!
//! Pure: faces of a frame in, events out. A track is linked to a face by its place (predicted by
//! constant velocity) and by its embedding, one-to-one over the whole frame. Of each track few
//! pictures are chosen for the queue. Not for asking the engine or queueing (`follow`), and not for
//! visits: a person who comes back later gets another track.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kith_vision::{Metric, Pack};

use crate::assignment::assign;
use crate::domain::{IdentifiedFace, NamedCandidate, Outcome, PersonId};

/// Tracks at a time; each keeps one frame. Further faces are not followed.
const MOST_TRACKS: usize = 16;
/// Pictures of one track, except the best at its end.
const MOST_PICTURES: u32 = 4;
/// Time without a look after which a track ends, if other looks missed it.
const LOST: Duration = Duration::from_secs(2);
/// Time without any look at the camera after which a track ends: the engine had no room, or no
/// frames came.
const UNWATCHED: Duration = Duration::from_secs(6);
/// Looks that must miss a track before it is lost.
const MISSED: u32 = 2;
/// Wait for a good look, after which the best so far is taken.
const PATIENCE: Duration = Duration::from_millis(1500);
/// The best look is queued at the end if it is so many times as good as the best queued one.
const CLEARLY_BETTER: f32 = 1.5;
/// Good looks more than the present person's that another person needs.
const MORE_LOOKS: u32 = 2;

/// Distance of a face from its predicted place that is allowed, in face sizes: at once, and for each
/// second since the last look.
const REACH: (f32, f32) = (0.5, 4.0);
const LONGEST_REACH: f32 = 3.0;
/// Factor by which a face may grow or shrink between looks.
const GROWTH: f32 = 2.0;
/// Overlap of a face with a track's last box at which it is in the same place, if the last look is
/// not older than that: even another distance of the faces, or a cut, may be the same face then.
const STAYED: (f32, Duration) = (0.5, Duration::from_secs(1));
/// Longest time for which movement is extrapolated, in seconds.
const LONGEST_PREDICTION: f32 = 1.0;
/// Weight of the newest movement in a track's velocity.
const NEWEST: f32 = 0.6;

/// Weight of the embedding against the place, whose cost is at most 1.
const FACE: f32 = 2.0;
/// Cost of an embedding that says nothing, as a share of [`Likeness::other_from`].
const UNSURE: f32 = 0.7;
/// Cost of a place out of reach, if the embedding fits.
const ELSEWHERE: f32 = 1.5;
/// Cost of leaving a track without a face. Above that of a face by its place alone; below half of
/// two wrong pairs, so that two tracks do not exchange faces to have one each.
const ALONE: f32 = 2.5;
const IMPOSSIBLE: f32 = 1e6;

/// Number of a track, unique for one [`Tracks`].
pub type TrackId = u64;

/// Judges whether two looks show one face.
#[derive(Debug, Clone, Copy)]
pub struct Likeness {
    metric: Metric,
    /// Below this distance two faces are one.
    same_below: f32,
    /// From this distance they are two.
    other_from: f32,
    /// From this distance they are two although the second is where the first was.
    replaced_from: f32,
    /// Lowest quality at which an embedding says anything.
    known_from: f32,
}

impl Likeness {
    /// Takes a pack's limits: for one face the distance for groups of strangers, for two the same
    /// beyond the threshold, twice as far in the same place. In a clip of five people who do not
    /// change places, one who turned was at 0.72 from himself; of two of them a tenth of the looks
    /// are as near.
    pub fn of(pack: &Pack) -> Self {
        let matching = pack.matching();
        let linking = matching.linking_distance();
        Self {
            metric: matching.metric,
            same_below: linking,
            other_from: 2.0 * matching.threshold - linking,
            replaced_from: 3.0 * matching.threshold - 2.0 * linking,
            known_from: pack.quality_limits().known_from,
        }
    }
}

/// A frame that was looked at.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Number of the frame, which grows.
    pub number: u64,
    /// Sharpness, comparable between frames of one camera.
    pub sharpness: f32,
    /// True if the picture differs everywhere from the frame before.
    pub cut: bool,
    /// The frame.
    pub jpeg: Bytes,
}

/// Identity of a track, by its looks so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Who {
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// The person it is (known) or may be (uncertain).
    pub person: Option<NamedCandidate>,
    /// Distance to the nearest enrolled picture in the best look.
    pub distance: Option<f32>,
    /// Additional distance of the next person.
    pub margin: Option<f32>,
}

/// State of a track as others see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    /// The track.
    pub track: TrackId,
    /// Who it is.
    pub who: Who,
    /// Number of looks at it.
    pub looks: u32,
    /// Quality of its best look, 0 to 1.
    pub quality: f32,
    /// Left, top, right, bottom of the last look, in pixels.
    pub bounds: [f32; 4],
    /// First look.
    pub began: Instant,
    /// Last look.
    pub last: Instant,
}

/// Reason for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The first good look, or the best of a while without one.
    First,
    /// Who the face is changed or became clear.
    Clear,
    /// The best look, at the end.
    Best,
}

/// Something happened to a track.
#[derive(Debug, Clone)]
pub enum Event {
    /// A face appeared: at its second look, or at a good first one.
    Begun(Sight),
    /// Who it is changed or became clear.
    Changed(Sight),
    /// A frame is worth a picture, for these tracks.
    Picture {
        /// The tracks that need it.
        tracks: Vec<TrackId>,
        /// Reason of the first of them.
        why: Why,
        /// The frame.
        frame: Frame,
    },
    /// The face is gone.
    Ended(Sight),
}

/// The tracks of one camera.
pub struct Tracks {
    likeness: Likeness,
    tracks: Vec<Track>,
    next: TrackId,
}

impl Tracks {
    /// Starts without a track.
    pub fn new(likeness: Likeness) -> Self {
        Self {
            likeness,
            tracks: Vec::new(),
            next: 1,
        }
    }

    /// Returns the number of faces that are followed.
    pub fn count(&self) -> usize {
        self.tracks.iter().filter(|track| track.announced).count()
    }

    /// Returns each track that is told of, and where its face is in the last frame, if it is.
    pub fn places(&self) -> impl Iterator<Item = (TrackId, Option<[f32; 4]>)> {
        let told = self.tracks.iter().filter(|track| track.announced);
        told.map(|track| (track.id, (track.missed == 0).then_some(track.bounds)))
    }

    /// Takes the faces of the next frame, which was taken at `now`.
    pub fn look(&mut self, frame: &Frame, faces: &[IdentifiedFace], now: Instant) -> Vec<Event> {
        let faces: Vec<_> = faces
            .iter()
            .filter(|face| !face.embedding.is_empty())
            .collect();
        let (seen, new) = self.link(&faces, frame.cut, now);
        let mut events = Vec::new();
        let mut wanted = Vec::new();
        for (track, at) in self.tracks.iter_mut().zip(&seen) {
            match at {
                Some(at) => track.take(faces[*at], frame, now, &self.likeness),
                None => track.missed += 1,
            }
        }
        for at in new {
            if self.tracks.len() < MOST_TRACKS {
                let track = Track::begin(self.next, faces[at], frame, now, &self.likeness);
                self.tracks.push(track);
                self.next += 1;
            }
        }
        for track in self.tracks.iter_mut().filter(|track| track.missed == 0) {
            if !track.announced && (track.looks >= 2 || track.good > 0) {
                (track.announced, track.changed) = (true, false);
                events.push(Event::Begun(track.sight()));
            }
            if track.announced && track.changed {
                events.push(Event::Changed(track.sight()));
            }
            if let Some(want) = track.wants(frame, now) {
                wanted.push(want);
            }
            track.changed = false;
        }
        self.send(wanted, &mut events);
        let gone = |track: &Track| {
            track.missed > 0 && (frame.cut || (track.missed >= MISSED && now - track.last > LOST))
        };
        self.end(gone, &mut events);
        events
    }

    /// Ends the tracks that no look was made for since long; to be called while no frames come.
    pub fn expire(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        self.end(
            |track| now.saturating_duration_since(track.last) > UNWATCHED,
            &mut events,
        );
        events
    }

    /// Ends all tracks.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.end(|_| true, &mut events);
        events
    }

    /// Links tracks and faces; returns the face of each track, and the faces without one.
    fn link(
        &self,
        faces: &[&IdentifiedFace],
        cut: bool,
        now: Instant,
    ) -> (Vec<Option<usize>>, Vec<usize>) {
        let costs: Vec<Vec<f64>> = self
            .tracks
            .iter()
            .map(|track| {
                let of_face = faces.iter().map(|face| {
                    track
                        .cost(face, cut, now, &self.likeness)
                        .unwrap_or(IMPOSSIBLE)
                });
                let alone = std::iter::repeat_n(ALONE, self.tracks.len());
                of_face.chain(alone).map(f64::from).collect()
            })
            .collect();
        let columns = assign(&costs);
        let seen: Vec<_> = columns
            .into_iter()
            .map(|at| (at < faces.len()).then_some(at))
            .collect();
        let new = (0..faces.len())
            .filter(|at| !seen.contains(&Some(*at)))
            .collect();
        (seen, new)
    }

    /// Turns what tracks want into one picture a frame. A picture counts for every track whose
    /// best look is in it.
    fn send(&mut self, wanted: Vec<(TrackId, Why, Frame)>, events: &mut Vec<Event>) {
        let mut pictures: Vec<(Vec<TrackId>, Why, Frame)> = Vec::new();
        for (track, why, frame) in wanted {
            match pictures.iter_mut().find(|one| one.2.number == frame.number) {
                Some((tracks, ..)) => tracks.push(track),
                None => pictures.push((vec![track], why, frame)),
            }
        }
        for (tracks, why, frame) in pictures {
            for track in &mut self.tracks {
                track.sent(&frame, tracks.contains(&track.id));
            }
            events.push(Event::Picture { tracks, why, frame });
        }
    }

    fn end(&mut self, gone: impl Fn(&Track) -> bool, events: &mut Vec<Event>) {
        let (ended, going_on): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.tracks).into_iter().partition(gone);
        self.tracks = going_on;
        let ended: Vec<_> = ended.into_iter().filter(|track| track.announced).collect();
        let wanted = ended.iter().filter_map(Track::wants_at_end).collect();
        self.send(wanted, events);
        events.extend(ended.iter().map(|track| Event::Ended(track.sight())));
    }
}

/// A good look's embedding and its merit.
struct Known {
    merit: f32,
    embedding: Vec<f32>,
}

/// The best look so far.
struct Best {
    merit: f32,
    good: bool,
    frame: Frame,
    who: Who,
    quality: f32,
}

/// Looks at which a track was known as this person, and the nearest of them.
struct Votes {
    looks: u32,
    who: Who,
}

struct Track {
    id: TrackId,
    began: Instant,
    last: Instant,
    bounds: [f32; 4],
    /// Movement of the centre, pixels a second; `None` until the second look.
    velocity: Option<[f32; 2]>,
    looks: u32,
    /// Looks of sufficient quality.
    good: u32,
    /// Looks since the last one that showed it.
    missed: u32,
    /// Frame of the last look, and that look's merit.
    at: (u64, f32),
    /// Embeddings of the best and the latest good look.
    best_known: Option<Known>,
    latest: Option<Vec<f32>>,
    best: Best,
    votes: Vec<Votes>,
    unknown: u32,
    who: Who,
    changed: bool,
    announced: bool,
    pictures: u32,
    /// Merit of the best queued look, and whether one of sufficient quality was queued.
    sent_merit: f32,
    sent_good: bool,
}

impl Track {
    fn begin(
        id: TrackId,
        face: &IdentifiedFace,
        frame: &Frame,
        now: Instant,
        likeness: &Likeness,
    ) -> Self {
        let who = Who::of(face);
        let mut track = Self {
            id,
            began: now,
            last: now,
            bounds: face.bounds,
            velocity: None,
            looks: 0,
            good: 0,
            missed: 0,
            at: (frame.number, 0.0),
            best_known: None,
            latest: None,
            best: Best {
                merit: 0.0,
                good: false,
                frame: frame.clone(),
                who: who.clone(),
                quality: face.quality,
            },
            votes: Vec::new(),
            unknown: 0,
            who,
            changed: false,
            announced: false,
            pictures: 0,
            sent_merit: 0.0,
            sent_good: false,
        };
        track.take(face, frame, now, likeness);
        track
    }

    /// Returns the cost of linking this face, or `None` if it cannot be the same.
    fn cost(
        &self,
        face: &IdentifiedFace,
        cut: bool,
        now: Instant,
        likeness: &Likeness,
    ) -> Option<f32> {
        let distance = self.distance(face, likeness);
        let stayed = overlap(self.bounds, face.bounds) >= STAYED.0 && now - self.last <= STAYED.1;
        let other_from = match stayed && !cut {
            true => likeness.replaced_from,
            false => likeness.other_from,
        };
        if distance.is_some_and(|distance| distance >= other_from) {
            return None;
        }
        let same = distance.is_some_and(|distance| distance < likeness.same_below);
        let place = match cut {
            // After a cut a movement says nothing any more, and a place little.
            true => (stayed && distance.is_none()).then_some(0.0),
            false => self.place(face.bounds, now),
        };
        let place = match place {
            Some(place) => place,
            None if same => ELSEWHERE,
            None => return None,
        };
        let face = distance.map_or(UNSURE, |distance| distance / likeness.other_from);
        Some(place + FACE * face)
    }

    /// Returns the distance to the nearer of the kept embeddings, if the quality allows.
    fn distance(&self, face: &IdentifiedFace, likeness: &Likeness) -> Option<f32> {
        if face.quality < likeness.known_from {
            return None;
        }
        let best = self.best_known.as_ref().map(|known| &known.embedding);
        let kept = best.into_iter().chain(&self.latest);
        kept.map(|kept| likeness.metric.distance(kept, &face.embedding))
            .min_by(f32::total_cmp)
    }

    /// Returns the distance from the predicted place as a share of the allowed one.
    fn place(&self, bounds: [f32; 4], now: Instant) -> Option<f32> {
        let size = (size(self.bounds) * size(bounds)).sqrt();
        let growth = self::size(bounds) / self::size(self.bounds);
        let passed = (now - self.last).as_secs_f32();
        let ahead = passed.min(LONGEST_PREDICTION);
        let [x, y] = centre(self.bounds);
        let [right, down] = self.velocity.unwrap_or_default();
        let [at_x, at_y] = centre(bounds);
        let away = (at_x - x - right * ahead).hypot(at_y - y - down * ahead);
        let reach = (REACH.0 + REACH.1 * passed).min(LONGEST_REACH) * size;
        (away <= reach && (1.0 / GROWTH..=GROWTH).contains(&growth)).then_some(away / reach)
    }

    fn take(&mut self, face: &IdentifiedFace, frame: &Frame, now: Instant, likeness: &Likeness) {
        let passed = (now - self.last).as_secs_f32();
        if passed > 0.0 {
            let ([x, y], [to_x, to_y]) = (centre(self.bounds), centre(face.bounds));
            let newest = [(to_x - x) / passed, (to_y - y) / passed];
            self.velocity = Some(match self.velocity {
                Some(before) => [0, 1].map(|at| before[at] + NEWEST * (newest[at] - before[at])),
                None => newest,
            });
        }
        if frame.cut {
            self.velocity = None;
        }
        (self.last, self.bounds, self.missed) = (now, face.bounds, 0);
        self.looks += 1;
        let good = face.quality >= likeness.known_from;
        let merit = face.quality.max(f32::MIN_POSITIVE)
            * frame.sharpness.max(f32::MIN_POSITIVE)
            * size(face.bounds);
        self.at = (frame.number, merit);
        // A good look is better than any other.
        if self.looks == 1 || (good, merit) > (self.best.good, self.best.merit) {
            self.best = Best {
                merit,
                good,
                frame: frame.clone(),
                who: Who::of(face),
                quality: face.quality,
            };
        }
        if good {
            self.good += 1;
            self.latest = Some(face.embedding.clone());
            if self
                .best_known
                .as_ref()
                .is_none_or(|known| known.merit < merit)
            {
                self.best_known = Some(Known {
                    merit,
                    embedding: face.embedding.clone(),
                });
            }
            self.vote(face);
        }
        let who = self.judge();
        self.changed |= who.key() != self.who.key();
        self.who = who;
    }

    fn vote(&mut self, face: &IdentifiedFace) {
        let who = Who::of(face);
        match (who.outcome, who.known()) {
            (_, Some(person)) => match self.votes_of_mut(person) {
                Some(votes) => {
                    votes.looks += 1;
                    if who.distance < votes.who.distance {
                        votes.who = who;
                    }
                }
                None => self.votes.push(Votes { looks: 1, who }),
            },
            (Outcome::Unknown, None) => self.unknown += 1,
            _ => {}
        }
    }

    fn votes_of_mut(&mut self, person: PersonId) -> Option<&mut Votes> {
        self.votes
            .iter_mut()
            .find(|votes| votes.who.known() == Some(person))
    }

    /// Judges by all good looks. The present person stays until another has clearly more looks, or
    /// until most looks are unknown.
    fn judge(&self) -> Who {
        let present = self.who.known();
        let looks_of_present = self
            .votes
            .iter()
            .find(|votes| present.is_some() && votes.who.known() == present)
            .map_or(0, |votes| votes.looks);
        let supported = |votes: &&Votes| {
            let is_present = votes.who.known() == present;
            let against = if is_present { 10 } else { 4 };
            let enough =
                is_present || looks_of_present == 0 || votes.looks >= looks_of_present + MORE_LOOKS;
            enough && votes.looks * against >= self.unknown
        };
        let leader = self
            .votes
            .iter()
            .filter(supported)
            .max_by_key(|votes| votes.looks);
        match leader {
            Some(leader) => leader.who.clone(),
            None => {
                let mut who = self.best.who.clone();
                if who.outcome == Outcome::Known {
                    who.outcome = Outcome::Uncertain;
                }
                who
            }
        }
    }

    /// Returns the picture to take of the look just made, if any.
    fn wants(&self, frame: &Frame, now: Instant) -> Option<(TrackId, Why, Frame)> {
        if !self.announced || self.pictures >= MOST_PICTURES {
            return None;
        }
        let is_best = self.best.frame.number == frame.number;
        if !self.sent_good && self.best.good && is_best {
            return Some((self.id, Why::First, frame.clone()));
        }
        if self.changed && self.who.outcome == Outcome::Known {
            return Some((self.id, Why::Clear, frame.clone()));
        }
        let impatient =
            self.pictures == 0 && self.sent_merit == 0.0 && now - self.began >= PATIENCE;
        impatient.then(|| (self.id, Why::First, self.best.frame.clone()))
    }

    fn wants_at_end(&self) -> Option<(TrackId, Why, Frame)> {
        let better = self.best.merit > CLEARLY_BETTER * self.sent_merit;
        better.then(|| (self.id, Why::Best, self.best.frame.clone()))
    }

    /// Notes that a frame is queued.
    fn sent(&mut self, frame: &Frame, wanted: bool) {
        self.pictures += u32::from(wanted);
        if self.best.frame.number == frame.number {
            self.sent_good |= self.best.good;
            self.sent_merit = self.sent_merit.max(self.best.merit);
        } else if self.at.0 == frame.number {
            self.sent_merit = self.sent_merit.max(self.at.1);
        }
    }

    fn sight(&self) -> Sight {
        Sight {
            track: self.id,
            who: self.who.clone(),
            looks: self.looks,
            quality: self.best.quality,
            bounds: self.bounds,
            began: self.began,
            last: self.last,
        }
    }
}

impl Who {
    fn of(face: &IdentifiedFace) -> Self {
        Self {
            outcome: face.outcome,
            person: face.person.clone(),
            distance: face.distance,
            margin: face.margin,
        }
    }

    /// Returns the person, if it is known.
    pub fn known(&self) -> Option<PersonId> {
        let person = self
            .person
            .as_ref()
            .filter(|_| self.outcome == Outcome::Known);
        person.map(|person| person.person_id)
    }

    fn key(&self) -> (Outcome, Option<PersonId>) {
        let person = self.person.as_ref().map(|person| person.person_id);
        (self.outcome, person)
    }
}

fn centre([left, top, right, bottom]: [f32; 4]) -> [f32; 2] {
    [(left + right) / 2.0, (top + bottom) / 2.0]
}

/// Returns the side of a square as large as the box.
fn size([left, top, right, bottom]: [f32; 4]) -> f32 {
    ((right - left) * (bottom - top)).max(1.0).sqrt()
}

/// Returns intersection over union.
fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area =
        |[left, top, right, bottom]: [f32; 4]| (right - left).max(0.0) * (bottom - top).max(0.0);
    let both = area([
        a[0].max(b[0]),
        a[1].max(b[1]),
        a[2].min(b[2]),
        a[3].min(b[3]),
    ]);
    both / (area(a) + area(b) - both).max(f32::MIN_POSITIVE)
}

#[cfg(test)]
mod clips;
#[cfg(test)]
mod tests;
