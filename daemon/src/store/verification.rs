//! Results that no passed self-test of their engine covers yet, and their redoing.

use rusqlite::params;

use super::facts::store_queue_clock;
use super::{Commit, Store, StoreError};
use crate::domain::{EngineRole, ImageId};

impl Store {
    /// Returns the newest result's row number, which separates earlier results from later ones.
    pub async fn newest_result(&self) -> Result<i64, StoreError> {
        self.write(Commit::None, |connection| {
            connection.query_row("SELECT coalesce(max(id), 0) FROM results", [], |row| {
                row.get(0)
            })
        })
        .await
    }

    /// Marks an engine's results up to `newest` as verified by the self-test.
    pub async fn verified(&self, role: EngineRole, newest: i64) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO facts (key, value) VALUES ('verified_' || ?1, CAST(?2 AS TEXT))
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value",
                )?
                .execute(params![made_by(Some(role)), newest])
                .map(drop)
        })
        .await
    }

    /// Puts the images of an engine's unverified results back to `pending`.
    ///
    /// Returns how many images. A result that may have left the board is named by its replacement;
    /// any other is dropped.
    pub async fn redo_unverified(
        &self,
        role: EngineRole,
        reason: String,
        now_ms: i64,
    ) -> Result<usize, StoreError> {
        self.write(Commit::Durable, move |connection| {
            store_queue_clock(connection, now_ms)?;
            let doomed: Vec<ImageId> = connection
                .prepare(&format!(
                    "SELECT DISTINCT i.id FROM results r CROSS JOIN images i ON i.id = r.image_id
                      WHERE r.id > {} AND i.unverified = ?1 AND i.state IN ('processed', 'failed')",
                    verified("?1")
                ))?
                .query_map([made_by(Some(role))], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            for id in &doomed {
                for sql in [
                    "DELETE FROM results WHERE image_id = ?1 AND id IN (SELECT id FROM outbox WHERE tried = 0)",
                    "DELETE FROM faces WHERE image_id = ?1",
                    "DELETE FROM thumbnails WHERE image_id = ?1",
                ] {
                    connection.prepare_cached(sql)?.execute([id])?;
                }
                connection
                    .prepare_cached(
                        "UPDATE images SET state = 'pending', outcome = NULL, engine = NULL, timings = NULL, remark = NULL, reason = ?2, attempts = 0,
                                alone = 0, due_ms = ?3, missing_since_ms = NULL, finished_at_ms = NULL,
                                duration_ms = NULL, unverified = 0,
                                picture_key = iif(file IS NULL, NULL, picture_key),
                                supersedes = (SELECT result_id FROM results WHERE image_id = ?1 ORDER BY id DESC LIMIT 1)
                          WHERE id = ?1",
                    )?
                    .execute(params![id, reason, now_ms])?;
            }
            Ok(doomed.len())
        })
        .await
    }
}

/// SQL for the newest verified result of the engine that the SQL `made_by` names. A mark in
/// each row would have to be written again for each; one number covers them all.
fn verified(made_by: &str) -> String {
    format!(
        "coalesce((SELECT CAST(value AS INTEGER) FROM facts WHERE key = 'verified_' || {made_by}), 0)"
    )
}

/// SQL that is true for an image with an unverified result, which may have to be redone.
pub(super) fn unverified() -> String {
    let newest = verified("images.unverified");
    format!(
        "(images.unverified <> 0 AND EXISTS (SELECT 1 FROM results WHERE image_id = images.id AND id > {newest}))"
    )
}

/// Returns the value stored in `images.unverified`: the result's engine, to compare with
/// [`verified`].
pub(super) fn made_by(by: Option<EngineRole>) -> i64 {
    match by {
        None => 0,
        Some(EngineRole::Primary) => 1,
        Some(EngineRole::Fallback) => 2,
    }
}
