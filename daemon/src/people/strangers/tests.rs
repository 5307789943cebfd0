//! Grouping of unknown faces on a real database, without an engine. Pictures bypass the queue.

use std::sync::Arc;

use kith_vision::Pack;
use rusqlite::{Connection, params};

use super::*;
use crate::config::Config;
use crate::domain::{EngineRole, ImageId, Outcome, PersonId};
use crate::engines::{self, Engines};
use crate::people::RelabelError;
use crate::store::{EnrolledPicture, ImageChange, PersonChange, blob_to_vector, vector_to_blob};

/// A state folder with its database, and a matcher without an engine. Pictures bypass the
/// queue.
struct Fixture {
    folder: tempfile::TempDir,
    people: People,
    health: Health,
    grouped: Option<Grouped>,
}

/// An embedding: similar for one person, far apart for two.
fn face(person: usize, picture: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(person as u64);
    let mut of_picture = fastrand::Rng::with_seed(1000 + picture as u64);
    (0..128)
        .map(|_| random.f32() * 0.3 + of_picture.f32() * 0.03)
        .collect()
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let pack =
            Pack::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs/dlib-mtcnn").as_ref())
                .unwrap();
        let matcher = Matcher::new(&pack, Default::default());
        let settings = engines::Settings::of(&Config::default(), folder.path());
        let (engines, _) = Engines::new(settings, Health::default(), None);
        let people = People::new(store, engines, folder.path(), "board");
        people.matcher.send_replace(Some(Arc::new(matcher)));
        Self {
            folder,
            people,
            health: Health::default(),
            grouped: None,
        }
    }

    /// Enrols Ada from a face of person 1.
    async fn enroll_ada(&self) -> PersonId {
        let image = self.image(&[(0.9, face(1, 1))]);
        let enrolled = self.people.enroll_face(image, 1, "Ada", false).await;
        enrolled.unwrap()
    }

    fn matcher(&self) -> Arc<Matcher> {
        self.people.matcher().unwrap()
    }

    fn store(&self) -> &Store {
        &self.people.store
    }

    fn database(&self) -> Connection {
        let connection = Connection::open(self.folder.path().join("kithd.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
            .pragma_update(None, "foreign_keys", true)
            .unwrap();
        connection
    }

    /// Stores a processed image with these unknown faces, each with quality and embedding.
    fn image(&self, faces: &[(f32, Vec<f32>)]) -> ImageId {
        let connection = self.database();
        connection
            .execute(
                "INSERT INTO images (state, outcome, source, path, accepted_at_ms, unverified)
                     VALUES ('processed', 'unknown', 'http', '/in/a.jpg', 1000, 1)",
                [],
            )
            .unwrap();
        let id = connection.last_insert_rowid();
        for (number, (quality, embedding)) in (1..).zip(faces) {
            let embedding = vector_to_blob(embedding);
            connection
                .execute(
                    "INSERT INTO faces (image_id, number, outcome, candidates, score, quality, bounds, landmarks, space,
                                            embedding, crop)
                         VALUES (?1, ?2, 'unknown', '[]', 1, ?3, '[]', '[]', ?4, ?5, ?6)",
                    params![id, number, quality, self.matcher().space(), embedding, format!("crop {id} {number}").into_bytes()],
                )
                .unwrap();
        }
        connection
            .execute(
                "INSERT INTO results (image_id, result_id) VALUES (?1, ?2)",
                params![id, format!("r{id}")],
            )
            .unwrap();
        id
    }

    async fn round(&mut self) -> usize {
        self.store().settle().await.unwrap();
        let matcher = self.matcher();
        let up = Grouping {
            engines: &self.people.engines,
            matcher: &matcher,
        };
        let count = round(&self.people, &up, &self.health, &mut self.grouped)
            .await
            .unwrap();
        self.store().settle().await.unwrap();
        count
    }

    /// Number, faces and weight of every group.
    fn groups(&self) -> Vec<(StrangerId, u32, u32)> {
        let connection = self.database();
        let mut groups = connection
            .prepare("SELECT id, faces, weight FROM strangers ORDER BY id")
            .unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        groups
            .query_map([], row)
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap()
    }

    fn ask<T: rusqlite::types::FromSql>(&self, sql: &str) -> T {
        self.database()
            .query_row(sql, [], |row| row.get(0))
            .unwrap()
    }
}

