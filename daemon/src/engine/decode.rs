//! Turns the bytes of one image into upright RGB pixels, whatever container they came in, or says in
//! one sentence why not. Every failure is final: the same bytes fail again.
//! Not for fetching bytes (the daemon does that) and not for finding faces (`kith_vision` does).

use std::error::Error as _;
use std::fmt;
use std::io::{Cursor, ErrorKind};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::error::UnsupportedErrorKind;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage};

use kith_vision::{Bounds, Rgb};
use reduced::{Jpeg, Piece};

use crate::picture_kind::{NotAPicture, Wrapping, wrapping};

mod jpeg;
mod reduced;
pub use crate::picture_kind::Format;

/// Headroom for a decoder's own buffers when the pixel limit is very small.
const SMALLEST_ALLOCATION_LIMIT: u64 = 64 << 20;

/// What one picture may cost; checked before any pixel is decoded.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Largest file, in bytes.
    pub max_bytes: usize,
    /// Largest width × height.
    pub max_pixels: u64,
}

/// Why a picture cannot be read. Display is the sentence the operator reads; all are final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DecodeError {
    #[error("The file {0}.")]
    NotAPicture(#[from] NotAPicture),
    #[error("The file looks like {looks_like}; send an ordinary JPEG, PNG, WebP, GIF, BMP or TIFF.")]
    Unsupported { looks_like: String },
    #[error("The file has {bytes} bytes; at most {limit} are accepted.")]
    TooManyBytes { bytes: usize, limit: usize },
    #[error("The picture has {width}×{height} pixels; at most {limit} in all are accepted.")]
    TooManyPixels { width: u32, height: u32, limit: u64 },
    #[error("The {format} file ends before the picture does: it was cut off or damaged on its way.")]
    Truncated { format: Format },
    #[error("The {format} file is damaged ({detail}).")]
    Corrupt { format: Format, detail: String },
}

/// A picture to find faces in, upright; perhaps reduced, with what it takes to see parts of it in full.
pub struct Sight<'a> {
    /// What is looked at first.
    pub picture: Rgb,
    /// How many pixels of the whole picture each of its pixels stands for, along a side.
    pub reduction: usize,
    /// Width and height of the whole picture.
    pub size: (usize, usize),
    /// The rest.
    pub whole: Whole<'a>,
}

/// The picture behind a [`Sight`].
pub struct Whole<'a> {
    bytes: &'a [u8],
    limits: DecodeLimits,
    turn: Turn,
    /// If the sight is reduced.
    jpeg: Option<Jpeg<'a>>,
}

/// Reducing a picture of fewer pixels saves less than looking at parts of it again may cost.
const WORTH_REDUCING: u64 = 4_000_000;

/// Decodes the first frame of `bytes`, upright (EXIF orientation applied), transparency on white.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Rgb, DecodeError> {
    look(bytes, limits, |_, _| 1).map(|sight| sight.picture)
}

/// The same, with its sides divided by `reduction` of them (1, 2 or 4), if it is a large picture whose format lets that
/// save time. What is refused is what [`decode`] refuses.
pub fn look<'a>(
    bytes: &'a [u8],
    limits: &DecodeLimits,
    reduction: impl FnOnce(usize, usize) -> usize,
) -> Result<Sight<'a>, DecodeError> {
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { bytes: bytes.len(), limit: limits.max_bytes });
    }
    // The doors undo base64; in a folder it is a text file.
    let (format, bytes) = match wrapping(bytes)? {
        (format, Wrapping::Plain(begins)) => (format, &bytes[begins..]),
        (format, Wrapping::Base64(_)) => {
            let what = format!("a {format} as base64 text").into();
            return Err(NotAPicture::Known { what, instead: "decode it before it is put there" }.into());
        }
    };
    if format == Format::Jpeg {
        jpeg::check(bytes)?;
    }
    // The decoders are other people's code fed by strangers: a panic in one is this picture's failure.
    catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, limits, reduction)))
        .unwrap_or_else(|_| Err(corrupt(format, "its decoder gave up on it")))
}

fn decode_as<'a>(
    format: Format,
    bytes: &'a [u8],
    limits: &DecodeLimits,
    reduction: impl FnOnce(usize, usize) -> usize,
) -> Result<Sight<'a>, DecodeError> {
    let mut allocation = Limits::no_limits();
    allocation.max_alloc = Some(limits.max_pixels.saturating_mul(8).max(SMALLEST_ALLOCATION_LIMIT));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format.image_format());
    reader.limits(allocation);
    // Reads headers only; the pixels are decoded by `from_decoder`.
    let mut decoder = reader.into_decoder().map_err(|error| explain(format, &error))?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(corrupt(format, "it claims to have no pixels"));
    }
    let count = u64::from(width) * u64::from(height);
    if count > limits.max_pixels {
        return Err(DecodeError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    // Unreadable metadata is no reason to refuse readable pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    // u32 fits usize on every target that runs an engine.
    let turn = Turn { orientation, width: width as usize, height: height as usize };
    let sight = |picture, reduction, jpeg| {
        let whole = Whole { bytes, limits: *limits, turn, jpeg };
        Sight { picture, reduction, size: turn.upright(), whole }
    };
    if format == Format::Jpeg && count >= WORTH_REDUCING {
        let reduction = reduction(turn.width, turn.height);
        // Where something is left over at the end of a row, turning would move it to the beginning.
        let even = turn.width.is_multiple_of(reduction) && turn.height.is_multiple_of(reduction);
        if reduction > 1
            && even
            && let Some(mut jpeg) = Jpeg::read(bytes, [turn.width, turn.height])
            && let Some(piece) = jpeg.reduced(reduction)
        {
            return Ok(sight(turn.apply(piece), reduction, Some(jpeg)));
        }
    }
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| explain(format, &error))?;
    let mut picture = flatten(picture);
    picture.apply_orientation(orientation);
    Ok(sight(rgb(picture), 1, None))
}

