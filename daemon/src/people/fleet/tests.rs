//! Two boards' people with their galleries in memory, which exchange records by function calls.

use std::path::Path;
use std::sync::Arc;

use kith_vision::Pack;

use super::*;
use crate::backup::GALLERY;
use crate::config::Config;
use crate::domain::sha256;
use crate::engines::{Engines, Settings};
use crate::fleet::clock::BoardId;
use crate::people::Matcher;
use crate::status::health::Health;
use crate::store::{EnrolledPicture, Store};

fn people(folder: &Path) -> People {
    let (store, _) = Store::open(folder).unwrap();
    let packs = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs/dlib-mtcnn");
    let matcher = Matcher::new(&Pack::load(packs.as_ref()).unwrap(), Default::default());
    let settings = Settings::of(&Config::default(), folder);
    let (engines, _) = Engines::new(settings, Health::default(), None);
    let people = People::new(store, engines, folder, "board");
    people.matcher.send_replace(Some(Arc::new(matcher)));
    people
}

async fn join(people: &People, number: u8) {
    let membership = Membership {
        name: "home".into(),
        prefix: "kithd".into(),
        broker: "broker:1883".into(),
        secret: [7; 32],
        board: BoardId([number; 8]),
    };
    assert!(people.join_fleet(membership).await.unwrap());
}

/// Gives one board all records that another has not sent yet.
async fn send(from: &People, to: &People) {
    assert!(!from.capture_fleet().await.unwrap().more);
    let unsent = from.store.unsent_fleet_records(100, 1 << 20).await.unwrap();
    let sent = unsent
        .iter()
        .map(|unsent| (unsent.record.kind(), *unsent.record.uid(), unsent.digest));
    from.store.fleet_records_sent(sent.collect()).await.unwrap();
    let records = unsent.into_iter().map(|unsent| unsent.record).collect();
    for taken in to.take_fleet_records(records).await.unwrap() {
        // A tombstone of a person's picture may follow from that of the person.
        assert!(matches!(taken, Taken::New | Taken::Same), "{taken:?}");
    }
}

fn in_gallery(people: &People) -> usize {
    let matcher = people.matcher().unwrap();
    matcher.snapshot().gallery().pictures().count()
}

#[tokio::test]
async fn the_gallery_in_memory_follows_what_the_fleet_says() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, other) = (people(folders[0].path()), people(folders[1].path()));
    join(&one, 1).await;
    join(&other, 2).await;
    let space = one.matcher().unwrap().space().to_string();
    for name in ["Ann", "Bob", "Eve"] {
        let picture = EnrolledPicture {
            image_name: format!("{name}.jpg"),
            sha256: sha256(name.as_bytes()),
            picture: name.as_bytes().to_vec(),
            bounds: [0.0; 4],
            quality: 1.0,
            crop: name.as_bytes().to_vec(),
            embedding: vec![1.0; 128],
            space: space.clone(),
        };
        one.store
            .enroll(name.into(), picture)
            .await
            .unwrap()
            .unwrap();
    }
    send(&one, &other).await;
    assert_eq!(in_gallery(&other), 3);
    // A merge moves a picture, an erasure takes one out, and nothing of it is left in the backup.
    let number = async |name: &str| {
        other
            .store
            .person_named(name.into())
            .await
            .unwrap()
            .unwrap()
    };
    let (bob, eve) = (number("Bob").await, number("Eve").await);
    other.merge(bob, eve).await.unwrap();
    other.forget("Ann").await.unwrap().unwrap();
    send(&other, &one).await;
    assert_eq!(in_gallery(&one), 2);
    let left: Vec<_> = one.store.person_names().await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1, "Eve");
    assert!(one.store.erasing().await.unwrap().is_empty());
    let backup = std::fs::read(folders[0].path().join(GALLERY)).unwrap();
    assert!(!backup.windows(7).any(|bytes| bytes == b"Ann.jpg"));
    // All of it was known to the records.
    assert!(!one.capture_fleet().await.unwrap().did.changed);
    assert!(one.leave_fleet(true).await.unwrap());
    assert!(!one.leave_fleet(true).await.unwrap());
}
