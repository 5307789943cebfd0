//! A recogniser whose weights are stored once, as published: signed bytes in blocks, each block
//! with a scale and a zero point. The float32, float16 and int8 networks are made from them when a
//! pack is loaded, as ONNX graphs for `graph` and tract. Accepts only the chain of layers that
//! `models/convert/sface.py` writes.

mod write;

use std::collections::HashMap;

use tract_onnx::data_resolver::FopenDataResolver;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};
use tract_onnx::prelude::*;
use tract_onnx::tensor::load_tensor;

use self::write::Writing;
use crate::Precision;

const OUTPUT: &str = "embedding";

/// The whole network: a chain of convolutions and a final matrix product.
struct Recogniser {
    convolutions: Vec<Convolution>,
    product: Product,
}

/// Quantisation of the values after a convolution. Each channel is multiplied by its factor, which
/// the next layer divides by again, and all are divided by the scale. The factors make channels of
/// small values as precise as the others.
struct Fit {
    factors: Vec<f32>,
    scale: f32,
    zero: u8,
}

struct Convolution {
    /// \[output channel, input channel of its group, row, column\]
    weight: Vec<f32>,
    shape: Vec<i64>,
    bias: Vec<f32>,
    /// Slope for negative values, one for each channel.
    slopes: Vec<f32>,
    /// From the stored file: group, kernel, padding and stride.
    attributes: Vec<AttributeProto>,
    /// For int8.
    fit: Option<Fit>,
}

struct Product {
    /// \[output, input\]
    weight: Vec<f32>,
    inputs: usize,
    bias: Vec<f32>,
}

/// Makes the network of one precision from the stored graph. The error says what is wrong with the
/// graph.
pub(super) fn network(stored: &GraphProto, precision: Precision) -> Result<ModelProto, String> {
    let recogniser = Reading::new(stored).read()?;
    let mut writing = Writing::default();
    match precision {
        Precision::Float32 => writing.floats(&recogniser, DataType::Float),
        Precision::Float16 => writing.floats(&recogniser, DataType::Float16),
        Precision::Int8 => writing.bytes(&recogniser)?,
    }
    Ok(writing.model(stored))
}

/// The stored graph while it is read.
#[derive(Default)]
struct Reading<'a> {
    nodes: &'a [NodeProto],
    constants: HashMap<&'a str, &'a TensorProto>,
    /// Weights made from blocks, with their shape.
    weights: HashMap<&'a str, (Vec<f32>, Vec<i64>)>,
}

