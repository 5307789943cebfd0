//! Cameras of the network as streams: a real RTSP server that asks for a login, and the system's
//! ffmpeg. Servers that end, stall and refuse.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use image::ImageFormat;
use serde_json::Value;
use tempfile::TempDir;

use crate::broker::Mosquitto;
use crate::camera_programs::{Board, are_gone, program_of, shown_by_processes, signal};
use crate::support::{Subscriber, part_is_ok, photo, text, wait_for};

/// Folder with clips, which a run of the tests makes once: two photographs in turn, a second each,
/// for two minutes.
static CLIPS: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let fit = "scale=640:480:force_original_aspect_ratio=decrease,pad=640:480,setsar=1";
    let filter = format!("[0]{fit}[a];[1]{fit}[b];[a][b]concat=n=2,fps=10");
    for (codec, encoder) in [("h264", "libx264"), ("h265", "libx265")] {
        let (once, long) = (
            folder.path().join("once.mkv"),
            folder.path().join(codec).with_extension("mkv"),
        );
        ffmpeg(&[
            "-loop 1 -t 1 -i",
            photo("obama_2.jpg").to_str().unwrap(),
            "-loop 1 -t 1 -i",
            photo("biden_2.jpg").to_str().unwrap(),
            "-filter_complex",
            &filter,
            "-preset ultrafast -pix_fmt yuv420p -bf 0 -g 5 -x265-params log-level=none -c:v",
            encoder,
            once.to_str().unwrap(),
        ]);
        ffmpeg(&[
            "-stream_loop 60 -i",
            once.to_str().unwrap(),
            "-c copy",
            long.to_str().unwrap(),
        ]);
    }
    folder
});

