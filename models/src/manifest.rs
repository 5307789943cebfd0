//! A model pack: its `pack.toml` as typed values, with every key and every file's sha256 checked.
//! `runtime` interprets the networks.

mod rules;
mod self_test;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use self::self_test::SelfTestSpec;
pub use self::self_test::{SelfTest, Tolerance};
use crate::VisionError;
use crate::cohort::Cohort;
use crate::device::{Device, Precision};
use crate::embedding::{check_embedding, merged};
use crate::matching::Matching;
use crate::pixels::{Colour, Pixels};
use crate::quality::QualityLimits;

/// Version of the computation between pixels and embedding, part of the embedding space. Raise it
/// with every change, so that old and new embeddings are never compared.
const PIPELINE: &str = "kith-2";

/// Reason why a pack cannot be used. Every message names the file or the key.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file of the pack cannot be read.
    #[error("model pack file {file} cannot be read: {source}")]
    Unreadable {
        /// Full path of the file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// `pack.toml` is not TOML, or has a missing or an unknown key.
    #[error("{file}: {reason}")]
    Syntax {
        /// Full path of the manifest.
        file: PathBuf,
        /// The parser's message, with the line.
        reason: String,
    },
    /// A key's value breaks its rule.
    #[error("pack.toml: {key} is {value}; it must be {rule}")]
    Value {
        /// Path of the key in `pack.toml`.
        key: String,
        /// The value found.
        value: String,
        /// The values allowed.
        rule: &'static str,
    },
    /// A file in use has no line in `[sha256]`.
    #[error("pack.toml: {file} is used but has no line under [sha256]")]
    Unlisted {
        /// The file's name.
        file: String,
    },
    /// A file differs from the one the manifest was written for.
    #[error(
        "model pack file {file} is damaged or replaced: its sha256 is {found}, pack.toml says {expected}"
    )]
    Checksum {
        /// The file's name.
        file: String,
        /// Sum in the manifest.
        expected: String,
        /// Sum of the file.
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
    /// Scores from which boxes of P-Net, R-Net and O-Net are kept; O-Net's is the mean of two
    /// looks.
    pub(crate) thresholds: [f32; 3],
    /// Intersection over union above which suppression drops a box between R-Net and O-Net.
    pub(crate) overlap: f32,
    /// From which score the picture as given is enough, and O-Net's first look unless every face is
    /// looked at twice.
    pub(crate) sure: f32,
    /// Score that a face in the turned picture must have.
    pub(crate) upright: f32,
    pub(crate) pyramid_factor: f32,
    /// O-Net looks at every face a second time, and landmarks are the mean of both looks.
    #[serde(default)]
    pub(crate) every_face_twice: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct YunetSpec {
    pub(crate) model: String,
    /// Height and width of the network's input.
    pub(crate) input: [usize; 2],
    pub(crate) score_threshold: f32,
    /// Score from which the picture as given is enough.
    pub(crate) sure: f32,
    /// Score that a face in the turned picture must have.
    pub(crate) upright: f32,
    pub(crate) nms_iou: f32,
    pub(crate) min_face_px: usize,
}

/// Template of the five landmarks on the recogniser's square crop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Alignment {
    pub(crate) size: usize,
    pub(crate) template: [[f32; 2]; 5],
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RecogniserSpec {
    pub(crate) colour: Colour,
    pub(crate) mean: [f32; 3],
    pub(crate) scale: f32,
    pub(crate) dimension: usize,
    pub(crate) normalise: bool,
    /// Embed the mirror image too, unless the configuration decides.
    flip: Option<bool>,
    /// A single file for the networks of all precisions, instead of a file for each.
    stored: Option<String>,
    float32: Option<String>,
    float16: Option<String>,
    int8: Option<String>,
    default_precision: Precision,
    cohort: Option<CohortSpec>,
}

/// Arguments of [`Cohort::new`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CohortSpec {
    means: String,
    typical: f32,
    strength: f32,
}

