//! Scenes of clips, each played twice with a pause.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use kith_vision::{Face, Rgb};

use super::{Actor, Person, Picture, Place, RATE, Scene, Seen, Sprite, Studio, Visit, read, whose};

/// People of `seats.mp4`, each with the way of their face: second, middle of the face, its side.
/// Written down from its frames, five a second, looked at one by one with the found faces drawn in.
/// From 5.0 s on the woman stands up, and her face covers that of the man behind her, in whose
/// place it is in the last frame. The man with the cap is turned away and half outside.
const SEATS: [(&str, &[Place]); 6] = [
    (
        "man with a magazine",
        &[
            (0.0, 500.0, 226.0, 147.0),
            (5.0, 494.0, 215.0, 150.0),
            (5.2, 483.0, 232.0, 150.0),
            (5.4, 467.0, 253.0, 157.0),
        ],
    ),
    (
        "woman in black",
        &[
            (0.0, 818.0, 258.0, 120.0),
            (1.0, 798.0, 251.0, 128.0),
            (2.0, 801.0, 251.0, 124.0),
            (3.0, 850.0, 254.0, 110.0),
            (4.0, 832.0, 235.0, 124.0),
            (4.8, 848.0, 240.0, 123.0),
            (5.0, 901.0, 216.0, 125.0),
            (5.2, 935.0, 233.0, 133.0),
            (5.4, 946.0, 230.0, 143.0),
        ],
    ),
    (
        "man behind a seat",
        &[
            (0.0, 305.0, 205.0, 103.0),
            (5.0, 308.0, 200.0, 106.0),
            (5.2, 293.0, 213.0, 110.0),
            (5.4, 273.0, 229.0, 112.0),
        ],
    ),
    (
        "man in a checked shirt",
        &[
            (0.0, 1004.0, 177.0, 87.0),
            (0.8, 996.0, 183.0, 85.0),
            (2.0, 1009.0, 171.0, 86.0),
            (5.0, 1017.0, 174.0, 80.0),
            (5.2, 1005.0, 185.0, 76.0),
        ],
    ),
    (
        "man in pink",
        &[
            (0.0, 1188.0, 185.0, 80.0),
            (5.0, 1185.0, 185.0, 76.0),
            (5.2, 1171.0, 198.0, 78.0),
            (5.4, 1151.0, 213.0, 74.0),
        ],
    ),
    (
        "man with a cap",
        &[(0.0, 39.0, 266.0, 139.0), (5.4, 25.0, 290.0, 139.0)],
    ),
];

impl Studio {
    /// Returns the scene of `hamilton.mp4` in which one man sings, who is enrolled.
    pub fn singer(&mut self, clips: &Path, pause: f32) -> anyhow::Result<(Scene, Vec<Picture>)> {
        let enrolled = read(&clips.join("lin_manuel_miranda.png"))?;
        let sprites = self.sprite(&enrolled)?.into_iter().collect();
        let singer = self.add("Lin-Manuel Miranda", sprites, 1);
        let frames = self.clip(&clips.join("hamilton.mp4"), [640, 360], ["2.5", "4.4"])?;
        let his = |face| Seen {
            visit: Some(0),
            face,
        };
        let frames = frames.into_iter();
        let frames = frames.map(|faces| faces.into_iter().map(his).collect());
        Ok(twice(12, &frames.collect::<Vec<_>>(), pause, &[singer]))
    }

    /// Returns `seats.mp4`. Who the people are is not known.
    pub fn seats(&mut self, clips: &Path, pause: f32) -> anyhow::Result<(Scene, Vec<Picture>)> {
        let frames = self.clip(&clips.join("seats.mp4"), [1280, 720], ["0", "5.6"])?;
        let people = SEATS.map(|(name, _)| self.add(name, Vec::new(), 0));
        let actors: Vec<_> = (0..people.len())
            .map(|visit| Actor {
                visit,
                person: people[visit],
                path: SEATS[visit].1.to_vec(),
                sprites: Vec::new(),
                mirrored: false,
            })
            .collect();
        let frames = frames.into_iter().enumerate().map(|(at, faces)| {
            let seconds = at as f32 / RATE as f32;
            let there = actors.iter();
            let there = there.filter_map(|actor| Some((actor, actor.place(seconds)?)));
            whose(&there.collect::<Vec<_>>(), faces)
        });
        Ok(twice(13, &frames.collect::<Vec<_>>(), pause, &people))
    }

    fn add(&mut self, name: &str, sprites: Vec<Sprite>, enrolled: usize) -> usize {
        let known = self.people.iter().position(|person| person.name == name);
        known.unwrap_or_else(|| {
            self.people.push(Person {
                name: name.into(),
                sprites,
                enrolled,
                labelled: enrolled > 0,
            });
            self.people.len() - 1
        })
    }

    /// Finds the faces of a part of a clip: from some second, for some seconds.
    fn clip(
        &self,
        file: &Path,
        [width, height]: [usize; 2],
        [from, seconds]: [&str; 2],
    ) -> anyhow::Result<Vec<Vec<Face>>> {
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-ss", from, "-t", seconds, "-i"])
            .arg(file)
            .args(["-vf", &format!("fps={RATE}"), "-f", "rawvideo"])
            .args(["-pix_fmt", "rgb24", "-"])
            .output()
            .context("ffmpeg is needed")?;
        ensure!(
            made.status.success(),
            String::from_utf8_lossy(&made.stderr).into_owned()
        );
        let frames = made.stdout.chunks_exact(3 * width * height);
        let faces = frames.map(|frame| self.recognise(&Rgb::new(width, height, frame.to_vec())?));
        faces.collect()
    }
}

/// Makes a scene of frames that come twice. A pause that is longer than a minute makes new visits.
fn twice(kind: usize, frames: &[Vec<Seen>], pause: f32, people: &[usize]) -> (Scene, Vec<Picture>) {
    let long = pause > 60.0;
    let again_ms = (frames.len() as i64 * 1000) / i64::from(RATE) + (pause * 1e3) as i64;
    let mut pictures = Vec::new();
    for (part, start_ms) in [(0, 0), (1, again_ms)] {
        for (at, faces) in frames.iter().enumerate() {
            let seen = faces.iter().map(|seen| Seen {
                visit: seen
                    .visit
                    .map(|of| of + if long { part * people.len() } else { 0 }),
                face: seen.face.clone(),
            });
            pictures.push(Picture {
                came_ms: start_ms + at as i64 * 1000 / i64::from(RATE),
                seen: seen.collect(),
            });
        }
    }
    let visit = |person: &usize, began_ms| Visit {
        person: *person,
        double: false,
        began_ms,
    };
    let mut visits: Vec<_> = people.iter().map(|person| visit(person, 0)).collect();
    if long {
        visits.extend(people.iter().map(|person| visit(person, again_ms)));
    }
    let scene = Scene {
        visits,
        ..Scene::empty(kind, [0, 0], 0)
    };
    (scene, pictures)
}