/// Runs ffmpeg to make a clip.
fn ffmpeg(arguments: &[&str]) {
    let arguments = arguments.iter().flat_map(|some| some.split(' '));
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

fn clip(codec: &str) -> PathBuf {
    CLIPS.path().join(codec).with_extension("mkv")
}

/// An RTSP server with one clip as `/live`; killed when dropped.
struct Rtsp {
    clip: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Rtsp {
    fn start(clip: PathBuf, password: &str) -> Self {
        let mut server = Self {
            clip,
            port: 0,
            process: None,
        };
        server.run(password);
        server
    }

    /// Starts it, on the port that it had.
    fn run(&mut self, password: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rtsp_server.py");
        // Debian's own, which has its GStreamer.
        let mut process = Command::new("/usr/bin/python3")
            .arg(script)
            .arg(self.port.to_string())
            .arg(format!("/live={}", self.clip.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut login = process.stdin.take().unwrap();
        writeln!(login, "cam {password}").unwrap();
        let mut said = String::new();
        let stdout = process.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut said).unwrap();
        self.port = said.trim().parse().expect("the server does not listen");
        self.process = Some(process);
    }

    fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn url(&self) -> String {
        format!("rtsp://127.0.0.1:{}/live", self.port)
    }
}

impl Drop for Rtsp {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A board with a camera of this server that takes a picture every 250 ms; the password is in the
/// board's file `password`.
fn front(server: &Rtsp, password: &str, lines: &str) -> Board {
    let mut board = Board::new();
    let file = board.file("password");
    fs::write(&file, format!("{password}\n")).unwrap();
    let (url, file) = (server.url(), file.display().to_string());
    board.daemon.configuration(&format!(
        "[[camera]]\nname = \"front\"\nurl = \"{url}\"\nusername = \"cam\"\n\
         password_file = \"{file}\"\nevery = \"250ms\"\nburst = 1\nstall_after = \"1s\"\n{lines}\n"
    ));
    board.daemon.set("models.pack", "\"/nowhere/pack\"");
    board
}

/// Names of the people in results, in order, each once.
fn people(results: &[Value]) -> Vec<&str> {
    let faces = results
        .iter()
        .filter_map(|result| result["faces"].as_array())
        .flatten();
    let mut names: Vec<_> = faces
        .filter_map(|face| face["person"]["name"].as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Waits until these people were told, with the camera's name.
fn wait_for_people(results: &mut Subscriber, expected: &[&str]) {
    wait_for("the people", || {
        let results: Vec<Value> = results
            .messages()
            .iter()
            .map(|message| serde_json::from_str(message["payload"].as_str().unwrap()).unwrap())
            .collect();
        for result in &results {
            assert_eq!(result["camera"], "front", "{result}");
        }
        (people(&results) == expected).then_some(())
    });
}

#[test]
fn people_in_a_stream_are_named_and_its_password_is_nowhere() {
    let secret = "pw-h264-81cd";
    let server = Rtsp::start(clip("h264"), secret);
    let broker = Mosquitto::running();
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let mut board = Board::new();
    // In the address, as most people write it.
    let url = server.url().replace("://", &format!("://cam:{secret}@"));
    board.daemon.configuration(&format!(
        "[[camera]]\nname = \"front\"\nurl = \"{url}?key={secret}\"\nevery = \"300ms\"\nburst = 1\n"
    ));
    board.daemon.set("mqtt.enabled", "true");
    let port = broker.port();
    board
        .daemon
        .set("mqtt.url", &format!("mqtt://127.0.0.1:{port}"));
    board.daemon.set("log.level", "debug");
    board.daemon.start_with_everybody();
    wait_for_people(&mut results, &["Barack Obama", "Joe Biden"]);
    let started = board.started("front");
    let mut programs: Vec<_> = started.iter().map(|pid| program_of(*pid)).collect();
    programs.sort();
    // The shell ends it with the camera process.
    assert_eq!(programs, ["ffmpeg", "sh"]);
    assert_eq!(shown_by_processes(secret), Vec::<String>::new());
    for path in ["/v1/status", "/v1/images", "/", "/metrics"] {
        assert!(!board.daemon.get_text(path).contains(secret), "{path}");
    }
    let log = board.daemon.log();
    assert!(!log.contains(secret), "{log}");
    let sends = format!("rtsp://127.0.0.1:{} sends 640x480 in h264", server.port);
    assert!(log.contains(&sends), "{log}");
    // It is told in trouble neither.
    drop(server);
    board.says("front", "degraded", "tried again in");
    board.says(
        "front",
        "degraded",
        "refused: nothing listens at rtsp://127.0.0.1:",
    );
    assert!(!board.daemon.get_text("/v1/status").contains(secret));
    let log = board.daemon.log();
    assert!(!log.contains(secret), "{log}");
    let doctor = text(&board.daemon.kithd(["doctor"]));
    assert!(
        doctor.contains("refused: ") && !doctor.contains(secret),
        "{doctor}"
    );
}

#[test]
fn key_frames_of_h265_are_enough_to_name_people() {
    let server = Rtsp::start(clip("h265"), "pw-h265");
    let broker = Mosquitto::running();
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let mut board = front(&server, "pw-h265", "key_frames = true");
    board.daemon.unset("models.pack");
    board.daemon.set("mqtt.enabled", "true");
    let port = broker.port();
    board
        .daemon
        .set("mqtt.url", &format!("mqtt://127.0.0.1:{port}"));
    board.daemon.start_with_everybody();
    wait_for_people(&mut results, &["Barack Obama", "Joe Biden"]);
    let log = board.daemon.log();
    assert!(log.contains("sends 640x480 in hevc"), "{log}");
}

#[test]
fn a_singer_is_named_in_a_clip_of_the_television() {
    let clips = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/video");
    if !clips.is_dir() {
        println!("not run: the clips are not beside the repository");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("h264.mkv");
    ffmpeg(&[
        "-ss 2.4 -t 4.6 -i",
        clips.join("hamilton.mp4").to_str().unwrap(),
        "-an -preset ultrafast -bf 0 -g 30 -c:v libx264",
        long.to_str().unwrap(),
    ]);
    let server = Rtsp::start(long, "pw-clip");
    let broker = Mosquitto::running();
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let mut board = front(&server, "pw-clip", "");
    board.daemon.unset("models.pack");
    board.daemon.set("mqtt.enabled", "true");
    let port = broker.port();
    board
        .daemon
        .set("mqtt.url", &format!("mqtt://127.0.0.1:{port}"));
    let (name, portrait) = ("Lin-Manuel Miranda", "lin_manuel_miranda.png");
    let known = board.file("known");
    fs::create_dir_all(known.join(name)).unwrap();
    fs::copy(clips.join(portrait), known.join(name).join(portrait)).unwrap();
    let enrolled = board
        .daemon
        .kithd(["enroll", "--folder", known.to_str().unwrap()]);
    assert!(enrolled.status.success(), "{}", text(&enrolled));
    board.daemon.start();
    part_is_ok(&board.daemon, "engine");
    wait_for_people(&mut results, &[name]);
}

#[test]
fn a_stream_that_ends_or_stalls_is_taken_up_again() {
    let mut server = Rtsp::start(clip("h264"), "pw");
    let mut board = front(&server, "pw", "");
    board.daemon.start();
    board.more_pictures("front", 2);
    signal("-STOP", server.pid());
    board.says(
        "front",
        "degraded",
        "stalled: no frame came for 1s, the camera process was killed; tried again in 1 s",
    );
    signal("-CONT", server.pid());
    board.says("front", "ok", "taken");
    board.more_pictures("front", 2);
    server.kill();
    board.says("front", "degraded", "the stream ended");
    board.says(
        "front",
        "degraded",
        "refused: nothing listens at rtsp://127.0.0.1:",
    );
    server.run("pw");
    board.says("front", "ok", "taken");
    board.more_pictures("front", 2);
    assert!(
        board
            .daemon
            .log()
            .contains("camera front: frames come again")
    );
}

#[test]
fn a_changed_password_is_named_and_read_anew() {
    let mut server = Rtsp::start(clip("h264"), "first-pw");
    let mut board = front(&server, "first-pw", "");
    board.daemon.start();
    board.more_pictures("front", 1);
    server.kill();
    server.run("second-pw");
    board.says(
        "front",
        "degraded",
        "wants another user or password; check username and password_file",
    );
    let said = board.says("front", "degraded", "unauthorised: rtsp://127.0.0.1:");
    assert!(!said.contains("first-pw"), "{said}");
    // Cameras lock accounts.
    assert!(
        said.ends_with("; tried again in 60 s, or when its password changes"),
        "{said}"
    );
    assert_eq!(board.trouble("front"), "unauthorised");
    let begun = Instant::now();
    fs::write(board.file("password"), "second-pw").unwrap();
    board.says("front", "ok", "taken");
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(45), "after {waited:?}");
    board.more_pictures("front", 1);
    assert_eq!(board.trouble("front"), "none");
}

#[test]
fn one_cameras_death_changes_no_other_ones_figures() {
    let mut dying = Rtsp::start(clip("h264"), "pw");
    let other = Rtsp::start(clip("h264"), "pw");
    let password = tempfile::NamedTempFile::new().unwrap();
    fs::write(&password, "pw\n").unwrap();
    // Slow enough for any machine to keep up.
    let yard = format!(
        "[[camera]]\nname = \"yard\"\nurl = \"{}\"\nusername = \"cam\"\npassword_file = \"{}\"\n\
         rate = 2\nevery = \"1s\"\nburst = 1\n",
        other.url(),
        password.path().display()
    );
    let mut board = front(&dying, "pw", &yard);
    board.daemon.start();
    board.more_pictures("front", 1);
    board.more_pictures("yard", 1);
    let processes = |board: &Board| (board.process("yard"), board.started("yard"));
    let before = processes(&board);
    let mut frames = 0;
    // The other camera goes on as if nothing had happened.
    let mut goes_on = |board: &Board, when: &str| {
        wait_for("frames of the other camera", || {
            let now = board.metric("yard", "frames_total");
            (now >= frames + 4).then(|| frames = now)
        });
        board.more_pictures("yard", 1);
        for count in [
            "frames_broken_total",
            "frames_dropped_total",
            "restarts_total",
        ] {
            assert_eq!(board.metric("yard", count), 0, "{count}, {when}");
        }
        assert_eq!(board.trouble("yard"), "none", "{when}");
        assert_eq!(processes(board), before, "{when}");
    };
    goes_on(&board, "before");

    let ffmpeg = |board: &Board| {
        let mut started = board.started("front").into_iter();
        started.find(|pid| program_of(*pid) == "ffmpeg")
    };
    signal("-KILL", wait_for("ffmpeg", || ffmpeg(&board)));
    board.says("front", "degraded", "the stream ended");
    goes_on(&board, "the producer killed");
    board.says("front", "ok", "taken");

    signal("-STOP", dying.pid());
    board.says("front", "degraded", "stalled");
    goes_on(&board, "the server stopped");
    signal("-CONT", dying.pid());
    board.says("front", "ok", "taken");

    signal("-KILL", board.process("front").unwrap());
    board.says("front", "degraded", "ended by signal 9");
    goes_on(&board, "the camera process killed");

    dying.kill();
    board.says("front", "degraded", "refused");
    assert_eq!(board.trouble("front"), "refused");
    goes_on(&board, "the server gone");

    assert!(board.metric("front", "restarts_total") >= 3);
    // A part that is degraded for a moment is in the log.
    let log = board.daemon.log();
    let warned: Vec<_> = log
        .lines()
        .filter(|line| line.contains("camera yard: ") && !line.contains(" INFO "))
        .collect();
    assert!(warned.is_empty(), "{warned:#?}");
}

#[test]
fn no_ffmpeg_outlives_its_camera_or_daemon() {
    let server = Rtsp::start(clip("h264"), "pw");
    let mut board = front(&server, "pw", "");
    board.daemon.start();
    board.more_pictures("front", 1);
    let ffmpeg = |board: &Board| {
        wait_for("ffmpeg", || {
            let mut started = board.started("front").into_iter();
            started.find(|pid| program_of(*pid) == "ffmpeg")
        })
    };
    let first = ffmpeg(&board);
    signal("-KILL", first);
    board.says("front", "degraded", "the stream ended; tried again in 1 s");
    board.says("front", "ok", "taken");
    board.more_pictures("front", 1);

    let second = ffmpeg(&board);
    signal("-KILL", board.process("front").unwrap());
    are_gone(&[second]);
    board.says("front", "ok", "taken");
    board.more_pictures("front", 1);

    // One that hangs: it notices no closed pipe.
    let third = ffmpeg(&board);
    signal("-STOP", third);
    let process = board.process("front").unwrap();
    board.daemon.kill();
    are_gone(&[third, process]);

    board.daemon.start();
    board.more_pictures("front", 1);
    let last = ffmpeg(&board);
    assert_eq!(board.daemon.stop(), Some(0));
    are_gone(&[last]);
}

/// A listener that answers every connection with these bytes.
fn answers(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(bytes);
        }
    });
    port
}

#[test]
fn a_wrong_address_is_named_by_daemon_doctor_and_snapshot() {
    let server = Rtsp::start(clip("h264"), "pw-wrong-77");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let nothing = closed.local_addr().unwrap().port();
    drop(closed);
    let good = server.url().replace("://", "://cam:pw-wrong-77@");
    let cases = [
        (
            "path",
            good.replace("/live", "/other"),
            "not a stream: rtsp://127.0.0.1:",
        ),
        (
            "host",
            "rtsp://cam:pw-wrong-77@camera.invalid/live".into(),
            "name not found: nothing is known of the host of rtsp://camera.invalid",
        ),
        (
            "port",
            format!("rtsp://cam:pw-wrong-77@127.0.0.1:{nothing}/live"),
            "refused: nothing listens at rtsp://127.0.0.1:",
        ),
        (
            "web",
            format!(
                "rtsp://cam:pw-wrong-77@127.0.0.1:{}/live",
                answers(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            ),
            "not a stream: rtsp://127.0.0.1:",
        ),
        (
            "shell",
            format!(
                "rtsp://cam:pw-wrong-77@127.0.0.1:{}/live",
                answers(b"SSH-2.0-OpenSSH_9.2p1\r\n")
            ),
            "not a stream: rtsp://127.0.0.1:",
        ),
        (
            "login",
            good.replace("pw-wrong-77", "pw-wrong-78"),
            "unauthorised: rtsp://127.0.0.1:",
        ),
    ];
    let mut board = Board::new();
    let sections: String = cases
        .iter()
        .map(|(name, url, _)| {
            format!("[[camera]]\nname = \"{name}\"\nurl = \"{url}\"\nevery = \"1h\"\n")
        })
        .collect();
    board.daemon.configuration(&sections);
    board.daemon.set("models.pack", "\"/nowhere/pack\"");
    board.daemon.start();
    for (name, _, words) in &cases {
        let said = board.says(name, "degraded", words);
        assert!(said.starts_with(words), "{name}: {said}");
    }
    let log = board.daemon.log();
    assert!(!log.contains("pw-wrong"), "{log}");
    let doctor = text(&board.daemon.kithd(["doctor"]));
    for (name, _, words) in &cases {
        assert!(doctor.contains(words), "{name}: {words} in:\n{doctor}");
    }
    board.daemon.kill();
    for (name, url, words) in &cases {
        let shot = board.file("shot.jpg");
        let arguments = [
            "camera",
            "snapshot",
            "--url",
            url,
            "-o",
            shot.to_str().unwrap(),
        ];
        let output = board.daemon.kithd(arguments);
        let said = text(&output);
        assert!(
            !output.status.success() && said.contains(words) && !said.contains("pw-wrong"),
            "{name}: {said}"
        );
        assert!(!shot.exists());
    }
    // The server is still there.
    assert!(TcpStream::connect(("127.0.0.1", server.port)).is_ok());
}

#[test]
fn snapshot_and_try_say_what_a_stream_is() {
    let server = Rtsp::start(clip("h265"), "pw-try-31");
    let board = Board::new();
    let (password, shot) = (board.file("password"), board.file("shot.jpg"));
    fs::write(&password, "pw-try-31\n").unwrap();
    let (password, place) = (password.to_str().unwrap(), shot.to_str().unwrap());
    let url = server.url();
    let login = ["--username", "cam", "--password-file", password];
    let kithd = |arguments: &[&str]| {
        let output = board.daemon.kithd([arguments, &login].concat());
        let said = text(&output);
        assert!(
            output.status.success() && !said.contains("pw-try-31"),
            "{said}"
        );
        said
    };
    let said = kithd(&["camera", "snapshot", "--url", &url, "-o", place]);
    let port = server.port;
    assert!(
        said.contains("shot.jpg: 640x480, ") && said.contains(&format!("rtsp://127.0.0.1:{port}")),
        "{said}"
    );
    let bytes = fs::read(&shot).unwrap();
    assert!(image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg).is_ok());

    let said = kithd(&["camera", "try", &url, "--seconds", "3"]);
    let value = |name: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in:\n{said}"));
        line.trim().to_string()
    };
    assert_eq!(
        (value("size"), value("codec")),
        ("640x480".into(), "hevc".into())
    );
    let number = |text: String| {
        let digits: String = text
            .chars()
            .filter(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        digits.parse::<f64>().unwrap()
    };
    let rate = number(value("rate"));
    assert!((7.0..=13.0).contains(&rate), "{said}");
    assert!(number(value("processor")) < 200.0, "{said}");
    let latency = value("latency");
    assert!(latency.ends_with("to the first frame"), "{said}");
    assert!(number(latency) < 10.0, "{said}");
}
