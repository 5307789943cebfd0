//! Subjects of an evaluation: the half of the people that is used, and the face of each picture.

use std::path::PathBuf;

use anyhow::Context;
use futures_util::StreamExt;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::engine_process::{Engine, FoundFace, Reply};
use crate::pipeline::read_given;

/// The half of the people that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Half {
    Tuning,
    Report,
    All,
}

impl Half {
    /// Returns true if a person is in this half.
    pub fn has(self, person: &str) -> bool {
        let tuning = Sha256::digest(person)[0] < 0x80;
        match self {
            Self::Tuning => tuning,
            Self::Report => !tuning,
            Self::All => true,
        }
    }
}

/// Returns the face of each picture, in the order given.
pub async fn subjects(
    config: &Config,
    engine: &Engine,
    pictures: Vec<PathBuf>,
) -> anyhow::Result<Vec<(PathBuf, Option<FoundFace>)>> {
    let bar = indicatif::ProgressBar::new(pictures.len() as u64);
    let faces = futures_util::stream::iter(pictures)
        .map(|path| {
            let bar = &bar;
            async move {
                let bytes = read_given(&path, config.intake.max_bytes)
                    .map_err(|f| anyhow::anyhow!(f.verdict().sentence))?;
                let reply = engine.recognise(bytes.into(), false).await;
                let reply = reply.with_context(|| path.display().to_string())?;
                bar.inc(1);
                anyhow::Ok((path, subject(reply)))
            }
        })
        .buffered(engine.threads())
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect();
    bar.finish_and_clear();
    faces
}

/// Returns the face that a pair is about: the one nearest the picture's centre, as in Labeled Faces
/// in the Wild.
fn subject(reply: Reply) -> Option<FoundFace> {
    let centre = [reply.size.0 as f32 / 2.0, reply.size.1 as f32 / 2.0];
    let off_centre = |face: &FoundFace| {
        let [left, top, right, bottom] = face.bounds;
        ((left + right) / 2.0 - centre[0]).hypot((top + bottom) / 2.0 - centre[1])
    };
    reply
        .faces
        .into_iter()
        .min_by(|a, b| off_centre(a).total_cmp(&off_centre(b)))
}
