//! `kithd camera list --lan` with stand-in ONVIF devices of several kinds on loopback: they answer
//! the search by multicast and the questions by HTTP, check logins as devices do, are silent, or
//! talk nonsense. In a network of its own, because the search has one fixed port.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use digest_auth::{AuthContext, AuthorizationHeader, HttpMethod};
use sha1::{Digest, Sha1};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::{TestDaemon, text, with_own_network};

const USER: &str = "viewer";
const PASSWORD: &str = "s3cret<&>";
/// The clocks of devices without a battery are that far behind.
const BEHIND: time::Duration = time::Duration::days(3);

/// The requests that a device got.
type Seen = Arc<Mutex<Vec<String>>>;

/// A device that answers over HTTP at a port of its own.
struct Device {
    port: u16,
    seen: Seen,
}

impl Device {
    /// Starts a device; `answer` has the request and the device's port, and returns status line and
    /// further header lines, and the body; `None`: it never answers.
    fn new(
        address: &str,
        answer: impl Fn(&str, u16) -> Option<(String, String)> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Seen::default();
        let told = seen.clone();
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read(&mut stream);
                told.lock().unwrap().push(request.clone());
                match answer(&request, port) {
                    None => silent.push(stream),
                    Some((head, body)) => {
                        let length = body.len();
                        let answer = format!(
                            "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
                        );
                        let _ = stream.write_all(answer.as_bytes());
                    }
                }
            }
        });
        Self { port, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

/// Reads a request with its body.
fn read(stream: &mut impl Read) -> String {
    let mut read = Vec::new();
    let mut byte = [0];
    loop {
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return String::from_utf8_lossy(&read).into_owned();
        }
        read.push(byte[0]);
    }
}

fn soap(body: &str) -> Option<(String, String)> {
    Some((
        "200 OK\r\nContent-Type: application/soap+xml".into(),
        enveloped(body),
    ))
}

fn enveloped(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><E:Envelope xmlns:E=\"http://www.w3.org/2003/05/soap-envelope\">\
         <E:Body>{body}</E:Body></E:Envelope>"
    )
}

fn fault(status: &str, code: &str) -> Option<(String, String)> {
    let body = format!(
        "<E:Fault><E:Code><E:Value>E:Sender</E:Value><E:Subcode><E:Value>ter:{code}</E:Value>\
         </E:Subcode></E:Code><E:Reason><E:Text>{code}</E:Text></E:Reason></E:Fault>"
    );
    Some((status.into(), enveloped(&body)))
}

fn between<'t>(text: &'t str, before: &str, after: &str) -> Option<&'t str> {
    text.split_once(before)?.1.split(after).next()
}

/// A device with a login in the message, by the first edition of the media service, found only
/// among its capabilities.
fn first_edition(request: &str, port: u16) -> Option<(String, String)> {
    let here = format!("http://127.0.0.1:{port}");
    let now = OffsetDateTime::now_utc() - BEHIND;
    if request.contains("<GetSystemDateAndTime ") {
        let (year, month, day) = now.to_calendar_date();
        let (hour, minute, second) = now.to_hms();
        return soap(&format!(
            "<t:GetSystemDateAndTimeResponse><t:SystemDateAndTime><s:UTCDateTime><s:Time>\
             <s:Hour>{hour}</s:Hour><s:Minute>{minute}</s:Minute><s:Second>{second}</s:Second>\
             </s:Time><s:Date><s:Year>{year}</s:Year><s:Month>{}</s:Month><s:Day>{day}</s:Day>\
             </s:Date></s:UTCDateTime></t:SystemDateAndTime></t:GetSystemDateAndTimeResponse>",
            u8::from(month)
        ));
    }
    if request.contains("<GetServices ") {
        return fault("500 Internal Server Error", "ActionNotSupported");
    }
    if request.contains("<GetCapabilities ") {
        return soap(&format!(
            "<t:Capabilities><s:Media><s:XAddr>{here}/media</s:XAddr></s:Media></t:Capabilities>"
        ));
    }
    if !token_is_right(request, now) {
        return fault("400 Bad Request", "NotAuthorized");
    }
    if request.contains("<GetProfiles ") {
        return soap(
            "<m:Profiles token=\"main\"><s:Name>mainStream</s:Name><s:VideoEncoderConfiguration>\
             <s:Encoding>H264</s:Encoding><s:Resolution><s:Width>1920</s:Width>\
             <s:Height>1080</s:Height></s:Resolution><s:RateControl><s:FrameRateLimit>25\
             </s:FrameRateLimit></s:RateControl></s:VideoEncoderConfiguration></m:Profiles>\
             <m:Profiles token=\"sub\"><s:Name>sub\u{9b}2J</s:Name><s:VideoEncoderConfiguration>\
             <s:Encoding>JPEG</s:Encoding></s:VideoEncoderConfiguration></m:Profiles>",
        );
    }
    let profile = between(request, "<ProfileToken>", "<")?;
    if request.contains("<GetStreamUri ") {
        assert!(request.contains(">RTP-Unicast</Stream>"), "{request}");
        return soap(&format!(
            "<m:MediaUri><s:Uri>rtsp://{USER}:x@127.0.0.1:554/{profile}?a=1&amp;b=2</s:Uri></m:MediaUri>"
        ));
    }
    if profile == "sub" {
        return fault("400 Bad Request", "ActionNotSupported");
    }
    soap(&format!(
        "<m:MediaUri><s:Uri>{here}/snapshot/{profile}.jpg</s:Uri></m:MediaUri>"
    ))
}

