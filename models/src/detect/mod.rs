//! Face detection: the types every detector returns, and the choice of the decoder for the pack's
//! networks. No other module names a detector.

mod mtcnn;
mod nms;
mod turned;
pub(crate) mod yunet;

use crate::manifest::DetectorSpec;
use crate::pyramid::{Pyramid, Window};
use crate::thread_budget::ThreadBudget;
use crate::{Bounds, Pack, Rgb, Search, VisionError};
use turned::Turn;

/// At most this many doubtful faces have their surroundings searched, the most prominent ones.
const DOUBTFUL: usize = 4;
/// Side of the surroundings, in sides of the doubtful face: that face is often a cheek or an eye of
/// a larger one that lies on its side.
const AROUND: f64 = 3.0;
/// Pixels per side of the resized surroundings.
const AROUND_PX: usize = 96;
/// Smallest face searched for in the surroundings: three quarters of the doubtful one's size.
const AROUND_SMALLEST_PX: usize = 24;
/// A doubtful face is confirmed if one is found in its surroundings with this score, and no surer
/// one when they are turned. Among portraits with only doubtful faces, that confirms 85 of 86 that
/// are upright and one of 1 068 that lie on a side or upside down (models/benches/detector.md).
const STANDS: f32 = 0.98;
/// Border on each side when a picture in which nothing was found is searched again, in its longer
/// sides: other systems hand on a face cut out so closely that the detector needs what is missing
/// around it.
const BORDER: f64 = 0.5;
/// Pixels per side of the resized picture with its border.
const BORDERED_PX: usize = 192;
/// Smallest face searched for with a border: half the picture's longer side.
const BORDERED_SMALLEST_PX: usize = 48;
/// Smallest face searched for in a turned picture, in pixels and in multiples of `min_face_px`; the
/// larger counts.
const TURNED_SMALLEST_PX: usize = 80;
const TURNED_TIMES: usize = 2;
/// Faces below this fraction of the shorter side are left out: large photographs show large faces.
const TURNED_LEAST_PART: usize = 24;
/// Faces from this fraction of the shorter side on are always included: small pictures show one
/// large face.
const TURNED_MOST_PART: usize = 4;
/// Pixels of the smallest such face in the reduced copy, enough to tell which way is up.
const TURNED_FACE_PX: usize = 30;
/// No first look is sure enough in turned pictures: they are several times as much to search, with
/// as many more false positives.
const TWICE: f32 = f32::INFINITY;

/// A detected face, in pixels of the given picture.
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
pub(crate) struct Detector {
    networks: Networks,
    /// Score from which a face is beyond doubt, and upright.
    sure: f32,
    /// Score a face must have for the picture to count as turned.
    upright: f32,
}

#[derive(Debug)]
enum Networks {
    Mtcnn(Box<mtcnn::Mtcnn>),
    Yunet(yunet::Yunet),
}

impl Detector {
    pub(crate) fn load(pack: &Pack) -> Result<Self, VisionError> {
        let (networks, sure, upright) = match &pack.manifest.detector {
            DetectorSpec::Mtcnn(spec) => (
                Networks::Mtcnn(Box::new(mtcnn::Mtcnn::load(pack, spec)?)),
                spec.sure,
                spec.upright,
            ),
            DetectorSpec::Yunet(spec) => (
                Networks::Yunet(yunet::Yunet::load(pack, spec)?),
                spec.sure,
                spec.upright,
            ),
        };
        Ok(Self {
            networks,
            sure,
            upright,
        })
    }

    /// Returns how many times larger than needed the smallest wanted faces are in a picture of
    /// these sides.
    pub(crate) fn reduction(&self, width: usize, height: usize, search: &Search) -> f64 {
        match &self.networks {
            Networks::Mtcnn(_) => mtcnn::reduction(width, height, search.min_face_px),
            Networks::Yunet(yunet) => yunet.reduction(width, height),
        }
    }

