//! What the guard writes down and reads again: attempts given back, the breaker for the next run,
//! the precision measured for this board, and which results are vouched for. Not for the tests and
//! failures it follows from, which are `guard`'s.

use std::sync::PoisonError;
use std::time::Instant;

use kith_vision::{Device, Precision};

use super::Inner;
use crate::domain::{BreakerReason, BreakerState, EngineRole, ImageId};
use crate::engines::breaker::Snapshot;
use crate::engines::instance::{TestFailure, Up};
use crate::engines::status::PrecisionTime;
use crate::queue::Queue;
use crate::rpc::recognizer::{Description, PrecisionTiming};
use crate::store::Store;

/// Facts in the database.
const BREAKER_FACT: &str = "breaker";
const PRECISION_FACT: &str = "precision";

/// Where what happened is kept; the command line keeps nothing.
#[derive(Clone)]
pub struct Books {
    /// Facts, and which results are vouched for.
    pub store: Store,
    /// Whose images get attempts back or are done again.
    pub queue: Queue,
}

/// What changes of the breaker leave to be written down.
#[derive(Default)]
pub(super) struct Unbooked {
    pub(super) blamed: Vec<ImageId>,
    /// Where it went, and why.
    pub(super) changes: Vec<(BreakerState, String)>,
}

impl Inner {
    /// Gives attempts back and keeps the breaker for the next run, after it changed.
    pub(super) async fn keep_books(&self) {
        let unbooked = self
            .unbooked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (Some(Unbooked { blamed, changes }), Some(Books { store, queue })) =
            (unbooked, &self.books)
        else {
            return;
        };
        if !blamed.is_empty()
            && let Err(error) = queue.refund(blamed).await
        {
            tracing::warn!("attempts could not be given back: {error}");
        }
        for (state, sentence) in changes {
            if let Err(error) = store
                .note_breaker(state.as_str().into(), Some(sentence))
                .await
            {
                tracing::warn!("the circuit breaker's history could not be kept: {error}");
            }
        }
        let snapshot = self.breaker().snapshot(Instant::now());
        let kept = serde_json::to_string(&snapshot).unwrap_or_default();
        if let Err(error) = store.set_fact(BREAKER_FACT, kept).await {
            tracing::warn!("the circuit breaker's state could not be stored: {error}");
        }
    }

    pub(super) async fn restore(&self) {
        let Some(Books { store, .. }) = &self.books else {
            return;
        };
        if let Ok(Some(text)) = store.fact(BREAKER_FACT).await
            && let Ok(snapshot) = serde_json::from_str::<Snapshot>(&text)
        {
            let told = self.breaker().restore(snapshot, Instant::now());
            self.announce(told.as_ref());
        }
        if self.settings.precision.is_none()
            && let Ok(Some(text)) = store.fact(PRECISION_FACT).await
            && let Some(precision) = text.strip_prefix(&self.measured_for())
        {
            *self
                .precision
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = precision.parse().ok();
        }
    }

    /// Precisions are measured once for each board, pack and version.
    fn measured_for(&self) -> String {
        let Inner { settings, pack, .. } = self;
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
            settings.engine.device
        )
    }

    pub(super) fn precision(&self) -> Option<Precision> {
        *self
            .precision
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn measures_precision(&self) -> bool {
        // On a GPU it is float16: int8 does not run there, and its libraries load lazily, when
        // there are no files any more.
        let on_processor = self.settings.engine.device == Device::Cpu;
        self.precision().is_none()
            && self.books.is_some()
            && self.primary.is_child()
            && on_processor
    }

    /// The precision the engine advises, once it has measured; remembered.
    pub(super) async fn newly_measured(&self, up: &Up) -> Option<Precision> {
        if !self.measures_precision() {
            return None;
        }
        let said = up.refresh_description().await?;
        let advised: Precision = said.advised_precision.parse().ok()?;
        *self
            .precision
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(advised);
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = timings(&said);
        if let Some(Books { store, .. }) = &self.books
            && let Err(error) = store
                .set_fact(PRECISION_FACT, format!("{}{advised}", self.measured_for()))
                .await
        {
            tracing::warn!("the precision for this board could not be stored: {error}");
        }
        Some(advised)
    }

    /// A measured precision the engine does not start with is measured again some day.
    pub(super) async fn forget_precision(&self) {
        if self.settings.precision.is_none()
            && self
                .precision
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
                .is_some()
            && let Some(Books { store, .. }) = &self.books
            && let Err(error) = store.set_fact(PRECISION_FACT, String::new()).await
        {
            tracing::warn!("the precision for this board could not be forgotten: {error}");
        }
    }

    pub(super) async fn newest_result(&self) -> Option<i64> {
        self.books.as_ref()?.store.newest_result().await.ok()
    }

    pub(super) async fn vouch(&self, role: EngineRole, newest: Option<i64>) {
        // What was on its way into the database when the lie was found came after the first
        // redoing.
        let lie = self
            .lie
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_if(|(liar, _)| *liar == role);
        if let Some((liar, failure)) = lie {
            self.redo_unverified(liar, &failure).await;
        }
        if let (Some(Books { store, .. }), Some(newest)) = (&self.books, newest)
            && let Err(error) = store.verified(role, newest).await
        {
            tracing::warn!("a passed self-test could not be noted: {error}");
        }
    }

    /// An engine that gave a wrong answer to the bundled picture may have given wrong ones before.
    pub(super) async fn redo_if_lies(&self, role: EngineRole, failure: &TestFailure) {
        if failure.reason == BreakerReason::SelfTest {
            *self.lie.lock().unwrap_or_else(PoisonError::into_inner) =
                Some((role, failure.clone()));
            self.redo_unverified(role, failure).await;
        }
    }

    async fn redo_unverified(&self, role: EngineRole, failure: &TestFailure) {
        let (Some(Books { queue, .. }), why) = (&self.books, &failure.why) else {
            return;
        };
        match queue
            .redo_unverified(
                role,
                &format!("done again, because the engine that did it is not to be believed: {why}"),
            )
            .await
        {
            Ok(0) => {}
            Ok(count) => tracing::warn!("{count} images are done again: {why}"),
            Err(error) => {
                tracing::error!("images of an engine that lies could not be put back: {error}")
            }
        }
    }
}

/// Each precision with its median in milliseconds.
fn timings(said: &Description) -> Vec<PrecisionTime> {
    let time = |timing: &PrecisionTiming| PrecisionTime {
        precision: timing.precision.clone(),
        milliseconds: timing.micros as f64 / 1e3,
    };
    said.timings.iter().map(time).collect()
}
