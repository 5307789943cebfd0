//! The recogniser: turns an aligned chip into an embedding, and checks every embedding.

use crate::cohort::Cohort;
use crate::cores::Cores;
use crate::embedding::{Embedding, check_embedding, merged, norm};
use crate::manifest::RecogniserSpec;
use crate::runtime::{self, Network, Plan};
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
            .embed(&[&grey], &Cores::new(0))
            .map_err(|error| VisionError::Network {
                file,
                reason: error.to_string(),
            })?;
        Ok(recogniser)
    }

    /// Embeds each chip; with `flip`, averaged with the embedding of the mirror image.
    pub(crate) fn embed(
        &self,
        chips: &[&Rgb],
        cores: &Cores,
    ) -> Result<Vec<Embedding>, VisionError> {
        let sides: &[bool] = if self.flip { &[false, true] } else { &[false] };
        let looks: Vec<_> = chips
            .iter()
            .flat_map(|chip| sides.iter().map(move |mirror| (*chip, *mirror)))
            .collect();
        let look = |(chip, mirror): &(&Rgb, bool)| {
            if *mirror {
                self.look(&mirrored(chip))
            } else {
                self.look(chip)
            }
        };
        let looks = match self.device {
            Device::Cpu => cores.each(&looks, look),
            // Each thread would create a stream of its own, and one forward pass fills the GPU.
            Device::Cuda => looks.iter().map(look).collect(),
        };
        let mut looks = looks.into_iter();
        let of_chip = |_: &&Rgb| {
            let looks: Vec<Vec<f32>> =
                looks.by_ref().take(sides.len()).collect::<Result<_, _>>()?;
            let length = looks.iter().map(|look| norm(look)).sum::<f32>() / sides.len() as f32;
            let values = merged(looks, self.spec.normalise, self.cohort.as_ref());
            // Two opposite embeddings would cancel out.
            check_embedding(&values, self.spec.dimension)?;
            Ok(Embedding { values, length })
        };
        chips.iter().map(of_chip).collect()
    }

    /// Runs the network and returns its output unchanged.
    pub(crate) fn look(&self, chip: &Rgb) -> Result<Vec<f32>, VisionError> {
        chip.check()?;
        let side = self.side;
        if (chip.width, chip.height) != (side, side) {
            return Err(VisionError::ChipSides {
                expected: side,
                width: chip.width,
                height: chip.height,
            });
        }
        let outputs = self.plan.run([1, 3, side, side], &chip.pixels)?;
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

/// Mirrors a chip left to right.
fn mirrored(chip: &Rgb) -> Rgb {
    let row = |row: &[u8]| row.rchunks_exact(3).flatten().copied().collect::<Vec<_>>();
    Rgb {
        pixels: chip
            .pixels
            .chunks_exact(3 * chip.width)
            .flat_map(row)
            .collect(),
        ..*chip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirrored_chip_swaps_left_and_right_and_keeps_its_colours() {
        let chip = Rgb {
            width: 3,
            height: 2,
            pixels: (0..18).collect(),
        };
        let expected = [6, 7, 8, 3, 4, 5, 0, 1, 2, 15, 16, 17, 12, 13, 14, 9, 10, 11];
        assert_eq!(mirrored(&chip).pixels, expected);
        assert_eq!(mirrored(&mirrored(&chip)), chip);
    }

    #[test]
    fn looks_are_averaged_as_they_are_or_by_direction() {
        let looks = || vec![vec![3.0, 0.0], vec![0.0, 1.0]];
        assert_eq!(merged(looks(), false, None), [1.5, 0.5]);
        let half = 0.5_f32.sqrt();
        assert!(
            merged(looks(), true, None)
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
        let lengthened = merged(looks(), true, Some(&cohort));
        assert!(
            lengthened.iter().all(|v| (v - half * length).abs() < 1e-6),
            "once, after the mean: {lengthened:?}"
        );
    }
}
