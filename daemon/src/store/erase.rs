//! SQL that erases a person (rule 13): their data goes, and results that named them name no person
//! any more.
//!
//! `secure_delete` overwrites deleted content; the journal, which still holds it, is emptied at the
//! end.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::facts::store_fact;
use super::people::person_named;
use super::{CANDIDATES, Commit, Store, StoreError, notifications, results, sightings};
use crate::domain::{ImageId, PersonId, wall_clock_ms};

/// Images per operation of the writer, so that other callers run in between.
const BATCH: usize = 50;
/// Attempts to empty the journal while readers use it.
const TRIES: usize = 50;
const TRY: std::time::Duration = std::time::Duration::from_millis(50);

/// Fact that holds the people whose erasure has begun and not ended.
const ERASING: &str = "erasing";

/// SQL for a person and all who were merged into them, by uid.
const THEY: &str = "WITH RECURSIVE they (uid) AS (VALUES (?1) UNION
    SELECT merged.uid FROM merged JOIN they ON merged.into_uid = they.uid)";

impl Store {
    /// Returns the person of this name in any spelling, including uncommitted ones.
    pub async fn person_named(&self, name: String) -> Result<Option<PersonId>, StoreError> {
        self.write(Commit::None, move |connection| {
            person_named(connection, &name)
        })
        .await
    }

    /// Removes a person with pictures and embeddings from the gallery, leaves tombstones for them
    /// and all who were merged into them, and notes that past results are still to be cleaned.
    /// False when there is no such person.
    pub async fn erase_person(&self, person: PersonId) -> Result<bool, StoreError> {
        self.write(Commit::Durable, move |connection| {
            let Some(people) = erase_person(connection, person)? else {
                return Ok(false);
            };
            note_erasing(connection, &[erasing(connection)?, people].concat())?;
            Ok(true)
        })
        .await
    }

