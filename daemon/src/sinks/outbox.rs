//! Publishes results, and what happened to sightings with the event about a person that follows:
//! each kind oldest first, each message until the broker has acknowledged it, never retained.
//!
//! A message is sent again only byte for byte. Results wait for the broker however long it is away;
//! sightings and events expire. Recognitions are moments: a retained one would unlock doors
//! tomorrow. The last face is read anew each time, and goes before what it shows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kith_mqtt::{Message, PublishError, Publisher};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::domain::{FaceAddress, ImageId, Origin, SightingMessage, wall_clock_ms};
use crate::status::health::{Condition, Health};
use crate::store::{Store, UnsentResult, UnsentSighting};
use crate::topics::Topics;

const BATCH: usize = 64;
/// Results in flight at the same time; the connection keeps their order.
const UNDER_WAY: usize = 8;
/// Most refused topics that are remembered.
const MOST_REFUSED: usize = 100;
const RETRY: Duration = Duration::from_secs(2);
/// Largest step by which a synchronised clock is set back.
const CLOCK_STEP_MS: i64 = 1000;
/// Time for the last results when the service stops.
const LAST_TRY: Duration = Duration::from_secs(2);

/// Dependencies of the outbox task.
pub struct Outbox {
    /// Store of the results.
    pub store: Store,
    /// Publisher on the broker.
    pub publisher: Publisher,
    /// Names of the topics.
    pub topics: Topics,
    /// Name of the board.
    pub device: String,
    /// Lifetime of sightings and of events about people.
    pub event_expiry: Duration,
    /// Publish the crop of the best face as well.
    pub last_face: bool,
    /// False while sightings wait for Home Assistant.
    pub heard: watch::Receiver<bool>,
    /// Health report of the part.
    pub health: Health,
    /// Topics of sightings and events that the broker refused at the last attempt, and why.
    pub refused_events: Mutex<BTreeMap<String, String>>,
}

