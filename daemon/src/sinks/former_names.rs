//! Cleans up what this board left at the broker under a former name: takes the messages waiting in
//! its session, ends the session, and removes the retained state. A name that another board uses
//! stays untouched. Home Assistant knows the board by its number, whatever its name.
//!
//! The retained health tells who owns a name, by a number derived from this database and this
//! board, so a copied card in another board counts as another board.

use std::collections::BTreeMap;
use std::time::Duration;

use kith_mqtt::{Message, Settings, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::domain::hex;
use crate::sources::mqtt::{Door, Kind, Subscription};
use crate::status::health::{Condition, Health};
use crate::store::{Store, StoreError};
use crate::topics::Topics;

/// Facts that hold every name with something left at the broker, and this database's number.
const NAMES: &str = "mqtt_names";
const NUMBER: &str = "board_number";
/// Interval between attempts while the broker is away or a name is in use.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);
/// Quiet time after which no more messages are expected: retained messages follow right after the
/// subscription, and a session's messages right after the connection.
const SILENCE: Duration = Duration::from_secs(3);

/// A name: the topics' prefix, and the board's name in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    prefix: String,
    device: String,
}

/// Names to be cleared, with the task's dependencies.
#[derive(Clone)]
pub struct FormerNames {
    /// Store of the names.
    pub store: Store,
    /// Health report of the part.
    pub health: Health,
    /// Takes the messages that wait in an old session.
    pub door: Door,
    /// Settings of this board's connections; the client id differs.
    pub settings: Settings,
    /// Number of this board.
    pub board: String,
    /// Names with something left at the broker.
    pub names: Vec<Name>,
}

/// Returns the number of this board with this database, the same at each start.
pub async fn board_number(store: &Store) -> Result<String, StoreError> {
    let number = match store.fact(NUMBER).await? {
        Some(number) => number,
        None => {
            let number = uuid::Uuid::now_v7().simple().to_string();
            // On a full disk the next start draws another.
            if let Err(error) = store.set_fact(NUMBER, number.clone()).await {
                tracing::warn!("this board's number is not stored: {error}");
            }
            number
        }
    };
    let hardware = hardware().unwrap_or_default();
    Ok(hex(&Sha256::digest(format!("{number} {hardware}")))[..16].to_owned())
}

/// Returns an identity that a copy of the card in another board does not share: the serial number,
/// or the network card's address.
fn hardware() -> Option<String> {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).ok();
    if let Some(serial) = read("/sys/firmware/devicetree/base/serial-number".as_ref()) {
        return Some(serial);
    }
    let interfaces = std::fs::read_dir("/sys/class/net")
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    let mut cards: Vec<_> = interfaces
        .filter(|path| path.join("device").exists())
        .collect();
    cards.sort();
    cards.iter().find_map(|card| read(&card.join("address")))
}

/// Stores the current name and returns the former ones.
pub async fn remember(store: &Store, prefix: &str, device: &str) -> Result<Vec<Name>, StoreError> {
    let known = names(store).await?;
    let now = Name {
        prefix: prefix.into(),
        device: device.into(),
    };
    let mut former = known.clone();
    former.retain(|name| *name != now);
    let all: Vec<_> = former.iter().cloned().chain([now]).collect();
    // On a full disk the board works under its name all the same, and the next start stores it.
    if all != known
        && let Err(error) = save(store, all).await
    {
        tracing::warn!("this board's name is not stored: {error}");
    }
    Ok(former)
}

/// Fact that holds the filters a client once subscribed to.
pub fn subscribed_fact(client_id: &str) -> String {
    format!("subscribed_{client_id}")
}

/// Returns filters that a client once subscribed to, in a session that the broker may have kept.
pub async fn subscribed(store: &Store, client_id: &str) -> Result<Vec<String>, StoreError> {
    let known = store.fact(&subscribed_fact(client_id)).await?;
    Ok(known
        .and_then(|known| serde_json::from_str(&known).ok())
        .unwrap_or_default())
}

async fn names(store: &Store) -> Result<Vec<Name>, StoreError> {
    let known = store.fact(NAMES).await?;
    Ok(known
        .and_then(|known| serde_json::from_str(&known).ok())
        .unwrap_or_default())
}

async fn save(store: &Store, names: Vec<Name>) -> Result<(), StoreError> {
    store
        .set_fact(NAMES, serde_json::json!(names).to_string())
        .await
}

/// State found under a former name.
enum Found {
    /// Nothing is left.
    Cleared,
    /// Another board uses the name.
    Foreign,
    /// A board with our number is online under it; perhaps the broker has not noticed yet that we
    /// left.
    InUse,
}

