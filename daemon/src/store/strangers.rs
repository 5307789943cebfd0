//! SQL of strangers: unknown faces grouped by likeness. `people::strangers` decides which face
//! belongs to which group.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use super::facts::store_fact;
use super::people::{holder, insert_picture, person_row};
use super::{EnrolledPicture, Store, StoreError, Urgency, blob_to_vector, vector_to_blob};
use crate::domain::{ImageId, Outcome, PersonId, wall_clock_ms};
use crate::names;

/// Number of a group; never used twice.
pub type StrangerId = i64;

/// A group of unknown faces.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct StrangerRow {
    /// Number of the group.
    pub id: StrangerId,
    /// Number of faces.
    pub faces: u32,
    /// First face, wall clock.
    pub first_seen_ms: i64,
    /// Latest face, wall clock.
    pub last_seen_ms: i64,
    /// The newest image with a face of the group.
    pub last_image: ImageId,
    /// An operator marked the group as irrelevant.
    pub ignored: bool,
    /// The best face that can be shown.
    pub best: Option<StrangerFace>,
}

/// A face of a group.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub struct StrangerFace {
    /// The image that contains it.
    pub image_id: ImageId,
    /// Number of the face in its image.
    pub number: u32,
    /// Quality, 0 to 1.
    pub quality: f64,
    /// Acceptance of the image, wall clock.
    pub accepted_at_ms: i64,
    /// It can be shown.
    pub crop: bool,
}

/// An unknown face that is in no group yet.
#[derive(Debug, Clone)]
pub struct UngroupedFace {
    /// The image that contains it.
    pub image_id: ImageId,
    /// Number of the face in its image.
    pub number: u32,
    /// Quality, 0 to 1.
    pub quality: f32,
    /// Acceptance of the image, wall clock.
    pub accepted_at_ms: i64,
    /// Embedding space of `embedding`.
    pub space: String,
    /// Embedding in `space`.
    pub embedding: Vec<f32>,
    /// Aligned crop, JPEG.
    pub crop: Vec<u8>,
}

/// Centroid of a group, as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StrangerShape {
    /// Sum of the embeddings that count.
    pub total: Vec<f32>,
    /// Number of those embeddings; 0 after a face has left the group, until the sum is computed
    /// again.
    pub weight: u32,
}

/// A face that joins a group, or founds one.
#[derive(Debug, Clone)]
pub struct Joining {
    /// The image that contains it.
    pub image_id: ImageId,
    /// Number of the face in its image.
    pub number: u32,
    /// Acceptance of the image, wall clock.
    pub accepted_at_ms: i64,
    /// Embedding space of face and group.
    pub space: String,
    /// The group with its current weight; `None` founds a new one.
    pub group: Option<(StrangerId, u32)>,
    /// Centroid of the group from now on.
    pub shape: StrangerShape,
}

/// Outcome of joining a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// The face belongs to this group now.
    Group(StrangerId),
    /// The face is gone, known by now, or in a group already.
    NoStranger,
    /// The group is gone, named by now, or has lost a face.
    GroupChanged,
}

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

/// Fact that holds the newest result whose strangers are grouped.
const GROUPED_UPTO: &str = "strangers_upto";
/// Fact that holds images whose unknown faces are to be grouped again.
const GROUP_AGAIN: &str = "strangers_again";

const STRANGER: &str =
    "SELECT id, faces, first_seen_ms, last_seen_ms, ignored, last_image FROM strangers";
const FACE: &str = "
    SELECT m.image_id, m.number, f.quality, i.accepted_at_ms, length(f.crop) > 0
      FROM stranger_faces m JOIN faces f ON f.image_id = m.image_id AND f.number = m.number
      JOIN images i ON i.id = m.image_id WHERE m.stranger_id = ?1";
/// Newest faces among which the best is shown: a group may have thousands.
const LOOKED_AT: usize = 5;

