//! Parts of kithd that the crate `kithd-bench` measures from inside or makes databases with. Not an
//! interface for other programs: it changes with kithd.

// The networks in its own process, beside the engine's process.
pub use crate::allocator::OF_A_CHILD;
pub use crate::cli::bench::pictures::one_face;
pub use crate::cli::bench::stages::{
    NetworkRow, STAGES, Stages, median, network_rows, on_cores, shortest,
};
pub use crate::engine_process::{Engine, FoundFace, Recogniser, load_pack};
pub use crate::engines::{Picture, client::Client};
// The cost of processes.
pub use crate::child::cpu_and_group;
// The precision, the pack and the device of a configuration.
pub use crate::config::Config;
// A database as after years.
pub use crate::domain::{Moment, wall_clock_ms};
pub use crate::store::{DATABASE, complete_names, open_writable, vector_to_blob};
// Sightings of simulated visits.
pub use crate::config::Judging;
pub use crate::domain::{Outcome, PersonId};
pub use crate::people::Matcher;
pub use crate::sightings::{identity, joining};
pub use crate::store::GalleryRow;
// Boards of a simulated fleet, their databases and their exchange with a broker.
pub use crate::fleet::{clock, code, handle, record, seal, standing, sync};
pub use crate::store::{
    Captured, Did, FleetCounts, Membership, Now, Question, RecordSum, Store, Taken, Unsent,
};
