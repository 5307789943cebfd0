//! Pictures as bytes: which kind one is (`kind`), its pixels (`decode`), the frames of cameras
//! (`mjpeg`, `shot`), and the JPEGs of thumbnails and faces (`encode`). It opens nothing and finds no
//! faces.
//!
//! A crate of its own because packages compile it for speed and kithd for size: the decoders of
//! `image` are compiled by the crate that calls them.
#![forbid(unsafe_code)]

pub mod decode;
pub mod encode;
pub mod kind;
pub mod mjpeg;
pub mod shot;
