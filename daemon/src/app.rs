//! Wiring only: builds the parts in the order data flows and hands each its inputs. Reads as the block diagram.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use axum::serve::{Listener, ListenerExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::control::{self, Control};
use crate::desk::EngineDesk;
use crate::engine::{DecodeLimits, EngineSettings};
use crate::health::{Condition, Health};
use crate::heartbeat::{Pulse, heartbeat};
use crate::mqtt;
use crate::notify::Notifier;
use crate::queue::{self, Queue, Rules};
use crate::recognition::{self, Books, Deadlines, Dispatcher, Enroller, GuardSettings, PEOPLE, Reader};
use crate::sinks;
use crate::sources::camera::Camera;
use crate::sources::folder::Folder;
use crate::sources::{self, Intake, SPOOL};
use crate::state_dir::StateDir;
use crate::store::Store;
use crate::supervise::Supervisor;
use crate::web::{self, Web};

const HTTP_LAST_REQUESTS: Duration = Duration::from_secs(2);
const PORT_RETRY: Duration = Duration::from_secs(5);

/// Runs the daemon until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut tasks = Supervisor::new()?;
    let health = Health::default();
    let state_dir = config.state_dir.clone();

    // One folder, one daemon; one file holds images, people and results.
    let _held = StateDir::hold(&state_dir)?;
    let (store, damaged) = Store::open(&state_dir, &[SPOOL, PEOPLE])?;
    match &damaged {
        Some(banner) => {
            tracing::error!("{banner}");
            health.set("database", Condition::Degraded, banner.as_str())
        }
        None => health.set("database", Condition::Ok, "open"),
    };
    queue::sweep_orphans(&state_dir, SPOOL, &store.spool_files().await?)?;
    queue::sweep_orphans(&state_dir, PEOPLE, &store.enrolment_files().await?)?;

    // The queue takes up what the last run left.
    let rules = Rules {
        retry: config.retry.clone(),
        max_pending: config.intake.max_pending,
        device: config.device.clone(),
        publish: config.mqtt.enabled,
    };
    let queue = Queue::open(store.clone(), rules).await?;
    let intake = Intake::new(queue.clone(), config.intake.clone(), &state_dir, health.clone())?;

    // Engines and gallery come up beside the page; images wait as pending until they are there. Whoever looks sees that.
    health.set("engine", Condition::Starting, "loading the model pack");
    let (ready_sender, ready) = watch::channel(None);
    let (desk_sender, desk) = watch::channel(None);
    let start = recognition::Start {
        pack: config.models.pack.clone(),
        settings: guard_settings(&config, &state_dir),
        books: Books { store: store.clone(), queue: queue.clone() },
        state_dir: state_dir.clone(),
        health: health.clone(),
    };
    tasks.work("engines", recognition::start(start, ready_sender, desk_sender, tasks.stop()));
    let reader =
        Reader::new(&config.intake.roots, &state_dir, config.intake.max_bytes, config.recognition.read_deadline);
    let reader = Arc::new(reader);
    let (dispatcher_heart, pulse) = heartbeat();
    let dispatcher = Dispatcher {
        queue: queue.clone(),
        reader: Arc::clone(&reader),
        ready: ready.clone(),
        health: health.clone(),
        pulse,
    };
    tasks.work("dispatcher", dispatcher.run(tasks.stop()));
    tasks.work("retention", queue::sweep(store.clone(), state_dir.clone(), config.retention_images, tasks.stop()));

    let (timer_heart, pulse) = heartbeat();
    tasks.work("room", sources::watch_room(intake.clone(), pulse, tasks.stop()));

    let mut folder_parts = Vec::new();
    for settings in &config.folders {
        // Once a start and for as long as the daemon runs.
        let part: &'static str = format!("folder {}", settings.path.display()).leak();
        let folder = Folder {
            settings: settings.clone(),
            part,
            intake: intake.clone(),
            store: store.clone(),
            health: health.clone(),
        };
        tasks.work(part, folder.run(tasks.stop()));
        folder_parts.push(part);
    }

    let mut camera_parts = Vec::new();
    for settings in &config.cameras {
        // Once a start and for as long as the daemon runs.
        let part: &'static str = format!("camera {}", settings.name).leak();
        let camera = Camera {
            settings: settings.clone(),
            part,
            configuration: config.arguments.clone(),
            intake: intake.clone(),
            faces: recognition::face_desk(ready.clone()),
            health: health.clone(),
            state: Mutex::default(),
        };
        tasks.work(part, camera.run(tasks.stop()));
        camera_parts.push(part);
    }

    // Page and API for the LAN; the same and more on the control socket.
    let page = web::router(Web {
        store: store.clone(),
        health: health.clone(),
        desk: desk.clone(),
        device: config.device.clone(),
        topic: sources::mqtt::paths_topic(&config.mqtt.prefix, &config.device),
        stop: tasks.stop(),
    });
    let submit = sources::http::router(intake.clone());
    let enroller = Enroller { store: store.clone(), state_dir: state_dir.clone() };
    if let Some(listen) = config.facerecog_listen {
        let origin = recognition::Origin { reader, ready: ready.clone() };
        let (health, stop) = (health.clone(), tasks.stop());
        tasks.work("facerecog", async move {
            match bind(listen, "facerecog.listen", "facerecog", &health, &stop).await {
                Some(listener) => recognition::serve_origin(listener, origin, health, stop).await,
                None => Ok(()),
            }
        });
    }
    let control = control::router(Control { enroller, ready, max_bytes: config.intake.max_bytes });
    let lan_routes = page.clone().merge(submit);
    let (http_heart, pulse) = heartbeat();
    tasks.work("http", serve_http(config.http.listen, lan_routes, health.clone(), pulse, tasks.stop()));
    tasks.work("control", control::serve(state_dir, control.merge(page), health.clone(), tasks.stop()));

    if config.mqtt.enabled {
        start_mqtt(&config, &mut tasks, intake, store.clone(), health.clone(), desk)?;
    } else {
        health.set("mqtt", Condition::Off, "switched off in the configuration");
    }

    if config.mqtt.enabled {
        let topic = sources::mqtt::paths_topic(&config.mqtt.prefix, &config.device);
        tracing::info!("publish picture paths to {topic} on {}", config.mqtt.url);
    }

    // systemd hears when all of them have said how they are, and goes on hearing that the loops turn.
    let mut awaited = vec!["database", "engine", "intake", "mqtt", "page"];
    awaited.extend(config.facerecog_listen.map(|_| "facerecog"));
    awaited.extend(folder_parts);
    awaited.extend(camera_parts);
    let notifier = Notifier {
        store: store.clone(),
        loops: vec![("dispatcher", dispatcher_heart), ("timers", timer_heart), ("HTTP loop", http_heart)],
        health,
        awaited,
        unfinished: Box::new(move || queue.load().0),
        drain: config.drain,
    };
    tasks.work("systemd", notifier.run(tasks.stop()));
    let stopped = tasks.run_until_stopped(config.drain).await;
    store.close().await;
    stopped
}

