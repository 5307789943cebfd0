//! SQL of the background task that groups unknown faces. `people::strangers` decides which face
//! belongs to which group.

use std::collections::HashSet;

use kith_vision::Centroid;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::facts::store_fact;
use super::{Commit, Store, StoreError, StrangerId, blob_to_vector, vector_to_blob};
use crate::domain::ImageId;

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
    /// The group with the current count of its centroid; `None` founds a new one.
    pub group: Option<(StrangerId, u32)>,
    /// Centroid of the group from now on.
    pub centroid: Centroid,
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

/// Fact that holds the newest result whose strangers are grouped.
const GROUPED_UPTO: &str = "strangers_upto";
/// Fact that holds images whose unknown faces are to be grouped again.
pub(super) const GROUP_AGAIN: &str = "strangers_again";

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
        self.write(Commit::Deferred, move |connection| {
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
                    "SELECT id, image_id FROM results WHERE id > ?1 ORDER BY id LIMIT ?2",
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
        self.write(Commit::Deferred, move |connection| {
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

    /// Returns every group of a space with its centroid (columns `total` and `weight`). Its count is
    /// 0 after a face has left the group, until the centroid is computed again.
    pub async fn stranger_centroids(
        &self,
        space: String,
    ) -> Result<Vec<(StrangerId, Centroid)>, StoreError> {
        self.read_latest(move |connection| {
            let mut centroids = connection.prepare(
                "SELECT id, total, weight FROM strangers WHERE space = ?1 AND person_id IS NULL ORDER BY id",
            )?;
            let centroid = |row: &Row<'_>| {
                let total: Vec<u8> = row.get(1)?;
                Ok((row.get(0)?, Centroid { sum: blob_to_vector(&total), count: row.get(2)? }))
            };
            centroids.query_map([space], centroid)?.collect()
        })
        .await
    }

    /// Discards the damaged centroid of a group; it is computed again.
    pub async fn discard_centroid(&self, id: StrangerId) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            connection
                .prepare_cached("UPDATE strangers SET total = x'', weight = 0 WHERE id = ?1")?
                .execute([id])
                .map(drop)
        })
        .await
    }

    /// Returns the number of unnamed groups.
    pub async fn stranger_count(&self) -> Result<usize, StoreError> {
        self.write(Commit::None, |connection| {
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
        self.write(Commit::None, |connection| {
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
        self.write(Commit::None, move |connection| {
            let mut left = connection.prepare_cached(
                "SELECT id FROM strangers WHERE weight = 0 AND space = ?1 AND person_id IS NULL ORDER BY id LIMIT ?2",
            )?;
            left.query_map(params![space, limit as i64], |row| row.get(0))?.collect()
        })
        .await
    }

    /// Recomputes a group's centroid with `average` from the embeddings of its newest faces: those
    /// of sufficient quality, or else the newest face alone. Drops a group without usable
    /// embeddings.
    pub async fn recompute_centroid(
        &self,
        id: StrangerId,
        space: String,
        min_quality: f32,
        limit: u32,
        average: impl Fn(&[Vec<f32>]) -> Option<Centroid> + Send + 'static,
    ) -> Result<Option<Centroid>, StoreError> {
        self.write(Commit::Deferred, move |connection| {
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
            let mut found = vectors(min_quality, limit)?;
            if found.is_empty() {
                found = vectors(0.0, 1)?;
            }
            let Some(centroid) = average(&found) else {
                connection.prepare_cached("DELETE FROM strangers WHERE id = ?1")?.execute([id])?;
                return Ok(None);
            };
            connection
                .prepare_cached("UPDATE strangers SET total = ?2, weight = ?3 WHERE id = ?1")?
                .execute(params![id, vector_to_blob(&centroid.sum), centroid.count])?;
            Ok(Some(centroid))
        })
        .await
    }

    /// Puts a face into a group, if neither has changed since.
    pub async fn join_stranger(&self, face: Joining) -> Result<Joined, StoreError> {
        self.write(Commit::Deferred, move |connection| join(connection, &face))
            .await
    }

    /// Merges two groups under the lower number. The result is ignored if either was.
    pub async fn merge_strangers(
        &self,
        (one, count): (StrangerId, u32),
        (other, other_count): (StrangerId, u32),
        centroid: Centroid,
    ) -> Result<bool, StoreError> {
        let (keep, gone) = (one.min(other), one.max(other));
        self.write(Commit::Deferred, move |connection| {
            let as_they_were: u32 = connection
                .prepare_cached(
                    "SELECT count(*) FROM strangers WHERE ((id = ?1 AND weight = ?2) OR (id = ?3 AND weight = ?4))
                        AND person_id IS NULL",
                )?
                .query_row(params![one, count, other, other_count], |row| row.get(0))?;
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
                .execute(params![keep, gone, vector_to_blob(&centroid.sum), centroid.count])?;
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
        self.write(Commit::None, move |connection| {
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
        self.write(Commit::Deferred, move |connection| {
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
        self.write(Commit::Durable, move |connection| {
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

/// Returns the images whose unknown faces are to be grouped again.
pub(super) fn to_group_again(connection: &Connection) -> rusqlite::Result<Vec<ImageId>> {
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
    let total = vector_to_blob(&face.centroid.sum);
    let id = match face.group {
        Some((id, count)) => {
            // The centroid is written only when it changes, which saves a page write for each face
            // of frequent visitors.
            let joined = if count == face.centroid.count {
                connection
                    .prepare_cached(
                        "UPDATE strangers SET faces = faces + 1, last_seen_ms = max(last_seen_ms, ?2)
                          WHERE id = ?1 AND weight = ?3 AND person_id IS NULL",
                    )?
                    .execute(params![id, face.accepted_at_ms, count])?
            } else {
                connection
                    .prepare_cached(
                        "UPDATE strangers SET faces = faces + 1, last_seen_ms = max(last_seen_ms, ?2), total = ?4,
                                weight = ?5
                          WHERE id = ?1 AND weight = ?3 AND person_id IS NULL",
                    )?
                    .execute(params![id, face.accepted_at_ms, count, total, face.centroid.count])?
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
                .execute(params![face.space, total, face.centroid.count, face.accepted_at_ms])?;
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
