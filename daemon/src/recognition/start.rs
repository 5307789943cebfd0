//! Brings up pack, engines and gallery while the page already answers; a broken pack is shown and tried again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Picture};
use super::enroll::refresh;
use super::{Books, Guard, GuardSettings, Matcher};
use crate::config::Models;
use crate::desk::EngineDesk;
use crate::engine::load_pack;
use crate::health::{Condition, Health};
use crate::store::{Store, Unembedded};

const RETRY: Duration = Duration::from_secs(30);
/// Before a gallery that needs an engine is looked at again.
const GALLERY_RETRY: Duration = Duration::from_secs(2);

/// Before an enrolled picture is left out of the gallery.
const TRIES: usize = 3;

/// Engines and gallery, ready to work.
pub struct Ready {
    /// Finds faces, with the breaker before it.
    pub guard: Guard,
    /// Says who they are.
    pub matcher: Matcher,
    /// Where an engine of the origin's kind has its people looked up; the command line looks nobody up.
    pub store: Option<Store>,
}

/// `None` until the gallery is up.
pub type ReadyWatch = watch::Receiver<Option<Arc<Ready>>>;

/// What is brought up.
pub struct Start {
    /// The model pack, and how it is used.
    pub models: Models,
    /// Two pictures of one person are nearer than this; `None`: the pack's.
    pub threshold: Option<f32>,
    /// A picture may show a person more than once.
    pub mirrors: bool,
    /// The engines'.
    pub settings: GuardSettings,
    /// Where results and facts are kept.
    pub books: Books,
    /// Where trouble is shown.
    pub health: Health,
}

