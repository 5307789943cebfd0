//! Cameras with their quirks, each played by a server on a socket. What is passed on goes through
//! `Frames`, as in the camera process.

use super::*;
use crate::http_client::test_server::{Server, Then, field};

const LIMIT: usize = 10_000;

/// A small JPEG that holds this letter.
fn jpeg(letter: char) -> Vec<u8> {
    let mut jpeg = b"\xFF\xD8\xFF\xDB\0\x04ab\xFF\xDA\0\x03x".to_vec();
    jpeg.push(letter as u8);
    jpeg.extend_from_slice(b"\xFF\0\xFF\xD9");
    jpeg
}

/// The frames that the camera process finds: letters of `jpeg`, `=` for an unchanged picture, `!`
/// for a broken one, `?` for no stream.
fn found(bytes: &[u8]) -> String {
    let mut frames = Frames::new(bytes, LIMIT);
    let mut found = String::new();
    loop {
        found.push(match frames.next().unwrap() {
            Next::Frame(frame) => {
                assert_eq!(frame, jpeg(frame[13] as char));
                frame[13] as char
            }
            Next::Unchanged => '=',
            Next::Broken(_) => '!',
            Next::NotAStream(_) => '?',
            Next::Ended => return found,
        });
    }
}

/// An output that is closed once it holds so many frames.
struct Output {
    bytes: Vec<u8>,
    wanted: usize,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match found(&self.bytes).len() >= self.wanted {
            true => Err(std::io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

fn camera(server: &Server) -> HttpCamera {
    HttpCamera {
        address: server.address.clone(),
        path: "/snap?channel=1".into(),
        login: Some(Login {
            user: "cam".into(),
            password: "geheim".into(),
        }),
        trust: Trust::System,
        rate: 100.0,
        max_bytes: LIMIT,
        stall_after: Duration::from_secs(4),
    }
}

/// Takes so many frames, or as many as come until the error.
async fn taken(camera: HttpCamera, wanted: usize) -> (String, HttpCameraError) {
    let mut out = Output {
        bytes: Vec::new(),
        wanted,
    };
    let limit = Duration::from_secs(30);
    let error = timeout(limit, produce(camera, &mut out)).await.unwrap();
    let error = error.unwrap_err();
    let found = found(&out.bytes);
    if found.len() >= wanted {
        assert!(matches!(error, HttpCameraError::Output(_)), "{error}");
    }
    (found, error)
}

fn answer(header: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\n{header}\r\n").as_bytes(), body].concat()
}

fn with_length(header: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    answer(&format!("{header}Content-Length: {length}\r\n"), body)
}

#[tokio::test]
async fn a_picture_comes_for_each_request_on_one_connection() {
    let mut count = 0;
    let server = Server::of_bytes(move |_| {
        count += 1;
        let letter = ['a', 'b', 'b', 'c'][count - 1];
        let header = "Content-Type: image/jpeg\r\n";
        (with_length(header, &jpeg(letter)), Then::Keep)
    })
    .await;
    let mut camera = camera(&server);
    camera.rate = 20.0;
    let begun = Instant::now();
    assert_eq!(taken(camera, 4).await.0, "ab=c");
    assert!(begun.elapsed() >= Duration::from_millis(150), "at its rate");
    let seen = server.seen();
    assert!(seen.iter().all(|(connection, _)| *connection == 0));
    assert!(seen[0].1.starts_with("GET /snap?channel=1 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn an_unchanged_picture_is_not_sent_again() {
    let server = Server::of_bytes(|request| {
        let answer = match field(request, "if-none-match") {
            Some("\"one\"") => b"HTTP/1.1 304 Not Modified\r\nETag: \"one\"\r\n\r\n".to_vec(),
            _ => with_length("ETag: \"one\"\r\n", &jpeg('a')),
        };
        (answer, Then::Keep)
    })
    .await;
    assert_eq!(taken(camera(&server), 4).await.0, "a===");
}

#[tokio::test]
async fn pictures_are_found_in_odd_answers() {
    let (a, junk) = (jpeg('a'), b"\0\0 rest of a buffer \xFF\xD9\xFF".as_slice());
    let padded = [&a, junk].concat();
    let chunked = [
        b"6\r\n".as_slice(),
        &a[..6],
        format!("\r\n{:x}\r\n", a.len() - 6).as_bytes(),
        &a[6..],
        b"\r\n",
    ]
    .concat();
    let whole_chunks = [&chunked[..], b"0\r\n\r\n"].concat();
    let encoding = "Transfer-Encoding: chunked\r\n";
    let long = "Content-Length: 9999\r\n";
    for (quirk, answer, then) in [
        (
            "type",
            with_length("Content-Type: text/html\r\n", &a),
            Then::Keep,
        ),
        ("no type", with_length("", &a), Then::Keep),
        ("bytes after the end", with_length("", &padded), Then::Keep),
        (
            "blanks before",
            with_length("", &[b"\r\n", &a[..]].concat()),
            Then::Keep,
        ),
        ("no length", answer("", &a), Then::Close),
        ("no length, open", answer("", &a), Then::Hang),
        ("no length, bytes after", answer("", &padded), Then::Close),
        (
            "closed each time",
            with_length("Connection: close\r\n", &a),
            Then::Close,
        ),
        ("closed without a word", with_length("", &a), Then::Close),
        ("chunked", answer(encoding, &whole_chunks), Then::Keep),
        (
            "chunked without end",
            answer(encoding, &chunked),
            Then::Close,
        ),
        ("length too large", answer(long, &a), Then::Close),
        ("length too large, open", answer(long, &a), Then::Hang),
        (
            "bytes behind its length",
            [with_length("", &a), junk.into()].concat(),
            Then::Keep,
        ),
        (
            "HTTP/1.0",
            [b"HTTP/1.0 200 OK\r\n\r\n", &a[..]].concat(),
            Then::Close,
        ),
    ] {
        let server = Server::of_bytes(move |_| (answer.clone(), then)).await;
        let (found, _) = taken(camera(&server), 3).await;
        assert_eq!(found, "a==", "{quirk}");
    }
}

#[tokio::test]
async fn an_answer_without_a_picture_is_named() {
    let page = b"<html>please log in</html>";
    let (a, png) = (jpeg('a'), b"\x89PNG\r\n\x1a\n");
    let huge = [&a[..14], &vec![b'x'; 2 * LIMIT]].concat();
    for (answer, words) in [
        (
            with_length("Content-Type: image/jpeg\r\n", page),
            "a web page came",
        ),
        (with_length("", png), "a PNG came"),
        (with_length("", &a[..a.len() - 2]), "the picture is cut off"),
        (with_length("", b""), "nothing came"),
        (with_length("", &huge), "more than 10000 bytes"),
        (answer("", &huge), "more than 10000 bytes"),
        (
            answer(
                "Content-Type: multipart/x-mixed-replace; boundary=x\r\n",
                b"--x\r\n\r\n--x--",
            ),
            "its stream ended before the first one",
        ),
    ] {
        let server = Server::of_bytes(move |_| (answer.clone(), Then::Close)).await;
        let (found, error) = taken(camera(&server), 1).await;
        let error = error.to_string();
        assert_eq!(found, "");
        assert!(error.starts_with("not a stream: "), "{error}");
        assert!(error.contains(words), "{error}");
    }
    // Between pictures it costs only itself.
    let mut count = 0;
    let server = Server::of_bytes(move |_| {
        count += 1;
        let body = match count {
            1 => jpeg('a'),
            2 => page.to_vec(),
            3 => jpeg('b')[..14].to_vec(),
            _ => jpeg('c'),
        };
        (with_length("", &body), Then::Keep)
    })
    .await;
    assert_eq!(taken(camera(&server), 2).await.0, "ac");
}

/// Parts with these headers, line ends, and bytes behind each picture.
fn parts(delimiter: &str, header: &str, end: &str, behind: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for letter in ['a', 'b', 'c'] {
        let jpeg = jpeg(letter);
        let header = header.replace("LENGTH", &jpeg.len().to_string());
        let head = format!("{delimiter}{end}{}{end}", header.replace('\n', end));
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&jpeg);
        body.extend_from_slice(behind);
        body.extend_from_slice(end.as_bytes());
    }
    body
}

#[tokio::test]
async fn the_pictures_of_a_stream_are_found() {
    let usual = "Content-Type: image/jpeg\nContent-Length: LENGTH\n";
    let mixed = |boundary: &str| format!("Content-Type: multipart/x-mixed-replace{boundary}\r\n");
    let a = mixed(";boundary=x");
    for (quirk, header, body) in [
        ("as it should be", &a, parts("--x", usual, "\r\n", b"")),
        (
            "boundary with dashes",
            &mixed("; boundary=--x"),
            parts("--x", usual, "\r\n", b""),
        ),
        (
            "boundary in quotes",
            &mixed("; boundary=\"x\""),
            parts("--x", usual, "\r\n", b""),
        ),
        (
            "boundary in odd quotes",
            &mixed(";boundary='x"),
            parts("--x", usual, "\r\n", b""),
        ),
        ("no dashes in the body", &a, parts("x", usual, "\r\n", b"")),
        ("no boundary", &mixed(""), parts("--x", usual, "\r\n", b"")),
        ("another boundary", &a, parts("--other", usual, "\r\n", b"")),
        ("no type", &String::new(), parts("--x", usual, "\r\n", b"")),
        (
            "type of one picture",
            &"Content-Type: image/jpeg\r\n".into(),
            parts("--x", usual, "\r\n", b""),
        ),
        (
            "no length",
            &a,
            parts("--x", "Content-Type: image/jpeg\n", "\r\n", b""),
        ),
        ("no header", &a, parts("--x", "", "\r\n", b"")),
        (
            "length too small",
            &a,
            parts("--x", "Content-Length: 3\n", "\r\n", b""),
        ),
        (
            "length too large",
            &a,
            parts("--x", "Content-Length: 99\n", "\r\n", b""),
        ),
        ("LF", &a, parts("--x", usual, "\n", b"")),
        ("no line end behind", &a, parts("--x", usual, "", b"")),
        (
            "bytes behind",
            &a,
            parts("--x", usual, "\r\n", b"\0\0 old \xFF\xD9\xFF\r\n--y\r\n"),
        ),
        (
            "a text between",
            &a,
            parts(
                "--x\r\nContent-Type: text/plain\r\n\r\nhello\r\n--x",
                usual,
                "\r\n",
                b"",
            ),
        ),
    ] {
        let header = header.clone();
        let server = Server::of_bytes(move |_| (answer(&header, &body), Then::Hang)).await;
        let (found, _) = taken(camera(&server), 3).await;
        assert_eq!(found, "abc", "{quirk}");
        assert_eq!(server.seen().len(), 1, "{quirk}");
    }
    // Chunks that have nothing to do with the parts.
    let body = parts("--x", usual, "\r\n", b"");
    let mut chunks = Vec::new();
    for piece in body.chunks(7) {
        chunks.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunks.extend_from_slice(piece);
        chunks.extend_from_slice(b"\r\n");
    }
    let header = format!("{a}Transfer-Encoding: chunked\r\n");
    let server = Server::of_bytes(move |_| (answer(&header, &chunks), Then::Hang)).await;
    assert_eq!(taken(camera(&server), 3).await.0, "abc");
}

#[tokio::test]
async fn a_stream_that_ends_is_asked_for_again() {
    let header = "Content-Type: multipart/x-mixed-replace\r\n";
    let body = [b"--x\r\n\r\n".as_slice(), &jpeg('a')].concat();
    let cut = [body.as_slice(), b"\r\n--x\r\n\r\n", &jpeg('b')[..12]].concat();
    let long = format!("{header}Content-Length: 9999\r\n");
    for (header, body, frames) in [(header, body.clone(), "aaa"), (&long, cut, "a!a")] {
        let (header, body) = (header.to_owned(), body);
        let server = Server::of_bytes(move |_| (answer(&header, &body), Then::Close)).await;
        assert_eq!(taken(camera(&server), 3).await.0, frames);
    }
}

#[tokio::test]
async fn a_part_without_end_costs_itself_a_header_the_stream() {
    let header = "Content-Type: multipart/x-mixed-replace\r\n";
    let mut long = jpeg('x')[..14].to_vec();
    long.resize(5 * LIMIT, b'x');
    let body = [
        &jpeg('a'),
        &long[..],
        b"\r\n--x\r\n\r\n",
        &jpeg('b'),
        b"\r\n",
    ]
    .concat();
    let server = Server::of_bytes(move |_| (answer(header, &body), Then::Hang)).await;
    assert_eq!(taken(camera(&server), 3).await.0, "a!b");
    let body = [b"--x\r\n".to_vec(), b"X-Endless: y\r\n".repeat(200_000)].concat();
    let server = Server::of_bytes(move |_| (answer(header, &body), Then::Hang)).await;
    assert_eq!(taken(camera(&server), 1).await.0, "?");
}

#[tokio::test]
async fn a_camera_that_restarted_asks_for_its_login_anew() {
    let mut count = 0;
    let server = Server::of_bytes(move |request| {
        count += 1;
        let nonce = if count < 4 { "first" } else { "second" };
        let given = field(request, "authorization").unwrap_or_default();
        let answer = if given.contains(nonce) {
            with_length("", &jpeg(char::from(b'a' + count)))
        } else {
            format!(
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"r\", qop=\"auth\", \
                 nonce=\"{nonce}\"\r\nContent-Length: 0\r\n\r\n"
            )
            .into_bytes()
        };
        (answer, Then::Keep)
    })
    .await;
    assert_eq!(taken(camera(&server), 3).await.0, "cdf");
    let server = Server::of_bytes(|_| {
        let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"\r\n\
                      Content-Length: 0\r\n\r\n";
        (answer.into(), Then::Keep)
    })
    .await;
    let (_, error) = taken(camera(&server), 1).await;
    let error = error.to_string();
    assert!(error.starts_with("unauthorised: http://127"), "{error}");
    assert!(!error.contains("geheim") && !error.contains("snap"));
    assert_eq!(server.seen().len(), 2, "no more than one try");
}

#[tokio::test]
async fn a_camera_that_is_busy_is_asked_again_in_growing_waits() {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    let mut count = 0;
    let server = Server::of_bytes(move |_| {
        count += 1;
        match count {
            2 | 3 => (BUSY.into(), Then::Keep),
            4 => (Vec::new(), Then::Close),
            _ => (with_length("", &jpeg('a')), Then::Keep),
        }
    })
    .await;
    assert_eq!(taken(camera(&server), 3).await.0, "a==");
    let server = Server::of_bytes(|_| (BUSY.into(), Then::Keep)).await;
    let (_, error) = taken(camera(&server), 1).await;
    let error = error.to_string();
    assert!(error.starts_with("unavailable: http://127"), "{error}");
    // After 0, 0.25, 0.75 and 1.75 s; the next would be later than 3 s.
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn each_way_of_failing_has_its_name() {
    let quick = |server: &Server| {
        let mut camera = camera(server);
        camera.stall_after = Duration::from_millis(400);
        camera
    };
    let header = "Content-Type: multipart/x-mixed-replace\r\n";
    let stream = answer(header, &[b"--x\r\n\r\n", &jpeg('a')[..]].concat());
    for (answer, then, words) in [
        (Vec::new(), Then::Hang, "stalled: "),
        (stream, Then::Hang, "stalled: "),
        (
            b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec(),
            Then::Close,
            "not a stream: ",
        ),
        (
            b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec(),
            Then::Close,
            "unauthorised: ",
        ),
        (
            b"RTSP/1.0 400 Bad\r\n\r\n".to_vec(),
            Then::Close,
            "not a stream: ",
        ),
        (Vec::new(), Then::Close, "the stream ended: "),
    ] {
        let server = Server::of_bytes(move |_| (answer.clone(), then)).await;
        let (_, error) = taken(quick(&server), 9).await;
        assert!(error.to_string().starts_with(words), "{error}");
    }
    let server = Server::of_bytes(|_| (Vec::new(), Then::Close)).await;
    let mut nowhere = quick(&server);
    nowhere.address.host = "camera.invalid".into();
    nowhere.stall_after = Duration::from_secs(20);
    let (_, error) = taken(nowhere, 1).await;
    assert!(error.to_string().starts_with("name not found: "), "{error}");
    let mut closed = quick(&server);
    closed.address.port = 1;
    let (_, error) = taken(closed, 1).await;
    assert!(error.to_string().starts_with("refused: "), "{error}");
}
