//! An engine, as a child process or as a server at an address: start, call, self-test, stop. The
//! supervisor decides when to do which.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kith_vision::{Pack, Precision};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::child::Child;
use crate::domain::{EngineError, EngineErrorKind};
use crate::engines::admission::{Class, Thread, Threads};
use crate::engines::client::{Client, EngineReply, Picture};
use crate::engines::process::{self, ChildSettings};
use crate::rpc::recognizer::Description;

/// Time within which a child's exit is noticed after its connection broke.
const END_NOTICED: Duration = Duration::from_secs(1);

/// Location of an engine.
#[derive(Debug, Clone)]
pub enum Place {
    /// A child process on a unix socket.
    Child(ChildSettings),
    /// A server of `recognizer.proto` at `unix:/path` or `http://host:port`.
    Recognizer {
        /// Address of the server.
        address: String,
        /// True if it shares the mounts and is sent paths.
        paths: bool,
    },
    /// A facerecog service at `http://host:port`.
    Facerecog(String),
}

/// Deadline for one picture, by its size.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Time for every picture.
    pub base: Duration,
    /// Additional time for each megapixel.
    pub per_megapixel: Duration,
    /// Most pixels that are decoded, and so counted.
    pub max_pixels: u64,
}

impl Deadlines {
    fn of(&self, picture: &Picture) -> Duration {
        // Only the header is parsed; a panic of the parser must not spread.
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

/// An engine, running or not.
pub struct EngineInstance {
    place: Place,
    deadlines: Deadlines,
    /// Simultaneous pictures, unless the engine reports its own number.
    threads: usize,
    state: watch::Sender<EngineState>,
    generations: AtomicU64,
}

/// State of an engine.
#[derive(Clone)]
pub enum EngineState {
    /// Stopped on purpose.
    Stopped,
    /// Loading its models.
    Starting,
    /// Ready for pictures.
    Running(Arc<RunningEngine>),
    /// Failed to start, with the reason.
    Failed(EngineError),
}

/// A run of an engine, from its start to its exit.
pub struct RunningEngine {
    /// Number of this run, which grows with each start.
    pub generation: u64,
    pack: Arc<Pack>,
    deadlines: Deadlines,
    description: Mutex<Description>,
    threads: Threads,
    client: Client,
    child: Option<Child>,
    life: Mutex<InFlight>,
    idle: Notify,
    gone: CancellationToken,
    calls: AtomicU64,
}

#[derive(Default)]
struct InFlight {
    in_flight: usize,
    end: Option<Exit>,
}

/// End of an engine's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The end as a sentence.
    pub how: String,
    /// Pictures that were in flight.
    pub in_flight: usize,
    /// Cause of the end.
    pub cause: ExitCause,
}

/// Cause of the end of an engine's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCause {
    /// The process exited by itself, or the connection broke.
    Died,
    /// The daemon killed it because a picture took too long.
    Deadline,
    /// The daemon stopped it between pictures.
    Planned,
}

/// Permission to give an engine one picture; held while the picture is in flight.
pub struct Permit {
    up: Arc<RunningEngine>,
    _thread: Thread,
}

impl Permit {
    /// Recognises one picture within its deadline.
    pub async fn call(self, picture: Picture) -> Result<EngineReply, EngineError> {
        let up = &self.up;
        let deadline = up.deadlines.of(&picture);
        let answer = tokio::select! {
            biased;
            answer = up.client.recognise(picture, &up.pack, deadline) => answer,
            () = up.gone.cancelled() => Err(EngineError::new(
                EngineErrorKind::Unreachable,
                "the engine is gone",
            )),
        };
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let Some(child) = &up.child else {
            return Err(error);
        };
        match error.kind {
            EngineErrorKind::TimedOut { limit, .. } => {
                let how = format!("killed after {:.1} s over one picture", limit.as_secs_f32());
                let (exit, first) = up.end(how, ExitCause::Deadline);
                if !first {
                    return Err(EngineError::aborted(exit.how));
                }
                let lone = exit.in_flight == 1;
                let kind = EngineErrorKind::TimedOut { limit, lone };
                Err(EngineError::new(kind, error.sentence))
            }
            EngineErrorKind::Unreachable => {
                // The exit status says more than the broken connection.
                let noticed = tokio::time::timeout(END_NOTICED, child.ended()).await;
                let how = if noticed.is_ok() {
                    child.how()
                } else {
                    format!("the engine broke the connection: {error}")
                };
                let (exit, _) = up.end(how, ExitCause::Died);
                let kind = match exit.cause {
                    ExitCause::Died => EngineErrorKind::Died {
                        lone: exit.in_flight == 1,
                    },
                    ExitCause::Deadline | ExitCause::Planned => EngineErrorKind::Aborted,
                };
                Err(EngineError::new(kind, exit.how))
            }
            _ => Err(error),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut life = self.up.life();
        life.in_flight -= 1;
        if life.in_flight == 0 {
            self.up.idle.notify_waiters();
        }
    }
}

impl RunningEngine {
    fn life(&self) -> MutexGuard<'_, InFlight> {
        self.life.lock()
    }

