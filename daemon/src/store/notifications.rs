//! SQL of notifications: which sightings changed, what their targets were told, what is due. The
//! rules are in `sinks::notify`, which gives them as a function to the transaction that follows
//! sightings.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::facts::{store_fact, store_queue_clock};
use super::timeline::seen_stranger;
use super::{Commit, Store, StoreError, text};
use crate::domain::{
    FaceAddress, ImageId, NamedCandidate, Outcome, PersonId, SightingId, SightingMessage,
    SightingState, SightingStep, StrangerId,
};

/// Fact with the number of the newest change of sightings that was followed.
const FOLLOWED: &str = "notified_upto";
/// Changes followed in one transaction.
const BATCH: i64 = 50;
/// Most unsent notifications of a target; older ones are given up.
const MOST_WAITING: i64 = 1000;

/// A sighting as far as it decides what is told.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenSighting {
    /// Sighting.
    pub id: SightingId,
    /// Its source.
    pub source: String,
    /// Known, uncertain or unknown.
    pub outcome: Outcome,
    /// The person it is or may be, with their name.
    pub person: Option<(PersonId, String)>,
    /// Group of its faces.
    pub stranger: Option<StrangerId>,
    /// True if an earlier sighting is of the same group.
    pub returning: bool,
    /// True if an operator ignores this group.
    pub ignored: bool,
    /// Queue clock of the last look, in milliseconds.
    pub last_came_ms: i64,
}

/// What a target was told, or is to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Row.
    pub id: i64,
    /// Target.
    pub target: String,
    /// Sighting.
    pub sighting: SightingId,
    /// Identity that is told.
    pub outcome: Outcome,
    /// Person that is told.
    pub person: Option<PersonId>,
    /// Queue clock when it was made, in milliseconds.
    pub came_ms: i64,
    /// Its end; `None`: it is to be sent.
    pub ending: Option<Ending>,
}

/// Ends of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The target has it.
    Sent,
    /// The target refused it for good.
    Refused,
    /// It was no news any more.
    Expired,
    /// It was not true any more.
    Dropped,
}

impl Ending {
    /// Every ending.
    pub const ALL: [Self; 4] = [Self::Sent, Self::Refused, Self::Expired, Self::Dropped];

    /// Returns the spelling of database and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
        }
    }
}

/// A change that follows from the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotificationStep {
    /// Makes a notification about the sighting.
    Tell {
        /// Target.
        target: String,
        /// Queue clock before which it is not sent, in milliseconds.
        due_ms: i64,
    },
    /// Ends a notification that is to be sent.
    End(i64, Ending),
}

/// The rules: the steps for a sighting and what was told about it and those like it.
pub type Rules = Arc<dyn Fn(&SeenSighting, &[Told]) -> Vec<NotificationStep> + Send + Sync>;

/// Readings of the clocks, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Readings {
    /// Queue clock.
    pub now_ms: i64,
    /// Wall clock.
    pub wall_ms: i64,
    /// Queue clock before which finished notifications keep no other from being made.
    pub since_ms: i64,
}

/// A notification whose time has come.
#[derive(Debug, Clone)]
pub struct DueNotification {
    /// Its row.
    pub row: Told,
    /// Its id wherever it is sent.
    pub uid: String,
    /// Failed attempts.
    pub attempts: u32,
    /// The sighting now.
    pub seen: SeenSighting,
    /// Notifications about it and those like it, of any target.
    pub told: Vec<Told>,
    /// The sighting as a message.
    pub message: SightingMessage,
}

impl Store {
    /// Returns whether sightings changed that were not followed yet.
    pub async fn has_unfollowed_sightings(&self) -> Result<bool, StoreError> {
        self.read(|connection| {
            let Some(followed) = followed(connection)? else {
                return Ok(true);
            };
            connection
                .prepare_cached("SELECT 1 FROM sightings WHERE changed > ?1")?
                .exists([followed])
        })
        .await
    }

