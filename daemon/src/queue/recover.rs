//! Recovery after the last run: images that were in flight when the daemon died, and the spool.

use std::path::Path;

use super::{Queue, QueueError, clock};
use crate::domain::wall_clock_ms;
use crate::spool;
use crate::store::StoreError;

/// Images queued per commit.
const BATCH: usize = 200;

impl Queue {
    /// Puts images left `processing` back to `pending`, their attempts refunded.
    ///
    /// The daemon decodes no picture, so its death says nothing about them: a picture can only kill
    /// the engine.
    pub async fn recover(&self) -> Result<(), QueueError> {
        let left = self.store.put_back_in_flight().await?;
        if left > 0 {
            tracing::info!(
                "{left} images were in flight when kithd last stopped; they are run again"
            );
        }
        Ok(())
    }

    /// Reconciles the spool with the database before anything is accepted. Queues spooled pictures
    /// without a row again and returns their number. They were accepted once, so
    /// `intake.max_pending` does not apply to them.
    pub async fn recover_spool(&self, state_dir: &Path) -> Result<usize, QueueError> {
        // Deletes discarded files first, so that erased pictures are not mistaken for lost ones.
        if let Some(error) = self.store.delete_discarded().await? {
            tracing::warn!(
                "pictures no longer needed cannot be deleted from the spool yet: {error}"
            );
        }
        let (folder, named) = (state_dir.to_path_buf(), self.store.files_in_use().await?);
        let tidying = tokio::task::spawn_blocking(move || spool::tidy(&folder, &named));
        let lost = tidying
            .await
            .map_err(|_| StoreError::Closed)?
            .map_err(|source| StoreError::Io {
                path: state_dir.join(spool::SPOOL),
                source,
            })?;
        for batch in lost.chunks(BATCH) {
            self.store
                .queue_again(
                    batch.to_vec(),
                    self.clock.now_ms(),
                    wall_clock_ms(),
                    clock::synchronised(),
                )
                .await?;
        }
        Ok(lost.len())
    }
}
