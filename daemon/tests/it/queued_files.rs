//! Pictures queued by their path: the file that stood there is the one that is recognised, and an
//! image that waits for its file delays no other.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, part_is_ok, photo, publish, wait_for};

const REPLACED: &str = "the file was replaced after it was queued";

fn hold_back(daemon: &TestDaemon) {
    wait_for("the breaker to be opened", || {
        daemon
            .kithd(["breaker", "open"])
            .status
            .success()
            .then_some(())
    });
}

fn let_go(daemon: &TestDaemon) {
    assert!(daemon.kithd(["breaker", "close"]).status.success());
}

/// Waits until the daemon has looked at the files of so many images.
fn looked_at(daemon: &TestDaemon, images: usize) {
    wait_for("the file to be looked at", || {
        (daemon.sql("select count(*) from images where file_size is not null")
            == [images.to_string()])
        .then_some(())
    });
}

fn remark(image: &Value) -> String {
    image["remark"].to_string()
}

fn files(daemon: &TestDaemon) -> Value {
    daemon.get("/v1/status")["parts"]["files"].clone()
}

/// Returns the status of `/readyz`.
fn ready(daemon: &TestDaemon) -> u16 {
    let answer = ureq::get(daemon.url("/readyz"))
        .config()
        .http_status_as_error(false)
        .build()
        .call();
    answer.unwrap().status().as_u16()
}

/// Returns the processor time so far in clock ticks.
fn ticks(daemon: &TestDaemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn post_paths(daemon: &TestDaemon, paths: &[String]) -> (u16, Value) {
    let paths: Vec<_> = paths.iter().map(|path| json!({ "path": path })).collect();
    daemon.post(
        "/images/post",
        &[],
        json!({ "paths": paths }).to_string().as_bytes(),
    )
}

#[test]
fn a_path_by_http_that_is_written_over_is_not_the_later_file() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    hold_back(&daemon);
    let path = daemon.put("noface.jpg", "snapshot.jpg");
    let first = daemon.post_path(&path);
    looked_at(&daemon, 1);
    daemon.put("obama_1.jpg", "snapshot.jpg");
    let second = daemon.post_path(&path);
    looked_at(&daemon, 2);
    let untouched = daemon.post_path(&daemon.put("noface.jpg", "other.jpg"));
    looked_at(&daemon, 3);
    let_go(&daemon);
    let image = daemon.ended(first);
    assert!(remark(&image).contains(REPLACED), "{image}");
    let was = std::fs::metadata(photo("noface.jpg")).unwrap().len();
    let is = std::fs::metadata(photo("obama_1.jpg")).unwrap().len();
    assert!(
        remark(&image).contains(&format!("{is} bytes"))
            && remark(&image).contains(&format!("queued: {was} bytes"))
    );
    for id in [second, untouched] {
        let image = daemon.ended(id);
        assert_eq!(
            (&image["state"], &image["remark"]),
            (&json!("processed"), &Value::Null),
            "{image}"
        );
    }
    let page = daemon.get_text(&format!("/images/{first}"));
    assert!(page.contains(REPLACED), "{page}");
}

#[test]
fn a_path_by_mqtt_that_is_written_over_says_so_in_its_result() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    hold_back(&daemon);
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let path = daemon.put("noface.jpg", "snapshot.jpg");
    publish(broker.port(), "kithd/board/image/post", &path);
    looked_at(&daemon, 1);
    // A file of the same size and time, as `cp -p` makes it, is another file.
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    let other = daemon.put("noface.jpg", "other.jpg");
    std::fs::File::options()
        .write(true)
        .open(&other)
        .unwrap()
        .set_modified(time)
        .unwrap();
    std::fs::rename(other, &path).unwrap();
    let_go(&daemon);
    let result = results.wait(1).remove(0);
    assert!(remark(&result).contains(REPLACED), "{result}");
}

#[test]
fn a_folders_file_that_is_written_over_before_its_turn_says_so() {
    let mut daemon = TestDaemon::new();
    let folder = daemon.folder.path().join("watched");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.display();
    daemon.set(
        "folder",
        &format!("[{{path = \"{path}\", settle = \"100ms\", poll = \"200ms\"}}]"),
    );
    daemon.start();
    hold_back(&daemon);
    for (number, picture) in [(1, "noface.jpg"), (2, "obama_1.jpg")] {
        std::fs::copy(photo(picture), folder.join("snapshot.jpg")).unwrap();
        wait_for("the file to be queued", || {
            (daemon.sql("select count(*) from images") == [number.to_string()]).then_some(())
        });
    }
    let_go(&daemon);
    let (first, second) = (daemon.ended(1), daemon.ended(2));
    assert!(remark(&first).contains(REPLACED), "{first}");
    assert_eq!(second["remark"], Value::Null, "{second}");
}

