//! Groups faces of people nobody has named, one face at a time: which group a face joins, and which
//! groups turn out to be one. Knows numbers only; who counts the groups, keeps their faces and
//! gives them their numbers is the caller.
//!
//! A group is compared by the mean of the faces that shape it. The more those are, the better the
//! mean, and the nearer a face must be to it: distances to the mean of many faces of one person are
//! shorter than those between two of them.

use std::collections::HashMap;

use crate::embed::check_embedding;
use crate::rows::{Rows, squared_distance};
use crate::{Metric, VisionError};

/// How near a face must be to the mean of very many faces, as a share of how near it must be to a
/// group of one. This and the next were measured on photographs of 1 324 people in shuffled order;
/// models/benches/identification.md has SFace's.
const NEAR_MANY: f32 = 0.42 / 0.5;
/// Two groups whose means are nearer than this are one.
const ALIKE: f32 = 0.35 / 0.5;
/// A group that so many faces have shaped is shaped no more: its mean moves no further.
pub const SHAPED_BY: u32 = 64;

/// All groups of one embedding space.
#[derive(Debug, Clone)]
pub struct Clusters {
    metric: Metric,
    dimension: usize,
    /// How near a face must be to a group of one face, as a length between rows.
    near_one: f32,
    /// The mean of each group.
    means: Rows,
    groups: Vec<Group>,
    index_of: HashMap<i64, usize>,
}

/// What a group is compared by.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Sum of the embeddings that shape it; of unit length each under the cosine metric.
    pub total: Vec<f32>,
    /// How many those are.
    pub weight: u32,
}

#[derive(Debug, Clone)]
struct Group {
    id: i64,
    shape: Shape,
}

impl Shape {
    /// Of these embeddings; `None`: there are none.
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
    /// No groups yet; a face joins a group of one that is nearer than `linking`.
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

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Their numbers, in no order.
    pub fn ids(&self) -> impl Iterator<Item = i64> {
        self.groups.iter().map(|group| group.id)
    }

    /// Adds a group, or gives one another shape.
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

    /// Forgets a group.
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

    /// The group this face belongs to, if it belongs to one.
    pub fn nearest(&self, embedding: &[f32]) -> Result<Option<i64>, VisionError> {
        check_embedding(embedding, self.dimension)?;
        let nearest = self.nearest_row(&self.metric.row_of(embedding), None);
        Ok(nearest
            .filter(|&(at, squared)| squared < self.limit(at).powi(2))
            .map(|(at, _)| self.groups[at].id))
    }

    /// The shape of a group with one more face in it; as it is if it has been shaped by enough.
    pub fn shape_with(&self, id: i64, embedding: &[f32]) -> Option<Shape> {
        let shape = self.shape(id)?;
        let enough = shape.weight >= SHAPED_BY;
        Some(if enough {
            shape.clone()
        } else {
            shape.clone().with(&self.metric.row_of(embedding), 1)
        })
    }

    /// The shape of a group.
    pub fn shape(&self, id: i64) -> Option<&Shape> {
        self.index_of.get(&id).map(|&at| &self.groups[at].shape)
    }

    /// Another group that turns out to be the same person as this one, and the shape of both
    /// together.
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

    /// How near a face must be to a group's mean.
    fn limit(&self, at: usize) -> f32 {
        let weight = self.groups[at].shape.weight.max(1) as f32;
        (NEAR_MANY.powi(2) + (1.0 - NEAR_MANY.powi(2)) / weight).sqrt() * self.near_one
    }

    /// The nearest mean but one, and its squared distance; of equal ones that of the lowest number.
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
