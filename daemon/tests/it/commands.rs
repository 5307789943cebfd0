//! Commands by MQTT and their answers.

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, ask, part_is_ok, photo, publish, publish_with};

#[test]
fn status_and_identify_answer_where_asked_and_store_nothing() {
    let broker = Mosquitto::running();
    let daemon = TestDaemon::connected(&broker);
    let identify = |options: &[&str]| {
        let (correlation, answer) = ask(broker.port(), "kithd/board/command/identify", options);
        assert_eq!(
            (correlation.as_str(), &answer["command"]),
            ("question-7", &json!("identify"))
        );
        answer
    };
    let mut answers = Subscriber::new(broker.port(), "answers/to/bytes");
    let picture = photo("obama_2.jpg");
    let options = [
        "-f",
        picture.to_str().unwrap(),
        "-D",
        "publish",
        "response-topic",
        "answers/to/bytes",
    ];
    publish_with(broker.port(), "kithd/board/command/identify", &options);
    let by_bytes = &answers.wait(1)[0];
    assert_eq!(
        by_bytes["result"]["faces"][0]["person"]["name"], "Barack Obama",
        "{by_bytes}"
    );
    assert!(
        by_bytes["result"]["timings"]["embed_ms"].as_f64().unwrap() > 0.0,
        "{by_bytes}"
    );
    let by_path = identify(&[
        "-m",
        &json!({ "id": 5, "path": daemon.put("biden_2.jpg", "b.jpg") }).to_string(),
    ]);
    assert_eq!(
        (&by_path["id"], &by_path["result"]["outcome"]),
        (&json!(5), &json!("known")),
        "{by_path}"
    );
    let outside = identify(&["-m", "/etc/passwd"]);
    assert!(
        outside["error"].as_str().unwrap().contains("/etc/passwd"),
        "{outside}"
    );
    assert!(
        identify(&["-m", "{}"])["error"]
            .as_str()
            .unwrap()
            .contains("send the bytes of a picture")
    );

    let (_, status) = ask(broker.port(), "kithd/board/command/status", &["-n"]);
    assert_eq!(
        status["result"]["parts"]["engine"]["condition"], "ok",
        "{status}"
    );
    assert_eq!(status["result"]["queue"]["processed"], 0, "{status}");
    assert_eq!(daemon.sql("select count(*) from images"), ["0"]);
    // Malformed commands are kept for the operator.
    assert_eq!(daemon.sql("select count(*) from rejected_messages"), ["1"]);
}

#[test]
fn people_are_enrolled_and_erased_by_mqtt_only_where_configured() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    let mut answers = Subscriber::new(broker.port(), "kithd/board/answer/#");
    daemon.start_connected();
    let enroll =
        json!({ "person": "Xanthippe Unmistakable", "path": daemon.put("obama_1.jpg", "x.jpg") })
            .to_string();
    publish(broker.port(), "kithd/board/command/enroll", &enroll);
    // A later, allowed command is answered; the board did not even subscribe to the first.
    publish(broker.port(), "kithd/board/command/status", "");
    assert_eq!(answers.wait(1)[0]["command"], "status");
    assert_eq!(
        daemon.get("/v1/people"),
        json!({ "people": [], "next_cursor": null })
    );
    daemon.stop();

    daemon.set("mqtt.commands", "[\"enroll\", \"forget\"]");
    daemon.start_connected();
    part_is_ok(&daemon, "engine");
    let told = |command: &str, message: &str| {
        ask(
            broker.port(),
            &format!("kithd/board/command/{command}"),
            &["-m", message],
        )
        .1
    };
    assert_eq!(told("enroll", &enroll)["result"]["enrolment"], "enrolled");
    assert_eq!(
        told("enroll", &enroll)["result"]["enrolment"],
        "already_there"
    );
    let other =
        json!({ "person": "Joe Biden", "path": daemon.put("biden_1.jpg", "y.jpg") }).to_string();
    assert_eq!(told("enroll", &other)["result"]["enrolment"], "enrolled");
    let found = daemon.post_path(&daemon.put("obama_2.jpg", "found.jpg"));
    assert_eq!(
        daemon.ended(found)["found"][0]["person"],
        "Xanthippe Unmistakable"
    );
    let bystander = daemon.post_path(&daemon.put("biden_2.jpg", "bystander.jpg"));
    // The other person is a candidate, since only two are enrolled.
    assert_eq!(
        daemon.ended(bystander)["found"][0]["candidates"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    daemon.all_sent();

    let name = json!({ "person": "Xanthippe Unmistakable" }).to_string();
    assert_eq!(
        told("forget", &name)["result"],
        json!({ "forgotten": "Xanthippe Unmistakable" })
    );
    assert!(
        told("forget", &name)["error"]
            .as_str()
            .unwrap()
            .contains("nobody is enrolled")
    );
    let again = daemon.post_path(&daemon.put("obama_2.jpg", "again.jpg"));
    assert_eq!(
        daemon.ended(again)["found"][0]["candidates"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(daemon.sql("select count(*) from enrolment_pictures"), ["1"]);
    let kept = |image: i64| {
        let thumbnails = daemon.sql(&format!(
            "select count(*) from thumbnails where image_id = {image}"
        ));
        let face = daemon.sql(&format!(
            "select length(crop) > 0, length(embedding) > 0, json_array_length(candidates) from faces where image_id = {image}"
        ));
        (thumbnails[0].clone(), face[0].clone())
    };
    assert_eq!(kept(found), ("0".into(), "0|0|1".into()));
    assert_eq!(kept(bystander), ("1".into(), "1|1|1".into()));
    // The name is neither in the state folder nor in its journal nor in the log.
    assert!(!daemon.log().contains("Xanthippe"), "{}", daemon.log());
    daemon.stop();
    for file in ["kithd.db", "kithd.db-wal"] {
        let bytes =
            std::fs::read(daemon.folder.path().join("state").join(file)).unwrap_or_default();
        assert!(
            !bytes.windows(9).any(|window| window == b"Xanthippe"),
            "{file}"
        );
    }
}

#[test]
fn an_answer_goes_nowhere_that_means_something_to_somebody() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("shared.group", "boards");
    daemon.set("shared.path_topics", "[\"site/#\"]");
    let mut answers = Subscriber::new(broker.port(), "kithd/board/answer/status");
    let mut misled = Subscriber::new(broker.port(), "kithd/board/person/#");
    daemon.start_connected();
    for (n, topic) in [
        "kithd/board/person/ann",
        "kithd/other/command/breaker",
        "homeassistant/x",
        "site/a",
    ]
    .iter()
    .enumerate()
    {
        let options = ["-n", "-D", "publish", "response-topic", topic];
        publish_with(broker.port(), "kithd/board/command/status", &options);
        answers.wait(n + 1);
    }
    assert!(misled.messages().is_empty(), "{:?}", misled.messages());
    assert_eq!(daemon.sql("select count(*) from rejected_messages"), ["0"]);
}

#[test]
fn in_mqtt_3_1_1_the_answer_goes_to_a_topic_of_the_boards_own() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.version", "\"3.1.1\"");
    let mut answers = Subscriber::new(broker.port(), "kithd/board/answer/status");
    daemon.start_connected();
    publish(
        broker.port(),
        "kithd/board/command/status",
        "{\"id\":\"mine\"}",
    );
    let answer: &Value = &answers.wait(1)[0];
    assert_eq!(
        (&answer["id"], &answer["result"]["queue"]["pending"]),
        (&json!("mine"), &json!(0)),
        "{answer}"
    );
}
