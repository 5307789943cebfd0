//! Cameras read by programs: rpicam-vid, GStreamer and programs of the operator, which may do
//! anything. Stand-ins take the place of rpicam-vid and of what only a Jetson has.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

use crate::metrics::check;
use crate::support::{TestDaemon, photo, text, wait_for};

/// A board with cameras. Programs may write to its folder `out`.
pub struct Board {
    pub daemon: TestDaemon,
}

impl Board {
    pub fn new() -> Self {
        let board = Self {
            daemon: TestDaemon::new(),
        };
        fs::create_dir(board.file("out")).unwrap();
        fs::create_dir(board.file("bin")).unwrap();
        board
    }

    /// A path in the folder of the test.
    pub fn file(&self, name: &str) -> PathBuf {
        self.daemon.folder.path().join(name)
    }

    /// Makes a program of the board's own, in `bin`; it runs in the test's folder.
    pub fn program(&self, name: &str, script: &str) -> PathBuf {
        let file = self.file("bin").join(name);
        let here = self.daemon.folder.path().display();
        fs::write(&file, format!("#!/bin/sh\ncd {here}\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&file, mode).unwrap();
        file
    }

    pub fn part(&self, camera: &str) -> Value {
        self.daemon.get("/v1/status")["parts"][format!("camera {camera}")].clone()
    }

    /// Waits until the camera's part has that condition and contains these words.
    pub fn says(&self, camera: &str, condition: &str, words: &str) -> String {
        let mut last = Value::Null;
        let begun = Instant::now();
        loop {
            let part = self.part(camera);
            let said = part["text"].as_str().unwrap_or_default();
            if part["condition"] == condition && said.contains(words) {
                return said.into();
            }
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{camera} says {last} and {part}, not {condition}: {words}"
            );
            if part["condition"] == "degraded" {
                last = part.clone();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Value of a metric of a camera.
    pub fn metric(&self, camera: &str, name: &str) -> u64 {
        let start = format!("kithd_camera_{name}{{camera=\"{camera}\"");
        let metrics = self.daemon.get_text("/metrics");
        let line = metrics.lines().find(|line| line.starts_with(&start));
        let value = line.and_then(|line| line.rsplit(' ').next());
        let value = value.unwrap_or_else(|| panic!("no {start} in {metrics}"));
        value.parse().unwrap()
    }

    /// Name of the trouble that the metrics tell of a camera.
    pub fn trouble(&self, camera: &str) -> String {
        let start = format!("kithd_camera_trouble{{camera=\"{camera}\",trouble=\"");
        let metrics = self.daemon.get_text("/metrics");
        let mut lines = metrics.lines();
        let trouble = lines.find_map(|line| line.strip_prefix(&start)?.strip_suffix("\"} 1"));
        trouble.unwrap_or_default().into()
    }

    /// Number of pictures of a camera.
    pub fn pictures(&self, camera: &str) -> usize {
        let query = format!("select count(*) from images where camera = '{camera}'");
        self.daemon.sql(&query)[0].parse().unwrap()
    }

    /// Waits for so many more pictures of a camera.
    pub fn more_pictures(&self, camera: &str, more: usize) {
        let before = self.pictures(camera);
        wait_for(&format!("{more} pictures of {camera}"), || {
            (self.pictures(camera) >= before + more).then_some(())
        });
    }

    /// The process of a camera, if it runs.
    pub fn process(&self, camera: &str) -> Option<u32> {
        let wanted = format!("\0camera\0run\0--name\0{camera}\0");
        let daemon = self.daemon.pid().to_string();
        processes().into_iter().find(|pid| {
            stat(*pid).is_some_and(|stat| stat[1] == daemon)
                && fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|command| command.contains(&wanted))
        })
    }

    /// The processes that a camera has started.
    pub fn started(&self, camera: &str) -> Vec<u32> {
        let group = wait_for("the camera process", || self.process(camera));
        let (number, all) = (group.to_string(), processes());
        let of_group = |pid: &u32| stat(*pid).is_some_and(|stat| stat[2] == number);
        all.into_iter()
            .filter(|pid| *pid != group && of_group(pid))
            .collect()
    }
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The fields of a process after its name: state, parent, group, session, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(String::from).collect())
}

fn own_session() -> String {
    stat(std::process::id()).unwrap()[3].clone()
}

/// Name of the program of a process.
pub fn program_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().into()
}

/// Returns true while a process runs; a zombie counts as gone.
fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat[0] != "Z")
}

pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// Waits until processes are gone.
pub fn are_gone(pids: &[u32]) {
    wait_for("the processes to be gone", || {
        pids.iter().all(|pid| !runs(*pid)).then_some(())
    });
}

/// Returns the processes in whose arguments or environment a text stands.
pub fn shown_by_processes(text: &str) -> Vec<String> {
    let mut shown = Vec::new();
    for pid in processes() {
        for place in ["cmdline", "environ"] {
            let bytes = fs::read(format!("/proc/{pid}/{place}")).unwrap_or_default();
            if String::from_utf8_lossy(&bytes).contains(text) {
                shown.push(format!("/proc/{pid}/{place} of {}", program_of(pid)));
            }
        }
    }
    shown
}

/// Most memory that a process has had, in MiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024)
}

fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 80)
        .encode_image(picture)
        .unwrap();
    bytes
}

/// A small frame without a face.
fn frame() -> Vec<u8> {
    jpeg(&RgbImage::from_fn(160, 120, |x, y| {
        Rgb([x as u8, y as u8, (x ^ y) as u8])
    }))
}

/// Returns where in a JPEG the segment with this marker begins.
fn segment(jpeg: &[u8], marker: u8) -> usize {
    jpeg.windows(2)
        .position(|two| two == [0xFF, marker])
        .unwrap()
}

/// Sections of cameras that run these programs of the board.
fn sections(programs: &[(&str, PathBuf)], lines: &str) -> String {
    programs
        .iter()
        .map(|(name, program)| {
            let program = program.display();
            format!("[[camera]]\nname = \"{name}\"\ncommand = [\"{program}\"]\n{lines}\n")
        })
        .collect()
}

