//! Decodes JPEGs with libjpeg-turbo's code (crate `mozjpeg`), as viewers show them: whole, reduced,
//! or a part of one.
//!
//! The headers are checked here first: they show what has to be refused by name, how many scans
//! there are, and whether the file has its end. Metadata is `orientation`'s.

use std::cell::Cell;
use std::ffi::c_int;
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null;

use mozjpeg::{ColorSpace, ColorSpaceExt, Decompress};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr};

use super::{DecodeError, Format, Remark};

/// Most scans: each costs a pass over every block of the picture, however few bytes it has.
/// Encoders write up to about twenty.
const MOST_SCANS: u32 = 100;

/// Length of a run of zeros that counts as never written, at the end of a file without its last
/// marker.
const UNWRITTEN: usize = 16;

/// A JPEG with valid headers.
pub(super) struct Jpeg<'a> {
    bytes: &'a [u8],
    /// Width and height as stored.
    pub(super) width: usize,
    pub(super) height: usize,
    /// True if its colours or frequencies are stored one after another, so that all of it must be
    /// kept until the last scan.
    pub(super) in_scans: bool,
    /// True if it has its last marker.
    ended: bool,
}

/// Pixels of an upright rectangle of the stored picture, perhaps reduced, three bytes each.
pub(super) struct Piece {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) pixels: Vec<u8>,
}

impl<'a> Jpeg<'a> {
    /// Walks the markers. Segments are skipped by their length, so the markers of an embedded
    /// thumbnail do not count; in scan data an 0xFF that is no marker is followed by 0. Bytes
    /// behind the end marker are ignored.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut frame: Option<Frame> = None;
        let mut scans = 0;
        let mut rest = bytes.get(2..).unwrap_or_default();
        let mut ended = false;
        while let Some((marker, segment, after)) = next_segment(rest) {
            rest = after;
            match marker {
                0xD9 => {
                    ended = true;
                    break;
                }
                // Huffman or arithmetic coding, sequential or progressive.
                0xC0..=0xC2 | 0xC9 | 0xCA if frame.is_none() => {
                    frame = Some(Frame::read(marker, segment)?);
                }
                0xC3 => return Err(rare("lossless coding")),
                0xC5..=0xC7 | 0xCB | 0xCD..=0xCF => {
                    return Err(rare("hierarchical or lossless coding"));
                }
                0xDA => {
                    scans += 1;
                    if let Some(frame) = &mut frame {
                        frame.scan(segment);
                    }
                    if scans > MOST_SCANS {
                        return Err(rare(&format!("more than {MOST_SCANS} scans")));
                    }
                }
                _ => {}
            }
        }
        let frame = frame.filter(|_| scans > 0).ok_or(TRUNCATED)?;
        // Without an end marker, missing data may have been cut off.
        if !ended && !frame.complete() {
            return Err(TRUNCATED);
        }
        let bytes = if ended {
            bytes
        } else {
            without_rest(bytes, frame.in_scans)
        };
        Ok(Self {
            bytes,
            width: frame.width,
            height: frame.height,
            in_scans: frame.in_scans,
            ended,
        })
    }

    /// Returns width and height divided by `reduction` (1, 2, 4 or 8), rounded up.
    pub(super) fn reduced(&self, reduction: usize) -> [usize; 2] {
        [
            self.width.div_ceil(reduction),
            self.height.div_ceil(reduction),
        ]
    }

    /// Decodes these columns and rows of the reduced picture, with remarks about them.
    pub(super) fn piece(
        &self,
        reduction: usize,
        columns: Range<usize>,
        rows: Range<usize>,
    ) -> Result<(Piece, Vec<Remark>), DecodeError> {
        FAULTS.set(Faults::default());
        let pixels = catch_unwind(AssertUnwindSafe(|| {
            self.pixels(reduction, columns.clone(), rows.clone())
        }))
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| super::corrupt(Format::Jpeg, "its decoder cannot go on"))?;
        let Faults {
            ends,
            before_end,
            after_end,
        } = FAULTS.get();
        // Each of our own end markers causes one; further ones mean unread bytes behind the end
        // marker.
        let after_end = after_end.saturating_sub(ends);
        if !self.ended && after_end > 0 {
            return Err(TRUNCATED);
        }
        let mut remarks = Vec::new();
        if !self.ended {
            remarks.push(Remark::NoEnd("marker"));
        }
        if before_end + after_end > 0 {
            remarks.push(Remark::Faults);
        }
        let piece = Piece {
            left: columns.start,
            top: rows.start,
            width: columns.len(),
            height: rows.len(),
            pixels,
        };
        Ok((piece, remarks))
    }

    /// Decodes pixels. Everything here may unwind: that is how the decoder reports a file that it
    /// cannot read.
    fn pixels(
        &self,
        reduction: usize,
        columns: Range<usize>,
        rows: Range<usize>,
    ) -> io::Result<Vec<u8>> {
        let mut decoder =
            Decompress::with_err(errors()).from_reader(Source { rest: self.bytes })?;
        // The limits were checked for these sides.
        if decoder.size() != (self.width, self.height) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        decoder.scale((8 / reduction) as u8);
        // No smoothing: missing details must not be made up.
        decoder.do_block_smoothing(false);
        let inks = matches!(
            decoder.color_space(),
            ColorSpace::JCS_CMYK | ColorSpace::JCS_YCCK
        );
        let space = if inks {
            ColorSpace::JCS_CMYK
        } else {
            ColorSpace::JCS_RGB
        };
        let mut decoder = decoder.to_colorspace(space)?;
        if [decoder.width(), decoder.height()] != self.reduced(reduction) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let values = space.num_components();
        let mut line = vec![0; values * decoder.width()];
        let mut pixels = Vec::with_capacity(3 * columns.len() * rows.len());
        for row in 0..rows.end {
            decoder.read_scanlines_into(&mut line)?;
            if row >= rows.start {
                let line = &line[values * columns.start..values * columns.end];
                if inks {
                    let begin = pixels.len();
                    pixels.resize(begin + 3 * columns.len(), 0);
                    let colours = pixels[begin..].as_chunks_mut().0;
                    for (colour, &inks) in colours.iter_mut().zip(line.as_chunks().0) {
                        *colour = of_inks(inks);
                    }
                } else {
                    pixels.extend_from_slice(line);
                }
            }
        }
        // Bytes between the last row and the end marker change no pixel.
        Ok(pixels)
    }
}

