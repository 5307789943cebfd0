//! Boards and a broker that keeps the last record of each, for the tests of the fleet.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::domain::{PersonId, hex, sha256};
use crate::fleet::clock::BoardId;
use crate::fleet::record::{Kind, Record, Uid};
use crate::store::fixtures::rows;
use crate::store::{
    Captured, Contents, EnrolledPicture, Membership, Now, Store, Taken, clean_copy, migrate,
};

/// A point in time to which boards set their clocks, more or less.
const WALL_MS: i64 = 1_700_000_000_000;
/// Embedding space of all boards.
pub const SPACE: &str = "s";

/// A broker that keeps the newest message of each topic.
#[derive(Default)]
pub struct Broker {
    pub kept: BTreeMap<(Kind, Uid), Vec<u8>>,
    /// All messages ever published, in order.
    pub sent: Vec<Vec<u8>>,
}

/// A board with its database.
pub struct Board {
    pub store: Store,
    folder: TempDir,
    wall_ms: i64,
    number: u8,
}

impl Board {
    pub fn new(number: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        Self {
            store,
            folder,
            wall_ms: WALL_MS,
            number,
        }
    }

    /// A board whose clock is wrong by this much.
    pub fn with_clock(number: u8, off_by_ms: i64) -> Self {
        let mut board = Self::new(number);
        board.wall_ms += off_by_ms;
        board
    }

    pub async fn join(&self) {
        let membership = Membership {
            name: "home".into(),
            prefix: "kithd".into(),
            broker: "broker:1883".into(),
            secret: [7; 32],
            board: BoardId([self.number; 8]),
        };
        assert!(self.store.join_fleet(membership).await.unwrap());
    }

    pub fn now(&self) -> Now {
        Now {
            wall_ms: self.wall_ms,
            space: Some(SPACE.into()),
        }
    }

    /// Closes the database and opens it again.
    pub async fn reopen(&mut self) {
        self.store.clone().close().await;
        self.store = Store::open(self.folder.path()).unwrap().0;
    }

    pub async fn capture(&self) -> Captured {
        let mut all = Captured::default();
        loop {
            let captured = self.store.capture_fleet(self.now()).await.unwrap();
            all.did.add(captured.did);
            all.refused.extend(captured.refused);
            if !captured.more {
                return all;
            }
        }
    }

    pub async fn take(&self, records: Vec<Record>) -> Vec<Taken> {
        let took = self.store.take_fleet_records(records, self.now()).await;
        let taken = took.unwrap().0;
        // What the people side does after a batch.
        self.store.follow_merges().await.unwrap();
        let erasing = self.store.erasing().await.unwrap();
        self.store.erase_from_results(&erasing).await.unwrap();
        self.store.erased(erasing).await.unwrap();
        taken
    }

    /// Sends what the broker does not have, and returns it.
    pub async fn send(&self, broker: &mut Broker) -> Vec<Record> {
        self.capture().await;
        let mut sent = Vec::new();
        loop {
            let unsent = self.store.unsent_fleet_records(7, 1 << 20).await.unwrap();
            if unsent.is_empty() {
                return sent;
            }
            let mut marks = Vec::new();
            for unsent in unsent {
                let record = unsent.record;
                let key = (record.kind(), *record.uid());
                broker.kept.insert(key, record.encode());
                broker.sent.push(record.encode());
                marks.push((record.kind(), *record.uid(), unsent.digest));
                sent.push(record);
            }
            self.store.fleet_records_sent(marks).await.unwrap();
        }
    }

    /// Takes all that the broker keeps, as after a connection.
    pub async fn catch_up(&self, broker: &Broker) {
        let kept = broker
            .kept
            .values()
            .map(|bytes| Record::decode(bytes).unwrap());
        for taken in self.take(kept.collect()).await {
            assert!(!matches!(taken, Taken::Refused(_)), "{taken:?}");
        }
    }

    /// Takes some of all messages ever sent, in an order by the seed.
    pub async fn hear(&self, broker: &Broker, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut some: Vec<&Vec<u8>> = broker.sent.iter().collect();
        random.shuffle(&mut some);
        some.truncate(random.usize(0..=some.len()));
        let records = some.into_iter().map(|bytes| Record::decode(bytes).unwrap());
        for taken in self.take(records.collect()).await {
            assert!(!matches!(taken, Taken::Refused(_)), "{taken:?}");
        }
    }

    pub async fn enroll(&self, name: &str, picture: &str) -> PersonId {
        let bytes = picture.as_bytes().to_vec();
        self.enroll_bytes(name, picture, bytes).await
    }

    pub async fn enroll_bytes(&self, name: &str, picture: &str, bytes: Vec<u8>) -> PersonId {
        let picture = EnrolledPicture {
            image_name: format!("{picture}.jpg"),
            sha256: sha256(&bytes),
            picture: bytes,
            bounds: [1.0, 2.0, 3.0, 4.0],
            quality: 0.5,
            crop: crop(picture),
            embedding: vector(picture),
            space: SPACE.into(),
        };
        // Another person may have it already.
        let _ = self.store.enroll(name.into(), picture).await.unwrap();
        self.person(name).await.unwrap_or_default()
    }

    pub async fn person(&self, name: &str) -> Option<PersonId> {
        self.store.person_named(name.into()).await.unwrap()
    }

    pub async fn not_them(&self, person: PersonId, face: &str) {
        let store = &self.store;
        store
            .add_counter_example(
                person,
                SPACE.into(),
                vector(face),
                crop(face),
                sha256(&crop(face)),
            )
            .await
            .unwrap();
    }

