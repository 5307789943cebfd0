//! Nothing that a broker or a sender does ends the daemon or a part of it, and no answer goes where
//! it does harm.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::hostile_broker::{HostileBroker, hostile, publish as packet, text};
use crate::support::{Subscriber, TestDaemon, full, part_is_ok, photo, publish_with, wait_for};

const STATUS: &str = "kithd/board/command/status";

#[test]
fn an_answer_goes_to_a_topic_beyond_ascii() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::connected(&broker);
    let pid = daemon.pid();
    for (n, topic) in ["über/antwort", "é", "日本/答え", "🙂"]
        .into_iter()
        .enumerate()
    {
        let mut answers = Subscriber::new(broker.port(), topic);
        let message = json!({ "id": n }).to_string();
        publish_with(
            broker.port(),
            STATUS,
            &["-m", &message, "-D", "publish", "response-topic", topic],
        );
        assert_eq!(answers.wait(1)[0]["id"], n, "{topic}");
    }
    assert_eq!(daemon.pid(), pid);
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_picture_from_a_topic_beyond_ascii_is_taken() {
    let broker = Mosquitto::running();
    for version in ["5", "3.1.1"] {
        let mut daemon = TestDaemon::with_broker(broker.port());
        daemon.set("mqtt.version", &format!("{version:?}"));
        daemon.set("mqtt.picture_topics", "[\"+/snapshot\", \"küche/#\"]");
        daemon.start();
        part_is_ok(&daemon, "mqtt");
        let picture = photo("noface.jpg");
        for topic in ["Übersicht/snapshot", "küche/é/x", "日本/snapshot"] {
            publish_with(broker.port(), topic, &["-f", picture.to_str().unwrap()]);
        }
        wait_for("all three", || {
            (daemon.sql("select count(*) from images") == ["3"]).then_some(())
        });
        let names = daemon.sql("select path from images order by id");
        assert!(
            names
                .iter()
                .any(|name| name.starts_with("Übersicht/snapshot ")),
            "{names:?}"
        );
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn a_fault_met_with_a_message_costs_that_message_alone() {
    const PROCESSED: &str = "images where state = 'processed'";
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.preload("failing_random.c");
    let fails = daemon.folder.path().join("random-fails-once");
    daemon.environment("RANDOM_FAILS_ONCE", fails.to_str().unwrap());
    daemon.start_connected();
    let pid = daemon.pid();
    let picture = photo("noface.jpg").display().to_string();
    let send = || publish_with(broker.port(), "kithd/board/image", &["-f", &picture]);
    let count = |table: &str| -> usize {
        daemon.sql(&format!("select count(*) from {table}"))[0]
            .parse()
            .unwrap()
    };
    let mut sent = 0;
    while count("rejected_messages") < 2 {
        // Another thread may be the one whose request fails; then the message is taken.
        assert!(sent < 20, "no request of these messages failed");
        std::fs::write(&fails, "").unwrap();
        send();
        sent += 1;
        wait_for("the message to be set aside or processed", || {
            (count("rejected_messages") + count(PROCESSED) == sent).then_some(())
        });
    }
    let messages = daemon.get("/v1/rejected")["messages"].clone();
    for message in messages.as_array().unwrap() {
        let said = message["reason"].as_str().unwrap();
        assert!(
            said.contains("a fault in kithd, please report it"),
            "{said}"
        );
    }
    let _ = std::fs::remove_file(&fails);
    // Sent again it is taken: the fault is over.
    let before = count(PROCESSED);
    let taken = daemon.kithd(["rejected", "retry", "1"]);
    assert!(taken.status.success());
    for n in 1..=2 {
        wait_for("the picture to be processed", || {
            (count(PROCESSED) == before + n).then_some(())
        });
        if n == 1 {
            send();
        }
    }
    assert_eq!((daemon.pid(), daemon.stop()), (pid, Some(0)));
}

#[test]
fn no_answer_goes_to_a_hostile_response_topic() {
    let broker = HostileBroker::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.picture_topics", "[\"+/snapshot\"]");
    daemon.set("mqtt.commands", "[\"breaker\"]");
    daemon.set("shared.group", "boards");
    daemon.set("shared.path_topics", "[\"site/paths\"]");
    daemon.start();
    wait_for("the command connection", || {
        broker.send("kithd-board-out", &[0xD0, 0]).then_some(())
    });
    let long = "x".repeat(65_535);
    let hostile: [&[u8]; 20] = [
        b"",
        b"#",
        b"a/+",
        b"kithd/board/+",
        b"$SYS/broker/x",
        b"$share/g/kithd/board/image/post",
        b"$queue/a",
        b"kithd/board/image/post",
        b"/kithd/board/image/post",
        b"//kithd/board/image",
        b"kithd/board/command/breaker",
        b"kithd/other/command/status",
        b"kithd/board/status",
        b"kithd/board/health",
        b"kithd/board/person/ann",
        b"homeassistant/device/kithd_board/config",
        b"front/snapshot",
        b"site/paths",
        b"a\nb",
        b"/",
    ];
    let allowed: [&[u8]; 2] = [b"answers/here", long.as_bytes()];
    let own = || {
        broker
            .published()
            .into_iter()
            .filter(|(topic, _)| topic == "kithd/board/answer/status")
            .count()
    };
    for (n, topic) in hostile.into_iter().enumerate() {
        let properties = [vec![8], text(topic)].concat();
        let id = n as u16 + 1;
        assert!(broker.send(
            "kithd-board-out",
            &packet(5, STATUS.as_bytes(), id, &properties, b"{}")
        ));
        wait_for(&format!("the answer to {topic:?} on our own topic"), || {
            (own() == n + 1).then_some(())
        });
    }
    for topic in allowed {
        let properties = [vec![8], text(topic)].concat();
        assert!(broker.send(
            "kithd-board-out",
            &packet(5, STATUS.as_bytes(), 100, &properties, b"{}")
        ));
        wait_for("an answer where it was wanted", || {
            broker
                .published()
                .iter()
                .any(|(published, _)| published.as_bytes() == topic)
                .then_some(())
        });
    }
    // Besides the answers there are only the board's own topics.
    let ours = |topic: &str| {
        ["status", "health", "presence", "answer/status"]
            .iter()
            .any(|end| topic == format!("kithd/board/{end}"))
    };
    let others: Vec<_> = broker
        .published()
        .into_iter()
        .map(|(topic, _)| topic)
        .filter(|topic| !ours(topic))
        .collect();
    assert_eq!(others, ["answers/here", long.as_str()]);
}

#[test]
fn a_topic_that_is_no_text_is_taken_or_costs_the_connection() {
    for (version, level) in [("5", 5), ("3.1.1", 4)] {
        let broker = HostileBroker::running();
        let mut daemon = TestDaemon::with_broker(broker.port());
        daemon.set("mqtt.version", &format!("{version:?}"));
        daemon.set("mqtt.picture_topics", "[\"+/snapshot\"]");
        daemon.start();
        wait_for("the connection", || {
            broker.send("kithd-board", &[0xD0, 0]).then_some(())
        });
        let picture = std::fs::read(photo("noface.jpg")).unwrap();
        broker.send(
            "kithd-board",
            &packet(level, b"\xff\xfe\xc3/snapshot", 1, &[], &picture),
        );
        broker.send(
            "kithd-board",
            &packet(level, b"$\xff/snapshot", 2, &[], &picture),
        );
        wait_for("a good picture", || {
            broker.send(
                "kithd-board",
                &packet(level, b"good/snapshot", 3, &[], &picture),
            );
            broker.has_acknowledged(3).then_some(())
        });
        // In 3.1.1 such a topic must end the connection; in 5 the name is text with a replacement
        // character.
        assert_eq!(broker.has_acknowledged(1), level == 5);
        assert_eq!(daemon.stop(), Some(0), "{version}");
    }
}

#[test]
fn random_packets_of_a_broker_never_end_the_daemon() {
    let minutes_each = Duration::from_secs(if full() { 300 } else { 5 });
    for (version, level) in [("5", 5), ("3.1.1", 4)] {
        let broker = HostileBroker::running();
        let mut daemon = TestDaemon::with_broker(broker.port());
        daemon.set("mqtt.version", &format!("{version:?}"));
        daemon.set("mqtt.picture_topics", "[\"+/snapshot\"]");
        daemon.set("mqtt.commands", "[\"breaker\", \"enroll\", \"forget\"]");
        daemon.start();
        wait_for("the connections", || {
            broker.send("kithd-board-out", &[0xD0, 0]).then_some(())
        });
        let pid = daemon.pid();
        let topics = [
            "kithd/board/image",
            "kithd/board/image/post",
            "a/snapshot",
            STATUS,
            "kithd/board/command/identify",
        ];
        let (begun, mut sent) = (Instant::now(), 0);
        while begun.elapsed() < minutes_each {
            for client in ["kithd-board", "kithd-board-out"] {
                sent += usize::from(broker.send(client, &hostile(level, &topics)));
            }
            // A cut connection comes back after a backoff; many packets find none.
            std::thread::sleep(Duration::from_millis(2));
        }
        let status: Value = daemon.get("/v1/status");
        println!(
            "MQTT {version}: {sent} packets, {} connections, {}",
            broker.connections(),
            status["counts"]
        );
        assert_eq!(
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .unwrap()
                .trim(),
            "kithd"
        );
        broker.cut();
        let picture = std::fs::read(photo("noface.jpg")).unwrap();
        let begun = Instant::now();
        while !broker.has_acknowledged(9999) {
            assert!(
                begun.elapsed() < Duration::from_secs(90),
                "a good picture was not taken any more"
            );
            broker.send(
                "kithd-board",
                &packet(level, b"kithd/board/image", 9999, &[], &picture),
            );
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(daemon.stop(), Some(0), "{version}");
    }
}
