//! The engines behind the circuit breaker. [`Engines`] is the handle for everyone who has a
//! picture: it decides which engine a picture goes to and what a failure means for the breaker.
//! [`EngineSupervisor`] is the one task that starts, tests and stops the engines.
//!
//! Not for the breaker's own rules (`breaker`) and not for what a failure means for the picture
//! (`queue::Failure`).

mod persistence;
mod report;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use kith_vision::{Device, Pack, Precision};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use persistence::Persistence;

use crate::config::{self, Elsewhere, Models};
use crate::domain::{
    BreakerCommand, BreakerReason, BreakerState, EngineError, EngineErrorKind, EngineRole, ImageId,
};
use crate::engine_process::load_pack;
use crate::engines::breaker::{Breaker, Ticket, Transition};
use crate::engines::client::{Answer, Picture};
use crate::engines::instance::{
    Deadlines, EngineInstance, EngineState, Exit, ExitCause, Place, RunningEngine,
};
use crate::engines::process::ChildSettings;
use crate::engines::status::{EngineReport, PrecisionTime};
use crate::queue::{Again, Failure};
use crate::status::health::{Condition, Health};

/// How often memory and precision timings are checked.
const LOOK: Duration = Duration::from_secs(2);
/// Delay before a fallback that did not start is tried again.
const FALLBACK_RETRY: Duration = Duration::from_secs(10);
/// Delay before a model pack that cannot be used is tried again.
const PACK_RETRY: Duration = Duration::from_secs(30);

/// Settings of the engines.
#[derive(Clone)]
pub struct Settings {
    /// The model pack, and how it is used.
    pub models: Models,
    /// Primary and fallback.
    pub engine: config::Engine,
    /// The breaker's.
    pub breaker: config::Breaker,
    /// Time limits of one picture.
    pub deadlines: Deadlines,
    /// Pictures at the same time.
    pub threads: usize,
    /// Arguments that give an engine process this configuration.
    pub configuration: Vec<String>,
    /// Folder for the engines' sockets.
    pub sockets: std::path::PathBuf,
}

/// The engines behind the breaker; clones share them. The handle exists before the model pack is
/// loaded: until then every call is answered by [`Failure::engine_away`].
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
    /// Changes whenever a picture may have an engine to go to that had none.
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
    /// Which engine.
    pub role: EngineRole,
}

/// Destination of the next picture.
enum Route {
    Primary(Arc<RunningEngine>),
    Fallback(Arc<RunningEngine>),
    Nowhere(String),
}

impl Engines {
    /// Engines that are not running yet, and the task that runs them.
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

    /// The model pack of the engines; `None` until it is loaded.
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

    /// Pictures that may be in flight or being read at the same time; 0 while no engine takes any.
    pub fn capacity(&self) -> usize {
        match self.inner.route() {
            Route::Primary(up) | Route::Fallback(up) => 2 * up.threads(),
            Route::Nowhere(_) => 0,
        }
    }

    /// Changes whenever [`Engines::capacity`] may have.
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

    /// Like [`Engines::available`], but gives up as soon as the breaker is open and no fallback can
    /// come.
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

    /// Quality of the best face in a picture, 0 to 1; `None` when there is no face.
    pub async fn best_face(&self, bytes: Bytes) -> Result<Option<f32>, Failure> {
        let picture = Picture { bytes, path: None };
        match self.recognise(None, &picture).await?.answer {
            Answer::Faces(reply) => Ok(reply
                .faces
                .iter()
                .map(|face| face.quality)
                .max_by(f32::total_cmp)),
            Answer::Name(_) => Err(Failure::engine_away(
                "the configured engine does not tell where faces are",
            )),
        }
    }

    /// Breaker and engines as they are now.
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

    /// Turns an engine's error over a picture into the picture's failure. A lone death is the
    /// picture's fault if the next engine passes its self-test.
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