#[test]
fn no_bad_program_changes_another_cameras_figures() {
    let mut board = Board::new();
    let good = frame();
    fs::write(board.file("a.jpg"), &good).unwrap();
    fs::write(board.file("half.jpg"), &good[..good.len() / 2]).unwrap();
    let mut bomb = good.clone();
    let size = segment(&bomb, 0xC0) + 5;
    bomb[size..size + 4].copy_from_slice(&[0xFD, 0xE8, 0xFD, 0xE8]);
    fs::write(board.file("bomb.jpg"), &bomb).unwrap();
    let scan = segment(&good, 0xDA) + 20;
    fs::write(board.file("begun.jpg"), &good[..scan]).unwrap();
    let mut segments = b"\xFF\xE1\xFF\xFF".to_vec();
    segments.resize(2 + 0xFFFF, 0);
    fs::write(board.file("segments"), segments.repeat(16)).unwrap();
    fs::write(board.file("video"), b"\0\0\0\x01\x67\x42\0\x1f".repeat(200)).unwrap();
    let program = |name: &'static str, script: &str| (name, board.program(name, script));
    let programs = [
        program("good", "while :; do cat a.jpg; sleep 0.1; done"),
        program("mixed", "while :; do cat half.jpg a.jpg; sleep 0.1; done"),
        program("ends", "cat a.jpg"),
        program("fails", "echo the lamp is broken >&2; exit 3"),
        program("killed", "cat a.jpg; kill -9 $$"),
        program("garbage", "printf '\\351'; tr '\\377' x </dev/urandom"),
        program(
            "endless",
            "while :; do cat begun.jpg; head -c 100000000 /dev/zero; done",
        ),
        program(
            "header",
            "printf '\\377\\330'; while :; do cat segments; done",
        ),
        program("bomb", "while :; do cat bomb.jpg; sleep 0.1; done"),
        program("page", "echo '<html><h1>401 Unauthorized</h1></html>'"),
        program("video", "cat video"),
        program("flood", "exec yes"),
        program("hangs", "cat a.jpg; sleep 1000"),
        program("absent", ""),
    ];
    fs::remove_file(&programs[13].1).unwrap();
    let lines = "every = \"250ms\"\nburst = 1\nstall_after = \"1s\"";
    let sections = sections(&programs, lines);
    board.daemon.configuration(&sections);
    board.daemon.set("models.pack", "\"/nowhere/pack\"");
    board.daemon.start();
    board.says("good", "ok", "taken");
    let process = board.process("good").unwrap();
    let mut peaks = [("endless", 0), ("header", 0), ("flood", 0), ("bomb", 0)];
    let absent = format!(
        "program not installed: {} is not there",
        programs[13].1.display()
    );
    let expected = [
        ("ends", "the stream ended"),
        ("fails", "the stream ended: the lamp is broken"),
        ("killed", "the stream ended"),
        ("garbage", "not a stream: something else than JPEGs came"),
        (
            "endless",
            "only broken frames came for 1s, the last: the frame has more than 67108864 bytes",
        ),
        (
            "header",
            "only broken frames came for 1s, the last: the frame has more than 67108864 bytes",
        ),
        (
            "bomb",
            "only broken frames came for 1s, the last: The picture has 65000×65000 pixels, more \
             than 16 times recognition.max_pixels = 65000000",
        ),
        ("page", "not a stream: a web page came, not JPEGs"),
        (
            "video",
            "not a stream: a video stream came, not JPEGs; encode it as Motion JPEG",
        ),
        ("flood", "not a stream: \"yyyyyyyy\" came, not JPEGs"),
        (
            "hangs",
            "stalled: no frame came for 1s, the camera process was killed",
        ),
        ("absent", &absent),
    ];
    let mut left: Vec<_> = expected.to_vec();
    let mut last = Value::Null;
    let begun = Instant::now();
    while !left.is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "not said: {left:?}; at last: {last:#}"
        );
        last = board.daemon.get("/v1/status")["parts"].clone();
        left.retain(|(camera, words)| {
            let part = &last[format!("camera {camera}")];
            let said = part["text"].as_str().unwrap_or_default();
            let whole = format!("{words}; tried again in");
            part["condition"] != "degraded" || !said.starts_with(&whole)
        });
        for (camera, most) in &mut peaks {
            *most = board.process(camera).and_then(peak).unwrap_or(0).max(*most);
        }
    }
    println!(
        "all said after {:?}; MiB at most: {peaks:?}",
        begun.elapsed()
    );
    assert!(
        peaks.iter().all(|(_, most)| *most < 100),
        "MiB of camera processes: {peaks:?}"
    );
    board.says("mixed", "ok", "broken frames dropped");
    board.more_pictures("good", 4);
    let said = board.says("good", "ok", "pictures taken, the last at");
    assert!(!said.contains("broken"), "{said}");
    assert_eq!(board.process("good"), Some(process));
    for camera in ["mixed", "bomb", "header"] {
        let (frames, broken) = ["frames_total", "frames_broken_total"]
            .map(|name| board.metric(camera, name))
            .into();
        assert!(
            frames >= broken && broken > 0,
            "{camera}: {broken} of {frames}"
        );
    }
    assert!(board.metric("good", "frames_total") > 4);
    assert_eq!(board.metric("good", "frames_broken_total"), 0);
    assert_eq!(board.metric("good", "restarts_total"), 0);
    assert!(board.metric("bomb", "restarts_total") > 0);
    check(&board.daemon.get_text("/metrics"));
}

#[test]
fn a_slow_program_is_said_to_be_slow_and_a_mute_one_stalled() {
    let mut board = Board::new();
    fs::write(board.file("a.jpg"), frame()).unwrap();
    let programs = [
        (
            "slow",
            board.program("slow", "while :; do cat a.jpg; sleep 1; done"),
        ),
        ("mute", board.program("mute", "exec sleep 1000")),
    ];
    board
        .daemon
        .configuration(&sections(&programs, "every = \"1h\""));
    board.daemon.start();
    board.says("mute", "degraded", "stalled: no frame came for 10s");
    board.says(
        "slow",
        "degraded",
        "too slow for its rate: 1.0 frames a second come instead of 5; choose",
    );
}

