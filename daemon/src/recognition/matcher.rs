//! Says who a face is: the gallery in memory, and what the pack's thresholds make of a distance.
//!
//! The gallery is a snapshot swapped whole; a picture in flight keeps the one it began with.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use kith_vision::{Candidate, Gallery, Matching, Pack, VisionError};

use crate::domain::{IdentifiedFace, NamedCandidate, Outcome, PersonId};
use crate::engine::FoundFace;
use crate::store::{CounterExample, GalleryRow};

/// How many of the nearest people are kept with a face.
const CANDIDATES: usize = 3;

/// The gallery of the active embedding space.
pub struct Matcher {
    matching: Matching,
    known_from: f32,
    dimension: usize,
    space: String,
    snapshot: RwLock<Arc<Snapshot>>,
    turn: tokio::sync::Mutex<()>,
}

/// Gallery and names as they were at one moment.
pub struct Snapshot {
    gallery: Gallery,
    /// Faces that were taken for these people and are not them.
    not_them: Gallery,
    names: HashMap<PersonId, String>,
    /// File name of each enrolled picture, by its row.
    images: HashMap<i64, String>,
}

impl Matcher {
    /// An empty gallery for a pack; a threshold of one's own in place of the pack's.
    pub fn new(pack: &Pack, threshold: Option<f32>) -> Self {
        let gallery = Gallery::new(pack.matching().metric, pack.dimension());
        let snapshot = Snapshot { not_them: gallery.clone(), gallery, names: HashMap::new(), images: HashMap::new() };
        let mut matching = pack.matching().clone();
        matching.threshold = threshold.unwrap_or(matching.threshold);
        Self {
            matching,
            known_from: pack.quality_limits().known_from,
            dimension: pack.dimension(),
            space: pack.space().to_string(),
            snapshot: RwLock::new(Arc::new(snapshot)),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// The embedding space whose embeddings are compared.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// Held from reading the gallery to replacing it.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// How distances become outcomes.
    pub fn matching(&self) -> &Matching {
        &self.matching
    }

    /// Below this quality nobody is known.
    pub fn known_from(&self) -> f32 {
        self.known_from
    }

    /// Numbers in an embedding.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Replaces the gallery; rows of another space must not be among them.
    pub fn replace(&self, rows: Vec<GalleryRow>, counter_examples: Vec<CounterExample>) -> Result<(), VisionError> {
        let mut gallery = Gallery::new(self.matching.metric, self.dimension);
        let mut not_them = gallery.clone();
        let (mut names, mut images) = (HashMap::new(), HashMap::new());
        for row in rows {
            gallery.push(row.person_id, row.person_image_id, &row.embedding)?;
            names.insert(row.person_id, row.name);
            images.insert(row.person_image_id, row.image_name);
        }
        for example in counter_examples {
            not_them.push(example.person_id, 0, &example.embedding)?;
        }
        let snapshot = Snapshot { gallery, not_them, names, images };
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        Ok(())
    }

    /// The gallery as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a face is, as the gallery is now.
    pub fn judge(&self, embedding: &[f32], quality: f32) -> Result<Judgement, VisionError> {
        self.judge_by(&self.snapshot(), embedding, quality)
    }

    /// Gives every face its outcome; best first: known before uncertain before unknown, then the nearer.
    pub fn identify(&self, found: Vec<FoundFace>) -> Result<Vec<IdentifiedFace>, VisionError> {
        let snapshot = self.snapshot();
        let mut faces =
            found.into_iter().map(|face| self.identify_face(&snapshot, face)).collect::<Result<Vec<_>, _>>()?;
        faces.sort_by(|a, b| {
            let nearness = |face: &IdentifiedFace| face.distance.unwrap_or(f32::INFINITY);
            (a.outcome as u8).cmp(&(b.outcome as u8)).then(nearness(a).total_cmp(&nearness(b)))
        });
        Ok(faces)
    }

    fn identify_face(&self, snapshot: &Snapshot, face: FoundFace) -> Result<IdentifiedFace, VisionError> {
        let judgement = self.judge_by(snapshot, &face.embedding, face.quality)?;
        // An engine elsewhere may have limits of its own, or none.
        let too_poor = || {
            (face.quality < self.known_from).then(|| {
                format!(
                    "The face is too poor to tell anybody by it: its quality is {:.2}, at least {:.2} is needed.",
                    face.quality, self.known_from
                )
            })
        };
        let objection = face.objection.or_else(too_poor);
        Ok(IdentifiedFace {
            bounds: face.bounds,
            landmarks: face.landmarks,
            score: face.score,
            quality: face.quality,
            objection,
            outcome: judgement.outcome,
            person: judgement.person,
            distance: judgement.distance,
            margin: judgement.margin,
            candidates: judgement.candidates,
            embedding: face.embedding,
            crop: face.crop,
            enrolled_image: judgement.enrolled_image,
        })
    }

    fn judge_by(&self, snapshot: &Snapshot, embedding: &[f32], quality: f32) -> Result<Judgement, VisionError> {
        let nearest = self.nearest(snapshot, embedding)?;
        let verdict = self.matching.judge(&nearest);
        let candidates: Vec<_> = nearest
            .iter()
            .map(|candidate| NamedCandidate {
                person_id: candidate.person,
                name: snapshot.names.get(&candidate.person).cloned().unwrap_or_default(),
                distance: Some(candidate.distance),
            })
            .collect();
        let matched = nearest.iter().find(|candidate| Some(candidate.person) == verdict.person);
        Ok(Judgement {
            outcome: match verdict.outcome {
                // A blur or a pattern taken for a face is near to somebody all too often.
                kith_vision::Outcome::Known if quality < self.known_from => Outcome::Uncertain,
                kith_vision::Outcome::Known => Outcome::Known,
                kith_vision::Outcome::Uncertain => Outcome::Uncertain,
                kith_vision::Outcome::Unknown => Outcome::Unknown,
            },
            person: candidates.iter().find(|candidate| Some(candidate.person_id) == verdict.person).cloned(),
            distance: verdict.distance,
            margin: verdict.margin,
            candidates,
            enrolled_image: matched.and_then(|candidate| snapshot.images.get(&candidate.picture).cloned()),
        })
    }

    /// The nearest people, without those of whom somebody said that a face at least as near as their own pictures is not
    /// them.
    fn nearest(&self, snapshot: &Snapshot, embedding: &[f32]) -> Result<Vec<Candidate>, VisionError> {
        let mut not_them = snapshot.not_them.nearest(embedding, usize::MAX)?;
        not_them.retain(|example| example.distance < self.matching.threshold);
        let mut nearest = snapshot.gallery.nearest(embedding, CANDIDATES + not_them.len())?;
        nearest.retain(|candidate| {
            !not_them.iter().any(|no| no.person == candidate.person && no.distance <= candidate.distance)
        });
        nearest.truncate(CANDIDATES);
        Ok(nearest)
    }
}

/// What a face is taken for.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// Who it is (known) or may be (uncertain).
    pub person: Option<NamedCandidate>,
    /// Distance to the nearest enrolled picture of anybody.
    pub distance: Option<f32>,
    /// How much farther the next person is.
    pub margin: Option<f32>,
    /// The nearest people, nearest first.
    pub candidates: Vec<NamedCandidate>,
    /// File name of the nearest enrolled picture of `person`.
    pub enrolled_image: Option<String>,
}

impl Snapshot {
    /// Every enrolled picture.
    pub fn gallery(&self) -> &Gallery {
        &self.gallery
    }

