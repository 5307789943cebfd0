//! Recognition failures and their three consequences, decided in this one place: whether to retry,
//! whether the circuit breaker counts it, and the sentence for the operator.

use std::path::PathBuf;

use crate::domain::{EngineError, EngineErrorKind, EngineRole};

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The engine cannot decode the picture.
    Unreadable {
        /// Sentence from the engine.
        why: String,
        /// Engine that reported it.
        by: EngineRole,
    },
    /// The picture is larger than allowed.
    TooLarge {
        /// Size of the picture.
        bytes: u64,
        /// `intake.max_bytes`.
        limit: usize,
    },
    /// The path is outside the roots.
    OutsideRoots(PathBuf),
    /// A part of the path is a symbolic link.
    Link(PathBuf),
    /// The path names a folder, a device or a pipe.
    NotAFile {
        /// The path.
        path: PathBuf,
        /// Kind of file, with its article.
        kind: &'static str,
    },
    /// The root is there, but the file is missing or not readable.
    FileMissing {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        error: String,
    },
    /// The root or its mount is missing or does not respond.
    RootAbsent {
        /// The root.
        root: PathBuf,
        /// Problem with the root.
        error: String,
    },
    /// The spooled bytes are gone, through a damaged disk or manual deletion.
    SpoolMissing(String),
    /// The engine gave no answer.
    Engine(EngineError),
    /// The daemon itself panicked over this picture.
    Fault(String),
}

/// Retry policy for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Never retried.
    Final,
    /// Retried until the attempts are spent.
    Attempt,
    /// Retried as often as needed; the attempt is refunded.
    Refunded,
    /// Retried until the file has been missing for `retry.missing_file`; attempts are refunded.
    WhileFileMissing,
    /// Retried until the root has been missing for `retry.missing_root`; attempts are refunded.
    WhileRootMissing,
}

/// Consequences of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Retry policy.
    pub again: Again,
    /// The circuit breaker counts it.
    pub counts_for_breaker: bool,
    /// The image runs alone next time.
    pub alone: bool,
    /// Sentence for the operator.
    pub sentence: String,
}

impl Failure {
    /// No engine takes the picture now; costs no attempt.
    pub fn engine_away(why: impl Into<String>) -> Self {
        Self::Engine(EngineError::aborted(why))
    }

    /// The three decisions.
    pub fn verdict(&self) -> Verdict {
        let verdict = |again, counts_for_breaker, sentence| Verdict {
            again,
            counts_for_breaker,
            alone: false,
            sentence,
        };
        // A poison picture fails by itself, without harm to the pictures beside it.
        let alone = |again, counts_for_breaker, sentence| Verdict {
            again,
            counts_for_breaker,
            alone: true,
            sentence,
        };
        match self {
            Self::Unreadable { why, .. } => verdict(Again::Final, false, why.clone()),
            Self::TooLarge { bytes, limit } => verdict(
                Again::Final,
                false,
                format!("the picture has {bytes} bytes, more than intake.max_bytes = {limit}"),
            ),
            Self::OutsideRoots(path) => verdict(
                Again::Final,
                false,
                format!("{} is not below one of intake.roots", path.display()),
            ),
            Self::Link(path) => verdict(
                Again::Final,
                false,
                format!(
                    "{} is a link or lies below one, and links are not followed; send the path of \
                     the file itself",
                    path.display()
                ),
            ),
            Self::NotAFile { path, kind } => verdict(
                Again::Final,
                false,
                format!("{} is not a regular file but {kind}", path.display()),
            ),
            Self::FileMissing { path, error } => verdict(
                Again::WhileFileMissing,
                false,
                format!("{} cannot be read: {error}", path.display()),
            ),
            Self::RootAbsent { root, error } => verdict(
                Again::WhileRootMissing,
                false,
                format!("the folder {} is not available: {error}", root.display()),
            ),
            Self::SpoolMissing(file) => verdict(
                Again::Final,
                false,
                format!("the stored picture {file} is gone from the state folder"),
            ),
            Self::Fault(what) => verdict(Again::Attempt, false, what.clone()),
            Self::Engine(error) => {
                let why = &error.sentence;
                match error.kind {
                    // `engines::handle` makes it `Self::Unreadable`, which names the engine.
                    EngineErrorKind::Unreadable => verdict(Again::Final, false, why.clone()),
                    EngineErrorKind::Failed => verdict(
                        Again::Attempt,
                        true,
                        format!("the engine failed over this picture: {why}"),
                    ),
                    EngineErrorKind::Died { lone: true } => alone(
                        Again::Attempt,
                        false,
                        format!("the engine died over this picture, and nothing else: {why}"),
                    ),
                    EngineErrorKind::Died { lone: false } => alone(
                        Again::Refunded,
                        true,
                        format!("the engine died with several pictures in it: {why}"),
                    ),
                    EngineErrorKind::TimedOut { limit, lone } => alone(
                        Again::Attempt,
                        !lone,
                        format!("the engine took longer than {:.1} s", limit.as_secs_f32()),
                    ),
                    EngineErrorKind::Malformed => verdict(
                        Again::Attempt,
                        true,
                        format!("the engine's answer made no sense: {why}"),
                    ),
                    EngineErrorKind::Unreachable => verdict(
                        Again::Refunded,
                        true,
                        format!("the engine cannot be reached: {why}"),
                    ),
                    EngineErrorKind::Aborted
                    | EngineErrorKind::NotStarted
                    | EngineErrorKind::WrongAnswer => verdict(
                        Again::Refunded,
                        false,
                        format!("waits for the engine: {why}"),
                    ),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
