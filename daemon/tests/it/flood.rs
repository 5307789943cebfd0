//! Long counts on MQTT. A stream of messages, each naming a file of its own, while daemon and
//! broker are killed and restarted: every file ends as exactly one row; 20 000 messages in every
//! run, 200 000 with `./dev test --full`. And as many results as pile up while a broker is away for
//! long.

use std::collections::{HashSet, VecDeque};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, full, part_is_ok, text, wait_for};

const TOPIC: &str = "kithd/board/image/post";
/// Messages the publisher has under way.
const WINDOW: usize = 100;
/// Most messages that wait at the broker. It writes all of them to its disk every second: with a
/// hundred thousand it does little else.
const AHEAD: usize = 2000;
/// After so long without a message taken, none is left.
const QUIET: Duration = Duration::from_secs(4);

/// A publisher at QoS 1 that sends again on a new connection whatever was not acknowledged on the
/// last (MQTT 3.1.1). It publishes as many as are allowed so far, so that the stream lasts as long
/// as the taking.
fn publish_all(
    port: u16,
    paths: Vec<String>,
    allowed: Arc<AtomicUsize>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let total = paths.len();
        let mut waiting: VecDeque<String> = paths.into();
        while !waiting.is_empty() {
            let mut under_way = VecDeque::new();
            // The broker may go away at any time.
            let _ = publish_until_lost(port, &mut waiting, &mut under_way, &|left| {
                total - left < allowed.load(Ordering::Relaxed)
            });
            under_way
                .into_iter()
                .rev()
                .for_each(|(_, path)| waiting.push_front(path));
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

fn publish_until_lost(
    port: u16,
    waiting: &mut VecDeque<String>,
    under_way: &mut VecDeque<(u16, String)>,
    may_go_on: &dyn Fn(usize) -> bool,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // Connect: protocol MQTT, level 4, clean session, no keep-alive, a client id.
    stream.write_all(&[
        0x10, 17, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 5, b'f', b'l', b'o', b'o', b'd',
    ])?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    let mut id = 0_u16;
    while !waiting.is_empty() || !under_way.is_empty() {
        let mut packets = Vec::new();
        while under_way.len() < WINDOW
            && may_go_on(waiting.len())
            && let Some(path) = waiting.pop_front()
        {
            id = id % u16::MAX + 1;
            let mut length = 2 + TOPIC.len() + 2 + path.len();
            packets.push(0x32);
            while length >= 0x80 {
                packets.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            packets.push(length as u8);
            packets.extend((TOPIC.len() as u16).to_be_bytes());
            packets.extend(TOPIC.as_bytes());
            packets.extend(id.to_be_bytes());
            packets.extend(path.as_bytes());
            under_way.push_back((id, path));
        }
        stream.write_all(&packets)?;
        if under_way.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        // Each answer is a PubAck of four bytes.
        stream.read_exact(&mut answer)?;
        let acknowledged = u16::from_be_bytes([answer[2], answer[3]]);
        under_way.retain(|(id, _)| *id != acknowledged);
    }
    Ok(())
}

/// Puts so many pictures into the inbox that take next to no time, and gives their paths.
fn small_pictures(daemon: &TestDaemon, count: usize) -> Vec<String> {
    let mut small = Vec::new();
    image::RgbImage::new(16, 16)
        .write_to(
            &mut std::io::Cursor::new(&mut small),
            image::ImageFormat::Png,
        )
        .unwrap();
    (0..count)
        .map(|n| daemon.put_bytes(&small, &format!("{n}.png")))
        .collect()
}

/// Returns the daemon's resident memory in MiB.
fn resident_mib(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(statm.split_whitespace().nth(1)?.parse::<u64>().ok()? * 4 / 1024)
}

struct Flood {
    broker: Mosquitto,
    daemon: TestDaemon,
    paths: Vec<String>,
}

impl Flood {
    fn new() -> Self {
        let count = if full() { 200_000 } else { 20_000 };
        // The broker keeps every message for clients that are away or too slow.
        let broker = Mosquitto::running_with("max_queued_messages 0", &[]);
        let mut daemon = TestDaemon::with_broker(broker.port());
        daemon.set("intake.max_pending", "1000000");
        daemon.set("retention.images.count", "1000000");
        daemon.set("retention.images.bytes", "0B");
        let mut small = Vec::new();
        image::RgbImage::new(16, 16)
            .write_to(
                &mut std::io::Cursor::new(&mut small),
                image::ImageFormat::Png,
            )
            .unwrap();
        let paths = (0..count)
            .map(|n| daemon.put_bytes(&small, &format!("{n}.png")))
            .collect();
        daemon.start();
        part_is_ok(&daemon, "mqtt");
        part_is_ok(&daemon, "engine");
        // A path is not taken twice while its row is unfinished; so that none is finished when a
        // message comes again, the pictures wait until the stream has ended.
        let held = daemon.kithd(["breaker", "open"]);
        assert!(held.status.success(), "{}", text(&held));
        Self {
            broker,
            daemon,
            paths,
        }
    }

    fn rows(&self) -> usize {
        // Rows are numbered without gaps and none is deleted here; counting them all would take its
        // time.
        self.daemon.sql("select coalesce(max(id), 0) from images")[0]
            .parse()
            .unwrap()
    }

    /// Publishes paths no faster than they are taken, does something at every look, and ends when
    /// no more is taken; says how long the taking took.
    fn publish(
        &mut self,
        paths: Vec<String>,
        mut look: impl FnMut(&mut Self, usize, bool) -> bool,
    ) -> f64 {
        let taken_before = self.rows();
        let allowed = Arc::new(AtomicUsize::new(AHEAD));
        let begun = Instant::now();
        let publisher = publish_all(self.broker.port(), paths, Arc::clone(&allowed));
        let (mut before, mut last_new) = (taken_before, Instant::now());
        let mut more = true;
        while more || !publisher.is_finished() || last_new.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(20));
            let rows = self.rows();
            if rows > before {
                (before, last_new) = (rows, Instant::now());
            } else if !publisher.is_finished() && last_new.elapsed() > QUIET / 4 {
                // Messages that a killed broker lost are never taken; the stream goes on.
                allowed.fetch_add(AHEAD, Ordering::Relaxed);
                last_new = Instant::now();
            }
            allowed.fetch_max(rows - taken_before + AHEAD, Ordering::Relaxed);
            let stuck = publisher.is_finished() && last_new.elapsed() > QUIET / 2;
            more = look(self, rows - taken_before, stuck);
        }
        publisher.join().unwrap();
        last_new.duration_since(begun).as_secs_f64()
    }

    /// Publishes all paths with ten kills of the daemon and ten ends of the broker, at random; says
    /// how long it took.
    fn stream(&mut self, end_broker: fn(&mut Mosquitto)) {
        let total = self.paths.len();
        let mut resident = Vec::new();
        // When so many rows are there. Those at which something ends lie anywhere in their part of
        // the stream.
        let mut ends: VecDeque<_> = (0..20)
            .map(|n| (n * total + fastrand::usize(0..total)) / 21)
            .collect();
        let seconds = self.publish(self.paths.clone(), |flood, rows, stuck| {
            resident.extend(resident_mib(flood.daemon.pid()));
            if ends.front().is_some_and(|at| rows >= *at || stuck) {
                ends.pop_front();
                if ends.len() % 2 == 1 {
                    flood.daemon.kill();
                    flood.daemon.start();
                } else {
                    end_broker(&mut flood.broker);
                    flood.broker.start();
                }
            }
            !ends.is_empty()
        });
        resident.sort_unstable();
        let (median, most) = (resident[resident.len() / 2], resident[resident.len() - 1]);
        let rows = self.rows();
        println!(
            "{total} messages, the daemon killed ten times and the broker ended ten times: {rows} taken in \
             {seconds:.1} s ({:.0} a second), daemon {median} MiB in the middle and {most} MiB at most",
            rows as f64 / seconds
        );
        assert!(most <= 2 * median, "memory is not flat: {resident:?}");
    }

    fn without_a_row(&self) -> Vec<String> {
        let rows: HashSet<String> = self
            .daemon
            .sql("select path from images")
            .into_iter()
            .collect();
        self.paths
            .iter()
            .filter(|path| !rows.contains(*path))
            .cloned()
            .collect()
    }

    fn every_file_ends_as_one_row(&self) {
        assert_eq!(self.rows(), self.paths.len());
        assert_eq!(self.without_a_row(), Vec::<String>::new());
        let freed = self.daemon.kithd(["breaker", "close"]);
        assert!(freed.status.success(), "{}", text(&freed));
        let begun = Instant::now();
        // Waits in steps, since the long count takes longer than one `wait_for` allows.
        let mut left = self.paths.len() as u64;
        while left > 0 {
            left = wait_for("the next pictures to end", || {
                let counts = self.daemon.get("/v1/status")["counts"].clone();
                let now = counts["pending"].as_u64()? + counts["processing"].as_u64()?;
                (now < left).then_some(now)
            });
            std::thread::sleep(Duration::from_millis(200));
        }
        println!(
            "all of them recognised in {:.1} s more",
            begun.elapsed().as_secs_f64()
        );
        let ended = self
            .daemon
            .sql("select state, count(*), count(distinct path) from images group by state");
        assert_eq!(ended, [format!("processed|{0}|{0}", self.paths.len())]);
        assert_eq!(self.daemon.sql("pragma integrity_check"), ["ok"]);
    }
}

/// The daemon is killed and the broker restarted again and again.
#[test]
fn each_file_ends_as_one_row_while_daemon_and_broker_die() {
    let mut flood = Flood::new();
    flood.stream(Mosquitto::terminate);
    flood.every_file_ends_as_one_row();
}

/// mosquitto writes its messages to disk at intervals, so a kill loses the newest.
#[test]
fn a_killed_broker_loses_messages_that_resending_makes_good() {
    let mut flood = Flood::new();
    flood.stream(Mosquitto::kill);
    loop {
        let missing = flood.without_a_row();
        println!("{} paths had no row and are sent again", missing.len());
        if missing.is_empty() {
            break;
        }
        flood.publish(missing, |_, _, _| false);
    }
    flood.every_file_ends_as_one_row();
}

/// The results of hours pile up without a broker.
#[test]
fn results_of_an_outage_leave_in_order_from_flat_memory() {
    let count = if full() { 20_000 } else { 2_000 };
    let mut broker = Mosquitto::running_with("max_queued_messages 0", &[]);
    let mut results = Subscriber::lasting(broker.port(), "kithd/board/result", "watcher");
    broker.wait_for_saved("watcher");
    broker.kill();
    let mut daemon = TestDaemon::with_broker(broker.port());
    let paths = small_pictures(&daemon, count);
    daemon.start();
    part_is_ok(&daemon, "engine");
    let before = resident_mib(daemon.pid()).unwrap();
    for some in paths.chunks(500) {
        let some: Vec<_> = some
            .iter()
            .map(|path| serde_json::json!({ "path": path }))
            .collect();
        let (status, answer) = daemon.post(
            "/images/post",
            &[],
            serde_json::json!({ "paths": some }).to_string().as_bytes(),
        );
        assert_eq!(status, 202, "{answer}");
    }
    wait_for("all to be recognised", || {
        (daemon.get("/v1/status")["counts"]["processed"] == count).then_some(())
    });
    assert_eq!(daemon.get("/v1/status")["counts"]["unsent"], count);
    let waiting = resident_mib(daemon.pid()).unwrap();
    broker.start();
    // After hours the connection is tried once a minute.
    part_is_ok(&daemon, "mqtt out");
    let begun = Instant::now();
    let mut arrived = 0;
    while arrived < count {
        arrived = wait_for("further results", || {
            Some(results.messages().len()).filter(|now| *now > arrived)
        });
    }
    let took = begun.elapsed().as_secs_f64();
    let sent: Vec<_> = results
        .wait(count)
        .iter()
        .map(|result| result["image_id"].to_string())
        .collect();
    let after = resident_mib(daemon.pid()).unwrap();
    println!(
        "{count} results waited and went out in {took:.1} s; daemon {before} MiB before, {waiting} MiB while they waited, \
         {after} MiB after"
    );
    assert_eq!(sent, daemon.sql("select image_id from results order by id"));
    assert!(waiting.max(after) <= 2 * before, "memory is not flat");
}
