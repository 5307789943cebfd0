//! SQL of people and the pictures they were enrolled from.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::facts::store_fact;
use super::{
    CANDIDATES, Commit, Store, StoreError, blob_to_vector, notifications, readable, sightings,
    text, text_if_any, vector_to_blob,
};
use crate::domain::{ImageId, PersonId, wall_clock_ms};
use crate::names;

/// Picture to enrol.
#[derive(Debug, Clone)]
pub struct EnrolledPicture {
    /// File name it came under.
    pub image_name: String,
    /// sha256 of its bytes, hex.
    pub sha256: String,
    /// Original bytes.
    pub picture: Vec<u8>,
    /// The enrolled face: left, top, right, bottom in pixels.
    pub bounds: [f32; 4],
    /// 0 to 1.
    pub quality: f32,
    /// Aligned crop of the face, JPEG.
    pub crop: Vec<u8>,
    /// Embedding of the enrolled face.
    pub embedding: Vec<f32>,
    /// Embedding space of `embedding`.
    pub space: String,
}

/// Outcome of an enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledFace {
    /// Person who has the picture.
    pub person_id: PersonId,
    /// Their name as stored.
    pub name: String,
    /// False when the person already had the same bytes. Counter-examples that reject this face for
    /// this person are dropped in either case.
    pub added: bool,
}

/// An embedding of the gallery.
#[derive(Debug, Clone)]
pub struct GalleryRow {
    /// Number of the person.
    pub person_id: PersonId,
    /// Name of the person.
    pub name: String,
    /// Row of the picture.
    pub person_image_id: i64,
    /// File name it was enrolled under.
    pub image_name: String,
    /// Embedding in the requested space; empty when damaged.
    pub embedding: Vec<f32>,
}

/// A person and their number of pictures.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct PersonRow {
    /// Number of the person.
    pub id: PersonId,
    /// Name.
    pub name: String,
    /// Enrolled pictures.
    pub pictures: u32,
    /// The enrolled picture that shows them best; `None` when none can be shown.
    pub best_picture: Option<i64>,
    /// The newest image in which they were known.
    pub last_image: Option<ImageId>,
    /// Acceptance of that image, wall clock.
    pub last_seen_ms: Option<i64>,
}

/// A picture that a person was enrolled from.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct PersonPicture {
    /// Row of the picture.
    pub id: i64,
    /// File name it was enrolled under.
    pub image_name: String,
    /// Quality, 0 to 1.
    pub quality: f64,
    /// Enrolment, wall clock.
    pub created_at_ms: i64,
    /// Its face can be shown.
    pub crop: bool,
}

/// An enrolled picture that lacks an embedding in the active space.
#[derive(Debug, Clone, PartialEq)]
pub struct Unembedded {
    /// Row of the picture.
    pub person_image_id: i64,
    /// Name of the person.
    pub person: String,
    /// File name it was enrolled under.
    pub image_name: String,
    /// Face that was enrolled.
    pub bounds: [f32; 4],
}

impl Store {
    /// Adds a picture to a person, creating the person if needed; on disk when this returns. The
    /// inner error names another person who has the same bytes.
    pub async fn enroll(
        &self,
        person: String,
        picture: EnrolledPicture,
    ) -> Result<Result<EnrolledFace, String>, StoreError> {
        self.write(Commit::Durable, move |connection| {
            let holder = holder(connection, &picture.sha256)?;
            let added = holder.is_none();
            if let Some(other) = holder.filter(|holder| names::fold(holder) != names::fold(&person))
            {
                return Ok(Err(other));
            }
            let (person_id, name) = person_row(connection, &person)?;
            insert_picture(connection, person_id, &picture)?;
            Ok(Ok(EnrolledFace {
                person_id,
                name,
                added,
            }))
        })
        .await
    }

    /// Returns the gallery of one embedding space.
    pub async fn gallery(&self, space: String) -> Result<Vec<GalleryRow>, StoreError> {
        self.read(move |connection| gallery(connection, &space))
            .await
    }

