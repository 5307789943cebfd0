//! What is done to people once they are enrolled: renamed, put together, erased, saved and brought
//! back. Each ends with the gallery in memory being what the database says.

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
use crate::store::{Amounts, Changed, Contents, LeftOut};

/// What an image matched before the gallery was replaced may still take to be stored.
const LAST_MATCHES: Duration = Duration::from_secs(1);
/// When what was broken off is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// How often the gallery's backup is held against the gallery, and how often it is written at most.
const LOOK: Duration = Duration::from_secs(10 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Imported people who are named because they resemble others.
const MOST_NAMED: usize = 20;

/// Somebody was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Files and folders of the state folder that were moved aside and that kithd does not look
    /// into: they may hold them yet.
    pub may_hold_them: Vec<String>,
    /// Something of them is left in past results, a backup or the journal; it follows while the
    /// daemon runs.
    pub rest_follows: bool,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Restored {
    /// Of which board, when made, by which version.
    pub origin: String,
    /// What was here and was replaced.
    pub replaced: Amounts,
    /// What came from the backup.
    pub came: Amounts,
    /// Images of this board that stayed: unfinished ones, and those whose result is not delivered
    /// yet.
    pub kept: u64,
    /// People of the backup who were erased on this board and stay erased.
    pub erased: u64,
    /// Images of the backup that stayed out: their number is that of an image that stayed.
    pub same_number: u64,
    /// Rows of the backup that stayed out because they make no sense.
    pub left_out: u64,
    /// The first of these, each with its reason.
    pub left_out_rows: Vec<String>,
}

/// What an import of people did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Imported {
    /// Of which board, when made, by which version.
    pub origin: String,
    /// People who were not here.
    pub people: u64,
    /// People who were here already: the same, or of the same name. They got the pictures they
    /// lacked.
    pub known: u64,
    /// Pictures that were not here.
    pub pictures: u64,
    /// Counter-examples that were not here.
    pub counter_examples: u64,
    /// People who were erased on this board and stay erased.
    pub erased: u64,
    /// Rows of the file that stayed out.
    pub left_out: u64,
    /// The first of these, each with its reason.
    pub left_out_rows: Vec<String>,
    /// New people whose faces the gallery knows as a person who was here, a sentence each; at most
    /// 20. Empty where no gallery is in memory.
    pub resembling: Vec<String>,
}

impl People {
    /// Gives somebody another name; past results show it too.
    pub async fn rename(&self, id: PersonId, name: &str) -> anyhow::Result<Changed> {
        let name = match names::given_to_person(name) {
            Ok(name) => name,
            Err(why) => return Ok(Changed::Refused(why)),
        };
        let _turn = self.turn.lock().await;
        let changed = self.store.rename_person(id, name).await?;
        self.refresh().await?;
        Ok(changed)
    }

    /// Makes two people one, under the name of `into`.
    pub async fn merge(&self, id: PersonId, into: PersonId) -> anyhow::Result<Changed> {
        let _turn = self.turn.lock().await;
        let changed = self.store.merge_people(id, into).await?;
        self.refresh().await?;
        if changed == Changed::Done(()) {
            self.await_last_matches().await;
            self.store.follow_merges().await?;
        }
        Ok(changed)
    }

    /// Takes an enrolled picture out of the gallery and erases it; the last one may go.
    pub async fn delete_picture(&self, person: PersonId, picture: i64) -> anyhow::Result<Changed> {
        let _turn = self.turn.lock().await;
        if !self.store.delete_person_picture(person, picture).await? {
            return Ok(Changed::NotFound);
        }
        self.refresh().await?;
        self.delete_copies_before()?;
        self.renew_backup().await?;
        if !self.store.empty_journal().await? {
            tracing::warn!(
                "the journal that still holds a picture taken out of the gallery is being read"
            );
        }
        Ok(Changed::Done(()))
    }

