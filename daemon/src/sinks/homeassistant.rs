//! Tells Home Assistant what there is: one retained discovery message for the whole device (MQTT
//! integration, device discovery, since 2024.11). Its entities read what `outbox` and `health`
//! publish; nothing else is made for them but the last face.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::mqtt::{Message, PublishError, Publisher, State};
use crate::sinks::former_names::ANNOUNCED;
use crate::status::health::{Condition, Health};
use crate::store::Store;
use crate::topics::Topics;

/// A broker that refuses may be set right.
const RETRY: Duration = Duration::from_secs(60);

/// What the announcing works with.
pub struct HomeAssistant {
    /// Whether and where.
    pub settings: config::HomeAssistant,
    /// The board.
    pub device: String,
    /// Its number.
    pub board: String,
    /// Names of the topics its entities read.
    pub topics: Topics,
    /// Remembers what was announced.
    pub store: Store,
    /// The broker.
    pub publisher: Publisher,
    /// Each new connection is one to announce on.
    pub connection: watch::Receiver<State>,
    /// Changes when Home Assistant has started.
    pub births: watch::Receiver<u64>,
    /// Changes when somebody was erased, whose face may be the last one shown.
    pub erasures: watch::Receiver<u64>,
    /// Where it says how it is.
    pub health: Health,
}

/// The topic on which Home Assistant says that it has started.
pub fn birth_topic(prefix: &str) -> String {
    format!("{prefix}/status")
}

impl HomeAssistant {
    /// Announces, again whenever that may have been lost; or takes back what was announced, once.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        // A face of somebody who was erased may be shown, and none has taken its place.
        let mut clear = false;
        loop {
            self.connection.borrow_and_update();
            self.births.borrow_and_update();
            let up_to_date = async {
                self.bring_up_to_date().await?;
                if clear && self.settings.enabled {
                    // Nothing of the kind was kept by the broker; if something else had it keep
                    // one, it is gone as well.
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
                // An outage is the connection's to report, and the next one is the next try.
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
        // What was announced under a former name may be another board's now; `former_names` looks
        // whose it is.
        let own = |old: &&String| old.ends_with(&format!("/device/kithd_{}/config", self.device));
        if let Some(old) = announced
            .as_ref()
            .filter(own)
            .filter(|old| !self.settings.enabled || **old != topic)
        {
            // An empty retained message is how a device is removed.
            self.publish(old.clone(), Vec::new()).await?;
            self.store.set_fact(ANNOUNCED, String::new()).await?;
            tracing::info!("taken back from Home Assistant: {old}");
        }
        if self.settings.enabled {
            // Before it is out there: what is not remembered could not be taken back.
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

/// A result as the data of an event: its outcome is the event's type.
const RECOGNITION: &str = "{{ {
'event_type': value_json.outcome or 'failed',
'people': value_json.faces | selectattr('outcome', 'eq', 'known') | map(attribute='person.name') | unique | list,
'faces': value_json.faces | length,
'reason': value_json.reason,
'image_id': value_json.image_id,
'result_id': value_json.result_id,
'source': value_json.source,
'path': value_json.path
} | tojson }}";

/// A problem is anything but closed; while there is no engine yet nobody knows.
const BREAKER: &str = "{{ 'None' if value_json.engine is none else
'OFF' if value_json.engine.breaker.state == 'closed' else 'ON' }}";
