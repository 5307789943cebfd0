//! A model pack: its `pack.toml` as typed values, every key checked, every file's sha256 compared.
//! Networks are only read here, not understood; that is `runtime`'s.

mod rules;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::VisionError;
use crate::cohort::Cohort;
use crate::device::{Device, Precision};
use crate::embed::{check_embedding, merged};
use crate::gallery::Metric;
use crate::matching::Matching;
use crate::quality::QualityLimits;
use crate::runtime::Pixels;

/// Raised whenever the code between pixels and embedding changes what it computes, so that
/// embeddings made before are not compared with those made after.
const PIPELINE: &str = "kith-2";

/// Why a pack cannot be used; every message names the file or the key.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of the pack cannot be read.
    #[error("model pack file {file} cannot be read: {source}")]
    Unreadable {
        /// The file's full path.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// `pack.toml` is not TOML, lacks a key or has one too many.
    #[error("{file}: {reason}")]
    Syntax {
        /// The manifest's full path.
        file: PathBuf,
        /// The parser's words, with the line.
        reason: String,
    },
    /// A key's value breaks its rule.
    #[error("pack.toml: {key} is {value}; it must be {rule}")]
    Value {
        /// Where in `pack.toml`.
        key: String,
        /// What is there.
        value: String,
        /// What may be there.
        rule: &'static str,
    },
    /// A file that is used has no line in `[sha256]`.
    #[error("pack.toml: {file} is used but has no line under [sha256]")]
    Unlisted {
        /// The file's name.
        file: String,
    },
    /// A file is not the one the manifest was written for.
    #[error(
        "model pack file {file} is damaged or replaced: its sha256 is {found}, pack.toml says {expected}"
    )]
    Checksum {
        /// The file's name.
        file: String,
        /// The sum in the manifest.
        expected: String,
        /// The sum of the file.
        found: String,
    },
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    id: String,
    description: String,
    commercial_use: bool,
    pub(crate) detector: DetectorSpec,
    pub(crate) alignment: Alignment,
    pub(crate) recogniser: RecogniserSpec,
    matching: Matching,
    quality: QualityLimits,
    self_test: SelfTestSpec,
    sha256: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "decoder", rename_all = "lowercase")]
