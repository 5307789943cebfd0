//! Settings of one connection. Reading configuration files is not its concern.

use std::fmt;
use std::time::Duration;

use super::{Address, TlsFiles};

/// rumqttc panics below this value.
pub(super) const LEAST_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// MQTT 3.1.1.
    Three,
    /// MQTT 5.
    #[default]
    Five,
}

/// Settings of a connection; [`Settings::new`] fills in sensible defaults.
#[derive(Clone)]
pub struct Settings {
    /// Address of the broker.
    pub broker: Address,
    /// Protocol version.
    pub version: Version,
    /// Certificates for an encrypted connection; `None` for plain TCP.
    pub tls: Option<TlsFiles>,
    /// Id of the session on the broker: the same on every start, different on every board.
    pub client_id: String,
    /// User name, if the broker wants one.
    pub username: Option<String>,
    /// Password, if the broker wants one.
    pub password: Option<String>,
    /// Ping interval, at least 5 s; a dead broker is noticed within twice that.
    pub keep_alive: Duration,
    /// Time the broker keeps messages for us while we are away; zero keeps nothing and starts a
    /// clean session. In MQTT 3.1.1 the broker decides on any other time.
    pub session_expiry: Duration,
    /// Largest packet accepted; the module's documentation says what happens to larger ones.
    pub max_packet_bytes: u32,
    /// Most messages the broker may send before we acknowledge the first.
    pub receive_maximum: u16,
    /// Published by the broker when we vanish.
    pub will: Option<Message>,
    /// Published on every new connection, such as our being online; set `retain` on them.
    pub birth: Vec<Message>,
    /// Published on an orderly stop, before disconnecting.
    pub farewell: Option<Message>,
    /// Topic filters to subscribe to at QoS 1, on every new connection; shared ones as
    /// `$share/<group>/<filter>`.
    pub subscriptions: Vec<String>,
    /// The same for topics whose retained messages are wanted only when the broker has no session of
    /// ours: what was received once does not come again at every connect. In MQTT 3.1.1 they are not
    /// subscribed to while there is a session, so a client id keeps its filters for ever.
    pub once_a_session: Vec<String>,
    /// Filters to unsubscribe, which a session kept by the broker may still hold.
    pub unsubscribe: Vec<String>,
    /// Pause after the first failed attempt; doubled after each further one.
    pub reconnect_least: Duration,
    /// Longest pause between attempts; used at once when another client took over our session.
    pub reconnect_most: Duration,
    /// Delay of an owed answer after which the connection is replaced.
    pub stalled_after: Duration,
    /// Longest time that messages wait unread for memory; half of `keep_alive` at most. After it
    /// messages are turned away, and the broker sends them again later.
    pub unread_most: Duration,
}

impl Settings {
    /// Returns settings without credentials, topics or messages of state.
    pub fn new(broker: Address, client_id: impl Into<String>) -> Self {
        Self {
            broker,
            version: Version::default(),
            tls: None,
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
            once_a_session: Vec::new(),
            unsubscribe: Vec::new(),
            reconnect_least: Duration::from_secs(1),
            reconnect_most: Duration::from_secs(60),
            stalled_after: Duration::from_secs(120),
            unread_most: Duration::from_secs(10),
        }
    }
}

impl Settings {
    /// Bytes of deliveries in memory from which on no further message is taken.
    pub(super) fn most_held(&self) -> usize {
        self.max_packet_bytes as usize / 4 + 1
    }

    /// Longest time that messages wait unread.
    pub(super) fn unread_most(&self) -> Duration {
        self.unread_most
            .min(self.keep_alive.max(LEAST_KEEP_ALIVE) / 2)
    }
}

/// A message to publish, always at QoS 1.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Full topic name.
    pub topic: String,
    /// Payload bytes.
    pub payload: Vec<u8>,
    /// The broker retains it for later subscribers.
    pub retain: bool,
    /// MIME type of the payload. This and the fields below are lost in MQTT 3.1.1.
    pub content_type: Option<String>,
    /// Time after which the broker drops it.
    pub expiry: Option<Duration>,
    /// Correlation data, which tells a requester what this answers.
    pub correlation: Option<Vec<u8>>,
}

impl fmt::Debug for Message {
    /// Names the message without its payload: results must never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Message({}, {} bytes, retain {})",
            self.topic,
            self.payload.len(),
            self.retain
        )
    }
}