/// A port that is taken degrades its part only and is tried again; `None` once the stop comes.
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
                let text = format!("cannot listen on {listen}: {error}; set {key} to a free address");
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
    listen: SocketAddr,
    routes: axum::Router,
    health: Health,
    mut pulse: Pulse,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let binding = bind(listen, "http.listen", "page", &health, &stop);
    let Some(listener) = pulse.answer_during(binding).await else { return Ok(()) };
    let address = listener.local_addr()?;
    health.set("page", Condition::Ok, format!("http://{address}/"));
    tracing::info!("page and API on http://{address}/");
    // Tapped for nothing but its type: axum tells the peer's address of its own listeners only.
    let listener = Heard { listener, pulse }.tap_io(|_| ());
    let serving = axum::serve(listener, routes.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = serving => Ok(served?),
        // A sender that never ends its request must not use up everybody's time to stop.
        () = async { stop.cancelled().await; tokio::time::sleep(HTTP_LAST_REQUESTS).await } => Ok(()),
    }
}

/// A listener whose loop of accepting says that it turns.
struct Heard {
    listener: TcpListener,
    pulse: Pulse,
}

impl Listener for Heard {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        // axum's own accept waits a second after an error such as too many open files, and answers meanwhile.
        self.pulse.answer_during(Listener::accept(&mut self.listener)).await
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection: paths in, results, online state and health out.
fn start_mqtt(
    config: &Config,
    tasks: &mut Supervisor,
    intake: Intake,
    store: Store,
    health: Health,
    desk: watch::Receiver<Option<EngineDesk>>,
) -> anyhow::Result<()> {
    let topic = |last: &str| format!("{}/{}/{last}", config.mqtt.prefix, config.device);
    let state =
        |text: &str| mqtt::Message { topic: topic("status"), payload: text.into(), retain: true, content_type: None };
    let password = config.mqtt.password_file.as_ref().map(|file| {
        std::fs::read_to_string(file)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_string())
            .with_context(|| format!("mqtt.password_file = {} cannot be read", file.display()))
    });
    let mut subscriptions = vec![sources::mqtt::paths_topic(&config.mqtt.prefix, &config.device)];
    let breaker = config
        .mqtt
        .breaker_commands
        .then(|| sources::mqtt::BreakerCommands { topic: topic("command/breaker"), desk: desk.clone() });
    subscriptions.extend(breaker.as_ref().map(|breaker| breaker.topic.clone()));
    let settings = mqtt::Settings {
        username: config.mqtt.username.clone(),
        password: password.transpose()?,
        keep_alive: config.mqtt.keep_alive,
        session_expiry: config.mqtt.session_expiry,
        max_packet_bytes: config.mqtt.max_packet_bytes,
        receive_maximum: config.mqtt.receive_maximum,
        will: Some(state("offline")),
        birth: vec![state("online")],
        farewell: Some(state("offline")),
        subscriptions,
        ..mqtt::Settings::new(config.mqtt.url.parse()?, format!("kithd-{}", config.device))
    };
    let (publisher, deliveries, watch, connection) = mqtt::connect(settings);
    // The connection outlives the outbox's last try: it ends when that drops its guard.
    let disconnect = CancellationToken::new();
    let last_results_sent = disconnect.clone().drop_guard();
    tasks.deliver("mqtt", async move {
        connection.run(disconnect.cancelled()).await;
        Ok(())
    });
    tasks.deliver("mqtt state", show_mqtt_state(watch, health.clone(), tasks.finish()));
    let in_flight = usize::from(config.mqtt.receive_maximum);
    tasks.work("mqtt source", sources::mqtt::run(deliveries, intake, store.clone(), breaker, in_flight, tasks.stop()));
    let results = sinks::outbox::results_topic(&config.mqtt.prefix, &config.device);
    let outbox = sinks::outbox::run(store.clone(), publisher.clone(), results, health.clone(), tasks.finish());
    tasks.deliver("outbox", async move {
        let _guard = last_results_sent;
        outbox.await
    });
    tasks.work("mqtt health", sinks::health::run(store, health, desk, publisher, topic("health"), tasks.stop()));
    Ok(())
}

