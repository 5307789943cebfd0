//! Why a frame producer ended, from its own words: ffmpeg's, GStreamer's, rpicam-vid's, and kithd's.
//! The operator reads one of a few names, and what to do.

use crate::config::{Producer, without_secrets};

/// Most lines that are remembered, and most characters of each.
const LINES: usize = 20;
const LENGTH: usize = 300;
/// Begins the last line of a process of this program.
const COMPLAINT: &str = "kithd: ";

/// The last words of a frame producer, and the codec that it named.
#[derive(Default)]
pub struct Words {
    lines: Vec<String>,
    /// The codec of the stream, as ffmpeg names it: "h264".
    pub codec: Option<String>,
}

impl Words {
    /// Remembers a line.
    pub fn hear(&mut self, line: &str) {
        let line = line.trim();
        // `  Stream #0:0: Video: h264 (High), yuv420p, 640x360, …`, first of the input.
        if let Some((_, video)) = line.split_once("Video: ")
            && self.codec.is_none()
        {
            let codec = video.split([' ', ',']).next().unwrap_or_default();
            self.codec = Some(codec.chars().take(16).collect());
        }
        if line.is_empty() || line.contains("[info]") || line.contains("[warning]") {
            return;
        }
        if self.lines.len() == LINES {
            self.lines.remove(0);
        }
        self.lines.push(line.chars().take(LENGTH).collect());
    }

    /// Forgets what was said before the first frame: it explains no later end.
    pub fn begin(&mut self) {
        self.lines.clear();
    }

    /// Explains the end of a producer that brought frames or not.
    pub fn explain(&self, producer: &Producer, frames: bool) -> String {
        if let Some(own) = self
            .lines
            .iter()
            .find_map(|line| line.strip_prefix(COMPLAINT))
        {
            return without_secrets(own);
        }
        let all = self.lines.join("\n").to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|words| all.contains(words));
        let unauthorised = ["401 unauthorized", "403 forbidden", "authorization failed"];
        if says(&[
            "failed to resolve",
            "name or service not known",
            "no address associated",
        ]) {
            return format!("name not found: nothing is known of the host of {producer}");
        }
        if says(&["connection refused"]) {
            return format!("refused: nothing listens at {producer}; check host and port");
        }
        if says(&unauthorised) {
            return format!(
                "unauthorised: {producer} wants another user or password; check username and \
                 password_file"
            );
        }
        if says(&["no route to host", "network is unreachable", "timed out"]) {
            return format!("unreachable: {producer} does not answer");
        }
        if says(&["404 not found", "454 session", "stream not found"]) {
            return format!("not a stream: {producer} has none of this path");
        }
        if let Some(element) = self.missing_element() {
            return format!(
                "program not installed: GStreamer has no {element}: {}",
                package(&element)
            );
        }
        if says(&[
            "no cameras available",
            "no camera available",
            "could not find a camera",
        ]) {
            return format!("name not found: there is no camera {producer} on this board");
        }
        if says(&[
            "unknown codec",
            "codec not found",
            "unsupported codec",
            "could not find codec",
        ]) || (all.contains("decoder") && all.contains("not found"))
        {
            return format!(
                "codec unknown: this board's ffmpeg cannot decode what {producer} sends"
            );
        }
        if says(&[
            "invalid data found",
            "protocol not found",
            "method describe failed",
            "option not found",
        ]) {
            return format!("not a stream: {producer} sends nothing that ffmpeg understands");
        }
        match (self.lines.last(), frames) {
            (Some(last), _) => format!("the stream ended: {}", without_secrets(last)),
            (None, true) => "the stream ended".into(),
            (None, false) => "not a stream: it ended without a frame".into(),
        }
    }

    /// Returns the element that GStreamer misses: `no element "nvarguscamerasrc"`.
    fn missing_element(&self) -> Option<String> {
        self.lines.iter().find_map(|line| {
            let (_, rest) = line.split_once("no element \"")?;
            Some(rest.split('"').next()?.to_string())
        })
    }
}

