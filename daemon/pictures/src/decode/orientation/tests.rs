//! Tests of `orientation`: each container, each way to write the number, and blocks that are broken
//! or duplicate.

#![allow(clippy::unwrap_used)]

use super::super::tests::{LIMITS, LOSSY_WEBP, encode, jpeg, quadrants};
use super::super::{DecodeError, decode};
use super::*;

/// Makes a block of one number: type 3 has 16 bits, type 4 has 32.
fn block(kind: u16, count: u32, value: u32) -> Vec<u8> {
    let mut block = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12".to_vec();
    block.extend(kind.to_be_bytes());
    block.extend(count.to_be_bytes());
    match (kind, count) {
        (3, ..=2) => {
            block.extend([(value as u16).to_be_bytes(), (value as u16).to_be_bytes()].concat());
        }
        (4, 1) => block.extend(value.to_be_bytes()),
        // Elsewhere: behind the end of the list.
        _ => block.extend(26_u32.to_be_bytes()),
    }
    block.extend([0; 4]);
    for _ in 0..count {
        block.extend(if kind == 3 {
            (value as u16).to_be_bytes().to_vec()
        } else {
            value.to_be_bytes().to_vec()
        });
    }
    block
}

fn short(value: u32) -> Vec<u8> {
    block(3, 1, value)
}

fn named(block: &[u8]) -> Vec<u8> {
    [b"Exif\0\0", block].concat()
}

/// Makes a JPEG with these APP1 segments.
fn with_segments(segments: &[Vec<u8>]) -> Vec<u8> {
    let whole = jpeg(&quadrants());
    let mut bytes = whole[..2].to_vec();
    for segment in segments {
        bytes.extend([0xFF, 0xE1]);
        bytes.extend(u16::try_from(segment.len() + 2).unwrap().to_be_bytes());
        bytes.extend(segment);
    }
    bytes.extend(&whole[2..]);
    bytes
}

/// Makes a WebP of the extended form, with the block behind the pixels.
fn webp_with(block: &[u8]) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let padding = vec![0; data.len() % 2];
        [
            &kind[..],
            &(data.len() as u32).to_le_bytes(),
            data,
            &padding,
        ]
        .concat()
    };
    let header = [8, 0, 0, 0, 47, 0, 0, 31, 0, 0];
    let chunks = [
        &chunk(b"VP8X", &header),
        &LOSSY_WEBP[12..],
        &chunk(b"EXIF", block),
    ]
    .concat();
    [
        &b"RIFF"[..],
        &(chunks.len() as u32 + 4).to_le_bytes(),
        b"WEBP",
        &chunks,
    ]
    .concat()
}

/// Makes a PNG with an additional chunk before or behind the pixels; its checksum is wrong.
fn png_with(kind: &[u8; 4], data: &[u8], behind: bool) -> Vec<u8> {
    let whole = encode(quadrants(), Format::Png);
    let at = if behind { whole.len() - 12 } else { 33 };
    let chunk = [&(data.len() as u32).to_be_bytes()[..], kind, data, &[0; 4]].concat();
    [&whole[..at], &chunk, &whole[at..]].concat()
}

