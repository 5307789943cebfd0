//! Poolings. Max pooling of two by two pixels is part of the convolution before it, average pooling
//! part of the sum behind it; a global mean and other max poolings are layers of their own.

use tract_onnx::pb::NodeProto;

use super::attributes::{int, ints, pads_as_told, square, understood};
use super::{Reading, Value, require};
use crate::runtime::layers::{Kind, Layer};

/// Limit far above any network, against damaged files.
const MOST_POOLED: usize = 16;

impl Reading<'_> {
    pub(super) fn max_pool(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(
            node,
            1,
            &[
                "auto_pad",
                "ceil_mode",
                "dilations",
                "kernel_shape",
                "pads",
                "storage_order",
                "strides",
            ],
        )?;
        let input = self.layer(node, 0)?;
        let kernel =
            ints(node, "kernel_shape").and_then(|sides| square::<2>(sides, 1, MOST_POOLED));
        let kernel = kernel.ok_or("its kernel is not square")?;
        let &[0, 0, extra, other] = ints(node, "pads").unwrap_or(&[0; 4]) else {
            return Err("it pads at the beginning".into());
        };
        let extra = square::<2>(&[extra, other], 0, kernel - 1)
            .ok_or("its paddings are unequal or out of range")?;
        require(
            ints(node, "strides") == Some(&[2, 2]),
            "its strides are not 2",
        )?;
        require(int(node, "ceil_mode", 0) == 0, "it rounds up")?;
        require(
            ints(node, "dilations").is_none_or(|d| d == [1, 1]),
            "it is dilated",
        )?;
        require(pads_as_told(node), "it pads automatically")?;
        let once = self.uses.get(node.input[0].as_str()) == Some(&1);
        if let Layer {
            kind: Kind::Convolution(convolution),
            bytes: None,
            shared: false,
            ..
        } = &mut self.layers[input]
            && once
            && kernel == 2
            && (convolution.residual, convolution.pool) == (None, None)
        {
            // The convolution may pool by itself: each of its results is used once, so none is
            // computed twice.
            convolution.pool = Some(extra == 1);
            return Ok(Value::Layer(input));
        }
        let kind = Kind::MaxPool { kernel, extra };
        let bytes = self.layers[input].bytes;
        Ok(Value::Layer(self.push(kind, input, bytes)))
    }

    pub(super) fn average_pool(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(
            node,
            1,
            &[
                "auto_pad",
                "ceil_mode",
                "count_include_pad",
                "kernel_shape",
                "pads",
                "strides",
            ],
        )?;
        let input = self.layer(node, 0)?;
        let plain = ints(node, "kernel_shape") == Some(&[2, 2])
            && ints(node, "strides") == Some(&[2, 2])
            && pads_as_told(node);
        require(
            plain
                && ints(node, "pads").is_none_or(|pads| pads == [0; 4])
                && int(node, "ceil_mode", 0) == 0,
            "it is not two by two",
        )?;
        Ok(Value::Pooled(input))
    }

    pub(super) fn mean(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 1, &[])?;
        let input = self.layer(node, 0)?;
        Ok(Value::Layer(self.push(Kind::Mean, input, None)))
    }
}
