//! State of the engines that survives a restart: refunded attempts, the breaker's state and
//! history, the precision measured on this board, and the results verified by a self-test.

use std::sync::Arc;
use std::time::Instant;

use kith_vision::{Device, Pack, Precision};

use super::EngineSupervisor;
use crate::domain::{EngineError, EngineErrorKind, EngineRole};
use crate::engines::breaker::{Snapshot, Transition};
use crate::engines::running::RunningEngine;
use crate::engines::status::PrecisionTime;
use crate::queue::Queue;
use crate::rpc::recognizer::{Description, PrecisionTiming};
use crate::store::Store;

/// Keys of facts in the database.
const BREAKER_FACT: &str = "breaker";
const PRECISION_FACT: &str = "precision";

/// Storage for the supervising task.
#[derive(Clone)]
pub struct Persistence {
    /// Facts, and marks of verified results.
    pub store: Store,
    /// Images that are refunded or requeued.
    pub queue: Queue,
}

impl EngineSupervisor {
    /// Stores the transitions since the last call and refunds the attempts that an engine's failure
    /// cost. Returns whether there were any.
    pub(super) async fn persist_transitions(&mut self) -> bool {
        let mut any = false;
        while let Ok(transition) = self.transitions.try_recv() {
            any = true;
            let Some(Persistence { store, queue }) = &self.persistence else {
                continue;
            };
            let Transition {
                to,
                sentence,
                blamed,
                ..
            } = transition;
            if !blamed.is_empty()
                && let Err(error) = queue.refund(blamed).await
            {
                tracing::warn!("attempts could not be given back: {error}");
            }
            if let Err(error) = store.note_breaker(to.as_str().into(), Some(sentence)).await {
                tracing::warn!("the circuit breaker's history could not be kept: {error}");
            }
        }
        any
    }

    /// Keeps the breaker's state for the next run.
    pub(super) async fn persist_breaker(&self) {
        let Some(Persistence { store, .. }) = &self.persistence else {
            return;
        };
        let snapshot = self.inner.breaker().snapshot(Instant::now());
        let kept = serde_json::to_string(&snapshot).unwrap_or_default();
        if let Err(error) = store.set_fact(BREAKER_FACT, kept).await {
            tracing::warn!("the circuit breaker's state could not be stored: {error}");
        }
    }

    /// Restores the breaker's state of the last run.
    pub(super) async fn restore_breaker(&self) {
        let Some(Persistence { store, .. }) = &self.persistence else {
            return;
        };
        if let Ok(Some(text)) = store.fact(BREAKER_FACT).await
            && let Ok(snapshot) = serde_json::from_str::<Snapshot>(&text)
        {
            let transition = self.inner.breaker().restore(snapshot, Instant::now());
            self.inner.announce(transition);
        }
    }

    /// Restores the precision measured on this board with this pack and version.
    pub(super) async fn restore_precision(&mut self, pack: &Pack) {
        if let Some(Persistence { store, .. }) = &self.persistence
            && self.precision.is_none()
            && let Ok(Some(text)) = store.fact(PRECISION_FACT).await
            && let Some(precision) = text.strip_prefix(&self.measured_for(pack))
        {
            self.precision = precision.parse().ok();
        }
    }

    /// Returns the key of a measured precision: board, pack and version.
    fn measured_for(&self, pack: &Pack) -> String {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let named = |key: &str| {
            cpus.lines()
                .find(|line| line.starts_with(key))
                .unwrap_or_default()
                .to_string()
        };
        let board = std::fs::read_to_string("/proc/device-tree/model").unwrap_or_default();
        let [model, part] = ["model name", "CPU part"].map(named);
        format!(
            "{} {} {} {board} {model} {part}: ",
            env!("CARGO_PKG_VERSION"),
            &pack.space()[..16],
            self.inner.settings.engine.device
        )
    }

    pub(super) fn measures_precision(&self) -> bool {
        // On a GPU the precision is float16: int8 does not run there, and its libraries load
        // lazily, after the engine has lost access to files.
        let on_processor = self.inner.settings.engine.device == Device::Cpu;
        self.precision.is_none()
            && self.persistence.is_some()
            && self.inner.primary.is_child()
            && on_processor
    }

    /// Returns the precision that the engine recommends after measuring, and stores it.
    pub(super) async fn newly_measured(
        &mut self,
        pack: &Arc<Pack>,
        up: &RunningEngine,
    ) -> Option<Precision> {
        if !self.measures_precision() {
            return None;
        }
        let said = up.refresh_description().await?;
        let advised: Precision = said.advised_precision.parse().ok()?;
        self.precision = Some(advised);
        self.inner.timings.send_replace(timings(&said));
        if let Some(Persistence { store, .. }) = &self.persistence
            && let Err(error) = store
                .set_fact(
                    PRECISION_FACT,
                    format!("{}{advised}", self.measured_for(pack)),
                )
                .await
        {
            tracing::warn!("the precision for this board could not be stored: {error}");
        }
        Some(advised)
    }

    /// Discards the measured precision if the engine does not start with it.
    pub(super) async fn forget_precision(&mut self) {
        if self.inner.settings.models.precision.is_none()
            && self.precision.take().is_some()
            && let Some(Persistence { store, .. }) = &self.persistence
            && let Err(error) = store.set_fact(PRECISION_FACT, String::new()).await
        {
            tracing::warn!("the precision for this board could not be forgotten: {error}");
        }
    }

    pub(super) async fn newest_result(&self) -> Option<i64> {
        self.persistence.as_ref()?.store.newest_result().await.ok()
    }

    /// Marks the results up to `newest` as verified: the engine passed its self-test after them.
    pub(super) async fn results_verified(&mut self, role: EngineRole, newest: Option<i64>) {
        // Results that were being written when the engine was discredited missed the first requeue.
        if let Some((engine, error)) = self.discredited.take_if(|(engine, _)| *engine == role) {
            self.redo_unverified(engine, &error).await;
        }
        if let (Some(Persistence { store, .. }), Some(newest)) = (&self.persistence, newest)
            && let Err(error) = store.verified(role, newest).await
        {
            tracing::warn!("a passed self-test could not be noted: {error}");
        }
    }

    /// Requeues unverified results if the engine failed its self-test with a wrong answer.
    pub(super) async fn results_discredited(&mut self, role: EngineRole, error: &EngineError) {
        if error.kind == EngineErrorKind::WrongAnswer {
            self.discredited = Some((role, error.clone()));
            self.redo_unverified(role, error).await;
        }
    }

    async fn redo_unverified(&self, role: EngineRole, error: &EngineError) {
        let Some(Persistence { queue, .. }) = &self.persistence else {
            return;
        };
        let why = format!("done again, because the engine failed its self-test: {error}");
        match queue.redo_unverified(role, &why).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!("{count} images are done again: {error}"),
            Err(failed) => {
                tracing::error!(
                    "images of an engine with wrong answers could not be put back: {failed}"
                );
            }
        }
    }
}

/// Returns the median of each precision in milliseconds.
fn timings(said: &Description) -> Vec<PrecisionTime> {
    let time = |timing: &PrecisionTiming| PrecisionTime {
        precision: timing.precision.clone(),
        milliseconds: timing.micros as f64 / 1e3,
    };
    said.timings.iter().map(time).collect()
}