/// Returns how an element of GStreamer is installed.
fn package(element: &str) -> &'static str {
    match element {
        "libcamerasrc" => "sudo apt install gstreamer1.0-libcamera",
        "jpegenc" => "sudo apt install gstreamer1.0-plugins-good",
        "videoconvert" => "sudo apt install gstreamer1.0-plugins-base",
        _ => "it comes with NVIDIA's JetPack: sudo apt install nvidia-l4t-gstreamer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Access, Decoder, Transport, Url};

    fn explained(lines: &[&str], frames: bool) -> String {
        let (url, _) = Url::parse("rtsp://10.0.0.9/a").unwrap();
        let producer = Producer::Rtsp {
            url,
            access: Access::Open,
            transport: Transport::Auto,
            key_frames: false,
            decoder: Decoder::Auto,
        };
        let mut words = Words::default();
        lines.iter().for_each(|line| words.hear(line));
        words.explain(&producer, frames)
    }

    #[test]
    fn words_of_programs_become_the_names_operators_know() {
        for (line, name) in [
            (
                "[tcp @ 0x5] [error] Failed to resolve hostname cam.lan: Name or service not known",
                "name not found: ",
            ),
            ("[error] pipe:0: Connection refused", "refused: "),
            (
                "[error] pipe:0: Server returned 401 Unauthorized (authorization failed)",
                "unauthorised: ",
            ),
            (
                "[rtsp @ 0x5] [error] method DESCRIBE failed: 404 Not Found",
                "not a stream: ",
            ),
            (
                "[error] pipe:0: Invalid data found when processing input",
                "not a stream: ",
            ),
            (
                "[error] Decoder (codec av1) not found for input stream #0:0",
                "codec unknown: ",
            ),
            (
                "[tcp @ 0x5] [error] Connection to tcp://h failed: No route to host",
                "unreachable: ",
            ),
            (
                "WARNING: erroneous pipeline: no element \"libcamerasrc\"",
                "program not installed: GStreamer has no libcamerasrc: sudo apt install gstreamer1.0-libcamera",
            ),
            ("ERROR: *** no cameras available ***", "name not found: "),
            (
                "kithd: program not installed: ffmpeg is missing: sudo apt install ffmpeg",
                "program not installed: ffmpeg",
            ),
            ("", "not a stream: it ended without a frame"),
        ] {
            let text = explained(&[line], false);
            assert!(text.starts_with(name), "{line}: {text}");
        }
        assert_eq!(explained(&[], true), "the stream ended");
    }

    #[test]
    fn a_password_in_the_words_is_not_repeated() {
        for line in [
            "[concat @ 0x5] [error] Impossible to open 'rtsp://me:secret@10.0.0.9/a?pw=secret'",
            "kithd: odd: http://me:secret@h/secret",
        ] {
            assert!(!explained(&[line], true).contains("secret"));
        }
    }

    #[test]
    fn troubles_before_the_first_frame_explain_no_later_end() {
        let (url, _) = Url::parse("rtsp://10.0.0.9/a").unwrap();
        let producer = Producer::Http {
            url,
            access: Access::Open,
            trust: None,
        };
        let mut words = Words::default();
        words.hear("[error] Device creation failed: -1313558101.");
        words.begin();
        assert_eq!(words.explain(&producer, true), "the stream ended");
    }

    #[test]
    fn words_are_bounded_and_the_codec_is_heard() {
        let mut words = Words::default();
        words.hear("[info]   Stream #0:0: Video: hevc (Main), yuvj420p(pc), 640x360, 25 fps");
        (0..1000).for_each(|n| words.hear(&format!("{n} {}", "x".repeat(1000))));
        assert_eq!(words.codec.as_deref(), Some("hevc"));
        assert_eq!(words.lines.len(), LINES);
        assert!(words.lines.iter().all(|line| line.len() <= LENGTH));
    }
}
