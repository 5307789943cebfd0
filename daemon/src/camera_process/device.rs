//! A V4L2 camera: its formats, and its frames one after another. nokhwa reads the frames. v4l, on
//! which nokhwa is built, answers what nokhwa cannot: the formats of a camera that another program
//! uses, and the current format if nokhwa does not know it.
//!
//! A frame may never come, and then only the process can be ended.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use kith_pictures::shot::{Layout, PixelFormat};
use nokhwa::Camera;
use nokhwa::utils::{
    ApiBackend, CameraFormat, CameraIndex, FrameFormat, RequestedFormat, RequestedFormatType,
    Resolution,
};
use v4l::capability::{Capabilities, Flags};
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::video::Capture;
use v4l::video::capture::Parameters;
use v4l::{Format, FourCC};

use crate::config::Size;

/// Number of device nodes to search: the kernel numbers no more.
const NODES: u32 = 256;
/// Number of sizes of a format that are shown to the operator; a camera with stepwise sizes would
/// offer thousands.
const NAMED: usize = 12;

/// System errors with a meaning for the operator (errno(3)).
const EACCES: i32 = 13;
const EPERM: i32 = 1;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const ENXIO: i32 = 6;

/// Reasons why there are no frames.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CameraError {
    #[error("unplugged: {0} is not there")]
    Gone(String),
    #[error(
        "{0} may not be opened by this account: it has to be in the group video, and the service needs the drop-in camera.conf"
    )]
    Denied(String),
    #[error("{0} is in use by another program")]
    Busy(String),
    #[error("{0} is not a camera; kithd camera list shows the cameras of this board")]
    NoCamera(String),
    #[error("{device} does not offer {wanted}; it offers {offered}")]
    NotOffered {
        device: String,
        wanted: String,
        offered: String,
    },
    #[error("{device} fails: {error}")]
    Fails { device: String, error: String },
}

impl CameraError {
    fn system(device: &Path, error: &std::io::Error) -> Self {
        Self::of(device, error.raw_os_error(), error)
    }

    /// Converts nokhwa's error, whose text contains the system's error number.
    fn nokhwa(device: &Path, error: &nokhwa::NokhwaError) -> Self {
        let text = error.to_string();
        let code = text
            .rsplit_once("(os error ")
            .and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
        Self::of(device, code, error)
    }

    fn of(device: &Path, code: Option<i32>, error: &impl fmt::Display) -> Self {
        let device = device.display().to_string();
        match code {
            Some(EACCES | EPERM) => Self::Denied(device),
            Some(EBUSY) => Self::Busy(device),
            Some(ENODEV | ENXIO) => Self::Gone(device),
            _ => Self::Fails {
                device,
                error: error.to_string(),
            },
        }
    }
}

/// An open camera that sends frames.
pub struct Device {
    camera: Camera,
    path: PathBuf,
    /// Layout of its frames in memory.
    pub layout: Layout,
    /// Frames a second.
    pub rate: u32,
}

impl Device {
    /// Opens the camera and starts its stream.
    pub fn open(
        path: &Path,
        size: Size,
        format: PixelFormat,
        rate: u32,
    ) -> Result<Self, CameraError> {
        let number = number(path)?;
        let (layout, rate) = set_format(path, number, size, format, rate)?;
        let (frame_format, _) = codes(format);
        let format =
            CameraFormat::new(Resolution::new(size.width, size.height), frame_format, rate);
        let formats = [frame_format];
        let exactly = RequestedFormat::with_formats(RequestedFormatType::Exact(format), &formats);
        let failed = |error| CameraError::nokhwa(path, &error);
        let mut camera =
            Camera::with_backend(CameraIndex::Index(number), exactly, ApiBackend::Video4Linux)
                .map_err(failed)?;
        camera.open_stream().map_err(failed)?;
        Ok(Self {
            camera,
            path: path.to_path_buf(),
            layout,
            rate,
        })
    }

    /// Waits for the next frame and returns the whole buffer; the frame may fill only its
    /// beginning.
    pub fn frame(&mut self) -> Result<Cow<'_, [u8]>, CameraError> {
        let path = &self.path;
        self.camera
            .frame_raw()
            .map_err(|error| CameraError::nokhwa(path, &error))
    }
}

