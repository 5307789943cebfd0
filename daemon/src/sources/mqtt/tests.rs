//! Payloads of every kind, read as paths or as pictures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

fn paths(payload: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
    let found = paths_in(payload.as_ref())?;
    Ok(found.into_iter().map(|(path, _)| path).collect())
}

#[test]
fn one_path_a_list_and_a_bare_path_are_understood() {
    assert_eq!(paths(r#"{"path":"/a/b.jpg"}"#).unwrap(), ["/a/b.jpg"]);
    assert_eq!(
        paths(r#"{"paths":[{"path":"/a"},{"path":"/b"}]}"#).unwrap(),
        ["/a", "/b"]
    );
    assert_eq!(paths(r#"{"paths":["/a","/b"]}"#).unwrap(), ["/a", "/b"]);
    assert_eq!(paths(" /a/b c.jpg\n").unwrap(), ["/a/b c.jpg"]);
}

#[test]
fn a_path_is_understood_as_other_machines_write_it() {
    for payload in [
        "\u{feff}/a/b.jpg",
        "/a/b.jpg\0",
        "/a/b.jpg\r\n",
        "/a/b.jpg\r\n\0\0",
        "\"/a/b.jpg\"",
        " [\"/a/b.jpg\"] \n",
        "[{\"path\":\"/a/b.jpg\"}]",
        "\u{feff}{\"path\":\"/a/b.jpg\"}\0",
        "{\"path\":\"/a/b.jpg\",\"camera\":\"front\"}",
    ] {
        assert_eq!(
            paths(payload).as_deref(),
            Ok(&["/a/b.jpg".to_owned()][..]),
            "{payload:?}"
        );
    }
    assert_eq!(paths("[\"/a\",{\"path\":\"/b\"}]").unwrap(), ["/a", "/b"]);
    assert_eq!(paths("file:///a/b%20c.jpg").unwrap(), ["/a/b c.jpg"]);
}

#[test]
fn nonsense_is_told_from_a_path_with_what_was_expected() {
    let utf16 = |text: &str| {
        text.encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<_>>()
    };
    let jpeg = [0xff, 0xd8, 0xff, 0xe0, 0, 16];
    let heic = *b"\0\0\0\x18ftypheic\xff\xfe";
    let nonsense: [(&[u8], &str); 18] = [
        (b"{\"path\":", "is not JSON"),
        (b"{\"file\":\"/a\"}", "has no path"),
        (b"", "is empty"),
        (b"\0\r\n", "is empty"),
        (b"{\"paths\":[]}", "empty list of paths"),
        (b"[]", "empty list of paths"),
        (b"42", "no absolute path"),
        (b"[42]", "has no path"),
        (b"true", "no absolute path"),
        (b"a.jpg", "no absolute path"),
        (b"/a\n/b", "several lines"),
        (b"'/a'", "in quotes"),
        (b"\\\\nas\\a.jpg", "mount the share"),
        (
            b"{\"type\":\"Buffer\",\"data\":[255,216,255]}",
            "Node-RED Buffer",
        ),
        (&jpeg, "a picture (JPEG), and this topic takes paths"),
        (&heic, "is HEIC, and this topic takes text"),
        (&utf16("/a/b.jpg"), "UTF-16"),
        (&[b"\xff\xfe".as_slice(), &utf16("/a")].concat(), "UTF-16"),
    ];
    for (payload, reason) in nonsense {
        let error = paths(payload).unwrap_err();
        assert!(error.contains(reason), "{payload:?}: {error}");
    }
}

#[test]
fn bytes_decide_what_a_picture_is_and_wrappings_are_undone() {
    let jpeg = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/photos/noface.jpg"
    ))
    .unwrap();
    let base64 = STANDARD.encode(&jpeg);
    let lines = base64
        .as_bytes()
        .chunks(76)
        .map(|line| String::from_utf8_lossy(line))
        .collect::<Vec<_>>();
    for payload in [
        jpeg.clone(),
        base64.clone().into_bytes(),
        lines.join("\n").into_bytes(),
        lines.join("\r\n").into_bytes(),
        format!("data:image/jpeg;base64,{base64}").into_bytes(),
        format!("\"{base64}\"").into_bytes(),
        [b"\r\n", jpeg.as_slice()].concat(),
    ] {
        assert!(picture(&payload.into(), 1 << 20).unwrap() == jpeg);
    }
    for (payload, named) in [
        (&b"?"[..], "plain text"),
        (b"{\"path\":\"/a/b.jpg\"}", "JSON"),
        (
            b"{\"type\":\"Buffer\",\"data\":[255,216,255]}",
            "send msg.payload as a Buffer",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is HEIC"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "is AVIF"),
        (b"\x01\x02\x03\x04", "01 02 03 04"),
        (b"", "is empty"),
    ] {
        let error = picture(&Bytes::from_static(payload), 1 << 20).unwrap_err();
        assert!(
            error.starts_with("the message ") && error.contains(named),
            "{error}"
        );
    }
    assert!(
        picture(&base64.into(), 1000)
            .unwrap_err()
            .contains("intake.max_bytes = 1000")
    );
}
