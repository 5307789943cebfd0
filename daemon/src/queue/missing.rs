//! Images that wait for their file or its root. Checks find out when they can go on, and they are
//! counted apart from the rest of the queue.

use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::{Again, Failure, Queue, QueueError};
use crate::config;
use crate::domain::{ImageId, Source, Standing};
use crate::store::{Look, Looks};

/// Images per check.
const BATCH: usize = 500;

impl Queue {
    /// Notifies on every commit: there may be new files to check.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }

    /// Returns the oldest pending image.
    pub async fn oldest_pending(&self) -> Result<ImageId, QueueError> {
        Ok(self.store.oldest_pending().await?)
    }

    /// Returns the next images after `after` whose files were not checked yet, and the last id
    /// examined, `None` at the end.
    pub async fn unseen(&self, after: ImageId) -> Result<(Vec<Look>, Option<ImageId>), QueueError> {
        Ok(self.store.unseen(after, BATCH).await?)
    }

    /// Returns the next images after `after` that wait for their file; an empty list at the end.
    pub async fn missing(&self, after: ImageId) -> Result<Vec<Look>, QueueError> {
        Ok(self.store.missing(after, BATCH).await?)
    }

    /// Returns whether a waiting image needs a check; one that is due is claimed anyway.
    pub fn waits(&self, look: &Look) -> bool {
        look.due_ms > self.clock.now_ms()
    }

    /// Returns the estimated number of images that wait for their file, by source in the order of
    /// [`Source::ALL`].
    pub fn missing_by_source(&self) -> [u64; Source::ALL.len()] {
        std::array::from_fn(|source| self.missing[source].load(Ordering::Relaxed))
    }

    /// Corrects the estimate from `thought` to the counted number; images that began to wait in
    /// between stay included.
    pub fn count_missing(
        &self,
        thought: [u64; Source::ALL.len()],
        counts: [u64; Source::ALL.len()],
    ) {
        for (missing, (thought, count)) in self.missing.iter().zip(thought.into_iter().zip(counts))
        {
            missing.fetch_add(count.wrapping_sub(thought), Ordering::Relaxed);
        }
    }

    /// Returns the number of images that wait for their file.
    pub fn missing_total(&self) -> u64 {
        self.missing_by_source().iter().sum()
    }

    /// Returns whether another image of this source may wait for its file.
    pub(super) fn may_miss(&self, source: Source) -> bool {
        self.missing[source as usize].load(Ordering::Relaxed) < self.rules.max_missing
    }

    /// Counts another image that waits for its file.
    pub(super) fn misses(&self, source: Source) {
        self.missing[source as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Stores the outcome of checks: which images go on, and which wait how long. Failures that
    /// waiting cannot cure are left to the claim, which reports them.
    pub async fn looked(
        &self,
        looked: Vec<(Look, Result<Standing, Failure>)>,
    ) -> Result<(), QueueError> {
        let now_ms = self.clock.now_ms();
        let mut looks = Looks::default();
        for (look, found) in looked {
            match (look.missing_since_ms, found) {
                (None, Ok(standing)) => looks.seen.push((look.id, standing)),
                (Some(_), Ok(standing)) => looks.due.push((look.id, Some(standing))),
                (since_ms, Err(failure)) => {
                    let verdict = failure.verdict();
                    let until_ms = longest_wait_ms(&self.rules.retry, verdict.again)
                        .map(|wait_ms| since_ms.unwrap_or(now_ms).saturating_add(wait_ms));
                    match (since_ms, until_ms) {
                        (None, Some(until_ms)) if self.may_miss(look.source) => {
                            self.misses(look.source);
                            looks.missing.push((look.id, until_ms, verdict.sentence));
                        }
                        (Some(_), Some(until_ms)) if until_ms > now_ms => {}
                        (Some(_), _) => looks.due.push((look.id, None)),
                        (None, _) => {}
                    }
                }
            }
        }
        if looks.seen.is_empty() && looks.missing.is_empty() && looks.due.is_empty() {
            return Ok(());
        }
        Ok(self.store.note_looks(looks, now_ms).await?)
    }
}

/// Returns the longest wait for a missing file or root; `None` when waiting does not help.
pub(super) fn longest_wait_ms(retry: &config::Retry, again: Again) -> Option<i64> {
    let longest = match again {
        Again::WhileFileMissing => retry.missing_file,
        Again::WhileRootMissing => retry.missing_root,
        _ => return None,
    };
    Some(i64::try_from(longest.as_millis()).unwrap_or(i64::MAX))
}
