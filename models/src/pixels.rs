//! Pixels as a network takes them: order of channels, mean and scale.

use serde::Deserialize;

/// Order of a network's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Colour {
    Rgb,
    Bgr,
}

/// Preprocessing of pixel values, per channel.
#[derive(Clone)]
pub(crate) struct Pixels {
    pub(crate) table: Box<[[f32; 256]; 3]>,
    /// True if the network takes blue, green, red.
    pub(crate) reversed: bool,
}

impl Pixels {
    /// Maps a pixel to `(pixel − mean) × scale`; `mean` is in the network's order of channels.
    pub(crate) fn new(mean: [f32; 3], scale: f32, colour: Colour) -> Self {
        let table =
            Box::new(mean.map(|mean| std::array::from_fn(|pixel| (pixel as f32 - mean) * scale)));
        Self {
            table,
            reversed: colour == Colour::Bgr,
        }
    }

    /// Returns float planes for tract's operators.
    pub(crate) fn planes(&self, pictures: usize, pixels: &[u8]) -> Vec<f32> {
        let mut planes = Vec::with_capacity(pixels.len());
        for picture in pixels.chunks_exact((pixels.len() / pictures.max(1)).max(1)) {
            for (plane, table) in self.table.iter().enumerate() {
                let channel = if self.reversed { 2 - plane } else { plane };
                planes.extend(
                    picture
                        .iter()
                        .skip(channel)
                        .step_by(3)
                        .map(|pixel| table[usize::from(*pixel)]),
                );
            }
        }
        planes
    }
}
