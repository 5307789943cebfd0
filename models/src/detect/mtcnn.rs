//! The MTCNN cascade: P-Net proposes boxes on an image pyramid, R-Net refines them, O-Net refines
//! them again and finds the landmarks. Follows the published decoding, off-by-one pixels included,
//! because the networks were trained with it.

use std::ops::Range;

use super::Detection;
use super::nms::{Overlap, Scored, suppress};
use crate::manifest::MtcnnSpec;
use crate::pixels::{Colour, Pixels};
use crate::pyramid::{Pyramid, Window};
use crate::runtime::{Network, Outputs, Plan};
use crate::thread_budget::ThreadBudget;
use crate::{Bounds, Pack, Search, VisionError};

/// Side of P-Net's receptive field, and so of the smallest face it can see.
const PNET_VIEW: f64 = 12.0;
/// Side of R-Net's input.
const RNET_VIEW: f64 = 24.0;
/// P-Net has one cell for every second pixel.
const PNET_STRIDE: f64 = 2.0;
/// Pixel limit of the largest pyramid level, which bounds the time: in a larger picture the
/// smallest face found grows, even if a smaller one was asked for. Faces of 20 pixels are found up
/// to 1920×1080, of 40 up to 3840×2160, of 48 at 4000×3000.
const LARGEST_LEVEL: f64 = 1152.0 * 648.0;
/// Limits on the proposals of one level and of all together; even a crowd has far fewer.
const PROPOSALS_PER_LEVEL: usize = 2048;
const PROPOSALS: usize = 768;
/// O-Net is the most expensive network, so it gets at most this many candidates for each face asked
/// for.
const CANDIDATES_PER_FACE: usize = 8;
/// Faces in one run of R-Net or O-Net: few enough for the intermediate values to stay in the
/// processor's cache and for their memory to be reused.
const BATCH: usize = 16;
/// The fewest faces worth another core: starting a thread takes about as long as R-Net takes for
/// one face.
const LEAST_BATCH: usize = 2;
/// P-Net cells in a tile, per axis: few enough for the intermediate values to stay in the
/// processor's cache and for their memory to be reused. Each tile computes four more cells per
/// axis.
const TILE_COLUMNS: usize = 192;
const TILE_ROWS: usize = 36;

#[derive(Debug)]
pub(crate) struct Mtcnn {
    pnet: Plan,
    rnet: Refiner,
    onet: Refiner,
    thresholds: [f32; 3],
    overlap: f32,
    pyramid_factor: f64,
    every_face_twice: bool,
}

/// A network that takes cut-out squares, any number at a time.
#[derive(Debug)]
struct Refiner {
    side: usize,
    plan: Plan,
}

/// A box on its way through the cascade.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    bounds: Bounds,
    score: f32,
    /// Correction of each edge, in sides of the box.
    shift: [f32; 4],
    /// Landmarks from O-Net only: five across, then five down, in sides of the box.
    points: [f32; 10],
    /// True if the network saw the box mirrored; `shift` and `points` are then mirrored too.
    mirrored: bool,
}

impl Scored for Candidate {
    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn score(&self) -> f32 {
        self.score
    }
}

/// Positions of the outputs in the lists the networks are loaded with.
const PROB: usize = 0;
const REG: usize = 1;
const POINTS: usize = 2;

fn pixels() -> Pixels {
    Pixels::new([127.5; 3], 1.0 / 128.0, Colour::Rgb)
}

/// Returns how far the picture may be reduced: the smallest face that P-Net finds must keep R-Net's
/// 24 pixels.
pub(crate) fn reduction(width: usize, height: usize, min_face_px: usize) -> f64 {
    PNET_VIEW / largest_scale(width as f64, height as f64, min_face_px) / RNET_VIEW
}

/// Returns the scale of the largest pyramid level.
fn largest_scale(width: f64, height: f64, min_face_px: usize) -> f64 {
    let wanted = PNET_VIEW / (min_face_px as f64).max(PNET_VIEW);
    wanted.min((LARGEST_LEVEL / (width * height)).sqrt())
}

