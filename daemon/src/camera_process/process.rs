//! `kithd camera run`: opens the camera or starts its frame producer, confines itself, and takes
//! bursts of frames on schedule or on motion, until its parent is gone. It waits only for the
//! camera, so the daemon knows from its silence that the camera stalls. Of a followed camera every
//! frame at the rate of following is handed over, with what moves in it: the daemon knows whether
//! there is a face.

use std::io::{BufRead, BufReader, Read, Write};
use std::mem::ManuallyDrop;
use std::process::{ChildStderr, ChildStdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kith_pictures::decode::DecodeLimits;
use kith_pictures::mjpeg::{self, Buffers};
use kith_pictures::shot::{PixelFormat, Shot, is_cut};
use parking_lot::Mutex;

use super::device::Device;
use super::frames::{Frames, Next};
use super::motion::Gate;
use super::producer::{self, Args};
use super::trouble::Words;
use super::wire::{self, Message};
use crate::child;
use crate::config::{self, Config, Producer};
use crate::engine_process::{Profile, confine};

/// Time between signs of life while frames come.
const ALIVE: Duration = Duration::from_millis(500);
/// Time between checks for motion.
const LOOK: Duration = Duration::from_millis(200);
/// Number of first frames of a camera of this board that are dropped: after opening they are dark,
/// green, or from the last use.
const WARM_UP: u64 = 5;
/// Longest line of a frame producer's words.
const LONGEST_LINE: u64 = 4096;
/// Time for a frame producer's last words after its output has ended.
const FAREWELL: Duration = Duration::from_secs(1);
/// Shortest time between log lines about broken frames.
const SAY: Duration = Duration::from_secs(60);

/// Takes pictures until the parent is gone.
pub fn run(config: &Config, camera: &config::Camera, args: &Args) -> anyhow::Result<()> {
    child::die_with_parent()?;
    child::give_way();
    let max_pixels = config.recognition.max_pixels;
    let limits = DecodeLimits {
        max_bytes: config
            .intake
            .max_bytes
            .min(camera.max_frame_bytes(max_pixels)),
        max_pixels: camera.max_frame_pixels(max_pixels),
    };
    match &camera.producer {
        Producer::V4l2 {
            device,
            size,
            format,
        } => {
            // Dropping the stream panics after the camera failed; the kernel closes both with the
            // process.
            let device = Device::open(device, *size, *format, camera.rate)?;
            watch_device(ManuallyDrop::new(device), camera, &limits)
        }
        _ => {
            let (frames, words) = producer::start(config, args)?;
            watch_frames(frames, words, camera, &limits)
        }
    }
}

fn watch_device(
    mut device: ManuallyDrop<Device>,
    camera: &config::Camera,
    limits: &DecodeLimits,
) -> anyhow::Result<()> {
    // After this nothing can be opened, and new threads are confined too.
    let confinement = confine(&Profile::Camera);
    let layout = device.layout;
    tracing::info!(
        "{} sends {}x{} in {}, {} frames a second, {confinement}",
        camera.producer,
        layout.width,
        layout.height,
        layout.format.name(),
        device.rate,
    );
    std::thread::spawn(child::end_with_standard_input);
    let mut taking = Taking::new(camera, limits.max_bytes, std::io::stdout());
    let mut buffers = Buffers::default();
    loop {
        let frame = device.frame()?;
        let now = Instant::now();
        let torn = layout.format == PixelFormat::Mjpeg && buffers.torn(&frame);
        if taking.wants(now)? {
            let shot = match torn {
                true => Err("the frame is cut off, and the end of an older one follows".into()),
                false => Shot::read(&frame, &layout, limits.max_bytes),
            };
            taking.frame(shot, now)?;
        }
    }
}

/// Watches the frames of a frame producer until it ends; the error explains why.
fn watch_frames(
    frames: ChildStdout,
    said: ChildStderr,
    camera: &config::Camera,
    limits: &DecodeLimits,
) -> anyhow::Result<()> {
    let confinement = confine(&Profile::Camera);
    std::thread::spawn(child::end_with_standard_input);
    let words = Arc::new(Mutex::new(Words::default()));
    let listening = std::thread::spawn({
        let words = Arc::clone(&words);
        move || {
            let mut said = BufReader::new(said);
            let mut line = Vec::new();
            // A line without end is taken in pieces.
            while let Ok(1..) = (&mut said).take(LONGEST_LINE).read_until(b'\n', &mut line) {
                words.lock().hear(&String::from_utf8_lossy(&line));
                line.clear();
            }
        }
    });
    let mut taking = Taking::new(camera, limits.max_bytes, std::io::stdout());
    let mut frames = Frames::new(frames, limits.max_bytes);
    let mut first = true;
    loop {
        let next = frames.next().context("the frame producer's pipe")?;
        let now = Instant::now();
        match next {
            Next::Frame(frame) => {
                if std::mem::take(&mut first) {
                    let codec = {
                        let mut words = words.lock();
                        words.begin();
                        words.codec.clone()
                    };
                    let codec = codec.unwrap_or_else(|| "mjpeg".into());
                    let (width, height) = mjpeg::size(frame).unwrap_or_default();
                    tracing::info!(
                        "{} sends {width}x{height} in {codec}, {confinement}",
                        camera.producer
                    );
                    taking.begin(&codec, width, height)?;
                }
                if taking.wants(now)? {
                    taking.frame(Shot::jpeg(frame, limits), now)?;
                }
            }
            Next::Unchanged => _ = taking.wants(now)?,
            Next::Broken(why) => {
                // A sign of life of a camera that had begun well: the reason why only broken frames
                // come is found here, not in the daemon.
                match first {
                    true => taking.frames += 1,
                    false => _ = taking.wants(now)?,
                }
                taking.frame(Err(why), now)?;
            }
            Next::NotAStream(what) => bail!("not a stream: {what}"),
            Next::Ended => break,
        }
    }
    // Its last words may still be in the pipe.
    let until = Instant::now() + FAREWELL;
    while !listening.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    match (first, frames.instead()) {
        (true, Some(what)) => bail!("not a stream: {what}"),
        _ => bail!(words.lock().explain(&camera.producer, !first)),
    }
}

/// Selection of frames, and their output.
struct Taking<'a, W: Write> {
    settings: &'a config::Camera,
    max_bytes: usize,
    out: W,
    frames: u64,
    /// Number of first frames to drop.
    warm_up: u64,
    broken: u64,
    /// Time of the first frame since which all were broken.
    broken_since: Option<Instant>,
    said: Option<Instant>,
    alive: Option<Instant>,
    gate: Option<Gate>,
    looked: Option<Instant>,
    /// Time between pictures, or between looks.
    every: Option<Duration>,
    due: Option<Instant>,
    /// Cells of the last look.
    cells: Vec<u8>,
    /// The burst in progress.
    burst: Option<Vec<(f32, Vec<u8>)>>,
}

