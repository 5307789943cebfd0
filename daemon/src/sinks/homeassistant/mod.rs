//! Announces the board to Home Assistant (MQTT integration, device discovery, since 2024.11): one
//! retained message each for the board, its cameras and, where configured, its people. Their
//! entities read the messages of `outbox`, `health` and presence; here only the last face is
//! cleared.

mod discovery;
pub mod listening;
#[cfg(test)]
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kith_mqtt::{Message, PublishError, Publisher, State};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::domain::PersonId;
use crate::status::health::{Condition, Health};
use crate::store::Store;
use crate::topics::Topics;
use discovery::{Announcement, board_object};

/// Fact that holds the topics of all announcements, as JSON.
const ANNOUNCED: &str = "homeassistant_announced";
/// Interval between attempts while the broker refuses, until its configuration changes.
const RETRY: Duration = Duration::from_secs(60);
/// Shortest interval of looking for cameras and names that changed.
const LOOK: Duration = Duration::from_secs(5);
/// Time in which Home Assistant subscribes to the topics of a new announcement.
const SUBSCRIBING: Duration = Duration::from_secs(3);
/// Most people that are announced: Home Assistant evaluates three templates of each whenever anyone
/// comes or goes.
const MOST_PEOPLE: usize = 100;
/// The picture of no face, which stands where the last face is not known any more: Home Assistant
/// answers requests for an empty picture with an error.
const NO_FACE: &[u8] = include_bytes!("no_face.jpg");

/// The board's page as Home Assistant reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its address without a slash at the end.
    pub address: String,
    /// Path of its icon.
    pub icon: String,
    /// True if Home Assistant can fetch pictures there.
    pub pictures: bool,
}

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
    /// The board's page, if other machines can reach it.
    pub page: Option<Page>,
    /// Names of the configured cameras.
    pub cameras: Vec<String>,
    /// True if the breaker may be switched by MQTT.
    pub breaker: bool,
    /// Store of people, of cameras that other systems name, and of the announced topics.
    pub store: Store,
    /// Publisher on the broker.
    pub publisher: Publisher,
    /// State of the connection; each new one gets an announcement.
    pub connection: watch::Receiver<State>,
    /// Changes when Home Assistant has started, and when it listens to something new.
    pub births: watch::Sender<u64>,
    /// Changes when a person was erased, whose face may be the last one shown.
    pub erasures: watch::Receiver<u64>,
    /// Health report of the part.
    pub health: Health,
}

/// Returns the topic on which Home Assistant reports its start.
pub fn birth_topic(prefix: &str) -> String {
    format!("{prefix}/status")
}

/// Messages that Home Assistant should get at the next opportunity.
#[derive(Debug, Default)]
struct Owed {
    /// Every announcement, not only those that changed.
    everything: bool,
    /// The picture of no face.
    no_face: bool,
    /// The same, since the last face may be that of an erased person and no other has replaced it.
    erased: bool,
}

/// The messages that are announced for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum New {
    Nothing,
    /// A camera, a person or the breaker's switch.
    Part,
    /// The board itself.
    Board,
}