    /// Returns the faces of a picture, the most prominent first.
    pub(crate) fn detect(
        &self,
        picture: &Pyramid,
        search: &Search,
        budget: &ThreadBudget,
    ) -> Result<Vec<Detection>, VisionError> {
        let mut faces = self.find(picture, search, self.sure, budget)?;
        if faces.is_empty() {
            faces = self.find_with_border(picture, search, budget)?;
        }
        // A face on its side or upside down is often found with upright landmarks, but hardly ever
        // with a sure score.
        if search.turned && surest(&faces) < self.sure {
            faces = self
                .find_turned(picture, search, &faces, budget)?
                .unwrap_or(faces);
        }
        faces.truncate(search.max_faces);
        Ok(faces)
    }

    /// Returns the plausible faces, the most prominent first. Faces from the score `sure` on get no
    /// second look.
    fn find(
        &self,
        picture: &Pyramid,
        search: &Search,
        sure: f32,
        budget: &ThreadBudget,
    ) -> Result<Vec<Detection>, VisionError> {
        let mut faces = match &self.networks {
            Networks::Mtcnn(mtcnn) => mtcnn.detect(picture, search, sure, budget)?,
            Networks::Yunet(yunet) => yunet.detect(picture, search)?,
        };
        faces.retain(Detection::is_plausible);
        // Prominence combines size and score: a tiny sure face is rarely the one meant, and large
        // doubtful ones are often false positives.
        faces.sort_by(|a, b| b.prominence().total_cmp(&a.prominence()));
        Ok(faces)
    }

    /// Returns the faces that fill the picture, in its coordinates.
    fn find_with_border(
        &self,
        picture: &Pyramid,
        search: &Search,
        budget: &ThreadBudget,
    ) -> Result<Vec<Detection>, VisionError> {
        let (width, height) = (picture.width() as f64, picture.height() as f64);
        let side = width.max(height) * (1.0 + 2.0 * BORDER);
        let window = Window {
            left: (width - side) / 2.0,
            top: (height - side) / 2.0,
            width: side,
            height: side,
        };
        let scale = side / BORDERED_PX as f64;
        let wanted = (search.min_face_px as f64 / scale) as usize;
        let bordered = picture.cut(window, BORDERED_PX);
        let large = Search {
            min_face_px: wanted.max(BORDERED_SMALLEST_PX),
            ..*search
        };
        let mut faces = self.find(&Pyramid::new(&bordered), &large, TWICE, budget)?;
        let place = |[x, y]: [f32; 2]| {
            [
                (f64::from(x) * scale + window.left) as f32,
                (f64::from(y) * scale + window.top) as f32,
            ]
        };
        for face in &mut faces {
            [face.bounds.left, face.bounds.top] = place([face.bounds.left, face.bounds.top]);
            [face.bounds.right, face.bounds.bottom] =
                place([face.bounds.right, face.bounds.bottom]);
            face.landmarks = face.landmarks.map(place);
        }
        faces.retain(|face| face.bounds.size() >= search.min_face_px as f32);
        Ok(faces)
    }

    /// Returns the faces of a picture that is not upright, the most prominent first, in the
    /// coordinates of the given picture. `None` if one of the doubtful faces is confirmed, or if
    /// turning does not remove a quarter of the doubt about the surest face.
    fn find_turned(
        &self,
        picture: &Pyramid,
        search: &Search,
        doubtful: &[Detection],
        budget: &ThreadBudget,
    ) -> Result<Option<Vec<Detection>>, VisionError> {
        for face in doubtful.iter().take(DOUBTFUL) {
            if self.stands(face, picture, search, budget)? {
                return Ok(None);
            }
        }
        let needed = self.needed(surest(doubtful));
        let (side, least) = (picture.width().min(picture.height()), search.min_face_px);
        let smallest = TURNED_SMALLEST_PX
            .max(TURNED_TIMES * least)
            .max(side / TURNED_LEAST_PART);
        let smallest = smallest.min(least.max(side / TURNED_MOST_PART));
        let (reduced, shrink) = picture.halved(smallest as f64 / TURNED_FACE_PX as f64);
        let coarse = Search {
            min_face_px: (smallest as f64 * shrink) as usize,
            ..*search
        };
        let (score, turn) = self.surest_turn(reduced, &coarse, budget)?;
        if score < needed {
            return Ok(None);
        }
        let turned = turn.of(picture.whole());
        let faces = self.find(&Pyramid::new(&turned), search, TWICE, budget)?;
        // The reduced copy may show a face that the whole picture does not.
        if surest(&faces) < needed {
            return Ok(None);
        }
        Ok(Some(
            faces
                .iter()
                .map(|face| turn.back(face, picture.width(), picture.height()))
                .collect(),
        ))
    }

