//! Boards of one fleet that exchange records by function calls, each with a real database.

mod boards;
mod histories;

use boards::{Board, Broker, crop, exchange, fleet_of, same_everywhere, sum};

use super::*;
use crate::domain::hex;
use crate::fleet::clock::Stamp;
use crate::fleet::record::PersonBody;
use crate::store::Contents;
use crate::store::fixtures::{rows, run};

const YEAR_MS: i64 = 365 * 24 * 3_600_000;

/// Connects all boards, and asserts that they are the same.
async fn meet(boards: &[Board], broker: &mut Broker) {
    let all: Vec<&Board> = boards.iter().collect();
    exchange(&all, broker).await;
    same_everywhere(boards, broker).await;
}

#[tokio::test]
async fn what_is_edited_on_one_board_is_so_on_all() {
    let (mut boards, mut broker) = fleet_of(3).await;
    for (at, picture) in ["a1", "a2", "a3"].into_iter().enumerate() {
        // The same Ann: enrolled once, and known to all before the next picture.
        boards[at].enroll("Ann", picture).await;
        meet(&boards, &mut broker).await;
    }
    boards[1].enroll("Bob", "b").await;
    boards[2].enroll("Eve", "e").await;
    meet(&boards, &mut broker).await;
    for board in &boards {
        assert_eq!(board.names().await, ["Ann", "Bob", "Eve"]);
        assert_eq!(
            rows(&board.store, "SELECT sha256 FROM person_images")
                .await
                .len(),
            5
        );
    }
    // One edit on each board at a time when none hears of the others.
    let ann = boards[0].person("ann").await.unwrap();
    boards[0]
        .store
        .rename_person(ann, "Anna".into())
        .await
        .unwrap();
    let (bob, eve) = (
        boards[1].person("Bob").await.unwrap(),
        boards[1].person("Eve").await.unwrap(),
    );
    boards[1].not_them(bob, "x").await;
    boards[1].store.merge_people(eve, bob).await.unwrap();
    assert!(boards[2].delete_picture("a2").await);
    for board in &mut boards {
        board.reopen().await;
    }
    meet(&boards, &mut broker).await;
    for board in &boards {
        assert_eq!(board.names().await, ["Anna", "Bob"]);
        let of = |name: &str| {
            format!(
                "SELECT sha256 FROM person_images JOIN person ON person.id = person_id WHERE name = '{name}' ORDER BY 1"
            )
        };
        let mut theirs = [sum("a1"), sum("a3")];
        theirs.sort();
        assert_eq!(rows(&board.store, &of("Anna")).await, theirs);
        assert_eq!(rows(&board.store, &of("Bob")).await.len(), 2);
        let not = "SELECT hex(crop) FROM counter_examples";
        assert_eq!(
            rows(&board.store, not).await,
            [hex(&crop("x")).to_uppercase()]
        );
    }
    // A picture that was taken out and is enrolled again is there again.
    boards[1].enroll("Bob", "a2").await;
    let bob = boards[2].person("Bob").await.unwrap();
    boards[2].forget(bob).await;
    meet(&boards, &mut broker).await;
    for board in &boards {
        assert_eq!(board.names().await, ["Anna"]);
        for nothing in [
            "counter_examples",
            "merged",
            "fleet_records WHERE kind = 3 AND alive",
        ] {
            let sql = format!("SELECT '1' FROM {nothing}");
            assert_eq!(rows(&board.store, &sql).await, [""; 0], "{nothing}");
        }
        assert_eq!(
            rows(&board.store, "SELECT hex(uid) FROM erased")
                .await
                .len(),
            2
        );
    }
}

#[tokio::test]
async fn two_of_one_name_are_two_until_an_operator_answers() {
    let mut boards = vec![Board::new(1), Board::with_clock(2, 60_000)];
    let mut broker = Broker::default();
    for (board, picture) in boards.iter().zip(["a", "b"]) {
        board.enroll("Ann", picture).await;
        board.enroll("Zoe", &format!("z{picture}")).await;
        board.join().await;
    }
    meet(&boards, &mut broker).await;
    for board in &boards {
        let names = board.names().await;
        assert_eq!((names[0].as_str(), names.len()), ("Ann", 4));
        assert!(names[1].starts_with("Ann ("), "{names:?}");
        let questions = board.store.fleet_questions().await.unwrap();
        assert_eq!(questions.len(), 2);
        assert_eq!(questions[0].people.len(), 2);
        let counts = board.store.fleet_counts().await.unwrap().unwrap();
        assert_eq!(
            (counts.people, counts.of_people, counts.questions),
            (4, 4, 2)
        );
    }
    // The one of the other board is renamed, the two Zoes are merged.
    let names = boards[0].names().await;
    let second = boards[0].person(&names[1]).await.unwrap();
    boards[0]
        .store
        .rename_person(second, "Anne".into())
        .await
        .unwrap();
    let zoes: Vec<_> = boards[1].names().await.split_off(2);
    let (one, other) = (
        boards[1].person(&zoes[0]).await.unwrap(),
        boards[1].person(&zoes[1]).await.unwrap(),
    );
    boards[1].store.merge_people(other, one).await.unwrap();
    boards[1].reopen().await;
    meet(&boards, &mut broker).await;
    for board in &boards {
        assert_eq!(board.names().await, ["Ann", "Anne", "Zoe"]);
        assert_eq!(board.store.fleet_questions().await.unwrap(), []);
    }
}

