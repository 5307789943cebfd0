//! Finding faces: what every detector returns, and which decoder reads which networks. The only
//! place that knows a detector by name.

mod mtcnn;
mod nms;
mod turned;
pub(crate) mod yunet;

use crate::area::{Pyramid, Window};
use crate::cores::Cores;
use crate::manifest::DetectorSpec;
use crate::{Bounds, Pack, Rgb, Search, VisionError};
use turned::Turn;

/// The most doubtful faces of a picture whose surroundings are looked at, the most prominent ones.
const DOUBTFUL: usize = 4;
/// The side of what is looked at around a doubtful face, in sides of that: often it is a cheek or
/// an eye of one that lies on its side…
const AROUND: f64 = 3.0;
/// …in so many pixels…
const AROUND_PX: usize = 96;
/// …for faces of this many, three quarters of the doubtful one's.
const AROUND_SMALLEST_PX: usize = 24;
/// A doubtful face stands if one is found around it with this score, and none is surer turned. Of
/// 86 upright portraits with only doubtful faces 85 have one that stands, of 1 068 lying down or
/// upside down one (models/benches/detector.md).
const STANDS: f32 = 0.98;
/// A turned picture is looked at for faces of this many pixels, or of so many times the smallest
/// wanted if that is more…
const TURNED_SMALLEST_PX: usize = 80;
const TURNED_TIMES: usize = 2;
/// …but neither for faces of less than this part of its shorter side: a photograph of many pixels
/// shows large ones…
const TURNED_LEAST_PART: usize = 24;
/// …nor only for those of more than this part: a small picture shows one large face…
const TURNED_MOST_PART: usize = 4;
/// …in a copy where the smallest of them still has this many pixels: enough to tell which way is
/// up.
const TURNED_FACE_PX: usize = 30;
/// Here no first look is enough: several times as much is looked at, so several times as much looks
/// like a face.
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
pub(crate) struct Detector {
    networks: Networks,
    /// The score of a face that is one beyond doubt, and upright.
    sure: f32,
    /// The score a face must have for a turned picture to be taken for the upright one.
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

    /// How much larger than needed the smallest faces are that are looked for in a picture of these
    /// sides.
    pub(crate) fn reduction(&self, width: usize, height: usize, search: &Search) -> f64 {
        match &self.networks {
            Networks::Mtcnn(_) => mtcnn::reduction(width, height, search.min_face_px),
            Networks::Yunet(yunet) => yunet.reduction(width, height),
        }
    }

    /// The faces of a picture, the most prominent first.
    pub(crate) fn detect(
        &self,
        picture: &Pyramid,
        search: &Search,
        cores: &Cores,
    ) -> Result<Vec<Detection>, VisionError> {
        let mut faces = self.look(picture, search, self.sure, cores)?;
        // A face on its side or upside down is often found with landmarks of an upright one, but
        // hardly ever surely.
        if search.turned && surest(&faces) < self.sure {
            faces = self
                .look_turned(picture, search, &faces, cores)?
                .unwrap_or(faces);
        }
        faces.truncate(search.max_faces);
        Ok(faces)
    }

    /// The plausible faces, the most prominent first; those from the score `sure` are not looked at
    /// a second time.
    fn look(
        &self,
        picture: &Pyramid,
        search: &Search,
        sure: f32,
        cores: &Cores,
    ) -> Result<Vec<Detection>, VisionError> {
        let mut faces = match &self.networks {
            Networks::Mtcnn(mtcnn) => mtcnn.detect(picture, search, sure, cores)?,
            Networks::Yunet(yunet) => yunet.detect(picture, search)?,
        };
        faces.retain(Detection::is_plausible);
        // Neither the surest nor the largest alone: a tiny sure face is rarely the one meant,
        // and large doubtful ones are often no faces.
        faces.sort_by(|a, b| b.prominence().total_cmp(&a.prominence()));
        Ok(faces)
    }

    /// The faces of a picture that is not upright, in the coordinates of the picture as given, the
    /// most prominent first. None unless there is a quarter less doubt about one, once the picture
    /// is turned, than about the surest as given; and none where one of the doubtful faces stands:
    /// the whole picture is not looked at turned then.
    fn look_turned(
        &self,
        picture: &Pyramid,
        search: &Search,
        doubtful: &[Detection],
        cores: &Cores,
    ) -> Result<Option<Vec<Detection>>, VisionError> {
        for face in doubtful.iter().take(DOUBTFUL) {
            if self.stands(face, picture, search, cores)? {
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
        let (score, turn) = self.surest_turn(reduced, &coarse, cores)?;
        if score < needed {
            return Ok(None);
        }
        let turned = turn.of(picture.whole());
        let faces = self.look(&Pyramid::new(&turned), search, TWICE, cores)?;
        // The copy may have shown what the whole does not.
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

    /// Whether a doubtful face is one, and upright, by what is around it.
    fn stands(
        &self,
        face: &Detection,
        picture: &Pyramid,
        search: &Search,
        cores: &Cores,
    ) -> Result<bool, VisionError> {
        // YuNet looks at any part for as long as at the whole.
        let Networks::Mtcnn(_) = self.networks else {
            return Ok(false);
        };
        let around = face.around(picture);
        let search = Search {
            min_face_px: AROUND_SMALLEST_PX,
            ..*search
        };
        let upright = surest(&self.look(&Pyramid::new(&around), &search, TWICE, cores)?);
        Ok(
            upright >= STANDS
                && self.surest_turn(&around, &search, cores)?.0 < self.needed(upright),
        )
    }

    /// The score with which a face is found surer in a turned picture than with this one as given.
    fn needed(&self, as_given: f32) -> f32 {
        self.upright.max(as_given + (1.0 - as_given) / 4.0)
    }

    /// How surely a face is found in a picture once it is turned, and which way.
    fn surest_turn(
        &self,
        picture: &Rgb,
        search: &Search,
        cores: &Cores,
    ) -> Result<(f32, Turn), VisionError> {
        // All three: in the opposite turn the same face can be found upside down, but less surely.
        let looks = cores.each(&Turn::ALL, |turn| {
            let turned = turn.of(picture);
            self.look(&Pyramid::new(&turned), search, TWICE, cores)
                .map(|faces| (surest(&faces), *turn))
        });
        looks.into_iter().try_fold((0.0, Turn::Half), |best, look| {
            let look = look?;
            Ok(if look.0 > best.0 { look } else { best })
        })
    }
}

fn surest(faces: &[Detection]) -> f32 {
    faces.iter().map(|face| face.score).fold(0.0, f32::max)
}

impl Detection {
    /// The same face in a picture whose sides are so many times as long.
    pub(crate) fn enlarged(self, times: usize) -> Self {
        let landmarks = self.landmarks.map(|point| crate::enlarged(point, times));
        Self {
            bounds: self.bounds.enlarged(times),
            landmarks,
            ..self
        }
    }

    /// The face and what is around it.
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
        let mut pixels = vec![0; 3 * AROUND_PX * AROUND_PX];
        picture.sample(window, AROUND_PX, AROUND_PX, &mut pixels);
        Rgb {
            width: AROUND_PX,
            height: AROUND_PX,
            pixels,
        }
    }

    fn prominence(&self) -> f32 {
        self.score * self.bounds.size()
    }

    /// Eyes in one spot give no direction to align by, and no real face has them.
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
