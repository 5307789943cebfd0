//! `kithd camera run`: takes pictures with one camera and writes them to standard output. Also the
//! queries of the command line. It is a process of its own because a wedged driver can block its
//! caller for ever, and because it decodes what a camera sends.
//!
//! A V4L2 camera is read here (`device`); every other one by a frame producer, a process that
//! writes JPEGs to a pipe (`producer`, `frames`, `trouble`).
//!
//! The daemon decides which picture is kept (`sources::camera`); it uses only `wire` of this
//! module, and this module knows neither queue nor engine.

mod device;
mod frames;
mod motion;
mod process;
mod producer;
mod trouble;
pub mod wire;

pub use device::{Found, Stack, found};
pub use process::run;
pub use producer::{Args, SECTION, installed, run as produce};
