//! Reads an ONNX graph as layers for our own operators, each convolution with what follows it.
//! Accepts plain convolutional networks, in float32 or quantised (per-channel signed weights,
//! unsigned values, as pairs of QuantizeLinear and DequantizeLinear), depthwise ones too, and in
//! float32 layers that are doubled in size and added to larger ones. For any other graph it returns
//! an error that names the node, and tract runs the graph. Only the shapes of constants are known
//! here; the submodules define what is accepted of each operator, and `lower` turns layers into
//! operators.
//!
//! Quantised values are added before rounding: the pair in between, which other runtimes need, is
//! skipped. Such a pair is recognised by its zero point, which values after a ReLU do not have, and
//! by being read by sums only.

mod attributes;
mod convolutions;
mod pooling;
mod quantised;
mod shapes;
mod sums;

use std::collections::HashMap;
use std::sync::Arc;

use tract_onnx::data_resolver;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{GraphProto, NodeProto};
use tract_onnx::tensor::load_tensor;
use tract_onnx::tract_core::internal::*;

use super::layers::{Bytes, GraphOutput, Kind, Layer};

/// Reason why a graph cannot be lowered, naming the node.
pub(super) type Unsupported = String;

/// The value of a name in the graph.
#[derive(Clone)]
enum Value {
    Layer(usize),
    /// A layer as one row of numbers, the input or output of a dense layer.
    Flat(usize),
    /// A layer after averaging two by two pixels.
    Pooled(usize),
    /// A layer (after averaging if `true`) with channels, rows and columns of zeros appended. Only
    /// a sum accepts it.
    Padded(usize, bool, [usize; 3]),
    /// A layer with each pixel repeated two by two times. Only a sum accepts it.
    Doubled(usize),
    /// A layer with its channels last, which is how it is stored here.
    Turned(usize),
    /// The same with all its pixels in one list.
    Listed(usize),
    /// A value between the two operators of a pair.
    Quantised(Box<Value>, Bytes),
    Constant(Arc<Tensor>),
    /// Integers with their scales: one, or one for each first index.
    Scaled(Arc<Tensor>, Vec<f32>),
}

struct Reading<'a> {
    graph: &'a GraphProto,
    values: HashMap<&'a str, Value>,
    uses: HashMap<&'a str, usize>,
    layers: Vec<Layer>,
}

