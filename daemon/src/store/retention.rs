//! SQL of retention: measures kinds of data, finds the oldest, and removes it. `queue` decides what
//! has to go.
//!
//! Reads select candidates, so that the writer is not blocked, and the removal checks each row
//! again: unfinished images and unverified results stay. Oldest means lowest id. Every query
//! names its index, or the table whose order it follows, so that one that no longer fits fails
//! instead of reading a hundred thousand rows each time.

use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, OptionalExtension, named_params, params};
use serde::Serialize;

use super::verification::unverified;
use super::{Commit, Store, StoreError};
use crate::domain::ImageId;

/// Kind of data with caps of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Finished images: their rows and all dependent rows.
    Images,
    /// Thumbnails for the page.
    Thumbnails,
    /// Files of pictures that cameras took, Frigate's included.
    Camera,
    /// Files of pictures that came by HTTP or MQTT.
    Uploads,
}

/// Amount of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Number of pieces.
    pub count: u64,
    /// Total bytes.
    pub bytes: u64,
}

/// An old piece of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oldest {
    /// Its image.
    pub id: ImageId,
    /// Size, or 0 for an image, which is spread over pages of the database.
    pub bytes: u64,
}

/// Outcome of a removal.
#[derive(Debug, Default)]
pub struct Gone {
    /// Number of pieces.
    pub rows: usize,
    /// Results among them that no broker ever took.
    pub unsent: u64,
}

/// Clock readings for finding images beyond an age.
#[derive(Debug, Clone, Copy)]
pub struct Aged {
    /// Now, by the board's clock.
    pub wall_ms: i64,
    /// Now, by the queue clock.
    pub queue_ms: i64,
    /// Maximum age.
    pub age_ms: i64,
}

/// Bytes by kind.
#[derive(Debug, Clone, Copy, Default, Serialize, utoipa::ToSchema)]
pub struct Usage {
    /// Pages of the database in use, thumbnails included.
    pub database: u64,
    /// Thumbnails.
    pub thumbnails: u64,
    /// Files of camera frames, waiting and finished.
    pub camera: u64,
    /// Files that came by HTTP or MQTT, waiting and failed.
    pub uploads: u64,
}

/// Amounts removed by retention since the start.
#[derive(Debug, Clone, Copy, Default, Serialize, utoipa::ToSchema)]
pub struct Removed {
    /// Images.
    pub images: u64,
    /// Thumbnails of images that stayed.
    pub thumbnails: u64,
    /// Files of camera frames.
    pub camera: u64,
    /// Files that came by HTTP or MQTT, those of processed images included.
    pub uploads: u64,
    /// Images whose unknown faces were erased.
    pub strangers: u64,
    /// Results that no broker ever took.
    pub unsent_results: u64,
}

#[derive(Debug, Default)]
pub(super) struct RemovedCounts {
    images: AtomicU64,
    thumbnails: AtomicU64,
    camera: AtomicU64,
    uploads: AtomicU64,
    strangers: AtomicU64,
    unsent_results: AtomicU64,
}

/// SQL for a finished image. The partial indexes of ended files require these exact words.
const ENDED: &str = "state IN ('processed', 'failed')";
/// SQL for the bytes of pages in use. Freed pages are reused, but never returned to the disk.
const DATABASE_BYTES: &str = "(SELECT (page_count - freelist_count) * page_size
    FROM pragma_page_count, pragma_freelist_count, pragma_page_size)";

