//! A broker that hands the messages of a member of a shared group on when its connection ends, as
//! MQTT 5 advises and clustered brokers do. Mosquitto drops them, and no broker that hands them on
//! can be had here. It knows nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::{Mutex, MutexGuard};
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Packet, PingResp, PubAck, PubAckReason, Publish, SubAck,
    SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};

/// Messages that a member has at a time.
const UNDER_WAY: usize = 16;

#[derive(Default)]
struct State {
    waiting: VecDeque<String>,
    members: BTreeMap<String, Member>,
    results: Vec<String>,
    handed_on: Vec<String>,
    deaf_to: Option<String>,
}

struct Member {
    stream: TcpStream,
    next_id: u16,
    unacknowledged: BTreeMap<u16, String>,
}

/// Listens on a port of its own for as long as the test runs.
pub struct HandingBroker {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl HandingBroker {
    pub fn running() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let broker = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::default(),
        };
        let state = Arc::clone(&broker.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        broker
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns the members of the group by client id.
    pub fn members(&self) -> usize {
        self.state().members.len()
    }

    /// From now on this member's acknowledgements are lost on their way.
    pub fn lose_acknowledgements_of(&self, client_id: &str) {
        self.state().deaf_to = Some(client_id.into());
    }

    /// Gives the group messages.
    pub fn send(&self, messages: impl IntoIterator<Item = String>) {
        let mut state = self.state();
        state.waiting.extend(messages);
        distribute(&mut state);
    }

    /// Returns the results so far.
    pub fn results(&self) -> Vec<String> {
        self.state().results.clone()
    }

    /// Messages that were given to another member because one was gone.
    pub fn handed_on(&self) -> Vec<String> {
        self.state().handed_on.clone()
    }

    /// Messages that no member has acknowledged.
    pub fn unacknowledged(&self) -> usize {
        let state = self.state();
        state.waiting.len()
            + state
                .members
                .values()
                .map(|member| member.unacknowledged.len())
                .sum::<usize>()
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut client = String::new();
    let mut buffer = BytesMut::new();
    let lock = || state.lock();
    while let Some(packet) = next(&mut stream, &mut buffer) {
        let answer = match packet {
            Packet::Connect(connect, ..) => {
                client = connect.client_id;
                let code = ConnectReturnCode::Success;
                Some(Packet::ConnAck(ConnAck {
                    session_present: false,
                    code,
                    properties: None,
                }))
            }
            Packet::Subscribe(subscribe) => {
                if subscribe
                    .filters
                    .iter()
                    .any(|filter| filter.path.starts_with("$share/"))
                {
                    let writing = stream.try_clone().unwrap();
                    let member = Member {
                        stream: writing,
                        next_id: 1,
                        unacknowledged: BTreeMap::new(),
                    };
                    lock().members.insert(client.clone(), member);
                }
                let granted = SubscribeReasonCode::Success(QoS::AtLeastOnce);
                let return_codes = vec![granted; subscribe.filters.len()];
                Some(Packet::SubAck(SubAck {
                    pkid: subscribe.pkid,
                    return_codes,
                    properties: None,
                }))
            }
            Packet::Publish(publish) => {
                if publish.topic.ends_with(b"/result") {
                    lock()
                        .results
                        .push(String::from_utf8(publish.payload.to_vec()).unwrap());
                }
                Some(Packet::PubAck(PubAck {
                    pkid: publish.pkid,
                    reason: PubAckReason::Success,
                    properties: None,
                }))
            }
            Packet::PubAck(acknowledged) => {
                let mut state = lock();
                if state.deaf_to.as_ref() != Some(&client)
                    && let Some(member) = state.members.get_mut(&client)
                {
                    member.unacknowledged.remove(&acknowledged.pkid);
                }
                distribute(&mut state);
                None
            }
            Packet::PingReq(_) => Some(Packet::PingResp(PingResp)),
            Packet::Disconnect(_) => break,
            _ => None,
        };
        let lost = answer.is_some_and(|answer| !write(&mut stream, &answer));
        distribute(&mut lock());
        if lost {
            break;
        }
    }
    let mut state = lock();
    if let Some(member) = state.members.remove(&client) {
        let theirs: Vec<_> = member.unacknowledged.into_values().collect();
        state.handed_on.extend(theirs.iter().cloned());
        theirs
            .into_iter()
            .rev()
            .for_each(|message| state.waiting.push_front(message));
        distribute(&mut state);
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Hands each message to the member with the fewest.
fn distribute(state: &mut State) {
    while !state.waiting.is_empty() {
        let least = state
            .members
            .values_mut()
            .min_by_key(|member| member.unacknowledged.len());
        let Some(member) = least.filter(|member| member.unacknowledged.len() < UNDER_WAY) else {
            return;
        };
        let Some(message) = state.waiting.pop_front() else {
            return;
        };
        let mut publish = Publish::new("site/paths", QoS::AtLeastOnce, message.clone(), None);
        publish.pkid = member.next_id;
        member.next_id = member.next_id % 1000 + 1;
        member.unacknowledged.insert(publish.pkid, message);
        // The reading thread notices a member that is gone.
        let _ = write(&mut member.stream, &Packet::Publish(publish));
    }
}

fn write(stream: &mut TcpStream, packet: &Packet) -> bool {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, None).unwrap();
    stream.write_all(&bytes).is_ok()
}

fn next(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<Packet> {
    loop {
        match Packet::read(buffer, None) {
            Ok(packet) => return Some(packet),
            Err(Error::InsufficientBytes(_)) => {}
            // A plain Disconnect, which rumqttc writes and cannot read; the end of the connection
            // follows.
            Err(_) => return None,
        }
        let mut chunk = [0; 65536];
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => buffer.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}
