//! TLS for the page: with a given certificate, or with one that the board makes once. The files are
//! reloaded regularly.
//!
//! `docs/design/http-edge.md` says why no library reads them.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::status::health::{Condition, Health};

/// Interval at which the files are read again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Limit for reading: a file on a mount that does not answer must not block the page.
const READ: Duration = Duration::from_secs(5);
/// Interval of retries while no certificate can be used.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// The board's own certificate, with its key.
const OWN: &str = "certificate.pem";
/// Addresses of the board's own certificate besides its names.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];
/// First year of its validity. No board is older, and many start with a clock that is behind.
const FIRST_YEAR: i32 = 2026;
/// Its validity from the day it is made; leap days are left out.
const VALID: time::Duration = time::Duration::days(10 * 365);

/// Source of certificate and key.
#[derive(Debug, Clone)]
pub enum Source {
    /// Made by the board.
    Own {
        /// Folder in which it is kept.
        folder: PathBuf,
        /// The board's names.
        names: Vec<String>,
    },
    /// Given files, in PEM.
    Files {
        /// The certificate and its intermediates.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

/// Reasons why the page cannot be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is missing, unreadable, or holds no PEM of this kind.
    #[error("{} {what}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error, as the end of a sentence about the file.
        what: &'static str,
        /// The reader's error.
        why: String,
    },
    /// The key does not belong to the certificate, or is of an unknown kind.
    #[error("the certificate and key of the page cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The board's own certificate could not be made.
    #[error("no certificate could be made: {0}")]
    Own(#[from] rcgen::Error),
    /// The mount does not answer.
    #[error("the certificate of the page could not be read in {READ:?}")]
    Slow,
}

/// Reads certificate and key. A thread that hangs in a mount stays until the mount answers, so no
/// second one is started: the database is read by threads of the same pool.
struct Reading {
    source: Source,
    under_way: Option<JoinHandle<Result<Loaded, TlsError>>>,
}

impl Reading {
    fn of(source: Source) -> Self {
        Self {
            source,
            under_way: None,
        }
    }

