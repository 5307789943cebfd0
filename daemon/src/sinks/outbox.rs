//! Publishes results: oldest first, each until the broker has acknowledged it, never retained.
//!
//! A row is sent again only byte for byte. Recognitions are moments: a retained one would unlock doors tomorrow.

use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use crate::health::{Condition, Health};
use crate::mqtt::{Message, PublishError, Publisher};
use crate::store::{Store, UnsentResult};

const BATCH: usize = 64;
/// Results under way at the same time; the connection keeps their order.
const UNDER_WAY: usize = 8;
const RETRY: Duration = Duration::from_secs(2);
/// How long the last results may take when the service stops.
const LAST_TRY: Duration = Duration::from_secs(2);

/// The topic results go to.
pub fn results_topic(prefix: &str, device: &str) -> String {
    format!("{prefix}/{device}/result")
}

/// Publishes until `finish` is cancelled, then makes one last try.
pub async fn run(
    store: Store,
    publisher: Publisher,
    topic: String,
    health: Health,
    finish: CancellationToken,
) -> anyhow::Result<()> {
    let mut changes = store.work();
    loop {
        changes.borrow_and_update();
        let round = async {
            // Closed for good only when the connection task has ended, which the supervisor reports.
            if publisher.connected().await.is_err() {
                std::future::pending::<()>().await;
            }
            drain(&store, &publisher, &topic).await
        };
        let sent = tokio::select! {
            sent = round => sent,
            () = finish.cancelled() => break,
        };
        match sent {
            Ok(more) => {
                health.set("results", Condition::Ok, "published as they come");
                if more {
                    continue;
                }
            }
            Err(error) => {
                // An outage is the connection's to report; a broker that says no is ours.
                if !matches!(error.downcast_ref(), Some(PublishError::Disconnected)) {
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
    // No connection, or a slow broker: the results stay in the outbox for the next start.
    let _ = tokio::time::timeout(LAST_TRY, async { while drain(&store, &publisher, &topic).await.unwrap_or(false) {} })
        .await;
    Ok(())
}

/// One batch; true when there may be more.
async fn drain(store: &Store, publisher: &Publisher, topic: &str) -> anyhow::Result<bool> {
    let waiting = store.take_unsent(BATCH).await?;
    let more = waiting.len() == BATCH;
    let mut sent =
        futures_util::stream::iter(waiting).map(|row| send(store, publisher, topic, row)).buffered(UNDER_WAY);
    while let Some(result) = sent.next().await {
        result?;
    }
    Ok(more)
}

async fn send(store: &Store, publisher: &Publisher, topic: &str, row: UnsentResult) -> anyhow::Result<()> {
    let message = Message {
        topic: topic.into(),
        payload: row.payload.into_bytes(),
        retain: false,
        content_type: Some("application/json".into()),
    };
    match publisher.publish(message).await {
        Ok(()) => store.mark_sent(row.id).await?,
        // A broker that refuses may be set right: the result waits, in its place in the order.
        Err(error @ (PublishError::Disconnected | PublishError::Refused(_))) => return Err(error.into()),
        Err(error) => {
            tracing::warn!(outbox = row.id, "a result was not taken: {error}");
            store.mark_refused(row.id, error.to_string()).await?;
        }
    }
    Ok(())
}
