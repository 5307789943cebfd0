//! The kind of a picture by its bytes: which container a file is, or what it is when it is no picture.
//!
//! Every door uses it: a declared type or a file name decides nothing. Not for deciding whether the rest of the file is
//! sound: that is decoding.

use std::fmt;

use image::ImageFormat;

/// The containers this appliance reads, told apart by content, never by name.
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
    /// The same for the crate `image`.
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

/// What the bytes are by their signature, or `None` when it is nothing this appliance reads.
pub fn sniff(bytes: &[u8]) -> Option<Format> {
    // "BM" begins many a text too; the length of the information header settles it.
    let bmp_headers: [u8; 8] = [12, 16, 40, 52, 56, 64, 108, 124];
    match bytes {
        [0xFF, 0xD8, 0xFF, ..] => Some(Format::Jpeg),
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Some(Format::Png),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Format::WebP),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Format::Gif),
        [b'B', b'M', ..] if bytes.get(14).is_some_and(|n| bmp_headers.contains(n)) => Some(Format::Bmp),
        // 42 is TIFF, 43 BigTIFF.
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Format::Tiff),
        _ => None,
    }
}

/// Longest beginning that [`not_a_picture`] looks at, in bytes.
pub const HEAD_BYTES: usize = 512;

/// Names what was sent instead of a picture ("HEIC", "a gzip archive"), or says how it begins when that is unknown.
pub fn not_a_picture(bytes: &[u8]) -> Other {
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    Other::Known(match head {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4) {
            Some(b"avif" | b"avis") => "AVIF",
            Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1") => "HEIC",
            Some(b"crx ") => "a camera raw file",
            _ => "an MP4 or QuickTime video",
        },
        [b'%', b'P', b'D', b'F', ..] => "PDF",
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "JPEG XL",
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => "JPEG 2000",
        [b'8', b'B', b'P', b'S', ..] => "a Photoshop file",
        [0, 0, 1, 0, ..] => "an icon",
        [b'R', b'I', b'F', b'F', ..] => "an AVI video or WAV sound",
        [0x1A, 0x45, 0xDF, 0xA3, ..] => "a Matroska or WebM video",
        [b'P', b'K', 3, 4, ..] => "a ZIP archive",
        [0x1F, 0x8B, ..] => "a gzip archive",
        _ => match text_kind(head) {
            Some(kind) => kind,
            None => {
                let hex: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
                return Other::Unknown { starts_with: hex.join(" ") };
            }
        },
    })
}

/// Bytes that are no picture this appliance reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Other {
    /// With its article where it has one: "HEIC", "a gzip archive".
    Known(&'static str),
    /// No kind that has a name here.
    Unknown {
        /// The first eight bytes in hexadecimal.
        starts_with: String,
    },
}

/// Which text `head` is; `None` for binary data.
fn text_kind(head: &[u8]) -> Option<&'static str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // `head` may end amid a character.
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        Err(_) => return None,
    };
    if text.is_empty() || text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace()) {
        return None;
    }
    let text = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    Some(if text.starts_with("<!doctype html") || text.starts_with("<html") {
        "an HTML page"
    } else if text.contains("<svg") {
        "an SVG drawing"
    } else if text.starts_with('<') {
        "XML"
    } else if text.starts_with(['{', '[']) {
        "JSON"
    } else {
        "plain text"
    })
}