#[tokio::test]
async fn unknown_faces_are_grouped_and_numbers_outlast_a_restart() {
    let mut fixture = Fixture::new().await;
    fixture.image(&[(0.9, face(1, 1)), (0.8, face(2, 1))]);
    fixture.image(&[(0.9, face(1, 2)), (0.1, face(2, 2)), (0.7, face(3, 1))]);
    assert_eq!(fixture.round().await, 2);
    // Too poor to compare, and too poor to found a group.
    assert_eq!(fixture.groups(), [(1, 2, 2), (2, 1, 1)]);
    fixture.grouped = None;
    fixture.image(&[(0.7, face(2, 3)), (0.9, face(4, 1))]);
    assert_eq!(fixture.round().await, 3);
    // A face of medium quality joined without shaping the group.
    assert_eq!(fixture.groups(), [(1, 2, 2), (2, 2, 1), (3, 1, 1)]);
    assert_eq!(fixture.round().await, 3, "nothing is grouped twice");
    assert_eq!(fixture.groups().len(), 3);
    // A group from a backup, to be recomputed here.
    let back = fixture.image(&[(0.9, face(7, 1))]);
    fixture
        .database()
        .execute_batch(&format!(
            "INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms)
                 SELECT 50, space, x'', 0, 1, 1, 1 FROM strangers WHERE id = 1;
                 INSERT INTO stranger_faces VALUES ({back}, 1, 50);"
        ))
        .unwrap();
    fixture.image(&[(0.9, face(7, 2))]);
    assert_eq!(fixture.round().await, 4);
    assert_eq!(fixture.groups()[3], (50, 2, 2));
}

#[tokio::test]
async fn a_group_forgets_a_face_that_goes_and_ends_when_empty() {
    let mut fixture = Fixture::new().await;
    let images: Vec<_> = (1..=4)
        .map(|picture| fixture.image(&[(0.9, face(1, picture))]))
        .collect();
    let other = fixture.image(&[(0.9, face(2, 1))]);
    fixture.round().await;
    assert_eq!(fixture.groups(), [(1, 4, 4), (2, 1, 1)]);
    let sum =
        |fixture: &Fixture| fixture.ask::<Vec<u8>>("SELECT total FROM strangers WHERE id = 1");
    let of = |pictures: &[usize]| {
        let faces: Vec<_> = pictures.iter().map(|picture| face(1, *picture)).collect();
        Centroid::of(
            kith_vision::Metric::Euclidean,
            faces.iter().map(Vec::as_slice),
        )
        .unwrap()
    };
    // Deleted with its image: the sum loses it at once, not only in the next run.
    fixture
        .database()
        .execute("DELETE FROM images WHERE id = ?1", [images[0]])
        .unwrap();
    assert_eq!((fixture.groups()[0], sum(&fixture).len()), ((1, 3, 0), 0));
    fixture.round().await;
    assert_eq!(fixture.groups()[0], (1, 3, 3));
    let total = blob_to_vector(&sum(&fixture));
    assert!(
        total
            .iter()
            .zip(&of(&[4, 3, 2]).sum)
            .all(|(a, b)| (a - b).abs() < 1e-6)
    );
    // Retention removes images only once a passed self-test has verified them.
    let verified = "UPDATE images SET unverified = 0 WHERE id IN (?1, ?2)";
    fixture
        .database()
        .execute(verified, [images[1], other])
        .unwrap();
    fixture
        .store()
        .erase_strangers(vec![images[1], other])
        .await
        .unwrap();
    assert_eq!(fixture.groups(), [(1, 2, 0)]);
    // Done again as unverified: the face comes back with the new result, if at all.
    fixture.round().await;
    fixture
        .store()
        .redo_unverified(EngineRole::Primary, "again".into(), 0)
        .await
        .unwrap();
    assert_eq!(fixture.groups(), []);
    assert_eq!(fixture.round().await, 0);
    fixture.image(&[(0.9, face(1, 9))]);
    assert_eq!(fixture.round().await, 1);
    assert_eq!(fixture.groups(), [(3, 1, 1)], "no number is used twice");
}

/// The merged group is ignored if either group was.
#[tokio::test]
async fn groups_that_turn_out_alike_become_the_lower_numbered_one() {
    let mut fixture = Fixture::new().await;
    // Too far apart for one group at first; a face between them joins the two.
    let between = |share: f32| -> Vec<f32> {
        let mut at = face(1, 1);
        at[0] += share * 0.48;
        at
    };
    fixture.image(&[(0.9, between(0.0))]);
    fixture.image(&[(0.9, between(1.0))]);
    fixture.round().await;
    assert_eq!(fixture.groups().len(), 2);
    fixture.people.ignore_stranger(2, true).await.unwrap();
    for share in [0.35, 0.65, 0.45, 0.55, 0.5] {
        fixture.image(&[(0.9, between(share))]);
    }
    assert_eq!(fixture.round().await, 1);
    assert_eq!(fixture.groups(), [(1, 7, 7)]);
    assert!(fixture.ask::<bool>("SELECT ignored FROM strangers"));
    fixture.people.ignore_stranger(1, false).await.unwrap();
    assert!(!fixture.ask::<bool>("SELECT ignored FROM strangers"));
    assert!(matches!(
        fixture.people.ignore_stranger(2, true).await,
        Err(RelabelError::NotFound)
    ));
}

