//! The servers of the LAN, HTTP and gRPC: connection limits, timeouts and encryption.
//!
//! The routes are passed in and learn where a request came from. The control socket is `control`'s.

mod connection_limit;
mod timeouts;
pub mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::problem::Problem;
use crate::status::heartbeat::Pulse;
pub use connection_limit::Client;
use connection_limit::{ConnectionLimit, ConnectionPermit, Limits};
use timeouts::BodyTimeout;
pub use timeouts::WriteTimeout;
use tls::Encryption;

/// Time for the complete head of a request; also the idle time between two requests.
pub(crate) const HEAD: Duration = Duration::from_secs(30);
/// Largest head of a request.
const HEAD_BYTES: usize = 32 << 10;
/// Most unread bytes that a connection may buffer.
const BUFFER_BYTES: usize = 64 << 10;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for the last requests when the server stops: an endless upload must not use up the time for
/// all others.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// Pause after an error of accept(2) such as too many open files.
pub(crate) const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Connections to the page; each may hold some 200 KiB.
const HTTP_LIMITS: Limits = Limits {
    total: 512,
    per_client: 128,
};
/// Connections of the gRPC contract, each with its streams.
const GRPC_LIMITS: Limits = Limits {
    total: 128,
    per_client: 64,
};
/// Simultaneous requests on one gRPC connection; HTTP/2 itself refuses more.
const STREAMS: u32 = 32;
/// Flow-control window of a stream and of a connection: a request is a path.
const WINDOW: u32 = 64 << 10;
/// Interval after which a dead gRPC client is detected.
const PING: Duration = Duration::from_secs(30);
/// Time that a gRPC client may be connected without a request.
const GRPC_IDLE: Duration = Duration::from_secs(300);
/// Limit of open files that suffices for the connections of all listeners, `control`'s included,
/// and for everything else.
pub const FILES: u64 = 1024;

/// Transport of a request, in addition to its sender in `ConnectInfo`.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The address of this board that the request was sent to.
    pub local: SocketAddr,
    /// True if it came by TLS.
    pub encrypted: bool,
}

/// The protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without encryption, as gRPC uses it.
    Grpc,
}

/// Serves until stopped. The loop answers the watchdog through `pulse`.
pub async fn serve(
    listener: TcpListener,
    protocol: Protocol,
    routes: Router,
    encryption: Option<Encryption>,
    mut pulse: Pulse,
    stop: CancellationToken,
) {
    let limit = ConnectionLimit::new(match protocol {
        Protocol::Http => HTTP_LIMITS,
        Protocol::Grpc => GRPC_LIMITS,
    });
    let mut connections = JoinSet::new();
    // A separate task, so that this loop never waits for the certificate's file system; it ends
    // with the set.
    let mut looking = JoinSet::new();
    let acceptor = encryption.map(|encryption| {
        let (acceptors, acceptor) = watch::channel(encryption.acceptor());
        looking.spawn(encryption.keep_up(acceptors));
        acceptor
    });
    while !stop.is_cancelled() {
        let turn = async {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let acceptor = acceptor.as_ref().map(|acceptor| acceptor.borrow().clone());
                        match limit.admit(peer.ip()) {
                            Some(permit) => {
                                let (routes, stop) = (routes.clone(), stop.clone());
                                let (unread, answers) = (Arc::default(), Arc::default());
                                let connection = Connection { protocol, routes, peer, permit, unread, answers, stop };
                                connections.spawn(Arc::new(connection).run(stream, acceptor));
                            }
                            None => turn_away(&stream, acceptor.is_some() || protocol == Protocol::Grpc),
                        }
                    }
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        tracing::error!("no connection can be accepted: {error}");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
            }
        };
        pulse.answer_during(turn).await;
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // Remaining connections end when the set is dropped.
    let _ = tokio::time::timeout(LAST_REQUESTS, ended).await;
}

fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// Refuses a connection when all others are answering requests. Sends a 503 as far as that
/// works without waiting.
fn turn_away(stream: &TcpStream, silently: bool) {
    if !silently {
        let _ = stream.try_write(
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 10\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        );
    }
}

