//! The layers that an ONNX graph is read as and our own operators are made from: `graph` writes
//! them down, `lower` wires them up. Knows neither ONNX nor shapes.

use std::sync::Arc;

use tract_onnx::prelude::*;

/// One operator to be.
pub(super) struct Layer {
    pub(super) kind: Kind,
    pub(super) input: usize,
    /// Bytes instead of float32.
    pub(super) bytes: Option<Bytes>,
    /// The graph's output that this is.
    pub(super) output: Option<GraphOutput>,
    /// Others look at it as it is, under another name: nothing may be added to it.
    pub(super) shared: bool,
}

/// What bytes stand for: `(byte − zero) × scale`.
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    pub(super) scale: f32,
    pub(super) zero: u8,
}

pub(super) struct GraphOutput {
    pub(super) name: String,
    /// All pixels one behind the other, each with its channels; otherwise as the layer has it in
    /// ONNX.
    pub(super) listed: bool,
}

pub(super) enum Kind {
    /// The graph's input: multiplied and shifted per channel.
    Enter {
        multiply: [f32; 3],
        add: [f32; 3],
    },
    Convolution(Box<ConvolutionLayer>),
    MaxPool {
        kernel: usize,
        extra: usize,
    },
    Mean,
    /// This layer with each pixel two by two times is added.
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
    /// None until an activation is met.
    pub(super) slopes: Option<Vec<f32>>,
    pub(super) residual: Option<Added>,
    /// As `Convolution`'s.
    pub(super) pool: Option<bool>,
    pub(super) sigmoid: bool,
}

/// What is added to a convolution.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Added {
    pub(super) layer: usize,
    pub(super) pooled: bool,
    /// Channels, rows and columns of zeros behind the convolution, and behind what is added.
    pub(super) zeros: [[usize; 3]; 2],
}

pub(super) struct Weight {
    /// float32, or signed bytes where there are scales.
    pub(super) values: Arc<Tensor>,
    /// One, or one for each output channel.
    pub(super) scales: Option<Vec<f32>>,
    pub(super) order: Order,
}

/// What the axes of weights are.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Order {
    /// Output channel, input channel, row, column.
    Full,
    /// The same where each channel has a kernel of its own, which has one input channel.
    Depthwise,
    /// Of a dense layer: input, output.
    Dense,
    /// Of a dense layer: output, input.
    DenseByOutput,
}

impl Layer {
    pub(super) fn is_dense(&self) -> bool {
        matches!(&self.kind, Kind::Convolution(convolution) if convolution.is_dense())
    }
}

impl ConvolutionLayer {
    /// With nothing behind it, of stride 1 and without padding.
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