async fn show_mqtt_state(
    mut watch: watch::Receiver<mqtt::State>,
    health: Health,
    finish: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let state = watch.borrow_and_update().clone();
        let condition = match &state {
            mqtt::State::Connecting => Condition::Starting,
            mqtt::State::Connected { .. } => Condition::Ok,
            _ => Condition::Degraded,
        };
        health.set("mqtt", condition, state.to_string());
        tokio::select! {
            changed = watch.changed() => if changed.is_err() { return Ok(()) },
            () = finish.cancelled() => return Ok(()),
        }
    }
}

/// What the guard needs of the configuration; the command line uses it too.
pub fn guard_settings(config: &Config, sockets: &Path) -> GuardSettings {
    GuardSettings {
        engine: config.engine.clone(),
        breaker: config.breaker.clone(),
        deadlines: Deadlines {
            base: config.recognition.deadline,
            per_megapixel: config.recognition.deadline_per_megapixel,
            max_pixels: config.recognition.max_pixels,
        },
        threads: config.recognition.threads,
        precision: config.models.precision,
        configuration: config.arguments.clone(),
        sockets: sockets.into(),
    }
}

/// What an engine process needs of the configuration.
pub fn engine_settings(config: &Config) -> EngineSettings {
    EngineSettings {
        limits: DecodeLimits { max_bytes: config.intake.max_bytes, max_pixels: config.recognition.max_pixels },
        min_face_px: config.recognition.min_face_px,
        max_faces: config.recognition.max_faces,
        threads: config.recognition.threads,
    }
}
