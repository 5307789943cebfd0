//! The loop that claims due images and brings each to its end.
//!
//! It subscribes to changes before it looks at the queue, so no wake-up is lost; a timer wakes it
//! for retries.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::domain::{
    Claimed, EngineError, EngineErrorKind, Identified, IdentifiedFace, NamedCandidate, Outcome,
    Standing, Timings, sha256,
};
use crate::engine_process::StageTimes;
use crate::engines::client::{EngineReply, Picture};
use crate::engines::{Admission, Engines};
use crate::people::{Matcher, People, person_of};
use crate::pipeline::Reader;
use crate::queue::{Failure, Queue, QueueError};
use crate::status::health::{Condition, Health};
use crate::status::heartbeat::Pulse;
use crate::store::{Store, StoreError};
use crate::supervise::fault;

/// Longest sleep while images wait: a safety net, not a polling interval.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

const DATABASE_RETRY: Duration = Duration::from_secs(1);

/// Everything that the loop needs.
pub struct Dispatcher {
    /// The queue of images.
    pub queue: Queue,
    /// Reads the images' files.
    pub reader: Arc<Reader>,
    /// Engines and gallery.
    pub people: People,
    /// Health, for a database that does not answer.
    pub health: Health,
    /// Reports to the watchdog that the loop runs.
    pub pulse: Pulse,
}

