//! `kithd camera run`: takes pictures with one V4L2 camera and writes them to standard output; and
//! what the command line asks cameras. A process of its own, because a wedged driver holds whoever
//! asks it for a frame, for ever.
//!
//! Knows no queue and no engine process: which picture is kept is decided by the daemon
//! (`sources::camera`), which knows of all this only `wire`.

mod device;
mod mjpeg;
mod motion;
mod process;
mod shot;
pub mod wire;

pub use device::{Found, found};
pub use process::{Args, run};
