//! [`EngineSupervisor`], the one task that starts, tests and stops the engines.
//!
//! Not for calls about pictures: those go through `handle`.

mod persistence;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kith_vision::{Pack, Precision};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::domain::{BreakerReason, BreakerState, EngineError, EngineErrorKind, EngineRole};
use crate::engine_process::load_pack;
use crate::engines::breaker::Transition;
use crate::engines::instance::EngineInstance;
use crate::engines::running::{Exit, ExitCause, RunningEngine};
use crate::engines::state::Inner;
use crate::status::health::Condition;

pub use persistence::Persistence;

/// Interval of the checks of memory and precision timings.
const LOOK: Duration = Duration::from_secs(2);
/// Delay before a fallback that did not start is tried again.
const FALLBACK_RETRY: Duration = Duration::from_secs(10);
/// Delay before a model pack that cannot be used is tried again.
const PACK_RETRY: Duration = Duration::from_secs(30);

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
    /// The task of a handle; `transitions` are the breaker's, to be written down.
    pub(super) fn new(
        inner: Arc<Inner>,
        persistence: Option<Persistence>,
        transitions: mpsc::UnboundedReceiver<Transition>,
    ) -> Self {
        let now = Instant::now();
        let self_test_every = inner.settings.breaker.self_test;
        Self {
            precision: inner.settings.models.precision,
            inner,
            persistence,
            transitions,
            discredited: None,
            self_test_every,
            next_self_test: now + self_test_every,
            next_fallback_start: now,
            recorded_exit: 0,
        }
    }

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
