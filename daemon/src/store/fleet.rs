//! SQL of the fleet: this board's membership and its copy of the records, from which its people
//! follow.
//!
//! `fleet/capture` makes records of what is changed here, `fleet/apply` brings the people's tables
//! to what the records say, and `fleet/records` reads and writes single records. A record that
//! comes is taken in one savepoint: what changed here is captured first, then the two are joined
//! and the result is applied. So the tables always say what the records do, besides the changes
//! noted in `fleet_changes`.

mod apply;
mod capture;
mod records;
#[cfg(test)]
mod tests;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Commit, Store, StoreError, erase, text};
use crate::domain::{PersonId, wall_clock_ms};
use crate::fleet::clock::BoardId;
use crate::fleet::record::{BoardBody, BoardState, Body, Field, Kind, Record, Uid, board_uid};
use crate::fleet::standing::Who;
pub use records::Now;
pub(super) use records::{Known, with_records};
use records::{Records, intact, uid_of};

/// Most records of a fleet.
pub const MOST_RECORDS: usize = 200_000;
/// Most people of a fleet.
pub const MOST_PEOPLE: usize = 20_000;
/// Most pictures of a person in a fleet.
pub const MOST_PICTURES: usize = 100;

/// First half of the sha256 of a record's bytes: names one content of it.
pub type RecordSum = [u8; 16];

/// A board's membership in a fleet.
#[derive(Clone, PartialEq, Eq)]
pub struct Membership {
    /// Name of the fleet.
    pub name: String,
    /// Prefix of its topics.
    pub prefix: String,
    /// Address of the broker at which its boards meet.
    pub broker: String,
    /// Key of the fleet.
    pub secret: [u8; 32],
    /// Random; names this board in stamps.
    pub board: BoardId,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .field("broker", &self.broker)
            .finish_non_exhaustive()
    }
}

/// Changes that an operation made to the people's tables.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Did {
    /// The gallery in memory is to be read again.
    pub changed: bool,
    /// People were merged; past results follow.
    pub merged: bool,
    /// People were erased; their traces in past results follow.
    pub erased: bool,
    /// Pictures or counter-examples were removed, which copies still hold.
    pub removed: bool,
}

/// Outcome of taking a record that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It said something new.
    New,
    /// This board knows more than it says; the board's own is to be sent.
    Older,
    /// It is the board's own, word for word.
    Same,
    /// It is refused, with a sentence that says why. Nothing changed.
    Refused(String),
}

/// Result of a capture.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Changes of the people's tables: a person's name depends on those of the others.
    pub did: Did,
    /// Changes are left to be captured.
    pub more: bool,
    /// Names of all that stays on this board, with the reason, a sentence each.
    pub refused: Vec<String>,
}

/// A record that the broker does not have.
#[derive(Debug, Clone, PartialEq)]
pub struct Unsent {
    /// The record.
    pub record: Record,
    /// Sum of its bytes, by which it is marked as sent.
    pub digest: RecordSum,
}

/// Numbers of a fleet, for the page.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct FleetCounts {
    /// People who are here.
    pub people: u64,
    /// People of the fleet.
    pub of_people: u64,
    /// Pictures that are here.
    pub pictures: u64,
    /// Pictures of the fleet.
    pub of_pictures: u64,
    /// Records that the broker does not have yet.
    pub waiting: u64,
    /// Changes that are not captured yet.
    pub uncaptured: u64,
    /// Names that several people have, who may be one.
    pub questions: u64,
}

/// People of one name who may be one: until they are merged or renamed they are several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The people, each with the name by which they are shown.
    pub people: Vec<(PersonId, String)>,
}

impl Store {
    /// Returns this board's membership.
    pub async fn fleet(&self) -> Result<Option<Membership>, StoreError> {
        self.read_latest(|connection| {
            connection
                .prepare_cached("SELECT name, prefix, broker, secret, board FROM fleet")?
                .query_row([], |row| {
                    Ok(Membership {
                        name: text(row, 0)?,
                        prefix: text(row, 1)?,
                        broker: text(row, 2)?,
                        secret: row.get(3)?,
                        board: BoardId(row.get(4)?),
                    })
                })
                .optional()
        })
        .await
    }

