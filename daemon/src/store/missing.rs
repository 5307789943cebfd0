//! SQL of files that images name by path: as they stood when they were queued, and which images
//! wait for theirs.

use rusqlite::params;

use super::images::store_queue_clock;
use super::{Store, StoreError, Urgency};
use crate::domain::{ImageId, Source, Standing};

/// An image whose file is to be looked at.
#[derive(Debug, Clone)]
pub struct Look {
    /// The image.
    pub id: ImageId,
    /// The way it came in.
    pub source: Source,
    /// As the sender named it.
    pub path: String,
    /// Queue clock of the first time the file was not there; `None`: it was not looked at yet.
    pub missing_since_ms: Option<i64>,
    /// Queue clock when it is claimed, looked at or not.
    pub due_ms: i64,
}

/// What looks at files found.
#[derive(Debug, Clone, Default)]
pub struct Looks {
    /// There at the first look.
    pub seen: Vec<(ImageId, Standing)>,
    /// Not there at the first look: due when the wait is over, and why it waits.
    pub missing: Vec<(ImageId, i64, String)>,
    /// Waited, and goes on now; with the file where it is there.
    pub due: Vec<(ImageId, Option<Standing>)>,
}

impl Store {
    /// The oldest image that waits, or the number the next one will have.
    pub async fn oldest_pending(&self) -> Result<ImageId, StoreError> {
        self.read(|connection| {
            connection.query_row(
                "SELECT coalesce((SELECT min(id) FROM images WHERE state = 'pending'),
                                 (SELECT max(id) + 1 FROM images), 1)",
                [],
                |row| row.get(0),
            )
        })
        .await
    }

    /// Of the `limit` images after `after` those that wait and whose file was not looked at yet;
    /// and the last of all.
    pub async fn unseen(
        &self,
        after: ImageId,
        limit: usize,
    ) -> Result<(Vec<Look>, Option<ImageId>), StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, source, path, missing_since_ms, due_ms,
                        state = 'pending' AND file IS NULL AND file_mtime_ns IS NULL AND missing_since_ms IS NULL
                   FROM images WHERE id > ?1 ORDER BY id LIMIT ?2",
            )?;
            let mut rows = statement.query(params![after, limit as i64])?;
            let (mut looks, mut last) = (Vec::new(), None);
            while let Some(row) = rows.next()? {
                last = Some(row.get(0)?);
                if row.get(5)? {
                    looks.extend(look(row)?);
                }
            }
            Ok((looks, last))
        })
        .await
    }

    /// The first `limit` images after `after` that wait for their file.
    pub async fn missing(&self, after: ImageId, limit: usize) -> Result<Vec<Look>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, source, path, missing_since_ms, due_ms FROM images INDEXED BY images_missing
                  WHERE state = 'pending' AND missing_since_ms IS NOT NULL AND file IS NULL AND id > ?1
                  ORDER BY id LIMIT ?2",
            )?;
            let rows = statement.query_map(params![after, limit as i64], look)?;
            rows.filter_map(Result::transpose).collect()
        })
        .await
    }

    /// Notes what looks found, unless an image was claimed meanwhile.
    pub async fn note_looks(&self, looks: Looks, now_ms: i64) -> Result<(), StoreError> {
        self.write(Urgency::Note, move |connection| {
            let mut stand = connection.prepare_cached(
                "UPDATE images SET file_size = ?2, file_mtime_ns = ?3, file_inode = ?4
                  WHERE id = ?1 AND state = 'pending' AND file_mtime_ns IS NULL",
            )?;
            let mut stands = |id: &ImageId, standing: &Standing| {
                let Standing { stamp, inode } = standing;
                stand
                    .execute(params![id, stamp.size, stamp.mtime_ns, inode])
                    .map(drop)
            };
            for (id, standing) in &looks.seen {
                stands(id, standing)?;
            }
            for (id, standing) in &looks.due {
                standing
                    .iter()
                    .try_for_each(|standing| stands(id, standing))?;
                connection
                    .prepare_cached(
                        "UPDATE images SET due_ms = ?2 WHERE id = ?1 AND state = 'pending'",
                    )?
                    .execute(params![id, now_ms])?;
            }
            for (id, due_ms, reason) in &looks.missing {
                connection
                    .prepare_cached(
                        "UPDATE images SET missing_since_ms = ?2, due_ms = ?3, reason = ?4
                          WHERE id = ?1 AND state = 'pending' AND missing_since_ms IS NULL",
                    )?
                    .execute(params![id, now_ms, due_ms, reason])?;
            }
            if !looks.due.is_empty() || !looks.missing.is_empty() {
                store_queue_clock(connection, now_ms)?;
            }
            Ok(())
        })
        .await
    }
}

/// `None`: the row is damaged, and the claim says so.
fn look(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Look>> {
    let source: String = row.get(1)?;
    let Ok(source) = source.parse() else {
        return Ok(None);
    };
    Ok(Some(Look {
        id: row.get(0)?,
        source,
        path: row.get(2)?,
        missing_since_ms: row.get(3)?,
        due_ms: row.get(4)?,
    }))
}
