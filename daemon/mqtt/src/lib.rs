//! An MQTT connection that carries bytes in and out. Images, queues and the meaning of topics are
//! the callers' concern.
//!
//! This crate adds what rumqttc leaves to its user. Only its module `wire` names rumqttc:
//! - **Every connection gets a fresh rumqttc event loop.** No state that rumqttc keeps across
//!   connections (queued requests, packet ids, its collision flag, buffered events) can leak from a
//!   lost one into the next: an acknowledgement goes to the connection its message came from, or
//!   nowhere. Work in progress is repeated by its owner: unacknowledged messages by the broker,
//!   unacknowledged publishes by the caller.
//! - **Acknowledgements leave in arrival order**, in whatever order deliveries are settled
//!   (MQTT-4.6.0-2).
//! - **A publish resolves when its own PubAck arrives**, and its reason code counts.
//! - **Back-pressure** is `receive_maximum`, the number of messages the broker may send
//!   unacknowledged; in MQTT 3.1.1 it is the broker's own limit (20 in mosquitto). Mosquitto 2.0.11
//!   exceeds it after a reconnect (measured: 254 instead of 16), and so many large messages would
//!   not fit into memory. So there is a limit in bytes too: while the deliveries in memory hold a
//!   quarter of `max_packet_bytes`, nothing further is read. At most one and a quarter of the
//!   largest packets are held, beside the one that is being read. Reading stops for `unread_most`
//!   at most, since the answers to pings are not read either. Then reading goes on and messages are
//!   turned away; once everything taken is settled and there is room, the connection is replaced,
//!   and the broker sends the rest again. Messages at QoS 0 have no back-pressure: while there is
//!   no room, or `receive_maximum` deliveries wait, further ones are dropped, counted and logged.
//!
//! **Messages above `max_packet_bytes`.** The limit is announced to the broker. A compliant broker
//! (mosquitto) silently discards larger messages for this client and sends the ones behind them, so
//! set the limit well above the largest message that is to be refused with a reason. A broker that
//! sends them anyway (rumqttd) costs the connection each time: the state names the size and the
//! limit, attempts back off, and nothing behind that message arrives until it expires or the limit
//! is raised.
#![forbid(unsafe_code)]

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
    let inbox = Arc::new(deliveries::Inbox::new(settings.most_held()));
    let deliveries = Deliveries::new(Arc::clone(&inbox));
    let connection = Connection::new(settings, inbox, link, state);
    (Publisher::new(current), deliveries, watch_state, connection)
}
