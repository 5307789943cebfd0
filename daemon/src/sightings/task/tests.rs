//! Sightings on a real database, without an engine; both clocks are numbers of the test.

use kith_vision::Pack;
use rusqlite::{Connection, params};

use super::*;
use crate::config::Judging;
use crate::domain::{ImageId, SightingMessage, SightingState};
use crate::store::{GalleryRow, vector_to_blob};

/// Wall clock at queue clock 0.
const EPOCH_MS: i64 = 1_800_000_000_000;
const GAP_MS: i64 = 60_000;

struct Fixture {
    folder: tempfile::TempDir,
    maker: Maker,
}

/// An embedding: similar for one person, far apart for two.
fn face(person: usize, picture: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(person as u64);
    let mut of_picture = fastrand::Rng::with_seed(1000 + picture as u64);
    (0..128)
        .map(|_| random.f32() * 0.3 + of_picture.f32() * 0.03)
        .collect()
}

/// A face in a picture: person, picture, left edge, quality.
type Shown = (usize, usize, f32, f32);

impl Fixture {
    /// Opens a database; people 1 and 2 are enrolled as Ann and Bob.
    async fn new() -> Self {
        Self::of(false).await
    }

    /// A fixture of a place with or without mirrors.
    async fn of(mirrors: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let pack =
            Pack::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs/dlib-mtcnn").as_ref())
                .unwrap();
        let judging = Judging {
            mirrors,
            ..Judging::default()
        };
        let matcher = Arc::new(Matcher::new(&pack, judging));
        let fixture = Self {
            maker: Maker {
                store,
                rules: Rules::new(
                    matcher.matching(),
                    matcher.known_from(),
                    Duration::from_millis(GAP_MS as u64),
                    mirrors,
                ),
                matcher,
                gap_ms: GAP_MS,
                telling: Arc::new(Telling {
                    device: "board".into(),
                    publish: true,
                }),
                counts: Counts::default(),
                known: None,
                quiet: false,
                tracks: HashMap::new(),
                written: HashMap::new(),
            },
            folder,
        };
        fixture.run(
            "INSERT INTO person (id, name, created_at_ms) VALUES (1, 'Ann', 1), (2, 'Bob', 1)",
        );
        fixture.enrol(&[(1, "Ann"), (2, "Bob")]);
        fixture
    }

    fn enrol(&self, people: &[(usize, &str)]) {
        let rows = people.iter().map(|(person, name)| GalleryRow {
            person_image_id: *person as i64,
            person_id: *person as i64,
            name: (*name).into(),
            image_name: "p.jpg".into(),
            embedding: face(*person, 0),
        });
        self.maker.matcher.replace(rows.collect(), Vec::new());
    }

