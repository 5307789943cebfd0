//! SQL of an operator's requests about one image: retry or remove it.

use rusqlite::{Connection, OptionalExtension, named_params};

use super::facts::store_queue_clock;
use super::{Commit, Store, StoreError};
use crate::domain::{ImageId, State};

/// Outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageChange {
    /// There is no such image.
    NotFound,
    /// The image is in another state.
    Not(State),
    /// The picture's bytes are no longer kept.
    BytesGone,
    /// Done.
    Done {
        /// Number of counter-examples made from its faces, which are gone too.
        counter_examples: usize,
    },
}

struct Row {
    state: State,
    /// It arrived as bytes, which are gone.
    bytes_gone: bool,
}

impl Store {
    /// Puts a failed image back to `pending` with fresh attempts. Its next result names the old
    /// one, if that may have left the board.
    pub async fn try_again(&self, id: ImageId, now_ms: i64) -> Result<ImageChange, StoreError> {
        self.write(Commit::Durable, move |connection| {
            let Some(row) = row(connection, id)? else { return Ok(ImageChange::NotFound) };
            if row.state != State::Failed {
                return Ok(ImageChange::Not(row.state));
            }
            if row.bytes_gone {
                return Ok(ImageChange::BytesGone);
            }
            store_queue_clock(connection, now_ms)?;
            connection
                .prepare_cached(
                    "DELETE FROM results WHERE image_id = ?1 AND id IN (SELECT id FROM outbox WHERE tried = 0)",
                )?
                .execute([id])?;
            connection
                .prepare_cached(
                    "UPDATE images SET state = 'pending', reason = NULL, attempts = 0, alone = 0, due_ms = :now,
                            missing_since_ms = NULL, finished_at_ms = NULL, duration_ms = NULL, unverified = 0,
                            supersedes = (SELECT result_id FROM results WHERE image_id = :id ORDER BY id DESC LIMIT 1)
                      WHERE id = :id",
                )?
                .execute(named_params! { ":now": now_ms, ":id": id })?;
            Ok(ImageChange::Done { counter_examples: 0 })
        })
        .await
    }

    /// Removes an image with its dependent rows, unless the engine holds it.
    pub async fn remove_image(&self, id: ImageId) -> Result<ImageChange, StoreError> {
        self.write(Commit::Durable, move |connection| {
            let Some(row) = row(connection, id)? else { return Ok(ImageChange::NotFound) };
            if row.state == State::Processing {
                return Ok(ImageChange::Not(row.state));
            }
            let counter_examples = connection
                .prepare_cached(
                    "DELETE FROM counter_examples
                      WHERE (length(crop) > 0 AND crop IN (SELECT crop FROM faces WHERE image_id = ?1))
                         OR vector IN (SELECT embedding FROM faces WHERE image_id = ?1)",
                )?
                .execute([id])?;
            connection.prepare_cached("DELETE FROM images WHERE id = ?1")?.execute([id])?;
            Ok(ImageChange::Done { counter_examples })
        })
        .await
    }
}

fn row(connection: &Connection, id: ImageId) -> rusqlite::Result<Option<Row>> {
    connection
        .prepare_cached(
            "SELECT state, file IS NULL AND picture_key IS NOT NULL FROM images WHERE id = ?1",
        )?
        .query_row([id], |row| {
            let state: String = row.get(0)?;
            let state = state
                .parse()
                .map_err(|error: String| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            Ok(Row {
                state,
                bytes_gone: row.get(1)?,
            })
        })
        .optional()
}
