//! SQL that erases a person (rule 13): what is theirs goes, and what names them names nobody any more.
//!
//! Deleted content is overwritten (`secure_delete`); the journal that still holds it is emptied at the end.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Value;

use super::{Store, StoreError, Urgency};
use crate::domain::{ImageId, PersonId};

/// Images in one operation of the writer: others have their turn between two.
const BATCH: usize = 50;
/// How often the journal is tried to be emptied while readers are in it.
const TRIES: usize = 50;

/// Of somebody who is not in the gallery any more.
#[derive(Debug)]
pub struct Erased {
    /// What results knew them by.
    pub person: PersonId,
    /// Kept enrolment pictures, to be deleted; relative to the state folder.
    pub files: Vec<String>,
}

impl Store {
    /// Takes a person, their pictures and embeddings out of the gallery. `None`: there is nobody of that name.
    pub async fn erase_person(&self, name: String) -> Result<Option<Erased>, StoreError> {
        self.write(Urgency::Now, move |connection| {
            let person: Option<PersonId> =
                connection.query_row("SELECT id FROM person WHERE name = ?1", [&name], |row| row.get(0)).optional()?;
            let Some(person) = person else { return Ok(None) };
            let files = connection
                .prepare("SELECT file FROM person_images WHERE person_id = ?1")?
                .query_map([person], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            connection.execute("DELETE FROM person WHERE id = ?1", [person])?;
            Ok(Some(Erased { person, files }))
        })
        .await
    }

    /// Takes them out of all past results, with crops and embeddings of their faces, thumbnails, and messages that no
    /// broker has yet; answers the kept bytes of the pictures they were in, to be deleted.
    pub async fn erase_from_results(&self, person: PersonId) -> Result<Vec<String>, StoreError> {
        let images = self.read(move |connection| images_with(connection, person)).await?;
        let mut files = Vec::new();
        for batch in images.chunks(BATCH) {
            let batch = batch.to_vec();
            let erased = self.write(Urgency::Now, move |connection| {
                let mut files = Vec::new();
                for image in &batch {
                    files.extend(erase_from_image(connection, *image, person)?);
                }
                Ok(files)
            });
            files.extend(erased.await?);
        }
        Ok(files)
    }

    /// Copies the journal into the database and empties it.
    pub async fn empty_journal(&self) -> Result<(), StoreError> {
        let path = self.readers.path.clone();
        let emptying = tokio::task::spawn_blocking(move || {
            // A connection of its own: the writer's has a transaction open most of the time.
            let connection = Connection::open(&path)?;
            for _ in 0..TRIES {
                let busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
                if !busy {
                    return Ok(());
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            tracing::warn!("the journal could not be emptied now; what was erased leaves it with the next pictures");
            Ok(())
        });
        emptying.await.map_err(|_| StoreError::Closed)?
    }
}

fn images_with(connection: &Connection, person: PersonId) -> rusqlite::Result<Vec<ImageId>> {
    let mut found = connection.prepare(
        "SELECT image_id FROM outbox WHERE payload LIKE ?1
          UNION SELECT image_id FROM faces
                 WHERE EXISTS (SELECT 1 FROM json_each(faces.candidates) c WHERE c.value ->> 0 = ?2)",
    )?;
    found.query_map(params![format!("%\"person_id\":{person},%"), person], |row| row.get(0))?.collect()
}

fn erase_from_image(connection: &Connection, image: ImageId, person: PersonId) -> rusqlite::Result<Option<String>> {
    // Theirs is the face they are nearest to, whether it was taken for them or not.
    connection.execute(
        "UPDATE faces SET crop = x'', embedding = x'' WHERE image_id = ?1 AND candidates ->> '$[0][0]' = ?2",
        params![image, person],
    )?;
    connection.execute(
        "UPDATE faces SET candidates = (SELECT json_group_array(json(c.value)) FROM json_each(faces.candidates) c
                                         WHERE c.value ->> 0 <> ?2)
          WHERE image_id = ?1",
        params![image, person],
    )?;
    connection.execute("DELETE FROM thumbnails WHERE image_id = ?1", [image])?;
    connection.execute("DELETE FROM unsent WHERE id IN (SELECT id FROM outbox WHERE image_id = ?1)", [image])?;
    let results: Vec<(i64, String)> = connection
        .prepare_cached("SELECT id, payload FROM outbox WHERE image_id = ?1")?
        .query_map([image], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (id, payload) in results {
        let payload = without(&payload, person);
        connection.execute("UPDATE outbox SET payload = ?2 WHERE id = ?1", params![id, payload])?;
    }
    let file = connection
        .query_row(
            "SELECT file FROM images WHERE id = ?1 AND file IS NOT NULL AND state IN ('processed', 'failed')",
            [image],
            |row| row.get(0),
        )
        .optional()?;
    if file.is_some() {
        connection.execute("UPDATE images SET file = NULL WHERE id = ?1", [image])?;
    }
    Ok(file)
}

/// A result that names them no more; one that is no JSON names nobody afterwards.
fn without(payload: &str, person: PersonId) -> String {
    let Ok(mut result) = serde_json::from_str::<Value>(payload) else { return "{}".into() };
    let theirs = |candidate: &Value| candidate["person_id"].as_i64() == Some(person);
    for face in result["faces"].as_array_mut().into_iter().flatten() {
        if theirs(&face["person"]) {
            face["person"] = Value::Null;
        }
        if let Some(candidates) = face["candidates"].as_array_mut() {
            candidates.retain(|candidate| !theirs(candidate));
        }
    }
    result.to_string()
}
