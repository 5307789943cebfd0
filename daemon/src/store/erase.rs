//! SQL that erases a person (rule 13): what is theirs goes, and what names them names nobody any
//! more.
//!
//! Deleted content is overwritten (`secure_delete`); the journal that still holds it is emptied at
//! the end.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::images::store_fact;
use super::people::person_named;
use super::{CANDIDATES, Store, StoreError, Urgency};
use crate::domain::{ImageId, PersonId, wall_clock_ms};

/// Images in one operation of the writer: others have their turn between two.
const BATCH: usize = 50;
/// How often the journal is tried to be emptied while readers are in it.
const TRIES: usize = 50;
const TRY: std::time::Duration = std::time::Duration::from_millis(50);

/// The fact that holds the people whose erasure has begun and not ended.
const ERASING: &str = "erasing";

/// SQL: somebody and everybody who was put together with them, by uid.
const THEY: &str = "WITH RECURSIVE they (uid) AS (VALUES (?1) UNION
    SELECT merged.uid FROM merged JOIN they ON merged.into_uid = they.uid)";

impl Store {
    /// The person of this name, however it is spelled, whom nobody need have committed yet.
    pub async fn person_named(&self, name: String) -> Result<Option<PersonId>, StoreError> {
        self.write(Urgency::Look, move |connection| {
            person_named(connection, &name)
        })
        .await
    }

    /// Takes a person, their pictures and embeddings out of the gallery, leaves a tombstone for
    /// them and for everybody they were put together with, and notes that their results are to
    /// follow. False: there is nobody of that number.
    pub async fn erase_person(&self, person: PersonId) -> Result<bool, StoreError> {
        self.write(Urgency::Now, move |connection| {
            let Some(people) = erase_person(connection, person)? else {
                return Ok(false);
            };
            note_erasing(connection, &[erasing(connection)?, people].concat())?;
            Ok(true)
        })
        .await
    }

    /// Takes people out of all past results: crops and embeddings of their faces, thumbnails and
    /// messages no broker has yet of the images they were found in, and their name everywhere; the
    /// kept bytes of those pictures are left to [`Self::delete_discarded`]. Doing it again does
    /// what was broken off.
    pub async fn erase_from_results(&self, people: &[PersonId]) -> Result<(), StoreError> {
        // What rides uncommitted is not seen by the readers below.
        self.write(Urgency::Now, |_| Ok(())).await?;
        for &person in people {
            let images = self
                .read(move |connection| images_with(connection, person))
                .await?;
            for batch in images.chunks(BATCH) {
                let batch = batch.to_vec();
                self.write(Urgency::Now, move |connection| {
                    batch
                        .iter()
                        .try_for_each(|image| erase_from_image(connection, *image, person))
                })
                .await?;
            }
        }
        Ok(())
    }

    /// People whose erasure has begun and not ended.
    pub async fn erasing(&self) -> Result<Vec<PersonId>, StoreError> {
        self.read(erasing).await
    }

    /// Notes that nothing of these people is left.
    pub async fn erased(&self, people: Vec<PersonId>) -> Result<(), StoreError> {
        self.write(Urgency::Now, move |connection| {
            let left: Vec<_> = erasing(connection)?
                .into_iter()
                .filter(|person| !people.contains(person))
                .collect();
            note_erasing(connection, &left)
        })
        .await
    }

    /// Copies the journal into the database and empties it; false when readers did not leave it in
    /// time.
    pub async fn empty_journal(&self) -> Result<bool, StoreError> {
        let path = self.readers.path.clone();
        let emptying = tokio::task::spawn_blocking(move || {
            // A connection of its own: the writer's has a transaction open most of the time.
            let connection = Connection::open(&path)?;
            // While it waits for a reader the writer waits for it.
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
                "the journal could not be emptied now; what was erased leaves it with the next pictures"
            );
            Ok(false)
        });
        emptying.await.map_err(|_| StoreError::Closed)?
    }
}

/// Takes a person out of the gallery and leaves tombstones; answers the numbers under which past
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
        // The tombstones say the same of each.
        connection.execute(
            "DELETE FROM merged WHERE uid IN (SELECT uid FROM erased)",
            [],
        )?;
    }
    // A face that was named after the fact is found by its nearest candidate, as all others are.
    connection.execute(
        &format!(
            "UPDATE faces SET candidates = json_array(json_array(?1, 0))
              WHERE person_id = ?1 AND outcome <> 'unknown' AND {CANDIDATES} ->> '$[0][0]' IS NOT ?1"
        ),
        [person],
    )?;
    // Theirs too: they were taken for somebody else, and somebody said so. By its crop as well,
    // since embeddings change with the model pack.
    connection.execute(
        "DELETE FROM counter_examples WHERE vector IN (SELECT vector FROM person_embeddings
                WHERE person_image_id IN (SELECT id FROM person_images WHERE person_id = ?1))
            OR (length(crop) > 0 AND crop IN (SELECT crop FROM person_images WHERE person_id = ?1))",
        [person],
    )?;
    connection.execute("DELETE FROM person WHERE id = ?1", [person])?;
    Ok(Some(people))
}

/// Notes whose erasure has begun and not ended.
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

/// Who somebody is by now who was put together with others; `None`: nobody.
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

