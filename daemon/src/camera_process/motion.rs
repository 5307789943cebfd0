//! Detects motion: compares the brightness in each cell of a grid with its recent average. Cheap on
//! purpose; it does not classify what moved.

use std::time::{Duration, Instant};

/// Difference in brightness, of 255 levels, at which a cell has changed.
const CHANGED: f32 = 12.0;
/// Weight of a new frame in the average: a person who stands still becomes background after a few
/// seconds.
const LEARNING: f32 = 0.1;
/// Number of first frames that only train the average: a camera that was just opened still adjusts
/// its exposure.
const FIRST: u32 = 5;

/// Reports motion, and then none for a while.
pub struct Gate {
    still: Vec<f32>,
    learned: u32,
    /// Share of the cells, 0 to 1.
    area: f32,
    cool_down: Duration,
    closed_until: Option<Instant>,
}

impl Gate {
    /// Makes a gate that reports motion when `per_cent` of the picture have changed, and not again
    /// within `cool_down`.
    pub fn new(per_cent: u32, cool_down: Duration) -> Self {
        Self {
            still: Vec::new(),
            learned: 0,
            area: per_cent as f32 / 100.0,
            cool_down,
            closed_until: None,
        }
    }

    /// Processes a frame's cells; returns true on motion.
    pub fn opens(&mut self, cells: &[u8], now: Instant) -> bool {
        if self.still.len() != cells.len() {
            self.still = cells.iter().copied().map(f32::from).collect();
            self.learned = 0;
        }
        let changes: Vec<f32> = cells
            .iter()
            .zip(&self.still)
            .map(|(cell, still)| f32::from(*cell) - still)
            .collect();
        // A lamp, a cloud or the exposure changes all cells alike and is not motion.
        let mut sorted = changes.clone();
        let middle = sorted.len() / 2;
        sorted.select_nth_unstable_by(middle, f32::total_cmp);
        let of_all = sorted[middle];
        let changed = changes
            .iter()
            .filter(|change| (**change - of_all).abs() > CHANGED)
            .count();
        for (still, change) in self.still.iter_mut().zip(&changes) {
            *still += LEARNING * change;
        }
        self.learned = self.learned.saturating_add(1);
        let moves = self.learned > FIRST && changed as f32 >= self.area * cells.len() as f32;
        if !moves || self.closed_until.is_some_and(|until| now < until) {
            return false;
        }
        self.closed_until = Some(now + self.cool_down);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOL_DOWN: Duration = Duration::from_secs(10);

    /// Makes a gate that has learned an even grey room.
    fn gate() -> (Gate, Instant) {
        let (mut gate, now) = (Gate::new(2, COOL_DOWN), Instant::now());
        assert!((0..10).all(|_| !gate.opens(&[100; 1000], now)));
        (gate, now)
    }

    fn with_change(cells: usize, level: u8) -> Vec<u8> {
        let mut room = vec![100; 1000];
        room[..cells].fill(level);
        room
    }

    #[test]
    fn noise_a_lamp_and_a_fly_are_no_motion_and_a_person_is() {
        let (mut gate, now) = gate();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let noise: Vec<u8> = (0..1000).map(|_| random.u8(95..=105)).collect();
            assert!(!gate.opens(&noise, now));
        }
        assert!(!gate.opens(&[180; 1000], now), "a lamp");
        let (mut gate, now) = self::gate();
        assert!(!gate.opens(&with_change(19, 200), now), "a fly");
        assert!(gate.opens(&with_change(20, 200), now));
        assert!(
            self::gate().0.opens(&with_change(20, 80), now),
            "a person in dark clothes"
        );
    }

    #[test]
    fn motion_is_seen_once_in_a_cool_down() {
        let (mut gate, now) = gate();
        assert!(gate.opens(&with_change(100, 200), now));
        assert!(!gate.opens(&with_change(200, 220), now + COOL_DOWN / 2));
        assert!(gate.opens(&with_change(300, 240), now + COOL_DOWN));
    }

    #[test]
    fn a_still_object_becomes_background_and_first_frames_teach() {
        let (mut gate, now) = gate();
        for _ in 0..40 {
            gate.opens(&with_change(100, 200), now);
        }
        assert!(!gate.opens(&with_change(100, 200), now + 2 * COOL_DOWN));
        let mut fresh = Gate::new(2, COOL_DOWN);
        assert!(!fresh.opens(&[0; 1000], now));
        assert!(
            !fresh.opens(&with_change(500, 255), now),
            "exposure still settles"
        );
        // Another resolution starts over.
        assert!(!gate.opens(&[200; 500], now + 2 * COOL_DOWN));
    }
}
