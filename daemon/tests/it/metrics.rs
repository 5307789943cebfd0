//! Prometheus's metrics and the history behind the charts, of a board at work.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{TestDaemon, text, wait_for};

/// Has Prometheus's own program check metrics.
pub fn check(metrics: &str) {
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is not installed; ./dev test installs it (Debian's package prometheus)");
    check
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(
        output.status.success() && text(&output).is_empty(),
        "{}\n{metrics}",
        text(&output)
    );
}

#[test]
fn metrics_of_a_board_at_work_are_valid_and_name_nobody() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let id = daemon.post_path(&daemon.put("obama_2.jpg", "a.jpg"));
    assert_eq!(daemon.ended(id)["outcome"], "known");
    let metrics = daemon.get_text("/metrics");
    check(&metrics);
    assert!(
        metrics
            .lines()
            .any(|line| line.starts_with("kithd_images{state=\"processed\"} 1")),
        "{metrics}"
    );
    assert!(!metrics.contains("Obama") && !metrics.contains("a.jpg"));
    let board_now = &daemon.get("/v1/health")["board"];
    assert!(
        board_now["sensors"].is_array() && board_now["reasons"].is_array(),
        "{board_now}"
    );
}

#[test]
fn where_the_breaker_has_been_is_kept() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    wait_for("the engine", || {
        daemon.kithd(["breaker"]).status.success().then_some(())
    });
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    let changes =
        || daemon.sql("SELECT state, reason FROM breaker_history ORDER BY id DESC LIMIT 1");
    wait_for("the change to be written down", || {
        changes()
            .first()
            .is_some_and(|change| change.starts_with("forced_open|"))
            .then_some(())
    });
    assert!(changes()[0].contains("operator"), "{:?}", changes());
    assert!(daemon.kithd(["breaker", "close"]).status.success());
    wait_for("the next one", || {
        changes()[0].starts_with("closed|").then_some(())
    });
}