    /// Follows the next changes of sightings: makes and ends notifications as the rules say.
    /// Returns whether there may be more. At the first time nothing of the past is told.
    pub async fn follow_sightings(
        &self,
        clock: Readings,
        rules: Rules,
    ) -> Result<bool, StoreError> {
        self.write(Commit::GroupedDurable, move |connection| {
            let Some(followed) = followed(connection)? else {
                let newest = "SELECT coalesce(max(changed), 0) FROM sightings";
                let newest: i64 = connection.query_row(newest, [], |row| row.get(0))?;
                store_fact(connection, FOLLOWED, &newest.to_string())?;
                return Ok(false);
            };
            let changed: Vec<(SightingId, i64)> = connection
                .prepare_cached(
                    "SELECT id, changed FROM sightings WHERE changed > ?1 ORDER BY changed LIMIT ?2",
                )?
                .query_map([followed, BATCH], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()?;
            for (sighting, _) in &changed {
                if let Some(seen) = seen(connection, *sighting)? {
                    let told = told(connection, &seen, clock.since_ms)?;
                    apply(connection, &seen, rules(&seen, &told), clock)?;
                }
            }
            let upto = changed.last().map_or(followed, |(_, changed)| *changed);
            store_fact(connection, FOLLOWED, &upto.to_string())?;
            connection
                .prepare_cached(
                    "DELETE FROM notifications WHERE came_ms < ?1 AND due_ms IS NULL AND NOT EXISTS
                        (SELECT 1 FROM sightings WHERE id = sighting_id AND ended_ms IS NULL)",
                )?
                .execute([clock.since_ms])?;
            Ok(changed.len() == BATCH as usize)
        })
        .await
    }

    /// Removes the notifications of targets other than these.
    pub async fn keep_notifications_of(&self, targets: Vec<String>) -> Result<(), StoreError> {
        let targets = serde_json::json!(targets).to_string();
        self.write(Commit::Durable, move |connection| {
            connection
                .execute(
                    "DELETE FROM notifications WHERE target NOT IN (SELECT value FROM json_each(?1))",
                    [&targets],
                )
                .map(drop)
        })
        .await
    }

    /// Gives up the unsent notifications of a target that were made before this time of the wall
    /// clock, in milliseconds.
    pub async fn expire_notifications(
        &self,
        target: &str,
        before_ms: i64,
    ) -> Result<(), StoreError> {
        let target = target.to_owned();
        self.write(Commit::Durable, move |connection| {
            connection
                .execute(
                    "UPDATE notifications SET due_ms = NULL, ending = 'expired'
                      WHERE target = ?1 AND due_ms IS NOT NULL AND made_ms < ?2",
                    params![target, before_ms],
                )
                .map(drop)
        })
        .await
    }

    /// Returns the row and the due time of a target's next notification.
    pub async fn next_notification(&self, target: &str) -> Result<Option<(i64, i64)>, StoreError> {
        let target = target.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT id, due_ms FROM notifications WHERE target = ?1 AND due_ms IS NOT NULL
                      ORDER BY due_ms, id LIMIT 1",
                )?
                .query_row([target], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .await
    }

    /// Counts a target's unsent notifications.
    pub async fn waiting_notifications(&self, target: &str) -> Result<u64, StoreError> {
        let target = target.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT count(*) FROM notifications WHERE target = ?1 AND due_ms IS NOT NULL",
                )?
                .query_row([target], |row| row.get(0))
        })
        .await
    }

    /// Returns a notification that is to be sent, and its sighting as it is now; `None` if one of
    /// them is gone.
    pub async fn due_notification(
        &self,
        id: i64,
        since_ms: i64,
        device: &str,
    ) -> Result<Option<DueNotification>, StoreError> {
        let device = device.to_owned();
        self.read(move |connection| {
            let row = connection
                .prepare_cached(&format!(
                    "SELECT {TOLD}, n.uid, n.attempts FROM notifications n
                      WHERE n.id = ?1 AND n.due_ms IS NOT NULL"
                ))?
                .query_row([id], |row| Ok((told_row(row)?, text(row, 7)?, row.get(8)?)))
                .optional()?;
            let Some((row, uid, attempts)) = row else {
                return Ok(None);
            };
            let Some(seen) = seen(connection, row.sighting)? else {
                return Ok(None);
            };
            let told = told(connection, &seen, since_ms)?;
            let message = message(connection, &seen, device)?;
            Ok(Some(DueNotification {
                row,
                uid,
                attempts,
                seen,
                told,
                message,
            }))
        })
        .await
    }

    /// Applies steps that concern a sighting.
    pub async fn apply_notification_steps(
        &self,
        seen: SeenSighting,
        steps: Vec<NotificationStep>,
        clock: Readings,
    ) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            apply(connection, &seen, steps.clone(), clock)
        })
        .await
    }

    /// Notes how a notification ended.
    pub async fn end_notification(&self, id: i64, ending: Ending) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            end(connection, id, ending)
        })
        .await
    }

    /// Notes a failed attempt.
    pub async fn note_failed_notification(&self, id: i64) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            connection
                .prepare_cached("UPDATE notifications SET attempts = attempts + 1 WHERE id = ?1")?
                .execute([id])
                .map(drop)
        })
        .await
    }

    /// Sets the time of the queue clock before which a notification is not sent, in milliseconds.
    pub async fn put_notification_off(&self, id: i64, due_ms: i64) -> Result<(), StoreError> {
        self.write(Commit::Durable, move |connection| {
            connection
                .prepare_cached(
                    "UPDATE notifications SET due_ms = ?2 WHERE id = ?1 AND due_ms IS NOT NULL",
                )?
                .execute([id, due_ms])
                .map(drop)
        })
        .await
    }

    /// Returns the file of an image in the spool, relative to the state folder, if it is kept.
    pub async fn kept_file(&self, image: ImageId) -> Result<Option<String>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT file FROM images WHERE id = ?1")?
                .query_row([image], |row| super::text_if_any(row, 0))
                .optional()
                .map(Option::flatten)
        })
        .await
    }
}