/// Those that name them at all; in results by the person's number, wherever it stands in its
/// object.
pub(super) fn images_with(
    connection: &Connection,
    person: PersonId,
) -> rusqlite::Result<Vec<ImageId>> {
    let mut found = connection.prepare(&format!(
        "SELECT image_id FROM outbox WHERE payload LIKE ?1 OR payload LIKE ?2
          UNION SELECT image_id FROM faces
                 WHERE EXISTS (SELECT 1 FROM json_each({CANDIDATES}) c WHERE c.value ->> 0 = ?3)"
    ))?;
    let (first, last) = (
        format!("%\"person_id\":{person},%"),
        format!("%\"person_id\":{person}}}%"),
    );
    found
        .query_map(params![first, last, person], |row| row.get(0))?
        .collect()
}

pub(super) fn erase_from_image(
    connection: &Connection,
    image: ImageId,
    person: PersonId,
) -> rusqlite::Result<()> {
    let results: Vec<(i64, String, Option<i64>)> = connection
        .prepare_cached(
            "SELECT outbox.id, payload, tries FROM outbox LEFT JOIN unsent ON unsent.id = outbox.id WHERE image_id = ?1",
        )?
        .query_map([image], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut theirs = Vec::new();
    for (id, payload, tries) in results {
        let without = Without::of(&payload, person);
        let (mut result, found) = (without.result, !without.faces.is_empty());
        theirs.extend(without.faces);
        if found {
            connection.execute("DELETE FROM unsent WHERE id = ?1", [id])?;
        } else if tries > Some(0) {
            // It may have left: what leaves now is another result that replaces it.
            let old = result["result_id"].take();
            result["result_id"] = format!("{}-erased", old.as_str().unwrap_or_default()).into();
            result["supersedes"] = old;
        }
        connection.execute(
            "UPDATE outbox SET payload = ?2, result_id = coalesce(?2 ->> 'result_id', result_id) WHERE id = ?1",
            params![id, result.to_string()],
        )?;
    }
    // Their face is the one that was taken for them, or might have been; by its result, or by what
    // was said of it later.
    let named_later = format!(
        "SELECT number FROM faces WHERE image_id = ?1 AND outcome <> 'unknown' AND {CANDIDATES} ->> '$[0][0]' = ?2"
    );
    let named_later: Vec<i64> = connection
        .prepare_cached(&named_later)?
        .query_map(params![image, person], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    theirs.extend(named_later);
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
        return Ok(());
    }
    connection.execute("DELETE FROM thumbnails WHERE image_id = ?1", [image])?;
    // Without its bytes it cannot be done again, whatever becomes of the engine that did it.
    connection.execute(
        "UPDATE images SET file = NULL, unverified = 0
          WHERE id = ?1 AND file IS NOT NULL AND state IN ('processed', 'failed')",
        [image],
    )?;
    Ok(())
}

/// A result that names somebody no more.
struct Without {
    result: Value,
    /// Numbers of the faces that were taken for them.
    faces: Vec<i64>,
}

impl Without {
    fn of(payload: &str, person: PersonId) -> Self {
        // One that is no JSON names nobody afterwards.
        let mut result: Value = serde_json::from_str(payload).unwrap_or_default();
        let named = |candidate: &Value| candidate["person_id"].as_i64() == Some(person);
        let mut faces = Vec::new();
        for (face, number) in result["faces"]
            .as_array_mut()
            .into_iter()
            .flatten()
            .zip(1..)
        {
            if named(&face["person"]) {
                face["person"] = Value::Null;
                faces.push(number);
            }
            if let Some(candidates) = face["candidates"].as_array_mut() {
                candidates.retain(|candidate| !named(candidate));
            }
        }
        Self { result, faces }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::hex;
    use crate::store::fixtures::{blob, enroll, image, rows, run, store};
    use crate::store::{Changed, vector_to_blob};

    #[test]
    fn a_result_forgets_one_person_and_keeps_the_others() {
        let face = |person: i64, candidates: &[i64]| {
            let named = |id: &i64| serde_json::json!({ "person_id": id, "name": format!("P{id}") });
            serde_json::json!({ "person": named(&person), "candidates": candidates.iter().map(named).collect::<Vec<_>>() })
        };
        let payload =
            serde_json::json!({ "faces": [face(7, &[7, 8]), face(8, &[8, 7])] }).to_string();
        let without = Without::of(&payload, 7);
        assert_eq!(without.faces, [1]);
        assert!(!without.result.to_string().contains("P7"));
        assert_eq!(without.result["faces"][1]["person"]["name"], "P8");
        assert_eq!(Without::of(&without.result.to_string(), 8).faces, [2]);
    }

    #[tokio::test]
    async fn what_one_was_said_not_to_be_is_forgotten_when_the_two_are_put_together_or_one_is_erased()
     {
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
        // Of Bob: a picture of Ann, a face of Ann, a picture of Eve, and somebody else.
        for vector in [[1.0, 0.0], [0.8, 0.0], [1.0, 1.0], [9.0, 9.0]] {
            run(&store, &not(bob, vector)).await;
        }
        run(&store, &not(ann, [8.0, 8.0])).await;
        assert_eq!(
            store.merge_people(ann, bob).await.unwrap(),
            Changed::Done(())
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
        // Bob is Ann as well: what names her by her old number goes with him.
        store.erase_person(bob).await.unwrap();
        store
            .erase_from_results(&store.erasing().await.unwrap())
            .await
            .unwrap();
        assert_eq!(
            rows(
                &store,
                "SELECT payload ->> '$.faces[0].person' FROM outbox WHERE payload LIKE '%\"name\"%'"
            )
            .await,
            [""; 0]
        );
        assert_eq!(
            rows(&store, "SELECT candidates || length(crop) FROM faces").await,
            ["[]0"]
        );
    }
}
