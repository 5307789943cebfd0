//! Rejected messages on a real database and real files.

use super::*;
use crate::store::DATABASE;

async fn rejected(folder: &Path, count: u64, bytes: u64) -> Rejected {
    let (store, _) = Store::open(folder).unwrap();
    Rejected::open(store, folder, RejectedCaps { count, bytes }).await
}

async fn kept(rejected: &Rejected) -> Vec<(u64, bool)> {
    let messages = rejected.store.rejected_messages(None, 100).await.unwrap();
    messages
        .into_iter()
        .map(|message| (message.bytes, message.whole))
        .collect()
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder.join(REJECTED)).unwrap().count()
}

#[tokio::test]
async fn the_oldest_are_dropped_beyond_either_cap_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let rejected = rejected(folder.path(), 3, 1000).await;
    for size in [10, 20, 30, 40] {
        rejected
            .keep("in", "no picture", None, vec![b'x'; size].into())
            .await;
    }
    assert_eq!(kept(&rejected).await, [(40, true), (30, true), (20, true)]);
    rejected
        .keep("in", "no picture", None, vec![b'x'; 950].into())
        .await;
    assert_eq!(kept(&rejected).await, [(950, true), (40, true)], "by bytes");
    // A message larger than the whole cap keeps only its beginning, and displaces nothing.
    rejected
        .keep("in", "no picture", None, vec![b'x'; 2000].into())
        .await;
    assert_eq!(
        kept(&rejected).await,
        [(2000, false), (950, true), (40, true)]
    );
    let largest = &rejected.store.rejected_messages(None, 1).await.unwrap()[0];
    assert_eq!(
        largest.reason,
        "no picture; its first 1024 bytes are kept, because its 2000 bytes are more than \
         mqtt.rejected_bytes = 1000"
    );
    let counts = rejected.store.counts().await.unwrap();
    assert_eq!(
        (
            counts.rejected_messages,
            counts.rejected_bytes,
            counts.rejected_dropped
        ),
        (3, 2014, 3)
    );
    assert_eq!(files(folder.path()), 2);
    assert_eq!(rejected.forget_all().await.unwrap(), 3);
    assert_eq!(
        (
            files(folder.path()),
            rejected.store.counts().await.unwrap().rejected_dropped
        ),
        (0, 3)
    );
}

/// The one attempt that succeeds leaves one row and one file.
#[tokio::test]
async fn a_message_that_cannot_be_kept_at_once_is_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let rejected = rejected(folder.path(), 10, 1000).await;
    let other = rusqlite::Connection::open(folder.path().join(DATABASE)).unwrap();
    let refuse = |what: &str| {
        let sql = format!(
            "CREATE TRIGGER no BEFORE {what} ON rejected_messages BEGIN SELECT raise(FAIL, 'no'); END"
        );
        other.execute_batch(&sql).unwrap();
    };
    let allow = || other.execute_batch("DROP TRIGGER no").unwrap();
    let message = |payload: &'static str| NewRejected {
        topic: "in".into(),
        reason: "why".into(),
        content_type: None,
        payload: payload.into(),
        file: Some(format!("{REJECTED}/{}", uuid::Uuid::now_v7().simple())),
    };
    refuse("INSERT");
    let (one, two, mut part) = (message("x"), message("y"), None);
    for _ in 0..3 {
        rejected.try_to_keep(&one, &mut part).await.unwrap_err();
        assert_eq!(files(folder.path()), 1);
    }
    // An end while it waits leaves nothing: the broker sends the message again.
    let mut ended = None;
    rejected.try_to_keep(&two, &mut ended).await.unwrap_err();
    assert_eq!(files(folder.path()), 2);
    drop(ended);
    assert_eq!(files(folder.path()), 1);
    allow();
    rejected.try_to_keep(&one, &mut part).await.unwrap();
    assert!(part.is_none());
    assert_eq!(
        (kept(&rejected).await, files(folder.path())),
        (vec![(1, true)], 1)
    );

    // A failure to drop the oldest does not keep the newest twice.
    refuse("DELETE");
    for _ in 0..10 {
        rejected.keep("in", "why", None, "z".into()).await;
    }
    assert_eq!(kept(&rejected).await.len(), 11);
    allow();
    rejected.keep("in", "why", None, "z".into()).await;
    assert_eq!(
        (kept(&rejected).await.len(), files(folder.path())),
        (10, 10)
    );
}

