//! SQL of backup files: makes one from the database, and turns one from anywhere into a clean copy
//! of this schema. `restore` takes from that copy; `crate::backup` decides where the files lie.
//!
//! A backup is one SQLite file with its own `application_id`, the schema's number as
//! `user_version`, tables of this schema with their indexes, no view and no trigger, and one more
//! table that says where the backup comes from.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};

use super::foreign::{self, ForeignError, LATEST_MS, LeftOut, Taking};
use super::migrate;
use super::{Store, StoreError, open_read_only};
use crate::domain::{Moment, hex, wall_clock_ms};
use crate::names;

/// Tables of the gallery, parent tables first.
pub(super) const GALLERY: [&str; 7] = [
    "person",
    "person_images",
    "enrolment_pictures",
    "person_embeddings",
    "counter_examples",
    "erased",
    "merged",
];
/// Tables of the past, parent tables first.
pub(super) const PAST: [&str; 10] = [
    "images",
    "thumbnails",
    "faces",
    "results",
    "strangers",
    "stranger_faces",
    "sightings",
    "sighting_faces",
    "folders",
    "seen",
];
/// Number of the gallery's tables in an export of people. The tombstones stay out: an import erases
/// no person.
const PEOPLE: usize = 5;

/// `application_id` in the header of each backup: "kith".
const APPLICATION: i32 = 0x6B69_7468;
/// Table that says where a backup comes from.
const ORIGIN: &str = "CREATE TABLE backup (
  contents      TEXT    NOT NULL,
  version       TEXT    NOT NULL,
  device        TEXT    NOT NULL,
  created_at_ms INTEGER NOT NULL,
  gallery       TEXT
) STRICT";

/// Scope of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    /// People and past.
    Everything,
    /// All people with pictures, embeddings, counter-examples and tombstones.
    Gallery,
    /// Some people, for another board.
    People,
}

impl Contents {
    fn tables(self) -> Vec<&'static str> {
        match self {
            Self::Everything => [&GALLERY[..], &PAST].concat(),
            Self::Gallery => GALLERY.to_vec(),
            Self::People => GALLERY[..PEOPLE].to_vec(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Gallery => "gallery",
            Self::People => "people",
        }
    }
}

/// Provenance of a backup.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Scope of the backup.
    pub contents: Contents,
    /// Board, date and version, for people to read.
    pub text: String,
    /// Fingerprint of the gallery; differs when the gallery's backup would.
    pub gallery: Option<String>,
}

/// Reason why a file is not a kithd backup.
#[derive(Debug, thiserror::Error)]
pub enum NoBackup {
    /// Another program made the file.
    #[error("this is not a kithd backup: {0}")]
    Foreign(String),
    /// A newer program made the file.
    #[error(
        "the backup was made by a newer kithd (schema {found}, this one knows {known}); install \
         that version first"
    )]
    Newer {
        /// Schema of the file.
        found: i64,
        /// The newest schema this program knows.
        known: i64,
    },
}

/// Returns the schema that the first 100 bytes of a file name, before anything else of it is read.
pub fn check_header(header: &[u8]) -> Result<i64, NoBackup> {
    let number = |at: usize| {
        header
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(i32::from_be_bytes)
    };
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(NoBackup::Foreign(
            "it is not a file that kithd backup or kithd people export writes".into(),
        ));
    }
    // Offsets in the header: sqlite.org/fileformat2.html, section 1.3.
    let (Some(schema), Some(application)) = (number(60), number(68)) else {
        return Err(NoBackup::Foreign(
            "it ends within its first 100 bytes".into(),
        ));
    };
    let known = migrate::known_schema();
    match i64::from(schema) {
        _ if application != APPLICATION => Err(NoBackup::Foreign(
            "it is an SQLite database, but not one that kithd backup wrote".into(),
        )),
        found if found > known => Err(NoBackup::Newer { found, known }),
        found if found < migrate::FIRST_SCHEMA => Err(NoBackup::Foreign(format!(
            "its schema is {found}, of a development version"
        ))),
        found => Ok(found),
    }
}

