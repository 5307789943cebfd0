//! SQL that looks on: what came in by one source last. Reads only, and only among the newest images, so that a source
//! that is hardly used costs nothing.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};
use crate::domain::{ImageId, Source};

/// How many of the newest images are looked at.
const LOOKED_AT: i64 = 2000;
/// How many of the newest that failed.
const FAILED_LOOKED_AT: i64 = 500;

/// The newest of one source.
#[derive(Debug, PartialEq, Eq)]
pub struct NewestOfSource {
    /// The image and when it came in, wall clock.
    pub last: Option<(ImageId, i64)>,
    /// The image that failed, why, and when.
    pub failed: Option<(ImageId, String, i64)>,
}

impl Store {
    /// The newest images that came in this way under a path that begins so.
    pub async fn newest_of_source(&self, source: Source, prefix: String) -> Result<NewestOfSource, StoreError> {
        self.read(move |connection| {
            let last = connection
                .prepare_cached(
                    "SELECT id, accepted_at_ms
                       FROM (SELECT id, source, path, accepted_at_ms FROM images ORDER BY id DESC LIMIT ?3)
                      WHERE source = ?1 AND substr(path, 1, length(?2)) = ?2 LIMIT 1",
                )?
                .query_row(params![source.as_str(), prefix, LOOKED_AT], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let failed = connection
                .prepare_cached(
                    "SELECT id, reason, finished_at_ms
                       FROM (SELECT id, source, path, coalesce(reason, '') AS reason,
                                    coalesce(finished_at_ms, accepted_at_ms) AS finished_at_ms
                               FROM images WHERE state = 'failed' ORDER BY id DESC LIMIT ?3)
                      WHERE source = ?1 AND substr(path, 1, length(?2)) = ?2 LIMIT 1",
                )?
                .query_row(params![source.as_str(), prefix, FAILED_LOOKED_AT], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            Ok(NewestOfSource { last, failed })
        })
        .await
    }
}
