//! `kithd camera list`: the cameras of this board, each with what it offers or the line that
//! configures it. V4L2's are asked by kithd itself, those of libcamera and Argus through the
//! programs that read them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{anyhow, bail};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::{LoginArgs, found, onvif, shown};
use crate::camera_process::{Found, Stack, installed};
use crate::config::PasswordFile;
use crate::http_client::Login;

/// Time for a program to list its cameras.
const LISTING: Duration = Duration::from_secs(10);
/// Most bytes of a program's list.
const LONGEST: u64 = 256 << 10;

/// Arguments of `kithd camera list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Searches the network for cameras with ONVIF instead
    #[arg(long)]
    lan: bool,
    /// Address of this board in the network to search [default: all networks]
    #[arg(long, value_name = "ADDRESS", requires = "lan", hide = true)]
    interface: Option<Ipv4Addr>,
    /// Seconds to wait for cameras to answer
    #[arg(long, value_name = "SECONDS", requires = "lan", default_value_t = 4,
        value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    #[command(flatten)]
    login: LoginArgs,
}

/// A camera that another program reads.
#[derive(Debug, PartialEq)]
struct Other {
    name: String,
    /// Its line in the configuration.
    line: String,
}

/// Lists the cameras of the board, or of the network.
pub async fn run(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let login = args.login.read()?;
    if args.lan {
        let time = Duration::from_secs(args.seconds);
        return onvif::list(args.interface, login.as_ref(), time).await;
    }
    if login.is_some() {
        bail!("a login is for cameras of the network: add --lan");
    }
    let found = found().await?;
    let nodes = |stack: Stack| {
        let mut nodes = found
            .iter()
            .filter(move |found| found.stack() == Some(stack));
        nodes.next().map(|first| {
            let rest = nodes.map(|found| format!(" {}", found.device.display()));
            format!("{}{}", first.device.display(), rest.collect::<String>())
        })
    };
    let usable: Vec<_> = found
        .iter()
        .filter(|found| found.stack().is_none())
        .collect();
    for camera in &usable {
        print(camera);
    }
    let libcamera = libcamera(nodes(Stack::Libcamera)).await;
    let argus = argus(Path::new("/"), nodes(Stack::Argus)).await;
    if usable.is_empty() && libcamera.is_empty() && argus.is_empty() {
        println!(
            "No camera was found. A USB camera shows up here when it is plugged in, one on a \
             ribbon cable when libcamera (Raspberry Pi and others: sudo apt install rpicam-apps) \
             or Argus (Jetson) sees it. Cameras of the network with ONVIF: kithd camera list --lan"
        );
    }
    for (stack, cameras) in [("libcamera", libcamera), ("argus", argus)] {
        for camera in cameras {
            match camera {
                Ok(Other { name, line }) => println!("{stack}  {name}\n  {line}"),
                Err(why) => println!("{stack}  {why}"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl LoginArgs {
    /// Reads the login; `None`: no user is named.
    fn read(&self) -> anyhow::Result<Option<Login>> {
        let Some(user) = &self.username else {
            return Ok(None);
        };
        let file = PasswordFile {
            user: user.clone(),
            file: self.password_file.clone(),
        };
        file.login().map(Some).map_err(|why| anyhow!(why))
    }
}

fn print(camera: &Found) {
    println!("{}  {}", camera.device.display(), shown(&camera.name));
    for link in &camera.links {
        println!("  {}", link.display());
    }
    match &camera.offers {
        Err(error) => println!("  {error}"),
        Ok(offers) => {
            println!("  {:<10} {:<12} frames a second", "format", "resolution");
            for offer in offers.iter().filter(|offer| offer.usable) {
                let (width, height) = offer.size;
                let rates: Vec<_> = offer.rates.iter().map(ToString::to_string).collect();
                println!(
                    "  {:<10} {:<12} {}",
                    offer.format,
                    format!("{width}x{height}"),
                    rates.join(" ")
                );
            }
            let mut others: Vec<_> = offers
                .iter()
                .filter(|offer| !offer.usable)
                .map(|offer| &offer.format)
                .collect();
            others.dedup();
            if !others.is_empty() {
                println!("  and {} formats that kithd cannot use", others.len());
            }
        }
    }
}

/// Lists libcamera's cameras. `nodes` are the V4L2 nodes that belong to libcamera; without any, and
/// without its programs, there is nothing to say.
async fn libcamera(nodes: Option<String>) -> Vec<Result<Other, String>> {
    type Read = fn(&str) -> Vec<Other>;
    let ways: [(&str, &[&str], Read); 4] = [
        ("rpicam-vid", &["--list-cameras"], of_rpicam),
        ("libcamera-vid", &["--list-cameras"], of_rpicam),
        ("cam", &["--list"], of_cam),
        ("gst-device-monitor-1.0", &["Video/Source"], of_monitor),
    ];
    let way = ways
        .into_iter()
        .find_map(|(program, arguments, read)| Some((installed(program)?, arguments, read)));
    let cameras = match way {
        Some((program, arguments, read)) => match output(&program, arguments).await {
            Ok(text) => read(&text),
            Err(why) => return vec![Err(why)],
        },
        None => Vec::new(),
    };
    if let (true, Some(nodes)) = (cameras.is_empty(), nodes) {
        return vec![Err(format!(
            "{nodes} belong to a camera that libcamera reads, but no program here lists it: on \
             Raspberry Pi OS: sudo apt install rpicam-apps; elsewhere: sudo apt install \
             libcamera-tools gstreamer1.0-libcamera"
        ))];
    }
    cameras.into_iter().map(Ok).collect()
}

/// Lists a Jetson's CSI cameras. `root` is the root of the file system, `nodes` the V4L2 nodes of
/// the sensors.
async fn argus(root: &Path, nodes: Option<String>) -> Vec<Result<Other, String>> {
    if !root.join("etc/nv_tegra_release").exists() && nodes.is_none() && !has_nvhost(root) {
        return Vec::new();
    }
    let mut cameras = sensors(root);
    if let (true, Some(nodes)) = (cameras.is_empty(), &nodes) {
        cameras = nodes
            .split(' ')
            .enumerate()
            .map(|(number, node)| sensor(number, node))
            .collect();
    }
    if cameras.is_empty() {
        return Vec::new();
    }
    let knows = match installed("gst-inspect-1.0") {
        Some(program) => output(&program, &["--exists", "nvarguscamerasrc"])
            .await
            .is_ok(),
        None => false,
    };
    let mut listed: Vec<_> = cameras.into_iter().map(Ok).collect();
    if !knows {
        listed.push(Err(
            "GStreamer does not know nvarguscamerasrc, which reads these cameras: sudo apt \
             install gstreamer1.0-tools nvidia-l4t-gstreamer"
                .into(),
        ));
    }
    listed
}

fn has_nvhost(root: &Path) -> bool {
    let devices = std::fs::read_dir(root.join("dev")).into_iter().flatten();
    devices
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("nvhost-"))
}

fn sensor(number: usize, name: &str) -> Other {
    Other {
        name: shown(name),
        line: format!("argus = {number}"),
    }
}

/// Lists the sensors that the board's device tree names, in the order in which Argus numbers them.
fn sensors(root: &Path) -> Vec<Other> {
    let modules = root.join("proc/device-tree/tegra-camera-platform/modules");
    let mut modules: Vec<PathBuf> = std::fs::read_dir(modules)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.join("badge").exists())
        .collect();
    // module2 before module10.
    modules.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    let property = |path: PathBuf| {
        let text = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .trim_end_matches('\0')
            .to_owned()
    };
    let works = |path: &PathBuf| {
        let status = property(path.join("status"));
        status.is_empty() || status == "okay" || status == "ok"
    };
    let modules = modules.into_iter().filter(works).enumerate();
    modules
        .map(|(number, path)| sensor(number, &property(path.join("badge"))))
        .collect()
}

/// Runs a program to its end and returns its output and its words; an error if it fails or does not
/// end.
async fn output(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let name = program.display();
    let failed = |error: std::io::Error| format!("{name} cannot be run: {error}");
    let mut process = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
    let listing = async {
        let (mut listed, mut words) = (Vec::new(), Vec::new());
        if let (Some(stdout), Some(stderr)) = (stdout, stderr) {
            let (mut stdout, mut stderr) = (stdout.take(LONGEST), stderr.take(LONGEST));
            let (one, other) = tokio::join!(
                stdout.read_to_end(&mut listed),
                stderr.read_to_end(&mut words)
            );
            one.and(other)?;
        }
        listed.push(b'\n');
        listed.extend(words);
        Ok((process.wait().await?, listed))
    };
    match timeout(LISTING, listing).await {
        Ok(Ok((status, text))) if status.success() => {
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        Ok(Ok((status, _))) => Err(format!("{name} failed: {status}")),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(format!(
            "{name} does not end; no camera can be listed by it"
        )),
    }
}

/// Reads the list of rpicam-vid: `0 : imx708 [4608x2592 10-bit RGGB] (/base/soc/…)`.
fn of_rpicam(text: &str) -> Vec<Other> {
    let cameras = text.lines().filter_map(|line| {
        let (number, rest) = line.trim().split_once(" : ")?;
        let number: u32 = number.parse().ok()?;
        let name = rest.rsplit_once(" (").map_or(rest, |(name, _)| name);
        Some(Other {
            name: shown(name),
            line: format!("libcamera = {number}"),
        })
    });
    cameras.collect()
}

/// Reads the list of cam: `1: 'imx219' (/base/soc/…)`. GStreamer, which reads the camera where
/// there is no rpicam-vid, knows it by the words in parentheses.
fn of_cam(text: &str) -> Vec<Other> {
    let cameras = text.lines().filter_map(|line| {
        let (number, rest) = line.trim().split_once(": ")?;
        number.parse::<u32>().ok()?;
        let (name, id) = rest.strip_suffix(')')?.rsplit_once(" (")?;
        // A USB camera, which V4L2 lists too.
        (!name.starts_with("External camera")).then(|| named(name.trim_matches('\''), id))
    });
    cameras.collect()
}

/// Reads the list of gst-device-monitor-1.0, a paragraph for each device.
fn of_monitor(text: &str) -> Vec<Other> {
    let devices = text.split("Device found:").skip(1);
    let cameras = devices.filter_map(|device| {
        let mut lines = device.lines().map(str::trim);
        let (_, name) = lines
            .clone()
            .find(|line| line.starts_with("name"))?
            .split_once(':')?;
        lines.any(|line| line.contains("libcamerasrc")).then(|| {
            let name = name.trim();
            named(name, name)
        })
    });
    cameras.collect()
}

fn named(name: &str, id: &str) -> Other {
    Other {
        name: shown(name),
        line: format!("libcamera = {}", toml::Value::from(shown(id))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(cameras: &[Other]) -> Vec<(&str, &str)> {
        cameras
            .iter()
            .map(|camera| (camera.name.as_str(), camera.line.as_str()))
            .collect()
    }

    #[test]
    fn the_lists_of_libcameras_programs_are_read() {
        let rpicam = "[0:01:02.3] [77] \u{1b}[1;32m INFO \u{1b}[1;37mCamera \u{1b}[0mcamera_manager.cpp:297 libcamera v0.0.5\n\
            Available cameras\n-----------------\n\
            0 : imx708_wide [4608x2592 10-bit RGGB] (/base/soc/i2c0mux/i2c@1/imx708@1a)\n    \
            Modes: 'SRGGB10_CSI2P' : 1536x864 [120.13 fps - (768, 432)/3072x1728 crop]\n\
            1 : ov5647 [2592x1944] (/base/soc/i2c@80000/ov5647@36)\n";
        assert_eq!(
            lines(&of_rpicam(rpicam)),
            [
                ("imx708_wide [4608x2592 10-bit RGGB]", "libcamera = 0"),
                ("ov5647 [2592x1944]", "libcamera = 1")
            ]
        );
        assert!(of_rpicam("No cameras available!\n").is_empty());
        let cam = "Available cameras:\n1: 'imx219' (/base/soc/i2c0mux/i2c@1/imx219@10)\n\
                   2: Internal front camera (\\_SB_.PCI0.LNK1)\n\
                   3: External camera 'HD Webcam' (\\_SB_.PCI0.XHC_.HS05-1.0-046d)\n";
        assert_eq!(
            lines(&of_cam(cam)),
            [
                (
                    "imx219",
                    "libcamera = \"/base/soc/i2c0mux/i2c@1/imx219@10\""
                ),
                ("Internal front camera", "libcamera = '\\_SB_.PCI0.LNK1'"),
            ]
        );
        let monitor = "Probing devices...\n\n\nDevice found:\n\n\tname  : HD Webcam\n\t\
            class : Video/Source\n\tgst-launch-1.0 v4l2src device=/dev/video0 ! ...\n\n\n\
            Device found:\n\n\tname  : /base/soc/imx219@10\n\tclass : Source/Video\n\t\
            gst-launch-1.0 libcamerasrc camera-name=\"/base/soc/imx219\\@10\" ! ...\n";
        assert_eq!(
            lines(&of_monitor(monitor)),
            [("/base/soc/imx219@10", "libcamera = \"/base/soc/imx219@10\"")]
        );
        for read in [of_rpicam, of_cam, of_monitor] {
            assert!(read("\n: (\n1: ()\0 : x\nDevice found:").len() <= 1);
        }
    }

    #[tokio::test]
    async fn sensors_of_a_jetson_are_read_from_its_device_tree() {
        let root = tempfile::tempdir().unwrap();
        assert!(argus(root.path(), None).await.is_empty());
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/nvhost-vi"), "").unwrap();
        assert!(argus(root.path(), None).await.is_empty());
        let modules = root
            .path()
            .join("proc/device-tree/tegra-camera-platform/modules");
        for (module, badge, status) in [
            ("module10", "jakku_rear_IMX477\0", ""),
            ("module0", "jakku_front_IMX219\0", "okay\0"),
            ("module1", "absent\0", "disabled\0"),
        ] {
            let folder = modules.join(module);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("badge"), badge).unwrap();
            if !status.is_empty() {
                std::fs::write(folder.join("status"), status).unwrap();
            }
        }
        let listed = argus(root.path(), None).await;
        let found: Vec<_> = listed.iter().flatten().collect();
        assert_eq!(
            found,
            [
                &sensor(0, "jakku_front_IMX219"),
                &sensor(1, "jakku_rear_IMX477")
            ]
        );
    }

    #[tokio::test]
    async fn programs_that_fail_or_flood_end_in_words() {
        let sh = Path::new("/bin/sh");
        let said = output(sh, &["-c", "echo out; echo words >&2"])
            .await
            .unwrap();
        assert_eq!(said, "out\n\nwords\n");
        let failed = output(sh, &["-c", "exit 3"]).await.unwrap_err();
        assert!(failed.contains("exit status: 3"), "{failed}");
        let none = output(Path::new("/does/not/exist"), &[]).await.unwrap_err();
        assert!(none.contains("cannot be run"), "{none}");
    }
}
