//! The programs that read cameras, with their arguments: ffmpeg for streams, rpicam-vid or
//! GStreamer for the cameras of a board.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::installed;
use crate::config::{Camera, Decoder, Producer, Size, Transport, Url};
use crate::http_client::Login;

/// A program to become.
#[derive(Debug, PartialEq)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    /// Standard input, for what must not stand among the arguments.
    pub input: Option<Vec<u8>>,
}

/// Returns the program that writes the frames of this camera. `attempt` is the number of starts
/// that brought no frame: each tries the next way.
pub fn of(camera: &Camera, login: Option<&Login>, attempt: u32) -> anyhow::Result<Program> {
    match &camera.producer {
        Producer::V4l2 { .. } | Producer::Http { .. } => bail!("kithd reads this camera itself"),
        Producer::Rtsp {
            url,
            transport,
            key_frames,
            decoder,
            ..
        } => {
            let path = needed("ffmpeg", "ffmpeg")?;
            let ways = ways(*transport, decoder);
            let (transport, decoder) = &ways[attempt as usize % ways.len()];
            let rate = (!key_frames).then_some(camera.rate);
            Ok(Program {
                arguments: ffmpeg(decoder, rate, &passthrough(&path)),
                input: Some(playlist(url, login, *transport)),
                path,
            })
        }
        Producer::Libcamera {
            camera: which,
            size,
        } => {
            for name in ["rpicam-vid", "libcamera-vid"] {
                if let Some(path) = installed(name) {
                    let number = match which.parse::<u32>() {
                        Ok(number) => number,
                        Err(_) => numbered(&path, which)?,
                    };
                    let arguments = rpicam(number, *size, camera.rate);
                    return Ok(Program {
                        path,
                        arguments,
                        input: None,
                    });
                }
            }
            let Some(path) = installed("gst-launch-1.0") else {
                bail!(
                    "program not installed: neither rpicam-vid nor GStreamer; on Raspberry Pi OS: \
                     sudo apt install rpicam-apps; elsewhere: sudo apt install \
                     gstreamer1.0-libcamera gstreamer1.0-plugins-good gstreamer1.0-tools"
                );
            };
            Ok(Program {
                path,
                arguments: libcamerasrc(which, *size, camera.rate),
                input: None,
            })
        }
        Producer::Argus { sensor, size } => Ok(Program {
            path: needed("gst-launch-1.0", "gstreamer1.0-tools")?,
            arguments: argus(*sensor, *size, camera.rate),
            input: None,
        }),
        Producer::Command { command, .. } => {
            let (program, arguments) = command.split_first().context("no program is named")?;
            let Some(path) = installed(program) else {
                bail!("program not installed: {program} is not there");
            };
            Ok(Program {
                path,
                arguments: arguments.to_vec(),
                input: None,
            })
        }
    }
}

/// Finds a program of a Debian package.
fn needed(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    installed(program).with_context(|| {
        format!("program not installed: {program} is missing: sudo apt install {package}")
    })
}

/// Returns the ways to read a stream, in the order in which they are tried.
fn ways(transport: Transport, decoder: &Decoder) -> Vec<(Transport, Decoder)> {
    let transports: &[_] = match transport {
        Transport::Auto => &[Transport::Tcp, Transport::Udp],
        Transport::Tcp => &[Transport::Tcp],
        Transport::Udp => &[Transport::Udp],
    };
    let decoders = match decoder {
        Decoder::Auto => vec![Decoder::Auto, Decoder::Software],
        other => vec![other.clone()],
    };
    transports
        .iter()
        .flat_map(|transport| decoders.iter().map(|decoder| (*transport, decoder.clone())))
        .collect()
}

