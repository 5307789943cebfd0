//! Incremental clustering of unknown faces: finds the group a face joins, and groups that turn out
//! to be the same person. Works on numbers only; the caller stores the faces and numbers the
//! groups.
//!
//! A group is compared by the mean of its first faces. The mean of many faces is more exact, and
//! its distances to faces of the same person are shorter than those between two faces, so the limit
//! gets tighter as a group grows.

use std::collections::HashMap;

use crate::embedding::check_embedding;
use crate::matrix::{Matrix, squared_distance};
use crate::{Metric, VisionError};

/// Limit for the mean of very many faces, as a share of the limit for a group of one. Measured,
/// like `ALIKE`, on photographs of 1 324 people in shuffled order; for SFace see
/// models/benches/identification.md.
const NEAR_MANY: f32 = 0.42 / 0.5;
/// Two groups with means closer than this share of the limit are merged.
const ALIKE: f32 = 0.35 / 0.5;
/// Most faces in the mean of a group, which does not change after that.
pub const MOST_AVERAGED: u32 = 64;

/// All groups of one embedding space.
#[derive(Debug, Clone)]
pub struct Clusters {
    metric: Metric,
    dimension: usize,
    /// Limit for a group of one face, as a length between rows.
    near_one: f32,
    /// The mean of each group.
    means: Matrix,
    groups: Vec<Group>,
    index_of: HashMap<i64, usize>,
}

/// The centroid a group is compared by, as sum and count.
#[derive(Debug, Clone, PartialEq)]
pub struct Centroid {
    /// Sum of the embeddings, each of unit length under the cosine metric.
    pub sum: Vec<f32>,
    /// Number of embeddings in the sum.
    pub count: u32,
}

#[derive(Debug, Clone)]
struct Group {
    id: i64,
    centroid: Centroid,
}

impl Centroid {
    /// Adds up these embeddings; `None` if there are none.
    pub fn of<'a>(metric: Metric, embeddings: impl IntoIterator<Item = &'a [f32]>) -> Option<Self> {
        embeddings.into_iter().fold(None, |centroid, embedding| {
            let row = metric.row_of(embedding);
            Some(match centroid {
                None => Self { sum: row, count: 1 },
                Some(centroid) => centroid.with(&row, 1),
            })
        })
    }

    fn with(mut self, sum: &[f32], count: u32) -> Self {
        for (total, value) in self.sum.iter_mut().zip(sum) {
            *total += value;
        }
        self.count += count;
        self
    }

    fn mean(&self) -> Vec<f32> {
        self.sum
            .iter()
            .map(|sum| sum / self.count.max(1) as f32)
            .collect()
    }
}

impl Clusters {
    /// Starts without groups. A face joins a group of one that is closer than `linking`.
    pub fn new(metric: Metric, dimension: usize, linking: f32) -> Self {
        let near_one = metric.length_of(linking);
        Self {
            metric,
            dimension,
            near_one,
            means: Matrix::new(dimension),
            groups: Vec::new(),
            index_of: HashMap::new(),
        }
    }

    /// Returns the number of groups.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Tells whether there are no groups.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Returns the ids of the groups, in no particular order.
    pub fn ids(&self) -> impl Iterator<Item = i64> {
        self.groups.iter().map(|group| group.id)
    }

    /// Adds a group, or replaces its centroid.
    pub fn set(&mut self, id: i64, centroid: Centroid) -> Result<(), VisionError> {
        let mean = centroid.mean();
        if mean.len() != self.dimension {
            return Err(VisionError::Dimension {
                expected: self.dimension,
                found: mean.len(),
            });
        }
        match self.index_of.get(&id) {
            Some(&at) => {
                self.means.replace(at, &mean);
                self.groups[at].centroid = centroid;
            }
            None => {
                self.means.push(&mean);
                self.index_of.insert(id, self.groups.len());
                self.groups.push(Group { id, centroid });
            }
        }
        Ok(())
    }

    /// Removes a group.
    pub fn remove(&mut self, id: i64) {
        let Some(at) = self.index_of.remove(&id) else {
            return;
        };
        self.means.swap_remove(at);
        self.groups.swap_remove(at);
        if let Some(moved) = self.groups.get(at) {
            self.index_of.insert(moved.id, at);
        }
    }

    /// Returns the group this face belongs to, if any.
    pub fn nearest(&self, embedding: &[f32]) -> Result<Option<i64>, VisionError> {
        check_embedding(embedding, self.dimension)?;
        let nearest = self.nearest_row(&self.metric.row_of(embedding), None);
        Ok(nearest
            .filter(|&(at, squared)| squared < self.limit(at).powi(2))
            .map(|(at, _)| self.groups[at].id))
    }

    /// Returns the centroid of a group after adding a face; unchanged once [`MOST_AVERAGED`] is
    /// reached.
    pub fn centroid_with(&self, id: i64, embedding: &[f32]) -> Option<Centroid> {
        let centroid = self.centroid(id)?;
        let enough = centroid.count >= MOST_AVERAGED;
        Some(if enough {
            centroid.clone()
        } else {
            centroid.clone().with(&self.metric.row_of(embedding), 1)
        })
    }

    /// Returns the centroid of a group.
    pub fn centroid(&self, id: i64) -> Option<&Centroid> {
        self.index_of.get(&id).map(|&at| &self.groups[at].centroid)
    }

    /// Returns another group that turns out to be the same person, and the centroid of both
    /// together.
    pub fn alike(&self, id: i64) -> Option<(i64, Centroid)> {
        let &at = self.index_of.get(&id)?;
        let (other, squared) = self.nearest_row(self.means.row(at), Some(at))?;
        let other = &self.groups[other];
        let both = || {
            self.groups[at]
                .centroid
                .clone()
                .with(&other.centroid.sum, other.centroid.count)
        };
        (squared < (ALIKE * self.near_one).powi(2)).then(|| (other.id, both()))
    }

    /// Returns the largest distance between a group's mean and a face that joins it.
    fn limit(&self, at: usize) -> f32 {
        let count = self.groups[at].centroid.count.max(1) as f32;
        (NEAR_MANY.powi(2) + (1.0 - NEAR_MANY.powi(2)) / count).sqrt() * self.near_one
    }

    /// Returns the row nearest to `query`, except `but`, and its squared distance. The lowest id
    /// wins a tie.
    fn nearest_row(&self, query: &[f32], but: Option<usize>) -> Option<(usize, f32)> {
        let bounds = self.means.bounds(query);
        let others = || (0..self.groups.len()).filter(|at| Some(*at) != but);
        let within = others()
            .map(|at| bounds.upper[at])
            .fold(f32::INFINITY, f32::min);
        others()
            .filter(|&at| bounds.lower[at] <= within)
            .map(|at| (at, squared_distance(self.means.row(at), query)))
            .min_by(|a, b| {
                a.1.total_cmp(&b.1)
                    .then(self.groups[a.0].id.cmp(&self.groups[b.0].id))
            })
    }
}
