//! The board's health on MQTT, retained: the state of every part, and the counts. Retaining is
//! right, because this is state.

use std::sync::Arc;
use std::time::Duration;

use kith_mqtt::{Message, PublishError, Publisher};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::engines::Engines;
use crate::status::disk::Disk;
use crate::status::health::{Condition, Health};
use crate::status::thermal::Board;
use crate::store::{Store, StoreError};

const EVERY: Duration = Duration::from_secs(30);
/// Debounce: changes come in bursts.
const SETTLE: Duration = Duration::from_millis(500);
/// Shortest interval of messages about the backlog.
const PACE: Duration = Duration::from_secs(2);
/// Interval of counting while pictures come and go.
const COUNT: Duration = Duration::from_millis(250);
/// Smallest change of the backlog that is published at once, unless it begins or ends.
const LARGE: u64 = 10;

/// Publishes on every change of a part, when a backlog begins, ends or changes much, and
/// periodically, until `finish` is cancelled.
pub async fn run(
    report: HealthReport,
    publisher: Publisher,
    topic: String,
    finish: CancellationToken,
) -> anyhow::Result<()> {
    let mut changes = report.health.changes();
    let mut told = 0;
    loop {
        changes.borrow_and_update();
        let publish = async {
            if publisher.connected().await.is_err() {
                std::future::pending::<()>().await;
            }
            // Counted first: a change meanwhile is published again, and not missed.
            let backlog = report.backlog().await?;
            let message = Message {
                topic: topic.clone(),
                payload: report.now().await?.to_string().into_bytes(),
                retain: true,
                content_type: Some("application/json".into()),
                ..Message::default()
            };
            publisher.publish(message).await?;
            anyhow::Ok(backlog)
        };
        tokio::select! {
            published = publish => {
                match published {
                    Ok(backlog) => {
                        told = backlog;
                        report.health.set("mqtt health", Condition::Ok, "published");
                    }
                    // The connection reports its own outages; a refusal by the broker is reported
                    // here.
                    Err(error) => {
                        let text = format!("not published: {error:#}; let the broker take {topic}, retained");
                        let away = matches!(error.downcast_ref(), Some(PublishError::Disconnected));
                        if !away && report.health.set("mqtt health", Condition::Degraded, text.as_str()) {
                            tracing::warn!("the board's health is {text}");
                        }
                    }
                }
            }
            () = finish.cancelled() => return Ok(()),
        }
        let last = Instant::now();
        tokio::select! {
            () = async {
                sleep(SETTLE).await;
                _ = changes.changed().await;
            } => {}
            () = report.backlog_moved(told, last + PACE) => {}
            () = sleep(EVERY) => {}
            () = finish.cancelled() => return Ok(()),
        }
    }
}

/// Returns whether a change of the backlog is worth a message of its own.
fn moved(told: u64, now: u64) -> bool {
    let change = told.abs_diff(now);
    (told == 0) != (now == 0) || (change >= LARGE && change * 2 >= told.max(now))
}

/// The board's health, for the retained message and for requests; clones share it.
#[derive(Clone)]
pub struct HealthReport {
    /// Source of the counts.
    pub store: Store,
    /// All parts, including the sources.
    pub health: Health,
    /// Engines and breaker.
    pub engines: Engines,
    /// Space on the disk.
    pub disk: Disk,
    /// Temperature of the board.
    pub sensors: Board,
    /// Number of images that wait for their file, as the queue counts them.
    pub waiting_for_file: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The board's number, by which it recognises its own retained health.
    pub board: String,
}

impl HealthReport {
    /// Returns the current health.
    pub async fn now(&self) -> Result<serde_json::Value, StoreError> {
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "board": self.board,
            "queue": self.store.counts().await?,
            "waiting_for_file": (self.waiting_for_file)(),
            "strangers_to_name": self.store.strangers_to_name().await?,
            "parts": self.health.parts(),
            "engine": self.engines.report(),
            "disk": self.disk.report().await?,
            "celsius": self.sensors.report().await.celsius,
        }))
    }

    /// Returns the number of images that wait for the engine or are with it.
    async fn backlog(&self) -> Result<u64, StoreError> {
        let counts = self.store.counts().await?;
        Ok((counts.pending + counts.processing).saturating_sub((self.waiting_for_file)()))
    }

    /// Waits until the backlog differs much from the number that was told, at least until `from`.
    async fn backlog_moved(&self, told: u64, from: Instant) {
        let mut commits = self.store.changes();
        sleep_until(from).await;
        loop {
            // A count that fails is reported by whatever else uses the database.
            if self.backlog().await.is_ok_and(|now| moved(told, now)) {
                return;
            }
            commits.borrow_and_update();
            if commits.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(COUNT).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_begins_ends_or_doubles_is_news() {
        let cases = [
            (0, 1, true),
            (1, 0, true),
            (0, 0, false),
            (1, 9, false),
            (1, 11, true),
            (100, 120, false),
            (100, 200, true),
            (100, 50, true),
        ];
        for (told, now, news) in cases {
            assert_eq!(moved(told, now), news, "{told} {now}");
        }
    }
}
