//! Keys of the broker: `[mqtt]`, `[shared]`, `[homeassistant]`.

use std::path::PathBuf;
use std::time::Duration;

use kith_mqtt::{Address, TlsFiles, Version, is_topic};

use super::{Raw, credential, secs};
use crate::store::RejectedCaps;

/// Name of the systemd credential with the broker's password, used if `mqtt.password_file` is not
/// set.
const PASSWORD_CREDENTIAL: &str = "kithd.mqtt-password";
/// Name of the systemd credential with the key of our certificate, used if `mqtt.client_key` is not
/// set.
const KEY_CREDENTIAL: &str = "kithd.mqtt-key";

/// Settings of the MQTT connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mqtt {
    /// False if MQTT is not used.
    pub enabled: bool,
    /// Address of the broker.
    pub broker: Address,
    /// Protocol version.
    pub version: Version,
    /// Certificates of an encrypted connection.
    pub tls: Option<TlsFiles>,
    /// First part of every topic.
    pub prefix: String,
    /// User name, if the broker wants one.
    pub username: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Ping interval.
    pub keep_alive: Duration,
    /// Time that the broker keeps our session while we are away.
    pub session_expiry: Duration,
    /// Largest message accepted; the broker drops larger ones.
    pub max_packet_bytes: u32,
    /// Most unacknowledged messages that the broker may send us.
    pub receive_maximum: u16,
    /// Filters of further topics whose messages are pictures.
    pub picture_topics: Vec<String>,
    /// Commands that clients may use to change something.
    pub commands: Vec<MqttCommand>,
    /// False if the results of single images are not published.
    pub results: bool,
    /// Time after which an event about a person expires.
    pub event_expiry: Duration,
    /// Limits for kept messages that were refused.
    pub rejected: RejectedCaps,
    /// Topics shared with other boards.
    pub shared: Option<Shared>,
    /// Entities for Home Assistant.
    pub home_assistant: HomeAssistant,
}

/// A command that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttCommand {
    /// Operates the circuit breaker.
    Breaker,
    /// Enrols a person.
    Enroll,
    /// Erases a person.
    Forget,
}

/// Topics whose messages are distributed among the boards of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Name of the group.
    pub group: String,
    /// Filters of topics with paths.
    pub path_topics: Vec<String>,
    /// Filters of topics with pictures.
    pub picture_topics: Vec<String>,
    /// Time that the broker waits for this board before it gives its messages to the others.
    pub session_expiry: Duration,
}

/// Announcements for Home Assistant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeAssistant {
    /// False if earlier announcements are withdrawn.
    pub enabled: bool,
    /// Its discovery prefix.
    pub prefix: String,
    /// True if each person gets entities, with the name.
    pub people: bool,
    /// Address of the page, if the board cannot tell it itself.
    pub page: Option<String>,
}

/// Reads the three sections.
pub(super) fn mqtt(raw: &mut Raw) -> Mqtt {
    let enabled = raw.flag("mqtt.enabled", true);
    let broker = address(raw);
    let version = version(raw);
    let tls = tls(raw, &broker);
    let prefix = raw.text("mqtt.prefix").unwrap_or_else(|| "kithd".into());
    topic_prefix(raw, "mqtt.prefix", &prefix);
    let username = raw.text("mqtt.username");
    let password_file = raw.text("mqtt.password_file").map(PathBuf::from);
    let password_file = password_file.or_else(|| {
        username
            .as_ref()
            .and_then(|_| credential(PASSWORD_CREDENTIAL))
    });
    if let Some(file) = &password_file {
        if username.is_none() {
            raw.problem(
                "mqtt.password_file",
                file.display(),
                "needs mqtt.username as well",
            );
        }
        if let Err(error) = std::fs::read_to_string(file) {
            raw.problem(
                "mqtt.password_file",
                file.display(),
                format!("cannot be read: {error}"),
            );
        }
    }
    Mqtt {
        enabled,
        broker,
        version,
        tls,
        prefix,
        username,
        password_file,
        keep_alive: raw.duration("mqtt.keep_alive", secs(30), secs(5)..=secs(3600)),
        session_expiry: raw.duration(
            "mqtt.session_expiry",
            secs(7 * 86_400),
            secs(60)..=secs(365 * 86_400),
        ),
        max_packet_bytes: u32::try_from(raw.size(
            "mqtt.max_packet",
            68 << 20,
            64 << 10..=256 << 20,
        ))
        .unwrap_or(u32::MAX),
        receive_maximum: u16::try_from(raw.number("mqtt.receive_maximum", 16, 1..=1000))
            .unwrap_or(16),
        picture_topics: filters(raw, "mqtt.picture_topics"),
        commands: commands(raw),
        rejected: RejectedCaps {
            count: raw.number("mqtt.rejected_count", 100, 1..=100_000),
            bytes: raw.size("mqtt.rejected_bytes", 64 << 20, 1 << 20..=1 << 40),
        },
        results: raw.flag("mqtt.results", true),
        event_expiry: raw.duration("mqtt.event_expiry", secs(600), secs(1)..=secs(7 * 86_400)),
        shared: shared(raw, version),
        home_assistant: home_assistant(raw),
    }
}

