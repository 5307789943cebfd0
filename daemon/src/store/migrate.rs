//! Brings the database file to this program's schema, and moves a damaged file aside.
//!
//! `migrations/README.md` has the rules. The only data read or written here is SQLite's
//! `user_version`.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use super::people::complete_names;
use super::{DATABASE, StoreError};

const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/0001-people.sql"),
    include_str!("../../../migrations/0002-images.sql"),
    include_str!("../../../migrations/0003-outbox.sql"),
    include_str!("../../../migrations/0004-engine.sql"),
    include_str!("../../../migrations/0005-fewer-writes.sql"),
    include_str!("../../../migrations/0006-folders.sql"),
    include_str!("../../../migrations/0007-retention.sql"),
    include_str!("../../../migrations/0008-people-and-strangers.sql"),
    include_str!("../../../migrations/0009-nothing-is-lost.sql"),
];

/// Returns the number of the newest schema.
pub(super) fn known_schema() -> i64 {
    MIGRATIONS.len() as i64
}

/// Checks all pages of the database, or of one table and its indexes.
pub(super) fn check(connection: &Connection, table: Option<&str>) -> Result<(), StoreError> {
    let of = table.map_or_else(|| "1".into(), |table| format!("'{table}'"));
    let found: String =
        connection.query_row(&format!("PRAGMA quick_check({of})"), [], |row| row.get(0))?;
    if found == "ok" {
        Ok(())
    } else {
        Err(StoreError::Corrupt(found))
    }
}

/// Checks the database, or one table, and rebuilds indexes that disagree with their table.
/// [`check`] does not compare them; a wrong index hides rows, or crashes its readers at every
/// start.
pub(super) fn check_and_reindex(
    connection: &Connection,
    table: Option<&str>,
) -> Result<(), StoreError> {
    let compare = || -> Result<Vec<String>, StoreError> {
        let of = table.map_or_else(|| "5".into(), |table| format!("'{table}'"));
        let mut check = connection.prepare(&format!("PRAGMA integrity_check({of})"))?;
        let found = check
            .query_map([], |row| row.get(0))?
            .collect::<Result<Vec<String>, _>>()?;
        Ok(if found == ["ok"] { Vec::new() } else { found })
    };
    let found = compare()?;
    if found.is_empty() {
        return Ok(());
    }
    // Damage in the tables themselves cannot be repaired here.
    check(connection, table)?;
    let made = match table {
        Some(table) => connection.execute_batch(&format!("REINDEX {table}")),
        None => connection.execute_batch("REINDEX"),
    };
    let left = compare()?;
    match (made, left.first()) {
        (Ok(()), None) => {
            tracing::warn!(
                "the database is damaged: indexes did not agree with their tables ({}); kithd \
                 rebuilt them and no row is lost",
                found.join("; ")
            );
            Ok(())
        }
        // Two rows that a unique index keeps apart have become equal.
        (Err(error), _) => Err(StoreError::Corrupt(format!(
            "{}; {error}",
            found.join("; ")
        ))),
        (_, Some(left)) => Err(StoreError::Corrupt(left.clone())),
    }
}

/// Returns the copies that migrations made of the database as it was before.
pub(super) fn copies_before(folder: &Path) -> Vec<PathBuf> {
    files_named(folder, &format!("{DATABASE}.before-"))
}

fn files_named(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning));
    let mut found: Vec<_> = named.map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// Runs the missing migrations. Refuses a newer file, and copies an older one before touching it.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let known = known_schema();
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(StoreError::Newer {
            path: path.into(),
            found,
            known,
        });
    }
    if found > 0 && found < known {
        let copy = path.with_extension(format!("db.before-{known:04}"));
        if !copy.exists() {
            connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
        }
    }
    advance(connection, known)
}

/// Runs the missing migrations up to a given schema.
pub(super) fn advance(connection: &mut Connection, schema: i64) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    for (number, sql) in (1..=schema)
        .zip(MIGRATIONS)
        .skip(usize::try_from(found).unwrap_or(0))
    {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    complete_names(&transaction)?;
    Ok(transaction.commit()?)
}

/// A table or index of a schema.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) table: String,
    pub(super) sql: String,
}

