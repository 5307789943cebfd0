//! The origin's gRPC contract in both directions: its image processor asks this board, and this
//! board asks its service.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

use rpc::health_check_client::HealthCheckClient;
use rpc::health_check_server::{HealthCheck, HealthCheckServer};
use rpc::identify_client::IdentifyClient;
use rpc::identify_server::{Identify, IdentifyServer};
use rpc::{Empty, HealthCheckResponse, IdentifyRequest, IdentifyResponse};

use crate::support::{TestDaemon, wait_for};

/// The generated contract.
#[allow(missing_docs, clippy::all)]
mod rpc {
    tonic::include_proto!("facerecog");
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[test]
fn an_image_processor_of_the_origin_can_ask_this_board() {
    let address = free_address();
    let mut daemon = TestDaemon::new();
    daemon.set("facerecog.listen", &address.to_string());
    daemon.start_with_everybody();
    let runtime = Runtime::new().unwrap();
    let url = format!("http://{address}");
    let mut health = wait_for("the port", || {
        runtime
            .block_on(HealthCheckClient::connect(url.clone()))
            .ok()
    });
    wait_for("readiness", || {
        runtime
            .block_on(health.health_check(Empty {}))
            .unwrap()
            .into_inner()
            .ready
            .then_some(())
    });
    let mut client = runtime.block_on(IdentifyClient::connect(url)).unwrap();
    let mut ask = |path: &str| {
        let request = IdentifyRequest {
            image_path: path.into(),
        };
        runtime
            .block_on(client.identify(request))
            .map(|answer| answer.into_inner().image_name)
    };
    assert_eq!(
        ask(&daemon.put("obama_2.jpg", "a.jpg")).unwrap(),
        "obama_1.jpg"
    );
    assert_eq!(
        ask(&daemon.put("noface.jpg", "b.jpg")).unwrap(),
        "not_found"
    );
    assert_eq!(
        ask("/etc/passwd").unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        ask(&daemon.put_bytes(b"no picture", "c.jpg"))
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
    let absent = daemon.folder.path().join("inbox/absent.jpg");
    assert_eq!(
        ask(absent.to_str().unwrap()).unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        daemon.get("/v1/status")["counts"]["processed"],
        0,
        "asking stores nothing"
    );
    assert_eq!(daemon.kithd(["breaker", "open"]).status.code(), Some(0));
    assert!(
        !runtime
            .block_on(health.health_check(Empty {}))
            .unwrap()
            .into_inner()
            .ready
    );
    assert_eq!(
        ask(&daemon.put("obama_2.jpg", "d.jpg")).unwrap_err().code(),
        Code::Unavailable
    );
    assert_eq!(
        daemon.stop(),
        Some(0),
        "a connected client must not hold up the stop"
    );
}

/// Answers like the origin's service and notes the questions.
#[derive(Clone, Default)]
struct Service {
    asked: Arc<Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl Identify for Service {
    async fn identify(
        &self,
        request: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyResponse>, Status> {
        let path = request.into_inner().image_path;
        let image_name = if path.contains("obama") {
            "obama_1.jpg"
        } else if path.contains("hannibal") {
            "hannibal_2.jpg"
        } else {
            "not_found"
        };
        self.asked.lock().push(path);
        Ok(Response::new(IdentifyResponse {
            image_name: image_name.into(),
        }))
    }
}

#[tonic::async_trait]
impl HealthCheck for Service {
    async fn health_check(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { ready: true }))
    }
}

#[test]
fn this_board_can_ask_a_service_of_the_origin() {
    let (service, address) = (Service::default(), free_address());
    let serve = || {
        let runtime = Runtime::new().unwrap();
        let service = service.clone();
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.unwrap();
            let identify = IdentifyServer::new(service.clone());
            let router = tonic::transport::Server::builder().add_service(identify);
            let router = router.add_service(HealthCheckServer::new(service));
            router
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        runtime
    };
    let running = serve();
    let mut daemon = TestDaemon::new();
    // Obama is enrolled here, hannibal only at the service.
    daemon.enroll_everybody();
    daemon.set("engine.address", &format!("http://{address}"));
    daemon.set("engine.protocol", "facerecog");
    daemon.set("breaker.cool_down", "200ms");
    daemon.set("breaker.longest_cool_down", "1s");
    daemon.start();
    let path = daemon.put("obama_2.jpg", "obama.jpg");
    let known = daemon.ended(daemon.post_path(&path));
    assert_eq!(known["outcome"], "known", "{known}");
    assert_eq!(known["persons"], serde_json::json!(["Barack Obama"]));
    assert!(known["distance"].is_null(), "{known}");
    assert_eq!(service.asked.lock().as_slice(), [path]);
    let there = daemon.ended(daemon.post_path(&daemon.put("noface.jpg", "hannibal.jpg")));
    assert_eq!(there["persons"], serde_json::json!(["hannibal"]));
    let stranger = daemon.ended(daemon.post_path(&daemon.put("noface.jpg", "stranger.jpg")));
    assert_eq!(stranger["outcome"], "unknown", "{stranger}");
    let bytes = std::fs::read(crate::support::photo("noface.jpg")).unwrap();
    let posted = daemon
        .post("/v1/images", &[("content-type", "image/jpeg")], &bytes)
        .1["ids"][0]
        .as_i64()
        .unwrap();
    let refused = daemon.ended(posted);
    assert!(
        refused["reason"]
            .as_str()
            .unwrap()
            .contains("takes paths only"),
        "{refused}"
    );
    assert!(daemon.get_text("/").contains("Barack Obama"));
    // The service goes and comes back: pictures wait and lose nothing.
    running.shutdown_background();
    let waiting: Vec<i64> = (0..8)
        .map(|n| daemon.post_path(&daemon.put("noface.jpg", &format!("obama{n}.jpg"))))
        .collect();
    wait_for("the breaker to open and a ping to fail", || {
        (daemon.get("/v1/breaker")["breaker"]["pings_failed"] != 0).then_some(())
    });
    let _running = serve();
    waiting
        .iter()
        .for_each(|id| assert_eq!(daemon.ended(*id)["outcome"], "known"));
}
