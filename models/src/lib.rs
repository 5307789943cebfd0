//! Face detection, alignment and recognition from a model pack, and matching against a gallery.
//!
//! [`Pack::load`] checks a folder of networks, [`Vision::load`] makes it ready to run, and
//! [`Vision::recognise`] turns one decoded picture into faces. [`Gallery`] and [`Matching`] say who
//! they are. Nothing here decodes files, opens sockets, stores anything or knows a name.

mod align;
mod area;
pub mod calibration;
mod clusters;
mod cohort;
mod compare;
mod cores;
mod detect;
mod device;
mod direct;
mod embed;
pub mod evaluation;
mod gallery;
#[cfg(test)]
mod golden;
mod manifest;
mod matching;
mod quality;
mod rgb;
mod rows;
mod runtime;
mod timing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use align::Similarity;
use area::Pyramid;
use cores::Cores;
use detect::{Detection, Detector};
use embed::Recogniser;
use manifest::Alignment;

pub use clusters::{Clusters, SHAPED_BY, Shape};
pub use compare::{Comparison, Trial, compare_precisions};
pub use device::{Device, Precision};
pub use embed::recogniser_file;
pub use gallery::{Candidate, Gallery, Metric};
pub use manifest::{Pack, PackError, SelfTest, Tolerance};
pub use matching::{Caution, Lines, Matching, Outcome, Templates, Verdict};
pub use quality::{KnownAgain, Objection, Part, Quality, QualityLimits};
pub use rgb::{MAX_SIDE, Rgb};
pub use runtime::RUNTIME_VERSION;
pub use timing::{NetworkTime, time_networks};

/// Why a picture, a network or an embedding cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VisionError {
    /// The pack's files are not as its manifest says.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The pack has no recogniser of the precision asked for.
    #[error("model pack {pack} has no {precision} recogniser")]
    NoSuchPrecision {
        /// The pack's id.
        pack: String,
        /// What was asked for.
        precision: Precision,
    },
    /// There is no GPU, or its driver or libraries do not do.
    #[error("this machine has no usable NVIDIA GPU: {reason}; use the device cpu")]
    NoGpu {
        /// What is missing.
        reason: String,
    },
    /// The GPU's convolutions are floating point; an int8 network would run on the processor, with
    /// copies.
    #[error("int8 runs on the processor only; with the device cuda use float16 or float32")]
    Int8OnGpu,
    /// A network cannot be loaded, or does not have the inputs and outputs its decoder needs.
    #[error("network {file} cannot be used: {reason}")]
    Network {
        /// The file's name.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A network that should run in integers would run in floating point.
    #[error("network {file} is to run as int8, but these convolutions are float: {}", nodes.join(", "))]
    FloatConvolution {
        /// The file's name.
        file: String,
        /// The operators, by name.
        nodes: Vec<String>,
    },
    /// A network failed on a picture.
    #[error("network {file} failed: {reason}")]
    Inference {
        /// The file's name.
        file: String,
        /// What it said.
        reason: String,
    },
    /// A picture has no pixels, or a side beyond [`MAX_SIDE`].
    #[error(
        "a picture of {width}×{height} pixels cannot be used; each side must be between 1 and {MAX_SIDE}"
    )]
    PictureSides {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// A picture's bytes do not fill its sides.
    #[error("a picture of {width}×{height} pixels needs {} bytes, not {bytes}", 3 * width * height)]
    PictureLength {
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// A chip for the recogniser has the wrong sides.
    #[error("a face chip must be {expected}×{expected} pixels, not {width}×{height}")]
    ChipSides {
        /// What the pack says.
        expected: usize,
        /// Pixels in a row.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// An embedding of another length.
    #[error("an embedding must have {expected} numbers, not {found}")]
    Dimension {
        /// What the pack or gallery holds.
        expected: usize,
        /// What was given or made.
        found: usize,
    },
    /// An embedding of zeros, infinities or no numbers.
    #[error("an embedding is not usable: its length is {norm}")]
    NotAnEmbedding {
        /// Its length as a vector.
        norm: f32,
    },
    /// The self-test picture did not show exactly one face.
    #[error("the self-test picture shows one face, but {found} were found")]
    SelfTestFaces {
        /// How many were found.
        found: usize,
    },
    /// The self-test's embedding is not the reference.
    #[error(
        "the self-test's embedding is {distance:.3} away from the reference; at most {tolerance} is allowed for {precision}"
    )]
    SelfTestDistance {
        /// How far, in the pack's metric.
        distance: f32,
        /// How far it may be.
        tolerance: f32,
        /// What is running.
        precision: Precision,
    },
}

