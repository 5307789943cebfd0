//! The parts that others are built from, and how each is opened.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::mqtt;
use crate::config::Config;
use crate::domain::Clock;
use crate::engines::supervisor::EngineSupervisor;
use crate::engines::{self, Engines, Persistence};
use crate::people::People;
use crate::pipeline::Reader;
use crate::queue::{Queue, Rules};
use crate::recovery;
use crate::sightings::{Counts, Sights};
use crate::sinks::notify;
use crate::sources::Intake;
use crate::sources::camera::Camera;
use crate::sources::folder::Folder;
use crate::sources::frigate::{self, Events, Frigate};
use crate::sources::mqtt::Door;
use crate::sources::rejected::Rejected;
use crate::status::cameras::Cameras;
use crate::status::disk::Disk;
use crate::status::health::{Condition, Health};
use crate::status::targets::Targets;
use crate::status::thermal::Board;
use crate::store::Store;
use crate::supervise::Supervisor;
use crate::topics::Topics;

/// Everything that the parts of the daemon share; clones share it too.
#[derive(Clone)]
pub struct Services {
    /// The configuration.
    pub config: Arc<Config>,
    /// State of each part.
    pub health: Health,
    /// Images, people and results.
    pub store: Store,
    /// The queue of images.
    pub queue: Queue,
    /// The only door to the queue.
    pub intake: Intake,
    /// Names of all topics.
    pub topics: Topics,
    /// Intake for messages, with those that were rejected.
    pub door: Door,
    /// Engines behind the breaker.
    pub engines: Engines,
    /// People and the gallery.
    pub people: People,
    /// Reads files below the configured roots.
    pub reader: Arc<Reader>,
    /// Room on the disk.
    pub disk: Disk,
    /// Temperature and throttling.
    pub board: Board,
    /// Counts of cameras.
    pub cameras: Cameras,
    /// Counts of sightings.
    pub sightings: Counts,
    /// Looks at followed cameras, on their way to their sightings.
    pub sights: Sights,
    /// Targets of notifications.
    pub targets: Targets,
}

impl Services {
    /// Opens the database, recovers the images of the last run, and makes the parts. Nothing runs
    /// yet, not even the engines, whose supervisor is returned.
    pub async fn open(config: Config, health: Health) -> anyhow::Result<(Self, EngineSupervisor)> {
        let state_dir = config.state_dir.clone();
        let (store, damaged) = recovery::open(&state_dir).await?;
        match &damaged {
            Some(banner) => {
                tracing::error!("{banner}");
                health.set("database", Condition::Degraded, banner.as_str())
            }
            None => health.set("database", Condition::Ok, "open"),
        };
        let rules = Rules {
            retry: config.retry.clone(),
            max_pending: config.intake.max_pending,
            max_missing: config.intake.max_missing,
            max_camera_bytes: config.retention.camera.bytes,
            device: config.device.clone(),
            publish: config.mqtt.enabled && config.mqtt.results,
        };
        let queue = Queue::open(store.clone(), rules).await?;
        match queue.recover_spool(&state_dir).await? {
            0 => health.set(
                "spool",
                Condition::Ok,
                "every spooled picture has its row in the database",
            ),
            lost => {
                let text = format!(
                    "The database has lost the rows of {lost} accepted pictures; they are queued again, under the names of their \
                 files"
                );
                tracing::error!("{text}");
                health.set("spool", Condition::Degraded, text)
            }
        };
        let limits = config.intake.clone();
        let intake = Intake::new(queue.clone(), limits, &state_dir, health.clone())?;
        let topics = Topics::new(&config.mqtt.prefix, &config.device);
        let door = Door {
            intake: intake.clone(),
            rejected: Rejected::open(store.clone(), &state_dir, config.mqtt.rejected).await,
            frigate: config.frigate.as_ref().map(Events::new),
            subscriptions: mqtt::subscriptions(&config, &topics),
        };
        health.set("engine", Condition::Starting, "loading the model pack");
        let persistence = Persistence {
            store: store.clone(),
            queue: queue.clone(),
        };
        let settings = engines::Settings::of(&config, &state_dir);
        let (engines, supervisor) = Engines::new(settings, health.clone(), Some(persistence));
        let people = People::new(store.clone(), engines.clone(), &state_dir, &config.device);
        let reader = Reader::new(
            &config.intake.roots,
            &state_dir,
            config.intake.max_bytes,
            config.recognition.read_deadline,
        );
        let disk = Disk {
            folder: state_dir,
            reserve_bytes: config.intake.disk_reserve_bytes,
            store: store.clone(),
        };
        let services = Self {
            config: Arc::new(config),
            health,
            store,
            queue,
            intake,
            topics,
            door,
            engines,
            people,
            reader: Arc::new(reader),
            disk,
            board: Board::here(),
            cameras: Cameras::default(),
            sightings: Counts::default(),
            sights: Sights::default(),
            targets: Targets::default(),
        };
        Ok((services, supervisor))
    }

