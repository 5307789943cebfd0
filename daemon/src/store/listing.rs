//! Read-only SQL for the page, the API, `kithd status` and the metrics.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::rejected::rejected_counts;
use super::results::{named_candidates, timings_of};
use super::strangers::StrangerId;
use super::{Store, StoreError, readable, text, text_if_any};
use crate::domain::{ImageId, NamedCandidate, Origin, Outcome, PersonId, Timings};

/// Images per state, and other counts for the operator.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Counts {
    /// Pending images.
    pub pending: u64,
    /// Images in the engine.
    pub processing: u64,
    /// Images with a result.
    pub processed: u64,
    /// Images that failed.
    pub failed: u64,
    /// Results the broker has not acknowledged.
    pub unsent: u64,
    /// Rejected messages that are kept.
    pub rejected_messages: u64,
    /// Bytes of the rejected messages.
    pub rejected_bytes: u64,
    /// Rejected messages dropped for lack of space since the database was created.
    pub rejected_dropped: u64,
    /// Enrolled people.
    pub people: u64,
}

/// A row of the status table.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ImageRow {
    /// Row number.
    pub id: ImageId,
    /// Current state.
    pub state: String,
    /// Source it came from.
    pub source: String,
    /// Path or name given by the sender.
    pub path: String,
    /// Name of the camera that took it.
    pub camera: Option<String>,
    /// Id of the event that it belongs to, given by the system that sent it.
    pub event: Option<String>,
    /// Outcome of a processed image.
    pub outcome: Option<String>,
    /// Reason why it waits or failed.
    pub reason: Option<String>,
    /// Problem with the file, although it could be read.
    pub remark: Option<String>,
    /// Names of the known people in it, best first.
    pub persons: Vec<String>,
    /// Names of the people that uncertain faces may be, best first.
    pub perhaps: Vec<String>,
    /// Smallest distance among its faces.
    pub distance: Option<f64>,
    /// Number of faces found.
    pub faces: u32,
    /// Attempts so far.
    pub attempts: u32,
    /// Acceptance, wall clock.
    pub accepted_at_ms: i64,
    /// End, wall clock.
    pub finished_at_ms: Option<i64>,
    /// Milliseconds from claim to end.
    pub duration_ms: Option<i64>,
    /// A thumbnail is kept.
    pub thumbnail: bool,
    /// Width in pixels, upright, once known.
    pub width: Option<u32>,
    /// Height in pixels, upright, once known.
    pub height: Option<u32>,
    /// Boxes of its faces, best first.
    pub boxes: Vec<FaceBox>,
}

/// Position of a face.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FaceBox {
    /// Left, top, right, bottom in pixels.
    #[serde(rename = "box")]
    pub bounds: [f32; 4],
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
}

/// A face of an image.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FaceRow {
    /// 1 is the best of the image.
    pub number: u32,
    /// Left, top, right, bottom in pixels.
    #[serde(rename = "box")]
    pub bounds: [f32; 4],
    /// Detector's confidence.
    pub score: f64,
    /// Quality, 0 to 1.
    pub quality: f64,
    /// Why this face is hard to recognise, in a sentence; the reason why no match was made, when
    /// the quality is that low.
    pub objection: Option<String>,
    /// Known, uncertain or unknown.
    pub outcome: String,
    /// Name of the person, if any.
    pub person: Option<String>,
    /// Number of the person.
    pub person_id: Option<PersonId>,
    /// Distance to the nearest enrolled picture.
    pub distance: Option<f64>,
    /// Additional distance to the next person.
    pub margin: Option<f64>,
    /// Nearest people.
    pub candidates: Vec<NamedCandidate>,
    /// Its crop is still kept: crops of unknown faces are erased after a while.
    pub crop: bool,
    /// Number of its stranger group.
    pub stranger: Option<StrangerId>,
}

