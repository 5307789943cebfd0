//! Random histories of a fleet: boards edit, lose messages, restart from old copies and have wrong
//! clocks, and all are one in the end.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use sha2::{Digest, Sha256};

use super::clock::{BoardId, Clock};
use super::record::{
    Body, Content, CounterBody, Field, Kind, PersonBody, PictureBody, Record, SPACES, Uid, Vectors,
    counter_uid, picture_uid,
};
use super::standing::{Standing, Who};
use crate::names;

const YEAR_MS: i64 = 365 * 24 * 3_600_000;
const NAMES: [&str; 4] = ["Ann", "ann", "Ben", "Ann (0001)"];
/// Rounds of messages after which all boards have to be one.
const ROUNDS: usize = 12;

type Key = (Kind, Uid);

/// A board, as far as records go: it keeps them, edits them, and puts them on the broker.
#[derive(Clone)]
struct Board {
    clock: Clock,
    wall_ms: i64,
    records: BTreeMap<Key, Record>,
    standing: Standing,
    unsent: BTreeSet<Key>,
}

/// The broker: it keeps the last message of each topic. All messages ever sent can be played again.
#[derive(Default)]
struct Broker {
    retained: BTreeMap<Key, Vec<u8>>,
    sent: Vec<(Key, Vec<u8>)>,
}

/// A step of a history. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Enrol {
        uid: [u8; 3],
        name: usize,
    },
    Rename {
        person: usize,
        name: usize,
    },
    Picture {
        picture: u8,
        person: usize,
    },
    RemovePicture {
        picture: u8,
    },
    Embed {
        picture: u8,
        space: u8,
    },
    Counter {
        face: u8,
        person: usize,
    },
    RemoveCounter {
        counter: usize,
    },
    Merge {
        person: usize,
        into: usize,
    },
    Erase {
        person: usize,
    },
    Jump {
        years: i64,
    },
    Publish {
        most: usize,
    },
    /// The broker loses what was published under a topic.
    Lose {
        message: usize,
    },
    Receive {
        most: usize,
    },
    Replay {
        message: usize,
    },
    /// The board's card is copied into this board, which has its number from then on.
    Clone {
        of: usize,
    },
    Save,
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
    let any = any::<usize>;
    let uid = (0..2_u8, 0..2_u8, 0..2_u8).prop_map(|(a, b, c)| [a, b, c]);
    let step = prop_oneof![
        6 => (uid, any()).prop_map(|(uid, name)| Step::Enrol { uid, name }),
        5 => (any(), any()).prop_map(|(person, name)| Step::Rename { person, name }),
        6 => (0..4_u8, any()).prop_map(|(picture, person)| Step::Picture { picture, person }),
        2 => (0..4_u8).prop_map(|picture| Step::RemovePicture { picture }),
        2 => (0..4_u8, 0..6_u8).prop_map(|(picture, space)| Step::Embed { picture, space }),
        2 => (0..2_u8, any()).prop_map(|(face, person)| Step::Counter { face, person }),
        1 => any().prop_map(|counter| Step::RemoveCounter { counter }),
        8 => (any(), any()).prop_map(|(person, into)| Step::Merge { person, into }),
        2 => any().prop_map(|person| Step::Erase { person }),
        1 => (-1..=1_i64).prop_map(|years| Step::Jump { years }),
        6 => (1..6_usize).prop_map(|most| Step::Publish { most }),
        2 => any().prop_map(|message| Step::Lose { message }),
        6 => (1..6_usize).prop_map(|most| Step::Receive { most }),
        4 => any().prop_map(|message| Step::Replay { message }),
        3 => any().prop_map(|of| Step::Clone { of }),
        2 => Just(Step::Save),
        3 => Just(Step::Restore),
    ];
    prop::collection::vec((0..4_usize, step), 1..100)
}

