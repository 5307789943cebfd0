//! Messages that follow from results: events about people, and Home Assistant's discovery.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, no_face, part_is_ok, publish, wait_for};

#[test]
fn a_known_person_is_an_event_that_expires_unretained() {
    let broker = Mosquitto::running();
    let mut events = Subscriber::new(broker.port(), "kithd/board/person/#");
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.event_expiry", "5m");
    daemon.start_with_everybody();
    for (picture, name) in [
        ("obama_2.jpg", "a.jpg"),
        ("noface.jpg", "b.jpg"),
        ("biden_2.jpg", "c.jpg"),
    ] {
        let id = daemon.post_path(&daemon.put(picture, name));
        daemon.ended(id);
    }
    let results = results.wait(3);
    let bodies = events.wait(2);
    let topics: Vec<_> = events
        .messages()
        .iter()
        .map(|event| event["topic"].clone())
        .collect();
    assert_eq!(
        topics,
        [
            "kithd/board/person/barack-obama",
            "kithd/board/person/joe-biden"
        ]
    );
    assert_eq!(bodies[0]["person"]["name"], "Barack Obama");
    assert_eq!(bodies[0]["result_id"], results[0]["result_id"]);
    let sighting = bodies[0]["sighting_id"].as_str().unwrap();
    let person = &bodies[0]["person"]["id"];
    assert_eq!(bodies[0]["event_id"], json!(format!("{sighting}-{person}")));
    for event in events.messages() {
        let expiry: u64 = event["expiry"].as_str().unwrap().parse().unwrap();
        assert!(
            (1..=300).contains(&expiry) && event["retain"] == 0,
            "{event}"
        );
    }
}

#[test]
fn events_that_aged_in_an_outage_are_dropped_results_are_not() {
    let mut broker = Mosquitto::running();
    let mut events = Subscriber::lasting(broker.port(), "kithd/board/person/#", "events");
    let mut results = Subscriber::lasting(broker.port(), "kithd/board/result", "results");
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.event_expiry", "8s");
    daemon.start_with_everybody();
    part_is_ok(&daemon, "mqtt out");
    broker.wait_for_saved("events");
    broker.wait_for_saved("results");
    broker.kill();
    let old = daemon.post_path(&daemon.put("obama_2.jpg", "old.jpg"));
    let accepted = daemon.ended(old)["accepted_at_ms"].as_i64().unwrap();
    wait_for("it to be no news any more", || {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        (now.as_millis() as i64 > accepted + 8000).then_some(())
    });
    broker.start();
    part_is_ok(&daemon, "mqtt out");
    let new = daemon.post_path(&daemon.put("biden_2.jpg", "new.jpg"));
    daemon.ended(new);
    let ids: Vec<_> = results
        .wait(2)
        .iter()
        .map(|result| result["image_id"].clone())
        .collect();
    assert_eq!(ids, [json!(old), json!(new)]);
    // Events leave in the order of results, so an event about the old picture would have come
    // first.
    assert_eq!(events.wait(1)[0]["image_id"], json!(new));
}

/// The board's status names the refusal.
#[test]
fn a_broker_that_refuses_events_still_gets_the_results() {
    let acl = "topic readwrite kithd/board/result\ntopic readwrite kithd/board/status\ntopic readwrite kithd/board/health\n";
    let broker = Mosquitto::running_with("acl_file acl", &[("acl", acl)]);
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.start_with_everybody();
    for n in 0..2 {
        daemon.post_path(&daemon.put("obama_2.jpg", &format!("{n}.jpg")));
    }
    results.wait(2);
    wait_for("the problem", || {
        let part = daemon.get("/v1/status")["parts"]["events"].clone();
        let text = part["text"].as_str()?;
        (part["condition"] == "degraded" && text.contains("NotAuthorized")).then_some(())
    });
    daemon.all_sent();
}

/// Returns the last message of each announcement, by the object id of its topic.
fn announced(discovery: &mut Subscriber) -> BTreeMap<String, Value> {
    let messages = discovery.messages().iter().map(|message| {
        let topic = message["topic"].as_str().unwrap();
        let object = topic.split('/').nth(2).unwrap().to_owned();
        let payload = message["payload"].as_str().unwrap();
        (object, serde_json::from_str(payload).unwrap_or(Value::Null))
    });
    messages.collect()
}

