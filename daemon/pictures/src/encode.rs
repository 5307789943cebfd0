//! Encodes JPEGs: the thumbnail of an image and the aligned crops of its faces. Reading pictures is
//! `decode`'s; the crops that the networks see are `kith_vision`'s.

use std::borrow::Cow;

use jpeg_encoder::{ColorType, Encoder, EncodingError, SamplingFactor};
use kith_vision::Rgb;

/// JPEG quality of thumbnails: small enough for a table of hundreds, without visible blocks on
/// faces.
const THUMBNAIL_QUALITY: u8 = 80;

/// Source pixels averaged for each thumbnail pixel, along one side. More would not be visible, and
/// reading every pixel of a large photograph takes longer than decoding it.
const SAMPLES: u32 = 4;

/// Reasons why a picture could not be written as JPEG.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The buffer does not hold `width` × `height` RGB pixels.
    #[error("{bytes} bytes are not {width}×{height} RGB pixels")]
    WrongLength {
        /// Claimed pixels a row.
        width: usize,
        /// Claimed rows.
        height: usize,
        /// Length of the buffer.
        bytes: usize,
    },
    /// The picture is larger than JPEG's limit of 65 535 pixels a side.
    #[error("a picture of {width}×{height} pixels is too large for JPEG")]
    TooLarge {
        /// Pixels a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The encoder failed.
    #[error("the picture cannot be written as JPEG: {0}")]
    Jpeg(#[from] EncodingError),
}

/// Encodes the whole picture with its longer side reduced to at most `max_side`; never enlarges it.
#[inline(never)] // in a caller that is compiled for size, its loops would be, too
pub fn thumbnail(picture: &Rgb, max_side: u32) -> Result<Vec<u8>, EncodeError> {
    let [width, height] = sides(picture)?;
    let (longer, max_side) = (width.max(height), max_side.max(1));
    if longer <= max_side {
        return write(
            &picture.pixels,
            [width, height],
            THUMBNAIL_QUALITY,
            SamplingFactor::F_2_2,
        );
    }
    // Takes every `step`th pixel of every `step`th row, then averages those.
    let step = (longer / max_side.saturating_mul(SAMPLES)).max(1) as usize;
    let rows = picture.pixels.chunks_exact(3 * picture.width).step_by(step);
    let sampled: Cow<'_, [u8]> = match step {
        1 => Cow::Borrowed(&picture.pixels),
        _ => rows
            .flat_map(|row| row.chunks_exact(3).step_by(step))
            .flatten()
            .copied()
            .collect(),
    };
    let (across, down) = (width.div_ceil(step as u32), height.div_ceil(step as u32));
    let small = [width, height].map(|side| scaled(side, max_side, longer));
    // Halving the colour's detail is invisible in a table and saves a seventh of the bytes.
    write(
        &averaged(&sampled, [across, down], small),
        small,
        THUMBNAIL_QUALITY,
        SamplingFactor::F_2_2,
    )
}

/// Reduces a picture: each pixel of `small` is the mean of the whole pixels of `large` that it
/// covers; sides in pixels, width first.
fn averaged(pixels: &[u8], large: [u32; 2], small: [u32; 2]) -> Vec<u8> {
    // `large` is not smaller than `small`, so every range has at least one pixel.
    let covered = |axis: usize, n: u32| {
        let edge =
            |n: u32| (u64::from(n) * u64::from(large[axis]) / u64::from(small[axis])) as usize;
        edge(n)..edge(n + 1)
    };
    let mut means = Vec::with_capacity(3 * small[0] as usize * small[1] as usize);
    let stride = 3 * large[0] as usize;
    // Sum complete rows first, which the compiler vectorises. A pixel covers at most a dozen rows.
    let mut line = vec![0_u16; stride];
    for rows in (0..small[1]).map(|y| covered(1, y)) {
        line.fill(0);
        for row in pixels[stride * rows.start..stride * rows.end].chunks_exact(stride) {
            for (sum, &byte) in line.iter_mut().zip(row) {
                *sum += u16::from(byte);
            }
        }
        for columns in (0..small[0]).map(|x| covered(0, x)) {
            let mut sums = [0_u32; 3];
            for pixel in line[3 * columns.start..3 * columns.end].chunks_exact(3) {
                sums[0] += u32::from(pixel[0]);
                sums[1] += u32::from(pixel[1]);
                sums[2] += u32::from(pixel[2]);
            }
            let count = (rows.len() * columns.len()) as u32;
            means.extend(sums.map(|sum| ((sum + count / 2) / count) as u8));
        }
    }
    means
}

/// Encodes the picture in full size with `quality` 1 to 100. The colour keeps its full resolution:
/// faces are recognised from these.
#[inline(never)]
pub fn jpeg(picture: &Rgb, quality: u8) -> Result<Vec<u8>, EncodeError> {
    write(
        &picture.pixels,
        sides(picture)?,
        quality,
        SamplingFactor::F_1_1,
    )
}