    /// Makes this board a member of a fleet, and all of its people changes to be captured. False if
    /// it is in a fleet already.
    pub async fn join_fleet(&self, membership: Membership) -> Result<bool, StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Durable, move |connection| {
            known.lock().take();
            let joined = connection.execute(
                "INSERT OR IGNORE INTO fleet (id, name, prefix, broker, secret, board, joined_at_ms)
                 VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    membership.name,
                    membership.prefix,
                    membership.broker,
                    membership.secret,
                    membership.board.0,
                    wall_clock_ms()
                ],
            )?;
            if joined == 0 {
                return Ok(false);
            }
            connection.execute_batch("DELETE FROM fleet_records; DELETE FROM fleet_changes;")?;
            mark_all(connection)?;
            Ok(true)
        })
        .await
    }

    /// Ends the membership. `keep`: all people stay; otherwise those who were created on other
    /// boards are erased here, without tombstones. Returns what was done to the people's tables;
    /// `None` when the board is in no fleet.
    pub async fn leave_fleet(&self, keep: bool) -> Result<Option<Did>, StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Durable, move |connection| {
            let left = with_records(connection, &known, &Now::default(), |records| {
                if !keep {
                    records.erase_foreign()?;
                }
                Ok(records.did)
            })?;
            known.lock().take();
            connection.execute_batch(
                "DELETE FROM fleet; DELETE FROM fleet_records; DELETE FROM fleet_changes;",
            )?;
            Ok(left)
        })
        .await
    }

    /// Gives a member the fleet's new key: everything is to be sent under it. `clear`: what the
    /// broker holds under the former one is to be removed by this board.
    pub async fn rekey_fleet(&self, secret: [u8; 32], clear: bool) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            connection.execute(
                "UPDATE fleet SET former = iif(?2, secret, former), secret = ?1 WHERE secret <> ?1",
                params![secret, clear],
            )?;
            connection.execute("UPDATE fleet_records SET unsent = 1", [])?;
            Ok(())
        })
        .await
    }

    /// Returns the secret under which the broker still holds records that this board removes.
    pub async fn former_fleet_secret(&self) -> Result<Option<[u8; 32]>, StoreError> {
        self.read_latest(|connection| {
            let former = connection
                .prepare_cached("SELECT former FROM fleet")?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok(former.flatten())
        })
        .await
    }

    /// Notes that the broker holds nothing under the former secret.
    pub async fn forget_former_fleet_secret(&self) -> Result<(), StoreError> {
        self.write(Commit::Durable, |connection| {
            connection
                .execute("UPDATE fleet SET former = NULL", [])
                .map(drop)
        })
        .await
    }

    /// Returns whether something changed here that is not captured yet.
    pub async fn fleet_has_changes(&self) -> Result<bool, StoreError> {
        self.read_latest(|connection| {
            connection
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM fleet_changes)")?
                .query_row([], |row| row.get(0))
        })
        .await
    }

    /// Returns when the newest result was made, wall clock.
    pub async fn last_result_ms(&self) -> Result<Option<i64>, StoreError> {
        self.read(|connection| {
            let newest = "SELECT i.finished_at_ms FROM results r JOIN images i ON i.id = r.image_id
                           ORDER BY r.id DESC LIMIT 1";
            let ended = connection
                .prepare_cached(newest)?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok(ended.flatten())
        })
        .await
    }

    /// Makes records of what changed here, of pictures a bounded number.
    pub async fn capture_fleet(&self, now: Now) -> Result<Captured, StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Durable, move |connection| {
            let captured = with_records(connection, &known, &now, |records| {
                let more = records.capture()?;
                Ok(Captured {
                    did: records.did,
                    more,
                    refused: std::mem::take(&mut records.refused),
                })
            })?;
            Ok(captured.unwrap_or_default())
        })
        .await
    }

    /// Takes records that came, each in a savepoint of its own. One that cannot be stored is
    /// refused, and the others are taken. Returns what became of each, and what all did to the
    /// people's tables.
    pub async fn take_fleet_records(
        &self,
        came: Vec<Record>,
        now: Now,
    ) -> Result<(Vec<Taken>, Did), StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Durable, move |connection| {
            let (mut taken, mut did) = (Vec::new(), Did::default());
            for record in &came {
                connection.execute_batch("SAVEPOINT record")?;
                let one = with_records(connection, &known, &now, |records| {
                    Ok((records.take(record)?, records.did))
                });
                match one {
                    Ok(Some((outcome, done))) => {
                        taken.push(outcome);
                        did.add(done);
                    }
                    Ok(None) => taken.push(Taken::Refused("this board is in no fleet".into())),
                    Err(rusqlite::Error::SqliteFailure(error, why))
                        if error.code == rusqlite::ErrorCode::ConstraintViolation =>
                    {
                        connection.execute_batch("ROLLBACK TO record")?;
                        let why = why.unwrap_or_default();
                        taken.push(Taken::Refused(format!("it does not fit here: {why}")));
                    }
                    Err(error) => return Err(error),
                }
                connection.execute_batch("RELEASE record")?;
            }
            Ok((taken, did))
        })
        .await
    }

    /// Returns records that the broker does not have, people first: at most this many, and at least
    /// one, but no more than this many bytes.
    pub async fn unsent_fleet_records(
        &self,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<Unsent>, StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Deferred, move |connection| {
            let unsent = with_records(connection, &known, &Now::default(), |records| {
                records.unsent(most, bytes)
            })?;
            Ok(unsent.unwrap_or_default())
        })
        .await
    }

    /// Notes that the broker has these records, unless they have changed since.
    pub async fn fleet_records_sent(
        &self,
        sent: Vec<(Kind, Uid, RecordSum)>,
    ) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            let mut mark = connection.prepare_cached(
                "UPDATE fleet_records SET unsent = 0
                  WHERE kind = ?1 AND uid = ?2 AND digest = ?3 AND unsent = 1",
            )?;
            sent.iter().try_for_each(|(kind, uid, digest)| {
                mark.execute(params![*kind as i64, uid, digest]).map(drop)
            })
        })
        .await
    }

    /// Notes that the broker has lost these records.
    pub async fn put_fleet_records_back(&self, lost: Vec<(Kind, Uid)>) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            let mut mark = connection.prepare_cached(
                "UPDATE fleet_records SET unsent = 1 WHERE kind = ?1 AND uid = ?2 AND unsent = 0",
            )?;
            lost.iter()
                .try_for_each(|(kind, uid)| mark.execute(params![*kind as i64, uid]).map(drop))
        })
        .await
    }

    /// Lists all records that the broker should have, by kind and uid.
    pub async fn sent_fleet_records(&self) -> Result<Vec<(Kind, Uid)>, StoreError> {
        self.settle().await?;
        self.read_dear(|connection| {
            let mut all = connection
                .prepare_cached("SELECT kind, uid FROM fleet_records WHERE unsent = 0")?;
            let mut rows = all.query([])?;
            let mut sent = Vec::new();
            while let Some(row) = rows.next()? {
                let kind = Kind::from_number(row.get(0)?);
                if let (Some(kind), Some(uid)) = (kind, uid_of(row.get_ref(1)?.as_blob()?)) {
                    sent.push((kind, uid));
                }
            }
            Ok(sent)
        })
        .await
    }

    /// Counts what this board has of the fleet's people; `None` when it is in no fleet.
    pub async fn fleet_counts(&self) -> Result<Option<FleetCounts>, StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Deferred, move |connection| {
            with_records(connection, &known, &Now::default(), |records| {
                records.counts()
            })
        })
        .await
    }

    /// Returns names that several people have, who may be one.
    pub async fn fleet_questions(&self) -> Result<Vec<Question>, StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Deferred, move |connection| {
            let questions = with_records(connection, &known, &Now::default(), |records| {
                records.questions()
            })?;
            Ok(questions.unwrap_or_default())
        })
        .await
    }

    /// Says how this board is.
    pub async fn set_fleet_board(&self, state: BoardState, now: Now) -> Result<(), StoreError> {
        let known = self.fleet.clone();
        self.write(Commit::Deferred, move |connection| {
            with_records(connection, &known, &now, |records| {
                records.set_board(state.clone())
            })
            .map(drop)
        })
        .await
    }

    /// Returns what the boards of the fleet said of themselves last, this one too.
    pub async fn fleet_boards(&self) -> Result<Vec<Record>, StoreError> {
        self.read_latest(|connection| {
            let mut boards = connection
                .prepare_cached("SELECT uid, record, digest FROM fleet_records WHERE kind = 4")?;
            let mut rows = boards.query([])?;
            let mut boards = Vec::new();
            while let Some(row) = rows.next()? {
                let Some(uid) = uid_of(row.get_ref(0)?.as_blob()?) else {
                    continue;
                };
                let (bytes, sum) = (row.get_ref(1)?.as_blob()?, row.get_ref(2)?.as_blob()?);
                // A damaged one costs itself only: the board says it again.
                boards.extend(intact(Kind::Board, &uid, bytes, sum));
            }
            Ok(boards)
        })
        .await
    }
}

