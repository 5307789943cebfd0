//! Wiring only: builds the parts in the order data flows and passes each its inputs.

mod mqtt;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kith_pictures::decode::DecodeLimits;
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, View};
use crate::config::{Config, Http, Tls};
use crate::control;
use crate::engine_process::EngineSettings;
use crate::engines::{self, Engines, Persistence};
use crate::http_server::tls::{Encryption, Source};
use crate::http_server::{self, Protocol};
use crate::people::{People, Strangers};
use crate::pipeline::{Dispatcher, Facerecog, Looker, Reader};
use crate::queue::{self, Queue, Rules};
use crate::recovery;
use crate::sinks::former_names;
use crate::sinks::health::HealthReport;
use crate::sources::camera::Camera;
use crate::sources::folder::Folder;
use crate::sources::mqtt::Door;
use crate::sources::rejected::Rejected;
use crate::sources::upload::Uploads;
use crate::sources::{self, Intake};
use crate::state_dir::StateDir;
use crate::status::disk::Disk;
use crate::status::health::{Condition, Health};
use crate::status::heartbeat::{Pulse, heartbeat};
use crate::status::history;
use crate::status::notify::Notifier;
use crate::status::thermal::Board;
use crate::store::Store;
use crate::supervise::Supervisor;
use crate::topics::Topics;
use crate::web;
use crate::web::auth::{self, Access};

pub use mqtt::broker_settings;

const PORT_RETRY: Duration = Duration::from_secs(5);

