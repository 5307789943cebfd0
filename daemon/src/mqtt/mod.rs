//! One MQTT connection: bytes in, bytes out. Not for images, queues or what a topic means.
//!
//! What rumqttc leaves to its user is done here, so that nobody else names rumqttc, and in here
//! only `wire` does:
//! - **Every connection gets a fresh rumqttc event loop.** Nothing that rumqttc keeps across
//!   connections (queued requests, packet ids, its collision flag, buffered events) can leak from a
//!   lost one into the next: an acknowledgement goes to the connection its message came from, or
//!   nowhere. What was under way is repeated by its owner: unacknowledged messages by the broker,
//!   unacknowledged publishes by the caller.
//! - **Acknowledgements leave in arrival order**, in whatever order deliveries are settled
//!   (MQTT-4.6.0-2).
//! - **A publish resolves when its own PubAck came**, and its reason code counts.
//! - **Back-pressure** is `receive_maximum`, how many messages the broker may send unacknowledged.
//!   Mosquitto 2.0.11 exceeds it after a reconnect (measured: 254 instead of 16), so
//!   `receive_maximum` × `max_packet_bytes` is also kept here, in bytes: what goes beyond is not
//!   taken, and once everything taken is settled the connection is made anew, whereupon the broker
//!   sends the rest again. Messages sent at QoS 0 know no back-pressure: while `receive_maximum`
//!   deliveries wait, further ones are dropped, counted and said.
//!
//! MQTT 3.1.1 has no receive maximum, so there the bytes kept here are the only back-pressure,
//! beside what the broker allows under way by itself (20 messages in mosquitto).
//!
//! **Messages above `max_packet_bytes`.** The limit is announced to the broker; a compliant broker
//! (mosquitto) discards what is larger for this client and sends what is behind it, silently. So
//! set the limit well above the largest message that shall be refused with a reason. A broker that
//! sends it all the same (rumqttd) costs the connection each time: the state names the size and the
//! limit, attempts back off, and nothing behind that message arrives until it expires or the limit
//! is raised.

mod address;
mod connection;
mod deliveries;
mod publish;
mod settings;
mod state;
#[cfg(test)]
mod tests;
mod tls;
mod topic;
mod wire;

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use address::Address;
pub use connection::Connection;
pub use deliveries::{Deliveries, Delivery, Dropped};
pub use publish::{PublishError, Publisher};
pub use settings::{Message, Settings, Version};
pub use state::State;
pub use tls::Files as TlsFiles;
pub use topic::{is_filter, is_topic, matches};

/// Prepares a connection. Nothing happens until [`Connection::run`] is polled; the supervisor owns
/// that future.
#[must_use]
pub fn connect(settings: Settings) -> (Publisher, Deliveries, watch::Receiver<State>, Connection) {
    let (state, watch_state) = watch::channel(State::Connecting);
    let (link, current) = watch::channel(None);
    let inbox = Arc::new(deliveries::Inbox::default());
    let deliveries = Deliveries::new(Arc::clone(&inbox));
    let connection = Connection::new(settings, inbox, link, state);
    (Publisher::new(current), deliveries, watch_state, connection)
}

/// Every lock here guards a few steps that cannot panic half-way, so a poisoned one still holds
/// good data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
