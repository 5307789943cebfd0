//! The main job over HTTP: a picture goes in, the right name comes out, in the database, the API
//! and the page.

use serde_json::json;

use crate::support::{TestDaemon, photo};

#[test]
fn a_posted_path_ends_with_the_right_person_everywhere() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let path = daemon.put("obama_2.jpg", "unknown0001.jpg");
    let id = daemon.post_path(&path);
    let image = daemon.ended(id);
    assert_eq!(image["state"], "processed", "{image}");
    assert_eq!(image["outcome"], "known", "{image}");
    assert_eq!(image["persons"], json!(["Barack Obama"]));
    assert_eq!(image["found"][0]["person"], "Barack Obama");
    assert!(image["distance"].as_f64().unwrap() < 0.428, "{image}");
    assert!(image["result_id"].is_string());
    let rows = daemon.sql(
        "select i.outcome, p.name from images i join faces f on f.image_id = i.id join person p on p.id = f.person_id",
    );
    assert_eq!(rows, ["known|Barack Obama"]);
    let join = "select person.name from person inner join person_images as pi on person.id = pi.person_id where image_name = 'obama_1.jpg'";
    assert_eq!(daemon.sql(join), ["Barack Obama"]);
    assert!(daemon.get_text("/").contains("Barack Obama"));
}

#[test]
fn a_group_gets_a_box_and_a_name_for_every_face() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let id = daemon.post_path(&daemon.put("group.jpg", "group.jpg"));
    let image = daemon.ended(id);
    let mut names: Vec<_> = image["found"]
        .as_array()
        .unwrap()
        .iter()
        .map(|face| face["person"].as_str().unwrap_or("unknown"))
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["Barack Obama", "Eileen Collins", "Joe Biden"],
        "{image}"
    );
}

#[test]
fn strangers_are_unknown_and_a_scene_has_no_face() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let output = daemon.kithd([
        "enroll",
        "--person",
        "Joe Biden",
        photo("biden_1.jpg").to_str().unwrap(),
    ]);
    assert!(output.status.success());
    let stranger = daemon.post_path(&daemon.put("astronaut_1.jpg", "a.jpg"));
    let scene = daemon.post_path(&daemon.put("noface.jpg", "n.jpg"));
    assert_eq!(daemon.ended(stranger)["outcome"], "unknown");
    let scene = daemon.ended(scene);
    assert_eq!(
        (&scene["state"], &scene["outcome"]),
        (&json!("processed"), &json!("no_face"))
    );
}

#[test]
fn each_path_of_a_list_and_each_post_is_a_new_image() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let path = daemon.put("obama_1.jpg", "x.jpg");
    let body = json!({ "paths": [{ "path": path }, { "path": path }] }).to_string();
    let (status, answer) = daemon.post("/images/post", &[], body.as_bytes());
    assert_eq!(status, 202);
    let (one, two) = (
        answer["ids"][0].as_i64().unwrap(),
        answer["ids"][1].as_i64().unwrap(),
    );
    assert_ne!(one, two);
    assert_ne!(daemon.post_path(&path), two);
}

#[test]
fn the_same_idempotency_key_is_the_same_image() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let body = json!({ "path": daemon.put("obama_1.jpg", "x.jpg") }).to_string();
    let post = |key: &str| {
        let (status, answer) =
            daemon.post("/image/post", &[("idempotency-key", key)], body.as_bytes());
        assert_eq!(status, 202);
        answer["ids"][0].as_i64().unwrap()
    };
    let first = post("a");
    assert_eq!(post("a"), first);
    assert_ne!(post("b"), first);
    let other = json!({ "path": daemon.put("biden_1.jpg", "y.jpg") }).to_string();
    let (status, problem) =
        daemon.post("/image/post", &[("idempotency-key", "a")], other.as_bytes());
    assert_eq!(status, 422, "{problem}");
    let bytes = std::fs::read(photo("obama_1.jpg")).unwrap();
    let upload = || {
        daemon
            .post(
                "/v1/images",
                &[("idempotency-key", "c"), ("content-type", "image/jpeg")],
                &bytes,
            )
            .1
    };
    assert_eq!(upload()["ids"], upload()["ids"]);
}

#[test]
fn bytes_come_raw_or_as_a_form_and_leave_the_spool_when_done() {
    let mut daemon = TestDaemon::new();
    // The bytes are kept until the engine has passed its next self-test.
    daemon.set("breaker.self_test", "1s");
    daemon.start_with_everybody();
    let bytes = std::fs::read(photo("biden_2.jpg")).unwrap();
    let (status, raw) = daemon.post(
        "/v1/images?name=door.jpg",
        &[("content-type", "image/jpeg")],
        &bytes,
    );
    assert_eq!(status, 202, "{raw}");
    let form = [
        b"--x\r\nContent-Disposition: form-data; name=\"picture\"; filename=\"gate.jpg\"\r\n\r\n"
            .as_slice(),
        &bytes,
        b"\r\n--x--\r\n",
    ]
    .concat();
    let (status, multipart) = daemon.post(
        "/v1/images",
        &[("content-type", "multipart/form-data; boundary=x")],
        &form,
    );
    assert_eq!(status, 202, "{multipart}");
    for (answer, name) in [(raw, "door.jpg"), (multipart, "gate.jpg")] {
        let image = daemon.ended(answer["ids"][0].as_i64().unwrap());
        assert_eq!(
            (&image["path"], &image["persons"]),
            (&json!(name), &json!(["Joe Biden"]))
        );
    }
    crate::support::wait_for("the spool to be swept", || {
        let left = std::fs::read_dir(daemon.state("spool")).unwrap().count();
        (left == 0).then_some(())
    });
}

#[test]
fn people_enrolled_while_the_daemon_runs_are_known_at_once() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let path = daemon.put("biden_2.jpg", "x.jpg");
    assert_eq!(daemon.ended(daemon.post_path(&path))["outcome"], "unknown");
    daemon.enroll_everybody();
    assert_eq!(
        daemon.ended(daemon.post_path(&path))["persons"],
        json!(["Joe Biden"])
    );
}

#[test]
fn a_picture_of_many_megabytes_goes_through() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    // Noise does not compress: far beyond what a gRPC message may have by default.
    let noise = image::RgbImage::from_fn(1800, 1400, |_, _| {
        image::Rgb(std::array::from_fn(|_| fastrand::u8(..)))
    });
    let mut png = std::io::Cursor::new(Vec::new());
    noise.write_to(&mut png, image::ImageFormat::Png).unwrap();
    assert!(png.get_ref().len() > 7 << 20);
    let (status, answer) = daemon.post(
        "/v1/images",
        &[("content-type", "image/png")],
        png.get_ref(),
    );
    assert_eq!(status, 202, "{answer}");
    let image = daemon.ended(answer["ids"][0].as_i64().unwrap());
    assert_eq!(image["state"], "processed", "{image}");
}
