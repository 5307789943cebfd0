//! Refusals that a broker does not announce, and traces of a board whose name changed.

use std::process::Command;

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::hostile_broker::{HostileBroker, publish as packet};
use crate::support::{Subscriber, TestDaemon, part_is_ok, publish, text, wait_for};

fn part(daemon: &TestDaemon, name: &str) -> (String, String) {
    let part = daemon.get("/v1/status")["parts"][name].clone();
    (
        part["condition"].as_str().unwrap_or("").into(),
        part["text"].as_str().unwrap_or("").into(),
    )
}

fn degraded(daemon: &TestDaemon, name: &str, words: &str) -> String {
    wait_for(&format!("{name} to say {words:?}"), || {
        let (condition, text) = part(daemon, name);
        (condition == "degraded" && text.contains(words)).then_some(text)
    })
}

#[test]
fn a_refused_birth_is_named_for_as_long_as_it_is_refused() {
    let lacking = "topic readwrite kithd/board/health\ntopic readwrite kithd/board/image/#\n";
    let broker = Mosquitto::running_with("acl_file acl", &[("acl", lacking)]);
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.start();
    let said = degraded(
        &daemon,
        "mqtt out",
        "refused to let us publish kithd/board/status (NotAuthorized)",
    );
    assert!(
        said.contains("access list must let the client kithd-board-out do that"),
        "{said}"
    );
    assert!(daemon.get_text("/").contains("kithd/board/status"));
    let doctor = text(&daemon.kithd(["doctor"]));
    assert!(
        doctor.contains("PROBLEM  mqtt out:")
            && doctor.contains("does not let it publish on kithd/board/echo"),
        "{doctor}"
    );
    broker.reload("acl", "topic readwrite #\n");
    part_is_ok(&daemon, "mqtt out");
    let doctor = text(&daemon.kithd(["doctor"]));
    assert!(
        doctor.contains("delivers what it publishes on kithd/board/echo"),
        "{doctor}"
    );
}

#[test]
fn the_doctor_finds_what_a_broker_of_mqtt_3_1_1_keeps_back() {
    // Neither version reports a refused read, and 3.1.1 reports no refusal at all.
    for (version, acl) in [
        ("5", "topic write kithd/board/#\n"),
        ("3.1.1", "topic write kithd/board/#\n"),
        ("3.1.1", "topic read #\n"),
    ] {
        let broker = Mosquitto::running_with("acl_file acl", &[("acl", acl)]);
        let mut daemon = TestDaemon::with_broker(broker.port());
        daemon.set("mqtt.version", &format!("{version:?}"));
        let doctor = text(&daemon.kithd(["doctor"]));
        assert!(
            doctor.contains("does not come back: publishing or reading is refused without a word"),
            "{acl}{doctor}"
        );
    }
}

#[test]
fn one_refused_topic_of_a_person_stays_named_while_others_pass() {
    let acl = "topic readwrite kithd/board/result\ntopic readwrite kithd/board/status\n\
               topic readwrite kithd/board/health\ntopic readwrite kithd/board/sighting\n\
               topic readwrite kithd/board/person/joe-biden\n";
    let broker = Mosquitto::running_with("acl_file acl", &[("acl", acl)]);
    let mut daemon = TestDaemon::with_broker(broker.port());
    // The second visit of one person has an event of its own.
    daemon.set("sighting.gap", "1s");
    daemon.start_with_everybody();
    part_is_ok(&daemon, "mqtt out");
    // A sighting that has ended was told before: messages keep their order.
    let visit = |picture: &str, name: &str, visits: u32| {
        daemon.ended(daemon.post_path(&daemon.put(picture, name)));
        let told = format!(
            "select count(*) = {visits} and (select count(*) from sighting_outbox) = 0
               from sightings where ended_ms is not null"
        );
        wait_for("the visit", || (daemon.sql(&told) == ["1"]).then_some(()));
    };
    visit("obama_2.jpg", "a.jpg", 1);
    degraded(&daemon, "events", "NotAuthorized");
    visit("biden_2.jpg", "b.jpg", 2);
    assert_eq!(part(&daemon, "events").0, "degraded");
    broker.reload("acl", "topic readwrite #\n");
    visit("obama_2.jpg", "c.jpg", 3);
    assert_eq!(part(&daemon, "events").0, "ok");
}

#[test]
fn messages_lost_at_qos_0_are_counted_and_shown() {
    let broker = HostileBroker::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.start();
    wait_for("the connection", || {
        broker.send("kithd-board", &[0xD0, 0]).then_some(())
    });
    let burst: Vec<u8> = (0..500)
        .flat_map(|_| packet(5, b"kithd/board/image", 0, &[], b"no picture"))
        .collect();
    broker.send("kithd-board", &burst);
    degraded(
        &daemon,
        "mqtt",
        "messages that were sent at QoS 0 were lost",
    );
}

