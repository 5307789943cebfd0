//! Boards that share their people: one fleet.
//!
//! A fleet's people are a set of records (`record`), ordered by a clock of their own (`clock`); who is
//! who follows from them (`standing`). A record travels sealed (`seal`), and a board joins with a
//! code (`code`). All that is pure. `sync` exchanges records with the broker, and `handle` is for
//! the operator. Not for tables.

pub mod clock;
pub mod code;
pub mod handle;
pub mod record;
pub mod seal;
pub mod standing;
pub mod sync;

#[cfg(test)]
mod histories;
