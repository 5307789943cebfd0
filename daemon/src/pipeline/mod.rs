//! From a claimed image to its result: read, recognise behind the circuit breaker, match.

pub mod dispatcher;
pub mod facerecog;
pub mod faces;
pub mod queued_files;
pub mod reader;

pub use dispatcher::{Dispatcher, identify};
pub use facerecog::Origin;
pub use faces::face_desk;
pub use queued_files::Looker;
pub use reader::{Reader, read_below, read_given};
