//! What the queue did since somebody last asked, for the charts. Nothing is decided from it.

use crate::domain::Timings;

/// Counted since the last time.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Images taken in.
    pub accepted: u64,
    /// Images processed.
    pub processed: u64,
    /// Images failed.
    pub failed: u64,
    /// Milliseconds in all, and of how many pictures.
    stages: [f64; 5],
    timed: u32,
}

impl Tally {
    /// One more was processed; some engines do not say how long it took them.
    pub fn processed(&mut self, timings: Option<&Timings>) {
        self.processed += 1;
        if let Some(timings) = timings {
            let Timings {
                decode_ms,
                detect_ms,
                align_ms,
                embed_ms,
                encode_ms,
            } = *timings;
            self.timed += 1;
            for (sum, ms) in self
                .stages
                .iter_mut()
                .zip([decode_ms, detect_ms, align_ms, embed_ms, encode_ms])
            {
                *sum += ms;
            }
        }
    }

    /// Mean milliseconds a picture: decode, detect, align, embed, encode.
    pub fn mean_stages(&self) -> [f64; 5] {
        self.stages.map(|sum| sum / f64::from(self.timed.max(1)))
    }
}
