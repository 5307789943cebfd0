//! Names the kind of file that was sent instead of a picture, with what to do about it.

use std::borrow::Cow;

use super::{Format, HEAD_BYTES, before_base64, blank_bytes, decoded_beginning, sniff, wrapping};

/// Reasons why bytes are no picture. The text continues a sentence after "the file", "the message"
/// or a name: "is HEIC; send it as JPEG".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAPicture {
    /// There are no bytes.
    #[error("is empty")]
    Empty,
    /// A kind that has a name.
    #[error("is {what}; {instead}")]
    Known {
        /// With its article where it has one: "HEIC", "a gzip archive".
        what: Cow<'static, str>,
        /// The alternative to send, or the way to send it.
        instead: &'static str,
    },
    /// A picture begins later than it should, after bytes that may have a meaning.
    #[error("has {bytes} bytes before its {format} begins; send it without them")]
    Preceded {
        /// Number of bytes before it.
        bytes: usize,
        /// Format of the picture behind them.
        format: Format,
    },
    /// A kind without a name here.
    #[error("is not a picture of a known kind (it begins with the bytes {starts_with}); {INSTEAD}")]
    Unknown {
        /// The first eight bytes in hexadecimal.
        starts_with: String,
    },
    /// Text that begins as base64 of a picture and continues with other characters.
    #[error(
        "begins as base64 of a picture, but its character {at} is not base64; send the bytes of the picture itself"
    )]
    BadBase64 {
        /// Position of the first wrong character, counted from 1, white space included.
        at: usize,
    },
    /// The decoded picture has more bytes than allowed.
    #[error("has more than intake.max_bytes = {limit} bytes")]
    TooLarge {
        /// `intake.max_bytes`.
        limit: usize,
    },
}

const INSTEAD: &str = "send JPEG, PNG, WebP, GIF, BMP or TIFF";
const AS_JPEG: &str = "send it as JPEG";
const FROM_IPHONE: &str = "send it as JPEG (an iPhone: Settings, Camera, Formats, Most Compatible)";
const STILL: &str = "send a still picture of it, as JPEG";
const UNPACKED: &str = "send the picture unpacked";
const ITSELF: &str = "send the bytes of the picture itself";

/// Detects a JPEG that `curl -d @file` stripped of line breaks and zero bytes. The first segment of
/// a JPEG holds a zero byte, unless it is a comment.
pub(super) fn torn_beginning(head: &[u8]) -> Option<NotAPicture> {
    let is_torn = head.len() >= 64
        && matches!(head, [0xFF, 0xD8, 0xFF, marker, ..] if *marker != 0xFE)
        && !head.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'));
    is_torn.then(torn)
}

/// Describes a picture that `curl -d @file` damaged.
pub fn torn() -> NotAPicture {
    known(
        "a picture that lost its line breaks and zero bytes on its way, as curl -d @file takes them out",
        "send it with curl --data-binary @file, or as a form with -F picture=@file",
    )
}

/// Names the kind of file that was sent instead of a picture ("HEIC", "a gzip archive"), or shows
/// how it begins if the kind is unknown.
pub fn not_a_picture(bytes: &[u8]) -> NotAPicture {
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    if head.is_empty() {
        return NotAPicture::Empty;
    }
    if let Some(other) = binary_kind(head)
        .or_else(|| preceded(head))
        .or_else(|| text_kind(head))
    {
        return other;
    }
    let hex: Vec<String> = head.iter().take(8).map(|b| format!("{b:02x}")).collect();
    NotAPicture::Unknown {
        starts_with: hex.join(" "),
    }
}

/// Returns why a form's part without a file name must be refused: it is a picture that is not read,
/// or another kind of file. `None` for the text of a field, in any character set, and for bytes of
/// no known kind.
pub fn unread_in_field(head: &[u8]) -> Option<NotAPicture> {
    let head = &head[..head.len().min(HEAD_BYTES)];
    if !is_binary(head) {
        return picture_as_text(head[blank_bytes(head)..].trim_ascii_end());
    }
    match wrapping(head) {
        Err(known @ NotAPicture::Known { .. }) if !is_utf16(head) => Some(known),
        Err(preceded @ NotAPicture::Preceded { .. }) => Some(preceded),
        _ => None,
    }
}

