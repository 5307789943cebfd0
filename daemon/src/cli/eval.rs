//! `kithd eval`: measures the recogniser's accuracy on pairs of pictures, the difference to another
//! precision, and the effect of face quality. It produces the numbers; `kith_vision::evaluation`
//! defines them. Identification among strangers is measured by `identification`.

mod identification;
mod pairs;
mod report;
mod subjects;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use kith_vision::evaluation::{Pair, Pairs, Strangers};
use kith_vision::{Precision, Quality};

use super::own_engine;
use crate::config::Config;
use crate::engine_process::{Engine, FoundFace};
use pairs::List;
use report::Report;
use subjects::{Half, subjects};

/// Arguments of `kithd eval`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// CSV with the columns path_a,path_b,same (1 or 0) and, if the names of the files do not say
    /// who is on them, person_a,person_b; paths relative to the file
    ///
    /// Without those columns a picture's person is its file's name without a number at its end
    /// (Ada_Lovelace_0001.jpg is Ada_Lovelace), or the folder's name where the file's is nothing
    /// but a number (Ada_Lovelace/1.jpg).
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "gallery",
        conflicts_with = "gallery"
    )]
    pairs: Option<PathBuf>,
    #[command(flatten)]
    identification: identification::Folders,
    /// Uses only people whose name's sha256 begins with 0 to 7 (tuning) or with 8 to f (report):
    /// parameters tuned on one half are to be measured on the other
    #[arg(long, value_enum, default_value_t = Half::All)]
    half: Half,
    /// Measures this precision as well, and its difference to the one that runs, on the same pairs
    #[arg(long, value_name = "PRECISION", conflicts_with = "gallery")]
    against: Option<Precision>,
    /// Answers as JSON
    #[arg(long)]
    json: bool,
}

/// Embeds every picture once, measures every pair and prints the figures.
///
/// A picture without a face counts as a miss: its pairs are judged different, at an infinite
/// distance.
pub async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let Some(pairs) = &args.pairs else {
        return identification::run(config, &args.identification, args.half, args.json).await;
    };
    let list = List::read(pairs, args.half)?;
    let engine = own_engine(config).await?;
    let measured = Measured::of(config, &engine, &list).await?;
    let other = match args.against {
        None => None,
        Some(precision) => {
            let mut config = config.clone();
            config.models.precision = Some(precision);
            let engine = own_engine(&config).await?;
            Some(Measured::of(&config, &engine, &list).await?)
        }
    };
    let report = Report::new(&list, args.half, &measured, other.as_ref());
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(ExitCode::SUCCESS)
}

/// Measurements of one engine on the pictures.
struct Measured {
    engine: String,
    threshold: f32,
    pairs: Pairs,
    strangers: Strangers,
    /// Qualities of the pictures with a face.
    qualities: Vec<Quality>,
    objections: Vec<Option<&'static str>>,
    /// Pairs of one person in which both pictures have a face: their distance, and the indices of
    /// the faces in `qualities`.
    genuine: Vec<(f32, [usize; 2])>,
    misses: usize,
}

impl Measured {
    async fn of(config: &Config, engine: &Engine, list: &List) -> anyhow::Result<Self> {
        let faces = subjects(config, engine, list.pictures.keys().cloned().collect()).await?;
        let matching = engine.pack().matching();
        let limits = engine.pack().quality_limits();
        let metric = matching.metric;
        let found: BTreeMap<&Path, &FoundFace> = faces
            .iter()
            .filter_map(|(path, face)| Some((path.as_path(), face.as_ref()?)))
            .collect();
        let distance = |[a, b]: [&Path; 2]| match (found.get(a), found.get(b)) {
            (Some(a), Some(b)) => metric.distance(&a.embedding, &b.embedding),
            _ => f32::INFINITY,
        };
        let pairs = list.pairs.iter().map(|[a, b]| Pair {
            distance: distance([a, b]),
            people: [list.pictures[a], list.pictures[b]],
        });
        let pairs = Pairs::new(pairs.collect())
            .context("the pairs must hold both same and different people to be evaluated")?;
        let embedded: Vec<(u32, &[f32])> = found
            .iter()
            .map(|(path, face)| (list.pictures[*path], face.embedding.as_slice()))
            .collect();
        let places: BTreeMap<&Path, usize> = found
            .keys()
            .zip(0..)
            .map(|(path, at)| (*path, at))
            .collect();
        let genuine = list
            .pairs
            .iter()
            .filter(|[a, b]| list.pictures[a] == list.pictures[b]);
        let genuine = genuine.filter_map(|[a, b]| {
            let places = [*places.get(a.as_path())?, *places.get(b.as_path())?];
            Some((distance([a, b]), places))
        });
        let genuine = genuine.collect();
        let qualities: Vec<Quality> = found.values().filter_map(|face| face.measures).collect();
        ensure!(
            qualities.len() == found.len(),
            "the engine does not report the components of a face's quality"
        );
        Ok(Self {
            engine: engine.description(),
            threshold: matching.threshold,
            pairs,
            strangers: Strangers::between(list.people, &embedded, metric),
            objections: qualities
                .iter()
                .map(|quality| Some(quality.objection(limits)?.reason()))
                .collect(),
            qualities,
            genuine,
            misses: list.pictures.len() - found.len(),
        })
    }
}
