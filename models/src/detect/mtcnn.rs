//! The MTCNN cascade: P-Net proposes on an image pyramid, R-Net refines, O-Net refines again and
//! finds the landmarks. Follows the published decoding, off-by-one pixels included, because the
//! networks were trained with it.

use std::ops::Range;

use super::Detection;
use super::nms::{Overlap, Scored, suppress};
use crate::area::{Pyramid, Window};
use crate::cores::Cores;
use crate::manifest::{Colour, MtcnnSpec};
use crate::runtime::{Network, Outputs, Pixels, Plan};
use crate::{Bounds, Pack, Search, VisionError};

/// The side of P-Net's view, and so of the smallest face it can see.
const PNET_VIEW: f64 = 12.0;
/// The side of R-Net's view.
const RNET_VIEW: f64 = 24.0;
/// P-Net looks at every second pixel.
const PNET_STRIDE: f64 = 2.0;
/// The most pixels the largest pyramid level may have. This bounds the time: in a larger picture
/// the smallest face found grows instead. Faces of 20 pixels are found up to 1920×1080, of 40 up to 3840×2160; in
/// 4000×3000 those of 48.
const LARGEST_LEVEL: f64 = 1152.0 * 648.0;
/// The most proposals of one level, and of all, that go on; a picture full of faces has far fewer.
const PROPOSALS_PER_LEVEL: usize = 2048;
const PROPOSALS: usize = 768;
/// O-Net costs most, so it sees at most this many candidates for each face asked for.
const CANDIDATES_PER_FACE: usize = 8;
/// The most faces one run of R- or O-Net takes, which bounds the memory.
const BATCH: usize = 64;
/// The fewest that are worth another core: beginning a thread takes about as long as R-Net takes for one.
const LEAST_BATCH: usize = 2;
/// The fewest rows of P-Net's results that are worth a band of their own: each band computes four more.
const BAND_CELLS: usize = 16;

#[derive(Debug)]
pub(crate) struct Mtcnn {
    pnet: Plan,
    rnet: Refiner,
    onet: Refiner,
    thresholds: [f32; 3],
    pub(super) sure: f32,
    pub(super) upright: f32,
    pyramid_factor: f64,
}

/// A network that looks at cut-out squares, any number at a time.
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
    /// How far each edge should move, in sides of the box.
    shift: [f32; 4],
    /// O-Net only: five across, then five down, in sides of the box.
    points: [f32; 10],
    /// Shown to the network as in a mirror; then its shift and points are a mirror's too.
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

/// Where each output stands in the lists the networks are loaded with.
const PROB: usize = 0;
const REG: usize = 1;
const POINTS: usize = 2;

fn pixels() -> Pixels {
    Pixels::new([127.5; 3], 1.0 / 128.0, Colour::Rgb)
}

/// R-Net sees every face in 24 pixels: so many the smallest one that P-Net finds must keep.
pub(crate) fn reduction(width: usize, height: usize, min_face_px: usize) -> f64 {
    PNET_VIEW / largest_scale(width as f64, height as f64, min_face_px) / RNET_VIEW
}

/// By how much the picture is scaled for the largest level.
fn largest_scale(width: f64, height: f64, min_face_px: usize) -> f64 {
    let wanted = PNET_VIEW / (min_face_px as f64).max(PNET_VIEW);
    wanted.min((LARGEST_LEVEL / (width * height)).sqrt())
}

impl Mtcnn {
    pub(crate) fn load(pack: &Pack, spec: &MtcnnSpec) -> Result<Self, VisionError> {
        let pnet = Network::load(pack, &spec.pnet, &["prob", "reg"])?;
        let pnet = pnet.open_plan([Some(1), Some(3), None, None], &pixels())?;
        pnet.require_shapes([1, 3, 12, 12], &[&[1, 1, 1, 1], &[1, 4, 1, 1]])?;
        let rnet = Network::load(pack, &spec.rnet, &["prob", "reg"])?;
        let onet = Network::load(pack, &spec.onet, &["prob", "reg", "points"])?;
        Ok(Self {
            pnet,
            rnet: Refiner::new(&rnet, RNET_VIEW as usize, &[1, 4])?,
            onet: Refiner::new(&onet, 48, &[1, 4, 10])?,
            thresholds: spec.thresholds,
            sure: spec.sure,
            upright: spec.upright,
            pyramid_factor: f64::from(spec.pyramid_factor),
        })
    }

