//! What is kept no longer: files of processed images, what is over the caps of `[retention]`.
//!
//! Oldest is the lowest id, never the earliest date. Nothing goes that is unfinished or that the
//! engine's self-test has not vouched for; and no image whose result waits for the broker, unless
//! only such are left over a cap. The disk's reserve removes nothing: it stops what comes in
//! (`sources`).

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::clock::{Steadiness, synchronised};
use super::{Queue, QueueClock};
use crate::config::{Caps, Retention};
use crate::domain::{ImageId, wall_clock_ms};
use crate::spool::SPOOL;
use crate::status::health::{Condition, Health};
use crate::store::{Aged, Held, Kind, Oldest, Store, StoreError, journal_trouble};

const EVERY: Duration = Duration::from_secs(10);
/// Pieces removed by one operation of the writer, which overwrites every page of theirs: some 40 KB
/// for each image.
const BATCH: usize = 50;
/// Between two of them, for those who wait for the writer or the disk.
const PAUSE: Duration = Duration::from_millis(50);
/// Images with strangers read at a time.
const LOOK: usize = 1000;
/// How long the board's clock must have been synchronised and gone on evenly before ages are judged
/// by it; a shorter age, which nobody sets but to see it work, needs no longer than itself.
const STEADY: Duration = Duration::from_secs(3600);

/// Sweeps now and then until stopped.
pub async fn sweep(
    queue: Queue,
    retention: Retention,
    health: Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut sweeper = Sweeper {
        spare_unsent: queue.rules.publish,
        store: queue.store,
        clock: queue.clock,
        retention,
        steadiness: Steadiness::default(),
    };
    loop {
        let round = async {
            let steady = sweeper
                .steadiness
                .look(synchronised(), wall_clock_ms(), Instant::now());
            // A full disk or a busy database is no reason to end the daemon: the next round tries
            // again.
            let (condition, text) = match sweeper.round(steady).await {
                Err(error) => (
                    Condition::Degraded,
                    format!("what is over its caps is not removed now: {error}"),
                ),
                Ok(()) if steady.is_none_or(|steady| steady < STEADY) => {
                    let text = "removes what is over a count or size; ages wait until the clock has been synchronised for an hour";
                    (Condition::Ok, text.to_string())
                }
                Ok(()) => (Condition::Ok, "removes what is over its caps".to_string()),
            };
            if health.set("retention", condition, text.as_str()) && condition == Condition::Degraded
            {
                tracing::warn!("{text}");
            }
            let (condition, text) = match journal_trouble(sweeper.store.journal_bytes()) {
                Some(text) => (Condition::Degraded, text),
                None => (Condition::Ok, "small".to_string()),
            };
            // How large it is by now is no news.
            if health
                .parts()
                .get("journal")
                .is_none_or(|known| known.condition != condition)
            {
                if condition == Condition::Degraded {
                    tracing::warn!("{text}");
                }
                health.set("journal", condition, text);
            }
            tokio::time::sleep(EVERY).await;
        };
        tokio::select! {
            // What it had not deleted yet is noted in the database: the next start does.
            () = stop.cancelled() => return Ok(()),
            () = round => {}
        }
    }
}

struct Sweeper {
    store: Store,
    clock: QueueClock,
    retention: Retention,
    /// Results are to be sent.
    spare_unsent: bool,
    steadiness: Steadiness,
}

impl Sweeper {
    async fn round(&self, steady: Option<Duration>) -> Result<(), StoreError> {
        loop {
            let done = self.store.processed_uploads(BATCH).await?;
            let gone = self.store.remove(Kind::Uploads, done, false).await?;
            if gone.rows == 0 {
                break;
            }
            self.store.delete_discarded().await?;
            tokio::time::sleep(PAUSE).await;
        }
        let Retention {
            thumbnails,
            camera,
            uploads,
            images,
            strangers,
        } = self.retention.clone();
        let (mut age, mut old) = (strangers, self.known_older(strangers, steady).await?);
        self.forget_strangers(old).await?;
        // What costs an image least goes first.
        for (kind, caps) in [
            (Kind::Thumbnails, thumbnails),
            (Kind::Camera, camera),
            (Kind::Uploads, uploads),
            (Kind::Images, images),
        ] {
            // Where no date can be believed finding out reads many rows, and the ages are mostly
            // the same.
            if caps.age != age {
                (age, old) = (caps.age, self.known_older(caps.age, steady).await?);
            }
            self.keep_below(kind, &caps, old).await?;
        }
        // One that cannot be deleted holds up none of the others, and is said as long as it is
        // there.
        match self.store.delete_discarded().await? {
            Some(source) => Err(StoreError::Io {
                path: SPOOL.into(),
                source,
            }),
            None => Ok(()),
        }
    }

