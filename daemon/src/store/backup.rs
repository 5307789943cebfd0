//! SQL of backups: copies of the database or of the gallery alone, and what comes back from one. Files and their format are
//! `crate::backup`'s.
//!
//! A restore adds what is missing here and undoes nothing: names, merges and erasures of this database stand, and nobody
//! with a tombstone in either comes back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::folders::take_seen;
use super::migrate;
use super::record::{Record, for_each};
use super::{Store, StoreError, Urgency, open_read_only};
use crate::domain::{ImageId, PersonId, hex};

/// Tables of the gallery, parents first.
pub(super) const GALLERY: [&str; 6] =
    ["person", "person_images", "person_embeddings", "counter_examples", "erased", "merged"];
/// Copied at a time, with a pause after it: the disk is the writer's first.
const STEP_BYTES: i64 = 1 << 20;
const PAUSE: Duration = Duration::from_millis(5);
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
    /// Copies the whole database into a new file, as it is now; the writer goes on meanwhile.
    pub async fn copy_to(&self, target: PathBuf) -> Result<(), StoreError> {
        let source = self.readers.path.clone();
        blocking(move || {
            let source = snapshot(&source)?;
            let page_bytes: i64 = source.query_row("PRAGMA page_size", [], |row| row.get(0))?;
            let mut copy = new_file(&target)?;
            {
                let backup = Backup::new(&source, &mut copy)?;
                let pages = i32::try_from(STEP_BYTES / page_bytes).unwrap_or(i32::MAX);
                while backup.step(pages)? != StepResult::Done {
                    std::thread::sleep(PAUSE);
                }
            }
            // One file, without a journal beside it.
            copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
            Ok(())
        })
        .await
    }

    /// Copies people, pictures' rows, embeddings, counter-examples and tombstones into a new database.
    pub async fn copy_gallery_to(&self, target: PathBuf) -> Result<(), StoreError> {
        let source = self.readers.path.clone();
        blocking(move || {
            let source = snapshot(&source)?;
            let mut copy = new_file(&target)?;
            migrate::migrate(&mut copy, &target)?;
            let transaction = copy.transaction()?;
            for table in GALLERY {
                for_each(&source, &format!("SELECT * FROM {table}"), [], |record| {
                    record.insert(&transaction, table).map(drop)
                })?;
            }
            transaction.commit()?;
            Ok(())
        })
        .await
    }

    /// Changes when what a backup of the gallery holds does; `None`: there is nothing in it.
    pub async fn gallery_fingerprint(&self) -> Result<Option<String>, StoreError> {
        self.read(|connection| {
            let mut sum = Sha256::new();
            let mut any = false;
            for sql in [
                "SELECT id, uid, name FROM person ORDER BY id",
                "SELECT id, person_id, sha256 FROM person_images ORDER BY id",
                "SELECT person_image_id, space FROM person_embeddings ORDER BY person_image_id, space",
                "SELECT id, person_id, space FROM counter_examples ORDER BY id",
                "SELECT uid FROM erased ORDER BY uid",
                "SELECT uid, into_uid FROM merged ORDER BY uid",
            ] {
                sum.update(sql);
                for_each(connection, sql, [], |record| {
                    any = true;
                    record.values.iter().for_each(|value| hash(&mut sum, value));
                    Ok(())
                })?;
            }
            Ok(any.then(|| hex(&sum.finalize())))
        })
        .await
    }

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

/// Makes a copy one that this program can read: whole, and of its own schema.
pub fn prepare_copy(path: &Path) -> Result<(), StoreError> {
    let mut copy = Connection::open(path)?;
    untrusted(&copy)?;
    migrate::check(&copy, None)?;
    migrate::migrate(&mut copy, path)
}

/// The newest schema this program knows.
pub fn schema() -> i64 {
    migrate::known_schema()
}

fn hash(sum: &mut Sha256, value: &Value) {
    match value {
        Value::Null => sum.update([0]),
        Value::Integer(number) => sum.update(number.to_le_bytes()),
        Value::Real(number) => sum.update(number.to_le_bytes()),
        Value::Text(text) => {
            sum.update(text.len().to_le_bytes());
            sum.update(text);
        }
        Value::Blob(bytes) => {
            sum.update(bytes.len().to_le_bytes());
            sum.update(bytes);
        }
    }
}

