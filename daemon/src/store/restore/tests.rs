//! What comes back from copies of one database into another, and who does not.

use super::*;
use crate::domain::hex;
use crate::store::fixtures::{blob, enroll, image, rows, run, store};
use crate::store::{Changed, prepare_copy, vector_to_blob};

async fn copy_of(store: &Store, folder: &Path) -> PathBuf {
    let copy = folder.join("copy.db");
    let _ = std::fs::remove_file(&copy);
    store.copy_to(copy.clone()).await.unwrap();
    prepare_copy(&copy).unwrap();
    copy
}

#[tokio::test]
async fn people_get_the_numbers_of_this_board_in_everything_that_names_them() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = store(there.path()).await;
    let ann = enroll(&from, "Ann", "a", [1.0, 0.0]).await;
    let bob = enroll(&from, "Bob", "b", [0.0, 1.0]).await;
    run(&from, &image(1, "known", Some(ann), &[ann, bob], [0.9, 0.1])).await;
    run(&from, &image(2, "uncertain", None, &[bob, ann], [0.1, 0.9])).await;
    run(&from, &image(3, "unknown", None, &[ann], [5.0, 5.0])).await;
    run(&from, &format!("INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms) VALUES ({ann}, 's', {}, x'', 1);
        INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms) VALUES (7, 's', x'00', 1, 1, 1, 1);
        INSERT INTO stranger_faces VALUES (3, 1, 7)", blob([7.0, 7.0]))).await;
    let copy = copy_of(&from, there.path()).await;

    let to = store(here.path()).await;
    enroll(&to, "Somebody", "x", [3.0, 3.0]).await;
    let here_bob = enroll(&to, "Bob", "b2", [0.0, 1.1]).await;
    assert_eq!(here_bob, bob);
    run(&to, "INSERT INTO images (id, source, path, accepted_at_ms) VALUES (2, 'http', '/waits', 9)").await;
    let gallery = to.restore_gallery(copy.clone()).await.unwrap();
    assert_eq!((gallery.people, gallery.pictures, gallery.counter_examples), (1, 2, 1));
    let images = to.restore_images(copy.clone(), &gallery).await.unwrap();
    assert_eq!(images, RestoredImages { images: 2, left_out: 1 });
    let here_ann = to.person_named("Ann".into()).await.unwrap().unwrap();
    assert_ne!(here_ann, ann, "her number has been somebody else's here");
    let face = "SELECT person_id || candidates FROM faces WHERE image_id = 1";
    assert_eq!(rows(&to, face).await, [format!("{here_ann}[[{here_ann},0.4],[{here_bob},0.4]]")]);
    let named = "SELECT (payload ->> '$.faces[0].person.person_id') || (payload ->> '$.faces[0].candidates[1].person_id') FROM outbox WHERE image_id = 1";
    assert_eq!(rows(&to, named).await, [format!("{here_ann}{here_bob}")]);
    assert_eq!(rows(&to, "SELECT state || path FROM images WHERE id = 2").await, ["pending/waits"]);
    assert_eq!(rows(&to, "SELECT id || ':' || faces FROM strangers").await, ["7:1"]);
    assert_eq!(rows(&to, "SELECT name FROM person JOIN counter_examples ON person_id = person.id").await, ["Ann"]);
    // Two who were one person by name are one by tombstone too.
    assert_eq!(rows(&to, "SELECT count(*) || '' FROM merged").await, ["1"]);

    // Whoever is erased is erased in what came back, and stays so.
    to.erase_person(here_ann).await.unwrap();
    to.erase_from_results(&to.erasing().await.unwrap()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(
            rows(&to, "SELECT payload FROM outbox WHERE payload LIKE '%Ann%' OR payload LIKE '%P1%'").await,
            [""; 0]
        );
        assert_eq!(
            rows(&to, "SELECT length(crop) || candidates FROM faces WHERE image_id = 1").await,
            [format!("0[[{here_bob},0.4]]")]
        );
        assert_eq!(rows(&to, "SELECT image_id || '' FROM thumbnails").await, ["3"]);
        let again = to.restore_gallery(copy.clone()).await.unwrap();
        assert_eq!((again.people, again.pictures, again.counter_examples), (0, 0, 0));
        let again = to.restore_images(copy.clone(), &again).await.unwrap();
        assert_eq!(again, RestoredImages { images: 0, left_out: 1 });
    }
}

