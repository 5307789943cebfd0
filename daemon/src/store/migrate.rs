//! Brings the database file to this program's schema, and moves a damaged file aside.
//!
//! `migrations/README.md` has the rules. The only data read or written here is SQLite's
//! `user_version`.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::people::complete_names;
use super::{DATABASE, StoreError};

const MIGRATIONS: &[&str] = &[include_str!("../../../migrations/0001-schema.sql")];

/// Highest number that development versions used, before the schema was written in one file.
const DEVELOPMENT: i64 = 10;
/// Number of the first released schema.
pub(super) const FIRST_SCHEMA: i64 = DEVELOPMENT + 1;

/// Returns the number of the newest schema.
pub(super) fn known_schema() -> i64 {
    DEVELOPMENT + MIGRATIONS.len() as i64
}

/// Refuses a schema number that this program cannot bring to its own.
pub(super) fn check_schema(path: &Path, found: i64) -> Result<(), StoreError> {
    let (path, known) = (path.to_path_buf(), known_schema());
    match found {
        _ if found > known => Err(StoreError::Newer { path, found, known }),
        1..FIRST_SCHEMA => Err(StoreError::Development { path, found }),
        _ => Ok(()),
    }
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

/// Runs the missing migrations. Refuses a file of another program version, and copies an older one
/// before touching it.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found = user_version(connection)?;
    check_schema(path, found)?;
    let known = known_schema();
    if found > 0 && found < known {
        let copy = path.with_extension(format!("db.before-{known:04}"));
        if !copy.exists() {
            connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()])?;
        }
    }
    if found == known {
        check_statements(connection, known)?;
    }
    advance(connection, known)
}

/// Compares the statements of tables, indexes and triggers with those of a schema, comments and
/// blanks aside: a bit that turned in one of them renames a column, which no check of SQLite's
/// notices.
fn check_statements(connection: &Connection, schema: i64) -> Result<(), StoreError> {
    let memory = in_memory(schema)?;
    let mut ours = memory.prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")?;
    let mut theirs = connection.prepare("SELECT sql FROM sqlite_schema WHERE name = ?1")?;
    let mut ours = ours.query([])?;
    while let Some(row) = ours.next()? {
        let (name, sql): (String, String) = (row.get(0)?, row.get(1)?);
        let found: Option<String> = theirs.query_row([&name], |row| row.get(0)).optional()?;
        if found.is_none_or(|found| bare(&found) != bare(&sql)) {
            let what = format!("the statement that makes {name} is not the one of this version");
            return Err(StoreError::Corrupt(what));
        }
    }
    Ok(())
}

/// Returns a statement without comments and blanks.
fn bare(sql: &str) -> String {
    let lines = sql.lines().filter_map(|line| line.split("--").next());
    lines.flat_map(str::split_whitespace).collect()
}

/// Makes an empty database of a schema.
fn in_memory(schema: i64) -> Result<Connection, StoreError> {
    let mut memory = Connection::open_in_memory()?;
    advance(&mut memory, schema)?;
    Ok(memory)
}

/// Runs the missing migrations up to a given schema.
pub(super) fn advance(connection: &mut Connection, schema: i64) -> Result<(), StoreError> {
    let found = user_version(connection)?;
    for (number, sql) in (FIRST_SCHEMA..=schema).zip(MIGRATIONS) {
        if number <= found {
            continue;
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    complete_names(&transaction)?;
    Ok(transaction.commit()?)
}

/// Returns the schema number of a database; 0 for an empty one.
pub(super) fn user_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
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
    let memory = in_memory(schema)?;
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
    fn a_turned_bit_in_a_statement_is_damage_a_comment_is_not() {
        let edited = |from: &str, to: &str| {
            let database = in_memory(known_schema()).unwrap();
            let edit = format!(
                "PRAGMA writable_schema = 1;
                 UPDATE sqlite_schema SET sql = replace(sql, '{from}', '{to}');"
            );
            database.execute_batch(&edit).unwrap();
            check_statements(&database, known_schema())
        };
        assert!(edited("CREATE TABLE", "CREATE  TABLE").is_ok());
        assert!(edited("(", "( -- another comment\n").is_ok());
        assert!(edited("picture_key", "picture_kex").is_err());
    }

    #[test]
    fn an_empty_file_becomes_the_newest_schema_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let mut connection = Connection::open(&path).unwrap();
        migrate(&mut connection, &path).unwrap();
        migrate(&mut connection, &path).unwrap();
        assert_eq!(user_version(&connection).unwrap(), known_schema());
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

    /// The refusal names the file and says what to do.
    #[test]
    fn a_database_of_a_development_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.db");
        let mut connection = Connection::open(&path).unwrap();
        for found in [1, DEVELOPMENT] {
            connection
                .pragma_update(None, "user_version", found)
                .unwrap();
            let refusal = migrate(&mut connection, &path).unwrap_err().to_string();
            assert!(
                refusal.contains("t.db was made by a development version")
                    && refusal.contains("move it out of the state folder"),
                "{refusal}"
            );
        }
    }
}
