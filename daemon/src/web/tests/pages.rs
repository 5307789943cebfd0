//! Pages: tables, details, forms, and what hostile names do to them.

use super::*;
use crate::store::fixtures::{run, sighting};

#[tokio::test]
async fn an_empty_table_says_how_to_send_the_first_picture() {
    let site = Site::new();
    let page = text(
        site.ask("GET", "/", &[("host", "board-7.local:8000")])
            .await,
    )
    .await;
    assert!(
        page.contains("http://board-7.local:8000/v1/images"),
        "{page}"
    );
    assert!(page.contains("kithd/board-7/image/post"));
    site.web
        .health
        .set("mqtt", Condition::Off, "MQTT is switched off.");
    assert!(
        !site.get("/").await.1.contains("mosquitto_pub"),
        "what is switched off is not promised"
    );
    assert!(page.contains("kithd enroll"));
    let page = text(site.ask("GET", "/", &[("host", "evil\"<x>")]).await).await;
    assert!(page.contains("http://127.0.0.1:8000/v1/images") && !page.contains("evil"));
}

#[tokio::test]
async fn the_table_shows_every_column_and_hostile_names_stay_text() {
    let site = Site::new();
    let id = site.recognise(&format!("/in/{HOSTILE}.jpg"), HOSTILE).await;
    site.accept("/in/broken.jpg").await;
    site.web
        .store
        .fail(site.end().await, format!("cut short {HOSTILE}"))
        .await
        .unwrap();
    site.web.store.settle().await.unwrap();
    let rejected = NewRejected {
        topic: HOSTILE.into(),
        reason: "not JSON".into(),
        content_type: Some(HOSTILE.into()),
        payload: HOSTILE.into(),
        file: None,
    };
    site.web.store.keep_rejected(rejected).await.unwrap();
    site.web.health.set("mqtt", Condition::Degraded, HOSTILE);
    for url in ["/", &format!("/images/{id}")] {
        let (status, page) = site.get(url).await;
        assert_eq!(status, StatusCode::OK);
        assert!(!page.contains("<script>"), "{page}");
        assert!(
            page.contains(&format!("/in/{ESCAPED}.jpg"))
                && page.contains(&format!("<bdi>{ESCAPED}</bdi>"))
        );
    }
    let (_, page) = site.get("/").await;
    for part in [
        "<caption>Newest images</caption>",
        "<th scope=\"col\">Outcome</th>",
        "<th scope=\"row\" class=\"id\"><a href=\"./images/1\">1</a></th>",
        "<span class=\"badge known\">known</span>",
        "<span class=\"state failed\">failed</span>",
        "0.410",
        "84\u{a0}ms",
        "<time datetime=\"2026-11-23T07:21:05.000Z\">2026-11-23 07:21:05 UTC</time>",
        "<strong>mqtt degraded:</strong>",
        "Rejected messages",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(
        page.find("/images/2").unwrap() < page.find("/images/1").unwrap(),
        "newest first"
    );
}

#[tokio::test]
async fn one_image_has_its_faces_crop_and_thumbnail() {
    let site = Site::new();
    let id = site.recognise("/in/a.jpg", "Hannibal").await;
    let image = site.json(&format!("/v1/images/{id}")).await;
    assert_eq!(image["found"][0]["person"], "Hannibal");
    assert_eq!(image["found"][0]["candidates"][0]["name"], "Hannibal");
    assert_eq!(image["found"][0]["objection"], "The face is too dark.");
    assert_eq!(site.json("/v1/people").await["people"][0]["pictures"], 1);
    let (_, page) = site.get(&format!("/images/{id}")).await;
    assert!(
        page.contains("<p class=\"objection\">The face is too dark.</p>"),
        "{page}"
    );
    assert!(
        page.contains("<rect x=\"10\" y=\"20\" width=\"100\" height=\"100\"/>"),
        "{page}"
    );
    assert_eq!(
        site.get(&format!("/v1/images/{id}/faces/1.jpg")).await,
        (StatusCode::OK, "crop".into())
    );

    let url = format!("/v1/images/{id}/thumbnail.jpg");
    let response = site.ask("GET", &url, &[]).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "image/jpeg");
    assert_eq!(
        response.headers()[header::CACHE_CONTROL],
        "private, no-cache"
    );
    let etag = response.headers()[header::ETAG]
        .to_str()
        .unwrap()
        .to_owned();
    let response = site.ask("GET", &url, &[("if-none-match", &etag)]).await;
    assert_eq!(
        (response.status(), text(response).await),
        (StatusCode::NOT_MODIFIED, String::new())
    );
}

