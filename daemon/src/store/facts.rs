//! Facts about the database as a whole, by key; the queue clock is one of them.

use rusqlite::{Connection, OptionalExtension};

use super::{Commit, Store, StoreError, text};

/// Fact that holds the queue clock.
const QUEUE_CLOCK: &str = "queue_clock_ms";

impl Store {
    /// Reads a fact about this database.
    pub async fn fact(&self, key: &str) -> Result<Option<String>, StoreError> {
        let key = key.to_string();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT value FROM facts WHERE key = ?1")?
                .query_row([key], |row| text(row, 0))
                .optional()
        })
        .await
    }

    /// Sets a fact.
    pub async fn set_fact(&self, key: &str, value: String) -> Result<(), StoreError> {
        let key = key.to_string();
        self.write(Commit::Durable, move |connection| {
            store_fact(connection, &key, &value)
        })
        .await
    }

    /// Returns the latest stored reading of the queue clock, in milliseconds.
    ///
    /// An image that is put back has a due time in the future, so the reading is stored with it. A
    /// newly accepted image is due at once; the time it came serves as the reading, which saves a
    /// page write.
    pub async fn queue_clock(&self) -> Result<i64, StoreError> {
        let written = self
            .fact(QUEUE_CLOCK)
            .await?
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let accepted = self
            .read(|connection| {
                let mut newest = connection.prepare(
                    "SELECT due_ms FROM images WHERE state = ?1 AND reason IS NULL ORDER BY due_ms DESC LIMIT 1",
                )?;
                let mut of = |state: &str| newest.query_row([state], |row| row.get::<_, i64>(0)).optional();
                let waiting = of("pending")?.max(of("processing")?);
                // Retention may have removed the newest image, but not a sighting that is open.
                let came = connection.query_row(
                    "SELECT max(coalesce((SELECT came_ms FROM images ORDER BY id DESC LIMIT 1), 0),
                                coalesce((SELECT max(last_came_ms) FROM sightings WHERE ended_ms IS NULL), 0))",
                    [],
                    |row| row.get::<_, i64>(0),
                )?;
                Ok(waiting.map_or(came, |waiting| waiting.max(came)))
            })
            .await?;
        Ok(accepted.max(written))
    }
}

/// Stores a reading of the queue clock.
pub(super) fn store_queue_clock(connection: &Connection, now_ms: i64) -> rusqlite::Result<()> {
    store_fact(connection, QUEUE_CLOCK, &now_ms.to_string())
}

/// Stores a fact.
pub(super) fn store_fact(connection: &Connection, key: &str, value: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO facts (key, value) VALUES (?1, ?2)")?
        .execute([key, value])?;
    Ok(())
}
