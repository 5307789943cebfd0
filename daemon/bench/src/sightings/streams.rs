//! Pictures of visits: photographs of people, moved and scaled over a background, with the place of
//! each face.

mod clips;
mod drawing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fastrand::Rng;
use kith_vision::{Face, QualityLimits, Rgb, Search, Vision};

use self::drawing::{draw, expose, sample};

/// Sides of a picture.
const WIDTH: usize = 640;
const HEIGHT: usize = 360;
/// Sides of a sprite, and of the face in its middle.
const SPRITE: [usize; 2] = [200, 250];
const FACE: f32 = 100.0;
/// Semi-axes of the part of a sprite that is shown.
const SHOWN: [f32; 2] = [78.0, 105.0];
/// Blur of a face out of focus, in a sprite's pixels.
const BLUR: f32 = 3.5;
/// Smallest and usual side of a face in the pictures.
const SMALL: f32 = 42.0;
const NEAR: f32 = 115.0;
/// Pictures a second; streams of fewer leave some out.
pub const RATE: u32 = 5;

/// Beginnings of the folders whose people have numbers for names.
const UNNAMED: [&str; 2] = ["df_", "compreface_"];

/// A photograph of a person, ready to be placed.
struct Sprite {
    pixels: Vec<u8>,
    /// The same out of focus.
    blurred: Vec<u8>,
    embedding: Vec<f32>,
    /// True if the photograph is good enough to be enrolled.
    enrollable: bool,
}

/// A person with their photographs.
pub struct Person {
    pub name: String,
    sprites: Vec<Sprite>,
    /// Number of the photographs that are enrolled; the others are seen.
    pub enrolled: usize,
    /// False if it is not known who this is, so that no name is right or wrong.
    pub labelled: bool,
}

impl Person {
    /// Returns the embeddings of the enrolled photographs.
    pub fn embeddings(&self) -> impl Iterator<Item = &[f32]> {
        let enrolled = self.sprites.iter().take(self.enrolled);
        enrolled.map(|sprite| sprite.embedding.as_slice())
    }
}

/// One person in front of the camera without a longer pause, or their image in a mirror.
pub struct Visit {
    pub person: usize,
    /// True for the image in a mirror.
    pub double: bool,
    pub began_ms: i64,
}

/// The place of a person at some time: seconds, middle of the face, and its side.
type Place = (f32, f32, f32, f32);

/// A person who moves through a scene.
struct Actor {
    visit: usize,
    person: usize,
    path: Vec<Place>,
    /// The photographs, each from this second on.
    sprites: Vec<(f32, usize)>,
    mirrored: bool,
}

/// Kinds of scenes. The last two are of clips.
pub const KINDS: [&str; 14] = [
    "comes nearer",
    "returns soon",
    "returns late",
    "passes behind",
    "side by side",
    "double in a mirror",
    "cut to another",
    "light changes",
    "face changes",
    "four people",
    "blurred at first",
    "double, no mirrors",
    "clip of a singer",
    "clip of people on seats",
];

/// Number of the kinds that are made of photographs.
pub const PHOTOGRAPHED: usize = KINDS.len() - 2;

/// A scene in front of one camera.
pub struct Scene {
    pub kind: usize,
    pub visits: Vec<Visit>,
    /// True if the configuration says that there are mirrors.
    pub mirrors: bool,
    actors: Vec<Actor>,
    backgrounds: [usize; 2],
    /// Second from which the second background is shown.
    cut: f32,
    /// Second until which faces are out of focus.
    blurred: f32,
    /// Seconds of dim light, and its strength.
    dim: (f32, f32, f32),
    seed: u64,
}

/// A face that the networks found.
pub struct Seen {
    pub face: Face,
    /// The visit whose face is at this place.
    pub visit: Option<usize>,
}

/// A picture of a scene.
pub struct Picture {
    pub came_ms: i64,
    pub seen: Vec<Seen>,
}

/// Photographs and networks.
pub struct Studio {
    vision: Vision,
    limits: QualityLimits,
    pub people: Vec<Person>,
    backgrounds: Vec<Rgb>,
}

