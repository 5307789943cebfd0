//! Opens the database in whatever state it is, and recovers as much of a damaged one as SQLite can
//! read. Files of the spool are queued again at start-up, elsewhere.

use std::path::Path;

use crate::backup::{self, BackupError, GALLERY, Received};
use crate::spool;
use crate::store::{self, Contents, DATABASE, LeftOut, Store, StoreError, Waiting, set_lost_aside};

/// Opens the database, and recovers a damaged one as far as possible. The second value is the
/// banner that reports a recovery.
pub async fn open(state_dir: &Path) -> Result<(Store, Option<String>), StoreError> {
    if state_dir.join(GALLERY).exists() {
        set_lost_aside(state_dir)?;
    }
    let journal = store::lost_in_journal(state_dir);
    let (store, banner) = Store::open(state_dir)?;
    backup::sweep(state_dir);
    if banner.is_none() {
        return Ok((store, journal));
    }
    // An interrupted recovery is repeated.
    for (name, number) in store.damaged_unread().await? {
        let came = recover(&store, state_dir, &name, number).await;
        store.note_recovery(&name, came).await?;
    }
    let banner = store.damaged_banner().await?;
    let said: Vec<_> = banner.into_iter().chain(journal).collect();
    Ok((store, (!said.is_empty()).then(|| said.join(" "))))
}

/// Recovers a damaged database; returns sentences about what came back and what is lost.
async fn recover(store: &Store, state_dir: &Path, name: &str, number: u32) -> String {
    let said = match recovered(store, state_dir, name, number).await {
        Ok(said) => said,
        Err(error) => format!("Nothing came back: {error}."),
    };
    tracing::warn!("{said}");
    said
}

async fn recovered(
    store: &Store,
    state_dir: &Path,
    name: &str,
    number: u32,
) -> Result<String, BackupError> {
    let folder = backup::folder(state_dir)?;
    let (damaged, mut clean) = (state_dir.join(name), folder.path().join(DATABASE));
    let mut said = Vec::new();
    let mut left_out = {
        let (damaged, clean) = (damaged.clone(), clean.clone());
        backup::blocking(move || Ok(store::people_of_damaged(&damaged, &clean))).await?
    };
    let gallery = state_dir.join(GALLERY);
    let backup = match left_out {
        None if gallery.exists() => Some(Received::own(state_dir, gallery).await),
        _ => None,
    };
    match &backup {
        Some(Ok(received)) => {
            clean = received.clean();
            left_out = Some(received.left_out.clone());
        }
        // Discard a copy that was only begun.
        _ if left_out.is_none() => clean = folder.path().join("empty.db"),
        _ => {}
    }
    let waiting = {
        let (damaged, clean) = (damaged.clone(), clean.clone());
        backup::blocking(move || {
            if !clean.exists() {
                store::empty_copy(&clean)?;
            }
            Ok(store::waiting_of_damaged(&damaged, &clean))
        })
        .await?
    };
    let replaced = store.replace_by(clean, Contents::Everything).await?;
    let people = replaced.now.people;
    match &backup {
        None if left_out.is_some() => said.push(format!("All {people} people came back from the damaged file.")),
        None => {
            said.push(
                "No people came back: there was no backup of the gallery yet. Enrol them again.".into(),
            );
        }
        Some(Ok(received)) => said.push(format!(
            "{people} people came back from the gallery's backup {}; enrol again the people who were added after it.",
            received.origin.text
        )),
        Some(Err(error)) => {
            said.push("No people came back; enrol them again.".into());
            said.extend(keep_for_operator(state_dir, number, error));
        }
    }
    if let Some(left_out) = left_out.filter(|left_out| left_out.rows > 0) {
        said.push(format!(
            "{} rows were not restored: {}.",
            left_out.rows,
            left_out.named.join("; ")
        ));
    }
    match waiting {
        Ok(waiting) => said.extend(say_waiting(store, state_dir, waiting, replaced.left_out).await),
        Err(error) => said.push(format!("Waiting images could not be read: {error}.")),
    }
    said.push("Pictures in the spool whose rows are lost are queued again.".into());
    said.push("Past results and unsent messages are lost.".into());
    Ok(said.join(" "))
}

async fn say_waiting(
    store: &Store,
    state_dir: &Path,
    waiting: Waiting,
    left_out: u64,
) -> Vec<String> {
    let mut said = vec![format!(
        "{} images that waited are in the queue again.",
        waiting.images.saturating_sub(left_out)
    )];
    let LeftOut { named, rows } = &waiting.left_out;
    if *rows > 0 {
        said.push(format!(
            "{rows} rows of images that waited stayed out: {}.",
            named.join("; ")
        ));
    }
    if !waiting.unreadable.is_empty() {
        let ranges = waiting
            .unreadable
            .iter()
            .take(5)
            .map(|(first, last)| match first == last {
                true => format!("{first}"),
                false => format!("{first} to {last}"),
            });
        said.push(format!(
            "The rows of images {}{} could not be read.",
            ranges.collect::<Vec<_>>().join(", "),
            if waiting.unreadable.len() > 5 {
                " and others"
            } else {
                ""
            }
        ));
    }
    match store.files_in_use().await {
        Ok(files) => match files
            .iter()
            .filter(|file| !spool::is_there(state_dir, file))
            .count()
        {
            0 => {}
            missing => said.push(format!("The pictures of {missing} of them are lost.")),
        },
        Err(error) => said.push(format!("Their pictures could not be checked: {error}.")),
    }
    // The next start deletes files that cannot be deleted now.
    let discarded = store.discard_files(waiting.finished_files).await;
    if let Err(error) = discarded {
        said.push(format!(
            "Pictures of finished images are still in the spool and are recognised again: {error}."
        ));
    }
    said
}

/// Moves the unreadable backup aside, so that the next daily backup does not replace it: the
/// operator may yet restore it.
fn keep_for_operator(state_dir: &Path, number: u32, error: &BackupError) -> Vec<String> {
    let aside = format!("{GALLERY}.damaged-{number}");
    let moved = std::fs::rename(state_dir.join(GALLERY), state_dir.join(&aside)).is_ok();
    let now = if moved {
        format!(" and is now {aside}")
    } else {
        String::new()
    };
    let mut said = vec![format!(
        "The gallery's backup could not be restored{now}: {error}."
    )];
    if !error.is_refusal() {
        // The board was at fault, not the file.
        let file = state_dir.join(if moved { aside.as_str() } else { GALLERY });
        said.push(format!(
            "Fix that and run: kithd restore {}.",
            file.display()
        ));
    }
    said
}
