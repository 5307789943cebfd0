//! Where results go: the outbox to MQTT, and the board's retained health.

pub mod health;
pub mod outbox;
