//! Identifies faces: the gallery in memory, and the judgement of distances by the pack's
//! thresholds.
//!
//! The gallery is an immutable snapshot that is replaced as a whole. A picture in flight keeps the
//! snapshot it began with.

use std::collections::HashMap;
use std::sync::Arc;

use kith_vision::{Candidate, Caution, Gallery, Limits, Matching, Pack, VisionError};
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::config::Judging;
use crate::domain::{IdentifiedFace, NamedCandidate, Outcome, PersonId};
use crate::engine_process::FoundFace;
use crate::store::{CounterExample, GalleryRow};

/// Number of nearest people that are stored with a face.
const CANDIDATES: usize = 3;
/// Objection to a face whose person is nearer in another face of the same picture.
const TAKEN: &str =
    "Another face of this picture is nearer to this person, who can be in it only once.";

/// The gallery of the active embedding space.
pub struct Matcher {
    matching: Matching,
    caution: Caution,
    known_from: f32,
    /// True if one person may be in a picture more than once.
    mirrors: bool,
    dimension: usize,
    space: String,
    snapshot: RwLock<Arc<Snapshot>>,
    turn: tokio::sync::Mutex<()>,
    replaced: Notify,
}

/// Damaged rows of the database.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Enrolled pictures, each with its person.
    pub pictures: Vec<(PersonId, i64)>,
    /// Counter-examples.
    pub counter_examples: Vec<i64>,
}

/// Gallery and names at one moment.
pub struct Snapshot {
    gallery: Gallery,
    /// Limits of known, uncertain and unknown in a gallery of this size.
    limits: Limits,
    /// Counter-examples: faces that were taken for these people and are not them.
    not_them: Gallery,
    names: HashMap<PersonId, String>,
    /// File name of each enrolled picture, by its row.
    images: HashMap<i64, String>,
}

impl Matcher {
    /// Makes an empty gallery for a pack, with the operator's settings for judging.
    pub fn new(pack: &Pack, judging: Judging) -> Self {
        let Judging {
            caution, mirrors, ..
        } = judging;
        let matching = judging.of(pack);
        let snapshot = Snapshot {
            gallery: Gallery::of(&matching, pack.dimension()),
            limits: matching.limits(caution, 0, 1),
            not_them: Gallery::new(matching.metric, pack.dimension()),
            names: HashMap::new(),
            images: HashMap::new(),
        };
        Self {
            matching,
            caution,
            known_from: pack.quality_limits().known_from,
            mirrors,
            dimension: pack.dimension(),
            space: pack.space().to_string(),
            snapshot: RwLock::new(Arc::new(snapshot)),
            turn: tokio::sync::Mutex::default(),
            replaced: Notify::new(),
        }
    }

    /// Returns the embedding space of the gallery.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// Locks the gallery, from reading it to replacing it.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Returns the metric and thresholds, which do not depend on the gallery's size.
    pub fn matching(&self) -> &Matching {
        &self.matching
    }

    /// Returns how many strangers may be taken for people who are enrolled.
    pub fn caution(&self) -> Caution {
        self.caution
    }

    /// Returns the lowest quality of a known face.
    pub fn known_from(&self) -> f32 {
        self.known_from
    }

    /// Returns true if one person may be in a picture more than once.
    pub fn mirrors(&self) -> bool {
        self.mirrors
    }

    /// Returns the number of values in an embedding.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Replaces the gallery by rows of its embedding space. Damaged rows are left out, so that one
    /// bad row does not disable everybody else.
    pub fn replace(&self, rows: Vec<GalleryRow>, counter_examples: Vec<CounterExample>) -> LeftOut {
        let mut gallery = Gallery::of(&self.matching, self.dimension);
        let mut not_them = Gallery::new(self.matching.metric, self.dimension);
        let (mut names, mut images) = (HashMap::new(), HashMap::new());
        let mut left_out = LeftOut::default();
        for row in rows {
            if gallery
                .push(row.person_id, row.person_image_id, &row.embedding)
                .is_err()
            {
                left_out.pictures.push((row.person_id, row.person_image_id));
                continue;
            }
            names.insert(row.person_id, row.name);
            images.insert(row.person_image_id, row.image_name);
        }
        for example in counter_examples {
            if not_them
                .push(example.person_id, 0, &example.embedding)
                .is_err()
            {
                left_out.counter_examples.push(example.id);
            }
        }
        let limits = self.matching.limits(self.caution, gallery.len(), 1);
        let snapshot = Snapshot {
            gallery,
            limits,
            not_them,
            names,
            images,
        };
        *self.snapshot.write() = Arc::new(snapshot);
        self.replaced.notify_one();
        left_out
    }

    /// Waits until the gallery has been replaced since the last call.
    pub async fn replaced(&self) {
        self.replaced.notified().await;
    }