#[test]
fn paths_that_name_nothing_fill_no_queue_and_cost_nothing() {
    let mut daemon = TestDaemon::new();
    daemon.set("intake.max_pending", "1000");
    daemon.set("retry.first_wait", "1s");
    daemon.start();
    let inbox = daemon.folder.path().join("inbox");
    for post in 0..4 {
        let paths: Vec<_> = (0..1000)
            .map(|n| inbox.join(format!("{post}-{n}.jpg")).display().to_string())
            .collect();
        wait_for("room for a post", || {
            (post_paths(&daemon, &paths).0 == 202).then_some(())
        });
    }
    wait_for("all of them to wait for their files", || {
        let text = files(&daemon);
        text["text"].as_str()?.contains("http 4000").then_some(())
    });
    assert_eq!(files(&daemon)["condition"], "ok");
    assert!(
        files(&daemon)["text"].as_str().unwrap().contains("0-0.jpg"),
        "{}",
        files(&daemon)
    );
    wait_for("the board to be ready again", || {
        (ready(&daemon) == 200).then_some(())
    });
    let image = daemon.ended(daemon.post_path(&daemon.put("noface.jpg", "good.jpg")));
    assert_eq!(image["state"], "processed");
    let before = ticks(&daemon);
    std::thread::sleep(Duration::from_secs(2));
    let spent = ticks(&daemon) - before;
    assert!(
        spent < 40,
        "{spent} of 200 ticks while 4000 pictures wait for their files"
    );
    daemon.put("noface.jpg", "2-500.jpg");
    let id: i64 = daemon.sql("select id from images where path like '%/2-500.jpg'")[0]
        .parse()
        .unwrap();
    let image = daemon.ended(id);
    assert_eq!(
        (&image["state"], &image["attempts"]),
        (&json!("processed"), &json!(1))
    );
}

#[test]
fn missing_paths_by_mqtt_keep_nobody_else_out() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("intake.max_pending", "100");
    daemon.set("retry.first_wait", "1s");
    daemon.start();
    part_is_ok(&daemon, "mqtt");
    let inbox = daemon.folder.path().join("inbox");
    for message in 0..4 {
        let paths: Vec<_> = (0..100)
            .map(|n| json!({ "path": inbox.join(format!("{message}-{n}.jpg")) }))
            .collect();
        publish(
            broker.port(),
            "kithd/board/image/post",
            &json!({ "paths": paths }).to_string(),
        );
    }
    wait_for("all of them to wait for their files", || {
        files(&daemon)["text"]
            .as_str()?
            .contains("mqtt 400")
            .then_some(())
    });
    wait_for("the board to be ready again", || {
        (ready(&daemon) == 200).then_some(())
    });
    let image = daemon.ended(daemon.post_path(&daemon.put("noface.jpg", "good.jpg")));
    assert_eq!(image["state"], "processed");
    publish(
        broker.port(),
        "kithd/board/image/post",
        &daemon.put("noface.jpg", "by mqtt.jpg"),
    );
    wait_for("the picture by MQTT", || {
        let sql = "select state from images where path like '%/by mqtt.jpg'";
        (daemon.sql(sql) == ["processed"]).then_some(())
    });
    let before = ticks(&daemon);
    std::thread::sleep(Duration::from_secs(2));
    let spent = ticks(&daemon) - before;
    assert!(
        spent < 40,
        "{spent} of 200 ticks while 400 pictures wait for their files"
    );
}

#[test]
fn beyond_a_sources_share_a_missing_file_fails_at_once() {
    let mut daemon = TestDaemon::new();
    daemon.set("intake.max_missing", "5");
    daemon.start();
    let inbox = daemon.folder.path().join("inbox");
    let path = |n: usize| inbox.join(format!("{n}.jpg")).display().to_string();
    assert_eq!(
        post_paths(&daemon, &(0..5).map(path).collect::<Vec<_>>()).0,
        202
    );
    wait_for("the share to be used", || {
        files(&daemon)["text"]
            .as_str()?
            .contains("http 5")
            .then_some(())
    });
    assert_eq!(
        post_paths(&daemon, &(5..8).map(path).collect::<Vec<_>>()).0,
        202
    );
    let failed = || daemon.sql("select reason from images where state = 'failed'");
    wait_for("the further ones to fail", || {
        (failed().len() == 3).then_some(())
    });
    assert!(
        failed()
            .iter()
            .all(|reason| reason.contains("intake.max_missing")),
        "{:?}",
        failed()
    );
    let image = daemon.ended(daemon.post_path(&daemon.put("noface.jpg", "good.jpg")));
    assert_eq!(image["state"], "processed");
}

