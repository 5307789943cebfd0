//! Runs the work that `./dev instructions` counts: each task once, on one thread, between two lines
//! of output. Not for timing, and not part of the product.
//!
//! `instructions <pack folder>`

use std::error::Error;
use std::io::Cursor;
use std::path::Path;

use image::{ImageFormat, RgbImage, imageops};
use kith_vision::{Device, Pack, Precision, Rgb, Search, Vision, recogniser_file};
use tract_onnx::prelude::*;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let folder = std::env::args()
        .nth(1)
        .ok_or("usage: instructions <pack folder>")?;
    // The mirror image is off, so that one embedding is one forward pass.
    let pack = Pack::load(Path::new(&folder))?;
    let flip = pack.flip();
    let pack = pack.with_flip(false);
    let picture = image::load_from_memory(&pack.self_test_picture()?)?;
    let search = Search {
        min_face_px: pack.min_face_px(),
        max_faces: 16,
        turned: true,
    };
    let mut crop = None;
    for precision in Precision::ALL {
        if !pack.offers(precision) || !Device::Cpu.has_arithmetic_for(precision) {
            continue;
        }
        let vision = Vision::load(&pack, precision, Device::Cpu)?;
        if crop.is_none() {
            crop = vision
                .recognise(&rgb(picture.to_rgb8())?, &search)?
                .faces
                .pop()
                .map(|face| face.crop);
        }
        let crop = crop.as_ref().ok_or("the self-test picture shows no face")?;
        count(&format!("recogniser {precision}"), || {
            Ok(vision.embed(crop).map(drop)?)
        })?;
    }
    // The same network in plain tract, for comparison.
    let crop = crop.ok_or("the pack has no recogniser")?;
    let side = crop.width;
    let tract = tract_onnx::onnx()
        .model_for_read(&mut Cursor::new(recogniser_file(
            &pack,
            Precision::Float32,
        )?))?
        .with_input_fact(0, f32::fact([1, 3, side, side]).into())?
        .into_optimized()?
        .into_runnable()?;
    let planes = (0..3).flat_map(|plane| crop.pixels.iter().skip(plane).step_by(3));
    // Any normalisation will do here: the number of instructions does not depend on pixel values.
    let planes: Vec<_> = planes
        .map(|pixel| (f32::from(*pixel) - 127.5) / 128.0)
        .collect();
    let input = Tensor::from_shape(&[1, 3, side, side], &planes)?.into_tvalue();
    count("recogniser float32 in tract's operators", || {
        Ok(tract.run(tvec!(input.clone())).map(drop)?)
    })?;

    // The picture of `kithd-bench`: 640×480 pixels with one face, analysed as the daemon does, with
    // the mirror image if the pack asks for it.
    let pack = pack.with_flip(flip);
    let mut whole = RgbImage::from_pixel(640, 480, image::Rgb([96, 104, 112]));
    let face = imageops::resize(
        &picture.to_rgb8(),
        480,
        480,
        imageops::FilterType::CatmullRom,
    );
    imageops::overlay(&mut whole, &face, 80, 0);
    let mut jpeg = Vec::new();
    whole.write_to(&mut Cursor::new(&mut jpeg), ImageFormat::Jpeg)?;
    let decode =
        || -> Result<Rgb, Box<dyn Error>> { rgb(image::load_from_memory(&jpeg)?.into_rgb8()) };
    let whole = decode()?;
    count("picture decode", || decode().map(drop))?;
    let vision = Vision::load(&pack, Precision::Int8, Device::Cpu)?;
    count("picture detect, align, embed int8", || {
        match vision.recognise(&whole, &search)?.faces.len() {
            1 => Ok(()),
            faces => Err(format!("{faces} faces are found in a picture of one").into()),
        }
    })
}

/// Runs the work once to allocate memory and build plans, and once more between the two lines.
fn count(what: &str, mut work: impl FnMut() -> Done) -> Done {
    work()?;
    println!("begin {what}");
    work()?;
    println!("end {what}");
    Ok(())
}

fn rgb(picture: RgbImage) -> Result<Rgb, Box<dyn Error>> {
    Ok(Rgb::new(
        picture.width() as usize,
        picture.height() as usize,
        picture.into_raw(),
    )?)
}