    /// Faces from the score `sure` on are not looked at a second time.
    pub(crate) fn detect(
        &self,
        picture: &Pyramid,
        search: &Search,
        sure: f32,
        cores: &Cores,
    ) -> Result<Vec<Detection>, VisionError> {
        let mut boxes = self.propose(picture, search.min_face_px, cores)?;
        boxes.truncate(PROPOSALS);
        for candidate in &mut boxes {
            candidate.bounds = squared(candidate.shifted(0.0));
        }
        let boxes = self.rnet.refine(picture, &boxes, self.thresholds[1], cores)?;
        let mut boxes = suppress(boxes, 0.7, Overlap::Union, 1.0);
        boxes.truncate(search.max_faces.saturating_mul(CANDIDATES_PER_FACE).clamp(32, PROPOSALS));
        for candidate in &mut boxes {
            candidate.bounds = squared(candidate.shifted(1.0));
        }
        // With a lower first score even a second of 1 would not bring the mean of both up to the threshold.
        let faces = self.onet.refine(picture, &boxes, 2.0 * self.thresholds[2] - 1.0, cores)?;
        let faces = faces.iter().map(Candidate::detection).collect();
        self.confirm(picture, suppress(faces, 0.7, Overlap::Smaller, 1.0), sure, cores)
    }

    /// Faces below the score `sure` are looked at again: mirrored, and where their box has moved to. What makes a
    /// pattern look like a face rarely survives that. The mean of both looks is their score.
    fn confirm(
        &self,
        picture: &Pyramid,
        faces: Vec<Detection>,
        sure: f32,
        cores: &Cores,
    ) -> Result<Vec<Detection>, VisionError> {
        let (mut faces, mut doubtful): (Vec<_>, Vec<_>) = faces.into_iter().partition(|face| face.score >= sure);
        let again = |face: &Detection| Candidate {
            bounds: squared(face.bounds),
            score: face.score,
            shift: [0.0; 4],
            points: [0.0; 10],
            mirrored: true,
        };
        let again: Vec<Candidate> = doubtful.iter().map(again).collect();
        let looks = self.onet.refine(picture, &again, f32::NEG_INFINITY, cores)?;
        for (face, look) in doubtful.iter_mut().zip(&looks) {
            face.score = (face.score + look.score) / 2.0;
        }
        doubtful.retain(|face| face.score >= self.thresholds[2]);
        faces.append(&mut doubtful);
        Ok(faces)
    }

    /// P-Net on every level of the pyramid, surest first.
    fn propose(&self, picture: &Pyramid, min_face_px: usize, cores: &Cores) -> Result<Vec<Candidate>, VisionError> {
        let (width, height) = (picture.width() as f64, picture.height() as f64);
        let mut scale = largest_scale(width, height, min_face_px);
        let mut bands = Vec::new();
        while width.min(height) * scale >= PNET_VIEW {
            let (w, h) = ((width * scale).ceil() as usize, (height * scale).ceil() as usize);
            bands.extend(Band::cut(w, h, scale, cores.parts()));
            scale *= self.pyramid_factor;
        }
        let found = cores.each(&bands, |band| self.look(picture, band));
        let mut found = bands.iter().zip(found).peekable();
        let mut proposals = Vec::new();
        while let Some((band, candidates)) = found.next() {
            let mut level = candidates?;
            while let Some((_, more)) = found.next_if(|(next, _)| next.scale == band.scale) {
                level.extend(more?);
            }
            if level.len() > PROPOSALS_PER_LEVEL {
                level.select_nth_unstable_by(PROPOSALS_PER_LEVEL, |a, b| b.score.total_cmp(&a.score));
                level.truncate(PROPOSALS_PER_LEVEL);
            }
            proposals.extend(suppress(level, 0.5, Overlap::Union, 1.0));
        }
        Ok(suppress(proposals, 0.7, Overlap::Union, 1.0))
    }