/// Names a picture in text form that is not read.
fn picture_as_text(text: &[u8]) -> Option<NotAPicture> {
    let lower = text.to_ascii_lowercase();
    let is_drawing =
        lower.starts_with(b"<") && lower.windows(b"<svg".len()).any(|part| part == b"<svg");
    let named: [&[u8]; 4] = [b"data:image/", b"data:video/", b"%pdf-", b"%!ps-adobe"];
    let is_named = named.iter().any(|start| lower.starts_with(start));
    let is_hex = lower.len() >= 24
        && lower.iter().all(u8::is_ascii_hexdigit)
        && (lower.starts_with(b"ffd8ff") || lower.starts_with(b"89504e47"));
    let decoded = decoded_beginning(&text[before_base64(text)..]);
    match decoded.as_deref().and_then(binary_kind) {
        Some(NotAPicture::Known { what, instead }) if is_picture(instead) => {
            Some(as_base64(&what, instead))
        }
        _ if is_drawing || is_named || is_hex => Some(not_a_picture(text)),
        _ => None,
    }
}

/// Tells pictures and videos from other files, by what to send instead.
fn is_picture(instead: &str) -> bool {
    [AS_JPEG, FROM_IPHONE, STILL].contains(&instead)
}

/// Returns true if the bytes hold control characters that no text has, but for a zero at its end.
fn is_binary(head: &[u8]) -> bool {
    let end = head
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |end| end + 1);
    head[..end]
        .iter()
        .any(|byte| matches!(byte, 0..=8 | 14..=25 | 28..=31))
}

fn is_utf16(head: &[u8]) -> bool {
    head.starts_with(&[0xFF, 0xFE]) || head.starts_with(&[0xFE, 0xFF])
}

pub(super) fn as_base64(what: &str, instead: &'static str) -> NotAPicture {
    NotAPicture::Known {
        what: format!("{what} as base64").into(),
        instead,
    }
}

fn known(what: &'static str, instead: &'static str) -> NotAPicture {
    NotAPicture::Known {
        what: what.into(),
        instead,
    }
}

