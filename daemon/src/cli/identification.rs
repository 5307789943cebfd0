//! `kithd eval --gallery`: measures how well people are told from strangers, by the number
//! enrolled. It embeds folders and prints; `kith_vision::evaluation::identification` defines the
//! figures.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use kith_vision::Caution;
use kith_vision::evaluation::identification::{DetPoint, Outcomes, Picture, Searches};
use kith_vision::evaluation::{Estimate, Sample, estimate};
use serde::Serialize;

use super::enroll::known_people;
use super::own_engine;
use super::subjects::{Half, subjects};
use crate::config::Config;
use crate::engine_process::FoundFace;
use crate::names;

/// Shares of strangers with a match (FPIR) at which missed people are reported.
const RATES: [f64; 4] = [0.1, 0.03, 0.01, 0.003];
/// The FPIR at which groups are reported.
const RATE: f64 = 0.01;
/// Fewest strangers beyond the threshold that suffice to place it.
const FEW: f64 = 10.0;

/// Arguments of `kithd eval --gallery`.
#[derive(Debug, clap::Args)]
pub struct Folders {
    /// Folder of people to enrol, each with a folder of their own or as files called name_1.jpg, as
    /// `kithd enroll --folder` takes them; measures open-set identification (ISO/IEC 19795-1)
    /// instead of pairs
    ///
    /// A folder of such folders is a group and is reported separately: women/Ada_Lovelace/1.jpg.
    /// The face nearest the centre of each picture counts. Every picture with a face is enrolled,
    /// whatever its quality.
    #[arg(long, value_name = "DIR", requires = "probes")]
    gallery: Option<PathBuf>,
    /// Folder of people to search for, laid out the same way; a person not in the gallery is a
    /// stranger
    ///
    /// If it is the same folder as the gallery, the first picture of each person with enough
    /// pictures (or as many as --pictures says) is enrolled and the others are searched for; all
    /// other people are strangers.
    #[arg(long, value_name = "DIR", requires = "gallery")]
    probes: Option<PathBuf>,
    /// Folder of further pictures of strangers
    #[arg(long, value_name = "DIR", requires = "gallery")]
    strangers: Option<PathBuf>,
    /// Numbers of people to enrol, drawn from the gallery; all of them together are measured as
    /// well
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_values_t = [19, 38, 99, 299])]
    enrolled: Vec<usize>,
    /// Number of random draws for each of these numbers
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    draws: u16,
    /// Pictures to enrol of each person, the first by name; default: all of the gallery's, or one
    /// if gallery and probes are the same folder
    #[arg(long, value_name = "N")]
    pictures: Option<usize>,
    /// Treats the part of a name before the first _ as a group: idol_bona is of the group idol
    #[arg(long)]
    group_by_prefix: bool,
    /// Writes the detection error trade-off, FNIR over FPIR for each number enrolled, to this file
    /// as SVG
    #[arg(long, value_name = "FILE", requires = "gallery")]
    det: Option<PathBuf>,
}

/// Number and group of each person.
#[derive(Default)]
struct People {
    numbers: BTreeMap<String, u32>,
    groups: Vec<Option<String>>,
}

/// Pictures with the person they show.
type Shown = Vec<(u32, PathBuf)>;

impl People {
    /// Returns the pictures in a folder, of people in this half.
    fn of(&mut self, folder: &Path, half: Half, by_prefix: bool) -> anyhow::Result<Shown> {
        let mut shown = Vec::new();
        for (name, path) in known_people(folder)?.pictures {
            let below = path.strip_prefix(folder).unwrap_or(&path);
            let parts: Vec<_> = below
                .components()
                .map(|part| part.as_os_str().to_string_lossy())
                .collect();
            let (name, group) = match &parts[..] {
                [group, person, _, ..] => (names::clean(person), Some(group.to_string())),
                _ if by_prefix => {
                    let group = name.split_once('_').map(|(prefix, _)| prefix.to_string());
                    (name, group)
                }
                _ => (name, None),
            };
            if half.has(&name) {
                let next = self.numbers.len() as u32;
                let person = *self.numbers.entry(names::fold(&name)).or_insert(next);
                if person == next {
                    self.groups.push(group);
                }
                shown.push((person, path));
            }
        }
        Ok(shown)
    }
}

