//! SQL that takes over what can be had of a damaged database, and the notice that says so. Not for moving one aside, which
//! `migrate` does, and not for reading its pages: that is `salvage`'s.

use std::path::Path;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension};

use super::backup::{GALLERY, open_copy};
use super::folders::take_seen;
use super::migrate::{self, known_schema};
use super::record::Record;
use super::salvage::{self, Rows};
use super::{Store, StoreError, Urgency};

/// Where `images.file` stands.
const FILE_COLUMN: usize = 4;

/// What can be read of a damaged database.
#[derive(Debug)]
pub struct Salvage(Rows);

impl Salvage {
    /// Reads what waited in a damaged database, page by page.
    pub fn read(damaged: &Path) -> std::io::Result<Self> {
        salvage::read(damaged).map(Self)
    }

    /// Unfinished images that can be read.
    pub fn unfinished(&self) -> usize {
        self.0.images.len()
    }

    /// Files that they name, relative to the state folder.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.0.images.values().filter_map(|image| match image.get(FILE_COLUMN) {
            Some(Value::Text(file)) => Some(file.as_str()),
            _ => None,
        })
    }
}

impl Store {
    /// Takes in what was salvaged, under the numbers it had; images that were being processed wait again.
    pub async fn take_salvaged(&self, salvage: Salvage) -> Result<u64, StoreError> {
        self.write(Urgency::Now, move |here| {
            let named = |table: &str, rows: &mut dyn Iterator<Item = &Vec<Value>>| -> rusqlite::Result<Vec<Record>> {
                let all = here.prepare(&format!("SELECT * FROM {table}"))?;
                let columns: Vec<String> = all.column_names().into_iter().map(String::from).collect();
                let record = |values: &Vec<Value>| {
                    // An older row has fewer; what it lacks has its default.
                    let known = values.len().min(columns.len());
                    Record { columns: columns[..known].into(), values: values[..known].to_vec() }
                };
                Ok(rows.map(record).collect())
            };
            let Salvage(rows) = &salvage;
            let mut lost = 0;
            for mut image in named("images", &mut rows.images.values())? {
                let there = "SELECT 1 FROM images WHERE id = ?1";
                if here.prepare_cached(there)?.exists([image.number("id")])? {
                    continue;
                }
                if image.text("state") == Some("processing") {
                    let attempts = image.number("attempts");
                    image.set("attempts", (attempts - 1).max(0));
                    image.set("state", "pending".to_string());
                }
                image.set("alone", 0);
                // One row of rubbish must not take the others with it.
                if let Err(error) = image.insert(here, "images") {
                    tracing::warn!("an image of the damaged database cannot be taken over: {error}");
                    lost += 1;
                }
            }
            // Senders know their pictures by number: none is given twice.
            here.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'images', 0
                  WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'images')",
                [],
            )?;
            here.execute("UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'images'", [rows.highest])?;
            let folders = named("folders", &mut rows.folders.iter())?;
            take_seen(here, &folders, &named("seen", &mut rows.seen.iter())?)?;
            Ok(lost)
        })
        .await
    }

    /// Damaged files in the state folder that nobody has tried to read yet.
    pub async fn damaged_unread(&self) -> Result<Vec<(String, u32)>, StoreError> {
        let files = self.damaged_files();
        self.read(move |connection| {
            let mut read = connection.prepare("SELECT 1 FROM facts WHERE key = ?1")?;
            let mut unread = Vec::new();
            for (name, number) in files {
                if !read.exists([recovered(&name)])? {
                    unread.push((name, number));
                }
            }
            Ok(unread)
        })
        .await
    }

    /// Notes that a damaged file was read, and what came of it.
    pub async fn note_recovery(&self, damaged: &str, text: String) -> Result<(), StoreError> {
        self.set_fact(&recovered(damaged), text).await
    }

    /// What the operator reads while a damaged database lies in the folder.
    pub async fn damaged_banner(&self) -> Result<Option<String>, StoreError> {
        let folder = self.state_dir().to_path_buf();
        self.read(move |connection| damaged_banner(connection, &folder)).await
    }
}

/// The fact that says what came of reading a damaged file.
fn recovered(damaged: &str) -> String {
    format!("recovered_{damaged}")
}

pub(super) fn damaged_banner(connection: &Connection, folder: &Path) -> rusqlite::Result<Option<String>> {
    let damaged = migrate::damaged(folder);
    if damaged.is_empty() {
        return Ok(None);
    }
    let names: Vec<_> = damaged.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!(
        "The database was damaged, was moved to {} in {}, and a new one was started.",
        names.join(", "),
        folder.display()
    );
    for name in names {
        let came: Option<String> = connection
            .query_row("SELECT value FROM facts WHERE key = ?1", [recovered(name)], |row| row.get(0))
            .optional()?;
        text.extend(came.into_iter().flat_map(|came| [" ".to_string(), came]));
    }
    text.push_str(" Move these files and the folders of the same number away to end this notice.");
    Ok(Some(text))
}

/// Whether the gallery of a damaged database can be read as it was: its tables are whole, and of this schema.
pub fn gallery_is_whole(damaged: &Path) -> bool {
    let whole = || -> Result<bool, StoreError> {
        let damaged = open_copy(damaged)?;
        let found: i64 = damaged.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found != known_schema() {
            return Ok(false);
        }
        GALLERY.iter().try_for_each(|table| migrate::check(&damaged, Some(table)))?;
        Ok(true)
    };
    whole().unwrap_or(false)
}