#[tokio::test]
async fn the_erased_stay_erased_whatever_backup_is_restored() {
    let (boards, mut broker) = fleet_of(2).await;
    boards[0].enroll("Ann", "a").await;
    boards[0].enroll("Bob", "b").await;
    meet(&boards, &mut broker).await;
    let (whole, people) = (
        boards[1].backup(Contents::Gallery).await,
        boards[1].backup(Contents::People).await,
    );
    let ann = boards[0].person("Ann").await.unwrap();
    boards[0].forget(ann).await;
    boards[0].delete_picture("b").await;
    boards[0].enroll("Bob", "b2").await;
    // The other board restores before it hears of it, and again after it did.
    boards[1].restore(&whole, true).await;
    meet(&boards, &mut broker).await;
    for (backup, replace) in [(&whole, true), (&people, false)] {
        boards[1].restore(backup, replace).await;
        assert_eq!(boards[1].names().await, ["Bob"]);
        meet(&boards, &mut broker).await;
        let left = "SELECT sha256 FROM person_images";
        assert_eq!(rows(&boards[0].store, left).await, [sum("b2")]);
    }
    // What only the backup has is new to the fleet.
    let other = Board::new(9);
    other.enroll("Eve", "e").await;
    let theirs = other.backup(Contents::Gallery).await;
    boards[0].restore(&theirs, true).await;
    meet(&boards, &mut broker).await;
    assert_eq!(boards[1].names().await, ["Bob", "Eve"]);
    // A board that was never told of Ann but has her in a database erases her as it joins.
    let late = Board::new(5);
    late.restore(&whole, true).await;
    late.join().await;
    exchange(&[&boards[0], &late], &mut broker).await;
    assert_eq!(late.names().await, ["Bob", "Eve"]);
}

#[tokio::test]
async fn an_erased_face_is_nobodys_counter_example_anywhere() {
    let (boards, mut broker) = fleet_of(2).await;
    boards[0].enroll("Ann", "a").await;
    let bob = boards[0].enroll("Bob", "b").await;
    for face in ["a", "x"] {
        boards[0].not_them(bob, face).await;
    }
    meet(&boards, &mut broker).await;
    let ann = boards[1].person("Ann").await.unwrap();
    boards[1].forget(ann).await;
    meet(&boards, &mut broker).await;
    let faces = "SELECT hex(crop) FROM counter_examples";
    let left = [hex(&crop("x")).to_uppercase()];
    assert_eq!(rows(&boards[0].store, faces).await, left);
    let records = "SELECT '1' FROM fleet_records WHERE kind = 3 AND alive";
    assert_eq!(rows(&boards[0].store, records).await, ["1"]);
}

#[tokio::test]
async fn a_clock_a_year_off_loses_no_edit_made_after_others() {
    let boards = [
        Board::with_clock(1, YEAR_MS),
        Board::with_clock(2, -YEAR_MS),
    ];
    let mut broker = Broker::default();
    for board in &boards {
        board.join().await;
    }
    boards[0].enroll("Ann", "a").await;
    meet(&boards, &mut broker).await;
    for (at, name) in [(1, "Anna"), (0, "Hannah"), (1, "Joan")] {
        let board = &boards[at];
        let person: i64 = rows(&board.store, "SELECT CAST(id AS TEXT) FROM person").await[0]
            .parse()
            .unwrap();
        board
            .store
            .rename_person(person, name.into())
            .await
            .unwrap();
        meet(&boards, &mut broker).await;
        assert_eq!(boards[0].names().await, [name]);
    }
}

