//! Applying: the people's tables become what the records say.
//!
//! Nothing is decided here: a row is made, moved, renamed or removed as the records say, and rows
//! that no record knows stay as they are.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, params};

use super::super::people::{PictureRow, insert_picture_row, merge_rows, write_name};
use super::super::{erase, sightings, text, vector_to_blob};
use super::records::{Records, sums_of, uid_of};
use crate::domain::{PersonId, hex, sha256, wall_clock_ms};
use crate::fleet::record::{Kind, PictureBody, Record, Uid, counter_uid};
use crate::fleet::standing::Who;
use crate::names;

impl Records<'_> {
    /// Brings the rows of people who are others now, and of their pictures and counter-examples, to
    /// what the records say.
    pub(super) fn settle(&mut self, mut changed: BTreeSet<Uid>) -> rusqlite::Result<()> {
        self.bury(&mut changed)?;
        let mut of_counters = BTreeSet::new();
        for uid in &changed {
            if self.is_erased(uid) {
                of_counters.extend(self.erase(uid)?);
            }
        }
        for uid in &changed {
            if let Some(Who::Merged { into }) = self.standing.who(uid).cloned() {
                self.merge(uid, &into)?;
            }
        }
        self.name(&changed)?;
        for uid in &changed {
            if let Some(person) = self.standing.representative(uid) {
                self.place_pictures(uid)?;
                of_counters.insert(person);
            }
        }
        for person in of_counters {
            self.place_counters(&person)?;
        }
        Ok(())
    }

    /// Replaces the records of erased people by tombstones, of those too who were merged into one.
    fn bury(&mut self, changed: &mut BTreeSet<Uid>) -> rusqlite::Result<()> {
        let mut left: Vec<Uid> = changed.iter().copied().collect();
        while let Some(uid) = left.pop() {
            if !self.is_erased(&uid) {
                continue;
            }
            let alive = self
                .load(Kind::Person, &uid)?
                .is_some_and(|record| record.body().is_some());
            if alive {
                let more = self.edit(&Record::tombstone(Kind::Person, uid, 0))?;
                left.extend(more.into_iter().filter(|uid| changed.insert(*uid)));
            }
        }
        Ok(())
    }

    /// Erases a person from the people's tables, and their pictures and counter-examples from the
    /// records. Returns the people whose counter-examples are to be placed again.
    fn erase(&mut self, uid: &Uid) -> rusqlite::Result<Vec<Uid>> {
        let mut of_counters = Vec::new();
        for picture in self.records_of(Kind::Picture, uid)? {
            self.bury_one(Kind::Picture, &picture)?;
            self.remove_picture(&picture)?;
        }
        // They lie with the person that this one was merged into.
        let into = self.merged_into(uid)?;
        for counter in self.records_of(Kind::Counter, uid)? {
            let record = self.load(Kind::Counter, &counter)?;
            if let (Some(into), Some(counter)) = (&into, record.as_ref().and_then(Record::counter))
            {
                self.connection
                    .prepare_cached(
                        "DELETE FROM counter_examples WHERE crop = ?2
                            AND person_id = (SELECT id FROM person WHERE uid = ?1)",
                    )?
                    .execute(params![into, counter.crop])?;
                of_counters.push(*into);
            }
            self.bury_one(Kind::Counter, &counter)?;
        }
        let people = match self.row_of(uid)? {
            Some(row) => {
                self.bury_counters_showing(row)?;
                erase::erase_person(self.connection, row)?.unwrap_or_default()
            }
            None => {
                let known = self
                    .connection
                    .prepare_cached(
                        "INSERT OR IGNORE INTO erased (uid, erased_at_ms) VALUES (?1, ?2)",
                    )?
                    .execute(params![uid, wall_clock_ms()])?
                    == 0;
                let number: Option<Option<PersonId>> = self
                    .connection
                    .prepare_cached("DELETE FROM merged WHERE uid = ?1 RETURNING person_id")?
                    .query_row([uid], |row| row.get(0))
                    .optional()?;
                if known && number.is_none() {
                    return Ok(of_counters);
                }
                number.flatten().into_iter().collect()
            }
        };
        if !people.is_empty() {
            let people = [erase::erasing(self.connection)?, people].concat();
            erase::note_erasing(self.connection, &people)?;
            (self.did.changed, self.did.erased) = (true, true);
        }
        Ok(of_counters)
    }

    /// Replaces a record by its tombstone.
    pub(super) fn bury_one(&mut self, kind: Kind, uid: &Uid) -> rusqlite::Result<()> {
        if let Some(record) = self.load(kind, uid)?
            && record.body().is_some()
        {
            self.edit(&record.erased())?;
        }
        Ok(())
    }

    /// Counter-examples of others that are this person's face go with the person.
    fn bury_counters_showing(&mut self, row: PersonId) -> rusqlite::Result<()> {
        for (whose, crop) in erase::counter_examples_showing(self.connection, row)? {
            if let Some(person) = self.uid_of_row(whose)? {
                for member in self.members(&person)? {
                    self.bury_one(Kind::Counter, &counter_uid(&member, &crop))?;
                }
            }
        }
        Ok(())
    }

    /// Makes the row of a person who is another one now the row of that one.
    fn merge(&mut self, uid: &Uid, into: &Uid) -> rusqlite::Result<()> {
        match (self.row_of(uid)?, self.row_of(into)?) {
            (Some(row), Some(other)) => {
                merge_rows(self.connection, row, other)?;
                (self.did.changed, self.did.merged) = (true, true);
            }
            (Some(row), None) => {
                self.connection
                    .prepare_cached("UPDATE person SET uid = ?2 WHERE id = ?1")?
                    .execute(params![row, into])?;
                self.did.changed = true;
            }
            (None, _) => {}
        }
        self.connection
            .prepare_cached(
                "INSERT INTO merged (uid, into_uid) VALUES (?1, ?2)
                 ON CONFLICT (uid) DO UPDATE SET into_uid = excluded.into_uid
                  WHERE into_uid <> excluded.into_uid",
            )?
            .execute(params![uid, into])
            .map(drop)
    }

    /// Gives people their row and their name. All names that change are cleared first, since people
    /// may exchange theirs.
    fn name(&mut self, changed: &BTreeSet<Uid>) -> rusqlite::Result<()> {
        let mut given: Vec<(PersonId, String)> = Vec::new();
        for uid in changed {
            let Some(Who::Here { shown }) = self.standing.who(uid).cloned() else {
                continue;
            };
            self.connection
                .prepare_cached("DELETE FROM merged WHERE uid = ?1")?
                .execute([uid])?;
            let row: Option<(PersonId, String)> = self
                .connection
                .prepare_cached("SELECT id, name FROM person WHERE uid = ?1")?
                .query_row([uid], |row| Ok((row.get(0)?, text(row, 1)?)))
                .optional()?;
            match row {
                Some((_, name)) if name == shown => {}
                Some((row, _)) => {
                    self.connection
                        .prepare_cached(
                            "UPDATE person SET name = hex(randomblob(32)), folded = NULL, base = NULL,
                                    topic = NULL WHERE id = ?1",
                        )?
                        .execute([row])?;
                    given.push((row, shown));
                }
                None => {
                    let created_at_ms = self.created_at(uid)?;
                    self.connection
                        .prepare_cached(
                            "INSERT INTO person (name, created_at_ms, uid)
                             VALUES (hex(randomblob(32)), ?1, ?2)",
                        )?
                        .execute(params![created_at_ms, uid])?;
                    given.push((self.connection.last_insert_rowid(), shown));
                }
            }
        }
        for (row, name) in given {
            self.free(&name, row)?;
            write_name(self.connection, row, &name)?;
            sightings::rename_person(self.connection, row)?;
            self.did.changed = true;
        }
        Ok(())
    }

    fn created_at(&mut self, uid: &Uid) -> rusqlite::Result<i64> {
        let record = self.load(Kind::Person, uid)?;
        Ok(match record.as_ref().and_then(Record::person) {
            Some(person) => i64::try_from(person.created.ms).unwrap_or_default(),
            None => wall_clock_ms(),
        })
    }

    /// Takes a name from a person who stays on this board, for one of the fleet.
    fn free(&self, name: &str, row: PersonId) -> rusqlite::Result<()> {
        let mut holder = self.connection.prepare_cached(
            "SELECT id FROM person WHERE (folded = ?1 OR name = ?2) AND id <> ?3",
        )?;
        let holder: Option<PersonId> = holder
            .query_row(params![names::fold(name), name, row], |row| row.get(0))
            .optional()?;
        let Some(holder) = holder else { return Ok(()) };
        let beginning: String = name.chars().take(170).collect();
        write_name(
            self.connection,
            holder,
            &format!("{beginning} (here {holder})"),
        )?;
        sightings::rename_person(self.connection, holder)
    }

    /// Places all pictures whose records say that they are of this person.
    fn place_pictures(&mut self, person: &Uid) -> rusqlite::Result<()> {
        let row = self.row_now(person)?;
        for uid in self.records_of(Kind::Picture, person)? {
            let here = self.picture_row(&uid)?;
            if here.is_none_or(|here| Some(here.person) != row) || self.is_changed(&uid)? {
                self.place_picture(&uid)?;
            }
        }
        Ok(())
    }

    /// Returns whether a picture changed here and is not captured yet.
    pub(super) fn is_changed(&self, picture: &Uid) -> rusqlite::Result<bool> {
        let (first, last) = sums_of(picture);
        self.connection
            .prepare_cached("SELECT 1 FROM fleet_changes WHERE kind = 2 AND key BETWEEN ?1 AND ?2")?
            .exists([first, last])
    }

    /// Captures a picture, if it changed here.
    pub(super) fn capture_one(&mut self, picture: &Uid) -> rusqlite::Result<()> {
        if self.records_win {
            return Ok(());
        }
        let (first, last) = sums_of(picture);
        let sum: Option<String> = self
            .connection
            .prepare_cached(
                "SELECT key FROM fleet_changes WHERE kind = 2 AND key BETWEEN ?1 AND ?2",
            )?
            .query_row([first, last], |row| row.get(0))
            .optional()?;
        match sum {
            Some(sum) => self.capture_picture(&sum).map(drop),
            None => Ok(()),
        }
    }

    /// Brings a picture's rows to what its record says. Without its person it waits in the record.
    pub(super) fn place_picture(&mut self, uid: &Uid) -> rusqlite::Result<()> {
        self.capture_one(uid)?;
        let Some(record) = self.load(Kind::Picture, uid)? else {
            return Ok(());
        };
        let person = match record.picture() {
            Some(picture) if self.is_erased(&picture.person.value) => {
                self.bury_one(Kind::Picture, uid)?;
                None
            }
            Some(picture) => self
                .row_now(&picture.person.value)?
                .map(|row| (row, picture)),
            None => None,
        };
        match person {
            Some((person, picture)) => self.write_picture(person, picture)?,
            None => self.remove_picture(uid)?,
        }
        // This is what the record says, and no edit.
        let (first, last) = sums_of(uid);
        self.connection
            .prepare_cached("DELETE FROM fleet_changes WHERE kind = 2 AND key BETWEEN ?1 AND ?2")?
            .execute([first, last])
            .map(drop)
    }

    fn remove_picture(&mut self, uid: &Uid) -> rusqlite::Result<()> {
        if let Some(row) = self.picture_row(uid)? {
            self.connection
                .prepare_cached("DELETE FROM person_images WHERE id = ?1")?
                .execute([row.id])?;
            (self.did.changed, self.did.removed) = (true, true);
        }
        Ok(())
    }

    fn write_picture(&mut self, person: PersonId, picture: &PictureBody) -> rusqlite::Result<()> {
        let content = &picture.content.value;
        let sum = hex(&content.sha256);
        let new = PictureRow {
            person,
            image_name: &content.image_name,
            sha256: &sum,
            bounds: content.bounds,
            quality: content.quality,
            created_at_ms: i64::try_from(picture.content.stamp.ms).unwrap_or_default(),
            crop: &content.crop,
        };
        let row = match insert_picture_row(self.connection, &new)? {
            Some(row) => {
                self.did.changed = true;
                row
            }
            None => {
                let (row, before): (i64, PersonId) = self
                    .connection
                    .prepare_cached("SELECT id, person_id FROM person_images WHERE sha256 = ?1")?
                    .query_row([&sum], |row| Ok((row.get(0)?, row.get(1)?)))?;
                if before != person {
                    self.connection
                        .prepare_cached("UPDATE person_images SET person_id = ?2 WHERE id = ?1")?
                        .execute([row, person])?;
                    self.did.changed = true;
                }
                row
            }
        };
        // Bytes that are here stay: they may be the whole picture, of which a part travels.
        if !content.jpeg.is_empty() {
            let cut = sha256(&content.jpeg) != sum;
            let added = self
                .connection
                .prepare_cached(
                    "INSERT INTO enrolment_pictures (person_image_id, picture, cut) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![row, content.jpeg, cut])?;
            if added > 0 {
                let bounds = serde_json::json!(content.bounds).to_string();
                self.connection
                    .prepare_cached("UPDATE person_images SET bounds = ?2 WHERE id = ?1")?
                    .execute(params![row, bounds])?;
            }
        }
        for (space, vector) in &picture.vectors {
            let added = self
                .connection
                .prepare_cached(
                    "INSERT INTO person_embeddings (person_image_id, space, vector) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO NOTHING",
                )?
                .execute(params![row, space, stored(vector)])?;
            self.did.changed |= added > 0;
        }
        Ok(())
    }

    /// Brings a person's counter-examples to what the records say of them and of all who were merged
    /// into them.
    pub(super) fn place_counters(&mut self, person: &Uid) -> rusqlite::Result<()> {
        let Some(row) = self.row_of(person)? else {
            return Ok(());
        };
        let members = self.members(person)?;
        let mut alive = Vec::new();
        for member in &members {
            for uid in self.records_of(Kind::Counter, member)? {
                let record = self.load(Kind::Counter, &uid)?;
                alive.extend(record.as_ref().and_then(Record::counter).cloned());
            }
        }
        let rows = self.counter_rows(row)?;
        for there in &rows {
            if alive.iter().any(|counter| counter.crop == there.crop) {
                continue;
            }
            let mut buried = false;
            for member in &members {
                buried |= self
                    .load(Kind::Counter, &counter_uid(member, &there.crop))?
                    .is_some();
            }
            if buried {
                self.connection
                    .prepare_cached(
                        "DELETE FROM counter_examples WHERE person_id = ?1 AND crop = ?2",
                    )?
                    .execute(params![row, there.crop])?;
                (self.did.changed, self.did.removed) = (true, true);
            }
        }
        let mut there: BTreeSet<&[u8]> = rows.iter().map(|row| row.crop.as_slice()).collect();
        for counter in &alive {
            if !there.insert(&counter.crop) {
                continue;
            }
            // Without one of the space in use it is embedded from its crop.
            let found = match self.space {
                Some(space) => counter.vectors.get_key_value(space),
                None => counter.vectors.iter().next(),
            };
            let (space, vector) = found.map_or((String::new(), Vec::new()), |(space, vector)| {
                (space.clone(), stored(vector))
            });
            self.connection
                .prepare_cached(
                    "INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![
                    row,
                    space,
                    vector,
                    counter.crop,
                    counter.created_at_ms
                ])?;
            self.did.changed = true;
        }
        self.forget_change(Kind::Counter, person)
    }

    /// Applies all records to tables that a backup replaced or added to. What the backup has and no
    /// record knows is new to the fleet.
    pub(super) fn apply_all(&mut self) -> rusqlite::Result<()> {
        self.connection.execute("DELETE FROM fleet_changes", [])?;
        let people: Vec<Vec<u8>> = self
            .connection
            .prepare("SELECT uid FROM person WHERE uid IS NOT NULL UNION SELECT uid FROM merged")?
            .query_map([], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let mut changed = BTreeSet::new();
        for uid in people.iter().filter_map(|uid| uid_of(uid)) {
            changed.extend(self.new_person(&uid)?);
        }
        let all = |kind: i64| -> rusqlite::Result<Vec<Uid>> {
            self.connection
                .prepare("SELECT uid FROM fleet_records WHERE kind = ?1")?
                .query_map([kind], |row| row.get(0))?
                .collect()
        };
        let pictures = all(Kind::Picture as i64)?;
        changed.extend(all(Kind::Person as i64)?);
        // No row of the backup is an edit of what the records know.
        self.records_win = true;
        self.settle(changed)?;
        for uid in pictures {
            self.place_picture(&uid)?;
        }
        self.records_win = false;
        Ok(())
    }
}

/// Returns an embedding that travelled, as it is stored.
fn stored(vector: &[u8]) -> Vec<u8> {
    let numbers = vector.as_chunks::<4>().0.iter();
    let numbers: Vec<f32> = numbers.map(|number| f32::from_le_bytes(*number)).collect();
    vector_to_blob(&numbers)
}
