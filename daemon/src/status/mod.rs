//! State of the board for page, API, MQTT, metrics and systemd. No decision depends on it.

pub mod cameras;
pub mod disk;
pub mod health;
pub mod heartbeat;
pub mod history;
pub mod notify;
pub mod targets;
pub mod thermal;
