//! `kithd eval`: accuracy on pairs of pictures of the same or of different people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use futures_util::StreamExt;
use kith_vision::evaluation::{Pair, evaluate};
use serde_json::json;

use super::own_engine;
use crate::config::Config;
use crate::engine::{FoundFace, Reply};
use crate::recognition::read_given;

/// What can be typed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CSV with the columns path_a,path_b,same (1 or 0); paths relative to the file
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Embeds every picture once, measures every pair and prints the figures.
///
/// A picture without a face is a miss: its pairs count as judged different, at an infinite distance.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let pairs = read_pairs(&args.pairs)?;
    let engine = own_engine(config).await?;
    let metric = engine.pack().matching().metric;
    let mut pictures: BTreeMap<&Path, Option<Vec<f32>>> = BTreeMap::new();
    for (a, b, _) in &pairs {
        pictures.entry(a).or_default();
        pictures.entry(b).or_default();
    }
    let total = pictures.len();
    let bar = indicatif::ProgressBar::new(total as u64);
    let embedded: Vec<(PathBuf, Option<Vec<f32>>)> =
        futures_util::stream::iter(pictures.into_keys().map(PathBuf::from))
            .map(|path| {
                let (engine, bar) = (&engine, &bar);
                async move {
                    let bytes = read_given(&path, config.intake.max_bytes)
                        .map_err(|f| anyhow::anyhow!(f.verdict().sentence))?;
                    let reply = engine.recognise(bytes.into()).await.with_context(|| path.display().to_string())?;
                    bar.inc(1);
                    anyhow::Ok((path, subject(reply)))
                }
            })
            .buffer_unordered(engine.threads())
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect::<Result<_, _>>()?;
    bar.finish_and_clear();
    let embedded: BTreeMap<PathBuf, Option<Vec<f32>>> = embedded.into_iter().collect();
    let misses = embedded.values().filter(|embedding| embedding.is_none()).count();
    let measured: Vec<Pair> = pairs
        .iter()
        .map(|(a, b, same)| {
            let distance = match (&embedded[a], &embedded[b]) {
                (Some(a), Some(b)) => metric.distance(a, b),
                _ => f32::INFINITY,
            };
            Pair { distance, same: *same }
        })
        .collect();
    let threshold = engine.pack().matching().threshold;
    let found =
        evaluate(&measured, threshold).context("the pairs must hold both same and different people to be evaluated")?;
    if args.json {
        println!(
            "{}",
            json!({
                "engine": engine.description(), "pairs": pairs.len(), "pictures": total, "misses": misses,
                "threshold": threshold, "accuracy": found.accuracy,
                "best_threshold": found.best_threshold, "best_accuracy": found.best_accuracy,
                "genuine_mean": found.genuine_mean, "impostor_mean": found.impostor_mean,
                "fnmr_at_fmr_1e-2": found.at_fmr_1e2.fnmr,
                "fnmr_at_fmr_1e-3": found.at_fmr_1e3.fnmr,
            })
        );
    } else {
        println!("engine            {}", engine.description());
        println!("pairs             {} of {total} pictures, no face found in {misses}", pairs.len());
        println!("accuracy          {:.2} % at the pack's threshold {threshold}", 100.0 * found.accuracy);
        println!("best              {:.2} % at {:.3}", 100.0 * found.best_accuracy, found.best_threshold);
        println!("genuine mean      {:.3}", found.genuine_mean);
        println!("impostor mean     {:.3}", found.impostor_mean);
        for (rate, one_in, point) in [("1e-2", 100, found.at_fmr_1e2), ("1e-3", 1000, found.at_fmr_1e3)] {
            let few = if found.impostors < one_in { ", from too few pairs of different people to trust" } else { "" };
            println!("FNMR at FMR {rate}  {:.2} % (threshold {:.3}{few})", 100.0 * point.fnmr, point.threshold);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The face a pair is about: the one nearest the picture's centre, as in Labeled Faces in the Wild.
fn subject(reply: Reply) -> Option<Vec<f32>> {
    let centre = [reply.size.0 as f32 / 2.0, reply.size.1 as f32 / 2.0];
    let off_centre = |face: &FoundFace| {
        let [left, top, right, bottom] = face.bounds;
        ((left + right) / 2.0 - centre[0]).hypot((top + bottom) / 2.0 - centre[1])
    };
    let nearest = reply.faces.into_iter().min_by(|a, b| off_centre(a).total_cmp(&off_centre(b)));
    nearest.map(|face| face.embedding)
}

fn read_pairs(file: &Path) -> anyhow::Result<Vec<(PathBuf, PathBuf, bool)>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut lines = text.lines().zip(1..);
    match lines.next() {
        Some((header, _)) if header.trim() == "path_a,path_b,same" => {}
        _ => bail!("{} must begin with the line path_a,path_b,same", file.display()),
    }
    lines
        .filter(|(line, _)| !line.trim().is_empty())
        .map(|(line, number)| {
            let fields: Vec<_> = line.trim().split(',').collect();
            match fields[..] {
                [a, b, same @ ("0" | "1")] => Ok((folder.join(a), folder.join(b), same == "1")),
                _ => bail!("{} line {number}: expected path_a,path_b,0 or 1 but found {line:?}", file.display()),
            }
        })
        .collect()
}
