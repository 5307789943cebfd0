//! SQL that recovers readable rows of a damaged database into a clean copy, and the banner about
//! it. `migrate` moves the damaged file aside; `restore` takes the copy in.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::backup::{GALLERY, take_tables};
use super::foreign::{self, ForeignError, LeftOut, Taking};
use super::migrate::{self, known_schema};
use super::{Commit, Store, StoreError};

/// Images per read.
const RANGE: i64 = 4096;
/// Highest image number to try when no readable row tells where numbers end.
const FAR: i64 = 1_000_000;

/// Unfinished work recovered from a damaged database.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Unfinished images.
    pub images: u64,
    /// Rows that are not taken, by name.
    pub left_out: LeftOut,
    /// Ranges of image numbers that cannot be read, first and last number of each.
    pub unreadable: Vec<(i64, i64)>,
    /// Spool files of finished images. Their results are lost, and they must not be recognised
    /// again.
    pub finished_files: Vec<String>,
}

/// Reads people out of a damaged database into a new clean copy, if SQLite can still read all of
/// their tables; `None` otherwise, without a copy.
pub fn people_of_damaged(damaged: &Path, clean: &Path) -> Option<LeftOut> {
    let read = || -> Result<LeftOut, ForeignError> {
        let from = open(damaged)?;
        for table in GALLERY {
            migrate::check(&from, Some(table))?;
        }
        take_tables(&from, clean, known_schema(), &GALLERY)
    };
    read()
        .inspect_err(|error| {
            tracing::error!("people cannot be read from {}: {error}", damaged.display());
        })
        .ok()
}

/// Makes an empty clean copy.
pub fn empty_copy(clean: &Path) -> Result<(), ForeignError> {
    take_tables(&Connection::open_in_memory()?, clean, known_schema(), &[]).map(drop)
}

/// Adds the readable part of the queue to a clean copy: images in ranges of their numbers, each
/// halved where SQLite gives up, and the files already taken from watched folders.
pub fn waiting_of_damaged(damaged: &Path, clean: &Path) -> Result<Waiting, ForeignError> {
    let from = open(damaged)?;
    let own = Connection::open(clean)?;
    own.pragma_update(None, "foreign_keys", true)?;
    let mut waiting = Waiting::default();
    let number = |sql: &str| {
        from.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))
            .ok()
            .flatten()
    };
    let sequence = number("SELECT seq FROM sqlite_sequence WHERE name = 'images'");
    let highest = [
        sequence,
        number("SELECT max(id) FROM images NOT INDEXED"),
        number("SELECT max(image_id) FROM results INDEXED BY results_image"),
    ];
    let highest = highest
        .into_iter()
        .flatten()
        .filter(|id| (0..1 << 53).contains(id))
        .max();
    let end = highest.unwrap_or(FAR);
    let unfinished = "id BETWEEN ?1 AND ?2 AND state IN ('pending', 'processing')";
    let mut images = Taking::of(&from, &own, "images", unfinished)?;
    let mut files = from.prepare(
        "SELECT file FROM images NOT INDEXED
          WHERE id BETWEEN ?1 AND ?2 AND state IN ('processed', 'failed') AND file IS NOT NULL",
    )?;
    let mut left_out = LeftOut::default();
    // The stack pops the lowest range first.
    let mut ranges: Vec<(i64, i64)> = (0..=end / RANGE)
        .rev()
        .map(|range| (range * RANGE + 1, (range + 1) * RANGE))
        .collect();
    while let Some((first, last)) = ranges.pop() {
        own.execute_batch("SAVEPOINT range")?;
        let before = left_out.clone();
        let taken = images.run(&[&first, &last], &mut left_out);
        let ended = files
            .query_map([first, last], |row| row.get(0))
            .and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match (taken, ended) {
            (Ok(taken), Ok(ended)) => {
                own.execute_batch("RELEASE range")?;
                waiting.images += taken;
                waiting.finished_files.extend(ended);
            }
            (Err(error @ (ForeignError::Store(_) | ForeignError::Refused(_))), _) => {
                return Err(error);
            }
            _ => {
                own.execute_batch("ROLLBACK TO range; RELEASE range")?;
                left_out = before;
                if first < last {
                    let middle = first + (last - first) / 2;
                    ranges.extend([(middle + 1, last), (first, middle)]);
                } else {
                    match waiting.unreadable.last_mut() {
                        Some((_, end)) if *end == first - 1 => *end = first,
                        _ => waiting.unreadable.push((first, first)),
                    }
                }
            }
        }
    }
    waiting.left_out = left_out;
    // Due times are meaningless without the queue clock, which is lost with the rest.
    own.execute_batch(
        "UPDATE images SET attempts = max(0, attempts - 1) WHERE state = 'processing';
         UPDATE images SET state = 'pending', alone = 0, due_ms = 0, missing_since_ms = NULL;",
    )?;
    if let Some(highest) = highest {
        // Senders know their pictures by number, so no number is given out twice.
        own.execute("DELETE FROM sqlite_sequence WHERE name = 'images'", [])?;
        own.execute(
            "INSERT INTO sqlite_sequence (name, seq) VALUES ('images', ?1)",
            [highest],
        )?;
    }
    // Reads from both ends, each up to the first unreadable row.
    for table in ["folders", "seen"] {
        for order in ["TRUE ORDER BY 1, 2", "TRUE ORDER BY 1 DESC, 2 DESC"] {
            let Ok(mut rows) = Taking::of(&from, &own, table, order) else {
                continue;
            };
            if rows.run(&[], &mut LeftOut::default()).is_ok() {
                break;
            }
        }
    }
    own.execute(
        "UPDATE seen SET image_id = NULL WHERE image_id NOT IN (SELECT id FROM images)",
        [],
    )?;
    Ok(waiting)
}

