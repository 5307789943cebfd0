//! Decodes an image of any supported container to upright RGB pixels, or says in one sentence why
//! it cannot. Every failure is final: the same bytes fail again. The daemon fetches the bytes;
//! `kith_vision` finds the faces.

use std::borrow::Cow;
use std::fmt;
use std::io::{Cursor, ErrorKind};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::error::UnsupportedErrorKind;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage};

use jpeg::{Jpeg, Piece};
use kith_vision::{Bounds, Rgb};

use crate::kind::{NotAPicture, Wrapping, wrapping};

mod chunks;
mod ending;
mod jpeg;
mod orientation;
pub use crate::kind::Format;

/// Headroom for a decoder's own buffers when the pixel limit is very small.
const SMALLEST_ALLOCATION_LIMIT: u64 = 64 << 20;

/// Limits for one picture, checked before any pixel is decoded.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Largest file, in bytes.
    pub max_bytes: usize,
    /// Largest width × height in memory. A sequential JPEG may have [`JPEG_TIMES`] as many pixels:
    /// it is decoded reduced.
    pub max_pixels: u64,
}

/// Factor by which a JPEG may exceed the pixel limit.
pub const JPEG_TIMES: u64 = 16;

/// A defect that the operator should know of, in a picture that could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Remark {
    #[error("the file ends without its last {0}")]
    NoEnd(&'static str),
    #[error("its data has faults, so parts of the picture may look wrong")]
    Faults,
}

/// Reasons why a picture cannot be read, as sentences for the operator; all are final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DecodeError {
    #[error("The file {0}.")]
    NotAPicture(#[from] NotAPicture),
    #[error(
        "The file looks like {looks_like}; send an ordinary JPEG, PNG, WebP, GIF, BMP or TIFF."
    )]
    Unsupported { looks_like: String },
    #[error("The file has {bytes} bytes, more than intake.max_bytes = {limit}.")]
    TooManyBytes { bytes: usize, limit: usize },
    #[error("The picture has {width}×{height} pixels, more than {allowed}.")]
    TooManyPixels {
        width: usize,
        height: usize,
        allowed: String,
    },
    #[error(
        "The {format} file ends before the picture does: it was cut off or damaged on its way."
    )]
    Truncated { format: Format },
    #[error("The {format} file is damaged ({detail}).")]
    Corrupt { format: Format, detail: String },
}

/// A picture to find faces in, upright and perhaps reduced, with access to its parts in full size.
pub struct Sight<'a> {
    /// The picture in which faces are found first.
    pub picture: Rgb,
    /// Factor by which each side is reduced.
    pub reduction: usize,
    /// Width and height of the whole picture.
    pub size: (usize, usize),
    /// Remarks, in the order they were noticed.
    pub remarks: Vec<Remark>,
    /// Access to the full picture.
    pub whole: Whole<'a>,
}

/// The picture behind a [`Sight`].
pub struct Whole<'a> {
    turn: Turn,
    max_pixels: u64,
    /// The JPEG, if the sight is reduced.
    jpeg: Option<Jpeg<'a>>,
}

/// Fewest pixels for a reduction: for smaller pictures it saves less than decoding parts again may
/// cost.
const WORTH_REDUCING: u64 = 4_000_000;

/// Decodes the first frame of `bytes`, upright (EXIF orientation applied), transparency on white.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Rgb, DecodeError> {
    look(bytes, limits, |_, _| 1).map(|sight| sight.picture)
}

/// Decodes like [`decode`], but reduced by `reduction` (1, 2 or 4) if the picture is large and its
/// format saves time that way; by more if it would exceed the limit otherwise.
pub fn look<'a>(
    bytes: &'a [u8],
    limits: &DecodeLimits,
    reduction: impl FnOnce(usize, usize) -> usize,
) -> Result<Sight<'a>, DecodeError> {
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooManyBytes {
            bytes: bytes.len(),
            limit: limits.max_bytes,
        });
    }
    // Sources decode base64 before; in a watched folder it is a text file.
    let (format, bytes) = match wrapping(bytes)? {
        (format, Wrapping::Plain(begins)) => (format, &bytes[begins..]),
        (format, Wrapping::Base64(_)) => {
            let what = format!("a {format} as base64 text").into();
            return Err(NotAPicture::Known {
                what,
                instead: "decode it before it is put there",
            }
            .into());
        }
    };
    if format == Format::Jpeg {
        return look_at_jpeg(bytes, limits, reduction);
    }
    // Decoders are third-party code that gets untrusted input: a panic in one is this picture's
    // failure.
    catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, limits)))
        .unwrap_or_else(|_| Err(corrupt(format, "its decoder gave up on it")))
}

