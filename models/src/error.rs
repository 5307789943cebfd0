//! Reasons why a picture, a network or an embedding cannot be used.

use crate::{MAX_SIDE, PackError, Precision};

/// Reason why a picture, a network or an embedding cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VisionError {
    /// The pack's files do not match its manifest.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The pack has no recogniser of the precision asked for.
    #[error("model pack {pack} has no {precision} recogniser")]
    NoSuchPrecision {
        /// The pack's id.
        pack: String,
        /// The precision asked for.
        precision: Precision,
    },
    /// There is no usable GPU, or its driver or a library is missing or unsuitable.
    #[error("this machine has no usable NVIDIA GPU: {reason}; use the device cpu")]
    NoGpu {
        /// The missing or unsuitable part.
        reason: String,
    },
    /// The GPU's convolutions are floating point; an int8 network would run on the processor and
    /// copy its data back and forth.
    #[error("int8 runs on the processor only; with the device cuda use float16 or float32")]
    Int8OnGpu,
    /// A network cannot be loaded, or lacks the inputs and outputs its decoder needs.
    #[error("network {file} cannot be used: {reason}")]
    Network {
        /// The file's name.
        file: String,
        /// The cause.
        reason: String,
    },
    /// A network that should run in integers would run in floating point.
    #[error("network {file} should run as int8, but these convolutions are in floating point: {}", nodes.join(", "))]
    FloatConvolution {
        /// The file's name.
        file: String,
        /// The operators, by name.
        nodes: Vec<String>,
    },
    /// A network failed on a picture.
    #[error("network {file} failed: {reason}")]
    Inference {
        /// The file's name.
        file: String,
        /// The runtime's message.
        reason: String,
    },
    /// A picture has no pixels, or a side beyond [`MAX_SIDE`].
    #[error(
        "a picture of {width}×{height} pixels cannot be used; each side must be between 1 and {MAX_SIDE}"
    )]
    PictureSides {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The number of bytes does not match the picture's sides.
    #[error("a picture of {width}×{height} pixels needs {} bytes, not {bytes}", 3 * width * height)]
    PictureLength {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// A crop for the recogniser has the wrong sides.
    #[error("a face crop must be {expected}×{expected} pixels, not {width}×{height}")]
    CropSides {
        /// The side in the pack.
        expected: usize,
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// An embedding has the wrong length.
    #[error("an embedding must have {expected} numbers, not {found}")]
    Dimension {
        /// Length in the pack or the gallery.
        expected: usize,
        /// Length given or computed.
        found: usize,
    },
    /// An embedding is all zeros, or contains infinities or NaN.
    #[error("an embedding of length {norm} cannot be used")]
    NotAnEmbedding {
        /// Euclidean length of the embedding.
        norm: f32,
    },
    /// The self-test picture did not show exactly one face.
    #[error("the self-test picture shows one face, but {found} were found")]
    SelfTestFaces {
        /// Number of faces found.
        found: usize,
    },
    /// The self-test's embedding differs from the reference.
    #[error(
        "the self-test's embedding is {distance:.3} away from the reference; at most {tolerance} is allowed for {precision}"
    )]
    SelfTestDistance {
        /// Distance to the reference, in the pack's metric.
        distance: f32,
        /// Largest distance allowed.
        tolerance: f32,
        /// The precision that runs.
        precision: Precision,
    },
}
