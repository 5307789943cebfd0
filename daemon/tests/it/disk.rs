//! The state folder's disk as it fills up: a small file system in memory that is really full, and
//! one with a reserve.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{
    Subscriber, TestDaemon, mount_memory, part_is_ok, photo, publish, publish_with, wait_for,
    with_own_mounts,
};

/// A board whose state folder is a disk of its own, that watches a folder elsewhere and has a
/// broker.
struct Small {
    daemon: TestDaemon,
    watched: PathBuf,
    broker: Mosquitto,
    results: Subscriber,
    /// Images that were accepted.
    accepted: BTreeSet<i64>,
}

impl Small {
    fn new(size: &str, reserve: &str) -> Self {
        // Saving all that waits each second would take all its time.
        let broker = Mosquitto::running_with("autosave_interval 3600", &[]);
        let results = Subscriber::new(broker.port(), "kithd/board/result");
        let mut daemon = TestDaemon::with_broker(broker.port());
        mount_memory(&daemon.folder.path().join("state"), size);
        let watched = daemon.folder.path().join("watched");
        std::fs::create_dir(&watched).unwrap();
        let path = watched.display();
        daemon.set(
            "folder",
            &format!("[{{path = \"{path}\", settle = \"100ms\", poll = \"200ms\"}}]"),
        );
        daemon.set("intake.disk_reserve", reserve);
        daemon.start();
        Self {
            daemon,
            watched,
            broker,
            results,
            accepted: BTreeSet::new(),
        }
    }

    /// Posts and notes accepted images; returns the status, the Retry-After header and the answer.
    fn post(&mut self, url: &str, kind: &str, body: &[u8]) -> (u16, Option<String>, Value) {
        let request = ureq::post(self.daemon.url(url))
            .config()
            .http_status_as_error(false)
            .build();
        let mut response = request.header("content-type", kind).send(body).unwrap();
        let again = response
            .headers()
            .get("retry-after")
            .map(|value| value.to_str().unwrap().to_string());
        let answer: Value = response.body_mut().read_json().unwrap();
        if let Some(ids) = answer["ids"].as_array() {
            self.accepted
                .extend(ids.iter().map(|id| id.as_i64().unwrap()));
        }
        (response.status().as_u16(), again, answer)
    }

    fn upload(&mut self) -> (u16, Option<String>, Value) {
        let bytes = std::fs::read(photo("group.jpg")).unwrap();
        self.post("/v1/images", "image/jpeg", &bytes)
    }

    fn path(&mut self) -> (u16, Option<String>, Value) {
        let path = self.daemon.put("noface.jpg", "by_path.jpg");
        self.post(
            "/image/post",
            "application/json",
            json!({ "path": path }).to_string().as_bytes(),
        )
    }

    fn ballast(&self) -> PathBuf {
        self.daemon.state("ballast")
    }

