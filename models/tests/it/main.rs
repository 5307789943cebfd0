//! Tests of the crate from outside: whole packs, whole pictures, whole galleries. One binary,
//! because linking the runtime takes longer than the tests.

// clippy.toml allows this in test functions; here the functions they call are tests too.
#![allow(clippy::unwrap_used)]

mod accuracy;
mod broken_packs;
mod clusters;
mod detector;
mod devices;
mod gallery;
mod pictures;
mod shared;
mod strange;
