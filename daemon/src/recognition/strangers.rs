//! Groups unknown faces by likeness, in the background: each group a stranger with a number of their own, for good.
//!
//! Looks at results in the order they were made, a little at a time, and goes on where it was after a restart. A face
//! that is erased, deleted, done again or named leaves its group by itself (migration 0008); the group is summed up
//! again here, or is gone. Faces too poor to tell anybody by are left alone.

use std::time::Duration;

use kith_vision::{Clusters, SHAPED_BY, Shape, VisionError};
use tokio_util::sync::CancellationToken;

use super::start::embed_crop;
use super::{Enroller, Matcher, Ready, ReadyWatch};
use crate::health::{Condition, Health};
use crate::store::{Joining, Store, StrangerId, StrangerShape, UngroupedFace};

/// Between two looks: what came meanwhile is written together.
const EVERY: Duration = Duration::from_secs(2);
/// After an error.
const RETRY: Duration = Duration::from_secs(10);
/// Results looked at in one go, and groups summed up again.
const BATCH: usize = 100;
/// Between two goes when there is more to do, for those who wait for the database or the processor.
const PAUSE: Duration = Duration::from_millis(20);
/// Faces below this quality join a group, but found and shape none.
const SHAPES_FROM: f32 = 0.4;

/// What the task works with.
pub struct Strangers {
    /// Does to its end what naming a group began; has the database too.
    pub enroller: Enroller,
    /// Engine and gallery, once they are up.
    pub ready: ReadyWatch,
    /// Where it says how it is.
    pub health: Health,
}

impl Strangers {
    /// Groups until stopped.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { enroller, mut ready, health } = self;
        let up = tokio::select! {
            up = ready.wait_for(Option::is_some) => up.ok().and_then(|up| up.clone()),
            () = stop.cancelled() => None,
        };
        let Some(up) = up else { return Ok(()) };
        let mut changes = enroller.store.changes();
        let mut restores = enroller.restores.subscribe();
        let mut grouped = None;
        loop {
            let round = async {
                changes.mark_unchanged();
                if restores.has_changed().unwrap_or(false) {
                    restores.mark_unchanged();
                    // Groups came back that are not in memory.
                    grouped = None;
                }
                let wait = match round(&enroller, &up, &health, &mut grouped).await {
                    Ok(count) => {
                        health.set("strangers", Condition::Ok, format!("{count} groups of unknown faces"));
                        EVERY
                    }
                    Err(error) => {
                        // What is in memory may not be what was written.
                        grouped = None;
                        let text = format!("new unknown faces are not grouped now: {error:#}; tried again");
                        if health.set("strangers", Condition::Degraded, text.as_str()) {
                            tracing::warn!("{text}");
                        }
                        RETRY
                    }
                };
                tokio::time::sleep(wait).await;
                // Only the end of the store ends these.
                let _ = changes.changed().await;
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = round => {}
            }
        }
    }
}

/// The groups, as they were written.
struct Grouped {
    groups: Clusters,
    /// The newest result whose faces are in them.
    upto: i64,
}