impl Store {
    /// Returns groups with a face, latest first, below the cursor `before` (newest image, number).
    pub async fn stranger_groups(
        &self,
        ignored: bool,
        before: Option<(ImageId, StrangerId)>,
        limit: usize,
    ) -> Result<Vec<StrangerRow>, StoreError> {
        self.read_dear(move |connection| {
            let (last_image, id) = before.unwrap_or((i64::MAX, i64::MAX));
            let mut statement = connection.prepare_cached(&format!(
                "{STRANGER} WHERE ignored = ?1 AND (last_image, id) < (?2, ?3) AND faces > 0 AND person_id IS NULL
                  ORDER BY last_image DESC, id DESC LIMIT ?4"
            ))?;
            let rows = statement.query_map(params![ignored, last_image, id, limit as i64], stranger)?;
            let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
            for row in &mut rows {
                row.best = best(connection, row.id)?;
            }
            Ok(rows)
        })
        .await
    }

    /// Returns one group.
    pub async fn stranger(&self, id: StrangerId) -> Result<Option<StrangerRow>, StoreError> {
        self.read(move |connection| {
            let found = connection
                .prepare_cached(&format!("{STRANGER} WHERE id = ?1"))?
                .query_row([id], stranger)
                .optional()?;
            let Some(mut row) = found else {
                return Ok(None);
            };
            row.best = best(connection, id)?;
            Ok(Some(row))
        })
        .await
    }

    /// Returns faces of a group in images below `before`, newest image first.
    pub async fn stranger_faces(
        &self,
        id: StrangerId,
        before: Option<ImageId>,
        limit: usize,
    ) -> Result<Vec<StrangerFace>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "{FACE} AND m.image_id < ?2 ORDER BY m.image_id DESC, m.number LIMIT ?3"
            ))?;
            statement
                .query_map(params![id, before.unwrap_or(i64::MAX), limit as i64], face)?
                .collect()
        })
        .await
    }
}

/// Queries and changes of the background task.
impl Store {
    /// Returns the newest result whose strangers are grouped.
    pub async fn grouped_upto(&self) -> Result<i64, StoreError> {
        Ok(self
            .fact(GROUPED_UPTO)
            .await?
            .and_then(|text| text.parse().ok())
            .unwrap_or(0))
    }

    /// Stores the newest result whose strangers are grouped.
    pub async fn set_grouped_upto(&self, result: i64) -> Result<(), StoreError> {
        self.write(Urgency::Note, move |connection| {
            store_fact(connection, GROUPED_UPTO, &result.to_string())
        })
        .await
    }

