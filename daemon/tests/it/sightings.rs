//! Sightings of the built kithd with a broker: told once from begin to end, whatever happens between.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, full, publish, wait_for};

/// Posts a copy of a photograph and waits for its result.
fn post(daemon: &TestDaemon, photo: &str, name: &str) {
    daemon.ended(daemon.post_path(&daemon.put(photo, name)));
}

/// Step, name or outcome, and number of looks, of messages that differ.
fn steps(messages: &[Value]) -> Vec<String> {
    let mut different: Vec<&Value> = Vec::new();
    for message in messages {
        if !different.contains(&message) {
            different.push(message);
        }
    }
    let text = |message: &&Value| {
        let after = &message["after"];
        let name = after["person"]["name"].as_str();
        let who = name.or(after["outcome"].as_str()).unwrap();
        format!("{} {who}", message["step"].as_str().unwrap())
    };
    different.iter().map(text).collect()
}

/// Starts a daemon whose sightings last until it is started with a short gap.
fn patient(broker: &Mosquitto) -> TestDaemon {
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("sighting.gap", "1h");
    daemon.start_with_everybody();
    daemon
}

/// Starts the daemon again with a gap that has passed.
fn end_all(daemon: &mut TestDaemon) {
    daemon.stop();
    daemon.set("sighting.gap", "1s");
    daemon.start();
    wait_for("the sightings to end", || {
        (daemon.sql("select count(*) from sightings where ended_ms is null") == ["0"]).then_some(())
    });
}

#[test]
fn a_visit_over_kills_is_one_begin_and_one_end() {
    let broker = Mosquitto::running();
    let mut told = Subscriber::lasting(broker.port(), "kithd/board/sighting", "told");
    let mut events = Subscriber::lasting(broker.port(), "kithd/board/person/#", "events");
    let mut daemon = patient(&broker);
    for n in 0..4 {
        post(&daemon, "obama_2.jpg", &format!("{n}.jpg"));
        if n % 2 == 0 {
            daemon.kill();
            daemon.start();
        }
    }
    // Two people are two sightings, one after the other or together.
    post(&daemon, "biden_2.jpg", "other.jpg");
    wait_for("the second sighting", || {
        (daemon.sql("select looks from sightings order by id") == ["4", "1"]).then_some(())
    });
    end_all(&mut daemon);
    wait_for("both ends", || {
        (steps(&bodies(&mut told)).len() >= 4).then_some(())
    });
    let told = bodies(&mut told);
    assert_eq!(
        steps(&told),
        [
            "begin Barack Obama",
            "begin Joe Biden",
            "end Barack Obama",
            "end Joe Biden"
        ]
    );
    let end = told
        .iter()
        .find(|message| message["step"] == "end")
        .unwrap();
    assert_eq!(
        (&end["after"]["looks"], &end["source"]),
        (&json!(4), &json!("http"))
    );
    assert_eq!(end["after"]["face"]["number"], 1);
    assert!(
        end["ended_ms"].is_i64() && end["before"]["outcome"] == "known",
        "{end}"
    );
    let mut ids: Vec<String> = bodies(&mut events)
        .iter()
        .map(|event| event["event_id"].to_string())
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 2, "{ids:?}");
}

fn bodies(subscriber: &mut Subscriber) -> Vec<Value> {
    let body = |message: &Value| serde_json::from_str(message["payload"].as_str()?).ok();
    subscriber.messages().iter().filter_map(body).collect()
}

#[test]
fn a_face_comes_before_the_sighting_that_shows_it() {
    let broker = Mosquitto::running();
    let mut all = Subscriber::new(broker.port(), "kithd/board/#");
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("homeassistant.enabled", "true");
    daemon.set("mqtt.results", "false");
    daemon.start_with_everybody();
    // The picture of no face, once when Home Assistant knows the board, once when it has started.
    let mut no_face = |times: usize| {
        wait_for("the picture of no face", || {
            let messages = all.messages().iter();
            let origins = messages.filter(|message| message["topic"] == "kithd/board/face/origin");
            (origins.count() == times).then_some(())
        });
    };
    no_face(1);
    publish(broker.port(), "homeassistant/status", "online");
    no_face(2);
    post(&daemon, "obama_2.jpg", "a.jpg");
    let last = "kithd/board/person/barack-obama";
    wait_for("the event", || {
        let mut messages = all.messages().iter();
        messages
            .any(|message| message["topic"] == last)
            .then_some(())
    });
    let topics: Vec<&str> = all
        .messages()
        .iter()
        .filter_map(|message| message["topic"].as_str()?.strip_prefix("kithd/board/"))
        .filter(|topic| !["status", "health", "presence"].contains(topic))
        .skip(4)
        .collect();
    // Without results of single pictures, if so configured.
    assert_eq!(
        topics,
        ["face", "face/origin", "sighting", "person/barack-obama"]
    );
    for message in all.messages() {
        let topic = message["topic"].as_str().unwrap();
        if topic.ends_with("/sighting") {
            let expiry: u64 = message["expiry"].as_str().unwrap().parse().unwrap();
            assert!(
                (1..=600).contains(&expiry) && message["retain"] == 0,
                "{message}"
            );
        }
    }
    assert_eq!(daemon.sql("select count(*) from outbox"), ["0"]);
}

