//! SQL of results waiting to be published.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Store, StoreError, Urgency, text};

/// A result to publish.
#[derive(Debug)]
pub struct UnsentResult {
    /// Row in the outbox.
    pub id: i64,
    /// The exact message.
    pub payload: String,
}

impl Store {
    /// Marks the oldest unsent results as tried and returns them once they are **on disk**.
    ///
    /// The flush makes it safe to publish: finishing an image need not wait for the disk, but a
    /// result that left the board must never be computed again.
    pub async fn take_unsent(&self, limit: usize) -> Result<Vec<UnsentResult>, StoreError> {
        self.write(Urgency::Send, move |connection| {
            let mut tried = connection.prepare_cached(
                "UPDATE unsent SET tries = tries + 1
                  WHERE id IN (SELECT id FROM unsent ORDER BY id LIMIT ?1) RETURNING id",
            )?;
            let mut ids: Vec<i64> = tried
                .query_map([limit as i64], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            ids.sort_unstable(); // RETURNING has no order
            let mut payload =
                connection.prepare_cached("SELECT payload FROM outbox WHERE id = ?1")?;
            let mut unsent = Vec::with_capacity(ids.len());
            for id in ids {
                match payload.query_row([id], |row| text(row, 0)).optional()? {
                    Some(payload) => unsent.push(UnsentResult { id, payload }),
                    // The result's row is lost and must not block the others.
                    None => delivered(connection, id)?,
                }
            }
            Ok(unsent)
        })
        .await
    }

    /// Notes that the broker has the result; if this note is lost, the result is sent once more.
    pub async fn mark_sent(&self, id: i64) -> Result<(), StoreError> {
        self.write(Urgency::Note, move |connection| delivered(connection, id))
            .await
    }

    /// Notes that the broker refused the result for good.
    pub async fn mark_refused(&self, id: i64, reason: String) -> Result<(), StoreError> {
        self.write(Urgency::Note, move |connection| {
            connection
                .prepare_cached("UPDATE outbox SET refused = ?2 WHERE id = ?1")?
                .execute(params![id, reason])?;
            delivered(connection, id)
        })
        .await
    }
}

fn delivered(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM unsent WHERE id = ?1")?
        .execute([id])
        .map(drop)
}
