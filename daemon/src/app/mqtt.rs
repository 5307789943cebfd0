//! Wiring of the broker connections: one takes pictures in, one carries results, state and
//! commands, and one drains topics shared with other boards. An error on one does not delay the
//! others.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kith_mqtt::{Deliveries, Dropped, Message, Publisher, Settings, State};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Services;
use crate::commands::Commands;
use crate::config::{Config, MqttCommand, Shared, Tls, read_password};
use crate::sinks::former_names::{self, FormerNames};
use crate::sinks::health::HealthReport;
use crate::sinks::homeassistant::{HomeAssistant, Page, birth_topic, listening};
use crate::sinks::presence::PresenceReport;
use crate::sinks::{self, outbox::Outbox};
use crate::sources::mqtt::{Door, Kind, Subscription};
use crate::status::health::{Condition, Health};
use crate::store::{Store, StoreError};
use crate::supervise::Supervisor;
use crate::topics::Topics;
use crate::web::ASSETS;

/// Time for which lost messages are shown.
const DROPS_COUNT: Duration = Duration::from_secs(3600);
const LOOK_AT_DROPS: Duration = Duration::from_secs(5);

/// Starts the connections and their users, unless MQTT is switched off; returns the names of the
/// parts that report them.
pub async fn start(
    services: &Services,
    tasks: &mut Supervisor,
) -> anyhow::Result<Vec<&'static str>> {
    let Services {
        config,
        health,
        store,
        topics,
        ..
    } = services;
    if !config.mqtt.enabled {
        health.set("mqtt", Condition::Off, "switched off in the configuration");
        return Ok(Vec::new());
    }
    let (paths, address) = (topics.paths(), &config.mqtt.broker);
    tracing::info!("publish picture paths to {paths} on {address}");
    let board = former_names::board_number(store).await?;
    let broker = Broker::new(config)?;
    let door = |subscriptions| Door {
        subscriptions,
        ..services.door.clone()
    };
    let settings = Settings {
        session_expiry: config.mqtt.session_expiry,
        ..broker.settings("")
    };
    take_pictures(
        "mqtt",
        settings,
        door(own_subscriptions(config, topics)),
        health.clone(),
        tasks,
    )
    .await;
    let mut names = vec!["mqtt", "mqtt out"];

    let former = FormerNames {
        store: store.clone(),
        health: health.clone(),
        door: services.door.clone(),
        settings: Settings {
            session_expiry: config.mqtt.session_expiry,
            ..broker.settings("")
        },
        board: board.clone(),
        names: former_names::remember(store, &config.mqtt.prefix, &config.device).await?,
    };
    let stop = tasks.stop();
    tasks.keep_working("former names", move || former.clone().run(stop.clone()));

    if let Some(shared) = &config.mqtt.shared {
        let settings = Settings {
            session_expiry: shared.session_expiry,
            ..broker.settings("-shared")
        };
        take_pictures(
            "mqtt shared",
            settings,
            door(shared_subscriptions(shared)),
            health.clone(),
            tasks,
        )
        .await;
        names.push("mqtt shared");
    }

    carry_out(services, board, tasks, broker.settings("-out"));
    Ok(names)
}

/// Returns every topic that pictures and paths come from.
pub fn subscriptions(config: &Config, topics: &Topics) -> Vec<Subscription> {
    let shared = config.mqtt.shared.iter().flat_map(shared_subscriptions);
    own_subscriptions(config, topics)
        .into_iter()
        .chain(shared)
        .collect()
}

fn own_subscriptions(config: &Config, topics: &Topics) -> Vec<Subscription> {
    let own = |filter: String, kind| Subscription { filter, kind };
    let pictures = config
        .mqtt
        .picture_topics
        .iter()
        .map(|filter| own(filter.clone(), Kind::Pictures));
    // Before filters such as "frigate/#", which match these, too.
    let events = config
        .frigate
        .iter()
        .map(|frigate| own(frigate.events(), Kind::Events));
    let ours = [
        own(topics.paths(), Kind::Paths),
        own(topics.pictures(), Kind::Pictures),
    ];
    ours.into_iter().chain(events).chain(pictures).collect()
}

fn shared_subscriptions(shared: &Shared) -> Vec<Subscription> {
    let filters = |filters: &[String], kind| {
        let filter = |filter: &String| Subscription {
            filter: format!("$share/{}/{filter}", shared.group),
            kind,
        };
        filters.iter().map(filter).collect::<Vec<_>>()
    };
    [
        filters(&shared.path_topics, Kind::Paths),
        filters(&shared.picture_topics, Kind::Pictures),
    ]
    .concat()
}

/// Returns the settings of a connection that only tests whether the broker accepts this board.
pub fn broker_settings(config: &Config, client: &str) -> anyhow::Result<Settings> {
    Ok(Settings {
        session_expiry: Duration::ZERO,
        ..Broker::new(config)?.settings(client)
    })
}

/// Settings that all connections share.
struct Broker<'a> {
    config: &'a Config,
    password: Option<String>,
}

