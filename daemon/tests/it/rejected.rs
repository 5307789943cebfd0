//! Messages that are refused are kept whole, looked at, sent again or dropped; and what is no
//! reason to refuse one.

use std::process::Command;

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{
    TestDaemon, ask, part_is_ok, photo, publish, publish_with, sha256, text, wait_for,
};

const PICTURES: &str = "kithd/board/image";
const PATHS: &str = "kithd/board/image/post";

fn rejected(daemon: &TestDaemon, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} rejected messages"), || {
        let messages = daemon.get("/v1/rejected")["messages"].as_array()?.clone();
        (messages.len() == count).then_some(messages)
    })
}

/// Publishes bytes as they are.
fn publish_bytes(daemon: &TestDaemon, port: u16, topic: &str, bytes: &[u8], options: &[&str]) {
    let file = daemon.folder.path().join("message");
    std::fs::write(&file, bytes).unwrap();
    publish_with(
        port,
        topic,
        &[&["-f", file.to_str().unwrap()], options].concat(),
    );
}

fn images(daemon: &TestDaemon, count: usize) {
    wait_for(&format!("{count} images"), || {
        (daemon.sql("select count(*) from images where state in ('processed', 'failed')")
            == [count.to_string()])
        .then_some(())
    });
}

#[test]
fn a_refused_message_is_kept_whole_and_can_be_saved_and_dropped() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    let heic: Vec<u8> = b"\0\0\0\x18ftypheic\0\0\0\0"
        .iter()
        .copied()
        .chain((0..200_000_u32).map(|n| n as u8))
        .collect();
    let declared = ["-D", "publish", "content-type", "image/heic"];
    publish_bytes(&daemon, broker.port(), PICTURES, &heic, &declared);
    rejected(&daemon, 1);
    publish_bytes(
        &daemon,
        broker.port(),
        PICTURES,
        &[b"\0\0\0\x18ftypavif\0\0\0\0", &[7; 9000][..]].concat(),
        &[],
    );
    let messages = rejected(&daemon, 2);
    let (avif, kept) = (&messages[0], &messages[1]);
    assert!(
        avif["reason"]
            .as_str()
            .unwrap()
            .contains("is AVIF; send it as JPEG"),
        "{avif}"
    );
    assert!(
        kept["reason"]
            .as_str()
            .unwrap()
            .contains("is HEIC; send it as JPEG"),
        "{kept}"
    );
    assert_eq!(
        (&kept["topic"], &kept["content_type"]),
        (&json!(PICTURES), &json!("image/heic"))
    );
    assert_eq!(
        (&kept["bytes"], &kept["whole"]),
        (&json!(heic.len()), &json!(true))
    );
    assert!(daemon.get_text("/").contains("is HEIC; send it as JPEG"));

    // Reading about it needs what reading the page needs; its bytes and any action need the token.
    assert_eq!(daemon.get("/v1/rejected/1")["bytes"], heic.len());
    assert_eq!(daemon.get("/v1/rejected/1/payload")["status"], 401);
    assert_eq!(daemon.post("/v1/rejected/1/retry", &[], b"").0, 401);
    daemon.stop();
    daemon.start();
    let saved = daemon.folder.path().join("saved");
    let save = || daemon.kithd(["rejected", "save", "1", saved.to_str().unwrap()]);
    assert!(save().status.success());
    assert!(std::fs::read(&saved).unwrap() == heic, "not what was sent");
    assert!(
        !save().status.success(),
        "a file that is there was overwritten"
    );
    let list = text(&daemon.kithd(["rejected"]));
    assert!(
        list.contains("sent as \"image/heic\"") && list.contains("2 kept"),
        "{list}"
    );
    assert!(text(&daemon.kithd(["rejected", "show", "1"])).contains("ftypheic"));
    let again = daemon.kithd(["rejected", "retry", "1"]);
    assert!(
        !again.status.success() && text(&again).contains("refused again: the message is HEIC"),
        "{}",
        text(&again)
    );
    assert!(daemon.kithd(["rejected", "drop", "1"]).status.success());
    assert!(text(&daemon.kithd(["rejected", "drop", "1"])).contains("no rejected message 1"));
    assert!(text(&daemon.kithd(["rejected", "drop", "--all"])).contains("1 dropped"));
    assert_eq!(rejected(&daemon, 0).len(), 0);
    assert_eq!(
        std::fs::read_dir(daemon.state("rejected")).unwrap().count(),
        0
    );
}

