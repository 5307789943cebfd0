//! Output to MQTT: the outbox of results, presence, the board's retained health, and Home Assistant's
//! discovery.

pub mod former_names;
pub mod health;
pub mod homeassistant;
pub mod outbox;
pub mod presence;
