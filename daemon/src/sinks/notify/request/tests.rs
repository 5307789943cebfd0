//! Requests as webhooks and ntfy get them, and what their answers mean.

use serde_json::Value;

use super::super::tests::{sighting, target, target_at};
use super::*;
use crate::domain::FaceAddress;
use crate::http_client::test_server::{Server, Then, field};

fn notification<'a>(message: &'a SightingMessage, picture: Option<Picture>) -> Notification<'a> {
    Notification {
        uid: "0190-a",
        test: false,
        message,
        words: Words {
            title: "Änne Lee".into(),
            text: "front, 09:21".into(),
        },
        picture,
    }
}

fn face() -> Picture {
    Picture {
        kind: "face",
        jpeg: Bytes::from_static(&[0xFF, 0xD8, 0xFF]),
    }
}

async fn server(mut statuses: Vec<&'static str>) -> Server {
    statuses.reverse();
    Server::start(move |_| {
        let status = statuses.pop().unwrap_or("200 OK");
        (
            format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"),
            Then::Keep,
        )
    })
    .await
}

fn at(kind: &str, server: &Server, more: &str) -> Notify {
    target_at(&format!("{kind} = \"{}/t0pic\"", server.address), more)
}

#[test]
fn a_signature_is_the_hmac_of_time_and_body() {
    // Made by `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key`.
    let [(_, time), (_, signature)] = signature(b"key", 1_700_000_000, b"{\"a\":1}");
    assert_eq!(time, "1700000000");
    assert_eq!(
        signature,
        "sha256=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03"
    );
}

#[tokio::test]
async fn a_webhook_gets_json_with_face_and_signature() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let server = server(vec![]).await;
    let more = format!(
        "secret_file = \"{}\"\ntoken_file = \"{}\"\npage = \"https://kithd.lan/\"\n",
        file("secret", "key\n"),
        file("token", "t0ken\n")
    );
    let target = at("webhook", &server, &more);
    let mut message = sighting(Outcome::Known);
    message.after.face = Some(FaceAddress {
        image_id: 8,
        number: 2,
    });
    let answer = send(
        &target,
        &notification(&message, Some(face())),
        1_700_000_000_999,
    )
    .await;
    assert_eq!(answer, Answer::Taken(None));
    let (_, request) = &server.seen()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /t0pic HTTP/1.1"), "{head}");
    assert_eq!(field(head, "content-type"), Some("application/json"));
    assert_eq!(field(head, "authorization"), Some("Bearer t0ken"));
    assert_eq!(field(head, "idempotency-key"), Some("0190-a"));
    assert_eq!(field(head, "x-kithd-timestamp"), Some("1700000000"));
    let [_, (_, expected)] = signature(b"key", 1_700_000_000, body.as_bytes());
    let found = field(head, "x-kithd-signature-256").unwrap();
    assert_eq!(found.as_bytes(), expected.as_bytes());
    let json: Value = serde_json::from_str(body).unwrap();
    for (key, value) in [
        ("notification_id", "0190-a"),
        ("name", "a"),
        ("title", "Änne Lee"),
        ("text", "front, 09:21"),
        ("url", "https://kithd.lan/images/8"),
        ("sighting_id", "s"),
        ("device", "board"),
        ("source", "front"),
        ("face", "/9j/"),
    ] {
        assert_eq!(json[key], value, "{key}");
    }
    assert_eq!(json["after"]["outcome"], "known");
    assert_eq!(
        (&json["test"], json.get("picture")),
        (&Value::Bool(false), None)
    );
}

