//! SQL of people and the pictures they were enrolled from.

use rusqlite::{Connection, OptionalExtension, Row, params};

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
    /// The same bytes are enrolled already, for this person.
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
            let holder: Option<String> = connection
                .query_row(
                    "SELECT person.name FROM person_images pi JOIN person ON person.id = pi.person_id
                      WHERE pi.sha256 = ?1",
                    [&picture.sha256],
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(person) = holder {
                return Ok(EnrolledFace::AlreadyThere { person });
            }
            let now = wall_clock_ms();
            let id = person_row(connection, &person)?;
            connection.execute(
                "INSERT INTO person_images (person_id, image_name, sha256, file, bounds, quality, created_at_ms, crop)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    id,
                    picture.image_name,
                    picture.sha256,
                    picture.file,
                    serde_json::json!(picture.bounds).to_string(),
                    picture.quality,
                    now,
                    picture.crop
                ],
            )?;
            let row = connection.last_insert_rowid();
            insert_embedding(connection, row, &picture.space, &picture.embedding)?;
            Ok(EnrolledFace::Added)
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
        self.read(|connection| {
            let mut statement = connection.prepare_cached(&format!("{PERSON} ORDER BY name COLLATE NOCASE, id"))?;
            statement.query_map([], person)?.collect()
        })
        .await
    }

    /// Everybody's number and name, by name: to choose from.
    pub async fn person_names(&self) -> Result<Vec<(PersonId, String)>, StoreError> {
        self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT id, name FROM person ORDER BY name COLLATE NOCASE, id")?;
            statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }

    /// Those with this text in their name, by name, without the first `from`.
    pub async fn people_named(&self, text: String, from: usize, limit: usize) -> Result<Vec<PersonRow>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "{PERSON} WHERE person.id IN (SELECT id FROM person WHERE instr(lower(name), lower(?1)) > 0
                    ORDER BY name COLLATE NOCASE, id LIMIT ?2 OFFSET ?3)
                  ORDER BY name COLLATE NOCASE, person.id"
            ))?;
            statement.query_map(params![text, limit as i64, from as i64], person)?.collect()
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
fn person_row(connection: &Connection, name: &str) -> rusqlite::Result<PersonId> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO person (name, created_at_ms, uid) VALUES (?1, ?2, randomblob(16))")?
        .execute(params![name, wall_clock_ms()])?;
    connection.prepare_cached("SELECT id FROM person WHERE name = ?1")?.query_row([name], |row| row.get(0))
}
