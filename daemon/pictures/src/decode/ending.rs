//! Completes files that lack only the end their container demands, behind the last pixel: decoders
//! refuse them, viewers show them. Makes no pixels: where pixels are missing, the completed file
//! still lacks them, and its decoder says so.
//!
//! JPEG is completed in `jpeg`. A TIFF has no end: its parts lie in any order.

use super::{Format, Remark, chunks};

/// Returns the file with the end that its format demands, and a remark if bytes were missing. `None`
/// if the file has its end, or if its format knows none.
pub(super) fn completed(format: Format, bytes: &[u8]) -> Option<(Vec<u8>, Option<Remark>)> {
    match format {
        Format::Png => Some((png(bytes)?, Some(Remark::NoEnd("chunk")))),
        Format::Gif => Some((gif(bytes)?, Some(Remark::NoEnd("block")))),
        Format::Bmp => Some((bmp(bytes)?, Some(Remark::NoEnd("bytes")))),
        Format::WebP => webp(bytes),
        Format::Jpeg | Format::Tiff => None,
    }
}

/// Adds an IEND chunk. A cut-off IDAT chunk gets the length of its data, which may hold all pixels.
fn png(bytes: &[u8]) -> Option<Vec<u8>> {
    const END: [u8; 12] = *b"\0\0\0\0IEND\xae\x42\x60\x82";
    if chunks::png(bytes).any(|chunk| chunk.kind == *b"IEND" && chunk.complete()) {
        return None;
    }
    let mut whole = bytes.get(..8)?.to_vec();
    for chunk in chunks::png(bytes) {
        if chunk.complete() {
            whole.extend_from_slice(chunk.whole);
        } else if chunk.kind == *b"IDAT" {
            whole.extend(u32::try_from(chunk.data.len()).ok()?.to_be_bytes());
            whole.extend(chunk.kind);
            whole.extend_from_slice(chunk.data);
            let mut checksum = crc32fast::Hasher::new();
            checksum.update(&chunk.kind);
            checksum.update(chunk.data);
            whole.extend(checksum.finalize().to_be_bytes());
        }
    }
    whole.extend(END);
    Some(whole)
}

/// Ends the block that was cut off, and the file. Source: GIF89a specification, sections 15 to 27.
fn gif(bytes: &[u8]) -> Option<Vec<u8>> {
    let colours = |flags: usize| match bytes.get(flags) {
        Some(flags) if flags & 0x80 != 0 => 3 << ((flags & 7) + 1),
        _ => 0,
    };
    let mut at = 13 + colours(10);
    let mut whole = bytes.to_vec();
    while let Some(&block) = bytes.get(at) {
        at += match block {
            0x21 => 2,
            0x2C => 11 + colours(at + 9),
            // The end, or bytes that are no block.
            _ => return None,
        };
        loop {
            let Some(&length) = bytes.get(at) else {
                whole.push(0);
                break;
            };
            let left = bytes.len() - at - 1;
            if left < usize::from(length) {
                whole[at] = left as u8;
                whole.extend((left > 0).then_some(0));
                at = bytes.len();
                break;
            }
            at += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
    }
    whole.push(0x3B);
    Some(whole)
}

/// Adds the padding of the last row. Source: layout of BITMAPINFOHEADER.
fn bmp(bytes: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| Some(i32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let (begins, header, width, height) = (number(10)?, number(14)?, number(18)?, number(22)?);
    let depth = u16::from_le_bytes(*bytes.get(28..)?.first_chunk()?);
    // 0 and 3: pixels in rows, with colour masks or without.
    if header < 40 || !matches!(number(30)?, 0 | 3) {
        return None;
    }
    let bits = u64::try_from(width).ok()? * u64::from(depth);
    let (used, row) = (bits.div_ceil(8), bits.div_ceil(32) * 4);
    let end = u64::try_from(begins).ok()? + row.checked_mul(height.unsigned_abs().into())?;
    let missing = end.checked_sub(bytes.len() as u64)?;
    (1..=row - used).contains(&missing).then(|| {
        let mut whole = bytes.to_vec();
        whole.resize(end as usize, 0);
        whole
    })
}

/// Gives the file and its last chunk the length that they have. A length in the file's header that
/// was never written (0 or all ones) is no fault.
fn webp(bytes: &[u8]) -> Option<(Vec<u8>, Option<Remark>)> {
    let claimed = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    let written = !matches!(claimed, 0 | u32::MAX);
    let end = if written {
        claimed as usize + 8
    } else {
        bytes.len()
    };
    // Bytes behind the claimed end are no chunks.
    let inside = bytes.get(..end).unwrap_or(bytes);
    let cut_off = inside.len() < end || chunks::riff(inside).any(|chunk| !chunk.complete());
    if written && !cut_off {
        return None;
    }
    let mut whole = inside.get(..12)?.to_vec();
    for chunk in chunks::riff(inside) {
        whole.extend(chunk.kind);
        whole.extend(u32::try_from(chunk.data.len()).ok()?.to_le_bytes());
        whole.extend_from_slice(chunk.data);
        whole.extend((chunk.data.len() % 2 == 1).then_some(0));
    }
    let length = u32::try_from(whole.len() - 8).ok()?;
    whole[4..8].copy_from_slice(&length.to_le_bytes());
    Some((whole, cut_off.then_some(Remark::NoEnd("bytes"))))
}
