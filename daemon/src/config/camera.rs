//! The sections `[[camera]]`, checked. The presence of a camera is not: it may be plugged in later.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kith_pictures::shot::PixelFormat;

use super::credential;
use super::raw::{Problem, Raw};
use super::secs;
use super::url::{PasswordFile, Url};
use crate::http_client::{self, Login};

/// Shortest time between pictures: a shorter one would occupy the engine permanently.
const SHORTEST: Duration = Duration::from_millis(100);

/// Keys that say when pictures are taken.
const OCCASION: &[&str] = &[
    "every",
    "motion",
    "motion_area",
    "cool_down",
    "burst",
    "follow",
    "follow_rate",
];

/// A camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Camera {
    /// Name on the page and in its pictures' names.
    pub name: String,
    /// Source of its frames.
    pub producer: Producer,
    /// Frames a second; of a V4L2 camera the nearest rate that it offers.
    pub rate: u32,
    /// Most memory of the frame producer's process, in bytes.
    pub memory: u64,
    /// Time between pictures; `None`: only on motion.
    pub every: Option<Duration>,
    /// True if pictures are taken on motion.
    pub motion: bool,
    /// Share of the picture that must change to count as motion, in per cent.
    pub motion_area: u32,
    /// Time after detected motion during which further motion is ignored.
    pub cool_down: Duration,
    /// Number of frames of which the best becomes the picture.
    pub burst: usize,
    /// Frames a second in which faces are followed; `None`: they are not, and pictures are taken by
    /// `every` and `motion`.
    pub follow: Option<u32>,
    /// Time without a frame after which the camera process is killed and started again.
    pub stall_after: Duration,
    /// The keys that say which camera it is and how it is read, as TOML: a command opens the same
    /// camera for purposes of its own. May contain a password.
    pub section: Secret,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Frame producers. All but V4L2 are processes that write JPEGs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Producer {
    /// A V4L2 camera, read by the camera process itself.
    V4l2 {
        /// /dev/videoN, or a link to it that stays the same when other cameras are plugged in.
        device: PathBuf,
        /// Size of its frames.
        size: Size,
        /// Pixel format of its frames.
        format: PixelFormat,
    },
    /// A video stream, read by ffmpeg.
    Rtsp {
        /// `rtsp` or `rtsps`.
        url: Url,
        /// Login, if the camera wants one.
        access: Access,
        /// Transport of the stream.
        transport: Transport,
        /// True if only key frames are decoded.
        key_frames: bool,
        /// Its decoder.
        decoder: Decoder,
    },
    /// Pictures over HTTP, one for each request or as `multipart/x-mixed-replace`.
    Http {
        /// `http` or `https`.
        url: Url,
        /// Login, if the camera wants one.
        access: Access,
        /// Certificate to trust; `None`: those of the system.
        trust: Option<Trust>,
    },
    /// A camera of libcamera, as on a Raspberry Pi.
    Libcamera {
        /// Number or name.
        camera: String,
        /// Size of its frames.
        size: Size,
    },
    /// A CSI camera of a Jetson.
    Argus {
        /// Number of the sensor.
        sensor: u64,
        /// Size of its frames.
        size: Size,
    },
    /// A program that writes JPEGs to standard output.
    Command {
        /// Program and arguments.
        command: Vec<String>,
        /// Login that the program finds in its environment.
        access: Access,
    },
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The login of a camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// None.
    Open,
    /// Written into the address.
    Inline(Login),
    /// User name and a file with the password.
    File(PasswordFile),
}

impl Access {
    /// Returns the login. Reads the password's file anew, so a changed password needs no restart.
    pub fn login(&self) -> Result<Option<Login>, String> {
        match self {
            Self::Open => Ok(None),
            Self::Inline(login) => Ok(Some(login.clone())),
            Self::File(file) => file.login().map(Some),
        }
    }
}

