//! Choice of the face to enrol, and the remarks on it.

use std::path::Path;

use super::*;

fn face(bounds: [f32; 4]) -> FoundFace {
    FoundFace {
        bounds,
        landmarks: [[0.0; 2]; 5],
        score: 1.0,
        quality: 1.0,
        objection: None,
        measures: None,
        embedding: vec![],
        crop: vec![],
    }
}

/// Faces of one picture, each with its embedding. Biden (1) is enrolled, and with `obama` also
/// Obama (2).
fn beside(obama: bool, faces: &[([f32; 4], [f32; 2])]) -> Vec<Beside> {
    let pack = kith_vision::Pack::load(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/dlib-mtcnn"),
    );
    let matcher = Matcher::new(&pack.unwrap(), Default::default());
    let long = |[x, y]: [f32; 2]| [vec![x, y], vec![0.0; matcher.dimension() - 2]].concat();
    let row = |person_id, name: &str, at| crate::store::GalleryRow {
        person_id,
        name: name.into(),
        person_image_id: person_id,
        image_name: format!("{name}.jpg"),
        embedding: long(at),
    };
    let mut rows = vec![row(1, "Biden", [1.0, 0.0])];
    rows.extend(obama.then(|| row(2, "Obama", [0.0, 1.0])));
    matcher.replace(rows, Vec::new());
    let beside = |(bounds, at): &([f32; 4], [f32; 2])| Beside {
        face: face(*bounds),
        resemblance: Resemblance::of(&matcher, &long(*at), obama.then_some(2)).unwrap(),
    };
    faces.iter().map(beside).collect()
}

const SMALL: [f32; 4] = [0.0, 0.0, 10.0, 10.0];
const LARGE: [f32; 4] = [70.0, 70.0, 99.0, 99.0];
const BIDEN: [f32; 2] = [0.9, 0.1];
const OBAMA: [f32; 2] = [0.1, 0.9];
const STRANGER: [f32; 2] = [-1.0, -1.0];

fn taken(faces: Vec<Beside>, anyway: bool) -> Result<([f32; 4], String), String> {
    let chosen = choose(faces, (100, 100), "Obama", anyway).map_err(|refused| refused.why)?;
    Ok((chosen.face.face.bounds, chosen.remark.unwrap_or_default()))
}

#[test]
fn of_several_faces_the_dominant_one_is_taken_and_said() {
    let faces = beside(false, &[(SMALL, STRANGER), (LARGE, OBAMA)]);
    let remark = "2 faces were found; the largest, lower right, was taken";
    assert_eq!(taken(faces, false).unwrap(), (LARGE, remark.into()));
}

#[test]
fn the_face_like_the_earlier_pictures_is_taken_however_small() {
    let faces = beside(
        true,
        &[
            (SMALL, OBAMA),
            (LARGE, BIDEN),
            ([20.0, 20.0, 60.0, 60.0], STRANGER),
        ],
    );
    let (bounds, remark) = taken(faces, false).unwrap();
    assert_eq!(bounds, SMALL);
    assert!(
        remark.contains("the one like the earlier pictures of Obama, upper left"),
        "{remark}"
    );
}

#[test]
fn a_face_of_somebody_else_is_never_taken_unless_told() {
    let group = [(SMALL, OBAMA), (LARGE, BIDEN)];
    let (bounds, remark) = taken(beside(false, &group), false).unwrap();
    assert_eq!(bounds, SMALL);
    assert!(
        remark.contains("nobody else's, upper left, was taken; not Biden (distance 0.14)"),
        "{remark}"
    );
    assert_eq!(taken(beside(false, &group), true).unwrap().0, LARGE);
    let two = [(SMALL, BIDEN), (LARGE, BIDEN)];
    let why = taken(beside(false, &two), false).unwrap_err();
    assert!(
        why.starts_with(
            "2 faces were found, and each is somebody else: Biden (distance 0.14), Biden"
        ),
        "{why}"
    );
    let alone = &beside(true, &[(LARGE, BIDEN)])[0].resemblance;
    assert_eq!(
        alone.objection("Obama").unwrap(),
        "this face is Biden (distance 0.14); enrol it as Biden"
    );
}

#[test]
fn faces_of_one_size_and_no_face_are_rejected_with_the_reason() {
    let faces = beside(
        false,
        &[(SMALL, STRANGER), ([50.0, 0.0, 61.0, 11.0], OBAMA)],
    );
    assert!(
        taken(faces, false)
            .unwrap_err()
            .contains("2 faces were found and none stands out")
    );
    assert_eq!(taken(vec![], false).unwrap_err(), "no face was found");
}

#[test]
fn what_the_earlier_pictures_say_is_remarked_or_refused() {
    let said = |at| {
        let resemblance = beside(true, &[(LARGE, at)]).remove(0).resemblance;
        (
            resemblance.objection("Obama"),
            resemblance.remarks("Obama").join("; "),
        )
    };
    let (objection, remarks) = said([0.0, 1.05]);
    assert_eq!(
        (objection, remarks.as_str()),
        (
            None,
            "it adds nothing: the same face as Obama.jpg, distance 0.05"
        )
    );
    assert_eq!(said([0.0, 1.3]), (None, String::new()));
    let (objection, remarks) = said([0.0, 1.5]);
    assert!(
        objection.is_none() && remarks.starts_with("it does not resemble the earlier pictures"),
        "{remarks}"
    );
    assert!(
        said([0.0, 2.0])
            .0
            .unwrap()
            .starts_with("this is another face than in the earlier pictures of Obama")
    );
}

#[test]
fn a_small_or_poor_face_is_a_weak_reference() {
    assert!(
        weakness(0.97, [0.0, 0.0, 45.0, 60.0])
            .unwrap()
            .contains("only 45 pixels wide")
    );
    assert!(
        weakness(0.7, [0.0, 0.0, 90.0, 99.0])
            .unwrap()
            .contains("0.70")
    );
    assert_eq!(weakness(0.9, [0.0, 0.0, 90.0, 99.0]), None);
}
