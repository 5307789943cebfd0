//! Distances and advice for small galleries.

use super::*;

/// People on a line; the numbers are the distances of their pictures from the first one.
fn gallery(people: &[&[f32]]) -> Gallery {
    let mut gallery = Gallery::new(Metric::Euclidean, 2);
    let mut picture = 0;
    for (person, places) in (1..).zip(people) {
        for place in *places {
            picture += 1;
            gallery.push(person, picture, &[*place, 1.0]).unwrap();
        }
    }
    gallery
}

#[test]
fn every_pair_is_counted_as_what_it_is() {
    let distances = Distances::of(&gallery(&[&[0.0, 0.1, 0.3], &[2.0]]), 0.0);
    assert_eq!((distances.genuine_pairs, distances.impostor_pairs), (3, 3));
    for (found, expected) in distances.genuine.iter().zip([0.1, 0.2, 0.3]) {
        assert!((found - expected).abs() < 1e-6);
    }
    let rates = distances.rates(0.25);
    assert!((rates.fnmr - 1.0 / 3.0).abs() < 1e-9 && rates.fmr == 0.0);
    assert_eq!(
        distances.recommended(0.6),
        None,
        "too few pairs to recommend anything"
    );
}

#[test]
fn the_advice_lies_between_people_and_strangers() {
    let people: [&[f32]; 3] = [
        &[0.0, 0.05, 0.1, 0.15, 0.2],
        &[1.0, 1.05, 1.1, 1.15, 1.2],
        &[2.0, 2.1],
    ];
    let distances = Distances::of(&gallery(&people), 0.0);
    for present in [0.1, 0.9] {
        let recommended = distances.recommended(present).unwrap();
        assert!(
            (0.2..0.8).contains(&recommended.threshold),
            "{recommended:?}"
        );
        assert_eq!((recommended.fmr, recommended.fnmr), (0.0, 0.0));
    }
    for present in [0.25, 0.5, 0.75] {
        assert_eq!(
            distances.recommended(present).unwrap().threshold,
            present,
            "it does as well"
        );
    }
    for kind in [&distances.genuine, &distances.impostors] {
        assert!((distances.histogram(kind).iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
    let curve = distances.curve();
    assert!(curve.is_sorted_by(|a, b| a.fmr <= b.fmr && a.fnmr >= b.fnmr));
    assert_eq!((curve[STEPS - 1].fmr, curve[STEPS - 1].fnmr), (1.0, 0.0));
}

#[test]
fn identical_pairs_and_too_few_people_give_no_advice() {
    let row = [0.0, 0.3, 0.6, 0.9, 1.2];
    let far = |from: f32| row.map(|place| place + from);
    let alike = Distances::of(&gallery(&[&row, &far(9.0), &[20.0, 20.1]]), 0.6);
    assert_eq!(
        (alike.genuine_pairs, alike.genuine.len(), alike.people),
        (21, 20, 2)
    );
    assert_eq!(alike.recommended(0.6), None);
    let enough = Distances::of(&gallery(&[&row, &far(9.0), &[20.0, 20.3]]), 0.6);
    assert_eq!((enough.genuine.len(), enough.people), (21, 3));
    assert!(enough.recommended(0.6).is_some());
}

/// The advice is the same each time.
#[test]
fn of_very_many_pairs_the_same_sample_is_drawn_each_time() {
    let mut gallery = Gallery::new(Metric::Euclidean, 2);
    for picture in 0..3000 {
        let person = picture % 4;
        gallery
            .push(
                person,
                picture,
                &[person as f32 + (picture % 97) as f32 / 970.0, 1.0],
            )
            .unwrap();
    }
    let distances = Distances::of(&gallery, 0.0);
    assert!(distances.genuine.len() <= MOST_PAIRS + 4 && distances.impostors.len() == MOST_PAIRS);
    assert_eq!(distances, Distances::of(&gallery, 0.0));
    assert!(*distances.genuine.last().unwrap() < 0.11 && distances.impostors[0] > 0.89);
}

#[test]
fn a_picture_is_called_redundant_an_outlier_or_a_lookalike() {
    let gallery = gallery(&[&[0.0, 0.01, 0.4, 2.0], &[5.0, 7.5], &[7.6]]);
    let of = |person| remarks(&gallery, person, 0.6, 0.6);
    let [
        (2, Remark::Redundant { like: 1, .. }),
        (4, Remark::Outlier { .. }),
    ] = of(1)[..]
    else {
        panic!("{:?}", of(1))
    };
    let [
        (5, Remark::Outlier { .. }),
        (6, Remark::LooksLike { person: 3, .. }),
    ] = of(2)[..]
    else {
        panic!("{:?}", of(2))
    };
    assert_eq!(of(9), []);
}