/// Splits the pictures of each person: the first ones to enrol, and the rest. People with too few
/// pictures go to the rest.
fn split(shown: Shown, enrol: usize) -> (Shown, Shown) {
    let mut of: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
    shown
        .into_iter()
        .for_each(|(person, path)| of.entry(person).or_default().push(path));
    let (mut gallery, mut probes) = (Vec::new(), Vec::new());
    for (person, mut paths) in of {
        paths.sort();
        let asked = if paths.len() > enrol {
            paths.split_off(enrol)
        } else {
            std::mem::take(&mut paths)
        };
        gallery.extend(paths.into_iter().map(|path| (person, path)));
        probes.extend(asked.into_iter().map(|path| (person, path)));
    }
    (gallery, probes)
}

/// Embeds every picture once, searches, and prints.
pub async fn run(
    config: &Config,
    folders: &Folders,
    half: Half,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (Some(of_gallery), Some(of_probes)) = (&folders.gallery, &folders.probes) else {
        unreachable!("clap requires --gallery and --probes");
    };
    let mut people = People::default();
    let mut read = |folder: &Path| people.of(folder, half, folders.group_by_prefix);
    let same = std::fs::canonicalize(of_gallery).ok() == std::fs::canonicalize(of_probes).ok();
    let (gallery, mut probes) = if same {
        split(read(of_gallery)?, folders.pictures.unwrap_or(1).max(1))
    } else {
        let gallery = read(of_gallery)?;
        let enrolled = match folders.pictures {
            Some(most) => first_of_each(gallery, most.max(1)),
            None => gallery,
        };
        (enrolled, read(of_probes)?)
    };
    if let Some(strangers) = &folders.strangers {
        probes.extend(read(strangers)?);
    }
    ensure!(
        !gallery.is_empty(),
        "no person in {} has a picture to enrol and another to search for",
        of_gallery.display()
    );
    let engine = own_engine(config).await?;
    let paths: BTreeSet<PathBuf> = gallery
        .iter()
        .chain(&probes)
        .map(|(_, path)| path.clone())
        .collect();
    let faces: BTreeMap<PathBuf, Option<FoundFace>> =
        subjects(config, &engine, paths.into_iter().collect())
            .await?
            .into_iter()
            .collect();
    let picture = |(person, path): &(u32, PathBuf)| {
        let face = faces.get(path).and_then(Option::as_ref);
        let (embedding, quality) =
            face.map_or((&[][..], 0.0), |face| (&face.embedding, face.quality));
        Picture {
            person: *person,
            embedding,
            quality,
        }
    };
    let mut enrolled: Vec<_> = gallery.iter().map(picture).collect();
    enrolled.retain(|picture| !picture.embedding.is_empty());
    let asked: Vec<_> = probes.iter().map(picture).collect();
    let matching = config.recognition.judging.of(engine.pack());
    let known_from = engine.pack().quality_limits().known_from;
    let everybody = enrolled
        .iter()
        .map(|picture| picture.person)
        .collect::<BTreeSet<_>>()
        .len();
    ensure!(
        everybody > 0,
        "there is no face in any picture of {}",
        of_gallery.display()
    );
    let mut sizes: Vec<_> = folders
        .enrolled
        .iter()
        .copied()
        .filter(|size| (1..everybody).contains(size))
        .collect();
    sizes.push(everybody);
    sizes.sort_unstable();
    sizes.dedup();
    let mut measured = Vec::new();
    for size in sizes {
        let draw = [size, folders.draws.into()];
        measured.push((
            size,
            Searches::of(&enrolled, &asked, draw, &matching, known_from)?,
        ));
    }
    if let Some(file) = &folders.det {
        let curves: Vec<_> = measured
            .iter()
            .map(|(size, searches)| (*size, searches.det()))
            .collect();
        std::fs::write(file, det(&curves))
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    let count = people.groups.len();
    let missing = |pictures: &[Picture]| {
        pictures
            .iter()
            .filter(|picture| picture.embedding.is_empty())
            .count()
    };
    let report = Report {
        engine: engine.description(),
        half,
        people: everybody,
        pictures: enrolled.len(),
        without_face: [gallery.len() - enrolled.len(), missing(&asked)],
        groups: groups(&people, &measured),
        sizes: measured
            .iter()
            .map(|(size, searches)| Size::new(*size, searches, count))
            .collect(),
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.text());
    }
    Ok(ExitCode::SUCCESS)
}