#[tokio::test]
async fn a_named_stranger_is_known_in_all_past_and_new_images() {
    let mut fixture = Fixture::new().await;
    let images: Vec<_> = (0..250)
        .map(|picture| fixture.image(&[(0.9, face(1, picture)), (0.9, face(2, 0))]))
        .collect();
    assert_eq!(fixture.round().await, 2);
    let sent = "SELECT group_concat(result_id || coalesce(supersedes, '')) FROM results";
    let results: String = fixture.ask(sent);
    let refused = fixture.people.name_stranger(1, " ", false).await;
    assert!(
        matches!(refused, Err(RelabelError::Refused(_))),
        "{refused:?}"
    );
    let named = fixture.people.name_stranger(1, "Ada", false).await.unwrap();
    assert_eq!((named.pictures, named.faces), (5, 250));
    assert!(matches!(
        fixture.people.name_stranger(1, "Ada", false).await,
        Err(RelabelError::NotFound)
    ));
    assert_eq!(
        fixture
            .groups()
            .iter()
            .map(|group| group.0)
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(
        fixture.ask::<u32>("SELECT count(*) FROM images WHERE outcome = 'known'"),
        250
    );
    let face_1 = fixture
        .store()
        .stored_face(images[7], 1)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(face_1.person_id, Some(named.person_id));
    assert_eq!(face_1.candidates[0].0, named.person_id);
    assert!(face_1.candidates[0].1.unwrap() < 0.3);
    assert_eq!(
        fixture.ask::<u32>("SELECT count(*) FROM faces WHERE number = 1 AND outcome = 'known'"),
        250
    );
    assert_eq!(
        fixture.ask::<u32>("SELECT count(*) FROM faces WHERE number = 2 AND outcome = 'unknown'"),
        250
    );
    // Published results stay as they are.
    assert_eq!(fixture.ask::<String>(sent), results);
    assert_eq!(fixture.ask::<u32>("SELECT count(*) FROM outbox"), 0);
    let judged = fixture.matcher().judge(&face(1, 999), 0.9, &[]).unwrap();
    assert_eq!(
        (judged.outcome, judged.person.unwrap().name.as_str()),
        (Outcome::Known, "Ada")
    );
    // The pictures are the crops, so that another model pack can embed them.
    let kept: Vec<u8> = fixture.ask("SELECT picture FROM enrolment_pictures LIMIT 1");
    assert!(kept.starts_with(b"crop "));
    // More of the same person, found later under another number.
    fixture.image(&[(0.9, face(5, 1))]);
    fixture.round().await;
    let again = fixture.people.name_stranger(3, "Ada", false).await.unwrap();
    assert_eq!(again.person_id, named.person_id);
    assert_eq!(fixture.ask::<u32>("SELECT count(*) FROM person"), 1);
}

#[tokio::test]
async fn a_naming_that_was_broken_off_is_done_to_its_end() {
    let mut fixture = Fixture::new().await;
    (0..5).for_each(|picture| _ = fixture.image(&[(0.9, face(1, picture))]));
    fixture.round().await;
    // The daemon ends, as it were, right after the person was made.
    let person = fixture
        .store()
        .name_stranger(1, "Ada".into(), Vec::new())
        .await
        .unwrap()
        .unwrap()
        .unwrap()
        .0;
    assert!(
        fixture
            .store()
            .stranger_groups(false, crate::store::Came::Ever, None, 9)
            .await
            .unwrap()
            .0
            .is_empty(),
        "it is nobody's stranger now"
    );
    fixture.image(&[(0.9, face(1, 9))]);
    fixture.grouped = None;
    fixture.round().await;
    assert_eq!(
        fixture.ask::<u32>("SELECT count(*) FROM faces WHERE outcome = 'known'"),
        5
    );
    assert_eq!(
        fixture.ask::<i64>("SELECT DISTINCT person_id FROM faces WHERE outcome = 'known'"),
        person
    );
    assert_eq!(
        fixture.groups(),
        [(2, 1, 1)],
        "who came meanwhile did not join the named group"
    );
}

#[tokio::test]
async fn of_somebody_named_later_nothing_is_left_when_they_are_erased() {
    let mut fixture = Fixture::new().await;
    let image = fixture.image(&[(0.9, face(1, 1)), (0.9, face(2, 1))]);
    fixture
        .database()
        .execute("INSERT INTO thumbnails VALUES (?1, x'11')", [image])
        .unwrap();
    fixture.round().await;
    let ada = fixture
        .people
        .name_stranger(1, "Ada", false)
        .await
        .unwrap()
        .person_id;
    assert!(fixture.people.forget("Ada").await.unwrap().is_some());
    let face = fixture
        .store()
        .stored_face(image, 1)
        .await
        .unwrap()
        .unwrap();
    assert!(
        face.embedding.is_empty() && face.crop.is_empty() && face.person_id.is_none(),
        "{face:?}"
    );
    assert!(!face.candidates.iter().any(|candidate| candidate.0 == ada));
    assert_eq!(fixture.ask::<u32>("SELECT count(*) FROM thumbnails"), 0);
    assert_eq!(
        fixture.ask::<u32>("SELECT count(*) FROM enrolment_pictures"),
        0
    );
    // The other face in the picture is still a stranger.
    assert!(
        !fixture
            .store()
            .stored_face(image, 2)
            .await
            .unwrap()
            .unwrap()
            .embedding
            .is_empty()
    );
    assert_eq!(fixture.groups(), [(2, 1, 1)]);
}

#[tokio::test]
async fn a_face_is_made_somebodys_and_not_somebodys() {
    let mut fixture = Fixture::new().await;
    let people = fixture.people.clone();
    let people = &people;
    let image = fixture.image(&[(0.9, face(1, 1)), (0.9, face(1, 2)), (0.1, face(1, 3))]);
    let ada = people.enroll_face(image, 1, "Ada", false).await.unwrap();
    assert_eq!(fixture.ask::<String>("SELECT outcome FROM images"), "known");
    let poor = people.enroll_face(image, 3, "Ada", false).await;
    assert!(
        matches!(&poor, Err(RelabelError::Refused(why)) if why.contains("too poor")),
        "{poor:?}"
    );
    let like = people
        .enroll_face(image, 1, "Bob", false)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        like.starts_with("this face is Ada (distance 0.00); enrol it as Ada"),
        "{like}"
    );
    let held = people.enroll_face(image, 1, "Bob", true).await;
    assert!(
        matches!(&held, Err(RelabelError::Refused(why)) if why.contains("enrolled as Ada")),
        "{held:?}"
    );
    assert!(matches!(
        people.enroll_face(image, 9, "Ada", false).await,
        Err(RelabelError::NotFound)
    ));
    let nobody = people.not_this_person(image, 2).await;
    assert!(
        matches!(&nobody, Err(RelabelError::Refused(_))),
        "{nobody:?}"
    );

    // Wrongly identified as Ada.
    let later = fixture.image(&[(0.9, face(1, 50))]);
    let label = "UPDATE faces SET outcome = 'known', person_id = ?1 WHERE image_id = ?2";
    fixture.database().execute(label, [ada, later]).unwrap();
    fixture
        .database()
        .execute("UPDATE images SET outcome = 'known' WHERE id = ?1", [later])
        .unwrap();
    assert_eq!(
        fixture
            .matcher()
            .judge(&face(1, 50), 0.9, &[])
            .unwrap()
            .outcome,
        Outcome::Known
    );
    assert_eq!(
        people.not_this_person(later, 1).await.unwrap(),
        Outcome::Unknown
    );
    let row = fixture
        .store()
        .stored_face(later, 1)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((row.person_id, row.candidates), (None, vec![]));
    assert_eq!(
        fixture.ask::<String>(&format!("SELECT outcome FROM images WHERE id = {later}")),
        "unknown"
    );
    // The same face is no longer Ada; a face nearer to her own picture is.
    assert_eq!(
        fixture
            .matcher()
            .judge(&face(1, 50), 0.9, &[])
            .unwrap()
            .outcome,
        Outcome::Unknown
    );
    let judged = fixture.matcher().judge(&face(1, 1), 0.9, &[]).unwrap();
    assert_eq!(judged.person.unwrap().person_id, ada);
    // It belongs to a stranger now, although the results of its image were processed before.
    let again = format!("SELECT count(*) FROM stranger_faces WHERE image_id = {later}");
    fixture.store().set_grouped_upto(99).await.unwrap();
    assert_eq!((fixture.round().await, fixture.ask::<u32>(&again)), (1, 1));
    // With her goes what she is not.
    assert!(people.forget("Ada").await.unwrap().is_some());
    assert_eq!(
        fixture.ask::<u32>("SELECT count(*) FROM counter_examples"),
        0
    );
}