impl<'a, W: Write> Taking<'a, W> {
    fn new(settings: &'a config::Camera, max_bytes: usize, out: W) -> Self {
        let follows = settings.follow.is_some();
        let gate = (settings.motion || follows).then(|| {
            let cool_down = match follows {
                true => Duration::ZERO,
                false => settings.cool_down,
            };
            Gate::new(settings.motion_area, cool_down)
        });
        let between_looks = settings.follow.map(|rate| Duration::from_secs(1) / rate);
        let every = between_looks.or(settings.every);
        // Other cameras run before kithd comes.
        let warm_up = match settings.producer.size() {
            Some(_) => WARM_UP,
            None => 0,
        };
        Self {
            settings,
            max_bytes,
            out,
            frames: 0,
            warm_up,
            broken: 0,
            broken_since: None,
            said: None,
            alive: None,
            gate,
            looked: None,
            every,
            due: every.map(|_| Instant::now()),
            cells: Vec::new(),
            burst: None,
        }
    }

    /// Reports what the camera sends.
    fn begin(&mut self, codec: &str, width: u32, height: u32) -> anyhow::Result<()> {
        let codec = codec.into();
        let begins = Message::Begins {
            codec,
            width,
            height,
        };
        self.say(&begins, &[])
    }

    /// Reports that frames come; returns true if this frame is to be read.
    fn wants(&mut self, now: Instant) -> anyhow::Result<bool> {
        self.frames += 1;
        if self
            .alive
            .is_none_or(|last| now.duration_since(last) >= ALIVE)
        {
            self.alive = Some(now);
            self.say(
                &Message::Alive {
                    frames: self.frames,
                    broken: self.broken,
                },
                &[],
            )?;
        }
        let look = self.gate.is_some()
            && self.settings.follow.is_none()
            && self
                .looked
                .is_none_or(|last| now.duration_since(last) >= LOOK);
        let due = self.due.is_some_and(|due| now >= due);
        Ok(self.frames > self.warm_up && (self.burst.is_some() || due || look))
    }

