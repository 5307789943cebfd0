//! Turns the bytes of one image into upright RGB pixels, whatever container they came in, or says in
//! one sentence why not. Every failure is final: the same bytes fail again.
//! Not for fetching bytes (the daemon does that) and not for finding faces (`kith_vision` does).

use std::error::Error as _;
use std::fmt;
use std::io::{Cursor, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::error::UnsupportedErrorKind;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits};

use kith_vision::Rgb;
use sniff::refuse;

mod jpeg;
mod sniff;
pub use sniff::{Format, sniff};

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
    #[error("The file is empty.")]
    Empty,
    #[error("The file is not a picture of any known kind (it starts with the bytes {starts_with}).")]
    NotAnImage { starts_with: String },
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

/// Decodes the first frame of `bytes`, upright (EXIF orientation applied), transparency on white.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Rgb, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { bytes: bytes.len(), limit: limits.max_bytes });
    }
    let format = sniff(bytes).ok_or_else(|| refuse(bytes))?;
    if format == Format::Jpeg {
        jpeg::check(bytes)?;
    }
    // The decoders are other people's code fed by strangers: a panic in one is this picture's failure.
    catch_unwind(AssertUnwindSafe(|| decode_as(format, bytes, limits)))
        .unwrap_or_else(|_| Err(corrupt(format, "its decoder gave up on it")))
}

fn decode_as(format: Format, bytes: &[u8], limits: &DecodeLimits) -> Result<Rgb, DecodeError> {
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
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(DecodeError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    // Unreadable metadata is no reason to refuse readable pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| explain(format, &error))?;
    let mut picture = flatten(picture);
    picture.apply_orientation(orientation);
    let picture = picture.into_rgb8();
    // u32 fits usize on every target that runs an engine.
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Ok(Rgb { width, height, pixels: picture.into_raw() })
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
