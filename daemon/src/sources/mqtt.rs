//! Pictures by MQTT: topics for paths (one, a list, or bare text), topics for the bytes of pictures,
//! and Frigate's events, which `frigate` follows. Commands are handled elsewhere.
//!
//! A message is acknowledged when its images are on disk, or when it is refused and kept for the
//! operator. While the queue or the disk is full it is not acknowledged, so that the broker holds
//! back the rest.

use std::borrow::Cow;

use bytes::Bytes;
use futures_util::StreamExt;
use kith_mqtt::{Deliveries, Delivery, matches};
use tokio_util::sync::CancellationToken;

use super::frigate::Events;
use super::paths::NoPaths;
use super::rejected::{Rejected, RejectedError};
use super::{Intake, IntakeError, PathSubmission, RETRY, paths};
use crate::domain::{Accepted, ImageId, Origin, Source};
use crate::supervise::guarded;
use kith_pictures::kind::{NotAPicture, not_a_picture, plain, wrapping};

const EXPECTED: &str = r#"expected {"path":"…"}, {"paths":[{"path":"…"}]} or a bare path"#;

/// Content of a topic's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Paths.
    Paths,
    /// Pictures.
    Pictures,
    /// Events of Frigate.
    Events,
}

/// A subscription of the intake.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Topic filter, possibly `$share/<group>/<filter>`.
    pub filter: String,
    /// Content of its messages.
    pub kind: Kind,
}

/// Destination of messages: the queue, or the rejected messages. Clones share both.
#[derive(Clone)]
pub struct Door {
    /// The queue's intake.
    pub intake: Intake,
    /// Store of rejected messages.
    pub rejected: Rejected,
    /// Frigate's events, if it is used.
    pub frigate: Option<Events>,
    /// Subscriptions by topic filter.
    pub subscriptions: Vec<Subscription>,
}

/// Outcome of retrying a rejected message.
pub enum Retried {
    /// Accepted as one or more images, and no longer kept.
    Accepted(Vec<ImageId>),
    /// There is no such message.
    NotFound,
    /// Only the beginning of the message was kept.
    Incomplete,
    /// Refused again, and kept with this reason.
    Refused(String),
    /// Cannot be accepted now; kept unchanged.
    Later(String),
}

/// Takes messages until stopped.
///
/// Up to `in_flight` are committed together; the connection releases their acknowledgements in
/// arrival order.
pub async fn run(
    mut deliveries: Deliveries,
    door: Door,
    in_flight: usize,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let arrivals = stream(&mut deliveries);
    let mut settled = std::pin::pin!(
        arrivals
            .map(|delivery| door.accept(delivery))
            .buffered(in_flight)
    );
    tokio::select! {
        () = stop.cancelled() => {}
        () = async { while settled.next().await.is_some() {} } => {}
    }
    Ok(())
}

/// Returns the deliveries of a connection as a stream.
pub fn stream(deliveries: &mut Deliveries) -> impl futures_util::Stream<Item = Delivery> + '_ {
    futures_util::stream::unfold(deliveries, |deliveries| async {
        let delivery = deliveries.recv().await?;
        Some((delivery, deliveries))
    })
}

/// Request in a message.
enum Meaning {
    Paths(Vec<PathSubmission>),
    Picture { topic: String, bytes: Bytes },
    Event(Bytes),
}

impl Door {
    /// Takes a message, and acknowledges it once it is safe.
    pub async fn accept(&self, delivery: Delivery) {
        tracing::debug!(
            topic = delivery.topic,
            bytes = delivery.payload.len(),
            redelivered = delivery.redelivered,
            content_type = delivery.content_type,
            "message"
        );
        if delivery.retain {
            // The broker replays retained messages at every reconnect; pictures are moments, not
            // state.
            return delivery.settle();
        }
        // A message that makes the program panic is rejected like nonsense: redelivery would repeat
        // the panic.
        if let Err(reason) = guarded(self.take(&delivery)).await.flatten() {
            let Delivery {
                topic,
                payload,
                content_type,
                ..
            } = &delivery;
            self.rejected
                .keep(topic, &reason, content_type.clone(), payload.clone())
                .await;
        }
        delivery.settle();
    }