impl Studio {
    /// Reads half of the people of `../shared/faces` (0 or 1), at most `most`. Those with three or
    /// more photographs are enrolled with two, every other one of the rest with one, as far as their
    /// photographs are within the `limits` of enrolment.
    pub fn open(
        vision: Vision,
        limits: QualityLimits,
        faces: &Path,
        half: usize,
        most: usize,
    ) -> anyhow::Result<Self> {
        let mut photographs: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for file in files(&faces.join("lfw-dev"))? {
            if let Some((name, _)) = stem(&file).rsplit_once('_') {
                let name = name.to_lowercase();
                photographs.entry(name).or_default().push(file);
            }
        }
        // Some people are in both folders, perhaps with the same photographs.
        for person in files(&faces.join("labelled"))? {
            let name = stem(&person);
            let name = name.trim_start_matches("lfw_").to_string();
            photographs.insert(name, files(&person)?);
        }
        photographs.retain(|_, files| files.len() >= 2);
        let mut studio = Self {
            vision,
            limits,
            people: Vec::new(),
            backgrounds: Vec::new(),
        };
        let mut with_two = 0;
        for (name, files) in photographs.into_iter().skip(half).step_by(2) {
            if studio.people.len() >= most {
                break;
            }
            let mut sprites = Vec::new();
            for file in files.iter().take(4) {
                sprites.extend(studio.sprite(&read(file)?)?);
            }
            let enrolled = match sprites.len() {
                0 | 1 => continue,
                2 => {
                    with_two += 1;
                    with_two % 2
                }
                _ => 2,
            };
            sprites.sort_by_key(|sprite| !sprite.enrollable);
            let enrollable = sprites.iter().filter(|sprite| sprite.enrollable).count();
            // Whose name is not stated may be under another name, too.
            let labelled = !UNNAMED.iter().any(|unnamed| name.starts_with(unnamed));
            studio.people.push(Person {
                name,
                sprites,
                enrolled: if labelled {
                    enrolled.min(enrollable)
                } else {
                    0
                },
                labelled,
            });
        }
        for file in files(&faces.join("noface"))? {
            let picture = image::open(&file)?;
            if picture.width() >= 300 && !stem(&file).starts_with("tricky") {
                let filter = image::imageops::FilterType::Triangle;
                let picture = picture.resize_exact(WIDTH as u32, HEIGHT as u32, filter);
                let picture = Rgb::new(WIDTH, HEIGHT, picture.to_rgb8().into_raw())?;
                studio.backgrounds.push(picture);
            }
        }
        Ok(studio)
    }

    fn recognise(&self, picture: &Rgb) -> anyhow::Result<Vec<Face>> {
        let search = Search {
            min_face_px: self.vision.smallest_face(picture.width, picture.height),
            max_faces: 20,
            turned: false,
        };
        Ok(self.vision.recognise(picture, &search)?.faces)
    }

    /// Cuts out a photograph's largest face, if there is one.
    fn sprite(&self, picture: &Rgb) -> anyhow::Result<Option<Sprite>> {
        let faces = self.recognise(picture)?;
        let largest = |a: &&Face, b: &&Face| a.bounds.size().total_cmp(&b.bounds.size());
        let Some(face) = faces.iter().max_by(largest) else {
            return Ok(None);
        };
        let bounds = face.bounds;
        let [x, y] = [bounds.left + bounds.right, bounds.top + bounds.bottom].map(|v| v / 2.0);
        let scale = bounds.size() / FACE;
        let [width, height] = SPRITE;
        let mut pixels = Vec::with_capacity(3 * width * height);
        for row in 0..height {
            for column in 0..width {
                let at = [
                    x + (column as f32 - width as f32 / 2.0) * scale,
                    y + (row as f32 - height as f32 / 2.0) * scale,
                ];
                pixels.extend(sample(&picture.pixels, [picture.width, picture.height], at));
            }
        }
        let sharp = image::RgbImage::from_raw(width as u32, height as u32, pixels.clone());
        let blurred = image::imageops::fast_blur(&sharp.context("a sprite's sides")?, BLUR);
        Ok(Some(Sprite {
            pixels,
            blurred: blurred.into_raw(),
            embedding: face.embedding.clone(),
            enrollable: face.quality.objection(&self.limits).is_none(),
        }))
    }

