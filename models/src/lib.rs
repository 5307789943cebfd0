//! Face detection, alignment and recognition with a model pack, and matching against a gallery.
//!
//! [`Pack::load`] checks a folder of networks, [`Vision::load`] makes it ready to run, and
//! [`Vision::recognise`] turns one decoded picture into faces. [`Gallery`] and [`Matching`]
//! identify them. This crate decodes no files, opens no sockets, stores nothing and knows no names.
#![forbid(unsafe_code)]

mod align;
pub mod calibration;
mod clusters;
mod cohort;
mod compare;
mod detect;
mod device;
mod embedding;
mod error;
pub mod evaluation;
mod gallery;
#[cfg(test)]
mod golden;
mod manifest;
mod matching;
mod matrix;
mod pixels;
mod pyramid;
mod quality;
mod recogniser;
mod rgb;
mod runtime;
mod thread_budget;
mod timing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use align::Similarity;
use detect::{Detection, Detector};
use manifest::Alignment;
use pyramid::Pyramid;
use recogniser::Recogniser;
use thread_budget::ThreadBudget;

pub use clusters::{Centroid, Clusters, MOST_AVERAGED};
pub use compare::{Comparison, Trial, compare_precisions};
pub use device::{Device, Precision};
pub use error::VisionError;
pub use gallery::Gallery;
pub use manifest::{Pack, PackError, SelfTest, Tolerance};
pub use matching::{Candidate, Caution, Limits, Matching, Metric, Outcome, Templates, Verdict};
pub use quality::{KnownAgain, Objection, Part, Quality, QualityLimits};
pub use recogniser::recogniser_file;
pub use rgb::{MAX_SIDE, Rgb};
pub use runtime::RUNTIME_VERSION;
pub use timing::{NetworkTime, time_networks};

/// Longer side of the picture over the default smallest face. With it, a 3840×2160 picture is
/// decoded at a quarter of its sides and a 1920×1080 one at a half.
const SMALLEST_PART: usize = 40;

/// Parameters of a face search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Smallest face searched for.
    pub min_face_px: usize,
    /// Limit on the faces returned.
    pub max_faces: usize,
    /// Search for turned faces too. If the search finds no face, the picture is searched
    /// again on either side and upside down. If it finds only doubtful ones, their surroundings are
    /// searched first, and the turned picture only if none of them is confirmed. Landmarks, bounds
    /// and crops come out as if only the right turn had been searched, in the coordinates of the
    /// given picture.
    pub turned: bool,
}

/// An upright rectangle, in pixels of the given picture. It may reach beyond the edges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// Left edge.
    pub left: f32,
    /// Top edge.
    pub top: f32,
    /// Right edge.
    pub right: f32,
    /// Bottom edge.
    pub bottom: f32,
}

impl Bounds {
    /// Returns the same place in a picture whose sides are `times` as long. Whole numbers are pixel
    /// centres.
    fn enlarged(self, times: usize) -> Self {
        let [left, top] = enlarged([self.left, self.top], times);
        let [right, bottom] = enlarged([self.right, self.bottom], times);
        Self {
            left,
            top,
            right,
            bottom,
        }
    }

    /// Returns the side of the square of the same area.
    pub fn size(&self) -> f32 {
        ((self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)).sqrt()
    }
}

/// Returns the place of a point in a picture `times` as large. Whole numbers are pixel centres.
fn enlarged(point: [f32; 2], times: usize) -> [f32; 2] {
    point.map(|v| (v + 0.5) * times as f32 - 0.5)
}

/// A face found in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    /// Place of the face.
    pub bounds: Bounds,
    /// Image-left eye, image-right eye, nose tip, image-left and image-right corner of the mouth;
    /// left and right as seen with this face upright.
    pub landmarks: [[f32; 2]; 5],
    /// Score of the detector, from 0 to 1.
    pub score: f32,
    /// Fitness for enrolment and for being known.
    pub quality: Quality,
    /// Embedding, comparable only with those of the same space.
    pub embedding: Vec<f32>,
    /// Length of the network's output before normalisation. It grows with the quality of the face.
    pub length: f32,
    /// The upright square that the recogniser gets.
    pub crop: Rgb,
}

/// Time that each stage took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Detection of faces and landmarks.
    pub detect: Duration,
    /// Cutting of the crops and measurement of quality.
    pub align: Duration,
    /// Embedding of all faces.
    pub embed: Duration,
}

