//! Exchange of a fleet's records with the broker, over a connection of its own: a full queue of
//! pictures never holds it up.
//!
//! What comes is taken record by record and acknowledged when it is on disk. What changed here is
//! captured, published retained, and marked as sent by its PubAck. After the broker has lost our
//! session it sends all that it retains; what it does not send is put back.
//!
//! Not for what records mean: `record` joins them, `store::fleet` applies them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use kith_mqtt::{Deliveries, Delivery, Message, PublishError, Publisher, Settings, State};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::clock::BoardId;
use super::handle::Fleet;
use super::record::{BoardState, Kind, Record, Uid};
use super::seal::{SEALED_BYTES, Seal, SealError, Secret};
use crate::domain::{hex, wall_clock_ms};
use crate::status::health::{Condition, Health};
use crate::store::{FleetCounts, Membership, Taken, Unsent};
use crate::topics::Topics;

/// Pause after an error.
const RETRY: Duration = Duration::from_secs(10);
/// Debounce: commits come in bursts.
const SETTLE: Duration = Duration::from_millis(200);
/// Time without a retained record after which the broker has sent all it has.
const QUIET: Duration = Duration::from_secs(2);
/// Records taken together, and published together.
const BATCH: usize = 64;
/// Bytes of records published together.
const BATCH_BYTES: usize = 1 << 20;
/// Publishes under way.
const UNDER_WAY: usize = 8;
/// Interval between looks at this board's numbers, and the longest time that others have old ones:
/// each change is a write on every board of the fleet.
const LOOK: Duration = Duration::from_secs(5);
const SAY_AGAIN: Duration = Duration::from_secs(600);
/// Names of boards that are kept with their state on the broker.
const BOARDS: usize = 1000;
/// Topics that are remembered until their records are put back.
const SPOILED: usize = 10_000;
/// Room for topic and properties in a packet.
const PACKET_ROOM: u32 = 4096;
/// Begin of the last level of a topic by which a board learns that the broker has sent everything.
const PROBE: &str = "probe-";
/// Uid of the tombstone that says that this key has ended.
pub(super) const KEY_ENDED: Uid = [0; 16];

pub(super) fn sealed(
    seal: &Seal,
    membership: &Membership,
    record: &Record,
) -> Result<Message, SealError> {
    let Membership { prefix, name, .. } = membership;
    Ok(Message {
        topic: seal.topic(prefix, name, record.kind(), record.uid()),
        payload: seal.seal(record)?,
        retain: true,
        ..Message::default()
    })
}

/// The task that exchanges records with the broker while the board is in a fleet.
#[derive(Clone)]
pub struct Sync {
    /// The handle of page, API and commands.
    pub fleet: Fleet,
    /// Settings of the connection, without subscriptions.
    pub settings: Settings,
    /// Name of the board.
    pub device: String,
    /// Address of its page; empty if it serves none.
    pub page: String,
    /// Health of the part.
    pub health: Health,
}

