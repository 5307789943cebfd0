//! The kinds that come to the doors, each by its bytes.

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::*;

const LIMIT: usize = 1 << 20;

/// The bundled face, a JPEG of some kilobytes.
fn jpeg() -> Vec<u8> {
    std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/photos/noface.jpg"
    ))
    .unwrap()
}

fn png() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(9, 9)
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

#[test]
fn a_picture_is_itself_whatever_blank_bytes_stand_before_it() {
    let jpeg = jpeg();
    for before in [
        &b""[..],
        b"\r\n",
        b"\n",
        b"\xEF\xBB\xBF",
        b"\xEF\xBB\xBF\r\n",
        b" \t\0",
    ] {
        let came = [before, &jpeg].concat();
        assert_eq!(
            wrapping(&came),
            Ok((Format::Jpeg, Wrapping::Plain(before.len()))),
            "{before:?}"
        );
        assert_eq!(plain(&came, jpeg.len()).unwrap(), jpeg, "{before:?}");
    }
    assert!(matches!(
        plain(&jpeg, 100),
        Err(NotAPicture::TooLarge { limit: 100 })
    ));
}

#[test]
fn bytes_that_may_mean_something_before_a_picture_are_counted() {
    for (before, count) in [
        (&b"abc"[..], 3),
        (b"\x02\x00\x00\x00\x01", 5),
        (b"frame 17:\r\n", 11),
    ] {
        let not = plain(&[before, &jpeg()].concat(), LIMIT).unwrap_err();
        assert_eq!(
            not,
            NotAPicture::Preceded {
                bytes: count,
                format: Format::Jpeg
            }
        );
        assert_eq!(
            not.to_string(),
            format!("has {count} bytes before its JPEG begins; send it without them")
        );
    }
}

#[test]
fn base64_is_undone_however_it_is_written() {
    for picture in [jpeg(), png()] {
        let standard = STANDARD.encode(&picture);
        let lines = |width, end| {
            let lines: Vec<_> = standard
                .as_bytes()
                .chunks(width)
                .map(|line| str::from_utf8(line).unwrap())
                .collect();
            lines.join(end) + end
        };
        let written = [
            standard.clone(),
            standard.trim_end_matches('=').into(),
            URL_SAFE_NO_PAD.encode(&picture),
            lines(76, "\n"),
            lines(64, "\r\n"),
            lines(1, " "),
            format!("\u{feff}{standard}\0"),
            format!("\"{standard}\"\n"),
            format!("data:image/jpeg;base64,{standard}"),
            format!(" DATA:image/png;charset=utf-8;Base64,\r\n{standard}"),
            format!("data:;base64,{standard}"),
            format!("'data:application/octet-stream;base64,{standard}'"),
        ];
        for text in written {
            let undone = plain(text.as_bytes(), picture.len());
            assert!(
                undone.as_deref() == Ok(&picture[..]),
                "{text:.60}: {undone:.80?}"
            );
            assert!(matches!(
                plain(text.as_bytes(), picture.len() - 1),
                Err(NotAPicture::TooLarge { .. })
            ));
        }
        let mut spoilt = standard.clone();
        spoilt.insert(1000.min(standard.len() / 2), '%');
        assert!(plain(spoilt.as_bytes(), LIMIT).is_err(), "{spoilt:.40}");
        let twice = format!("{}=={standard}", &standard[..standard.len() / 8 * 4]);
        let refused = plain(twice.as_bytes(), LIMIT).unwrap_err();
        // Text is told from base64 by its beginning: a short one that goes wrong there is just
        // text.
        if standard.len() > 4 * HEAD_BYTES {
            assert!(
                matches!(refused, NotAPicture::BadBase64 { .. }),
                "{refused}"
            );
        }
    }
}

