//! Waits before a camera's process is started again, which grow from start to start.

use std::time::Duration;

/// Waits after processes that end.
pub struct BackOff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl BackOff {
    /// Shortest run that counts as good.
    const WELL: Duration = Duration::from_secs(60);

    /// Makes the waits after a login that the camera refused. Many cameras lock an account after a
    /// few of them, some for ever.
    pub fn of_login() -> Self {
        Self::new(Duration::from_secs(60), Duration::from_secs(600))
    }

    fn new(first: Duration, longest: Duration) -> Self {
        Self {
            next: first,
            first,
            longest,
        }
    }

    /// Returns the wait after a process that ran so long.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= Self::WELL {
            self.next = self.first;
        }
        self.pause()
    }

    /// Returns the wait after a process that ran in vain.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * self.next).min(self.longest);
        pause
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(60))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The backoff resets after a process that ran well.
    #[test]
    fn a_process_that_keeps_ending_is_restarted_with_backoff() {
        let mut back_off = BackOff::default();
        let pauses: Vec<_> = (0..8)
            .map(|_| back_off.after(Duration::from_secs(3)).as_secs())
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(back_off.after(BackOff::WELL).as_secs(), 1);
        assert_eq!(back_off.after(Duration::ZERO).as_secs(), 2);
    }

    #[test]
    fn a_refused_login_is_tried_again_after_one_to_ten_minutes() {
        let mut back_off = BackOff::of_login();
        let pauses: Vec<_> = (0..6).map(|_| back_off.pause().as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 480, 600, 600]);
    }
}
