//! A camera's frame as pixels: input for the motion gate and for the choice among a burst, and the
//! JPEG that is kept.

use kith_vision::Rgb;

use crate::decode::{DecodeLimits, decode};
use crate::encode::jpeg;
use crate::mjpeg;

/// Quality of the JPEG made of a raw frame: its losses do not affect recognition.
const QUALITY: u8 = 92;
/// Cells across for the motion gate. Averaging over a cell removes sensor noise.
const CELLS_ACROSS: usize = 64;

/// A cut is where the cells of two frames correlate less than this: in a clip with three cuts and a
/// moving camera they do so at 0.01 to 0.22 there, and at 0.27 to 1 between other frames but one.
const CUT: f32 = 0.25;
/// And where this share of them differs by so many levels of 255: noise in an even picture does not
/// correlate either.
const CUT_AREA: (f32, i16) = (0.25, 12);

/// Returns true if two frames, by their cells, show different scenes. A lamp or the exposure
/// changes all cells alike, which leaves the correlation as it is.
pub fn is_cut(before: &[u8], after: &[u8]) -> bool {
    if before.len() != after.len() {
        return true;
    }
    let pairs = || before.iter().zip(after);
    let differ = |(a, b): &(&u8, &u8)| (i16::from(**a) - i16::from(**b)).abs() > CUT_AREA.1;
    let count = before.len() as f32;
    if (pairs().filter(differ).count() as f32) < CUT_AREA.0 * count {
        return false;
    }
    let mean = |cells: &[u8]| cells.iter().copied().map(f32::from).sum::<f32>() / count;
    let (of_before, of_after) = (mean(before), mean(after));
    let (mut both, mut squares) = (0.0, (0.0, 0.0));
    for (a, b) in pairs() {
        let (a, b) = (f32::from(*a) - of_before, f32::from(*b) - of_after);
        both += a * b;
        squares.0 += a * a;
        squares.1 += b * b;
    }
    both < CUT * (squares.0 * squares.1).sqrt()
}

/// Pixel format of a camera's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelFormat {
    /// A JPEG for each frame: what webcams send at high resolution.
    Mjpeg,
    /// Two bytes a pixel; two adjacent pixels share their colour.
    Yuyv,
    /// Twelve bits a pixel: brightness first, then the colour of four pixels each.
    Nv12,
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

impl PixelFormat {
    /// Every format with its name in the configuration.
    pub const ALL: [(Self, &str); 5] = [
        (Self::Mjpeg, "mjpeg"),
        (Self::Yuyv, "yuyv"),
        (Self::Nv12, "nv12"),
        (Self::Rgb, "rgb"),
        (Self::Bgr, "bgr"),
    ];

    /// Returns its name in the configuration.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(format, _)| *format == self)
            .map_or("", |(_, name)| name)
    }
}

/// Layout of frames in memory.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Pixel format.
    pub format: PixelFormat,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Bytes from one line to the next.
    pub stride: usize,
}

/// A valid frame.
pub struct Shot {
    pixels: Rgb,
    /// The camera's own JPEG, if it sends JPEGs.
    sent: Option<Vec<u8>>,
}

impl Shot {
    /// Reads a frame; the error describes what is wrong with it.
    pub fn read(frame: &[u8], layout: &Layout, max_bytes: usize) -> Result<Self, String> {
        if layout.format == PixelFormat::Mjpeg {
            let limits = DecodeLimits {
                max_bytes,
                max_pixels: layout.width as u64 * layout.height as u64,
            };
            return Self::jpeg(frame, &limits);
        }
        let pixels = rgb(frame, layout).ok_or_else(|| {
            format!(
                "{} bytes are not {}x{} in {}",
                frame.len(),
                layout.width,
                layout.height,
                layout.format.name()
            )
        })?;
        Ok(Self {
            pixels: Rgb {
                width: layout.width,
                height: layout.height,
                pixels,
            },
            sent: None,
        })
    }

    /// Reads a frame that is a JPEG; the error describes what is wrong with it.
    pub fn jpeg(frame: &[u8], limits: &DecodeLimits) -> Result<Self, String> {
        let sent = mjpeg::whole(frame)?;
        let pixels = decode(&sent, limits).map_err(|error| error.to_string())?;
        Ok(Self {
            pixels,
            sent: Some(sent),
        })
    }