    /// Leaves so many bytes of the disk free, whatever other writers freed or used meanwhile.
    fn fill(&self, free: u64) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(self.ballast())
            .unwrap();
        let disk = rustix::fs::statvfs(self.daemon.folder.path().join("state")).unwrap();
        let available = disk.f_bavail * disk.f_frsize;
        if available < free {
            file.set_len(
                file.metadata()
                    .unwrap()
                    .len()
                    .saturating_sub(free - available),
            )
            .unwrap();
        } else {
            // Another writer may fill the disk before all of it is written.
            let _ = file.write_all(&vec![1; usize::try_from(available - free).unwrap()]);
        }
    }

    /// Offers a file to the watched folder and a path to the broker.
    fn offer_elsewhere(&self) {
        std::fs::copy(photo("noface.jpg"), self.watched.join("waiting.jpg")).unwrap();
        publish(
            self.broker.port(),
            "kithd/board/image/post",
            &self.daemon.put("noface.jpg", "by_mqtt.jpg"),
        );
    }

    fn taken_elsewhere(&self) -> Vec<String> {
        self.daemon
            .sql("select source from images where source in ('mqtt', 'folder') order by source")
    }

    fn ready(&self) -> (u16, String) {
        let request = ureq::get(self.daemon.url("/readyz"))
            .config()
            .http_status_as_error(false)
            .build();
        let mut response = request.call().unwrap();
        (
            response.status().as_u16(),
            response.body_mut().read_to_string().unwrap(),
        )
    }

    /// Checks that page, folder and readiness say why nothing is accepted with `free` bytes left.
    fn says(&self, why: &str, free: u64) {
        let folder = format!("folder {}", self.watched.display());
        wait_for("the folder to say why its file waits", || {
            self.fill(free);
            let part = self.daemon.get("/v1/status")["parts"][&folder].clone();
            (part["condition"] == "degraded" && part["text"].as_str()?.contains(why)).then_some(())
        });
        assert!(
            self.daemon.get_text("/").contains(why),
            "the page does not say why"
        );
        let (status, said) = self.ready();
        assert!(status == 503 && said.contains(why), "{status} {said}");
        assert!(self.watched.join("waiting.jpg").exists());
    }

    /// Checks that, with room again, deferred pictures come in by themselves and no accepted one is
    /// missing.
    fn goes_on(&mut self) {
        std::fs::remove_file(self.ballast()).unwrap();
        wait_for("the door to open", || (self.ready().0 == 200).then_some(()));
        wait_for("what was kept back", || {
            (self.taken_elsewhere() == ["folder", "mqtt"]).then_some(())
        });
        assert_eq!(self.upload().0, 202);
        wait_for("all results", || {
            let counts = &self.daemon.get("/v1/status")["counts"];
            (counts["pending"] == 0 && counts["processing"] == 0 && counts["unsent"] == 0)
                .then_some(())
        });
        assert_eq!(
            self.daemon
                .sql("select count(*) from images where state <> 'processed'"),
            ["0"]
        );
        let rows = self
            .daemon
            .sql("select id from images where source = 'http'");
        let rows: BTreeSet<i64> = rows.iter().map(|id| id.parse().unwrap()).collect();
        assert_eq!(rows, self.accepted, "in the table, and accepted");
        assert_eq!(self.daemon.sql("pragma integrity_check"), ["ok"]);
        let all = self.accepted.len() + 2;
        let mut results: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
        for result in self.results.wait(all) {
            results
                .entry(result["image_id"].as_i64().unwrap())
                .or_default()
                .insert(result.to_string());
        }
        assert_eq!(results.len(), all, "images with a result");
        assert!(
            results.values().all(|one| one.len() == 1),
            "an image with two results"
        );
        assert_eq!(self.daemon.stop(), Some(0));
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.daemon.kill();
        let state = self.daemon.folder.path().join("state");
        // Unmounts, so that the empty folder can be removed.
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(Path::new(&state))
            .status();
    }
}

/// The page goes on meanwhile.
#[test]
fn on_a_full_disk_senders_wait_and_nothing_accepted_is_lost() {
    if !with_own_mounts("disk::on_a_full_disk_senders_wait_and_nothing_accepted_is_lost") {
        return;
    }
    let mut small = Small::new("16m", "0B");
    for _ in 0..10 {
        assert_eq!(small.upload().0, 202);
        assert_eq!(small.path().0, 202);
    }
    // The disk is full during work, whatever the work frees again.
    let full = wait_for("bytes to be refused", || {
        small.fill(0);
        Some(small.upload()).filter(|(status, ..)| *status != 202)
    });
    let path_full = wait_for("paths to be refused", || {
        small.fill(0);
        Some(small.path()).filter(|(status, ..)| *status != 202)
    });
    for (status, again, answer) in [full, path_full] {
        assert!(
            status == 503 && again.is_some(),
            "{status} {again:?} {answer}"
        );
        assert!(
            answer["detail"].as_str().unwrap().contains("full"),
            "{answer}"
        );
    }
    small.offer_elsewhere();
    small.says("full", 0);
    assert!(small.taken_elsewhere().is_empty());
    assert!(
        small.daemon.get("/v1/status")["disk"]["free_bytes"]
            .as_u64()
            .unwrap()
            < 64 << 10
    );
    // Killed or stopped in this state, the daemon returns to it, although other writers used the
    // space it freed.
    small.daemon.kill();
    small.fill(0);
    small.daemon.start();
    small.says("full", 0);
    for _ in 0..3 {
        assert!(small.daemon.stop().is_some());
        small.fill(0);
        small.daemon.start();
        small.fill(0);
    }
    assert_eq!(small.path().0, 503);
    small.says("full", 0);
    small.goes_on();
}