fn rgb(picture: DynamicImage) -> Rgb {
    let picture = picture.into_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Rgb { width, height, pixels: picture.into_raw() }
}

impl Whole<'_> {
    /// The part of the whole picture that holds these bounds, or as much of them as there is, and where its left upper
    /// corner is. `None` if the sight is the whole picture, or all there can be.
    pub fn part(&mut self, bounds: Bounds) -> Option<(Rgb, [usize; 2])> {
        let jpeg = self.jpeg.as_mut()?;
        let (width, height) = self.turn.upright();
        let within =
            |from: f32, to: f32, side: usize| (from.max(0.0) as usize).min(side)..(to.ceil() as usize).min(side);
        let (x, y) = (within(bounds.left, bounds.right, width), within(bounds.top, bounds.bottom, height));
        // Reading everything is faster the plain way.
        if 2 * x.len() * y.len() < width * height {
            let (x, y) = self.turn.stored(x, y);
            if let Ok(Some(piece)) = catch_unwind(AssertUnwindSafe(|| jpeg.piece(x, y))) {
                let corner = self.turn.corner(&piece);
                return Some((self.turn.apply(piece), corner));
            }
        }
        match decode(self.bytes, &self.limits) {
            Ok(picture) => Some((picture, [0, 0])),
            Err(error) => {
                tracing::debug!("a picture's small faces are recognised with half of its detail or less: {error}");
                None
            }
        }
    }
}

/// How a stored picture is turned upright.
#[derive(Clone, Copy)]
struct Turn {
    orientation: Orientation,
    /// As stored.
    width: usize,
    height: usize,
}

impl Turn {
    /// Whether, upright, rows are the stored columns, and whether stored columns and rows run the other way.
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

    /// Width and height.
    fn upright(self) -> (usize, usize) {
        if self.swapped_and_flipped().0 { (self.height, self.width) } else { (self.width, self.height) }
    }

    /// Where upright columns and rows are stored.
    fn stored(self, x: Range<usize>, y: Range<usize>) -> (Range<usize>, Range<usize>) {
        let (swapped, flip_x, flip_y) = self.swapped_and_flipped();
        let (x, y) = if swapped { (y, x) } else { (x, y) };
        (flipped(x, flip_x, self.width), flipped(y, flip_y, self.height))
    }

    /// Where the left upper corner of a piece is once it is upright.
    fn corner(self, piece: &Piece) -> [usize; 2] {
        let (swapped, flip_x, flip_y) = self.swapped_and_flipped();
        let x = flipped(piece.left..piece.left + piece.width, flip_x, self.width).start;
        let y = flipped(piece.top..piece.top + piece.height, flip_y, self.height).start;
        if swapped { [y, x] } else { [x, y] }
    }

    /// A piece upright.
    fn apply(self, piece: Piece) -> Rgb {
        if self.orientation == Orientation::NoTransforms {
            return Rgb { width: piece.width, height: piece.height, pixels: piece.pixels };
        }
        // The length is width × height × 3 by construction; an empty picture stands in for the impossible.
        let picture = RgbImage::from_raw(piece.width as u32, piece.height as u32, piece.pixels).unwrap_or_default();
        let mut picture = DynamicImage::ImageRgb8(picture);
        picture.apply_orientation(self.orientation);
        rgb(picture)
    }
}

fn flipped(range: Range<usize>, flip: bool, side: usize) -> Range<usize> {
    if flip { side - range.end..side - range.start } else { range }
}

/// RGB8 without alpha: transparent pixels show white paper, as viewers and browsers mostly do.
fn flatten(picture: DynamicImage) -> DynamicImage {
    if !picture.color().has_alpha() {
        return DynamicImage::ImageRgb8(picture.into_rgb8());
    }
    let picture = picture.into_rgba8();
    let (width, height) = picture.dimensions();
    let mut pixels = picture.into_raw();
    // In place, so that a large picture is not held twice: pixel i moves from 4i down to 3i.
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
    // The length is width × height × 3 by construction; an empty picture stands in for the impossible.
    DynamicImage::ImageRgb8(image::RgbImage::from_raw(width, height, pixels).unwrap_or_default())
}

fn corrupt(format: Format, detail: &str) -> DecodeError {
    DecodeError::Corrupt { format, detail: detail.to_owned() }
}

/// Sorts a decoder's error into ours, with the shortest true text.
fn explain(format: Format, error: &ImageError) -> DecodeError {
    match error {
        ImageError::IoError(e) if e.kind() == ErrorKind::UnexpectedEof => DecodeError::Truncated { format },
        ImageError::Unsupported(e) => {
            let feature = match e.kind() {
                UnsupportedErrorKind::GenericFeature(feature) => feature,
                other => format!("{other:?}"),
            };
            DecodeError::Unsupported { looks_like: format!("a rare kind of {format} ({})", one_line(&feature)) }
        }
        _ => corrupt(format, &error.source().map_or_else(|| one_line(error), one_line)),
    }
}

/// Decoders quote the file in their messages: no line breaks, no control characters, no long tales.
fn one_line(text: &(impl fmt::Display + ?Sized)) -> String {
    let text = text.to_string();
    text.trim_end_matches('.').chars().map(|c| if c.is_control() { ' ' } else { c }).take(160).collect()
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