    /// Returns the person enrolled from an image of this file name, or else the person named
    /// `person`, created if needed.
    pub async fn person_of_image(
        &self,
        image_name: String,
        person: String,
    ) -> Result<(PersonId, String), StoreError> {
        let image_name = names::of_picture(&image_name);
        let person = names::of_person(&person).unwrap_or_else(|_| image_name.clone());
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
        self.write(Commit::Durable, move |connection| {
            person_row(connection, &person)
        })
        .await
    }

    /// Returns the last level of a person's topic; `None` when the person is gone.
    pub async fn person_topic(&self, id: PersonId) -> Result<Option<String>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT topic FROM person WHERE id = ?1";
            connection
                .prepare_cached(sql)?
                .query_row([id], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Returns people with a higher number than `after`, by number.
    pub async fn people_after(
        &self,
        after: Option<PersonId>,
        limit: usize,
    ) -> Result<Vec<PersonRow>, StoreError> {
        self.read_dear(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "{PERSON} WHERE person.id > ?1 ORDER BY person.id LIMIT ?2"
            ))?;
            statement
                .query_map(params![after.unwrap_or(0), limit as i64], person)?
                .collect()
        })
        .await
    }

    /// Returns all people's numbers and names, by name, for a selection list.
    pub async fn person_names(&self) -> Result<Vec<(PersonId, String)>, StoreError> {
        self.read_dear(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT id, name FROM person ORDER BY base, folded, id")?;
            statement
                .query_map([], |row| Ok((row.get(0)?, text(row, 1)?)))?
                .collect()
        })
        .await
    }

    /// Returns the numbers and names of the people enrolled first.
    pub async fn first_people(&self, limit: usize) -> Result<Vec<(PersonId, String)>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT id, name FROM person ORDER BY id LIMIT ?1")?
                .query_map([limit as i64], |row| Ok((row.get(0)?, text(row, 1)?)))?
                .collect()
        })
        .await
    }

    /// Returns people with this text in their name, by name, after the person with the cursor's
    /// name and number. People who come or go meanwhile do not shift the pages. Accents that are
    /// not typed are ignored.
    pub async fn people_named(
        &self,
        text: &str,
        after: Option<(String, PersonId)>,
        limit: usize,
    ) -> Result<Vec<PersonRow>, StoreError> {
        let text = names::fold(text);
        let (name, id) = after.unwrap_or_default();
        let (base, folded) = (names::base(&name), names::fold(&name));
        self.read_dear(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "{PERSON} WHERE person.id IN (SELECT id FROM person WHERE (instr(folded, ?1) > 0 OR instr(base, ?1) > 0)
                    AND (base, folded, id) > (?2, ?3, ?4) ORDER BY base, folded, id LIMIT ?5)
                  {BY_NAME}"
            ))?;
            statement.query_map(params![text, base, folded, id, limit as i64], person)?.collect()
        })
        .await
    }

    /// Returns one person.
    pub async fn person(&self, id: PersonId) -> Result<Option<PersonRow>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached(&format!("{PERSON} WHERE person.id = ?1"))?
                .query_row([id], person)
                .optional()
        })
        .await
    }

    /// Returns a person's enrolled pictures with a higher number than `after`, oldest first.
    pub async fn person_pictures(
        &self,
        id: PersonId,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<PersonPicture>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, image_name, quality, created_at_ms, length(coalesce(crop, x'')) > 0 FROM person_images
                  WHERE person_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
            )?;
            statement
                .query_map(params![id, after.unwrap_or(0), limit as i64], |row| {
                    Ok(PersonPicture {
                        id: row.get(0)?,
                        image_name: text(row, 1)?,
                        quality: row.get(2)?,
                        created_at_ms: row.get(3)?,
                        crop: row.get(4)?,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Returns the aligned crop of an enrolled face, JPEG.
    pub async fn person_crop(
        &self,
        person: PersonId,
        picture: i64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
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

    /// Returns pictures to embed again because the embedding space changed.
    pub async fn unembedded(&self, space: String) -> Result<Vec<Unembedded>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare(
                "SELECT pi.id, name, image_name, bounds FROM person_images pi JOIN person ON person.id = pi.person_id
                  WHERE NOT EXISTS (SELECT 1 FROM person_embeddings e WHERE e.person_image_id = pi.id AND e.space = ?1)
                  ORDER BY pi.id",
            )?;
            statement
                .query_map([space], |row| {
                    let bounds = text(row, 3)?;
                    Ok(Unembedded {
                        person_image_id: row.get(0)?,
                        person: text(row, 1)?,
                        image_name: text(row, 2)?,
                        bounds: serde_json::from_str(&bounds).unwrap_or_default(),
                    })
                })?
                .collect()
        })
        .await
    }

    /// Adds all embeddings of a new space at once, so that the gallery is never half old and half
    /// new.
    pub async fn add_embeddings(
        &self,
        space: String,
        vectors: Vec<(i64, Vec<f32>)>,
    ) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            vectors
                .iter()
                .try_for_each(|(row, vector)| insert_embedding(connection, *row, &space, vector))
        })
        .await
    }

    /// Returns the bytes of an enrolled picture; `None` when they are lost or the picture is gone.
    pub async fn enrolment_picture(
        &self,
        person_image: i64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT picture FROM enrolment_pictures WHERE person_image_id = ?1";
            connection
                .prepare_cached(sql)?
                .query_row([person_image], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Takes damaged vectors out of use. Their pictures then lack an embedding of this space, and
    /// counter-examples wait to be embedded again, as after a change of model pack.
    pub async fn set_vectors_aside(
        &self,
        space: String,
        pictures: Vec<i64>,
        examples: Vec<i64>,
    ) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            let mut picture = connection.prepare_cached(
                "DELETE FROM person_embeddings WHERE person_image_id = ?1 AND space = ?2",
            )?;
            pictures
                .iter()
                .try_for_each(|id| picture.execute(params![id, space]).map(drop))?;
            let mut example = connection.prepare_cached(
                "UPDATE counter_examples SET space = '', vector = x'' WHERE id = ?1",
            )?;
            examples
                .iter()
                .try_for_each(|id| example.execute([id]).map(drop))
        })
        .await
    }
}

