//! SQL of watched folders: files already taken, and those ready to be put away.

use rusqlite::{Connection, OptionalExtension, params};

use super::backup::copy_rows_or;
use super::verification::unverified;
use super::{Commit, Store, StoreError, readable, text_if_any};
use crate::domain::{FileKey, ImageId, SeenFile, Stamp};

/// A taken file whose image has ended.
#[derive(Debug, Clone)]
pub struct EndedFile {
    /// Key within its folder.
    pub key: FileKey,
    /// Stamp at the time it was taken.
    pub stamp: Stamp,
    /// Image made from it.
    pub image: ImageId,
    /// Full path; `None` when retention has already removed the image.
    pub path: Option<String>,
    /// The image failed.
    pub failed: bool,
}

impl Store {
    /// Returns a folder's number, and whether it has ever been a mount point.
    pub async fn folder(&self, path: String) -> Result<(i64, bool), StoreError> {
        self.write(Commit::Durable, move |connection| {
            connection.execute(
                "INSERT OR IGNORE INTO folders (path, mounted) VALUES (?1, 0)",
                [&path],
            )?;
            connection.query_row(
                "SELECT id, mounted FROM folders WHERE path = ?1",
                [&path],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
        })
        .await
    }

    /// Notes that a folder is a mount point: when it is not mounted, it counts as absent and not as
    /// empty.
    pub async fn folder_is_a_mount(&self, folder: i64) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            connection
                .execute("UPDATE folders SET mounted = 1 WHERE id = ?1", [folder])
                .map(drop)
        })
        .await
    }

    /// Returns every file taken from a folder.
    pub async fn seen(&self, folder: i64) -> Result<Vec<(FileKey, Stamp)>, StoreError> {
        self.read(move |connection| {
            let mut statement =
                connection.prepare("SELECT key, size, mtime_ns FROM seen WHERE folder_id = ?1")?;
            let rows = statement.query_map([folder], |row| {
                Ok((
                    row.get(0)?,
                    Stamp {
                        size: row.get(1)?,
                        mtime_ns: row.get(2)?,
                    },
                ))
            })?;
            // An unreadable row is skipped, and its file is taken once more.
            readable(rows)
        })
        .await
    }

    /// Forgets files that are gone or were put away.
    pub async fn forget_files(&self, folder: i64, keys: Vec<FileKey>) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            let mut statement =
                connection.prepare_cached("DELETE FROM seen WHERE folder_id = ?1 AND key = ?2")?;
            keys.iter()
                .try_for_each(|key| statement.execute(params![folder, key]).map(drop))
        })
        .await
    }

    /// Marks files to stay where they are.
    pub async fn leave_files(&self, folder: i64, keys: Vec<FileKey>) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            let mut statement = connection.prepare_cached(
                "UPDATE seen SET image_id = NULL WHERE folder_id = ?1 AND key = ?2",
            )?;
            keys.iter()
                .try_for_each(|key| statement.execute(params![folder, key]).map(drop))
        })
        .await
    }

    /// Returns files to be put away: their image has ended, and an engine's result is verified.
    /// The first `limit` whose image came after `after`.
    pub async fn ended_files(
        &self,
        folder: i64,
        after: ImageId,
        limit: usize,
    ) -> Result<Vec<EndedFile>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT seen.key, seen.size, seen.mtime_ns, seen.image_id, images.path,
                        coalesce(images.state = 'failed', 0)
                   FROM seen LEFT JOIN images ON images.id = seen.image_id
                  WHERE seen.image_id > ?3 AND seen.folder_id = ?1
                    AND (images.id IS NULL OR (images.state IN ('processed', 'failed') AND NOT {}))
                  ORDER BY seen.image_id LIMIT ?2",
                unverified()
            ))?;
            let rows = statement.query_map(params![folder, limit as i64, after], |row| {
                Ok(EndedFile {
                    key: row.get(0)?,
                    stamp: Stamp {
                        size: row.get(1)?,
                        mtime_ns: row.get(2)?,
                    },
                    image: row.get(3)?,
                    path: text_if_any(row, 4)?,
                    failed: row.get(5)?,
                })
            })?;
            readable(rows)
        })
        .await
    }
}

/// Returns whether this very file was taken before.
pub(super) fn taken_before(connection: &Connection, file: &SeenFile) -> rusqlite::Result<bool> {
    let seen = connection
        .prepare_cached("SELECT size, mtime_ns FROM seen WHERE folder_id = ?1 AND key = ?2")?
        .query_row(params![file.folder, file.key], |row| {
            Ok(Stamp {
                size: row.get(0)?,
                mtime_ns: row.get(1)?,
            })
        })
        .optional()?;
    Ok(seen == Some(file.stamp))
}

/// Remembers a file, in the transaction that makes its image.
pub(super) fn remember(
    connection: &Connection,
    file: &SeenFile,
    image: ImageId,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO seen (folder_id, key, size, mtime_ns, image_id) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![file.folder, file.key, file.stamp.size, file.stamp.mtime_ns, file.put_away.then_some(image)])
        .map(drop)
}

/// Takes over another database's list of taken files, so that they stay in place and are not taken
/// again.
pub(super) fn take_seen(here: &Connection, from: &Connection) -> rusqlite::Result<()> {
    let mut folders = from.prepare("SELECT id, path, mounted FROM folders")?;
    let mut rows = folders.query([])?;
    while let Some(row) = rows.next()? {
        let (theirs, path, mounted): (i64, String, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        here.prepare_cached("INSERT OR IGNORE INTO folders (path, mounted) VALUES (?1, ?2)")?
            .execute(params![path, mounted])?;
        let ours: i64 = here
            .prepare_cached("SELECT id FROM folders WHERE path = ?1")?
            .query_row([path], |row| row.get(0))?;
        let sql = "SELECT key, size, mtime_ns, ?2 AS folder_id FROM seen WHERE folder_id = ?1";
        copy_rows_or(
            from,
            here,
            "seen",
            sql,
            [theirs, ours],
            "ON CONFLICT DO NOTHING",
        )?;
    }
    Ok(())
}