#[test]
fn what_is_no_picture_is_named_with_what_to_change() {
    let picture = jpeg();
    let base64 = STANDARD.encode(&picture);
    let numbers: Vec<_> = picture.iter().take(400).map(u8::to_string).collect();
    let multipart = [
        b"--X\r\nContent-Disposition: form-data; name=\"p\"; filename=\"a.jpg\"\r\n\r\n".as_slice(),
        &picture,
        b"\r\n--X--\r\n",
    ]
    .concat();
    let stream = [
        b"--frame\r\nContent-Type: image/jpeg\r\n\r\n".as_slice(),
        &picture,
    ]
    .concat();
    let no_breaks = |bytes: &[u8]| -> Vec<u8> {
        bytes
            .iter()
            .filter(|byte| !matches!(byte, 0 | b'\r' | b'\n'))
            .copied()
            .collect()
    };
    let heic = STANDARD.encode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic");
    let utf16: Vec<u8> = "\u{feff}/srv/a.jpg"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let text = |text: String| text.into_bytes();
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (b"\0\0\0\x18ftypheic\0\0\0\0".into(), "HEIC", "JPEG"),
        (b"\0\0\0\x18ftypavif\0\0\0\0".into(), "AVIF", "JPEG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n".into(), "JPEG XL", "JPEG"),
        (
            text(format!("data:image/heic;base64,{heic}")),
            "HEIC as base64",
            "JPEG",
        ),
        (
            b"\0\0\0\x18ftypisom\0\0\0\0".into(),
            "an MP4 or QuickTime video",
            "still",
        ),
        (
            b"\x1f\x8b\x08\0\0\0\0\0".into(),
            "a gzip archive",
            "Content-Encoding: gzip",
        ),
        (b"\x28\xb5\x2f\xfd\0\0".into(), "zstd", "unpacked"),
        (b"PK\x03\x04\x14\0".into(), "a ZIP archive", "unpacked"),
        (
            text(format!(
                "{{\"type\":\"Buffer\",\"data\":[{}]}}",
                numbers.join(",")
            )),
            "Node-RED",
            "msg.payload",
        ),
        (
            text(format!(
                "{{ \"data\" : [{}], \"type\": \"Buffer\" }}",
                numbers.join(", ")
            )),
            "Node-RED",
            "msg.payload",
        ),
        (
            text(format!("[{}]", numbers.join(", "))),
            "list of numbers",
            "bytes",
        ),
        (
            text(format!("{{\"image\":\"{base64}\"}}")),
            "base64 in it",
            "bytes",
        ),
        (b"{\"error\":\"not found\"}".into(), "JSON", "JPEG"),
        (multipart, "a multipart form", "Content-Type"),
        (stream, "MJPEG", "one JPEG"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n".into(),
            "HTTP answer",
            "itself",
        ),
        (
            b"picture=%FF%D8%FF%E0&name=Ann".into(),
            "key=value",
            "--data-binary",
        ),
        (no_breaks(&picture), "curl -d", "--data-binary"),
        (no_breaks(&png()), "curl -d", "--data-binary"),
        (
            b"\n<!DOCTYPE html><title>Log in</title>".into(),
            "an HTML page",
            "browser",
        ),
        (
            b"<?xml version=\"1.0\"?><svg/>".into(),
            "an SVG drawing",
            "JPEG",
        ),
        (utf16, "UTF-16", "UTF-8"),
        (
            b"FFD8FFE000104A46494600010100".into(),
            "hexadecimal",
            "bytes",
        ),
        (b"https://camera/snapshot.jpg".into(), "URL", "bytes"),
        (b"BM25 is a ranking function".into(), "plain text", "JPEG"),
        ("Grüße".into(), "plain text", "JPEG"),
        (
            b"/srv/kithd/inbox/cameras/front/20240101.jpg".into(),
            "plain text",
            "JPEG",
        ),
        (vec![0; 4096], "zero bytes", "again"),
    ];
    for (bytes, what, instead) in cases {
        let said = plain(&bytes, LIMIT).unwrap_err().to_string();
        assert!(
            said.starts_with("is ") && said.contains(what),
            "{said:?} does not say {what:?}"
        );
        assert!(said.contains(instead), "{said:?} does not say {instead:?}");
    }
    assert_eq!(plain(b"", LIMIT), Err(NotAPicture::Empty));
    assert!(
        matches!(plain(&[0xFF], LIMIT), Err(NotAPicture::Unknown { starts_with }) if starts_with == "ff")
    );
}

