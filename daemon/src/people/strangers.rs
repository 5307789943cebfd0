//! Groups unknown faces by likeness, in the background. Each group is a stranger with a permanent
//! number.
//!
//! It takes results in the order they were made, in small batches, and continues after a restart.
//! Triggers remove a face from its group when it is erased, deleted, done again or named (migration
//! 0008); this task then recomputes the group, or the group is gone. Faces of too low quality are
//! ignored.

use std::time::Duration;

use kith_vision::{Centroid, Clusters, MOST_AVERAGED, VisionError};
use tokio_util::sync::CancellationToken;

use crate::engines::Engines;
use crate::people::gallery::embed_crop;
use crate::people::{Matcher, People};
use crate::status::health::{Condition, Health};
use crate::store::{Joined, Joining, Store, StrangerId, UngroupedFace};

/// Pause between two runs: writing several faces together spares flash storage.
const EVERY: Duration = Duration::from_secs(5);
/// Pause after an error.
const RETRY: Duration = Duration::from_secs(10);
/// Results processed, and groups recomputed, in one batch.
const BATCH: usize = 100;
/// Pause between two batches, for other users of database and processor.
const PAUSE: Duration = Duration::from_millis(20);
/// Lowest quality of a face that founds a group or counts in its centroid: one in five faces below it is not known
/// again. Poorer faces only join.
const MIN_QUALITY: f32 = 0.8;

/// Everything that the task needs.
#[derive(Clone)]
pub struct Strangers {
    /// Database, engines and gallery.
    pub people: People,
    /// Health of the task.
    pub health: Health,
}

impl Strangers {
    /// Groups faces until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { people, health } = self;
        let matcher = tokio::select! {
            matcher = people.loaded() => matcher,
            () = stop.cancelled() => return Ok(()),
        };
        let up = Grouping {
            engines: &people.engines,
            matcher: &matcher,
        };
        let mut changes = people.store.changes();
        let mut restores = people.restores.subscribe();
        let mut grouped = None;
        loop {
            let round = async {
                changes.mark_unchanged();
                if restores.has_changed().unwrap_or(false) {
                    restores.mark_unchanged();
                    // The restored backup has groups that are not in memory.
                    grouped = None;
                }
                let wait = match round(&people, &up, &health, &mut grouped).await {
                    Ok(count) => {
                        health.set(
                            "strangers",
                            Condition::Ok,
                            format!("{count} groups of unknown faces"),
                        );
                        EVERY
                    }
                    Err(error) => {
                        // Memory and database may differ.
                        grouped = None;
                        let text = format!(
                            "new unknown faces are not grouped now: {error:#}; tried again"
                        );
                        if health.set("strangers", Condition::Degraded, text.as_str()) {
                            tracing::warn!("{text}");
                        }
                        RETRY
                    }
                };
                tokio::time::sleep(wait).await;
                // The channel closes only when the store ends.
                let _ = changes.changed().await;
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = round => {}
            }
        }
    }
}

/// Engines and gallery of one run.
struct Grouping<'a> {
    engines: &'a Engines,
    matcher: &'a Matcher,
}

/// The groups in memory, as they are in the database.
struct Grouped {
    groups: Clusters,
    /// The newest result whose faces are grouped.
    upto: i64,
}