    /// Makes a scene of the next people.
    pub fn scene(&self, kind: usize, people: &mut impl Iterator<Item = usize>, seed: u64) -> Scene {
        let mut rng = Rng::with_seed(seed);
        let backgrounds = [0, 1].map(|_| rng.usize(..self.backgrounds.len()));
        let mut scene = Scene::empty(kind, backgrounds, seed);
        let mut person = || people.next().unwrap_or(0);
        let stays = |x, y, size, from, until| vec![(from, x, y, size), (until, x, y, size)];
        let middle = (WIDTH as f32 / 2.0, HEIGHT as f32 / 2.0);
        match kind {
            1 | 2 => {
                let visitor = person();
                let first = walk(&mut rng, 0.0, 5.0);
                let visit = scene.add(self, visitor, first, &mut rng);
                let away = if kind == 1 { 25.0 } else { 90.0 };
                let second = walk(&mut rng, 5.0 + away, 5.0);
                if kind == 1 {
                    scene.return_to(self, visit, second, &mut rng);
                } else {
                    scene.add(self, visitor, second, &mut rng);
                }
            }
            3 => {
                let (behind, before) = (person(), person());
                let y = middle.1 + rng.f32() * 20.0;
                let path = vec![(0.0, -20.0, y, 70.0), (8.0, 660.0, y, 70.0)];
                scene.add(self, behind, path, &mut rng);
                let path = vec![(1.0, 660.0, y + 15.0, NEAR), (8.0, -40.0, y + 15.0, NEAR)];
                scene.add(self, before, path, &mut rng);
            }
            4 => {
                for (place, from) in [(220.0, 0.0), (380.0, 2.0)] {
                    let size = 80.0 + rng.f32() * 30.0;
                    let path = (0..7).map(|step| {
                        let [x, y] = [place, middle.1].map(|at| at + rng.f32() * 40.0 - 20.0);
                        (from + step as f32, x, y, size)
                    });
                    let path = path.collect();
                    let visitor = person();
                    scene.add(self, visitor, path, &mut rng);
                }
            }
            5 | 11 => {
                let path: Vec<Place> = walk(&mut rng, 0.0, 7.0);
                let visitor = person();
                let visit = scene.add(self, visitor, path.clone(), &mut rng);
                let mirrored = path.iter().map(|(t, x, y, size)| {
                    (
                        *t,
                        (x + 320.0) % WIDTH as f32,
                        y - 30.0,
                        (size * 0.7).max(SMALL),
                    )
                });
                let mirrored: Vec<_> = mirrored.collect();
                let sprites = scene.actors[visit].sprites.clone();
                let double = scene.add(self, visitor, mirrored, &mut rng);
                scene.mirrors = kind == 5;
                scene.visits[double].double = true;
                (scene.actors[double].mirrored, scene.actors[double].sprites) = (true, sprites);
            }
            6 => {
                let (x, y) = (middle.0 + rng.f32() * 100.0, middle.1);
                let (one, other) = (person(), person());
                scene.add(self, one, stays(x, y, 100.0, 0.0, 4.0), &mut rng);
                scene.add(self, other, stays(x + 10.0, y, 110.0, 4.2, 8.0), &mut rng);
                scene.cut = 4.1;
            }
            7 => {
                let visitor = person();
                let path = walk(&mut rng, 0.0, 8.0);
                scene.add(self, visitor, path, &mut rng);
                scene.dim = (3.0, 5.5, 0.15 + rng.f32() * 0.2);
            }
            8 => {
                let visitor = person();
                let path = walk(&mut rng, 0.0, 8.0);
                let visit = scene.add(self, visitor, path, &mut rng);
                let seen = self.seen(visitor);
                scene.actors[visit].sprites = (0..4)
                    .map(|at| (2.0 * at as f32, seen[at % seen.len()]))
                    .collect();
            }
            9 => {
                for at in 0..4 {
                    let visitor = person();
                    let (x, from) = (80.0 + 160.0 * at as f32, rng.f32() * 3.0);
                    let y = middle.1 + rng.f32() * 100.0 - 50.0;
                    let size = 60.0 + rng.f32() * 40.0;
                    let mut path = stays(x, y, size, from, from + 6.0);
                    path.push((from + 7.0, x + rng.f32() * 120.0 - 60.0, y, size));
                    scene.add(self, visitor, path, &mut rng);
                }
            }
            _ => {
                scene.blurred = if kind == 10 { 4.0 } else { 0.0 };
                let visitor = person();
                let path = walk(&mut rng, 0.0, 8.0);
                scene.add(self, visitor, path, &mut rng);
            }
        }
        scene
    }