    /// Erases people from past results: crops and embeddings of their faces, thumbnails and
    /// undelivered messages of the images they appear in, and their name everywhere.
    /// [`Self::delete_discarded`] deletes the kept bytes of those pictures. Safe to repeat after an
    /// interruption.
    pub async fn erase_from_results(&self, people: &[PersonId]) -> Result<(), StoreError> {
        for &person in people {
            let images: Vec<_> = self
                .read_latest(move |connection| images_with(connection, person))
                .await?
                .into_iter()
                .collect();
            for batch in images.chunks(BATCH) {
                let batch = batch.to_vec();
                self.write(Commit::Durable, move |connection| {
                    batch.iter().try_for_each(|image| {
                        erase_from_image(connection, *image, person, &[]).map(drop)
                    })
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Returns people whose erasure has begun and not ended.
    pub async fn erasing(&self) -> Result<Vec<PersonId>, StoreError> {
        self.read(erasing).await
    }

    /// Notes that the erasure of these people is complete.
    pub async fn erased(&self, people: Vec<PersonId>) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            let left: Vec<_> = erasing(connection)?
                .into_iter()
                .filter(|person| !people.contains(person))
                .collect();
            note_erasing(connection, &left)
        })
        .await
    }

    /// Checkpoints and truncates the journal; false when readers kept it busy too long.
    pub async fn empty_journal(&self) -> Result<bool, StoreError> {
        let path = self.readers.path.clone();
        let emptying = tokio::task::spawn_blocking(move || {
            // Uses its own connection: the writer's has a transaction open most of the time.
            let connection = Connection::open(&path)?;
            // The writer is blocked for as long as this waits for a reader.
            connection.busy_timeout(TRY)?;
            for _ in 0..TRIES {
                let busy: bool =
                    connection
                        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
                if !busy {
                    return Ok(true);
                }
                std::thread::sleep(TRY);
            }
            tracing::warn!(
                "the journal could not be emptied now; erased data leaves it with the next pictures"
            );
            Ok(false)
        });
        emptying.await.map_err(|_| StoreError::Closed)?
    }
}

/// SQL for counter-examples that are a face of this person.
const SHOWS_THEM: &str = "vector IN (SELECT vector FROM person_embeddings
            WHERE person_image_id IN (SELECT id FROM person_images WHERE person_id = ?1))
        OR (length(crop) > 0 AND crop IN (SELECT crop FROM person_images WHERE person_id = ?1))";

/// Returns the counter-examples of others that go when a person is erased: whose, and the crop.
pub(super) fn counter_examples_showing(
    connection: &Connection,
    person: PersonId,
) -> rusqlite::Result<Vec<(PersonId, Vec<u8>)>> {
    connection
        .prepare_cached(&format!(
            "SELECT person_id, crop FROM counter_examples WHERE person_id <> ?1 AND ({SHOWS_THEM})"
        ))?
        .query_map([person], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Removes a person from the gallery and leaves tombstones. Returns the numbers by which past
/// results name them.
pub(super) fn erase_person(
    connection: &Connection,
    person: PersonId,
) -> rusqlite::Result<Option<Vec<PersonId>>> {
    let uid: Option<Option<Vec<u8>>> = connection
        .query_row("SELECT uid FROM person WHERE id = ?1", [person], |row| {
            row.get(0)
        })
        .optional()?;
    let Some(uid) = uid else { return Ok(None) };
    let mut people = vec![person];
    if let Some(uid) = uid {
        let earlier = connection
            .prepare(&format!("{THEY} SELECT person_id FROM merged JOIN they USING (uid) WHERE person_id IS NOT NULL"))?
            .query_map([&uid], |row| row.get(0))?
            .collect::<Result<Vec<PersonId>, _>>()?;
        people.extend(earlier);
        connection.execute(
            &format!(
                "{THEY} INSERT OR IGNORE INTO erased (uid, erased_at_ms) SELECT uid, ?2 FROM they"
            ),
            params![uid, wall_clock_ms()],
        )?;
        // The tombstones now cover each of them.
        connection.execute(
            "DELETE FROM merged WHERE uid IN (SELECT uid FROM erased)",
            [],
        )?;
    }
    // A face that was named after its match gets the person as nearest candidate, so that the
    // search by candidates finds it.
    connection.execute(
        &format!(
            "UPDATE faces SET candidates = json_array(json_array(?1, 0))
              WHERE person_id = ?1 AND outcome <> 'unknown' AND {CANDIDATES} ->> '$[0][0]' IS NOT ?1"
        ),
        [person],
    )?;
    // Counter-examples made from this person's face (rejected as someone else) belong to them and
    // go too. Crops are compared as well as vectors: a crop survives a change of model pack.
    connection.execute(
        &format!("DELETE FROM counter_examples WHERE {SHOWS_THEM}"),
        [person],
    )?;
    for person in &people {
        sightings::erase_person(connection, *person)?;
    }
    notifications::erase_people(connection, &people)?;
    connection.execute("DELETE FROM person WHERE id = ?1", [person])?;
    Ok(Some(people))
}

/// Stores the people whose erasure has begun and not ended.
pub(super) fn note_erasing(connection: &Connection, people: &[PersonId]) -> rusqlite::Result<()> {
    store_fact(connection, ERASING, &serde_json::json!(people).to_string())
}

pub(super) fn erasing(connection: &Connection) -> rusqlite::Result<Vec<PersonId>> {
    let fact: Option<String> = connection
        .query_row("SELECT value FROM facts WHERE key = ?1", [ERASING], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(fact
        .and_then(|people| serde_json::from_str(&people).ok())
        .unwrap_or_default())
}

/// Follows merges to the person that this number stands for now; `None` when that person is gone.
pub(super) fn person_now(
    connection: &Connection,
    person: PersonId,
) -> rusqlite::Result<Option<PersonId>> {
    if connection
        .prepare_cached("SELECT 1 FROM person WHERE id = ?1")?
        .exists([person])?
    {
        return Ok(Some(person));
    }
    connection
        .prepare_cached(
            "WITH RECURSIVE later (uid) AS (SELECT into_uid FROM merged WHERE person_id = ?1
                UNION SELECT merged.into_uid FROM merged JOIN later ON merged.uid = later.uid)
             SELECT id FROM person JOIN later ON person.uid = later.uid",
        )?
        .query_row([person], |row| row.get(0))
        .optional()
}

/// Returns images that name the person at all, in their faces or in an unsent message.
pub(super) fn images_with(
    connection: &Connection,
    person: PersonId,
) -> rusqlite::Result<BTreeSet<ImageId>> {
    let mut images: BTreeSet<ImageId> = connection
        .prepare(&format!(
            "SELECT image_id FROM faces WHERE person_id = ?1
                 OR EXISTS (SELECT 1 FROM json_each({CANDIDATES}) c WHERE c.value ->> 0 = ?1)"
        ))?
        .query_map([person], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    images.extend(results::images_naming(connection, person)?);
    Ok(images)
}

/// Takes a person out of an image: out of its rows, and out of its messages that no broker has yet.
/// `faces` were matched to them, besides those whose rows say so. Returns whether any face is theirs;
/// no result of the image is delivered then.
pub(super) fn erase_from_image(
    connection: &Connection,
    image: ImageId,
    person: PersonId,
    faces: &[i64],
) -> rusqlite::Result<bool> {
    // A face is the person's if it was matched to them, might have been them, or was named so
    // later. The number of a deleted person is left only among the candidates.
    let theirs = format!(
        "SELECT number FROM faces WHERE image_id = ?1 AND outcome <> 'unknown'
            AND (person_id = ?2 OR (person_id IS NULL AND {CANDIDATES} ->> '$[0][0]' = ?2))"
    );
    let mut theirs: Vec<i64> = connection
        .prepare_cached(&theirs)?
        .query_map(params![image, person], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    theirs.extend(faces);
    for number in &theirs {
        connection.execute(
            "DELETE FROM counter_examples
              WHERE vector = (SELECT embedding FROM faces WHERE image_id = ?1 AND number = ?2)
                 OR (length(crop) > 0 AND crop = (SELECT crop FROM faces WHERE image_id = ?1 AND number = ?2))",
            params![image, number],
        )?;
        connection.execute(
            "UPDATE faces SET crop = x'', embedding = x'' WHERE image_id = ?1 AND number = ?2",
            params![image, number],
        )?;
    }
    connection.execute(
        &format!(
            "UPDATE faces SET candidates = (SELECT json_group_array(json(c.value)) FROM json_each({CANDIDATES}) c
                                             WHERE c.value ->> 0 <> ?2)
              WHERE image_id = ?1"
        ),
        params![image, person],
    )?;
    if theirs.is_empty() {
        results::make_again(connection, image, person)?;
        return Ok(false);
    }
    results::withdraw(connection, image)?;
    connection.execute("DELETE FROM thumbnails WHERE image_id = ?1", [image])?;
    // Without the kept bytes the image cannot be redone, even if its engine fails the self-test.
    connection.execute(
        "UPDATE images SET file = NULL, unverified = 0
          WHERE id = ?1 AND file IS NOT NULL AND state IN ('processed', 'failed')",
        [image],
    )?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::hex;
    use crate::store::fixtures::{blob, enroll, image, rows, run, store};
    use crate::store::{PersonChange, vector_to_blob};

    #[tokio::test]
    async fn unsent_messages_forget_one_person_and_keep_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let ann = enroll(&store, "Ann", "a", [1.0, 0.0]).await;
        let bob = enroll(&store, "Bob", "b", [0.0, 1.0]).await;
        for (id, person, candidates) in [
            (1, ann, [ann, bob]),
            (2, bob, [bob, ann]),
            (3, bob, [bob, ann]),
            (4, bob, [bob, bob]),
        ] {
            run(
                &store,
                &image(id, "known", Some(person), &candidates, [0.8, id as f32]),
            )
            .await;
        }
        run(
            &store,
            "INSERT INTO outbox (id) SELECT id FROM results WHERE image_id <> 2",
        )
        .await;
        let first = store.take_unsent(10, "board").await.unwrap();
        assert_eq!(first.len(), 3);
        assert!(first[0].payload.contains(r#""name":"Ann""#), "{first:?}");
        // This one has not left the board.
        run(
            &store,
            "INSERT INTO outbox (id) SELECT id FROM results WHERE image_id = 2",
        )
        .await;
        // The operator has corrected a face since; the message that may have left names Ann yet.
        let faces = format!("UPDATE faces SET candidates = '[[{bob},0.4]]' WHERE image_id = 3");
        run(&store, &faces).await;
        assert!(store.erase_person(ann).await.unwrap());
        store
            .erase_from_results(&store.erasing().await.unwrap())
            .await
            .unwrap();
        let again = store.take_unsent(10, "board").await.unwrap();
        assert!(
            again.iter().all(|row| !row.payload.contains("Ann")),
            "{again:?}"
        );
        let ended = |at: usize| again[at].ended.as_ref().unwrap();
        let ids: Vec<_> = (0..again.len())
            .map(|at| {
                (
                    ended(at).result_id.as_str(),
                    ended(at).supersedes.as_deref(),
                )
            })
            .collect();
        // Her own result is withdrawn; one that may have left with her name is replaced.
        assert_eq!(ids, [("r2", None), ("r3-erased", Some("r3")), ("r4", None)]);
        assert_eq!(again[2].payload, first[2].payload);
        assert_eq!(ended(0).faces[0].person.as_ref().unwrap().name, "Bob");
        assert_eq!(ended(0).faces[0].candidates.len(), 1);
    }

    #[tokio::test]
    async fn counter_examples_go_when_people_are_merged_or_erased() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let ann = enroll(&store, "Ann", "a", [1.0, 0.0]).await;
        let bob = enroll(&store, "Bob", "b", [0.0, 1.0]).await;
        let eve = enroll(&store, "Eve", "e", [1.0, 1.0]).await;
        run(&store, &image(1, "known", Some(ann), &[ann], [0.8, 0.0])).await;
        let not = |person: PersonId, vector| {
            format!(
                "INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms) VALUES ({person}, 's', {}, x'', 1);",
                blob(vector)
            )
        };
        // Bob's counter-examples: a picture of Ann, a face of Ann, a picture of Eve, and an
        // unrelated one.
        for vector in [[1.0, 0.0], [0.8, 0.0], [1.0, 1.0], [9.0, 9.0]] {
            run(&store, &not(bob, vector)).await;
        }
        run(&store, &not(ann, [8.0, 8.0])).await;
        assert_eq!(
            store.merge_people(ann, bob).await.unwrap(),
            PersonChange::Done
        );
        store.follow_merges().await.unwrap();
        let left = "SELECT person_id || hex(vector) FROM counter_examples ORDER BY id";
        let of =
            |vector: [f32; 2]| format!("{bob}{}", hex(&vector_to_blob(&vector)).to_uppercase());
        assert_eq!(
            rows(&store, left).await,
            [of([1.0, 1.0]), of([9.0, 9.0]), of([8.0, 8.0])]
        );
        assert_eq!(
            rows(&store, "SELECT person_id || candidates FROM faces").await,
            [format!("{bob}[[{bob},0.4]]")]
        );
        store.erase_person(eve).await.unwrap();
        assert_eq!(rows(&store, left).await, [of([9.0, 9.0]), of([8.0, 8.0])]);
        // Ann was merged into Bob: results under her old number go with him.
        store.erase_person(bob).await.unwrap();
        store
            .erase_from_results(&store.erasing().await.unwrap())
            .await
            .unwrap();
        assert_eq!(
            rows(&store, "SELECT candidates || length(crop) FROM faces").await,
            ["[]0"]
        );
    }
}
