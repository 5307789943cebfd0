//! Serves the origin's gRPC contract, so that an image processor of that system can use this board: a path goes in, the
//! name of the matching enrolled image comes out. Not for the other direction; that is `client`.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::client::NOT_FOUND;
use super::{Reader, ReadyWatch, identify};
use crate::domain::Outcome;
use crate::health::{Condition, Health};
use crate::queue::Failure;
use crate::rpc::facerecog::health_check_server::{HealthCheck, HealthCheckServer};
use crate::rpc::facerecog::identify_server::{Identify, IdentifyServer};
use crate::rpc::facerecog::{Empty, HealthCheckResponse, IdentifyRequest, IdentifyResponse};

/// What the contract's two services work with; clones share it.
#[derive(Clone)]
pub struct Origin {
    /// Opens paths below the configured roots.
    pub reader: Arc<Reader>,
    /// Engines and gallery, once they are up.
    pub ready: ReadyWatch,
}

/// Serves until stopped.
pub async fn serve_origin(
    listener: TcpListener,
    origin: Origin,
    health: Health,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    health.set("facerecog", Condition::Ok, format!("grpc on {address}"));
    tracing::info!("facerecog gRPC contract on {address}");
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(IdentifyServer::new(origin.clone()))
        .add_service(HealthCheckServer::new(origin))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled())
        .await?;
    Ok(())
}

#[tonic::async_trait]
impl Identify for Origin {
    async fn identify(&self, request: Request<IdentifyRequest>) -> Result<Response<IdentifyResponse>, Status> {
        let path = PathBuf::from(request.into_inner().image_path);
        let up = self.ready.borrow().clone().ok_or_else(|| Status::unavailable("the engine is being started"))?;
        let bytes = self.reader.read_path(&path).await.map_err(|failure| status(&failure))?;
        let identified = identify(&up, None, bytes, Some(path)).await.map_err(|failure| status(&failure))?;
        let best = identified.faces.into_iter().next().filter(|face| face.outcome == Outcome::Known);
        let image_name = best.and_then(|face| face.enrolled_image).unwrap_or_else(|| NOT_FOUND.into());
        Ok(Response::new(IdentifyResponse { image_name }))
    }
}

#[tonic::async_trait]
impl HealthCheck for Origin {
    async fn health_check(&self, _: Request<Empty>) -> Result<Response<HealthCheckResponse>, Status> {
        let up = self.ready.borrow().clone();
        Ok(Response::new(HealthCheckResponse { ready: up.is_some_and(|up| up.guard.capacity() > 0) }))
    }
}

fn status(failure: &Failure) -> Status {
    let sentence = failure.verdict().sentence;
    match failure {
        Failure::Unreadable { .. } | Failure::TooLarge { .. } | Failure::NotAFile(_) => {
            Status::invalid_argument(sentence)
        }
        Failure::OutsideRoots(_) => Status::permission_denied(sentence),
        Failure::FileMissing { .. } | Failure::SpoolMissing(_) => Status::not_found(sentence),
        Failure::EngineDied(_) | Failure::EngineFailed(_) | Failure::EngineMalformed(_) => Status::internal(sentence),
        Failure::EngineDeadline { .. } => Status::deadline_exceeded(sentence),
        Failure::RootAbsent { .. }
        | Failure::EngineDiedAmongSeveral(_)
        | Failure::EngineUnreachable(_)
        | Failure::EngineAway(_) => Status::unavailable(sentence),
    }
}
