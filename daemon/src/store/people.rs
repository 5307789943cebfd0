//! SQL of people and the pictures they were enrolled from.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::images::store_fact;
use super::{Store, StoreError, Urgency, blob_to_vector, vector_to_blob};
use crate::domain::{ImageId, PersonId, wall_clock_ms};

/// A picture about to be enrolled.
#[derive(Debug, Clone)]
pub struct EnrolledPicture {
    /// File name it came under.
    pub image_name: String,
    /// Of its bytes, hex.
    pub sha256: String,
    /// Kept copy, relative to the state folder.
    pub file: String,
    /// The enrolled face: left, top, right, bottom in pixels.
    pub bounds: [f32; 4],
    /// 0 to 1.
    pub quality: f32,
    /// Aligned crop of it, JPEG.
    pub crop: Vec<u8>,
    /// Of the enrolled face.
    pub embedding: Vec<f32>,
    /// Embedding space it belongs to.
    pub space: String,
}

/// What became of an enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolledFace {
    /// The picture is in the gallery.
    Added,
    /// The same bytes are enrolled already, for this person. If that is who they were for, it holds no more that this
    /// face is not them.
    AlreadyThere {
        /// Who has it.
        person: String,
    },
}

/// One embedding of the gallery.
#[derive(Debug, Clone)]
pub struct GalleryRow {
    /// Whose it is.
    pub person_id: PersonId,
    /// Their name.
    pub name: String,
    /// The picture's row.
    pub person_image_id: i64,
    /// File name it was enrolled under.
    pub image_name: String,
    /// In the space asked for.
    pub embedding: Vec<f32>,
}

/// A person and how many pictures they have.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct PersonRow {
    /// Row.
    pub id: PersonId,
    /// Name.
    pub name: String,
    /// Enrolled pictures.
    pub pictures: u32,
    /// The enrolled picture that shows them best; `None`: none that can be shown.
    pub best_picture: Option<i64>,
    /// The newest image they were found in, known.
    pub last_image: Option<ImageId>,
    /// When that came in, wall clock.
    pub last_seen_ms: Option<i64>,
}

/// A picture somebody was enrolled from.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct PersonPicture {
    /// Row.
    pub id: i64,
    /// File name it was enrolled under.
    pub image_name: String,
    /// 0 to 1.
    pub quality: f64,
    /// Wall clock.
    pub created_at_ms: i64,
    /// Whether its face can be shown.
    pub crop: bool,
}

/// A kept picture that lacks an embedding in the active space.
#[derive(Debug, Clone)]
pub struct Unembedded {
    /// The picture's row.
    pub person_image_id: i64,
    /// Kept copy, relative to the state folder.
    pub file: String,
    /// Face that was enrolled.
    pub bounds: [f32; 4],
}

impl Store {
    /// Adds a picture to a person, creating the person if needed; on disk when this returns.
    pub async fn enroll(&self, person: String, picture: EnrolledPicture) -> Result<EnrolledFace, StoreError> {
        self.write(Urgency::Now, move |connection| {
            let holder = holder(connection, &picture.sha256)?;
            if let Some(other) = holder.as_ref().filter(|holder| **holder != person) {
                return Ok(EnrolledFace::AlreadyThere { person: other.clone() });
            }
            let id = person_row(connection, &person)?;
            insert_picture(connection, id, &picture)?;
            Ok(holder.map_or(EnrolledFace::Added, |person| EnrolledFace::AlreadyThere { person }))
        })
        .await
    }

    /// The gallery of one embedding space.
    pub async fn gallery(&self, space: String) -> Result<Vec<GalleryRow>, StoreError> {
        self.read(move |connection| gallery(connection, &space)).await
    }

