//! Where results go: the outbox to MQTT; the board's retained health; and what Home Assistant is
//! told.

pub mod former_names;
pub mod health;
pub mod homeassistant;
pub mod outbox;
