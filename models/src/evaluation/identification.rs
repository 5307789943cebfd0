//! Open-set identification figures as in ISO/IEC 19795-1: the share of enrolled people who are
//! missed (FNIR) at a given share of strangers who get a name (FPIR), by the size of the gallery.
//! Searches with the gallery and the thresholds that kithd uses; the caller supplies the
//! embeddings.

use super::{Sample, splitmix};
use crate::matching::{Caution, Matching, Outcome};
use crate::{Gallery, VisionError};

/// A picture of a person, or the mean of several.
#[derive(Debug, Clone, Copy)]
pub struct Picture<'a> {
    /// Number of the person, from 0.
    pub person: u32,
    /// Empty if the picture shows no face.
    pub embedding: &'a [f32],
    /// Quality of the face.
    pub quality: f32,
    /// Number of looks at the face that the embedding is the mean of.
    pub looks: u32,
}

/// The result of one search.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Search {
    person: u32,
    /// True if the person is in the gallery.
    enrolled: bool,
    /// True if the nearest person is the right one.
    right: bool,
    /// Distance to the nearest person; infinite without a face.
    distance: f32,
    /// Outcome of the face, by caution.
    outcomes: [Outcome; 3],
}

/// The searches of several galleries of one size.
#[derive(Debug, Clone)]
pub struct Searches {
    /// Sorted by distance, the nearest first.
    searches: Vec<Search>,
    galleries: usize,
    pictures: usize,
}

/// Outcomes at one caution, as shares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcomes {
    /// Strangers who are known as an enrolled person.
    pub strangers_known: f64,
    /// Strangers with a name, known or uncertain.
    pub strangers_named: f64,
    /// Pictures of enrolled people that are known by the right name.
    pub known: f64,
    /// Pictures of enrolled people with the right name, known or uncertain.
    pub named: f64,
    /// Pictures of enrolled people with the wrong name, known or uncertain.
    pub mistaken: f64,
}

/// A point of the detection error trade-off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetPoint {
    /// Faces below this distance match.
    pub threshold: f32,
    /// False-positive identification rate: share of strangers' searches with a match.
    pub fpir: f64,
    /// False-negative identification rate: share of enrolled people's searches whose first
    /// candidate is not the right person, or no match.
    pub fnir: f64,
}

impl Searches {
    /// Draws `enrolled` people from `gallery`, enrols their pictures and searches for every picture
    /// in `probes`; repeats that for each draw. The draws are reproducible. If everybody is
    /// enrolled, one draw is enough. Below the quality `known_from` no face is known.
    pub fn of(
        gallery: &[Picture],
        probes: &[Picture],
        [enrolled, draws]: [usize; 2],
        matching: &Matching,
        known_from: f32,
    ) -> Result<Self, VisionError> {
        let mut people: Vec<u32> = gallery.iter().map(|picture| picture.person).collect();
        people.sort_unstable();
        people.dedup();
        let dimension = gallery.first().map_or(0, |picture| picture.embedding.len());
        let draws = if enrolled < people.len() { draws } else { 1 };
        let (mut searches, mut pictures, mut state) = (Vec::new(), 0, 0);
        for _ in 0..draws {
            let count = enrolled.min(people.len());
            for at in 0..count {
                let other = at + splitmix(&mut state, people.len() - at);
                people.swap(at, other);
            }
            let mut drawn = people[..count].to_vec();
            drawn.sort_unstable();
            let is_enrolled = |person: u32| drawn.binary_search(&person).is_ok();
            let mut enrolled = Gallery::of(matching, dimension);
            for (at, picture) in (0..)
                .zip(gallery)
                .filter(|(_, picture)| is_enrolled(picture.person))
            {
                enrolled.push(picture.person.into(), at, picture.embedding)?;
            }
            pictures += enrolled.len();
            for probe in probes {
                let nearest = if probe.embedding.is_empty() {
                    Vec::new()
                } else {
                    enrolled.nearest(probe.embedding, 2)?
                };
                let first = nearest.first();
                let outcome = |caution| {
                    let limits = matching.limits(caution, enrolled.len(), probe.looks);
                    match limits.judge(&nearest).outcome {
                        Outcome::Known if probe.quality < known_from => Outcome::Uncertain,
                        outcome => outcome,
                    }
                };
                searches.push(Search {
                    person: probe.person,
                    enrolled: is_enrolled(probe.person),
                    right: first.is_some_and(|first| first.person == i64::from(probe.person)),
                    distance: first.map_or(f32::INFINITY, |first| first.distance),
                    outcomes: Caution::ALL.map(outcome),
                });
            }
        }
        searches.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        Ok(Self {
            searches,
            galleries: draws,
            pictures: pictures / draws,
        })
    }

    /// Returns the searches about some of the people.
    pub fn about(&self, of: impl Fn(u32) -> bool) -> Self {
        Self {
            searches: self
                .searches
                .iter()
                .filter(|search| of(search.person))
                .copied()
                .collect(),
            ..*self
        }
    }

    /// Returns the number of galleries drawn.
    pub fn galleries(&self) -> usize {
        self.galleries
    }