/// Takes notifications of erased people out.
pub(super) fn erase_people(connection: &Connection, people: &[PersonId]) -> rusqlite::Result<()> {
    let mut erase = connection.prepare_cached("DELETE FROM notifications WHERE person_id = ?1")?;
    for person in people {
        erase.execute([person])?;
    }
    Ok(())
}

/// Lets notifications of one person be those of another.
pub(super) fn merge_people(
    connection: &Connection,
    person: PersonId,
    into: PersonId,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE notifications SET person_id = ?2 WHERE person_id = ?1")?
        .execute([person, into])
        .map(drop)
}

fn followed(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let fact: Option<String> = connection
        .prepare_cached("SELECT value FROM facts WHERE key = ?1")?
        .query_row([FOLLOWED], |row| text(row, 0))
        .optional()?;
    Ok(fact.and_then(|text| text.parse().ok()))
}

fn apply(
    connection: &Connection,
    seen: &SeenSighting,
    steps: Vec<NotificationStep>,
    clock: Readings,
) -> rusqlite::Result<()> {
    for step in steps {
        match step {
            NotificationStep::End(id, ending) => end(connection, id, ending)?,
            NotificationStep::Tell { target, due_ms } => {
                let uid = uuid::Uuid::now_v7().to_string();
                let person = seen.person.as_ref().map(|(id, _)| *id);
                connection
                    .prepare_cached(
                        "INSERT INTO notifications
                           (uid, target, sighting_id, outcome, person_id, made_ms, came_ms, due_ms)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                    )?
                    .execute(params![
                        uid,
                        target,
                        seen.id,
                        seen.outcome.as_str(),
                        person,
                        clock.wall_ms,
                        clock.now_ms,
                        due_ms
                    ])?;
                connection
                    .prepare_cached(
                        "UPDATE notifications SET due_ms = NULL, ending = 'expired'
                          WHERE target = ?1 AND due_ms IS NOT NULL AND id <=
                            (SELECT id FROM notifications WHERE target = ?1 AND due_ms IS NOT NULL
                              ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                    )?
                    .execute(params![target, MOST_WAITING])?;
                // The due time means nothing to a clock that resumes before it.
                store_queue_clock(connection, clock.now_ms)?;
            }
        }
    }
    Ok(())
}

fn end(connection: &Connection, id: i64, ending: Ending) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE notifications SET due_ms = NULL, ending = ?2
              WHERE id = ?1 AND due_ms IS NOT NULL",
        )?
        .execute(params![id, ending.as_str()])
        .map(drop)
}

