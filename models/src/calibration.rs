//! Statistics of a gallery: the distances within and between people, the error rates of a
//! threshold, the recommended threshold, and the pictures that are redundant or look wrong.
//!
//! Works on numbers only; the caller knows whose pictures they are.

use crate::gallery::Gallery;
use crate::matching::Metric;

/// Above this number of pairs of a kind, a random sample is used.
const MOST_PAIRS: usize = 200_000;
/// The fewest genuine pairs (of one person) for a meaningful false non-match rate.
pub const LEAST_GENUINE: usize = 10;
/// The fewest people among the genuine pairs.
pub const LEAST_PEOPLE: usize = 3;
/// The fewest impostor pairs (of two people) for a meaningful false match rate.
pub const LEAST_IMPOSTORS: usize = 10;
/// Number of points of the curve and of bins of the histograms.
const STEPS: usize = 50;
/// Two pictures of one person are redundant below this share of the threshold.
const REDUNDANT: f32 = 0.4;

/// Distances between pairs of pictures, each kind in ascending order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distances {
    /// Pairs of one person, without redundant pictures: those say nothing about the next picture.
    pub genuine: Vec<f32>,
    /// Pairs of two people.
    pub impostors: Vec<f32>,
    /// Number of pairs of one person in the gallery.
    pub genuine_pairs: usize,
    /// Number of pairs of two people in the gallery.
    pub impostor_pairs: usize,
    /// Number of people with at least one pair in `genuine`.
    pub people: usize,
}

/// A threshold and its error rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Pairs below this distance match.
    pub threshold: f32,
    /// False match rate: share of the pairs of two people that match.
    pub fmr: f64,
    /// False non-match rate: share of the pairs of one person that do not match.
    pub fnmr: f64,
}

/// A finding about one picture, compared with all others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Remark {
    /// So similar to another picture of the same person that it adds nothing.
    Redundant {
        /// The other picture.
        like: i64,
        /// Distance between the two.
        distance: f32,
    },
    /// Far from all other pictures of the same person.
    Outlier {
        /// Distance to the nearest of them.
        distance: f32,
    },
    /// Closer to another person than two people should be.
    LooksLike {
        /// The other person.
        person: i64,
        /// Distance to that person's nearest picture.
        distance: f32,
    },
}

impl Distances {
    /// Measures all pairs of a gallery, or a sample if there are very many. The sample is the same
    /// each time. `threshold` decides which pictures are redundant.
    pub fn of(gallery: &Gallery, threshold: f32) -> Self {
        let pictures: Vec<(i64, &[f32])> = gallery
            .pictures()
            .map(|(person, _, row)| (person, row))
            .collect();
        let mut by_person: std::collections::BTreeMap<i64, Vec<usize>> = Default::default();
        for (at, (person, _)) in pictures.iter().enumerate() {
            by_person.entry(*person).or_default().push(at);
        }
        let pairs = |count: usize| count * count.saturating_sub(1) / 2;
        let genuine_pairs: usize = by_person.values().map(|theirs| pairs(theirs.len())).sum();
        let impostor_pairs = pairs(pictures.len()) - genuine_pairs;
        let distance = |a: usize, b: usize| gallery.metric().of_rows(pictures[a].1, pictures[b].1);
        let same = redundant_below(gallery.metric(), threshold);
        let mut random = Random(1);
        let (mut genuine, mut people) = (Vec::new(), 0);
        let share = MOST_PAIRS as f64 / genuine_pairs.max(1) as f64;
        for theirs in by_person.values() {
            let all = pairs(theirs.len());
            let wanted = (all as f64 * share).ceil() as usize;
            let before = genuine.len();
            let differs = |distance: &f32| *distance >= same;
            if wanted >= all {
                for (at, a) in theirs.iter().enumerate() {
                    genuine.extend(
                        theirs[at + 1..]
                            .iter()
                            .map(|b| distance(*a, *b))
                            .filter(differs),
                    );
                }
            } else {
                for _ in 0..wanted {
                    let (a, b) = random.two_of(theirs.len());
                    genuine.extend(Some(distance(theirs[a], theirs[b])).filter(differs));
                }
            }
            people += usize::from(genuine.len() > before);
        }
        let mut impostors = Vec::new();
        if impostor_pairs <= MOST_PAIRS {
            for a in 0..pictures.len() {
                let others = (a + 1..pictures.len()).filter(|b| pictures[a].0 != pictures[*b].0);
                impostors.extend(others.map(|b| distance(a, b)));
            }
        } else {
            // Most of so many pairs are of two people, so the sample fills up soon. If one person
            // has nearly all pictures, it stays smaller.
            for _ in 0..20 * MOST_PAIRS {
                let (a, b) = random.two_of(pictures.len());
                if pictures[a].0 != pictures[b].0 {
                    impostors.push(distance(a, b));
                }
                if impostors.len() == MOST_PAIRS {
                    break;
                }
            }
        }
        genuine.sort_by(f32::total_cmp);
        impostors.sort_by(f32::total_cmp);
        Self {
            genuine,
            impostors,
            genuine_pairs,
            impostor_pairs,
            people,
        }
    }

