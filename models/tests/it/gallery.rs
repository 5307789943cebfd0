//! The gallery against a plain search, and the judgement around its limits.

use std::collections::BTreeMap;

use kith_vision::{
    Candidate, Caution, Gallery, Limits, Matching, Metric, Outcome, Pack, Templates, VisionError,
};

use crate::shared::crate_folder;

/// A small generator with a fixed seed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn embedding(&mut self, dimension: usize) -> Vec<f32> {
        (0..dimension)
            .map(|_| self.next() as f32 / (1_u64 << 30) as f32 - 1.0)
            .collect()
    }
}

fn plain_distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let sum = |f: fn(f64, f64) -> f64| {
        a.iter()
            .zip(b)
            .map(|(x, y)| f(f64::from(*x), f64::from(*y)))
            .sum::<f64>()
    };
    match metric {
        Metric::Euclidean => sum(|x, y| (x - y) * (x - y)).sqrt(),
        Metric::Cosine => 1.0 - sum(|x, y| x * y) / (sum(|x, _| x * x) * sum(|_, y| y * y)).sqrt(),
    }
}

#[test]
fn nearest_agrees_with_a_plain_search_for_any_size_and_metric() {
    let mut random = Random(7);
    for round in 0..120 {
        let metric = if round % 2 == 0 {
            Metric::Euclidean
        } else {
            Metric::Cosine
        };
        let dimension = 2 + (random.next() % 140) as usize;
        let people = 1 + random.next() % 30;
        let mut gallery = Gallery::new(metric, dimension);
        let mut rows = Vec::new();
        for picture in 0..(random.next() % 90) as i64 {
            let (person, embedding) = (
                (random.next() % people) as i64 - 5,
                random.embedding(dimension),
            );
            gallery.push(person, picture, &embedding).unwrap();
            rows.push((person, picture, embedding));
        }
        let probe = random.embedding(dimension);
        let mut best: BTreeMap<i64, (f64, i64)> = BTreeMap::new();
        for (person, picture, embedding) in &rows {
            let distance = plain_distance(metric, &probe, embedding);
            let entry = best.entry(*person).or_insert((f64::INFINITY, 0));
            if distance < entry.0 {
                *entry = (distance, *picture);
            }
        }
        let mut expected: Vec<_> = best
            .into_iter()
            .map(|(person, (distance, picture))| (distance, person, picture))
            .collect();
        expected.sort_by(|a, b| a.0.total_cmp(&b.0));
        let top = (random.next() % 40) as usize;
        let found = gallery.nearest(&probe, top).unwrap();
        assert_eq!(found.len(), top.min(expected.len()), "round {round}");
        assert_eq!(
            (gallery.len(), gallery.is_empty()),
            (rows.len(), rows.is_empty())
        );
        for (candidate, (distance, person, picture)) in found.iter().zip(&expected) {
            assert!(
                (f64::from(candidate.distance) - distance).abs() < 1e-4,
                "round {round}: {candidate:?} {distance}"
            );
            assert_eq!(
                (candidate.person, candidate.picture),
                (*person, *picture),
                "round {round}"
            );
        }
    }
}

#[test]
fn an_enrolled_picture_is_found_at_distance_zero() {
    let mut random = Random(3);
    for metric in [Metric::Euclidean, Metric::Cosine] {
        let mut gallery = Gallery::new(metric, 128);
        let embeddings: Vec<_> = (0..200).map(|_| random.embedding(128)).collect();
        for (i, embedding) in embeddings.iter().enumerate() {
            gallery.push(i as i64 / 4, i as i64, embedding).unwrap();
        }
        for (i, embedding) in embeddings.iter().enumerate() {
            let first = gallery.nearest(embedding, 1).unwrap()[0];
            assert_eq!((first.person, first.picture), (i as i64 / 4, i as i64));
            assert!(first.distance < 1e-6);
        }
    }
}

#[test]
fn cosine_does_not_see_the_length_of_an_embedding() {
    let mut random = Random(11);
    let (a, b) = (random.embedding(64), random.embedding(64));
    let scaled: Vec<f32> = a.iter().map(|v| v * 37.0).collect();
    let mut gallery = Gallery::new(Metric::Cosine, 64);
    gallery.push(1, 1, &a).unwrap();
    let near = |probe: &[f32]| gallery.nearest(probe, 1).unwrap()[0].distance;
    assert!(near(&scaled).abs() < 1e-6);
    assert!((Metric::Cosine.distance(&a, &b) - Metric::Cosine.distance(&scaled, &b)).abs() < 1e-6);
}

