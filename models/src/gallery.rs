//! The gallery: all enrolled embeddings as one matrix, searched exactly. Works on numbers only: the
//! caller keeps names, pictures and storage, and `matching` interprets distances.

use std::collections::HashMap;

use crate::VisionError;
use crate::embedding::check_embedding;
use crate::matching::{Candidate, Matching, Metric, Templates};
use crate::matrix::{Matrix, dot, squared_distance};

/// All embeddings of one space, searched exactly.
#[derive(Debug, Clone)]
pub struct Gallery {
    metric: Metric,
    dimension: usize,
    /// A row per picture, of unit length under the cosine metric.
    matrix: Matrix,
    /// For each row, its picture and the index of its person in `people`.
    rows: Vec<(i64, usize)>,
    people: Vec<i64>,
    index_of: HashMap<i64, usize>,
    /// Compared in place of single pictures, if present.
    means: Option<Means>,
}

/// Means of similar pictures of a person.
#[derive(Debug, Clone)]
struct Means {
    /// Squared distance between rows below which a picture joins a mean.
    alike: f32,
    /// A row per mean, of unit length under the cosine metric.
    matrix: Matrix,
    /// For each row, the factor that makes it the sum of its pictures, and the index of the person
    /// in `people`.
    rows: Vec<(f32, usize)>,
    /// For each person, the rows of their means, and of their pictures in the gallery.
    of_person: Vec<Owned>,
}

#[derive(Debug, Clone, Default)]
struct Owned {
    means: Vec<usize>,
    pictures: Vec<usize>,
}

impl Means {
    /// Adds a picture to the nearest mean if it is close enough, or starts a new one. A wrong
    /// picture among good ones therefore spoils no mean.
    fn push(&mut self, metric: Metric, index: usize, picture: usize, row: &[f32]) {
        self.of_person
            .resize(self.of_person.len().max(index + 1), Owned::default());
        let owned = &mut self.of_person[index];
        owned.pictures.push(picture);
        let theirs = owned
            .means
            .iter()
            .map(|&at| (at, squared_distance(self.matrix.row(at), row)));
        let nearest = theirs
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .filter(|(_, squared)| *squared < self.alike);
        let Some((at, _)) = nearest else {
            owned.means.push(self.rows.len());
            self.matrix.push(row);
            self.rows.push((1.0, index));
            return;
        };
        let weight = &mut self.rows[at].0;
        let sum: Vec<f32> = self
            .matrix
            .row(at)
            .iter()
            .zip(row)
            .map(|(mean, value)| mean * *weight + value)
            .collect();
        *weight = match metric {
            Metric::Euclidean => *weight + 1.0,
            Metric::Cosine => dot(&sum, &sum).sqrt(),
        };
        let mean: Vec<f32> = sum.iter().map(|sum| sum / *weight).collect();
        self.matrix.replace(at, &mean);
    }
}

impl Gallery {
    /// Creates an empty gallery for embeddings of this length. Every picture is compared by itself.
    pub fn new(metric: Metric, dimension: usize) -> Self {
        Self {
            metric,
            dimension,
            matrix: Matrix::new(dimension),
            rows: Vec::new(),
            people: Vec::new(),
            index_of: HashMap::new(),
            means: None,
        }
    }

    /// Creates an empty gallery with the metric and templates of a pack.
    pub fn of(matching: &Matching, dimension: usize) -> Self {
        let gallery = Self::new(matching.metric, dimension);
        let alike = matching.metric.length_of(matching.threshold).powi(2);
        let means = || Means {
            alike,
            matrix: Matrix::new(dimension),
            rows: Vec::new(),
            of_person: Vec::new(),
        };
        Self {
            means: (matching.templates == Templates::Mean).then(means),
            ..gallery
        }
    }

    /// Adds one picture of a person.
    pub fn push(
        &mut self,
        person: i64,
        picture: i64,
        embedding: &[f32],
    ) -> Result<(), VisionError> {
        check_embedding(embedding, self.dimension)?;
        let row = self.row_of(embedding);
        self.matrix.push(&row);
        let index = *self.index_of.entry(person).or_insert_with(|| {
            self.people.push(person);
            self.people.len() - 1
        });
        if let Some(means) = &mut self.means {
            means.push(self.metric, index, self.rows.len(), &row);
        }
        self.rows.push((picture, index));
        Ok(())
    }

    /// Returns the memory that the rows take.
    pub fn bytes(&self) -> usize {
        let owned = |of: &Owned| {
            size_of::<Owned>() + (of.means.len() + of.pictures.len()) * size_of::<usize>()
        };
        let means = |means: &Means| {
            let rows = means.rows.len() * size_of::<(f32, usize)>();
            means.matrix.bytes() + rows + means.of_person.iter().map(owned).sum::<usize>()
        };
        self.matrix.bytes()
            + self.rows.len() * size_of::<(i64, usize)>()
            + self.means.as_ref().map_or(0, means)
    }

    /// Returns the rows that are searched.
    fn templates(&self) -> &Matrix {
        self.means
            .as_ref()
            .map_or(&self.matrix, |means| &means.matrix)
    }

