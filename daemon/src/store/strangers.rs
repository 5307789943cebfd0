//! SQL of strangers: unknown faces grouped by likeness. Which face belongs to whom is decided in `recognition`.

use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;

use super::{Store, StoreError};
use crate::domain::ImageId;

/// Number of a group; never used twice.
pub type StrangerId = i64;

/// A group of unknown faces.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct StrangerRow {
    /// Its number.
    pub id: StrangerId,
    /// How many faces belong to it.
    pub faces: u32,
    /// Wall clock.
    pub first_seen_ms: i64,
    /// Wall clock.
    pub last_seen_ms: i64,
    /// Somebody said that it does not matter.
    pub ignored: bool,
    /// The best face that can be shown.
    pub best: Option<StrangerFace>,
}

/// A face of a group.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub struct StrangerFace {
    /// The image it is in.
    pub image_id: ImageId,
    /// Its number there.
    pub number: u32,
    /// 0 to 1.
    pub quality: f64,
    /// When the image came in, wall clock.
    pub accepted_at_ms: i64,
    /// Whether it can be shown.
    pub crop: bool,
}

const STRANGER: &str = "SELECT id, faces, first_seen_ms, last_seen_ms, ignored FROM strangers";
const FACE: &str = "
    SELECT m.image_id, m.number, f.quality, i.accepted_at_ms, length(f.crop) > 0
      FROM stranger_faces m JOIN faces f ON f.image_id = m.image_id AND f.number = m.number
      JOIN images i ON i.id = m.image_id WHERE m.stranger_id = ?1";
/// A group may have thousands of faces: the best of its newest is shown.
const LOOKED_AT: usize = 20;

impl Store {
    /// Groups with a face, those seen last first, below `before` = (last seen, number).
    pub async fn stranger_groups(
        &self,
        ignored: bool,
        before: Option<(i64, StrangerId)>,
        limit: usize,
    ) -> Result<Vec<StrangerRow>, StoreError> {
        self.read(move |connection| {
            let (last_seen_ms, id) = before.unwrap_or((i64::MAX, i64::MAX));
            let mut statement = connection.prepare_cached(&format!(
                "{STRANGER} WHERE ignored = ?1 AND (last_seen_ms, id) < (?2, ?3) AND faces > 0
                  ORDER BY last_seen_ms DESC, id DESC LIMIT ?4"
            ))?;
            let rows = statement.query_map(params![ignored, last_seen_ms, id, limit as i64], stranger)?;
            let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
            for row in &mut rows {
                row.best = best(connection, row.id)?;
            }
            Ok(rows)
        })
        .await
    }

    /// One group.
    pub async fn stranger(&self, id: StrangerId) -> Result<Option<StrangerRow>, StoreError> {
        self.read(move |connection| {
            let found = connection
                .prepare_cached(&format!("{STRANGER} WHERE id = ?1"))?
                .query_row([id], stranger)
                .optional()?;
            let Some(mut row) = found else { return Ok(None) };
            row.best = best(connection, id)?;
            Ok(Some(row))
        })
        .await
    }

    /// Faces of a group, newest image first, of images below `before`.
    pub async fn stranger_faces(
        &self,
        id: StrangerId,
        before: Option<ImageId>,
        limit: usize,
    ) -> Result<Vec<StrangerFace>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection
                .prepare_cached(&format!("{FACE} AND m.image_id < ?2 ORDER BY m.image_id DESC, m.number LIMIT ?3"))?;
            statement.query_map(params![id, before.unwrap_or(i64::MAX), limit as i64], face)?.collect()
        })
        .await
    }
}

fn best(connection: &rusqlite::Connection, id: StrangerId) -> rusqlite::Result<Option<StrangerFace>> {
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