#[test]
fn a_field_is_text_unless_its_bytes_are_a_picture() {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let texts: Vec<Vec<u8>> = vec![
        b"hello".into(),
        vec![],
        vec![b'x'; 600],
        "ä".repeat(300).into(),
        format!("a{}", "ä".repeat(300)).into(),
        "Снимок с камеры у входа. ".repeat(20).into(),
        b"M\xfcller".into(),
        b"\xd1\xed\xe8\xec\xee\xea".into(),
        b"\xff\n\xd1\xed\xe8".into(),
        b"\x1b$B%+%a%i\x1b(B".into(),
        b"comment\0\0".into(),
        utf16("Einfahrt"),
        [vec![0xFF, 0xFE], utf16("Einfahrt")].concat(),
        vec![7, 200, 3, 99, 250],
        vec![0; 20],
        b"P1 parking".into(),
        b"Data: five people".into(),
        b"what is GIF89a?".into(),
        b"FrontDoorCameraNumberTwo".into(),
        b"<b>bold</b>".into(),
        b"https://example.org/a.jpg".into(),
        br#"{"camera":"front","score":0.9}"#.into(),
        STANDARD.encode("user:password:and more").into(),
        STANDARD
            .encode([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3, 75, 76])
            .into(),
    ];
    for text in texts {
        let shown = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(unread_in_field(&text), None, "{shown}");
    }
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0";
    let avif = b"\0\0\0\x18ftypavif\0\0\0\0";
    let uri = |kind: &str, bytes: &[u8]| format!("data:{kind};base64,{}", STANDARD.encode(bytes));
    let pictures: Vec<(Vec<u8>, &str)> = vec![
        (heic.into(), "is HEIC"),
        (uri("image/heic", heic).into(), "is HEIC as base64"),
        (uri("", heic).into(), "is HEIC as base64"),
        (
            format!("\r\n\"{}\"", uri("image/avif", avif)).into(),
            "is AVIF as base64",
        ),
        (STANDARD.encode(avif).into(), "is AVIF as base64"),
        (URL_SAFE_NO_PAD.encode(heic).into(), "is HEIC as base64"),
        (b"data:image/svg+xml,%3Csvg".into(), "is a data: URI"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'/>".into(),
            "is an SVG drawing",
        ),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3".into(), "is PDF"),
        (b"ffd8ffe000104a46494600010100".into(), "in hexadecimal"),
        (
            [b"caption\0".as_slice(), &jpeg()].concat(),
            "bytes before its JPEG",
        ),
        (
            jpeg()
                .into_iter()
                .filter(|byte| !matches!(byte, 0 | b'\r' | b'\n'))
                .collect(),
            "lost its line breaks",
        ),
    ];
    for (bytes, says) in pictures {
        let said = unread_in_field(&bytes).map(|why| why.to_string());
        assert!(
            said.as_ref().is_some_and(|said| said.contains(says)),
            "{says}: {said:?}"
        );
    }
}

#[test]
fn text_and_noise_of_any_length_are_told_without_a_panic() {
    let mut random = fastrand::Rng::with_seed(15);
    for _ in 0..20_000 {
        let length = random.usize(0..700);
        let narrow = random.bool();
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                if narrow {
                    random.alphanumeric() as u8
                } else {
                    random.u8(..)
                }
            })
            .collect();
        let _ = plain(&bytes, 300);
    }
}
