//! The engines behind the circuit breaker. [`Engines`] is the handle for every caller with a
//! picture: it chooses the engine and reports failures to the breaker. [`EngineSupervisor`] is the
//! one task that starts, tests and stops the engines.
//!
//! The rules of the breaker are in `breaker`, the consequences for the picture in `queue::Failure`.

mod persistence;
mod report;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use kith_vision::{Device, Pack, Precision};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use persistence::Persistence;

use crate::config::{self, Config, Elsewhere, Models};
use crate::domain::{
    BreakerCommand, BreakerReason, BreakerState, EngineError, EngineErrorKind, EngineRole, ImageId,
};
use crate::engine_process::{JPEG_TIMES, load_pack};
use crate::engines::breaker::{Breaker, Ticket, Transition};
use crate::engines::client::{Answer, Picture};
use crate::engines::instance::{
    Deadlines, EngineInstance, EngineState, Exit, ExitCause, Place, RunningEngine,
};
use crate::engines::process::ChildSettings;
use crate::engines::status::{EngineReport, PrecisionTime};
use crate::queue::{Again, Failure};
use crate::status::health::{Condition, Health};

/// Interval of the checks of memory and precision timings.
const LOOK: Duration = Duration::from_secs(2);
/// Delay before a fallback that did not start is tried again.
const FALLBACK_RETRY: Duration = Duration::from_secs(10);
/// Delay before a model pack that cannot be used is tried again.
const PACK_RETRY: Duration = Duration::from_secs(30);

/// Settings of the engines.
#[derive(Clone)]
pub struct Settings {
    /// The model pack and its settings.
    pub models: Models,
    /// Settings of the primary and the fallback engine.
    pub engine: config::Engine,
    /// Settings of the circuit breaker.
    pub breaker: config::Breaker,
    /// Deadline of one picture.
    pub deadlines: Deadlines,
    /// Simultaneous pictures of one engine.
    pub threads: usize,
    /// Arguments that give an engine process this configuration.
    pub configuration: Vec<String>,
    /// Folder for the engines' sockets.
    pub sockets: PathBuf,
}

impl Settings {
    /// Returns the settings of a configuration, with this folder for the engines' sockets.
    pub fn of(config: &Config, sockets: &Path) -> Self {
        Self {
            models: config.models.clone(),
            engine: config.engine.clone(),
            breaker: config.breaker.clone(),
            deadlines: Deadlines {
                base: config.recognition.deadline,
                per_megapixel: config.recognition.deadline_per_megapixel,
                max_pixels: config.recognition.max_pixels.saturating_mul(JPEG_TIMES),
            },
            threads: config.recognition.threads,
            configuration: config.arguments.clone(),
            sockets: sockets.into(),
        }
    }
}

/// The engines behind the breaker; clones share them. The handle exists before the model pack is
/// loaded; until then every call fails with [`Failure::engine_away`].
#[derive(Clone)]
pub struct Engines {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    pack: OnceLock<Arc<Pack>>,
    primary: EngineInstance,
    fallback: Option<EngineInstance>,
    breaker: Mutex<Breaker>,
    health: Health,
    /// Changes whenever an engine may have become available.
    changed: watch::Sender<u64>,
    /// Wakes the supervising task.
    wake: Notify,
    fallback_calls: AtomicU64,
    /// Milliseconds of each precision, as measured in this run.
    timings: watch::Sender<Vec<PrecisionTime>>,
    /// Transitions that the supervising task writes down.
    transitions: mpsc::UnboundedSender<Transition>,
}

/// Answer of an engine.
#[derive(Debug)]
pub struct Recognised {
    /// Faces or a name.
    pub answer: Answer,
    /// Pack, precision and device.
    pub engine: String,
    /// Role of the engine that answered.
    pub role: EngineRole,
}

/// Destination of the next picture.
enum Route {
    Primary(Arc<RunningEngine>),
    Fallback(Arc<RunningEngine>),
    Nowhere(String),
}

