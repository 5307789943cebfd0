//! State of the engines, which the handle, its calls and the supervising task share, and the
//! settings that it begins with.
//!
//! Not for deciding which engine is called (`calls`) nor when one is started (`supervisor`).

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use kith_pictures::decode::JPEG_TIMES;
use kith_vision::Pack;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, watch};

use crate::config::{self, Config, Models};
use crate::domain::{BreakerReason, BreakerState, EngineRole};
use crate::engines::admission::Places;
use crate::engines::breaker::{Breaker, Transition};
use crate::engines::instance::EngineInstance;
use crate::engines::running::Deadlines;
use crate::engines::status::PrecisionTime;
use crate::status::health::Health;

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

/// State shared by the handle and the supervising task.
pub(super) struct Inner {
    pub(super) settings: Settings,
    pub(super) pack: OnceLock<Arc<Pack>>,
    pub(super) primary: EngineInstance,
    pub(super) fallback: Option<EngineInstance>,
    pub(super) breaker: Mutex<Breaker>,
    pub(super) health: Health,
    pub(super) places: Places,
    /// Changes whenever an engine may have become available.
    pub(super) changed: watch::Sender<u64>,
    /// Wakes the supervising task.
    pub(super) wake: Notify,
    pub(super) fallback_calls: AtomicU64,
    /// Milliseconds of each precision, as measured in this run.
    pub(super) timings: watch::Sender<Vec<PrecisionTime>>,
    /// Transitions that the supervising task writes down.
    pub(super) transitions: mpsc::UnboundedSender<Transition>,
}

impl Inner {
    pub(super) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock()
    }

    pub(super) fn instance(&self, role: EngineRole) -> Option<&EngineInstance> {
        match role {
            EngineRole::Primary => Some(&self.primary),
            EngineRole::Fallback => self.fallback.as_ref(),
        }
    }

    pub(super) fn changed(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    pub(super) async fn an_engine_ends(&self) {
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
    pub(super) fn announce(&self, transition: Option<Transition>) {
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
