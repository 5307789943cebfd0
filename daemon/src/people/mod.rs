//! People: enrolled, renamed, merged, erased; strangers grouped; the gallery judged.

pub mod calibration;
pub mod edit;
pub mod enroll;
pub mod folder_names;
pub mod matcher;
pub mod relabel;
pub mod resemblance;
pub mod start;
pub mod strangers;

pub use calibration::{calibrate, gallery_desk};
pub use edit::{Forgotten, Imported, Restored};
pub use enroll::{Enroller, Enrolment, Report};
pub use folder_names::person_of;
pub use matcher::Matcher;
pub use relabel::{NamedStranger, RelabelError};
pub use start::{Ready, ReadyWatch, Start, start};
pub use strangers::Strangers;