    /// Returns the mean number of pictures in a gallery.
    pub fn pictures(&self) -> usize {
        self.pictures
    }

    /// Returns the mean number of searches per gallery for people in it (`true`) or strangers.
    pub fn count(&self, enrolled: bool) -> usize {
        self.searches
            .iter()
            .filter(|search| search.enrolled == enrolled)
            .count()
            / self.galleries
    }

    /// Returns the highest threshold at which at most this share of strangers has a match; infinite
    /// if all may have one.
    pub fn threshold(&self, fpir: f64, sample: &Sample) -> f32 {
        let strangers = || self.searches.iter().filter(|search| !search.enrolled);
        let total: f64 = strangers().map(|search| search.weight(sample)).sum();
        let mut allowed = fpir * total + 1e-9;
        for search in strangers() {
            allowed -= search.weight(sample);
            if allowed < 0.0 {
                return search.distance;
            }
        }
        f32::INFINITY
    }

    /// Returns the share of strangers with a match below a threshold; NaN without strangers.
    pub fn fpir(&self, threshold: f32, sample: &Sample) -> f64 {
        self.share(
            sample,
            |search| !search.enrolled,
            |search| search.distance < threshold,
        )
    }

    /// Returns the share of enrolled people's searches whose first candidate is wrong or not below
    /// a threshold; NaN without such searches.
    pub fn fnir(&self, threshold: f32, sample: &Sample) -> f64 {
        1.0 - self.share(
            sample,
            |search| search.enrolled,
            |search| search.right && search.distance < threshold,
        )
    }

    /// Returns the share of enrolled people's searches whose first candidate is right, at any
    /// distance.
    pub fn rank_1(&self, sample: &Sample) -> f64 {
        self.share(sample, |search| search.enrolled, |search| search.right)
    }

    /// Returns the shares of the outcomes at a caution.
    pub fn outcomes(&self, caution: Caution, sample: &Sample) -> Outcomes {
        let outcome = |search: &Search| search.outcomes[caution as usize];
        let named = |search: &Search| outcome(search) != Outcome::Unknown;
        let known = |search: &Search| outcome(search) == Outcome::Known;
        let strangers =
            |has: &dyn Fn(&Search) -> bool| self.share(sample, |search| !search.enrolled, has);
        let people =
            |has: &dyn Fn(&Search) -> bool| self.share(sample, |search| search.enrolled, has);
        Outcomes {
            strangers_known: strangers(&known),
            strangers_named: strangers(&named),
            known: people(&|search| search.right && known(search)),
            named: people(&|search| search.right && named(search)),
            mistaken: people(&|search| !search.right && named(search)),
        }
    }

    /// Returns the whole trade-off curve, with a point before each further stranger with a match.
    pub fn det(&self) -> Vec<DetPoint> {
        let of = |enrolled: bool| {
            self.searches
                .iter()
                .filter(|search| search.enrolled == enrolled)
                .count() as f64
        };
        let (people, strangers) = (of(true), of(false));
        let (mut found, mut passed) = (0.0, 0.0);
        let mut points: Vec<DetPoint> = Vec::new();
        for search in &self.searches {
            if !search.enrolled && search.distance.is_finite() {
                let point = DetPoint {
                    threshold: search.distance,
                    fpir: passed / strangers,
                    fnir: 1.0 - found / people,
                };
                // Equal distances match together or not at all.
                if points
                    .last()
                    .is_none_or(|last| last.threshold < point.threshold)
                {
                    points.push(point);
                }
                passed += 1.0;
            } else if search.right {
                found += 1.0;
            }
        }
        points.push(DetPoint {
            threshold: f32::INFINITY,
            fpir: passed / strangers,
            fnir: 1.0 - found / people,
        });
        points
    }

    fn share(
        &self,
        sample: &Sample,
        of: impl Fn(&Search) -> bool,
        has: impl Fn(&Search) -> bool,
    ) -> f64 {
        let (mut hits, mut total) = (0.0, 0.0);
        for search in self.searches.iter().filter(|search| of(search)) {
            let weight = search.weight(sample);
            total += weight;
            hits += if has(search) { weight } else { 0.0 };
        }
        hits / total
    }
}

impl Search {
    /// All searches of a person are drawn together.
    fn weight(&self, sample: &Sample) -> f64 {
        sample.times[self.person as usize].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::estimate;
    use crate::{Metric, Templates};

    fn matching() -> Matching {
        Matching {
            metric: Metric::Euclidean,
            threshold: 0.5,
            band_below: 0.1,
            band_above: 0.1,
            min_margin: 0.0,
            linking: None,
            templates: Templates::Nearest,
            curve: Vec::new(),
            looks: Vec::new(),
        }
    }

    fn picture(person: u32, place: &[f32; 2]) -> Picture<'_> {
        Picture {
            person,
            embedding: place,
            quality: 1.0,
            looks: 1,
        }
    }

