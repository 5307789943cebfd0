//! SQL that moves images between states; `queue` decides which move is right.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::facts::store_queue_clock;
use super::sources::cameras_of;
use super::verification::made_by;
use super::{
    Commit, Store, StoreError, erase, folders, is_spoilt, people, results, text, text_if_any,
    vector_to_blob,
};
use crate::domain::{
    Accepted, Claimed, EngineRole, Identified, IdentifiedFace, ImageId, NewImage, PersonId, Source,
    Stamp, Standing,
};

impl Store {
    /// Commits new images, all or none, within the limits, and returns once they are on disk.
    ///
    /// The inner error says why nothing is stored. `dated`: the wall clock is trustworthy.
    pub async fn accept(
        &self,
        images: Vec<NewImage>,
        limits: Limits,
        now_ms: i64,
        wall_ms: i64,
        dated: bool,
    ) -> Result<Result<Vec<Accepted>, NotAccepted>, StoreError> {
        let cameras = cameras_of(&images);
        let accepting = self.write(Commit::Durable, move |connection| {
            for image in &images {
                if let Some(key) = reused_key(connection, image)? {
                    return Ok(Err(NotAccepted::KeyReused(key)));
                }
            }
            if let Err(why) = limits.check(&unfinished(connection)?, &images) {
                return Ok(Err(why));
            }
            let accepted = images
                .iter()
                .map(|image| insert(connection, image, now_ms, wall_ms, dated));
            accepted.collect::<Result<Vec<_>, _>>().map(Ok)
        });
        let accepted = accepting.await?;
        if let Ok(accepted) = &accepted {
            self.cameras.add(cameras, accepted);
        }
        Ok(accepted)
    }

    /// Returns the committed counts of unfinished images.
    pub async fn unfinished(&self) -> Result<Unfinished, StoreError> {
        self.read(unfinished).await
    }

    /// Marks up to `limit` due images `processing` and counts the attempt. Returns them, and the
    /// queue clock at which the next pending image is due.
    ///
    /// An image that must run alone is claimed only when `idle`, and by itself. Until it has ended,
    /// and until the images in flight have ended before it, nothing is claimed and no time returned.
    pub async fn claim(
        &self,
        limit: usize,
        idle: bool,
        now_ms: i64,
    ) -> Result<(Vec<Claimed>, Option<i64>), StoreError> {
        let mut taken: Option<Vec<ImageId>> = None;
        let holding = Arc::clone(&self.holding);
        self.write(Commit::Deferred, move |connection| {
            // A replay after a failed commit claims the same images: the dispatcher already has
            // them.
            let ids = match &taken {
                Some(ids) => ids,
                None if holding.load(Ordering::SeqCst) > 0 => return Ok((Vec::new(), Some(now_ms))),
                None => match due(connection, limit, idle, now_ms)? {
                    Some(ids) => taken.insert(ids),
                    None => return Ok((Vec::new(), None)),
                },
            };
            let mut statement = connection.prepare_cached(
                "UPDATE images SET state = 'processing', attempts = attempts + 1 WHERE id = ?1 AND state = 'pending'
              RETURNING id, source, path, file, attempts, missing_since_ms, supersedes,
                        file_size, file_mtime_ns, file_inode, iif(file IS NULL, NULL, picture_key), alone",
            )?;
            let mut images = Vec::with_capacity(ids.len());
            for id in ids {
                match statement.query_row([id], claimed).optional() {
                    Ok(image) => images.extend(image),
                    Err(error) if is_spoilt(&error) => {
                        tracing::error!(image = id, "its row in the database is damaged: {error}");
                        connection
                            .prepare_cached(
                                "UPDATE images SET state = 'failed', reason = 'its row in the database is damaged', attempts = 1,
                                        finished_at_ms = accepted_at_ms WHERE id = ?1",
                            )?
                            .execute([id])?;
                    }
                    Err(error) => return Err(error),
                }
            }
            let next_ms = connection
                .prepare_cached("SELECT due_ms FROM images WHERE state = 'pending' ORDER BY due_ms LIMIT 1")?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok((images, next_ms))
        })
        .await
    }

