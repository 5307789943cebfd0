//! Tests of `decode` with pictures made here and with four tiny fixtures that no available encoder
//! makes (`cmyk.jpg`, `ycck.jpg`, `progressive.jpg`, `lossy.webp`: four coloured quadrants, made
//! with Pillow). Tests with damaged or foreign files are in `hostile`.

#![allow(clippy::unwrap_used)]

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageBuffer, Rgba, RgbaImage};

use super::*;
use crate::kind::sniff;

pub(super) const LIMITS: DecodeLimits = DecodeLimits {
    max_bytes: 20 << 20,
    max_pixels: 50_000_000,
};
pub(super) const CMYK: &[u8] = include_bytes!("cmyk.jpg");
pub(super) const YCCK: &[u8] = include_bytes!("ycck.jpg");
pub(super) const PROGRESSIVE: &[u8] = include_bytes!("progressive.jpg");
pub(super) const LOSSY_WEBP: &[u8] = include_bytes!("lossy.webp");
const RED: [u8; 3] = [220, 20, 20];
const GREEN: [u8; 3] = [20, 200, 20];
const BLUE: [u8; 3] = [20, 20, 220];
const GREY: [u8; 3] = [128, 128, 128];

/// Makes a 48×32 picture: red and green above blue and grey.
pub(super) fn quadrants() -> image::RgbImage {
    ImageBuffer::from_fn(48, 32, |x, y| {
        image::Rgb([[RED, GREEN], [BLUE, GREY]][(y / 16) as usize][(x / 24) as usize])
    })
}

pub(super) fn encode(picture: impl Into<DynamicImage>, format: Format) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .into()
        .write_to(&mut bytes, format.image_format())
        .unwrap();
    bytes.into_inner()
}

pub(super) fn jpeg(picture: &image::RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, 90);
    picture.write_with_encoder(encoder).unwrap();
    bytes
}

/// Returns the JPEG with an APP1 segment: EXIF with this orientation, then `extra`.
pub(super) fn with_exif(jpeg: &[u8], orientation: u8, extra: &[u8]) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    exif.extend(extra);
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xFF, 0xE1]);
    bytes.extend(u16::try_from(exif.len() + 2).unwrap().to_be_bytes());
    bytes.extend(exif);
    bytes.extend(&jpeg[2..]);
    bytes
}

/// Returns the colours in the middle of the four quadrants: above left, above right, below left,
/// below right.
fn corners(picture: &Rgb) -> [[u8; 3]; 4] {
    let at = |x: usize, y: usize| {
        let i = (y * picture.height / 4 * picture.width + x * picture.width / 4) * 3;
        [
            picture.pixels[i],
            picture.pixels[i + 1],
            picture.pixels[i + 2],
        ]
    };
    [at(1, 1), at(3, 1), at(1, 3), at(3, 3)]
}

fn assert_near(found: [[u8; 3]; 4], expected: [[u8; 3]; 4], tolerance: u8, what: &str) {
    let near = found
        .iter()
        .flatten()
        .zip(expected.iter().flatten())
        .all(|(a, b)| a.abs_diff(*b) <= tolerance);
    assert!(near, "{what}: found {found:?}, expected {expected:?}");
}

#[test]
fn every_format_keeps_its_colours_and_is_sniffed_by_content() {
    let files = [
        (Format::Jpeg, jpeg(&quadrants())),
        (Format::Jpeg, PROGRESSIVE.to_vec()),
        (Format::Png, encode(quadrants(), Format::Png)),
        (Format::WebP, encode(quadrants(), Format::WebP)),
        (Format::WebP, LOSSY_WEBP.to_vec()),
        (Format::Bmp, encode(quadrants(), Format::Bmp)),
        (Format::Tiff, encode(quadrants(), Format::Tiff)),
        (Format::Gif, encode(quadrants(), Format::Gif)),
    ];
    for (format, bytes) in files {
        assert_eq!(sniff(&bytes), Some(format));
        let picture = decode(&bytes, &LIMITS).unwrap();
        assert_eq!((picture.width, picture.height), (48, 32), "{format}");
        assert_near(
            corners(&picture),
            [RED, GREEN, BLUE, GREY],
            6,
            &format.to_string(),
        );
    }
}

#[test]
fn inks_of_cmyk_and_ycck_jpegs_become_the_right_colours() {
    let expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [127, 127, 127]];
    assert_near(
        corners(&decode(CMYK, &LIMITS).unwrap()),
        expected,
        4,
        "CMYK",
    );
    assert_near(
        corners(&decode(YCCK, &LIMITS).unwrap()),
        expected,
        4,
        "YCCK",
    );
}

