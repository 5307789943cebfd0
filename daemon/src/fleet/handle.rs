//! This board's part in a fleet, for the page, the API and commands: joining, leaving, a new key, and
//! a report of all boards.
//!
//! Not for the exchange of records: `sync` does that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kith_mqtt::Publisher;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::code::JoinCode;
use super::record::{BoardState, Kind, Record, board_uid};
use super::seal::{Seal, Secret};
use super::sync::{KEY_ENDED, random_board, sealed};
use crate::domain::{PersonId, wall_clock_ms};
use crate::people::People;
use crate::store::Membership;

/// Longest wait for the last word of a board that leaves.
const FAREWELL: Duration = Duration::from_secs(5);
/// Refused messages that are kept for the operator, the newest.
const REFUSED: usize = 20;

/// This board's part in a fleet, for the page, the API and commands; clones share it.
#[derive(Clone)]
pub struct Fleet {
    pub(super) people: People,
    place: Option<Place>,
    /// Changes when the board joins a fleet or leaves it, or the key changes.
    pub(super) joined: watch::Sender<u64>,
    pub(super) exchange: Arc<Mutex<Exchange>>,
}

/// Where the boards of a fleet meet.
#[derive(Debug, Clone)]
pub struct Place {
    /// Prefix of all topics.
    pub prefix: String,
    /// Address of the broker.
    pub broker: String,
}

/// What is known of the exchange with the broker.
#[derive(Default)]
pub(super) struct Exchange {
    pub publisher: Option<Publisher>,
    /// State of each board on the broker by name: true while it is online.
    pub online: BTreeMap<String, bool>,
    pub refused: Vec<Refused>,
    pub refusals: u64,
    /// The key was changed on another board.
    pub key_ended: bool,
    pub trouble: Option<String>,
}

/// A message of the fleet that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Refused {
    /// Wall clock.
    pub at_ms: i64,
    /// Last level of its topic.
    pub topic: String,
    /// A sentence.
    pub reason: String,
}

/// A board of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct FleetBoard {
    /// It is the board that answers.
    pub here: bool,
    /// Online by its state on the broker; null while that is unknown.
    pub online: Option<bool>,
    /// Its name.
    pub name: String,
    /// Version of kithd.
    pub version: String,
    /// Model pack in use.
    pub pack: String,
    /// People of the fleet that it has.
    pub people: u32,
    /// Of how many.
    pub of_people: u32,
    /// Pictures of them that it has.
    pub pictures: u32,
    /// Of how many.
    pub of_pictures: u32,
    /// Records that it has not sent yet.
    pub waiting: u32,
    /// Its last result, wall clock of that board.
    pub last_result_ms: Option<i64>,
    /// Address of its page; empty if it serves none.
    pub page: String,
    /// When it said so, wall clock of that board.
    pub at_ms: i64,
}

/// The fleet as this board sees it.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct FleetReport {
    /// Name of the fleet.
    pub name: String,
    /// Address of the broker in its join code.
    pub broker: String,
    /// All boards by name.
    pub boards: Vec<FleetBoard>,
    /// People of one name who may be one, each list a question: number and name.
    pub questions: Vec<Vec<AskedPerson>>,
    /// Records that wait to be sent.
    pub waiting: u64,
    /// Number of messages that were refused since the start.
    pub refusals: u64,
    /// The newest of them.
    pub refused: Vec<Refused>,
    /// Why the exchange does not work now, a sentence.
    pub trouble: Option<String>,
}

/// A person of a question.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct AskedPerson {
    /// Number of the person.
    pub person_id: PersonId,
    /// Name by which the person is shown.
    pub name: String,
}

/// Outcome of joining a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joining {
    /// The board is a member now.
    Joined,
    /// It was a member, and has the new key now.
    Rekeyed,
    /// It is a member of another fleet, of this name.
    InAnother,
}

impl Fleet {
    /// Makes the handle. `place`: where the boards of a new fleet meet; `None`: MQTT is switched
    /// off.
    pub fn new(people: People, place: Option<Place>) -> Self {
        Self {
            people,
            place,
            joined: watch::Sender::default(),
            exchange: Arc::default(),
        }
    }