impl<'a> Reading<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let constants = graph
            .initializer
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        Self {
            nodes: &graph.node,
            constants,
            weights: HashMap::new(),
        }
    }

    fn read(mut self) -> Result<Recogniser, String> {
        let (mut convolutions, mut factors, mut product) =
            (Vec::<Convolution>::new(), Vec::new(), None);
        for node in self.nodes {
            let made = || {
                node.output
                    .first()
                    .map(String::as_str)
                    .ok_or("it has no output".to_owned())
            };
            let mut read = || -> Result<(), String> {
                match node.op_type.as_str() {
                    "DequantizeLinear" => {
                        let weight = self.blocks(node)?;
                        self.weights.insert(made()?, weight);
                    }
                    "Reshape" => {
                        let (weight, _) = self.weight(node, 0)?;
                        let shape = numbers::<i64>(self.constant(node, 1)?)?;
                        let count = shape
                            .iter()
                            .try_fold(1_i64, |count, side| count.checked_mul(*side));
                        require(count == Some(weight.len() as i64), "its shape does not fit")?;
                        self.weights.insert(made()?, (weight, shape));
                    }
                    "Conv" => {
                        let (weight, shape) = self.weight(node, 1)?;
                        let bias = self.floats(node, 2)?;
                        require(
                            shape.first() == Some(&(bias.len() as i64)),
                            "its bias does not have one number for each channel",
                        )?;
                        let attributes = node.attribute.clone();
                        let fit = self.fit(convolutions.len(), bias.len())?;
                        convolutions.push(Convolution {
                            weight,
                            shape,
                            bias,
                            slopes: Vec::new(),
                            attributes,
                            fit,
                        });
                    }
                    "PRelu" => {
                        let slopes = self.floats(node, 1)?;
                        let last = convolutions
                            .last_mut()
                            .filter(|last| last.bias.len() == slopes.len());
                        last.ok_or("it does not have one slope for each channel")?
                            .slopes = slopes;
                    }
                    "Mul" => factors = self.floats(node, 1)?,
                    "Flatten" => {}
                    "Gemm" => {
                        let ((weight, _), bias) = (self.weight(node, 1)?, self.floats(node, 2)?);
                        let inputs = weight.len() / bias.len().max(1);
                        require(
                            inputs * bias.len() == weight.len(),
                            "its bias does not have one number for each row",
                        )?;
                        product = Some(Product {
                            weight,
                            inputs,
                            bias,
                        });
                    }
                    other => return Err(format!("{other} is not supported")),
                }
                Ok(())
            };
            read().map_err(|reason| {
                format!("{} {}: {reason}", node.op_type, node.output.join(" "))
            })?;
        }
        let mut product = product.ok_or("it does not end in a product")?;
        product.scale(&factors)?;
        let finished = convolutions
            .iter()
            .all(|convolution| !convolution.slopes.is_empty());
        require(finished, "a convolution has no PRelu behind it")?;
        Ok(Recogniser {
            convolutions,
            product,
        })
    }

    fn constant(&self, node: &NodeProto, ix: usize) -> Result<&'a TensorProto, String> {
        let found = node
            .input
            .get(ix)
            .and_then(|name| self.constants.get(name.as_str()));
        found
            .copied()
            .ok_or_else(|| format!("its input {ix} is not constant"))
    }

    fn floats(&self, node: &NodeProto, ix: usize) -> Result<Vec<f32>, String> {
        numbers(self.constant(node, ix)?)
    }

    fn weight(&mut self, node: &NodeProto, ix: usize) -> Result<(Vec<f32>, Vec<i64>), String> {
        let found = node
            .input
            .get(ix)
            .and_then(|name| self.weights.remove(name.as_str()));
        found.ok_or_else(|| format!("its input {ix} was not made from blocks"))
    }

    /// Returns the quantisation that the file gives for the values after a convolution, if any.
    fn fit(&self, convolution: usize, channels: usize) -> Result<Option<Fit>, String> {
        let named = ["factors", "scale", "zero"].map(|name| {
            self.constants
                .get(&*format!("{name}{convolution}"))
                .copied()
        });
        let [Some(factors), Some(scale), Some(zero)] = named else {
            return Ok(None);
        };
        let (factors, scale, zero) = (
            numbers::<f32>(factors)?,
            numbers::<f32>(scale)?,
            numbers::<u8>(zero)?,
        );
        let (&[scale], &[zero]) = (scale.as_slice(), zero.as_slice()) else {
            return Err("its output does not have one scale and one zero point".into());
        };
        let positive = |value: &f32| value.is_finite() && *value > 0.0;
        require(
            positive(&scale) && factors.iter().all(positive),
            "a scale or factor is not above zero",
        )?;
        require(
            factors.len() == channels,
            "it does not have a factor for each channel",
        )?;
        Ok(Some(Fit {
            factors,
            scale,
            zero,
        }))
    }

    /// Dequantises rows of blocks: (byte − zero point) × scale.
    fn blocks(&self, node: &NodeProto) -> Result<(Vec<f32>, Vec<i64>), String> {
        let stored = self.constant(node, 0)?;
        let shape = stored.dims.clone();
        let [bytes, zero_points] = [stored, self.constant(node, 2)?].map(numbers::<i8>);
        let (bytes, scales, zero_points) = (bytes?, self.floats(node, 1)?, zero_points?);
        let size = node
            .attribute
            .iter()
            .find(|attribute| attribute.name == "block_size")
            .map_or(0, |of| of.i);
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size > 0)
            .ok_or("it has no blocks")?;
        let length = shape
            .last()
            .and_then(|length| usize::try_from(*length).ok())
            .filter(|length| *length > 0);
        let length = length.ok_or("it has no rows")?;
        let blocks = length.div_ceil(size);
        let count = bytes.len() / length * blocks;
        require(
            scales.len() == count && zero_points.len() == count,
            "it does not have one scale for each block",
        )?;
        let mut weight = Vec::with_capacity(bytes.len());
        for (row, bytes) in bytes.chunks_exact(length).enumerate() {
            for (block, bytes) in bytes.chunks(size).enumerate() {
                let (scale, zero) = (
                    scales[row * blocks + block],
                    zero_points[row * blocks + block],
                );
                weight.extend(
                    bytes
                        .iter()
                        .map(|byte| f32::from(i16::from(*byte) - i16::from(zero)) * scale),
                );
            }
        }
        Ok((weight, shape))
    }
}

