//! Serves the gRPC contract of the system kithd descends from, so that its image processors can use
//! this board: a path comes in, the name of the matching enrolled image goes out. `engines::client`
//! is the other direction.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::domain::{EngineErrorKind, Outcome};
use crate::engines::client::NOT_FOUND;
use crate::people::People;
use crate::pipeline::{Identifier, Reader};
use crate::queue::Failure;
use crate::rpc::facerecog::health_check_server::{HealthCheck, HealthCheckServer};
use crate::rpc::facerecog::identify_server::{Identify, IdentifyServer};
use crate::rpc::facerecog::{Empty, HealthCheckResponse, IdentifyRequest, IdentifyResponse};

/// Largest request, which is a path.
const REQUEST_BYTES: usize = 8 << 10;

/// Everything that the contract's two services need; clones share it.
#[derive(Clone)]
pub struct Facerecog {
    reader: Arc<Reader>,
    people: People,
}

impl Facerecog {
    /// Makes the services: `reader` opens the paths, `people` has engines and gallery once they are
    /// up.
    pub fn new(reader: Arc<Reader>, people: People) -> Self {
        Self { reader, people }
    }

    /// Returns the routes of the contract.
    pub fn routes(self) -> Router {
        let identify = IdentifyServer::new(self.clone()).max_decoding_message_size(REQUEST_BYTES);
        let health = HealthCheckServer::new(self).max_decoding_message_size(REQUEST_BYTES);
        Routes::new(identify).add_service(health).into_axum_router()
    }
}

#[tonic::async_trait]
impl Identify for Facerecog {
    async fn identify(
        &self,
        request: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        let path = PathBuf::from(request.into_inner().image_path);
        let identifier = Identifier::of(&self.people).map_err(|failure| status(&failure))?;
        let admission = identifier
            .engines
            .admit()
            .await
            .map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
        let bytes = self
            .reader
            .read_path(&path)
            .await
            .map_err(|failure| status(&failure))?;
        let identified = identifier
            .identify(&admission, None, bytes, Some(path))
            .await
            .map_err(|failure| status(&failure))?;
        let best = identified
            .faces
            .into_iter()
            .next()
            .filter(|face| face.outcome == Outcome::Known);
        let image_name = best
            .and_then(|face| face.enrolled_image)
            .unwrap_or_else(|| NOT_FOUND.into());
        Ok(Response::new(IdentifyResponse { image_name }))
    }
}

#[tonic::async_trait]
impl HealthCheck for Facerecog {
    async fn health_check(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let loaded = self.people.matcher().is_ok();
        Ok(Response::new(HealthCheckResponse {
            ready: loaded && self.people.engines.capacity() > 0,
        }))
    }
}

fn status(failure: &Failure) -> Status {
    let sentence = failure.verdict().sentence;
    match failure {
        Failure::Unreadable { .. } | Failure::TooLarge { .. } | Failure::NotAFile { .. } => {
            Status::invalid_argument(sentence)
        }
        Failure::OutsideRoots(_) | Failure::Link(_) => Status::permission_denied(sentence),
        Failure::FileMissing { .. } | Failure::SpoolMissing(_) => Status::not_found(sentence),
        Failure::RootAbsent { .. } => Status::unavailable(sentence),
        Failure::Fault(_) => Status::internal(sentence),
        Failure::Engine(error) => match error.kind {
            EngineErrorKind::Unreadable => Status::invalid_argument(sentence),
            EngineErrorKind::Died { lone: true }
            | EngineErrorKind::Failed
            | EngineErrorKind::Malformed => Status::internal(sentence),
            EngineErrorKind::TimedOut { .. } => Status::deadline_exceeded(sentence),
            EngineErrorKind::Died { lone: false }
            | EngineErrorKind::Unreachable
            | EngineErrorKind::Aborted
            | EngineErrorKind::NotStarted
            | EngineErrorKind::WrongAnswer => Status::unavailable(sentence),
        },
    }
}
