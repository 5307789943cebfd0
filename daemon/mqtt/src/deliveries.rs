//! The incoming side: messages waiting to be taken, and their acknowledgements in arrival order.
//! `wire` sends the acknowledgements.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::wire::{Arrival, Client};

/// A message from the broker.
pub struct Delivery {
    /// Full topic name.
    pub topic: String,
    /// Payload bytes.
    pub payload: Bytes,
    /// The broker retained it before this subscription.
    pub retain: bool,
    /// Sent before, and perhaps received before. Some brokers never set it.
    pub redelivered: bool,
    /// MIME type, if the sender named one.
    pub content_type: Option<String>,
    /// Topic for the response, if the sender wants one.
    pub response_topic: Option<String>,
    /// Correlation data for the response.
    pub correlation: Option<Vec<u8>>,
    /// To be settled once the message is safe.
    pub ack: Ack,
    /// Its place in memory.
    pub(super) _held: Held,
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

/// The right to acknowledge one delivery.
///
/// If it is dropped unsettled, neither this message nor any behind it is acknowledged on this
/// connection, and the broker sends them all again on the next one. So settle a refused message
/// too, and keep the `Ack` of one that must wait.
#[must_use = "an unsettled delivery holds back every acknowledgement behind it"]
pub struct Ack(Option<(Arc<Acks>, u64)>);

impl Ack {
    /// Acknowledges now, or as soon as everything that arrived earlier is settled. Has no effect
    /// when the connection is gone: the broker then sends the message again.
    pub fn settle(self) {
        if let Some((acks, number)) = self.0 {
            acks.settle(number);
        }
    }
}

/// Most acknowledgements owed at once, whatever the messages' size. Mosquitto queues 1000 messages
/// per client by default.
pub(super) const MOST_OWED: usize = 4096;

/// Acknowledgements owed on one connection.
pub(super) struct Acks {
    client: Client,
    owed: Mutex<Owed>,
    emptied: Notify,
}

#[derive(Default)]
struct Owed {
    /// Entries in arrival order.
    queue: VecDeque<Entry>,
    /// Number of the queue's first entry.
    first: u64,
    overflowed: bool,
    closed: bool,
}

struct Entry {
    pkid: u16,
    settled: bool,
}

impl Acks {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            owed: Mutex::default(),
            emptied: Notify::new(),
        }
    }

    /// Notes an arrival; `capacity` says whether memory has room for it. Returns `None` when it is
    /// turned away, and so is everything behind it on this connection: see [`Acks::drained`].
    pub(super) fn arrived(self: &Arc<Self>, arrival: &Arrival, capacity: bool) -> Option<Ack> {
        if arrival.pkid == 0 {
            return Some(Ack(None));
        }
        let mut owed = self.owed.lock();
        if owed.overflowed || !capacity || owed.queue.len() >= MOST_OWED {
            owed.overflowed = true;
            if owed.queue.is_empty() {
                self.emptied.notify_one();
            }
            return None;
        }
        owed.queue.push_back(Entry {
            pkid: arrival.pkid,
            settled: false,
        });
        Some(Ack(Some((
            Arc::clone(self),
            owed.first + owed.queue.len() as u64 - 1,
        ))))
    }

    /// Returns whether a message was refused for lack of room.
    pub(super) fn overflowed(&self) -> bool {
        self.owed.lock().overflowed
    }

    /// Resolves when a message was refused and everything else is settled: once there is room, the
    /// broker sends it again on a new connection.
    pub(super) async fn drained(&self) {
        loop {
            {
                let owed = self.owed.lock();
                if owed.overflowed && owed.queue.is_empty() {
                    return;
                }
            }
            self.emptied.notified().await;
        }
    }

    pub(super) fn close(&self) {
        self.owed.lock().closed = true;
    }

    fn settle(&self, number: u64) {
        let mut owed = self.owed.lock();
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
            // The request channel has room for every acknowledgement (see connection.rs), so this
            // fails only when the connection is gone, and the acknowledgement with it.
            self.client.acknowledge(entry.pkid);
            owed.first += 1;
        }
        if owed.queue.is_empty() {
            self.emptied.notify_one();
        }
    }
}

/// Messages of the current connection that are not taken yet. Emptied when it is lost: the broker
/// sends them again, and taking both would make duplicates.
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
    dropped: AtomicU64,
    /// Held bytes from which on no further message is taken.
    most_held: usize,
    /// Bytes of all deliveries that exist, waiting or taken, of this connection or an earlier one.
    held: AtomicUsize,
    released: Notify,
}

/// Share of the memory budget that a delivery takes until it is dropped.
pub(super) struct Held {
    inbox: Arc<Inbox>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.inbox.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.inbox.released.notify_waiters();
    }
}

#[derive(Default)]
struct Waiting {
    queue: VecDeque<Delivery>,
    closed: bool,
}

impl Inbox {
    pub(super) fn new(most_held: usize) -> Self {
        let (waiting, changed, released) = (Mutex::default(), Notify::new(), Notify::new());
        Self {
            waiting,
            changed,
            dropped: AtomicU64::new(0),
            most_held,
            held: AtomicUsize::new(0),
            released,
        }
    }

    /// Returns true if another message may be taken, whatever its size.
    pub(super) fn has_capacity(&self) -> bool {
        self.held.load(Ordering::Relaxed) < self.most_held
    }

    /// Resolves when there is room.
    pub(super) async fn capacity(&self) {
        loop {
            let released = self.released.notified();
            if self.has_capacity() {
                return;
            }
            released.await;
        }
    }

    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Held {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Held {
            inbox: Arc::clone(self),
            bytes,
        }
    }

    pub(super) fn push(&self, delivery: Delivery) {
        self.waiting.lock().queue.push_back(delivery);
        self.changed.notify_one();
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.lock().queue.len()
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn clear(&self) {
        self.waiting.lock().queue.clear();
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_one();
    }
}

/// Counter of QoS 0 messages that were dropped because too many were waiting.
#[derive(Clone)]
pub struct Dropped(Arc<Inbox>);

impl Dropped {
    /// Returns the number since the start.
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

    /// Returns the next message; `None` once the connection is stopped. Cancel-safe: dropping the
    /// future loses nothing.
    pub async fn recv(&mut self) -> Option<Delivery> {
        loop {
            {
                let mut waiting = self.inbox.waiting.lock();
                if let Some(delivery) = waiting.queue.pop_front() {
                    return Some(delivery);
                }
                if waiting.closed {
                    return None;
                }
            }
            // `&mut self` makes this the only waiter, and `notify_one` remembers a call made before
            // the wait.
            self.inbox.changed.notified().await;
        }
    }

    /// Returns a counter of dropped messages that outlives this handle.
    pub fn dropped(&self) -> Dropped {
        Dropped(Arc::clone(&self.inbox))
    }
}