/// Transport of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP; UDP if that fails.
    Auto,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Decoder of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoder {
    /// The board's decoder if ffmpeg finds one; the processor if that fails.
    Auto,
    /// The processor.
    Software,
    /// A decoder of ffmpeg, by name.
    Named(String),
}

/// The certificate that a camera must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// A certificate that this authority has signed.
    Ca(PathBuf),
    /// The one with this SHA-256.
    Fingerprint([u8; 32]),
}

impl Camera {
    /// Returns the most bytes of one frame, raw or as JPEG: the limit for what a camera process may
    /// hand over at a time. `max_pixels` limits frames whose size is not configured.
    pub fn max_frame_bytes(&self, max_pixels: u64) -> usize {
        const HEADERS: u64 = 64 << 10;
        usize::try_from(3 * self.max_frame_pixels(max_pixels) + HEADERS).unwrap_or(usize::MAX)
    }

    /// Returns the most pixels of one frame.
    pub fn max_frame_pixels(&self, max_pixels: u64) -> u64 {
        match self.producer.size() {
            Some(size) => u64::from(size.width) * u64::from(size.height),
            None => max_pixels,
        }
    }

    /// Reads the one section `[[camera]]` of a text, for a camera that is in no configuration.
    pub fn only(text: &str) -> Result<Self, Vec<Problem>> {
        let mut raw = Raw::parse(text);
        let mut cameras = cameras(&mut raw);
        let problems = raw.into_problems();
        match cameras.pop() {
            Some(camera) if problems.is_empty() => Ok(camera),
            _ => Err(problems),
        }
    }
}

impl Producer {
    /// Returns the size that the camera is asked for; `None`: it sends what it likes.
    pub fn size(&self) -> Option<Size> {
        match self {
            Self::V4l2 { size, .. } | Self::Libcamera { size, .. } | Self::Argus { size, .. } => {
                Some(*size)
            }
            Self::Rtsp { .. } | Self::Http { .. } | Self::Command { .. } => None,
        }
    }

