//! Wiring only: starts the parts in the order data flows, each with what it needs of `Services`.

mod mqtt;
mod servers;
mod services;

use std::sync::Arc;

use kith_pictures::decode::DecodeLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine_process::EngineSettings;
use crate::http_server;
use crate::people::Strangers;
use crate::pipeline::{Dispatcher, Looker};
use crate::sightings::Sightings;
use crate::state_dir::StateDir;
use crate::status::health::{Condition, Health};
use crate::status::heartbeat::heartbeat;
use crate::status::history;
use crate::status::notify::Notifier;
use crate::store::{Store, Telling};
use crate::supervise::Supervisor;
use crate::{queue, sources};
use services::Services;

pub use mqtt::broker_settings;

/// Runs the daemon until stopped.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let health = Health::default();
    let mut tasks = Supervisor::new(health.clone())?;
    raise_open_files(&health);
    // The lock lets one daemon use a state folder.
    let _held = StateDir::hold(&config.state_dir)?;
    let (services, supervisor) = Services::open(config, health).await?;
    let Services {
        config,
        health,
        store,
        queue,
        people,
        ..
    } = &services;
    tasks.work("database", end_when_damaged(store.clone(), tasks.stop()));
    // Parts that report before systemd learns that the start is complete.
    let mut awaited = vec!["database", "engine", "intake", "page"];

    // Engines and gallery load while the page is up already; images stay pending until then.
    tasks.work("engines", supervisor.run(tasks.stop()));
    let judging = config.recognition.judging;
    let gallery = people
        .clone()
        .keep_gallery(judging, health.clone(), tasks.stop());
    tasks.work("gallery", gallery);

    // Pictures come in by folders, cameras and Frigate; by HTTP and MQTT further below.
    let (timers, pulse) = heartbeat();
    let capacity = sources::watch_capacity(services.intake.clone(), pulse, tasks.stop());
    tasks.work("capacity", capacity);
    awaited.extend(services.watch_folders(&mut tasks));
    awaited.extend(services.watch_cameras(&mut tasks));
    services.watch_frigate(&mut tasks);

    // The pipeline takes them from the queue, and puts results into the database.
    let (dispatching, pulse) = heartbeat();
    let dispatcher = Dispatcher {
        queue: queue.clone(),
        reader: services.reader.clone(),
        people: people.clone(),
        health: health.clone(),
        pulse,
    };
    tasks.work("dispatcher", dispatcher.run(tasks.stop()));
    services.keep(&mut tasks, "files", |services, stop| {
        let looker = Looker {
            queue: services.queue,
            reader: services.reader,
            retry: services.config.retry.clone(),
            health: services.health,
        };
        looker.run(stop)
    });

    // People: unknown faces in groups, sightings, erasures to their end, a backup of the gallery.
    services.keep(&mut tasks, "strangers", |services, stop| {
        let strangers = Strangers {
            people: services.people,
            health: services.health,
        };
        strangers.run(stop)
    });
    services.keep(&mut tasks, "sightings", |services, stop| {
        let telling = Telling {
            device: services.config.device.clone(),
            publish: services.config.mqtt.enabled,
        };
        let sightings = Sightings {
            people: services.people,
            clock: services.queue.clock(),
            gap: services.config.sighting_gap,
            telling: Arc::new(telling),
            counts: services.sightings,
            sights: services.sights,
            health: services.health,
        };
        sightings.run(stop)
    });
    services.keep(&mut tasks, "erasure", |services, stop| {
        services.people.keep_forgetting(services.health, stop)
    });
    services.keep(&mut tasks, "gallery backup", |services, stop| {
        services.people.keep_backup(services.health, stop)
    });

    // Sightings are told to webhooks and ntfy.
    services.notify(&mut tasks);

    // The past is kept within its limits, and minute by minute for the charts.
    services.keep(&mut tasks, "retention", |services, stop| {
        let retention = services.config.retention.clone();
        queue::sweep(services.queue, retention, services.health, stop)
    });
    services.keep(&mut tasks, "history", |services, stop| {
        history::keep(services.queue, services.store, services.board, stop)
    });

    // Page and API, for the LAN and for commands; the origin's contract; the broker.
    let serving = servers::start(&services, &mut tasks)?;
    awaited.extend(servers::start_facerecog(&services, &mut tasks));
    awaited.extend(mqtt::start(&services, &mut tasks).await?);

    // systemd learns that the start is complete, and from then on that the loops run.
    let notifier = Notifier {
        store: store.clone(),
        loops: vec![
            ("dispatcher", dispatching),
            ("timers", timers),
            ("HTTP loop", serving),
        ],
        health: health.clone(),
        awaited,
        queue: queue.clone(),
        drain: config.drain,
    };
    tasks.work("systemd", notifier.run(tasks.stop()));
    let stopped = tasks.run_until_stopped(config.drain).await;
    services.store.close().await;
    stopped
}

/// Raises the limit of open files, which counts connections, watched folders and files and is low
/// by default.
fn raise_open_files(health: &Health) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Always allowed: it does not exceed the hard limit.
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
    let files = if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX);
    if files < http_server::FILES {
        let text = format!(
            "only {files} files may be open, too few for every connection this board allows; set LimitNOFILE={} in its unit",
            4 * http_server::FILES
        );
        tracing::warn!("{text}");
        health.set("open files", Condition::Degraded, text);
    }
}

/// Ends the daemon when the database is damaged: only the next start can quarantine and recover it.
async fn end_when_damaged(store: Store, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        why = store.damaged() => anyhow::bail!("the database is damaged and is recovered at the next start: {why}"),
        () = stop.cancelled() => Ok(()),
    }
}

/// Returns the settings of an engine process.
pub fn engine_settings(config: &Config) -> EngineSettings {
    EngineSettings {
        limits: DecodeLimits {
            max_bytes: config.intake.max_bytes,
            max_pixels: config.recognition.max_pixels,
        },
        min_face_px: config.recognition.min_face_px,
        max_faces: config.recognition.max_faces,
        turned: config.recognition.turned,
        threads: config.recognition.threads,
    }
}