impl Product {
    /// Multiplies the weights by the input's factors, one for each channel.
    fn scale(&mut self, factors: &[f32]) -> Result<(), String> {
        let each = self.inputs / factors.len().max(1);
        require(
            each > 0 && each * factors.len() == self.inputs,
            "not one factor for each channel before the product",
        )?;
        for (weights, factor) in self
            .weight
            .chunks_exact_mut(each)
            .zip(factors.iter().cycle())
        {
            weights.iter_mut().for_each(|weight| *weight *= factor);
        }
        Ok(())
    }
}

fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// Returns a tensor's values, which must be of this type.
fn numbers<T: Datum + Copy>(tensor: &TensorProto) -> Result<Vec<T>, String> {
    let said = |error: TractError| format!("{}: {error:#}", tensor.name);
    // tract would panic on strings stored as raw bytes.
    require(
        tensor.data_type != DataType::String as i32,
        "a constant contains strings",
    )?;
    let tensor = load_tensor(&FopenDataResolver, tensor, None).map_err(said)?;
    let view = tensor.try_as_plain_ram().map_err(said)?;
    view.as_slice::<T>().map(<[T]>::to_vec).map_err(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> GraphProto {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/packs/sface/recogniser.onnx");
        tract_onnx::onnx()
            .proto_model_for_path(file)
            .unwrap()
            .graph
            .unwrap()
    }

    fn refusal(change: impl FnOnce(&mut GraphProto), precision: Precision) -> String {
        let mut graph = stored();
        change(&mut graph);
        network(&graph, precision).unwrap_err()
    }

    fn constant<'a>(graph: &'a mut GraphProto, name: &str) -> &'a mut TensorProto {
        graph
            .initializer
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap()
    }

    #[test]
    fn int8_needs_a_factor_for_each_channel() {
        let message = refusal(
            |graph| constant(graph, "factors3").name = "other".into(),
            Precision::Int8,
        );
        assert!(message.contains("no ranges for int8"), "{message}");
        let few = |graph: &mut GraphProto| {
            let factors = constant(graph, "factors3");
            factors.dims = vec![1];
            factors.raw_data.truncate(4);
        };
        let message = refusal(few, Precision::Int8);
        assert!(message.contains("a factor for each channel"), "{message}");
        let zero = |graph: &mut GraphProto| constant(graph, "scale5").raw_data = vec![0; 4];
        let message = refusal(zero, Precision::Int8);
        assert!(message.contains("not above zero"), "{message}");
    }

    #[test]
    fn other_layers_and_unfit_blocks_are_named() {
        let message = refusal(
            |graph| graph.node[2].op_type = "Relu".into(),
            Precision::Float32,
        );
        assert!(
            message.starts_with("Relu conv2: Relu is not supported"),
            "{message}"
        );
        let unblocked =
            |graph: &mut GraphProto| graph.node[0].attribute.retain(|of| of.name != "block_size");
        let message = refusal(unblocked, Precision::Float32);
        assert!(message.contains("it has no blocks"), "{message}");
        let message = refusal(
            |graph| graph.node.retain(|node| node.op_type != "Mul"),
            Precision::Float32,
        );
        assert!(
            message.contains("one factor for each channel before the product"),
            "{message}"
        );
        let message = refusal(
            |graph| graph.node.retain(|node| node.op_type != "Gemm"),
            Precision::Float32,
        );
        assert!(message.contains("does not end in a product"), "{message}");
    }

    #[test]
    fn int8_weights_use_127_steps_to_each_side_in_every_row() {
        let model = network(&stored(), Precision::Int8).unwrap();
        let bytes = |tensor: &&TensorProto| {
            tensor.data_type == DataType::Int8 as i32 && tensor.dims.len() > 1
        };
        let graph = model.graph.unwrap();
        let weights: Vec<_> = graph.initializer.iter().filter(bytes).collect();
        assert_eq!(weights.len(), 28);
        for tensor in weights {
            for row in tensor
                .raw_data
                .chunks_exact(tensor.raw_data.len() / tensor.dims[0] as usize)
            {
                assert_eq!(
                    row.iter()
                        .map(|byte| byte.cast_signed().unsigned_abs())
                        .max(),
                    Some(127)
                );
            }
        }
    }
}
