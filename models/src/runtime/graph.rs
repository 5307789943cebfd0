//! What an ONNX graph says, as the layers that our own operators can be: each convolution with what follows it. Takes
//! plain convolutional networks, in float32 or quantised (per-channel signed weights, unsigned values, as pairs of
//! QuantizeLinear and DequantizeLinear), and in float32 also with a kernel for each channel and with smaller layers
//! doubled and added to larger ones; everything else it names and leaves to tract. Knows no shapes but those of
//! constants; what layers become is `lower`'s.
//!
//! Where quantised values meet in a sum, the sum is made before rounding: the pair in between, which other runtimes
//! need, is passed over. It is known by its zero point, which values behind a ReLU do not have.

use std::collections::HashMap;
use std::sync::Arc;

use tract_onnx::data_resolver;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto};
use tract_onnx::tensor::load_tensor;
use tract_onnx::tract_core::internal::*;

use super::layers::{Added, ConvolutionLayer, GraphOutput, Kind, Layer, Weight};

/// Beyond these no network goes, and a damaged file might.
const MOST_STRIDE: usize = 64;
const MOST_POOLED: usize = 16;

/// Why a graph cannot be lowered, naming the node.
pub(super) type Unsupported = String;

/// What a name of the graph stands for.
#[derive(Clone)]
enum Value {
    Layer(usize),
    /// A layer's numbers as one row: what a dense layer takes and gives.
    Flat(usize),
    /// A layer's mean of each two by two pixels.
    Pooled(usize),
    /// A layer, or with `true` its mean of each two by two pixels, with channels, rows and columns of zeros at its end.
    /// Only a sum takes that.
    Padded(usize, bool, [usize; 3]),
    /// A layer with each pixel two by two times. Only a sum takes that.
    Doubled(usize),
    /// A layer with its channels last, as it lies here.
    Turned(usize),
    /// The same with all its pixels one behind the other.
    Listed(usize),
    /// Between the two of a pair, with its scale and zero point.
    Quantised(Box<Value>, f32, i64),
    Constant(Arc<Tensor>),
    /// Whole numbers and the scales they stand for, one or one for each first index.
    Scaled(Arc<Tensor>, Vec<f32>),
}

struct Reading<'a> {
    graph: &'a GraphProto,
    values: HashMap<&'a str, Value>,
    uses: HashMap<&'a str, usize>,
    layers: Vec<Layer>,
}

