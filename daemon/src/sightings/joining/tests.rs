//! Joining of single pictures, with made-up embeddings. Streams of real faces: `kithd-bench
//! sightings`.

use kith_vision::{Caution, Templates};

use super::*;

const GAP_MS: i64 = 60_000;
/// Places of two people side by side.
const HERE: [f32; 4] = [100.0, 100.0, 200.0, 200.0];
const BESIDE: [f32; 4] = [300.0, 100.0, 400.0, 200.0];
const FAR: [f32; 4] = [1500.0, 100.0, 1600.0, 200.0];

fn rules(mirrors: bool) -> Rules {
    let matching = Matching {
        metric: Metric::Cosine,
        threshold: 0.62,
        band_below: 0.0,
        band_above: 0.0,
        min_margin: 0.0,
        linking: Some(0.52),
        templates: Templates::Mean,
        curve: Vec::new(),
        looks: Vec::new(),
    };
    assert!(matching.limits(Caution::Balanced, 1, 1).known_below > 0.6);
    Rules::new(
        &matching,
        0.5,
        Duration::from_millis(GAP_MS as u64),
        mirrors,
    )
}

/// Returns a look of this person, at this distance from their direction.
fn face(person: usize, distance: f32) -> Vec<f32> {
    let mut face = vec![0.0; 16];
    face[person] = 1.0 - distance;
    face[15] = (1.0 - face[person].powi(2)).sqrt();
    face
}

fn look(embedding: &[f32], bounds: [f32; 4], quality: f32) -> Look<'_> {
    Look {
        bounds,
        quality,
        embedding,
        outcome: Outcome::Unknown,
        person: None,
    }
}

/// Returns a sighting of one good look that came at 10 s.
fn open(person: usize, bounds: [f32; 4]) -> Open {
    let mut template = Template::default();
    template.add(&face(person, 0.0), 0.9, 0.5);
    Open {
        id: person as i64,
        began_came_ms: 10_000,
        last_came_ms: 10_000,
        bounds,
        template,
        outcome: Outcome::Unknown,
        person: None,
    }
}

fn join_one(open: &[Open], look: Look<'_>, came_ms: i64) -> Joined {
    join(&rules(false), open, &[look], came_ms)[0]
}

#[test]
fn a_face_joins_within_the_gap_wherever_it_is() {
    let open = [open(1, HERE)];
    let same = face(1, 0.5);
    for (came_ms, joined) in [
        (11_000, Joined::To(0)),
        (10_000 + GAP_MS, Joined::To(0)),
        (10_001 + GAP_MS, Joined::New),
        // A picture that came earlier and was held up.
        (9_000, Joined::To(0)),
        (9_999 - GAP_MS, Joined::New),
    ] {
        let look = look(&same, FAR, 0.9);
        assert_eq!(join_one(&open, look, came_ms), joined, "{came_ms}");
    }
}

#[test]
fn a_late_picture_joins_a_sighting_that_went_on() {
    let mut long = open(1, HERE);
    long.last_came_ms = 10_000 + 10 * GAP_MS;
    let same = face(1, 0.5);
    assert_eq!(
        join_one(&[long], look(&same, FAR, 0.9), 12_000),
        Joined::To(0)
    );
}

#[test]
fn a_place_helps_a_poor_look_but_makes_no_likeness() {
    let open = [open(1, HERE)];
    let [turned, other] = [0.66, 0.8].map(|distance| face(1, distance));
    for (look, came_ms, joined) in [
        (look(&turned, HERE, 0.4), 10_500, Joined::To(0)),
        (look(&turned, FAR, 0.4), 10_500, Joined::New),
        (look(&turned, HERE, 0.4), 20_000, Joined::New),
        (look(&other, HERE, 0.4), 10_500, Joined::Nowhere),
    ] {
        assert_eq!(join_one(&open, look, came_ms), joined, "{look:?}");
    }
}

#[test]
fn a_good_look_in_the_place_of_an_unlike_face_is_another() {
    let mut open = [open(1, HERE)];
    let [same, after_a_cut] = [0.6, 0.66].map(|distance| face(1, distance));
    for (face, joined) in [(&same, Joined::To(0)), (&after_a_cut, Joined::New)] {
        assert_eq!(join_one(&open, look(face, HERE, 0.9), 10_500), joined);
    }
    // Of poor looks alone less is known.
    open[0].template = Template::default();
    open[0].template.add(&face(1, 0.0), 0.4, 0.5);
    let good = look(&after_a_cut, HERE, 0.9);
    assert_eq!(join_one(&open, good, 10_500), Joined::To(0));
}