    /// Writes faces, outcome, result and message of a claimed image in one transaction.
    ///
    /// Returns false, and writes nothing, when this attempt no longer holds the image. A person
    /// erased after the match leaves no trace, in the picture's kept bytes either.
    pub async fn finish(
        &self,
        end: Arc<End>,
        identified: Arc<Identified>,
    ) -> Result<bool, StoreError> {
        let finished = self.write(Commit::Grouped, move |connection| {
            let updated = connection
                .prepare_cached(
                    "UPDATE images SET state = 'processed', outcome = :outcome, reason = NULL, engine = :engine,
                            picture_key = :key, remark = :remark, width = :width, height = :height,
                            timings = :timings, alone = 0, unverified = :unverified, supersedes = NULL,
                            finished_at_ms = :finished, duration_ms = :duration
                      WHERE id = :id AND state = 'processing' AND attempts = :attempts",
                )?
                .execute(named_params! {
                    ":outcome": identified.outcome.as_str(),
                    ":engine": identified.engine,
                    ":key": identified.picture_key,
                    ":remark": identified.remark,
                    ":width": identified.size.map(|(width, _)| width),
                    ":height": identified.size.map(|(_, height)| height),
                    ":timings": identified.timings.as_ref().map(results::timings_to_text),
                    ":unverified": made_by(Some(identified.role)),
                    ":finished": end.finished_at_ms,
                    ":duration": end.duration_ms,
                    ":id": end.id,
                    ":attempts": end.attempts,
                })?;
            if updated == 0 {
                return Ok(None);
            }
            if !identified.thumbnail.is_empty() {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO thumbnails (image_id, jpeg) VALUES (?1, ?2)")?
                    .execute(params![end.id, identified.thumbnail])?;
            }
            for (number, face) in (1..).zip(&identified.faces) {
                insert_face(connection, end.id, number, &identified.space, face)?;
            }
            let (mut erased, mut theirs) = (false, false);
            for person in named(&identified) {
                match erase::person_now(connection, person)? {
                    Some(now) if now == person => {}
                    Some(now) => people::merge_candidates(connection, end.id, person, now)?,
                    None => {
                        let faces = faces_of(&identified, person);
                        theirs |= erase::erase_from_image(connection, end.id, person, &faces)?;
                        erased = true;
                    }
                }
            }
            // A result about a person who is gone stays on the board.
            end.insert_result(connection, end.publish && !theirs)?;
            Ok(Some(erased))
        });
        let Some(erased) = finished.await? else {
            return Ok(false);
        };
        if erased && let Some(error) = self.delete_discarded().await? {
            tracing::error!("a picture of an erased person cannot be deleted yet: {error}");
        }
        Ok(true)
    }

    /// Ends a claimed image as `failed`, with its result and message.
    pub async fn fail(&self, end: Arc<End>, reason: String) -> Result<bool, StoreError> {
        self.write(Commit::Grouped, move |connection| {
            end.write_failed(connection, &reason)
        })
        .await
    }

    /// Puts a claimed image back with its reason; `refund` takes the attempt back.
    pub async fn put_back(&self, back: PutBack) -> Result<bool, StoreError> {
        self.write(Commit::Deferred, move |connection| {
            store_queue_clock(connection, back.now_ms)?;
            let updated = connection
                .prepare_cached(
                    "UPDATE images SET state = 'pending', due_ms = :due, missing_since_ms = :missing,
                            reason = coalesce(:reason, reason), attempts = attempts - :refund,
                            alone = max(alone, :alone)
                      WHERE id = :id AND state = 'processing' AND attempts = :attempts",
                )?
                .execute(named_params! {
                    ":due": back.due_ms,
                    ":missing": back.missing_since_ms,
                    ":reason": back.reason,
                    ":refund": i64::from(back.refund),
                    ":alone": back.alone,
                    ":id": back.id,
                    ":attempts": back.attempts,
                })?;
            Ok(updated == 1)
        })
        .await
    }

