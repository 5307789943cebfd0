//! Brings up pack, engines and gallery while the page already answers; a broken pack is shown and
//! tried again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Judging, Models};
use crate::engine_process::load_pack;
use crate::engines::client::{Answer, Picture};
use crate::engines::status::EngineDesk;
use crate::engines::{Books, Guard, GuardSettings};
use crate::people::Matcher;
use crate::people::enroll::refresh;
use crate::queue::{Again, Failure};
use crate::status::health::{Condition, Health};
use crate::store::{Store, Unembedded};

const RETRY: Duration = Duration::from_secs(30);
/// Before a gallery that needs an engine is looked at again.
const GALLERY_RETRY: Duration = Duration::from_secs(2);

/// Before an enrolled picture is left out of the gallery.
const TRIES: usize = 3;
/// Pictures left out that are named; the others are counted.
const NAMED: usize = 5;

/// Engines and gallery, ready to work.
pub struct Ready {
    /// Finds faces, with the breaker before it.
    pub guard: Guard,
    /// Says who they are.
    pub matcher: Matcher,
    /// Where an engine of the origin's kind has its people looked up; the command line looks nobody
    /// up.
    pub store: Option<Store>,
}

/// `None` until the gallery is up.
pub type ReadyWatch = watch::Receiver<Option<Arc<Ready>>>;