    /// Erases the person of a name: embeddings, pictures, crops, thumbnails, kept bytes, messages
    /// not sent yet, their name in past results, and what backups on this board hold of them.
    /// `None`: there is nobody of that name.
    pub async fn forget(&self, name: &str) -> anyhow::Result<Option<Forgotten>> {
        let _turn = self.turn.lock().await;
        let person = self.store.person_named(name.into()).await?;
        self.erase(person).await
    }

    /// The same by number.
    pub async fn forget_person(&self, id: PersonId) -> anyhow::Result<Option<Forgotten>> {
        let _turn = self.turn.lock().await;
        self.erase(Some(id)).await
    }

    /// Counter-examples were erased with the image they were made of: gallery and backup are not to
    /// have them either.
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
        // Asked again, it does what was broken off.
        self.refresh().await?;
        self.await_last_matches().await;
        let rest = self.finish_forgetting().await;
        // Counter-examples that were faces of theirs are gone since.
        self.refresh().await?;
        let rest_follows = match rest {
            // They are out of the gallery for good; the rest is done again until it is done.
            Err(error) if found => {
                tracing::warn!("somebody was erased, the rest of them follows: {error:#}");
                true
            }
            rest => rest.map(|()| false)?,
        };
        Ok(found.then(|| Forgotten {
            may_hold_them: self.moved_aside(),
            rest_follows,
        }))
    }

    /// Does to its end, now and then, what a full disk or the end of the daemon broke off.
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
                    let text = format!(
                        "somebody who was erased is still in past results: {error:#}; tried again"
                    );
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

    async fn finish_forgetting(&self) -> anyhow::Result<()> {
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

    /// What is erased is not in the copies of the database either that were made before it was
    /// brought to a newer schema.
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

    /// Who is erased is not in the board's own backup either, whatever becomes of the others.
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

    /// What lies in the state folder, moved aside, that nobody here looks into.
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

    async fn refresh(&self) -> anyhow::Result<()> {
        match self.matcher() {
            Ok(matcher) => refresh(&self.store, &matcher).await,
            Err(GalleryNotLoaded) => Ok(()),
        }
    }

    /// Waits for results that were matched before the change and are on their way to the database.
    async fn await_last_matches(&self) {
        if self.matcher().is_ok() {
            tokio::time::sleep(LAST_MATCHES).await;
        }
    }

    /// Makes a backup of everything, to be written wherever the caller wants it.
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

    /// Makes a backup of people, or of one, to be imported on another board.
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

    /// Puts a backup in the place of what is here, but for who was erased here. Images that are not
    /// finished stay.
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
        // Until the gallery in memory is the new one, nothing may be compared with the old one and
        // stored.
        let held = self.store.hold_claims();
        let replaced = self.store.replace_by(received.clean(), contents).await?;
        self.restores.send_modify(|restores| *restores += 1);
        self.erasures.send_modify(|erasures| *erasures += 1);
        self.refresh().await?;
        drop(held);
        if let Some(error) = self.store.delete_discarded().await? {
            tracing::warn!(
                "a picture of an image that was replaced cannot be deleted from the spool yet: {error}"
            );
        }
        // What a copy from before the last migration holds is not what this board is to hold any
        // more.
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

    /// Adds the people of a backup to those who are here, but for who was erased here.
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
        self.refresh().await?;
        let resembling = match before {
            Some((matcher, before)) => {
                tokio::task::spawn_blocking(move || newly_mistaken(&matcher, &before))
                    .await
                    .context("comparing the imported people panicked")??
            }
            None => Vec::new(),
        };
        // What a copy from before the last migration holds is not what this board is to hold any
        // more.
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

    /// Keeps the gallery's own backup: written at most once a day, and only when something changed.
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

/// Compares the people who were not in the gallery before with all others. A pair that the gallery
/// takes for one person is named once.
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
        if other.distance >= now.lines().known_below || !pairs.insert(pair) {
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