    /// Puts images that the last run left `processing` back to `pending`, and refunds their
    /// attempt.
    pub async fn put_back_in_flight(&self) -> Result<usize, StoreError> {
        self.write(Commit::Durable, |connection| {
            connection.execute(
                "UPDATE images SET state = 'pending', attempts = max(0, attempts - 1) WHERE state = 'processing'",
                [],
            )
        })
        .await
    }

    /// Refunds one attempt to each of these images that is still pending.
    pub async fn refund(&self, images: Vec<ImageId>) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            let mut statement = connection.prepare_cached(
                "UPDATE images SET attempts = attempts - 1 WHERE id = ?1 AND state = 'pending' AND attempts > 0",
            )?;
            images.iter().try_for_each(|id| statement.execute([id]).map(drop))
        })
        .await
    }
}

/// Unfinished images, as the triggers count them.
#[derive(Debug, Clone, Copy)]
pub struct Unfinished {
    /// All of them.
    pub images: u64,
    /// Bytes of the spooled pictures of cameras among them.
    pub camera_bytes: u64,
}

fn unfinished(connection: &Connection) -> rusqlite::Result<Unfinished> {
    connection
        .prepare_cached(
            "SELECT max(0, coalesce(sum(images), 0)), max(0, coalesce(sum(camera_bytes), 0))
               FROM state_counts WHERE state IN ('pending', 'processing')",
        )?
        .query_row([], |row| {
            Ok(Unfinished {
                images: row.get(0)?,
                camera_bytes: row.get(1)?,
            })
        })
}

/// Limits of unfinished images.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most images.
    pub images: u64,
    /// Most bytes of spooled pictures of cameras among them; `None` for no limit.
    pub camera_bytes: Option<u64>,
}

impl Limits {
    /// No limits.
    #[cfg(test)]
    pub const NONE: Self = Self {
        images: u64::MAX,
        camera_bytes: None,
    };

    fn check(&self, unfinished: &Unfinished, images: &[NewImage]) -> Result<(), NotAccepted> {
        let most = self.images.checked_sub(unfinished.images);
        if most.is_none_or(|most| images.len() as u64 > most) {
            return Err(NotAccepted::Full(unfinished.images));
        }
        let frames = images
            .iter()
            .filter(|image| image.source.is_of_cameras() && image.file.is_some());
        let bytes: u64 = frames.map(|image| image.bytes).sum();
        match self.camera_bytes {
            Some(limit) if bytes > 0 && unfinished.camera_bytes + bytes > limit => {
                Err(NotAccepted::CameraFull)
            }
            _ => Ok(()),
        }
    }
}

/// Reason why no image was accepted.
#[derive(Debug)]
pub enum NotAccepted {
    /// This idempotency key was used for another picture.
    KeyReused(String),
    /// So many images are unfinished.
    Full(u64),
    /// Unfinished camera frames take as many bytes as allowed.
    CameraFull,
}

/// End of a claimed image.
#[derive(Debug)]
pub struct End {
    /// The image.
    pub id: ImageId,
    /// The attempt that ends it.
    pub attempts: u32,
    /// Wall clock.
    pub finished_at_ms: i64,
    /// Claim to finish.
    pub duration_ms: i64,
    /// Id of the result, wherever it goes.
    pub result_id: String,
    /// Id of the result that it replaces.
    pub supersedes: Option<String>,
    /// Name of the board, for the message.
    pub device: String,
    /// False when MQTT is switched off.
    pub publish: bool,
    /// The engine whose verdict a failure rests on, if any.
    pub judged_by: Option<EngineRole>,
}

impl End {
    fn write_failed(&self, connection: &Connection, reason: &str) -> rusqlite::Result<bool> {
        let updated = connection
            .prepare_cached(
                "UPDATE images SET state = 'failed', reason = :reason, alone = 0, unverified = :unverified, supersedes = NULL,
                        finished_at_ms = :finished, duration_ms = :duration
                  WHERE id = :id AND state = 'processing' AND attempts = :attempts",
            )?
            .execute(named_params! {
                ":reason": reason,
                ":unverified": made_by(self.judged_by),
                ":finished": self.finished_at_ms,
                ":duration": self.duration_ms,
                ":id": self.id,
                ":attempts": self.attempts,
            })?;
        if updated == 1 {
            self.insert_result(connection, self.publish)?;
        }
        Ok(updated == 1)
    }