/// Returns ffmpeg's arguments. They do not contain the address: it comes by standard input, as the
/// one entry of a playlist. No time limits: their options differ by version, and the daemon kills
/// what stalls. `rate`: most frames a second; `None`: only key frames are decoded.
fn ffmpeg(decoder: &Decoder, rate: Option<u32>, passthrough: &[&str; 2]) -> Vec<String> {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut arguments = vec![
        "-nostdin",
        "-hide_banner",
        "-nostats",
        "-loglevel",
        "level+info",
    ];
    match decoder {
        Decoder::Auto => arguments.extend(["-hwaccel", "auto"]),
        Decoder::Software => {}
        Decoder::Named(name) => arguments.extend(["-c:v", name]),
    }
    if rate.is_none() {
        arguments.extend(["-skip_frame", "nokey"]);
    }
    let threads = threads.to_string();
    arguments.extend(["-threads", &threads, "-fflags", "nobuffer"]);
    arguments.extend(["-analyzeduration", "500000", "-probesize", "200000"]);
    let protocols = "pipe,tcp,udp,rtp,rtsp,tls,crypto";
    arguments.extend(["-protocol_whitelist", protocols]);
    arguments.extend(["-f", "concat", "-safe", "0", "-i", "pipe:0"]);
    arguments.extend(["-map", "0:v:0", "-an", "-sn", "-dn"]);
    // A filter that drops frames and never repeats one.
    let select = rate.map(|rate| {
        format!(
            "select='isnan(prev_selected_t)+gte(t-prev_selected_t\\,{:.4})'",
            0.98 / f64::from(rate)
        )
    });
    if let Some(select) = &select {
        arguments.extend(["-vf", select]);
    }
    arguments.extend(passthrough);
    arguments.extend([
        "-c:v",
        "mjpeg",
        "-q:v",
        "3",
        "-flush_packets",
        "1",
        "-f",
        "image2pipe",
        "pipe:1",
    ]);
    arguments.into_iter().map(String::from).collect()
}

/// Returns the option that keeps ffmpeg from repeating frames; its name has changed in 5.1.
fn passthrough(ffmpeg: &Path) -> [&'static str; 2] {
    let version = Command::new(ffmpeg).arg("-version").output();
    let text = version.map(|output| output.stdout).unwrap_or_default();
    if is_older_than_5_1(&String::from_utf8_lossy(&text)) {
        ["-vsync", "passthrough"]
    } else {
        ["-fps_mode", "passthrough"]
    }
}

fn is_older_than_5_1(version: &str) -> bool {
    let numbers = version.strip_prefix("ffmpeg version ").unwrap_or_default();
    let mut numbers = numbers
        .trim_start_matches('n')
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    // A build from the repository has no number and is newer.
    numbers
        .next()
        .is_some_and(|major| (major, numbers.next().unwrap_or(0)) < (5, 1))
}

