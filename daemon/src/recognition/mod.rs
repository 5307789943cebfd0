//! From a claimed image to its result: read → engine → matcher; and from a picture to an enrolled person.

mod dispatcher;
mod enroll;
mod matcher;
mod reader;
mod start;

pub use dispatcher::{Dispatcher, file_name, identify};
pub use enroll::{Enroller, Enrolment, PEOPLE, Report, person_of};
pub use matcher::Matcher;
pub use reader::{Reader, read_given};
pub use start::{Ready, ReadyWatch, start};