const FACES: &str =
    "SELECT group_concat(number || ' ' || outcome || ' ' || coalesce(person_id, '-'), ', ')
                           FROM (SELECT * FROM faces WHERE image_id = {} ORDER BY number)";

fn faces_of(fixture: &Fixture, image: ImageId) -> String {
    fixture.ask(&FACES.replace("{}", &image.to_string()))
}

#[tokio::test]
async fn a_second_face_of_a_picture_is_not_named_the_same() {
    let fixture = Fixture::new().await;
    let people = &fixture.people;
    let image = fixture.image(&[(0.9, face(1, 1)), (0.9, face(1, 2)), (0.9, face(2, 1))]);
    let ann = people.enroll_face(image, 1, "Ann", false).await.unwrap();
    for (number, name, anyway) in [(2, "Ann", false), (2, " ANN", true), (3, "Ann", true)] {
        let refused = people
            .enroll_face(image, number, name, anyway)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.starts_with(&format!("face 1 of image {image} is"))
                && refused.contains("say first that face 1 is not")
                && refused.contains("recognition.mirrors = true"),
            "{refused}"
        );
    }
    let bob = people.enroll_face(image, 3, "Bob", false).await.unwrap();
    assert_eq!(
        faces_of(&fixture, image),
        format!("1 known {ann}, 2 unknown -, 3 known {bob}")
    );
    // The same face again, and the other one after the first has lost the name.
    assert_eq!(
        people.enroll_face(image, 1, "Ann", false).await.unwrap(),
        ann
    );
    people.not_this_person(image, 1).await.unwrap();
    people.enroll_face(image, 2, "Ann", true).await.unwrap();
    let faces = faces_of(&fixture, image);
    assert!(faces.contains(&format!("2 known {ann}")), "{faces}");
    assert!(!faces.contains("1 known"), "{faces}");
}