    /// Returns the files with its secrets.
    pub fn secret_files(&self) -> Option<&Path> {
        match self {
            Self::Rtsp { access, .. }
            | Self::Http { access, .. }
            | Self::Command { access, .. } => match access {
                Access::File(PasswordFile { file, .. }) => file.as_deref(),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Names the camera for the operator, without any secret.
impl fmt::Display for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4l2 { device, .. } => write!(f, "{}", device.display()),
            Self::Rtsp { url, .. } | Self::Http { url, .. } => write!(f, "{url}"),
            Self::Libcamera { camera, .. } => write!(f, "libcamera {camera}"),
            Self::Argus { sensor, .. } => write!(f, "argus {sensor}"),
            Self::Command { command, .. } => {
                write!(f, "{}", command.first().map_or("", String::as_str))
            }
        }
    }
}

/// Reads all sections.
pub(super) fn cameras(raw: &mut Raw) -> Vec<Camera> {
    let mut cameras: Vec<Camera> = Vec::new();
    for (at, mut table) in raw.tables("camera").into_iter().enumerate() {
        let camera = camera(&mut table);
        if !camera.name.is_empty() && cameras.iter().any(|other| other.name == camera.name) {
            table.problem(
                "name",
                format!("{:?}", camera.name),
                "is the name of another camera; give each its own",
            );
        }
        if let Some(other) = cameras
            .iter()
            .find(|other| same(&other.producer, &camera.producer))
        {
            let rule = format!(
                "is the camera {} already; one section takes all its pictures",
                other.name
            );
            table.problem("device", &camera.producer, rule);
        }
        raw.merge("camera", at, table);
        cameras.push(camera);
    }
    cameras
}

/// Returns true if only one process can use both.
fn same(one: &Producer, other: &Producer) -> bool {
    match (one, other) {
        (Producer::V4l2 { device, .. }, Producer::V4l2 { device: other, .. }) => device == other,
        (Producer::Libcamera { camera, .. }, Producer::Libcamera { camera: other, .. }) => {
            camera == other
        }
        (Producer::Argus { sensor, .. }, Producer::Argus { sensor: other, .. }) => sensor == other,
        _ => false,
    }
}

fn camera(raw: &mut Raw) -> Camera {
    let section = Secret(raw.without(OCCASION));
    let name = raw.text("name").unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        raw.problem(
            "name",
            format!("{name:?}"),
            "must be 1 to 64 letters, digits, - or _, for example \"front\"",
        );
    }
    let producer = producer(raw, &name);
    let usual_rate = match &producer {
        Producer::V4l2 { .. } | Producer::Libcamera { .. } | Producer::Argus { .. } => 15,
        Producer::Http { .. } => 1,
        Producer::Rtsp { .. } | Producer::Command { .. } => 5,
    };
    let every = raw.duration("every", secs(0), secs(0)..=secs(86_400));
    let motion = raw.flag("motion", false);
    let follow = raw.flag("follow", false);
    let follow_rate = raw.number("follow_rate", 5, 1..=30) as u32;
    if follow && (motion || !every.is_zero()) {
        let key = if motion { "motion" } else { "every" };
        raw.problem(
            key,
            "",
            "has no place beside follow = true, which chooses the pictures by the faces; leave it out",
        );
    } else if every.is_zero() && !motion && !follow {
        raw.problem(
            "every",
            "",
            "must be a time such as \"10s\", or motion or follow must be true; otherwise the camera never takes a picture",
        );
    } else if !every.is_zero() && every < SHORTEST {
        raw.problem(
            "every",
            format!("{every:?}"),
            "must be 0s (only on motion) or at least 100ms",
        );
    }
    let rate = raw.number("rate", usual_rate, 1..=240) as u32;
    // The first key frame of a stream may be many seconds away.
    let patience = match &producer {
        Producer::Rtsp { .. } => 20,
        _ => 10,
    };
    let stall_after = raw.duration("stall_after", secs(patience), secs(1)..=secs(3600));
    if stall_after < secs(3) / rate {
        raw.problem(
            "stall_after",
            format!("{stall_after:?}"),
            "must be longer than three frames at this rate",
        );
    }
    Camera {
        name,
        producer,
        rate,
        memory: raw.size("memory", 512 << 20, 32 << 20..=16 << 30),
        every: (!every.is_zero()).then_some(every),
        motion,
        motion_area: raw.number("motion_area", 2, 1..=100) as u32,
        cool_down: raw.duration("cool_down", secs(10), secs(0)..=secs(86_400)),
        burst: raw.number("burst", 3, 1..=20) as usize,
        follow: follow.then_some(follow_rate.min(rate)),
        stall_after,
        section,
    }
}

/// Reads which camera it is, and the keys of its kind.
fn producer(raw: &mut Raw, name: &str) -> Producer {
    let device = raw.text("device").map(PathBuf::from);
    let url = raw.text("url");
    let libcamera = raw.text_or_number("libcamera");
    let argus = raw.optional_number("argus", 0..=63);
    let command = raw.texts("command");
    let named: Vec<_> = [
        ("device", device.is_some()),
        ("url", url.is_some()),
        ("libcamera", libcamera.is_some()),
        ("argus", argus.is_some()),
        ("command", command.is_some()),
    ]
    .into_iter()
    .filter_map(|(key, given)| given.then_some(key))
    .collect();
    if named.len() > 1 {
        raw.problem(
            named[1],
            "",
            format!(
                "names a second camera beside {}; write one of them",
                named[0]
            ),
        );
    }
    if let Some(text) = url {
        return of_url(raw, &text, name);
    }
    if let Some(command) = command {
        if command.first().is_none_or(String::is_empty) {
            raw.problem(
                "command",
                "[]",
                "must name a program and its arguments, for example [\"/usr/local/bin/frames\"]",
            );
        }
        let access = access(raw, None, name);
        return Producer::Command { command, access };
    }
    let size = size(raw);
    if let Some(camera) = libcamera {
        return Producer::Libcamera { camera, size };
    }
    if let Some(sensor) = argus {
        return Producer::Argus { sensor, size };
    }
    let device = device.unwrap_or_else(|| "/dev/video0".into());
    if !device.starts_with("/dev") || !super::is_plain(&device) {
        raw.problem(
            "device",
            format!("\"{}\"", device.display()),
            "must be a path below /dev, for example \"/dev/video0\"; kithd camera list shows them",
        );
    }
    Producer::V4l2 {
        device,
        size,
        format: format(raw),
    }
}

