//! Messages that follow from results: events about people, and Home Assistant's discovery.

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, part_is_ok, publish, wait_for};

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

#[test]
fn home_assistant_is_told_again_at_its_start_unless_it_is_off() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("homeassistant.enabled", "true");
    daemon.start_with_everybody();
    part_is_ok(&daemon, "mqtt out");
    let config = "homeassistant/device/kithd_board/config";
    let mut discovery = Subscriber::new(broker.port(), config);
    let announced: Value = discovery.wait(1).remove(0);
    assert_eq!(discovery.messages()[0]["retain"], 1);
    assert_eq!(announced["device"]["identifiers"], json!(["kithd_board"]));
    assert_eq!(announced["availability"][0]["topic"], "kithd/board/status");
    let components = announced["components"].as_object().unwrap();
    let platforms: Vec<_> = components
        .values()
        .map(|component| component["platform"].as_str().unwrap())
        .collect();
    assert_eq!(platforms.len(), 4, "{platforms:?}");
    for platform in ["event", "image", "sensor", "binary_sensor"] {
        assert!(platforms.contains(&platform), "{platform}");
    }
    // A connection may announce more than once; a birth is one more than there were.
    let mut announced = 0;
    wait_for("no more announcements", || {
        let before = std::mem::replace(&mut announced, discovery.messages().len());
        std::thread::sleep(std::time::Duration::from_millis(500));
        (before == discovery.messages().len()).then_some(())
    });
    publish(broker.port(), "homeassistant/status", "online");
    discovery.wait(announced + 1);

    // The last face: a picture, no state.
    let mut faces = Subscriber::new(
        broker.port(),
        components["last_face"]["image_topic"].as_str().unwrap(),
    );
    daemon.post_path(&daemon.put("obama_2.jpg", "a.jpg"));
    wait_for("the face", || {
        faces
            .messages()
            .first()
            .map(|face| assert_eq!(face["retain"], 0))
    });
    assert!(
        faces.messages()[0]["payload"]
            .as_str()
            .unwrap()
            .contains("JFIF")
    );

    daemon.stop();
    daemon.set("homeassistant.enabled", "false");
    daemon.start();
    wait_for("the device to be taken back", || {
        discovery
            .messages()
            .last()
            .is_some_and(|message| message["payload"] == "")
            .then_some(())
    });
    let mut nothing = Subscriber::new(broker.port(), "homeassistant/#");
    publish(broker.port(), "homeassistant/marker", "{}");
    nothing.wait(1);
    assert_eq!(nothing.messages()[0]["topic"], "homeassistant/marker");
    // Once switched off, the board publishes nothing at all.
    assert_eq!(
        daemon.sql("select value from facts where key = 'homeassistant_announced'"),
        [""]
    );
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