impl<'a> Broker<'a> {
    fn new(config: &'a Config) -> anyhow::Result<Self> {
        let password = config.mqtt.password_file.as_ref().map(|file| {
            read_password(file)
                .with_context(|| format!("mqtt.password_file = {} cannot be read", file.display()))
        });
        Ok(Self {
            config,
            password: password.transpose()?,
        })
    }

    fn settings(&self, client: &str) -> Settings {
        let of = &self.config.mqtt;
        Settings {
            version: of.version,
            tls: of.tls.clone(),
            username: of.username.clone(),
            password: self.password.clone(),
            keep_alive: of.keep_alive,
            max_packet_bytes: of.max_packet_bytes,
            receive_maximum: of.receive_maximum,
            ..Settings::new(
                of.broker.clone(),
                format!("kithd-{}{client}", self.config.device),
            )
        }
    }
}

/// Connects for pictures.
async fn take_pictures(
    part: &'static str,
    settings: Settings,
    door: Door,
    health: Health,
    tasks: &mut Supervisor,
) {
    let in_flight = usize::from(settings.receive_maximum);
    let filters: Vec<_> = door
        .subscriptions
        .iter()
        .map(|subscription| subscription.filter.clone())
        .collect();
    let unsubscribe = no_longer_wanted(&door.rejected.store, &settings.client_id, &filters)
        .await
        .unwrap_or_else(|error| {
            tracing::warn!(
                "{part}: topics subscribed to earlier are not known, and may still be sent: {error}"
            );
            Vec::new()
        });
    let settings = Settings {
        subscriptions: filters,
        unsubscribe,
        ..settings
    };
    let (_, deliveries, _, connected) = connect(part, settings, health, tasks);
    let source = crate::sources::mqtt::run(deliveries, door, in_flight, tasks.stop());
    tasks.work(part, async move {
        // Kept for the acknowledgements of the last commits.
        let _connected = connected;
        source.await
    });
}

/// Returns filters of this client that the broker may have kept from an earlier session and that
/// are not wanted any more.
async fn no_longer_wanted(
    store: &Store,
    client_id: &str,
    wanted: &[String],
) -> Result<Vec<String>, StoreError> {
    let mut all = former_names::subscribed(store, client_id).await?;
    let old: Vec<_> = all
        .iter()
        .filter(|filter| !wanted.contains(filter))
        .cloned()
        .collect();
    let new = wanted
        .iter()
        .filter(|filter| !all.contains(filter))
        .cloned()
        .collect::<Vec<_>>();
    if !new.is_empty() {
        all.extend(new);
        store
            .set_fact(
                &former_names::subscribed_fact(client_id),
                serde_json::json!(all).to_string(),
            )
            .await?;
    }
    Ok(old)
}

