//! What one connection is told, and how rumqttc is told it. Not for reading configuration files.

use std::fmt;
use std::time::Duration;

use rumqttc::NetworkOptions;
use rumqttc::v5::MqttOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{LastWill, LastWillProperties};

use super::Address;
use super::publish::PACKET_IDS;

const CONNECT_TIMEOUT_SECONDS: u64 = 10;
/// rumqttc panics below this.
pub(super) const LEAST_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What the connection needs to know; [`Settings::new`] fills in sensible values.
#[derive(Clone)]
pub struct Settings {
    /// Where the broker listens.
    pub broker: Address,
    /// Names the session on the broker: the same on every start, different on every board.
    pub client_id: String,
    /// User name, if the broker wants one.
    pub username: Option<String>,
    /// Password, if the broker wants one.
    pub password: Option<String>,
    /// Ping interval, at least 5 s; a dead broker is noticed within twice that.
    pub keep_alive: Duration,
    /// How long the broker keeps messages for us while we are away.
    pub session_expiry: Duration,
    /// Largest packet we take; see the module's documentation for what happens to larger ones.
    pub max_packet_bytes: u32,
    /// How many messages the broker may send before we acknowledge the first.
    pub receive_maximum: u16,
    /// What the broker publishes when we vanish.
    pub will: Option<Message>,
    /// Published on every new connection, such as our being online; set `retain` on them.
    pub birth: Vec<Message>,
    /// Published on an orderly stop, before disconnecting.
    pub farewell: Option<Message>,
    /// Topic filters to subscribe to at QoS 1, on every new connection.
    pub subscriptions: Vec<String>,
    /// Pause after the first failed attempt; doubled after each further one.
    pub reconnect_least: Duration,
    /// Longest pause between attempts; used at once when another client took our session over.
    pub reconnect_most: Duration,
    /// The connection is replaced when the broker owes an answer and gave none for this long.
    pub stalled_after: Duration,
}

impl Settings {
    /// Settings without credentials, topics or messages of state.
    pub fn new(broker: Address, client_id: impl Into<String>) -> Self {
        Self {
            broker,
            client_id: client_id.into(),
            username: None,
            password: None,
            keep_alive: Duration::from_secs(30),
            session_expiry: Duration::from_secs(7 * 24 * 3600),
            max_packet_bytes: 16 * 1024 * 1024,
            receive_maximum: 16,
            will: None,
            birth: Vec::new(),
            farewell: None,
            subscriptions: Vec::new(),
            reconnect_least: Duration::from_secs(1),
            reconnect_most: Duration::from_secs(60),
            stalled_after: Duration::from_secs(120),
        }
    }
}

impl Settings {
    /// How many bytes of messages there may be that arrived and are not settled.
    pub(super) fn unsettled_budget(&self) -> usize {
        let most = u64::from(self.receive_maximum) * u64::from(self.max_packet_bytes);
        usize::try_from(most).unwrap_or(usize::MAX)
    }

    /// The same in rumqttc's words.
    pub(super) fn options(&self) -> MqttOptions {
        let Settings { client_id, broker, .. } = self;
        let mut options = MqttOptions::new(client_id, broker.bracketed_host(), broker.port);
        options
            .set_keep_alive(self.keep_alive.max(LEAST_KEEP_ALIVE))
            .set_connection_timeout(CONNECT_TIMEOUT_SECONDS)
            .set_clean_start(false)
            .set_session_expiry_interval(Some(u32::try_from(self.session_expiry.as_secs()).unwrap_or(u32::MAX)))
            // Zero is against the protocol for both.
            .set_receive_maximum(Some(self.receive_maximum.max(1)))
            .set_max_packet_size(Some(self.max_packet_bytes.max(1)))
            .set_outgoing_inflight_upper_limit(PACKET_IDS)
            .set_manual_acks(true);
        // Otherwise small packets wait for each other. One message out to mosquitto, back in and acknowledged took
        // 92 ms with delays on both sides, 45 ms with ours gone, 0.2 ms with mosquitto's gone too (`set_tcp_nodelay`).
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        if let Some(username) = &self.username {
            options.set_credentials(username, self.password.as_deref().unwrap_or_default());
        }
        if let Some(Message { topic, payload, retain, content_type }) = self.will.clone() {
            let properties = LastWillProperties {
                delay_interval: None,
                payload_format_indicator: None,
                message_expiry_interval: None,
                content_type,
                response_topic: None,
                correlation_data: None,
                user_properties: Vec::new(),
            };
            options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, retain, Some(properties)));
        }
        options
    }
}

/// A message to publish, always at QoS 1.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Full topic name.
    pub topic: String,
    /// The bytes.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// MIME type of the payload.
    pub content_type: Option<String>,
}

impl fmt::Debug for Message {
    /// Names the message without its payload: results hold what must never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({}, {} bytes, retain {})", self.topic, self.payload.len(), self.retain)
    }
}
