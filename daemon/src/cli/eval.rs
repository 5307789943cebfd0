//! `kithd eval`: measures the recogniser's accuracy on pairs of pictures, the difference to another
//! precision, and the effect of face quality. It produces the numbers; `kith_vision::evaluation`
//! defines them. Identification among strangers is measured by `identification`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use kith_vision::evaluation::{
    DiscardPoint, Estimate, Pair, Pairs, Sample, Strangers, error_versus_discard, estimate,
};
use kith_vision::{Part, Precision, Quality};
use serde::Serialize;

use super::subjects::{Half, subjects};
use super::{identification, own_engine};
use crate::config::Config;
use crate::engine_process::{Engine, FoundFace};

/// False match rates at which true matches are reported.
const RATES: [f64; 4] = [1e-2, 1e-3, 1e-4, 1e-5];
/// False match rate at which two precisions are compared.
const RATE: f64 = 1e-3;
/// Shares of the worst faces that are left out.
const SHARES: [f64; 7] = [0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2];

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

/// The pairs of a file, and the people in its pictures.
struct List {
    pairs: Vec<[PathBuf; 2]>,
    /// Each picture's person, as a number.
    pictures: BTreeMap<PathBuf, u32>,
    people: usize,
}

impl List {
    fn read(file: &Path, half: Half) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder, half).with_context(|| file.display().to_string())
    }

    fn parse(text: &str, folder: &Path, half: Half) -> anyhow::Result<Self> {
        let mut lines = text.lines().zip(1..);
        let named = match lines.next().map(|(header, _)| header.trim()) {
            Some("path_a,path_b,same") => false,
            Some("path_a,path_b,same,person_a,person_b") => true,
            _ => bail!(
                "it must begin with the line path_a,path_b,same or path_a,path_b,same,person_a,person_b"
            ),
        };
        let mut list = Self {
            pairs: Vec::new(),
            pictures: BTreeMap::new(),
            people: 0,
        };
        let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
        for (line, number) in lines.filter(|(line, _)| !line.trim().is_empty()) {
            let fields: Vec<_> = line.trim().split(',').collect();
            let (paths, same, people) = match (&fields[..], named) {
                (&[a, b, same @ ("0" | "1")], false) => {
                    ([a, b], same == "1", [a, b].map(person_of))
                }
                (&[a, b, same @ ("0" | "1"), one, two], true) => {
                    ([a, b], same == "1", [one, two].map(Into::into))
                }
                _ => bail!(
                    "line {number}: expected the columns of the first line, same as 0 or 1, but found {line:?}"
                ),
            };
            ensure!(
                (people[0] == people[1]) == same,
                "line {number}: the pictures show {} and {} but same is {}; if that is right, say who is on each with the columns person_a,person_b",
                people[0],
                people[1],
                u8::from(same)
            );
            if !people.iter().all(|person| half.has(person)) {
                continue;
            }
            let paths = paths.map(|path| folder.join(path));
            for (path, person) in paths.iter().zip(people) {
                let next = numbers.len() as u32;
                let person = *numbers.entry(person).or_insert(next);
                let before = list.pictures.insert(path.clone(), person);
                ensure!(
                    before.is_none_or(|before| before == person),
                    "line {number}: {} shows one person here and another before",
                    path.display()
                );
            }
            list.pairs.push(paths);
        }
        list.people = numbers.len();
        Ok(list)
    }
}