#[tokio::test]
async fn a_face_that_may_be_somebody_gives_way_to_the_named_one() {
    let fixture = Fixture::new().await;
    let people = &fixture.people;
    let ann = fixture.enroll_ada().await;
    let image = fixture.image(&[(0.9, face(1, 7)), (0.9, face(3, 1))]);
    let may_be =
        "UPDATE faces SET outcome = 'uncertain', person_id = ?1 WHERE image_id = ?2 AND number = 2";
    fixture.database().execute(may_be, [ann, image]).unwrap();
    people.enroll_face(image, 1, "Ada", false).await.unwrap();
    let faces = faces_of(&fixture, image);
    assert!(
        faces.starts_with(&format!("1 known {ann}, 2 ")) && faces.ends_with(" -"),
        "{faces}"
    );
}

#[tokio::test]
async fn mirrors_show_a_person_twice_also_when_named() {
    let fixture = Fixture::new().await;
    let pack =
        Pack::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs/dlib-mtcnn").as_ref())
            .unwrap();
    let judging = crate::config::Judging {
        mirrors: true,
        ..Default::default()
    };
    let matcher = Arc::new(Matcher::new(&pack, judging));
    fixture.people.matcher.send_replace(Some(matcher));
    let image = fixture.image(&[(0.9, face(1, 1)), (0.9, face(1, 2))]);
    let ann = fixture
        .people
        .enroll_face(image, 1, "Ann", false)
        .await
        .unwrap();
    fixture
        .people
        .enroll_face(image, 2, "Ann", false)
        .await
        .unwrap();
    assert_eq!(
        faces_of(&fixture, image),
        format!("1 known {ann}, 2 known {ann}")
    );
}