    async fn read(&mut self) -> Result<Loaded, TlsError> {
        let source = &self.source;
        let reading = self.under_way.get_or_insert_with(|| {
            let source = source.clone();
            tokio::task::spawn_blocking(move || load(source))
        });
        let Ok(read) = tokio::time::timeout(READ, reading).await else {
            return Err(TlsError::Slow);
        };
        self.under_way = None;
        read.unwrap_or(Err(TlsError::Slow))
    }
}

/// The TLS configuration in use.
pub struct Encryption {
    reading: Reading,
    health: Health,
    /// Address of the page.
    address: String,
    loaded: Loaded,
}

struct Loaded {
    acceptor: TlsAcceptor,
    /// SHA-256 of the certificate, as browsers show it.
    fingerprint: String,
}

impl Encryption {
    /// Reads the certificate for the first time. A certificate that cannot be used degrades only
    /// the page and is tried again.
    pub async fn open(source: Source, health: Health) -> Self {
        let mut reading = Reading::of(source);
        loop {
            match reading.read().await {
                Ok(loaded) => {
                    return Self {
                        reading,
                        health,
                        address: String::new(),
                        loaded,
                    };
                }
                Err(error) => {
                    let text = format!("not served: {error}");
                    if health.set("page", Condition::Degraded, text.as_str()) {
                        tracing::error!("the page is {text}");
                    }
                }
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// Reports the page's address and the certificate's fingerprint.
    pub fn announce(&mut self, address: String) {
        tracing::info!(
            "the page's certificate has the SHA-256 {}",
            self.loaded.fingerprint
        );
        self.address = address;
        self.say();
    }

    fn say(&self) {
        let text = format!(
            "{}, certificate SHA-256 {}",
            self.address, self.loaded.fingerprint
        );
        self.health.set("page", Condition::Ok, text);
    }

    /// Returns the acceptor for the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.loaded.acceptor.clone()
    }

    /// Reloads the certificate regularly, for ever, and passes it on to the listener.
    pub async fn keep_up(mut self, acceptors: watch::Sender<TlsAcceptor>) {
        let mut look = tokio::time::interval(LOOK_AGAIN);
        loop {
            look.tick().await;
            self.look().await;
            acceptors.send_replace(self.acceptor());
        }
    }

    /// Reloads the certificate; if it cannot be read, only the state of the page's part changes.
    async fn look(&mut self) {
        match self.reading.read().await {
            Ok(loaded) => {
                if loaded.fingerprint != self.loaded.fingerprint {
                    tracing::info!(
                        "the page has a new certificate, SHA-256 {}",
                        loaded.fingerprint
                    );
                }
                self.loaded = loaded;
                self.say();
            }
            Err(error) => {
                let text = format!("{error}; the previous certificate is used until that is fixed");
                if self.health.set("page", Condition::Degraded, text.as_str()) {
                    tracing::error!("{text}");
                }
            }
        }
    }
}

fn load(source: Source) -> Result<Loaded, TlsError> {
    match source {
        Source::Files { certificate, key } => {
            let chain = read(&certificate)?;
            let key_pem = read(&key)?;
            accept(&chain, &certificate, &key_pem, &key)
        }
        Source::Own { folder, names } => {
            let path = folder.join(OWN);
            match std::fs::read(&path) {
                Ok(pem) => match accept(&pem, &path, &pem, &path) {
                    Ok(loaded) => return Ok(loaded),
                    Err(error) => tracing::error!("the board makes a new certificate: {error}"),
                },
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&path, &error)),
            }
            let pem = make(names, OffsetDateTime::now_utc())?;
            keep(&path, &pem).map_err(|error| TlsError::File {
                path: path.clone(),
                what: "cannot be written",
                why: error.to_string(),
            })?;
            accept(pem.as_bytes(), &path, pem.as_bytes(), &path)
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> TlsError {
    TlsError::File {
        path: path.into(),
        what: "cannot be read",
        why: error.to_string(),
    }
}

/// Checks certificate and key, and makes the configuration of the listener.
fn accept(
    chain: &[u8],
    chain_path: &Path,
    key: &[u8],
    key_path: &Path,
) -> Result<Loaded, TlsError> {
    let of = |path: &Path, what, why: String| TlsError::File {
        path: path.into(),
        what,
        why,
    };
    let certificates = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| of(chain_path, "holds no certificate", error.to_string()))?;
    let Some(leaf) = certificates.first() else {
        return Err(of(
            chain_path,
            "holds no certificate",
            "no section of that kind found".into(),
        ));
    };
    let digest = Sha256::digest(leaf);
    let fingerprint = digest
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect::<Vec<_>>()
        .join(":");
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| of(key_path, "holds no private key", error.to_string()))?;
    // Named explicitly, so that it does not depend on other users of the library in this program.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        fingerprint,
    })
}

/// Makes a self-signed certificate with its key, in PEM.
fn make(mut names: Vec<String>, now: OffsetDateTime) -> Result<String, TlsError> {
    names.extend(LOOPBACK.map(String::from));
    let mut params = rcgen::CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "kithd");
    params
        .extended_key_usages
        .push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    params.not_before = rcgen::date_time_ymd(FIRST_YEAR, 1, 1);
    let now = now.max(params.not_before);
    params.not_after = now.checked_add(VALID).unwrap_or(now);
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", certificate.pem(), key.serialize_pem()))
}

