//! Failure of a call to an engine, from its connection to the queue.

use std::fmt;
use std::time::Duration;

use super::BreakerReason;

/// Why an engine gave no answer about a picture, or did not pass its self-test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineError {
    /// Kind of error.
    pub kind: EngineErrorKind,
    /// For the operator.
    pub sentence: String,
}

/// Kind of an [`EngineError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineErrorKind {
    /// The engine says that the picture cannot be decoded.
    Unreadable,
    /// The engine lives and says that it failed over this picture.
    Failed,
    /// The answer cannot be right.
    Malformed,
    /// The connection could not be made or broke.
    Unreachable,
    /// No answer in time; `lone`: no other picture was in the engine.
    TimedOut {
        /// Time the picture had.
        limit: Duration,
        /// No other picture was in flight.
        lone: bool,
    },
    /// The engine's process died.
    Died {
        /// No other picture was in flight.
        lone: bool,
    },
    /// The engine went away for reasons that have nothing to do with this picture.
    Aborted,
    /// The engine did not start.
    NotStarted,
    /// A well-formed answer to the self-test's picture, but not the right one: no result since the
    /// last passed self-test can be trusted.
    WrongAnswer,
}

impl EngineError {
    /// An error of this kind.
    pub fn new(kind: EngineErrorKind, sentence: impl Into<String>) -> Self {
        Self {
            kind,
            sentence: sentence.into(),
        }
    }

    /// The engine takes no pictures now, for this reason.
    pub fn aborted(sentence: impl Into<String>) -> Self {
        Self::new(EngineErrorKind::Aborted, sentence)
    }

    /// Reason for the circuit breaker.
    pub fn reason(&self) -> BreakerReason {
        match self.kind {
            EngineErrorKind::Malformed => BreakerReason::Malformed,
            EngineErrorKind::Unreachable => BreakerReason::Unreachable,
            EngineErrorKind::TimedOut { .. } => BreakerReason::Deadline,
            EngineErrorKind::NotStarted => BreakerReason::Start,
            EngineErrorKind::WrongAnswer => BreakerReason::SelfTest,
            EngineErrorKind::Unreadable
            | EngineErrorKind::Failed
            | EngineErrorKind::Died { .. }
            | EngineErrorKind::Aborted => BreakerReason::Crash,
        }
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}