    pub async fn delete_picture(&self, picture: &str) -> bool {
        let sum = sum(picture);
        let sql =
            format!("SELECT id || ' ' || person_id FROM person_images WHERE sha256 = '{sum}'");
        let found = rows(&self.store, &sql).await;
        let Some((id, person)) = found.first().and_then(|row| row.split_once(' ')) else {
            return false;
        };
        let (id, person) = (id.parse().unwrap(), person.parse().unwrap());
        self.store.delete_person_picture(person, id).await.unwrap()
    }

    pub async fn forget(&self, person: PersonId) {
        self.store.erase_person(person).await.unwrap();
        let erasing = self.store.erasing().await.unwrap();
        self.store.erase_from_results(&erasing).await.unwrap();
        self.store.erased(erasing).await.unwrap();
    }

    pub async fn backup(&self, contents: Contents) -> PathBuf {
        let made = tempfile::Builder::new().tempfile_in(self.folder.path());
        let file = made.unwrap().into_temp_path().keep().unwrap();
        self.store
            .make_backup(file.clone(), contents, "board".into(), None)
            .await
            .unwrap();
        file
    }

    /// Takes a backup in: replaces the people by it, or adds its people.
    pub async fn restore(&self, backup: &std::path::Path, replace: bool) {
        let made = tempfile::Builder::new().tempfile_in(self.folder.path());
        let clean = made.unwrap().into_temp_path().keep().unwrap();
        clean_copy(backup, migrate::known_schema(), &clean).unwrap();
        self.store.apply_tombstones(clean.clone()).await.unwrap();
        if replace {
            let replaced = self.store.replace_by(clean, Contents::Gallery).await;
            replaced.unwrap();
        } else {
            self.store.add_people(clean).await.unwrap();
        }
    }

    /// Returns what the people's tables say, without numbers of rows.
    pub async fn people(&self) -> Vec<String> {
        let mut all = Vec::new();
        for sql in [
            "SELECT 'person ' || hex(uid) || ' ' || name || ' ' || folded FROM person",
            "SELECT 'picture ' || sha256 || ' ' || hex(uid) || ' ' || image_name || bounds || quality || ' '
                 || hex(crop) || ' ' || coalesce((SELECT hex(picture) || cut FROM enrolment_pictures
                                         WHERE person_image_id = person_images.id), 'none')
               FROM person_images JOIN person ON person.id = person_id",
            "SELECT 'embedding ' || sha256 || ' ' || space || ' ' || hex(substr(vector, 1, 16))
               FROM person_embeddings JOIN person_images ON person_images.id = person_image_id",
            "SELECT DISTINCT 'not ' || hex(uid) || ' ' || hex(crop) || ' ' || space || hex(substr(vector, 1, 16))
               FROM counter_examples JOIN person ON person.id = person_id",
            "SELECT 'erased ' || hex(uid) FROM erased",
            "SELECT 'merged ' || hex(uid) || ' ' || hex(into_uid) FROM merged",
        ] {
            let mut found = rows(&self.store, sql).await;
            found.sort();
            all.extend(found);
        }
        all
    }

    pub async fn names(&self) -> Vec<String> {
        rows(&self.store, "SELECT name FROM person ORDER BY name").await
    }
}

/// Returns the sum by which a picture is enrolled.
pub fn sum(picture: &str) -> String {
    sha256(picture.as_bytes())
}

pub fn crop(face: &str) -> Vec<u8> {
    format!("face of {face}").into_bytes()
}

/// Returns an embedding that depends on the face alone.
fn vector(face: &str) -> Vec<f32> {
    let sum = sha256(face.as_bytes());
    (0..128)
        .map(|at| f32::from(sum.as_bytes()[at % 64]) + 1.0)
        .collect()
}

/// Makes boards that are in one fleet from the beginning.
pub async fn fleet_of(count: u8) -> (Vec<Board>, Broker) {
    let mut boards = Vec::new();
    for number in 1..=count {
        let board = Board::new(number);
        board.join().await;
        boards.push(board);
    }
    (boards, Broker::default())
}

/// Connects boards with the broker until none has anything to send.
pub async fn exchange(boards: &[&Board], broker: &mut Broker) {
    for board in boards {
        board.catch_up(broker).await;
    }
    // Each round, every board hears what every board says, itself too.
    for round in 0.. {
        let mut quiet = true;
        for board in boards {
            let sent = board.send(broker).await;
            quiet &= sent.is_empty();
            for other in boards {
                for taken in other.take(sent.clone()).await {
                    assert!(!matches!(taken, Taken::Refused(_)), "{taken:?}");
                }
            }
        }
        if quiet {
            return;
        }
        assert!(round < 12, "the boards do not come to rest");
    }
}

/// Asserts that all boards have the same people, and nothing more to say.
pub async fn same_everywhere(boards: &[Board], broker: &Broker) {
    let first = boards[0].people().await;
    for board in boards {
        assert_eq!(board.people().await, first, "board {}", board.number);
        let said = board.capture().await;
        assert!(!said.did.changed && said.refused.is_empty(), "{said:?}");
        let counts = board.store.fleet_counts().await.unwrap().unwrap();
        assert_eq!((counts.waiting, counts.uncaptured), (0, 0));
        assert_eq!(counts.people, counts.of_people);
        assert_eq!(counts.pictures, counts.of_pictures);
        let records = "SELECT hex(record) FROM fleet_records ORDER BY kind, uid";
        let kept: Vec<String> = broker
            .kept
            .values()
            .map(|bytes| hex(bytes).to_uppercase())
            .collect();
        assert_eq!(rows(&board.store, records).await, kept);
    }
}