/// Details of one image.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ImageDetail {
    /// Row of the table.
    #[serde(flatten)]
    pub image: ImageRow,
    /// Pack, precision and device that made the result.
    pub engine: Option<String>,
    /// sha256 of the picture's bytes.
    pub picture_key: Option<String>,
    /// Id of its result message.
    pub result_id: Option<String>,
    /// Time spent in each stage of the engine, if reported.
    pub timings: Option<Timings>,
    /// Faces, best first. `faces` is the count in the row.
    pub found: Vec<FaceRow>,
}

pub(super) const IMAGE_COLUMNS: &str = "
    i.id, i.state, i.source, i.path, i.outcome, i.reason, i.attempts, i.accepted_at_ms, i.finished_at_ms, i.duration_ms,
    i.width, i.height, EXISTS (SELECT 1 FROM thumbnails t WHERE t.image_id = i.id),
    i.remark, i.camera, i.event";

impl Store {
    /// Returns the counts for the head of the page, `kithd status` and the metrics.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.read(counts).await
    }

    /// Returns one image with its faces.
    pub async fn image(&self, id: ImageId) -> Result<Option<ImageDetail>, StoreError> {
        self.read(move |connection| detail(connection, id)).await
    }

    /// Returns the thumbnail of a processed image, JPEG.
    pub async fn thumbnail(&self, id: ImageId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT jpeg FROM thumbnails WHERE image_id = ?1")?
                .query_row([id], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Returns the aligned crop of one face, JPEG, unless retention erased it.
    pub async fn crop(&self, id: ImageId, number: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT crop FROM faces WHERE image_id = ?1 AND number = ?2 AND length(crop) > 0")?
                .query_row(params![id, number], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Returns the way an image came in, as a word, and its camera and event.
    pub async fn image_origin(&self, id: ImageId) -> Result<Option<(String, Origin)>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT source, camera, event FROM images WHERE id = ?1")?
                .query_row([id], |row| {
                    let origin = Origin {
                        camera: text_if_any(row, 1)?,
                        event: text_if_any(row, 2)?,
                    };
                    Ok((text(row, 0)?, origin))
                })
                .optional()
        })
        .await
    }
}

/// Returns the counts through the caller's own connection.
pub fn counts(connection: &Connection) -> rusqlite::Result<Counts> {
    let mut counts = Counts::default();
    let mut by_state = connection.prepare_cached("SELECT state, images FROM state_counts")?;
    let mut rows = by_state.query([])?;
    while let Some(row) = rows.next()? {
        let number = row.get(1)?;
        match row.get_ref(0)?.as_str()? {
            "pending" => counts.pending = number,
            "processing" => counts.processing = number,
            "processed" => counts.processed = number,
            _ => counts.failed = number,
        }
    }
    let number = |sql: &str| {
        connection
            .prepare_cached(sql)?
            .query_row([], |row| row.get(0))
    };
    counts.unsent = number("SELECT count(*) FROM outbox")?;
    (
        counts.rejected_messages,
        counts.rejected_bytes,
        counts.rejected_dropped,
    ) = rejected_counts(connection)?;
    counts.people = number("SELECT count(*) FROM person")?;
    Ok(counts)
}

/// Returns the newest images through the caller's own connection.
pub fn images(
    connection: &Connection,
    before: Option<ImageId>,
    limit: usize,
) -> rusqlite::Result<Vec<ImageRow>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {IMAGE_COLUMNS} FROM images i WHERE i.id < ?1 ORDER BY i.id DESC LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![before.unwrap_or(i64::MAX), limit as i64], image_row)?;
    let mut images = readable(rows)?;
    add_faces(connection, &mut images)?;
    Ok(images)
}

