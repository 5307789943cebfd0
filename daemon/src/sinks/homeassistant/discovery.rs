//! The discovery messages of a board, by kind: the board itself, the switch of its breaker, each
//! camera, each person. Templates that Home Assistant runs stand here too; publishing does not.
//!
//! Ids come from the board's number, which stays when the board is renamed, and from numbers of
//! people, which stay when they are renamed.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Page;
use crate::domain::{PersonId, hex};
use crate::topics::Topics;

/// Everything that the messages tell.
pub struct Announcement<'a> {
    /// Name of the board.
    pub device: &'a str,
    /// Number of the board.
    pub board: &'a str,
    /// Names of the topics.
    pub topics: &'a Topics,
    /// The board's page, if other machines can reach it.
    pub page: Option<&'a Page>,
    /// Names of the cameras.
    pub cameras: &'a [String],
    /// Numbers and names of the people to announce.
    pub people: &'a [(PersonId, String)],
    /// True if the breaker may be switched by MQTT.
    pub breaker: bool,
}

/// Returns the part of a discovery topic that names the board's own message.
pub fn board_object(board: &str) -> String {
    format!("kithd_{board}")
}

impl Announcement<'_> {
    /// Returns every message by the object id of its topic, `<prefix>/device/<object id>/config`.
    pub fn messages(&self) -> BTreeMap<String, Value> {
        let own = board_object(self.board);
        let mut messages = BTreeMap::from([(own.clone(), self.of_board())]);
        if self.breaker {
            messages.insert(format!("{own}_breaker"), self.of_breaker());
        }
        for camera in self.cameras {
            let id = camera_id(camera);
            messages.insert(format!("{own}_{id}"), self.of_camera(&id, camera));
        }
        for (id, name) in self.people {
            messages.insert(format!("{own}_person_{id}"), self.of_person(*id, name));
        }
        messages
    }

    /// Wraps components with all that messages have in common. Each gets its unique id.
    fn message(&self, device: &Value, components: Vec<(String, Value)>) -> Value {
        let mut origin = json!({ "name": "kithd", "sw_version": env!("CARGO_PKG_VERSION") });
        if let Some(page) = self.page {
            origin["support_url"] = json!(format!("{}/docs/home-assistant", page.address));
        }
        let own = board_object(self.board);
        let components: Map<_, _> = components
            .into_iter()
            .map(|(id, mut component)| {
                // Device triggers are told apart by type and subtype.
                if component["platform"] != "device_automation" {
                    component["unique_id"] = json!(format!("{own}_{id}"));
                }
                (id, component)
            })
            .collect();
        json!({
            "device": device,
            "origin": origin,
            "availability": [{
                "topic": self.topics.status(),
                "payload_available": "online",
                "payload_not_available": "offline",
            }],
            "qos": 1,
            "components": components,
        })
    }

    /// The board as a device.
    fn board(&self) -> Value {
        let mut device = json!({
            "identifiers": [board_object(self.board)],
            "name": format!("kithd {}", self.device),
            "serial_number": self.board,
            "manufacturer": "kithd",
            "model": "Face identification",
            "sw_version": env!("CARGO_PKG_VERSION"),
        });
        if let Some(page) = self.page {
            device["configuration_url"] = json!(page.address);
        }
        device
    }

    /// A device that the board stands behind.
    fn behind(&self, id: &str, name: &str, model: &str, path: &str) -> Value {
        let own = board_object(self.board);
        let mut device = json!({
            "identifiers": [format!("{own}_{id}")],
            "name": format!("kithd {} {name}", self.device),
            "manufacturer": "kithd",
            "model": model,
            "via_device": own,
        });
        if let Some(page) = self.page {
            device["configuration_url"] = json!(format!("{}{path}", page.address));
        }
        device
    }

    fn of_board(&self) -> Value {
        let mut components = vec![
            ("sighting".into(), self.sighting("Sighting", None)),
            ("last_face".into(), self.last_face()),
            ("problem".into(), self.problem()),
            ("breaker".into(), self.breaker()),
            (
                "backlog".into(),
                json!({
                    "platform": "sensor",
                    "name": "Backlog",
                    "icon": "mdi:tray-full",
                    "entity_category": "diagnostic",
                    "state_class": "measurement",
                    "unit_of_measurement": "pictures",
                    "state_topic": self.topics.health(),
                    "value_template": BACKLOG,
                }),
            ),
        ];
        if let Some(page) = self.page.filter(|page| page.pictures) {
            components.push(("last_picture".into(), self.last_picture(page)));
        }
        components.extend(self.diagnostics());
        components.extend(self.triggers(None));
        self.message(&self.board(), components)
    }

    /// The switch, in a message of its own, so that it can be taken back alone.
    fn of_breaker(&self) -> Value {
        let select = json!({
            "platform": "select",
            "name": "Use of the engine",
            "icon": "mdi:electric-switch",
            "entity_category": "config",
            "options": ["auto", "open", "close"],
            "command_topic": self.topics.command("breaker"),
            "state_topic": self.topics.health(),
            "value_template": BREAKER_COMMAND,
        });
        self.message(&self.board(), vec![("breaker_command".into(), select)])
    }

    fn of_camera(&self, id: &str, camera: &str) -> Value {
        let here = seen_by(camera);
        let components = vec![
            (
                format!("{id}_sighting"),
                self.sighting("Sighting", Some(camera)),
            ),
            (
                format!("{id}_person"),
                json!({
                    "platform": "sensor",
                    "name": "Last person",
                    "icon": "mdi:account",
                    "state_topic": self.topics.presence(),
                    "value_template": format!("{here}{LAST_PERSON}"),
                    "json_attributes_topic": self.topics.presence(),
                    "json_attributes_template": format!("{here}{LAST_PERSON_ATTRIBUTES}"),
                }),
            ),
            (
                format!("{id}_occupancy"),
                json!({
                    "platform": "binary_sensor",
                    "name": "Occupancy",
                    "device_class": "occupancy",
                    "state_topic": self.topics.presence(),
                    "value_template": format!("{here}{OCCUPANCY}"),
                }),
            ),
        ];
        let triggers = self.triggers(Some(camera));
        let components = components
            .into_iter()
            .chain(
                triggers
                    .into_iter()
                    .map(|(name, trigger)| (format!("{id}_{name}"), trigger)),
            )
            .collect();
        let device = self.behind(id, camera, "Camera", "/");
        self.message(&device, components)
    }

    fn of_person(&self, id: PersonId, name: &str) -> Value {
        let this = format!(
            "{{% set them = (value_json.people | selectattr('person_id', 'eq', {id}) | list + [none]) \
             | first %}}"
        );
        let presence = self.topics.presence();
        let mut components = vec![
            (
                format!("person_{id}"),
                json!({
                    "platform": "binary_sensor",
                    "name": name,
                    "device_class": "occupancy",
                    "state_topic": presence,
                    "value_template": format!("{this}{IS_PRESENT}"),
                    "json_attributes_topic": presence,
                    "json_attributes_template": format!("{this}{WHERE_PRESENT}"),
                }),
            ),
            (
                format!("person_{id}_seen"),
                json!({
                    "platform": "sensor",
                    "name": format!("{name} last seen"),
                    "device_class": "timestamp",
                    "state_topic": presence,
                    "value_template": format!("{this}{LAST_SEEN}"),
                }),
            ),
        ];
        for (word, step) in [("seen", "seen"), ("left", "left")] {
            components.push((
                format!("person_{id}_{word}_trigger"),
                self.trigger(word, name, PERSON, &format!("{id} {step}")),
            ));
        }
        let device = self.behind("people", "people", "People", "/people");
        self.message(&device, components)
    }

    /// The event entity of sightings, of one camera or of all sources.
    fn sighting(&self, name: &str, camera: Option<&str>) -> Value {
        let url = match self.page {
            Some(page) => format!("{} ~ ", text(&page.address)),
            None => String::new(),
        };
        let condition = camera.map_or_else(String::new, |camera| {
            format!("value_json.source == {} and ", text(camera))
        });
        let template = SIGHTING
            .replace("PAGE ", &url)
            .replace("CONDITION ", &condition);
        json!({
            "platform": "event",
            "name": name,
            "icon": "mdi:face-recognition",
            "state_topic": self.topics.sightings(),
            "event_types": ["known", "uncertain", "unknown", "stranger", "left"],
            "value_template": format!("{STEP}{template}"),
        })
    }

    fn last_face(&self) -> Value {
        json!({
            "platform": "image",
            "name": "Last face",
            "image_topic": self.topics.last_face(),
            "content_type": "image/jpeg",
            "json_attributes_topic": self.topics.last_face_origin(),
        })
    }

    fn last_picture(&self, page: &Page) -> Value {
        let Page { address, icon, .. } = page;
        let (address, icon) = (text(address), text(icon));
        json!({
            "platform": "image",
            "name": "Last picture",
            "url_topic": self.topics.last_face_origin(),
            "url_template": format!(
                "{{{{ {address} ~ ('/v1/images/' ~ value_json.image_id ~ '/thumbnail.jpg' \
                 if value_json.image_id else {icon}) }}}}"
            ),
        })
    }

    fn problem(&self) -> Value {
        json!({
            "platform": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": self.topics.health(),
            "value_template": PROBLEM,
            "json_attributes_topic": self.topics.health(),
            "json_attributes_template": PROBLEM_ATTRIBUTES,
        })
    }

    fn breaker(&self) -> Value {
        json!({
            "platform": "binary_sensor",
            "name": "Circuit breaker",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": self.topics.health(),
            "value_template": BREAKER,
        })
    }

    /// Entities that Home Assistant shows only when they are enabled there.
    fn diagnostics(&self) -> Vec<(String, Value)> {
        let sensor = |id: &str, name: &str, icon: &str, template: &str, more: Value| {
            let mut sensor = json!({
                "platform": "sensor",
                "name": name,
                "icon": icon,
                "entity_category": "diagnostic",
                "enabled_by_default": false,
                "state_topic": self.topics.health(),
                "value_template": template,
            });
            if let (Some(sensor), Value::Object(more)) = (sensor.as_object_mut(), more) {
                sensor.extend(more);
            }
            (id.to_owned(), sensor)
        };
        vec![
            sensor(
                "waiting_for_file",
                "Waiting for their file",
                "mdi:file-clock-outline",
                "{{ value_json.waiting_for_file }}",
                json!({ "state_class": "measurement", "unit_of_measurement": "pictures" }),
            ),
            sensor(
                "processed",
                "Kept pictures",
                "mdi:image-check-outline",
                "{{ value_json.queue.processed }}",
                json!({ "state_class": "measurement", "unit_of_measurement": "pictures" }),
            ),
            sensor(
                "strangers",
                "Strangers to name",
                "mdi:account-question",
                "{{ value_json.strangers_to_name }}",
                json!({ "state_class": "measurement", "unit_of_measurement": "strangers" }),
            ),
            sensor(
                "free_disk",
                "Free disk space",
                "mdi:harddisk",
                "{{ value_json.disk.free_bytes if value_json.disk.free_bytes is not none else '' }}",
                json!({
                    "device_class": "data_size",
                    "state_class": "measurement",
                    "unit_of_measurement": "B",
                    "suggested_display_precision": 0,
                }),
            ),
            sensor(
                "temperature",
                "Temperature",
                "mdi:thermometer",
                "{{ value_json.celsius if value_json.celsius is not none else '' }}",
                json!({
                    "device_class": "temperature",
                    "state_class": "measurement",
                    "unit_of_measurement": "°C",
                    "suggested_display_precision": 0,
                }),
            ),
        ]
    }

    /// Device triggers for each outcome, of one camera or of all sources.
    fn triggers(&self, camera: Option<&str>) -> Vec<(String, Value)> {
        let here = camera.map_or_else(String::new, |camera| {
            format!(" if value_json.source == {} else ''", text(camera))
        });
        let trigger = |word: &str, subtype: &str, value: &str, step: &str| {
            let template = format!("{{{{ ({value}){here} }}}}");
            let trigger = self.trigger(word, subtype, &template, step);
            (format!("{step}_trigger"), trigger)
        };
        vec![
            trigger("seen", "known person", "step", "known"),
            trigger("seen", "uncertain person", "step", "uncertain"),
            trigger("seen", "unknown person", "step", "unknown"),
            trigger("seen", "returning stranger", RETURNING, "returning"),
            trigger("left", "person", "step", "left"),
        ]
    }

    fn trigger(&self, word: &str, subtype: &str, template: &str, payload: &str) -> Value {
        json!({
            "platform": "device_automation",
            "automation_type": "trigger",
            "type": word,
            "subtype": subtype,
            "topic": self.topics.sightings(),
            "value_template": format!("{STEP}{template}"),
            "payload": payload,
        })
    }
}

