//! SIGTERM and kill -9 at any time: nothing accepted is lost, no image gets two results.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, full, publish, wait_for};

fn processed(daemon: &TestDaemon) -> u64 {
    daemon.get("/v1/status")["counts"]["processed"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_stop_during_work_ends_with_0_in_time_and_loses_nothing() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let ids: Vec<_> = (0..30)
        .map(|n| daemon.post_path(&daemon.put("group.jpg", &format!("{n}.jpg"))))
        .collect();
    wait_for("some work", || (processed(&daemon) > 2).then_some(()));
    let begun = std::time::Instant::now();
    assert_eq!(daemon.stop(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(12),
        "the stop took {:?}",
        begun.elapsed()
    );
    assert_eq!(
        daemon.sql("select count(*) from images where state = 'processing'"),
        ["0"]
    );
    daemon.start();
    for id in ids {
        let image = daemon.ended(id);
        assert_eq!(
            (image["state"].as_str(), image["attempts"].as_u64()),
            (Some("processed"), Some(1)),
            "{image}"
        );
    }
}

#[test]
fn kills_at_any_time_lose_nothing_and_give_no_image_two_results() {
    let kills = if full() { 100 } else { 12 };
    let mut broker = Mosquitto::running();
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("retry.attempts", "100");
    daemon.start_with_everybody();
    let mut accepted = BTreeSet::new();
    let mut published = BTreeSet::new();
    for kill in 0..kills {
        for n in 0..4 {
            let name = ["obama_2.jpg", "biden_2.jpg", "noface.jpg", "group.jpg"][n];
            accepted.insert(daemon.post_path(&daemon.put(name, &format!("h{kill}-{n}.jpg"))));
            let path = daemon.put(name, &format!("m{kill}-{n}.jpg"));
            publish(broker.port(), "kithd/board/image/post", &path);
            published.insert(path);
        }
        // The kill falls anywhere between the first claim and the middle of the work.
        std::thread::sleep(Duration::from_millis(37 * (kill % 12)));
        daemon.kill();
        if kill == kills / 2 {
            broker.kill();
            broker.start();
            results = Subscriber::new(broker.port(), "kithd/board/result");
        }
        daemon.start();
    }
    wait_for("all published paths", || {
        let paths: BTreeSet<String> = daemon
            .sql("select path from images where source = 'mqtt'")
            .into_iter()
            .collect();
        paths.is_superset(&published).then_some(())
    });
    wait_for("all images", || {
        let counts = &daemon.get("/v1/status")["counts"];
        (counts["pending"] == 0 && counts["processing"] == 0 && counts["unsent"] == 0).then_some(())
    });
    let kept: BTreeSet<i64> = daemon
        .sql("select id from images where source = 'http'")
        .iter()
        .map(|id| id.parse().unwrap())
        .collect();
    assert_eq!(kept, accepted, "accepted by HTTP and in the table");
    assert_eq!(
        daemon.sql("select count(*) from images where state <> 'processed'"),
        ["0"]
    );
    assert_eq!(
        daemon.sql("select count(*) from (select image_id from results group by image_id having count(*) > 1)"),
        ["0"]
    );
    assert_eq!(daemon.sql("pragma integrity_check"), ["ok"]);
    let mut by_image: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
    for message in results.messages() {
        let payload = message["payload"].as_str().unwrap();
        let result: Value = serde_json::from_str(payload).unwrap();
        by_image
            .entry(result["image_id"].as_i64().unwrap())
            .or_default()
            .insert(payload.to_string());
    }
    // Results go out in the order in which images ended. Those before the first that the newer subscription
    // saw may have gone to the one that died with the broker.
    let order: Vec<i64> = daemon
        .sql("select image_id from results order by id")
        .iter()
        .map(|id| id.parse().unwrap())
        .collect();
    let first = order
        .iter()
        .position(|id| by_image.contains_key(id))
        .expect("no result was published");
    let missing: Vec<_> = order[first..]
        .iter()
        .filter(|id| !by_image.contains_key(id))
        .collect();
    assert!(
        missing.is_empty(),
        "no result was published for {missing:?}"
    );
    for (image, payloads) in by_image {
        assert_eq!(
            payloads.len(),
            1,
            "image {image} was published with different bytes: {payloads:?}"
        );
    }
}

#[test]
fn a_second_signal_ends_the_program_at_once() {
    let mut daemon = TestDaemon::new();
    daemon.set("stop.drain", "60s");
    daemon.set("recognition.deadline", "60s");
    daemon.start();
    let engine = wait_for("an engine", || {
        daemon.get("/v1/breaker")["primary"]["pid"].as_u64()
    });
    let signal = |name: &str, pid: u64| {
        assert!(
            std::process::Command::new("kill")
                .args([name, &pid.to_string()])
                .status()
                .unwrap()
                .success()
        );
    };
    // A picture in a stopped engine never ends, and neither does the drain.
    signal("-STOP", engine);
    daemon.post_path(&daemon.put("group.jpg", "x.jpg"));
    wait_for("the picture to be in the engine", || {
        (daemon.get("/v1/status")["counts"]["processing"] == 1).then_some(())
    });
    signal("-TERM", daemon.pid().into());
    wait_for("the stop to begin", || {
        daemon.log().contains("stopping").then_some(())
    });
    let begun = std::time::Instant::now();
    assert_eq!(daemon.stop(), Some(1));
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}
