//! Pictures by MQTT: `<prefix>/<device>/image/post` with a path, a list of paths, or a bare path as text; and, where
//! configured, words to the circuit breaker.
//!
//! A message is acknowledged when its images are on disk, or when it makes no sense and is kept for the operator.
//! When the queue or the disk is full it is not acknowledged: the broker holds the rest back.

use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Intake, PathSubmission};
use crate::desk::EngineDesk;
use crate::domain::{BreakerCommand, BreakerState, Source};
use crate::mqtt::{Deliveries, Delivery};
use crate::store::Store;

const RETRY: Duration = Duration::from_secs(1);

/// The topic that takes paths.
pub fn paths_topic(prefix: &str, device: &str) -> String {
    format!("{prefix}/{device}/image/post")
}

/// The topic whose messages work the circuit breaker: `open`, `close` or `auto`, bare or as {"command":"open"}.
pub struct BreakerCommands {
    /// Subscribed to.
    pub topic: String,
    /// The breaker, once the model pack is loaded.
    pub desk: watch::Receiver<Option<EngineDesk>>,
}

/// Takes messages until stopped.
///
/// Up to `in_flight` are committed together; the connection releases their acks in arrival order.
pub async fn run(
    mut deliveries: Deliveries,
    intake: Intake,
    store: Store,
    breaker: Option<BreakerCommands>,
    in_flight: usize,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let arrivals = async_stream(&mut deliveries);
    let mut settled = std::pin::pin!(
        arrivals.map(|delivery| accept(delivery, &intake, &store, breaker.as_ref())).buffered(in_flight)
    );
    tokio::select! {
        () = stop.cancelled() => {}
        () = async { while settled.next().await.is_some() {} } => {}
    }
    Ok(())
}

fn async_stream(deliveries: &mut Deliveries) -> impl futures_util::Stream<Item = Delivery> + '_ {
    futures_util::stream::unfold(deliveries, |deliveries| async {
        let delivery = deliveries.recv().await?;
        Some((delivery, deliveries))
    })
}

async fn accept(delivery: Delivery, intake: &Intake, store: &Store, breaker: Option<&BreakerCommands>) {
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
    if let Some(breaker) = breaker.filter(|breaker| breaker.topic == delivery.topic) {
        return match breaker_command(&delivery.payload, breaker) {
            Ok(state) => {
                tracing::info!("the circuit breaker was told something by MQTT and is {state} now");
                delivery.settle();
            }
            Err(reason) => reject(delivery, reason, store).await,
        };
    }
    let paths = match parse(&delivery.payload) {
        Ok(paths) => paths,
        Err(reason) => return reject(delivery, reason, store).await,
    };
    loop {
        match intake.paths(Source::Mqtt, paths.clone()).await {
            Ok(_) => return delivery.settle(),
            Err(error) if error.is_temporary() => tokio::time::sleep(RETRY).await,
            Err(error) => return reject(delivery, error.to_string(), store).await,
        }
    }
}

fn breaker_command(payload: &[u8], breaker: &BreakerCommands) -> Result<BreakerState, String> {
    #[derive(Deserialize)]
    struct Word {
        command: String,
    }
    let text = std::str::from_utf8(payload).map_err(|_| "the command is not text")?.trim();
    let word = serde_json::from_str(text).map_or_else(|_| text.to_string(), |word: Word| word.command);
    let command: BreakerCommand = word.parse()?;
    let desk = breaker.desk.borrow().clone();
    let desk = desk.ok_or("there is no engine yet: the model pack is not loaded")?;
    Ok((desk.command)(command))
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