    /// Accepts a message, waiting as long as needed. The error says why the message makes no sense.
    async fn take(&self, delivery: &Delivery) -> Result<(), String> {
        let meaning = self.meaning(&delivery.topic, &delivery.payload)?;
        loop {
            match self.submit(&meaning).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_temporary() => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Submits a rejected message again.
    pub async fn retry(&self, id: i64) -> Result<Retried, RejectedError> {
        let Some(message) = self.rejected.store.rejected_message(id).await? else {
            return Ok(Retried::NotFound);
        };
        let Some(payload) = self.rejected.payload(&message).await? else {
            return Ok(Retried::Incomplete);
        };
        let taken = guarded(async {
            let meaning = self
                .meaning(&message.topic, &payload)
                .map_err(IntakeError::Refused)?;
            self.submit(&meaning).await
        });
        match taken.await.map_err(IntakeError::Refused).flatten() {
            Ok(accepted) => {
                self.rejected.forget(id).await?;
                Ok(Retried::Accepted(
                    accepted.into_iter().map(|image| image.id).collect(),
                ))
            }
            Err(error) if error.is_temporary() => Ok(Retried::Later(error.to_string())),
            Err(error) => {
                let reason = error.to_string();
                self.rejected.store.reject_again(id, reason.clone()).await?;
                Ok(Retried::Refused(reason))
            }
        }
    }

    /// Interprets a message. The error tells the operator why it makes no sense.
    fn meaning(&self, topic: &str, payload: &Bytes) -> Result<Meaning, String> {
        let meant = self
            .subscriptions
            .iter()
            .find(|subscription| matches(topic, &subscription.filter));
        match meant.map(|subscription| subscription.kind) {
            Some(Kind::Paths) => {
                let path = |(path, origin)| PathSubmission {
                    path,
                    origin,
                    idempotency_key: None,
                };
                Ok(Meaning::Paths(
                    paths_in(payload)?.into_iter().map(path).collect(),
                ))
            }
            Some(Kind::Pictures) => {
                let bytes = picture(payload, self.intake.max_bytes())?;
                Ok(Meaning::Picture {
                    topic: topic.into(),
                    bytes,
                })
            }
            Some(Kind::Events) => Ok(Meaning::Event(payload.clone())),
            None => Err(format!(
                "no pictures or paths are taken from the topic {topic:?}; mqtt.picture_topics \
                 names those that are"
            )),
        }
    }

    async fn submit(&self, meaning: &Meaning) -> Result<Vec<Accepted>, IntakeError> {
        match meaning {
            Meaning::Paths(paths) => self.intake.paths(Source::Mqtt, paths.clone()).await,
            Meaning::Picture { topic, bytes } => Ok(vec![
                self.intake
                    .picture(Source::Mqtt, topic, bytes.clone(), None, Origin::default())
                    .await?,
            ]),
            Meaning::Event(message) => {
                let noted = self
                    .frigate
                    .iter()
                    .try_for_each(|events| events.message(message));
                noted.map_err(IntakeError::Refused)?;
                Ok(Vec::new())
            }
        }
    }
}

/// Returns the picture's bytes in a message, whatever its declared type and encoding. A picture
/// that cannot be decoded becomes a failed image.
pub fn picture(payload: &Bytes, max_bytes: usize) -> Result<Bytes, String> {
    match plain(payload, max_bytes) {
        Ok(Cow::Borrowed(picture)) => Ok(payload.slice_ref(picture)),
        Ok(Cow::Owned(picture)) => Ok(picture.into()),
        Err(why) => Err(format!("the message {why}")),
    }
}

/// Returns the paths in a message; the error is a sentence for the operator.
fn paths_in(payload: &[u8]) -> Result<Vec<paths::Named>, String> {
    if let Ok((format, _)) = wrapping(payload) {
        return Err(format!(
            "the message is a picture ({format}), and this topic takes paths; publish it to …/image"
        ));
    }
    let text = utf8(payload)?;
    if text.is_empty() {
        return Err(format!("the message is empty; {EXPECTED}"));
    }
    if !text.starts_with(['{', '[', '"']) {
        if text.contains('\n') {
            return Err(
                r#"the message has several lines; send several paths as {"paths":[{"path":"…"}]}"#
                    .into(),
            );
        }
        let path = paths::plain(text)?;
        return match path.starts_with('/') {
            true => Ok(vec![(path, Origin::default())]),
            false => Err(format!(
                "the message is not JSON, and no absolute path: {path:?}; {EXPECTED}"
            )),
        };
    }
    paths::in_json(text.as_bytes()).map_err(|why| match why {
        NoPaths::Buffer => format!("the message {why} to …/image"),
        _ => format!("the message {why}; {EXPECTED}"),
    })
}

/// Returns an objection to text in UTF-16; `None` for any other message.
pub fn utf16(payload: &[u8]) -> Option<String> {
    // In UTF-16, every other byte of Latin text is zero.
    let zeros = |odd: usize| {
        payload
            .iter()
            .skip(odd)
            .step_by(2)
            .take(32)
            .filter(|byte| **byte == 0)
            .count()
    };
    let marked = payload.starts_with(&[0xFF, 0xFE]) || payload.starts_with(&[0xFE, 0xFF]);
    let pairs = payload.len().min(64) / 2;
    let is_utf16 = marked || (pairs >= 4 && (zeros(0) > pairs / 2) != (zeros(1) > pairs / 2));
    is_utf16.then(|| "the message is UTF-16 text, as Windows writes it; send it as UTF-8".into())
}

/// Returns the message as text, without the byte order mark, zero bytes and white space that
/// editors and shells add.
pub fn utf8(payload: &[u8]) -> Result<&str, String> {
    if let Some(why) = utf16(payload) {
        return Err(why);
    }
    let text = std::str::from_utf8(payload).map_err(|_| match not_a_picture(payload) {
        NotAPicture::Known { what, .. } => {
            format!("the message is {what}, and this topic takes text; {EXPECTED}")
        }
        _ => format!("the message is not text in UTF-8; {EXPECTED}"),
    })?;
    Ok(text.trim_matches(|c: char| c == '\u{feff}' || c == '\0' || c.is_whitespace()))
}

#[cfg(test)]
mod tests;
