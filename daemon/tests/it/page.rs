//! The status table in a real browser, driven by a script of its own.

use std::path::Path;
use std::process::Command;

use crate::support::Board;

#[test]
fn the_table_shows_a_new_picture_by_itself_and_is_whole_without_javascript() {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.dev/node_modules");
    let modules = std::env::var("KITHD_NODE_MODULES").unwrap_or_else(|_| modules.display().to_string());
    assert!(
        Path::new(&modules).join("playwright-core").is_dir(),
        "playwright-core is not installed; ./dev test installs it"
    );
    let mut board = Board::new();
    board.start();
    board.enroll_everybody();
    let picture = board.put("obama_2.jpg", "browser.jpg");
    let output = Command::new("node")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser/page.mjs"))
        .args([board.url("/"), picture])
        .env("KITHD_NODE_MODULES", modules)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", crate::support::text(&output));
}
