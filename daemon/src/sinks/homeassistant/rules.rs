//! Checks every kind of discovery message against rules copied as facts from Home Assistant's
//! documentation of its MQTT integration (2024.11 to 2026.2). The templates themselves run only in
//! a real Home Assistant: `./dev ha-test`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::Page;
use super::discovery::{Announcement, board_object};
use crate::topics::Topics;

/// Keys that entities of every platform may have.
const OF_ENTITIES: &str = "platform name unique_id icon entity_category enabled_by_default entity_picture \
    json_attributes_topic json_attributes_template default_entity_id encoding qos";

/// A platform: required keys, further keys, allowed entity categories.
const PLATFORMS: [(&str, &str, &str, &str); 6] = [
    (
        "binary_sensor",
        "state_topic",
        "value_template device_class off_delay expire_after force_update payload_on payload_off",
        "diagnostic",
    ),
    (
        "sensor",
        "state_topic",
        "value_template device_class state_class unit_of_measurement suggested_display_precision \
         options expire_after force_update last_reset_value_template",
        "diagnostic",
    ),
    (
        "event",
        "state_topic event_types",
        "value_template device_class",
        "diagnostic",
    ),
    (
        "image",
        "",
        "image_topic url_topic url_template content_type image_encoding",
        "diagnostic",
    ),
    (
        "select",
        "command_topic options",
        "state_topic value_template command_template retain optimistic",
        "config",
    ),
    (
        "device_automation",
        "automation_type topic type subtype",
        "platform payload value_template qos",
        "",
    ),
];

const OF_DEVICES: &str = "identifiers connections configuration_url hw_version manufacturer model model_id name \
    serial_number suggested_area sw_version via_device";
const OF_ORIGINS: &str = "name sw_version support_url";
const BINARY_SENSOR_CLASSES: &str = "battery battery_charging carbon_monoxide cold connectivity door garage_door gas heat \
    light lock moisture motion moving occupancy opening plug power presence problem running safety smoke sound \
    tamper update vibration window";
/// Device classes of sensors, and their units.
const SENSOR_CLASSES: [(&str, &str); 4] = [
    (
        "data_size",
        "bit kbit Mbit Gbit B kB MB GB TB KiB MiB GiB TiB",
    ),
    ("temperature", "°C °F K"),
    ("timestamp", ""),
    ("enum", ""),
];
const STATE_CLASSES: &str = "measurement measurement_angle total total_increasing";
/// Most characters of a name or an id that its registries are made for.
const LONGEST_NAME: usize = 255;

fn is_in(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|known| known == word)
}