/// Returns `side` × `numerator` / `denominator`, rounded, at least one pixel; at most `numerator`
/// if `side` ≤ `denominator`.
fn scaled(side: u32, numerator: u32, denominator: u32) -> u32 {
    let rounded = (u64::from(side) * u64::from(numerator) + u64::from(denominator) / 2)
        / u64::from(denominator);
    u32::try_from(rounded).unwrap_or(numerator).max(1)
}

/// Returns width and height, after checking the number of pixels.
fn sides(picture: &Rgb) -> Result<[u32; 2], EncodeError> {
    let wrong = || wrong_length(picture);
    let width = u32::try_from(picture.width).map_err(|_| wrong())?;
    let height = u32::try_from(picture.height).map_err(|_| wrong())?;
    let bytes = (u64::from(width) * u64::from(height)).saturating_mul(3);
    if bytes == 0 || bytes != picture.pixels.len() as u64 {
        Err(wrong())
    } else {
        Ok([width, height])
    }
}

fn wrong_length(picture: &Rgb) -> EncodeError {
    EncodeError::WrongLength {
        width: picture.width,
        height: picture.height,
        bytes: picture.pixels.len(),
    }
}

fn write(
    pixels: &[u8],
    [width, height]: [u32; 2],
    quality: u8,
    sampling: SamplingFactor,
) -> Result<Vec<u8>, EncodeError> {
    let (Ok(across), Ok(down)) = (u16::try_from(width), u16::try_from(height)) else {
        return Err(EncodeError::TooLarge {
            width: width as usize,
            height: height as usize,
        });
    };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality.clamp(1, 100));
    encoder.set_sampling_factor(sampling);
    encoder.encode(pixels, across, down, ColorType::Rgb)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn decode(jpeg: &[u8]) -> Rgb {
        let picture = image::load_from_memory(jpeg).unwrap().into_rgb8();
        Rgb {
            width: picture.width() as usize,
            height: picture.height() as usize,
            pixels: picture.into_raw(),
        }
    }

    fn left_red_right_blue(width: usize, height: usize) -> Rgb {
        let pixels = (0..width * height).flat_map(|i| {
            if i % width < width / 2 {
                [220, 20, 20]
            } else {
                [20, 20, 220]
            }
        });
        Rgb {
            width,
            height,
            pixels: pixels.collect(),
        }
    }

    fn size(jpeg: &[u8]) -> (usize, usize) {
        let picture = decode(jpeg);
        (picture.width, picture.height)
    }

    #[test]
    fn a_thumbnail_keeps_the_aspect_and_the_colours() {
        let small = decode(&thumbnail(&left_red_right_blue(900, 300), 90).unwrap());
        assert_eq!((small.width, small.height), (90, 30));
        let pixel = |x: usize| &small.pixels[(15 * 90 + x) * 3..][..3];
        assert!(pixel(10)[0] > 200 && pixel(10)[2] < 50, "{:?}", pixel(10));
        assert!(pixel(80)[2] > 200 && pixel(80)[0] < 50, "{:?}", pixel(80));
    }

    #[test]
    fn a_small_picture_is_never_upscaled() {
        assert_eq!(
            size(&thumbnail(&left_red_right_blue(40, 20), 320).unwrap()),
            (40, 20)
        );
        assert_eq!(
            size(&thumbnail(&left_red_right_blue(1, 1), 320).unwrap()),
            (1, 1)
        );
    }

    #[test]
    fn a_thin_picture_keeps_one_pixel_of_width_at_any_size() {
        assert_eq!(
            size(&thumbnail(&left_red_right_blue(1, 4000), 320).unwrap()),
            (1, 320)
        );
        assert_eq!(
            size(&thumbnail(&left_red_right_blue(1, 70_000), 320).unwrap()),
            (1, 320)
        );
        assert_eq!(
            size(&thumbnail(&left_red_right_blue(200, 100), 0).unwrap()),
            (1, 1)
        );
    }

    #[test]
    fn a_lying_size_or_a_side_too_long_for_jpeg_is_an_error() {
        let short = Rgb {
            width: 10,
            height: 10,
            pixels: vec![0; 299],
        };
        assert!(matches!(
            thumbnail(&short, 64),
            Err(EncodeError::WrongLength { bytes: 299, .. })
        ));
        let none = Rgb {
            width: 0,
            height: 0,
            pixels: Vec::new(),
        };
        assert!(matches!(
            jpeg(&none, 80),
            Err(EncodeError::WrongLength { .. })
        ));
        assert!(matches!(
            jpeg(&left_red_right_blue(1, 70_000), 80),
            Err(EncodeError::TooLarge { height: 70_000, .. })
        ));
    }
}
