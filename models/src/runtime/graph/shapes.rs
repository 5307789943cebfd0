//! Operators that only move numbers or pad them with zeros. They make no layers, but views of one
//! that the next operator interprets.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::attributes::{int, ints, text, understood};
use super::{Reading, Value, floats, require, whole_numbers};
use crate::runtime::layers::Kind;

impl Reading<'_> {
    pub(super) fn pad(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 3, &["mode"])?;
        // dlib adds layers of unequal sizes by padding the smaller one with zeros at its end. Our
        // sum takes both without padding.
        let pads = self.constant(node, 1, "its sizes are not constant")?;
        require(pads.rank() == 1, "its sizes are not one list")?;
        let pads = whole_numbers(&pads)?;
        let zeros: Option<Vec<usize>> = match pads.as_slice() {
            [0, 0, 0, 0, 0, ends @ ..] => {
                ends.iter().map(|end| usize::try_from(*end).ok()).collect()
            }
            _ => None,
        };
        let zeros = zeros.and_then(|zeros| <[usize; 3]>::try_from(zeros).ok());
        let zeros = zeros.ok_or("it pads elsewhere than at the end")?;
        require(
            node.attribute
                .iter()
                .all(|a| a.name != "mode" || a.s == b"constant"),
            "it does not pad with a number",
        )?;
        let zero = node.input.get(2).is_none_or(String::is_empty) || self.floats(node, 2)? == [0.0];
        require(zero, "it pads with another number than 0")?;
        let value = match self.value(node, 0)? {
            Value::Layer(layer) => Value::Padded(layer, false, zeros),
            Value::Pooled(layer) => Value::Padded(layer, true, zeros),
            _ => return Err("its input is not a layer".into()),
        };
        Ok(self.alias(node, value))
    }

    pub(super) fn resize(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(
            node,
            3,
            &[
                "coordinate_transformation_mode",
                "cubic_coeff_a",
                "exclude_outside",
                "extrapolation_value",
                "mode",
                "nearest_mode",
            ],
        )?;
        let mode = text(node, "mode").is_none_or(|mode| mode == b"nearest");
        let place = text(node, "coordinate_transformation_mode") == Some(b"asymmetric");
        require(
            mode && place && text(node, "nearest_mode") == Some(b"floor"),
            "it does not take the pixel to the left and above",
        )?;
        let region =
            node.input.get(1).is_none_or(String::is_empty) || self.floats(node, 1)?.is_empty();
        require(region, "it takes a region")?;
        let scales = self.constant(node, 2, "its scales are not constant")?;
        let twice = scales.shape() == [4] && floats(&scales)? == [1.0, 1.0, 2.0, 2.0];
        require(twice, "it does not double rows and columns alone")?;
        let layer = self.layer(node, 0)?;
        Ok(self.alias(node, Value::Doubled(layer)))
    }

    pub(super) fn transpose(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 1, &["perm"])?;
        require(
            ints(node, "perm") == Some(&[0, 2, 3, 1]),
            "it does not put the channels last",
        )?;
        let layer = self.layer(node, 0)?;
        Ok(self.alias(node, Value::Turned(layer)))
    }

    pub(super) fn reshape(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 2, &[])?;
        let Value::Turned(layer) = self.value(node, 0)? else {
            return Err("its input does not have its channels last".into());
        };
        let shape = self.constant(node, 1, "its shape is not constant")?;
        let Kind::Convolution(convolution) = &self.layers[layer].kind else {
            return Err("its input is not a convolution".into());
        };
        let listed = [1, -1, convolution.bias.len() as i64];
        let fits = shape.datum_type() == DatumType::I64
            && shape.rank() == 1
            && whole_numbers(&shape)? == listed;
        require(fits, "it does not list all pixels")?;
        Ok(self.alias(node, Value::Listed(layer)))
    }

    pub(super) fn flatten(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 1, &["axis"])?;
        require(int(node, "axis", 1) == 1, "its axis is not 1")?;
        let (Value::Layer(layer) | Value::Flat(layer)) = self.value(node, 0)? else {
            return Err("its input is not a layer".into());
        };
        Ok(self.alias(node, Value::Flat(layer)))
    }
}
