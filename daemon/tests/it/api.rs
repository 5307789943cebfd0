//! `/v1` of the built kithd with real pictures: found by filters, tried again, forgotten, named;
//! and held against its own documentation by schemathesis.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{TestDaemon, part_is_ok, photo, text, wait_for};

/// Sends a request with the administrator's token; returns its status and its JSON, if any.
fn ask(daemon: &TestDaemon, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let kind = if body.starts_with(b"{") {
        "application/json"
    } else {
        "image/jpeg"
    };
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(daemon.url(path))
        .header("authorization", format!("Bearer {}", daemon.token()))
        .header("content-type", kind)
        .body(body)
        .unwrap();
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .allow_non_standard_methods(true)
        .build()
        .into();
    let mut response = agent.run(request).unwrap();
    (
        response.status().as_u16(),
        response.body_mut().read_json().unwrap_or(Value::Null),
    )
}

fn upload(daemon: &TestDaemon, photo_name: &str) -> i64 {
    let bytes = std::fs::read(photo(photo_name)).unwrap();
    let (status, answer) = daemon.post(&format!("/v1/images?name={photo_name}"), &[], &bytes);
    assert_eq!(status, 202, "{answer}");
    let id = answer["ids"][0].as_i64().unwrap();
    daemon.ended(id);
    id
}

fn ids(page: &Value) -> Vec<i64> {
    page["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["id"].as_i64().unwrap())
        .collect()
}

/// Filters: state, outcome, person, source, time and path.
#[test]
fn images_are_found_by_each_filter_and_several_at_once() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let collins = upload(&daemon, "astronaut_2.jpg");
    let group = upload(&daemon, "group.jpg");
    let scene = upload(&daemon, "noface.jpg");
    let broken = daemon.post_path(&daemon.put_bytes(b"no picture", "100%_broken.jpg"));
    daemon.ended(broken);
    let found = |query: &str| ids(&daemon.get(&format!("/v1/images?{query}")));
    assert_eq!(found(""), [broken, scene, group, collins]);
    assert_eq!(found("state=failed"), [broken]);
    assert_eq!(
        found("state=processed&source=http"),
        [scene, group, collins]
    );
    assert_eq!(found("outcome=no_face"), [scene]);
    assert_eq!(found("outcome=known"), [group, collins]);
    assert!(found("outcome=uncertain&state=failed").is_empty());
    assert!(found("source=camera").is_empty());
    assert_eq!(found("path=GROUP"), [group]);
    assert_eq!(
        found("path=100%25_"),
        [broken],
        "signs of a pattern are letters like others"
    );
    assert!(found("path=100__").is_empty());
    let people = daemon.get("/v1/people");
    let named = |name: &str| {
        people["people"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["name"] == name)
            .unwrap()
            .clone()
    };
    let person = named("Eileen Collins");
    assert_eq!(person["last_image"], group, "everybody is on it");
    assert_eq!(found(&format!("person={}", person["id"])), [group, collins]);
    assert_eq!(
        found(&format!("person={}&path=astronaut", person["id"])),
        [collins]
    );
    assert_eq!(
        found(&format!(
            "person={}&outcome=known&source=http&state=processed",
            person["id"]
        )),
        [group, collins]
    );
    assert!(found(&format!("person={}&state=failed", person["id"])).is_empty());
    let accepted = daemon.get(&format!("/v1/images/{group}"))["accepted_at_ms"]
        .as_i64()
        .unwrap();
    // The millisecond in RFC 3339.
    let moment = |ms: i64| {
        let output = Command::new("date")
            .args(["-u", "+%Y-%m-%dT%H:%M:%S", "-d"])
            .arg(format!("@{}", ms / 1000))
            .output();
        format!(
            "{}.{:03}Z",
            String::from_utf8(output.unwrap().stdout).unwrap().trim(),
            ms % 1000
        )
    };
    assert_eq!(
        found(&format!(
            "since={}&until={}",
            moment(accepted),
            moment(accepted + 1)
        )),
        [group]
    );
    assert!(
        found("until=2001-01-01T00:00:00Z").is_empty()
            && found("since=2999-01-01T00:00:00Z").is_empty()
    );
    let (mut cursor, mut walked) = (String::new(), Vec::new());
    loop {
        let page = daemon.get(&format!("/v1/images?limit=1&state=processed{cursor}"));
        walked.extend(ids(&page));
        let Some(next) = page["next_cursor"].as_i64() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(walked, [scene, group, collins]);
    // The counters agree with the rows.
    let counted =
        daemon.sql("SELECT state, images FROM state_counts WHERE images > 0 ORDER BY state");
    assert_eq!(
        counted,
        daemon.sql("SELECT state, count(*) FROM images GROUP BY state ORDER BY state")
    );
}

#[test]
fn a_failed_image_is_retried_and_its_result_names_the_old_one() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let path = daemon.put_bytes(b"no picture", "later.jpg");
    let id = daemon.post_path(&path);
    let first = daemon.ended(id);
    assert_eq!(first["state"], "failed");
    daemon.put("noface.jpg", "later.jpg");
    let (status, answer) = ask(&daemon, "POST", &format!("/v1/images/{id}/retry"), b"");
    assert_eq!(
        (status, &answer["state"]),
        (202, &json!("pending")),
        "{answer}"
    );
    let second = wait_for("the second result", || {
        let image = daemon.get(&format!("/v1/images/{id}"));
        (image["state"] == "processed").then_some(image)
    });
    assert_eq!(second["outcome"], "no_face");
    let (status, problem) = ask(&daemon, "POST", &format!("/v1/images/{id}/retry"), b"");
    assert_eq!(status, 409);
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("only a failed image"),
        "{problem}"
    );
    assert_eq!(ask(&daemon, "POST", "/v1/images/999/retry", b"").0, 404);
    let results = daemon.sql("SELECT supersedes IS NOT NULL FROM results ORDER BY id");
    assert_eq!(results, ["0", "1"]);
    let replaced = daemon
        .sql("SELECT b.supersedes = a.result_id FROM results a JOIN results b ON b.id > a.id");
    assert_eq!(replaced, ["1"]);
}

