//! Score normalisation against a cohort (as in speaker verification: Auckenthaler et al. 2000,
//! Matějka et al. 2017): in crowded regions of the embedding space two faces must be closer to
//! match. Works on numbers only; `embed` makes the embeddings.
//!
//! The normalisation is stored in the length of the embedding, so it costs nothing in a search.
//! Between embeddings a and b of lengths l and m, whose directions are d apart, the squared
//! distance is (l - m)² + l m d². A face that resembles many others gets a greater length, so the
//! same difference counts for more, and every comparison stays a plain Euclidean distance.

use crate::matrix::dot;

/// Mean embeddings of the people in the cohort.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cohort {
    /// Unit length each.
    means: Vec<Vec<f32>>,
    typical: f32,
    strength: f32,
}

impl Cohort {
    /// Reads a pack's file: rows of `dimension` little-endian float32 numbers, each row of unit
    /// length. The error says what the file should hold. A face whose cosine similarity to the
    /// nearest mean is `typical` keeps its length.
    pub fn new(
        file: &[u8],
        dimension: usize,
        typical: f32,
        strength: f32,
    ) -> Result<Self, &'static str> {
        let (numbers, rest) = file.as_chunks::<4>();
        let whole =
            rest.is_empty() && !numbers.is_empty() && numbers.len().is_multiple_of(dimension);
        if !whole {
            return Err("a whole number of rows, each of recogniser.dimension float32 numbers");
        }
        let numbers: Vec<f32> = numbers
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let means: Vec<_> = numbers
            .chunks_exact(dimension)
            .map(<[f32]>::to_vec)
            .collect();
        let unit = |mean: &Vec<f32>| (dot(mean, mean) - 1.0).abs() < 1e-3;
        if means.iter().all(unit) {
            Ok(Self {
                means,
                typical,
                strength,
            })
        } else {
            Err("rows of length 1")
        }
    }

    /// Scales an embedding of unit length by its similarity to the cohort.
    pub fn lengthen(&self, embedding: &mut [f32]) {
        let likeness = self
            .means
            .iter()
            .map(|mean| dot(mean, embedding))
            .fold(-1.0, f32::max);
        let length = ((likeness - self.typical) * self.strength).exp();
        for value in embedding {
            *value *= length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(rows: &[[f32; 2]]) -> Vec<u8> {
        rows.as_flattened()
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    #[test]
    fn distances_grow_near_the_cohort_and_shrink_far_from_it() {
        let cohort = Cohort::new(&bytes(&[[1.0, 0.0], [0.0, 1.0]]), 2, 0.9, 2.0).unwrap();
        let lengthened = |mut embedding: [f32; 2]| {
            cohort.lengthen(&mut embedding);
            embedding
        };
        assert_eq!(lengthened([0.0, 1.0]), [0.0, (0.1_f32 * 2.0).exp()]);
        let [x, y] = lengthened([0.9, 0.19_f32.sqrt()]);
        assert!(
            (x - 0.9).abs() < 1e-6 && (y - 0.19_f32.sqrt()).abs() < 1e-6,
            "typical faces stay as they are"
        );
        assert_eq!(
            lengthened([-1.0, 0.0]),
            [-(-0.9_f32 * 2.0).exp(), 0.0],
            "likeness to the other mean is 0"
        );
    }

    #[test]
    fn a_file_that_holds_no_whole_rows_of_unit_length_is_refused() {
        for (rows, dimension, says) in [
            (vec![], 2, "a whole number of rows"),
            (bytes(&[[1.0, 0.0]]), 4, "a whole number of rows"),
            (vec![0; 9], 2, "a whole number of rows"),
            (bytes(&[[1.0, 0.0], [0.5, 0.5]]), 2, "of length 1"),
            (bytes(&[[f32::NAN, 0.0]]), 2, "of length 1"),
        ] {
            let refusal = Cohort::new(&rows, dimension, 0.9, 2.0).unwrap_err();
            assert!(refusal.contains(says), "{refusal}");
        }
    }
}
