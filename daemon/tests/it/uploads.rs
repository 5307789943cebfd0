//! Bodies of requests: judged by their bytes, accepted whole or not at all, and never collected in
//! memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{TestDaemon, full, part_is_ok, photo, wait_for};

fn jpeg() -> Vec<u8> {
    std::fs::read(photo("obama_2.jpg")).unwrap()
}

/// Returns the output of openssl or gzip, which users' scripts pipe into curl.
fn piped(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in");
    std::fs::write(&file, bytes).unwrap();
    let output = Command::new(program)
        .args(arguments)
        .stdin(std::fs::File::open(file).unwrap())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    piped(
        "python3",
        &[
            "-c",
            "import sys,zlib;sys.stdout.buffer.write(zlib.compress(sys.stdin.buffer.read()))",
        ],
        bytes,
    )
}

type Headers = Vec<(&'static str, &'static str)>;

/// Builds a part of a form; `disposition` follows `form-data`.
fn part(disposition: &[u8], bytes: &[u8]) -> Vec<u8> {
    [
        b"--x\r\nContent-Disposition: form-data",
        disposition,
        b"\r\n\r\n",
        bytes,
        b"\r\n",
    ]
    .concat()
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), b"--x--\r\n".to_vec()].concat()
}

const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=x");
/// The routes that take one picture.
const DOORS: [&str; 3] = ["/v1/images", "/v1/identify", "/v1/people?name=Ann"];

fn spool(daemon: &TestDaemon) -> usize {
    std::fs::read_dir(daemon.state("spool")).unwrap().count()
}

fn detail(problem: &Value) -> &str {
    problem["detail"]
        .as_str()
        .unwrap_or_else(|| panic!("no sentence: {problem}"))
}

#[test]
fn every_door_takes_a_picture_however_it_is_sent() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let jpeg = jpeg();
    let base64 = piped("base64", &[], &jpeg);
    let one_line = piped("base64", &["-w0"], &jpeg);
    let uri = [b"data:image/jpeg;base64,".as_slice(), &one_line].concat();
    let form = form(&[part(b"; name=\"picture\"; filename=\"a.jpg\"", &jpeg)]);
    let ways: Vec<(&str, Headers, Vec<u8>)> = vec![
        ("no type", vec![], jpeg.clone()),
        (
            "curl --data-binary",
            vec![("content-type", "application/x-www-form-urlencoded")],
            jpeg.clone(),
        ),
        (
            "another type",
            vec![("content-type", "Application/JSON")],
            jpeg.clone(),
        ),
        (
            "leading line break",
            vec![("content-type", "image/jpeg")],
            [b"\r\n".as_slice(), &jpeg].concat(),
        ),
        ("form", vec![FORM], form.clone()),
        (
            "Form",
            vec![(
                "content-type",
                "Multipart/Form-Data; charset=utf-8; BOUNDARY=\"x\"",
            )],
            form.clone(),
        ),
        (
            "base64",
            vec![("content-type", "text/plain; charset=us-ascii")],
            base64.clone(),
        ),
        ("data URI", vec![], uri.clone()),
        (
            "base64 in a form",
            vec![FORM],
            self::form(&[part(b"; name=\"picture\"", &base64)]),
        ),
        (
            "gzip",
            vec![("content-encoding", "gzip")],
            piped("gzip", &["-c"], &jpeg),
        ),
        (
            "GZIP of a form",
            vec![FORM, ("content-encoding", "X-GZip, identity")],
            piped("gzip", &["-c"], &form),
        ),
        (
            "deflate",
            vec![("content-encoding", "Deflate")],
            zlib(&jpeg),
        ),
    ];
    for (way, headers, body) in &ways {
        let (status, answer) = daemon.post("/v1/identify", headers, body);
        assert_eq!(
            (status, &answer["faces"][0]["person"]["name"]),
            (200, &json!("Barack Obama")),
            "{way}: {answer}"
        );
        let (status, answer) = daemon.post("/v1/images", headers, body);
        assert_eq!(status, 202, "{way}: {answer}");
        assert_eq!(
            daemon.ended(answer["ids"][0].as_i64().unwrap())["persons"],
            json!(["Barack Obama"]),
            "{way}"
        );
        // The spooled bytes are the same for each form of upload.
        let (status, answer) =
            daemon.post_as_admin("/v1/people?name=Barack%20Obama", headers, body);
        assert_eq!(
            status,
            if *way == ways[0].0 { 201 } else { 200 },
            "{way}: {answer}"
        );
    }
}