    /// Returns the index in `people` for a searched row.
    fn person_at(&self, at: usize) -> usize {
        self.means
            .as_ref()
            .map_or_else(|| self.rows[at].1, |means| means.rows[at].1)
    }

    /// Returns the metric of the distances.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Returns the number of pictures.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Tells whether the gallery is empty.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the number of people.
    pub fn people(&self) -> usize {
        self.people.len()
    }

    /// Returns the `top` nearest people, the nearest first, each with their nearest picture. At
    /// equal distances the earlier pushed comes first, so the order does not change between runs.
    pub fn nearest(&self, embedding: &[f32], top: usize) -> Result<Vec<Candidate>, VisionError> {
        check_embedding(embedding, self.dimension)?;
        let query = self.row_of(embedding);
        let top = top.min(self.people.len());
        if top == 0 {
            return Ok(Vec::new());
        }
        // Upper bound on the distance of the last person wanted; rows certainly beyond it need no
        // exact distance.
        let templates = self.templates();
        let bounds = templates.bounds(&query);
        let mut within = vec![f32::INFINITY; self.people.len()];
        for (at, upper) in bounds.upper.iter().enumerate() {
            let index = self.person_at(at);
            within[index] = within[index].min(*upper);
        }
        let within = *within.select_nth_unstable_by(top - 1, f32::total_cmp).1;
        // Both metrics grow with the squared distance of the rows, so that is compared and
        // converted at the end.
        let mut best = vec![(f32::INFINITY, 0); self.people.len()];
        for (at, lower) in bounds.lower.iter().enumerate() {
            if *lower > within {
                continue;
            }
            let index = self.person_at(at);
            let squared = templates.squared_distance(at, &query);
            if squared < best[index].0 {
                best[index] = (squared, at);
            }
        }
        Ok(self.nearest_of(&best, top, &query))
    }

    /// Does the same by reading every row in float32, as the reference for [`Self::nearest`].
    pub fn nearest_plainly(
        &self,
        embedding: &[f32],
        top: usize,
    ) -> Result<Vec<Candidate>, VisionError> {
        check_embedding(embedding, self.dimension)?;
        let query = self.row_of(embedding);
        let templates = self.templates();
        let mut best = vec![(f32::INFINITY, 0); self.people.len()];
        for at in 0..templates.len() {
            let index = self.person_at(at);
            let squared = templates.squared_distance(at, &query);
            if squared < best[index].0 {
                best[index] = (squared, at);
            }
        }
        Ok(self.nearest_of(&best, top, &query))
    }

    /// Returns one person's distance as [`Self::nearest`] would; `None` if the person has no
    /// picture.
    pub fn nearest_of_person(
        &self,
        embedding: &[f32],
        person: i64,
    ) -> Result<Option<Candidate>, VisionError> {
        check_embedding(embedding, self.dimension)?;
        let Some(&index) = self.index_of.get(&person) else {
            return Ok(None);
        };
        let query = self.row_of(embedding);
        let templates = self.templates();
        let theirs = (0..templates.len()).filter(|at| self.person_at(*at) == index);
        let nearest = theirs
            .map(|at| (templates.squared_distance(at, &query), at))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        Ok(nearest.map(|nearest| self.candidate(index, nearest, &query)))
    }

    fn nearest_of(&self, best: &[(f32, usize)], top: usize, query: &[f32]) -> Vec<Candidate> {
        let mut order: Vec<usize> = (0..best.len()).collect();
        let by_distance = |a: &usize, b: &usize| best[*a].0.total_cmp(&best[*b].0).then(a.cmp(b));
        if top > 0 && top < order.len() {
            order.select_nth_unstable_by(top - 1, by_distance);
        }
        order.truncate(top);
        order.sort_unstable_by(by_distance);
        order
            .into_iter()
            .map(|index| self.candidate(index, best[index], query))
            .collect()
    }

    /// Builds the candidate from the person's nearest template: its squared distance and its row.
    fn candidate(&self, index: usize, (squared, at): (f32, usize), query: &[f32]) -> Candidate {
        let picture = match &self.means {
            None => self.rows[at].0,
            Some(means) => {
                let theirs = means.of_person[index].pictures.iter();
                let by_distance =
                    theirs.map(|&at| (self.matrix.squared_distance(at, query), self.rows[at].0));
                by_distance
                    .min_by(|a, b| a.0.total_cmp(&b.0))
                    .map_or(0, |nearest| nearest.1)
            }
        };
        Candidate {
            person: self.people[index],
            picture,
            distance: self.metric.of_squared(squared),
        }
    }

    /// Returns the embedding as a row of the matrix.
    fn row_of(&self, embedding: &[f32]) -> Vec<f32> {
        self.metric.row_of(embedding)
    }

    /// Returns every picture with its person and its row, in the order they were added.
    pub fn pictures(&self) -> impl Iterator<Item = (i64, i64, &[f32])> {
        self.rows
            .iter()
            .enumerate()
            .map(|(at, &(picture, index))| (self.people[index], picture, self.matrix.row(at)))
    }
}