    /// Returns ungrouped unknown faces of at least `quality` in the next results, and the last
    /// result examined, `None` at the end.
    pub async fn ungrouped(
        &self,
        after: i64,
        quality: f32,
        limit: usize,
    ) -> Result<(Vec<UngroupedFace>, Option<i64>), StoreError> {
        self.read(move |connection| {
            let results: Vec<(i64, ImageId)> = connection
                .prepare_cached(
                    "SELECT id, image_id FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2",
                )?
                .query_map(params![after, limit as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?
                .collect::<Result<_, _>>()?;
            let images = results.iter().map(|(_, image)| *image);
            Ok((
                ungrouped_in(connection, images, quality)?,
                results.last().map(|(result, _)| *result),
            ))
        })
        .await
    }

    /// Returns ungrouped unknown faces of at least `quality` in these images.
    pub async fn ungrouped_in(
        &self,
        images: Vec<ImageId>,
        quality: f32,
    ) -> Result<Vec<UngroupedFace>, StoreError> {
        self.read(move |connection| ungrouped_in(connection, images, quality))
            .await
    }

    /// Returns images with faces that became unknown because an operator rejected their person.
    pub async fn to_group_again(&self) -> Result<Vec<ImageId>, StoreError> {
        self.read(to_group_again).await
    }

    /// Drops the first `count` images from the list to group again. Counted by position: an image
    /// may have been listed again since.
    pub async fn grouped_again(&self, count: usize) -> Result<(), StoreError> {
        self.write(Urgency::Note, move |connection| {
            let left: Vec<_> = to_group_again(connection)?
                .into_iter()
                .skip(count)
                .collect();
            store_fact(
                connection,
                GROUP_AGAIN,
                &serde_json::json!(left).to_string(),
            )
        })
        .await
    }

    /// Returns every group of a space with its centroid.
    pub async fn stranger_shapes(
        &self,
        space: String,
    ) -> Result<Vec<(StrangerId, StrangerShape)>, StoreError> {
        // Readers do not see uncommitted rows, so commit them first.
        self.write(Urgency::Now, |_| Ok(())).await?;
        self.read(move |connection| {
            let mut shapes = connection.prepare(
                "SELECT id, total, weight FROM strangers WHERE space = ?1 AND person_id IS NULL ORDER BY id",
            )?;
            let shape = |row: &Row<'_>| {
                let total: Vec<u8> = row.get(1)?;
                Ok((row.get(0)?, StrangerShape { total: blob_to_vector(&total), weight: row.get(2)? }))
            };
            shapes.query_map([space], shape)?.collect()
        })
        .await
    }

    /// Has the centroid of a group with a damaged sum computed again.
    pub async fn sum_stranger_up_again(&self, id: StrangerId) -> Result<(), StoreError> {
        self.write(Urgency::Note, move |connection| {
            connection
                .prepare_cached("UPDATE strangers SET total = x'', weight = 0 WHERE id = ?1")?
                .execute([id])
                .map(drop)
        })
        .await
    }

    /// Returns the number of unnamed groups.
    pub async fn stranger_count(&self) -> Result<usize, StoreError> {
        self.write(Urgency::Look, |connection| {
            connection
                .prepare_cached(
                    "SELECT (SELECT count(*) FROM strangers) - (SELECT count(*) FROM strangers WHERE person_id IS NOT NULL)",
                )?
                .query_row([], |row| row.get(0))
        })
        .await
    }

    /// Returns the numbers of unnamed groups.
    pub async fn stranger_ids(&self) -> Result<HashSet<StrangerId>, StoreError> {
        self.write(Urgency::Look, |connection| {
            let mut ids = connection.prepare_cached(
                "SELECT id FROM strangers INDEXED BY strangers_seen WHERE ignored IN (0, 1)
                 EXCEPT SELECT id FROM strangers INDEXED BY strangers_named WHERE person_id IS NOT NULL",
            )?;
            ids.query_map([], |row| row.get(0))?.collect()
        })
        .await
    }

    /// Returns groups that have lost a face since their sum was computed.
    pub async fn strangers_left(
        &self,
        space: String,
        limit: usize,
    ) -> Result<Vec<StrangerId>, StoreError> {
        self.write(Urgency::Look, move |connection| {
            let mut left = connection.prepare_cached(
                "SELECT id FROM strangers WHERE weight = 0 AND space = ?1 AND person_id IS NULL ORDER BY id LIMIT ?2",
            )?;
            left.query_map(params![space, limit as i64], |row| row.get(0))?.collect()
        })
        .await
    }

    /// Recomputes a group's centroid with `shape` from the embeddings of its newest faces: those of
    /// sufficient quality, or else the newest face alone. Drops a group without usable embeddings.
    pub async fn reshape_stranger(
        &self,
        id: StrangerId,
        space: String,
        quality: f32,
        limit: u32,
        shape: impl Fn(&[Vec<f32>]) -> Option<StrangerShape> + Send + 'static,
    ) -> Result<Option<StrangerShape>, StoreError> {
        self.write(Urgency::Note, move |connection| {
            let mut newest = connection.prepare_cached(
                "SELECT f.embedding FROM stranger_faces m JOIN faces f ON f.image_id = m.image_id AND f.number = m.number
                  WHERE m.stranger_id = ?1 AND f.space = ?2 AND f.quality >= ?3 AND length(f.embedding) > 0
                  ORDER BY m.image_id DESC, m.number LIMIT ?4",
            )?;
            let mut vectors = |quality: f32, limit: u32| -> rusqlite::Result<Vec<Vec<f32>>> {
                let vector = |row: &Row<'_>| row.get::<_, Vec<u8>>(0).map(|blob| blob_to_vector(&blob));
                let found = newest.query_map(params![id, space, quality, limit], vector)?;
                // Damaged embeddings are skipped.
                found.filter(|vector| !vector.as_ref().is_ok_and(Vec::is_empty)).collect()
            };
            let mut found = vectors(quality, limit)?;
            if found.is_empty() {
                found = vectors(0.0, 1)?;
            }
            let Some(shape) = shape(&found) else {
                connection.prepare_cached("DELETE FROM strangers WHERE id = ?1")?.execute([id])?;
                return Ok(None);
            };
            connection
                .prepare_cached("UPDATE strangers SET total = ?2, weight = ?3 WHERE id = ?1")?
                .execute(params![id, vector_to_blob(&shape.total), shape.weight])?;
            Ok(Some(shape))
        })
        .await
    }

    /// Puts a face into a group, if neither has changed since.
    pub async fn join_stranger(&self, face: Joining) -> Result<Joined, StoreError> {
        self.write(Urgency::Note, move |connection| join(connection, &face))
            .await
    }

    /// Merges two groups under the lower number. The result is ignored if either was.
    pub async fn merge_strangers(
        &self,
        (one, weight): (StrangerId, u32),
        (other, other_weight): (StrangerId, u32),
        shape: StrangerShape,
    ) -> Result<bool, StoreError> {
        let (keep, gone) = (one.min(other), one.max(other));
        self.write(Urgency::Note, move |connection| {
            let as_they_were: u32 = connection
                .prepare_cached(
                    "SELECT count(*) FROM strangers WHERE ((id = ?1 AND weight = ?2) OR (id = ?3 AND weight = ?4))
                        AND person_id IS NULL",
                )?
                .query_row(params![one, weight, other, other_weight], |row| row.get(0))?;
            if as_they_were < 2 {
                return Ok(false);
            }
            connection
                .prepare_cached("UPDATE stranger_faces SET stranger_id = ?1 WHERE stranger_id = ?2")?
                .execute([keep, gone])?;
            connection
                .prepare_cached(
                    "UPDATE strangers SET faces = strangers.faces + o.faces, total = ?3, weight = ?4,
                            ignored = max(strangers.ignored, o.ignored),
                            first_seen_ms = min(strangers.first_seen_ms, o.first_seen_ms),
                            last_seen_ms = max(strangers.last_seen_ms, o.last_seen_ms)
                       FROM strangers o WHERE strangers.id = ?1 AND o.id = ?2",
                )?
                .execute(params![keep, gone, vector_to_blob(&shape.total), shape.weight])?;
            connection.prepare_cached("DELETE FROM strangers WHERE id = ?1")?.execute([gone])?;
            Ok(true)
        })
        .await
    }

    /// Returns grouped faces that are still in another embedding space.
    pub async fn strangers_elsewhere(
        &self,
        space: String,
        limit: usize,
    ) -> Result<Vec<UngroupedFace>, StoreError> {
        self.write(Urgency::Look, move |connection| {
            let mut elsewhere = connection.prepare_cached(
                "SELECT f.image_id, f.number, f.quality, 0, f.space, f.embedding, f.crop
                   FROM strangers s JOIN stranger_faces m ON m.stranger_id = s.id
                   JOIN faces f ON f.image_id = m.image_id AND f.number = m.number
                  WHERE s.space <> ?1 AND f.space <> ?1 LIMIT ?2",
            )?;
            elsewhere
                .query_map(params![space, limit as i64], ungrouped_face)?
                .collect()
        })
        .await
    }

    /// Gives an unknown face its embedding in another space; `None` when nothing in it can be
    /// compared, and the face leaves its group.
    pub async fn reembed_face(
        &self,
        image: ImageId,
        number: u32,
        space: String,
        embedding: Option<Vec<f32>>,
    ) -> Result<(), StoreError> {
        self.write(Urgency::Note, move |connection| {
            match &embedding {
                Some(embedding) => connection
                    .prepare_cached(
                        "UPDATE faces SET embedding = ?3, space = ?4
                          WHERE image_id = ?1 AND number = ?2 AND length(embedding) > 0",
                    )?
                    .execute(params![image, number, vector_to_blob(embedding), space])?,
                None => connection
                    .prepare_cached(
                        "DELETE FROM stranger_faces WHERE image_id = ?1 AND number = ?2",
                    )?
                    .execute(params![image, number])?,
            };
            Ok(())
        })
        .await
    }

    /// Moves all groups to the space their faces are in now, their sums to be computed again.
    pub async fn strangers_moved(&self, space: String) -> Result<(), StoreError> {
        self.write(Urgency::Now, move |connection| {
            connection
                .execute(
                    "UPDATE strangers SET space = ?1, total = x'', weight = 0 WHERE space <> ?1",
                    [&space],
                )
                .map(drop)
        })
        .await
    }
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
        self.write(Urgency::Now, move |connection| {
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
        self.write(Urgency::Look, |connection| {
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
        // Readers do not see uncommitted rows, so commit them first.
        self.write(Urgency::Now, |_| Ok(())).await?;
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

    /// Returns the people that the other faces of an image are, or may be.
    pub async fn people_beside(
        &self,
        image: ImageId,
        number: u32,
    ) -> Result<Vec<PersonId>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT person_id FROM faces WHERE image_id = ?1 AND number <> ?2 AND person_id IS NOT NULL";
            connection.prepare_cached(sql)?.query_map(params![image, number], |row| row.get(0))?.collect()
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
        self.write(Urgency::Now, move |connection| {
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
        self.write(Urgency::Now, move |connection| {
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
        self.write(Urgency::Now, move |connection| {
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
        self.write(Urgency::Now, move |connection| {
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
        self.write(Urgency::Now, move |connection| {
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

fn to_group_again(connection: &Connection) -> rusqlite::Result<Vec<ImageId>> {
    let fact: Option<String> = connection
        .query_row(
            "SELECT value FROM facts WHERE key = ?1",
            [GROUP_AGAIN],
            |row| row.get(0),
        )
        .optional()?;
    Ok(fact
        .and_then(|images| serde_json::from_str(&images).ok())
        .unwrap_or_default())
}

fn ungrouped_in(
    connection: &Connection,
    images: impl IntoIterator<Item = ImageId>,
    quality: f32,
) -> rusqlite::Result<Vec<UngroupedFace>> {
    let mut of_image = connection.prepare_cached(
        "SELECT f.image_id, f.number, f.quality, i.accepted_at_ms, f.space, f.embedding, f.crop
           FROM faces f JOIN images i ON i.id = f.image_id
          WHERE f.image_id = ?1 AND f.outcome = 'unknown' AND length(f.embedding) > 0 AND f.quality >= ?2
            AND NOT EXISTS (SELECT 1 FROM stranger_faces m WHERE m.image_id = f.image_id AND m.number = f.number)
          ORDER BY f.number",
    )?;
    let mut faces = Vec::new();
    for image in images {
        for face in of_image.query_map(params![image, quality], ungrouped_face)? {
            faces.push(face?);
        }
    }
    Ok(faces)
}

fn join(connection: &Connection, face: &Joining) -> rusqlite::Result<Joined> {
    let unknown = connection
        .prepare_cached(
            "SELECT 1 FROM faces WHERE image_id = ?1 AND number = ?2 AND outcome = 'unknown' AND length(embedding) > 0
                AND NOT EXISTS (SELECT 1 FROM stranger_faces WHERE image_id = ?1 AND number = ?2)",
        )?
        .exists(params![face.image_id, face.number])?;
    if !unknown {
        return Ok(Joined::NoStranger);
    }
    let total = vector_to_blob(&face.shape.total);
    let id = match face.group {
        Some((id, weight)) => {
            // The centroid is written only when it changes, which saves a page write for each face
            // of frequent visitors.
            let joined = if weight == face.shape.weight {
                connection
                    .prepare_cached(
                        "UPDATE strangers SET faces = faces + 1, last_seen_ms = max(last_seen_ms, ?2)
                          WHERE id = ?1 AND weight = ?3 AND person_id IS NULL",
                    )?
                    .execute(params![id, face.accepted_at_ms, weight])?
            } else {
                connection
                    .prepare_cached(
                        "UPDATE strangers SET faces = faces + 1, last_seen_ms = max(last_seen_ms, ?2), total = ?4,
                                weight = ?5
                          WHERE id = ?1 AND weight = ?3 AND person_id IS NULL",
                    )?
                    .execute(params![id, face.accepted_at_ms, weight, total, face.shape.weight])?
            };
            if joined == 0 {
                return Ok(Joined::GroupChanged);
            }
            id
        }
        None => {
            connection
                .prepare_cached(
                    "INSERT INTO strangers (space, total, weight, faces, first_seen_ms, last_seen_ms)
                     VALUES (?1, ?2, ?3, 1, ?4, ?4)",
                )?
                .execute(params![face.space, total, face.shape.weight, face.accepted_at_ms])?;
            connection.last_insert_rowid()
        }
    };
    connection
        .prepare_cached(
            "INSERT INTO stranger_faces (image_id, number, stranger_id) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![face.image_id, face.number, id])?;
    Ok(Joined::Group(id))
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

fn ungrouped_face(row: &Row<'_>) -> rusqlite::Result<UngroupedFace> {
    let embedding: Vec<u8> = row.get(5)?;
    Ok(UngroupedFace {
        image_id: row.get(0)?,
        number: row.get(1)?,
        quality: row.get(2)?,
        accepted_at_ms: row.get(3)?,
        space: row.get(4)?,
        embedding: blob_to_vector(&embedding),
        crop: row.get(6)?,
    })
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

fn best(connection: &Connection, id: StrangerId) -> rusqlite::Result<Option<StrangerFace>> {
    connection
        .prepare_cached(&format!(
            "SELECT * FROM ({FACE} AND length(f.crop) > 0 ORDER BY m.image_id DESC LIMIT {LOOKED_AT}) AS newest
              ORDER BY 3 DESC LIMIT 1"
        ))?
        .query_row([id], face)
        .optional()
}

fn stranger(row: &Row<'_>) -> rusqlite::Result<StrangerRow> {
    Ok(StrangerRow {
        id: row.get(0)?,
        faces: row.get(1)?,
        first_seen_ms: row.get(2)?,
        last_seen_ms: row.get(3)?,
        ignored: row.get(4)?,
        last_image: row.get(5)?,
        best: None,
    })
}

fn face(row: &Row<'_>) -> rusqlite::Result<StrangerFace> {
    Ok(StrangerFace {
        image_id: row.get(0)?,
        number: row.get(1)?,
        quality: row.get(2)?,
        accepted_at_ms: row.get(3)?,
        crop: row.get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{image, run, store};

    #[tokio::test]
    async fn strangers_seen_last_come_first_whatever_the_clock_said() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        for id in 1..=3 {
            run(&store, &image(id, "unknown", None, &[], [1.0, 0.0])).await;
        }
        run(
            &store,
            "INSERT INTO strangers (space, total, weight, faces, first_seen_ms, last_seen_ms)
               VALUES ('s', x'', 1, 1, 900, 900), ('s', x'', 1, 1, 10, 10), ('s', x'', 1, 1, 500, 500);
             INSERT INTO stranger_faces VALUES (1, 1, 1), (3, 1, 2), (2, 1, 3);",
        )
        .await;
        let mut ids = Vec::new();
        let mut before = None;
        while let Some(last) = store.stranger_groups(false, before, 1).await.unwrap().pop() {
            ids.push(last.id);
            before = Some((last.last_image, last.id));
        }
        assert_eq!(ids, [2, 3, 1]);
        run(
            &store,
            "UPDATE stranger_faces SET stranger_id = 1 WHERE stranger_id = 2",
        )
        .await;
        assert_eq!(store.stranger(1).await.unwrap().unwrap().last_image, 3);
    }
}
