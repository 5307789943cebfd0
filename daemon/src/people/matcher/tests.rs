//! Judgement of faces against small galleries.

use std::path::Path;

use super::*;

#[test]
fn a_damaged_row_costs_that_row_only() {
    let pack =
        Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/dlib-mtcnn"))
            .unwrap();
    let matcher = Matcher::new(&pack, Judging::default());
    let good = pack.self_test().embedding.clone();
    let with = |value: f32| [&good[1..], &[value]].concat();
    let embeddings = [
        vec![],
        good[1..].to_vec(),
        vec![0.0; good.len()],
        with(f32::NAN),
        with(f32::INFINITY),
        good.clone(),
    ];
    let rows = embeddings
        .iter()
        .enumerate()
        .map(|(n, embedding)| GalleryRow {
            person_image_id: n as i64,
            person_id: n as i64 + 10,
            name: format!("P{n}"),
            image_name: "p.jpg".into(),
            embedding: embedding.clone(),
        });
    let examples = embeddings[..5]
        .iter()
        .enumerate()
        .map(|(n, embedding)| CounterExample {
            id: n as i64,
            person_id: 10,
            embedding: embedding.clone(),
        });
    let left_out = matcher.replace(rows.collect(), examples.collect());
    assert_eq!(
        left_out.pictures,
        [(10, 0), (11, 1), (12, 2), (13, 3), (14, 4)]
    );
    assert_eq!(left_out.counter_examples, [0, 1, 2, 3, 4]);
    let judged = matcher.judge(&good, 1.0, &[]).unwrap();
    assert_eq!(
        (judged.outcome, judged.person.unwrap().name.as_str()),
        (Outcome::Known, "P5")
    );
}

fn face(quality: f32, objection: Option<&str>, embedding: Vec<f32>) -> FoundFace {
    FoundFace {
        bounds: [0.0, 0.0, 9.0, 9.0],
        landmarks: [[1.0; 2]; 5],
        score: 1.0,
        quality,
        objection: objection.map(Into::into),
        measures: None,
        embedding,
        crop: Vec::new(),
    }
}

fn matcher(mirrors: bool, people: &[(PersonId, &str, Vec<f32>)]) -> Matcher {
    let pack =
        Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/dlib-mtcnn"))
            .unwrap();
    let matcher = Matcher::new(
        &pack,
        Judging {
            mirrors,
            ..Judging::default()
        },
    );
    let row = |(person_id, name, embedding): &(PersonId, &str, Vec<f32>)| GalleryRow {
        person_image_id: *person_id,
        person_id: *person_id,
        name: (*name).into(),
        image_name: format!("{name}.jpg"),
        embedding: embedding.clone(),
    };
    matcher.replace(people.iter().map(row).collect(), Vec::new());
    matcher
}

/// Embeddings on a line, so that distances are differences.
fn at(place: f32) -> Vec<f32> {
    [vec![place], vec![1.0; 127]].concat()
}

/// Outcome, name and distance of each face at a place, best first; and whether its objection
/// says that another face has the name.
fn named(matcher: &Matcher, places: &[(f32, f32)]) -> Vec<(Outcome, String, f32, bool)> {
    let found = places
        .iter()
        .map(|(place, quality)| face(*quality, None, at(*place)))
        .collect();
    let told = |face: IdentifiedFace| {
        let name = face.person.map(|person| person.name).unwrap_or_default();
        let taken = face
            .objection
            .is_some_and(|why| why.contains("Another face"));
        (
            face.outcome,
            name,
            (face.distance.unwrap_or(9.0) * 100.0).round() / 100.0,
            taken,
        )
    };
    matcher
        .identify(found)
        .unwrap()
        .into_iter()
        .map(told)
        .collect()
}

/// The reason does not depend on the engine giving one.
#[test]
fn a_face_too_poor_to_be_known_always_has_a_reason() {
    let matcher = matcher(false, &[(1, "Ann", at(0.0))]);
    let judged = |quality, objection| {
        let face = matcher
            .identify(vec![face(quality, objection, at(0.0))])
            .unwrap()
            .remove(0);
        (face.outcome, face.objection)
    };
    let poor = matcher.known_from() - 0.01;
    assert_eq!(judged(1.0, None), (Outcome::Known, None));
    assert_eq!(
        judged(poor, Some("It is dark.")),
        (Outcome::Uncertain, Some("It is dark.".into()))
    );
    let (outcome, reason) = judged(poor, None);
    assert_eq!(outcome, Outcome::Uncertain);
    assert!(
        reason.clone().unwrap_or_default().contains("too poor"),
        "{reason:?}"
    );
}

#[test]
fn a_person_is_at_most_once_in_a_picture() {
    use Outcome::{Known, Uncertain, Unknown};
    let alone = [(1, "Ann", at(0.0))];
    let name = |name: &str| name.to_string();
    // The nearest face gets the name, in any order. A mirror image is uncertain, a face that is
    // only similar is unknown.
    for places in [
        [(0.06, 1.0), (0.2, 1.0), (0.43, 1.0)],
        [(0.43, 1.0), (0.2, 1.0), (0.06, 1.0)],
    ] {
        let faces = named(&matcher(false, &alone), &places);
        let like = [
            (Uncertain, name(""), 0.2, true),
            (Unknown, name(""), 0.43, true),
        ];
        assert_eq!(
            faces,
            [[(Known, name("Ann"), 0.06, false)].as_slice(), &like].concat()
        );
    }
    let both = named(&matcher(true, &alone), &[(0.06, 1.0), (0.2, 1.0)]);
    assert_eq!(
        both,
        [
            (Known, name("Ann"), 0.06, false),
            (Known, name("Ann"), 0.2, false)
        ]
    );
    // Known goes before uncertain: a nearer but blurred face does not take the name away.
    let blurred = named(&matcher(false, &alone), &[(0.01, 0.3), (0.2, 1.0)]);
    assert_eq!(blurred[0], (Known, name("Ann"), 0.2, false));
    assert_eq!(
        (blurred[1].0, blurred[1].1.as_str(), blurred[1].3),
        (Uncertain, "", true)
    );
    // Both twins are enrolled, so each face has a name; a face farther from both gets the third
    // person's.
    let twins = [
        (1, "Ann", at(0.0)),
        (2, "Bea", at(0.3)),
        (3, "Cleo", at(0.5)),
    ];
    let faces = named(&matcher(false, &twins), &[(0.05, 1.0), (0.1, 1.0)]);
    assert_eq!(
        faces,
        [
            (Known, name("Ann"), 0.05, false),
            (Known, name("Bea"), 0.2, true)
        ]
    );
    let faces = named(
        &matcher(false, &twins),
        &[(0.0, 1.0), (0.01, 1.0), (0.26, 1.0)],
    );
    let names: Vec<_> = faces.iter().map(|face| (face.0, face.1.as_str())).collect();
    assert_eq!(names, [(Known, "Ann"), (Known, "Bea"), (Uncertain, "")]);
}

#[test]
fn candidates_stay_whoever_has_the_name() {
    let twins = matcher(false, &[(1, "Ann", at(0.0)), (2, "Bea", at(0.3))]);
    let found = [0.05, 0.1].map(|place| face(1.0, None, at(place))).to_vec();
    let candidates = twins.identify(found).unwrap().remove(1).candidates;
    assert_eq!(
        candidates
            .iter()
            .map(|one| one.name.as_str())
            .collect::<Vec<_>>(),
        ["Ann", "Bea"]
    );
}
