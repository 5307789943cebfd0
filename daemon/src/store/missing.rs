//! SQL of files that images name by path: their state when queued, and the images that wait for
//! one.

use rusqlite::params;

use super::facts::store_queue_clock;
use super::{Commit, Store, StoreError};
use crate::domain::{ImageId, Source, Standing};

/// Image whose file is to be checked.
#[derive(Debug, Clone)]
pub struct Look {
    /// The image.
    pub id: ImageId,
    /// Source it came from.
    pub source: Source,
    /// Path given by the sender.
    pub path: String,
    /// Queue clock when the file was first missing; `None`: not checked yet.
    pub missing_since_ms: Option<i64>,
    /// Queue clock when it is claimed, checked or not.
    pub due_ms: i64,
}

/// Outcome of checking files.
#[derive(Debug, Clone, Default)]
pub struct Looks {
    /// Present at the first check.
    pub seen: Vec<(ImageId, Standing)>,
    /// Missing at the first check: due time after the wait, and the reason shown meanwhile.
    pub missing: Vec<(ImageId, i64, String)>,
    /// Done waiting and due now, with the file if it is there.
    pub due: Vec<(ImageId, Option<Standing>)>,
}

impl Store {
    /// Returns the oldest pending image, or the number the next image will have.
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

    /// Examines the `limit` images after `after`. Returns the pending ones whose file was not
    /// checked yet, and the last id examined.
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

    /// Returns the first `limit` images after `after` that wait for their file.
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

    /// Stores the outcome of checks, except for images claimed meanwhile.
    pub async fn note_looks(&self, looks: Looks, now_ms: i64) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
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

/// Returns `None` for a damaged row, which the claim reports.
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
