//! Two clocks. The queue clock: milliseconds this database has been in use. And the board's, as far
//! as it can be believed.
//!
//! Boards have no clock battery, so retry times never use the wall clock. The queue clock goes on
//! from the last value written with a row; time spent switched off does not count, so a wait can
//! only be repeated, never skipped for ever.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

/// systemd-timesyncd makes it once a time server has answered. The kernel would know of every
/// client, but asking it is among the calls that the unit closes (`ProtectClock=`).
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";
/// A difference between the clocks that is a jump.
const JUMP: Duration = Duration::from_secs(60);

/// The queue clock of one run.
#[derive(Debug, Clone, Copy)]
pub struct QueueClock {
    base_ms: i64,
    started: Instant,
}

impl QueueClock {
    /// Goes on from `base_ms`.
    pub fn resume(base_ms: i64) -> Self {
        Self {
            base_ms,
            started: Instant::now(),
        }
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

/// Whether the board's clock is said to be right.
pub fn synchronised() -> bool {
    Path::new(SYNCHRONISED).exists()
}

/// Watches the board's clock from one look to the next.
#[derive(Debug, Default)]
pub struct Steadiness {
    /// Both clocks at the last look, and since when they have agreed.
    last: Option<(Instant, i64, Instant)>,
}

impl Steadiness {
    /// How long the board's clock has been synchronised and gone on without a jump, which only
    /// looking can tell.
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
        // Set straight in small steps, as time servers have it done.
        assert_eq!(look(true, 20, 40_000), Some(10));
        assert_eq!(look(true, 3620, 0), Some(3610));
        assert_eq!(look(true, 3630, year_ms), Some(0), "it jumped forward");
        assert_eq!(look(true, 3640, year_ms), Some(10));
        assert_eq!(look(true, 3650, 0), Some(0), "it jumped back");
        assert_eq!(look(false, 3660, 0), None);
        assert_eq!(look(true, 3670, 0), Some(0));
    }
}
