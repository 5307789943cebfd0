//! Unreadable input ends in a named state with a reason and disturbs nothing else.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::json;

use crate::support::{TestDaemon, photo, wait_for};

#[test]
fn damaged_pictures_fail_with_a_reason_and_others_succeed() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let whole = std::fs::read(photo("obama_1.jpg")).unwrap();
    let mut huge = vec![
        0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 13, b'I', b'H', b'D', b'R',
    ];
    // 65 536 × 65 536 pixels, RGB, and the header's right checksum.
    huge.extend([
        0, 1, 0, 0, 0, 1, 0, 0, 8, 2, 0, 0, 0, 0xe3, 0xe6, 0xa7, 0xb4,
    ]);
    huge.extend([0, 0, 0, 0, b'I', b'D', b'A', b'T', 0x35, 0xaf, 0x06, 0x1e]);
    let cases: [(&str, Vec<u8>, &str); 5] = [
        (
            "truncated.jpg",
            whole[..whole.len() / 2].to_vec(),
            "cut off",
        ),
        ("empty.jpg", vec![], "empty"),
        ("text.jpg", b"hello, I am no picture".to_vec(), "plain text"),
        ("page.jpg", b"<!DOCTYPE html><html></html>".to_vec(), "HTML"),
        ("huge.png", huge, "pixels"),
    ];
    let ids: Vec<_> = cases
        .iter()
        .map(|(name, bytes, reason)| (daemon.post_path(&daemon.put_bytes(bytes, name)), *reason))
        .collect();
    let neighbour = daemon.post_path(&daemon.put("obama_1.jpg", "good.jpg"));
    for (id, reason) in ids {
        let image = daemon.ended(id);
        assert_eq!(image["state"], "failed", "{image}");
        let said = image["reason"].as_str().unwrap();
        assert!(
            !said.is_empty() && said.contains(reason),
            "{said:?} does not say {reason:?}"
        );
        assert_eq!(image["attempts"], 1, "a bad picture is not tried again");
    }
    assert_eq!(daemon.ended(neighbour)["state"], "processed");
}

#[test]
fn a_doubtful_file_is_recognised_and_its_result_remarks_on_it() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let whole = std::fs::read(photo("obama_1.jpg")).unwrap();
    let no_end = &whole[..whole.len() - 2];
    let scan = whole
        .windows(2)
        .position(|two| two == [0xFF, 0xDA])
        .unwrap();
    let stray = [&whole[..scan], &[1, 2, 3], &whole[scan..]].concat();
    let cases = [
        ("whole.jpg", &whole[..], None),
        (
            "no_end.jpg",
            no_end,
            Some("the file ends without its last marker"),
        ),
        (
            "stray.jpg",
            &stray,
            Some("its data has faults, so parts of the picture may look wrong"),
        ),
    ];
    let mut boxes = Vec::new();
    for (name, bytes, remark) in cases {
        let id = daemon.post_path(&daemon.put_bytes(bytes, name));
        let image = daemon.ended(id);
        assert_eq!(image["state"], "processed", "{image}");
        assert_eq!(image["remark"].as_str(), remark, "{image}");
        boxes.push(image["boxes"].clone());
        for page in [format!("/images/{id}"), "/".into()] {
            assert_eq!(
                daemon.get_text(&page).contains(remark.unwrap_or("never")),
                remark.is_some(),
                "{page}"
            );
        }
        let (status, answer) =
            daemon.post("/v1/identify", &[("content-type", "image/jpeg")], bytes);
        assert_eq!(
            (status, answer["remark"].as_str()),
            (200, remark),
            "{answer}"
        );
    }
    assert!(boxes.iter().all(|found| *found == boxes[0]), "{boxes:?}");
}

