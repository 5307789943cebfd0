//! kill -9 of the daemon, its broker and the server of a webhook at any time: every sighting begins
//! and ends once, and is notified at least once, under one id.
//!
//! A few dozen sightings in every run, ten thousand with `./dev test --full`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use rumqttc::v5::mqttbytes::v5::{Connect, Filter, Packet, Subscribe};
use rumqttc::v5::mqttbytes::{Error, QoS};
use serde_json::Value;

use crate::broker::{Mosquitto, free_port};
use crate::lying_engine::{LyingEngine, MADE_UP, made_up};
use crate::support::{TestDaemon, full, part_is_ok, wait_for};

/// Clients that post pictures.
const CLIENTS: usize = 4;
/// Longest wait for any progress.
const PATIENCE: Duration = Duration::from_secs(60);
/// Notifications that may wait before a kill; kithd gives some up where more than 1000 do.
const MOST_WAITING: u32 = 300;

/// The only way of the daemon to its broker. After a kill of the broker it opens once this test's
/// own subscription is there again: a broker passes a message on to those who are connected before
/// it acknowledges it, so nothing that the daemon takes for sent escapes this test.
struct Door {
    port: u16,
    open: Arc<AtomicBool>,
    messages: Arc<Mutex<Vec<String>>>,
}

impl Door {
    fn to(broker: u16, topic: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = Self {
            port: listener.local_addr().unwrap().port(),
            open: Arc::default(),
            messages: Arc::default(),
        };
        let (open, messages) = (Arc::clone(&door.open), Arc::clone(&door.messages));
        std::thread::spawn(move || {
            loop {
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", broker)) {
                    listen(stream, topic, &open, &messages);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let open = Arc::clone(&door.open);
        std::thread::spawn(move || {
            for inside in listener.incoming().map_while(Result::ok) {
                let outside = match open.load(Ordering::SeqCst) {
                    true => TcpStream::connect(("127.0.0.1", broker)),
                    // The client tries again.
                    false => continue,
                };
                let Ok(outside) = outside else { continue };
                let ways = [(&inside, &outside), (&outside, &inside)]
                    .map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()));
                for (mut from, mut to) in ways {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        for stream in [from, to] {
                            let _ = stream.shutdown(Shutdown::Both);
                        }
                    });
                }
            }
        });
        door
    }

    /// Closes, after the broker was killed.
    fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    fn wait_open(&self) {
        wait_for("the subscription", || {
            self.open.load(Ordering::SeqCst).then_some(())
        });
    }
}

/// Subscribes to a topic and notes its messages until the connection ends.
fn listen(mut stream: TcpStream, topic: &str, open: &AtomicBool, messages: &Mutex<Vec<String>>) {
    let connect = Connect {
        keep_alive: 0,
        client_id: "observer".into(),
        clean_start: true,
        properties: None,
    };
    // QoS 0 has no limit of messages on their way.
    let mut subscribe = Subscribe::new(Filter::new(topic, QoS::AtMostOnce), None);
    subscribe.pkid = 1;
    let mut bytes = BytesMut::new();
    for packet in [
        Packet::Connect(connect, None, None),
        Packet::Subscribe(subscribe),
    ] {
        packet.write(&mut bytes, None).unwrap();
    }
    if stream.write_all(&bytes).is_err() {
        return;
    }
    let mut buffer = BytesMut::new();
    loop {
        match Packet::read(&mut buffer, None) {
            Ok(Packet::SubAck(_)) => open.store(true, Ordering::SeqCst),
            Ok(Packet::Publish(message)) => {
                let payload = String::from_utf8(message.payload.to_vec()).unwrap();
                messages.lock().push(payload);
            }
            Ok(_) => {}
            Err(Error::InsufficientBytes(_)) => {
                let mut chunk = [0; 65536];
                match stream.read(&mut chunk) {
                    Ok(count) if count > 0 => buffer.extend_from_slice(&chunk[..count]),
                    _ => return,
                }
            }
            Err(error) => panic!("the broker sends no MQTT: {error:?}"),
        }
    }
}

/// The server of a webhook; killed when dropped.
struct Hook {
    port: u16,
    file: PathBuf,
    process: Option<Child>,
}

