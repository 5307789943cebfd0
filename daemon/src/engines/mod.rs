//! The engines: the circuit breaker, the processes and servers behind it, and their status.
//!
//! Not for what happens to a picture before and after an engine had it: that is `pipeline`.

pub mod breaker;
pub mod client;
pub mod instance;
pub mod process;
pub mod status;
pub mod supervisor;

pub use client::Picture;
pub use instance::Deadlines;
pub use supervisor::{Engines, Persistence, Settings};
