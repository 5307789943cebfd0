//! Bits that a disk turns: a damaged row costs that row only, is named, and is made anew where that
//! is possible.

use serde_json::Value;

use crate::broker::Mosquitto;
use crate::support::{TestDaemon, part_is_ok, photo, publish, publish_with, wait_for};

/// Overwrites an enrolled person's embedding.
fn set_vector(board: &TestDaemon, person: &str, vector: &[u8]) {
    let hex: String = vector.iter().map(|byte| format!("{byte:02x}")).collect();
    board.change(&format!(
            "update person_embeddings set vector = x'{hex}' where person_image_id in (select pi.id from person_images pi
               join person on person.id = pi.person_id where name = '{person}')"
        ),
    );
}

fn vector(board: &TestDaemon, person: &str) -> Vec<u8> {
    let hex = board.sql(&format!(
        "select hex(vector) from person_embeddings join person_images pi on pi.id = person_image_id
           join person on person.id = pi.person_id where name = '{person}'"
    ));
    (0..hex[0].len() / 2)
        .map(|n| u8::from_str_radix(&hex[0][2 * n..2 * n + 2], 16).unwrap())
        .collect()
}

fn gallery(board: &TestDaemon) -> Value {
    board.get("/v1/status")["parts"]["gallery"].clone()
}

#[test]
fn a_damaged_embedding_is_made_anew_from_the_kept_picture() {
    let mut board = TestDaemon::new();
    board.enroll_everybody();
    let whole = vector(&board, "Barack Obama");
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
        set_vector(&board, "Barack Obama", &vector_now);
        board.start();
        part_is_ok(&board, "gallery");
        assert_eq!(
            gallery(&board)["text"],
            "complete; 1 embeddings were made anew",
            "{how}"
        );
        let log = board.log();
        assert_eq!(
            log.matches("the embedding of an enrolled picture is damaged")
                .count(),
            1,
            "{how}: {log}"
        );
        assert!(!log.contains("Obama"), "{how}: a name is logged");
        assert_eq!(
            board.known("obama_2.jpg", &format!("o{n}.jpg")),
            "Barack Obama",
            "{how}"
        );
        assert_eq!(
            board.known("biden_2.jpg", &format!("b{n}.jpg")),
            "Joe Biden",
            "{how}"
        );
        board.stop();
        // An engine makes the same embedding of the same picture each time.
        assert_eq!(vector(&board, "Barack Obama"), whole, "{how}");
    }
}

#[test]
fn a_damaged_embedding_without_its_picture_is_named() {
    let mut board = TestDaemon::new();
    board.enroll_everybody();
    set_vector(&board, "Joe Biden", &[7; 516]);
    board.change(
        "delete from enrolment_pictures
          where person_image_id = (select id from person_images where image_name = 'biden_1.jpg')",
    );
    board.start();
    let part = wait_for("the gallery", || {
        let part = gallery(&board);
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
        board.get_text("/").contains("biden_1.jpg of Joe Biden"),
        "the page does not name it"
    );
    assert_eq!(board.known("obama_2.jpg", "o.jpg"), "Barack Obama");
    assert_eq!(board.known("biden_2.jpg", "b.jpg"), Value::Null);
    // The page shows the damage until it is mended.
    let picture =
        board.sql("select id from person_images where image_name = 'biden_1.jpg'")[0].clone();
    let person = board.sql("select id from person where name = 'Joe Biden'")[0].clone();
    let (status, answer) = board.post_as_admin(
        &format!("/people/{person}/pictures/{picture}/delete"),
        &[],
        b"",
    );
    assert!(status < 400, "{status} {answer}");
    wait_for("the gallery to be complete", || {
        (gallery(&board)["text"] == "complete").then_some(())
    });
}

#[test]
fn a_name_that_is_no_text_any_more_costs_that_name() {
    let mut board = TestDaemon::new();
    board.enroll_everybody();
    board.change("update person set name = cast(x'4a6f65ff' as text) where name = 'Joe Biden';
         update person_images set image_name = cast(x'ff2e6a7067' as text) where image_name = 'biden_1.jpg';",
    );
    board.start();
    assert_eq!(board.known("obama_2.jpg", "o.jpg"), "Barack Obama");
    assert_eq!(board.known("biden_2.jpg", "b.jpg"), "Joe\u{fffd}");
    let people = board.get("/v1/people");
    assert_eq!(people["people"].as_array().unwrap().len(), 3, "{people}");
}

#[test]
fn paths_and_messages_lost_with_the_journal_are_said() {
    for missing in [true, false] {
        let broker = Mosquitto::running();
        let mut board = TestDaemon::with_broker(broker.port());
        let watched = board.folder.path().join("watched");
        std::fs::create_dir(&watched).unwrap();
        board.set(
            "folder",
            &format!("[{{path = {watched:?}, settle = \"100ms\", poll = \"200ms\"}}]"),
        );
        board.start();
        part_is_ok(&board, "engine");
        part_is_ok(&board, "mqtt");
        assert!(board.kithd(["breaker", "open"]).status.success());
        // The journal is copied into the database by a stop in order: what follows stands in it
        // alone.
        board.stop();
        board.start();
        part_is_ok(&board, "mqtt");
        assert_eq!(board.get("/v1/status")["parts"]["database"]["text"], "open");
        for n in 0..3 {
            let picture = photo("noface.jpg");
            publish(
                broker.port(),
                "kithd/board/image/post",
                &board.put("noface.jpg", &format!("{n}.jpg")),
            );
            std::fs::copy(&picture, watched.join(format!("{n}.jpg"))).unwrap();
            board.post_path(&board.put("noface.jpg", &format!("http-{n}.jpg")));
        }
        let mut picture = std::fs::read(photo("noface.jpg")).unwrap();
        for n in 0..3 {
            picture.push(n);
            let file = board.folder.path().join("picture");
            std::fs::write(&file, &picture).unwrap();
            publish_with(
                broker.port(),
                "kithd/board/image",
                &["-f", file.to_str().unwrap()],
            );
        }
        let count = |board: &TestDaemon, of: &str| {
            board.sql(&format!("select count(*) from images where {of}"))[0].clone()
        };
        wait_for("all to be accepted", || {
            (count(&board, "true") == "12").then_some(())
        });
        board.kill();
        let journal = board.state("kithd.db-wal");
        if missing {
            std::fs::remove_file(&journal).unwrap();
        } else {
            let mut bytes = std::fs::read(&journal).unwrap();
            bytes[100] ^= 4;
            std::fs::write(&journal, bytes).unwrap();
        }
        board.start();
        // Pictures that came as bytes lie in the spool, and files in their folder; what hangs on
        // the journal alone is said.
        wait_for("messages and files", || {
            (count(&board, "file is not null") == "3").then_some(())
        });
        wait_for("files", || {
            (count(&board, "source = 'folder'") == "3").then_some(())
        });
        let part = board.get("/v1/status")["parts"]["database"].clone();
        let how = if missing { "missing" } else { "damaged" };
        let said = format!("The journal of the database (kithd.db-wal) was {how} at this start");
        assert!(
            part["condition"] == "degraded" && part["text"].as_str().unwrap().starts_with(&said),
            "{part}"
        );
        assert!(board.get_text("/").contains("may be lost; send them again"));
        assert_eq!(
            count(&board, "source in ('mqtt', 'http') and file is null"),
            "0"
        );
        board.stop();
        board.start();
        assert_eq!(board.get("/v1/status")["parts"]["database"]["text"], "open");
    }
}