#[test]
fn a_refused_picture_becomes_an_image_once_its_cause_is_gone() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("intake.max_bytes", "64KiB");
    daemon.set("mqtt.picture_topics", "[\"old/#\"]");
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    // Bytes behind a picture's end are no reason to refuse it.
    let picture = [std::fs::read(photo("noface.jpg")).unwrap(), vec![0; 70_000]].concat();
    for topic in ["old/camera", PICTURES] {
        publish_bytes(&daemon, broker.port(), topic, &picture, &[]);
    }
    let messages = rejected(&daemon, 2);
    assert!(
        messages[0]["reason"]
            .as_str()
            .unwrap()
            .contains("intake.max_bytes = 65536"),
        "{messages:?}"
    );
    let of = |topic: &str| {
        messages
            .iter()
            .find(|message| message["topic"] == topic)
            .unwrap()["id"]
            .to_string()
    };
    daemon.stop();
    daemon.unset("intake.max_bytes");
    daemon.unset("mqtt.picture_topics");
    daemon.start();
    let taken = daemon.kithd(["rejected", "retry", &of(PICTURES)]);
    assert!(text(&taken).contains("as image 1"), "{}", text(&taken));
    assert_eq!(daemon.ended(1)["state"], "processed");
    assert_eq!(
        daemon.sql("select picture_key from images"),
        [sha256(&picture)]
    );
    // The other message's topic is no longer configured: it is refused for another reason and kept.
    let url = format!("/v1/rejected/{}/retry", of("old/camera"));
    let (status, refused) = daemon.post_as_admin(&url, &[], b"");
    assert!(
        status == 422
            && refused["detail"]
                .as_str()
                .unwrap()
                .contains("mqtt.picture_topics"),
        "{refused}"
    );
    assert!(
        rejected(&daemon, 1)[0]["reason"]
            .as_str()
            .unwrap()
            .contains("mqtt.picture_topics")
    );
}

#[test]
fn the_oldest_refused_messages_are_dropped_and_counted() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.rejected_count", "2");
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    // Each waits for the one before: messages in flight together are kept in any order.
    for n in 0..5 {
        let payload = format!("no picture {n}");
        publish(broker.port(), PICTURES, &payload);
        wait_for(&payload, || {
            daemon.get("/v1/rejected")["messages"]
                .to_string()
                .contains(&payload)
                .then_some(())
        });
    }
    wait_for("the oldest to be dropped", || {
        let kept = daemon.get("/v1/rejected")["messages"].to_string();
        (kept.contains("no picture 3") && !kept.contains("no picture 2")).then_some(())
    });
    assert_eq!(
        daemon.get("/v1/rejected?limit=2")["next_cursor"],
        Value::Null,
        "both are on the first page"
    );
    let first = daemon.get("/v1/rejected?limit=1");
    let behind = daemon.get(&format!(
        "/v1/rejected?limit=1&cursor={}",
        first["next_cursor"]
    ));
    assert!(
        behind["messages"][0]["id"].as_i64() < first["messages"][0]["id"].as_i64(),
        "{first} {behind}"
    );
    let counts = &daemon.get("/v1/status")["counts"];
    assert_eq!(
        (&counts["rejected_messages"], &counts["rejected_dropped"]),
        (&json!(2), &json!(3)),
        "{counts}"
    );
    let metrics = daemon.get_text("/metrics");
    assert!(
        metrics.contains("kithd_rejected_messages 2")
            && metrics.contains("kithd_rejected_dropped_total 3")
    );
    assert!(
        daemon
            .get_text("/")
            .contains("<code>mqtt.rejected_bytes</code>): 3.")
    );
    let doctor = text(&daemon.kithd(["doctor"]));
    assert!(doctor.contains("rejected messages: 2 are kept"), "{doctor}");
}