    /// Who is on an enrolled image, by its file name. One that is enrolled elsewhere only makes `person` known by name.
    pub async fn person_of_image(&self, image_name: String, person: String) -> Result<(PersonId, String), StoreError> {
        let enrolled = self
            .read(move |connection| {
                connection
                    .prepare_cached(
                        "SELECT person.id, person.name FROM person_images pi JOIN person ON person.id = pi.person_id
                          WHERE pi.image_name = ?1 ORDER BY pi.id LIMIT 1",
                    )?
                    .query_row([image_name], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()
            })
            .await?;
        if let Some(enrolled) = enrolled {
            return Ok(enrolled);
        }
        self.write(Urgency::Now, move |connection| Ok((person_row(connection, &person)?, person.clone()))).await
    }

    /// Everybody, by name.
    pub async fn people(&self) -> Result<Vec<PersonRow>, StoreError> {
        self.read(people).await
    }

    /// Those with a higher number than `after`, by number.
    pub async fn people_after(&self, after: Option<PersonId>, limit: usize) -> Result<Vec<PersonRow>, StoreError> {
        self.read_dear(move |connection| {
            let mut statement =
                connection.prepare_cached(&format!("{PERSON} WHERE person.id > ?1 ORDER BY person.id LIMIT ?2"))?;
            statement.query_map(params![after.unwrap_or(0), limit as i64], person)?.collect()
        })
        .await
    }

    /// Everybody's number and name, by name: to choose from.
    pub async fn person_names(&self) -> Result<Vec<(PersonId, String)>, StoreError> {
        self.read_dear(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT id, name FROM person ORDER BY name COLLATE NOCASE, id")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }

    /// Those with this text in their name, by name, behind the one of this name and number: who comes or goes meanwhile
    /// moves nobody to another page.
    pub async fn people_named(
        &self,
        text: String,
        after: Option<(String, PersonId)>,
        limit: usize,
    ) -> Result<Vec<PersonRow>, StoreError> {
        let (name, id) = after.unwrap_or_default();
        self.read_dear(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "{PERSON} WHERE person.id IN (SELECT id FROM person WHERE instr(lower(name), lower(?1)) > 0
                    AND (name COLLATE NOCASE > ?2 OR (name = ?2 COLLATE NOCASE AND id > ?3))
                    ORDER BY name COLLATE NOCASE, id LIMIT ?4)
                  ORDER BY name COLLATE NOCASE, person.id"
            ))?;
            statement.query_map(params![text, name, id, limit as i64], person)?.collect()
        })
        .await
    }

    /// One of them.
    pub async fn person(&self, id: PersonId) -> Result<Option<PersonRow>, StoreError> {
        self.read(move |connection| {
            connection.prepare_cached(&format!("{PERSON} WHERE person.id = ?1"))?.query_row([id], person).optional()
        })
        .await
    }

    /// What somebody was enrolled from, oldest first.
    pub async fn person_pictures(&self, id: PersonId) -> Result<Vec<PersonPicture>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, image_name, quality, created_at_ms, length(coalesce(crop, x'')) > 0 FROM person_images
                  WHERE person_id = ?1 ORDER BY id",
            )?;
            statement
                .query_map([id], |row| {
                    Ok(PersonPicture {
                        id: row.get(0)?,
                        image_name: row.get(1)?,
                        quality: row.get(2)?,
                        created_at_ms: row.get(3)?,
                        crop: row.get(4)?,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Aligned crop of an enrolled face, JPEG.
    pub async fn person_crop(&self, person: PersonId, picture: i64) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT crop FROM person_images WHERE person_id = ?1 AND id = ?2 AND length(coalesce(crop, x'')) > 0",
                )?
                .query_row([person, picture], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Pictures that must be embedded again because the embedding space changed.
    pub async fn unembedded(&self, space: String) -> Result<Vec<Unembedded>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare(
                "SELECT id, file, bounds FROM person_images pi
                  WHERE NOT EXISTS (SELECT 1 FROM person_embeddings e WHERE e.person_image_id = pi.id AND e.space = ?1)
                  ORDER BY id",
            )?;
            statement
                .query_map([space], |row| {
                    let bounds: String = row.get(2)?;
                    Ok(Unembedded {
                        person_image_id: row.get(0)?,
                        file: row.get(1)?,
                        bounds: serde_json::from_str(&bounds).unwrap_or_default(),
                    })
                })?
                .collect()
        })
        .await
    }

    /// Adds embeddings of a new space, all at once: the gallery is swapped, never half one and half the other.
    pub async fn add_embeddings(&self, space: String, vectors: Vec<(i64, Vec<f32>)>) -> Result<(), StoreError> {
        self.write(Urgency::Now, move |connection| {
            vectors.iter().try_for_each(|(row, vector)| insert_embedding(connection, *row, &space, vector))
        })
        .await
    }

    /// Kept enrolment pictures that rows still name.
    pub async fn enrolment_files(&self) -> Result<std::collections::HashSet<String>, StoreError> {
        self.read(|connection| {
            let mut statement = connection.prepare("SELECT file FROM person_images")?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
        .await
    }
}

/// What became of a change to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed<T = ()> {
    /// Done.
    Done(T),
    /// There is nothing of that number.
    NotFound,
    /// Not done; the sentence says why.
    Refused(String),
}

/// The fact that holds merges whose past results have not all followed: pairs of old and new number.
const MERGING: &str = "merging";
/// Images in one operation of the writer: others have their turn between two.
const BATCH: usize = 50;

impl Store {
    /// Gives somebody another name.
    pub async fn rename_person(&self, id: PersonId, name: String) -> Result<Changed, StoreError> {
        self.write(Urgency::Now, move |connection| {
            let holder: Option<PersonId> =
                connection.query_row("SELECT id FROM person WHERE name = ?1", [&name], |row| row.get(0)).optional()?;
            if holder.is_some_and(|holder| holder != id) {
                return Ok(Changed::Refused(format!("somebody else is called {name}; merge the two if they are one")));
            }
            let renamed = connection.execute("UPDATE person SET name = ?2 WHERE id = ?1", params![id, name])?;
            Ok(if renamed == 0 { Changed::NotFound } else { Changed::Done(()) })
        })
        .await
    }

    /// Makes two people one: pictures, past faces and counter-examples of `id` are those of `into` from now on.
    /// [`Self::follow_merges`] does the rest.
    pub async fn merge_people(&self, id: PersonId, into: PersonId) -> Result<Changed, StoreError> {
        if id == into {
            return Ok(Changed::Refused("they are one person already".into()));
        }
        self.write(Urgency::Now, move |connection| {
            let uid = |id: PersonId| -> rusqlite::Result<Option<Vec<u8>>> {
                connection.query_row("SELECT uid FROM person WHERE id = ?1", [id], |row| row.get(0)).optional()
            };
            let (Some(from_uid), Some(into_uid)) = (uid(id)?, uid(into)?) else { return Ok(Changed::NotFound) };
            // What one of them was said not to be, and the other is; by its crop too, which another model pack changes not.
            for (whose, other) in [(into, id), (id, into)] {
                connection.execute(
                    "DELETE FROM counter_examples WHERE person_id = ?1 AND (
                        EXISTS (SELECT 1 FROM person_images pi JOIN person_embeddings e ON e.person_image_id = pi.id
                                 WHERE pi.person_id = ?2 AND e.vector = counter_examples.vector)
                        OR EXISTS (SELECT 1 FROM faces
                                    WHERE faces.person_id = ?2 AND faces.embedding = counter_examples.vector)
                        OR (length(crop) > 0 AND crop IN (SELECT crop FROM person_images WHERE person_id = ?2
                                                          UNION ALL SELECT crop FROM faces WHERE person_id = ?2)))",
                    [whose, other],
                )?;
            }
            connection.execute("UPDATE person_images SET person_id = ?2 WHERE person_id = ?1", [id, into])?;
            connection.execute("UPDATE counter_examples SET person_id = ?2 WHERE person_id = ?1", [id, into])?;
            connection.execute("UPDATE faces SET person_id = ?2 WHERE person_id = ?1", [id, into])?;
            connection.execute(
                "INSERT OR REPLACE INTO merged (uid, into_uid, person_id) VALUES (?1, ?2, ?3)",
                params![from_uid, into_uid, id],
            )?;
            connection.execute("DELETE FROM person WHERE id = ?1", [id])?;
            let mut merging = merging(connection)?;
            merging.push((id, into));
            store_fact(connection, MERGING, &serde_json::json!(merging).to_string())?;
            Ok(Changed::Done(()))
        })
        .await
    }

    /// Has the lists of candidates of past faces name those whom others were merged into. Doing it again does what was
    /// broken off.
    pub async fn follow_merges(&self) -> Result<(), StoreError> {
        for (id, into) in self.read(merging).await? {
            // What rides uncommitted is not seen by the reader below.
            self.write(Urgency::Now, |_| Ok(())).await?;
            let images: Vec<ImageId> = self
                .read(move |connection| {
                    let mut found = connection.prepare(
                        "SELECT DISTINCT image_id FROM faces
                          WHERE EXISTS (SELECT 1 FROM json_each(faces.candidates) c WHERE c.value ->> 0 = ?1)",
                    )?;
                    found.query_map([id], |row| row.get(0))?.collect()
                })
                .await?;
            for batch in images.chunks(BATCH) {
                let batch = batch.to_vec();
                self.write(Urgency::Now, move |connection| {
                    batch.iter().try_for_each(|image| merge_candidates(connection, *image, id, into))
                })
                .await?;
            }
            self.write(Urgency::Now, move |connection| {
                let left: Vec<_> = merging(connection)?.into_iter().filter(|pair| *pair != (id, into)).collect();
                store_fact(connection, MERGING, &serde_json::json!(left).to_string())
            })
            .await?;
        }
        Ok(())
    }

    /// Takes one picture out of the gallery and answers its kept file, to be deleted.
    pub async fn delete_person_picture(&self, person: PersonId, picture: i64) -> Result<Option<String>, StoreError> {
        self.write(Urgency::Now, move |connection| {
            connection
                .query_row(
                    "DELETE FROM person_images WHERE id = ?1 AND person_id = ?2 RETURNING file",
                    [picture, person],
                    |row| row.get(0),
                )
                .optional()
        })
        .await
    }
}

