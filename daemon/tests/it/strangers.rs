//! Unnamed people, grouped in the background under lasting numbers; and the gallery's advice on the
//! threshold.

use serde_json::Value;

use crate::support::{TestDaemon, pack, part_is_ok, photo, text, wait_for};

/// Returns each group's number and the names of its images' files.
fn groups(daemon: &TestDaemon) -> Vec<String> {
    daemon.sql(
        "select s.id || ': ' || (select group_concat(path, ' ') from (
                    select replace(path, rtrim(path, replace(path, '/', '')), '') as path from stranger_faces m
                      join images i on i.id = m.image_id where m.stranger_id = s.id order by path))
           from strangers s order by s.id",
    )
}

#[test]
fn two_strangers_make_groups_that_outlast_restart_and_new_pack() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    for name in ["obama_1.jpg", "biden_1.jpg", "obama_2.jpg"] {
        assert_eq!(
            daemon.ended(daemon.post_path(&daemon.put(name, name)))["outcome"],
            "unknown"
        );
    }
    let two = ["1: obama_1.jpg obama_2.jpg", "2: biden_1.jpg"];
    wait_for("two groups", || (groups(&daemon) == two).then_some(()));
    part_is_ok(&daemon, "strangers");
    assert_eq!(daemon.stop(), Some(0));

    // Another recogniser would leave these rows.
    daemon.change(
        "update faces set space = 'another', embedding = zeroblob(256);
         update strangers set space = 'another'",
    );
    daemon.start();
    wait_for("the faces to be embedded again", || {
        (daemon.sql("select count(*) from strangers where space <> 'another' and weight > 0")
            == ["2"])
        .then_some(())
    });
    assert_eq!(
        daemon.sql("select count(*) from faces where space = 'another'"),
        ["0"]
    );
    daemon.ended(daemon.post_path(&daemon.put("biden_2.jpg", "biden_2.jpg")));
    let two = ["1: obama_1.jpg obama_2.jpg", "2: biden_1.jpg biden_2.jpg"];
    wait_for("the fourth picture in its group", || {
        (groups(&daemon) == two).then_some(())
    });

    // Known people make no groups.
    daemon.enroll_everybody();
    assert_eq!(
        daemon.ended(daemon.post_path(&daemon.put("astronaut_2.jpg", "astronaut_2.jpg")))["outcome"],
        "known"
    );
    daemon.kill();
    daemon.start();
    part_is_ok(&daemon, "strangers");
    assert_eq!(groups(&daemon), two);
}

#[test]
fn the_gallery_advises_a_threshold_with_or_without_the_daemon() {
    let mut daemon = TestDaemon::new();
    // The thresholds of this pack do not follow the gallery.
    daemon.set("models.pack", &pack("dlib-mtcnn"));
    let none = daemon.kithd(["calibrate"]);
    assert!(
        !none.status.success() && text(&none).contains("kithd has not run"),
        "{}",
        text(&none)
    );
    daemon.start_with_everybody();
    let calibrate = |daemon: &TestDaemon, arguments: &[&str]| {
        let output = daemon.kithd([&["calibrate"], arguments].concat());
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    let said = calibrate(&daemon, &[]);
    assert!(
        said.contains("3 people, 3 pictures: 0 pairs of one person, 3 pairs of two people"),
        "{said}"
    );
    assert!(said.contains("the gallery is too small to say"), "{said}");
    for (person, name) in [
        ("Barack Obama", "obama_2.jpg"),
        ("Joe Biden", "biden_2.jpg"),
    ] {
        assert!(
            daemon
                .kithd(["enroll", "--person", person, photo(name).to_str().unwrap()])
                .status
                .success()
        );
    }
    assert_eq!(daemon.stop(), Some(0));
    daemon.set("recognition.threshold", "0.5");
    let json: Value = serde_json::from_str(&calibrate(&daemon, &["--json"])).unwrap();
    assert_eq!(
        (&json["people"], &json["genuine"], &json["impostors"]),
        (&3.into(), &2.into(), &8.into())
    );
    assert_eq!(
        (json["threshold"].as_f64(), &json["recommended"]),
        (Some(0.5), &Value::Null)
    );
    assert!(
        json["impostor_share"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_f64)
            .sum::<f64>()
            > 0.99
    );
}

#[test]
fn caution_and_the_number_enrolled_are_said_where_they_decide() {
    let mut daemon = TestDaemon::new();
    daemon.set("models.pack", &pack("sface"));
    daemon.start_with_everybody();
    let balanced = daemon.get("/v1/calibration");
    assert_eq!(
        (&balanced["caution"], &balanced["pictures"]),
        (&"balanced".into(), &3.into()),
        "{balanced}"
    );
    assert_eq!(
        (&balanced["strangers_known"], &balanced["strangers_named"]),
        (&0.004.into(), &0.02.into())
    );
    let line = |said: &Value, name: &str| said[name].as_f64().unwrap();
    assert!(line(&balanced, "known_below") < line(&balanced, "unknown_above"));
    let page = daemon.get_text("/calibration");
    assert!(
        page.contains("<dd>balanced</dd>") && page.contains("with 3 enrolled pictures"),
        "{page}"
    );
    assert_eq!(daemon.stop(), Some(0));

    daemon.set("recognition.caution", "strict");
    daemon.start();
    // The gallery comes up beside the page.
    let said = |daemon: &TestDaemon| {
        wait_for("the gallery", || {
            let said = daemon.get("/v1/calibration");
            (said["pictures"] == 3).then_some(said)
        })
    };
    let strict = said(&daemon);
    assert_eq!(strict["caution"], "strict");
    assert!(line(&strict, "known_below") < line(&balanced, "known_below"));
    let words = text(&daemon.kithd(["calibrate"]));
    assert!(
        words.contains("strict: with 3 enrolled pictures a face is known below"),
        "{words}"
    );
    assert_eq!(daemon.stop(), Some(0));

    daemon.set("recognition.threshold", "0.5");
    daemon.start();
    let own = said(&daemon);
    assert_eq!(
        (&own["caution"], own["threshold"].as_f64()),
        (&Value::Null, Some(0.5)),
        "{own}"
    );
}

#[test]
fn a_threshold_of_ones_own_decides_who_is_known() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let id = daemon.post_path(&daemon.put("obama_2.jpg", "obama_2.jpg"));
    let distance = daemon.ended(id)["found"][0]["distance"].as_f64().unwrap();
    assert_eq!(daemon.ended(id)["outcome"], "known");
    assert_eq!(daemon.stop(), Some(0));
    daemon.set("recognition.threshold", &format!("{:.3}", distance / 2.0));
    daemon.start();
    let id = daemon.post_path(&daemon.put("obama_2.jpg", "again.jpg"));
    assert_eq!(daemon.ended(id)["outcome"], "unknown");
}

