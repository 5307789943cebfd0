//! Detection tests: turned pictures, faces of 20 pixels, groups with every face known, and scenes
//! without faces.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kith_vision::{Bounds, Face, Pack, Precision, Rgb, Search, Vision};

use crate::shared::{
    SEARCH, analyse, both, bundled, bundled_pack, crate_folder, decode, load, placed, read, second,
    shared,
};

/// Clockwise turns of a picture, in degrees.
const TURNS: [u32; 3] = [90, 180, 270];

fn self_test_picture() -> Rgb {
    decode(
        &Pack::load(&bundled_pack())
            .unwrap()
            .self_test_picture()
            .unwrap(),
    )
}

fn image(picture: &Rgb) -> image::RgbImage {
    image::RgbImage::from_raw(
        picture.width as u32,
        picture.height as u32,
        picture.pixels.clone(),
    )
    .unwrap()
}

fn rgb(image: image::RgbImage) -> Rgb {
    Rgb::new(
        image.width() as usize,
        image.height() as usize,
        image.into_raw(),
    )
    .unwrap()
}

fn turned(picture: &Rgb, degrees: u32) -> Rgb {
    let picture = image(picture);
    rgb(match degrees {
        90 => image::imageops::rotate90(&picture),
        180 => image::imageops::rotate180(&picture),
        _ => image::imageops::rotate270(&picture),
    })
}

/// Returns the place of an upright picture's point in the turned picture.
fn moved(point: [f32; 2], degrees: u32, upright: &Rgb) -> [f32; 2] {
    let ([x, y], right, bottom) = (
        point,
        (upright.width - 1) as f32,
        (upright.height - 1) as f32,
    );
    match degrees {
        90 => [bottom - y, x],
        180 => [right - x, bottom - y],
        _ => [y, right - x],
    }
}

/// Places the self-test picture in the given size on a plain canvas.
fn shrunk(side: u32, width: usize, height: usize) -> Rgb {
    let small = image::imageops::thumbnail(&image(&self_test_picture()), side, side);
    placed(
        &rgb(small),
        width,
        height,
        width as isize / 3,
        height as isize / 4,
    )
}

fn faces(vision: &Vision, picture: &Rgb, search: Search) -> Vec<Face> {
    vision.recognise(picture, &search).unwrap().faces
}

/// Lists a folder, sorted by name.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Places and scores for messages; a whole face would print its pixels.
fn places(faces: &[Face]) -> Vec<(Bounds, f32)> {
    faces.iter().map(|face| (face.bounds, face.score)).collect()
}

fn overlap(a: Bounds, b: Bounds) -> f32 {
    let (width, height) = (
        a.right.min(b.right) - a.left.max(b.left),
        a.bottom.min(b.bottom) - a.top.max(b.top),
    );
    let shared = width.max(0.0) * height.max(0.0);
    shared / (a.size().powi(2) + b.size().powi(2) - shared)
}

#[test]
fn a_face_that_fills_its_picture_is_found() {
    let vision = bundled(Precision::Int8);
    let whole = self_test_picture();
    let pixels = image(&whole);
    let face = &faces(vision, &whole, SEARCH)[0];
    let b = face.bounds;
    let (x, y) = ((b.left + b.right) / 2.0, (b.top + b.bottom) / 2.0);
    for part in [1.0, 0.8, 0.75] {
        let side = (b.right - b.left).max(b.bottom - b.top) * part;
        let (left, top) = ((x - side / 2.0) as u32, (y - side / 2.0) as u32);
        let cut = image::imageops::crop_imm(&pixels, left, top, side as u32, side as u32);
        let found = faces(vision, &rgb(cut.to_image()), SEARCH);
        assert_eq!(found.len(), 1, "cut to {part} of the face");
        for (at, in_whole) in found[0].landmarks.iter().zip(&face.landmarks) {
            let off = (at[0] + left as f32 - in_whole[0]).hypot(at[1] + top as f32 - in_whole[1]);
            assert!(
                off < 0.08 * side,
                "cut to {part} of the face: {off} of {side} pixels"
            );
        }
    }
    let Some(labelled) = shared("filled pictures test", "faces/labelled") else {
        return;
    };
    for file in ["bbt_howard/5.png", "bbt_stuart/5.png"] {
        let found = faces(vision, &read(&labelled.join(file)), SEARCH);
        assert_eq!(found.len(), 1, "{file}");
    }
}

