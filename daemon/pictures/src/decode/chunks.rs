//! Names and positions of the chunks of PNG and RIFF (WebP). Their contents are not interpreted.

use std::borrow::Cow;

/// A chunk.
pub(super) struct Chunk<'a> {
    pub(super) kind: [u8; 4],
    /// Its data; only the existing part if the file is cut off.
    pub(super) data: &'a [u8],
    /// The chunk with length, name, and checksum or padding.
    pub(super) whole: &'a [u8],
    /// Bytes of the whole chunk by its length.
    claimed: usize,
}

impl Chunk<'_> {
    /// Returns true if the file does not end within the chunk.
    pub(super) fn complete(&self) -> bool {
        self.whole.len() == self.claimed
    }
}

/// Returns the chunks of a PNG.
pub(super) fn png(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let chunk = |rest: &[u8]| {
        let length = u32::from_be_bytes(*rest.first_chunk()?);
        Some((
            *rest.get(4..)?.first_chunk()?,
            length,
            length.saturating_add(4),
        ))
    };
    walk(bytes.get(8..).unwrap_or_default(), chunk)
}

/// Returns the chunks of a WebP.
pub(super) fn riff(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let chunk = |rest: &[u8]| {
        let length = u32::from_le_bytes(*rest.get(4..)?.first_chunk()?);
        Some((
            *rest.first_chunk()?,
            length,
            length.saturating_add(length % 2),
        ))
    };
    walk(bytes.get(12..).unwrap_or_default(), chunk)
}

/// Iterates over chunks. `header` returns a chunk's name, its length, and its length with what
/// follows the data.
fn walk<'a>(
    mut rest: &'a [u8],
    header: impl Fn(&[u8]) -> Option<([u8; 4], u32, u32)>,
) -> impl Iterator<Item = Chunk<'a>> {
    std::iter::from_fn(move || {
        let (kind, length, padded) = header(rest)?;
        let end = |length: u32| rest.len().min((length as usize).saturating_add(8));
        let (data, whole) = (&rest[8..end(length)], &rest[..end(padded)]);
        rest = &rest[whole.len()..];
        Some(Chunk {
            kind,
            data,
            whole,
            claimed: (padded as usize).saturating_add(8),
        })
    })
}

/// Returns a PNG with only the chunks that define its pixels. Colour profiles and texts are
/// compressed and could expand to hundreds of megabytes, and nothing here needs them.
pub(super) fn essential_png(bytes: &[u8]) -> Cow<'_, [u8]> {
    let needed = |chunk: &Chunk| chunk.kind[0].is_ascii_uppercase() || chunk.kind == *b"tRNS";
    if png(bytes).all(|chunk| needed(&chunk)) {
        return Cow::Borrowed(bytes);
    }
    let mut essential = bytes[..bytes.len().min(8)].to_vec();
    for chunk in png(bytes).filter(needed) {
        essential.extend_from_slice(chunk.whole);
    }
    Cow::Owned(essential)
}
