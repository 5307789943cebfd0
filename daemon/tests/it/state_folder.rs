//! A state folder that its disk or another program takes away: reported once and without a path,
//! and refused until it is back.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{TestDaemon, mount_memory, part_is_ok, photo, wait_for, with_own_mounts};

fn upload(daemon: &TestDaemon) -> (u16, Value) {
    let bytes = std::fs::read(photo("noface.jpg")).unwrap();
    daemon.post("/v1/images", &[("content-type", "image/jpeg")], &bytes)
}

fn path(daemon: &TestDaemon) -> (u16, Value) {
    let path = daemon.folder.path().join("inbox/a.jpg");
    daemon.post(
        "/image/post",
        &[],
        json!({ "path": path }).to_string().as_bytes(),
    )
}

fn intake(daemon: &TestDaemon) -> (String, String) {
    let part = daemon.get("/v1/status")["parts"]["intake"].clone();
    (
        part["condition"].as_str().unwrap().into(),
        part["text"].as_str().unwrap().into(),
    )
}

/// A way a picture comes in.
type Way = fn(&TestDaemon) -> (u16, Value);

/// Checks that pictures are refused in the same words the whole time, with one line in the log.
fn refused(daemon: &mut TestDaemon, why: &str, ways: &[Way]) {
    let begun = Instant::now();
    let mut texts = Vec::new();
    // Longer than the board takes to look by itself.
    while begun.elapsed() < Duration::from_secs(6) {
        for way in ways {
            let (status, answer) = way(daemon);
            let detail = answer["detail"].as_str().unwrap();
            assert!(status == 503 && detail.contains(why), "{status} {answer}");
            assert!(
                !detail.contains("spool") && !detail.contains("/tmp"),
                "it tells a path: {detail}"
            );
        }
        let (condition, text) = intake(daemon);
        assert_eq!(condition, "degraded", "{text}");
        texts.push(text);
        std::thread::sleep(Duration::from_millis(100));
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    let log = daemon.log();
    assert_eq!(log.matches("not accepting pictures").count(), 1, "{log}");
}

fn accepts_again(daemon: &TestDaemon) {
    wait_for("pictures to be accepted", || {
        (intake(daemon).0 == "ok").then_some(())
    });
    assert_eq!((upload(daemon).0, path(daemon).0), (202, 202));
}

#[test]
fn a_state_folder_moved_away_takes_nothing_until_it_is_back() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    assert_eq!(upload(&daemon).0, 202);
    let (state, away) = (
        daemon.folder.path().join("state"),
        daemon.folder.path().join("away"),
    );
    std::fs::rename(&state, &away).unwrap();
    refused(&mut daemon, "deleted or replaced", &[upload, path]);
    std::fs::rename(&away, &state).unwrap();
    accepts_again(&daemon);
}

#[test]
fn a_database_that_is_replaced_ends_the_daemon_for_a_new_start() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let database = daemon.state("kithd.db");
    std::fs::copy(&database, daemon.folder.path().join("copy")).unwrap();
    std::fs::rename(daemon.folder.path().join("copy"), &database).unwrap();
    let status = format!("/proc/{}/stat", daemon.pid());
    wait_for("the daemon to end", || {
        std::fs::read_to_string(&status)
            .ok()
            .is_none_or(|line| line.contains(") Z "))
            .then_some(())
    });
    wait_for("the reason", || {
        daemon
            .log()
            .contains("another database lies in the state folder")
            .then_some(())
    });
    daemon.kill();
    daemon.start();
    assert_eq!(upload(&daemon).0, 202);
}

#[test]
fn a_disk_that_turns_read_only_is_said_once_without_a_path() {
    if !with_own_mounts("state_folder::a_disk_that_turns_read_only_is_said_once_without_a_path") {
        return;
    }
    let mut daemon = TestDaemon::new();
    daemon.start();
    assert_eq!(upload(&daemon).0, 202);
    let spool = daemon.state("spool");
    let done = |command: &mut Command| assert!(command.status().unwrap().success());
    done(
        Command::new("mount")
            .args(["-t", "tmpfs", "-o", "ro", "tmpfs"])
            .arg(&spool),
    );
    refused(&mut daemon, "is read-only", &[upload]);
    done(Command::new("umount").arg(&spool));
    accepts_again(&daemon);
}

#[test]
fn without_a_reserve_the_disk_keeps_room_for_what_was_accepted() {
    if !with_own_mounts("state_folder::without_a_reserve_the_disk_keeps_room_for_what_was_accepted")
    {
        return;
    }
    let mut daemon = TestDaemon::new();
    mount_memory(&daemon.folder.path().join("state"), "24m");
    daemon.set("intake.disk_reserve", "0B");
    // Files leave once the self-test has vouched for their results.
    daemon.set("breaker.self_test", "1s");
    daemon.start();
    part_is_ok(&daemon, "engine");
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    // Large, so that a few fill the disk.
    let bytes = [
        std::fs::read(photo("noface.jpg")).unwrap(),
        vec![0; 1 << 20],
    ]
    .concat();
    let mut accepted = 0;
    let answer = loop {
        let (status, answer) = daemon.post("/v1/images", &[("content-type", "image/jpeg")], &bytes);
        if status != 202 {
            break answer;
        }
        accepted += 1;
    };
    assert!(
        answer["detail"].as_str().unwrap().contains("is full"),
        "{answer}"
    );
    let ready = ureq::get(daemon.url("/readyz"))
        .config()
        .http_status_as_error(false)
        .build()
        .call()
        .unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    wait_for("the breaker to close", || {
        daemon
            .kithd(["breaker", "close"])
            .status
            .success()
            .then_some(())
    });
    // Processing frees the disk again.
    daemon.all_ended();
    assert_eq!(daemon.get("/v1/status")["counts"]["processed"], accepted);
    wait_for("the door to open", || {
        (intake(&daemon).0 == "ok").then_some(())
    });
    daemon.kill();
    let _ = Command::new("umount")
        .arg("-l")
        .arg(daemon.folder.path().join("state"))
        .status();
}