    /// Tells whether there are enough pairs of both kinds for a recommendation.
    pub fn suffice(&self) -> bool {
        self.genuine.len() >= LEAST_GENUINE
            && self.people >= LEAST_PEOPLE
            && self.impostors.len() >= LEAST_IMPOSTORS
    }

    /// Returns the error rates of a threshold.
    pub fn rates(&self, threshold: f32) -> Rates {
        let below =
            |distances: &[f32]| distances.partition_point(|distance| *distance < threshold) as f64;
        let share = |count: f64, of: &[f32]| {
            if of.is_empty() {
                0.0
            } else {
                count / of.len() as f64
            }
        };
        Rates {
            threshold,
            fmr: share(below(&self.impostors), &self.impostors),
            fnmr: share(
                self.genuine.len() as f64 - below(&self.genuine),
                &self.genuine,
            ),
        }
    }

    /// Returns the error rates in even steps from zero to the largest distance.
    pub fn curve(&self) -> Vec<Rates> {
        self.edges().map(|edge| self.rates(edge)).collect()
    }

    /// Returns the upper edges of the bins, shared by the histograms of both kinds.
    pub fn edges(&self) -> impl Iterator<Item = f32> {
        let last = |distances: &[f32]| distances.last().copied().unwrap_or(0.0);
        let most = last(&self.genuine)
            .max(last(&self.impostors))
            .max(f32::MIN_POSITIVE);
        (1..=STEPS).map(move |step| (most * step as f32 / STEPS as f32).next_up())
    }

    /// Returns the share of `distances` in each bin.
    pub fn histogram(&self, distances: &[f32]) -> Vec<f64> {
        let mut before = 0;
        let mut share = |edge| {
            let below = distances.partition_point(|distance| *distance < edge);
            (below - std::mem::replace(&mut before, below)) as f64 / distances.len().max(1) as f64
        };
        self.edges().map(&mut share).collect()
    }

    /// Returns the recommended threshold: the lowest false non-match rate at a false match rate of
    /// at most one in a thousand, placed half-way to the distance where the next impostor pair
    /// would match. Returns `present` if neither of its rates is worse.
    pub fn recommended(&self, present: f32) -> Option<Rates> {
        if !self.suffice() {
            return None;
        }
        let allowed = self.impostors.len() / 1000;
        let ceiling = *self.impostors.get(allowed)?;
        // The farthest genuine pair below the ceiling; the best threshold lies between the two.
        let passing = self.genuine.partition_point(|distance| *distance < ceiling);
        let floor = if passing == 0 {
            0.0
        } else {
            self.genuine[passing - 1]
        };
        let (best, present) = (
            self.rates(floor + (ceiling - floor) / 2.0),
            self.rates(present),
        );
        Some(if present.fmr <= best.fmr && present.fnmr <= best.fnmr {
            present
        } else {
            best
        })
    }
}

/// Returns the distance below which two pictures of one person are redundant.
pub fn redundant_below(metric: Metric, threshold: f32) -> f32 {
    metric.at_share(REDUNDANT, threshold)
}

/// Returns the findings about a person's pictures; pictures without a finding are left out. A
/// picture closer than `named_below` to another person looks like that person.
pub fn remarks(
    gallery: &Gallery,
    person: i64,
    threshold: f32,
    named_below: f32,
) -> Vec<(i64, Remark)> {
    let metric = gallery.metric();
    let same = redundant_below(metric, threshold);
    let theirs: Vec<(i64, &[f32])> = gallery
        .pictures()
        .filter(|one| one.0 == person)
        .map(|(_, picture, row)| (picture, row))
        .collect();
    let mut said: Vec<(i64, Remark)> = Vec::new();
    for (at, &(picture, row)) in theirs.iter().enumerate() {
        let others = theirs.iter().enumerate().filter(|(other, _)| *other != at);
        let nearest = others
            .map(|(other, &(id, theirs))| (metric.of_rows(row, theirs), other, id))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let stranger = gallery
            .nearest(row, 2)
            .unwrap_or_default()
            .into_iter()
            .find(|one| one.person != person);
        if let Some(stranger) = stranger.filter(|stranger| stranger.distance < named_below) {
            said.push((
                picture,
                Remark::LooksLike {
                    person: stranger.person,
                    distance: stranger.distance,
                },
            ));
        } else if let Some((distance, other, like)) = nearest {
            // The older one of two redundant pictures stays.
            if distance < same && other < at {
                said.push((picture, Remark::Redundant { like, distance }));
            } else if distance >= threshold {
                said.push((picture, Remark::Outlier { distance }));
            }
        }
    }
    said
}

impl Metric {
    /// Returns the distance between two rows of a gallery.
    fn of_rows(self, a: &[f32], b: &[f32]) -> f32 {
        self.of_squared(crate::matrix::squared_distance(a, b))
    }
}

/// A generator with a fixed seed, so that samples are reproducible.
struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % count.max(1)
    }

    /// Draws two different numbers below `count`.
    fn two_of(&mut self, count: usize) -> (usize, usize) {
        let a = self.below(count);
        let b = self.below(count.saturating_sub(1));
        (a, if b >= a { b + 1 } else { b })
    }
}

#[cfg(test)]
mod tests;
