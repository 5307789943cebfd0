//! Announces the board to Home Assistant: one retained discovery message for the whole device (MQTT
//! integration, device discovery, since 2024.11). Its entities read the messages of `outbox` and
//! `health`; only the last face is published specially for them.

use std::time::Duration;

use kith_mqtt::{Message, PublishError, Publisher, State};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::sinks::former_names::ANNOUNCED;
use crate::status::health::{Condition, Health};
use crate::store::Store;
use crate::topics::Topics;

/// Interval between attempts while the broker refuses, until its configuration changes.
const RETRY: Duration = Duration::from_secs(60);

/// Dependencies of the announcement task.
#[derive(Clone)]
pub struct HomeAssistant {
    /// Configuration of the announcement.
    pub settings: config::HomeAssistant,
    /// Name of the board.
    pub device: String,
    /// Number of the board.
    pub board: String,
    /// Names of the topics its entities read.
    pub topics: Topics,
    /// Store of the announced topic.
    pub store: Store,
    /// Publisher on the broker.
    pub publisher: Publisher,
    /// State of the connection; each new one gets an announcement.
    pub connection: watch::Receiver<State>,
    /// Changes when Home Assistant has started.
    pub births: watch::Receiver<u64>,
    /// Changes when a person was erased, whose face may be the last one shown.
    pub erasures: watch::Receiver<u64>,
    /// Health report of the part.
    pub health: Health,
}

/// Returns the topic on which Home Assistant reports its start.
pub fn birth_topic(prefix: &str) -> String {
    format!("{prefix}/status")
}

impl HomeAssistant {
    /// Announces, and repeats that whenever it may have been lost; or withdraws the announcement
    /// once.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        // The last face shown may be that of an erased person, and no other has replaced it.
        let mut clear = false;
        loop {
            self.connection.borrow_and_update();
            self.births.borrow_and_update();
            let up_to_date = async {
                self.bring_up_to_date().await?;
                if clear && self.settings.enabled {
                    // kithd does not retain faces; a face retained by another client is removed as
                    // well.
                    self.publish(self.topics.last_face(), Vec::new()).await?;
                }
                anyhow::Ok(())
            };
            let done = tokio::select! {
                done = up_to_date => done,
                () = stop.cancelled() => return Ok(()),
            };
            clear &= done.is_err();
            let retry = match done {
                Ok(()) if self.settings.enabled => {
                    self.health
                        .set("home assistant", Condition::Ok, "announced");
                    false
                }
                Ok(()) => false,
                // The connection reports its own outages, and the next connection retries.
                Err(error) if matches!(error.downcast_ref(), Some(PublishError::Disconnected)) => {
                    false
                }
                Err(error) => {
                    let text = format!(
                        "not announced: {error:#}; let the broker take {}/#",
                        self.settings.prefix
                    );
                    if self
                        .health
                        .set("home assistant", Condition::Degraded, text.as_str())
                    {
                        tracing::warn!("Home Assistant: {text}");
                    }
                    true
                }
            };
            tokio::select! {
                () = tokio::time::sleep(RETRY), if retry => {}
                Ok(()) = self.connection.changed() => {}
                Ok(()) = self.births.changed() => {}
                Ok(()) = self.erasures.changed() => clear = true,
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    async fn bring_up_to_date(&self) -> anyhow::Result<()> {
        let topic = format!(
            "{}/device/kithd_{}/config",
            self.settings.prefix, self.device
        );
        let announced = self
            .store
            .fact(ANNOUNCED)
            .await?
            .filter(|announced| !announced.is_empty());
        if announced.is_none() && !self.settings.enabled {
            return Ok(());
        }
        // Another board may use the former name now; `former_names` finds out.
        let own = |old: &&String| old.ends_with(&format!("/device/kithd_{}/config", self.device));
        if let Some(old) = announced
            .as_ref()
            .filter(own)
            .filter(|old| !self.settings.enabled || **old != topic)
        {
            // An empty retained message removes the device.
            self.publish(old.clone(), Vec::new()).await?;
            self.store.set_fact(ANNOUNCED, String::new()).await?;
            tracing::info!("taken back from Home Assistant: {old}");
        }
        if self.settings.enabled {
            // Stored before the publish: an announcement that is not remembered could not be
            // withdrawn.
            if announced.as_ref() != Some(&topic) {
                self.store.set_fact(ANNOUNCED, topic.clone()).await?;
                tracing::info!("announced to Home Assistant: {topic}");
            }
            self.publish(topic, self.discovery().to_string().into_bytes())
                .await?;
        }
        Ok(())
    }

    async fn publish(&self, topic: String, payload: Vec<u8>) -> anyhow::Result<()> {
        self.publisher.connected().await?;
        Ok(self
            .publisher
            .publish(Message {
                topic,
                payload,
                retain: true,
                ..Message::default()
            })
            .await?)
    }

    fn discovery(&self) -> Value {
        let Self { device, topics, .. } = self;
        let id = |entity: &str| format!("kithd_{device}_{entity}");
        let version = env!("CARGO_PKG_VERSION");
        json!({
            "device": {
                "identifiers": [format!("kithd_{device}")],
                "name": format!("kithd {device}"),
                "serial_number": self.board,
                "manufacturer": "kithd",
                "model": "Face identification",
                "sw_version": version,
            },
            "origin": { "name": "kithd", "sw_version": version },
            "availability": [{
                "topic": topics.status(),
                "payload_available": "online",
                "payload_not_available": "offline",
            }],
            "qos": 1,
            "components": {
                "recognition": {
                    "platform": "event",
                    "unique_id": id("recognition"),
                    "name": "Recognition",
                    "icon": "mdi:face-recognition",
                    "state_topic": topics.results(),
                    "event_types": ["known", "uncertain", "unknown", "no_face", "failed"],
                    "value_template": RECOGNITION,
                },
                "last_face": {
                    "platform": "image",
                    "unique_id": id("last_face"),
                    "name": "Last face",
                    "image_topic": topics.last_face(),
                    "content_type": "image/jpeg",
                    "json_attributes_topic": topics.last_face_origin(),
                },
                "backlog": {
                    "platform": "sensor",
                    "unique_id": id("backlog"),
                    "name": "Backlog",
                    "icon": "mdi:tray-full",
                    "entity_category": "diagnostic",
                    "state_class": "measurement",
                    "unit_of_measurement": "pictures",
                    "state_topic": topics.health(),
                    "value_template": "{{ value_json.queue.pending + value_json.queue.processing }}",
                },
                "breaker": {
                    "platform": "binary_sensor",
                    "unique_id": id("breaker"),
                    "name": "Circuit breaker",
                    "device_class": "problem",
                    "entity_category": "diagnostic",
                    "state_topic": topics.health(),
                    "value_template": BREAKER,
                },
            },
        })
    }
}

/// Template that turns a result into an event's data: its outcome is the event's type.
const RECOGNITION: &str = "{{ {
'event_type': value_json.outcome or 'failed',
'people': value_json.faces | selectattr('outcome', 'eq', 'known') | map(attribute='person.name') | unique | list,
'faces': value_json.faces | length,
'reason': value_json.reason,
'image_id': value_json.image_id,
'result_id': value_json.result_id,
'source': value_json.source,
'camera': value_json.camera,
'event': value_json.event,
'path': value_json.path
} | tojson }}";

/// Template of the breaker: any state but closed is a problem; unknown while there is no engine.
const BREAKER: &str = "{{ 'None' if value_json.engine is none else
'OFF' if value_json.engine.breaker.state == 'closed' else 'ON' }}";
