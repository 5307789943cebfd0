//! YuNet: one run over the letterboxed picture, three grids of anchor-free boxes.

use super::Detection;
use super::nms::{Overlap, suppress};
use crate::manifest::YunetSpec;
use crate::pixels::{Colour, Pixels};
use crate::pyramid::{Pyramid, Window};
use crate::runtime::{Network, Outputs, Plan};
use crate::{Bounds, Device, Pack, Search, VisionError};

const STRIDES: [usize; 3] = [8, 16, 32];
/// Class, object, box and landmark outputs, each for the three strides.
pub(crate) const OUTPUTS: [&str; 12] = [
    "cls_8", "cls_16", "cls_32", "obj_8", "obj_16", "obj_32", "bbox_8", "bbox_16", "bbox_32",
    "kps_8", "kps_16", "kps_32",
];
/// Values per grid cell for each of the four kinds of output.
const WIDTHS: [usize; 4] = [1, 1, 4, 10];
/// Limit on the boxes that go on to suppression, which takes quadratic time.
const CANDIDATES: usize = 2048;

#[derive(Debug)]
pub(crate) struct Yunet {
    plan: Plan,
    height: usize,
    width: usize,
    score_threshold: f32,
    nms_iou: f32,
}

impl Yunet {
    pub(crate) fn load(pack: &Pack, spec: &YunetSpec) -> Result<Self, VisionError> {
        let network = Network::load(pack, &spec.model, &OUTPUTS)?;
        let [height, width] = spec.input;
        let shape = [1, 3, height, width];
        let expected = OUTPUTS.iter().enumerate().map(|(ix, _)| {
            let stride = STRIDES[ix % 3];
            [1, (height / stride) * (width / stride), WIDTHS[ix / 3]]
        });
        let expected: Vec<[usize; 3]> = expected.collect();
        let expected: Vec<&[usize]> = expected.iter().map(<[usize; 3]>::as_slice).collect();
        let plan = network.plan(shape, Device::Cpu, &Pixels::new([0.0; 3], 1.0, Colour::Bgr))?;
        plan.require_shapes(shape, &expected)?;
        Ok(Self {
            plan,
            height,
            width,
            score_threshold: spec.score_threshold,
            nms_iou: spec.nms_iou,
        })
    }

    /// Returns how far the picture may be reduced: the network sees it in its input size anyway.
    pub(crate) fn reduction(&self, width: usize, height: usize) -> f64 {
        (width as f64 / self.width as f64).max(height as f64 / self.height as f64)
    }

    pub(crate) fn detect(
        &self,
        picture: &Pyramid,
        search: &Search,
    ) -> Result<Vec<Detection>, VisionError> {
        let (width, height) = (self.width as f64, self.height as f64);
        // Pictures are never enlarged: the network misses faces above about 300 pixels.
        let scale = (width / picture.width() as f64)
            .min(height / picture.height() as f64)
            .min(1.0);
        // Letterbox: the window is black beyond the picture.
        let window = Window {
            left: 0.0,
            top: 0.0,
            width: width / scale,
            height: height / scale,
        };
        let mut input = vec![0; 3 * self.width * self.height];
        picture.sample(window, self.width, self.height, &mut input);
        let mut faces = self.decode(
            &self.plan.run([1, 3, self.height, self.width], &input)?,
            scale as f32,
        );
        faces.retain(|face| face.bounds.size() >= search.min_face_px as f32);
        if faces.len() > CANDIDATES {
            faces.select_nth_unstable_by(CANDIDATES, |a, b| b.score.total_cmp(&a.score));
            faces.truncate(CANDIDATES);
        }
        Ok(suppress(faces, self.nms_iou, Overlap::Union, 0.0))
    }

    fn decode(&self, outputs: &Outputs, scale: f32) -> Vec<Detection> {
        let mut faces = Vec::new();
        for (level, stride) in STRIDES.into_iter().enumerate() {
            let [cls, obj, boxes, points] = [0, 3, 6, 9].map(|kind| outputs.get(kind + level));
            let columns = self.width / stride;
            for (cell, (cls, obj)) in cls.iter().zip(obj).enumerate() {
                let score = (cls.clamp(0.0, 1.0) * obj.clamp(0.0, 1.0)).sqrt();
                if score < self.score_threshold {
                    continue;
                }
                let step = stride as f32;
                let [x, y] = [cell % columns, cell / columns].map(|v| v as f32 * step);
                let b = &boxes[4 * cell..4 * cell + 4];
                let (cx, cy) = (x + b[0] * step, y + b[1] * step);
                let (w, h) = (b[2].exp() * step / 2.0, b[3].exp() * step / 2.0);
                let bounds = Bounds {
                    left: (cx - w) / scale,
                    top: (cy - h) / scale,
                    right: (cx + w) / scale,
                    bottom: (cy + h) / scale,
                };
                let p = &points[10 * cell..10 * cell + 10];
                let point = |k: usize| {
                    [
                        (x + p[2 * k] * step) / scale,
                        (y + p[2 * k + 1] * step) / scale,
                    ]
                };
                faces.push(Detection {
                    bounds,
                    landmarks: std::array::from_fn(point),
                    score,
                });
            }
        }
        faces
    }
}
