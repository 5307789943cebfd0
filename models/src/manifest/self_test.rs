//! The engine's self-test: the reference embedding of the bundled picture, and how far from it an
//! engine may be.

use serde::Deserialize;

use crate::VisionError;
use crate::device::Precision;
use crate::embedding::check_embedding;
use crate::matching::Metric;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SelfTestSpec {
    pub(super) picture: String,
    /// Outputs of the float32 recogniser for the face and for its mirror image.
    pub(super) embedding: Vec<f32>,
    pub(super) mirrored: Vec<f32>,
    pub(super) tolerance: Tolerance,
}

/// Largest distance from the reference embedding at which a self-test passes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// For the float32 recogniser.
    pub float32: f32,
    /// For the float16 recogniser; required if the pack has one.
    pub float16: Option<f32>,
    /// For the int8 recogniser; required if the pack has one.
    pub int8: Option<f32>,
}

impl Tolerance {
    /// Returns the tolerance for this precision; 0 if the pack does not offer it.
    pub fn of(&self, precision: Precision) -> f32 {
        match precision {
            Precision::Float32 => self.float32,
            Precision::Float16 => self.float16.unwrap_or(0.0),
            Precision::Int8 => self.int8.unwrap_or(0.0),
        }
    }
}

/// Reference for the engine's self-test on [`Pack::self_test_picture`], a picture of one face.
#[derive(Debug, Clone)]
pub struct SelfTest {
    /// Embedding by the float32 recogniser through the whole pipeline.
    pub embedding: Vec<f32>,
    /// Largest distance allowed for each precision.
    pub tolerance: Tolerance,
}

impl SelfTest {
    /// Compares the embeddings of all faces found in the self-test picture with the reference, and
    /// returns the distance. Errors: not exactly one face, an embedding of another length, or a
    /// distance above the tolerance of this precision.
    pub fn check(
        &self,
        embeddings: &[&[f32]],
        metric: Metric,
        precision: Precision,
    ) -> Result<f32, VisionError> {
        let distance = self.distance(embeddings, metric)?;
        let tolerance = self.tolerance.of(precision);
        if distance <= tolerance {
            Ok(distance)
        } else {
            Err(VisionError::SelfTestDistance {
                distance,
                tolerance,
                precision,
            })
        }
    }

    /// The same without a limit.
    pub(crate) fn distance(
        &self,
        embeddings: &[&[f32]],
        metric: Metric,
    ) -> Result<f32, VisionError> {
        let [embedding] = embeddings else {
            return Err(VisionError::SelfTestFaces {
                found: embeddings.len(),
            });
        };
        check_embedding(embedding, self.embedding.len())?;
        Ok(metric.distance(embedding, &self.embedding))
    }
}