fn look_at_jpeg<'a>(
    bytes: &'a [u8],
    limits: &DecodeLimits,
    reduction: impl FnOnce(usize, usize) -> usize,
) -> Result<Sight<'a>, DecodeError> {
    let jpeg = Jpeg::open(bytes)?;
    let (width, height) = (jpeg.width, jpeg.height);
    let limit = limits.max_pixels;
    // A picture in scans is kept in full until the last scan, so reducing it saves no memory.
    let (most, allowed) = if jpeg.in_scans {
        let times = format!("a JPEG that is not progressive may have {JPEG_TIMES} times as many");
        (limit, format!("recognition.max_pixels = {limit} ({times})"))
    } else {
        (
            limit.saturating_mul(JPEG_TIMES),
            format!("{JPEG_TIMES} times recognition.max_pixels = {limit}"),
        )
    };
    let count = pixels_within(Format::Jpeg, [width, height], most, allowed)?;
    let turn = Turn {
        orientation: orientation::of(Format::Jpeg, bytes),
        width,
        height,
    };
    let wanted = if count < WORTH_REDUCING {
        1
    } else {
        reduction(width, height)
    };
    let (_, flip_x, flip_y) = turn.swapped_and_flipped();
    // If a row does not divide evenly, flipping would move the remainder to its beginning.
    let even =
        (!flip_x || width.is_multiple_of(wanted)) && (!flip_y || height.is_multiple_of(wanted));
    let wanted = if even { wanted } else { 1 };
    let needed = [1, 2]
        .into_iter()
        .find(|&by| count.div_ceil(by * by) <= limit)
        .unwrap_or(4);
    let reduction = wanted.max(needed as usize);
    let [columns, rows] = jpeg.reduced(reduction);
    let (piece, remarks) = jpeg.piece(reduction, 0..columns, 0..rows)?;
    let whole = Whole {
        turn,
        max_pixels: limit,
        jpeg: (reduction > 1).then_some(jpeg),
    };
    Ok(Sight {
        picture: turn.apply(piece),
        reduction,
        size: turn.upright(),
        remarks,
        whole,
    })
}

/// Returns the number of pixels if it is at most `most`.
fn pixels_within(
    format: Format,
    [width, height]: [usize; 2],
    most: u64,
    allowed: String,
) -> Result<u64, DecodeError> {
    if width == 0 || height == 0 {
        return Err(corrupt(format, "it claims to have no pixels"));
    }
    let count = (width as u64).saturating_mul(height as u64);
    if count > most {
        return Err(DecodeError::TooManyPixels {
            width,
            height,
            allowed,
        });
    }
    Ok(count)
}

fn decode_as<'a>(
    format: Format,
    bytes: &[u8],
    limits: &DecodeLimits,
) -> Result<Sight<'a>, DecodeError> {
    let mut orientation = orientation::of(format, bytes);
    let bytes = if format == Format::Png {
        chunks::essential_png(bytes)
    } else {
        Cow::Borrowed(bytes)
    };
    let (bytes, remark) = match ending::completed(format, &bytes) {
        Some((whole, remark)) => (Cow::Owned(whole), remark),
        None => (bytes, None),
    };
    // A fault of a file without its end is most likely that pixels are missing.
    let explain = |stage, error: ImageError| match explain(format, stage, &error) {
        DecodeError::Corrupt { .. } if remark.is_some() => DecodeError::Truncated { format },
        explained => explained,
    };
    let mut allocation = Limits::no_limits();
    allocation.max_alloc = Some(
        limits
            .max_pixels
            .saturating_mul(8)
            .max(SMALLEST_ALLOCATION_LIMIT),
    );
    let mut reader = ImageReader::with_format(Cursor::new(&*bytes), format.image_format());
    reader.limits(allocation);
    // Reads headers only; `from_decoder` decodes the pixels.
    let mut decoder = reader
        .into_decoder()
        .map_err(|error| explain(Stage::Header, error))?;
    if format == Format::Tiff && orientation == Orientation::NoTransforms {
        // BigTIFF is not valid EXIF.
        orientation = decoder.orientation().unwrap_or(orientation);
    }
    // u32 fits usize on every target that runs an engine.
    let [width, height] = <[u32; 2]>::from(decoder.dimensions()).map(|side| side as usize);
    let limit = limits.max_pixels;
    let times = format!("a JPEG may have {JPEG_TIMES} times as many");
    // More than four bytes a pixel need twice the memory or more until they are converted.
    let (most, half) = if decoder.color_type().bytes_per_pixel() > 4 {
        (limit / 2, "half of ")
    } else {
        (limit, "")
    };
    pixels_within(
        format,
        [width, height],
        most,
        format!("{half}recognition.max_pixels = {limit} ({times})"),
    )?;
    let picture =
        DynamicImage::from_decoder(decoder).map_err(|error| explain(Stage::Pixels, error))?;
    let mut picture = flatten(picture);
    picture.apply_orientation(orientation);
    let turn = Turn {
        orientation,
        width,
        height,
    };
    let whole = Whole {
        turn,
        max_pixels: limit,
        jpeg: None,
    };
    Ok(Sight {
        picture: rgb(picture),
        reduction: 1,
        size: turn.upright(),
        remarks: remark.into_iter().collect(),
        whole,
    })
}

