//! Reads rows of an untrusted database: a backup from elsewhere, or a damaged file.
//!
//! Nothing of the other file's schema is run. Its tables must match our schema word for word, and
//! every row is checked against the limits below before our own SQL stores it. Our own copies need
//! none of this; `restore` reads those.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Statement, ToSql};

use super::{StoreError, blob_to_vector, migrate};
use crate::domain::{Origin, hex, sha256};
use crate::names;

/// Longest value SQLite may read from such a file, larger than any picture.
const LONGEST_VALUE: i32 = 256 << 20;
/// Most rows per table.
const MOST_ROWS: u64 = 10_000_000;
/// Time limit for checking and reading a file, plus an allowance for each MiB.
const LEAST_TIME: Duration = Duration::from_secs(60);
const TIME_FOR_MIB: Duration = Duration::from_millis(500);
/// SQLite VM instructions between two checks of the time limit.
const LOOK: i32 = 20_000;
/// Highest row number accepted, far below SQLite's maximum.
const HIGHEST_ID: i64 = 1 << 53;
/// The end of the year 9999, in milliseconds.
pub(super) const LATEST_MS: i64 = 253_402_300_799_999;
/// Longest text other than JSON and names.
const LONGEST_TEXT: usize = 64 << 10;
const LONGEST_JSON: usize = 4 << 20;
/// Left-out rows that are listed by name; the rest are only counted.
const NAMED: usize = 20;
/// Valid lengths of an embedding.
const DIMENSIONS: std::ops::RangeInclusive<usize> = 16..=4096;

/// Reason why another file is not read.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// The file is not acceptable, or reading it takes too long. Holds a sentence.
    #[error("{0}")]
    Refused(String),
    /// Pages of the file cannot be read.
    #[error("{0}")]
    Damaged(String),
    /// The board's own database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for ForeignError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => {
                Self::Refused("reading it takes too long".into())
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TooBig) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Store(error.into()),
        }
    }
}

/// Rows that were left out.
#[derive(Debug, Clone, Default)]
pub struct LeftOut {
    /// The first of them by name, each with its reason.
    pub named: Vec<String>,
    /// Total count.
    pub rows: u64,
}

impl LeftOut {
    pub(super) fn note(&mut self, sentence: impl FnOnce() -> String) {
        self.rows += 1;
        if self.named.len() < NAMED {
            self.named.push(sentence());
        }
    }
}

/// Opens a file read-only, within limits of size and time, and with its triggers and views
/// disabled.
pub(super) fn open(path: &Path) -> Result<Connection, ForeignError> {
    let bytes = std::fs::metadata(path).map_or(0, |file| file.len());
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    for (config, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    ] {
        connection.set_db_config(config, on)?;
    }
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, LONGEST_VALUE),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 10),
        (Limit::SQLITE_LIMIT_COLUMN, 100),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 50),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 3),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most)?;
    }
    let until =
        Instant::now() + LEAST_TIME + TIME_FOR_MIB * u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
    connection.progress_handler(LOOK, Some(move || Instant::now() > until))?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Opens a damaged database of our own. SQLite reads on where the file is cut off or its schema is
/// incomplete.
pub(super) fn open_damaged(path: &Path) -> Result<Connection, ForeignError> {
    let connection = open(path)?;
    // The file is opened read-only, so this only keeps SQLite from rejecting the whole file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
    connection.execute_batch("PRAGMA writable_schema = ON")?;
    Ok(connection)
}

/// Refuses a file whose schema is not word for word the expected one.
pub(super) fn check_schema(
    connection: &Connection,
    own: &[migrate::Object],
) -> Result<(), ForeignError> {
    let mut own: BTreeMap<&str, &migrate::Object> = own
        .iter()
        .map(|object| (object.name.as_str(), object))
        .collect();
    let mut found = connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema")?;
    let mut rows = found.query([])?;
    while let Some(row) = rows.next()? {
        let text = |at| {
            row.get_ref(at)?
                .as_str_or_null()
                .map_err(|_| rusqlite::Error::InvalidQuery)
        };
        let kind = text(0)?.unwrap_or_default();
        let name = text(1)?.unwrap_or_default();
        // Only SQLite can make these: the names are reserved.
        if name == "sqlite_sequence" || (kind == "index" && name.starts_with("sqlite_autoindex_")) {
            continue;
        }
        let same = own.remove(name).is_some_and(|object| {
            Ok(Some(object.kind.as_str())) == text(0).as_ref().map(|kind| *kind)
                && matches!(text(2), Ok(Some(table)) if table == object.table)
                && matches!(text(3), Ok(Some(sql)) if sql == object.sql)
        });
        if !same {
            let (kind, name) = (label(kind), label(name));
            return Err(ForeignError::Refused(format!(
                "its {kind} \"{name}\" is not one that kithd makes"
            )));
        }
    }
    match own.keys().next() {
        Some(missing) => Err(ForeignError::Refused(format!("it has no {missing}"))),
        None => Ok(()),
    }
}