#[test]
fn a_path_outside_the_roots_is_refused_at_the_door() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    for path in ["/etc/passwd", "relative.jpg", "", "/", "/etc/../etc/passwd"] {
        let (status, problem) = daemon.post(
            "/image/post",
            &[],
            json!({ "path": path }).to_string().as_bytes(),
        );
        assert_eq!(status, 422, "{path}: {problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(path),
            "{problem}"
        );
    }
    let escaping = format!("{}/inbox/../state/kithd.db", daemon.folder.path().display());
    let (status, problem) = daemon.post(
        "/image/post",
        &[],
        json!({ "path": escaping }).to_string().as_bytes(),
    );
    assert_eq!(status, 422, "{problem}");
    assert_eq!(
        daemon.sql("select count(*) from images"),
        ["0"],
        "nothing refused is stored"
    );
}

#[test]
fn links_out_folders_and_pipes_fail_with_a_reason_and_no_hang() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let inbox = daemon.folder.path().join("inbox");
    symlink("/etc/passwd", inbox.join("link.jpg")).unwrap();
    std::fs::create_dir(inbox.join("folder.jpg")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(inbox.join("pipe.jpg"))
            .status()
            .unwrap()
            .success()
    );
    for (name, reason) in [
        ("link.jpg", "is a link"),
        ("folder.jpg", "not a regular file"),
        ("pipe.jpg", "not a regular file"),
    ] {
        let image = daemon.ended(daemon.post_path(inbox.join(name).to_str().unwrap()));
        assert_eq!(image["state"], "failed");
        assert!(
            image["reason"].as_str().unwrap().contains(reason),
            "{image}"
        );
    }
}

#[test]
fn a_missing_file_waits_with_a_reason_and_is_done_when_it_comes() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let path = daemon.folder.path().join("inbox/late.jpg");
    let id = daemon.post_path(path.to_str().unwrap());
    // The image is pending between two looks; during a look it is processing, with the reason of
    // the look before.
    let waiting = wait_for("the picture to wait with its reason", || {
        let image = daemon.get(&format!("/v1/images/{id}"));
        (image["reason"].is_string() && image["state"] == "pending").then_some(image)
    });
    assert!(
        waiting["reason"].as_str().unwrap().contains("No such file"),
        "{waiting}"
    );
    daemon.put("obama_1.jpg", "late.jpg");
    let image = daemon.ended(id);
    assert_eq!(
        (&image["state"], &image["attempts"]),
        (&json!("processed"), &json!(1)),
        "{image}"
    );
}

#[test]
fn a_missing_file_fails_after_the_configured_time() {
    let mut daemon = TestDaemon::new();
    daemon.set("retry.missing_file", "300ms");
    daemon.start();
    let id = daemon.post_path(
        daemon
            .folder
            .path()
            .join("inbox/never.jpg")
            .to_str()
            .unwrap(),
    );
    let image = daemon.ended(id);
    assert_eq!(image["state"], "failed");
    assert!(
        image["reason"].as_str().unwrap().contains("given up"),
        "{image}"
    );
}

#[test]
fn malformed_requests_are_answered_with_what_was_expected() {
    let mut daemon = TestDaemon::new();
    daemon.set("intake.max_bytes", "64KiB");
    daemon.start();
    for (route, body, status, says) in [
        (
            "/image/post",
            "{\"path\":",
            400,
            "the body must be JSON like",
        ),
        ("/image/post", "{\"file\":\"/x\"}", 400, "it has no path"),
        ("/images/post", "{\"paths\":[]}", 400, "empty"),
        ("/images/post", "[]", 400, "the body must be JSON like"),
        ("/v1/images", "", 422, "the body is empty"),
    ] {
        let (found, problem) = daemon.post(route, &[], body.as_bytes());
        assert_eq!(found, status, "{route} {body}: {problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(says),
            "{problem}"
        );
    }
    let mut large = vec![0; 65 << 10];
    large[..4].copy_from_slice(&[0xff, 0xd8, 0xff, 0xe0]);
    let (status, problem) = daemon.post("/v1/images", &[("content-type", "image/jpeg")], &large);
    assert_eq!(status, 413, "{problem}");
    let form = [
        b"--x\r\nContent-Disposition: form-data; name=\"p\"; filename=\"g\"\r\n\r\n".as_slice(),
        &large,
        b"\r\n--x--\r\n",
    ]
    .concat();
    let (status, problem) = daemon.post(
        "/v1/images",
        &[("content-type", "multipart/form-data; boundary=x")],
        &form,
    );
    assert_eq!(status, 413, "{problem}");
}