/// Reads an IP camera. Its address is never repeated in a problem: it may contain a password.
fn of_url(raw: &mut Raw, text: &str, name: &str) -> Producer {
    let (url, inline) = Url::parse(text).unwrap_or_else(|rule| {
        raw.problem("url", "", rule);
        let nowhere = Url {
            scheme: "rtsp".into(),
            host: String::new(),
            path: "/".into(),
        };
        (nowhere, None)
    });
    let access = access(raw, inline, name);
    match url.scheme.as_str() {
        "rtsp" | "rtsps" => Producer::Rtsp {
            url,
            access,
            transport: transport(raw),
            key_frames: raw.flag("key_frames", false),
            decoder: decoder(raw),
        },
        "http" | "https" => Producer::Http {
            trust: trust(raw, &url),
            url,
            access,
        },
        _ => {
            raw.problem(
                "url",
                &url,
                "must begin with rtsp://, rtsps://, http:// or https://",
            );
            Producer::Http {
                url,
                access,
                trust: None,
            }
        }
    }
}

fn access(raw: &mut Raw, inline: Option<Login>, name: &str) -> Access {
    let user = raw.text("username");
    let file = raw.text("password_file").map(PathBuf::from);
    match (inline, user, file) {
        (None, None, None) => Access::Open,
        (Some(login), None, None) => Access::Inline(login),
        (None, Some(user), file) => {
            let credential = || credential(&format!("kithd.camera-{name}-password"));
            Access::File(PasswordFile {
                user,
                file: file.or_else(credential),
            })
        }
        (None, None, Some(file)) => {
            raw.problem("password_file", file.display(), "needs username as well");
            Access::Open
        }
        (Some(_), ..) => {
            raw.problem(
                "username",
                "",
                "is in the address already; write it in one of the two",
            );
            Access::Open
        }
    }
}

fn transport(raw: &mut Raw) -> Transport {
    match raw.text("transport").as_deref() {
        None | Some("auto") => Transport::Auto,
        Some("tcp") => Transport::Tcp,
        Some("udp") => Transport::Udp,
        Some(other) => {
            raw.problem(
                "transport",
                format!("{other:?}"),
                "must be \"auto\", \"tcp\" or \"udp\"",
            );
            Transport::Auto
        }
    }
}

fn decoder(raw: &mut Raw) -> Decoder {
    match raw.text("decoder").as_deref() {
        None | Some("auto") => Decoder::Auto,
        Some("software") => Decoder::Software,
        Some(name) => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || name.starts_with('-') || !name.chars().all(allowed) {
                raw.problem(
                    "decoder",
                    format!("{name:?}"),
                    "must be \"auto\", \"software\" or a decoder of ffmpeg such as \"h264_v4l2m2m\"",
                );
            }
            Decoder::Named(name.into())
        }
    }
}

