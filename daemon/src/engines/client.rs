//! A connection to a server of `recognizer.proto`, or of `facerecog.proto`, the contract of the
//! system kithd descends from. Every reply is checked here. `queue::Failure` decides what an error
//! means for the picture.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use kith_vision::Pack;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::domain::{EngineError, EngineErrorKind};
use crate::engine_process::{FoundFace, Reply, StageTimes};
use crate::rpc::facerecog::health_check_client::HealthCheckClient;
use crate::rpc::facerecog::identify_client::IdentifyClient;
use crate::rpc::facerecog::{Empty, IdentifyRequest};
use crate::rpc::recognizer::recognize_request::Picture as Sent;
use crate::rpc::recognizer::recognizer_client::RecognizerClient;
use crate::rpc::recognizer::{
    DescribeRequest, Description, Face, HealthCheckRequest, RecognizeReply, RecognizeRequest,
};
use crate::rpc::{CONNECTION_WINDOW, LARGEST_REPLY, STREAM_WINDOW};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Deadline of calls without a picture.
const SHORT_CALL: Duration = Duration::from_secs(5);
/// Keep-alive interval: a peer that vanished is detected after two of them.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Longest remark of an engine, in bytes.
const LONGEST_REMARK: usize = 500;
/// Answer of a facerecog service for an unknown face.
pub const NOT_FOUND: &str = "not_found";

/// A picture on its way to an engine.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Bytes for an engine that has no access to the file.
    pub bytes: Bytes,
    /// Path for an engine that shares the mounts; `None` if the picture came as bytes.
    pub path: Option<PathBuf>,
    /// True if neither thumbnail nor crops are wanted.
    pub faces_only: bool,
}

/// Answer of an engine.
#[derive(Debug)]
pub enum EngineReply {
    /// Faces to compare with the gallery.
    Faces(Reply),
    /// Name of the matching enrolled image: a facerecog service has its own gallery.
    Name(Option<String>),
}

/// A connection; clones share it.
#[derive(Clone)]
pub enum Client {
    /// `recognizer.proto`; with the flag set, pictures are sent as paths where they have one.
    Recognizer(RecognizerClient<Channel>, bool),
    /// `facerecog.proto`.
    Facerecog(IdentifyClient<Channel>, HealthCheckClient<Channel>),
}

impl Client {
    /// Connects to a unix socket.
    pub async fn to_socket(path: &Path) -> Result<Self, EngineError> {
        let path = path.to_path_buf();
        // HTTP/2 needs an authority, even on a socket.
        let endpoint = endpoint("http://engine")?;
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                tokio::net::UnixStream::connect(path)
                    .await
                    .map(TokioIo::new)
            }
        });
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| lost(&error))?;
        Ok(Self::recognizer(channel, false))
    }

    /// Connects to `http://host:port` or `unix:/path`; with `paths` the server shares the mounts.
    pub async fn to_address(address: &str, paths: bool) -> Result<Self, EngineError> {
        match address.strip_prefix("unix:") {
            Some(path) => match Self::to_socket(Path::new(path)).await? {
                Self::Recognizer(client, _) => Ok(Self::Recognizer(client, paths)),
                other @ Self::Facerecog(..) => Ok(other),
            },
            None => Ok(Self::recognizer(channel(address).await?, paths)),
        }
    }

    /// Connects to a facerecog service at `http://host:port`.
    pub async fn to_facerecog(address: &str) -> Result<Self, EngineError> {
        let channel = channel(address).await?;
        Ok(Self::Facerecog(
            IdentifyClient::new(channel.clone()),
            HealthCheckClient::new(channel),
        ))
    }

    fn recognizer(channel: Channel, paths: bool) -> Self {
        Self::Recognizer(
            RecognizerClient::new(channel)
                .max_decoding_message_size(LARGEST_REPLY)
                .max_encoding_message_size(usize::MAX),
            paths,
        )
    }

    /// Asks for pack, precision and device; a facerecog service has no such call.
    pub async fn describe(&self) -> Result<Option<Description>, EngineError> {
        let Self::Recognizer(client, _) = self else {
            return Ok(None);
        };
        let mut client = client.clone();
        let described = within(SHORT_CALL, client.describe(DescribeRequest {})).await?;
        Ok(Some(described))
    }

    /// Checks that the server reports itself ready.
    pub async fn ready(&self) -> Result<(), EngineError> {
        let ready = match self {
            Self::Recognizer(client, _) => {
                within(
                    SHORT_CALL,
                    client.clone().health_check(HealthCheckRequest {}),
                )
                .await?
                .ready
            }
            Self::Facerecog(_, health) => {
                within(SHORT_CALL, health.clone().health_check(Empty {}))
                    .await?
                    .ready
            }
        };
        if ready {
            Ok(())
        } else {
            Err(EngineError::new(
                EngineErrorKind::Unreachable,
                "it reports that it is not ready",
            ))
        }
    }

    /// Recognises one picture; faces are checked against what `pack` promises.
    pub async fn recognise(
        &self,
        picture: Picture,
        pack: &Pack,
        deadline: Duration,
    ) -> Result<EngineReply, EngineError> {
        match self {
            Self::Recognizer(client, paths) => {
                let sent = match picture.path.filter(|_| *paths) {
                    Some(path) => Sent::Path(path.display().to_string()),
                    None => Sent::Content(picture.bytes),
                };
                let reply = within(
                    deadline,
                    client.clone().recognize(RecognizeRequest {
                        picture: Some(sent),
                        faces_only: picture.faces_only,
                    }),
                )
                .await?;
                checked(reply, pack)
                    .map(EngineReply::Faces)
                    .map_err(|why| EngineError::new(EngineErrorKind::Malformed, why))
            }
            Self::Facerecog(client, _) => {
                let Some(path) = picture.path else {
                    let why = "this engine takes paths only and the picture came as bytes; send its path instead";
                    return Err(EngineError::new(EngineErrorKind::Unreadable, why));
                };
                let image_path = path.display().to_string();
                let named = within(
                    deadline,
                    client.clone().identify(IdentifyRequest { image_path }),
                )
                .await?
                .image_name;
                Ok(EngineReply::Name(
                    (!named.is_empty() && named != NOT_FOUND).then_some(named),
                ))
            }
        }
    }
}

