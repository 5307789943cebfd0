//! Rules of the durable queue: submit, claim, finish, fail, and the retry schedule.
//!
//! Every move of an image between states goes through here. The queue opens no picture and knows no
//! source.

mod clock;
mod failure;
mod missing;
mod recover;
mod retention;
mod throughput;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config;
use crate::domain::{
    Accepted, Claimed, EngineRole, Identified, ImageId, NewImage, Source, wall_clock_ms,
};
use crate::store::{End, ImageChange, Limits, NotAccepted, Place, PutBack, Store, StoreError};
use missing::longest_wait_ms;

pub use clock::{QueueClock, synchronised};
pub use failure::{Again, Failure};
pub use retention::sweep;
pub use throughput::ThroughputCounters;

/// Failure of a queue operation.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The queue holds as many unfinished images as allowed.
    #[error(
        "no room for {count} more: {unfinished} images are waiting and intake.max_pending = \
         {limit}; try again later, or send fewer at a time"
    )]
    Full {
        /// Number of submitted images.
        count: u64,
        /// Unfinished images, except those that wait for their file.
        unfinished: u64,
        /// `intake.max_pending`.
        limit: u64,
    },
    /// The request exceeds the queue's capacity.
    #[error(
        "{count} images at once are more than intake.max_pending = {limit}; send fewer at a time"
    )]
    TooMany {
        /// Number of submitted images.
        count: u64,
        /// `intake.max_pending`.
        limit: u64,
    },
    /// Unfinished camera frames take as many bytes as allowed.
    #[error(
        "waiting frames fill the camera's spool (retention.camera.bytes = {limit}); the camera \
         goes on when some are done"
    )]
    CameraFull {
        /// `retention.camera.bytes`.
        limit: u64,
    },
    /// The idempotency key belongs to a different picture.
    #[error("the idempotency key {key:?} was used for another picture; use a new key for each")]
    KeyReused {
        /// Key as sent.
        key: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Settings of the queue.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Retry schedule.
    pub retry: config::Retry,
    /// Most unfinished images, except those that wait for their file.
    pub max_pending: u64,
    /// Most images of one source that wait for their file or its root.
    pub max_missing: u64,
    /// Most bytes of unfinished camera frames; `None` for no limit.
    pub max_camera_bytes: Option<u64>,
    /// Name of the board, part of every result.
    pub device: String,
    /// False when MQTT is off and results need no delivery.
    pub publish: bool,
}

#[cfg(test)]
impl Rules {
    /// The default retry schedule, room for a thousand images, and results that are published.
    pub fn for_tests() -> Self {
        Self {
            retry: config::Config::default().retry,
            max_pending: 1000,
            max_missing: 10,
            max_camera_bytes: None,
            device: "board".into(),
            publish: true,
        }
    }
}

/// The queue; clones share it.
#[derive(Clone)]
pub struct Queue {
    store: Store,
    clock: QueueClock,
    rules: Arc<Rules>,
    /// Images that wait for their file, by source.
    missing: Arc<[AtomicU64; Source::ALL.len()]>,
    throughput: Arc<Mutex<ThroughputCounters>>,
}

/// Interval between attempts while claims are blocked.
const HELD: Duration = Duration::from_millis(100);

/// Result of a claim.
#[derive(Debug)]
pub struct Claim {
    /// Images now `processing`.
    pub images: Vec<Claimed>,
    /// Time until the next image is due, if any is waiting.
    pub next_due: Option<Duration>,
}

impl Queue {
    /// Opens the queue; call `recover` before the first claim.
    pub async fn open(store: Store, rules: Rules) -> Result<Self, QueueError> {
        let clock = QueueClock::resume(store.queue_clock().await?);
        Ok(Self {
            store,
            clock,
            rules: Arc::new(rules),
            missing: Arc::default(),
            throughput: Arc::default(),
        })
    }

    /// Returns the queue clock.
    pub fn clock(&self) -> QueueClock {
        self.clock
    }

    /// Checks whether another camera frame of this size may wait, before it is written.
    pub async fn check_camera_capacity(&self, bytes: u64) -> Result<(), QueueError> {
        let Some(limit) = self.rules.max_camera_bytes else {
            return Ok(());
        };
        if self.store.unfinished().await?.camera_bytes + bytes > limit {
            return Err(QueueError::CameraFull { limit });
        }
        Ok(())
    }

    /// Accepts images, all or none; they are on disk when this returns.
    pub async fn submit(&self, images: Vec<NewImage>) -> Result<Vec<Accepted>, QueueError> {
        let (count, limit) = (images.len() as u64, self.rules.max_pending);
        if count > limit {
            return Err(QueueError::TooMany { count, limit });
        }
        // Images that wait for their file have a limit of their own.
        let missing = self.missing_total();
        let limits = Limits {
            images: limit + missing,
            camera_bytes: self.rules.max_camera_bytes,
        };
        let (now_ms, wall_ms) = (self.clock.now_ms(), wall_clock_ms());
        let accepted = self
            .store
            .accept(images, limits, now_ms, wall_ms, clock::synchronised())
            .await?;
        match accepted {
            Ok(accepted) => {
                let new = accepted.iter().filter(|image| image.new).count() as u64;
                self.count(|throughput| throughput.accepted += new);
                Ok(accepted)
            }
            Err(NotAccepted::KeyReused(key)) => Err(QueueError::KeyReused { key }),
            Err(NotAccepted::Full(unfinished)) => Err(QueueError::Full {
                count,
                unfinished: unfinished.saturating_sub(missing),
                limit,
            }),
            Err(NotAccepted::CameraFull) => Err(QueueError::CameraFull {
                limit: self.rules.max_camera_bytes.unwrap_or_default(),
            }),
        }
    }

