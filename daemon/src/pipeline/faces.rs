//! Answers those who have several pictures and want to know in which of them a face is. Nothing is
//! kept, nobody named.

use std::sync::Arc;

use bytes::Bytes;

use crate::engines::client::{Answer, Picture};
use crate::engines::status::{FaceDesk, NoAnswer};
use crate::people::start::ReadyWatch;
use crate::queue::Failure;

/// The door to the engine behind its circuit breaker.
pub fn face_desk(ready: ReadyWatch) -> FaceDesk {
    FaceDesk {
        best_face: Arc::new(move |bytes| Box::pin(best_face(ready.clone(), bytes))),
    }
}

async fn best_face(ready: ReadyWatch, bytes: Bytes) -> Result<Option<f32>, NoAnswer> {
    let up = ready
        .borrow()
        .clone()
        .ok_or_else(|| NoAnswer::Away("the engine is being started".into()))?;
    match up
        .guard
        .recognise(None, &Picture { bytes, path: None })
        .await
    {
        Ok(recognised) => match recognised.answer {
            Answer::Faces(reply) => Ok(reply
                .faces
                .iter()
                .map(|face| face.quality)
                .max_by(f32::total_cmp)),
            Answer::Name(_) => Err(NoAnswer::Away(
                "the configured engine does not tell where faces are".into(),
            )),
        },
        Err(Failure::Unreadable { why, .. }) => Err(NoAnswer::Unreadable(why)),
        Err(failure) => Err(NoAnswer::Away(failure.verdict().sentence)),
    }
}