impl HomeAssistant {
    /// Announces, and repeats that whenever it may have been lost; or withdraws the announcement
    /// once.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut births = self.births.subscribe();
        let mut commits = self.store.changes();
        let mut sent = BTreeMap::new();
        let mut owed = Owed {
            everything: true,
            ..Owed::default()
        };
        // The moment from which Home Assistant listens to a new announcement's topics, and whether
        // the board itself is new to it.
        let mut welcome: Option<(Instant, bool)> = None;
        loop {
            commits.borrow_and_update();
            let done = tokio::select! {
                done = self.bring_up_to_date(&mut owed, &mut sent) => done,
                () = stop.cancelled() => return Ok(()),
            };
            let retry = match done {
                Ok(new) => {
                    if new != New::Nothing {
                        welcome = Some((Instant::now() + SUBSCRIBING, new == New::Board));
                    }
                    false
                }
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
            let enabled = self.settings.enabled;
            tokio::select! {
                () = tokio::time::sleep(RETRY), if retry => {}
                first = until(welcome), if welcome.is_some() => {
                    welcome = None;
                    owed.no_face |= first;
                    self.births.send_modify(|births| *births += 1);
                    births.borrow_and_update();
                }
                Ok(()) = self.connection.changed() => owed.everything = true,
                Ok(()) = births.changed() => {
                    owed.everything = true;
                    owed.no_face = true;
                }
                Ok(()) = self.erasures.changed() => owed.erased = true,
                () = async {
                    tokio::time::sleep(LOOK).await;
                    if commits.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }, if enabled && !retry => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Publishes what is owed and what has changed since it was sent; returns what Home Assistant
    /// did not know before.
    async fn bring_up_to_date(
        &mut self,
        owed: &mut Owed,
        sent: &mut BTreeMap<String, Vec<u8>>,
    ) -> anyhow::Result<New> {
        let known = self.announced().await?;
        if known.is_empty() && !self.settings.enabled {
            return Ok(New::Nothing);
        }
        // Marks the connection as seen, so that it gets one announcement.
        if self.connection.wait_for(State::is_connected).await.is_err() {
            std::future::pending::<()>().await;
        }
        let wanted = match self.settings.enabled {
            true => self.wanted().await?,
            false => BTreeMap::new(),
        };
        // Stored before the publish: an announcement that is not remembered could not be withdrawn.
        let all: BTreeSet<_> = known.iter().chain(wanted.keys()).cloned().collect();
        if all != known {
            self.remember(&all).await?;
        }
        // A copy of this board's card also brought the topics of the board that it came from.
        let own = format!("/device/{}", board_object(&self.board));
        let old: Vec<_> = all
            .iter()
            .filter(|topic| !wanted.contains_key(*topic))
            .collect();
        for topic in &old {
            if topic.contains(&own) {
                // An empty retained message removes entities and device.
                self.publish(topic, Vec::new(), true).await?;
                tracing::info!("taken back from Home Assistant: {topic}");
            }
            sent.remove(*topic);
        }
        if !old.is_empty() {
            self.remember(&wanted.keys().cloned().collect()).await?;
        }
        let object = board_object(&self.board);
        let board = format!("{}/device/{object}/config", self.settings.prefix);
        let is_new = |topic: &String| !known.contains(topic);
        let new = match wanted.keys().any(is_new) {
            false => New::Nothing,
            true if wanted.contains_key(&board) && is_new(&board) => New::Board,
            true => New::Part,
        };
        for (topic, message) in wanted {
            if owed.everything || sent.get(&topic) != Some(&message) {
                self.publish(&topic, message.clone(), true).await?;
                if !known.contains(&topic) {
                    tracing::info!("announced to Home Assistant: {topic}");
                }
                sent.insert(topic, message);
            }
        }
        owed.everything = false;
        if self.settings.enabled {
            self.clear_face(owed).await?;
            let text = self.told().await?;
            self.health.set("home assistant", Condition::Ok, text);
        }
        Ok(new)
    }

    async fn clear_face(&self, owed: &mut Owed) -> anyhow::Result<()> {
        if !owed.no_face && !owed.erased {
            return Ok(());
        }
        let (face, origin) = (self.topics.last_face(), self.topics.last_face_origin());
        if owed.erased {
            // kithd does not retain faces; a face retained by another client is removed as well.
            self.publish(&face, Vec::new(), true).await?;
        }
        self.publish(&face, NO_FACE.to_vec(), false).await?;
        let nothing = json!({ "image_id": null, "source": null, "camera": null, "event": null });
        self.publish(&origin, nothing.to_string().into_bytes(), false)
            .await?;
        (owed.no_face, owed.erased) = (false, false);
        Ok(())
    }

    /// Returns all announcements by topic.
    async fn wanted(&self) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let mut cameras = self.cameras.clone();
        for camera in self.store.recent_cameras().await? {
            if !cameras.contains(&camera) {
                cameras.push(camera);
            }
        }
        let people: Vec<(PersonId, String)> = match self.settings.people {
            true => self.store.first_people(MOST_PEOPLE).await?,
            false => Vec::new(),
        };
        let announcement = Announcement {
            device: &self.device,
            board: &self.board,
            topics: &self.topics,
            page: self.page.as_ref(),
            cameras: &cameras,
            people: &people,
            breaker: self.breaker,
        };
        let prefix = &self.settings.prefix;
        let topic = |object: String| format!("{prefix}/device/{object}/config");
        Ok(announcement
            .messages()
            .into_iter()
            .map(|(object, message)| (topic(object), message.to_string().into_bytes()))
            .collect())
    }

    /// Returns the health text.
    async fn told(&self) -> anyhow::Result<String> {
        let people = match self.settings.people {
            true => self.store.counts().await?.people,
            false => 0,
        };
        Ok(match people > MOST_PEOPLE as u64 {
            true => format!(
                "announced, with the first {MOST_PEOPLE} of {people} people: more would slow Home \
                 Assistant down"
            ),
            false => "announced".into(),
        })
    }

    async fn announced(&self) -> anyhow::Result<BTreeSet<String>> {
        let known = self.store.fact(ANNOUNCED).await?;
        Ok(known
            .and_then(|known| serde_json::from_str(&known).ok())
            .unwrap_or_default())
    }

    async fn remember(&self, topics: &BTreeSet<String>) -> anyhow::Result<()> {
        Ok(self
            .store
            .set_fact(ANNOUNCED, json!(topics).to_string())
            .await?)
    }

    async fn publish(&self, topic: &str, payload: Vec<u8>, retain: bool) -> anyhow::Result<()> {
        Ok(self
            .publisher
            .publish(Message {
                topic: topic.into(),
                payload,
                retain,
                ..Message::default()
            })
            .await?)
    }
}

/// Waits until the moment, and returns what comes with it.
async fn until<T>(moment: Option<(Instant, T)>) -> T {
    match moment {
        Some((moment, with)) => {
            tokio::time::sleep_until(moment).await;
            with
        }
        None => std::future::pending().await,
    }
}
