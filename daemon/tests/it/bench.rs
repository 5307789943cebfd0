//! `kithd bench daemon` as users run it: its results must be right. No test here looks at times.

use serde_json::Value;

use crate::support::{TestDaemon, text};

#[test]
fn the_boards_bench_finds_its_faces_in_every_precision() {
    let output = TestDaemon::new().kithd(["bench", "board", "--rounds=1", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    let speed: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (precision, farthest) in [("float32", 0.05), ("int8", 0.15)] {
        let of = |list: &str| -> Vec<&Value> {
            speed[list]
                .as_array()
                .unwrap()
                .iter()
                .filter(|row| row["precision"] == precision)
                .collect()
        };
        for cores in ["one_thread", "all_cores"] {
            let side_and_faces = |row: &&Value| {
                (
                    row["width"].as_u64().unwrap(),
                    row["faces"].as_u64().unwrap(),
                )
            };
            let found: Vec<_> = of(cores).iter().map(side_and_faces).collect();
            assert_eq!(
                found,
                [(640, 1), (3840, 4), (3840, 0)],
                "{precision}, {cores}"
            );
        }
        assert!(
            of("self_tests")[0]["from_reference"].as_f64().unwrap() <= farthest,
            "{speed}"
        );
        assert!(
            of("networks")
                .iter()
                .any(|row| row["network"] == "recogniser"),
            "{speed}"
        );
        assert_eq!(of("every_core").len(), 1);
    }
    let machine = &speed["machine"];
    assert!(
        machine["cores"].as_u64() >= Some(1)
            && machine["model"]
                .as_str()
                .is_some_and(|model| !model.is_empty())
    );
}

#[test]
fn the_block_to_paste_names_board_and_version_above_its_tables() {
    let output = TestDaemon::new().kithd(["bench", "board", "--rounds=1"]);
    assert!(output.status.success(), "{}", text(&output));
    let block = String::from_utf8(output.stdout).unwrap();
    assert!(
        block.starts_with("**") && block.contains(concat!("kithd ", env!("CARGO_PKG_VERSION"))),
        "{block}"
    );
    for row in [
        "| int8, 640×480, faces: 1 |",
        "| recogniser int8 | 1×3×112×112 |",
        "| float32 | ",
    ] {
        assert!(block.contains(row), "{row} is not in\n{block}");
    }
}
