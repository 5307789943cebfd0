//! Pairs of QuantizeLinear and DequantizeLinear: between layers they give the scale of the bytes,
//! before weights the scales of what is stored.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_core::internal::*;

use super::attributes::{int, understood};
use super::{Reading, Value, require, whole_numbers};
use crate::runtime::layers::{Bytes, Kind};

impl Reading<'_> {
    pub(super) fn quantise(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 3, &["axis"])?;
        let scale = match self.floats(node, 1)?.as_slice() {
            [scale] => *scale,
            _ => return Err("it has a scale for each channel".into()),
        };
        if !(scale.is_finite() && scale > 0.0) {
            return Err(format!("its scale is {scale}"));
        }
        let zero = self.zero_point(node)?;
        let value = self.value(node, 0)?;
        if !matches!(
            value,
            Value::Layer(_) | Value::Pooled(_) | Value::Padded(..)
        ) {
            return Err("its input is not a layer".into());
        }
        let value = self.alias(node, value);
        let bytes = Bytes { scale, zero };
        if let Value::Layer(layer) = value
            && (zero == 0 || !self.is_only_added(node))
        {
            let layer = &mut self.layers[layer];
            match (&layer.kind, layer.bytes) {
                (_, Some(before))
                    if (before.scale - scale).abs() <= 1e-6 * scale && before.zero == zero => {}
                (_, Some(_)) => {
                    return Err(
                        "it changes the scale or zero point of what is quantised already".into(),
                    );
                }
                (Kind::MaxPool { .. } | Kind::Mean | Kind::Sum { .. }, None) => {
                    return Err("its input is not a convolution".into());
                }
                (_, None) if layer.shared => {
                    return Err("its input is used unrounded as well".into());
                }
                (_, None) => layer.bytes = Some(bytes),
            }
        }
        Ok(Value::Quantised(Box::new(value), bytes))
    }

    /// Tells whether only sums, or paddings for one, read the pair that begins with this node.
    fn is_only_added(&self, node: &NodeProto) -> bool {
        let readers = |of: &NodeProto| {
            let output = of.output.first().cloned().unwrap_or_default();
            self.graph
                .node
                .iter()
                .filter(move |reader| reader.input.contains(&output))
        };
        let mut behind = readers(node)
            .flat_map(readers)
            .map(|reader| reader.op_type.as_str())
            .peekable();
        behind.peek().is_some() && behind.all(|reader| matches!(reader, "Add" | "Pad"))
    }

    pub(super) fn dequantise(&mut self, node: &NodeProto) -> Result<Value, String> {
        understood(node, 3, &["axis"])?;
        match self.value(node, 0)? {
            Value::Constant(tensor) => {
                let scales = self.floats(node, 1)?;
                require(
                    tensor.datum_type().is_integer(),
                    "its values are not integers",
                )?;
                require(
                    scales.len() == 1 || int(node, "axis", 1) == 0,
                    "its axis is not 0",
                )?;
                let fit = scales.len() == 1 || tensor.shape().first() == Some(&scales.len());
                require(fit, "it does not have one scale for each channel")?;
                if node.input.len() > 2 {
                    let zero = self.constant(node, 2, "its zero point is not constant")?;
                    let none = whole_numbers(&zero)?.iter().all(|zero| *zero == 0);
                    let alike = zero.datum_type() == tensor.datum_type();
                    require(none && alike, "its weights have a zero point")?;
                }
                Ok(Value::Scaled(tensor, scales))
            }
            Value::Quantised(value, Bytes { scale, zero }) => {
                let same = self.floats(node, 1)? == [scale] && self.zero_point(node)? == zero;
                require(
                    same,
                    "its scale or zero point is not the one its values were quantised by",
                )?;
                Ok(self.alias(node, *value))
            }
            _ => Err("its input was not quantised".into()),
        }
    }

    /// Returns the zero point of values, which are unsigned bytes.
    fn zero_point(&self, node: &NodeProto) -> Result<u8, String> {
        let zero = self.constant(node, 2, "its zero point is not constant")?;
        match whole_numbers(&zero)?.as_slice() {
            [zero_point] if zero.datum_type() == DatumType::U8 => u8::try_from(*zero_point).ok(),
            _ => None,
        }
        .ok_or_else(|| "its zero point is not one unsigned byte".into())
    }
}
