//! Erased means erased: nothing of a person is left in the state folder, and no backup brings them
//! back.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, no_face, part_is_ok, photo, publish, text, wait_for};

const NAME: &str = "Xanthippe Unmistakable";

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}

/// Returns the files of the state folder that hold these bytes.
fn holding(daemon: &TestDaemon, what: &[u8]) -> Vec<PathBuf> {
    let state = daemon.folder.path().join("state");
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(what.len()).any(|window| window == what)
    };
    files(&state).into_iter().filter(holds).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
        .collect()
}

/// Returns pieces of all the person's data, none of which may be left afterwards.
fn traces(daemon: &TestDaemon) -> Vec<(String, Vec<u8>)> {
    let mut traces = vec![("name".to_string(), NAME.as_bytes().to_vec())];
    let mut find = |what: &str, sql: &str| {
        let values = daemon.sql(sql);
        assert!(!values.is_empty(), "there is no {what}");
        for hex in values {
            let bytes = unhex(&hex);
            // The database may have cut a long value in the middle of a piece: of several some are
            // whole.
            let pieces = (1..6).map(|part| {
                bytes[bytes.len() * part / 6..]
                    .iter()
                    .copied()
                    .take(20)
                    .collect::<Vec<u8>>()
            });
            let whole: Vec<_> = pieces
                .filter(|piece| !holding(daemon, piece).is_empty())
                .collect();
            assert!(
                whole.len() > 1,
                "{what} is nowhere, so that nothing can be shown by it"
            );
            traces.extend(whole.into_iter().map(|piece| (what.to_string(), piece)));
        }
    };
    let person = format!("(select id from person where name = '{NAME}')");
    let pictures = format!("(select id from person_images where person_id = {person})");
    let images = format!("(select image_id from faces where person_id = {person})");
    find(
        "embedding",
        &format!("select hex(vector) from person_embeddings where person_image_id in {pictures}"),
    );
    find(
        "crop",
        &format!("select hex(crop) from person_images where person_id = {person}"),
    );
    find(
        "face",
        &format!("select hex(embedding) from faces where person_id = {person}"),
    );
    find(
        "crop of a face",
        &format!("select hex(crop) from faces where person_id = {person}"),
    );
    find(
        "thumbnail",
        &format!("select hex(jpeg) from thumbnails where image_id in {images}"),
    );
    traces
}

