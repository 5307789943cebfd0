//! Tests of `jpeg` with files that no available encoder writes: a small writer of flat blocks makes
//! them, in any sampling, order of scans and coding of the first frequency.

#![allow(clippy::unwrap_used)]

use super::super::tests::{CMYK, LIMITS, PROGRESSIVE, YCCK, jpeg, quadrants, with_exif};
use super::super::{DecodeError, DecodeLimits, Remark, decode, look};
use super::*;

/// Format of a file of flat blocks.
#[derive(Clone)]
struct Kind {
    width: usize,
    height: usize,
    /// Sampling factors across and down, for each component.
    samplings: Vec<(usize, usize)>,
    separate: bool,
    progressive: bool,
    /// Units between restart markers; 0 for none.
    restart: usize,
}

const SAMPLINGS: [[(usize, usize); 3]; 7] = [
    [(1, 1), (1, 1), (1, 1)],
    [(2, 1), (1, 1), (1, 1)],
    [(2, 2), (1, 1), (1, 1)],
    [(1, 2), (1, 1), (1, 1)],
    [(4, 1), (1, 1), (1, 1)],
    [(2, 2), (2, 1), (2, 1)],
    [(1, 1), (2, 2), (2, 2)],
];

fn kind(samplings: &[(usize, usize)]) -> Kind {
    Kind {
        width: 70,
        height: 45,
        samplings: samplings.to_vec(),
        separate: false,
        progressive: false,
        restart: 0,
    }
}

/// Returns a block's value: each column of the first component is brighter than the one before; the
/// colours stay the same.
fn value(component: usize, column: usize) -> i32 {
    match component {
        0 => 6 * column as i32 - 20,
        1 => 30,
        _ => -40,
    }
}

struct Bits {
    bytes: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            self.held = self.held << 1 | (value >> bit & 1);
            self.count += 1;
            if self.count == 8 {
                self.bytes.push(self.held as u8);
                if self.held == 0xFF {
                    self.bytes.push(0);
                }
                (self.held, self.count) = (0, 0);
            }
        }
    }

    /// Writes a block. A mean is coded as four bits for the length of its difference (plus one, so
    /// that no difference is no run of zeros), and the difference; end of block is a single 0.
    fn block(&mut self, difference: i32, only_mean: bool) {
        let length = 32 - difference.unsigned_abs().leading_zeros();
        self.put((length + 1) % 12, 4);
        let coded = if difference < 0 {
            difference - 1
        } else {
            difference
        };
        self.put(coded as u32 & ((1 << length) - 1), length);
        if !only_mean {
            self.put(0, 1);
        }
    }

    fn flush(&mut self) {
        if self.count > 0 {
            self.put((1 << (8 - self.count)) - 1, 8 - self.count);
        }
    }
}

fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 2).unwrap().to_be_bytes();
    [&[0xFF, marker][..], &length, body].concat()
}

fn written(kind: &Kind) -> Vec<u8> {
    let most = |side: fn(&(usize, usize)) -> usize| kind.samplings.iter().map(side).max().unwrap();
    let (across, down) = (most(|s| s.0), most(|s| s.1));
    let mut bytes = vec![0xFF, 0xD8];
    bytes.extend(segment(0xDB, &[&[0][..], &[8; 64]].concat()));
    let mut frame = vec![
        8,
        0,
        kind.height as u8,
        0,
        kind.width as u8,
        kind.samplings.len() as u8,
    ];
    for (id, (h, v)) in (1..).zip(&kind.samplings) {
        frame.extend([id, (h << 4 | v) as u8, 0]);
    }
    bytes.extend(segment(if kind.progressive { 0xC2 } else { 0xC0 }, &frame));
    // Twelve lengths of differences with four bits each; end of block with one.
    bytes.extend(segment(
        0xC4,
        &[
            &[0, 0, 0, 0, 12][..],
            &[0; 12],
            &[11],
            &(0..11).collect::<Vec<u8>>(),
        ]
        .concat(),
    ));
    bytes.extend(segment(0xC4, &[&[0x10, 1][..], &[0; 15], &[0]].concat()));
    if kind.restart > 0 {
        bytes.extend(segment(0xDD, &[0, kind.restart as u8]));
    }
    let all: Vec<usize> = (0..kind.samplings.len()).collect();
    let scans: Vec<&[usize]> = if kind.separate {
        all.chunks(1).collect()
    } else {
        vec![&all]
    };
    for scan in scans {
        let mut header = vec![scan.len() as u8];
        for component in scan {
            header.extend([*component as u8 + 1, 0]);
        }
        header.extend(if kind.progressive {
            [0, 0, 0]
        } else {
            [0, 63, 0]
        });
        bytes.extend(segment(0xDA, &header));
        let (columns, rows) = match scan {
            [alone] => {
                let (h, v) = kind.samplings[*alone];
                (
                    (kind.width * h).div_ceil(8 * across),
                    (kind.height * v).div_ceil(8 * down),
                )
            }
            _ => (
                kind.width.div_ceil(8 * across),
                kind.height.div_ceil(8 * down),
            ),
        };
        let mut bits = Bits {
            bytes: Vec::new(),
            held: 0,
            count: 0,
        };
        let mut means = [0; 4];
        for unit in 0..columns * rows {
            if kind.restart > 0 && unit > 0 && unit % kind.restart == 0 {
                bits.flush();
                bits.bytes
                    .extend([0xFF, 0xD0 + ((unit / kind.restart - 1) % 8) as u8]);
                means = [0; 4];
            }
            for &component in scan {
                let (h, v) = if scan.len() == 1 {
                    (1, 1)
                } else {
                    kind.samplings[component]
                };
                for place in 0..h * v {
                    let mean = value(component, (unit % columns) * h + place % h);
                    bits.block(mean - means[component], kind.progressive);
                    means[component] = mean;
                }
            }
        }
        bits.flush();
        bytes.extend(bits.bytes);
    }
    bytes.extend([0xFF, 0xD9]);
    bytes
}