/// Runs the daemon until stopped.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let health = Health::default();
    let mut tasks = Supervisor::new(health.clone())?;
    let state_dir = config.state_dir.clone();

    raise_open_files(&health);

    // The lock lets one daemon use a state folder; one database holds images, people and results.
    let _held = StateDir::hold(&state_dir)?;
    let (store, damaged) = recovery::open(&state_dir).await?;
    match &damaged {
        Some(banner) => {
            tracing::error!("{banner}");
            health.set("database", Condition::Degraded, banner.as_str())
        }
        None => health.set("database", Condition::Ok, "open"),
    };

    tasks.work("database", end_when_damaged(store.clone(), tasks.stop()));

    // The queue recovers the images of the last run.
    let rules = Rules {
        retry: config.retry.clone(),
        max_pending: config.intake.max_pending,
        max_missing: config.intake.max_missing,
        max_camera_bytes: config.retention.camera.bytes,
        device: config.device.clone(),
        publish: config.mqtt.enabled,
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
    let intake = Intake::new(
        queue.clone(),
        config.intake.clone(),
        &state_dir,
        health.clone(),
    )?;

    let topics = Topics::new(&config.mqtt.prefix, &config.device);
    let rejected = Rejected::open(store.clone(), &state_dir, config.mqtt.rejected).await;
    let door = Door {
        intake: intake.clone(),
        rejected,
        subscriptions: mqtt::subscriptions(&config, &topics),
    };

    // Engines and gallery load while the page is up already; images stay pending until then.
    health.set("engine", Condition::Starting, "loading the model pack");
    let persistence = Persistence {
        store: store.clone(),
        queue: queue.clone(),
    };
    let settings = engines::Settings::of(&config, &state_dir);
    let (engines, supervisor) = Engines::new(settings, health.clone(), Some(persistence));
    tasks.work("engines", supervisor.run(tasks.stop()));
    let people = People::new(store.clone(), engines.clone(), &state_dir, &config.device);
    let judging = config.recognition.judging;
    tasks.work(
        "gallery",
        people
            .clone()
            .keep_gallery(judging, health.clone(), tasks.stop()),
    );
    let reader = Reader::new(
        &config.intake.roots,
        &state_dir,
        config.intake.max_bytes,
        config.recognition.read_deadline,
    );
    let reader = Arc::new(reader);
    let (dispatcher_heart, pulse) = heartbeat();
    let dispatcher = Dispatcher {
        queue: queue.clone(),
        reader: Arc::clone(&reader),
        people: people.clone(),
        health: health.clone(),
        pulse,
    };
    tasks.work("dispatcher", dispatcher.run(tasks.stop()));
    let looker = Looker {
        queue: queue.clone(),
        reader: Arc::clone(&reader),
        retry: config.retry.clone(),
        health: health.clone(),
    };
    let stop = tasks.stop();
    tasks.keep_working("files", move || looker.clone().run(stop.clone()));
    let parts = (
        queue.clone(),
        config.retention.clone(),
        health.clone(),
        tasks.stop(),
    );
    tasks.keep_working("retention", move || {
        let (queue, retention, health, stop) = parts.clone();
        queue::sweep(queue, retention, health, stop)
    });

    let board = Board::here();
    let parts = (queue.clone(), store.clone(), board.clone(), tasks.stop());
    tasks.keep_working("history", move || {
        let (queue, store, board, stop) = parts.clone();
        history::keep(queue, store, board, stop)
    });

    let (timer_heart, pulse) = heartbeat();
    tasks.work(
        "capacity",
        sources::watch_capacity(intake.clone(), pulse, tasks.stop()),
    );

    let mut folder_parts = Vec::new();
    for settings in &config.folders {
        // Leaked on purpose: once per folder and start.
        let part: &'static str = format!("folder {}", settings.path.display()).leak();
        let parts = (
            settings.clone(),
            intake.clone(),
            store.clone(),
            health.clone(),
            tasks.stop(),
        );
        tasks.keep_working(part, move || {
            let (settings, intake, store, health, stop) = parts.clone();
            Folder {
                settings,
                part,
                intake,
                store,
                health,
                logged: Mutex::default(),
            }
            .run(stop)
        });
        folder_parts.push(part);
    }

    let mut camera_parts = Vec::new();
    for settings in &config.cameras {
        // Leaked on purpose: once per camera and start.
        let part: &'static str = format!("camera {}", settings.name).leak();
        let parts = (
            settings.clone(),
            config.arguments.clone(),
            intake.clone(),
            engines.clone(),
            health.clone(),
            tasks.stop(),
        );
        tasks.keep_working(part, move || {
            let (settings, configuration, intake, engines, health, stop) = parts.clone();
            Camera {
                settings,
                part,
                configuration,
                intake,
                engines,
                health,
                state: Mutex::default(),
            }
            .run(stop)
        });
        camera_parts.push(part);
    }

    // Page and API for the LAN; the control socket has them too, and more.
    let disk = Disk {
        folder: state_dir.clone(),
        reserve_bytes: config.intake.disk_reserve_bytes,
        store: store.clone(),
    };
    let view = View {
        store: store.clone(),
        health: health.clone(),
        people: people.clone(),
        disk: disk.clone(),
        board,
        device: config.device.clone(),
        topic: topics.paths(),
        document: Arc::default(),
        stop: tasks.stop(),
    };
    let strangers = Strangers {
        people: people.clone(),
        health: health.clone(),
    };
    let stop = tasks.stop();
    tasks.keep_working("strangers", move || strangers.clone().run(stop.clone()));
    let parts = (people.clone(), health.clone(), tasks.stop());
    tasks.keep_working("erasure", move || {
        let (people, health, stop) = parts.clone();
        people.keep_forgetting(health, stop)
    });
    let parts = (people.clone(), health.clone(), tasks.stop());
    tasks.keep_working("gallery backup", move || {
        let (people, health, stop) = parts.clone();
        people.keep_backup(health, stop)
    });
    if let Some(listen) = config.facerecog_listen {
        let routes = Facerecog::new(Arc::clone(&reader), people.clone()).routes();
        let (health, stop) = (health.clone(), tasks.stop());
        tasks.work("facerecog", async move {
            let Some(listener) =
                bind(listen, "facerecog.listen", "facerecog", &health, &stop).await
            else {
                return Ok(());
            };
            let address = listener.local_addr()?;
            health.set("facerecog", Condition::Ok, format!("grpc on {address}"));
            tracing::info!("facerecog gRPC contract on {address}");
            // The watchdog does not depend on this loop.
            http_server::serve(listener, Protocol::Grpc, routes, None, heartbeat().1, stop).await;
            Ok(())
        });
    }
    let uploads = Uploads::new(intake.clone());
    let api = Api {
        view: view.clone(),
        queue: queue.clone(),
        messages: door.clone(),
        people: people.clone(),
        reader: Arc::clone(&reader),
        uploads: uploads.clone(),
    };
    let forms = api::forms(api.clone());
    let (routes, document) = api::routes(api)
        .merge(sources::http::router(uploads.clone()))
        .split_for_parts();
    _ = view.document.set(serde_json::to_value(document)?);
    let routes = web::router(view).merge(forms).merge(routes);
    let access = Access::open(&state_dir, &config.http, health.clone());
    let control = control::router(access.clone());
    let control = web::dress(api::surviving(control).merge(routes.clone()));
    let lan_routes = web::below(&config.http.base_path, web::guarded(routes, access));
    let (http_heart, pulse) = heartbeat();
    let serving = serve_http(
        config.http.clone(),
        state_dir.clone(),
        lan_routes,
        health.clone(),
        pulse,
        tasks.stop(),
    );
    tasks.work("http", serving);
    tasks.work(
        "control",
        control::serve(state_dir, control, health.clone(), tasks.stop()),
    );

    let mut awaited = vec!["database", "engine", "intake", "page"];
    if config.mqtt.enabled {
        tracing::info!(
            "publish picture paths to {} on {}",
            topics.paths(),
            config.mqtt.broker
        );
        let board = former_names::board_number(&store).await?;
        let report = HealthReport {
            store: store.clone(),
            health: health.clone(),
            engines,
            disk,
            board,
        };
        let parts = mqtt::Parts {
            door,
            report,
            reader,
            people,
        };
        awaited.extend(mqtt::start(&config, &topics, &mut tasks, parts).await?);
    } else {
        health.set("mqtt", Condition::Off, "switched off in the configuration");
    }

    // systemd learns that the start is complete once all of these have reported, and from then on
    // that the loops run.
    awaited.extend(config.facerecog_listen.map(|_| "facerecog"));
    awaited.extend(folder_parts);
    awaited.extend(camera_parts);
    let notifier = Notifier {
        store: store.clone(),
        loops: vec![
            ("dispatcher", dispatcher_heart),
            ("timers", timer_heart),
            ("HTTP loop", http_heart),
        ],
        health,
        awaited,
        queue,
        drain: config.drain,
    };
    tasks.work("systemd", notifier.run(tasks.stop()));
    let stopped = tasks.run_until_stopped(config.drain).await;
    store.close().await;
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

/// Opens a port, retrying while it is taken, which degrades its part only; `None` once stopped.
async fn bind(
    listen: SocketAddr,
    key: &str,
    part: &'static str,
    health: &Health,
    stop: &CancellationToken,
) -> Option<TcpListener> {
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => return Some(listener),
            Err(error) => {
                let text =
                    format!("cannot listen on {listen}: {error}; set {key} to a free address");
                if health.set(part, Condition::Degraded, text.as_str()) {
                    tracing::error!("{text}");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PORT_RETRY) => {}
            () = stop.cancelled() => return None,
        }
    }
}