/// Returns the layers in execution order, with the requested outputs marked.
pub(super) fn read(
    graph: &GraphProto,
    outputs: &[&'static str],
) -> Result<Vec<Layer>, Unsupported> {
    let mut uses: HashMap<&str, usize> = HashMap::new();
    let inputs = graph.node.iter().flat_map(|node| &node.input);
    for name in inputs.chain(graph.output.iter().map(|output| &output.name)) {
        *uses.entry(name).or_default() += 1;
    }
    let mut reading = Reading {
        graph,
        values: HashMap::new(),
        uses,
        layers: Vec::new(),
    };
    reading
        .read()
        .map_err(|(node, reason)| format!("{node}: {reason}"))?;
    for name in outputs {
        let layer = match reading.values.get(name) {
            Some(Value::Layer(layer)) => Some((*layer, false)),
            Some(Value::Flat(layer)) if reading.layers[*layer].is_dense() => Some((*layer, false)),
            Some(Value::Listed(layer)) => Some((*layer, true)),
            _ => None,
        };
        let (layer, listed) = layer.ok_or_else(|| format!("the output {name} is not a layer"))?;
        reading.layers[layer].output = Some(GraphOutput {
            name: (*name).to_owned(),
            listed,
        });
    }
    Ok(reading.layers)
}

impl<'a> Reading<'a> {
    fn read(&mut self) -> Result<(), (String, String)> {
        for tensor in &self.graph.initializer {
            let unusable = |reason: String| (tensor.name.clone(), reason);
            if tensor.data_type == DataType::String as i32 {
                // tract would panic on strings stored as raw bytes.
                return Err(unusable("it contains strings".into()));
            }
            let resolver = data_resolver::FopenDataResolver;
            let values = load_tensor(&resolver, tensor, None)
                .map_err(|error| unusable(format!("{error:#}")))?;
            self.define(&tensor.name, Value::Constant(Arc::new(values)))
                .map_err(unusable)?;
        }
        let inputs = self
            .graph
            .input
            .iter()
            .filter(|input| !self.values.contains_key(input.name.as_str()));
        for input in inputs.collect::<Vec<_>>() {
            let layer = self.push(
                Kind::Input {
                    multiply: [1.0; 3],
                    add: [0.0; 3],
                },
                0,
                None,
            );
            self.define(&input.name, Value::Layer(layer))
                .map_err(|reason| (input.name.clone(), reason))?;
        }
        for node in &self.graph.node {
            let name = || {
                format!(
                    "{} {}",
                    node.op_type,
                    node.output.first().map_or("", String::as_str)
                )
            };
            let [output] = node.output.as_slice() else {
                return Err((name(), format!("it has {} outputs", node.output.len())));
            };
            let value = self.node(node).and_then(|value| self.define(output, value));
            value.map_err(|reason| (name(), reason))?;
        }
        Ok(())
    }

    fn define(&mut self, name: &'a str, value: Value) -> Result<(), String> {
        match self.values.insert(name, value) {
            _ if name.is_empty() => Err("it has no name".into()),
            Some(_) => Err("its name is used twice".into()),
            None => Ok(()),
        }
    }

    fn push(&mut self, kind: Kind, input: usize, bytes: Option<Bytes>) -> usize {
        self.layers.push(Layer {
            kind,
            input,
            bytes,
            output: None,
            shared: false,
        });
        self.layers.len() - 1
    }

    fn value(&self, node: &NodeProto, ix: usize) -> Result<Value, String> {
        let name = node
            .input
            .get(ix)
            .ok_or_else(|| format!("it has no input {ix}"))?;
        self.values
            .get(name.as_str())
            .cloned()
            .ok_or_else(|| format!("{name} is not known"))
    }

    fn layer(&self, node: &NodeProto, ix: usize) -> Result<usize, String> {
        match self.value(node, ix)? {
            Value::Layer(layer) => Ok(layer),
            _ => Err(format!("its input {ix} is not a layer")),
        }
    }

    fn constant(
        &self,
        node: &NodeProto,
        ix: usize,
        otherwise: &str,
    ) -> Result<Arc<Tensor>, String> {
        match self.value(node, ix)? {
            Value::Constant(tensor) => Ok(tensor),
            _ => Err(otherwise.to_owned()),
        }
    }

    fn floats(&self, node: &NodeProto, ix: usize) -> Result<Vec<f32>, String> {
        match self.value(node, ix)? {
            Value::Constant(tensor) => floats(&tensor),
            Value::Scaled(tensor, scales) => {
                let values = whole_numbers(&tensor)?;
                let each = (values.len() / scales.len().max(1)).max(1);
                Ok(values
                    .iter()
                    .enumerate()
                    .map(|(ix, value)| *value as f32 * scales[ix / each])
                    .collect())
            }
            _ => Err(format!("its input {ix} is not constant")),
        }
    }

    /// Gives a layer another name.
    fn alias(&mut self, node: &NodeProto, value: Value) -> Value {
        if let Value::Layer(layer)
        | Value::Flat(layer)
        | Value::Pooled(layer)
        | Value::Padded(layer, ..)
        | Value::Doubled(layer)
        | Value::Turned(layer)
        | Value::Listed(layer) = value
            && self.uses.get(node.input[0].as_str()) != Some(&1)
        {
            self.layers[layer].shared = true;
        }
        value
    }

    fn node(&mut self, node: &NodeProto) -> Result<Value, String> {
        match node.op_type.as_str() {
            "Conv" => self.convolution(node),
            "Gemm" | "MatMul" => self.dense(node),
            "Relu" => self.relu(node),
            "PRelu" => self.prelu(node),
            "Sigmoid" => self.sigmoid(node),
            "MaxPool" => self.max_pool(node),
            "AveragePool" => self.average_pool(node),
            "GlobalAveragePool" => self.mean(node),
            "Mul" => self.multiply(node),
            "Add" => self.add(node),
            "Pad" => self.pad(node),
            "Resize" => self.resize(node),
            "Transpose" => self.transpose(node),
            "Reshape" => self.reshape(node),
            "Flatten" => self.flatten(node),
            "QuantizeLinear" => self.quantise(node),
            "DequantizeLinear" => self.dequantise(node),
            other => Err(format!("{other} is not supported by our operators")),
        }
    }
}

fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, String> {
    let view = tensor
        .try_as_plain_ram()
        .map_err(|error| format!("{error:#}"))?;
    view.as_slice::<f32>()
        .map(<[f32]>::to_vec)
        .map_err(|error| format!("{error:#}"))
}

fn whole_numbers(tensor: &Tensor) -> Result<Vec<i64>, String> {
    let cast = tensor
        .cast_to::<i64>()
        .map_err(|error| format!("{error:#}"))?;
    let view = cast
        .try_as_plain_ram()
        .map_err(|error| format!("{error:#}"))?;
    view.as_slice::<i64>()
        .map(<[i64]>::to_vec)
        .map_err(|error| format!("{error:#}"))
}