/// Outcome of a change to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PersonChange {
    /// Done.
    Done,
    /// There is no such person or picture.
    NotFound,
    /// Refused, with a sentence that says why.
    Refused(String),
}

/// Fact that holds merges whose past results have not all followed, as pairs of old and new number.
const MERGING: &str = "merging";
/// Images per operation of the writer, so that other callers run in between.
const BATCH: usize = 50;

impl Store {
    /// Gives a person another name.
    pub async fn rename_person(
        &self,
        id: PersonId,
        name: String,
    ) -> Result<PersonChange, StoreError> {
        self.write(Commit::Durable, move |connection| {
            let holder = person_named(connection, &name)?;
            if holder.is_some_and(|holder| holder != id) {
                return Ok(PersonChange::Refused(format!(
                    "another person is called {name}; merge the two if they are one"
                )));
            }
            let renamed = write_name(connection, id, &name)?;
            sightings::rename_person(connection, id)?;
            Ok(if renamed == 0 {
                PersonChange::NotFound
            } else {
                PersonChange::Done
            })
        })
        .await
    }

    /// Merges two people: pictures, past faces and counter-examples of `id` become those of `into`.
    /// [`Self::follow_merges`] does the rest.
    pub async fn merge_people(
        &self,
        id: PersonId,
        into: PersonId,
    ) -> Result<PersonChange, StoreError> {
        if id == into {
            return Ok(PersonChange::Refused("they are one person already".into()));
        }
        self.write(Commit::Durable, move |connection| {
            if !are_there(connection, id, into)? {
                return Ok(PersonChange::NotFound);
            }
            drop_contradicted(connection, id, into)?;
            merge_rows(connection, id, into)?;
            Ok(PersonChange::Done)
        })
        .await
    }