impl Sync {
    /// Runs until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut joined = self.fleet.joined.subscribe();
        loop {
            joined.mark_unchanged();
            match self.fleet.people.store.fleet().await? {
                None => {
                    self.health
                        .set("fleet", Condition::Off, "this board is in no fleet");
                    tokio::select! {
                        changed = joined.changed() => changed?,
                        () = stop.cancelled() => return Ok(()),
                    }
                }
                Some(membership) => {
                    let ended = async {
                        tokio::select! {
                            _ = joined.changed() => {}
                            () = stop.cancelled() => {}
                        }
                    };
                    self.session(membership, ended).await?;
                    if stop.is_cancelled() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Exchanges records until the membership changes.
    async fn session(
        &self,
        membership: Membership,
        ended: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let seal = Seal::new(&Secret::new(membership.secret));
        let largest = u32::try_from(SEALED_BYTES).unwrap_or(u32::MAX) + PACKET_ROOM;
        let settings = Settings {
            // Another key has other topics, and a session keeps its filters.
            client_id: format!("{}-{}", self.settings.client_id, seal.key_id()),
            subscriptions: vec![states(&membership)],
            once_a_session: vec![seal.filter(&membership.prefix, &membership.name)],
            max_packet_bytes: self.settings.max_packet_bytes.max(4 * largest),
            ..self.settings.clone()
        };
        let (publisher, deliveries, state, connection) = kith_mqtt::connect(settings);
        self.fleet.exchange.lock().publisher = Some(publisher.clone());
        let session = Session {
            sync: self,
            membership: &membership,
            seal: &seal,
            publisher,
            state,
            replay: Mutex::default(),
            spoiled: Mutex::default(),
        };
        let disconnect = CancellationToken::new();
        let exchange = async {
            let ended = tokio::select! {
                () = ended => Ok(()),
                failed = session.receive(deliveries) => failed,
                failed = session.send() => failed,
                failed = session.say_how_it_is() => failed,
                failed = session.watch() => failed,
            };
            disconnect.cancel();
            ended
        };
        let ((), ended) = tokio::join!(connection.run(disconnect.cancelled()), exchange);
        self.fleet.exchange.lock().publisher = None;
        ended
    }
}

/// One membership's exchange.
struct Session<'a> {
    sync: &'a Sync,
    membership: &'a Membership,
    seal: &'a Seal,
    publisher: Publisher,
    state: watch::Receiver<State>,
    replay: Mutex<Replay>,
    /// Last levels of topics whose record was removed or replaced by something else.
    spoiled: Mutex<BTreeSet<String>>,
}

/// What the broker sends of itself after it had no session of ours.
#[derive(Default)]
enum Replay {
    /// It had one.
    #[default]
    None,
    /// It is sending.
    Running {
        came: BTreeSet<(u8, Uid)>,
        last: Instant,
        /// Our probe came back, behind what was retained.
        probed: bool,
    },
    /// It did not have these, which are put back.
    Lost(Vec<(Kind, Uid)>),
}

impl Session<'_> {
    /// Takes what comes.
    async fn receive(&self, mut deliveries: Deliveries) -> anyhow::Result<()> {
        while let Some(first) = deliveries.recv().await {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Some(Some(next)) = deliveries.recv().now_or_never()
            {
                batch.push(next);
            }
            let mut records = Vec::new();
            let mut tails = Vec::new();
            for delivery in &batch {
                if let Some(record) = self.read(delivery) {
                    tails.push(tail_of(&delivery.topic).to_owned());
                    records.push(record);
                }
            }
            self.note_came(&records);
            let taken = loop {
                match self
                    .sync
                    .fleet
                    .people
                    .take_fleet_records(records.clone())
                    .await
                {
                    Ok(taken) => break taken,
                    // Unacknowledged, so the broker has it still.
                    Err(error) => {
                        tracing::warn!("records of the fleet are not taken now: {error:#}");
                        sleep(RETRY).await;
                    }
                }
            };
            for (tail, taken) in tails.iter().zip(taken) {
                if let Taken::Refused(why) = taken {
                    self.sync.fleet.refuse(tail, why);
                }
            }
            batch.into_iter().for_each(Delivery::settle);
        }
        Ok(())
    }

    /// Returns the record in a message, if it holds one that is taken.
    fn read(&self, delivery: &Delivery) -> Option<Record> {
        let Delivery { topic, payload, .. } = delivery;
        let tail = tail_of(topic);
        if kith_mqtt::matches(topic, &states(self.membership)) {
            let board = topic.rsplit('/').nth(1)?.to_owned();
            let mut exchange = self.sync.fleet.exchange.lock();
            if exchange.online.len() < BOARDS || exchange.online.contains_key(&board) {
                exchange.online.insert(board, **payload == *b"online");
            }
            return None;
        }
        if let Some(board) = tail.strip_prefix(PROBE) {
            if board == hex(&self.membership.board.0)
                && let Replay::Running { probed, .. } = &mut *self.replay.lock()
            {
                *probed = true;
            }
            return None;
        }
        if payload.is_empty() {
            self.note_spoiled(tail);
            return None;
        }
        match self.seal.open(tail, payload) {
            Ok(record) if *record.uid() == KEY_ENDED => {
                self.sync.fleet.exchange.lock().key_ended = true;
                None
            }
            Ok(record) => Some(record),
            Err(why) => {
                self.note_spoiled(tail);
                self.sync.fleet.refuse(tail, why.to_string());
                None
            }
        }
    }

    fn note_spoiled(&self, tail: &str) {
        let mut spoiled = self.spoiled.lock();
        if spoiled.len() < SPOILED {
            spoiled.insert(tail.to_owned());
        }
    }

    /// Puts back records that were removed from the broker or replaced there.
    async fn mend(&self) -> anyhow::Result<()> {
        let spoiled = std::mem::take(&mut *self.spoiled.lock());
        if spoiled.is_empty() {
            return Ok(());
        }
        let store = &self.sync.fleet.people.store;
        let mut lost = store.sent_fleet_records().await?;
        lost.retain(|(kind, uid)| spoiled.contains(&self.seal.tail(*kind, uid)));
        store.put_fleet_records_back(lost).await?;
        Ok(())
    }

    fn note_came(&self, records: &[Record]) {
        if let Replay::Running { came, last, .. } = &mut *self.replay.lock() {
            *last = Instant::now();
            let ids = records.iter();
            came.extend(ids.map(|record| (record.kind() as u8, *record.uid())));
        }
    }

    /// Publishes what the broker does not have.
    async fn send(&self) -> anyhow::Result<()> {
        let (people, store) = (&self.sync.fleet.people, &self.sync.fleet.people.store);
        let mut changes = store.changes();
        loop {
            changes.mark_unchanged();
            if self.publisher.connected().await.is_err() {
                return Ok(());
            }
            if self.sync.fleet.exchange.lock().key_ended {
                // What is sent would be read by nobody who joined again.
                std::future::pending::<()>().await;
            }
            if store.fleet_has_changes().await? {
                let captured = people.capture_fleet().await?;
                for why in captured.refused {
                    self.sync.fleet.refuse("", why);
                }
            }
            let unsent = store.unsent_fleet_records(BATCH, BATCH_BYTES).await?;
            if !unsent.is_empty() {
                if let Err(error) = self.publish(unsent).await {
                    self.trouble(Some(format!(
                        "records are not sent now: {error}; tried again"
                    )));
                    sleep(RETRY).await;
                } else {
                    self.trouble(None);
                }
                continue;
            }
            if let Some(chunk) = self.lost() {
                store.put_fleet_records_back(chunk).await?;
                continue;
            }
            if let Some(former) = store.former_fleet_secret().await? {
                match self.remove_under(&Seal::new(&Secret::new(former))).await {
                    Ok(()) => store.forget_former_fleet_secret().await?,
                    Err(error) => {
                        let text =
                            format!("records under the former key are not removed now: {error:#}");
                        self.trouble(Some(text));
                        sleep(RETRY).await;
                    }
                }
                continue;
            }
            // Notifies also while a replay that lost something ends.
            let replaying = !matches!(*self.replay.lock(), Replay::None);
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    sleep(SETTLE).await;
                }
                () = sleep(SETTLE), if replaying => {}
            }
        }
    }

    async fn publish(&self, unsent: Vec<Unsent>) -> anyhow::Result<()> {
        let publishes = unsent
            .into_iter()
            .map(|Unsent { record, digest }| async move {
                let message = sealed(self.seal, self.membership, &record)?;
                match self.publisher.publish(message).await {
                    Ok(()) => {}
                    // It never fits: the others go on, and the operator is told.
                    Err(error @ PublishError::TooLarge { .. }) => {
                        let tail = self.seal.tail(record.kind(), record.uid());
                        self.sync.fleet.refuse(&tail, error.to_string());
                    }
                    Err(error) => return Err(error.into()),
                }
                anyhow::Ok((record.kind(), *record.uid(), digest))
            });
        let mut published = stream::iter(publishes).buffered(UNDER_WAY);
        let (mut sent, mut failed) = (Vec::new(), None);
        while let Some(one) = published.next().await {
            match one {
                Ok(one) => sent.push(one),
                Err(error) => failed = Some(error),
            }
        }
        self.sync
            .fleet
            .people
            .store
            .fleet_records_sent(sent)
            .await?;
        failed.map_or(Ok(()), Err)
    }

    /// Removes from the broker what it retains under a former key, besides the word that it ended.
    async fn remove_under(&self, former: &Seal) -> anyhow::Result<()> {
        let Membership { prefix, name, .. } = self.membership;
        let all = self.sync.fleet.people.store.sent_fleet_records().await?;
        let removals = all.into_iter().map(|(kind, uid)| {
            self.publisher.publish(Message {
                topic: former.topic(prefix, name, kind, &uid),
                retain: true,
                ..Message::default()
            })
        });
        let mut removals = stream::iter(removals).buffered(UNDER_WAY);
        while let Some(removed) = removals.next().await {
            removed?;
        }
        Ok(())
    }

    /// Returns the next records that the broker has lost and that no other board has put back yet.
    fn lost(&self) -> Option<Vec<(Kind, Uid)>> {
        let mut replay = self.replay.lock();
        let Replay::Lost(lost) = &mut *replay else {
            return None;
        };
        let chunk = lost.split_off(lost.len().saturating_sub(BATCH));
        if chunk.is_empty() {
            *replay = Replay::None;
            return None;
        }
        Some(chunk)
    }

    /// Follows the connection: asks for the end of what the broker retains, and finds what is not
    /// among it.
    async fn watch(&self) -> anyhow::Result<()> {
        const FORGOT: State = State::Connected {
            session_present: false,
        };
        let mut state = self.state.clone();
        let mut changed = true;
        loop {
            let now = state.borrow_and_update().clone();
            if changed && now == FORGOT {
                *self.replay.lock() = Replay::Running {
                    came: BTreeSet::new(),
                    last: Instant::now(),
                    probed: false,
                };
                let probe = Message {
                    topic: self.probe(),
                    payload: b"probe".to_vec(),
                    ..Message::default()
                };
                // Lost with the connection, and the next one asks again.
                let _ = self.publisher.publish(probe).await;
            }
            self.show(&now).await?;
            changed = tokio::select! {
                stays = state.changed() => {
                    if stays.is_err() {
                        return Ok(());
                    }
                    true
                }
                () = sleep(QUIET / 2) => false,
            };
            self.end_replay().await?;
            self.mend().await?;
        }
    }

    fn probe(&self) -> String {
        let Membership {
            prefix,
            name,
            board,
            ..
        } = self.membership;
        format!(
            "{prefix}/fleet/{name}/{}/{PROBE}{}",
            self.seal.key_id(),
            hex(&board.0)
        )
    }

    async fn end_replay(&self) -> anyhow::Result<()> {
        let came = match &mut *self.replay.lock() {
            Replay::Running { came, last, probed } if *probed && last.elapsed() >= QUIET => {
                std::mem::take(came)
            }
            _ => return Ok(()),
        };
        let all = self.sync.fleet.people.store.sent_fleet_records().await?;
        let mut lost: Vec<_> = all
            .into_iter()
            .filter(|(kind, uid)| !came.contains(&(*kind as u8, *uid)))
            .collect();
        // Each board begins elsewhere, so that many put back a wiped broker's records together.
        lost.sort_unstable_by_key(|(_, uid)| *uid);
        let first = lost.partition_point(|(_, uid)| uid[..8] < self.membership.board.0[..]);
        lost.rotate_left(first);
        if !lost.is_empty() {
            tracing::info!(
                "the broker has lost {} records of the fleet; they are put back",
                lost.len()
            );
        }
        *self.replay.lock() = Replay::Lost(lost);
        Ok(())
    }

    /// Says how this board is, when it changes and now and then.
    async fn say_how_it_is(&self) -> anyhow::Result<()> {
        let people = &self.sync.fleet.people;
        let mut said: Option<(Instant, FleetCounts)> = None;
        loop {
            let counts = people.store.fleet_counts().await?.unwrap_or_default();
            let due = said.as_ref().is_none_or(|(at, before)| {
                at.elapsed() >= SAY_AGAIN
                    || (
                        counts.people,
                        counts.pictures,
                        counts.of_people,
                        counts.of_pictures,
                    ) != (
                        before.people,
                        before.pictures,
                        before.of_people,
                        before.of_pictures,
                    )
            });
            if due {
                let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
                let state = BoardState {
                    name: self.sync.device.clone(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    pack: people.engines.report().primary.pack,
                    people: number(counts.people),
                    pictures: number(counts.pictures),
                    of_people: number(counts.of_people),
                    of_pictures: number(counts.of_pictures),
                    waiting: number(counts.waiting),
                    last_result_ms: people.store.last_result_ms().await?,
                    page: self.sync.page.clone(),
                    at_ms: wall_clock_ms(),
                };
                people.say_in_fleet(state).await?;
                said = Some((Instant::now(), counts));
            }
            sleep(LOOK).await;
        }
    }

    fn trouble(&self, trouble: Option<String>) {
        self.sync.fleet.exchange.lock().trouble = trouble;
    }

    async fn show(&self, state: &State) -> anyhow::Result<()> {
        let name = &self.membership.name;
        let (key_ended, trouble) = {
            let exchange = self.sync.fleet.exchange.lock();
            (exchange.key_ended, exchange.trouble.clone())
        };
        let (condition, text) = if key_ended {
            let text = format!(
                "the key of the fleet {name} was changed on another board; this one joins again by `kithd fleet join` with the \
                 new code"
            );
            (Condition::Degraded, text)
        } else if !state.is_connected() {
            (
                Condition::Degraded,
                format!("fleet {name}: {state}; changes wait"),
            )
        } else if let Some(trouble) = trouble {
            (Condition::Degraded, format!("fleet {name}: {trouble}"))
        } else {
            let counts = self.sync.fleet.people.store.fleet_counts().await?;
            let FleetCounts {
                people,
                of_people,
                pictures,
                of_pictures,
                waiting,
                ..
            } = counts.unwrap_or_default();
            let text = format!(
                "fleet {name}: {people} of {of_people} people, {pictures} of {of_pictures} pictures, {waiting} records to send"
            );
            (Condition::Ok, text)
        };
        self.sync.health.set("fleet", condition, text);
        Ok(())
    }
}

/// Returns the filter for the states of all boards.
fn states(membership: &Membership) -> String {
    Topics::new(&membership.prefix, "+").status()
}

/// Returns the last level of a topic.
fn tail_of(topic: &str) -> &str {
    topic.rsplit('/').next().unwrap_or(topic)
}

/// Draws the number by which a board names its stamps. `None`: the system gives no random numbers.
pub fn random_board() -> Option<BoardId> {
    let secret = Secret::random()?;
    let mut board = [0; 8];
    board.copy_from_slice(&secret.bytes()[..8]);
    Some(BoardId(board))
}

#[cfg(test)]
mod tests;