#[test]
fn what_can_be_no_picture_is_refused_with_what_to_change() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    part_is_ok(&daemon, "engine");
    let jpeg = jpeg();
    let torn: Vec<u8> = jpeg
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, 0 | b'\r' | b'\n'))
        .collect();
    let torn_only: Vec<u8> = jpeg
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b'\r' | b'\n'))
        .collect();
    let base64 = String::from_utf8(piped("base64", &["-w0"], &jpeg)).unwrap();
    let urlencoded = ("content-type", "application/x-www-form-urlencoded");
    let cases: Vec<(Headers, Vec<u8>, u16, &str)> = vec![
        (vec![], vec![], 422, "is empty"),
        (
            vec![("content-type", "image/jpeg")],
            b"\0\0\0\x18ftypheic\0\0\0\0".into(),
            422,
            "is HEIC; send it as JPEG",
        ),
        (vec![urlencoded], torn, 422, "--data-binary"),
        (vec![urlencoded], torn_only, 422, "--data-binary"),
        (
            vec![urlencoded],
            b"picture=a.jpg&name=x".into(),
            422,
            "--data-binary",
        ),
        (
            vec![],
            form(&[part(b"; name=\"p\"; filename=\"a.jpg\"", &jpeg)]),
            422,
            "Content-Type: multipart/form-data",
        ),
        (
            vec![],
            json!({ "type": "Buffer", "data": &jpeg[..99] })
                .to_string()
                .into(),
            422,
            "msg.payload",
        ),
        (
            vec![],
            json!({ "image": base64 }).to_string().into(),
            422,
            "base64",
        ),
        (
            vec![],
            [b"abcde".as_slice(), &jpeg].concat(),
            422,
            "5 bytes before its JPEG",
        ),
        (
            vec![],
            format!("{}%{}", &base64[..9000], &base64[9000..]).into(),
            422,
            "character 9001 is not base64",
        ),
        (
            vec![("content-encoding", "br")],
            jpeg.clone(),
            415,
            "Content-Encoding br",
        ),
        (
            vec![("content-encoding", "gzip, gzip")],
            jpeg.clone(),
            415,
            "Content-Encoding gzip, gzip",
        ),
        (
            vec![("content-encoding", "gzip")],
            jpeg.clone(),
            400,
            "Content-Encoding",
        ),
        (
            vec![],
            piped("gzip", &["-c"], &jpeg),
            422,
            "Content-Encoding: gzip",
        ),
        (
            vec![FORM],
            form(&[part(b"; name=\"comment\"", b"hello")]),
            400,
            "only text: \"comment\"",
        ),
        (
            vec![FORM],
            form(&[part(b"; name=\"f\"; filename=\"notes.txt\"", b"hello")]),
            422,
            "\"notes.txt\" is plain text",
        ),
        (
            vec![FORM],
            form(&[part(b"; name=\"f\"; filename=\"a.jpg\"", b"")]),
            422,
            "\"a.jpg\" is empty",
        ),
        (
            vec![FORM],
            b"--x\r\nContent-Disposition: form-data; name=\"p\"".into(),
            400,
            "broken",
        ),
        (
            vec![("content-type", "multipart/form-data")],
            jpeg.clone(),
            400,
            "oundary",
        ),
    ];
    for door in DOORS {
        for (headers, body, status, says) in &cases {
            let (found, problem) = daemon.post_as_admin(door, headers, body);
            assert_eq!(found, *status, "{door} {says}: {problem}");
            assert!(
                detail(&problem).contains(says),
                "{door}: {problem} does not say {says:?}"
            );
        }
    }
    let nothing = form(&[part(b"; name=\"p\"; filename=\"\"", b"")]);
    assert_eq!(daemon.post("/v1/images", &[FORM], &nothing).0, 400);
    assert_eq!(
        daemon.sql("SELECT (SELECT count(*) FROM images) + (SELECT count(*) FROM person)"),
        ["0"]
    );
    wait_for("the spool to be empty", || {
        (spool(&daemon) == 0).then_some(())
    });
    // A picture by its first bytes that cannot be decoded becomes a failed image.
    let (status, answer) = daemon.post("/v1/images", &[], &jpeg[..2000]);
    assert_eq!(status, 202, "{answer}");
    assert_eq!(
        daemon.ended(answer["ids"][0].as_i64().unwrap())["state"],
        "failed"
    );
}

