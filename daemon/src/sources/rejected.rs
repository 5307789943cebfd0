//! Keeps refused MQTT messages whole, each in a file below `rejected/`, within caps: the oldest go
//! first, and are counted. The caller decides what is refused.
//!
//! A file is on disk before its row, and deleted before its row. A crash therefore leaves a file
//! without a row, which the next start restores, or a row without a file, which still has the
//! message's beginning.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::write_durably;
use crate::store::{NewRejected, RejectedCaps, RejectedMessage, Store, StoreError};

/// Folder of the messages, below the state folder.
const REJECTED: &str = "rejected";

/// Failure to keep, read or drop a refused message.
#[derive(Debug, thiserror::Error)]
pub enum RejectedError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder failed.
    #[error("{REJECTED}/: {0}")]
    Io(#[from] std::io::Error),
}

/// The kept messages; clones share them.
#[derive(Clone)]
pub struct Rejected {
    /// Rows of the messages.
    pub store: Store,
    state_dir: Arc<Path>,
    caps: RejectedCaps,
}

impl Rejected {
    /// Creates the folder, and restores rows of files that have none.
    pub async fn open(
        store: Store,
        state_dir: &Path,
        caps: RejectedCaps,
    ) -> Result<Self, RejectedError> {
        tokio::fs::create_dir_all(state_dir.join(REJECTED)).await?;
        let rejected = Self {
            store,
            state_dir: state_dir.into(),
            caps,
        };
        rejected.take_up().await?;
        rejected.make_room().await?;
        Ok(rejected)
    }

    async fn take_up(&self) -> Result<(), RejectedError> {
        let known: HashSet<_> = self
            .store
            .rejected_files()
            .await?
            .into_iter()
            .filter_map(|(_, file)| file)
            .collect();
        let mut entries = tokio::fs::read_dir(self.state_dir.join(REJECTED)).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let file = format!("{REJECTED}/{name}");
            if name.starts_with(".part-") {
                // An interrupted write.
                let _ = tokio::fs::remove_file(entry.path()).await;
            } else if self.place(&file).is_some() && !known.contains(&file) {
                let reason = "its entry in the database was lost; these are its bytes".to_owned();
                let payload = tokio::fs::read(entry.path()).await?.into();
                let message = NewRejected {
                    topic: String::new(),
                    reason,
                    content_type: None,
                    payload,
                    file: Some(file),
                };
                self.store.keep_rejected(message).await?;
            }
        }
        Ok(())
    }

    /// Keeps a message; it is on disk when this returns.
    pub async fn keep(
        &self,
        topic: &str,
        reason: &str,
        content_type: Option<String>,
        payload: Bytes,
    ) -> Result<(), RejectedError> {
        tracing::warn!(topic, "message rejected: {reason}; kithd rejected shows it");
        let file = if !payload.is_empty() && payload.len() as u64 <= self.caps.bytes {
            let file = format!("{REJECTED}/{}", uuid::Uuid::now_v7().simple());
            let (target, bytes) = (self.state_dir.join(&file), payload.clone());
            let written = tokio::task::spawn_blocking(move || write_durably(&target, &bytes)).await;
            written.map_err(std::io::Error::other)??;
            Some(file)
        } else {
            None
        };
        let (topic, reason) = (topic.to_owned(), reason.to_owned());
        self.store
            .keep_rejected(NewRejected {
                topic,
                reason,
                content_type,
                payload,
                file,
            })
            .await?;
        self.make_room().await
    }

    async fn make_room(&self) -> Result<(), RejectedError> {
        let oldest = self.store.rejected_beyond(self.caps).await?;
        if oldest.is_empty() {
            return Ok(());
        }
        let dropped = self.drop_these(oldest, true).await?;
        tracing::warn!(
            "{dropped} rejected messages were dropped, the oldest first: there are more than mqtt.rejected_count or \
             mqtt.rejected_bytes allow"
        );
        Ok(())
    }

    /// Returns the location of a row's file; `None` when the name is not one that kithd makes.
    fn place(&self, file: &str) -> Option<PathBuf> {
        let name = file.strip_prefix(REJECTED)?.strip_prefix('/')?;
        uuid::Uuid::try_parse(name)
            .ok()
            .map(|_| self.state_dir.join(REJECTED).join(name))
    }

    /// Returns all bytes of a message; `None` when only its beginning was kept.
    pub async fn payload(&self, message: &RejectedMessage) -> Result<Option<Bytes>, RejectedError> {
        let Some(place) = message.file.as_ref().and_then(|file| self.place(file)) else {
            return Ok(None);
        };
        match tokio::fs::read(place).await {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets one message; false when there is no such message.
    pub async fn forget(&self, id: i64) -> Result<bool, RejectedError> {
        let Some(message) = self.store.rejected_message(id).await? else {
            return Ok(false);
        };
        Ok(self.drop_these(vec![(id, message.file)], false).await? > 0)
    }

    /// Forgets all messages and returns their number.
    pub async fn forget_all(&self) -> Result<usize, RejectedError> {
        self.drop_these(self.store.rejected_files().await?, false)
            .await
    }

    async fn drop_these(
        &self,
        messages: Vec<(i64, Option<String>)>,
        for_want_of_room: bool,
    ) -> Result<usize, RejectedError> {
        let (ids, files): (Vec<_>, Vec<_>) = messages.into_iter().unzip();
        for place in files
            .into_iter()
            .flatten()
            .filter_map(|file| self.place(&file))
        {
            match tokio::fs::remove_file(place).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(self.store.drop_rejected(ids, for_want_of_room).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rejected(folder: &Path, count: u64, bytes: u64) -> Rejected {
        let (store, _) = Store::open(folder).unwrap();
        Rejected::open(store, folder, RejectedCaps { count, bytes })
            .await
            .unwrap()
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
                .await
                .unwrap();
        }
        assert_eq!(kept(&rejected).await, [(40, true), (30, true), (20, true)]);
        rejected
            .keep("in", "no picture", None, vec![b'x'; 950].into())
            .await
            .unwrap();
        assert_eq!(kept(&rejected).await, [(950, true), (40, true)], "by bytes");
        // A message larger than the whole cap keeps only its beginning, and displaces nothing.
        rejected
            .keep("in", "no picture", None, vec![b'x'; 2000].into())
            .await
            .unwrap();
        assert_eq!(
            kept(&rejected).await,
            [(2000, false), (950, true), (40, true)]
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
        .await
        .unwrap();
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
            again.forget(messages[0].id).await.unwrap()
                && !again.forget(messages[0].id).await.unwrap()
        );
    }
}
