//! Runs one connection after another: connects, subscribes, publishes the birth messages, carries
//! events, and backs off after a loss. The content of messages is not its concern.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::deliveries::{Acks, Delivery, Inbox, MOST_OWED};
use super::publish::{Outgoing, PublishError, WINDOW};
use super::state::{Lost, LostKind, Refusal, Reporter};
use super::wire::{self, Arrival, Heard};
use super::{Settings, State, Version, is_filter};

/// Longest waits of a stop: for the acknowledgement of the farewell, and for the Disconnect to be
/// written.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval between attempts to publish a refused birth message.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

/// A connection to run.
pub struct Connection {
    settings: Settings,
    inbox: Arc<Inbox>,
    link: watch::Sender<Option<Arc<Outgoing>>>,
    state: watch::Sender<State>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

impl Connection {
    pub(super) fn new(
        settings: Settings,
        inbox: Arc<Inbox>,
        link: watch::Sender<Option<Arc<Outgoing>>>,
        state: watch::Sender<State>,
    ) -> Self {
        Self {
            settings,
            inbox,
            link,
            state,
        }
    }

    /// Runs until `stop` resolves, then publishes the farewell and disconnects, within three
    /// seconds. No action of the broker ends it. Dropping the future cuts the connection, and the
    /// broker publishes the will.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let settings = &self.settings;
        let reporter = Reporter::new(
            self.state.clone(),
            settings.broker.to_string(),
            settings.client_id.clone(),
        );
        let reporter = Mutex::new(reporter);
        let mut failures = 0;
        loop {
            // If a packet makes the library panic, only this connection ends: the next one gets a
            // new event loop.
            let once = AssertUnwindSafe(self.once(stop.as_mut(), &reporter))
                .catch_unwind()
                .await;
            let Err(lost) = once.unwrap_or_else(|panic| Err(Lost::down(fault(panic.as_ref()))))
            else {
                break;
            };
            let up = reporter.lock().lost(&lost);
            // A connection that is accepted and cut right away counts as a failure too.
            let lasted = up.is_some_and(|up| up >= settings.reconnect_most);
            if lasted || lost.kind == LostKind::Overflowed {
                failures = 0;
            }
            let pause = match lost.kind {
                LostKind::TakenOver => settings.reconnect_most,
                LostKind::Down | LostKind::Closed | LostKind::Refused | LostKind::Overflowed => {
                    pause(settings, failures)
                }
            };
            failures = failures.saturating_add(1);
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.as_mut() => break,
            }
        }
        reporter.lock().stopped();
    }

    /// Runs one connection from the attempt to its end; `Ok` when it was stopped.
    async fn once(
        &self,
        mut stop: Pin<&mut impl Future<Output = ()>>,
        reporter: &Mutex<Reporter>,
    ) -> Result<(), Lost> {
        let settings = &self.settings;
        // The request channel has room for everything that can be requested at once
        // (acknowledgements, the window, unsubscribes, the Disconnect), so no request ever waits
        // for the event loop.
        let capacity = MOST_OWED + usize::from(WINDOW) + settings.unsubscribe.len() + 1;
        let (client, mut events) = wire::open(settings, capacity)?;
        let broker = tokio::select! {
            broker = events.connected(settings.keep_alive) => broker?,
            () = stop.as_mut() => return Ok(()),
        };

        let acks = Arc::new(Acks::new(client.clone()));
        let outgoing = Arc::new(Outgoing::new(client, &broker));
        let (filters, mut invalid) = valid(&settings.subscriptions);
        let (mut once, invalid_once) = valid(&settings.once_a_session);
        invalid.extend(invalid_once);
        // MQTT 3.1.1 has no other way to keep retained messages from coming again.
        if broker.session_present && settings.version == Version::Three {
            once.clear();
        }
        let refused = invalid.into_iter().map(|topic| Refusal {
            topic,
            reason: "not a topic filter".to_owned(),
        });
        let refused: Vec<_> = refused.collect();
        if broker.session_present {
            outgoing.unsubscribe(&settings.unsubscribe);
        }
        let asked = [&filters[..], &once].concat();
        if asked.is_empty() {
            reporter
                .lock()
                .connected(broker.session_present, refused.clone());
        } else {
            outgoing.subscribe(&filters, &once);
        }
        self.link.send_replace(Some(Arc::clone(&outgoing)));
        let link = Link {
            connection: self,
            acks,
            outgoing,
        };

        let stopping = CancellationToken::new();
        let receive = async {
            let (mut said_dropped, mut waited) = (false, false);
            loop {
                if self.inbox.has_capacity() {
                    waited = false;
                } else if !waited {
                    // Messages wait unread, in the socket and at the broker.
                    tokio::select! {
                        capacity = timeout(settings.unread_most(), self.inbox.capacity()) => waited = capacity.is_err(),
                        () = stopping.cancelled() => waited = true,
                    }
                }
                match events.next().await? {
                    Heard::Publish(arrival) => link.deliver(arrival, &mut said_dropped, reporter),
                    Heard::PubAck { pkid, result } => {
                        link.outgoing
                            .answered(pkid, result.map_err(PublishError::Refused));
                    }
                    Heard::SubAck { pkid, granted } => {
                        link.outgoing.answered(pkid, Ok(()));
                        let refused = refused
                            .iter()
                            .cloned()
                            .chain(refusals(&asked, granted))
                            .collect();
                        reporter.lock().connected(broker.session_present, refused);
                    }
                    Heard::Written(pkid) => link.outgoing.written(pkid),
                    Heard::Disconnect if stopping.is_cancelled() => return Ok(()),
                    Heard::Disconnect if link.acks.overflowed() => return Err(Lost::overflowed()),
                    // rumqttc reports an unknown topic alias this way; we allow no aliases.
                    Heard::Disconnect => return Err(Lost::down("the broker broke the protocol")),
                    Heard::Other => {}
                }
            }
        };
        let say = async {
            // Runs in sequence, so that no birth can follow the farewell.
            tokio::select! {
                () = link.keep_born(reporter) => {}
                () = &mut stop => {}
            }
            stopping.cancel();
            if let Some(farewell) = &settings.farewell {
                match timeout(FAREWELL_TIMEOUT, link.outgoing.publish(farewell.clone())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => warn!("MQTT: the farewell was not published: {error}"),
                    Err(_) => warn!("MQTT: the broker did not acknowledge the farewell in time"),
                }
            }
            link.outgoing.disconnect();
            sleep(DISCONNECT_TIMEOUT).await;
        };
        // Queued behind the last acknowledgement, so that no settled message is redelivered.
        let start_over = async {
            link.acks.drained().await;
            self.inbox.capacity().await;
            link.outgoing.disconnect();
            sleep(DISCONNECT_TIMEOUT).await;
        };
        let end = tokio::select! {
            end = receive => end,
            () = say => Ok(()),
            () = start_over => Err(Lost::overflowed()),
            () = link.outgoing.stalled(settings.stalled_after) => {
                Err(Lost::down(format!("the broker owed an answer for {:?}", settings.stalled_after)))
            }
        };
        // A connection lost during the farewell counts as stopped, and `stop` must not be polled
        // again.
        if stopping.is_cancelled() { Ok(()) } else { end }
    }
}

