//! The engines: the circuit breaker, the processes and servers behind it, and their status.
//!
//! `pipeline` has what happens to a picture before and after.

pub mod breaker;
pub mod client;
pub mod instance;
pub mod process;
pub mod status;
pub mod supervisor;

pub use client::Picture;
pub use supervisor::{Engines, Persistence, Settings};