/// Checks all pages, indexes and types of a file.
pub(super) fn check_pages(connection: &Connection) -> Result<(), ForeignError> {
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        Ok(())
    } else {
        Err(ForeignError::Damaged(label(&found)))
    }
}

/// Copies the rows of a table into one of ours with the same columns.
pub(super) struct Taking<'a> {
    table: &'static str,
    columns: Vec<(String, Kind)>,
    read: Statement<'a>,
    write: Statement<'a>,
}

impl<'a> Taking<'a> {
    /// Prepares a copy of the rows that match the condition, a trusted SQL expression.
    pub(super) fn of(
        from: &'a Connection,
        to: &'a Connection,
        table: &'static str,
        condition: &str,
    ) -> Result<Self, ForeignError> {
        let mut info = to.prepare("SELECT name, type FROM pragma_table_info(?1)")?;
        let columns: Vec<(String, Kind)> = info
            .query_map([table], |row| {
                let name: String = row.get(0)?;
                let kind = Kind::of(table, &name, &row.get::<_, String>(1)?);
                Ok((name, kind))
            })?
            .collect::<Result<_, _>>()?;
        let names = columns
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        let places = vec!["?"; columns.len()].join(", ");
        let read = from.prepare(&format!(
            "SELECT {names} FROM {table} NOT INDEXED WHERE {condition}"
        ))?;
        let write = to.prepare(&format!("INSERT INTO {table} ({names}) VALUES ({places})"))?;
        Ok(Self {
            table,
            columns,
            read,
            write,
        })
    }

    /// Copies the rows and returns how many were taken.
    pub(super) fn run(
        &mut self,
        params: &[&dyn ToSql],
        left_out: &mut LeftOut,
    ) -> Result<u64, ForeignError> {
        let Self {
            table,
            columns,
            read,
            write,
        } = self;
        let (mut taken, mut seen) = (0, 0);
        let mut rows = read.query(params)?;
        while let Some(row) = rows.next()? {
            seen += 1;
            if seen > MOST_ROWS {
                return Err(ForeignError::Refused(format!(
                    "it has more than {MOST_ROWS} rows in {table}"
                )));
            }
            let mut values = Vec::with_capacity(columns.len());
            let mut objection = None;
            for (at, (name, kind)) in columns.iter().enumerate() {
                match kind.accept(row.get_ref(at)?) {
                    Ok(value) => values.push(value),
                    Err(why) => objection = objection.or(Some(format!("its {name} {why}"))),
                }
            }
            if objection.is_none() {
                match write.execute(rusqlite::params_from_iter(&values)) {
                    Ok(_) => taken += 1,
                    Err(error)
                        if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) =>
                    {
                        objection = Some(constraint(&error));
                    }
                    Err(error) => return Err(ForeignError::Store(error.into())),
                }
            }
            if let Some(why) = objection {
                left_out.note(|| format!("{table} {}: {why}", name_of(columns, row)));
            }
        }
        Ok(taken)
    }
}

/// Returns a row's label: its number, and its name where it has one.
fn name_of(columns: &[(String, Kind)], row: &rusqlite::Row<'_>) -> String {
    let value = |at: usize| match row.get_ref(at) {
        Ok(ValueRef::Integer(number)) => number.to_string(),
        Ok(ValueRef::Text(text)) => label(&String::from_utf8_lossy(&text[..text.len().min(400)])),
        Ok(ValueRef::Blob(bytes)) => hex(&bytes[..bytes.len().min(8)]),
        _ => "?".into(),
    };
    match columns
        .iter()
        .position(|(name, _)| matches!(name.as_str(), "name" | "image_name"))
    {
        Some(at) => format!("{} ({})", value(0), value(at)),
        None => value(0),
    }
}