#[test]
fn bytes_decide_what_a_message_is_whatever_it_is_called() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    let picture = std::fs::read(photo("noface.jpg")).unwrap();
    let kinds = [
        "text/plain",
        "Image/JPEG",
        "binary/octet-stream",
        "application/octet-stream; charset=binary",
        "image/png",
    ];
    for kind in kinds {
        publish_bytes(
            &daemon,
            broker.port(),
            PICTURES,
            &picture,
            &["-D", "publish", "content-type", kind],
        );
        // Each waits for the one before: an equal waiting picture is not taken twice.
        images(
            &daemon,
            kinds.iter().position(|one| one == &kind).unwrap() + 1,
        );
    }
    let base64 = {
        let output = std::process::Command::new("base64")
            .arg(photo("noface.jpg"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let one_line: String = base64.split_whitespace().collect();
    let wrapped = [
        base64.clone().into_bytes(),
        format!("data:image/jpeg;base64,{one_line}").into_bytes(),
        [b"\r\n", picture.as_slice()].concat(),
    ];
    for (n, payload) in wrapped.iter().enumerate() {
        publish_bytes(&daemon, broker.port(), PICTURES, payload, &[]);
        images(&daemon, kinds.len() + n + 1);
    }
    assert_eq!(
        daemon.sql("select distinct picture_key, state from images"),
        [format!("{}|processed", sha256(&picture))]
    );
    let buffer = json!({ "type": "Buffer", "data": picture }).to_string();
    publish_bytes(
        &daemon,
        broker.port(),
        PICTURES,
        buffer.as_bytes(),
        &["-D", "publish", "content-type", "image/jpeg"],
    );
    assert!(
        rejected(&daemon, 1)[0]["reason"]
            .as_str()
            .unwrap()
            .contains("msg.payload as a Buffer")
    );

    part_is_ok(&daemon, "engine");
    let identify = |bytes: &[u8]| {
        let file = daemon.folder.path().join("message");
        std::fs::write(&file, bytes).unwrap();
        // mosquitto_rr's own -f sends nothing.
        let command = "kithd/board/command/identify";
        ask(
            broker.port(),
            command,
            &["-m", &String::from_utf8_lossy(bytes)],
        )
        .1
    };
    for request in [
        base64.clone(),
        format!("data:image/jpeg;base64,{one_line}"),
        json!({ "picture": base64 }).to_string(),
        json!({ "picture": format!("data:image/jpeg;base64,{one_line}") }).to_string(),
    ] {
        assert_eq!(identify(request.as_bytes())["result"]["outcome"], "no_face");
    }
    let refused = identify(json!({ "picture": "no base64!" }).to_string().as_bytes());
    assert!(
        refused["error"]
            .as_str()
            .unwrap()
            .contains("the text under \"picture\" is plain text"),
        "{refused}"
    );
}

#[test]
fn paths_are_taken_as_other_machines_write_them() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    let path = |n: usize| daemon.put("noface.jpg", &format!("a b {n}.jpg"));
    let taken: Vec<Vec<u8>> = vec![
        format!("\u{feff}{}", path(0)).into_bytes(),
        format!("{}\0", path(1)).into_bytes(),
        format!("{}\r\n", path(2)).into_bytes(),
        json!(path(3)).to_string().into_bytes(),
        json!([path(4), { "path": path(5) }])
            .to_string()
            .into_bytes(),
        format!("file://{}", path(6).replace(' ', "%20")).into_bytes(),
        json!({ "path": format!("file://{}", path(7).replace(' ', "%20")) })
            .to_string()
            .into_bytes(),
    ];
    for payload in &taken {
        publish_bytes(&daemon, broker.port(), PATHS, payload, &[]);
    }
    images(&daemon, 8);
    assert_eq!(
        daemon.sql("select count(*) from images where state = 'processed'"),
        ["8"]
    );
    let utf16: Vec<u8> = path(9).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let refused: [(&[u8], &str); 5] = [
        (&utf16, "UTF-16"),
        (b"\\\\nas\\share\\a.jpg", "mount the share"),
        (b"http://camera/a.jpg", "fetches nothing"),
        (b"'/a/b.jpg'", "in quotes"),
        (b"/a\n/b", "several lines"),
    ];
    for (n, (payload, reason)) in refused.into_iter().enumerate() {
        publish_bytes(&daemon, broker.port(), PATHS, payload, &[]);
        let said = rejected(&daemon, n + 1)[0]["reason"].to_string();
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn a_refused_command_that_may_name_a_person_is_not_kept() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.commands", "[\"enroll\", \"forget\"]");
    daemon.start_connected();
    part_is_ok(&daemon, "engine");
    for command in ["enroll", "forget"] {
        publish(
            broker.port(),
            &format!("kithd/board/command/{command}"),
            "{\"persn\":\"Xanthippe Unmistakable\"}",
        );
    }
    publish(
        broker.port(),
        "kithd/board/command/identify",
        "nothing of the kind",
    );
    let messages = rejected(&daemon, 3);
    assert_eq!(
        messages
            .iter()
            .filter(|message| message["whole"] == true)
            .count(),
        1,
        "{messages:?}"
    );
    assert!(
        !daemon.get_text("/v1/rejected").contains("Xanthippe")
            && !daemon.log().contains("Xanthippe")
    );
}

#[test]
fn a_message_is_kept_once_however_long_the_database_is_held() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.rejected_count", "3");
    daemon.start_connected();
    publish(broker.port(), PICTURES, "the first of them");
    rejected(&daemon, 1);
    let folder = daemon.state("rejected");
    let files = || std::fs::read_dir(&folder).unwrap().count();
    let other = rusqlite::Connection::open(daemon.state("kithd.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for (topic, message) in [(PICTURES, "no picture at all"), (PATHS, "no path at all")] {
        publish(broker.port(), topic, message);
    }
    publish(broker.port(), "kithd/board/command/identify", "no picture");
    wait_for("all three to be tried", || {
        (daemon.log().matches("cannot be kept yet").count() == 3).then_some(())
    });
    assert_eq!(files(), 4);
    other.execute_batch("ROLLBACK").unwrap();
    wait_for("all of them to be kept", || {
        let kept = daemon.get("/v1/rejected")["messages"].to_string();
        let all = ["no picture at all", "no path at all", "\"no picture\""];
        all.iter()
            .all(|message| kept.contains(message))
            .then_some(())
    });
    for _ in 0..2 {
        assert_eq!(rejected(&daemon, 3).len(), 3);
        assert_eq!(daemon.get("/v1/status")["counts"]["rejected_dropped"], 1);
        assert_eq!(
            std::fs::read_dir(daemon.state("rejected")).unwrap().count(),
            3
        );
        daemon.kill();
        daemon.start_connected();
    }
}

#[test]
fn a_message_beyond_the_limits_says_how_much_of_it_is_kept() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("intake.max_bytes", "64KiB");
    daemon.set("mqtt.rejected_bytes", "1MiB");
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    let mut picture = std::fs::read(photo("noface.jpg")).unwrap();
    picture.resize((1 << 20) + 1, 0);
    publish_bytes(&daemon, broker.port(), PICTURES, &picture, &[]);
    let message = &rejected(&daemon, 1)[0];
    let said = message["reason"].as_str().unwrap();
    assert!(
        said.contains("intake.max_bytes = 65536")
            && said.ends_with(
                "its first 1024 bytes are kept, because its 1048577 bytes are more than \
                 mqtt.rejected_bytes = 1048576"
            ),
        "{said}"
    );
    assert_eq!(message["whole"], false);
}

/// Sends a form of the page as a browser does; returns status and headers.
fn send_form(daemon: &TestDaemon, jar: &str, target: &str, body: &str) -> String {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--include",
            "--cookie",
            jar,
            "--cookie-jar",
            jar,
        ])
        .args(["--header", &format!("Origin: {}", daemon.url(""))])
        .args(["--data", body, &daemon.url(target)])
        .output()
        .unwrap();
    text(&output)
}

