//! Processors without kernels of their own.

use super::{Float, Integer, Kernels};

pub(super) fn float() -> Vec<&'static Kernels<Float>> {
    Vec::new()
}

pub(super) fn integer() -> Vec<&'static Kernels<Integer>> {
    Vec::new()
}