/// Returns nokhwa's and V4L2's names of a format.
fn codes(format: PixelFormat) -> (FrameFormat, &'static [u8; 4]) {
    match format {
        PixelFormat::Mjpeg => (FrameFormat::MJPEG, b"MJPG"),
        PixelFormat::Yuyv => (FrameFormat::YUYV, b"YUYV"),
        PixelFormat::Nv12 => (FrameFormat::NV12, b"NV12"),
        PixelFormat::Rgb => (FrameFormat::RAWRGB, b"RGB3"),
        PixelFormat::Bgr => (FrameFormat::RAWBGR, b"BGR3"),
    }
}

/// Returns the N of /dev/videoN, resolving links to it.
fn number(path: &Path) -> Result<u32, CameraError> {
    let gone = |_| CameraError::Gone(path.display().to_string());
    let node = path.canonicalize().map_err(gone)?;
    let number = node
        .to_str()
        .and_then(|node| node.strip_prefix("/dev/video")?.parse().ok());
    number.ok_or_else(|| CameraError::NoCamera(path.display().to_string()))
}

/// Opens a node and checks that it delivers frames: a camera has further nodes for other things.
fn open(path: &Path, number: u32) -> Result<(v4l::Device, Capabilities), CameraError> {
    let system = |error| CameraError::system(path, &error);
    let device = v4l::Device::new(number as usize).map_err(system)?;
    let able = device.query_caps().map_err(system)?;
    if !able
        .capabilities
        .contains(Flags::VIDEO_CAPTURE | Flags::STREAMING)
    {
        return Err(CameraError::NoCamera(path.display().to_string()));
    }
    Ok((device, able))
}

/// Sets format, size and rate and returns what the camera accepted.
fn set_format(
    path: &Path,
    number: u32,
    Size { width, height }: Size,
    format: PixelFormat,
    rate: u32,
) -> Result<(Layout, u32), CameraError> {
    let system = |error| CameraError::system(path, &error);
    let (device, _) = open(path, number)?;
    let (_, code) = codes(format);
    let code = FourCC::new(code);
    let set = device
        .set_format(&Format::new(width, height, code))
        .map_err(system)?;
    if (set.width, set.height, set.fourcc) != (width, height, code) {
        return Err(CameraError::NotOffered {
            device: path.display().to_string(),
            wanted: format!("{width}x{height} in {}", format.name()),
            offered: in_words(&offers(&device)),
        });
    }
    let nearest = rates(&device, code, width, height)
        .into_iter()
        .min_by_key(|offered| offered.abs_diff(rate));
    let set_rate = device
        .set_params(&Parameters::with_fps(nearest.unwrap_or(rate)))
        .map_err(system)?;
    // nokhwa must request exactly the rate that is set.
    let interval = set_rate.interval;
    let rate = interval.denominator / interval.numerator.max(1);
    let pixel = match format {
        PixelFormat::Mjpeg => 0,
        PixelFormat::Yuyv => 2,
        PixelFormat::Nv12 => 1,
        PixelFormat::Rgb | PixelFormat::Bgr => 3,
    };
    let stride = set.stride.max(pixel * width) as usize;
    let layout = Layout {
        format,
        width: width as usize,
        height: height as usize,
        stride,
    };
    Ok((layout, rate))
}

/// A size of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Name in the configuration, or V4L2's code if kithd cannot use it.
    pub format: String,
    /// True if kithd can use it.
    pub usable: bool,
    /// Width and height; the largest if they go by steps.
    pub size: (u32, u32),
    /// Whole numbers of frames a second.
    pub rates: Vec<u32>,
}

/// A camera of this board.
pub struct Found {
    /// /dev/videoN.
    pub device: PathBuf,
    /// Links to it that stay the same when other cameras are plugged in.
    pub links: Vec<PathBuf>,
    /// Name that the camera reports.
    pub name: String,
    /// Name of its driver.
    driver: String,
    /// Its formats, or why they cannot be read.
    pub offers: Result<Vec<Offer>, CameraError>,
}

/// Programs that make pictures of what a sensor's V4L2 nodes carry: raw data, or parts of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// libcamera, as on a Raspberry Pi.
    Libcamera,
    /// NVIDIA's Argus, on a Jetson.
    Argus,
}