const TRUNCATED: DecodeError = DecodeError::Truncated {
    format: Format::Jpeg,
};

fn rare(coding: &str) -> DecodeError {
    DecodeError::Unsupported {
        looks_like: format!("a rare kind of JPEG ({coding})"),
    }
}

/// Returns the bytes of a file without its end marker and without the part that was never written.
/// Half a marker would be an error for the decoder when it looks for the next of several scans.
fn without_rest(bytes: &[u8], in_scans: bool) -> &[u8] {
    let zeros = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
    // The first zero may belong to an 0xFF before it.
    let bytes = &bytes[..bytes.len() - if zeros >= UNWRITTEN { zeros - 1 } else { 0 }];
    bytes
        .strip_suffix(&[0xD9])
        .filter(|_| in_scans)
        .unwrap_or(bytes)
}

/// Returns the next marker with a meaning of its own, its content, and the rest. `None` at the end
/// of the bytes.
fn next_segment(mut rest: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    loop {
        let at = rest.iter().position(|&byte| byte == 0xFF)?;
        let marker = *rest.get(at + 1)?;
        match marker {
            // Fill: the second 0xFF may itself begin the marker.
            0xFF => rest = &rest[at + 1..],
            // Stuffed data byte, temporary marker, restarts, start of image: no length follows.
            0x00 | 0x01 | 0xD0..=0xD8 => rest = &rest[at + 2..],
            0xD9 => return Some((marker, &[], &rest[at + 2..])),
            _ => {
                let length = u16::from_be_bytes(*rest.get(at + 2..)?.first_chunk()?);
                let end = at + 2 + usize::from(length);
                return Some((
                    marker,
                    rest.get(at + 4..end).unwrap_or_default(),
                    rest.get(end..)?,
                ));
            }
        }
    }
}

/// Returns the segments with this marker before the first scan.
pub(super) fn segments(bytes: &[u8], wanted: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    let all = std::iter::from_fn(move || {
        let (marker, segment, after) = next_segment(rest)?;
        rest = after;
        Some((marker, segment))
    });
    let before_scan = all.take_while(|(marker, _)| !matches!(marker, 0xDA | 0xD9));
    before_scan
        .filter(move |(marker, _)| *marker == wanted)
        .map(|(_, segment)| segment)
}

/// The frame header, and the data that the scans have delivered so far.
struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    in_scans: bool,
    /// For each component its id and, by frequency, the bits that are still missing: 0 means
    /// complete.
    components: Vec<(u8, [u8; 64])>,
}

/// Value of a frequency without any data.
const MISSING: u8 = u8::MAX;

