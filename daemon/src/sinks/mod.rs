//! Output: the outbox of results, the board's retained health, and Home Assistant's discovery by
//! MQTT; notifications by webhooks and ntfy.

pub mod former_names;
pub mod health;
pub mod homeassistant;
pub mod notify;
pub mod outbox;
