//! Who is who, by small sets of records; `histories` has large ones.

use super::*;
use crate::fleet::clock::BoardId;
use crate::fleet::record::{Body, Field, PersonBody};

fn stamp(ms: u64) -> Stamp {
    Stamp {
        ms,
        count: 0,
        board: BoardId([0; 8]),
    }
}

fn uid(number: u8) -> Uid {
    let mut uid = [0; 16];
    uid[0] = number;
    uid
}

/// A person enrolled at `ms`, with the merges made by (into, at).
fn person(uid: Uid, ms: u64, name: &str, merges: &[(Uid, u64)]) -> Record {
    let mut body = PersonBody::new(stamp(ms), name.into());
    for (into, at) in merges {
        body.merge_into(*into, stamp(*at));
    }
    Record::new(uid, 0, Body::Person(body)).unwrap()
}

fn erased(uid: Uid) -> Record {
    Record::tombstone(Kind::Person, uid, 0)
}

fn here(shown: &str) -> Option<Who> {
    Some(Who::Here {
        shown: shown.into(),
    })
}

fn merged(number: u8) -> Option<Who> {
    Some(Who::Merged { into: uid(number) })
}

fn who(standing: &Standing, number: u8) -> Option<Who> {
    standing.who(&uid(number)).cloned()
}

#[test]
fn a_chain_of_merges_leads_to_its_last_person() {
    let mut standing = Standing::of(&[
        person(uid(1), 1, "A", &[(uid(2), 10)]),
        person(uid(2), 2, "B", &[(uid(3), 11)]),
        person(uid(3), 3, "C", &[]),
    ]);
    assert_eq!(who(&standing, 1), merged(3));
    assert_eq!(who(&standing, 2), merged(3));
    assert_eq!(who(&standing, 3), here("C"));
    let changed = standing.take(&person(uid(3), 3, "D", &[]));
    assert_eq!(changed, BTreeSet::from([uid(3)]));
    assert_eq!(standing.representative(&uid(1)), Some(uid(3)));
    assert_eq!(standing.representative(&uid(9)), None);
}

#[test]
fn merges_in_a_circle_end_at_the_smallest_number() {
    let standing = Standing::of(&[
        person(uid(3), 1, "C", &[(uid(1), 10)]),
        person(uid(1), 2, "A", &[(uid(2), 11)]),
        person(uid(2), 3, "B", &[(uid(3), 12)]),
        person(uid(4), 3, "D", &[(uid(3), 12)]),
        person(uid(5), 3, "E", &[(uid(5), 12)]),
    ]);
    for number in [2, 3, 4] {
        assert_eq!(who(&standing, number), merged(1));
    }
    assert_eq!(who(&standing, 1), here("A"));
    assert_eq!(who(&standing, 5), here("E"));
}

#[test]
fn the_latest_merge_into_a_known_person_counts() {
    let mut standing = Standing::default();
    standing.take(&person(uid(1), 1, "A", &[(uid(2), 10), (uid(3), 20)]));
    // Neither of them is known yet.
    assert_eq!(who(&standing, 1), here("A"));
    let changed = standing.take(&person(uid(2), 2, "B", &[]));
    assert_eq!(changed, BTreeSet::from([uid(1), uid(2)]));
    assert_eq!(who(&standing, 1), merged(2));
    standing.take(&person(uid(3), 3, "C", &[]));
    assert_eq!(who(&standing, 1), merged(3));
}

#[test]
fn whoever_was_merged_into_an_erased_person_is_erased() {
    let records = [
        person(uid(1), 1, "A", &[(uid(2), 10), (uid(4), 99)]),
        person(uid(2), 2, "B", &[(uid(3), 11)]),
        person(uid(4), 4, "D", &[]),
        erased(uid(3)),
    ];
    let standing = Standing::of(&records);
    for number in [1, 2, 3] {
        assert_eq!(who(&standing, number), Some(Who::Erased), "{number}");
        assert_eq!(standing.representative(&uid(number)), None);
    }
    // The latest merge leads to another one, who stays.
    assert_eq!(who(&standing, 4), here("D"));
    let mut other_order = Standing::default();
    for record in records.iter().rev() {
        other_order.take(record);
    }
    assert_eq!(other_order.who, standing.who);
}