/// The result for one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// The faces, the most prominent first.
    pub faces: Vec<Face>,
    /// Time that each stage took.
    pub timings: Timings,
}

/// A model pack ready to run; shared between threads.
#[derive(Debug)]
pub struct Vision {
    precision: Precision,
    device: Device,
    detector: Arc<Detector>,
    alignment: Alignment,
    recogniser: Recogniser,
    metric: Metric,
    min_face_px: usize,
    known_again: Option<KnownAgain>,
    self_test: SelfTest,
    budget: Arc<ThreadBudget>,
}

impl Vision {
    /// Loads, checks, optimises and warms up a pack's networks. Each picture runs on the calling
    /// thread only, unless [`Vision::on_cores`] allows more.
    pub fn load(pack: &Pack, precision: Precision, device: Device) -> Result<Self, VisionError> {
        // The recogniser comes first, so that a missing GPU is reported before the rest is loaded.
        let recogniser = Recogniser::load(pack, precision, device)?;
        let detector = Arc::new(Detector::load(pack)?);
        Ok(Self::with_detector(
            pack,
            precision,
            device,
            recogniser,
            detector,
            Arc::new(ThreadBudget::new(1)),
        ))
    }

    /// Sets the number of cores for all pictures together. A picture that is alone borrows the
    /// others' cores.
    #[must_use]
    pub fn on_cores(self, count: usize) -> Self {
        Self {
            budget: Arc::new(ThreadBudget::new(count)),
            ..self
        }
    }

    /// Loads the same pack for the same device in another precision. Both share the detector and
    /// the cores.
    pub fn in_precision(&self, pack: &Pack, precision: Precision) -> Result<Self, VisionError> {
        let recogniser = Recogniser::load(pack, precision, self.device)?;
        Ok(Self::with_detector(
            pack,
            precision,
            self.device,
            recogniser,
            Arc::clone(&self.detector),
            Arc::clone(&self.budget),
        ))
    }

    fn with_detector(
        pack: &Pack,
        precision: Precision,
        device: Device,
        recogniser: Recogniser,
        detector: Arc<Detector>,
        budget: Arc<ThreadBudget>,
    ) -> Self {
        Self {
            precision,
            device,
            detector,
            alignment: pack.manifest.alignment.clone(),
            recogniser,
            metric: pack.matching().metric,
            min_face_px: pack.min_face_px(),
            known_again: pack.quality_limits().known_again.clone(),
            self_test: pack.self_test().clone(),
            budget,
        }
    }

    /// Returns the recogniser's precision.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Returns the recogniser's device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns the default smallest face for a picture of these sides, in pixels: the pack's, or a
    /// 40th of the longer side if that is larger. The time for detection therefore does not grow
    /// with the picture.
    pub fn smallest_face(&self, width: usize, height: usize) -> usize {
        self.min_face_px.max(width.max(height) / SMALLEST_PART)
    }

    /// Returns the factor (1, 2 or 4) by which a picture may be reduced before the detector sees
    /// less of the faces it is to find.
    pub fn reduction(&self, width: usize, height: usize, search: &Search) -> usize {
        let most = if width.max(height) > MAX_SIDE {
            1.0
        } else {
            self.detector.reduction(width, height, search)
        };
        [4, 2]
            .into_iter()
            .find(|&reduction| most >= f64::from(reduction as u8))
            .unwrap_or(1)
    }