#[test]
fn what_a_program_has_started_ends_with_its_camera() {
    let mut board = Board::new();
    fs::write(board.file("a.jpg"), frame()).unwrap();
    // A child that holds the pipe open, and others that leave the process group.
    let script = "sleep 1001 & echo $! >>out/left\n\
                  setsid sleep 1002 & echo $! >>out/left\n\
                  python3 -c 'import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(1003)' &\n\
                  cat a.jpg; sleep 0.3; echo over >>out/left";
    let programs = [("front", board.program("front", script))];
    board.daemon.configuration(&sections(
        &programs,
        "every = \"1h\"\nburst = 1\nstall_after = \"1s\"",
    ));
    board.daemon.start();
    wait_for("the program to be over", || {
        let left = fs::read_to_string(board.file("out/left")).ok()?;
        left.contains("over").then_some(())
    });
    let left = board.started("front");
    assert!(!left.is_empty());
    let process = board.process("front").unwrap();
    board.says("front", "degraded", "stalled: no frame came for 1s");
    are_gone(&left);
    are_gone(&[process]);
    // The next attempt may have begun: it has another group in the same session.
    let (group, session) = (process.to_string(), own_session());
    let strangers: Vec<_> = processes()
        .into_iter()
        .filter(|pid| {
            let here = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            here == board.daemon.folder.path()
                && runs(*pid)
                && stat(*pid).is_some_and(|stat| stat[2] == group || stat[3] != session)
        })
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
}

#[test]
fn what_a_program_has_started_ends_with_a_killed_daemon() {
    let mut board = Board::new();
    let script = "sleep 1001 & sleep 1002";
    let programs = [("front", board.program("front", script))];
    board
        .daemon
        .configuration(&sections(&programs, "every = \"1h\""));
    board.daemon.start();
    let started = wait_for("the program's children", || {
        let started = board.started("front");
        let sleeping = started.iter().filter(|pid| program_of(**pid) == "sleep");
        (sleeping.count() == 2).then_some(started)
    });
    board.daemon.kill();
    are_gone(&started);
}

#[test]
fn a_program_reads_no_secret_and_is_bounded() {
    let mut board = Board::new();
    fs::write(board.file("a.jpg"), frame()).unwrap();
    let (secret, own) = ("other-5b21-secret", "own-5b21-secret");
    fs::write(board.file("password"), secret).unwrap();
    fs::write(board.file("own-password"), own).unwrap();
    let script = "try() { if \"$@\" >/dev/null 2>&1; then echo \"yes $*\"; else echo \"no $*\"; fi; }\n\
                  camera=$PPID\n\
                  { try ls state; try cat state/token; try touch state/x; try cat kithd.toml\n\
                    try cat password; try cat own-password; try sh -c 'echo x >>kithd.toml'\n\
                    try readlink /proc/$camera/fd/0; try touch /usr/kithd-test\n\
                    try ls /usr; try cat /etc/passwd; try touch out/x\n\
                    try python3 -c 'bytearray(10 << 20)'; try python3 -c 'bytearray(200 << 20)'\n\
                    echo \"login $KITHD_CAMERA_USERNAME $KITHD_CAMERA_PASSWORD\"\n\
                    grep -E 'NoNewPrivs|Cpus_allowed:' /proc/self/status; echo over; } >out/found\n\
                  while :; do cat a.jpg; sleep 0.2; done";
    let program = board.program("front", script).display().to_string();
    let password = board.file("password").display().to_string();
    let own_password = board.file("own-password").display().to_string();
    board.daemon.configuration(&format!(
        "[[camera]]\nname = \"front\"\ncommand = [\"{program}\"]\nusername = \"me\"\n\
         password_file = \"{own_password}\"\nmemory = \"64MiB\"\nevery = \"1h\"\nburst = 1\n\
         [[camera]]\nname = \"back\"\nurl = \"rtsp://127.0.0.1:1/\"\nusername = \"me\"\n\
         password_file = \"{password}\"\nevery = \"1h\"\n"
    ));
    board.daemon.start();
    let found = wait_for("what the program found", || {
        let found = fs::read_to_string(board.file("out/found")).ok()?;
        found.contains("over").then_some(found)
    });
    for part in [
        "no ls state\n",
        "no cat state/token\n",
        "no touch state/x\n",
        "no cat kithd.toml\n",
        "no sh -c echo x >>kithd.toml\n",
        "no cat password\n",
        "no cat own-password\n",
        "no touch /usr/kithd-test\n",
        "/fd/0\n",
        "yes ls /usr\n",
        "yes cat /etc/passwd\n",
        "yes touch out/x\n",
        "yes python3 -c bytearray(10 << 20)\n",
        "no python3 -c bytearray(200 << 20)\n",
        "login me own-5b21-secret\n",
        "NoNewPrivs:\t1\n",
    ] {
        assert!(found.contains(part), "{part:?} is missing in:\n{found}");
    }
    assert!(!found.contains("yes readlink"), "{found}");
    // Bits of the cores, in groups of eight hexadecimal digits.
    let cores: u32 = found
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed:"))
        .unwrap()
        .chars()
        .filter_map(|digit| Some(digit.to_digit(16)?.count_ones()))
        .sum();
    let all = rustix::thread::sched_getaffinity(None).unwrap().count();
    assert_eq!(cores, all.div_ceil(2), "{found}");
    board.says("front", "ok", "taken");
    // Only the program itself has its login, in its environment.
    let shown = shown_by_processes(own);
    assert!(!shown.is_empty());
    for place in &shown {
        let own = ["front", "cat", "sleep", "sh"]
            .iter()
            .any(|name| place.ends_with(&format!("/environ of {name}")));
        assert!(own, "{shown:?}");
    }
    assert_eq!(shown_by_processes(secret), Vec::<String>::new());
}

