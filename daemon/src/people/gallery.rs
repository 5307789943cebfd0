//! The gallery in memory: loaded at start, embedded again after a change of model pack, kept
//! complete.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use tokio_util::sync::CancellationToken;

use crate::config::Judging;
use crate::domain::EngineErrorKind;
use crate::engines::client::{EngineReply, Picture};
use crate::engines::{Admission, Engines};
use crate::people::enroll::refresh;
use crate::people::{Matcher, People};
use crate::queue::{Again, Failure};
use crate::status::health::{Condition, Health};
use crate::store::{Store, StoreError, Unembedded};

/// Longest wait for an engine that embeds a picture.
const RETRY: Duration = Duration::from_secs(30);
/// Delay before a gallery that needs an engine is checked again.
const GALLERY_RETRY: Duration = Duration::from_secs(2);

/// Attempts before an enrolled picture is left out of the gallery.
const TRIES: usize = 3;
/// Most left-out pictures that are named; the others are counted.
const NAMED: usize = 5;

impl People {
    /// Loads the gallery into memory and keeps it complete until stopped.
    pub async fn keep_gallery(
        self,
        judging: Judging,
        health: Health,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        tokio::select! {
            () = self.load_and_keep(judging, &health) => {}
            () = stop.cancelled() => {}
        }
        Ok(())
    }

    /// Loads the gallery once, for a command without a daemon.
    pub async fn load(&self, judging: Judging) -> anyhow::Result<()> {
        let matcher = Matcher::new(&*self.engines.loaded().await, judging);
        let space = matcher.space();
        let pictures = self.store.gallery(space.into()).await?;
        matcher.replace(pictures, self.store.counter_examples(space.into()).await?);
        self.matcher.send_replace(Some(Arc::new(matcher)));
        Ok(())
    }

    async fn load_and_keep(&self, judging: Judging, health: &Health) {
        let matcher = Arc::new(Matcher::new(&*self.engines.loaded().await, judging));
        let mut left_out = fill(&matcher, &self.engines, &self.store, health).await;
        // No backup may be restored between this load of the gallery and the next.
        let held = self.store.hold_claims();
        self.matcher.send_replace(Some(Arc::clone(&matcher)));
        // A person erased during the first load would still be in the gallery.
        if let Err(error) = refresh(&self.store, &matcher).await {
            tracing::error!("the gallery could not be read once more: {error:#}");
        }
        drop(held);
        let space = || matcher.space().to_string();
        let mut elsewhere = self.elsewhere(space()).await.unwrap_or_default();
        loop {
            matcher.replaced().await;
            // Damaged rows may have been set aside since, left-out pictures enrolled again or
            // deleted, and faces have come from a board with another model pack.
            let without = self.store.unembedded(space()).await;
            let examples = self.elsewhere(space()).await;
            if without.is_ok_and(|without| without != left_out)
                || examples.is_ok_and(|examples| examples != elsewhere)
            {
                left_out = fill(&matcher, &self.engines, &self.store, health).await;
                elsewhere = self.elsewhere(space()).await.unwrap_or_default();
            }
        }
    }

    /// Returns the counter-examples without an embedding in this space.
    async fn elsewhere(&self, space: String) -> Result<Vec<i64>, StoreError> {
        let elsewhere = self.store.counter_examples_elsewhere(space).await?;
        Ok(elsewhere.into_iter().map(|(id, _)| id).collect())
    }
}

