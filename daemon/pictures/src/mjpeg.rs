//! Makes a well-formed JPEG of a camera's buffer: cuts what follows the end, adds missing Huffman
//! tables, and drops other data that some cameras embed. It does not decode;
//! `decode` checks that the picture is complete.

use std::collections::HashMap;
use std::sync::LazyLock;

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

/// Marker of Huffman tables.
const TABLES: u8 = 0xC4;

/// The standard's own Huffman tables (ITU T.81, K.3), which Motion JPEG implies; extracted from a
/// JPEG that `image` writes.
static STANDARD_TABLES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut jpeg = Vec::new();
    // A picture of 8 by 8 pixels in colour. Encoding cannot fail, and the decoder would report
    // missing tables.
    let _ = JpegEncoder::new(&mut jpeg).encode(&[0; 192], 8, 8, ExtendedColorType::Rgb8);
    let mut tables = Vec::new();
    let _ = segments(&jpeg, |marker, segment| {
        if marker == TABLES {
            tables.extend_from_slice(segment);
        }
    });
    tables
});

/// The last frame in each of the driver's buffers. nokhwa does not say how much of a buffer is new,
/// so a truncated frame is recognised by its end: the previous frame's, at the same place.
#[derive(Default)]
pub struct Buffers(HashMap<usize, Vec<u8>>);

impl Buffers {
    /// Length of a frame's end that is compared: too long to repeat at the same place by chance.
    const TAIL: usize = 64;

    /// Remembers a frame; returns true if only its beginning is new.
    pub fn torn(&mut self, buffer: &[u8]) -> bool {
        let held = self.0.entry(buffer.as_ptr().addr()).or_default();
        let Ok(length) = segments(buffer, |_, _| {}).and_then(|scans| end(buffer, scans)) else {
            // Other checks reject this frame.
            return false;
        };
        let (frame, tail) = (&buffer[..length], length.saturating_sub(Self::TAIL));
        let torn = held.len() == length && held[tail..] == frame[tail..] && held[..] != *frame;
        held.clear();
        held.extend_from_slice(frame);
        torn
    }
}

/// Returns the picture at the beginning of `buffer`: cut at its end marker, with Huffman tables,
/// without EXIF, comments and the like.
pub fn whole(buffer: &[u8]) -> Result<Vec<u8>, String> {
    let mut picture = vec![0xFF, 0xD8];
    let mut tables = false;
    let scans = segments(buffer, |marker, segment| {
        tables |= marker == TABLES;
        // Keep only the application segments that define the colours: JFIF and Adobe.
        let kept = match marker {
            0xE0 => segment[4..].starts_with(b"JFIF"),
            0xE1..=0xED | 0xEF | 0xFE => false,
            _ => true,
        };
        if kept {
            picture.extend_from_slice(segment);
        }
    })?;
    if !tables {
        picture.extend_from_slice(&STANDARD_TABLES);
    }
    picture.extend_from_slice(&buffer[scans..end(buffer, scans)?]);
    Ok(picture)
}

/// Returns the width and height that a JPEG's header states.
pub fn size(buffer: &[u8]) -> Option<(u32, u32)> {
    let mut size = None;
    segments(buffer, |marker, segment| {
        // Start of frame, of any kind: length, precision, height, width.
        if matches!(marker, 0xC0..=0xCF)
            && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
            && let Some(&[high, low, wide, narrow]) = segment.get(5..9)
        {
            let side = |bytes| u32::from(u16::from_be_bytes(bytes));
            size = Some((side([wide, narrow]), side([high, low])));
        }
    })
    .ok()?;
    size
}

/// Calls `each` with the marker and the bytes of every segment before the first scan; returns where
/// that scan begins.
fn segments(buffer: &[u8], mut each: impl FnMut(u8, &[u8])) -> Result<usize, String> {
    if !buffer.starts_with(&[0xFF, 0xD8]) {
        return Err("the frame does not begin as a JPEG".into());
    }
    let mut at = 2;
    loop {
        match buffer.get(at..at + 4) {
            Some(&[0xFF, 0xFF, ..]) => at += 1,
            Some(&[0xFF, 0xDA, ..]) => return Ok(at),
            Some(&[0xFF, marker, high, low])
                if marker >= 0xC0 && !matches!(marker, 0xD0..=0xD9) =>
            {
                let segment = buffer.get(at..at + 2 + usize::from(u16::from_be_bytes([high, low])));
                let segment = segment
                    .filter(|segment| segment.len() >= 4)
                    .ok_or("the frame is cut off in its header")?;
                each(marker, segment);
                at += segment.len();
            }
            _ => return Err("the frame's header is damaged".into()),
        }
    }
}