impl Store {
    /// Measures a kind.
    pub async fn held(&self, kind: Kind) -> Result<Held, StoreError> {
        let sql = match kind {
            Kind::Images => format!(
                "SELECT count(*), {DATABASE_BYTES} + (SELECT coalesce(sum(bytes), 0) FROM images INDEXED BY images_ended_files
                    WHERE file IS NOT NULL AND {ENDED}) FROM images INDEXED BY images_state_due WHERE {ENDED}"
            ),
            Kind::Thumbnails => {
                "SELECT count(*), coalesce(sum(length(jpeg)), 0) FROM thumbnails INDEXED BY thumbnails_bytes".into()
            }
            // The cap covers the whole camera spool: waiting frames displace finished ones.
            Kind::Camera => "SELECT count(*), coalesce(sum(bytes), 0) FROM images INDEXED BY images_files
                              WHERE file IS NOT NULL AND source IN ('camera', 'frigate')"
                .into(),
            Kind::Uploads => format!(
                "SELECT count(*), coalesce(sum(bytes), 0) FROM images INDEXED BY images_ended_files
                  WHERE file IS NOT NULL AND {ENDED} AND source NOT IN ('camera', 'frigate')"
            ),
        };
        self.read(move |connection| {
            connection.prepare_cached(&sql)?.query_row([], |row| {
                Ok(Held {
                    count: row.get(0)?,
                    bytes: row.get(1)?,
                })
            })
        })
        .await
    }

    /// Returns the oldest removable pieces of a kind, up to an image; `spare_unsent` skips images
    /// with undelivered results.
    pub async fn oldest(
        &self,
        kind: Kind,
        upto: ImageId,
        limit: usize,
        spare_unsent: bool,
    ) -> Result<Vec<Oldest>, StoreError> {
        let settled = settled();
        let unsent = "EXISTS (SELECT 1 FROM results JOIN outbox USING (id) WHERE results.image_id = images.id)";
        // Each query follows the order of its key; the skipped rows are old images that are not
        // settled yet.
        let sql = match kind {
            Kind::Images if spare_unsent => format!(
                "SELECT id, 0 FROM images NOT INDEXED WHERE id <= ?1 AND {settled} AND NOT {unsent} ORDER BY id LIMIT ?2"
            ),
            Kind::Images => {
                format!(
                    "SELECT id, 0 FROM images NOT INDEXED WHERE id <= ?1 AND {settled} ORDER BY id LIMIT ?2"
                )
            }
            Kind::Thumbnails => {
                "SELECT image_id, length(jpeg) FROM thumbnails INDEXED BY thumbnails_bytes
                                  WHERE image_id <= ?1 ORDER BY image_id LIMIT ?2"
                    .into()
            }
            Kind::Camera | Kind::Uploads => {
                let of = |source: &str| {
                    format!(
                        "SELECT id, bytes FROM images INDEXED BY images_ended_files
                          WHERE file IS NOT NULL AND source {source} AND id <= ?1 AND {settled}"
                    )
                };
                let files = match kind {
                    // Both are in the order of the index and are merged.
                    Kind::Camera => format!("{} UNION ALL {}", of("= 'camera'"), of("= 'frigate'")),
                    _ => of("NOT IN ('camera', 'frigate')"),
                };
                format!("{files} ORDER BY id LIMIT ?2")
            }
        };
        self.read(move |connection| {
            let mut oldest = connection.prepare_cached(&sql)?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok(Oldest {
                    id: row.get(0)?,
                    bytes: row.get(1)?,
                })
            };
            oldest
                .query_map(params![upto, limit as i64], row)?
                .collect()
        })
        .await
    }

    /// Removes pieces of a kind, except those needed again by now. [`Self::delete_discarded`]
    /// deletes the files of the removed rows.
    pub async fn remove(
        &self,
        kind: Kind,
        ids: Vec<ImageId>,
        spare_unsent: bool,
    ) -> Result<Gone, StoreError> {
        let settled = settled();
        let gone = self
            .write(Commit::Durable, move |connection| {
                let mut gone = Gone::default();
                for id in &ids {
                    match kind {
                        Kind::Images => {
                            remove_image(connection, *id, &settled, spare_unsent, &mut gone)?;
                        }
                        Kind::Thumbnails => {
                            let sql = "DELETE FROM thumbnails WHERE image_id = ?1";
                            gone.rows += connection.prepare_cached(sql)?.execute([id])?;
                        }
                        Kind::Camera | Kind::Uploads => {
                            forget_file(connection, *id, &settled, &mut gone)?;
                        }
                    }
                }
                Ok(gone)
            })
            .await?;
        let counted = match kind {
            Kind::Images => &self.removed.images,
            Kind::Thumbnails => &self.removed.thumbnails,
            Kind::Camera => &self.removed.camera,
            Kind::Uploads => &self.removed.uploads,
        };
        counted.fetch_add(gone.rows as u64, Ordering::Relaxed);
        self.removed
            .unsent_results
            .fetch_add(gone.unsent, Ordering::Relaxed);
        Ok(gone)
    }

    /// Returns images that came by HTTP or MQTT, are settled as processed, and still have their
    /// file.
    pub async fn processed_uploads(&self, limit: usize) -> Result<Vec<ImageId>, StoreError> {
        self.read(move |connection| {
            let mut done = connection.prepare_cached(&format!(
                "SELECT id FROM images INDEXED BY images_ended_files
                  WHERE file IS NOT NULL AND source NOT IN ('camera', 'frigate') AND state = 'processed' AND {} LIMIT ?1",
                settled()
            ))?;
            done.query_map([limit as i64], |row| row.get(0))?.collect()
        })
        .await
    }

    /// Returns the newest image known to be this old; ids grow in order of arrival, so all before
    /// it are older.
    ///
    /// A date counts if the clock was trustworthy then and the date is not in the future. Other
    /// images are judged by the queue clock, which proves a minimum age.
    pub async fn newest_so_old(&self, aged: Aged) -> Result<Option<ImageId>, StoreError> {
        self.read(move |connection| {
            let clocks = named_params! {
                ":now": aged.wall_ms,
                ":then": aged.wall_ms.saturating_sub(aged.age_ms),
                ":queue": aged.queue_ms.saturating_sub(aged.age_ms),
            };
            connection
                .prepare_cached(
                    "SELECT id FROM images NOT INDEXED
                      WHERE id < coalesce((SELECT id FROM images NOT INDEXED
                                            WHERE dated AND accepted_at_ms > :then AND accepted_at_ms <= :now
                                            ORDER BY id LIMIT 1), 9223372036854775807)
                        AND ((dated AND accepted_at_ms <= :then) OR due_ms <= :queue)
                      ORDER BY id DESC LIMIT 1",
                )?
                .query_row(clocks, |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Returns settled images in a range of ids that still hold data of unknown faces.
    pub async fn strangers(
        &self,
        after: ImageId,
        upto: ImageId,
        limit: usize,
    ) -> Result<Vec<ImageId>, StoreError> {
        self.read(move |connection| {
            let mut with = connection.prepare_cached(&format!(
                "SELECT id FROM images NOT INDEXED
                  WHERE id IN (SELECT image_id FROM faces INDEXED BY faces_strangers
                                WHERE image_id > ?1 AND image_id <= ?2 AND {STRANGER})
                    AND {} ORDER BY id LIMIT ?3",
                settled()
            ))?;
            with.query_map(params![after, upto, limit as i64], |row| row.get(0))?
                .collect()
        })
        .await
    }

    /// Erases embedding and crop of every unknown face in these images.
    pub async fn erase_strangers(&self, ids: Vec<ImageId>) -> Result<(), StoreError> {
        let count = ids.len() as u64;
        let sql = format!(
            "UPDATE faces SET embedding = x'', crop = x'' WHERE image_id = ?1 AND {STRANGER}
                AND EXISTS (SELECT 1 FROM images WHERE id = ?1 AND {})",
            settled()
        );
        self.write(Commit::Durable, move |connection| {
            let mut erase = connection.prepare_cached(&sql)?;
            ids.iter().try_for_each(|id| erase.execute([id]).map(drop))
        })
        .await?;
        self.removed.strangers.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// Measures bytes by kind.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        self.read(|connection| {
            let sql = format!(
                "SELECT {DATABASE_BYTES},
                        (SELECT coalesce(sum(length(jpeg)), 0) FROM thumbnails INDEXED BY thumbnails_bytes),
                        coalesce(sum(bytes) FILTER (WHERE source IN ('camera', 'frigate')), 0),
                        coalesce(sum(bytes) FILTER (WHERE source NOT IN ('camera', 'frigate')), 0)
                   FROM images INDEXED BY images_files WHERE file IS NOT NULL"
            );
            connection.prepare_cached(&sql)?.query_row([], |row| {
                Ok(Usage { database: row.get(0)?, thumbnails: row.get(1)?, camera: row.get(2)?, uploads: row.get(3)? })
            })
        })
        .await
    }

    /// Returns the amounts removed since the start.
    pub fn removed(&self) -> Removed {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Removed {
            images: of(&self.removed.images),
            thumbnails: of(&self.removed.thumbnails),
            camera: of(&self.removed.camera),
            uploads: of(&self.removed.uploads),
            strangers: of(&self.removed.strangers),
            unsent_results: of(&self.removed.unsent_results),
        }
    }
}

/// SQL for an unknown face that still has an embedding or crop, by their lengths, which SQLite
/// reads without the bytes. The index `faces_strangers` requires these exact words.
const STRANGER: &str = "outcome = 'unknown' AND length(embedding) + length(crop) > 0";

/// SQL that is true for a settled image: finished, and its result verified.
fn settled() -> String {
    format!("({ENDED} AND NOT {})", unverified())
}

fn remove_image(
    connection: &Connection,
    id: ImageId,
    settled: &str,
    spare_unsent: bool,
    gone: &mut Gone,
) -> rusqlite::Result<()> {
    let unsent: u64 = connection
        .prepare_cached("SELECT count(*) FROM results JOIN outbox USING (id) WHERE image_id = ?1")?
        .query_row([id], |row| row.get(0))?;
    if spare_unsent && unsent > 0 {
        return Ok(());
    }
    let sql = format!("DELETE FROM images WHERE id = ?1 AND {settled}");
    if connection.prepare_cached(&sql)?.execute([id])? > 0 {
        gone.rows += 1;
        gone.unsent += unsent;
    }
    Ok(())
}

fn forget_file(
    connection: &Connection,
    id: ImageId,
    settled: &str,
    gone: &mut Gone,
) -> rusqlite::Result<()> {
    let sql =
        format!("UPDATE images SET file = NULL WHERE id = ?1 AND file IS NOT NULL AND {settled}");
    gone.rows += connection.prepare_cached(&sql)?.execute([id])?;
    Ok(())
}
