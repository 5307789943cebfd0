//! Output to MQTT (the outbox of results and sightings, presence, the board's retained health, Home
//! Assistant's discovery); notifications by webhooks and ntfy.

pub mod former_names;
pub mod health;
pub mod homeassistant;
pub mod notify;
pub mod outbox;
pub mod presence;
