//! SQL of results waiting to be published and of messages that made no sense.

use rusqlite::params;

use super::{Durability, Store, StoreError};
use crate::domain::wall_clock_ms;

/// How many rejected messages are kept.
const REJECTED_KEPT: i64 = 1000;
const REJECTED_BYTES: usize = 1024;

/// A result to publish.
#[derive(Debug)]
pub struct UnsentResult {
    /// Row in the outbox.
    pub id: i64,
    /// The exact message.
    pub payload: String,
}

impl Store {
    /// The oldest unsent results, marked as tried and **on disk** when this returns.
    ///
    /// The flush is what makes it safe to publish: finishing an image need not wait for the disk, but a result
    /// that left the board must never be computed again.
    pub async fn take_unsent(&self, limit: usize) -> Result<Vec<UnsentResult>, StoreError> {
        let waiting = self
            .read(|connection| {
                connection.prepare_cached("SELECT 1 FROM outbox WHERE state = 'unsent' LIMIT 1")?.exists([])
            })
            .await?;
        if !waiting {
            return Ok(Vec::new());
        }
        self.write(Durability::Flushed, move |connection| {
            let mut statement = connection.prepare_cached(
                "UPDATE outbox SET tries = tries + 1
                  WHERE id IN (SELECT id FROM outbox WHERE state = 'unsent' ORDER BY id LIMIT ?1)
              RETURNING id, payload",
            )?;
            let rows = statement
                .query_map([limit as i64], |row| Ok(UnsentResult { id: row.get(0)?, payload: row.get(1)? }))?;
            let mut rows: Vec<UnsentResult> = rows.collect::<Result<_, _>>()?;
            rows.sort_by_key(|row| row.id);
            Ok(rows)
        })
        .await
    }

    /// Notes that the broker has the result; losing this note only sends it again.
    pub async fn mark_sent(&self, id: i64) -> Result<(), StoreError> {
        self.write(Durability::Redoable, move |connection| {
            connection.prepare_cached("UPDATE outbox SET state = 'sent' WHERE id = ?1")?.execute([id]).map(|_| ())
        })
        .await
    }

    /// Notes that the broker refused the result for good.
    pub async fn mark_refused(&self, id: i64, note: String) -> Result<(), StoreError> {
        self.write(Durability::Redoable, move |connection| {
            connection
                .prepare_cached("UPDATE outbox SET state = 'refused', note = ?2 WHERE id = ?1")?
                .execute(params![id, note])
                .map(|_| ())
        })
        .await
    }

    /// Keeps a message that made no sense, for the operator; the oldest beyond a thousand go.
    pub async fn keep_rejected(&self, topic: String, reason: String, payload: Vec<u8>) -> Result<(), StoreError> {
        self.write(Durability::Flushed, move |connection| {
            let head = &payload[..payload.len().min(REJECTED_BYTES)];
            connection
                .prepare_cached(
                    "INSERT INTO rejected_messages (received_at_ms, topic, reason, payload) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![wall_clock_ms(), topic, reason, head])?;
            connection
                .prepare_cached(
                    "DELETE FROM rejected_messages WHERE id <= (SELECT max(id) FROM rejected_messages) - ?1",
                )?
                .execute([REJECTED_KEPT])
                .map(|_| ())
        })
        .await
    }
}