/// Returns the id of a camera. Another system may give its cameras any names.
fn camera_id(camera: &str) -> String {
    format!("camera_{}", &hex(&Sha256::digest(camera))[..8])
}

/// Returns a text as it is written in a template.
fn text(text: &str) -> String {
    json!(text).to_string()
}

/// Returns the beginning of a template about the people that one camera sees.
fn seen_by(camera: &str) -> String {
    format!(
        "{{% set here = (value_json.sources | selectattr('source', 'eq', {}) | list + [{{'people': [], \
         'uncertain': 0, 'unknown': 0, 'last': none}}]) | first %}}",
        text(camera)
    )
}

/// Beginning of a template about a sighting: `numbered` tells whether it is known from now on which
/// stranger it is; `step` is what is new (an outcome, the stranger, or that it has ended), and empty
/// if only a better face came. Home Assistant ignores an empty event.
const STEP: &str = "{% set now = value_json.after %}{% set was = value_json.before %}\
{% set numbered = now.stranger and (was is none or not was.stranger or was.stranger.number != now.stranger.number) %}\
{% set step = 'left' if value_json.step == 'end' else now.outcome if was is none or now.outcome != was.outcome \
or (now.person or {}).person_id != (was.person or {}).person_id else 'stranger' if numbered else '' %}";