/// Writes the file atomically, readable by its owner only.
fn keep(path: &Path, pem: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(pem.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn own(folder: &Path) -> Source {
        let (folder, names) = (folder.into(), vec!["board".into(), "board.local".into()]);
        Source::Own { folder, names }
    }

    #[test]
    fn our_certificate_is_made_once_and_anew_when_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OWN);
        let fingerprint = || load(own(folder.path())).map(|loaded| loaded.fingerprint);
        let made = fingerprint().unwrap();
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        assert_eq!(fingerprint().unwrap(), made);
        std::fs::write(&path, "damaged").unwrap();
        let anew = fingerprint().unwrap();
        assert!(anew != made && fingerprint().unwrap() == anew);
        assert_eq!(mode(), 0o600);
        // A file that cannot be read may be intact.
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = fingerprint().unwrap_err().to_string();
        assert!(error.contains("certificate.pem cannot be read"), "{error}");
    }

    /// The board's clock may be years behind or ahead when the certificate is made.
    #[test]
    fn our_certificate_is_valid_now_whatever_the_clock_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(OWN);
        let at = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        for (clock, until) in [
            (at(0), 2035),
            (at(1_795_000_000), 2036),
            (at(4_000_000_000), 2106),
            (time::macros::datetime!(9999-12-31 23:59 UTC), 9999),
        ] {
            std::fs::write(&file, make(vec!["board".into()], clock).unwrap()).unwrap();
            let shown = std::process::Command::new("openssl")
                .args(["x509", "-noout", "-dates", "-ext", "subjectAltName", "-in"])
                .arg(&file)
                .output()
                .unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            for part in [
                "notBefore=Jan  1 00:00:00 2026 GMT",
                &format!(" {until} GMT"),
                "DNS:board, IP Address:127.0.0.1",
            ] {
                assert!(shown.contains(part), "{shown} lacks {part}");
            }
        }
    }

    fn some_pem(folder: &Path) -> String {
        load(own(folder)).unwrap();
        std::fs::read_to_string(folder.join(OWN)).unwrap()
    }

    /// Repeated requests share the thread; the certificate is read as soon as the mount answers.
    #[test]
    fn a_certificate_on_a_hung_mount_takes_one_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (pem, certificate) = (some_pem(folder.path()), folder.path().join("pipe.pem"));
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&certificate)
                .status()
                .unwrap()
                .success()
        );
        let mut reading = Reading::of(Source::Files {
            certificate: certificate.clone(),
            key: folder.path().join(OWN),
        });
        runtime.block_on(async {
            tokio::time::pause();
            for _ in 0..5 {
                let (read, ()) = tokio::join!(reading.read(), tokio::time::advance(2 * READ));
                assert!(matches!(read, Err(TlsError::Slow)));
            }
            // Runs on the only thread that is left.
            tokio::task::spawn_blocking(move || std::fs::write(certificate, pem).unwrap())
                .await
                .unwrap();
            assert!(reading.read().await.is_ok());
        });
    }

    #[tokio::test]
    async fn a_broken_file_is_told_and_the_certificate_read_before_stays() {
        let folder = tempfile::tempdir().unwrap();
        let pem = some_pem(folder.path());
        let (certificate, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        let source = Source::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let health = Health::default();
        let open = || load(source.clone());
        let refused = |error: Option<TlsError>| error.unwrap().to_string();
        assert!(refused(open().err()).contains("a.pem cannot be read"));
        std::fs::write(&certificate, &pem).unwrap();
        std::fs::write(&key, "nothing").unwrap();
        assert!(refused(open().err()).contains("a.key holds no private key"));
        std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(refused(open().err()).contains("cannot be used"));
        let mut opening = tokio::spawn(Encryption::open(source.clone(), health.clone()));
        let says = || health.parts()["page"].clone();
        while !health.parts().contains_key("page") {
            let soon = Duration::from_millis(5);
            assert!(
                tokio::time::timeout(soon, &mut opening).await.is_err(),
                "it was opened"
            );
        }
        assert!(says().text.starts_with("not served: "), "{}", says().text);
        std::fs::write(&key, &pem).unwrap();
        tokio::time::pause();
        let mut encryption = opening.await.unwrap();
        tokio::time::resume();
        encryption.announce("https://board:8000/".into());
        assert!(
            says()
                .text
                .starts_with("https://board:8000/, certificate SHA-256 "),
            "{}",
            says().text
        );
        std::fs::write(&certificate, "nothing").unwrap();
        encryption.look().await;
        assert_eq!(says().condition, Condition::Degraded);
        std::fs::write(&certificate, &pem).unwrap();
        encryption.look().await;
        assert_eq!(says().condition, Condition::Ok);
    }
}