    /// Returns where boards meet; the error is a sentence.
    pub fn meet(&self) -> Result<&Place, &'static str> {
        self.place.as_ref().ok_or(
            "MQTT is switched off on this board, and a fleet shares its people through the broker; set mqtt.enabled = true",
        )
    }

    /// Makes the code of a new fleet.
    pub fn new_code(&self, name: String) -> anyhow::Result<JoinCode> {
        let Place { prefix, broker } = self.meet().map_err(anyhow::Error::msg)?.clone();
        let secret = Secret::random().context("the system gives no random numbers")?;
        Ok(JoinCode::new(name, secret, prefix, broker)?)
    }

    /// Returns this board's broker, if the code names another one.
    pub fn other_broker(&self, code: &JoinCode) -> Option<&str> {
        let own = self.place.as_ref()?.broker.as_str();
        (own != code.broker()).then_some(own)
    }

    /// Makes the board a member, or gives a member the fleet's new key.
    pub async fn join(&self, code: &JoinCode) -> anyhow::Result<Joining> {
        let secret = *code.secret().bytes();
        let joined = match self.people.store.fleet().await? {
            None => {
                let board = random_board().context("the system gives no random numbers")?;
                let membership = Membership {
                    name: code.name().into(),
                    prefix: code.prefix().into(),
                    broker: code.broker().into(),
                    secret,
                    board,
                };
                self.people.join_fleet(membership).await?;
                Joining::Joined
            }
            Some(now) if now.name == code.name() && now.prefix == code.prefix() => {
                self.people.store.rekey_fleet(secret, false).await?;
                Joining::Rekeyed
            }
            Some(_) => return Ok(Joining::InAnother),
        };
        self.begin_anew();
        Ok(joined)
    }

    /// Returns the join code; `None` if the board is in no fleet.
    pub async fn code(&self) -> anyhow::Result<Option<JoinCode>> {
        let Some(Membership {
            name,
            prefix,
            broker,
            secret,
            ..
        }) = self.people.store.fleet().await?
        else {
            return Ok(None);
        };
        Ok(Some(JoinCode::new(
            name,
            Secret::new(secret),
            prefix,
            broker,
        )?))
    }

    /// Ends the membership, after telling the others as far as the broker can be reached. False if
    /// the board is in no fleet.
    pub async fn leave(&self, keep: bool) -> anyhow::Result<bool> {
        let Some(membership) = self.people.store.fleet().await? else {
            return Ok(false);
        };
        let gone = Record::tombstone(Kind::Board, board_uid(membership.board), 0);
        if let Err(error) = self.say(&membership, &gone).await {
            tracing::warn!("the fleet was not told that this board left: {error:#}");
        }
        let left = self.people.leave_fleet(keep).await?;
        self.begin_anew();
        Ok(left)
    }

    /// Gives the fleet another key, with which every other board has to join again. What lies at the
    /// broker under the former key is replaced by a word that the key has ended. `None` if the board
    /// is in no fleet.
    pub async fn rotate_key(&self) -> anyhow::Result<Option<JoinCode>> {
        let Some(membership) = self.people.store.fleet().await? else {
            return Ok(None);
        };
        let secret = Secret::random().context("the system gives no random numbers")?;
        let ended = Record::tombstone(Kind::Board, KEY_ENDED, 0);
        // Before anything changes: boards that do not know of the end would put back what is
        // removed.
        self.say(&membership, &ended).await.context(
            "the key is unchanged, because the broker cannot be told that the former one ends",
        )?;
        self.people.store.rekey_fleet(*secret.bytes(), true).await?;
        self.begin_anew();
        self.code().await
    }

    /// Returns the fleet as this board sees it; `None` when it is in none.
    pub async fn report(&self) -> anyhow::Result<Option<FleetReport>> {
        let store = &self.people.store;
        let Some(membership) = store.fleet().await? else {
            return Ok(None);
        };
        let counts = store.fleet_counts().await?.unwrap_or_default();
        let here = board_uid(membership.board);
        let records = store.fleet_boards().await?;
        let questions = store.fleet_questions().await?.into_iter().map(|question| {
            let asked = question.people.into_iter();
            asked
                .map(|(person_id, name)| AskedPerson { person_id, name })
                .collect()
        });
        let exchange = self.exchange.lock();
        let boards = records.iter().filter_map(|record| {
            let state = &record.board()?.state.value;
            Some(board(state, *record.uid() == here, &exchange.online))
        });
        let mut boards: Vec<_> = boards.collect();
        boards.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(FleetReport {
            name: membership.name,
            broker: membership.broker,
            boards,
            questions: questions.collect(),
            waiting: counts.waiting + counts.uncaptured,
            refusals: exchange.refusals,
            refused: exchange.refused.clone(),
            trouble: exchange.trouble.clone(),
        }))
    }

    fn begin_anew(&self) {
        *self.exchange.lock() = Exchange::default();
        self.joined.send_modify(|times| *times += 1);
    }

    /// Publishes one record now.
    async fn say(&self, membership: &Membership, record: &Record) -> anyhow::Result<()> {
        let publisher = self.exchange.lock().publisher.clone();
        let publisher = publisher.context("there is no connection to the broker")?;
        let message = sealed(
            &Seal::new(&Secret::new(membership.secret)),
            membership,
            record,
        )?;
        timeout(FAREWELL, publisher.publish(message))
            .await
            .context("the broker does not answer")??;
        Ok(())
    }

    pub(super) fn refuse(&self, topic: &str, reason: String) {
        tracing::warn!(topic, "a message of the fleet was refused: {reason}");
        let mut exchange = self.exchange.lock();
        exchange.refusals += 1;
        let at_ms = wall_clock_ms();
        let topic = topic.to_owned();
        exchange.refused.insert(
            0,
            Refused {
                at_ms,
                topic,
                reason,
            },
        );
        exchange.refused.truncate(REFUSED);
    }
}

fn board(state: &BoardState, here: bool, online: &BTreeMap<String, bool>) -> FleetBoard {
    FleetBoard {
        here,
        online: if here {
            Some(true)
        } else {
            online.get(&state.name).copied()
        },
        name: state.name.clone(),
        version: state.version.clone(),
        pack: state.pack.clone(),
        people: state.people,
        of_people: state.of_people,
        pictures: state.pictures,
        of_pictures: state.of_pictures,
        waiting: state.waiting,
        last_result_ms: state.last_result_ms,
        page: state.page.clone(),
        at_ms: state.at_ms,
    }
}
