//! What one connection is told. Not for reading configuration files.

use std::fmt;
use std::time::Duration;

use super::{Address, TlsFiles};

/// rumqttc panics below this.
pub(super) const LEAST_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The protocol spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// MQTT 3.1.1.
    Three,
    /// MQTT 5.
    #[default]
    Five,
}

/// What the connection needs to know; [`Settings::new`] fills in sensible values.
#[derive(Clone)]
pub struct Settings {
    /// Where the broker listens.
    pub broker: Address,
    /// What it speaks.
    pub version: Version,
    /// Encrypted, with these certificates; `None`: in the clear.
    pub tls: Option<TlsFiles>,
    /// Names the session on the broker: the same on every start, different on every board.
    pub client_id: String,
    /// User name, if the broker wants one.
    pub username: Option<String>,
    /// Password, if the broker wants one.
    pub password: Option<String>,
    /// Ping interval, at least 5 s; a dead broker is noticed within twice that.
    pub keep_alive: Duration,
    /// How long the broker keeps messages for us while we are away; zero: nothing is kept, and
    /// nothing taken up. In MQTT 3.1.1 any other time is as long as the broker likes.
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
    /// Topic filters to subscribe to at QoS 1, on every new connection; shared ones as
    /// `$share/<group>/<filter>`.
    pub subscriptions: Vec<String>,
    /// Filters that a session the broker kept may still hold and that are not wanted any more.
    pub unsubscribe: Vec<String>,
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
            unsubscribe: Vec::new(),
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
}

/// A message to publish, always at QoS 1.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Full topic name.
    pub topic: String,
    /// The bytes.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
    /// MIME type of the payload; like what follows, lost in MQTT 3.1.1.
    pub content_type: Option<String>,
    /// The broker gives it to nobody after this.
    pub expiry: Option<Duration>,
    /// Tells whoever asked which question this answers.
    pub correlation: Option<Vec<u8>>,
}

impl fmt::Debug for Message {
    /// Names the message without its payload: results hold what must never reach a log.
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
