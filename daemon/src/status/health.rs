//! Health of each part of the board, for the page, the API, MQTT health and `kithd status`.
//!
//! Each part sets its own line; no decision depends on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::domain::wall_clock_ms;

/// Condition of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Not ready yet.
    Starting,
    /// Works.
    Ok,
    /// Not working now; it keeps retrying.
    Degraded,
    /// Switched off in the configuration.
    Off,
}

impl Condition {
    /// Returns the API's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Off => "off",
        }
    }
}

/// State of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Part {
    /// Condition of the part.
    pub condition: Condition,
    /// A sentence for the operator.
    pub text: String,
}

/// Last trouble of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Wall clock.
    pub at_ms: i64,
    /// Its text at that time.
    pub text: String,
}

/// State of every part by name ("engine", "mqtt", "intake", "database"); clones share it.
#[derive(Clone, Default)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<&'static str, Part>>>,
    troubles: Arc<Mutex<BTreeMap<&'static str, Trouble>>>,
    version: watch::Sender<u64>,
    faults: Arc<AtomicU64>,
}

impl Health {
    /// Counts a panic that was caught; answers how many there were since the start.
    pub fn count_fault(&self) -> u64 {
        self.faults.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Panics that were caught since the start.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Sets a part's line; true when it differs from the last one.
    pub fn set(&self, name: &'static str, condition: Condition, text: impl Into<String>) -> bool {
        let text = text.into();
        let part = Part {
            condition,
            text: text.clone(),
        };
        let mut parts = self.parts.lock();
        if parts.get(name) == Some(&part) {
            return false;
        }
        parts.insert(name, part);
        drop(parts);
        if condition == Condition::Degraded {
            let trouble = Trouble {
                at_ms: wall_clock_ms(),
                text,
            };
            self.troubles.lock().insert(name, trouble);
        }
        self.version.send_modify(|version| *version += 1);
        true
    }

    /// Forgets the last trouble of a part, whose text named a person.
    pub fn forget_trouble(&self, name: &str) {
        self.troubles.lock().remove(name);
    }

    /// Returns all lines, by name.
    pub fn parts(&self) -> BTreeMap<&'static str, Part> {
        self.parts.lock().clone()
    }

    /// Returns the last trouble of every part that had any since the start, over or not.
    pub fn troubles(&self) -> BTreeMap<&'static str, Trouble> {
        self.troubles.lock().clone()
    }

    /// Notifies whenever a line changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_works_again_still_says_what_its_last_trouble_was() {
        let health = Health::default();
        assert!(health.set("mqtt", Condition::Degraded, "no broker"));
        assert!(health.set("mqtt", Condition::Ok, "connected"));
        assert!(!health.set("mqtt", Condition::Ok, "connected"));
        assert_eq!(health.troubles()["mqtt"].text, "no broker");
        assert_eq!(health.parts()["mqtt"].condition, Condition::Ok);
        assert!(!health.troubles().contains_key("engine"));
    }
}