/// Rest of the template of an event: its type and attributes.
const SIGHTING: &str = "{% if CONDITION step %}{% set name = (now.person or {}).name | default(none) %}{{ {
'event_type': step,
'outcome': now.outcome,
'person': name if now.outcome == 'known' else none,
'perhaps': name if now.outcome == 'uncertain' else none,
'stranger': (now.stranger or {}).number | default(none),
'times': (now.stranger or {}).sightings | default(none),
'times_this_week': (now.stranger or {}).this_week | default(none),
'text': name if now.outcome == 'known' else 'perhaps ' ~ name if now.outcome == 'uncertain' and name else
        'stranger ' ~ now.stranger.number if now.stranger else 'unknown person',
'source': value_json.source,
'sighting_id': value_json.sighting_id,
'arrived': (value_json.began_ms / 1000) | timestamp_utc,
'last_seen': (value_json.last_ms / 1000) | timestamp_utc,
'distance': now.distance,
'margin': now.margin,
'quality': now.quality,
'looks': now.looks,
'supersedes': ((was.person or {}).name | default(was.outcome)) if was and step != 'left' else none,
'image_id': (now.face or {}).image_id | default(none),
'face': (now.face or {}).number | default(none),
'url': PAGE '/images/' ~ now.face.image_id if now.face else none
} | tojson }}{% endif %}";

