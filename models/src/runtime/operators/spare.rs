//! Memory of values that nobody needs any more, for the next ones of their size, of whatever
//! network: what is new from the system comes page by page with an interruption for each, which can
//! take longer than the work on it. Not for small values, whose memory the allocator keeps.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;

/// Smaller ones the allocator keeps itself.
const LEAST_BYTES: usize = 128 << 10;
/// As much as a detector needs for a picture.
const MOST_BYTES: usize = 16 << 20;

/// Of all networks together.
pub(super) static SPARE: Spare = Spare(Mutex::new(Vec::new()));

/// The oldest first.
pub(super) struct Spare(Mutex<Vec<Tensor>>);

impl Spare {
    fn kept(&self) -> MutexGuard<'_, Vec<Tensor>> {
        // Whole tensors come and go: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one of this length that was given back last, with the numbers it had then.
    pub(super) fn take<T: Number>(&self, shape: &[usize]) -> Option<Tensor> {
        let (kind, length) = (T::datum_type(), shape.iter().product::<usize>());
        let mut kept = self.kept();
        let at = kept
            .iter()
            .rposition(|tensor| tensor.datum_type() == kind && tensor.len() == length)?;
        let mut tensor = kept.remove(at);
        tensor.set_shape(shape).ok()?;
        Some(tensor)
    }

    /// Keeps those that nobody else has, until there are too many younger ones.
    pub(super) fn give(&self, values: TVec<TValue>) {
        for value in values {
            if value.is_exclusive() && (LEAST_BYTES..=MOST_BYTES).contains(&bytes(&value)) {
                let mut kept = self.kept();
                kept.push(value.into_tensor());
                while kept.iter().map(bytes).sum::<usize>() > MOST_BYTES {
                    kept.remove(0);
                }
            }
        }
    }
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.len() * tensor.datum_type().size_of()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(length: usize) -> TValue {
        Tensor::zero::<f32>(&[length]).unwrap().into_tvalue()
    }

    #[test]
    fn what_is_given_back_is_taken_once_by_whoever_needs_as_much() {
        let spare = Spare(Mutex::new(Vec::new()));
        spare.give(tvec![values(100_000), values(50_000)]);
        assert!(spare.take::<f32>(&[300, 300]).is_none());
        assert!(spare.take::<u8>(&[100_000]).is_none());
        assert_eq!(
            spare.take::<f32>(&[4, 250, 100]).unwrap().shape(),
            [4, 250, 100]
        );
        assert!(spare.take::<f32>(&[100_000]).is_none());
    }

    #[test]
    fn what_others_still_have_and_what_is_small_is_not_kept() {
        let spare = Spare(Mutex::new(Vec::new()));
        let mine = values(100_000);
        spare.give(tvec![mine.clone(), values(1000)]);
        assert!(spare.kept().is_empty());
    }

    #[test]
    fn the_oldest_go_when_there_is_too_much() {
        let spare = Spare(Mutex::new(Vec::new()));
        for more in 0..100 {
            spare.give(tvec![values(1_000_000 + more)]);
            assert!(spare.kept().iter().map(bytes).sum::<usize>() <= MOST_BYTES);
        }
        assert_eq!(spare.kept().len(), MOST_BYTES / 4_000_400);
        assert!(
            spare.take::<f32>(&[1_000_099]).is_some() && spare.take::<f32>(&[1_000_000]).is_none()
        );
        spare.give(tvec![values(MOST_BYTES)]);
        assert!(spare.take::<f32>(&[MOST_BYTES]).is_none());
    }
}
