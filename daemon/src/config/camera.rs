//! The sections `[[camera]]`, checked. The presence of a camera is not: it may be plugged in later.

use std::path::PathBuf;
use std::time::Duration;

use kith_pictures::shot::PixelFormat;

use super::raw::Raw;
use super::secs;

/// Shortest time between pictures: a shorter one would occupy the engine permanently.
const SHORTEST: Duration = Duration::from_millis(100);

/// A camera of this board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Camera {
    /// Name on the page and in its pictures' names.
    pub name: String,
    /// /dev/videoN, or a link to it that stays the same when other cameras are plugged in.
    pub device: PathBuf,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames a second; the nearest rate that the camera offers is used.
    pub rate: u32,
    /// Pixel format of its frames.
    pub format: PixelFormat,
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
    /// Time without a frame after which the camera process is killed and started again.
    pub stall_after: Duration,
}

impl Camera {
    /// Returns the most bytes of one frame, raw or as JPEG: the limit for what a camera process may
    /// hand over at a time.
    pub fn max_frame_bytes(&self) -> usize {
        const HEADERS: usize = 64 << 10;
        3 * self.width as usize * self.height as usize + HEADERS
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
        if let Some(other) = cameras.iter().find(|other| other.device == camera.device) {
            let rule = format!(
                "is the camera {} already; one section takes all its pictures",
                other.name
            );
            table.problem("device", camera.device.display(), rule);
        }
        raw.merge("camera", at, table);
        cameras.push(camera);
    }
    cameras
}

fn camera(raw: &mut Raw) -> Camera {
    let name = raw.text("name").unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 64 || !name.chars().all(allowed) {
        raw.problem(
            "name",
            format!("{name:?}"),
            "must be 1 to 64 letters, digits, - or _, for example \"front\"",
        );
    }
    let device = PathBuf::from(raw.text("device").unwrap_or_else(|| "/dev/video0".into()));
    if !device.starts_with("/dev") || !super::is_plain(&device) {
        raw.problem(
            "device",
            format!("\"{}\"", device.display()),
            "must be a path below /dev, for example \"/dev/video0\"; kithd camera list shows them",
        );
    }
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
    let every = raw.duration("every", secs(0), secs(0)..=secs(86_400));
    let motion = raw.flag("motion", false);
    if every.is_zero() && !motion {
        raw.problem(
            "every",
            "",
            "must be a time such as \"10s\", or motion must be true; otherwise the camera never takes a picture",
        );
    } else if !every.is_zero() && every < SHORTEST {
        raw.problem(
            "every",
            format!("{every:?}"),
            "must be 0s (only on motion) or at least 100ms",
        );
    }
    let rate = raw.number("rate", 15, 1..=240) as u32;
    let stall_after = raw.duration("stall_after", secs(10), secs(1)..=secs(3600));
    if stall_after < secs(3) / rate {
        raw.problem(
            "stall_after",
            format!("{stall_after:?}"),
            "must be longer than three frames at this rate",
        );
    }
    Camera {
        name,
        device,
        width,
        height,
        rate,
        format: format(raw),
        every: (!every.is_zero()).then_some(every),
        motion,
        motion_area: raw.number("motion_area", 2, 1..=100) as u32,
        cool_down: raw.duration("cool_down", secs(10), secs(0)..=secs(86_400)),
        burst: raw.number("burst", 3, 1..=20) as usize,
        stall_after,
    }
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
        assert_eq!(
            (camera.width, camera.height, camera.rate, camera.burst),
            (1280, 720, 15, 3)
        );
        assert_eq!(
            (camera.every, camera.motion, camera.format),
            (Some(secs(10)), false, PixelFormat::Mjpeg)
        );
        assert_eq!(camera.device, PathBuf::from("/dev/video0"));
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
}
