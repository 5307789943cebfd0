//! One engine, wherever it runs: a child process, or a server at an address. Brought up, called,
//! tested, taken down. Not for deciding whether to call it; that is the guard's.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kith_vision::{Pack, Precision};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::child::Child;
use crate::domain::BreakerReason;
use crate::engines::client::{Answer, CallError, Client, Picture};
use crate::engines::process::{self, ChildSettings};
use crate::rpc::recognizer::Description;

/// The end of a process is noticed well within this after its connection broke.
const END_NOTICED: Duration = Duration::from_secs(1);

/// Where an engine runs.
#[derive(Debug, Clone)]
pub enum Place {
    /// A child process on a unix socket.
    Child(ChildSettings),
    /// A server of `recognizer.proto` at `unix:/path` or `http://host:port`.
    Recognizer {
        /// Where.
        address: String,
        /// It shares the mounts and is told paths.
        paths: bool,
    },
    /// The origin's service at `http://host:port`.
    Origin(String),
}

/// How long a picture may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// For one picture…
    pub base: Duration,
    /// …and for each of its megapixels…
    pub per_megapixel: Duration,
    /// …up to so many pixels; more are not decoded.
    pub max_pixels: u64,
}

impl Deadlines {
    fn of(&self, picture: &Picture) -> Duration {
        // Only the header is looked at, and whatever is in it must not hurt.
        let pixels = catch_unwind(AssertUnwindSafe(|| imagesize::blob_size(&picture.bytes)))
            .ok()
            .and_then(Result::ok)
            .map_or(0, |size| {
                (size.width as u64).saturating_mul(size.height as u64)
            });
        self.base
            + self
                .per_megapixel
                .mul_f64(pixels.min(self.max_pixels) as f64 / 1e6)
    }
}

/// One engine.
pub struct Slot {
    place: Place,
    pack: Arc<Pack>,
    deadlines: Deadlines,
    /// Pictures at the same time where the engine does not say.
    threads: usize,
    state: watch::Sender<SlotState>,
    generations: AtomicU64,
}

/// How an engine is.
#[derive(Clone)]
pub enum SlotState {
    /// Not wanted.
    Stopped,
    /// Loading its models.
    Starting,
    /// Takes pictures.
    Up(Arc<Up>),
    /// Did not come up, and why.
    Failed(TestFailure),
}

/// Why an engine did not come up or did not pass its test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestFailure {
    /// `SelfTest`: it gives a sound answer that is not the right one for the bundled picture, so
    /// nothing it said since the last test is to be believed.
    pub reason: BreakerReason,
    /// In words.
    pub why: String,
}

impl TestFailure {
    fn new(reason: BreakerReason, why: impl Into<String>) -> Self {
        Self {
            reason,
            why: why.into(),
        }
    }

    fn of(error: &CallError) -> Self {
        let reason = match error {
            CallError::Unreadable(_) => BreakerReason::SelfTest,
            CallError::Failed(_) => BreakerReason::Crash,
            CallError::Malformed(_) => BreakerReason::Malformed,
            CallError::Deadline(_) => BreakerReason::Deadline,
            CallError::Lost(_) => BreakerReason::Unreachable,
        };
        Self::new(reason, error.to_string())
    }
}

impl std::fmt::Display for TestFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

/// An engine that runs, from one start to its end.
pub struct Up {
    /// Grows with each start.
    pub generation: u64,
    description: Mutex<Description>,
    threads: usize,
    client: Client,
    child: Option<Child>,
    permits: Arc<Semaphore>,
    life: Mutex<Life>,
    idle: Notify,
    gone: CancellationToken,
    turns: AtomicU64,
}

#[derive(Default)]
struct Life {
    in_flight: usize,
    end: Option<End>,
}

/// How an engine's run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// In words.
    pub how: String,
    /// Pictures in flight when it did.
    pub in_flight: usize,
    /// Why.
    pub cause: Cause,
}

/// Why an engine's run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// By itself.
    Died,
    /// We killed it because a picture took too long.
    Deadline,
    /// We took it down between pictures.
    Planned,
}

/// Why a picture got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The engine lives and answered: unreadable, failed or malformed; or a server elsewhere was
    /// too slow or is lost.
    Call(CallError),
    /// The engine died; `lone` when this picture was the only one in flight.
    Died {
        /// In words.
        how: String,
        /// Nothing else was in flight.
        lone: bool,
    },
    /// The engine was killed because this picture took too long.
    Overdue {
        /// The time it had.
        limit: Duration,
        /// Nothing else was in flight.
        lone: bool,
    },
    /// The engine went down, and this picture has nothing to do with it.
    Swept(String),
}

