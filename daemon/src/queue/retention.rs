//! Retention: removes files of processed images, and everything beyond the caps of `[retention]`.
//!
//! Oldest means lowest id, never earliest date. Unfinished images and unverified results stay. An
//! image whose result waits for the broker goes only when nothing else is left over a cap. The disk
//! reserve removes nothing: it stops the intake (`sources`).

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
/// Pieces removed per operation of the writer, which overwrites all of their pages: about 40 KB per
/// image.
const BATCH: usize = 50;
/// Pause between two removals, so that others can use the writer and the disk.
const PAUSE: Duration = Duration::from_millis(50);
/// Images read at a time in the search for unknown faces.
const LOOK: usize = 1000;
/// Time the board's clock must have been synchronised and steady before ages are judged by it. A
/// shorter age, which is only set for demonstration, needs no more than itself.
const STEADY: Duration = Duration::from_secs(3600);

/// Sweeps periodically until stopped.
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
            // A full disk or a busy database must not end the daemon: the next round tries again.
            let (condition, text) = match sweeper.round(steady).await {
                Err(error) => (
                    Condition::Degraded,
                    format!("kithd cannot remove old data now: {error}"),
                ),
                Ok(()) if steady.is_none_or(|steady| steady < STEADY) => {
                    let text = "removes data over the caps of count and size; removal by age waits \
                                until the clock has been synchronised for an hour";
                    (Condition::Ok, text.to_string())
                }
                Ok(()) => (Condition::Ok, "removes data over its caps".to_string()),
            };
            if health.set("retention", condition, text.as_str()) && condition == Condition::Degraded
            {
                tracing::warn!("{text}");
            }
            let (condition, text) = match journal_trouble(sweeper.store.journal_bytes()) {
                Some(text) => (Condition::Degraded, text),
                None => (Condition::Ok, "small".to_string()),
            };
            // A changed size is no news.
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
            // The database lists files not deleted yet, and the next start deletes them.
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
            sightings,
            strangers,
        } = self.retention.clone();
        let (mut age, mut old) = (strangers, self.known_older(strangers, steady).await?);
        self.forget_strangers(old).await?;
        // Kinds in order of the damage their loss does to an image.
        for (kind, caps) in [
            (Kind::Thumbnails, thumbnails),
            (Kind::Camera, camera),
            (Kind::Uploads, uploads),
            (Kind::Images, images),
        ] {
            // Without trustworthy dates the search reads many rows, and most kinds share the same
            // age.
            if caps.age != age {
                (age, old) = (caps.age, self.known_older(caps.age, steady).await?);
            }
            self.keep_below(kind, &caps, old).await?;
        }
        self.keep_sightings(&sightings, steady).await?;
        // A file that cannot be deleted does not hold up the others, and is reported until it is
        // gone.
        match self.store.delete_discarded().await? {
            Some(source) => Err(StoreError::Io {
                path: SPOOL.into(),
                source,
            }),
            None => Ok(()),
        }
    }

    /// Returns the newest image known to be of this age, if the clock is steady enough to tell.
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

    /// Removes the oldest pieces of a kind until it is within its caps and none up to the image
    /// `old` is left.
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
                    "{} results that no broker took were removed with the oldest images, because \
                     nothing else was left over retention.images; check the connection to the broker",
                    gone.unsent
                );
            }
            self.store.delete_discarded().await?;
            if gone.rows == 0 {
                // All of them are needed again by now; the next round looks again.
                return Ok(());
            }
            tracing::debug!("retention removed {} of the oldest {kind:?}", gone.rows);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Removes the oldest ended sightings beyond their caps.
    async fn keep_sightings(
        &self,
        caps: &Caps,
        steady: Option<Duration>,
    ) -> Result<(), StoreError> {
        let before_ms = match (caps.age, steady) {
            (Some(age), Some(steady)) if steady >= STEADY.min(age) => {
                let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
                Some(wall_clock_ms().saturating_sub(age_ms))
            }
            _ => None,
        };
        loop {
            let gone = self
                .store
                .remove_sightings(caps.count, before_ms, BATCH)
                .await?;
            if gone < BATCH {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Erases embeddings and crops of unknown faces in images up to `old`, including faces that
    /// became unknown late.
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
        // The erased data is still in the journal.
        if after > 0 {
            self.store.empty_journal().await.map(drop)
        } else {
            Ok(())
        }
    }
}

/// Returns the oldest pieces to remove: until the excess is gone, and all up to `old`.
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
