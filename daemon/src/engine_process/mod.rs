//! The engine: bytes of a picture in; faces, aligned crops and a thumbnail out. Stateless, knows no
//! person.
//!
//! `kithd engine` serves it over gRPC from a process of its own; measuring commands use it in
//! theirs. The daemon never does: it calls the process through `engines`. `kithd camera` shares its
//! confinement.

mod confine;
mod process;
mod recogniser;
mod service;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kith_pictures::decode::DecodeLimits;
use kith_vision::{Comparison, Device, Pack, Precision, Quality};
use tokio::sync::Semaphore;

use crate::config::Models;

pub use confine::{Profile, confine};
pub use process::{Args, run};
pub use recogniser::Recogniser;

/// A face as the engine found it.
#[derive(Debug, Clone)]
pub struct FoundFace {
    /// Left, top, right, bottom in pixels of the upright picture.
    pub bounds: [f32; 4],
    /// Left eye, right eye, nose tip, left and right mouth corner as seen in the picture, pixels.
    pub landmarks: [[f32; 2]; 5],
    /// Detector's confidence, 0 to 1.
    pub score: f32,
    /// Suitability for recognition, 0 to 1.
    pub quality: f32,
    /// Why the face should not be enrolled or recognised, as a sentence.
    pub objection: Option<String>,
    /// Components of the quality, for measurements; `None` from an engine in another process.
    pub measures: Option<Quality>,
    /// In the pack's embedding space.
    pub embedding: Vec<f32>,
    /// Small aligned JPEG; empty if only faces were wanted.
    pub crop: Vec<u8>,
}

/// Time spent in each stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct StageTimes {
    /// Bytes to pixels.
    pub decode: Duration,
    /// Pixels to boxes and landmarks.
    pub detect: Duration,
    /// Cutting out and judging faces.
    pub align: Duration,
    /// Faces to embeddings.
    pub embed: Duration,
    /// Thumbnail and crops.
    pub encode: Duration,
}

/// The engine's result for a picture.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Width and height of the upright picture in pixels.
    pub size: (u32, u32),
    /// Faces, the most prominent first.
    pub faces: Vec<FoundFace>,
    /// Small JPEG of the whole picture; empty if only faces were wanted.
    pub thumbnail: Vec<u8>,
    /// A defect of the file that did not prevent reading it.
    pub remark: Option<String>,
    /// Durations, for measurements.
    pub times: StageTimes,
}

/// Reasons why the engine gave no faces.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The picture cannot be read, with a sentence about it.
    #[error("{0}")]
    Unreadable(String),
    /// A network or a decoder failed, or the models cannot be loaded.
    #[error("{0}")]
    Failed(String),
}

/// The engine's part of the configuration.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Byte and pixel limits.
    pub limits: DecodeLimits,
    /// Smallest face looked for; `None`: the pack's.
    pub min_face_px: Option<usize>,
    /// Most faces per picture.
    pub max_faces: usize,
    /// True if pictures without a face are searched turned, too.
    pub turned: bool,
    /// Pictures at the same time, and cores for all of them together.
    pub threads: usize,
}

/// Loaded networks and the threads that run them; clones share both.
#[derive(Clone)]
pub struct Engine {
    recogniser: Arc<Recogniser>,
    slots: Arc<Semaphore>,
    threads: usize,
    pack: Arc<Pack>,
    precision: Precision,
    device: Device,
}

impl Engine {
    /// Loads and warms the pack's networks and passes the self-test. It blocks for a while, so call
    /// it outside the async runtime.
    pub fn load(
        pack: Pack,
        precision: Option<Precision>,
        device: Device,
        settings: &EngineSettings,
    ) -> Result<Self, EngineError> {
        let precision = precision.unwrap_or_else(|| pack.default_precision(device));
        let recogniser = Recogniser::load(&pack, precision, device, settings)?;
        recogniser.self_test(&pack)?;
        Ok(Self {
            recogniser: Arc::new(recogniser),
            slots: Arc::new(Semaphore::new(settings.threads)),
            threads: settings.threads,
            pack: Arc::new(pack),
            precision,
            device,
        })
    }

    /// Returns pack, precision and device.
    pub fn description(&self) -> String {
        format!("{} {} {}", self.pack.id(), self.precision, self.device)
    }

    /// Returns the device on which its networks run.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns the pack it runs.
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// Returns the precision of its recogniser.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns the number of pictures at the same time.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Times every precision of `pack`, which is this engine's with its files in memory.
    pub fn compare(&self, pack: &Pack) -> Result<Comparison, EngineError> {
        self.recogniser.compare(pack)
    }

    /// Recognises one picture on a blocking thread, as soon as one is free. With `faces_only` the
    /// reply has neither thumbnail nor crops.
    pub async fn recognise(&self, bytes: Bytes, faces_only: bool) -> Result<Reply, EngineError> {
        let slot = Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .map_err(|_| EngineError::Failed("the engine has shut down".into()))?;
        let recogniser = Arc::clone(&self.recogniser);
        let work = tokio::task::spawn_blocking(move || {
            // The thread holds the slot: a caller that gives up does not free it.
            let _slot = slot;
            match faces_only {
                true => recogniser.find_faces(&bytes),
                false => recogniser.recognise(&bytes),
            }
        });
        work.await
            .unwrap_or_else(|panic| Err(EngineError::Failed(panic_text(panic))))
    }
}

fn panic_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(payload) => payload
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "it panicked".into()),
        Err(error) => error.to_string(),
    }
}

/// Returns the bundled pack: beside the program, where the package puts it, or in the source tree
/// it was built in.
pub fn bundled_pack() -> Option<PathBuf> {
    let name = include_str!("../../../models/packs/bundled").trim_end();
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let beside = [folder.join("packs"), folder.join("../share/kithd/packs")];
    let source_tree = folder.ancestors().map(|above| above.join("models/packs"));
    let given = std::env::var_os("KITHD_PACKS").map(PathBuf::from);
    given
        .into_iter()
        .chain(beside)
        .chain(source_tree)
        .map(|packs| packs.join(name))
        .find(|pack| pack.join("pack.toml").exists())
}

/// Reads and checks a pack; the error is for the operator.
pub fn load_pack(models: &Models) -> Result<Pack, EngineError> {
    let folder = models.pack.clone().or_else(bundled_pack).ok_or_else(|| {
        EngineError::Failed(
            "the bundled model pack was not found beside the program; set models.pack to its folder".into(),
        )
    })?;
    let pack = Pack::load(&folder).map_err(|error| EngineError::Failed(error.to_string()))?;
    Ok(match models.flip {
        Some(flip) => pack.with_flip(flip),
        None => pack,
    })
}