/// What is brought up.
pub struct Start {
    /// The model pack, and how it is used.
    pub models: Models,
    /// What distances are taken for.
    pub judging: Judging,
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
    let Start {
        models,
        judging,
        settings,
        books,
        health,
    } = start;
    let pack = loop {
        let wanted = models.clone();
        let loading = tokio::task::spawn_blocking(move || load_pack(&wanted));
        match loading.await.context("loading the model pack panicked")? {
            Ok(pack) => break Arc::new(pack),
            Err(error) => {
                if health.set(
                    "engine",
                    Condition::Degraded,
                    format!("the model pack cannot be used: {error}"),
                ) {
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
        tracing::warn!(
            "the model pack {} is licensed for non-commercial use only",
            pack.id()
        );
    }
    let guard = Guard::new(
        settings,
        Arc::clone(&pack),
        health.clone(),
        Some(books.clone()),
    );
    desk.send_replace(Some(guard.desk()));
    let gallery = async {
        let matcher = Matcher::new(&pack, judging);
        let mut left_out = fill(&matcher, &guard, &books.store, &health).await;
        // A backup may be restored between this reading of the gallery and the next one.
        let held = books.store.hold_claims();
        let up = Arc::new(Ready {
            guard: guard.clone(),
            matcher,
            store: Some(books.store.clone()),
        });
        ready.send_replace(Some(Arc::clone(&up)));
        // Who was erased while it was being read found no gallery to be taken out of.
        if let Err(error) = refresh(&books.store, &up.matcher).await {
            tracing::error!("the gallery could not be read once more: {error:#}");
        }
        drop(held);
        loop {
            up.matcher.replaced().await;
            // A later reading may have set something aside, and what was left out may be enrolled
            // again or be gone.
            let without = books.store.unembedded(up.matcher.space().into()).await;
            if without.is_ok_and(|without| without != left_out) {
                left_out = fill(&up.matcher, &guard, &books.store, &health).await;
            }
        }
    };
    tokio::select! {
        run = guard.clone().run(stop) => run,
        never = gallery => never,
    }
}

/// Takes the gallery of the pack's embedding space into memory; tried until all of it that can be
/// had is there. Answers the pictures that cannot.
async fn fill(matcher: &Matcher, guard: &Guard, store: &Store, health: &Health) -> Vec<Unembedded> {
    loop {
        let loaded = async {
            // What is damaged is set aside first, to be made anew with the rest.
            refresh(store, matcher).await?;
            let again = embed_again(guard, store, matcher.space(), health).await?;
            let examples = embed_counter_examples(guard, store, matcher.space()).await?;
            if again.made + examples > 0 {
                refresh(store, matcher).await?;
            }
            anyhow::Ok(again)
        };
        match loaded.await {
            Ok(again) => {
                again.show(health);
                return again
                    .left_out
                    .into_iter()
                    .map(|(picture, _)| picture)
                    .collect();
            }
            Err(error) => {
                if health.set(
                    "gallery",
                    Condition::Degraded,
                    format!("pictures wait: {error:#}"),
                ) {
                    tracing::error!("the gallery is not complete, pictures wait: {error:#}");
                }
                tokio::time::sleep(GALLERY_RETRY).await;
            }
        }
    }
}

/// What became of pictures that had no embedding in the pack's space.
#[derive(Default)]
struct EmbeddedAgain {
    made: usize,
    /// Those that cannot be embedded, each with a sentence, by number.
    left_out: Vec<(Unembedded, String)>,
}

impl EmbeddedAgain {
    fn show(&self, health: &Health) {
        if self.left_out.is_empty() {
            // Those who were named may be erased by now.
            health.forget_trouble("gallery");
            match self.made {
                0 => health.set("gallery", Condition::Ok, "complete"),
                made => health.set(
                    "gallery",
                    Condition::Ok,
                    format!("complete; {made} embeddings were made anew"),
                ),
            };
            return;
        }
        let mut named: Vec<_> = self
            .left_out
            .iter()
            .take(NAMED)
            .map(|(_, sentence)| sentence.clone())
            .collect();
        if self.left_out.len() > NAMED {
            named.push(format!("and {} more", self.left_out.len() - NAMED));
        }
        let text = format!(
            "Enrolled pictures left out: {}. Everybody is known by their other pictures; take these out and enrol others",
            named.join("; ")
        );
        health.set("gallery", Condition::Degraded, text);
    }
}

/// Embeds every kept enrolment picture that has no embedding in the space, after a change of
/// recogniser or because it was damaged, then adds them all at once.
async fn embed_again(
    guard: &Guard,
    store: &Store,
    space: &str,
    health: &Health,
) -> anyhow::Result<EmbeddedAgain> {
    let missing = store.unembedded(space.into()).await?;
    let mut again = EmbeddedAgain::default();
    if missing.is_empty() {
        return Ok(again);
    }
    tracing::info!(
        "embedding {} enrolled pictures for the model pack {}",
        missing.len(),
        guard.pack().id()
    );
    let mut vectors = Vec::new();
    let count = missing.len();
    for (done, picture) in (1..).zip(missing) {
        let text = format!(
            "embedding enrolled picture {done} of {count} anew: model pack or models.flip changed, or what was stored is \
             damaged"
        );
        health.set("gallery", Condition::Starting, text);
        match embed_picture(guard, store, &picture).await? {
            Ok(vector) => vectors.push((picture.person_image_id, vector)),
            Err(why) => {
                tracing::warn!(
                    person_image = picture.person_image_id,
                    "left out of the gallery: {why}"
                );
                let sentence = format!("{} of {} ({why})", picture.image_name, picture.person);
                again.left_out.push((picture, sentence));
            }
        }
    }
    again.made = vectors.len();
    store.add_embeddings(space.into(), vectors).await?;
    Ok(again)
}

/// The same for faces somebody said are not who they were taken for; answers how many.
async fn embed_counter_examples(
    guard: &Guard,
    store: &Store,
    space: &str,
) -> anyhow::Result<usize> {
    let mut vectors = Vec::new();
    for (id, crop) in store.counter_examples_elsewhere(space.into()).await? {
        match embed_crop(guard, crop).await? {
            Ok(vector) => vectors.push((id, vector)),
            Err(why) => {
                tracing::warn!(
                    counter_example = id,
                    "not heeded with this model pack: {why}"
                )
            }
        }
    }
    let made = vectors.len();
    if made > 0 {
        store
            .reembed_counter_examples(space.into(), vectors)
            .await?;
    }
    Ok(made)
}

/// The outer error is the engine's, and worth another try; the inner one is the picture's.
async fn embed_picture(
    guard: &Guard,
    store: &Store,
    picture: &Unembedded,
) -> anyhow::Result<Result<Vec<f32>, String>> {
    match store.enrolment_picture(picture.person_image_id).await? {
        Some(bytes) => embed(guard, bytes, picture.bounds).await,
        None => Ok(Err("its bytes are lost".into())),
    }
}

/// A kept crop of a face in the space of the engine's pack; the errors are as of [`embed_picture`].
pub async fn embed_crop(guard: &Guard, crop: Vec<u8>) -> anyhow::Result<Result<Vec<f32>, String>> {
    // It is the face from edge to edge, whatever its size.
    embed(guard, crop, [0.0, 0.0, f32::MAX, f32::MAX]).await
}

/// The face of a picture that is nearest to where one was found before.
async fn embed(
    guard: &Guard,
    bytes: Vec<u8>,
    bounds: [f32; 4],
) -> anyhow::Result<Result<Vec<f32>, String>> {
    let picture = Picture {
        bytes: bytes.into(),
        path: None,
    };
    let mut tries = 0;
    let reply = loop {
        guard.available(RETRY).await.map_err(|why| anyhow!(why))?;
        tries += 1;
        let failure = match guard.recognise(None, &picture).await {
            Ok(recognised) => match recognised.answer {
                Answer::Faces(reply) => break reply,
                Answer::Name(_) => {
                    return Ok(Err("the configured engine gives no embeddings".into()));
                }
            },
            Err(Failure::EngineAway(why)) => bail!(why),
            Err(failure) => failure.verdict(),
        };
        // An engine may die of something else than the picture; but one picture that always kills
        // it must not keep the gallery from everybody.
        if tries == TRIES || failure.again == Again::Final {
            return Ok(Err(failure.sentence));
        }
    };
    // The face that was enrolled, wherever another detector draws its box.
    let overlap = |found: [f32; 4]| {
        let side = |low: usize, high: usize| {
            (found[high].min(bounds[high]) - found[low].max(bounds[low])).max(0.0)
        };
        side(0, 2) * side(1, 3)
    };
    let enrolled = reply
        .faces
        .into_iter()
        .filter(|face| overlap(face.bounds) > 0.0)
        .max_by(|a, b| overlap(a.bounds).total_cmp(&overlap(b.bounds)));
    Ok(enrolled
        .map(|face| face.embedding)
        .ok_or_else(|| "this model pack finds no face where one was enrolled".into()))
}