fn keys_are(object: &Map<String, Value>, allowed: &[&str], of: &str) {
    for key in object.keys() {
        assert!(allowed.iter().any(|list| is_in(list, key)), "{key} of {of}");
    }
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

fn page() -> Page {
    Page {
        address: "https://gate.local:8000/kithd".into(),
        icon: "/assets/icon-1.svg".into(),
        pictures: true,
    }
}

fn messages(page: Option<&Page>, breaker: bool) -> BTreeMap<String, Value> {
    Announcement {
        device: "gate",
        board: "0123456789abcdef",
        topics: &Topics::new("kithd", "gate"),
        page,
        cameras: &["front".into(), "Hof \"hinten\" {{ 1 }} %}".into()],
        people: &[(7, "Ann".into()), (8, "Bob \"{{ x }}\" 😀 ".repeat(12))],
        breaker,
    }
    .messages()
}

fn check_component(id: &str, component: &Value) {
    let object = component.as_object().unwrap();
    let platform = text(component, "platform");
    let (_, required, optional, categories) = PLATFORMS
        .into_iter()
        .find(|(name, ..)| *name == platform)
        .unwrap_or_else(|| panic!("{id} is of platform {platform:?}"));
    let trigger = platform == "device_automation";
    match trigger {
        true => keys_are(object, &[required, optional], id),
        false => keys_are(object, &[OF_ENTITIES, required, optional], id),
    }
    for key in required.split_whitespace() {
        assert!(object.contains_key(key), "{id} lacks {key}");
    }
    assert_eq!(trigger, !object.contains_key("unique_id"), "{id}");
    for (key, value) in object {
        match key.as_str() {
            key if key.ends_with("topic") => {
                let topic = value.as_str().unwrap();
                assert!(kith_mqtt::is_topic(topic), "{id}: {topic}");
            }
            key if key.ends_with("template") => check_template(id, value.as_str().unwrap()),
            "name" | "subtype" | "unique_id" => {
                let name = value.as_str().unwrap();
                assert!(
                    !name.is_empty() && name.chars().count() <= LONGEST_NAME,
                    "{id}: {name}"
                );
            }
            "entity_category" => {
                assert!(is_in(categories, value.as_str().unwrap()), "{id}");
            }
            "icon" => assert!(value.as_str().unwrap().starts_with("mdi:"), "{id}"),
            "state_class" => assert!(is_in(STATE_CLASSES, value.as_str().unwrap()), "{id}"),
            "event_types" | "options" => {
                let words = value.as_array().unwrap();
                let different: BTreeSet<_> = words.iter().map(Value::to_string).collect();
                assert!(!words.is_empty() && different.len() == words.len(), "{id}");
            }
            "automation_type" => assert_eq!(value, "trigger", "{id}"),
            "enabled_by_default" => assert!(value.is_boolean(), "{id}"),
            _ => {}
        }
    }
    match platform {
        "image" => {
            let sources = ["image_topic", "url_topic"];
            let given = sources.iter().filter(|key| object.contains_key(**key));
            assert_eq!(given.count(), 1, "{id}");
            // The type of a picture that is fetched stands in the answer.
            assert_eq!(
                object.contains_key("content_type"),
                object.contains_key("image_topic")
            );
        }
        "binary_sensor" if object.contains_key("device_class") => {
            assert!(
                is_in(BINARY_SENSOR_CLASSES, text(component, "device_class")),
                "{id}"
            );
        }
        "sensor" => check_sensor(id, component),
        _ => {}
    }
}

fn check_sensor(id: &str, sensor: &Value) {
    let (class, unit) = (
        text(sensor, "device_class"),
        text(sensor, "unit_of_measurement"),
    );
    if class.is_empty() {
        return;
    }
    let (_, units) = SENSOR_CLASSES
        .into_iter()
        .find(|(name, _)| *name == class)
        .unwrap_or_else(|| panic!("{id} is of class {class:?}"));
    assert_eq!(units.is_empty(), unit.is_empty(), "{id}");
    assert!(unit.is_empty() || is_in(units, unit), "{id}");
    // A state that is no number has no statistics.
    assert!(!units.is_empty() || sensor["state_class"].is_null(), "{id}");
}

/// Checks that every bracket of a template is closed, outside its strings.
fn check_template(id: &str, template: &str) {
    let (mut open, mut quote, mut chars) = (Vec::new(), None, template.chars());
    let mut bare = String::new();
    while let Some(char) = chars.next() {
        if quote.is_none() {
            bare.push(char);
        }
        match (quote, char) {
            (Some(_), '\\') => _ = chars.next(),
            (Some(end), char) if char == end => quote = None,
            (None, '"' | '\'') => quote = Some(char),
            (None, '{' | '[' | '(') => open.push(char),
            (None, '}' | ']' | ')') => {
                let opened = match char {
                    '}' => '{',
                    ']' => '[',
                    _ => '(',
                };
                assert_eq!(open.pop(), Some(opened), "{id}: {template}");
            }
            (Some(_) | None, _) => {}
        }
    }
    assert!(open.is_empty() && quote.is_none(), "{id}: {template}");
    // Home Assistant warns about a value that is left out.
    for value in bare.split("{{ ").skip(1) {
        let value = value.split("}}").next().unwrap_or_default();
        assert!(
            !value.contains(" if ") || value.contains(" else "),
            "{id}: {value}"
        );
    }
}

#[test]
fn every_discovery_message_keeps_home_assistants_rules() {
    let page = page();
    for (page, breaker) in [(Some(&page), true), (None, false)] {
        let messages = messages(page, breaker);
        let (mut ids, mut triggers) = (BTreeSet::new(), BTreeSet::new());
        for (object_id, message) in &messages {
            let allowed = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
            assert!(object_id.chars().all(allowed), "{object_id}");
            keys_are(
                message.as_object().unwrap(),
                &[
                    "device origin components availability availability_mode qos encoding state_topic command_topic",
                ],
                object_id,
            );
            keys_are(
                message["device"].as_object().unwrap(),
                &[OF_DEVICES],
                object_id,
            );
            keys_are(
                message["origin"].as_object().unwrap(),
                &[OF_ORIGINS],
                object_id,
            );
            assert!(!text(&message["origin"], "name").is_empty());
            assert_eq!(message["qos"], 1);
            let device = message["device"]["identifiers"].to_string();
            let addresses = [
                &message["device"]["configuration_url"],
                &message["origin"]["support_url"],
            ];
            for address in addresses {
                assert_eq!(address.is_string(), page.is_some());
                assert!(address.is_null() || address.as_str().unwrap().starts_with("https://"));
            }
            let via = &message["device"]["via_device"];
            assert!(via.is_null() || *via == board_object("0123456789abcdef"));
            for available in message["availability"].as_array().unwrap() {
                assert!(kith_mqtt::is_topic(text(available, "topic")));
            }
            let components = message["components"].as_object().unwrap();
            assert!(!components.is_empty());
            for (id, component) in components {
                check_component(id, component);
                match component["unique_id"].as_str() {
                    Some(unique) => {
                        let platform = text(component, "platform").to_owned();
                        assert!(ids.insert((platform, unique.to_owned())), "{unique} twice");
                    }
                    None => {
                        let trigger = (
                            device.clone(),
                            text(component, "type").to_owned(),
                            text(component, "subtype").to_owned(),
                        );
                        assert!(triggers.insert(trigger.clone()), "{trigger:?} twice");
                    }
                }
            }
        }
        assert_eq!(messages.len(), if breaker { 6 } else { 5 });
    }
}

#[test]
fn ids_stay_when_board_and_people_are_renamed() {
    let ids = |device: &str, name: &str| {
        let messages = Announcement {
            device,
            board: "1",
            topics: &Topics::new("kithd", device),
            page: None,
            cameras: &["front".into()],
            people: &[(7, name.into())],
            breaker: true,
        }
        .messages();
        let mut ids = Vec::new();
        for (object_id, message) in &messages {
            ids.push((
                object_id.clone(),
                message["device"]["identifiers"].to_string(),
            ));
            for (key, component) in message["components"].as_object().unwrap() {
                ids.push((key.clone(), component["unique_id"].to_string()));
            }
        }
        ids
    };
    assert_eq!(ids("gate", "Ann"), ids("door", "Bob"));
}

#[test]
fn names_of_people_stand_only_in_their_own_messages() {
    for (object_id, message) in messages(Some(&page()), true) {
        assert_eq!(
            message.to_string().contains("Ann"),
            object_id == "kithd_0123456789abcdef_person_7",
            "{object_id}"
        );
    }
}
