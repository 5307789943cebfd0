//! Tests of reduced pictures and of parts in full, each against what `decode` makes of the whole. Not for what is refused
//! in words: that is decided, and tested, elsewhere.

#![allow(clippy::unwrap_used)]

use image::metadata::Orientation;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use kith_vision::{Bounds, Rgb};

use super::super::tests::{CMYK, LIMITS, PROGRESSIVE, YCCK, with_exif};
use super::super::{Format, Turn, Whole, decode, look};
use super::*;

/// Waves of several lengths in all three colours, so that a shifted, mirrored or swapped pixel shows.
fn waves(width: usize, height: usize) -> Vec<u8> {
    let pixel = |at: usize| {
        let (x, y) = ((at % width) as f32, (at / width) as f32);
        let [red, green] = [(x / 27.0).sin() + (y / 41.0).cos(), (x / 37.0).cos() - (y / 29.0).sin()];
        [red, green, (x / 33.0 + y / 25.0).sin() * 2.0].map(|v| (128.0 + 50.0 * v) as u8)
    };
    (0..width * height).flat_map(pixel).collect()
}

fn encode(width: usize, height: usize, sampling: SamplingFactor, restart: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 90);
    encoder.set_sampling_factor(sampling);
    encoder.set_restart_interval(restart);
    encoder.encode(&waves(width, height), width as u16, height as u16, ColorType::Rgb).unwrap();
    bytes
}

fn every_kind(width: usize, height: usize) -> Vec<(String, Vec<u8>)> {
    let mut kinds = Vec::new();
    for sampling in [SamplingFactor::F_1_1, SamplingFactor::F_2_1, SamplingFactor::F_1_2, SamplingFactor::F_2_2] {
        for restart in [0, 1, 7] {
            let name = format!("{sampling:?}, restarts {restart}");
            kinds.push((name, encode(width, height, sampling, restart)));
        }
    }
    let mut grey = Vec::new();
    let values: Vec<u8> = waves(width, height).chunks(3).map(|pixel| pixel[0]).collect();
    Encoder::new(&mut grey, 90).encode(&values, width as u16, height as u16, ColorType::Luma).unwrap();
    kinds.push(("grey".into(), grey));
    kinds
}

/// How far `found` is from the means of the whole picture's squares of `side` pixels, on average, where they are whole.
fn difference(found: &Rgb, whole: &Rgb, [left, top]: [usize; 2], side: usize) -> f32 {
    let (columns, rows) = (found.width.min(whole.width / side - left), found.height.min(whole.height / side - top));
    let mut sum = 0.0;
    for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
        for channel in 0..3 {
            let at = |x: usize, y: usize| f32::from(whole.pixels[3 * (y * whole.width + x) + channel]);
            let square = (0..side * side).map(|n| at((left + x) * side + n % side, (top + y) * side + n / side));
            let mean = square.sum::<f32>() / (side * side) as f32;
            sum += (mean - f32::from(found.pixels[3 * (y * found.width + x) + channel])).abs();
        }
    }
    sum / (3 * columns * rows) as f32
}

fn upright(piece: Piece) -> Rgb {
    Rgb { width: piece.width, height: piece.height, pixels: piece.pixels }
}

#[test]
fn a_reduced_picture_shows_the_means_of_the_whole_one_whatever_its_sampling() {
    for (width, height) in [(203, 137), (8, 8), (17, 1), (1, 33)] {
        for (name, bytes) in every_kind(width, height) {
            let whole = decode(&bytes, &LIMITS).unwrap();
            for reduction in [2, 4] {
                let found = upright(Jpeg::parse(&bytes).unwrap().reduced(reduction).unwrap());
                assert_eq!((found.width, found.height), (width.div_ceil(reduction), height.div_ceil(reduction)));
                if width.min(height) > 8 {
                    let off = difference(&found, &whole, [0, 0], reduction);
                    assert!(off < 3.5, "{name}, a {reduction}th: {off} levels off");
                }
            }
        }
    }
}

#[test]
fn a_part_is_what_the_whole_picture_shows_there() {
    for (name, bytes) in every_kind(203, 137) {
        let whole = decode(&bytes, &LIMITS).unwrap();
        let mut jpeg = Jpeg::parse(&bytes).unwrap();
        jpeg.reduced(4).unwrap();
        for (x, y) in [(0..203, 0..137), (60..90, 50..60), (0..1, 0..1), (190..203, 130..137)] {
            let piece = jpeg.piece(x.clone(), y.clone()).unwrap();
            let corner = [piece.left, piece.top];
            assert!(piece.left <= x.start && piece.left + piece.width >= x.end, "{name} {x:?}");
            assert!(piece.top <= y.start && piece.top + piece.height >= y.end, "{name} {y:?}");
            let off = difference(&upright(piece), &whole, corner, 1);
            assert!(off < 2.0, "{name}, {x:?} of {y:?}: {off} levels off");
        }
        assert!(jpeg.piece(5..5, 0..9).is_none());
    }
}

