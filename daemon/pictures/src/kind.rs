//! Recognises the kind of a picture by its bytes: its container and its wrapping, or the kind of
//! file it is instead (`other`).
//!
//! All sources use it: a declared type or a file name decides nothing. The rest of the file is
//! checked by decoding.

mod other;

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use image::ImageFormat;

pub use self::other::{
    NotAPicture, is_heic, not_a_picture, picture_in_json, torn, unread_in_field,
};
use self::other::{as_base64, torn_beginning};

/// The containers that kithd reads, recognised by content, never by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    Jpeg,
    Png,
    WebP,
    Gif,
    Bmp,
    Tiff,
}

impl Format {
    /// Returns the same format in the crate `image`.
    pub fn image_format(self) -> ImageFormat {
        match self {
            Self::Jpeg => ImageFormat::Jpeg,
            Self::Png => ImageFormat::Png,
            Self::WebP => ImageFormat::WebP,
            Self::Gif => ImageFormat::Gif,
            Self::Bmp => ImageFormat::Bmp,
            Self::Tiff => ImageFormat::Tiff,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
        })
    }
}

/// Returns the format by the file's signature, or `None` if kithd does not read it.
pub fn sniff(bytes: &[u8]) -> Option<Format> {
    // Text can begin with "BM" too; the length of the information header decides.
    let bmp_headers: [u8; 8] = [12, 16, 40, 52, 56, 64, 108, 124];
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some(Format::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some(Format::Png),
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'E',
            b'B',
            b'P',
            ..,
        ] => Some(Format::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
        [b'B', b'M', ..] if bytes.get(14).is_some_and(|n| bmp_headers.contains(n)) => {
            Some(Format::Bmp)
        }
        // 42 is TIFF, 43 BigTIFF.
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Format::Tiff),
        _ => None,
    }
}

/// Longest beginning that decides the kind, in bytes.
pub const HEAD_BYTES: usize = 512;

/// Encoding of a picture in the received bytes. The number counts the leading bytes to skip: white
/// space, byte order mark and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// The bytes themselves.
    Plain(usize),
    /// Base64, perhaps in a `data:` URI.
    Base64(usize),
}

/// Determines format and wrapping from the first [`HEAD_BYTES`] (or all, if there are fewer) of the
/// received bytes.
pub fn wrapping(head: &[u8]) -> Result<(Format, Wrapping), NotAPicture> {
    let head = &head[..head.len().min(HEAD_BYTES)];
    let blank = blank_bytes(head);
    if let Some(format) = sniff(&head[blank..]) {
        return match torn_beginning(&head[blank..]) {
            Some(torn) => Err(torn),
            None => Ok((format, Wrapping::Plain(blank))),
        };
    }
    let text_begins = blank + before_base64(&head[blank..]);
    let Some(decoded) = decoded_beginning(&head[text_begins..]) else {
        return Err(not_a_picture(head));
    };
    match (sniff(&decoded), not_a_picture(&decoded)) {
        (Some(format), _) => Ok((format, Wrapping::Base64(text_begins))),
        (None, NotAPicture::Known { what, instead }) => Err(as_base64(&what, instead)),
        _ => Err(not_a_picture(head)),
    }
}

/// Returns the picture in the received bytes, decoded, with at most `limit` bytes.
pub fn plain(bytes: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, NotAPicture> {
    let (_, wrapping) = wrapping(bytes)?;
    let picture = match wrapping {
        Wrapping::Plain(begins) => Cow::Borrowed(&bytes[begins..]),
        Wrapping::Base64(begins) => {
            let (mut base64, mut picture) = (Base64::new(begins), Vec::new());
            // In pieces, so that an oversized picture is not decoded to its end.
            for piece in bytes[begins..].chunks(64 << 10) {
                base64.decode(piece, &mut picture)?;
                if picture.len() > limit {
                    return Err(NotAPicture::TooLarge { limit });
                }
            }
            base64.end(&mut picture)?;
            Cow::Owned(picture)
        }
    };
    if picture.len() > limit {
        Err(NotAPicture::TooLarge { limit })
    } else {
        Ok(picture)
    }
}

/// A streaming base64 decoder that accepts both alphabets, optional padding, and white space
/// anywhere. A closing quotation mark ends the input.
#[derive(Debug)]
pub struct Base64 {
    /// Characters of the incomplete group of four, in the standard alphabet.
    group: Vec<u8>,
    /// Number of characters read.
    read: usize,
    ended: bool,
}

/// Ignores leftover bits at the end, as browsers do; padding is handled by [`Base64`].
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

impl Base64 {
    /// Makes a decoder for a text that follows `begins` other bytes.
    pub fn new(begins: usize) -> Self {
        Self {
            group: Vec::with_capacity(4),
            read: begins,
            ended: false,
        }
    }

    /// Decodes the next piece of text and appends its bytes.
    pub fn decode(&mut self, text: &[u8], into: &mut Vec<u8>) -> Result<(), NotAPicture> {
        for byte in text {
            self.read += 1;
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | 0 => {}
                b'=' | b'"' | b'\'' => self.ended = true,
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if !self.ended => {
                    self.group.push(*byte);
                }
                b'-' if !self.ended => self.group.push(b'+'),
                b'_' if !self.ended => self.group.push(b'/'),
                _ => return Err(NotAPicture::BadBase64 { at: self.read }),
            }
        }
        let whole = self.group.len() / 4 * 4;
        self.append(whole, into)
    }

    /// Appends the bytes of the last, incomplete group.
    pub fn end(&mut self, into: &mut Vec<u8>) -> Result<(), NotAPicture> {
        self.append(self.group.len(), into)
    }

    fn append(&mut self, characters: usize, into: &mut Vec<u8>) -> Result<(), NotAPicture> {
        // Only a last group of one character can fail.
        BASE64
            .decode_vec(&self.group[..characters], into)
            .map_err(|_| NotAPicture::BadBase64 { at: self.read })?;
        self.group.drain(..characters);
        Ok(())
    }
}

/// Counts leading byte order marks, white space and zero bytes, which editors, shells and serial
/// links leave before a picture or a text.
fn blank_bytes(head: &[u8]) -> usize {
    let mark = if head.starts_with(b"\xEF\xBB\xBF") {
        3
    } else {
        0
    };
    mark + head[mark..]
        .iter()
        .take_while(|byte| byte.is_ascii_whitespace() || **byte == 0)
        .count()
}

/// Returns the length of a quotation mark and of the beginning of a `data:` URI before its base64.
fn before_base64(text: &[u8]) -> usize {
    let quote = usize::from(matches!(text.first(), Some(b'"' | b'\'')));
    let text = &text[quote..];
    let is_data = text
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"data:"));
    let comma = text
        .iter()
        .position(|byte| *byte == b',')
        .filter(|_| is_data);
    let base64 = comma.filter(|comma| text[..*comma].to_ascii_lowercase().ends_with(b";base64"));
    quote + base64.map_or(0, |comma| comma + 1)
}

/// Decodes the beginning of a base64 text; `None` if it is not base64, or too short to tell.
fn decoded_beginning(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    Base64::new(0).decode(text, &mut decoded).ok()?;
    (decoded.len() >= 12).then_some(decoded)
}

#[cfg(test)]
mod tests;