async fn serve_http(
    http: Http,
    state_dir: PathBuf,
    routes: axum::Router,
    health: Health,
    mut pulse: Pulse,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let names = auth::own_names(&auth::hostname())
        .into_iter()
        .chain(http.names);
    let source = match http.tls {
        Tls::Off => None,
        Tls::SelfSigned => Some(Source::Own {
            folder: state_dir,
            names: names.collect(),
        }),
        Tls::Files { certificate, key } => Some(Source::Files { certificate, key }),
    };
    let mut encryption = None;
    if let Some(source) = source {
        let opening = stop.run_until_cancelled(Encryption::open(source, health.clone()));
        let Some(opened) = pulse.answer_during(opening).await else {
            return Ok(());
        };
        encryption = Some(opened);
    }
    let binding = bind(http.listen, "http.listen", "page", &health, &stop);
    let Some(listener) = pulse.answer_during(binding).await else {
        return Ok(());
    };
    let scheme = if encryption.is_some() {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://{}/", listener.local_addr()?);
    tracing::info!("page and API on {url}");
    match &mut encryption {
        Some(encryption) => encryption.announce(url),
        None => drop(health.set("page", Condition::Ok, url)),
    }
    http_server::serve(listener, Protocol::Http, routes, encryption, pulse, stop).await;
    Ok(())
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
