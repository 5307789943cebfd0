//! SQL of rejected messages: MQTT messages that were refused and are kept for the operator.
//! `sources::rejected` keeps their bytes in files.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Commit, Store, StoreError, text_if_any};
use crate::domain::wall_clock_ms;

/// Bytes of a message's beginning, for lists.
pub const REJECTED_BEGINNING: usize = 1024;
/// Fact that counts messages dropped for lack of space.
const DROPPED: &str = "rejected_dropped";
const COLUMNS: &str = "id, received_at_ms, topic, reason, content_type, bytes, payload, file";

/// Message to keep.
#[derive(Debug, Clone)]
pub struct NewRejected {
    /// MQTT topic.
    pub topic: String,
    /// Reason for the refusal.
    pub reason: String,
    /// Content type given by the sender.
    pub content_type: Option<String>,
    /// Whole message.
    pub payload: bytes::Bytes,
    /// File with the whole message, if it is kept.
    pub file: Option<String>,
}

/// A message that was refused.
#[derive(Debug, Serialize, ToSchema)]
pub struct RejectedMessage {
    /// Row number.
    pub id: i64,
    /// Wall clock.
    pub received_at_ms: i64,
    /// MQTT topic.
    pub topic: String,
    /// Reason for the refusal.
    pub reason: String,
    /// Content type given by the sender; MQTT 5 only.
    pub content_type: Option<String>,
    /// Size in bytes.
    pub bytes: u64,
    /// The first 1 024 bytes, as text.
    pub beginning: String,
    /// The whole message is kept and can be sent again.
    pub whole: bool,
    #[serde(skip)]
    pub(crate) file: Option<String>,
}

/// Limits on kept messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectedCaps {
    /// Number of messages.
    pub count: u64,
    /// Total bytes.
    pub bytes: u64,
}

impl Store {
    /// Keeps a message.
    pub async fn keep_rejected(&self, message: NewRejected) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            let NewRejected { topic, reason, content_type, payload, file } = &message;
            let beginning = &payload[..payload.len().min(REJECTED_BEGINNING)];
            connection
                .prepare_cached(
                    "INSERT INTO rejected_messages (received_at_ms, topic, reason, content_type, bytes, payload, file)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![wall_clock_ms(), topic, reason, content_type, payload.len() as i64, beginning, file])
                .map(drop)
        })
        .await
    }

    /// Returns rejected messages before an id, newest first.
    pub async fn rejected_messages(
        &self,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<RejectedMessage>, StoreError> {
        self.read(move |connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM rejected_messages WHERE id < ?1 ORDER BY id DESC LIMIT ?2"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            statement
                .query_map(params![before.unwrap_or(i64::MAX), limit as i64], message)?
                .collect()
        })
        .await
    }

    /// Returns one message.
    pub async fn rejected_message(&self, id: i64) -> Result<Option<RejectedMessage>, StoreError> {
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM rejected_messages WHERE id = ?1");
            connection
                .prepare_cached(&sql)?
                .query_row([id], message)
                .optional()
        })
        .await
    }

    /// Notes why a message was refused again when it was resent.
    pub async fn reject_again(&self, id: i64, reason: String) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            let sql = "UPDATE rejected_messages SET reason = ?2 WHERE id = ?1";
            connection
                .prepare_cached(sql)?
                .execute(params![id, reason])
                .map(drop)
        })
        .await
    }

    /// Returns the oldest messages beyond the limits, with their files.
    pub async fn rejected_beyond(
        &self,
        caps: RejectedCaps,
    ) -> Result<Vec<(i64, Option<String>)>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, file FROM (
                    SELECT id, file, row_number() OVER newest AS number,
                           sum(iif(file IS NULL, 0, bytes)) OVER newest AS total
                      FROM rejected_messages WINDOW newest AS (ORDER BY id DESC))
                  WHERE number > ?1 OR total > ?2",
            )?;
            let (count, bytes) = (sqlite_number(caps.count), sqlite_number(caps.bytes));
            statement
                .query_map([count, bytes], |row| {
                    Ok((row.get(0)?, text_if_any(row, 1)?))
                })?
                .collect()
        })
        .await
    }

    /// Returns every message with its file.
    pub async fn rejected_files(&self) -> Result<Vec<(i64, Option<String>)>, StoreError> {
        self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT id, file FROM rejected_messages")?;
            statement
                .query_map([], |row| Ok((row.get(0)?, text_if_any(row, 1)?)))?
                .collect()
        })
        .await
    }

    /// Forgets messages; those that go for lack of space are counted.
    pub async fn drop_rejected(
        &self,
        ids: Vec<i64>,
        for_want_of_room: bool,
    ) -> Result<usize, StoreError> {
        self.write(Commit::Durable, move |connection| {
            let mut delete = connection.prepare_cached("DELETE FROM rejected_messages WHERE id = ?1")?;
            let mut gone = 0;
            for id in &ids {
                gone += delete.execute([id])?;
            }
            if for_want_of_room && gone > 0 {
                connection
                    .prepare_cached(
                        "INSERT INTO facts (key, value) VALUES (?1, ?2)
                         ON CONFLICT (key) DO UPDATE SET value = CAST(CAST(value AS INTEGER) + ?2 AS TEXT)",
                    )?
                    .execute(params![DROPPED, gone.to_string()])?;
            }
            Ok(gone)
        })
        .await
    }
}

fn sqlite_number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn message(row: &Row) -> rusqlite::Result<RejectedMessage> {
    let (beginning, file): (Vec<u8>, Option<String>) = (row.get(6)?, row.get(7)?);
    Ok(RejectedMessage {
        id: row.get(0)?,
        received_at_ms: row.get(1)?,
        topic: row.get(2)?,
        reason: row.get(3)?,
        content_type: row.get(4)?,
        bytes: row.get(5)?,
        beginning: String::from_utf8_lossy(&beginning).into_owned(),
        whole: file.is_some(),
        file,
    })
}

/// Returns the number of kept messages, their bytes, and the number dropped for lack of space.
pub(super) fn rejected_counts(connection: &Connection) -> rusqlite::Result<(u64, u64, u64)> {
    connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(iif(file IS NULL, length(payload), bytes)), 0),
                    coalesce((SELECT CAST(value AS INTEGER) FROM facts WHERE key = ?1), 0)
               FROM rejected_messages",
        )?
        .query_row([DROPPED], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}