impl Hook {
    fn start(file: PathBuf) -> Self {
        let mut hook = Self {
            port: free_port(),
            file,
            process: None,
        };
        hook.run();
        hook
    }

    fn run(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webhook_server.py");
        let process = Command::new("python3")
            .arg(script)
            .arg(self.port.to_string())
            .arg(&self.file)
            .spawn()
            .unwrap();
        self.process = Some(process);
        wait_for("the webhook's server", || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Returns what was taken: the ids of each sighting's notifications, and how many came.
    fn taken(&self) -> (BTreeMap<String, BTreeSet<String>>, usize) {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let (sighting, id) = (&line["body"]["sighting_id"], &line["id"]);
            assert_eq!(&line["body"]["notification_id"], id);
            let [sighting, id] = [sighting, id].map(|text| text.as_str().unwrap().to_string());
            ids.entry(sighting).or_default().insert(id);
        }
        (ids, text.lines().count())
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Posts the picture of a visit until the daemon has it; its key makes it one image.
fn post(agent: &ureq::Agent, url: &str, visit: u32) {
    let picture = made_up(visit);
    wait_for("a picture to be accepted", || {
        let answer = agent
            .post(url)
            .header("content-type", "image/png")
            .header("idempotency-key", format!("visit-{visit}"))
            .send(&picture[..]);
        answer.ok().filter(|answer| answer.status().is_success())
    });
}

/// Posts visits as far as `allowed` goes.
fn post_all(url: &str, allowed: &AtomicU32, next: &AtomicU32, over: &AtomicBool) {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5)));
    let agent: ureq::Agent = agent.build().into();
    while !over.load(Ordering::SeqCst) {
        let take = |next| (next < allowed.load(Ordering::SeqCst)).then_some(next + 1);
        match next.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(visit) => post(&agent, url, visit),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Waits for a count of the database, for as long as anything changes.
fn wait_while_it_goes_on(daemon: &TestDaemon, what: &str, done: impl Fn(&[u32]) -> bool) {
    let query = "SELECT (SELECT count(*) FROM sightings),
                        (SELECT count(*) FROM sightings WHERE ended_ms IS NOT NULL),
                        (SELECT count(*) FROM images WHERE state IN ('pending', 'processing')),
                        (SELECT count(*) FROM sighting_outbox),
                        (SELECT count(*) FROM notifications WHERE due_ms IS NOT NULL)";
    let (mut last, mut since) = (Vec::new(), Instant::now());
    loop {
        let row = daemon.sql(query).remove(0);
        let counts: Vec<u32> = row
            .split('|')
            .map(|number| number.parse().unwrap())
            .collect();
        if done(&counts) {
            return;
        }
        if counts != last {
            (last, since) = (counts, Instant::now());
        }
        assert!(
            since.elapsed() < PATIENCE,
            "{what}: nothing goes on: {last:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn kills_leave_every_sighting_one_begin_end_and_notice() {
    let seed = std::env::var("KITHD_SEED").ok();
    let seed = seed
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("KITHD_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (total, rounds): (u32, u32) = if full() { (10_000, 200) } else { (60, 6) };
    let begun = Instant::now();

    let engine = LyingEngine::start();
    let mut broker = Mosquitto::running_with("max_queued_messages 0", &[]);
    let door = Door::to(broker.port(), "kithd/board/sighting");
    door.wait_open();
    let mut daemon = TestDaemon::with_broker(door.port);
    let mut hook = Hook::start(daemon.folder.path().join("taken"));
    let listen = format!("127.0.0.1:{}", free_port());
    let target = format!(
        "[{{name = \"hook\", webhook = \"http://127.0.0.1:{}/\", who = [\"unknown\"], \
         wait = \"0s\", again_after = \"0s\"}}]",
        hook.port
    );
    for (key, value) in [
        ("http.listen", listen.as_str()),
        ("engine.address", &engine.address()),
        ("sighting.gap", "1s"),
        ("mqtt.event_expiry", "1h"),
        ("retry.attempts", "100"),
        ("notify", &target),
    ] {
        daemon.set(key, value);
    }
    daemon.start();
    part_is_ok(&daemon, "engine");

    let (allowed, next, over) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let url = daemon.url("/v1/images");
    let mut kills = [0; 3];
    std::thread::scope(|scope| {
        // Ends the clients if this thread panics.
        let _end = Over(&over);
        for _ in 0..CLIENTS {
            scope.spawn(|| post_all(&url, &allowed, &next, &over));
        }
        for round in 0..rounds {
            let before = allowed.load(Ordering::SeqCst);
            let now = total * (round + 1) / rounds;
            // A face that comes again must have gone.
            let gone = now.saturating_sub(MADE_UP);
            wait_while_it_goes_on(&daemon, "between two kills", |counts| {
                counts[0] >= before && counts[1] >= gone && counts[4] < MOST_WAITING
            });
            allowed.store(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(random.u64(..800)));
            let away = Duration::from_millis(random.u64(..300));
            let victim = if round < 3 {
                round as usize
            } else {
                random.usize(..3)
            };
            kills[victim] += 1;
            match victim {
                0 => {
                    daemon.kill();
                    daemon.start();
                }
                1 => {
                    broker.kill();
                    door.close();
                    std::thread::sleep(away);
                    broker.start();
                    door.wait_open();
                }
                _ => {
                    hook.kill();
                    std::thread::sleep(away);
                    hook.run();
                }
            }
        }
        wait_while_it_goes_on(&daemon, "at the end", |counts| {
            counts[1] >= total && counts[2..] == [0, 0, 0]
        });
    });

    let sightings: BTreeSet<String> = daemon
        .sql("SELECT uid FROM sightings")
        .into_iter()
        .collect();
    assert_eq!(sightings.len(), total as usize, "a sighting for each visit");
    assert_eq!(
        daemon.sql("SELECT count(*) FROM sighting_faces"),
        [total.to_string()]
    );
    // The last messages may still be on their way to this test.
    let mut told = BTreeMap::new();
    let mut came = 0;
    wait_for("the last message", || {
        let messages = door.messages.lock();
        came = messages.len();
        told = steps(&messages);
        let ended = told.values().filter(|steps| steps.contains_key("end"));
        (ended.count() == sightings.len()).then_some(())
    });
    assert!(told.keys().all(|uid| sightings.contains(uid)));
    let mut updates = 0;
    for (uid, steps) in &told {
        let count = |step| steps.get(step).map_or(0, Vec::len);
        assert_eq!((count("begin"), count("end")), (1, 1), "{uid}: {steps:?}");
        updates += count("update");
    }
    let (ids, notified) = hook.taken();
    assert_eq!(ids.keys().cloned().collect::<BTreeSet<_>>(), sightings);
    for (uid, ids) in &ids {
        assert_eq!(ids.len(), 1, "{uid} is notified under several ids: {ids:?}");
    }
    assert_eq!(daemon.sql("PRAGMA integrity_check"), ["ok"]);
    println!(
        "{total} sightings, killed: daemon {} times, broker {}, webhook's server {}; {:.0?}",
        kills[0],
        kills[1],
        kills[2],
        begun.elapsed()
    );
    println!(
        "{came} messages, {} of them repeated byte-identical; {total} begin, {updates} update, \
         {total} end",
        came - 2 * total as usize - updates
    );
    println!(
        "{notified} notifications taken under {} ids, {} of them repeated",
        ids.len(),
        notified - ids.len()
    );
}

/// Returns the different messages of each sighting by step. Panics if one comes in front of its
/// begin, a new one after its end, or one that does not go on where the one before it was.
fn steps(messages: &[String]) -> BTreeMap<String, BTreeMap<String, Vec<String>>> {
    let mut told: BTreeMap<String, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    let mut states: BTreeMap<String, Value> = BTreeMap::new();
    for text in messages {
        let message: Value = serde_json::from_str(text).unwrap();
        let [uid, step] = ["sighting_id", "step"].map(|key| message[key].as_str().unwrap());
        let steps = told.entry(uid.into()).or_default();
        let same = steps.get(step).is_some_and(|same| same.contains(text));
        if same {
            continue;
        }
        let in_order = match step {
            "begin" => steps.is_empty(),
            _ => steps.contains_key("begin") && !steps.contains_key("end"),
        };
        assert!(in_order, "{text} after {steps:#?}");
        let state = states.insert(uid.into(), message["after"].clone());
        assert_eq!(message["before"], state.unwrap_or_default(), "{text}");
        steps.entry(step.into()).or_default().push(text.clone());
    }
    told
}

/// Sets its flag when dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