/// Does everything that is due; returns the number of groups.
async fn round(
    people: &People,
    up: &Grouping<'_>,
    health: &Health,
    grouped: &mut Option<Grouped>,
) -> anyhow::Result<usize> {
    let (store, matcher) = (&people.store, up.matcher);
    people.finish_naming(matcher).await?;
    let Grouped { groups, upto } = match grouped {
        Some(grouped) => grouped,
        None => {
            let groups = load(store, up, health).await?;
            // A database restored from a copy may have fewer results.
            let upto = store
                .grouped_upto()
                .await?
                .min(store.newest_result().await?);
            grouped.insert(Grouped { groups, upto })
        }
    };
    recompute_centroids(store, matcher, groups).await?;
    if store.stranger_count().await? != groups.len() {
        // Groups were named, or lost their last face.
        let there = store.stranger_ids().await?;
        let gone: Vec<_> = groups.ids().filter(|id| !there.contains(id)).collect();
        gone.into_iter().for_each(|id| groups.remove(id));
        if there.len() != groups.len() {
            // Only this task makes groups, so others came from a backup.
            *groups = load(store, up, health).await?;
        }
    }
    // Faces of which an operator said that they are not this person.
    let again = store.to_group_again().await?;
    if !again.is_empty() {
        let count = again.len();
        for face in store.ungrouped_in(again, matcher.known_from()).await? {
            group(store, up, groups, face).await?;
        }
        store.grouped_again(count).await?;
    }
    loop {
        recompute_centroids(store, matcher, groups).await?;
        let (faces, last) = store.ungrouped(*upto, matcher.known_from(), BATCH).await?;
        let Some(last) = last else {
            return Ok(groups.len());
        };
        for face in faces {
            group(store, up, groups, face).await?;
        }
        store.set_grouped_upto(last).await?;
        *upto = last;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Loads all groups in the embedding space of this model pack.
async fn load(store: &Store, up: &Grouping<'_>, health: &Health) -> anyhow::Result<Clusters> {
    let matcher = up.matcher;
    move_here(store, up, health).await?;
    let matching = matcher.matching();
    let mut groups = Clusters::new(
        matching.metric,
        matcher.dimension(),
        matching.linking_distance(),
    );
    for (id, centroid) in store.stranger_centroids(matcher.space().into()).await? {
        if centroid.count > 0 {
            if groups.set(id, centroid).is_err() {
                tracing::warn!(
                    "the embedding of stranger {id} is damaged and is computed again from the faces"
                );
                store.discard_centroid(id).await?;
            }
        }
    }
    Ok(groups)
}

/// Recomputes the groups that have lost a face.
async fn recompute_centroids(
    store: &Store,
    matcher: &Matcher,
    groups: &mut Clusters,
) -> anyhow::Result<()> {
    let metric = matcher.matching().metric;
    loop {
        let left = store.strangers_left(matcher.space().into(), BATCH).await?;
        if left.is_empty() {
            return Ok(());
        }
        for id in left {
            let of =
                move |faces: &[Vec<f32>]| Centroid::of(metric, faces.iter().map(Vec::as_slice));
            let centroid = store
                .recompute_centroid(id, matcher.space().into(), MIN_QUALITY, MOST_AVERAGED, of)
                .await?;
            match centroid {
                Some(centroid) => groups.set(id, centroid)?,
                None => groups.remove(id),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Puts a face into its group, or founds a new one.
async fn group(
    store: &Store,
    up: &Grouping<'_>,
    groups: &mut Clusters,
    mut face: UngroupedFace,
) -> anyhow::Result<()> {
    if face.space != up.matcher.space() {
        // Its result was made just before the model pack changed.
        let Ok(embedding) = embed_crop(up.engines, face.crop.clone()).await? else {
            return Ok(());
        };
        let space = up.matcher.space();
        store
            .reembed_face(
                face.image_id,
                face.number,
                space.into(),
                Some(embedding.clone()),
            )
            .await?;
        face.space = space.into();
        face.embedding = embedding;
    }
    let counts = face.quality >= MIN_QUALITY;
    let joined = loop {
        let nearest = match groups.nearest(&face.embedding) {
            Ok(nearest) => nearest,
            // An earlier engine may have stored an invalid embedding.
            Err(VisionError::Dimension { .. } | VisionError::NotAnEmbedding { .. }) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let before = nearest
            .and_then(|id| groups.centroid(id))
            .map(|centroid| centroid.count);
        let centroid = match nearest {
            Some(id) if counts => groups.centroid_with(id, &face.embedding),
            Some(id) => groups.centroid(id).cloned(),
            None if counts => {
                Centroid::of(up.matcher.matching().metric, [face.embedding.as_slice()])
            }
            None => None,
        };
        let Some(centroid) = centroid else {
            return Ok(());
        };
        let joining = Joining {
            image_id: face.image_id,
            number: face.number,
            accepted_at_ms: face.accepted_at_ms,
            space: face.space.clone(),
            group: nearest.zip(before),
            centroid: centroid.clone(),
        };
        match (store.join_stranger(joining).await?, nearest) {
            (Joined::Group(id), _) => {
                groups.set(id, centroid)?;
                break id;
            }
            (Joined::GroupChanged, Some(id)) => {
                groups.remove(id);
                recompute_centroids(store, up.matcher, groups).await?;
            }
            (Joined::NoStranger | Joined::GroupChanged, _) => return Ok(()),
        }
    };
    if counts {
        merge(store, groups, joined).await
    } else {
        Ok(())
    }
}

/// Merges groups that turn out to be the same person.
async fn merge(store: &Store, groups: &mut Clusters, mut id: StrangerId) -> anyhow::Result<()> {
    while let Some((other, centroid)) = groups.alike(id) {
        let count = |id| groups.centroid(id).map_or(0, |centroid| centroid.count);
        let (one, two) = ((id, count(id)), (other, count(other)));
        if !store.merge_strangers(one, two, centroid.clone()).await? {
            // A group has changed meanwhile; the next run notices.
            return Ok(());
        }
        tracing::info!("strangers {id} and {other} are one: {}", id.min(other));
        groups.remove(id.max(other));
        id = id.min(other);
        groups.set(id, centroid)?;
    }
    Ok(())
}

/// Embeds the faces of all groups again from their crops, one by one, after a change of recogniser.
async fn move_here(store: &Store, up: &Grouping<'_>, health: &Health) -> anyhow::Result<()> {
    let space = up.matcher.space();
    let mut count = 0;
    loop {
        let faces = store.strangers_elsewhere(space.into(), BATCH).await?;
        if faces.is_empty() {
            break;
        }
        for face in faces {
            count += 1;
            let text = format!(
                "embedding the unknown faces anew, {count} so far: model pack or models.flip changed"
            );
            health.set("strangers", Condition::Starting, text);
            let embedded = embed_crop(up.engines, face.crop).await?;
            // A face that this model pack does not find cannot be compared.
            store
                .reembed_face(face.image_id, face.number, space.into(), embedded.ok())
                .await?;
        }
    }
    Ok(store.strangers_moved(space.into()).await?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kith_vision::Pack;
    use rusqlite::{Connection, params};

    use super::*;
    use crate::config::Config;
    use crate::domain::{EngineRole, ImageId, Outcome, PersonId};
    use crate::engines::{self, Engines};
    use crate::people::RelabelError;
    use crate::store::{
        EnrolledPicture, ImageChange, PersonChange, blob_to_vector, vector_to_blob,
    };

    /// A state folder with its database, and a matcher without an engine. Pictures bypass the
    /// queue.
    struct Board {
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

    impl Board {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (store, _) = Store::open(folder.path()).unwrap();
            let pack = Pack::load(
                concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs/dlib-mtcnn").as_ref(),
            )
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
                    "INSERT INTO outbox (image_id, result_id, created_at_ms, payload) VALUES (?1, ?2, 1, '{\"faces\":[]}')",
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
        let mut board = Board::new().await;
        board.image(&[(0.9, face(1, 1)), (0.8, face(2, 1))]);
        board.image(&[(0.9, face(1, 2)), (0.1, face(2, 2)), (0.7, face(3, 1))]);
        assert_eq!(board.round().await, 2);
        // Too poor to compare, and too poor to found a group.
        assert_eq!(board.groups(), [(1, 2, 2), (2, 1, 1)]);
        board.grouped = None;
        board.image(&[(0.7, face(2, 3)), (0.9, face(4, 1))]);
        assert_eq!(board.round().await, 3);
        // A face of medium quality joined without shaping the group.
        assert_eq!(board.groups(), [(1, 2, 2), (2, 2, 1), (3, 1, 1)]);
        assert_eq!(board.round().await, 3, "nothing is grouped twice");
        assert_eq!(board.groups().len(), 3);
        // A group from a backup, to be recomputed here.
        let back = board.image(&[(0.9, face(7, 1))]);
        board
            .database()
            .execute_batch(&format!(
                "INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms)
                 SELECT 50, space, x'', 0, 1, 1, 1 FROM strangers WHERE id = 1;
                 INSERT INTO stranger_faces VALUES ({back}, 1, 50);"
            ))
            .unwrap();
        board.image(&[(0.9, face(7, 2))]);
        assert_eq!(board.round().await, 4);
        assert_eq!(board.groups()[3], (50, 2, 2));
    }

    #[tokio::test]
    async fn a_group_forgets_a_face_that_goes_and_ends_when_empty() {
        let mut board = Board::new().await;
        let images: Vec<_> = (1..=4)
            .map(|picture| board.image(&[(0.9, face(1, picture))]))
            .collect();
        let other = board.image(&[(0.9, face(2, 1))]);
        board.round().await;
        assert_eq!(board.groups(), [(1, 4, 4), (2, 1, 1)]);
        let sum = |board: &Board| board.ask::<Vec<u8>>("SELECT total FROM strangers WHERE id = 1");
        let of = |pictures: &[usize]| {
            let faces: Vec<_> = pictures.iter().map(|picture| face(1, *picture)).collect();
            Centroid::of(
                kith_vision::Metric::Euclidean,
                faces.iter().map(Vec::as_slice),
            )
            .unwrap()
        };
        // Deleted with its image: the sum loses it at once, not only in the next run.
        board
            .database()
            .execute("DELETE FROM images WHERE id = ?1", [images[0]])
            .unwrap();
        assert_eq!((board.groups()[0], sum(&board).len()), ((1, 3, 0), 0));
        board.round().await;
        assert_eq!(board.groups()[0], (1, 3, 3));
        let total = blob_to_vector(&sum(&board));
        assert!(
            total
                .iter()
                .zip(&of(&[4, 3, 2]).sum)
                .all(|(a, b)| (a - b).abs() < 1e-6)
        );
        // Retention removes images only once a passed self-test has verified them.
        let verified = "UPDATE images SET unverified = 0 WHERE id IN (?1, ?2)";
        board
            .database()
            .execute(verified, [images[1], other])
            .unwrap();
        board
            .store()
            .erase_strangers(vec![images[1], other])
            .await
            .unwrap();
        assert_eq!(board.groups(), [(1, 2, 0)]);
        // Done again as unverified: the face comes back with the new result, if at all.
        board.round().await;
        board
            .store()
            .redo_unverified(EngineRole::Primary, "again".into(), 0)
            .await
            .unwrap();
        assert_eq!(board.groups(), []);
        assert_eq!(board.round().await, 0);
        board.image(&[(0.9, face(1, 9))]);
        assert_eq!(board.round().await, 1);
        assert_eq!(board.groups(), [(3, 1, 1)], "no number is used twice");
    }

    /// The merged group is ignored if either group was.
    #[tokio::test]
    async fn groups_that_turn_out_alike_become_the_lower_numbered_one() {
        let mut board = Board::new().await;
        // Too far apart for one group at first; a face between them joins the two.
        let between = |share: f32| -> Vec<f32> {
            let mut at = face(1, 1);
            at[0] += share * 0.48;
            at
        };
        board.image(&[(0.9, between(0.0))]);
        board.image(&[(0.9, between(1.0))]);
        board.round().await;
        assert_eq!(board.groups().len(), 2);
        board.people.ignore_stranger(2, true).await.unwrap();
        for share in [0.35, 0.65, 0.45, 0.55, 0.5] {
            board.image(&[(0.9, between(share))]);
        }
        assert_eq!(board.round().await, 1);
        assert_eq!(board.groups(), [(1, 7, 7)]);
        assert!(board.ask::<bool>("SELECT ignored FROM strangers"));
        board.people.ignore_stranger(1, false).await.unwrap();
        assert!(!board.ask::<bool>("SELECT ignored FROM strangers"));
        assert!(matches!(
            board.people.ignore_stranger(2, true).await,
            Err(RelabelError::NotFound)
        ));
    }

    #[tokio::test]
    async fn a_named_stranger_is_known_in_all_past_and_new_images() {
        let mut board = Board::new().await;
        let images: Vec<_> = (0..250)
            .map(|picture| board.image(&[(0.9, face(1, picture)), (0.9, face(2, 0))]))
            .collect();
        assert_eq!(board.round().await, 2);
        let payloads: String = board.ask("SELECT group_concat(payload) FROM outbox");
        let refused = board.people.name_stranger(1, " ", false).await;
        assert!(
            matches!(refused, Err(RelabelError::Refused(_))),
            "{refused:?}"
        );
        let named = board.people.name_stranger(1, "Ada", false).await.unwrap();
        assert_eq!((named.pictures, named.faces), (5, 250));
        assert!(matches!(
            board.people.name_stranger(1, "Ada", false).await,
            Err(RelabelError::NotFound)
        ));
        assert_eq!(
            board
                .groups()
                .iter()
                .map(|group| group.0)
                .collect::<Vec<_>>(),
            [2]
        );
        assert_eq!(
            board.ask::<u32>("SELECT count(*) FROM images WHERE outcome = 'known'"),
            250
        );
        let face_1 = board
            .store()
            .stored_face(images[7], 1)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(face_1.person_id, Some(named.person_id));
        assert_eq!(face_1.candidates[0].0, named.person_id);
        assert!(face_1.candidates[0].1.unwrap() < 0.3);
        assert_eq!(
            board.ask::<u32>("SELECT count(*) FROM faces WHERE number = 1 AND outcome = 'known'"),
            250
        );
        assert_eq!(
            board.ask::<u32>("SELECT count(*) FROM faces WHERE number = 2 AND outcome = 'unknown'"),
            250
        );
        // Published results stay as they are.
        assert_eq!(
            board.ask::<String>("SELECT group_concat(payload) FROM outbox"),
            payloads
        );
        let judged = board.matcher().judge(&face(1, 999), 0.9, &[]).unwrap();
        assert_eq!(
            (judged.outcome, judged.person.unwrap().name.as_str()),
            (Outcome::Known, "Ada")
        );
        // The pictures are the crops, so that another model pack can embed them.
        let kept: Vec<u8> = board.ask("SELECT picture FROM enrolment_pictures LIMIT 1");
        assert!(kept.starts_with(b"crop "));
        // More of the same person, found later under another number.
        board.image(&[(0.9, face(5, 1))]);
        board.round().await;
        let again = board.people.name_stranger(3, "Ada", false).await.unwrap();
        assert_eq!(again.person_id, named.person_id);
        assert_eq!(board.ask::<u32>("SELECT count(*) FROM person"), 1);
    }

    #[tokio::test]
    async fn a_naming_that_was_broken_off_is_done_to_its_end() {
        let mut board = Board::new().await;
        (0..5).for_each(|picture| _ = board.image(&[(0.9, face(1, picture))]));
        board.round().await;
        // The daemon ends, as it were, right after the person was made.
        let person = board
            .store()
            .name_stranger(1, "Ada".into(), Vec::new())
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .0;
        assert!(
            board
                .store()
                .stranger_groups(false, None, 9)
                .await
                .unwrap()
                .is_empty(),
            "it is nobody's stranger now"
        );
        board.image(&[(0.9, face(1, 9))]);
        board.grouped = None;
        board.round().await;
        assert_eq!(
            board.ask::<u32>("SELECT count(*) FROM faces WHERE outcome = 'known'"),
            5
        );
        assert_eq!(
            board.ask::<i64>("SELECT DISTINCT person_id FROM faces WHERE outcome = 'known'"),
            person
        );
        assert_eq!(
            board.groups(),
            [(2, 1, 1)],
            "who came meanwhile did not join the named group"
        );
    }

    #[tokio::test]
    async fn of_somebody_named_later_nothing_is_left_when_they_are_erased() {
        let mut board = Board::new().await;
        let image = board.image(&[(0.9, face(1, 1)), (0.9, face(2, 1))]);
        board
            .database()
            .execute("INSERT INTO thumbnails VALUES (?1, x'11')", [image])
            .unwrap();
        board.round().await;
        let ada = board
            .people
            .name_stranger(1, "Ada", false)
            .await
            .unwrap()
            .person_id;
        assert!(board.people.forget("Ada").await.unwrap().is_some());
        let face = board.store().stored_face(image, 1).await.unwrap().unwrap();
        assert!(
            face.embedding.is_empty() && face.crop.is_empty() && face.person_id.is_none(),
            "{face:?}"
        );
        assert!(!face.candidates.iter().any(|candidate| candidate.0 == ada));
        assert_eq!(board.ask::<u32>("SELECT count(*) FROM thumbnails"), 0);
        assert_eq!(
            board.ask::<u32>("SELECT count(*) FROM enrolment_pictures"),
            0
        );
        // The other face in the picture is still a stranger.
        assert!(
            !board
                .store()
                .stored_face(image, 2)
                .await
                .unwrap()
                .unwrap()
                .embedding
                .is_empty()
        );
        assert_eq!(board.groups(), [(2, 1, 1)]);
    }

    #[tokio::test]
    async fn a_face_is_made_somebodys_and_not_somebodys() {
        let mut board = Board::new().await;
        let people = board.people.clone();
        let people = &people;
        let image = board.image(&[(0.9, face(1, 1)), (0.9, face(1, 2)), (0.1, face(1, 3))]);
        let ada = people.enroll_face(image, 1, "Ada", false).await.unwrap();
        assert_eq!(board.ask::<String>("SELECT outcome FROM images"), "known");
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
        let later = board.image(&[(0.9, face(1, 50))]);
        let label = "UPDATE faces SET outcome = 'known', person_id = ?1 WHERE image_id = ?2";
        board.database().execute(label, [ada, later]).unwrap();
        board
            .database()
            .execute("UPDATE images SET outcome = 'known' WHERE id = ?1", [later])
            .unwrap();
        assert_eq!(
            board
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
        let row = board.store().stored_face(later, 1).await.unwrap().unwrap();
        assert_eq!((row.person_id, row.candidates), (None, vec![]));
        assert_eq!(
            board.ask::<String>(&format!("SELECT outcome FROM images WHERE id = {later}")),
            "unknown"
        );
        // The same face is no longer Ada; a face nearer to her own picture is.
        assert_eq!(
            board
                .matcher()
                .judge(&face(1, 50), 0.9, &[])
                .unwrap()
                .outcome,
            Outcome::Unknown
        );
        let judged = board.matcher().judge(&face(1, 1), 0.9, &[]).unwrap();
        assert_eq!(judged.person.unwrap().person_id, ada);
        // It belongs to a stranger now, although the results of its image were processed before.
        let again = format!("SELECT count(*) FROM stranger_faces WHERE image_id = {later}");
        board.store().set_grouped_upto(99).await.unwrap();
        assert_eq!((board.round().await, board.ask::<u32>(&again)), (1, 1));
        // With her goes what she is not.
        assert!(people.forget("Ada").await.unwrap().is_some());
        assert_eq!(board.ask::<u32>("SELECT count(*) FROM counter_examples"), 0);
    }

    const FACES: &str =
        "SELECT group_concat(number || ' ' || outcome || ' ' || coalesce(person_id, '-'), ', ')
                           FROM (SELECT * FROM faces WHERE image_id = {} ORDER BY number)";

    fn faces_of(board: &Board, image: ImageId) -> String {
        board.ask(&FACES.replace("{}", &image.to_string()))
    }

    #[tokio::test]
    async fn a_second_face_of_a_picture_is_not_named_the_same() {
        let board = Board::new().await;
        let people = &board.people;
        let image = board.image(&[(0.9, face(1, 1)), (0.9, face(1, 2)), (0.9, face(2, 1))]);
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
            faces_of(&board, image),
            format!("1 known {ann}, 2 unknown -, 3 known {bob}")
        );
        // The same face again, and the other one after the first has lost the name.
        assert_eq!(
            people.enroll_face(image, 1, "Ann", false).await.unwrap(),
            ann
        );
        people.not_this_person(image, 1).await.unwrap();
        people.enroll_face(image, 2, "Ann", true).await.unwrap();
        let faces = faces_of(&board, image);
        assert!(faces.contains(&format!("2 known {ann}")), "{faces}");
        assert!(!faces.contains("1 known"), "{faces}");
    }

    #[tokio::test]
    async fn a_face_that_may_be_somebody_gives_way_to_the_named_one() {
        let board = Board::new().await;
        let people = &board.people;
        let ann = board.enroll_ada().await;
        let image = board.image(&[(0.9, face(1, 7)), (0.9, face(3, 1))]);
        let may_be = "UPDATE faces SET outcome = 'uncertain', person_id = ?1 WHERE image_id = ?2 AND number = 2";
        board.database().execute(may_be, [ann, image]).unwrap();
        people.enroll_face(image, 1, "Ada", false).await.unwrap();
        let faces = faces_of(&board, image);
        assert!(
            faces.starts_with(&format!("1 known {ann}, 2 ")) && faces.ends_with(" -"),
            "{faces}"
        );
    }

    #[tokio::test]
    async fn mirrors_show_a_person_twice_also_when_named() {
        let board = Board::new().await;
        let pack =
            Pack::load(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs/dlib-mtcnn").as_ref())
                .unwrap();
        let judging = crate::config::Judging {
            mirrors: true,
            ..Default::default()
        };
        let matcher = Arc::new(Matcher::new(&pack, judging));
        board.people.matcher.send_replace(Some(matcher));
        let image = board.image(&[(0.9, face(1, 1)), (0.9, face(1, 2))]);
        let ann = board
            .people
            .enroll_face(image, 1, "Ann", false)
            .await
            .unwrap();
        board
            .people
            .enroll_face(image, 2, "Ann", false)
            .await
            .unwrap();
        assert_eq!(
            faces_of(&board, image),
            format!("1 known {ann}, 2 known {ann}")
        );
    }

    #[tokio::test]
    async fn a_named_group_gives_each_picture_one_face_of_the_name() {
        let mut board = Board::new().await;
        let people = board.people.clone();
        // A mirror: two faces of one person, who has a picture alone as well.
        let mirror = board.image(&[(0.9, face(1, 1)), (0.88, face(1, 2))]);
        let alone = board.image(&[(0.95, face(1, 3))]);
        assert_eq!(board.round().await, 1);
        let named = people.name_stranger(1, "Ann", false).await.unwrap();
        assert_eq!((named.pictures, named.faces), (2, 2));
        let ann = named.person_id;
        let faces = faces_of(&board, mirror);
        assert!(
            faces == format!("1 known {ann}, 2 uncertain -")
                || faces == format!("1 uncertain -, 2 known {ann}"),
            "{faces}"
        );
        assert_eq!(faces_of(&board, alone), format!("1 known {ann}"));
        assert_eq!(
            (
                board.round().await,
                board.ask::<u32>("SELECT count(*) FROM stranger_faces")
            ),
            (0, 0)
        );

        // A group with a face beside a known one.
        let beside = board.image(&[(0.9, face(1, 4)), (0.9, face(5, 1))]);
        let known =
            "UPDATE faces SET outcome = 'known', person_id = ?1 WHERE image_id = ?2 AND number = 1";
        board.database().execute(known, [ann, beside]).unwrap();
        board.round().await;
        let group = board.ask::<StrangerId>("SELECT id FROM strangers");
        let refused = people.name_stranger(group, "Ann", true).await.unwrap_err();
        assert!(
            refused
                .to_string()
                .contains(&format!("face 1 of image {beside} is Ann already")),
            "{refused}"
        );
        let ben = people.name_stranger(group, "Ben", false).await.unwrap();
        assert_eq!(
            faces_of(&board, beside),
            format!("1 known {ann}, 2 known {}", ben.person_id)
        );
    }

    /// A damaged sum is none: the group is summed up from its faces at the next start.
    #[tokio::test]
    async fn a_damaged_sum_of_a_group_is_made_anew() {
        let mut board = Board::new().await;
        for picture in 1..4 {
            board.image(&[(0.9, face(1, picture))]);
        }
        board.image(&[(0.9, face(2, 1))]);
        assert_eq!(board.round().await, 2);
        let groups = board.groups();
        let sum = "SELECT total FROM strangers WHERE id = 1";
        let whole: Vec<u8> = board.ask(sum);
        let mut turned = whole.clone();
        turned[40] ^= 0x10;
        for damaged in [&turned[..], &whole[..whole.len() - 4], &[], &[0xFF; 516]] {
            board
                .database()
                .execute("UPDATE strangers SET total = ?1 WHERE id = 1", [damaged])
                .unwrap();
            board.grouped = None;
            assert_eq!(board.round().await, 2);
            assert_eq!(board.groups(), groups);
            let found = blob_to_vector(&board.ask::<Vec<u8>>(sum));
            assert_eq!(found.len(), 128);
            let near = found.iter().zip(blob_to_vector(&whole));
            assert!(near.into_iter().all(|(a, b)| (a - b).abs() < 1e-3));
            // Another face of hers still finds her.
            board.image(&[(0.1, face(1, 9))]);
            assert_eq!(board.round().await, 2);
        }
    }

    /// A foreign face was found with another model pack.
    #[tokio::test]
    async fn an_erased_or_foreign_face_is_refused_in_words() {
        let board = Board::new().await;
        let people = &board.people;
        let image = board.image(&[(0.9, face(1, 1)), (0.9, face(1, 2))]);
        board
            .database()
            .execute(
                "UPDATE faces SET embedding = x'', crop = x'' WHERE number = 1",
                [],
            )
            .unwrap();
        board
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
        assert_eq!(board.ask::<u32>("SELECT count(*) FROM person"), 0);
    }

    /// Marks a face as wrongly identified.
    async fn mistaken(board: &Board, person: i64, image: ImageId) {
        let label =
            "UPDATE faces SET outcome = 'known', person_id = ?1 WHERE image_id = ?2 AND number = 1";
        board.database().execute(label, [person, image]).unwrap();
        board.people.not_this_person(image, 1).await.unwrap();
    }

    #[tokio::test]
    async fn naming_a_rejected_face_makes_it_that_persons_again() {
        let mut board = Board::new().await;
        let people = board.people.clone();
        let ada = board.enroll_ada().await;
        let matcher = board.matcher();
        let outcome = |picture| matcher.judge(&face(1, picture), 0.9, &[]).unwrap().outcome;
        let kept = "SELECT count(*) FROM counter_examples";

        let image = board.image(&[(0.9, face(1, 2))]);
        mistaken(&board, ada, image).await;
        assert_eq!((outcome(2), board.ask::<u32>(kept)), (Outcome::Unknown, 1));
        assert_eq!(
            people.enroll_face(image, 1, "Ada", false).await.unwrap(),
            ada
        );
        assert_eq!((outcome(2), board.ask::<u32>(kept)), (Outcome::Known, 0));

        // The whole group, whichever of its faces are enrolled.
        let images: Vec<_> = (10..20)
            .map(|picture| board.image(&[(0.9, face(1, picture))]))
            .collect();
        for image in images {
            mistaken(&board, ada, image).await;
        }
        board.round().await;
        assert_eq!(
            (outcome(12), board.ask::<u32>(kept)),
            (Outcome::Unknown, 10)
        );
        let group = board.ask::<StrangerId>("SELECT id FROM strangers");
        assert_eq!(
            people
                .name_stranger(group, "Ada", false)
                .await
                .unwrap()
                .faces,
            10
        );
        assert_eq!((outcome(12), board.ask::<u32>(kept)), (Outcome::Known, 0));

        // A picture of the same face, sent for the first time and again.
        let image = board.image(&[(0.9, face(1, 3))]);
        for (count, added) in [(1, true), (2, false)] {
            let (space, crop) = (
                board.matcher().space().to_string(),
                format!("crop {image} 1").into_bytes(),
            );
            let add = board.store().add_counter_example(
                ada,
                space.clone(),
                face(1, 3),
                crop.clone(),
                String::new(),
            );
            add.await.unwrap();
            assert_eq!(board.ask::<u32>(kept), 1, "{count}");
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
            let enrolled = board
                .store()
                .enroll("Ada".into(), picture)
                .await
                .unwrap()
                .unwrap();
            assert_eq!((enrolled.person_id, enrolled.added), (ada, added));
            assert_eq!(board.ask::<u32>(kept), 0);
        }
    }

    #[tokio::test]
    async fn a_corrected_face_is_enrolled_under_the_right_name_only() {
        let mut board = Board::new().await;
        let people = board.people.clone();
        let image = board.image(&[(0.9, face(1, 1))]);
        people.enroll_face(image, 1, "Ann", false).await.unwrap();
        let kept = "SELECT count(*) FROM enrolment_pictures";
        assert_eq!(board.ask::<u32>(kept), 1);
        assert_eq!(
            people.not_this_person(image, 1).await.unwrap(),
            Outcome::Unknown
        );
        assert_eq!(
            board.ask::<u32>(kept) + board.ask::<u32>("SELECT count(*) FROM person_images"),
            0
        );
        board.round().await;
        let ben = people.name_stranger(1, "Ben", false).await.unwrap();
        assert_eq!((ben.pictures, ben.faces), (1, 1));
        let judged = board.matcher().judge(&face(1, 1), 0.9, &[]).unwrap();
        assert_eq!(
            (judged.outcome, judged.person.unwrap().name.as_str()),
            (Outcome::Known, "Ben")
        );
    }

    /// All faces of the group are enrolled as another person.
    #[tokio::test]
    async fn a_group_enrolled_elsewhere_makes_no_person_without_a_picture() {
        let mut board = Board::new().await;
        let people = board.people.clone();
        let (first, second) = (
            board.image(&[(0.9, face(1, 1))]),
            board.image(&[(0.8, face(1, 2))]),
        );
        board.round().await;
        // The same pictures came in twice, and were named the second time.
        for (picture, image) in [(1, first), (2, second)] {
            let same = board.image(&[(0.9, face(1, picture))]);
            let crop = format!("crop {image} 1").into_bytes();
            let change = "UPDATE faces SET crop = ?1 WHERE image_id = ?2";
            board
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
        assert_eq!(board.ask::<u32>("SELECT count(*) FROM person"), 1);
        board
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
        let mut board = Board::new().await;
        let turned = |share: f32| {
            let mut at = face(1, 1);
            at[0] += share;
            at
        };
        for picture in 0..9 {
            board.image(&[(0.9 + picture as f32 / 1000.0, face(1, picture))]);
        }
        board.image(&[(0.85, turned(0.2))]);
        board.image(&[(0.82, turned(-0.2))]);
        assert_eq!(board.round().await, 1);
        assert_eq!(
            board
                .people
                .name_stranger(1, "Ada", false)
                .await
                .unwrap()
                .pictures,
            5
        );
        let poorest = "SELECT count(*) FROM person_images WHERE quality < 0.86";
        assert_eq!(
            board.ask::<u32>(poorest),
            2,
            "filled up with the best of the others"
        );
        assert_eq!(
            board.ask::<u32>("SELECT count(*) FROM person_images WHERE quality > 0.904"),
            3
        );
    }

    /// This holds for erasing a person and for erasing an image.
    #[tokio::test]
    async fn erasing_takes_counter_examples_of_other_packs_too() {
        let board = Board::new().await;
        let people = &board.people;
        let ada = board.enroll_ada().await;
        people
            .enroll_face(board.image(&[(0.9, face(2, 1))]), 1, "Bob", false)
            .await
            .unwrap();
        let kept = "SELECT count(*) FROM counter_examples";
        // Identified as Ada; Bob was enrolled from one face since, and the others are identified as
        // him.
        let mut images = Vec::new();
        for picture in [2, 3, 4] {
            let image = board.image(&[(0.9, face(2, picture))]);
            mistaken(&board, ada, image).await;
            images.push(image);
        }
        people
            .enroll_face(images[0], 1, "Bob", false)
            .await
            .unwrap();
        let his =
            "SELECT count(*) FROM faces WHERE outcome = 'known' AND candidates ->> '$[0][0]' = (
                     SELECT id FROM person WHERE name = 'Bob')";
        assert_eq!(board.ask::<u32>(his), 4);
        let moved = "UPDATE counter_examples SET space = 'another', vector = zeroblob(8)";
        board.database().execute(moved, []).unwrap();
        assert_eq!(board.ask::<u32>(kept), 3);
        let gone = board.store().remove_image(images[2]).await.unwrap();
        assert!(
            matches!(
                gone,
                ImageChange::Done {
                    counter_examples: 1,
                    ..
                }
            ),
            "{gone:?}"
        );
        assert_eq!(board.ask::<u32>(kept), 2);

        // Nor is what was taken for Ada and is Bob's, enrolled or not.
        assert!(people.forget("Bob").await.unwrap().is_some());
        assert_eq!(board.ask::<u32>(kept), 0);
    }

    /// The model pack that embedded them does not matter.
    #[tokio::test]
    async fn merging_drops_counter_examples_between_the_two() {
        let board = Board::new().await;
        let people = &board.people;
        let ada = board.enroll_ada().await;
        let enrolled = board.image(&[(0.9, face(2, 2))]);
        let found = board.image(&[(0.9, face(2, 3))]);
        for image in [enrolled, found, board.image(&[(0.9, face(3, 4))])] {
            mistaken(&board, ada, image).await;
        }
        let bob = people.enroll_face(enrolled, 1, "Bob", false).await.unwrap();
        let label = "UPDATE faces SET outcome = 'known', person_id = ?1 WHERE image_id = ?2";
        board.database().execute(label, [bob, found]).unwrap();
        board
            .database()
            .execute(
                "UPDATE counter_examples SET vector = zeroblob(8), space = 'another'",
                [],
            )
            .unwrap();
        assert_eq!(people.merge(bob, ada).await.unwrap(), PersonChange::Done);
        assert_eq!(
            board.ask::<u32>("SELECT count(*) FROM counter_examples"),
            1,
            "of somebody else"
        );
    }

    #[tokio::test]
    async fn regrouping_an_image_while_it_is_regrouped_loses_nothing() {
        let mut board = Board::new().await;
        let ada = board.enroll_ada().await;
        let image = board.image(&[(0.9, face(1, 2)), (0.9, face(2, 2))]);
        mistaken(&board, ada, image).await;
        let before = board.store().to_group_again().await.unwrap();
        mistaken(&board, ada, image).await;
        board.store().grouped_again(before.len()).await.unwrap();
        board.store().settle().await.unwrap();
        assert_eq!(board.store().to_group_again().await.unwrap(), [image]);
        board.round().await;
        assert!(board.store().to_group_again().await.unwrap().is_empty());
    }
}