fn merging(connection: &Connection) -> rusqlite::Result<Vec<(PersonId, PersonId)>> {
    let fact: Option<String> =
        connection.query_row("SELECT value FROM facts WHERE key = ?1", [MERGING], |row| row.get(0)).optional()?;
    Ok(fact.and_then(|pairs| serde_json::from_str(&pairs).ok()).unwrap_or_default())
}

/// Of two who are one now the nearer stays.
pub(super) fn merge_candidates(
    connection: &Connection,
    image: ImageId,
    id: PersonId,
    into: PersonId,
) -> rusqlite::Result<()> {
    let faces: Vec<(i64, String)> = connection
        .prepare_cached("SELECT number, candidates FROM faces WHERE image_id = ?1")?
        .query_map([image], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (number, candidates) in faces {
        let candidates: Vec<(PersonId, serde_json::Value)> = serde_json::from_str(&candidates).unwrap_or_default();
        // Matched before the merge and stored after it, so that its person was nobody then; not one that was erased.
        let theirs = candidates.first().is_some_and(|(nearest, _)| *nearest == id);
        let mut left: Vec<(PersonId, serde_json::Value)> = Vec::new();
        for (person, distance) in candidates {
            let person = if person == id { into } else { person };
            if left.iter().all(|(known, _)| *known != person) {
                left.push((person, distance));
            }
        }
        connection
            .prepare_cached(
                "UPDATE faces SET candidates = ?3,
                        person_id = iif(?4 AND outcome <> 'unknown' AND length(embedding) > 0, coalesce(person_id, ?5), person_id)
                  WHERE image_id = ?1 AND number = ?2",
            )?
            .execute(params![image, number, serde_json::json!(left).to_string(), theirs, into])?;
    }
    Ok(())
}

const PERSON: &str = "
    SELECT person.id, name,
           (SELECT count(*) FROM person_images pi WHERE pi.person_id = person.id),
           (SELECT id FROM person_images pi WHERE pi.person_id = person.id AND length(coalesce(crop, x'')) > 0
             ORDER BY quality DESC LIMIT 1),
           seen.id, seen.accepted_at_ms
      FROM person LEFT JOIN images seen ON seen.id = (SELECT image_id FROM faces
            WHERE faces.person_id = person.id AND faces.outcome = 'known' ORDER BY image_id DESC LIMIT 1)";

fn person(row: &Row<'_>) -> rusqlite::Result<PersonRow> {
    Ok(PersonRow {
        id: row.get(0)?,
        name: row.get(1)?,
        pictures: row.get(2)?,
        best_picture: row.get(3)?,
        last_image: row.get(4)?,
        last_seen_ms: row.get(5)?,
    })
}

/// Everybody, by name, for commands that open the file read-only.
pub fn people(connection: &Connection) -> rusqlite::Result<Vec<PersonRow>> {
    let mut statement = connection.prepare_cached(&format!("{PERSON} ORDER BY name COLLATE NOCASE, person.id"))?;
    statement.query_map([], person)?.collect()
}

/// The gallery through a connection of the caller's own, for commands that open the file read-only.
pub fn gallery(connection: &Connection, space: &str) -> rusqlite::Result<Vec<GalleryRow>> {
    let mut statement = connection.prepare(
        "SELECT person.id, person.name, pi.id, pi.image_name, e.vector FROM person_embeddings e
           JOIN person_images pi ON pi.id = e.person_image_id JOIN person ON person.id = pi.person_id
          WHERE e.space = ?1 ORDER BY pi.id",
    )?;
    statement
        .query_map([space], |row| {
            let vector: Vec<u8> = row.get(4)?;
            Ok(GalleryRow {
                person_id: row.get(0)?,
                name: row.get(1)?,
                person_image_id: row.get(2)?,
                image_name: row.get(3)?,
                embedding: blob_to_vector(&vector),
            })
        })?
        .collect()
}

/// Who has the picture with these bytes.
pub(super) fn holder(connection: &Connection, sha256: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT person.name FROM person_images pi JOIN person ON person.id = pi.person_id WHERE pi.sha256 = ?1";
    connection.prepare_cached(sql)?.query_row([sha256], |row| row.get(0)).optional()
}

/// Adds a picture to a person, unless its bytes are enrolled already; answers whether it is theirs now. That its face is
/// not them, as somebody may have said, holds no more then.
pub(super) fn insert_picture(
    connection: &Connection,
    person: PersonId,
    picture: &EnrolledPicture,
) -> rusqlite::Result<bool> {
    let added = connection
        .prepare_cached(
            "INSERT OR IGNORE INTO person_images
                    (person_id, image_name, sha256, file, bounds, quality, created_at_ms, crop)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            person,
            picture.image_name,
            picture.sha256,
            picture.file,
            serde_json::json!(picture.bounds).to_string(),
            picture.quality,
            wall_clock_ms(),
            picture.crop
        ])?;
    if added > 0 {
        insert_embedding(connection, connection.last_insert_rowid(), &picture.space, &picture.embedding)?;
    }
    let theirs = connection
        .prepare_cached("SELECT 1 FROM person_images WHERE sha256 = ?1 AND person_id = ?2")?
        .exists(params![picture.sha256, person])?;
    if theirs {
        connection
            .prepare_cached(
                "DELETE FROM counter_examples
                  WHERE person_id = ?1 AND ((length(crop) > 0 AND crop = ?2) OR (space = ?3 AND vector = ?4))",
            )?
            .execute(params![person, picture.crop, picture.space, vector_to_blob(&picture.embedding)])?;
    }
    Ok(theirs)
}

fn insert_embedding(connection: &Connection, row: i64, space: &str, vector: &[f32]) -> rusqlite::Result<()> {
    // A picture erased while it was being embedded again is skipped.
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO person_embeddings (person_image_id, space, vector)
             SELECT id, ?2, ?3 FROM person_images WHERE id = ?1",
        )?
        .execute(params![row, space, vector_to_blob(vector)])
        .map(|_| ())
}

/// The person of this name, made if there is none.
pub(super) fn person_row(connection: &Connection, name: &str) -> rusqlite::Result<PersonId> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO person (name, created_at_ms, uid) VALUES (?1, ?2, randomblob(16))")?
        .execute(params![name, wall_clock_ms()])?;
    connection.prepare_cached("SELECT id FROM person WHERE name = ?1")?.query_row([name], |row| row.get(0))
}