impl Frame {
    /// Parses a frame header: precision, height, width, count, then (id, sampling factors, table)
    /// for each component.
    fn read(marker: u8, segment: &[u8]) -> Result<Self, DecodeError> {
        let Some(
            &[
                precision,
                height_high,
                height_low,
                width_high,
                width_low,
                count,
            ],
        ) = segment.first_chunk()
        else {
            return Err(super::corrupt(
                Format::Jpeg,
                "its frame header is too short",
            ));
        };
        if precision != 8 {
            return Err(rare(&format!("{precision} bits for each colour")));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(rare(&format!("{count} colour components")));
        }
        let side = |high, low| usize::from(u16::from_be_bytes([high, low]));
        let components = segment[6..]
            .chunks_exact(3)
            .map(|component| (component[0], [MISSING; 64]))
            .collect();
        let (width, height) = (side(width_high, width_low), side(height_high, height_low));
        let progressive = matches!(marker, 0xC2 | 0xCA);
        Ok(Self {
            width,
            height,
            progressive,
            in_scans: progressive,
            components,
        })
    }

    /// Records a scan header: count, then (id, tables) for each component, then first and last
    /// frequency and two bit positions.
    fn scan(&mut self, segment: &[u8]) {
        let count = usize::from(segment.first().copied().unwrap_or_default());
        self.in_scans |= count < self.components.len();
        let Some((ids, &[first, last, bits])) =
            segment.get(1..).and_then(|rest| rest.split_last_chunk())
        else {
            return;
        };
        let (first, last, left) = if self.progressive {
            (first, last, bits & 15)
        } else {
            (0, 63, 0)
        };
        for (_, missing) in self
            .components
            .iter_mut()
            .filter(|(id, _)| ids.iter().step_by(2).any(|named| named == id))
        {
            for bits in missing
                .iter_mut()
                .take(usize::from(last) + 1)
                .skip(first.into())
            {
                *bits = left;
            }
        }
    }

    /// Returns true if the scans so far have delivered every bit of every component.
    fn complete(&self) -> bool {
        self.components
            .iter()
            .all(|(_, missing)| missing.iter().all(|&bits| bits == 0))
    }
}

/// Converts inks as Adobe stores them, 255 for none, to red, green and blue.
fn of_inks([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    [cyan, magenta, yellow].map(|ink| ((u32::from(ink) * u32::from(black) + 127) / 255) as u8)
}

/// Errors that the decoder skipped on this thread since the last query.
#[derive(Clone, Copy, Default)]
struct Faults {
    /// Number of our own end markers that it was given because no bytes were left.
    ends: u32,
    before_end: u32,
    after_end: u32,
}

thread_local! {
    static FAULTS: Cell<Faults> = const { Cell::new(Faults { ends: 0, before_end: 0, after_end: 0 }) };
}

/// The file's bytes; records if the decoder asks for more.
struct Source<'a> {
    rest: &'a [u8],
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.rest.read(buffer)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            FAULTS.set(Faults {
                ends: FAULTS.get().ends + 1,
                ..FAULTS.get()
            });
        }
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }
}

/// Counts the errors that the decoder skips, and unwinds if it cannot continue.
fn errors() -> jpeg_error_mgr {
    extern "C-unwind" fn give_up(_: &mut jpeg_common_struct) {
        // Not a panic: no message is written, and `piece` catches it.
        resume_unwind(Box::new("the JPEG decoder gave up"));
    }
    extern "C-unwind" fn pass_over(_: &mut jpeg_common_struct, level: c_int) {
        if level >= 0 {
            return;
        }
        let mut faults = FAULTS.get();
        match faults.ends {
            0 => faults.before_end += 1,
            _ => faults.after_end += 1,
        }
        FAULTS.set(faults);
    }
    extern "C-unwind" fn write(_: &mut jpeg_common_struct) {}
    extern "C-unwind" fn format(_: &mut jpeg_common_struct, _: &[u8; 80]) {}
    extern "C-unwind" fn reset(_: &mut jpeg_common_struct) {}
    jpeg_error_mgr {
        error_exit: Some(give_up),
        emit_message: Some(pass_over),
        output_message: Some(write),
        format_message: Some(format),
        reset_error_mgr: Some(reset),
        msg_code: 0,
        msg_parm: Default::default(),
        trace_level: 0,
        num_warnings: 0,
        jpeg_message_table: null(),
        last_jpeg_message: 0,
        addon_message_table: null(),
        first_addon_message: 0,
        last_addon_message: 0,
    }
}

#[cfg(test)]
pub(super) mod tests;
