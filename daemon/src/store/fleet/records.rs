//! SQL of this board's copy of the fleet's records: opened for one operation of the writer, read,
//! written, and said anew from the people's tables where a row is damaged.
//!
//! Who is who follows from all records of people. It is kept in memory with the number of changes
//! that it is of, so that after a transaction that came to nothing it is made again.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest as _, Sha256};

use super::super::text;
use super::{Did, RecordSum};
use crate::domain::{PersonId, hex};
use crate::fleet::clock::{BoardId, Clock, Stamp};
use crate::fleet::record::{Body, Kind, PersonBody, Record, Uid};
use crate::fleet::standing::{Standing, Who};

/// The standing of all people, as of one number of changes.
#[derive(Debug)]
pub(in crate::store) struct Known {
    changes: i64,
    standing: Standing,
    counted: Counted,
}

/// Numbers of records that have a limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    /// All records.
    pub records: usize,
    /// People who are no tombstone.
    pub people: usize,
}

/// This board's copy of the records, open for one operation of the writer.
pub(in crate::store) struct Records<'a> {
    pub(super) connection: &'a Connection,
    pub(super) standing: Standing,
    pub(super) counted: Counted,
    pub(super) clock: Clock,
    pub(super) wall_ms: i64,
    /// Embedding space in use, if the gallery is in memory.
    pub(super) space: Option<&'a str>,
    /// Changes of the people's tables.
    pub(super) did: Did,
    /// Names of all that stays on this board, with the reason, a sentence each.
    pub(super) refused: Vec<String>,
    /// Rows are brought to what the records say, whatever was changed in them here.
    pub(super) records_win: bool,
    changed: bool,
    /// The standing is not of these records any more.
    stale: bool,
}

/// Wall clock and embedding space of an operation.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// Wall clock, milliseconds since 1970; it may be wrong.
    pub wall_ms: i64,
    /// Embedding space in use, if the gallery is in memory.
    pub space: Option<String>,
}