/// A picture's turn in an engine; held while it is in flight.
pub struct Turn {
    up: Arc<Up>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut life = self.up.life();
        life.in_flight -= 1;
        if life.in_flight == 0 {
            self.up.idle.notify_waiters();
        }
    }
}

impl Up {
    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free thread of the engine.
    pub async fn turn(self: &Arc<Self>) -> Result<Turn, Trouble> {
        let swept = || Trouble::Swept("the engine is being restarted".into());
        let permit = tokio::select! {
            permit = Arc::clone(&self.permits).acquire_owned() => permit.map_err(|_| swept())?,
            () = self.gone.cancelled() => return Err(swept()),
        };
        let mut life = self.life();
        if life.end.is_some() {
            return Err(swept());
        }
        life.in_flight += 1;
        drop(life);
        self.turns.fetch_add(1, Ordering::Relaxed);
        Ok(Turn {
            up: Arc::clone(self),
            _permit: permit,
        })
    }

    /// Notes the end, once; later callers learn what the first one noted.
    fn end(&self, how: String, cause: Cause) -> (End, bool) {
        let mut life = self.life();
        if let Some(end) = &life.end {
            return (end.clone(), false);
        }
        let end = End {
            how,
            in_flight: life.in_flight,
            cause,
        };
        life.end = Some(end.clone());
        drop(life);
        self.gone.cancel();
        if let Some(child) = &self.child {
            child.kill();
        }
        (end, true)
    }

    /// Resolves when the engine is no more.
    pub async fn ended(&self) -> End {
        match &self.child {
            Some(child) => tokio::select! {
                () = self.gone.cancelled() => {}
                () = child.ended() => drop(self.end(child.how(), Cause::Died)),
            },
            None => self.gone.cancelled().await,
        }
        self.life().end.clone().unwrap_or(End {
            how: String::new(),
            in_flight: 0,
            cause: Cause::Planned,
        })
    }

