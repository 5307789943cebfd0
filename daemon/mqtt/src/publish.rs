//! The outgoing side: each publish is tied to its own PubAck. Not an outbox: publishes left
//! unacknowledged by a lost connection are reported, and the caller repeats them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;

use super::wire::{Accepted, Client};
use super::{Message, is_topic};

/// Most requests the broker may owe an answer to, counted from the oldest unanswered one. Far below
/// the range of packet ids, so that no id in use is used again: rumqttc stops for good when that
/// happens.
pub(super) const WINDOW: u16 = 8;

/// Reason why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Not sent, or sent without an acknowledgement; may be sent again.
    #[error("no connection to the broker, or lost before it acknowledged")]
    Disconnected,
    /// Refused by the broker; sending it again fails until the broker's configuration changes.
    #[error("the broker refused the message: {0}")]
    Refused(String),
    /// Too large, never sent.
    #[error("the message makes a packet of {bytes} bytes, the broker takes at most {limit}")]
    TooLarge {
        /// Size of the packet.
        bytes: usize,
        /// The broker's limit.
        limit: u32,
    },
    /// Invalid topic, never sent.
    #[error("not a topic that can be published to: {0:?}")]
    InvalidTopic(String),
}

/// Publishes on the current connection. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    link: watch::Receiver<Option<Arc<Outgoing>>>,
}

impl Publisher {
    pub(super) fn new(link: watch::Receiver<Option<Arc<Outgoing>>>) -> Self {
        Self { link }
    }

    /// Waits for a connection; an error once there will never be one again.
    pub async fn connected(&self) -> Result<(), PublishError> {
        let mut link = self.link.clone();
        let found = link.wait_for(Option::is_some).await;
        found.map(drop).map_err(|_| PublishError::Disconnected)
    }

    /// Publishes at QoS 1 and resolves when the broker has acknowledged this very message. Fails at
    /// once without a connection; with one it waits its turn, as at most eight are in flight.
    /// Messages leave in the order of the calls. Dropping the future does not recall a message.
    pub async fn publish(&self, message: Message) -> Result<(), PublishError> {
        let link = self.link.borrow().clone();
        match link {
            Some(link) => link.publish(message).await,
            None => Err(PublishError::Disconnected),
        }
    }
}

/// Requests sent on one connection and not answered yet.
pub(super) struct Outgoing {
    client: Client,
    largest_packet: u32,
    retain_available: bool,
    window: Semaphore,
    sent: Mutex<Sent>,
}

struct Sent {
    /// Entries in the order sent. Answered entries stay until all before them are answered: see
    /// [`WINDOW`].
    entries: VecDeque<Entry>,
    /// Time of the broker's last answer, or since it owes one.
    progress: Instant,
    closed: bool,
}

struct Entry {
    /// 0 until rumqttc has written the packet and reported its id.
    pkid: u16,
    owed: bool,
    /// Waiting caller; none for a Subscribe.
    answer: Option<oneshot::Sender<Result<(), PublishError>>>,
}

impl Outgoing {
    pub(super) fn new(client: Client, broker: &Accepted) -> Self {
        let window = WINDOW.min(broker.receive_maximum.saturating_sub(1)).max(1);
        Self {
            client,
            largest_packet: broker.largest_packet,
            retain_available: broker.retain_available,
            window: Semaphore::new(window.into()),
            sent: Mutex::new(Sent {
                entries: VecDeque::new(),
                progress: Instant::now(),
                closed: false,
            }),
        }
    }

    /// Called once, before anything else, so the window has room.
    pub(super) fn subscribe(&self, filters: &[String], once_a_session: &[String]) {
        if let Ok(turn) = self.window.try_acquire() {
            turn.forget();
        }
        let _ = self.send(None, || self.client.subscribe(filters, once_a_session));
    }

    pub(super) fn unsubscribe(&self, filters: &[String]) {
        filters
            .iter()
            .for_each(|filter| self.client.unsubscribe(filter));
    }

    pub(super) async fn publish(&self, message: Message) -> Result<(), PublishError> {
        if !is_topic(&message.topic) {
            return Err(PublishError::InvalidTopic(message.topic));
        }
        // A retained or oversized message that the broker rules out would cost the connection.
        if message.retain && !self.retain_available {
            return Err(PublishError::Refused(
                "it keeps no retained messages".to_owned(),
            ));
        }
        let bytes = self.client.packet_bytes(&message);
        if bytes > self.largest_packet as usize {
            return Err(PublishError::TooLarge {
                bytes,
                limit: self.largest_packet,
            });
        }
        // `answered` returns the permit, and closing the window wakes all waiters.
        self.window
            .acquire()
            .await
            .map_err(|_| PublishError::Disconnected)?
            .forget();
        let (answer, answered) = oneshot::channel();
        self.send(Some(answer), || self.client.publish(message))?;
        answered.await.unwrap_or(Err(PublishError::Disconnected))
    }

    /// Queues a request and its entry under one lock, so that both queues have the same order.
    fn send(
        &self,
        answer: Option<oneshot::Sender<Result<(), PublishError>>>,
        request: impl FnOnce() -> bool,
    ) -> Result<(), PublishError> {
        let mut sent = self.sent.lock();
        if sent.closed || !request() {
            return Err(PublishError::Disconnected);
        }
        if sent.entries.is_empty() {
            sent.progress = Instant::now();
        }
        sent.entries.push_back(Entry {
            pkid: 0,
            owed: true,
            answer,
        });
        Ok(())
    }

    /// Assigns the packet id to the next request that rumqttc has written.
    pub(super) fn written(&self, pkid: u16) {
        if let Some(entry) = self
            .sent
            .lock()
            .entries
            .iter_mut()
            .find(|entry| entry.pkid == 0)
        {
            entry.pkid = pkid;
        }
    }

    /// Handles the broker's answer to the request with this packet id.
    pub(super) fn answered(&self, pkid: u16, result: Result<(), PublishError>) {
        let mut sent = self.sent.lock();
        let Some(entry) = sent
            .entries
            .iter_mut()
            .find(|entry| entry.owed && entry.pkid == pkid)
        else {
            return;
        };
        entry.owed = false;
        if let Some(answer) = entry.answer.take() {
            // The caller may have stopped waiting.
            let _ = answer.send(result);
        }
        sent.progress = Instant::now();
        while sent.entries.front().is_some_and(|entry| !entry.owed) {
            sent.entries.pop_front();
            self.window.add_permits(1);
        }
    }

    /// Resolves when the broker owes an answer and has given none for `limit`.
    pub(super) async fn stalled(&self, limit: Duration) {
        loop {
            let idle = {
                let sent = self.sent.lock();
                if sent.entries.is_empty() {
                    Duration::ZERO
                } else {
                    sent.progress.elapsed()
                }
            };
            if idle >= limit {
                return;
            }
            tokio::time::sleep(limit - idle).await;
        }
    }

    /// Fails all waiting callers: the connection is gone.
    pub(super) fn close(&self) {
        self.window.close();
        let mut sent = self.sent.lock();
        sent.closed = true;
        sent.entries.clear();
    }

    pub(super) fn disconnect(&self) {
        self.client.disconnect();
    }
}
