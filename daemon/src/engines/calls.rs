//! Calls about pictures: the engine that a picture goes to, and what a failure means for the
//! breaker.
//!
//! Not for what a failure means for the picture (`queue::Failure`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::domain::{BreakerReason, EngineError, EngineErrorKind, EngineRole, ImageId};
use crate::engines::admission::Class;
use crate::engines::breaker::Ticket;
use crate::engines::client::{EngineReply, Picture};
use crate::engines::instance::{EngineInstance, EngineState};
use crate::engines::running::RunningEngine;
use crate::engines::state::Inner;
use crate::queue::{Again, Failure};

/// Answer of an engine.
#[derive(Debug)]
pub struct Recognised {
    /// Faces or a name.
    pub answer: EngineReply,
    /// Pack, precision and device.
    pub engine: String,
    /// Role of the engine that answered.
    pub role: EngineRole,
}

/// Destination of the next picture.
pub(super) enum Route {
    Primary(Arc<RunningEngine>),
    Fallback(Arc<RunningEngine>),
    Nowhere(String),
}

impl Inner {
    /// Returns the destination of the next picture.
    pub(super) fn route(&self) -> Route {
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

    pub(super) fn fallback_may_come(&self) -> bool {
        self.fallback
            .as_ref()
            .is_some_and(|fallback| !matches!(&*fallback.watch().borrow(), EngineState::Failed(_)))
    }

    pub(super) async fn call_fallback(
        &self,
        up: &Arc<RunningEngine>,
        class: Class,
        picture: impl FnOnce() -> Picture,
    ) -> Result<Recognised, Failure> {
        let Some(fallback) = &self.fallback else {
            return Err(Failure::engine_away("there is no fallback engine"));
        };
        let permit = up.acquire(class).await.map_err(Failure::Engine)?;
        self.fallback_calls.fetch_add(1, Ordering::Relaxed);
        match permit.call(picture()).await {
            Ok(answer) => Ok(Recognised {
                answer,
                engine: up.name(),
                role: EngineRole::Fallback,
            }),
            Err(error) => Err(self.judged(fallback, up, error, EngineRole::Fallback).await),
        }
    }

    pub(super) async fn call_primary(
        &self,
        up: &Arc<RunningEngine>,
        class: Class,
        image: Option<ImageId>,
        picture: impl FnOnce() -> Picture,
    ) -> Result<Recognised, Failure> {
        let permit = up.acquire(class).await.map_err(Failure::Engine)?;
        // The breaker may have opened while the picture waited for its permit.
        let Some(ticket) = self.breaker().begin() else {
            return Err(Failure::engine_away("the circuit breaker opened"));
        };
        let begun = Instant::now();
        let called = permit.call(picture()).await;
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
}
