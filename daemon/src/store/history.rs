//! SQL of the charts: the board by the minute, and the circuit breaker's changes. For display only;
//! no decision depends on it.

use rusqlite::{Connection, params};
use serde::Serialize;

use super::{Commit, Store, StoreError, readable, text, text_if_any};
use crate::domain::wall_clock_ms;

/// A week of minutes.
const MINUTES_KEPT: i64 = 7 * 24 * 60;
/// Limited by count, so that a flapping breaker cannot fill the disk.
const CHANGES_KEPT: i64 = 1000;

/// A minute of the board.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryRow {
    /// Wall clock, minutes since 1970.
    pub minute: i64,
    /// Images pending at its end.
    pub pending: u64,
    /// Images accepted.
    pub accepted: u64,
    /// Images processed.
    pub processed: u64,
    /// Images failed.
    pub failed: u64,
    /// Mean milliseconds per picture: decode, detect, align, embed, encode; 0 when none was
    /// processed.
    pub stages: [f64; 5],
    /// Hottest sensor of the board; `None` without a sensor.
    pub celsius: Option<f64>,
}

/// A change of the circuit breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BreakerChange {
    /// Wall clock.
    pub at_ms: i64,
    /// New state.
    pub state: String,
    /// Reason, a sentence.
    pub reason: Option<String>,
}

impl Store {
    /// Returns the newest `limit` minutes from `since_minute` on, oldest first.
    pub async fn history(
        &self,
        since_minute: i64,
        limit: usize,
    ) -> Result<Vec<HistoryRow>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT * FROM (SELECT minute, pending, accepted, processed, failed, stages, celsius FROM history
                                 WHERE minute >= ?1 ORDER BY minute DESC LIMIT ?2) ORDER BY minute",
            )?;
            let rows = statement.query_map(params![since_minute, limit as i64], |row| {
                let stages = text(row, 5)?;
                Ok(HistoryRow {
                    minute: row.get(0)?,
                    pending: row.get(1)?,
                    accepted: row.get(2)?,
                    processed: row.get(3)?,
                    failed: row.get(4)?,
                    stages: serde_json::from_str(&stages).unwrap_or_default(),
                    celsius: row.get(6)?,
                })
            })?;
            readable(rows)
        })
        .await
    }

    /// Returns the newest changes of the circuit breaker, newest first.
    pub async fn breaker_history(&self, limit: usize) -> Result<Vec<BreakerChange>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT at_ms, state, reason FROM breaker_history ORDER BY id DESC LIMIT ?1",
            )?;
            let rows = statement.query_map([limit as i64], |row| {
                Ok(BreakerChange {
                    at_ms: row.get(0)?,
                    state: text(row, 1)?,
                    reason: text_if_any(row, 2)?,
                })
            })?;
            readable(rows)
        })
        .await
    }

    /// Adds a minute and drops those beyond a week's number. Once the clock is known to be right,
    /// it also drops minutes older than a week or in the future, written while the clock was wrong.
    pub async fn note_minute(
        &self,
        row: HistoryRow,
        clock_is_right: bool,
    ) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO history (minute, pending, accepted, processed, failed, stages, celsius)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )?
                .execute(params![
                    row.minute,
                    row.pending,
                    row.accepted,
                    row.processed,
                    row.failed,
                    serde_json::json!(row.stages).to_string(),
                    row.celsius
                ])?;
            if clock_is_right {
                connection
                    .prepare_cached("DELETE FROM history WHERE minute > ?1 OR minute <= ?1 - ?2")?
                    .execute([row.minute, MINUTES_KEPT])?;
            }
            connection
                .prepare_cached(
                    "DELETE FROM history
                      WHERE minute <= (SELECT minute FROM history ORDER BY minute DESC LIMIT 1 OFFSET ?1)",
                )?
                .execute([MINUTES_KEPT])
                .map(drop)
        })
        .await
    }

    /// Adds a change of the circuit breaker and drops the oldest beyond a thousand.
    pub async fn note_breaker(
        &self,
        state: String,
        reason: Option<String>,
    ) -> Result<(), StoreError> {
        let at_ms = wall_clock_ms();
        self.write(Commit::Deferred, move |connection: &Connection| {
            connection
                .prepare_cached("INSERT INTO breaker_history (at_ms, state, reason) VALUES (?1, ?2, ?3)")?
                .execute(params![at_ms, state, reason])?;
            connection
                .prepare_cached("DELETE FROM breaker_history WHERE id <= (SELECT max(id) FROM breaker_history) - ?1")?
                .execute([CHANGES_KEPT])
                .map(drop)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(minute: i64) -> HistoryRow {
        let stages = [1.0, 20.5, 0.25, 7.0, 2.0];
        HistoryRow {
            minute,
            pending: 3,
            accepted: 2,
            processed: 1,
            failed: 0,
            stages,
            celsius: Some(51.5),
        }
    }

    async fn minutes(store: &Store) -> Vec<i64> {
        store.settle().await.unwrap();
        store
            .history(0, usize::from(u16::MAX))
            .await
            .unwrap()
            .iter()
            .map(|row| row.minute)
            .collect()
    }

    #[tokio::test]
    async fn a_week_of_minutes_is_kept_and_those_of_a_wrong_clock_go() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let now = 29_800_000;
        // Minutes written before the clock was set, and while it was set to the future.
        for at in [7, now + 50_000, now - 1, now] {
            store.note_minute(minute(at), false).await.unwrap();
        }
        assert_eq!(minutes(&store).await, [7, now - 1, now, now + 50_000]);
        assert_eq!(
            store.history(now - 1, 2).await.unwrap(),
            [minute(now), minute(now + 50_000)]
        );
        store.note_minute(minute(now + 1), true).await.unwrap();
        assert_eq!(minutes(&store).await, [now - 1, now, now + 1]);
        // A clock that is never set keeps no more than a week either.
        for at in 0..MINUTES_KEPT + 5 {
            store.note_minute(minute(at + now), false).await.unwrap();
        }
        let kept = minutes(&store).await;
        assert_eq!((kept.len() as i64, kept[0]), (MINUTES_KEPT, now + 5));
    }

    #[tokio::test]
    async fn breaker_changes_are_read_newest_first_and_a_thousand_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        for number in 0..CHANGES_KEPT + 2 {
            store
                .note_breaker("open".into(), Some(format!("five failures, {number}")))
                .await
                .unwrap();
        }
        store.note_breaker("closed".into(), None).await.unwrap();
        store.settle().await.unwrap();
        let changes = store.breaker_history(5000).await.unwrap();
        assert_eq!(
            (changes.len() as i64, changes[0].state.as_str()),
            (CHANGES_KEPT, "closed")
        );
        assert_eq!(changes[1].reason.as_deref(), Some("five failures, 1001"));
    }
}
