//! Recognition on labelled pairs at the packs' own thresholds. A fifth of the pairs keeps the test
//! short; `kithd eval` runs all.

use std::collections::HashMap;
use std::path::Path;

use kith_vision::evaluation::{Pair, Pairs, Sample};
use kith_vision::{Bounds, Face, Metric, Pack, Precision, Vision};

use crate::shared::{analyse, bundled, bundled_pack, read, second, shared};

/// The identity in a picture does not matter here, only whether two pictures show one person.
const PEOPLE: usize = 2;

fn measure(vision: &Vision, metric: Metric, folder: &Path) -> Pairs {
    let list = std::fs::read_to_string(folder.join("pairs.csv")).unwrap();
    let mut seen: HashMap<String, Option<Vec<f32>>> = HashMap::new();
    let mut embed = |file: &str| {
        let make = || {
            let picture = read(&folder.join(file));
            // The person the file is named after is in the middle.
            let off_centre = |face: &Face| {
                let Bounds {
                    left,
                    top,
                    right,
                    bottom,
                } = face.bounds;
                (left + right - picture.width as f32).hypot(top + bottom - picture.height as f32)
            };
            let faces = analyse(vision, &picture).faces.into_iter();
            faces
                .min_by(|a, b| off_centre(a).total_cmp(&off_centre(b)))
                .map(|face| face.embedding)
        };
        seen.entry(file.to_owned()).or_insert_with(make).clone()
    };
    let pair = |line: &str| {
        let [a, b, same] = line.split(',').collect::<Vec<_>>().try_into().unwrap();
        // A picture without a face matches nothing.
        let distance = embed(a)
            .zip(embed(b))
            .map_or(f32::INFINITY, |(a, b)| metric.distance(&a, &b));
        Pair {
            distance,
            people: [0, u32::from(same != "1")],
        }
    };
    let pairs: Vec<Pair> = list.lines().skip(1).step_by(5).map(pair).collect();
    assert_eq!(pairs.len(), 200);
    Pairs::new(pairs).unwrap()
}

#[test]
fn the_bundled_pack_tells_pairs_apart_and_int8_loses_little() {
    let Some(folder) = shared("accuracy test", "faces/lfw-dev") else {
        return;
    };
    let threshold = Pack::load(&bundled_pack()).unwrap().matching().threshold;
    let of = |precision| {
        measure(bundled(precision), Metric::Euclidean, &folder)
            .accuracy(threshold, &Sample::everybody(PEOPLE))
    };
    let (float32, int8) = (of(Precision::Float32), of(Precision::Int8));
    println!("float32 {float32}, int8 {int8}");
    assert!(float32 >= 0.98, "{float32}");
    assert!((float32 - int8).abs() <= 0.01 + 1e-9, "{float32} {int8}");
}

#[test]
fn the_second_pack_tells_labelled_pairs_apart() {
    let (Some(folder), Some(vision)) = (
        shared("accuracy test", "faces/lfw-dev"),
        second("accuracy test"),
    ) else {
        return;
    };
    let (threshold, accuracy) =
        measure(vision, Metric::Cosine, &folder).best(&Sample::everybody(PEOPLE));
    println!("{accuracy} at {threshold}");
    assert!(accuracy >= 0.97, "{accuracy}");
}