#[test]
fn below_the_reserve_nothing_comes_in_and_all_else_goes_on() {
    if !with_own_mounts("disk::below_the_reserve_nothing_comes_in_and_all_else_goes_on") {
        return;
    }
    let mut small = Small::new("32m", "8MiB");
    for _ in 0..10 {
        assert_eq!(small.upload().0, 202);
    }
    // A size between the reserve and the room that a database needs for its last commits.
    small.fill(6 << 20);
    small.offer_elsewhere();
    for (status, again, answer) in [small.upload(), small.path()] {
        assert!(
            status == 503 && again.is_some(),
            "{status} {again:?} {answer}"
        );
        assert!(
            answer["detail"]
                .as_str()
                .unwrap()
                .contains("intake.disk_reserve"),
            "{answer}"
        );
    }
    small.says("intake.disk_reserve", 6 << 20);
    // Accepted images end, and their results leave.
    small.results.wait(10);
    assert!(small.taken_elsewhere().is_empty());
    let disk = small.daemon.get("/v1/status")["disk"].clone();
    assert!(
        disk["free_bytes"].as_u64().unwrap() < disk["reserve_bytes"].as_u64().unwrap(),
        "{disk}"
    );
    assert!(
        small
            .daemon
            .get_text("/metrics")
            .contains("\nkithd_disk_reserve_bytes 8388608\n")
    );
    small.goes_on();
}

/// Most memory the daemon has had resident, MiB.
fn most_resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn large_messages_wait_at_the_broker_while_the_disk_is_full() {
    if !with_own_mounts("disk::large_messages_wait_at_the_broker_while_the_disk_is_full") {
        return;
    }
    // The largest number of messages in flight.
    let (messages, bytes) = (16, 30 << 20);
    let mut small = Small::new("600m", "0B");
    small.daemon.stop();
    small.daemon.set("mqtt.keep_alive", "5s");
    small.daemon.start();
    part_is_ok(&small.daemon, "mqtt");
    part_is_ok(&small.daemon, "engine");
    // The connection of the first start may count: a close with unread bytes looks like a loss.
    let lost = |small: &Small| {
        let log = small.broker.log();
        let ended = ["has exceeded timeout", "closed its connection"];
        ended
            .iter()
            .map(|how| log.matches(&format!("kithd-board {how}")).count())
            .sum::<usize>()
    };
    let lost_before = lost(&small);
    // Pictures that are recognised take memory too.
    assert!(small.daemon.kithd(["breaker", "open"]).status.success());
    wait_for("the disk to be refused", || {
        small.fill(0);
        (small.ready().0 == 503).then_some(())
    });
    let before = most_resident_mib(small.daemon.pid());
    let picture = small.daemon.folder.path().join("large.jpg");
    for n in 0..messages {
        let mut large = std::fs::read(photo("noface.jpg")).unwrap();
        large.resize(bytes, n);
        std::fs::write(&picture, large).unwrap();
        small.fill(0);
        publish_with(
            small.broker.port(),
            "kithd/board/image",
            &["-f", picture.to_str().unwrap()],
        );
    }
    wait_for("the part to say where they wait", || {
        small.fill(0);
        let part = small.daemon.get("/v1/status")["parts"]["mqtt"].clone();
        part["text"]
            .as_str()?
            .contains("wait at the broker")
            .then_some(())
    });
    // Longer than the broker waits for a sign of life.
    std::thread::sleep(std::time::Duration::from_secs(10));
    small.fill(0);
    assert_eq!(lost(&small), lost_before, "{}", small.broker.log());
    let most = most_resident_mib(small.daemon.pid());
    println!(
        "{messages} messages of {} MiB wait: {before} MiB before, {most} MiB at most",
        bytes >> 20
    );
    assert!(
        most - before <= 136,
        "{before} MiB before, {most} MiB at most"
    );
    assert_eq!(small.daemon.sql("select count(*) from images"), ["0"]);
    std::fs::remove_file(small.ballast()).unwrap();
    wait_for("all of them, once each", || {
        let rows = small
            .daemon
            .sql("select count(*), count(distinct path) from images");
        (rows == [format!("{messages}|{messages}")]).then_some(())
    });
    part_is_ok(&small.daemon, "mqtt");
    let most = most_resident_mib(small.daemon.pid());
    println!("and {most} MiB at most when all are taken");
    assert!(
        most - before <= 136,
        "{before} MiB before, {most} MiB at most"
    );
}
