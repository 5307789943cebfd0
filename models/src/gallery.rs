//! Everyone enrolled, as one matrix of embeddings, and how a distance becomes an outcome.
//! Knows numbers only: names, pictures and storage are the caller's.

use std::collections::HashMap;

use serde::Deserialize;

use crate::VisionError;
use crate::embed::check_embedding;
use crate::rows::{Rows, dot, squared_distance};

/// How the distance of two embeddings is measured; smaller is more alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Length of the difference.
    Euclidean,
    /// One minus the cosine of the angle.
    Cosine,
}

impl Metric {
    /// The distance of two embeddings of equal length.
    pub fn distance(self, a: &[f32], b: &[f32]) -> f32 {
        match self {
            Self::Euclidean => squared_distance(a, b).sqrt(),
            Self::Cosine => 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt(),
        }
    }

    /// An embedding as a row to be compared by squared distance: of unit length under the cosine metric.
    pub(crate) fn row_of(self, embedding: &[f32]) -> Vec<f32> {
        match self {
            Self::Euclidean => embedding.to_vec(),
            Self::Cosine => {
                let length = dot(embedding, embedding).sqrt();
                embedding.iter().map(|v| v / length).collect()
            }
        }
    }

    /// How far apart rows of such a distance are.
    pub(crate) fn length_of(self, distance: f32) -> f32 {
        match self {
            Self::Euclidean => distance,
            Self::Cosine => (2.0 * distance).max(0.0).sqrt(),
        }
    }

    /// The distance of rows whose squared difference has this length.
    pub(crate) fn of_squared(self, squared: f32) -> f32 {
        match self {
            Self::Euclidean => squared.sqrt(),
            // For unit vectors |a - b|² = 2 - 2 cos.
            Self::Cosine => squared / 2.0,
        }
    }
}

/// The nearest picture of one person.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The person, as given to [`Gallery::push`].
    pub person: i64,
    /// That person's nearest picture.
    pub picture: i64,
    /// Its distance.
    pub distance: f32,
}

/// All embeddings of one space, searched exactly.
#[derive(Debug, Clone)]
pub struct Gallery {
    metric: Metric,
    dimension: usize,
    /// One row per picture; of unit length under the cosine metric.
    matrix: Rows,
    /// For each row its picture and the index of its person in `people`.
    rows: Vec<(i64, usize)>,
    people: Vec<i64>,
    index_of: HashMap<i64, usize>,
}

impl Gallery {
    /// An empty gallery for embeddings of this length.
    pub fn new(metric: Metric, dimension: usize) -> Self {
        Self {
            metric,
            dimension,
            matrix: Rows::new(dimension),
            rows: Vec::new(),
            people: Vec::new(),
            index_of: HashMap::new(),
        }
    }

    /// Adds one picture of a person.
    pub fn push(&mut self, person: i64, picture: i64, embedding: &[f32]) -> Result<(), VisionError> {
        check_embedding(embedding, self.dimension)?;
        self.matrix.push(&self.row_of(embedding));
        let index = *self.index_of.entry(person).or_insert_with(|| {
            self.people.push(person);
            self.people.len() - 1
        });
        self.rows.push((picture, index));
        Ok(())
    }