    fn look(&self, picture: &Pyramid, band: &Band) -> Result<Vec<Candidate>, VisionError> {
        let whole = Window { left: 0.0, top: 0.0, width: picture.width() as f64, height: picture.height() as f64 };
        let rows = band.rows.len();
        let mut input = vec![0; 3 * band.width * rows];
        picture.sample_rows(whole, band.width, band.height, band.rows.clone(), &mut input);
        let outputs = self.pnet.run([1, 3, rows, band.width], &input)?;
        // They agree at 12 by 12; a network of another making might not at other sizes.
        let fits = outputs.shape(PROB)[2..] == outputs.shape(REG)[2..];
        Ok(if fits { self.read_band(&outputs, band) } else { Vec::new() })
    }

    fn read_band(&self, outputs: &Outputs, band: &Band) -> Vec<Candidate> {
        let columns = outputs.shape(PROB)[3];
        let (prob, reg) = (outputs.get(PROB), outputs.get(REG));
        let hits = prob.iter().enumerate().filter(|(_, score)| **score >= self.thresholds[0]);
        let candidate = |(cell, &score): (usize, &f32)| {
            let at = |cell: usize, offset: f64| ((cell as f64 * PNET_STRIDE + offset) / band.scale) as f32;
            let (x, y) = (cell % columns, cell / columns + band.rows.start / PNET_STRIDE as usize);
            let bounds =
                Bounds { left: at(x, 1.0), top: at(y, 1.0), right: at(x, PNET_VIEW), bottom: at(y, PNET_VIEW) };
            let shift = std::array::from_fn(|edge| reg[edge * prob.len() + cell]);
            Candidate { bounds, score, shift, points: [0.0; 10], mirrored: false }
        };
        hits.map(candidate).collect()
    }
}

/// Some rows of a level of the pyramid: what one run of P-Net sees.
#[derive(Debug, PartialEq)]
struct Band {
    /// Of the level.
    width: usize,
    height: usize,
    /// From the picture to the level.
    scale: f64,
    rows: Range<usize>,
}

impl Band {
    /// A level in so many bands, fewer where they would be low. P-Net finds in them what it finds in the whole: each
    /// begins at an even row, where its pooling does, and goes on into the next by what P-Net's view is larger than its
    /// step.
    fn cut(width: usize, height: usize, scale: f64, parts: usize) -> Vec<Self> {
        let (view, stride) = (PNET_VIEW as usize, PNET_STRIDE as usize);
        let cells = (height.saturating_sub(view)) / stride + 1;
        let each = cells.div_ceil(parts).max(BAND_CELLS);
        let band = |first: usize| {
            // The last takes what is left: pooling makes a cell of an odd row, too.
            let end = if first + each < cells { (first + each - 1) * stride + view } else { height };
            Self { width, height, scale, rows: first * stride..end }
        };
        (0..cells).step_by(each).map(band).collect()
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

    /// Looks at every box and returns those above the threshold with new score, shift and points.
    fn refine(
        &self,
        picture: &Pyramid,
        boxes: &[Candidate],
        threshold: f32,
        cores: &Cores,
    ) -> Result<Vec<Candidate>, VisionError> {
        let at_once = boxes.len().div_ceil(cores.parts()).clamp(LEAST_BATCH, BATCH);
        let batches: Vec<_> = boxes.chunks(at_once).collect();
        let kept = cores.each(&batches, |batch| self.look(picture, batch, threshold));
        kept.into_iter().collect::<Result<Vec<_>, _>>().map(|kept| kept.concat())
    }

    fn look(&self, picture: &Pyramid, batch: &[Candidate], threshold: f32) -> Result<Vec<Candidate>, VisionError> {
        let one = 3 * self.side * self.side;
        let mut input = vec![0; batch.len() * one];
        for (candidate, pixels) in batch.iter().zip(input.chunks_exact_mut(one)) {
            candidate.show(picture, self.side, pixels);
        }
        let outputs = self.plan.run([batch.len(), 3, self.side, self.side], &input)?;
        let seen = batch.iter().enumerate().map(|(ix, candidate)| Candidate {
            score: outputs.get(PROB)[ix],
            shift: outputs.row(REG, ix).unwrap_or_default(),
            points: outputs.row(POINTS, ix).unwrap_or_default(),
            ..*candidate
        });
        Ok(seen.filter(|candidate| candidate.score > threshold).collect())
    }
}

impl Candidate {
    /// The box with its edges moved; R- and O-Net count the last pixel as part of a side.
    fn shifted(&self, extra: f32) -> Bounds {
        let Bounds { left, top, right, bottom } = self.bounds;
        let (width, height) = (right - left + extra, bottom - top + extra);
        let [l, t, r, b] = self.shift;
        Bounds { left: left + l * width, top: top + t * height, right: right + r * width, bottom: bottom + b * height }
    }

