//! Compares every network with the outputs of onnxruntime in `tests/golden.json` (written by
//! `tests/golden.py`), so that a regression in the runtime or a broken conversion shows.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::pixels::{Colour, Pixels};
use crate::runtime::{Network, on_gpu};
use crate::{Device, Metric, Precision};

#[derive(Deserialize)]
struct Golden {
    file: String,
    bundled: bool,
    shape: [usize; 4],
    mean: [f32; 3],
    scale: f32,
    outputs: Vec<ExpectedOutput>,
}

#[derive(Deserialize)]
struct ExpectedOutput {
    name: String,
    length: usize,
    step: usize,
    values: Vec<f32>,
}

/// The same waves as in `golden.py`, as interleaved pixels.
fn pattern(golden: &Golden) -> Vec<u8> {
    let [batch, channels, height, width] = golden.shape;
    let value = |i: usize| {
        let (y, x) = (i / channels / width % height, i / channels % width);
        let p = i / (channels * width * height) * channels + i % channels;
        let third = (1 + p % 3) as f64;
        let (p, y, x) = (p as f64, y as f64, x as f64);
        let wave = (0.37 * x + 0.11 * y + p).sin()
            + (0.05 * x * third - 0.23 * y).sin()
            + (0.017 * x * y / 8.0).sin();
        (255.9 * (wave / 6.0 + 0.5)).floor() as u8
    };
    (0..batch * channels * height * width).map(value).collect()
}

fn pixels(golden: &Golden) -> Pixels {
    Pixels::new(golden.mean, golden.scale, Colour::Rgb)
}

fn compare(golden: &Golden, folder: &Path, device: Device) {
    let bytes = std::fs::read(folder.join(&golden.file)).unwrap();
    let names: Vec<&'static str> = golden
        .outputs
        .iter()
        .map(|output| &*output.name.clone().leak())
        .collect();
    let network = Network::parse(&golden.file, &bytes, &names).unwrap();
    let outputs = network
        .plan(golden.shape, device, &pixels(golden))
        .unwrap()
        .run(golden.shape, &pattern(golden))
        .unwrap();
    for (ix, answer) in golden.outputs.iter().enumerate() {
        let found = outputs.get(ix);
        assert_eq!(
            found.len(),
            answer.length,
            "{} {}",
            golden.file,
            answer.name
        );
        let largest = answer
            .values
            .iter()
            .fold(0.0_f32, |most, v| most.max(v.abs()));
        // Integer networks round at every layer, and runtimes differ in rounding halves.
        // onnxruntime computes float16 in float32 between the layers; tract accumulates in float16,
        // a GPU may do either.
        let share = if golden.file.contains("int8") {
            0.1
        } else if golden.file.contains("float16") {
            0.02
        } else {
            2e-4
        };
        let allowed = largest * share + 1e-6;
        for (found, expected) in found.iter().step_by(answer.step).zip(&answer.values) {
            let off = (found - expected).abs();
            assert!(
                off <= allowed,
                "{} {}: {found} instead of {expected}",
                golden.file,
                answer.name
            );
        }
    }
}

/// Compares with SFace's published file, run in float32 by onnxruntime, on the faces of
/// `tests/faces.png`.
#[test]
fn the_stored_recogniser_embeds_faces_as_the_published_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let answers: Vec<Vec<f32>> = serde_json::from_str(include_str!("../tests/faces.json")).unwrap();
    let faces = image::open(folder.join("tests/faces.png"))
        .unwrap()
        .to_rgb8()
        .into_raw();
    let shape = [1, 3, 112, 112];
    let stored = std::fs::read(folder.join("packs/sface/recogniser.onnx")).unwrap();
    let pixels = Pixels::new([127.5; 3], 1.0 / 128.0, Colour::Rgb);
    // A processor without half-precision arithmetic takes seconds for a face.
    let allowances = [
        (Precision::Float32, 3, 1e-6, 1e-3),
        (Precision::Float16, 1, 1e-4, 0.01),
        (Precision::Int8, 3, 0.005, 0.05),
    ];
    for (precision, count, allowed, span) in allowances {
        let network =
            Network::stored("recogniser.onnx", &stored, precision, &["embedding"]).unwrap();
        let plan = network.plan(shape, Device::Cpu, &pixels).unwrap();
        assert!(
            precision == Precision::Float16 || plan.is_our_own(),
            "{precision} runs in tract's operators"
        );
        for (face, expected) in faces
            .chunks_exact(faces.len() / answers.len())
            .zip(&answers)
            .take(count)
        {
            let outputs = plan.run(shape, face).unwrap();
            let off = Metric::Cosine.distance(outputs.get(0), expected);
            let longer = outputs.get(0).iter().map(|v| v * v).sum::<f32>()
                / expected.iter().map(|v| v * v).sum::<f32>();
            println!("{precision}: {off} away, square of the length {longer} times as large");
            assert!(
                off <= allowed && (longer - 1.0).abs() < span,
                "{precision}: {off} away, {longer} times as large"
            );
        }
    }
}

fn all() -> Vec<Golden> {
    serde_json::from_str(include_str!("../tests/golden.json")).unwrap()
}

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packs/dlib-mtcnn")
}

#[test]
fn bundled_networks_answer_as_onnxruntime_does() {
    let networks: Vec<Golden> = all().into_iter().filter(|golden| golden.bundled).collect();
    assert_eq!(networks.len(), 7);
    for golden in networks {
        compare(&golden, &bundled(), Device::Cpu);
    }
}

#[test]
fn the_second_packs_networks_answer_as_onnxruntime_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if !folder.is_dir() {
        println!("NOT RUN: needs {}", folder.display());
        return;
    }
    for golden in all().into_iter().filter(|golden| !golden.bundled) {
        compare(&golden, &folder, Device::Cpu);
    }
}

#[test]
fn a_gpu_agrees_with_onnxruntime_and_runs_every_layer() {
    if let Err(error) = on_gpu(|| Ok(())) {
        println!("NOT RUN: {error}");
        return;
    }
    for golden in all()
        .into_iter()
        .filter(|golden| golden.file.starts_with("recogniser_float"))
    {
        let bytes = std::fs::read(bundled().join(&golden.file)).unwrap();
        let network = Network::parse(&golden.file, &bytes, &["embedding"]).unwrap();
        let left = network
            .plan(golden.shape, Device::Cuda, &pixels(&golden))
            .unwrap()
            .on_processor();
        println!("{} leaves {left:?} to the processor", golden.file);
        assert!(
            left.is_empty() || golden.file.contains("float32"),
            "{left:?}"
        );
        compare(&golden, &bundled(), Device::Cuda);
    }
}
