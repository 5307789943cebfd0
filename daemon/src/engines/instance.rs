//! An engine, as a child process or as a server at an address: start, self-test, stop. The
//! supervisor decides when to do which; `running` has a run and its calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kith_vision::{Pack, Precision};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::{EngineError, EngineErrorKind};
use crate::engines::admission::{Class, Threads};
use crate::engines::client::{Client, EngineReply, Picture};
use crate::engines::process::{self, ChildSettings};
use crate::engines::running::{Deadlines, Exit, ExitCause, RunningEngine};
use crate::rpc::recognizer::Description;

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
        let picture = Picture {
            bytes,
            path: None,
            faces_only: false,
        };
        let answer = permit.call(picture).await?;
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
