//! The engine's side of `recognizer.proto`: each request runs on its own thread, every error is a
//! status and a sentence. The caller judges the replies.

use std::sync::{Arc, OnceLock};

use tonic::{Request, Response, Status};

use super::{Engine, EngineError, FoundFace, Reply, StageTimes};
use crate::rpc::recognizer::recognizer_server::Recognizer;
use crate::rpc::recognizer::{
    DescribeRequest, Description, Face, HealthCheckReply, HealthCheckRequest, PrecisionTiming,
    RecognizeReply, RecognizeRequest, StageTimes as Times, recognize_request::Picture,
};

/// gRPC service of one engine.
pub struct Service {
    engine: Engine,
    description: Description,
    timed: Arc<OnceLock<Timed>>,
}

/// The precisions timed on this board.
pub struct Timed {
    /// Timing of each precision on offer.
    pub timings: Vec<PrecisionTiming>,
    /// The precision advised for this board.
    pub advised: String,
}

impl Service {
    /// Makes the service of a loaded engine; `timed` is filled in when the timing is done, if it is
    /// requested at all.
    pub fn new(engine: Engine, confinement: String, timed: Arc<OnceLock<Timed>>) -> Self {
        let description = Description {
            device: engine.device().to_string(),
            pack: engine.pack().id().into(),
            runtime: kith_vision::RUNTIME_VERSION.into(),
            precision: engine.precision().to_string(),
            threads: engine.threads() as u32,
            space: engine.pack().space().into(),
            dimension: engine.pack().dimension() as u32,
            confinement,
            timings: Vec::new(),
            advised_precision: String::new(),
        };
        Self {
            engine,
            description,
            timed,
        }
    }
}

#[tonic::async_trait]
impl Recognizer for Service {
    async fn recognize(
        &self,
        request: Request<RecognizeRequest>,
    ) -> Result<Response<RecognizeReply>, Status> {
        let request = request.into_inner();
        let bytes = match request.picture {
            Some(Picture::Content(bytes)) => bytes,
            Some(Picture::Path(_)) => {
                return Err(Status::unimplemented(
                    "this engine has no file system; send the picture's bytes",
                ));
            }
            None => return Err(Status::invalid_argument("the request holds no picture")),
        };
        match self.engine.recognise(bytes, request.faces_only).await {
            Ok(reply) => Ok(Response::new(reply.into())),
            Err(EngineError::Unreadable(why)) => Err(Status::invalid_argument(why)),
            Err(EngineError::Failed(why)) => Err(Status::internal(why)),
        }
    }

    async fn health_check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckReply>, Status> {
        Ok(Response::new(HealthCheckReply { ready: true }))
    }

    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<Description>, Status> {
        let mut description = self.description.clone();
        if let Some(timed) = self.timed.get() {
            description.timings.clone_from(&timed.timings);
            description.advised_precision.clone_from(&timed.advised);
        }
        Ok(Response::new(description))
    }
}

impl From<Reply> for RecognizeReply {
    fn from(reply: Reply) -> Self {
        Self {
            width: reply.size.0,
            height: reply.size.1,
            faces: reply.faces.into_iter().map(Face::from).collect(),
            thumbnail: reply.thumbnail,
            remark: reply.remark.unwrap_or_default(),
            times: Some(reply.times.into()),
        }
    }
}

impl From<FoundFace> for Face {
    fn from(face: FoundFace) -> Self {
        let [left, top, right, bottom] = face.bounds;
        Self {
            left,
            top,
            right,
            bottom,
            landmarks: face.landmarks.concat(),
            score: face.score,
            quality: face.quality,
            objection: face.objection.unwrap_or_default(),
            embedding: face.embedding,
            crop: face.crop,
        }
    }
}

impl From<StageTimes> for Times {
    fn from(times: StageTimes) -> Self {
        let micros = |duration: std::time::Duration| duration.as_micros() as u64;
        Self {
            decode: micros(times.decode),
            detect: micros(times.detect),
            align: micros(times.align),
            embed: micros(times.embed),
            encode: micros(times.encode),
        }
    }
}