#[tokio::test]
async fn who_a_face_is_not_comes_back_unless_it_is_known_here_or_the_face_was_named_since() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (store(there.path()).await, store(here.path()).await);
    let ann = enroll(&from, "Ann", "a", [1.0, 0.0]).await;
    let not = |crop: &str| {
        format!(
            "INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms) VALUES ({ann}, 's', {}, x'{crop}', 1);",
            blob([7.0, 7.0])
        )
    };
    run(&from, &(not("01") + &not("02") + &not("03"))).await;
    let copy = copy_of(&from, there.path()).await;
    assert_eq!(enroll(&to, "Ann", "a", [1.0, 0.0]).await, ann);
    run(&to, &not("01")).await;
    // Embedded by another model pack since.
    run(&to, "UPDATE counter_examples SET space = 't', vector = x'00000000'").await;
    run(&to, "UPDATE person_images SET crop = x'02'").await;
    assert_eq!(to.restore_gallery(copy).await.unwrap().counter_examples, 1);
    assert_eq!(rows(&to, "SELECT hex(crop) FROM counter_examples ORDER BY id").await, ["01", "03"]);
}

#[tokio::test]
async fn who_is_erased_here_comes_back_in_no_image_that_does() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = store(there.path()).await;
    let ann = enroll(&from, "Ann", "a", [1.0, 0.0]).await;
    let bob = enroll(&from, "Bob", "b", [0.0, 1.0]).await;
    let old = enroll(&from, "Old Ann", "o", [1.0, 0.1]).await;
    run(&from, &image(1, "known", Some(old), &[old, bob], [0.9, 0.1])).await;
    assert_eq!(from.merge_people(old, ann).await.unwrap(), Changed::Done(()));
    from.follow_merges().await.unwrap();
    run(&from, &image(2, "known", Some(bob), &[bob, ann], [0.1, 0.9])).await;
    // Named after the fact: the result that went out says nothing of it.
    run(&from, &image(3, "unknown", None, &[bob], [0.5, 0.5])).await;
    run(
        &from,
        &format!(
            "UPDATE faces SET outcome = 'known', person_id = {ann}, candidates = '[[{ann},0.3]]' WHERE image_id = 3"
        ),
    )
    .await;
    let copy = copy_of(&from, there.path()).await;
    let to = store(here.path()).await;
    to.restore_gallery(copy.clone()).await.unwrap();
    to.erase_person(ann).await.unwrap();
    assert_eq!(rows(&to, "SELECT count(*) || '' FROM erased").await, ["2"], "one for each who were put together");
    let gallery = to.restore_gallery(copy.clone()).await.unwrap();
    assert_eq!(to.restore_images(copy, &gallery).await.unwrap().images, 3);
    let left = "SELECT image_id || candidates || length(crop) || length(embedding) FROM faces ORDER BY image_id";
    assert_eq!(rows(&to, left).await, [format!("1[[{bob},0.4]]00"), format!("2[[{bob},0.4]]112"), "3[]00".into()]);
    assert_eq!(rows(&to, "SELECT image_id || '' FROM thumbnails").await, ["2"]);
    let named = format!("SELECT payload FROM outbox WHERE payload LIKE '%P{ann}%' OR payload LIKE '%P{old}%'");
    assert!(rows(&to, &named).await.is_empty());
}

fn not(person: PersonId, vector: [f32; 2], crop: &str) -> String {
    format!(
        "INSERT INTO counter_examples (person_id, space, vector, crop, created_at_ms) VALUES ({person}, 's', {}, CAST('{crop}' AS BLOB), 1);",
        blob(vector)
    )
}

