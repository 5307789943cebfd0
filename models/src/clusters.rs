//! Incremental clustering of unknown faces: finds the group a face joins, and groups that turn out
//! to be the same person. Works on numbers only; the caller stores the faces and numbers the
//! groups.
//!
//! A group is compared by the mean of its first faces. The mean of many faces is more exact, and
//! its distances to faces of the same person are shorter than those between two faces, so the limit
//! gets tighter as a group grows.

use std::collections::HashMap;

use crate::embedding::check_embedding;
use crate::rows::{Rows, squared_distance};
use crate::{Metric, VisionError};

/// Limit for the mean of very many faces, as a share of the limit for a group of one. Measured,
/// like `ALIKE`, on photographs of 1 324 people in shuffled order; for SFace see
/// models/benches/identification.md.
const NEAR_MANY: f32 = 0.42 / 0.5;
/// Two groups with means closer than this share of the limit are merged.
const ALIKE: f32 = 0.35 / 0.5;
/// After this many faces the mean of a group no longer changes.
pub const SHAPED_BY: u32 = 64;

/// All groups of one embedding space.
#[derive(Debug, Clone)]
pub struct Clusters {
    metric: Metric,
    dimension: usize,
    /// Limit for a group of one face, as a length between rows.
    near_one: f32,
    /// The mean of each group.
    means: Rows,
    groups: Vec<Group>,
    index_of: HashMap<i64, usize>,
}

/// The centroid a group is compared by, as sum and count.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Sum of the embeddings, each of unit length under the cosine metric.
    pub total: Vec<f32>,
    /// Number of embeddings in the sum.
    pub weight: u32,
}

#[derive(Debug, Clone)]
struct Group {
    id: i64,
    shape: Shape,
}

impl Shape {
    /// Adds up these embeddings; `None` if there are none.
    pub fn of<'a>(metric: Metric, embeddings: impl IntoIterator<Item = &'a [f32]>) -> Option<Self> {
        embeddings.into_iter().fold(None, |shape, embedding| {
            let row = metric.row_of(embedding);
            Some(match shape {
                None => Self {
                    total: row,
                    weight: 1,
                },
                Some(shape) => shape.with(&row, 1),
            })
        })
    }

    fn with(mut self, total: &[f32], weight: u32) -> Self {
        for (sum, value) in self.total.iter_mut().zip(total) {
            *sum += value;
        }
        self.weight += weight;
        self
    }

    fn mean(&self) -> Vec<f32> {
        self.total
            .iter()
            .map(|sum| sum / self.weight.max(1) as f32)
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
            means: Rows::new(dimension),
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

    /// Adds a group, or replaces its shape.
    pub fn set(&mut self, id: i64, shape: Shape) -> Result<(), VisionError> {
        let mean = shape.mean();
        if mean.len() != self.dimension {
            return Err(VisionError::Dimension {
                expected: self.dimension,
                found: mean.len(),
            });
        }
        match self.index_of.get(&id) {
            Some(&at) => {
                self.means.replace(at, &mean);
                self.groups[at].shape = shape;
            }
            None => {
                self.means.push(&mean);
                self.index_of.insert(id, self.groups.len());
                self.groups.push(Group { id, shape });
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

    /// Returns the shape of a group after adding a face; unchanged once [`SHAPED_BY`] is reached.
    pub fn shape_with(&self, id: i64, embedding: &[f32]) -> Option<Shape> {
        let shape = self.shape(id)?;
        let enough = shape.weight >= SHAPED_BY;
        Some(if enough {
            shape.clone()
        } else {
            shape.clone().with(&self.metric.row_of(embedding), 1)
        })
    }

    /// Returns the shape of a group.
    pub fn shape(&self, id: i64) -> Option<&Shape> {
        self.index_of.get(&id).map(|&at| &self.groups[at].shape)
    }

    /// Returns another group that turns out to be the same person, and the shape of both together.
    pub fn alike(&self, id: i64) -> Option<(i64, Shape)> {
        let &at = self.index_of.get(&id)?;
        let (other, squared) = self.nearest_row(self.means.row(at), Some(at))?;
        let other = &self.groups[other];
        let both = || {
            self.groups[at]
                .shape
                .clone()
                .with(&other.shape.total, other.shape.weight)
        };
        (squared < (ALIKE * self.near_one).powi(2)).then(|| (other.id, both()))
    }

    /// Returns the largest distance between a group's mean and a face that joins it.
    fn limit(&self, at: usize) -> f32 {
        let weight = self.groups[at].shape.weight.max(1) as f32;
        (NEAR_MANY.powi(2) + (1.0 - NEAR_MANY.powi(2)) / weight).sqrt() * self.near_one
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