pub(crate) enum DetectorSpec {
    Mtcnn(MtcnnSpec),
    Yunet(YunetSpec),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MtcnnSpec {
    pub(crate) pnet: String,
    pub(crate) rnet: String,
    pub(crate) onet: String,
    pub(crate) min_face_px: usize,
    /// From which score a box goes on from P-, R- and O-Net; O-Net's is the mean of two looks.
    pub(crate) thresholds: [f32; 3],
    /// How much of two boxes, shared over both together, may be the same for both to go on from
    /// R-Net to O-Net.
    pub(crate) overlap: f32,
    /// From which score O-Net's first look is enough, and the picture as given.
    pub(crate) sure: f32,
    /// Which score a face in the turned picture must have.
    pub(crate) upright: f32,
    pub(crate) pyramid_factor: f32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct YunetSpec {
    pub(crate) model: String,
    /// Height and width of the network's input.
    pub(crate) input: [usize; 2],
    pub(crate) score_threshold: f32,
    /// From which score the picture as given is enough.
    pub(crate) sure: f32,
    /// Which score a face in the turned picture must have.
    pub(crate) upright: f32,
    pub(crate) nms_iou: f32,
    pub(crate) min_face_px: usize,
}

/// Where the five landmarks land on the square chip the recogniser is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alignment {
    pub(crate) size: usize,
    pub(crate) template: [[f32; 2]; 5],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Colour {
    Rgb,
    Bgr,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecogniserSpec {
    pub(crate) colour: Colour,
    pub(crate) mean: [f32; 3],
    pub(crate) scale: f32,
    pub(crate) dimension: usize,
    pub(crate) normalise: bool,
    /// Whether an embedding is made from a face and its mirror image where nobody chooses.
    flip: Option<bool>,
    /// One file that the network of every precision is made from, in place of a file for each.
    stored: Option<String>,
    float32: Option<String>,
    float16: Option<String>,
    int8: Option<String>,
    default_precision: Precision,
    cohort: Option<CohortSpec>,
}

/// What [`Cohort::new`] is made of.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CohortSpec {
    means: String,
    typical: f32,
    strength: f32,
}

impl RecogniserSpec {
    /// What a chip's pixels become for the network.
    pub(crate) fn pixels(&self) -> Pixels {
        Pixels::new(self.mean, self.scale, self.colour)
    }

    /// The file that the network of this precision is made from, if the pack has one.
    pub(crate) fn file(&self, precision: Precision) -> Option<&str> {
        let of_precision = match precision {
            Precision::Float32 => &self.float32,
            Precision::Float16 => &self.float16,
            Precision::Int8 => &self.int8,
        };
        self.stored.as_deref().or(of_precision.as_deref())
    }

    /// Whether that file holds the weights of all precisions.
    pub(crate) fn is_stored_once(&self) -> bool {
        self.stored.is_some()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SelfTestSpec {
    picture: String,
    /// Of the face, and of its mirror image: what the float32 recogniser says of each.
    embedding: Vec<f32>,
    mirrored: Vec<f32>,
    tolerance: Tolerance,
}

/// The largest distance from the reference embedding at which a self-test still passes.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tolerance {
    /// With the float32 recogniser.
    pub float32: f32,
    /// With the float16 recogniser; needed where the pack has one.
    pub float16: Option<f32>,
    /// With the int8 recogniser; needed where the pack has one.
    pub int8: Option<f32>,
}

impl Tolerance {
    /// The tolerance for this precision; a precision the pack does not offer tolerates nothing.
    pub fn of(&self, precision: Precision) -> f32 {
        match precision {
            Precision::Float32 => self.float32,
            Precision::Float16 => self.float16.unwrap_or(0.0),
            Precision::Int8 => self.int8.unwrap_or(0.0),
        }
    }
}

/// What must come of [`Pack::self_test_picture`], a picture of one face: the engine's check on
/// itself.
#[derive(Debug, Clone)]
pub struct SelfTest {
    /// What the float32 recogniser makes of it through the whole pipeline.
    pub embedding: Vec<f32>,
    /// How far off each precision may be.
    pub tolerance: Tolerance,
}

impl SelfTest {
    /// Compares the embeddings of all faces found in the self-test picture with the reference, and
    /// returns the distance. Errors: not exactly one face, an embedding of another length, or a
    /// distance above the tolerance of this precision.
    pub fn check(
        &self,
        embeddings: &[&[f32]],
        metric: Metric,
        precision: Precision,
    ) -> Result<f32, VisionError> {
        let distance = self.distance(embeddings, metric)?;
        let tolerance = self.tolerance.of(precision);
        if distance <= tolerance {
            Ok(distance)
        } else {
            Err(VisionError::SelfTestDistance {
                distance,
                tolerance,
                precision,
            })
        }
    }

    /// The same without a limit.
    pub(crate) fn distance(
        &self,
        embeddings: &[&[f32]],
        metric: Metric,
    ) -> Result<f32, VisionError> {
        let [embedding] = embeddings else {
            return Err(VisionError::SelfTestFaces {
                found: embeddings.len(),
            });
        };
        check_embedding(embedding, self.embedding.len())?;
        Ok(metric.distance(embedding, &self.embedding))
    }
}

/// A checked model pack.
#[derive(Debug, Clone)]
pub struct Pack {
    folder: PathBuf,
    pub(crate) manifest: Manifest,
    pub(crate) cohort: Option<Cohort>,
    self_test: SelfTest,
    space: String,
    flip: bool,
    /// The files' bytes by name, in a copy made by `in_memory`.
    kept: Option<Arc<BTreeMap<String, Vec<u8>>>>,
}

impl Pack {
    /// Reads `pack.toml` in `folder`, checks every key, and compares every file's sha256.
    pub fn load(folder: &Path) -> Result<Self, PackError> {
        let file = folder.join("pack.toml");
        let text = std::fs::read_to_string(&file).map_err(|source| PackError::Unreadable {
            file: file.clone(),
            source,
        })?;
        let manifest: Manifest = toml::from_str(&text).map_err(|error| PackError::Syntax {
            file,
            reason: error.to_string(),
        })?;
        manifest.check()?;
        for name in manifest.sha256.keys() {
            manifest.read(folder, name)?;
        }
        let (flip, cohort) = (
            manifest.recogniser.flip.unwrap_or(true),
            manifest.cohort(folder)?,
        );
        let (self_test, space) = (
            manifest.self_test(flip, cohort.as_ref()),
            manifest.space(flip),
        );
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
            cohort,
            self_test,
            space,
            flip,
            kept: None,
        })
    }

    /// The same pack, with an embedding made from a face alone (`false`) or from a face and its
    /// mirror image, which takes the recogniser twice as long; a pack is loaded with what it says
    /// itself. Each is an embedding space of its own.
    pub fn with_flip(self, flip: bool) -> Self {
        let (self_test, space) = (
            self.manifest.self_test(flip, self.cohort.as_ref()),
            self.manifest.space(flip),
        );
        Self {
            self_test,
            space,
            flip,
            ..self
        }
    }

    /// Whether an embedding is made from a face and its mirror image.
    pub fn flip(&self) -> bool {
        self.flip
    }

    /// A copy that holds the bytes of every file it uses, checked, and needs no file system from
    /// then on. They go when it and its clones are dropped.
    pub fn in_memory(&self) -> Result<Self, PackError> {
        let read = |name: &str| Ok((name.to_owned(), self.read(name)?.into_owned()));
        let kept = self
            .manifest
            .files()
            .into_iter()
            .map(read)
            .collect::<Result<_, PackError>>()?;
        Ok(Self {
            kept: Some(Arc::new(kept)),
            ..self.clone()
        })
    }

    /// The pack's name.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// One line for people.
    pub fn description(&self) -> &str {
        &self.manifest.description
    }

    /// Whether the licences of all its networks allow commercial use.
    pub fn commercial_use(&self) -> bool {
        self.manifest.commercial_use
    }

    /// The embedding space: a hash over everything that decides what an embedding means, in hex.
    /// The precision is not part of it.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// What runs when nobody chooses: on a processor what the pack says, on a GPU float16 where the
    /// pack has it.
    pub fn default_precision(&self, device: Device) -> Precision {
        match device {
            Device::Cpu => self.manifest.recogniser.default_precision,
            Device::Cuda if self.offers(Precision::Float16) => Precision::Float16,
            Device::Cuda => Precision::Float32,
        }
    }

    /// Whether the pack has a recogniser of this precision.
    pub fn offers(&self, precision: Precision) -> bool {
        self.manifest.recogniser.file(precision).is_some()
    }

    /// The length of an embedding.
    pub fn dimension(&self) -> usize {
        self.manifest.recogniser.dimension
    }

    /// The smallest face worth looking for when nobody chooses.
    pub fn min_face_px(&self) -> usize {
        match &self.manifest.detector {
            DetectorSpec::Mtcnn(spec) => spec.min_face_px,
            DetectorSpec::Yunet(spec) => spec.min_face_px,
        }
    }

    /// How distances become outcomes.
    pub fn matching(&self) -> &Matching {
        &self.manifest.matching
    }

    /// What an enrolment picture must reach.
    pub fn quality_limits(&self) -> &QualityLimits {
        &self.manifest.quality
    }

    /// What must come of the bundled picture.
    pub fn self_test(&self) -> &SelfTest {
        &self.self_test
    }

    /// Whether numbers can be an embedding of this pack: as many as it says, finite, not all zero.
    pub fn check_embedding(&self, embedding: &[f32]) -> Result<(), VisionError> {
        check_embedding(embedding, self.dimension())
    }

    /// The bundled picture of one face, as its file's bytes.
    pub fn self_test_picture(&self) -> Result<Cow<'_, [u8]>, PackError> {
        self.read(&self.manifest.self_test.picture)
    }

