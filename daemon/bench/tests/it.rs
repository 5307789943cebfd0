//! The benches as developers run them: their results must be right. No test here looks at times.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[allow(dead_code)] // shared with tests that stop it and change its files
#[path = "../../tests/it/broker.rs"]
mod broker;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::broker::Mosquitto;

/// Runs a bench with the bundled packs and returns its JSON. Cargo builds `kithd` beside
/// `kithd-bench` when it tests the workspace.
fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_kithd-bench"))
        .args(arguments)
        .env(
            "KITHD_PACKS",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/packs"),
        )
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Thumbnails and crops are not counted.
#[test]
fn ten_pictures_a_second_write_less_than_24_kb_each() {
    let broker = Mosquitto::running();
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    // The folder is beside the build, on a disk; in memory nothing is counted, and the command
    // refuses.
    let folder = env!("CARGO_TARGET_TMPDIR");
    let rows = bench(&[
        "writes",
        "--json",
        "--pictures=60",
        "--lone=0",
        "--broker",
        &url,
        "--folder",
        folder,
    ]);
    let row = &rows[0];
    println!("{row}");
    let (written, rest) = (
        row["written"].as_u64().unwrap(),
        row["rest"].as_u64().unwrap(),
    );
    assert!(written > 4096, "counted next to nothing: {row}");
    assert!(rest < 24_000, "{row}");
}

#[test]
fn both_sides_of_the_boundary_recognise_the_picture() {
    let found = bench(&["boundary", "--rounds=2", "--json"]);
    for side in ["inside_ms", "across_ms"] {
        assert!(found[side].as_f64() > Some(0.0), "{found}");
    }
}

#[test]
fn the_engine_is_measured_on_a_picture_that_the_bench_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("picture.jpg");
    let written = Command::new(env!("CARGO_BIN_EXE_kithd-bench"))
        .arg("picture")
        .arg(&picture)
        .env(
            "KITHD_PACKS",
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/packs"),
        )
        .status()
        .unwrap();
    assert!(written.success());
    let found = bench(&["engine", picture.to_str().unwrap(), "--rounds=1", "--json"]);
    assert_eq!((&found["width"], &found["faces"]), (&640.into(), &1.into()));
}

#[test]
fn paths_from_http_and_mqtt_are_all_accepted() {
    let broker = Mosquitto::running();
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let rows = bench(&[
        "intake",
        "--requests=20",
        "--clients=4",
        "--broker",
        &url,
        "--json",
    ]);
    let accepted = rows.as_array().unwrap().iter().map(|row| &row["accepted"]);
    assert_eq!(accepted.collect::<Vec<_>>(), [20, 20, 20], "{rows}");
}

#[test]
fn the_quick_search_of_a_gallery_finds_what_the_plain_one_finds() {
    let found = bench(&[
        "match",
        "--pictures=2000",
        "--people=100",
        "--rounds=20",
        "--json",
    ]);
    assert_eq!(
        (&found["pictures"], &found["people"]),
        (&2000.into(), &100.into())
    );
}