    /// Reports a failure to the breaker. A failure that opens it, or comes when it is open already,
    /// is not the picture's.
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
            // For the breaker it is an answer.
            let transition = self
                .breaker()
                .answered(ticket, image.unwrap_or_default(), took, now);
            self.announce(transition);
            return failure;
        }
        // One death is one failure, however many pictures were in the engine: `record_exit` counts
        // it.
        let shared_death = matches!(
            &failure,
            Failure::Engine(error) if error.kind == EngineErrorKind::Died { lone: false }
        );
        if !verdict.counts_for_breaker || shared_death {
            return failure;
        }
        // A picture whose attempt is not counted gets none back.
        let charged = image.filter(|_| verdict.again == Again::Attempt);
        let transition =
            self.breaker()
                .failed(ticket, charged, reason, verdict.sentence.clone(), now);
        // Opened by one picture alone, it is as likely the picture: its attempt stands, so that it
        // ends some day.
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

    /// Logs a transition, has it written down, and does what follows from it.
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
        // A process that failed gets no further call; one that is only slow, or held open by an
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

/// The task that starts, tests and stops the engines, and the only owner of their state besides the
/// breaker.
pub struct EngineSupervisor {
    inner: Arc<Inner>,
    /// `None` for the command line, which keeps nothing.
    persistence: Option<Persistence>,
    transitions: mpsc::UnboundedReceiver<Transition>,
    /// Configured, or measured on this board.
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
    /// Loads the model pack until that works, then runs the engines until the stop.
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
        // The dispatcher ends beside this task and lets pictures in flight end first.
        inner.primary.stop("kithd stops").await;
        if let Some(fallback) = &inner.fallback {
            fallback.stop("kithd stops").await;
        }
        Ok(())
    }

    /// `None`: the stop came first.
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

    /// Does what is due, one thing after the other.
    async fn round(&mut self, pack: &Arc<Pack>) {
        self.record_exit();
        if self.persist_transitions().await {
            self.persist_breaker().await;
        }
        let inner = Arc::clone(&self.inner);
        let state = inner.breaker().state();
        // A caller that waits for the next start learns that there is none.
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
            // A ping is under way only within a round.
            BreakerState::HalfOpen => {}
            // The operator may want the device for something else.
            BreakerState::ForcedOpen => inner.primary.stop("held back by an operator").await,
        }
        inner.changed();
    }

    /// Counts the death of a primary engine once; a lone death is judged by the self-test of the
    /// next start.
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

    /// Starts an engine, or tests the one that runs, and tells the breaker. A pass verifies the
    /// results since the last one; a wrong answer to the self-test has them done again.
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
                // The engine must answer nothing more before its results are done again.
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

    /// Self-test, memory and precision of an engine that works.
    async fn look_after(&mut self, pack: &Arc<Pack>, up: &Arc<RunningEngine>) {
        let inner = Arc::clone(&self.inner);
        if Instant::now() >= self.next_self_test {
            self.next_self_test = Instant::now() + self.self_test_every;
            if self.verify(pack, EngineRole::Primary).await.is_err() {
                return;
            }
        }
        let limit = inner.settings.engine.memory_limit_bytes;
        // Nothing but the self-test has been in it yet, so that a restart would not help.
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
                "it holds {} MiB of memory, more than engine.memory_limit = {} MiB",
                bytes >> 20,
                limit >> 20
            );
            tracing::warn!("the engine is started again: {why}");
            inner.primary.stop(&why).await;
            inner.wake.notify_one();
        } else if let Some(precision) = self.newly_measured(pack, up).await {
            // Also where it runs already: the memory of the other precisions goes with the process.
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
    /// Tells the breaker that the primary engine did not start or, if it was `tested` while it ran,
    /// did not pass its self-test.
    fn primary_failed(&self, error: &EngineError, tested: bool) {
        let now = Instant::now();
        let state = self.breaker().state();
        let transition = match state {
            BreakerState::HalfOpen => {
                self.primary.kill("its test failed");
                let sentence = error.sentence.clone();
                self.breaker().ping_failed(error.reason(), sentence, now)
            }
            // `record_exit` deals with an engine that died in its self-test.
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
