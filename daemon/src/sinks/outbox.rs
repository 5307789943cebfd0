//! Publishes results and the messages that follow from them (events about known people, the last
//! face): oldest first, each until the broker has acknowledged it, never retained.
//!
//! A row is sent again only byte for byte. Its events are derived from the row, so they repeat
//! unchanged too. Recognitions are moments: a retained one would unlock doors tomorrow.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kith_mqtt::{Message, PublishError, Publisher};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::domain::{ImageId, NamedCandidate, Outcome, Source, wall_clock_ms};
use crate::status::health::{Condition, Health};
use crate::store::Store;
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
    /// Lifetime of an event about a person.
    pub event_expiry: Duration,
    /// Publish the crop of the best face as well.
    pub last_face: bool,
    /// Health report of the part.
    pub health: Health,
    /// Topics of events that the broker refused at the last attempt, and why.
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
    let mut pace = Pace::Stream;
    loop {
        changes.borrow_and_update();
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
    /// Publishes one batch; true when there may be more.
    async fn drain(&self, pace: Pace) -> anyhow::Result<bool> {
        let (batch, under_way) = match pace {
            Pace::Stream => (BATCH, UNDER_WAY),
            Pace::OneByOne => (1, 1),
        };
        let waiting = self.store.take_unsent(batch).await?;
        let more = waiting.len() == batch;
        let mut prepared = Vec::with_capacity(waiting.len());
        for row in waiting {
            prepared.push((row.id, self.messages(row.payload).await?));
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

    /// Returns the result and the messages that follow from it, always the same, so that a
    /// redelivery repeats them.
    async fn messages(&self, payload: String) -> anyhow::Result<(Message, Vec<Message>)> {
        let ended = serde_json::from_str::<Ended>(&payload);
        let result = Message {
            topic: self.topics.results(),
            payload: payload.into_bytes(),
            content_type: Some("application/json".into()),
            ..Message::default()
        };
        let ended = match ended {
            Ok(ended) => ended,
            // A result without readable JSON goes out unchanged and holds up nothing.
            Err(error) => {
                tracing::warn!("a result in the outbox makes no events: {error}");
                return Ok((result, Vec::new()));
            }
        };
        let Some(left) = ended.news_for(self.event_expiry, wall_clock_ms()) else {
            return Ok((result, Vec::new()));
        };
        let of = |topic, payload, kind: &str| Message {
            topic,
            payload,
            content_type: Some(kind.into()),
            expiry: Some(left),
            ..Message::default()
        };
        let mut follows = Vec::new();
        for (person, event) in ended.events() {
            // An engine that names people itself may know some who are not enrolled here.
            let level = self.store.person_topic(person.person_id).await?;
            let level = level.unwrap_or_else(|| format!("person--{}", person.person_id));
            follows.push(of(
                self.topics.person(&level),
                event.to_string().into_bytes(),
                "application/json",
            ));
        }
        if self.last_face && !ended.faces.is_empty() {
            // The crop is gone already, or the engine gives none.
            let crop = self
                .store
                .crop(ended.image_id, 1)
                .await?
                .filter(|crop| !crop.is_empty());
            follows.extend(crop.map(|jpeg| of(self.topics.last_face(), jpeg, "image/jpeg")));
        }
        Ok((result, follows))
    }

    /// Handles the broker's answer to a result; after an acknowledgement its events go out, before
    /// those of the next result.
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
            let mut published = Vec::new();
            for message in follows {
                let topic = message.topic.clone();
                match self.publisher.publish(message).await {
                    Err(PublishError::Disconnected) => {
                        return Err(PublishError::Disconnected.into());
                    }
                    // The result says the same, so nothing waits for these.
                    answer => published.push((topic, answer)),
                }
            }
            self.show_events(published);
        }
        Ok(self.store.mark_sent(id).await?)
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

/// Fields of a result from which its events are made.
#[derive(Deserialize)]
struct Ended {
    result_id: String,
    supersedes: Option<String>,
    image_id: ImageId,
    device: String,
    source: Source,
    path: String,
    picture_key: Option<String>,
    faces: Vec<EndedFace>,
    accepted_at_ms: i64,
    finished_at_ms: i64,
}

#[derive(Deserialize)]
struct EndedFace {
    #[serde(rename = "box")]
    bounds: [f32; 4],
    quality: f32,
    outcome: Outcome,
    person: Option<NamedCandidate>,
    distance: Option<f32>,
    margin: Option<f32>,
}

impl Ended {
    /// Returns how long its events are still news, counted from acceptance: a door must not open
    /// for a person who stood there an hour ago, or at a time the board cannot tell.
    fn news_for(&self, expiry: Duration, now_ms: i64) -> Option<Duration> {
        let age_ms = now_ms - self.accepted_at_ms;
        if age_ms < -CLOCK_STEP_MS {
            return None;
        }
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        expiry.checked_sub(age).filter(|left| left.as_secs() > 0)
    }

    /// Returns one event for each known face, with its person.
    fn events(&self) -> Vec<(&NamedCandidate, serde_json::Value)> {
        let known = self
            .faces
            .iter()
            .zip(1..)
            .filter(|(face, _)| face.outcome == Outcome::Known);
        known
            .filter_map(|(face, number)| {
                let person = face.person.as_ref()?;
                let event = json!({
                    "event_id": format!("{}-{number}", self.result_id),
                    "result_id": self.result_id,
                    "supersedes": self.supersedes,
                    "image_id": self.image_id,
                    "device": self.device,
                    "person": { "id": person.person_id, "name": person.name },
                    "distance": face.distance,
                    "margin": face.margin,
                    "quality": face.quality,
                    "box": face.bounds,
                    "source": self.source,
                    "path": self.path,
                    "picture_key": self.picture_key,
                    "finished_at_ms": self.finished_at_ms,
                });
                Some((person, event))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_faces_are_events_and_an_event_never_changes() {
        let face = |outcome: &str| {
            json!({ "box": [0.0, 1.0, 2.0, 3.0], "score": 1.0, "quality": 0.5, "outcome": outcome, "distance": 0.4,
                    "person": { "person_id": 7, "name": "Ann Lee", "distance": 0.4 }, "margin": null, "candidates": [] })
        };
        let result = json!({
            "result_id": "r", "image_id": 3, "device": "board", "source": "mqtt", "path": "/a", "supersedes": null,
            "picture_key": "k", "faces": [face("uncertain"), face("known")], "accepted_at_ms": 1000, "finished_at_ms": 5000
        });
        let ended = || serde_json::from_value::<Ended>(result.clone()).unwrap();
        let (first, again) = (ended(), ended());
        let (events, again) = (first.events(), again.events());
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].0.person_id, 7);
        assert_eq!(events[0].1["event_id"], "r-2");
        assert_eq!(events[0].1.to_string(), again[0].1.to_string());
        // Counted from acceptance, however long the picture waited; never when that is in the
        // future.
        let news = |now_ms| {
            serde_json::from_value::<Ended>(result.clone())
                .unwrap()
                .news_for(Duration::from_secs(10), now_ms)
        };
        assert_eq!(news(6000), Some(Duration::from_secs(5)));
        assert_eq!(
            (news(11_000), news(-10_000), news(900)),
            (None, None, Some(Duration::from_secs(10)))
        );
    }
}
