//! The right person on every labelled photograph: each person is enrolled from one picture and
//! looked for in the others, when the labelled photographs are beside the repository. And nobody
//! known by a reference that shows too little of a face.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{TestDaemon, photo, shared_faces};

fn answers(daemon: &TestDaemon, pictures: &[PathBuf]) -> Vec<Value> {
    let mut arguments = vec!["identify".into(), "--json".into()];
    arguments.extend(pictures.iter().map(|path| path.display().to_string()));
    let output = daemon.kithd(arguments);
    let lines = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        answers.len(),
        pictures.len(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    answers
}

fn folder(path: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    entries
}

/// Pictures that may be answered otherwise, each with its reason; everything else must be right.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "labelled/bbt_howard/5.png",
        "150 pixels of face, cut by the picture's edge: the detector finds none",
    ),
    (
        "labelled/bbt_stuart/5.png",
        "half profile cut by the picture's edge: the detector finds none",
    ),
    (
        "labelled/idol_eunseo/1.jpg",
        "young East Asian women, on whom the recogniser is less accurate",
    ),
    (
        "labelled/idol_eunseo/2.jpg",
        "the same: nearest to herself, not near enough",
    ),
    (
        "labelled/idol_jimin/4.jpg",
        "the same: nearest to herself, not near enough",
    ),
    (
        "labelled/lfw_fernando_vargas/2.jpg",
        "swollen face after a fight",
    ),
];