impl Did {
    /// Adds what another operation did.
    pub fn add(&mut self, other: Self) {
        self.changed |= other.changed;
        self.merged |= other.merged;
        self.erased |= other.erased;
        self.removed |= other.removed;
    }
}

/// Applies the fleet's records to tables that a backup replaced or added to: they win, and what only
/// the backup has is to be captured. Does nothing outside a fleet.
pub(super) fn records_win(
    connection: &Connection,
    known: &parking_lot::Mutex<Option<Known>>,
) -> rusqlite::Result<()> {
    let now = Now {
        wall_ms: wall_clock_ms(),
        space: None,
    };
    with_records(connection, known, &now, |records| {
        records.apply_all()?;
        mark_all(connection)
    })
    .map(drop)
}

/// Makes all people, pictures, counter-examples, merges and tombstones changes to be captured.
fn mark_all(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "INSERT INTO fleet_changes
           SELECT 1, coalesce(uid, x'') FROM person UNION SELECT 1, uid FROM erased
            UNION SELECT 1, uid FROM merged UNION SELECT 2, sha256 FROM person_images
            UNION SELECT 3, uid FROM person JOIN counter_examples ON person_id = person.id
                   WHERE uid IS NOT NULL
           ON CONFLICT DO NOTHING;",
    )
}