#[test]
fn more_paths_than_there_is_room_for_are_refused_as_a_whole() {
    let mut daemon = TestDaemon::new();
    daemon.set("intake.max_pending", "10");
    daemon.start();
    hold_back(&daemon);
    let inbox = daemon.folder.path().join("inbox");
    let there = |n: usize| daemon.put("noface.jpg", &format!("{n}.jpg"));
    assert_eq!(
        post_paths(&daemon, &(0..6).map(there).collect::<Vec<_>>()).0,
        202
    );
    looked_at(&daemon, 6);
    let many: Vec<_> = (0..6)
        .map(|n| inbox.join(format!("x{n}.jpg")).display().to_string())
        .collect();
    let (status, problem) = post_paths(&daemon, &many);
    assert_eq!(status, 503, "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("no room for 6 more: 6 images are waiting"),
        "{problem}"
    );
    assert_eq!(daemon.sql("select count(*) from images"), ["6"]);
    assert_eq!(ready(&daemon), 200);
    assert_eq!(
        post_paths(&daemon, &(6..10).map(there).collect::<Vec<_>>()).0,
        202
    );
    wait_for("the board to say that it is full", || {
        (ready(&daemon) == 503).then_some(())
    });
}

#[test]
fn a_root_that_is_away_holds_up_no_other_and_is_named() {
    let mut daemon = TestDaemon::new();
    let away = daemon.folder.path().join("nas");
    let inbox = daemon.folder.path().join("inbox");
    daemon.set(
        "intake.roots",
        &format!(
            "[{:?}, {:?}]",
            inbox.display().to_string(),
            away.display().to_string()
        ),
    );
    daemon.set("intake.max_pending", "20");
    daemon.start();
    let paths: Vec<_> = (0..20)
        .map(|n| away.join(format!("{n}.jpg")).display().to_string())
        .collect();
    assert_eq!(post_paths(&daemon, &paths).0, 202);
    wait_for("the root to be named", || {
        let part = files(&daemon);
        let named = part["text"]
            .as_str()?
            .contains(&format!("20 wait for the folder {}", away.display()));
        (part["condition"] == "degraded" && named).then_some(())
    });
    let image = daemon.ended(daemon.post_path(&daemon.put("noface.jpg", "good.jpg")));
    assert_eq!(image["state"], "processed");
    std::fs::create_dir(&away).unwrap();
    std::fs::copy(photo("noface.jpg"), away.join("7.jpg")).unwrap();
    assert_eq!(daemon.ended(8)["state"], "processed");
    wait_for("the root to be back", || {
        (files(&daemon)["condition"] == "ok").then_some(())
    });
}

#[test]
fn links_and_devices_fail_at_once_by_name() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let inbox = daemon.folder.path().join("inbox");
    daemon.put("noface.jpg", "real.jpg");
    std::os::unix::fs::symlink("real.jpg", inbox.join("inside.jpg")).unwrap();
    std::os::unix::fs::symlink("/etc", inbox.join("out")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(inbox.join("socket.jpg")).unwrap();
    let mut cases = vec![
        ("inside.jpg", "is a link"),
        ("out/passwd", "is a link"),
        ("socket.jpg", "a socket"),
    ];
    let made = |kind, name| device(&inbox.join(name), kind).then_some(());
    cases.extend(made("b", "disk.jpg").map(|()| ("disk.jpg", "a block device")));
    cases.extend(made("c", "zero.jpg").map(|()| ("zero.jpg", "a character device")));
    for (name, kind) in cases {
        let image = daemon.ended(daemon.post_path(inbox.join(name).to_str().unwrap()));
        assert_eq!(
            (&image["state"], &image["attempts"]),
            (&json!("failed"), &json!(1)),
            "{image}"
        );
        assert!(image["reason"].as_str().unwrap().contains(kind), "{image}");
    }
}

/// Makes a device; only root may, and not in every container.
fn device(path: &Path, kind: &str) -> bool {
    let made = Command::new("mknod")
        .arg(path)
        .args([kind, "1", "5"])
        .output()
        .is_ok_and(|made| made.status.success());
    if !made {
        println!("not run: no device can be made here");
    }
    made
}