    /// Waits for a free thread of the engine.
    pub(super) async fn acquire(self: &Arc<Self>, class: Class) -> Result<Permit, EngineError> {
        let aborted = || EngineError::aborted("the engine is being restarted");
        let thread = tokio::select! {
            thread = self.threads.acquire(class) => thread.ok_or_else(aborted)?,
            () = self.gone.cancelled() => return Err(aborted()),
        };
        let mut life = self.life();
        if life.end.is_some() {
            return Err(aborted());
        }
        life.in_flight += 1;
        drop(life);
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(Permit {
            up: Arc::clone(self),
            _thread: thread,
        })
    }

    /// Notes the end once. Later callers get the end that was noted first, and false.
    fn end(&self, how: String, cause: ExitCause) -> (Exit, bool) {
        let mut life = self.life();
        if let Some(end) = &life.end {
            return (end.clone(), false);
        }
        let end = Exit {
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

    /// Waits until the run has ended.
    pub async fn ended(&self) -> Exit {
        match &self.child {
            Some(child) => tokio::select! {
                () = self.gone.cancelled() => {}
                () = child.ended() => drop(self.end(child.how(), ExitCause::Died)),
            },
            None => self.gone.cancelled().await,
        }
        self.life().end.clone().unwrap_or(Exit {
            how: String::new(),
            in_flight: 0,
            cause: ExitCause::Planned,
        })
    }

    /// Returns the memory of the child process, in bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        self.child.as_ref().and_then(Child::resident_bytes)
    }

    /// Returns the process number of the child.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|child| child.pid)
    }

    /// Refuses further pictures, waits for those in flight, and ends the engine.
    pub async fn take_down(&self, why: &str) {
        self.threads.close();
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
        // The process may exit by itself, so ask it before `end`, which kills it.
        if let Some(child) = &self.child {
            child.stop().await;
        }
        self.end(why.into(), ExitCause::Planned);
    }

    /// Returns the number of pictures it was given.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Returns the number of pictures it takes at the same time.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// Returns its description of itself, as last read.
    pub fn description(&self) -> Description {
        self.description.lock().clone()
    }

    /// Returns the precision that runs there, if it is known.
    pub fn precision(&self) -> Option<Precision> {
        self.description().precision.parse().ok()
    }

    /// Returns pack, precision and device, for results and health.
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

    /// Reads its description again.
    pub async fn refresh_description(&self) -> Option<Description> {
        let said = self.client.describe().await.ok().flatten()?;
        *self.description.lock() = said.clone();
        Some(said)
    }
}

impl EngineInstance {
    /// Makes an engine that is not running yet.
    pub fn new(place: Place, deadlines: Deadlines, threads: usize) -> Self {
        let (state, _) = watch::channel(EngineState::Stopped);
        Self {
            place,
            deadlines,
            threads,
            state,
            generations: AtomicU64::new(0),
        }
    }

    /// Returns its state, with a way to wait for changes.
    pub fn watch(&self) -> watch::Receiver<EngineState> {
        self.state.subscribe()
    }

    /// Returns the current run.
    pub fn running(&self) -> Option<Arc<RunningEngine>> {
        match &*self.state.borrow() {
            EngineState::Running(up) if !up.gone.is_cancelled() && !up.threads.is_closed() => {
                Some(Arc::clone(up))
            }
            _ => None,
        }
    }

    /// Returns true if the engine is a child of this process.
    pub fn is_child(&self) -> bool {
        matches!(self.place, Place::Child(_))
    }

    /// Returns its location, for people.
    pub fn place(&self) -> String {
        match &self.place {
            Place::Child(settings) => format!("this board's {}", settings.device),
            Place::Recognizer { address, .. } | Place::Facerecog(address) => address.clone(),
        }
    }

    /// Returns the end of the latest run, with the number of that run.
    pub fn last_exit(&self) -> Option<(u64, Exit)> {
        match &*self.state.borrow() {
            EngineState::Running(up) => up.life().end.clone().map(|end| (up.generation, end)),
            _ => None,
        }
    }

    /// Waits until a later run is up and has passed its self-test; the error says why there is
    /// none.
    pub async fn restarted_after(&self, generation: u64) -> Result<(), String> {
        let mut state = self.watch();
        let settled = state.wait_for(|state| match state {
            EngineState::Running(up) => up.generation > generation,
            EngineState::Failed(_) | EngineState::Stopped => true,
            EngineState::Starting => false,
        });
        match settled.await.map(|state| state.clone()) {
            Ok(EngineState::Running(_)) => Ok(()),
            Ok(EngineState::Failed(failure)) => Err(failure.to_string()),
            _ => Err("the engine is stopped".into()),
        }
    }

