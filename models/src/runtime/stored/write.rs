//! Writes the graph of one precision from the weights that `stored` has read.

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
};
use tract_onnx::tract_core::internal::f16;

use super::{Convolution, Fit, OUTPUT, Product, Recogniser, require};

/// ONNX versions of the graphs.
const OPSET: i64 = 13;
const IR_VERSION: i64 = 8;

/// Largest 8-bit weight; -128 is left out for processors with 16-bit sums.
const LARGEST: f32 = 127.0;
/// Factor that the stored network applies to pixels.
const PIXEL: f32 = 1.0 / 128.0;
/// Zero point of the input bytes, which are the picture's pixels. Padding has this value too.
const PIXEL_ZERO: u8 = 128;
/// Offset between `PIXEL_ZERO` and the mean of the pixels.
const PIXEL_SHIFT: f32 = 0.5;

/// A graph while it is written.
#[derive(Default)]
pub(super) struct Writing {
    graph: GraphProto,
}

impl Writing {
    /// Writes convolutions in float32 or float16. The matrix product has long sums and is always
    /// float32.
    pub(super) fn floats(&mut self, recogniser: &Recogniser, kind: DataType) {
        let mut x = "input".to_owned();
        if kind == DataType::Float16 {
            x = self.add("Cast", &[&x], vec![int("to", kind as i64)]);
        }
        for Convolution {
            weight,
            shape,
            bias,
            slopes,
            attributes,
            ..
        } in &recogniser.convolutions
        {
            let channels = bias.len() as i64;
            let weight = self.constant(shape, kind, weight);
            let bias = self.constant(&[channels], kind, bias);
            let slopes = self.constant(&[channels, 1, 1], kind, slopes);
            x = self.add("Conv", &[&x, &weight, &bias], attributes.clone());
            x = self.add("PRelu", &[&x, &slopes], Vec::new());
        }
        if kind == DataType::Float16 {
            x = self.add("Cast", &[&x], vec![int("to", DataType::Float as i64)]);
        }
        x = self.add("Flatten", &[&x], vec![int("axis", 1)]);
        let Product {
            weight,
            inputs,
            bias,
        } = &recogniser.product;
        let outputs = bias.len() as i64;
        let weight = self.constant(&[outputs, *inputs as i64], DataType::Float, weight);
        let bias = self.constant(&[outputs], DataType::Float, bias);
        self.node(
            "Gemm",
            &[&x, &weight, &bias],
            OUTPUT,
            vec![int("transB", 1)],
        );
    }

    /// Writes pairs of QuantizeLinear and DequantizeLinear between the layers, and weights with a
    /// scale for each row.
    pub(super) fn bytes(&mut self, recogniser: &Recogniser) -> Result<(), String> {
        let [factor, shift] =
            [1.0 / PIXEL, -PIXEL_SHIFT].map(|value| self.constant(&[], DataType::Float, &[value]));
        let mut x = self.add("Mul", &["input", &factor], Vec::new());
        x = self.add("Add", &[&x, &shift], Vec::new());
        x = self.pair(&x, 1.0, PIXEL_ZERO);
        let mut before: Option<&Fit> = None;
        for Convolution {
            weight,
            shape,
            bias,
            slopes,
            attributes,
            fit,
        } in &recogniser.convolutions
        {
            let fit = fit.as_ref().ok_or("it has no ranges for int8")?;
            let row = weight.len() / bias.len();
            let each = row / shape.get(1).map_or(1, |inputs| *inputs as usize).max(1);
            let depthwise = attributes
                .iter()
                .any(|attribute| attribute.name == "group" && attribute.i != 1);
            let came_with = |channel: usize, at: usize| match before {
                None => 1.0 / PIXEL,
                Some(before) if depthwise => before.factors[channel],
                Some(before) => before.factors[at / each],
            };
            let fits = before.is_none_or(|before| {
                before.factors.len() == if depthwise { bias.len() } else { row / each }
            });
            require(fits, "its channels are not those of the layer before")?;
            let scaled = weight.iter().enumerate();
            let scaled = scaled
                .map(|(ix, weight)| weight * fit.factors[ix / row] / came_with(ix / row, ix % row));
            let (weights, sums) = self.rows(shape, &scaled.collect::<Vec<_>>());
            let bias = bias.iter().enumerate().map(|(channel, bias)| {
                // The first layer's pixels and padding are relative to another zero.
                let shift = if before.is_none() {
                    PIXEL_SHIFT * sums[channel]
                } else {
                    0.0
                };
                bias * fit.factors[channel] + shift
            });
            let channels = slopes.len() as i64;
            let bias = self.constant(&[channels], DataType::Float, &bias.collect::<Vec<_>>());
            let slopes = self.constant(&[channels, 1, 1], DataType::Float, slopes);
            x = self.add("Conv", &[&x, &weights, &bias], attributes.clone());
            x = self.add("PRelu", &[&x, &slopes], Vec::new());
            x = self.pair(&x, fit.scale, fit.zero);
            before = Some(fit);
        }
        let Product {
            weight,
            inputs,
            bias,
        } = &recogniser.product;
        let factors = before.map_or(&[1.0][..], |before| &before.factors);
        let each = inputs / factors.len();
        let scaled = weight
            .iter()
            .enumerate()
            .map(|(ix, weight)| weight / factors[ix % inputs / each]);
        x = self.add("Flatten", &[&x], vec![int("axis", 1)]);
        let outputs = bias.len() as i64;
        let (weights, _) = self.rows(&[outputs, *inputs as i64], &scaled.collect::<Vec<_>>());
        let bias = self.constant(&[outputs], DataType::Float, bias);
        self.node(
            "Gemm",
            &[&x, &weights, &bias],
            OUTPUT,
            vec![int("transB", 1)],
        );
        Ok(())
    }

