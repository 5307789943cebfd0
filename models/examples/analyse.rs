//! Prints one line of JSON for each picture (faces, embeddings, timings), to compare kith-vision
//! with other pipelines. Not part of the product.
//!
//! `analyse <pack folder> <float32|float16|int8> <smallest face> <picture>...`. `KITH_TURNED=no` in
//! the environment leaves out the search for turned faces; `KITH_CORES=4` runs each picture on four
//! threads.

use std::error::Error;
use std::path::Path;

use kith_vision::{Device, Pack, Precision, Rgb, Search, Vision};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .ok_or("usage: analyse <pack> <precision> <smallest face> <picture>...")
    };
    let pack = Pack::load(Path::new(&next()?))?;
    let precision: Precision = next()?.parse()?;
    let turned = std::env::var_os("KITH_TURNED").is_none_or(|value| value != "no");
    let search = Search {
        min_face_px: next()?.parse()?,
        max_faces: 1000,
        turned,
    };
    let cores = std::env::var("KITH_CORES").map_or(Ok(1), |cores| cores.parse())?;
    let vision = Vision::load(&pack, precision, Device::Cpu)?.on_cores(cores);
    for path in arguments {
        let picture = match image::open(&path) {
            Ok(picture) => picture.to_rgb8(),
            Err(error) => {
                println!(
                    "{}",
                    serde_json::json!({ "path": path, "error": error.to_string() })
                );
                continue;
            }
        };
        let picture = Rgb::new(
            picture.width() as usize,
            picture.height() as usize,
            picture.into_raw(),
        )?;
        let size = [picture.width, picture.height];
        let analysis = vision.recognise(&picture, &search)?;
        let timings = analysis.timings;
        let milliseconds =
            [timings.detect, timings.align, timings.embed].map(|stage| stage.as_secs_f64() * 1e3);
        let faces = analysis.faces.iter().map(|face| {
            let (b, q) = (face.bounds, face.quality);
            serde_json::json!({
                "bounds": [b.left, b.top, b.right, b.bottom], "landmarks": face.landmarks, "score": face.score,
                "size_px": q.size_px, "cut": q.cut, "brightness": q.brightness, "sharpness": q.sharpness, "yaw": q.yaw, "pitch": q.pitch, "roll": q.roll_degrees,
                "quality": q.score, "length": face.length, "embedding": face.embedding,
            })
        });
        println!(
            "{}",
            serde_json::json!({ "path": path, "size": size, "ms": milliseconds, "faces": faces.collect::<Vec<_>>() })
        );
    }
    Ok(())
}