impl Found {
    /// Returns what reads this camera in place of V4L2; `None`: V4L2 does. The drivers of libcamera
    /// list formats that they have only as parts of a pipeline.
    pub fn stack(&self) -> Option<Stack> {
        match self.driver.as_str() {
            "unicam" | "bcm2835-isp" | "rp1-cfe" | "pispbe" | "rkisp1" | "ipu3-cio2"
            | "ipu3-imgu" | "qcom-camss" | "mxc-isi" => Some(Stack::Libcamera),
            "tegra-video" => {
                // A camera with a processor of its own sends finished pictures.
                let offers = self.offers.as_ref().is_ok_and(|offers| {
                    let mut offers = offers.iter();
                    offers.any(|offer| offer.usable)
                });
                (!offers).then_some(Stack::Argus)
            }
            _ => None,
        }
    }
}

/// Returns the cameras of this board, by number.
pub fn found() -> Vec<Found> {
    let links: Vec<PathBuf> = ["/dev/v4l/by-id", "/dev/v4l/by-path"]
        .into_iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())))
        .collect();
    (0..NODES)
        .map(|number| (number, PathBuf::from(format!("/dev/video{number}"))))
        .filter(|(_, device)| device.canonicalize().is_ok())
        .filter_map(|(number, device)| {
            let (name, driver, offers) = match open(&device, number) {
                Ok((opened, able)) => (able.card, able.driver, Ok(offers(&opened))),
                Err(CameraError::NoCamera(_)) => return None,
                Err(error) => (String::new(), String::new(), Err(error)),
            };
            let to_it = |link: &&PathBuf| link.canonicalize().is_ok_and(|node| node == device);
            Some(Found {
                links: links.iter().filter(to_it).cloned().collect(),
                device,
                name,
                driver,
                offers,
            })
        })
        .collect()
}

fn offers(device: &v4l::Device) -> Vec<Offer> {
    let mut offers = Vec::new();
    for description in device.enum_formats().unwrap_or_default() {
        let known = PixelFormat::ALL
            .iter()
            .find(|(format, _)| codes(*format).1 == &description.fourcc.repr);
        let format = known.map_or_else(
            || description.fourcc.to_string(),
            |(_, name)| (*name).to_string(),
        );
        for size in device
            .enum_framesizes(description.fourcc)
            .unwrap_or_default()
        {
            let size = match size.size {
                FrameSizeEnum::Discrete(size) => (size.width, size.height),
                FrameSizeEnum::Stepwise(sizes) => (sizes.max_width, sizes.max_height),
            };
            let mut rates = rates(device, description.fourcc, size.0, size.1);
            rates.sort_unstable_by(|a, b| b.cmp(a));
            rates.dedup();
            offers.push(Offer {
                format: format.clone(),
                usable: known.is_some(),
                size,
                rates,
            });
        }
    }
    offers
}

/// Returns the whole numbers of frames a second at this size; none if they go by steps.
fn rates(device: &v4l::Device, code: FourCC, width: u32, height: u32) -> Vec<u32> {
    let intervals = device
        .enum_frameintervals(code, width, height)
        .unwrap_or_default();
    let whole = intervals
        .into_iter()
        .filter_map(|interval| match interval.interval {
            // nokhwa opens no camera at 7.5 frames a second.
            FrameIntervalEnum::Discrete(interval) if interval.numerator == 1 => {
                Some(interval.denominator)
            }
            _ => None,
        });
    whole.collect()
}

/// Lists the sizes of the usable formats.
pub fn in_words(offers: &[Offer]) -> String {
    let formats = PixelFormat::ALL.iter().filter_map(|(_, name)| {
        let sizes: Vec<_> = offers
            .iter()
            .filter(|offer| offer.format == *name)
            .map(|offer| offer.size)
            .collect();
        let shown: Vec<_> = sizes
            .iter()
            .take(NAMED)
            .map(|(width, height)| format!("{width}x{height}"))
            .collect();
        let more = if sizes.len() > NAMED { " and more" } else { "" };
        (!shown.is_empty()).then(|| format!("{name}: {}{more}", shown.join(", ")))
    });
    let formats: Vec<_> = formats.collect();
    if formats.is_empty() {
        "nothing that kithd can use".into()
    } else {
        formats.join("; ")
    }
}