/// Returns a JPEG for the mutated files: half of the colour's detail, in separate scans, with
/// restart markers.
pub(crate) fn in_scans() -> Vec<u8> {
    written(&Kind {
        separate: true,
        restart: 5,
        ..kind(&SAMPLINGS[2])
    })
}

fn remarks(bytes: &[u8]) -> Result<Vec<Remark>, DecodeError> {
    look(bytes, &LIMITS, |_, _| 1).map(|sight| sight.remarks)
}

#[test]
fn every_sampling_reads_the_same_in_one_scan_and_in_several() {
    for samplings in SAMPLINGS {
        let usual = decode(&written(&kind(&samplings)), &LIMITS).unwrap();
        assert_eq!((usual.width, usual.height), (70, 45));
        // The first block, away from its right edge.
        let luma = 128 + value(0, 0);
        let expected = [luma - 56, luma - 10 + 28, luma + 53].map(|v| v.clamp(0, 255) as u8);
        for (found, expected) in usual.pixels[..3].iter().zip(expected) {
            assert!(
                found.abs_diff(expected) < 4,
                "{samplings:?}: {:?}, not {expected:?}",
                &usual.pixels[..3]
            );
        }
        for (separate, progressive, restart) in [
            (true, false, 0),
            (true, true, 0),
            (false, true, 0),
            (true, false, 3),
            (false, false, 2),
            (true, true, 2),
        ] {
            let kind = Kind {
                separate,
                progressive,
                restart,
                ..kind(&samplings)
            };
            let found = decode(&written(&kind), &LIMITS).unwrap();
            assert!(
                found == usual,
                "{samplings:?} {separate} {progressive} {restart}"
            );
            assert_eq!(
                remarks(&written(&kind)),
                Ok(vec![]),
                "{samplings:?} {separate} {progressive} {restart}"
            );
        }
    }
}

#[test]
fn a_missing_end_marker_is_a_remark_and_a_missing_row_a_refusal() {
    let truncated = Err(DecodeError::Truncated {
        format: Format::Jpeg,
    });
    let mut files = vec![
        jpeg(&quadrants()),
        PROGRESSIVE.to_vec(),
        CMYK.to_vec(),
        YCCK.to_vec(),
    ];
    for samplings in SAMPLINGS {
        let usual = kind(&samplings);
        files.push(written(&usual));
        files.push(written(&Kind {
            separate: true,
            ..usual.clone()
        }));
        files.push(written(&Kind {
            restart: 3,
            ..usual
        }));
    }
    for (n, whole) in files.iter().enumerate() {
        let pixels = decode(whole, &LIMITS).unwrap();
        let end = whole.len();
        assert_eq!(whole[end - 2..], [0xFF, 0xD9]);
        let only_second_half = [&whole[..end - 2], &[0xD9]].concat();
        let room = [&whole[..end - 2], &[0; 4000]].concat();
        for (name, bytes) in [
            ("no end", &whole[..end - 2]),
            ("half an end", &whole[..end - 1]),
            ("D9", &only_second_half),
            ("room", &room),
        ] {
            assert_eq!(
                remarks(bytes),
                Ok(vec![Remark::NoEnd("marker")]),
                "file {n}, {name}"
            );
            assert!(
                decode(bytes, &LIMITS).unwrap() == pixels,
                "file {n}, {name}"
            );
        }
        // The very last bits may be padding.
        for length in (3..end - 6).step_by(if n < 4 { 1 } else { 7 }) {
            assert_eq!(
                remarks(&whole[..length]),
                truncated,
                "file {n}, cut at {length} of {end}"
            );
        }
        let cut = &whole[..end - 12];
        assert_eq!(
            remarks(&[cut, &[0; 400]].concat()),
            truncated,
            "file {n}, cut and filled with zeros"
        );
    }
}