    /// Returns the photographs of a person that may be seen.
    fn seen(&self, person: usize) -> Vec<usize> {
        let person = &self.people[person];
        (person.enrolled..person.sprites.len()).collect()
    }

    /// Makes the pictures of a scene and finds the faces in them.
    pub fn play(&self, scene: &Scene) -> anyhow::Result<Vec<Picture>> {
        let mut rng = Rng::with_seed(scene.seed);
        let last = scene.actors.iter().flat_map(|actor| actor.path.last());
        let last = last.map(|place| place.0).fold(0.0, f32::max);
        let mut pictures = Vec::new();
        for step in 0..=(last * RATE as f32) as u32 {
            let seconds = step as f32 / RATE as f32;
            let mut there: Vec<_> = scene
                .actors
                .iter()
                .filter_map(|actor| Some((actor, actor.place(seconds)?)))
                .collect();
            if there.is_empty() {
                continue;
            }
            // The nearer ones hide the others.
            there.sort_by(|a, b| a.1[2].total_cmp(&b.1[2]));
            let mut picture = self.backgrounds[scene.background(seconds)].clone();
            for (actor, place) in &there {
                let sprite = &self.people[actor.person].sprites[actor.sprite(seconds)];
                let pixels = match seconds < scene.blurred {
                    true => &sprite.blurred,
                    false => &sprite.pixels,
                };
                draw(&mut picture, pixels, *place, actor.mirrored);
            }
            expose(&mut picture, scene.light(seconds), &mut rng);
            pictures.push(Picture {
                came_ms: (seconds * 1e3) as i64,
                seen: whose(&there, self.recognise(&picture)?),
            });
        }
        Ok(pictures)
    }
}

/// Tells whose the faces of a picture are: each is of the visit nearest to its place. A photograph
/// may show a second face beside its person's; that one is nobody's.
fn whose(there: &[(&Actor, [f32; 3])], faces: Vec<Face>) -> Vec<Seen> {
    let nearest: Vec<_> = faces.iter().map(|face| nearest(there, face)).collect();
    let is_beside = |at: usize, (visit, away): (usize, f32)| {
        let others = nearest.iter().enumerate().filter(|(other, _)| *other != at);
        let mut others = others.filter_map(|(_, nearest)| *nearest);
        others.any(|(other, nearer)| other == visit && nearer < away)
    };
    let visits = nearest.iter().enumerate().map(|(at, nearest)| {
        let nearest = nearest.filter(|nearest| !is_beside(at, *nearest));
        nearest.map(|(visit, _)| visit)
    });
    let seen = faces.into_iter().zip(visits.collect::<Vec<_>>());
    seen.map(|(face, visit)| Seen { face, visit }).collect()
}