impl Board {
    fn new(number: u8) -> Self {
        Self {
            clock: Clock::new(BoardId([number; 8]), 0, 0),
            wall_ms: 1_764_547_200_000,
            records: BTreeMap::new(),
            standing: Standing::default(),
            unsent: BTreeSet::new(),
        }
    }

    /// Joins a record to what the board knows, and erases what has to go with it. Returns whether
    /// anything changed.
    fn join(&mut self, record: &Record) -> bool {
        let key = (record.kind(), *record.uid());
        let known = self.records.get(&key);
        let joined = known.map_or_else(|| record.clone(), |known| known.join(record));
        if known == Some(&joined) {
            return false;
        }
        if let Some(latest) = joined.latest() {
            self.clock.saw(&latest);
        }
        let was = |uid: &Uid| self.standing.who(uid).cloned();
        let before: BTreeMap<Uid, Option<Who>> = self
            .records
            .keys()
            .map(|(_, uid)| (*uid, was(uid)))
            .collect();
        self.records.insert(key, joined.clone());
        let changed = self.standing.take(&joined);
        for (uid, before) in before {
            let now = self.standing.who(&uid).cloned();
            assert_eq!(changed.contains(&uid), now != before, "of {uid:?}");
            assert!(
                before != Some(Who::Erased) || now == before,
                "{uid:?} came back"
            );
        }
        for uid in changed {
            if self.standing.who(&uid) == Some(&Who::Erased) {
                self.bury((Kind::Person, uid));
            }
        }
        let of_erased = self.records.values().filter_map(|record| {
            let person = match record.body()? {
                Body::Picture(body) => body.person.value,
                Body::Counter(body) => body.person,
                Body::Person(_) | Body::Board(_) => return None,
            };
            let erased = self.standing.who(&person) == Some(&Who::Erased);
            erased.then_some((record.kind(), *record.uid()))
        });
        for key in of_erased.collect::<Vec<_>>() {
            self.bury(key);
        }
        true
    }

    /// Replaces what there is by a tombstone.
    fn bury(&mut self, key: Key) {
        if let Some(record) = self
            .records
            .get(&key)
            .filter(|record| record.body().is_some())
        {
            let tombstone = record.erased();
            let changed = self.standing.take(&tombstone);
            assert!(
                changed.is_empty(),
                "a tombstone that follows changed {changed:?}"
            );
            self.records.insert(key, tombstone);
            self.unsent.insert(key);
        }
    }

    /// Makes an edit, which takes effect whatever the wall clock says.
    fn edit(&mut self, record: &Record) {
        let key = (record.kind(), *record.uid());
        self.unsent.insert(key);
        self.join(record);
        assert_eq!(self.records[&key], *record, "an edit has no effect");
    }

    /// Takes a message. What the board knows beyond it is put back.
    fn receive(&mut self, bytes: &[u8]) {
        let record = Record::decode(bytes).unwrap();
        self.join(&record);
        let key = (record.kind(), *record.uid());
        if self.records[&key] != record {
            self.unsent.insert(key);
        }
    }

    fn publish(&mut self, most: usize, broker: &mut Broker) {
        for key in self.unsent.iter().copied().take(most).collect::<Vec<_>>() {
            let bytes = self.records[&key].encode();
            broker.retained.insert(key, bytes.clone());
            broker.sent.push((key, bytes));
            self.unsent.remove(&key);
        }
    }

    /// Returns the chosen of the people who are not erased.
    fn person(&self, choice: usize) -> Option<(Uid, PersonBody)> {
        let alive: Vec<_> = self
            .records
            .values()
            .filter_map(|record| Some((*record.uid(), record.person()?.clone())))
            .collect();
        chosen(&alive, choice).cloned()
    }

