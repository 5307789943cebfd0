//! SQL of what comes back from another database, be it a backup's copy or a damaged one whose gallery is whole. Not for
//! making copies or preparing them: that is `backup`'s.
//!
//! A restore adds what is missing here and undoes nothing: names, merges and erasures of this database stand, and nobody
//! with a tombstone in either comes back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};

use super::backup::{blocking, open_copy};
use super::folders::take_seen;
use super::people::complete_names;
use super::record::{Record, for_each};
use super::{Store, StoreError, Urgency};
use crate::domain::{ImageId, PersonId};
use crate::names;

/// Images in one operation of the writer: others have their turn between two.
const BATCH: usize = 100;
/// Longest chain of people who were put together.
const MERGES: usize = 1000;

/// An enrolled picture's file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PictureFile {
    /// Relative to the state folder.
    pub file: String,
    /// Of its bytes, hex.
    pub sha256: String,
}

/// What came back of the gallery.
#[derive(Debug, Default, Clone)]
pub struct RestoredGallery {
    /// People who were not here.
    pub people: u64,
    /// Pictures that were not here.
    pub pictures: u64,
    /// Faces that are not who they were taken for.
    pub counter_examples: u64,
    /// People of this database whom the copy knows as erased: to be erased here too.
    pub erased_there: Vec<PersonId>,
    /// Number in the copy → number here; `None`: erased.
    whom: HashMap<PersonId, Option<PersonId>>,
    /// Numbers in the copy of people who are part of somebody else here.
    joined: HashSet<PersonId>,
}

/// What came back of the past.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct RestoredImages {
    /// Images that were not here.
    pub images: u64,
    /// Images whose number has been given to another one here.
    pub left_out: u64,
}

impl Store {
    /// Pictures of a copy that would come back: not here, or lost from the disk, and of nobody who was erased.
    pub async fn missing_pictures(&self, copy: PathBuf) -> Result<HashSet<PictureFile>, StoreError> {
        let folder = self.readers.path.parent().map(Path::to_path_buf).unwrap_or_default();
        self.read(move |here| {
            let copy = open_copy(&copy)?;
            let fates = Fates::of(here, &copy)?;
            let mut missing = HashSet::new();
            let mut known = here.prepare("SELECT 1 FROM person_images WHERE sha256 = ?1")?;
            for_each(&copy, "SELECT person_id, sha256, file FROM person_images", [], |record| {
                let (Some(file), Some(sha256)) = (record.text("file"), record.text("sha256")) else { return Ok(()) };
                let there = known.exists([sha256])? && folder.join(file).exists();
                if !fates.is_erased(record.number("person_id")) && !there {
                    missing.insert(PictureFile { file: file.into(), sha256: sha256.into() });
                }
                Ok(())
            })?;
            Ok(missing)
        })
        .await
    }

    /// Takes the people of a copy into the gallery, in one transaction; their pictures' files are there already.
    pub async fn restore_gallery(&self, copy: PathBuf) -> Result<RestoredGallery, StoreError> {
        let path = copy.clone();
        // Looked for beforehand: every face of the copy is looked at, and the writer has others to serve.
        let contradicted = self.read(move |here| contradicted(here, &open_copy(&path)?)).await?;
        self.write(Urgency::Now, move |here| restore_gallery(here, &open_copy(&copy)?, &contradicted)).await
    }