#[test]
fn rpicam_vid_reads_a_camera_by_number_or_name() {
    let mut board = Board::new();
    fs::copy(photo("obama_2.jpg"), board.file("a.jpg")).unwrap();
    let list = "case $1 in --list-cameras)\n\
                  echo 'Available cameras'\n\
                  echo '0 : imx708 [4608x2592 10-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx708@1a)'\n\
                  echo '1 : ov5647 [2592x1944 10-bit GBRG] (/base/soc/i2c0mux/i2c@0/ov5647@36)'\n\
                  exit;;\nesac\n";
    let script = "echo \"$@\" >>out/arguments\nwhile :; do cat a.jpg; sleep 0.1; done";
    board.program("rpicam-vid", &format!("{list}{script}"));
    let path = format!("{}:/usr/bin:/bin", board.file("bin").display());
    board.daemon.environment("PATH", &path);
    let lines = "resolution = \"640x480\"\nrate = 10\nevery = \"1h\"\nburst = 1";
    board.daemon.configuration(&format!(
        "[[camera]]\nname = \"front\"\nlibcamera = 0\n{lines}\n\
         [[camera]]\nname = \"back\"\nlibcamera = \"ov5647\"\n{lines}\n\
         [[camera]]\nname = \"side\"\nlibcamera = \"imx219\"\n{lines}\n"
    ));
    board.daemon.enroll_everybody();
    board.daemon.start();
    board.says("front", "ok", "1 picture taken");
    board.says("back", "ok", "1 picture taken");
    let said = "name not found: libcamera knows no camera imx219";
    board.says("side", "degraded", said);
    let mut arguments: Vec<_> = fs::read_to_string(board.file("out/arguments"))
        .unwrap()
        .lines()
        .map(String::from)
        .collect();
    arguments.sort();
    arguments.dedup();
    let rest = "--width 640 --height 480 --framerate 10 --codec mjpeg --timeout 0 --nopreview \
                --flush --output -";
    assert_eq!(
        arguments,
        [format!("--camera 0 {rest}"), format!("--camera 1 {rest}")]
    );
    board.daemon.all_ended();
    let known = "select distinct camera || ' ' || outcome from images order by 1";
    assert_eq!(board.daemon.sql(known), ["back known", "front known"]);
}

