//! Changes to enrolled people: rename, merge, erase, backup and restore. After each, the gallery in
//! memory equals the database.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::Stream;
use kith_vision::{Candidate, VisionError};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backup::{Backup, BackupError, GALLERY, Received, keep_gallery};
use crate::domain::PersonId;
use crate::names;
use crate::people::enroll::refresh;
use crate::people::matcher::Snapshot;
use crate::people::resemblance::described;
use crate::people::{GalleryNotLoaded, Matcher, People};
use crate::status::health::{Condition, Health};
use crate::store::{Amounts, Contents, LeftOut, PersonChange};

/// Delay before an interrupted erasure is continued.
const AGAIN: Duration = Duration::from_secs(60);
/// Interval of comparing the gallery with its backup.
const LOOK: Duration = Duration::from_secs(10 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Most imported people who are reported as resembling others.
const MOST_NAMED: usize = 20;

/// Result of erasing a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Forgotten {
    /// Quarantined files and folders in the state folder, which may still contain the person's
    /// data.
    pub may_hold_them: Vec<String>,
    /// True if past results, a backup or the journal still contain something of the person; the
    /// daemon erases it later.
    pub rest_follows: bool,
}

/// Result of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Restored {
    /// Board, time and version that made the backup.
    pub origin: String,
    /// Amounts that were replaced.
    pub replaced: Amounts,
    /// Amounts that the backup brought.
    pub came: Amounts,
    /// Images of this board that stayed: unfinished ones, and those whose result is not delivered
    /// yet.
    pub kept: u64,
    /// People of the backup who were erased on this board and stay erased.
    pub erased: u64,
    /// Images of the backup that were left out because an image that stayed has their number.
    pub same_number: u64,
    /// Rows of the backup that were left out as invalid.
    pub left_out: u64,
    /// The first of these rows, each with the reason.
    pub left_out_rows: Vec<String>,
}

/// Result of an import of people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Imported {
    /// Board, time and version that made the file.
    pub origin: String,
    /// People who were added.
    pub people: u64,
    /// People who were here already, by identity or by name. They got the pictures they lacked.
    pub known: u64,
    /// Pictures that were added.
    pub pictures: u64,
    /// Counter-examples that were added.
    pub counter_examples: u64,
    /// People who were erased on this board and stay erased.
    pub erased: u64,
    /// Rows of the file that were left out.
    pub left_out: u64,
    /// The first of these rows, each with the reason.
    pub left_out_rows: Vec<String>,
    /// Added people whose faces the gallery takes for a person who was here, one sentence each, at
    /// most 20. Empty while no gallery is in memory.
    pub resembling: Vec<String>,
}

impl People {
    /// Renames a person; past results show the new name.
    pub async fn rename(&self, id: PersonId, name: &str) -> anyhow::Result<PersonChange> {
        let name = match names::given_to_person(name) {
            Ok(name) => name,
            Err(why) => return Ok(PersonChange::Refused(why)),
        };
        let _turn = self.turn.lock().await;
        let changed = self.store.rename_person(id, name).await?;
        self.refresh().await?;
        Ok(changed)
    }

    /// Merges two people under the name of `into`.
    pub async fn merge(&self, id: PersonId, into: PersonId) -> anyhow::Result<PersonChange> {
        let _turn = self.turn.lock().await;
        let changed = self.store.merge_people(id, into).await?;
        self.refresh().await?;
        if changed == PersonChange::Done {
            self.store.follow_merges().await?;
        }
        Ok(changed)
    }

    /// Takes an enrolled picture out of the gallery and erases it, even the person's last one.
    pub async fn delete_picture(
        &self,
        person: PersonId,
        picture: i64,
    ) -> anyhow::Result<PersonChange> {
        let _turn = self.turn.lock().await;
        if !self.store.delete_person_picture(person, picture).await? {
            return Ok(PersonChange::NotFound);
        }
        self.refresh().await?;
        self.forget_removed().await?;
        Ok(PersonChange::Done)
    }

    /// Erases the copies of what was taken out of the gallery.
    pub(super) async fn forget_removed(&self) -> anyhow::Result<()> {
        self.delete_copies_before()?;
        self.renew_backup().await?;
        if !self.store.empty_journal().await? {
            tracing::warn!(
                "the journal that still holds a picture taken out of the gallery is being read"
            );
        }
        Ok(())
    }

    /// Erases a person by name: embeddings, pictures, crops, thumbnails, kept bytes, unsent
    /// messages, the name in past results, and the person's data in backups on this board. `None`
    /// if no person has that name.
    pub async fn forget(&self, name: &str) -> anyhow::Result<Option<Forgotten>> {
        let _turn = self.turn.lock().await;
        let person = self.store.person_named(name.into()).await?;
        self.erase(person).await
    }