    /// Takes finished images of a copy in where their number is free, with faces, thumbnails, results and groups. What
    /// waits or runs here is not touched, and nothing is published again.
    pub async fn restore_images(&self, copy: PathBuf, gallery: &RestoredGallery) -> Result<RestoredImages, StoreError> {
        let whom = Arc::new(gallery.whom.clone());
        let joined = Arc::new(gallery.joined.clone());
        let path = copy.clone();
        let groups: Arc<HashSet<i64>> = {
            let whom = Arc::clone(&whom);
            Arc::new(self.write(Urgency::Now, move |here| restore_groups(here, &open_copy(&path)?, &whom)).await?)
        };
        let path = copy.clone();
        self.write(Urgency::Now, move |here| restore_seen(here, &open_copy(&path)?)).await?;
        let mut restored = RestoredImages::default();
        let mut after = 0;
        loop {
            let path = copy.clone();
            let ids: Vec<ImageId> = blocking(move || {
                let copy = open_copy(&path)?;
                let mut next = copy.prepare(
                    "SELECT id FROM images NOT INDEXED WHERE id > ?1 AND state IN ('processed', 'failed')
                      ORDER BY id LIMIT ?2",
                )?;
                Ok(next.query_map(params![after, BATCH as i64], |row| row.get(0))?.collect::<Result<_, _>>()?)
            })
            .await?;
            let Some(last) = ids.last() else { break };
            after = *last;
            let (path, whom, groups) = (copy.clone(), Arc::clone(&whom), Arc::clone(&groups));
            let joined = Arc::clone(&joined);
            let batch = self.write(Urgency::Now, move |here| {
                let copy = open_copy(&path)?;
                let mut restored = RestoredImages::default();
                for id in &ids {
                    restore_image(here, &copy, *id, (&whom, &joined), &groups, &mut restored)?;
                }
                Ok(restored)
            });
            let batch = batch.await?;
            restored.images += batch.images;
            restored.left_out += batch.left_out;
        }
        if !groups.is_empty() {
            self.write(Urgency::Now, |here| {
                here.execute(
                    "UPDATE strangers SET faces = (SELECT count(*) FROM stranger_faces m WHERE m.stranger_id = strangers.id)",
                    [],
                )?;
                // None of its faces came back: there is nothing to show, and its number stays used.
                here.execute("DELETE FROM strangers WHERE faces = 0", [])
            })
            .await?;
        }
        Ok(restored)
    }
}

/// What becomes of the people of a copy.
struct Fates {
    people: BTreeMap<PersonId, (Fate, Record)>,
    /// Tombstones of either.
    erased: HashSet<Vec<u8>>,
    /// Who was put together with whom in either; what was done here stands.
    merged: HashMap<Vec<u8>, Vec<u8>>,
    /// Of people of the copy who are no row any more.
    earlier: Vec<(PersonId, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Erased,
    Here(PersonId),
    /// Under this uid.
    New(Vec<u8>),
}

impl Fates {
    fn of(here: &Connection, copy: &Connection) -> rusqlite::Result<Self> {
        let mut fates =
            Self { people: BTreeMap::new(), erased: HashSet::new(), merged: HashMap::new(), earlier: Vec::new() };
        for connection in [copy, here] {
            for_each(connection, "SELECT uid FROM erased", [], |record| {
                fates.erased.extend(record.blob("uid").map(Vec::from));
                Ok(())
            })?;
            for_each(connection, "SELECT uid, into_uid FROM merged", [], |record| {
                if let (Some(uid), Some(into)) = (record.blob("uid"), record.blob("into_uid")) {
                    fates.merged.insert(uid.into(), into.into());
                }
                Ok(())
            })?;
        }
        for_each(copy, "SELECT uid, person_id FROM merged WHERE person_id IS NOT NULL", [], |record| {
            fates.earlier.extend(record.blob("uid").map(|uid| (record.number("person_id"), uid.into())));
            Ok(())
        })?;
        let mut people = Vec::new();
        for_each(copy, "SELECT * FROM person ORDER BY id", [], |record| {
            people.push(record.clone());
            Ok(())
        })?;
        for person in people {
            let fate = match person.blob("uid") {
                Some(uid) => fates.fate(here, uid, person.text("name"))?,
                None => Fate::Erased,
            };
            fates.people.insert(person.number("id"), (fate, person));
        }
        Ok(fates)
    }

