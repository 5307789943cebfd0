//! The uncompressed picture that every stage of this crate works on. The caller decodes files.

use crate::VisionError;

/// The longest side of a picture; larger sizes would overflow the arithmetic here.
pub const MAX_SIDE: usize = 32_768;

/// Interleaved 8-bit RGB, row by row from the top, without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 * width * height` bytes.
    pub pixels: Vec<u8>,
}

impl Rgb {
    /// Wraps decoded pixels if their number matches the sides.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self, VisionError> {
        let picture = Self {
            width,
            height,
            pixels,
        };
        picture.check()?;
        Ok(picture)
    }

    /// Checks the sides and the number of bytes. The fields are public, so every stage that indexes
    /// calls this first.
    pub(crate) fn check(&self) -> Result<(), VisionError> {
        let (width, height) = (self.width, self.height);
        let sides = 1..=MAX_SIDE;
        if !sides.contains(&width) || !sides.contains(&height) {
            return Err(VisionError::PictureSides { width, height });
        }
        if self.pixels.len() != 3 * width * height {
            return Err(VisionError::PictureLength {
                width,
                height,
                bytes: self.pixels.len(),
            });
        }
        Ok(())
    }

    /// Returns the bytes of one row.
    pub(crate) fn row(&self, y: usize) -> &[u8] {
        let stride = 3 * self.width;
        &self.pixels[y * stride..(y + 1) * stride]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_needs_three_bytes_for_each_pixel() {
        assert!(Rgb::new(2, 3, vec![0; 18]).is_ok());
        assert!(matches!(
            Rgb::new(2, 3, vec![0; 17]),
            Err(VisionError::PictureLength { bytes: 17, .. })
        ));
    }

    #[test]
    fn an_empty_or_enormous_picture_is_refused() {
        assert!(matches!(
            Rgb::new(0, 3, vec![]),
            Err(VisionError::PictureSides { .. })
        ));
        assert!(matches!(
            Rgb::new(usize::MAX, usize::MAX, vec![]),
            Err(VisionError::PictureSides { .. })
        ));
    }
}
