//! Several boards drain one topic: a shared subscription, one of them killed, returning, and replaced.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::broker::Mosquitto;
use crate::support::{Board, Subscriber, part_is_ok, photo, publish, wait_for};

/// `mqtt.receive_maximum`: unacknowledged at a kill are so many messages at most.
const UNDER_WAY: usize = 16;

fn member(broker: &Mosquitto, device: &str, mount: &Path) -> Board {
    let mut board = Board::with_broker(broker.port());
    board.set("device", device);
    board.set("intake.roots", &format!("[{:?}]", mount.display().to_string()));
    board.set("shared.group", "boards");
    board.set("shared.path_topics", "[\"site/paths\"]");
    board.set("shared.session_expiry", "1h");
    board.start();
    part_is_ok(&board, "mqtt shared");
    board
}

/// Puts pictures on the mount that all share, and publishes their paths.
fn send(broker: &Mosquitto, mount: &Path, names: std::ops::Range<usize>) {
    let picture = std::fs::read(photo("noface.jpg")).unwrap();
    for n in names {
        // Each its own, so that its key is.
        let path = mount.join(format!("{n}.jpg"));
        std::fs::write(&path, [picture.as_slice(), n.to_string().as_bytes()].concat()).unwrap();
        publish(broker.port(), "site/paths", path.to_str().unwrap());
    }
}

/// Results by path, once there is one for each.
fn results(seen: &mut Subscriber, count: usize) -> BTreeMap<String, Vec<Value>> {
    wait_for(&format!("results of {count} pictures"), || {
        let mut by_path: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut messages: Vec<&str> =
            seen.messages().iter().filter_map(|message| message["payload"].as_str()).collect();
        // A result may be delivered twice, byte for byte: that is the same one.
        messages.sort_unstable();
        messages.dedup();
        for message in messages {
            let result: Value = serde_json::from_str(message).unwrap();
            by_path.entry(result["path"].as_str().unwrap().into()).or_default().push(result);
        }
        (by_path.len() == count).then_some(by_path)
    })
}

#[test]
fn two_boards_share_one_topic_and_one_that_is_killed_and_returns_loses_nothing() {
    let broker = Mosquitto::running();
    let mount = tempfile::tempdir().unwrap();
    let mut seen = Subscriber::new(broker.port(), "kithd/+/result");
    let (mut first, second) = (member(&broker, "first", mount.path()), member(&broker, "second", mount.path()));
    send(&broker, mount.path(), 0..60);
    first.kill();
    send(&broker, mount.path(), 60..120);
    first.start();
    let results = results(&mut seen, 120);
    for (path, results) in &results {
        // Only one that was done and not acknowledged at the kill may be done again; its key says that it is the same.
        assert!(
            results.len() <= 2 && results.iter().all(|result| result["picture_key"] == results[0]["picture_key"]),
            "{path}"
        );
    }
    assert!(results.values().filter(|results| results.len() == 2).count() <= UNDER_WAY);
    for board in [&first, &second] {
        let share: usize = board.sql("select count(*) from images")[0].parse().unwrap();
        assert!(share >= 30, "one board had only {share} of 120");
    }
}

#[test]
fn a_board_that_never_returns_is_replaced_by_one_of_its_name_and_nothing_is_lost() {
    let broker = Mosquitto::running();
    let mount = tempfile::tempdir().unwrap();
    let mut seen = Subscriber::new(broker.port(), "kithd/+/result");
    let (mut first, _second) = (member(&broker, "first", mount.path()), member(&broker, "second", mount.path()));
    send(&broker, mount.path(), 0..60);
    wait_for("all of the first half", || (seen.messages().len() == 60).then_some(()));
    // What it has taken is done. From now on it acknowledges nothing: its share waits at the broker.
    let stop = std::process::Command::new("kill").args(["-STOP", &first.pid().to_string()]).status().unwrap();
    assert!(stop.success());
    send(&broker, mount.path(), 60..120);
    first.kill();
    drop(first);
    let replacement = member(&broker, "first", mount.path());
    let results = results(&mut seen, 120);
    assert!(results.values().all(|results| results.len() == 1), "{results:?}");
    assert!(replacement.sql("select count(*) from images")[0].parse::<usize>().unwrap() >= 15);
}
