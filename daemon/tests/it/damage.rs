//! Bits that a disk turns: a damaged row costs that row only, is named, and is made anew where that
//! is possible.

use serde_json::Value;

use crate::broker::Mosquitto;
use crate::support::{TestDaemon, part_is_ok, photo, publish, publish_with, wait_for};

/// Overwrites an enrolled person's embedding.
fn set_vector(daemon: &TestDaemon, person: &str, vector: &[u8]) {
    let hex: String = vector.iter().map(|byte| format!("{byte:02x}")).collect();
    daemon.change(&format!(
            "update person_embeddings set vector = x'{hex}' where person_image_id in (select pi.id from person_images pi
               join person on person.id = pi.person_id where name = '{person}')"
        ),
    );
}

fn vector(daemon: &TestDaemon, person: &str) -> Vec<u8> {
    let hex = daemon.sql(&format!(
        "select hex(vector) from person_embeddings join person_images pi on pi.id = person_image_id
           join person on person.id = pi.person_id where name = '{person}'"
    ));
    (0..hex[0].len() / 2)
        .map(|n| u8::from_str_radix(&hex[0][2 * n..2 * n + 2], 16).unwrap())
        .collect()
}

fn gallery(daemon: &TestDaemon) -> Value {
    daemon.get("/v1/status")["parts"]["gallery"].clone()
}

#[test]
fn a_damaged_embedding_is_made_anew_from_the_kept_picture() {
    let mut daemon = TestDaemon::new();
    daemon.enroll_everybody();
    let whole = vector(&daemon, "Barack Obama");
    let turned = |bit: usize| {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        damaged
    };
    let numbers = whole.len() - 4;
    let damaged = [
        ("a bit that leaves a usable number", turned(5 * 32 + 3)),
        ("a sign", turned(9 * 32 + 31)),
        ("an exponent", turned(2 * 32 + 30)),
        ("a bit of the seal", turned(numbers * 8 + 1)),
        ("four bytes short", whole[4..].to_vec()),
        ("one byte short", whole[..whole.len() - 1].to_vec()),
        ("zeros", vec![0; whole.len()]),
        ("not numbers", vec![0xff; whole.len()]),
        ("empty", vec![]),
    ];
    for (n, (how, vector_now)) in damaged.into_iter().enumerate() {
        set_vector(&daemon, "Barack Obama", &vector_now);
        daemon.start();
        part_is_ok(&daemon, "gallery");
        assert_eq!(
            gallery(&daemon)["text"],
            "complete; 1 embeddings were made anew",
            "{how}"
        );
        let log = daemon.log();
        assert_eq!(
            log.matches("the embedding of an enrolled picture is damaged")
                .count(),
            1,
            "{how}: {log}"
        );
        assert!(!log.contains("Obama"), "{how}: a name is logged");
        assert_eq!(
            daemon.known("obama_2.jpg", &format!("o{n}.jpg")),
            "Barack Obama",
            "{how}"
        );
        assert_eq!(
            daemon.known("biden_2.jpg", &format!("b{n}.jpg")),
            "Joe Biden",
            "{how}"
        );
        daemon.stop();
        // An engine makes the same embedding of the same picture each time.
        assert_eq!(vector(&daemon, "Barack Obama"), whole, "{how}");
    }
}

#[test]
fn a_damaged_embedding_without_its_picture_is_named() {
    let mut daemon = TestDaemon::new();
    daemon.enroll_everybody();
    set_vector(&daemon, "Joe Biden", &[7; 516]);
    daemon.change(
        "delete from enrolment_pictures
          where person_image_id = (select id from person_images where image_name = 'biden_1.jpg')",
    );
    daemon.start();
    let part = wait_for("the gallery", || {
        let part = gallery(&daemon);
        (part["condition"] == "degraded").then_some(part)
    });
    assert!(
        part["text"]
            .as_str()
            .unwrap()
            .contains("biden_1.jpg of Joe Biden"),
        "{part}"
    );
    assert!(
        daemon.get_text("/").contains("biden_1.jpg of Joe Biden"),
        "the page does not name it"
    );
    assert_eq!(daemon.known("obama_2.jpg", "o.jpg"), "Barack Obama");
    assert_eq!(daemon.known("biden_2.jpg", "b.jpg"), Value::Null);
    // The page shows the damage until it is mended.
    let picture =
        daemon.sql("select id from person_images where image_name = 'biden_1.jpg'")[0].clone();
    let person = daemon.sql("select id from person where name = 'Joe Biden'")[0].clone();
    let (status, answer) = daemon.post_as_admin(
        &format!("/people/{person}/pictures/{picture}/delete"),
        &[],
        b"",
    );
    assert!(status < 400, "{status} {answer}");
    wait_for("the gallery to be complete", || {
        (gallery(&daemon)["text"] == "complete").then_some(())
    });
}