#[tokio::test]
async fn a_named_group_gives_each_picture_one_face_of_the_name() {
    let mut fixture = Fixture::new().await;
    let people = fixture.people.clone();
    // A mirror: two faces of one person, who has a picture alone as well.
    let mirror = fixture.image(&[(0.9, face(1, 1)), (0.88, face(1, 2))]);
    let alone = fixture.image(&[(0.95, face(1, 3))]);
    assert_eq!(fixture.round().await, 1);
    let named = people.name_stranger(1, "Ann", false).await.unwrap();
    assert_eq!((named.pictures, named.faces), (2, 2));
    let ann = named.person_id;
    let faces = faces_of(&fixture, mirror);
    assert!(
        faces == format!("1 known {ann}, 2 uncertain -")
            || faces == format!("1 uncertain -, 2 known {ann}"),
        "{faces}"
    );
    assert_eq!(faces_of(&fixture, alone), format!("1 known {ann}"));
    assert_eq!(
        (
            fixture.round().await,
            fixture.ask::<u32>("SELECT count(*) FROM stranger_faces")
        ),
        (0, 0)
    );

    // A group with a face beside a known one.
    let beside = fixture.image(&[(0.9, face(1, 4)), (0.9, face(5, 1))]);
    let known =
        "UPDATE faces SET outcome = 'known', person_id = ?1 WHERE image_id = ?2 AND number = 1";
    fixture.database().execute(known, [ann, beside]).unwrap();
    fixture.round().await;
    let group = fixture.ask::<StrangerId>("SELECT id FROM strangers");
    let refused = people.name_stranger(group, "Ann", true).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains(&format!("face 1 of image {beside} is Ann already")),
        "{refused}"
    );
    let ben = people.name_stranger(group, "Ben", false).await.unwrap();
    assert_eq!(
        faces_of(&fixture, beside),
        format!("1 known {ann}, 2 known {}", ben.person_id)
    );
}

/// A damaged sum is none: the group is summed up from its faces at the next start.
#[tokio::test]
async fn a_damaged_sum_of_a_group_is_made_anew() {
    let mut fixture = Fixture::new().await;
    for picture in 1..4 {
        fixture.image(&[(0.9, face(1, picture))]);
    }
    fixture.image(&[(0.9, face(2, 1))]);
    assert_eq!(fixture.round().await, 2);
    let groups = fixture.groups();
    let sum = "SELECT total FROM strangers WHERE id = 1";
    let whole: Vec<u8> = fixture.ask(sum);
    let mut turned = whole.clone();
    turned[40] ^= 0x10;
    for damaged in [&turned[..], &whole[..whole.len() - 4], &[], &[0xFF; 516]] {
        fixture
            .database()
            .execute("UPDATE strangers SET total = ?1 WHERE id = 1", [damaged])
            .unwrap();
        fixture.grouped = None;
        assert_eq!(fixture.round().await, 2);
        assert_eq!(fixture.groups(), groups);
        let found = blob_to_vector(&fixture.ask::<Vec<u8>>(sum));
        assert_eq!(found.len(), 128);
        let near = found.iter().zip(blob_to_vector(&whole));
        assert!(near.into_iter().all(|(a, b)| (a - b).abs() < 1e-3));
        // Another face of hers still finds her.
        fixture.image(&[(0.1, face(1, 9))]);
        assert_eq!(fixture.round().await, 2);
    }
}