impl Store {
    /// Writes a snapshot of the database, or of one `person`, into an empty file; the writer is not
    /// blocked meanwhile.
    pub async fn make_backup(
        &self,
        target: PathBuf,
        contents: Contents,
        device: String,
        person: Option<i64>,
    ) -> Result<(), StoreError> {
        let source = self.readers.path.clone();
        blocking(move || {
            let source = open_read_only(&source)?;
            let copy = match contents {
                Contents::Everything => copy_everything(&source, &target)?,
                _ => copy_people(&source, &target, contents, person)?,
            };
            // Only the gallery's own backup is compared with the gallery later.
            let gallery = if contents == Contents::Gallery {
                fingerprint(&copy)?
            } else {
                None
            };
            copy.execute_batch(ORIGIN)?;
            copy.execute(
                "INSERT INTO backup VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    contents.word(),
                    env!("CARGO_PKG_VERSION"),
                    device,
                    wall_clock_ms(),
                    gallery
                ],
            )?;
            copy.pragma_update(None, "application_id", APPLICATION)?;
            copy.pragma_update(None, "user_version", migrate::known_schema())?;
            Ok(())
        })
        .await
    }

    /// Returns a fingerprint of the gallery that differs when its backup would; `None` when the
    /// gallery is empty.
    pub async fn gallery_fingerprint(&self) -> Result<Option<String>, StoreError> {
        self.read(fingerprint).await
    }
}

/// Copies the whole database, then removes from the copy what belongs to this board and this hour:
/// the queue, the outbox, file names, facts and charts.
fn copy_everything(source: &Connection, target: &Path) -> Result<Connection, StoreError> {
    source.execute("VACUUM INTO ?1", [target.to_string_lossy()])?;
    let copy = new_file(target)?;
    let tables = Contents::Everything.tables();
    let objects = migrate::objects(migrate::known_schema())?;
    let foreign: Vec<(String, String)> = copy
        .prepare("SELECT type, name FROM sqlite_schema WHERE sql IS NOT NULL AND substr(name, 1, 7) <> 'sqlite_'")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let belongs = |name: &str| {
        objects
            .iter()
            .any(|object| object.name == name && tables.contains(&object.table.as_str()))
    };
    // Triggers go first, so that none runs on the deletes. Foreign keys are off, so that dropping a
    // table removes its indexes but no rows of other tables.
    copy.pragma_update(None, "foreign_keys", false)?;
    for kind in ["trigger", "view", "index", "table"] {
        for (_, name) in foreign
            .iter()
            .filter(|(of, name)| of == kind && !belongs(name))
        {
            copy.execute_batch(&format!(
                "DROP {kind} IF EXISTS \"{}\"",
                name.replace('"', "\"\"")
            ))?;
        }
    }
    copy.execute_batch(
        "PRAGMA foreign_keys = ON;
         BEGIN;
         DELETE FROM images WHERE state NOT IN ('processed', 'failed');
         UPDATE images SET file = NULL, bytes = 0, unverified = 0, supersedes = NULL, alone = 0
          WHERE file IS NOT NULL OR bytes <> 0 OR unverified <> 0 OR supersedes IS NOT NULL OR alone <> 0;
         UPDATE seen SET image_id = NULL WHERE image_id IS NOT NULL;
         COMMIT;",
    )?;
    // The backup is a single file, without a journal beside it.
    copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    Ok(copy)
}

/// Copies only people, row by row: a board's past may be a thousand times as large.
fn copy_people(
    source: &Connection,
    target: &Path,
    contents: Contents,
    person: Option<i64>,
) -> Result<Connection, StoreError> {
    let copy = new_file(target)?;
    let (tables, objects) = (
        contents.tables(),
        migrate::objects(migrate::known_schema())?,
    );
    source.execute_batch("BEGIN")?;
    let transaction = copy.unchecked_transaction()?;
    for table in &tables {
        for object in objects.iter().filter(|object| object.table == *table) {
            transaction.execute_batch(&object.sql)?;
        }
        let theirs = match (person, *table) {
            (None, _) => "?1 IS NULL",
            (_, "person") => "id = ?1",
            (_, "enrolment_pictures" | "person_embeddings") => {
                "person_image_id IN (SELECT id FROM person_images WHERE person_id = ?1)"
            }
            _ => "person_id = ?1",
        };
        copy_rows(
            source,
            &transaction,
            table,
            &format!("SELECT * FROM {table} WHERE {theirs}"),
            params![person],
        )?;
    }
    transaction.commit()?;
    Ok(copy)
}

/// Copies rows between two databases of this schema, matching columns by name.
pub(super) fn copy_rows(
    from: &Connection,
    to: &Connection,
    table: &str,
    select: &str,
    params: impl rusqlite::Params,
) -> rusqlite::Result<u64> {
    copy_rows_or(from, to, table, select, params, "")
}