/// True if the message holds the digest of the right login, made within the last seconds by the
/// device's clock.
fn token_is_right(request: &str, now: OffsetDateTime) -> bool {
    let right = || {
        let created = between(request, "<u:Created>", "<")?;
        let time = OffsetDateTime::parse(created, &Rfc3339).ok()?;
        let nonce = between(request, "#Base64Binary\">", "<")?;
        let nonce = BASE64_STANDARD.decode(nonce).ok()?;
        let digest = Sha1::new()
            .chain_update(&nonce)
            .chain_update(created)
            .chain_update(PASSWORD)
            .finalize();
        let given = between(request, "#PasswordDigest\">", "<")?;
        let fresh = (now - time).abs() < time::Duration::seconds(10);
        let user = between(request, "<w:Username>", "<")?;
        Some(fresh && user == USER && given == BASE64_STANDARD.encode(digest))
    };
    right().unwrap_or(false)
}

/// A device with a login by HTTP Digest for everything, by the second edition.
fn second_edition(request: &str, port: u16) -> Option<(String, String)> {
    let here = format!("http://127.0.0.1:{port}");
    let header = between(request, "authorization: ", "\r\n");
    let right = header.and_then(|header| {
        let given = AuthorizationHeader::parse(header).ok()?;
        let path = request.split(' ').nth(1)?;
        let method = HttpMethod::POST;
        let context = AuthContext::new_with_method(USER, PASSWORD, path, None::<&[u8]>, method);
        let mut again = given.clone();
        again.digest(&context);
        Some(again.response == given.response)
    });
    if right != Some(true) {
        let ask = "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"ipc\", nonce=\"n1\", qop=\"auth\"";
        return Some((ask.into(), String::new()));
    }
    if request.contains("<GetServices ") {
        return soap(&format!(
            "<t:Service><t:Namespace>http://www.onvif.org/ver10/media/wsdl</t:Namespace>\
             <t:XAddr>{here}/media</t:XAddr></t:Service><t:Service>\
             <t:Namespace>http://www.onvif.org/ver20/media/wsdl</t:Namespace>\
             <t:XAddr>{here}/media2</t:XAddr></t:Service>"
        ));
    }
    if request.contains("<GetProfiles ") {
        assert!(request.starts_with("POST /media2 "), "{request}");
        return soap(
            "<p:Profiles token=\"0\"><p:Name>4K</p:Name><p:Configurations><p:VideoEncoder>\
             <s:Encoding>H265</s:Encoding><s:Resolution><s:Width>3840</s:Width>\
             <s:Height>2160</s:Height></s:Resolution></p:VideoEncoder></p:Configurations>\
             </p:Profiles>",
        );
    }
    if request.contains("<GetDeviceInformation ") {
        return soap("<t:Manufacturer>Acme</t:Manufacturer><t:Model>Eye 4</t:Model>");
    }
    if request.contains("<GetStreamUri ") {
        return soap("<p:Uri>rtsp://10.9.9.9/live</p:Uri>");
    }
    soap("<p:Uri/>")
}

/// Answers each search with these datagrams.
fn answer_searches(datagrams: Vec<String>) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 3702)).unwrap();
    let group = Ipv4Addr::new(239, 255, 255, 250);
    socket
        .join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)
        .unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let question = String::from_utf8_lossy(&buffer[..length]);
            assert!(
                question.contains(">dn:NetworkVideoTransmitter<"),
                "{question}"
            );
            for datagram in &datagrams {
                socket.send_to(datagram.as_bytes(), from).unwrap();
            }
        }
    });
}

