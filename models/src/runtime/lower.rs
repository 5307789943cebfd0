//! Lowers the layers of a graph to our own operators, wired up as a tract model. Shapes are decided
//! here; `graph` reads the layers, `operators` computes them.

use std::sync::Arc;

use kith_kernels::{Arithmetic, Channel, Float, Integer, Weights, Zeros};
use tract_onnx::pb::GraphProto;
use tract_onnx::tract_core::internal::*;

use super::Pixels;
use super::graph::{Unsupported, read};
use super::layers::{Added, Bytes, ConvolutionLayer, GraphOutput, Kind, Layer, Order};
use super::operators::{
    Chain, Convolution, Input, InputTable, LONGEST, Layout, MaxPool, Mean, ResidualLayer, Sum,
};

/// Builds the model, with the outputs in the order asked for. Sides that are `None` stay open.
pub(super) fn lower(
    graph: &GraphProto,
    outputs: &[&'static str],
    shape: [Option<usize>; 4],
    pixels: &Pixels,
) -> Result<TypedModel, Unsupported> {
    wire(&read(graph, outputs)?, outputs, shape, pixels).map_err(|error| format!("{error:#}"))
}

/// Returns the names of the convolutions that would run in floating point.
pub(super) fn float_convolutions(
    graph: &GraphProto,
    outputs: &[&'static str],
) -> Result<Vec<String>, Unsupported> {
    let layers = read(graph, outputs)?;
    let float = layers.iter().filter_map(|layer| match &layer.kind {
        Kind::Convolution(convolution) => {
            let integer =
                convolution.weight.scales.is_some() && layers[layer.input].bytes.is_some();
            (!integer && !convolution.is_dense()).then(|| convolution.name.clone())
        }
        _ => None,
    });
    Ok(float.collect())
}

fn wire(
    layers: &[Layer],
    outputs: &[&'static str],
    shape: [Option<usize>; 4],
    pixels: &Pixels,
) -> TractResult<TypedModel> {
    let mut borders = vec![0; layers.len()];
    for layer in layers {
        if let Kind::Convolution(convolution) = &layer.kind {
            borders[layer.input] = convolution.padding.max(borders[layer.input]);
        }
    }
    let mut model = TypedModel::default();
    let [pictures, channels, height, width] = shape;
    ensure!(
        channels == Some(3),
        "the input does not have three channels"
    );
    let names = ["pictures", "height", "width", "channels"];
    let sides = names
        .iter()
        .zip([pictures, height, width, channels])
        .map(|(name, side)| {
            side.map_or_else(|| model.symbols.sym(name).to_dim(), |side| side.to_dim())
        });
    let fact = u8::fact(sides.collect::<TVec<_>>());
    let source = model.add_source("input", fact)?;
    let mut outlets: Vec<OutletId> = Vec::with_capacity(layers.len());
    let uses = uses(layers);
    // For each layer, the chain of convolutions that ends in it, with the input of the first one,
    // if exactly one other layer continues it.
    let mut chains: Vec<Option<(OutletId, Vec<Convolution<Float>>)>> =
        Vec::with_capacity(layers.len());
    for (ix, layer) in layers.iter().enumerate() {
        let border = borders[ix];
        let input_border = borders[layer.input];
        let flip = Integer::kernels().flip;
        let name = format!("layer{ix}");
        ensure!(
            ix == 0 || layers[layer.input].output.is_none(),
            "an output is used inside as well"
        );
        let is_convolution = matches!(layer.kind, Kind::Convolution(_));
        ensure!(
            ix == 0 || is_convolution || !is_widened(&layers[layer.input]),
            "layer {ix} takes a picture's bytes and is not a convolution"
        );
        ensure!(
            layer.output.is_none() || is_convolution && layer.bytes.is_none(),
            "an output is not a plain convolution"
        );
        let mut chain = None;
        let outlet = match &layer.kind {
            Kind::Input { multiply, add } => {
                let value = |plane: usize, pixel: usize| {
                    pixels.table[plane][pixel] * multiply[plane] + add[plane]
                };
                let table = match layer.bytes {
                    None => InputTable::Float(Box::new(
                        [0, 1, 2].map(|plane| std::array::from_fn(|pixel| value(plane, pixel))),
                    )),
                    Some(Bytes { scale, zero }) => {
                        let whole = |plane: usize, pixel: usize| {
                            (value(plane, pixel) / scale).round_ties_even() + f32::from(zero)
                        };
                        let byte = |plane: usize, pixel: usize| whole(plane, pixel) as u8 ^ flip;
                        let table =
                            [0, 1, 2].map(|plane| std::array::from_fn(|pixel| byte(plane, pixel)));
                        InputTable::Bytes(Box::new(table), zero ^ flip)
                    }
                };
                model.wire_node(
                    name,
                    Input {
                        border,
                        table,
                        reversed: pixels.reversed,
                    },
                    &[source],
                )?
            }
            Kind::MaxPool { kernel, extra } => {
                let same = layer.bytes.is_some() == layers[layer.input].bytes.is_some();
                ensure!(same, "a pooling's input is quantised only for others");
                let pool = MaxPool {
                    kernel: *kernel,
                    extra: *extra,
                    border: input_border,
                    result_border: border,
                    flip,
                    blank: zero(layer) ^ flip,
                };
                model.wire_node(name, pool, &[outlets[layer.input]])?
            }
            Kind::Mean => {
                ensure!(border == 0, "a mean is padded");
                let input = &layers[layer.input];
                let mean = Mean {
                    border: input_border,
                    scale: unit(input),
                    flip,
                    zero: zero(input),
                };
                model.wire_node(name, mean, &[outlets[layer.input]])?
            }
            Kind::Sum { doubled } => {
                ensure!(
                    layers[*doubled].output.is_none(),
                    "an output is used inside as well"
                );
                let float = layers[layer.input].bytes.is_none() && layers[*doubled].bytes.is_none();
                ensure!(float, "bytes are added in layer {ix}");
                let sum = Sum {
                    borders: [input_border, borders[*doubled]],
                    result_border: border,
                };
                model.wire_node(name, sum, &[outlets[layer.input], outlets[*doubled]])?
            }
            Kind::Convolution(convolution) => {
                ensure!(
                    !convolution.sigmoid || layer.output.is_some(),
                    "{}: it has a sigmoid but is not an output",
                    convolution.name
                );
                let mut inputs = tvec![outlets[layer.input]];
                if let Some(Added {
                    layer: residual, ..
                }) = convolution.residual
                {
                    ensure!(
                        layers[residual].output.is_none(),
                        "an output is used inside as well"
                    );
                    ensure!(
                        residual < ix,
                        "{}: its residual comes later",
                        convolution.name
                    );
                    ensure!(
                        !is_widened(&layers[residual]),
                        "{}: a picture's bytes are added",
                        convolution.name
                    );
                    ensure!(
                        layers[residual].bytes.is_some() == layers[layer.input].bytes.is_some(),
                        "{}: bytes are added to numbers",
                        convolution.name
                    );
                    ensure!(
                        zero(&layers[residual]) == 0,
                        "{}: bytes with a zero point are added",
                        convolution.name
                    );
                    inputs.push(outlets[residual]);
                }
                let fact = model.outlet_fact(inputs[0])?.clone();
                let layout = match (&layer.output, layer.bytes) {
                    (Some(GraphOutput { listed: true, .. }), _) => Layout::Listed,
                    (Some(_), _) if convolution.is_dense() => Layout::Flat,
                    (Some(_), _) => Layout::Planes,
                    (None, Some(_)) => Layout::Bytes(border),
                    (None, None) => Layout::Float(border),
                };
                let parts = Parts {
                    convolution,
                    layer,
                    layers,
                    borders: &borders,
                    layout,
                    fact: &fact,
                };
                if layers[layer.input].bytes.is_some() {
                    model.wire_node(name, parts.integer()?, &inputs)?
                } else {
                    let operator = parts.float()?;
                    let alone =
                        inputs.len() == 1 && matches!(layout, Layout::Float(_) | Layout::Listed);
                    let before = chains[layer.input].take().filter(|_| alone);
                    let (input, mut convolutions) =
                        before.unwrap_or_else(|| (inputs[0], Vec::new()));
                    convolutions.push(operator.clone());
                    if alone && uses[ix] == 1 && convolutions.len() < LONGEST {
                        chain = Some((input, convolutions.clone()));
                    }
                    // The shorter chain is left without a reader, so it does not run.
                    match convolutions.len() {
                        1 => model.wire_node(name, operator, &inputs)?,
                        _ => model.wire_node(name, Chain { convolutions }, &[input])?,
                    }
                }
            }
        };
        // Shapes with open sides are checked when the operators run.
        let known = model
            .outlet_fact(outlet[0])?
            .shape
            .iter()
            .filter_map(|side| side.to_i64().ok());
        ensure!(
            known.min() > Some(0),
            "nothing is left of the picture in layer {ix}"
        );
        outlets.push(outlet[0]);
        chains.push(chain);
    }
    let of = |name: &&'static str| {
        let ix = layers.iter().position(|layer| {
            layer
                .output
                .as_ref()
                .is_some_and(|output| output.name == *name)
        });
        ix.map(|ix| outlets[ix])
            .ok_or_else(|| TractError::msg(format!("no output {name}")))
    };
    let outlets = outputs.iter().map(of).collect::<TractResult<Vec<_>>>()?;
    model.select_output_outlets(&outlets)?;
    Ok(model)
}

/// Returns how many other layers read each layer.
fn uses(layers: &[Layer]) -> Vec<usize> {
    let mut uses = vec![0; layers.len()];
    for layer in layers.iter().skip(1) {
        uses[layer.input] += 1;
        match &layer.kind {
            Kind::Convolution(convolution) => convolution
                .residual
                .iter()
                .for_each(|added| uses[added.layer] += 1),
            Kind::Sum { doubled } => uses[*doubled] += 1,
            Kind::Input { .. } | Kind::MaxPool { .. } | Kind::Mean => {}
        }
    }
    uses
}

/// Tells whether the layer has an additional channel of zeros that the graph does not have: a
/// picture as bytes has one, and only convolutions ignore it.
fn is_widened(layer: &Layer) -> bool {
    matches!(layer.kind, Kind::Input { .. }) && layer.bytes.is_some()
}

/// Returns the byte that stands for 0.
fn zero(layer: &Layer) -> u8 {
    layer.bytes.map_or(0, |bytes| bytes.zero)
}

/// Returns the value of one step between bytes.
fn unit(layer: &Layer) -> f32 {
    layer.bytes.map_or(1.0, |bytes| bytes.scale)
}

/// Everything a convolution's operator is made from.
struct Parts<'a> {
    convolution: &'a ConvolutionLayer,
    layer: &'a Layer,
    layers: &'a [Layer],
    borders: &'a [usize],
    layout: Layout,
    fact: &'a TypedFact,
}

impl Parts<'_> {
    fn float(&self) -> TractResult<Convolution<Float>> {
        let weight = &self.convolution.weight;
        ensure!(
            weight.scales.is_none(),
            "{}: its weights are integers, its input is not",
            self.convolution.name
        );
        self.packed(weight.values.try_as_plain_ram()?.as_slice::<f32>()?, |_| {
            1.0
        })
    }

    fn integer(&self) -> TractResult<Convolution<Integer>> {
        let weight = &self.convolution.weight;
        let Some(scales) = &weight.scales else {
            bail!(
                "{}: its input is quantised, its weights are not",
                self.convolution.name
            )
        };
        let input = unit(&self.layers[self.layer.input]);
        let scale = |output: usize| {
            input
                * scales
                    .get(output)
                    .or_else(|| scales.first())
                    .copied()
                    .unwrap_or(1.0)
        };
        let weights = weight.values.try_as_plain_ram()?.as_slice::<i8>()?;
        ensure!(
            !weights.contains(&i8::MIN),
            "{}: a weight is -128, 8-bit weights go from -127 to 127",
            self.convolution.name
        );
        self.packed(weights, scale)
    }

    /// Packs the weights in the order in which they are read.
    fn packed<A: Arithmetic>(
        &self,
        weights: &[A::Weight],
        scale: impl Fn(usize) -> f32,
    ) -> TractResult<Convolution<A>> {
        let name = &self.convolution.name;
        let order = self.convolution.weight.order;
        let stored = self.fact.shape[3].to_usize()?;
        let channels = if is_widened(&self.layers[self.layer.input]) {
            3
        } else {
            stored
        };
        let shape = self.convolution.weight.values.shape();
        let [rows, columns] = match *shape {
            [_, _, rows, columns] => [rows, columns],
            _ => {
                let [rows, columns] = [
                    self.fact.shape[1].to_usize()?,
                    self.fact.shape[2].to_usize()?,
                ];
                let border = 2 * self.borders[self.layer.input];
                ensure!(
                    rows > border && columns > border,
                    "{name}: nothing inside the border"
                );
                [rows - border, columns - border]
            }
        };
        let wanted = match order {
            Order::Full => shape[1],
            Order::Depthwise => shape[0],
            Order::Dense | Order::DenseByOutput => {
                let length = shape[usize::from(order == Order::DenseByOutput)];
                ensure!(
                    length == rows * columns * channels,
                    "{name}: {length} inputs for {rows}×{columns}×{channels}"
                );
                channels
            }
        };
        ensure!(
            wanted == channels,
            "{name}: {channels} channels come in, not {wanted}"
        );
        ensure!(
            order != Order::Depthwise || channels == stored,
            "{name}: it is depthwise on a picture's bytes"
        );
        let run = columns * stored;
        ensure!(
            run.is_multiple_of(A::GROUP),
            "{name}: {stored} channels do not fill groups"
        );
        // With this many terms the sums, intermediate ones included, stay below 2³¹ (each at most
        // 255 × 127).
        ensure!(
            A::GROUP == 1 || rows * run <= 65_000,
            "{name}: its sums could overflow"
        );
        let outputs = self.convolution.bias.len();
        // The graph stores, and flattens, each channel as a plane.
        let weight = |output: usize, row: usize, column: usize, channel: usize| match order {
            _ if channel >= channels => A::Weight::default(),
            Order::Full | Order::DenseByOutput => {
                weights[((output * channels + channel) * rows + row) * columns + column]
            }
            Order::Depthwise => weights[(output * rows + row) * columns + column],
            Order::Dense => weights[((channel * rows + row) * columns + column) * outputs + output],
        };
        self.assemble([rows, columns], scale, |of, zeros| match order {
            Order::Depthwise => {
                Weights::pack_depthwise(rows, columns, of, zeros, |channel, row, column| {
                    weight(channel, row, column, 0)
                })
            }
            _ => Weights::pack(rows, run, of, zeros, |output, row, at| {
                weight(output, row, at / stored, at % stored)
            }),
        })
    }

    fn assemble<A: Arithmetic>(
        &self,
        kernel: [usize; 2],
        scale: impl Fn(usize) -> f32,
        pack: impl FnOnce(&[Channel], Zeros) -> Weights<A>,
    ) -> TractResult<Convolution<A>> {
        let convolution = self.convolution;
        let unit = unit(self.layer);
        let slope = |channel: usize| {
            convolution
                .slopes
                .as_ref()
                .map_or(1.0, |slopes| slopes[channel])
        };
        let channel = |(channel, bias): (usize, &f32)| Channel {
            scale: scale(channel) / unit,
            bias: bias / unit,
            slope: slope(channel),
        };
        let channels: Vec<_> = convolution.bias.iter().enumerate().map(channel).collect();
        let residual = convolution.residual.map(
            |Added {
                 layer,
                 pooled,
                 zeros,
             }| ResidualLayer {
                border: self.borders[layer],
                scale: self::unit(&self.layers[layer]) / unit,
                pooled,
                zeros,
            },
        );
        let zeros = Zeros {
            input: zero(&self.layers[self.layer.input]),
            output: zero(self.layer),
        };
        Ok(Convolution {
            weights: Arc::new(pack(&channels, zeros)),
            kernel,
            stride: convolution.stride,
            padding: convolution.padding,
            border: self.borders[self.layer.input],
            residual,
            pool: convolution.pool,
            sigmoid: convolution.sigmoid,
            result: self.layout,
        })
    }
}

#[cfg(test)]
mod tests;
