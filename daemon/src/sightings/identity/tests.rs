//! Judgement of made-up looks against a small gallery.

use std::path::Path;

use kith_vision::Pack;

use super::*;
use crate::config::Judging;
use crate::store::{CounterExample, GalleryRow};

const ANNA: PersonId = 1;
const BERTA: PersonId = 2;
/// Lowest quality of a good look.
const GOOD: f32 = 0.5;

/// Returns a matcher that knows Anna and Berta, each by a direction of their own.
fn matcher(judging: Judging, counter_examples: Vec<CounterExample>) -> Matcher {
    let pack =
        Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/sface")).unwrap();
    let matcher = Matcher::new(&pack, judging);
    let rows = [(ANNA, "Anna"), (BERTA, "Berta")].map(|(person, name)| GalleryRow {
        person_image_id: person,
        person_id: person,
        name: name.into(),
        image_name: "1.jpg".into(),
        embedding: face(&[(person, 1.0)], 0),
    });
    matcher.replace(rows.into(), counter_examples);
    matcher
}

/// Returns a face of these cosines to these people, of unit length; `look` is its number, and what
/// is not of them is another direction for each.
fn face(people: &[(PersonId, f32)], look: usize) -> Vec<f32> {
    let mut face = vec![0.0; 128];
    for (person, cosine) in people {
        face[*person as usize] = *cosine;
    }
    let rest = 1.0 - face.iter().map(|value| value * value).sum::<f32>();
    face[20 + look] = rest.max(0.0).sqrt();
    face
}

fn template(faces: &[Vec<f32>]) -> Template {
    let mut template = Template::default();
    for face in faces {
        template.add(face, 0.9, GOOD);
    }
    template
}

fn judged(
    matcher: &Matcher,
    faces: &[Vec<f32>],
    present: Option<PersonId>,
) -> (Outcome, Option<PersonId>) {
    who(judge(matcher, &template(faces), present, &[])
        .unwrap()
        .as_ref())
}

fn who(judged: Option<&Judgement>) -> (Outcome, Option<PersonId>) {
    let judged = judged.unwrap();
    let person = judged.person.as_ref().map(|person| person.person_id);
    (judged.outcome, person)
}

#[test]
fn several_looks_name_a_face_that_none_does_alone() {
    let matcher = matcher(Judging::default(), Vec::new());
    let looks: Vec<_> = (0..4).map(|look| face(&[(ANNA, 0.35)], look)).collect();
    for look in &looks {
        assert_ne!(
            judged(&matcher, std::slice::from_ref(look), None).0,
            Outcome::Known
        );
    }
    assert_eq!(judged(&matcher, &looks, None), (Outcome::Known, Some(ANNA)));
}

#[test]
fn many_looks_at_an_unlike_face_name_nobody() {
    let matcher = matcher(Judging::default(), Vec::new());
    let looks: Vec<_> = (0..40).map(|look| face(&[(ANNA, 0.05)], look)).collect();
    assert_eq!(judged(&matcher, &looks, None), (Outcome::Unknown, None));
}

#[test]
fn poor_looks_name_nobody_and_yield_to_the_first_good_one() {
    let matcher = matcher(Judging::default(), Vec::new());
    let mut template = Template::default();
    for look in 0..50 {
        template.add(&face(&[(ANNA, 0.9)], look), 0.3, GOOD);
    }
    let judged = judge(&matcher, &template, None, &[]).unwrap();
    assert_eq!(who(judged.as_ref()), (Outcome::Uncertain, Some(ANNA)));
    template.add(&face(&[(BERTA, 0.9)], 0), 0.9, GOOD);
    template.add(&face(&[(ANNA, 0.9)], 0), 0.3, GOOD);
    let judged = judge(&matcher, &template, None, &[]).unwrap();
    assert_eq!(who(judged.as_ref()), (Outcome::Known, Some(BERTA)));
    assert_eq!((template.looks, template.worth()), (52, 1));
}

#[test]
fn a_known_person_stays_through_unclear_looks() {
    let matcher = matcher(Judging::default(), Vec::new());
    // Anna alone would be uncertain, and a little nearer to Berta.
    for looks in [[(ANNA, 0.4), (BERTA, 0.1)], [(ANNA, 0.55), (BERTA, 0.58)]] {
        let looks = [face(&looks, 0)];
        assert_ne!(judged(&matcher, &looks, None), (Outcome::Known, Some(ANNA)));
        assert_eq!(
            judged(&matcher, &looks, Some(ANNA)),
            (Outcome::Known, Some(ANNA))
        );
    }
}

