//! Paths in and results out over a real broker.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, part_is_ok, photo, publish, publish_with, wait_for};

const TOPIC: &str = "kithd/board/image/post";

#[test]
fn paths_come_in_three_forms_and_results_go_out_unretained() {
    let broker = Mosquitto::running();
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let daemon = TestDaemon::connected(&broker);
    let (a, b, c) = (
        daemon.put("obama_2.jpg", "a.jpg"),
        daemon.put("biden_2.jpg", "b.jpg"),
        daemon.put("noface.jpg", "c.jpg"),
    );
    publish(broker.port(), TOPIC, &json!({ "path": a }).to_string());
    publish(
        broker.port(),
        TOPIC,
        &json!({ "paths": [{ "path": b }] }).to_string(),
    );
    publish(broker.port(), TOPIC, &c);
    let messages = results.wait(3);
    let result = |path: &str| {
        messages
            .iter()
            .find(|message| message["path"] == *path)
            .unwrap()
    };
    assert_eq!(result(&a)["faces"][0]["person"]["name"], "Barack Obama");
    assert_eq!(result(&b)["faces"][0]["person"]["name"], "Joe Biden");
    assert_eq!(
        (&result(&c)["outcome"], &result(&c)["source"]),
        (&json!("no_face"), &json!("mqtt"))
    );
    assert!(
        results
            .messages()
            .iter()
            .all(|message| message["retain"] == 0)
    );
    let mut late = Subscriber::new(broker.port(), "kithd/board/#");
    let kept = wait_for("the retained state", || {
        let topics: Vec<_> = late
            .messages()
            .iter()
            .map(|m| m["topic"].as_str().unwrap().to_string())
            .collect();
        topics
            .iter()
            .any(|topic| topic.ends_with("/status"))
            .then_some(topics)
    });
    assert!(
        !kept.iter().any(|topic| topic.ends_with("/result")),
        "a recognition was retained: {kept:?}"
    );
    daemon.all_sent();
}

#[test]
fn nonsense_is_acknowledged_counted_and_kept_for_the_operator() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::connected(&broker);
    publish(broker.port(), TOPIC, "{\"path\":");
    publish(
        broker.port(),
        TOPIC,
        &json!({ "path": "/etc/passwd" }).to_string(),
    );
    let good = daemon.put("obama_1.jpg", "good.jpg");
    publish(broker.port(), TOPIC, &good);
    wait_for("the good one", || (daemon.count_ended() == 1).then_some(()));
    assert_eq!(daemon.get("/v1/status")["counts"]["rejected_messages"], 2);
    // Messages are handled side by side, so their rows may come in either order.
    let kept = daemon.sql("select topic, reason from rejected_messages order by reason desc");
    assert!(
        kept[0].starts_with("kithd/board/image/post|the message is not JSON"),
        "{kept:?}"
    );
    assert!(
        kept[1].contains("is not below one of intake.roots"),
        "{kept:?}"
    );
    assert!(
        daemon
            .get_text("/")
            .contains("is not below one of intake.roots")
    );
    daemon.stop();
    daemon.start_connected();
    assert_eq!(
        daemon.get("/v1/status")["counts"]["rejected_messages"],
        2,
        "it was not acknowledged and came again"
    );
}

/// The missing broker is logged once; results are published when it comes.
#[test]
fn without_a_broker_work_goes_on_and_is_published_later() {
    // The subscriber has a session from an earlier run, so that it misses nothing while it connects
    // again.
    let mut broker = Mosquitto::running();
    let mut results = Subscriber::lasting(broker.port(), "kithd/board/result", "watcher");
    broker.wait_for_saved("watcher");
    broker.kill();
    // In the broker's place a port that hangs up at once, so that attempts can be counted.
    let port = TcpListener::bind(("127.0.0.1", broker.port())).unwrap();
    port.set_nonblocking(true).unwrap();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.start_with_everybody();
    let id = daemon.post_path(&daemon.put("obama_2.jpg", "x.jpg"));
    assert_eq!(daemon.ended(id)["outcome"], "known");
    assert_eq!(daemon.get("/v1/status")["counts"]["unsent"], 1);
    let mut attempts = 0;
    wait_for("several attempts", || {
        attempts += usize::from(port.accept().is_ok());
        (attempts == 6).then_some(())
    });
    drop(port);
    let outages = daemon
        .log()
        .lines()
        .filter(|line| line.contains("WARN"))
        .count();
    // Once for the connection that takes pictures and once for the one that carries results.
    assert_eq!(outages, 2, "{}", daemon.log());
    broker.start();
    assert_eq!(results.wait(1)[0]["image_id"], id);
}

