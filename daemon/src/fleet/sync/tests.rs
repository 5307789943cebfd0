//! Boards without engines that exchange records by a real broker.

#[path = "../../../tests/it/broker.rs"]
#[allow(dead_code)]
mod broker;

use std::collections::BTreeMap;
use std::path::Path;

use kith_mqtt::Address;

use super::*;
use crate::config::Config;
use crate::domain::sha256;
use crate::engines::{Engines, Settings as EngineSettings};
use crate::fleet::handle::{Joining, Place};
use crate::people::People;
use crate::store::{EnrolledPicture, Store};
use broker::Mosquitto;

const PATIENCE: Duration = Duration::from_secs(60);

struct Board {
    fleet: Fleet,
    folder: tempfile::TempDir,
    running: Option<(
        CancellationToken,
        tokio::task::JoinHandle<anyhow::Result<()>>,
    )>,
    port: u16,
    name: &'static str,
}

fn people(folder: &Path) -> People {
    let (store, _) = Store::open(folder).unwrap();
    let settings = EngineSettings::of(&Config::default(), folder);
    let (engines, _) = Engines::new(settings, Health::default(), None);
    People::new(store, engines, folder, "board")
}

impl Board {
    fn new(broker: &Mosquitto, name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            prefix: "kithd".into(),
            broker: format!("127.0.0.1:{}", broker.port()),
        };
        Self {
            fleet: Fleet::new(people(folder.path()), Some(place)),
            folder,
            running: None,
            port: broker.port(),
            name,
        }
        .started()
    }

    fn started(mut self) -> Self {
        let address = Address {
            host: "127.0.0.1".into(),
            port: self.port,
            encrypted: false,
        };
        let settings = Settings {
            reconnect_least: Duration::from_millis(50),
            reconnect_most: Duration::from_millis(400),
            ..Settings::new(address, format!("kithd-{}-fleet", self.name))
        };
        let sync = Sync {
            fleet: self.fleet.clone(),
            settings,
            device: self.name.into(),
            page: String::new(),
            health: Health::default(),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(sync.run(stop.clone()));
        self.running = Some((stop, task));
        self
    }

    async fn stop(&mut self) {
        let (stop, task) = self.running.take().unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
    }

    fn people(&self) -> &People {
        &self.fleet.people
    }

    async fn enroll(&self, name: &str) {
        let picture = EnrolledPicture {
            image_name: format!("{name}.jpg"),
            sha256: sha256(name.as_bytes()),
            picture: name.as_bytes().to_vec(),
            bounds: [0.0; 4],
            quality: 1.0,
            crop: name.as_bytes().to_vec(),
            embedding: vec![1.0; 4],
            space: "s".into(),
        };
        let enrolled = self.people().store.enroll(name.into(), picture).await;
        enrolled.unwrap().unwrap();
    }

    async fn forget(&self, name: &str) {
        assert!(
            self.people()
                .store
                .erase_person(self.number(name).await)
                .await
                .unwrap()
        );
    }

    async fn number(&self, name: &str) -> i64 {
        let found = self.people().store.person_named(name.into()).await;
        found.unwrap().unwrap()
    }

    /// Names of the people, each with the number of pictures.
    async fn has(&self) -> Vec<String> {
        let people = self.people().store.people_after(None, 100).await.unwrap();
        let mut names: Vec<_> = people
            .iter()
            .map(|person| format!("{} {}", person.name, person.pictures))
            .collect();
        names.sort();
        names
    }

    /// Nothing is left to be captured or sent.
    async fn is_done(&self) -> bool {
        let counts = self.people().store.fleet_counts().await.unwrap().unwrap();
        counts.waiting + counts.uncaptured == 0
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let begun = std::time::Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn all_have(boards: &[&Board], expected: &[&str]) {
    for board in boards {
        until(&format!("{expected:?}"), async || {
            board.has().await == expected && board.is_done().await
        })
        .await;
    }
}

/// Two boards in one fleet, with Ann and Bob.
async fn two(broker: &Mosquitto) -> (Board, Board) {
    let (a, b) = (Board::new(broker, "a"), Board::new(broker, "b"));
    a.enroll("Ann").await;
    b.enroll("Bob").await;
    let code = a.fleet.new_code("home".into()).unwrap();
    assert_eq!(a.fleet.join(&code).await.unwrap(), Joining::Joined);
    assert_eq!(b.fleet.join(&code).await.unwrap(), Joining::Joined);
    all_have(&[&a, &b], &["Ann 1", "Bob 1"]).await;
    (a, b)
}

/// Topics of what the broker retains, with its bytes, in a session of its own.
async fn retained(broker: &Mosquitto) -> BTreeMap<String, Vec<u8>> {
    let address = Address {
        host: "127.0.0.1".into(),
        port: broker.port(),
        encrypted: false,
    };
    let (publisher, mut deliveries, _, connection) = kith_mqtt::connect(Settings {
        session_expiry: Duration::ZERO,
        subscriptions: vec!["kithd/fleet/#".into(), "end".into()],
        ..Settings::new(address, "watcher")
    });
    let stop = CancellationToken::new();
    let running = tokio::spawn(connection.run(stop.clone().cancelled_owned()));
    publisher.connected().await.unwrap();
    let end = Message {
        topic: "end".into(),
        ..Message::default()
    };
    publisher.publish(end).await.unwrap();
    let mut all = BTreeMap::new();
    while let Some(delivery) = deliveries.recv().await
        && delivery.topic != "end"
    {
        if delivery.retain {
            all.insert(delivery.topic.clone(), delivery.payload.to_vec());
        }
        delivery.settle();
    }
    stop.cancel();
    running.await.unwrap();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boards_share_people_and_one_that_was_off_catches_up() {
    let broker = Mosquitto::running();
    let (mut a, b) = two(&broker).await;
    a.stop().await;
    b.enroll("Eve").await;
    b.forget("Ann").await;
    let bob = b.number("Bob").await;
    b.people()
        .store
        .rename_person(bob, "Rob".into())
        .await
        .unwrap();
    all_have(&[&b], &["Eve 1", "Rob 1"]).await;
    let a = a.started();
    all_have(&[&a, &b], &["Eve 1", "Rob 1"]).await;
    // Nothing that was erased is left at the broker.
    let tombs = retained(&broker).await;
    assert_eq!(tombs.values().filter(|bytes| bytes.len() < 110).count(), 2);
    let report = a.fleet.report().await.unwrap().unwrap();
    let names: Vec<_> = report
        .boards
        .iter()
        .map(|board| board.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert!(a.folder.path().exists() && b.folder.path().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_lost_its_records_is_filled_again() {
    let mut broker = Mosquitto::running_with("persistence false", &[]);
    let (_a, b) = two(&broker).await;
    broker.kill();
    broker.start();
    // Two people, two pictures, two boards.
    until("the records to be put back", async || {
        retained(&broker).await.len() == 6
    })
    .await;
    let c = Board::new(&broker, "c");
    let code = b.fleet.code().await.unwrap().unwrap();
    c.fleet.join(&code).await.unwrap();
    all_have(&[&c], &["Ann 1", "Bob 1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_record_is_refused_by_name_and_replaced() {
    let broker = Mosquitto::running();
    let (a, b) = two(&broker).await;
    let before = retained(&broker).await;
    b.forget("Bob").await;
    all_have(&[&a, &b], &["Ann 1"]).await;
    let publisher = a.fleet.exchange.lock().publisher.clone().unwrap();
    let publish = async |topic: &str, payload: Vec<u8>| {
        let message = Message {
            topic: topic.into(),
            payload,
            retain: true,
            ..Message::default()
        };
        publisher.publish(message).await.unwrap();
    };
    // Older records played again bring nobody back.
    for (topic, bytes) in &before {
        publish(topic, bytes.clone()).await;
    }
    let tombs = async || {
        let all = retained(&broker).await;
        all.values().filter(|bytes| bytes.len() < 110).count()
    };
    until("the older records to be replaced", async || {
        tombs().await == 2
    })
    .await;
    all_have(&[&a, &b], &["Ann 1"]).await;
    let now = retained(&broker).await;
    let (topic, good) = now.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (message, reason) in [
        (b"hello".to_vec(), "is no sealed record"),
        (flipped(4), "another key"),
        (
            flipped(good.len() - 1),
            "damaged, forged, or from another topic",
        ),
        (vec![b'k'; SEALED_BYTES + 1], "is the limit"),
        (Vec::new(), ""),
    ] {
        publish(topic, message).await;
        until("the record to be put back", async || {
            retained(&broker)
                .await
                .get(topic)
                .is_some_and(|bytes| bytes.len() == good.len())
        })
        .await;
        let report = b.fleet.report().await.unwrap().unwrap();
        assert!(
            report.refused[0].reason.contains(reason),
            "{:?}",
            report.refused
        );
    }
    all_have(&[&a, &b], &["Ann 1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_new_key_nothing_is_left_under_the_former_one() {
    let broker = Mosquitto::running();
    let (a, b) = two(&broker).await;
    let former = b.fleet.code().await.unwrap().unwrap();
    let code = a.fleet.rotate_key().await.unwrap().unwrap();
    assert_ne!(code.to_text(), former.to_text());
    let key = Seal::new(former.secret()).key_id();
    until("the former records to be gone", async || {
        let all = retained(&broker).await;
        // The word that the key has ended.
        all.keys().filter(|topic| topic.contains(&key)).count() == 1
    })
    .await;
    until("the end of the key to be known", async || {
        b.fleet.exchange.lock().key_ended
    })
    .await;
    a.enroll("Eve").await;
    assert_eq!(b.fleet.join(&code).await.unwrap(), Joining::Rekeyed);
    all_have(&[&a, &b], &["Ann 1", "Bob 1", "Eve 1"]).await;
    // A board that leaves is in no list any more, and keeps its people.
    assert!(b.fleet.leave(true).await.unwrap());
    until("the board to be gone", async || {
        a.fleet.report().await.unwrap().unwrap().boards.len() == 1
    })
    .await;
    assert_eq!(b.has().await.len(), 3);
}
