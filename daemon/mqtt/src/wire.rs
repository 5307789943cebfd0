//! Common vocabulary for rumqttc's two protocols, MQTT 5 and 3.1.1; the only file that names them.
//! It makes no decisions.
//!
//! On 3.1.1 some things are missing: properties of messages, a receive maximum, the broker's
//! limits, and the reason of a refusal.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5 as five;
use rumqttc::{NetworkOptions, TlsConfiguration, Transport, mqttbytes::v4 as three};
use rumqttc::{Outgoing, QoS as QoS3, mqttbytes as three_bytes, v5};
use time::OffsetDateTime;
use v5::mqttbytes::{self as five_bytes, QoS};

use super::settings::LEAST_KEEP_ALIVE;
use super::state::{Lost, LostKind};
use super::{Message, Settings, Version, tls};

const CONNECT_TIMEOUT_SECONDS: u64 = 10;
/// Receive buffer of the system for a connection.
const RECEIVE_BUFFER_BYTES: u32 = 256 << 10;
/// Range of packet ids rumqttc may use, unless the broker allows less.
const PACKET_IDS: u16 = 64;
/// Largest remaining length of a packet in both protocols.
const LARGEST_PACKET: u32 = 268_435_455;

/// The sending half of one connection. Nothing here waits: the caller makes sure that there is
/// room.
#[derive(Clone)]
pub(super) enum Client {
    Five(v5::AsyncClient),
    Three(rumqttc::AsyncClient),
}

/// The receiving half of one connection.
pub(super) enum Events {
    Five(Box<v5::EventLoop>),
    Three(Box<rumqttc::EventLoop>),
}

/// The broker's ConnAck.
pub(super) struct Accepted {
    pub session_present: bool,
    /// Most messages the broker accepts unacknowledged.
    pub receive_maximum: u16,
    pub largest_packet: u32,
    pub retain_available: bool,
}

/// Event of a connection.
pub(super) enum Heard {
    Publish(Arrival),
    PubAck {
        pkid: u16,
        result: Result<(), String>,
    },
    /// Answers, one for each filter; the error is the broker's reason.
    SubAck {
        pkid: u16,
        granted: Vec<Result<(), String>>,
    },
    /// A request of ours was written and got this id.
    Written(u16),
    /// We disconnect.
    Disconnect,
    Other,
}

/// A message as received.
pub(super) struct Arrival {
    /// 0 at QoS 0.
    pub pkid: u16,
    pub topic: String,
    pub payload: Bytes,
    pub retain: bool,
    pub redelivered: bool,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation: Option<Vec<u8>>,
}

/// Creates both halves of a connection, with room for this many waiting requests; the error
/// concerns certificates.
pub(super) fn open(settings: &Settings, capacity: usize) -> Result<(Client, Events), Lost> {
    let transport = match &settings.tls {
        None => Transport::tcp(),
        Some(files) => {
            let tls = tls::client(files).map_err(|error| Lost::down(error.to_string()))?;
            Transport::tls_with_config(TlsConfiguration::Rustls(tls))
        }
    };
    // Without this, small packets wait for each other. One message out to mosquitto, back in and
    // acknowledged took 92 ms with delays on both sides, 45 ms with only ours removed, 0.2 ms with
    // mosquitto's removed too (`set_tcp_nodelay`).
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(CONNECT_TIMEOUT_SECONDS);
    // rumqttc reads on as long as something is there: from the system's own buffers, which grow to
    // megabytes, it took nine messages of 30 MiB at once.
    network.set_tcp_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    Ok(match settings.version {
        Version::Five => {
            let mut options = five_options(settings);
            options
                .set_transport(transport)
                .set_network_options(network);
            let (client, events) = v5::AsyncClient::new(options, capacity);
            (Client::Five(client), Events::Five(Box::new(events)))
        }
        Version::Three => {
            let mut options = three_options(settings);
            options.set_transport(transport);
            let (client, mut events) = rumqttc::AsyncClient::new(options, capacity);
            events.set_network_options(network);
            (Client::Three(client), Events::Three(Box::new(events)))
        }
    })
}

