//! Faces that are shown otherwise than when they were enrolled: behind a mask or sunglasses, or in
//! a picture that lies mirrored. They may be missed; nobody may be taken for another person. Runs
//! with the pack that a new board has, when the labelled photographs are beside the repository.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kith_vision::{
    Caution, Centroid, Clusters, Device, Face, Gallery, Limits, Outcome, Pack, Rgb, Vision,
};

use crate::shared::{analyse, crate_folder, load, read, shared};

/// Lowest quality of a face that counts in the centroid of a group of strangers, as in the daemon.
const SHAPES_FROM: f32 = 0.8;

fn pack() -> &'static (Pack, Vision) {
    static LOADED: OnceLock<(Pack, Vision)> = OnceLock::new();
    LOADED.get_or_init(|| {
        let packs = crate_folder().join("packs");
        let name = std::fs::read_to_string(packs.join("bundled")).unwrap();
        let pack = Pack::load(&packs.join(name.trim())).unwrap();
        let vision = load(&pack, pack.default_precision(Device::Cpu)).unwrap();
        (pack, vision)
    })
}

/// Returns every `n`th of the entries of a folder, or all with `KITHD_FULL`.
fn entries(folder: &Path, n: usize) -> Vec<PathBuf> {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    let full = std::env::var_os("KITHD_FULL").is_some();
    entries
        .into_iter()
        .step_by(if full { 1 } else { n })
        .collect()
}

/// Returns the face of a portrait; `None` if it shows several or none.
fn only_face(picture: &Rgb) -> Option<Face> {
    let mut faces = analyse(&pack().1, picture).faces;
    (faces.len() == 1).then(|| faces.remove(0))
}

/// The gallery of one picture of each person, and further pictures, each with its person's number.
struct Enrolled {
    gallery: Gallery,
    limits: Limits,
    others: Vec<(i64, Rgb, Face)>,
}

impl Enrolled {
    fn new(people: &[PathBuf]) -> Self {
        let matching = pack().0.matching();
        let mut gallery = Gallery::of(matching, pack().0.dimension());
        let mut others = Vec::new();
        for (person, folder) in (1..).zip(people) {
            let mut portraits = entries(folder, 1)
                .into_iter()
                .map(|path| read(&path))
                .filter_map(|picture| Some((only_face(&picture)?, picture)));
            let Some((face, _)) = portraits.next() else {
                continue;
            };
            gallery.push(person, person, &face.embedding).unwrap();
            others.extend(
                portraits
                    .next()
                    .map(|(face, picture)| (person, picture, face)),
            );
        }
        let limits = matching.limits(Caution::default(), gallery.len(), 1);
        Self {
            gallery,
            limits,
            others,
        }
    }

    /// Judges a face as the daemon does: a poor one is never known.
    fn judge(&self, face: &Face) -> (Outcome, Option<i64>) {
        let nearest = self.gallery.nearest(&face.embedding, 2).unwrap();
        let verdict = self.limits.judge(&nearest);
        let poor = face.quality.score < pack().0.quality_limits().known_from;
        match verdict.outcome {
            Outcome::Known if poor => (Outcome::Uncertain, verdict.person),
            outcome => (outcome, verdict.person),
        }
    }
}

/// Answers about faces of one kind.
#[derive(Debug, Default)]
struct Tally {
    right: usize,
    uncertain: usize,
    unknown: usize,
    no_face: usize,
    another: usize,
}

impl Tally {
    fn count(&mut self, enrolled: &Enrolled, person: Option<i64>, picture: &Rgb) {
        let faces = analyse(&pack().1, picture).faces;
        let answers: Vec<_> = faces.iter().map(|face| enrolled.judge(face)).collect();
        let known = |right: bool| {
            answers
                .iter()
                .any(|(outcome, who)| *outcome == Outcome::Known && (*who == person) == right)
        };
        let place = if known(false) {
            &mut self.another
        } else if known(true) {
            &mut self.right
        } else if answers.is_empty() {
            &mut self.no_face
        } else if answers
            .iter()
            .any(|(outcome, _)| *outcome == Outcome::Uncertain)
        {
            &mut self.uncertain
        } else {
            &mut self.unknown
        };
        *place += 1;
    }
}

#[derive(Debug, Clone, Copy)]
enum Cover {
    Mask,
    Sunglasses,
}

/// Paints a surgical mask or sunglasses by the face's landmarks, as `benches/covered.py` does.
fn covered(picture: &Rgb, face: &Face, cover: Cover) -> Rgb {
    let (bounds, [[ax, ay], [bx, by], [nx, ny], ..]) = (face.bounds, face.landmarks);
    let (wide, apart) = (bounds.right - bounds.left, (ax - bx).hypot(ay - by));
    let mask = [
        [bounds.left, ny - 0.1 * apart],
        [nx, ny - 0.35 * apart],
        [bounds.right, ny - 0.1 * apart],
        [bounds.right - 0.1 * wide, bounds.bottom],
        [nx, bounds.bottom + 0.1 * wide],
        [bounds.left + 0.1 * wide, bounds.bottom],
    ];
    let (colour, inside): ([u8; 3], &dyn Fn(f32, f32) -> bool) = match cover {
        Cover::Mask => ([150, 190, 225], &|x, y| {
            // The mask is convex but for its upper edge: a ray to the right tells in from out.
            let edges = mask.iter().zip(mask.iter().cycle().skip(1));
            let crossed = edges.filter(|([x1, y1], [x2, y2])| {
                (*y1 > y) != (*y2 > y) && x < (x2 - x1) * (y - y1) / (y2 - y1) + x1
            });
            crossed.count() % 2 == 1
        }),
        Cover::Sunglasses => ([15, 15, 18], &|x, y| {
            [[ax, ay], [bx, by]].iter().any(|[eye_x, eye_y]| {
                let (across, down) = ((x - eye_x) / (0.45 * apart), (y - eye_y) / (0.33 * apart));
                across.hypot(down) <= 1.0
            })
        }),
    };
    let mut painted = picture.clone();
    for (at, pixel) in painted.pixels.chunks_exact_mut(3).enumerate() {
        let (x, y) = (at % picture.width, at / picture.width);
        if inside(x as f32, y as f32) {
            pixel.copy_from_slice(&colour);
        }
    }
    painted
}

