//! Groups unknown faces by likeness, in the background. Each group is a stranger with a permanent
//! number.
//!
//! It takes results in the order they were made, in small batches, and continues after a restart.
//! Triggers remove a face from its group when it is erased, deleted, done again or named (migration
//! 0008); this task then recomputes the group, or the group is gone. Faces of too low quality are
//! ignored.

use std::time::Duration;

use kith_vision::{Centroid, Clusters, MOST_AVERAGED, VisionError};
use tokio_util::sync::CancellationToken;

use crate::engines::Engines;
use crate::people::gallery::embed_crop;
use crate::people::{Matcher, People};
use crate::status::health::{Condition, Health};
use crate::store::{Joined, Joining, Store, StrangerId, UngroupedFace};

/// Pause between two runs: writing several faces together spares flash storage.
const EVERY: Duration = Duration::from_secs(5);
/// Pause after an error.
const RETRY: Duration = Duration::from_secs(10);
/// Results processed, and groups recomputed, in one batch.
const BATCH: usize = 100;
/// Pause between two batches, for other users of database and processor.
const PAUSE: Duration = Duration::from_millis(20);
/// Lowest quality of a face that founds a group or counts in its centroid: one in five faces below
/// it is not known again. Poorer faces only join.
const MIN_QUALITY: f32 = 0.8;

/// Everything that the task needs.
#[derive(Clone)]
pub struct Strangers {
    /// Database, engines and gallery.
    pub people: People,
    /// Health of the task.
    pub health: Health,
}

impl Strangers {
    /// Groups faces until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { people, health } = self;
        let matcher = tokio::select! {
            matcher = people.loaded() => matcher,
            () = stop.cancelled() => return Ok(()),
        };
        let up = Grouping {
            engines: &people.engines,
            matcher: &matcher,
        };
        let mut changes = people.store.changes();
        let mut restores = people.restores.subscribe();
        let mut grouped = None;
        loop {
            let round = async {
                changes.mark_unchanged();
                if restores.has_changed().unwrap_or(false) {
                    restores.mark_unchanged();
                    // The restored backup has groups that are not in memory.
                    grouped = None;
                }
                let wait = match round(&people, &up, &health, &mut grouped).await {
                    Ok(count) => {
                        health.set(
                            "strangers",
                            Condition::Ok,
                            match count {
                                1 => "1 group of unknown faces".into(),
                                _ => format!("{count} groups of unknown faces"),
                            },
                        );
                        EVERY
                    }
                    Err(error) => {
                        // Memory and database may differ.
                        grouped = None;
                        let text = format!(
                            "new unknown faces are not grouped now: {error:#}; tried again"
                        );
                        if health.set("strangers", Condition::Degraded, text.as_str()) {
                            tracing::warn!("{text}");
                        }
                        RETRY
                    }
                };
                tokio::time::sleep(wait).await;
                // The channel closes only when the store ends.
                let _ = changes.changed().await;
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = round => {}
            }
        }
    }
}

/// Engines and gallery of one run.
struct Grouping<'a> {
    engines: &'a Engines,
    matcher: &'a Matcher,
}

/// The groups in memory, as they are in the database.
struct Grouped {
    groups: Clusters,
    /// The newest result whose faces are grouped.
    upto: i64,
}