/// State of the current connection; dropping it notifies all users.
struct Link<'a> {
    connection: &'a Connection,
    acks: Arc<Acks>,
    outgoing: Arc<Outgoing>,
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        self.connection.link.send_replace(None);
        self.outgoing.close();
        self.acks.close();
        self.connection.inbox.clear();
    }
}

impl Link<'_> {
    fn deliver(&self, arrival: Arrival, said_dropped: &mut bool, reporter: &Mutex<Reporter>) {
        let inbox = &self.connection.inbox;
        let capacity = inbox.has_capacity();
        let waiting = usize::from(self.connection.settings.receive_maximum);
        if arrival.pkid == 0 && (!capacity || inbox.len() >= waiting) {
            inbox.count_dropped();
            if !std::mem::replace(said_dropped, true) {
                warn!(
                    "MQTT: messages at QoS 0 arrive faster than kithd takes them and are dropped; \
                     publish at QoS 1"
                );
            }
            return;
        }
        let Some(ack) = self.acks.arrived(&arrival, capacity) else {
            return reporter.lock().turned_away();
        };
        let held = inbox.hold(arrival.payload.len());
        let Arrival {
            topic,
            payload,
            retain,
            redelivered,
            content_type,
            response_topic,
            correlation,
            ..
        } = arrival;
        inbox.push(Delivery {
            topic,
            payload,
            retain,
            redelivered,
            content_type,
            response_topic,
            correlation,
            ack,
            _held: held,
        });
    }

    /// Publishes the birth messages, and retries refused ones; never returns.
    async fn keep_born(&self, reporter: &Mutex<Reporter>) {
        let mut unborn: Vec<_> = self.connection.settings.birth.iter().collect();
        loop {
            let mut refused = Vec::new();
            for message in std::mem::take(&mut unborn) {
                match self.outgoing.publish(message.clone()).await {
                    Ok(()) => {}
                    Err(PublishError::Refused(reason)) => {
                        unborn.push(message);
                        refused.push(Refusal {
                            topic: message.topic.clone(),
                            reason,
                        });
                    }
                    Err(error) => warn!(topic = message.topic, "MQTT: not published: {error}"),
                }
            }
            reporter.lock().births(refused);
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// Returns the filters, and those that are none.
fn valid(filters: &[String]) -> (Vec<String>, Vec<String>) {
    filters
        .iter()
        .cloned()
        .partition(|filter| is_filter(filter))
}

/// Returns the subscriptions that were not granted as requested.
fn refusals(filters: &[String], granted: Vec<Result<(), String>>) -> Vec<Refusal> {
    let refused = filters
        .iter()
        .zip(granted)
        .filter_map(|(topic, granted)| Some((topic, granted.err()?)));
    refused
        .map(|(topic, reason)| Refusal {
            topic: topic.clone(),
            reason,
        })
        .collect()
}

/// Returns the message of a caught panic as a sentence for the operator.
fn fault(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("the panic has no message");
    // Panics of slices and strings quote their argument, however long it is.
    let text: String = text.chars().take(200).collect();
    format!("a fault in kithd, please report it: {text}")
}

/// Returns the backoff: it doubles with each failure up to the limit, and jitter picks a value
/// between half and all of it, so that clients do not meet a restarted broker all at once.
fn pause(settings: &Settings, failures: u32) -> Duration {
    let doubled = settings
        .reconnect_least
        .saturating_mul(2_u32.saturating_pow(failures));
    doubled
        .min(settings.reconnect_most)
        .mul_f64(0.5 + fastrand::f64() / 2.0)
}