#[test]
fn grey_and_sixteen_bit_pictures_become_rgb() {
    let mut grey = Vec::new();
    JpegEncoder::new(&mut grey)
        .encode(&[100; 16 * 16], 16, 16, ExtendedColorType::L8)
        .unwrap();
    assert_near(
        corners(&decode(&grey, &LIMITS).unwrap()),
        [[100; 3]; 4],
        2,
        "grey JPEG",
    );
    let deep: ImageBuffer<image::Rgb<u16>, _> =
        ImageBuffer::from_pixel(8, 8, image::Rgb([0xFFFF, 0x8080, 0]));
    for format in [Format::Png, Format::Tiff] {
        let picture = decode(&encode(deep.clone(), format), &LIMITS).unwrap();
        assert_near(corners(&picture), [[255, 128, 0]; 4], 0, "16 bit");
    }
}

#[test]
fn transparent_pixels_show_white_paper() {
    let alphas = [[255, 128], [0, 0]];
    let glass = RgbaImage::from_fn(48, 32, |x, y| {
        Rgba([200, 0, 0, alphas[(y / 16) as usize][(x / 24) as usize]])
    });
    let expected = [[200, 0, 0], [227, 127, 127], [255; 3], [255; 3]];
    for format in [Format::Png, Format::WebP, Format::Tiff] {
        assert_near(
            corners(&decode(&encode(glass.clone(), format), &LIMITS).unwrap()),
            expected,
            0,
            &format.to_string(),
        );
    }
    let deep: ImageBuffer<Rgba<u16>, _> = ImageBuffer::from_pixel(8, 8, Rgba([0xFFFF, 0, 0, 0]));
    assert_near(
        corners(&decode(&encode(deep, Format::Png), &LIMITS).unwrap()),
        [[255; 3]; 4],
        0,
        "16 bit",
    );
}

#[test]
fn all_eight_exif_orientations_come_out_upright() {
    let stored = jpeg(&quadrants());
    // Upright places of the stored corners (red, green / blue, grey): EXIF 2.32, table of tag 274.
    let expected = [
        [RED, GREEN, BLUE, GREY],
        [GREEN, RED, GREY, BLUE],
        [GREY, BLUE, GREEN, RED],
        [BLUE, GREY, RED, GREEN],
        [RED, BLUE, GREEN, GREY],
        [BLUE, RED, GREY, GREEN],
        [GREY, GREEN, BLUE, RED],
        [GREEN, GREY, RED, BLUE],
    ];
    for (orientation, corner) in (1..=8).zip(expected) {
        let picture = decode(&with_exif(&stored, orientation, &[]), &LIMITS).unwrap();
        let size = if orientation < 5 { (48, 32) } else { (32, 48) };
        assert_eq!(
            (picture.width, picture.height),
            size,
            "orientation {orientation}"
        );
        assert_near(
            corners(&picture),
            corner,
            6,
            &format!("orientation {orientation}"),
        );
    }
    let nonsense = decode(&with_exif(&stored, 99, &[]), &LIMITS).unwrap();
    assert_near(corners(&nonsense), expected[0], 6, "orientation 99");
}

#[test]
fn limits_hold_before_anything_is_decoded() {
    let tight = DecodeLimits {
        max_bytes: 1 << 20,
        max_pixels: 48 * 32 - 1,
    };
    for format in [
        Format::Jpeg,
        Format::Png,
        Format::WebP,
        Format::Gif,
        Format::Bmp,
        Format::Tiff,
    ] {
        let bytes = encode(quadrants(), format);
        if format != Format::Jpeg {
            let sentence = decode(&bytes, &tight).unwrap_err().to_string();
            let expected = "48×32 pixels, more than recognition.max_pixels = 1535 (a JPEG may have 16 times as many).";
            assert!(sentence.ends_with(expected), "{format}: {sentence}");
        }
        let small = DecodeLimits {
            max_bytes: bytes.len() - 1,
            ..LIMITS
        };
        let expected = DecodeError::TooManyBytes {
            bytes: bytes.len(),
            limit: bytes.len() - 1,
        };
        assert_eq!(decode(&bytes, &small), Err(expected), "{format}");
    }
    let deep: ImageBuffer<image::Rgb<u16>, _> =
        ImageBuffer::from_pixel(48, 32, image::Rgb([0xFFFF, 0x8080, 0]));
    let twice = DecodeLimits {
        max_pixels: 2 * 48 * 32 - 1,
        ..LIMITS
    };
    for format in [Format::Png, Format::Tiff] {
        let sentence = decode(&encode(deep.clone(), format), &twice)
            .unwrap_err()
            .to_string();
        assert!(
            sentence.contains("more than half of recognition.max_pixels = 3071"),
            "{sentence}"
        );
    }
    // A header that claims 65 500 × 65 500 pixels; the frame header is the only segment with length
    // 17.
    let mut bomb = jpeg(&quadrants());
    let frame = bomb
        .windows(4)
        .position(|w| w == [0xFF, 0xC0, 0, 17])
        .unwrap();
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
    assert!(matches!(
        decode(&bomb, &LIMITS),
        Err(DecodeError::TooManyPixels { width: 65_500, .. })
    ));
}