#[test]
fn a_forgotten_image_leaves_nothing_behind() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let bytes = [
        &std::fs::read(photo("obama_2.jpg")).unwrap()[..],
        b"trailing bytes of this file only",
    ]
    .concat();
    let (_, answer) = daemon.post("/v1/images?name=secret-name.jpg", &[], &bytes);
    let id = answer["ids"][0].as_i64().unwrap();
    assert_eq!(daemon.ended(id)["found"].as_array().unwrap().len(), 1);
    let holds = |needle: &str| {
        let database = daemon.folder.path().join("state");
        let files = ["kithd.db", "kithd.db-wal"]
            .map(|name| std::fs::read(database.join(name)).unwrap_or_default());
        files.iter().any(|file| {
            file.windows(needle.len())
                .any(|window| window == needle.as_bytes())
        })
    };
    assert!(holds("secret-name.jpg"));
    // Upgrades leave such a copy.
    let before = daemon.state("kithd.db.before-0008");
    std::fs::copy(daemon.state("kithd.db"), &before).unwrap();
    assert_eq!(
        ask(&daemon, "DELETE", &format!("/v1/images/{id}"), b"").0,
        204
    );
    assert!(
        !before.exists(),
        "the image is still in the copy of before the upgrade"
    );
    assert_eq!(ask(&daemon, "GET", &format!("/v1/images/{id}"), b"").0, 404);
    assert_eq!(
        ask(&daemon, "DELETE", &format!("/v1/images/{id}"), b"").0,
        404
    );
    for table in ["images", "faces", "thumbnails", "results", "outbox"] {
        assert_eq!(
            daemon.sql(&format!("SELECT count(*) FROM {table}")),
            ["0"],
            "{table}"
        );
    }
    assert!(
        !holds("secret-name.jpg"),
        "the database file or its journal still has it"
    );
    assert_eq!(daemon.get("/v1/health")["counts"]["processed"], 0);
}

