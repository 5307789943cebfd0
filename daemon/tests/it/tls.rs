//! The broker over TLS, with certificates on both sides.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::broker::Mosquitto;
use crate::support::{TestDaemon, part_is_ok, text, wait_for};

/// A certificate authority and its certificates, made by openssl.
struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        authority.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        authority
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Signs a new key for a name.
    fn sign(&self, name: &str, alternative: &str) {
        let (key, request, certificate) = (
            format!("{name}.key"),
            format!("{name}.csr"),
            format!("{name}.pem"),
        );
        std::fs::write(
            self.path("extensions"),
            format!("subjectAltName={alternative}\n"),
        )
        .unwrap();
        let subject = format!("/CN={name}");
        self.openssl(&[
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key, "-out",
            &request,
        ]);
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "extensions",
            "-out",
            &certificate,
        ]);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// A certificate that is mended is taken up without a restart.
#[test]
fn a_broker_that_demands_a_certificate_gets_ours_or_is_reported() {
    let authority = Authority::new();
    authority.sign("server", "IP:127.0.0.1");
    authority.sign("board", "DNS:board");
    let files = [
        ("ca.pem", authority.read("ca.pem")),
        ("server.pem", authority.read("server.pem")),
        ("server.key", authority.read("server.key")),
    ];
    let files: Vec<_> = files
        .iter()
        .map(|(name, content)| (*name, content.as_str()))
        .collect();
    let demands =
        "cafile ca.pem\ncertfile server.pem\nkeyfile server.key\nrequire_certificate true";
    let broker = Mosquitto::running_with(demands, &files);
    for version in ["5", "3.1.1"] {
        let mut daemon = TestDaemon::with_broker(broker.port());
        daemon.set("mqtt.version", &format!("{version:?}"));
        daemon.set("mqtt.url", &format!("mqtts://127.0.0.1:{}", broker.port()));
        let state = |daemon: &TestDaemon| {
            daemon.get("/v1/status")["parts"]["mqtt"]["text"]
                .as_str()
                .unwrap_or("")
                .to_string()
        };
        // The system's trust store does not count where a CA is configured.
        daemon.start();
        wait_for("a certificate that is not trusted", || {
            state(&daemon)
                .contains("no encrypted connection")
                .then_some(())
        });
        assert!(
            state(&daemon).contains("UnknownIssuer"),
            "{}",
            state(&daemon)
        );
        daemon.stop();

        daemon.set("mqtt.ca_file", &quoted(&authority.path("ca.pem")));
        daemon.start();
        wait_for("a broker that wants a certificate", || {
            let state = state(&daemon);
            (state.contains("no connection") && !state.contains("UnknownIssuer")).then_some(())
        });
        daemon.stop();

        let (certificate, key) = (
            daemon.folder.path().join("board.pem"),
            daemon.folder.path().join("board.key"),
        );
        daemon.set("mqtt.client_cert", &quoted(&certificate));
        daemon.set("mqtt.client_key", &quoted(&key));
        daemon.start();
        wait_for("a missing certificate", || {
            state(&daemon)
                .contains("board.pem holds no certificate")
                .then_some(())
        });
        // A renewed or late certificate is used at the next attempt.
        std::fs::copy(authority.path("board.pem"), &certificate).unwrap();
        std::fs::copy(authority.path("board.key"), &key).unwrap();
        for part in ["mqtt", "mqtt out"] {
            part_is_ok(&daemon, part);
        }
        let output = Command::new("mosquitto_pub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &broker.port().to_string(),
                "-q",
                "1",
                "-t",
                "kithd/board/image/post",
            ])
            .args(["-m", &daemon.put("noface.jpg", "a.jpg")])
            .args(["--cafile", authority.path("ca.pem").to_str().unwrap()])
            .args([
                "--cert",
                certificate.to_str().unwrap(),
                "--key",
                key.to_str().unwrap(),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        wait_for("the result at the broker", || {
            let counts = daemon.get("/v1/status")["counts"].clone();
            (counts["processed"] == 1 && counts["unsent"] == 0).then_some(())
        });
    }
}

#[test]
fn a_certificate_out_of_its_time_is_told_as_one() {
    let authority = Authority::new();
    std::fs::write(
        authority.path("ca.conf"),
        "[ca]\ndefault_ca = own\n[own]\ndatabase = index\nserial = serial\nnew_certs_dir = .\ncertificate = ca.pem\n\
         private_key = ca.key\ndefault_md = sha256\npolicy = any\nunique_subject = no\n[any]\ncommonName = supplied\n",
    )
    .unwrap();
    std::fs::write(authority.path("index"), "").unwrap();
    std::fs::write(authority.path("serial"), "01\n").unwrap();
    authority.sign("server", "IP:127.0.0.1");
    // On a board that starts in 1970 every certificate is not yet valid.
    for (from, until, says) in [
        (
            "20960102000000Z",
            "20970102000000Z",
            [
                "this board's clock says 20",
                "valid from 2096-01-02 on: set the clock",
            ],
        ),
        (
            "20200101000000Z",
            "20210101000000Z",
            [
                "was valid until 2021-01-01",
                "renew the certificate, or set the clock",
            ],
        ),
    ] {
        let dates = ["-startdate", from, "-enddate", until];
        let files = [
            "-in",
            "server.csr",
            "-out",
            "server.pem",
            "-extfile",
            "extensions",
            "-notext",
        ];
        authority.openssl(&[&["ca", "-batch", "-config", "ca.conf"][..], &files, &dates].concat());
        let files = [
            ("server.pem", authority.read("server.pem")),
            ("server.key", authority.read("server.key")),
        ];
        let files: Vec<_> = files
            .iter()
            .map(|(name, content)| (*name, content.as_str()))
            .collect();
        let broker = Mosquitto::running_with("certfile server.pem\nkeyfile server.key", &files);
        for version in ["5", "3.1.1"] {
            let mut daemon = TestDaemon::with_broker(broker.port());
            daemon.set("mqtt.version", &format!("{version:?}"));
            daemon.set("mqtt.url", &format!("mqtts://127.0.0.1:{}", broker.port()));
            daemon.set("mqtt.ca_file", &quoted(&authority.path("ca.pem")));
            daemon.start();
            let said = wait_for("the part mqtt to say why", || {
                let part = daemon.get("/v1/status")["parts"]["mqtt"]["text"]
                    .as_str()
                    .unwrap_or("")
                    .to_string();
                part.contains("no connection").then_some(part)
            });
            assert!(
                says.iter().all(|words| said.contains(words)),
                "{version}: {said}"
            );
        }
    }
}
