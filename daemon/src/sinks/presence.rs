//! Presence on MQTT: after each change, and again whenever a subscriber may have missed it. Not
//! retained, because it names people.

use std::time::Duration;

use kith_mqtt::{Message, PublishError, Publisher, State};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::domain::{Clock, wall_clock_ms};
use crate::sightings::presence::Presence;
use crate::status::health::{Condition, Health};
use crate::store::{Store, StoreError};

/// Debounce: commits come in bursts.
const SETTLE: Duration = Duration::from_millis(200);
/// Longest delay of a change that no sighting tells: a person was renamed or erased.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Interval between attempts while the broker refuses, until its configuration changes.
const RETRY: Duration = Duration::from_secs(60);

/// Dependencies of the task that publishes presence.
#[derive(Clone)]
pub struct PresenceReport {
    /// Source of the sightings.
    pub store: Store,
    /// Clock by which the gap is measured.
    pub clock: Clock,
    /// Time after its last look for which an open sighting counts.
    pub gap: Duration,
    /// Name of the board.
    pub device: String,
    /// Topic of the message.
    pub topic: String,
    /// Publisher on the broker.
    pub publisher: Publisher,
    /// State of the connection; presence is sent again on each new one.
    pub connection: watch::Receiver<State>,
    /// Changes when Home Assistant has started.
    pub births: watch::Receiver<u64>,
    /// Health report of the part.
    pub health: Health,
}

impl PresenceReport {
    /// Publishes presence until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut changes = self.store.changes();
        let (mut connection, mut births) = (self.connection.clone(), self.births.clone());
        // The last message that the broker took, without its times.
        let mut told: Option<Presence> = None;
        loop {
            births.borrow_and_update();
            changes.borrow_and_update();
            let publish = async {
                if self.publisher.connected().await.is_err() {
                    std::future::pending::<()>().await;
                }
                connection.borrow_and_update();
                let changed = self.store.sightings_changed().await?;
                let (now, next) = self.now().await?;
                let still = now.without_clock();
                if told.as_ref() != Some(&still) {
                    self.publish(&now).await?;
                    told = Some(still);
                }
                anyhow::Ok((changed, next))
            };
            let published = tokio::select! {
                published = publish => published,
                () = stop.cancelled() => return Ok(()),
            };
            let (changed, next) = match published {
                Ok(published) => published,
                // The connection reports its own outages, and the next connection retries.
                Err(error) => {
                    told = None;
                    self.say_refused(&error);
                    (0, Some(RETRY))
                }
            };
            let pause = async {
                sleep(SETTLE).await;
                self.something_new(&mut changes, changed, next).await
            };
            tokio::select! {
                new = pause => new?,
                Ok(()) = connection.changed() => told = None,
                Ok(()) = births.changed() => told = None,
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Waits until a sighting told a change after number `changed`, until anything else may have
    /// changed presence, or until an open sighting stops to count.
    async fn something_new(
        &self,
        changes: &mut watch::Receiver<u64>,
        changed: i64,
        next: Option<Duration>,
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        let next = next.map(|next| now + next);
        let mut look_again = None;
        loop {
            let due = [next, look_again].into_iter().flatten().min();
            tokio::select! {
                stays = changes.changed() => stays?,
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => return Ok(()),
            }
            if self.store.sightings_changed().await? != changed {
                return Ok(());
            }
            look_again.get_or_insert(Instant::now().max(now + LOOK_AGAIN));
            sleep(SETTLE).await;
        }
    }

    async fn now(&self) -> Result<(Presence, Option<Duration>), StoreError> {
        let latest = self.store.latest_sightings().await?;
        let (now_ms, came_now_ms) = (wall_clock_ms(), (self.clock)());
        Ok(Presence::of(
            &self.device,
            now_ms,
            came_now_ms,
            self.gap,
            &latest,
        ))
    }

    async fn publish(&self, presence: &Presence) -> anyhow::Result<()> {
        let message = Message {
            topic: self.topic.clone(),
            payload: serde_json::to_vec(presence)?,
            content_type: Some("application/json".into()),
            ..Message::default()
        };
        self.publisher.publish(message).await?;
        self.health.set("presence", Condition::Ok, "published");
        Ok(())
    }

    fn say_refused(&self, error: &anyhow::Error) {
        if matches!(error.downcast_ref(), Some(PublishError::Disconnected)) {
            return;
        }
        let topic = &self.topic;
        let text = format!("not published: {error:#}; let the broker take {topic}");
        if self
            .health
            .set("presence", Condition::Degraded, text.as_str())
        {
            tracing::warn!("presence is {text}");
        }
    }
}
