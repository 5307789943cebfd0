//! Memory of values that nobody needs any more, for the next ones of their size, of whatever network: what is new from
//! the system comes page by page with an interruption for each, which can take longer than the work on it. Not for small
//! values, whose memory the allocator keeps.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;

/// Smaller ones the allocator keeps itself.
const LEAST_BYTES: usize = 128 << 10;
/// As much as a detector's values of one picture take.
const MOST_BYTES: usize = 32 << 20;

static KEPT: Mutex<Vec<Tensor>> = Mutex::new(Vec::new());

fn kept() -> MutexGuard<'static, Vec<Tensor>> {
    // Whole tensors come and go: a panic leaves nothing half done.
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.len() * tensor.datum_type().size_of()
}

/// The one given back last, with the numbers it had then.
pub(super) fn take(kind: DatumType, shape: &[usize]) -> Option<Tensor> {
    let length: usize = shape.iter().product();
    let mut kept = kept();
    let at = kept.iter().rposition(|tensor| tensor.datum_type() == kind && tensor.len() == length)?;
    let mut tensor = kept.remove(at);
    tensor.set_shape(shape).ok()?;
    Some(tensor)
}

/// Keeps those that nobody else has, for as long as there are not too many younger ones.
pub(super) fn give(values: TVec<TValue>) {
    for value in values {
        if value.is_exclusive() && (LEAST_BYTES..=MOST_BYTES).contains(&bytes(&value)) {
            let mut kept = kept();
            kept.push(value.into_tensor());
            while kept.iter().map(bytes).sum::<usize>() > MOST_BYTES {
                kept.remove(0);
            }
        }
    }
}
