//! SQL of backups: copies of the database or of the gallery alone, and what makes one of them readable here. Not for what
//! comes back from one, which is `restore`'s; files and their format are `crate::backup`'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::Value;
use sha2::{Digest, Sha256};

use super::migrate;
use super::record::for_each;
use super::{Store, StoreError, open_read_only};
use crate::domain::hex;

/// Tables of the gallery, parents first.
pub(super) const GALLERY: [&str; 6] =
    ["person", "person_images", "person_embeddings", "counter_examples", "erased", "merged"];
/// Copied at a time, with a pause after it: the disk is the writer's first.
const STEP_BYTES: i64 = 1 << 20;
const PAUSE: Duration = Duration::from_millis(5);

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

/// Does what waits for the disk on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures::{run, store};

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