/// Returns the person that a picture shows, by its path.
fn person_of(path: &str) -> String {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let part =
        |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let path = Path::new(path);
    let stem = part(path.file_stem());
    match stem.rsplit_once('_') {
        Some((name, number)) if digits(number) && !name.is_empty() => name.into(),
        _ if digits(&stem) => part(path.parent().and_then(Path::file_name)),
        _ => stem,
    }
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

/// The printed figures; in JSON, shares are from 0 to 1.
#[derive(Serialize)]
struct Report {
    engine: String,
    half: Half,
    pairs: usize,
    pairs_of_one_person: usize,
    pictures: usize,
    people: usize,
    threshold: f32,
    accuracy: f64,
    accuracy_interval: [f64; 2],
    best_threshold: f32,
    best_accuracy: f64,
    best_accuracy_interval: [f64; 2],
    genuine_mean: f64,
    impostor_mean: f64,
    misses: usize,
    stranger_comparisons: usize,
    true_match_rates: Vec<TrueMatches>,
    against: Option<Against>,
    quality: QualityReport,
}

#[derive(Serialize)]
struct TrueMatches {
    false_match_rate: f64,
    threshold: f32,
    rate: f64,
    interval: [f64; 2],
}

/// Difference between the running precision and the other one, on the same pairs and the same
/// samples of people.
#[derive(Serialize)]
struct Against {
    engine: String,
    accuracy: f64,
    best_accuracy: f64,
    true_match_rate: f64,
    answered_differently: f64,
    accuracy_difference: f64,
    accuracy_difference_interval: [f64; 2],
    best_accuracy_difference: f64,
    best_accuracy_difference_interval: [f64; 2],
    true_match_difference: f64,
    true_match_difference_interval: [f64; 2],
}

#[derive(Serialize)]
struct QualityReport {
    pairs: usize,
    curves: Vec<Curve>,
    refused: Vec<Refused>,
}

/// The share of missed pairs of one person once the worst faces by a measure are left out.
#[derive(Serialize)]
struct Curve {
    measure: &'static str,
    points: Vec<Point>,
}

#[derive(Serialize)]
struct Point {
    discarded: f64,
    pairs: usize,
    false_non_match_rate: f64,
}

/// Faces with one objection, and the number of their missed pairs.
#[derive(Serialize)]
struct Refused {
    reason: &'static str,
    faces: usize,
    pairs: usize,
    missed: usize,
}

impl Report {
    fn new(list: &List, half: Half, one: &Measured, other: Option<&Measured>) -> Self {
        let estimate = |figure: &dyn Fn(&Sample) -> f64| estimate(list.people, figure);
        let interval = |estimate: Estimate| [estimate.low, estimate.high];
        let everybody = Sample::everybody(list.people);
        let accuracy = estimate(&|sample| one.pairs.accuracy(one.threshold, sample));
        let best = estimate(&|sample| one.pairs.best(sample).1);
        let true_matches = |measured: &Measured, rate, sample: &Sample| {
            measured
                .pairs
                .true_match_rate(measured.strangers.threshold(rate, sample), sample)
        };
        let true_match_rates = RATES.map(|rate| {
            let found = estimate(&|sample| true_matches(one, rate, sample));
            TrueMatches {
                false_match_rate: rate,
                threshold: one.strangers.threshold(rate, &everybody),
                rate: found.value,
                interval: interval(found),
            }
        });
        let against = other.map(|other| {
            let accuracy = |measured: &Measured, sample: &Sample| {
                measured.pairs.accuracy(measured.threshold, sample)
            };
            let by_accuracy = estimate(&|sample| accuracy(one, sample) - accuracy(other, sample));
            let by_best = estimate(&|sample| one.pairs.best(sample).1 - other.pairs.best(sample).1);
            let by_rate = estimate(&|sample| {
                true_matches(one, RATE, sample) - true_matches(other, RATE, sample)
            });
            Against {
                engine: other.engine.clone(),
                accuracy: accuracy(other, &everybody),
                best_accuracy: other.pairs.best(&everybody).1,
                true_match_rate: true_matches(other, RATE, &everybody),
                answered_differently: one.pairs.answered_differently(
                    one.threshold,
                    &other.pairs,
                    other.threshold,
                    &everybody,
                ),
                accuracy_difference: by_accuracy.value,
                accuracy_difference_interval: interval(by_accuracy),
                best_accuracy_difference: by_best.value,
                best_accuracy_difference_interval: interval(by_best),
                true_match_difference: by_rate.value,
                true_match_difference_interval: interval(by_rate),
            }
        });
        Self {
            engine: one.engine.clone(),
            half,
            pairs: list.pairs.len(),
            pairs_of_one_person: one.pairs.genuine(),
            pictures: list.pictures.len(),
            people: list.people,
            misses: one.misses,
            threshold: one.threshold,
            accuracy: accuracy.value,
            accuracy_interval: interval(accuracy),
            best_threshold: one.pairs.best(&everybody).0,
            best_accuracy: best.value,
            best_accuracy_interval: interval(best),
            genuine_mean: one.pairs.mean(true),
            impostor_mean: one.pairs.mean(false),
            stranger_comparisons: one.strangers.count(),
            true_match_rates: true_match_rates.into(),
            against,
            quality: QualityReport::new(one),
        }
    }

    fn text(&self) -> String {
        let percent = |share: f64| 100.0 * share;
        let span = |[low, high]: [f64; 2]| format!("[{:.2}, {:.2}]", percent(low), percent(high));
        let mut text = String::new();
        let half = match self.half {
            Half::All => "",
            Half::Tuning => ", the tuning half",
            Half::Report => ", the report half",
        };
        // Writing to a string cannot fail.
        let mut line = |name: &str, rest: String| {
            let _ = writeln!(text, "{name:<17} {rest}");
        };
        line("engine", self.engine.clone());
        let (pairs, same) = (self.pairs, self.pairs_of_one_person);
        let (pictures, people, misses) = (self.pictures, self.people, self.misses);
        line("pairs", format!("{pairs}, {same} of one person{half}"));
        line(
            "pictures",
            format!("{pictures} of {people} people, no face found in {misses}"),
        );
        line("", "In brackets: 95 % of 1000 draws of the people.".into());
        let accuracy = format!(
            "{:.2} % {}",
            percent(self.accuracy),
            span(self.accuracy_interval)
        );
        line(
            "accuracy",
            format!("{accuracy} at the pack's threshold {}", self.threshold),
        );
        let best = format!(
            "{:.2} % {}",
            percent(self.best_accuracy),
            span(self.best_accuracy_interval)
        );
        line("best", format!("{best} at {:.3}", self.best_threshold));
        line("genuine mean", format!("{:.3}", self.genuine_mean));
        line("impostor mean", format!("{:.3}", self.impostor_mean));
        line(
            "strangers",
            format!(
                "{} comparisons of two people's pictures",
                self.stranger_comparisons
            ),
        );
        for at in &self.true_match_rates {
            let few = if (self.stranger_comparisons as f64) * at.false_match_rate < 10.0 {
                ", from too few comparisons of strangers to trust"
            } else {
                ""
            };
            let found = format!("{:.2} % {}", percent(at.rate), span(at.interval));
            line(
                &format!("TAR at FAR {:.0e}", at.false_match_rate),
                format!("{found} at {:.3}{few}", at.threshold),
            );
        }
        if let Some(other) = &self.against {
            line("against", other.engine.clone());
            line(
                "",
                format!(
                    "{:.2} % of pairs answered differently",
                    percent(other.answered_differently)
                ),
            );
            for (name, its, difference, interval) in [
                (
                    "accuracy",
                    other.accuracy,
                    other.accuracy_difference,
                    other.accuracy_difference_interval,
                ),
                (
                    "best",
                    other.best_accuracy,
                    other.best_accuracy_difference,
                    other.best_accuracy_difference_interval,
                ),
                (
                    "TAR at FAR 1e-3",
                    other.true_match_rate,
                    other.true_match_difference,
                    other.true_match_difference_interval,
                ),
            ] {
                let difference = format!("{:+.2} points {}", percent(difference), span(interval));
                line(
                    &format!("  {name}"),
                    format!("{:.2} % there; here {difference}", percent(its)),
                );
            }
        }
        text + &self.quality.text(self.threshold)
    }
}

impl QualityReport {
    fn new(measured: &Measured) -> Self {
        let curve = |measure, of: &dyn Fn(&Quality) -> f32| {
            let quality: Vec<f32> = measured.qualities.iter().map(of).collect();
            let points =
                error_versus_discard(&measured.genuine, &quality, measured.threshold, &SHARES);
            Curve {
                measure,
                points: points.into_iter().map(Point::from).collect(),
            }
        };
        let mut curves = vec![curve("quality", &|quality| quality.score)];
        curves.extend(Part::ALL.map(|part| curve(part.name(), &|quality| quality.part(part))));
        let mut reasons: Vec<_> = measured.objections.iter().flatten().copied().collect();
        reasons.sort_unstable();
        reasons.dedup();
        let refused = |reason: Option<&'static str>| {
            // A pair of two refused faces counts for both reasons.
            let has = |face: usize| measured.objections[face] == reason;
            let of = || {
                measured.genuine.iter().filter(|(_, faces)| match reason {
                    Some(_) => faces.iter().any(|&face| has(face)),
                    None => faces.iter().all(|&face| has(face)),
                })
            };
            Refused {
                reason: reason.unwrap_or("none"),
                faces: (0..measured.objections.len())
                    .filter(|&face| has(face))
                    .count(),
                pairs: of().count(),
                missed: of()
                    .filter(|(distance, _)| *distance >= measured.threshold)
                    .count(),
            }
        };
        let refused = reasons
            .into_iter()
            .map(Some)
            .chain([None])
            .map(refused)
            .collect();
        Self {
            pairs: measured.genuine.len(),
            curves,
            refused,
        }
    }

    fn text(&self, threshold: f32) -> String {
        let mut text = format!(
            "quality           missed of {} pairs of one person at {threshold}, in per cent, without the worst faces by\n",
            self.pairs
        );
        let shares: String = SHARES
            .iter()
            .map(|share| format!("{:>6.0} %", 100.0 * share))
            .collect();
        text.push_str(&format!("{:<17} {shares}\n", "  without"));
        for curve in &self.curves {
            let points: String = curve
                .points
                .iter()
                .map(|point| format!("{:>8.2}", 100.0 * point.false_non_match_rate))
                .collect();
            text.push_str(&format!("  {:<15} {points}\n", curve.measure));
        }
        text.push_str(
            "objections        what would be refused at enrolment, and what was missed with it\n",
        );
        for Refused {
            reason,
            faces,
            pairs,
            missed,
        } in &self.refused
        {
            text.push_str(&format!(
                "  {reason:<15} {faces} faces, {missed} of {pairs} pairs missed\n"
            ));
        }
        text
    }
}