/// A foreign face was found with another model pack.
#[tokio::test]
async fn an_erased_or_foreign_face_is_refused_in_words() {
    let fixture = Fixture::new().await;
    let people = &fixture.people;
    let image = fixture.image(&[(0.9, face(1, 1)), (0.9, face(1, 2))]);
    fixture
        .database()
        .execute(
            "UPDATE faces SET embedding = x'', crop = x'' WHERE number = 1",
            [],
        )
        .unwrap();
    fixture
        .database()
        .execute("UPDATE faces SET space = 'another' WHERE number = 2", [])
        .unwrap();
    for (number, why) in [(1, "no longer kept"), (2, "another model pack")] {
        let refused = people
            .enroll_face(image, number, "Ada", false)
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(fixture.ask::<u32>("SELECT count(*) FROM person"), 0);
}

/// Marks a face as wrongly identified.
async fn mistaken(fixture: &Fixture, person: i64, image: ImageId) {
    let label =
        "UPDATE faces SET outcome = 'known', person_id = ?1 WHERE image_id = ?2 AND number = 1";
    fixture.database().execute(label, [person, image]).unwrap();
    fixture.people.not_this_person(image, 1).await.unwrap();
}

#[tokio::test]
async fn naming_a_rejected_face_makes_it_that_persons_again() {
    let mut fixture = Fixture::new().await;
    let people = fixture.people.clone();
    let ada = fixture.enroll_ada().await;
    let matcher = fixture.matcher();
    let outcome = |picture| matcher.judge(&face(1, picture), 0.9, &[]).unwrap().outcome;
    let kept = "SELECT count(*) FROM counter_examples";

    let image = fixture.image(&[(0.9, face(1, 2))]);
    mistaken(&fixture, ada, image).await;
    assert_eq!(
        (outcome(2), fixture.ask::<u32>(kept)),
        (Outcome::Unknown, 1)
    );
    assert_eq!(
        people.enroll_face(image, 1, "Ada", false).await.unwrap(),
        ada
    );
    assert_eq!((outcome(2), fixture.ask::<u32>(kept)), (Outcome::Known, 0));

    // The whole group, whichever of its faces are enrolled.
    let images: Vec<_> = (10..20)
        .map(|picture| fixture.image(&[(0.9, face(1, picture))]))
        .collect();
    for image in images {
        mistaken(&fixture, ada, image).await;
    }
    fixture.round().await;
    assert_eq!(
        (outcome(12), fixture.ask::<u32>(kept)),
        (Outcome::Unknown, 10)
    );
    let group = fixture.ask::<StrangerId>("SELECT id FROM strangers");
    assert_eq!(
        people
            .name_stranger(group, "Ada", false)
            .await
            .unwrap()
            .faces,
        10
    );
    assert_eq!((outcome(12), fixture.ask::<u32>(kept)), (Outcome::Known, 0));

    // A picture of the same face, sent for the first time and again.
    let image = fixture.image(&[(0.9, face(1, 3))]);
    for (count, added) in [(1, true), (2, false)] {
        let (space, crop) = (
            fixture.matcher().space().to_string(),
            format!("crop {image} 1").into_bytes(),
        );
        let add = fixture.store().add_counter_example(
            ada,
            space.clone(),
            face(1, 3),
            crop.clone(),
            String::new(),
        );
        add.await.unwrap();
        assert_eq!(fixture.ask::<u32>(kept), 1, "{count}");
        let picture = EnrolledPicture {
            image_name: "ada.jpg".into(),
            sha256: "sum".into(),
            picture: b"sum".to_vec(),
            bounds: [0.0; 4],
            quality: 0.9,
            crop,
            embedding: face(1, 3),
            space,
        };
        let enrolled = fixture
            .store()
            .enroll("Ada".into(), picture)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((enrolled.person_id, enrolled.added), (ada, added));
        assert_eq!(fixture.ask::<u32>(kept), 0);
    }
}

#[tokio::test]
async fn a_corrected_face_is_enrolled_under_the_right_name_only() {
    let mut fixture = Fixture::new().await;
    let people = fixture.people.clone();
    let image = fixture.image(&[(0.9, face(1, 1))]);
    people.enroll_face(image, 1, "Ann", false).await.unwrap();
    let kept = "SELECT count(*) FROM enrolment_pictures";
    assert_eq!(fixture.ask::<u32>(kept), 1);
    assert_eq!(
        people.not_this_person(image, 1).await.unwrap(),
        Outcome::Unknown
    );
    assert_eq!(
        fixture.ask::<u32>(kept) + fixture.ask::<u32>("SELECT count(*) FROM person_images"),
        0
    );
    fixture.round().await;
    let ben = people.name_stranger(1, "Ben", false).await.unwrap();
    assert_eq!((ben.pictures, ben.faces), (1, 1));
    let judged = fixture.matcher().judge(&face(1, 1), 0.9, &[]).unwrap();
    assert_eq!(
        (judged.outcome, judged.person.unwrap().name.as_str()),
        (Outcome::Known, "Ben")
    );
}

/// All faces of the group are enrolled as another person.
#[tokio::test]
async fn a_group_enrolled_elsewhere_makes_no_person_without_a_picture() {
    let mut fixture = Fixture::new().await;
    let people = fixture.people.clone();
    let (first, second) = (
        fixture.image(&[(0.9, face(1, 1))]),
        fixture.image(&[(0.8, face(1, 2))]),
    );
    fixture.round().await;
    // The same pictures came in twice, and were named the second time.
    for (picture, image) in [(1, first), (2, second)] {
        let same = fixture.image(&[(0.9, face(1, picture))]);
        let crop = format!("crop {image} 1").into_bytes();
        let change = "UPDATE faces SET crop = ?1 WHERE image_id = ?2";
        fixture
            .database()
            .execute(change, params![crop, same])
            .unwrap();
        people.enroll_face(same, 1, "Ann", false).await.unwrap();
    }
    let refused = people.name_stranger(1, "Ben", true).await;
    assert!(
        matches!(&refused, Err(RelabelError::Refused(why)) if why.contains("enrolled as Ann")),
        "{refused:?}"
    );
    assert_eq!(fixture.ask::<u32>("SELECT count(*) FROM person"), 1);
    fixture
        .database()
        .execute("DELETE FROM person_images WHERE id = 1", [])
        .unwrap();
    assert_eq!(
        people.name_stranger(1, "Ben", true).await.unwrap().pictures,
        1,
        "as many as are his"
    );
}

#[tokio::test]
async fn a_named_stranger_is_enrolled_from_faces_that_differ() {
    let mut fixture = Fixture::new().await;
    let turned = |share: f32| {
        let mut at = face(1, 1);
        at[0] += share;
        at
    };
    for picture in 0..9 {
        fixture.image(&[(0.9 + picture as f32 / 1000.0, face(1, picture))]);
    }
    fixture.image(&[(0.85, turned(0.2))]);
    fixture.image(&[(0.82, turned(-0.2))]);
    assert_eq!(fixture.round().await, 1);
    assert_eq!(
        fixture
            .people
            .name_stranger(1, "Ada", false)
            .await
            .unwrap()
            .pictures,
        5
    );
    let poorest = "SELECT count(*) FROM person_images WHERE quality < 0.86";
    assert_eq!(
        fixture.ask::<u32>(poorest),
        2,
        "filled up with the best of the others"
    );
    assert_eq!(
        fixture.ask::<u32>("SELECT count(*) FROM person_images WHERE quality > 0.904"),
        3
    );
}

/// This holds for erasing a person and for erasing an image.
#[tokio::test]
async fn erasing_takes_counter_examples_of_other_packs_too() {
    let fixture = Fixture::new().await;
    let people = &fixture.people;
    let ada = fixture.enroll_ada().await;
    people
        .enroll_face(fixture.image(&[(0.9, face(2, 1))]), 1, "Bob", false)
        .await
        .unwrap();
    let kept = "SELECT count(*) FROM counter_examples";
    // Identified as Ada; Bob was enrolled from one face since, and the others are identified as
    // him.
    let mut images = Vec::new();
    for picture in [2, 3, 4] {
        let image = fixture.image(&[(0.9, face(2, picture))]);
        mistaken(&fixture, ada, image).await;
        images.push(image);
    }
    people
        .enroll_face(images[0], 1, "Bob", false)
        .await
        .unwrap();
    let his = "SELECT count(*) FROM faces WHERE outcome = 'known' AND candidates ->> '$[0][0]' = (
                     SELECT id FROM person WHERE name = 'Bob')";
    assert_eq!(fixture.ask::<u32>(his), 4);
    let moved = "UPDATE counter_examples SET space = 'another', vector = zeroblob(8)";
    fixture.database().execute(moved, []).unwrap();
    assert_eq!(fixture.ask::<u32>(kept), 3);
    let gone = fixture.store().remove_image(images[2]).await.unwrap();
    assert!(
        matches!(
            gone,
            ImageChange::Done {
                counter_examples: 1
            }
        ),
        "{gone:?}"
    );
    assert_eq!(fixture.ask::<u32>(kept), 2);

    // Nor is what was taken for Ada and is Bob's, enrolled or not.
    assert!(people.forget("Bob").await.unwrap().is_some());
    assert_eq!(fixture.ask::<u32>(kept), 0);
}