    fn step(&mut self, step: &Step, number: usize) {
        let stamp = self.clock.now(self.wall_ms);
        let picture_key = |picture: u8| {
            let sha256 = Sha256::digest([picture]).into();
            ((Kind::Picture, picture_uid(&sha256)), sha256)
        };
        let (key, incarnation, body) = match step {
            Step::Enrol { uid: start, name } => {
                let mut uid = [0; 16];
                uid[..3].copy_from_slice(start);
                uid[8..].copy_from_slice(&(number as u64).to_be_bytes());
                let body = PersonBody::new(stamp, NAMES[name % NAMES.len()].into());
                ((Kind::Person, uid), 0, Body::Person(body))
            }
            Step::Rename { person, name } => {
                let Some((uid, mut body)) = self.person(*person) else {
                    return;
                };
                body.name = Field::new(stamp, NAMES[name % NAMES.len()].into());
                ((Kind::Person, uid), 0, Body::Person(body))
            }
            Step::Merge { person, into } => {
                let (Some((uid, mut body)), Some((into, _))) =
                    (self.person(*person), self.person(*into))
                else {
                    return;
                };
                body.merge_into(into, stamp);
                ((Kind::Person, uid), 0, Body::Person(body))
            }
            Step::Erase { person } => {
                if let Some((uid, _)) = self.person(*person) {
                    self.edit(&Record::tombstone(Kind::Person, uid, 0));
                }
                return;
            }
            Step::Picture { picture, person } => {
                let Some((person, _)) = self.person(*person) else {
                    return;
                };
                let (key, sha256) = picture_key(*picture);
                let person = Field::new(stamp, person);
                match self.records.get(&key) {
                    Some(record) if record.body().is_some() => {
                        let mut body = record.picture().unwrap().clone();
                        body.person = person;
                        (key, record.incarnation(), Body::Picture(body))
                    }
                    removed => {
                        let next = removed.map_or(Some(0), Record::next_incarnation);
                        let content = Content {
                            image_name: format!("{number}.jpg"),
                            sha256,
                            jpeg: vec![*picture; 9],
                            bounds: [0.0, 1.0, 2.0, 3.0],
                            quality: 0.5,
                            crop: Vec::new(),
                        };
                        let body = PictureBody {
                            person,
                            content: Field::new(stamp, content),
                            vectors: Vectors::new(),
                        };
                        (key, next.unwrap(), Body::Picture(body))
                    }
                }
            }
            Step::Embed { picture, space } => {
                let (key, _) = picture_key(*picture);
                let Some(record) = self.records.get(&key) else {
                    return;
                };
                let Some(mut body) = record.picture().cloned() else {
                    return;
                };
                let byte = u8::try_from(number % 7).unwrap();
                let space = format!("space-{space}");
                let vector = body
                    .vectors
                    .get(&space)
                    .map_or(byte, |known| known[0] | byte);
                body.vectors.insert(space, vec![vector; 4]);
                while body.vectors.len() > SPACES {
                    body.vectors.pop_last();
                }
                (key, record.incarnation(), Body::Picture(body))
            }
            Step::RemovePicture { picture } => {
                let (key, _) = picture_key(*picture);
                if let Some(record) = self.records.get(&key).map(Record::erased) {
                    self.edit(&record);
                }
                return;
            }
            Step::Counter { face, person } => {
                let Some((person, _)) = self.person(*person) else {
                    return;
                };
                let crop = vec![*face; 5];
                let key = (Kind::Counter, counter_uid(&person, &crop));
                let removed = self.records.get(&key);
                if removed.is_some_and(|known| known.body().is_some()) {
                    return;
                }
                let next = removed.map_or(Some(0), Record::next_incarnation);
                let body = CounterBody {
                    person,
                    crop,
                    vectors: Vectors::new(),
                    created_at_ms: self.wall_ms,
                };
                (key, next.unwrap(), Body::Counter(body))
            }
            Step::RemoveCounter { counter } => {
                let all: Vec<_> = self
                    .records
                    .values()
                    .filter(|record| record.counter().is_some())
                    .map(Record::erased)
                    .collect();
                if let Some(record) = chosen(&all, *counter) {
                    self.edit(record);
                }
                return;
            }
            Step::Jump { years } => {
                self.wall_ms += years * YEAR_MS;
                return;
            }
            _ => return,
        };
        self.edit(&Record::new(key.1, incarnation, body).unwrap());
    }