/// Returns the visit nearest to a face, and how far away it is, in face sizes and in scale.
fn nearest(there: &[(&Actor, [f32; 3])], face: &Face) -> Option<(usize, f32)> {
    let bounds = face.bounds;
    let [x, y] = [bounds.left + bounds.right, bounds.top + bounds.bottom].map(|v| v / 2.0);
    let away = |place: &[f32; 3]| {
        let sizes = (bounds.size() / place[2]).ln().abs();
        (x - place[0]).hypot(y - place[1]) / place[2] + sizes
    };
    there
        .iter()
        .map(|(actor, place)| (actor.visit, away(place)))
        .filter(|(_, away)| *away < 0.7)
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Walks in from an edge, comes nearer, stays, and leaves.
fn walk(rng: &mut Rng, from: f32, seconds: f32) -> Vec<Place> {
    let side = |rng: &mut Rng| {
        if rng.bool() {
            -15.0
        } else {
            WIDTH as f32 + 15.0
        }
    };
    let (x, y) = (220.0 + rng.f32() * 200.0, 140.0 + rng.f32() * 80.0);
    let at = |share: f32| from + share * seconds;
    vec![
        (at(0.0), side(rng), y - 30.0, SMALL),
        (at(0.5), x, y, NEAR),
        (at(0.8), x + rng.f32() * 40.0 - 20.0, y, NEAR),
        (at(1.0), side(rng), y, NEAR),
    ]
}

impl Scene {
    fn empty(kind: usize, backgrounds: [usize; 2], seed: u64) -> Self {
        Self {
            kind,
            visits: Vec::new(),
            mirrors: false,
            actors: Vec::new(),
            backgrounds,
            cut: f32::INFINITY,
            blurred: 0.0,
            dim: (0.0, 0.0, 1.0),
            seed,
        }
    }

    fn add(&mut self, studio: &Studio, person: usize, path: Vec<Place>, rng: &mut Rng) -> usize {
        self.visits.push(Visit {
            person,
            double: false,
            began_ms: (path[0].0 * 1e3) as i64,
        });
        self.return_to(studio, self.visits.len() - 1, path, rng);
        self.visits.len() - 1
    }

    fn return_to(&mut self, studio: &Studio, visit: usize, path: Vec<Place>, rng: &mut Rng) {
        let person = self.visits[visit].person;
        let seen = studio.seen(person);
        self.actors.push(Actor {
            visit,
            person,
            path,
            sprites: vec![(0.0, seen[rng.usize(..seen.len())])],
            mirrored: false,
        });
    }

    /// Tells whether two visits are one and its image in a mirror.
    pub fn is_same(&self, one: usize, other: usize) -> bool {
        let [a, b] = [one, other].map(|at| &self.visits[at]);
        one == other || (a.person == b.person && a.began_ms == b.began_ms)
    }

    fn background(&self, seconds: f32) -> usize {
        self.backgrounds[usize::from(seconds >= self.cut)]
    }

    fn light(&self, seconds: f32) -> f32 {
        let (from, until, light) = self.dim;
        if (from..until).contains(&seconds) {
            light
        } else {
            1.0
        }
    }
}

impl Actor {
    /// Returns the middle of the face and its side.
    fn place(&self, seconds: f32) -> Option<[f32; 3]> {
        let steps = self.path.windows(2);
        let step = steps
            .into_iter()
            .find(|step| (step[0].0..=step[1].0).contains(&seconds))?;
        let ((from, x, y, size), (until, to_x, to_y, to_size)) = (step[0], step[1]);
        let share = (seconds - from) / (until - from).max(1e-3);
        let between = |a: f32, b: f32| a + (b - a) * share;
        Some([between(x, to_x), between(y, to_y), between(size, to_size)])
    }

    fn sprite(&self, seconds: f32) -> usize {
        let shown = self.sprites.iter().rfind(|(from, _)| *from <= seconds);
        shown.map_or(0, |(_, sprite)| *sprite)
    }
}

fn read(file: &Path) -> anyhow::Result<Rgb> {
    let reader = image::ImageReader::open(file)?.with_guessed_format()?;
    let picture = reader
        .decode()
        .with_context(|| file.display().to_string())?;
    // Larger photographs only take time.
    let picture = if picture.width().max(picture.height()) > 800 {
        picture.thumbnail(800, 800)
    } else {
        picture
    };
    let picture = picture.to_rgb8();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    Ok(Rgb::new(width, height, picture.into_raw())?)
}

/// Returns what is in a folder of pictures or folders, in order.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| {
        format!(
            "{}: the photographs are not there; use --faces",
            folder.display()
        )
    })?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().and_then(|name| name.to_str());
        if extension.is_none_or(|extension| matches!(extension, "jpg" | "png" | "jpeg")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn stem(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}
