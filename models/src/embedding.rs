//! An embedding as numbers: checked, of unit length, the mean of several looks. Networks are not
//! known here.

use crate::VisionError;
use crate::cohort::Cohort;

/// An embedding, with the length that normalisation removes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Embedding {
    pub(crate) values: Vec<f32>,
    /// Length of the network's output before normalisation; the mean over the mirror image too.
    pub(crate) length: f32,
}

/// Averages several embeddings of one face. With `normalise` each counts by its direction only, and
/// the mean gets unit length. A cohort changes its length after that.
pub(crate) fn merged(outputs: Vec<Vec<f32>>, normalise: bool, cohort: Option<&Cohort>) -> Vec<f32> {
    let count = outputs.len() as f32;
    let mut sum = Vec::new();
    for mut output in outputs {
        if normalise {
            to_unit_length(&mut output);
        }
        sum.resize(output.len(), 0.0);
        for (sum, value) in sum.iter_mut().zip(&output) {
            *sum += value / count;
        }
    }
    if normalise {
        to_unit_length(&mut sum);
    }
    if let Some(cohort) = cohort {
        cohort.lengthen(&mut sum);
    }
    sum
}

fn to_unit_length(embedding: &mut [f32]) {
    let norm = norm(embedding);
    for value in embedding {
        *value /= norm;
    }
}

pub(crate) fn norm(values: &[f32]) -> f32 {
    values.iter().map(|v| v * v).sum::<f32>().sqrt()
}

/// Checks that an embedding has the right number of values, all finite, and a length other than
/// zero.
pub(crate) fn check_embedding(embedding: &[f32], dimension: usize) -> Result<(), VisionError> {
    if embedding.len() != dimension {
        return Err(VisionError::Dimension {
            expected: dimension,
            found: embedding.len(),
        });
    }
    let norm = norm(embedding);
    if norm.is_finite() && norm > 1e-6 {
        Ok(())
    } else {
        Err(VisionError::NotAnEmbedding { norm })
    }
}
