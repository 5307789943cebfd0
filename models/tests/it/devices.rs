//! Precisions and devices: supported combinations, the errors for others, the advised precision,
//! and a pack in memory that needs no files.

use std::time::Instant;

use kith_vision::{
    Device, Metric, Pack, PackError, Precision, RUNTIME_VERSION, Vision, VisionError,
    compare_precisions,
};

use crate::shared::{SEARCH, analyse, bundled, bundled_pack, decode, load};

fn pack() -> Pack {
    Pack::load(&bundled_pack()).unwrap()
}

#[test]
fn a_machine_without_a_gpu_is_told_so_in_one_sentence() {
    let Err(error) = Vision::load(&pack(), Precision::Float16, Device::Cuda) else {
        println!("NOT RUN: this machine has a GPU");
        return;
    };
    let message = error.to_string();
    println!("{message}");
    assert!(matches!(error, VisionError::NoGpu { .. }), "{message}");
    assert!(
        message.starts_with("this machine has no usable NVIDIA GPU: "),
        "{message}"
    );
    assert!(message.ends_with("; use the device cpu"), "{message}");
    assert!(
        !message.contains(['\n', '?']) && !message.contains(". "),
        "{message}"
    );
}

#[test]
fn int8_is_refused_on_a_gpu_with_what_to_use_instead() {
    let error = Vision::load(&pack(), Precision::Int8, Device::Cuda).unwrap_err();
    assert!(matches!(error, VisionError::Int8OnGpu), "{error}");
    assert!(error.to_string().contains("float16"), "{error}");
}

#[test]
fn a_gpu_passes_the_self_test_in_each_precision_and_thread() {
    let pack = pack();
    let picture = decode(&pack.self_test_picture().unwrap());
    let on_processor = analyse(bundled(Precision::Float32), &picture);
    for precision in [Precision::Float16, Precision::Float32] {
        let begun = Instant::now();
        let vision = match Vision::load(&pack, precision, Device::Cuda) {
            Err(error @ VisionError::NoGpu { .. }) => {
                println!("NOT RUN: no GPU: {error}");
                return;
            }
            loaded => loaded.unwrap(),
        };
        println!("{precision}: loaded in {:?}", begun.elapsed());
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..5 {
                        let analysis = analyse(&vision, &picture);
                        let distance = vision.check_reference(&analysis).unwrap();
                        let apart =
                            Metric::Euclidean.distance(&analysis.faces[0].embedding, &on_processor.faces[0].embedding);
                        println!(
                            "{precision}, round {round}: {distance} from the reference, {apart} from the processor's, {:?}",
                            analysis.timings
                        );
                        assert!(apart < 0.02, "{apart}");
                    }
                });
            }
        });
    }
}

#[test]
fn the_default_precision_is_the_packs_or_float16_on_a_gpu() {
    assert_eq!(pack().default_precision(Device::Cpu), Precision::Int8);
    assert_eq!(pack().default_precision(Device::Cuda), Precision::Float16);
}

#[test]
fn a_pack_kept_in_memory_needs_no_file_and_one_that_is_not_does() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(bundled_pack()).unwrap() {
        let file = entry.unwrap().path();
        std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    let pack = Pack::load(folder.path()).unwrap();
    let kept = pack.in_memory().unwrap();
    std::fs::write(folder.path().join("recogniser_int8.onnx"), b"damaged").unwrap();
    let error = pack.in_memory().unwrap_err();
    assert!(
        matches!(&error, PackError::Checksum { file, .. } if file == "recogniser_int8.onnx"),
        "{error}"
    );
    drop(folder);
    let picture = decode(&kept.self_test_picture().unwrap());
    let vision = load(&kept, Precision::Int8).unwrap();
    vision.check_reference(&analyse(&vision, &picture)).unwrap();
    let other = vision.in_precision(&kept, Precision::Float32).unwrap();
    other.check_reference(&analyse(&other, &picture)).unwrap();
    assert_eq!(
        (other.precision(), other.device()),
        (Precision::Float32, Device::Cpu)
    );
    let error = load(&pack, Precision::Int8).unwrap_err();
    assert!(
        matches!(error, VisionError::Pack(PackError::Unreadable { .. })),
        "{error}"
    );
}

#[test]
fn comparing_tries_each_possible_precision_and_returns_the_best() {
    let pack = pack();
    let current = bundled(Precision::Int8);
    let picture = decode(&pack.self_test_picture().unwrap());
    let begun = Instant::now();
    let comparison = compare_precisions(&pack, current, &picture, &SEARCH).unwrap();
    println!("{:?}: {:?}", begun.elapsed(), comparison.trials);
    assert!(comparison.failed.is_empty(), "{:?}", comparison.failed);
    let tried: Vec<Precision> = comparison
        .trials
        .iter()
        .map(|trial| trial.precision)
        .collect();
    let can = |precision: &Precision| Device::Cpu.has_arithmetic_for(*precision);
    let expected: Vec<Precision> = [Precision::Int8, Precision::Float32, Precision::Float16]
        .into_iter()
        .filter(can)
        .collect();
    assert_eq!(tried, expected);
    assert!(
        comparison
            .trials
            .iter()
            .all(|trial| trial.within_tolerance && !trial.median.is_zero())
    );
    if let Some(better) = comparison.better {
        let median = |precision| {
            comparison
                .trials
                .iter()
                .find(|t| t.precision == precision)
                .unwrap()
                .median
        };
        assert!(median(better.precision()) < median(Precision::Int8));
    }
}

#[test]
fn a_precision_that_cannot_be_loaded_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(bundled_pack()).unwrap() {
        let file = entry.unwrap().path();
        std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    let pack = Pack::load(folder.path()).unwrap();
    let picture = decode(&pack.self_test_picture().unwrap());
    std::fs::remove_file(folder.path().join("recogniser_float32.onnx")).unwrap();
    let comparison =
        compare_precisions(&pack, bundled(Precision::Int8), &picture, &SEARCH).unwrap();
    assert_eq!(comparison.trials[0].precision, Precision::Int8);
    assert_eq!(comparison.failed[0].0, Precision::Float32);
    assert!(
        comparison.failed[0]
            .1
            .to_string()
            .contains("recogniser_float32.onnx")
    );
    assert!(
        comparison
            .better
            .is_none_or(|better| better.precision() == Precision::Float16)
    );
}

#[test]
fn the_runtimes_version_names_it() {
    assert!(RUNTIME_VERSION.starts_with("tract "));
}