fn rgb(picture: DynamicImage) -> Rgb {
    let picture = picture.into_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Rgb {
        width,
        height,
        pixels: picture.into_raw(),
    }
}

impl Whole<'_> {
    /// Returns the part of the full picture with these bounds, or as much of it as exists, and its
    /// upper left corner. `None` if the sight is the full picture already, or cannot be enlarged.
    pub fn part(&self, bounds: Bounds) -> Option<(Rgb, [usize; 2])> {
        let jpeg = self.jpeg.as_ref()?;
        let (width, height) = self.turn.upright();
        let within = |from: f32, to: f32, side: usize| {
            (from.max(0.0) as usize).min(side)..(to.ceil() as usize).min(side)
        };
        let (x, y) = (
            within(bounds.left, bounds.right, width),
            within(bounds.top, bounds.bottom, height),
        );
        let (x, y) = self.turn.stored(x, y);
        if x.is_empty() || y.is_empty() || x.len() as u64 * y.len() as u64 > self.max_pixels {
            return None;
        }
        match jpeg.piece(1, x, y) {
            Ok((piece, _)) => {
                let corner = self.turn.corner(&piece);
                Some((self.turn.apply(piece), corner))
            }
            Err(error) => {
                tracing::debug!(
                    "a picture's small faces are recognised with half of its detail or less: {error}"
                );
                None
            }
        }
    }
}

/// Rotation and mirroring that turn a stored picture upright.
#[derive(Clone, Copy)]
struct Turn {
    orientation: Orientation,
    /// Width and height as stored.
    width: usize,
    height: usize,
}

impl Turn {
    /// Returns three flags: upright rows are stored columns; stored columns run backwards; stored
    /// rows run backwards.
    fn swapped_and_flipped(self) -> (bool, bool, bool) {
        match self.orientation {
            Orientation::NoTransforms => (false, false, false),
            Orientation::FlipHorizontal => (false, true, false),
            Orientation::FlipVertical => (false, false, true),
            Orientation::Rotate180 => (false, true, true),
            Orientation::Rotate90FlipH => (true, false, false),
            Orientation::Rotate270 => (true, true, false),
            Orientation::Rotate90 => (true, false, true),
            Orientation::Rotate270FlipH => (true, true, true),
        }
    }

    /// Returns width and height of the upright picture.
    fn upright(self) -> (usize, usize) {
        if self.swapped_and_flipped().0 {
            (self.height, self.width)
        } else {
            (self.width, self.height)
        }
    }

    /// Returns the stored range of upright columns and rows.
    fn stored(self, x: Range<usize>, y: Range<usize>) -> (Range<usize>, Range<usize>) {
        let (swapped, flip_x, flip_y) = self.swapped_and_flipped();
        let (x, y) = if swapped { (y, x) } else { (x, y) };
        (
            flipped(x, flip_x, self.width),
            flipped(y, flip_y, self.height),
        )
    }