    /// Rewrites the candidates of past faces to name the merged person. Safe to repeat after an
    /// interruption.
    pub async fn follow_merges(&self) -> Result<(), StoreError> {
        for (id, into) in self.read(merging).await? {
            let images: Vec<ImageId> = self
                .read_latest(move |connection| {
                    let mut found = connection.prepare(&format!(
                        "SELECT DISTINCT image_id FROM faces
                          WHERE EXISTS (SELECT 1 FROM json_each({CANDIDATES}) c WHERE c.value ->> 0 = ?1)"
                    ))?;
                    found.query_map([id], |row| row.get(0))?.collect()
                })
                .await?;
            for batch in images.chunks(BATCH) {
                let batch = batch.to_vec();
                self.write(Commit::Durable, move |connection| {
                    batch
                        .iter()
                        .try_for_each(|image| merge_candidates(connection, *image, id, into))
                })
                .await?;
            }
            self.write(Commit::Durable, move |connection| {
                let left: Vec<_> = merging(connection)?
                    .into_iter()
                    .filter(|pair| *pair != (id, into))
                    .collect();
                store_fact(connection, MERGING, &serde_json::json!(left).to_string())
            })
            .await?;
        }
        Ok(())
    }

    /// Removes one picture from the gallery; false when the person has no such picture.
    pub async fn delete_person_picture(
        &self,
        person: PersonId,
        picture: i64,
    ) -> Result<bool, StoreError> {
        self.write(Commit::Durable, move |connection| {
            let sql = "DELETE FROM person_images WHERE id = ?1 AND person_id = ?2";
            Ok(connection.execute(sql, [picture, person])? > 0)
        })
        .await
    }
}

/// Returns whether both people are here.
fn are_there(connection: &Connection, id: PersonId, other: PersonId) -> rusqlite::Result<bool> {
    let mut there = connection.prepare_cached("SELECT 1 FROM person WHERE id = ?1")?;
    Ok(there.exists([id])? && there.exists([other])?)
}

/// Drops counter-examples that say one of two people is not the other. Compares crops as well as
/// vectors: a crop survives a change of model pack.
fn drop_contradicted(
    connection: &Connection,
    id: PersonId,
    into: PersonId,
) -> rusqlite::Result<()> {
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
    Ok(())
}

/// Makes the rows of a person those of another one, and the first a merged person.
/// [`Store::follow_merges`] does the rest.
pub(super) fn merge_rows(
    connection: &Connection,
    id: PersonId,
    into: PersonId,
) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE person_images SET person_id = ?2 WHERE person_id = ?1",
        [id, into],
    )?;
    connection.execute(
        "UPDATE counter_examples SET person_id = ?2 WHERE person_id = ?1",
        [id, into],
    )?;
    // Before the faces, so that ended sightings agree with their faces' new person.
    sightings::merge_people(connection, id, into)?;
    connection.execute(
        "UPDATE faces SET person_id = ?2 WHERE person_id = ?1",
        [id, into],
    )?;
    notifications::merge_people(connection, id, into)?;
    connection.execute(
        "INSERT OR REPLACE INTO merged (uid, into_uid, person_id)
         SELECT uid, (SELECT uid FROM person WHERE id = ?2), id FROM person WHERE id = ?1",
        [id, into],
    )?;
    connection.execute("DELETE FROM person WHERE id = ?1", [id])?;
    let mut merging = merging(connection)?;
    merging.push((id, into));
    store_fact(connection, MERGING, &serde_json::json!(merging).to_string())
}

