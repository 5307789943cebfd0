//! Sightings: one person, or one unknown face, seen by one source without a gap.

pub mod identity;
pub mod joining;
pub mod presence;
