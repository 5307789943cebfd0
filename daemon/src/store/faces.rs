//! SQL of stored faces: named, relabelled, marked as not a person.

use rusqlite::{Connection, Row, params};

use super::clustering::{GROUP_AGAIN, to_group_again};
use super::facts::store_fact;
use super::people::{holder, insert_picture, person_row};
use super::{
    Commit, EnrolledPicture, Store, StoreError, StrangerId, blob_to_vector, sightings,
    vector_to_blob,
};
use crate::domain::{ImageId, Outcome, PersonId, wall_clock_ms};
use crate::names;

/// A face as it was stored with its image.
#[derive(Debug, Clone)]
pub struct StoredFace {
    /// Path of the image, as the sender named it.
    pub path: String,
    /// Person it was matched to.
    pub person_id: Option<PersonId>,
    /// Candidates, nearest first.
    pub candidates: Vec<(PersonId, Option<f32>)>,
    /// Quality, 0 to 1.
    pub quality: f32,
    /// Embedding space of `embedding`.
    pub space: String,
    /// Embedding; empty when erased.
    pub embedding: Vec<f32>,
    /// Aligned crop, JPEG; empty when erased.
    pub crop: Vec<u8>,
    /// The image that contains it.
    pub image_id: ImageId,
    /// Number of the face in its image.
    pub number: u32,
}

/// A face of an image that is, or may be, a person.
#[derive(Debug, Clone, Copy)]
pub struct PersonBeside {
    /// Number of the face in its image.
    pub number: u32,
    /// The person.
    pub person_id: PersonId,
    /// True if it is the person; false if it may be.
    pub known: bool,
}

/// New outcome of a face.
#[derive(Debug, Clone)]
pub struct Relabel {
    /// The image that contains it.
    pub image_id: ImageId,
    /// Number of the face in its image.
    pub number: u32,
    /// New outcome.
    pub outcome: Outcome,
    /// Person, if known or uncertain.
    pub person_id: Option<PersonId>,
    /// Distance to the nearest enrolled picture.
    pub distance: Option<f32>,
    /// Additional distance to the next person.
    pub margin: Option<f32>,
    /// Candidates, nearest first.
    pub candidates: Vec<(PersonId, Option<f32>)>,
}

/// A face that an operator said is not this person.
#[derive(Debug, Clone)]
pub struct CounterExample {
    /// Row.
    pub id: i64,
    /// Person it is not.
    pub person_id: PersonId,
    /// Embedding in the requested space; empty when damaged.
    pub embedding: Vec<f32>,
}