    /// What somebody is called.
    pub fn name(&self, person: PersonId) -> Option<&str> {
        self.names.get(&person).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_face_too_poor_to_be_known_has_a_reason_whether_its_engine_gave_one_or_not() {
        let pack = Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/dlib-mtcnn")).unwrap();
        let matcher = Matcher::new(&pack, None);
        let row = GalleryRow {
            person_image_id: 1,
            person_id: 1,
            name: "Ann".into(),
            image_name: "ann.jpg".into(),
            embedding: pack.self_test().embedding.clone(),
        };
        matcher.replace(vec![row], Vec::new()).unwrap();
        let face = |quality, objection: Option<&str>| FoundFace {
            bounds: [0.0, 0.0, 9.0, 9.0],
            landmarks: [[1.0; 2]; 5],
            score: 1.0,
            quality,
            objection: objection.map(Into::into),
            measures: None,
            embedding: pack.self_test().embedding.clone(),
            crop: Vec::new(),
        };
        let judged = |found| {
            let face = matcher.identify(vec![found]).unwrap().remove(0);
            (face.outcome, face.objection)
        };
        let poor = matcher.known_from() - 0.01;
        assert_eq!(judged(face(1.0, None)), (Outcome::Known, None));
        assert_eq!(judged(face(poor, Some("It is dark."))), (Outcome::Uncertain, Some("It is dark.".into())));
        let (outcome, reason) = judged(face(poor, None));
        assert_eq!(outcome, Outcome::Uncertain);
        assert!(reason.clone().unwrap_or_default().contains("too poor"), "{reason:?}");
    }
}
