//! Notifications: webhooks and ntfy, against a server that can be slow, broken, silent or gone.
//! Sightings are put into the database as rows, so that each test has those that it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;

use crate::broker::Mosquitto;
use crate::support::{Subscriber, TestDaemon, full, part_is_ok, photo, text, wait_for};

/// A request as the server got it.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn id(&self) -> String {
        self.headers["idempotency-key"].clone()
    }
}

/// The server's behaviour once it has read a request.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Answer(u16),
    Hang,
    Drop,
}

/// An HTTP server for a target.
struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    does: Does,
    requests: Vec<Request>,
}

impl Server {
    fn new(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Vec::new();
        let state = Arc::new(Mutex::new(State { does, requests }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                // A client that goes away ends its own connection only.
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn does(&self, does: Does) {
        self.state().does = does;
    }

    fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    fn wait(&self, count: usize) -> Vec<Request> {
        wait_for(&format!("{count} requests"), || {
            let requests = self.requests();
            (requests.len() >= count).then_some(requests)
        })
    }

    /// A section of the configuration for it.
    fn section(&self, kind: &str, name: &str, more: &str) -> String {
        let address = self.address;
        format!("[[notify]]\nname = \"{name}\"\n{kind} = \"http://{address}/s3cret\"\n{more}\n")
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let headers: BTreeMap<_, _> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = headers
            .get("content-length")
            .map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let line = lines[0].clone();
        let does = {
            let mut state = state.lock().unwrap();
            state.requests.push(Request {
                line,
                headers,
                body,
            });
            state.does
        };
        match does {
            Does::Drop => return None,
            Does::Hang => {
                let mut end = [0];
                let _ = reader.read(&mut end);
                return None;
            }
            Does::Answer(status) => {
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                answers.write_all(answer.as_bytes()).ok()?;
            }
        }
    }
}

/// A board with targets and people, before its first start.
fn board(targets: &str) -> TestDaemon {
    with_targets(TestDaemon::new(), targets)
}

fn with_targets(mut daemon: TestDaemon, targets: &str) -> TestDaemon {
    daemon.configuration(targets);
    daemon.enroll_everybody();
    daemon.change("INSERT OR REPLACE INTO facts VALUES ('notified_upto', '0')");
    daemon
}

const OBAMA: &str = "(SELECT id FROM person WHERE name = 'Barack Obama')";
const NOBODY: &str = "NULL";

/// SQL of an ended sighting.
fn sighting(id: usize, source: &str, outcome: &str, person: &str) -> String {
    format!(
        "INSERT INTO sightings (id, uid, source, began_ms, last_ms, last_came_ms, ended_ms, outcome,
            person_id, looks, space, total, weight, image_id, number, merit, changed)
         SELECT {id}, 'sighting-{id}', '{source}', 1700000000000, 1700000001000,
            coalesce((SELECT value FROM facts WHERE key = 'queue_clock_ms'), 0), 1700000002000,
            '{outcome}', {person}, 3, 's', x'', 1, {id}, 1, 0.5,
            coalesce(max(changed), 0) + 1 FROM sightings;"
    )
}

/// Changes the database of a running daemon, and lets it notice.
fn change_live(daemon: &TestDaemon, sql: &str) {
    let connection = rusqlite::Connection::open(daemon.state("kithd.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(30)).unwrap();
    connection
        .execute_batch(&format!("BEGIN IMMEDIATE; {sql}; COMMIT"))
        .unwrap();
    daemon.post_path(&daemon.put_bytes(b"no picture", "noticed.jpg"));
}

fn hmac(secret: &str, text: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = ring::hmac::sign(&key, text);
    let hex: String = signature
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256={hex}")
}

#[test]
fn a_known_person_is_told_with_the_face_and_a_signature() {
    let server = Server::new(Does::Answer(200));
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "k3y-of-hook\n").unwrap();
    let more = format!("secret_file = {secret:?}\nattach = \"face\"\nwho = [\"barack obama\"]\n");
    let mut daemon = board(&server.section("webhook", "flow", &more));
    let face = "INSERT INTO images (id, state, source, path, outcome, accepted_at_ms)
            VALUES (2, 'processed', 'http', '/2', 'known', 1);
        INSERT INTO faces (image_id, number, outcome, candidates, score, quality, bounds, landmarks, space, embedding, crop)
            VALUES (2, 1, 'known', '[]', 1, 0.9, '[0,0,1,1]', '[]', 's', x'', x'FFD8FF');";
    daemon.change(face);
    let biden = "(SELECT id FROM person WHERE name = 'Joe Biden')";
    daemon.change(&sighting(1, "front", "known", biden));
    daemon.change(&sighting(2, "front", "known", OBAMA));
    daemon.start();
    let request = server.wait(1).remove(0);
    assert_eq!(request.line, "POST /s3cret HTTP/1.1");
    let json = request.json();
    assert_eq!(json["sighting_id"], "sighting-2");
    assert_eq!(json["after"]["person"]["name"], "Barack Obama");
    assert_eq!(
        (&json["title"], &json["source"]),
        (&"Barack Obama".into(), &"front".into())
    );
    assert_eq!(
        (&json["device"], &json["face"]),
        (&"board".into(), &"/9j/".into())
    );
    assert_eq!(json["after"]["face"]["image_id"], 2);
    assert_eq!(
        (&json["step"], &json["test"]),
        (&"end".into(), &false.into())
    );
    assert_eq!(json["notification_id"], request.id());
    let time = &request.headers["x-kithd-timestamp"];
    let signed = [format!("{time}.").as_bytes(), &request.body].concat();
    assert_eq!(
        request.headers["x-kithd-signature-256"],
        hmac("k3y-of-hook", &signed)
    );
    wait_for("the state of the target", || {
        let target = daemon.get("/v1/notify")["targets"][0].clone();
        (target["sent"] == 1 && target["waiting"] == 0).then_some(())
    });
    part_is_ok(&daemon, "notify flow");
    let metrics = daemon.get_text("/metrics");
    let sent = "kithd_notifications_total{target=\"flow\",ending=\"sent\"} 1";
    assert!(metrics.contains(sent), "{metrics}");
    // Nothing that may hold a secret is shown anywhere.
    let shown = [
        metrics,
        daemon.get("/v1/health").to_string(),
        daemon.get("/v1/notify").to_string(),
        daemon.get_text("/health"),
        daemon.log(),
    ];
    for text in &shown {
        assert!(!text.contains("s3cret") && !text.contains("k3y"), "{text}");
    }
    // Nor is it told again after a restart, or when nothing but its looks changes.
    daemon.kill();
    daemon.change("UPDATE sightings SET looks = 9, changed = 5 WHERE id = 2");
    daemon.start();
    change_live(&daemon, &sighting(6, "yard", "unknown", NOBODY));
    wait_for("the change to be followed", || {
        let upto = "SELECT value FROM facts WHERE key = 'notified_upto'";
        (daemon.sql(upto) == ["6"]).then_some(())
    });
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn pictures_of_one_visit_are_one_notification() {
    let server = Server::new(Does::Answer(200));
    let mut daemon = TestDaemon::new();
    let more = "attach = \"picture\"\nwait = \"500ms\"\n";
    daemon.configuration(&server.section("webhook", "flow", more));
    daemon.set("sighting.gap", "1h");
    daemon.start_with_everybody();
    part_is_ok(&daemon, "notifications");
    for name in ["1.jpg", "2.jpg", "3.jpg"] {
        daemon.known("obama_2.jpg", name);
    }
    let known = server.wait(1).remove(0).json();
    assert_eq!(
        (&known["step"], &known["title"]),
        (&"begin".into(), &"Barack Obama".into())
    );
    assert!(known["picture"].as_str().unwrap().starts_with("/9j/"));
    // An unknown face is told after its wait.
    let output = daemon.kithd(["forget", "Joe Biden", "--yes"]);
    assert!(output.status.success(), "{}", text(&output));
    let stranger = daemon.ended(daemon.post_path(&daemon.put("biden_2.jpg", "4.jpg")));
    assert_eq!(stranger["outcome"], "unknown", "{stranger}");
    let unknown = server.wait(2).remove(1).json();
    assert_eq!(unknown["after"]["outcome"], "unknown");
    assert_ne!(unknown["notification_id"], known["notification_id"]);
    let followed = "SELECT value >= (SELECT max(changed) FROM sightings) FROM facts WHERE key = 'notified_upto'";
    wait_for("all changes to be followed", || {
        (daemon.sql(followed) == ["1"]).then_some(())
    });
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn targets_that_are_ill_delay_neither_mqtt_nor_others() {
    let (silent, broken, gone, well) = (
        Server::new(Does::Hang),
        Server::new(Does::Answer(503)),
        Server::new(Does::Drop),
        Server::new(Does::Answer(204)),
    );
    // The posted picture makes a sighting of its own, of the source http.
    let more = "sources = [\"front\"]\nagain_after = \"0s\"";
    let sections = [
        silent.section("webhook", "silent", more),
        broken.section("ntfy", "broken", more),
        gone.section("webhook", "gone", more),
        well.section("webhook", "well", more),
    ];
    let broker = Mosquitto::running();
    let mut results = Subscriber::new(broker.port(), "kithd/board/result");
    let mut daemon = with_targets(TestDaemon::with_broker(broker.port()), &sections.concat());
    for id in 1..=20 {
        daemon.change(&sighting(id, "front", "known", OBAMA));
    }
    daemon.start_connected();
    let told: Vec<_> = well.wait(20).iter().map(Request::json).collect();
    let order: Vec<_> = told
        .iter()
        .map(|json| json["sighting_id"].clone())
        .collect();
    let expected: Vec<Value> = (1..=20).map(|id| format!("sighting-{id}").into()).collect();
    assert_eq!(order, expected);
    let picture = std::fs::read(photo("obama_2.jpg")).unwrap();
    daemon.post_path(&daemon.put_bytes(&picture, "a.jpg"));
    results.wait(1);
    for (server, name, words) in [
        (&broken, "broken", "answers 503"),
        (&gone, "gone", "closed the connection"),
    ] {
        server.wait(2);
        let part = wait_for(name, || {
            let part = daemon.get("/v1/health")["parts"][format!("notify {name}")].clone();
            (part["condition"] == "degraded").then_some(part)
        });
        let said = part["text"].as_str().unwrap().to_owned();
        assert!(
            said.contains(words) && said.contains("tried again"),
            "{said}"
        );
    }
    let doctor = text(&daemon.kithd(["doctor"]));
    assert!(doctor.contains("PROBLEM  notify broken:"), "{doctor}");
    // The first one is repeated until it is taken; then the others follow in order.
    let waiting = silent.wait(1).remove(0);
    gone.does(Does::Answer(200));
    let told = wait_for("all of them", || {
        let requests = gone.requests();
        let ids: BTreeSet<_> = requests.iter().map(Request::id).collect();
        (ids.len() == 20).then_some(requests)
    });
    let mut order: Vec<_> = told
        .iter()
        .map(|request| request.json()["sighting_id"].clone())
        .collect();
    order.dedup();
    assert_eq!(order, expected);
    part_is_ok(&daemon, "notify gone");
    let silent = silent.requests();
    assert!(silent.iter().all(|request| request.id() == waiting.id()));
    assert_eq!(waiting.json()["sighting_id"], "sighting-1");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn what_was_unknown_is_told_as_known_or_not_at_all() {
    let (all, strangers) = (
        Server::new(Does::Answer(200)),
        Server::new(Does::Answer(200)),
    );
    let slow = "wait = \"3s\"\nagain_after = \"0s\"\n";
    let sections = [
        all.section("webhook", "all", "wait = \"10m\""),
        strangers.section(
            "ntfy",
            "strangers",
            &format!("{slow}who = [\"unknown\"]\npriority = 5"),
        ),
    ];
    let mut daemon = board(&sections.concat());
    daemon.start();
    part_is_ok(&daemon, "notifications");
    let first = sighting(1, "front", "unknown", NOBODY);
    change_live(
        &daemon,
        &[first, sighting(2, "yard", "unknown", NOBODY)].concat(),
    );
    wait_for("both to wait", || {
        let count = "SELECT count(*) FROM notifications WHERE due_ms IS NOT NULL";
        (daemon.sql(count) == ["4"]).then_some(())
    });
    let known = format!(
        "UPDATE sightings SET outcome = 'known', person_id = {OBAMA}, changed = 3 WHERE id = 1"
    );
    change_live(&daemon, &known);
    let told = all.wait(1).remove(0).json();
    assert_eq!(
        (&told["title"], &told["source"]),
        (&"Barack Obama".into(), &"front".into())
    );
    let request = strangers.wait(1).remove(0);
    assert_eq!(request.line, "POST /s3cret HTTP/1.1");
    assert_eq!(request.headers["title"], "Unknown face");
    assert!(request.body.starts_with(b"yard, "), "{:?}", request.body);
    assert_eq!(
        (&*request.headers["priority"], &*request.headers["tags"]),
        ("5", "warning")
    );
    wait_for("the other one to be dropped", || {
        let dropped =
            "SELECT target || sighting_id FROM notifications WHERE ending = 'dropped' ORDER BY 1";
        (daemon.sql(dropped) == ["all1", "strangers1"]).then_some(())
    });
    assert_eq!((all.requests().len(), strangers.requests().len()), (1, 1));
}

#[test]
fn nobody_hears_of_a_person_who_was_erased() {
    let server = Server::new(Does::Answer(500));
    let mut daemon = board(&server.section("webhook", "flow", ""));
    daemon.change(&sighting(1, "front", "known", OBAMA));
    daemon.start();
    part_is_ok(&daemon, "gallery");
    server.wait(1);
    let output = daemon.kithd(["forget", "Barack Obama", "--yes"]);
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(daemon.sql("SELECT count(*) FROM notifications"), ["0"]);
    server.does(Does::Answer(200));
    let before = server.requests().len();
    change_live(
        &daemon,
        &sighting(
            2,
            "yard",
            "known",
            "(SELECT id FROM person WHERE name = 'Joe Biden')",
        ),
    );
    let told = server.wait(before + 1).pop().unwrap();
    assert_eq!(told.json()["title"], "Joe Biden");
    assert!(
        server.requests()[before..]
            .iter()
            .all(|request| request.json()["title"] == "Joe Biden")
    );
}

#[test]
fn every_notification_arrives_under_one_id_over_kills() {
    // At most 1000 wait for a target.
    let count = if full() { 900 } else { 150 };
    let server = Server::new(Does::Answer(200));
    let section = server.section("webhook", "flow", "who = [\"known\"]\nagain_after = \"0s\"");
    let mut daemon = board(&section);
    let sql: String = (1..=count)
        .map(|id| sighting(id, "front", "known", OBAMA))
        .collect();
    daemon.change(&format!("BEGIN; {sql} COMMIT"));
    for (round, does) in [Does::Drop, Does::Hang, Does::Answer(200), Does::Answer(503)]
        .into_iter()
        .enumerate()
    {
        daemon.start();
        server.does(Does::Answer(200));
        server.wait(round * count / 6 + 1);
        server.does(does);
        let before = server.requests().len();
        if does != Does::Answer(200) {
            server.wait(before + 1);
        }
        daemon.kill();
    }
    server.does(Does::Answer(200));
    daemon.start();
    wait_for("all of them", || {
        let sent = "SELECT count(*) FROM notifications WHERE ending = 'sent'";
        (daemon.sql(sent) == [count.to_string()]).then_some(())
    });
    let mut ids: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let requests = server.requests();
    for request in &requests {
        let sighting = request.json()["sighting_id"].as_str().unwrap().to_owned();
        ids.entry(sighting).or_default().insert(request.id());
    }
    assert_eq!(ids.len(), count);
    assert!(ids.values().all(|ids| ids.len() == 1), "{ids:?}");
    assert!(requests.len() > count, "nothing was repeated");
}

#[test]
fn a_target_is_tested_with_and_without_the_daemon() {
    let (well, refusing) = (
        Server::new(Does::Answer(200)),
        Server::new(Does::Answer(403)),
    );
    let sections = [
        well.section("ntfy", "phone", ""),
        refusing.section("webhook", "flow", ""),
    ];
    let mut daemon = board(&sections.concat());
    for running in [false, true] {
        if running {
            daemon.start();
        }
        let output = daemon.kithd(["notify", "test", "phone"]);
        let said = text(&output);
        assert!(
            output.status.success() && said.contains("phone: http://127.0.0.1"),
            "{said}"
        );
        let output = daemon.kithd(["notify", "test", "flow"]);
        let said = text(&output);
        assert!(
            !output.status.success() && said.contains("answers 403"),
            "{said}"
        );
        assert!(
            said.contains("token_file") && !said.contains("s3cret"),
            "{said}"
        );
        let said = text(&daemon.kithd(["notify", "test", "fone"]));
        assert!(
            said.contains("no target \"fone\"; there are: phone, flow"),
            "{said}"
        );
        let said = text(&daemon.kithd(["notify"]));
        assert!(said.contains("phone: ntfy at http://127.0.0.1"), "{said}");
        assert_eq!(said.contains("not running"), !running, "{said}");
    }
    let requests = well.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].headers["title"], "Test of phone");
    assert_eq!(requests[0].headers["tags"], "white_check_mark");
    let test = refusing.requests()[0].json();
    assert_eq!(
        (&test["test"], &test["sighting_id"]),
        (&true.into(), &"test".into())
    );
    let said = text(&daemon.kithd(["notify", "list", "--json"]));
    let list: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(list["targets"][0]["name"], "flow");
    // A test needs the token, as every change does; a name that is none is answered so.
    let (status, _) = daemon.post_as_admin("/v1/notify/phone/test", &[], b"");
    assert_eq!(status, 200);
    let (status, _) = daemon.post_as_admin("/v1/notify/fone/test", &[], b"");
    assert_eq!(status, 404);
    let (status, problem) = daemon.post_as_admin("/v1/notify/flow/test", &[], b"");
    assert_eq!(status, 502, "{problem}");
}