#[tokio::test]
async fn an_older_record_played_again_changes_nothing() {
    let (boards, mut broker) = fleet_of(2).await;
    let ann = boards[0].enroll("Ann", "a").await;
    let old = boards[0].send(&mut broker).await;
    boards[0]
        .store
        .rename_person(ann, "Anna".into())
        .await
        .unwrap();
    boards[0].delete_picture("a").await;
    meet(&boards, &mut broker).await;
    let before = boards[1].people().await;
    let taken = boards[1].take(old).await;
    assert!(
        taken.iter().all(|taken| *taken == Taken::Older),
        "{taken:?}"
    );
    assert_eq!(boards[1].people().await, before);
    // The newer ones are put back, and then all is quiet.
    assert_eq!(boards[1].send(&mut broker).await.len(), 2);
    meet(&boards, &mut broker).await;
}

#[tokio::test]
async fn a_record_that_changed_while_it_was_sent_stays_unsent() {
    let (boards, _) = fleet_of(1).await;
    let store = &boards[0].store;
    let ann = boards[0].enroll("Ann", "a").await;
    boards[0].capture().await;
    let unsent = store.unsent_fleet_records(9, 1 << 20).await.unwrap();
    assert_eq!(unsent.len(), 2);
    assert_eq!(store.unsent_fleet_records(9, 1).await.unwrap().len(), 1);
    store.rename_person(ann, "Anna".into()).await.unwrap();
    boards[0].capture().await;
    let sent = unsent.iter().map(|unsent| {
        let record = &unsent.record;
        (record.kind(), *record.uid(), unsent.digest)
    });
    store.fleet_records_sent(sent.collect()).await.unwrap();
    let left = store.unsent_fleet_records(9, 1 << 20).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].record.person().unwrap().name.value, "Anna");
    // What the broker lost is put back.
    let sent = store.sent_fleet_records().await.unwrap();
    assert_eq!(sent.len(), 1);
    store.put_fleet_records_back(sent).await.unwrap();
    assert_eq!(
        store.unsent_fleet_records(9, 1 << 20).await.unwrap().len(),
        2
    );
}

#[tokio::test]
async fn a_damaged_record_costs_that_record_only() {
    let (mut boards, mut broker) = fleet_of(2).await;
    let ann = boards[0].enroll("Ann", "a").await;
    boards[0].not_them(ann, "x").await;
    let bob = boards[0].enroll("Bob", "b").await;
    boards[0].enroll("Eve", "e").await;
    boards[0].store.merge_people(bob, ann).await.unwrap();
    boards[0].delete_picture("e").await;
    meet(&boards, &mut broker).await;
    let before = boards[1].people().await;
    let spoil = "UPDATE fleet_records SET record = zeroblob(length(record))";
    for kind in 1..=3 {
        run(&boards[1].store, &format!("{spoil} WHERE kind = {kind}")).await;
        boards[1].reopen().await;
        // An edit here meanwhile is not lost.
        let eve = boards[1].person("Eve").await.unwrap();
        let name = format!("Eve {kind}");
        boards[1]
            .store
            .rename_person(eve, name.clone())
            .await
            .unwrap();
        boards[1].capture().await;
        boards[1]
            .store
            .rename_person(eve, "Eve".into())
            .await
            .unwrap();
        meet(&boards, &mut broker).await;
        assert_eq!(boards[1].people().await, before, "kind {kind}");
    }
}

#[tokio::test]
async fn what_is_over_a_limit_is_named_and_the_rest_goes_on() {
    let (boards, mut broker) = fleet_of(2).await;
    for number in 0..MOST_PICTURES + 1 {
        boards[0].enroll("Ann", &format!("a{number:03}")).await;
    }
    boards[0].enroll("Bob", "b").await;
    let captured = boards[0].capture().await;
    assert_eq!(captured.refused.len(), 1);
    assert!(
        captured.refused[0]
            .ends_with("stays on this board: a person has at most 100 pictures in a fleet"),
        "{captured:?}"
    );
    exchange(&[&boards[0], &boards[1]], &mut broker).await;
    let pictures = "SELECT sha256 FROM person_images";
    assert_eq!(
        rows(&boards[1].store, pictures).await.len(),
        MOST_PICTURES + 1
    );
    // A name that kithd gives to nobody, from a board that does not check.
    let stamp = Stamp {
        ms: 5,
        count: 0,
        board: BoardId([9; 8]),
    };
    let spaced = PersonBody::new(stamp, "Ann  Lee ".into());
    let fine = PersonBody::new(stamp, "Eve".into());
    let record = |number, body| Record::new([number; 16], 0, Body::Person(body)).unwrap();
    let taken = boards[1]
        .take(vec![record(1, spaced), record(2, fine)])
        .await;
    assert!(
        matches!(&taken[..], [Taken::Refused(_), Taken::New]),
        "{taken:?}"
    );
    assert_eq!(boards[1].names().await, ["Ann", "Bob", "Eve"]);
}

