//! Tests of `decode` with damaged, cut-off and misleading bytes, and with the shared collection of
//! hard files if it is present. Tests with intact pictures are in `tests`.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use super::tests::{
    CMYK, LIMITS, LOSSY_WEBP, PROGRESSIVE, YCCK, encode, jpeg, quadrants, with_exif,
};
use super::*;
use crate::kind::sniff;

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

/// Returns the picture in every format whose decoder reads on behind the pixels.
fn with_an_end() -> [(Format, Vec<u8>); 4] {
    // Rows of 45 pixels need padding in BMP.
    let picture = image::imageops::thumbnail(&quadrants(), 45, 32);
    [Format::Png, Format::Gif, Format::Bmp, Format::WebP]
        .map(|format| (format, encode(picture.clone(), format)))
}

fn seen(bytes: &[u8]) -> Result<(Vec<u8>, Vec<Remark>), DecodeError> {
    look(bytes, &LIMITS, |_, _| 1).map(|sight| (sight.picture.pixels, sight.remarks))
}

#[test]
fn a_missing_end_is_a_remark_when_all_pixels_are_there() {
    for (format, bytes) in with_an_end() {
        let (pixels, remarks) = seen(&bytes).unwrap();
        assert_eq!(remarks, [], "{format}");
        // PNG: checksum, name, or all of IEND, and the checksums behind the pixels. GIF: the end,
        // and the end of the last block. BMP: padding (135 bytes a row). WebP: a byte of padding.
        let cuts: &[usize] = match format {
            Format::Png => &[1, 5, 8, 11, 12, 14, 16, 18],
            Format::Gif => &[1, 2],
            Format::Bmp => &[1],
            _ => &[],
        };
        for &cut in cuts {
            let found = seen(&bytes[..bytes.len() - cut]);
            let (found, remarks) = found.unwrap_or_else(|why| panic!("{format} -{cut}: {why}"));
            assert!(found == pixels, "{format} -{cut}");
            let remark = remarks.first().unwrap().to_string();
            assert!(
                remark.starts_with("the file ends without its last "),
                "{format} -{cut}: {remark}"
            );
        }
        // Bytes behind the end are no part of the picture.
        let more = [&bytes[..], b"more bytes than a header"].concat();
        assert_eq!(seen(&more), Ok((pixels, Vec::new())), "{format}");
    }
}

#[test]
fn missing_pixels_are_a_refusal_whatever_the_end() {
    for (format, bytes) in with_an_end() {
        let pixels = seen(&bytes).unwrap().0;
        for cut in 1..bytes.len() - 12 {
            match seen(&bytes[..bytes.len() - cut]) {
                Ok((found, remarks)) => assert!(
                    found == pixels && remarks.len() == 1,
                    "{format} -{cut}: {remarks:?}"
                ),
                Err(error) => assert!(
                    matches!(
                        error,
                        DecodeError::Truncated { .. } | DecodeError::NotAPicture(_)
                    ),
                    "{format} -{cut}: {error}"
                ),
            }
        }
    }
}

#[test]
fn a_wrong_length_in_a_header_refuses_no_pixels() {
    let with_length = |bytes: &[u8], at: usize, length: u32| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let length = LOSSY_WEBP.len() as u32 - 8;
    for webp in [LOSSY_WEBP.to_vec(), extended(LOSSY_WEBP)] {
        let (pixels, _) = seen(&webp).unwrap();
        let length = length + (webp.len() - LOSSY_WEBP.len()) as u32;
        for (claimed, remarks) in [
            (0, 0),
            (u32::MAX, 0),
            (length, 0),
            (length + 1, 1),
            (length + 4000, 1),
        ] {
            let (found, said) = seen(&with_length(&webp, 4, claimed)).unwrap();
            assert!(found == pixels, "{claimed}");
            assert_eq!(said.len(), remarks, "{claimed}: {said:?}");
        }
    }
    // The BMP's own length, at its third byte.
    let bmp = encode(quadrants(), Format::Bmp);
    for claimed in [0, 1, u32::MAX] {
        assert_eq!(seen(&with_length(&bmp, 2, claimed)), seen(&bmp));
    }
}

/// Returns a WebP in the extended form, with metadata behind the pixels.
fn extended(simple: &[u8]) -> Vec<u8> {
    let mut webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x2f\0\0\x1f\0\0".to_vec();
    webp.extend_from_slice(&simple[12..]);
    webp.extend_from_slice(b"XMP \x02\0\0\0ok");
    webp
}

#[test]
fn faults_of_every_decoder_are_said_in_plain_words() {
    let png = encode(quadrants(), Format::Png);
    let data = png.windows(4).position(|name| name == b"IDAT").unwrap();
    let mut checksum = png.clone();
    // The last byte of the IDAT chunk's checksum.
    let end = png.len() - 13;
    checksum[end] ^= 1;
    let mut packed = png[..data + 4].to_vec();
    packed.extend_from_slice(&png[data + 4..]);
    packed[data + 8] ^= 0xFF;
    let mut no_pixels = png[..data - 4].to_vec();
    no_pixels.extend_from_slice(&png[png.len() - 12..]);
    let bmp = encode(quadrants(), Format::Bmp);
    let depth = [&bmp[..28], &[7, 0], &bmp[30..]].concat();
    let coding = [&bmp[..30], &[9, 0, 0, 0], &bmp[34..]].concat();
    let tiff = encode(quadrants(), Format::Tiff);
    let entry = |tag: u16| {
        let tag = tag.to_le_bytes();
        tiff.windows(4)
            .position(|entry| entry[..2] == tag && entry[2..] == [3, 0])
            .unwrap()
    };
    // Compression and photometric interpretation.
    let [compression, colours] = [259, 262].map(entry);
    let with = |at: usize, value: [u8; 2]| [&tiff[..at + 8], &value, &tiff[at + 10..]].concat();
    let mut webp = LOSSY_WEBP.to_vec();
    webp[20..40].fill(0xFF);
    let gif = encode(quadrants(), Format::Gif);
    let gif = [&gif[..gif.len() / 2], &[0, 0x3B]].concat();
    for (what, bytes, says) in [
        ("checksum", checksum, "a checksum does not fit its data"),
        ("packed", packed, ""),
        ("no pixels", no_pixels, ""),
        ("depth", depth, ""),
        ("coding", coding, ""),
        (
            "compression",
            with(compression, [0x77, 0x77]),
            "a rare kind of TIFF",
        ),
        (
            "colours",
            with(colours, [0x77, 0x77]),
            "a rare kind of TIFF",
        ),
        ("lossy", webp, ""),
        ("gif", gif, ""),
    ] {
        let sentence = decode(&bytes, &LIMITS).unwrap_err().to_string();
        println!("{what}: {sentence}");
        assert!(sentence.contains(says), "{what}: {sentence}");
        for code in PROGRAM_CODE {
            assert!(!sentence.contains(code), "{what}: {sentence}");
        }
    }
}

/// Signs of a program's data structures, which tell an operator nothing.
const PROGRAM_CODE: [&str; 8] = ["{", "}", "::", "(Unknown", "[", "\"", "`", "Some("];

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
        "/../../models/packs/dlib-mtcnn/selftest.jpg"
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
                    for code in PROGRAM_CODE {
                        assert!(!sentence.contains(code), "{sentence}");
                    }
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
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
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
