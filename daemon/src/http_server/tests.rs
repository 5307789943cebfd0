//! Tests with real connections to a small set of routes. Time is paused once a request has reached
//! its state, so that no test waits.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::routing::{get, post};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::*;
use crate::status::heartbeat::heartbeat;

struct Site {
    address: SocketAddr,
    /// Progress of a request.
    seen: mpsc::UnboundedReceiver<&'static str>,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

/// Reports when it is dropped.
struct Farewell(mpsc::UnboundedSender<&'static str>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.0.send("over");
    }
}

impl Site {
    async fn start() -> Self {
        Self::encrypted(None).await
    }

    async fn encrypted(encryption: Option<Encryption>) -> Self {
        let (told, seen) = mpsc::unbounded_channel();
        let (upload, endless, slow) = (told.clone(), told.clone(), told.clone());
        let routes = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/refused", post(|| async { StatusCode::UNAUTHORIZED }))
            .route(
                "/upload",
                post(move |body: Body| async move {
                    let mut body = body.into_data_stream();
                    while let Some(part) = body.next().await {
                        part.map_err(|error| Problem::bad_request(error.to_string()))?;
                        let _ = upload.send("part");
                    }
                    Ok::<_, Problem>("taken")
                }),
            )
            .route(
                "/events",
                get(|| async {
                    let late = |part| async move {
                        tokio::time::sleep(Duration::from_secs(3600)).await;
                        Some((Ok::<_, Infallible>(Bytes::from_static(b"late")), part))
                    };
                    Body::from_stream(futures_util::stream::unfold((), late))
                }),
            )
            .route(
                "/endless",
                get(move || async move {
                    let farewell = Farewell(endless.clone());
                    Body::from_stream(futures_util::stream::repeat_with(move || {
                        let _ = &farewell;
                        Ok::<_, Infallible>(Bytes::from(vec![0; 1 << 16]))
                    }))
                }),
            )
            .route(
                "/slow",
                get(move || async move {
                    let _ = slow.send("begun");
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    "done"
                }),
            );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let serving = tokio::spawn(serve(
            listener,
            Protocol::Http,
            routes,
            encryption,
            heartbeat().1,
            stop.clone(),
        ));
        Self {
            address,
            seen,
            stop,
            serving,
        }
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

async fn read(stream: &mut TcpStream) -> String {
    let mut buffer = vec![0; 4096];
    let count = stream.read(&mut buffer).await.unwrap_or(0);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[tokio::test]
async fn a_body_that_comes_no_further_is_answered_408() {
    let mut site = Site::start().await;
    let mut stream = site
        .send("POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    assert_eq!(site.seen.recv().await, Some("part"));
    tokio::time::pause();
    let answer = read(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("connection: close"),
        "{answer}"
    );
    assert!(answer.ends_with("did not come in time.\"}"), "{answer}");
    assert_eq!(read(&mut stream).await, "");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_sends_all_of_it_first() {
    let site = Site::start().await;
    for _ in 0..5 {
        let mut stream = site
            .send("POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
            .await;
        stream.write_all(&vec![0; 8_000_000]).await.unwrap();
        let answer = read(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_and_a_quiet_answer_is_not() {
    let site = Site::start().await;
    let mut idle = site.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(read(&mut idle).await.ends_with("hello"));
    let mut quiet = site.send("GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(read(&mut quiet).await.starts_with("HTTP/1.1 200 OK"));
    tokio::time::pause();
    assert_eq!(read(&mut idle).await, "", "closed");
    assert!(read(&mut quiet).await.contains("late"));
    assert!(read(&mut quiet).await.contains("late"));
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_is_left() {
    let mut site = Site::start().await;
    let mut stream = site.send("GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(read(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    // Until the buffers between both ends are full.
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::time::pause();
    assert_eq!(site.seen.recv().await, Some("over"));
}

#[tokio::test]
async fn a_certificate_on_a_hanging_mount_holds_up_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
    let made = rcgen::generate_simple_self_signed(["board".to_string()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let source = tls::Source::Files {
        certificate: certificate.clone(),
        key,
    };
    let encryption = Encryption::open(source, crate::status::health::Health::default()).await;
    std::fs::remove_file(&certificate).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&certificate)
            .status()
            .unwrap()
            .success()
    );
    let site = Site::encrypted(Some(encryption)).await;
    // Opens once the pipe is being read.
    let pipe = move || {
        std::fs::File::options()
            .write(true)
            .open(certificate)
            .unwrap()
    };
    let _hanging = tokio::task::spawn_blocking(pipe).await.unwrap();
    tokio::time::pause();
    let mut plain = site.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        read(&mut plain)
            .await
            .ends_with("write https:// instead of http://.\n")
    );
}

#[tokio::test]
async fn at_the_stop_answers_under_way_end_and_others_are_closed() {
    let mut site = Site::start().await;
    let mut waiting = site.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(read(&mut waiting).await.ends_with("hello"));
    let mut slow = site.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(site.seen.recv().await, Some("begun"));
    let mut half = site
        .send("POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    assert_eq!(site.seen.recv().await, Some("part"));
    site.stop.cancel();
    assert!(read(&mut slow).await.ends_with("done"));
    assert_eq!(read(&mut waiting).await, "");
    site.serving.await.unwrap();
    assert_eq!(read(&mut half).await, "", "it had its time");
    assert!(TcpStream::connect(site.address).await.is_err());
}