    /// Returns the upper left corner of a piece in the upright picture.
    fn corner(self, piece: &Piece) -> [usize; 2] {
        let (swapped, flip_x, flip_y) = self.swapped_and_flipped();
        let x = flipped(piece.left..piece.left + piece.width, flip_x, self.width).start;
        let y = flipped(piece.top..piece.top + piece.height, flip_y, self.height).start;
        if swapped { [y, x] } else { [x, y] }
    }

    /// Turns a piece upright.
    fn apply(self, piece: Piece) -> Rgb {
        if self.orientation == Orientation::NoTransforms {
            return Rgb {
                width: piece.width,
                height: piece.height,
                pixels: piece.pixels,
            };
        }
        // The length is width × height × 3 by construction; an empty picture stands for the
        // impossible case.
        let picture = RgbImage::from_raw(piece.width as u32, piece.height as u32, piece.pixels)
            .unwrap_or_default();
        let mut picture = DynamicImage::ImageRgb8(picture);
        picture.apply_orientation(self.orientation);
        rgb(picture)
    }
}

fn flipped(range: Range<usize>, flip: bool, side: usize) -> Range<usize> {
    if flip {
        side - range.end..side - range.start
    } else {
        range
    }
}

/// Converts to RGB8 without alpha: transparent pixels become white, as most viewers and browsers
/// show them.
fn flatten(picture: DynamicImage) -> DynamicImage {
    if !picture.color().has_alpha() {
        return DynamicImage::ImageRgb8(picture.into_rgb8());
    }
    let picture = picture.into_rgba8();
    let (width, height) = picture.dimensions();
    let mut pixels = picture.into_raw();
    // In place, so that a large picture is not held twice: pixel i moves from 4i to 3i.
    for i in 0..pixels.len() / 4 {
        let alpha = u32::from(pixels[4 * i + 3]);
        for c in 0..3 {
            let over = u32::from(pixels[4 * i + c]) * alpha + 255 * (255 - alpha);
            // At most 255 × 255 + 127, so at most 255 after the division.
            pixels[3 * i + c] = ((over + 127) / 255) as u8;
        }
    }
    pixels.truncate(pixels.len() / 4 * 3);
    pixels.shrink_to_fit();
    // The length is width × height × 3 by construction; an empty picture stands for the impossible
    // case.
    DynamicImage::ImageRgb8(image::RgbImage::from_raw(width, height, pixels).unwrap_or_default())
}

fn corrupt(format: Format, detail: &str) -> DecodeError {
    DecodeError::Corrupt {
        format,
        detail: detail.to_owned(),
    }
}

/// Part of a file that a decoder was reading.
#[derive(Clone, Copy)]
enum Stage {
    Header,
    Pixels,
}

/// Converts a decoder's error to ours, in words of our own: a decoder writes for programmers, and
/// may quote the file. Its text goes to the log.
fn explain(format: Format, stage: Stage, error: &ImageError) -> DecodeError {
    tracing::debug!("a {format} could not be decoded: {}", one_line(error));
    let rare = |feature: &str| DecodeError::Unsupported {
        looks_like: format!("a rare kind of {format} ({feature})"),
    };
    match error {
        ImageError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => {
            DecodeError::Truncated { format }
        }
        ImageError::Limits(_) => {
            rare("decoding takes more memory than recognition.max_pixels allows")
        }
        ImageError::Unsupported(e) => match e.kind() {
            UnsupportedErrorKind::GenericFeature(feature) if is_plain(&feature) => {
                rare(&one_line(&feature))
            }
            UnsupportedErrorKind::Color(_)
            | UnsupportedErrorKind::ColorLayout(_)
            | UnsupportedErrorKind::ColorspaceCicp(_) => rare("its way to store colours"),
            _ => rare("a feature that is not read here"),
        },
        error if error.to_string().contains("CRC") => {
            corrupt(format, "a checksum does not fit its data")
        }
        _ => corrupt(
            format,
            match stage {
                Stage::Header => "its header contradicts itself",
                Stage::Pixels => "its pixel data cannot be unpacked",
            },
        ),
    }
}

/// Returns true if a decoder's text has no signs of program code.
fn is_plain(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_alphanumeric() || matches!(c, ' ' | ',' | '.' | ';' | '-' | '/' | '%'))
}

/// Formats a decoder's message, which may quote the file: one line, no control characters, limited
/// length.
fn one_line(text: &(impl fmt::Display + ?Sized)) -> String {
    let text = text.to_string();
    text.trim_end_matches('.')
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(160)
        .collect()
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