/// Describes why our schema rejected a row.
fn constraint(error: &rusqlite::Error) -> String {
    match error.sqlite_error().map(|error| error.extended_code) {
        Some(rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => "it belongs to a missing row".into(),
        Some(
            rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
        ) => "it is a duplicate".into(),
        _ => format!(
            "it breaks a rule of the schema ({})",
            label(&error.to_string())
        ),
    }
}

/// Cleans text from outside for use in a sentence.
fn label(text: &str) -> String {
    let clean = names::clean(text);
    if clean.chars().count() > 80 {
        clean.chars().take(79).chain(['…']).collect()
    } else {
        clean
    }
}

/// Valid content of a column.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Number {
        least: i64,
        most: i64,
    },
    Real,
    Text {
        longest: usize,
    },
    /// A person's name, which identifies them.
    Name,
    /// A label that nothing depends on.
    Label,
    /// A camera's name or an event's id.
    Origin,
    /// Derived from a name; recomputed here.
    MadeAnew,
    Sum,
    Uid,
    Json(fn(&str) -> bool),
    /// `empty`: also valid when empty, since an erased embedding leaves its row.
    Embedding {
        empty: bool,
    },
    Bytes {
        longest: usize,
    },
}

impl Kind {
    fn of(table: &str, column: &str, declared: &str) -> Self {
        match (table, column, declared) {
            ("person", "name", _) => Self::Name,
            ("person", "folded" | "base" | "topic", _) => Self::MadeAnew,
            (_, "image_name", _) | ("sightings", "uid", _) => Self::Label,
            ("images", "camera" | "event", _) => Self::Origin,
            (_, "sha256", _) => Self::Sum,
            ("sightings", "began_ms" | "last_ms" | "ended_ms", _) => Self::Number {
                least: 0,
                most: LATEST_MS,
            },
            (_, "uid" | "into_uid", _) => Self::Uid,
            (_, "bounds", _) => {
                Self::Json(|text| finite(serde_json::from_str::<[f32; 4]>(text).ok()))
            }
            (_, "landmarks", _) => Self::Json(|text| {
                finite(
                    serde_json::from_str::<[[f32; 2]; 5]>(text)
                        .ok()
                        .map(|five| five.concat()),
                )
            }),
            (_, "candidates", _) => {
                Self::Json(|text| serde_json::from_str::<Vec<(i64, Option<f64>)>>(text).is_ok())
            }
            (_, "timings", _) => {
                Self::Json(|text| finite(serde_json::from_str::<[f32; 5]>(text).ok()))
            }
            ("faces", "embedding", _) | ("strangers" | "sightings", "total", _) => {
                Self::Embedding { empty: true }
            }
            (_, "vector", _) => Self::Embedding { empty: false },
            (_, "picture", _) => Self::Bytes {
                longest: LONGEST_VALUE as usize,
            },
            (_, _, "BLOB") => Self::Bytes { longest: 16 << 20 },
            (_, _, "REAL") => Self::Real,
            (_, _, "TEXT") => Self::Text {
                longest: LONGEST_TEXT,
            },
            (_, "id", _) => Self::Number {
                least: 1,
                most: HIGHEST_ID,
            },
            (_, column, _) if column.ends_with("_id") => Self::Number {
                least: 1,
                most: HIGHEST_ID,
            },
            (_, column, _) if column.ends_with("_at_ms") || column.ends_with("_seen_ms") => {
                Self::Number {
                    least: 0,
                    most: LATEST_MS,
                }
            }
            _ => Self::Number {
                least: i64::MIN,
                most: i64::MAX,
            },
        }
    }

