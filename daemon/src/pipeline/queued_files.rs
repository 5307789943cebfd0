//! Checks the files that images name by path, before the breaker allows a claim: their identity
//! when queued, and whether they exist. An image that waits for its file costs a check now and
//! then, and no attempt.
//!
//! The bytes are read when the image is claimed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Retry;
use crate::domain::{ImageId, Source, Standing};
use crate::pipeline::Reader;
use crate::queue::{Failure, Queue, QueueError};
use crate::status::health::{Condition, Health};
use crate::store::{Look, StoreError};

/// Name of the part in health.
const PART: &str = "files";
/// Checks for missing files take at most one part in this many of the time.
const SHARE: u32 = 50;
/// Longest pause between checks while no image is known to wait.
const IDLE: Duration = Duration::from_secs(30);
const DATABASE_RETRY: Duration = Duration::from_secs(1);

/// Everything that the loop needs.
#[derive(Clone)]
pub struct Looker {
    /// The queue of images.
    pub queue: Queue,
    /// Checks the files.
    pub reader: Arc<Reader>,
    /// Shortest and longest pause between two checks for missing files.
    pub retry: Retry,
    /// Health, which shows the files that are waited for.
    pub health: Health,
}

impl Looker {
    /// Checks files until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.health.set(PART, Condition::Ok, NOTHING_WAITS);
        loop {
            let error = tokio::select! {
                ended = self.look() => match ended {
                    Ok(never) => match never {},
                    Err(error) => error,
                },
                () = stop.cancelled() => return Ok(()),
            };
            if matches!(error, QueueError::Store(StoreError::Closed)) {
                return Err(error.into());
            }
            // The dispatcher reports errors of the database.
            tokio::select! {
                () = tokio::time::sleep(DATABASE_RETRY) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn look(&self) -> Result<std::convert::Infallible, QueueError> {
        let mut commits = self.queue.commits();
        let mut after = self.queue.oldest_pending().await? - 1;
        let (mut next, mut idle) = (Instant::now(), true);
        loop {
            commits.borrow_and_update();
            while let (looks, Some(last)) = self.queue.unseen(after).await? {
                self.queue.looked(self.at_files(looks).await).await?;
                after = last;
            }
            let now = Instant::now();
            if idle && self.queue.missing_total() > 0 {
                // A first file is missing.
                (next, idle) = (next.min(now + self.retry.first_wait), false);
            }
            if now >= next {
                self.look_for_missing().await?;
                idle = self.queue.missing_total() == 0;
                let pause =
                    (now.elapsed() * SHARE).clamp(self.retry.first_wait, self.retry.longest_wait);
                next = Instant::now() + if idle { IDLE } else { pause };
            }
            tokio::select! {
                changed = commits.changed() => changed.map_err(|_| StoreError::Closed)?,
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn look_for_missing(&self) -> Result<(), QueueError> {
        let (mut waiting, thought) = (Waiting::default(), self.queue.missing_by_source());
        let mut after = 0;
        loop {
            let looks = self.queue.missing(after).await?;
            let Some(last) = looks.last() else { break };
            after = last.id;
            looks.iter().for_each(|look| waiting.count(look));
            let still = looks
                .into_iter()
                .filter(|look| self.queue.waits(look))
                .collect();
            let looked = self.at_files(still).await;
            looked
                .iter()
                .for_each(|(look, found)| waiting.found(look, found));
            self.queue.looked(looked).await?;
        }
        self.queue.count_missing(thought, waiting.by_source);
        let condition = if waiting.absent.is_empty() {
            Condition::Ok
        } else {
            Condition::Degraded
        };
        let text = waiting.to_string();
        self.health.set(PART, condition, text);
        Ok(())
    }

    /// Checks files; those that do not answer in time are left out.
    async fn at_files(&self, looks: Vec<Look>) -> Vec<(Look, Result<Standing, Failure>)> {
        if looks.is_empty() {
            return Vec::new();
        }
        let paths = looks
            .iter()
            .map(|look| (look.id, PathBuf::from(&look.path)))
            .collect();
        let mut looks: BTreeMap<ImageId, Look> =
            looks.into_iter().map(|look| (look.id, look)).collect();
        let found = self.reader.look(paths).await;
        found
            .into_iter()
            .filter_map(|(id, found)| Some((looks.remove(&id)?, found)))
            .collect()
    }
}

const NOTHING_WAITS: &str = "no picture waits for its file";

/// Images that wait for their files, for the operator.
#[derive(Default)]
struct Waiting {
    by_source: [u64; Source::ALL.len()],
    /// The first missing file below a root that is there.
    example: Option<String>,
    /// Absent roots, each with the reason and the number of images that wait.
    absent: BTreeMap<PathBuf, (String, u64)>,
}

impl Waiting {
    fn count(&mut self, look: &Look) {
        self.by_source[look.source as usize] += 1;
    }

    fn found(&mut self, look: &Look, found: &Result<Standing, Failure>) {
        match found {
            Err(Failure::RootAbsent { root, error }) => {
                self.absent
                    .entry(root.clone())
                    .or_insert_with(|| (error.clone(), 0))
                    .1 += 1;
            }
            Err(_) => _ = self.example.get_or_insert_with(|| look.path.clone()),
            Ok(_) => {}
        }
    }
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = Source::ALL
            .iter()
            .zip(self.by_source)
            .filter(|(_, count)| *count > 0);
        let by_source: Vec<_> = counts
            .map(|(source, count)| format!("{source} {count}"))
            .collect();
        if by_source.is_empty() {
            return f.write_str(NOTHING_WAITS);
        }
        write!(
            f,
            "pictures that wait for their file: {}",
            by_source.join(", ")
        )?;
        if let Some(path) = &self.example {
            write!(f, "; for example {path:?} is not there")?;
        }
        for (root, (error, count)) in &self.absent {
            write!(
                f,
                "; {count} wait for the folder {}, which is not available: {error}",
                root.display()
            )?;
        }
        Ok(())
    }
}
