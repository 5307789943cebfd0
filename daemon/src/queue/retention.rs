//! What is no longer needed: bytes of processed images, the oldest finished images, orphans in the spool.
//!
//! By count and row order, never by age: a board's clock may be wrong.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::Store;

const EVERY: Duration = Duration::from_secs(10);
const BATCH: usize = 500;

/// Sweeps now and then until stopped.
pub async fn sweep(store: Store, state_dir: PathBuf, keep: u64, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        // A full disk or a busy database is no reason to end the daemon: the next round tries again.
        if let Err(error) = sweep_once(&store, &state_dir, keep).await {
            tracing::warn!("could not clear what is no longer needed: {error:#}");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn sweep_once(store: &Store, state_dir: &Path, keep: u64) -> anyhow::Result<()> {
    loop {
        // The row forgets the file on disk first: a file without a row is an orphan, a row without its file a loss.
        let files = store.release_spool_files(BATCH).await?;
        if files.is_empty() {
            break;
        }
        delete(state_dir, files).await;
    }
    loop {
        let deleted = store.delete_beyond(keep, BATCH).await?;
        if deleted.unsent > 0 {
            tracing::warn!(
                "{} results no broker ever took went with the oldest images (retention.images)",
                deleted.unsent
            );
        }
        delete(state_dir, deleted.files).await;
        if deleted.rows < BATCH {
            return Ok(());
        }
    }
}

async fn delete(state_dir: &Path, files: Vec<String>) {
    for file in files {
        let path = state_dir.join(file);
        if let Err(error) = tokio::fs::remove_file(&path).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{} could not be deleted: {error}", path.display());
        }
    }
}

/// Deletes files of `folder` (below the state folder) that no row names: left by a crash between file and row.
pub fn sweep_orphans(state_dir: &Path, folder: &str, named: &HashSet<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(state_dir.join(folder))? {
        let path = entry?.path();
        let name = path.strip_prefix(state_dir).unwrap_or(&path).to_string_lossy().into_owned();
        if named.contains(&name) || !path.is_file() {
            continue;
        }
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!("{} is needed no more but cannot be deleted: {error}", path.display());
        }
    }
    Ok(())
}
