//! SQL of strangers: unknown faces grouped by likeness. `people::strangers` decides which face
//! belongs to which group.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use super::{Store, StoreError};
use crate::domain::ImageId;

/// Number of a group; never used twice.
pub use crate::domain::StrangerId;

/// A group of unknown faces.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct StrangerRow {
    /// Number of the group.
    pub id: StrangerId,
    /// Number of faces.
    pub faces: u32,
    /// Number of sightings.
    pub sightings: u32,
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

/// Visits of the strangers of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// However often.
    Ever,
    /// In more than one sighting.
    Again,
    /// In one sighting, or in none that is kept.
    Once,
}

/// Place in the list of groups: the newest image and the number of a group.
pub type StrangerPlace = (ImageId, StrangerId);

const STRANGER: &str = "
    SELECT s.id, s.faces, s.first_seen_ms, s.last_seen_ms, s.ignored, s.last_image,
           (SELECT count(*) FROM sightings WHERE stranger_id = s.id)
      FROM strangers s";
/// Groups examined for one page.
const EXAMINED: usize = 4000;
const FACE: &str = "
    SELECT m.image_id, m.number, f.quality, i.accepted_at_ms, length(f.crop) > 0
      FROM stranger_faces m JOIN faces f ON f.image_id = m.image_id AND f.number = m.number
      JOIN images i ON i.id = m.image_id WHERE m.stranger_id = ?1";
/// Newest faces among which the best is shown: a group may have thousands.
const LOOKED_AT: usize = 5;

impl Store {
    /// Returns groups with a face, latest first, below the place `before`, and the place below which
    /// there may be more.
    pub async fn stranger_groups(
        &self,
        ignored: bool,
        came: Came,
        before: Option<StrangerPlace>,
        limit: usize,
    ) -> Result<(Vec<StrangerRow>, Option<StrangerPlace>), StoreError> {
        self.read_dear(move |connection| groups(connection, ignored, came, before, limit))
            .await
    }

    /// Returns the number of groups with more than one face that are neither ignored nor named.
    pub async fn strangers_to_name(&self) -> Result<u64, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT count(*) FROM strangers WHERE ignored = 0 AND faces > 1 AND person_id IS NULL",
                )?
                .query_row([], |row| row.get(0))
        })
        .await
    }

    /// Returns one group.
    pub async fn stranger(&self, id: StrangerId) -> Result<Option<StrangerRow>, StoreError> {
        self.read(move |connection| {
            let found = connection
                .prepare_cached(&format!("{STRANGER} WHERE s.id = ?1"))?
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

fn groups(
    connection: &Connection,
    ignored: bool,
    came: Came,
    before: Option<StrangerPlace>,
    limit: usize,
) -> rusqlite::Result<(Vec<StrangerRow>, Option<StrangerPlace>)> {
    let examined = format!(
        "SELECT id, last_image FROM strangers INDEXED BY strangers_seen
          WHERE ignored = ?1 AND (last_image, id) < (?2, ?3) ORDER BY last_image DESC, id DESC LIMIT {EXAMINED}"
    );
    // Two rows tell: a stranger may have come thousands of times.
    let twice =
        "(SELECT count(*) FROM (SELECT 1 FROM sightings WHERE stranger_id = s.id LIMIT 2)) = 2";
    let often = match came {
        Came::Ever => "1".into(),
        Came::Again => twice.to_string(),
        Came::Once => format!("NOT ({twice})"),
    };
    let (last_image, id) = before.unwrap_or((i64::MAX, i64::MAX));
    // An extra row tells whether another page follows.
    let mut statement = connection.prepare_cached(&format!(
        "{STRANGER} JOIN ({examined}) e ON e.id = s.id
          WHERE s.faces > 0 AND s.person_id IS NULL AND {often}
          ORDER BY e.last_image DESC, e.id DESC LIMIT {}",
        limit + 1
    ))?;
    let rows = statement.query_map(params![ignored, last_image, id], stranger)?;
    let mut rows = rows.collect::<Result<Vec<_>, _>>()?;
    let next = if rows.len() > limit {
        rows.truncate(limit);
        rows.last().map(|last| (last.last_image, last.id))
    } else {
        connection
            .prepare_cached(&format!(
                "SELECT * FROM ({examined}) LIMIT 1 OFFSET {}",
                EXAMINED - 1
            ))?
            .query_row(params![ignored, last_image, id], |row| {
                Ok((row.get(1)?, row.get(0)?))
            })
            .optional()?
    };
    for row in &mut rows {
        row.best = best(connection, row.id)?;
    }
    Ok((rows, next))
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
        sightings: row.get(6)?,
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
    use super::super::fixtures::{image, run, sighting, store};
    use super::*;

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
        let list = async |came| {
            let (mut ids, mut before) = (Vec::new(), None);
            loop {
                let page = store.stranger_groups(false, came, before, 1);
                let (groups, next) = page.await.unwrap();
                ids.extend(groups.iter().map(|group| (group.id, group.sightings)));
                if next.is_none() {
                    return ids;
                }
                before = next;
            }
        };
        assert_eq!(list(Came::Ever).await, [(2, 0), (3, 0), (1, 0)]);
        for (id, stranger) in [(1, 3), (2, 3), (3, 2)] {
            let sighting = sighting(id, "front", 1000 * id, "unknown", None, Some(stranger));
            run(&store, &sighting).await;
        }
        assert_eq!(list(Came::Again).await, [(3, 2)]);
        assert_eq!(list(Came::Once).await, [(2, 1), (1, 0)]);
        run(
            &store,
            "UPDATE stranger_faces SET stranger_id = 1 WHERE stranger_id = 2",
        )
        .await;
        assert_eq!(store.stranger(1).await.unwrap().unwrap().last_image, 3);
    }
}
