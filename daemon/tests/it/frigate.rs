//! Frigate as a camera system: a server with its API as versions 0.14 to 0.17 answer, a real
//! broker, and the built kithd between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::broker::Mosquitto;
use crate::support::{TestDaemon, part_is_ok, photo, publish, text, wait_for};

const TOPIC: &str = "frigate/events";
const PASSWORD: &str = "s3cret-of-frigate";
const KNOWN: &str = "Barack Obama";

/// A Frigate of one minor version, 14 for 0.14.
struct Frigate {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Ends the server.
    _runtime: tokio::runtime::Runtime,
}

#[derive(Default)]
struct State {
    minor: u32,
    /// Wants a login with this password.
    password: Option<String>,
    /// The user has the role viewer.
    viewer: bool,
    /// Closes every connection.
    away: bool,
    /// Answers every request so.
    broken: Option<u16>,
    /// Answers every sub label so.
    no_labels: Option<u16>,
    tokens: BTreeSet<String>,
    logins: usize,
    events: BTreeMap<String, Tracked>,
    latest: BTreeMap<String, Vec<u8>>,
    labels: Vec<(String, String, f64)>,
    requests: Vec<String>,
}

#[derive(Clone)]
struct Tracked {
    camera: String,
    start: f64,
    end: Option<f64>,
    has_snapshot: bool,
    /// Frigate's best picture so far, and the time of its frame.
    best: Vec<u8>,
    best_time: f64,
    /// The same as stored with a frame painted on it.
    painted: Vec<u8>,
}

