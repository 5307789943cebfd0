//! What the connection is doing, in words an operator reads, said once per change. Not for deciding anything.

use std::fmt;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// The state of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The first attempt has not ended yet.
    Connecting,
    /// Connected and subscribed to everything.
    Connected {
        /// Whether the broker still had our session.
        session_present: bool,
    },
    /// Connected, able to publish, but some subscriptions were not granted at QoS 1.
    SubscribeRefused {
        /// Which, and why.
        refused: Vec<Refusal>,
    },
    /// No connection; attempts go on.
    Down {
        /// Why the last attempt ended.
        reason: String,
        /// Since when there is none.
        since: Instant,
    },
    /// The broker answered and does not let us in; attempts go on.
    Refused {
        /// The broker's reason.
        reason: String,
        /// Since when there is no connection.
        since: Instant,
    },
}

/// A subscription the broker did not grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The topic filter.
    pub topic: String,
    /// The broker's reason.
    pub reason: String,
}

impl State {
    /// Whether messages can be published.
    #[cfg(test)]
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. } | Self::SubscribeRefused { .. })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Connected { .. } => f.write_str("connected"),
            Self::SubscribeRefused { refused } => {
                f.write_str("connected, but the broker refused to subscribe us to ")?;
                for (index, Refusal { topic, reason }) in refused.iter().enumerate() {
                    write!(f, "{}{topic} ({reason})", if index > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Self::Down { reason, .. } => write!(f, "no connection: {reason}"),
            Self::Refused { reason, .. } => write!(f, "the broker refuses us: {reason}"),
        }
    }
}

/// How a connection, or the attempt at one, ended.
pub(super) struct Lost {
    pub(super) reason: String,
    pub(super) kind: LostKind,
}

#[derive(PartialEq, Eq)]
pub(super) enum LostKind {
    Down,
    Refused,
    /// Another client connected with our client id; hurrying back would only throw it out in turn.
    TakenOver,
    /// We ended it ourselves, to be sent again what we had no room for.
    Overflowed,
}

impl Lost {
    pub(super) fn down(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), kind: LostKind::Down }
    }
}

impl Lost {
    pub(super) fn overflowed() -> Self {
        let reason = "the broker sent more unacknowledged messages than our receive maximum; asking for them again";
        Self { reason: reason.to_owned(), kind: LostKind::Overflowed }
    }
}

/// Keeps [`State`] current and logs each change once: a warning when an outage begins, an info when it ends.
pub(super) struct Reporter {
    state: watch::Sender<State>,
    broker: String,
    client: String,
    outage: Option<Instant>,
    up_since: Option<Instant>,
}

impl Reporter {
    pub(super) fn new(state: watch::Sender<State>, broker: String, client: String) -> Self {
        Self { state, broker, client, outage: None, up_since: None }
    }

    pub(super) fn connected(&mut self, session_present: bool, refused: Vec<Refusal>) {
        let (broker, client) = (&self.broker, &self.client);
        match self.outage.take() {
            None => info!(%broker, client, session_present, "MQTT connected"),
            Some(since) => {
                info!(%broker, client, session_present, down_for = ?since.elapsed(), "MQTT connected again");
            }
        }
        self.up_since = Some(Instant::now());
        self.state.send_replace(if refused.is_empty() {
            State::Connected { session_present }
        } else {
            let state = State::SubscribeRefused { refused };
            warn!(%broker, client, "MQTT {state}");
            state
        });
    }

    /// Notes the end of a connection or attempt; returns how long it had been up.
    pub(super) fn lost(&mut self, lost: &Lost) -> Option<std::time::Duration> {
        let (broker, client, reason) = (&self.broker, &self.client, lost.reason.clone());
        let new = self.outage.is_none();
        let since = *self.outage.get_or_insert_with(Instant::now);
        let state = match lost.kind {
            LostKind::Refused => State::Refused { reason, since },
            LostKind::Down | LostKind::TakenOver | LostKind::Overflowed => State::Down { reason, since },
        };
        if new {
            warn!(%broker, client, "MQTT: {state}; trying again until it works");
        } else {
            debug!(%broker, client, "MQTT: {state}");
        }
        self.state.send_replace(state);
        self.up_since.take().map(|since| since.elapsed())
    }

    pub(super) fn stopped(&mut self) {
        self.state.send_replace(State::Down { reason: "stopped".to_owned(), since: Instant::now() });
    }
}