    fn database(&self) -> Connection {
        let connection = Connection::open(self.folder.path().join("kithd.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
            .pragma_update(None, "foreign_keys", true)
            .unwrap();
        connection
    }

    fn run(&self, sql: &str) {
        self.database().execute_batch(sql).unwrap();
    }

    fn ask<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        self.database()
            .query_row(sql, [], |row| row.get(0))
            .unwrap()
    }

    fn list(&self, sql: &str) -> Vec<String> {
        let database = self.database();
        let mut rows = database.prepare(sql).unwrap();
        let rows = rows.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    /// Accepts a picture of the camera "front" at this second.
    fn accept(&self, second: i64) -> ImageId {
        let database = self.database();
        database
            .execute(
                "INSERT INTO images (state, source, camera, path, came_ms, due_ms, accepted_at_ms)
                 VALUES ('pending', 'camera', 'front', '/in/a.jpg', ?1, ?1, ?2)",
                [second * 1000, EPOCH_MS + second * 1000],
            )
            .unwrap();
        database.last_insert_rowid()
    }

    /// Ends a picture with these faces.
    fn finish(&self, id: ImageId, faces: &[Shown]) {
        let database = self.database();
        let sql = "UPDATE images SET state = 'processed', outcome = 'unknown' WHERE id = ?1";
        database.execute(sql, [id]).unwrap();
        for (number, (person, picture, left, quality)) in (1..).zip(faces) {
            let embedding = face(*person, *picture);
            let judged = self.maker.matcher.judge(&embedding, *quality, &[]).unwrap();
            let bounds = [*left, 0.0, left + 100.0, 100.0];
            database
                .execute(
                    "INSERT INTO faces (image_id, number, outcome, person_id, candidates, score, quality, bounds,
                                        landmarks, space, embedding, crop)
                     VALUES (?1, ?2, ?3, ?4, '[]', 1, ?5, ?6, '[]', ?7, ?8, x'01')",
                    params![
                        id,
                        number,
                        judged.outcome.as_str(),
                        judged.person.map(|person| person.person_id),
                        quality,
                        serde_json::json!(bounds).to_string(),
                        self.maker.matcher.space(),
                        vector_to_blob(&embedding)
                    ],
                )
                .unwrap();
        }
        let name = format!("r{id}-{}", fastrand::u32(..));
        let sql = "INSERT INTO results (image_id, result_id) VALUES (?1, ?2)";
        database.execute(sql, params![id, name]).unwrap();
    }

    /// A picture that comes and ends at this second.
    fn picture(&self, second: i64, faces: &[Shown]) -> ImageId {
        let id = self.accept(second);
        self.finish(id, faces);
        id
    }

    async fn round(&mut self, second: i64) -> Option<i64> {
        let now_ms = second * 1000;
        let next = self.maker.round(now_ms, EPOCH_MS + now_ms).await.unwrap();
        self.maker.store.settle().await.unwrap();
        next
    }

    /// Forgets what is in memory, as a restart does.
    async fn restart(&mut self, second: i64, wall_second: i64) {
        let wall_ms = EPOCH_MS + wall_second * 1000;
        self.maker
            .close_overdue(second * 1000, wall_ms)
            .await
            .unwrap();
    }

    fn told(&self) -> Vec<SightingMessage> {
        let messages = self.list("SELECT payload FROM sighting_outbox ORDER BY id");
        let message = |text: &String| serde_json::from_str(text).unwrap();
        messages.iter().map(message).collect()
    }

    /// Steps with the sighting and who it is: "1 begin Ann".
    fn steps(&self) -> Vec<String> {
        let ids = self.list("SELECT uid FROM sightings ORDER BY id");
        let row = |message: SightingMessage| {
            let id = ids.iter().position(|id| *id == message.sighting_id);
            format!(
                "{} {} {}",
                id.map_or(0, |at| at + 1),
                message.step,
                who(&message.after)
            )
        };
        self.told().into_iter().map(row).collect()
    }

    fn looks(&self) -> Vec<String> {
        self.list("SELECT CAST(looks AS TEXT) FROM sightings ORDER BY id")
    }

    fn events(&self) -> Vec<String> {
        self.list("SELECT event FROM sighting_outbox WHERE event IS NOT NULL ORDER BY id")
    }
}

fn who(state: &SightingState) -> String {
    let person = state.person.as_ref().map(|person| person.name.clone());
    person.unwrap_or_else(|| state.outcome.to_string())
}

#[tokio::test]
async fn a_visit_begins_once_and_ends_after_the_gap() {
    let mut front = Fixture::new().await;
    for second in [10, 12, 40, 95] {
        front.picture(second, &[(1, second as usize, 0.0, 0.9)]);
        front.round(second).await;
    }
    assert_eq!(front.steps(), ["1 begin Ann"]);
    assert_eq!(front.round(150).await, Some(155_001));
    front.round(156).await;
    assert_eq!(front.steps(), ["1 begin Ann", "1 end Ann"]);
    let told = front.told();
    assert_eq!(told[0].before, None);
    assert_eq!(told[1].before.as_ref(), Some(&told[0].after));
    assert_eq!((told[1].after.looks, told[1].source.as_str()), (4, "front"));
    assert_eq!(
        (told[1].began_ms, told[1].last_ms),
        (EPOCH_MS + 10_000, EPOCH_MS + 95_000)
    );
    // The embedding goes with the end, and the next visit is another sighting.
    assert_eq!(front.ask::<i64>("SELECT length(total) FROM sightings"), 0);
    front.picture(200, &[(1, 7, 0.0, 0.9)]);
    front.round(200).await;
    assert_eq!(front.steps(), ["1 begin Ann", "1 end Ann", "2 begin Ann"]);
    assert_eq!(front.maker.counts.read(), [2, 1, 1]);
}

#[tokio::test]
async fn two_people_are_two_sightings_with_one_event_each() {
    let mut front = Fixture::new().await;
    for second in 0..5 {
        let picture = second as usize;
        front.picture(
            second,
            &[
                (1, picture, 0.0, 0.9),
                (2, picture, 300.0, 0.9),
                (9, picture, 600.0, 0.9),
            ],
        );
        front.round(second).await;
    }
    assert_eq!(
        front.steps(),
        ["1 begin Ann", "2 begin Bob", "3 begin unknown"]
    );
    assert_eq!(front.looks(), ["5", "5", "5"]);
    let events = front.events();
    assert_eq!(events.len(), 2);
    let event: serde_json::Value = serde_json::from_str(&events[0]).unwrap();
    let uid: String = front.ask("SELECT uid FROM sightings WHERE id = 1");
    assert_eq!(event["event_id"], format!("{uid}-1"));
    assert_eq!(event["sighting_id"], uid.as_str());
    assert_eq!(event["person"]["name"], "Ann");
    assert_eq!(
        (&event["camera"], &event["image_id"]),
        (&"front".into(), &1.into())
    );
    assert!(event["result_id"].as_str().unwrap().starts_with("r1-"));
    assert_eq!(event["box"][2], 100.0);
}

#[tokio::test]
async fn an_end_waits_for_pictures_on_their_way() {
    let mut front = Fixture::new().await;
    front.picture(10, &[(1, 1, 0.0, 0.9)]);
    let waiting = front.accept(60);
    let put_back = front.accept(65);
    front.run(&format!(
        "UPDATE images SET due_ms = 999000 WHERE id = {put_back}"
    ));
    front.round(200).await;
    assert_eq!(front.steps(), ["1 begin Ann"]);
    // It came after the gap, or waits for its file.
    front.accept(71);
    front.finish(put_back, &[]);
    front.run(&format!(
        "UPDATE images SET missing_since_ms = 1, due_ms = 999000 WHERE id = {waiting}"
    ));
    front.round(201).await;
    assert_eq!(front.steps(), ["1 begin Ann", "1 end Ann"]);
    // Its file comes after all: the sighting stays ended, and has it.
    front.finish(waiting, &[(1, 2, 0.0, 0.9)]);
    front.round(202).await;
    assert_eq!(
        (front.steps().len(), front.looks()),
        (2, vec!["2".to_string()])
    );
    assert_eq!(
        front.ask::<i64>("SELECT last_ms FROM sightings"),
        EPOCH_MS + 60_000
    );
}

#[tokio::test]
async fn late_pictures_join_by_the_time_they_came_in() {
    let mut front = Fixture::new().await;
    let late: Vec<_> = (0..3).map(|second| front.accept(second)).collect();
    front.picture(3, &[(1, 3, 0.0, 0.9)]);
    front.round(3).await;
    for (picture, id) in late.into_iter().rev().enumerate() {
        front.finish(id, &[(1, picture, 0.0, 0.9)]);
        front.round(100).await;
    }
    assert_eq!(front.steps(), ["1 begin Ann", "1 end Ann"]);
    assert_eq!(front.looks(), ["4"]);
    assert_eq!(front.ask::<i64>("SELECT began_ms FROM sightings"), EPOCH_MS);
}

#[tokio::test]
async fn a_restart_goes_on_unless_the_clock_says_it_is_over() {
    let mut front = Fixture::new().await;
    front.picture(10, &[(1, 1, 0.0, 0.9)]);
    front.round(10).await;
    let before: Vec<u8> = front.ask("SELECT total FROM sightings");
    front.restart(11, 20).await;
    front.picture(12, &[(1, 2, 0.0, 0.9)]);
    front.round(12).await;
    assert_eq!(
        (front.steps(), front.looks()),
        (vec!["1 begin Ann".into()], vec!["2".into()])
    );
    assert_ne!(front.ask::<Vec<u8>>("SELECT total FROM sightings"), before);
    // A clock that is not set says nothing.
    front.restart(13, -1_000_000).await;
    front.round(14).await;
    assert_eq!(front.steps(), ["1 begin Ann"]);
    // A picture of the last run is still on its way; the next ones belong to another visit.
    let waiting = front.accept(14);
    front.restart(15, 500).await;
    front.picture(16, &[(1, 3, 0.0, 0.9)]);
    front.round(16).await;
    assert_eq!(front.steps(), ["1 begin Ann", "2 begin Ann"]);
    front.finish(waiting, &[(1, 4, 0.0, 0.9)]);
    front.round(17).await;
    assert_eq!(front.steps(), ["1 begin Ann", "2 begin Ann", "1 end Ann"]);
    assert_eq!(front.looks(), ["3", "1"]);
}

#[tokio::test]
async fn a_face_that_is_done_again_leaves_its_sighting() {
    let mut front = Fixture::new().await;
    front.picture(10, &[(1, 1, 0.0, 0.9)]);
    let lied = front.picture(11, &[(1, 2, 0.0, 0.95)]);
    front.round(11).await;
    assert_eq!(front.looks(), ["2"]);
    let redo = |id: ImageId| {
        format!(
            "DELETE FROM faces WHERE image_id = {id}; UPDATE images SET state = 'pending', outcome = NULL WHERE id = {id}"
        )
    };
    front.run(&redo(lied));
    front.round(12).await;
    assert_eq!(front.looks(), ["1"]);
    assert_eq!(front.ask::<i64>("SELECT image_id FROM sightings"), 1);
    front.finish(lied, &[(2, 2, 0.0, 0.9)]);
    front.round(13).await;
    assert_eq!(
        (front.steps(), front.looks()),
        (
            vec!["1 begin Ann".into(), "2 begin Bob".into()],
            vec!["1".into(), "1".into()]
        )
    );
    // Without a look it ends.
    front.run(&redo(1));
    front.round(14).await;
    assert_eq!(front.steps()[2..], ["1 end Ann"]);
}

#[tokio::test]
async fn a_double_is_another_visitor_and_a_mirror_image_is_none() {
    let mut told = Vec::new();
    for mirrors in [false, true] {
        let mut hall = Fixture::of(mirrors).await;
        for second in 0..3 {
            let picture = second as usize;
            hall.picture(
                second,
                &[(1, picture, 0.0, 0.9), (1, picture + 50, 400.0, 0.9)],
            );
            hall.round(second).await;
        }
        hall.round(100).await;
        told.push((hall.steps(), hall.looks()));
    }
    // The nearer face has the name, and is told to be another no sooner than it goes.
    assert_eq!(
        told[0].0,
        [
            "1 begin Ann",
            "2 begin uncertain",
            "1 end Ann",
            "2 end uncertain"
        ]
    );
    assert_eq!(told[0].1, ["3", "3"]);
    // The first image in the mirror founds nothing, the next ones are looks at the same visitor.
    assert_eq!(told[1].0, ["1 begin Ann", "1 end Ann"]);
    assert_eq!(told[1].1, ["5"]);
}

#[tokio::test]
async fn a_clearly_better_face_is_told_and_a_slightly_better_not() {
    let mut front = Fixture::new().await;
    for (second, quality) in [(0, 0.7), (1, 0.8), (2, 0.95)] {
        front.picture(second, &[(1, second as usize, 0.0, quality)]);
        front.round(second).await;
    }
    front.round(100).await;
    assert_eq!(front.steps(), ["1 begin Ann", "1 update Ann", "1 end Ann"]);
    let told = front.told();
    let face = |at: usize| told[at].after.face.as_ref().map(|face| face.image_id);
    assert_eq!((face(0), face(1)), (Some(1), Some(3)));
}

#[tokio::test]
async fn names_and_numbers_given_later_are_told_while_it_is_open() {
    let mut front = Fixture::new().await;
    front.picture(10, &[(3, 1, 0.0, 0.9)]);
    front.round(10).await;
    front.run(
        "INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms)
           VALUES (7, 's', x'', 1, 1, 1, 1);
         INSERT INTO stranger_faces VALUES (1, 1, 7);",
    );
    front.round(11).await;
    let told = front.told();
    assert_eq!(front.steps(), ["1 begin unknown", "1 update unknown"]);
    let stranger = told[1].after.stranger.as_ref().unwrap();
    assert_eq!(
        (stranger.number, stranger.sightings, stranger.before_ms),
        (7, 1, None)
    );
    // Named by the operator, who enrols a face.
    front.run(
        "INSERT INTO person (id, name, created_at_ms) VALUES (3, 'Eve', 1);
         UPDATE faces SET outcome = 'known', person_id = 3 WHERE image_id = 1",
    );
    front.enrol(&[(1, "Ann"), (2, "Bob"), (3, "Eve")]);
    front.round(12).await;
    assert_eq!(front.steps()[2..], ["1 update Eve"]);
    assert_eq!(front.events().len(), 1);
    // Not this person.
    front.enrol(&[(1, "Ann"), (2, "Bob")]);
    front.run("UPDATE faces SET outcome = 'unknown', person_id = NULL WHERE image_id = 1");
    front.round(13).await;
    assert_eq!(front.steps()[3..], ["1 update unknown"]);
    // After the end a name is stored and not told.
    front.round(100).await;
    front.enrol(&[(1, "Ann"), (2, "Bob"), (3, "Eve")]);
    front.run("UPDATE faces SET outcome = 'known', person_id = 3 WHERE image_id = 1");
    front.round(101).await;
    assert_eq!(front.steps()[4..], ["1 end unknown"]);
    assert_eq!(front.ask::<i64>("SELECT person_id FROM sightings"), 3);
    // A picture that retention removes leaves the sighting as it is.
    front.run("DELETE FROM images WHERE id = 1");
    front.round(102).await;
    assert_eq!(
        front.ask::<String>("SELECT outcome || looks || coalesce(image_id, '-') FROM sightings"),
        "known1-"
    );
}

#[tokio::test]
async fn a_death_between_any_two_steps_changes_nothing() {
    let mut runs = Vec::new();
    for dies in [false, true] {
        let mut front = Fixture::new().await;
        for second in 0..200 {
            if second % 3 == 0 && second % 100 < 30 {
                let picture = second as usize;
                let visitor = 1 + second as usize / 100;
                front.picture(
                    second,
                    &[(visitor, picture, 0.0, 0.9), (8, picture, 400.0, 0.7)],
                );
            }
            if dies {
                front.restart(second, second).await;
            }
            front.round(second).await;
        }
        front.round(300).await;
        assert_eq!(
            front.ask::<i64>("SELECT count(*) FROM sightings WHERE ended_ms IS NULL"),
            0
        );
        let mut told = front.steps();
        told.extend(front.looks());
        runs.push(told);
    }
    assert_eq!(runs[0], runs[1]);
    assert_eq!(
        runs[0].iter().filter(|told| told.contains("end")).count(),
        4
    );
}

#[tokio::test]
async fn a_person_who_is_erased_is_in_no_sighting_or_message() {
    let mut front = Fixture::new().await;
    front.run("UPDATE person SET uid = randomblob(16)");
    front.picture(10, &[(1, 1, 0.0, 0.9), (2, 2, 300.0, 0.9)]);
    front.round(10).await;
    front.round(100).await;
    front.picture(200, &[(1, 3, 0.0, 0.9)]);
    front.round(200).await;
    // The tried message may have left the board; the others are made again.
    front.run("UPDATE sighting_outbox SET tried = 1 WHERE id = 1");
    let store = front.maker.store.clone();
    assert!(store.erase_person(1).await.unwrap());
    // The gallery in memory still knows her.
    front.round(201).await;
    let erasing = store.erasing().await.unwrap();
    store.erase_from_results(&erasing).await.unwrap();
    front.enrol(&[(2, "Bob")]);
    front.round(202).await;
    front.round(300).await;
    assert_eq!(
        front.steps(),
        [
            "2 begin Bob",
            "1 end unknown",
            "2 end Bob",
            "3 begin unknown",
            "3 end unknown"
        ]
    );
    let everything = front.list(
        "SELECT payload || coalesce(event, '') || coalesce(told, '') FROM sighting_outbox JOIN sightings
           ON sightings.id = sighting_id",
    );
    assert!(
        everything.iter().all(|text| !text.contains("Ann")),
        "{everything:?}"
    );
    assert_eq!(front.events().len(), 1);
    assert_eq!(
        front.ask::<i64>("SELECT sum(length(total)) FROM sightings"),
        0
    );
    let faces = "SELECT count(*) FROM sightings WHERE image_id IS NOT NULL";
    assert_eq!(front.ask::<i64>(faces), 1);
}

#[tokio::test]
async fn sightings_follow_people_who_are_merged_renamed_and_named() {
    let mut front = Fixture::new().await;
    front.run("UPDATE person SET uid = randomblob(16)");
    for (second, person) in [(10, 1), (100, 4), (200, 1)] {
        front.picture(second, &[(person, second as usize, 0.0, 0.9)]);
        front.round(second).await;
        front.round(second + 62).await;
    }
    front.run(
        "INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms)
           VALUES (7, 's', x'', 1, 1, 1, 1), (8, 's', x'', 1, 1, 1, 1);
         INSERT INTO stranger_faces VALUES (2, 1, 8);
         UPDATE stranger_faces SET stranger_id = 7;
         DELETE FROM strangers WHERE id = 8",
    );
    assert_eq!(
        front.ask::<i64>("SELECT stranger_id FROM sightings WHERE id = 2"),
        7
    );
    front.picture(300, &[(1, 5, 0.0, 0.9)]);
    front.round(300).await;
    let store = front.maker.store.clone();
    store.rename_person(1, "Anna".into()).await.unwrap();
    store.merge_people(1, 2).await.unwrap();
    store.follow_merges().await.unwrap();
    let named = store.name_stranger(7, "Eve".into(), Vec::new()).await;
    let (eve, _) = named.unwrap().unwrap().unwrap();
    store.settle().await.unwrap();
    let people = "SELECT CAST(person_id AS TEXT) FROM sightings ORDER BY id";
    assert_eq!(front.list(people), ["2", &eve.to_string(), "2", "2"]);
    // The open one is judged again; only who it is would be told.
    front.enrol(&[(2, "Bob")]);
    front.round(301).await;
    let told = front.steps();
    front.round(400).await;
    assert_eq!(
        told.iter().filter(|step| step.starts_with("4")).count(),
        1,
        "{told:?}"
    );
    let end = front.told().pop().unwrap();
    assert_eq!(end.before.unwrap().person.unwrap().name, "Bob");
}

#[tokio::test]
async fn retention_removes_the_oldest_ended_sightings() {
    let mut front = Fixture::new().await;
    for visit in 0..6 {
        front.picture(visit * 100, &[(1, visit as usize, 0.0, 0.9)]);
        front.round(visit * 100).await;
    }
    let left = || front.list("SELECT CAST(id AS TEXT) FROM sightings ORDER BY id");
    let store = front.maker.store.clone();
    assert_eq!(store.remove_sightings(Some(4), None, 50).await.unwrap(), 2);
    store.settle().await.unwrap();
    assert_eq!(left(), ["3", "4", "5", "6"]);
    // A clock that was not set makes nothing old, but what was before an old one is old.
    front.run("UPDATE sightings SET last_ms = 5 WHERE id IN (3, 5)");
    let before_ms = EPOCH_MS + 350_000;
    assert_eq!(
        store
            .remove_sightings(None, Some(before_ms), 50)
            .await
            .unwrap(),
        2
    );
    // The open one stays, whatever its age.
    assert_eq!(store.remove_sightings(Some(0), None, 50).await.unwrap(), 1);
    store.settle().await.unwrap();
    assert_eq!(left(), ["6"]);
    assert_eq!(front.ask::<i64>("SELECT count(*) FROM sighting_faces"), 1);
}

#[tokio::test]
async fn a_track_keeps_its_sighting_open_and_says_who_it_is() {
    let mut front = Fixture::new().await;
    front.picture(10, &[(1, 1, 0.0, 0.4)]);
    front.round(10).await;
    assert_eq!(front.steps(), ["1 begin Ann"]);
    assert_eq!(front.told()[0].after.outcome, Outcome::Uncertain);
    let mut writes = 0;
    let mut row = String::new();
    for tenth in 101..800 {
        let embedding = face(1, tenth as usize);
        let look = CameraLook {
            camera: "front".into(),
            came: std::time::Instant::now(),
            faces: vec![TrackedFace {
                track: 5,
                bounds: [5.0, 0.0, 105.0, 100.0],
                quality: 0.9,
                outcome: Outcome::Known,
                person: Some(1),
                embedding,
            }],
            live: vec![5],
        };
        let (came_ms, second) = (tenth * 100, tenth / 10);
        let seen = front.maker.see(&look, came_ms, EPOCH_MS + came_ms);
        seen.await.unwrap();
        if tenth % 10 == 0 {
            front.round(second).await;
        }
        let now = front.ask("SELECT last_ms || outcome FROM sightings");
        writes += usize::from(std::mem::replace(&mut row, now) != row);
    }
    assert_eq!(front.steps(), ["1 begin Ann", "1 update Ann"]);
    assert_eq!(front.told()[1].after.outcome, Outcome::Known);
    assert!((13..=17).contains(&writes), "{writes}");
    // The picture of the track joins it, and it ends a gap after the last look.
    front.picture(79, &[(1, 3, 0.0, 0.9)]);
    front.round(80).await;
    front.round(139).await;
    assert_eq!(front.steps().len(), 3, "{:?}", front.steps());
    front.round(141).await;
    assert_eq!(front.steps()[3..], ["1 end Ann"]);
    assert_eq!(front.told()[3].after.looks, 701);
}
