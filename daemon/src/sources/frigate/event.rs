//! Events of Frigate, as its MQTT topic and its API send them: only the fields that kithd uses,
//! each checked. Not for deciding which events matter.

use serde::Deserialize;

use crate::domain::Origin;

/// Largest message about an event. Frigate's have a few KiB; they grow with the path of the object.
const MAX_MESSAGE: usize = 1 << 20;

/// A tracked object of Frigate.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id, which begins with its start.
    pub id: String,
    /// Name of the camera.
    pub camera: String,
    /// Kind of object: "person".
    pub label: String,
    /// Start, seconds since 1970 by Frigate's clock.
    pub start: f64,
    /// The object has left.
    pub ended: bool,
    /// Frigate does not take it for an object of this kind any more, or not yet.
    pub false_positive: bool,
    /// Frigate keeps a snapshot of it after its end.
    pub has_snapshot: bool,
    /// Time of the frame that is Frigate's best picture of it so far, where Frigate says it.
    pub best: Option<f64>,
}

/// A message of the topic `events`.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    after: Fields,
}

/// Fields of the topic's `before` and `after`, and of the API's events.
#[derive(Deserialize)]
struct Fields {
    id: String,
    camera: String,
    label: String,
    start_time: Option<f64>,
    end_time: Option<f64>,
    false_positive: Option<bool>,
    has_snapshot: Option<bool>,
    snapshot: Option<Snapshot>,
}

#[derive(Deserialize)]
struct Snapshot {
    frame_time: Option<f64>,
}

impl Event {
    /// Parses a message of the topic `events`. The error tells the operator why it is none.
    pub fn of_message(message: &[u8]) -> Result<Self, String> {
        if message.len() > MAX_MESSAGE {
            return Err(format!(
                "the message has {} bytes, more than an event of Frigate ever has",
                message.len()
            ));
        }
        let parsed: Message = serde_json::from_slice(message)
            .map_err(|error| format!("the message is no event of Frigate: {error}"))?;
        let mut event = Self::of_fields(parsed.after)?;
        event.ended |= parsed.kind == "end";
        Ok(event)
    }

    /// Parses a list of the API. Events that make no sense are left out and counted.
    pub fn of_list(body: &[u8]) -> Result<(Vec<Self>, usize), String> {
        let listed: Vec<serde_json::Value> =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let all = listed.len();
        let events: Vec<_> = listed
            .into_iter()
            .filter_map(|value| serde_json::from_value(value).ok())
            .filter_map(|fields| Self::of_fields(fields).ok())
            .collect();
        let left_out = all - events.len();
        Ok((events, left_out))
    }

    fn of_fields(fields: Fields) -> Result<Self, String> {
        for (what, text) in [("id", &fields.id), ("camera", &fields.camera)] {
            if !Origin::is_valid(text) {
                let shown: String = text.chars().take(64).collect();
                return Err(format!(
                    "the message is no event of Frigate: its {what} {shown:?} has other characters \
                     than Frigate gives, or too many"
                ));
            }
        }
        let finite = |time: &f64| time.is_finite() && *time >= 0.0;
        // The beginning of the id is the start, too.
        let of_id = || fields.id.split('-').next()?.parse().ok();
        let start = fields.start_time.or_else(of_id).filter(finite);
        Ok(Self {
            start: start.ok_or("the message is no event of Frigate: it has no start_time")?,
            id: fields.id,
            camera: fields.camera,
            label: fields.label,
            ended: fields.end_time.is_some(),
            false_positive: fields.false_positive.unwrap_or_default(),
            has_snapshot: fields.has_snapshot.unwrap_or_default(),
            best: fields
                .snapshot
                .and_then(|snapshot| snapshot.frame_time)
                .filter(finite),
        })
    }

    /// Returns the start that an event's id begins with, seconds since 1970.
    pub fn start_of(id: &str) -> Option<f64> {
        let start: f64 = id.split('-').next()?.parse().ok()?;
        (start.is_finite() && start >= 0.0).then_some(start)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(kind: &str) -> serde_json::Value {
        json!({
            "type": kind,
            "before": {"id": "ignored"},
            "after": {
                "id": "1607123955.475377-mxklsc", "camera": "front_door", "label": "person",
                "sub_label": ["Anna", 0.79], "start_time": 1607123955.475377, "end_time": null,
                "false_positive": false, "has_snapshot": true, "snapshot": {"frame_time": 1.5},
                "box": [1, 2, 3, 4], "entered_zones": ["yard"],
            },
        })
    }

    #[test]
    fn an_event_is_read_from_message_and_list() {
        let event = Event::of_message(message("new").to_string().as_bytes()).unwrap();
        assert_eq!(event.id, "1607123955.475377-mxklsc");
        assert_eq!((event.start, event.best), (1607123955.475377, Some(1.5)));
        assert!(event.has_snapshot && !event.ended && !event.false_positive);
        assert_eq!(Event::start_of(&event.id), Some(event.start));
        assert!(
            Event::of_message(message("end").to_string().as_bytes())
                .unwrap()
                .ended
        );
        let list = json!([
            {"id": "12.5-a", "camera": "c", "label": "person", "start_time": 12.5, "end_time": 13.0,
             "false_positive": null, "has_snapshot": true, "data": {}},
            {"id": "12.5-a/../x", "camera": "c", "label": "person", "start_time": 12.5},
            7,
        ]);
        let (events, left_out) = Event::of_list(list.to_string().as_bytes()).unwrap();
        assert_eq!((events.len(), left_out), (1, 2));
        assert!(events[0].ended && events[0].best.is_none());
    }

    #[test]
    fn a_message_that_is_no_event_is_refused_with_a_reason() {
        let mut wrong = message("new");
        wrong["after"]["camera"] = "front door".into();
        let mut timeless = message("new");
        timeless["after"]["start_time"] = serde_json::Value::Null;
        timeless["after"]["id"] = "x".into();
        for (text, part) in [
            (String::new(), "no event"),
            ("[]".into(), "no event"),
            ("{\"type\":\"new\"}".into(), "after"),
            (wrong.to_string(), "its camera \"front door\""),
            (timeless.to_string(), "start_time"),
            (" ".repeat(MAX_MESSAGE + 1), "bytes"),
            ("[".repeat(100_000), "no event"),
        ] {
            let why = Event::of_message(text.as_bytes()).unwrap_err();
            assert!(why.contains(part), "{part}: {why}");
        }
    }
}
