//! Queue clock: milliseconds this database has been in use.
//!
//! Boards have no clock battery, so retry times never use the wall clock. The clock goes on from the last value
//! written with a row; time spent switched off does not count, so a wait can only be repeated, never skipped for ever.

use std::time::Duration;

use tokio::time::Instant;

/// The clock of one run.
#[derive(Debug, Clone, Copy)]
pub struct QueueClock {
    base_ms: i64,
    started: Instant,
}

impl QueueClock {
    /// Goes on from `base_ms`.
    pub fn resume(base_ms: i64) -> Self {
        Self { base_ms, started: Instant::now() }
    }

    /// Now.
    pub fn now_ms(&self) -> i64 {
        self.base_ms + i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX / 2)
    }

    /// How long until `due_ms`.
    pub fn until(&self, due_ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(due_ms - self.now_ms()).unwrap_or(0))
    }
}