#[test]
fn a_turned_picture_gives_the_same_upright_face_in_its_place() {
    let picture = self_test_picture();
    for (name, vision) in both("turned test") {
        let upright = &analyse(vision, &picture).faces[0];
        for degrees in TURNS {
            let found = analyse(vision, &turned(&picture, degrees)).faces;
            assert_eq!(found.len(), 1, "{name}: {degrees}°: {:?}", places(&found));
            for (found, expected) in found[0].landmarks.iter().zip(upright.landmarks) {
                let [x, y] = moved(expected, degrees, &picture);
                let off = (found[0] - x).hypot(found[1] - y);
                assert!(
                    off < 2.0,
                    "{name}: {degrees}°: {found:?} instead of {x}, {y}"
                );
            }
            let b = found[0].bounds;
            let [nx, ny] = found[0].landmarks[2];
            assert!(
                b.left < nx && nx < b.right && b.top < ny && ny < b.bottom,
                "{name}: {degrees}°: {b:?}"
            );
            let crops = found[0].crop.pixels.iter().zip(&upright.crop.pixels);
            let off: u64 = crops.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = off as f32 / upright.crop.pixels.len() as f32;
            assert!(
                mean < 6.0,
                "{name}: {degrees}°: the crops are {mean} grey steps apart"
            );
        }
    }
}

#[test]
fn a_turned_picture_stays_as_it_is_where_turning_is_off() {
    let picture = self_test_picture();
    for degrees in TURNS {
        let once = faces(
            bundled(Precision::Float32),
            &turned(&picture, degrees),
            Search {
                turned: false,
                ..SEARCH
            },
        );
        let right = moved(
            analyse(bundled(Precision::Float32), &picture).faces[0].landmarks[0],
            degrees,
            &picture,
        );
        let there = |face: &Face| {
            (face.landmarks[0][0] - right[0]).hypot(face.landmarks[0][1] - right[1]) < 10.0
        };
        assert!(!once.iter().any(there), "{degrees}°: {:?}", places(&once));
    }
}

#[test]
fn a_cheek_like_an_upright_face_does_not_hide_the_lying_face() {
    let (vision, mut cheeks) = (bundled(Precision::Float32), 0);
    for side in [250, 280, 310, 340, 370] {
        let picture = turned(&shrunk(side, 2 * side as usize, 2 * side as usize), 90);
        let once = faces(
            vision,
            &picture,
            Search {
                turned: false,
                ..SEARCH
            },
        );
        cheeks += usize::from(
            once.iter()
                .any(|face| face.quality.roll_degrees.abs() < 45.0),
        );
        let found = analyse(vision, &picture).faces;
        assert_eq!(found.len(), 1, "{side}: {:?}", places(&found));
        assert!(
            (found[0].quality.roll_degrees - 94.0).abs() < 10.0,
            "{side}: {}",
            found[0].quality.roll_degrees
        );
    }
    assert!(cheeks >= 3, "only {cheeks}: this shows nothing");
}

#[test]
fn a_doubtful_upright_face_survives_a_turned_look() {
    let picture = image(&self_test_picture());
    // The cut goes through the eye.
    let cut =
        rgb(
            image::imageops::crop_imm(&picture, 172, 0, picture.width() - 172, picture.height())
                .to_image(),
        );
    let vision = bundled(Precision::Float32);
    let once = faces(
        vision,
        &cut,
        Search {
            turned: false,
            ..SEARCH
        },
    );
    assert_eq!(once.len(), 1);
    assert!(once[0].score < 0.999, "{}", once[0].score);
    assert!(faces(vision, &cut, SEARCH) == once);
}

#[test]
fn a_picture_with_a_doubtful_upright_face_is_not_turned() {
    let vision = bundled(Precision::Float32);
    let face = image(&self_test_picture());
    let lying = turned(&rgb(image::imageops::thumbnail(&face, 300, 300)), 90);
    // A face out of focus, and one lying that the turned picture would show beyond doubt.
    let mut both = image::RgbImage::from_pixel(1000, 500, image::Rgb([120; 3]));
    image::imageops::replace(&mut both, &image::imageops::blur(&face, 6.0), 0, 0);
    image::imageops::replace(&mut both, &image(&lying), 650, 150);
    let both = rgb(both);
    let once = faces(
        vision,
        &both,
        Search {
            turned: false,
            ..SEARCH
        },
    );
    let blurred = |face: &Face| face.bounds.right < 300.0 && (0.9..0.999).contains(&face.score);
    assert!(
        once.iter().any(blurred) && once.iter().all(|face| face.score < 0.999),
        "{:?}",
        places(&once)
    );
    let alone = analyse(vision, &lying).faces;
    assert!(
        alone.len() == 1 && alone[0].score > 0.999,
        "{:?}",
        places(&alone)
    );
    let found = analyse(vision, &both).faces;
    assert!(
        found == once,
        "{:?} instead of {:?}",
        places(&found),
        places(&once)
    );
}

