//! Cameras as their users meet them: time and motion, bursts, and cameras that stall, glitch and
//! vanish. The camera is a fake below V4L2 (fake_camera.c); nokhwa, the camera process and all
//! above are the real ones. A camera of the kernel's own, vivid, is in `deploy/vm`.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, part_is_ok, photo, publish, text, wait_for};

/// The same as in fake_camera.c.
const SIZE: (u32, u32) = (640, 480);
const WORDS: usize = 64;

/// A board with a fake camera called front, and these further lines of its configuration.
struct Front {
    daemon: TestDaemon,
    folder: PathBuf,
}

impl Front {
    fn new(lines: &str) -> Self {
        let mut daemon = TestDaemon::new();
        let folder = daemon.folder.path().join("camera");
        std::fs::create_dir(&folder).unwrap();
        let mut control = vec![b' '; 2 * WORDS];
        control[WORDS..].fill(0);
        std::fs::write(folder.join("control"), control).unwrap();
        daemon.preload("fake_camera.c");
        daemon.environment("FAKE_CAMERA", folder.to_str().unwrap());
        let section = format!(
            "[{{name = \"front\", device = \"/dev/video77\", resolution = \"640x480\", rate = 30, {lines}}}]"
        );
        daemon.set("camera", &section);
        let front = Self { daemon, folder };
        front.tell("play still");
        front
    }

    /// Tells the camera what to do from now on.
    fn tell(&self, words: &str) {
        let control = OpenOptions::new()
            .write(true)
            .open(self.folder.join("control"))
            .unwrap();
        control
            .write_all_at(format!("{words:<WORDS$}").as_bytes(), 0)
            .unwrap();
    }

    /// Returns the number of frames since the camera was opened.
    fn frames(&self) -> u64 {
        let mut count = [0; WORDS];
        File::open(self.folder.join("control"))
            .unwrap()
            .read_exact_at(&mut count, WORDS as u64)
            .unwrap();
        let count = count.split(|byte| *byte == 0).next().unwrap();
        std::str::from_utf8(count).unwrap().parse().unwrap_or(0)
    }

    /// Waits for so many more frames.
    fn wait_frames(&self, more: u64) {
        let before = self.frames();
        wait_for(&format!("{more} frames"), || {
            (self.frames() >= before + more).then_some(())
        });
    }

    /// Puts a frame into the camera.
    fn frame(&self, name: &str, picture: &RgbImage) {
        std::fs::write(self.folder.join(format!("{name}.jpg")), jpeg(picture)).unwrap();
    }

    fn part(&self) -> Value {
        self.daemon.get("/v1/status")["parts"]["camera front"].clone()
    }

    /// Waits until the camera's part has that condition and contains these words.
    fn says(&self, condition: &str, words: &str) -> String {
        wait_for(&format!("{condition}: {words}"), || {
            let part = self.part();
            let text = part["text"].as_str()?.to_string();
            (part["condition"] == condition && text.contains(words)).then_some(text)
        })
    }

    fn rows(&self) -> usize {
        self.daemon.sql("select count(*) from images")[0]
            .parse()
            .unwrap()
    }

    fn wait_rows(&self, at_least: usize) {
        wait_for(&format!("{at_least} pictures"), || {
            (self.rows() >= at_least).then_some(())
        });
    }

    /// Returns a spooled frame. Its row is committed before the file gets its name.
    fn kept(&self, file: &str) -> Vec<u8> {
        wait_for("the file", || std::fs::read(self.daemon.state(file)).ok())
    }

    /// The camera process of the running daemon.
    fn process(&self) -> u32 {
        wait_for("the camera process", || {
            let children = format!("/proc/{0}/task/{0}/children", self.daemon.pid());
            let all = std::fs::read_dir(format!("/proc/{}/task", self.daemon.pid()))
                .unwrap()
                .flatten();
            let mut children = vec![children];
            children.extend(all.map(|task| task.path().join("children").display().to_string()));
            let pids = children
                .iter()
                .filter_map(|file| std::fs::read_to_string(file).ok())
                .collect::<Vec<_>>()
                .join(" ");
            pids.split_whitespace().find_map(|pid| {
                let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
                command
                    .contains("\0camera\0run\0")
                    .then(|| pid.parse().unwrap())
            })
        })
    }
}

