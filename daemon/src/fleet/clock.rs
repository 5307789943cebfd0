//! The order of edits made on boards whose clocks may be wrong: a hybrid logical clock.
//!
//! Not for when anything happened: a stamp is at least as late as every edit that its board knew of,
//! whatever the wall clock said.

use std::fmt;

/// Latest time of a stamp, in milliseconds since 1970: in the year 2248. Later ones are refused, so
/// that no record pushes the clocks of a fleet to their end.
pub const LATEST_MS: u64 = 1 << 43;
/// Latest time that is taken from a wall clock: a year before, so that counting goes on behind it.
const LATEST_WALL_MS: u64 = LATEST_MS - 366 * 24 * 3_600_000;

/// A board's number in its fleet: 8 random bytes, drawn when it joins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoardId(pub [u8; 8]);

impl fmt::Display for BoardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for BoardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The moment of an edit. Stamps of all boards have one order: by time, then count, then board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Milliseconds since 1970, or later if the board knew of a later edit.
    pub ms: u64,
    /// Number of the edit among those with the same `ms`.
    pub count: u32,
    /// The board that made the edit.
    pub board: BoardId,
}

/// A board's hybrid logical clock.
///
/// Source: Kulkarni et al., "Logical Physical Clocks", OPODIS 2014, figure 5. Unlike there, an
/// overflowing count carries into the milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    ms: u64,
    count: u32,
    board: BoardId,
}

impl Clock {
    /// Makes the clock of a board from the last `ms` and `count` that it stored, which are 0 at first.
    pub fn new(board: BoardId, ms: u64, count: u32) -> Self {
        Self { ms, count, board }
    }

    /// Issues the stamp of an edit: later than every stamp issued or seen. `wall_ms` is the wall
    /// clock in milliseconds since 1970, as wrong as it may be.
    ///
    /// At the end of all stamps ([`LATEST_MS`], largest count) it issues that one again, and equal
    /// stamps are decided by what was edited.
    pub fn now(&mut self, wall_ms: i64) -> Stamp {
        let wall_ms = u64::try_from(wall_ms).unwrap_or(0).min(LATEST_WALL_MS);
        if wall_ms > self.ms {
            (self.ms, self.count) = (wall_ms, 0);
        } else if let Some(next) = self.count.checked_add(1) {
            self.count = next;
        } else if self.ms < LATEST_MS {
            (self.ms, self.count) = (self.ms + 1, 0);
        }
        Stamp {
            ms: self.ms,
            count: self.count,
            board: self.board,
        }
    }

    /// Takes note of another board's stamp, or of one of this board's that it forgot.
    pub fn saw(&mut self, stamp: &Stamp) {
        (self.ms, self.count) = (self.ms, self.count).max((stamp.ms, stamp.count));
    }

    /// Returns the last `ms` and `count`, to be stored with the records stamped by them.
    pub fn last(&self) -> (u64, u32) {
        (self.ms, self.count)
    }

    /// Returns the board whose clock this is.
    pub fn board(&self) -> BoardId {
        self.board
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR_MS: i64 = 365 * 24 * 3_600_000;
    const NOW_MS: i64 = 1_800_000_000_000;

    fn clock(board: u8) -> Clock {
        Clock::new(BoardId([board; 8]), 0, 0)
    }

    #[test]
    fn stamps_grow_whatever_the_wall_clock_says() {
        let mut clock = clock(1);
        let walls = [NOW_MS, NOW_MS, NOW_MS - YEAR_MS, -5, i64::MIN, NOW_MS + 1];
        let stamps = walls.map(|wall_ms| clock.now(wall_ms));
        assert!(stamps.is_sorted_by(|a, b| a < b), "{stamps:?}");
        assert_eq!(stamps[5].count, 0);
        assert_eq!(clock.last(), (stamps[5].ms, 0));
    }

    #[test]
    fn an_edit_is_later_than_those_its_board_has_seen() {
        let (mut fast, mut slow) = (clock(9), clock(1));
        let theirs = fast.now(NOW_MS + YEAR_MS);
        assert!(slow.now(NOW_MS) < theirs);
        slow.saw(&theirs);
        let ours = slow.now(NOW_MS);
        assert!(ours > theirs);
        // An older stamp changes nothing.
        slow.saw(&Stamp { ms: 5, ..theirs });
        assert!(slow.now(NOW_MS) > ours);
    }

    #[test]
    fn a_full_count_carries_into_the_time() {
        let mut clock = Clock::new(BoardId([1; 8]), 70, u32::MAX);
        let stamp = clock.now(0);
        assert_eq!((stamp.ms, stamp.count), (71, 0));
    }

    #[test]
    fn a_wall_clock_at_its_end_leaves_room_to_count() {
        let mut clock = clock(1);
        let first = clock.now(i64::MAX);
        assert!(first.ms < LATEST_MS);
        assert!(clock.now(i64::MAX) > first);
        let mut pushed = Clock::new(BoardId([1; 8]), LATEST_MS, u32::MAX);
        assert_eq!(pushed.now(0).ms, LATEST_MS);
    }
}
