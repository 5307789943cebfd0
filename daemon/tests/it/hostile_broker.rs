//! A broker of our own that speaks both protocol versions and sends whatever bytes a test gives it:
//! topics that no real broker lets through, and random packets. It keeps no session and repeats
//! nothing.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Listens on a port of its own for as long as the test runs.
pub struct HostileBroker {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By client id, each with its connection's number: an old connection may end after the new one
    /// has begun.
    clients: BTreeMap<String, (usize, TcpStream)>,
    published: Vec<(String, Vec<u8>)>,
    acknowledged: Vec<u16>,
    connections: usize,
}

impl HostileBroker {
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

    /// Sends bytes to a client; false when it is not connected and subscribed.
    pub fn send(&self, client: &str, bytes: &[u8]) -> bool {
        let stream = self
            .state()
            .clients
            .get(client)
            .map(|(_, stream)| stream.try_clone().unwrap());
        stream.is_some_and(|mut stream| stream.write_all(bytes).is_ok())
    }

    /// Ends every connection: what was sent last may have been the beginning of a large packet,
    /// whose rest is waited for.
    pub fn cut(&self) {
        for (_, stream) in self.state().clients.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Topic and payload of everything that was published here.
    pub fn published(&self) -> Vec<(String, Vec<u8>)> {
        self.state().published.clone()
    }

    /// Returns whether the message with this packet id was acknowledged.
    pub fn has_acknowledged(&self, id: u16) -> bool {
        self.state().acknowledged.contains(&id)
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.state().connections
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let lock = || state.lock();
    let (mut client, mut level, mut number) = (String::new(), 5, 0);
    while let Some((first, body)) = packet(&mut stream) {
        let five = level == 5;
        let answer = match first >> 4 {
            1 => {
                level = body[6];
                let after = if level == 5 {
                    11 + usize::from(body[10])
                } else {
                    10
                };
                client = String::from_utf8_lossy(text_at(&body, after)).into_owned();
                let mut state = lock();
                state.connections += 1;
                number = state.connections;
                if level == 5 {
                    vec![0x20, 3, 0, 0, 0]
                } else {
                    vec![0x20, 2, 0, 0]
                }
            }
            3 => {
                let topic = text_at(&body, 0);
                let (id, mut rest) = body[2 + topic.len()..].split_at(2);
                if five {
                    rest = &rest[1 + usize::from(rest[0])..];
                }
                lock()
                    .published
                    .push((String::from_utf8_lossy(topic).into_owned(), rest.to_vec()));
                vec![0x40, 2, id[0], id[1]]
            }
            4 => {
                lock()
                    .acknowledged
                    .push(u16::from_be_bytes([body[0], body[1]]));
                continue;
            }
            8 => {
                let (mut at, mut granted) = (if five { 3 } else { 2 }, Vec::new());
                while at < body.len() {
                    at += 2 + text_at(&body, at).len() + 1;
                    granted.push(1);
                }
                lock()
                    .clients
                    .insert(client.clone(), (number, stream.try_clone().unwrap()));
                let head: &[u8] = if five {
                    &[body[0], body[1], 0]
                } else {
                    &body[..2]
                };
                framed(0x90, &[head, &granted].concat())
            }
            12 => vec![0xD0, 0],
            14 => break,
            _ => continue,
        };
        if stream.write_all(&answer).is_err() {
            break;
        }
    }
    let mut state = lock();
    if state
        .clients
        .get(&client)
        .is_some_and(|(of, _)| *of == number)
    {
        state.clients.remove(&client);
    }
}

/// First byte and body of the next packet.
fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    let (first, mut length, mut shift) = (byte[0], 0, 0);
    loop {
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first, body))
}

fn text_at(body: &[u8], at: usize) -> &[u8] {
    let length = usize::from(u16::from_be_bytes([body[at], body[at + 1]]));
    &body[at + 2..at + 2 + length]
}

/// A packet: first byte, length, body.
pub fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let more = if length > 127 { 0x80 } else { 0 };
        packet.push((length % 128) as u8 | more);
        length /= 128;
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