/// Publishes until `finish` is cancelled, then makes one last attempt.
pub async fn run(outbox: Outbox, finish: CancellationToken) -> anyhow::Result<()> {
    let Outbox {
        store,
        publisher,
        health,
        ..
    } = &outbox;
    let mut changes = store.work();
    let mut heard = outbox.heard.clone();
    let mut pace = Pace::Stream;
    loop {
        changes.borrow_and_update();
        heard.borrow_and_update();
        let round = async {
            // Closed for good only when the connection task has ended, which the supervisor
            // reports.
            if publisher.connected().await.is_err() {
                std::future::pending::<()>().await;
            }
            outbox.drain(pace).await
        };
        let sent = tokio::select! {
            sent = round => sent,
            () = finish.cancelled() => break,
        };
        match sent {
            Ok(more) => {
                pace = Pace::Stream;
                health.set("results", Condition::Ok, "published as they come");
                if more {
                    continue;
                }
            }
            Err(error) => {
                // The connection reports its own outages; a refusal by the broker is reported here.
                if !matches!(error.downcast_ref(), Some(PublishError::Disconnected)) {
                    pace = Pace::OneByOne;
                    let text = format!("results wait in the outbox: {error:#}");
                    if health.set("results", Condition::Degraded, text.as_str()) {
                        tracing::warn!("{text}");
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(RETRY) => continue,
                    () = finish.cancelled() => break,
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => changed?,
            Ok(()) = heard.changed() => {}
            () = finish.cancelled() => break,
        }
    }
    // Without a connection, or with a slow broker, the results stay in the outbox for the next
    // start.
    let _ = tokio::time::timeout(LAST_TRY, async {
        while outbox.drain(pace).await.unwrap_or(false) {}
    })
    .await;
    Ok(())
}

/// Number of results in flight: a single one while the broker refuses them, so that none overtakes
/// the refused one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Stream,
    OneByOne,
}

impl Outbox {
    /// Publishes one batch of each kind; true when there may be more.
    async fn drain(&self, pace: Pace) -> anyhow::Result<bool> {
        let results = self.drain_results(pace).await;
        // Results that are refused do not hold up sightings, which are no news later.
        let sightings = *self.heard.borrow() && self.drain_sightings().await?;
        Ok(results? || sightings)
    }

    async fn drain_results(&self, pace: Pace) -> anyhow::Result<bool> {
        let (batch, under_way) = match pace {
            Pace::Stream => (BATCH, UNDER_WAY),
            Pace::OneByOne => (1, 1),
        };
        let waiting = self.store.take_unsent(batch, &self.device).await?;
        let more = waiting.len() == batch;
        let mut prepared = Vec::with_capacity(waiting.len());
        for row in waiting {
            prepared.push((row.id, self.messages(row).await?));
        }
        let stopped = AtomicBool::new(false);
        let publish = async |(id, (result, follows))| {
            let answer = match stopped.load(Ordering::Relaxed) {
                true => Err(PublishError::Disconnected),
                false => self.publisher.publish(result).await,
            };
            (id, answer, follows)
        };
        let mut answered = futures_util::stream::iter(prepared)
            .map(publish)
            .buffered(under_way);
        let mut first_error = Ok(());
        while let Some((id, answer, follows)) = answered.next().await {
            let taken = self.taken(id, answer, follows).await;
            // No further result leaves, but those already in flight may be acknowledged: they are
            // noted, and not sent twice.
            stopped.fetch_or(taken.is_err(), Ordering::Relaxed);
            first_error = first_error.and(taken);
        }
        first_error.map(|()| more)
    }

    /// Returns the result and the last face that follows it.
    async fn messages(&self, result: UnsentResult) -> anyhow::Result<(Message, Vec<Message>)> {
        let UnsentResult { payload, ended, .. } = result;
        let result = Message {
            topic: self.topics.results(),
            payload: payload.into_bytes(),
            content_type: Some("application/json".into()),
            ..Message::default()
        };
        // A result that its image's rows no longer tell is sent again and makes no news.
        let Some(ended) = ended.filter(|ended| !ended.faces.is_empty()) else {
            return Ok((result, Vec::new()));
        };
        let Some(left) = news_for(ended.accepted_at_ms, self.event_expiry, wall_clock_ms()) else {
            return Ok((result, Vec::new()));
        };
        let best = FaceAddress {
            image_id: ended.image_id,
            number: 1,
        };
        Ok((result, self.last_face(&best, left).await?))
    }

    /// Returns the messages with a face and where it comes from, if Home Assistant shows faces.
    async fn last_face(&self, face: &FaceAddress, left: Duration) -> anyhow::Result<Vec<Message>> {
        if !self.last_face {
            return Ok(Vec::new());
        }
        let FaceAddress { image_id, number } = *face;
        // The crop is gone already, or the engine gives none.
        let crop = self.store.crop(image_id, number).await?;
        let (Some(jpeg), Some(image)) = (
            crop.filter(|crop| !crop.is_empty()),
            self.store.image_origin(image_id).await?,
        ) else {
            return Ok(Vec::new());
        };
        let origin = last_face_origin(image_id, &image).to_string().into_bytes();
        let of = |topic, payload, kind| news(topic, payload, kind, left);
        Ok(vec![
            of(self.topics.last_face(), jpeg, "image/jpeg"),
            of(self.topics.last_face_origin(), origin, JSON),
        ])
    }

    /// Publishes one batch of messages about sightings; true when there may be more.
    async fn drain_sightings(&self) -> anyhow::Result<bool> {
        let expiry_ms = i64::try_from(self.event_expiry.as_millis()).unwrap_or(i64::MAX);
        let oldest_ms = wall_clock_ms().saturating_sub(expiry_ms);
        let waiting = self.store.take_unsent_sightings(BATCH, oldest_ms).await?;
        let more = waiting.len() == BATCH;
        for message in waiting {
            let id = message.id;
            let messages = self.about_sighting(message).await?;
            self.publish_news(messages).await?;
            self.store.mark_sighting_sent(id).await?;
        }
        Ok(more)
    }

    /// Returns the messages about a step of a sighting in their order: its face, the step, and the
    /// event about its person. None when it is no news any more.
    async fn about_sighting(&self, unsent: UnsentSighting) -> anyhow::Result<Vec<Message>> {
        let Some(left) = news_for(unsent.at_ms, self.event_expiry, wall_clock_ms()) else {
            return Ok(Vec::new());
        };
        let told: Option<SightingMessage> = serde_json::from_str(&unsent.payload).ok();
        let face = told
            .filter(|told| told.ended_ms.is_none())
            .and_then(|told| told.after.face);
        let mut messages = match face {
            Some(face) => self.last_face(&face, left).await?,
            None => Vec::new(),
        };
        let of = |topic, text: String| news(topic, text.into_bytes(), JSON, left);
        messages.push(of(self.topics.sightings(), unsent.payload));
        if let Some((person, event)) = unsent.event
            && let Some(level) = self.store.person_topic(person).await?
        {
            messages.push(of(self.topics.person(&level), event));
        }
        Ok(messages)
    }

    /// Handles the broker's answer to a result; after an acknowledgement its face goes out, before
    /// the next result's.
    async fn taken(
        &self,
        id: i64,
        answer: Result<(), PublishError>,
        follows: Vec<Message>,
    ) -> anyhow::Result<()> {
        match answer {
            Ok(()) => {}
            // The broker's configuration may be corrected: the result waits in its place.
            Err(error @ (PublishError::Disconnected | PublishError::Refused(_))) => {
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!(outbox = id, "a result was not taken: {error}");
                return Ok(self.store.mark_refused(id, error.to_string()).await?);
            }
        }
        if !follows.is_empty() {
            self.publish_news(follows).await?;
        }
        Ok(self.store.mark_sent(id).await?)
    }

    /// Publishes messages in their order. Refused ones are shown and lost: they would be no news when
    /// the broker's configuration has been corrected.
    async fn publish_news(&self, messages: Vec<Message>) -> Result<(), PublishError> {
        let mut published = Vec::new();
        for message in messages {
            let topic = message.topic.clone();
            match self.publisher.publish(message).await {
                Err(PublishError::Disconnected) => return Err(PublishError::Disconnected),
                answer => published.push((topic, answer)),
            }
        }
        self.show_events(published);
        Ok(())
    }

    /// Reports which events the broker refused at the last attempt.
    fn show_events(&self, published: Vec<(String, Result<(), PublishError>)>) {
        let mut refused = self.refused_events.lock();
        for (topic, answer) in published {
            match answer {
                Ok(()) => _ = refused.remove(&topic),
                Err(error) if refused.len() < MOST_REFUSED => {
                    _ = refused.insert(topic, error.to_string());
                }
                Err(_) => {}
            }
        }
        let Some((topic, error)) = refused.first_key_value() else {
            self.health
                .set("events", Condition::Ok, "published with their results");
            return;
        };
        // The person's name is left out of the topic.
        let topic = topic
            .rsplit_once("/person/")
            .map_or(topic.clone(), |(board, _)| format!("{board}/person/…"));
        let text =
            format!("events are lost, results are not: {error}; let the broker take {topic}");
        if self
            .health
            .set("events", Condition::Degraded, text.as_str())
        {
            tracing::warn!("{text}");
        }
    }
}

const JSON: &str = "application/json";

/// Makes a message that is dropped when it is no news any more.
fn news(topic: String, payload: Vec<u8>, kind: &str, left: Duration) -> Message {
    Message {
        topic,
        payload,
        content_type: Some(kind.into()),
        expiry: Some(left),
        ..Message::default()
    }
}

/// Returns how long something is still news, counted from its moment (wall clock), such as the
/// acceptance of a picture: a door must not open for a person who stood there an hour ago, or at a
/// time the board cannot tell.
fn news_for(at_ms: i64, expiry: Duration, now_ms: i64) -> Option<Duration> {
    let age_ms = now_ms - at_ms;
    if age_ms < -CLOCK_STEP_MS {
        return None;
    }
    let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
    expiry.checked_sub(age).filter(|left| left.as_secs() > 0)
}

/// Returns where the last face comes from. It names no person, so that nothing of a person stays
/// with a subscriber that keeps it.
fn last_face_origin(image_id: ImageId, (source, origin): &(String, Origin)) -> serde_json::Value {
    json!({
        "image_id": image_id,
        "source": source,
        "camera": origin.camera,
        "event": origin.event,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_age_from_their_moment_and_never_come_from_the_future() {
        let news = |now_ms| news_for(1000, Duration::from_secs(10), now_ms);
        assert_eq!(news(6000), Some(Duration::from_secs(5)));
        assert_eq!(
            (news(11_000), news(-10_000), news(900)),
            (None, None, Some(Duration::from_secs(10)))
        );
        let origin = ("mqtt".to_string(), Origin::camera("front"));
        assert_eq!(last_face_origin(3, &origin)["camera"], "front");
    }
}