fn enroll(daemon: &TestDaemon, name: &str, picture: &str) {
    let output = daemon.kithd(["enroll", "--person", name, photo(picture).to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_forgotten_person_is_in_no_file_and_no_backup_brings_them() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    enroll(&daemon, NAME, "obama_1.jpg");
    enroll(&daemon, "Joe Biden", "biden_1.jpg");
    enroll(&daemon, "Once Called Otherwise", "astronaut_1.jpg");
    for n in 0..3 {
        let bytes = std::fs::read(photo("obama_2.jpg")).unwrap();
        let id = daemon
            .post("/v1/images", &[("content-type", "image/jpeg")], &bytes)
            .1["ids"][0]
            .as_i64()
            .unwrap();
        assert_eq!(daemon.ended(id)["found"][0]["person"], NAME);
        daemon.ended(daemon.post_path(&daemon.put("biden_2.jpg", &format!("{n}.jpg"))));
        daemon.ended(daemon.post_path(&daemon.put("group.jpg", &format!("group-{n}.jpg"))));
    }
    // A person merged into them, whose results bear another name and number.
    daemon.ended(daemon.post_path(&daemon.put("astronaut_1.jpg", "before.jpg")));
    assert!(
        daemon
            .kithd(["people", "merge", "Once Called Otherwise", NAME])
            .status
            .success()
    );
    let backup = daemon.folder.path().join("all.kithd").display().to_string();
    assert!(daemon.kithd(["backup", &backup]).status.success());
    daemon.stop();
    // Upgrades leave such a copy.
    let state = daemon.folder.path().join("state");
    std::fs::copy(state.join("kithd.db"), state.join("kithd.db.before-0008")).unwrap();
    daemon.start();
    wait_for("the gallery's backup", || {
        state.join("gallery.backup").exists().then_some(())
    });
    let uid = unhex(
        &daemon.sql(&format!(
            "select hex(uid) from person where name = '{NAME}'"
        ))[0],
    );
    let mut traces = traces(&daemon);
    for (what, trace) in &traces {
        assert!(
            !holding(&daemon, trace).is_empty(),
            "{what} is nowhere, so that nothing can be shown by it"
        );
    }
    traces.push(("earlier name".into(), b"Once Called Otherwise".to_vec()));

    let said = text(&daemon.kithd(["forget", "--yes", NAME]));
    assert!(said.contains("was erased"), "{said}");
    assert!(!daemon.log().contains(NAME), "{}", daemon.log());
    assert!(!state.join("kithd.db.before-0008").exists());
    daemon.stop();
    for (what, trace) in &traces {
        assert_eq!(
            holding(&daemon, trace),
            Vec::<PathBuf>::new(),
            "{what} is left"
        );
    }
    // The tombstone: twice, for the two who were one, in the database and in the gallery's backup;
    // nowhere else.
    assert_eq!(daemon.sql("select count(*) from erased"), ["2"]);
    let mut with_uid = holding(&daemon, &uid);
    with_uid.sort();
    assert_eq!(
        with_uid,
        [state.join("gallery.backup"), state.join("kithd.db")]
    );
    assert_eq!(daemon.sql("select count(*) from enrolment_pictures"), ["1"]);

    // The past is still there without them, also after a restore of older backups, here or on a new
    // board that has the tombstone.
    daemon.start();
    let gallery = state.join("gallery.backup").display().to_string();
    let mut new = TestDaemon::new();
    assert!(new.kithd(["restore", "--yes", &gallery]).status.success());
    for daemon in [&daemon, &new] {
        let output = daemon.kithd(["restore", "--yes", &backup]);
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(daemon.sql("select name from person"), ["Joe Biden"]);
        assert_eq!(
            daemon.sql(
                "select count(*) from faces where outcome <> 'unknown' and person_id is null and length(crop) > 0"
            ),
            ["0"]
        );
        assert!(
            daemon.sql("select count(*) from images")[0]
                .parse::<u64>()
                .unwrap()
                > 6
        );
    }
    new.start();
    new.stop();
    for daemon in [&mut daemon, &mut new] {
        daemon.stop();
        for (what, trace) in &traces {
            assert_eq!(
                holding(daemon, trace),
                Vec::<PathBuf>::new(),
                "{what} came back"
            );
        }
    }
}

/// The pages that a reader holds back in the journal go when it ends.
#[test]
fn a_person_is_forgotten_at_once_though_the_journal_is_read() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    enroll(&daemon, NAME, "obama_1.jpg");
    let mut reader = std::process::Command::new("sqlite3")
        .args(["-readonly", daemon.state("kithd.db").to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut typed = reader.stdin.take().unwrap();
    let reads = daemon.folder.path().join("reads");
    let script = format!(
        "BEGIN; SELECT count(*) FROM person;\n.shell touch {}\n",
        reads.display()
    );
    typed.write_all(script.as_bytes()).unwrap();
    wait_for("the reader", || reads.exists().then_some(()));

    let output = daemon.kithd(["forget", "--yes", NAME]);
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    assert!(
        said.contains("was erased") && said.contains("The daemon goes on until nothing is left"),
        "{said}"
    );
    assert!(daemon.sql("select name from person").is_empty());
    assert_ne!(
        daemon.sql("select value from facts where key = 'erasing'"),
        ["[]"]
    );
    drop(typed);
    assert!(reader.wait().unwrap().success());
    daemon.stop();
    daemon.start();
    wait_for("the rest to follow", || {
        (daemon.sql("select value from facts where key = 'erasing'") == ["[]"]).then_some(())
    });
    assert!(holding(&daemon, NAME.as_bytes()).is_empty());
}

#[test]
fn without_a_daemon_a_person_is_forgotten_and_leftovers_named() {
    let mut daemon = TestDaemon::new();
    enroll(&daemon, NAME, "obama_1.jpg");
    daemon.start();
    wait_for("the gallery's backup", || {
        daemon.state("gallery.backup").exists().then_some(())
    });
    daemon.stop();
    std::fs::write(daemon.state("kithd.db"), b"this is no database".repeat(500)).unwrap();
    daemon.start();
    assert_eq!(daemon.sql("select name from person"), [NAME]);
    daemon.stop();
    let unknown = daemon.kithd(["forget", "--yes", "Nobody"]);
    assert!(
        !unknown.status.success() && text(&unknown).contains("nobody is enrolled as Nobody"),
        "{}",
        text(&unknown)
    );
    // Without a terminal it cannot ask.
    let said = text(&daemon.kithd(["forget", NAME]));
    assert!(
        said.contains("was erased") && said.contains("kithd.db.damaged-1"),
        "{said}"
    );
    assert!(daemon.sql("select name from person").is_empty());
    assert!(
        holding(&daemon, NAME.as_bytes())
            .iter()
            .all(|path| path.display().to_string().contains(".damaged-"))
    );
}

/// Names stay unique.
#[test]
fn people_are_renamed_and_merged_with_their_past() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let id = daemon.post_path(&daemon.put("obama_2.jpg", "x.jpg"));
    daemon.ended(id);
    let refused = daemon.kithd(["people", "rename", "Joe Biden", "Barack Obama"]);
    assert!(
        !refused.status.success()
            && text(&refused).contains("another person is called Barack Obama"),
        "{}",
        text(&refused)
    );
    assert!(
        daemon
            .kithd(["people", "rename", "Barack Obama", "The President"])
            .status
            .success()
    );
    let person = |id: i64| daemon.get(&format!("/v1/images/{id}"))["found"][0]["person"].clone();
    assert_eq!(person(id), "The President");
    let next = daemon.post_path(&daemon.put("obama_2.jpg", "y.jpg"));
    daemon.ended(next);
    assert_eq!(person(next), "The President");

    let into = daemon.kithd(["people", "merge", "Joe Biden", "The President"]);
    assert!(into.status.success(), "{}", text(&into));
    let merged = daemon.post_path(&daemon.put("biden_2.jpg", "z.jpg"));
    daemon.ended(merged);
    assert_eq!(person(merged), "The President");
    assert_eq!(
        daemon.sql(
            "select count(*) from faces, json_each(candidates) c where c.value ->> 0 not in (select id from person)"
        ),
        ["0"]
    );
    let shown = text(&daemon.kithd(["people"]));
    assert!(
        shown.contains("The President  2 pictures") && !shown.contains("Biden"),
        "{shown}"
    );
    let itself = daemon.kithd(["people", "merge", "The President", "The President"]);
    assert!(
        text(&itself).contains("one person already"),
        "{}",
        text(&itself)
    );
    daemon.stop();
    assert!(
        daemon
            .kithd(["people", "rename", "The President", "Ann"])
            .status
            .success()
    );
    assert_eq!(
        daemon.sql("select name from person order by name"),
        ["Ann", "Eileen Collins"]
    );
}

#[test]
fn home_assistants_last_face_is_cleared_with_its_person() {
    let broker = Mosquitto::running();
    let mut daemon = TestDaemon::with_broker(broker.port());
    daemon.set("homeassistant.enabled", "true");
    daemon.start_connected();
    enroll(&daemon, NAME, "obama_1.jpg");
    let mut faces = Subscriber::new(broker.port(), "kithd/board/face");
    let mut origins = Subscriber::new(broker.port(), "kithd/board/face/origin");
    // Faces wait for Home Assistant.
    publish(broker.port(), "homeassistant/status", "online");
    let id = daemon.post_path(&daemon.put("obama_2.jpg", "x.jpg"));
    daemon.ended(id);
    // Once with the result, and once with the sighting that begins.
    wait_for("the face", || {
        let shown = format!("\"image_id\":{id},");
        let ours = |origin: &&Value| origin["payload"].as_str().unwrap().contains(&shown);
        let origins = origins.messages();
        let complete = faces.messages().len() >= origins.len();
        (origins.iter().filter(ours).count() >= 2 && complete).then_some(())
    });
    let before = faces.messages().len();
    assert!(daemon.kithd(["forget", "--yes", NAME]).status.success());
    wait_for("the face to be cleared", || {
        (faces.messages().len() == before + 2).then_some(())
    });
    // What another client may have retained, and then the picture of no face, since Home Assistant
    // cannot show an empty one.
    let faces = faces.messages();
    assert_eq!(faces[before]["payload"], json!(""));
    assert_eq!(faces[before + 1]["payload"], no_face());
    wait_for("its origin to be cleared", || {
        let last = origins.messages().last()?["payload"].as_str()?.to_owned();
        last.contains("\"image_id\":null").then_some(())
    });
    // The broker retains nothing of them.
    let mut later = Subscriber::new(broker.port(), "kithd/board/face");
    part_is_ok(&daemon, "mqtt out");
    assert!(later.messages().is_empty());
}
