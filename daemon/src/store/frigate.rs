//! SQL of Frigate's events: their images, and which of those were considered for a sub label.

use rusqlite::params;

use super::{Commit, Store, StoreError, text};
use crate::domain::ImageId;

/// Images of one query.
const BATCH: i64 = 200;

/// A known image of an event that was not considered for a sub label yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Unlabelled {
    /// Image.
    pub image: ImageId,
    /// Its event.
    pub event: String,
    /// Name of the person of its best face; `None` if several people are known in it.
    pub name: Option<String>,
    /// Distance of that face.
    pub distance: f64,
    /// Highest score that was sent for this event.
    pub sent: Option<f64>,
}

impl Store {
    /// Returns known images that were not considered for a sub label yet, oldest first.
    pub async fn unlabelled(&self) -> Result<Vec<Unlabelled>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT images.id, images.event,
                            iif((SELECT count(DISTINCT others.person_id) FROM faces AS others
                                  WHERE others.image_id = images.id AND others.outcome = 'known') = 1,
                                person.name, NULL),
                            faces.distance,
                            (SELECT max(score) FROM frigate_labels JOIN images AS same ON same.id = image_id
                              WHERE same.event = images.event)
                       FROM images
                       JOIN faces ON faces.image_id = images.id AND faces.number = 1
                       JOIN person ON person.id = faces.person_id
                      WHERE images.source = 'frigate' AND images.outcome = 'known' AND images.event IS NOT NULL
                        AND NOT EXISTS (SELECT 1 FROM frigate_labels WHERE image_id = images.id)
                      ORDER BY images.id LIMIT ?1",
                )?
                .query_map([BATCH], |row| {
                    Ok(Unlabelled {
                        image: row.get(0)?,
                        event: text(row, 1)?,
                        name: row.get(2)?,
                        distance: row.get::<_, Option<f64>>(3)?.unwrap_or(f64::MAX),
                        sent: row.get(4)?,
                    })
                })?
                .collect()
        })
        .await
    }

    /// Notes that images were considered for a sub label, and the score that was sent for one.
    pub async fn labelled(
        &self,
        images: Vec<ImageId>,
        sent: Option<(ImageId, f64)>,
    ) -> Result<(), StoreError> {
        self.write(Commit::Deferred, move |connection| {
            let mut insert = connection
                .prepare_cached("INSERT OR REPLACE INTO frigate_labels (image_id, score) SELECT id, ?2 FROM images WHERE id = ?1")?;
            for image in &images {
                let score = sent.filter(|(best, _)| best == image).map(|(_, score)| score);
                insert.execute(params![image, score])?;
            }
            Ok(())
        })
        .await
    }

    /// Counts the images of an event.
    pub async fn images_of_event(&self, event: &str) -> Result<u32, StoreError> {
        let event = event.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT count(*) FROM images WHERE event = ?1 AND source = 'frigate'",
                )?
                .query_row([event], |row| row.get(0))
        })
        .await
    }
}
