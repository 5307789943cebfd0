//! The recogniser: turns an aligned crop into an embedding, and checks every embedding.

use crate::cohort::Cohort;
use crate::embedding::{Embedding, check_embedding, merged, norm};
use crate::manifest::RecogniserSpec;
use crate::runtime::{self, Network, Plan};
use crate::thread_budget::ThreadBudget;
use crate::{Device, Pack, Precision, Rgb, VisionError};

#[derive(Debug)]
pub(crate) struct Recogniser {
    plan: Plan,
    side: usize,
    spec: RecogniserSpec,
    cohort: Option<Cohort>,
    flip: bool,
    device: Device,
}

impl Recogniser {
    /// Loads the network of this precision and runs it once, so that a network that cannot run is
    /// found before the first picture.
    pub(crate) fn load(
        pack: &Pack,
        precision: Precision,
        device: Device,
    ) -> Result<Self, VisionError> {
        match device {
            Device::Cpu => Self::load_on(pack, precision, device),
            Device::Cuda if precision == Precision::Int8 => Err(VisionError::Int8OnGpu),
            Device::Cuda => runtime::on_gpu(|| Self::load_on(pack, precision, device)),
        }
    }

    fn load_on(pack: &Pack, precision: Precision, device: Device) -> Result<Self, VisionError> {
        let spec = pack.manifest.recogniser.clone();
        let network = network(pack, precision)?;
        let side = pack.manifest.alignment.size;
        let shape = [1, 3, side, side];
        if precision == Precision::Int8 {
            network.require_integer_convolutions(shape)?;
        }
        let plan = network.plan(shape, device, &spec.pixels())?;
        let file = spec.file(precision).unwrap_or_default().to_owned();
        let recogniser = Self {
            plan,
            side,
            spec,
            cohort: pack.cohort.clone(),
            flip: pack.flip(),
            device,
        };
        let grey = Rgb {
            width: side,
            height: side,
            pixels: vec![128; 3 * side * side],
        };
        recogniser
            .embed(&[&grey], &ThreadBudget::new(0))
            .map_err(|error| VisionError::Network {
                file,
                reason: error.to_string(),
            })?;
        Ok(recogniser)
    }

    /// Embeds each crop; with `flip`, averaged with the embedding of the mirror image.
    pub(crate) fn embed(
        &self,
        crops: &[&Rgb],
        budget: &ThreadBudget,
    ) -> Result<Vec<Embedding>, VisionError> {
        let sides: &[bool] = if self.flip { &[false, true] } else { &[false] };
        let inputs: Vec<_> = crops
            .iter()
            .flat_map(|crop| sides.iter().map(move |mirror| (*crop, *mirror)))
            .collect();
        let forward = |(crop, mirror): &(&Rgb, bool)| {
            if *mirror {
                self.forward(&mirrored(crop))
            } else {
                self.forward(crop)
            }
        };
        let outputs = match self.device {
            Device::Cpu => budget.each(&inputs, forward),
            // Each thread would create a stream of its own, and one forward pass fills the GPU.
            Device::Cuda => inputs.iter().map(forward).collect(),
        };
        let mut outputs = outputs.into_iter();
        let of_crop = |_: &&Rgb| {
            let outputs: Vec<Vec<f32>> = outputs
                .by_ref()
                .take(sides.len())
                .collect::<Result<_, _>>()?;
            let length =
                outputs.iter().map(|output| norm(output)).sum::<f32>() / sides.len() as f32;
            let values = merged(outputs, self.spec.normalise, self.cohort.as_ref());
            // Two opposite embeddings would cancel out.
            check_embedding(&values, self.spec.dimension)?;
            Ok(Embedding { values, length })
        };
        crops.iter().map(of_crop).collect()
    }

    /// Runs the network and returns its output unchanged.
    pub(crate) fn forward(&self, crop: &Rgb) -> Result<Vec<f32>, VisionError> {
        crop.check()?;
        let side = self.side;
        if (crop.width, crop.height) != (side, side) {
            return Err(VisionError::CropSides {
                expected: side,
                width: crop.width,
                height: crop.height,
            });
        }
        let outputs = self.plan.run([1, 3, side, side], &crop.pixels)?;
        let embedding = outputs.get(0).to_vec();
        check_embedding(&embedding, self.spec.dimension)?;
        Ok(embedding)
    }
}

/// Loads the pack's network for this precision.
fn network(pack: &Pack, precision: Precision) -> Result<Network, VisionError> {
    let spec = &pack.manifest.recogniser;
    let file = spec.file(precision);
    let file = file.ok_or_else(|| VisionError::NoSuchPrecision {
        pack: pack.id().to_owned(),
        precision,
    })?;
    if spec.is_stored_once() {
        Network::stored(file, &pack.read(file)?, precision, &["embedding"])
    } else {
        Network::load(pack, file, &["embedding"])
    }
}

/// Returns a pack's recogniser as an ONNX file, so that other runtimes can be measured with the
/// same network. Made from the stored weights if the pack has those.
pub fn recogniser_file(pack: &Pack, precision: Precision) -> Result<Vec<u8>, VisionError> {
    Ok(network(pack, precision)?.file())
}

/// Mirrors a crop left to right.
fn mirrored(crop: &Rgb) -> Rgb {
    let row = |row: &[u8]| row.rchunks_exact(3).flatten().copied().collect::<Vec<_>>();
    Rgb {
        pixels: crop
            .pixels
            .chunks_exact(3 * crop.width)
            .flat_map(row)
            .collect(),
        ..*crop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrored_crop_swaps_left_and_right_and_keeps_its_colours() {
        let crop = Rgb {
            width: 3,
            height: 2,
            pixels: (0..18).collect(),
        };
        let expected = [6, 7, 8, 3, 4, 5, 0, 1, 2, 15, 16, 17, 12, 13, 14, 9, 10, 11];
        assert_eq!(mirrored(&crop).pixels, expected);
        assert_eq!(mirrored(&mirrored(&crop)), crop);
    }

    #[test]
    fn outputs_are_averaged_as_they_are_or_by_direction() {
        let outputs = || vec![vec![3.0, 0.0], vec![0.0, 1.0]];
        assert_eq!(merged(outputs(), false, None), [1.5, 0.5]);
        let half = 0.5_f32.sqrt();
        assert!(
            merged(outputs(), true, None)
                .iter()
                .all(|v| (v - half).abs() < 1e-6)
        );
        assert_eq!(merged(vec![vec![0.0, 2.0]], true, None), [0.0, 1.0]);
        let means: Vec<u8> = [1.0_f32, 0.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let cohort = Cohort::new(&means, 2, 0.5, 3.0).unwrap();
        let length = ((half - 0.5) * 3.0).exp();
        let lengthened = merged(outputs(), true, Some(&cohort));
        assert!(
            lengthened.iter().all(|v| (v - half * length).abs() < 1e-6),
            "once, after the mean: {lengthened:?}"
        );
    }
}