#[test]
fn of_equal_distances_the_earlier_enrolled_comes_first() {
    let mut gallery = Gallery::new(Metric::Euclidean, 2);
    for person in [9, 4, 6] {
        gallery.push(person, person * 10, &[1.0, 0.0]).unwrap();
    }
    let order: Vec<i64> = gallery
        .nearest(&[0.0, 1.0], 2)
        .unwrap()
        .iter()
        .map(|c| c.person)
        .collect();
    assert_eq!(order, [9, 4]);
}

#[test]
fn embeddings_that_cannot_be_compared_are_refused() {
    let mut gallery = Gallery::new(Metric::Euclidean, 3);
    assert!(matches!(
        gallery.push(1, 1, &[1.0, 2.0]),
        Err(VisionError::Dimension {
            expected: 3,
            found: 2
        })
    ));
    assert!(matches!(
        gallery.push(1, 1, &[1.0, f32::NAN, 0.0]),
        Err(VisionError::NotAnEmbedding { .. })
    ));
    assert!(matches!(
        gallery.push(1, 1, &[0.0; 3]),
        Err(VisionError::NotAnEmbedding { .. })
    ));
    assert!(matches!(
        gallery.nearest(&[f32::INFINITY; 3], 1),
        Err(VisionError::NotAnEmbedding { .. })
    ));
    assert!(gallery.is_empty() && gallery.nearest(&[1.0; 3], 5).unwrap().is_empty());
}

#[test]
fn ten_thousand_embeddings_are_searched_in_a_few_milliseconds() {
    let mut random = Random(5);
    let mut gallery = Gallery::new(Metric::Euclidean, 128);
    for i in 0..10_000 {
        gallery.push(i / 5, i, &random.embedding(128)).unwrap();
    }
    let probe = random.embedding(128);
    let quickest = (0..20).map(|_| {
        let started = std::time::Instant::now();
        assert_eq!(gallery.nearest(&probe, 5).unwrap().len(), 5);
        started.elapsed()
    });
    let quickest = quickest.min().unwrap();
    println!("10 000 embeddings: {quickest:?}");
    assert!(quickest.as_millis() < 20, "{quickest:?}");
}

fn matching() -> Matching {
    Matching {
        metric: Metric::Euclidean,
        threshold: 0.6,
        band_below: 0.05,
        band_above: 0.03,
        min_margin: 0.04,
        linking: None,
        templates: Templates::Nearest,
        curve: Vec::new(),
        looks: Vec::new(),
    }
}

fn limits() -> Limits {
    matching().limits(Caution::Balanced, 1, 1)
}

fn at(distances: &[f32]) -> Vec<Candidate> {
    (0_i64..)
        .zip(distances)
        .map(|(i, &distance)| Candidate {
            person: 7 + i,
            picture: i,
            distance,
        })
        .collect()
}

#[test]
fn a_face_is_known_below_the_band_uncertain_in_it_else_unknown() {
    for (distance, outcome) in [
        (0.0, Outcome::Known),
        (0.549, Outcome::Known),
        (0.551, Outcome::Uncertain),
        (0.6, Outcome::Uncertain),
        (0.629, Outcome::Uncertain),
        (0.631, Outcome::Unknown),
    ] {
        let verdict = limits().judge(&at(&[distance]));
        assert_eq!(
            (verdict.outcome, verdict.distance, verdict.margin),
            (outcome, Some(distance), None)
        );
        assert_eq!(verdict.person, (outcome != Outcome::Unknown).then_some(7));
    }
}

#[test]
fn a_second_person_nearly_as_near_makes_a_known_face_uncertain() {
    assert_eq!(
        limits().judge(&at(&[0.4, 0.43])).outcome,
        Outcome::Uncertain
    );
    assert_eq!(limits().judge(&at(&[0.4, 0.45])).outcome, Outcome::Known);
    assert_eq!(limits().judge(&at(&[0.9, 0.91])).outcome, Outcome::Unknown);
}

#[test]
fn nobody_enrolled_makes_everybody_unknown() {
    let verdict = limits().judge(&[]);
    assert_eq!(
        (verdict.outcome, verdict.person, verdict.distance),
        (Outcome::Unknown, None, None)
    );
}