#[test]
fn the_last_restart_interval_is_missed() {
    let whole = written(&Kind {
        restart: 4,
        ..kind(&SAMPLINGS[2])
    });
    let last = whole
        .windows(2)
        .rposition(|two| two[0] == 0xFF && (0xD0..=0xD7).contains(&two[1]))
        .unwrap();
    for length in [last, last + 1, last + 2] {
        assert_eq!(
            remarks(&whole[..length]),
            Err(DecodeError::Truncated {
                format: Format::Jpeg
            }),
            "{length}"
        );
    }
    // The end marker is there, so the file was written this way; viewers show it.
    let ended = [&whole[..last], &[0xFF, 0xD9]].concat();
    assert_eq!(remarks(&ended), Ok(vec![Remark::Faults]));
}

#[test]
fn a_progressive_file_cut_between_its_scans_is_cut_off() {
    // The writer sends the means only: with an end marker the file is complete, without one data
    // may be missing.
    let whole = written(&Kind {
        progressive: true,
        separate: true,
        ..kind(&SAMPLINGS[2])
    });
    assert_eq!(remarks(&whole), Ok(vec![]));
    assert_eq!(
        remarks(&whole[..whole.len() - 2]),
        Err(DecodeError::Truncated {
            format: Format::Jpeg
        })
    );
    let last = PROGRESSIVE
        .windows(2)
        .rposition(|two| two == [0xFF, 0xDA])
        .unwrap();
    assert_eq!(
        remarks(&PROGRESSIVE[..last]),
        Err(DecodeError::Truncated {
            format: Format::Jpeg
        })
    );
}

#[test]
fn odd_headers_and_stray_bytes_refuse_no_pixels() {
    let whole = jpeg(&quadrants());
    let pixels = decode(&whole, &LIMITS).unwrap();
    let after_start = |extra: &[u8]| [&whole[..2], extra, &whole[2..]].concat();
    let scan = whole
        .windows(2)
        .position(|two| two == [0xFF, 0xDA])
        .unwrap();
    let second = [&whole[..], &whole, b"MotionPhoto"].concat();
    let cases: [(&str, Vec<u8>, &[Remark]); 9] = [
        ("short APP14", after_start(&segment(0xEE, b"Adobe\0d")), &[]),
        ("APP14 of another", after_start(&segment(0xEE, b"Ad")), &[]),
        ("empty APP14", after_start(&segment(0xEE, b"")), &[]),
        ("empty APP1", after_start(&segment(0xE1, b"")), &[]),
        ("short APP0", after_start(&segment(0xE0, b"JFIF")), &[]),
        ("fill bytes", after_start(&[0xFF, 0xFF, 0xFF]), &[]),
        (
            "stray bytes",
            [&whole[..scan], &[1, 2, 3], &whole[scan..]].concat(),
            &[Remark::Faults],
        ),
        ("a second picture and a film", second, &[]),
        (
            "junk after the end",
            [&whole[..], &[0xFF, 0xDA, 0, 1, 0xFF]].concat(),
            &[],
        ),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(remarks(&bytes).as_deref(), Ok(expected), "{name}");
        assert!(decode(&bytes, &LIMITS).unwrap() == pixels, "{name}");
    }
}

#[test]
fn a_thumbnail_inside_does_not_stand_for_the_picture() {
    let truncated = Err(DecodeError::Truncated {
        format: Format::Jpeg,
    });
    let thumbnail = jpeg(&quadrants());
    for whole in [written(&kind(&SAMPLINGS[2])), PROGRESSIVE.to_vec()] {
        let bytes = with_exif(&whole, 1, &thumbnail);
        let thumbnail_end = 2 + 2 + 2 + 32 + thumbnail.len();
        assert_eq!(bytes[thumbnail_end - 2..thumbnail_end], [0xFF, 0xD9]);
        assert_eq!(remarks(&bytes[..thumbnail_end]), truncated);
        assert_eq!(
            remarks(&bytes[..bytes.len() - 2]),
            Ok(vec![Remark::NoEnd("marker")])
        );
        // A thumbnail that is cut off itself.
        let cut = with_exif(&whole, 1, &thumbnail[..thumbnail.len() / 2]);
        assert!(decode(&cut, &LIMITS).unwrap() == decode(&whole, &LIMITS).unwrap());
    }
}

