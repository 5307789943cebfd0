//! People shared with a fleet: what other boards say of them is taken, what changes here is
//! captured. After each, the gallery in memory equals the database.

use crate::domain::wall_clock_ms;
use crate::fleet::record::{BoardState, Record};
use crate::people::People;
use crate::store::{Captured, Did, Membership, Now, Taken};

impl People {
    /// Makes this board a member of a fleet: its people are to be captured. False if it is in a
    /// fleet already.
    pub async fn join_fleet(&self, membership: Membership) -> anyhow::Result<bool> {
        let _turn = self.turn.lock().await;
        Ok(self.store.join_fleet(membership).await?)
    }

    /// Ends the membership. `keep`: all people stay; otherwise those of other boards are erased
    /// here. False if the board is in no fleet.
    pub async fn leave_fleet(&self, keep: bool) -> anyhow::Result<bool> {
        let _turn = self.turn.lock().await;
        let left = self.store.leave_fleet(keep).await?;
        self.follow(left.unwrap_or_default()).await?;
        Ok(left.is_some())
    }

    /// Makes records of what changed here, of pictures a bounded number: call it again while
    /// [`Captured::more`] says so.
    pub async fn capture_fleet(&self) -> anyhow::Result<Captured> {
        let _turn = self.turn.lock().await;
        let captured = self.store.capture_fleet(self.now()).await?;
        self.follow(captured.did).await?;
        Ok(captured)
    }

    /// Takes records of other boards, and returns what became of each.
    pub async fn take_fleet_records(&self, records: Vec<Record>) -> anyhow::Result<Vec<Taken>> {
        let _turn = self.turn.lock().await;
        let (taken, did) = self.store.take_fleet_records(records, self.now()).await?;
        self.follow(did).await?;
        Ok(taken)
    }

    /// Says in the fleet how this board is.
    pub async fn say_in_fleet(&self, state: BoardState) -> anyhow::Result<()> {
        Ok(self.store.set_fleet_board(state, self.now()).await?)
    }

    fn now(&self) -> Now {
        Now {
            wall_ms: wall_clock_ms(),
            space: self.matcher().ok().map(|matcher| matcher.space().into()),
        }
    }

    /// Does what follows a change of the people's tables, as after the same change by an operator.
    async fn follow(&self, did: Did) -> anyhow::Result<()> {
        if did == Did::default() {
            return Ok(());
        }
        self.refresh().await?;
        if did.merged {
            self.store.follow_merges().await?;
        }
        let rest = if did.erased {
            let rest = self.finish_forgetting().await;
            // The erasure may have deleted counter-examples that were faces of this person.
            self.refresh().await?;
            rest
        } else if did.removed {
            self.forget_removed().await
        } else {
            Ok(())
        };
        // They are out of the gallery for good. The rest of an erasure is tried again until it
        // succeeds, and what holds a removed picture is written anew within a day.
        if let Err(error) = rest {
            tracing::warn!("traces remain of what the fleet erased: {error:#}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