#[test]
fn a_face_of_20_pixels_is_found_when_configured_up_to_full_hd() {
    // The face takes 100 of the picture's 384 pixels.
    for (width, height) in [(320, 240), (640, 480), (1920, 1080)] {
        let picture = shrunk(77, width, height);
        let vision = bundled(Precision::Float32);
        let found = faces(
            vision,
            &picture,
            Search {
                min_face_px: 20,
                ..SEARCH
            },
        );
        assert_eq!(found.len(), 1, "{width}×{height}");
        assert!(
            (17.0..23.0).contains(&found[0].quality.size_px),
            "{}",
            found[0].quality.size_px
        );
    }
}

#[test]
fn a_face_of_40_pixels_is_found_in_4k() {
    assert_eq!(
        analyse(bundled(Precision::Float32), &shrunk(154, 3840, 2160))
            .faces
            .len(),
        1
    );
}

#[test]
fn a_small_turned_face_in_a_small_picture_is_found() {
    let picture = turned(&shrunk(170, 170, 170), 90);
    let found = analyse(bundled(Precision::Float32), &picture).faces;
    assert_eq!(found.len(), 1);
    assert!(
        (found[0].quality.roll_degrees - 94.0).abs() < 10.0,
        "{}",
        found[0].quality.roll_degrees
    );
}

/// Returns the true places of faces in the group photographs, by file.
fn truth() -> BTreeMap<String, Vec<Bounds>> {
    let text =
        std::fs::read_to_string(crate_folder().join("benches/detectors-truth.json")).unwrap();
    let truth: BTreeMap<String, Vec<[f32; 4]>> = serde_json::from_str(&text).unwrap();
    let bounds = |[left, top, right, bottom]: [f32; 4]| Bounds {
        left,
        top,
        right,
        bottom,
    };
    truth
        .into_iter()
        .map(|(file, boxes)| (file, boxes.into_iter().map(bounds).collect()))
        .collect()
}

#[test]
fn group_pictures_show_every_face_of_40_pixels_and_no_other() {
    let Some(folder) = shared("groups test", "faces/groups") else {
        return;
    };
    let vision = bundled(Precision::Int8);
    let mut wanted = 0;
    for (file, truth) in truth() {
        let found = analyse(vision, &read(&folder.join(&file))).faces;
        for face in truth.iter().filter(|face| face.size() >= 40.0) {
            assert!(
                found
                    .iter()
                    .any(|found| overlap(found.bounds, *face) >= 0.3),
                "{file}: {face:?} was not found"
            );
            wanted += 1;
        }
        // The truth leaves out the tiniest faces in that crowd.
        let known = |found: &Face| truth.iter().any(|face| overlap(found.bounds, *face) >= 0.3);
        let right = file == "crowd_ultra_25.jpg" || found.iter().all(known);
        assert!(right, "{file}: {:?}", places(&found));
    }
    assert!(wanted > 140, "{wanted}");
}

/// Some of the clothes look like an upright face.
#[test]
fn turned_group_pictures_show_every_face_of_40_pixels() {
    let Some(folder) = shared("turned groups test", "faces/groups") else {
        return;
    };
    let vision = bundled(Precision::Int8);
    let mut wanted = 0;
    for (file, truth) in truth() {
        let upright = read(&folder.join(&file));
        for degrees in [90, 270] {
            let found = analyse(vision, &turned(&upright, degrees)).faces;
            for face in truth.iter().filter(|face| face.size() >= 40.0) {
                let right = found
                    .iter()
                    .any(|found| is_turned(found, face, degrees, &upright));
                assert!(
                    right,
                    "{file} turned {degrees}°: {face:?}: {:?}",
                    places(&found)
                );
                wanted += 1;
            }
        }
    }
    assert!(wanted > 280, "{wanted}");
}

/// Tells whether `found` in the turned picture is this face of the upright one, the right way up.
fn is_turned(found: &Face, face: &Bounds, degrees: u32, upright: &Rgb) -> bool {
    let [ax, ay] = moved([face.left, face.top], degrees, upright);
    let [bx, by] = moved([face.right, face.bottom], degrees, upright);
    let there = Bounds {
        left: ax.min(bx),
        top: ay.min(by),
        right: ax.max(bx),
        bottom: ay.max(by),
    };
    let off = (found.quality.roll_degrees - degrees as f32).rem_euclid(360.0);
    overlap(found.bounds, there) >= 0.3 && !(45.0..=315.0).contains(&off)
}

