//! `kithd camera run`: takes pictures with one V4L2 camera and writes them to standard output. Also
//! the queries of the command line. It is a process of its own because a wedged driver can block
//! its caller for ever.
//!
//! The daemon decides which picture is kept (`sources::camera`); it uses only `wire` of this
//! module, and this module knows neither queue nor engine.

mod device;
mod motion;
mod process;
pub mod wire;

pub use device::{Found, found};
pub use process::{Args, run};
