//! Finding faces: what every detector returns, and which decoder reads which networks. The only
//! place that knows a detector by name.

mod mtcnn;
mod nms;
mod turned;
pub(crate) mod yunet;

use crate::area::Pyramid;
use crate::cores::Cores;
use crate::manifest::DetectorSpec;
use crate::{Bounds, Pack, Search, VisionError};
use turned::Turn;

/// A turned picture is first looked at for faces of this many pixels, or the smallest wanted if that is more…
const TURNED_SMALLEST_PX: usize = 80;
/// …but neither for faces of less than this part of its shorter side: a photograph of many pixels shows large ones…
const TURNED_LEAST_PART: usize = 24;
/// …nor only for those of more than this part: a small picture shows one large face…
const TURNED_MOST_PART: usize = 4;
/// …in a copy where the smallest of them still has this many pixels: enough to tell which way is up.
const TURNED_FACE_PX: usize = 30;
/// In turned pictures no first look is enough: three times as much is looked at, so three times as much looks like a face.
const TWICE: f32 = f32::INFINITY;

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

    /// How much larger than needed the smallest faces are that are looked for in a picture of these sides.
    pub(crate) fn reduction(&self, width: usize, height: usize, search: &Search) -> f64 {
        match self {
            Self::Mtcnn(_) => mtcnn::reduction(width, height, search.min_face_px),
            Self::Yunet(yunet) => yunet.reduction(width, height),
        }
    }

    /// The faces of a picture, the most prominent first.
    pub(crate) fn detect(
        &self,
        picture: &Pyramid,
        search: &Search,
        cores: &Cores,
    ) -> Result<Vec<Detection>, VisionError> {
        let mut faces = self.look(picture, search, self.sure(), cores)?;
        // A face on its side or upside down is often found with landmarks of an upright one, but hardly ever surely.
        let surest = surest(&faces);
        if search.turned && surest < self.sure() {
            faces = self.look_turned(picture, search, surest, cores)?.unwrap_or(faces);
        }
        // Neither the surest nor the largest alone: a tiny sure face is rarely the one meant,
        // and large doubtful ones are often no faces.
        faces.sort_by(|a, b| b.prominence().total_cmp(&a.prominence()));
        faces.truncate(search.max_faces);
        Ok(faces)
    }

    /// The plausible faces; those from the score `sure` are not looked at a second time.
    fn look(
        &self,
        picture: &Pyramid,
        search: &Search,
        sure: f32,
        cores: &Cores,
    ) -> Result<Vec<Detection>, VisionError> {
        let mut faces = match self {
            Self::Mtcnn(mtcnn) => mtcnn.detect(picture, search, sure, cores)?,
            Self::Yunet(yunet) => yunet.detect(picture, search)?,
        };
        faces.retain(Detection::is_plausible);
        Ok(faces)
    }

    /// The score of a face that is one beyond doubt, and upright.
    fn sure(&self) -> f32 {
        match self {
            Self::Mtcnn(mtcnn) => mtcnn.sure,
            Self::Yunet(yunet) => yunet.sure,
        }
    }

    /// The score a face must have for a turned picture to be taken for the upright one.
    fn upright(&self) -> f32 {
        match self {
            Self::Mtcnn(mtcnn) => mtcnn.upright,
            Self::Yunet(yunet) => yunet.upright,
        }
    }

    /// The faces of a picture that is not upright, in the coordinates of the picture as given. None unless there is
    /// a quarter less doubt about one, once the picture is turned, than about the surest as given.
    fn look_turned(
        &self,
        picture: &Pyramid,
        search: &Search,
        as_given: f32,
        cores: &Cores,
    ) -> Result<Option<Vec<Detection>>, VisionError> {
        let needed = self.upright().max(as_given + (1.0 - as_given) / 4.0);
        let (width, height) = (picture.width(), picture.height());
        let (side, least) = (width.min(height), search.min_face_px);
        let smallest =
            TURNED_SMALLEST_PX.max(least).max(side / TURNED_LEAST_PART).min(least.max(side / TURNED_MOST_PART));
        let (reduced, shrink) = picture.halved(smallest as f64 / TURNED_FACE_PX as f64);
        let coarse = Search { min_face_px: (smallest as f64 * shrink) as usize, ..*search };
        // All three: in the opposite turn the same face can be found upside down, but less surely.
        let scores = cores.each(&Turn::ALL, |turn| {
            let turned = turn.of(reduced);
            self.look(&Pyramid::new(&turned), &coarse, TWICE, cores).map(|faces| surest(&faces))
        });
        let mut best: Option<(f32, Turn)> = None;
        for (turn, score) in Turn::ALL.into_iter().zip(scores) {
            let score = score?;
            if score >= needed && best.is_none_or(|(best, _)| score > best) {
                best = Some((score, turn));
            }
        }
        let Some((_, turn)) = best else { return Ok(None) };
        let turned = turn.of(picture.whole());
        let faces = self.look(&Pyramid::new(&turned), search, TWICE, cores)?;
        // The copy may have shown what the whole does not.
        if surest(&faces) < needed {
            return Ok(None);
        }
        Ok(Some(faces.iter().map(|face| turn.back(face, width, height)).collect()))
    }
}

fn surest(faces: &[Detection]) -> f32 {
    faces.iter().map(|face| face.score).fold(0.0, f32::max)
}

impl Detection {
    /// The same face in a picture whose sides are so many times as long.
    pub(crate) fn enlarged(self, times: usize) -> Self {
        let landmarks = self.landmarks.map(|point| crate::enlarged(point, times));
        Self { bounds: self.bounds.enlarged(times), landmarks, ..self }
    }

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