/// Returns the end of the picture whose first scan begins at `at`. In a scan, an 0xFF that is no
/// marker is followed by 0.
fn end(buffer: &[u8], mut at: usize) -> Result<usize, String> {
    let cut_off = || "the frame is cut off".to_string();
    loop {
        let rest = buffer.get(at..).unwrap_or_default();
        at += rest
            .iter()
            .position(|byte| *byte == 0xFF)
            .ok_or_else(cut_off)?;
        match buffer.get(at + 1).ok_or_else(cut_off)? {
            0xD9 => return Ok(at + 2),
            0xFF => at += 1,
            0x00 | 0x01 | 0xD0..=0xD8 => at += 2,
            _ => {
                let length = buffer.get(at + 2..at + 4).ok_or_else(cut_off)?;
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{DecodeLimits, decode};

    const LIMITS: DecodeLimits = DecodeLimits {
        max_bytes: 1 << 24,
        max_pixels: 1 << 24,
    };

    fn photo() -> Vec<u8> {
        std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/photos/obama_1.jpg"
        ))
        .unwrap()
    }

    #[test]
    fn the_rest_of_the_buffer_is_cut_off() {
        let photo = photo();
        let clean = whole(&photo).unwrap();
        let mut buffer = photo.clone();
        // The rest of an earlier, larger picture, with its own end marker.
        buffer.extend_from_slice(&photo[photo.len() / 2..]);
        assert_eq!(whole(&buffer).unwrap(), clean);
        assert!(clean.ends_with(&[0xFF, 0xD9]));
        let decoded = decode(&clean, &LIMITS).unwrap();
        let sides = (decoded.width as u32, decoded.height as u32);
        assert_eq!(size(&photo), Some(sides));
        assert_eq!(
            decode(&clean, &LIMITS).unwrap().pixels,
            decode(&photo, &LIMITS).unwrap().pixels
        );
    }

    #[test]
    fn a_frame_that_broke_off_is_known_by_the_end_of_the_one_before() {
        let other = std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/photos/biden_1.jpg"
        ))
        .unwrap();
        let (photo, mut buffers) = (photo(), Buffers::default());
        let mut buffer = vec![0; 100_000];
        let write = |buffer: &mut [u8], frame: &[u8]| buffer[..frame.len()].copy_from_slice(frame);
        for frame in [&photo, &photo, &other, &photo] {
            write(&mut buffer, frame);
            assert!(!buffers.torn(&buffer), "whole, or the same as before");
        }
        write(&mut buffer, &other[..other.len() / 2]);
        assert!(whole(&buffer).is_ok(), "it looks whole");
        assert!(buffers.torn(&buffer));
        write(&mut buffer, &other);
        assert!(!buffers.torn(&buffer));
        buffer.fill(0);
        assert!(!buffers.torn(&buffer), "that is found out otherwise");
    }

    #[test]
    fn missing_huffman_tables_are_filled_in_and_trailing_bytes_cut() {
        let mut jpeg = Vec::new();
        let pixels: Vec<u8> = (0..64 * 64 * 3).map(|i| (i * 7 % 251) as u8).collect();
        JpegEncoder::new(&mut jpeg)
            .encode(&pixels, 64, 64, ExtendedColorType::Rgb8)
            .unwrap();
        let mut bare = vec![0xFF, 0xD8];
        bare.extend_from_slice(b"\xFF\xE0\0\x06AVI1\xFF\xE1\0\x08secret\xFF\xFE\0\x08secret");
        let scans = segments(&jpeg, |marker, segment| {
            if marker != TABLES {
                bare.extend_from_slice(segment);
            }
        })
        .unwrap();
        bare.extend_from_slice(&jpeg[scans..]);
        let made = whole(&bare).unwrap();
        assert_eq!(
            decode(&made, &LIMITS).unwrap().pixels,
            decode(&jpeg, &LIMITS).unwrap().pixels
        );
        assert!(!made.windows(6).any(|part| part == b"secret"));
    }

    #[test]
    fn what_is_cut_off_damaged_or_no_jpeg_is_refused_in_words() {
        let photo = photo();
        assert!(
            whole(&photo[..photo.len() / 2])
                .unwrap_err()
                .contains("cut off")
        );
        assert!(whole(&photo[..100]).is_err());
        assert!(whole(b"").unwrap_err().contains("does not begin"));
        assert!(whole(&[0xFF; 100]).is_err());
        assert!(whole(b"\xFF\xD8\xFF\xE0\0\0\0\0\0\0").is_err());
        for at in 0..400 {
            let mut damaged = photo.clone();
            damaged[at] = 0xFF;
            // The result may be an error or a picture, but never a panic.
            let _ = whole(&damaged);
        }
    }
}
