//! Sampling of windows, compared with means written out plainly.

use super::*;

fn ramp(width: usize, height: usize) -> Rgb {
    let pixel = |i: usize| {
        [
            (i % width * 7 % 256) as u8,
            (i / width * 5 % 256) as u8,
            (i * 3 % 256) as u8,
        ]
    };
    Rgb::new(width, height, (0..width * height).flat_map(pixel).collect()).unwrap()
}

fn sample(picture: &Rgb, window: Window, width: usize, height: usize) -> Vec<u8> {
    let mut pixels = vec![0; 3 * width * height];
    Pyramid::new(picture).sample(window, width, height, &mut pixels);
    pixels
}

#[test]
fn a_window_of_its_own_size_comes_out_unchanged() {
    let picture = ramp(9, 7);
    let pixels = sample(
        &picture,
        Window {
            left: 0.0,
            top: 0.0,
            width: 9.0,
            height: 7.0,
        },
        9,
        7,
    );
    assert_eq!(pixels, picture.pixels);
}

#[test]
fn an_output_pixel_is_the_mean_of_what_it_covers() {
    let picture = Rgb::new(3, 1, vec![0, 0, 0, 90, 90, 90, 210, 210, 210]).unwrap();
    let pixels = sample(
        &picture,
        Window {
            left: 0.0,
            top: 0.0,
            width: 3.0,
            height: 1.0,
        },
        2,
        1,
    );
    assert_eq!(pixels, [30, 30, 30, 170, 170, 170]);
}

#[test]
fn beyond_the_edge_everything_is_black() {
    let picture = Rgb::new(2, 2, vec![200; 12]).unwrap();
    let pixels = sample(
        &picture,
        Window {
            left: -2.0,
            top: 0.0,
            width: 4.0,
            height: 2.0,
        },
        4,
        2,
    );
    assert_eq!(
        pixels[..12],
        [0, 0, 0, 0, 0, 0, 200, 200, 200, 200, 200, 200]
    );
    let nowhere = sample(
        &picture,
        Window {
            left: 10.0,
            top: -9.0,
            width: 4.0,
            height: 2.0,
        },
        4,
        2,
    );
    assert!(nowhere.iter().all(|v| *v == 0));
}

#[test]
fn halved_copies_change_a_large_reduction_by_one_step_at_most() {
    let pixel = |i: usize| {
        [
            (i % 1203 / 5) as u8,
            (i / 1203 / 4) as u8,
            (i % 1203 / 10 + i / 1203 / 9) as u8,
        ]
    };
    let picture = Rgb::new(1203, 901, (0..1203 * 901).flat_map(pixel).collect()).unwrap();
    let window = Window {
        left: 10.0,
        top: 3.0,
        width: 1100.0,
        height: 880.0,
    };
    let quick = sample(&picture, window, 24, 24);
    let mut exact = vec![0; 3 * 24 * 24];
    Pyramid {
        levels: vec![Cow::Borrowed(&picture)],
    }
    .sample(window, 24, 24, &mut exact);
    for (a, b) in quick.iter().zip(&exact) {
        assert!(a.abs_diff(*b) <= 1, "{a} {b}");
    }
}
