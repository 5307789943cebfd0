//! Tests of `decode` with damaged, cut-off and misleading bytes, and with the shared collection of
//! hard files if it is present. Tests with intact pictures are in `tests`.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use super::tests::{
    CMYK, LIMITS, LOSSY_WEBP, PROGRESSIVE, YCCK, encode, jpeg, quadrants, with_exif,
};
use super::*;
use crate::picture_kind::sniff;

#[test]
fn half_a_file_of_any_format_is_refused() {
    for format in [
        Format::Png,
        Format::WebP,
        Format::Gif,
        Format::Bmp,
        Format::Tiff,
    ] {
        let bytes = encode(quadrants(), format);
        let error = decode(&bytes[..bytes.len() / 2], &LIMITS).unwrap_err();
        assert!(
            matches!(
                error,
                DecodeError::Truncated { .. } | DecodeError::Corrupt { .. }
            ),
            "{format}: {error}"
        );
    }
}

/// Marsaglia's xorshift: the same damage in every run.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) as usize
}

/// Returns the number of mutated files of a kind: most pictures are JPEGs, so half of the files
/// are.
fn mutants(format: Format) -> usize {
    let all = if std::env::var_os("KITHD_FULL").is_some() {
        100_000
    } else {
        8_000
    };
    if format == Format::Jpeg {
        all / 2 / JPEGS
    } else {
        all / 2 / 6
    }
}

const JPEGS: usize = 8;

fn hostile_files() -> Vec<Vec<u8>> {
    let pack = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../models/packs/dlib-mtcnn/selftest.jpg"
    );
    let photograph = image::load_from_memory(&std::fs::read(pack).unwrap())
        .unwrap()
        .into_rgb8();
    let photograph = image::imageops::thumbnail(&photograph, 96, 96);
    let [arithmetic, huffman] = [
        &include_bytes!("jpeg/arithmetic.jpg")[..],
        include_bytes!("jpeg/huffman.jpg"),
    ];
    let mut files = [CMYK, YCCK, PROGRESSIVE, arithmetic, huffman]
        .map(<[u8]>::to_vec)
        .to_vec();
    files.push(with_exif(&jpeg(&quadrants()), 6, &[]));
    files.push(with_exif(&jpeg(&photograph), 8, &jpeg(&quadrants())));
    files.push(super::jpeg::tests::in_scans());
    assert_eq!(files.len(), JPEGS);
    files.push(LOSSY_WEBP.to_vec());
    for format in [
        Format::Png,
        Format::WebP,
        Format::Gif,
        Format::Bmp,
        Format::Tiff,
    ] {
        files.push(encode(
            image::imageops::thumbnail(&quadrants(), 24, 16),
            format,
        ));
    }
    files
}

#[test]
fn hostile_bytes_never_panic_and_never_pass_the_limits() {
    let limits = DecodeLimits {
        max_bytes: 1 << 20,
        max_pixels: 1 << 18,
    };
    let mut state = 0x2545_F491_4F6C_DD1D;
    let (mut read, mut remarked, mut refused, mut parts) = (0, 0, 0, 0);
    let mut slowest = std::time::Duration::ZERO;
    for whole in &hostile_files() {
        for variant in 0..mutants(sniff(whole).unwrap()) {
            let mut bytes = whole.clone();
            if variant % 4 == 0 {
                bytes.truncate(random(&mut state) % whole.len());
            }
            for _ in 0..variant % 7 {
                // Half of the damage hits the first 64 bytes, which hold the sizes.
                let reach = if random(&mut state).is_multiple_of(2) {
                    64
                } else {
                    whole.len()
                };
                let at = random(&mut state) % reach.min(whole.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random(&mut state).to_le_bytes()[0];
                }
            }
            let begun = std::time::Instant::now();
            match look(&bytes, &limits, |_, _| 1 << (variant % 3)) {
                Ok(sight) => {
                    let pixels = sight.picture.width * sight.picture.height;
                    assert!(pixels > 0 && pixels <= 1 << 18);
                    assert_eq!(sight.picture.pixels.len(), pixels * 3);
                    let bounds = Bounds {
                        left: 3.0,
                        top: 5.0,
                        right: 1000.0,
                        bottom: 700.0,
                    };
                    parts += usize::from(sight.whole.part(bounds).is_some());
                    remarked += usize::from(!sight.remarks.is_empty());
                    read += 1;
                }
                Err(error) => {
                    let sentence = error.to_string();
                    assert!(
                        sentence.ends_with('.') && sentence.len() < 400,
                        "{sentence}"
                    );
                    assert!(
                        !sentence.contains("gave up"),
                        "a decoder panicked on {bytes:02x?}"
                    );
                    refused += 1;
                }
            }
            slowest = slowest.max(begun.elapsed());
        }
    }
    println!(
        "{read} read, {remarked} with a remark, {parts} parts, {refused} refused; the slowest took {slowest:?}"
    );
    assert!(
        read > 100 && remarked > 100 && parts > 0 && refused > 1000,
        "{read} {remarked} {parts} {refused}"
    );
}

/// Returns the shared collection, which is beside the clone in development and absent elsewhere.
fn hard_files() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared =
        std::env::var_os("KITHD_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let folder = shared.join("faces/hard");
    folder.is_dir().then_some(folder)
}

#[test]
fn every_hard_file_decodes_or_is_refused_as_listed() {
    let Some(folder) = hard_files() else {
        eprintln!("skipped: the shared collection of hard files is not here");
        return;
    };
    let list: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("hard.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for entry in list.as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let result = decode(&std::fs::read(folder.join(file)).unwrap(), &LIMITS);
        // "maybe" marks damaged files that other decoders read in part; of those, cut-off ones are
        // refused here.
        let expected = entry["decodes"]
            .as_bool()
            .or_else(|| file.starts_with("truncated").then_some(false));
        if expected.is_some_and(|expected| expected != result.is_ok()) {
            wrong.push(format!(
                "{file}: expected {expected:?}, found {:?}",
                result.as_ref().err()
            ));
        }
        if let Err(error) = result {
            eprintln!("{file}: {error}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    upright_files_look_alike(&folder);
}

/// Checks that a photograph in many containers and orientations decodes to nearly the same pixels.
fn upright_files_look_alike(folder: &Path) {
    let groups: [(&str, &[&str]); 2] = [
        (
            "rgb8.png",
            &[
                "exif_orientation_4.jpg",
                "exif_orientation_7.jpg",
                "exif_orientation_8.jpg",
                "progressive.jpg",
                "palette.png",
                "lossy.webp",
            ],
        ),
        (
            "lossless.webp",
            &["rgb16.png", "plain.bmp", "png_named.jpg", "still.gif"],
        ),
    ];
    let read = |file: &str| decode(&std::fs::read(folder.join(file)).unwrap(), &LIMITS).unwrap();
    for (reference, files) in groups {
        let expected = read(reference);
        for file in files {
            let found = read(file);
            assert_eq!(
                (found.width, found.height),
                (expected.width, expected.height),
                "{file}"
            );
            let pairs = found.pixels.iter().zip(&expected.pixels);
            let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = sum as f64 / found.pixels.len() as f64;
            // The lossiest, a palette of 256 colours, differs by 3.7; a picture with the wrong
            // orientation differs by tens.
            assert!(
                mean < 8.0,
                "{file} differs from {reference} by {mean:.1} levels on average"
            );
        }
    }
}
