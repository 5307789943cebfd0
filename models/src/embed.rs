//! From an aligned chip to an embedding, and the checks every embedding must pass.

use crate::manifest::RecogniserSpec;
use crate::runtime::{self, Network, Plan};
use crate::{Device, Pack, Precision, Rgb, VisionError};

#[derive(Debug)]
pub(crate) struct Recogniser {
    plan: Plan,
    side: usize,
    spec: RecogniserSpec,
}

impl Recogniser {
    /// Loads the network of this precision and runs it once, so that a network that cannot run
    /// is found before the first picture.
    pub(crate) fn load(pack: &Pack, precision: Precision, device: Device) -> Result<Self, VisionError> {
        match device {
            Device::Cpu => Self::load_on(pack, precision, device),
            Device::Cuda if precision == Precision::Int8 => Err(VisionError::Int8OnGpu),
            Device::Cuda => runtime::on_gpu(|| Self::load_on(pack, precision, device)),
        }
    }

    fn load_on(pack: &Pack, precision: Precision, device: Device) -> Result<Self, VisionError> {
        let spec = pack.manifest.recogniser.clone();
        let file = spec.file(precision);
        let file = file.ok_or_else(|| VisionError::NoSuchPrecision { pack: pack.id().to_owned(), precision })?;
        let file = file.to_owned();
        let network = Network::load(pack, &file, &["embedding"])?;
        let side = pack.manifest.alignment.size;
        let shape = [1, 3, side, side];
        if precision == Precision::Int8 {
            network.require_integer_convolutions(shape)?;
        }
        let recogniser = Self { plan: network.plan(shape, device, &spec.pixels())?, side, spec };
        let grey = Rgb { width: side, height: side, pixels: vec![128; 3 * side * side] };
        recogniser.embed(&grey).map_err(|error| VisionError::Network { file, reason: error.to_string() })?;
        Ok(recogniser)
    }

    pub(crate) fn embed(&self, chip: &Rgb) -> Result<Vec<f32>, VisionError> {
        chip.check()?;
        let (side, spec) = (self.side, &self.spec);
        if (chip.width, chip.height) != (side, side) {
            return Err(VisionError::ChipSides { expected: side, width: chip.width, height: chip.height });
        }
        let outputs = self.plan.run([1, 3, side, side], &chip.pixels)?;
        let mut embedding = outputs.get(0).to_vec();
        check_embedding(&embedding, spec.dimension)?;
        if spec.normalise {
            let norm = embedding.iter().map(|v| v * v).sum::<f32>().sqrt();
            for value in &mut embedding {
                *value /= norm;
            }
        }
        Ok(embedding)
    }
}

/// An embedding must have the right length, only finite numbers, and a length other than zero.
pub(crate) fn check_embedding(embedding: &[f32], dimension: usize) -> Result<(), VisionError> {
    if embedding.len() != dimension {
        return Err(VisionError::Dimension { expected: dimension, found: embedding.len() });
    }
    let norm = embedding.iter().map(|v| v * v).sum::<f32>().sqrt();
    if norm.is_finite() && norm > 1e-6 { Ok(()) } else { Err(VisionError::NotAnEmbedding { norm }) }
}