/// A length before its bytes, as the protocol writes text.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A message; id 0: at QoS 0. Properties are bytes as they stand in the packet and only for version
/// 5.
pub fn publish(level: u8, topic: &[u8], id: u16, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if id > 0 {
        body.extend(id.to_be_bytes());
    }
    if level == 5 {
        let length = framed(0, &vec![0; properties.len()]);
        body.extend(&length[1..length.len() - properties.len()]);
        body.extend(properties);
    }
    body.extend(payload);
    framed(if id > 0 { 0x32 } else { 0x30 }, &body)
}

/// A packet as no good broker sends it: strange but well formed, or broken somewhere.
pub fn hostile(level: u8, topics: &[&str]) -> Vec<u8> {
    let any = |most: usize| {
        (0..fastrand::usize(..most))
            .map(|_| fastrand::u8(..))
            .collect::<Vec<_>>()
    };
    let word = || {
        let words: [&[u8]; 12] = [
            b"",
            "\u{dc}bersicht/snapshot".as_bytes(),
            b"\xff\xfe/snapshot",
            b"$SYS/x",
            b"$share/a/b",
            b"#",
            b"+/+",
            b"a\0b",
            "\u{1f642}".as_bytes(),
            b"/",
            b"kithd/board/command/status",
            b"\xc3",
        ];
        match fastrand::u8(..4) {
            0 => any(40),
            1 => topics[fastrand::usize(..topics.len())].as_bytes().to_vec(),
            2 => vec![b'x'; fastrand::usize(..70_000).min(65_535)],
            _ => words[fastrand::usize(..words.len())].to_vec(),
        }
    };
    let property = || match fastrand::u8(..9) {
        0 => [vec![1], any(2)].concat(),
        1 => [vec![2], any(5)].concat(),
        2 => [vec![3], text(&word())].concat(),
        3 => [vec![8], text(&word())].concat(),
        4 => [vec![9], text(&any(30))].concat(),
        5 => [vec![11], any(5)].concat(),
        6 => vec![35, 0, fastrand::u8(..)],
        7 => [vec![38], text(&word()), text(&word())].concat(),
        _ => any(12),
    };
    let id = fastrand::u16(1..100);
    let message = || {
        let properties = (0..fastrand::usize(..3))
            .flat_map(|_| property())
            .collect::<Vec<_>>();
        let mut packet = publish(
            level,
            &word(),
            id * fastrand::u16(..2),
            &properties,
            &any(200),
        );
        packet[0] |= fastrand::u8(..) & 0b1001;
        packet
    };
    let ids = id.to_be_bytes();
    let mut packet = match fastrand::u8(..16) {
        0 => framed(
            0x20,
            &[&[fastrand::u8(..2), 0], any(20).as_slice()].concat(),
        ),
        1 => framed(0x40, &[&ids, any(6).as_slice()].concat()),
        2 => framed(0x50, &[&ids, any(6).as_slice()].concat()),
        3 => framed(0x62, &[&ids, any(6).as_slice()].concat()),
        4 => framed(0x70, &[&ids, any(6).as_slice()].concat()),
        5 => framed(0x90, &[&ids, any(6).as_slice()].concat()),
        6 => framed(0xB0, &[&ids, any(6).as_slice()].concat()),
        7 => framed(0xD0, &any(3)),
        8 => framed(0xE0, &any(10)),
        9 => framed(0xF0, &any(10)),
        10 => any(64),
        _ => message(),
    };
    // Broken somewhere: bytes changed, cut short, or something put in.
    if fastrand::u8(..3) == 0 && !packet.is_empty() {
        for _ in 0..fastrand::usize(1..4) {
            let at = fastrand::usize(..packet.len());
            match fastrand::u8(..3) {
                0 => packet[at] = fastrand::u8(..),
                1 => packet.truncate(at.max(1)),
                _ => packet.insert(at, fastrand::u8(..)),
            }
        }
    }
    packet
}