fn merging(connection: &Connection) -> rusqlite::Result<Vec<(PersonId, PersonId)>> {
    let fact: Option<String> = connection
        .query_row("SELECT value FROM facts WHERE key = ?1", [MERGING], |row| {
            row.get(0)
        })
        .optional()?;
    Ok(fact
        .and_then(|pairs| serde_json::from_str(&pairs).ok())
        .unwrap_or_default())
}

/// Merges two candidates of a past face; the nearer of them stays.
pub(super) fn merge_candidates(
    connection: &Connection,
    image: ImageId,
    id: PersonId,
    into: PersonId,
) -> rusqlite::Result<()> {
    let faces: Vec<(i64, String)> = connection
        .prepare_cached("SELECT number, candidates FROM faces WHERE image_id = ?1 ORDER BY number")?
        .query_map([image], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (number, candidates) in faces {
        let candidates: Vec<(PersonId, serde_json::Value)> =
            serde_json::from_str(&candidates).unwrap_or_default();
        // A face matched before the merge and stored after it has no person, since its person was
        // gone by then. It gets the merged one, unless it was erased or another face of the image
        // already has that person.
        let theirs = candidates
            .first()
            .is_some_and(|(nearest, _)| *nearest == id);
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
                        person_id = iif(?4 AND outcome <> 'unknown' AND length(embedding) > 0
                            AND NOT EXISTS (SELECT 1 FROM faces o WHERE o.image_id = ?1 AND o.number <> ?2 AND o.person_id = ?5),
                            coalesce(person_id, ?5), person_id)
                  WHERE image_id = ?1 AND number = ?2",
            )?
            .execute(params![image, number, serde_json::json!(left).to_string(), theirs, into])?;
    }
    Ok(())
}

/// SQL that orders people by name.
const BY_NAME: &str = "ORDER BY person.base, person.folded, person.id";

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
        name: text(row, 1)?,
        pictures: row.get(2)?,
        best_picture: row.get(3)?,
        last_image: row.get(4)?,
        last_seen_ms: row.get(5)?,
    })
}

/// Returns all people by name, for commands that open the file read-only.
pub fn people(connection: &Connection) -> rusqlite::Result<Vec<PersonRow>> {
    let mut statement = connection.prepare_cached(&format!("{PERSON} {BY_NAME}"))?;
    readable(statement.query_map([], person)?)
}

/// Returns the gallery through the caller's own connection, for commands that open the file
/// read-only.
pub fn gallery(connection: &Connection, space: &str) -> rusqlite::Result<Vec<GalleryRow>> {
    let mut statement = connection.prepare(
        "SELECT person.id, person.name, pi.id, pi.image_name, e.vector FROM person_embeddings e
           JOIN person_images pi ON pi.id = e.person_image_id JOIN person ON person.id = pi.person_id
          WHERE e.space = ?1 ORDER BY pi.id",
    )?;
    let rows = statement.query_map([space], |row| {
        let vector: Vec<u8> = row.get(4)?;
        Ok(GalleryRow {
            person_id: row.get(0)?,
            name: text(row, 1)?,
            person_image_id: row.get(2)?,
            image_name: text(row, 3)?,
            embedding: blob_to_vector(&vector),
        })
    })?;
    readable(rows)
}

/// Returns the name of the person who has the picture with these bytes.
pub(super) fn holder(connection: &Connection, sha256: &str) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT person.name FROM person_images pi JOIN person ON person.id = pi.person_id WHERE pi.sha256 = ?1";
    connection
        .prepare_cached(sql)?
        .query_row([sha256], |row| row.get(0))
        .optional()
}