    /// Returns the brightness of each cell of a coarse grid, row by row.
    pub fn cells(&self) -> Vec<u8> {
        let Rgb {
            width,
            height,
            pixels,
        } = &self.pixels;
        let across = CELLS_ACROSS.min(*width);
        let down = (height * across / width).clamp(1, *height);
        let mut sums = vec![(0_u32, 0_u32); across * down];
        // Every other pixel of every other row suffices.
        for y in (0..*height).step_by(2) {
            let row = &pixels[3 * y * width..3 * (y + 1) * width];
            for (x, pixel) in row.chunks_exact(3).enumerate().step_by(2) {
                let (sum, count) = &mut sums[y * down / height * across + x * across / width];
                *sum += u32::from(brightness(pixel));
                *count += 1;
            }
        }
        sums.into_iter()
            .map(|(sum, count)| (sum / count.max(1)) as u8)
            .collect()
    }

    /// Returns the sharpness as the variance of the Laplacian: comparable only between frames of
    /// one scene.
    pub fn sharpness(&self) -> f32 {
        let Rgb {
            width,
            height,
            pixels,
        } = &self.pixels;
        let plane: Vec<i32> = pixels
            .chunks_exact(3)
            .map(|pixel| i32::from(brightness(pixel)))
            .collect();
        let (mut sum, mut squares, mut count) = (0_i64, 0_i64, 0_i64);
        for y in 1..height.saturating_sub(1) {
            for x in 1..width.saturating_sub(1) {
                let at = y * width + x;
                let edge = 4 * plane[at]
                    - plane[at - 1]
                    - plane[at + 1]
                    - plane[at - width]
                    - plane[at + width];
                sum += i64::from(edge);
                squares += i64::from(edge * edge);
                count += 1;
            }
        }
        let mean = sum as f64 / count.max(1) as f64;
        (squares as f64 / count.max(1) as f64 - mean * mean) as f32
    }

    /// Returns the picture that is kept.
    pub fn into_jpeg(self) -> Result<Vec<u8>, String> {
        self.sent.map_or_else(
            || jpeg(&self.pixels, QUALITY).map_err(|error| error.to_string()),
            Ok,
        )
    }
}

fn brightness(pixel: &[u8]) -> u8 {
    let weighed = 77 * u32::from(pixel[0]) + 150 * u32::from(pixel[1]) + 29 * u32::from(pixel[2]);
    (weighed >> 8) as u8
}

/// Converts a raw frame to red, green and blue; `None` if it is too short.
fn rgb(frame: &[u8], layout: &Layout) -> Option<Vec<u8>> {
    let Layout {
        format,
        width,
        height,
        stride,
    } = *layout;
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        let line = |bytes: usize| frame.get(y * stride..y * stride + bytes);
        match format {
            PixelFormat::Rgb => pixels.extend_from_slice(line(3 * width)?),
            PixelFormat::Bgr => {
                pixels.extend(
                    line(3 * width)?
                        .chunks_exact(3)
                        .flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]),
                );
            }
            PixelFormat::Yuyv => pixels.extend(line(2 * width)?.chunks_exact(4).flat_map(|pair| {
                let [first, u, second, v] = [pair[0], pair[1], pair[2], pair[3]];
                let ([a, b, c], [d, e, f]) = (from_yuv(first, u, v), from_yuv(second, u, v));
                [a, b, c, d, e, f]
            })),
            PixelFormat::Nv12 => {
                let at = stride * (height + y / 2);
                let colours = frame.get(at..at + width)?;
                let light = line(width)?;
                pixels.extend(
                    (0..width).flat_map(|x| from_yuv(light[x], colours[x & !1], colours[x | 1])),
                );
            }
            PixelFormat::Mjpeg => return None,
        }
    }
    Some(pixels)
}

