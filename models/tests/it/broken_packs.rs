//! Packs that differ from their manifest are refused, with an error that names the fault.

use std::path::Path;

use kith_vision::{Pack, PackError, Precision, VisionError};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::shared::{bundled_pack, load};

/// Copies the bundled pack with its manifest changed.
fn changed(change: impl Fn(String) -> String) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(bundled_pack()).unwrap() {
        let file = entry.unwrap().path();
        if file.is_file() {
            std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
        }
    }
    let manifest = folder.path().join("pack.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let new = change(text.clone());
    std::fs::write(&manifest, new).unwrap();
    folder
}

fn replaced(from: &str, to: &str) -> TempDir {
    changed(|text| {
        assert!(text.contains(from), "pack.toml has no {from:?}");
        text.replace(from, to)
    })
}

/// Removes the section about the length of embeddings from `pack.toml`.
fn without_cohort(text: &str) -> String {
    let (before, rest) = text.split_once("[recogniser.cohort]").unwrap();
    let (_, after) = rest.split_once("\n[").unwrap();
    format!("{before}[{after}")
}

/// Copies the pack with only the first mean of its cohort.
fn other_means() -> TempDir {
    let means = std::fs::read(bundled_pack().join("cohort.f32")).unwrap();
    let one = &means[..128 * 4];
    let folder = replaced(&sum(&means), &sum(one));
    std::fs::write(folder.path().join("cohort.f32"), one).unwrap();
    folder
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn refusal(folder: &Path) -> String {
    Pack::load(folder).unwrap_err().to_string()
}

#[test]
fn a_changed_file_is_named_with_both_sums() {
    let folder = changed(|text| text);
    let file = folder.path().join("rnet.onnx");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = Pack::load(folder.path()).unwrap_err();
    assert!(
        matches!(&error, PackError::Checksum { file, expected, found } if file == "rnet.onnx" && expected != found)
    );
    assert!(
        error.to_string().contains("rnet.onnx is damaged"),
        "{error}"
    );
}

#[test]
fn a_file_changed_after_the_pack_was_loaded_is_not_used() {
    let folder = changed(|text| text);
    let pack = Pack::load(folder.path()).unwrap();
    std::fs::write(folder.path().join("pnet.onnx"), b"something else").unwrap();
    let error = load(&pack, Precision::Float32).unwrap_err();
    assert!(
        matches!(error, VisionError::Pack(PackError::Checksum { .. })),
        "{error}"
    );
}

#[test]
fn an_unknown_key_is_named() {
    for (section, line) in [
        ("[alignment]", "colour = \"rgb\""),
        ("[detector]", "nms = 0.3"),
        ("[quality]", "size = 3"),
        ("[self_test]", "by = 1"),
        ("[recogniser.cohort]", "spread = 1.0"),
    ] {
        let folder = replaced(section, &format!("{section}\n{line}"));
        let message = refusal(folder.path());
        let key = line.split(' ').next().unwrap();
        assert!(
            message.contains("unknown field") && message.contains(key),
            "{message}"
        );
    }
}

#[test]
fn a_recogniser_is_stored_once_or_in_a_file_for_each_precision() {
    let line = "float32 = \"recogniser_float32.onnx\"";
    for (to, said) in [
        ("", "stored alone, or with float32"),
        (
            &*format!("{line}\nstored = \"recogniser_int8.onnx\""),
            "stored alone, or with float32",
        ),
    ] {
        let message = refusal(replaced(line, to).path());
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn a_missing_key_is_named() {
    let message = refusal(replaced("pyramid_factor", "# pyramid_factor").path());
    assert!(message.contains("pyramid_factor"), "{message}");
}

#[test]
fn a_missing_file_or_manifest_is_named() {
    let folder = changed(|text| text);
    std::fs::remove_file(folder.path().join("onet.onnx")).unwrap();
    assert!(refusal(folder.path()).contains("onet.onnx cannot be read"));
    assert!(refusal(&folder.path().join("nowhere")).contains("pack.toml cannot be read"));
}

#[test]
fn a_file_without_a_checksum_is_named() {
    let message = refusal(replaced("\"pnet.onnx\" = \"", "\"other.onnx\" = \"").path());
    assert_eq!(
        message,
        "pack.toml: pnet.onnx is used but has no line under [sha256]"
    );
}

#[test]
fn a_value_out_of_range_is_named_with_its_rule() {
    for (from, to, key) in [
        (
            "thresholds = [0.6,",
            "thresholds = [1.6,",
            "detector.thresholds",
        ),
        ("sure = 0.999", "sure = 1.0", "detector.sure"),
        ("size = 150", "size = 5", "alignment.size"),
        ("scale = 0.00390625", "scale = nan", "recogniser.scale"),
        ("dimension = 128", "dimension = 129", "self_test.embedding"),
        (
            "mirrored = [\n",
            "mirrored = [\n    0.5,",
            "self_test.mirrored",
        ),
        (
            "pnet = \"pnet.onnx\"",
            "pnet = \"../pnet.onnx\"",
            "../pnet.onnx",
        ),
        (
            "threshold = 0.428",
            "threshold = -1.0",
            "matching.threshold",
        ),
        (
            "looks = [[2, 0.021]",
            "looks = [[1, 0.021]",
            "matching.looks",
        ),
        (
            "strength = 3.0",
            "strength = 0.0",
            "recogniser.cohort.strength",
        ),
        (
            "typical = 0.9348",
            "typical = nan",
            "recogniser.cohort.typical",
        ),
        (
            "metric = \"euclidean\"",
            "metric = \"cosine\"",
            "recogniser.cohort",
        ),
        ("normalise = true", "normalise = false", "recogniser.cohort"),
        (
            "means = \"cohort.f32\"",
            "means = \"selftest.jpg\"",
            "recogniser.cohort.means",
        ),
        ("means = \"cohort.f32\"", "means = \"none.f32\"", "none.f32"),
        (
            "default_precision = \"int8\"",
            "default_precision = \"float16\"",
            "recogniser.default_precision",
        ),
        (
            "\nfloat16 = 0",
            "\n# float16 = 0",
            "self_test.tolerance.float16",
        ),
    ] {
        let message = refusal(replaced(from, to).path());
        assert!(
            message.starts_with("pack.toml: ") && message.contains(key),
            "{message}"
        );
    }
}

#[test]
fn a_network_of_another_dimension_is_refused_by_name() {
    let shortened = |text: String, key: &str| {
        let (before, rest) = text.split_once(&format!("{key} = [")).unwrap();
        let (_, after) = rest.split_once(']').unwrap();
        format!("{before}{key} = [{}]{after}", ["0.1"; 64].join(", "))
    };
    let folder = changed(|text| {
        let text = shortened(shortened(without_cohort(&text), "embedding"), "mirrored");
        text.replace("dimension = 128", "dimension = 64")
    });
    let error = load(&Pack::load(folder.path()).unwrap(), Precision::Float32).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, VisionError::Network { .. }), "{message}");
    assert!(
        message.contains("recogniser_float32.onnx")
            && message.contains("64")
            && message.contains("128"),
        "{message}"
    );
}

#[test]
fn a_network_without_its_decoders_outputs_is_refused_by_name() {
    let folder = replaced("onet = \"onet.onnx\"", "onet = \"rnet.onnx\"");
    let message = load(&Pack::load(folder.path()).unwrap(), Precision::Float32)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("rnet.onnx") && message.contains("points"),
        "{message}"
    );
}

