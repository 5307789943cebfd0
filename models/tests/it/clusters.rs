//! Groups of faces: ids stay stable while faces come, go and groups merge; and clustering of real
//! photographs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use kith_vision::{Centroid, Clusters, MOST_AVERAGED, Metric, Pack, Precision, VisionError};

use crate::shared::{analyse, bundled, bundled_pack, crate_folder, read, shared};

/// A small generator with a fixed seed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn around(&mut self, centre: &[f32], spread: f32) -> Vec<f32> {
        centre
            .iter()
            .map(|value| value + spread * (self.next() as f32 / (1_u64 << 30) as f32 - 1.0))
            .collect()
    }
}

/// Stands in for the caller: keeps faces with their groups, and numbers new groups.
struct Kept {
    groups: Clusters,
    next: i64,
    /// The group of each face, and the group that a merged one became.
    of_face: Vec<i64>,
    became: HashMap<i64, i64>,
}

impl Kept {
    fn new() -> Self {
        Self::of(64, 0.5)
    }

    /// For embeddings of the bundled pack.
    fn of_the_pack() -> Self {
        let pack = Pack::load(&bundled_pack()).unwrap();
        Self::of(pack.dimension(), pack.matching().linking_distance())
    }

    fn of(dimension: usize, linking: f32) -> Self {
        let groups = Clusters::new(Metric::Euclidean, dimension, linking);
        Self {
            groups,
            next: 1,
            of_face: Vec::new(),
            became: HashMap::new(),
        }
    }

    fn add(&mut self, face: &[f32]) -> i64 {
        let mut id = match self.groups.nearest(face).unwrap() {
            Some(id) => {
                let centroid = self.groups.centroid_with(id, face).unwrap();
                self.groups.set(id, centroid).unwrap();
                id
            }
            None => {
                let id = self.next;
                self.next += 1;
                self.groups
                    .set(id, Centroid::of(Metric::Euclidean, [face]).unwrap())
                    .unwrap();
                id
            }
        };
        while let Some((other, centroid)) = self.groups.alike(id) {
            let (keep, gone) = (id.min(other), id.max(other));
            self.groups.remove(gone);
            self.groups.set(keep, centroid).unwrap();
            self.became.insert(gone, keep);
            id = keep;
        }
        self.of_face.push(id);
        id
    }

    fn now(&self, mut id: i64) -> i64 {
        while let Some(next) = self.became.get(&id) {
            id = *next;
        }
        id
    }
}

#[test]
fn a_face_stays_in_its_group_unless_that_merges_into_a_lower() {
    for seed in 0..12 {
        let mut random = Random(seed);
        let people: Vec<_> = (0..20).map(|_| random.around(&[0.0; 64], 0.2)).collect();
        let mut kept = Kept::new();
        let mut first_number = HashMap::new();
        for face in 0..600 {
            let person = random.next() as usize % people.len();
            let spread = 0.02 + 0.05 * (random.next() % 3) as f32;
            let embedding = random.around(&people[person], spread);
            let id = kept.add(&embedding);
            assert!(id < kept.next && kept.groups.centroid(id).is_some());
            first_number.entry(face).or_insert(id);
            if random.next().is_multiple_of(50) {
                // Everybody in the group was erased; its id must not be used again.
                kept.groups.remove(id);
                let next = kept.next;
                assert_ne!(kept.add(&embedding), id, "a number was used twice");
                assert!(kept.next >= next);
            }
        }
        for (gone, keep) in &kept.became {
            assert!(keep < gone, "{gone} became {keep}");
            assert!(kept.groups.centroid(*gone).is_none());
        }
        for (face, first) in &first_number {
            assert!(kept.now(*first) <= *first, "face {face}");
        }
        assert!(kept.groups.ids().all(|id| kept.now(id) == id));
    }
}