/// The layers in the order they run in, with the outputs asked for marked in them.
pub(super) fn read(graph: &GraphProto, outputs: &[&'static str]) -> Result<Vec<Layer>, Unsupported> {
    let mut uses: HashMap<&str, usize> = HashMap::new();
    let inputs = graph.node.iter().flat_map(|node| &node.input);
    for name in inputs.chain(graph.output.iter().map(|output| &output.name)) {
        *uses.entry(name).or_default() += 1;
    }
    let mut reading = Reading { graph, values: HashMap::new(), uses, layers: Vec::new() };
    reading.read().map_err(|(node, reason)| format!("{node}: {reason}"))?;
    for name in outputs {
        let layer = match reading.values.get(name) {
            Some(Value::Layer(layer)) => Some((*layer, false)),
            Some(Value::Flat(layer)) if reading.layers[*layer].is_dense() => Some((*layer, false)),
            Some(Value::Listed(layer)) => Some((*layer, true)),
            _ => None,
        };
        let (layer, listed) = layer.ok_or_else(|| format!("the output {name} is not a layer"))?;
        reading.layers[layer].output = Some(GraphOutput { name: (*name).to_owned(), listed });
    }
    Ok(reading.layers)
}

impl<'a> Reading<'a> {
    fn read(&mut self) -> Result<(), (String, String)> {
        for tensor in &self.graph.initializer {
            let unusable = |reason: String| (tensor.name.clone(), reason);
            if tensor.data_type == DataType::String as i32 {
                // Reading bytes as texts, tract would panic.
                return Err(unusable("it is made of texts".into()));
            }
            let resolver = data_resolver::FopenDataResolver;
            let values = load_tensor(&resolver, tensor, None).map_err(|error| unusable(format!("{error:#}")))?;
            self.define(&tensor.name, Value::Constant(Arc::new(values))).map_err(unusable)?;
        }
        let inputs = self.graph.input.iter().filter(|input| !self.values.contains_key(input.name.as_str()));
        for input in inputs.collect::<Vec<_>>() {
            let layer = self.push(Kind::Enter { multiply: [1.0; 3], add: [0.0; 3] }, 0, None);
            self.define(&input.name, Value::Layer(layer)).map_err(|reason| (input.name.clone(), reason))?;
        }
        for node in &self.graph.node {
            let name = || format!("{} {}", node.op_type, node.output.first().map_or("", String::as_str));
            let [output] = node.output.as_slice() else {
                return Err((name(), format!("it has {} outputs", node.output.len())));
            };
            let value = known(node).and_then(|()| self.node(node)).and_then(|value| self.define(output, value));
            value.map_err(|reason| (name(), reason))?;
        }
        Ok(())
    }

    fn define(&mut self, name: &'a str, value: Value) -> Result<(), String> {
        match self.values.insert(name, value) {
            _ if name.is_empty() => Err("it has no name".into()),
            Some(_) => Err("its name is there twice".into()),
            None => Ok(()),
        }
    }

    fn push(&mut self, kind: Kind, input: usize, scale: Option<f32>) -> usize {
        self.layers.push(Layer { kind, input, scale, output: None, shared: false });
        self.layers.len() - 1
    }

    fn value(&self, node: &NodeProto, ix: usize) -> Result<Value, String> {
        let name = node.input.get(ix).ok_or_else(|| format!("it has no input {ix}"))?;
        self.values.get(name.as_str()).cloned().ok_or_else(|| format!("{name} is not known"))
    }

    fn layer(&self, node: &NodeProto, ix: usize) -> Result<usize, String> {
        match self.value(node, ix)? {
            Value::Layer(layer) => Ok(layer),
            _ => Err(format!("its input {ix} is not a layer")),
        }
    }

    fn floats(&self, node: &NodeProto, ix: usize) -> Result<Vec<f32>, String> {
        match self.value(node, ix)? {
            Value::Constant(tensor) => floats(&tensor),
            Value::Scaled(tensor, scales) => {
                let values = whole_numbers(&tensor)?;
                let each = (values.len() / scales.len().max(1)).max(1);
                Ok(values.iter().enumerate().map(|(ix, value)| *value as f32 * scales[ix / each]).collect())
            }
            _ => Err(format!("its input {ix} is not constant")),
        }
    }

    /// The third input of one of these shapes, which are as long as the first one says, or zeros.
    fn bias(&self, node: &NodeProto, shapes: &[&[usize]]) -> Result<Vec<f32>, String> {
        if node.input.len() < 3 {
            return Ok(vec![0.0; shapes[0][0]]);
        }
        match self.value(node, 2)? {
            Value::Constant(tensor) | Value::Scaled(tensor, _) if shapes.contains(&tensor.shape()) => {
                self.floats(node, 2)
            }
            _ => Err("its bias is not one number for each output".into()),
        }
    }

    /// The same layer under another name.
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

    /// The convolution whose plain result this node's input is and nobody else's.
    fn unfinished(&mut self, node: &NodeProto, ix: usize) -> Result<(Value, &mut ConvolutionLayer), String> {
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
            Layer { kind: Kind::Convolution(convolution), scale: None, shared: false, .. }
                if once
                    && convolution.slopes.is_none()
                    && convolution.is_dense() == matches!(value, Value::Flat(_)) =>
            {
                Ok((value, convolution))
            }
            _ => Err("it does not follow a convolution alone".into()),
        }
    }

    fn node(&mut self, node: &'a NodeProto) -> Result<Value, String> {
        let ints = |name: &str| node.attribute.iter().find(|a| a.name == name).map(|a| a.ints.as_slice());
        let int = |name: &str, default: i64| node.attribute.iter().find(|a| a.name == name).map_or(default, |a| a.i);
        let require = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
        match node.op_type.as_str() {
            "Conv" => {
                let input = self.layer(node, 0)?;
                let (values, scales) = match self.value(node, 1)? {
                    Value::Constant(tensor) => (tensor, None),
                    Value::Scaled(tensor, scales) => (tensor, Some(scales)),
                    _ => return Err("its weights are not constant".into()),
                };
                let &[channels, inputs, rows, columns] = values.shape() else {
                    return Err("its kernel has not two axes".into());
                };
                require(values.len() > 0, "its kernel is empty")?;
                let kind = if scales.is_some() { DatumType::I8 } else { DatumType::F32 };
                require(values.datum_type() == kind, "its weights are neither float32 nor signed bytes with a scale")?;
                let bias = self.bias(node, &[&[channels]])?;
                let group = int("group", 1);
                // One of one input channel is a full one.
                let depthwise = group != 1 && scales.is_none() && inputs == 1 && usize::try_from(group) == Ok(channels);
                require(group == 1 || depthwise, "its channels are grouped")?;
                require(ints("dilations").is_none_or(|d| d == [1, 1]), "it is dilated")?;
                let kernel = [rows as i64, columns as i64];
                require(ints("kernel_shape").is_none_or(|k| k == kernel), "its kernel is not of its weights' shape")?;
                require(pads_as_told(node), "it pads by itself")?;
                let strides = square::<2>(ints("strides").unwrap_or(&[1; 2]), 1, MOST_STRIDE);
                let padding = square::<4>(ints("pads").unwrap_or(&[0; 4]), 0, rows.min(columns) - 1);
                let weight = match scales {
                    None if depthwise => Weight::Depthwise(values),
                    None => Weight::Float(values),
                    Some(scales) => Weight::Integer(values, scales),
                };
                let layer = ConvolutionLayer {
                    stride: strides.ok_or("its strides are odd")?,
                    padding: padding.ok_or("its paddings are odd")?,
                    ..ConvolutionLayer::plain(&node.output[0], weight, bias)
                };
                Ok(Value::Layer(self.push(Kind::Convolution(Box::new(layer)), input, None)))
            }
            "Gemm" | "MatMul" => {
                let Value::Flat(input) = self.value(node, 0)? else {
                    return Err("its input is not one row for each picture".into());
                };
                let Value::Constant(matrix) = self.value(node, 1)? else {
                    return Err("its matrix is not constant".into());
                };
                let &[_, outputs] = matrix.shape() else { return Err("its matrix has not two axes".into()) };
                require(matrix.len() > 0, "its matrix is empty")?;
                require(matrix.datum_type() == DatumType::F32, "its matrix is not float32")?;
                require(int("transA", 0) == 0 && int("transB", 0) == 0, "it is transposed")?;
                let factors = node.attribute.iter().filter(|a| a.name == "alpha" || a.name == "beta");
                require(factors.clone().all(|a| a.f == 1.0), "it has factors")?;
                let bias = self.bias(node, &[&[outputs], &[1, outputs]])?;
                let layer = ConvolutionLayer::plain(&node.output[0], Weight::Dense(matrix), bias);
                Ok(Value::Flat(self.push(Kind::Convolution(Box::new(layer)), input, None)))
            }
            "Relu" => {
                let (value, convolution) = self.unfinished(node, 0)?;
                convolution.slopes = Some(vec![0.0; convolution.bias.len()]);
                Ok(value)
            }
            "PRelu" => {
                let Value::Constant(tensor) = self.value(node, 1)? else {
                    return Err("its slopes are not constant".into());
                };
                let slopes = floats(&tensor)?;
                let (value, convolution) = self.unfinished(node, 0)?;
                let count = convolution.bias.len();
                let per_channel: [&[usize]; 2] =
                    if convolution.is_dense() { [&[count], &[1, count]] } else { [&[count, 1, 1], &[1, count, 1, 1]] };
                require(per_channel.contains(&tensor.shape()), "it has not one slope for each channel")?;
                // The largest is pooled behind the slope here, which is the same only while the slope rises.
                let rising = slopes.iter().all(|slope| *slope >= 0.0);
                require(convolution.pool.is_none() || rising, "it falls behind a pooling")?;
                convolution.slopes = Some(slopes);
                Ok(value)
            }
            "Sigmoid" => {
                let (value, convolution) = self.unfinished(node, 0)?;
                convolution.sigmoid = true;
                convolution.slopes = Some(vec![1.0; convolution.bias.len()]);
                Ok(value)
            }
            "Add" => self.add(node),
            "Mul" => {
                let factors = self.per_plane(node)?;
                let (layer, multiply, add) = self.entrance(node)?;
                for (channel, factor) in factors.into_iter().enumerate() {
                    multiply[channel] *= factor;
                    add[channel] *= factor;
                }
                Ok(Value::Layer(layer))
            }
            "MaxPool" => {
                let input = self.layer(node, 0)?;
                let kernel = ints("kernel_shape").and_then(|sides| square::<2>(sides, 1, MOST_POOLED));
                let kernel = kernel.ok_or("its kernel is not square")?;
                let &[0, 0, extra, other] = ints("pads").unwrap_or(&[0; 4]) else {
                    return Err("it pads at the beginning".into());
                };
                let extra = square::<2>(&[extra, other], 0, kernel - 1).ok_or("its paddings are odd")?;
                require(ints("strides") == Some(&[2, 2]), "its strides are not 2")?;
                require(int("ceil_mode", 0) == 0, "it rounds up")?;
                require(ints("dilations").is_none_or(|d| d == [1, 1]), "it is dilated")?;
                require(pads_as_told(node), "it pads by itself")?;
                let once = self.uses.get(node.input[0].as_str()) == Some(&1);
                if let Layer { kind: Kind::Convolution(convolution), scale: None, shared: false, .. } =
                    &mut self.layers[input]
                    && once
                    && kernel == 2
                    && (convolution.residual, convolution.pool) == (None, None)
                {
                    // Each result is needed once, so that none is worked out twice.
                    convolution.pool = Some(extra == 1);
                    return Ok(Value::Layer(input));
                }
                let kind = Kind::MaxPool { kernel, extra };
                let scale = self.layers[input].scale;
                Ok(Value::Layer(self.push(kind, input, scale)))
            }
            "AveragePool" => {
                let input = self.layer(node, 0)?;
                let plain =
                    ints("kernel_shape") == Some(&[2, 2]) && ints("strides") == Some(&[2, 2]) && pads_as_told(node);
                require(
                    plain && ints("pads").is_none_or(|pads| pads == [0; 4]) && int("ceil_mode", 0) == 0,
                    "it is not two by two",
                )?;
                Ok(Value::Pooled(input))
            }
            "Pad" => {
                // dlib's sum of unequal sizes: the smaller has zeros at its end. The sum takes both as they are.
                let Value::Constant(pads) = self.value(node, 1)? else {
                    return Err("its sizes are not constant".into());
                };
                require(pads.rank() == 1, "its sizes are not one list")?;
                let pads = whole_numbers(&pads)?;
                let zeros: Option<Vec<usize>> = match pads.as_slice() {
                    [0, 0, 0, 0, 0, ends @ ..] => ends.iter().map(|end| usize::try_from(*end).ok()).collect(),
                    _ => None,
                };
                let zeros = zeros.and_then(|zeros| <[usize; 3]>::try_from(zeros).ok());
                let zeros = zeros.ok_or("it pads elsewhere than at the end")?;
                require(
                    node.attribute.iter().all(|a| a.name != "mode" || a.s == b"constant"),
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
            "Resize" => {
                let text = |name: &str| node.attribute.iter().find(|a| a.name == name).map(|a| a.s.as_slice());
                let mode = text("mode").is_none_or(|mode| mode == b"nearest");
                let place = text("coordinate_transformation_mode") == Some(b"asymmetric");
                require(
                    mode && place && text("nearest_mode") == Some(b"floor"),
                    "it does not take the pixel to the left and above",
                )?;
                let region = node.input.get(1).is_none_or(String::is_empty) || self.floats(node, 1)?.is_empty();
                require(region, "it takes a region")?;
                let Value::Constant(scales) = self.value(node, 2)? else {
                    return Err("its scales are not constant".into());
                };
                let twice = scales.shape() == [4] && floats(&scales)? == [1.0, 1.0, 2.0, 2.0];
                require(twice, "it does not double rows and columns alone")?;
                let layer = self.layer(node, 0)?;
                Ok(self.alias(node, Value::Doubled(layer)))
            }
            "Transpose" => {
                require(ints("perm") == Some(&[0, 2, 3, 1]), "it does not put the channels last")?;
                let layer = self.layer(node, 0)?;
                Ok(self.alias(node, Value::Turned(layer)))
            }
            "Reshape" => {
                let Value::Turned(layer) = self.value(node, 0)? else {
                    return Err("its input has not its channels last".into());
                };
                let Value::Constant(shape) = self.value(node, 1)? else {
                    return Err("its shape is not constant".into());
                };
                let Kind::Convolution(convolution) = &self.layers[layer].kind else {
                    return Err("its input is no convolution".into());
                };
                let listed = [1, -1, convolution.bias.len() as i64];
                let fits =
                    shape.datum_type() == DatumType::I64 && shape.rank() == 1 && whole_numbers(&shape)? == listed;
                require(fits, "it does not list all pixels")?;
                Ok(self.alias(node, Value::Listed(layer)))
            }
            "GlobalAveragePool" => {
                let input = self.layer(node, 0)?;
                Ok(Value::Layer(self.push(Kind::Mean, input, None)))
            }
            "Flatten" => {
                require(int("axis", 1) == 1, "its axis is not 1")?;
                let (Value::Layer(layer) | Value::Flat(layer)) = self.value(node, 0)? else {
                    return Err("its input is not a layer".into());
                };
                Ok(self.alias(node, Value::Flat(layer)))
            }
            "QuantizeLinear" => self.quantise(node),
            "DequantizeLinear" => match self.value(node, 0)? {
                Value::Constant(tensor) => {
                    let scales = self.floats(node, 1)?;
                    require(tensor.datum_type().is_integer(), "its values are no whole numbers")?;
                    require(scales.len() == 1 || int("axis", 1) == 0, "its axis is not 0")?;
                    let fit = scales.len() == 1 || tensor.shape().first() == Some(&scales.len());
                    require(fit, "it has not one scale for each channel")?;
                    if node.input.len() > 2 {
                        let Value::Constant(zero) = self.value(node, 2)? else {
                            return Err("its zero point is not constant".into());
                        };
                        let none = whole_numbers(&zero)?.iter().all(|zero| *zero == 0);
                        let alike = zero.datum_type() == tensor.datum_type();
                        require(none && alike, "its weights have a zero point")?;
                    }
                    Ok(Value::Scaled(tensor, scales))
                }
                Value::Quantised(value, scale, zero) => {
                    let same = self.floats(node, 1)? == [scale] && self.zero_point(node)? == zero;
                    require(same, "its scale or zero point is not the one its values were quantised by")?;
                    Ok(self.alias(node, *value))
                }
                _ => Err("its input was not quantised".into()),
            },
            other => Err(format!("{other} has no operator of ours")),
        }
    }

    /// A constant for each of the input's planes.
    fn per_plane(&self, node: &NodeProto) -> Result<[f32; 3], String> {
        let Value::Constant(tensor) = self.value(node, 1)? else {
            return Err("its other input is not constant".into());
        };
        match (tensor.shape(), floats(&tensor)?.as_slice()) {
            (shape, &[one]) if shape.len() <= 4 => Ok([one; 3]),
            ([3, 1, 1] | [1, 3, 1, 1], &[a, b, c]) => Ok([a, b, c]),
            _ => Err("it has not one number for each plane".into()),
        }
    }

    /// The graph's input, if nothing but this node uses it.
    fn entrance(&mut self, node: &NodeProto) -> Result<(usize, &mut [f32; 3], &mut [f32; 3]), String> {
        let layer = self.layer(node, 0)?;
        let once = self.uses.get(node.input[0].as_str()) == Some(&1);
        match &mut self.layers[layer] {
            Layer { kind: Kind::Enter { multiply, add }, scale: None, shared: false, .. } if once => {
                Ok((layer, multiply, add))
            }
            _ => Err("it is not at the graph's input".into()),
        }
    }

    fn add(&mut self, node: &NodeProto) -> Result<Value, String> {
        if let Ok(terms) = self.per_plane(node) {
            let (layer, _, add) = self.entrance(node)?;
            for (add, term) in add.iter_mut().zip(terms) {
                *add += term;
            }
            return Ok(Value::Layer(layer));
        }
        for ix in 0..2 {
            if let (Value::Layer(layer), Value::Doubled(doubled)) = (self.value(node, ix)?, self.value(node, 1 - ix)?) {
                return Ok(Value::Layer(self.push(Kind::Sum { doubled }, layer, None)));
            }
        }
        let ix = (0..2)
            .find(|ix| self.unfinished(node, *ix).is_ok())
            .ok_or("neither of its inputs is a convolution alone")?;
        let mut zeros = [[0; 3]; 2];
        let (added, pooled) = match self.value(node, 1 - ix)? {
            Value::Layer(layer) => (layer, false),
            Value::Pooled(layer) => (layer, true),
            Value::Padded(layer, pooled, behind) => {
                zeros[1] = behind;
                (layer, pooled)
            }
            _ => return Err("its other input is not a layer".into()),
        };
        let (value, convolution) = self.unfinished(node, ix)?;
        let layer = match value {
            Value::Padded(layer, _, behind) => {
                zeros[0] = behind;
                layer
            }
            Value::Layer(layer) => layer,
            _ => return Err("it does not follow a convolution alone".into()),
        };
        if convolution.residual.is_some() || convolution.pool.is_some() || added == layer {
            return Err("it is not a first sum".into());
        }
        convolution.residual = Some(Added { layer: added, pooled, zeros });
        Ok(Value::Layer(layer))
    }

    fn quantise(&mut self, node: &NodeProto) -> Result<Value, String> {
        let scale = match self.floats(node, 1)?.as_slice() {
            [scale] => *scale,
            _ => return Err("it has a scale for each channel".into()),
        };
        if !(scale.is_finite() && scale > 0.0) {
            return Err(format!("its scale is {scale}"));
        }
        let zero = self.zero_point(node)?;
        let value = self.value(node, 0)?;
        if !matches!(value, Value::Layer(_) | Value::Pooled(_) | Value::Padded(..)) {
            return Err("its input is not a layer".into());
        }
        let value = self.alias(node, value);
        if let Value::Layer(layer) = value
            && zero == 0
        {
            let layer = &mut self.layers[layer];
            match (&layer.kind, layer.scale) {
                (_, Some(before)) if (before - scale).abs() <= 1e-6 * scale => {}
                (_, Some(_)) => return Err("it changes the scale of what is quantised already".into()),
                (Kind::MaxPool { .. } | Kind::Mean | Kind::Sum { .. }, None) => {
                    return Err("its input is not a convolution".into());
                }
                (_, None) if layer.shared => return Err("its input is used unrounded as well".into()),
                (_, None) => layer.scale = Some(scale),
            }
        }
        Ok(Value::Quantised(Box::new(value), scale, zero))
    }

    /// Of values, which are unsigned bytes.
    fn zero_point(&self, node: &NodeProto) -> Result<i64, String> {
        let Value::Constant(zero) = self.value(node, 2)? else { return Err("its zero point is not constant".into()) };
        match whole_numbers(&zero)?.as_slice() {
            [zero_point] if zero.datum_type() == DatumType::U8 => Ok(*zero_point),
            _ => Err("its zero point is not one unsigned byte".into()),
        }
    }
}

/// Whether all that a node says about an operator of ours is understood.
fn known(node: &NodeProto) -> Result<(), String> {
    let (inputs, attributes): (usize, &[&str]) = match node.op_type.as_str() {
        "Conv" => (3, &["auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"]),
        "MaxPool" => (1, &["auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"]),
        "AveragePool" => (1, &["auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"]),
        "Resize" => (
            3,
            &[
                "coordinate_transformation_mode",
                "cubic_coeff_a",
                "exclude_outside",
                "extrapolation_value",
                "mode",
                "nearest_mode",
            ],
        ),
        "Transpose" => (1, &["perm"]),
        "Gemm" => (3, &["alpha", "beta", "transA", "transB"]),
        "Flatten" => (1, &["axis"]),
        "Pad" => (3, &["mode"]),
        "QuantizeLinear" | "DequantizeLinear" => (3, &["axis"]),
        "Relu" | "Sigmoid" | "GlobalAveragePool" => (1, &[]),
        "MatMul" | "PRelu" | "Add" | "Mul" | "Reshape" => (2, &[]),
        // Refused by whoever looks for its operator.
        _ => return Ok(()),
    };
    if !node.domain.is_empty() && node.domain != "ai.onnx" {
        return Err(format!("the domain {} is not ONNX's", node.domain));
    }
    if node.input.len() > inputs {
        return Err(format!("it has {} inputs", node.input.len()));
    }
    for AttributeProto { name, r#type, .. } in &node.attribute {
        let kind = match name.as_str() {
            "dilations" | "kernel_shape" | "pads" | "perm" | "strides" => AttributeType::Ints,
            "auto_pad" | "coordinate_transformation_mode" | "mode" | "nearest_mode" => AttributeType::String,
            "alpha" | "beta" | "cubic_coeff_a" | "extrapolation_value" => AttributeType::Float,
            _ => AttributeType::Int,
        };
        if !attributes.contains(&name.as_str()) || *r#type != kind as i32 {
            return Err(format!("its attribute {name} is not understood"));
        }
    }
    Ok(())
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, String> {
    let view = tensor.try_as_plain_ram().map_err(|error| format!("{error:#}"))?;
    view.as_slice::<f32>().map(<[f32]>::to_vec).map_err(|error| format!("{error:#}"))
}

fn whole_numbers(tensor: &Tensor) -> Result<Vec<i64>, String> {
    let cast = tensor.cast_to::<i64>().map_err(|error| format!("{error:#}"))?;
    let view = cast.try_as_plain_ram().map_err(|error| format!("{error:#}"))?;
    view.as_slice::<i64>().map(<[i64]>::to_vec).map_err(|error| format!("{error:#}"))
}

/// The one number that all are, if it is within the bounds.
fn square<const COUNT: usize>(numbers: &[i64], least: usize, most: usize) -> Option<usize> {
    let number = usize::try_from(*numbers.first()?).ok()?;
    (numbers == [numbers[0]; COUNT] && (least..=most).contains(&number)).then_some(number)
}

fn pads_as_told(node: &NodeProto) -> bool {
    node.attribute.iter().all(|attribute| attribute.name != "auto_pad" || attribute.s == b"NOTSET")
}