impl Dispatcher {
    /// Works until stopped, then lets the pictures in flight finish.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self {
            queue,
            reader,
            people,
            health,
            mut pulse,
        } = self;
        let matcher = tokio::select! {
            matcher = pulse.answer_during(people.loaded()) => matcher,
            () = stop.cancelled() => return Ok(()),
        };
        let identifier = Identifier::with(&people, matcher);
        while let Err(error) = queue.recover().await {
            show_database_trouble(&health, error)?;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = pulse.answer_during(tokio::time::sleep(DATABASE_RETRY)) => {}
            }
        }
        let (mut changes, mut engines) = (queue.changes(), people.engines.changes());
        let mut in_flight: JoinSet<Result<(), QueueError>> = JoinSet::new();
        loop {
            changes.borrow_and_update();
            engines.borrow_and_update();
            // Claims none while no engine takes pictures: the breaker stands before the claim.
            let free = people.engines.capacity().saturating_sub(in_flight.len());
            let mut sleep = LONGEST_SLEEP;
            if free > 0 {
                let claim = match queue.claim(free, in_flight.is_empty()).await {
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
                sleep = claim
                    .next_due
                    .unwrap_or(LONGEST_SLEEP)
                    .clamp(Duration::from_millis(5), LONGEST_SLEEP);
                let claimed_some = !claim.images.is_empty();
                for image in claim.images {
                    let (queue, reader) = (queue.clone(), Arc::clone(&reader));
                    let (identifier, stop) = (identifier.clone(), stop.clone());
                    let health = health.clone();
                    in_flight.spawn(async move {
                        process(&queue, &reader, &identifier, image, &health, &stop).await
                    });
                }
                if claimed_some {
                    continue;
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = pulse.answer() => {}
                Some(ended) = in_flight.join_next() => ended??,
                changed = changes.changed(), if free > 0 => changed?,
                changed = engines.changed() => changed?,
                () = tokio::time::sleep(sleep), if free > 0 => {}
            }
        }
        while let Some(ended) = in_flight.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Shows an error of the database. A full disk or a busy file is retried; only a closed database
/// ends the task.
fn show_database_trouble(health: &Health, error: QueueError) -> Result<(), QueueError> {
    if matches!(error, QueueError::Store(StoreError::Closed)) {
        return Err(error);
    }
    if health.set(
        "queue",
        Condition::Degraded,
        format!("pictures wait: {error}"),
    ) {
        tracing::error!("pictures wait: {error}");
    }
    Ok(())
}

async fn process(
    queue: &Queue,
    reader: &Reader,
    identifier: &Identifier,
    image: Claimed,
    health: &Health,
    stop: &CancellationToken,
) -> Result<(), QueueError> {
    let path = PathBuf::from(&image.path);
    let reading = async {
        match &image.file {
            Some(file) => Ok((reader.read_spooled(file).await?, None)),
            None => reader
                .read_standing(&path)
                .await
                .map(|(bytes, standing)| (bytes, Some(standing))),
        }
    };
    let bytes = tokio::select! {
        bytes = reading => bytes,
        // A slow mount must not delay the stop. Pictures in the engine may finish.
        () = stop.cancelled() => return queue.hand_back(image).await,
    };
    // A picture that makes us panic costs its attempt and fails in the end; others go on.
    let identified = AssertUnwindSafe(identify_read(identifier, &image, path, bytes))
        .catch_unwind()
        .await;
    let identified = identified.unwrap_or_else(|panic| {
        let fault = fault(panic.as_ref());
        health.count_fault();
        tracing::error!(image = image.id, "{fault}");
        Err(Failure::Fault(fault))
    });
    match identified {
        Ok(identified) => queue.finish(image, identified).await.map(drop),
        Err(failure) => queue.fail(image, &failure).await,
    }
}

async fn identify_read(
    identifier: &Identifier,
    image: &Claimed,
    path: PathBuf,
    bytes: Result<(Vec<u8>, Option<Standing>), Failure>,
) -> Result<Identified, Failure> {
    match bytes {
        // Only an engine that shares the mounts can use a path. Spooled bytes are accessible to the
        // daemon only.
        Ok((bytes, standing)) => {
            let replaced = image
                .standing
                .zip(standing)
                .and_then(|(queued, now)| queued.objection(&now));
            let path = image.file.is_none().then_some(path);
            let admission = match image.alone {
                true => Admission::alone(),
                false => Admission::queue(),
            };
            let identified = identifier
                .identify(&admission, Some(image), bytes, path)
                .await;
            identified.map(|identified| with_remark(identified, replaced))
        }
        Err(failure) => Err(failure),
    }
}

fn with_remark(mut identified: Identified, remark: Option<String>) -> Identified {
    identified.remark = match (remark, identified.remark) {
        (Some(remark), Some(other)) => Some(format!("{remark}; {other}")),
        (remark, other) => remark.or(other),
    };
    identified
}

/// Finds the faces of a picture and identifies them, for the queue, `kithd identify` and the
/// facerecog contract.
#[derive(Clone)]
pub struct Identifier {
    /// Find the faces, behind the circuit breaker.
    pub engines: Engines,
    /// Compares faces with the gallery.
    pub matcher: Arc<Matcher>,
    /// Maps names from a facerecog engine to people; `None` on the command line.
    pub store: Option<Store>,
}

impl Identifier {
    /// Takes engines and gallery of a running daemon.
    pub fn of(people: &People) -> Result<Self, Failure> {
        let matcher = people.matcher();
        let matcher = matcher.map_err(|error| Failure::engine_away(error.to_string()))?;
        Ok(Self::with(people, matcher))
    }

    fn with(people: &People, matcher: Arc<Matcher>) -> Self {
        Self {
            engines: people.engines.clone(),
            matcher,
            store: Some(people.store.clone()),
        }
    }

    /// Turns the bytes of a picture into a result. Their key is computed unless it came with the
    /// image.
    pub async fn identify(
        &self,
        admission: &Admission,
        image: Option<&Claimed>,
        bytes: Vec<u8>,
        path: Option<PathBuf>,
    ) -> Result<Identified, Failure> {
        let known = image.and_then(|image| image.picture_key.clone());
        let picture_key = known.unwrap_or_else(|| sha256(&bytes));
        let picture = Picture {
            bytes: bytes.into(),
            path,
            faces_only: false,
        };
        let recognised = self
            .engines
            .recognise(admission, image.map(|image| image.id), &picture)
            .await?;
        let mut remark = None;
        let (size, faces, thumbnail, timings) = match recognised.answer {
            EngineReply::Faces(reply) => {
                let faces = self.matcher.identify(reply.faces);
                let faces = faces.map_err(|error| {
                    Failure::Engine(EngineError::new(
                        EngineErrorKind::Malformed,
                        error.to_string(),
                    ))
                })?;
                remark = reply.remark;
                (
                    Some(reply.size),
                    faces,
                    reply.thumbnail,
                    Some(timings(&reply.times)),
                )
            }
            EngineReply::Name(None) => (
                None,
                vec![named_face(Outcome::Unknown, None, None)],
                Vec::new(),
                None,
            ),
            EngineReply::Name(Some(image_name)) => {
                let name = person_of(Path::new(""), Path::new(&image_name))
                    .unwrap_or_else(|| image_name.clone());
                let (person_id, name) = match &self.store {
                    Some(store) => {
                        let found = store.person_of_image(image_name.clone(), name).await;
                        found.map_err(|error| Failure::engine_away(error.to_string()))?
                    }
                    None => (0, name),
                };
                let person = NamedCandidate {
                    person_id,
                    name,
                    distance: None,
                };
                (
                    None,
                    vec![named_face(Outcome::Known, Some(person), Some(image_name))],
                    Vec::new(),
                    None,
                )
            }
        };
        Ok(Identified {
            outcome: Identified::best_outcome(&faces),
            size,
            faces,
            timings,
            thumbnail,
            remark,
            engine: recognised.engine,
            role: recognised.role,
            space: self.matcher.space().into(),
            picture_key,
        })
    }
}

fn timings(times: &StageTimes) -> Timings {
    // Whole microseconds, like the engine's own times.
    let ms = |time: Duration| time.as_micros() as f64 / 1000.0;
    Timings {
        decode_ms: ms(times.decode),
        detect_ms: ms(times.detect),
        align_ms: ms(times.align),
        embed_ms: ms(times.embed),
        encode_ms: ms(times.encode),
    }
}

/// Makes a face of a facerecog engine's answer, which has a name and nothing else.
fn named_face(
    outcome: Outcome,
    person: Option<NamedCandidate>,
    enrolled_image: Option<String>,
) -> IdentifiedFace {
    IdentifiedFace {
        bounds: [0.0; 4],
        landmarks: [[0.0; 2]; 5],
        score: 1.0,
        quality: 1.0,
        objection: None,
        outcome,
        person,
        distance: None,
        margin: None,
        candidates: Vec::new(),
        embedding: Vec::new(),
        crop: Vec::new(),
        enrolled_image,
    }
}