#[tokio::test]
async fn no_page_takes_a_name_for_more_than_text_or_holds_code() {
    let site = Site::new();
    let id = site.recognise(&format!("/in/{HOSTILE}.jpg"), HOSTILE).await;
    site.web.health.set("mqtt", Condition::Degraded, HOSTILE);
    let hostile = "%3Cscript%3Ealert%28%27x%27%29%3C%2Fscript%3E%26%22";
    for url in [
        "/people".into(),
        "/people/1".into(),
        format!("/people?name={hostile}"),
        "/strangers".into(),
        "/sightings".into(),
        "/health".into(),
        "/calibration".into(),
        "/api".into(),
        "/docs".into(),
        "/docs/design/breaker".into(),
        format!("/images/{id}?done={hostile}"),
        format!("/?path={hostile}&refused={hostile}"),
    ] {
        for page in [site.get(&url).await.1, site.page_as_admin(&url).await] {
            assert!(
                !page.contains("<script>alert") && !page.contains("&\""),
                "{url}: {page}"
            );
            assert!(
                !page.contains(" style=")
                    && !page.contains(" onclick=")
                    && !page.contains("<style"),
                "{url}"
            );
            // These two pages have tabs of their own.
            let tabs = usize::from(url.starts_with("/strangers") || url.starts_with("/health"));
            assert_eq!(
                page.matches("aria-current=\"page\"").count(),
                1 + tabs,
                "{url}"
            );
        }
    }
    let (_, page) = site.get(&format!("/people?name={hostile}")).await;
    assert!(
        page.contains(&format!("<bdi>{ESCAPED}</bdi>")),
        "who is looked for is found: {page}"
    );
}

#[tokio::test]
async fn forms_are_shown_to_the_logged_in_and_carry_their_proof() {
    let site = Site::new();
    let id = site.recognise("/in/a.jpg", "Hannibal").await;
    for (url, forms) in [
        (
            format!("/images/{id}"),
            &[
                "/images/1/forget",
                "/images/1/faces/1/person",
                "/images/1/faces/1/not-this-person",
            ][..],
        ),
        ("/people".into(), &["/people"]),
        (
            "/people/1".into(),
            &[
                "/people/1/pictures",
                "/people/1/rename",
                "/people/1/forget",
                "/people/1/pictures/1/delete",
            ],
        ),
    ] {
        let (_, page) = site.get(&url).await;
        assert!(
            !page.contains("method=\"post\""),
            "{url} offers a change to everybody: {page}"
        );
        let root = if url == "/people" { "./" } else { "../" };
        assert!(
            page.contains(&format!(
                "href=\"{root}login?next={}\"",
                url.replace('/', "%2F")
            )),
            "{page}"
        );
        assert!(
            !page.contains(" href=\"/") && !page.contains(" action=\"/"),
            "an address from the root: {page}"
        );
        let page = site.page_as_admin(&url).await;
        for form in forms {
            assert!(
                page.contains(&format!(
                    "method=\"post\" action=\"{root}{}?csrf=one%2Ftwo\"",
                    &form[1..]
                )),
                "{form}: {page}"
            );
        }
        assert_eq!(
            page.matches("method=\"post\"").count(),
            page.matches("?csrf=one%2Ftwo\"").count(),
            "{url}"
        );
        assert!(!page.contains("Log in to change this"), "{url}");
    }
}

#[tokio::test]
async fn what_is_not_there_has_a_page_that_says_so() {
    let site = Site::new();
    for (url, status, word) in [
        ("/people/9", 404, "nobody"),
        ("/strangers/9", 404, "no stranger 9"),
        ("/people/x", 400, "whole number"),
        ("/people?after=x", 400, "link on another page"),
        ("/strangers?before=x", 400, "older ones"),
        ("/health?hours=5", 400, "168"),
        ("/?state=done", 400, "state"),
        ("/?person=Ann", 400, "person"),
    ] {
        let answer = site.ask("GET", url, &[("accept", "text/html")]).await;
        let found = answer.status();
        let page = answer.into_body().collect().await.unwrap().to_bytes();
        let page = String::from_utf8(page.to_vec()).unwrap();
        assert_eq!(found.as_u16(), status, "{url}");
        assert!(
            page.contains(word) && page.contains("<h1>"),
            "{url}: {page}"
        );
    }
    // A form that was sent with empty fields filters nothing.
    let (found, _) = site
        .get("/?state=&outcome=&person=&source=&camera=&event=&since=&until=&path=")
        .await;
    assert_eq!(found, StatusCode::OK);
}