/// Copies rows like [`copy_rows`], with an `ON CONFLICT` clause.
pub(super) fn copy_rows_or(
    from: &Connection,
    to: &Connection,
    table: &str,
    select: &str,
    params: impl rusqlite::Params,
    conflict: &str,
) -> rusqlite::Result<u64> {
    let mut read = from.prepare(select)?;
    let (columns, names) = (read.column_count(), read.column_names().join(", "));
    let places = vec!["?"; columns].join(", ");
    let mut write = to.prepare(&format!(
        "INSERT INTO {table} ({names}) VALUES ({places}) {conflict}"
    ))?;
    let (mut rows, mut copied) = (read.query(params)?, 0);
    while let Some(row) = rows.next()? {
        let values = (0..columns)
            .map(|at| row.get_ref(at))
            .collect::<Result<Vec<ValueRef<'_>>, _>>()?;
        for (at, value) in (1..).zip(values) {
            write.raw_bind_parameter(at, rusqlite::types::ToSqlOutput::Borrowed(value))?;
        }
        copied += write.raw_execute()? as u64;
    }
    Ok(copied)
}

/// Returns a fingerprint of the gallery; `None` when it is empty.
fn fingerprint(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let mut sum = Sha256::new();
    let mut any = false;
    for sql in [
        "SELECT id, hex(uid), name FROM person ORDER BY id",
        "SELECT id, person_id, sha256 FROM person_images ORDER BY id",
        "SELECT person_image_id, length(picture), '' FROM enrolment_pictures ORDER BY person_image_id",
        "SELECT person_image_id, space, '' FROM person_embeddings ORDER BY person_image_id, space",
        "SELECT id, person_id, space FROM counter_examples ORDER BY id",
        "SELECT hex(uid), '', '' FROM erased ORDER BY uid",
        "SELECT hex(uid), hex(into_uid), '' FROM merged ORDER BY uid",
    ] {
        let mut statement = connection.prepare(sql)?;
        sum.update(sql);
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            any = true;
            for at in 0..3 {
                match row.get_ref(at)? {
                    ValueRef::Integer(number) => sum.update(number.to_le_bytes()),
                    value => sum.update(value.as_bytes_or_null()?.unwrap_or_default()),
                }
                sum.update([0]);
            }
        }
    }
    Ok(any.then(|| hex(&sum.finalize())))
}

/// Reads where a backup comes from.
pub fn origin(path: &Path) -> Result<Origin, ForeignError> {
    let mut header = [0; 100];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.map_err(|source| StoreError::Io {
        path: path.into(),
        source,
    })?;
    check_header(&header).map_err(|error| ForeignError::Refused(error.to_string()))?;
    origin_of(&foreign::open(path)?)
}

fn origin_of(file: &Connection) -> Result<Origin, ForeignError> {
    let sql =
        "SELECT count(*) FROM sqlite_schema WHERE name = 'backup' AND type = 'table' AND sql = ?1";
    if file.query_row(sql, [ORIGIN], |row| row.get::<_, i64>(0))? != 1 {
        return Err(ForeignError::Refused(
            "it does not say where it comes from".into(),
        ));
    }
    let row = file.query_row(
        "SELECT contents, version, device, created_at_ms, gallery FROM backup LIMIT 1",
        [],
        |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, i64>(3)?,
                row.get::<_, Option<String>>(4)?,
            ))
        },
    );
    let (contents, version, device, created_at_ms, gallery) = match row {
        Ok(row) => row,
        Err(error) => match ForeignError::from(error) {
            ForeignError::Store(error) => {
                return Err(ForeignError::Refused(format!(
                    "it does not say where it comes from: {error}"
                )));
            }
            error => return Err(error),
        },
    };
    let contents = [Contents::Everything, Contents::Gallery, Contents::People]
        .into_iter()
        .find(|known| known.word() == contents)
        .ok_or_else(|| ForeignError::Refused("it does not name its contents".into()))?;
    let short = |text: String| names::clean(&text).chars().take(100).collect::<String>();
    let made = Moment::from_ms(created_at_ms.clamp(0, LATEST_MS)).text;
    let text = format!(
        "of {}, made {made} by kithd {}",
        short(device),
        short(version)
    );
    Ok(Origin {
        contents,
        text,
        gallery,
    })
}

/// Makes a clean copy of this program's schema from a file of unknown origin, and lists the rows
/// that were left out.
pub fn clean_copy(
    file: &Path,
    schema: i64,
    clean: &Path,
) -> Result<(Origin, LeftOut), ForeignError> {
    let from = foreign::open(file)?;
    let origin = origin_of(&from)?;
    let tables = origin.contents.tables();
    let mut own = migrate::objects(schema)?;
    own.retain(|object| tables.contains(&object.table.as_str()));
    own.push(migrate::Object {
        kind: "table".into(),
        name: "backup".into(),
        table: "backup".into(),
        sql: ORIGIN.into(),
    });
    foreign::check_schema(&from, &own)?;
    foreign::check_pages(&from)?;
    let left_out = take_tables(&from, clean, schema, &tables)?;
    Ok((origin, left_out))
}

