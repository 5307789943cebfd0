//! The gRPC contracts of `proto/`, as generated at build time. Not for what is done with them.
#![allow(missing_docs, clippy::all, unused_qualifications)]

/// `recognizer.proto`: pictures in, faces out.
pub mod recognizer {
    tonic::include_proto!("kithd.recognizer.v1");
}

/// `facerecog.proto`: the origin's contract.
pub mod facerecog {
    tonic::include_proto!("facerecog");
}

/// Room for what surrounds a picture in a message.
pub const ENVELOPE: usize = 64 << 10;
/// Largest reply taken: a hundred faces with crops need a tenth of it.
pub const LARGEST_REPLY: usize = 64 << 20;
/// A whole picture is sent without waiting for the other side to make room.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// The same for all pictures under way together.
pub const CONNECTION_WINDOW: u32 = 32 << 20;
/// Most pictures are one frame.
pub const FRAME: u32 = 1 << 20;