fn runs(pid: u32) -> bool {
    // A zombie counts as gone.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn signal(name: &str, pid: u32) {
    assert!(
        Command::new("kill")
            .args([name, &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode_image(picture)
        .unwrap();
    bytes
}

/// A photograph as large as a frame, on grey.
fn scene(name: &str) -> RgbImage {
    let photo = image::open(photo(name))
        .unwrap()
        .resize(SIZE.0, SIZE.1, FilterType::Triangle)
        .into_rgb8();
    let mut scene = RgbImage::from_pixel(SIZE.0, SIZE.1, Rgb([110; 3]));
    imageops::overlay(&mut scene, &photo, 0, 0);
    scene
}

/// The same with a coloured square in its upper right corner, to recognise the frame by.
fn marked(mut scene: RgbImage, colour: [u8; 3]) -> RgbImage {
    imageops::overlay(
        &mut scene,
        &RgbImage::from_pixel(64, 64, Rgb(colour)),
        576,
        0,
    );
    scene
}

/// The colour in the upper right corner of an image's thumbnail.
fn mark(daemon: &TestDaemon, id: usize) -> [u8; 3] {
    let mut answer = ureq::get(daemon.url(&format!("/v1/images/{id}/thumbnail.jpg")))
        .call()
        .unwrap();
    let bytes = answer.body_mut().read_to_vec().unwrap();
    let thumbnail = image::load_from_memory(&bytes).unwrap().into_rgb8();
    thumbnail.get_pixel(thumbnail.width() - 8, 8).0
}

/// Several still frames with the noise of a sensor.
fn noisy(front: &Front, name: &str, scene: &RgbImage) {
    let mut random = fastrand::Rng::with_seed(7);
    for n in 0..6 {
        let mut noisy = scene.clone();
        for value in noisy.iter_mut() {
            *value = value.saturating_add_signed(random.i8(-6..=6));
        }
        front.frame(&format!("{name}-{n}"), &noisy);
    }
}

#[test]
fn a_picture_is_taken_every_interval_trimmed_and_identified() {
    let mut front = Front::new("every = \"300ms\", burst = 1");
    front.frame("still-1", &scene("obama_2.jpg"));
    // A larger frame: its rest lies behind the smaller one's end, as in a driver's buffer.
    front.frame("still-0", &scene("group.jpg"));
    front.daemon.enroll_everybody();
    front.daemon.start();
    front.wait_rows(3);
    wait_for("a known face", || {
        (front
            .daemon
            .sql("select count(*) from images where outcome = 'known'")[0]
            != "0")
            .then_some(())
    });
    for name in front.daemon.sql("select source || ' ' || path from images") {
        let words: Vec<_> = name.split(' ').collect();
        let digits = |c: char| if c.is_ascii_digit() { '0' } else { c };
        let shape: String = words[2].chars().map(digits).collect();
        assert_eq!(
            (words[0], words[1], shape.as_str()),
            ("camera", "front", "0000-00-00T00-00-00.000.jpg"),
            "{name}"
        );
    }
    front.says("ok", "picture");
    let log = front.daemon.log();
    assert!(
        log.contains(
            "camera front: /dev/video77 sends 640x480 in mjpeg, 30 frames a second, files: none"
        ),
        "{log}"
    );
    assert!(log.contains("system calls:"), "{log}");
    assert_eq!(front.daemon.stop(), Some(0));
}

#[test]
fn a_cameras_name_is_in_row_result_list_metrics_and_ha() {
    let broker = Mosquitto::running();
    let mut front = Front::new("every = \"300ms\", burst = 1");
    front.frame("still", &scene("obama_2.jpg"));
    let daemon = &mut front.daemon;
    daemon.set("mqtt.enabled", "true");
    daemon.set("mqtt.url", &format!("mqtt://127.0.0.1:{}", broker.port()));
    daemon.set("homeassistant.enabled", "true");
    let of = |topic: &str| Subscriber::new(broker.port(), topic);
    let mut results = of("kithd/board/result");
    let mut events = of("kithd/board/person/#");
    let mut origins = of("kithd/board/face/origin");
    let mut discovery = of("homeassistant/device/+/config");
    daemon.enroll_everybody();
    let posted = daemon.put("obama_2.jpg", "a.jpg");
    daemon.start();
    // Sightings wait for Home Assistant.
    part_is_ok(daemon, "mqtt out");
    publish(broker.port(), "homeassistant/status", "online");
    daemon.post_path(&posted);
    front.wait_rows(3);
    let daemon = &front.daemon;
    for row in daemon
        .sql("select source || ' ' || coalesce(camera, '-') || coalesce(event, '-') from images")
    {
        assert!(
            ["camera front-", "http --"].contains(&row.as_str()),
            "{row}"
        );
    }
    for message in results
        .wait(3)
        .iter()
        .chain(&events.wait(2))
        .chain(&origins.wait(2))
    {
        let camera = if message["source"] == "camera" {
            "front".into()
        } else {
            Value::Null
        };
        assert_eq!(
            (&message["camera"], &message["event"]),
            (&camera, &Value::Null),
            "{message}"
        );
    }
    let listed = |query: &str| {
        let images = daemon.get(&format!("/v1/images?{query}"))["images"].clone();
        images.as_array().unwrap().clone()
    };
    let all = listed("");
    assert!(all.iter().any(|image| image["camera"].is_null()), "{all:?}");
    let fronts = listed("camera=front");
    assert!(fronts.len() >= 2, "{fronts:?}");
    assert!(
        fronts.iter().all(|image| image["camera"] == "front"),
        "{fronts:?}"
    );
    assert_eq!(
        (listed("camera=yard").len(), listed("event=1.5-a").len()),
        (0, 0)
    );
    let page = daemon.get_text(&format!("/images/{}", fronts[0]["id"]));
    assert!(page.contains("/?camera=front"), "{page}");
    let metrics = daemon.get_text("/metrics");
    let counted = metrics
        .lines()
        .find_map(|line| line.strip_prefix("kithd_camera_pictures_total{camera=\"front\"} "));
    assert!(
        counted.is_some_and(|count| count.parse::<u64>().unwrap() >= 2),
        "{metrics}"
    );
    let camera = discovery
        .wait(2)
        .into_iter()
        .find(|message| message["device"]["model"] == "Camera")
        .unwrap();
    assert_eq!(camera["device"]["name"], "kithd board front");
    let sensor = camera["components"]
        .as_object()
        .unwrap()
        .values()
        .find(|component| component["platform"] == "sensor")
        .unwrap();
    assert_eq!(sensor["state_topic"], "kithd/board/presence");
    let template = sensor["value_template"].as_str().unwrap();
    assert!(template.contains("'source', 'eq', \"front\""), "{template}");
}

#[test]
fn motion_takes_one_picture_in_a_cool_down_and_noise_takes_none() {
    let mut front = Front::new("motion = true, cool_down = \"1h\", burst = 2");
    let room = scene("noface.jpg");
    noisy(&front, "still", &room);
    for n in 0..8 {
        let mut walker = room.clone();
        imageops::overlay(
            &mut walker,
            &RgbImage::from_pixel(120, 300, Rgb([250, 40, 40])),
            n * 60,
            100,
        );
        front.frame(&format!("walk-{n}"), &walker);
    }
    front.daemon.start();
    front.says("ok", "frames come, no picture taken yet");
    front.wait_frames(60);
    assert_eq!(front.rows(), 0);
    front.tell("play walk");
    front.wait_rows(1);
    front.wait_frames(60);
    assert_eq!(front.rows(), 1);
}

#[test]
fn the_sharp_face_wins_among_blurred_and_faceless_frames() {
    let mut front = Front::new("every = \"1h\", burst = 6");
    let face = scene("obama_1.jpg");
    let blurred = imageops::blur(&face, 9.0);
    // Sharper than any face.
    let mut faceless = scene("noface.jpg");
    for (x, y, pixel) in faceless.enumerate_pixels_mut() {
        if (x / 2 + y / 2) % 2 == 0 {
            *pixel = Rgb([0; 3]);
        }
    }
    for n in [0, 1, 4] {
        front.frame(&format!("still-{n}"), &marked(blurred.clone(), [0, 0, 255]));
    }
    for n in [2, 5] {
        front.frame(
            &format!("still-{n}"),
            &marked(faceless.clone(), [255, 0, 0]),
        );
    }
    front.frame("still-3", &marked(face, [0, 255, 0]));
    front.daemon.enroll_everybody();
    // The camera asks the engine once it is up.
    front.tell("stall still");
    front.daemon.start();
    part_is_ok(&front.daemon, "engine");
    front.tell("play still");
    front.wait_rows(1);
    let image = front.daemon.ended(1);
    let [red, green, blue] = mark(&front.daemon, 1);
    assert!(
        green > 150 && red < 100 && blue < 100,
        "the frame marked {:?} won: {image}",
        [red, green, blue]
    );
    assert_eq!(image["outcome"], "known", "{image}");
    front.wait_frames(60);
    assert_eq!(front.rows(), 1, "a burst is one picture");
}

#[test]
fn without_an_engine_the_sharpest_frame_is_queued_at_once() {
    let mut front = Front::new("every = \"1h\", burst = 3");
    front.daemon.set("models.pack", "\"/nowhere/pack\"");
    let room = scene("noface.jpg");
    front.frame("still-0", &imageops::blur(&room, 4.0));
    front.frame("still-1", &room);
    front.frame("still-2", &imageops::blur(&room, 4.0));
    front.daemon.start();
    front.wait_rows(1);
    let file = front.daemon.sql("select file from images")[0].clone();
    let kept = front.kept(&file);
    assert_eq!(
        image::load_from_memory(&kept).unwrap().into_rgb8(),
        image::load_from_memory(&jpeg(&room)).unwrap().into_rgb8()
    );
    assert!(kept.ends_with(&[0xFF, 0xD9]));
}

#[test]
fn a_stalled_camera_is_killed_and_restarted_and_blocks_no_other() {
    let mut front = Front::new("every = \"200ms\", burst = 1, stall_after = \"1s\"");
    front.frame("still", &scene("noface.jpg"));
    front.daemon.start();
    front.wait_rows(1);
    let first = front.process();
    front.tell("stall still");
    front.says(
        "degraded",
        "no frame came for 1s, the camera process was killed; tried again in",
    );
    assert!(!runs(first));
    let id = front
        .daemon
        .post_path(&front.daemon.put("noface.jpg", "other.jpg"));
    assert_eq!(front.daemon.ended(id)["outcome"], "no_face");
    front.tell("play still");
    let before = front.rows();
    front.wait_rows(before + 1);
    front.says("ok", "pictures taken");
    assert_ne!(front.process(), first);
    assert!(
        front
            .daemon
            .log()
            .contains("camera front: frames come again")
    );
    // A stopped process says nothing either.
    let stopped = front.process();
    signal("-STOP", stopped);
    wait_for("the stopped process to be gone", || {
        (!runs(stopped)).then_some(())
    });
    let before = front.rows();
    front.wait_rows(before + 1);
}

#[test]
fn broken_frames_are_dropped_and_a_camera_of_only_them_degraded() {
    let mut front = Front::new("every = \"100ms\", burst = 2, stall_after = \"1s\"");
    front.frame("still", &scene("noface.jpg"));
    front.tell("glitch still");
    front.daemon.start();
    front.wait_rows(3);
    wait_for("the broken frames to be said", || {
        front
            .daemon
            .log()
            .contains("a broken frame was dropped, 1 so far: the frame is cut off")
            .then_some(())
    });
    front.says("ok", "broken frames dropped");
    for id in 1..=3 {
        assert_eq!(front.daemon.ended(id)["state"], "processed");
    }
    front.tell("garbage still");
    front.says(
        "degraded",
        "only broken frames came for 1s, the last: the frame does not begin as a JPEG; tried again in",
    );
    front.tell("play still");
    let before = front.rows();
    front.wait_rows(before + 1);
}

#[test]
fn a_cut_frame_is_dropped_though_an_older_one_ends_it() {
    let mut front = Front::new("every = \"100ms\", burst = 1");
    front.daemon.set("models.pack", "\"/nowhere/pack\"");
    // There is one scene more than the camera has buffers, so each buffer gets another one each
    // time.
    let scenes = [
        "obama_1.jpg",
        "biden_1.jpg",
        "astronaut_1.jpg",
        "group.jpg",
        "noface.jpg",
    ]
    .map(scene);
    for (n, scene) in scenes.iter().enumerate() {
        front.frame(&format!("still-{n}"), scene);
    }
    front.tell("torn still");
    front.daemon.start();
    front.wait_rows(12);
    wait_for("a torn frame to be said", || {
        front
            .daemon
            .log()
            .contains("1 so far: the frame is cut off, and the end of an older one follows")
            .then_some(())
    });
    let whole = scenes.map(|scene| image::load_from_memory(&jpeg(&scene)).unwrap().into_rgb8());
    for file in front.daemon.sql("select file from images") {
        let kept = front.kept(&file);
        let kept = image::load_from_memory(&kept).unwrap().into_rgb8();
        assert!(
            whole.contains(&kept),
            "{file} is half of one and half of another"
        );
    }
}

#[test]
fn a_missing_or_unplugged_camera_is_awaited_during_other_work() {
    let mut front = Front::new("every = \"200ms\", burst = 1");
    front.frame("still", &scene("noface.jpg"));
    front.tell("gone still");
    front.daemon.start();
    front.says(
        "degraded",
        "unplugged: /dev/video77 is not there; kithd waits for it",
    );
    let id = front
        .daemon
        .post_path(&front.daemon.put("noface.jpg", "other.jpg"));
    assert_eq!(front.daemon.ended(id)["outcome"], "no_face");
    front.tell("play still");
    front.wait_rows(2);
    front.says("ok", "taken");
    front.tell("gone still");
    front.says(
        "degraded",
        "unplugged: /dev/video77 is not there; kithd waits for it",
    );
    let before = front.rows();
    front.tell("play still");
    front.wait_rows(before + 1);
    front.says("ok", "taken");
    assert_eq!(front.daemon.stop(), Some(0));
}

#[test]
fn a_camera_that_cannot_be_opened_is_explained_and_retried() {
    let mut front = Front::new("every = \"200ms\", burst = 1");
    front.frame("still", &scene("noface.jpg"));
    front.tell("busy still");
    front.daemon.start();
    front.says(
        "degraded",
        "/dev/video77 is in use by another program; tried again in",
    );
    front.tell("denied still");
    front.says(
        "degraded",
        "it has to be in the group video, and the service needs the drop-in camera.conf",
    );
    front.tell("play still");
    front.says("ok", "taken");
}

#[test]
fn a_full_disk_or_queue_pauses_the_camera_until_there_is_room() {
    let mut front = Front::new("every = \"200ms\", burst = 1");
    front.frame("still", &scene("noface.jpg"));
    let stat = rustix::fs::statvfs(front.daemon.folder.path()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    // A reserve so large that other writes to this disk do not matter.
    let margin = (free / 8).min(1 << 30);
    front
        .daemon
        .set("intake.disk_reserve", &format!("{}B", free - margin));
    front.daemon.set("intake.max_pending", "3");
    let filler = front.daemon.folder.path().join("filler");
    let file = File::create(&filler).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 2 * margin).unwrap();
    front.daemon.start();
    front.says("degraded", "paused: the disk of the state folder is full");
    front.wait_frames(30);
    assert_eq!(front.rows(), 0);
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    front.wait_rows(1);
    front.says("ok", "taken");

    wait_for("the breaker to be opened", || {
        front
            .daemon
            .kithd(["breaker", "open"])
            .status
            .success()
            .then_some(())
    });
    let said = front.says("degraded", "paused: ");
    assert!(said.contains("intake.max_pending"), "{said}");
    assert!(front.daemon.kithd(["breaker", "auto"]).status.success());
    let before = front.rows();
    front.wait_rows(before + 1);
    front.says("ok", "taken");
    assert!(
        front
            .daemon
            .log()
            .contains("camera front: pictures are taken again")
    );
}

#[test]
fn frames_that_fill_the_cameras_share_pause_only_the_camera() {
    let mut front = Front::new("every = \"100ms\", burst = 1");
    front.frame("still", &scene("noface.jpg"));
    front.daemon.set("retention.camera.bytes", "512KiB");
    front.daemon.set("models.pack", "\"/nowhere/pack\"");
    front.daemon.start();
    front.says("degraded", "paused: waiting frames fill the camera's spool");
    let held = front.rows();
    assert!(held > 1, "{held} frames of one share");
    front.wait_frames(30);
    assert_eq!(
        (front.rows(), front.part()["condition"].as_str()),
        (held, Some("degraded"))
    );
    assert_eq!(
        front.daemon.log().matches("camera front: paused").count(),
        1,
        "it is said once"
    );
    front
        .daemon
        .post_path(&front.daemon.put("noface.jpg", "other.jpg"));
    assert_eq!(
        front.daemon.get("/v1/status")["parts"]["intake"]["condition"],
        "ok"
    );

    // With an engine the waiting frames are processed and make room.
    assert_eq!(front.daemon.stop(), Some(0));
    front.daemon.unset("models.pack");
    front.daemon.start();
    front.wait_rows(held + 3);
    front.says("ok", "taken");
}

#[test]
fn no_camera_process_outlives_its_daemon_or_delays_its_end() {
    let mut front = Front::new("every = \"1h\"");
    front.frame("still", &scene("noface.jpg"));
    front.daemon.start();
    let orphan = front.process();
    front.says("ok", "taken");
    signal("-STOP", orphan);
    front.daemon.kill();
    wait_for("the orphan to be gone", || (!runs(orphan)).then_some(()));

    front.daemon.start();
    let stopped = front.process();
    signal("-STOP", stopped);
    assert_eq!(front.daemon.stop(), Some(0));
    wait_for("the stopped process to be gone", || {
        (!runs(stopped)).then_some(())
    });
}

#[test]
fn raw_frames_become_jpegs() {
    let mut front = Front::new("every = \"1h\", burst = 1, format = \"rgb\"");
    front.daemon.set("models.pack", "\"/nowhere/pack\"");
    let scene = scene("noface.jpg");
    std::fs::write(front.folder.join("still.rgb"), scene.as_raw()).unwrap();
    front.daemon.start();
    front.wait_rows(1);
    let file = front.daemon.sql("select file from images")[0].clone();
    let kept = front.kept(&file);
    let kept = image::load_from_memory_with_format(&kept, ImageFormat::Jpeg)
        .unwrap()
        .into_rgb8();
    assert_eq!(kept.dimensions(), SIZE);
    let off = kept
        .iter()
        .zip(scene.iter())
        .map(|(a, b)| u64::from(a.abs_diff(*b)))
        .sum::<u64>();
    assert!(
        off / (kept.as_raw().len() as u64) < 4,
        "colours are off by {off}"
    );
}

#[test]
fn the_cli_lists_cameras_and_takes_a_picture_or_says_why_not() {
    let front = Front::new("every = \"1h\"");
    front.frame("still", &scene("obama_1.jpg"));
    let listed = text(&front.daemon.kithd(["camera", "list"]));
    for part in [
        "/dev/video77  Fake camera",
        "mjpeg      640x480      30 15 10",
        "rgb        640x480      30 15 10",
    ] {
        assert!(listed.contains(part), "{part:?} is missing in:\n{listed}");
    }
    let output = front.daemon.folder.path().join("shot.jpg");
    let shoot = |arguments: &[&str]| {
        let shot = front.daemon.kithd(
            ["camera", "snapshot", "-o", output.to_str().unwrap()]
                .iter()
                .chain(arguments),
        );
        (shot.status.success(), text(&shot))
    };
    for arguments in [
        &[][..],
        &["--camera", "front"],
        &["--device", "/dev/video77"],
    ] {
        let (done, said) = shoot(arguments);
        assert!(
            done && said.contains("shot.jpg: 640x480"),
            "{arguments:?}: {said}"
        );
        assert_eq!(image::open(&output).unwrap().into_rgb8().dimensions(), SIZE);
        std::fs::remove_file(&output).unwrap();
    }
    let (done, said) = shoot(&["--camera", "back"]);
    assert!(
        !done
            && said
                .contains("no [[camera]] named \"back\" in the configuration; named there: front"),
        "{said}"
    );
    let (done, said) = shoot(&["--device", "/dev/video78"]);
    assert!(
        !done && said.contains("/dev/video78 does not exist or is not a camera"),
        "{said}"
    );
    for (word, wanted) in [
        ("busy", "/dev/video77 is in use by another program"),
        ("denied", "it has to be in the group video"),
        ("gone", "unplugged: /dev/video77 is not there"),
    ] {
        front.tell(&format!("{word} still"));
        let (done, said) = shoot(&[]);
        assert!(!done && said.contains(wanted), "{word}: {said}");
        assert!(!output.exists());
    }
    front.tell("play still");
    let mut front = front;
    let section = "[{name = \"front\", device = \"/dev/video77\", resolution = \"1280x720\", every = \"1s\"}]";
    front.daemon.set("camera", section);
    let said = text(&front.daemon.kithd(["camera", "snapshot"]));
    let wanted =
        "/dev/video77 does not offer 1280x720 in mjpeg; it offers mjpeg: 640x480; rgb: 640x480";
    assert!(said.contains(wanted), "{said}");
    front.tell("gone still");
    assert!(text(&front.daemon.kithd(["camera", "list"])).contains("No camera was found"));
}