#[test]
fn distant_people_are_told_apart_also_by_groups_from_a_store() {
    let mut random = Random(5);
    let people: Vec<_> = (0..10).map(|_| random.around(&[0.0; 64], 0.4)).collect();
    let mut kept = Kept::new();
    let mut of_person: HashMap<usize, i64> = HashMap::new();
    let face = |random: &mut Random, person: usize| random.around(&people[person], 0.04);
    for _ in 0..1000 {
        let person = random.next() as usize % people.len();
        let id = kept.add(&face(&mut random, person));
        assert_eq!(*of_person.entry(person).or_insert(id), id);
    }
    assert_eq!((kept.groups.len(), kept.next), (10, 11));
    assert!(
        kept.groups
            .ids()
            .all(|id| kept.groups.centroid(id).unwrap().count == MOST_AVERAGED),
        "shaped by enough"
    );
    let mut loaded = Clusters::new(Metric::Euclidean, 64, 0.5);
    let mut ids: Vec<_> = kept.groups.ids().collect();
    ids.reverse();
    for id in ids {
        loaded
            .set(id, kept.groups.centroid(id).unwrap().clone())
            .unwrap();
    }
    for person in 0..people.len() {
        let probe = face(&mut random, person);
        assert_eq!(loaded.nearest(&probe).unwrap(), Some(of_person[&person]));
        assert_eq!(
            kept.groups.nearest(&probe).unwrap(),
            Some(of_person[&person])
        );
    }
}

/// Embeddings that cannot be compared are refused.
#[test]
fn two_halves_of_a_person_become_one_group() {
    let mut groups = Clusters::new(Metric::Euclidean, 2, 0.5);
    let centroid = |x: f32| Centroid {
        sum: vec![4.0 * x, 4.0],
        count: 4,
    };
    groups.set(7, centroid(0.0)).unwrap();
    groups.set(3, centroid(0.34)).unwrap();
    groups.set(5, centroid(2.0)).unwrap();
    let (other, both) = groups.alike(7).unwrap();
    assert_eq!((other, both.count), (3, 8));
    assert_eq!(groups.alike(5), None);
    groups.remove(3);
    assert_eq!(groups.alike(7), None);
    assert_eq!(groups.nearest(&[0.0, 1.1]).unwrap(), Some(7));
    assert_eq!(groups.nearest(&[1.0, 1.0]).unwrap(), None);
    assert!(matches!(
        groups.nearest(&[1.0]),
        Err(VisionError::Dimension { .. })
    ));
    assert!(
        groups
            .set(
                9,
                Centroid {
                    sum: vec![1.0],
                    count: 1
                }
            )
            .is_err()
    );
    assert_eq!((groups.len(), groups.is_empty()), (2, false));
}

#[test]
fn of_a_hundred_thousand_groups_the_right_one_is_found() {
    let mut random = Random(9);
    let mut groups = Clusters::new(Metric::Euclidean, 128, 0.5);
    let people: Vec<_> = (0..100_000)
        .map(|_| random.around(&[0.0; 128], 0.2))
        .collect();
    for (id, person) in (1..).zip(&people) {
        groups
            .set(
                id,
                Centroid {
                    sum: person.clone(),
                    count: 1,
                },
            )
            .unwrap();
    }
    let begun = std::time::Instant::now();
    for id in (1..100_000).step_by(9_999) {
        let probe = random.around(&people[id as usize - 1], 0.03);
        assert_eq!(groups.nearest(&probe).unwrap(), Some(id));
    }
    println!(
        "one face against 100 000 groups: {:?}",
        begun.elapsed() / 11
    );
}

#[test]
fn photographs_of_three_people_make_three_groups_in_any_order() {
    let folder = crate_folder().join("../daemon/tests/photos");
    let vision = bundled(Precision::Int8);
    let names = [
        "astronaut_1",
        "obama_1",
        "biden_1",
        "astronaut_2",
        "obama_2",
        "biden_2",
    ];
    let embed = |name: &&str| {
        let analysis = analyse(vision, &read(&folder.join(format!("{name}.jpg"))));
        analysis.faces.into_iter().next().unwrap().embedding
    };
    let faces: Vec<_> = names.iter().map(embed).collect();
    let mut random = Random(2);
    for _ in 0..50 {
        let (mut kept, mut of_person) = (Kept::of_the_pack(), HashMap::new());
        let mut order: Vec<usize> = (0..faces.len()).collect();
        order.sort_by_cached_key(|_| random.next());
        for at in &order {
            let id = kept.add(&faces[*at]);
            assert_eq!(
                *of_person.entry(at % 3).or_insert(id),
                id,
                "{} in {order:?}",
                names[*at]
            );
        }
        assert_eq!(kept.groups.len(), 3, "{order:?}");
    }
}