#[test]
fn curl_may_leave_the_content_type_out_of_paths() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let path = daemon.put("noface.jpg", "x.jpg");
    let many = json!({ "paths": [{ "path": path }, { "path": path }] }).to_string();
    for (body, ids) in [
        (json!({ "path": path }).to_string(), 1),
        (format!("\u{feff} {many}"), 2),
    ] {
        let output = Command::new("curl")
            .args(["-sS", "-d", &body, &daemon.url("/v1/images")])
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            answer["ids"].as_array().map(Vec::len),
            Some(ids),
            "{answer}"
        );
    }
    for (body, says) in [
        ("path=/srv/a.jpg", "a form of the kind key=value"),
        ("", "EOF"),
    ] {
        let (status, problem) = daemon.post("/image/post", &[], body.as_bytes());
        assert_eq!(status, 400, "{problem}");
        assert!(detail(&problem).contains(says), "{problem}");
    }
    let (_, problem) = daemon.post("/image/post", &[], &jpeg());
    assert!(
        detail(&problem).contains("a JPEG, which is taken by POST /v1/images"),
        "{problem}"
    );
}

#[test]
fn a_part_of_a_form_is_a_picture_by_its_bytes() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let jpeg = jpeg();
    let plain = || part(b"; name=\"a\"; filename=\"plain.jpg\"", &jpeg);
    let shapes: [(&[u8], &str); 9] = [
        (
            b"; name=\"b\"; filename*=UTF-8''na%C3%AFve.jpg",
            "naïve.jpg",
        ),
        (
            b"; name=\"b\"; filename*=UTF-8''na%C3%AFve.jpg; filename=\"naive.jpg\"",
            "naïve.jpg",
        ),
        (b"; name=\"b\"; filename=\"na\xefve.jpg\"", "naïve.jpg"),
        (b"; name=\"b\"; Filename=\"x.jpg\"", "x.jpg"),
        (b"; name=\"b\"; FileName = x.jpg", "x.jpg"),
        (
            b"; name=\"b\"; filename=\"a; b=\\\"c\\\".jpg\"",
            "a; b=\"c\".jpg",
        ),
        (b"; name=\"b\"; filename=\"\"", "upload"),
        (b"; name=\"b\"", "upload"),
        (b"", "upload"),
    ];
    for (shape, name) in shapes {
        let shape_text = String::from_utf8_lossy(shape);
        let comment = part(b"; name=\"comment\"", b"hello");
        let (status, answer) = daemon.post(
            "/v1/images",
            &[FORM],
            &form(&[comment, plain(), part(shape, &jpeg)]),
        );
        assert_eq!(status, 202, "{shape_text}: {answer}");
        let ids: Vec<_> = answer["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_i64().unwrap())
            .collect();
        assert_eq!(ids.len(), 2, "{shape_text}: {answer}");
        assert_eq!(
            daemon.get(&format!("/v1/images/{}", ids[1]))["path"],
            name,
            "{shape_text}"
        );
    }
}

