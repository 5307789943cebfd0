//! From a claimed image to its result: read, recognise behind the circuit breaker, match.

pub mod dispatcher;
pub mod facerecog;
pub mod queued_files;
pub mod reader;

pub use dispatcher::{Dispatcher, Identifier};
pub use facerecog::Facerecog;
pub use queued_files::Looker;
pub use reader::{Reader, read_below, read_given};
