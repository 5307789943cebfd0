//! The loop that claims due images and brings each to its end.
//!
//! It registers for changes, then looks, then waits: no wake-up is lost, and retries become due by the clock.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Matcher, Reader, Ready, ReadyWatch};
use crate::domain::{Claimed, Identified, hex};
use crate::engine::{Engine, EngineError};
use crate::health::{Condition, Health};
use crate::queue::{Failure, Queue, QueueError};
use crate::store::StoreError;

/// Longest sleep while images wait: a safety net, not a pace.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

const DATABASE_RETRY: Duration = Duration::from_secs(1);

/// What the loop works with.
pub struct Dispatcher {
    /// Where images come from and go back to.
    pub queue: Queue,
    /// Opens their files.
    pub reader: Arc<Reader>,
    /// Engine and gallery, once they are up.
    pub ready: ReadyWatch,
    /// Where a database that does not answer is shown.
    pub health: Health,
}

impl Dispatcher {
    /// Works until stopped; then lets what is in the engine end.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { queue, reader, mut ready, health } = self;
        let up = tokio::select! {
            up = ready.wait_for(Option::is_some) => up.ok().and_then(|up| up.clone()),
            () = stop.cancelled() => None,
        };
        // The engine's task ends first when the stop comes while it loads.
        let Some(up) = up else { return Ok(()) };
        while let Err(error) = queue.recover().await {
            show_database_trouble(&health, error)?;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(DATABASE_RETRY) => {}
            }
        }
        // One picture per thread, and as many being read meanwhile.
        let capacity = 2 * up.engine.threads();
        let mut changes = queue.changes();
        let mut in_flight: JoinSet<Result<(), QueueError>> = JoinSet::new();
        loop {
            changes.borrow_and_update();
            let room = capacity - in_flight.len();
            let mut sleep = LONGEST_SLEEP;
            if room > 0 {
                let claim = match queue.claim(room, in_flight.is_empty()).await {
                    Ok(claim) => claim,
                    Err(error) => {
                        show_database_trouble(&health, error)?;
                        tokio::select! {
                            () = stop.cancelled() => break,
                            () = tokio::time::sleep(DATABASE_RETRY) => continue,
                        }
                    }
                };
                health.set("queue", Condition::Ok, "working");
                sleep = claim.next_due.unwrap_or(LONGEST_SLEEP).clamp(Duration::from_millis(5), LONGEST_SLEEP);
                let claimed_some = !claim.images.is_empty();
                for image in claim.images {
                    let (queue, reader, up, stop) = (queue.clone(), Arc::clone(&reader), Arc::clone(&up), stop.clone());
                    in_flight.spawn(async move { process(&queue, &reader, &up, image, &stop).await });
                }
                if claimed_some {
                    continue;
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = in_flight.join_next() => ended??,
                changed = changes.changed(), if room > 0 => changed?,
                () = tokio::time::sleep(sleep), if room > 0 => {}
            }
        }
        while let Some(ended) = in_flight.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// A full disk or a busy file is shown and tried again; only a closed database ends the task.
fn show_database_trouble(health: &Health, error: QueueError) -> Result<(), QueueError> {
    if matches!(error, QueueError::Store(StoreError::Closed)) {
        return Err(error);
    }
    if health.set("queue", Condition::Degraded, format!("pictures wait: {error}")) {
        tracing::error!("pictures wait: {error}");
    }
    Ok(())
}

async fn process(
    queue: &Queue,
    reader: &Reader,
    up: &Ready,
    image: Claimed,
    stop: &CancellationToken,
) -> Result<(), QueueError> {
    let path = PathBuf::from(&image.path);
    let reading = async {
        match &image.file {
            Some(file) => reader.read_spooled(file).await,
            None => reader.read_path(&path).await,
        }
    };
    let bytes = tokio::select! {
        bytes = reading => bytes,
        // A slow mount must not hold up the stop; what is in the engine is let end.
        () = stop.cancelled() => return queue.hand_back(image).await,
    };
    let identified = match bytes {
        Ok(bytes) => identify(&up.engine, &up.matcher, bytes).await,
        Err(failure) => Err(failure),
    };
    match identified {
        Ok(identified) => queue.finish(image, identified).await.map(drop),
        Err(failure) => queue.fail(image, &failure).await,
    }
}

/// Bytes to a result; used by the queue and by `kithd identify`.
pub async fn identify(engine: &Engine, matcher: &Matcher, bytes: Vec<u8>) -> Result<Identified, Failure> {
    let picture_key = hex(&Sha256::digest(&bytes));
    let reply = engine.recognise(bytes).await.map_err(|error| match error {
        EngineError::Unreadable(why) => Failure::Unreadable(why),
        EngineError::Crashed(why) => Failure::EngineCrashed(why),
        EngineError::Deadline(limit) => Failure::EngineDeadline(limit),
        EngineError::Malformed(why) => Failure::EngineMalformed(why),
    })?;
    let faces = matcher.identify(reply.faces).map_err(|error| Failure::EngineMalformed(error.to_string()))?;
    Ok(Identified {
        outcome: Identified::best_outcome(&faces),
        size: reply.size,
        faces,
        thumbnail: reply.thumbnail,
        engine: engine.description().into(),
        space: matcher.space().into(),
        picture_key,
    })
}

/// The file name of a path, for people.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