    /// Memory its rows take.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes() + self.rows.len() * size_of::<(i64, usize)>()
    }

    /// How its distances are measured.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether nobody is enrolled.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many different people there are.
    pub fn people(&self) -> usize {
        self.people.len()
    }

    /// The `top` nearest people, nearest first, each with their nearest picture. Of equal
    /// distances the earlier pushed comes first, so answers do not change between runs.
    pub fn nearest(&self, embedding: &[f32], top: usize) -> Result<Vec<Candidate>, VisionError> {
        check_embedding(embedding, self.dimension)?;
        let query = self.row_of(embedding);
        let top = top.min(self.people.len());
        if top == 0 {
            return Ok(Vec::new());
        }
        // No more than this away is the last of those asked for: whoever is farther for certain needs no closer look.
        let bounds = self.matrix.bounds(&query);
        let mut within = vec![f32::INFINITY; self.people.len()];
        for (upper, &(_, index)) in bounds.upper.iter().zip(&self.rows) {
            within[index] = within[index].min(*upper);
        }
        let within = *within.select_nth_unstable_by(top - 1, f32::total_cmp).1;
        // Both metrics of unit or raw rows rise with the squared distance: compare that, convert later.
        let mut best = vec![(f32::INFINITY, 0_i64); self.people.len()];
        for (at, lower) in bounds.lower.iter().enumerate() {
            if *lower > within {
                continue;
            }
            let (picture, index) = self.rows[at];
            let squared = self.matrix.squared_distance(at, &query);
            if squared < best[index].0 {
                best[index] = (squared, picture);
            }
        }
        Ok(self.nearest_of(&best, top))
    }

    /// The same by reading every row in float32; what [`Self::nearest`] is measured against.
    pub fn nearest_plainly(&self, embedding: &[f32], top: usize) -> Result<Vec<Candidate>, VisionError> {
        check_embedding(embedding, self.dimension)?;
        let query = self.row_of(embedding);
        let mut best = vec![(f32::INFINITY, 0_i64); self.people.len()];
        for (at, &(picture, index)) in self.rows.iter().enumerate() {
            let squared = self.matrix.squared_distance(at, &query);
            if squared < best[index].0 {
                best[index] = (squared, picture);
            }
        }
        Ok(self.nearest_of(&best, top))
    }

    fn nearest_of(&self, best: &[(f32, i64)], top: usize) -> Vec<Candidate> {
        let mut order: Vec<usize> = (0..best.len()).collect();
        let by_distance = |a: &usize, b: &usize| best[*a].0.total_cmp(&best[*b].0).then(a.cmp(b));
        if top > 0 && top < order.len() {
            order.select_nth_unstable_by(top - 1, by_distance);
        }
        order.truncate(top);
        order.sort_unstable_by(by_distance);
        let candidate = |index: usize| {
            let (squared, picture) = best[index];
            Candidate { person: self.people[index], picture, distance: self.metric.of_squared(squared) }
        };
        order.into_iter().map(candidate).collect()
    }

    /// As it stands in the matrix.
    fn row_of(&self, embedding: &[f32]) -> Vec<f32> {
        self.metric.row_of(embedding)
    }

    /// Every picture with its person and what it is compared by, in the order they were added.
    pub fn pictures(&self) -> impl Iterator<Item = (i64, i64, &[f32])> {
        self.rows.iter().enumerate().map(|(at, &(picture, index))| (self.people[index], picture, self.matrix.row(at)))
    }
}

/// Where the lines between known, uncertain and unknown run.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matching {
    /// How distances are measured.
    pub metric: Metric,
    /// Two pictures of one person are nearer than this.
    pub threshold: f32,
    /// How far below the threshold a face must be to be known.
    pub band_below: f32,
    /// How far above the threshold a face must be to be unknown.
    pub band_above: f32,
    /// A known face whose second nearest person is nearer than this beyond the first is uncertain.
    pub min_margin: f32,
}

/// What a face is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// One person, clearly.
    Known,
    /// Perhaps this person; somebody should look.
    Uncertain,
    /// Nobody enrolled.
    Unknown,
}

/// The judgement on one face.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// What the face is taken for.
    pub outcome: Outcome,
    /// Who, unless unknown.
    pub person: Option<i64>,
    /// The distance of the nearest person, whatever the outcome; none if nobody is enrolled.
    pub distance: Option<f32>,
    /// How much further the second nearest person is; none if there is no second.
    pub margin: Option<f32>,
}

impl Matching {
    /// The distance below which the nearest person is known, if that one is clearly the nearest.
    pub fn known_below(&self) -> f32 {
        self.threshold - self.band_below
    }

    /// The distance above which a face is unknown.
    pub fn unknown_above(&self) -> f32 {
        self.threshold + self.band_above
    }

    /// Judges candidates as [`Gallery::nearest`] returns them; two are enough.
    pub fn judge(&self, candidates: &[Candidate]) -> Verdict {
        let Some(best) = candidates.first() else {
            return Verdict { outcome: Outcome::Unknown, person: None, distance: None, margin: None };
        };
        let margin = candidates.get(1).map(|second| second.distance - best.distance);
        let clear = margin.is_none_or(|margin| margin >= self.min_margin);
        let outcome = if best.distance > self.unknown_above() {
            Outcome::Unknown
        } else if best.distance < self.known_below() && clear {
            Outcome::Known
        } else {
            Outcome::Uncertain
        };
        let person = (outcome != Outcome::Unknown).then_some(best.person);
        Verdict { outcome, person, distance: Some(best.distance), margin }
    }
}
