//! Tests of the router with a real store in a temporary folder, without a socket.

mod pages;

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::visitor::Visitor;
use super::{View, api, dress, router};
use crate::config::Config;
use crate::domain::{
    EngineRole, Identified, IdentifiedFace, NamedCandidate, NewImage, Origin, Outcome, Source,
};
use crate::engines::{self, Engines};
use crate::people::People;
use crate::status::cameras::{CameraCounts, Cameras, FollowCounts};
use crate::status::disk::Disk;
use crate::status::health::{Condition, Health};
use crate::store::{End, EnrolledPicture, Limits, NewRejected, Store};

const HOSTILE: &str = "<script>alert('x')</script>&\"";
const ESCAPED: &str = "&#60;script&#62;alert(&#39;x&#39;)&#60;/script&#62;&#38;&#34;";

struct Site {
    web: View,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        let stop = CancellationToken::new();
        let disk = Disk {
            folder: folder.path().into(),
            reserve_bytes: 7,
            store: store.clone(),
        };
        let settings = engines::Settings::of(&Config::default(), folder.path());
        let (engines, _) = Engines::new(settings, Health::default(), None);
        let people = People::new(store.clone(), engines, folder.path(), "board-7");
        let web = View {
            store,
            people,
            disk,
            board: crate::status::thermal::Board::at(folder.path()),
            camera_counts: Cameras::default(),
            sightings: crate::sightings::Counts::default(),
            targets: crate::status::targets::Targets::default(),
            health: Health::default(),
            clock: Arc::new(|| 1_000_000),
            gap: Duration::from_secs(60),
            device: "board-7".into(),
            cameras: Arc::new(["yard".into()]),
            topic: "kithd/board-7/image/post".into(),
            document: Arc::default(),
            stop: stop.clone(),
        };
        Self {
            web,
            stop,
            _folder: folder,
        }
    }

    async fn ask(&self, method: &str, url: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (api, _) = api::reading(self.web.clone()).split_for_parts();
        dress(router(self.web.clone()).merge(api))
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap()
    }

    /// Returns a page as a logged-in visitor gets it.
    async fn page_as_admin(&self, url: &str) -> String {
        let mut request = Request::get(url).body(Body::empty()).unwrap();
        request.extensions_mut().insert(Visitor {
            csrf: Some("one/two".into()),
        });
        let response = dress(router(self.web.clone()))
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{url}");
        text(response).await
    }

    async fn get(&self, url: &str) -> (StatusCode, String) {
        let response = self.ask("GET", url, &[]).await;
        (response.status(), text(response).await)
    }

    async fn json(&self, url: &str) -> Value {
        let (status, body) = self.get(url).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn accept(&self, path: &str) -> i64 {
        self.accept_image(NewImage::path(Source::Http, path)).await
    }

    /// Accepts a picture of a camera, of one event.
    async fn accept_of(&self, camera: &str) -> i64 {
        let origin = Origin {
            camera: Some(camera.into()),
            event: Some("17.5-ab".into()),
        };
        let path = format!("{camera} 1.jpg");
        let image = NewImage::path(Source::Frigate, path);
        self.accept_image(NewImage { origin, ..image }).await
    }

    async fn accept_image(&self, image: NewImage) -> i64 {
        self.web
            .store
            .accept(vec![image], Limits::NONE, 0, 1_795_418_465_000, true)
            .await
            .unwrap()
            .unwrap()[0]
            .id
    }

    async fn end(&self) -> Arc<End> {
        let claimed = self.web.store.claim(1, true, 1).await.unwrap().0.remove(0);
        Arc::new(End {
            id: claimed.id,
            attempts: claimed.attempts,
            finished_at_ms: 1_795_418_466_000,
            duration_ms: 84,
            result_id: format!("result-{}", claimed.id),
            supersedes: None,
            device: "board".into(),
            judged_by: None,
            publish: true,
        })
    }

    /// Accepts an image and finishes it with one face of an enrolled person.
    async fn recognise(&self, path: &str, person: &str) -> i64 {
        let picture = EnrolledPicture {
            image_name: "a.jpg".into(),
            sha256: "00".into(),
            picture: b"a".to_vec(),
            bounds: [0.0; 4],
            quality: 0.9,
            crop: b"crop".to_vec(),
            embedding: vec![0.0; 4],
            space: "space".into(),
        };
        self.web
            .store
            .enroll(person.into(), picture)
            .await
            .unwrap()
            .unwrap();
        let id = self.accept(path).await;
        let candidate = NamedCandidate {
            person_id: 1,
            name: person.into(),
            distance: Some(0.41),
        };
        let face = IdentifiedFace {
            bounds: [10.0, 20.0, 110.4, 120.0],
            landmarks: [[0.0; 2]; 5],
            score: 0.99,
            quality: 0.7,
            objection: Some("The face is too dark.".into()),
            outcome: Outcome::Known,
            person: Some(candidate.clone()),
            distance: Some(0.41),
            margin: Some(0.2),
            candidates: vec![candidate],
            embedding: vec![0.0; 4],
            enrolled_image: None,
            crop: b"crop".to_vec(),
        };
        let identified = Identified {
            timings: None,
            outcome: Outcome::Known,
            size: Some((400, 300)),
            faces: vec![face],
            thumbnail: b"thumbnail".to_vec(),
            remark: None,
            role: EngineRole::Primary,
            engine: "pack int8 cpu".into(),
            space: "space".into(),
            picture_key: "ab".into(),
        };
        assert!(
            self.web
                .store
                .finish(self.end().await, Arc::new(identified))
                .await
                .unwrap()
        );
        self.web.store.settle().await.unwrap();
        id
    }
}

