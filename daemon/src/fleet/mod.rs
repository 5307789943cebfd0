//! Boards that share their people: one fleet.
//!
//! Pure: a fleet's people are a set of records (`record`), ordered by a clock of their own (`clock`);
//! who is who follows from them (`standing`). A record travels sealed (`seal`), and a board joins
//! with a code (`code`). Not for tables or messages.

pub mod clock;
pub mod code;
pub mod record;
pub mod seal;
pub mod standing;

#[cfg(test)]
mod histories;