#[test]
fn home_assistant_is_told_once_at_each_start_of_both() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("homeassistant.enabled", "true");
    daemon.set("homeassistant.page", "http://gate.example:8000/");
    daemon.set("mqtt.commands", "[\"breaker\"]");
    let mut discovery = Subscriber::new(broker.port(), "homeassistant/device/+/config");
    let mut faces = Subscriber::new(broker.port(), "kithd/board/face");
    daemon.start();
    part_is_ok(&daemon, "home assistant");
    // The board and its breaker, once; and the picture of no face, when Home Assistant has had the
    // time to subscribe.
    wait_for("the picture of no face", || {
        (faces.messages().len() == 1).then_some(())
    });
    assert_eq!(discovery.wait(2).len(), 2);
    let messages = announced(&mut discovery);
    let [(own, board), (_, breaker)] = &messages.iter().collect::<Vec<_>>()[..] else {
        panic!("{messages:?}");
    };
    assert!(
        discovery
            .messages()
            .iter()
            .all(|message| message["retain"] == 0),
        "live messages"
    );
    let mut later = Subscriber::new(broker.port(), &format!("homeassistant/device/{own}/config"));
    later.wait(1);
    assert_eq!(later.messages()[0]["retain"], 1);
    assert_eq!(board["device"]["identifiers"], json!([own]));
    assert_eq!(
        own.strip_prefix("kithd_").unwrap(),
        board["device"]["serial_number"]
    );
    assert_eq!(
        board["device"]["configuration_url"],
        "http://gate.example:8000"
    );
    assert_eq!(board["availability"][0]["topic"], "kithd/board/status");
    assert_eq!(
        breaker["components"]["breaker_command"]["command_topic"],
        "kithd/board/command/breaker"
    );
    publish(broker.port(), "homeassistant/status", "online");
    discovery.wait(4);
    wait_for("the picture of no face again", || {
        let faces = faces.messages();
        (faces.len() == 2).then(|| {
            assert_eq!(faces[1]["payload"], no_face());
            assert_eq!(faces[1]["retain"], 0);
        })
    });

    // Commands are not allowed any more: what switches the breaker is taken back.
    daemon.stop();
    daemon.unset("mqtt.commands");
    daemon.start();
    wait_for("the breaker's switch to be taken back", || {
        let messages = announced(&mut discovery);
        (messages
            .values()
            .filter(|message| message.is_null())
            .count()
            == 1)
            .then_some(())
    });

    daemon.stop();
    daemon.set("homeassistant.enabled", "false");
    daemon.start();
    wait_for("the device to be taken back", || {
        announced(&mut discovery)
            .values()
            .all(Value::is_null)
            .then_some(())
    });
    let mut nothing = Subscriber::new(broker.port(), "homeassistant/#");
    publish(broker.port(), "homeassistant/marker", "{}");
    nothing.wait(1);
    assert_eq!(nothing.messages()[0]["topic"], "homeassistant/marker");
    // Once switched off, the board publishes nothing at all.
    wait_for("nothing to be left", || {
        (daemon.sql("select value from facts where key = 'homeassistant_announced'") == ["[]"])
            .then_some(())
    });
}

#[test]
fn people_are_announced_on_request_and_taken_back() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("homeassistant.enabled", "true");
    daemon.set("homeassistant.people", "true");
    let mut discovery = Subscriber::new(broker.port(), "homeassistant/device/+/config");
    daemon.start_with_everybody();
    let mut names = || {
        let messages = announced(&mut discovery);
        let people = messages
            .iter()
            .filter(|(object, _)| object.contains("_person_"));
        let mut names: Vec<_> = people
            .filter_map(|(_, message)| {
                let components = message["components"].as_object()?;
                components
                    .values()
                    .find(|component| component["platform"] == "binary_sensor")
                    .map(|component| component["name"].as_str().unwrap().to_owned())
            })
            .collect();
        names.sort();
        names
    };
    wait_for("everybody", || {
        (names() == ["Barack Obama", "Eileen Collins", "Joe Biden"]).then_some(())
    });
    assert!(
        daemon
            .kithd(["people", "rename", "Joe Biden", "Joe"])
            .status
            .success()
    );
    assert!(
        daemon
            .kithd(["forget", "--yes", "Barack Obama"])
            .status
            .success()
    );
    wait_for("the names to follow", || {
        (names() == ["Eileen Collins", "Joe"]).then_some(())
    });
    let mut kept = Subscriber::new(broker.port(), "homeassistant/device/+/config");
    publish(broker.port(), "homeassistant/device/marker/config", "{}");
    wait_for("the retained messages", || {
        let messages = announced(&mut kept);
        messages.contains_key("marker").then(|| {
            let text = json!(messages).to_string();
            assert!(!text.contains("Obama") && !text.contains("Biden"), "{text}");
        })
    });
}

#[test]
fn refused_results_wait_in_order_and_their_event_goes_once() {
    let all = "topic readwrite #\n";
    let broker = Mosquitto::running_with("acl_file acl", &[("acl", all)]);
    let mut events = Subscriber::new(broker.port(), "kithd/board/person/#");
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let daemon = TestDaemon::connected(&broker);
    broker.reload(
        "acl",
        "topic readwrite kithd/board/person/#\ntopic readwrite kithd/board/status\n",
    );
    let ids: Vec<_> = (0..12)
        .map(|n| daemon.post_path(&daemon.put("obama_2.jpg", &format!("{n}.jpg"))))
        .collect();
    wait_for("the problem", || {
        let part = daemon.get("/v1/status")["parts"]["results"].clone();
        (part["condition"] == "degraded" && part["text"].as_str()?.contains("NotAuthorized"))
            .then_some(())
    });
    ids.iter().for_each(|id| drop(daemon.ended(*id)));
    assert_eq!(daemon.get("/v1/status")["counts"]["unsent"], 12);
    broker.reload("acl", all);
    let sent: Vec<_> = results
        .wait(12)
        .iter()
        .map(|result| result["image_id"].to_string())
        .collect();
    assert_eq!(sent, daemon.sql("select image_id from results order by id"));
    daemon.all_sent();
    // All twelve are one sighting, whose event does not wait for them.
    let [event] = &events.wait(1)[..] else {
        panic!("{:?}", events.messages());
    };
    assert_eq!(event["person"]["name"], "Barack Obama");
    part_is_ok(&daemon, "results");
}