    /// Two people are enrolled at 0 and 10. Of their four pictures one is found at 0.1, one at 0.45
    /// and one not before 0.7; one has no face. Of four strangers one is 0.2 from an enrolled
    /// person, one 0.46, one 0.8 and one far away.
    fn searches(draw: [usize; 2]) -> Searches {
        let places = [[0.0, 1.0], [10.0, 1.0]];
        let gallery: Vec<_> = (0..)
            .zip(&places)
            .map(|(person, place)| picture(person, place))
            .collect();
        let asked = [
            (0, 0.1),
            (0, 0.45),
            (1, 9.3),
            (2, 0.2),
            (3, 10.46),
            (4, 9.2),
            (5, 50.0),
        ];
        let places: Vec<_> = asked.iter().map(|(_, place)| [*place, 1.0]).collect();
        let mut probes: Vec<_> = asked
            .iter()
            .zip(&places)
            .map(|((person, _), place)| picture(*person, place))
            .collect();
        probes.push(Picture {
            person: 1,
            embedding: &[],
            quality: 0.0,
            looks: 1,
        });
        Searches::of(&gallery, &probes, draw, &matching(), 0.5).unwrap()
    }

    fn all() -> Sample {
        Sample::everybody(6)
    }

    #[test]
    fn missed_people_and_named_strangers_are_counted() {
        let searches = searches([2, 5]);
        assert_eq!(
            (searches.galleries(), searches.pictures()),
            (1, 2),
            "everybody is enrolled: one draw"
        );
        assert_eq!((searches.count(true), searches.count(false)), (4, 4));
        let at = |threshold| {
            (
                searches.fpir(threshold, &all()),
                searches.fnir(threshold, &all()),
            )
        };
        assert_eq!(at(0.15), (0.0, 0.75));
        assert_eq!(at(0.5), (0.5, 0.5));
        assert_eq!(at(0.75), (0.5, 0.25));
        assert_eq!(
            at(f32::INFINITY),
            (1.0, 0.25),
            "a picture without a face is missed at any threshold"
        );
        assert_eq!(searches.rank_1(&all()), 0.75);
        let near = |a: f32, b: f32| (a - b).abs() < 1e-5;
        assert!(
            near(searches.threshold(0.0, &all()), 0.2)
                && near(searches.threshold(0.25, &all()), 0.46)
        );
        assert!(
            near(searches.threshold(0.5, &all()), 0.8)
                && searches.threshold(1.0, &all()).is_infinite()
        );
    }

    #[test]
    fn outcomes_are_those_of_the_lines() {
        // Known below 0.4, unknown above 0.6.
        let expected = Outcomes {
            strangers_known: 0.25,
            strangers_named: 0.5,
            known: 0.25,
            named: 0.5,
            mistaken: 0.0,
        };
        assert_eq!(
            searches([2, 1]).outcomes(Caution::Balanced, &all()),
            expected
        );
    }

    #[test]
    fn several_looks_are_judged_by_limits_of_their_own() {
        let matching = Matching {
            looks: vec![(4, 0.2)],
            ..matching()
        };
        let gallery = [picture(0, &[0.0, 1.0])];
        let mut probe = picture(0, &[0.3, 1.0]);
        let known = |probe: Picture| {
            let searches = Searches::of(&gallery, &[probe], [1, 1], &matching, 0.5).unwrap();
            searches.outcomes(Caution::Balanced, &all()).known
        };
        assert_eq!(known(probe), 1.0);
        probe.looks = 4;
        assert_eq!(known(probe), 0.0);
    }

    #[test]
    fn the_trade_off_has_a_point_for_each_stranger() {
        let points: Vec<_> = searches([2, 1])
            .det()
            .iter()
            .map(|point| (point.fpir, point.fnir))
            .collect();
        assert_eq!(
            points,
            [
                (0.0, 0.75),
                (0.25, 0.5),
                (0.5, 0.25),
                (0.75, 0.25),
                (1.0, 0.25)
            ]
        );
    }

    #[test]
    fn a_person_drawn_twice_counts_twice_and_groups_are_apart() {
        let searches = searches([2, 1]);
        // Person 0 counts twice and person 1 never: no search misses at 0.5.
        let sample = Sample {
            times: vec![2, 0, 1, 1, 3, 0],
        };
        assert_eq!(searches.fnir(0.5, &sample), 0.0);
        assert_eq!(searches.fpir(0.5, &sample), 0.4);
        let group = searches.about(|person| person == 1 || person > 3);
        assert_eq!(
            (group.fnir(0.75, &all()), group.fpir(0.75, &all())),
            (0.5, 0.0)
        );
        let found = estimate(6, |sample| searches.fnir(0.5, sample));
        assert!(
            found.value == 0.5 && found.low == 0.0 && found.high == 1.0,
            "{found:?}"
        );
    }

    #[test]
    fn those_who_are_not_drawn_are_strangers() {
        let searches = searches([1, 4]);
        assert_eq!((searches.galleries(), searches.pictures()), (4, 1));
        assert_eq!((searches.count(true), searches.count(false)), (2, 6));
        let again = super::tests::searches([1, 4]);
        assert_eq!(
            searches.searches, again.searches,
            "the draws are the same each time"
        );
    }
}
