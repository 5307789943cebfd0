//! A server for tests, which says what real devices say.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Address;

/// What a server does after its answer.
#[derive(Clone, Copy, PartialEq)]
pub enum Then {
    /// It waits for the next request.
    Keep,
    /// It closes the connection.
    Close,
    /// It does nothing more.
    Hang,
}

/// A server and the requests it got: the number of the connection, and the head with the body.
pub struct Server {
    /// Its address.
    pub address: Address,
    seen: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Server {
    /// Answers each request by `answer`.
    pub async fn start(mut answer: impl FnMut(&str) -> (String, Then) + Send + 'static) -> Self {
        Self::of_bytes(move |request| {
            let (text, then) = answer(request);
            (text.into_bytes(), then)
        })
        .await
    }

    /// The same in bytes.
    pub async fn of_bytes(answer: impl FnMut(&str) -> (Vec<u8>, Then) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(Mutex::new(answer));
        let told = seen.clone();
        tokio::spawn(async move {
            for connection in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (told, answer) = (told.clone(), answer.clone());
                tokio::spawn(async move {
                    while let Some(request) = request(&mut stream).await {
                        told.lock().unwrap().push((connection, request.clone()));
                        let (bytes, then) = {
                            let mut answer = answer.lock().unwrap();
                            (*answer)(&request)
                        };
                        let _ = stream.write_all(&bytes).await;
                        match then {
                            Then::Keep => {}
                            Then::Close => return,
                            Then::Hang => std::future::pending().await,
                        }
                    }
                });
            }
        });
        Self {
            address: address(port),
            seen,
        }
    }

    /// Takes the requests so far.
    pub fn seen(&self) -> Vec<(usize, String)> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Returns an address of this machine.
pub fn address(port: u16) -> Address {
    Address {
        https: false,
        host: "127.0.0.1".into(),
        port,
    }
}

/// Reads a head, and a body of its `content-length`.
pub async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = field(head, "content-length").map_or(0, |value| value.parse().unwrap());
            if body.len() >= length {
                return Some(text.into_owned());
            }
        }
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        read.push(byte[0]);
    }
}

/// Returns a field of a head.
pub fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let found = lines.find(|(field, _)| field.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}
