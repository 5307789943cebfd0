//! A scripted broker that sends exactly what a test tells it to, for events that no real broker
//! produces on demand.

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet,
    PubAck, PubAckReason, Publish, SubAck, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::{BRIEFLY, PATIENCE};

pub struct Double {
    listener: TcpListener,
}

/// A connection to the double; dropping it cuts it.
pub struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Double {
    pub async fn listen() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Waits for a connection and reads its Connect.
    pub async fn accept(&self) -> Peer {
        let (stream, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .expect("no client connected")
            .unwrap();
        let mut peer = Peer {
            stream,
            buffer: BytesMut::new(),
        };
        assert!(matches!(peer.recv().await, Packet::Connect(..)));
        peer
    }

    /// Accepts a client with subscriptions and grants them.
    pub async fn accept_subscribed(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.connack(|_| {}).await;
        peer.suback(SubscribeReasonCode::Success(QoS::AtLeastOnce))
            .await;
        peer
    }

    /// Accepts a client without subscriptions.
    pub async fn accept_publisher(&self) -> Peer {
        let mut peer = self.accept().await;
        peer.connack(|_| {}).await;
        peer
    }
}

impl Peer {
    pub async fn connack(&mut self, change: impl FnOnce(&mut ConnAckProperties)) {
        let mut properties = ConnAckProperties {
            session_expiry_interval: None,
            receive_max: None,
            max_qos: None,
            retain_available: None,
            max_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_max: None,
            reason_string: None,
            user_properties: Vec::new(),
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        };
        change(&mut properties);
        let code = ConnectReturnCode::Success;
        self.send(Packet::ConnAck(ConnAck {
            session_present: true,
            code,
            properties: Some(properties),
        }))
        .await;
    }

    pub async fn suback(&mut self, code: SubscribeReasonCode) {
        let Packet::Subscribe(subscribe) = self.recv().await else {
            panic!("expected a Subscribe")
        };
        let return_codes = vec![code; subscribe.filters.len()];
        self.send(Packet::SubAck(SubAck {
            pkid: subscribe.pkid,
            return_codes,
            properties: None,
        }))
        .await;
    }

    pub async fn publish(&mut self, pkid: u16, payload: &str) {
        let qos = if pkid == 0 {
            QoS::AtMostOnce
        } else {
            QoS::AtLeastOnce
        };
        let mut publish = Publish::new("in", qos, payload.to_owned(), None);
        publish.pkid = pkid;
        self.send(Packet::Publish(publish)).await;
    }

    pub async fn puback(&mut self, pkid: u16, reason: PubAckReason) {
        self.send(Packet::PubAck(PubAck {
            pkid,
            reason,
            properties: None,
        }))
        .await;
    }

    pub async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.send_bytes(&bytes).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Returns the next packet; `None` when the client closed the connection.
    async fn next(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, None) {
                Ok(packet) => return Some(packet),
                Err(Error::InsufficientBytes(_)) => {}
                // rumqttc writes a plain Disconnect as two bytes, as it should, but cannot read it.
                Err(Error::PayloadRequired) => {
                    return Some(Packet::Disconnect(Disconnect::new(
                        DisconnectReasonCode::NormalDisconnection,
                    )));
                }
                Err(error) => panic!("the client sent nonsense: {error}"),
            }
            if !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(count) if count > 0) {
                return None;
            }
        }
    }

    pub async fn recv(&mut self) -> Packet {
        timeout(PATIENCE, self.next())
            .await
            .expect("nothing came in time")
            .expect("the client hung up")
    }

    pub async fn recv_puback(&mut self) -> u16 {
        match self.recv().await {
            Packet::PubAck(puback) => puback.pkid,
            packet => panic!("expected a PubAck, got {packet:?}"),
        }
    }

    /// Returns a message's packet id and payload.
    pub async fn recv_publish(&mut self) -> (u16, String) {
        match self.recv().await {
            Packet::Publish(publish) => (
                publish.pkid,
                String::from_utf8(publish.payload.to_vec()).unwrap(),
            ),
            packet => panic!("expected a Publish, got {packet:?}"),
        }
    }

    pub async fn nothing_comes(&mut self) {
        let silence = timeout(BRIEFLY, self.next()).await;
        assert!(silence.is_err(), "{silence:?}");
    }

    pub async fn hung_up(&mut self) {
        assert_eq!(
            timeout(PATIENCE, self.next())
                .await
                .expect("the client stayed"),
            None
        );
    }
}