#[test]
fn results_survive_a_broker_that_dies_and_comes_back() {
    let mut broker = Mosquitto::running();
    let daemon = TestDaemon::connected(&broker);
    let mut results = Subscriber::lasting(broker.port(), "kithd/board/result", "watcher");
    broker.wait_for_saved("watcher");
    broker.kill();
    let ids: Vec<_> = (0..5)
        .map(|n| daemon.post_path(&daemon.put("noface.jpg", &format!("{n}.jpg"))))
        .collect();
    ids.iter().for_each(|id| drop(daemon.ended(*id)));
    broker.start();
    let mut got: Vec<i64> = results
        .wait(5)
        .iter()
        .map(|message| message["image_id"].as_i64().unwrap())
        .collect();
    got.sort_unstable();
    got.dedup();
    assert_eq!(got, ids);
}

#[test]
fn an_equal_path_is_dropped_only_while_the_first_is_unfinished() {
    let broker = Mosquitto::running();
    let daemon = TestDaemon::connected(&broker);
    let path = daemon
        .folder
        .path()
        .join("inbox/x.jpg")
        .display()
        .to_string();
    publish(broker.port(), TOPIC, &path);
    publish(broker.port(), TOPIC, &path);
    publish(
        broker.port(),
        TOPIC,
        &daemon.put("noface.jpg", "marker.jpg"),
    );
    wait_for("the marker", || (daemon.count_ended() == 1).then_some(()));
    assert_eq!(daemon.sql("select count(*) from images"), ["2"]);
    daemon.put("noface.jpg", "x.jpg");
    wait_for("both", || (daemon.count_ended() == 2).then_some(()));
    publish(broker.port(), TOPIC, &path);
    wait_for("the third", || (daemon.count_ended() == 3).then_some(()));
}

#[test]
fn messages_sent_to_a_stopped_daemon_are_taken_at_its_start() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::connected(&broker);
    assert_eq!(daemon.stop(), Some(0));
    for n in 0..20 {
        publish(
            broker.port(),
            TOPIC,
            &daemon.put("noface.jpg", &format!("{n}.jpg")),
        );
    }
    daemon.start();
    wait_for("all of them", || (daemon.count_ended() == 20).then_some(()));
}

/// Its state is part of the retained health message.
#[test]
fn the_breaker_obeys_mqtt_only_where_configured() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.commands", "[\"breaker\"]");
    daemon.set("breaker.cool_down", "100ms");
    daemon.start_connected();
    let state = |daemon: &TestDaemon| daemon.get("/v1/breaker")["breaker"]["state"].clone();
    wait_for("the breaker", || (state(&daemon) == "closed").then_some(()));
    let command = "kithd/board/command/breaker";
    publish(broker.port(), command, "open");
    wait_for("the breaker to open", || {
        (state(&daemon) == "forced_open").then_some(())
    });
    let mut health = Subscriber::new(broker.port(), "kithd/board/health");
    wait_for("health that says so", || {
        let last = health.messages().last()?["payload"].as_str()?.to_string();
        let last: Value = serde_json::from_str(&last).unwrap();
        (last["engine"]["breaker"]["state"] == "forced_open").then_some(())
    });
    publish(broker.port(), command, "{\"command\":\"auto\"}");
    wait_for("the breaker to close", || {
        (state(&daemon) == "closed").then_some(())
    });
    publish(broker.port(), command, "ajar");
    wait_for("the rejected word", || {
        (daemon.get("/v1/status")["counts"]["rejected_messages"] == 1).then_some(())
    });
    daemon.stop();
    daemon.unset("mqtt.commands");
    daemon.start_connected();
    wait_for("the breaker", || (state(&daemon) == "closed").then_some(()));
    publish(broker.port(), command, "open");
    // An allowed command sent after it is answered once the forbidden one would have been obeyed.
    let mut answers = Subscriber::new(broker.port(), "kithd/board/answer/status");
    publish(broker.port(), "kithd/board/command/status", "");
    answers.wait(1);
    assert_eq!(state(&daemon), "closed");
}

#[test]
fn the_boards_state_is_online_then_offline_retained() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    let mut state = Subscriber::new(broker.port(), "kithd/board/status");
    daemon.start();
    let last = |state: &mut Subscriber| {
        state
            .messages()
            .last()
            .map(|message| message["payload"].clone())
    };
    wait_for("online", || {
        (last(&mut state) == Some(json!("online"))).then_some(())
    });
    daemon.stop();
    wait_for("offline after a stop", || {
        (last(&mut state) == Some(json!("offline"))).then_some(())
    });
    daemon.start();
    wait_for("online again", || {
        (last(&mut state) == Some(json!("online"))).then_some(())
    });
    daemon.kill();
    wait_for("offline after a kill", || {
        (last(&mut state) == Some(json!("offline"))).then_some(())
    });
    let mut health = Subscriber::new(broker.port(), "kithd/board/health");
    let health: Vec<Value> = health.wait(1);
    assert!(
        health[0]["parts"]["engine"]["condition"].is_string(),
        "{health:?}"
    );
    assert_eq!(
        health[0]["parts"]["intake"]["condition"], "ok",
        "{health:?}"
    );
    assert!(
        health[0]["queue"]["pending"].is_u64() && health[0]["disk"]["free_bytes"].is_u64(),
        "{health:?}"
    );
}

