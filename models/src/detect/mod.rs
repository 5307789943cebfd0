//! Finding faces: what every detector returns, and which decoder reads which networks. The only
//! place that knows a detector by name.

mod mtcnn;
mod nms;
mod yunet;

use crate::area::Pyramid;
use crate::manifest::DetectorSpec;
use crate::{Bounds, Pack, Search, VisionError};

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
    pub(crate) fn detect(&self, picture: &Pyramid, search: &Search) -> Result<Vec<Detection>, VisionError> {
        let mut faces = match self {
            Self::Mtcnn(mtcnn) => mtcnn.detect(picture, search)?,
            Self::Yunet(yunet) => yunet.detect(picture, search)?,
        };
        faces.retain(Detection::is_plausible);
        // Neither the surest nor the largest alone: a tiny sure face is rarely the one meant,
        // and large doubtful ones are often no faces.
        faces.sort_by(|a, b| b.prominence().total_cmp(&a.prominence()));
        faces.truncate(search.max_faces);
        Ok(faces)
    }
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