#[tokio::test]
async fn ntfy_gets_headers_and_the_picture_as_body() {
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "pa55\n").unwrap();
    let server = server(vec![]).await;
    let more = format!(
        "username = \"kithd\"\npassword_file = \"{}\"\npriority = 4\npage = \"http://h:8000\"\n",
        password.display()
    );
    let target = at("ntfy", &server, &more);
    let message = sighting(Outcome::Unknown);
    let mut notification = notification(&message, None);
    assert_eq!(send(&target, &notification, 0).await, Answer::Taken(None));
    let (_, request) = &server.seen()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /t0pic HTTP/1.1"), "{head}");
    assert_eq!(body, "front, 09:21");
    for (name, value) in [
        ("authorization", "Basic a2l0aGQ6cGE1NQ=="),
        ("title", "=?UTF-8?B?w4RubmUgTGVl?="),
        ("tags", "warning"),
        ("priority", "4"),
        ("click", "http://h:8000/"),
        ("x-sequence-id", "0190-a"),
    ] {
        assert_eq!(field(head, name), Some(value), "{name}");
    }
    notification.picture = Some(Picture {
        jpeg: Bytes::from_static(b"JPEG"),
        ..face()
    });
    notification.words.text = "one\ntwo".into();
    assert_eq!(send(&target, &notification, 0).await, Answer::Taken(None));
    let (_, request) = &server.seen()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("PUT /t0pic HTTP/1.1"), "{head}");
    assert_eq!((body, field(head, "filename")), ("JPEG", Some("face.jpg")));
    assert_eq!(field(head, "message"), Some("one\\ntwo"));
}

#[tokio::test]
async fn an_ntfy_without_attachments_gets_the_text_alone() {
    let server = server(vec![
        "400 Bad Request",
        "200 OK",
        "413 Too Large",
        "429 Slow",
    ])
    .await;
    let target = at("ntfy", &server, "");
    let message = sighting(Outcome::Known);
    let notification = notification(&message, Some(face()));
    let Answer::Taken(Some(remark)) = send(&target, &notification, 0).await else {
        panic!("it was not taken");
    };
    assert!(remark.contains("sent without the picture"), "{remark}");
    let seen = server.seen();
    assert!(seen[0].1.starts_with("PUT") && seen[1].1.starts_with("POST"));
    assert!(matches!(
        send(&target, &notification, 0).await,
        Answer::Later(..)
    ));
}

#[test]
fn long_words_are_encoded_in_pieces_of_whole_letters() {
    let value = header_value(&"ä".repeat(30)).unwrap();
    let text = value.to_str().unwrap();
    let pieces: Vec<_> = text.split(' ').collect();
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(|piece| piece.len() <= 75), "{pieces:?}");
    assert_eq!(header_value("plain words").unwrap(), "plain words");
    assert!(
        header_value("=?UTF-8?B?eA==?=")
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("=?UTF-8?B?PT")
    );
}

#[tokio::test]
async fn answers_say_whether_it_is_worth_another_try() {
    let target = target("");
    let said = |status: u16, after: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        if let Some(after) = after {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(after));
        }
        answer(
            &target,
            Ok((StatusCode::from_u16(status).unwrap(), headers)),
        )
    };
    for status in [200, 201, 204] {
        assert_eq!(said(status, None), Answer::Taken(None));
    }
    for (status, word) in [
        (301, "sends on"),
        (400, "log"),
        (403, "token_file"),
        (404, "address"),
    ] {
        let Answer::Refused(why) = said(status, None) else {
            panic!("{status}");
        };
        assert!(
            why.contains(&status.to_string()) && why.contains(word),
            "{why}"
        );
        assert!(!why.contains("hook"), "{why}");
    }
    for status in [408, 425, 429, 500, 502, 503, 599] {
        assert!(
            matches!(said(status, None), Answer::Later(_, None)),
            "{status}"
        );
    }
    for (after, seconds) in [("7", 7), ("86400", 900)] {
        let Answer::Later(_, wait) = said(503, Some(after)) else {
            panic!("{after}");
        };
        assert_eq!(wait, Some(Duration::from_secs(seconds)));
    }
    assert!(matches!(
        said(503, Some("Tue, 01 Dec 2026 00:00:00 GMT")),
        Answer::Later(_, None)
    ));
    let lost = "secret_file = \"/nowhere/s\"\n";
    let message = sighting(Outcome::Known);
    let Answer::Later(why, None) = send(
        &super::super::tests::target(lost),
        &notification(&message, None),
        0,
    )
    .await
    else {
        panic!("a secret that cannot be read may come back");
    };
    assert!(
        why.contains("secret_file = /nowhere/s cannot be read"),
        "{why}"
    );
}