    /// Processes a frame that was wanted.
    fn frame(&mut self, shot: Result<Shot, String>, now: Instant) -> anyhow::Result<()> {
        let shot = match shot {
            Ok(shot) => shot,
            Err(why) => return self.broken(&why, now),
        };
        let mut moves = false;
        if self.settings.follow.is_none()
            && let Some(gate) = &mut self.gate
            && self
                .looked
                .is_none_or(|last| now.duration_since(last) >= LOOK)
        {
            self.looked = Some(now);
            moves = gate.opens(&shot.cells(), now);
        }
        if let (Some(due), Some(every)) = (self.due, self.every)
            && now >= due
        {
            // Missed times are not made up for.
            let next = due + every;
            self.due = Some(if next > now { next } else { now + every });
            moves = true;
        }
        if self.settings.follow.is_some() {
            return match moves {
                true => self.look(shot, now),
                false => Ok(()),
            };
        }
        if moves && self.burst.is_none() {
            self.burst = Some(Vec::new());
        }
        let Some(burst) = &mut self.burst else {
            self.broken_since = None;
            return Ok(());
        };
        // A single frame needs no measure.
        let sharpness = if self.settings.burst > 1 {
            shot.sharpness()
        } else {
            0.0
        };
        let jpeg = match jpeg(shot, self.max_bytes) {
            Ok(jpeg) => jpeg,
            Err(why) => return self.broken(&why, now),
        };
        self.broken_since = None;
        burst.push((sharpness, jpeg));
        if burst.len() >= self.settings.burst {
            let burst = self.burst.take().unwrap_or_default();
            let last = burst.len() - 1;
            for (n, (sharpness, jpeg)) in burst.into_iter().enumerate() {
                self.say(
                    &Message::Frame {
                        sharpness,
                        last: n == last,
                    },
                    &jpeg,
                )?;
            }
        }
        Ok(())
    }

    /// Hands a frame of a followed camera over.
    fn look(&mut self, shot: Shot, now: Instant) -> anyhow::Result<()> {
        let cells = shot.cells();
        let look = Message::Look {
            sharpness: shot.sharpness(),
            cut: !self.cells.is_empty() && is_cut(&self.cells, &cells),
            moves: self
                .gate
                .as_mut()
                .is_some_and(|gate| gate.opens(&cells, now)),
        };
        self.cells = cells;
        match jpeg(shot, self.max_bytes) {
            Ok(jpeg) => {
                self.broken_since = None;
                self.say(&look, &jpeg)
            }
            Err(why) => self.broken(&why, now),
        }
    }

    /// Drops a frame, counts and reports it; gives up if the camera sends only broken frames.
    fn broken(&mut self, why: &str, now: Instant) -> anyhow::Result<()> {
        self.broken += 1;
        let since = *self.broken_since.get_or_insert(now);
        if self.said.is_none_or(|last| now.duration_since(last) >= SAY) {
            self.said = Some(now);
            tracing::warn!("a broken frame was dropped, {} so far: {why}", self.broken);
        }
        if now.duration_since(since) >= self.settings.stall_after {
            bail!(
                "only broken frames came for {:?}, the last: {}",
                self.settings.stall_after,
                why.trim_end_matches('.')
            );
        }
        Ok(())
    }

    fn say(&mut self, message: &Message, bytes: &[u8]) -> anyhow::Result<()> {
        wire::write(&mut self.out, message, bytes)
            .context("the daemon no longer reads the pictures")
    }
}

/// Reports the frames since the last sign of life, and of a camera that never gave one.
impl<W: Write> Drop for Taking<'_, W> {
    fn drop(&mut self) {
        let (frames, broken) = (self.frames, self.broken);
        // The daemon may have gone.
        let _ = self.say(&Message::Ends { frames, broken }, &[]);
    }
}

/// Returns the JPEG that is handed over.
fn jpeg(shot: Shot, max_bytes: usize) -> Result<Vec<u8>, String> {
    let jpeg = shot.into_jpeg()?;
    match jpeg.len() <= max_bytes {
        true => Ok(jpeg),
        false => Err(format!(
            "the frame has {} bytes, more than allowed",
            jpeg.len()
        )),
    }
}

#[cfg(test)]
mod tests;
