//! Pixels of made-up pictures: sprites, light and noise. Not for what a scene shows (`streams`).

use fastrand::Rng;
use kith_vision::Rgb;

use super::{FACE, HEIGHT, SHOWN, SPRITE, WIDTH};

/// Draws a sprite with its face in the middle of a place.
pub fn draw(picture: &mut Rgb, sprite: &[u8], [x, y, size]: [f32; 3], mirrored: bool) {
    let scale = size / FACE;
    let [width, height] = SHOWN.map(|axis| axis * scale);
    let columns = ((x - width).max(0.0) as usize)..((x + width).max(0.0) as usize).min(WIDTH);
    for row in ((y - height).max(0.0) as usize)..((y + height).max(0.0) as usize).min(HEIGHT) {
        for column in columns.clone() {
            let (right, down) = ((column as f32 - x) / scale, (row as f32 - y) / scale);
            let edge = (right / SHOWN[0]).powi(2) + (down / SHOWN[1]).powi(2);
            let cover = ((1.0 - edge) / 0.1).clamp(0.0, 1.0);
            if cover == 0.0 {
                continue;
            }
            let right = if mirrored { -right } else { right };
            let at = [
                SPRITE[0] as f32 / 2.0 + right,
                SPRITE[1] as f32 / 2.0 + down,
            ];
            let shown = sample(sprite, SPRITE, at);
            let start = 3 * (row * WIDTH + column);
            for (pixel, shown) in picture.pixels[start..start + 3].iter_mut().zip(shown) {
                let mixed = f32::from(*pixel) * (1.0 - cover) + f32::from(shown) * cover;
                *pixel = mixed as u8;
            }
        }
    }
}

/// Changes the light and adds a camera's noise.
pub fn expose(picture: &mut Rgb, light: f32, rng: &mut Rng) {
    for pixel in &mut picture.pixels {
        let noise = f32::from(rng.u8(..9)) - 4.0;
        *pixel = (f32::from(*pixel) * light + noise).clamp(0.0, 255.0) as u8;
    }
}

/// Returns a colour between pixels; black beyond the edges.
pub fn sample(pixels: &[u8], [width, height]: [usize; 2], [x, y]: [f32; 2]) -> [u8; 3] {
    let (left, top) = (x.floor(), y.floor());
    if left < 0.0 || top < 0.0 || left + 1.0 >= width as f32 || top + 1.0 >= height as f32 {
        return [0; 3];
    }
    let (right, down) = (x - left, y - top);
    let at = 3 * (top as usize * width + left as usize);
    [0, 1, 2].map(|colour| {
        let value = |at: usize| f32::from(pixels[at + colour]);
        let upper = value(at) * (1.0 - right) + value(at + 3) * right;
        let below = at + 3 * width;
        let lower = value(below) * (1.0 - right) + value(below + 3) * right;
        (upper * (1.0 - down) + lower * down) as u8
    })
}