    fn fate(&self, here: &Connection, uid: &[u8], name: Option<&str>) -> rusqlite::Result<Fate> {
        let Some(last) = self.last(uid) else { return Ok(Fate::Erased) };
        let by_uid = "SELECT id FROM person WHERE uid = ?1";
        if let Some(id) = here.prepare_cached(by_uid)?.query_row([&last], |row| row.get(0)).optional()? {
            return Ok(Fate::Here(id));
        }
        // One name is one person: enrolled anew before the backup came back.
        let by_name = "SELECT id, uid FROM person WHERE folded = ?1";
        let named = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?));
        Ok(match here.prepare_cached(by_name)?.query_row([name.map(names::fold)], named).optional()? {
            // The name is somebody's who is about to be erased: the next restore brings them.
            Some((_, Some(uid))) if self.erased.contains(&uid) => Fate::Erased,
            Some((id, _)) => Fate::Here(id),
            None => Fate::New(last),
        })
    }

    /// Who somebody is after all merges; `None`: somebody on the way was erased.
    fn last(&self, uid: &[u8]) -> Option<Vec<u8>> {
        let mut uid = uid.to_vec();
        for _ in 0..MERGES {
            if self.erased.contains(&uid) {
                return None;
            }
            match self.merged.get(&uid) {
                Some(into) => uid.clone_from(into),
                None => break,
            }
        }
        Some(uid)
    }

    fn is_erased(&self, person: PersonId) -> bool {
        self.people.get(&person).is_none_or(|(fate, _)| *fate == Fate::Erased)
    }

    /// Whether two people of the copy are one here.
    fn are_one(&self, one: PersonId, other: PersonId) -> bool {
        let fate = |person: PersonId| self.people.get(&person).map(|(fate, _)| fate);
        one != other && fate(one).is_some_and(|fate| *fate != Fate::Erased) && fate(one) == fate(other)
    }
}

/// Counter-examples of a copy that do not come back: they show somebody who was erased, or somebody who is one here with
/// whoever they were said not to be.
fn contradicted(here: &Connection, copy: &Connection) -> rusqlite::Result<HashSet<i64>> {
    let mut examples: HashMap<Vec<u8>, Vec<(i64, PersonId)>> = HashMap::new();
    for_each(copy, "SELECT id, person_id, vector, crop FROM counter_examples", [], |record| {
        let example = (record.number("id"), record.number("person_id"));
        for bytes in ["vector", "crop"].into_iter().filter_map(|column| record.blob(column)) {
            if !bytes.is_empty() {
                examples.entry(bytes.into()).or_default().push(example);
            }
        }
        Ok(())
    })?;
    let mut contradicted = HashSet::new();
    if examples.is_empty() {
        return Ok(contradicted);
    }
    let fates = Fates::of(here, copy)?;
    let mut shows = |bytes: Option<&[u8]>, erased: bool, person: PersonId| {
        for (id, whose) in bytes.and_then(|bytes| examples.get(bytes)).into_iter().flatten() {
            if erased || fates.are_one(*whose, person) {
                contradicted.insert(*id);
            }
        }
    };
    let pictures = "SELECT person_id, crop, vector FROM person_images
        LEFT JOIN person_embeddings ON person_image_id = person_images.id";
    for_each(copy, pictures, [], |picture| {
        let person = picture.number("person_id");
        for column in ["vector", "crop"] {
            shows(picture.blob(column), fates.is_erased(person), person);
        }
        Ok(())
    })?;
    let mut gone = here.prepare(
        "SELECT 1 FROM faces JOIN images ON images.id = image_id
          WHERE image_id = ?1 AND number = ?2 AND accepted_at_ms = ?3 AND path = ?4 AND length(embedding) = 0",
    )?;
    let faces = "SELECT image_id, number, person_id, faces.outcome, candidates, embedding, crop, accepted_at_ms, path
        FROM faces JOIN images ON images.id = image_id";
    for_each(copy, faces, [], |face| {
        let found = ["embedding", "crop"].map(|column| face.blob(column).filter(|bytes| examples.contains_key(*bytes)));
        if found == [None, None] {
            return Ok(());
        }
        // Without a person it is taken for the nearest, unless it is nobody's.
        let person = match face.number("person_id") {
            0 if face.text("outcome") == Some("unknown") => None,
            0 => nearest(face),
            person => Some(person),
        };
        // Erased here though the copy does not know whose it was: it was named later.
        let erased = person.is_some_and(|person| fates.is_erased(person))
            || gone.exists(params![
                face.number("image_id"),
                face.number("number"),
                face.number("accepted_at_ms"),
                face.text("path")
            ])?;
        for bytes in found {
            shows(bytes, erased, person.unwrap_or(0));
        }
        Ok(())
    })?;
    Ok(contradicted)
}

fn nearest(face: &Record) -> Option<PersonId> {
    let candidates: Vec<(PersonId, serde_json::Value)> = serde_json::from_str(face.text("candidates")?).ok()?;
    candidates.first().map(|(person, _)| *person)
}