/// Adds a picture to a person, unless its bytes are enrolled already, and drops counter-examples
/// that reject its face for them. Returns whether the person has the picture now.
pub(super) fn insert_picture(
    connection: &Connection,
    person: PersonId,
    picture: &EnrolledPicture,
) -> rusqlite::Result<bool> {
    let row = PictureRow {
        person,
        image_name: &picture.image_name,
        sha256: &picture.sha256,
        bounds: picture.bounds,
        quality: picture.quality,
        created_at_ms: wall_clock_ms(),
        crop: &picture.crop,
    };
    if let Some(row) = insert_picture_row(connection, &row)? {
        connection
            .prepare_cached(
                "INSERT INTO enrolment_pictures (person_image_id, picture) VALUES (?1, ?2)",
            )?
            .execute(params![row, picture.picture])?;
        insert_embedding(connection, row, &picture.space, &picture.embedding)?;
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

/// An enrolled picture without its bytes and embeddings.
pub(super) struct PictureRow<'a> {
    pub person: PersonId,
    pub image_name: &'a str,
    pub sha256: &'a str,
    pub bounds: [f32; 4],
    pub quality: f32,
    pub created_at_ms: i64,
    pub crop: &'a [u8],
}

/// Adds the row of an enrolled picture, unless one with these bytes is there. Returns the new row.
pub(super) fn insert_picture_row(
    connection: &Connection,
    picture: &PictureRow<'_>,
) -> rusqlite::Result<Option<i64>> {
    let added = connection
        .prepare_cached(
            "INSERT OR IGNORE INTO person_images
                    (person_id, image_name, sha256, bounds, quality, created_at_ms, crop)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            picture.person,
            picture.image_name,
            picture.sha256,
            serde_json::json!(picture.bounds).to_string(),
            picture.quality,
            picture.created_at_ms,
            picture.crop
        ])?;
    Ok((added > 0).then(|| connection.last_insert_rowid()))
}

fn insert_embedding(
    connection: &Connection,
    row: i64,
    space: &str,
    vector: &[f32],
) -> rusqlite::Result<()> {
    // A picture erased while it was being embedded again is skipped.
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO person_embeddings (person_image_id, space, vector)
             SELECT id, ?2, ?3 FROM person_images WHERE id = ?1",
        )?
        .execute(params![row, space, vector_to_blob(vector)])
        .map(|_| ())
}

/// Returns the person of a name in any spelling.
pub(super) fn person_named(
    connection: &Connection,
    name: &str,
) -> rusqlite::Result<Option<PersonId>> {
    let sql = "SELECT id FROM person WHERE folded = ?1";
    connection
        .prepare_cached(sql)?
        .query_row([names::fold(name)], |row| row.get(0))
        .optional()
}

/// Returns the person of a name, created if needed, and the name as stored.
pub(super) fn person_row(
    connection: &Connection,
    name: &str,
) -> rusqlite::Result<(PersonId, String)> {
    let id = match person_named(connection, name)? {
        Some(id) => id,
        None => {
            connection
                .prepare_cached(
                    "INSERT INTO person (name, created_at_ms, uid) VALUES (?1, ?2, randomblob(16))",
                )?
                .execute(params![name, wall_clock_ms()])?;
            let id = connection.last_insert_rowid();
            write_name(connection, id, name)?;
            id
        }
    };
    let stored = "SELECT name FROM person WHERE id = ?1";
    Ok((
        id,
        connection
            .prepare_cached(stored)?
            .query_row([id], |row| row.get(0))?,
    ))
}

/// Writes a person's name and its derived columns. Returns the number of changed rows.
pub(super) fn write_name(
    connection: &Connection,
    id: PersonId,
    name: &str,
) -> rusqlite::Result<usize> {
    // A level derived from a name alone never contains two hyphens, so this suffix is unique.
    let level = names::topic_level(name);
    let (level, alone) = if level.is_empty() {
        ("person", false)
    } else {
        (level.as_str(), true)
    };
    connection
        .prepare_cached(
            "UPDATE person SET name = ?2, folded = ?3, base = ?4,
                    topic = iif(?6 AND NOT EXISTS (SELECT 1 FROM person WHERE topic = ?5 AND id <> ?1), ?5, ?5 || '--' || ?1)
              WHERE id = ?1",
        )?
        .execute(params![id, name, names::fold(name), names::base(name), level, alone])
}