/// Connects for results, events, state and Home Assistant, and for commands, so that a full queue
/// does not delay them.
fn carry_out(services: &Services, board: String, tasks: &mut Supervisor, settings: Settings) {
    let Services {
        config,
        health,
        store,
        topics,
        door,
        engines,
        people,
        reader,
        disk,
        board: sensors,
        queue,
        ..
    } = services.clone();
    let report = HealthReport {
        sensors,
        waiting_for_file: {
            let queue = queue.clone();
            Arc::new(move || queue.missing_total())
        },
        store: store.clone(),
        health: health.clone(),
        engines,
        disk,
        board,
    };
    let state = |text: &str| Message {
        topic: topics.status(),
        payload: text.into(),
        retain: true,
        ..Message::default()
    };
    let home_assistant = &config.mqtt.home_assistant;
    let births = watch::Sender::new(0);
    let born = home_assistant
        .enabled
        .then(|| (birth_topic(&home_assistant.prefix), births.clone()));
    let mut reserved = vec![
        topics.of_all_boards(),
        format!("{}/#", home_assistant.prefix),
    ];
    reserved.extend(
        door.subscriptions
            .iter()
            .map(|subscription| subscription.filter.clone()),
    );
    let mut subscriptions = Commands::subscriptions(&topics, &config.mqtt.commands);
    subscriptions.extend(born.iter().map(|(topic, _)| topic.clone()));
    let settings = Settings {
        session_expiry: Duration::ZERO,
        will: Some(state("offline")),
        birth: vec![state("online")],
        farewell: Some(state("offline")),
        subscriptions,
        ..settings
    };
    let (publisher, deliveries, connection, connected) =
        connect("mqtt out", settings, health.clone(), tasks);

    let parts = (
        store.clone(),
        publisher.clone(),
        topics.clone(),
        health.clone(),
        tasks.finish(),
    );
    let (event_expiry, last_face) = (config.mqtt.event_expiry, home_assistant.enabled);
    let hears = watch::Sender::new(!home_assistant.enabled);
    let heard = hears.subscribe();
    if home_assistant.enabled {
        let parts = (connection.clone(), births.clone(), tasks.stop());
        tasks.keep_working("home assistant listens", move || {
            let (connection, births, stop) = parts.clone();
            listening::follow(connection, births.subscribe(), hears.clone(), stop)
        });
    }
    let board = config.device.clone();
    tasks.keep_delivering("outbox", move || {
        // The connection ends after the outbox's last attempt.
        let _connected = &connected;
        let (store, publisher, topics, health, finish) = parts.clone();
        let refused_events = Mutex::default();
        let outbox = Outbox {
            store,
            publisher,
            topics,
            device: board.clone(),
            event_expiry,
            last_face,
            heard: heard.clone(),
            health,
            refused_events,
        };
        sinks::outbox::run(outbox, finish)
    });
    let presence = PresenceReport {
        store: store.clone(),
        clock: services.clock(),
        gap: config.sighting_gap,
        device: config.device.clone(),
        topic: topics.presence(),
        publisher: publisher.clone(),
        connection: connection.clone(),
        births: births.subscribe(),
        health: health.clone(),
    };
    let stop = tasks.stop();
    tasks.keep_working("presence", move || presence.clone().run(stop.clone()));
    let announcing = HomeAssistant {
        settings: home_assistant.clone(),
        device: config.device.clone(),
        board: report.board.clone(),
        topics: topics.clone(),
        page: page(&config),
        cameras: config
            .cameras
            .iter()
            .map(|camera| camera.name.clone())
            .collect(),
        breaker: config.mqtt.commands.contains(&MqttCommand::Breaker),
        store,
        publisher: publisher.clone(),
        connection,
        births,
        erasures: people.erasures.subscribe(),
        health,
    };
    let stop = tasks.stop();
    tasks.keep_working("home assistant", move || {
        announcing.clone().run(stop.clone())
    });
    let parts = (
        report.clone(),
        publisher.clone(),
        topics.health(),
        tasks.stop(),
    );
    tasks.keep_working("mqtt health", move || {
        let (report, publisher, topic, stop) = parts.clone();
        sinks::health::run(report, publisher, topic, stop)
    });
    let commands = Commands {
        topics: topics.clone(),
        allowed: config.mqtt.commands.clone(),
        reader,
        people,
        report,
        rejected: door.rejected,
        max_bytes: config.intake.max_bytes,
        publisher,
        births: born,
        reserved,
    };
    tasks.work("commands", commands.run(deliveries, tasks.stop()));
}

/// Returns the page as Home Assistant reaches it.
fn page(config: &Config) -> Option<Page> {
    let given = config.mqtt.home_assistant.page.clone();
    let http = &config.http;
    let own = || {
        let uname = rustix::system::uname();
        http.address(&uname.nodename().to_string_lossy())
    };
    // Home Assistant has no token, and trusts no certificate that a board made itself.
    let pictures = http.open_read && (given.is_some() || http.tls != Tls::SelfSigned);
    Some(Page {
        address: given.or_else(own)?,
        icon: ASSETS.icon.clone(),
        pictures,
    })
}

/// Runs a connection until its last user drops the guard.
fn connect(
    part: &'static str,
    settings: Settings,
    health: Health,
    tasks: &mut Supervisor,
) -> (
    Publisher,
    Deliveries,
    watch::Receiver<State>,
    tokio_util::sync::DropGuard,
) {
    let (publisher, deliveries, state, connection) = kith_mqtt::connect(settings);
    let disconnect = CancellationToken::new();
    let connected = disconnect.clone().drop_guard();
    tasks.deliver(part, async move {
        connection.run(disconnect.cancelled()).await;
        Ok(())
    });
    let parts = (state.clone(), deliveries.dropped(), health, tasks.finish());
    tasks.keep_delivering("mqtt state", move || {
        let (state, dropped, health, finish) = parts.clone();
        show(part, state, dropped, health, finish)
    });
    (publisher, deliveries, state, connected)
}

async fn show(
    part: &'static str,
    mut watch: watch::Receiver<State>,
    dropped: Dropped,
    health: Health,
    finish: CancellationToken,
) -> anyhow::Result<()> {
    let (mut seen, mut last) = (0, None);
    loop {
        if dropped.count() > seen {
            (seen, last) = (dropped.count(), Some(Instant::now()));
        }
        let state = watch.borrow_and_update().clone();
        let condition = match &state {
            State::Connecting => Condition::Starting,
            State::Connected { .. } => Condition::Ok,
            _ => Condition::Degraded,
        };
        let mut line = (condition, state.to_string());
        if state.is_connected() && last.is_some_and(|last: Instant| last.elapsed() < DROPS_COUNT) {
            let text = format!(
                "{state}; {seen} messages that were sent at QoS 0 were lost, because they came faster than they are taken: \
                 have them sent at QoS 1"
            );
            line = (Condition::Degraded, text);
        }
        health.set(part, line.0, line.1);
        tokio::select! {
            () = tokio::time::sleep(LOOK_AT_DROPS) => {}
            changed = watch.changed() => if changed.is_err() { return Ok(()) },
            () = finish.cancelled() => return Ok(()),
        }
    }
}
