//! What the last run left behind: images that were in flight when the daemon died.

use super::{Queue, QueueError};

impl Queue {
    /// Puts images left `processing` back to `pending`, their attempts refunded.
    ///
    /// The daemon decodes nothing, so its death says nothing about them: what a picture can kill is the engine.
    pub async fn recover(&self) -> Result<(), QueueError> {
        let left = self.store.put_back_in_flight().await?;
        if left > 0 {
            tracing::info!("{left} images were in flight when kithd last stopped; they are run again");
        }
        Ok(())
    }
}
