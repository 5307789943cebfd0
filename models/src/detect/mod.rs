//! Finding faces: what every detector returns, and which decoder reads which networks. The only
//! place that knows a detector by name.

mod mtcnn;
mod nms;
mod turned;
mod yunet;

use crate::area::Pyramid;
use crate::manifest::DetectorSpec;
use crate::{Bounds, Pack, Search, VisionError};
use turned::Turn;

/// A turned picture is first looked at for faces this many times the smallest wanted, at a quarter of the cost…
const TURNED_COARSER: usize = 2;
/// …but neither for faces of less than this part of its shorter side: a photograph of many pixels shows large ones…
const TURNED_LEAST_PART: usize = 24;
/// …nor only for those of more than this part: a small picture shows one large face…
const TURNED_MOST_PART: usize = 4;
/// …in a copy where the smallest of them still has this many pixels: enough to tell which way is up.
const TURNED_FACE_PX: usize = 30;

/// A face as a detector sees it, in pixels of the given picture.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Detection {
    pub(crate) bounds: Bounds,
    pub(crate) landmarks: [[f32; 2]; 5],
    pub(crate) score: f32,
}

impl nms::Scored for Detection {
    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn score(&self) -> f32 {
        self.score
    }
}

#[derive(Debug)]
pub(crate) enum Detector {
    Mtcnn(Box<mtcnn::Mtcnn>),
    Yunet(yunet::Yunet),
}

impl Detector {
    pub(crate) fn load(pack: &Pack) -> Result<Self, VisionError> {
        match &pack.manifest.detector {
            DetectorSpec::Mtcnn(spec) => mtcnn::Mtcnn::load(pack, spec).map(|mtcnn| Self::Mtcnn(Box::new(mtcnn))),
            DetectorSpec::Yunet(spec) => yunet::Yunet::load(pack, spec).map(Self::Yunet),
        }
    }

    /// The faces of a picture, the most prominent first.
    pub(crate) fn detect(&self, picture: &Pyramid, search: &Search) -> Result<Vec<Detection>, VisionError> {
        let mut faces = self.look(picture, search)?;
        // A face on its side or upside down is often found with landmarks of an upright one, but hardly ever surely.
        if search.turned && surest(&faces) < self.sure() {
            faces = self.look_turned(picture, search)?.unwrap_or(faces);
        }
        // Neither the surest nor the largest alone: a tiny sure face is rarely the one meant,
        // and large doubtful ones are often no faces.
        faces.sort_by(|a, b| b.prominence().total_cmp(&a.prominence()));
        faces.truncate(search.max_faces);
        Ok(faces)
    }

    fn look(&self, picture: &Pyramid, search: &Search) -> Result<Vec<Detection>, VisionError> {
        let mut faces = match self {
            Self::Mtcnn(mtcnn) => mtcnn.detect(picture, search)?,
            Self::Yunet(yunet) => yunet.detect(picture, search)?,
        };
        faces.retain(Detection::is_plausible);
        Ok(faces)
    }

    /// The score from which a face is one beyond doubt, and upright.
    fn sure(&self) -> f32 {
        match self {
            Self::Mtcnn(mtcnn) => mtcnn.sure(),
            Self::Yunet(yunet) => yunet.sure(),
        }
    }

    /// The faces of a picture that is not upright, in the coordinates of the picture as given. None unless one is
    /// beyond doubt once the picture is turned.
    fn look_turned(&self, picture: &Pyramid, search: &Search) -> Result<Option<Vec<Detection>>, VisionError> {
        let (width, height) = (picture.width(), picture.height());
        let (side, least) = (width.min(height), search.min_face_px);
        let smallest = (TURNED_COARSER * least).max(side / TURNED_LEAST_PART).min(least.max(side / TURNED_MOST_PART));
        let (reduced, shrink) = picture.halved(smallest as f64 / TURNED_FACE_PX as f64);
        let coarse = Search { min_face_px: (smallest as f64 * shrink) as usize, ..*search };
        let mut best: Option<(f32, Turn)> = None;
        // All three: in the opposite turn the same face can be found upside down, but less surely.
        for turn in Turn::ALL {
            let turned = turn.of(reduced);
            let faces = self.look(&Pyramid::new(&turned), &coarse)?;
            let score = surest(&faces);
            if score >= self.sure() && best.is_none_or(|(best, _)| score > best) {
                best = Some((score, turn));
            }
        }
        let Some((_, turn)) = best else { return Ok(None) };
        let turned = turn.of(picture.whole());
        let faces = self.look(&Pyramid::new(&turned), search)?;
        Ok(Some(faces.iter().map(|face| turn.back(face, width, height)).collect()))
    }
}

fn surest(faces: &[Detection]) -> f32 {
    faces.iter().map(|face| face.score).fold(0.0, f32::max)
}

impl Detection {
    fn prominence(&self) -> f32 {
        self.score * self.bounds.size()
    }

    /// Eyes in one spot give no direction to align by, and no real face has them.
    fn is_plausible(&self) -> bool {
        let [[ax, ay], [bx, by], ..] = self.landmarks;
        let sides = [self.bounds.size(), self.score, ax, ay, bx, by];
        let finite = sides.iter().chain(self.landmarks.as_flattened()).all(|v| v.is_finite());
        finite && (bx - ax).hypot(by - ay) > 1.0
    }
}