/// Loads until it works, then runs the engines until the stop.
pub async fn start(
    start: Start,
    ready: watch::Sender<Option<Arc<Ready>>>,
    desk: watch::Sender<Option<EngineDesk>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Start { models, threshold, mirrors, settings, books, health } = start;
    let pack = loop {
        let wanted = models.clone();
        let loading = tokio::task::spawn_blocking(move || load_pack(&wanted));
        match loading.await.context("loading the model pack panicked")? {
            Ok(pack) => break Arc::new(pack),
            Err(error) => {
                if health.set("engine", Condition::Degraded, format!("the model pack cannot be used: {error}")) {
                    tracing::error!("the model pack cannot be used, pictures wait: {error}");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return Ok(()),
        }
    };
    if !pack.commercial_use() {
        tracing::warn!("the model pack {} is licensed for non-commercial use only", pack.id());
    }
    let guard = Guard::new(settings, Arc::clone(&pack), health.clone(), Some(books.clone()));
    desk.send_replace(Some(guard.desk()));
    let gallery = async {
        let matcher = Matcher::new(&pack, threshold, mirrors);
        fill(&matcher, &guard, &books.store, &health).await;
        // A backup may be restored between this reading of the gallery and the next one.
        let held = books.store.hold_claims();
        let up = Arc::new(Ready { guard: guard.clone(), matcher, store: Some(books.store.clone()) });
        ready.send_replace(Some(Arc::clone(&up)));
        // Who was erased while it was being read found no gallery to be taken out of.
        if let Err(error) = refresh(&books.store, &up.matcher).await {
            tracing::error!("the gallery could not be read once more: {error:#}");
        }
        drop(held);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        run = guard.clone().run(stop) => run,
        () = gallery => Ok(()),
    }
}

/// Takes the gallery of the pack's embedding space into memory; tried until it is complete.
async fn fill(matcher: &Matcher, guard: &Guard, store: &Store, health: &Health) {
    loop {
        let loaded = async {
            embed_again(guard, store, matcher.space(), health).await?;
            embed_counter_examples(guard, store, matcher.space()).await?;
            refresh(store, matcher).await
        };
        match loaded.await {
            Ok(()) => {
                health.set("gallery", Condition::Ok, "complete");
                return;
            }
            Err(error) => {
                if health.set("gallery", Condition::Degraded, format!("pictures wait: {error:#}")) {
                    tracing::error!("the gallery is not complete, pictures wait: {error:#}");
                }
                tokio::time::sleep(GALLERY_RETRY).await;
            }
        }
    }
}

/// After a change of recogniser: embeds every kept enrolment picture in the new space, then adds them all at once.
pub(super) async fn embed_again(guard: &Guard, store: &Store, space: &str, health: &Health) -> anyhow::Result<()> {
    let missing = store.unembedded(space.into()).await?;
    if missing.is_empty() {
        return Ok(());
    }
    tracing::info!("embedding {} enrolled pictures for the model pack {}", missing.len(), guard.pack().id());
    let mut vectors = Vec::new();
    for (done, picture) in missing.iter().enumerate() {
        let text = format!(
            "embedding enrolled picture {} of {} anew: model pack or models.flip changed",
            done + 1,
            missing.len()
        );
        health.set("gallery", Condition::Starting, text);
        let mut embedded = embed_picture(guard, store, picture).await?;
        // An engine may die of something else than the picture.
        for _ in 1..TRIES {
            if embedded.is_err() {
                embedded = embed_picture(guard, store, picture).await?;
            }
        }
        match embedded {
            Ok(vector) => vectors.push((picture.person_image_id, vector)),
            Err(why) => tracing::warn!(person_image = picture.person_image_id, "left out of the gallery: {why}"),
        }
    }
    store.add_embeddings(space.into(), vectors).await?;
    Ok(())
}

/// The same for faces somebody said are not who they were taken for.
async fn embed_counter_examples(guard: &Guard, store: &Store, space: &str) -> anyhow::Result<()> {
    let mut vectors = Vec::new();
    for (id, crop) in store.counter_examples_elsewhere(space.into()).await? {
        match embed_crop(guard, crop).await? {
            Ok(vector) => vectors.push((id, vector)),
            Err(why) => tracing::warn!(counter_example = id, "not heeded with this model pack: {why}"),
        }
    }
    if vectors.is_empty() { Ok(()) } else { Ok(store.reembed_counter_examples(space.into(), vectors).await?) }
}

/// The outer error is the engine's, and worth another try; the inner one is the picture's.
async fn embed_picture(guard: &Guard, store: &Store, picture: &Unembedded) -> anyhow::Result<Result<Vec<f32>, String>> {
    match store.enrolment_picture(picture.person_image_id).await? {
        Some(bytes) => embed(guard, bytes, picture.bounds).await,
        None => Ok(Err("its bytes are lost".into())),
    }
}

/// A kept crop of a face in the space of the engine's pack; the errors are as of [`embed_picture`].
pub(super) async fn embed_crop(guard: &Guard, crop: Vec<u8>) -> anyhow::Result<Result<Vec<f32>, String>> {
    // It is the face from edge to edge, whatever its size.
    embed(guard, crop, [0.0, 0.0, f32::MAX, f32::MAX]).await
}

/// The face of a picture that is nearest to where one was found before.
async fn embed(guard: &Guard, bytes: Vec<u8>, bounds: [f32; 4]) -> anyhow::Result<Result<Vec<f32>, String>> {
    guard.available(RETRY).await.map_err(|why| anyhow!(why))?;
    let reply = match guard.recognise(None, &Picture { bytes: bytes.into(), path: None }).await {
        Ok(recognised) => match recognised.answer {
            Answer::Faces(reply) => reply,
            Answer::Name(_) => return Ok(Err("the configured engine gives no embeddings".into())),
        },
        Err(failure) if failure.verdict().counts_for_breaker => bail!(failure.verdict().sentence),
        Err(crate::queue::Failure::EngineAway(why)) => bail!(why),
        Err(failure) => return Ok(Err(failure.verdict().sentence)),
    };
    // The face that was enrolled, wherever another detector draws its box.
    let overlap = |found: [f32; 4]| {
        let side = |low: usize, high: usize| (found[high].min(bounds[high]) - found[low].max(bounds[low])).max(0.0);
        side(0, 2) * side(1, 3)
    };
    let enrolled = reply
        .faces
        .into_iter()
        .filter(|face| overlap(face.bounds) > 0.0)
        .max_by(|a, b| overlap(a.bounds).total_cmp(&overlap(b.bounds)));
    Ok(enrolled.map(|face| face.embedding).ok_or_else(|| "this model pack finds no face where one was enrolled".into()))
}