/// Reads a row of [`IMAGE_COLUMNS`], without its faces.
pub(super) fn image_row(row: &Row<'_>) -> rusqlite::Result<ImageRow> {
    Ok(ImageRow {
        id: row.get(0)?,
        state: text(row, 1)?,
        source: text(row, 2)?,
        path: text(row, 3)?,
        outcome: text_if_any(row, 4)?,
        reason: text_if_any(row, 5)?,
        attempts: row.get(6)?,
        accepted_at_ms: row.get(7)?,
        finished_at_ms: row.get(8)?,
        duration_ms: row.get(9)?,
        width: row.get(10)?,
        height: row.get(11)?,
        thumbnail: row.get(12)?,
        remark: row.get(13)?,
        camera: text_if_any(row, 14)?,
        event: text_if_any(row, 15)?,
        faces: 0,
        distance: None,
        persons: Vec::new(),
        perhaps: Vec::new(),
        boxes: Vec::new(),
    })
}

/// Adds the faces of all rows of a page with one query.
pub(super) fn add_faces(connection: &Connection, images: &mut [ImageRow]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT f.outcome, f.distance, f.bounds, p.name FROM faces f LEFT JOIN person p ON p.id = f.person_id
          WHERE f.image_id = ?1 ORDER BY f.number",
    )?;
    for image in images {
        let mut faces = statement.query([image.id])?;
        while let Some(face) = faces.next()? {
            let (outcome, bounds) = (text(face, 0)?, text(face, 2)?);
            let (distance, person): (Option<f64>, _) = (face.get(1)?, text_if_any(face, 3)?);
            image.faces += 1;
            image.distance = match (image.distance, distance) {
                (Some(nearest), Some(distance)) => Some(nearest.min(distance)),
                (nearest, distance) => nearest.or(distance),
            };
            let Ok(outcome) = outcome.parse() else {
                continue;
            };
            match outcome {
                Outcome::Known => image.persons.extend(person),
                Outcome::Uncertain => image.perhaps.extend(person),
                Outcome::Unknown | Outcome::NoFace => {}
            }
            image.boxes.push(FaceBox {
                bounds: serde_json::from_str(&bounds).unwrap_or_default(),
                outcome,
            });
        }
    }
    Ok(())
}

fn detail(connection: &Connection, id: ImageId) -> rusqlite::Result<Option<ImageDetail>> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT {IMAGE_COLUMNS}, i.engine, i.picture_key, i.timings,
                    (SELECT result_id FROM results WHERE image_id = i.id ORDER BY id DESC LIMIT 1)
               FROM images i WHERE i.id = ?1"
        ))?
        .query_row([id], |row| {
            Ok(ImageDetail {
                image: image_row(row)?,
                engine: text_if_any(row, 16)?,
                picture_key: text_if_any(row, 17)?,
                timings: text_if_any(row, 18)?.and_then(|timings| timings_of(&timings)),
                result_id: text_if_any(row, 19)?,
                found: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut image) = found else {
        return Ok(None);
    };
    add_faces(connection, std::slice::from_mut(&mut image.image))?;
    let mut faces = connection.prepare_cached(
        "SELECT f.number, f.bounds, f.score, f.quality, f.outcome, p.name, f.distance, f.margin, length(f.crop) > 0, p.id,
                (SELECT stranger_id FROM stranger_faces m WHERE m.image_id = f.image_id AND m.number = f.number),
                f.objection, f.candidates
           FROM faces f LEFT JOIN person p ON p.id = f.person_id WHERE f.image_id = ?1 ORDER BY f.number",
    )?;
    let mut rows = faces.query([id])?;
    while let Some(row) = rows.next()? {
        let bounds = text(row, 1)?;
        image.found.push(FaceRow {
            number: row.get(0)?,
            bounds: serde_json::from_str(&bounds).unwrap_or_default(),
            score: row.get(2)?,
            quality: row.get(3)?,
            objection: text_if_any(row, 11)?,
            outcome: text(row, 4)?,
            person: text_if_any(row, 5)?,
            person_id: row.get(9)?,
            distance: row.get(6)?,
            margin: row.get(7)?,
            candidates: named_candidates(connection, &text(row, 12)?)?,
            crop: row.get(8)?,
            stranger: row.get(10)?,
        });
    }
    Ok(Some(image))
}
