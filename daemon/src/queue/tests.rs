//! Rules of the queue on a real database, with the clock controlled by the test.

use super::*;
use crate::config::Config;
use crate::domain::{
    EngineError, EngineErrorKind, IdentifiedFace, NamedCandidate, Outcome, Source, Standing,
};
use crate::store::EnrolledPicture;

async fn queue(
    folder: &std::path::Path,
    change: impl FnOnce(&mut config::Retry),
) -> (Store, Queue) {
    let (store, _) = Store::open(folder).unwrap();
    let mut rules = Rules {
        max_missing: 3,
        ..Rules::for_tests()
    };
    change(&mut rules.retry);
    let queue = Queue::open(store.clone(), rules).await.unwrap();
    queue.recover().await.unwrap();
    (store, queue)
}

fn image(path: &str) -> NewImage {
    NewImage::path(Source::Http, path)
}

fn nothing_found() -> Identified {
    Identified {
        outcome: Outcome::NoFace,
        size: Some((4, 3)),
        faces: vec![],
        thumbnail: vec![1],
        remark: None,
        engine: "test".into(),
        role: EngineRole::Primary,
        space: "space".into(),
        timings: None,
        picture_key: "key".into(),
    }
}

fn missing() -> Failure {
    Failure::FileMissing {
        path: "/a".into(),
        error: "gone".into(),
    }
}

/// Returns the row as readers see it after the next commit.
async fn committed(store: &Store, id: ImageId) -> crate::store::ImageDetail {
    store.settle().await.unwrap();
    store.image(id).await.unwrap().unwrap()
}

async fn claim_one(queue: &Queue) -> Claimed {
    let claim = queue.claim(10, true).await.unwrap();
    assert_eq!(claim.images.len(), 1);
    claim.images.into_iter().next().unwrap()
}

#[tokio::test]
async fn images_are_claimed_in_the_order_they_came_and_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let (_, queue) = queue(folder.path(), |_| {}).await;
    queue
        .submit(["/a", "/b", "/c"].map(image).to_vec())
        .await
        .unwrap();
    let first = queue.claim(2, true).await.unwrap().images;
    let second = queue.claim(2, true).await.unwrap().images;
    let paths: Vec<_> = first
        .iter()
        .chain(&second)
        .map(|claimed| claimed.path.as_str())
        .collect();
    assert_eq!(paths, ["/a", "/b", "/c"]);
    assert!(queue.claim(2, true).await.unwrap().images.is_empty());
}

#[tokio::test]
async fn an_engine_failure_is_retried_until_the_attempts_are_spent() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |retry| {
        retry.attempts = 3;
        retry.first_wait = Duration::ZERO;
    })
    .await;
    let id = queue.submit(vec![image("/a")]).await.unwrap()[0].id;
    for attempt in 1..=3 {
        let claimed = claim_one(&queue).await;
        assert_eq!(claimed.attempts, attempt);
        queue
            .fail(
                claimed,
                &Failure::Engine(EngineError::new(EngineErrorKind::Failed, "boom")),
            )
            .await
            .unwrap();
    }
    let ended = committed(&store, id).await;
    assert_eq!(ended.image.state, "failed");
    assert_eq!(
        ended.image.reason.unwrap(),
        "the engine failed over this picture: boom; given up after 3 attempts"
    );
    assert!(ended.result_id.is_some(), "a failure is a result too");
}

#[tokio::test]
async fn waiting_for_a_file_costs_no_attempts_and_ends_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |retry| {
        retry.attempts = 1;
        retry.first_wait = Duration::from_millis(1);
        retry.longest_wait = Duration::from_millis(1);
        retry.missing_file = Duration::from_millis(150);
    })
    .await;
    let id = queue.submit(vec![image("/a")]).await.unwrap()[0].id;
    let first = claim_one(&queue).await;
    queue.fail(first, &missing()).await.unwrap();
    assert!(
        queue.claim(1, true).await.unwrap().images.is_empty(),
        "it is tried while it waits"
    );
    tokio::time::sleep(Duration::from_millis(160)).await;
    let last = claim_one(&queue).await;
    assert_eq!(last.attempts, 1);
    queue.fail(last, &missing()).await.unwrap();
    let ended = committed(&store, id).await;
    assert_eq!(
        (ended.image.state.as_str(), ended.image.attempts),
        ("failed", 1)
    );
    assert!(ended.image.reason.unwrap().contains("given up"));
}

