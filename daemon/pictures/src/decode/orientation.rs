//! Reads a picture's orientation from the EXIF block in its container.
//!
//! Other EXIF data is ignored. A broken block counts as missing and never refuses the pixels.

use std::panic::catch_unwind;

use image::metadata::Orientation;

use super::{Format, chunks, jpeg};

/// Largest block that is read, as each is copied; blocks are a few kilobytes long.
const LARGEST_BLOCK: usize = 1 << 20;

/// Returns the first valid orientation: broken blocks and blocks without one defer to later ones.
pub(super) fn of(format: Format, bytes: &[u8]) -> Orientation {
    let found = catch_unwind(|| match format {
        Format::Jpeg => jpeg::segments(bytes, 0xE1)
            .filter_map(without_name)
            .find_map(read),
        Format::Png => chunks::png(bytes)
            .filter(|chunk| chunk.kind == *b"eXIf")
            .find_map(|chunk| either(chunk.data)),
        Format::WebP => chunks::riff(bytes)
            .filter(|chunk| chunk.kind == *b"EXIF")
            .find_map(|chunk| either(chunk.data)),
        // The whole file is such a block.
        Format::Tiff => parse(bytes),
        Format::Gif | Format::Bmp => None,
    });
    found.ok().flatten().unwrap_or(Orientation::NoTransforms)
}

/// Strips the name of an EXIF segment: APP1 holds XMP as well, under another name.
fn without_name(segment: &[u8]) -> Option<&[u8]> {
    // The sixth byte is 0; some cameras fill it with something else.
    segment
        .strip_prefix(b"Exif\0")
        .and_then(|rest| rest.get(1..))
}

/// Parses a block with or without the name of JPEG's segment: some programs write it into other
/// containers as well.
fn either(block: &[u8]) -> Option<Orientation> {
    read(without_name(block).unwrap_or(block))
}

fn read(block: &[u8]) -> Option<Orientation> {
    if block.len() > LARGEST_BLOCK {
        None
    } else {
        parse(block)
    }
}

fn parse(block: &[u8]) -> Option<Orientation> {
    let read = exif::Reader::new()
        .continue_on_error(true)
        .read_raw(block.to_vec());
    let exif = read
        .or_else(|error| error.distill_partial_result(|_| {}))
        .ok()?;
    // A number of 8, 16 or 32 bits; the first one if there are several.
    let value = exif
        .get_field(exif::Tag::Orientation, exif::In::PRIMARY)?
        .value
        .get_uint(0)?;
    Orientation::from_exif(u8::try_from(value).ok()?)
}

#[cfg(test)]
mod tests;