/// Makes an uncompressed picture of one grey row, with this type of number for the orientation.
fn tiff_with(kind: u16, count: u32, value: u32) -> Vec<u8> {
    let mut bytes = b"II\x2a\0\x0c\0\0\0\x10\x80\xF0\0".to_vec();
    let entries: [(u16, u16, u32, u32); 9] = [
        (256, 3, 1, 3),
        (257, 3, 1, 1),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (
            274,
            kind,
            count,
            if kind == 3 && count == 2 {
                value | value << 16
            } else {
                value
            },
        ),
        (278, 3, 1, 1),
        (279, 4, 1, 3),
    ];
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn the_number_is_read_in_whatever_type_and_count_it_comes() {
    let turned = Orientation::Rotate90;
    let blocks = [
        short(6),
        block(4, 1, 6),
        block(3, 2, 6),
        block(4, 2, 6),
        block(3, 3, 6),
        block(1, 1, 0x0600_0000),
    ];
    for (n, exif) in blocks.iter().enumerate().take(5) {
        assert_eq!(
            of(Format::Jpeg, &with_segments(&[named(exif)])),
            turned,
            "block {n}"
        );
        assert_eq!(of(Format::WebP, &webp_with(exif)), turned, "block {n}");
        assert_eq!(
            of(Format::Png, &png_with(b"eXIf", exif, false)),
            turned,
            "block {n}"
        );
    }
    for (kind, count) in [(3, 1), (4, 1), (3, 2)] {
        let bytes = tiff_with(kind, count, 6);
        assert_eq!(of(Format::Tiff, &bytes), turned, "{kind} {count}");
        let picture = decode(&bytes, &LIMITS).unwrap();
        assert_eq!((picture.width, picture.height), (1, 3), "{kind} {count}");
    }
    for value in [0, 9, 99, 262, 65_535] {
        for exif in [short(value), block(4, 1, value)] {
            assert_eq!(
                of(Format::Jpeg, &with_segments(&[named(&exif)])),
                Orientation::NoTransforms,
                "{value}"
            );
        }
    }
}

#[test]
fn the_first_good_block_counts_wherever_it_stands() {
    let junk = || named(b"MM\0\x2a\xFF\xFF\xFF\xFFjunk");
    let xmp = || b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>".to_vec();
    let good = || named(&short(6));
    let cases: [(&str, Vec<Vec<u8>>); 8] = [
        ("alone", vec![good()]),
        ("junk behind", vec![good(), junk()]),
        ("junk before", vec![junk(), good()]),
        ("upright behind", vec![good(), named(&short(1))]),
        ("0 before", vec![named(&short(0)), good()]),
        ("9 behind", vec![good(), named(&short(9))]),
        ("XMP before", vec![xmp(), good()]),
        (
            "another filling",
            vec![[b"Exif\0\xFF", &short(6)[..]].concat()],
        ),
    ];
    for (name, segments) in cases {
        assert_eq!(
            of(Format::Jpeg, &with_segments(&segments)),
            Orientation::Rotate90,
            "{name}"
        );
    }
    assert_eq!(
        of(Format::Jpeg, &with_segments(&[named(&short(1)), good()])),
        Orientation::NoTransforms
    );
}

#[test]
fn webp_and_png_may_carry_the_name_of_jpegs_segment() {
    for value in 1..=8 {
        let expected = Orientation::from_exif(value as u8).unwrap();
        for exif in [short(value), named(&short(value))] {
            assert_eq!(of(Format::WebP, &webp_with(&exif)), expected);
            for behind in [false, true] {
                assert_eq!(of(Format::Png, &png_with(b"eXIf", &exif, behind)), expected);
            }
        }
    }
    let sides =
        |bytes: &[u8]| decode(bytes, &LIMITS).map(|picture| (picture.width, picture.height));
    assert_eq!(sides(&webp_with(&named(&short(6)))), Ok((32, 48)));
    assert_eq!(
        sides(&png_with(b"eXIf", &named(&short(8)), true)),
        Ok((32, 48))
    );
}

#[test]
fn a_broken_block_refuses_no_pixels() {
    let blocks = [
        &b""[..],
        b"M",
        b"MM\0\x2a",
        b"II\x2a\0\xFF\xFF\xFF\x7F",
        &[0xFF; 300],
        &short(6)[..15],
        b"Exif\0\0",
    ];
    for exif in blocks {
        for bytes in [
            with_segments(&[named(exif)]),
            webp_with(exif),
            png_with(b"eXIf", exif, false),
        ] {
            let sides = decode(&bytes, &LIMITS).map(|picture| (picture.width, picture.height));
            assert_eq!(sides, Ok::<_, DecodeError>((48, 32)), "{exif:02x?}");
        }
    }
}

#[test]
fn a_png_is_read_without_its_profiles_and_texts() {
    let whole = encode(quadrants(), Format::Png);
    assert!(matches!(
        chunks::essential_png(&whole),
        std::borrow::Cow::Borrowed(_)
    ));
    for kind in [
        b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"vpAg", b"acTL", b"gAMA",
    ] {
        for behind in [false, true] {
            let bytes = png_with(kind, &[0x78; 5000], behind);
            assert_eq!(*chunks::essential_png(&bytes), *whole);
            assert!(decode(&bytes, &LIMITS).unwrap() == decode(&whole, &LIMITS).unwrap());
        }
    }
    // Transparency belongs to the pixels. A file that was cut off stays so.
    assert!(
        chunks::essential_png(&png_with(b"tRNS", &[0; 6], false))
            .windows(4)
            .any(|four| four == b"tRNS")
    );
    let cut = png_with(b"iCCP", &[0x78; 5000], false);
    assert!(decode(&cut[..cut.len() - 40], &LIMITS).is_err());
    assert!(decode(&cut[..2000], &LIMITS).is_err());
}
