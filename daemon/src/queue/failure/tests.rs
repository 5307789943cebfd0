//! Verdicts on every kind of failure.

use std::time::Duration;

use super::*;

#[test]
fn a_bad_picture_is_final_and_never_the_breakers_business() {
    for failure in [
        Failure::Unreadable {
            why: "the JPEG is cut off".into(),
            by: EngineRole::Primary,
        },
        Failure::TooLarge { bytes: 2, limit: 1 },
        Failure::OutsideRoots("/etc/shadow".into()),
        Failure::Link("/a/link.jpg".into()),
        Failure::NotAFile {
            path: "/dev/zero".into(),
            kind: "a character device",
        },
    ] {
        let verdict = failure.verdict();
        assert_eq!(
            (verdict.again, verdict.counts_for_breaker),
            (Again::Final, false),
            "{failure:?}"
        );
    }
}

#[test]
fn the_engines_faults_are_tried_again_and_count() {
    for failure in [
        Failure::Engine(EngineError::new(EngineErrorKind::Failed, "x")),
        Failure::Engine(EngineError::new(
            EngineErrorKind::TimedOut {
                limit: Duration::from_secs(1),
                lone: false,
            },
            "no answer",
        )),
        Failure::Engine(EngineError::new(EngineErrorKind::Malformed, "x")),
    ] {
        let verdict = failure.verdict();
        assert_eq!(
            (verdict.again, verdict.counts_for_breaker),
            (Again::Attempt, true),
            "{failure:?}"
        );
    }
}

#[test]
fn a_fault_of_ours_costs_an_attempt_and_leaves_the_breaker() {
    let verdict = Failure::Fault("a fault in kithd".into()).verdict();
    assert_eq!(
        (verdict.again, verdict.counts_for_breaker, verdict.alone),
        (Again::Attempt, false, false)
    );
}

#[test]
fn a_lone_death_before_a_passed_self_test_blames_the_picture() {
    for failure in [
        Failure::Engine(EngineError::new(EngineErrorKind::Died { lone: true }, "x")),
        Failure::Engine(EngineError::new(
            EngineErrorKind::TimedOut {
                limit: Duration::from_secs(1),
                lone: true,
            },
            "no answer",
        )),
    ] {
        let Verdict {
            again,
            counts_for_breaker,
            alone,
            ..
        } = failure.verdict();
        assert_eq!(
            (again, counts_for_breaker, alone),
            (Again::Attempt, false, true),
            "{failure:?}"
        );
    }
}

#[test]
fn a_death_among_several_costs_no_attempt_and_each_reruns_alone() {
    let Verdict {
        again,
        counts_for_breaker,
        alone,
        ..
    } = Failure::Engine(EngineError::new(EngineErrorKind::Died { lone: false }, "x")).verdict();
    assert_eq!(
        (again, counts_for_breaker, alone),
        (Again::Refunded, true, true)
    );
}

#[test]
fn an_engine_that_is_not_there_costs_no_attempt() {
    let unreachable =
        Failure::Engine(EngineError::new(EngineErrorKind::Unreachable, "x")).verdict();
    assert_eq!(
        (unreachable.again, unreachable.counts_for_breaker),
        (Again::Refunded, true)
    );
    let away = Failure::engine_away("x").verdict();
    assert_eq!(
        (away.again, away.counts_for_breaker),
        (Again::Refunded, false)
    );
}

#[test]
fn a_missing_file_or_mount_waits_and_does_not_count() {
    let file = Failure::FileMissing {
        path: "/a/b".into(),
        error: "gone".into(),
    }
    .verdict();
    assert_eq!(
        (file.again, file.counts_for_breaker),
        (Again::WhileFileMissing, false)
    );
    let root = Failure::RootAbsent {
        root: "/a".into(),
        error: "gone".into(),
    }
    .verdict();
    assert_eq!(
        (root.again, root.counts_for_breaker),
        (Again::WhileRootMissing, false)
    );
}