#[test]
fn a_known_person_becomes_another_on_clear_evidence_only() {
    let matcher = matcher(Judging::default(), Vec::new());
    let anna = face(&[(ANNA, 0.55), (BERTA, 0.4)], 0);
    let berta = |look| face(&[(ANNA, 0.4), (BERTA, 0.8)], look);
    let mut looks = vec![anna];
    let mut present = judged(&matcher, &looks, None).1;
    assert_eq!(present, Some(ANNA));
    let mut names = Vec::new();
    for look in 1..=3 {
        looks.push(berta(look));
        present = judged(&matcher, &looks, present).1;
        names.push(present);
    }
    // By both looks Berta is nearer by 0.13.
    assert_eq!(names, [Some(BERTA); 3]);
    // The first of two people who look alike keeps the name, however many looks say otherwise.
    let alike: Vec<_> = (0..20)
        .map(|look| face(&[(ANNA, 0.55), (BERTA, 0.62)], look))
        .collect();
    assert_eq!(
        judged(&matcher, &alike, None),
        (Outcome::Known, Some(BERTA))
    );
    assert_eq!(
        judged(&matcher, &alike, Some(ANNA)),
        (Outcome::Known, Some(ANNA))
    );
}

#[test]
fn a_name_that_all_looks_refuse_is_lost() {
    let matcher = matcher(Judging::default(), Vec::new());
    let misnamed = face(&[(ANNA, 0.6)], 0);
    let stranger = (1..8).map(|look| face(&[(ANNA, 0.0)], look));
    let mut looks = vec![misnamed];
    assert_eq!(judged(&matcher, &looks, None), (Outcome::Known, Some(ANNA)));
    looks.extend(stranger);
    assert_eq!(
        judged(&matcher, &looks, Some(ANNA)),
        (Outcome::Unknown, None)
    );
}

#[test]
fn not_this_person_holds_for_all_looks() {
    let anna = |look| face(&[(ANNA, 0.8)], look);
    let counter_example = CounterExample {
        id: 1,
        person_id: ANNA,
        embedding: anna(0),
    };
    let matcher = matcher(Judging::default(), vec![counter_example]);
    let looks = [anna(0), anna(0), anna(1)];
    assert_eq!(
        judged(&matcher, &looks, Some(ANNA)),
        (Outcome::Unknown, None)
    );
}

#[test]
fn the_nearer_of_two_doubles_has_the_name() {
    let doubles = [0.6, 0.9].map(|cosine| template(&[face(&[(ANNA, cosine)], 0)]));
    let judge_both = |matcher: &Matcher, present: [Option<PersonId>; 2]| {
        let both = [(&doubles[0], present[0]), (&doubles[1], present[1])];
        let judged = judge_all(matcher, &both).unwrap();
        let taken = judged
            .iter()
            .map(|one| one.as_ref().unwrap().taken)
            .collect::<Vec<_>>();
        (
            judged
                .iter()
                .map(|one| who(one.as_ref()))
                .collect::<Vec<_>>(),
            taken,
        )
    };
    let once = matcher(Judging::default(), Vec::new());
    let known = (Outcome::Known, Some(ANNA));
    for present in [[None, None], [Some(ANNA), None]] {
        assert_eq!(
            judge_both(&once, present),
            (vec![(Outcome::Uncertain, None), known], vec![true, false])
        );
    }
    let judging = Judging {
        mirrors: true,
        ..Judging::default()
    };
    let twice = matcher(judging, Vec::new());
    assert_eq!(judge_both(&twice, [None, None]).0, [known, known]);
}

#[test]
fn the_name_stays_where_it_is_between_equal_doubles() {
    let matcher = matcher(Judging::default(), Vec::new());
    let doubles = [0.80, 0.81].map(|cosine| template(&[face(&[(ANNA, cosine)], 0)]));
    let both = [(&doubles[0], Some(ANNA)), (&doubles[1], None)];
    let judged = judge_all(&matcher, &both).unwrap();
    assert_eq!(who(judged[0].as_ref()), (Outcome::Known, Some(ANNA)));
}

#[test]
fn without_embeddings_nothing_is_judged() {
    let matcher = matcher(Judging::default(), Vec::new());
    let empty = Template::default();
    assert!(judge(&matcher, &empty, Some(ANNA), &[]).unwrap().is_none());
    assert!(judge_all(&matcher, &[(&empty, None)]).unwrap()[0].is_none());
}