#[test]
fn the_bytes_of_a_picture_are_taken_and_other_bytes_rejected() {
    let broker = Mosquitto::running();
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let daemon = TestDaemon::connected(&broker);
    let picture = photo("obama_2.jpg");
    let picture = picture.to_str().unwrap();
    publish_with(broker.port(), "kithd/board/image", &["-f", picture]);
    publish(broker.port(), "kithd/board/image", "/unknown_images/a.jpg");
    // A message that only claims to be a picture is rejected; one that begins as a picture and
    // cannot be decoded becomes a failed image.
    publish_with(
        broker.port(),
        "kithd/board/image",
        &["-m", "?", "-D", "publish", "content-type", "image/jpeg"],
    );
    let broken = daemon.folder.path().join("broken");
    std::fs::write(&broken, [&[0xff, 0xd8, 0xff, 0xe0][..], &[0; 100]].concat()).unwrap();
    publish_with(
        broker.port(),
        "kithd/board/image",
        &["-f", broken.to_str().unwrap()],
    );
    let ended = results.wait(2);
    let result = |state: &str| {
        ended
            .iter()
            .find(|result| result["state"] == state)
            .unwrap()
    };
    assert_eq!(
        result("processed")["faces"][0]["person"]["name"],
        "Barack Obama"
    );
    assert_eq!(result("processed")["source"], "mqtt");
    assert!(
        result("processed")["path"]
            .as_str()
            .unwrap()
            .starts_with("kithd/board/image ")
    );
    assert!(
        result("processed")["timings"]["decode_ms"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    assert!(result("failed")["reason"].is_string());
    wait_for("both to be rejected", || {
        (daemon.get("/v1/status")["counts"]["rejected_messages"] == 2).then_some(())
    });
}

#[test]
fn frigates_snapshots_are_taken_and_retained_ones_not_again() {
    let broker = Mosquitto::running();
    let topic = "frigate/front/person/snapshot";
    let picture = photo("obama_2.jpg");
    // Frigate publishes retained, at QoS 0.
    let snapshot = ["-f", picture.to_str().unwrap(), "-r", "-q", "0"];
    publish_with(broker.port(), topic, &snapshot);
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.picture_topics", "[\"frigate/+/person/snapshot\"]");
    daemon.start_connected();
    publish_with(broker.port(), topic, &snapshot);
    wait_for("the new one", || (daemon.count_ended() == 1).then_some(()));
    daemon.stop();
    daemon.start_connected();
    publish(
        broker.port(),
        TOPIC,
        &daemon.put("noface.jpg", "marker.jpg"),
    );
    wait_for("the marker", || (daemon.count_ended() == 2).then_some(()));
    let sources = daemon.sql("select path from images order by id");
    assert!(
        sources.len() == 2 && sources[0].starts_with("frigate/front/person/snapshot "),
        "{sources:?}"
    );
}

#[test]
fn mqtt_3_1_1_does_all_of_it_and_keeps_its_session_too() {
    let mut broker = Mosquitto::running();
    let mut results = Subscriber::lasting(broker.port(), "kithd/board/result", "results");
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.version", "\"3.1.1\"");
    daemon.start_connected();
    assert_eq!(daemon.stop(), Some(0));
    for n in 0..30 {
        publish(
            broker.port(),
            TOPIC,
            &daemon.put("noface.jpg", &format!("{n}.jpg")),
        );
    }
    publish_with(
        broker.port(),
        "kithd/board/image",
        &["-f", photo("noface.jpg").to_str().unwrap()],
    );
    daemon.start();
    wait_for("the beginning", || (daemon.count_ended() > 3).then_some(()));
    broker.terminate();
    broker.start();
    daemon.kill();
    daemon.start();
    wait_for("all of them", || (daemon.count_ended() == 31).then_some(()));
    let mut paths: Vec<_> = daemon.sql("select distinct path from images");
    paths.sort();
    assert_eq!(
        (
            paths.len(),
            daemon.sql("select count(*) from images")[0].as_str()
        ),
        (31, "31")
    );
    wait_for("every result", || {
        let seen: std::collections::BTreeSet<_> = results
            .messages()
            .iter()
            .map(|message| message["payload"].as_str().unwrap().to_string())
            .collect();
        (seen.len() == 31).then_some(())
    });
}

#[test]
fn another_client_of_our_name_is_reported_and_takes_nothing() {
    let broker = Mosquitto::running();
    let daemon = TestDaemon::connected(&broker);
    // It takes over the session and its messages, and acknowledges none of them for long.
    let mut thief = std::process::Command::new("mosquitto_sub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &broker.port().to_string(),
            "-q",
            "1",
            "-V",
            "5",
            "-i",
            "kithd-board",
            "-c",
        ])
        .args(["-x", "600", "-t", "nothing/here"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the loss to be said", || {
        let text = daemon.get("/v1/status")["parts"]["mqtt"]["text"]
            .as_str()?
            .to_string();
        text.contains("another client has our client id")
            .then_some(())
    });
    thief.kill().unwrap();
    thief.wait().unwrap();
    for n in 0..5 {
        publish(
            broker.port(),
            TOPIC,
            &daemon.put("noface.jpg", &format!("{n}.jpg")),
        );
    }
    wait_for("all of them", || (daemon.count_ended() == 5).then_some(()));
}