#[tokio::test]
async fn a_large_picture_travels_as_its_face_alone() {
    let (boards, mut broker) = fleet_of(2).await;
    boards[0]
        .enroll_bytes("Ann", "large", vec![7; 300_000])
        .await;
    let all: Vec<&Board> = boards.iter().collect();
    exchange(&all, &mut broker).await;
    let bytes = "SELECT CAST((SELECT count(*) FROM enrolment_pictures) AS TEXT)";
    assert_eq!(rows(&boards[0].store, bytes).await, ["1"]);
    assert_eq!(rows(&boards[1].store, bytes).await, ["0"]);
    let face = "SELECT hex(crop) FROM person_images";
    assert_eq!(
        rows(&boards[1].store, face).await,
        [hex(&crop("large")).to_uppercase()]
    );
    let vectors = "SELECT space FROM person_embeddings";
    assert_eq!(rows(&boards[1].store, vectors).await, ["s"]);
}

#[tokio::test]
async fn leaving_keeps_the_people_or_drops_those_of_others() {
    let (boards, mut broker) = fleet_of(3).await;
    for (board, name) in boards.iter().zip(["Ann", "Bob", "Eve"]) {
        board.enroll(name, name).await;
    }
    meet(&boards, &mut broker).await;
    assert!(boards[0].store.leave_fleet(true).await.unwrap().is_some());
    let did = boards[1].store.leave_fleet(false).await.unwrap().unwrap();
    assert!(did.changed && did.erased);
    assert_eq!(boards[0].names().await, ["Ann", "Bob", "Eve"]);
    assert_eq!(boards[1].names().await, ["Bob"]);
    for board in &boards[..2] {
        assert_eq!(board.store.fleet().await.unwrap(), None);
        assert_eq!(board.store.leave_fleet(true).await.unwrap(), None);
        for nothing in ["erased", "fleet_records", "fleet_changes"] {
            let sql = format!("SELECT '1' FROM {nothing}");
            assert_eq!(rows(&board.store, &sql).await, [""; 0], "{nothing}");
        }
        // Outside a fleet nothing is noted.
        board.enroll("Joe", "j").await;
        assert!(!board.capture().await.more);
        assert_eq!(
            rows(&board.store, "SELECT '1' FROM fleet_changes").await,
            [""; 0]
        );
    }
    // A board that comes back is told of all again.
    boards[1].join().await;
    exchange(&[&boards[1], &boards[2]], &mut broker).await;
    assert_eq!(boards[1].names().await, ["Ann", "Bob", "Eve", "Joe"]);
}

#[tokio::test]
async fn what_came_to_nothing_on_disk_leaves_nothing_in_memory() {
    let (boards, mut broker) = fleet_of(2).await;
    boards[0].enroll("Ann", "a").await;
    let sent = boards[0].send(&mut broker).await;
    // The board's disk refuses the rows of the person.
    run(
        &boards[1].store,
        "CREATE TEMP TRIGGER full BEFORE INSERT ON main.person BEGIN SELECT raise(ABORT, 'no space'); END",
    )
    .await;
    let taken = boards[1].take(sent.clone()).await;
    assert!(
        matches!(&taken[..], [Taken::Refused(_), Taken::New]),
        "{taken:?}"
    );
    run(&boards[1].store, "DROP TRIGGER temp.full").await;
    let counts = boards[1].store.fleet_counts().await.unwrap().unwrap();
    assert_eq!((counts.of_people, counts.of_pictures), (0, 1));
    boards[1].take(sent).await;
    meet(&boards, &mut broker).await;
    assert_eq!(boards[1].names().await, ["Ann"]);
}

#[tokio::test]
async fn people_whom_another_program_wrote_are_shared_too() {
    let (mut boards, mut broker) = fleet_of(2).await;
    run(
        &boards[0].store,
        "INSERT INTO person (name, created_at_ms) VALUES ('Ann', 1), ('Bob', 1);
         INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms)
           VALUES (1, '', x'', x'01', 1);",
    )
    .await;
    boards[0].reopen().await;
    meet(&boards, &mut broker).await;
    assert_eq!(boards[1].names().await, ["Ann", "Bob"]);
    assert_eq!(
        rows(&boards[1].store, "SELECT hex(crop) FROM counter_examples").await,
        ["01"]
    );
}