fn first_of_each(mut shown: Shown, most: usize) -> Shown {
    shown.sort();
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    shown.retain(|(person, _)| {
        let count = counts.entry(*person).or_default();
        *count += 1;
        *count <= most
    });
    shown
}

/// The printed figures; in JSON, shares are from 0 to 1, and a share of nothing is null.
#[derive(Serialize)]
struct Report {
    engine: String,
    half: Half,
    people: usize,
    pictures: usize,
    /// Pictures without a face: of the gallery, and of the probes.
    without_face: [usize; 2],
    sizes: Vec<Size>,
    groups: Vec<Group>,
}

#[derive(Serialize)]
struct Size {
    enrolled: usize,
    galleries: usize,
    pictures: usize,
    searches_for_enrolled: usize,
    searches_for_strangers: usize,
    rank_1: Figure,
    fnir: Vec<Missed>,
    cautions: Vec<Cautious>,
}

#[derive(Serialize)]
struct Figure {
    value: f64,
    interval: [f64; 2],
}

#[derive(Serialize)]
struct Missed {
    fpir: f64,
    threshold: f32,
    value: f64,
    interval: [f64; 2],
    /// True if there are too few strangers to trust the threshold.
    few: bool,
}

/// Results with the pack's own thresholds.
#[derive(Serialize)]
struct Cautious {
    caution: Caution,
    strangers_known: Figure,
    strangers_named: Figure,
    known: Figure,
    named: f64,
    mistaken: f64,
}

/// Results of a group, at the threshold where one in a hundred of all strangers has a match.
#[derive(Serialize)]
struct Group {
    group: String,
    searches_for_enrolled: usize,
    fnir: f64,
    searches_for_strangers: usize,
    fpir: f64,
}

impl From<Estimate> for Figure {
    fn from(estimate: Estimate) -> Self {
        Self {
            value: estimate.value,
            interval: [estimate.low, estimate.high],
        }
    }
}

impl Size {
    fn new(enrolled: usize, searches: &Searches, people: usize) -> Self {
        let everybody = Sample::everybody(people);
        let strangers = searches.count(false) * searches.galleries();
        let missed = |fpir| {
            let found = Figure::from(estimate(people, |sample| {
                searches.fnir(searches.threshold(fpir, sample), sample)
            }));
            Missed {
                fpir,
                threshold: searches.threshold(fpir, &everybody),
                value: found.value,
                interval: found.interval,
                few: fpir * (strangers as f64) < FEW,
            }
        };
        let cautious = |caution| {
            let figure = |of: fn(Outcomes) -> f64| {
                Figure::from(estimate(people, |sample| {
                    of(searches.outcomes(caution, sample))
                }))
            };
            let Outcomes {
                named, mistaken, ..
            } = searches.outcomes(caution, &everybody);
            Cautious {
                caution,
                strangers_known: figure(|outcomes| outcomes.strangers_known),
                strangers_named: figure(|outcomes| outcomes.strangers_named),
                known: figure(|outcomes| outcomes.known),
                named,
                mistaken,
            }
        };
        Self {
            enrolled,
            galleries: searches.galleries(),
            pictures: searches.pictures(),
            searches_for_enrolled: searches.count(true),
            searches_for_strangers: searches.count(false),
            rank_1: estimate(people, |sample| searches.rank_1(sample)).into(),
            // Without strangers there is no rate of them.
            fnir: if strangers > 0 {
                RATES.map(missed).into()
            } else {
                Vec::new()
            },
            cautions: Caution::ALL.map(cautious).into(),
        }
    }
}

/// Groups in the largest gallery in which strangers were searched.
fn groups(people: &People, measured: &[(usize, Searches)]) -> Vec<Group> {
    let names: BTreeSet<&String> = people.groups.iter().flatten().collect();
    let largest = measured
        .iter()
        .rev()
        .find(|(_, searches)| searches.count(false) > 0);
    let Some((_, searches)) = largest else {
        return Vec::new();
    };
    let everybody = Sample::everybody(people.groups.len());
    let threshold = searches.threshold(RATE, &everybody);
    let group = |name: &String| {
        let theirs = searches.about(|person| people.groups[person as usize].as_ref() == Some(name));
        Group {
            group: name.clone(),
            searches_for_enrolled: theirs.count(true),
            fnir: theirs.fnir(threshold, &everybody),
            searches_for_strangers: theirs.count(false),
            fpir: theirs.fpir(threshold, &everybody),
        }
    };
    names.into_iter().map(group).collect()
}

