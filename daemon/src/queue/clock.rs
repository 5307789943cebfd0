//! Two clocks: the queue clock, which counts the milliseconds this database has been in use, and
//! the board's clock, as far as it is trustworthy.
//!
//! Boards have no clock battery, so retry times never use the wall clock. The queue clock resumes
//! from the last value written with a row. Time spent switched off does not count, so a wait may be
//! repeated but is never skipped for ever.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// systemd-timesyncd creates this file once a time server has answered. The kernel knows about
/// every client, but the unit blocks the system call that asks it (`ProtectClock=`).
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
/// Smallest difference between the clocks that counts as a jump.
const JUMP: Duration = Duration::from_secs(60);

/// The queue clock of one run.
#[derive(Debug, Clone, Copy)]
pub struct QueueClock {
    base_ms: i64,
    started: Instant,
}

impl QueueClock {
    /// Resumes from `base_ms`.
    pub fn resume(base_ms: i64) -> Self {
        Self {
            base_ms,
            started: Instant::now(),
        }
    }

    /// Returns the current reading in milliseconds.
    pub fn now_ms(&self) -> i64 {
        self.base_ms + i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX / 2)
    }

    /// Returns the reading at the start of this run.
    pub fn started_ms(&self) -> i64 {
        self.base_ms
    }

    /// Returns the time left until `due_ms`.
    pub fn until(&self, due_ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(due_ms - self.now_ms()).unwrap_or(0))
    }
}

/// Returns whether the board's clock is synchronised.
pub fn synchronised() -> bool {
    Path::new(SYNCHRONISED).exists()
}

/// Tracks the board's clock from one check to the next.
#[derive(Debug, Default)]
pub struct Steadiness {
    /// Both clocks at the last check, and since when they have agreed.
    last: Option<(Instant, i64, Instant)>,
}

impl Steadiness {
    /// Returns how long the board's clock has been synchronised and free of jumps, as far as these
    /// checks can tell.
    pub fn look(&mut self, synchronised: bool, wall_ms: i64, now: Instant) -> Option<Duration> {
        if !synchronised {
            self.last = None;
            return None;
        }
        let even = |(then, then_ms, _): &(Instant, i64, Instant)| {
            let gone_on = i64::try_from((now - *then).as_millis()).unwrap_or(i64::MAX);
            (wall_ms.saturating_sub(*then_ms)).abs_diff(gone_on) <= JUMP.as_millis() as u64
        };
        let since = self.last.filter(even).map_or(now, |(_, _, since)| since);
        self.last = Some((now, wall_ms, since));
        Some(now - since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_steady_since_it_was_synchronised_or_last_jumped() {
        let (mut clock, start) = (Steadiness::default(), Instant::now());
        let year_ms = 365 * 86_400_000;
        let mut look = |synchronised, seconds, jumped_ms| {
            let wall_ms = 1_800_000_000_000 + i64::try_from(seconds).unwrap() * 1000 + jumped_ms;
            clock
                .look(synchronised, wall_ms, start + Duration::from_secs(seconds))
                .map(|steady| steady.as_secs())
        };
        assert_eq!(look(false, 0, -year_ms), None);
        assert_eq!(look(true, 10, 0), Some(0));
        // A time server adjusts the clock in small steps.
        assert_eq!(look(true, 20, 40_000), Some(10));
        assert_eq!(look(true, 3620, 0), Some(3610));
        assert_eq!(look(true, 3630, year_ms), Some(0), "it jumped forward");
        assert_eq!(look(true, 3640, year_ms), Some(10));
        assert_eq!(look(true, 3650, 0), Some(0), "it jumped back");
        assert_eq!(look(false, 3660, 0), None);
        assert_eq!(look(true, 3670, 0), Some(0));
    }
}