fn address(raw: &mut Raw) -> Address {
    let loopback = Address {
        host: "127.0.0.1".into(),
        port: 1883,
        encrypted: false,
    };
    let Some(url) = raw.text("mqtt.url") else {
        return loopback;
    };
    url.parse().unwrap_or_else(|error| {
        raw.problem("mqtt.url", format!("{url:?}"), error);
        loopback
    })
}

fn version(raw: &mut Raw) -> Version {
    match raw.text("mqtt.version").as_deref() {
        None | Some("5") => Version::Five,
        Some("3.1.1") => Version::Three,
        Some(other) => {
            raw.problem(
                "mqtt.version",
                format!("{other:?}"),
                "must be \"5\" or \"3.1.1\"",
            );
            Version::Five
        }
    }
}

/// Reads the TLS settings. The files themselves are checked when the connection is made: they
/// change with renewals.
fn tls(raw: &mut Raw, broker: &Address) -> Option<TlsFiles> {
    let mut file = |key: &str| raw.text(key).map(PathBuf::from);
    let (ca, certificate) = (file("mqtt.ca_file"), file("mqtt.client_cert"));
    let key = file("mqtt.client_key").or_else(|| {
        certificate
            .as_ref()
            .and_then(|_| credential(KEY_CREDENTIAL))
    });
    let named = [
        ("mqtt.ca_file", &ca),
        ("mqtt.client_cert", &certificate),
        ("mqtt.client_key", &key),
    ];
    for (name, file) in named
        .into_iter()
        .filter_map(|(name, file)| Some((name, file.as_ref()?)))
    {
        if !broker.encrypted {
            raw.problem(
                name,
                file.display(),
                "is for an encrypted connection; write mqtts:// in mqtt.url",
            );
        } else if !file.is_absolute() {
            raw.problem(name, file.display(), "must be an absolute path");
        }
    }
    if let (Some(file), None) | (None, Some(file)) = (&certificate, &key) {
        let name = if key.is_none() {
            "mqtt.client_cert"
        } else {
            "mqtt.client_key"
        };
        raw.problem(
            name,
            file.display(),
            "certificate and key go together: mqtt.client_cert and mqtt.client_key",
        );
    }
    broker.encrypted.then(|| TlsFiles {
        ca,
        client: certificate.zip(key),
    })
}

fn commands(raw: &mut Raw) -> Vec<MqttCommand> {
    let mut commands = Vec::new();
    for name in raw.texts("mqtt.commands").unwrap_or_default() {
        match name.as_str() {
            "breaker" => commands.push(MqttCommand::Breaker),
            "enroll" => commands.push(MqttCommand::Enroll),
            "forget" => commands.push(MqttCommand::Forget),
            _ => raw.problem(
                "mqtt.commands",
                format!("{name:?}"),
                "may name \"breaker\", \"enroll\" and \"forget\"; identify and status need no permission",
            ),
        }
    }
    commands
}

fn shared(raw: &mut Raw, version: Version) -> Option<Shared> {
    let group = raw.text("shared.group");
    let (path_topics, picture_topics) = (
        filters(raw, "shared.path_topics"),
        filters(raw, "shared.picture_topics"),
    );
    let session_expiry = raw.duration(
        "shared.session_expiry",
        secs(60),
        secs(0)..=secs(7 * 86_400),
    );
    let topics = !path_topics.is_empty() || !picture_topics.is_empty();
    let Some(group) = group else {
        if topics {
            raw.problem(
                "shared.group",
                "",
                "must name the group of boards that shares these topics",
            );
        }
        return None;
    };
    if group.is_empty() || group.contains(['/', '+', '#', '\0']) {
        raw.problem(
            "shared.group",
            format!("{group:?}"),
            "must be a name without /, + and #",
        );
    }
    if !topics {
        raw.problem(
            "shared.group",
            format!("{group:?}"),
            "needs shared.path_topics or shared.picture_topics",
        );
    }
    if version == Version::Three {
        let why = "needs mqtt.version = \"5\": in 3.1.1 a board cannot tell the broker how long to wait for it";
        raw.problem("shared.group", format!("{group:?}"), why);
    }
    Some(Shared {
        group,
        path_topics,
        picture_topics,
        session_expiry,
    })
}