async fn channel(address: &str) -> Result<Channel, EngineError> {
    endpoint(address)?
        .connect()
        .await
        .map_err(|error| lost(&error))
}

fn endpoint(address: &str) -> Result<Endpoint, EngineError> {
    Ok(Endpoint::from_shared(address.to_string())
        .map_err(|error| lost(&error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE))
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(judged(&status)),
        Err(_) => Err(EngineError::new(
            EngineErrorKind::TimedOut { limit, lone: false },
            format!("no answer within {:.1} s", limit.as_secs_f32()),
        )),
    }
}

/// Judges a status. One with a source was made by our own library; one without came from the
/// server.
fn judged(status: &Status) -> EngineError {
    let of_server = std::error::Error::source(status).is_none();
    let message = || match status.message() {
        "" => format!("gRPC status {:?} without a reason", status.code()),
        message => message.to_string(),
    };
    match status.code() {
        Code::InvalidArgument if of_server => {
            EngineError::new(EngineErrorKind::Unreadable, message())
        }
        Code::OutOfRange if of_server => EngineError::new(
            EngineErrorKind::Unreadable,
            format!("the engine does not take this picture: {}", message()),
        ),
        // Either the message is too large, which is the picture's fault, or there are too many
        // calls.
        Code::ResourceExhausted if of_server && status.message().contains("larger") => {
            EngineError::new(
                EngineErrorKind::Unreadable,
                format!("the engine does not take this picture: {}", message()),
            )
        }
        Code::Internal if of_server && !status.message().contains("decode Protobuf") => {
            EngineError::new(EngineErrorKind::Failed, message())
        }
        Code::Internal if of_server => EngineError::new(EngineErrorKind::Malformed, message()),
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::ResourceExhausted => {
            lost(status)
        }
        // The server took the call and failed: in Python an uncaught exception is UNKNOWN.
        _ if of_server => EngineError::new(EngineErrorKind::Failed, message()),
        _ => lost(status),
    }
}

/// Adds the causes to the first words, which alone say little ("transport error").
fn lost(error: &dyn std::error::Error) -> EngineError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    EngineError::new(EngineErrorKind::Unreachable, text)
}

/// Converts a reply to our types, or says what is wrong with it.
fn checked(reply: RecognizeReply, pack: &Pack) -> Result<Reply, String> {
    if reply.width == 0 || reply.height == 0 {
        return Err("the picture has no size".into());
    }
    let faces =
        reply.faces.into_iter().enumerate().map(|(n, face)| {
            checked_face(face, pack).map_err(|why| format!("face {}: {why}", n + 1))
        });
    let micros = std::time::Duration::from_micros;
    let times = reply.times.unwrap_or_default();
    Ok(Reply {
        size: (reply.width, reply.height),
        faces: faces.collect::<Result<_, _>>()?,
        thumbnail: reply.thumbnail,
        remark: remark(&reply.remark),
        times: StageTimes {
            decode: micros(times.decode),
            detect: micros(times.detect),
            align: micros(times.align),
            embed: micros(times.embed),
            encode: micros(times.encode),
        },
    })
}

