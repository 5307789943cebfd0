//! P-Net in tiles and in one piece, and the arithmetic of boxes.

use super::*;
use crate::Rgb;
use crate::manifest::DetectorSpec;

#[test]
fn levels_are_cut_where_p_net_finds_the_same_in_the_tiles() {
    // 67 cells make pieces of 23. Each piece begins at an even row and ends with the last row
    // that its 23rd cell covers.
    let pieces = |side, most| {
        Tile::cut_side(side, most)
            .iter()
            .map(|r| (r.start, r.end))
            .collect::<Vec<_>>()
    };
    assert_eq!(pieces(144, 30), [(0, 56), (46, 102), (92, 144)]);
    assert_eq!(pieces(145, 30), [(0, 56), (46, 102), (92, 145)]);
    assert_eq!(pieces(144, 67), [(0, 144)]);
    assert_eq!(pieces(12, 30), [(0, 12)]);
    let tiles = Tile::cut([1000, 200], 1.0);
    assert_eq!(tiles.len(), 9);
    assert_eq!(
        (tiles[4].columns.clone(), tiles[4].rows.clone()),
        (330..670, 64..138)
    );
}

#[test]
fn p_net_finds_the_same_in_tiles_as_in_the_whole_level() {
    let pack =
        Pack::load(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packs/dlib-mtcnn"))
            .unwrap();
    let DetectorSpec::Mtcnn(spec) = &pack.manifest.detector else {
        panic!("the bundled pack has another detector")
    };
    let mtcnn = Mtcnn::load(&pack, spec).unwrap();
    let picture = image::load_from_memory(&pack.self_test_picture().unwrap())
        .unwrap()
        .into_rgb8();
    let picture = Rgb::new(
        picture.width() as usize,
        picture.height() as usize,
        picture.into_raw(),
    )
    .unwrap();
    let pyramid = Pyramid::new(&picture);
    // With odd sides, pooling makes half a cell at both ends.
    for level in [[515, 301], [400, 400]] {
        let scale = level[0] as f64 / picture.width as f64;
        let whole = Tile {
            level,
            scale,
            columns: 0..level[0],
            rows: 0..level[1],
        };
        let tiles = Tile::cut(level, scale);
        assert!(tiles.len() > 4);
        let found = |tile: &Tile| mtcnn.propose_in(&pyramid, tile).unwrap();
        let by_place = |mut found: Vec<Candidate>| {
            found.sort_by(|a, b| {
                a.bounds
                    .top
                    .total_cmp(&b.bounds.top)
                    .then(a.bounds.left.total_cmp(&b.bounds.left))
            });
            found
                .iter()
                .map(|one| (one.bounds, one.score, one.shift))
                .collect::<Vec<_>>()
        };
        let (expected, got) = (
            by_place(found(&whole)),
            by_place(tiles.iter().flat_map(found).collect()),
        );
        assert!(expected.len() > 20, "only {} proposals", expected.len());
        assert_eq!(got, expected);
    }
}

#[test]
fn squaring_keeps_the_middle_and_the_longer_side() {
    let square = squared(Bounds {
        left: 10.0,
        top: 0.0,
        right: 20.0,
        bottom: 40.0,
    });
    assert_eq!(
        square,
        Bounds {
            left: -5.0,
            top: 0.0,
            right: 35.0,
            bottom: 40.0
        }
    );
}

#[test]
fn landmarks_are_read_as_five_across_then_five_down() {
    let points = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
    let bounds = Bounds {
        left: 11.0,
        top: 21.0,
        right: 20.0,
        bottom: 30.0,
    };
    let face = Candidate {
        bounds,
        score: 0.9,
        shift: [0.0; 4],
        points,
        mirrored: false,
    }
    .detection();
    assert_eq!(face.landmarks[0], [11.0, 26.0]);
    assert_eq!(face.landmarks[4], [15.0, 30.0]);
}