    /// Memory of the child process, in bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.child.as_ref().and_then(Child::resident_bytes)
    }

    /// Process number of the child.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// Lets no further picture in, waits until the last one is out, and ends the engine.
    pub async fn take_down(&self, why: &str) {
        self.permits.close();
        loop {
            let out = self.idle.notified();
            if self.life().in_flight == 0 || self.gone.is_cancelled() {
                break;
            }
            tokio::select! {
                () = out => {}
                () = self.gone.cancelled() => {}
            }
        }
        // Before the note, which kills: it may end by itself.
        if let Some(child) = &self.child {
            child.stop().await;
        }
        self.end(why.into(), Cause::Planned);
    }

    /// Pictures it has been given.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Pictures it takes at the same time.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether it is no more.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// What it said of itself when it was last asked.
    pub fn description(&self) -> Description {
        self.description
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Precision that runs there, as far as it says.
    pub fn precision(&self) -> Option<Precision> {
        self.description().precision.parse().ok()
    }

    /// For results, health and people: pack, precision, device.
    pub fn name(&self) -> String {
        let Description {
            pack,
            precision,
            device,
            ..
        } = self.description();
        [pack, precision, device]
            .iter()
            .filter(|word| !word.is_empty())
            .cloned()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Asks again what it says of itself.
    pub async fn refresh_description(&self) -> Option<Description> {
        let said = self.client.describe().await.ok().flatten()?;
        *self
            .description
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = said.clone();
        Some(said)
    }

    async fn call(
        &self,
        picture: Picture,
        pack: &Pack,
        deadline: Duration,
    ) -> Result<Answer, Trouble> {
        let answer = tokio::select! {
            biased;
            answer = self.client.recognise(picture, pack, deadline) => answer,
            () = self.gone.cancelled() => Err(CallError::Lost("the engine is gone".into())),
        };
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match (error, &self.child) {
            (CallError::Deadline(limit), Some(_)) => {
                let (end, first) = self.end(
                    format!("killed after {:.1} s over one picture", limit.as_secs_f32()),
                    Cause::Deadline,
                );
                if first {
                    Err(Trouble::Overdue {
                        limit,
                        lone: end.in_flight == 1,
                    })
                } else {
                    Err(Trouble::Swept(end.how))
                }
            }
            (CallError::Lost(how), Some(child)) => {
                // Its exit, if that is what happened, says more than the broken connection does.
                let noticed = tokio::time::timeout(END_NOTICED, child.ended()).await;
                let how = if noticed.is_ok() {
                    child.how()
                } else {
                    format!("the engine broke the connection: {how}")
                };
                let (end, _) = self.end(how, Cause::Died);
                match end.cause {
                    Cause::Died => Err(Trouble::Died {
                        how: end.how,
                        lone: end.in_flight == 1,
                    }),
                    Cause::Deadline | Cause::Planned => Err(Trouble::Swept(end.how)),
                }
            }
            (error, _) => Err(Trouble::Call(error)),
        }
    }
}

impl Slot {
    /// An engine that is not running yet.
    pub fn new(place: Place, pack: Arc<Pack>, deadlines: Deadlines, threads: usize) -> Self {
        let (state, _) = watch::channel(SlotState::Stopped);
        Self {
            place,
            pack,
            deadlines,
            threads,
            state,
            generations: AtomicU64::new(0),
        }
    }

    /// How it is, and a way to wait for a change.
    pub fn watch(&self) -> watch::Receiver<SlotState> {
        self.state.subscribe()
    }

    /// The running engine.
    pub fn up(&self) -> Option<Arc<Up>> {
        match &*self.state.borrow() {
            SlotState::Up(up) if !up.gone.is_cancelled() && !up.permits.is_closed() => {
                Some(Arc::clone(up))
            }
            _ => None,
        }
    }

    /// Whether its process is ours.
    pub fn is_child(&self) -> bool {
        matches!(self.place, Place::Child(_))
    }

    /// Where it runs, for people.
    pub fn place(&self) -> String {
        match &self.place {
            Place::Child(settings) => format!("this board's {}", settings.device),
            Place::Recognizer { address, .. } | Place::Origin(address) => address.clone(),
        }
    }

    /// How the latest run ended, if it has, and which one that was.
    pub fn last_end(&self) -> Option<(u64, End)> {
        match &*self.state.borrow() {
            SlotState::Up(up) => up.life().end.clone().map(|end| (up.generation, end)),
            _ => None,
        }
    }

    /// Waits until a later run than this one is up and has passed its test; the error says why
    /// there is none.
    pub async fn restarted_after(&self, generation: u64) -> Result<(), String> {
        let mut state = self.watch();
        let settled = state.wait_for(|state| match state {
            SlotState::Up(up) => up.generation > generation,
            SlotState::Failed(_) | SlotState::Stopped => true,
            SlotState::Starting => false,
        });
        match settled.await.map(|state| state.clone()) {
            Ok(SlotState::Up(_)) => Ok(()),
            Ok(SlotState::Failed(failure)) => Err(failure.to_string()),
            _ => Err("the engine is not wanted now".into()),
        }
    }

    /// Brings it up and tests it; the error says why it is not up.
    pub async fn start(
        &self,
        precision: Option<Precision>,
        time_precisions: bool,
    ) -> Result<Arc<Up>, TestFailure> {
        self.state.send_replace(SlotState::Starting);
        let started = self.try_start(precision, time_precisions).await;
        self.state.send_replace(match &started {
            Ok(up) => SlotState::Up(Arc::clone(up)),
            Err(why) => SlotState::Failed(why.clone()),
        });
        started
    }

    async fn try_start(
        &self,
        precision: Option<Precision>,
        time_precisions: bool,
    ) -> Result<Arc<Up>, TestFailure> {
        let elsewhere = |error: CallError| TestFailure::of(&error);
        let (child, client) = match &self.place {
            Place::Child(settings) => {
                let started = process::start(settings, precision, time_precisions).await;
                let (child, client) =
                    started.map_err(|why| TestFailure::new(BreakerReason::Start, why))?;
                (Some(child), client)
            }
            Place::Recognizer { address, paths } => (
                None,
                Client::to_address(address, *paths)
                    .await
                    .map_err(elsewhere)?,
            ),
            Place::Origin(address) => (None, Client::to_origin(address).await.map_err(elsewhere)?),
        };
        let description = match client.describe().await.map_err(elsewhere)? {
            Some(description) if description.space != self.pack.space() => {
                return Err(TestFailure::new(
                    BreakerReason::Start,
                    format!(
                        "the engine at {} runs the model pack {:?} in another embedding space than {}; set models.pack \
                     and models.flip to the same on both sides",
                        self.place(),
                        description.pack,
                        self.pack.id()
                    ),
                ));
            }
            Some(description) => description,
            None => Description {
                pack: "facerecog".into(),
                device: self.place(),
                ..Description::default()
            },
        };
        let threads = match description.threads {
            0 => self.threads,
            threads => (threads as usize).min(256),
        };
        let up = Arc::new(Up {
            generation: self.generations.fetch_add(1, Ordering::Relaxed) + 1,
            description: Mutex::new(description),
            threads,
            client,
            child,
            permits: Arc::new(Semaphore::new(threads)),
            life: Mutex::default(),
            idle: Notify::new(),
            gone: CancellationToken::new(),
            turns: AtomicU64::new(0),
        });
        match self.self_test(&up).await {
            Ok(()) => Ok(up),
            Err(why) => {
                up.end(why.to_string(), Cause::Planned);
                Err(why)
            }
        }
    }

    /// Recognises one picture in its turn.
    pub async fn call(&self, turn: Turn, picture: Picture) -> Result<Answer, Trouble> {
        let deadline = self.deadlines.of(&picture);
        turn.up.call(picture, &self.pack, deadline).await
    }

    /// Health, then the bundled picture, whose embedding must match the pack's reference.
    pub async fn self_test(&self, up: &Arc<Up>) -> Result<(), TestFailure> {
        let failed =
            |reason, why: String| TestFailure::new(reason, format!("the self-test failed: {why}"));
        let of_call = |error: &CallError| {
            let TestFailure { reason, why } = TestFailure::of(error);
            failed(reason, why)
        };
        up.client.ready().await.map_err(|error| of_call(&error))?;
        if matches!(self.place, Place::Origin(_)) {
            // It takes paths of its own mounts and gives names: there is nothing to compare.
            return Ok(());
        }
        let reference = self.pack.self_test();
        let pack = Arc::clone(&self.pack);
        let reading = tokio::task::spawn_blocking(move || {
            pack.self_test_picture()
                .map(|bytes| Bytes::from(bytes.into_owned()))
        });
        let bytes = match reading.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(failed(BreakerReason::Start, error.to_string())),
            Err(panic) => return Err(failed(BreakerReason::Start, panic.to_string())),
        };
        let of_trouble = |trouble: Trouble| match trouble {
            Trouble::Call(error) => of_call(&error),
            Trouble::Overdue { .. } => failed(BreakerReason::Deadline, trouble.to_string()),
            Trouble::Died { .. } | Trouble::Swept(_) => {
                failed(BreakerReason::Crash, trouble.to_string())
            }
        };
        let turn = up.turn().await.map_err(of_trouble)?;
        let answer = self
            .call(turn, Picture { bytes, path: None })
            .await
            .map_err(of_trouble)?;
        let lies = |why: String| failed(BreakerReason::SelfTest, why);
        let Answer::Faces(reply) = answer else {
            return Err(lies("it names people instead of giving faces".into()));
        };
        let [face] = reply.faces.as_slice() else {
            return Err(lies(format!(
                "{} faces were found where there is one",
                reply.faces.len()
            )));
        };
        let distance = self
            .pack
            .matching()
            .metric
            .distance(&face.embedding, &reference.embedding);
        let precision = up.precision().unwrap_or(Precision::Float32);
        let tolerance = reference.tolerance.of(precision);
        if distance <= tolerance {
            return Ok(());
        }
        let found = format!("the embedding is {distance:.3} away from the reference");
        Err(lies(format!(
            "{found}, {tolerance} is allowed for {precision}"
        )))
    }

    /// Takes it down between pictures.
    pub async fn stop(&self, why: &str) {
        let up = self.up();
        if let Some(up) = up {
            up.take_down(why).await;
        }
        self.state.send_replace(SlotState::Stopped);
    }

    /// Ends it at once, whatever is in flight: it is not to be believed.
    pub fn kill(&self, why: &str) {
        if let SlotState::Up(up) = &*self.state.borrow() {
            up.end(why.into(), Cause::Planned);
        }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(error) => error.fmt(f),
            Self::Died { how, .. } | Self::Swept(how) => f.write_str(how),
            Self::Overdue { limit, .. } => {
                write!(f, "no answer within {:.1} s", limit.as_secs_f32())
            }
        }
    }
}