#[test]
fn codings_that_cannot_be_read_are_refused_by_name() {
    let whole = written(&kind(&SAMPLINGS[2]));
    let frame = whole
        .windows(4)
        .position(|four| four == [0xFF, 0xC0, 0, 17])
        .unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[frame + at] = byte;
        decode(&bytes, &LIMITS).unwrap_err().to_string()
    };
    for (marker, coding) in [
        (0xC3, "lossless"),
        (0xC5, "hierarchical"),
        (0xC7, "hierarchical"),
        (0xCB, "lossless"),
    ] {
        assert!(with(1, marker).contains(coding), "{}", with(1, marker));
    }
    assert!(
        with(4, 12).contains("12 bits for each colour"),
        "{}",
        with(4, 12)
    );
    assert!(with(9, 2).contains("2 colour components"), "{}", with(9, 2));
}

#[test]
fn arithmetic_coding_is_read() {
    let pixels = decode(include_bytes!("arithmetic.jpg"), &LIMITS).unwrap();
    let usual = decode(include_bytes!("huffman.jpg"), &LIMITS).unwrap();
    assert!(pixels == usual);
}

#[test]
fn a_file_of_very_many_scans_is_refused() {
    let whole = written(&Kind {
        progressive: true,
        ..kind(&SAMPLINGS[2])
    });
    let scan = whole
        .windows(2)
        .position(|two| two == [0xFF, 0xDA])
        .unwrap();
    let times = |times: usize| {
        [
            &whole[..scan],
            &whole[scan..whole.len() - 2].repeat(times),
            &[0xFF, 0xD9],
        ]
        .concat()
    };
    assert!(decode(&times(100), &LIMITS).is_ok());
    assert!(
        decode(&times(101), &LIMITS)
            .unwrap_err()
            .to_string()
            .contains("more than 100 scans")
    );
}

#[test]
fn a_part_is_the_same_pixels_as_in_the_whole() {
    for samplings in SAMPLINGS {
        let bytes = written(&Kind {
            restart: 3,
            ..kind(&samplings)
        });
        let whole = decode(&bytes, &LIMITS).unwrap();
        let jpeg = Jpeg::open(&bytes).unwrap();
        let (piece, remarks) = jpeg.piece(1, 11..50, 7..30).unwrap();
        assert_eq!(
            (piece.left, piece.top, piece.width, piece.height),
            (11, 7, 39, 23)
        );
        assert!(remarks.is_empty());
        for (y, line) in piece.pixels.chunks_exact(3 * 39).enumerate() {
            assert!(
                line == &whole.pixels[3 * (70 * (y + 7) + 11)..][..3 * 39],
                "row {y}"
            );
        }
        for reduction in [2, 4, 8] {
            let [width, height] = jpeg.reduced(reduction);
            let (piece, _) = jpeg.piece(reduction, 0..width, 0..height).unwrap();
            assert_eq!(piece.pixels.len(), 3 * width * height);
            // The full picture has the same colours there.
            let at = |pixels: &[u8], width: usize, x: usize, y: usize| -> [u8; 3] {
                *pixels[3 * (width * y + x)..].first_chunk().unwrap()
            };
            let (found, expected) = (at(&piece.pixels, width, 0, 0), at(&whole.pixels, 70, 1, 1));
            assert!(
                found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) < 6),
                "{reduction}: {found:?} {expected:?}"
            );
        }
    }
}

#[test]
fn a_picture_beyond_the_limit_is_read_reduced_if_it_can_be() {
    let limits = DecodeLimits {
        max_bytes: 1 << 20,
        max_pixels: 250,
    };
    let usual = written(&kind(&SAMPLINGS[2]));
    let sight = look(&usual, &limits, |_, _| 1).unwrap();
    assert_eq!((sight.reduction, sight.size), (4, (70, 45)));
    assert_eq!((sight.picture.width, sight.picture.height), (18, 12));
    let progressive = written(&Kind {
        progressive: true,
        ..kind(&SAMPLINGS[2])
    });
    let refusal = decode(&progressive, &limits).unwrap_err().to_string();
    let expected = "The picture has 70×45 pixels, more than recognition.max_pixels = 250 (a JPEG that is not progressive \
                    may have 16 times as many).";
    assert_eq!(refusal, expected);
    let tight = DecodeLimits {
        max_pixels: 70 * 45 / 16 - 1,
        ..limits
    };
    let refusal = decode(&usual, &tight).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "The picture has 70×45 pixels, more than 16 times recognition.max_pixels = 195."
    );
}
