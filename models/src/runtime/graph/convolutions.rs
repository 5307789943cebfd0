//! Convolutions, dense layers and the activation after one. `sums` reads sums.

use std::sync::Arc;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::attributes::{int, ints, pads_as_told, square, understood};
use super::{Reading, Value, floats, require};
use crate::runtime::layers::{ConvolutionLayer, Kind, Layer, Order, Weight};

/// Limit far above any network, against damaged files.
const MOST_STRIDE: usize = 64;

impl Reading<'_> {
    pub(super) fn convolution(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(
            node,
            3,
            &[
                "auto_pad",
                "dilations",
                "group",
                "kernel_shape",
                "pads",
                "strides",
            ],
        )?;
        let input = self.layer(node, 0)?;
        let (values, scales) = self.weights(node)?;
        let &[channels, inputs, rows, columns] = values.shape() else {
            return Err("its kernel does not have two axes".into());
        };
        require(values.len() > 0, "its kernel is empty")?;
        let bias = self.bias(node, &[&[channels]])?;
        let group = int(node, "group", 1);
        // A group with a single channel is an ordinary convolution.
        let depthwise = group != 1 && inputs == 1 && usize::try_from(group) == Ok(channels);
        require(group == 1 || depthwise, "its channels are grouped")?;
        require(
            ints(node, "dilations").is_none_or(|d| d == [1, 1]),
            "it is dilated",
        )?;
        let kernel = [rows as i64, columns as i64];
        require(
            ints(node, "kernel_shape").is_none_or(|k| k == kernel),
            "its kernel is not of its weights' shape",
        )?;
        require(pads_as_told(node), "it pads automatically")?;
        let strides = square::<2>(ints(node, "strides").unwrap_or(&[1; 2]), 1, MOST_STRIDE);
        let padding = square::<4>(
            ints(node, "pads").unwrap_or(&[0; 4]),
            0,
            rows.min(columns) - 1,
        );
        let weight = Weight {
            values,
            scales,
            order: if depthwise {
                Order::Depthwise
            } else {
                Order::Full
            },
        };
        let layer = ConvolutionLayer {
            stride: strides.ok_or("its strides are unequal or out of range")?,
            padding: padding.ok_or("its paddings are unequal or out of range")?,
            ..ConvolutionLayer::plain(&node.output[0], weight, bias)
        };
        Ok(Value::Layer(self.push(
            Kind::Convolution(Box::new(layer)),
            input,
            None,
        )))
    }

    pub(super) fn dense(&mut self, node: &NodeProto) -> Result<Value, String> {
        match node.op_type.as_str() {
            "Gemm" => understood(node, 3, &["alpha", "beta", "transA", "transB"])?,
            _ => understood(node, 2, &[])?,
        }
        let Value::Flat(input) = self.value(node, 0)? else {
            return Err("its input is not one row for each picture".into());
        };
        let (values, scales) = self.weights(node)?;
        let &[first, second] = values.shape() else {
            return Err("its matrix does not have two axes".into());
        };
        require(values.len() > 0, "its matrix is empty")?;
        require(int(node, "transA", 0) == 0, "its input is transposed")?;
        let (order, outputs) = match int(node, "transB", 0) {
            0 => (Order::Dense, second),
            1 => (Order::DenseByOutput, first),
            _ => return Err("its transB is neither 0 nor 1".into()),
        };
        let by_output =
            scales.as_ref().is_none_or(|scales| scales.len() == 1) || order == Order::DenseByOutput;
        require(by_output, "its matrix has a scale for each input")?;
        let factors = node
            .attribute
            .iter()
            .filter(|a| a.name == "alpha" || a.name == "beta");
        require(factors.clone().all(|a| a.f == 1.0), "it has factors")?;
        let bias = self.bias(node, &[&[outputs], &[1, outputs]])?;
        let layer = ConvolutionLayer::plain(
            &node.output[0],
            Weight {
                values,
                scales,
                order,
            },
            bias,
        );
        Ok(Value::Flat(self.push(
            Kind::Convolution(Box::new(layer)),
            input,
            None,
        )))
    }

    /// Returns the weights (the second input): float32, or signed bytes with their scales.
    fn weights(&self, node: &NodeProto) -> Result<(Arc<Tensor>, Option<Vec<f32>>), String> {
        let (values, scales) = match self.value(node, 1)? {
            Value::Constant(tensor) => (tensor, None),
            Value::Scaled(tensor, scales) => (tensor, Some(scales)),
            _ => return Err("its weights are not constant".into()),
        };
        let kind = if scales.is_some() {
            DatumType::I8
        } else {
            DatumType::F32
        };
        require(
            values.datum_type() == kind,
            "its weights are neither float32 nor signed bytes with a scale",
        )?;
        Ok((values, scales))
    }

    /// Returns the bias (the third input), of one of these shapes; zeros, as many as the first
    /// shape says, if there is none.
    fn bias(&self, node: &NodeProto, shapes: &[&[usize]]) -> Result<Vec<f32>, String> {
        if node.input.len() < 3 {
            return Ok(vec![0.0; shapes[0][0]]);
        }
        match self.value(node, 2)? {
            Value::Constant(tensor) | Value::Scaled(tensor, _)
                if shapes.contains(&tensor.shape()) =>
            {
                self.floats(node, 2)
            }
            _ => Err("its bias does not have one number for each output".into()),
        }
    }

    pub(super) fn relu(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 1, &[])?;
        let (value, convolution) = self.unfinished(node, 0)?;
        convolution.slopes = Some(vec![0.0; convolution.bias.len()]);
        Ok(value)
    }

    pub(super) fn prelu(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 2, &[])?;
        let tensor = self.constant(node, 1, "its slopes are not constant")?;
        let slopes = floats(&tensor)?;
        let (value, convolution) = self.unfinished(node, 0)?;
        let count = convolution.bias.len();
        let per_channel: [&[usize]; 2] = if convolution.is_dense() {
            [&[count], &[1, count]]
        } else {
            [&[count, 1, 1], &[1, count, 1, 1]]
        };
        require(
            per_channel.contains(&tensor.shape()),
            "it does not have one slope for each channel",
        )?;
        // The maximum is taken after the slope here, which makes no difference only while the slope
        // rises.
        let rising = slopes.iter().all(|slope| *slope >= 0.0);
        require(
            convolution.pool.is_none() || rising,
            "it falls behind a pooling",
        )?;
        convolution.slopes = Some(slopes);
        Ok(value)
    }

    pub(super) fn sigmoid(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 1, &[])?;
        let (value, convolution) = self.unfinished(node, 0)?;
        convolution.sigmoid = true;
        convolution.slopes = Some(vec![1.0; convolution.bias.len()]);
        Ok(value)
    }

    /// Returns the convolution whose plain result is read by this node only.
    pub(super) fn unfinished(
        &mut self,
        node: &NodeProto,
        ix: usize,
    ) -> Result<(Value, &mut ConvolutionLayer), String> {
        let value = self.value(node, ix)?;
        let layer = match value {
            Value::Layer(layer) => layer,
            Value::Flat(layer) if node.op_type != "Add" => layer,
            Value::Listed(layer) if node.op_type == "Sigmoid" => layer,
            Value::Padded(layer, false, _) if node.op_type == "Add" => layer,
            _ => return Err(format!("its input {ix} is not a layer")),
        };
        let once = self.uses.get(node.input[ix].as_str()) == Some(&1);
        match &mut self.layers[layer] {
            Layer {
                kind: Kind::Convolution(convolution),
                bytes: None,
                shared: false,
                ..
            } if once
                && convolution.slopes.is_none()
                && convolution.is_dense() == matches!(value, Value::Flat(_)) =>
            {
                Ok((value, convolution))
            }
            _ => Err("it does not follow a convolution that only it reads".into()),
        }
    }
}