/// Brings names that another program or an earlier version wrote, or compared in another form, to
/// the stored form. When two people's names become equal, the later one gets a number appended:
/// only the operator knows whether they are the same person.
pub fn complete_names(connection: &Connection) -> rusqlite::Result<()> {
    let mut left: Vec<(PersonId, String, Option<String>)> = connection
        .prepare("SELECT id, name, folded FROM person ORDER BY id")?
        .query_map([], |row| {
            Ok((row.get(0)?, text(row, 1)?, text_if_any(row, 2)?))
        })?
        .collect::<Result<_, _>>()?;
    left.retain(|(_, name, folded)| folded.as_ref() != Some(&names::fold(name)));
    // Names already in stored form come first and keep it.
    left.sort_by_key(|(_, name, _)| names::clean(name) != *name);
    for (id, name, _) in left {
        let cleaned = names::of_person(&name).unwrap_or_else(|_| format!("Person {id}"));
        let mut own = cleaned.clone();
        let mut number = 1;
        while connection
            .prepare_cached("SELECT 1 FROM person WHERE (folded = ?1 OR name = ?2) AND id <> ?3")?
            .exists(params![names::fold(&own), own, id])?
        {
            number += 1;
            let beginning: String = cleaned.chars().take(190).collect();
            own = format!("{beginning} ({number})");
        }
        if number > 1 {
            tracing::warn!(
                "person {id} had the name of another person in another spelling; kithd appended a \
                 number to it"
            );
        }
        write_name(connection, id, &own)?;
        let pictures: Vec<(i64, String)> = connection
            .prepare_cached("SELECT id, image_name FROM person_images WHERE person_id = ?1")?
            .query_map([id], |row| Ok((row.get(0)?, text(row, 1)?)))?
            .collect::<Result<_, _>>()?;
        for (picture, image_name) in pictures
            .iter()
            .filter(|(_, name)| names::of_picture(name) != *name)
        {
            connection
                .prepare_cached("UPDATE person_images SET image_name = ?2 WHERE id = ?1")?
                .execute(params![picture, names::of_picture(image_name)])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{enroll, rows, run, store};
    use super::*;

    #[tokio::test]
    async fn one_name_is_one_person_however_it_is_spelled() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let spellings = [
            ["Eileen", "EILEEN"],
            ["José", "JOSE\u{301}"],
            ["Strauß", "strauss"],
            ["Łukasz", "łukasz"],
            ["Ｊｏｅ", "joe"],
            ["O\u{2019}Brien", "O'BRIEN"],
            ["Jean\u{2011}Luc", "Jean-Luc"],
        ];
        for (number, [first, second]) in spellings.iter().enumerate() {
            let id = enroll(&store, first, &format!("{number} a"), [1.0, 0.0]).await;
            assert_eq!(
                enroll(&store, second, &format!("{number} b"), [1.0, 0.0]).await,
                id,
                "{first} {second}"
            );
            let person = store.person(id).await.unwrap().unwrap();
            assert_eq!((person.name.as_str(), person.pictures), (*first, 2));
        }
        let jose = store
            .person_named("jose\u{301} ".into())
            .await
            .unwrap()
            .unwrap();
        let refused = store.rename_person(jose, "EILEEN".into()).await.unwrap();
        assert!(matches!(refused, PersonChange::Refused(_)), "{refused:?}");
        assert_eq!(
            store.rename_person(jose, "JOSÉ".into()).await.unwrap(),
            PersonChange::Done
        );
        assert_eq!(store.person(jose).await.unwrap().unwrap().name, "JOSÉ");
        // A key that an earlier version made is made anew at the start.
        let brien = store.person_named("O'Brien".into()).await.unwrap();
        let earlier = "UPDATE person SET folded = 'o\u{2019}brien' WHERE name LIKE 'O%Brien'";
        run(&store, earlier).await;
        assert_eq!(store.person_named("O'Brien".into()).await.unwrap(), None);
        store.close().await;
        let (store, _) = Store::open(folder.path()).unwrap();
        assert_eq!(store.person_named("O'Brien".into()).await.unwrap(), brien);
        assert_eq!(
            rows(&store, "SELECT count(*) || '' FROM person").await,
            ["7"]
        );
    }

    #[tokio::test]
    async fn people_are_found_and_listed_by_their_letters() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        for (number, name) in ["Zz", "Ärger", "Öztürk", "Müller", "bob", "Arndt", "İbrahim"]
            .iter()
            .enumerate()
        {
            enroll(&store, name, &number.to_string(), [1.0, 0.0]).await;
        }
        let all: Vec<_> = store
            .read(people)
            .await
            .unwrap()
            .into_iter()
            .map(|person| person.name)
            .collect();
        assert_eq!(
            all,
            ["Ärger", "Arndt", "bob", "İbrahim", "Müller", "Öztürk", "Zz"]
        );
        for (text, name) in [
            ("MÜLLER", "Müller"),
            ("mu\u{308}l", "Müller"),
            ("oztur", "Öztürk"),
            (" IBRAHIM\u{200b}", "İbrahim"),
        ] {
            let found = store.people_named(text, None, 9).await.unwrap();
            assert_eq!(
                found
                    .iter()
                    .map(|person| person.name.as_str())
                    .collect::<Vec<_>>(),
                [name],
                "{text}"
            );
        }
        let after = store
            .person_named("arndt".into())
            .await
            .unwrap()
            .map(|id| ("Arndt".to_string(), id));
        assert_eq!(
            store.people_named("", after, 2).await.unwrap()[0].name,
            "bob"
        );
        assert!(store.people_named("%", None, 9).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn two_names_of_one_topic_are_told_apart_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let ann = enroll(&store, "Ann Lee", "a", [1.0, 0.0]).await;
        let hyphen = enroll(&store, "Ann-Lee", "b", [1.0, 0.0]).await;
        let number = enroll(&store, &format!("Ann Lee {hyphen}"), "c", [1.0, 0.0]).await;
        let nameless = enroll(&store, "+/#", "d", [1.0, 0.0]).await;
        let topic = async |id| store.person_topic(id).await.unwrap();
        assert_eq!(topic(ann).await.unwrap(), "ann-lee");
        assert_eq!(topic(hyphen).await.unwrap(), format!("ann-lee--{hyphen}"));
        assert_eq!(topic(number).await.unwrap(), format!("ann-lee-{hyphen}"));
        assert_eq!(
            topic(nameless).await.unwrap(),
            format!("person--{nameless}")
        );
        store.erase_person(ann).await.unwrap();
        assert_eq!(topic(ann).await, None);
        assert_eq!(topic(hyphen).await.unwrap(), format!("ann-lee--{hyphen}"));
    }

    #[tokio::test]
    async fn names_of_an_earlier_version_are_brought_to_the_stored_form() {
        let folder = tempfile::tempdir().unwrap();
        let earlier = store(folder.path()).await;
        let names = ["Joe ", "Joe", "JOE", "Jose\u{301}", "\u{200b}"];
        for (id, name) in (1..).zip(names) {
            let row = format!(
                "INSERT INTO person (id, name, created_at_ms, uid) VALUES ({id}, '{name}', 1, x'0{id}')"
            );
            run(&earlier, &row).await;
        }
        earlier.close().await;
        let store = store(folder.path()).await;
        let named = rows(
            &store,
            "SELECT id || ' ' || name || ' ' || topic FROM person ORDER BY id",
        )
        .await;
        assert_eq!(
            named,
            [
                "1 Joe (3) joe-3",
                "2 Joe joe",
                "3 JOE (2) joe-2",
                "4 José josé",
                "5 Person 5 person-5"
            ]
        );
        assert_eq!(
            store.person_named("jose\u{301}".into()).await.unwrap(),
            Some(4)
        );
    }
}