fn trust(raw: &mut Raw, url: &Url) -> Option<Trust> {
    let ca = raw.text("ca_file").map(PathBuf::from);
    let fingerprint = raw.text("fingerprint");
    if url.scheme != "https" {
        for (key, given) in [
            ("ca_file", ca.is_some()),
            ("fingerprint", fingerprint.is_some()),
        ] {
            if given {
                raw.problem(key, "", "is for an address that begins with https://");
            }
        }
    }
    match (ca, fingerprint) {
        (Some(ca), None) => Some(Trust::Ca(ca)),
        (None, Some(text)) => {
            let sum = http_client::fingerprint(&text);
            if sum.is_none() {
                raw.problem(
                    "fingerprint",
                    format!("{text:?}"),
                    "must be the SHA-256 of the certificate, 64 hexadecimal digits",
                );
            }
            sum.map(Trust::Fingerprint)
        }
        (Some(_), Some(_)) => {
            raw.problem(
                "fingerprint",
                "",
                "takes the place of ca_file; write one of them",
            );
            None
        }
        (None, None) => None,
    }
}

fn size(raw: &mut Raw) -> Size {
    let resolution = raw.text("resolution").unwrap_or_else(|| "1280x720".into());
    let sides = resolution
        .split_once('x')
        .and_then(|(width, height)| Some((side(width)?, side(height)?)));
    if sides.is_none() {
        raw.problem(
            "resolution",
            format!("{resolution:?}"),
            "must be width x height, for example \"1280x720\"",
        );
    }
    let (width, height) = sides.unwrap_or((1280, 720));
    Size { width, height }
}

/// Parses a side: even, since neighbours share colour, and no longer than a JPEG allows.
fn side(text: &str) -> Option<u32> {
    text.trim()
        .parse()
        .ok()
        .filter(|side| (16..=16_384).contains(side) && side % 2 == 0)
}