/// Operators' changes to strangers and matched faces.
impl Store {
    /// Returns the best enrollable faces among a group's newest, best first.
    pub async fn best_stranger_faces(
        &self,
        id: StrangerId,
        space: String,
        limit: usize,
    ) -> Result<Vec<StoredFace>, StoreError> {
        self.faces_where(
            format!(
                "(f.image_id, f.number) IN (SELECT image_id, number FROM stranger_faces WHERE stranger_id = ?1
                     ORDER BY image_id DESC LIMIT 1000)
                 AND f.space = ?2 AND length(f.embedding) > 0 AND length(f.crop) > 0
                 ORDER BY f.quality DESC, f.image_id DESC LIMIT {limit}"
            ),
            (id, space),
        )
        .await
    }

    /// Names a group as a person, new or old, and enrols these pictures; the group's faces are
    /// still to be relabelled. Returns the person and how many of the pictures they have. `None`
    /// when there is no such group. The inner error names the person who has the first picture when
    /// other people have all of them.
    pub async fn name_stranger(
        &self,
        id: StrangerId,
        name: String,
        pictures: Vec<EnrolledPicture>,
    ) -> Result<Result<Option<(PersonId, usize)>, String>, StoreError> {
        self.write(Commit::Durable, move |connection| {
            let there = connection
                .prepare_cached("SELECT 1 FROM strangers WHERE id = ?1 AND person_id IS NULL")?
                .exists([id])?;
            if !there {
                return Ok(Ok(None));
            }
            let holders = pictures.iter().map(|picture| holder(connection, &picture.sha256));
            let holders = holders.collect::<rusqlite::Result<Vec<_>>>()?;
            let others = holders.iter().flatten().filter(|holder| names::fold(holder) != names::fold(&name));
            if let (Some(Some(first)), true) = (holders.first(), others.count() == holders.len()) {
                return Ok(Err(first.clone()));
            }
            let (person, _) = person_row(connection, &name)?;
            let mut theirs = 0;
            for picture in &pictures {
                theirs += usize::from(insert_picture(connection, person, picture)?);
            }
            connection
                .prepare_cached("UPDATE strangers SET person_id = ?2 WHERE id = ?1")?
                .execute(params![id, person])?;
            sightings::name_stranger(connection, id, person)?;
            // Counter-examples that reject a face of the group for this person no longer hold.
            connection
                .prepare_cached(
                    "DELETE FROM counter_examples WHERE person_id = ?2 AND EXISTS (
                        SELECT 1 FROM stranger_faces m JOIN faces f ON f.image_id = m.image_id AND f.number = m.number
                         WHERE m.stranger_id = ?1 AND ((length(f.crop) > 0 AND f.crop = counter_examples.crop)
                            OR (f.space = counter_examples.space AND f.embedding = counter_examples.vector)))",
                )?
                .execute(params![id, person])?;
            Ok(Ok(Some((person, theirs))))
        })
        .await
    }

    /// Returns named groups and their person while faces are still to be relabelled.
    pub async fn named_strangers(&self) -> Result<Vec<(StrangerId, PersonId)>, StoreError> {
        self.write(Commit::None, |connection| {
            let mut named = connection.prepare_cached(
                "SELECT id, person_id FROM strangers WHERE person_id IS NOT NULL ORDER BY id",
            )?;
            named
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }

    /// Returns some of the faces of a group.
    pub async fn some_stranger_faces(
        &self,
        id: StrangerId,
        limit: usize,
    ) -> Result<Vec<StoredFace>, StoreError> {
        self.settle().await?;
        self.faces_where(
            format!(
                "(f.image_id, f.number) IN (SELECT image_id, number FROM stranger_faces WHERE stranger_id = ?1 LIMIT {limit})
                 AND ?2 = ''"
            ),
            (id, String::new()),
        )
        .await
    }

    /// Returns one face.
    pub async fn stored_face(
        &self,
        image: ImageId,
        number: u32,
    ) -> Result<Option<StoredFace>, StoreError> {
        let found = self
            .faces_where("f.image_id = ?1 AND f.number = ?2".into(), (image, number))
            .await?;
        Ok(found.into_iter().next())
    }

    /// Returns the other faces of an image that are, or may be, a person.
    pub async fn people_beside(
        &self,
        image: ImageId,
        number: u32,
    ) -> Result<Vec<PersonBeside>, StoreError> {
        self.read(move |connection| {
            let mut beside = connection.prepare_cached(
                "SELECT number, person_id, outcome = ?3 FROM faces
                  WHERE image_id = ?1 AND number <> ?2 AND person_id IS NOT NULL ORDER BY number",
            )?;
            let row = |row: &Row<'_>| {
                Ok(PersonBeside {
                    number: row.get(0)?,
                    person_id: row.get(1)?,
                    known: row.get(2)?,
                })
            };
            beside
                .query_map(params![image, number, Outcome::Known.as_str()], row)?
                .collect()
        })
        .await
    }

    async fn faces_where(
        &self,
        condition: String,
        values: impl rusqlite::Params + Send + 'static,
    ) -> Result<Vec<StoredFace>, StoreError> {
        self.read(move |connection| {
            let sql = format!(
                "SELECT i.path, f.person_id, f.candidates, f.quality, f.space, f.embedding, f.crop,
                        f.image_id, f.number
                   FROM faces f JOIN images i ON i.id = f.image_id WHERE {condition}"
            );
            connection
                .prepare_cached(&sql)?
                .query_map(values, stored_face)?
                .collect()
        })
        .await
    }

    /// Gives faces another outcome, and their images the best one of their faces. An erased person
    /// is never assigned.
    pub async fn relabel(&self, faces: Vec<Relabel>) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            faces.iter().try_for_each(|face| relabel(connection, face))
        })
        .await
    }

    /// Enrols a stored face for a person, new or old, and labels it; `None` when the face is gone.
    /// The inner error names the person who has this very picture.
    pub async fn enroll_face(
        &self,
        name: String,
        picture: EnrolledPicture,
        mut face: Relabel,
    ) -> Result<Result<Option<PersonId>, String>, StoreError> {
        self.write(Commit::Durable, move |connection| {
            if let Some(holder) = holder(connection, &picture.sha256)?
                && names::fold(&holder) != names::fold(&name)
            {
                return Ok(Err(holder));
            }
            let there = connection
                .prepare_cached("SELECT 1 FROM faces WHERE image_id = ?1 AND number = ?2")?
                .exists(params![face.image_id, face.number])?;
            if !there {
                return Ok(Ok(None));
            }
            let (person, _) = person_row(connection, &name)?;
            insert_picture(connection, person, &picture)?;
            face.person_id = Some(person);
            face.candidates.retain(|candidate| candidate.0 != person);
            face.candidates.insert(0, (person, Some(0.0)));
            face.margin = face.candidates.get(1).and_then(|next| next.1);
            relabel(connection, &face)?;
            Ok(Ok(Some(person)))
        })
        .await
    }

    /// Marks a group as ignored or not; false when there is no such group.
    pub async fn ignore_stranger(&self, id: StrangerId, ignored: bool) -> Result<bool, StoreError> {
        self.write(Commit::Durable, move |connection| {
            let set = connection
                .prepare_cached("UPDATE strangers SET ignored = ?2 WHERE id = ?1")?
                .execute(params![id, ignored])?;
            Ok(set > 0)
        })
        .await
    }

    /// Notes that a face is not a person, and removes its crop, by its sum, from their enrolled
    /// pictures.
    pub async fn add_counter_example(
        &self,
        person: PersonId,
        space: String,
        embedding: Vec<f32>,
        crop: Vec<u8>,
        sha256: String,
    ) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms)
                     SELECT id, ?2, ?3, ?4, ?5 FROM person WHERE id = ?1",
                )?
                .execute(params![
                    person,
                    space,
                    vector_to_blob(&embedding),
                    crop,
                    wall_clock_ms()
                ])?;
            connection
                .prepare_cached("DELETE FROM person_images WHERE person_id = ?1 AND sha256 = ?2")?
                .execute(params![person, sha256])
                .map(drop)
        })
        .await
    }

    /// Returns the counter-examples of one embedding space.
    pub async fn counter_examples(&self, space: String) -> Result<Vec<CounterExample>, StoreError> {
        self.read(move |connection| counter_examples(connection, &space))
            .await
    }

    /// Returns crops of counter-examples of other spaces, to be embedded again.
    pub async fn counter_examples_elsewhere(
        &self,
        space: String,
    ) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        self.read(move |connection| {
            let mut elsewhere = connection
                .prepare("SELECT id, crop FROM counter_examples WHERE space <> ?1 ORDER BY id")?;
            elsewhere
                .query_map([space], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }

    /// Gives counter-examples their embedding in another space.
    pub async fn reembed_counter_examples(
        &self,
        space: String,
        vectors: Vec<(i64, Vec<f32>)>,
    ) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            let mut again = connection.prepare_cached(
                "UPDATE counter_examples SET space = ?2, vector = ?3 WHERE id = ?1",
            )?;
            vectors.iter().try_for_each(|(id, vector)| {
                again
                    .execute(params![id, space, vector_to_blob(vector)])
                    .map(drop)
            })
        })
        .await
    }
}

