//! Why an image could not be recognised, and the three things that follow from it, decided in this one place:
//! try again or not, the breaker's business or not, and the sentence the operator reads.

use std::path::PathBuf;
use std::time::Duration;

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The engine says the picture cannot be decoded.
    Unreadable(String),
    /// It is larger than allowed.
    TooLarge {
        /// Its size.
        bytes: u64,
        /// `intake.max_bytes`.
        limit: usize,
    },
    /// It lies outside the roots, or a link leads out of them.
    OutsideRoots(PathBuf),
    /// A folder, a device, a pipe.
    NotAFile(PathBuf),
    /// The root is there, the file is not, or it may not be read.
    FileMissing {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: String,
    },
    /// The root or its mount is not there, or does not answer.
    RootAbsent {
        /// The root.
        root: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// Spooled bytes are gone; only a damaged disk or a helping hand does that.
    SpoolMissing(String),
    /// The engine died over the picture.
    EngineCrashed(String),
    /// The engine took longer than allowed.
    EngineDeadline(Duration),
    /// The engine answered nonsense.
    EngineMalformed(String),
}

/// Whether an image is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Never.
    Final,
    /// Until the attempts are spent.
    Attempt,
    /// As often as needed until the file or root has been away for `retry.missing_file`; attempts are given back.
    WhileFileMissing,
    /// The same with `retry.missing_root`.
    WhileRootMissing,
}

/// What follows from a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether to try again.
    pub again: Again,
    /// Whether the circuit breaker counts it.
    pub counts_for_breaker: bool,
    /// For the operator.
    pub sentence: String,
}

impl Failure {
    /// The three decisions.
    pub fn verdict(&self) -> Verdict {
        let verdict = |again, counts_for_breaker, sentence| Verdict { again, counts_for_breaker, sentence };
        match self {
            Self::Unreadable(why) => verdict(Again::Final, false, why.clone()),
            Self::TooLarge { bytes, limit } => verdict(
                Again::Final,
                false,
                format!("the picture has {bytes} bytes, more than intake.max_bytes = {limit}"),
            ),
            Self::OutsideRoots(path) => verdict(
                Again::Final,
                false,
                format!("{} is not below one of intake.roots, or a link leads out of them", path.display()),
            ),
            Self::NotAFile(path) => verdict(Again::Final, false, format!("{} is not a regular file", path.display())),
            Self::FileMissing { path, error } => {
                verdict(Again::WhileFileMissing, false, format!("{} cannot be read: {error}", path.display()))
            }
            Self::RootAbsent { root, error } => verdict(
                Again::WhileRootMissing,
                false,
                format!("the folder {} is not available: {error}", root.display()),
            ),
            Self::SpoolMissing(file) => {
                verdict(Again::Final, false, format!("the stored picture {file} is gone from the state folder"))
            }
            Self::EngineCrashed(why) => {
                verdict(Again::Attempt, true, format!("the engine failed over this picture: {why}"))
            }
            Self::EngineDeadline(limit) => {
                verdict(Again::Attempt, true, format!("the engine took longer than {:.1} s", limit.as_secs_f32()))
            }
            Self::EngineMalformed(why) => {
                verdict(Again::Attempt, true, format!("the engine's answer made no sense: {why}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_picture_is_final_and_never_the_breakers_business() {
        for failure in [
            Failure::Unreadable("the JPEG is cut off".into()),
            Failure::TooLarge { bytes: 2, limit: 1 },
            Failure::OutsideRoots("/etc/shadow".into()),
            Failure::NotAFile("/dev/zero".into()),
        ] {
            let verdict = failure.verdict();
            assert_eq!((verdict.again, verdict.counts_for_breaker), (Again::Final, false), "{failure:?}");
        }
    }

    #[test]
    fn the_engines_faults_are_tried_again_and_count() {
        for failure in [
            Failure::EngineCrashed("x".into()),
            Failure::EngineDeadline(Duration::from_secs(1)),
            Failure::EngineMalformed("x".into()),
        ] {
            let verdict = failure.verdict();
            assert_eq!((verdict.again, verdict.counts_for_breaker), (Again::Attempt, true), "{failure:?}");
        }
    }

    #[test]
    fn a_missing_file_or_mount_waits_and_does_not_count() {
        let file = Failure::FileMissing { path: "/a/b".into(), error: "gone".into() }.verdict();
        assert_eq!((file.again, file.counts_for_breaker), (Again::WhileFileMissing, false));
        let root = Failure::RootAbsent { root: "/a".into(), error: "gone".into() }.verdict();
        assert_eq!((root.again, root.counts_for_breaker), (Again::WhileRootMissing, false));
    }
}
