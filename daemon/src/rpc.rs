//! The gRPC contracts of `proto/`, generated at build time.
#![allow(missing_docs, clippy::all, unused_qualifications)]

/// `recognizer.proto`: pictures in, faces out.
pub mod recognizer {
    tonic::include_proto!("kithd.recognizer.v1");
}

/// `facerecog.proto`: the legacy system's contract.
pub mod facerecog {
    tonic::include_proto!("facerecog");
}

/// Room for the fields around a picture in a message.
pub const ENVELOPE: usize = 64 << 10;
/// Largest reply accepted: a hundred faces with crops need a tenth of it.
pub const LARGEST_REPLY: usize = 64 << 20;
/// Flow-control window of a stream: a whole picture is sent without waiting.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// Flow-control window of the connection, for all pictures in flight.
pub const CONNECTION_WINDOW: u32 = 32 << 20;
/// Frame size: most pictures are one frame.
pub const FRAME: u32 = 1 << 20;