fn home_assistant(raw: &mut Raw) -> HomeAssistant {
    let prefix = raw
        .text("homeassistant.prefix")
        .unwrap_or_else(|| "homeassistant".into());
    topic_prefix(raw, "homeassistant.prefix", &prefix);
    let page = raw.text("homeassistant.page");
    let page = page.map(|page| page.trim_end_matches('/').to_owned());
    if let Some(page) = &page {
        let rest = ["http://", "https://"]
            .iter()
            .find_map(|scheme| page.strip_prefix(scheme));
        if !rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace)) {
            raw.problem(
                "homeassistant.page",
                format!("{page:?}"),
                "must be the address of the page, for example \"http://gate.local:8000\"",
            );
        }
    }
    HomeAssistant {
        enabled: raw.flag("homeassistant.enabled", false),
        prefix,
        people: raw.flag("homeassistant.people", false),
        page,
    }
}

fn topic_prefix(raw: &mut Raw, key: &str, prefix: &str) {
    if !is_topic(prefix) || prefix.starts_with(['/', '$']) || prefix.ends_with('/') {
        raw.problem(
            key,
            format!("{prefix:?}"),
            "must be a topic without + or #, for example \"kithd\"",
        );
    }
}

fn filters(raw: &mut Raw, key: &str) -> Vec<String> {
    let filters = raw.texts(key).unwrap_or_default();
    for filter in filters
        .iter()
        .filter(|filter| filter.starts_with("$share/") || !kith_mqtt::is_filter(filter))
    {
        let rule = "is not a topic filter; for example \"frigate/+/person/snapshot\"";
        raw.problem(key, format!("{filter:?}"), rule);
    }
    filters
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn problems(text: &str) -> String {
        let problems = Config::check(Raw::parse(text)).0.unwrap_err();
        Config::problems_text(None, &problems)
    }

    #[test]
    fn certificates_go_with_an_encrypted_address_and_in_pairs() {
        let files = "ca_file = \"/etc/ca.pem\"\nclient_cert = \"/etc/board.pem\"\nclient_key = \"/etc/board.key\"\n";
        let config = Config::check(Raw::parse(&format!(
            "[mqtt]\nurl = \"mqtts://broker\"\n{files}"
        )))
        .0
        .unwrap();
        let client = Some(("/etc/board.pem".into(), "/etc/board.key".into()));
        assert_eq!(
            config.mqtt.tls,
            Some(TlsFiles {
                ca: Some("/etc/ca.pem".into()),
                client
            })
        );
        assert!(
            problems(&format!("[mqtt]\n{files}"))
                .contains("mqtt.ca_file = /etc/ca.pem: is for an encrypted")
        );
        let lonely =
            problems("[mqtt]\nurl = \"mqtts://broker\"\nclient_cert = \"/etc/board.pem\"\n");
        assert!(
            lonely.contains("certificate and key go together"),
            "{lonely}"
        );
    }

    #[test]
    fn a_shared_group_needs_topics_and_mqtt_5_with_valid_filters() {
        let shared = "[shared]\ngroup = \"boards\"\npath_topics = [\"site/paths\"]\n";
        assert_eq!(
            Config::check(Raw::parse(shared))
                .0
                .unwrap()
                .mqtt
                .shared
                .unwrap()
                .group,
            "boards"
        );
        let text = problems(&format!(
            "{shared}picture_topics = [\"a/#/b\"]\n[mqtt]\nversion = \"3.1.1\"\n"
        ));
        for part in [
            "has 2 problems",
            "shared.picture_topics = \"a/#/b\": is not a topic filter",
            "needs mqtt.version",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
        assert!(problems("[shared]\ngroup = \"boards\"\n").contains("needs shared.path_topics"));
        assert!(problems("[mqtt]\ncommands = [\"reboot\"]\n").contains("may name \"breaker\""));
    }
}