    fn erased(&self) -> BTreeSet<Uid> {
        let people = self.standing.people();
        let erased = people.filter(|(_, who)| **who == Who::Erased);
        erased.map(|(uid, _)| *uid).collect()
    }

    fn who(&self) -> BTreeMap<Uid, Who> {
        sorted(&self.standing)
    }

    /// Checks what must hold at any time.
    fn check(&self) {
        let anew = Standing::of(self.records.values().rev());
        assert_eq!(sorted(&anew), self.who());
        assert_eq!(anew.questions(), self.standing.questions());
        let mut shown_names = BTreeSet::new();
        for (uid, who) in self.standing.people() {
            let record = &self.records[&(Kind::Person, *uid)];
            assert_eq!(record.body().is_none(), *who == Who::Erased);
            match who {
                Who::Here { shown } => {
                    assert!(shown_names.insert(names::fold(shown)), "two are {shown}");
                }
                Who::Merged { into } => {
                    let now = self.standing.who(into);
                    assert!(matches!(now, Some(Who::Here { .. })), "{now:?}");
                }
                Who::Erased => {}
            }
        }
        for record in self.records.values() {
            if let Some(picture) = record.picture() {
                let who = self.standing.who(&picture.person.value);
                assert_ne!(who, Some(&Who::Erased), "a picture of an erased person");
            }
        }
    }
}

fn sorted(standing: &Standing) -> BTreeMap<Uid, Who> {
    let people = standing.people();
    people.map(|(uid, who)| (*uid, who.clone())).collect()
}

fn chosen<T>(all: &[T], choice: usize) -> Option<&T> {
    all.get(choice.checked_rem(all.len())?)
}

#[derive(Default)]
struct Counts {
    histories: Cell<u64>,
    steps: Cell<u64>,
    messages: Cell<u64>,
    records: Cell<u64>,
    merged: Cell<u64>,
    erased: Cell<u64>,
    questions: Cell<u64>,
    rounds: Cell<usize>,
}

fn count<T: Copy + std::ops::Add<Output = T>>(cell: &Cell<T>, more: T) {
    cell.set(cell.get() + more);
}

/// Plays a history, then lets the boards exchange everything.
fn play(boards: usize, steps: &[(usize, Step)], counts: &Counts) {
    let mut boards: Vec<Board> = (1..).take(boards).map(Board::new).collect();
    let mut saved = boards.clone();
    let mut broker = Broker::default();
    for (number, (at, step)) in steps.iter().enumerate() {
        let at = at % boards.len();
        match step {
            Step::Publish { most } => boards[at].publish(*most, &mut broker),
            Step::Lose { message } => {
                let topics: Vec<Key> = broker.retained.keys().copied().collect();
                if let Some(key) = chosen(&topics, *message) {
                    broker.retained.remove(key);
                }
            }
            Step::Receive { most } => {
                let messages = broker.retained.values().rev().take(*most);
                for bytes in messages.cloned().collect::<Vec<_>>() {
                    boards[at].receive(&bytes);
                }
            }
            Step::Replay { message } => {
                if let Some((_, bytes)) = chosen(&broker.sent, *message) {
                    boards[at].receive(bytes);
                }
            }
            Step::Clone { of } => boards[at] = boards[of % boards.len()].clone(),
            Step::Save => saved[at] = boards[at].clone(),
            Step::Restore => {
                boards[at] = saved[at].clone();
            }
            edit => boards[at].step(edit, number),
        }
    }
    let erased: BTreeSet<Uid> = boards.iter().flat_map(Board::erased).collect();
    for board in &boards {
        board.check();
    }
    let rounds = exchange(&mut boards, &mut broker);
    are_one(&boards, &erased);
    // Everything ever sent is played again, newest first: a record that a restored board forgot and
    // the broker lost comes back, erased people do not.
    let sent = broker.sent.clone();
    for (_, bytes) in sent.iter().rev() {
        boards[0].receive(bytes);
    }
    let rounds = rounds.max(exchange(&mut boards, &mut broker));
    are_one(&boards, &erased);
    laws(&sent);
    count(&counts.histories, 1);
    count(&counts.steps, steps.len() as u64);
    count(&counts.messages, sent.len() as u64);
    count(&counts.records, boards[0].records.len() as u64);
    let standing = &boards[0].standing;
    let merged = standing
        .people()
        .filter(|(_, who)| matches!(who, Who::Merged { .. }));
    count(&counts.merged, merged.count() as u64);
    count(&counts.erased, boards[0].erased().len() as u64);
    count(&counts.questions, standing.questions().len() as u64);
    counts.rounds.set(counts.rounds.get().max(rounds));
}