/// Columns of a [`Told`], of the table `n`.
const TOLD: &str = "n.id, n.target, n.sighting_id, n.outcome, n.person_id, n.came_ms, n.ending";

fn told_row(row: &Row<'_>) -> rusqlite::Result<Told> {
    let ending = super::text_if_any(row, 6)?;
    Ok(Told {
        id: row.get(0)?,
        target: text(row, 1)?,
        sighting: row.get(2)?,
        outcome: outcome(row, 3)?,
        person: row.get(4)?,
        came_ms: row.get(5)?,
        ending: Ending::ALL
            .into_iter()
            .find(|known| ending.as_deref() == Some(known.as_str())),
    })
}

fn outcome(row: &Row<'_>, column: usize) -> rusqlite::Result<Outcome> {
    // The table allows no other words; a damaged one is the least that can be said of a face.
    Ok(text(row, column)?.parse().unwrap_or(Outcome::Unknown))
}

/// Reads a sighting; `None` if it is gone, or names a person who is.
fn seen(connection: &Connection, id: SightingId) -> rusqlite::Result<Option<SeenSighting>> {
    let seen = connection
        .prepare_cached(
            "SELECT s.id, s.source, s.outcome, s.person_id, person.name, s.stranger_id,
                    EXISTS (SELECT 1 FROM sightings o WHERE o.stranger_id = s.stranger_id AND o.id < s.id),
                    coalesce(strangers.ignored, 0), s.last_came_ms
               FROM sightings s LEFT JOIN person ON person.id = s.person_id
               LEFT JOIN strangers ON strangers.id = s.stranger_id
              WHERE s.id = ?1",
        )?
        .query_row([id], |row| {
            let outcome = outcome(row, 2)?;
            let named = row.get::<_, Option<PersonId>>(3)?.zip(super::text_if_any(row, 4)?);
            let unknown = outcome == Outcome::Unknown;
            Ok(SeenSighting {
                id: row.get(0)?,
                source: text(row, 1)?,
                outcome,
                person: named.filter(|_| !unknown),
                stranger: row.get::<_, Option<StrangerId>>(5)?.filter(|_| unknown),
                returning: unknown && row.get(6)?,
                ignored: unknown && row.get(7)?,
                last_came_ms: row.get(8)?,
            })
        })
        .optional()?;
    Ok(seen.filter(|seen| seen.outcome == Outcome::Unknown || seen.person.is_some()))
}

/// Returns what targets were told about a sighting, and since a time about those of the same person
/// or stranger; for an unknown face without a number, about unknown faces of the same source.
fn told(
    connection: &Connection,
    seen: &SeenSighting,
    since_ms: i64,
) -> rusqlite::Result<Vec<Told>> {
    let person = seen.person.as_ref().map(|(id, _)| *id);
    let sql = format!(
        "SELECT {TOLD} FROM notifications n WHERE n.sighting_id = ?1
         UNION
         SELECT {TOLD} FROM notifications n JOIN sightings s ON s.id = n.sighting_id
          WHERE n.came_ms >= ?2 AND CASE
                WHEN ?3 IS NOT NULL THEN n.person_id = ?3
                WHEN ?4 IS NOT NULL THEN n.person_id IS NULL AND s.stranger_id = ?4
                ELSE n.person_id IS NULL AND s.source = ?5 END
          ORDER BY 1"
    );
    connection
        .prepare_cached(&sql)?
        .query_map(
            params![seen.id, since_ms, person, seen.stranger, seen.source],
            told_row,
        )?
        .collect()
}