impl Engines {
    /// Makes engines that are not running yet, and the task that runs them.
    pub fn new(
        settings: Settings,
        health: Health,
        persistence: Option<Persistence>,
    ) -> (Self, EngineSupervisor) {
        let child = |device: Device, name: &str| ChildSettings {
            device,
            socket: settings.sockets.join(format!("engine-{name}.sock")),
            configuration: settings.configuration.clone(),
            start_deadline: settings.engine.start_deadline,
        };
        let device = settings.engine.device;
        let place = match &settings.engine.elsewhere {
            None => Place::Child(child(device, &device.to_string())),
            Some(Elsewhere::Recognizer { address, paths }) => Place::Recognizer {
                address: address.clone(),
                paths: *paths,
            },
            Some(Elsewhere::Facerecog { address }) => Place::Facerecog(address.clone()),
        };
        let instance = |place| EngineInstance::new(place, settings.deadlines, settings.threads);
        let fallback = settings
            .engine
            .fallback
            .then(|| instance(Place::Child(child(Device::Cpu, "fallback"))));
        let (transitions, written) = mpsc::unbounded_channel();
        let precision = settings.models.precision;
        let self_test = settings.breaker.self_test;
        let inner = Inner {
            primary: instance(place),
            fallback,
            breaker: Mutex::new(Breaker::new(settings.breaker.clone(), Instant::now())),
            settings,
            pack: OnceLock::new(),
            health,
            changed: watch::Sender::new(0),
            wake: Notify::new(),
            fallback_calls: AtomicU64::new(0),
            timings: watch::Sender::default(),
            transitions,
        };
        let engines = Self {
            inner: Arc::new(inner),
        };
        let now = Instant::now();
        let supervisor = EngineSupervisor {
            inner: Arc::clone(&engines.inner),
            persistence,
            transitions: written,
            precision,
            discredited: None,
            self_test_every: self_test,
            next_self_test: now + self_test,
            next_fallback_start: now,
            recorded_exit: 0,
        };
        (engines, supervisor)
    }

    /// Returns the model pack; `None` until it is loaded.
    pub fn pack(&self) -> Option<&Arc<Pack>> {
        self.inner.pack.get()
    }

    /// Waits until the model pack is loaded.
    pub async fn loaded(&self) -> Arc<Pack> {
        let mut changes = self.changes();
        loop {
            if let Some(pack) = self.pack() {
                return Arc::clone(pack);
            }
            // The sender lives as long as this handle.
            let _ = changes.changed().await;
        }
    }

    /// Returns the number of pictures that may be in flight or being read; 0 while no engine takes
    /// any.
    pub fn capacity(&self) -> usize {
        match self.inner.route() {
            Route::Primary(up) | Route::Fallback(up) => 2 * up.threads(),
            Route::Nowhere(_) => 0,
        }
    }

    /// Returns a channel that changes whenever [`Engines::capacity`] may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Waits until an engine takes pictures, at most this long; the error says why none does.
    pub async fn available(&self, patience: Duration) -> Result<(), String> {
        let mut changes = self.changes();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            changes.borrow_and_update();
            let Route::Nowhere(why) = self.inner.route() else {
                return Ok(());
            };
            if matches!(
                tokio::time::timeout_at(deadline, changes.changed()).await,
                Err(_) | Ok(Err(_))
            ) {
                return Err(why);
            }
        }
    }

    /// Works like [`Engines::available`], but gives up once the breaker is open and no fallback can
    /// start.
    pub async fn started(&self) -> Result<(), String> {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            let state = self.inner.breaker().state();
            match self.inner.route() {
                Route::Nowhere(why)
                    if state != BreakerState::Closed && !self.inner.fallback_may_come() =>
                {
                    return Err(why);
                }
                Route::Nowhere(_) => changes.changed().await.map_err(|error| error.to_string())?,
                _ => return Ok(()),
            }
        }
    }

    /// Recognises a picture with the engine that takes it now.
    pub async fn recognise(
        &self,
        image: Option<ImageId>,
        picture: &Picture,
    ) -> Result<Recognised, Failure> {
        let inner = &self.inner;
        match inner.route() {
            Route::Nowhere(why) => Err(Failure::engine_away(why)),
            Route::Fallback(up) => inner.call_fallback(&up, picture).await,
            Route::Primary(up) => inner.call_primary(&up, image, picture).await,
        }
    }

    /// Returns the quality of the best face in a picture, 0 to 1; `None` without a face.
    pub async fn best_face(&self, bytes: Bytes) -> Result<Option<f32>, Failure> {
        let picture = Picture { bytes, path: None };
        match self.recognise(None, &picture).await?.answer {
            Answer::Faces(reply) => Ok(reply
                .faces
                .iter()
                .map(|face| face.quality)
                .max_by(f32::total_cmp)),
            Answer::Name(_) => Err(Failure::engine_away(
                "the configured engine does not return faces",
            )),
        }
    }

    /// Returns the state of breaker and engines.
    pub fn report(&self) -> EngineReport {
        self.inner.report()
    }

    /// Gives the breaker an operator's command; returns its state after it.
    pub fn command(&self, command: BreakerCommand) -> BreakerState {
        let transition = self.inner.breaker().command(command, Instant::now());
        self.inner.announce(transition);
        self.inner.breaker().state()
    }
}