/// Returns the name and payload of each message retained below a topic.
fn retained(broker: &Mosquitto, topic: &str) -> Vec<(String, String)> {
    let mut kept = Subscriber::new(broker.port(), topic);
    // The broker sends retained messages before any published after the subscription.
    publish(broker.port(), &topic.replace(['#', '+'], "marker"), "{}");
    wait_for("the marker", || {
        kept.messages()
            .iter()
            .any(|message| message["retain"] == 0)
            .then_some(())
    });
    let kept = kept
        .messages()
        .iter()
        .filter(|message| message["retain"] == 1);
    kept.map(|message| {
        (
            message["topic"].as_str().unwrap().into(),
            message["payload"].as_str().unwrap().into(),
        )
    })
    .collect()
}

#[test]
fn a_renamed_board_leaves_nothing_of_its_old_name_at_the_broker() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("device", "t1");
    daemon.set("homeassistant.enabled", "true");
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    part_is_ok(&daemon, "mqtt health");
    part_is_ok(&daemon, "home assistant");
    wait_for("its health", || {
        (!retained(&broker, "kithd/t1/#").is_empty()).then_some(())
    });
    daemon.stop();
    // The broker accepts these for the old session.
    for n in 0..3 {
        publish(
            broker.port(),
            "kithd/t1/image/post",
            &daemon.put("noface.jpg", &format!("{n}.jpg")),
        );
    }
    daemon.set("device", "t2");
    daemon.start();
    wait_for("the old name to be cleared", || {
        part(&daemon, "former names")
            .1
            .contains("nothing is left of kithd/t1")
            .then_some(())
    });
    assert_eq!(retained(&broker, "kithd/t1/#"), []);
    // Home Assistant knows the board by its number: one device under the new name.
    let devices = retained(&broker, "homeassistant/device/+/config");
    assert_eq!(devices.len(), 1, "{devices:?}");
    assert!(devices[0].1.contains("kithd/t2/status"), "{devices:?}");
    assert!(!devices[0].1.contains("kithd/t1"), "{devices:?}");
    // The messages that waited in the old session are taken.
    wait_for("what waited under the old name", || {
        (daemon.sql("select count(*) from images") == ["3"]).then_some(())
    });
    publish(broker.port(), "kithd/t1/image/post", "/nobody/listens.jpg");
    daemon.stop();
    assert_eq!(daemon.sql("select count(*) from images"), ["3"]);
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    assert_eq!(
        part(&daemon, "former names").0,
        "",
        "it is looked after once"
    );
}

#[test]
fn a_copied_card_touches_nothing_of_the_board_it_came_from() {
    let broker = Mosquitto::running();
    let mut first = TestDaemon::with_broker(broker.port());
    first.set("device", "t1");
    first.set("homeassistant.enabled", "true");
    first.start();
    part_is_ok(&first, "mqtt health");
    part_is_ok(&first, "home assistant");
    first.stop();
    let mut copy = TestDaemon::with_broker(broker.port());
    let (from, to) = (
        first.folder.path().join("state"),
        copy.folder.path().join("state"),
    );
    assert!(
        Command::new("cp")
            .arg("-a")
            .args([&from, &to])
            .status()
            .unwrap()
            .success()
    );
    first.start_connected();
    part_is_ok(&first, "home assistant");
    copy.set("device", "t2");
    copy.set("homeassistant.enabled", "true");
    copy.start();
    degraded(&copy, "former names", "kithd/t1 is still in use");
    let status = |kept: &[(String, String)]| {
        kept.iter()
            .any(|(topic, text)| topic == "kithd/t1/status" && text == "online")
    };
    assert!(status(&retained(&broker, "kithd/t1/#")));
    assert!(!retained(&broker, "homeassistant/device/+/config").is_empty());
    // A name that another board uses, with its own number, is left alone for good.
    copy.stop();
    let health = json!({ "board": "another board" }).to_string();
    first.stop();
    let keep = |topic: &str, payload: &str| {
        crate::support::publish_with(broker.port(), topic, &["-r", "-m", payload]);
    };
    keep("kithd/t1/health", &health);
    copy.start();
    wait_for("the name to be another board's", || {
        part(&copy, "former names")
            .1
            .contains("is another board's name now")
            .then_some(())
    });
    let kept: Vec<Value> = retained(&broker, "kithd/t1/#")
        .into_iter()
        .map(|(topic, _)| topic.into())
        .collect();
    assert!(
        kept.contains(&json!("kithd/t1/health")) && kept.contains(&json!("kithd/t1/status")),
        "{kept:?}"
    );
}