/// Loads the gallery of the pack's embedding space into memory, retrying until it is as complete as
/// possible. Returns the pictures that cannot be embedded.
async fn fill(
    matcher: &Matcher,
    engines: &Engines,
    store: &Store,
    health: &Health,
) -> Vec<Unembedded> {
    loop {
        let loaded = async {
            // Sets damaged rows aside first, so that they are embedded again with the rest.
            refresh(store, matcher).await?;
            let again = embed_again(engines, store, matcher.space(), health).await?;
            let examples = embed_counter_examples(engines, store, matcher.space()).await?;
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

/// Outcome for pictures without an embedding in the pack's embedding space.
#[derive(Default)]
struct EmbeddedAgain {
    made: usize,
    /// Pictures that cannot be embedded, each with the reason, by number.
    left_out: Vec<(Unembedded, String)>,
}

impl EmbeddedAgain {
    fn show(&self, health: &Health) {
        if self.left_out.is_empty() {
            // People named in the message may have been erased by now.
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
            "Enrolled pictures left out: {}. Their people are recognised by their other pictures; delete these and enrol others",
            named.join("; ")
        );
        health.set("gallery", Condition::Degraded, text);
    }
}

/// Embeds every enrolled picture that has no embedding in this space, because of a new recogniser
/// or damage, and adds all of them at once.
async fn embed_again(
    engines: &Engines,
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
        engines.pack().map_or("", |pack| pack.id())
    );
    let mut vectors = Vec::new();
    let count = missing.len();
    for (done, picture) in (1..).zip(missing) {
        let text = format!(
            "embedding enrolled picture {done} of {count} anew: model pack or models.flip changed, or what was stored is \
             damaged"
        );
        health.set("gallery", Condition::Starting, text);
        match embed_picture(engines, store, &picture).await? {
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

/// Embeds counter-examples likewise; returns how many.
async fn embed_counter_examples(
    engines: &Engines,
    store: &Store,
    space: &str,
) -> anyhow::Result<usize> {
    let mut vectors = Vec::new();
    for (id, crop) in store.counter_examples_elsewhere(space.into()).await? {
        match embed_crop(engines, crop).await? {
            Ok(vector) => vectors.push((id, vector)),
            Err(why) => {
                tracing::warn!(
                    counter_example = id,
                    "not heeded with this model pack: {why}"
                );
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

/// Embeds one picture. The outer error is the engine's and worth a retry, the inner one the
/// picture's.
async fn embed_picture(
    engines: &Engines,
    store: &Store,
    picture: &Unembedded,
) -> anyhow::Result<Result<Vec<f32>, String>> {
    match store.enrolment_picture(picture.person_image_id).await? {
        Some(bytes) => embed(engines, bytes, picture.bounds).await,
        None => Ok(Err("its bytes are lost".into())),
    }
}

/// Embeds a kept crop of a face; errors are those of [`embed_picture`].
pub async fn embed_crop(
    engines: &Engines,
    crop: Vec<u8>,
) -> anyhow::Result<Result<Vec<f32>, String>> {
    // The face fills the crop, whatever its size.
    embed(engines, crop, [0.0, 0.0, f32::MAX, f32::MAX]).await
}

/// Embeds the face nearest to the box in which one was found before.
async fn embed(
    engines: &Engines,
    bytes: Vec<u8>,
    bounds: [f32; 4],
) -> anyhow::Result<Result<Vec<f32>, String>> {
    let picture = Picture {
        bytes: bytes.into(),
        path: None,
        faces_only: true,
    };
    let mut tries = 0;
    let reply = loop {
        engines.available(RETRY).await.map_err(|why| anyhow!(why))?;
        tries += 1;
        let failure = match engines.recognise(&Admission::queue(), None, &picture).await {
            Ok(recognised) => match recognised.answer {
                EngineReply::Faces(reply) => break reply,
                EngineReply::Name(_) => {
                    return Ok(Err("the configured engine gives no embeddings".into()));
                }
            },
            Err(Failure::Engine(error)) if error.kind == EngineErrorKind::Aborted => {
                bail!(error.sentence)
            }
            Err(failure) => failure.verdict(),
        };
        // An engine may die for other reasons than this picture. But a picture that kills it every
        // time must not block the gallery for everybody.
        if tries == TRIES || failure.again == Again::Final {
            return Ok(Err(failure.sentence));
        }
    };
    // Finds the enrolled face again, even if another detector draws its box differently.
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