impl Mtcnn {
    pub(crate) fn load(pack: &Pack, spec: &MtcnnSpec) -> Result<Self, VisionError> {
        let pnet = Network::load(pack, &spec.pnet, &["prob", "reg"])?;
        let pnet = pnet.open_plan([Some(1), Some(3), None, None], &pixels())?;
        pnet.require_shapes([1, 3, 12, 12], &[&[1, 1, 1, 1], &[1, 4, 1, 1]])?;
        // Tiling relies on P-Net's receptive field and stride.
        pnet.require_shapes([1, 3, 14, 16], &[&[1, 1, 2, 3], &[1, 4, 2, 3]])?;
        let rnet = Network::load(pack, &spec.rnet, &["prob", "reg"])?;
        let onet = Network::load(pack, &spec.onet, &["prob", "reg", "points"])?;
        Ok(Self {
            pnet,
            rnet: Refiner::new(&rnet, RNET_VIEW as usize, &[1, 4])?,
            onet: Refiner::new(&onet, 48, &[1, 4, 10])?,
            thresholds: spec.thresholds,
            overlap: spec.overlap,
            pyramid_factor: f64::from(spec.pyramid_factor),
            every_face_twice: spec.every_face_twice,
        })
    }

    /// Returns the faces of a picture. Those from the score `sure` on get no second look.
    pub(crate) fn detect(
        &self,
        picture: &Pyramid,
        search: &Search,
        sure: f32,
        budget: &ThreadBudget,
    ) -> Result<Vec<Detection>, VisionError> {
        let mut boxes = self.propose(picture, search.min_face_px, budget)?;
        boxes.truncate(PROPOSALS);
        for candidate in &mut boxes {
            candidate.bounds = squared(candidate.shifted(0.0));
        }
        let boxes = self
            .rnet
            .refine(picture, &boxes, self.thresholds[1], budget)?;
        let mut boxes = suppress(boxes, self.overlap, Overlap::Union, 1.0);
        boxes.truncate(
            search
                .max_faces
                .saturating_mul(CANDIDATES_PER_FACE)
                .clamp(32, PROPOSALS),
        );
        for candidate in &mut boxes {
            candidate.bounds = squared(candidate.shifted(1.0));
        }
        // Below this score the mean of two looks cannot reach the threshold, even if the second is
        // 1.
        let faces = self
            .onet
            .refine(picture, &boxes, 2.0 * self.thresholds[2] - 1.0, budget)?;
        let faces = faces.iter().map(Candidate::detection).collect();
        self.confirm(
            picture,
            suppress(faces, 0.7, Overlap::Smaller, 1.0),
            sure,
            budget,
        )
    }

    /// Looks again at faces, mirrored and with the corrected box, which false positives rarely
    /// survive. A face's score becomes the mean of both looks, and its landmarks as well if the
    /// pack wants every face looked at twice; otherwise faces from the score `sure` on are left
    /// out.
    fn confirm(
        &self,
        picture: &Pyramid,
        mut faces: Vec<Detection>,
        sure: f32,
        budget: &ThreadBudget,
    ) -> Result<Vec<Detection>, VisionError> {
        let again = |face: &Detection| Candidate {
            bounds: squared(face.bounds),
            score: face.score,
            shift: [0.0; 4],
            points: [0.0; 10],
            mirrored: true,
        };
        let is_seen_again = |face: &Detection| self.every_face_twice || face.score < sure;
        let seen_again: Vec<Candidate> = faces
            .iter()
            .filter(|face| is_seen_again(face))
            .map(again)
            .collect();
        let second = self
            .onet
            .refine(picture, &seen_again, f32::NEG_INFINITY, budget)?;
        for (face, again) in faces
            .iter_mut()
            .filter(|face| is_seen_again(face))
            .zip(&second)
        {
            face.score = (face.score + again.score) / 2.0;
            if self.every_face_twice {
                for (first, second) in face.landmarks.iter_mut().zip(again.detection().landmarks) {
                    *first = [(first[0] + second[0]) / 2.0, (first[1] + second[1]) / 2.0];
                }
            }
        }
        faces.retain(|face| face.score >= self.thresholds[2]);
        Ok(faces)
    }

    /// Runs P-Net on every level of the pyramid and returns its proposals, the surest first.
    fn propose(
        &self,
        picture: &Pyramid,
        min_face_px: usize,
        budget: &ThreadBudget,
    ) -> Result<Vec<Candidate>, VisionError> {
        let (width, height) = (picture.width() as f64, picture.height() as f64);
        let mut scale = largest_scale(width, height, min_face_px);
        let mut tiles = Vec::new();
        while width.min(height) * scale >= PNET_VIEW {
            let sides = [width, height].map(|side| (side * scale).ceil() as usize);
            tiles.extend(Tile::cut(sides, scale));
            scale *= self.pyramid_factor;
        }
        let found = budget.each(&tiles, |tile| self.propose_in(picture, tile));
        let mut found = tiles.iter().zip(found).peekable();
        let mut proposals = Vec::new();
        while let Some((tile, candidates)) = found.next() {
            let mut level = candidates?;
            while let Some((_, more)) = found.next_if(|(next, _)| next.scale == tile.scale) {
                level.extend(more?);
            }
            if level.len() > PROPOSALS_PER_LEVEL {
                level.select_nth_unstable_by(PROPOSALS_PER_LEVEL, |a, b| {
                    b.score.total_cmp(&a.score)
                });
                level.truncate(PROPOSALS_PER_LEVEL);
            }
            proposals.extend(suppress(level, 0.5, Overlap::Union, 1.0));
        }
        Ok(suppress(proposals, 0.7, Overlap::Union, 1.0))
    }