#[test]
fn a_picture_that_is_done_again_joins_anew() {
    let broker = Mosquitto::running();
    let mut told = Subscriber::new(broker.port(), "kithd/board/sighting");
    let mut daemon = patient(&broker);
    for n in 0..3 {
        post(&daemon, "obama_2.jpg", &format!("{n}.jpg"));
    }
    let looks = "select looks from sightings where ended_ms is null";
    wait_for("three looks", || (daemon.sql(looks) == ["3"]).then_some(()));
    daemon.stop();
    daemon.change(
        "delete from faces where image_id = 2;
         update images set state = 'pending', outcome = null where id = 2",
    );
    daemon.start();
    daemon.ended(2);
    wait_for("the look again", || {
        (daemon.sql(looks) == ["3"]).then_some(())
    });
    assert_eq!(steps(&bodies(&mut told)), ["begin Barack Obama"]);
}

#[test]
fn kills_at_any_time_begin_and_end_each_sighting_once() {
    let kills = if full() { 100 } else { 8 };
    let broker = Mosquitto::running();
    let mut told = Subscriber::lasting(broker.port(), "kithd/board/sighting", "told");
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("retry.attempts", "100");
    daemon.set("sighting.gap", "1s");
    daemon.start_with_everybody();
    for kill in 0..kills {
        for (n, photo) in ["obama_2.jpg", "group.jpg", "biden_2.jpg"]
            .iter()
            .enumerate()
        {
            daemon.post_path(&daemon.put(photo, &format!("{kill}-{n}.jpg")));
        }
        // The kill falls anywhere between the first claim and an end.
        std::thread::sleep(Duration::from_millis(190 * (kill % 9)));
        daemon.kill();
        daemon.start();
        // However fast the machine is, the people leave and come back.
        if kill % 3 == 2 {
            daemon.all_ended();
            wait_for("the sightings to end", || {
                let open = "select count(*) from sightings where ended_ms is null";
                (daemon.sql(open) == ["0"]).then_some(())
            });
        }
    }
    daemon.all_ended();
    wait_for("every sighting to be told to its end", || {
        let left = "select (select count(*) from sightings where ended_ms is null)
            + (select count(*) from sighting_outbox)";
        (daemon.sql(left) == ["0"]).then_some(())
    });
    let uids = daemon.sql("select uid from sightings order by uid");
    assert!(uids.len() >= 4, "{uids:?}");
    let once = || {
        let mut steps = BTreeMap::<String, Vec<Value>>::new();
        for message in bodies(&mut told) {
            let of = steps
                .entry(message["sighting_id"].as_str().unwrap().into())
                .or_default();
            // A message that is sent again is the same.
            if !of.contains(&message) {
                of.push(message);
            }
        }
        let ends = |of: &[Value], step: &str| of.iter().filter(|it| it["step"] == step).count();
        let complete = steps.len() == uids.len() && steps.values().all(|of| ends(of, "end") > 0);
        complete.then_some(steps)
    };
    let steps = wait_for("the last message", once);
    for (uid, of) in &steps {
        let count = |step| of.iter().filter(|it| it["step"] == step).count();
        assert_eq!((count("begin"), count("end")), (1, 1), "{of:?}");
        assert!(uids.contains(uid));
        assert!(
            of[0]["step"] == "begin" && of[of.len() - 1]["step"] == "end",
            "{of:?}"
        );
        // Each message begins where the one before it ended.
        for pair in of.windows(2) {
            assert_eq!(pair[1]["before"], pair[0]["after"], "{of:?}");
        }
    }
    // Every face that founds or joins a sighting is in one.
    let looks = "select sum(looks) from sightings";
    assert_eq!(
        daemon.sql(looks),
        daemon.sql("select count(*) from sighting_faces")
    );
}