/// Opens a damaged database, if it is of this program's schema.
fn open(damaged: &Path) -> Result<Connection, ForeignError> {
    let from = foreign::open_damaged(damaged)?;
    let found = migrate::user_version(&from)?;
    let tables: Vec<_> = [&GALLERY[..], &["images", "folders", "seen"]].concat();
    let own: Vec<_> = migrate::objects(known_schema())?;
    let same = |table: &str| -> Result<bool, ForeignError> {
        let sql: Option<String> = from
            .query_row(
                "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1",
                [table],
                |row| row.get(0),
            )
            .optional()?;
        Ok(own.iter().any(|object| {
            object.kind == "table" && object.name == table && Some(&object.sql) == sql.as_ref()
        }))
    };
    for table in tables {
        if found != known_schema() || !same(table)? {
            return Err(ForeignError::Damaged(format!(
                "its schema is not kithd's, beginning with {table}"
            )));
        }
    }
    Ok(from)
}

impl Store {
    /// Lists damaged files in the state folder that no recovery has read yet.
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

    /// Marks spool files for deletion.
    pub async fn discard_files(&self, files: Vec<String>) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            let mut discard =
                connection.prepare("INSERT OR IGNORE INTO discarded_files VALUES (?1)")?;
            files
                .iter()
                .try_for_each(|file| discard.execute([file]).map(drop))
        })
        .await
    }

    /// Notes that a damaged file was read, and the outcome.
    pub async fn note_recovery(&self, damaged: &str, text: String) -> Result<(), StoreError> {
        self.set_fact(&recovered(damaged), text).await
    }

    /// Returns the banner shown while a damaged database lies in the folder.
    pub async fn damaged_banner(&self) -> Result<Option<String>, StoreError> {
        let folder = self.state_dir().to_path_buf();
        self.read(move |connection| damaged_banner(connection, &folder))
            .await
    }
}

/// Key of the fact that holds the outcome of reading a damaged file.
fn recovered(damaged: &str) -> String {
    format!("recovered_{damaged}")
}

pub(super) fn damaged_banner(
    connection: &Connection,
    folder: &Path,
) -> rusqlite::Result<Option<String>> {
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
            .query_row(
                "SELECT value FROM facts WHERE key = ?1",
                [recovered(name)],
                |row| row.get(0),
            )
            .optional()?;
        text.extend(came.into_iter().flat_map(|came| [" ".to_string(), came]));
    }
    text.push_str(" Move these files away to end this notice.");
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::super::DATABASE;
    use super::super::fixtures::{run, store};
    use super::*;

    #[tokio::test]
    async fn waiting_pictures_keep_their_camera_and_event() {
        let (folder, aside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let damaged = store(folder.path()).await;
        run(
            &damaged,
            "INSERT INTO images (id, source, path, accepted_at_ms, camera, event) VALUES
               (1, 'camera', '/a', 1, 'front', NULL), (2, 'frigate', '/b', 1, 'door', '1.5-a'),
               (3, 'camera', '/c', 1, 'two words', NULL), (4, 'http', '/d', 1, NULL, NULL);",
        )
        .await;
        drop(damaged);
        let clean = aside.path().join("clean");
        empty_copy(&clean).unwrap();
        let waiting = waiting_of_damaged(&folder.path().join(DATABASE), &clean).unwrap();
        assert_eq!(waiting.images, 3);
        // Its file in the spool is queued again without a row.
        assert_eq!(
            waiting.left_out.named,
            ["images 3: its camera is not a name that kithd keeps"]
        );
        let clean = Connection::open(clean).unwrap();
        let mut origins = clean
            .prepare("SELECT id || coalesce(camera, '') || coalesce(event, '') FROM images")
            .unwrap();
        let origins = origins.query_map([], |row| row.get::<_, String>(0));
        let origins: Vec<_> = origins.unwrap().map(Result::unwrap).collect();
        assert_eq!(origins, ["1front", "2door1.5-a", "4"]);
    }
}
