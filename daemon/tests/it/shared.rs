//! Several boards drain one topic: a shared subscription, one of them killed, returning, and
//! replaced.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::broker::Mosquitto;
use crate::handing_broker::HandingBroker;
use crate::support::{Subscriber, TestDaemon, part_is_ok, photo, publish, wait_for};

/// `mqtt.receive_maximum`: unacknowledged at a kill are so many messages at most.
const UNDER_WAY: usize = 16;

fn member(port: u16, device: &str, mount: &Path) -> TestDaemon {
    let mut daemon = TestDaemon::with_broker(port);
    daemon.set("device", device);
    daemon.set(
        "intake.roots",
        &format!("[{:?}]", mount.display().to_string()),
    );
    daemon.set("shared.group", "boards");
    daemon.set("shared.path_topics", "[\"site/paths\"]");
    daemon.set("shared.session_expiry", "1h");
    daemon.start();
    part_is_ok(&daemon, "mqtt shared");
    daemon
}

/// Puts pictures on the mount that all share, each with a key of its own.
fn place(mount: &Path, names: std::ops::Range<usize>) -> Vec<String> {
    let picture = std::fs::read(photo("noface.jpg")).unwrap();
    let put = |n: usize| {
        let path = mount.join(format!("{n}.jpg"));
        std::fs::write(
            &path,
            [picture.as_slice(), n.to_string().as_bytes()].concat(),
        )
        .unwrap();
        path.display().to_string()
    };
    names.map(put).collect()
}

/// Publishes their paths.
fn send(broker: &Mosquitto, mount: &Path, names: std::ops::Range<usize>) {
    place(mount, names)
        .iter()
        .for_each(|path| publish(broker.port(), "site/paths", path));
}

/// Results by path, once there is one for each.
fn results(seen: &mut Subscriber, count: usize) -> BTreeMap<String, Vec<Value>> {
    wait_for(&format!("results of {count} pictures"), || {
        let messages = seen
            .messages()
            .iter()
            .filter_map(|message| message["payload"].as_str().map(String::from));
        let by_path = by_path(messages.collect());
        (by_path.len() == count).then_some(by_path)
    })
}

fn by_path(mut messages: Vec<String>) -> BTreeMap<String, Vec<Value>> {
    // A result may be delivered twice, byte for byte: that is the same one.
    messages.sort_unstable();
    messages.dedup();
    let mut by_path: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for message in messages {
        let result: Value = serde_json::from_str(&message).unwrap();
        by_path
            .entry(result["path"].as_str().unwrap().into())
            .or_default()
            .push(result);
    }
    by_path
}

#[test]
fn two_boards_share_a_topic_and_a_kill_loses_nothing() {
    let broker = Mosquitto::running();
    let mount = tempfile::tempdir().unwrap();
    let mut seen = Subscriber::new(broker.port(), "kithd/+/result");
    let (mut first, second) = (
        member(broker.port(), "first", mount.path()),
        member(broker.port(), "second", mount.path()),
    );
    send(&broker, mount.path(), 0..60);
    first.kill();
    send(&broker, mount.path(), 60..120);
    first.start();
    let results = results(&mut seen, 120);
    for (path, results) in &results {
        // Only one that was done and not acknowledged at the kill may be done again; its key says
        // that it is the same.
        assert!(
            results.len() <= 2
                && results
                    .iter()
                    .all(|result| result["picture_key"] == results[0]["picture_key"]),
            "{path}"
        );
    }
    assert!(
        results
            .values()
            .filter(|results| results.len() == 2)
            .count()
            <= UNDER_WAY
    );
    for daemon in [&first, &second] {
        let share: usize = daemon.sql("select count(*) from images")[0]
            .parse()
            .unwrap();
        assert!(share >= 30, "one board had only {share} of 120");
    }
}

#[test]
fn a_board_that_never_returns_is_replaced_by_one_of_its_name() {
    let broker = Mosquitto::running();
    let mount = tempfile::tempdir().unwrap();
    let mut seen = Subscriber::new(broker.port(), "kithd/+/result");
    let (mut first, _second) = (
        member(broker.port(), "first", mount.path()),
        member(broker.port(), "second", mount.path()),
    );
    send(&broker, mount.path(), 0..60);
    results(&mut seen, 60);
    // Its messages so far are done. From now on it acknowledges nothing: its share waits at the
    // broker.
    let stop = std::process::Command::new("kill")
        .args(["-STOP", &first.pid().to_string()])
        .status()
        .unwrap();
    assert!(stop.success());
    send(&broker, mount.path(), 60..120);
    first.kill();
    drop(first);
    let replacement = member(broker.port(), "first", mount.path());
    let results = results(&mut seen, 120);
    assert!(
        results.values().all(|results| results.len() == 1),
        "{results:?}"
    );
    assert!(
        replacement.sql("select count(*) from images")[0]
            .parse::<usize>()
            .unwrap()
            >= 15
    );
}

/// Only these messages are processed twice.
#[test]
fn another_takes_over_what_a_lost_board_did_not_acknowledge() {
    let broker = HandingBroker::running();
    let mount = tempfile::tempdir().unwrap();
    let mut first = member(broker.port(), "first", mount.path());
    let second = member(broker.port(), "second", mount.path());
    wait_for("both members", || (broker.members() == 2).then_some(()));
    let half = place(mount.path(), 0..40);
    broker.send(half.clone());
    wait_for("the first half", || {
        (broker.unacknowledged() == 0 && by_path(broker.results()).len() == 40).then_some(())
    });
    // From now on its acknowledgements are lost until it is killed: it takes as many messages as it
    // may and processes them.
    broker.lose_acknowledgements_of("kithd-first-shared");
    let rest = place(mount.path(), 40..100);
    broker.send(rest.clone());
    wait_for("all but what waits for its acknowledgements", || {
        (by_path(broker.results()).len() == 100).then_some(())
    });
    first.kill();
    wait_for("the other to have done them again", || {
        let done: usize = by_path(broker.results()).values().map(Vec::len).sum();
        (broker.unacknowledged() == 0 && done >= 100 + broker.handed_on().len()).then_some(())
    });
    let handed_on = broker.handed_on();
    assert_eq!(handed_on.len(), UNDER_WAY);
    let results = by_path(broker.results());
    let all: Vec<_> = half.iter().chain(&rest).collect();
    assert_eq!(results.len(), all.len(), "none is lost");
    for path in all {
        let results = &results[path];
        let devices: Vec<_> = results
            .iter()
            .map(|result| result["device"].as_str().unwrap())
            .collect();
        if handed_on.contains(path) {
            assert!(
                devices.len() == 2 && devices[0] != devices[1],
                "{path}: {devices:?}"
            );
            assert_eq!(results[0]["picture_key"], results[1]["picture_key"]);
        } else {
            assert_eq!(devices.len(), 1, "{path}: {devices:?}");
        }
    }
    assert!(
        second.sql("select count(*) from images")[0]
            .parse::<usize>()
            .unwrap()
            >= 30 + UNDER_WAY
    );
}
