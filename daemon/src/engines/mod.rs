//! The engines: the circuit breaker, the processes and servers behind it, and their status.
//!
//! `pipeline` has what happens to a picture before and after.

mod admission;
pub mod breaker;
mod calls;
pub mod client;
mod handle;
pub mod instance;
pub mod process;
mod report;
pub mod running;
mod state;
pub mod status;
pub mod supervisor;

pub use admission::{Admission, TooManyWait};
pub use calls::Recognised;
pub use client::Picture;
pub use handle::Engines;
pub use state::Settings;
pub use supervisor::Persistence;