/// All there is to do now; answers how many groups there are.
async fn round(
    enroller: &Enroller,
    up: &Ready,
    health: &Health,
    grouped: &mut Option<Grouped>,
) -> anyhow::Result<usize> {
    let (store, matcher) = (&enroller.store, &up.matcher);
    enroller.finish_naming(matcher).await?;
    let Grouped { groups, upto } = match grouped {
        Some(grouped) => grouped,
        None => {
            move_here(store, up, health).await?;
            let groups = load(store, matcher).await?;
            grouped.insert(Grouped { groups, upto: store.grouped_upto().await? })
        }
    };
    // Groups that were named, or whose last face has gone.
    let there = store.stranger_ids().await?;
    let gone: Vec<_> = groups.ids().filter(|id| !there.contains(id)).collect();
    gone.into_iter().for_each(|id| groups.remove(id));
    loop {
        sum_up_again(store, matcher, groups).await?;
        let (faces, last) = store.ungrouped(*upto, matcher.known_from(), BATCH).await?;
        let Some(last) = last else { return Ok(groups.len()) };
        for face in faces {
            group(store, up, groups, face).await?;
        }
        store.set_grouped_upto(last).await?;
        *upto = last;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn load(store: &Store, matcher: &Matcher) -> anyhow::Result<Clusters> {
    let matching = matcher.matching();
    let mut groups = Clusters::new(matching.metric, matcher.dimension(), matching.threshold);
    for (id, shape) in store.stranger_shapes(matcher.space().into()).await? {
        if shape.weight > 0 {
            groups.set(id, Shape { total: shape.total, weight: shape.weight })?;
        }
    }
    Ok(groups)
}

/// Sums up what is left of groups that a face has left.
async fn sum_up_again(store: &Store, matcher: &Matcher, groups: &mut Clusters) -> anyhow::Result<()> {
    let metric = matcher.matching().metric;
    loop {
        let left = store.strangers_left(matcher.space().into(), BATCH).await?;
        if left.is_empty() {
            return Ok(());
        }
        for id in left {
            let of = move |faces: &[Vec<f32>]| Shape::of(metric, faces.iter().map(Vec::as_slice)).map(stored);
            let shape = store.reshape_stranger(id, matcher.space().into(), SHAPES_FROM, SHAPED_BY, of).await?;
            match shape {
                Some(shape) => groups.set(id, Shape { total: shape.total, weight: shape.weight })?,
                None => groups.remove(id),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Finds a face its group, or makes it one.
async fn group(store: &Store, up: &Ready, groups: &mut Clusters, mut face: UngroupedFace) -> anyhow::Result<()> {
    if face.space != up.matcher.space() {
        // Its result was made just before the model pack was changed.
        let Ok(embedding) = embed_crop(&up.guard, face.crop.clone()).await? else { return Ok(()) };
        let space = up.matcher.space();
        store.reembed_face(face.image_id, face.number, space.into(), Some(embedding.clone())).await?;
        face.space = space.into();
        face.embedding = embedding;
    }
    let shapes = face.quality >= SHAPES_FROM;
    let joined = loop {
        let nearest = match groups.nearest(&face.embedding) {
            Ok(nearest) => nearest,
            // An engine of before may have stored such a thing; it is nobody's face.
            Err(VisionError::Dimension { .. } | VisionError::NotAnEmbedding { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let before = nearest.and_then(|id| groups.shape(id)).map(|shape| shape.weight);
        let shape = match nearest {
            Some(id) if shapes => groups.shape_with(id, &face.embedding),
            Some(id) => groups.shape(id).cloned(),
            None if shapes => Shape::of(up.matcher.matching().metric, [face.embedding.as_slice()]),
            None => None,
        };
        let Some(shape) = shape else { return Ok(()) };
        let joining = Joining {
            image_id: face.image_id,
            number: face.number,
            accepted_at_ms: face.accepted_at_ms,
            space: face.space.clone(),
            group: nearest.zip(before),
            shape: stored(shape.clone()),
        };
        match (store.join_stranger(joining).await?, nearest) {
            (Some(id), _) => {
                groups.set(id, shape)?;
                break id;
            }
            // The face itself is gone or known by now.
            (None, None) => return Ok(()),
            // The group is gone, or a face has left it.
            (None, Some(id)) => {
                groups.remove(id);
                sum_up_again(store, &up.matcher, groups).await?;
            }
        }
    };
    if shapes { merge(store, groups, joined).await } else { Ok(()) }
}

/// Makes one of groups that turn out to be the same person.
async fn merge(store: &Store, groups: &mut Clusters, mut id: StrangerId) -> anyhow::Result<()> {
    while let Some((other, shape)) = groups.alike(id) {
        let weight = |id| groups.shape(id).map_or(0, |shape| shape.weight);
        let (one, two) = ((id, weight(id)), (other, weight(other)));
        if !store.merge_strangers(one, two, stored(shape.clone())).await? {
            // One of them is not what it was; the next look will find that.
            return Ok(());
        }
        tracing::info!("strangers {id} and {other} are one: {}", id.min(other));
        groups.remove(id.max(other));
        id = id.min(other);
        groups.set(id, shape)?;
    }
    Ok(())
}

/// After a change of recogniser: embeds the faces of all groups again from their kept crops, one by one.
async fn move_here(store: &Store, up: &Ready, health: &Health) -> anyhow::Result<()> {
    let space = up.matcher.space();
    let mut count = 0;
    loop {
        let faces = store.strangers_elsewhere(space.into(), BATCH).await?;
        if faces.is_empty() {
            break;
        }
        for face in faces {
            count += 1;
            let text = format!("embedding the unknown faces for another model pack, {count} so far");
            health.set("strangers", Condition::Starting, text);
            let embedded = embed_crop(&up.guard, face.crop).await?;
            // One in which this pack finds no face can be compared with nobody.
            store.reembed_face(face.image_id, face.number, space.into(), embedded.ok()).await?;
        }
    }
    Ok(store.strangers_moved(space.into()).await?)
}

fn stored(shape: Shape) -> StrangerShape {
    StrangerShape { total: shape.total, weight: shape.weight }
}
