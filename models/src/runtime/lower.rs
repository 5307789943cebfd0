//! From the layers of a graph to our own operators, wired up as tract's model. Knows shapes; what the graph says is
//! `graph`'s, what an operator does `operators`'.

use std::sync::Arc;

use tract_onnx::pb::GraphProto;
use tract_onnx::tract_core::internal::*;

use super::Pixels;
use super::graph::{Unsupported, read};
use super::layers::{Added, ConvolutionLayer, GraphOutput, Kind, Layer, Weight};
use super::operators::{Chain, Convolution, Enter, EnterTable, LONGEST, Layout, MaxPool, Mean, ResidualLayer, Sum};
use crate::direct::{Arithmetic, Channel, Float, Integer, Weights};

/// The graph over our operators, with the outputs in the order asked for. Sides given as None stay open.
pub(super) fn lower(
    graph: &GraphProto,
    outputs: &[&'static str],
    shape: [Option<usize>; 4],
    pixels: &Pixels,
) -> Result<TypedModel, Unsupported> {
    wire(&read(graph, outputs)?, outputs, shape, pixels).map_err(|error| format!("{error:#}"))
}

/// The convolutions that would run in floating point, by name.
pub(super) fn float_convolutions(graph: &GraphProto, outputs: &[&'static str]) -> Result<Vec<String>, Unsupported> {
    let layers = read(graph, outputs)?;
    let float = layers.iter().filter_map(|layer| match &layer.kind {
        Kind::Convolution(convolution) => {
            let float = match convolution.weight {
                Weight::Float(_) | Weight::Depthwise(_) => true,
                Weight::Integer(..) => layers[layer.input].scale.is_none(),
                Weight::Dense(_) => false,
            };
            float.then(|| convolution.name.clone())
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
    ensure!(channels == Some(3), "the input has not three channels");
    let names = ["pictures", "height", "width", "channels"];
    let sides = names
        .iter()
        .zip([pictures, height, width, channels])
        .map(|(name, side)| side.map_or_else(|| model.symbols.sym(name).to_dim(), |side| side.to_dim()));
    let fact = u8::fact(sides.collect::<TVec<_>>());
    let source = model.add_source("input", fact)?;
    let mut outlets: Vec<OutletId> = Vec::with_capacity(layers.len());
    let uses = uses(layers);
    // The convolutions that each layer is the end of, with the input of the first, where exactly one other goes on.
    let mut chains: Vec<Option<(OutletId, Vec<Convolution<Float>>)>> = Vec::with_capacity(layers.len());
    for (ix, layer) in layers.iter().enumerate() {
        let border = borders[ix];
        let input_border = borders[layer.input];
        let flip = Integer::kernels().flip;
        let name = format!("layer{ix}");
        ensure!(ix == 0 || layers[layer.input].output.is_none(), "an output is used inside as well");
        let is_convolution = matches!(layer.kind, Kind::Convolution(_));
        ensure!(
            ix == 0 || is_convolution || !is_widened(&layers[layer.input]),
            "layer {ix} takes a picture's bytes and is no convolution"
        );
        ensure!(layer.output.is_none() || is_convolution && layer.scale.is_none(), "an output is no plain convolution");
        let mut chain = None;
        let outlet = match &layer.kind {
            Kind::Enter { multiply, add } => {
                let value = |plane: usize, pixel: usize| pixels.table[plane][pixel] * multiply[plane] + add[plane];
                let table = match layer.scale {
                    None => EnterTable::Float(Box::new(
                        [0, 1, 2].map(|plane| std::array::from_fn(|pixel| value(plane, pixel))),
                    )),
                    Some(scale) => {
                        let byte = |plane: usize, pixel: usize| (value(plane, pixel) / scale).round() as u8 ^ flip;
                        let table = [0, 1, 2].map(|plane| std::array::from_fn(|pixel| byte(plane, pixel)));
                        EnterTable::Bytes(Box::new(table), flip)
                    }
                };
                model.wire_node(name, Enter { border, table, reversed: pixels.reversed }, &[source])?
            }
            Kind::MaxPool { kernel, extra } => {
                let same = layer.scale.is_some() == layers[layer.input].scale.is_some();
                ensure!(same, "a pooling's input is quantised only for others");
                let pool =
                    MaxPool { kernel: *kernel, extra: *extra, border: input_border, result_border: border, flip };
                model.wire_node(name, pool, &[outlets[layer.input]])?
            }
            Kind::Mean => {
                ensure!(border == 0, "a mean is padded");
                let scale = layers[layer.input].scale.unwrap_or(1.0);
                model.wire_node(name, Mean { border: input_border, scale, flip }, &[outlets[layer.input]])?
            }
            Kind::Sum { doubled } => {
                ensure!(layers[*doubled].output.is_none(), "an output is used inside as well");
                let float = layers[layer.input].scale.is_none() && layers[*doubled].scale.is_none();
                ensure!(float, "bytes are added in layer {ix}");
                let sum = Sum { borders: [input_border, borders[*doubled]], result_border: border };
                model.wire_node(name, sum, &[outlets[layer.input], outlets[*doubled]])?
            }
            Kind::Convolution(convolution) => {
                ensure!(!convolution.sigmoid || layer.output.is_some(), "{}: a sigmoid inside", convolution.name);
                let mut inputs = tvec![outlets[layer.input]];
                if let Some(Added { layer: residual, .. }) = convolution.residual {
                    ensure!(layers[residual].output.is_none(), "an output is used inside as well");
                    ensure!(residual < ix, "{}: what is added comes later", convolution.name);
                    ensure!(!is_widened(&layers[residual]), "{}: a picture's bytes are added", convolution.name);
                    ensure!(
                        layers[residual].scale.is_some() == layers[layer.input].scale.is_some(),
                        "{}: bytes are added to numbers",
                        convolution.name
                    );
                    inputs.push(outlets[residual]);
                }
                let fact = model.outlet_fact(inputs[0])?.clone();
                let layout = match (&layer.output, layer.scale, &convolution.weight) {
                    (Some(GraphOutput { listed: true, .. }), ..) => Layout::Listed,
                    (Some(_), _, Weight::Dense(_)) => Layout::Flat,
                    (Some(_), ..) => Layout::Planes,
                    (None, Some(_), _) => Layout::Bytes(border),
                    (None, None, _) => Layout::Float(border),
                };
                let parts = Parts { convolution, layer, layers, borders: &borders, layout, fact: &fact };
                if layers[layer.input].scale.is_some() {
                    model.wire_node(name, parts.integer()?, &inputs)?
                } else {
                    let operator = parts.float()?;
                    // Only integers' bytes are told from 128 where the processor wants them so.
                    ensure!(flip == 0 || !matches!(layout, Layout::Bytes(_)), "{}: bytes of numbers", convolution.name);
                    let alone = inputs.len() == 1 && matches!(layout, Layout::Float(_) | Layout::Listed);
                    let before = chains[layer.input].take().filter(|_| alone);
                    let (input, mut convolutions) = before.unwrap_or_else(|| (inputs[0], Vec::new()));
                    convolutions.push(operator.clone());
                    if alone && uses[ix] == 1 && convolutions.len() < LONGEST {
                        chain = Some((input, convolutions.clone()));
                    }
                    // The shorter chain, which nobody asks for any more, is not run.
                    match convolutions.len() {
                        1 => model.wire_node(name, operator, &inputs)?,
                        _ => model.wire_node(name, Chain { convolutions }, &[input])?,
                    }
                }
            }
        };
        // Beyond what can be known, shapes are checked when the operators run.
        let known = model.outlet_fact(outlet[0])?.shape.iter().filter_map(|side| side.to_i64().ok());
        ensure!(known.min() > Some(0), "of the picture nothing is left in layer {ix}");
        outlets.push(outlet[0]);
        chains.push(chain);
    }
    let of = |name: &&'static str| {
        let ix = layers.iter().position(|layer| layer.output.as_ref().is_some_and(|output| output.name == *name));
        ix.map(|ix| outlets[ix]).ok_or_else(|| TractError::msg(format!("no output {name}")))
    };
    let outlets = outputs.iter().map(of).collect::<TractResult<Vec<_>>>()?;
    model.select_output_outlets(&outlets)?;
    Ok(model)
}

/// How often other layers take each.
fn uses(layers: &[Layer]) -> Vec<usize> {
    let mut uses = vec![0; layers.len()];
    for layer in layers.iter().skip(1) {
        uses[layer.input] += 1;
        match &layer.kind {
            Kind::Convolution(convolution) => convolution.residual.iter().for_each(|added| uses[added.layer] += 1),
            Kind::Sum { doubled } => uses[*doubled] += 1,
            Kind::Enter { .. } | Kind::MaxPool { .. } | Kind::Mean => {}
        }
    }
    uses
}

/// A picture's bytes have a channel of zeros that the graph does not know, and that only convolutions leave out.
fn is_widened(layer: &Layer) -> bool {
    matches!(layer.kind, Kind::Enter { .. }) && layer.scale.is_some()
}

/// All that a convolution's operator is made from.
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
        let convolution = self.convolution;
        let channels = self.fact.shape[3].to_usize()?;
        match &convolution.weight {
            Weight::Integer(..) => bail!("{}: its weights are integers, its input is not", convolution.name),
            Weight::Float(tensor) => {
                let weights = tensor.try_as_plain_ram()?.as_slice::<f32>()?;
                let &[_, inputs, rows, columns] = tensor.shape() else { bail!("not four axes") };
                ensure!(inputs == channels, "{}: {channels} channels come in, not {inputs}", convolution.name);
                let weight = |output: usize, row: usize, at: usize| {
                    weights[((output * inputs + at % channels) * rows + row) * columns + at / channels]
                };
                self.assemble([rows, columns], |_| 1.0, |of| Weights::pack(rows, columns * channels, of, weight))
            }
            Weight::Depthwise(tensor) => {
                let weights = tensor.try_as_plain_ram()?.as_slice::<f32>()?;
                let &[outputs, _, rows, columns] = tensor.shape() else { bail!("not four axes") };
                ensure!(outputs == channels, "{}: {channels} channels come in, not {outputs}", convolution.name);
                let weight =
                    |channel: usize, row: usize, column: usize| weights[(channel * rows + row) * columns + column];
                self.assemble([rows, columns], |_| 1.0, |of| Weights::pack_depthwise(rows, columns, of, weight))
            }
            Weight::Dense(tensor) => {
                let weights = tensor.try_as_plain_ram()?.as_slice::<f32>()?;
                let [rows, columns] = [self.fact.shape[1].to_usize()?, self.fact.shape[2].to_usize()?];
                let border = 2 * self.borders[self.layer.input];
                ensure!(rows > border && columns > border, "{}: nothing inside the border", convolution.name);
                let (rows, columns) = (rows - border, columns - border);
                let (length, outputs) = (tensor.shape()[0], tensor.shape()[1]);
                ensure!(
                    length == rows * columns * channels,
                    "{}: {length} inputs for {rows}×{columns}×{channels}",
                    convolution.name
                );
                // The graph flattens by channel, row and column.
                let weight = |output: usize, row: usize, at: usize| {
                    weights[((at % channels * rows + row) * columns + at / channels) * outputs + output]
                };
                self.assemble([rows, columns], |_| 1.0, |of| Weights::pack(rows, columns * channels, of, weight))
            }
        }
    }

    fn integer(&self) -> TractResult<Convolution<Integer>> {
        let convolution = self.convolution;
        let Weight::Integer(tensor, scales) = &convolution.weight else {
            bail!("{}: its input is quantised, its weights are not", convolution.name)
        };
        let stored = self.fact.shape[3].to_usize()?;
        let weights = tensor.try_as_plain_ram()?.as_slice::<i8>()?;
        let &[_, inputs, rows, columns] = tensor.shape() else { bail!("not four axes") };
        let channels = if is_widened(&self.layers[self.layer.input]) { 3 } else { stored };
        ensure!(inputs == channels, "{}: {channels} channels come in, not {inputs}", convolution.name);
        ensure!(
            (columns * stored).is_multiple_of(Integer::GROUP),
            "{}: {stored} channels do not fill groups",
            convolution.name
        );
        // 255 times 128 so often, as the sums may be on their way, stays below 2³¹.
        ensure!(rows * columns * stored <= 65_000, "{}: its sums could overflow", convolution.name);
        let input = self.layers[self.layer.input].scale.unwrap_or(1.0);
        let weight = |output: usize, row: usize, at: usize| {
            let (column, channel) = (at / stored, at % stored);
            if channel < inputs { weights[((output * inputs + channel) * rows + row) * columns + column] } else { 0 }
        };
        let scale = |output: usize| input * scales.get(output).or_else(|| scales.first()).copied().unwrap_or(1.0);
        self.assemble([rows, columns], scale, |of| Weights::pack(rows, columns * stored, of, weight))
    }

    fn assemble<A: Arithmetic>(
        &self,
        kernel: [usize; 2],
        scale: impl Fn(usize) -> f32,
        pack: impl FnOnce(&[Channel]) -> Weights<A>,
    ) -> TractResult<Convolution<A>> {
        let convolution = self.convolution;
        let unit = self.layer.scale.unwrap_or(1.0);
        let slope = |channel: usize| convolution.slopes.as_ref().map_or(1.0, |slopes| slopes[channel]);
        ensure!(
            self.layer.scale.is_none() || convolution.slopes.is_some(),
            "{}: bytes without a ReLU",
            convolution.name
        );
        let channel = |(channel, bias): (usize, &f32)| Channel {
            scale: scale(channel) / unit,
            bias: bias / unit,
            slope: slope(channel),
        };
        let channels: Vec<_> = convolution.bias.iter().enumerate().map(channel).collect();
        let residual = convolution.residual.map(|Added { layer, pooled, zeros }| ResidualLayer {
            border: self.borders[layer],
            scale: self.layers[layer].scale.unwrap_or(1.0) / unit,
            pooled,
            zeros,
        });
        Ok(Convolution {
            weights: Arc::new(pack(&channels)),
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
