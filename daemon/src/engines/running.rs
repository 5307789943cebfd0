//! A run of an engine, from its start to its exit: its threads, the pictures in it, and its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kith_vision::{Pack, Precision};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::child::Child;
use crate::domain::{EngineError, EngineErrorKind};
use crate::engines::admission::{Class, Thread, Threads};
use crate::engines::client::{Client, EngineReply, Picture};
use crate::rpc::recognizer::Description;

/// Time within which a child's exit is noticed after its connection broke.
const END_NOTICED: Duration = Duration::from_secs(1);

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

/// A run of an engine, from its start to its exit.
pub struct RunningEngine {
    /// Number of this run, which grows with each start.
    pub generation: u64,
    pub(super) pack: Arc<Pack>,
    pub(super) deadlines: Deadlines,
    pub(super) description: Mutex<Description>,
    pub(super) threads: Threads,
    pub(super) client: Client,
    pub(super) child: Option<Child>,
    pub(super) life: Mutex<InFlight>,
    pub(super) idle: Notify,
    pub(super) gone: CancellationToken,
    pub(super) calls: AtomicU64,
}

#[derive(Default)]
pub(super) struct InFlight {
    pub(super) in_flight: usize,
    pub(super) end: Option<Exit>,
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
    pub(super) fn life(&self) -> MutexGuard<'_, InFlight> {
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
    pub(super) fn end(&self, how: String, cause: ExitCause) -> (Exit, bool) {
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
