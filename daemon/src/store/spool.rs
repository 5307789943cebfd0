//! SQL of the spool's files: which rows name them, and which await deletion.

use std::collections::HashSet;

use rusqlite::params;

use super::{Commit, Store, StoreError, text};
use crate::spool::{self, Unnamed};

impl Store {
    /// Returns spool files that a row names or that await deletion.
    pub async fn files_in_use(&self) -> Result<HashSet<String>, StoreError> {
        self.read(|connection| {
            let mut statement = connection
                .prepare("SELECT file FROM images WHERE file IS NOT NULL UNION ALL SELECT file FROM discarded_files")?;
            // A damaged name is that of no file: its image ends as failed and says so.
            statement.query_map([], |row| text(row, 0))?.collect()
        })
        .await
    }

    /// Makes rows for accepted files that have none, under their old numbers; a number used by
    /// another image since is replaced by a new one.
    pub async fn queue_again(
        &self,
        lost: Vec<Unnamed>,
        now_ms: i64,
        wall_ms: i64,
        dated: bool,
    ) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            // The sender's path is lost with the row.
            let mut insert = connection.prepare_cached(
                "INSERT INTO images (id, source, path, file, bytes, due_ms, accepted_at_ms, dated)
                 VALUES (iif(EXISTS (SELECT 1 FROM images WHERE id = ?1), NULL, ?1), ?2, ?3, ?3, ?4, ?5, ?6, ?7)",
            )?;
            lost.iter().try_for_each(|Unnamed { file, image, source, bytes }| {
                insert.execute(params![image, source.as_str(), file, bytes, now_ms, wall_ms, dated]).map(drop)
            })
        })
        .await
    }

    /// Deletes discarded files, once the rows that named them are gone on disk. Returns the last
    /// failure; failed files are tried again the next time.
    pub async fn delete_discarded(&self) -> Result<Option<std::io::Error>, StoreError> {
        let files: Vec<String> = self
            .write(Commit::Durable, |connection| {
                connection
                    .prepare_cached("SELECT file FROM discarded_files")?
                    .query_map([], |row| text(row, 0))?
                    .collect()
            })
            .await?;
        if files.is_empty() {
            return Ok(None);
        }
        let folder = self.state_dir().to_path_buf();
        let deleting = tokio::task::spawn_blocking(move || {
            let (mut deleted, mut failed) = (Vec::new(), None);
            for file in files {
                match spool::delete(&folder, &file) {
                    // A name outside the spool comes from a damaged row, and there is no file to
                    // delete.
                    Err(error) if error.kind() != std::io::ErrorKind::InvalidInput => {
                        failed = Some(error);
                    }
                    _ => deleted.push(file),
                }
            }
            (deleted, failed)
        });
        let (deleted, failed) = deleting.await.map_err(|_| StoreError::Closed)?;
        self.write(Commit::Deferred, move |connection| {
            let mut forget =
                connection.prepare_cached("DELETE FROM discarded_files WHERE file = ?1")?;
            deleted
                .iter()
                .try_for_each(|file| forget.execute([file]).map(drop))
        })
        .await?;
        Ok(failed)
    }
}