impl Inner {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn route(&self) -> Route {
        let ticket = self.breaker().begin();
        if let (Some(_), Some(up)) = (ticket, self.primary.running()) {
            return Route::Primary(up);
        }
        if let Some(up) = self.fallback.as_ref().and_then(EngineInstance::running) {
            return Route::Fallback(up);
        }
        Route::Nowhere(match ticket {
            Some(_) => match &*self.primary.watch().borrow() {
                EngineState::Failed(error) => error.sentence.clone(),
                _ => "the engine is being started".into(),
            },
            None => format!("the circuit breaker is {}", self.report().sentence()),
        })
    }

    fn fallback_may_come(&self) -> bool {
        self.fallback
            .as_ref()
            .is_some_and(|fallback| !matches!(&*fallback.watch().borrow(), EngineState::Failed(_)))
    }

    async fn call_fallback(
        &self,
        up: &Arc<RunningEngine>,
        picture: &Picture,
    ) -> Result<Recognised, Failure> {
        let Some(fallback) = &self.fallback else {
            return Err(Failure::engine_away("there is no fallback engine"));
        };
        let permit = up.acquire().await.map_err(Failure::Engine)?;
        self.fallback_calls.fetch_add(1, Ordering::Relaxed);
        match fallback.call(permit, picture.clone()).await {
            Ok(answer) => Ok(Recognised {
                answer,
                engine: up.name(),
                role: EngineRole::Fallback,
            }),
            Err(error) => Err(self.judged(fallback, up, error, EngineRole::Fallback).await),
        }
    }

    async fn call_primary(
        &self,
        up: &Arc<RunningEngine>,
        image: Option<ImageId>,
        picture: &Picture,
    ) -> Result<Recognised, Failure> {
        let permit = up.acquire().await.map_err(Failure::Engine)?;
        // The breaker may have opened while the picture waited for its permit.
        let Some(ticket) = self.breaker().begin() else {
            return Err(Failure::engine_away("the circuit breaker opened"));
        };
        let begun = Instant::now();
        let called = self.primary.call(permit, picture.clone()).await;
        let (now, took) = (Instant::now(), begun.elapsed());
        match called {
            Ok(answer) => {
                let transition =
                    self.breaker()
                        .answered(ticket, image.unwrap_or_default(), took, now);
                self.announce(transition);
                if up.resident_bytes() > Some(self.settings.engine.memory_limit_bytes) {
                    self.wake.notify_one();
                }
                Ok(Recognised {
                    answer,
                    engine: up.name(),
                    role: EngineRole::Primary,
                })
            }
            Err(error) => {
                let reason = error.reason();
                let failure = self
                    .judged(&self.primary, up, error, EngineRole::Primary)
                    .await;
                Err(self.counted(ticket, image, reason, failure, took))
            }
        }
    }