#[test]
fn fields_of_a_form_are_text_whatever_their_bytes() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    part_is_ok(&daemon, "engine");
    let jpeg = jpeg();
    let picture = || part(b"; name=\"picture\"; filename=\"a.jpg\"", &jpeg);
    let umlauts = "ä".repeat(300);
    let utf16: Vec<u8> = "Einfahrt"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let texts: [&[u8]; 9] = [
        umlauts.as_bytes(),
        &[b"a", umlauts.as_bytes()].concat(),
        b"M\xfcller am Tor",
        b"\xd1\xed\xe8\xec\xee\xea",
        b"\x1b$B%+%a%i\x1b(B",
        &utf16,
        &[b'x'; 9000],
        b"P1 parking",
        b"\x07\xc8\x03",
    ];
    for text in texts {
        let shown = String::from_utf8_lossy(&text[..text.len().min(20)]);
        let both = form(&[part(b"; name=\"comment\"", text), picture()]);
        let (status, answer) = daemon.post("/v1/images", &[FORM], &both);
        assert_eq!(status, 202, "{shown}: {answer}");
        assert_eq!(answer["ids"].as_array().unwrap().len(), 1, "{shown}");
        let (status, answer) = daemon.post("/v1/identify", &[FORM], &both);
        assert_eq!(status, 200, "{shown}: {answer}");
    }
    let queued = daemon.sql("SELECT count(*) FROM images");
    let base64 = |bytes: &[u8]| String::from_utf8(piped("base64", &["-w0"], bytes)).unwrap();
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    let pictures = [
        (format!("data:image/heic;base64,{}", base64(heic)), "HEIC"),
        (base64(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif"), "AVIF"),
        ("data:image/svg+xml,%3Csvg/%3E".into(), "a data: URI"),
        (
            "<svg xmlns=\"http://www.w3.org/2000/svg\"/>".into(),
            "an SVG drawing",
        ),
        (String::from_utf8_lossy(heic).into(), "HEIC"),
    ];
    for (text, kind) in pictures {
        for parts in [
            [picture(), part(b"; name=\"second\"", text.as_bytes())],
            [part(b"; name=\"second\"", text.as_bytes()), picture()],
        ] {
            let (status, problem) = daemon.post("/v1/images", &[FORM], &form(&parts));
            assert_eq!(status, 422, "{kind}: {problem}");
            let said = detail(&problem);
            assert!(
                said.contains("the part \"second\"") && said.contains(kind),
                "{kind}: {said}"
            );
        }
    }
    assert_eq!(daemon.sql("SELECT count(*) FROM images"), queued);
}

#[test]
fn a_picture_by_http_may_name_its_camera_and_event() {
    let mut daemon = TestDaemon::new();
    daemon.start_with_everybody();
    let jpeg = std::fs::read(photo("obama_2.jpg")).unwrap();
    let picture = || part(b"; name=\"picture\"; filename=\"a.jpg\"", &jpeg);
    let field =
        |name: &str, text: &str| part(format!("; name=\"{name}\"").as_bytes(), text.as_bytes());
    let path = daemon.put("obama_2.jpg", "a.jpg");
    let other = daemon.put("obama_2.jpg", "b.jpg");
    let one = json!({"path": path, "camera": "gate", "event": "7"});
    let many = json!({"camera": "hall", "paths": [path, {"path": other, "camera": "yard"}]});
    let alone = json!({ "path": path });
    let raw = [("content-type", "image/jpeg")];
    let json = [("content-type", "application/json")];
    let queued: [(&str, &[_], Vec<u8>, Vec<&str>); 7] = [
        (
            "/v1/images?camera=front&event=e-1",
            &raw[..],
            jpeg.clone(),
            vec!["front e-1"],
        ),
        (
            "/v1/images",
            &[FORM],
            form(&[field("event", ""), picture(), field("camera", "door")]),
            vec!["door -"],
        ),
        // What the body says goes before the address.
        (
            "/v1/images?camera=front&event=e-2",
            &[FORM],
            form(&[field("camera", "door"), picture(), picture()]),
            vec!["door e-2", "door e-2"],
        ),
        ("/v1/images", &json, one.to_string().into(), vec!["gate 7"]),
        ("/image/post", &[], one.to_string().into(), vec!["gate 7"]),
        (
            "/images/post",
            &[],
            many.to_string().into(),
            vec!["hall -", "yard -"],
        ),
        (
            "/image/post?camera=front",
            &[],
            alone.to_string().into(),
            vec!["front -"],
        ),
    ];
    for (route, headers, body, expected) in queued {
        let (status, answer) = daemon.post(route, headers, &body);
        assert_eq!(status, 202, "{route}: {answer}");
        let ids = &answer["ids"];
        let origins = daemon.sql(&format!(
            "SELECT coalesce(camera, '-') || ' ' || coalesce(event, '-') FROM images
              WHERE id IN (SELECT value FROM json_each('{ids}')) ORDER BY id"
        ));
        assert_eq!(origins, expected, "{route}");
        for id in ids.as_array().unwrap() {
            daemon.ended(id.as_i64().unwrap());
        }
    }
    let sources = "SELECT source FROM sightings ORDER BY source";
    wait_for("a sighting of each camera", || {
        let expected = ["door", "front", "gate", "hall", "yard"];
        (daemon.sql(sources) == expected).then_some(())
    });
    let images = daemon.get("/v1/images?camera=gate");
    assert_eq!(images["images"].as_array().unwrap().len(), 2, "{images}");

    let count = daemon.sql("SELECT count(*) FROM images");
    let long = "a".repeat(65);
    let wrong_one = json!({"path": path, "event": "a/b"});
    let wrong_other = json!({"paths": [path, {"path": other, "camera": 5}]});
    let refused: [(String, &[_], Vec<u8>, &str); 6] = [
        (
            "/v1/images?camera=a%20b".into(),
            &raw,
            jpeg.clone(),
            "camera",
        ),
        (
            format!("/v1/images?event={long}"),
            &raw,
            jpeg.clone(),
            "event",
        ),
        (
            "/v1/images".into(),
            &[FORM],
            form(&[picture(), field("camera", "Front Door")]),
            "camera",
        ),
        (
            "/v1/images".into(),
            &json,
            wrong_one.to_string().into(),
            "event",
        ),
        (
            "/images/post".into(),
            &[],
            wrong_other.to_string().into(),
            "camera",
        ),
        (
            "/image/post?camera=".into(),
            &[],
            alone.to_string().into(),
            "camera",
        ),
    ];
    for (route, headers, body, part) in refused {
        let (status, problem) = daemon.post(&route, headers, &body);
        assert_eq!(status, 400, "{route}: {problem}");
        let said = format!("\"{part}\" must be 1 to 64 letters, digits, dots, - or _");
        assert!(detail(&problem).contains(&said), "{route}: {problem}");
    }
    assert_eq!(daemon.sql("SELECT count(*) FROM images"), count);
}

#[test]
fn a_form_is_queued_whole_or_not_at_all() {
    let mut daemon = TestDaemon::new();
    daemon.set("intake.max_pending", "5");
    daemon.set("intake.max_bytes", "1MiB");
    daemon.start();
    part_is_ok(&daemon, "engine");
    assert!(daemon.kithd(["breaker", "open"]).status.success());
    let jpeg = jpeg();
    let file = |name: &str, bytes: &[u8]| {
        part(
            format!("; name=\"p\"; filename=\"{name}\"").as_bytes(),
            bytes,
        )
    };
    let good = || file("good.jpg", &jpeg);
    let key = ("idempotency-key", "form-1");
    let large = [jpeg.as_slice(), &vec![0; 1 << 20]].concat();
    let refused: [(&str, Vec<Vec<u8>>, u16, &str); 5] = [
        (
            "empty",
            vec![good(), good(), file("void.jpg", b""), good()],
            422,
            "\"void.jpg\" is empty",
        ),
        (
            "empty first",
            vec![file("void.jpg", b""), good()],
            422,
            "\"void.jpg\" is empty",
        ),
        (
            "too large",
            vec![good(), file("large.jpg", &large)],
            413,
            "intake.max_bytes",
        ),
        (
            "no picture",
            vec![good(), file("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0")],
            422,
            "\"a.heic\" is HEIC",
        ),
        (
            "too many",
            (0..8).map(|_| good()).collect(),
            422,
            "intake.max_pending = 5",
        ),
    ];
    for (what, parts, status, says) in refused {
        let (found, problem) = daemon.post("/v1/images", &[FORM, key], &form(&parts));
        assert_eq!(found, status, "{what}: {problem}");
        assert!(detail(&problem).contains(says), "{what}: {problem}");
        assert_eq!(daemon.sql("SELECT count(*) FROM images"), ["0"], "{what}");
    }
    let unused = part(b"; name=\"second\"; filename=\"\"", b"");
    let parts = [
        good(),
        unused,
        file("other.jpg", &[&jpeg[..], b"\0"].concat()),
    ];
    let (status, answer) = daemon.post("/v1/images", &[FORM, key], &form(&parts));
    assert_eq!(
        (status, answer["ids"].as_array().map(Vec::len)),
        (202, Some(2)),
        "{answer}"
    );
    assert_eq!(
        daemon.post("/v1/images", &[FORM, key], &form(&parts)).1,
        answer,
        "the same form under the same key"
    );
    let (status, problem) = daemon.post("/v1/images", &[FORM, key], &form(&[good(), good()]));
    assert_eq!(status, 422, "{problem}");
    let four: Vec<_> = (0..4).map(|_| good()).collect();
    for _ in 0..3 {
        let (status, problem) = daemon.post("/v1/images", &[FORM], &form(&four));
        assert_eq!(status, 503, "there is room for three: {problem}");
    }
    assert_eq!(daemon.sql("SELECT count(*) FROM images"), ["2"]);
    wait_for("only what was accepted in the spool", || {
        (spool(&daemon) == 2).then_some(())
    });
    let (status, answer) = daemon.post("/v1/images", &[FORM], &form(&four[..3]));
    assert_eq!(status, 202, "{answer}");
}

/// Begins an upload and holds back its last byte.
fn held_back(address: &str, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /v1/images HTTP/1.1\r\nHost: {address}\r\nContent-Length: {bytes}\r\n\r\n"
    )
    .unwrap();
    let beginning = jpeg();
    stream.write_all(&beginning).unwrap();
    let zeros = vec![0; 64 << 10];
    let mut left = bytes - beginning.len() - 1;
    while left > 0 {
        let sent = left.min(zeros.len());
        stream.write_all(&zeros[..sent]).unwrap();
        left -= sent;
    }
    stream
}