fn restore_gallery(
    here: &Connection,
    copy: &Connection,
    contradicted: &HashSet<i64>,
) -> rusqlite::Result<RestoredGallery> {
    let fates = Fates::of(here, copy)?;
    let mut restored = RestoredGallery::default();
    restore_people(here, &fates, &mut restored)?;
    for_each(copy, "SELECT * FROM erased", [], |record| {
        let known = here.prepare_cached("SELECT 1 FROM erased WHERE uid = ?1")?.exists([record.blob("uid")])?;
        if known { Ok(()) } else { record.insert(here, "erased").map(drop) }
    })?;
    for_each(copy, "SELECT uid, into_uid FROM merged", [], |record| {
        note_merged(here, record.blob("uid"), record.blob("into_uid"))
    })?;
    restored.erased_there = here
        .prepare("SELECT id FROM person WHERE uid IN (SELECT uid FROM erased)")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    restore_pictures(here, copy, contradicted, &mut restored)?;
    for (id, uid) in &fates.earlier {
        let now = match fates.last(uid) {
            Some(uid) => here.query_row("SELECT id FROM person WHERE uid = ?1", [uid], |row| row.get(0)).optional()?,
            None => None,
        };
        restored.whom.entry(*id).or_insert(now);
    }
    Ok(restored)
}

fn note_merged(here: &Connection, uid: Option<&[u8]>, into: Option<&[u8]>) -> rusqlite::Result<()> {
    here.prepare_cached(
        "INSERT OR IGNORE INTO merged (uid, into_uid) SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM erased WHERE uid = ?1)
            AND NOT EXISTS (SELECT 1 FROM person WHERE uid = ?1)",
    )?
    .execute(params![uid, into])
    .map(drop)
}

/// People keep the number they had where nobody has ever had it here: results name people by number.
fn restore_people(here: &Connection, fates: &Fates, restored: &mut RestoredGallery) -> rusqlite::Result<()> {
    let used: Option<i64> =
        here.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'person'", [], |row| row.get(0)).optional()?;
    let used = used.unwrap_or(0);
    let mut new: HashMap<&[u8], PersonId> = HashMap::new();
    // Those that keep their number first, so that no new number gets in their way.
    let (keep, other): (Vec<_>, Vec<_>) = fates.people.iter().partition(|(id, _)| **id > used);
    for (id, (fate, person)) in keep.into_iter().chain(other) {
        let now = match fate {
            Fate::Erased => None,
            Fate::Here(now) => {
                let uid: Option<Vec<u8>> =
                    here.query_row("SELECT uid FROM person WHERE id = ?1", [now], |row| row.get(0))?;
                if person.blob("uid") != uid.as_deref() {
                    restored.joined.insert(*id);
                    note_merged(here, person.blob("uid"), uid.as_deref())?;
                }
                Some(*now)
            }
            Fate::New(uid) => match new.get(uid.as_slice()) {
                Some(now) => Some(*now),
                None => {
                    let mut person = person.clone();
                    person.set("uid", uid.clone());
                    // Made anew: somebody here may have that topic.
                    for column in ["folded", "base", "topic"] {
                        person.set(column, Value::Null);
                    }
                    if *id <= used {
                        person.set("id", Value::Null);
                    }
                    let now = person.insert(here, "person")?;
                    new.insert(uid, now);
                    restored.people += 1;
                    Some(now)
                }
            },
        };
        restored.whom.insert(*id, now);
    }
    complete_names(here)
}

/// A picture or face of somebody who is part of this person: nobody may go on saying that this person is not it.
fn contradict(here: &Connection, person: PersonId, vector: Option<&[u8]>) -> rusqlite::Result<()> {
    here.prepare_cached("DELETE FROM counter_examples WHERE person_id = ?1 AND vector = ?2")?
        .execute(params![person, vector])
        .map(drop)
}