/// They go on when the file comes.
#[tokio::test]
async fn images_waiting_for_a_file_are_counted_apart_and_have_a_share() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |_| {}).await;
    let paths = ["/a", "/b", "/c", "/d", "/e", "/f"];
    queue.submit(paths.map(image).to_vec()).await.unwrap();
    let (looks, last) = queue.unseen(0).await.unwrap();
    assert_eq!((looks.len(), last), (6, Some(6)));
    let standing = Standing {
        stamp: crate::domain::Stamp {
            size: 3,
            mtime_ns: 5,
        },
        inode: 7,
    };
    let found = looks.into_iter().map(|look| match look.id {
        6 => (look, Ok(standing)),
        _ => (look, Err(missing())),
    });
    queue.looked(found.collect()).await.unwrap();
    // Three images are a source's share in these tests.
    assert_eq!(
        (queue.missing_total(), queue.load().await.unwrap().0),
        (3, 3)
    );
    let claimed = queue.claim(10, true).await.unwrap().images;
    assert_eq!(
        claimed.iter().map(|image| image.id).collect::<Vec<_>>(),
        [4, 5, 6]
    );
    assert_eq!(claimed[2].standing, Some(standing));
    for image in claimed.into_iter().take(2) {
        queue.fail(image, &missing()).await.unwrap();
    }
    let beyond = committed(&store, 4).await.image;
    assert!(beyond.state == "failed" && beyond.reason.unwrap().contains("intake.max_missing"));

    let mut waiting = queue.missing(0).await.unwrap();
    assert_eq!(
        waiting
            .iter()
            .map(|look| (look.id, queue.waits(look)))
            .collect::<Vec<_>>(),
        [(1, true), (2, true), (3, true)]
    );
    let later = Standing {
        inode: 8,
        ..standing
    };
    queue
        .looked(vec![
            (waiting.remove(1), Ok(later)),
            (waiting.remove(0), Err(missing())),
        ])
        .await
        .unwrap();
    let claimed = queue.claim(10, true).await.unwrap().images;
    assert_eq!(
        claimed
            .iter()
            .map(|image| (image.id, image.standing))
            .collect::<Vec<_>>(),
        [(2, Some(later))]
    );
}

#[tokio::test]
async fn an_image_ends_once_even_if_two_hands_hold_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |_| {}).await;
    let id = queue.submit(vec![image("/a")]).await.unwrap()[0].id;
    let claimed = claim_one(&queue).await;
    let stale = Claimed {
        path: claimed.path.clone(),
        file: None,
        picture_key: None,
        supersedes: None,
        ..claimed
    };
    let held = Claimed {
        path: stale.path.clone(),
        file: None,
        picture_key: None,
        supersedes: None,
        ..stale
    };
    assert!(queue.finish(held, nothing_found()).await.unwrap());
    assert!(
        !queue.finish(stale, nothing_found()).await.unwrap(),
        "the second result was written"
    );
    assert_eq!(store.take_unsent(10, "board").await.unwrap().len(), 1);
    assert_eq!(committed(&store, id).await.image.state, "processed");
}

#[tokio::test]
async fn images_in_flight_when_the_daemon_died_get_their_attempt_back() {
    let folder = tempfile::tempdir().unwrap();
    let (store, first_run) = queue(folder.path(), |_| {}).await;
    first_run
        .submit(["/a", "/b"].map(image).to_vec())
        .await
        .unwrap();
    assert_eq!(first_run.claim(2, true).await.unwrap().images.len(), 2);
    drop(first_run);
    store.close().await;
    let (_, second_run) = queue(folder.path(), |_| {}).await;
    let again = second_run.claim(5, true).await.unwrap().images;
    assert_eq!(
        again
            .iter()
            .map(|c| (c.path.as_str(), c.attempts))
            .collect::<Vec<_>>(),
        [("/a", 1), ("/b", 1)]
    );
}

