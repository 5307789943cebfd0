//! Capture: what changed in the people's tables here becomes records.
//!
//! Triggers note what changed, not how. A row that says what the records say is no edit, no matter
//! what wrote it: so what came from the fleet is never captured again.

use std::collections::{BTreeSet, HashSet};

use rusqlite::{OptionalExtension, params};

use super::super::{blob_to_vector, text};
use super::records::{PictureRow, Records, sum_of, uid_of};
use super::{MOST_PEOPLE, MOST_PICTURES, MOST_RECORDS};
use crate::domain::PersonId;
use crate::fleet::clock::Stamp;
use crate::fleet::record::{
    Body, CROP_BYTES, Content, CounterBody, Field, JPEG_BYTES, Kind, PersonBody, PictureBody,
    Record, SPACES, Uid, VECTOR_BYTES, Vectors, counter_uid, picture_uid,
};
use crate::fleet::standing::Who;
use crate::names;

/// Most pictures, and most bytes of them, that one operation of the writer captures.
const PICTURES: usize = 128;
const BYTES: usize = 8 << 20;
/// Most pictures that are captured before a change of people.
const FEW: usize = 16;

impl Records<'_> {
    /// Captures all changes of people and counter-examples, and some of pictures. Returns whether
    /// some are left.
    pub(super) fn capture(&mut self) -> rusqlite::Result<bool> {
        self.capture_people()?;
        self.capture_pictures()?;
        self.connection
            .prepare_cached("SELECT 1 FROM fleet_changes")?
            .exists([])
    }

    /// Captures all changes of people and counter-examples.
    pub(super) fn capture_people(&mut self) -> rusqlite::Result<()> {
        let mut keys = self.changed(Kind::Person)?;
        if keys.iter().any(|key| key.len() != 16) {
            self.give_uids()?;
            keys = self.changed(Kind::Person)?;
        }
        let mut touched: BTreeSet<Uid> = keys.iter().filter_map(|key| uid_of(key)).collect();
        // Who they were before any of these changes: one person's name depends on the others'.
        let before: Vec<(Uid, Option<Who>)> = touched
            .iter()
            .map(|uid| (*uid, self.standing.who(uid).cloned()))
            .collect();
        for (uid, who) in before {
            touched.extend(self.capture_person(&uid, who)?);
        }
        // Before the records are applied to them, which would bring back what was removed.
        for key in self.changed(Kind::Counter)? {
            match uid_of(&key) {
                Some(uid) => self.capture_counters_of(&uid)?,
                None => self.forget_change(Kind::Counter, &key)?,
            }
        }
        if keys.is_empty() {
            return Ok(());
        }
        self.settle(touched)?;
        self.connection
            .prepare_cached("DELETE FROM fleet_changes WHERE kind = 1")?
            .execute([])
            .map(drop)
    }

    fn changed(&self, kind: Kind) -> rusqlite::Result<Vec<Vec<u8>>> {
        let mut keys = self
            .connection
            .prepare_cached("SELECT key FROM fleet_changes WHERE kind = ?1 ORDER BY key")?;
        keys.query_map([kind as i64], |row| {
            Ok(row.get_ref(0)?.as_bytes().unwrap_or_default().to_vec())
        })?
        .collect()
    }

    /// Gives a uid to people that another program wrote without one.
    fn give_uids(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch(
            "UPDATE person SET uid = randomblob(16) WHERE uid IS NULL OR length(uid) <> 16;
             INSERT INTO fleet_changes SELECT DISTINCT 3, uid FROM person
               JOIN counter_examples ON person_id = person.id WHERE true ON CONFLICT DO NOTHING;",
        )
    }

    /// Captures one person, who was `before`. Returns the people who are others now.
    fn capture_person(
        &mut self,
        uid: &Uid,
        before: Option<Who>,
    ) -> rusqlite::Result<BTreeSet<Uid>> {
        let erased = "SELECT 1 FROM erased WHERE uid = ?1";
        let erased = self.connection.prepare_cached(erased)?.exists([uid])?;
        if erased {
            return match before {
                Some(Who::Erased) => Ok(BTreeSet::new()),
                _ => self.edit(&Record::tombstone(Kind::Person, *uid, 0)),
            };
        }
        let name: Option<String> = self
            .connection
            .prepare_cached("SELECT name FROM person WHERE uid = ?1")?
            .query_row([uid], |row| text(row, 0))
            .optional()?;
        match (name, before) {
            // Comparing brings the tables to what the records say.
            (_, Some(Who::Erased)) | (Some(_), Some(Who::Merged { .. })) => Ok(BTreeSet::new()),
            (Some(name), Some(Who::Here { shown })) if name == shown => Ok(BTreeSet::new()),
            (Some(name), Some(Who::Here { .. })) => {
                let stamp = self.now();
                self.edit_person(uid, |person| person.name = Field::new(stamp, name))
            }
            (None, Some(_)) => {
                let Some(into) = self.merged_into(uid)? else {
                    return Ok(BTreeSet::new());
                };
                let mut touched = self.new_person(&into)?;
                if self.standing.representative(uid) != Some(into) {
                    let stamp = self.now();
                    touched.extend(self.edit_person(uid, |person| {
                        person.merge_into(into, stamp);
                    })?);
                }
                Ok(touched)
            }
            (_, None) => {
                let mut touched = match self.merged_into(uid)? {
                    Some(into) => self.new_person(&into)?,
                    None => BTreeSet::new(),
                };
                touched.extend(self.new_person(uid)?);
                Ok(touched)
            }
        }
    }

    /// Makes the record of a person who is new to the fleet.
    pub(super) fn new_person(&mut self, uid: &Uid) -> rusqlite::Result<BTreeSet<Uid>> {
        if self.standing.who(uid).is_some() {
            return Ok(BTreeSet::new());
        }
        let stamp = self.now();
        let Some(record) = self.person_of_tables(uid, stamp)? else {
            return Ok(BTreeSet::new());
        };
        if let (Some(person), Some(limit)) = (record.person(), self.no_room(Kind::Person)) {
            self.stays_here(&person.name.value, &limit);
            return Ok(BTreeSet::new());
        }
        self.edit(&record)
    }

    /// Returns which limit keeps one more record out.
    pub(super) fn no_room(&self, kind: Kind) -> Option<String> {
        if self.counted.records >= MOST_RECORDS {
            return Some(format!("a fleet has at most {MOST_RECORDS} records"));
        }
        (kind == Kind::Person && self.counted.people >= MOST_PEOPLE)
            .then(|| format!("a fleet has at most {MOST_PEOPLE} people"))
    }

    /// Returns which limit keeps one more picture of a person out.
    pub(super) fn no_room_with(&self, person: &Uid) -> rusqlite::Result<Option<String>> {
        let count: usize = self
            .connection
            .prepare_cached("SELECT count(*) FROM fleet_records WHERE person = ?1 AND kind = 2")?
            .query_row([person], |row| row.get(0))?;
        Ok((count >= MOST_PICTURES)
            .then(|| format!("a person has at most {MOST_PICTURES} pictures in a fleet")))
    }

    fn edit_person(
        &mut self,
        uid: &Uid,
        change: impl FnOnce(&mut PersonBody),
    ) -> rusqlite::Result<BTreeSet<Uid>> {
        let Some(mut person) = self
            .load(Kind::Person, uid)?
            .and_then(|record| record.person().cloned())
        else {
            return Ok(BTreeSet::new());
        };
        change(&mut person);
        match self.made(*uid, 0, Body::Person(person)) {
            Some(record) => self.edit(&record),
            None => Ok(BTreeSet::new()),
        }
    }

    fn capture_pictures(&mut self) -> rusqlite::Result<()> {
        let sums: Vec<String> = self
            .connection
            .prepare_cached("SELECT key FROM fleet_changes WHERE kind = 2 ORDER BY key LIMIT ?1")?
            .query_map([PICTURES], |row| text(row, 0))?
            .collect::<Result<_, _>>()?;
        let mut bytes = 0;
        for sum in sums {
            bytes += self.capture_picture(&sum)?;
            if bytes > BYTES {
                break;
            }
        }
        Ok(())
    }

    /// Captures all pictures that changed, if they are few.
    pub(super) fn capture_few_pictures(&mut self) -> rusqlite::Result<()> {
        let many = self
            .connection
            .prepare_cached("SELECT 1 FROM fleet_changes WHERE kind = 2 LIMIT 1 OFFSET ?1")?
            .exists([FEW])?;
        if many {
            Ok(())
        } else {
            self.capture_pictures()
        }
    }

    /// Captures one picture, by the sha256 of its bytes. Returns how many bytes its record has.
    pub(super) fn capture_picture(&mut self, sha256: &str) -> rusqlite::Result<usize> {
        self.connection
            .prepare_cached("DELETE FROM fleet_changes WHERE kind = 2 AND key = ?1")?
            .execute([sha256])?;
        let Some(uid) = sum_of(sha256).map(|sum| picture_uid(&sum)) else {
            return Ok(0);
        };
        let ours = self.load(Kind::Picture, &uid)?;
        let Some(row) = self.picture_row(&uid)? else {
            return self.picture_left(ours);
        };
        let Some(person) = self.uid_of_row(row.person)? else {
            return Ok(0);
        };
        let Some(picture) = ours.as_ref().and_then(Record::picture) else {
            let incarnation = match &ours {
                Some(tombstone) => tombstone.next_incarnation(),
                None => Some(0),
            };
            return match incarnation {
                Some(incarnation) => self.new_picture(&row, &person, incarnation),
                None => Ok(0),
            };
        };
        let mut edited = picture.clone();
        if self.standing.representative(&edited.person.value) != Some(person) {
            edited.person = Field::new(self.now(), person);
        }
        add_vectors(&mut edited.vectors, self.vectors_of(row.id)?);
        if edited.content.value.jpeg.is_empty() {
            let stamp = self.now();
            if let Some(content) = self.content_of(&row)?
                && !content.jpeg.is_empty()
            {
                edited.content = Field::new(stamp, content);
            }
        }
        if edited != *picture
            && let Some(incarnation) = ours.as_ref().map(Record::incarnation)
            && let Some(record) = self.made(uid, incarnation, Body::Picture(edited))
        {
            self.edit(&record)?;
        }
        Ok(0)
    }

    /// Captures that a picture is here no longer. One that waits for its person never was.
    fn picture_left(&mut self, ours: Option<Record>) -> rusqlite::Result<usize> {
        if let Some(record) = ours
            && let Some(picture) = record.picture()
            && self.row_now(&picture.person.value)?.is_some()
        {
            self.edit(&record.erased())?;
        }
        Ok(0)
    }

    fn new_picture(
        &mut self,
        row: &PictureRow,
        person: &Uid,
        incarnation: u32,
    ) -> rusqlite::Result<usize> {
        if self.standing.representative(person) != Some(*person) {
            // The person stays on this board.
            return Ok(0);
        }
        let limit = match self.no_room(Kind::Picture) {
            Some(limit) if incarnation == 0 => Some(limit),
            _ => self.no_room_with(person)?,
        };
        let stamp = self.now();
        let Some(record) = self.picture_of_tables(row, incarnation, stamp)? else {
            return Ok(0);
        };
        let Some(picture) = record.picture() else {
            return Ok(0);
        };
        let content = &picture.content.value;
        if let Some(limit) = limit {
            self.stays_here(&format!("the picture {}", content.image_name), &limit);
            return Ok(0);
        }
        let bytes = content.jpeg.len();
        self.edit(&record)?;
        Ok(bytes)
    }

    /// Says about a picture what the people's tables do.
    pub(super) fn picture_of_tables(
        &mut self,
        row: &PictureRow,
        incarnation: u32,
        stamp: Stamp,
    ) -> rusqlite::Result<Option<Record>> {
        let (Some(sum), Some(person)) = (sum_of(&row.sha256), self.uid_of_row(row.person)?) else {
            return Ok(None);
        };
        let Some(content) = self.content_of(row)? else {
            return Ok(None);
        };
        let mut vectors = Vectors::new();
        add_vectors(&mut vectors, self.vectors_of(row.id)?);
        let picture = PictureBody {
            person: Field::new(stamp, person),
            content: Field::new(stamp, content),
            vectors,
        };
        Ok(self.made(picture_uid(&sum), incarnation, Body::Picture(picture)))
    }

    /// Returns what a picture's row says. Bytes that are too large to travel are left out until the
    /// engine has cut the face out of them.
    fn content_of(&self, row: &PictureRow) -> rusqlite::Result<Option<Content>> {
        let Some(sha256) = sum_of(&row.sha256) else {
            return Ok(None);
        };
        self.connection
            .prepare_cached(
                "SELECT image_name, bounds, quality, iif(length(crop) <= ?2, crop, NULL),
                        (SELECT picture FROM enrolment_pictures
                          WHERE person_image_id = person_images.id AND length(picture) <= ?3)
                   FROM person_images WHERE id = ?1",
            )?
            .query_row(params![row.id, CROP_BYTES, JPEG_BYTES], |row| {
                let bounds: [f32; 4] = serde_json::from_str(&text(row, 1)?).unwrap_or_default();
                let quality: f32 = row.get(2)?;
                Ok(Content {
                    image_name: names::of_picture(&text(row, 0)?),
                    sha256,
                    bounds: bounds.map(|side| if side.is_finite() { side } else { 0.0 }),
                    quality: if quality.is_finite() { quality } else { 0.0 },
                    crop: row.get::<_, Option<_>>(3)?.unwrap_or_default(),
                    jpeg: row.get::<_, Option<_>>(4)?.unwrap_or_default(),
                })
            })
            .optional()
    }

    /// Returns the embeddings of a picture that are whole, by space, as they travel.
    fn vectors_of(&self, picture: i64) -> rusqlite::Result<Vectors> {
        let mut vectors = self.connection.prepare_cached(
            "SELECT space, vector FROM person_embeddings WHERE person_image_id = ?1",
        )?;
        let all: Vec<(String, Vec<u8>)> = vectors
            .query_map([picture], |row| Ok((text(row, 0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let travelling = |(space, vector): (String, Vec<u8>)| Some((space, travelling(&vector)?));
        Ok(all.into_iter().filter_map(travelling).collect())
    }

    pub(super) fn uid_of_row(&self, person: PersonId) -> rusqlite::Result<Option<Uid>> {
        let uid: Option<Option<Vec<u8>>> = self
            .connection
            .prepare_cached("SELECT uid FROM person WHERE id = ?1")?
            .query_row([person], |row| row.get(0))
            .optional()?;
        Ok(uid.flatten().and_then(|uid| uid_of(&uid)))
    }

    pub(super) fn forget_change(&self, kind: Kind, key: &[u8]) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("DELETE FROM fleet_changes WHERE kind = ?1 AND key = ?2")?
            .execute(params![kind as i64, key])
            .map(drop)
    }

    /// Captures the counter-examples of the person that a uid stands for. One without a crop is of
    /// use to this board alone.
    pub(super) fn capture_counters_of(&mut self, uid: &Uid) -> rusqlite::Result<()> {
        self.forget_change(Kind::Counter, uid)?;
        let Some(person) = self.standing.representative(uid) else {
            return Ok(());
        };
        self.forget_change(Kind::Counter, &person)?;
        let Some(row) = self.row_of(&person)? else {
            return Ok(());
        };
        let members = self.members(&person)?;
        let mut here = HashSet::new();
        for CounterRow {
            space,
            vector,
            crop,
            created_at_ms,
        } in self.counter_rows(row)?
        {
            let mut known = None;
            for member in &members {
                let uid = counter_uid(member, &crop);
                here.insert(uid);
                let record = self.load(Kind::Counter, &uid)?;
                known = record.filter(|record| record.body().is_some()).or(known);
            }
            let vectors: Vectors = travelling(&vector)
                .map(|vector| (space, vector))
                .into_iter()
                .collect();
            let record = match &known {
                Some(record) => {
                    let Some(mut counter) = record.counter().cloned() else {
                        continue;
                    };
                    add_vectors(&mut counter.vectors, vectors);
                    self.made(*record.uid(), record.incarnation(), Body::Counter(counter))
                }
                None => self.new_counter(person, crop, vectors, created_at_ms)?,
            };
            if let Some(record) = record
                && known.as_ref() != Some(&record)
            {
                self.edit(&record)?;
            }
        }
        for member in &members {
            for uid in self.records_of(Kind::Counter, member)? {
                if !here.contains(&uid)
                    && let Some(record) = self.load(Kind::Counter, &uid)?
                {
                    self.edit(&record.erased())?;
                }
            }
        }
        Ok(())
    }

    fn new_counter(
        &mut self,
        person: Uid,
        crop: Vec<u8>,
        vectors: Vectors,
        created_at_ms: i64,
    ) -> rusqlite::Result<Option<Record>> {
        let uid = counter_uid(&person, &crop);
        let earlier = self.load(Kind::Counter, &uid)?;
        if let (Some(limit), None) = (self.no_room(Kind::Counter), &earlier) {
            self.stays_here("a counter-example", &limit);
            return Ok(None);
        }
        let incarnation = match earlier {
            Some(tombstone) => tombstone.next_incarnation(),
            None => Some(0),
        };
        let body = CounterBody {
            person,
            crop,
            vectors,
            created_at_ms,
        };
        Ok(incarnation.and_then(|incarnation| self.made(uid, incarnation, Body::Counter(body))))
    }

    /// Returns a person's counter-examples that have a crop small enough to travel.
    pub(super) fn counter_rows(&self, person: PersonId) -> rusqlite::Result<Vec<CounterRow>> {
        self.connection
            .prepare_cached(
                "SELECT space, vector, crop, created_at_ms FROM counter_examples
                  WHERE person_id = ?1 AND length(crop) BETWEEN 1 AND ?2 ORDER BY id",
            )?
            .query_map(params![person, CROP_BYTES], |row| {
                Ok(CounterRow {
                    space: text(row, 0)?,
                    vector: row.get(1)?,
                    crop: row.get(2)?,
                    created_at_ms: row.get(3)?,
                })
            })?
            .collect()
    }
}

/// Returns a stored embedding as it travels, without its checksum; `None` if it is damaged or too
/// long.
fn travelling(blob: &[u8]) -> Option<Vec<u8>> {
    let vector = blob_to_vector(blob);
    let fits = !vector.is_empty()
        && vector.len() * 4 <= VECTOR_BYTES
        && vector.iter().all(|value| value.is_finite());
    fits.then(|| vector.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// Adds embeddings of spaces that are not there yet, as far as a record has room for them.
fn add_vectors(vectors: &mut Vectors, more: Vectors) {
    for (space, vector) in more {
        vectors.entry(space).or_insert(vector);
    }
    while vectors.len() > SPACES {
        vectors.pop_last();
    }
}

/// A counter-example in the people's tables.
pub(super) struct CounterRow {
    pub space: String,
    pub vector: Vec<u8>,
    pub crop: Vec<u8>,
    pub created_at_ms: i64,
}
