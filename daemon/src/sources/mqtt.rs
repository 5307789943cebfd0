//! Pictures by MQTT: topics with a path, a list of paths or a bare path as text, and topics with the bytes of pictures.
//! Not for commands.
//!
//! A message is acknowledged when its images are on disk, or when it makes no sense and is kept for the operator.
//! When the queue or the disk is full it is not acknowledged: the broker holds the rest back.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::{Intake, IntakeError, PathSubmission};
use crate::domain::{Source, hex};
use crate::mqtt::{Deliveries, Delivery, matches};
use crate::store::Store;

const RETRY: Duration = Duration::from_secs(1);

/// What the messages of a topic are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Paths.
    Paths,
    /// Pictures.
    Pictures,
}

/// What is subscribed to.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Perhaps `$share/<group>/<filter>`.
    pub filter: String,
    /// What comes there.
    pub kind: Kind,
}

/// Takes messages until stopped.
///
/// Up to `in_flight` are committed together; the connection releases their acks in arrival order.
pub async fn run(
    mut deliveries: Deliveries,
    intake: Intake,
    store: Store,
    subscriptions: Vec<Subscription>,
    in_flight: usize,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let arrivals = stream(&mut deliveries);
    let mut settled =
        std::pin::pin!(arrivals.map(|delivery| accept(delivery, &intake, &store, &subscriptions)).buffered(in_flight));
    tokio::select! {
        () = stop.cancelled() => {}
        () = async { while settled.next().await.is_some() {} } => {}
    }
    Ok(())
}

/// The deliveries of a connection, one after the other.
pub fn stream(deliveries: &mut Deliveries) -> impl futures_util::Stream<Item = Delivery> + '_ {
    futures_util::stream::unfold(deliveries, |deliveries| async {
        let delivery = deliveries.recv().await?;
        Some((delivery, deliveries))
    })
}

async fn accept(mut delivery: Delivery, intake: &Intake, store: &Store, subscriptions: &[Subscription]) {
    tracing::debug!(
        topic = delivery.topic,
        bytes = delivery.payload.len(),
        redelivered = delivery.redelivered,
        content_type = delivery.content_type,
        "message"
    );
    if delivery.retain {
        // A replay of what the broker kept, at every reconnect; pictures are moments, not state.
        return delivery.settle();
    }
    let meant = subscriptions.iter().find(|subscription| matches(&delivery.topic, &subscription.filter));
    let rejected = match meant.map(|subscription| subscription.kind) {
        Some(Kind::Paths) => accept_paths(&delivery, intake).await,
        Some(Kind::Pictures) => accept_picture(&mut delivery, intake).await,
        None => Err("nothing is subscribed to on this topic".into()),
    };
    match rejected {
        Ok(()) => delivery.settle(),
        Err(reason) => reject(delivery, reason, store).await,
    }
}

/// The error is why the message makes no sense; everything else is waited for.
async fn accept_paths(delivery: &Delivery, intake: &Intake) -> Result<(), String> {
    let paths = parse(&delivery.payload)?;
    loop {
        match intake.paths(Source::Mqtt, paths.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => wait_or_give_up(&error).await?,
        }
    }
}

async fn accept_picture(delivery: &mut Delivery, intake: &Intake) -> Result<(), String> {
    let Delivery { topic, payload, content_type, .. } = delivery;
    is_picture(payload, content_type.as_deref())?;
    // Its own name, so that a message delivered twice is known by it while the first is not done.
    let name = format!("{topic} {}", &hex(&Sha256::digest(&payload))[..12]);
    // Taken: of a message that is refused the beginning is kept, and of a picture that shows nothing.
    let picture = Bytes::from(std::mem::take(payload));
    loop {
        match intake.picture(Source::Mqtt, &name, picture.clone(), None).await {
            Ok(_) => return Ok(()),
            Err(error) => wait_or_give_up(&error).await?,
        }
    }
}

async fn wait_or_give_up(error: &IntakeError) -> Result<(), String> {
    if !error.is_temporary() {
        return Err(error.to_string());
    }
    tokio::time::sleep(RETRY).await;
    Ok(())
}