    /// Returns the current gallery.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Judges a face by the current gallery, in a picture in which `there` are present already.
    pub fn judge(
        &self,
        embedding: &[f32],
        quality: f32,
        there: &[PersonId],
    ) -> Result<Judgement, VisionError> {
        let snapshot = self.snapshot();
        self.judge_within(&snapshot, &snapshot.limits, embedding, quality, there)
    }

    /// Judges a face by these limits: those of a gallery of this size, for as many looks as the
    /// embedding is the mean of.
    pub fn judge_within(
        &self,
        snapshot: &Snapshot,
        limits: &Limits,
        embedding: &[f32],
        quality: f32,
        there: &[PersonId],
    ) -> Result<Judgement, VisionError> {
        let there = if self.mirrors { &[] } else { there };
        let nearest = self.nearest(snapshot, embedding, CANDIDATES + there.len())?;
        let mut judgement = self.judge_by(snapshot, limits, &nearest, quality);
        if judgement
            .person
            .as_ref()
            .is_some_and(|person| there.contains(&person.person_id))
        {
            judgement = self.judge_without(snapshot, limits, &nearest, quality, there, judgement);
        }
        Ok(judgement)
    }

    /// Judges all faces of a picture; the best come first: known, uncertain, unknown, then by
    /// distance.
    pub fn identify(&self, found: Vec<FoundFace>) -> Result<Vec<IdentifiedFace>, VisionError> {
        let snapshot = self.snapshot();
        // Every other face may take away one of a face's candidates.
        let top = CANDIDATES
            + if self.mirrors {
                0
            } else {
                found.len().saturating_sub(1)
            };
        let mut nearest = Vec::with_capacity(found.len());
        let mut judged = Vec::with_capacity(found.len());
        for face in &found {
            let people = self.nearest(&snapshot, &face.embedding, top)?;
            judged.push(self.judge_by(&snapshot, &snapshot.limits, &people, face.quality));
            nearest.push(people);
        }
        if !self.mirrors {
            self.give_each_person_once(&snapshot, &found, &nearest, &mut judged);
        }
        let mut faces: Vec<_> = found
            .into_iter()
            .zip(judged)
            .map(|(face, judged)| self.described(face, judged))
            .collect();
        faces.sort_by(|a, b| by_rank((a.outcome, a.distance), (b.outcome, b.distance)));
        Ok(faces)
    }

    /// Gives each person to the best of their faces: known before uncertain, then the nearest, then
    /// the first. The others are judged again without that person.
    fn give_each_person_once(
        &self,
        snapshot: &Snapshot,
        found: &[FoundFace],
        nearest: &[Vec<Candidate>],
        judged: &mut [Judgement],
    ) {
        let (mut given, mut open) = (Vec::new(), (0..judged.len()).collect::<Vec<_>>());
        loop {
            let named = open
                .iter()
                .copied()
                .filter(|at| judged[*at].person.is_some());
            let rank = |at: usize| (judged[at].outcome, judged[at].distance);
            let best = named.min_by(|a, b| by_rank(rank(*a), rank(*b)));
            let Some(best) = best else { return };
            let Some(person) = judged[best].person.as_ref().map(|person| person.person_id) else {
                return;
            };
            open.retain(|at| *at != best);
            given.push(person);
            for &at in &open {
                if judged[at]
                    .person
                    .as_ref()
                    .is_some_and(|theirs| theirs.person_id == person)
                {
                    let alone = judged[at].clone();
                    judged[at] = self.judge_without(
                        snapshot,
                        &snapshot.limits,
                        &nearest[at],
                        found[at].quality,
                        &given,
                        alone,
                    );
                }
            }
        }
    }

    /// Judges a face without the people who are in the picture already. A face that would be known
    /// as one of them, and as no other, stays uncertain: it is no stranger.
    fn judge_without(
        &self,
        snapshot: &Snapshot,
        limits: &Limits,
        nearest: &[Candidate],
        quality: f32,
        there: &[PersonId],
        alone: Judgement,
    ) -> Judgement {
        let others: Vec<_> = nearest
            .iter()
            .filter(|one| !there.contains(&one.person))
            .copied()
            .collect();
        let mut judged = self.judge_by(snapshot, limits, &others, quality);
        if judged.outcome == Outcome::Unknown {
            let known = limits.known_below;
            let as_known = nearest
                .first()
                .is_some_and(|one| there.contains(&one.person) && one.distance < known);
            judged.outcome = if as_known {
                Outcome::Uncertain
            } else {
                Outcome::Unknown
            };
            judged.distance = alone.distance;
            judged.margin = alone.margin;
        }
        judged.candidates = alone.candidates;
        judged.taken = true;
        judged
    }