/// Returns the playlist with the camera's address, which ffmpeg reads from standard input.
fn playlist(url: &Url, login: Option<&Login>, transport: Transport) -> Vec<u8> {
    let address = url.with_login(login);
    let sign = if url.path.contains('?') { '&' } else { '?' };
    let transport = match transport {
        Transport::Auto | Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let quoted = format!("{address}{sign}{transport}").replace('\'', "'\\''");
    format!("ffconcat version 1.0\nfile '{quoted}'\n").into_bytes()
}

fn rpicam(number: u32, size: Size, rate: u32) -> Vec<String> {
    let Size { width, height } = size;
    let text = format!(
        "--camera {number} --width {width} --height {height} --framerate {rate} --codec mjpeg \
         --timeout 0 --nopreview --flush --output -"
    );
    text.split_whitespace().map(String::from).collect()
}

/// Returns the number of a camera that is named, as `--list-cameras` lists them:
/// `0 : imx708 [4608x2592 …] (/base/…)`.
fn numbered(program: &Path, name: &str) -> anyhow::Result<u32> {
    let listed = Command::new(program)
        .arg("--list-cameras")
        .output()
        .context("the cameras of this board cannot be listed")?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned()
        + &String::from_utf8_lossy(&listed.stderr);
    in_list(&text, name)
        .with_context(|| format!("name not found: libcamera knows no camera {name}"))
}

fn in_list(list: &str, name: &str) -> Option<u32> {
    list.lines().find_map(|line| {
        let (number, rest) = line.trim().split_once(" : ")?;
        rest.contains(name).then(|| number.parse().ok())?
    })
}

fn libcamerasrc(camera: &str, size: Size, rate: u32) -> Vec<String> {
    let Size { width, height } = size;
    let mut arguments = vec!["-q".to_string(), "libcamerasrc".into()];
    // GStreamer knows names only; the first camera is its default.
    if camera != "0" {
        arguments.push(format!("camera-name={camera}"));
    }
    let rest = format!(
        "! video/x-raw,width={width},height={height},framerate={rate}/1 \
         ! queue max-size-buffers=2 leaky=downstream ! videoconvert ! jpegenc ! fdsink fd=1 sync=false"
    );
    arguments.extend(rest.split_whitespace().map(String::from));
    arguments
}

fn argus(sensor: u64, size: Size, rate: u32) -> Vec<String> {
    let Size { width, height } = size;
    let text = format!(
        "-q nvarguscamerasrc sensor-id={sensor} \
         ! video/x-raw(memory:NVMM),width={width},height={height},framerate={rate}/1 ! nvjpegenc \
         ! fdsink fd=1 sync=false"
    );
    text.split_whitespace().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_with_its_password_is_no_argument() {
        let (url, login) = Url::parse("rtsp://me:it's@cam:554/live?a=b").unwrap();
        let playlist = playlist(&url, login.as_ref(), Transport::Tcp);
        assert_eq!(
            String::from_utf8(playlist).unwrap(),
            "ffconcat version 1.0\nfile 'rtsp://me:it%27s@cam:554/live?a=b&tcp'\n"
        );
        let arguments = ffmpeg(&Decoder::Auto, Some(5), &["-vsync", "0"]).join(" ");
        assert!(!arguments.contains("cam"), "{arguments}");
        assert!(
            arguments.contains("gte(t-prev_selected_t\\,0.1960)"),
            "{arguments}"
        );
        let key_frames = ffmpeg(
            &Decoder::Named("h264_v4l2m2m".into()),
            None,
            &["-vsync", "0"],
        );
        let key_frames = key_frames.join(" ");
        assert!(
            key_frames.contains("-c:v h264_v4l2m2m -skip_frame nokey"),
            "{key_frames}"
        );
    }

    #[test]
    fn each_attempt_tries_another_way() {
        let ways = ways(Transport::Auto, &Decoder::Auto);
        assert_eq!(ways.len(), 4);
        assert_eq!(ways[0], (Transport::Tcp, Decoder::Auto));
        assert_eq!(ways[1], (Transport::Tcp, Decoder::Software));
        assert_eq!(super::ways(Transport::Udp, &Decoder::Software).len(), 1);
    }

    #[test]
    fn ffmpeg_of_every_release_gets_its_own_option() {
        for (version, older) in [
            ("ffmpeg version 4.2.7-0ubuntu0.1 Copyright", true),
            ("ffmpeg version 5.0.1 Copyright", true),
            ("ffmpeg version 5.1.6-0+deb12u1 Copyright", false),
            ("ffmpeg version 7.1.1-1+b1", false),
            ("ffmpeg version n6.0", false),
            ("ffmpeg version N-109468-gd39b34123d", false),
            ("", false),
        ] {
            assert_eq!(is_older_than_5_1(version), older, "{version}");
        }
    }

    #[test]
    fn a_camera_of_the_board_is_found_by_number_or_name() {
        let list = "Available cameras\n-----\n0 : imx708 [4608x2592] (/base/soc/i2c0mux/imx708@1a)\n    \
                    Modes: 'SRGGB10_CSI2P'\n1 : ov5647 [2592x1944] (/base/soc/i2c@80000/ov5647@36)\n";
        assert_eq!(in_list(list, "ov5647"), Some(1));
        assert_eq!(in_list(list, "imx219"), None);
        let size = Size {
            width: 640,
            height: 480,
        };
        assert!(
            rpicam(1, size, 10)
                .join(" ")
                .starts_with("--camera 1 --width 640")
        );
        assert!(
            !libcamerasrc("0", size, 10)
                .join(" ")
                .contains("camera-name")
        );
        assert!(argus(2, size, 10).contains(&"sensor-id=2".to_string()));
    }
}