/// Returns a sighting as a message about its present state.
fn message(
    connection: &Connection,
    seen: &SeenSighting,
    device: String,
) -> rusqlite::Result<SightingMessage> {
    let stranger = match seen.stranger {
        Some(number) => Some(seen_stranger(connection, number, seen.id)?),
        None => None,
    };
    connection
        .prepare_cached(
            "SELECT s.uid, s.began_ms, s.last_ms, s.ended_ms, s.distance, s.margin, s.looks,
                    f.image_id, f.number, f.quality
               FROM sightings s
               LEFT JOIN faces f ON f.image_id = s.image_id AND f.number = s.number AND length(f.crop) > 0
              WHERE s.id = ?1",
        )?
        .query_row([seen.id], |row| {
            let ended_ms: Option<i64> = row.get(3)?;
            let (distance, margin): (Option<f32>, Option<f32>) = (row.get(4)?, row.get(5)?);
            let person = seen.person.clone().map(|(person_id, name)| NamedCandidate {
                person_id,
                name,
                distance,
            });
            let image: Option<ImageId> = row.get(7)?;
            let number: Option<u32> = row.get(8)?;
            let face = image.zip(number).map(|(image_id, number)| FaceAddress { image_id, number });
            Ok(SightingMessage {
                step: if ended_ms.is_some() { SightingStep::End } else { SightingStep::Update },
                sighting_id: text(row, 0)?,
                device,
                source: seen.source.clone(),
                began_ms: row.get(1)?,
                last_ms: row.get(2)?,
                ended_ms,
                before: None,
                after: SightingState {
                    outcome: seen.outcome,
                    person,
                    stranger,
                    distance,
                    margin,
                    looks: row.get(6)?,
                    quality: row.get(9)?,
                    face,
                },
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::PersonChange;
    use crate::store::fixtures::{enroll, image, rows, run, store};

    const CLOCK: Readings = Readings {
        now_ms: 10_000,
        wall_ms: 1_000_000,
        since_ms: 5_000,
    };

    /// SQL of a sighting with number `id`, which changed last at `id`.
    fn sighting(id: i64, source: &str, outcome: &str, person: &str, stranger: &str) -> String {
        format!(
            "INSERT INTO sightings (id, uid, source, began_ms, last_ms, last_came_ms, outcome, person_id,
                stranger_id, looks, space, total, weight, image_id, number, merit, changed)
             VALUES ({id}, 's{id}', '{source}', {id}, {id}, 9000, '{outcome}', {person}, {stranger},
                3, 's', x'', 1, {id}, 1, 0.5, {id});"
        )
    }

    fn tell_all() -> Rules {
        Arc::new(|seen, _| {
            vec![NotificationStep::Tell {
                target: "phone".into(),
                due_ms: 10_000 + seen.id,
            }]
        })
    }

    async fn due(store: &Store, id: i64) -> DueNotification {
        store
            .due_notification(id, 5_000, "board")
            .await
            .unwrap()
            .unwrap()
    }

    #[tokio::test]
    async fn only_what_changes_after_the_first_time_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let (past, new) = (
            sighting(1, "front", "unknown", "NULL", "NULL"),
            sighting(2, "front", "unknown", "NULL", "NULL"),
        );
        run(&store, &past).await;
        assert!(store.has_unfollowed_sightings().await.unwrap());
        assert!(!store.follow_sightings(CLOCK, tell_all()).await.unwrap());
        assert!(!store.has_unfollowed_sightings().await.unwrap());
        run(&store, &new).await;
        assert!(store.has_unfollowed_sightings().await.unwrap());
        store.follow_sightings(CLOCK, tell_all()).await.unwrap();
        store.follow_sightings(CLOCK, tell_all()).await.unwrap();
        let told = "SELECT sighting_id || ' ' || due_ms || ' ' || made_ms FROM notifications";
        assert_eq!(rows(&store, told).await, ["2 10002 1000000"]);
        assert_eq!(
            store.next_notification("phone").await.unwrap(),
            Some((1, 10_002))
        );
        assert_eq!(store.next_notification("flow").await.unwrap(), None);
        // The queue clock resumes behind the time at which it was made.
        assert_eq!(store.queue_clock().await.unwrap(), 10_000);
    }

    #[tokio::test]
    async fn rules_see_what_was_told_of_the_same_face() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let ann = enroll(&store, "Ann", "a", [1.0, 0.0]).await.to_string();
        store.follow_sightings(CLOCK, tell_all()).await.unwrap();
        run(&store, "INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms, ignored)
                     VALUES (7, 's', x'', 1, 1, 1, 1, 1)").await;
        for sql in [
            sighting(1, "front", "known", &ann, "NULL"),
            sighting(2, "yard", "known", &ann, "NULL"),
            sighting(3, "front", "unknown", "NULL", "7"),
            sighting(4, "yard", "unknown", "NULL", "7"),
            sighting(5, "front", "unknown", "NULL", "NULL"),
            sighting(6, "door", "unknown", "NULL", "NULL"),
            // Its person was erased meanwhile.
            sighting(7, "front", "known", "NULL", "NULL"),
        ] {
            run(&store, &sql).await;
        }
        let heard = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let noted = Arc::clone(&heard);
        let rules: Rules = Arc::new(move |seen, told| {
            let about: Vec<_> = told.iter().map(|row| row.sighting).collect();
            noted
                .lock()
                .push((seen.id, about, seen.returning, seen.ignored));
            tell_all()(seen, told)
        });
        store.follow_sightings(CLOCK, rules).await.unwrap();
        let expected = [
            (1, vec![], false, false),
            (2, vec![1], false, false),
            (3, vec![], false, true),
            (4, vec![3], true, true),
            // Without a number it is like any unknown face of its source.
            (5, vec![3], false, false),
            (6, vec![], false, false),
        ];
        assert_eq!(*heard.lock(), expected);
        // Finished rows that are too old to matter go, but not while their sighting is open.
        run(
            &store,
            "UPDATE notifications SET came_ms = 1, due_ms = NULL, ending = 'sent';
                     UPDATE sightings SET ended_ms = 9 WHERE id < 6",
        )
        .await;
        let nothing: Rules = Arc::new(|_, _| Vec::new());
        store.follow_sightings(CLOCK, nothing).await.unwrap();
        let left = "SELECT CAST(sighting_id AS TEXT) FROM notifications";
        assert_eq!(rows(&store, left).await, ["6"]);
    }

    #[tokio::test]
    async fn a_due_notification_tells_its_sighting_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        store.follow_sightings(CLOCK, tell_all()).await.unwrap();
        run(&store, &image(2, "unknown", None, &[], [0.1, 0.2])).await;
        run(&store, &sighting(1, "front", "unknown", "NULL", "7")).await;
        run(&store, &sighting(2, "yard", "unknown", "NULL", "7")).await;
        store.follow_sightings(CLOCK, tell_all()).await.unwrap();
        let first = due(&store, 2).await;
        let state = &first.message.after;
        assert_eq!((first.message.source.as_str(), state.looks), ("yard", 3));
        assert_eq!(
            state.face,
            Some(FaceAddress {
                image_id: 2,
                number: 1
            })
        );
        let stranger = state.stranger.as_ref().unwrap();
        let (number, times) = (stranger.number, (stranger.sightings, stranger.this_week));
        assert_eq!((number, times, stranger.before_ms), (7, (2, 2), Some(1)));
        store.note_failed_notification(2).await.unwrap();
        store.put_notification_off(2, 11_000).await.unwrap();
        // She becomes known, and her face is erased.
        let ann = enroll(&store, "Ann", "a", [1.0, 0.0]).await;
        let known = format!(
            "UPDATE sightings SET outcome = 'known', person_id = {ann}, ended_ms = 5 WHERE id = 2;
             UPDATE faces SET crop = x''"
        );
        run(&store, &known).await;
        let again = due(&store, 2).await;
        assert_eq!((&again.uid, again.attempts), (&first.uid, 1));
        assert_eq!(
            store.next_notification("phone").await.unwrap(),
            Some((1, 10_001))
        );
        let state = &again.message.after;
        assert_eq!(state.person.as_ref().unwrap().name, "Ann");
        assert_eq!((&state.stranger, &state.face), (&None, &None));
        assert_eq!(again.message.step, SightingStep::End);
        store.end_notification(2, Ending::Sent).await.unwrap();
        assert!(
            store
                .due_notification(2, 0, "board")
                .await
                .unwrap()
                .is_none()
        );
        // The sighting goes, and with it all that would be told of it.
        run(&store, "DELETE FROM sightings").await;
        assert_eq!(rows(&store, "SELECT uid FROM notifications").await, [""; 0]);
    }

    #[tokio::test]
    async fn notifications_follow_merges_and_go_with_the_erased() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        let ann = enroll(&store, "Ann", "a", [1.0, 0.0]).await;
        let bob = enroll(&store, "Bob", "b", [0.0, 1.0]).await;
        store.follow_sightings(CLOCK, tell_all()).await.unwrap();
        let of = ann.to_string();
        run(&store, &sighting(1, "front", "known", &of, "NULL")).await;
        run(&store, &sighting(2, "front", "unknown", "NULL", "NULL")).await;
        store.follow_sightings(CLOCK, tell_all()).await.unwrap();
        assert_eq!(
            store.merge_people(ann, bob).await.unwrap(),
            PersonChange::Done
        );
        let people = "SELECT coalesce(person_id, 'none') || '' FROM notifications ORDER BY id";
        assert_eq!(rows(&store, people).await, [bob.to_string(), "none".into()]);
        assert!(store.erase_person(bob).await.unwrap());
        assert_eq!(rows(&store, people).await, ["none"]);
    }

    #[tokio::test]
    async fn too_many_and_too_old_notifications_are_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        store.follow_sightings(CLOCK, tell_all()).await.unwrap();
        run(&store, &sighting(1, "front", "unknown", "NULL", "NULL")).await;
        let many =
            "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
            INSERT INTO notifications (uid, target, sighting_id, outcome, made_ms, came_ms, due_ms)
            SELECT 'u' || i, 'phone', 1, 'unknown', 1, 1, 1 FROM n";
        run(&store, many).await;
        store.follow_sightings(CLOCK, tell_all()).await.unwrap();
        assert_eq!(store.waiting_notifications("phone").await.unwrap(), 1000);
        let given_up = "SELECT uid FROM notifications WHERE ending = 'expired'";
        assert_eq!(rows(&store, given_up).await, ["u1"]);
        store.expire_notifications("phone", 2).await.unwrap();
        assert_eq!(store.waiting_notifications("phone").await.unwrap(), 1);
        store
            .keep_notifications_of(vec!["phone".into()])
            .await
            .unwrap();
        assert_eq!(store.waiting_notifications("phone").await.unwrap(), 1);
        store
            .keep_notifications_of(vec!["flow".into()])
            .await
            .unwrap();
        assert_eq!(rows(&store, "SELECT uid FROM notifications").await, [""; 0]);
    }
}