    /// Runs P-Net on one tile of a level.
    fn propose_in(&self, picture: &Pyramid, tile: &Tile) -> Result<Vec<Candidate>, VisionError> {
        let whole = Window {
            left: 0.0,
            top: 0.0,
            width: picture.width() as f64,
            height: picture.height() as f64,
        };
        let (columns, rows) = (tile.columns.len(), tile.rows.len());
        let mut input = vec![0; 3 * columns * rows];
        picture.sample_tile(
            whole,
            tile.level,
            [tile.columns.clone(), tile.rows.clone()],
            &mut input,
        );
        let outputs = self.pnet.run([1, 3, rows, columns], &input)?;
        // Both outputs have the same sides at the sizes tried above; another network might differ
        // at other sizes.
        let fits = outputs.shape(PROB)[2..] == outputs.shape(REG)[2..];
        Ok(if fits {
            self.read_tile(&outputs, tile)
        } else {
            Vec::new()
        })
    }

    fn read_tile(&self, outputs: &Outputs, tile: &Tile) -> Vec<Candidate> {
        let columns = outputs.shape(PROB)[3];
        let (prob, reg) = (outputs.get(PROB), outputs.get(REG));
        let hits = prob
            .iter()
            .enumerate()
            .filter(|(_, score)| **score >= self.thresholds[0]);
        let candidate = |(cell, &score): (usize, &f32)| {
            let at = |first: usize, cell: usize, offset: f64| {
                ((first as f64 + cell as f64 * PNET_STRIDE + offset) / tile.scale) as f32
            };
            let x = |offset| at(tile.columns.start, cell % columns, offset);
            let y = |offset| at(tile.rows.start, cell / columns, offset);
            let bounds = Bounds {
                left: x(1.0),
                top: y(1.0),
                right: x(PNET_VIEW),
                bottom: y(PNET_VIEW),
            };
            let shift = std::array::from_fn(|edge| reg[edge * prob.len() + cell]);
            Candidate {
                bounds,
                score,
                shift,
                points: [0.0; 10],
                mirrored: false,
            }
        };
        hits.map(candidate).collect()
    }
}

/// A tile of a pyramid level, the input of one run of P-Net. P-Net finds the same in the tiles as
/// in the whole level.
#[derive(Debug, PartialEq)]
struct Tile {
    /// Width and height of the level.
    level: [usize; 2],
    /// Factor from the picture to the level.
    scale: f64,
    columns: Range<usize>,
    rows: Range<usize>,
}

impl Tile {
    fn cut(level: [usize; 2], scale: f64) -> Vec<Self> {
        let columns = Self::cut_side(level[0], TILE_COLUMNS);
        let rows = Self::cut_side(level[1], TILE_ROWS);
        let tile = |columns: &Range<usize>, rows: &Range<usize>| Self {
            level,
            scale,
            columns: columns.clone(),
            rows: rows.clone(),
        };
        rows.iter()
            .flat_map(|rows| columns.iter().map(move |columns| tile(columns, rows)))
            .collect()
    }

    /// Cuts one side into pieces. Each begins at an even pixel, like P-Net's pooling, and overlaps
    /// the next one by P-Net's receptive field less its stride.
    fn cut_side(side: usize, most: usize) -> Vec<Range<usize>> {
        let (view, stride) = (PNET_VIEW as usize, PNET_STRIDE as usize);
        let cells = side.saturating_sub(view) / stride + 1;
        let each = cells.div_ceil(cells.div_ceil(most));
        let piece = |first: usize| {
            // The last piece takes the rest: pooling makes a cell of an odd row too.
            let end = if first + each < cells {
                (first + each - 1) * stride + view
            } else {
                side
            };
            first * stride..end
        };
        (0..cells).step_by(each).map(piece).collect()
    }
}