#[test]
fn the_pages_forms_send_a_message_again_and_drop_it() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("mqtt.picture_topics", "[\"old/#\"]");
    daemon.set("intake.max_bytes", "64KiB");
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    let picture = [std::fs::read(photo("noface.jpg")).unwrap(), vec![0; 70_000]].concat();
    for (n, topic) in [PICTURES, "old/a", "old/b", "old/c"]
        .into_iter()
        .enumerate()
    {
        publish_bytes(&daemon, broker.port(), topic, &picture, &[]);
        rejected(&daemon, n + 1);
    }
    daemon.stop();
    daemon.unset("intake.max_bytes");
    daemon.unset("mqtt.picture_topics");
    daemon.start();
    let jar = daemon.folder.path().join("cookies").display().to_string();
    let without = send_form(&daemon, &jar, "/rejected/1/drop", "");
    assert!(
        without.starts_with("HTTP/1.1 401") || without.starts_with("HTTP/1.1 303"),
        "{without}"
    );
    let body = format!("token={}&next=%2F", daemon.token());
    let in_ = send_form(&daemon, &jar, "/login", &body);
    assert!(in_.starts_with("HTTP/1.1 303"), "{in_}");
    let forms = || {
        let output = Command::new("curl")
            .args(["--silent", "--cookie", &jar, &daemon.url("/")])
            .output()
            .unwrap();
        text(&output)
    };
    let csrf = {
        let page = forms();
        let after = page.split("/rejected/1/retry?csrf=").nth(1);
        after
            .unwrap_or_else(|| panic!("no form: {page}"))
            .split('"')
            .next()
            .unwrap()
            .to_owned()
    };
    let send = |form: &str| send_form(&daemon, &jar, &format!("{form}?csrf={csrf}"), "");
    assert!(send_form(&daemon, &jar, "/rejected/1/drop", "").starts_with("HTTP/1.1 403"));
    assert_eq!(
        rejected(&daemon, 4).len(),
        4,
        "without what the form carries"
    );
    let taken = send("/rejected/1/retry");
    assert!(
        taken.starts_with("HTTP/1.1 303") && taken.contains("/images/1"),
        "{taken}"
    );
    assert_eq!(daemon.ended(1)["state"], "processed");
    assert_eq!(rejected(&daemon, 3).len(), 3);
    // The topic of the others is no longer configured: each is refused again and kept.
    let refused = send("/rejected/2/retry");
    assert!(refused.starts_with("HTTP/1.1 303"), "{refused}");
    assert!(
        daemon.get("/v1/rejected/2")["reason"]
            .as_str()
            .unwrap()
            .contains("mqtt.picture_topics")
    );
    assert!(send("/rejected/2/drop").starts_with("HTTP/1.1 303"));
    assert_eq!(rejected(&daemon, 2).len(), 2);
    let gone = send("/rejected/2/drop");
    assert!(gone.starts_with("HTTP/1.1 303"), "{gone}");
    assert!(send("/rejected/drop").starts_with("HTTP/1.1 303"));
    assert_eq!(rejected(&daemon, 0).len(), 0);
    assert_eq!(
        std::fs::read_dir(daemon.state("rejected")).unwrap().count(),
        0
    );
}
