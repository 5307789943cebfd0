//! Brings up engine and gallery while the page already answers; a broken pack is shown and tried again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Matcher;
use crate::config;
use crate::engine::{Engine, EngineSettings, Reply, load_pack};
use crate::health::{Condition, Health};
use crate::store::{Store, Unembedded};

const RETRY: Duration = Duration::from_secs(30);

/// Engine and gallery, ready to work.
pub struct Ready {
    /// Finds faces.
    pub engine: Engine,
    /// Says who they are.
    pub matcher: Matcher,
}

/// `None` until the engine is up.
pub type ReadyWatch = watch::Receiver<Option<Arc<Ready>>>;

/// Loads until it works, then waits for the stop.
pub async fn start(
    models: config::Models,
    settings: EngineSettings,
    store: Store,
    state_dir: PathBuf,
    health: Health,
    ready: watch::Sender<Option<Arc<Ready>>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    health.set("engine", Condition::Starting, "loading the model pack");
    loop {
        let loading = load(&models, &settings, &store, &state_dir, &health);
        let loaded = tokio::select! {
            loaded = loading => loaded,
            () = stop.cancelled() => return Ok(()),
        };
        match loaded {
            Ok(up) => {
                let text = format!("{} on {} threads", up.engine.description(), up.engine.threads());
                tracing::info!("engine ready: {text}");
                health.set("engine", Condition::Ok, text);
                ready.send_replace(Some(Arc::new(up)));
                stop.cancelled().await;
                return Ok(());
            }
            Err(error) => {
                if health.set("engine", Condition::Degraded, format!("the engine cannot start: {error:#}")) {
                    tracing::error!("the engine cannot start, pictures wait: {error:#}");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn load(
    models: &config::Models,
    settings: &EngineSettings,
    store: &Store,
    state_dir: &Path,
    health: &Health,
) -> anyhow::Result<Ready> {
    let (models, settings) = (models.clone(), settings.clone());
    let engine = tokio::task::spawn_blocking(move || {
        let pack = load_pack(models.pack.as_deref())?;
        Engine::load(pack, models.precision, settings)
    })
    .await
    .context("loading panicked")??;
    if !engine.pack().commercial_use() {
        tracing::warn!("the model pack {} is licensed for non-commercial use only", engine.pack().id());
    }
    let matcher = Matcher::new(engine.pack());
    embed_again(&engine, store, state_dir, matcher.space(), health).await?;
    matcher.replace(store.gallery(matcher.space().into()).await?)?;
    Ok(Ready { engine, matcher })
}

/// After a change of recogniser: embeds every kept enrolment picture in the new space, then adds them all at once.
async fn embed_again(
    engine: &Engine,
    store: &Store,
    state_dir: &Path,
    space: &str,
    health: &Health,
) -> anyhow::Result<()> {
    let missing = store.unembedded(space.into()).await?;
    if missing.is_empty() {
        return Ok(());
    }
    tracing::info!("embedding {} enrolled pictures for the model pack {}", missing.len(), engine.pack().id());
    let mut vectors = Vec::new();
    for (done, picture) in missing.iter().enumerate() {
        let text = format!("embedding enrolled picture {} of {} for another model pack", done + 1, missing.len());
        health.set("engine", Condition::Starting, text);
        match embed_picture(engine, state_dir, picture).await {
            Ok(vector) => vectors.push((picture.person_image_id, vector)),
            Err(why) => tracing::warn!(person_image = picture.person_image_id, "left out of the gallery: {why}"),
        }
    }
    store.add_embeddings(space.into(), vectors).await?;
    Ok(())
}

async fn embed_picture(engine: &Engine, state_dir: &Path, picture: &Unembedded) -> anyhow::Result<Vec<f32>> {
    let bytes = tokio::fs::read(state_dir.join(&picture.file)).await?;
    let reply: Reply = engine.recognise(bytes).await?;
    // The face that was enrolled, wherever another detector draws its box.
    let overlap = |bounds: [f32; 4]| {
        let side = |low: usize, high: usize| {
            (bounds[high].min(picture.bounds[high]) - bounds[low].max(picture.bounds[low])).max(0.0)
        };
        side(0, 2) * side(1, 3)
    };
    reply
        .faces
        .into_iter()
        .filter(|face| overlap(face.bounds) > 0.0)
        .max_by(|a, b| overlap(a.bounds).total_cmp(&overlap(b.bounds)))
        .map(|face| face.embedding)
        .context("this model pack finds no face where one was enrolled")
}
