//! The incoming side: messages waiting to be taken, and their acknowledgements in arrival order.
//! Not for the network: the wire carries the acknowledgements away.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use super::lock;
use super::wire::{Arrival, Client};

/// A message from the broker.
pub struct Delivery {
    /// Full topic name.
    pub topic: String,
    /// The bytes.
    pub payload: Bytes,
    /// Kept by the broker from before we subscribed.
    pub retain: bool,
    /// Sent before, perhaps received before. Some brokers never set it.
    pub redelivered: bool,
    /// MIME type, if the sender named one.
    pub content_type: Option<String>,
    /// Where the sender wants an answer.
    pub response_topic: Option<String>,
    /// What the answer is to carry.
    pub correlation: Option<Vec<u8>>,
    /// To be settled once the message is safe.
    pub ack: Ack,
}

impl Delivery {
    /// Shorthand for `self.ack.settle()`.
    pub fn settle(self) {
        self.ack.settle();
    }
}

impl fmt::Debug for Delivery {
    /// Names the delivery without its payload, which may be a picture.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({}, {} bytes)", self.topic, self.payload.len())
    }
}

/// The right to acknowledge one delivery. Dropped unsettled, neither this message nor any behind it
/// is acknowledged on this connection, and the broker sends them all again on the next one: so
/// settle a refused message too, and hold on to one that shall wait.
#[must_use = "an unsettled delivery holds back every acknowledgement behind it"]
pub struct Ack(Option<(Arc<Acks>, u64)>);

impl Ack {
    /// Acknowledges, now or as soon as everything that arrived earlier is settled.
    /// Without effect when the connection is gone: the broker then sends the message again.
    pub fn settle(self) {
        if let Some((acks, number)) = self.0 {
            acks.settle(number);
        }
    }
}

/// Most acknowledgements that can be owed at once, whatever the messages' size. Mosquitto keeps
/// 1000 messages for a client unless told otherwise.
pub(super) const MOST_OWED: usize = 4096;

/// Acknowledgements owed on one connection.
pub(super) struct Acks {
    client: Client,
    budget: usize,
    owed: Mutex<Owed>,
    emptied: Notify,
}

#[derive(Default)]
struct Owed {
    /// In arrival order.
    queue: VecDeque<Entry>,
    /// Number of the queue's first entry.
    first: u64,
    /// Size of all messages in the queue.
    bytes: usize,
    overflowed: bool,
    closed: bool,
}

struct Entry {
    pkid: u16,
    bytes: usize,
    settled: bool,
}

impl Acks {
    /// `budget` is how many bytes of unsettled messages there may be.
    pub(super) fn new(client: Client, budget: usize) -> Self {
        Self {
            client,
            budget,
            owed: Mutex::default(),
            emptied: Notify::new(),
        }
    }

    /// Notes an arrival. Without an answer there is no room for it, nor for anything behind it on
    /// this connection: see [`Acks::drained`].
    pub(super) fn arrived(self: &Arc<Self>, arrival: &Arrival) -> Option<Ack> {
        if arrival.pkid == 0 {
            return Some(Ack(None));
        }
        let bytes = arrival.payload.len();
        let mut owed = lock(&self.owed);
        let full = owed.queue.len() >= MOST_OWED || owed.bytes + bytes > self.budget;
        if owed.overflowed || (full && !owed.queue.is_empty()) {
            owed.overflowed = true;
            return None;
        }
        owed.queue.push_back(Entry {
            pkid: arrival.pkid,
            bytes,
            settled: false,
        });
        owed.bytes += bytes;
        Some(Ack(Some((
            Arc::clone(self),
            owed.first + owed.queue.len() as u64 - 1,
        ))))
    }

    /// Whether something was turned away for want of room.
    pub(super) fn overflowed(&self) -> bool {
        lock(&self.owed).overflowed
    }

    /// Resolves when something was turned away and everything else is settled: time for a new
    /// connection, on which the broker sends it again.
    pub(super) async fn drained(&self) {
        loop {
            {
                let owed = lock(&self.owed);
                if owed.overflowed && owed.queue.is_empty() {
                    return;
                }
            }
            self.emptied.notified().await;
        }
    }

    pub(super) fn close(&self) {
        lock(&self.owed).closed = true;
    }

    fn settle(&self, number: u64) {
        let mut owed = lock(&self.owed);
        if owed.closed {
            return;
        }
        // Numbers are dense and an unsettled entry never leaves the queue, so this one is in it.
        let index = usize::try_from(number - owed.first).unwrap_or(usize::MAX);
        if let Some(entry) = owed.queue.get_mut(index) {
            entry.settled = true;
        }
        while owed.queue.front().is_some_and(|entry| entry.settled) {
            let Some(entry) = owed.queue.pop_front() else {
                break;
            };
            // The request channel has room for every acknowledgement that can be owed (see
            // connection.rs), so this only fails when the connection is gone, and with it the wish
            // for an acknowledgement.
            self.client.acknowledge(entry.pkid);
            owed.bytes -= entry.bytes;
            owed.first += 1;
        }
        if owed.queue.is_empty() {
            self.emptied.notify_one();
        }
    }
}

/// Messages of the current connection that nobody has taken yet. Emptied when it is lost: the
/// broker sends them again, and taking them twice would only make duplicates.
#[derive(Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Delivery>,
    closed: bool,
}

impl Inbox {
    pub(super) fn push(&self, delivery: Delivery) {
        lock(&self.waiting).queue.push_back(delivery);
        self.changed.notify_one();
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.waiting).queue.len()
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn clear(&self) {
        lock(&self.waiting).queue.clear();
    }

    pub(super) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.changed.notify_one();
    }
}

/// Counts messages sent at QoS 0 that were dropped because too many were waiting.
pub struct Dropped(Arc<Inbox>);

impl Dropped {
    /// So many since the start.
    pub fn count(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

/// The receiving end of the connection, across all its reconnects.
pub struct Deliveries {
    inbox: Arc<Inbox>,
}

impl Deliveries {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox }
    }

    /// The next message; `None` once the connection is stopped. Nothing is lost if the future is
    /// dropped.
    pub async fn recv(&mut self) -> Option<Delivery> {
        loop {
            {
                let mut waiting = lock(&self.inbox.waiting);
                if let Some(delivery) = waiting.queue.pop_front() {
                    return Some(delivery);
                }
                if waiting.closed {
                    return None;
                }
            }
            // `&mut self` makes this the only waiter, and `notify_one` remembers a call made before
            // we wait.
            self.inbox.changed.notified().await;
        }
    }

    /// Counts the messages that are dropped, whoever has the deliveries.
    pub fn dropped(&self) -> Dropped {
        Dropped(Arc::clone(&self.inbox))
    }
}