/// By what the sender says, else by how it begins. What then cannot be decoded is an image that fails.
fn is_picture(payload: &[u8], content_type: Option<&str>) -> Result<(), String> {
    let expected = "this topic takes the bytes of one picture (JPEG, PNG, WebP, GIF, BMP or TIFF)";
    match content_type {
        Some(kind) if kind.starts_with("image/") => return Ok(()),
        Some(kind) if kind != "application/octet-stream" => return Err(format!("the content is {kind}; {expected}")),
        _ => {}
    }
    match imagesize::image_type(payload) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("the message is no picture; {expected}")),
    }
}

async fn reject(delivery: Delivery, reason: String, store: &Store) {
    tracing::warn!(topic = delivery.topic, "message rejected: {reason}");
    while let Err(error) = store.keep_rejected(delivery.topic.clone(), reason.clone(), delivery.payload.clone()).await {
        tracing::warn!("the rejected message could not be kept yet: {error}");
        tokio::time::sleep(RETRY).await;
    }
    delivery.settle();
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Body {
    One { path: String },
    Many { paths: Vec<Entry> },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Object { path: String },
    Text(String),
}

/// The paths in a message; the error is a sentence for the operator.
fn parse(payload: &[u8]) -> Result<Vec<PathSubmission>, String> {
    let text = std::str::from_utf8(payload).map_err(|_| "the message is neither JSON nor a path in UTF-8")?.trim();
    let paths = if text.starts_with('/') {
        vec![text.to_string()]
    } else {
        let expected = r#"expected {"path":"…"}, {"paths":[{"path":"…"}]} or a bare path"#;
        if text.is_empty() {
            return Err(format!("the message is empty; {expected}"));
        }
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| format!("the message is not JSON ({error}); {expected}"))?;
        match serde_json::from_value(value) {
            Ok(Body::One { path }) => vec![path],
            Ok(Body::Many { paths }) => paths
                .into_iter()
                .map(|entry| match entry {
                    Entry::Object { path } | Entry::Text(path) => path,
                })
                .collect(),
            Err(_) => return Err(format!("the JSON has no path; {expected}")),
        }
    };
    if paths.is_empty() {
        return Err("the list of paths is empty".into());
    }
    Ok(paths.into_iter().map(|path| PathSubmission { path, idempotency_key: None }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_known_by_its_type_or_by_how_it_begins() {
        let jpeg = [0xff, 0xd8, 0xff, 0xe0, 0, 16, b'J', b'F', b'I', b'F', 0, 1];
        assert_eq!(is_picture(&jpeg, None), Ok(()));
        assert_eq!(is_picture(&jpeg, Some("application/octet-stream")), Ok(()));
        assert_eq!(is_picture(b"?", Some("image/jpeg")), Ok(()));
        assert!(is_picture(b"{\"path\":\"/a\"}", None).unwrap_err().contains("is no picture"));
        assert!(is_picture(&jpeg, Some("text/plain")).unwrap_err().contains("the content is text/plain"));
    }

    fn paths(payload: &str) -> Result<Vec<String>, String> {
        parse(payload.as_bytes()).map(|found| found.into_iter().map(|submission| submission.path).collect())
    }

    #[test]
    fn one_path_a_list_and_a_bare_path_are_understood() {
        assert_eq!(paths(r#"{"path":"/a/b.jpg"}"#).unwrap(), ["/a/b.jpg"]);
        assert_eq!(paths(r#"{"paths":[{"path":"/a"},{"path":"/b"}]}"#).unwrap(), ["/a", "/b"]);
        assert_eq!(paths(r#"{"paths":["/a","/b"]}"#).unwrap(), ["/a", "/b"]);
        assert_eq!(paths(" /a/b c.jpg\n").unwrap(), ["/a/b c.jpg"]);
    }

    #[test]
    fn nonsense_is_told_from_a_path_with_what_was_expected() {
        for (nonsense, reason) in [
            ("{\"path\":", "is not JSON"),
            ("{\"file\":\"/a\"}", "has no path"),
            ("", "is empty"),
            ("{\"paths\":[]}", "list of paths is empty"),
            ("42", "has no path"),
        ] {
            let error = paths(nonsense).unwrap_err();
            assert!(error.contains(reason), "{nonsense:?}: {error}");
        }
        assert!(parse(&[0xff, 0xd8, 0xff]).unwrap_err().contains("neither JSON nor a path"));
    }
}