#[test]
fn names_and_rejections_are_heeded_after_a_change_of_pack() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    for name in ["obama_1.jpg", "biden_1.jpg"] {
        daemon.ended(daemon.post_path(&daemon.put(name, name)));
    }
    wait_for("two groups", || (groups(&daemon).len() == 2).then_some(()));
    let json = [("content-type", "application/json")];
    let (status, named) =
        daemon.post_as_admin("/v1/strangers/1/name", &json, br#"{"name":"Barack Obama"}"#);
    assert_eq!((status, &named["faces"]), (200, &1.into()), "{named}");
    let mistaken = daemon.post_path(&daemon.put("obama_2.jpg", "obama_2.jpg"));
    assert_eq!(daemon.ended(mistaken)["outcome"], "known");
    let answer = ureq::delete(daemon.url(&format!("/v1/images/{mistaken}/faces/1/person")))
        .header("authorization", format!("Bearer {}", daemon.token()))
        .call()
        .unwrap();
    assert_eq!(
        (answer.status().as_u16(), &daemon.ended(mistaken)["outcome"]),
        (200, &"unknown".into())
    );
    wait_for("the face to be a stranger's", || {
        (groups(&daemon) == ["2: biden_1.jpg", "3: obama_2.jpg"]).then_some(())
    });
    assert_eq!(daemon.stop(), Some(0));

    // Another recogniser would leave these rows: only the kept crops can be compared.
    daemon.change(
        "update person_embeddings set space = 'another';
         update counter_examples set space = 'another', vector = zeroblob(256)",
    );
    daemon.start();
    part_is_ok(&daemon, "gallery");
    assert_eq!(
        daemon.sql("select count(*) from person_embeddings where space <> 'another'"),
        ["1"]
    );
    assert_eq!(
        daemon.sql("select count(*) from counter_examples where space = 'another'"),
        ["0"]
    );
    let outcome = |photo: &str, name: &str| {
        daemon.ended(daemon.post_path(&daemon.put(photo, name)))["outcome"].clone()
    };
    assert_eq!(outcome("obama_1.jpg", "again_1.jpg"), "known");
    assert_eq!(outcome("obama_2.jpg", "again_2.jpg"), "unknown");
}

#[test]
fn a_rejection_ends_when_the_face_is_named_or_its_image_goes() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let post = |name: &str| daemon.post_path(&daemon.put("obama_2.jpg", name));
    let outcome = |name: &str| daemon.ended(post(name))["outcome"].clone();
    let delete = |path: &str| {
        let asked = ureq::delete(daemon.url(path))
            .header("authorization", format!("Bearer {}", daemon.token()));
        asked.call().unwrap().status().as_u16()
    };
    let mistaken = post("mistaken.jpg");
    assert_eq!(daemon.ended(mistaken)["outcome"], "known");
    let person = format!("/v1/images/{mistaken}/faces/1/person");
    assert_eq!(delete(&person), 200);
    assert_eq!(outcome("again_1.jpg"), "unknown");

    let json = [("content-type", "application/json")];
    let (status, named) = daemon.post_as_admin(&person, &json, br#"{"name":"Barack Obama"}"#);
    assert_eq!(status, 200, "{named}");
    assert_eq!(daemon.sql("select count(*) from counter_examples"), ["0"]);
    assert_eq!(outcome("again_2.jpg"), "known");
    let pictures = "select count(*) from person_images";
    assert_eq!(daemon.sql(pictures), ["4"]);

    // Rejected once more, the face is enrolled under no name.
    assert_eq!(delete(&person), 200);
    assert_eq!(
        (daemon.sql(pictures), outcome("again_3.jpg")),
        (vec!["3".to_string()], "unknown".into())
    );
    assert_eq!(delete(&format!("/v1/images/{mistaken}")), 204);
    assert_eq!(daemon.sql("select count(*) from counter_examples"), ["0"]);
    assert_eq!(outcome("again_4.jpg"), "known");
}
