//! Publishes results and the messages that follow from them (events about known people, the last
//! face): oldest first, each until the broker has acknowledged it, never retained.
//!
//! A result is sent again only byte for byte. Its events are derived from the rows of its image each
//! time. Recognitions are moments: a retained one would unlock doors tomorrow.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use kith_mqtt::{Message, PublishError, Publisher};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::domain::{NamedCandidate, Outcome, wall_clock_ms};
use crate::result::ResultMessage;
use crate::status::health::{Condition, Health};
use crate::store::{Store, UnsentResult};
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

    /// Returns the result and the messages that follow from it.
    async fn messages(&self, result: UnsentResult) -> anyhow::Result<(Message, Vec<Message>)> {
        let UnsentResult { payload, ended, .. } = result;
        let result = Message {
            topic: self.topics.results(),
            payload: payload.into_bytes(),
            content_type: Some("application/json".into()),
            ..Message::default()
        };
        // A result that its image's rows no longer tell is sent again and makes no news.
        let Some(ended) = ended else {
            return Ok((result, Vec::new()));
        };
        let Some(left) = news_for(&ended, self.event_expiry, wall_clock_ms()) else {
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
        for (person, event) in events(&ended) {
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
            if let Some(jpeg) = crop {
                let origin = last_face_origin(&ended).to_string().into_bytes();
                follows.push(of(self.topics.last_face(), jpeg, "image/jpeg"));
                follows.push(of(
                    self.topics.last_face_origin(),
                    origin,
                    "application/json",
                ));
            }
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

/// Returns how long the events of a result are still news, counted from acceptance: a door must not
/// open for a person who stood there an hour ago, or at a time the board cannot tell.
fn news_for(ended: &ResultMessage, expiry: Duration, now_ms: i64) -> Option<Duration> {
    let age_ms = now_ms - ended.accepted_at_ms;
    if age_ms < -CLOCK_STEP_MS {
        return None;
    }
    let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
    expiry.checked_sub(age).filter(|left| left.as_secs() > 0)
}

/// Returns where the last face comes from. It names no person, so that nothing of a person stays
/// with a subscriber that keeps it.
fn last_face_origin(ended: &ResultMessage) -> serde_json::Value {
    json!({
        "image_id": ended.image_id,
        "source": ended.source,
        "camera": ended.camera,
        "event": ended.event,
    })
}

/// Returns one event for each known face, with its person.
fn events(ended: &ResultMessage) -> Vec<(&NamedCandidate, serde_json::Value)> {
    let known = ended
        .faces
        .iter()
        .zip(1..)
        .filter(|(face, _)| face.outcome == Outcome::Known);
    known
        .filter_map(|(face, number)| {
            let person = face.person.as_ref()?;
            let event = json!({
                "event_id": format!("{}-{number}", ended.result_id),
                "result_id": ended.result_id,
                "supersedes": ended.supersedes,
                "image_id": ended.image_id,
                "device": ended.device,
                "person": { "id": person.person_id, "name": person.name },
                "distance": face.distance,
                "margin": face.margin,
                "quality": face.quality,
                "box": face.bounds,
                "source": ended.source,
                "path": ended.path,
                "camera": ended.camera,
                "event": ended.event,
                "picture_key": ended.picture_key,
                "finished_at_ms": ended.finished_at_ms,
            });
            Some((person, event))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Source, State};
    use crate::result::FaceMessage;

    #[test]
    fn only_known_faces_are_events_and_repeat_unchanged() {
        let face = |outcome| FaceMessage {
            bounds: [0.0, 1.0, 2.0, 3.0],
            score: 1.0,
            quality: 0.5,
            objection: None,
            outcome,
            person: Some(NamedCandidate {
                person_id: 7,
                name: "Ann Lee".into(),
                distance: Some(0.4),
            }),
            distance: Some(0.4),
            margin: None,
            candidates: Vec::new(),
        };
        let ended = ResultMessage {
            result_id: "r".into(),
            image_id: 3,
            device: "board".into(),
            source: Source::Mqtt,
            path: "/a".into(),
            camera: Some("front".into()),
            event: None,
            state: State::Processed,
            outcome: Some(Outcome::Known),
            reason: None,
            remark: None,
            picture_key: Some("k".into()),
            supersedes: None,
            width: None,
            height: None,
            faces: vec![face(Outcome::Uncertain), face(Outcome::Known)],
            timings: None,
            engine: None,
            attempts: 1,
            accepted_at_ms: 1000,
            finished_at_ms: 5000,
            duration_ms: 1,
        };
        let (first, again) = (events(&ended), events(&ended));
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].0.person_id, 7);
        assert_eq!(first[0].1["event_id"], "r-2");
        assert_eq!(first[0].1.to_string(), again[0].1.to_string());
        assert_eq!(first[0].1["camera"], "front");
        assert_eq!(last_face_origin(&ended)["camera"], "front");
        // Counted from acceptance, however long the picture waited; never when that is in the
        // future.
        let news = |now_ms| news_for(&ended, Duration::from_secs(10), now_ms);
        assert_eq!(news(6000), Some(Duration::from_secs(5)));
        assert_eq!(
            (news(11_000), news(-10_000), news(900)),
            (None, None, Some(Duration::from_secs(10)))
        );
    }
}
