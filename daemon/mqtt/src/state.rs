//! State of the connection in the operator's words, logged once per change. No decision depends on
//! it.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

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
        /// The broker still had our session.
        session_present: bool,
    },
    /// Connected, but not everything works.
    Hindered(Hindrances),
    /// No connection; attempts go on.
    Down {
        /// Reason why the last attempt ended.
        reason: String,
        /// Start of the outage.
        since: Instant,
    },
    /// The broker answers and rejects us; attempts go on.
    Refused {
        /// The broker's reason.
        reason: String,
        /// Start of the outage.
        since: Instant,
    },
}

/// Failures on a connection that is up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hindrances {
    /// Subscriptions that were not granted at QoS 1.
    pub subscribe: Vec<Refusal>,
    /// Birth messages that the broker refuses.
    pub publish: Vec<Refusal>,
    /// The broker ends this connection again and again.
    pub contended: bool,
    /// Messages were turned away, and come again when those before them are stored.
    pub turned_away: bool,
    /// Client id, for the sentence.
    pub client: String,
}

/// A request that the broker did not grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The topic or filter.
    pub topic: String,
    /// The broker's reason.
    pub reason: String,
}

impl State {
    /// Returns whether messages can be published.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. } | Self::Hindered(_))
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Connected { .. } => f.write_str("connected"),
            Self::Hindered(hindrances) => hindrances.fmt(f),
            Self::Down { reason, .. } => write!(f, "no connection: {reason}"),
            Self::Refused { reason, .. } => write!(f, "the broker refuses us: {reason}"),
        }
    }
}

impl fmt::Display for Hindrances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connected, but")?;
        let mut and = "";
        for (refused, done) in [
            (&self.subscribe, "subscribe us to"),
            (&self.publish, "let us publish"),
        ] {
            for (index, Refusal { topic, reason }) in refused.iter().enumerate() {
                let before = if index > 0 {
                    ",".into()
                } else {
                    format!("{and} the broker refused to {done}")
                };
                write!(f, "{before} {topic} ({reason})")?;
            }
            if !refused.is_empty() {
                and = ", and";
            }
        }
        if !and.is_empty() {
            write!(
                f,
                "; its access list must let the client {} do that",
                self.client
            )?;
            and = "; and";
        }
        if self.turned_away {
            write!(
                f,
                "{and} messages wait at the broker until those that came before them are stored"
            )?;
            and = "; and";
        }
        if self.contended {
            write!(
                f,
                "{and} the broker keeps ending this connection: another client has the client id {} (a second board with \
                 the same device name?), or the broker is restarted again and again",
                self.client
            )?;
        }
        Ok(())
    }
}

/// End of a connection or of an attempt.
pub(super) struct Lost {
    pub(super) reason: String,
    pub(super) kind: LostKind,
}

#[derive(PartialEq, Eq)]
pub(super) enum LostKind {
    Down,
    Refused,
    /// The broker closed the connection without a readable reason.
    Closed,
    /// Another client connected with our client id; reconnecting at once would only throw it out in
    /// turn.
    TakenOver,
    /// We closed it, so that the broker sends refused messages again.
    Overflowed,
}

impl Lost {
    pub(super) fn down(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            kind: LostKind::Down,
        }
    }
}

impl Lost {
    pub(super) fn overflowed() -> Self {
        let reason = "messages for which there was no room are asked for again";
        Self {
            reason: reason.to_owned(),
            kind: LostKind::Overflowed,
        }
    }
}

/// Period in which closings by the broker count, and the number that can no longer be chance.
const CONTENTION: Duration = Duration::from_secs(600);
const CLOSINGS: usize = 3;

/// Keeps [`State`] current and logs each change once: a warning when an outage begins, an info when
/// it ends.
pub(super) struct Reporter {
    state: watch::Sender<State>,
    broker: String,
    client: String,
    outage: Option<Instant>,
    up_since: Option<Instant>,
    session_present: bool,
    hindrances: Hindrances,
    /// Times at which the broker closed a connection that was up.
    closings: VecDeque<Instant>,
}

impl Reporter {
    pub(super) fn new(state: watch::Sender<State>, broker: String, client: String) -> Self {
        let hindrances = Hindrances {
            client: client.clone(),
            ..Hindrances::default()
        };
        let (outage, up_since, session_present, closings) = (None, None, false, VecDeque::new());
        Self {
            state,
            broker,
            client,
            outage,
            up_since,
            session_present,
            hindrances,
            closings,
        }
    }

    pub(super) fn connected(&mut self, session_present: bool, refused: Vec<Refusal>) {
        let (broker, client) = (&self.broker, &self.client);
        match self.outage.take() {
            None => info!(%broker, client, session_present, "MQTT connected"),
            Some(since) if !self.hindrances.contended => {
                info!(%broker, client, session_present, down_for = ?since.elapsed(), "MQTT connected again");
            }
            Some(_) => {}
        }
        self.up_since = Some(Instant::now());
        self.session_present = session_present;
        self.hindrances.subscribe = refused;
        self.hindrances.turned_away = false;
        self.show();
    }

    /// Notes that messages are turned away on this connection.
    pub(super) fn turned_away(&mut self) {
        if !std::mem::replace(&mut self.hindrances.turned_away, true) {
            self.show();
        }
    }

    /// Updates the refused birth messages, and forgets old closings.
    pub(super) fn births(&mut self, refused: Vec<Refusal>) {
        self.hindrances.publish = refused;
        if self.up_since.is_some() {
            self.show();
        }
    }

    fn show(&mut self) {
        self.closings
            .retain(|closing| closing.elapsed() < CONTENTION);
        let Self {
            hindrances,
            session_present,
            ..
        } = self;
        hindrances.contended = self.closings.len() >= CLOSINGS;
        let Hindrances {
            subscribe,
            publish,
            contended,
            turned_away,
            ..
        } = &*hindrances;
        let well = subscribe.is_empty() && publish.is_empty() && !contended && !turned_away;
        let state = if well {
            State::Connected {
                session_present: *session_present,
            }
        } else {
            State::Hindered(hindrances.clone())
        };
        let changed = self.state.send_if_modified(|shown| {
            let differs = *shown != state;
            *shown = state.clone();
            differs
        });
        if changed && !well {
            warn!(broker = self.broker, client = self.client, "MQTT {state}");
        }
    }

    /// Notes the end of a connection or attempt; returns how long it had been up.
    pub(super) fn lost(&mut self, lost: &Lost) -> Option<Duration> {
        let (broker, client, reason) = (&self.broker, &self.client, lost.reason.clone());
        let new = self.outage.is_none();
        let since = *self.outage.get_or_insert_with(Instant::now);
        let state = match lost.kind {
            LostKind::Refused => State::Refused { reason, since },
            LostKind::Down | LostKind::Closed | LostKind::TakenOver | LostKind::Overflowed => {
                State::Down { reason, since }
            }
        };
        if new && !self.hindrances.contended {
            warn!(%broker, client, "MQTT: {state}; trying again until it works");
        } else {
            debug!(%broker, client, "MQTT: {state}");
        }
        self.state.send_replace(state);
        let up = self.up_since.take().map(|since| since.elapsed());
        if up.is_some() && matches!(lost.kind, LostKind::Closed | LostKind::TakenOver) {
            self.closings.push_back(Instant::now());
            if self.closings.len() > CLOSINGS {
                self.closings.pop_front();
            }
        }
        up
    }

    pub(super) fn stopped(&mut self) {
        self.state.send_replace(State::Down {
            reason: "stopped".to_owned(),
            since: Instant::now(),
        });
    }
}