    /// A file's bytes, once they are the ones the manifest was written for. Read and checked again
    /// at each use unless kept in memory, so that what was checked is what is used.
    pub(crate) fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, PackError> {
        if let Some(bytes) = self.kept.as_ref().and_then(|kept| kept.get(name)) {
            return Ok(Cow::Borrowed(bytes));
        }
        self.manifest.read(&self.folder, name).map(Cow::Owned)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    fn read(&self, folder: &Path, name: &str) -> Result<Vec<u8>, PackError> {
        let Some(expected) = self.sha256.get(name) else {
            return Err(PackError::Unlisted {
                file: name.to_owned(),
            });
        };
        let file = folder.join(name);
        let bytes =
            std::fs::read(&file).map_err(|source| PackError::Unreadable { file, source })?;
        let found = hex(&Sha256::digest(&bytes));
        if found.eq_ignore_ascii_case(expected) {
            Ok(bytes)
        } else {
            Err(PackError::Checksum {
                file: name.to_owned(),
                expected: expected.clone(),
                found,
            })
        }
    }

    fn cohort(&self, folder: &Path) -> Result<Option<Cohort>, PackError> {
        let Some(CohortSpec {
            means,
            typical,
            strength,
        }) = &self.recogniser.cohort
        else {
            return Ok(None);
        };
        let cohort = Cohort::new(
            &self.read(folder, means)?,
            self.recogniser.dimension,
            *typical,
            *strength,
        );
        cohort.map(Some).map_err(|rule| PackError::Value {
            key: "recogniser.cohort.means".to_owned(),
            value: means.clone(),
            rule,
        })
    }

    fn files(&self) -> Vec<&str> {
        let mut files = match &self.detector {
            DetectorSpec::Mtcnn(spec) => vec![spec.pnet.as_str(), &spec.rnet, &spec.onet],
            DetectorSpec::Yunet(spec) => vec![spec.model.as_str()],
        };
        files.extend(
            Precision::ALL
                .into_iter()
                .filter_map(|precision| self.recogniser.file(precision)),
        );
        files.dedup();
        files.extend(
            self.recogniser
                .cohort
                .iter()
                .map(|cohort| cohort.means.as_str()),
        );
        files.push(&self.self_test.picture);
        files
    }

    fn self_test(&self, flip: bool, cohort: Option<&Cohort>) -> SelfTest {
        let SelfTestSpec {
            embedding,
            mirrored,
            tolerance,
            ..
        } = self.self_test.clone();
        let looks = if flip {
            vec![embedding, mirrored]
        } else {
            vec![embedding]
        };
        SelfTest {
            embedding: merged(looks, self.recogniser.normalise, cohort),
            tolerance,
        }
    }

    fn space(&self, flip: bool) -> String {
        let (alignment, recogniser) = (&self.alignment, &self.recogniser);
        // `check` has made sure that the float32 recogniser is listed.
        let weights = recogniser
            .file(Precision::Float32)
            .and_then(|file| self.sha256.get(file));
        let weights = weights.map(|sum| sum.to_ascii_lowercase());
        let mut text = format!(
            "{PIPELINE} {weights:?} {} {:?} {:?} {:?} {:?} {} {} {:?} {flip}",
            alignment.size,
            alignment.template,
            recogniser.colour,
            recogniser.mean,
            recogniser.scale,
            recogniser.dimension,
            recogniser.normalise,
            self.matching.metric,
        );
        if let Some(CohortSpec {
            means,
            typical,
            strength,
        }) = &recogniser.cohort
        {
            let means = self.sha256.get(means).map(|sum| sum.to_ascii_lowercase());
            text.push_str(&format!(" {means:?} {typical:?} {strength:?}"));
        }
        hex(&Sha256::digest(text))
    }
}