impl Refiner {
    fn new(network: &Network, side: usize, widths: &[usize]) -> Result<Self, VisionError> {
        let plan = network.open_plan([None, Some(3), Some(side), Some(side)], &pixels())?;
        let expected: Vec<[usize; 2]> = widths.iter().map(|&width| [2, width]).collect();
        let expected: Vec<&[usize]> = expected.iter().map(<[usize; 2]>::as_slice).collect();
        plan.require_shapes([2, 3, side, side], &expected)?;
        Ok(Self { side, plan })
    }

    /// Runs the network on every box and returns those above the threshold, with their new score,
    /// shift and points.
    fn refine(
        &self,
        picture: &Pyramid,
        boxes: &[Candidate],
        threshold: f32,
        budget: &ThreadBudget,
    ) -> Result<Vec<Candidate>, VisionError> {
        let at_once = boxes
            .len()
            .div_ceil(budget.parts())
            .clamp(LEAST_BATCH, BATCH);
        let batches: Vec<_> = boxes.chunks(at_once).collect();
        let kept = budget.each(&batches, |batch| self.forward(picture, batch, threshold));
        kept.into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map(|kept| kept.concat())
    }

    fn forward(
        &self,
        picture: &Pyramid,
        batch: &[Candidate],
        threshold: f32,
    ) -> Result<Vec<Candidate>, VisionError> {
        let one = 3 * self.side * self.side;
        let mut input = vec![0; batch.len() * one];
        for (candidate, pixels) in batch.iter().zip(input.chunks_exact_mut(one)) {
            candidate.show(picture, self.side, pixels);
        }
        let outputs = self
            .plan
            .run([batch.len(), 3, self.side, self.side], &input)?;
        let seen = batch.iter().enumerate().map(|(ix, candidate)| Candidate {
            score: outputs.get(PROB)[ix],
            shift: outputs.row(REG, ix).unwrap_or_default(),
            points: outputs.row(POINTS, ix).unwrap_or_default(),
            ..*candidate
        });
        Ok(seen
            .filter(|candidate| candidate.score > threshold)
            .collect())
    }
}

impl Candidate {
    /// Returns the box with its edges corrected. R-Net and O-Net count the last pixel as part of a
    /// side, which makes `extra` 1.
    fn shifted(&self, extra: f32) -> Bounds {
        let Bounds {
            left,
            top,
            right,
            bottom,
        } = self.bounds;
        let (width, height) = (right - left + extra, bottom - top + extra);
        let [l, t, r, b] = self.shift;
        Bounds {
            left: left + l * width,
            top: top + t * height,
            right: right + r * width,
            bottom: bottom + b * height,
        }
    }

    /// Cuts out the network's input.
    fn show(&self, picture: &Pyramid, side: usize, pixels: &mut [u8]) {
        picture.sample(self.window(), side, side, pixels);
        if self.mirrored {
            pixels
                .as_chunks_mut::<3>()
                .0
                .chunks_exact_mut(side)
                .for_each(<[[u8; 3]]>::reverse);
        }
    }

    /// Returns the box in whole pixels.
    fn window(&self) -> Window {
        let whole = |v: f32| f64::from(v.round_ties_even());
        let (left, top) = (whole(self.bounds.left), whole(self.bounds.top));
        let (width, height) = (
            whole(self.bounds.right) - left,
            whole(self.bounds.bottom) - top,
        );
        Window {
            left,
            top,
            width,
            height,
        }
    }

    fn detection(&self) -> Detection {
        let Bounds {
            left,
            top,
            right,
            bottom,
        } = self.bounds;
        let (width, height) = (right - left + 1.0, bottom - top + 1.0);
        let point = |ix: usize| {
            // A mirror also swaps the eyes and the corners of the mouth.
            let seen = if self.mirrored {
                [1, 0, 2, 4, 3][ix]
            } else {
                ix
            };
            let across = if self.mirrored {
                1.0 - self.points[seen]
            } else {
                self.points[seen]
            };
            [
                left + across * width - 1.0,
                top + self.points[seen + 5] * height - 1.0,
            ]
        };
        Detection {
            bounds: self.shifted(1.0),
            landmarks: std::array::from_fn(point),
            score: self.score,
        }
    }
}

/// Returns the square of the longer side around the same centre.
fn squared(b: Bounds) -> Bounds {
    let (width, height) = (b.right - b.left, b.bottom - b.top);
    let side = width.max(height);
    let (left, top) = (b.left + (width - side) / 2.0, b.top + (height - side) / 2.0);
    Bounds {
        left,
        top,
        right: left + side,
        bottom: top + side,
    }
}

#[cfg(test)]
mod tests;
