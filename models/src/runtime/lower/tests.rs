//! Compares our operators with tract's on graphs they accept, and checks the errors for graphs they
//! refuse.

use std::slice::from_ref;

use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::type_proto::{Tensor as TensorType, Value as TypeValue};
use tract_onnx::pb::{
    AttributeProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto,
};

use super::super::{Network, Outputs, Plan};
use super::*;
use crate::detect::yunet;
use crate::pixels::Colour;
use crate::{Device, VisionError};

/// A reproducible stream of numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below.max(1)
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| self.next(2001) as f32 / 1000.0 - 1.0)
            .collect()
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        r#type: kind as i32,
        ..AttributeProto::default()
    }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto {
        i,
        ..attribute(name, AttributeType::Int)
    }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: ints.to_vec(),
        ..attribute(name, AttributeType::Ints)
    }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto {
        f,
        ..attribute(name, AttributeType::Float)
    }
}

fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        s: s.into(),
        ..attribute(name, AttributeType::String)
    }
}

fn tensor(name: &str, kind: DataType, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: kind as i32,
        dims: dims.to_vec(),
        ..TensorProto::default()
    }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        float_data: values.to_vec(),
        ..tensor(name, DataType::Float, dims)
    }
}

/// A tensor of any integer type but 64-bit ones.
fn wholes(name: &str, kind: DataType, dims: &[i64], values: &[i32]) -> TensorProto {
    TensorProto {
        int32_data: values.to_vec(),
        ..tensor(name, kind, dims)
    }
}

fn longs(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        int64_data: values.to_vec(),
        ..tensor(name, DataType::Int64, &[values.len() as i64])
    }
}

