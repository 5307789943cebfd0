//! Bytes that an identified picture writes to disk, counted by the kernel.

use serde_json::Value;

use crate::broker::Mosquitto;
use crate::support::{TestDaemon, text};

/// Thumbnails and crops are not counted.
#[test]
fn ten_pictures_a_second_write_less_than_22_kb_each() {
    let broker = Mosquitto::running();
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    // The folder is beside the build, on a disk; in memory nothing is counted, and the command
    // refuses.
    let output = TestDaemon::new().kithd([
        "bench",
        "writes",
        "--json",
        "--pictures=60",
        "--lone=0",
        "--broker",
        &url,
        "--folder",
        env!("CARGO_TARGET_TMPDIR"),
    ]);
    assert!(output.status.success(), "{}", text(&output));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &rows[0];
    println!("{row}");
    let (written, rest) = (
        row["written"].as_u64().unwrap(),
        row["rest"].as_u64().unwrap(),
    );
    assert!(written > 4096, "counted next to nothing: {row}");
    assert!(rest < 22_000, "{row}");
}