#[tokio::test]
async fn images_in_flight_at_a_death_are_refunded_and_rerun_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (_, queue) = queue(folder.path(), |_| {}).await;
    queue
        .submit(["/a", "/b"].map(image).to_vec())
        .await
        .unwrap();
    for claimed in queue.claim(2, true).await.unwrap().images {
        queue
            .fail(
                claimed,
                &Failure::Engine(EngineError::new(
                    EngineErrorKind::Died { lone: false },
                    "signal 9",
                )),
            )
            .await
            .unwrap();
    }
    queue.submit(vec![image("/c")]).await.unwrap();
    assert!(
        queue.claim(5, false).await.unwrap().images.is_empty(),
        "it must run alone"
    );
    for expected in ["/a", "/b"] {
        let mut alone = queue.claim(5, true).await.unwrap().images;
        assert_eq!(
            alone
                .iter()
                .map(|c| (c.path.as_str(), c.attempts))
                .collect::<Vec<_>>(),
            [(expected, 1)]
        );
        assert!(
            queue.claim(5, false).await.unwrap().images.is_empty(),
            "something ran beside {expected}"
        );
        queue
            .finish(alone.remove(0), nothing_found())
            .await
            .unwrap();
    }
    assert_eq!(queue.claim(5, true).await.unwrap().images[0].path, "/c");
}

#[tokio::test]
async fn a_picture_that_kills_the_engine_alone_each_time_ends_failed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |retry| {
        retry.attempts = 3;
        retry.first_wait = Duration::ZERO;
    })
    .await;
    queue.submit(vec![image("/poison")]).await.unwrap();
    for _ in 0..3 {
        let claimed = claim_one(&queue).await;
        queue
            .fail(
                claimed,
                &Failure::Engine(EngineError::new(
                    EngineErrorKind::Died { lone: true },
                    "signal 11",
                )),
            )
            .await
            .unwrap();
    }
    let ended = committed(&store, 1).await;
    assert_eq!(ended.image.state, "failed");
    assert!(
        ended
            .image
            .reason
            .unwrap()
            .ends_with("signal 11; given up after 3 attempts")
    );
}

#[tokio::test]
async fn an_engine_that_is_away_or_unreachable_never_fails_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |retry| {
        retry.attempts = 1;
        retry.first_wait = Duration::ZERO;
    })
    .await;
    queue.submit(vec![image("/a")]).await.unwrap();
    for n in 0..20 {
        let claimed = claim_one(&queue).await;
        let why = "no such file".to_string();
        let failure = if n % 2 == 0 {
            Failure::engine_away(why)
        } else {
            Failure::Engine(EngineError::new(EngineErrorKind::Unreachable, why))
        };
        queue.fail(claimed, &failure).await.unwrap();
    }
    let waiting = committed(&store, 1).await.image;
    assert_eq!((waiting.state.as_str(), waiting.attempts), ("pending", 0));
}

#[tokio::test]
async fn attempts_lost_to_an_engine_that_broke_down_are_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |retry| retry.first_wait = Duration::ZERO).await;
    queue.submit(vec![image("/a")]).await.unwrap();
    let claimed = claim_one(&queue).await;
    queue
        .fail(
            claimed,
            &Failure::Engine(EngineError::new(EngineErrorKind::Failed, "x")),
        )
        .await
        .unwrap();
    assert_eq!(committed(&store, 1).await.image.attempts, 1);
    queue.refund(vec![1, 99]).await.unwrap();
    queue.refund(vec![1]).await.unwrap();
    assert_eq!(committed(&store, 1).await.image.attempts, 0);
}