#[test]
fn who_is_on_a_picture_is_answered_at_once_and_nothing_is_kept() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let picture = std::fs::read(photo("obama_2.jpg")).unwrap();
    let (status, answer) = daemon.post("/v1/identify", &[("content-type", "image/jpeg")], &picture);
    assert_eq!(
        (status, &answer["faces"][0]["person"]["name"]),
        (200, &json!("Barack Obama")),
        "{answer}"
    );
    let path = daemon.put("biden_2.jpg", "ask.jpg");
    let body = json!({ "path": path }).to_string();
    let (_, answer) = daemon.post(
        "/v1/identify",
        &[("content-type", "application/json")],
        body.as_bytes(),
    );
    assert_eq!(
        answer["faces"][0]["person"]["name"], "Joe Biden",
        "{answer}"
    );
    let (status, problem) = daemon.post(
        "/v1/identify",
        &[("content-type", "image/jpeg")],
        b"no picture",
    );
    assert_eq!(status, 422, "{problem}");
    assert_eq!(daemon.sql("SELECT count(*) FROM images"), ["0"]);
}

#[test]
fn people_are_made_shown_renamed_merged_and_erased_over_http() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let picture = |name: &str| std::fs::read(photo(name)).unwrap();
    part_is_ok(&daemon, "engine");
    let (status, ann) = ask(
        &daemon,
        "POST",
        "/v1/people?name=Ann&file_name=a.jpg",
        &picture("obama_1.jpg"),
    );
    assert_eq!(
        (status, &ann["person"]["name"]),
        (201, &json!("Ann")),
        "{ann}"
    );
    assert_eq!(
        ask(
            &daemon,
            "POST",
            "/v1/people?name=Ann",
            &picture("obama_1.jpg")
        )
        .0,
        200,
        "the same bytes"
    );
    let (status, problem) = ask(
        &daemon,
        "POST",
        "/v1/people?name=Ann",
        &picture("noface.jpg"),
    );
    assert!(
        status == 422 && problem["detail"].as_str().unwrap().contains("no face"),
        "{problem}"
    );
    assert_eq!(problem["report"]["enrolment"], "rejected", "{problem}");
    let (ann, url) = (
        ann["person"]["id"].as_i64().unwrap(),
        |id: i64, rest: &str| format!("/v1/people/{id}{rest}"),
    );
    assert_eq!(
        ask(
            &daemon,
            "POST",
            &url(ann, "/pictures"),
            &picture("obama_2.jpg")
        )
        .0,
        201
    );
    let named = daemon.get("/v1/people?name=ANN");
    assert_eq!(named["people"][0]["id"], ann, "in any spelling: {named}");
    assert_eq!(daemon.get("/v1/people?name=Nobody")["people"], json!([]));
    let (_, ben) = ask(
        &daemon,
        "POST",
        "/v1/people?name=Ben",
        &picture("biden_1.jpg"),
    );
    let ben = ben["person"]["id"].as_i64().unwrap();

    let (status, problem) = ask(&daemon, "PATCH", &url(ann, ""), br#"{"name":"Ben"}"#);
    assert_eq!(status, 409, "{problem}");
    assert_eq!(
        ask(&daemon, "PATCH", &url(ann, ""), br#"{"name":"Anna"}"#).1["name"],
        "Anna"
    );
    let detail = daemon.get(&url(ann, ""));
    let pictures = detail["images"].as_array().unwrap();
    assert_eq!(
        (pictures.len(), &pictures[0]["image_name"]),
        (2, &json!("a.jpg"))
    );
    let first = pictures[0]["id"].as_i64().unwrap();
    assert!(daemon.get_text(&url(ann, "")).contains("\"remarks\""));
    let crop = ureq::get(daemon.url(&url(ann, &format!("/pictures/{first}.jpg"))))
        .call()
        .unwrap();
    assert_eq!(crop.headers()["content-type"], "image/jpeg");
    // Upgrades leave such a copy.
    let before = daemon.state("kithd.db.before-0008");
    std::fs::copy(daemon.state("kithd.db"), &before).unwrap();
    assert_eq!(
        ask(
            &daemon,
            "DELETE",
            &url(ann, &format!("/pictures/{first}.jpg")),
            b""
        )
        .0,
        204
    );
    assert!(
        !before.exists(),
        "the picture is still in the copy of before the upgrade"
    );
    assert_eq!(
        daemon.get(&url(ann, ""))["images"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let image = upload(&daemon, "obama_1.jpg");
    assert_eq!(
        daemon.get(&format!("/v1/images/{image}"))["found"][0]["person"],
        "Anna"
    );
    assert_eq!(
        ask(
            &daemon,
            "POST",
            &url(ann, "/merge"),
            json!({ "into": ben }).to_string().as_bytes()
        )
        .0,
        200
    );
    assert_eq!(
        daemon.get(&format!("/v1/images/{image}"))["found"][0]["person"],
        "Ben"
    );
    assert_eq!(ask(&daemon, "GET", &url(ann, ""), b"").0, 404);
    let (status, gone) = ask(&daemon, "DELETE", &url(ben, ""), b"");
    assert_eq!(
        (status, &gone["may_hold_them"]),
        (200, &json!([])),
        "{gone}"
    );
    assert_eq!(daemon.get("/v1/people")["people"], json!([]));
    assert_eq!(
        daemon.get(&format!("/v1/images/{image}"))["found"][0]["person"],
        Value::Null
    );
}

#[test]
fn named_strangers_and_corrected_faces_are_heeded_from_then_on() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    part_is_ok(&daemon, "engine");
    let (first, second) = (
        upload(&daemon, "obama_1.jpg"),
        upload(&daemon, "obama_2.jpg"),
    );
    let other = upload(&daemon, "biden_1.jpg");
    let strangers = || {
        daemon.get("/v1/strangers")["strangers"]
            .as_array()
            .unwrap()
            .clone()
    };
    wait_for("two groups", || {
        (strangers()
            .iter()
            .map(|one| one["faces"].as_u64().unwrap())
            .sum::<u64>()
            == 3)
            .then_some(())
    });
    let group = strangers()
        .into_iter()
        .find(|one| one["faces"] == 2)
        .expect("both pictures of one person in one group");
    let id = group["id"].as_i64().unwrap();
    let members = daemon.get(&format!("/v1/strangers/{id}"))["members"].clone();
    assert_eq!(
        members
            .as_array()
            .unwrap()
            .iter()
            .map(|face| face["image_id"].as_i64().unwrap())
            .collect::<Vec<_>>(),
        [second, first]
    );

    let (status, named) = ask(
        &daemon,
        "POST",
        &format!("/v1/strangers/{id}/name"),
        br#"{"name":"Barack"}"#,
    );
    assert_eq!((status, &named["faces"]), (200, &json!(2)), "{named}");
    let person = named["person_id"].as_i64().unwrap();
    for image in [first, second] {
        let image = daemon.get(&format!("/v1/images/{image}"));
        assert_eq!(
            (&image["outcome"], &image["found"][0]["person"]),
            (&json!("known"), &json!("Barack")),
            "{image}"
        );
    }
    assert_eq!(
        ask(&daemon, "GET", &format!("/v1/strangers/{id}"), b"").0,
        404,
        "its number is not used again"
    );
    assert_eq!(
        ids(&daemon.get(&format!("/v1/images?person={person}"))),
        [second, first]
    );

    let rest = strangers();
    let other_group = rest[0]["id"].as_i64().unwrap();
    assert!(rest.len() == 1 && other_group != id);
    let (_, ignored) = ask(
        &daemon,
        "PATCH",
        &format!("/v1/strangers/{other_group}"),
        br#"{"ignored":true}"#,
    );
    assert_eq!(ignored["ignored"], true);
    assert!(strangers().is_empty());
    assert_eq!(
        daemon.get("/v1/strangers?ignored=true")["strangers"][0]["id"],
        other_group
    );

    // A face gets the wrong name, and the mistake is undone.
    let face = format!("/v1/images/{other}/faces/1/person");
    let (status, answer) = ask(&daemon, "POST", &face, br#"{"name":"Joe"}"#);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        daemon.get(&format!("/v1/images/{other}"))["found"][0]["person"],
        "Joe"
    );
    let again = upload(&daemon, "biden_2.jpg");
    assert_eq!(
        daemon.get(&format!("/v1/images/{again}"))["found"][0]["person"],
        "Joe"
    );
    let wrong = format!("/v1/images/{again}/faces/1/person");
    let (status, answer) = ask(&daemon, "DELETE", &wrong, b"");
    assert_eq!(
        (status, &answer["outcome"]),
        (200, &json!("unknown")),
        "{answer}"
    );
    assert_eq!(
        daemon.get(&format!("/v1/images/{again}"))["found"][0]["person"],
        Value::Null
    );
    let once_more = upload(&daemon, "biden_2.jpg");
    assert_eq!(
        daemon.get(&format!("/v1/images/{once_more}"))["outcome"],
        "unknown",
        "the counter-example is heeded"
    );
    assert_eq!(
        ask(&daemon, "DELETE", &wrong, b"").0,
        409,
        "the face is no person's now"
    );
}

#[test]
fn an_unchanged_answer_is_a_304_and_a_changed_one_is_sent() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    upload(&daemon, "noface.jpg");
    let get = |etag: &str| {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .into();
        let response = agent
            .get(daemon.url("/v1/images"))
            .header("if-none-match", etag)
            .call()
            .unwrap();
        (
            response.status().as_u16(),
            response.headers()["etag"].to_str().unwrap().to_string(),
        )
    };
    let (status, etag) = get("\"x\"");
    assert_eq!(status, 200);
    assert_eq!(get(&etag), (304, etag.clone()));
    upload(&daemon, "noface.jpg");
    let (status, changed) = get(&etag);
    assert!(status == 200 && changed != etag);
}

#[test]
fn every_answer_is_what_the_documentation_says_by_schemathesis() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.dev/schemathesis/bin/schemathesis");
    let program = std::env::var("KITHD_SCHEMATHESIS").unwrap_or_else(|_| own.display().to_string());
    assert!(
        Path::new(&program).is_file(),
        "schemathesis is not installed; ./dev test installs it"
    );
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    for name in ["obama_2.jpg", "group.jpg", "noface.jpg"] {
        upload(&daemon, name);
    }
    daemon.ended(daemon.post_path(&daemon.put_bytes(b"no picture", "broken.jpg")));
    let document = daemon.get("/openapi.json");
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{}",
        document["openapi"]
    );
    let output = Command::new(program)
        .current_dir(daemon.folder.path())
        .args([
            "--config-file",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis.toml"),
            "run",
        ])
        .arg(daemon.url("/openapi.json"))
        .args([
            "--checks",
            "all",
            "--max-examples",
            if crate::support::full() { "400" } else { "25" },
            "--seed",
            "6",
            "--no-color",
        ])
        .args([
            "--header",
            &format!("Authorization: Bearer {}", daemon.token()),
        ])
        .output()
        .unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let operations = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|path| path.as_object().unwrap().len())
        .sum::<usize>();
    assert!(
        said.contains(&format!("Tested: {operations}")),
        "not all {operations} operations were tested: {said}"
    );
    println!(
        "{}",
        said.lines().rev().take(8).collect::<Vec<_>>().join("\n")
    );
}
