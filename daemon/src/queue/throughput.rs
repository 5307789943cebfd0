//! Throughput counters of the queue, for the charts. No decision depends on them.

use crate::domain::Timings;

/// Counts since the last reading.
#[derive(Debug, Clone, Default)]
pub struct ThroughputCounters {
    /// Images accepted.
    pub accepted: u64,
    /// Images processed.
    pub processed: u64,
    /// Images failed.
    pub failed: u64,
    /// Total milliseconds per stage, and the number of pictures timed.
    stages: [f64; 5],
    timed: u32,
}

impl ThroughputCounters {
    /// Counts a processed image; some engines report no timings.
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

    /// Returns mean milliseconds per picture: decode, detect, align, embed, encode.
    pub fn mean_stages(&self) -> [f64; 5] {
        self.stages.map(|sum| sum / f64::from(self.timed.max(1)))
    }
}