fn found(name: &str, address: &str) -> String {
    enveloped(&format!(
        "<d:ProbeMatches><d:ProbeMatch><a:EndpointReference><a:Address>urn:uuid:{name}{address}\
         </a:Address></a:EndpointReference><d:Scopes>{name}</d:Scopes><d:XAddrs>{address}</d:XAddrs>\
         </d:ProbeMatch></d:ProbeMatches>"
    ))
}

fn named(name: &str, port: u16) -> String {
    let scope = format!("onvif://www.onvif.org/name/{name}");
    found(
        &scope,
        &format!("http://127.0.0.1:{port}/onvif/device_service"),
    )
}

/// Returns the lines below a device's, without their indentation.
fn lines_of<'t>(listed: &'t str, device: &str) -> Vec<&'t str> {
    let mut lines = listed.lines().skip_while(|line| *line != device).skip(1);
    lines
        .by_ref()
        .take_while(|line| line.starts_with(' '))
        .map(str::trim)
        .collect()
}

#[test]
fn cameras_of_the_network_are_listed_whatever_others_answer() {
    if !with_own_network("onvif::cameras_of_the_network_are_listed_whatever_others_answer") {
        return;
    }
    let other = "10.9.9.8";
    let added = Command::new("ip")
        .args(["address", "add", other, "dev", "lo"])
        .status();
    assert!(added.unwrap().success());
    let first = Device::new("127.0.0.1", first_edition);
    let second = Device::new("127.0.0.1", second_edition);
    let silent = Device::new("127.0.0.1", |_, _| None);
    let nonsense = Device::new("127.0.0.1", |_, _| {
        Some(("200 OK".into(), "<html><body>\u{1b}[2Jhello".into()))
    });
    let huge = Device::new("127.0.0.1", |_, _| {
        Some(("200 OK".into(), "<a>".repeat(200_000)))
    });
    let bomb = Device::new("127.0.0.1", |_, _| {
        let text = "<!DOCTYPE x [<!ENTITY a \"ha\">]><E:Envelope><E:Body>&a;</E:Body></E:Envelope>";
        Some(("200 OK".into(), text.into()))
    });
    let readable = Device::new("127.0.0.1", |_, _| {
        let ask = "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"ipc\"";
        Some((ask.into(), String::new()))
    });
    let elsewhere = Device::new(other, |_, _| None);
    let target = format!("http://{other}:{}/media", elsewhere.port);
    let sends_on = Device::new("127.0.0.1", move |_, _| {
        soap(&format!(
            "<t:Service><t:Namespace>http://www.onvif.org/ver10/media/wsdl</t:Namespace>\
             <t:XAddr>{target}</t:XAddr></t:Service>"
        ))
    });
    let foreign = found(
        "onvif://www.onvif.org/name/foreign",
        &format!("http://{other}:{}/", elsewhere.port),
    );
    answer_searches(vec![
        "\0\u{1}nonsense".into(),
        "<!DOCTYPE x [<!ENTITY a \"b\">]><x>&a;</x>".into(),
        named("silent", silent.port),
        named("nonsense", nonsense.port),
        named("huge", huge.port),
        named("bomb", bomb.port),
        named("readable", readable.port),
        named("sends_on", sends_on.port),
        foreign,
        named("gone", 9),
        named("front%1B%5B2J", first.port),
        found("", &format!("http://127.0.0.1:{}/device", second.port)),
    ]);

    let daemon = TestDaemon::new();
    let file = daemon.folder.path().join("password");
    let list = |password: Option<&str>| {
        let mut arguments = vec!["camera", "list", "--lan", "--interface", "127.0.0.1"];
        arguments.extend(["--seconds", "1"]);
        if let Some(password) = password {
            std::fs::write(&file, format!("{password}\n")).unwrap();
            arguments.extend([
                "--username",
                USER,
                "--password-file",
                file.to_str().unwrap(),
            ]);
        }
        let output = daemon.kithd(arguments);
        assert!(output.status.success(), "{}", text(&output));
        let listed = text(&output);
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!listed.contains(control), "{listed:?}");
        assert!(!listed.contains(PASSWORD), "{listed}");
        listed
    };

    let listed = list(Some(PASSWORD));
    assert_eq!(
        lines_of(&listed, "127.0.0.1  front\u{FFFD}[2J"),
        [
            "mainStream       1920x1080, H264, 25 frames a second",
            "url = \"rtsp://127.0.0.1:554/main?a=1&b=2\"",
            &format!(
                "url = \"http://127.0.0.1:{}/snapshot/main.jpg\"",
                first.port
            ),
            "sub\u{FFFD}2J           JPEG",
            "url = \"rtsp://127.0.0.1:554/sub?a=1&b=2\"",
        ],
        "{listed}"
    );
    assert_eq!(
        lines_of(&listed, "127.0.0.1  Acme Eye 4"),
        [
            "4K               3840x2160, H265",
            "url = \"rtsp://10.9.9.9/live\"  # another host than the camera's",
        ],
        "{listed}"
    );
    for (device, words) in [
        ("silent", "sends nothing more for 5s"),
        ("nonsense", "is ONVIF switched on in it?"),
        ("huge", "sends more than 262144 bytes"),
        ("bomb", "it has a document type"),
        ("readable", "it refuses this login"),
        ("sends_on", "belongs to another device, which was not asked"),
        ("foreign", "belongs to another device, which was not asked"),
        ("gone", "refuses the connection"),
    ] {
        let lines = lines_of(&listed, &format!("127.0.0.1  {device}")).join(" ");
        assert!(lines.contains(words), "{device}: {lines}\n{listed}");
    }
    assert!(elsewhere.seen().is_empty(), "{:?}", elsewhere.seen());
    let asked = readable.seen().join("\n").to_lowercase();
    assert!(!asked.contains("authorization: basic"), "{asked}");

    let before = (first.seen().len(), second.seen().len());
    let listed = list(Some("wrong"));
    for device in ["front\u{FFFD}[2J", "camera without a name", "readable"] {
        let lines = lines_of(&listed, &format!("127.0.0.1  {device}")).join(" ");
        assert!(
            lines.contains("it refuses this login"),
            "{device}: {lines}\n{listed}"
        );
    }
    let tried = |device: &Device, before: usize| {
        let logins = device.seen().split_off(before);
        let wrong = |request: &&String| {
            request.contains("UsernameToken") || request.contains("authorization: ")
        };
        logins.iter().filter(wrong).count()
    };
    // A camera locks an account after a few wrong logins.
    assert_eq!((tried(&first, before.0), tried(&second, before.1)), (1, 2));

    let listed = list(None);
    for device in ["front\u{FFFD}[2J", "camera without a name", "readable"] {
        let lines = lines_of(&listed, &format!("127.0.0.1  {device}")).join(" ");
        assert!(
            lines.contains("add --username and --password-file"),
            "{lines}\n{listed}"
        );
    }
}

