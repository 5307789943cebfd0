//! SQL of the spool's files: which rows name them, and which are to be deleted.

use std::collections::HashSet;

use rusqlite::params;

use super::{Store, StoreError, Urgency};
use crate::spool::{self, Unnamed};

impl Store {
    /// Spool files that are accounted for: rows name them, or they wait to be deleted.
    pub async fn files_in_use(&self) -> Result<HashSet<String>, StoreError> {
        self.read(|connection| {
            let mut statement = connection
                .prepare("SELECT file FROM images WHERE file IS NOT NULL UNION ALL SELECT file FROM discarded_files")?;
            statement.query_map([], |row| row.get(0))?.collect()
        })
        .await
    }

    /// Makes rows for accepted files that have none, under the numbers they had; one that was given
    /// to another image since is not taken from it.
    pub async fn queue_again(
        &self,
        lost: Vec<Unnamed>,
        now_ms: i64,
        wall_ms: i64,
        dated: bool,
    ) -> Result<(), StoreError> {
        self.write(Urgency::Now, move |connection| {
            // The name its sender gave it is lost with its row.
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

    /// Deletes the files that rows have forgotten, once that is on disk. Answers why one of them
    /// could not be deleted; it is tried again the next time, the others are gone.
    pub async fn delete_discarded(&self) -> Result<Option<std::io::Error>, StoreError> {
        let files: Vec<String> = self
            .write(Urgency::Now, |connection| {
                connection
                    .prepare_cached("SELECT file FROM discarded_files")?
                    .query_map([], |row| row.get(0))?
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
                    // A name that is none of the spool's comes from a damaged row, and there is
                    // nothing to delete.
                    Err(error) if error.kind() != std::io::ErrorKind::InvalidInput => {
                        failed = Some(error)
                    }
                    _ => deleted.push(file),
                }
            }
            (deleted, failed)
        });
        let (deleted, failed) = deleting.await.map_err(|_| StoreError::Closed)?;
        self.write(Urgency::Note, move |connection| {
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