/// Converts BT.601 with brightness from 16 to 235, as webcams send it; coefficients in 256ths.
fn from_yuv(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (y, u, v) = (
        298 * (i32::from(y) - 16) + 128,
        i32::from(u) - 128,
        i32::from(v) - 128,
    );
    [y + 409 * v, y - 100 * u - 208 * v, y + 516 * u]
        .map(|colour| (colour >> 8).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(width: usize, height: usize, colour: impl Fn(usize, usize) -> [u8; 3]) -> Shot {
        let pixels = (0..width * height)
            .flat_map(|i| colour(i % width, i / width))
            .collect();
        Shot {
            pixels: Rgb {
                width,
                height,
                pixels,
            },
            sent: None,
        }
    }

    #[test]
    fn raw_frames_keep_their_colours_in_every_layout_and_padding() {
        let layout = |format, stride| Layout {
            format,
            width: 2,
            height: 2,
            stride,
        };
        let read = |frame: &[u8], layout: &Layout| rgb(frame, layout).unwrap();
        let red = [255, 0, 0].repeat(4);
        assert_eq!(
            read(
                &[255, 0, 0, 255, 0, 0, 9, 255, 0, 0, 255, 0, 0],
                &layout(PixelFormat::Rgb, 7)
            ),
            red
        );
        assert_eq!(
            read(&[0, 0, 255].repeat(4), &layout(PixelFormat::Bgr, 6)),
            red
        );
        // Pure red in BT.601.
        let near_red = |pixels: Vec<u8>| {
            assert!(
                pixels
                    .chunks_exact(3)
                    .all(|p| p[0] >= 253 && p[1] <= 2 && p[2] <= 2),
                "{pixels:?}"
            );
        };
        near_red(read(
            &[82, 90, 82, 240, 9, 9, 82, 90, 82, 240],
            &layout(PixelFormat::Yuyv, 6),
        ));
        near_red(read(
            &[82, 82, 9, 82, 82, 9, 90, 240, 9],
            &layout(PixelFormat::Nv12, 3),
        ));
        assert_eq!(from_yuv(235, 128, 128), [255; 3]);
        assert_eq!(from_yuv(16, 128, 128), [0; 3]);
        assert!(Shot::read(&[0; 7], &layout(PixelFormat::Yuyv, 4), 1 << 20).is_err());
    }

    #[test]
    fn a_blurred_picture_is_less_sharp_and_an_even_one_not_at_all() {
        let stripes = |period: usize| {
            shot(64, 64, move |x, _| {
                [if x % period < period / 2 { 255 } else { 0 }; 3]
            })
        };
        let ramp = shot(64, 64, |x, _| [x as u8 * 2; 3]);
        assert!(stripes(4).sharpness() > stripes(16).sharpness());
        assert!(stripes(16).sharpness() > ramp.sharpness());
        assert!(shot(64, 64, |_, _| [90; 3]).sharpness() < f32::EPSILON);
        assert!(shot(1, 1, |_, _| [90; 3]).sharpness().is_finite());
    }

    #[test]
    fn cells_are_the_brightness_of_their_part_of_the_picture() {
        let cells = shot(128, 64, |x, _| [if x < 64 { 0 } else { 200 }; 3]).cells();
        assert_eq!(cells.len(), 64 * 32);
        assert!(
            cells
                .chunks_exact(64)
                .all(|row| row[..32] == [0; 32] && row[32..] == [200; 32])
        );
        assert_eq!(shot(2, 2, |_, _| [7; 3]).cells().len(), 4);
    }

    #[test]
    fn another_scene_is_a_cut_a_lamp_or_a_passer_by_is_none() {
        let hash = |i: usize| (i.wrapping_mul(2_654_435_761) >> 13) as u8;
        let room: Vec<u8> = (0..2304).map(|i| hash(i) / 2).collect();
        let elsewhere: Vec<u8> = (0..2304).map(|i| hash(i + 9999)).collect();
        let lamp: Vec<u8> = room.iter().map(|cell| cell + cell / 2 + 60).collect();
        let mut passer_by = room.clone();
        passer_by[..900].fill(200);
        let even = |level| vec![level; 2304];
        assert!(is_cut(&room, &elsewhere) && is_cut(&room, &room[1..]));
        assert!(!is_cut(&room, &room) && !is_cut(&room, &lamp) && !is_cut(&[], &[]));
        assert!(!is_cut(&even(100), &even(104)));
        assert!(!is_cut(&room, &passer_by));
    }
}
