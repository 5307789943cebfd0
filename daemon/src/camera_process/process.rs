//! `kithd camera run`: opens the camera, confines itself, and takes bursts of frames on schedule or
//! on motion, until its parent is gone. It waits only for the camera, so the daemon knows from its
//! silence that the camera stalls.

use std::io::Write;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kith_pictures::mjpeg::Buffers;
use kith_pictures::shot::{PixelFormat, Shot};

use super::device::Device;
use super::motion::Gate;
use super::wire::{self, Message};
use crate::child;
use crate::config;
use crate::engine_process::{Profile, confine};

/// Time between signs of life while frames come.
const ALIVE: Duration = Duration::from_millis(500);
/// Time between checks for motion.
const LOOK: Duration = Duration::from_millis(200);
/// Number of first frames that are dropped: after opening they are dark, green, or from the last
/// use.
const WARM_UP: u64 = 5;
/// Shortest time between log lines about broken frames.
const SAY: Duration = Duration::from_secs(60);

/// Arguments of `kithd camera run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the camera in the configuration
    #[arg(long)]
    pub name: String,
}

/// Takes pictures until the parent is gone.
pub fn run(settings: &config::Camera, max_bytes: usize) -> anyhow::Result<()> {
    child::die_with_parent()?;
    child::give_way();
    // Dropping the stream panics after the camera failed; the kernel closes both with the process.
    let mut device = ManuallyDrop::new(Device::open(settings)?);
    // After this nothing can be opened, and new threads are confined too.
    let confinement = confine(&Profile::Camera);
    tracing::info!(
        "{} sends {}x{} in {}, {} frames a second, {confinement}",
        settings.device.display(),
        settings.width,
        settings.height,
        settings.format.name(),
        device.rate,
    );
    std::thread::spawn(child::end_with_standard_input);
    let max_bytes = max_bytes.min(settings.max_frame_bytes());
    let mut taking = Taking::new(settings, max_bytes, std::io::stdout());
    let layout = device.layout;
    let mut buffers = Buffers::default();
    loop {
        let frame = device.frame()?;
        let now = Instant::now();
        let torn = layout.format == PixelFormat::Mjpeg && buffers.torn(&frame);
        if taking.wants(now)? {
            let shot = match torn {
                true => Err("the frame is cut off, and the end of an older one follows".into()),
                false => Shot::read(&frame, &layout, max_bytes),
            };
            taking.frame(shot, now)?;
        }
    }
}

/// Selection of frames, and their output.
struct Taking<'a, W: Write> {
    settings: &'a config::Camera,
    max_bytes: usize,
    out: W,
    frames: u64,
    broken: u64,
    /// Time of the first frame since which all were broken.
    broken_since: Option<Instant>,
    said: Option<Instant>,
    alive: Option<Instant>,
    gate: Option<Gate>,
    looked: Option<Instant>,
    due: Option<Instant>,
    /// The burst in progress.
    burst: Option<Vec<(f32, Vec<u8>)>>,
}

impl<'a, W: Write> Taking<'a, W> {
    fn new(settings: &'a config::Camera, max_bytes: usize, out: W) -> Self {
        let gate = settings
            .motion
            .then(|| Gate::new(settings.motion_area, settings.cool_down));
        let due = settings.every.map(|_| Instant::now());
        Self {
            settings,
            max_bytes,
            out,
            frames: 0,
            broken: 0,
            broken_since: None,
            said: None,
            alive: None,
            gate,
            looked: None,
            due,
            burst: None,
        }
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
                Message::Alive {
                    broken: self.broken,
                },
                &[],
            )?;
        }
        let look = self.gate.is_some()
            && self
                .looked
                .is_none_or(|last| now.duration_since(last) >= LOOK);
        let due = self.due.is_some_and(|due| now >= due);
        Ok(self.frames > WARM_UP && (self.burst.is_some() || due || look))
    }

    /// Processes a frame that was wanted.
    fn frame(&mut self, shot: Result<Shot, String>, now: Instant) -> anyhow::Result<()> {
        let shot = match shot {
            Ok(shot) => shot,
            Err(why) => return self.broken(&why, now),
        };
        let mut moves = false;
        if let Some(gate) = &mut self.gate
            && self
                .looked
                .is_none_or(|last| now.duration_since(last) >= LOOK)
        {
            self.looked = Some(now);
            moves = gate.opens(&shot.cells(), now);
        }
        if let (Some(due), Some(every)) = (self.due, self.settings.every)
            && now >= due
        {
            // Missed times are not made up for.
            let next = due + every;
            self.due = Some(if next > now { next } else { now + every });
            moves = true;
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
        let jpeg = match shot.into_jpeg() {
            Ok(jpeg) if jpeg.len() <= self.max_bytes => jpeg,
            Ok(jpeg) => {
                return self.broken(
                    &format!("the frame has {} bytes, more than allowed", jpeg.len()),
                    now,
                );
            }
            Err(why) => return self.broken(&why, now),
        };
        self.broken_since = None;
        burst.push((sharpness, jpeg));
        if burst.len() >= self.settings.burst {
            let burst = self.burst.take().unwrap_or_default();
            let last = burst.len() - 1;
            for (n, (sharpness, jpeg)) in burst.into_iter().enumerate() {
                self.say(
                    Message::Frame {
                        sharpness,
                        last: n == last,
                    },
                    &jpeg,
                )?;
            }
        }
        Ok(())
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
                "only broken frames came for {:?}, the last: {why}",
                self.settings.stall_after
            );
        }
        Ok(())
    }

    fn say(&mut self, message: Message, bytes: &[u8]) -> anyhow::Result<()> {
        wire::write(&mut self.out, message, bytes)
            .context("the daemon no longer reads the pictures")
    }
}

#[cfg(test)]
mod tests;