/// Returns true for HEIC, Apple's format, which kithd does not read.
pub fn is_heic(head: &[u8]) -> bool {
    let brand = head.get(8..12).filter(|_| head.get(4..8) == Some(b"ftyp"));
    matches!(
        brand,
        Some(b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1")
    )
}

/// Names kinds of binary data by their signatures.
fn binary_kind(head: &[u8]) -> Option<NotAPicture> {
    let (what, instead) = match head {
        _ if is_heic(head) => ("HEIC", FROM_IPHONE),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4) {
            Some(b"avif" | b"avis") => ("AVIF", AS_JPEG),
            Some(b"crx ") => ("a camera raw file", AS_JPEG),
            Some(b"jxl ") => ("JPEG XL", AS_JPEG),
            Some(b"jp2 " | b"jpx ") => ("JPEG 2000", AS_JPEG),
            _ => ("an MP4 or QuickTime video", STILL),
        },
        [b'%', b'P', b'D', b'F', ..] => ("PDF", AS_JPEG),
        [b'%', b'!', b'P', b'S', ..] => ("PostScript", AS_JPEG),
        [0xFF, 0x0A, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => ("JPEG XL", AS_JPEG),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => {
            ("JPEG 2000", AS_JPEG)
        }
        [b'8', b'B', b'P', b'S', ..] => ("a Photoshop file", AS_JPEG),
        [b'F', b'U', b'J', b'I', b'F', b'I', b'L', b'M', ..] | [b'I', b'I', b'U' | b'R', ..] => {
            ("a camera raw file", AS_JPEG)
        }
        [b'q', b'o', b'i', b'f', ..] => ("QOI", AS_JPEG),
        [b'P', b'1'..=b'7', b'\n' | b'\r' | b' ' | b'\t', ..] => ("a PNM picture", AS_JPEG),
        [0x76, 0x2F, 0x31, 0x01, ..] => ("OpenEXR", AS_JPEG),
        [b'#', b'?', b'R', b'A', b'D', ..] => ("Radiance HDR", AS_JPEG),
        [b'D', b'D', b'S', b' ', ..] => ("a DDS texture", AS_JPEG),
        [0, 0, 1 | 2, 0, n, 0, ..] if *n > 0 => ("an icon", AS_JPEG),
        [b'R', b'I', b'F', b'F', ..] => ("an AVI video or WAV sound", STILL),
        [0x1A, 0x45, 0xDF, 0xA3, ..] => ("a Matroska or WebM video", STILL),
        [0, 0, 1, 0xBA | 0xB3, ..] => ("an MPEG video", STILL),
        [0, 0, 1, 0x67 | 0x27 | 0x40 | 9, ..] | [0, 0, 0, 1, 0x67 | 0x27 | 0x40 | 9, ..] => {
            ("an H.264 or H.265 video", STILL)
        }
        [b'F', b'L', b'V', 1, ..] => ("a Flash video", STILL),
        [b'O', b'g', b'g', b'S', ..] => ("Ogg sound or video", STILL),
        [b'I', b'D', b'3', ..] => ("MP3 sound", INSTEAD),
        _ if head.first() == Some(&0x47) && head.get(188) == Some(&0x47) => {
            ("an MPEG transport stream", STILL)
        }
        [b'P', b'K', 3 | 5, 4 | 6, ..] => ("a ZIP archive or an office document", UNPACKED),
        [0x1F, 0x8B, ..] => (
            "a gzip archive",
            "send the picture unpacked, or by HTTP with Content-Encoding: gzip",
        ),
        [0x28, 0xB5, 0x2F, 0xFD, ..] => ("zstd-compressed", UNPACKED),
        [0xFD, b'7', b'z', b'X', b'Z', ..] => ("an xz archive", UNPACKED),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => ("a bzip2 archive", UNPACKED),
        [b'7', b'z', 0xBC, 0xAF, ..] => ("a 7-Zip archive", UNPACKED),
        [b'R', b'a', b'r', b'!', ..] => ("a RAR archive", UNPACKED),
        [0xD0, 0xCF, 0x11, 0xE0, ..] => ("an office document or Thumbs.db", INSTEAD),
        [b'S', b'Q', b'L', b'i', b't', b'e', b' ', ..] => ("an SQLite database", INSTEAD),
        [0x7F, b'E', b'L', b'F', ..] => ("a program", INSTEAD),
        [0, 5, 0x16, 7 | 0, ..] => (
            "a Mac's file of attributes (AppleDouble)",
            "send the file without \"._\" before its name",
        ),
        _ if head.get(257..262) == Some(b"ustar") => ("a tar archive", UNPACKED),
        _ if head.get(128..132) == Some(b"DICM") => ("DICOM", AS_JPEG),
        [0x89, b'P', b'N', b'G', ..] => return Some(torn()),
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => {
            ("text in UTF-16", "send a picture, or text in UTF-8")
        }
        _ if head.len() >= 16 && head.iter().all(|byte| *byte == 0) => (
            "nothing but zero bytes",
            "it was never written to its end, perhaps by a power cut: send it again",
        ),
        _ => return None,
    };
    Some(known(what, instead))
}

/// Finds a picture that begins a little later. It looks only for signatures that no text and no
/// other file contains by chance.
fn preceded(head: &[u8]) -> Option<NotAPicture> {
    // A multipart body is reported as such.
    if head.starts_with(b"--") {
        return None;
    }
    (1..head.len()).find_map(|at| match (sniff(&head[at..])?, &head[at..]) {
        // Check the marker after the first one too: the three bytes of SOI alone occur by chance.
        (Format::Jpeg, [_, _, _, 0xDB | 0xC0..=0xC2 | 0xC4 | 0xE0..=0xEF | 0xFE, ..])
        | (Format::Png | Format::WebP | Format::Gif, _) => Some(NotAPicture::Preceded {
            bytes: at,
            format: sniff(&head[at..])?,
        }),
        _ => None,
    })
}

/// Names the kind of a text; `None` for binary data.
fn text_kind(head: &[u8]) -> Option<NotAPicture> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // `head` may end within a character.
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok()?,
        Err(_) => {
            // A multipart body has text as headers and binary parts.
            let multipart = multipart_kind(&String::from_utf8_lossy(head));
            return multipart.map(|(what, instead)| known(what, instead));
        }
    };
    let text = text
        .trim_start_matches('\u{feff}')
        .trim()
        .trim_end_matches('\0');
    if text
        .chars()
        .any(|c| c.is_control() && !c.is_ascii_whitespace())
    {
        let multipart = multipart_kind(text);
        return multipart.map(|(what, instead)| known(what, instead));
    }
    let lower = text.to_ascii_lowercase();
    let is_hex = lower.len() >= 24
        && lower
            .bytes()
            .all(|b| b.is_ascii_hexdigit() || b.is_ascii_whitespace());
    let (what, instead) = if text.is_empty() {
        ("blank text", INSTEAD)
    } else if lower.starts_with("<!doctype html") || lower.starts_with("<html") {
        (
            "an HTML page",
            "look at it in a browser: often it is a camera's page for logging in",
        )
    } else if lower.contains("<svg") {
        ("an SVG drawing", AS_JPEG)
    } else if text.starts_with('<') {
        ("XML", INSTEAD)
    } else if lower.starts_with("{\\rtf") {
        ("a text document (RTF)", INSTEAD)
    } else if text.starts_with(['{', '[']) {
        return Some(picture_in_json(text.as_bytes()).unwrap_or_else(|| known("JSON", INSTEAD)));
    } else if let Some(multipart) = multipart_kind(text) {
        multipart
    } else if lower.starts_with("http/1.") || lower.starts_with("content-type:") {
        ("an HTTP answer with its headers", ITSELF)
    } else if lower.starts_with("data:") {
        ("a data: URI that holds no picture as base64", ITSELF)
    } else if lower.starts_with("http://")
        || lower.starts_with("https://")
        || lower.starts_with("rtsp://")
    {
        (
            "an address (URL)",
            "nothing is fetched from there: send the bytes of the picture",
        )
    } else if is_hex
        && (lower.starts_with("ffd8ff")
            || lower.starts_with("ff d8 ff")
            || lower.starts_with("89504e47"))
    {
        ("a picture in hexadecimal", ITSELF)
    } else if is_form(text) {
        (
            "a form of the kind key=value",
            "send the bytes of the picture, for example with curl --data-binary @file",
        )
    } else {
        ("plain text", INSTEAD)
    };
    Some(known(what, instead))
}

