//! The engine is killed, stopped, made to lie, leak, talk nonsense or vanish while pictures wait:
//! all of them end processed, none is lost, none has two results, the page answers, and everything
//! recovers by itself.
//!
//! A few pictures in every run, five hundred each with `./dev test --full`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::lying_engine::{LyingEngine, Mode};
use crate::support::{TestDaemon, full, photo, wait_for};

/// The pictures in the queue, in turn, each with its person.
const PICTURES: [(&str, &str); 3] = [
    ("obama_2.jpg", "Barack Obama"),
    ("noface.jpg", ""),
    ("biden_2.jpg", "Joe Biden"),
];

fn count() -> usize {
    if full() { 500 } else { 45 }
}

fn daemon() -> TestDaemon {
    let mut daemon = TestDaemon::new();
    daemon.set("breaker.cool_down", "300ms");
    daemon.set("breaker.longest_cool_down", "2s");
    daemon.set("breaker.self_test", "1s");
    daemon.set("retry.longest_wait", "200ms");
    daemon
}

fn engine_pid(daemon: &TestDaemon) -> Option<String> {
    daemon.get("/v1/breaker")["primary"]["pid"]
        .as_u64()
        .map(|pid| pid.to_string())
}

fn signal(pid: &str, name: &str) {
    // The process may have ended by itself.
    let _ = Command::new("kill").args([name, pid]).status();
}

/// Waits until two pings of an open breaker have failed.
fn stays_open(daemon: &TestDaemon) {
    let failed = || {
        daemon.get("/v1/breaker")["breaker"]["pings_failed"]
            .as_u64()
            .unwrap()
    };
    let before = failed();
    wait_for("two pings to fail", || {
        (failed() >= before + 2).then_some(())
    });
    assert_ne!(state(daemon), "closed");
}

fn state(daemon: &TestDaemon) -> Value {
    daemon.get("/v1/breaker")["breaker"]["state"].clone()
}

/// Looks at page and breaker all the while.
struct Watch {
    over: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    watcher: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default, Clone)]
struct Seen {
    page: Vec<Duration>,
    opened: Option<Duration>,
    closed_again: Option<Duration>,
}