#[test]
fn files_are_closed_to_others_whatever_folder_and_umask() {
    let mut daemon = TestDaemon::new();
    let state = daemon.folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    daemon.start();
    assert_eq!(upload(&daemon).0, 202);
    let open = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .filter(|path| {
                std::fs::symlink_metadata(path).is_ok_and(|file| file.mode() & 0o007 != 0)
            })
            .collect()
    };
    assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o777, 0o750);
    assert_eq!(open(&state), [""; 0].map(PathBuf::from));
    assert_eq!(open(&state.join("spool")), [""; 0].map(PathBuf::from));
}

/// Entries under names like kithd's own, as a restored copy or a hand leaves them.
#[test]
fn odd_entries_in_the_state_folder_do_not_stop_the_start() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    daemon.stop();
    let uuid = "0".repeat(32);
    let folders = [
        format!("rejected/{uuid}"),
        "rejected/.part-1".into(),
        format!("spool/{uuid}.http.7"),
        format!("spool/{uuid}.http.new"),
        "spool/deep/er".into(),
        "people/0".into(),
        "kithd.db.before-1".into(),
        "kithd.db.damaged-1".into(),
    ];
    std::fs::remove_dir_all(daemon.state("inbox")).unwrap();
    for folder in &folders {
        std::fs::create_dir_all(daemon.state(folder)).unwrap();
    }
    for link in ["inbox", "rejected/link", "spool/link"] {
        std::os::unix::fs::symlink("/nowhere/at/all", daemon.state(link)).unwrap();
    }
    for pipe in [
        format!("rejected/1{}", &uuid[1..]),
        format!("spool/1{}.mqtt.9", &uuid[1..]),
    ] {
        let made = Command::new("mkfifo").arg(daemon.state(&pipe)).status();
        assert!(made.unwrap().success());
    }
    std::fs::write(daemon.state("rejected/not a name of ours"), "x").unwrap();
    daemon.start();
    part_is_ok(&daemon, "gallery");
    assert_eq!(daemon.known("obama_2.jpg", "o.jpg"), "Barack Obama");
    assert_eq!(daemon.sql("select count(*) from images"), ["1"]);
    assert_eq!(daemon.sql("select count(*) from rejected_messages"), ["0"]);
    for folder in folders
        .iter()
        .filter(|folder| !folder.starts_with("people"))
    {
        assert!(daemon.state(folder).is_dir(), "{folder}");
    }
    let log = daemon.log();
    for entry in [&folders[0], &folders[2]] {
        assert!(
            log.contains(entry) && log.contains("left alone"),
            "{entry}: {log}"
        );
    }
    assert_eq!(daemon.stop(), Some(0));
    // The folder itself is a file.
    std::fs::remove_dir_all(daemon.state("rejected")).unwrap();
    std::fs::write(daemon.state("rejected"), "x").unwrap();
    daemon.start();
    assert_eq!(daemon.get_text("/healthz"), "ok\n");
}

#[test]
fn a_program_that_keeps_the_journal_from_shrinking_is_named() {
    use std::io::Write as _;
    let mut daemon = TestDaemon::new();
    daemon.start();
    let sqlite3 = |arguments: &[&str]| {
        let mut command = Command::new("sqlite3");
        command
            .args(["-cmd", ".timeout 10000"])
            .arg(daemon.state("kithd.db"))
            .args(arguments);
        command
    };
    let mut reader = sqlite3(&[])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut asked = reader.stdin.take().unwrap();
    asked
        .write_all(b"BEGIN; SELECT 'reading ' || count(*) FROM images;\n")
        .unwrap();
    let mut line = String::new();
    let mut answers = std::io::BufReader::new(reader.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut answers, &mut line).unwrap();
    assert!(line.starts_with("reading"), "{line}");
    let large = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20)
                 INSERT INTO facts SELECT 'large ' || x, hex(zeroblob(524288)) FROM n";
    assert!(sqlite3(&[large]).status().unwrap().success());
    let why = "keeps it from being emptied; fuser -v kithd.db";
    let doctor = crate::support::text(&daemon.kithd(["doctor"]));
    assert!(doctor.contains(why), "{doctor}");
    wait_for("the page to name the journal", || {
        daemon.get_text("/").contains(why).then_some(())
    });
    assert!(daemon.get_text("/health").contains(why));
    assert_eq!(
        daemon.get("/v1/status")["parts"]["journal"]["condition"],
        "degraded"
    );
    // Level-triggered: gone with the next pictures after the reader.
    drop(asked);
    reader.wait().unwrap();
    wait_for("the journal to be small", || {
        assert_eq!(upload(&daemon).0, 202);
        daemon.all_ended();
        let part = &daemon.get("/v1/status")["parts"]["journal"];
        (part["condition"] == "ok").then_some(())
    });
    let doctor = crate::support::text(&daemon.kithd(["doctor"]));
    assert!(!doctor.contains(why), "{doctor}");
}