#[tokio::test]
async fn pictures_are_searched_by_camera_where_there_are_several() {
    let site = Site::new();
    let select = "<select name=\"camera\">";
    site.accept("/in/a.jpg").await;
    site.accept_of("yard").await;
    // The only camera is the configured one.
    assert!(!site.get("/").await.1.contains(select));
    let id = site.accept_of("front").await;
    let (_, page) = site.get("/?camera=front").await;
    for part in [
        select,
        "<option value=\"front\" selected>front</option>",
        "<option value=\"yard\">yard</option>",
        "<small>frigate front</small>",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(!page.contains("frigate yard") && !page.contains("/in/a.jpg"));
    let (_, page) = site.get("/?event=17.5-ab").await;
    assert!(
        page.contains("<input name=\"event\" value=\"17.5-ab\">"),
        "{page}"
    );
    assert!(page.contains("frigate yard") && page.contains("frigate front"));
    assert!(!page.contains("/in/a.jpg"));
    let (_, page) = site.get(&format!("/images/{id}")).await;
    for part in [
        "<a href=\"../?camera=front\">front</a>",
        "<a href=\"../?event=17.5-ab\">17.5-ab</a>",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    for (url, word) in [("/?camera=a+b", "camera"), ("/?event=%C3%A4", "event")] {
        let (status, page) = site.get(url).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{page}");
        assert!(page.contains(word), "{page}");
    }
}

#[tokio::test]
async fn people_who_come_and_go_repeat_nobody_on_the_next_page() {
    let site = Site::new();
    let enroll = async |name: &str| {
        let picture = EnrolledPicture {
            image_name: "a.jpg".into(),
            sha256: name.into(),
            picture: name.as_bytes().to_vec(),
            bounds: [0.0; 4],
            quality: 0.9,
            crop: b"crop".to_vec(),
            embedding: vec![0.0; 4],
            space: "space".into(),
        };
        site.web
            .store
            .enroll(name.into(), picture)
            .await
            .unwrap()
            .unwrap();
    };
    for number in 0..130 {
        enroll(&format!("Person {number:03}")).await;
    }
    let names = |page: &str| -> Vec<String> {
        page.split("<bdi>Person ")
            .skip(1)
            .map(|rest| rest[..3].to_string())
            .collect()
    };
    let next = |page: &str| {
        let link = page
            .split("href=\"")
            .find(|part| part.contains("rel=\"next\""))?
            .split('"')
            .next()?;
        Some(format!(
            "/{}",
            link.trim_start_matches(['.', '/']).replace("&amp;", "&")
        ))
    };
    let (_, page) = site.get("/people").await;
    let (mut seen, mut link) = (names(&page), next(&page));
    // Before, behind and at the place where the page ended.
    enroll("Person 000a").await;
    enroll("Person 1290").await;
    let gone = site
        .web
        .store
        .person_named("Person 059".into())
        .await
        .unwrap()
        .unwrap();
    site.web.store.erase_person(gone).await.unwrap();
    while let Some(url) = link {
        let (_, page) = site.get(&url).await;
        seen.extend(names(&page));
        link = next(&page);
    }
    let expected: Vec<_> = (0..130)
        .map(|number| format!("{number:03}"))
        .chain(["129".into()])
        .collect();
    assert_eq!(seen, expected);

    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = site.json(&format!("/v1/people?limit=50{cursor}")).await;
        ids.extend(
            page["people"]
                .as_array()
                .unwrap()
                .iter()
                .map(|person| person["id"].as_i64().unwrap()),
        );
        let Some(next) = page["next_cursor"].as_i64() else {
            break;
        };
        enroll(&format!("During {next}")).await;
        cursor = format!("&cursor={next}");
    }
    assert!(ids.is_sorted() && ids.len() >= 131, "{ids:?}");
    for wrong in ["limit=0", "limit=501", "cursor=0", "cursor=x", "from=1"] {
        assert_eq!(
            site.get(&format!("/v1/people?{wrong}")).await.0,
            StatusCode::BAD_REQUEST,
            "{wrong}"
        );
    }
}

#[tokio::test]
async fn the_pictures_of_somebody_come_in_pages() {
    let site = Site::new();
    for number in 0..130 {
        let picture = EnrolledPicture {
            image_name: format!("{number}.jpg"),
            sha256: number.to_string(),
            picture: number.to_string().into_bytes(),
            bounds: [0.0; 4],
            quality: 0.9,
            crop: b"crop".to_vec(),
            embedding: vec![0.0; 4],
            space: "space".into(),
        };
        site.web
            .store
            .enroll("Ann".into(), picture)
            .await
            .unwrap()
            .unwrap();
    }
    let (mut names, mut url) = (Vec::new(), "/v1/people/1?limit=60".to_string());
    loop {
        let page = site.json(&url).await;
        names.extend(
            page["images"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["image_name"].clone()),
        );
        let Some(next) = page["next_cursor"].as_i64() else {
            break;
        };
        url = format!("/v1/people/1?limit=60&cursor={next}");
    }
    assert_eq!(
        names,
        (0..130)
            .map(|number| format!("{number}.jpg"))
            .collect::<Vec<_>>()
    );
    let (_, page) = site.get("/people/1").await;
    assert!(
        page.contains("<bdi>99.jpg</bdi>") && !page.contains("<bdi>100.jpg</bdi>"),
        "{page}"
    );
    let (_, page) = site.get("/people/1?after=100").await;
    assert!(
        page.contains("<bdi>100.jpg</bdi>") && !page.contains("More pictures"),
        "{page}"
    );
    assert_eq!(
        site.get("/people/1?after=x").await.0,
        StatusCode::BAD_REQUEST
    );
}

/// Makes a known visitor with a face, perhaps the same, a stranger who came twice, an open one.
async fn with_sightings() -> Site {
    let site = Site::new();
    let image = site.recognise("/in/a.jpg", HOSTILE).await;
    let store = &site.web.store;
    for (id, source, outcome, person, stranger) in [
        (1, "front", "known", Some(1), None),
        (2, "yard", "uncertain", Some(1), None),
        (3, "yard", "unknown", None, Some(12)),
        (4, "yard", "unknown", None, Some(12)),
        (5, "front", "known", Some(1), None),
    ] {
        let began_ms = 1_795_418_465_000 + id * 1000;
        run(
            store,
            &sighting(id, source, began_ms, outcome, person, stranger),
        )
        .await;
    }
    run(
        store,
        &format!(
            "UPDATE sightings SET image_id = {image}, number = 1 WHERE id = 1;
             INSERT INTO sighting_faces VALUES ({image}, 1, 1);
             UPDATE sightings SET ended_ms = NULL, last_came_ms = 1000000 WHERE id = 5;"
        ),
    )
    .await;
    site
}

#[tokio::test]
async fn the_timeline_shows_who_is_here_and_who_was() {
    let site = with_sightings().await;
    let (_, page) = site.get("/sightings").await;
    for part in [
        "<h2 id=\"presence-title\">Here now</h2>",
        "<h2>Going on</h2>",
        "<h2><time class=\"day\" datetime=\"2026-11-23\">2026-11-23</time> <small>UTC</small></h2>",
        "<span class=\"perhaps\">perhaps</span>",
        "Stranger 12</a> <span class=\"badge unknown\">",
        "second time this week, before that",
        "href=\"./images/1#face-1\"><img src=\"./v1/images/1/faces/1.jpg\"",
        "1 look",
        ", for 1\u{a0}s",
        "id=\"timeline\" aria-label=\"Sightings\" data-live",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    assert!(!page.contains("<script>alert") && page.contains(ESCAPED));
    let place = |uid: &str| page.find(&format!("id=\"sighting-{uid}\"")).unwrap();
    assert!(place("u5") < place("u4") && place("u4") < place("u1"));
    // A visitor who may name faces: no form is replaced while it is filled in.
    let admin = site.page_as_admin("/sightings").await;
    assert!(
        admin.contains("action=\"./strangers/12/name?csrf="),
        "{admin}"
    );
    assert!(!admin.contains("aria-label=\"Sightings\" data-live"));
    let (_, filtered) = site.get("/sightings?source=yard&outcome=unknown").await;
    assert_eq!(filtered.matches("class=\"visited\"").count(), 2);
    assert!(!filtered.contains("Here now"));
    let (_, day) = site.get("/sightings?day=2026-11-24&zone=60").await;
    assert!(day.contains("No sighting matches.") && day.contains("?day=2026-11-23&#38;zone=60"));
    for wrong in [
        "?day=x",
        "?person=x",
        "?source=%2F",
        "?cursor=x",
        "?day=1&day=2",
    ] {
        let (status, _) = site.get(&format!("/sightings{wrong}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn the_timeline_has_a_heading_for_each_day() {
    let site = with_sightings().await;
    // An hour before midnight of UTC, and the day before that.
    run(
        &site.web.store,
        "UPDATE sightings SET began_ms = 1795474800000, last_ms = 1795474801000 WHERE id IN (3, 4);
         UPDATE sightings SET began_ms = 1795388400000, last_ms = 1795388401000 WHERE id IN (1, 2)",
    )
    .await;
    let headings = |page: &str| {
        let mut found = Vec::new();
        for part in page.split("<h2><time class=\"day\"").skip(1) {
            let day = part.split('>').nth(1).unwrap_or_default();
            let day = day.trim_end_matches("</time").to_owned();
            found.push((day, part.matches("class=\"visited\"").count()));
        }
        found
    };
    let (_, page) = site.get("/sightings").await;
    let days = [("2026-11-23".into(), 2), ("2026-11-22".into(), 2)];
    assert_eq!(headings(&page), days, "{page}");
    // The entries are in a list of their day, in the order of the timeline.
    let place = |part: &str| page.find(part).unwrap();
    assert!(place("Going on") < place("datetime=\"2026-11-23\""));
    assert!(place("id=\"sighting-u3\"") < place("datetime=\"2026-11-22\""));
    assert!(place("datetime=\"2026-11-22\"") < place("id=\"sighting-u2\""));
    // Two hours further east it is the next day already.
    let (_, east) = site.get("/sightings?day=2026-11-24&zone=120").await;
    assert_eq!(headings(&east), [("2026-11-24".into(), 2)], "{east}");
    assert!(!east.contains("<small>UTC</small></h2>"));
    let (_, nothing) = site.get("/sightings?source=nowhere").await;
    assert_eq!(headings(&nothing), []);
}

#[tokio::test]
async fn presence_and_sightings_are_told_as_json() {
    let site = with_sightings().await;
    let presence = site.json("/v1/presence").await;
    assert_eq!(presence["device"], "board-7");
    let ann = &presence["people"][0];
    assert_eq!(
        (&ann["present"], &ann["source"], &ann["sighting_id"]),
        (&true.into(), &"front".into(), &"u5".into())
    );
    assert_eq!(presence["sources"][0]["people"][0], HOSTILE);
    assert_eq!(presence["sources"][1]["last"]["outcome"], "unknown");
    assert!(presence["sources"][1]["last"]["name"].is_null());

    let page = site.json("/v1/sightings?limit=3").await;
    assert_eq!(page["sightings"][0]["sighting_id"], "u5");
    assert!(page["sightings"][0]["ended_ms"].is_null());
    assert_eq!(page["sightings"][1]["stranger"]["sightings"], 2);
    assert_eq!(page["next_cursor"], 3);
    let rest = site.json("/v1/sightings?person=1&cursor=3").await;
    assert_eq!(rest["sightings"].as_array().unwrap().len(), 2);
    let one = site.json("/v1/sightings/u1").await;
    assert_eq!(one["face"]["image_id"], 1);
    assert_eq!(one["faces"][0]["outcome"], "known");
    let day = "since=2026-11-23T00:00:00Z&until=2026-11-24T00:00:00Z";
    let day = site.json(&format!("/v1/sightings?{day}&source=yard")).await;
    assert_eq!(day["sightings"].as_array().unwrap().len(), 3);
    assert_eq!(site.get("/v1/sightings/u9").await.0, StatusCode::NOT_FOUND);
    for wrong in ["?person=0", "?since=x", "?limit=0", "?outcome=x", "?who=1"] {
        let (status, _) = site.get(&format!("/v1/sightings{wrong}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn strangers_seen_once_are_folded_away_behind_the_others() {
    let site = with_sightings().await;
    run(
        &site.web.store,
        "INSERT INTO strangers (id, space, total, weight, faces, first_seen_ms, last_seen_ms)
           VALUES (12, 's', x'', 1, 2, 900, 900), (13, 's', x'', 1, 1, 10, 10);",
    )
    .await;
    let (_, page) = site.get("/strangers").await;
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
    let folded = place("<details id=\"once\" class=\"once\"><summary>Seen once");
    assert!(place("Stranger 12") < folded && folded < place("Stranger 13"));
    assert!(page.contains("came twice</a>, 2 faces") && page.contains("came once</a>, 1 face<"));
    let (_, once) = site.get("/strangers?once=1").await;
    assert!(once.contains("Stranger 13") && !once.contains("Stranger 12"));
    let returned = site.json("/v1/strangers?returned=true").await;
    assert_eq!(returned["strangers"][0]["id"], 12);
    assert_eq!(returned["strangers"].as_array().unwrap().len(), 1);
}