    /// Returns the value to store, or why it is rejected.
    fn accept(self, value: ValueRef<'_>) -> Result<Value, String> {
        let wrong = || Err(format!("is {}", of_type(value)));
        let text = |value: ValueRef<'_>| {
            value
                .as_str()
                .map(String::from)
                .map_err(|_| format!("is {}", of_type(value)))
        };
        if value == ValueRef::Null || matches!(self, Self::MadeAnew) {
            // The schema decides where NULL is allowed.
            return Ok(Value::Null);
        }
        Ok(match (self, value) {
            (Self::Number { least, most }, ValueRef::Integer(number)) => {
                if !(least..=most).contains(&number) {
                    return Err(format!("is {number}"));
                }
                Value::Integer(number)
            }
            (Self::Real, ValueRef::Real(number)) if number.is_finite() => Value::Real(number),
            (Self::Real, ValueRef::Real(_)) => return Err("is not a finite number".into()),
            (Self::Text { longest }, ValueRef::Text(bytes)) if bytes.len() <= longest => {
                Value::Text(text(value)?)
            }
            (Self::Name, ValueRef::Text(bytes)) if bytes.len() <= LONGEST_TEXT => {
                let name = text(value)?;
                if name.contains(char::is_control) {
                    return Err("has control characters".into());
                }
                Value::Text(names::of_person(&name).map_err(|why| format!("is not valid: {why}"))?)
            }
            (Self::Label, ValueRef::Text(bytes)) if bytes.len() <= LONGEST_TEXT => {
                Value::Text(names::of_picture(&text(value)?))
            }
            (Self::Origin, ValueRef::Text(bytes))
                if std::str::from_utf8(bytes).is_ok_and(Origin::is_valid) =>
            {
                Value::Text(text(value)?)
            }
            (Self::Origin, ValueRef::Text(_)) => {
                return Err("is not a name that kithd keeps".into());
            }
            (Self::Sum, ValueRef::Text(bytes)) if is_sum(bytes) => Value::Text(text(value)?),
            (Self::Uid, ValueRef::Blob(bytes)) if bytes.len() == 16 => Value::Blob(bytes.into()),
            (Self::Json(_), ValueRef::Text(bytes)) if bytes.len() > LONGEST_JSON => {
                return Err(too_long(bytes));
            }
            (Self::Json(fits), ValueRef::Text(_)) => {
                let text = text(value)?;
                if !fits(&text) {
                    return Err("is not what kithd writes there".into());
                }
                Value::Text(text)
            }
            (Self::Embedding { empty }, ValueRef::Blob(bytes)) => {
                check_embedding(bytes, empty)?;
                Value::Blob(bytes.into())
            }
            (Self::Bytes { longest }, ValueRef::Blob(bytes)) if bytes.len() <= longest => {
                Value::Blob(bytes.into())
            }
            (Self::Text { .. } | Self::Name | Self::Label, ValueRef::Text(bytes))
            | (Self::Bytes { .. }, ValueRef::Blob(bytes)) => return Err(too_long(bytes)),
            (Self::Sum, ValueRef::Text(_)) => return Err("is not a sha256".into()),
            (Self::Uid, ValueRef::Blob(_)) => return Err("is not 16 bytes long".into()),
            _ => return wrong(),
        })
    }
}

fn of_type(value: ValueRef<'_>) -> &'static str {
    match value {
        ValueRef::Null => "missing",
        ValueRef::Integer(_) => "a whole number",
        ValueRef::Real(_) => "a number",
        ValueRef::Text(text) if std::str::from_utf8(text).is_err() => "text that is not UTF-8",
        ValueRef::Text(_) => "text",
        ValueRef::Blob(_) => "bytes",
    }
}

fn too_long(bytes: &[u8]) -> String {
    format!("is too long ({} bytes)", bytes.len())
}

fn finite(numbers: Option<impl AsRef<[f32]>>) -> bool {
    numbers.is_some_and(|numbers| numbers.as_ref().iter().all(|number| number.is_finite()))
}

fn is_sum(text: &[u8]) -> bool {
    text.len() == 64
        && text
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_embedding(bytes: &[u8], empty: bool) -> Result<(), String> {
    if empty && bytes.is_empty() {
        return Ok(());
    }
    let vector = blob_to_vector(bytes);
    if vector.is_empty() {
        return Err(format!(
            "is damaged: its {} bytes do not carry the checksum of an embedding",
            bytes.len()
        ));
    }
    if !DIMENSIONS.contains(&vector.len()) {
        return Err(format!(
            "is not an embedding: it has {} numbers",
            vector.len()
        ));
    }
    let norm = vector
        .iter()
        .map(|value| f64::from(*value).powi(2))
        .sum::<f64>()
        .sqrt();
    match norm {
        norm if !norm.is_finite() => Err("is not an embedding: some values are not finite".into()),
        norm if norm <= 1e-6 => Err("is not an embedding: it is zero".into()),
        _ => Ok(()),
    }
}

/// Drops picture bytes that do not match their enrolled sha256; the embeddings stay. A cut-out has
/// none to match.
pub(super) fn check_pictures(own: &Connection, left_out: &mut LeftOut) -> Result<(), StoreError> {
    let mut pictures = own.prepare(
        "SELECT person_image_id, sha256, image_name, picture FROM enrolment_pictures
           JOIN person_images ON person_images.id = person_image_id WHERE NOT cut",
    )?;
    let mut rows = pictures.query([])?;
    let mut wrong = HashMap::new();
    while let Some(row) = rows.next()? {
        let (sum, bytes): (String, _) = (row.get(1)?, row.get_ref(3)?);
        let bytes = bytes.as_blob().unwrap_or_default();
        if sha256(bytes) != sum {
            wrong.insert(row.get::<_, i64>(0)?, row.get::<_, String>(2)?);
        }
    }
    for (id, name) in wrong {
        own.execute(
            "DELETE FROM enrolment_pictures WHERE person_image_id = ?1",
            [id],
        )?;
        left_out.note(|| {
            format!(
                "enrolment_pictures {id} ({}): its bytes do not match its sha256; its embedding is \
                 kept",
                label(&name)
            )
        });
    }
    Ok(())
}