#[test]
fn turned_portraits_show_the_face_the_right_way_up() {
    let Some(folder) = shared("turned portraits test", "faces/lfw-dev") else {
        return;
    };
    let mut files = files(&folder);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    let vision = bundled(Precision::Int8);
    // In LFW the labelled face is in the middle.
    let face = Bounds {
        left: 70.0,
        top: 70.0,
        right: 180.0,
        bottom: 180.0,
    };
    for path in files.iter().step_by(42) {
        let upright = read(path);
        for degrees in TURNS {
            let found = analyse(vision, &turned(&upright, degrees)).faces;
            let right = found
                .iter()
                .any(|found| is_turned(found, &face, degrees, &upright));
            assert!(
                right,
                "{} turned {degrees}°: {:?}",
                path.display(),
                places(&found)
            );
        }
    }
}

#[test]
fn no_scene_object_or_animal_is_taken_for_a_face() {
    let Some(folder) = shared("scenes test", "faces/noface") else {
        return;
    };
    let files = files(&folder);
    for min_face_px in [40, 20] {
        for path in &files {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap();
            let found = faces(
                bundled(Precision::Int8),
                &read(path),
                Search {
                    min_face_px,
                    ..SEARCH
                },
            );
            // Two people rendered photorealistically, and a photograph of 23 pixels on a screen.
            let allowed = match (name, min_face_px) {
                ("tricky_render3d.jpg", _) => 2,
                ("devices_progressive.jpg", 20) => 1,
                _ => 0,
            };
            assert!(
                found.len() <= allowed,
                "{name} at {min_face_px}: {:?}",
                places(&found)
            );
        }
    }
}

#[test]
fn photographs_of_a_man_turned_without_exif_show_him() {
    let Some(folder) = shared("turned photographs test", "faces/hard") else {
        return;
    };
    let named = |name: &str| read(Path::new(&folder.join(name)));
    let vision = bundled(Precision::Float32);
    let upright = analyse(vision, &named("gray.jpg")).faces;
    for file in [
        "rotated_90_no_exif.jpg",
        "rotated_180_no_exif.jpg",
        "rotated_270_no_exif.jpg",
    ] {
        let found = analyse(vision, &named(file)).faces;
        assert_eq!(found.len(), 1, "{file}");
        let distance =
            kith_vision::Metric::Euclidean.distance(&found[0].embedding, &upright[0].embedding);
        assert!(distance < 0.4, "{file}: {distance}");
    }
}

/// This is why it looks at such a picture a second time, turned.
#[test]
fn the_second_pack_puts_upright_landmarks_on_a_turned_face() {
    let Some(vision) = second("second pack's test of looking once") else {
        return;
    };
    let once = faces(
        vision,
        &turned(&self_test_picture(), 90),
        Search {
            turned: false,
            ..SEARCH
        },
    );
    assert!(!once.is_empty());
    assert!(
        once.iter()
            .all(|face| face.quality.roll_degrees.abs() < 60.0),
        "{:?}",
        places(&once)
    );
}

#[test]
fn a_picture_on_several_cores_gives_the_same_as_on_one() {
    let pack = Pack::load(&bundled_pack()).unwrap();
    let [one, four] = [1, 4].map(|cores| load(&pack, Precision::Int8).unwrap().on_cores(cores));
    let face = self_test_picture();
    let mut crowd = placed(&face, 1600, 901, 20, 30);
    for (side, x, y) in [(300, 700, 40), (120, 1100, 500), (45, 1400, 700)] {
        crowd = over(
            &crowd,
            &rgb(image::imageops::thumbnail(&image(&face), side, side)),
            x,
            y,
        );
    }
    // Turned, so that all three turns are searched; odd sides, so that the last tile has half a
    // cell.
    for picture in [
        crowd,
        turned(&placed(&face, 641, 483, 60, 1), 90),
        placed(&face, 515, 513, 1, 1),
    ] {
        let (alone, together) = (
            faces(&one, &picture, SEARCH),
            faces(&four, &picture, SEARCH),
        );
        assert!(!alone.is_empty());
        assert_eq!(
            places(&alone),
            places(&together),
            "{}×{}",
            picture.width,
            picture.height
        );
        assert!(
            alone == together,
            "the same places, other embeddings or crops"
        );
    }
}

/// Places `part` on `picture`, with its left upper corner at (x, y).
fn over(picture: &Rgb, part: &Rgb, x: i64, y: i64) -> Rgb {
    let mut picture = image(picture);
    image::imageops::replace(&mut picture, &image(part), x, y);
    rgb(picture)
}
