//! Tests of `decode` with damaged, cut-off and misleading bytes, and with the shared collection of hard files where it is
//! present. Not for whole pictures: those are in `tests`.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use super::tests::{CMYK, LIMITS, LOSSY_WEBP, PROGRESSIVE, YCCK, encode, jpeg, quadrants, with_exif};
use super::*;

#[test]
fn a_cut_off_jpeg_is_refused_and_a_thumbnail_inside_does_not_hide_it() {
    let truncated = Err(DecodeError::Truncated { format: Format::Jpeg });
    for whole in [jpeg(&quadrants()), PROGRESSIVE.to_vec(), CMYK.to_vec()] {
        // Every cut: in the headers, in a scan, between scans, before and amid the end marker.
        for length in 3..whole.len() {
            assert_eq!(decode(&whole[..length], &LIMITS), truncated, "cut at {length}");
        }
        let thumbnailed = with_exif(&whole, 1, &jpeg(&quadrants()));
        assert!(decode(&thumbnailed, &LIMITS).is_ok());
        assert_eq!(decode(&thumbnailed[..thumbnailed.len() - 2], &LIMITS), truncated);
        // A cut file whose last two bytes are an end marker, but one of the thumbnail.
        let thumbnail_end = 2 + 2 + 2 + 32 + jpeg(&quadrants()).len();
        assert_eq!(thumbnailed[thumbnail_end - 2..thumbnail_end], [0xFF, 0xD9]);
        assert_eq!(decode(&thumbnailed[..thumbnail_end], &LIMITS), truncated);
    }
}

#[test]
fn garbage_after_the_end_of_a_jpeg_is_ignored() {
    let mut bytes = jpeg(&quadrants());
    let clean = decode(&bytes, &LIMITS).unwrap();
    bytes.extend([0xFF, 0xDA, 0, 1, 2, 3, 0xFF]);
    assert_eq!(decode(&bytes, &LIMITS).unwrap(), clean);
}

#[test]
fn half_a_file_of_any_format_is_refused() {
    for format in [Format::Png, Format::WebP, Format::Gif, Format::Bmp, Format::Tiff] {
        let bytes = encode(quadrants(), format);
        let error = decode(&bytes[..bytes.len() / 2], &LIMITS).unwrap_err();
        assert!(matches!(error, DecodeError::Truncated { .. } | DecodeError::Corrupt { .. }), "{format}: {error}");
    }
}

#[test]
fn a_jpeg_the_decoder_would_read_wrongly_is_refused_by_name() {
    // A subsampled sequential frame whose scan has one of the three components, and an arithmetic one.
    let head = |sof: u8| {
        let frame = [0xFF, sof, 0, 17, 8, 0, 16, 0, 16, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1];
        let scan = [0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0, 0x55, 0xFF, 0xD9];
        [&[0xFF, 0xD8][..], &frame, &scan].concat()
    };
    for (sof, coding) in [(0xC0, "separate scans"), (0xC9, "arithmetic")] {
        let error = decode(&head(sof), &LIMITS).unwrap_err();
        assert!(matches!(error, DecodeError::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(coding), "{error}");
    }
}

/// Marsaglia's xorshift: the same damage in every run.
fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) as usize
}

#[test]
fn hostile_bytes_never_panic_and_never_pass_the_limits() {
    let limits = DecodeLimits { max_bytes: 1 << 20, max_pixels: 1 << 18 };
    let mut files: Vec<Vec<u8>> = [CMYK, YCCK, PROGRESSIVE, LOSSY_WEBP].map(<[u8]>::to_vec).to_vec();
    files.push(with_exif(&jpeg(&quadrants()), 6, &[]));
    for format in [Format::Png, Format::WebP, Format::Gif, Format::Bmp, Format::Tiff] {
        files.push(encode(image::imageops::thumbnail(&quadrants(), 24, 16), format));
    }
    let mut state = 0x2545_F491_4F6C_DD1D;
    let (mut read, mut refused) = (0, 0);
    for whole in &files {
        for variant in 0..1000 {
            let mut bytes = whole.clone();
            if variant % 4 == 0 {
                bytes.truncate(random(&mut state) % whole.len());
            }
            for _ in 0..variant % 7 {
                // Half of the damage goes to the first 64 bytes, where the sizes stand.
                let reach = if random(&mut state).is_multiple_of(2) { 64 } else { whole.len() };
                let at = random(&mut state) % reach.min(whole.len());
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random(&mut state).to_le_bytes()[0];
                }
            }
            match decode(&bytes, &limits) {
                Ok(picture) => {
                    let pixels = picture.width * picture.height;
                    assert!(pixels > 0 && pixels <= 1 << 18);
                    assert_eq!(picture.pixels.len(), pixels * 3);
                    read += 1;
                }
                Err(error) => {
                    let sentence = error.to_string();
                    assert!(sentence.ends_with('.') && sentence.len() < 400, "{sentence}");
                    assert!(!sentence.contains("gave up"), "a decoder panicked on {bytes:02x?}");
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 100 && refused > 1000, "{read} read, {refused} refused");
}

/// The shared collection lies beside the clone in development and is absent elsewhere.
fn hard_files() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var_os("KITHD_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let folder = shared.join("faces/hard");
    folder.is_dir().then_some(folder)
}

#[test]
fn every_hard_file_decodes_or_is_refused_as_listed() {
    let Some(folder) = hard_files() else {
        eprintln!("skipped: the shared collection of hard files is not here");
        return;
    };
    let list: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("hard.json")).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for entry in list.as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let result = decode(&std::fs::read(folder.join(file)).unwrap(), &LIMITS);
        // "maybe" are damaged files other decoders read in part; of those, cut-off ones are refused here.
        let expected = entry["decodes"].as_bool().or_else(|| file.starts_with("truncated").then_some(false));
        if expected.is_some_and(|expected| expected != result.is_ok()) {
            wrong.push(format!("{file}: expected {expected:?}, found {:?}", result.as_ref().err()));
        }
        if let Err(error) = result {
            eprintln!("{file}: {error}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    upright_files_look_alike(&folder);
}

/// One photograph in many containers and orientations must come out as nearly the same pixels.
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
        ("lossless.webp", &["rgb16.png", "plain.bmp", "png_named.jpg", "still.gif"]),
    ];
    let read = |file: &str| decode(&std::fs::read(folder.join(file)).unwrap(), &LIMITS).unwrap();
    for (reference, files) in groups {
        let expected = read(reference);
        for file in files {
            let found = read(file);
            assert_eq!((found.width, found.height), (expected.width, expected.height), "{file}");
            let pairs = found.pixels.iter().zip(&expected.pixels);
            let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = sum as f64 / found.pixels.len() as f64;
            // The lossiest, a palette of 256 colours, is off by 3.7; a picture not turned by tens.
            assert!(mean < 8.0, "{file} differs from {reference} by {mean:.1} levels on average");
        }
    }
}