fn five_options(settings: &Settings) -> v5::MqttOptions {
    let Settings {
        client_id, broker, ..
    } = settings;
    let mut options = v5::MqttOptions::new(client_id, broker.bracketed_host(), broker.port);
    options
        .set_keep_alive(settings.keep_alive.max(LEAST_KEEP_ALIVE))
        .set_connection_timeout(CONNECT_TIMEOUT_SECONDS)
        .set_clean_start(settings.session_expiry.is_zero())
        .set_session_expiry_interval(Some(seconds(settings.session_expiry)))
        // The protocol forbids zero for both.
        .set_receive_maximum(Some(settings.receive_maximum.max(1)))
        .set_max_packet_size(Some(settings.max_packet_bytes.max(1)))
        .set_outgoing_inflight_upper_limit(PACKET_IDS)
        .set_manual_acks(true);
    if let Some(username) = &settings.username {
        options.set_credentials(username, settings.password.as_deref().unwrap_or_default());
    }
    if let Some(Message {
        topic,
        payload,
        retain,
        content_type,
        ..
    }) = settings.will.clone()
    {
        let properties = five::LastWillProperties {
            delay_interval: None,
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        options.set_last_will(five::LastWill::new(
            topic,
            payload,
            QoS::AtLeastOnce,
            retain,
            Some(properties),
        ));
    }
    options
}

fn three_options(settings: &Settings) -> rumqttc::MqttOptions {
    let Settings {
        client_id, broker, ..
    } = settings;
    let mut options = rumqttc::MqttOptions::new(client_id, broker.bracketed_host(), broker.port);
    options
        .set_keep_alive(settings.keep_alive.max(LEAST_KEEP_ALIVE))
        .set_clean_session(settings.session_expiry.is_zero())
        .set_max_packet_size(
            settings.max_packet_bytes.max(1) as usize,
            LARGEST_PACKET as usize,
        )
        .set_inflight(PACKET_IDS)
        .set_manual_acks(true);
    if let Some(username) = &settings.username {
        options.set_credentials(username, settings.password.as_deref().unwrap_or_default());
    }
    if let Some(Message {
        topic,
        payload,
        retain,
        ..
    }) = settings.will.clone()
    {
        options.set_last_will(three::LastWill::new(
            topic,
            payload,
            QoS3::AtLeastOnce,
            retain,
        ));
    }
    options
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

impl Client {
    /// Subscribes to these filters, and to those behind them without what is retained, if there is a
    /// session.
    pub fn subscribe(&self, filters: &[String], once_a_session: &[String]) -> bool {
        match self {
            Self::Five(client) => {
                let filter = |path, retain_forward_rule| five::Filter {
                    retain_forward_rule,
                    ..five::Filter::new(path, QoS::AtLeastOnce)
                };
                let all = filters
                    .iter()
                    .map(|path| filter(path, five::RetainForwardRule::OnEverySubscribe));
                let once = once_a_session
                    .iter()
                    .map(|path| filter(path, five::RetainForwardRule::OnNewSubscribe));
                client.try_subscribe_many(all.chain(once)).is_ok()
            }
            Self::Three(client) => {
                let filters = filters
                    .iter()
                    .chain(once_a_session)
                    .map(|filter| three::SubscribeFilter::new(filter.clone(), QoS3::AtLeastOnce));
                client.try_subscribe_many(filters).is_ok()
            }
        }
    }

    /// Requests an unsubscribe without waiting for the answer: messages that a refusing broker goes
    /// on sending are refused and logged.
    pub fn unsubscribe(&self, filter: &str) {
        let _ = match self {
            Self::Five(client) => client.try_unsubscribe(filter).is_ok(),
            Self::Three(client) => client.try_unsubscribe(filter).is_ok(),
        };
    }

    /// Returns the size of the message's packet in bytes.
    pub fn packet_bytes(&self, message: &Message) -> usize {
        let Message { topic, payload, .. } = message;
        match self {
            Self::Five(_) => {
                let properties = Some(properties(message));
                let mut packet =
                    five::Publish::new(topic, QoS::AtLeastOnce, payload.clone(), properties);
                packet.pkid = 1; // Only counted in the size when set.
                packet.size()
            }
            Self::Three(_) => {
                let mut packet = three::Publish::new(topic, QoS3::AtLeastOnce, payload.clone());
                packet.pkid = 1;
                packet.size()
            }
        }
    }

    pub fn publish(&self, message: Message) -> bool {
        match self {
            Self::Five(client) => {
                let properties = properties(&message);
                let Message {
                    topic,
                    payload,
                    retain,
                    ..
                } = message;
                client
                    .try_publish_with_properties(
                        topic,
                        QoS::AtLeastOnce,
                        retain,
                        payload,
                        properties,
                    )
                    .is_ok()
            }
            Self::Three(client) => {
                let Message {
                    topic,
                    payload,
                    retain,
                    ..
                } = message;
                client
                    .try_publish(topic, QoS3::AtLeastOnce, retain, payload)
                    .is_ok()
            }
        }
    }

    /// Acknowledges a message received at QoS 1.
    pub fn acknowledge(&self, pkid: u16) {
        // Fails only when the connection is gone, and then the broker sends the message again.
        let _ = match self {
            Self::Five(client) => {
                let publish = five::Publish {
                    pkid,
                    qos: QoS::AtLeastOnce,
                    ..five::Publish::default()
                };
                client.try_ack(&publish).is_ok()
            }
            Self::Three(client) => {
                let mut publish = three::Publish::new("", QoS3::AtLeastOnce, Vec::new());
                publish.pkid = pkid;
                client.try_ack(&publish).is_ok()
            }
        };
    }

    pub fn disconnect(&self) {
        let _ = match self {
            Self::Five(client) => client.try_disconnect().is_ok(),
            Self::Three(client) => client.try_disconnect().is_ok(),
        };
    }
}

fn properties(message: &Message) -> five::PublishProperties {
    five::PublishProperties {
        content_type: message.content_type.clone(),
        message_expiry_interval: message.expiry.map(seconds),
        correlation_data: message.correlation.clone().map(Into::into),
        ..five::PublishProperties::default()
    }
}

impl Events {
    /// Connects. rumqttc's first event on a fresh event loop is the ConnAck or an error.
    pub async fn connected(&mut self, keep_alive: Duration) -> Result<Accepted, Lost> {
        match self {
            Self::Five(events) => {
                let v5::Event::Incoming(five::Packet::ConnAck(connack)) = events.poll().await?
                else {
                    return Err(Lost::down("not an MQTT 5 broker: no ConnAck"));
                };
                let broker = connack.properties.as_ref();
                // Zero means that the broker wants no keep-alive; rumqttc would ping without pause.
                if broker.and_then(|broker| broker.server_keep_alive) == Some(0) {
                    events
                        .options
                        .set_keep_alive(keep_alive.max(LEAST_KEEP_ALIVE));
                }
                Ok(Accepted {
                    session_present: connack.session_present,
                    receive_maximum: broker
                        .and_then(|broker| broker.receive_max)
                        .unwrap_or(u16::MAX),
                    largest_packet: broker
                        .and_then(|broker| broker.max_packet_size)
                        .unwrap_or(LARGEST_PACKET),
                    retain_available: broker.and_then(|broker| broker.retain_available) != Some(0),
                })
            }
            Self::Three(events) => {
                let rumqttc::Event::Incoming(three::Packet::ConnAck(connack)) =
                    events.poll().await?
                else {
                    return Err(Lost::down("not an MQTT broker: no ConnAck"));
                };
                Ok(Accepted {
                    session_present: connack.session_present,
                    receive_maximum: u16::MAX,
                    largest_packet: LARGEST_PACKET,
                    retain_available: true,
                })
            }
        }
    }

    pub async fn next(&mut self) -> Result<Heard, Lost> {
        Ok(match self {
            Self::Five(events) => match events.poll().await? {
                v5::Event::Incoming(packet) => {
                    // A sign of life as good as the answer to a ping, which comes behind all
                    // messages under way.
                    events.state.await_pingresp = false;
                    heard_in_five(packet)
                }
                v5::Event::Outgoing(done) => heard_of_ours(&done),
            },
            Self::Three(events) => match events.poll().await? {
                rumqttc::Event::Incoming(packet) => {
                    events.state.await_pingresp = false;
                    heard_in_three(packet)
                }
                rumqttc::Event::Outgoing(done) => heard_of_ours(&done),
            },
        })
    }
}

fn heard_of_ours(done: &Outgoing) -> Heard {
    match done {
        Outgoing::Publish(pkid) | Outgoing::Subscribe(pkid) => Heard::Written(*pkid),
        Outgoing::Disconnect => Heard::Disconnect,
        _ => Heard::Other,
    }
}

/// A subscription granted at QoS 0 counts as refused, because messages would be lost unseen.
const ONLY_QOS_0: &str = "granted at QoS 0 only";

/// A small payload away from the network buffer it lies in, which may be larger and shared with its
/// neighbours. For a large one the buffer was made, and a copy would take as much again.
fn apart(payload: Bytes) -> Bytes {
    const LARGE: usize = 128 << 10;
    if payload.len() < LARGE {
        Bytes::copy_from_slice(&payload)
    } else {
        payload
    }
}

fn heard_in_five(packet: five::Packet) -> Heard {
    match packet {
        five::Packet::Publish(publish) => {
            let properties = publish.properties.unwrap_or_default();
            Heard::Publish(Arrival {
                pkid: if publish.qos == QoS::AtMostOnce {
                    0
                } else {
                    publish.pkid
                },
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: apart(publish.payload),
                retain: publish.retain,
                redelivered: publish.dup,
                content_type: properties.content_type,
                response_topic: properties.response_topic,
                correlation: properties.correlation_data.map(|data| data.to_vec()),
            })
        }
        five::Packet::PubAck(puback) => Heard::PubAck {
            pkid: puback.pkid,
            result: match puback.reason {
                five::PubAckReason::Success | five::PubAckReason::NoMatchingSubscribers => Ok(()),
                reason => Err(format!("{reason:?}")),
            },
        },
        five::Packet::SubAck(suback) => Heard::SubAck {
            pkid: suback.pkid,
            granted: suback
                .return_codes
                .into_iter()
                .map(|code| match code {
                    five::SubscribeReasonCode::Success(QoS::AtLeastOnce | QoS::ExactlyOnce) => {
                        Ok(())
                    }
                    five::SubscribeReasonCode::Success(QoS::AtMostOnce) => Err(ONLY_QOS_0.into()),
                    code => Err(format!("{code:?}")),
                })
                .collect(),
        },
        _ => Heard::Other,
    }
}

fn heard_in_three(packet: three::Packet) -> Heard {
    match packet {
        three::Packet::Publish(publish) => Heard::Publish(Arrival {
            pkid: if publish.qos == QoS3::AtMostOnce {
                0
            } else {
                publish.pkid
            },
            topic: publish.topic,
            payload: apart(publish.payload),
            retain: publish.retain,
            redelivered: publish.dup,
            content_type: None,
            response_topic: None,
            correlation: None,
        }),
        three::Packet::PubAck(puback) => Heard::PubAck {
            pkid: puback.pkid,
            result: Ok(()),
        },
        three::Packet::SubAck(suback) => Heard::SubAck {
            pkid: suback.pkid,
            granted: suback
                .return_codes
                .into_iter()
                .map(|code| match code {
                    three::SubscribeReasonCode::Success(QoS3::AtMostOnce) => Err(ONLY_QOS_0.into()),
                    three::SubscribeReasonCode::Success(_) => Ok(()),
                    three::SubscribeReasonCode::Failure => Err("the broker gives no reason".into()),
                })
                .collect(),
        },
        _ => Heard::Other,
    }
}

/// rumqttc cannot read a Disconnect without properties, which mosquitto sends when another client
/// takes the session; it only sees the connection end, so the reason is often lost.
const CLOSED: &str =
    "the broker closed the connection (stopped, or another client has our client id)";
const NO_PINGS: &str = "the broker stopped answering pings";

impl From<v5::ConnectionError> for Lost {
    fn from(error: v5::ConnectionError) -> Self {
        use v5::ConnectionError as Error;
        match error {
            Error::ConnectionRefused(five::ConnectReturnCode::UnsupportedProtocolVersion) => Self {
                reason: "it speaks no MQTT 5; set mqtt.version = \"3.1.1\"".into(),
                kind: LostKind::Refused,
            },
            Error::ConnectionRefused(code) => Self {
                reason: format!("{code:?}"),
                kind: LostKind::Refused,
            },
            Error::Timeout(_) => Self::down("no answer in time"),
            // The packet is not shown: it might be a message.
            Error::NotConnAck(_) => Self::down("not an MQTT 5 broker: no ConnAck"),
            Error::Io(error) => Self::down(error.to_string()),
            Error::Tls(error) => Self::tls(&error),
            Error::MqttState(error) => Self::from(error),
            error => Self::down(error.to_string()),
        }
    }
}

impl From<v5::StateError> for Lost {
    fn from(error: v5::StateError) -> Self {
        use v5::StateError as Error;
        match error {
            Error::ServerDisconnect {
                reason_code: five::DisconnectReasonCode::SessionTakenOver,
                ..
            } => Self {
                reason: "another client has our client id".to_owned(),
                kind: LostKind::TakenOver,
            },
            Error::ServerDisconnect { reason_code, .. } => {
                Self::down(format!("the broker ended the connection: {reason_code:?}"))
            }
            Error::Deserialization(five_bytes::Error::PayloadSizeLimitExceeded {
                pkt_size,
                max,
            }) => Self::too_large(pkt_size, max as usize),
            Error::ConnectionAborted
            | Error::Deserialization(five_bytes::Error::PayloadRequired) => Self::closed(),
            Error::AwaitPingResp => Self::down(NO_PINGS),
            error => Self::down(error.to_string()),
        }
    }
}

impl From<rumqttc::ConnectionError> for Lost {
    fn from(error: rumqttc::ConnectionError) -> Self {
        use rumqttc::{ConnectionError as Error, StateError};
        match error {
            Error::ConnectionRefused(code) => Self {
                reason: format!("{code:?}"),
                kind: LostKind::Refused,
            },
            Error::NetworkTimeout | Error::FlushTimeout => Self::down("no answer in time"),
            Error::NotConnAck(_) => Self::down("not an MQTT broker: no ConnAck"),
            Error::Io(error) => Self::down(error.to_string()),
            Error::Tls(error) => Self::tls(&error),
            Error::MqttState(StateError::Deserialization(
                three_bytes::Error::PayloadSizeLimitExceeded(bytes),
            )) => Self::down(format!(
                "the broker sent a packet of {bytes} bytes, more than mqtt.max_packet; \
                     nothing behind it arrives until it expires or the limit is raised"
            )),
            Error::MqttState(StateError::ConnectionAborted) => Self::closed(),
            Error::MqttState(StateError::Io(error))
                if error.kind() == std::io::ErrorKind::ConnectionAborted =>
            {
                Self::closed()
            }
            Error::MqttState(StateError::AwaitPingResp) => Self::down(NO_PINGS),
            error => Self::down(error.to_string()),
        }
    }
}

/// Returns a sentence about the board's clock if it invalidates the broker's certificate: boards
/// without a battery start in 1970.
fn wrong_time(error: &rumqttc::TlsError) -> Option<String> {
    use rustls::CertificateError::{ExpiredContext, NotValidYetContext};
    let rumqttc::TlsError::Io(error) = error else {
        return None;
    };
    let rustls::Error::InvalidCertificate(why) = error.get_ref()?.downcast_ref()? else {
        return None;
    };
    let text = |time: &rustls::pki_types::UnixTime| {
        let moment =
            OffsetDateTime::from_unix_timestamp(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
        moment.map_or_else(
            |_| "a date out of range".into(),
            |moment| moment.date().to_string(),
        )
    };
    match why {
        NotValidYetContext { time, not_before } => Some(format!(
            "this board's clock says {}, and the broker's certificate is valid from {} on: set the clock, or have it set by \
             the network (timedatectl says how it stands)",
            text(time),
            text(not_before)
        )),
        ExpiredContext { time, not_after } => Some(format!(
            "the broker's certificate was valid until {}, and this board's clock says {}: renew the certificate, or set the \
             clock if it is wrong",
            text(not_after),
            text(time)
        )),
        _ => None,
    }
}

impl Lost {
    fn closed() -> Self {
        Self {
            reason: CLOSED.to_owned(),
            kind: LostKind::Closed,
        }
    }

    fn tls(error: &rumqttc::TlsError) -> Self {
        if let Some(sentence) = wrong_time(error) {
            return Self::down(sentence);
        }
        Self::down(format!(
            "no encrypted connection: {error}; see mqtt.ca_file, mqtt.client_cert and \
             mqtt.client_key"
        ))
    }

    fn too_large(bytes: usize, limit: usize) -> Self {
        Self::down(format!(
            "the broker sent a packet of {bytes} bytes although our limit is {limit}; \
             nothing behind it arrives until it expires or the limit is raised"
        ))
    }
}