/// A connection, from admission to end.
struct Connection {
    protocol: Protocol,
    routes: Router,
    peer: SocketAddr,
    permit: ConnectionPermit,
    /// True if a request's body was not read to its end.
    unread: Arc<AtomicBool>,
    /// Number of responses begun.
    answers: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self: Arc<Self>, stream: TcpStream, acceptor: Option<tokio_rustls::TlsAcceptor>) {
        // Responses are small, and the client waits for each.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else {
            return;
        };
        let evicted = self.permit.evicted();
        let timed =
            |stream| WriteTimeout::new(stream, Arc::clone(&self.unread), Arc::clone(&self.answers));
        let talk = async {
            let Some(acceptor) = acceptor else {
                return self
                    .talk(
                        timed(stream),
                        Arrival {
                            local,
                            encrypted: false,
                        },
                    )
                    .await;
            };
            let handshake = async {
                if is_plain(&stream).await {
                    return answer_plainly(stream).await;
                }
                acceptor.accept(timed(stream)).await.ok()
            };
            if let Ok(Some(stream)) = tokio::time::timeout(HANDSHAKE, handshake).await {
                self.talk(
                    stream,
                    Arrival {
                        local,
                        encrypted: true,
                    },
                )
                .await;
            }
        };
        tokio::select! {
            () = talk => {}
            () = evicted.cancelled() => {}
        }
    }

    async fn talk(self: &Arc<Self>, io: impl AsyncRead + AsyncWrite + Unpin, arrival: Arrival) {
        let connection = Arc::clone(self);
        let service = service_fn(move |request| Arc::clone(&connection).answer(request, arrival));
        if self.protocol == Protocol::Grpc {
            let serving = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .max_header_list_size(HEAD_BYTES as u32)
                .keep_alive_interval(PING)
                .keep_alive_timeout(PING)
                .serve_connection(TokioIo::new(io), service);
            let mut serving = std::pin::pin!(serving);
            tokio::select! {
                _ = &mut serving => return,
                () = self.stop.cancelled() => {}
                () = self.grpc_idle() => {}
            }
            serving.as_mut().graceful_shutdown();
            // A client that never sent a byte gets no goodbye either.
            let _ = tokio::time::timeout(LAST_REQUESTS, serving).await;
            return;
        }
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(io), service);
        let mut serving = std::pin::pin!(serving);
        // A broken connection concerns only its client.
        tokio::select! {
            _ = &mut serving => return,
            () = self.stop.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    }

    /// Ends when the client has sent no request for long.
    async fn grpc_idle(&self) {
        loop {
            let left = GRPC_IDLE.saturating_sub(self.permit.idle());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        arrival: Arrival,
    ) -> Result<Response, Infallible> {
        let active = self.permit.begin_request();
        self.answers.fetch_add(1, Ordering::Relaxed);
        let stalled = Arc::new(AtomicBool::new(false));
        let mut request = request.map(|body| {
            let (stalled, unread) = (Arc::clone(&stalled), Arc::clone(&self.unread));
            Body::new(BodyTimeout::new(body, stalled, unread))
        });
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(arrival);
        let mut response = self
            .routes
            .clone()
            .oneshot(request)
            .await
            .unwrap_or_else(|never| match never {});
        // The handler saw the body break off and does not know why.
        if stalled.load(Ordering::Relaxed) && !response.status().is_success() {
            let detail = "The rest of the request did not come in time.";
            response = Problem::new(StatusCode::REQUEST_TIMEOUT, detail).into_response();
            if self.protocol == Protocol::Http {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        // The request is active until its response's body is dropped.
        Ok(response.map(|body| {
            Body::new(body.map_err(move |error| {
                let _active = &active;
                error
            }))
        }))
    }
}

/// Returns true if the client speaks plain HTTP where TLS is expected; every TLS handshake begins
/// with this byte.
async fn is_plain(stream: &TcpStream) -> bool {
    const HANDSHAKE_RECORD: u8 = 22;
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1) if first[0] != HANDSHAKE_RECORD)
}

/// Answers in plain text, which a browser shows. Nothing of the request is read, so no secret in it
/// is used.
async fn answer_plainly<T>(mut stream: TcpStream) -> Option<T> {
    let answer = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
                  This page is encrypted: write https:// instead of http://.\n";
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    None
}

#[cfg(test)]
mod tests;