#[test]
fn all_are_found_in_their_other_pictures_and_none_is_confused() {
    let Some(faces) = shared_faces() else { return };
    let mut daemon = TestDaemon::new();
    daemon.start();
    let mut others = Vec::new();
    for person in folder(&faces.join("labelled")) {
        let name = person.file_name().unwrap().to_str().unwrap().to_string();
        let mut pictures = folder(&person);
        // The first usable picture is enrolled; the others are identified.
        let enrolled = pictures.iter().position(|picture| {
            let output = daemon.kithd([
                "enroll",
                "--person",
                &name,
                "--anyway",
                picture.to_str().unwrap(),
            ]);
            output.status.success()
        });
        pictures
            .remove(enrolled.unwrap_or_else(|| panic!("no picture of {name} could be enrolled")));
        others.extend(pictures.into_iter().map(|path| (name.clone(), path)));
    }
    let paths: Vec<_> = others.iter().map(|(_, path)| path.clone()).collect();
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for ((name, path), answer) in others.iter().zip(answers(&daemon, &paths)) {
        let faces = answer["faces"].as_array().cloned().unwrap_or_default();
        let named = |outcome: &str| {
            faces
                .iter()
                .any(|f| f["outcome"] == outcome && f["person"]["name"] == *name)
        };
        let verdict = if named("known") {
            "right"
        } else if named("uncertain") {
            "right, uncertain"
        } else if faces.is_empty() {
            "no face"
        } else if answer["outcome"] == "known" {
            "another person"
        } else {
            "not known"
        };
        *tally.entry(verdict).or_default() += 1;
        let short = path
            .strip_prefix(faces_root(path))
            .unwrap_or(path)
            .display()
            .to_string();
        if !verdict.starts_with("right") && !EXCEPTIONS.iter().any(|(file, _)| *file == short) {
            let best = &faces.first().cloned().unwrap_or_default()["candidates"][0];
            wrong.push(format!("{short}: {verdict}, nearest {best}"));
        }
    }
    println!("{} pictures: {tally:?}", others.len());
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn labeled_faces_in_the_wild_are_told_apart_in_both_precisions() {
    let Some(faces) = shared_faces() else { return };
    let pairs = faces.join("lfw-dev/pairs.csv");
    let daemon = TestDaemon::new();
    let int8 = [
        "--set",
        "models.precision=int8",
        "eval",
        "--against",
        "float32",
        "--json",
        "--pairs",
    ];
    let output = daemon.kithd(int8.into_iter().chain(pairs.to_str()));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{found}");
    assert_eq!(found["misses"], 0);
    let float32 = found["against"]["accuracy"].as_f64().unwrap();
    let difference = found["against"]["accuracy_difference"].as_f64().unwrap();
    assert!(float32 >= 0.99, "float32: {float32}");
    assert!(
        difference.abs() <= 0.003 + 1e-9,
        "int8 is {difference} from float32's {float32}"
    );
}

/// The pack lies in a folder that the configuration names.
#[test]
fn another_model_pack_runs_and_takes_the_gallery_over() {
    let Some(faces) = shared_faces() else { return };
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    daemon.stop();
    let pack = daemon.folder.path().join("pack");
    std::fs::create_dir(&pack).unwrap();
    for source in [
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/yunet-intel0095"),
        faces.join("../models"),
    ] {
        for file in folder(&source) {
            std::fs::copy(&file, pack.join(file.file_name().unwrap())).unwrap();
        }
    }
    daemon.set("models.pack", pack.to_str().unwrap());
    daemon.set("models.precision", "float32"); // this pack has no other
    daemon.start();
    for (picture, name) in [
        ("obama_2.jpg", "Barack Obama"),
        ("biden_2.jpg", "Joe Biden"),
        ("astronaut_2.jpg", "Eileen Collins"),
    ] {
        let image = daemon.ended(daemon.post_path(&daemon.put(picture, picture)));
        assert_eq!(image["persons"], serde_json::json!([name]), "{image}");
        assert!(
            image["engine"].as_str().unwrap().contains("yunet"),
            "{image}"
        );
    }
}

#[test]
fn in_group_pictures_faces_get_boxes_and_the_enrolled_names() {
    let Some(faces) = shared_faces() else { return };
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let people = daemon.kithd([
        "enroll",
        "--anyway",
        "--folder",
        faces.join("labelled").to_str().unwrap(),
    ]);
    assert!(people.status.success());
    let groups: Vec<Value> =
        serde_json::from_slice(&std::fs::read(faces.join("groups/groups.json")).unwrap()).unwrap();
    let paths: Vec<_> = groups
        .iter()
        .map(|group| faces.join("groups").join(group["file"].as_str().unwrap()))
        .collect();
    let names = [("barack_obama", "Barack Obama"), ("joe_biden", "Joe Biden")];
    // These groups have faces smaller than the 40 pixels the pack looks for.
    let miscounted = ["dlib_2008_002079.jpg", "crowd_ultra_25.jpg"];
    let (mut counted, mut named) = (0, 0);
    for (group, answer) in groups.iter().zip(answers(&daemon, &paths)) {
        let file = group["file"].as_str().unwrap();
        let found = answer["faces"].as_array().unwrap();
        let (least, most) = (
            group["faces"].as_u64().unwrap(),
            group["faces_max"].as_u64().unwrap(),
        );
        let right = (least..=most).contains(&(found.len() as u64));
        counted += usize::from(right);
        assert!(
            right || miscounted.contains(&file),
            "{file}: {} faces, not {least} to {most}",
            found.len()
        );
        for who in group["who"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            let name = names
                .iter()
                .find(|(label, _)| *label == who)
                .map_or(who, |(_, name)| name);
            if who == "kit_harington" {
                continue; // there is no other picture of him to enrol
            }
            assert!(
                found.iter().any(|face| face["person"]["name"] == name),
                "{file}: {name} was not found"
            );
            named += 1;
        }
    }
    println!(
        "{counted} of {} groups counted right, {named} people named",
        groups.len()
    );
}

#[test]
fn difficult_pictures_name_the_right_person_and_no_phantom() {
    let Some(faces) = shared_faces() else { return };
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let people = daemon.kithd([
        "enroll",
        "--anyway",
        "--folder",
        faces.join("labelled").to_str().unwrap(),
    ]);
    assert!(people.status.success());
    let hard: Vec<Value> =
        serde_json::from_slice(&std::fs::read(faces.join("hard/hard.json")).unwrap()).unwrap();
    let paths: Vec<_> = hard
        .iter()
        .map(|row| faces.join("hard").join(row["file"].as_str().unwrap()))
        .collect();
    let exceptions = [
        ("dark_x0.04.jpg", "four per cent of the light"),
        ("blur_10.jpg", "blurred beyond recognition"),
        (
            "tiny_face_12px_in_1080p.jpg",
            "12 pixels; the pack looks for 40 and more",
        ),
        ("occluded_half.jpg", "half the face is covered"),
        (
            "profile_04_lfw_britney_spears.jpg",
            "a profile: not alike enough",
        ),
    ];
    let mut named = 0;
    for (row, answer) in hard.iter().zip(answers(&daemon, &paths)) {
        let file = row["file"].as_str().unwrap();
        let label = row["identity"].as_str().unwrap_or("unlabelled");
        let name = if label == "barack_obama" {
            "Barack Obama"
        } else {
            label
        };
        let found = answer["faces"].as_array().cloned().unwrap_or_default();
        let known: Vec<_> = found
            .iter()
            .filter(|face| face["outcome"] == "known")
            .collect();
        let enrolled = name == "Barack Obama" || faces.join("labelled").join(name).is_dir();
        if !enrolled || answer["state"] == "failed" {
            continue; // einstein and a few others have no other picture
        }
        let right = found.iter().any(|face| face["person"]["name"] == name);
        assert!(
            right || exceptions.iter().any(|(excused, _)| *excused == file),
            "{file}: {name} was not found"
        );
        let wrong: Vec<_> = known
            .iter()
            .filter(|face| face["person"]["name"] != name)
            .collect();
        let one_face = row["faces"] == 1; // others have people in the background
        assert!(
            wrong.is_empty() || !right || !one_face,
            "{file}: beside {name} another person is called known: {wrong:?}"
        );
        named += usize::from(right);
    }
    println!("{named} difficult pictures named right");
    assert!(named > 30, "only {named}");
}

#[test]
fn no_face_is_seen_in_scenes_objects_and_animals() {
    let Some(faces) = shared_faces() else { return };
    let daemon = TestDaemon::new();
    let scenes = folder(&faces.join("noface"));
    for (path, answer) in scenes.iter().zip(answers(&daemon, &scenes)) {
        let tricky = path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("tricky_");
        assert!(
            tricky || answer["outcome"] == "no_face",
            "{}: {answer}",
            path.display()
        );
    }
}

fn faces_root(path: &Path) -> &Path {
    path.ancestors().nth(3).unwrap()
}

/// Strangers: the other bundled portraits, and the shared ones if they are there.
#[test]
fn a_bad_reference_is_refused_or_matches_no_stranger() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let whole = image::open(photo("obama_1.jpg")).unwrap();
    let (width, height) = (whole.width(), whole.height());
    let scale = 45.0 / f64::from(width.min(height));
    let small = whole.thumbnail(
        (f64::from(width) * scale) as u32,
        (f64::from(height) * scale) as u32,
    );
    let mut enrolled = 0;
    for (name, reference) in [
        ("Blurred", whole.blur(6.0)),
        ("Half", whole.crop_imm(0, 0, width / 2, height)),
        (
            "Lower half",
            whole.crop_imm(0, height / 2, width, height / 2),
        ),
        ("Small", small),
    ] {
        let path = daemon.folder.path().join(format!("{name}.png"));
        reference.save(&path).unwrap();
        let output = daemon.kithd([
            "enroll",
            "--person",
            name,
            "--anyway",
            path.to_str().unwrap(),
        ]);
        println!("{name}: {}", crate::support::text(&output));
        enrolled += usize::from(output.status.success());
    }
    let mut strangers: Vec<_> = [
        "biden_1.jpg",
        "biden_2.jpg",
        "astronaut_1.jpg",
        "astronaut_2.jpg",
        "noface.jpg",
    ]
    .map(photo)
    .to_vec();
    if let Some(faces) = shared_faces() {
        let every = if crate::support::full() { 1 } else { 4 };
        strangers.extend(folder(&faces.join("singles")).into_iter().step_by(every));
    }
    for (path, answer) in strangers.iter().zip(answers(&daemon, &strangers)) {
        assert_ne!(answer["outcome"], "known", "{}: {answer}", path.display());
    }
    println!(
        "{enrolled} bad references enrolled, {} strangers",
        strangers.len()
    );
}