#[test]
fn a_network_without_cameras_is_said_to_be_one() {
    if !with_own_network("onvif::a_network_without_cameras_is_said_to_be_one") {
        return;
    }
    let daemon = TestDaemon::new();
    let listed = daemon.kithd([
        "camera",
        "list",
        "--lan",
        "--interface",
        "127.0.0.1",
        "--seconds=1",
    ]);
    assert!(listed.status.success());
    assert!(text(&listed).contains("No ONVIF camera answered within 1s (127.0.0.1)"));
    // Loopback is no network.
    let none = daemon.kithd(["camera", "list", "--lan"]);
    assert!(!none.status.success());
    assert!(text(&none).contains("this board has no IPv4 address in a network"));
    let local = daemon.kithd(["camera", "list", "--username", USER]);
    assert!(!local.status.success());
    assert!(text(&local).contains("add --lan"), "{}", text(&local));
}

#[test]
fn cameras_that_other_programs_read_are_listed_with_their_line() {
    use std::os::unix::fs::PermissionsExt;
    let mut daemon = TestDaemon::new();
    let programs = daemon.folder.path().join("programs");
    std::fs::create_dir(&programs).unwrap();
    let program = programs.join("rpicam-vid");
    let path = std::env::var("PATH").unwrap();
    daemon.environment("PATH", &format!("{}:{path}", programs.display()));
    let list = |script: &str| {
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let begun = std::time::Instant::now();
        let listed = text(&daemon.kithd(["camera", "list"]));
        assert!(begun.elapsed() < Duration::from_secs(20), "{script}");
        listed
    };
    let listed = list(
        "test \"$1\" = --list-cameras || exit 1\necho 'Available cameras'\n\
         echo '0 : imx708 [4608x2592 10-bit RGGB] (/base/soc/i2c@1/imx708@1a)'",
    );
    assert!(
        listed.contains("libcamera  imx708 [4608x2592 10-bit RGGB]\n  libcamera = 0\n"),
        "{listed}"
    );
    let none = list("echo 'No cameras available!'");
    assert!(none.contains("No camera was found"), "{none}");
    assert!(none.contains("kithd camera list --lan"), "{none}");
    let flood = list("exec yes");
    assert!(flood.contains("rpicam-vid does not end"), "{flood}");
    let fails = list("exit 255");
    assert!(
        fails.contains("rpicam-vid failed: exit status: 255"),
        "{fails}"
    );
}