/// Names a picture that is encoded in JSON with this beginning.
pub fn picture_in_json(head: &[u8]) -> Option<NotAPicture> {
    let text = String::from_utf8_lossy(&head[..head.len().min(HEAD_BYTES)]);
    let dense: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let begins = |beginnings: &[&str]| {
        beginnings
            .iter()
            .any(|beginning| dense.starts_with(beginning))
    };
    let holds = |parts: &[&str]| parts.iter().any(|part| dense.contains(part));
    if holds(&["\"type\":\"Buffer\""]) || begins(&["{\"data\":["]) {
        let instead = "send msg.payload as a Buffer, without a JSON node before it";
        return Some(known(
            "a Buffer as JSON, as Node-RED and Node.js write it",
            instead,
        ));
    }
    if begins(&["[255,216,255", "[137,80,78,71"])
        || holds(&[":[255,216,255", ":[137,80,78,71", "\"0\":255,\"1\":216"])
    {
        return Some(known(
            "the bytes of a picture as a list of numbers in JSON",
            ITSELF,
        ));
    }
    // JPEG, PNG, GIF, WebP and data URIs begin so in base64.
    holds(&[
        "\"/9j/4",
        "\"/9j/2",
        "\"\\/9j\\/",
        "\"iVBORw0KGgo",
        "\"R0lGOD",
        "\"UklGR",
        "\"data:",
    ])
    .then(|| {
        known(
            "JSON with a picture as base64 in it",
            "send the bytes of the picture itself, or only its base64",
        )
    })
}

/// Names the kind of a body that begins with a boundary.
fn multipart_kind(text: &str) -> Option<(&'static str, &'static str)> {
    let (boundary, headers) = text.trim_start().split_once('\n')?;
    let (boundary, headers) = (boundary.trim_end(), headers.to_ascii_lowercase());
    let is_boundary =
        boundary.starts_with("--") && boundary.len() > 2 && !boundary.contains(char::is_whitespace);
    if !is_boundary {
        return None;
    }
    if headers.contains("content-disposition:") {
        let header = "send it with its header Content-Type: multipart/form-data; boundary=…, as curl -F does";
        return Some(("a multipart form", header));
    }
    headers.contains("content-type:").then_some((
        "a stream of pictures with boundaries (MJPEG)",
        "send one JPEG of it",
    ))
}

/// Returns true if the text looks like `application/x-www-form-urlencoded`.
fn is_form(text: &str) -> bool {
    let Some((key, value)) = text.split_once('=') else {
        return false;
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || "_-.[]%+".contains(c);
    !key.is_empty()
        && key.chars().all(is_word)
        && !value.trim_start_matches('=').is_empty()
        && !text.contains('\n')
}