    /// Turns an engine's error into the picture's failure. If the engine died over this picture
    /// alone, the self-test of the next run decides: passed, the picture is at fault.
    async fn judged(
        &self,
        instance: &EngineInstance,
        up: &RunningEngine,
        error: EngineError,
        by: EngineRole,
    ) -> Failure {
        let lone = matches!(
            error.kind,
            EngineErrorKind::Died { lone: true } | EngineErrorKind::TimedOut { lone: true, .. }
        );
        if lone {
            self.wake.notify_one();
            if let Err(why) = instance.restarted_after(up.generation).await {
                return Failure::engine_away(why);
            }
        }
        match error.kind {
            EngineErrorKind::Unreadable => Failure::Unreadable {
                why: error.sentence,
                by,
            },
            _ => Failure::Engine(error),
        }
    }

    /// Reports a failure to the breaker. A failure that opens the breaker, or that comes while it
    /// is open, is not the picture's fault.
    fn counted(
        &self,
        ticket: Ticket,
        image: Option<ImageId>,
        reason: BreakerReason,
        failure: Failure,
        took: Duration,
    ) -> Failure {
        let verdict = failure.verdict();
        let now = Instant::now();
        if let Failure::Unreadable { .. } = failure {
            // For the breaker the engine has answered.
            let transition = self
                .breaker()
                .answered(ticket, image.unwrap_or_default(), took, now);
            self.announce(transition);
            return failure;
        }
        // `record_exit` counts a death once, however many pictures were in the engine.
        let shared_death = matches!(
            &failure,
            Failure::Engine(error) if error.kind == EngineErrorKind::Died { lone: false }
        );
        if !verdict.counts_for_breaker || shared_death {
            return failure;
        }
        // A picture whose attempt was not counted gets no refund.
        let charged = image.filter(|_| verdict.again == Again::Attempt);
        let transition =
            self.breaker()
                .failed(ticket, charged, reason, verdict.sentence.clone(), now);
        // If one picture alone opened the breaker, the picture is as likely at fault. Its attempt
        // stands, so that it fails in the end.
        let by_one = transition
            .as_ref()
            .is_some_and(|transition| transition.blamed.is_empty());
        self.announce(transition);
        let closed = self.breaker().begin() == Some(ticket);
        if by_one || closed {
            failure
        } else {
            Failure::engine_away(verdict.sentence)
        }
    }

    fn instance(&self, role: EngineRole) -> Option<&EngineInstance> {
        match role {
            EngineRole::Primary => Some(&self.primary),
            EngineRole::Fallback => self.fallback.as_ref(),
        }
    }

    fn changed(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    async fn an_engine_ends(&self) {
        let of = async |instance: Option<&EngineInstance>| match instance
            .and_then(EngineInstance::running)
        {
            Some(up) => drop(up.ended().await),
            None => std::future::pending().await,
        };
        tokio::select! {
            () = of(Some(&self.primary)) => {}
            () = of(self.fallback.as_ref()) => {}
        }
    }

    /// Logs a transition, hands it on to be stored, and applies its consequences.
    fn announce(&self, transition: Option<Transition>) {
        let Some(transition) = transition else {
            return;
        };
        let Transition {
            from,
            to,
            reason,
            sentence,
            ..
        } = &transition;
        let reason = reason.map_or("none", BreakerReason::as_str);
        if *to == BreakerState::Open || *to == BreakerState::ForcedOpen {
            tracing::warn!(
                from = from.as_str(),
                to = to.as_str(),
                reason,
                "circuit breaker: {sentence}"
            );
        } else {
            tracing::info!(
                from = from.as_str(),
                to = to.as_str(),
                reason,
                "circuit breaker: {sentence}"
            );
        }
        // A process that failed gets no further call. One that is only slow, or held open by an
        // operator, may finish.
        let gentle = matches!(reason, "slow" | "operator");
        if *from == BreakerState::Closed && !gentle && self.primary.is_child() {
            self.primary.kill(sentence);
        }
        // Without a receiver the supervising task has ended and kept the last state.
        let _ = self.transitions.send(transition);
        self.show();
        self.changed();
        self.wake.notify_one();
    }
}

/// The task that starts, tests and stops the engines. It alone owns their state, except the
/// breaker's.
pub struct EngineSupervisor {
    inner: Arc<Inner>,
    /// `None` for the command line, which keeps nothing.
    persistence: Option<Persistence>,
    transitions: mpsc::UnboundedReceiver<Transition>,
    /// The precision from the configuration, or as measured on this board.
    precision: Option<Precision>,
    /// The last engine that gave a wrong answer, until its results are verified again.
    discredited: Option<(EngineRole, EngineError)>,
    self_test_every: Duration,
    next_self_test: Instant,
    next_fallback_start: Instant,
    /// Generation of the primary engine whose exit was counted last.
    recorded_exit: u64,
}

impl EngineSupervisor {
    /// Loads the model pack, with retries, then runs the engines until the stop.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.restore_breaker().await;
        let Some(pack) = self.load_pack(&stop).await? else {
            return Ok(());
        };
        self.run_with(pack, stop).await
    }

