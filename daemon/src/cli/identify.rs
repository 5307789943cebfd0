//! `kithd identify`: answers on the command line with an engine of its own; nothing is stored.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;

use super::OwnEngines;
use crate::config::Config;
use crate::domain::{Identified, IdentifiedFace, Outcome};
use crate::engines::Admission;
use crate::people::Matcher;
use crate::pipeline::{Identifier, read_given};
use crate::store::{Store, counter_examples, gallery};

/// Arguments of `kithd identify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Pictures to identify
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// Answers as JSON, one line a picture
    #[arg(long)]
    json: bool,
}

/// Prints an answer for each picture; fails if one could not be read.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let engines = OwnEngines::start(config).await?;
    let pack = engines.engines.loaded().await;
    let matcher = Matcher::new(&pack, config.recognition.judging);
    if let Some(connection) = Store::open_for_reading(&config.state_dir)? {
        let rows = gallery(&connection, matcher.space())?;
        let left_out = matcher.replace(rows, counter_examples(&connection, matcher.space())?);
        if !left_out.pictures.is_empty() {
            eprintln!(
                "{} enrolled pictures are left out because their embeddings are damaged; the daemon computes them again at its start",
                left_out.pictures.len()
            );
        }
    }
    let identifier = Identifier {
        engines: engines.engines.clone(),
        matcher: Arc::new(matcher),
        store: None,
    };
    let mut code = ExitCode::SUCCESS;
    for path in args.pictures {
        let shown = path.display().to_string();
        let identified = match read_given(&path, config.intake.max_bytes) {
            Ok(bytes) => {
                let path = std::path::absolute(&path).ok();
                identifier
                    .identify(&Admission::queue(), None, bytes, path)
                    .await
            }
            Err(failure) => Err(failure),
        };
        match identified {
            Ok(identified) if args.json => println!("{}", as_json(&shown, &identified)),
            Ok(identified) => print!("{}", as_text(&shown, &identified)),
            Err(failure) => {
                code = ExitCode::FAILURE;
                let sentence = failure.verdict().sentence;
                if args.json {
                    println!(
                        "{}",
                        json!({ "path": shown, "state": "failed", "reason": sentence })
                    );
                } else {
                    println!("{shown}: failed: {sentence}");
                }
            }
        }
    }
    engines.stop().await;
    Ok(code)
}

fn as_text(path: &str, identified: &Identified) -> String {
    let mut text = format!("{path}: {}\n", identified.outcome);
    for face in &identified.faces {
        let who = match (&face.person, face.outcome) {
            (Some(person), Outcome::Known) => person.name.clone(),
            (Some(person), _) => format!("perhaps {}", person.name),
            (None, _) => "nobody known".into(),
        };
        let distance = face
            .distance
            .map_or_else(String::new, |distance| format!(", distance {distance:.3}"));
        let [left, top, right, bottom] = face.bounds.map(f32::round);
        text.push_str(&format!(
            "  {who}{distance}, box {left} {top} {right} {bottom}\n"
        ));
        if let Some(objection) = &face.objection {
            text.push_str(&format!("    {objection}\n"));
        }
    }
    text
}

fn as_json(path: &str, identified: &Identified) -> serde_json::Value {
    let face = |face: &IdentifiedFace| {
        json!({
            "box": face.bounds, "landmarks": face.landmarks, "score": face.score, "quality": face.quality,
            "objection": face.objection, "outcome": face.outcome, "person": face.person, "distance": face.distance, "margin": face.margin,
            "candidates": face.candidates,
        })
    };
    json!({
        "path": path,
        "state": "processed",
        "outcome": identified.outcome,
        "width": identified.size.map(|(width, _)| width),
        "height": identified.size.map(|(_, height)| height),
        "engine": identified.engine,
        "faces": identified.faces.iter().map(face).collect::<Vec<_>>(),
    })
}