/// The model pack that embedded them does not matter.
#[tokio::test]
async fn merging_drops_counter_examples_between_the_two() {
    let fixture = Fixture::new().await;
    let people = &fixture.people;
    let ada = fixture.enroll_ada().await;
    let enrolled = fixture.image(&[(0.9, face(2, 2))]);
    let found = fixture.image(&[(0.9, face(2, 3))]);
    for image in [enrolled, found, fixture.image(&[(0.9, face(3, 4))])] {
        mistaken(&fixture, ada, image).await;
    }
    let bob = people.enroll_face(enrolled, 1, "Bob", false).await.unwrap();
    let label = "UPDATE faces SET outcome = 'known', person_id = ?1 WHERE image_id = ?2";
    fixture.database().execute(label, [bob, found]).unwrap();
    fixture
        .database()
        .execute(
            "UPDATE counter_examples SET vector = zeroblob(8), space = 'another'",
            [],
        )
        .unwrap();
    assert_eq!(people.merge(bob, ada).await.unwrap(), PersonChange::Done);
    assert_eq!(
        fixture.ask::<u32>("SELECT count(*) FROM counter_examples"),
        1,
        "of somebody else"
    );
}

#[tokio::test]
async fn regrouping_an_image_while_it_is_regrouped_loses_nothing() {
    let mut fixture = Fixture::new().await;
    let ada = fixture.enroll_ada().await;
    let image = fixture.image(&[(0.9, face(1, 2)), (0.9, face(2, 2))]);
    mistaken(&fixture, ada, image).await;
    let before = fixture.store().to_group_again().await.unwrap();
    mistaken(&fixture, ada, image).await;
    fixture.store().grouped_again(before.len()).await.unwrap();
    fixture.store().settle().await.unwrap();
    assert_eq!(fixture.store().to_group_again().await.unwrap(), [image]);
    fixture.round().await;
    assert!(fixture.store().to_group_again().await.unwrap().is_empty());
}
