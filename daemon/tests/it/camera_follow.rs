//! Followed cameras: many looks, few pictures of each face. The camera is a program that plays
//! JPEGs of a folder; all behind it is real.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use crate::support::{TestDaemon, photo, wait_for};

const SIZE: (u32, u32) = (960, 540);

/// A board with a followed camera that plays the folder `scene`, some ten frames a second.
struct Followed {
    daemon: TestDaemon,
    folder: PathBuf,
}

impl Followed {
    fn new() -> Self {
        let mut daemon = TestDaemon::new();
        let folder = daemon.folder.path().join("camera");
        fs::create_dir(&folder).unwrap();
        let play = format!(
            "while :; do for frame in {}/scene/*; do cat \"$frame\"; sleep 0.1; done; done",
            folder.display()
        );
        let section =
            format!("[{{name = \"front\", command = [\"sh\", \"-c\", {play:?}], follow = true}}]");
        daemon.set("camera", &section);
        daemon.enroll_everybody();
        Self { daemon, folder }
    }

    /// Makes the folder of a scene from frames.
    fn make(&self, scene: &str, frames: impl Iterator<Item = RgbImage>) {
        let folder = self.folder.join(scene);
        fs::create_dir(&folder).unwrap();
        for (n, frame) in frames.enumerate() {
            let mut bytes = Vec::new();
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 90);
            encoder.encode_image(&frame).unwrap();
            fs::write(folder.join(format!("{n:03}.jpg")), bytes).unwrap();
        }
    }

    fn play(&self, scene: &str) {
        let new = self.folder.join("new");
        symlink(self.folder.join(scene), &new).unwrap();
        fs::rename(new, self.folder.join("scene")).unwrap();
    }

    /// Returns a metric of the camera.
    fn metric(&self, name: &str) -> u64 {
        self.labelled(name, "")
    }

    /// The same with a further label.
    fn labelled(&self, name: &str, label: &str) -> u64 {
        let start = format!("kithd_camera_{name}{{camera=\"front\"{label}}} ");
        let metrics = self.daemon.get_text("/metrics");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0, |number| number.parse().unwrap())
    }

    fn wait_looks(&self, more: u64) {
        let before = self.metric("looks_total");
        wait_for(&format!("{more} looks"), || {
            (self.metric("looks_total") >= before + more).then_some(())
        });
    }

    fn wait_tracks(&self, count: u64) {
        wait_for(&format!("{count} tracks"), || {
            (self.metric("tracks") == count).then_some(())
        });
    }

    fn count(&self, condition: &str) -> usize {
        let query = format!("select count(*) from images where {condition}");
        self.daemon.sql(&query)[0].parse().unwrap()
    }
}

/// Returns a grey wall with these photographs at their places and heights.
fn wall(photos: &[(&RgbImage, i64, i64, u32)]) -> RgbImage {
    let mut wall = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| {
        Rgb([(90 + (x / 60) % 3 * 12 + (y / 60) % 2 * 10) as u8; 3])
    });
    for (photo, x, y, height) in photos {
        let width = photo.width() * height / photo.height();
        let scaled = imageops::resize(*photo, width, *height, FilterType::Triangle);
        imageops::overlay(&mut wall, &scaled, *x, *y);
    }
    wall
}

fn open(name: &str) -> RgbImage {
    image::open(photo(name)).unwrap().into_rgb8()
}

#[test]
fn one_who_comes_and_two_who_stay_give_few_pictures_each() {
    let mut camera = Followed::new();
    let (obama, biden) = (open("obama_2.jpg"), open("biden_1.jpg"));
    camera.make("empty", std::iter::once(wall(&[])));
    // Walks to and fro, ten frames each way.
    let to_and_fro = || (0..20_i64).map(|n| 14 * n.min(20 - n));
    camera.make(
        "one",
        to_and_fro().map(|x| wall(&[(&obama, 40 + x, 120, 300)])),
    );
    let two = |x| wall(&[(&obama, 40 + x, 120, 300), (&biden, 640 - x / 2, 100, 300)]);
    camera.make("two", to_and_fro().map(two));
    camera.play("empty");
    camera.daemon.start();
    wait_for("the camera", || {
        let part = camera.daemon.get("/v1/status")["parts"]["camera front"].clone();
        (part["condition"] == "ok").then_some(())
    });
    camera.play("one");
    camera.wait_tracks(1);
    camera.wait_looks(25);
    wait_for("Obama", || {
        (camera.count("outcome = 'known'") > 0).then_some(())
    });
    let of_one = camera.count("source = 'camera'");
    assert!((1..=3).contains(&of_one), "{of_one} pictures of one person");
    camera.play("two");
    camera.wait_tracks(2);
    camera.wait_looks(25);
    camera.play("empty");
    camera.wait_tracks(0);
    wait_for("the queue", || {
        (camera.count("state <> 'processed'") == 0).then_some(())
    });
    let known = camera.labelled("tracks_ended_total", ",outcome=\"known\"");
    assert!(known >= 2, "{known} tracks of known people have ended");
    let pictures = camera.count("source = 'camera' and camera = 'front'");
    assert!(
        (2..=8).contains(&pictures),
        "{pictures} pictures of two people"
    );
    let seen = camera
        .daemon
        .sql("select distinct person.name from faces join person on person.id = person_id where faces.outcome = 'known' order by 1");
    assert_eq!(seen, ["Barack Obama", "Joe Biden"]);
    // Nothing else was written.
    let spool = fs::read_dir(camera.daemon.state("spool")).unwrap().count();
    assert!(spool <= pictures, "{spool} files in the spool");
    assert_eq!(camera.daemon.stop(), Some(0));
}

#[test]
fn the_clip_of_a_singer_gives_few_pictures_and_his_name() {
    let clips = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/video");
    if !clips.is_dir() {
        println!("not run: the clips are not beside the repository");
        return;
    }
    let mut camera = Followed::new();
    camera.make("empty", std::iter::once(wall(&[])));
    let clip = camera.folder.join("clip");
    fs::create_dir(&clip).unwrap();
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-ss", "2.5", "-t", "4.4", "-i"])
        .arg(clips.join("hamilton.mp4"))
        .args(["-vf", "fps=5", "-q:v", "3"])
        .arg(clip.join("%03d.jpg"))
        .status();
    assert!(made.unwrap().success());
    let person = camera.folder.join("person/Lin-Manuel Miranda");
    fs::create_dir_all(&person).unwrap();
    fs::copy(clips.join("lin_manuel_miranda.png"), person.join("a.png")).unwrap();
    let enrolled = camera
        .daemon
        .command()
        .args(["enroll", "--folder"])
        .arg(camera.folder.join("person"))
        .status();
    assert!(enrolled.unwrap().success());
    camera.play("clip");
    camera.daemon.start();
    // The clip plays more than once; between its end and its beginning he jumps.
    camera.wait_looks(60);
    camera.play("empty");
    camera.wait_tracks(0);
    wait_for("the queue", || {
        (camera.count("state <> 'processed'") == 0).then_some(())
    });
    let (pictures, known) = (camera.count("true"), camera.count("outcome = 'known'"));
    assert!((1..=6).contains(&pictures), "{pictures} pictures");
    assert!(known > 0, "{known} of {pictures} are known");
    assert_eq!(
        camera
            .daemon
            .sql("select distinct person.name from faces join person on person.id = person_id where faces.outcome = 'known'"),
        ["Lin-Manuel Miranda"]
    );
    assert_eq!(camera.daemon.stop(), Some(0));
}
