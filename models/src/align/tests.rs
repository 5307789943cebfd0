//! Similarities and the crops that they cut.

use super::*;

const TEMPLATE: [[f32; 2]; 5] = [
    [47.55, 46.60],
    [100.48, 46.60],
    [74.01, 76.56],
    [50.41, 103.02],
    [97.61, 103.02],
];

fn moved(by: &Similarity) -> [[f32; 2]; 5] {
    TEMPLATE.map(|[x, y]| {
        let (x, y) = by.apply(f64::from(x), f64::from(y));
        [x as f32, y as f32]
    })
}

#[test]
fn a_similarity_is_found_again_exactly() {
    for degrees in [0.0_f64, 7.0, 45.0, 90.0, 180.0, 300.0] {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let truth = Similarity {
            a: 1.7 * cos,
            b: 1.7 * sin,
            tx: 300.0,
            ty: -20.0,
        };
        let found = Similarity::between(&moved(&truth), &TEMPLATE)
            .unwrap()
            .inverse();
        for (a, b) in [(found.a, truth.a), (found.b, truth.b)] {
            assert!((a - b).abs() < 1e-6, "{found:?} {truth:?}");
        }
        for (a, b) in [(found.tx, truth.tx), (found.ty, truth.ty)] {
            assert!((a - b).abs() < 1e-4, "{found:?} {truth:?}");
        }
    }
}

#[test]
fn no_small_change_of_the_similarity_fits_noisy_points_better() {
    let noisy = [
        [3.0, 1.0],
        [-2.0, 4.0],
        [0.5, -1.0],
        [2.0, 2.0],
        [-1.0, -3.0],
    ];
    let from: [[f32; 2]; 5] =
        std::array::from_fn(|i| [TEMPLATE[i][0] + noisy[i][0], TEMPLATE[i][1] + noisy[i][1]]);
    let best = Similarity::between(&from, &TEMPLATE).unwrap();
    let error = |s: &Similarity| -> f64 {
        let square = |(p, q): (&[f32; 2], &[f32; 2])| {
            let (x, y) = s.apply(f64::from(p[0]), f64::from(p[1]));
            (x - f64::from(q[0])).powi(2) + (y - f64::from(q[1])).powi(2)
        };
        from.iter().zip(&TEMPLATE).map(square).sum()
    };
    for d in [-1e-3, 1e-3] {
        for other in [
            Similarity {
                a: best.a + d,
                ..best
            },
            Similarity {
                b: best.b + d,
                ..best
            },
            Similarity {
                tx: best.tx + d,
                ..best
            },
            Similarity {
                ty: best.ty + d,
                ..best
            },
        ] {
            assert!(error(&other) > error(&best));
        }
    }
}

#[test]
fn points_in_one_spot_give_no_similarity() {
    assert!(Similarity::between(&[[5.0, 5.0]; 5], &TEMPLATE).is_none());
}

#[test]
fn a_face_already_in_place_is_copied_pixel_by_pixel() {
    let pixels = (0..150 * 150 * 3).map(|i| (i * 31 % 251) as u8).collect();
    let picture = Rgb::new(150, 150, pixels).unwrap();
    let crop = cut(
        &Pyramid::new(&picture),
        &Similarity {
            a: 1.0,
            b: 0.0,
            tx: 0.0,
            ty: 0.0,
        },
        150,
    );
    assert_eq!(crop, picture);
}

#[test]
fn halving_first_does_not_move_a_large_face() {
    let ramp = |w: usize, h: usize| {
        (0..w * h)
            .flat_map(|i| [(i % w / 4) as u8, (i / w / 4) as u8, 0])
            .collect()
    };
    let picture = Rgb::new(800, 800, ramp(800, 800)).unwrap();
    let crop = cut(
        &Pyramid::new(&picture),
        &Similarity {
            a: 0.2,
            b: 0.0,
            tx: 0.0,
            ty: 0.0,
        },
        150,
    );
    for (u, v) in [(10, 10), (75, 20), (140, 149)] {
        let at = 3 * (v * 150 + u);
        // Crop pixel u shows picture pixel 5u, whose value is 5u / 4.
        assert!((f64::from(crop.pixels[at]) - 5.0 * u as f64 / 4.0).abs() <= 1.0);
        assert!((f64::from(crop.pixels[at + 1]) - 5.0 * v as f64 / 4.0).abs() <= 1.0);
    }
}

#[test]
fn a_crop_beyond_the_edge_is_black_there() {
    let picture = Rgb::new(50, 50, vec![255; 7500]).unwrap();
    let crop = cut(
        &Pyramid::new(&picture),
        &Similarity {
            a: 1.0,
            b: 0.0,
            tx: 100.0,
            ty: 0.0,
        },
        150,
    );
    assert_eq!(crop.pixels[..3], [0, 0, 0]);
    assert_eq!(crop.pixels[3 * 120..3 * 120 + 3], [255, 255, 255]);
}