    /// Compares the open database with the one in the state folder.
    pub fn place(&self) -> Place {
        self.store.place()
    }

    /// Checks that a commit reaches the disk.
    pub async fn try_disk(&self) -> Result<(), QueueError> {
        Ok(self
            .store
            .set_fact("tried_disk", wall_clock_ms().to_string())
            .await?)
    }

    /// Returns the number of unfinished images, except those that wait for their file, and its
    /// limit.
    pub async fn load(&self) -> Result<(u64, u64), QueueError> {
        let unfinished = self.store.unfinished().await?.images;
        Ok((
            unfinished.saturating_sub(self.missing_total()),
            self.rules.max_pending,
        ))
    }

    /// Returns the throughput since the last call and resets its counters.
    pub fn take_throughput(&self) -> ThroughputCounters {
        let mut taken = ThroughputCounters::default();
        self.count(|throughput| std::mem::swap(throughput, &mut taken));
        taken
    }

    fn count(&self, change: impl FnOnce(&mut ThroughputCounters)) {
        change(&mut self.throughput.lock());
    }

    /// Notifies whenever an operation is done, so that the caller can look for work again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.store.work()
    }

    /// Claims at most `most` due images. An image that must run alone is claimed only when `idle`,
    /// and by itself.
    pub async fn claim(&self, most: usize, idle: bool) -> Result<Claim, QueueError> {
        if self.store.claims_are_held() {
            return Ok(Claim {
                images: Vec::new(),
                next_due: Some(HELD),
            });
        }
        let (images, next_ms) = self.store.claim(most, idle, self.clock.now_ms()).await?;
        Ok(Claim {
            images,
            next_due: next_ms.map(|next_ms| self.clock.until(next_ms)),
        })
    }

    /// Ends an image with its result. Returns false, and writes nothing, when it had already ended
    /// elsewhere.
    pub async fn finish(
        &self,
        claimed: Claimed,
        identified: Identified,
    ) -> Result<bool, QueueError> {
        let end = self.end(&claimed);
        let (end, identified) = (Arc::new(end), Arc::new(identified));
        let done = self
            .until_stored(|| self.store.finish(Arc::clone(&end), Arc::clone(&identified)))
            .await?;
        if done {
            self.count(|throughput| throughput.processed(identified.timings.as_ref()));
        }
        Ok(done)
    }

    /// Puts an image back or fails it, according to the failure's verdict.
    pub async fn fail(&self, claimed: Claimed, failure: &Failure) -> Result<(), QueueError> {
        let verdict = failure.verdict();
        let now_ms = self.clock.now_ms();
        let since_ms = claimed.missing_since_ms.unwrap_or(now_ms);
        let missing = Duration::from_millis(u64::try_from(now_ms - since_ms).unwrap_or(0));
        let retry = &self.rules.retry;
        let newly_missing =
            claimed.missing_since_ms.is_none() && longest_wait_ms(retry, verdict.again).is_some();
        if newly_missing && claimed.file.is_none() && !self.may_miss(claimed.source) {
            let sentence = format!(
                "{}; kithd does not wait for it: {} images of {} wait for their files, as many as \
                 intake.max_missing allows",
                verdict.sentence, self.rules.max_missing, claimed.source
            );
            return self.give_up(claimed, failure, sentence).await;
        }
        let (wait, refund) = match verdict.again {
            Again::Final => return self.give_up(claimed, failure, verdict.sentence).await,
            Again::Attempt if claimed.attempts >= retry.attempts => {
                let sentence = format!(
                    "{}; given up after {} attempts",
                    verdict.sentence, claimed.attempts
                );
                return self.give_up(claimed, failure, sentence).await;
            }
            Again::WhileFileMissing if missing >= retry.missing_file => {
                return self
                    .give_up(claimed, failure, waited_in_vain(&verdict.sentence, missing))
                    .await;
            }
            Again::WhileRootMissing if missing >= retry.missing_root => {
                return self
                    .give_up(claimed, failure, waited_in_vain(&verdict.sentence, missing))
                    .await;
            }
            Again::Attempt => (backoff(retry, claimed.attempts), false),
            Again::Refunded if verdict.counts_for_breaker && !verdict.alone => {
                (backoff(retry, 1), true)
            }
            // The breaker guards the next claim, so no extra wait is needed.
            Again::Refunded => (Duration::ZERO, true),
            // A check watches for the file meanwhile; a spooled picture is retried instead.
            Again::WhileFileMissing | Again::WhileRootMissing if claimed.file.is_none() => {
                let longest_ms = longest_wait_ms(retry, verdict.again).unwrap_or_default();
                let wait_ms = since_ms.saturating_add(longest_ms).saturating_sub(now_ms);
                (
                    Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0)),
                    true,
                )
            }
            // Backoff in proportion to the time the file has been missing.
            Again::WhileFileMissing | Again::WhileRootMissing => (
                (missing / 4).clamp(retry.first_wait, retry.longest_wait),
                true,
            ),
        };
        tracing::info!(
            image = claimed.id,
            wait_ms = wait.as_millis() as u64,
            "tried again later: {}",
            verdict.sentence
        );
        let back = PutBack {
            id: claimed.id,
            attempts: claimed.attempts,
            due_ms: now_ms + i64::try_from(wait.as_millis()).unwrap_or(i64::MAX / 2),
            now_ms,
            missing_since_ms: match verdict.again {
                Again::WhileFileMissing | Again::WhileRootMissing => Some(since_ms),
                _ => None,
            },
            reason: Some(verdict.sentence),
            refund,
            alone: verdict.alone,
        };
        self.until_stored(|| self.store.put_back(back.clone()))
            .await?;
        if newly_missing {
            self.misses(claimed.source);
        }
        Ok(())
    }

    /// Puts a claimed image back untouched and refunds its attempt, because the daemon is stopping.
    pub async fn hand_back(&self, claimed: Claimed) -> Result<(), QueueError> {
        let now_ms = self.clock.now_ms();
        let back = PutBack {
            id: claimed.id,
            attempts: claimed.attempts,
            due_ms: now_ms,
            now_ms,
            missing_since_ms: claimed.missing_since_ms,
            reason: None,
            refund: true,
            alone: false,
        };
        self.until_stored(|| self.store.put_back(back.clone()))
            .await?;
        Ok(())
    }

    /// Refunds an attempt to images that failed because of the engine and not because of the
    /// picture.
    pub async fn refund(&self, images: Vec<ImageId>) -> Result<(), QueueError> {
        Ok(self.store.refund(images).await?)
    }

    /// Redoes an engine's unverified results; returns the number of images.
    pub async fn redo_unverified(
        &self,
        role: EngineRole,
        reason: &str,
    ) -> Result<usize, QueueError> {
        let now_ms = self.clock.now_ms();
        self.until_stored(|| self.store.redo_unverified(role, reason.to_string(), now_ms))
            .await
    }

    /// Retries a failed image for the operator. `ImageChange::Done`: it waits.
    pub async fn try_again(&self, id: ImageId) -> Result<ImageChange, QueueError> {
        Ok(self.store.try_again(id, self.clock.now_ms()).await?)
    }

    /// Removes an image and its data for the operator. `ImageChange::Done`: it is gone, except for
    /// its file, which [`Store::delete_discarded`] deletes.
    pub async fn remove(&self, id: ImageId) -> Result<ImageChange, QueueError> {
        Ok(self.store.remove_image(id).await?)
    }

    async fn give_up(
        &self,
        claimed: Claimed,
        failure: &Failure,
        reason: String,
    ) -> Result<(), QueueError> {
        tracing::warn!(image = claimed.id, path = claimed.path, "failed: {reason}");
        let mut end = self.end(&claimed);
        if let Failure::Unreadable { by, .. } = failure {
            end.judged_by = Some(*by);
        }
        let end = Arc::new(end);
        let done = self
            .until_stored(|| self.store.fail(Arc::clone(&end), reason.clone()))
            .await?;
        if done {
            self.count(|throughput| throughput.failed += 1);
        }
        Ok(())
    }

    fn end(&self, claimed: &Claimed) -> End {
        End {
            id: claimed.id,
            attempts: claimed.attempts,
            finished_at_ms: wall_clock_ms(),
            duration_ms: i64::try_from(claimed.claimed_at.elapsed().as_millis())
                .unwrap_or(i64::MAX),
            result_id: uuid::Uuid::now_v7().to_string(),
            supersedes: claimed.supersedes.clone(),
            device: self.rules.device.clone(),
            publish: self.rules.publish,
            judged_by: None,
        }
    }

    /// Repeats a write until the disk takes it, so that a finished result is kept instead of
    /// recomputed.
    async fn until_stored<T, F>(&self, write: impl Fn() -> F) -> Result<T, QueueError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut said = false;
        loop {
            match write().await {
                Err(error) if !matches!(error, StoreError::Closed) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(
                            "the database cannot store a result, and kithd keeps trying: {error}"
                        );
                    }
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
                other => return Ok(other?),
            }
        }
    }
}

fn waited_in_vain(sentence: &str, missing: Duration) -> String {
    format!(
        "{sentence}; given up after {} minutes",
        missing.as_secs() / 60
    )
}

/// Returns the exponential backoff: it doubles from the first wait to the longest, plus up to a
/// fifth of jitter so that images do not return in step.
fn backoff(retry: &config::Retry, attempts: u32) -> Duration {
    let doubled = retry
        .first_wait
        .saturating_mul(1 << attempts.saturating_sub(1).min(20));
    doubled
        .min(retry.longest_wait)
        .mul_f64(1.0 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests;