#[test]
fn namesakes_are_told_apart_and_asked_about() {
    let ann = |number: u8, ms: u64, name: &str| person(uid(number), ms, name, &[]);
    let mut standing = Standing::of(&[ann(0x3f, 20, "ANN"), ann(0x01, 10, "Ann")]);
    assert_eq!(who(&standing, 0x01), here("Ann"));
    assert_eq!(who(&standing, 0x3f), here("ANN (3f00)"));
    assert_eq!(standing.questions(), [vec![uid(0x01), uid(0x3f)]]);
    // Enrolled before both.
    let changed = standing.take(&ann(0x77, 5, "ann"));
    assert_eq!(changed, BTreeSet::from([uid(0x01), uid(0x77)]));
    assert_eq!(who(&standing, 0x01), here("Ann (0100)"));
    // A merge and another name are answers.
    standing.take(&person(uid(0x01), 10, "Ann", &[(uid(0x77), 30)]));
    let changed = standing.take(&ann(0x3f, 20, "Anna"));
    assert_eq!(changed, BTreeSet::from([uid(0x3f)]));
    assert!(standing.questions().is_empty());
    let changed = standing.take(&erased(uid(0x77)));
    assert_eq!(changed, BTreeSet::from([uid(0x01), uid(0x77)]));
    let left: Vec<_> = standing.namesakes.keys().collect();
    assert_eq!(left, ["anna"]);
    assert!(standing.tried.is_empty() && standing.tried_for.is_empty());
}

#[test]
fn nobody_is_shown_under_a_name_that_another_has() {
    let mut second = uid(0x3f);
    second[15] = 1;
    let mut standing = Standing::of(&[
        person(uid(1), 1, "Ann", &[]),
        person(uid(0x3f), 2, "Ann", &[]),
        person(second, 3, "Ann", &[]),
        person(uid(0x20), 4, "Ann", &[]),
    ]);
    let whole = "3f000000000000000000000000000000";
    let shown = |standing: &Standing, uid: &Uid| standing.who(uid).cloned();
    assert_eq!(who(&standing, 0x3f), here(&format!("Ann ({whole})")));
    assert_eq!(who(&standing, 0x20), here("Ann (2000)"));
    // A person is given that very name, and then another one.
    let changed = standing.take(&person(uid(5), 9, "ann (2000)", &[]));
    assert_eq!(changed, BTreeSet::from([uid(5), uid(0x20)]));
    assert_eq!(who(&standing, 0x20), here("Ann (20000000)"));
    standing.take(&person(uid(5), 9, &format!("Ann ({whole})"), &[]));
    assert_eq!(who(&standing, 0x20), here("Ann (2000)"));
    assert_eq!(who(&standing, 0x3f), here(&format!("Ann ({whole}-1)")));
    standing.take(&erased(second));
    assert_eq!(shown(&standing, &uid(0x3f)), here("Ann (3f00)"));
}

#[test]
fn a_long_name_is_cut_to_be_told_apart() {
    let long = "ä".repeat(NAME_CHARS);
    let standing = Standing::of(&[person(uid(1), 1, &long, &[]), person(uid(2), 2, &long, &[])]);
    let Some(Who::Here { shown }) = who(&standing, 2) else {
        panic!("{:?}", who(&standing, 2));
    };
    assert_eq!(shown.chars().count(), NAME_CHARS);
    assert!(
        shown.ends_with("ä (02000000000000000000000000000000)"),
        "{shown}"
    );
}

#[test]
fn a_record_of_another_kind_or_known_changes_nothing() {
    let ann = person(uid(1), 1, "Ann", &[]);
    let mut standing = Standing::of([&ann]);
    let mut later = ann.person().unwrap().clone();
    later.name = Field::new(stamp(50), "Ann".into());
    let later = Record::new(uid(1), 0, Body::Person(later)).unwrap();
    for record in [ann, later, Record::tombstone(Kind::Picture, uid(1), 0)] {
        assert!(standing.take(&record).is_empty());
    }
    assert_eq!(who(&standing, 1), here("Ann"));
    assert_eq!(standing.people().count(), 1);
}

#[test]
fn many_namesakes_are_all_told_apart() {
    let mut standing = Standing::default();
    for number in 0..300_u64 {
        let mut uid = [0; 16];
        uid[6..14].copy_from_slice(&number.to_be_bytes());
        standing.take(&person(uid, number, "Ann", &[]));
    }
    let shown: BTreeSet<_> = standing
        .people()
        .map(|(_, who)| format!("{who:?}"))
        .collect();
    assert_eq!(shown.len(), 300);
    assert_eq!(standing.questions()[0].len(), 300);
}
