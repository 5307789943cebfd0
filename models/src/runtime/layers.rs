//! The layers between an ONNX graph and our own operators: `graph` writes them, `lower` turns them
//! into operators. They contain no shapes and nothing of ONNX.

use std::sync::Arc;

use tract_onnx::prelude::*;

/// A future operator.
pub(super) struct Layer {
    pub(super) kind: Kind,
    pub(super) input: usize,
    /// Quantisation of the result; `None` for float32.
    pub(super) bytes: Option<Bytes>,
    /// The output of the graph that this layer is.
    pub(super) output: Option<GraphOutput>,
    /// True if the layer is also read under another name, which forbids fusing anything into it.
    pub(super) shared: bool,
}

/// Quantisation: a byte means `(byte − zero) × scale`.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    pub(super) scale: f32,
    pub(super) zero: u8,
}

pub(super) struct GraphOutput {
    pub(super) name: String,
    /// True if the pixels are in one list, each with its channels; otherwise in ONNX's layout.
    pub(super) listed: bool,
}

pub(super) enum Kind {
    /// The graph's input, scaled and shifted per channel.
    Input {
        multiply: [f32; 3],
        add: [f32; 3],
    },
    Convolution(Box<ConvolutionLayer>),
    MaxPool {
        kernel: usize,
        extra: usize,
    },
    Mean,
    /// Adds this layer with each pixel repeated two by two times.
    Sum {
        doubled: usize,
    },
}

pub(super) struct ConvolutionLayer {
    pub(super) name: String,
    pub(super) weight: Weight,
    pub(super) bias: Vec<f32>,
    pub(super) stride: usize,
    pub(super) padding: usize,
    /// `None` until an activation follows.
    pub(super) slopes: Option<Vec<f32>>,
    pub(super) residual: Option<Added>,
    /// See [`super::operators::Convolution`].
    pub(super) pool: Option<bool>,
    pub(super) sigmoid: bool,
}

/// The residual of a convolution.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Added {
    pub(super) layer: usize,
    pub(super) pooled: bool,
    /// Channels, rows and columns of zeros appended to the convolution, and to the residual.
    pub(super) zeros: [[usize; 3]; 2],
}

pub(super) struct Weight {
    /// float32, or signed bytes if there are scales.
    pub(super) values: Arc<Tensor>,
    /// A single scale, or one for each output channel.
    pub(super) scales: Option<Vec<f32>>,
    pub(super) order: Order,
}

/// The order of the axes of weights.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Order {
    /// Output channel, input channel, row, column.
    Full,
    /// Depthwise, with one input channel: output channel, 1, row, column.
    Depthwise,
    /// Dense layer: input, output.
    Dense,
    /// Dense layer: output, input.
    DenseByOutput,
}

impl Layer {
    pub(super) fn is_dense(&self) -> bool {
        matches!(&self.kind, Kind::Convolution(convolution) if convolution.is_dense())
    }
}

impl ConvolutionLayer {
    /// A convolution of stride 1 without padding, activation or residual.
    pub(super) fn plain(name: &str, weight: Weight, bias: Vec<f32>) -> Self {
        Self {
            name: name.to_owned(),
            weight,
            bias,
            stride: 1,
            padding: 0,
            slopes: None,
            residual: None,
            pool: None,
            sigmoid: false,
        }
    }

    pub(super) fn is_dense(&self) -> bool {
        matches!(self.weight.order, Order::Dense | Order::DenseByOutput)
    }
}