#[test]
fn a_float_network_called_int8_is_refused_with_its_operators() {
    let folder = replaced(
        "int8 = \"recogniser_int8.onnx\"",
        "int8 = \"recogniser_float32.onnx\"",
    );
    let error = load(&Pack::load(folder.path()).unwrap(), Precision::Int8).unwrap_err();
    let VisionError::FloatConvolution { file, nodes } = error else {
        panic!("{error}")
    };
    assert_eq!(
        (file.as_str(), nodes.len()),
        ("recogniser_float32.onnx", 29)
    );
}

#[test]
fn a_precision_the_pack_has_not_is_refused() {
    let folder = changed(|text| {
        let kept = text.lines().filter(|line| {
            !line.starts_with("int8 = \"rec") && !line.starts_with("float16 = \"rec")
        });
        kept.collect::<Vec<_>>().join("\n").replace(
            "default_precision = \"int8\"",
            "default_precision = \"float32\"",
        )
    });
    let pack = Pack::load(folder.path()).unwrap();
    for precision in [Precision::Int8, Precision::Float16] {
        assert!(!pack.offers(precision));
        let error = load(&pack, precision).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("model pack dlib-mtcnn has no {precision} recogniser")
        );
    }
    assert!(pack.offers(Precision::Float32));
}

#[test]
fn the_embedding_space_depends_only_on_what_makes_embeddings() {
    let space = |folder: &TempDir| Pack::load(folder.path()).unwrap().space().to_owned();
    let original = space(&changed(|text| text));
    // A new value here means that every existing gallery is embedded again.
    assert_eq!(
        original,
        "a3cd5508c7a0d97b4c557ae9a54c51c944ec4496725b024d97e24da0e02e53da"
    );
    for same in [
        replaced("threshold = 0.428", "threshold = 0.4"),
        replaced("min_face_px = 40", "min_face_px = 30"),
        replaced("float16 = \"recogniser_float16.onnx\"", "# float16"),
    ] {
        assert_eq!(space(&same), original);
    }
    for other in [
        replaced("[46.20,", "[46.21,"),
        replaced("colour = \"rgb\"", "colour = \"bgr\""),
        replaced("scale = 0.00390625", "scale = 0.004"),
        replaced("strength = 3.0", "strength = 3.1"),
        replaced("typical = 0.9348", "typical = 0.9"),
        changed(|text| without_cohort(&text)),
        other_means(),
    ] {
        assert_ne!(space(&other), original);
    }
    let plain = changed(|text| without_cohort(&text));
    let raw =
        changed(|text| without_cohort(&text).replace("normalise = true", "normalise = false"));
    assert_ne!(space(&plain), space(&raw));
    let pack = Pack::load(changed(|text| text).path()).unwrap();
    assert!(pack.flip());
    let without = pack.with_flip(false);
    assert_ne!(
        without.space(),
        original,
        "a face alone and one averaged with its mirror image are not compared"
    );
    assert_eq!(without.with_flip(true).space(), original);
}
