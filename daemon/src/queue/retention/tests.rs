//! Rules of retention on a real database and real files, with both clocks controlled by the test.

use std::path::Path;

use rusqlite::Connection;

use super::*;
use crate::config;
use crate::domain::{EngineRole, Identified, IdentifiedFace, NewImage, Outcome, Source};
use crate::queue::{Failure, QueueError, Rules};
use crate::store::Relabel;

const DAY: Duration = Duration::from_secs(86_400);

/// A state folder with its queue; data that takes years to collect is written directly into it.
struct Shelf {
    folder: tempfile::TempDir,
    queue: Queue,
}

impl Shelf {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("spool")).unwrap();
        let queue = open(folder.path()).await;
        Self { folder, queue }
    }

    fn store(&self) -> &Store {
        &self.queue.store
    }

    /// Returns a sweeper with only the caps and ages that the test sets.
    fn sweeper(&self, set: impl FnOnce(&mut config::Retention)) -> Sweeper {
        let none = Caps::default;
        let mut retention = Retention {
            images: none(),
            thumbnails: none(),
            camera: none(),
            uploads: none(),
            sightings: none(),
            strangers: None,
        };
        set(&mut retention);
        Sweeper {
            store: self.queue.store.clone(),
            clock: self.queue.clock,
            retention,
            spare_unsent: true,
            steadiness: Steadiness::default(),
        }
    }

    fn write(&self, sql: &str) {
        let connection = Connection::open(self.folder.path().join("kithd.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
            .pragma_update(None, "foreign_keys", true)
            .unwrap();
        connection.execute_batch(sql).unwrap();
    }

    fn numbers(&self, sql: &str) -> Vec<i64> {
        let connection = Connection::open(self.folder.path().join("kithd.db")).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        statement
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    }

    fn images(&self) -> Vec<i64> {
        self.numbers("SELECT id FROM images ORDER BY id")
    }

    /// Writes a spool file, as the row of that number names it.
    fn file(&self, id: i64) -> std::path::PathBuf {
        let file = self.folder.path().join(format!("spool/{id}"));
        std::fs::write(&file, [0; 1000]).unwrap();
        file
    }
}

async fn open(folder: &Path) -> Queue {
    let (store, _) = Store::open(folder).unwrap();
    let rules = Rules {
        max_camera_bytes: Some(3000),
        ..Rules::for_tests()
    };
    Queue::open(store, rules).await.unwrap()
}

/// Returns SQL for finished rows `from` to `to`, each with a file of 1000 bytes.
fn ended_files(from: u32, to: u32, source: &str, state: &str) -> String {
    let outcome = if state == "processed" {
        "'no_face', NULL"
    } else {
        "NULL, 'broken'"
    };
    format!(
        "WITH RECURSIVE n (id) AS (VALUES ({from}) UNION ALL SELECT id + 1 FROM n WHERE id < {to})
         INSERT INTO images (id, state, outcome, reason, source, path, file, bytes, accepted_at_ms, due_ms)
         SELECT id, '{state}', {outcome}, '{source}', '/p', 'spool/' || id, 1000, 1, 1000000000 FROM n;"
    )
}

#[tokio::test]
async fn the_oldest_finished_images_go_but_no_unsent_or_unverified() {
    let shelf = Shelf::new().await;
    shelf.write(
        "INSERT INTO images (id, state, outcome, reason, source, path, accepted_at_ms, unverified) VALUES
           (1, 'pending', NULL, NULL, 'http', '/a', 9, 0), (2, 'processing', NULL, NULL, 'http', '/a', 1, 0),
           (3, 'processed', 'no_face', NULL, 'http', '/a', 1, 1), (4, 'processed', 'no_face', NULL, 'http', '/a', 1, 0),
           (5, 'failed', NULL, 'broken', 'http', '/a', 8, 0), (6, 'processed', 'no_face', NULL, 'http', '/a', 1, 1),
           (7, 'processed', 'no_face', NULL, 'http', '/a', 7, 0);
         INSERT INTO results (id, image_id, result_id) VALUES (10, 6, 'f'), (11, 3, 'c'), (12, 4, 'd');
         INSERT INTO outbox (id) VALUES (12);
         INSERT INTO facts VALUES ('verified_1', '10');",
    );
    shelf
        .sweeper(|caps| caps.images.count = Some(3))
        .round(None)
        .await
        .unwrap();
    assert_eq!(
        shelf.images(),
        [1, 2, 3, 4, 7],
        "by id, whatever the dates say"
    );
    shelf
        .sweeper(|caps| caps.images.count = Some(2))
        .round(None)
        .await
        .unwrap();
    assert_eq!(shelf.images(), [1, 2, 3, 4]);
    assert_eq!(shelf.store().removed().unsent_results, 0);
    shelf
        .sweeper(|caps| caps.images.count = Some(1))
        .round(None)
        .await
        .unwrap();
    assert_eq!(
        shelf.images(),
        [1, 2, 3],
        "a cap is a cap when nothing else is left over it"
    );
    let removed = shelf.store().removed();
    assert_eq!((removed.images, removed.unsent_results), (4, 1));
    shelf.write("UPDATE facts SET value = '11' WHERE key = 'verified_1'");
    shelf
        .sweeper(|caps| caps.images.count = Some(0))
        .round(None)
        .await
        .unwrap();
    assert_eq!(shelf.images(), [1, 2]);
}

#[tokio::test]
async fn with_mqtt_switched_off_no_image_is_kept_for_a_broker() {
    let shelf = Shelf::new().await;
    shelf.write(&ended_files(1, 2, "http", "failed"));
    shelf.write(
        "INSERT INTO results (id, image_id, result_id) VALUES (1, 1, 'a');
         INSERT INTO outbox (id) VALUES (1);",
    );
    let mut sweeper = shelf.sweeper(|caps| caps.images.count = Some(1));
    sweeper.spare_unsent = false;
    sweeper.round(None).await.unwrap();
    assert_eq!(shelf.images(), [2]);
}

#[tokio::test]
async fn the_oldest_images_go_until_the_bytes_are_below_the_limit() {
    let shelf = Shelf::new().await;
    shelf.write(&ended_files(1, 400, "folder", "failed"));
    shelf.write("INSERT INTO thumbnails SELECT id, zeroblob(10000) FROM images");
    let before = shelf.store().held(Kind::Images).await.unwrap();
    assert!(
        before.bytes > 400 * 11_000,
        "{before:?} leaves files or pages out"
    );
    shelf
        .sweeper(|caps| caps.images.bytes = Some(2_200_000))
        .round(None)
        .await
        .unwrap();
    let after = shelf.store().held(Kind::Images).await.unwrap();
    assert!(after.bytes <= 2_200_000, "{after:?}");
    let left = shelf.images();
    assert!((100..=200).contains(&left.len()), "{} are left", left.len());
    assert_eq!(
        left,
        (401 - left.len() as i64..=400).collect::<Vec<_>>(),
        "the newest"
    );
}

#[tokio::test]
async fn nothing_expires_before_the_clock_was_right_for_an_hour() {
    let shelf = Shelf::new().await;
    let (now, day) = (wall_clock_ms(), DAY.as_millis() as i64);
    let insert = |id, accepted| {
        shelf.write(&format!(
            "INSERT INTO images (id, state, outcome, source, path, accepted_at_ms, dated, due_ms)
             VALUES ({id}, 'processed', 'no_face', 'http', '/a', {accepted}, 1, 1000000000)"
        ));
    };
    insert(1, now - 31 * day);
    insert(2, now - 29 * day);
    let sweeper = shelf.sweeper(|caps| caps.images.age = Some(30 * DAY));
    for steady in [
        None,
        Some(Duration::ZERO),
        Some(STEADY - Duration::from_secs(1)),
    ] {
        sweeper.round(steady).await.unwrap();
        assert_eq!(shelf.images(), [1, 2], "{steady:?}");
    }
    sweeper.round(Some(STEADY)).await.unwrap();
    assert_eq!(shelf.images(), [2]);
}

/// Their age follows from their neighbours and the time the board was in use.
#[tokio::test]
async fn images_of_a_wrong_clock_are_aged_by_neighbours_and_uptime() {
    let shelf = Shelf::new().await;
    let (now, age) = (1_000_000, 1000);
    let insert = |rows: &str| {
        shelf.write(&format!(
            "INSERT INTO images (id, source, path, dated, accepted_at_ms, due_ms) SELECT column1, 'http', '/a', column2, column3, column4
               FROM (VALUES {rows})"
        ));
    };
    let so_old = async |queue_ms| {
        let aged = Aged {
            wall_ms: now,
            queue_ms,
            age_ms: age,
        };
        shelf.store().newest_so_old(aged).await.unwrap()
    };
    // Columns: number, dated, acceptance by the board's clock, and by the queue clock.
    insert("(1, 0, 5, 100), (2, 0, 999999999, 200)");
    assert_eq!(
        so_old(1000).await,
        None,
        "a year of 1970 or of 2038 proves nothing"
    );
    assert_eq!(
        so_old(1150).await,
        Some(1),
        "it is in use for so long since"
    );
    insert("(3, 1, 998999, 300)");
    assert_eq!(
        so_old(1000).await,
        Some(3),
        "what came before an old one is old"
    );
    insert("(4, 0, 7, 400), (5, 1, 999500, 500), (6, 0, 1, 600)");
    assert_eq!(so_old(1000).await, Some(3));
    assert_eq!(so_old(1400).await, Some(4));
    assert_eq!(
        so_old(9000).await,
        Some(4),
        "what came after a young one is young"
    );
    shelf.write("UPDATE images SET accepted_at_ms = 2000000 WHERE id = 5");
    assert_eq!(
        so_old(1400).await,
        Some(4),
        "a date in the future proves nothing either"
    );
    assert_eq!(so_old(9000).await, Some(6));
}

#[tokio::test]
async fn the_newest_camera_frames_stay_and_a_file_goes_after_its_row() {
    let shelf = Shelf::new().await;
    shelf.write(&ended_files(1, 3, "camera", "processed"));
    shelf.write(&ended_files(4, 4, "frigate", "processed"));
    shelf.write(&ended_files(5, 6, "camera", "processed"));
    shelf.write("UPDATE images SET state = 'pending', outcome = NULL WHERE id = 2");
    let files: Vec<_> = (1..=6).map(|id| shelf.file(id)).collect();
    shelf
        .sweeper(|caps| caps.camera.bytes = Some(4000))
        .round(None)
        .await
        .unwrap();
    let there: Vec<_> = files.iter().map(|file| file.exists()).collect();
    assert_eq!(
        there,
        [false, true, false, true, true, true],
        "one that waits takes room but stays"
    );
    assert_eq!(
        shelf.numbers("SELECT id FROM images WHERE file IS NULL"),
        [1, 3]
    );
    shelf
        .sweeper(|caps| caps.camera.count = Some(2))
        .round(None)
        .await
        .unwrap();
    assert_eq!(
        shelf.numbers("SELECT id FROM images WHERE file IS NOT NULL"),
        [2, 6]
    );
    assert_eq!(
        (shelf.images().len(), shelf.store().removed().camera),
        (6, 4),
        "the images are still there"
    );
    let usage = shelf.store().usage().await.unwrap();
    assert_eq!((usage.camera, usage.uploads), (2000, 0));
}

#[tokio::test]
async fn processed_uploads_go_at_once_and_failed_ones_by_their_caps() {
    let shelf = Shelf::new().await;
    shelf.write(&ended_files(1, 1, "http", "processed"));
    shelf.write(&ended_files(2, 5, "http", "failed"));
    shelf.write(&ended_files(6, 6, "http", "processed"));
    shelf.write(
        "UPDATE images SET unverified = 1 WHERE id = 6;
         INSERT INTO results (id, image_id, result_id) VALUES (1, 6, 'a');",
    );
    let files: Vec<_> = (1..=6).map(|id| shelf.file(id)).collect();
    let there = || files.iter().map(|file| file.exists()).collect::<Vec<_>>();
    shelf.sweeper(|_| {}).round(None).await.unwrap();
    assert_eq!(
        there(),
        [false, true, true, true, true, true],
        "the last may have to be done again"
    );
    shelf
        .sweeper(|caps| caps.uploads.bytes = Some(3500))
        .round(None)
        .await
        .unwrap();
    assert_eq!(there(), [false, false, false, true, true, true]);
}

#[tokio::test]
async fn thumbnails_go_by_themselves() {
    let shelf = Shelf::new().await;
    shelf.write(&ended_files(1, 4, "folder", "processed"));
    shelf.write("INSERT INTO thumbnails SELECT id, zeroblob(100) FROM images");
    shelf
        .sweeper(|caps| caps.thumbnails.bytes = Some(300))
        .round(None)
        .await
        .unwrap();
    assert_eq!(shelf.numbers("SELECT image_id FROM thumbnails"), [2, 3, 4]);
    shelf
        .sweeper(|caps| caps.thumbnails.count = Some(1))
        .round(None)
        .await
        .unwrap();
    assert_eq!(shelf.numbers("SELECT image_id FROM thumbnails"), [4]);
    assert!(
        !shelf
            .store()
            .image(1)
            .await
            .unwrap()
            .unwrap()
            .image
            .thumbnail
    );
}

fn face(outcome: Outcome) -> IdentifiedFace {
    IdentifiedFace {
        bounds: [1.0, 2.0, 3.0, 4.0],
        landmarks: [[0.0; 2]; 5],
        score: 0.9,
        quality: 0.8,
        objection: None,
        outcome,
        person: None,
        distance: Some(0.7),
        margin: None,
        candidates: vec![],
        embedding: vec![1.0; 8],
        crop: b"crop".to_vec(),
        enrolled_image: None,
    }
}

fn frame(bytes: u64) -> NewImage {
    NewImage {
        file: Some(format!("spool/{bytes}")),
        bytes,
        ..NewImage::path(Source::Camera, "frame")
    }
}

fn identified() -> Identified {
    Identified {
        timings: None,
        outcome: Outcome::Known,
        size: None,
        faces: vec![face(Outcome::Known), face(Outcome::Unknown)],
        thumbnail: vec![],
        remark: None,
        engine: "test".into(),
        role: EngineRole::Primary,
        space: "space".into(),
        picture_key: "key".into(),
    }
}

#[tokio::test]
async fn only_old_verified_strangers_lose_embedding_and_crop() {
    let shelf = Shelf::new().await;
    let store = shelf.store();
    let id = shelf.queue.submit(vec![frame(1)]).await.unwrap()[0].id;
    shelf.write("UPDATE images SET accepted_at_ms = 1000, dated = 1");
    let sweeper = shelf.sweeper(|caps| caps.strangers = Some(14 * DAY));
    // The image is already old while it waits, and is examined again when it is done.
    sweeper.round(Some(STEADY)).await.unwrap();
    let claimed = shelf.queue.claim(1, true).await.unwrap().images.remove(0);
    shelf.queue.finish(claimed, identified()).await.unwrap();
    store.settle().await.unwrap();
    let crops = async || {
        [
            store.crop(id, 1).await.unwrap(),
            store.crop(id, 2).await.unwrap(),
        ]
    };
    sweeper.round(Some(STEADY)).await.unwrap();
    assert_eq!(
        crops().await,
        [Some(b"crop".to_vec()), Some(b"crop".to_vec())],
        "its engine may have lied"
    );
    store
        .verified(EngineRole::Primary, store.newest_result().await.unwrap())
        .await
        .unwrap();
    store.settle().await.unwrap();
    sweeper.round(None).await.unwrap();
    assert_eq!(
        crops().await,
        [Some(b"crop".to_vec()), Some(b"crop".to_vec())],
        "the clock may be wrong"
    );
    sweeper.round(Some(STEADY)).await.unwrap();
    assert_eq!(crops().await, [Some(b"crop".to_vec()), None]);
    assert_eq!(
        shelf.numbers("SELECT length(embedding) FROM faces ORDER BY number"),
        [36, 0]
    );
    let found = store.image(id).await.unwrap().unwrap().found;
    assert_eq!(
        (found.len(), found[1].outcome.as_str(), found[1].bounds),
        (2, "unknown", [1.0, 2.0, 3.0, 4.0])
    );
    assert_eq!(
        (found[0].crop, found[1].crop, store.removed().strangers),
        (true, false, 1)
    );
}

/// Faces that become a stranger's late, or come back under a low number, expire as well.
#[tokio::test]
async fn late_strangers_and_reused_numbers_are_forgotten_too() {
    let shelf = Shelf::new().await;
    let store = shelf.store();
    let image = |id: i64, outcome: &str| {
        shelf.write(&format!(
            "INSERT INTO images (id, state, outcome, source, path, accepted_at_ms, dated)
             VALUES ({id}, 'processed', '{outcome}', 'http', '/a', 1000, 1);
             INSERT INTO faces (image_id, number, outcome, candidates, score, quality, bounds, landmarks, space, embedding, crop)
             VALUES ({id}, 1, '{outcome}', '[]', 1, 1, '[]', '[]', 's', x'00000000', x'11')"
        ));
    };
    image(5, "known");
    image(6, "unknown");
    let sweeper = shelf.sweeper(|caps| caps.strangers = Some(14 * DAY));
    let left = async || {
        sweeper.round(Some(STEADY)).await.unwrap();
        shelf.numbers("SELECT image_id FROM faces WHERE length(embedding) + length(crop) > 0 ORDER BY image_id")
    };
    assert_eq!(left().await, [5]);
    // A restore brings back a low number.
    image(2, "unknown");
    assert_eq!(left().await, [5]);
    // "Not this person" makes a face unknown late.
    let unknown = Relabel {
        image_id: 5,
        number: 1,
        outcome: Outcome::Unknown,
        person_id: None,
        distance: None,
        margin: None,
        candidates: vec![],
    };
    store.relabel(vec![unknown]).await.unwrap();
    assert_eq!(left().await, [0; 0]);
    assert_eq!(store.removed().strangers, 3);
}

/// Finished frames make room.
#[tokio::test]
async fn waiting_frames_fill_the_cameras_spool_over_a_restart() {
    let shelf = Shelf::new().await;
    shelf.queue.submit(vec![frame(1000)]).await.unwrap();
    let of_frigate = NewImage {
        source: Source::Frigate,
        ..frame(1500)
    };
    shelf.queue.submit(vec![of_frigate]).await.unwrap();
    let is_full = |error| matches!(error, Err(QueueError::CameraFull { limit: 3000 }));
    let room = async |bytes| {
        shelf.store().settle().await.unwrap();
        shelf.queue.check_camera_capacity(bytes).await
    };
    assert!(room(500).await.is_ok());
    assert!(is_full(room(501).await));
    let refused = shelf.queue.submit(vec![frame(501)]).await;
    assert!(
        is_full(refused.map(drop)),
        "it is checked again at the commit"
    );
    let restarted = open(shelf.folder.path()).await;
    assert!(is_full(restarted.check_camera_capacity(501).await));
    let mut claimed = shelf.queue.claim(2, true).await.unwrap().images;
    shelf
        .queue
        .finish(claimed.remove(0), identified())
        .await
        .unwrap();
    assert!(room(1500).await.is_ok() && room(1501).await.is_err());
    shelf
        .queue
        .fail(claimed.remove(0), &Failure::OutsideRoots("/x".into()))
        .await
        .unwrap();
    assert!(room(3000).await.is_ok());
    assert_eq!(
        shelf
            .queue
            .redo_unverified(EngineRole::Primary, "it lied")
            .await
            .unwrap(),
        1
    );
    assert!(room(2001).await.is_err(), "what is done again waits again");
}