fn node(op: &str, inputs: &[&str], output: &str, attribute: &[AttributeProto]) -> NodeProto {
    NodeProto {
        op_type: op.to_owned(),
        input: inputs.iter().map(|input| (*input).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute: attribute.to_vec(),
        ..NodeProto::default()
    }
}

fn named(name: &str) -> ValueInfoProto {
    ValueInfoProto {
        name: name.to_owned(),
        ..ValueInfoProto::default()
    }
}

/// A graph with the input `x`.
fn graph(nodes: Vec<NodeProto>, constants: Vec<TensorProto>, outputs: &[&str]) -> GraphProto {
    let kind = TensorType {
        elem_type: DataType::Float as i32,
        shape: None,
    };
    let kind = TypeProto {
        value: Some(TypeValue::TensorType(kind)),
        ..TypeProto::default()
    };
    GraphProto {
        node: nodes,
        initializer: constants,
        input: vec![ValueInfoProto {
            r#type: Some(kind),
            ..named("x")
        }],
        output: outputs.iter().map(|output| named(output)).collect(),
        ..GraphProto::default()
    }
}

trait Damage {
    fn of(&mut self, output: &str) -> &mut NodeProto;
    fn constant(&mut self, name: &str) -> &mut TensorProto;
    fn add(&mut self, constant: TensorProto) -> &mut Self;
    fn with(&mut self, output: &str, attribute: AttributeProto) -> &mut Self;
}

impl Damage for GraphProto {
    fn of(&mut self, output: &str) -> &mut NodeProto {
        self.node
            .iter_mut()
            .find(|node| node.output[0] == output)
            .unwrap()
    }

    fn constant(&mut self, name: &str) -> &mut TensorProto {
        self.initializer
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap()
    }

    /// Adds a constant, replacing one of the same name.
    fn add(&mut self, constant: TensorProto) -> &mut Self {
        self.initializer
            .retain(|tensor| tensor.name != constant.name);
        self.initializer.push(constant);
        self
    }

    fn with(&mut self, output: &str, attribute: AttributeProto) -> &mut Self {
        let node = self.of(output);
        node.attribute.retain(|other| other.name != attribute.name);
        node.attribute.push(attribute);
        self
    }
}

/// Everything a float network may have, for pictures of 16 by 16.
fn plain() -> GraphProto {
    let mut numbers = Numbers(1);
    let mut random = |name: &str, dims: &[i64]| {
        floats(
            name,
            dims,
            &numbers.floats(dims.iter().product::<i64>() as usize),
        )
    };
    let constants = vec![
        floats("factor", &[3, 1, 1], &[0.5, 1.0, 2.0]),
        floats("shift", &[1], &[0.25]),
        random("aw", &[4, 3, 3, 3]),
        random("ab", &[4]),
        floats("as", &[4, 1, 1], &[0.25, -0.5, 0.0, 1.5]),
        random("bw", &[4, 4, 3, 3]),
        random("cw", &[6, 4, 3, 3]),
        longs("behind c", &[0, 0, 0, 0, 0, 0, 1, 1]),
        longs("behind v", &[0, 0, 0, 0, 0, 2, 0, 0]),
        random("dw", &[5, 6, 2, 2]),
        floats("ds", &[1, 5, 1, 1], &[0.25, 0.5, 0.0, 1.5, 1.0]),
        random("mw", &[2, 5, 1, 1]),
        random("fw", &[6, 5]),
        random("fs", &[5]),
        random("rw", &[3, 5]),
        random("rb", &[3]),
    ];
    let (two, three) = (ints("strides", &[2, 2]), ints("kernel_shape", &[3, 3]));
    let padded = ints("pads", &[1, 1, 1, 1]);
    let nodes = vec![
        node("Mul", &["x", "factor"], "mul", &[]),
        node("Add", &["mul", "shift"], "add", &[]),
        node(
            "Conv",
            &["add", "aw", "ab"],
            "a",
            &[three.clone(), padded.clone()],
        ),
        node("PRelu", &["a", "as"], "ar", &[]),
        node(
            "MaxPool",
            &["ar"],
            "p",
            &[three, two.clone(), ints("pads", &[0, 0, 1, 1])],
        ),
        node("Conv", &["p", "bw"], "b", &[padded]),
        node("Add", &["b", "p"], "s", &[]),
        node("Relu", &["s"], "sr", &[]),
        node("Conv", &["sr", "cw"], "c", from_ref(&two)),
        node(
            "AveragePool",
            &["sr"],
            "v",
            &[ints("kernel_shape", &[2, 2]), two.clone()],
        ),
        node("Pad", &["c", "behind c"], "cp", &[text("mode", "constant")]),
        node("Pad", &["v", "behind v"], "vp", &[]),
        node("Add", &["vp", "cp"], "t", &[]),
        node("Relu", &["t"], "tr", &[]),
        node("Conv", &["tr", "dw"], "d", &[]),
        node(
            "MaxPool",
            &["d"],
            "dp",
            &[
                ints("kernel_shape", &[2, 2]),
                two,
                ints("pads", &[0, 0, 1, 1]),
            ],
        ),
        node("PRelu", &["dp", "ds"], "dr", &[]),
        node("Conv", &["dr", "mw"], "m", &[]),
        node("Sigmoid", &["m"], "map", &[]),
        node("GlobalAveragePool", &["tr"], "g", &[]),
        node("Flatten", &["g"], "f", &[int("axis", 1)]),
        node("MatMul", &["f", "fw"], "fm", &[]),
        node("PRelu", &["fm", "fs"], "fr", &[]),
        node(
            "Gemm",
            &["fr", "rw", "rb"],
            "row",
            &[float("alpha", 1.0), int("transB", 1)],
        ),
    ];
    graph(nodes, constants, &["map", "row"])
}

/// Everything a quantised network may have, for pictures of 16 by 16.
fn quantised() -> GraphProto {
    let mut numbers = Numbers(2);
    let mut bytes = |name: &str, dims: &[i64]| {
        let values: Vec<i32> = (0..dims.iter().product())
            .map(|_| numbers.next(255) as i32 - 127)
            .collect();
        wholes(name, DataType::Int8, dims, &values)
    };
    let constants = vec![
        floats("factor", &[1], &[1.0 / 256.0]),
        floats("xs", &[], &[1.0 / 255.0]),
        floats("as", &[], &[1.0 / 64.0]),
        floats("bs", &[], &[1.0 / 128.0]),
        floats("ss", &[], &[1.0 / 64.0]),
        wholes("zero", DataType::Uint8, &[], &[0]),
        wholes("middle", DataType::Uint8, &[], &[128]),
        bytes("aw", &[4, 3, 3, 3]),
        floats(
            "aws",
            &[4],
            &[1.0 / 512.0, 1.0 / 300.0, 1.0 / 400.0, 1.0 / 900.0],
        ),
        wholes("awz", DataType::Int8, &[4], &[0; 4]),
        wholes("ab", DataType::Int32, &[4], &[100, -200, 300, 0]),
        floats("abs", &[4], &[1.0 / 512.0; 4]),
        bytes("bw", &[4, 4, 3, 3]),
        floats("bws", &[], &[1.0 / 512.0]),
        floats("fw", &[4, 3], &numbers.floats(12)),
    ];
    let padded = ints("pads", &[1, 1, 1, 1]);
    let (two, by_channel) = (ints("strides", &[2, 2]), int("axis", 0));
    let nodes = vec![
        node("Mul", &["x", "factor"], "mul", &[]),
        node("QuantizeLinear", &["mul", "xs", "zero"], "xq", &[]),
        node("DequantizeLinear", &["xq", "xs", "zero"], "xd", &[]),
        node(
            "DequantizeLinear",
            &["aw", "aws", "awz"],
            "awd",
            from_ref(&by_channel),
        ),
        node("DequantizeLinear", &["ab", "abs"], "abd", &[by_channel]),
        node("Conv", &["xd", "awd", "abd"], "a", from_ref(&padded)),
        node("Relu", &["a"], "ar", &[]),
        node("QuantizeLinear", &["ar", "as", "zero"], "aq", &[]),
        node("DequantizeLinear", &["aq", "as", "zero"], "ad", &[]),
        node(
            "MaxPool",
            &["ad"],
            "p",
            &[ints("kernel_shape", &[3, 3]), two],
        ),
        node("QuantizeLinear", &["p", "as", "zero"], "pq", &[]),
        node("DequantizeLinear", &["pq", "as", "zero"], "pd", &[]),
        node("DequantizeLinear", &["bw", "bws"], "bwd", &[]),
        node("Conv", &["pd", "bwd"], "b", &[padded]),
        node("QuantizeLinear", &["b", "bs", "middle"], "bq", &[]),
        node("DequantizeLinear", &["bq", "bs", "middle"], "bd", &[]),
        node("Add", &["bd", "pd"], "s", &[]),
        node("Relu", &["s"], "sr", &[]),
        node("QuantizeLinear", &["sr", "ss", "zero"], "sq", &[]),
        node("DequantizeLinear", &["sq", "ss", "zero"], "sd", &[]),
        node("GlobalAveragePool", &["sd"], "g", &[]),
        node("Flatten", &["g"], "f", &[]),
        node("MatMul", &["f", "fw"], "row", &[]),
    ];
    graph(nodes, constants, &["row"])
}

/// A small 8-bit network as made for single-board computers: depthwise kernels, negative slopes,
/// zero points; for pictures of 16 by 16.
fn mobile() -> GraphProto {
    let mut numbers = Numbers(11);
    let mut constants = vec![
        floats("factor", &[], &[128.0]),
        floats("shift", &[1, 3, 1, 1], &[-127.0, -128.0, -129.0]),
        floats("xs", &[], &[1.0]),
        wholes("xz", DataType::Uint8, &[], &[128]),
    ];
    let mut nodes = vec![
        node("Mul", &["x", "factor"], "mul", &[]),
        node("Add", &["mul", "shift"], "add", &[]),
        node("QuantizeLinear", &["add", "xs", "xz"], "xq", &[]),
        node("DequantizeLinear", &["xq", "xs", "xz"], "xd", &[]),
    ];
    let mut layer = |name: &str,
                     input: &str,
                     shape: &[i64],
                     attributes: &[AttributeProto],
                     bytes: (f32, i32)| {
        let of = |what: &str| format!("{name}{what}");
        let weights: Vec<_> = (0..shape.iter().product())
            .map(|_| numbers.next(255) as i32 - 127)
            .collect();
        let scales: Vec<_> = (0..shape[0])
            .map(|_| (1 + numbers.next(9)) as f32 / 8000.0)
            .collect();
        let slopes = [&[0.25, -0.5, 0.0, 1.5, 1.0][..], &[0.5, 0.0, 0.75], &[0.0]][numbers.next(3)];
        let slopes: Vec<_> = (0..shape[0])
            .map(|_| slopes[numbers.next(slopes.len())])
            .collect();
        constants.extend([
            wholes(&of("w"), DataType::Int8, shape, &weights),
            floats(&of("ws"), &[shape[0]], &scales),
            floats(&of("b"), &[shape[0]], &numbers.floats(shape[0] as usize)),
            floats(&of("p"), &[shape[0], 1, 1], &slopes),
            floats(&of("s"), &[], &[bytes.0]),
            wholes(&of("z"), DataType::Uint8, &[], &[bytes.1]),
        ]);
        let (scale, zero) = (of("s"), of("z"));
        nodes.extend([
            node(
                "DequantizeLinear",
                &[&of("w"), &of("ws")],
                &of("wd"),
                &[int("axis", 0)],
            ),
            node("Conv", &[input, &of("wd"), &of("b")], &of(""), attributes),
            node("PRelu", &[&of(""), &of("p")], &of("r"), &[]),
            node("QuantizeLinear", &[&of("r"), &scale, &zero], &of("q"), &[]),
            node(
                "DequantizeLinear",
                &[&of("q"), &scale, &zero],
                &of("d"),
                &[],
            ),
        ]);
    };
    let (padded, two) = (ints("pads", &[1, 1, 1, 1]), ints("strides", &[2, 2]));
    layer("a", "xd", &[20, 3, 3, 3], from_ref(&padded), (0.5, 90));
    layer(
        "b",
        "ad",
        &[20, 1, 3, 3],
        &[padded.clone(), two, int("group", 20)],
        (0.25, 60),
    );
    layer("c", "bd", &[36, 20, 1, 1], &[], (0.125, 131));
    layer(
        "d",
        "cd",
        &[36, 1, 3, 3],
        &[padded, int("group", 36)],
        (0.125, 1),
    );
    let (side, three) = (ints("kernel_shape", &[3, 3]), ints("strides", &[2, 2]));
    let matrix: Vec<_> = (0..5 * 36 * 9)
        .map(|_| numbers.next(255) as i32 - 127)
        .collect();
    constants.extend([
        wholes("rw", DataType::Int8, &[5, 324], &matrix),
        floats("rws", &[5], &[0.01, 0.02, 0.005, 0.01, 0.03]),
        wholes("rwz", DataType::Int8, &[5], &[0; 5]),
        wholes("rb", DataType::Int32, &[5], &[1000, -1000, 5, 0, 99]),
        floats("rbs", &[5], &[0.001; 5]),
        floats("mw", &[3, 36], &numbers.floats(3 * 36)),
    ]);
    nodes.extend([
        node("MaxPool", &["dd"], "p", &[side, three]),
        node("QuantizeLinear", &["p", "ds", "dz"], "pq", &[]),
        node("DequantizeLinear", &["pq", "ds", "dz"], "pd", &[]),
        node("Flatten", &["pd"], "f", &[]),
        node(
            "DequantizeLinear",
            &["rw", "rws", "rwz"],
            "rwd",
            &[int("axis", 0)],
        ),
        node("DequantizeLinear", &["rb", "rbs"], "rbd", &[int("axis", 0)]),
        node("Gemm", &["f", "rwd", "rbd"], "row", &[int("transB", 1)]),
        node("GlobalAveragePool", &["dd"], "g", &[]),
        node("Flatten", &["g"], "gf", &[]),
        node("Gemm", &["gf", "mw"], "means", &[int("transB", 1)]),
    ]);
    graph(nodes, constants, &MOBILE)
}

const MOBILE: [&str; 2] = ["row", "means"];

/// Elements of multi-scale detectors, for pictures of 16 by 16.
fn pyramid() -> GraphProto {
    let mut numbers = Numbers(5);
    let mut random = |name: &str, dims: &[i64]| {
        floats(
            name,
            dims,
            &numbers.floats(dims.iter().product::<i64>() as usize),
        )
    };
    let constants = vec![
        random("aw", &[20, 3, 3, 3]),
        random("bw", &[20, 1, 3, 3]),
        random("bb", &[20]),
        floats("bs", &[20, 1, 1], &[0.25; 20]),
        random("cw", &[20, 1, 3, 3]),
        random("dw", &[20, 1, 2, 2]),
        floats("region", &[0], &[]),
        floats("twice", &[4], &[1.0, 1.0, 2.0, 2.0]),
        random("ew", &[5, 20, 1, 1]),
        random("fw", &[5, 1, 3, 3]),
        random("fb", &[5]),
        random("gw", &[1, 20, 1, 1]),
        random("hw", &[1, 1, 3, 3]),
        longs("five", &[1, -1, 5]),
        longs("one", &[1, -1, 1]),
    ];
    let (padded, two) = (ints("pads", &[1, 1, 1, 1]), ints("strides", &[2, 2]));
    let (each, few) = (int("group", 20), int("group", 5));
    let nearest = [
        text("mode", "nearest"),
        text("coordinate_transformation_mode", "asymmetric"),
        text("nearest_mode", "floor"),
        float("cubic_coeff_a", -0.75),
    ];
    let last = ints("perm", &[0, 2, 3, 1]);
    let nodes = vec![
        node("Conv", &["x", "aw"], "a", &[padded.clone(), two.clone()]),
        node("Relu", &["a"], "ar", &[]),
        node(
            "Conv",
            &["ar", "bw", "bb"],
            "b",
            &[padded.clone(), each.clone(), ints("kernel_shape", &[3, 3])],
        ),
        node("PRelu", &["b", "bs"], "br", &[]),
        node(
            "MaxPool",
            &["br"],
            "p",
            &[ints("kernel_shape", &[2, 2]), two.clone()],
        ),
        node("Conv", &["p", "cw"], "c", &[padded.clone(), each.clone()]),
        node(
            "MaxPool",
            &["c"],
            "cp",
            &[ints("kernel_shape", &[2, 2]), two.clone()],
        ),
        node("Conv", &["p", "dw"], "d", &[two, each]),
        node("Add", &["d", "cp"], "s", &[]),
        node("Relu", &["s"], "sr", &[]),
        node("Resize", &["sr", "region", "twice"], "u", &nearest),
        node("Add", &["p", "u"], "t", &[]),
        node("Resize", &["t", "", "twice"], "v", &nearest),
        node("Add", &["v", "br"], "w", &[]),
        node("Conv", &["w", "ew"], "e", &[]),
        node("Conv", &["e", "fw", "fb"], "f", &[padded.clone(), few]),
        node("Transpose", &["f"], "ft", from_ref(&last)),
        node("Reshape", &["ft", "five"], "boxes", &[]),
        node("Conv", &["w", "gw"], "g", &[]),
        node("Conv", &["g", "hw"], "h", &[padded]),
        node("Transpose", &["h"], "ht", &[last]),
        node("Reshape", &["ht", "one"], "hl", &[]),
        node("Sigmoid", &["hl"], "scores", &[]),
    ];
    graph(nodes, constants, &["boxes", "scores"])
}

const PYRAMID: [&str; 2] = ["boxes", "scores"];
const PLAIN: [&str; 2] = ["map", "row"];
const QUANTISED: [&str; 1] = ["row"];
const SHAPE: [usize; 4] = [2, 3, 16, 16];

fn network(graph: GraphProto, outputs: &[&'static str]) -> Network {
    let opset = OperatorSetIdProto {
        domain: String::new(),
        version: 13,
    };
    let graph = ModelProto {
        graph: Some(graph),
        opset_import: vec![opset],
        ir_version: 7,
        ..ModelProto::default()
    };
    Network {
        file: "made.onnx".to_owned(),
        graph,
        outputs: outputs.to_vec(),
    }
}

fn pixels() -> Pixels {
    Pixels::new([1.0, 2.0, 3.0], 1.0 / 128.0, Colour::Bgr)
}

fn run(plan: &Plan, shape: [usize; 4]) -> Result<Outputs, VisionError> {
    let picture: Vec<u8> = (0..shape.iter().product())
        .map(|ix: usize| (ix * 37 % 251) as u8)
        .collect();
    plan.run(shape, &picture)
}

/// Returns the largest difference as a share of the largest number, or an error if the outputs
/// differ in kind.
fn apart(ours: &Outputs, tracts: &Outputs, count: usize) -> Result<f32, String> {
    let mut most = 0.0_f32;
    for ix in 0..count {
        if ours.shape(ix) != tracts.shape(ix) {
            return Err(format!(
                "output {ix} is {:?}, in tract {:?}",
                ours.shape(ix),
                tracts.shape(ix)
            ));
        }
        let largest = tracts
            .get(ix)
            .iter()
            .fold(1e-3_f32, |most, value| most.max(value.abs()));
        for (ours, tracts) in ours.get(ix).iter().zip(tracts.get(ix)) {
            most = most.max((ours - tracts).abs() / largest);
        }
    }
    Ok(most)
}

fn compare(graph: GraphProto, outputs: &[&'static str], shape: [usize; 4], allowed: f32) {
    let network = network(graph, outputs);
    let ours = network.open_plan(shape.map(Some), &pixels()).unwrap();
    let tracts = network
        .plan_in_tract(shape, Device::Cpu, &pixels())
        .unwrap();
    let apart = apart(
        &run(&ours, shape).unwrap(),
        &run(&tracts, shape).unwrap(),
        outputs.len(),
    )
    .unwrap();
    assert!(apart <= allowed, "{apart}");
}

#[test]
fn what_our_operators_take_gives_tracts_numbers() {
    compare(plain(), &PLAIN, SHAPE, 1e-4);
    compare(pyramid(), &PYRAMID, SHAPE, 1e-4);
    // Our operators do not round sums in between as the graph does.
    compare(quantised(), &QUANTISED, SHAPE, 0.02);
    // A byte may round the other way if its value lies exactly between two.
    compare(mobile(), &MOBILE, SHAPE, 0.005);
    // Both ignore the declared type of the input and accept constants listed as inputs.
    let mut told = plain();
    let kind = TensorType {
        elem_type: DataType::Uint8 as i32,
        shape: Some(TensorShapeProto { dim: vec![] }),
    };
    told.input[0].r#type = Some(TypeProto {
        value: Some(TypeValue::TensorType(kind)),
        ..TypeProto::default()
    });
    told.input.push(named("aw"));
    compare(told, &PLAIN, SHAPE, 1e-4);
}

#[test]
fn chains_of_convolutions_give_tracts_numbers_at_every_size() {
    let mut numbers = Numbers(6);
    for _ in 0..40 {
        let (mut nodes, mut constants) = (Vec::new(), Vec::new());
        let (mut channels, mut input) = (3, "x".to_owned());
        for layer in 0..2 + numbers.next(5) {
            let depthwise = channels > 3 && numbers.next(2) == 0;
            let outputs = if depthwise {
                channels
            } else {
                [4, 17, 48][numbers.next(3)]
            };
            let inputs = if depthwise { 1 } else { channels };
            let kernel = 1 + numbers.next(3);
            let dims = [outputs, inputs, kernel, kernel].map(|side| side as i64);
            let (weight, result) = (format!("w{layer}"), format!("y{layer}"));
            constants.push(floats(
                &weight,
                &dims,
                &numbers.floats(outputs * inputs * kernel * kernel),
            ));
            let attributes = [
                int("group", if depthwise { channels as i64 } else { 1 }),
                ints("pads", &[numbers.next(kernel) as i64; 4]),
                ints("strides", &[1 + i64::from(numbers.next(5) == 0); 2]),
            ];
            nodes.push(node("Conv", &[&input, &weight], &result, &attributes));
            (channels, input) = (outputs, result);
            if numbers.next(2) == 0 {
                let result = format!("r{layer}");
                nodes.push(node("Relu", &[&input], &result, &[]));
                input = result;
            }
            if numbers.next(4) == 0 {
                let result = format!("p{layer}");
                let behind = numbers.next(2) as i64;
                let attributes = [
                    ints("kernel_shape", &[2, 2]),
                    ints("strides", &[2, 2]),
                    ints("pads", &[0, 0, behind, behind]),
                ];
                nodes.push(node("MaxPool", &[&input], &result, &attributes));
                input = result;
            }
        }
        constants.push(floats(
            "last",
            &[2, channels as i64, 1, 1],
            &numbers.floats(2 * channels),
        ));
        constants.push(longs("listed", &[1, -1, 2]));
        nodes.push(node("Conv", &[&input, "last"], "z", &[]));
        nodes.push(node(
            "Transpose",
            &["z"],
            "zt",
            &[ints("perm", &[0, 2, 3, 1])],
        ));
        nodes.push(node("Reshape", &["zt", "listed"], "y", &[]));
        let shape = [
            1 + numbers.next(2),
            3,
            64 + numbers.next(150),
            64 + numbers.next(250),
        ];
        compare(graph(nodes, constants, &["y"]), &["y"], shape, 1e-3);
    }
}

/// `count` convolutions in a row.
fn row_of_convolutions(count: usize) -> GraphProto {
    let mut nodes: Vec<_> = (0..count)
        .map(|at| {
            let input = if at == 0 {
                "x".to_owned()
            } else {
                format!("y{}", at - 1)
            };
            node("Conv", &[&input, "w"], &format!("y{at}"), &[])
        })
        .collect();
    nodes.push(node(
        "Conv",
        &[&format!("y{}", count - 1), "last"],
        "y",
        &[],
    ));
    // Means of the channels, so that numbers neither vanish nor grow.
    let weights = [0.8, 0.1, 0.1, 0.2, 0.7, 0.1, 0.1, 0.3, 0.6];
    graph(
        nodes,
        vec![
            floats("w", &[3, 3, 1, 1], &weights),
            floats("last", &[2, 3, 1, 1], &[0.5; 6]),
        ],
        &["y"],
    )
}

#[test]
fn very_long_chains_are_cut_and_take_neither_stack_nor_memory() {
    compare(row_of_convolutions(70), &["y"], SHAPE, 1e-3);
    let long = network(row_of_convolutions(3000), &["y"]);
    run(&long.open_plan(SHAPE.map(Some), &pixels()).unwrap(), SHAPE).unwrap();
}

#[test]
fn a_sum_with_neither_summand_in_a_corner_is_left_to_tract() {
    let mut numbers = Numbers(8);
    let mut random = |name: &str, dims: &[i64]| {
        floats(
            name,
            dims,
            &numbers.floats(dims.iter().product::<i64>() as usize),
        )
    };
    let constants = vec![
        random("pw", &[4, 3, 1, 1]),
        random("aw", &[4, 4, 3, 1]),
        random("bw", &[4, 4, 1, 3]),
        random("last", &[2, 4, 1, 1]),
        longs("below", &[0, 0, 0, 0, 0, 0, 2, 0]),
        longs("beside", &[0, 0, 0, 0, 0, 0, 0, 2]),
    ];
    let nodes = vec![
        node("Conv", &["x", "pw"], "p", &[]),
        node("Conv", &["p", "aw"], "a", &[]),
        node("Pad", &["a", "below"], "ap", &[]),
        node("Conv", &["p", "bw"], "b", &[]),
        node("Pad", &["b", "beside"], "bp", &[]),
        node("Add", &["bp", "ap"], "s", &[]),
        node("Relu", &["s"], "sr", &[]),
        node("Conv", &["sr", "last"], "y", &[]),
    ];
    let network = network(graph(nodes, constants, &["y"]), &["y"]);
    let refusal = network
        .open_plan(SHAPE.map(Some), &pixels())
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("a corner of the sum is covered by neither input"),
        "{refusal}"
    );
    run(&network.plan(SHAPE, Device::Cpu, &pixels()).unwrap(), SHAPE).unwrap();
}