    /// Runs a part until stopped; it begins anew when it panics.
    pub fn keep<F>(
        &self,
        tasks: &mut Supervisor,
        name: &'static str,
        part: impl Fn(Self, CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (services, stop) = (self.clone(), tasks.stop());
        tasks.keep_working(name, move || part(services.clone(), stop.clone()));
    }

    /// Starts a task for each watched folder; returns the names of their parts.
    pub fn watch_folders(&self, tasks: &mut Supervisor) -> Vec<&'static str> {
        let mut parts = Vec::new();
        for settings in self.config.folders.clone() {
            // Leaked on purpose: once per folder and start.
            let part: &'static str = format!("folder {}", settings.path.display()).leak();
            self.keep(tasks, part, move |services, stop| {
                let folder = Folder {
                    settings: settings.clone(),
                    part,
                    intake: services.intake,
                    store: services.store,
                    health: services.health,
                    logged: Mutex::default(),
                };
                folder.run(stop)
            });
            parts.push(part);
        }
        parts
    }

    /// Starts a task for each camera; returns the names of their parts.
    pub fn watch_cameras(&self, tasks: &mut Supervisor) -> Vec<&'static str> {
        let mut parts = Vec::new();
        for settings in self.config.cameras.clone() {
            // Leaked on purpose: once per camera and start.
            let part: &'static str = format!("camera {}", settings.name).leak();
            self.keep(tasks, part, move |services, stop| {
                let max_pixels = services.config.recognition.max_pixels;
                let camera = Camera {
                    max_frame_bytes: settings.max_frame_bytes(max_pixels),
                    settings: settings.clone(),
                    part,
                    configuration: services.config.arguments.clone(),
                    intake: services.intake,
                    engines: services.engines,
                    identify: Arc::new({
                        let people = services.people;
                        move |recognised| people.identify(recognised)
                    }),
                    tell: Arc::new({
                        let sights = services.sights;
                        move |look| sights.send(look)
                    }),
                    health: services.health,
                    cameras: services.cameras,
                    state: Mutex::default(),
                };
                camera.run(stop)
            });
            parts.push(part);
        }
        parts
    }

    /// Returns a reader of the queue clock, for parts that may not know the queue.
    pub fn clock(&self) -> Clock {
        let clock = self.queue.clock();
        Arc::new(move || clock.now_ms())
    }

    /// Starts a task that follows sightings, and one for each target of notifications, if there are
    /// any.
    pub fn notify(&self, tasks: &mut Supervisor) {
        let targets: Arc<[_]> = self.config.notify.clone().into();
        if targets.is_empty() {
            return;
        }
        let clock = self.clock();
        let (woken, _) = watch::channel(0);
        for target in targets.iter() {
            // Leaked on purpose: once per target and start.
            let part: &'static str = format!("notify {}", target.name).leak();
            let sender = notify::Sender {
                target: Arc::new(target.clone()),
                part,
                store: self.store.clone(),
                state_dir: self.config.state_dir.clone(),
                device: self.config.device.clone(),
                clock: Arc::clone(&clock),
                woken: woken.subscribe(),
                targets: self.targets.clone(),
                health: self.health.clone(),
            };
            sender.announce();
            self.keep(tasks, part, move |_, stop| sender.clone().run(stop));
        }
        self.keep(tasks, notify::PART, move |services, stop| {
            let follower = notify::Follower {
                store: services.store,
                targets: Arc::clone(&targets),
                clock: Arc::clone(&clock),
                woken: woken.clone(),
                health: services.health,
            };
            follower.run(stop)
        });
    }

    /// Starts Frigate's task, if it is used. The start of the board does not wait for its answer.
    pub fn watch_frigate(&self, tasks: &mut Supervisor) {
        let Some((settings, events)) = self.config.frigate.clone().zip(self.door.frigate.clone())
        else {
            return;
        };
        self.keep(tasks, frigate::PART, move |services, stop| {
            let people = services.people;
            let running = Frigate {
                settings: settings.clone(),
                events: events.clone(),
                intake: services.intake,
                store: services.store,
                health: services.health,
                threshold: Arc::new(move || people.threshold()),
            };
            running.run(stop)
        });
    }
}