#[test]
fn without_rpicam_vid_gstreamer_reads_the_cameras_of_a_board() {
    let mut board = Board::new();
    fs::write(board.file("a.jpg"), frame()).unwrap();
    let script = "PATH=/usr/bin:/bin\necho \"$@\" >>out/arguments\n\
                  case $* in *sensor-id=1*) echo 'Error generated. no cameras available' >&2; exit 1;; esac\n\
                  while :; do cat a.jpg; sleep 0.1; done";
    board.program("gst-launch-1.0", script);
    let path = board.file("bin").display().to_string();
    board.daemon.environment("PATH", &path);
    let lines = "resolution = \"640x480\"\nrate = 10\nevery = \"1h\"\nburst = 1";
    board.daemon.configuration(&format!(
        "[[camera]]\nname = \"front\"\nlibcamera = 0\n{lines}\n\
         [[camera]]\nname = \"back\"\nlibcamera = \"/base/soc/ov5647@36\"\n{lines}\n\
         [[camera]]\nname = \"jetson\"\nargus = 0\n{lines}\n\
         [[camera]]\nname = \"none\"\nargus = 1\n{lines}\n"
    ));
    board.daemon.start();
    for camera in ["front", "back", "jetson"] {
        board.says(camera, "ok", "1 picture taken");
    }
    board.says(
        "none",
        "degraded",
        "name not found: there is no camera argus 1 on this board",
    );
    let arguments = fs::read_to_string(board.file("out/arguments")).unwrap();
    let raw = "! video/x-raw,width=640,height=480,framerate=10/1 ! queue max-size-buffers=2 \
               leaky=downstream ! videoconvert ! jpegenc ! fdsink fd=1 sync=false\n";
    for line in [
        format!("-q libcamerasrc {raw}"),
        format!("-q libcamerasrc camera-name=/base/soc/ov5647@36 {raw}"),
        "-q nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=640,height=480,\
         framerate=10/1 ! nvjpegenc ! fdsink fd=1 sync=false\n"
            .into(),
    ] {
        assert!(arguments.contains(&line), "{line:?} in:\n{arguments}");
    }
}

#[test]
fn a_missing_program_or_element_is_said_with_its_package() {
    let cameras = "[[camera]]\nname = \"pi\"\nlibcamera = 0\nevery = \"1h\"\n\
                   [[camera]]\nname = \"jetson\"\nargus = 0\nevery = \"1h\"\n\
                   [[camera]]\nname = \"lan\"\nurl = \"rtsp://127.0.0.1:1/\"\nevery = \"1h\"\n";
    let mut board = Board::new();
    board.daemon.configuration(cameras);
    let nothing = board.file("bin").display().to_string();
    board.daemon.environment("PATH", &nothing);
    board.daemon.start();
    let pi = board.says("pi", "degraded", "program not installed: ");
    assert!(
        pi.contains("sudo apt install rpicam-apps")
            && pi.contains("sudo apt install gstreamer1.0-libcamera gstreamer1.0-plugins-good"),
        "{pi}"
    );
    for (camera, words) in [
        (
            "jetson",
            "program not installed: gst-launch-1.0 is missing: sudo apt install gstreamer1.0-tools",
        ),
        (
            "lan",
            "program not installed: ffmpeg is missing: sudo apt install ffmpeg",
        ),
    ] {
        board.says(camera, "degraded", words);
    }

    // The real GStreamer of Debian, which has no element of a Jetson.
    let mut board = Board::new();
    board.daemon.configuration(cameras);
    board.daemon.start();
    board.says(
        "jetson",
        "degraded",
        "program not installed: GStreamer has no nvarguscamerasrc: it comes with NVIDIA's JetPack",
    );
    let output = board.daemon.kithd(["doctor"]);
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("program not installed: GStreamer has no nvarguscamerasrc"),
        "{said}"
    );
}

#[test]
fn a_snapshot_is_taken_with_a_program() {
    let mut board = Board::new();
    fs::write(board.file("a.jpg"), frame()).unwrap();
    let script = "while :; do cat a.jpg; sleep 0.1; done";
    let mut programs = vec![("front", board.program("front", script))];
    programs.push(("back", board.program("back", "echo '<html>'")));
    board
        .daemon
        .configuration(&sections(&programs, "every = \"1h\""));
    let shot = board.file("shot.jpg");
    let snapshot = |camera: &str| {
        let place = shot.to_str().unwrap();
        let arguments = ["camera", "snapshot", "--camera", camera, "-o", place];
        text(&board.daemon.kithd(arguments))
    };
    let said = snapshot("front");
    assert!(said.contains("shot.jpg: 160x120, "), "{said}");
    let bytes = fs::read(&shot).unwrap();
    assert!(image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg).is_ok());
    let said = snapshot("back");
    assert!(
        said.contains("kithd: not a stream: a web page came, not JPEGs"),
        "{said}"
    );
    let said = text(
        &board
            .daemon
            .kithd(["camera", "try", "front", "--seconds", "2"]),
    );
    for part in ["size              160x120", "codec             mjpeg"] {
        assert!(said.contains(part), "{part:?} in:\n{said}");
    }
}