    /// Shows why no engine can be started.
    pub fn cannot_start(&self, error: EngineError) {
        self.state.send_replace(EngineState::Failed(error));
    }

    /// Starts the engine and runs its self-test; the error says why it is not running.
    pub async fn start(
        &self,
        pack: &Arc<Pack>,
        precision: Option<Precision>,
        time_precisions: bool,
    ) -> Result<Arc<RunningEngine>, EngineError> {
        self.state.send_replace(EngineState::Starting);
        let started = self.try_start(pack, precision, time_precisions).await;
        self.state.send_replace(match &started {
            Ok(up) => EngineState::Running(Arc::clone(up)),
            Err(why) => EngineState::Failed(why.clone()),
        });
        started
    }

    async fn try_start(
        &self,
        pack: &Arc<Pack>,
        precision: Option<Precision>,
        time_precisions: bool,
    ) -> Result<Arc<RunningEngine>, EngineError> {
        let not_started = |why: String| EngineError::new(EngineErrorKind::NotStarted, why);
        let (child, client) = match &self.place {
            Place::Child(settings) => {
                let started = process::start(settings, precision, time_precisions).await;
                let (child, client) = started.map_err(not_started)?;
                (Some(child), client)
            }
            Place::Recognizer { address, paths } => {
                (None, Client::to_address(address, *paths).await?)
            }
            Place::Facerecog(address) => (None, Client::to_facerecog(address).await?),
        };
        let description = match client.describe().await? {
            Some(description) if description.space != pack.space() => {
                return Err(not_started(format!(
                    "the engine at {} runs the model pack {:?} in another embedding space than {}; set models.pack \
                     and models.flip to the same on both sides",
                    self.place(),
                    description.pack,
                    pack.id()
                )));
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
        let up = Arc::new(RunningEngine {
            generation: self.generations.fetch_add(1, Ordering::Relaxed) + 1,
            pack: Arc::clone(pack),
            deadlines: self.deadlines,
            description: Mutex::new(description),
            threads: Threads::new(threads),
            client,
            child,
            life: Mutex::default(),
            idle: Notify::new(),
            gone: CancellationToken::new(),
            calls: AtomicU64::new(0),
        });
        match self.self_test(&up).await {
            Ok(()) => Ok(up),
            Err(why) => {
                up.end(why.to_string(), ExitCause::Planned);
                Err(why)
            }
        }
    }

    /// Checks health, then the embedding of the bundled test picture against the pack's reference.
    pub async fn self_test(&self, up: &Arc<RunningEngine>) -> Result<(), EngineError> {
        self.try_self_test(up).await.map_err(|error| EngineError {
            sentence: match error.kind {
                EngineErrorKind::Malformed => {
                    format!("the self-test failed: the answer makes no sense: {error}")
                }
                _ => format!("the self-test failed: {error}"),
            },
            kind: match error.kind {
                EngineErrorKind::Unreadable => EngineErrorKind::WrongAnswer,
                kind => kind,
            },
        })
    }

    async fn try_self_test(&self, up: &Arc<RunningEngine>) -> Result<(), EngineError> {
        up.client.ready().await?;
        if matches!(self.place, Place::Facerecog(_)) {
            // A facerecog service takes only paths and returns only names: there is no embedding to
            // compare.
            return Ok(());
        }
        let pack = Arc::clone(&up.pack);
        let reading = tokio::task::spawn_blocking(move || {
            pack.self_test_picture()
                .map(|bytes| Bytes::from(bytes.into_owned()))
        });
        let unread = |error: &dyn std::fmt::Display| {
            EngineError::new(EngineErrorKind::NotStarted, error.to_string())
        };
        let bytes = reading
            .await
            .map_err(|panic| unread(&panic))?
            .map_err(|error| unread(&error))?;
        let permit = up.acquire(Class::Interactive).await?;
        let answer = permit.call(Picture { bytes, path: None }).await?;
        let wrong = |why: String| EngineError::new(EngineErrorKind::WrongAnswer, why);
        let EngineReply::Faces(reply) = answer else {
            return Err(wrong("it names people instead of giving faces".into()));
        };
        let faces = reply.faces.iter();
        let embeddings: Vec<_> = faces.map(|face| face.embedding.as_slice()).collect();
        let precision = up.precision().unwrap_or(Precision::Float32);
        let metric = up.pack.matching().metric;
        let checked = up.pack.self_test().check(&embeddings, metric, precision);
        checked.map_err(|error| wrong(error.to_string()))?;
        Ok(())
    }

    /// Stops it between pictures.
    pub async fn stop(&self, why: &str) {
        let up = self.running();
        if let Some(up) = up {
            up.take_down(why).await;
        }
        self.state.send_replace(EngineState::Stopped);
    }

    /// Kills it at once, with whatever is in flight: its answers are wrong.
    pub fn kill(&self, why: &str) {
        if let EngineState::Running(up) = &*self.state.borrow() {
            up.end(why.into(), ExitCause::Planned);
        }
    }
}
