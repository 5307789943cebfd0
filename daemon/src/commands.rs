//! Commands by MQTT, each with an answer: `status` and `identify` for every client that may
//! publish, `enroll`, `forget` and `breaker` only where configured. Pictures for the queue come in
//! by `sources`.
//!
//! Commands come on the connection that carries results. Its session ends with it, so a command
//! sent while the daemon was away is gone, and neither a full queue nor a backlog of pictures
//! delays one. The answer goes to the response topic with the request's correlation data (MQTT 5),
//! else to `answer/<command>`. An answer may be lost with the connection; commands are idempotent
//! and may be sent again.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use kith_mqtt::{Deliveries, Delivery, Message, Publisher, is_topic, matches};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::MqttCommand;
use crate::domain::BreakerCommand;
use crate::engines::Admission;
use crate::files::file_name;
use crate::people::People;
use crate::pipeline::{Identifier, Reader};
use crate::queue::Failure;
use crate::result;
use crate::sinks::health::HealthReport;
use crate::sources::mqtt::{picture, stream, utf8, utf16};
use crate::sources::paths;
use crate::sources::rejected::Rejected;
use crate::supervise::guarded;
use crate::topics::Topics;
use kith_pictures::kind::plain;

/// Commands at the same time, as many as may be unacknowledged.
const AT_ONCE: usize = 16;

/// Everything that the commands need.
pub struct Commands {
    /// Names of the topics.
    pub topics: Topics,
    /// The commands that change something and are allowed.
    pub allowed: Vec<MqttCommand>,
    /// Opens paths below the configured roots.
    pub reader: Arc<Reader>,
    /// Adds and erases people.
    pub people: People,
    /// State of the board.
    pub report: HealthReport,
    /// Stores messages that could not be understood.
    pub rejected: Rejected,
    /// Largest picture.
    pub max_bytes: usize,
    /// Publishes answers.
    pub publisher: Publisher,
    /// Topic on which Home Assistant announces its start, and the channel that passes it on.
    pub births: Option<(String, watch::Sender<u64>)>,
    /// Topic filters with a meaning of their own. No answer goes to such a topic, whatever response
    /// topic a request names, since it would be published with our rights.
    pub reserved: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Status,
    Identify,
    Enroll,
    Forget,
    Breaker,
}

impl Command {
    const ALL: [Self; 5] = [
        Self::Status,
        Self::Identify,
        Self::Enroll,
        Self::Forget,
        Self::Breaker,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Identify => "identify",
            Self::Enroll => "enroll",
            Self::Forget => "forget",
            Self::Breaker => "breaker",
        }
    }

    fn is_allowed(self, allowed: &[MqttCommand]) -> bool {
        match self {
            Self::Status | Self::Identify => true,
            Self::Enroll => allowed.contains(&MqttCommand::Enroll),
            Self::Forget => allowed.contains(&MqttCommand::Forget),
            Self::Breaker => allowed.contains(&MqttCommand::Breaker),
        }
    }
}

/// The body of a request; a bare path, word or picture is the short form of the same.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// Returned in the answer, for clients without correlation data.
    id: Option<Value>,
    path: Option<String>,
    /// Base64, or a `data:` URI.
    picture: Option<String>,
    person: Option<String>,
    /// Enrols a face even if the gallery contradicts.
    #[serde(default)]
    anyway: bool,
    command: Option<String>,
}

impl Commands {
    /// Returns the topics of the allowed commands, to subscribe to.
    pub fn subscriptions(topics: &Topics, allowed: &[MqttCommand]) -> Vec<String> {
        let allowed = Command::ALL
            .into_iter()
            .filter(|command| command.is_allowed(allowed));
        allowed
            .map(|command| topics.command(command.name()))
            .collect()
    }

    /// Executes commands until stopped.
    pub async fn run(
        self,
        mut deliveries: Deliveries,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let arrivals = stream(&mut deliveries);
        let mut done = std::pin::pin!(
            arrivals
                .map(|delivery| self.obey(delivery))
                .buffer_unordered(AT_ONCE)
        );
        tokio::select! {
            () = stop.cancelled() => {}
            () = async { while done.next().await.is_some() {} } => {}
        }
        Ok(())
    }