/// The part of a picture's longer side that the smallest face looked for has, unless it is chosen:
/// of 3840×2160 a quarter of the sides is decoded then, of 1920×1080 a half.
const SMALLEST_PART: usize = 40;

/// What to look for in a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Search {
    /// Faces smaller than this are not looked for.
    pub min_face_px: usize,
    /// No more faces than this are returned.
    pub max_faces: usize,
    /// Where no face is found, the picture is also looked at lying on either side and upside down;
    /// where there are only doubtful ones, what is around them is, and the whole if none of them
    /// stands. Landmarks, bounds and chips then come out as if it had been looked at that way only,
    /// in the given picture's coordinates.
    pub turned: bool,
}

/// An upright rectangle in pixels of the given picture; may reach beyond its edges.
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
    /// The same place in a picture whose sides are so many times as long. Whole numbers are the
    /// middles of pixels.
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

    /// The side of the square of the same area.
    pub fn size(&self) -> f32 {
        ((self.right - self.left).max(0.0) * (self.bottom - self.top).max(0.0)).sqrt()
    }
}

/// The place of a point, whose whole numbers are the middles of pixels, in a picture `times` as
/// large.
fn enlarged(point: [f32; 2], times: usize) -> [f32; 2] {
    point.map(|v| (v + 0.5) * times as f32 - 0.5)
}

/// One face.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    /// Where it is.
    pub bounds: Bounds,
    /// Image-left eye, image-right eye, nose tip, image-left and image-right corner of the mouth;
    /// left and right as in the picture with this face upright.
    pub landmarks: [[f32; 2]; 5],
    /// How sure the detector is, from 0 to 1.
    pub score: f32,
    /// How fit it is for enrolment.
    pub quality: Quality,
    /// What it is compared by; only with embeddings of the same space.
    pub embedding: Vec<f32>,
    /// How long the embedding was before it was brought to a length of its own: the longer, the
    /// more the network makes of the face.
    pub length: f32,
    /// The upright square the recogniser saw.
    pub chip: Rgb,
}

/// How long each stage took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Finding faces and landmarks.
    pub detect: Duration,
    /// Cutting chips and judging quality.
    pub align: Duration,
    /// Embedding all faces.
    pub embed: Duration,
}

/// Everything found in one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// The faces, the most prominent first.
    pub faces: Vec<Face>,
    /// How long it took.
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
    cores: Arc<Cores>,
}

impl Vision {
    /// Loads, checks, optimises and warms up a pack's networks. Each picture works on the thread
    /// that calls, until [`Vision::on_cores`] says otherwise.
    pub fn load(pack: &Pack, precision: Precision, device: Device) -> Result<Self, VisionError> {
        // The recogniser first: what is missing for a GPU is found before the rest is loaded.
        let recogniser = Recogniser::load(pack, precision, device)?;
        let detector = Arc::new(Detector::load(pack)?);
        Ok(Self::with_detector(
            pack,
            precision,
            device,
            recogniser,
            detector,
            Arc::new(Cores::new(1)),
        ))
    }

    /// How many cores all pictures together may use: one that is alone borrows those of the others.
    #[must_use]
    pub fn on_cores(self, count: usize) -> Self {
        Self {
            cores: Arc::new(Cores::new(count)),
            ..self
        }
    }

    /// The same pack on the same device in another precision; the two share the detector and the
    /// cores.
    pub fn in_precision(&self, pack: &Pack, precision: Precision) -> Result<Self, VisionError> {
        let recogniser = Recogniser::load(pack, precision, self.device)?;
        Ok(Self::with_detector(
            pack,
            precision,
            self.device,
            recogniser,
            Arc::clone(&self.detector),
            Arc::clone(&self.cores),
        ))
    }

