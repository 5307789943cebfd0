//! Read-only SQL for the latest images of one source. Looks only at the newest rows, so that a
//! rarely used source costs nothing.

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError};
use crate::domain::{ImageId, Source};

/// Newest images examined.
const LOOKED_AT: i64 = 2000;
/// Newest failed images examined.
const FAILED_LOOKED_AT: i64 = 500;

/// Latest images of one source.
#[derive(Debug, PartialEq, Eq)]
pub struct NewestOfSource {
    /// The latest image and its acceptance, wall clock.
    pub last: Option<(ImageId, i64)>,
    /// The latest failed image, the reason, and its acceptance.
    pub failed: Option<(ImageId, String, i64)>,
}

impl Store {
    /// Returns the latest images of a source whose path has this prefix, and that this camera took,
    /// if one is given.
    pub async fn newest_of_source(
        &self,
        source: Source,
        prefix: String,
        camera: Option<String>,
    ) -> Result<NewestOfSource, StoreError> {
        self.read(move |connection| {
            let last = connection
                .prepare_cached(
                    "SELECT id, accepted_at_ms
                       FROM (SELECT id, source, path, camera, accepted_at_ms FROM images ORDER BY id DESC LIMIT ?3)
                      WHERE source = ?1 AND substr(path, 1, length(?2)) = ?2
                        AND (?4 IS NULL OR camera = ?4) LIMIT 1",
                )?
                .query_row(params![source.as_str(), prefix, LOOKED_AT, camera], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let failed = connection
                .prepare_cached(
                    "SELECT id, reason, finished_at_ms
                       FROM (SELECT id, source, path, camera, coalesce(reason, '') AS reason,
                                    coalesce(finished_at_ms, accepted_at_ms) AS finished_at_ms
                               FROM images WHERE state = 'failed' ORDER BY id DESC LIMIT ?3)
                      WHERE source = ?1 AND substr(path, 1, length(?2)) = ?2
                        AND (?4 IS NULL OR camera = ?4) LIMIT 1",
                )?
                .query_row(params![source.as_str(), prefix, FAILED_LOOKED_AT, camera], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            Ok(NewestOfSource { last, failed })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{NewImage, Origin};
    use crate::store::{End, Limits};

    #[tokio::test]
    async fn each_source_has_its_own_newest_picture_and_failure() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        for (at_ms, (source, camera)) in (100..).zip([
            (Source::Camera, "front"),
            (Source::Camera, "front-door"),
            (Source::Http, ""),
        ]) {
            store
                .accept(
                    vec![NewImage {
                        origin: Origin {
                            camera: (!camera.is_empty()).then(|| camera.into()),
                            event: None,
                        },
                        ..NewImage::path(source, format!("{camera} 1.jpg"))
                    }],
                    Limits::NONE,
                    0,
                    at_ms,
                    true,
                )
                .await
                .unwrap()
                .unwrap();
        }
        let claimed = store.claim(1, true, 1).await.unwrap().0.remove(0);
        let end = End {
            id: claimed.id,
            attempts: claimed.attempts,
            finished_at_ms: 200,
            duration_ms: 1,
            result_id: "r".into(),
            supersedes: None,
            device: "board".into(),
            judged_by: None,
            publish: true,
        };
        store.fail(Arc::new(end), "cut short".into()).await.unwrap();
        store.settle().await.unwrap();
        let newest = async |source, camera: Option<&str>| {
            store
                .newest_of_source(source, String::new(), camera.map(String::from))
                .await
                .unwrap()
        };
        let front = newest(Source::Camera, Some("front")).await;
        assert_eq!(
            front,
            NewestOfSource {
                last: Some((1, 100)),
                failed: Some((1, "cut short".into(), 200))
            }
        );
        let door = newest(Source::Camera, Some("front-door")).await;
        assert_eq!(
            door,
            NewestOfSource {
                last: Some((2, 101)),
                failed: None
            }
        );
        assert_eq!(newest(Source::Http, None).await.last, Some((3, 102)));
        assert_eq!(
            newest(Source::Mqtt, None).await,
            NewestOfSource {
                last: None,
                failed: None
            }
        );
    }
}