fn format(raw: &mut Raw) -> PixelFormat {
    let Some(text) = raw.text("format") else {
        return PixelFormat::Mjpeg;
    };
    let known = PixelFormat::ALL
        .iter()
        .find(|(_, name)| *name == text)
        .map(|(format, _)| *format);
    known.unwrap_or_else(|| {
        raw.problem(
            "format",
            format!("{text:?}"),
            "must be \"mjpeg\", \"yuyv\", \"nv12\", \"rgb\" or \"bgr\"",
        );
        PixelFormat::Mjpeg
    })
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn a_camera_needs_a_name_and_a_trigger_the_rest_has_defaults() {
        let text = "[[camera]]\nname = \"front\"\nevery = \"10s\"\n";
        let camera = Config::check(Raw::parse(text)).0.unwrap().cameras.remove(0);
        assert_eq!((camera.rate, camera.burst), (15, 3));
        assert_eq!((camera.every, camera.motion), (Some(secs(10)), false));
        let v4l2 = Producer::V4l2 {
            device: "/dev/video0".into(),
            size: Size {
                width: 1280,
                height: 720,
            },
            format: PixelFormat::Mjpeg,
        };
        assert_eq!(camera.producer, v4l2);
    }

    #[test]
    fn a_followed_camera_needs_no_occasion_and_takes_none() {
        let camera = |lines: &str| {
            let text = format!("[[camera]]\nname = \"front\"\nfollow = true\n{lines}");
            Config::check(Raw::parse(&text))
                .0
                .map(|mut config| config.cameras.remove(0).follow)
        };
        assert_eq!(camera(""), Ok(Some(5)));
        assert_eq!(camera("follow_rate = 12\nrate = 10"), Ok(Some(10)));
        for line in ["every = \"10s\"", "motion = true"] {
            let problems = camera(line).unwrap_err();
            let text = Config::problems_text(None, &problems);
            assert!(text.contains("has no place beside follow = true"), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_camera_says_which_one_and_what_is_right() {
        let text = "[[camera]]\nname = \"a\"\nmotion = true\n\
                    [[camera]]\nname = \"a\"\nresolution = \"1281x720\"\nformat = \"h264\"\nevry = \"1s\"\n\
                    [[camera]]\nname = \"two words\"\ndevice = \"video1\"\nevery = \"1ms\"\nburst = 0\n\
                    rate = 1\nstall_after = \"2s\"\n";
        let problems = Config::check(Raw::parse(text)).0.unwrap_err();
        let text = Config::problems_text(None, &problems);
        for part in [
            "has 11 problems",
            "camera[1].name = \"a\": is the name of another camera",
            "camera[1].device = /dev/video0: is the camera a already",
            "camera[1].resolution = \"1281x720\": must be width x height",
            "camera[1].format = \"h264\": must be",
            "camera[1].every: must be a time",
            "camera[1].evry = \"1s\": is not a known key; did you mean every?",
            "camera[2].name = \"two words\": must be",
            "camera[2].device = \"video1\": must be a path below /dev",
            "camera[2].every = 1ms: must be 0s",
            "camera[2].burst = 0: must be a whole number from 1",
            "camera[2].stall_after = 2s: must be longer than three frames",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }

    fn checked(lines: &str) -> Result<Camera, String> {
        let text = format!("[[camera]]\nname = \"front\"\nevery = \"1s\"\n{lines}\n");
        Camera::only(&text).map_err(|problems| Config::problems_text(None, &problems))
    }

    #[test]
    fn every_kind_of_camera_has_its_own_keys() {
        let camera = checked("url = \"rtsp://me:pw@10.0.0.9/a\"\nkey_frames = true").unwrap();
        assert_eq!(camera.rate, 5);
        let Producer::Rtsp { url, access, .. } = &camera.producer else {
            panic!("{camera:?}");
        };
        assert_eq!(url.path, "/a");
        assert_eq!(access.login().unwrap().unwrap().password, "pw");
        let hex = "ab".repeat(32);
        let camera = checked(&format!(
            "url = \"https://cam/s.jpg\"\nfingerprint = \"{hex}\""
        ));
        assert!(matches!(
            camera.unwrap().producer,
            Producer::Http { trust: Some(Trust::Fingerprint(sum)), .. } if sum == [0xAB; 32]
        ));
        for (lines, shown) in [
            ("libcamera = 0", "libcamera 0"),
            (
                "libcamera = \"imx708\"\nresolution = \"640x480\"",
                "libcamera imx708",
            ),
            ("argus = 1", "argus 1"),
            ("command = [\"/usr/bin/frames\", \"-x\"]", "/usr/bin/frames"),
        ] {
            assert_eq!(checked(lines).unwrap().producer.to_string(), shown);
        }
        for (lines, rule) in [
            (
                "url = \"rtsp://a/\"\ndevice = \"/dev/video0\"",
                "names a second camera beside device",
            ),
            ("url = \"ftp://a/\"", "must begin with rtsp://"),
            ("url = \"http://a/\"\nkey_frames = true", "key_frames"),
            (
                "url = \"http://a/\"\nca_file = \"/x\"",
                "is for an address that begins with https://",
            ),
            (
                "url = \"https://a/\"\nfingerprint = \"12\"",
                "64 hexadecimal digits",
            ),
            (
                "url = \"rtsp://a/\"\nresolution = \"640x480\"",
                "resolution",
            ),
            (
                "url = \"rtsp://a/\"\npassword_file = \"/x\"",
                "needs username as well",
            ),
            (
                "url = \"rtsp://u:p@a/\"\nusername = \"x\"",
                "is in the address already",
            ),
            ("command = []", "must name a program"),
            ("libcamera = true", "must be text or a whole number"),
        ] {
            let problems = checked(lines).unwrap_err();
            assert!(problems.contains(rule), "{lines}: {problems}");
        }
    }

    #[test]
    fn a_problem_never_repeats_an_address() {
        for url in [
            "rtsp//me:secret@cam/",
            "rtsp://me:secret@/",
            "ftp://me:secret@cam/secret",
        ] {
            let problems = checked(&format!("url = \"{url}\"")).unwrap_err();
            assert!(!problems.contains("secret"), "{problems}");
        }
    }
}