/// Returns B-cubed precision and recall: the share of a face's group that is the same person, and
/// the share of the person's faces that are in the group, both averaged over the faces.
fn b_cubed(groups: &[i64], people: &[usize]) -> (f64, f64) {
    let share = |same: &dyn Fn(usize, usize) -> bool| {
        let of = |face: usize| {
            let others = (0..people.len()).filter(|other| same(face, *other));
            let (both, all) = others.fold((0, 0), |(both, all), other| {
                (
                    both + usize::from(
                        groups[face] == groups[other] && people[face] == people[other],
                    ),
                    all + 1,
                )
            });
            f64::from(both as u32) / f64::from(all as u32)
        };
        (0..people.len()).map(of).sum::<f64>() / people.len() as f64
    };
    (
        share(&|a, b| groups[a] == groups[b]),
        share(&|a, b| people[a] == people[b]),
    )
}

/// Groups faces of numbered people in five shuffled orders and returns the mean B-cubed precision and
/// recall, after printing them.
fn grouped(what: &str, faces: &[(usize, Vec<f32>)]) -> (f64, f64) {
    const ORDERS: u64 = 5;
    let (mut precision, mut recall, mut groups) = (0.0, 0.0, 0);
    for order in 1..=ORDERS {
        let mut random = Random(order);
        let mut faces = faces.to_vec();
        faces.sort_by_cached_key(|_| random.next());
        let mut kept = Kept::of_the_pack();
        for (_, face) in &faces {
            kept.add(face);
        }
        let of_face: Vec<_> = kept.of_face.iter().map(|id| kept.now(*id)).collect();
        let people: Vec<_> = faces.iter().map(|(person, _)| *person).collect();
        let both = b_cubed(&of_face, &people);
        (precision, recall) = (precision + both.0, recall + both.1);
        groups += kept.groups.len();
    }
    let mean = |sum: f64| sum / ORDERS as f64;
    println!(
        "{what}, {} faces: B-cubed precision {:.3}, recall {:.3}, {:.0} groups",
        faces.len(),
        mean(precision),
        mean(recall),
        mean(groups as f64)
    );
    (mean(precision), mean(recall))
}

/// Returns the most prominent face of each picture, with its person's number.
fn first_faces(pictures: impl Iterator<Item = (usize, PathBuf)>) -> Vec<(usize, Vec<f32>)> {
    let vision = bundled(Precision::Int8);
    pictures
        .filter_map(|(person, picture)| {
            let face = analyse(vision, &read(&picture)).faces.into_iter().next()?;
            Some((person, face.embedding))
        })
        .collect()
}

#[test]
fn labelled_photographs_are_grouped_by_person() {
    let Some(folder) = shared("grouping test", "faces") else {
        return;
    };
    let full = std::env::var_os("KITHD_FULL").is_some();
    let files = |folder: &Path| {
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    };
    let people = files(&folder.join("labelled"));
    let most = if full { usize::MAX } else { 3 };
    let pictures = people.iter().enumerate().flat_map(|(person, folder)| {
        let pictures = files(folder).into_iter().take(most);
        pictures.map(move |picture| (person, picture))
    });
    let mut faces = first_faces(pictures);
    let (precision, recall) = grouped(&format!("{} labelled people", people.len()), &faces);
    assert!(precision > 0.94 && recall > 0.88, "{precision} {recall}");
    if full {
        let mut numbers = HashMap::new();
        let portraits = files(&folder.join("lfw-dev"));
        let portraits = portraits
            .iter()
            .filter(|file| file.extension() == Some("jpg".as_ref()));
        let portraits = first_faces(portraits.map(|file| {
            let stem = file.file_stem().unwrap().to_str().unwrap();
            let name = stem.rsplit_once('_').unwrap().0.to_owned();
            let next = people.len() + numbers.len();
            (*numbers.entry(name).or_insert(next), file.clone())
        }));
        let lfw = grouped(&format!("{} people of LFW", numbers.len()), &portraits);
        faces.extend(portraits);
        let all = grouped("all in one", &faces);
        assert!(lfw.0 > 0.94 && all.0 > 0.88, "{lfw:?} {all:?}");
    }
}
