//! Erasing and merging people while results that were matched before are still to be stored.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kith_vision::Pack;
use rusqlite::Connection;

use super::*;
use crate::config::Config;
use crate::domain::{
    Claimed, EngineRole, Identified, IdentifiedFace, NamedCandidate, NewImage, Outcome, Source,
};
use crate::engines::{self, Engines};
use crate::queue::{Queue, Rules};
use crate::store::{EnrolledPicture, Store};

/// Results of each person in each of three parts: before, during and after the changes.
const RESULTS: usize = 8;

fn face(person: &NamedCandidate, other: &NamedCandidate) -> IdentifiedFace {
    IdentifiedFace {
        bounds: [0.0; 4],
        landmarks: [[0.0; 2]; 5],
        score: 1.0,
        quality: 1.0,
        objection: None,
        outcome: Outcome::Known,
        person: Some(person.clone()),
        distance: person.distance,
        margin: None,
        candidates: vec![person.clone(), other.clone()],
        embedding: vec![0.5; 128],
        crop: vec![2],
        enrolled_image: None,
    }
}

#[tokio::test]
async fn a_result_matched_before_a_change_names_no_one_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(folder.path()).unwrap();
    let packs = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/packs/dlib-mtcnn");
    let matcher = Matcher::new(&Pack::load(packs.as_ref()).unwrap(), Default::default());
    let space = matcher.space().to_string();
    let settings = engines::Settings::of(&Config::default(), folder.path());
    let (engines, _) = Engines::new(settings, Health::default(), None);
    let people = People::new(store.clone(), engines, folder.path(), "board");
    people.matcher.send_replace(Some(Arc::new(matcher)));
    let queue = Queue::open(store.clone(), Rules::for_tests())
        .await
        .unwrap();
    queue.recover().await.unwrap();

    let mut named = Vec::new();
    for name in ["Ann", "Bob", "Eve"] {
        let picture = EnrolledPicture {
            image_name: format!("{name}.jpg"),
            sha256: name.into(),
            picture: name.as_bytes().to_vec(),
            bounds: [0.0; 4],
            quality: 1.0,
            crop: name.as_bytes().to_vec(),
            embedding: vec![1.0; 128],
            space: space.clone(),
        };
        let enrolled = store.enroll(name.into(), picture).await.unwrap().unwrap();
        named.push(NamedCandidate {
            person_id: enrolled.person_id,
            name: name.into(),
            distance: Some(0.5),
        });
    }
    let (ann, bob, eve) = (&named[0], &named[1], &named[2]);
    let images: Vec<_> = (0..6 * RESULTS)
        .map(|number| NewImage::path(Source::Http, format!("/{number}")))
        .collect();
    queue.submit(images).await.unwrap();
    let claimed = queue.claim(6 * RESULTS, true).await.unwrap().images;
    assert_eq!(claimed.len(), 6 * RESULTS);
    // Every image is matched now. Odd ones show Ann, even ones show Bob.
    let finish = |claimed: Vec<Claimed>| {
        let finishing: FuturesUnordered<_> = claimed
            .into_iter()
            .map(|claimed| {
                let of_ann = claimed.id % 2 == 1;
                let identified = Identified {
                    outcome: Outcome::Known,
                    size: None,
                    faces: vec![if of_ann {
                        face(ann, bob)
                    } else {
                        face(bob, ann)
                    }],
                    thumbnail: vec![1],
                    remark: None,
                    engine: "test".into(),
                    role: EngineRole::Primary,
                    space: space.clone(),
                    timings: None,
                    picture_key: "key".into(),
                };
                let queue = &queue;
                async move { queue.finish(claimed, identified).await.unwrap() }
            })
            .collect();
        finishing.all(async |finished| finished)
    };
    let change = async {
        let forgotten = people.forget("Ann").await.unwrap().unwrap();
        assert!(!forgotten.rest_follows);
        let merged = people.merge(bob.person_id, eve.person_id).await.unwrap();
        assert_eq!(merged, PersonChange::Done);
    };
    let mut before = claimed;
    let after = before.split_off(4 * RESULTS);
    let during = before.split_off(2 * RESULTS);
    assert!(finish(before).await);
    let (finished, ()) = tokio::join!(finish(during), change);
    assert!(finished && finish(after).await);

    store.settle().await.unwrap();
    let database = Connection::open(folder.path().join("kithd.db")).unwrap();
    let count = |sql: &str| -> usize { database.query_row(sql, [], |row| row.get(0)).unwrap() };
    let all = 3 * RESULTS;
    let faces = "SELECT count(*) FROM faces WHERE candidates =";
    let only_eve = format!("'[[{},0.5]]'", eve.person_id);
    // A face of Ann keeps no trace of her; the face of Bob is Eve's.
    assert_eq!(
        count(&format!(
            "{faces} {only_eve} AND person_id IS NULL AND length(crop) = 0 AND length(embedding) = 0"
        )),
        all
    );
    assert_eq!(
        count(&format!(
            "{faces} {only_eve} AND person_id = {} AND length(crop) > 0",
            eve.person_id
        )),
        all
    );
    assert_eq!(count("SELECT count(*) FROM thumbnails"), all);
    assert_eq!(count("SELECT count(*) FROM results"), 2 * all);
    // Results about Ann are withdrawn.
    assert_eq!(count("SELECT count(*) FROM outbox"), all);
    assert_eq!(
        count("SELECT count(*) FROM outbox WHERE payload LIKE '%Ann%'"),
        0
    );
}