/// Embeddings as in practice: people around a common face, pictures around their people, and some
/// outliers.
fn likely(random: &mut Random, dimension: usize, people: &[Vec<f32>]) -> Vec<f32> {
    let noise = random.embedding(dimension);
    match random.next() % 8 {
        0 => noise,
        // A picture that occurs twice, and one close to zero.
        1 => people[random.next() as usize % people.len()].clone(),
        2 => noise.iter().map(|value| value * 1e-4).collect(),
        _ => {
            let person = &people[random.next() as usize % people.len()];
            person
                .iter()
                .zip(&noise)
                .map(|(person, noise)| person + 0.05 * noise)
                .collect()
        }
    }
}

#[test]
fn the_quick_search_finds_to_the_bit_what_the_plain_one_finds() {
    let mut random = Random(23);
    for round in 0..150 {
        let metric = if round % 2 == 0 {
            Metric::Euclidean
        } else {
            Metric::Cosine
        };
        let dimension = if round % 3 == 0 {
            128
        } else {
            1 + (random.next() % 600) as usize
        };
        let people: Vec<_> = (0..1 + random.next() % 40)
            .map(|_| random.embedding(dimension))
            .collect();
        let templates = if round % 4 < 2 {
            Templates::Mean
        } else {
            Templates::Nearest
        };
        let mut gallery = Gallery::of(
            &Matching {
                metric,
                templates,
                ..matching()
            },
            dimension,
        );
        for picture in 0..(random.next() % 1500) as i64 {
            let embedding = likely(&mut random, dimension, &people);
            // Any person may get any picture, because equal distances are where an order could go
            // wrong.
            gallery
                .push((random.next() % 30) as i64, picture, &embedding)
                .unwrap();
        }
        for _ in 0..4 {
            let (probe, top) = (
                likely(&mut random, dimension, &people),
                (random.next() % 6) as usize,
            );
            let (found, plain) = (
                gallery.nearest(&probe, top).unwrap(),
                gallery.nearest_plainly(&probe, top).unwrap(),
            );
            assert_eq!(found, plain, "round {round}, dimension {dimension}");
            assert!(
                found
                    .iter()
                    .zip(&plain)
                    .all(|(a, b)| a.distance.to_bits() == b.distance.to_bits())
            );
        }
    }
}

fn by_mean(threshold: f32) -> Matching {
    Matching {
        metric: Metric::Cosine,
        threshold,
        templates: Templates::Mean,
        ..matching()
    }
}

/// Returns a direction that is `share` of a person and otherwise random.
fn embedding_like(random: &mut Random, person: &[f32], share: f32) -> Vec<f32> {
    let noise = random.embedding(person.len());
    let length = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>().sqrt();
    let (person_length, noise_length) = (length(person), length(&noise));
    let rest = (1.0 - share * share).sqrt();
    person
        .iter()
        .zip(&noise)
        .map(|(p, n)| share * p / person_length + rest * n / noise_length)
        .collect()
}

#[test]
fn pictures_that_are_alike_are_compared_by_their_mean() {
    let mut gallery = Gallery::of(&by_mean(0.6), 2);
    gallery.push(1, 10, &[1.0, 0.2]).unwrap();
    gallery.push(1, 11, &[2.0, -0.4]).unwrap();
    let found = gallery.nearest(&[3.0, -0.1], 1).unwrap();
    let cosine = 3.0 / (9.0_f32 + 0.01).sqrt();
    assert!(
        (found[0].distance - (1.0 - cosine)).abs() < 1e-6,
        "whatever their lengths: {found:?}"
    );
    assert_eq!(
        (found[0].person, found[0].picture),
        (1, 11),
        "and the nearest picture is named"
    );
    assert_eq!(found, gallery.nearest_plainly(&[3.0, -0.1], 1).unwrap());
    assert_eq!(
        gallery.nearest_of_person(&[3.0, -0.1], 1).unwrap(),
        Some(found[0])
    );
    assert_eq!(gallery.nearest_of_person(&[3.0, -0.1], 2).unwrap(), None);
    assert_eq!(gallery.len(), 2);
}