    /// Stores the result, and the message that its rows make if it is published.
    fn insert_result(&self, connection: &Connection, publish: bool) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO results (image_id, result_id, supersedes) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![self.id, self.result_id, self.supersedes])?;
        if publish {
            results::queue_message(connection, connection.last_insert_rowid(), &self.device)?;
        }
        Ok(())
    }
}

/// Return of a claimed image to `pending`.
#[derive(Debug, Clone)]
pub struct PutBack {
    /// The image.
    pub id: ImageId,
    /// The attempt that gives it back.
    pub attempts: u32,
    /// Queue clock when it may be claimed again.
    pub due_ms: i64,
    /// Queue clock now.
    pub now_ms: i64,
    /// Queue clock when its file was first found missing.
    pub missing_since_ms: Option<i64>,
    /// Reason shown while it waits.
    pub reason: Option<String>,
    /// Refund the attempt.
    pub refund: bool,
    /// Run it alone next time.
    pub alone: bool,
}

/// Returns the images to claim; `None` while images in flight must end first.
fn due(
    connection: &Connection,
    limit: usize,
    idle: bool,
    now_ms: i64,
) -> rusqlite::Result<Option<Vec<ImageId>>> {
    let alone_running = connection
        .prepare_cached("SELECT 1 FROM images WHERE state = 'processing' AND alone = 1 LIMIT 1")?
        .exists([])?;
    let alone = connection
        .prepare_cached(
            "SELECT 1 FROM images WHERE state = 'pending' AND alone = 1 AND due_ms <= ?1 LIMIT 1",
        )?
        .exists([now_ms])?;
    if alone_running || (alone && !idle) {
        return Ok(None);
    }
    let limit = if alone { 1 } else { limit };
    connection
        .prepare_cached(
            "SELECT id FROM images WHERE state = 'pending' AND due_ms <= ?1 AND alone = ?2
              ORDER BY due_ms, id LIMIT ?3",
        )?
        .query_map(params![now_ms, alone, limit as i64], |row| row.get(0))?
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Returns the idempotency key if it already belongs to a different picture.
fn reused_key(connection: &Connection, image: &NewImage) -> rusqlite::Result<Option<String>> {
    let Some(key) = &image.idempotency_key else {
        return Ok(None);
    };
    let same: Option<bool> = connection
        .prepare_cached(
            "SELECT CASE WHEN ?2 IS NULL THEN path = ?3 ELSE picture_key IS ?2 END FROM images WHERE idempotency_key = ?1",
        )?
        .query_row(params![key, image.picture_key, image.path], |row| row.get(0))
        .optional()?;
    Ok((same == Some(false)).then(|| key.clone()))
}

fn insert(
    connection: &Connection,
    image: &NewImage,
    now_ms: i64,
    wall_ms: i64,
    dated: bool,
) -> rusqlite::Result<Accepted> {
    let existing = if let Some(key) = &image.idempotency_key {
        connection
            .prepare_cached("SELECT id FROM images WHERE idempotency_key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?
    } else if image.unless_unfinished {
        connection
            .prepare_cached(
                "SELECT id FROM images WHERE path = ?1 AND iif(?2 IS NULL, file IS NULL, picture_key = ?2)
                    AND source = 'mqtt' AND state IN ('pending', 'processing') LIMIT 1",
            )?
            .query_row(params![image.path, image.picture_key], |row| row.get(0))
            .optional()?
    } else {
        None
    };
    if let Some(id) = existing {
        return Ok(Accepted { id, new: false });
    }
    if let Some(file) = &image.seen
        && folders::taken_before(connection, file)?
    {
        return Ok(Accepted { id: 0, new: false });
    }
    // Same name as `spool::accepted_name`: `id` is the table's next number.
    connection
        .prepare_cached(
            "INSERT INTO images (source, path, file, bytes, idempotency_key, picture_key, due_ms, accepted_at_ms, dated,
                                 file_size, file_mtime_ns, file_inode, camera, event, came_ms)
             VALUES (?1, ?2, ?3 || '.' || (SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'images'),
                     ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?7)",
        )?
        .execute(params![
            image.source.as_str(),
            image.path,
            image.file,
            image.bytes,
            image.idempotency_key,
            image.picture_key,
            now_ms,
            wall_ms,
            dated,
            image.seen.as_ref().map(|file| file.stamp.size),
            image.seen.as_ref().map(|file| file.stamp.mtime_ns),
            image.seen.as_ref().map(|file| file.inode),
            image.origin.camera,
            image.origin.event
        ])?;
    let id = connection.last_insert_rowid();
    if let Some(file) = &image.seen {
        folders::remember(connection, file, id)?;
    }
    Ok(Accepted { id, new: true })
}

fn claimed(row: &Row<'_>) -> rusqlite::Result<Claimed> {
    Ok(Claimed {
        id: row.get(0)?,
        // Any other value comes from a damaged row.
        source: text(row, 1)?.parse().unwrap_or(Source::Http),
        path: text(row, 2)?,
        file: text_if_any(row, 3)?,
        attempts: row.get(4)?,
        alone: row.get(11)?,
        missing_since_ms: row.get(5)?,
        claimed_at: std::time::Instant::now(),
        supersedes: text_if_any(row, 6)?,
        picture_key: text_if_any(row, 10)?,
        standing: match (row.get(7)?, row.get(8)?, row.get(9)?) {
            (Some(size), Some(mtime_ns), Some(inode)) => Some(Standing {
                stamp: Stamp { size, mtime_ns },
                inode,
            }),
            _ => None,
        },
    })
}

/// Returns all people named in a result.
fn named(identified: &Identified) -> BTreeSet<PersonId> {
    let of = |face: &IdentifiedFace| {
        let named = face.person.iter().chain(&face.candidates);
        named
            .map(|candidate| candidate.person_id)
            .collect::<Vec<_>>()
    };
    identified.faces.iter().flat_map(of).collect()
}

/// Returns the numbers of the faces that were matched to a person.
fn faces_of(identified: &Identified, person: PersonId) -> Vec<i64> {
    let numbered = (1..).zip(&identified.faces);
    let theirs = numbered.filter(|(_, face)| {
        let matched = face.person.as_ref();
        matched.is_some_and(|matched| matched.person_id == person)
    });
    theirs.map(|(number, _)| number).collect()
}

fn insert_face(
    connection: &Connection,
    image: ImageId,
    number: i64,
    space: &str,
    face: &IdentifiedFace,
) -> rusqlite::Result<()> {
    let candidates: Vec<_> = face
        .candidates
        .iter()
        .map(|nearest| (nearest.person_id, nearest.distance))
        .collect();
    connection
        .prepare_cached(
            "INSERT INTO faces (image_id, number, bounds, landmarks, score, quality, objection, outcome, person_id,
                                distance, margin, candidates, space, embedding, crop)
             VALUES (:image, :number, :bounds, :landmarks, :score, :quality, :objection, :outcome,
                     (SELECT id FROM person WHERE id = :person), :distance, :margin, :candidates, :space, :embedding,
                     :crop)",
        )?
        .execute(named_params! {
            ":image": image,
            ":number": number,
            ":bounds": serde_json::json!(face.bounds).to_string(),
            ":landmarks": serde_json::json!(face.landmarks).to_string(),
            ":score": face.score,
            ":quality": face.quality,
            ":objection": face.objection,
            ":outcome": face.outcome.as_str(),
            // A person deleted meanwhile is handled once all faces are inserted.
            ":person": face.person.as_ref().map(|person| person.person_id),
            ":distance": face.distance,
            ":margin": face.margin,
            ":candidates": serde_json::json!(candidates).to_string(),
            ":space": space,
            ":embedding": vector_to_blob(&face.embedding),
            ":crop": face.crop,
        })
        .map(drop)
}