impl From<DiscardPoint> for Point {
    fn from(point: DiscardPoint) -> Self {
        let DiscardPoint {
            discarded,
            genuine,
            false_non_match_rate,
        } = point;
        Self {
            discarded,
            pairs: genuine,
            false_non_match_rate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_picture_shows_is_read_from_its_path() {
        for (path, person) in [
            ("Robert_DeFraites_0002.jpg", "Robert_DeFraites"),
            ("lfw/AJ_Cook/AJ_Cook_0001.jpg", "AJ_Cook"),
            ("labelled/bbt_howard/1.png", "bbt_howard"),
            ("singles/adams.jpg", "adams"),
            ("obama_2.jpg", "obama"),
            ("_0001.jpg", "_0001"),
        ] {
            assert_eq!(person_of(path), person, "{path}");
        }
    }

    #[test]
    fn people_are_numbered_and_a_half_pairs_only_its_own_people() {
        let text = "path_a,path_b,same\nA_0001.jpg,A_0002.jpg,1\nB_0001.jpg,B_0002.jpg,1\nA_0001.jpg,B_0001.jpg,0\n";
        let all = List::parse(text, Path::new("/x"), Half::All).unwrap();
        assert_eq!((all.pairs.len(), all.pictures.len(), all.people), (3, 4, 2));
        assert_eq!(all.pairs[0][0], Path::new("/x/A_0001.jpg"));
        // Their sha256 begin with 5 and with d.
        assert!(Half::Tuning.has("A") && Half::Report.has("B"));
        for (half, of) in [(Half::Tuning, "A"), (Half::Report, "B")] {
            let list = List::parse(text, Path::new("/x"), half).unwrap();
            assert_eq!((list.pairs.len(), list.people), (1, 1));
            assert!(list.pairs[0][0].to_string_lossy().contains(of));
        }
    }

    #[test]
    fn a_list_contradicting_the_names_must_name_the_people() {
        let refused = |text: &str| {
            format!(
                "{:#}",
                List::parse(text, Path::new(""), Half::All).err().unwrap()
            )
        };
        let why = refused("path_a,path_b,same\na.jpg,b.jpg,1\n");
        assert!(
            why.contains("line 2") && why.contains("person_a,person_b"),
            "{why}"
        );
        let named =
            "path_a,path_b,same,person_a,person_b\na.jpg,b.jpg,1,Ann,Ann\na.jpg,c.jpg,0,Ann,Ben\n";
        let list = List::parse(named, Path::new(""), Half::All).unwrap();
        assert_eq!((list.pairs.len(), list.people), (2, 2));
        let why = refused(
            "path_a,path_b,same,person_a,person_b\na.jpg,b.jpg,1,Ann,Ann\na.jpg,c.jpg,0,Eve,Ben\n",
        );
        assert!(why.contains("line 3") && why.contains("a.jpg"), "{why}");
        assert!(refused("a,b\n").contains("must begin"));
        assert!(refused("path_a,path_b,same\na.jpg,b.jpg,yes\n").contains("line 2"));
    }
}