    async fn obey(&self, delivery: Delivery) {
        if let Some((topic, births)) = &self.births
            && *topic == delivery.topic
        {
            if &*delivery.payload == b"online" {
                births.send_modify(|births| *births += 1);
            }
            return delivery.settle();
        }
        let meant = Command::ALL
            .into_iter()
            .find(|command| self.topics.command(command.name()) == delivery.topic);
        let Some(command) =
            meant.filter(|command| command.is_allowed(&self.allowed) && !delivery.retain)
        else {
            // A retained command is from the past and is not executed.
            return delivery.settle();
        };
        let Delivery {
            payload,
            response_topic,
            correlation,
            ack,
            ..
        } = delivery;
        // A command that causes a panic is answered and acknowledged: redelivered, it would panic
        // again.
        let (id, answer) = guarded(self.carry_out(command, &payload))
            .await
            .unwrap_or_else(|fault| (None, Err(Refusal::theirs(fault))));
        let body = match &answer {
            Ok(answer) => json!({ "command": command.name(), "id": id, "result": answer }),
            Err(why) => json!({ "command": command.name(), "id": id, "error": why.text }),
        };
        if let Err(Refusal {
            rejected: Some(why),
            ..
        }) = answer
        {
            self.set_aside(command, why, payload).await;
        }
        let message = Message {
            topic: self.answer_topic(command, response_topic),
            payload: body.to_string().into_bytes(),
            content_type: Some("application/json".into()),
            correlation,
            ..Message::default()
        };
        if let Err(error) = self.publisher.publish(message).await {
            tracing::warn!(
                "the answer to {} was not published: {error}",
                command.name()
            );
        }
        ack.settle();
    }

    /// Executes a command and returns the sender's id for it with the answer.
    async fn carry_out(
        &self,
        command: Command,
        payload: &Bytes,
    ) -> (Option<Value>, Result<Value, Refusal>) {
        match read(payload, self.max_bytes) {
            Ok((mut request, picture)) => (
                request.id.take(),
                self.answer(command, request, picture).await,
            ),
            Err(why) => (None, Err(why)),
        }
    }

    /// Returns the topic for the answer: the sender's, unless nothing can be published there or the
    /// topic has a meaning of its own.
    fn answer_topic(&self, command: Command, wanted: Option<String>) -> String {
        let own = self.topics.answer(command.name());
        let Some(wanted) = wanted else { return own };
        // Some brokers and bridges drop a leading slash.
        let bare = wanted.trim_start_matches('/');
        let reserved = |topic: &str| self.reserved.iter().any(|filter| matches(topic, filter));
        if !is_topic(&wanted)
            || bare.is_empty()
            || bare.starts_with('$')
            || reserved(&wanted)
            || reserved(bare)
        {
            tracing::warn!(
                "the response topic of a command cannot be published to, or is one of kithd's own; \
                 the answer goes to {own}"
            );
            return own;
        }
        wanted
    }

    /// Stores a command that could not be understood, for the operator.
    async fn set_aside(&self, command: Command, why: String, payload: Bytes) {
        let topic = self.topics.command(command.name());
        // A person's name must not appear in the list of rejected messages.
        let has_name = matches!(command, Command::Enroll | Command::Forget);
        let kept = if has_name { Bytes::new() } else { payload };
        self.rejected.keep(&topic, &why, None, kept).await;
    }

    async fn answer(
        &self,
        command: Command,
        request: Request,
        picture: Option<Bytes>,
    ) -> Result<Value, Refusal> {
        match command {
            Command::Status => self.report.now().await.map_err(Refusal::ours),
            Command::Identify => {
                let refused = |failure: Failure| Refusal {
                    text: failure.verdict().sentence,
                    rejected: None,
                };
                let identifier = Identifier::of(&self.people).map_err(refused)?;
                let admission = self.admit().await?;
                let (bytes, path) = self.picture(&request, picture).await?;
                let identified = identifier.identify(&admission, None, bytes, path).await;
                identified
                    .map(|identified| json!(result::answer(&identified)))
                    .map_err(refused)
            }
            Command::Enroll => {
                let person = person(&request)?;
                let admission = self.admit().await?;
                let (bytes, path) = self.picture(&request, picture).await?;
                let name = path.map_or_else(|| "mqtt".into(), |path| file_name(&path));
                let people = &self.people;
                let enrolled = people.enroll(&admission, &person, &name, bytes, request.anyway);
                let report = enrolled.await.map_err(Refusal::ours)?;
                tracing::info!("an enroll command by MQTT was executed");
                Ok(json!(report))
            }
            Command::Forget => {
                let person = person(&request)?;
                match self.people.forget(&person).await {
                    Ok(Some(_)) => {
                        tracing::info!("a person was erased by MQTT");
                        Ok(json!({ "forgotten": person }))
                    }
                    Ok(None) => Err(Refusal::ours("nobody is enrolled under that name")),
                    Err(error) => Err(Refusal::ours(error)),
                }
            }
            Command::Breaker => {
                let word = request
                    .command
                    .ok_or_else(|| Refusal::theirs("send open, close or auto"))?;
                let word: BreakerCommand = word.parse().map_err(Refusal::theirs)?;
                let state = self.people.engines.command(word);
                tracing::info!("the circuit breaker is {state} after a command by MQTT");
                Ok(json!({ "state": state }))
            }
        }
    }