/// One look at the database for a whole copy: what is committed meanwhile does not have it begin again.
fn snapshot(path: &Path) -> Result<Connection, StoreError> {
    let source = open_read_only(path)?;
    source.execute_batch("BEGIN; SELECT count(*) FROM facts;")?;
    Ok(source)
}

fn new_file(target: &Path) -> Result<Connection, StoreError> {
    let copy = Connection::open(target)?;
    // Whoever wants the copy on disk sees to it.
    copy.pragma_update(None, "synchronous", "OFF")?;
    Ok(copy)
}

/// Only read, whatever its schema would like to have run.
pub(super) fn open_copy(path: &Path) -> rusqlite::Result<Connection> {
    let copy = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    untrusted(&copy)?;
    Ok(copy)
}

fn untrusted(copy: &Connection) -> rusqlite::Result<()> {
    copy.pragma_update(None, "trusted_schema", false)?;
    copy.pragma_update(None, "cell_size_check", true)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
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
        let by_name = "SELECT id, uid FROM person WHERE name = ?1";
        let named = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?));
        Ok(match here.prepare_cached(by_name)?.query_row([name], named).optional()? {
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
    Ok(())
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
mod tests {
    use super::*;
    use crate::store::{Changed, EnrolledPicture};

    async fn store(folder: &Path) -> Store {
        Store::open(folder, &[]).unwrap().0
    }

    async fn enroll(store: &Store, person: &str, picture: &str, vector: [f32; 2]) -> PersonId {
        let picture = EnrolledPicture {
            image_name: format!("{picture}.jpg"),
            sha256: picture.into(),
            file: format!("people/{picture}"),
            bounds: [0.0; 4],
            quality: 1.0,
            crop: b"crop".to_vec(),
            embedding: vector.to_vec(),
            space: "s".into(),
        };
        store.enroll(person.into(), picture).await.unwrap();
        store.person_named(person.into()).await.unwrap().unwrap()
    }

    async fn run(store: &Store, sql: &str) {
        let sql = sql.to_string();
        store.write(Urgency::Now, move |connection| connection.execute_batch(&sql)).await.unwrap();
    }

    async fn rows(store: &Store, sql: &str) -> Vec<String> {
        let sql = sql.to_string();
        store
            .read(move |connection| connection.prepare(&sql)?.query_map([], |row| row.get(0))?.collect())
            .await
            .unwrap()
    }

    /// A vector as it is stored, in SQL.
    fn blob(vector: [f32; 2]) -> String {
        let bytes = super::super::vector_to_blob(&vector);
        format!("x'{}'", hex(&bytes))
    }

    /// An image with a face that was taken for somebody, others being candidates.
    fn image(id: i64, outcome: &str, person: Option<PersonId>, candidates: &[PersonId], vector: [f32; 2]) -> String {
        let person_id = person.map_or("NULL".into(), |id| id.to_string());
        let listed: Vec<_> = candidates.iter().map(|id| (*id, 0.4)).collect();
        let named = |id: &PersonId| serde_json::json!({ "person_id": id, "name": format!("P{id}"), "distance": 0.4 });
        let payload = serde_json::json!({ "result_id": format!("r{id}"), "image_id": id, "faces": [{
            "person": person.as_ref().map(named), "candidates": candidates.iter().map(named).collect::<Vec<_>>() }] });
        format!(
            "INSERT INTO images (id, state, source, path, outcome, accepted_at_ms) VALUES ({id}, 'processed', 'http', '/{id}', '{outcome}', {id});
             INSERT INTO faces (image_id, number, outcome, person_id, candidates, score, quality, bounds, landmarks, space, embedding, crop)
               VALUES ({id}, 1, '{outcome}', {person_id}, '{}', 1, 1, '[]', '[]', 's', {}, x'01');
             INSERT INTO thumbnails VALUES ({id}, x'02');
             INSERT INTO outbox (image_id, result_id, created_at_ms, payload) VALUES ({id}, 'r{id}', 1, '{payload}');",
            serde_json::json!(listed),
            blob(vector),
        )
    }

    async fn copy_of(store: &Store, folder: &Path) -> PathBuf {
        let copy = folder.join("copy.db");
        let _ = std::fs::remove_file(&copy);
        store.copy_to(copy.clone()).await.unwrap();
        prepare_copy(&copy).unwrap();
        copy
    }

    #[tokio::test]
    async fn people_get_the_numbers_of_this_board_in_everything_that_names_them() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = store(there.path()).await;
        let ann = enroll(&from, "Ann", "a", [1.0, 0.0]).await;
        let bob = enroll(&from, "Bob", "b", [0.0, 1.0]).await;
        run(&from, &image(1, "known", Some(ann), &[ann, bob], [0.9, 0.1])).await;
        run(&from, &image(2, "uncertain", None, &[bob, ann], [0.1, 0.9])).await;
        run(&from, &image(3, "unknown", None, &[ann], [5.0, 5.0])).await;
        run(&from, &format!("INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms) VALUES ({ann}, 's', {}, x'', 1);
            INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms) VALUES (7, 's', x'00', 1, 1, 1, 1);
            INSERT INTO stranger_faces VALUES (3, 1, 7)", blob([7.0, 7.0]))).await;
        let copy = copy_of(&from, there.path()).await;

        let to = store(here.path()).await;
        enroll(&to, "Somebody", "x", [3.0, 3.0]).await;
        let here_bob = enroll(&to, "Bob", "b2", [0.0, 1.1]).await;
        assert_eq!(here_bob, bob);
        run(&to, "INSERT INTO images (id, source, path, accepted_at_ms) VALUES (2, 'http', '/waits', 9)").await;
        let gallery = to.restore_gallery(copy.clone()).await.unwrap();
        assert_eq!((gallery.people, gallery.pictures, gallery.counter_examples), (1, 2, 1));
        let images = to.restore_images(copy.clone(), &gallery).await.unwrap();
        assert_eq!(images, RestoredImages { images: 2, left_out: 1 });
        let here_ann = to.person_named("Ann".into()).await.unwrap().unwrap();
        assert_ne!(here_ann, ann, "her number has been somebody else's here");
        let face = "SELECT person_id || candidates FROM faces WHERE image_id = 1";
        assert_eq!(rows(&to, face).await, [format!("{here_ann}[[{here_ann},0.4],[{here_bob},0.4]]")]);
        let named = "SELECT (payload ->> '$.faces[0].person.person_id') || (payload ->> '$.faces[0].candidates[1].person_id') FROM outbox WHERE image_id = 1";
        assert_eq!(rows(&to, named).await, [format!("{here_ann}{here_bob}")]);
        assert_eq!(rows(&to, "SELECT state || path FROM images WHERE id = 2").await, ["pending/waits"]);
        assert_eq!(rows(&to, "SELECT id || ':' || faces FROM strangers").await, ["7:1"]);
        assert_eq!(rows(&to, "SELECT name FROM person JOIN counter_examples ON person_id = person.id").await, ["Ann"]);
        // Two who were one person by name are one by tombstone too.
        assert_eq!(rows(&to, "SELECT count(*) || '' FROM merged").await, ["1"]);

        // Whoever is erased is erased in what came back, and stays so.
        to.erase_person(here_ann).await.unwrap();
        to.erase_from_results(&to.erasing().await.unwrap()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(
                rows(&to, "SELECT payload FROM outbox WHERE payload LIKE '%Ann%' OR payload LIKE '%P1%'").await,
                [""; 0]
            );
            assert_eq!(
                rows(&to, "SELECT length(crop) || candidates FROM faces WHERE image_id = 1").await,
                [format!("0[[{here_bob},0.4]]")]
            );
            assert_eq!(rows(&to, "SELECT image_id || '' FROM thumbnails").await, ["3"]);
            let again = to.restore_gallery(copy.clone()).await.unwrap();
            assert_eq!((again.people, again.pictures, again.counter_examples), (0, 0, 0));
            let again = to.restore_images(copy.clone(), &again).await.unwrap();
            assert_eq!(again, RestoredImages { images: 0, left_out: 1 });
        }
    }

    #[tokio::test]
    async fn who_a_face_is_not_comes_back_unless_it_is_known_here_or_the_face_was_named_since() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (from, to) = (store(there.path()).await, store(here.path()).await);
        let ann = enroll(&from, "Ann", "a", [1.0, 0.0]).await;
        let not = |crop: &str| {
            format!(
                "INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms) VALUES ({ann}, 's', {}, x'{crop}', 1);",
                blob([7.0, 7.0])
            )
        };
        run(&from, &(not("01") + &not("02") + &not("03"))).await;
        let copy = copy_of(&from, there.path()).await;
        assert_eq!(enroll(&to, "Ann", "a", [1.0, 0.0]).await, ann);
        run(&to, &not("01")).await;
        // Embedded by another model pack since.
        run(&to, "UPDATE counter_examples SET space = 't', vector = x'00000000'").await;
        run(&to, "UPDATE person_images SET crop = x'02'").await;
        assert_eq!(to.restore_gallery(copy).await.unwrap().counter_examples, 1);
        assert_eq!(rows(&to, "SELECT hex(crop) FROM counter_examples ORDER BY id").await, ["01", "03"]);
    }

    #[tokio::test]
    async fn who_is_erased_here_comes_back_in_no_image_that_does() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = store(there.path()).await;
        let ann = enroll(&from, "Ann", "a", [1.0, 0.0]).await;
        let bob = enroll(&from, "Bob", "b", [0.0, 1.0]).await;
        let old = enroll(&from, "Old Ann", "o", [1.0, 0.1]).await;
        run(&from, &image(1, "known", Some(old), &[old, bob], [0.9, 0.1])).await;
        assert_eq!(from.merge_people(old, ann).await.unwrap(), Changed::Done(()));
        from.follow_merges().await.unwrap();
        run(&from, &image(2, "known", Some(bob), &[bob, ann], [0.1, 0.9])).await;
        // Named after the fact: the result that went out says nothing of it.
        run(&from, &image(3, "unknown", None, &[bob], [0.5, 0.5])).await;
        run(
            &from,
            &format!(
                "UPDATE faces SET outcome = 'known', person_id = {ann}, candidates = '[[{ann},0.3]]' WHERE image_id = 3"
            ),
        )
        .await;
        let copy = copy_of(&from, there.path()).await;
        let to = store(here.path()).await;
        to.restore_gallery(copy.clone()).await.unwrap();
        to.erase_person(ann).await.unwrap();
        assert_eq!(rows(&to, "SELECT count(*) || '' FROM erased").await, ["2"], "one for each who were put together");
        let gallery = to.restore_gallery(copy.clone()).await.unwrap();
        assert_eq!(to.restore_images(copy, &gallery).await.unwrap().images, 3);
        let left = "SELECT image_id || candidates || length(crop) || length(embedding) FROM faces ORDER BY image_id";
        assert_eq!(rows(&to, left).await, [format!("1[[{bob},0.4]]00"), format!("2[[{bob},0.4]]18"), "3[]00".into()]);
        assert_eq!(rows(&to, "SELECT image_id || '' FROM thumbnails").await, ["2"]);
        let named = format!("SELECT payload FROM outbox WHERE payload LIKE '%P{ann}%' OR payload LIKE '%P{old}%'");
        assert!(rows(&to, &named).await.is_empty());
    }

    fn not(person: PersonId, vector: [f32; 2], crop: &str) -> String {
        format!(
            "INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms) VALUES ({person}, 's', {}, CAST('{crop}' AS BLOB), 1);",
            blob(vector)
        )
    }

    #[tokio::test]
    async fn no_counter_example_comes_back_that_shows_who_is_erased_or_who_is_the_same_person_now() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = store(there.path()).await;
        let ann = enroll(&from, "Ann", "a", [1.0, 0.0]).await;
        let bob = enroll(&from, "Bob", "b", [0.0, 1.0]).await;
        let eve = enroll(&from, "Eve", "e", [1.0, 1.0]).await;
        let old = enroll(&from, "Old Bob", "o", [0.1, 1.0]).await;
        run(&from, "UPDATE person_images SET crop = CAST('of ' || image_name AS BLOB)").await;
        run(&from, &image(1, "known", Some(ann), &[ann], [0.8, 0.0])).await;
        run(&from, &image(2, "uncertain", None, &[ann, bob], [0.7, 0.0])).await;
        run(&from, &image(3, "unknown", None, &[bob], [0.6, 0.0])).await;
        run(&from, &image(4, "known", Some(old), &[old], [0.2, 1.0])).await;
        run(&from, "UPDATE faces SET crop = CAST('face ' || image_id AS BLOB)").await;
        // Of Bob: Ann's picture, its crop, a face of hers, one that may be, its crop, one that was named later; and what
        // shows Old Bob; and two that stay, one of them a picture of Eve.
        let gone = [
            not(bob, [1.0, 0.0], "x"),
            not(bob, [9.1, 0.0], "of a.jpg"),
            not(bob, [0.8, 0.0], "x"),
            not(bob, [0.7, 0.0], "x"),
            not(bob, [9.2, 0.0], "face 2"),
            not(bob, [0.6, 0.0], "x"),
            not(bob, [0.1, 1.0], "x"),
            not(bob, [0.2, 1.0], "x"),
            not(old, [0.0, 1.0], "x"),
        ];
        run(&from, &gone.concat()).await;
        run(&from, &[not(bob, [1.0, 1.0], "of e.jpg"), not(bob, [5.0, 5.0], "y"), not(old, [6.0, 6.0], "z")].concat())
            .await;
        let copy = copy_of(&from, there.path()).await;

        // The copy is of before: then the stranger of the third image was named Ann, Bob and Old Bob were put together, and
        // Ann was erased. One of the counter-examples is here yet.
        let to = from;
        run(&to, "DELETE FROM counter_examples").await;
        run(
            &to,
            &format!(
                "UPDATE faces SET outcome = 'known', person_id = {ann}, candidates = '[[{ann},0.3]]' WHERE image_id = 3"
            ),
        )
        .await;
        assert_eq!(to.merge_people(old, bob).await.unwrap(), Changed::Done(()));
        to.follow_merges().await.unwrap();
        to.erase_person(ann).await.unwrap();
        to.erase_from_results(&to.erasing().await.unwrap()).await.unwrap();
        let gallery = to.restore_gallery(copy.clone()).await.unwrap();
        to.restore_images(copy.clone(), &gallery).await.unwrap();
        let left = "SELECT hex(vector) FROM counter_examples ORDER BY id";
        let of = |vector: [f32; 2]| hex(&super::super::vector_to_blob(&vector)).to_uppercase();
        assert_eq!(rows(&to, left).await, [of([1.0, 1.0]), of([5.0, 5.0]), of([6.0, 6.0])]);
        assert_eq!(
            rows(
                &to,
                "SELECT DISTINCT person_id FROM counter_examples".replace("person_id", "person_id || ''").as_str()
            )
            .await,
            [bob.to_string()]
        );

        // Elsewhere one of the same name is the same: what they were said not to be here, and are by the copy, goes.
        let new = store(here.path()).await;
        let other = enroll(&new, "Old Bob", "n", [4.0, 4.0]).await;
        run(&new, &[not(other, [0.2, 1.0], ""), not(other, [0.1, 1.0], ""), not(other, [3.0, 3.0], "")].concat()).await;
        let gallery = new.restore_gallery(copy.clone()).await.unwrap();
        new.restore_images(copy, &gallery).await.unwrap();
        let theirs = format!("SELECT hex(vector) FROM counter_examples WHERE person_id = {other} ORDER BY id");
        assert_eq!(rows(&new, &theirs).await, [of([3.0, 3.0]), of([0.0, 1.0]), of([6.0, 6.0])]);
        assert_eq!(eve, 3);
    }

    #[tokio::test]
    async fn faces_of_a_group_that_is_gone_come_back_without_it() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let from = store(there.path()).await;
        run(&from, &image(1, "unknown", None, &[], [5.0, 5.0])).await;
        run(
            &from,
            "INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms) VALUES (7, 's', x'00', 1, 1, 1, 1);
             INSERT INTO stranger_faces VALUES (1, 1, 7)",
        )
        .await;
        let copy = copy_of(&from, there.path()).await;
        let to = store(here.path()).await;
        let (nobody, none) = (HashMap::new(), HashSet::new());
        let restored = to.write(Urgency::Now, move |here| {
            let copy = open_copy(&copy)?;
            let groups = restore_groups(here, &copy, &nobody)?;
            // Ignored and given up, say, between two operations of the writer.
            here.execute("DELETE FROM strangers", [])?;
            let mut restored = RestoredImages::default();
            restore_image(here, &copy, 1, (&nobody, &none), &groups, &mut restored)?;
            Ok(restored)
        });
        assert_eq!(restored.await.unwrap(), RestoredImages { images: 1, left_out: 0 });
        assert_eq!(rows(&to, "SELECT outcome FROM faces").await, ["unknown"]);
        assert_eq!(rows(&to, "SELECT count(*) || '' FROM stranger_faces").await, ["0"]);
    }

    #[tokio::test]
    async fn who_is_erased_in_the_copy_takes_nobody_along_who_bears_their_name_there() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let to = store(here.path()).await;
        let ann = enroll(&to, "Ann", "a", [1.0, 0.0]).await;
        let first = copy_of(&to, here.path()).await;
        let from = store(there.path()).await;
        from.restore_gallery(first).await.unwrap();
        from.erase_person(ann).await.unwrap();
        let again = enroll(&from, "Ann", "a2", [1.0, 0.1]).await;
        run(&from, &image(1, "known", Some(again), &[again], [0.9, 0.0])).await;
        let copy = copy_of(&from, there.path()).await;
        let gallery = to.restore_gallery(copy.clone()).await.unwrap();
        assert_eq!(gallery.erased_there, [ann]);
        to.erase_person(ann).await.unwrap();
        to.restore_images(copy.clone(), &gallery).await.unwrap();
        assert_eq!(rows(&to, "SELECT length(crop) || '' FROM faces").await, ["0"]);
        // Asked once more, the new one comes.
        assert_eq!(to.restore_gallery(copy).await.unwrap().people, 1);
    }

    #[tokio::test]
    async fn what_one_was_said_not_to_be_is_forgotten_when_the_two_are_put_together_or_one_is_erased() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let ann = enroll(&store, "Ann", "a", [1.0, 0.0]).await;
        let bob = enroll(&store, "Bob", "b", [0.0, 1.0]).await;
        let eve = enroll(&store, "Eve", "e", [1.0, 1.0]).await;
        run(&store, &image(1, "known", Some(ann), &[ann], [0.8, 0.0])).await;
        let not = |person: PersonId, vector| {
            format!(
                "INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms) VALUES ({person}, 's', {}, x'', 1);",
                blob(vector)
            )
        };
        // Of Bob: a picture of Ann, a face of Ann, a picture of Eve, and somebody else.
        for vector in [[1.0, 0.0], [0.8, 0.0], [1.0, 1.0], [9.0, 9.0]] {
            run(&store, &not(bob, vector)).await;
        }
        run(&store, &not(ann, [8.0, 8.0])).await;
        assert_eq!(store.merge_people(ann, bob).await.unwrap(), Changed::Done(()));
        store.follow_merges().await.unwrap();
        let left = "SELECT person_id || hex(vector) FROM counter_examples ORDER BY id";
        let of = |vector: [f32; 2]| format!("{bob}{}", hex(&super::super::vector_to_blob(&vector)).to_uppercase());
        assert_eq!(rows(&store, left).await, [of([1.0, 1.0]), of([9.0, 9.0]), of([8.0, 8.0])]);
        assert_eq!(rows(&store, "SELECT person_id || candidates FROM faces").await, [format!("{bob}[[{bob},0.4]]")]);
        store.erase_person(eve).await.unwrap();
        assert_eq!(rows(&store, left).await, [of([9.0, 9.0]), of([8.0, 8.0])]);
        // Bob is Ann as well: what names her by her old number goes with him.
        store.erase_person(bob).await.unwrap();
        store.erase_from_results(&store.erasing().await.unwrap()).await.unwrap();
        assert_eq!(
            rows(&store, "SELECT payload ->> '$.faces[0].person' FROM outbox WHERE payload LIKE '%\"name\"%'").await,
            [""; 0]
        );
        assert_eq!(rows(&store, "SELECT candidates || length(crop) FROM faces").await, ["[]0"]);
    }

    #[tokio::test]
    async fn a_copy_is_of_one_moment_while_the_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        run(
            &store,
            "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
             INSERT INTO images (source, path, accepted_at_ms) SELECT 'http', hex(zeroblob(100)), n FROM n",
        )
        .await;
        let copying = tokio::spawn({
            let (store, copy) = (store.clone(), folder.path().join("copy.db"));
            async move { store.copy_to(copy).await }
        });
        let mut written = 0;
        while !copying.is_finished() {
            run(&store, "INSERT INTO images (source, path, accepted_at_ms) VALUES ('http', '/later', 1); INSERT INTO rejected_messages (received_at_ms, topic, reason, payload) VALUES (1, '', '', x'')").await;
            written += 1;
        }
        copying.await.unwrap().unwrap();
        assert!(written > 1, "the writer waited for the copy");
        let copy = folder.path().join("copy.db");
        prepare_copy(&copy).unwrap();
        let copy = Connection::open(copy).unwrap();
        let count = |sql: &str| copy.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let later = count("SELECT count(*) FROM images WHERE path = '/later'");
        assert!(later < written && later == count("SELECT count(*) FROM rejected_messages"), "{later} of {written}");
    }
}