/// Reads an answer to its end; returns its status.
fn status_of(mut stream: TcpStream) -> u16 {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut answer = Vec::new();
    let mut bytes = [0; 4096];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&bytes[..count]),
        }
    }
    String::from_utf8_lossy(&answer)
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0)
}

/// Returns a line of the daemon's /proc/PID/status in MiB.
fn mib(daemon: &TestDaemon, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let kib = status
        .lines()
        .find_map(|found| found.strip_prefix(line))
        .unwrap();
    kib.trim_start_matches(':')
        .split_whitespace()
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

#[test]
fn uploads_are_not_collected_in_memory_which_returns() {
    const CLIENTS: usize = 60;
    let bytes = if full() { 20 << 20 } else { 4 << 20 };
    let mut daemon = TestDaemon::new();
    daemon.start();
    part_is_ok(&daemon, "engine");
    let (idle, address) = (mib(&daemon, "VmRSS"), daemon.address());
    let uploads: Vec<_> = std::thread::scope(|scope| {
        let sending: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| held_back(address, bytes)))
            .collect();
        sending
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let peak = mib(&daemon, "VmHWM");
    println!(
        "{CLIENTS} uploads of {} MiB under way: {idle} MiB idle, {peak} MiB at most",
        bytes >> 20
    );
    assert!(peak <= idle + 100, "{peak} MiB, {idle} MiB before");
    // Other requests are answered meanwhile.
    let begun = Instant::now();
    assert_eq!(daemon.post("/v1/images", &[], &jpeg()).0, 202);
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    for mut upload in uploads {
        upload.write_all(b"\0").unwrap();
        assert_eq!(status_of(upload), 202);
    }
    wait_for("all of them", || {
        (daemon.get("/v1/status")["counts"]["processed"] == CLIENTS + 1).then_some(())
    });
    let after = wait_for("the memory to return", || {
        Some(mib(&daemon, "VmRSS")).filter(|mib| *mib <= idle + 20)
    });
    println!("{after} MiB after");
}

#[test]
fn sixty_clients_fit_into_little_address_space() {
    const CLIENTS: usize = 60;
    let each = if full() { 12 } else { 1 };
    let bytes = 3 << 20;
    let mut daemon = TestDaemon::new();
    // The queue has room for all of them.
    daemon.set("intake.max_pending", "10000");
    daemon.start();
    part_is_ok(&daemon, "engine");
    let limit = (mib(&daemon, "VmSize") + 300) << 20;
    let limits = [format!("--as={limit}"), format!("--pid={}", daemon.pid())];
    assert!(
        Command::new("prlimit")
            .args(limits)
            .status()
            .unwrap()
            .success()
    );
    let address = daemon.address();
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let client = || {
            (0..each)
                .map(|_| {
                    let mut upload = held_back(address, bytes);
                    upload.write_all(b"\0").unwrap();
                    status_of(upload)
                })
                .collect::<Vec<_>>()
        };
        let sending: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        sending
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let accepted = answers.iter().filter(|status| **status == 202).count();
    println!(
        "{} MiB from {CLIENTS} clients: {accepted} of {} accepted",
        answers.len() * (bytes >> 20),
        answers.len()
    );
    assert!(
        answers.iter().all(|status| [202, 503].contains(status)),
        "{answers:?}"
    );
    assert_eq!(
        daemon.sql("SELECT count(*) FROM images"),
        [accepted.to_string()]
    );
    assert!(accepted >= CLIENTS, "{answers:?}");
    assert_eq!(daemon.get("/v1/status")["counts"]["failed"], 0);
}