/// Returns the counter-examples through the caller's own connection, for commands that open the
/// file read-only.
pub fn counter_examples(
    connection: &Connection,
    space: &str,
) -> rusqlite::Result<Vec<CounterExample>> {
    let mut statement = connection.prepare(
        "SELECT id, person_id, vector FROM counter_examples WHERE space = ?1 ORDER BY id",
    )?;
    let example = |row: &Row<'_>| {
        let vector: Vec<u8> = row.get(2)?;
        Ok(CounterExample {
            id: row.get(0)?,
            person_id: row.get(1)?,
            embedding: blob_to_vector(&vector),
        })
    };
    statement.query_map([space], example)?.collect()
}

fn relabel(connection: &Connection, face: &Relabel) -> rusqlite::Result<()> {
    let relabelled = connection
        .prepare_cached(
            "UPDATE faces SET outcome = ?3, person_id = ?4, distance = ?5, margin = ?6, candidates = ?7
              WHERE image_id = ?1 AND number = ?2 AND (?4 IS NULL OR EXISTS (SELECT 1 FROM person WHERE id = ?4))",
        )?
        .execute(params![
            face.image_id,
            face.number,
            face.outcome.as_str(),
            face.person_id,
            face.distance,
            face.margin,
            serde_json::json!(face.candidates).to_string()
        ])?;
    if relabelled > 0 {
        if face.outcome == Outcome::Unknown {
            let mut again = to_group_again(connection)?;
            again.push(face.image_id);
            store_fact(
                connection,
                GROUP_AGAIN,
                &serde_json::json!(again).to_string(),
            )?;
        }
        connection
            .prepare_cached(
                "UPDATE images SET outcome = (SELECT outcome FROM faces WHERE image_id = ?1 ORDER BY
                        CASE outcome WHEN 'known' THEN 0 WHEN 'uncertain' THEN 1 ELSE 2 END LIMIT 1)
                  WHERE id = ?1 AND state = 'processed'",
            )?
            .execute([face.image_id])?;
    }
    Ok(())
}

fn stored_face(row: &Row<'_>) -> rusqlite::Result<StoredFace> {
    let (candidates, embedding): (String, Vec<u8>) = (row.get(2)?, row.get(5)?);
    Ok(StoredFace {
        path: row.get(0)?,
        person_id: row.get(1)?,
        candidates: serde_json::from_str(&candidates).unwrap_or_default(),
        quality: row.get(3)?,
        space: row.get(4)?,
        embedding: blob_to_vector(&embedding),
        crop: row.get(6)?,
        image_id: row.get(7)?,
        number: row.get(8)?,
    })
}
