//! Pictures that the benches use, made from the face of the model pack.

use image::{ImageFormat, RgbImage, imageops};
use kith_vision::Pack;

const GROUND: image::Rgb<u8> = image::Rgb([96, 104, 112]);

/// Side of the pack's face in the large pictures, which are 3840×2160.
const TILE: u32 = 960;

/// Makes a plain 640×480 picture with the pack's self-test face, 480 pixels high, in the middle.
pub fn one_face(pack: &Pack) -> anyhow::Result<Vec<u8>> {
    let mut picture = RgbImage::from_pixel(640, 480, GROUND);
    imageops::overlay(&mut picture, &face(pack, 480)?, 80, 0);
    jpeg(&picture)
}

/// Makes a picture with the pack's face four times in a row.
pub fn four_faces(pack: &Pack) -> anyhow::Result<Vec<u8>> {
    let tile = face(pack, TILE)?;
    let mut picture = RgbImage::from_pixel(3840, 2160, GROUND);
    for column in 0..4 {
        imageops::overlay(&mut picture, &tile, i64::from(column * TILE), 600);
    }
    jpeg(&picture)
}

/// Makes a picture of the face's pixels in shuffled squares, in which no face remains.
pub fn no_face(pack: &Pack) -> anyhow::Result<Vec<u8>> {
    const SQUARE: u32 = 24;
    let tile = face(pack, TILE)?;
    let mut picture = RgbImage::new(3840, 2160);
    for (square, (y, x)) in (0..2160 / SQUARE)
        .flat_map(|y| (0..3840 / SQUARE).map(move |x| (y, x)))
        .enumerate()
    {
        // A step that shares no divisor with the number of squares visits all of them.
        let from = square as u32 * 1009 % (TILE / SQUARE).pow(2);
        let cut = (
            from % (TILE / SQUARE) * SQUARE,
            from / (TILE / SQUARE) * SQUARE,
        );
        let piece = imageops::crop_imm(&tile, cut.0, cut.1, SQUARE, SQUARE);
        imageops::replace(
            &mut picture,
            &*piece,
            i64::from(x * SQUARE),
            i64::from(y * SQUARE),
        );
    }
    jpeg(&picture)
}

fn face(pack: &Pack, side: u32) -> anyhow::Result<RgbImage> {
    let face = image::load_from_memory(&pack.self_test_picture()?)?.into_rgb8();
    Ok(imageops::resize(
        &face,
        side,
        side,
        imageops::FilterType::CatmullRom,
    ))
}

fn jpeg(picture: &RgbImage) -> anyhow::Result<Vec<u8>> {
    let mut jpeg = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut jpeg, ImageFormat::Jpeg)?;
    Ok(jpeg.into_inner())
}