#[tokio::test]
async fn what_an_interrupted_run_left_is_completed_or_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let one = rejected(folder.path(), 10, 1000).await;
    one.keep("in", "why", None, "kept".into()).await;
    let place = |name: &str| folder.path().join(REJECTED).join(name);
    let file = one.store.rejected_messages(None, 1).await.unwrap()[0]
        .file
        .clone()
        .unwrap();
    let name = file.strip_prefix("rejected/").unwrap();
    // Killed between the commit and the rename.
    let part = format!("{PART}{name}");
    std::fs::rename(place(name), place(&part)).unwrap();
    let message = one.store.rejected_message(1).await.unwrap().unwrap();
    assert_eq!(one.payload(&message).await.unwrap(), Some("kept".into()));
    // Killed before the commit.
    let lost = format!("{PART}{}", uuid::Uuid::now_v7().simple());
    std::fs::write(place(&lost), "not acknowledged").unwrap();
    // Entries that are not ours.
    let [folder_of_ours, large] = [(), ()].map(|()| uuid::Uuid::now_v7().simple().to_string());
    std::fs::create_dir(place(&folder_of_ours)).unwrap();
    std::fs::create_dir(place(".part-x")).unwrap();
    std::fs::write(place("notes.txt"), "x").unwrap();
    std::fs::write(place(&large), [0; 1001]).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", place("link")).unwrap();
    one.store.close().await;
    let again = rejected(folder.path(), 10, 1000).await;
    assert!(place(name).exists() && !place(&part).exists() && !place(&lost).exists());
    assert_eq!(kept(&again).await, [(4, true)]);
    for name in [
        folder_of_ours.as_str(),
        ".part-x",
        "notes.txt",
        &large,
        "link",
    ] {
        assert!(std::fs::symlink_metadata(place(name)).is_ok(), "{name}");
    }
    // The folder itself is a file: the daemon starts all the same.
    std::fs::remove_dir_all(folder.path().join(REJECTED)).unwrap();
    std::fs::write(folder.path().join(REJECTED), "x").unwrap();
    again.store.close().await;
    let odd = rejected(folder.path(), 10, 1000).await;
    assert_eq!(odd.store.rejected_messages(None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_row_that_names_a_file_elsewhere_reads_and_deletes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("victim"), "x").unwrap();
    let rejected = rejected(folder.path(), 10, 1 << 20).await;
    for file in [
        "victim",
        "rejected/../victim",
        "/etc/passwd",
        "rejected/",
        "",
    ] {
        let message = NewRejected {
            topic: "in".into(),
            reason: "no picture".into(),
            content_type: None,
            payload: Bytes::new(),
            file: Some(file.into()),
        };
        rejected.store.keep_rejected(message).await.unwrap();
    }
    for message in rejected.store.rejected_messages(None, 10).await.unwrap() {
        assert_eq!(
            rejected.payload(&message).await.unwrap(),
            None,
            "{:?}",
            message.file
        );
    }
    rejected.forget_all().await.unwrap();
    assert!(folder.path().join("victim").exists());
}

#[tokio::test]
async fn a_message_is_whole_after_a_restart_or_the_loss_of_its_row() {
    let folder = tempfile::tempdir().unwrap();
    let payload: Bytes = (0..100_000_u32).map(|n| n as u8).collect::<Vec<_>>().into();
    let one = rejected(folder.path(), 10, 1 << 20).await;
    one.keep(
        "in",
        "no picture",
        Some("text/plain".into()),
        payload.clone(),
    )
    .await;
    std::fs::write(folder.path().join(REJECTED).join(".part-x"), "half").unwrap();
    one.store.drop_rejected(vec![1], false).await.unwrap();
    one.store.close().await;
    let again = rejected(folder.path(), 10, 1 << 20).await;
    let messages = again.store.rejected_messages(None, 10).await.unwrap();
    assert!(
        messages.len() == 1 && messages[0].reason.contains("was lost"),
        "{messages:?}"
    );
    assert_eq!(again.payload(&messages[0]).await.unwrap(), Some(payload));
    assert_eq!(files(folder.path()), 1);
    assert!(
        again.forget(messages[0].id).await.unwrap() && !again.forget(messages[0].id).await.unwrap()
    );
}