fn restore_pictures(
    here: &Connection,
    copy: &Connection,
    contradicted: &HashSet<i64>,
    restored: &mut RestoredGallery,
) -> rusqlite::Result<()> {
    let whom = restored.whom.clone();
    let joined = restored.joined.clone();
    let person = |record: &Record| whom.get(&record.number("person_id")).copied().flatten();
    for_each(copy, "SELECT * FROM person_images ORDER BY id", [], |record| {
        let Some(person) = person(record) else { return Ok(()) };
        let by_sum = "SELECT id FROM person_images WHERE sha256 = ?1";
        let known = here.prepare_cached(by_sum)?.query_row([record.text("sha256")], |row| row.get(0)).optional()?;
        let picture: i64 = match known {
            Some(id) => id,
            None => {
                let mut picture = record.clone();
                picture.set("id", Value::Null);
                picture.set("person_id", person);
                restored.pictures += 1;
                picture.insert(here, "person_images")?
            }
        };
        let embeddings = "SELECT * FROM person_embeddings WHERE person_image_id = ?1";
        for_each(copy, embeddings, [record.number("id")], |embedding| {
            if joined.contains(&record.number("person_id")) {
                contradict(here, person, embedding.blob("vector"))?;
            }
            here.prepare_cached(
                "INSERT OR IGNORE INTO person_embeddings (person_image_id, space, vector) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![picture, embedding.text("space"), embedding.blob("vector")])
            .map(drop)
        })
    })?;
    for_each(copy, "SELECT * FROM counter_examples ORDER BY id", [], |record| {
        let Some(person) = person(record) else { return Ok(()) };
        if contradicted.contains(&record.number("id")) {
            return Ok(());
        }
        // Somebody else's here, who is the one it was said of by now.
        let theirs = "SELECT 1 FROM person_images pi JOIN person_embeddings e ON e.person_image_id = pi.id
                       WHERE pi.person_id = ?1 AND e.vector = ?2
                      UNION ALL SELECT 1 FROM faces WHERE person_id = ?1 AND embedding = ?2";
        if joined.contains(&record.number("person_id"))
            && here.prepare_cached(theirs)?.exists(params![person, record.blob("vector")])?
        {
            return Ok(());
        }
        // Here already, or this face was named since. The crop stays the same with another model pack.
        let same = "SELECT 1 FROM counter_examples
                     WHERE person_id = ?1 AND ((space = ?2 AND vector = ?3) OR (length(crop) > 0 AND crop = ?4))
                    UNION ALL SELECT 1 FROM person_images WHERE person_id = ?1 AND length(?4) > 0 AND crop = ?4";
        let values = params![person, record.text("space"), record.blob("vector"), record.blob("crop")];
        if here.prepare_cached(same)?.exists(values)? {
            return Ok(());
        }
        let mut example = record.clone();
        example.set("id", Value::Null);
        example.set("person_id", person);
        restored.counter_examples += 1;
        example.insert(here, "counter_examples").map(drop)
    })
}

/// Groups of strangers that may take their faces back: those that are the same here, and those whose number is free.
fn restore_groups(
    here: &Connection,
    copy: &Connection,
    whom: &HashMap<PersonId, Option<PersonId>>,
) -> rusqlite::Result<HashSet<i64>> {
    let used: Option<i64> =
        here.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'strangers'", [], |row| row.get(0)).optional()?;
    let mut groups = HashSet::new();
    for_each(copy, "SELECT * FROM strangers ORDER BY id", [], |record| {
        let id = record.number("id");
        let same: Option<bool> = here
            .prepare_cached("SELECT space = ?2 AND first_seen_ms = ?3 FROM strangers WHERE id = ?1")?
            .query_row(params![id, record.text("space"), record.number("first_seen_ms")], |row| row.get(0))
            .optional()?;
        match same {
            Some(true) => _ = groups.insert(id),
            None if id > used.unwrap_or(0) => {
                let mut group = record.clone();
                // Named, and broken off before all its faces were.
                group.set("person_id", whom.get(&record.number("person_id")).copied().flatten());
                group.insert(here, "strangers")?;
                groups.insert(id);
            }
            // Another group has the number, or had it: its faces are grouped anew.
            Some(false) | None => {}
        }
        Ok(())
    })?;
    Ok(groups)
}

fn restore_seen(here: &Connection, copy: &Connection) -> rusqlite::Result<()> {
    let read = |sql: &str| -> rusqlite::Result<Vec<Record>> {
        let mut records = Vec::new();
        for_each(copy, sql, [], |record| {
            records.push(record.clone());
            Ok(())
        })?;
        Ok(records)
    };
    take_seen(here, &read("SELECT * FROM folders")?, &read("SELECT * FROM seen")?)
}

fn restore_image(
    here: &Connection,
    copy: &Connection,
    id: ImageId,
    (whom, joined): (&HashMap<PersonId, Option<PersonId>>, &HashSet<PersonId>),
    groups: &HashSet<i64>,
    restored: &mut RestoredImages,
) -> rusqlite::Result<()> {
    let Some(mut image) = one(copy, "SELECT * FROM images WHERE id = ?1", id)? else { return Ok(()) };
    let same: Option<bool> = here
        .prepare_cached("SELECT accepted_at_ms = ?2 AND path = ?3 FROM images WHERE id = ?1")?
        .query_row(params![id, image.number("accepted_at_ms"), image.text("path")], |row| row.get(0))
        .optional()?;
    if let Some(same) = same {
        restored.left_out += u64::from(!same);
        return Ok(());
    }
    let key = "SELECT 1 FROM images WHERE idempotency_key = ?1";
    if here.prepare_cached(key)?.exists([image.text("idempotency_key")])? {
        image.set("idempotency_key", Value::Null);
    }
    // Its bytes are not in a backup, and no engine here vouches for it.
    for column in ["file", "missing_since_ms", "supersedes"] {
        image.set(column, Value::Null);
    }
    for column in ["bytes", "unverified", "alone"] {
        image.set(column, 0);
    }
    image.insert(here, "images")?;
    restored.images += 1;
    let mut erased_face = false;
    for_each(copy, "SELECT * FROM faces WHERE image_id = ?1 ORDER BY number", [id], |record| {
        let mut face = record.clone();
        let unknown = face.text("outcome") == Some("unknown");
        let candidates: Vec<(PersonId, serde_json::Value)> =
            face.text("candidates").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let now = |person: PersonId| whom.get(&person).copied().flatten();
        let theirs = match face.number("person_id") {
            0 => !unknown && candidates.first().is_some_and(|(person, _)| now(*person).is_none()),
            person => now(person).is_none(),
        };
        let person = now(face.number("person_id"));
        if let Some(person) = person
            && joined.contains(&face.number("person_id"))
        {
            contradict(here, person, face.blob("embedding"))?;
        }
        face.set("person_id", person);
        let mut left: Vec<(PersonId, serde_json::Value)> = Vec::new();
        for (person, distance) in candidates {
            if let Some(person) = now(person)
                && left.iter().all(|(known, _)| *known != person)
            {
                left.push((person, distance));
            }
        }
        face.set("candidates", serde_json::json!(left).to_string());
        if theirs {
            erased_face = true;
            face.set("crop", Vec::new());
            face.set("embedding", Vec::new());
        }
        face.insert(here, "faces").map(drop)
    })?;
    if !erased_face {
        for_each(copy, "SELECT * FROM thumbnails WHERE image_id = ?1", [id], |thumbnail| {
            thumbnail.insert(here, "thumbnails").map(drop)
        })?;
    }
    for_each(copy, "SELECT * FROM outbox WHERE image_id = ?1 ORDER BY id", [id], |record| {
        let mut result = record.clone();
        result.set("id", Value::Null);
        if let Some(payload) = record.text("payload") {
            result.set("payload", super::erase::renamed(payload, whom));
        }
        result.insert(here, "outbox").map(drop)
    })?;
    for_each(copy, "SELECT * FROM stranger_faces WHERE image_id = ?1", [id], |member| {
        let group = member.number("stranger_id");
        if !groups.contains(&group) {
            return Ok(());
        }
        // The group may have been named or have lost its last face since.
        here.prepare_cached(
            "INSERT INTO stranger_faces (image_id, number, stranger_id)
             SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM strangers WHERE id = ?3)",
        )?
        .execute(params![id, member.number("number"), group])
        .map(drop)
    })
}

fn one(from: &Connection, sql: &str, id: i64) -> rusqlite::Result<Option<Record>> {
    let mut found = None;
    for_each(from, sql, [id], |record| {
        found = Some(record.clone());
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests;