impl RecogniserSpec {
    /// Returns the preprocessing of a crop's pixels.
    pub(crate) fn pixels(&self) -> Pixels {
        Pixels::new(self.mean, self.scale, self.colour)
    }

    /// Returns the file for the network of this precision, if the pack has one.
    pub(crate) fn file(&self, precision: Precision) -> Option<&str> {
        let of_precision = match precision {
            Precision::Float32 => &self.float32,
            Precision::Float16 => &self.float16,
            Precision::Int8 => &self.int8,
        };
        self.stored.as_deref().or(of_precision.as_deref())
    }

    /// Tells whether one file holds the weights of all precisions.
    pub(crate) fn is_stored_once(&self) -> bool {
        self.stored.is_some()
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
    /// Reads `pack.toml` in `folder` and checks every key and every file's sha256.
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

    /// Returns the same pack with or without the mirror image in each embedding; with it the
    /// recogniser takes twice as long. The pack's own choice is the default. The two are different
    /// embedding spaces.
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

    /// Tells whether the mirror image is part of each embedding.
    pub fn flip(&self) -> bool {
        self.flip
    }

    /// Returns a copy that holds the checked bytes of all its files and needs no file system from
    /// then on. The bytes are freed with the last clone.
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

    /// Returns the pack's name.
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// Returns the description, one line of text.
    pub fn description(&self) -> &str {
        &self.manifest.description
    }

    /// Tells whether the licences of all its networks allow commercial use.
    pub fn commercial_use(&self) -> bool {
        self.manifest.commercial_use
    }

    /// Returns the embedding space: a hash in hex over everything that decides what an embedding
    /// means. The precision is not part of it.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// Returns the default precision: the pack's on a processor, float16 on a GPU if the pack has
    /// it.
    pub fn default_precision(&self, device: Device) -> Precision {
        match device {
            Device::Cpu => self.manifest.recogniser.default_precision,
            Device::Cuda if self.offers(Precision::Float16) => Precision::Float16,
            Device::Cuda => Precision::Float32,
        }
    }

    /// Tells whether the pack has a recogniser of this precision.
    pub fn offers(&self, precision: Precision) -> bool {
        self.manifest.recogniser.file(precision).is_some()
    }

    /// Returns the length of an embedding.
    pub fn dimension(&self) -> usize {
        self.manifest.recogniser.dimension
    }

    /// Returns the default smallest face, in pixels.
    pub fn min_face_px(&self) -> usize {
        match &self.manifest.detector {
            DetectorSpec::Mtcnn(spec) => spec.min_face_px,
            DetectorSpec::Yunet(spec) => spec.min_face_px,
        }
    }

    /// Returns the rules that turn distances into outcomes.
    pub fn matching(&self) -> &Matching {
        &self.manifest.matching
    }

    /// Returns the limits for enrolment pictures.
    pub fn quality_limits(&self) -> &QualityLimits {
        &self.manifest.quality
    }

    /// Returns the reference for the self-test.
    pub fn self_test(&self) -> &SelfTest {
        &self.self_test
    }

    /// Checks that numbers can be an embedding of this pack: the right count, all finite, not all
    /// zero.
    pub fn check_embedding(&self, embedding: &[f32]) -> Result<(), VisionError> {
        check_embedding(embedding, self.dimension())
    }

    /// Returns the file of the bundled picture of one face.
    pub fn self_test_picture(&self) -> Result<Cow<'_, [u8]>, PackError> {
        self.read(&self.manifest.self_test.picture)
    }

    /// Returns a file's bytes after checking their sha256. Unless they are kept in memory, they are
    /// read and checked at each use, so that the bytes used are the bytes checked.
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
        let outputs = if flip {
            vec![embedding, mirrored]
        } else {
            vec![embedding]
        };
        SelfTest {
            embedding: merged(outputs, self.recogniser.normalise, cohort),
            tolerance,
        }
    }

    fn space(&self, flip: bool) -> String {
        let (alignment, recogniser) = (&self.alignment, &self.recogniser);
        // `check` made sure that the float32 recogniser is listed.
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
