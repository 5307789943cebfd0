//! Read-only SQL for the latest images of one source, and the cameras that pictures come from.
//! Looks only at the newest rows, so that a rarely used source costs nothing.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, text};
use crate::domain::{Accepted, ImageId, NewImage, Source};

/// Newest images examined.
const LOOKED_AT: i64 = 2000;
/// Newest failed images examined.
const FAILED_LOOKED_AT: i64 = 500;
/// Most cameras whose pictures are counted; another system may name any number of them.
const MOST_CAMERAS: usize = 256;

/// Pictures accepted since the start, by camera.
#[derive(Debug, Default)]
pub(super) struct CameraCounts(Mutex<BTreeMap<String, u64>>);

impl CameraCounts {
    /// Counts the new images among those accepted.
    pub(super) fn add(&self, cameras: Vec<Option<String>>, accepted: &[Accepted]) {
        let mut counts = self.0.lock();
        for (camera, accepted) in cameras.into_iter().zip(accepted) {
            let Some(camera) = camera.filter(|_| accepted.new) else {
                continue;
            };
            if counts.len() < MOST_CAMERAS || counts.contains_key(&camera) {
                *counts.entry(camera).or_default() += 1;
            }
        }
    }
}

/// Returns the camera of each image.
pub(super) fn cameras_of(images: &[NewImage]) -> Vec<Option<String>> {
    let camera = |image: &NewImage| image.origin.camera.clone();
    images.iter().map(camera).collect()
}

/// Latest images of one source.
#[derive(Debug, PartialEq, Eq)]
pub struct NewestOfSource {
    /// The latest image and its acceptance, wall clock.
    pub last: Option<(ImageId, i64)>,
    /// The latest failed image, the reason, and its acceptance.
    pub failed: Option<(ImageId, String, i64)>,
}

impl Store {
    /// Returns how many pictures were accepted since the start, by camera.
    pub fn camera_pictures(&self) -> BTreeMap<String, u64> {
        self.cameras.0.lock().clone()
    }

    /// Returns the cameras of the newest images, in order of their names.
    pub async fn recent_cameras(&self) -> Result<Vec<String>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT camera FROM (SELECT camera FROM images ORDER BY id DESC LIMIT ?1)
                      WHERE camera IS NOT NULL ORDER BY camera LIMIT ?2",
                )?
                .query_map([LOOKED_AT, MOST_CAMERAS as i64], |row| text(row, 0))?
                .collect()
        })
        .await
    }

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
    use crate::domain::Origin;
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
        assert_eq!(
            store.recent_cameras().await.unwrap(),
            ["front", "front-door"]
        );
        let counted: Vec<_> = store.camera_pictures().into_iter().collect();
        assert_eq!(counted, [("front".into(), 1), ("front-door".into(), 1)]);
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

    #[test]
    fn cameras_are_counted_up_to_a_number_of_names() {
        let counts = CameraCounts::default();
        let new = |new| Accepted { id: 1, new };
        for n in 0..2 * MOST_CAMERAS {
            counts.add(vec![Some(format!("camera-{n}"))], &[new(true)]);
        }
        counts.add(vec![Some("camera-0".into()), None], &[new(true), new(true)]);
        counts.add(vec![Some("camera-1".into())], &[new(false)]);
        let counts = counts.0.into_inner();
        assert_eq!(counts.len(), MOST_CAMERAS);
        assert_eq!((counts["camera-0"], counts["camera-1"]), (2, 1));
    }
}
