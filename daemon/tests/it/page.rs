//! The pages in a real browser, driven by scripts of their own.

use std::path::Path;
use std::process::Command;

use crate::support::{TestDaemon, photo, wait_for};

#[test]
fn the_pages_are_live_and_work_without_js_by_phone_and_keyboard() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    // The first page already shows a known person.
    let first = daemon.post_path(&daemon.put("biden_2.jpg", "known.jpg"));
    daemon.ended(first);
    let picture = daemon.put("obama_2.jpg", "browser.jpg");
    browse("page.mjs", &[&daemon.url("/"), &picture]);
}

/// It also lets the page retry images.
#[test]
fn the_token_lets_the_page_name_strangers_and_manage_people() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let astronaut = photo("astronaut_1.jpg");
    let enrolled = daemon.kithd([
        "enroll",
        "--person",
        "Eileen Collins",
        astronaut.to_str().unwrap(),
    ]);
    assert!(
        enrolled.status.success(),
        "{}",
        crate::support::text(&enrolled)
    );
    let broken = daemon.put_bytes(b"no picture at all", "broken.jpg");
    for path in [
        daemon.put("obama_1.jpg", "first.jpg"),
        daemon.put("obama_2.jpg", "second.jpg"),
        daemon.put("astronaut_2.jpg", "astronaut.jpg"),
        broken.clone(),
    ] {
        let id = daemon.post_path(&path);
        daemon.ended(id);
    }
    wait_for("the strangers to be grouped", || {
        let faces = daemon.get("/v1/strangers")["strangers"][0]["faces"].as_u64();
        (faces == Some(2)).then_some(())
    });
    let good = photo("biden_1.jpg").display().to_string();
    browse(
        "admin.mjs",
        &[&daemon.url("/"), &daemon.token(), &broken, &good],
    );
}

#[test]
fn visits_are_under_headings_of_the_reader_s_own_days() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    daemon.stop();
    for (id, began_ms) in [
        (1, 1_795_442_400_000_i64),
        (2, 1_795_449_600_000),
        (3, 1_795_485_600_000),
    ] {
        daemon.change(&format!(
            "INSERT INTO sightings (id, uid, source, began_ms, last_ms, last_came_ms, ended_ms, outcome,
                                    person_id, looks, space, total, weight, merit, changed)
               VALUES ({id}, 'u{id}', 'front', {began_ms}, {began_ms} + 5000, 0, {began_ms} + 61000,
                       'known', {id}, 9, 's', x'', 1, 0.5, {id})"
        ));
    }
    daemon.start();
    browse("days.mjs", &[&daemon.url("/")]);
}

/// Runs a script of `tests/browser` to its end.
pub fn browse(script: &str, arguments: &[&str]) {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.dev/node_modules");
    let modules =
        std::env::var("KITHD_NODE_MODULES").unwrap_or_else(|_| modules.display().to_string());
    assert!(
        Path::new(&modules).join("playwright-core").is_dir(),
        "playwright-core is not installed; ./dev test installs it"
    );
    let scripts = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser"));
    let mut command = Command::new("node");
    command
        .arg(scripts.join(script))
        .args(arguments)
        .env("KITHD_NODE_MODULES", modules);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", crate::support::text(&output));
}
