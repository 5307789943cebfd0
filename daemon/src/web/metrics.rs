//! `GET /metrics` for Prometheus. Values are read at each request; labels come from a fixed set of
//! words, and from the names of cameras.

use std::sync::atomic::AtomicU64;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::encoding::{EncodeLabelSet, text::encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::api::{VERSION, View};
use crate::domain::{BreakerReason, BreakerState, EngineRole, State as ImageState};
use crate::engines::status::{EngineReport, ReasonCount, StateTime};
use crate::problem::Problem;
use crate::status::cameras::{CameraCounts, TRACK_OUTCOMES};
use crate::status::disk::DiskReport;
use crate::status::health::{Condition, Health};
use crate::status::targets::TargetReport;
use crate::status::thermal::BoardReport;
use crate::store::{Counts, Ending};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EngineLabels {
    role: &'static str,
    pack: String,
    device: String,
    precision: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PartLabel {
    part: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CameraLabel {
    camera: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TroubleLabels {
    camera: String,
    trouble: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TrackLabels {
    camera: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TargetLabel {
    target: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndingLabels {
    target: String,
    ending: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct InfoLabels {
    version: &'static str,
    device: String,
}

/// All metrics in the Prometheus text format.
pub async fn metrics(State(view): State<View>) -> Result<impl IntoResponse, Problem> {
    let counts = view.store.counts().await?;
    let mut open_metrics = String::new();
    // Writing into a String fails only if a label set does, and ours are plain text.
    let report = Some(view.people.engines.report());
    let mut registry = gather(
        &counts,
        view.store.commits(),
        &view.health,
        report.as_ref(),
        view.device.clone(),
    );
    register_pictures(&mut registry, &view);
    register_disk(&mut registry, &view.disk.report().await?);
    register_board(&mut registry, &view.board.report().await);
    register_cameras(&mut registry, &view.camera_counts.all());
    register_sightings(&mut registry, view.sightings.read());
    register_targets(&mut registry, view.targets.all());
    let _ = encode_registry(&mut open_metrics, &registry);
    Ok((
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        classic(&open_metrics),
    ))
}

fn gather(
    counts: &Counts,
    commits: u64,
    health: &Health,
    report: Option<&EngineReport>,
    device: String,
) -> Registry {
    let mut registry = Registry::with_prefix("kithd");
    if let Some(report) = report {
        register_engines(&mut registry, report);
    }
    let images = Family::<StateLabel, Gauge>::default();
    for state in ImageState::ALL {
        let number = match state {
            ImageState::Pending => counts.pending,
            ImageState::Processing => counts.processing,
            ImageState::Processed => counts.processed,
            ImageState::Failed => counts.failed,
        };
        images
            .get_or_create(&StateLabel {
                state: state.as_str(),
            })
            .set(number as i64);
    }
    registry.register("images", "Images by state", images);
    let unsent = "Results the broker has not acknowledged yet";
    registry.register(
        "results_unsent",
        unsent,
        ConstGauge::new(counts.unsent as i64),
    );
    let rejected = "MQTT messages that were refused and are kept for the operator";
    registry.register(
        "rejected_messages",
        rejected,
        ConstGauge::new(counts.rejected_messages as i64),
    );
    let bytes = "Disk space of refused messages";
    registry.register(
        "rejected_bytes",
        bytes,
        ConstGauge::new(counts.rejected_bytes as i64),
    );
    let dropped = "Refused messages that were dropped because too many were kept, since the database was made";
    registry.register(
        "rejected_dropped",
        dropped,
        ConstCounter::new(counts.rejected_dropped),
    );
    registry.register(
        "people",
        "Enrolled people",
        ConstGauge::new(counts.people as i64),
    );
    registry.register(
        "store_commits",
        "Commits to disk since start",
        ConstCounter::new(commits),
    );
    let degraded = Family::<PartLabel, Gauge>::default();
    for (part, line) in health.parts() {
        degraded
            .get_or_create(&PartLabel { part })
            .set(i64::from(line.condition == Condition::Degraded));
    }
    registry.register(
        "part_degraded",
        "1 while a part does not work and is retried",
        degraded,
    );
    let faults =
        "Faults in kithd itself that cost a task its round or a picture its attempt, since start";
    registry.register("faults", faults, ConstCounter::new(health.faults()));
    let info = Family::<InfoLabels, Gauge>::default();
    info.get_or_create(&InfoLabels {
        version: VERSION,
        device,
    })
    .set(1);
    registry.register("info", "Always 1; the labels say which kithd this is", info);
    registry
}

/// Registers the pictures of each camera, configured or named by another system.
fn register_pictures(registry: &mut Registry, view: &View) {
    let pictures = Family::<CameraLabel, Counter>::default();
    let configured = view.cameras.iter().map(|camera| (camera.clone(), 0));
    for (camera, count) in configured.chain(view.store.camera_pictures()) {
        pictures
            .get_or_create(&CameraLabel { camera })
            .inc_by(count);
    }
    let help = "Pictures accepted since start, by camera";
    registry.register("camera_pictures", help, pictures);
}

/// Registers disk space and the effects of retention.
fn register_disk(registry: &mut Registry, disk: &DiskReport) {
    if let Some(free) = disk.free_bytes {
        registry.register(
            "disk_free_bytes",
            "Free on the disk of the state folder",
            ConstGauge::new(free as i64),
        );
    }
    let reserve = "Free space below which no picture is accepted";
    registry.register(
        "disk_reserve_bytes",
        reserve,
        ConstGauge::new(disk.reserve_bytes as i64),
    );
    let used = Family::<KindLabel, Gauge>::default();
    let usage = &disk.used_bytes;
    for (kind, bytes) in [
        ("database", usage.database),
        ("thumbnails", usage.thumbnails),
        ("camera", usage.camera),
        ("uploads", usage.uploads),
    ] {
        used.get_or_create(&KindLabel { kind }).set(bytes as i64);
    }
    registry.register(
        "disk_used_bytes",
        "Held by kithd; thumbnails are part of the database",
        used,
    );
    let counts = Family::<KindLabel, Counter>::default();
    let removed = &disk.removed;
    for (kind, count) in [
        ("images", removed.images),
        ("thumbnails", removed.thumbnails),
        ("camera", removed.camera),
        ("uploads", removed.uploads),
        ("strangers", removed.strangers),
        ("unsent_results", removed.unsent_results),
    ] {
        counts.get_or_create(&KindLabel { kind }).inc_by(count);
    }
    registry.register("removed", "Removed by retention since start", counts);
}

/// Registers only values that the board reports: a missing sensor has no value.
fn register_board(registry: &mut Registry, board: &BoardReport) {
    if let Some(celsius) = board.celsius {
        registry.register(
            "board_celsius",
            "Hottest sensor of the board",
            ConstGauge::new(celsius),
        );
    }
    if let Some(throttled) = board.throttled {
        let help = "1 while heat or a weak supply keeps the board from its full speed";
        registry.register(
            "board_throttled",
            help,
            ConstGauge::new(i64::from(throttled)),
        );
    }
}

fn register_sightings(registry: &mut Registry, [begun, ended, open]: [u64; 3]) {
    for (name, help, count) in [
        ("sightings_begun", "Sightings that began", begun),
        ("sightings_ended", "Sightings that ended", ended),
    ] {
        registry.register(name, help, ConstCounter::new(count));
    }
    let help = "Sightings that have not ended";
    registry.register("sightings_open", help, ConstGauge::new(open as i64));
}

/// Registers the frames of the configured cameras, and the faces of those that are followed.
fn register_cameras(registry: &mut Registry, cameras: &[(String, CameraCounts)]) {
    let by_camera = |count: fn(&CameraCounts) -> Option<u64>| {
        let family = Family::<CameraLabel, Counter>::default();
        for (camera, counts) in cameras {
            if let Some(count) = count(counts) {
                let camera = camera.clone();
                family.get_or_create(&CameraLabel { camera }).inc_by(count);
            }
        }
        family
    };
    registry.register(
        "camera_frames",
        "Frames that came, broken ones included, since start",
        by_camera(|counts| Some(counts.frames)),
    );
    registry.register(
        "camera_frames_broken",
        "Frames that were no whole JPEG or too large, since start",
        by_camera(|counts| Some(counts.broken)),
    );
    registry.register(
        "camera_frames_dropped",
        "Frames to look at for which engine, queue or disk had no room, since start",
        by_camera(|counts| Some(counts.dropped)),
    );
    registry.register(
        "camera_restarts",
        "Times that the camera's process was started again, since start",
        by_camera(|counts| Some(counts.restarts)),
    );
    registry.register(
        "camera_looks",
        "Frames of a followed camera in which the engine looked for faces, since start",
        by_camera(|counts| counts.follow.map(|follow| follow.looked)),
    );
    let troubles = Family::<TroubleLabels, Gauge>::default();
    let tracks = Family::<CameraLabel, Gauge>::default();
    let ended = Family::<TrackLabels, Counter>::default();
    for (camera, counts) in cameras {
        let labels = TroubleLabels {
            camera: camera.clone(),
            trouble: counts.trouble.unwrap_or("none"),
        };
        troubles.get_or_create(&labels).set(1);
        let Some(follow) = counts.follow else {
            continue;
        };
        let camera = camera.clone();
        tracks
            .get_or_create(&CameraLabel {
                camera: camera.clone(),
            })
            .set(follow.tracks as i64);
        for (outcome, count) in TRACK_OUTCOMES.iter().zip(follow.ended) {
            let labels = TrackLabels {
                camera: camera.clone(),
                outcome: outcome.as_str(),
            };
            ended.get_or_create(&labels).inc_by(count);
        }
    }
    let help = "Always 1; the label says which trouble the camera has now, or none";
    registry.register("camera_trouble", help, troubles);
    registry.register(
        "camera_tracks",
        "Faces of a followed camera that are followed now",
        tracks,
    );
    registry.register(
        "camera_tracks_ended",
        "Tracks of a followed camera that have ended since start, by outcome",
        ended,
    );
}

/// Registers targets of notifications, by the names of the configuration.
fn register_targets(registry: &mut Registry, targets: Vec<TargetReport>) {
    if targets.is_empty() {
        return;
    }
    let ended = Family::<EndingLabels, Counter>::default();
    let waiting = Family::<TargetLabel, Gauge>::default();
    for report in targets {
        let target = report.name;
        for (ending, count) in [
            (Ending::Sent, report.sent),
            (Ending::Refused, report.refused),
            (Ending::Expired, report.expired),
            (Ending::Dropped, report.dropped),
        ] {
            let labels = EndingLabels {
                target: target.clone(),
                ending: ending.as_str(),
            };
            ended.get_or_create(&labels).inc_by(count);
        }
        waiting
            .get_or_create(&TargetLabel { target })
            .set(report.waiting as i64);
    }
    registry.register(
        "notifications",
        "Notifications that ended since start, by target",
        ended,
    );
    let help = "Notifications that wait or are tried again, by target";
    registry.register("notifications_waiting", help, waiting);
}

/// Registers breaker and engines; every label is a word of a fixed set, or reported by one of at
/// most two engines.
fn register_engines(registry: &mut Registry, report: &EngineReport) {
    let breaker = &report.breaker;
    let states = Family::<StateLabel, Gauge>::default();
    for state in BreakerState::ALL {
        let here = i64::from(*state == breaker.state);
        states
            .get_or_create(&StateLabel {
                state: state.as_str(),
            })
            .set(here);
    }
    registry.register(
        "breaker_state",
        "1 for the state the circuit breaker is in",
        states,
    );
    let times = Family::<StateLabel, Counter<f64, AtomicU64>>::default();
    for StateTime { state, seconds } in &breaker.seconds_in_state {
        times
            .get_or_create(&StateLabel {
                state: state.as_str(),
            })
            .inc_by(*seconds);
    }
    registry.register(
        "breaker_state_seconds",
        "Seconds spent in each state since start",
        times,
    );
    let calls = Family::<ResultLabel, Counter>::default();
    calls
        .get_or_create(&ResultLabel { result: "success" })
        .inc_by(breaker.successes);
    calls
        .get_or_create(&ResultLabel { result: "late" })
        .inc_by(breaker.late);
    for ReasonCount { reason, count } in &breaker.failures_by_reason {
        calls
            .get_or_create(&ResultLabel {
                result: reason.as_str(),
            })
            .inc_by(*count);
    }
    registry.register(
        "breaker_calls",
        "Calls to the primary engine since start, by result",
        calls,
    );
    registry.register(
        "breaker_trips",
        "How often the breaker opened since start",
        ConstCounter::new(breaker.trips),
    );
    let pings = Family::<ResultLabel, Counter>::default();
    pings
        .get_or_create(&ResultLabel { result: "passed" })
        .inc_by(breaker.pings_passed);
    pings
        .get_or_create(&ResultLabel { result: "failed" })
        .inc_by(breaker.pings_failed);
    registry.register(
        "breaker_pings",
        "Pings of an open breaker since start, by result",
        pings,
    );
    let reasons = Family::<ReasonLabel, Gauge>::default();
    for reason in BreakerReason::ALL {
        let last = i64::from(breaker.last_reason == Some(*reason));
        reasons
            .get_or_create(&ReasonLabel {
                reason: reason.as_str(),
            })
            .set(last);
    }
    registry.register(
        "breaker_last_reason",
        "1 for the kind of the last failure or trip",
        reasons,
    );
    let fallback = "Pictures sent to the fallback engine since start";
    registry.register(
        "fallback_calls",
        fallback,
        ConstCounter::new(report.fallback_calls),
    );
    let (engines, memory) = (
        Family::<EngineLabels, Gauge>::default(),
        Family::<RoleLabel, Gauge>::default(),
    );
    for (role, line) in [
        (EngineRole::Primary, Some(&report.primary)),
        (EngineRole::Fallback, report.fallback.as_ref()),
    ] {
        let Some(line) = line else { continue };
        let labels = EngineLabels {
            role: role.as_str(),
            pack: line.pack.clone(),
            device: line.device.clone(),
            precision: line.precision.clone(),
        };
        engines.get_or_create(&labels).set(i64::from(line.up));
        if let Some(bytes) = line.resident_bytes {
            memory
                .get_or_create(&RoleLabel {
                    role: role.as_str(),
                })
                .set(bytes as i64);
        }
    }
    registry.register("engine_up", "1 while the engine takes pictures", engines);
    registry.register(
        "engine_resident_bytes",
        "Memory of an engine process of our own",
        memory,
    );
}

/// Converts OpenMetrics to the classic format. OpenMetrics omits `_total` in a counter's HELP and
/// TYPE lines; the format that every scraper and promtool reads includes it.
fn classic(open_metrics: &str) -> String {
    let counters: Vec<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(open_metrics.len() + 64);
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(keyword), Some(name), Some(rest)) if counters.contains(&name) => {
                text.extend(["# ", keyword, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}
