//! Wiring of the servers: page and API for the LAN, the same on the control socket for commands, and
//! the gRPC contract of the system kithd descends from.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Services;
use crate::api::{self, Api, View};
use crate::config::{Http, Tls};
use crate::http_server::tls::{Encryption, Source};
use crate::http_server::{self, Protocol};
use crate::pipeline::Facerecog;
use crate::sources::upload::Uploads;
use crate::status::health::{Condition, Health};
use crate::status::heartbeat::{Heartbeat, Pulse, heartbeat};
use crate::supervise::Supervisor;
use crate::web::auth::{self, Access};
use crate::{control, sources, web};

const PORT_RETRY: Duration = Duration::from_secs(5);

/// Starts page and API on the LAN and on the control socket; returns the heart of the LAN's loop.
pub fn start(services: &Services, tasks: &mut Supervisor) -> anyhow::Result<Heartbeat> {
    let Services { config, health, .. } = services;
    let state_dir = config.state_dir.clone();
    let view = View {
        store: services.store.clone(),
        health: health.clone(),
        people: services.people.clone(),
        disk: services.disk.clone(),
        board: services.board.clone(),
        camera_counts: services.cameras.clone(),
        sightings: services.sightings.clone(),
        clock: services.clock(),
        gap: config.sighting_gap,
        targets: services.targets.clone(),
        device: config.device.clone(),
        cameras: config
            .cameras
            .iter()
            .map(|camera| camera.name.clone())
            .collect(),
        topic: services.topics.paths(),
        document: Arc::default(),
        stop: tasks.stop(),
    };
    let uploads = Uploads::new(services.intake.clone());
    let api = Api {
        view: view.clone(),
        queue: services.queue.clone(),
        messages: services.door.clone(),
        people: services.people.clone(),
        reader: services.reader.clone(),
        uploads: uploads.clone(),
    };
    let forms = api::forms(api.clone());
    let (routes, document) = api::routes(api)
        .merge(sources::http::router(uploads))
        .split_for_parts();
    _ = view.document.set(serde_json::to_value(document)?);
    let routes = web::router(view).merge(forms).merge(routes);

    let access = Access::open(&state_dir, &config.http, health.clone());
    let control = web::dress(control::router(access.clone()).merge(routes.clone()));
    let serving = control::serve(state_dir.clone(), control, health.clone(), tasks.stop());
    tasks.work("control", serving);

    let routes = web::below(&config.http.base_path, web::guarded(routes, access));
    let (heart, pulse) = heartbeat();
    let (http, health) = (config.http.clone(), health.clone());
    let serving = serve_http(http, state_dir, routes, health, pulse, tasks.stop());
    tasks.work("http", serving);
    Ok(heart)
}

/// Starts the gRPC contract if it is configured; returns the name of its part.
pub fn start_facerecog(services: &Services, tasks: &mut Supervisor) -> Option<&'static str> {
    const PART: &str = "facerecog";
    let listen = services.config.facerecog_listen?;
    let routes = Facerecog::new(services.reader.clone(), services.people.clone()).routes();
    let (health, stop) = (services.health.clone(), tasks.stop());
    tasks.work(PART, async move {
        let Some(listener) = bind(listen, "facerecog.listen", PART, &health, &stop).await else {
            return Ok(());
        };
        let address = listener.local_addr()?;
        health.set(PART, Condition::Ok, format!("grpc on {address}"));
        tracing::info!("facerecog gRPC contract on {address}");
        // The watchdog does not depend on this loop.
        http_server::serve(listener, Protocol::Grpc, routes, None, heartbeat().1, stop).await;
        Ok(())
    });
    Some(PART)
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
