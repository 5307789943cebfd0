//! A server of `recognizer.proto` that passes pictures to a real engine and does to the answers
//! what a test asks for: lies, nonsense, slowness, silence. For `faults.rs`. Pictures of faces that
//! it made up it answers itself, for tests of many.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use rpc::recognize_request::Picture;
use rpc::recognizer_client::RecognizerClient;
use rpc::recognizer_server::{Recognizer, RecognizerServer};
use rpc::{
    DescribeRequest, Description, Face, HealthCheckReply, HealthCheckRequest, RecognizeReply,
    RecognizeRequest,
};

use crate::support::wait_for;

/// The generated contract.
#[allow(missing_docs, clippy::all)]
mod rpc {
    tonic::include_proto!("kithd.recognizer.v1");
}

/// Ways to spoil answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    Honest,
    /// Each face gets the plausible embedding of another.
    Lying,
    /// Embeddings that are no numbers.
    Malformed,
    /// Right answers, late.
    Slow,
}

/// Faces that are made up, none of which is like another.
pub const MADE_UP: u32 = 2 * DIMENSION;
/// Numbers in an embedding of the default pack.
const DIMENSION: u32 = 128;
/// Stands before the number of a made-up face, at the end of its picture.
const MARK: &[u8] = b"made up ";

/// Makes a picture of the made-up face of this number, counted round.
pub fn made_up(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = image::RgbImage::new(32, 32);
    let mut out = std::io::Cursor::new(&mut bytes);
    picture.write_to(&mut out, image::ImageFormat::Png).unwrap();
    bytes.extend_from_slice(MARK);
    bytes.extend((number % MADE_UP).to_be_bytes());
    bytes
}

/// Answers a picture of a made-up face.
fn answer_to(picture: &[u8]) -> Option<RecognizeReply> {
    let (before, number) = picture.split_last_chunk()?;
    let number = before
        .ends_with(MARK)
        .then(|| u32::from_be_bytes(*number))?;
    let mut embedding = vec![0.0; DIMENSION as usize];
    embedding[(number % DIMENSION) as usize] = if number < DIMENSION { 1.0 } else { -1.0 };
    let face = Face {
        left: 8.0,
        top: 8.0,
        right: 24.0,
        bottom: 24.0,
        landmarks: vec![12.0, 13.0, 20.0, 13.0, 16.0, 16.0, 13.0, 20.0, 19.0, 20.0],
        score: 0.99,
        quality: 0.9,
        embedding,
        ..Face::default()
    };
    Some(RecognizeReply {
        width: 32,
        height: 32,
        faces: vec![face],
        ..RecognizeReply::default()
    })
}

#[derive(Clone)]
struct Proxy {
    mode: Arc<AtomicU8>,
    engine: RecognizerClient<Channel>,
}

#[tonic::async_trait]
impl Recognizer for Proxy {
    async fn recognize(
        &self,
        request: Request<RecognizeRequest>,
    ) -> Result<Response<RecognizeReply>, Status> {
        let request = request.into_inner();
        if let Some(Picture::Content(picture)) = &request.picture
            && let Some(reply) = answer_to(picture)
        {
            return Ok(Response::new(reply));
        }
        let mut reply = self.engine.clone().recognize(request).await?.into_inner();
        let mode = self.mode.load(Ordering::SeqCst);
        for face in &mut reply.faces {
            match mode {
                mode if mode == Mode::Lying as u8 => face.embedding.reverse(),
                mode if mode == Mode::Malformed as u8 => face.embedding[7] = f32::NAN,
                _ => {}
            }
        }
        if mode == Mode::Malformed as u8 {
            reply.width = 0;
        }
        if mode == Mode::Slow as u8 {
            tokio::time::sleep(Duration::from_millis(2500)).await;
        }
        Ok(Response::new(reply))
    }

    async fn health_check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckReply>, Status> {
        Ok(Response::new(HealthCheckReply { ready: true }))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Description>, Status> {
        self.engine.clone().describe(DescribeRequest {}).await
    }
}

/// The server and the real engine behind it; both end when dropped.
pub struct LyingEngine {
    /// Connections live in it, so that dropping it cuts them.
    serving: Option<Runtime>,
    mode: Arc<AtomicU8>,
    address: SocketAddr,
    socket: PathBuf,
    engine: Child,
    _folder: tempfile::TempDir,
}

impl LyingEngine {
    /// Honest at first.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("real.sock");
        let engine = Command::new(env!("CARGO_BIN_EXE_kithd"))
            .args(["--set", "models.precision=int8", "engine", "--socket"])
            .arg(&socket)
            .env(
                "KITHD_PACKS",
                concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs"),
            )
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        wait_for("the real engine", || {
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut lying = Self {
            serving: None,
            mode: Arc::default(),
            address,
            socket,
            engine,
            _folder: folder,
        };
        lying.serve();
        lying
    }

    /// Returns the address in the form of `engine.address`.
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes its behaviour from now on.
    pub fn behave(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Serves, or serves again.
    pub fn serve(&mut self) {
        let runtime = self.fresh_runtime();
        let (mode, address, socket) = (
            Arc::clone(&self.mode),
            self.address,
            format!("unix:{}", self.socket.display()),
        );
        runtime.spawn(async move {
            let engine = RecognizerClient::connect(socket)
                .await
                .unwrap()
                .max_decoding_message_size(64 << 20);
            let listener = listener(address).await;
            let service =
                RecognizerServer::new(Proxy { mode, engine }).max_decoding_message_size(64 << 20);
            let server = tonic::transport::Server::builder().add_service(service);
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        self.serving = Some(runtime);
    }

    /// Answers every connection with bytes that are no HTTP.
    pub fn talk_nonsense(&mut self) {
        let runtime = self.fresh_runtime();
        let address = self.address;
        runtime.spawn(async move {
            let listener = listener(address).await;
            while let Ok((mut stream, _)) = listener.accept().await {
                let nonsense: Vec<u8> = (0..4096).map(|_| fastrand::u8(..)).collect();
                // The reader may hang up first.
                let _ = stream.write_all(&nonsense).await;
            }
        });
        self.serving = Some(runtime);
    }

    /// Cuts every connection and takes no new one.
    pub fn hang_up(&mut self) {
        if let Some(runtime) = self.serving.take() {
            runtime.shutdown_background();
        }
    }

    fn fresh_runtime(&mut self) -> Runtime {
        self.hang_up();
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    }
}

async fn listener(address: SocketAddr) -> TcpListener {
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        if socket.bind(address).is_ok() {
            return socket.listen(64).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Drop for LyingEngine {
    fn drop(&mut self) {
        self.hang_up();
        let _ = self.engine.kill();
        let _ = self.engine.wait();
    }
}