/// A damage to a graph, the expected error, and whether tract accepts the graph (if that matters).
struct Refused {
    damage: fn(&mut GraphProto),
    reason: &'static str,
    valid: Option<bool>,
}

const fn valid(reason: &'static str, damage: fn(&mut GraphProto)) -> Refused {
    Refused {
        damage,
        reason,
        valid: Some(true),
    }
}

const fn broken(reason: &'static str, damage: fn(&mut GraphProto)) -> Refused {
    Refused {
        damage,
        reason,
        valid: Some(false),
    }
}

const fn odd(reason: &'static str, damage: fn(&mut GraphProto)) -> Refused {
    Refused {
        damage,
        reason,
        valid: None,
    }
}

fn refuse(whole: fn() -> GraphProto, outputs: &[&'static str], cases: &[Refused]) {
    let mut wrong = Vec::new();
    for Refused {
        damage,
        reason,
        valid,
    } in cases
    {
        let mut damaged = whole();
        damage(&mut damaged);
        assert!(damaged != whole(), "nothing is damaged for: {reason}");
        let network = network(damaged, outputs);
        match network.open_plan(SHAPE.map(Some), &pixels()) {
            Err(VisionError::Network { file, reason: said })
                if file == "made.onnx" && said.contains(reason) => {}
            Err(other) => wrong.push(format!("{other} instead of {reason}")),
            Ok(_) => wrong.push(format!("taken instead of {reason}")),
        }
        match (network.plan(SHAPE, Device::Cpu, &pixels()), valid) {
            (Ok(plan), Some(true)) => {
                assert!(!plan.own, "{reason}");
                run(&plan, SHAPE).unwrap();
            }
            (Ok(_), None) | (Err(VisionError::Network { .. }), Some(false) | None) => {}
            (Ok(_), Some(false)) => wrong.push(format!("{reason}: tract takes it")),
            (Err(other), _) => wrong.push(format!("{reason}: {other}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn foreign_operators_and_attributes_are_named_and_left_to_tract() {
    let cases = [
        valid("Tanh sr: Tanh is not supported by our operators", |g| {
            g.of("sr").op_type = "Tanh".into();
        }),
        valid("Relu sr: the domain elsewhere is not ONNX's", |g| {
            g.of("sr").domain = "elsewhere".into();
        }),
        valid("Conv m: its attribute colour is not understood", |g| {
            g.with("m", int("colour", 1));
        }),
        broken("Conv m: its attribute group is not understood", |g| {
            g.with("m", float("group", 1.0));
        }),
        broken("Relu sr: it has 2 inputs", |g| {
            g.of("sr").input.push("s".into());
        }),
        valid("Conv m: it is dilated", |g| {
            g.with("m", ints("dilations", &[2, 2]));
        }),
        valid("Conv b: its channels are grouped", |g| {
            g.with("b", int("group", 2))
                .add(floats("bw", &[4, 2, 3, 3], &[0.5; 72]));
        }),
        broken("Conv b: its channels are grouped", |g| {
            g.with("b", int("group", 0));
        }),
        valid("Conv m: it pads automatically", |g| {
            g.with("m", text("auto_pad", "SAME_UPPER"));
        }),
        valid("Conv m: its paddings are unequal or out of range", |g| {
            g.with("m", ints("pads", &[1, 1, 0, 0]));
        }),
        valid("Conv m: its paddings are unequal or out of range", |g| {
            g.with("m", ints("pads", &[1, 1, 1, 1]));
        }),
        broken("Conv m: its paddings are unequal or out of range", |g| {
            g.with("m", ints("pads", &[-1, -1, -1, -1]));
        }),
        broken("Conv m: its paddings are unequal or out of range", |g| {
            g.with("m", ints("pads", &[0, 0]));
        }),
        valid("Conv m: its strides are unequal or out of range", |g| {
            g.with("m", ints("strides", &[1, 2]));
        }),
        valid("Conv m: its strides are unequal or out of range", |g| {
            g.with("m", ints("strides", &[65, 65]));
        }),
        broken("Conv m: its strides are unequal or out of range", |g| {
            g.with("m", ints("strides", &[0, 0]));
        }),
        broken("Conv m: its strides are unequal or out of range", |g| {
            g.with("m", ints("strides", &[]));
        }),
        broken("Conv m: its kernel is not of its weights' shape", |g| {
            g.with("m", ints("kernel_shape", &[2, 1]));
        }),
        valid("MaxPool dp: its kernel is not square", |g| {
            g.with("dp", ints("kernel_shape", &[2, 1]))
                .with("dp", ints("pads", &[0; 4]));
        }),
        odd("MaxPool dp: its kernel is not square", |g| {
            g.with("dp", ints("kernel_shape", &[17, 17]));
        }),
        broken("MaxPool dp: its kernel is not square", |g| {
            g.of("dp").attribute.clear();
        }),
        valid("MaxPool dp: it pads at the beginning", |g| {
            g.with("dp", ints("pads", &[1, 1, 0, 0]));
        }),
        valid("MaxPool p: its paddings are unequal or out of range", |g| {
            g.with("p", ints("pads", &[0, 0, 3, 3]))
                .with("p", ints("kernel_shape", &[5, 5]));
            g.with("p", ints("pads", &[0, 0, 3, 4]));
        }),
        valid("MaxPool dp: its strides are not 2", |g| {
            g.with("dp", ints("strides", &[1, 1]));
        }),
        valid("MaxPool dp: it rounds up", |g| {
            g.with("dp", int("ceil_mode", 1));
        }),
        valid("MaxPool dp: it is dilated", |g| {
            g.with("dp", ints("dilations", &[2, 2]));
        }),
        valid("MaxPool dp: it pads automatically", |g| {
            g.with("dp", text("auto_pad", "SAME_UPPER"));
        }),
        valid("AveragePool v: it is not two by two", |g| {
            g.with("v", ints("kernel_shape", &[1, 1]));
        }),
        broken("AveragePool v: it is not two by two", |g| {
            g.with("v", ints("strides", &[1, 1]));
        }),
        broken("Pad cp: it pads elsewhere than at the end", |g| {
            g.add(longs("behind c", &[0, 0, 1, 1, 0, 0, 1, 1]));
        }),
        broken("Pad cp: it pads elsewhere than at the end", |g| {
            g.add(longs("behind c", &[0, 0, 0, 0, 0, 0, -1, 1]));
        }),
        broken("Pad cp: it pads elsewhere than at the end", |g| {
            g.add(longs("behind c", &[0, 0, 0, 0, 0, 0, 1]));
        }),
        valid("Pad cp: it does not pad with a number", |g| {
            g.with("cp", text("mode", "edge"));
        }),
        valid("Pad cp: it pads with another number than 0", |g| {
            g.add(floats("one", &[], &[1.0]))
                .of("cp")
                .input
                .push("one".into());
        }),
        broken("Pad cp: its sizes are not one list", |g| {
            g.constant("behind c").dims = vec![8, 1];
        }),
        broken("Pad cp: its sizes are not constant", |g| {
            g.of("cp").input[1] = "sr".into();
        }),
        broken("Pad vp: its input is not a layer", |g| {
            g.of("vp").input[0] = "cp".into();
        }),
        broken("Flatten f: its axis is not 1", |g| {
            g.with("f", int("axis", 2));
        }),
        broken("Flatten f: its input is not a layer", |g| {
            g.of("f").input[0] = "fs".into();
        }),
        odd("Gemm row: its input is transposed", |g| {
            g.with("row", int("transA", 1));
        }),
        valid("Gemm row: it has factors", |g| {
            g.with("row", float("alpha", 2.0));
        }),
        valid("Gemm row: it has factors", |g| {
            g.with("row", float("beta", 0.5));
        }),
    ];
    refuse(plain, &PLAIN, &cases);
}

#[test]
fn constants_that_do_not_fit_are_named() {
    let cases = [
        broken("Conv a: aw is not known", |g| {
            g.initializer.retain(|tensor| tensor.name != "aw");
        }),
        broken("aw: Raw tensor data length", |g| {
            g.constant("aw").raw_data = vec![0; 5];
        }),
        broken("aw: ", |g| g.constant("aw").float_data.truncate(7)),
        broken("aw: Negative dimension", |g| g.constant("aw").dims[0] = -4),
        broken(
            "aw: tensor shape [4611686018427387905, 4, 3, 3] overflows",
            |g| {
                let tensor = g.constant("aw");
                (tensor.dims, tensor.raw_data) = (vec![(1 << 62) + 1, 4, 3, 3], vec![0; 144]);
            },
        ),
        broken("aw: unknown ONNX TensorProto.DataType (99)", |g| {
            g.constant("aw").data_type = 99;
        }),
        broken("aw: it contains strings", |g| {
            let tensor = g.constant("aw");
            (tensor.data_type, tensor.raw_data) = (DataType::String as i32, vec![0; 432]);
        }),
        broken(
            "Conv a: its weights are neither float32 nor signed bytes with a scale",
            |g| {
                let tensor = g.constant("aw");
                (tensor.data_type, tensor.double_data) = (DataType::Double as i32, vec![0.5; 108]);
            },
        ),
        broken("Conv a: its kernel does not have two axes", |g| {
            g.constant("aw").dims = vec![4, 3, 9];
        }),
        broken("Conv a: its kernel is empty", |g| {
            g.add(floats("aw", &[4, 3, 0, 3], &[]));
        }),
        broken("Conv a: its weights are not constant", |g| {
            g.of("a").input[1] = "add".into();
        }),
        broken(
            "Conv a: its bias does not have one number for each output",
            |g| {
                g.add(floats("ab", &[3], &[0.0; 3]));
            },
        ),
        broken(
            "Conv a: its bias does not have one number for each output",
            |g| g.constant("ab").dims = vec![2, 2],
        ),
        broken(
            "Conv a: its bias does not have one number for each output",
            |g| g.of("a").input[2] = "add".into(),
        ),
        broken("b: 4 channels come in, not 3", |g| {
            g.add(floats("bw", &[4, 3, 3, 3], &[0.5; 108]));
        }),
        broken("Gemm row: its weights are not constant", |g| {
            g.of("row").input[1] = "fr".into();
        }),
        broken("Gemm row: its matrix does not have two axes", |g| {
            g.constant("rw").dims = vec![15];
        }),
        broken("Gemm row: its matrix is empty", |g| {
            g.add(floats("rw", &[3, 0], &[]));
        }),
        broken(
            "Gemm row: its weights are neither float32 nor signed bytes with a scale",
            |g| {
                let tensor = g.constant("rw");
                (tensor.data_type, tensor.double_data) = (DataType::Double as i32, vec![0.5; 15]);
            },
        ),
        broken("row: 4 inputs for 1×1×5", |g| {
            g.add(floats("rw", &[3, 4], &[0.5; 12]));
        }),
        valid(
            "Gemm row: its bias does not have one number for each output",
            |g| {
                g.add(floats("rb", &[1], &[0.5]));
            },
        ),
        broken(
            "Gemm row: its bias does not have one number for each output",
            |g| g.constant("rb").dims = vec![3, 1],
        ),
        broken(
            "Gemm row: its bias does not have one number for each output",
            |g| g.of("row").input[2] = "fr".into(),
        ),
        valid(
            "PRelu ar: it does not have one slope for each channel",
            |g| {
                g.add(floats("as", &[1], &[0.5]));
            },
        ),
        valid(
            "PRelu fr: it does not have one slope for each channel",
            |g| {
                g.add(floats("fs", &[1], &[0.5]));
            },
        ),
        broken("PRelu ar: its slopes are not constant", |g| {
            g.of("ar").input[1] = "add".into();
        }),
        valid("PRelu dr: it falls behind a pooling", |g| {
            g.constant("ds").float_data[2] = -0.5;
        }),
        broken("Mul mul: it does not have one number for each plane", |g| {
            g.add(floats("factor", &[2, 1, 1], &[0.5; 2]));
        }),
        valid("Mul mul: it does not have one number for each plane", |g| {
            g.add(floats("factor", &[16], &[0.5; 16]));
        }),
        valid("Mul mul: its other input is not constant", |g| {
            g.of("mul").input[1] = "x".into();
        }),
    ];
    refuse(plain, &PLAIN, &cases);
}

#[test]
fn names_and_ways_through_the_graph_that_do_not_fit_are_named() {
    let cases = [
        broken("Conv b: sr is not known", |g| {
            g.of("b").input[0] = "sr".into();
        }),
        valid("PRelu ar: a is not known", |g| g.node.swap(2, 3)),
        broken("Conv a: it has no input 0", |g| g.of("a").input.clear()),
        broken("Conv a: its input 0 is not a layer", |g| {
            g.of("a").input[0] = "fw".into();
        }),
        broken("Conv a: its name is used twice", |g| {
            g.of("b").output[0] = "a".into();
        }),
        odd("fw: its name is used twice", |g| {
            let again = g.constant("fw").clone();
            g.initializer.push(again);
        }),
        broken("x: its name is used twice", |g| g.input.push(named("x"))),
        broken("it has no name", |g| g.of("dr").output[0] = String::new()),
        odd("MaxPool p: it has 2 outputs", |g| {
            g.of("p").output.push("indices".into());
        }),
        broken("Relu : it has 0 outputs", |g| g.of("sr").output.clear()),
        broken("the output map is not a layer", |g| {
            g.of("map").output[0] = "elsewhere".into();
        }),
        broken("the output map is not a layer", |g| g.node.clear()),
        valid("the output row is not a layer", |g| {
            g.node.retain(|node| node.output[0] != "row");
            g.of("f").output[0] = "row".into();
            g.node
                .retain(|node| !["fm", "fr"].contains(&node.output[0].as_str()));
        }),
        valid("an output is not a plain convolution", |g| {
            g.node.retain(|node| node.output[0] != "row");
            g.of("g").output[0] = "row".into();
            g.node
                .retain(|node| !["f", "fm", "fr"].contains(&node.output[0].as_str()));
        }),
        valid("an output is used inside as well", |g| {
            g.of("d").input[0] = "map".into();
            g.of("tr").output[0] = "map".into();
            g.of("g").input[0] = "map".into();
            g.node.retain(|node| node.op_type != "Sigmoid");
        }),
        valid(
            "Relu sr: it does not follow a convolution that only it reads",
            |g| {
                g.add(floats("fw", &[4, 5], &[0.5; 20])).of("g").input[0] = "s".into();
            },
        ),
        valid(
            "Relu again: it does not follow a convolution that only it reads",
            |g| {
                g.of("d").input[0] = "again".into();
                g.node.insert(14, node("Relu", &["tr"], "again", &[]));
            },
        ),
        valid(
            "Sigmoid map: it does not follow a convolution that only it reads",
            |g| {
                g.node.insert(18, node("Relu", &["m"], "mr", &[]));
                g.of("map").input[0] = "mr".into();
            },
        ),
        valid("b: it has a sigmoid but is not an output", |g| {
            g.of("sr").op_type = "Sigmoid".into();
        }),
        broken(
            "MatMul fm: its input is not one row for each picture",
            |g| g.of("fm").input[0] = "g".into(),
        ),
        broken("Conv a: its input 0 is not a layer", |g| {
            g.of("a").input[0] = "flat".into();
            g.node.insert(2, node("Flatten", &["add"], "flat", &[]));
        }),
        valid("GlobalAveragePool g: its input 0 is not a layer", |g| {
            g.add(floats("fw", &[4, 5], &[0.5; 20])).of("g").input[0] = "v".into();
        }),
        valid(
            "Add s: neither of its inputs is a convolution that only it reads",
            |g| g.of("s").input[0] = "p".into(),
        ),
        valid("Add s: it is not at the graph's input", |g| {
            g.of("s").input[1] = "shift".into();
        }),
        valid("Mul sr: it is not at the graph's input", |g| {
            *g.of("sr") = node("Mul", &["s", "shift"], "sr", &[]);
        }),
        valid("Mul mul: it is not at the graph's input", |g| {
            g.of("fm").input[0] = "xf".into();
            g.add(floats("fw", &[768, 5], &[0.125; 3840]));
            g.node.insert(0, node("Flatten", &["x"], "xf", &[]));
        }),
        valid("Add again: it is not the convolution's first sum", |g| {
            g.of("sr").input[0] = "again".into();
            g.node.insert(7, node("Add", &["s", "p"], "again", &[]));
        }),
        valid("b: its residual comes later", |g| {
            g.of("s").input[1] = "b2".into();
            g.node.insert(
                6,
                node("Conv", &["p", "bw"], "b2", &[ints("pads", &[1, 1, 1, 1])]),
            );
        }),
        broken(
            "4 rows or columns and 0 of zeros are added to 3 and 2",
            |g| {
                g.add(longs("behind c", &[0, 0, 0, 0, 0, 0, 1, 2]));
            },
        ),
        broken(
            "3 rows or columns and 0 of zeros are added to 8 and 0",
            |g| {
                g.add(floats("bw", &[6, 4, 3, 3], &[0.5; 216])).add(floats(
                    "cw",
                    &[6, 6, 3, 3],
                    &[0.5; 324],
                ));
                g.of("s").input[1] = "c2".into();
                g.node.insert(
                    5,
                    node("Conv", &["p", "c2w"], "c2", &[ints("strides", &[2, 2])]),
                );
                g.add(floats("c2w", &[6, 4, 3, 3], &[0.5; 216]));
                g.node.retain(|node| node.output[0] != "vp");
                g.of("t").input[0] = "v".into();
            },
        ),
        broken("4 channels are added to 6", |g| {
            g.add(longs("behind v", &[0, 0, 0, 0, 0, 1, 0, 0]));
        }),
        broken("4 channels are added to 6", |g| {
            g.add(longs("behind c", &[0, 0, 0, 0, 0, 1, 1, 1]))
                .add(longs("behind v", &[0, 0, 0, 0, 0, 3, 0, 0]));
        }),
        odd("nothing is left of the picture", |g| {
            g.add(floats("dw", &[5, 6, 5, 2], &[0.5; 300]));
        }),
    ];
    refuse(plain, &PLAIN, &cases);
}

#[test]
fn what_does_not_fit_in_a_pyramid_is_named() {
    let cases = [
        valid("Conv c: its channels are grouped", |g| {
            // Two output channels for each input channel.
            g.add(floats("cw", &[40, 1, 3, 3], &[0.5; 360])).add(floats(
                "dw",
                &[40, 1, 2, 2],
                &[0.5; 160],
            ));
            g.with("c", int("group", 20)).with("d", int("group", 20));
            g.of("u").input[0] = "p".into();
            g.of("t").input[0] = "br".into();
            g.node
                .retain(|node| !["v", "w", "s", "sr"].contains(&node.output[0].as_str()));
            g.of("e").input[0] = "t".into();
            g.of("g").input[0] = "t".into();
        }),
        broken("Conv c: its channels are grouped", |g| {
            g.with("c", int("group", 10));
        }),
        broken("Conv c: its channels are grouped", |g| {
            g.with("c", int("group", -20));
        }),
        broken("c: 20 channels come in, not 10", |g| {
            g.with("c", int("group", 10))
                .add(floats("cw", &[10, 1, 3, 3], &[0.5; 90]));
        }),
        valid(
            "Resize u: it does not take the pixel to the left and above",
            |g| {
                g.with("u", text("mode", "linear"));
            },
        ),
        valid(
            "Resize u: it does not take the pixel to the left and above",
            |g| {
                g.with("u", text("nearest_mode", "ceil"));
            },
        ),
        valid(
            "Resize u: it does not take the pixel to the left and above",
            |g| {
                g.with("u", text("coordinate_transformation_mode", "align_corners"));
            },
        ),
        valid(
            "Resize u: it does not take the pixel to the left and above",
            |g| {
                g.of("u").attribute.clear();
            },
        ),
        odd("Resize u: it takes a region", |g| {
            g.add(floats(
                "region",
                &[8],
                &[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0],
            ));
        }),
        broken("Resize u: it does not double rows and columns alone", |g| {
            g.add(floats("twice", &[4], &[1.0, 1.0, 2.0, 1.0]));
        }),
        broken("Resize u: it does not double rows and columns alone", |g| {
            g.add(floats("twice", &[2], &[2.0, 2.0]));
        }),
        odd("Resize u: its scales are not constant", |g| {
            g.of("u").input[2] = "p".into();
        }),
        valid("Resize u: it has 4 inputs", |g| {
            g.add(longs("sizes", &[2, 20, 4, 4]));
            let inputs = ["sr", "", "", "sizes"].map(str::to_owned);
            g.of("u").input = inputs.to_vec();
        }),
        valid("Resize u: its attribute antialias is not understood", |g| {
            g.with("u", int("antialias", 0));
        }),
        valid(
            "Add t: neither of its inputs is a convolution that only it reads",
            |g| {
                g.of("t").input[0] = "u".into();
            },
        ),
        valid("Conv e: its input 0 is not a layer", |g| {
            g.of("e").input[0] = "v".into();
        }),
        broken("doubled is added to", |g| {
            g.of("w").input[1] = "p".into();
        }),
        valid("bytes are added in layer", |g| {
            let at = g
                .node
                .iter()
                .position(|node| node.output[0] == "u")
                .unwrap();
            let pair = [
                node("QuantizeLinear", &["sr", "scale", "zero"], "q", &[]),
                node("DequantizeLinear", &["q", "scale", "zero"], "sd", &[]),
            ];
            g.node.splice(at..at, pair);
            g.of("u").input[0] = "sd".into();
            g.add(floats("scale", &[], &[0.125]))
                .add(wholes("zero", DataType::Uint8, &[], &[0]));
        }),
        valid(
            "QuantizeLinear q: its input is used unrounded as well",
            |g| {
                let at = g
                    .node
                    .iter()
                    .position(|node| node.output[0] == "t")
                    .unwrap();
                let pair = [
                    node("QuantizeLinear", &["sr", "scale", "zero"], "q", &[]),
                    node("DequantizeLinear", &["q", "scale", "zero"], "sd", &[]),
                    node(
                        "Resize",
                        &["sd", "", "twice"],
                        "u2",
                        &g.of("u").attribute.clone(),
                    ),
                ];
                g.node.splice(at..at, pair);
                g.of("t").input[1] = "u2".into();
                g.add(floats("scale", &[], &[0.125])).add(wholes(
                    "zero",
                    DataType::Uint8,
                    &[],
                    &[0],
                ));
            },
        ),
        valid("QuantizeLinear q: its input is not a convolution", |g| {
            let at = g
                .node
                .iter()
                .position(|node| node.output[0] == "e")
                .unwrap();
            let pair = [
                node("QuantizeLinear", &["w", "scale", "zero"], "q", &[]),
                node("DequantizeLinear", &["q", "scale", "zero"], "wd", &[]),
            ];
            g.node.splice(at..at, pair);
            g.of("e").input[0] = "wd".into();
            g.of("g").input[0] = "wd".into();
            g.add(floats("scale", &[], &[0.125]))
                .add(wholes("zero", DataType::Uint8, &[], &[0]));
        }),
        valid("Transpose ft: it does not put the channels last", |g| {
            g.with("ft", ints("perm", &[0, 3, 2, 1]));
            g.add(longs("five", &[1, -1, 8]));
        }),
        valid("Transpose ft: it does not put the channels last", |g| {
            g.of("ft").attribute.clear();
        }),
        valid("Reshape boxes: it does not list all pixels", |g| {
            g.add(longs("five", &[2, -1, 5]));
        }),
        valid("Reshape boxes: it does not list all pixels", |g| {
            g.add(longs("five", &[1, -1, 1]));
        }),
        odd("Reshape boxes: it does not list all pixels", |g| {
            g.add(wholes("five", DataType::Int32, &[3], &[1, -1, 5]));
        }),
        valid(
            "Reshape boxes: its input does not have its channels last",
            |g| g.of("boxes").input[0] = "f".into(),
        ),
        odd("Reshape boxes: its shape is not constant", |g| {
            g.of("boxes").input[1] = "p".into();
        }),
        valid(
            "Reshape boxes: its attribute allowzero is not understood",
            |g| {
                g.with("boxes", int("allowzero", 0));
            },
        ),
        valid("Reshape boxes: its input is not a convolution", |g| {
            g.of("ft").input[0] = "w".into();
            g.add(longs("five", &[1, -1, 20]));
        }),
        valid("the output boxes is not a layer", |g| {
            g.node.retain(|node| node.output[0] != "boxes");
            g.of("ft").output[0] = "boxes".into();
        }),
        valid("Relu hr: its input 0 is not a layer", |g| {
            g.of("scores").input[0] = "hr".into();
            let at = g.node.len() - 1;
            g.node.insert(at, node("Relu", &["hl"], "hr", &[]));
        }),
        valid(
            "Sigmoid scores: it does not follow a convolution that only it reads",
            |g| {
                // The same layer without a sigmoid is an output too.
                g.node
                    .retain(|node| !["boxes", "ft"].contains(&node.output[0].as_str()));
                g.of("scores").input[0] = "hl".into();
                let at = g.node.len() - 1;
                let again = [
                    node("Transpose", &["h"], "ht2", &[ints("perm", &[0, 2, 3, 1])]),
                    node("Reshape", &["ht2", "one"], "boxes", &[]),
                ];
                g.node.splice(at..at, again);
            },
        ),
        valid("an output is used inside as well", |g| {
            g.of("g").input[0] = "f".into();
            g.add(floats("gw", &[1, 5, 1, 1], &[0.5; 5]));
        }),
        valid("an output is used inside as well", |g| {
            // The output `boxes` is made from the layer that is doubled.
            g.of("ft").input[0] = "c".into();
            g.add(longs("five", &[1, -1, 20]));
            g.of("v").input[0] = "c".into();
        }),
    ];
    refuse(pyramid, &PYRAMID, &cases);
}

#[test]
fn quantisation_that_does_not_fit_is_named() {
    let cases = [
        odd("QuantizeLinear xq: its scale is 0", |g| {
            g.constant("xs").float_data[0] = 0.0;
        }),
        odd("QuantizeLinear xq: its scale is -1", |g| {
            g.constant("xs").float_data[0] = -1.0;
        }),
        odd("QuantizeLinear xq: its scale is NaN", |g| {
            g.constant("xs").float_data[0] = f32::NAN;
        }),
        odd("QuantizeLinear xq: it has a scale for each channel", |g| {
            g.add(floats("xs", &[3], &[0.5; 3]));
        }),
        valid("b: a weight is -128", |g| {
            g.constant("bw").int32_data[5] = -128;
        }),
        valid("QuantizeLinear xq: it has no input 2", |g| {
            g.of("xq").input.truncate(2);
        }),
        broken("QuantizeLinear xq: its zero point is not constant", |g| {
            g.of("xq").input[2] = "mul".into();
        }),
        valid(
            "QuantizeLinear xq: its zero point is not one unsigned byte",
            |g| {
                g.add(wholes("signed", DataType::Int8, &[], &[0]));
                g.of("xq").input[2] = "signed".into();
                g.of("xd").input[2] = "signed".into();
            },
        ),
        valid(
            "QuantizeLinear bq: its zero point is not one unsigned byte",
            |g| {
                g.add(wholes("signed", DataType::Int8, &[], &[3]));
                g.of("bq").input[2] = "signed".into();
                g.of("bd").input[2] = "signed".into();
            },
        ),
        broken(
            "QuantizeLinear xq: its zero point is not one unsigned byte",
            |g| {
                g.add(wholes("zero", DataType::Uint8, &[3], &[0; 3]));
            },
        ),
        broken("QuantizeLinear bq: its input is not a layer", |g| {
            g.of("bq").input[0] = "awd".into();
        }),
        valid(
            "its scale or zero point is not the one its values were quantised by",
            |g| {
                g.of("xd").input[1] = "as".into();
            },
        ),
        valid(
            "its scale or zero point is not the one its values were quantised by",
            |g| {
                g.of("bd").input[1] = "as".into();
            },
        ),
        valid(
            "its scale or zero point is not the one its values were quantised by",
            |g| {
                g.of("bd").input[2] = "zero".into();
            },
        ),
        odd("DequantizeLinear xd: its input was not quantised", |g| {
            g.node.retain(|node| node.output[0] != "xq");
            g.of("xd").input[0] = "mul".into();
        }),
        broken("DequantizeLinear bwd: its input was not quantised", |g| {
            g.of("bwd").input[0] = "awd".into();
        }),
        broken("Conv a: its input 0 is not a layer", |g| {
            g.of("a").input[0] = "xq".into();
        }),
        valid(
            "QuantizeLinear pq: it changes the scale or zero point of what is quantised already",
            |g| {
                g.of("pq").input[1] = "bs".into();
                g.of("pd").input[1] = "bs".into();
            },
        ),
        valid(
            "QuantizeLinear aq: its input is used unrounded as well",
            |g| {
                g.of("g").input[0] = "ar".into();
            },
        ),
        valid("DequantizeLinear awd: its weights have a zero point", |g| {
            g.constant("awz").int32_data[1] = 1;
        }),
        broken("DequantizeLinear awd: its weights have a zero point", |g| {
            g.constant("awz").data_type = DataType::Uint8 as i32;
        }),
        broken(
            "DequantizeLinear awd: it does not have one scale for each channel",
            |g| {
                g.add(floats("aws", &[3], &[0.01; 3]));
            },
        ),
        valid("DequantizeLinear awd: its axis is not 0", |g| {
            g.with("awd", int("axis", 1))
                .add(floats("aws", &[3], &[0.01; 3]));
            g.of("awd").input.truncate(2);
        }),
        broken("DequantizeLinear awd: its values are not integers", |g| {
            g.add(floats("aw", &[4, 3, 3, 3], &[0.5; 108]));
        }),
        valid(
            "Conv a: its weights are neither float32 nor signed bytes with a scale",
            |g| {
                g.constant("aw").data_type = DataType::Uint8 as i32;
                g.of("awd").input.truncate(2);
            },
        ),
        valid(
            "QuantizeLinear pq: it changes the scale or zero point of what is quantised already",
            |g| {
                g.of("pq").input[2] = "middle".into();
                g.of("pd").input[2] = "middle".into();
            },
        ),
        valid("b: bytes with a zero point are added", |g| {
            for pair in ["aq", "ad", "pq", "pd"] {
                g.of(pair).input[2] = "middle".into();
            }
        }),
        valid("QuantizeLinear gq: its input is not a convolution", |g| {
            g.of("f").input[0] = "gd".into();
            let at = g
                .node
                .iter()
                .position(|node| node.output[0] == "f")
                .unwrap();
            let pair = [
                node("QuantizeLinear", &["g", "ss", "zero"], "gq", &[]),
                node("DequantizeLinear", &["gq", "ss", "zero"], "gd", &[]),
            ];
            g.node.splice(at..at, pair);
        }),
        valid("a: its weights are integers, its input is not", |g| {
            g.node
                .retain(|node| !["xq", "xd"].contains(&node.output[0].as_str()));
            g.of("a").input[0] = "mul".into();
        }),
        valid("a: its input is quantised, its weights are not", |g| {
            g.add(floats("floats", &[4, 3, 3, 3], &[0.01; 108]))
                .of("a")
                .input[1] = "floats".into();
        }),
        broken("a: 3 channels come in, not 4", |g| {
            g.add(wholes("aw", DataType::Int8, &[4, 4, 3, 3], &[1; 144]));
        }),
        broken(
            "layer 4 takes a picture's bytes and is not a convolution",
            |g| g.of("g").input[0] = "xd".into(),
        ),
        odd("b: a picture's bytes are added", |g| {
            g.of("s").input[1] = "xd".into();
        }),
        valid("b: 6 channels do not fill groups", |g| {
            g.add(wholes("aw", DataType::Int8, &[6, 3, 3, 3], &[1; 162]))
                .add(floats("aws", &[], &[0.01]));
            g.of("a").input.truncate(2);
            g.of("awd").input.truncate(2);
            g.add(wholes("bw", DataType::Int8, &[6, 6, 3, 3], &[1; 324]));
            g.add(floats("fw", &[6, 3], &[0.5; 18]));
        }),
        broken("a: its sums could overflow", |g| {
            g.add(wholes(
                "aw",
                DataType::Int8,
                &[4, 3, 128, 128],
                &[1; 196_608],
            ));
        }),
        valid("b: bytes are added to numbers", |g| {
            g.node
                .retain(|node| !["aq", "ad", "pq", "pd"].contains(&node.output[0].as_str()));
            g.of("p").input[0] = "ar".into();
            g.of("s").input[1] = "p".into();
            g.of("b").input[0] = "cd".into();
            let at = g
                .node
                .iter()
                .position(|node| node.output[0] == "b")
                .unwrap();
            g.node.splice(
                at..at,
                [
                    node("Conv", &["p", "floats"], "c", &[]),
                    node("Relu", &["c"], "cr", &[]),
                    node("QuantizeLinear", &["cr", "as", "zero"], "cq", &[]),
                    node("DequantizeLinear", &["cq", "as", "zero"], "cd", &[]),
                ],
            );
            g.add(floats("floats", &[4, 4, 1, 1], &[0.25; 16]));
        }),
        valid("a mean is padded", |g| {
            g.of("f").input[0] = "m".into();
            g.add(floats("floats", &[4, 4, 3, 3], &[0.25; 144]));
            g.node.insert(
                21,
                node(
                    "Conv",
                    &["g", "floats"],
                    "m",
                    &[ints("pads", &[1, 1, 1, 1])],
                ),
            );
        }),
    ];
    refuse(quantised, &QUANTISED, &cases);
}

#[test]
fn shapes_that_do_not_fit_are_refused_when_they_are_known() {
    let opened = |graph: GraphProto, outputs: &[&'static str], shape| {
        network(graph, outputs).open_plan(shape, &pixels())
    };
    let said = |result: Result<Plan, VisionError>| result.unwrap_err().to_string();
    let four = said(opened(
        plain(),
        &PLAIN,
        [Some(1), Some(4), Some(16), Some(16)],
    ));
    assert!(
        four.ends_with("the input does not have three channels"),
        "{four}"
    );
    // The sizes of flattened layers and of sums must be known in advance.
    opened(plain(), &PLAIN, [None, Some(3), None, None]).unwrap_err();

    let kernel = ints("kernel_shape", &[3, 3]);
    let pooling = graph(
        vec![
            node("MaxPool", &["x"], "p", &[kernel, ints("strides", &[2, 2])]),
            node("Conv", &["p", "w"], "y", &[]),
        ],
        vec![floats("w", &[4096, 3, 1, 1], &[0.5; 3 * 4096])],
        &["y"],
    );
    let plan = opened(pooling, &["y"], [None, Some(3), None, None]).unwrap();
    assert_eq!(run(&plan, [2, 3, 3, 5]).unwrap().shape(0), [2, 4096, 1, 2]);
    let small = said(run(&plan, [1, 3, 2, 2]).map(|_| unreachable!()));
    assert!(
        small.ends_with("MaxPool: the input is smaller than the kernel"),
        "{small}"
    );
    let large = said(run(&plan, [1, 3, 600, 600]).map(|_| unreachable!()));
    assert!(
        large.contains("a layer of [1, 299, 299, 4096] numbers is too large"),
        "{large}"
    );
}

#[test]
fn a_quantised_dense_layer_has_a_scale_for_each_output() {
    let cases = [
        valid("Gemm row: its matrix has a scale for each input", |g| {
            let matrix = g.constant("rw").int32_data.clone();
            g.add(wholes("rw", DataType::Int8, &[324, 5], &matrix))
                .add(floats("rws", &[324], &[0.01; 324]));
            g.of("rwd").input.truncate(2);
            g.with("row", int("transB", 0));
        }),
        broken("row: 325 inputs for 3×3×36", |g| {
            g.add(wholes("rw", DataType::Int8, &[5, 325], &[1; 5 * 325]));
        }),
    ];
    refuse(mobile, &MOBILE, &cases);
}

/// Changes a graph at a random place, in one of `ways` ways a file can be wrong.
fn change(graph: &mut GraphProto, ways: usize, numbers: &mut Numbers) {
    const SIDES: [i64; 12] = [-1, 0, 1, 2, 3, 4, 5, 16, 65, 1 << 20, i64::MAX, i64::MIN];
    const VALUES: [f32; 6] = [0.0, -1.0, 2.0, f32::NAN, f32::INFINITY, 1e30];
    let (nodes, constants) = (graph.node.len(), graph.initializer.len());
    let (at, other) = (numbers.next(nodes), numbers.next(nodes));
    let side = SIDES[numbers.next(SIDES.len())];
    let names: Vec<String> = graph
        .node
        .iter()
        .map(|node| node.output[0].clone())
        .collect();
    let tensor = numbers.next(constants);
    match numbers.next(ways) {
        0 => graph.node.swap(at, other),
        1 => drop(graph.node.remove(at)),
        2 => graph.node.insert(other, graph.node[at].clone()),
        3 => graph.node[at].op_type = graph.node[other].op_type.clone(),
        4 => graph.node[at].attribute = graph.node[other].attribute.clone(),
        5 => {
            let number = numbers.next(8);
            let lists = graph.node[at]
                .attribute
                .iter_mut()
                .flat_map(|attribute| &mut attribute.ints);
            lists.skip(number).take(1).for_each(|number| *number = side);
        }
        6 => graph.node[at]
            .attribute
            .iter_mut()
            .for_each(|attribute| attribute.i = side),
        7 | 8 => {
            let name = match numbers.next(3) {
                0 => graph.initializer[tensor].name.clone(),
                _ => names[numbers.next(names.len())].clone(),
            };
            let inputs = &mut graph.node[at].input;
            let input = numbers.next(inputs.len());
            inputs[input] = name;
        }
        9 => {
            let dims = &mut graph.initializer[tensor].dims;
            let dim = numbers.next(dims.len() + 1);
            dims.truncate(dim);
            dims.push(side);
        }
        10 => graph.initializer[tensor].data_type = numbers.next(20) as i32,
        _ => {
            let values = &mut graph.initializer[tensor].float_data;
            let at = numbers.next(values.len());
            values
                .iter_mut()
                .skip(at)
                .take(1)
                .for_each(|value| *value = VALUES[numbers.next(VALUES.len())]);
        }
    }
}

#[test]
fn graphs_changed_at_random_are_refused_or_give_tracts_numbers() {
    let mut numbers = Numbers(3);
    let mut compared = [0; 4];
    for round in 0..2000 {
        // The values of quantised graphs stay: a pair that our operators skip could clip values at
        // a smaller scale.
        let (mut changed, outputs, ways, allowed): (_, &[&'static str], _, _) = match round % 4 {
            0 => (plain(), &PLAIN, 12, 1e-3),
            1 => (pyramid(), &PYRAMID, 12, 1e-3),
            2 => (mobile(), &MOBILE, 11, 0.3),
            _ => (quantised(), &QUANTISED, 11, 0.3),
        };
        for _ in 0..=numbers.next(2) {
            change(&mut changed, ways, &mut numbers);
        }
        let network = network(changed, outputs);
        let Ok(ours) = network.open_plan(SHAPE.map(Some), &pixels()) else {
            continue;
        };
        let tracts = network
            .plan_in_tract(SHAPE, Device::Cpu, &pixels())
            .unwrap();
        let (ours, tracts) = match (run(&ours, SHAPE), run(&tracts, SHAPE)) {
            (Ok(ours), Ok(tracts)) => (ours, tracts),
            // Only numbers that are not finite may make one fail and not the other.
            (Err(error), Ok(_)) => {
                assert!(
                    error.to_string().contains("finite numbers"),
                    "{error} in round {round}"
                );
                continue;
            }
            (_, Err(_)) => continue,
        };
        let apart = apart(&ours, &tracts, outputs.len()).unwrap();
        assert!(apart < allowed, "{apart} apart in round {round}");
        compared[round % 4] += 1;
    }
    assert!(
        compared.iter().all(|compared| *compared > 50),
        "{compared:?} were taken"
    );
}

#[test]
fn files_changed_at_random_are_refused_or_run() {
    let mut numbers = Numbers(4);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packs/dlib-mtcnn");
    let files: [(&str, &[&'static str], usize, usize); 3] = [
        ("pnet.onnx", &["prob", "reg"], 12, 400),
        ("rnet.onnx", &["prob", "reg"], 24, 100),
        ("recogniser_int8.onnx", &["embedding"], 150, 16),
    ];
    for (file, outputs, side, rounds) in files {
        let whole = std::fs::read(folder.join(file)).unwrap();
        let mut ends = [0; 3];
        for round in 0..rounds {
            let mut bytes = whole.clone();
            // The beginning of a file describes the weights behind it.
            let within = if round % 4 == 0 {
                bytes.len()
            } else {
                bytes.len().min(20_000)
            };
            match round % 8 {
                7 => bytes.truncate(numbers.next(within)),
                6 => drop(bytes.remove(numbers.next(within))),
                _ => bytes[numbers.next(within)] ^= 1 << numbers.next(8),
            }
            let shape = [1, 3, side, side];
            let end = Network::parse(file, &bytes, outputs)
                .map(|network| network.open_plan(shape.map(Some), &pixels()));
            match end {
                Err(_) => ends[0] += 1,
                Ok(Err(_)) => ends[1] += 1,
                Ok(Ok(plan)) => {
                    ends[2] += 1;
                    // Any result will do, as long as the run returns.
                    drop(run(&plan, shape));
                }
            }
        }
        println!("{file}: {ends:?} were not parsed, refused, run");
        assert!(ends[0] > 0 && ends[2] > 0, "{ends:?}");
    }
}

#[test]
fn the_bundled_recognisers_run_in_our_own_operators() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packs/dlib-mtcnn");
    for file in ["recogniser_float32.onnx", "recogniser_int8.onnx"] {
        let network = Network::parse(
            file,
            &std::fs::read(folder.join(file)).unwrap(),
            &["embedding"],
        )
        .unwrap();
        let plan = network
            .plan([1, 3, 150, 150], Device::Cpu, &pixels())
            .unwrap();
        assert!(plan.own, "{file} runs in tract's");
    }
}

#[test]
fn the_second_packs_detector_runs_in_our_own_operators() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if !folder.is_dir() {
        println!("NOT RUN: needs {}", folder.display());
        return;
    }
    for (file, height, width) in [
        ("yunet_n_640_640.onnx", 640, 640),
        ("yunet_n_320_320.onnx", 320, 320),
        ("yunet_n_480x640.onnx", 480, 640),
    ] {
        let network = Network::parse(
            file,
            &std::fs::read(folder.join(file)).unwrap(),
            &yunet::OUTPUTS,
        )
        .unwrap();
        let plan = network
            .plan([1, 3, height, width], Device::Cpu, &pixels())
            .unwrap();
        assert!(plan.own, "{file} runs in tract's");
    }
}

#[test]
fn what_other_pictures_left_in_memory_is_in_no_answer() {
    // Large enough for its tensors to be kept for reuse.
    let shape = [1, 3, 256, 192];
    let network = network(pyramid(), &PYRAMID);
    let plan = network.open_plan(shape.map(Some), &pixels()).unwrap();
    let answer = |picture: &[u8]| {
        let outputs = plan.run(shape, picture).unwrap();
        [outputs.get(0).to_vec(), outputs.get(1).to_vec()]
    };
    let (dark, light) = (vec![0; 3 * 256 * 192], vec![255; 3 * 256 * 192]);
    let first = [answer(&dark), answer(&light)];
    assert_ne!(first[0], first[1]);
    for _ in 0..3 {
        assert!([answer(&dark), answer(&light)] == first);
    }
}
