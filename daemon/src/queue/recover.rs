//! What the last run left behind: images that were in flight when the daemon died.

use super::{Queue, QueueError};

impl Queue {
    /// Puts images left `processing` back to `pending`.
    ///
    /// The engine still runs inside the daemon, so a picture that kills it kills both. With several in flight
    /// nobody knows which it was: their attempts are refunded and each is run again alone. A lone one keeps its
    /// attempt, and fails when they are spent, so one poison picture never becomes a boot loop.
    pub async fn recover(&self) -> Result<(), QueueError> {
        let left = self.store.in_flight().await?;
        if left.is_empty() {
            return Ok(());
        }
        let lone = left.len() == 1;
        tracing::info!("{} images were in flight when kithd last stopped; they are run again", left.len());
        for claimed in left {
            if lone && claimed.attempts >= self.rules.retry.attempts {
                let attempts = claimed.attempts;
                let reason =
                    format!("kithd died while this picture was in the engine; given up after {attempts} attempts");
                return self.give_up(claimed, reason).await;
            }
        }
        self.store.put_back_in_flight(!lone).await?;
        Ok(())
    }
}
