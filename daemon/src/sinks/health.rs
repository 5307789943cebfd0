//! The board's health on MQTT, retained: the state of every part, and the counts. Retaining is
//! right, because this is state.

use std::time::Duration;

use kith_mqtt::{Message, PublishError, Publisher};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::engines::Engines;
use crate::status::disk::Disk;
use crate::status::health::{Condition, Health};
use crate::store::{Store, StoreError};

const EVERY: Duration = Duration::from_secs(30);
/// Debounce: changes come in bursts.
const SETTLE: Duration = Duration::from_millis(500);

/// Publishes on every change and periodically, until `finish` is cancelled.
pub async fn run(
    report: HealthReport,
    publisher: Publisher,
    topic: String,
    finish: CancellationToken,
) -> anyhow::Result<()> {
    let mut changes = report.health.changes();
    loop {
        changes.borrow_and_update();
        let publish = async {
            if publisher.connected().await.is_err() {
                std::future::pending::<()>().await;
            }
            let message = Message {
                topic: topic.clone(),
                payload: report.now().await?.to_string().into_bytes(),
                retain: true,
                content_type: Some("application/json".into()),
                ..Message::default()
            };
            publisher.publish(message).await?;
            anyhow::Ok(())
        };
        tokio::select! {
            published = publish => {
                match published {
                    Ok(()) => _ = report.health.set("mqtt health", Condition::Ok, "published"),
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
        tokio::select! {
            () = async {
                tokio::time::sleep(SETTLE).await;
                tokio::select! {
                    _ = changes.changed() => {}
                    () = tokio::time::sleep(EVERY) => {}
                }
            } => {}
            () = finish.cancelled() => return Ok(()),
        }
    }
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
            "parts": self.health.parts(),
            "engine": self.engines.report(),
            "disk": self.disk.report().await?,
        }))
    }
}