impl Frigate {
    fn new(minor: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let state = Arc::new(Mutex::new(State {
            minor,
            ..State::default()
        }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::clone(&state);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(Arc::clone(&state), request));
                    let serving = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    let _ = serving.await;
                });
            }
        });
        Self {
            address,
            state,
            _runtime: runtime,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A board that uses it, with everybody enrolled.
    fn board(&self, broker: &Mosquitto) -> TestDaemon {
        let mut daemon = TestDaemon::with_broker(broker.port());
        daemon.set("frigate.url", &format!("http://{}", self.address));
        daemon.set("frigate.every", "200ms");
        daemon
    }

    /// Begins an event that shows a picture; returns its id.
    fn begin(&self, camera: &str, picture: &[u8], broker: Option<&Mosquitto>) -> String {
        self.begin_before(0.0, camera, picture, broker)
    }

    fn begin_before(
        &self,
        seconds: f64,
        camera: &str,
        picture: &[u8],
        broker: Option<&Mosquitto>,
    ) -> String {
        let start = now() - seconds;
        let id = format!("{start:.6}-{}", self.state().events.len());
        let tracked = Tracked {
            camera: camera.into(),
            start,
            end: None,
            has_snapshot: true,
            best: picture.into(),
            best_time: start,
            painted: varied(picture, 0xFFFF_FFFF),
        };
        self.state().events.insert(id.clone(), tracked);
        self.tell(&id, "new", broker);
        id
    }

    fn better(&self, id: &str, picture: &[u8], broker: &Mosquitto) {
        {
            let mut state = self.state();
            let event = state.events.get_mut(id).unwrap();
            event.best = picture.into();
            event.best_time += 1.0;
        }
        self.tell(id, "update", Some(broker));
    }

    fn end(&self, id: &str, broker: Option<&Mosquitto>) {
        self.state().events.get_mut(id).unwrap().end = Some(now());
        self.tell(id, "end", broker);
    }

    fn tell(&self, id: &str, kind: &str, broker: Option<&Mosquitto>) {
        let Some(broker) = broker else { return };
        let event = self.state().events[id].clone();
        let fields = json!({
            "id": id, "camera": event.camera, "frame_time": event.start, "label": "person",
            "sub_label": null, "top_score": 0.9, "false_positive": false,
            "start_time": event.start, "end_time": event.end, "score": 0.8,
            "box": [1, 2, 3, 4], "area": 4, "region": [0, 0, 9, 9], "current_zones": [],
            "entered_zones": ["yard"], "has_clip": false, "has_snapshot": event.has_snapshot,
            "snapshot": {"frame_time": event.best_time, "box": [1, 2, 3, 4], "score": 0.8},
        });
        let message = json!({"type": kind, "before": fields, "after": fields}).to_string();
        publish(broker.port(), TOPIC, &message);
    }

    fn labels(&self) -> Vec<(String, String, f64)> {
        self.state().labels.clone()
    }

    fn wait_labels(&self, count: usize) -> Vec<(String, String, f64)> {
        wait_for(&format!("{count} sub labels"), || {
            let labels = self.labels();
            (labels.len() >= count).then_some(labels)
        })
    }

    fn asked(&self, part: &str) -> usize {
        let state = self.state();
        let asked = state.requests.iter().filter(|path| path.contains(part));
        asked.count()
    }

    /// Waits for so many requests more.
    fn wait_asked(&self, part: &str, more: usize) {
        self.wait_asked_since(self.asked(part), part, more);
    }

    /// Waits until anything was asked of an event.
    fn wait_asked_of(&self, id: &str) {
        self.wait_asked_since(0, id, 1);
    }

    fn wait_asked_since(&self, before: usize, part: &str, more: usize) {
        wait_for(&format!("{more} requests of {part}"), || {
            (self.asked(part) >= before + more).then_some(())
        });
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// The same picture in other bytes: a comment with a number behind the JPEG's begin.
fn varied(jpeg: &[u8], number: u32) -> Vec<u8> {
    let comment = [&[0xFF, 0xFE, 0, 6][..], &number.to_be_bytes()].concat();
    [&jpeg[..2], &comment, &jpeg[2..]].concat()
}

fn picture(name: &str) -> Vec<u8> {
    std::fs::read(photo(name)).unwrap()
}

/// Ends the connection without an answer.
#[derive(Debug)]
struct Away;

impl std::fmt::Display for Away {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("away")
    }
}

impl std::error::Error for Away {}

type Answer = Response<Full<Bytes>>;

fn said(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

fn failed(status: u16) -> Answer {
    said(
        status,
        json!({"success": false, "message": "no"}).to_string(),
    )
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Answer, Away> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Away)?.to_bytes();
    let mut state = state.lock().unwrap();
    if state.away {
        return Err(Away);
    }
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    state
        .requests
        .push(format!("{} {path}?{query}", head.method));
    if let Some(status) = state.broken {
        return Ok(failed(status));
    }
    if path == "/api/login" {
        return Ok(state.log_in(&body));
    }
    let bearer = head
        .headers
        .get("authorization")
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if state.password.is_some() && !bearer.is_some_and(|token| state.tokens.contains(token)) {
        return Ok(failed(401));
    }
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    Ok(match (&head.method, &parts[..]) {
        (&Method::GET, ["api", "version"]) => said(200, format!("0.{}.1-abcdef0", state.minor)),
        (&Method::GET, ["api", "events"]) => state.list(query),
        (&Method::GET, ["api", "events", id, file]) => state.file(id, file, query),
        (&Method::GET, ["api", camera, "latest.jpg"]) => match state.latest.get(*camera) {
            Some(picture) => said(200, picture.clone()),
            None => failed(404),
        },
        (&Method::POST, ["api", "events", id, "sub_label"]) => state.label(id, &body),
        _ => failed(404),
    })
}

impl State {
    fn log_in(&mut self, body: &[u8]) -> Answer {
        let given: Value = serde_json::from_slice(body).unwrap();
        self.logins += 1;
        if given["user"] != "kithd" || given["password"].as_str() != self.password.as_deref() {
            return failed(if self.minor < 15 { 400 } else { 401 });
        }
        let token = format!("token.of.{}", self.logins);
        self.tokens.insert(token.clone());
        let mut answer = said(200, "{}");
        let cookie = format!("frigate_token={token}; HttpOnly; Path=/");
        answer
            .headers_mut()
            .insert("set-cookie", cookie.parse().unwrap());
        answer
    }

    fn list(&self, query: &str) -> Answer {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        assert_eq!(value("labels"), Some("person"), "{query}");
        assert_eq!(value("sort"), Some("date_asc"), "{query}");
        let after: f64 = value("after").unwrap().parse().unwrap();
        let limit: usize = value("limit").unwrap().parse().unwrap();
        let mut events: Vec<_> = self.events.iter().collect();
        events.retain(|(_, event)| event.start > after && event.has_snapshot);
        events.sort_by(|a, b| a.1.start.total_cmp(&b.1.start));
        let listed: Vec<_> = events
            .into_iter()
            .take(limit)
            .map(|(id, event)| {
                json!({
                    "id": id, "label": "person", "sub_label": null, "camera": event.camera,
                    "start_time": event.start, "end_time": event.end, "false_positive": null,
                    "zones": [], "has_clip": false, "has_snapshot": event.has_snapshot,
                    "retain_indefinitely": false, "plus_id": null, "data": {"top_score": 0.9},
                })
            })
            .collect();
        said(200, json!(listed).to_string())
    }

    fn file(&self, id: &str, file: &str, query: &str) -> Answer {
        let Some(event) = self.events.get(id) else {
            return failed(404);
        };
        let clean = if self.minor < 17 {
            "snapshot-clean.png"
        } else {
            "snapshot-clean.webp"
        };
        if file == clean {
            return said(200, event.best.clone());
        }
        match (file, event.end) {
            ("snapshot.jpg", Some(_)) if !event.has_snapshot => failed(404),
            ("snapshot.jpg", None) if query.contains("bbox=0&timestamp=0") => {
                said(200, event.best.clone())
            }
            ("snapshot.jpg", _) => said(200, event.painted.clone()),
            _ => failed(404),
        }
    }

    fn label(&mut self, id: &str, body: &[u8]) -> Answer {
        let given: Value = serde_json::from_slice(body).unwrap();
        let (name, score) = (&given["subLabel"], &given["subLabelScore"]);
        if let Some(status) = self.no_labels {
            return failed(status);
        }
        if self.viewer && self.minor >= 16 {
            return failed(403);
        }
        // Until 0.15 an event is known here only once it is stored.
        let known = |event: &Tracked| self.minor >= 16 || event.has_snapshot;
        if !self.events.get(id).is_some_and(known) {
            return failed(404);
        }
        let Some((name, score)) = name.as_str().zip(score.as_f64()) else {
            return failed(422);
        };
        if name.chars().count() > 100 || !(score > 0.0 && score <= 1.0) {
            return failed(422);
        }
        self.labels.push((id.into(), name.into(), score));
        said(200, json!({"success": true}).to_string())
    }
}

fn rows(daemon: &TestDaemon, condition: &str) -> Vec<String> {
    daemon.sql(&format!(
        "select path, source, camera, event from images where {condition} order by id"
    ))
}

fn wait_rows(daemon: &TestDaemon, condition: &str, count: usize) -> Vec<String> {
    wait_for(&format!("{count} images"), || {
        let rows = rows(daemon, condition);
        (rows.len() >= count).then_some(rows)
    })
}

fn part(daemon: &TestDaemon) -> Value {
    daemon.get("/v1/status")["parts"]["frigate"].clone()
}

fn says(daemon: &TestDaemon, condition: &str, words: &str) {
    wait_for(&format!("{condition}: {words}"), || {
        let part = part(daemon);
        let text = part["text"].as_str()?;
        (part["condition"] == condition && text.contains(words)).then_some(())
    });
}

/// Starts the board and waits until it has listed Frigate's events once.
fn started(daemon: &mut TestDaemon) {
    daemon.start_with_everybody();
    daemon.wait_for_broker();
    part_is_ok(daemon, "frigate");
}

/// In each version: while it is under way, at its end, and the name that comes of it.
#[test]
fn in_every_version_an_event_is_fetched_and_named() {
    let broker = Mosquitto::running();
    for minor in 14..=17 {
        let frigate = Frigate::new(minor);
        frigate
            .state()
            .latest
            .insert("door".into(), picture("noface.jpg"));
        let mut daemon = frigate.board(&broker);
        started(&mut daemon);
        says(&daemon, "ok", &format!("Frigate 0.{minor}.1-abcdef0"));
        let id = frigate.begin("door", &picture("obama_2.jpg"), Some(&broker));
        assert_eq!(
            wait_rows(&daemon, "1", 2),
            [
                format!("door/{id}/snapshot.jpg|frigate|door|{id}"),
                format!("door/{id}/latest.jpg|frigate|door|{id}"),
            ]
        );
        let (event, name, score) = frigate.wait_labels(1).remove(0);
        assert_eq!((event.as_str(), name.as_str()), (id.as_str(), KNOWN));
        assert!((0.5..1.0).contains(&score), "{score}");
        // A better picture, the very one of the gallery; then the end, with one of no face.
        frigate.better(&id, &picture("obama_1.jpg"), &broker);
        let labels = frigate.wait_labels(2);
        assert!(labels[1].2 > score && labels[1].0 == id, "{labels:?}");
        frigate.better(&id, &varied(&picture("noface.jpg"), 1), &broker);
        frigate.end(&id, Some(&broker));
        wait_rows(&daemon, "1", 4);
        daemon.all_ended();
        assert!(frigate.asked("snapshot-clean") <= 1);
        assert_eq!(frigate.labels().len(), 2);
        daemon.stop();
    }
}

#[test]
fn equal_pictures_are_dropped_and_their_number_is_bounded() {
    let broker = Mosquitto::running();
    let frigate = Frigate::new(17);
    frigate
        .state()
        .latest
        .insert("door".into(), picture("noface.jpg"));
    let mut daemon = frigate.board(&broker);
    daemon.set("frigate.pictures", "5");
    started(&mut daemon);
    // The camera stands still: one picture of it, and one of the event, for many looks.
    let id = frigate.begin("door", &picture("obama_2.jpg"), Some(&broker));
    frigate.wait_asked("latest.jpg", 6);
    assert_eq!(rows(&daemon, "1").len(), 2);
    // It moves: as many as allowed while the event lasts, and one is kept for its end.
    let moving = wait_for("the number to be reached", || {
        let count = rows(&daemon, "1").len() as u32;
        let next = varied(&picture("noface.jpg"), count);
        frigate.state().latest.insert("door".into(), next);
        (count >= 4).then_some(count)
    });
    assert_eq!(moving, 4);
    let before = frigate.asked("latest.jpg");
    let other = frigate.begin("yard", &picture("noface.jpg"), Some(&broker));
    frigate.wait_asked_of(&other);
    frigate.better(&id, &varied(&picture("obama_2.jpg"), 1), &broker);
    frigate.end(&id, Some(&broker));
    let condition = format!("event = '{id}'");
    wait_rows(&daemon, &condition, 5);
    assert!(frigate.asked("/door/latest.jpg") <= before + 1);
    // After a restart the number counts still, and so do the sums.
    daemon.stop();
    daemon.start_connected();
    part_is_ok(&daemon, "frigate");
    frigate.wait_asked("GET /api/version", 1);
    assert_eq!(rows(&daemon, &condition).len(), 5);
}

#[test]
fn people_side_by_side_are_cut_out_and_named_apart() {
    let broker = Mosquitto::running();
    let frigate = Frigate::new(16);
    frigate
        .state()
        .latest
        .insert("door".into(), picture("noface.jpg"));
    let mut daemon = frigate.board(&broker);
    daemon.set("frigate.pictures", "2");
    started(&mut daemon);
    let first = frigate.begin("door", &picture("noface.jpg"), Some(&broker));
    frigate.wait_asked_of(&first);
    let second = frigate.begin("door", &picture("biden_2.jpg"), Some(&broker));
    wait_rows(&daemon, &format!("event = '{second}'"), 1);
    assert_eq!(frigate.asked(&format!("{second}/snapshot.jpg?crop=1")), 1);
    let labels = frigate.wait_labels(1);
    assert_eq!(
        (labels[0].0.as_str(), labels[0].1.as_str()),
        (second.as_str(), "Joe Biden")
    );
}

#[test]
fn sub_labels_wait_for_frigate_across_a_restart() {
    let broker = Mosquitto::running();
    let frigate = Frigate::new(16);
    let mut daemon = frigate.board(&broker);
    started(&mut daemon);
    frigate.state().no_labels = Some(503);
    let id = frigate.begin("door", &picture("obama_2.jpg"), Some(&broker));
    frigate.end(&id, Some(&broker));
    frigate.wait_asked("sub_label", 2);
    says(&daemon, "degraded", "sub labels wait: Frigate answers 503");
    daemon.kill();
    frigate.state().away = true;
    daemon.start_connected();
    says(&daemon, "degraded", "closed the connection");
    frigate.state().away = false;
    frigate.state().no_labels = None;
    assert_eq!(frigate.wait_labels(1)[0].0, id);
    says(&daemon, "ok", "Frigate 0.16.1");
    // An event that Frigate has deleted is given up, and disturbs no other.
    let gone = frigate.begin("door", &varied(&picture("obama_2.jpg"), 7), Some(&broker));
    let condition = format!("event = '{gone}' and state = 'processed'");
    frigate.state().no_labels = Some(404);
    wait_rows(&daemon, &condition, 1);
    frigate.end(&gone, Some(&broker));
    let considered = format!(
        "select count(*) from frigate_labels where score is null and image_id in \
         (select id from images where event = '{gone}')"
    );
    wait_for("it to be given up", || {
        (daemon.sql(&considered) != ["0"]).then_some(())
    });
    frigate.state().no_labels = None;
    let last = frigate.begin("door", &varied(&picture("obama_2.jpg"), 1), Some(&broker));
    assert_eq!(frigate.wait_labels(2)[1].0, last);
}

#[test]
fn events_of_an_outage_are_fetched_as_long_as_they_are_news() {
    let broker = Mosquitto::running();
    let frigate = Frigate::new(15);
    let mut daemon = frigate.board(&broker);
    daemon.set("frigate.news", "10m");
    started(&mut daemon);
    let seen = frigate.begin("door", &picture("biden_2.jpg"), Some(&broker));
    wait_rows(&daemon, "1", 1);
    frigate.end(&seen, Some(&broker));
    wait_for("the position", || {
        (daemon.sql("select count(*) from facts where key = 'frigate_position'") == ["1"])
            .then_some(())
    });
    daemon.kill();
    // kithd hears of none of these.
    let old = frigate.begin_before(3000.0, "door", &picture("obama_1.jpg"), None);
    frigate.end(&old, None);
    let many: Vec<_> = (0..120)
        .map(|n| frigate.begin_before(0.0, "door", &varied(&picture("noface.jpg"), n), None))
        .collect();
    many.iter().for_each(|id| frigate.end(id, None));
    let missed = frigate.begin("yard", &picture("obama_2.jpg"), None);
    frigate.end(&missed, None);
    daemon.start_connected();
    wait_rows(&daemon, &format!("event = '{missed}'"), 1);
    wait_rows(&daemon, "1", 122);
    assert!(
        rows(&daemon, &format!("event = '{old}'")).is_empty(),
        "it was no news"
    );
    assert_eq!(
        rows(&daemon, &format!("event = '{seen}'")).len(),
        1,
        "it was taken again"
    );
    assert!(frigate.wait_labels(2).iter().any(|label| label.0 == missed));
}

#[test]
fn a_login_is_renewed_and_its_password_shown_nowhere() {
    let broker = Mosquitto::running();
    for minor in [14, 17] {
        let frigate = Frigate::new(minor);
        frigate.state().password = Some(PASSWORD.into());
        let mut daemon = frigate.board(&broker);
        let file = daemon.folder.path().join("password");
        std::fs::write(&file, "wrong-one\n").unwrap();
        daemon.set("frigate.username", "kithd");
        daemon.set("frigate.password_file", file.to_str().unwrap());
        daemon.start_with_everybody();
        says(
            &daemon,
            "degraded",
            "Frigate refuses frigate.username and its password",
        );
        let doctor = daemon.kithd(["doctor"]);
        assert!(
            text(&doctor).contains("PROBLEM  frigate server: Frigate refuses"),
            "{}",
            text(&doctor)
        );
        assert!(frigate.state().logins <= 3, "it hammers at the login");
        daemon.stop();
        std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
        daemon.start_connected();
        part_is_ok(&daemon, "frigate");
        // Frigate has restarted with another secret: every token is void.
        frigate.state().tokens.clear();
        let id = frigate.begin("door", &picture("obama_2.jpg"), Some(&broker));
        frigate.end(&id, Some(&broker));
        assert_eq!(frigate.wait_labels(1)[0].0, id);
        let doctor = text(&daemon.kithd(["doctor"]));
        assert!(
            doctor.contains(&format!("frigate server: version 0.{minor}.1")),
            "{doctor}"
        );
        let process = std::fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
        let shown = [
            doctor,
            daemon.log(),
            daemon.get("/v1/status").to_string(),
            daemon.get_text("/health"),
            String::from_utf8_lossy(&process).into_owned(),
        ];
        for text in shown {
            assert!(
                !text.contains(PASSWORD) && !text.contains("token.of"),
                "{text}"
            );
        }
        daemon.stop();
    }
}

#[test]
fn a_viewer_is_told_that_it_may_not_name_events() {
    let broker = Mosquitto::running();
    let frigate = Frigate::new(16);
    frigate.state().viewer = true;
    let mut daemon = frigate.board(&broker);
    started(&mut daemon);
    let id = frigate.begin("door", &picture("obama_2.jpg"), Some(&broker));
    says(&daemon, "degraded", "needs the role admin");
    wait_rows(&daemon, &format!("event = '{id}'"), 1);
    frigate.state().viewer = false;
    assert_eq!(frigate.wait_labels(1)[0].0, id);
}

#[test]
fn nonsense_of_broker_and_frigate_ends_in_words() {
    let broker = Mosquitto::running();
    let frigate = Frigate::new(16);
    let mut daemon = frigate.board(&broker);
    started(&mut daemon);
    for message in [
        "",
        "offline",
        "{\"type\":\"new\",\"after\":{\"id\":\"../x\",\"camera\":\"door\",\"label\":\"person\"}}",
    ] {
        if message.is_empty() {
            crate::support::publish_with(broker.port(), TOPIC, &["-n"]);
        } else {
            publish(broker.port(), TOPIC, message);
        }
    }
    let rejected = wait_for("the rejected messages", || {
        let reasons = daemon.sql("select reason from rejected_messages order by id");
        (reasons.len() == 3).then_some(reasons)
    });
    assert!(
        rejected
            .iter()
            .all(|why| why.contains("no event of Frigate")),
        "{rejected:?}"
    );
    // What is no picture becomes no image, and the next event goes on.
    let id = frigate.begin("door", b"<html>not a picture</html>", Some(&broker));
    frigate.wait_asked_of(&id);
    frigate.state().broken = Some(500);
    frigate.begin("yard", &picture("obama_2.jpg"), Some(&broker));
    says(&daemon, "degraded", "Frigate answers 500");
    frigate.state().broken = None;
    frigate.wait_labels(1);
    // Another program at that address.
    let other = frigate.address;
    drop(frigate);
    let doctor = text(&daemon.kithd(["doctor"]));
    assert!(
        doctor.contains(&format!("http://{other} refuses the connection")),
        "{doctor}"
    );
}