/// Returns the tables and indexes of a schema, with their statements as SQLite keeps them.
pub(super) fn objects(schema: i64) -> Result<Vec<Object>, StoreError> {
    let mut memory = Connection::open_in_memory()?;
    advance(&mut memory, schema)?;
    let mut objects = memory.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema
          WHERE type IN ('table', 'index') AND sql IS NOT NULL AND substr(name, 1, 7) <> 'sqlite_'",
    )?;
    let object = |row: &rusqlite::Row<'_>| {
        Ok(Object {
            kind: row.get(0)?,
            name: row.get(1)?,
            table: row.get(2)?,
            sql: row.get(3)?,
        })
    };
    Ok(objects.query_map([], object)?.collect::<Result<_, _>>()?)
}

const DAMAGED: &str = "damaged-";

/// Moves a damaged database and its journals aside under one number. The spool stays: its files are
/// queued again.
pub(super) fn set_aside(folder: &Path) -> Result<(), StoreError> {
    let aside = |number: u32| folder.join(format!("{DATABASE}.{DAMAGED}{number}"));
    // `1..` always finds a free number; the default is unreachable.
    let number = (1..)
        .find(|number| !aside(*number).exists())
        .unwrap_or(u32::MAX);
    // SQLite finds the journals under these names, so their content is recovered with the rest.
    let journals = ["-wal", "-shm"].map(|end| {
        (
            folder.join(format!("{DATABASE}{end}")),
            folder.join(format!("{DATABASE}.{DAMAGED}{number}{end}")),
        )
    });
    // The database moves last: until it has, an interrupted attempt starts again.
    for (from, to) in journals
        .into_iter()
        .chain([(folder.join(DATABASE), aside(number))])
    {
        match std::fs::rename(&from, to) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::Io { path: from, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns damaged databases in the folder, by file name and number.
pub(super) fn damaged(folder: &Path) -> Vec<(String, u32)> {
    let name = |path: PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        let number = name
            .strip_prefix(&format!("{DATABASE}.{DAMAGED}"))?
            .parse()
            .ok()?;
        Some((name, number))
    };
    files_named(folder, &format!("{DATABASE}.{DAMAGED}"))
        .into_iter()
        .filter_map(name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Migrating again changes nothing.
    #[test]
    fn an_empty_file_becomes_the_newest_schema_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate(&mut connection, &path).unwrap();
        migrate(&mut connection, &path).unwrap();
        let version: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .unwrap();
        assert_eq!(version, MIGRATIONS.len() as i64);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no copy of an empty database"
        );
    }

    #[test]
    fn an_index_that_does_not_agree_with_its_table_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate(&mut connection, &path).unwrap();
        connection
            .execute_batch(
                "INSERT INTO images (source, path, accepted_at_ms, idempotency_key) VALUES ('http', '/a', 1, 'k');
                 INSERT INTO person (name, created_at_ms) VALUES ('Ada', 1);",
            )
            .unwrap();
        check_and_reindex(&connection, None).unwrap();
        drop(connection);
        let whole = std::fs::read(&path).unwrap();
        // State in the index, key in the index, row number of the person. Each index entry lies
        // behind its table's row.
        for (index, entry) in [
            ("images_state_due", "pending"),
            ("images_idempotency_key", "k"),
            ("person_order", ""),
        ] {
            let connection = Connection::open(&path).unwrap();
            let page: usize = connection
                .query_row(
                    "SELECT rootpage FROM sqlite_schema WHERE name = ?1",
                    [index],
                    |row| row.get(0),
                )
                .unwrap();
            let size: usize = connection
                .query_row("PRAGMA page_size", [], |row| row.get(0))
                .unwrap();
            drop(connection);
            let mut bytes = whole.clone();
            let page = &mut bytes[(page - 1) * size..page * size];
            match page
                .windows(entry.len().max(1))
                .rposition(|window| window == entry.as_bytes())
            {
                Some(at) => page[at] ^= 1,
                // The entry's last byte is the row number.
                None => page[size - 1] ^= 2,
            }
            std::fs::write(&path, bytes).unwrap();
            let connection = Connection::open(&path).unwrap();
            check(&connection, None).expect("quick_check does not compare indexes");
            check_and_reindex(&connection, None).unwrap();
            let found: String = connection
                .query_row("PRAGMA integrity_check", [], |row| row.get(0))
                .unwrap();
            assert_eq!(found, "ok", "{index}");
            let waiting: i64 = connection
                .query_row(
                    "SELECT count(*) FROM images WHERE state = 'pending' AND due_ms <= 0",
                    [],
                    |row| row.get(0),
                )
                .unwrap();
            assert_eq!(waiting, 1, "{index}");
        }
    }

    #[test]
    fn an_older_database_is_copied_before_it_is_migrated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let mut connection = Connection::open(&path).unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection
            .execute_batch("INSERT INTO person (name, created_at_ms) VALUES ('Ada', 1)")
            .unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        migrate(&mut connection, &path).unwrap();
        let copy =
            Connection::open(path.with_extension(format!("db.before-{:04}", MIGRATIONS.len())))
                .unwrap();
        let name: String = copy
            .query_row("SELECT name FROM person", [], |row| row.get(0))
            .unwrap();
        assert_eq!(name, "Ada");
    }

    #[test]
    fn a_newer_database_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let mut connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "user_version", 999).unwrap();
        let refusal = migrate(&mut connection, &path).unwrap_err().to_string();
        assert!(refusal.contains("newer kithd (schema 999"), "{refusal}");
    }

    #[test]
    fn the_origins_join_still_answers() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection, Path::new("t.db")).unwrap();
        connection
            .execute_batch(
                "INSERT INTO person (id, name, created_at_ms) VALUES (7, 'Hannibal', 1);
                 INSERT INTO person_images (person_id, image_name, sha256, bounds, quality, created_at_ms)
                 VALUES (7, 'hannibal_2.jpg', 'x', '[]', 1.0, 1);",
            )
            .unwrap();
        let (name, id): (String, i64) = connection
            .query_row(
                "select person.name, person.id from person inner join person_images as pi \
                 on person.id = pi.person_id where image_name = 'hannibal_2.jpg';",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap();
        assert_eq!((name.as_str(), id), ("Hannibal", 7));
    }

    #[test]
    fn faces_candidates_and_results_of_an_older_database_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let mut connection = Connection::open(&path).unwrap();
        connection
            .pragma_update(None, "foreign_keys", true)
            .unwrap();
        for sql in &MIGRATIONS[..4] {
            connection.execute_batch(sql).unwrap();
        }
        connection.pragma_update(None, "user_version", 4).unwrap();
        connection
            .execute_batch(
                "INSERT INTO person VALUES (1, 'Ada', 1), (2, 'Bob', 1);
                 INSERT INTO images (id, state, source, path, outcome, accepted_at_ms)
                   VALUES (1, 'processed', 'http', '/a', 'known', 1);
                 INSERT INTO faces VALUES (5, 1, 1, '[]', '[]', 0.9, 0.8, 'known', 1, 0.4, 0.2, 's', x'00', x'01');
                 INSERT INTO face_candidates VALUES (5, 2, 2, 0.6), (5, 1, 1, 0.4);
                 INSERT INTO outbox VALUES (3, 'r', 1, '{}', 7, 2, 'sent', NULL), (4, 's', 1, '{}', 8, 0, 'unsent', NULL);",
            )
            .unwrap();
        migrate(&mut connection, &path).unwrap();
        let rows = |sql: &str| -> Vec<String> {
            let mut statement = connection.prepare(sql).unwrap();
            statement
                .query_map([], |row| row.get(0))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap()
        };
        assert_eq!(
            rows(
                "SELECT image_id || number || outcome || person_id || candidates || hex(crop) FROM faces"
            ),
            ["11known1[[1,0.4],[2,0.6]]01"]
        );
        assert_eq!(
            rows("SELECT id || result_id || payload FROM outbox ORDER BY id"),
            ["3r{}", "4s{}"]
        );
        assert_eq!(rows("SELECT id || ':' || tries FROM unsent"), ["4:0"]);
        assert_eq!(rows("PRAGMA integrity_check"), ["ok"]);
        assert!(rows("SELECT \"table\" FROM pragma_foreign_key_check").is_empty());
    }
}
