//! Images that wait for their file or its root: found by looking, not by trying, and counted apart
//! from the others.

use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::{Again, Failure, Queue, QueueError};
use crate::config;
use crate::domain::{ImageId, Source, Standing};
use crate::store::{Look, Looks};

/// Images in one look.
const BATCH: usize = 500;

impl Queue {
    /// Changes whenever something was committed: there may be files to look at.
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }

    /// The oldest image that waits.
    pub async fn oldest_pending(&self) -> Result<ImageId, QueueError> {
        Ok(self.store.oldest_pending().await?)
    }

    /// Images accepted after `after` whose files were not looked at, some at a time; `None`: there
    /// are no more images.
    pub async fn unseen(&self, after: ImageId) -> Result<(Vec<Look>, Option<ImageId>), QueueError> {
        Ok(self.store.unseen(after, BATCH).await?)
    }

    /// Images after `after` that wait for their file, some at a time; none: that was all.
    pub async fn missing(&self, after: ImageId) -> Result<Vec<Look>, QueueError> {
        Ok(self.store.missing(after, BATCH).await?)
    }

    /// Whether an image that waits for its file is to be looked at now; the others are claimed
    /// anyway.
    pub fn waits(&self, look: &Look) -> bool {
        look.due_ms > self.clock.now_ms()
    }

    /// How many images of each source are thought to wait for their file, in the order of
    /// [`Source::ALL`].
    pub fn missing_by_source(&self) -> [u64; Source::ALL.len()] {
        std::array::from_fn(|source| self.missing[source].load(Ordering::Relaxed))
    }

    /// As many as these were thought to wait, and so many do; those that have begun to since then
    /// are counted on.
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

    /// Images that wait for their file, all together.
    pub fn missing_total(&self) -> u64 {
        self.missing_by_source().iter().sum()
    }

    /// Whether one more image of this source may wait for its file.
    pub(super) fn may_miss(&self, source: Source) -> bool {
        self.missing[source as usize].load(Ordering::Relaxed) < self.rules.max_missing
    }

    /// One more waits for its file.
    pub(super) fn misses(&self, source: Source) {
        self.missing[source as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes down what looks at files found: who goes on, who waits and for how long. What cannot
    /// be mended by waiting is left to the claim, which says so.
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

/// How long an image waits for what is missing; `None`: waiting does not help.
pub(super) fn longest_wait_ms(retry: &config::Retry, again: Again) -> Option<i64> {
    let longest = match again {
        Again::WhileFileMissing => retry.missing_file,
        Again::WhileRootMissing => retry.missing_root,
        _ => return None,
    };
    Some(i64::try_from(longest.as_millis()).unwrap_or(i64::MAX))
}
