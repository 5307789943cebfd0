//! Times each stage on the bundled self-test picture, on one thread: `cargo bench -p kith-vision`.
//! The figures come from the crate's own clock, which the daemon reports too.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use criterion::Criterion;
use kith_vision::{Device, Pack, Precision, Rgb, Search, Timings, Vision};

const SEARCH: Search = Search {
    min_face_px: 40,
    max_faces: 16,
    turned: true,
};

fn main() -> Result<(), Box<dyn Error>> {
    let pack = Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("packs/dlib-mtcnn"))?;
    let picture = image::load_from_memory(&pack.self_test_picture()?)?.to_rgb8();
    let picture = Rgb::new(
        picture.width() as usize,
        picture.height() as usize,
        picture.into_raw(),
    )?;
    let float32 = Vision::load(&pack, Precision::Float32, Device::Cpu)?;
    let int8 = Vision::load(&pack, Precision::Int8, Device::Cpu)?;
    println!(
        "{}×{} pixels, {} face(s)",
        picture.width,
        picture.height,
        float32.recognise(&picture, &SEARCH)?.faces.len()
    );
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(20)
        .measurement_time(Duration::from_secs(4));
    stage(&mut criterion, "detect", &float32, &picture, |timings| {
        timings.detect
    });
    stage(&mut criterion, "align", &float32, &picture, |timings| {
        timings.align
    });
    stage(
        &mut criterion,
        "embed float32",
        &float32,
        &picture,
        |timings| timings.embed,
    );
    stage(&mut criterion, "embed int8", &int8, &picture, |timings| {
        timings.embed
    });
    criterion.final_summary();
    Ok(())
}

fn stage(
    criterion: &mut Criterion,
    name: &str,
    vision: &Vision,
    picture: &Rgb,
    of: fn(&Timings) -> Duration,
) {
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|times| {
            // A failed run counts as zero, which criterion refuses.
            let run = || {
                vision
                    .recognise(picture, &SEARCH)
                    .map_or(Duration::ZERO, |analysis| of(&analysis.timings))
            };
            (0..times).map(|_| run()).sum()
        });
    });
}