    /// Waits for the engine's admission, before a picture is read.
    async fn admit(&self) -> Result<Admission, Refusal> {
        self.people.engines.admit().await.map_err(Refusal::ours)
    }

    /// The picture that was sent, or the one that the path names.
    async fn picture(
        &self,
        request: &Request,
        picture: Option<Bytes>,
    ) -> Result<(Vec<u8>, Option<PathBuf>), Refusal> {
        match (picture, &request.picture, &request.path) {
            (Some(bytes), _, _) => Ok((bytes.into(), None)),
            (None, Some(text), _) => {
                let picture = plain(text.as_bytes(), self.max_bytes);
                let picture = picture
                    .map_err(|why| Refusal::theirs(format!("the text under \"picture\" {why}")))?;
                Ok((picture.into_owned(), None))
            }
            (None, None, Some(path)) => {
                let path = PathBuf::from(paths::plain(path).map_err(Refusal::theirs)?);
                let read = self.reader.read_path(&path).await;
                let bytes = read.map_err(|failure| Refusal {
                    text: failure.verdict().sentence,
                    rejected: None,
                })?;
                Ok((bytes, Some(path)))
            }
            (None, None, None) => {
                let expected =
                    r#"send the bytes of a picture, {"path":"…"} or {"picture":"<base64>"}"#;
                Err(Refusal::theirs(expected))
            }
        }
    }
}

/// The reason why a command was not executed.
struct Refusal {
    text: String,
    /// Set if the sender made a mistake: kept for the operator, without personal names.
    rejected: Option<String>,
}

impl Refusal {
    fn ours(error: impl std::fmt::Display) -> Self {
        Self {
            text: format!("{error:#}"),
            rejected: None,
        }
    }

    fn theirs(why: impl Into<String>) -> Self {
        let text = why.into();
        Self {
            rejected: Some(text.clone()),
            text,
        }
    }
}

fn person(request: &Request) -> Result<String, Refusal> {
    request
        .person
        .clone()
        .ok_or_else(|| Refusal::theirs(r#"name the person: {"person":"…"}"#))
}

/// Parses a request, and the picture that may stand in its place.
fn read(payload: &Bytes, max_bytes: usize) -> Result<(Request, Option<Bytes>), Refusal> {
    let picture = match picture(payload, max_bytes) {
        Ok(picture) => return Ok((Request::default(), Some(picture))),
        Err(why) => why,
    };
    // A payload that is not text is named by its kind.
    let text = utf8(payload).map_err(|_| Refusal::theirs(utf16(payload).unwrap_or(picture)))?;
    if text.starts_with('{') {
        let request = serde_json::from_str(text);
        return Ok((
            request.map_err(|error| {
                Refusal::theirs(format!("the command is not understood: {error}"))
            })?,
            None,
        ));
    }
    let request = match paths::plain(text) {
        Ok(path) if path.starts_with('/') => Request {
            path: Some(path),
            ..Request::default()
        },
        Ok(word) if word.is_empty() => Request::default(),
        Ok(word) => Request {
            command: Some(word),
            ..Request::default()
        },
        Err(why) => return Err(Refusal::theirs(why)),
    };
    Ok((request, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_a_path_a_word_and_json_are_told_apart() {
        let jpeg = vec![0xff, 0xd8, 0xff, 0xe0, 0, 16, b'J', b'F', b'I', b'F', 0, 1];
        assert!(read(&jpeg.into(), 1 << 20).ok().unwrap().1.is_some());
        let request = |text: &str| {
            read(&Bytes::copy_from_slice(text.as_bytes()), 1 << 20)
                .ok()
                .map(|(request, _)| request)
        };
        assert_eq!(
            request(" /srv/a.jpg\n").unwrap().path.as_deref(),
            Some("/srv/a.jpg")
        );
        assert_eq!(request("open").unwrap().command.as_deref(), Some("open"));
        assert_eq!(
            request(r#"{"person":"Ann","path":"/a"}"#)
                .unwrap()
                .person
                .as_deref(),
            Some("Ann")
        );
        assert!(request("").unwrap().command.is_none());
        assert!(request(r#"{"persn":"Ann"}"#).is_none());
    }
}