    fn described(&self, face: FoundFace, judgement: Judgement) -> IdentifiedFace {
        // A remote engine may have other limits, or none.
        let too_poor = || {
            (face.quality < self.known_from).then(|| {
                format!(
                    "The face is too poor to identify anyone: its quality is {:.2}, at least {:.2} is needed.",
                    face.quality, self.known_from
                )
            })
        };
        let objection = face.objection.or_else(too_poor).into_iter();
        let objections: Vec<_> = objection
            .chain(judgement.taken.then(|| TAKEN.to_string()))
            .collect();
        IdentifiedFace {
            bounds: face.bounds,
            landmarks: face.landmarks,
            score: face.score,
            quality: face.quality,
            objection: (!objections.is_empty()).then(|| objections.join(" ")),
            outcome: judgement.outcome,
            person: judgement.person,
            distance: judgement.distance,
            margin: judgement.margin,
            candidates: judgement.candidates,
            embedding: face.embedding,
            crop: face.crop,
            enrolled_image: judgement.enrolled_image,
        }
    }

    /// Judges a face by its nearest people.
    fn judge_by(
        &self,
        snapshot: &Snapshot,
        limits: &Limits,
        nearest: &[Candidate],
        quality: f32,
    ) -> Judgement {
        let verdict = limits.judge(nearest);
        let matched = nearest
            .iter()
            .find(|candidate| Some(candidate.person) == verdict.person);
        Judgement {
            outcome: match verdict.outcome {
                // A blur or a pattern that was detected as a face is often near to some person.
                kith_vision::Outcome::Known if quality < self.known_from => Outcome::Uncertain,
                kith_vision::Outcome::Known => Outcome::Known,
                kith_vision::Outcome::Uncertain => Outcome::Uncertain,
                kith_vision::Outcome::Unknown => Outcome::Unknown,
            },
            person: matched.map(|candidate| snapshot.named(candidate)),
            distance: verdict.distance,
            margin: verdict.margin,
            candidates: nearest
                .iter()
                .take(CANDIDATES)
                .map(|candidate| snapshot.named(candidate))
                .collect(),
            enrolled_image: matched
                .and_then(|candidate| snapshot.images.get(&candidate.picture).cloned()),
            taken: false,
        }
    }

    /// Returns the nearest people. Leaves out a person with a counter-example at least as near to
    /// the face as the person's own pictures.
    pub fn nearest(
        &self,
        snapshot: &Snapshot,
        embedding: &[f32],
        top: usize,
    ) -> Result<Vec<Candidate>, VisionError> {
        let mut not_them = snapshot.not_them.nearest(embedding, usize::MAX)?;
        not_them.retain(|example| example.distance < self.matching.threshold);
        let mut nearest = snapshot.gallery.nearest(embedding, top + not_them.len())?;
        nearest.retain(|candidate| {
            !not_them
                .iter()
                .any(|no| no.person == candidate.person && no.distance <= candidate.distance)
        });
        nearest.truncate(top);
        Ok(nearest)
    }
}

/// Judgement of a face.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// The person it is (known) or may be (uncertain).
    pub person: Option<NamedCandidate>,
    /// Distance to the nearest enrolled picture of any person.
    pub distance: Option<f32>,
    /// Additional distance to the next person.
    pub margin: Option<f32>,
    /// The nearest people, nearest first.
    pub candidates: Vec<NamedCandidate>,
    /// File name of the nearest enrolled picture of `person`.
    pub enrolled_image: Option<String>,
    /// True if the face lost its person to another face of the picture.
    pub taken: bool,
}

impl Snapshot {
    /// Returns every enrolled picture.
    pub fn gallery(&self) -> &Gallery {
        &self.gallery
    }

    /// Returns the limits of known, uncertain and unknown for this number of pictures.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns a person's name.
    pub fn name(&self, person: PersonId) -> Option<&str> {
        self.names.get(&person).map(String::as_str)
    }

    /// Returns the file name of an enrolled picture.
    pub fn image_name(&self, picture: i64) -> Option<&str> {
        self.images.get(&picture).map(String::as_str)
    }

    /// Adds the name to a candidate.
    pub fn named(&self, candidate: &Candidate) -> NamedCandidate {
        NamedCandidate {
            person_id: candidate.person,
            name: self.name(candidate.person).unwrap_or_default().to_string(),
            distance: Some(candidate.distance),
        }
    }
}

/// Orders known before uncertain before unknown, then by distance.
fn by_rank(a: (Outcome, Option<f32>), b: (Outcome, Option<f32>)) -> std::cmp::Ordering {
    let far = |distance: Option<f32>| distance.unwrap_or(f32::INFINITY);
    (a.0 as u8)
        .cmp(&(b.0 as u8))
        .then(far(a.1).total_cmp(&far(b.1)))
}

#[cfg(test)]
mod tests;
