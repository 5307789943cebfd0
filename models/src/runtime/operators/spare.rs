//! Reuses the memory of large tensors across all networks. Fresh memory causes a page fault for
//! every page, which can take longer than the computation in it. The allocator keeps the memory of
//! small tensors by itself.

use parking_lot::{Mutex, MutexGuard};

use super::*;

/// The allocator reuses smaller blocks by itself.
const LEAST_BYTES: usize = 128 << 10;
/// Enough for a detector on one picture.
const MOST_BYTES: usize = 16 << 20;

/// Shared by all networks.
pub(super) static SPARE: Spare = Spare(Mutex::new(Vec::new()));

/// The tensors, the oldest first.
pub(super) struct Spare(Mutex<Vec<Tensor>>);

impl Spare {
    fn kept(&self) -> MutexGuard<'_, Vec<Tensor>> {
        // Tensors are added and removed as a whole, so a panic leaves the list consistent.
        self.0.lock()
    }

    /// Takes the tensor of this length that was returned last. It still holds its old numbers.
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

    /// Keeps tensors without other owners, and drops the oldest when they get too large together.
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