    /// Erases a person by number.
    pub async fn forget_person(&self, id: PersonId) -> anyhow::Result<Option<Forgotten>> {
        let _turn = self.turn.lock().await;
        self.erase(Some(id)).await
    }

    /// Removes counter-examples from gallery and backup after their image was erased.
    pub async fn forget_counter_examples(&self) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        self.refresh().await?;
        self.renew_backup().await
    }

    async fn erase(&self, person: Option<PersonId>) -> anyhow::Result<Option<Forgotten>> {
        let found = match person {
            Some(person) => self.store.erase_person(person).await?,
            None => false,
        };
        // A repeated call continues an interrupted erasure.
        self.refresh().await?;
        let rest = self.finish_forgetting().await;
        // The erasure deleted counter-examples that were faces of this person.
        self.refresh().await?;
        let rest_follows = match rest {
            // The person is out of the gallery for good; the rest is retried until it succeeds.
            Err(error) if found => {
                tracing::warn!(
                    "a person is erased, but traces remain; kithd tries again: {error:#}"
                );
                true
            }
            rest => rest.map(|()| false)?,
        };
        Ok(found.then(|| Forgotten {
            may_hold_them: self.moved_aside(),
            rest_follows,
        }))
    }

    /// Continues erasures that a full disk or a restart interrupted.
    pub async fn keep_forgetting(
        self,
        health: Health,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            let finished = {
                let _turn = self.turn.lock().await;
                let merged = self.store.follow_merges().await;
                self.finish_forgetting().await.and_then(|()| Ok(merged?))
            };
            match finished {
                Ok(()) => {
                    _ = health.set(
                        "erasure",
                        Condition::Ok,
                        "nothing is left of people who were erased",
                    );
                }
                Err(error) => {
                    let text =
                        format!("traces of an erased person remain: {error:#}; kithd tries again");
                    if health.set("erasure", Condition::Degraded, text.as_str()) {
                        tracing::error!("{text}");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    pub(super) async fn finish_forgetting(&self) -> anyhow::Result<()> {
        let people = self.store.erasing().await?;
        if people.is_empty() {
            return Ok(());
        }
        self.store.erase_from_results(&people).await?;
        if let Some(error) = self.store.delete_discarded().await? {
            bail!("a picture of them cannot be deleted from the spool: {error}");
        }
        self.delete_copies_before()?;
        self.renew_backup().await?;
        if !self.store.empty_journal().await? {
            bail!("the journal of the database is being read");
        }
        self.erasures.send_modify(|erasures| *erasures += 1);
        Ok(self.store.erased(people).await?)
    }

    /// Deletes the copies of the database from before a migration: they hold erased data.
    pub fn delete_copies_before(&self) -> anyhow::Result<()> {
        for copy in self.store.copies_before() {
            std::fs::remove_file(&copy).with_context(|| {
                format!(
                    "{} still holds what was erased and cannot be deleted",
                    copy.display()
                )
            })?;
        }
        Ok(())
    }

    /// Writes the board's own backup anew, or deletes it: it must not hold erased data.
    async fn renew_backup(&self) -> anyhow::Result<()> {
        let Err(error) = keep_gallery(&self.store, &self.state_dir, &self.device).await else {
            return Ok(());
        };
        tracing::error!("the gallery's backup could not be renewed and is deleted: {error}");
        match std::fs::remove_file(self.state_dir.join(GALLERY)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns the quarantined files in the state folder, which are never read again.
    fn moved_aside(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.state_dir)
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut aside: Vec<_> = names.filter(|name| name.contains(".damaged-")).collect();
        aside.sort();
        aside
    }

    pub(super) async fn refresh(&self) -> anyhow::Result<()> {
        match self.matcher() {
            Ok(matcher) => refresh(&self.store, &matcher).await,
            Err(GalleryNotLoaded) => Ok(()),
        }
    }

    /// Makes a backup of everything, for the caller to write.
    pub async fn backup(&self) -> Result<Backup, BackupError> {
        Backup::make(
            &self.store,
            &self.state_dir,
            &self.device,
            Contents::Everything,
            None,
        )
        .await
    }

    /// Makes a backup of all people or of one, for import on another board.
    pub async fn export(&self, person: Option<PersonId>) -> Result<Backup, BackupError> {
        Backup::make(
            &self.store,
            &self.state_dir,
            &self.device,
            Contents::People,
            person,
        )
        .await
    }

    /// Replaces the board's data by a backup. People erased on this board stay erased, and
    /// unfinished images stay.
    pub async fn restore<E: std::fmt::Display>(
        &self,
        bytes: Option<u64>,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> anyhow::Result<Restored> {
        let received = Received::receive(&self.state_dir, bytes, body).await?;
        let (contents, origin) = (received.origin.contents, received.origin.text.clone());
        if contents == Contents::People {
            return Err(BackupError::PeopleOnly.into());
        }
        let _turn = self.turn.lock().await;
        let erased = self.store.apply_tombstones(received.clean()).await?;
        // No result matched against the old gallery may be stored until the new one is in memory.
        let held = self.store.hold_claims();
        let replaced = self.store.replace_by(received.clean(), contents).await?;
        // The fleet may know people of the backup as one by now.
        self.store.follow_merges().await?;
        self.restores.send_modify(|restores| *restores += 1);
        self.erasures.send_modify(|erasures| *erasures += 1);
        self.refresh().await?;
        drop(held);
        if let Some(error) = self.store.delete_discarded().await? {
            tracing::warn!(
                "a picture of an image that was replaced cannot be deleted from the spool yet: {error}"
            );
        }
        // The gallery's backup must not keep people who were replaced.
        self.renew_backup().await?;
        tracing::info!("a backup {origin} was restored");
        let LeftOut { named, rows } = received.left_out;
        Ok(Restored {
            origin,
            replaced: replaced.before,
            came: replaced.now,
            kept: replaced.kept,
            erased,
            same_number: replaced.left_out,
            left_out: rows,
            left_out_rows: named,
        })
    }

    /// Adds the people of a backup, except those who were erased on this board.
    pub async fn import<E: std::fmt::Display>(
        &self,
        bytes: Option<u64>,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> anyhow::Result<Imported> {
        let received = Received::receive(&self.state_dir, bytes, body).await?;
        let _turn = self.turn.lock().await;
        let erased = self.store.apply_tombstones(received.clean()).await?;
        let before = self.matcher().ok().map(|matcher| {
            let snapshot = matcher.snapshot();
            (matcher, snapshot)
        });
        let (added, more) = self.store.add_people(received.clean()).await?;
        self.store.follow_merges().await?;
        self.refresh().await?;
        let resembling = match before {
            Some((matcher, before)) => {
                tokio::task::spawn_blocking(move || newly_mistaken(&matcher, &before))
                    .await
                    .context("comparing the imported people panicked")??
            }
            None => Vec::new(),
        };
        // The gallery's backup must have the added people.
        self.renew_backup().await?;
        let origin = received.origin.text;
        tracing::info!("people of a backup {origin} were imported");
        let LeftOut { named, rows } = received.left_out;
        Ok(Imported {
            origin,
            people: added.now.people,
            known: added.known,
            pictures: added.now.pictures,
            counter_examples: added.now.counter_examples,
            erased,
            left_out: rows + more.rows,
            left_out_rows: named.into_iter().chain(more.named).collect(),
            resembling,
        })
    }

    /// Keeps the gallery's own backup up to date: at most one write a day, and only after a change.
    pub async fn keep_backup(self, health: Health, stop: CancellationToken) -> anyhow::Result<()> {
        const PART: &str = "gallery backup";
        let mut written: Option<Instant> = None;
        loop {
            if written.is_none_or(|at| at.elapsed() >= DAY) {
                let kept = {
                    let _turn = self.turn.lock().await;
                    keep_gallery(&self.store, &self.state_dir, &self.device).await
                };
                match kept {
                    Ok(true) => {
                        written = Some(Instant::now());
                        health.set(PART, Condition::Ok, "written");
                    }
                    Ok(false) => _ = health.set(PART, Condition::Ok, "up to date"),
                    Err(error) => {
                        let text = format!("not written, tried again: {error}");
                        if health.set(PART, Condition::Degraded, text.as_str()) {
                            tracing::error!("the gallery's backup is {text}");
                        }
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
    }
}

/// Compares newly added people with all others. Reports each pair once that the gallery takes for
/// one person.
fn newly_mistaken(matcher: &Matcher, before: &Snapshot) -> Result<Vec<String>, VisionError> {
    let there: HashSet<PersonId> = before
        .gallery()
        .pictures()
        .map(|(person, ..)| person)
        .collect();
    let now = matcher.snapshot();
    let mut pairs = HashSet::new();
    let mut resembling = Vec::new();
    for (person, picture, embedding) in now.gallery().pictures() {
        if there.contains(&person) {
            continue;
        }
        let nearest = matcher.nearest(&now, embedding, 2)?;
        let Some(other) = nearest.iter().find(|candidate| candidate.person != person) else {
            continue;
        };
        let pair = (person.min(other.person), person.max(other.person));
        if other.distance >= now.limits().known_below || !pairs.insert(pair) {
            continue;
        }
        let own = now.named(&Candidate {
            person,
            picture,
            distance: 0.0,
        });
        let other = now.named(other);
        resembling.push(format!(
            "{} is taken for {}; if they are one person: kithd people merge \"{}\" \"{}\"",
            own.name,
            described(&other),
            own.name,
            other.name
        ));
        if resembling.len() == MOST_NAMED {
            break;
        }
    }
    Ok(resembling)
}

#[cfg(test)]
mod tests;