/// Formats a share as per cent, or a dash if its base is empty.
fn percent(share: f64) -> String {
    if share.is_finite() {
        format!("{:.2} %", 100.0 * share)
    } else {
        "–".into()
    }
}

impl Figure {
    fn text(&self) -> String {
        let [low, high] = self.interval.map(|share| 100.0 * share);
        if self.value.is_finite() {
            format!("{} [{low:.2}, {high:.2}]", percent(self.value))
        } else {
            percent(self.value)
        }
    }
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, rest: String| {
            text.push_str(format!("{name:<18} {rest}").trim_end());
            text.push('\n');
        };
        line("engine", self.engine.clone());
        let half = match self.half {
            Half::All => "",
            Half::Tuning => ", the tuning half",
            Half::Report => ", the report half",
        };
        let [gallery, asked] = self.without_face;
        line(
            "gallery",
            format!(
                "{} people, {} pictures, no face found in {gallery}{half}",
                self.people, self.pictures
            ),
        );
        line(
            "asked about",
            format!("no face found in {asked}: missed, or unknown"),
        );
        line("", "In brackets: 95 % of 1000 draws of the people.".into());
        for size in &self.sizes {
            let Size {
                enrolled,
                galleries,
                pictures,
                searches_for_enrolled,
                searches_for_strangers,
                ..
            } = size;
            line("", String::new());
            let draws = if *galleries == 1 {
                String::new()
            } else {
                format!(", mean of {galleries} draws")
            };
            line(
                "enrolled",
                format!(
                    "{enrolled} people, {pictures} pictures; {searches_for_enrolled} searches for them, \
                     {searches_for_strangers} for strangers{draws}"
                ),
            );
            line("rank 1", size.rank_1.text());
            for missed in &size.fnir {
                let found = Figure {
                    value: missed.value,
                    interval: missed.interval,
                }
                .text();
                let few = if missed.few {
                    ", from too few strangers to trust"
                } else {
                    ""
                };
                line(
                    &format!("FNIR at FPIR {} %", 100.0 * missed.fpir),
                    format!("{found} at {:.3}{few}", missed.threshold),
                );
            }
            for Cautious {
                caution,
                strangers_known,
                strangers_named,
                known,
                named,
                mistaken,
            } in &size.cautions
            {
                line(
                    &caution.to_string(),
                    format!(
                        "strangers known {}, named {}",
                        strangers_known.text(),
                        strangers_named.text()
                    ),
                );
                let (named, mistaken) = (percent(*named), percent(*mistaken));
                line(
                    "",
                    format!(
                        "people known {}, named {named}, named wrong {mistaken}",
                        known.text()
                    ),
                );
            }
        }
        if !self.groups.is_empty() {
            line("", String::new());
            line(
                "groups",
                format!(
                    "in the largest gallery with strangers, where {} % of all strangers have a match",
                    100.0 * RATE
                ),
            );
        }
        for Group {
            group,
            searches_for_enrolled,
            fnir,
            searches_for_strangers,
            fpir,
        } in &self.groups
        {
            let (fnir, fpir) = (percent(*fnir), percent(*fpir));
            line(
                &format!("  {group}"),
                format!(
                    "FNIR {fnir} of {searches_for_enrolled} searches, FPIR {fpir} of {searches_for_strangers}"
                ),
            );
        }
        text
    }
}

