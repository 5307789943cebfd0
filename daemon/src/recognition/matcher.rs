//! Says who a face is: the gallery in memory, and what the pack's thresholds make of a distance.
//!
//! The gallery is a snapshot swapped whole; a picture in flight keeps the one it began with.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use kith_vision::{Gallery, Matching, Pack, VisionError};

use crate::domain::{IdentifiedFace, NamedCandidate, Outcome, PersonId};
use crate::engine::FoundFace;
use crate::store::GalleryRow;

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

struct Snapshot {
    gallery: Gallery,
    names: HashMap<PersonId, String>,
    /// File name of each enrolled picture, by its row.
    images: HashMap<i64, String>,
}

impl Matcher {
    /// An empty gallery for a pack.
    pub fn new(pack: &Pack) -> Self {
        let gallery = Gallery::new(pack.matching().metric, pack.dimension());
        let snapshot = Snapshot { gallery, names: HashMap::new(), images: HashMap::new() };
        Self {
            matching: pack.matching().clone(),
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

    /// Replaces the gallery; rows of another space must not be among them.
    pub fn replace(&self, rows: Vec<GalleryRow>) -> Result<(), VisionError> {
        let mut gallery = Gallery::new(self.matching.metric, self.dimension);
        let (mut names, mut images) = (HashMap::new(), HashMap::new());
        for row in rows {
            gallery.push(row.person_id, row.person_image_id, &row.embedding)?;
            names.insert(row.person_id, row.name);
            images.insert(row.person_image_id, row.image_name);
        }
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Snapshot { gallery, names, images });
        Ok(())
    }

    /// Gives every face its outcome; best first: known before uncertain before unknown, then the nearer.
    pub fn identify(&self, found: Vec<FoundFace>) -> Result<Vec<IdentifiedFace>, VisionError> {
        let snapshot = Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner));
        let mut faces =
            found.into_iter().map(|face| self.identify_face(&snapshot, face)).collect::<Result<Vec<_>, _>>()?;
        faces.sort_by(|a, b| {
            let nearness = |face: &IdentifiedFace| face.distance.unwrap_or(f32::INFINITY);
            (a.outcome as u8).cmp(&(b.outcome as u8)).then(nearness(a).total_cmp(&nearness(b)))
        });
        Ok(faces)
    }

    fn identify_face(&self, snapshot: &Snapshot, face: FoundFace) -> Result<IdentifiedFace, VisionError> {
        let nearest = snapshot.gallery.nearest(&face.embedding, CANDIDATES)?;
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
        Ok(IdentifiedFace {
            bounds: face.bounds,
            landmarks: face.landmarks,
            score: face.score,
            quality: face.quality,
            outcome: match verdict.outcome {
                // A blur or a pattern taken for a face is near to somebody all too often.
                kith_vision::Outcome::Known if face.quality < self.known_from => Outcome::Uncertain,
                kith_vision::Outcome::Known => Outcome::Known,
                kith_vision::Outcome::Uncertain => Outcome::Uncertain,
                kith_vision::Outcome::Unknown => Outcome::Unknown,
            },
            person: candidates.iter().find(|candidate| Some(candidate.person_id) == verdict.person).cloned(),
            distance: verdict.distance,
            margin: verdict.margin,
            candidates,
            embedding: face.embedding,
            crop: face.crop,
            enrolled_image: matched.and_then(|candidate| snapshot.images.get(&candidate.picture).cloned()),
        })
    }
}
