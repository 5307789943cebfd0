//! Keeps refused MQTT messages whole, each in a file below `rejected/`, within caps: the oldest go
//! first, and are counted. The caller decides what is refused.
//!
//! A file begins as `.part-<uuid>`, is flushed, and gets its name once its row is committed and
//! before the message is acknowledged. At start, a file that was never acknowledged is deleted, and
//! a file whose row the database has lost gets a new one. A file is deleted before its row, so a
//! crash leaves at most a row without a file, which still has the message's beginning.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tempfile::NamedTempFile;
use tokio::fs::DirEntry;

use super::RETRY;
use crate::store::{
    NewRejected, REJECTED_BEGINNING, RejectedCaps, RejectedMessage, Store, StoreError,
};

/// Folder of the messages, below the state folder.
const REJECTED: &str = "rejected";
/// Prefix of a file whose row is not committed.
const PART: &str = ".part-";

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
    /// Takes up the messages of the last run. Nothing in the folder keeps the daemon from starting:
    /// an entry that is not one of ours is logged and left.
    pub async fn open(store: Store, state_dir: &Path, caps: RejectedCaps) -> Self {
        let rejected = Self {
            store,
            state_dir: state_dir.into(),
            caps,
        };
        if let Err(error) = rejected.take_up().await {
            tracing::error!("rejected messages of the last run cannot be taken up: {error}");
        }
        rejected.make_room_or_say().await;
        rejected
    }

    async fn take_up(&self) -> Result<(), RejectedError> {
        let folder = self.state_dir.join(REJECTED);
        tokio::fs::create_dir_all(&folder).await?;
        let known: HashSet<_> = self
            .store
            .rejected_files()
            .await?
            .into_iter()
            .filter_map(|(_, file)| file)
            .collect();
        let mut entries = tokio::fs::read_dir(folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            if let Err(error) = self.take_up_entry(&entry, &known).await {
                tracing::warn!("{} is left alone: {error}", entry.path().display());
            }
        }
        Ok(())
    }

    /// Completes an interrupted rename, deletes what was never acknowledged, and restores the row
    /// of a file that has none. The error says why the entry is none of these.
    async fn take_up_entry(
        &self,
        entry: &DirEntry,
        known: &HashSet<String>,
    ) -> Result<(), RejectedError> {
        let foreign = |why: &str| Err(RejectedError::Io(std::io::Error::other(why)));
        let name = entry.file_name().to_string_lossy().into_owned();
        let part = name.strip_prefix(PART);
        let file = format!("{REJECTED}/{}", part.unwrap_or(&name));
        let (metadata, place) = (entry.metadata().await?, self.place(&file));
        if !metadata.is_file() {
            return foreign("it is not a file");
        }
        match place {
            Some(place) if part.is_some() && known.contains(&file) => {
                Ok(tokio::fs::rename(entry.path(), place).await?)
            }
            // The broker sends the message again.
            _ if part.is_some() => Ok(tokio::fs::remove_file(entry.path()).await?),
            Some(_) if known.contains(&file) => Ok(()),
            Some(_) if metadata.len() > self.caps.bytes => {
                foreign("it is larger than mqtt.rejected_bytes")
            }
            Some(_) => {
                let reason = "its entry in the database was lost; these are its bytes".to_owned();
                let payload = tokio::fs::read(entry.path()).await?.into();
                let message = NewRejected {
                    topic: String::new(),
                    reason,
                    content_type: None,
                    payload,
                    file: Some(file),
                };
                Ok(self.store.keep_rejected(message).await?)
            }
            None => foreign("it is not a file of kithd"),
        }
    }

    /// Keeps a message; it is on disk when this returns. Tries as long as needed, under one name,
    /// so that no failed attempt leaves anything behind.
    pub async fn keep(
        &self,
        topic: &str,
        reason: &str,
        content_type: Option<String>,
        payload: Bytes,
    ) {
        tracing::warn!(topic, "message rejected: {reason}; kithd rejected shows it");
        let (mut reason, size) = (reason.to_owned(), payload.len() as u64);
        let is_whole = !payload.is_empty() && size <= self.caps.bytes;
        if size > self.caps.bytes {
            reason += &format!(
                "; its first {REJECTED_BEGINNING} bytes are kept, because its {size} bytes are \
                 more than mqtt.rejected_bytes = {}",
                self.caps.bytes
            );
        }
        let file = format!("{REJECTED}/{}", uuid::Uuid::now_v7().simple());
        let message = NewRejected {
            topic: topic.to_owned(),
            reason,
            content_type,
            payload,
            file: is_whole.then_some(file),
        };
        let (mut part, mut said) = (None, false);
        while let Err(error) = self.try_to_keep(&message, &mut part).await {
            if !said {
                tracing::warn!(
                    topic,
                    "the rejected message cannot be kept yet, kithd tries again: {error}"
                );
            }
            said = true;
            tokio::time::sleep(RETRY).await;
        }
        self.make_room_or_say().await;
    }

    /// Tries once; `part` is the file that an attempt before has written.
    async fn try_to_keep(
        &self,
        message: &NewRejected,
        part: &mut Option<Part>,
    ) -> Result<(), RejectedError> {
        if part.is_none()
            && let Some(place) = message.file.as_ref().and_then(|file| self.place(file))
        {
            let payload = message.payload.clone();
            let writing = tokio::task::spawn_blocking(move || Part::write(place, &payload));
            *part = Some(writing.await.map_err(std::io::Error::other)??);
        }
        let (store, message, mut written) = (self.store.clone(), message.clone(), part.take());
        // Runs in its own task: an end of the caller must not leave a row without its file.
        let keeping = tokio::spawn(async move {
            let kept = store.keep_rejected(message).await;
            if kept.is_ok()
                && let Some(part) = written.take()
            {
                part.keep();
            }
            (kept, written)
        });
        let (kept, written) = keeping.await.map_err(std::io::Error::other)?;
        *part = written;
        Ok(kept?)
    }

    /// Drops the oldest messages. A failure is said only: the next message repeats it.
    async fn make_room_or_say(&self) {
        if let Err(error) = self.make_room().await {
            tracing::warn!("rejected messages beyond the limits cannot be dropped yet: {error}");
        }
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
        // The row exists a moment before the file is renamed, and the rename may happen between
        // two attempts.
        for place in [&place, &before_its_row(&place), &place] {
            match tokio::fs::read(place).await {
                Ok(bytes) => return Ok(Some(bytes.into())),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
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
            .flat_map(|place| [before_its_row(&place), place])
        {
            match tokio::fs::remove_file(place).await {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(self.store.drop_rejected(ids, for_want_of_room).await?)
    }
}

/// A message's file before its row is committed; deleted on drop.
struct Part {
    file: NamedTempFile,
    place: PathBuf,
}

impl Part {
    /// Writes a file that survives a power cut.
    fn write(place: PathBuf, bytes: &[u8]) -> std::io::Result<Self> {
        let (Some(folder), Some(name)) = (place.parent(), place.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new()
            .prefix(PART)
            .suffix(name)
            .rand_bytes(0)
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        File::open(folder)?.sync_all()?;
        Ok(Self { file, place })
    }

    /// Gives the file its name: the row is committed. A power cut may undo this; the next start
    /// repeats it.
    fn keep(self) {
        if let Err(error) = self.file.persist(&self.place) {
            tracing::warn!("a rejected message keeps its first name: {}", error.error);
            // Not deleted.
            let _ = error.file.keep();
        }
    }
}

/// Returns the name of a file until its row is committed.
fn before_its_row(place: &Path) -> PathBuf {
    let mut name = OsString::from(PART);
    name.push(place.file_name().unwrap_or_default());
    place.with_file_name(name)
}

#[cfg(test)]
mod tests;
