//! Presence on MQTT and in the API: told after each change and whenever it may have been missed.

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, publish, wait_for};

/// Waits for a message that holds; returns it.
fn wait_until(told: &mut Subscriber, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, || {
        let last = told.messages().last()?;
        assert_eq!(last["retain"], 0, "{last}");
        let presence: Value = serde_json::from_str(last["payload"].as_str()?).unwrap();
        holds(&presence).then_some(presence)
    })
}

/// Waits until there are more messages than before.
fn wait_for_more(told: &mut Subscriber, what: &str, cause: impl FnOnce()) {
    let before = told.messages().len();
    cause();
    wait_for(what, || (told.messages().len() > before).then_some(()));
}

#[test]
fn presence_is_told_after_changes_and_to_those_who_missed_it() {
    let broker = Mosquitto::running();
    let mut told = Subscriber::new(broker.port(), "kithd/board/presence");
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("homeassistant.enabled", "true");
    daemon.set("sighting.gap", "1h");
    daemon.start_with_everybody();
    wait_until(&mut told, "an empty board", |now| {
        now["people"] == json!([]) && now["device"] == "board"
    });

    daemon.ended(daemon.post_path(&daemon.put("obama_2.jpg", "a.jpg")));
    let here = wait_until(&mut told, "a person who came", |now| {
        now["people"][0]["present"] == true
    });
    let person = &here["people"][0];
    assert_eq!(
        (&person["name"], &person["topic"], &person["source"]),
        (
            &json!("Barack Obama"),
            &json!("barack-obama"),
            &json!("http")
        )
    );
    assert_eq!(here["sources"][0]["people"], json!(["Barack Obama"]));
    assert_eq!(daemon.get("/v1/presence")["people"], here["people"]);
    let id = person["sighting_id"].as_str().unwrap();
    let sighting = daemon.get(&format!("/v1/sightings/{id}"));
    assert_eq!(sighting["faces"].as_array().unwrap().len(), 1);

    wait_for_more(&mut told, "presence for Home Assistant", || {
        publish(broker.port(), "homeassistant/status", "online");
    });
    wait_for_more(&mut told, "presence on a new connection", || {
        daemon.stop();
        daemon.set("sighting.gap", "1s");
        daemon.start();
    });
    let away = wait_until(&mut told, "the person who left", |now| {
        now["people"][0]["present"] == false
    });
    assert_eq!(away["sources"][0]["people"], json!([]));

    // No sighting tells that a person was erased.
    let erased = daemon.kithd(["forget", "--yes", "Barack Obama"]);
    assert!(erased.status.success());
    let without = wait_until(&mut told, "presence without them", |now| {
        now["people"] == json!([])
    });
    assert!(!without.to_string().contains("Obama"), "{without}");
}