#[test]
fn a_wrong_picture_among_good_ones_spoils_no_mean() {
    let mut random = Random(31);
    let (person, other) = (random.embedding(128), random.embedding(128));
    for wrong_first in [false, true] {
        let [mut good, mut spoilt] = [(), ()].map(|()| Gallery::of(&by_mean(0.6), 128));
        let wrong = embedding_like(&mut random, &other, 0.8);
        if wrong_first {
            spoilt.push(1, 0, &wrong).unwrap();
        }
        for picture in 1..5 {
            let of_person = embedding_like(&mut random, &person, 0.8);
            good.push(1, picture, &of_person).unwrap();
            spoilt.push(1, picture, &of_person).unwrap();
        }
        if !wrong_first {
            spoilt.push(1, 5, &wrong).unwrap();
        }
        let probe = embedding_like(&mut random, &person, 0.8);
        assert_eq!(
            good.nearest(&probe, 1).unwrap()[0].distance,
            spoilt.nearest(&probe, 1).unwrap()[0].distance
        );
    }
}

#[test]
fn more_pictures_of_a_person_name_no_more_strangers() {
    // For random directions of 128 numbers, the cosine of two has a standard deviation of 1 /
    // sqrt(128).
    let tail = [
        (1e-2, 0.794),
        (1e-3, 0.727),
        (1e-4, 0.671),
        (1e-5, 0.623),
        (1e-6, 0.580),
    ];
    let matching = Matching {
        curve: tail.to_vec(),
        looks: Vec::new(),
        ..by_mean(0.6)
    };
    let mut random = Random(37);
    let people: Vec<_> = (0..200).map(|_| random.embedding(128)).collect();
    let strangers: Vec<_> = (0..3000).map(|_| random.embedding(128)).collect();
    let named = |pictures: usize, random: &mut Random| {
        let mut gallery = Gallery::of(&matching, 128);
        for (id, person) in (0..).zip(&people) {
            for _ in 0..pictures {
                gallery
                    .push(id, 0, &embedding_like(random, person, 0.8))
                    .unwrap();
            }
        }
        let limits = matching.limits(Caution::Balanced, gallery.len(), 1);
        let outcome = |face: &Vec<f32>| limits.judge(&gallery.nearest(face, 2).unwrap()).outcome;
        strangers
            .iter()
            .filter(|face| outcome(face) != Outcome::Unknown)
            .count()
    };
    let [one, two, four] = [1, 2, 4].map(|pictures| named(pictures, &mut random));
    assert!(
        (30..=100).contains(&one),
        "{one} of 3000 strangers are named, 2 % are allowed"
    );
    assert!(
        two <= one && four <= two,
        "{one}, {two}, {four} of 3000 strangers are named"
    );
}

/// The pack `sface` says how near strangers come: their cosines have a mean of 0.11 and a standard
/// deviation of 0.088. Directions of 116 numbers, random but for a part that all share, do the
/// same; the cosine of two looks at one of them is 0.69, as of two photographs of a person.
#[test]
fn more_looks_at_a_stranger_name_no_more_strangers() {
    let pack = Pack::load(&crate_folder().join("packs/sface")).unwrap();
    let matching = pack.matching();
    let mut random = Random(11);
    let shared = random.embedding(116);
    let mut people = |count| -> Vec<_> {
        let person = |_| embedding_like(&mut random, &shared, 0.4);
        (0..count).map(person).collect()
    };
    let (enrolled, strangers) = (people(300), people(6000));
    let mut gallery = Gallery::of(matching, 116);
    for (id, person) in (0..).zip(&enrolled) {
        let picture = embedding_like(&mut random, person, 0.83);
        gallery.push(id, id, &picture).unwrap();
    }
    let mut named = |looks: u32, counted: u32| {
        let limits = matching.limits(Caution::Balanced, gallery.len(), counted);
        let mut is_named = |person: &Vec<f32>| {
            let mut mean = vec![0.0; 116];
            for _ in 0..looks {
                let look = embedding_like(&mut random, person, 0.83);
                mean.iter_mut()
                    .zip(look)
                    .for_each(|(sum, look)| *sum += look);
            }
            limits.judge(&gallery.nearest(&mean, 2).unwrap()).outcome != Outcome::Unknown
        };
        strangers.iter().filter(|person| is_named(person)).count()
    };
    // 2 % may be named.
    let single = named(1, 1);
    assert!((60..=120).contains(&single), "{single} of 6000");
    for looks in [2, 3, 4, 8, 20] {
        let (several, as_single) = (named(looks, looks), named(looks, 1));
        assert!(
            several <= 120 && several < as_single,
            "{several} of 6000 by {looks} looks, {as_single} if judged as one"
        );
    }
}