impl Watch {
    fn over(daemon: &TestDaemon) -> Self {
        let (over, seen) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Seen::default())),
        );
        let (page, breaker) = (daemon.url("/"), daemon.url("/v1/breaker"));
        let (end, notes) = (Arc::clone(&over), Arc::clone(&seen));
        let watcher = std::thread::spawn(move || {
            let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
            let begun = Instant::now();
            while !end.load(Ordering::SeqCst) {
                let asked = Instant::now();
                agent
                    .get(&page)
                    .call()
                    .unwrap()
                    .body_mut()
                    .read_to_string()
                    .unwrap();
                let took = asked.elapsed();
                let answer: Value = agent
                    .get(&breaker)
                    .call()
                    .unwrap()
                    .body_mut()
                    .read_json()
                    .unwrap();
                let mut seen = notes.lock();
                seen.page.push(took);
                let closed = answer["breaker"]["state"] == "closed";
                if !closed {
                    seen.opened.get_or_insert(begun.elapsed());
                    seen.closed_again = None;
                } else if seen.opened.is_some() {
                    seen.closed_again.get_or_insert(begun.elapsed());
                }
                drop(seen);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self {
            over,
            seen,
            watcher: Some(watcher),
        }
    }

    /// Ends the watch, prints its figures for the transcript and returns them.
    fn report(mut self, fault: &str) -> Seen {
        self.over.store(true, Ordering::SeqCst);
        self.watcher.take().unwrap().join().unwrap();
        let mut seen = self.seen.lock().clone();
        seen.page.sort();
        let at = |share: f64| seen.page[((seen.page.len() - 1) as f64 * share) as usize];
        println!(
            "{fault}: breaker opened after {:?}, closed again after {:?}; page median {:?}, 99 % {:?}, longest {:?}",
            seen.opened,
            seen.closed_again,
            at(0.5),
            at(0.99),
            at(1.0)
        );
        // The median only, since other tests may keep the machine busy; all figures are printed.
        assert!(
            at(0.5) < Duration::from_millis(100),
            "the page took {:?}",
            at(0.5)
        );
        assert!(
            !full() || at(0.99) < Duration::from_millis(100),
            "the page took {:?}",
            at(0.99)
        );
        seen
    }
}

/// Posts so many pictures at once; returns their ids.
fn fill(daemon: &TestDaemon, count: usize) -> Vec<i64> {
    let paths: Vec<Value> = (0..count)
        .map(|n| json!({ "path": daemon.put(PICTURES[n % PICTURES.len()].0, &format!("{n}.jpg")) }))
        .collect();
    let (status, answer) = daemon.post(
        "/images/post",
        &[],
        json!({ "paths": paths }).to_string().as_bytes(),
    );
    assert_eq!(status, 202, "{answer}");
    answer["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_i64().unwrap())
        .collect()
}

/// Waits until all have ended and checks that each shows the right person.
fn all_right(daemon: &TestDaemon, ids: &[i64]) {
    wait_for("all pictures", || {
        (daemon.count_ended() >= ids.len()).then_some(())
    });
    for (n, id) in ids.iter().enumerate() {
        let image = daemon.get(&format!("/v1/images/{id}"));
        assert_eq!(image["state"], "processed", "{image}");
        let expected = PICTURES[n % PICTURES.len()].1;
        assert_eq!(
            image["persons"]
                .as_array()
                .unwrap()
                .first()
                .map_or("", |name| name.as_str().unwrap()),
            expected
        );
    }
}

fn one_result_each(daemon: &TestDaemon) {
    let twice = daemon.sql("select image_id from results group by image_id having count(*) > 1");
    assert!(twice.is_empty(), "two results for {twice:?}");
}

fn some_done(daemon: &TestDaemon, some: usize) {
    wait_for("some pictures", || {
        (daemon.count_ended() >= some).then_some(())
    });
}

#[test]
fn an_engine_killed_during_calls_is_replaced_without_loss() {
    let mut daemon = daemon();
    daemon.start_with_everybody();
    let watch = Watch::over(&daemon);
    let ids = fill(&daemon, count());
    for round in 1..=3 {
        some_done(&daemon, count() * round / 5);
        signal(&wait_for("an engine", || engine_pid(&daemon)), "-KILL");
    }
    all_right(&daemon, &ids);
    one_result_each(&daemon);
    let seen = watch.report("killed");
    assert!(
        seen.opened.is_none(),
        "three deaths in the middle of good work must not open the breaker"
    );
    // Pictures in flight ran again, each alone and at no cost; a kill between two pictures, or of a
    // lone one, costs an attempt.
    let attempts = daemon.sql("select max(attempts) from images");
    assert!(attempts[0].parse::<u32>().unwrap() <= 4, "{attempts:?}");
}

#[test]
fn a_stopped_engine_is_killed_after_the_deadline_and_replaced() {
    let mut daemon = daemon();
    // Only this test sets a short deadline: elsewhere a late answer of a busy machine would count
    // as a failure.
    daemon.set("recognition.deadline", "3s");
    daemon.start_with_everybody();
    let watch = Watch::over(&daemon);
    let ids = fill(&daemon, count());
    some_done(&daemon, 5);
    let stopped = wait_for("an engine", || engine_pid(&daemon));
    signal(&stopped, "-STOP");
    all_right(&daemon, &ids);
    one_result_each(&daemon);
    assert_ne!(engine_pid(&daemon).unwrap(), stopped);
    assert!(
        !Path::new("/proc").join(&stopped).exists(),
        "the stopped engine is still there"
    );
    watch.report("stopped");
}

#[test]
fn nonsense_answers_open_the_breaker_and_cost_no_attempt() {
    let engine = LyingEngine::start();
    let mut daemon = daemon();
    daemon.set("engine.address", &engine.address());
    daemon.start_with_everybody();
    let watch = Watch::over(&daemon);
    let ids = fill(&daemon, count());
    some_done(&daemon, 5);
    engine.behave(Mode::Malformed);
    wait_for("the breaker to open", || {
        (state(&daemon) != "closed").then_some(())
    });
    stays_open(&daemon);
    assert!(
        daemon.get_text("/").contains("circuit breaker"),
        "the page says nothing of it"
    );
    assert_eq!(daemon.get("/v1/status")["counts"]["failed"], 0);
    engine.behave(Mode::Honest);
    all_right(&daemon, &ids);
    one_result_each(&daemon);
    let seen = watch.report("malformed answers");
    assert!(seen.closed_again.is_some());
}

#[test]
fn non_grpc_bytes_and_hang_ups_open_the_breaker_until_they_end() {
    let mut engine = LyingEngine::start();
    let mut daemon = daemon();
    daemon.set("engine.address", &engine.address());
    daemon.start_with_everybody();
    let ids = fill(&daemon, count());
    for fault in ["nonsense", "unreachable"] {
        let watch = Watch::over(&daemon);
        some_done(&daemon, 5);
        match fault {
            "nonsense" => engine.talk_nonsense(),
            _ => engine.hang_up(),
        }
        wait_for("the breaker to open", || {
            (state(&daemon) != "closed").then_some(())
        });
        stays_open(&daemon);
        engine.serve();
        wait_for("the breaker to close", || {
            (state(&daemon) == "closed").then_some(())
        });
        watch.report(fault);
    }
    all_right(&daemon, &ids);
    one_result_each(&daemon);
    assert_eq!(
        daemon.sql("select count(*) from images where attempts > 1"),
        ["0"],
        "nothing was ever sent"
    );
}

#[test]
fn a_lying_engine_fails_its_self_test_and_its_work_is_redone() {
    let engine = LyingEngine::start();
    let mut daemon = daemon();
    daemon.set("engine.address", &engine.address());
    daemon.start_with_everybody();
    let watch = Watch::over(&daemon);
    let ids = fill(&daemon, count());
    some_done(&daemon, 5);
    engine.behave(Mode::Lying);
    let begun = Instant::now();
    wait_for("the breaker to open", || {
        (state(&daemon) != "closed").then_some(())
    });
    println!(
        "the lie was found after {:?}, the self-test is made every second",
        begun.elapsed()
    );
    assert_eq!(
        daemon.get("/v1/breaker")["breaker"]["last_reason"],
        "self_test"
    );
    stays_open(&daemon);
    engine.behave(Mode::Honest);
    wait_for("the breaker to close", || {
        (state(&daemon) == "closed").then_some(())
    });
    daemon.all_ended();
    all_right(&daemon, &ids);
    watch.report("lies");
    // A second result names the one it replaces.
    let first = "select min(id) from results group by image_id";
    let unnamed = daemon.sql(&format!(
        "select count(*) from results where id not in ({first}) and supersedes is null"
    ));
    assert_eq!(unnamed, ["0"]);
    let log = daemon.log();
    assert!(log.contains("images are done again"), "{log}");
}

#[test]
fn slow_answers_are_kept_and_open_the_breaker() {
    let engine = LyingEngine::start();
    let mut daemon = daemon();
    daemon.set("engine.address", &engine.address());
    // More than an honest answer takes on a busy machine.
    daemon.set("breaker.slow_call", "2s");
    daemon.start_with_everybody();
    let watch = Watch::over(&daemon);
    let ids = fill(&daemon, count());
    some_done(&daemon, 5);
    engine.behave(Mode::Slow);
    wait_for("the breaker to open", || {
        (state(&daemon) != "closed").then_some(())
    });
    assert_eq!(daemon.get("/v1/breaker")["breaker"]["last_reason"], "slow");
    engine.behave(Mode::Honest);
    all_right(&daemon, &ids);
    one_result_each(&daemon);
    assert_eq!(
        daemon.sql("select count(*) from images where attempts > 1"),
        ["0"],
        "a slow answer was thrown away"
    );
    watch.report("slow");
}

#[test]
fn an_engine_that_leaks_is_started_again_between_pictures() {
    let mut daemon = daemon();
    daemon.preload("faulty_engine.c");
    daemon.environment("FAULT_LEAK_MB", "20");
    daemon.set("engine.memory_limit", "300MiB");
    daemon.start_with_everybody();
    let watch = Watch::over(&daemon);
    let before = wait_for("an engine", || engine_pid(&daemon));
    let ids = fill(&daemon, count().max(120));
    all_right(&daemon, &ids);
    one_result_each(&daemon);
    let seen = watch.report("leaking");
    assert!(seen.opened.is_none(), "a planned restart is no failure");
    assert_ne!(engine_pid(&daemon).unwrap_or_default(), before);
    assert!(daemon.log().contains("engine.memory_limit"));
    assert_eq!(daemon.sql("select max(attempts) from images"), ["1"]);
}

/// Waiting costs the pictures no attempt.
#[test]
fn an_engine_that_cannot_start_says_why_and_pictures_wait() {
    let mut daemon = daemon();
    daemon.preload("faulty_engine.c");
    let broken = daemon.folder.path().join("broken");
    daemon.environment("FAULT_NO_START", broken.to_str().unwrap());
    daemon.start_with_everybody();
    std::fs::write(&broken, "").unwrap();
    let ids = fill(&daemon, count());
    some_done(&daemon, 5);
    let watch = Watch::over(&daemon);
    signal(&wait_for("an engine", || engine_pid(&daemon)), "-KILL");
    wait_for("the breaker to open", || {
        (state(&daemon) != "closed").then_some(())
    });
    let shown = daemon.get("/v1/breaker")["sentence"]
        .as_str()
        .unwrap()
        .to_string();
    assert!(
        shown.contains("this machine has no usable accelerator"),
        "{shown}"
    );
    stays_open(&daemon);
    assert_eq!(daemon.get("/v1/status")["counts"]["failed"], 0);
    std::fs::remove_file(&broken).unwrap();
    all_right(&daemon, &ids);
    one_result_each(&daemon);
    watch.report("cannot start");
}

/// Its results name the engine that made them.
#[test]
fn a_fallback_takes_over_while_the_breaker_is_open() {
    let mut daemon = daemon();
    daemon.preload("faulty_engine.c");
    let broken = daemon.folder.path().join("broken");
    std::fs::write(&broken, "").unwrap();
    daemon.environment("FAULT_NO_START", broken.to_str().unwrap());
    daemon.set("engine.fallback", "true");
    daemon.enroll_everybody();
    daemon.start();
    let ids = fill(&daemon, 9);
    all_right(&daemon, &ids);
    assert_ne!(state(&daemon), "closed");
    assert!(
        daemon.get("/v1/breaker")["fallback_calls"]
            .as_u64()
            .unwrap()
            >= 9
    );
    assert_eq!(daemon.get("/v1/breaker")["fallback"]["up"], true);
    assert_eq!(
        daemon.sql("select distinct unverified in (0, 2) from images"),
        ["1"]
    );
    assert!(
        daemon
            .get_text("/metrics")
            .contains("kithd_engine_up{role=\"fallback\",pack=\"sface\"")
    );
    std::fs::remove_file(&broken).unwrap();
    wait_for("the breaker to close", || {
        (state(&daemon) == "closed").then_some(())
    });
    wait_for("the fallback to go", || {
        (daemon.get("/v1/breaker")["fallback"]["up"] == false).then_some(())
    });
    let id = daemon.post_path(&daemon.put("obama_2.jpg", "after.jpg"));
    assert_eq!(daemon.ended(id)["outcome"], "known");
}

#[test]
fn a_removed_socket_hurts_nobody() {
    let mut daemon = daemon();
    daemon.start_with_everybody();
    let ids = fill(&daemon, count());
    some_done(&daemon, 5);
    let watch = Watch::over(&daemon);
    std::fs::remove_file(daemon.state("engine-cpu.sock")).unwrap();
    some_done(&daemon, 15);
    signal(&wait_for("an engine", || engine_pid(&daemon)), "-KILL");
    all_right(&daemon, &ids);
    one_result_each(&daemon);
    assert!(watch.report("socket removed").opened.is_none());
}

/// A photograph with words in a comment that make the preloaded engine abort.
fn poison(daemon: &TestDaemon, name: &str) -> PathBuf {
    let jpeg = std::fs::read(photo("obama_2.jpg")).unwrap();
    let words = b"KITHD-POISON ".repeat(5000);
    let length = u16::try_from(words.len().min(65_000) + 2)
        .unwrap()
        .to_be_bytes();
    let comment = [
        &[0xff, 0xfe],
        &length[..],
        &words[..words.len().min(65_000)],
    ]
    .concat();
    daemon
        .put_bytes(&[&jpeg[..2], &comment, &jpeg[2..]].concat(), name)
        .into()
}

/// Pictures beside it are processed.
#[test]
fn a_picture_that_always_kills_the_engine_fails_alone() {
    let mut daemon = daemon();
    daemon.preload("faulty_engine.c");
    daemon.environment("FAULT_POISON", "1");
    daemon.set("retry.attempts", "3");
    daemon.start_with_everybody();
    let watch = Watch::over(&daemon);
    let half = fill(&daemon, 12);
    let poisoned = daemon.post_path(poison(&daemon, "poison.jpg").to_str().unwrap());
    let rest: Vec<i64> = (0..count())
        .map(|n| daemon.post_path(&daemon.put("noface.jpg", &format!("rest{n}.jpg"))))
        .collect();
    let image = daemon.ended(poisoned);
    assert_eq!(image["state"], "failed", "{image}");
    let reason = image["reason"].as_str().unwrap();
    assert!(
        reason.contains("the engine died over this picture") && reason.contains("3 attempts"),
        "{reason}"
    );
    rest.iter()
        .for_each(|id| assert_eq!(daemon.ended(*id)["state"], "processed"));
    all_right(&daemon, &half);
    one_result_each(&daemon);
    assert!(
        watch.report("poison").opened.is_none(),
        "one poison picture opened the breaker"
    );
}

#[test]
fn an_operator_holds_the_breaker_open_over_a_restart() {
    let mut daemon = daemon();
    daemon.start_with_everybody();
    let say = |daemon: &TestDaemon, word: &str| {
        let output = daemon.kithd(["breaker", word]);
        assert!(output.status.success(), "{}", crate::support::text(&output));
        crate::support::text(&output)
    };
    assert!(say(&daemon, "open").contains("held open by an operator"));
    let id = daemon.post_path(&daemon.put("obama_2.jpg", "x.jpg"));
    wait_for("the engine to be taken down", || {
        engine_pid(&daemon).is_none().then_some(())
    });
    daemon.stop();
    daemon.start();
    wait_for("the breaker", || {
        (state(&daemon) == "forced_open").then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    let waiting = daemon.get(&format!("/v1/images/{id}"));
    assert_eq!(
        (&waiting["state"], &waiting["attempts"]),
        (&json!("pending"), &json!(0)),
        "{waiting}"
    );
    let (status, answer) = daemon.post_as_admin(
        "/v1/breaker",
        &[("content-type", "application/json")],
        br#"{"command":"auto"}"#,
    );
    assert_eq!(status, 200, "{answer}");
    assert_eq!(daemon.ended(id)["outcome"], "known");
    let (status, answer) = daemon.post_as_admin(
        "/v1/breaker",
        &[("content-type", "application/json")],
        br#"{"command":"ajar"}"#,
    );
    assert_eq!(status, 400, "{answer}");
    say(&daemon, "open");
    say(&daemon, "close");
    let id = daemon.post_path(&daemon.put("biden_2.jpg", "y.jpg"));
    assert_eq!(daemon.ended(id)["outcome"], "known");
    let log = daemon.log();
    assert!(
        log.contains("circuit breaker: opened by an operator"),
        "{log}"
    );
}

#[test]
fn any_server_at_a_unix_socket_can_be_the_engine() {
    let mut daemon = daemon();
    let socket = daemon.folder.path().join("elsewhere.sock");
    let mut engine = daemon.spawn(["engine", "--socket", socket.to_str().unwrap()]);
    wait_for("its socket", || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    daemon.set("engine.address", &format!("unix:{}", socket.display()));
    daemon.start_with_everybody();
    all_right(&daemon, &fill(&daemon, 3));
    assert_eq!(
        engine_pid(&daemon),
        None,
        "an engine of our own runs as well"
    );
    let output = daemon.kithd(["status"]);
    assert!(
        crate::support::text(&output).contains("circuit breaker: closed; sface int8 cpu"),
        "{output:?}"
    );
    engine.kill().unwrap();
    engine.wait().unwrap();
}

#[test]
fn no_engine_even_stopped_outlives_a_killed_daemon() {
    for stopped in [false, true] {
        let mut daemon = daemon();
        daemon.start();
        let pid = wait_for("an engine", || engine_pid(&daemon));
        if stopped {
            signal(&pid, "-STOP");
        }
        daemon.kill();
        let process = Path::new("/proc").join(&pid);
        // A zombie counts as gone.
        let gone = || {
            std::fs::read_to_string(process.join("status"))
                .map_or(true, |s| s.contains("State:\tZ"))
        };
        wait_for("the engine to go", || gone().then_some(()));
    }
}

#[test]
fn the_engine_gave_up_files_new_privileges_and_system_calls() {
    let mut daemon = daemon();
    daemon.start();
    let pid = wait_for("an engine", || engine_pid(&daemon));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} is missing in:\n{status}");
    }
    let confinement = daemon.get("/v1/breaker")["primary"]["confinement"]
        .as_str()
        .unwrap()
        .to_string();
    assert!(
        confinement.contains("files: none") && confinement.contains("system calls:"),
        "{confinement}"
    );
}

#[test]
fn the_precision_is_measured_once_on_each_board_and_shown() {
    let mut daemon = daemon();
    daemon.unset("models.precision");
    daemon.start();
    let remembered = wait_for("the choice", || {
        daemon
            .sql("select value from facts where key = 'precision'")
            .pop()
    });
    let chosen = remembered.rsplit(": ").next().unwrap().to_string();
    let report = wait_for("an engine with it", || {
        let report = daemon.get("/v1/breaker");
        (report["primary"]["precision"] == chosen.as_str() && report["primary"]["up"] == true)
            .then_some(report)
    });
    println!("timed: {}", report["primary"]["timings"]);
    assert_eq!(report["breaker"]["trips"], 0);
    daemon.stop();
    daemon.start();
    let again = wait_for("an engine", || {
        let report = daemon.get("/v1/breaker");
        (report["primary"]["up"] == true).then_some(report)
    });
    assert_eq!(again["primary"]["precision"], chosen.as_str());
    // The supervisor looks at the engine before each self-test.
    daemon.ended(daemon.post_path(&daemon.put("noface.jpg", "a.jpg")));
    wait_for("a self-test after the picture", || {
        let verified = "select max(cast(value as integer)) from facts where key like 'verified_%'";
        (daemon.sql(verified) == ["1"]).then_some(())
    });
    assert_eq!(
        daemon.get("/v1/breaker")["primary"]["timings"],
        json!([]),
        "it was measured again"
    );
    assert!(
        daemon
            .get_text("/")
            .contains(&format!("sface {chosen} cpu"))
    );
    assert!(
        daemon
            .get_text("/metrics")
            .contains(&format!("precision=\"{chosen}\"}} 1"))
    );
}

#[test]
fn an_open_breaker_stays_open_over_a_restart_without_a_call() {
    let mut daemon = daemon();
    daemon.set("breaker.cool_down", "20s");
    daemon.set("breaker.longest_cool_down", "60s");
    daemon.preload("faulty_engine.c");
    let broken = daemon.folder.path().join("broken");
    std::fs::write(&broken, "").unwrap();
    daemon.environment("FAULT_NO_START", broken.to_str().unwrap());
    daemon.start();
    wait_for("the breaker to open", || {
        (state(&daemon) == "open").then_some(())
    });
    wait_for("its state on disk", || {
        daemon
            .sql("select value from facts where key = 'breaker'")
            .first()?
            .contains("open")
            .then_some(())
    });
    daemon.kill();
    std::fs::remove_file(&broken).unwrap();
    daemon.start();
    wait_for("the breaker", || (state(&daemon) == "open").then_some(()));
    let left = daemon.get("/v1/breaker")["breaker"]["next_ping_seconds"]
        .as_f64()
        .unwrap();
    assert!(left > 1.0 && left < 24.0, "{left}");
}
