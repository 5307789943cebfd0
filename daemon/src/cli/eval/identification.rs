//! `kithd eval --gallery`: measures how well people are told from strangers, by the number
//! enrolled. It embeds folders; `kith_vision::evaluation::identification` defines the figures.

mod det;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use kith_vision::evaluation::identification::{Picture, Searches};

use super::subjects::{Half, subjects};
use crate::cli::enroll::known_people;
use crate::cli::own_engine;
use crate::config::Config;
use crate::engine_process::FoundFace;
use crate::names;
use crate::sightings::identity::Template;
use det::det;
use report::{Report, Size, groups};

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
    /// Numbers of looks that are searched for together: each person's pictures, in the order of
    /// their names, so many at a time as one; a rest that is fewer is left out
    ///
    /// Looks count by their quality, those that are too poor for a face to be known not at all.
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', default_values_t = [1], value_parser = clap::value_parser!(u32).range(1..=1000))]
    looks: Vec<u32>,
    /// Writes the detection error trade-off, FNIR over FPIR for each number enrolled, to this file
    /// as SVG
    #[arg(
        long,
        value_name = "FILE",
        requires = "gallery",
        conflicts_with = "looks"
    )]
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

/// Several looks at one face as one, as a sighting has them.
struct Together {
    person: u32,
    /// Empty without a face.
    mean: Vec<f32>,
    /// The best look's.
    quality: f32,
    looks: u32,
}

impl Together {
    fn of(looks: &[Picture], known_from: f32) -> Self {
        let mut together = Template::default();
        for look in looks.iter().filter(|look| !look.embedding.is_empty()) {
            together.add(look.embedding, look.quality, known_from);
        }
        Self {
            person: looks.first().map_or(0, |look| look.person),
            mean: together.mean().unwrap_or_default(),
            quality: looks.iter().map(|look| look.quality).fold(0.0, f32::max),
            looks: together.worth(),
        }
    }

    fn picture(&self) -> Picture<'_> {
        Picture {
            person: self.person,
            embedding: &self.mean,
            quality: self.quality,
            looks: self.looks,
        }
    }
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
            looks: 1,
        }
    };
    probes.sort();
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
    for &looks in &folders.looks {
        let together: Vec<_> = asked
            .chunk_by(|a, b| a.person == b.person)
            .flat_map(|theirs| theirs.chunks_exact(looks as usize))
            .map(|looks| Together::of(looks, known_from))
            .collect();
        let asked: Vec<_> = together.iter().map(Together::picture).collect();
        for &size in &sizes {
            let draw = [size, folders.draws.into()];
            let searches = Searches::of(&enrolled, &asked, draw, &matching, known_from)?;
            measured.push((size, looks, searches));
        }
    }
    if let Some(file) = &folders.det {
        let curves: Vec<_> = measured
            .iter()
            .map(|(size, _, searches)| (*size, searches.det()))
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
            .map(|(size, looks, searches)| Size::new(*size, *looks, searches, count))
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
    fn looks_count_by_their_quality_and_poor_ones_not_at_all() {
        let look = |embedding, quality| Picture {
            person: 7,
            embedding,
            quality,
            looks: 1,
        };
        let (right, up): (&[f32], &[f32]) = (&[1.0, 0.0], &[0.0, 1.0]);
        let looks = [
            look(right, 0.6),
            look(up, 0.9),
            look(right, 0.4),
            look(&[], 0.0),
        ];
        let together = Together::of(&looks, 0.5);
        assert_eq!((together.person, together.looks), (7, 2));
        assert_eq!(together.quality, 0.9);
        assert!((together.mean[0] - 0.4).abs() < 1e-6 && (together.mean[1] - 0.6).abs() < 1e-6);
        let poor = Together::of(&looks[2..], 0.5);
        assert_eq!((poor.mean.as_slice(), poor.looks), (right, 1));
        let none = Together::of(&looks[3..], 0.5);
        assert!(none.mean.is_empty() && none.person == 7);
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
}