    /// Runs all work for a picture, decoding and encoding included. Meanwhile the calling thread's
    /// core is not lent to other pictures.
    pub fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let _permit = self.budget.take();
        work()
    }

    /// Finds and embeds every face of a picture.
    pub fn recognise(&self, picture: &Rgb, search: &Search) -> Result<Analysis, VisionError> {
        self.busy(|| self.recognise_reduced(picture, 1, search, |_| None))
    }

    /// Does the work of [`Vision::recognise`] on a picture whose sides were divided by `reduction`.
    /// All places and sizes refer to the whole picture. If faces here are too small for the
    /// recogniser, `part` is asked for the given bounds of the whole picture; it returns a part
    /// that contains them, with the place of its left upper corner. Call this within
    /// [`Vision::busy`].
    pub fn recognise_reduced(
        &self,
        picture: &Rgb,
        reduction: usize,
        search: &Search,
        part: impl FnOnce(Bounds) -> Option<(Rgb, [usize; 2])>,
    ) -> Result<Analysis, VisionError> {
        self.analyse(picture, reduction, search, part, &self.budget)
    }

    /// Does the work of [`Vision::recognise`] on the calling thread alone, to compare times.
    fn recognise_alone(&self, picture: &Rgb, search: &Search) -> Result<Analysis, VisionError> {
        self.analyse(picture, 1, search, |_| None, &ThreadBudget::new(0))
    }

    fn analyse(
        &self,
        picture: &Rgb,
        reduction: usize,
        search: &Search,
        part: impl FnOnce(Bounds) -> Option<(Rgb, [usize; 2])>,
        budget: &ThreadBudget,
    ) -> Result<Analysis, VisionError> {
        picture.check()?;
        let started = Instant::now();
        let pyramid = Pyramid::new(picture);
        let reduced = Search {
            min_face_px: search.min_face_px / reduction,
            ..*search
        };
        let detections = self.detector.detect(&pyramid, &reduced, budget)?;
        let found = Instant::now();
        let detail =
            align::wanted_detail(&detections, &self.alignment.template, self.alignment.size)
                .filter(|_| reduction > 1)
                .and_then(|bounds| part(bounds.enlarged(reduction)));
        // A face that would be enlarged here is less than `reduction` times as large as its crop in
        // the part, so fewer halved copies are enough.
        let halves = reduction.ilog2().saturating_sub(1) as usize;
        let detail = detail
            .as_ref()
            .map(|(picture, corner)| (Pyramid::with_halves(picture, halves), *corner));
        let sides = [picture.width * reduction, picture.height * reduction];
        let cut = |detection: &Detection| {
            let mut to_crop = Similarity::between(&detection.landmarks, &self.alignment.template)?;
            let Detection {
                bounds,
                landmarks,
                score,
            } = detection.enlarged(reduction);
            let mut source = &pyramid;
            if let Some((part, [left, top])) = detail.as_ref().filter(|_| to_crop.enlarges()) {
                let there = landmarks.map(|[x, y]| [x - *left as f32, y - *top as f32]);
                if let Some(similarity) = Similarity::between(&there, &self.alignment.template) {
                    (source, to_crop) = (part, similarity);
                }
            }
            let crop = align::cut(source, &to_crop, self.alignment.size);
            let quality = Quality::measure(bounds, &landmarks, score, &crop, sides);
            Some(Face {
                bounds,
                landmarks,
                score,
                quality,
                embedding: Vec::new(),
                length: 0.0,
                crop,
            })
        };
        // The detector only returns faces with a distance between the eyes, so every face gets a
        // crop.
        let mut faces: Vec<Face> = budget
            .each(&detections, cut)
            .into_iter()
            .flatten()
            .collect();
        let aligned = Instant::now();
        let crops: Vec<&Rgb> = faces.iter().map(|face| &face.crop).collect();
        let embeddings = self.recogniser.embed(&crops, budget)?;
        for (face, embedding) in faces.iter_mut().zip(embeddings) {
            (face.embedding, face.length) = (embedding.values, embedding.length);
            if let Some(curve) = &self.known_again {
                face.quality.score = curve.share(face.length);
            }
        }
        let timings = Timings {
            detect: found - started,
            align: aligned - found,
            embed: aligned.elapsed(),
        };
        Ok(Analysis { faces, timings })
    }

    /// Embeds one aligned crop from an earlier analysis.
    pub fn embed(&self, crop: &Rgb) -> Result<Vec<f32>, VisionError> {
        let embeddings = self.busy(|| self.recogniser.embed(&[crop], &self.budget));
        // There is one embedding for one crop.
        embeddings.map(|mut embeddings| embeddings.swap_remove(0).values)
    }

    /// Compares the analysis of the self-test picture with the pack's reference. Returns the
    /// distance, or an error if the self-test fails.
    pub fn check_reference(&self, analysis: &Analysis) -> Result<f32, VisionError> {
        self.self_test
            .check(&embeddings(analysis), self.metric, self.precision)
    }

    fn reference_distance(&self, analysis: &Analysis) -> Result<f32, VisionError> {
        self.self_test.distance(&embeddings(analysis), self.metric)
    }

    fn tolerance(&self) -> f32 {
        self.self_test.tolerance.of(self.precision)
    }
}

fn embeddings(analysis: &Analysis) -> Vec<&[f32]> {
    let faces = analysis.faces.iter();
    faces.map(|face| face.embedding.as_slice()).collect()
}
