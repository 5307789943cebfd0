//! Reasons for not accepting a picture.

use crate::files::disk;
use crate::queue::QueueError;
use crate::store::StoreError;
use kith_pictures::kind::NotAPicture;

/// Reason for not accepting a picture.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The sender must change the request.
    #[error("{0}")]
    Refused(String),
    /// The picture exceeds the size limit.
    #[error("the picture is larger than intake.max_bytes = {limit} bytes")]
    TooLarge {
        /// `intake.max_bytes`.
        limit: usize,
    },
    /// The queue holds as many unfinished images as allowed; retry later.
    #[error(transparent)]
    Full(QueueError),
    /// Waiting camera frames take as many bytes as allowed; retry later.
    #[error(transparent)]
    CameraFull(QueueError),
    /// The data is not a picture: its name, and the reason.
    #[error("{0} {1}")]
    NotAPicture(String, NotAPicture),
    /// The disk reserve is reached; retry later.
    #[error(
        "the disk of the state folder is full: less than intake.disk_reserve is free; nothing is \
         accepted until there is room"
    )]
    DiskReserve,
    /// The disk is full; retry later.
    #[error("the disk of the state folder is full; nothing is accepted until there is room")]
    DiskFull,
    /// The database or the spool folder failed.
    #[error("nothing can be stored: {0}")]
    Storage(String),
}

impl IntakeError {
    /// Returns whether the same submission may succeed later.
    pub fn is_temporary(&self) -> bool {
        !matches!(
            self,
            Self::Refused(_) | Self::TooLarge { .. } | Self::NotAPicture(..)
        )
    }
}

impl From<QueueError> for IntakeError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Full { .. } => Self::Full(error),
            QueueError::CameraFull { .. } => Self::CameraFull(error),
            QueueError::TooMany { .. } | QueueError::KeyReused { .. } => {
                Self::Refused(error.to_string())
            }
            QueueError::Store(StoreError::DiskFull) => Self::DiskFull,
            // The path must not reach clients on the LAN.
            QueueError::Store(StoreError::Io { source, .. }) => (&source).into(),
            other => Self::Storage(other.to_string()),
        }
    }
}

impl From<&std::io::Error> for IntakeError {
    fn from(error: &std::io::Error) -> Self {
        match disk::trouble(error) {
            _ if is_full(error) => Self::DiskFull,
            Some(sentence) => Self::Storage(sentence.into()),
            None => Self::Storage(error.to_string()),
        }
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}