    /// Runs the engines of a pack until the stop.
    pub async fn run_with(
        mut self,
        pack: Arc<Pack>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let inner = Arc::clone(&self.inner);
        inner
            .health
            .set("engine", Condition::Starting, "the engine is being started");
        self.restore_precision(&pack).await;
        let pack = inner.pack.get_or_init(|| pack);
        inner.changed();
        loop {
            let woken = inner.wake.notified();
            tokio::select! {
                () = self.round(pack) => {}
                () = stop.cancelled() => break,
            }
            inner.show();
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(self.pause()) => {}
                () = inner.an_engine_ends() => {}
                () = stop.cancelled() => break,
            }
        }
        self.persist_transitions().await;
        self.persist_breaker().await;
        // The dispatcher stops at the same time and waits for the pictures in flight.
        inner.primary.stop("kithd stops").await;
        if let Some(fallback) = &inner.fallback {
            fallback.stop("kithd stops").await;
        }
        Ok(())
    }

    /// Loads the model pack; `None` if the stop comes first.
    async fn load_pack(&self, stop: &CancellationToken) -> anyhow::Result<Option<Arc<Pack>>> {
        let Inner {
            settings,
            health,
            primary,
            ..
        } = &*self.inner;
        primary.cannot_start(EngineError::new(
            EngineErrorKind::NotStarted,
            "the model pack is being loaded",
        ));
        let pack = loop {
            let models = settings.models.clone();
            let loading = tokio::task::spawn_blocking(move || load_pack(&models));
            match loading.await.context("loading the model pack panicked")? {
                Ok(pack) => break Arc::new(pack),
                Err(error) => {
                    let why = format!("the model pack cannot be used: {error}");
                    if health.set("engine", Condition::Degraded, why.as_str()) {
                        tracing::error!("pictures wait: {why}");
                    }
                    primary.cannot_start(EngineError::new(EngineErrorKind::NotStarted, why));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PACK_RETRY) => {}
                () = stop.cancelled() => return Ok(None),
            }
        };
        if !pack.commercial_use() {
            tracing::warn!(
                "the model pack {} is licensed for non-commercial use only",
                pack.id()
            );
        }
        Ok(Some(pack))
    }

    /// Does everything that is due, one thing after the other.
    async fn round(&mut self, pack: &Arc<Pack>) {
        self.record_exit();
        if self.persist_transitions().await {
            self.persist_breaker().await;
        }
        let inner = Arc::clone(&self.inner);
        let state = inner.breaker().state();
        // Callers that wait for the next start learn that there is none.
        if state != BreakerState::Closed && inner.primary.last_exit().is_some() {
            inner.primary.stop("it is gone").await;
        }
        self.keep_fallback(pack, state).await;
        match state {
            BreakerState::Closed => match inner.primary.running() {
                None => self.start_primary(pack).await,
                Some(up) => self.look_after(pack, &up).await,
            },
            BreakerState::Open => {
                let began = inner.breaker().begin_ping(Instant::now());
                if began.is_some() {
                    inner.announce(began);
                    // Either outcome moves the breaker.
                    let _ = self.verify(pack, EngineRole::Primary).await;
                }
            }
            // A ping begins and ends within one round.
            BreakerState::HalfOpen => {}
            // The operator may need the device for something else.
            BreakerState::ForcedOpen => inner.primary.stop("held back by an operator").await,
        }
        inner.changed();
    }

    /// Counts the death of a primary engine once. A death over one picture alone is judged by the
    /// self-test of the next run.
    fn record_exit(&mut self) {
        let inner = &self.inner;
        let Some((generation, exit)) = inner.primary.last_exit() else {
            return;
        };
        if self.recorded_exit >= generation {
            return;
        }
        self.recorded_exit = generation;
        let Exit {
            how,
            in_flight,
            cause,
        } = exit;
        tracing::warn!(in_flight, "the engine is gone: {how}");
        let ticket = inner.breaker().begin();
        if let (ExitCause::Died, true, Some(ticket)) = (cause, in_flight != 1, ticket) {
            let transition =
                inner
                    .breaker()
                    .failed(ticket, None, BreakerReason::Crash, how, Instant::now());
            inner.announce(transition);
        }
    }

    /// Starts an engine, or tests the running one, and reports to the breaker. A pass verifies the
    /// results since the last pass; a wrong answer requeues them.
    async fn verify(
        &mut self,
        pack: &Arc<Pack>,
        role: EngineRole,
    ) -> Result<Arc<RunningEngine>, EngineError> {
        let inner = Arc::clone(&self.inner);
        let Some(instance) = inner.instance(role) else {
            return Err(EngineError::aborted("there is no such engine"));
        };
        let newest = self.newest_result().await;
        let running = instance.running();
        let tested = running.is_some();
        let checked = match running {
            Some(up) => instance.self_test(&up).await.map(|()| up),
            None => {
                let (precision, measures) = match role {
                    EngineRole::Primary => (self.precision, self.measures_precision()),
                    EngineRole::Fallback => (inner.settings.models.precision, false),
                };
                instance.start(pack, precision, measures).await
            }
        };
        match &checked {
            Ok(_) => {
                self.results_verified(role, newest).await;
                self.next_self_test = Instant::now() + self.self_test_every;
                if role == EngineRole::Primary {
                    let transition = inner.breaker().ping_passed(Instant::now());
                    inner.announce(transition);
                }
            }
            Err(error) => {
                // The engine must be stopped before its unverified results are requeued.
                match role {
                    EngineRole::Primary => inner.primary_failed(error, tested),
                    EngineRole::Fallback => instance.kill("its test failed"),
                }
                self.results_discredited(role, error).await;
            }
        }
        checked
    }

    async fn start_primary(&mut self, pack: &Arc<Pack>) {
        match self.verify(pack, EngineRole::Primary).await {
            Ok(up) => {
                let place = self.inner.primary.place();
                tracing::info!("engine ready: {} at {place}", up.name());
            }
            Err(_) => self.forget_precision().await,
        }
    }

    /// Checks self-test, memory and precision of a working engine.
    async fn look_after(&mut self, pack: &Arc<Pack>, up: &Arc<RunningEngine>) {
        let inner = Arc::clone(&self.inner);
        if Instant::now() >= self.next_self_test {
            self.next_self_test = Instant::now() + self.self_test_every;
            if self.verify(pack, EngineRole::Primary).await.is_err() {
                return;
            }
        }
        let limit = inner.settings.engine.memory_limit_bytes;
        // The engine has run only its self-test, so a restart would not help.
        if up.calls() <= 1 && up.resident_bytes() > Some(limit) {
            let sentence = format!(
                "the engine needs more memory to load than engine.memory_limit = {} MiB",
                limit >> 20
            );
            let transition = inner
                .breaker()
                .trip(BreakerReason::Start, sentence, Instant::now());
            inner.announce(transition);
        } else if let Some(bytes) = up.resident_bytes().filter(|bytes| *bytes > limit) {
            let why = format!(
                "it uses {} MiB of memory, more than engine.memory_limit = {} MiB",
                bytes >> 20,
                limit >> 20
            );
            tracing::warn!("the engine is started again: {why}");
            inner.primary.stop(&why).await;
            inner.wake.notify_one();
        } else if let Some(precision) = self.newly_measured(pack, up).await {
            // Restart even if this precision runs already: it frees the memory of the others.
            tracing::info!(
                "{precision} is the precision for this board; the engine is started again with it"
            );
            inner.primary.stop("to run in the measured precision").await;
            inner.wake.notify_one();
        }
    }

    async fn keep_fallback(&mut self, pack: &Arc<Pack>, state: BreakerState) {
        let inner = Arc::clone(&self.inner);
        let Some(fallback) = &inner.fallback else {
            return;
        };
        let up = fallback.running();
        let now = Instant::now();
        match (state, &up) {
            (BreakerState::Closed, Some(_)) if inner.primary.running().is_some() => {
                fallback.stop("the primary engine works again").await;
            }
            (BreakerState::Closed, _) if fallback.last_exit().is_some() => {
                fallback.stop("it is gone").await;
            }
            (BreakerState::Closed, _) => {}
            (_, None) if now >= self.next_fallback_start => {
                match self.verify(pack, EngineRole::Fallback).await {
                    Ok(up) => {
                        tracing::info!("the fallback engine takes over: {}", up.name());
                        let text = format!("{} takes the pictures", up.name());
                        inner.health.set("fallback", Condition::Ok, text);
                        inner.changed();
                    }
                    Err(error) => {
                        self.next_fallback_start = Instant::now() + FALLBACK_RETRY;
                        let text = format!("the fallback engine cannot start: {error}");
                        if inner
                            .health
                            .set("fallback", Condition::Degraded, text.as_str())
                        {
                            tracing::error!("{text}");
                        }
                    }
                }
            }
            (_, Some(_)) if now >= self.next_self_test => {
                self.next_self_test = now + self.self_test_every;
                if let Err(error) = self.verify(pack, EngineRole::Fallback).await {
                    tracing::error!("the fallback engine is started again: {error}");
                }
            }
            (_, _) => {}
        }
        if state == BreakerState::Closed && fallback.running().is_none() {
            inner
                .health
                .set("fallback", Condition::Ok, "not needed now");
        }
    }

    fn pause(&self) -> Duration {
        let inner = &self.inner;
        let now = Instant::now();
        let (state, next_ping) = {
            let breaker = inner.breaker();
            (breaker.state(), breaker.next_ping(now))
        };
        if state == BreakerState::Closed && inner.primary.running().is_none() {
            return Duration::ZERO;
        }
        let fallback = inner
            .fallback
            .as_ref()
            .and_then(EngineInstance::running)
            .is_some();
        let test = if state == BreakerState::Closed || fallback {
            self.next_self_test.saturating_duration_since(now)
        } else {
            LOOK
        };
        next_ping.unwrap_or(LOOK).min(test).min(LOOK)
    }
}

impl Inner {
    /// Reports to the breaker that the primary engine did not start or, if it was `tested` while
    /// running, failed its self-test.
    fn primary_failed(&self, error: &EngineError, tested: bool) {
        let now = Instant::now();
        let state = self.breaker().state();
        let transition = match state {
            BreakerState::HalfOpen => {
                self.primary.kill("its test failed");
                let sentence = error.sentence.clone();
                self.breaker().ping_failed(error.reason(), sentence, now)
            }
            // `record_exit` counts an engine that died in its self-test.
            _ if tested && self.primary.last_exit().is_some() => return,
            _ => {
                let sentence = if tested {
                    error.sentence.clone()
                } else {
                    format!("the engine cannot start: {error}")
                };
                self.breaker().trip(error.reason(), sentence, now)
            }
        };
        self.announce(transition);
    }
}