    /// Cuts out what the network is shown.
    fn show(&self, picture: &Pyramid, side: usize, pixels: &mut [u8]) {
        picture.sample(self.window(), side, side, pixels);
        if self.mirrored {
            pixels.as_chunks_mut::<3>().0.chunks_exact_mut(side).for_each(<[[u8; 3]]>::reverse);
        }
    }

    /// Where the network looks: whole pixels.
    fn window(&self) -> Window {
        let whole = |v: f32| f64::from(v.round_ties_even());
        let (left, top) = (whole(self.bounds.left), whole(self.bounds.top));
        let (width, height) = (whole(self.bounds.right) - left, whole(self.bounds.bottom) - top);
        Window { left, top, width, height }
    }

    fn detection(&self) -> Detection {
        let Bounds { left, top, right, bottom } = self.bounds;
        let (width, height) = (right - left + 1.0, bottom - top + 1.0);
        let point = |ix: usize| [left + self.points[ix] * width - 1.0, top + self.points[ix + 5] * height - 1.0];
        Detection { bounds: self.shifted(1.0), landmarks: std::array::from_fn(point), score: self.score }
    }
}

/// The square of the longer side around the same middle.
fn squared(b: Bounds) -> Bounds {
    let (width, height) = (b.right - b.left, b.bottom - b.top);
    let side = width.max(height);
    let (left, top) = (b.left + (width - side) / 2.0, b.top + (height - side) / 2.0);
    Bounds { left, top, right: left + side, bottom: top + side }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_cut_where_p_net_finds_in_the_bands_what_it_finds_in_the_whole() {
        let rows =
            |height, parts| Band::cut(100, height, 1.0, parts).into_iter().map(|band| band.rows).collect::<Vec<_>>();
        // 67 cells: 23 in each band, whose first begins at an even row and whose last row the 23rd sees.
        assert_eq!(rows(144, 3), [0..56, 46..102, 92..144]);
        assert_eq!(rows(145, 3), [0..56, 46..102, 92..145]);
        assert_eq!(rows(144, 1), [0..144]);
        assert_eq!(rows(30, 4), [0..30]);
        assert_eq!(rows(12, 4), [0..12]);
    }

    #[test]
    fn squaring_keeps_the_middle_and_the_longer_side() {
        let square = squared(Bounds { left: 10.0, top: 0.0, right: 20.0, bottom: 40.0 });
        assert_eq!(square, Bounds { left: -5.0, top: 0.0, right: 35.0, bottom: 40.0 });
    }

    #[test]
    fn landmarks_are_read_as_five_across_then_five_down() {
        let points = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];
        let bounds = Bounds { left: 11.0, top: 21.0, right: 20.0, bottom: 30.0 };
        let face = Candidate { bounds, score: 0.9, shift: [0.0; 4], points, mirrored: false }.detection();
        assert_eq!(face.landmarks[0], [11.0, 26.0]);
        assert_eq!(face.landmarks[4], [15.0, 30.0]);
    }
}