#[test]
fn a_part_of_a_turned_picture_is_upright_and_where_it_is_said_to_be() {
    let stored = encode(203, 137, SamplingFactor::F_2_2, 0);
    for exif in 1..=8 {
        let bytes = with_exif(&stored, exif, &[]);
        let whole = decode(&bytes, &LIMITS).unwrap();
        let turn = Turn { orientation: Orientation::from_exif(exif).unwrap(), width: 203, height: 137 };
        let mut jpeg = Jpeg::parse(&bytes).unwrap();
        let reduced = turn.apply(jpeg.reduced(2).unwrap());
        assert_eq!(turn.upright(), (whole.width, whole.height), "orientation {exif}");
        // Turning a picture of odd sides moves the edge of the squares to the other end.
        assert_eq!((reduced.width, reduced.height), (whole.width.div_ceil(2), whole.height.div_ceil(2)));
        let mut behind = Whole { bytes: &bytes, limits: LIMITS, turn, jpeg: Some(jpeg) };
        let bounds = Bounds { left: 30.5, top: 40.0, right: 70.0, bottom: 80.2 };
        let (part, [left, top]) = behind.part(bounds).unwrap();
        assert!(left <= 30 && top <= 40 && left + part.width >= 70 && top + part.height >= 81, "orientation {exif}");
        assert!(part.width < 100 && part.height < 100, "orientation {exif}: {}×{}", part.width, part.height);
        let off = difference(&part, &whole, [left, top], 1);
        assert!(off < 2.0, "orientation {exif}: {off} levels off");
        // Most of the picture is read as a whole, and so is what lies outside.
        let all = Bounds { left: -9.0, top: -9.0, right: 900.0, bottom: 900.0 };
        assert_eq!(behind.part(all).unwrap(), (whole, [0, 0]));
    }
}

#[test]
fn only_large_jpegs_of_the_ordinary_kind_are_reduced() {
    let bytes = encode(2500, 1700, SamplingFactor::F_2_2, 0);
    let asked = |width, height| {
        assert_eq!((width, height), (2500, 1700));
        2
    };
    let sight = look(&bytes, &LIMITS, asked).unwrap();
    assert_eq!((sight.reduction, sight.size), (2, (2500, 1700)));
    assert_eq!((sight.picture.width, sight.picture.height), (1250, 850));
    let mut whole = look(&bytes, &LIMITS, |_, _| 1).unwrap();
    assert_eq!((whole.reduction, whole.picture.width), (1, 2500));
    assert!(whole.whole.part(Bounds { left: 0.0, top: 0.0, right: 9.0, bottom: 9.0 }).is_none());
    let small = encode(1900, 1000, SamplingFactor::F_2_2, 0);
    assert_eq!(look(&small, &LIMITS, |_, _| 4).unwrap().reduction, 1);
    for bytes in [CMYK, YCCK, PROGRESSIVE] {
        assert!(Jpeg::parse(bytes).is_none());
    }
}

#[test]
fn nothing_that_is_refused_as_a_whole_is_accepted_reduced() {
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 33) as usize % below
    };
    let (mut both, mut neither, mut only_whole) = (0, 0, 0);
    for (name, whole) in every_kind(75, 53) {
        for variant in 0..200 {
            let mut bytes = whole.clone();
            if variant % 5 == 0 {
                bytes.truncate(next(whole.len()));
            }
            for _ in 0..1 + variant % 3 {
                let at = next(whole.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << next(8);
                }
            }
            if crate::picture_kind::sniff(&bytes) != Some(Format::Jpeg) || super::super::jpeg::check(&bytes).is_err() {
                continue;
            }
            let reduced = Jpeg::parse(&bytes).and_then(|mut jpeg| {
                let found = jpeg.reduced(2)?;
                jpeg.piece(3..40, 9..30)?;
                Some(found)
            });
            match (reduced, decode(&bytes, &LIMITS)) {
                (Some(found), Ok(whole)) => {
                    assert_eq!(found.width, whole.width.div_ceil(2), "{name}");
                    both += 1;
                }
                (Some(_), Err(error)) => panic!("{name}: read reduced, but as a whole: {error}"),
                (None, Ok(_)) => only_whole += 1,
                (None, Err(_)) => neither += 1,
            }
        }
    }
    assert!(both > 500 && neither > 200, "{both} read, {only_whole} only as a whole, {neither} refused");
    println!("{both} read, {only_whole} only as a whole, {neither} refused");
}

#[test]
fn what_is_no_segment_for_others_is_none_here_and_the_sides_must_be_those_held_to_the_limits() {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(64, 48, image::Rgb([90, 120, 60]))
        .write_to(&mut bytes, image::ImageFormat::Jpeg)
        .unwrap();
    let bytes = bytes.into_inner();
    assert!(Jpeg::read(&bytes, [64, 48]).is_some());
    assert!(Jpeg::read(&bytes, [48, 64]).is_none());
    for marker in [0x00, 0x01, 0xD0] {
        let hidden = [&bytes[..2], &[0xFF, marker, 0, 4, 0, 0], &bytes[2..]].concat();
        assert!(Jpeg::read(&hidden, [64, 48]).is_none(), "{marker:#x}");
    }
}