async fn text(response: Response) -> String {
    String::from_utf8(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .to_vec(),
    )
    .unwrap()
}

#[tokio::test]
async fn pages_and_the_api_walk_through_all_images_by_cursor() {
    let site = Site::new();
    for number in 0..120 {
        site.accept(&format!("/in/{number}.jpg")).await;
    }
    let (_, first) = site.get("/").await;
    assert_eq!(first.matches("<tr id=").count(), 50);
    assert!(
        first.contains("href=\"./?cursor=71\"")
            && first.contains("id=\"images\" aria-label=\"Images\" data-live")
    );
    let (_, last) = site.get("/?cursor=21").await;
    assert_eq!(last.matches("<tr id=").count(), 20);
    assert!(
        last.contains("This is the oldest image.")
            && !last.contains("aria-label=\"Images\" data-live")
    );

    let (mut url, mut ids) = ("/v1/images?limit=50".to_owned(), Vec::new());
    loop {
        let page = site.json(&url).await;
        ids.extend(
            page["images"]
                .as_array()
                .unwrap()
                .iter()
                .map(|image| image["id"].as_i64().unwrap()),
        );
        let Some(next) = page["next_cursor"].as_i64() else {
            break;
        };
        url = format!("/v1/images?limit=50&cursor={next}");
    }
    assert_eq!(ids, (1..=120).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn errors_are_problem_details_in_the_api_and_sentences_on_pages() {
    let site = Site::new();
    for (method, url, status) in [
        ("GET", "/v1/images/7", 404),
        ("GET", "/v1/images/7/thumbnail.jpg", 404),
        ("GET", "/v1/images/7/faces/1.jpg", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/images/seven", 400),
        ("GET", "/v1/images/-1", 400),
        ("GET", "/v1/images/%FF", 400),
        ("GET", "/v1/images/7/faces/0.jpg", 400),
        ("GET", "/v1/images?limit=0", 400),
        ("GET", "/v1/images?limit=501", 400),
        ("GET", "/v1/images?cursor=x", 400),
        ("GET", "/v1/images?limt=5", 400),
        ("DELETE", "/v1/images", 405),
    ] {
        let response = site.ask(method, url, &[]).await;
        assert_eq!(response.status().as_u16(), status, "{url}");
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json",
            "{url}"
        );
        let problem: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(problem["status"], status);
        assert!(
            problem["detail"].as_str().unwrap().ends_with('.'),
            "{problem}"
        );
    }
    for (url, status) in [
        ("/images/7", 404),
        ("/images/x", 400),
        ("/images/%FF", 400),
        ("/?cursor=x", 400),
        ("/nothing", 404),
    ] {
        let response = site.ask("GET", url, &[("accept", "text/html")]).await;
        assert_eq!(response.status().as_u16(), status, "{url}");
        assert!(text(response).await.contains("All images"));
    }
}

#[tokio::test]
async fn every_answer_forbids_foreign_code_and_pages_hold_none() {
    let site = Site::new();
    site.recognise("/in/a.jpg", "Hannibal").await;
    for url in ["/", "/images/1", "/v1/images", "/nothing", "/healthz"] {
        let response = site.ask("GET", url, &[]).await;
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
            "{url}"
        );
        assert_eq!(
            response.headers()[header::X_CONTENT_TYPE_OPTIONS],
            "nosniff"
        );
        let page = text(response).await;
        assert!(
            !page.contains(" style=") && !page.contains(" onclick=") && !page.contains("<style"),
            "{url}"
        );
    }
}

#[tokio::test]
async fn assets_are_kept_for_good_under_a_name_that_changes_with_them() {
    let site = Site::new();
    let (_, page) = site.get("/").await;
    for (start, kind) in [
        ("/assets/style-", "text/css; charset=utf-8"),
        ("/assets/app-", "text/javascript; charset=utf-8"),
    ] {
        let at = page.find(start).unwrap();
        let url = page[at..].split('"').next().unwrap();
        let response = site.ask("GET", url, &[]).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], kind);
        assert!(
            response.headers()[header::CACHE_CONTROL]
                .to_str()
                .unwrap()
                .contains("immutable")
        );
    }
    assert_eq!(
        site.get("/assets/style-0.css").await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn readiness_speaks_for_the_intake_and_health_only_for_the_loop() {
    let site = Site::new();
    assert_eq!(site.get("/healthz").await.0, StatusCode::OK);
    assert_eq!(site.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    site.web
        .health
        .set("intake", Condition::Ok, "Pictures are accepted.");
    assert_eq!(
        site.get("/readyz").await,
        (StatusCode::OK, "Pictures are accepted.\n".into())
    );
    site.web
        .health
        .set("intake", Condition::Degraded, "The disk is full.");
    assert_eq!(
        site.get("/readyz").await,
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "The disk is full.\n".into()
        )
    );
    let status = site.json("/v1/status").await;
    assert_eq!(status["parts"]["intake"]["condition"], "degraded");
    assert_eq!(status["device"], "board-7");
}

#[tokio::test]
async fn metrics_name_every_state_and_counters_end_in_total() {
    let site = Site::new();
    site.accept("/in/a.jpg").await;
    site.web
        .health
        .set("mqtt", Condition::Degraded, "no broker");
    site.accept_of("front").await;
    let follow = FollowCounts {
        looked: 4,
        tracks: 1,
        ended: [3, 0, 2],
    };
    let counts = CameraCounts {
        frames: 90,
        broken: 1,
        dropped: 7,
        restarts: 2,
        trouble: Some("too slow for its rate"),
        follow: Some(follow),
    };
    site.web.camera_counts.set("front", counts);
    site.web.camera_counts.set("yard", CameraCounts::default());
    let (_, metrics) = site.get("/metrics").await;
    for line in [
        "# TYPE kithd_camera_pictures_total counter",
        "kithd_camera_pictures_total{camera=\"front\"} 1",
        "kithd_camera_pictures_total{camera=\"yard\"} 0",
        "kithd_camera_frames_total{camera=\"front\"} 90",
        "kithd_camera_frames_broken_total{camera=\"front\"} 1",
        "kithd_camera_frames_dropped_total{camera=\"front\"} 7",
        "kithd_camera_restarts_total{camera=\"front\"} 2",
        "kithd_camera_trouble{camera=\"front\",trouble=\"too slow for its rate\"} 1",
        "kithd_camera_trouble{camera=\"yard\",trouble=\"none\"} 1",
        "kithd_camera_looks_total{camera=\"front\"} 4",
        "kithd_camera_tracks{camera=\"front\"} 1",
        "kithd_camera_tracks_ended_total{camera=\"front\",outcome=\"unknown\"} 2",
        "# TYPE kithd_store_commits_total counter",
        "kithd_store_commits_total 2",
        "kithd_images{state=\"pending\"} 2",
        "kithd_images{state=\"failed\"} 0",
        "kithd_part_degraded{part=\"mqtt\"} 1",
        "kithd_results_unsent 0",
        "kithd_people 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} is missing in {metrics}"
        );
    }
}

/// The stream ends with the server.
#[tokio::test]
async fn an_open_page_hears_of_changes_at_most_twice_a_second() {
    let site = Site::new();
    let mut events = site
        .ask("GET", "/events", &[])
        .await
        .into_body()
        .into_data_stream();
    let told = |event: Option<Result<Bytes, axum::Error>>| {
        String::from_utf8(event.unwrap().unwrap().to_vec())
            .unwrap()
            .contains("event: changed\ndata: ")
    };
    assert!(
        told(events.next().await),
        "at once: the page is older than its stream"
    );
    assert!(
        tokio::time::timeout(Duration::from_millis(700), events.next())
            .await
            .is_err(),
        "nothing changed"
    );
    for number in 0..5 {
        site.accept(&format!("/in/{number}.jpg")).await;
    }
    let started = tokio::time::Instant::now();
    assert!(told(events.next().await));
    site.web
        .health
        .set("mqtt", Condition::Degraded, "no broker");
    assert!(told(events.next().await));
    assert!(
        started.elapsed() >= Duration::from_millis(490),
        "{:?}",
        started.elapsed()
    );
    site.stop.cancel();
    assert!(events.next().await.is_none());
}