    /// The newest image known to be as old as that, if the clock may be asked.
    async fn known_older(
        &self,
        age: Option<Duration>,
        steady: Option<Duration>,
    ) -> Result<Option<ImageId>, StoreError> {
        match (age, steady) {
            (Some(age), Some(steady)) if steady >= STEADY.min(age) => {
                let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                let aged = Aged {
                    wall_ms: wall_clock_ms(),
                    queue_ms: self.clock.now_ms(),
                    age_ms,
                };
                self.store.newest_so_old(aged).await
            }
            _ => Ok(None),
        }
    }

    /// Removes the oldest of a kind until it is below its caps and all up to the image `old` are
    /// gone.
    async fn keep_below(
        &self,
        kind: Kind,
        caps: &Caps,
        old: Option<ImageId>,
    ) -> Result<(), StoreError> {
        loop {
            let held = self.store.held(kind).await?;
            let over = |held: u64, cap: Option<u64>| cap.map_or(0, |cap| held.saturating_sub(cap));
            let over = Held {
                count: over(held.count, caps.count),
                bytes: over(held.bytes, caps.bytes),
            };
            let too_much = over.count > 0 || over.bytes > 0;
            let (mut old, mut spare) = (old, self.spare_unsent);
            let Some(upto) = (if too_much { Some(ImageId::MAX) } else { old }) else {
                return Ok(());
            };
            let mut oldest = self.store.oldest(kind, upto, BATCH, spare).await?;
            if oldest.is_empty() && too_much && spare && kind == Kind::Images {
                (old, spare) = (None, false);
                oldest = self.store.oldest(kind, upto, BATCH, spare).await?;
            }
            let goes = going(&oldest, over, old);
            if goes.is_empty() {
                return Ok(());
            }
            let gone = self.store.remove(kind, goes, spare).await?;
            if gone.unsent > 0 {
                tracing::warn!(
                    "{} results no broker ever took went with the oldest images: nothing else was left over \
                     retention.images; is the broker away?",
                    gone.unsent
                );
            }
            self.store.delete_discarded().await?;
            if gone.rows == 0 {
                // They turned out to be needed after all; the next round looks again.
                return Ok(());
            }
            tracing::debug!("retention removed {} of the oldest {kind:?}", gone.rows);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Erases what would tell strangers apart in the images up to `old`, however late a face in
    /// them became a stranger's.
    async fn forget_strangers(&self, old: Option<ImageId>) -> Result<(), StoreError> {
        let Some(old) = old else { return Ok(()) };
        let mut after = 0;
        loop {
            let due = self.store.strangers(after, old, LOOK).await?;
            let Some(last) = due.last() else { break };
            after = *last;
            for batch in due.chunks(BATCH) {
                self.store.erase_strangers(batch.to_vec()).await?;
                tokio::time::sleep(PAUSE).await;
            }
        }
        // What was erased is still in the journal.
        if after > 0 {
            self.store.empty_journal().await.map(drop)
        } else {
            Ok(())
        }
    }
}

/// Those of the oldest that go: until nothing is over any more, and all up to `old`.
fn going(oldest: &[Oldest], mut over: Held, old: Option<ImageId>) -> Vec<ImageId> {
    let goes = |one: &&Oldest| {
        let goes = over.count > 0 || over.bytes > 0 || old.is_some_and(|old| one.id <= old);
        over.count = over.count.saturating_sub(1);
        over.bytes = over.bytes.saturating_sub(one.bytes);
        goes
    };
    oldest.iter().take_while(goes).map(|one| one.id).collect()
}

#[cfg(test)]
mod tests;