impl FormerNames {
    /// Clears the names one after another until nothing is left, then waits for the stop.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        while !self.names.is_empty() {
            let round = async {
                let mut left = Vec::new();
                for name in std::mem::take(&mut self.names) {
                    if self.look_after(&name).await {
                        left.push(name);
                    }
                }
                self.names = left;
                sleep(LOOK_AGAIN).await;
            };
            if stop.run_until_cancelled(round).await.is_none() {
                return Ok(());
            }
        }
        stop.cancelled().await;
        Ok(())
    }

    /// Clears one name; returns whether something may be left of it.
    async fn look_after(&self, name: &Name) -> bool {
        let of = format!("{}/{}", name.prefix, name.device);
        let part = "former names";
        let text = match self.clear(name).await {
            Ok(Found::InUse) => {
                format!(
                    "the former name {of} is still in use, so kithd clears nothing of it at the \
                     broker and checks again"
                )
            }
            Ok(found) => {
                if let Err(error) = self.forget(name).await {
                    tracing::warn!("{part}: {error}");
                }
                let text = match found {
                    Found::Foreign => {
                        format!(
                            "{of} is another board's name now; kithd touched nothing of it at the \
                             broker"
                        )
                    }
                    _ => format!("nothing is left of {of} at the broker"),
                };
                tracing::info!("{text}");
                self.health.set(part, Condition::Ok, text);
                return false;
            }
            Err(why) => format!(
                "the former name {of} could not be cleared at the broker: {why}; kithd tries again"
            ),
        };
        if self.health.set(part, Condition::Degraded, text.as_str()) {
            tracing::warn!("{text}");
        }
        true
    }

    async fn forget(&self, name: &Name) -> Result<(), StoreError> {
        let mut known = names(&self.store).await?;
        known.retain(|known| (&known.prefix, &known.device) != (&name.prefix, &name.device));
        save(&self.store, known).await
    }

    async fn clear(&self, name: &Name) -> anyhow::Result<Found> {
        let topics = Topics::new(&name.prefix, &name.device);
        let kept = self
            .retained(vec![topics.status(), topics.health()])
            .await?;
        let json = |topic: &str| {
            kept.get(topic)
                .and_then(|payload| serde_json::from_slice::<Value>(payload).ok())
        };
        let Some(health) = json(&topics.health()) else {
            // No board used the name, or the broker has forgotten it.
            return Ok(Found::Cleared);
        };
        if health["board"] != self.board.as_str() {
            return Ok(Found::Foreign);
        }
        if kept
            .get(&topics.status())
            .is_some_and(|status| status == b"online")
        {
            return Ok(Found::InUse);
        }
        for client in ["", "-shared"] {
            self.empty_session(name, &format!("kithd-{}{client}", name.device))
                .await?;
        }
        self.remove(vec![topics.status(), topics.health()]).await?;
        Ok(Found::Cleared)
    }

    /// Returns settings for a separate connection without a session.
    fn visit(&self, subscriptions: Vec<String>) -> Settings {
        let client_id = format!("{}-former", self.settings.client_id);
        Settings {
            client_id,
            session_expiry: Duration::ZERO,
            subscriptions,
            ..self.settings.clone()
        }
    }

    /// Returns the retained messages on these topics.
    async fn retained(&self, topics: Vec<String>) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let (_publisher, mut deliveries, state, connection) =
            kith_mqtt::connect(self.visit(topics));
        let (over, stop) = oneshot::channel::<()>();
        let work = async {
            let connected = connected(state).await;
            let mut kept = BTreeMap::new();
            while connected.is_ok()
                && let Ok(Some(delivery)) = timeout(SILENCE, deliveries.recv()).await
            {
                if delivery.retain {
                    kept.insert(delivery.topic.clone(), delivery.payload.to_vec());
                }
                delivery.settle();
            }
            drop(over);
            connected.map(|()| kept)
        };
        tokio::join!(work, connection.run(async { _ = stop.await })).0
    }

    /// Takes the messages waiting in a session and ends it.
    async fn empty_session(&self, name: &Name, client_id: &str) -> anyhow::Result<()> {
        let topics = Topics::new(&name.prefix, &name.device);
        let own = |filter, kind| Subscription { filter, kind };
        let mut door = self.door.clone();
        door.subscriptions.extend([
            own(topics.paths(), Kind::Paths),
            own(topics.pictures(), Kind::Pictures),
        ]);
        let unsubscribe = subscribed(&self.store, client_id).await?;
        let settings = Settings {
            client_id: client_id.to_owned(),
            unsubscribe,
            ..self.settings.clone()
        };
        let ending = Settings {
            session_expiry: Duration::ZERO,
            unsubscribe: Vec::new(),
            ..settings.clone()
        };

        let (_publisher, mut deliveries, state, connection) = kith_mqtt::connect(settings);
        let (over, stop) = oneshot::channel::<()>();
        let work = async {
            let connected = connected(state).await;
            while connected.is_ok()
                && let Ok(Some(delivery)) = timeout(SILENCE, deliveries.recv()).await
            {
                door.accept(delivery).await;
            }
            drop(over);
            connected
        };
        tokio::join!(work, connection.run(async { _ = stop.await })).0?;

        let (_publisher, _deliveries, state, connection) = kith_mqtt::connect(ending);
        let (over, stop) = oneshot::channel::<()>();
        let work = async {
            let connected = connected(state).await;
            drop(over);
            connected
        };
        tokio::join!(work, connection.run(async { _ = stop.await })).0
    }

    /// Removes the retained messages on these topics.
    async fn remove(&self, topics: Vec<String>) -> anyhow::Result<()> {
        let (publisher, _deliveries, state, connection) =
            kith_mqtt::connect(self.visit(Vec::new()));
        let (over, stop) = oneshot::channel::<()>();
        let work = async {
            let removed = async {
                connected(state).await?;
                for topic in topics {
                    publisher
                        .publish(Message {
                            topic,
                            retain: true,
                            ..Message::default()
                        })
                        .await?;
                }
                anyhow::Ok(())
            };
            let removed = removed.await;
            drop(over);
            removed
        };
        tokio::join!(work, connection.run(async { _ = stop.await })).0
    }
}

async fn connected(mut state: tokio::sync::watch::Receiver<State>) -> anyhow::Result<()> {
    let up = timeout(PATIENCE, state.wait_for(State::is_connected))
        .await
        .is_ok_and(|state| state.is_ok());
    let why = state.borrow().to_string();
    anyhow::ensure!(up, why);
    Ok(())
}