/// Does everything that is due; returns the number of groups.
async fn round(
    people: &People,
    up: &Grouping<'_>,
    health: &Health,
    grouped: &mut Option<Grouped>,
) -> anyhow::Result<usize> {
    let (store, matcher) = (&people.store, up.matcher);
    people.finish_naming(matcher).await?;
    let Grouped { groups, upto } = match grouped {
        Some(grouped) => grouped,
        None => {
            let groups = load(store, up, health).await?;
            // A database restored from a copy may have fewer results.
            let upto = store
                .grouped_upto()
                .await?
                .min(store.newest_result().await?);
            grouped.insert(Grouped { groups, upto })
        }
    };
    recompute_centroids(store, matcher, groups).await?;
    if store.stranger_count().await? != groups.len() {
        // Groups were named, or lost their last face.
        let there = store.stranger_ids().await?;
        let gone: Vec<_> = groups.ids().filter(|id| !there.contains(id)).collect();
        gone.into_iter().for_each(|id| groups.remove(id));
        if there.len() != groups.len() {
            // Only this task makes groups, so others came from a backup.
            *groups = load(store, up, health).await?;
        }
    }
    // Faces of which an operator said that they are not this person.
    let again = store.to_group_again().await?;
    if !again.is_empty() {
        let count = again.len();
        for face in store.ungrouped_in(again, matcher.known_from()).await? {
            group(store, up, groups, face).await?;
        }
        store.grouped_again(count).await?;
    }
    loop {
        recompute_centroids(store, matcher, groups).await?;
        let (faces, last) = store.ungrouped(*upto, matcher.known_from(), BATCH).await?;
        let Some(last) = last else {
            return Ok(groups.len());
        };
        for face in faces {
            group(store, up, groups, face).await?;
        }
        store.set_grouped_upto(last).await?;
        *upto = last;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Loads all groups in the embedding space of this model pack.
async fn load(store: &Store, up: &Grouping<'_>, health: &Health) -> anyhow::Result<Clusters> {
    let matcher = up.matcher;
    move_here(store, up, health).await?;
    let matching = matcher.matching();
    let mut groups = Clusters::new(
        matching.metric,
        matcher.dimension(),
        matching.linking_distance(),
    );
    for (id, centroid) in store.stranger_centroids(matcher.space().into()).await? {
        if centroid.count > 0 && groups.set(id, centroid).is_err() {
            tracing::warn!(
                "the embedding of stranger {id} is damaged and is computed again from the faces"
            );
            store.discard_centroid(id).await?;
        }
    }
    Ok(groups)
}

/// Recomputes the groups that have lost a face.
async fn recompute_centroids(
    store: &Store,
    matcher: &Matcher,
    groups: &mut Clusters,
) -> anyhow::Result<()> {
    let metric = matcher.matching().metric;
    loop {
        let left = store.strangers_left(matcher.space().into(), BATCH).await?;
        if left.is_empty() {
            return Ok(());
        }
        for id in left {
            let of =
                move |faces: &[Vec<f32>]| Centroid::of(metric, faces.iter().map(Vec::as_slice));
            let centroid = store
                .recompute_centroid(id, matcher.space().into(), MIN_QUALITY, MOST_AVERAGED, of)
                .await?;
            match centroid {
                Some(centroid) => groups.set(id, centroid)?,
                None => groups.remove(id),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Puts a face into its group, or founds a new one.
async fn group(
    store: &Store,
    up: &Grouping<'_>,
    groups: &mut Clusters,
    mut face: UngroupedFace,
) -> anyhow::Result<()> {
    if face.space != up.matcher.space() {
        // Its result was made just before the model pack changed.
        let Ok(embedding) = embed_crop(up.engines, face.crop.clone()).await? else {
            return Ok(());
        };
        let space = up.matcher.space();
        store
            .reembed_face(
                face.image_id,
                face.number,
                space.into(),
                Some(embedding.clone()),
            )
            .await?;
        face.space = space.into();
        face.embedding = embedding;
    }
    let counts = face.quality >= MIN_QUALITY;
    let joined = loop {
        let nearest = match groups.nearest(&face.embedding) {
            Ok(nearest) => nearest,
            // An earlier engine may have stored an invalid embedding.
            Err(VisionError::Dimension { .. } | VisionError::NotAnEmbedding { .. }) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let before = nearest
            .and_then(|id| groups.centroid(id))
            .map(|centroid| centroid.count);
        let centroid = match nearest {
            Some(id) if counts => groups.centroid_with(id, &face.embedding),
            Some(id) => groups.centroid(id).cloned(),
            None if counts => {
                Centroid::of(up.matcher.matching().metric, [face.embedding.as_slice()])
            }
            None => None,
        };
        let Some(centroid) = centroid else {
            return Ok(());
        };
        let joining = Joining {
            image_id: face.image_id,
            number: face.number,
            accepted_at_ms: face.accepted_at_ms,
            space: face.space.clone(),
            group: nearest.zip(before),
            centroid: centroid.clone(),
        };
        match (store.join_stranger(joining).await?, nearest) {
            (Joined::Group(id), _) => {
                groups.set(id, centroid)?;
                break id;
            }
            (Joined::GroupChanged, Some(id)) => {
                groups.remove(id);
                recompute_centroids(store, up.matcher, groups).await?;
            }
            (Joined::NoStranger | Joined::GroupChanged, _) => return Ok(()),
        }
    };
    if counts {
        merge(store, groups, joined).await
    } else {
        Ok(())
    }
}

/// Merges groups that turn out to be the same person.
async fn merge(store: &Store, groups: &mut Clusters, mut id: StrangerId) -> anyhow::Result<()> {
    while let Some((other, centroid)) = groups.alike(id) {
        let count = |id| groups.centroid(id).map_or(0, |centroid| centroid.count);
        let (one, two) = ((id, count(id)), (other, count(other)));
        if !store.merge_strangers(one, two, centroid.clone()).await? {
            // A group has changed meanwhile; the next run notices.
            return Ok(());
        }
        tracing::info!("strangers {id} and {other} are one: {}", id.min(other));
        groups.remove(id.max(other));
        id = id.min(other);
        groups.set(id, centroid)?;
    }
    Ok(())
}

/// Embeds the faces of all groups again from their crops, one by one, after a change of recogniser.
async fn move_here(store: &Store, up: &Grouping<'_>, health: &Health) -> anyhow::Result<()> {
    let space = up.matcher.space();
    let mut count = 0;
    loop {
        let faces = store.strangers_elsewhere(space.into(), BATCH).await?;
        if faces.is_empty() {
            break;
        }
        for face in faces {
            count += 1;
            let text = format!(
                "embedding the unknown faces anew, {count} so far: model pack or models.flip changed"
            );
            health.set("strangers", Condition::Starting, text);
            let embedded = embed_crop(up.engines, face.crop).await?;
            // A face that this model pack does not find cannot be compared.
            store
                .reembed_face(face.image_id, face.number, space.into(), embedded.ok())
                .await?;
        }
    }
    Ok(store.strangers_moved(space.into()).await?)
}

#[cfg(test)]
mod tests;