    /// Tells whether the surroundings confirm that a doubtful face is a face, and upright.
    fn stands(
        &self,
        face: &Detection,
        picture: &Pyramid,
        search: &Search,
        budget: &ThreadBudget,
    ) -> Result<bool, VisionError> {
        // YuNet needs as long for a part as for the whole picture.
        let Networks::Mtcnn(_) = self.networks else {
            return Ok(false);
        };
        let around = face.around(picture);
        let search = Search {
            min_face_px: AROUND_SMALLEST_PX,
            ..*search
        };
        let upright = surest(&self.find(&Pyramid::new(&around), &search, TWICE, budget)?);
        Ok(upright >= STANDS
            && self.surest_turn(&around, &search, budget)?.0 < self.needed(upright))
    }

    /// Returns the score from which a face counts as surer in a turned picture.
    fn needed(&self, as_given: f32) -> f32 {
        self.upright.max(as_given + (1.0 - as_given) / 4.0)
    }

    /// Returns the surest score of all turns of a picture, and its turn.
    fn surest_turn(
        &self,
        picture: &Rgb,
        search: &Search,
        budget: &ThreadBudget,
    ) -> Result<(f32, Turn), VisionError> {
        // All three turns are needed: in the opposite one a face can be found upside down, but with
        // a lower score.
        let scores = budget.each(&Turn::ALL, |turn| {
            let turned = turn.of(picture);
            self.find(&Pyramid::new(&turned), search, TWICE, budget)
                .map(|faces| (surest(&faces), *turn))
        });
        scores
            .into_iter()
            .try_fold((0.0, Turn::Half), |best, score| {
                let score = score?;
                Ok(if score.0 > best.0 { score } else { best })
            })
    }
}

fn surest(faces: &[Detection]) -> f32 {
    faces.iter().map(|face| face.score).fold(0.0, f32::max)
}

impl Detection {
    /// Returns the same face in a picture whose sides are `times` as long.
    pub(crate) fn enlarged(self, times: usize) -> Self {
        let landmarks = self.landmarks.map(|point| crate::enlarged(point, times));
        Self {
            bounds: self.bounds.enlarged(times),
            landmarks,
            ..self
        }
    }

    /// Cuts out the face with its surroundings.
    fn around(&self, picture: &Pyramid) -> Rgb {
        let Bounds {
            left,
            top,
            right,
            bottom,
        } = self.bounds;
        let side = AROUND * f64::from((right - left).max(bottom - top).max(1.0));
        let window = Window {
            left: (f64::from(left + right) - side) / 2.0,
            top: (f64::from(top + bottom) - side) / 2.0,
            width: side,
            height: side,
        };
        picture.cut(window, AROUND_PX)
    }

    fn prominence(&self) -> f32 {
        self.score * self.bounds.size()
    }

    /// Both eyes on one spot give no direction to align by, and no real face has them.
    fn is_plausible(&self) -> bool {
        let [[ax, ay], [bx, by], ..] = self.landmarks;
        let sides = [self.bounds.size(), self.score, ax, ay, bx, by];
        let finite = sides
            .iter()
            .chain(self.landmarks.as_flattened())
            .all(|v| v.is_finite());
        finite && (bx - ax).hypot(by - ay) > 1.0
    }
}