/// Draws the trade-off of each size as SVG; both rates are on a logarithmic scale from 1 in 1000.
fn det(curves: &[(usize, Vec<DetPoint>)]) -> String {
    const COLOURS: [&str; 6] = [
        "#1b6ca8", "#c0392b", "#2e8b57", "#8e5ea2", "#d98e04", "#555555",
    ];
    const LEAST: f64 = 0.001;
    let (left, top, side) = (70.0, 40.0, 420.0);
    let along = |rate: f64| side * (1.0 - rate.max(LEAST).log10() / LEAST.log10());
    let (x, y) = (
        |rate: f64| left + along(rate),
        |rate: f64| top + side - along(rate),
    );
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 520 520\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"520\" height=\"520\" fill=\"white\"/>\n\
         <text x=\"70\" y=\"24\" font-size=\"14\">Enrolled people missed over strangers with a match</text>\n",
    );
    // Writing to a string cannot fail.
    for (rate, word) in [
        (0.001, "0.1 %"),
        (0.01, "1 %"),
        (0.1, "10 %"),
        (1.0, "100 %"),
    ] {
        let (x, y, right, bottom) = (x(rate), y(rate), left + side, top + side);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {top}V{bottom}M{left} {y:.1}H{right}\" stroke=\"#ddd\" fill=\"none\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{word}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{word}</text>",
            bottom + 18.0,
            left - 8.0,
            y + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"505\" text-anchor=\"middle\">strangers with a match (FPIR)</text>\
         <text transform=\"translate(18 {:.0}) rotate(-90)\" text-anchor=\"middle\">enrolled people missed (FNIR)</text>",
        left + side / 2.0,
        top + side / 2.0
    );
    for (at, (enrolled, points)) in curves.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let mut path = String::new();
        let mut last = [f64::INFINITY; 2];
        for point in points
            .iter()
            .filter(|point| point.fpir.is_finite() && point.fnir.is_finite())
        {
            let place = [x(point.fpir), y(point.fnir)];
            if path.is_empty() {
                let _ = write!(path, "M{:.1} {:.1}", place[0], place[1]);
            } else if (place[0] - last[0]).hypot(place[1] - last[1]) < 1.0 {
                continue;
            } else {
                let _ = write!(path, "H{:.1}V{:.1}", place[0], place[1]);
            }
            last = place;
        }
        let _ = writeln!(
            svg,
            "<path d=\"{path}\" stroke=\"{colour}\" stroke-width=\"1.5\" fill=\"none\"/>\
             <text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"{colour}\">{enrolled} enrolled</text>",
            left + side - 8.0,
            top + 18.0 * (at + 1) as f64
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_folders_of_folders_or_prefixes() {
        let folder = tempfile::tempdir().unwrap();
        for path in [
            "women/Ada/1.png",
            "women/Ada/2.png",
            "men/Bob/1.png",
            "idol_c/1.png",
            "dora_1.png",
        ] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"\x89PNG\r\n\x1a\n").unwrap();
        }
        let mut people = People::default();
        let shown = people.of(folder.path(), Half::All, true).unwrap();
        assert_eq!(shown.len(), 5);
        let group = |name: &str| people.groups[people.numbers[name] as usize].as_deref();
        assert_eq!([group("ada"), group("bob")], [Some("women"), Some("men")]);
        assert_eq!([group("idol_c"), group("dora")], [Some("idol"), None]);
    }

    #[test]
    fn of_one_folder_the_first_pictures_are_enrolled() {
        let path = |name: &str| PathBuf::from(name);
        let shown = vec![
            (0, path("b2")),
            (0, path("b1")),
            (1, path("c1")),
            (0, path("b3")),
        ];
        let (gallery, probes) = split(shown.clone(), 1);
        assert_eq!(gallery, [(0, path("b1"))]);
        assert_eq!(probes, [(0, path("b2")), (0, path("b3")), (1, path("c1"))]);
        assert!(
            split(shown.clone(), 3).0.is_empty(),
            "nothing would be left to ask about"
        );
        assert_eq!(
            first_of_each(shown, 2),
            [(0, path("b1")), (0, path("b2")), (1, path("c1"))]
        );
    }

    #[test]
    fn the_trade_off_is_drawn_with_a_line_for_each_size() {
        let point = |threshold, fpir, fnir| DetPoint {
            threshold,
            fpir,
            fnir,
        };
        let curve = vec![
            point(0.1, 0.0, 0.5),
            point(0.2, 0.01, 0.1),
            point(0.3, 1.0, 0.0),
        ];
        let svg = det(&[(19, curve.clone()), (99, curve)]);
        assert_eq!(svg.matches(" enrolled</text>").count(), 2);
        assert!(svg.contains("M70.0 82.1H210.0V180.0H490.0V460.0"), "{svg}");
    }
}