#[test]
fn masks_and_sunglasses_make_nobody_another_person() {
    let (Some(people), Some(singles)) = (
        shared("covered faces test", "faces/labelled"),
        shared("covered faces test", "faces/singles"),
    ) else {
        return;
    };
    let enrolled = Enrolled::new(&entries(&people, 3));
    let strangers: Vec<_> = entries(&singles, 4)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind != "csv"))
        .map(|path| read(&path))
        .filter_map(|picture| Some((only_face(&picture)?, picture)))
        .collect();
    for cover in [Cover::Mask, Cover::Sunglasses] {
        let (mut theirs, mut others) = (Tally::default(), Tally::default());
        for (person, picture, face) in &enrolled.others {
            theirs.count(&enrolled, Some(*person), &covered(picture, face, cover));
        }
        let mut faces = Vec::new();
        for (face, picture) in &strangers {
            let painted = covered(picture, face, cover);
            others.count(&enrolled, None, &painted);
            faces.extend(only_face(&painted));
        }
        let mixed = mixed_groups(&faces);
        println!(
            "{cover:?}: {} enrolled, others {theirs:?}; {} strangers {others:?}, {mixed} of {} in groups with another",
            enrolled.gallery.len(),
            strangers.len(),
            faces.len()
        );
        assert!(
            theirs.right * 2 > enrolled.others.len(),
            "{cover:?} {theirs:?}"
        );
        assert!(
            theirs.another == 0 && others.another <= strangers.len() / 40,
            "{cover:?} {theirs:?} {others:?}"
        );
        assert!(mixed <= faces.len() / 6, "{cover:?} {mixed}");
    }
}

/// Groups faces of different people as the daemon groups strangers; returns how many share a group.
fn mixed_groups(faces: &[Face]) -> usize {
    let matching = pack().0.matching();
    let (dimension, linking) = (pack().0.dimension(), matching.linking_distance());
    let mut groups = Clusters::new(matching.metric, dimension, linking);
    for (id, face) in (1..).zip(faces) {
        if face.quality.score < SHAPES_FROM {
            continue;
        }
        let (mut at, centroid) = match groups.nearest(&face.embedding).unwrap() {
            Some(near) => (near, groups.centroid_with(near, &face.embedding).unwrap()),
            None => {
                let alone = Centroid::of(matching.metric, [face.embedding.as_slice()]);
                (id, alone.unwrap())
            }
        };
        groups.set(at, centroid).unwrap();
        while let Some((other, both)) = groups.alike(at) {
            groups.remove(at.max(other));
            at = at.min(other);
            groups.set(at, both).unwrap();
        }
    }
    groups
        .ids()
        .filter_map(|id| groups.centroid(id))
        .map(|centroid| centroid.count as usize)
        .filter(|count| *count > 1)
        .sum()
}

/// Mirrors a picture left to right, or top to bottom: then it lies mirrored on its head.
fn mirrored(picture: &Rgb, upside_down: bool) -> Rgb {
    let (width, height) = (picture.width, picture.height);
    let pixels = (0..width * height)
        .flat_map(|at| {
            let (x, y) = (at % width, at / width);
            let (x, y) = if upside_down {
                (x, height - 1 - y)
            } else {
                (width - 1 - x, y)
            };
            let from = 3 * (y * width + x);
            [
                picture.pixels[from],
                picture.pixels[from + 1],
                picture.pixels[from + 2],
            ]
        })
        .collect();
    Rgb::new(width, height, pixels).unwrap()
}

#[test]
fn a_mirrored_picture_shows_the_same_people_or_none() {
    let Some(people) = shared("mirrored pictures test", "faces/labelled") else {
        return;
    };
    let enrolled = Enrolled::new(&entries(&people, 5));
    let mut upright = Tally::default();
    for (person, picture, _) in &enrolled.others {
        upright.count(&enrolled, Some(*person), picture);
    }
    for upside_down in [false, true] {
        let mut tally = Tally::default();
        for (person, picture, _) in &enrolled.others {
            tally.count(&enrolled, Some(*person), &mirrored(picture, upside_down));
        }
        println!(
            "{} pictures, upside down {upside_down}: {tally:?}; upright {upright:?}",
            enrolled.others.len()
        );
        assert_eq!(tally.another, 0, "{upside_down} {tally:?}");
        let few = 1 + enrolled.others.len() / 20;
        assert!(
            tally.right + few >= upright.right,
            "{upside_down} {tally:?}"
        );
    }
}