#[test]
fn a_name_that_is_no_text_any_more_costs_that_name() {
    let mut daemon = TestDaemon::new();
    daemon.enroll_everybody();
    daemon.change("update person set name = cast(x'4a6f65ff' as text) where name = 'Joe Biden';
         update person_images set image_name = cast(x'ff2e6a7067' as text) where image_name = 'biden_1.jpg';",
    );
    daemon.start();
    assert_eq!(daemon.known("obama_2.jpg", "o.jpg"), "Barack Obama");
    assert_eq!(daemon.known("biden_2.jpg", "b.jpg"), "Joe\u{fffd}");
    let people = daemon.get("/v1/people");
    assert_eq!(people["people"].as_array().unwrap().len(), 3, "{people}");
}

#[test]
fn a_spooled_name_that_is_no_text_ends_its_picture_by_name() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    let bytes = std::fs::read(photo("obama_2.jpg")).unwrap();
    assert_eq!(daemon.post("/v1/images", &[], &bytes).0, 202);
    daemon.stop();
    daemon.change(
        "update images set file = cast(x'73706f6f6c2fff' as text);
         insert into facts (key, value) values ('damaged', cast(x'ff' as text));",
    );
    daemon.start();
    assert!(daemon.kithd(["breaker", "close"]).status.success());
    let failed = wait_for("the picture to end", || {
        Some(daemon.get("/v1/images")["images"][0].clone())
            .filter(|image| image["state"] == "failed")
    });
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("is gone from the state folder"), "{reason}");
    assert_eq!(daemon.known("biden_2.jpg", "b.jpg"), "Joe Biden");
}

#[test]
fn paths_and_messages_lost_with_the_journal_are_said() {
    for missing in [true, false] {
        let broker = Mosquitto::running();
        let mut daemon = TestDaemon::with_broker(broker.port());
        let watched = daemon.folder.path().join("watched");
        std::fs::create_dir(&watched).unwrap();
        daemon.set(
            "folder",
            &format!("[{{path = {watched:?}, settle = \"100ms\", poll = \"200ms\"}}]"),
        );
        daemon.start();
        part_is_ok(&daemon, "engine");
        part_is_ok(&daemon, "mqtt");
        assert!(daemon.kithd(["breaker", "open"]).status.success());
        // The journal is copied into the database by a stop in order: what follows stands in it
        // alone.
        daemon.stop();
        daemon.start();
        part_is_ok(&daemon, "mqtt");
        assert_eq!(
            daemon.get("/v1/status")["parts"]["database"]["text"],
            "open"
        );
        for n in 0..3 {
            let picture = photo("noface.jpg");
            publish(
                broker.port(),
                "kithd/board/image/post",
                &daemon.put("noface.jpg", &format!("{n}.jpg")),
            );
            std::fs::copy(&picture, watched.join(format!("{n}.jpg"))).unwrap();
            daemon.post_path(&daemon.put("noface.jpg", &format!("http-{n}.jpg")));
        }
        let mut picture = std::fs::read(photo("noface.jpg")).unwrap();
        for n in 0..3 {
            picture.push(n);
            let file = daemon.folder.path().join("picture");
            std::fs::write(&file, &picture).unwrap();
            publish_with(
                broker.port(),
                "kithd/board/image",
                &["-f", file.to_str().unwrap()],
            );
        }
        let count = |daemon: &TestDaemon, of: &str| {
            daemon.sql(&format!("select count(*) from images where {of}"))[0].clone()
        };
        wait_for("all to be accepted", || {
            (count(&daemon, "true") == "12").then_some(())
        });
        daemon.kill();
        let journal = daemon.state("kithd.db-wal");
        if missing {
            std::fs::remove_file(&journal).unwrap();
        } else {
            let mut bytes = std::fs::read(&journal).unwrap();
            bytes[100] ^= 4;
            std::fs::write(&journal, bytes).unwrap();
        }
        daemon.start();
        // Pictures that came as bytes lie in the spool, and files in their folder; what hangs on
        // the journal alone is said.
        wait_for("messages and files", || {
            (count(&daemon, "file is not null") == "3").then_some(())
        });
        wait_for("files", || {
            (count(&daemon, "source = 'folder'") == "3").then_some(())
        });
        let part = daemon.get("/v1/status")["parts"]["database"].clone();
        let how = if missing { "missing" } else { "damaged" };
        let said = format!("The journal of the database (kithd.db-wal) was {how} at this start");
        assert!(
            part["condition"] == "degraded" && part["text"].as_str().unwrap().starts_with(&said),
            "{part}"
        );
        assert!(
            daemon
                .get_text("/")
                .contains("may be lost; send them again")
        );
        assert_eq!(
            count(&daemon, "source in ('mqtt', 'http') and file is null"),
            "0"
        );
        daemon.stop();
        daemon.start();
        assert_eq!(
            daemon.get("/v1/status")["parts"]["database"]["text"],
            "open"
        );
    }
}