#[test]
fn a_poor_face_founds_nothing_beside_another() {
    let open = [open(1, HERE)];
    let [unlike, blur] = [face(2, 0.3), face(1, 0.68)];
    for (look, came_ms, joined) in [
        (look(&blur, HERE, 0.1), 10_500, Joined::To(0)),
        (look(&unlike, HERE, 0.4), 10_500, Joined::Nowhere),
        (look(&unlike, HERE, 0.4), 20_000, Joined::New),
        (look(&unlike, FAR, 0.4), 10_500, Joined::New),
        (look(&unlike, FAR, 0.1), 10_500, Joined::Nowhere),
        (look(&unlike, HERE, 0.6), 10_500, Joined::New),
    ] {
        assert_eq!(join_one(&open, look, came_ms), joined, "{look:?}");
    }
}

#[test]
fn two_people_side_by_side_do_not_exchange_faces() {
    let open = [open(1, HERE), open(2, BESIDE)];
    let [one, other] = [face(1, 0.5), face(2, 0.5)];
    // They changed places, and the second comes first in the picture.
    let looks = [look(&other, HERE, 0.9), look(&one, BESIDE, 0.9)];
    assert_eq!(
        join(&rules(false), &open, &looks, 11_000),
        [Joined::To(1), Joined::To(0)]
    );
}

#[test]
fn one_face_twice_in_a_picture_is_two_unless_there_are_mirrors() {
    let open = [open(1, HERE)];
    let double = face(1, 0.3);
    let looks = [look(&double, HERE, 0.9), look(&double, FAR, 0.9)];
    assert_eq!(
        join(&rules(false), &open, &looks, 11_000),
        [Joined::To(0), Joined::New]
    );
    assert_eq!(
        join(&rules(true), &open, &looks, 11_000),
        [Joined::To(0), Joined::To(0)]
    );
    // In the first picture only one of them founds a sighting.
    for (mirrors, second) in [(false, Joined::New), (true, Joined::Nowhere)] {
        let joined = join(&rules(mirrors), &[], &looks, 11_000);
        assert_eq!(joined, [Joined::New, second]);
    }
}

#[test]
fn two_known_people_share_no_sighting() {
    let mut open = [open(1, HERE)];
    (open[0].outcome, open[0].person) = (Outcome::Known, Some(7));
    let alike = face(1, 0.55);
    let known = |person, bounds| Look {
        outcome: Outcome::Known,
        person: Some(person),
        ..look(&alike, bounds, 0.9)
    };
    assert_eq!(join_one(&open, known(8, HERE), 10_500), Joined::New);
    // The same person does, even unlike the looks before.
    let unlike = face(2, 0.1);
    let same = Look {
        embedding: &unlike,
        ..known(7, FAR)
    };
    assert_eq!(join_one(&open, same, 40_000), Joined::To(0));
    // One face in its place that gets two names is still one face.
    let itself = face(1, 0.2);
    let misnamed = |bounds| Look {
        embedding: &itself,
        ..known(8, bounds)
    };
    assert_eq!(join_one(&open, misnamed(HERE), 10_500), Joined::To(0));
    assert_eq!(join_one(&open, misnamed(FAR), 10_500), Joined::New);
}

#[test]
fn faces_without_embeddings_join_by_person_or_place() {
    let mut open = [open(1, HERE)];
    open[0].template = Template::default();
    (open[0].outcome, open[0].person) = (Outcome::Known, Some(7));
    let named = |person, bounds| Look {
        outcome: Outcome::Known,
        person: Some(person),
        ..look(&[], bounds, 1.0)
    };
    assert_eq!(join_one(&open, named(7, FAR), 40_000), Joined::To(0));
    assert_eq!(join_one(&open, named(8, HERE), 10_500), Joined::New);
    assert_eq!(join_one(&open, look(&[], HERE, 1.0), 10_500), Joined::To(0));
    assert_eq!(join_one(&open, look(&[], HERE, 1.0), 40_000), Joined::New);
}