    fn with_detector(
        pack: &Pack,
        precision: Precision,
        device: Device,
        recogniser: Recogniser,
        detector: Arc<Detector>,
        cores: Arc<Cores>,
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
            cores,
        }
    }

    /// The recogniser's arithmetic.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What the recogniser runs on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The smallest face worth looking for in a picture of these sides where nobody chooses, in its
    /// pixels: the pack's, or a 40th of the longer side if that is more, so that what detection
    /// takes does not grow with the picture.
    pub fn smallest_face(&self, width: usize, height: usize) -> usize {
        self.min_face_px.max(width.max(height) / SMALLEST_PART)
    }

    /// By how much (1, 2 or 4) the sides of a picture may be divided before the detector sees less
    /// of the faces it is to find.
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

    /// Does what a picture needs, its decoding and encoding too. Meanwhile the calling thread's
    /// core is not lent to other pictures.
    pub fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        let _core = self.cores.take();
        work()
    }

    /// Finds and embeds every face of a picture.
    pub fn recognise(&self, picture: &Rgb, search: &Search) -> Result<Analysis, VisionError> {
        self.busy(|| self.recognise_reduced(picture, 1, search, |_| None))
    }

    /// [`Vision::recognise`] for a picture that is here with its sides divided by `reduction`. All
    /// places and sizes are those of the whole picture. Where faces are too small in this one for
    /// the recogniser, `part` is asked for what lies within the given bounds of the whole picture;
    /// it returns that and perhaps more, and where its left upper corner is. To be called within
    /// [`Vision::busy`].
    pub fn recognise_reduced(
        &self,
        picture: &Rgb,
        reduction: usize,
        search: &Search,
        part: impl FnOnce(Bounds) -> Option<(Rgb, [usize; 2])>,
    ) -> Result<Analysis, VisionError> {
        self.analyse(picture, reduction, search, part, &self.cores)
    }

    /// [`Vision::recognise`] on the calling thread alone, to compare times.
    fn recognise_alone(&self, picture: &Rgb, search: &Search) -> Result<Analysis, VisionError> {
        self.analyse(picture, 1, search, |_| None, &Cores::new(0))
    }

    fn analyse(
        &self,
        picture: &Rgb,
        reduction: usize,
        search: &Search,
        part: impl FnOnce(Bounds) -> Option<(Rgb, [usize; 2])>,
        cores: &Cores,
    ) -> Result<Analysis, VisionError> {
        picture.check()?;
        let started = Instant::now();
        let pyramid = Pyramid::new(picture);
        let reduced = Search {
            min_face_px: search.min_face_px / reduction,
            ..*search
        };
        let detections = self.detector.detect(&pyramid, &reduced, cores)?;
        let found = Instant::now();
        let detail =
            align::wanted_detail(&detections, &self.alignment.template, self.alignment.size)
                .filter(|_| reduction > 1)
                .and_then(|bounds| part(bounds.enlarged(reduction)));
        // A face that would be enlarged here is not `reduction` times as large as its chip there.
        let halves = reduction.ilog2().saturating_sub(1) as usize;
        let detail = detail
            .as_ref()
            .map(|(picture, corner)| (Pyramid::with_halves(picture, halves), *corner));
        let sides = [picture.width * reduction, picture.height * reduction];
        let cut = |detection: &Detection| {
            let mut to_chip = Similarity::between(&detection.landmarks, &self.alignment.template)?;
            let Detection {
                bounds,
                landmarks,
                score,
            } = detection.enlarged(reduction);
            let mut source = &pyramid;
            if let Some((part, [left, top])) = detail.as_ref().filter(|_| to_chip.enlarges()) {
                let there = landmarks.map(|[x, y]| [x - *left as f32, y - *top as f32]);
                if let Some(similarity) = Similarity::between(&there, &self.alignment.template) {
                    (source, to_chip) = (part, similarity);
                }
            }
            let chip = align::cut(source, &to_chip, self.alignment.size);
            let quality = Quality::measure(bounds, &landmarks, score, &chip, sides);
            Some(Face {
                bounds,
                landmarks,
                score,
                quality,
                embedding: Vec::new(),
                length: 0.0,
                chip,
            })
        };
        // The detector lets no face without a distance between the eyes through, so none is left
        // out.
        let mut faces: Vec<Face> = cores.each(&detections, cut).into_iter().flatten().collect();
        let aligned = Instant::now();
        let chips: Vec<&Rgb> = faces.iter().map(|face| &face.chip).collect();
        let embeddings = self.recogniser.embed(&chips, cores)?;
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

    /// Embeds one aligned chip, as kept from an earlier analysis.
    pub fn embed(&self, chip: &Rgb) -> Result<Vec<f32>, VisionError> {
        let embeddings = self.busy(|| self.recogniser.embed(&[chip], &self.cores));
        // As many embeddings as chips.
        embeddings.map(|mut embeddings| embeddings.swap_remove(0).values)
    }

    /// Compares the analysis of the self-test picture with the pack's reference and returns the
    /// distance, or says why the self-test is failed.
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