/// Takes all rows of these tables into a new database.
pub(super) fn take_tables(
    from: &Connection,
    clean: &Path,
    schema: i64,
    tables: &[&'static str],
) -> Result<LeftOut, ForeignError> {
    let mut own = new_file(clean)?;
    migrate::advance(&mut own, schema)?;
    own.pragma_update(None, "foreign_keys", true)
        .map_err(StoreError::from)?;
    let mut left_out = LeftOut::default();
    let transaction = own.unchecked_transaction().map_err(StoreError::from)?;
    for table in tables {
        Taking::of(from, &transaction, table, "TRUE")?.run(&[], &mut left_out)?;
    }
    foreign::check_pictures(&transaction, &mut left_out)?;
    transaction.commit().map_err(StoreError::from)?;
    migrate::advance(&mut own, migrate::known_schema())?;
    Ok(left_out)
}

/// Opens a scratch database without `fsync`; the caller flushes a file that must survive.
fn new_file(path: &Path) -> Result<Connection, StoreError> {
    let file = Connection::open(path)?;
    file.pragma_update(None, "synchronous", "OFF")?;
    file.pragma_update(None, "secure_delete", true)?;
    file.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(file)
}

/// Runs disk work on a blocking thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| StoreError::Closed)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::{run, store};

    async fn make(store: &Store, target: PathBuf) -> Result<(), StoreError> {
        store
            .make_backup(target, Contents::Everything, "board".into(), None)
            .await
    }

    fn read(file: &Path) -> (Origin, LeftOut, Connection) {
        let clean = file.with_extension("clean");
        let (origin, left_out) = clean_copy(file, migrate::known_schema(), &clean).unwrap();
        (origin, left_out, Connection::open(clean).unwrap())
    }

    #[tokio::test]
    async fn a_backup_is_of_one_moment_while_the_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        run(
            &store,
            "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
             INSERT INTO images (state, outcome, source, path, accepted_at_ms)
             SELECT 'processed', 'no_face', 'http', hex(zeroblob(100)), n FROM n",
        )
        .await;
        let target = folder.path().join("copy");
        let copying = tokio::spawn({
            let (store, target) = (store.clone(), target.clone());
            async move { make(&store, target).await }
        });
        let mut written = 0;
        while !copying.is_finished() {
            run(
                &store,
                "INSERT INTO images (state, outcome, source, path, accepted_at_ms)
                   VALUES ('processed', 'no_face', 'http', '/later', 1);
                 INSERT INTO erased VALUES (randomblob(16), 1);",
            )
            .await;
            written += 1;
        }
        copying.await.unwrap().unwrap();
        assert!(written > 1, "the writer waited for the copy");
        let (_, left_out, copy) = read(&target);
        assert_eq!(left_out.rows, 0, "{left_out:?}");
        let count = |sql: &str| copy.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let later = count("SELECT count(*) FROM images WHERE path = '/later'");
        assert!(
            later < written && later == count("SELECT count(*) FROM erased"),
            "{later} of {written}"
        );
    }

    #[tokio::test]
    async fn what_does_not_belong_is_not_in_a_backup() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        run(
            &store,
            "CREATE TABLE notes (a); CREATE VIEW everybody AS SELECT * FROM person;
             CREATE INDEX own ON images (path); CREATE TRIGGER mine AFTER DELETE ON images BEGIN SELECT 1; END;
             INSERT INTO facts VALUES ('secret', 'word of mouth');
             INSERT INTO images (id, state, outcome, source, path, accepted_at_ms, file, unverified, supersedes)
               VALUES (1, 'processed', 'no_face', 'http', '/1', 1, 'spool/1.x', 1, 'r0'),
                      (2, 'pending', NULL, 'http', '/waits', 1, 'spool/2.x', 0, NULL);
             INSERT INTO results (id, image_id, result_id) VALUES (5, 1, 'r1');
             INSERT INTO outbox (id, payload) VALUES (5, 'a message');",
        )
        .await;
        let target = folder.path().join("copy");
        make(&store, target.clone()).await.unwrap();
        let bytes = std::fs::read(&target).unwrap();
        for gone in [
            "word of mouth",
            "a message",
            "/waits",
            "spool/",
            "everybody",
            "CREATE TRIGGER",
        ] {
            assert!(
                !bytes
                    .windows(gone.len())
                    .any(|window| window == gone.as_bytes()),
                "{gone} is in the backup"
            );
        }
        let (origin, left_out, copy) = read(&target);
        assert_eq!((origin.contents, left_out.rows), (Contents::Everything, 0));
        let row: (i64, Option<String>, i64) = copy
            .query_row("SELECT id, file, unverified FROM images", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .unwrap();
        assert_eq!(row, (1, None, 0));
    }
}