#[test]
fn the_smallest_and_thinnest_pictures_decode() {
    for (width, height) in [(1, 1), (1, 4000), (4000, 1)] {
        for format in [
            Format::Jpeg,
            Format::Png,
            Format::WebP,
            Format::Gif,
            Format::Bmp,
            Format::Tiff,
        ] {
            let bytes = encode(
                image::RgbImage::from_pixel(width, height, image::Rgb(GREY)),
                format,
            );
            let picture = decode(&bytes, &LIMITS).unwrap();
            assert_eq!(
                (picture.width, picture.height),
                (width as usize, height as usize),
                "{format}"
            );
            assert!(
                picture.pixels.iter().all(|v| v.abs_diff(128) < 3),
                "{format}"
            );
        }
    }
}

#[test]
fn a_non_picture_is_named_and_leading_blanks_are_skipped() {
    for (bytes, says) in [
        (
            &b"\0\0\0\x18ftypheic\0\0\0\0"[..],
            "The file is HEIC; send it as JPEG",
        ),
        (b"", "The file is empty."),
        (
            b"/9j/4AAQSkZJRgABAQAAAQABAAD/",
            "The file is a JPEG as base64 text; decode it",
        ),
    ] {
        let said = decode(bytes, &LIMITS).unwrap_err().to_string();
        assert!(said.starts_with(says), "{said}");
    }
    let mut jpeg = encode(
        image::RgbImage::from_pixel(8, 8, image::Rgb(GREY)),
        Format::Jpeg,
    );
    jpeg.splice(..0, *b"\r\n");
    assert!(decode(&jpeg, &LIMITS).is_ok());
}

/// The default limits of kithd's configuration, whose own test names them, with pictures as phones
/// make them.
#[test]
fn the_default_limits_pass_what_phones_sell_as_full_resolution() {
    let limits = DecodeLimits {
        max_bytes: 64 << 20,
        max_pixels: 65_000_000,
    };
    let mut fifty = Vec::new();
    JpegEncoder::new(&mut fifty)
        .encode(&vec![100; 8160 * 6144], 8160, 6144, ExtendedColorType::L8)
        .unwrap();
    let sight = look(&fifty, &limits, |_, _| 4).unwrap();
    assert_eq!((sight.size, sight.reduction), ((8160, 6144), 4));
    // 200 megapixels: the frame header of a small JPEG, claiming them.
    let claiming = |jpeg: &[u8], marker: u8| {
        let mut jpeg = jpeg.to_vec();
        let frame = jpeg
            .windows(2)
            .position(|pair| pair == [0xFF, marker])
            .unwrap();
        let [width, height] = [16_320_u16, 12_240].map(u16::to_be_bytes);
        jpeg[frame + 5..frame + 9].copy_from_slice(&[height, width].concat());
        jpeg
    };
    let baseline = claiming(&jpeg(&quadrants()), 0xC0);
    assert!(matches!(
        pixels_within(
            Format::Jpeg,
            [16_320, 12_240],
            limits.max_pixels * JPEG_TIMES,
            String::new()
        ),
        Ok(199_756_800)
    ));
    let opened = Jpeg::open(&baseline).unwrap();
    assert!(!opened.in_scans && opened.width == 16_320);
    let progressive = decode(&claiming(PROGRESSIVE, 0xC2), &limits).unwrap_err();
    assert_eq!(
        progressive.to_string(),
        "The picture has 16320×12240 pixels, more than recognition.max_pixels = 65000000 (a JPEG that is not \
         progressive may have 16 times as many)."
    );
    let mut bmp = encode(quadrants(), Format::Bmp);
    bmp[18..22].copy_from_slice(&16_320_i32.to_le_bytes());
    bmp[22..26].copy_from_slice(&12_240_i32.to_le_bytes());
    assert_eq!(
        decode(&bmp, &limits).unwrap_err().to_string(),
        "The picture has 16320×12240 pixels, more than recognition.max_pixels = 65000000 (a JPEG may have 16 \
         times as many)."
    );
}