/// Value of a device trigger of a stranger who was seen before.
const RETURNING: &str =
    "'returning' if numbered and step != 'left' and now.stranger.sightings > 1 else ''";

/// Rest of the template of a device trigger of one person.
const PERSON: &str = "{{ now.person.person_id ~ ' ' ~ ('left' if step == 'left' else 'seen') if step and now.outcome == 'known' \
and now.person else '' }}";

/// Rest of the template of a camera's last person: a state has at most 255 characters.
const LAST_PERSON: &str = "{{ here.people | join(', ') | truncate(255, true, '…', 0) if here.people else \
'uncertain' if here.uncertain else 'unknown' if here.unknown else 'nobody' }}";

const LAST_PERSON_ATTRIBUTES: &str = "{{ {'people': here.people, 'uncertain': here.uncertain, 'unknown': here.unknown,
'last_name': (here.last or {}).name | default(none), 'last_outcome': (here.last or {}).outcome | default(none),
'last_seen': (here.last.at_ms / 1000) | timestamp_utc if here.last else none} | tojson }}";

const OCCUPANCY: &str = "{{ 'ON' if here.people or here.uncertain or here.unknown else 'OFF' }}";

const IS_PRESENT: &str = "{{ 'ON' if them and them.present else 'OFF' }}";

const WHERE_PRESENT: &str = "{{ {'source': them.source, 'since': (them.since_ms / 1000) | timestamp_utc} | tojson \
if them and them.present else '{}' }}";

/// `None` is an unknown time.
const LAST_SEEN: &str =
    "{{ (them.last_ms / 1000) | timestamp_utc if them and them.last_ms else 'None' }}";

/// Pictures that wait for the engine, or are with it.
const BACKLOG: &str = "{{ [value_json.queue.pending + value_json.queue.processing - value_json.waiting_for_file, 0] | max }}";

/// Any state but closed is a problem. Nothing is rendered while there is no engine: the state stays
/// as it is.
const BREAKER: &str = "{{ '' if value_json.engine is none else
'OFF' if value_json.engine.breaker.state == 'closed' else 'ON' }}";

const BREAKER_COMMAND: &str = "{{ '' if value_json.engine is none else
'open' if value_json.engine.breaker.state == 'forced_open' else 'auto' }}";

const PROBLEM: &str = "{{ 'ON' if value_json.parts.values() | selectattr('condition', 'eq', 'degraded') | list else 'OFF' }}";

const PROBLEM_ATTRIBUTES: &str = "{% set found = namespace(parts={}) %}{% for name, part in value_json.parts.items() \
if part.condition == 'degraded' %}{% set found.parts = dict(found.parts, **{name: part.text}) %}{% endfor %}\
{{ {'degraded': found.parts} | tojson }}";