impl Records<'_> {
    /// Takes a record that came.
    fn take(&mut self, came: &Record) -> rusqlite::Result<Taken> {
        self.capture_people()?;
        match came.kind() {
            // A change of people moves their pictures.
            Kind::Person => self.capture_few_pictures()?,
            Kind::Picture => self.capture_one(came.uid())?,
            Kind::Counter | Kind::Board => {}
        }
        let ours = self.load(came.kind(), came.uid())?;
        if let Some(why) = self.objection(came, ours.as_ref())? {
            return Ok(Taken::Refused(why));
        }
        if let Some(latest) = came.latest() {
            self.clock.saw(&latest);
        }
        let ours = match (ours, came.kind()) {
            // Known as erased from before this board was in the fleet.
            (None, Kind::Person) if self.is_in_erased(came.uid())? => {
                Some(Record::tombstone(Kind::Person, *came.uid(), 0))
            }
            (ours, _) => ours,
        };
        let joined = match &ours {
            Some(ours) => ours.join(came),
            None => came.clone(),
        };
        let here_already = ours.as_ref() == Some(&joined);
        let there_already = joined == *came;
        if here_already {
            self.mark(came.kind(), came.uid(), !there_already)?;
            if there_already {
                return Ok(Taken::Same);
            }
            return Ok(Taken::Older);
        }
        self.put(&joined, !there_already)?;
        match came.kind() {
            Kind::Person => {
                let mut changed = self.standing.take(&joined);
                changed.insert(*came.uid());
                self.settle(changed)?;
            }
            Kind::Picture => self.place_picture(came.uid())?,
            Kind::Counter => {
                for record in [ours.as_ref(), Some(&joined)].into_iter().flatten() {
                    if let Some(counter) = record.counter() {
                        self.settle_counter(came.uid(), &counter.person)?;
                    }
                }
            }
            Kind::Board => {}
        }
        Ok(Taken::New)
    }

    /// Returns why a record cannot be taken.
    fn objection(&self, came: &Record, ours: Option<&Record>) -> rusqlite::Result<Option<String>> {
        if let Some(person) = came.person()
            && crate::names::given_to_person(&person.name.value).as_ref() != Ok(&person.name.value)
        {
            return Ok(Some("its name is none that kithd gives to a person".into()));
        }
        if ours.is_some() {
            return Ok(None);
        }
        if let (Some(_), Some(limit)) = (came.body(), self.no_room(came.kind())) {
            return Ok(Some(limit));
        }
        match came.picture() {
            Some(picture) => self.no_room_with(&picture.person.value),
            None => Ok(None),
        }
    }

    fn is_in_erased(&self, uid: &Uid) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM erased WHERE uid = ?1")?
            .exists([uid])
    }

    /// Brings one counter-example to what its record says.
    fn settle_counter(&mut self, uid: &Uid, person: &Uid) -> rusqlite::Result<()> {
        if self.is_erased(person) {
            return self.bury_one(Kind::Counter, uid);
        }
        match self.standing.representative(person) {
            Some(person) => self.place_counters(&person),
            None => Ok(()),
        }
    }

    fn unsent(&mut self, most: usize, bytes: usize) -> rusqlite::Result<Vec<Unsent>> {
        let keys: Vec<(u32, Vec<u8>)> = self
            .connection
            .prepare_cached(
                "SELECT kind, uid FROM fleet_records WHERE unsent = 1 ORDER BY kind, id LIMIT ?1",
            )?
            .query_map([most], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let (mut unsent, mut sum) = (Vec::new(), 0);
        for (kind, uid) in keys {
            let (Some(kind), Some(uid)) = (Kind::from_number(kind), uid_of(&uid)) else {
                continue;
            };
            let Some(record) = self.load(kind, &uid)? else {
                continue;
            };
            let encoded = record.encode();
            sum += encoded.len();
            if sum > bytes && !unsent.is_empty() {
                break;
            }
            unsent.push(Unsent {
                record,
                digest: records::digest(&encoded),
            });
        }
        Ok(unsent)
    }

    fn counts(&mut self) -> rusqlite::Result<FleetCounts> {
        let count = |sql: &str| {
            self.connection
                .prepare_cached(sql)?
                .query_row([], |row| row.get::<_, u64>(0))
        };
        let here = self.standing.people();
        let here = here.filter(|(_, who)| matches!(who, Who::Here { .. }));
        Ok(FleetCounts {
            people: count("SELECT count(*) FROM person")?,
            of_people: here.count() as u64,
            pictures: count("SELECT count(*) FROM person_images")?,
            of_pictures: count(
                "SELECT count(*) FROM fleet_records WHERE person IS NOT NULL AND kind = 2",
            )?,
            waiting: count("SELECT count(*) FROM fleet_records WHERE unsent = 1")?,
            uncaptured: count("SELECT count(*) FROM fleet_changes")?,
            questions: self.standing.questions().len() as u64,
        })
    }

    fn questions(&mut self) -> rusqlite::Result<Vec<Question>> {
        let mut questions = Vec::new();
        for uids in self.standing.questions() {
            let mut people = Vec::new();
            for uid in uids {
                let row = self
                    .connection
                    .prepare_cached("SELECT id, name FROM person WHERE uid = ?1")?
                    .query_row([uid], |row| Ok((row.get(0)?, text(row, 1)?)))
                    .optional()?;
                people.extend(row);
            }
            questions.push(Question { people });
        }
        Ok(questions)
    }

    /// Says how this board is.
    fn set_board(&mut self, state: BoardState) -> rusqlite::Result<()> {
        let (uid, stamp) = (board_uid(self.clock.board()), self.now());
        let body = Body::Board(BoardBody {
            state: Field::new(stamp, state),
        });
        match self.made(uid, 0, body) {
            Some(record) => self.edit(&record).map(drop),
            None => Ok(()),
        }
    }

    /// Erases here the people who were created on other boards, without tombstones.
    fn erase_foreign(&mut self) -> rusqlite::Result<()> {
        let uids: Vec<Uid> = self
            .connection
            .prepare("SELECT uid FROM fleet_records WHERE kind = 1 AND alive = 1")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let own = self.clock.board();
        for uid in uids {
            let record = self.load(Kind::Person, &uid)?;
            let created = record
                .as_ref()
                .and_then(Record::person)
                .map(|person| person.created);
            if created.is_none_or(|created| created.board == own) {
                continue;
            }
            let Some(row) = self.row_of(&uid)? else {
                continue;
            };
            let members = self.members(&uid)?;
            let people = erase::erase_person(self.connection, row)?.unwrap_or_default();
            let people = [erase::erasing(self.connection)?, people].concat();
            erase::note_erasing(self.connection, &people)?;
            for member in members {
                self.connection
                    .prepare_cached("DELETE FROM erased WHERE uid = ?1")?
                    .execute([member])?;
            }
            (self.did.changed, self.did.erased) = (true, true);
        }
        Ok(())
    }
}