/// Runs an operation on this board's copy of the records; `None` when it is in no fleet.
pub(in crate::store) fn with_records<T>(
    connection: &Connection,
    known: &Mutex<Option<Known>>,
    now: &Now,
    operation: impl FnOnce(&mut Records<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    // It is put back at the end only: an operation that fails leaves nothing of itself in memory.
    let before = known.lock().take();
    let row: Option<([u8; 8], u64, u32, i64)> = connection
        .prepare_cached("SELECT board, clock_ms, clock_count, changes FROM fleet")?
        .query_row([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((board, clock_ms, clock_count, changes)) = row else {
        return Ok(None);
    };
    let mut records = Records {
        connection,
        standing: Standing::default(),
        counted: Counted::default(),
        clock: Clock::new(BoardId(board), clock_ms, clock_count),
        wall_ms: now.wall_ms,
        space: now.space.as_deref(),
        did: Did::default(),
        refused: Vec::new(),
        records_win: false,
        changed: false,
        stale: false,
    };
    match before.filter(|known| known.changes == changes) {
        Some(known) => (records.standing, records.counted) = (known.standing, known.counted),
        None => records.read_people()?,
    }
    let answer = operation(&mut records)?;
    let changes = changes + i64::from(records.changed);
    let (ms, count) = records.clock.last();
    if records.changed || (ms, count) != (clock_ms, clock_count) {
        connection
            .prepare_cached("UPDATE fleet SET clock_ms = ?1, clock_count = ?2, changes = ?3")?
            .execute(params![ms, count, changes])?;
    }
    if !records.stale {
        *known.lock() = Some(Known {
            changes,
            standing: records.standing,
            counted: records.counted,
        });
    }
    Ok(Some(answer))
}

/// Returns the sum that a row keeps of its record.
pub(super) fn digest(record: &[u8]) -> RecordSum {
    let sum = Sha256::digest(record);
    sum.first_chunk().copied().unwrap_or_default()
}

/// Returns the uid of a blob of 16 bytes.
pub(super) fn uid_of(blob: &[u8]) -> Option<Uid> {
    blob.try_into().ok()
}

/// Returns a sha256 written in hexadecimal.
pub(super) fn sum_of(sha256: &str) -> Option<[u8; 32]> {
    let mut sum = [0; 32];
    if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in sum.iter_mut().enumerate() {
        *byte = u8::from_str_radix(sha256.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(sum)
}

/// An enrolled picture in the people's tables.
pub(super) struct PictureRow {
    pub id: i64,
    pub person: PersonId,
    pub sha256: String,
}

impl Records<'_> {
    /// Reads all records of people.
    fn read_people(&mut self) -> rusqlite::Result<()> {
        self.counted.records =
            self.connection
                .query_row("SELECT count(*) FROM fleet_records", [], |row| row.get(0))?;
        let mut damaged = Vec::new();
        {
            let mut rows = self
                .connection
                .prepare_cached("SELECT uid, record, digest FROM fleet_records WHERE kind = 1")?;
            let mut rows = rows.query([])?;
            while let Some(row) = rows.next()? {
                let Some(uid) = uid_of(row.get_ref(0)?.as_blob()?) else {
                    continue;
                };
                let bytes = row.get_ref(1)?.as_blob()?;
                match intact(Kind::Person, &uid, bytes, row.get_ref(2)?.as_blob()?) {
                    Ok(record) => {
                        self.counted.people += usize::from(record.body().is_some());
                        self.standing.take(&record);
                    }
                    Err(why) => damaged.push((uid, why)),
                }
            }
        }
        for (uid, why) in damaged {
            if let Some(record) = self.say_anew(Kind::Person, &uid, &why)? {
                self.standing.take(&record);
            }
        }
        Ok(())
    }

    /// Returns a stamp above all that this board has given or seen.
    pub fn now(&mut self) -> Stamp {
        self.clock.now(self.wall_ms)
    }

    /// Returns a record; one that is damaged is said anew.
    pub fn load(&mut self, kind: Kind, uid: &Uid) -> rusqlite::Result<Option<Record>> {
        let found = {
            let mut row = self.connection.prepare_cached(
                "SELECT record, digest FROM fleet_records WHERE kind = ?1 AND uid = ?2",
            )?;
            let mut rows = row.query(params![kind as i64, uid])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            intact(
                kind,
                uid,
                row.get_ref(0)?.as_blob()?,
                row.get_ref(1)?.as_blob()?,
            )
        };
        match found {
            Ok(record) => Ok(Some(record)),
            Err(why) => {
                self.stale |= kind == Kind::Person;
                self.say_anew(kind, uid, &why)
            }
        }
    }

    /// Replaces a damaged record by what the people's tables say of it. Its stamps are the lowest
    /// there are, unless the broker lacks the record, so that the fleet's own copy counts for more.
    pub(super) fn say_anew(
        &mut self,
        kind: Kind,
        uid: &Uid,
        why: &str,
    ) -> rusqlite::Result<Option<Record>> {
        tracing::error!(
            "the record {} of the fleet is damaged ({why}); kithd makes it anew from what is here",
            hex(uid)
        );
        let (incarnation, alive, unsent): (u32, bool, bool) = self.connection.query_row(
            "SELECT incarnation, alive, unsent FROM fleet_records WHERE kind = ?1 AND uid = ?2",
            params![kind as i64, uid],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let person: Option<Vec<u8>> = self
            .connection
            .prepare_cached(
                "DELETE FROM fleet_records WHERE kind = ?1 AND uid = ?2 RETURNING person",
            )?
            .query_row(params![kind as i64, uid], |row| row.get(0))?;
        self.changed = true;
        self.counted.records -= 1;
        let stamp = if unsent { self.now() } else { self.lowest() };
        let anew = match kind {
            _ if !alive => Some(Record::tombstone(kind, *uid, incarnation)),
            Kind::Person => self.person_of_tables(uid, stamp)?,
            Kind::Picture => match self.picture_row(uid)? {
                Some(row) => self.picture_of_tables(&row, incarnation, stamp)?,
                None => None,
            },
            Kind::Counter => {
                // Compared with the records soon, which makes the missing one.
                self.connection
                    .prepare_cached(
                        "INSERT INTO fleet_changes SELECT 3, ?1 WHERE ?1 IS NOT NULL
                         ON CONFLICT DO NOTHING",
                    )?
                    .execute([person])?;
                None
            }
            Kind::Board => None,
        };
        if let Some(record) = &anew {
            self.put(record, true)?;
        }
        Ok(anew)
    }

    /// Returns the stamp that every other one is above.
    fn lowest(&self) -> Stamp {
        Stamp {
            ms: 0,
            count: 0,
            board: self.clock.board(),
        }
    }

    /// Writes a record. `unsent`: the broker does not have it like this.
    pub fn put(&mut self, record: &Record, unsent: bool) -> rusqlite::Result<()> {
        let (kind, uid, alive) = (record.kind(), record.uid(), record.body().is_some());
        let was: Option<bool> = self
            .connection
            .prepare_cached("SELECT alive FROM fleet_records WHERE kind = ?1 AND uid = ?2")?
            .query_row(params![kind as i64, uid], |row| row.get(0))
            .optional()?;
        self.counted.records += usize::from(was.is_none());
        if kind == Kind::Person {
            self.counted.people += usize::from(alive);
            self.counted.people -= usize::from(was == Some(true));
        }
        let person = match record.body() {
            Some(Body::Picture(picture)) => Some(picture.person.value),
            Some(Body::Counter(counter)) => Some(counter.person),
            _ => None,
        };
        let bytes = record.encode();
        self.changed = true;
        self.connection
            .prepare_cached(
                "INSERT INTO fleet_records (kind, uid, incarnation, alive, person, unsent, digest, record)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (kind, uid) DO UPDATE SET
                    incarnation = excluded.incarnation, alive = excluded.alive, person = excluded.person,
                    unsent = excluded.unsent, digest = excluded.digest, record = excluded.record",
            )?
            .execute(params![
                kind as i64,
                uid,
                record.incarnation(),
                alive,
                person,
                unsent,
                digest(&bytes),
                bytes
            ])
            .map(drop)
    }

    /// Notes whether the broker has a record as it is here.
    pub fn mark(&self, kind: Kind, uid: &Uid, unsent: bool) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE fleet_records SET unsent = ?3 WHERE kind = ?1 AND uid = ?2 AND unsent <> ?3",
            )?
            .execute(params![kind as i64, uid, unsent])
            .map(drop)
    }

    /// Says in a record what this board's operator did, and returns the people who are others now.
    pub fn edit(&mut self, record: &Record) -> rusqlite::Result<BTreeSet<Uid>> {
        self.put(record, true)?;
        Ok(match record.kind() {
            Kind::Person => self.standing.take(record),
            _ => BTreeSet::new(),
        })
    }

    /// Returns whether a person is erased.
    pub fn is_erased(&self, uid: &Uid) -> bool {
        matches!(self.standing.who(uid), Some(Who::Erased))
    }

    /// Returns the row of the person that a uid stands for.
    pub fn row_now(&self, uid: &Uid) -> rusqlite::Result<Option<PersonId>> {
        match self.standing.representative(uid) {
            Some(person) => self.row_of(&person),
            None => Ok(None),
        }
    }

    /// Returns the row with this uid.
    pub fn row_of(&self, uid: &Uid) -> rusqlite::Result<Option<PersonId>> {
        self.connection
            .prepare_cached("SELECT id FROM person WHERE uid = ?1")?
            .query_row([uid], |row| row.get(0))
            .optional()
    }

    /// Returns the row of an enrolled picture.
    pub(super) fn picture_row(&self, uid: &Uid) -> rusqlite::Result<Option<PictureRow>> {
        let (first, last) = sums_of(uid);
        self.connection
            .prepare_cached(
                "SELECT id, person_id, sha256 FROM person_images WHERE sha256 BETWEEN ?1 AND ?2",
            )?
            .query_row([first, last], |row| {
                Ok(PictureRow {
                    id: row.get(0)?,
                    person: row.get(1)?,
                    sha256: row.get(2)?,
                })
            })
            .optional()
    }

    /// Returns the uids of a person's records of one kind.
    pub fn records_of(&self, kind: Kind, person: &Uid) -> rusqlite::Result<Vec<Uid>> {
        self.connection
            .prepare_cached("SELECT uid FROM fleet_records WHERE person = ?1 AND kind = ?2")?
            .query_map(params![person, kind as i64], |row| row.get(0))?
            .collect()
    }

    /// Says about a person what the people's tables do; `None` when they do not know them.
    pub fn person_of_tables(
        &mut self,
        uid: &Uid,
        stamp: Stamp,
    ) -> rusqlite::Result<Option<Record>> {
        let erased = "SELECT 1 FROM erased WHERE uid = ?1";
        if self.connection.prepare_cached(erased)?.exists([uid])? {
            return Ok(Some(Record::tombstone(Kind::Person, *uid, 0)));
        }
        let into = self.merged_into(uid)?;
        let name: Option<String> = self
            .connection
            .prepare_cached("SELECT name FROM person WHERE uid = ?1")?
            .query_row([into.unwrap_or(*uid)], |row| text(row, 0))
            .optional()?;
        let Some(name) = name else { return Ok(None) };
        let mut person = PersonBody::new(self.now(), name);
        person.name.stamp = stamp;
        if let Some(into) = into {
            person.merge_into(into, stamp);
        }
        Ok(self.made(*uid, 0, Body::Person(person)))
    }

    /// Makes a record; what cannot become one stays on this board, and is named.
    pub fn made(&mut self, uid: Uid, incarnation: u32, body: Body) -> Option<Record> {
        let name = match &body {
            Body::Person(person) => person.name.value.clone(),
            Body::Picture(picture) => format!("the picture {}", picture.content.value.image_name),
            Body::Counter(_) => "a counter-example".into(),
            Body::Board(_) => "what this board says of itself".into(),
        };
        Record::new(uid, incarnation, body)
            .map_err(|error| self.stays_here(&name, &error))
            .ok()
    }

    /// Notes what stays on this board, and why.
    pub fn stays_here(&mut self, what: &str, why: &dyn std::fmt::Display) {
        self.refused
            .push(format!("{what} stays on this board: {why}"));
    }

    /// Follows the table of merges from a person who has no row to one who has.
    pub fn merged_into(&self, uid: &Uid) -> rusqlite::Result<Option<Uid>> {
        self.connection
            .prepare_cached(
                "WITH RECURSIVE later (uid) AS (SELECT into_uid FROM merged WHERE uid = ?1
                    UNION SELECT merged.into_uid FROM merged JOIN later ON merged.uid = later.uid)
                 SELECT person.uid FROM person JOIN later ON person.uid = later.uid
                  WHERE NOT EXISTS (SELECT 1 FROM person WHERE uid = ?1) AND length(person.uid) = 16",
            )?
            .query_row([uid], |row| row.get(0))
            .optional()
    }

    /// Returns a person's uid and those of all who were merged into them.
    pub fn members(&self, uid: &Uid) -> rusqlite::Result<Vec<Uid>> {
        let members: Vec<Vec<u8>> = self
            .connection
            .prepare_cached(
                "WITH RECURSIVE they (uid) AS (VALUES (?1) UNION
                    SELECT merged.uid FROM merged JOIN they ON merged.into_uid = they.uid)
                 SELECT uid FROM they",
            )?
            .query_map([uid], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        Ok(members.iter().filter_map(|uid| uid_of(uid)).collect())
    }
}

/// Returns the lowest and the highest sha256, in hexadecimal, that begin like a picture's uid.
pub(super) fn sums_of(uid: &Uid) -> (String, String) {
    let first = hex(uid);
    let last = format!("{first}g");
    (first, last)
}

/// Decodes a record of one kind and uid; otherwise says what is wrong with its row.
pub(super) fn intact(kind: Kind, uid: &Uid, bytes: &[u8], sum: &[u8]) -> Result<Record, String> {
    if digest(bytes) != sum {
        return Err("its sum is not that of its bytes".into());
    }
    let record = Record::decode(bytes).map_err(|error| error.to_string())?;
    if (record.kind(), record.uid()) != (kind, uid) {
        return Err("it is of another person or picture".into());
    }
    Ok(record)
}
