//! Walks the markers of a JPEG to refuse what zune-jpeg (0.5.15, inside `image`) would read wrongly while
//! reporting success. Not a decoder: it looks at no coefficient.

use super::{DecodeError, Format};

/// Refuses a JPEG that does not reach its end-of-image marker (zune-jpeg fills what is missing with
/// grey) and the two rare codings it cannot read.
///
/// Segments are stepped over by their length, so the end marker of an EXIF thumbnail does not count; in
/// scan data a 0xFF that is no marker is followed by 0, so the next marker can be searched for. What
/// follows the end marker is ignored.
pub(super) fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    let truncated = || DecodeError::Truncated { format: Format::Jpeg };
    let rare = |coding: &str| DecodeError::Unsupported { looks_like: format!("a rare kind of JPEG ({coding})") };
    let mut frame = Frame::default();
    let mut scans = 0;
    // After the start-of-image marker that made it a JPEG.
    let mut at = 2;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at += rest.iter().position(|&byte| byte == 0xFF).ok_or_else(truncated)? + 1;
        let marker = *bytes.get(at).ok_or_else(truncated)?;
        match marker {
            // Fill: this 0xFF may itself begin the marker.
            0xFF => continue,
            // Stuffed data byte, temporary marker, restarts, start of image: no length follows.
            0x00 | 0x01 | 0xD0..=0xD8 => {
                at += 1;
                continue;
            }
            0xD9 if scans == 0 => return Err(truncated()),
            0xD9 => return Ok(()),
            _ => {}
        }
        let Some(&[high, low]) = bytes.get(at + 1..at + 3) else {
            return Err(truncated());
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let segment = bytes.get(at + 3..at + 1 + length).unwrap_or_default();
        match marker {
            // Once there are scans, a frame header is damage in their data, which the decoder judges.
            0xC0..=0xC2 if scans == 0 => frame = Frame::read(marker, segment),
            0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF if scans == 0 => {
                return Err(rare("arithmetic, lossless or hierarchical coding"));
            }
            0xDA => {
                scans += 1;
                // zune-image issues 419 and 422: wrong pixels, no error. To go when `image` has the fix.
                let components = segment.first().copied().unwrap_or_default();
                if scans == 1 && frame.sequential && frame.tall && components < frame.components {
                    return Err(rare("sequential, its colours in separate scans"));
                }
            }
            _ => {}
        }
        at += 1 + length;
    }
}

/// What the frame header says that matters here.
#[derive(Default)]
struct Frame {
    sequential: bool,
    /// Some component has more rows than another.
    tall: bool,
    components: u8,
}

impl Frame {
    /// `segment` is precision, height, width, count, then (id, sampling factors, table) for each component.
    fn read(marker: u8, segment: &[u8]) -> Self {
        let sampling = segment.get(6..).unwrap_or_default().chunks_exact(3);
        Self {
            sequential: marker != 0xC2,
            tall: sampling.map(|component| component[1] & 0x0F).any(|vertical| vertical > 1),
            components: segment.get(5).copied().unwrap_or_default(),
        }
    }
}
