//! `kithd doctor` on daemons that are well and on daemons that are not.

use serde_json::Value;

use crate::broker::Mosquitto;
use crate::support::{TestDaemon, part_is_ok, text};

/// Returns the doctor's verdicts by part, and its exit code.
fn doctor(daemon: &TestDaemon) -> (Value, Option<i32>) {
    let output = daemon.kithd(["doctor", "--json"]);
    let found =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output)));
    (found, output.status.code())
}

fn verdict(found: &Value, part: &str) -> (String, String) {
    let findings = found["findings"].as_array().unwrap();
    // The worst line of a part counts.
    let worst = ["problem", "warning", "ok"].iter().find_map(|verdict| {
        findings
            .iter()
            .find(|finding| finding["part"] == part && finding["verdict"] == **verdict)
    });
    let worst = worst.unwrap_or_else(|| panic!("nothing on {part} in {found:#}"));
    if worst["verdict"] != "ok" {
        assert!(
            worst["advice"]
                .as_str()
                .is_some_and(|advice| !advice.is_empty()),
            "no advice: {worst}"
        );
    }
    (
        worst["verdict"].as_str().unwrap().into(),
        worst["text"].as_str().unwrap().into(),
    )
}

#[test]
fn a_well_board_is_found_well_with_and_without_its_daemon() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    let (found, code) = doctor(&daemon);
    assert_eq!(code, Some(0), "{found:#}");
    assert_eq!(verdict(&found, "database").0, "warning");
    assert_eq!(
        verdict(&found, "engine"),
        (
            "ok".into(),
            "starts, and recognises the bundled picture".into()
        )
    );
    assert!(
        !daemon.folder.path().join("state").exists(),
        "it made something"
    );
    daemon.start();
    part_is_ok(&daemon, "engine");
    part_is_ok(&daemon, "mqtt out");
    part_is_ok(&daemon, "gallery");
    let (found, code) = doctor(&daemon);
    assert_eq!(code, Some(0), "{found:#}");
    assert!(
        verdict(&found, "daemon").1.starts_with("running, version"),
        "{found:#}"
    );
    let root = format!("root {}", daemon.folder.path().join("inbox").display());
    for part in [
        "configuration",
        "state folder",
        "database",
        "disk",
        "models",
        "engine",
        "broker",
        "page",
        "circuit breaker",
    ] {
        assert_eq!(verdict(&found, part).0, "ok", "{part}: {found:#}");
    }
    // A temporary folder may be closed to the service's user, where there is one.
    assert!(["ok", "problem"].contains(&verdict(&found, &root).0.as_str()));
    let said = text(&daemon.kithd(["doctor"]));
    assert!(
        said.contains("ok       database: whole, schema 11") && said.contains("0 problems"),
        "{said}"
    );
}

#[test]
fn a_problem_is_found_with_its_remedy_and_the_exit_code_is_1() {
    let mut daemon = TestDaemon::with_broker(1);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    daemon.set("http.listen", &taken.local_addr().unwrap().to_string());
    let missing = daemon.folder.path().join("nowhere").display().to_string();
    daemon.set("intake.roots", &format!("[\"{missing}\"]"));
    daemon.set("models.pack", "/nowhere/pack");
    daemon.set("intake.disk_reserve", "1024GiB");
    let state = daemon.folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(state.join("token"), "0123456789abcdef0123456789abcdef").unwrap();
    std::fs::write(state.join("kithd.db"), b"this is no database".repeat(1000)).unwrap();
    let (found, code) = doctor(&daemon);
    assert_eq!(code, Some(1), "{found:#}");
    for (part, says) in [
        ("broker", "no connection to"),
        ("page", "cannot listen on"),
        ("models", "/nowhere/pack"),
        ("disk", "MiB free"),
        ("token", "can be read by others"),
        ("database", "damaged"),
    ] {
        let (verdict, text) = verdict(&found, part);
        assert!(
            verdict == "problem" && text.contains(says),
            "{part}: {verdict}: {text}"
        );
    }
    for part in ["state folder", &format!("root {missing}")] {
        assert_eq!(verdict(&found, part).0, "warning", "{part}");
    }
    assert_eq!(verdict(&found, "daemon").0, "warning");
    // The doctor changes nothing.
    assert!(state.join("kithd.db").exists() && !state.join("kithd.db.damaged-1").exists());
}

#[test]
fn what_the_daemon_says_is_wrong_is_a_problem_too() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    part_is_ok(&daemon, "engine");
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    let (found, code) = doctor(&daemon);
    assert_eq!(code, Some(1), "{found:#}");
    assert_eq!(verdict(&found, "circuit breaker").0, "problem");
}