    /// Adds weights as signed bytes with a scale for each row. Returns their name and the sum of
    /// each row.
    fn rows(&mut self, shape: &[i64], weights: &[f32]) -> (String, Vec<f32>) {
        let rows = shape[0] as usize;
        let (mut bytes, mut scales, mut sums) =
            (Vec::with_capacity(weights.len()), Vec::new(), Vec::new());
        for row in weights.chunks_exact(weights.len() / rows) {
            let largest = row
                .iter()
                .fold(0.0_f32, |most, weight| most.max(weight.abs()));
            let scale = (largest / LARGEST).max(f32::MIN_POSITIVE);
            let first = bytes.len();
            bytes.extend(
                row.iter()
                    .map(|weight| (weight / scale).round().clamp(-LARGEST, LARGEST) as i8),
            );
            sums.push(
                scale
                    * bytes[first..]
                        .iter()
                        .map(|byte| f32::from(*byte))
                        .sum::<f32>(),
            );
            scales.push(scale);
        }
        let bytes = bytes.into_iter().map(i8::cast_unsigned).collect();
        let bytes = self.tensor(shape, DataType::Int8, bytes);
        let scales = self.constant(&[rows as i64], DataType::Float, &scales);
        let zeros = self.tensor(&[rows as i64], DataType::Int8, vec![0; rows]);
        (
            self.add(
                "DequantizeLinear",
                &[&bytes, &scales, &zeros],
                vec![int("axis", 0)],
            ),
            sums,
        )
    }

    fn pair(&mut self, x: &str, scale: f32, zero: u8) -> String {
        let scale = self.constant(&[], DataType::Float, &[scale]);
        let zero = self.tensor(&[], DataType::Uint8, vec![zero]);
        let quantised = self.add("QuantizeLinear", &[x, &scale, &zero], Vec::new());
        self.add("DequantizeLinear", &[&quantised, &scale, &zero], Vec::new())
    }

    /// Adds a constant of these values in a floating-point type.
    fn constant(&mut self, shape: &[i64], kind: DataType, values: &[f32]) -> String {
        let raw_data = match kind {
            DataType::Float16 => values
                .iter()
                .flat_map(|value| f16::from_f32(*value).to_le_bytes())
                .collect(),
            _ => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        };
        self.tensor(shape, kind, raw_data)
    }

    fn tensor(&mut self, shape: &[i64], kind: DataType, raw_data: Vec<u8>) -> String {
        let name = format!("constant{}", self.graph.initializer.len());
        let tensor = TensorProto {
            name: name.clone(),
            dims: shape.to_vec(),
            data_type: kind as i32,
            raw_data,
            ..TensorProto::default()
        };
        self.graph.initializer.push(tensor);
        name
    }

    /// Adds a node and returns the name of its output.
    fn add(&mut self, operator: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        let name = format!("{}{}", operator.to_lowercase(), self.graph.node.len());
        self.node(operator, inputs, &name, attributes);
        name
    }

    fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) {
        self.graph.node.push(NodeProto {
            name: output.to_owned(),
            op_type: operator.to_owned(),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..NodeProto::default()
        });
    }

    /// Returns the model, with the inputs and outputs of the stored graph.
    pub(super) fn model(self, stored: &GraphProto) -> ModelProto {
        let (input, output) = (stored.input.clone(), stored.output.clone());
        let opset = OperatorSetIdProto {
            version: OPSET,
            ..OperatorSetIdProto::default()
        };
        ModelProto {
            ir_version: IR_VERSION,
            opset_import: vec![opset],
            graph: Some(GraphProto {
                input,
                output,
                ..self.graph
            }),
            ..ModelProto::default()
        }
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: AttributeType::Int as i32,
        i: value,
        ..AttributeProto::default()
    }
}
