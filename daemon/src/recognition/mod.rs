//! From a claimed image to its result: read → breaker → engine → matcher; and from a picture to an
//! enrolled person.

mod breaker;
mod calibration;
mod child;
mod client;
mod dispatcher;
mod enroll;
mod faces;
mod guard;
mod known_people;
mod look;
mod matcher;
mod origin;
mod people;
mod reader;
mod relabel;
mod resemblance;
mod slot;
mod start;
mod strangers;

pub use calibration::{calibrate, gallery_desk};
pub use client::Picture;
pub use dispatcher::{Dispatcher, file_name, identify};
pub use enroll::{Enroller, Enrolment, Report};
pub use faces::face_desk;
pub use guard::{Books, Guard, GuardSettings};
pub use known_people::person_of;
pub use look::Looker;
pub use matcher::Matcher;
pub use origin::Origin;
pub use people::{Forgotten, Imported, Restored};
pub use reader::{Reader, read_below, read_given};
pub use relabel::{NamedStranger, RelabelError};
pub use slot::Deadlines;
pub use start::{Ready, ReadyWatch, Start, start};
pub use strangers::Strangers;