#[tokio::test]
async fn results_of_a_lying_engine_are_redone_and_name_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |_| {}).await;
    let paths = [
        "/vouched",
        "/sent",
        "/unsent",
        "/fallback",
        "/unreadable",
        "/missing",
    ];
    queue.submit(paths.map(image).to_vec()).await.unwrap();
    let mut claimed = queue.claim(10, true).await.unwrap().images.into_iter();
    let mut finish = async |role| {
        let identified = Identified {
            role,
            ..nothing_found()
        };
        assert!(
            queue
                .finish(claimed.next().unwrap(), identified)
                .await
                .unwrap()
        );
    };
    finish(EngineRole::Primary).await;
    store
        .verified(EngineRole::Primary, store.newest_result().await.unwrap())
        .await
        .unwrap();
    finish(EngineRole::Primary).await;
    let sent = store.take_unsent(10, "board").await.unwrap();
    assert_eq!(sent.len(), 2);
    finish(EngineRole::Primary).await;
    finish(EngineRole::Fallback).await;
    let unreadable = Failure::Unreadable {
        why: "x".into(),
        by: EngineRole::Primary,
    };
    queue
        .fail(claimed.next().unwrap(), &unreadable)
        .await
        .unwrap();
    let outside = Failure::OutsideRoots("/missing".into());
    queue.fail(claimed.next().unwrap(), &outside).await.unwrap();
    store.settle().await.unwrap();
    let (unfinished, _) = queue.load().await.unwrap();
    assert_eq!(
        queue
            .redo_unverified(EngineRole::Primary, "the engine lied")
            .await
            .unwrap(),
        3
    );
    assert_eq!(queue.load().await.unwrap().0, unfinished + 3);
    let again = queue.claim(10, true).await.unwrap().images;
    let superseded: serde_json::Value = serde_json::from_str(&sent[1].payload).unwrap();
    let found: Vec<_> = again
        .iter()
        .map(|c| (c.path.as_str(), c.attempts, c.supersedes.as_deref()))
        .collect();
    let expected = [
        ("/sent", 1, superseded["result_id"].as_str()),
        ("/unsent", 1, None),
        ("/unreadable", 1, None),
    ];
    assert_eq!(found, expected);
    for claimed in again {
        queue.finish(claimed, nothing_found()).await.unwrap();
    }
    let messages: Vec<serde_json::Value> = store
        .take_unsent(20, "board")
        .await
        .unwrap()
        .iter()
        .map(|row| serde_json::from_str(&row.payload).unwrap())
        .filter(|message: &serde_json::Value| message["path"] == "/sent")
        .collect();
    let news: Vec<_> = messages
        .iter()
        .filter(|message| message["supersedes"] == superseded["result_id"])
        .collect();
    assert_eq!(news.len(), 1, "{messages:?}");
    assert_eq!(
        queue
            .redo_unverified(EngineRole::Fallback, "x")
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn a_result_names_nobody_erased_or_merged_since_the_match() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |_| {}).await;
    let mut people = Vec::new();
    for name in ["Ann", "Bob", "Eve"] {
        let picture = EnrolledPicture {
            image_name: format!("{name}.jpg"),
            sha256: name.into(),
            picture: name.as_bytes().to_vec(),
            bounds: [0.0; 4],
            quality: 1.0,
            crop: vec![1],
            embedding: vec![1.0],
            space: "space".into(),
        };
        store.enroll(name.into(), picture).await.unwrap().unwrap();
        people.push(store.person_named(name.into()).await.unwrap().unwrap());
    }
    let candidate = |at: usize| NamedCandidate {
        person_id: people[at],
        name: ["Ann", "Bob", "Eve"][at].into(),
        distance: Some(0.3),
    };
    let face = |person: usize, other: usize| IdentifiedFace {
        bounds: [0.0; 4],
        landmarks: [[0.0; 2]; 5],
        score: 1.0,
        quality: 1.0,
        objection: None,
        outcome: Outcome::Known,
        person: Some(candidate(person)),
        distance: Some(0.3),
        margin: None,
        candidates: vec![candidate(person), candidate(other)],
        embedding: vec![2.0],
        crop: vec![2],
        enrolled_image: None,
    };
    std::fs::create_dir(folder.path().join("spool")).unwrap();
    std::fs::write(folder.path().join("spool/of-ann.1"), "picture").unwrap();
    let of_ann = NewImage {
        file: Some("spool/of-ann".into()),
        ..image("/ann")
    };
    queue
        .submit(vec![of_ann, image("/bob"), image("/eve")])
        .await
        .unwrap();
    let mut claimed = queue.claim(10, true).await.unwrap().images.into_iter();
    // All three are matched; then Ann is erased completely, and Bob turns out to be Eve.
    store.erase_person(people[0]).await.unwrap();
    store.erased(people.clone()).await.unwrap();
    store.merge_people(people[1], people[2]).await.unwrap();
    store.follow_merges().await.unwrap();
    for (person, other) in [(0, 1), (1, 0), (2, 0)] {
        let identified = Identified {
            faces: vec![face(person, other)],
            outcome: Outcome::Known,
            ..nothing_found()
        };
        assert!(
            queue
                .finish(claimed.next().unwrap(), identified)
                .await
                .unwrap()
        );
    }
    let messages = store.take_unsent(10, "board").await.unwrap();
    let payloads: Vec<_> = messages.iter().map(|row| row.payload.as_str()).collect();
    assert_eq!(
        payloads.len(),
        2,
        "a result that names nobody but her is published: {payloads:?}"
    );
    assert!(
        payloads.iter().all(|payload| !payload.contains("Ann")),
        "{payloads:?}"
    );
    for (id, person, crops) in [
        (1, None, false),
        (2, Some("Eve"), true),
        (3, Some("Eve"), true),
    ] {
        let found = committed(&store, id).await.found;
        assert_eq!(found[0].person.as_deref(), person, "image {id}");
        let named: Vec<_> = found[0]
            .candidates
            .iter()
            .map(|candidate| candidate.name.as_str())
            .collect();
        assert_eq!(named, ["Eve"], "image {id}");
        assert_eq!(found[0].crop, crops, "image {id}");
    }
    assert!(!folder.path().join("spool/of-ann.1").exists());
    assert!(store.files_in_use().await.unwrap().is_empty());
}