/// The session at the broker outlasts the change.
#[test]
fn a_topic_taken_out_of_the_configuration_is_unsubscribed() {
    let broker = Mosquitto::running();
    for version in ["5", "3.1.1"] {
        let mut daemon = TestDaemon::with_broker(broker.port());
        daemon.set("mqtt.version", &format!("{version:?}"));
        daemon.set("mqtt.picture_topics", "[\"old/#\", \"lasting/#\"]");
        daemon.start_connected();
        daemon.stop();
        daemon.set("mqtt.picture_topics", "[\"lasting/#\"]");
        daemon.start_connected();
        // The broker sends nothing of the topic after its answer to the unsubscribe; the message on
        // the wanted topic arrives after it.
        wait_for("the old topic to be silent", || {
            let before = daemon.sql("select count(*) from images");
            publish_with(
                broker.port(),
                "old/door",
                &["-f", photo("noface.jpg").to_str().unwrap()],
            );
            publish_with(
                broker.port(),
                "lasting/door",
                &["-f", photo("noface.jpg").to_str().unwrap()],
            );
            let rejected = daemon.sql("select count(*) from rejected_messages");
            wait_for("the one that is wanted", || {
                (daemon.sql("select count(*) from images") != before).then_some(())
            });
            (daemon.sql("select count(*) from rejected_messages") == rejected).then_some(())
        });
        assert_eq!(
            daemon.sql("select count(*) from images where path like 'old/%'"),
            ["0"]
        );
    }
}

#[test]
fn json_with_paths_means_the_same_at_every_door() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    let [a, b] = ["a.jpg", "b.jpg"].map(|name| daemon.put("noface.jpg", name));
    let rows = || {
        daemon.sql("select count(*) from images")[0]
            .parse::<usize>()
            .unwrap()
    };
    let taken = [
        (json!({ "path": a }), 1),
        (json!({ "paths": [a] }), 1),
        (json!({ "paths": [a, { "path": b }] }), 2),
        (json!([a]), 1),
        (json!([{ "path": a }, b]), 2),
        (json!({ "path": a, "paths": null }), 1),
    ];
    let refused = [
        json!({ "path": a, "paths": [{ "path": b }] }).to_string(),
        json!({ "paths": [a], "path": b }).to_string(),
        json!({ "path": a, "paths": [] }).to_string(),
        format!("{{\"path\":{a:?},\"path\":{b:?}}}"),
        json!([{ "path": a, "paths": [b] }]).to_string(),
    ];
    let type_json = [("content-type", "application/json")];
    for door in ["/v1/images", "/image/post", "/images/post"] {
        for (body, ids) in &taken {
            let (status, answer) = daemon.post(door, &type_json, body.to_string().as_bytes());
            assert_eq!(status, 202, "{door} {body}: {answer}");
            assert_eq!(
                answer["ids"].as_array().unwrap().len(),
                *ids,
                "{door} {body}"
            );
        }
        let before = rows();
        for body in &refused {
            let (status, answer) = daemon.post(door, &type_json, body.as_bytes());
            assert_eq!(status, 400, "{door} {body}: {answer}");
            let said = answer["detail"].as_str().unwrap();
            assert!(said.contains("paths in more than one place"), "{said}");
        }
        assert_eq!(rows(), before, "{door}");
    }
    let before = rows();
    for (n, body) in refused.iter().enumerate() {
        publish(broker.port(), TOPIC, body);
        wait_for("the message to be refused", || {
            let messages = daemon.get("/v1/rejected")["messages"].as_array()?.clone();
            let said = messages.first()?["reason"].as_str()?.to_owned();
            (messages.len() == n + 1).then_some(said)
        });
    }
    assert!(
        daemon.get("/v1/rejected")["messages"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("paths in more than one place")
    );
    assert_eq!(rows(), before);
}