fn are_one(boards: &[Board], erased: &BTreeSet<Uid>) {
    let first = &boards[0];
    for board in boards {
        board.check();
        assert_eq!(board.records, first.records);
        assert_eq!(board.who(), first.who());
        assert!(
            board.erased().is_superset(erased),
            "an erased person came back"
        );
    }
}

/// Lets all boards connect to a broker that lost some messages, until nothing waits anywhere.
fn exchange(boards: &mut [Board], broker: &mut Broker) -> usize {
    for round in 0..ROUNDS {
        let before = broker.sent.len();
        for board in boards.iter_mut() {
            for bytes in broker.retained.values().cloned().collect::<Vec<_>>() {
                board.receive(&bytes);
            }
            // A board puts back what the broker does not have.
            let missing = |key: &&Key| !broker.retained.contains_key(*key);
            board.unsent.extend(board.records.keys().filter(missing));
            board.publish(usize::MAX, broker);
        }
        if broker.sent.len() == before {
            return round;
        }
    }
    panic!("the boards still send after {ROUNDS} rounds");
}

/// Checks the laws of joining on versions of one record that a history made.
fn laws(sent: &[(Key, Vec<u8>)]) {
    let mut versions: BTreeMap<Key, Vec<Record>> = BTreeMap::new();
    for (key, bytes) in sent {
        versions
            .entry(*key)
            .or_default()
            .push(Record::decode(bytes).unwrap());
    }
    for versions in versions.values() {
        for three in versions.windows(3) {
            let [a, b, c] = three else { continue };
            assert_eq!(a.join(a), *a);
            assert_eq!(a.join(b), b.join(a));
            assert_eq!(a.join(b).join(c), a.join(&b.join(c)));
            assert_eq!(c.join(b).join(a), a.join(&b.join(c)));
        }
    }
}

#[test]
fn boards_are_one_after_any_history() {
    let full = std::env::var_os("KITHD_FULL").is_some();
    let config = ProptestConfig {
        cases: if full { 100_000 } else { 1_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let counts = Counts::default();
    let begun = std::time::Instant::now();
    let result = TestRunner::new(config).run(&(3..=4_usize, steps()), |(boards, steps)| {
        play(boards, &steps, &counts);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, (boards, steps))) => panic!("{why}\n{boards} boards: {steps:#?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    println!(
        "{} histories of 3 or 4 boards, {} steps, {} messages; in the end {} records, {} people merged, {} erased, \
         {} questions; one after {} rounds at most; {}s",
        counts.histories.get(),
        counts.steps.get(),
        counts.messages.get(),
        counts.records.get(),
        counts.merged.get(),
        counts.erased.get(),
        counts.questions.get(),
        counts.rounds.get(),
        begun.elapsed().as_secs()
    );
}