#[test]
fn clients_that_hang_up_half_way_disturb_nobody() {
    let mut daemon = TestDaemon::new();
    daemon.set("intake.max_pending", "1000");
    daemon.start();
    let address = daemon.url("").trim_start_matches("http://").to_string();
    let path = daemon.put("noface.jpg", "x.jpg");
    let body = json!({ "path": path }).to_string();
    let requests = [
        format!(
            "POST /image/post HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        "GET /v1/images?limit=500 HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        "POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf".into(),
    ];
    for round in 0..200 {
        for request in &requests {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            std::thread::sleep(std::time::Duration::from_micros(50 * (round % 20)));
        }
    }
    assert_eq!(daemon.ended(daemon.post_path(&path))["state"], "processed");
    wait_for("all of them", || {
        (daemon.get("/v1/status")["counts"]["pending"] == 0).then_some(())
    });
    let many = json!({ "paths": vec![json!({ "path": path }); 1000] }).to_string();
    wait_for("room for as many as are allowed", || {
        (daemon.post("/images/post", &[], many.as_bytes()).0 == 202).then_some(())
    });
}

#[test]
fn a_full_queue_and_a_full_disk_say_so_and_the_page_goes_on() {
    let mut daemon = TestDaemon::new();
    daemon.set("intake.max_pending", "1");
    daemon.start();
    wait_for("the breaker to be opened", || {
        daemon
            .kithd(["breaker", "open"])
            .status
            .success()
            .then_some(())
    });
    let path = daemon.put("noface.jpg", "held.jpg");
    daemon.post_path(&path);
    let (status, problem) = daemon.post(
        "/image/post",
        &[],
        json!({ "path": path }).to_string().as_bytes(),
    );
    assert_eq!(status, 503, "{problem}");
    daemon.stop();
    daemon.set("intake.disk_reserve", "1000000MiB");
    daemon.start();
    let (status, problem) = daemon.post(
        "/image/post",
        &[],
        json!({ "path": path }).to_string().as_bytes(),
    );
    assert_eq!(status, 503, "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("intake.disk_reserve"),
        "{problem}"
    );
    assert!(
        daemon.get_text("/").contains("intake.disk_reserve"),
        "the page does not say why"
    );
    let mut ready = ureq::get(daemon.url("/readyz"))
        .config()
        .http_status_as_error(false)
        .build()
        .call()
        .unwrap();
    assert_eq!(
        ready.status(),
        503,
        "{}",
        ready.body_mut().read_to_string().unwrap()
    );
}

#[test]
fn a_damaged_database_is_moved_aside_and_the_daemon_starts() {
    let mut daemon = TestDaemon::new();
    std::fs::create_dir_all(daemon.state("kithd.db").parent().unwrap()).unwrap();
    std::fs::write(
        daemon.state("kithd.db"),
        b"this is no database, not even a small one".repeat(200),
    )
    .unwrap();
    daemon.start();
    assert!(daemon.state("kithd.db.damaged-1").exists());
    assert!(
        daemon
            .get_text("/")
            .contains("was moved to kithd.db.damaged-1")
    );
    daemon.stop();
    daemon.start();
    assert!(
        daemon
            .get_text("/")
            .contains("was moved to kithd.db.damaged-1"),
        "the notice is gone after a restart"
    );
    assert_eq!(
        daemon.ended(daemon.post_path(&daemon.put("obama_1.jpg", "x.jpg")))["state"],
        "processed"
    );
}