/// The queue clock continues from the last write.
#[tokio::test]
async fn the_queue_clock_ignores_a_wrong_board_clock() {
    let folder = tempfile::tempdir().unwrap();
    let (store, first_run) = queue(folder.path(), |retry| {
        retry.first_wait = Duration::from_secs(3600);
        retry.longest_wait = Duration::from_secs(3600);
    })
    .await;
    first_run.submit(vec![image("/a")]).await.unwrap();
    let claimed = claim_one(&first_run).await;
    first_run
        .fail(
            claimed,
            &Failure::Engine(EngineError::new(EngineErrorKind::Failed, "x")),
        )
        .await
        .unwrap();
    drop(first_run);
    store.close().await;
    let (_, second_run) = queue(folder.path(), |_| {}).await;
    let next = second_run.claim(1, true).await.unwrap().next_due.unwrap();
    assert!(
        next > Duration::from_secs(3000) && next < Duration::from_secs(3600 * 13 / 10),
        "{next:?}"
    );
}

#[tokio::test]
async fn more_than_the_allowed_unfinished_images_are_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (store, queue) = queue(folder.path(), |_| {}).await;
    let many = |count| (0..count).map(|n| image(&format!("/{n}"))).collect();
    assert!(
        matches!(
            queue.submit(many(1001)).await,
            Err(QueueError::TooMany { .. })
        ),
        "it could never be taken"
    );
    queue.submit(many(600)).await.unwrap();
    assert!(matches!(
        queue.submit(many(600)).await,
        Err(QueueError::Full {
            unfinished: 600,
            ..
        })
    ));
    assert_eq!(store.counts().await.unwrap().pending, 600);
}

#[test]
fn waits_double_up_to_the_longest() {
    let retry = Config::default().retry;
    let waits: Vec<_> = [1, 2, 3, 30]
        .map(|attempts| backoff(&retry, attempts).as_secs_f64())
        .to_vec();
    for (wait, least) in waits.iter().zip([2.0, 4.0, 8.0, 300.0]) {
        assert!((least..=least * 1.21).contains(wait), "{waits:?}");
    }
}
