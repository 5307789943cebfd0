//! The state of the board for page, API, MQTT, metrics and systemd. Nothing is decided from it.

pub mod disk;
pub mod health;
pub mod heartbeat;
pub mod history;
pub mod notify;
pub mod thermal;