/// Shortens an engine's remark to [`LONGEST_REMARK`].
fn remark(text: &str) -> Option<String> {
    let kept = text.floor_char_boundary(LONGEST_REMARK);
    let plain: String = text[..kept]
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    (!plain.trim().is_empty()).then(|| plain.trim().to_owned())
}

fn checked_face(face: Face, pack: &Pack) -> Result<FoundFace, String> {
    let bounds = [face.left, face.top, face.right, face.bottom];
    let (points, rest) = face.landmarks.as_chunks();
    let Ok(landmarks) = <[[f32; 2]; 5]>::try_from(points) else {
        return Err(format!(
            "{} landmark numbers instead of ten",
            face.landmarks.len()
        ));
    };
    let plain = bounds
        .iter()
        .chain(landmarks.as_flattened())
        .all(|number| number.is_finite())
        && rest.is_empty();
    let upright = bounds[0] < bounds[2] && bounds[1] < bounds[3];
    let scored = [face.score, face.quality]
        .iter()
        .all(|number| (0.0..=1.0).contains(number));
    if !plain || !upright || !scored {
        return Err(format!(
            "box {bounds:?}, score {} and quality {} cannot be",
            face.score, face.quality
        ));
    }
    pack.check_embedding(&face.embedding)
        .map_err(|error| error.to_string())?;
    Ok(FoundFace {
        bounds,
        landmarks,
        score: face.score,
        quality: face.quality,
        objection: (!face.objection.is_empty()).then_some(face.objection),
        measures: None,
        embedding: face.embedding,
        crop: face.crop,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack() -> Pack {
        Pack::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/packs/dlib-mtcnn"))
            .unwrap()
    }

    fn reply() -> RecognizeReply {
        RecognizeReply {
            width: 4,
            height: 3,
            faces: vec![Face {
                right: 2.0,
                bottom: 2.0,
                landmarks: vec![1.0; 10],
                score: 1.0,
                quality: 0.5,
                embedding: pack().self_test().embedding.clone(),
                ..Face::default()
            }],
            ..RecognizeReply::default()
        }
    }

    #[test]
    fn a_sound_reply_is_taken() {
        assert_eq!(checked(reply(), &pack()).unwrap().faces.len(), 1);
    }

    #[test]
    fn every_kind_of_nonsense_is_found_and_named() {
        type Spoil = fn(&mut RecognizeReply);
        let wrong: [(&str, Spoil); 8] = [
            ("has no size", |reply| reply.width = 0),
            ("landmark numbers", |reply| {
                reply.faces[0].landmarks.truncate(9);
            }),
            ("cannot be", |reply| reply.faces[0].left = 5.0),
            ("cannot be", |reply| reply.faces[0].top = f32::NAN),
            ("cannot be", |reply| reply.faces[0].score = 1.5),
            ("must have 128 numbers", |reply| {
                reply.faces[0].embedding.truncate(127);
            }),
            ("cannot be used", |reply| {
                reply.faces[0].embedding[3] = f32::INFINITY;
            }),
            ("cannot be used", |reply| reply.faces[0].embedding.fill(0.0)),
        ];
        for (words, spoil) in wrong {
            let mut reply = reply();
            spoil(&mut reply);
            let why = checked(reply, &pack()).unwrap_err();
            assert!(why.contains(words), "{words:?} is not in {why:?}");
        }
    }

    #[test]
    fn a_status_of_the_server_is_told_from_a_broken_connection() {
        assert_eq!(
            judged(&Status::invalid_argument("cut off")),
            EngineError::new(EngineErrorKind::Unreadable, "cut off")
        );
        assert_eq!(
            judged(&Status::internal("boom")),
            EngineError::new(EngineErrorKind::Failed, "boom")
        );
        assert_eq!(
            judged(&Status::unavailable("gone")).kind,
            EngineErrorKind::Unreachable
        );
        assert_eq!(
            judged(&Status::resource_exhausted("too many calls")).kind,
            EngineErrorKind::Unreachable
        );
        assert_eq!(
            judged(&Status::unknown("list index out of range")),
            EngineError::new(EngineErrorKind::Failed, "list index out of range")
        );
        let broken = Status::from_error(Box::new(std::io::Error::other("reset")));
        assert!(
            judged(&broken).kind == EngineErrorKind::Unreachable,
            "{broken:?}"
        );
    }
}