#[tokio::test]
async fn no_counter_example_comes_back_that_shows_who_is_erased_or_who_is_the_same_person_now() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = store(there.path()).await;
    let ann = enroll(&from, "Ann", "a", [1.0, 0.0]).await;
    let bob = enroll(&from, "Bob", "b", [0.0, 1.0]).await;
    let eve = enroll(&from, "Eve", "e", [1.0, 1.0]).await;
    let old = enroll(&from, "Old Bob", "o", [0.1, 1.0]).await;
    run(&from, "UPDATE person_images SET crop = CAST('of ' || image_name AS BLOB)").await;
    run(&from, &image(1, "known", Some(ann), &[ann], [0.8, 0.0])).await;
    run(&from, &image(2, "uncertain", None, &[ann, bob], [0.7, 0.0])).await;
    run(&from, &image(3, "unknown", None, &[bob], [0.6, 0.0])).await;
    run(&from, &image(4, "known", Some(old), &[old], [0.2, 1.0])).await;
    run(&from, "UPDATE faces SET crop = CAST('face ' || image_id AS BLOB)").await;
    // Of Bob: Ann's picture, its crop, a face of hers, one that may be, its crop, one that was named later; and what
    // shows Old Bob; and two that stay, one of them a picture of Eve.
    let gone = [
        not(bob, [1.0, 0.0], "x"),
        not(bob, [9.1, 0.0], "of a.jpg"),
        not(bob, [0.8, 0.0], "x"),
        not(bob, [0.7, 0.0], "x"),
        not(bob, [9.2, 0.0], "face 2"),
        not(bob, [0.6, 0.0], "x"),
        not(bob, [0.1, 1.0], "x"),
        not(bob, [0.2, 1.0], "x"),
        not(old, [0.0, 1.0], "x"),
    ];
    run(&from, &gone.concat()).await;
    run(&from, &[not(bob, [1.0, 1.0], "of e.jpg"), not(bob, [5.0, 5.0], "y"), not(old, [6.0, 6.0], "z")].concat())
        .await;
    let copy = copy_of(&from, there.path()).await;

    // The copy is of before: then the stranger of the third image was named Ann, Bob and Old Bob were put together, and
    // Ann was erased. One of the counter-examples is here yet.
    let to = from;
    run(&to, "DELETE FROM counter_examples").await;
    run(
        &to,
        &format!(
            "UPDATE faces SET outcome = 'known', person_id = {ann}, candidates = '[[{ann},0.3]]' WHERE image_id = 3"
        ),
    )
    .await;
    assert_eq!(to.merge_people(old, bob).await.unwrap(), Changed::Done(()));
    to.follow_merges().await.unwrap();
    to.erase_person(ann).await.unwrap();
    to.erase_from_results(&to.erasing().await.unwrap()).await.unwrap();
    let gallery = to.restore_gallery(copy.clone()).await.unwrap();
    to.restore_images(copy.clone(), &gallery).await.unwrap();
    let left = "SELECT hex(vector) FROM counter_examples ORDER BY id";
    let of = |vector: [f32; 2]| hex(&vector_to_blob(&vector)).to_uppercase();
    assert_eq!(rows(&to, left).await, [of([1.0, 1.0]), of([5.0, 5.0]), of([6.0, 6.0])]);
    assert_eq!(
        rows(&to, "SELECT DISTINCT person_id FROM counter_examples".replace("person_id", "person_id || ''").as_str())
            .await,
        [bob.to_string()]
    );

    // Elsewhere one of the same name is the same: what they were said not to be here, and are by the copy, goes.
    let new = store(here.path()).await;
    let other = enroll(&new, "Old Bob", "n", [4.0, 4.0]).await;
    run(&new, &[not(other, [0.2, 1.0], ""), not(other, [0.1, 1.0], ""), not(other, [3.0, 3.0], "")].concat()).await;
    let gallery = new.restore_gallery(copy.clone()).await.unwrap();
    new.restore_images(copy, &gallery).await.unwrap();
    let theirs = format!("SELECT hex(vector) FROM counter_examples WHERE person_id = {other} ORDER BY id");
    assert_eq!(rows(&new, &theirs).await, [of([3.0, 3.0]), of([0.0, 1.0]), of([6.0, 6.0])]);
    assert_eq!(eve, 3);
}

#[tokio::test]
async fn faces_of_a_group_that_is_gone_come_back_without_it() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = store(there.path()).await;
    run(&from, &image(1, "unknown", None, &[], [5.0, 5.0])).await;
    run(
        &from,
        "INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms) VALUES (7, 's', x'00', 1, 1, 1, 1);
         INSERT INTO stranger_faces VALUES (1, 1, 7)",
    )
    .await;
    let copy = copy_of(&from, there.path()).await;
    let to = store(here.path()).await;
    let (nobody, none) = (HashMap::new(), HashSet::new());
    let restored = to.write(Urgency::Now, move |here| {
        let copy = open_copy(&copy)?;
        let groups = restore_groups(here, &copy, &nobody)?;
        // Ignored and given up, say, between two operations of the writer.
        here.execute("DELETE FROM strangers", [])?;
        let mut restored = RestoredImages::default();
        restore_image(here, &copy, 1, (&nobody, &none), &groups, &mut restored)?;
        Ok(restored)
    });
    assert_eq!(restored.await.unwrap(), RestoredImages { images: 1, left_out: 0 });
    assert_eq!(rows(&to, "SELECT outcome FROM faces").await, ["unknown"]);
    assert_eq!(rows(&to, "SELECT count(*) || '' FROM stranger_faces").await, ["0"]);
}

#[tokio::test]
async fn who_is_erased_in_the_copy_takes_nobody_along_who_bears_their_name_there() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let to = store(here.path()).await;
    let ann = enroll(&to, "Ann", "a", [1.0, 0.0]).await;
    let first = copy_of(&to, here.path()).await;
    let from = store(there.path()).await;
    from.restore_gallery(first).await.unwrap();
    from.erase_person(ann).await.unwrap();
    let again = enroll(&from, "Ann", "a2", [1.0, 0.1]).await;
    run(&from, &image(1, "known", Some(again), &[again], [0.9, 0.0])).await;
    let copy = copy_of(&from, there.path()).await;
    let gallery = to.restore_gallery(copy.clone()).await.unwrap();
    assert_eq!(gallery.erased_there, [ann]);
    to.erase_person(ann).await.unwrap();
    to.restore_images(copy.clone(), &gallery).await.unwrap();
    assert_eq!(rows(&to, "SELECT length(crop) || '' FROM faces").await, ["0"]);
    // Asked once more, the new one comes.
    assert_eq!(to.restore_gallery(copy).await.unwrap().people, 1);
}
