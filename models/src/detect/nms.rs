//! Non-maximum suppression: keeps only the surest of overlapping boxes.

use crate::Bounds;

/// Measure of the overlap of two boxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// Intersection over union.
    Union,
    /// Intersection over the smaller box, which also drops a box inside another.
    Smaller,
}

/// A box with the network's score.
pub(crate) trait Scored {
    fn bounds(&self) -> Bounds;
    fn score(&self) -> f32;
}

/// Keeps the surest box of every cluster, the surest first. `extra` is added to each side: 1 if
/// coordinates name the last pixel inside, 0 if they name edges.
pub(crate) fn suppress<T: Scored>(
    mut boxes: Vec<T>,
    limit: f32,
    overlap: Overlap,
    extra: f32,
) -> Vec<T> {
    boxes.sort_by(|a, b| b.score().total_cmp(&a.score()));
    let mut kept: Vec<T> = Vec::new();
    for candidate in boxes {
        if kept
            .iter()
            .all(|better| share(better.bounds(), candidate.bounds(), overlap, extra) <= limit)
        {
            kept.push(candidate);
        }
    }
    kept
}

fn share(a: Bounds, b: Bounds, overlap: Overlap, extra: f32) -> f32 {
    let width = (a.right.min(b.right) - a.left.max(b.left) + extra).max(0.0);
    let height = (a.bottom.min(b.bottom) - a.top.max(b.top) + extra).max(0.0);
    let shared = width * height;
    let area = |r: Bounds| (r.right - r.left + extra) * (r.bottom - r.top + extra);
    shared
        / match overlap {
            Overlap::Union => area(a) + area(b) - shared,
            Overlap::Smaller => area(a).min(area(b)),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain(f32, [f32; 4]);

    impl Scored for Plain {
        fn bounds(&self) -> Bounds {
            let [left, top, right, bottom] = self.1;
            Bounds {
                left,
                top,
                right,
                bottom,
            }
        }

        fn score(&self) -> f32 {
            self.0
        }
    }

    fn scores(boxes: Vec<Plain>, limit: f32, overlap: Overlap) -> Vec<f32> {
        suppress(boxes, limit, overlap, 0.0)
            .iter()
            .map(|b| b.0)
            .collect()
    }

    #[test]
    fn the_surest_box_of_a_cluster_stays_whatever_the_order() {
        let cluster = |order: [f32; 3]| order.map(|s| Plain(s, [s, 0.0, 10.0 + s, 10.0])).into();
        for order in [[0.7, 0.8, 0.9], [0.9, 0.8, 0.7], [0.8, 0.9, 0.7]] {
            assert_eq!(scores(cluster(order), 0.5, Overlap::Union), [0.9]);
        }
    }

    #[test]
    fn two_faces_that_overlap_a_little_both_stay() {
        let boxes = vec![
            Plain(0.9, [0.0, 0.0, 10.0, 10.0]),
            Plain(0.8, [6.0, 0.0, 16.0, 10.0]),
        ];
        assert_eq!(scores(boxes, 0.3, Overlap::Union), [0.9, 0.8]);
    }

    #[test]
    fn a_box_inside_another_falls_only_by_the_smaller_area() {
        let nested = || {
            vec![
                Plain(0.9, [0.0, 0.0, 10.0, 10.0]),
                Plain(0.8, [3.0, 3.0, 6.0, 6.0]),
            ]
        };
        assert_eq!(scores(nested(), 0.7, Overlap::Union), [0.9, 0.8]);
        assert_eq!(scores(nested(), 0.7, Overlap::Smaller), [0.9]);
    }
}
