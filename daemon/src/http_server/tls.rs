//! TLS for the page: with a given certificate, or with one that the board makes and renews itself.
//! The files are reloaded regularly.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::domain::wall_clock_ms;
use crate::status::health::{Condition, Health};

/// Interval at which the files are read again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Limit for reading: a file on a mount that does not answer must not block the page.
const READ: Duration = Duration::from_secs(5);
/// Interval of retries while no certificate can be used.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// The board's own certificate, with its key.
const OWN: &str = "certificate.pem";
const DAY: i64 = 86_400;
/// Lifetime in seconds: some systems reject certificates that are valid for longer than 825 days.
const VALID: i64 = 800 * DAY;
const RENEW_BEFORE: i64 = 30 * DAY;

/// Source of certificate and key.
#[derive(Debug, Clone)]
pub enum Source {
    /// Made by the board.
    Own {
        /// Folder in which it is kept.
        folder: PathBuf,
        /// The board's names, besides its addresses.
        names: Vec<String>,
        /// Returns true if the board's clock is synchronised.
        synchronised: fn() -> bool,
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
        Source::Own {
            folder,
            names,
            synchronised,
        } => {
            let path = folder.join(OWN);
            let wanted = names
                .into_iter()
                .chain(addresses().iter().map(IpAddr::to_string))
                .collect();
            let pem = own(&path, &wanted, wall_clock_ms() / 1000, synchronised())?;
            accept(pem.as_bytes(), &path, pem.as_bytes(), &path)
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let why = |error: std::io::Error| TlsError::File {
        path: path.into(),
        what: "cannot be read",
        why: error.to_string(),
    };
    std::fs::read(path).map_err(why)
}

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

/// Returns our own certificate and key: the stored one while it is valid, else a new one for the
/// same key.
fn own(
    path: &Path,
    wanted: &BTreeSet<String>,
    now: i64,
    synchronised: bool,
) -> Result<String, TlsError> {
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    if still_holds(&kept, wanted, now, synchronised) {
        return Ok(kept);
    }
    let kept_key = PrivateKeyDer::from_pem_slice(kept.as_bytes()).ok();
    let kept_key = kept_key.and_then(|key| rcgen::KeyPair::try_from(&key).ok());
    let key = kept_key.map_or_else(rcgen::KeyPair::generate, Ok)?;
    let mut params = rcgen::CertificateParams::new(wanted.iter().cloned().collect::<Vec<_>>())?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "kithd");
    params
        .extended_key_usages
        .push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let (from, until) = (now.max(DAY) - DAY, now.max(DAY) - DAY + VALID);
    params.not_before = epoch + Duration::from_secs(from.unsigned_abs());
    params.not_after = epoch + Duration::from_secs(until.unsigned_abs());
    let certificate = params.self_signed(&key)?;
    let names = wanted
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ");
    // The text before the first section of a PEM file is for people, and for `still_holds`.
    let pem = format!(
        "kithd made this for itself and renews it; do not edit.\nvalid {from} {until}\nnames {names}\n{}{}",
        certificate.pem(),
        key.serialize_pem()
    );
    keep(path, &pem).map_err(|error| TlsError::File {
        path: path.into(),
        what: "cannot be written",
        why: error.to_string(),
    })?;
    Ok(pem)
}

/// Returns true if the certificate is valid for a while longer and for all names, although the
/// clock may have been wrong when it was made. A board without a clock battery starts in the past
/// each time, so the beginning is checked only with a synchronised clock. The end is always
/// checked: not every time client reports that the clock is right.
fn still_holds(pem: &str, wanted: &BTreeSet<String>, now: i64, synchronised: bool) -> bool {
    let line = |start: &str| {
        pem.lines()
            .find_map(|line| line.strip_prefix(start))
            .unwrap_or_default()
    };
    let valid: Vec<i64> = line("valid ")
        .split(' ')
        .filter_map(|number| number.parse().ok())
        .collect();
    let [from, until] = valid[..] else {
        return false;
    };
    let names: BTreeSet<_> = line("names ").split(' ').collect();
    let valid = now < until - RENEW_BEFORE && (now >= from || !synchronised);
    valid && wanted.iter().all(|name| names.contains(name.as_str()))
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

/// Returns the board's own lasting addresses. It reads the kernel's files, since the unit allows no
/// netlink socket.
fn addresses() -> BTreeSet<IpAddr> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let mut found = of_fib_trie(&read("/proc/net/fib_trie"));
    found.extend(of_if_inet6(&read("/proc/net/if_inet6")));
    found
}

/// Parses lines `|-- 192.168.1.20`, each followed by its type; the board's own are `/32 host
/// LOCAL`.
fn of_fib_trie(text: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last.map(IpAddr::V4));
        }
    }
    found
}

/// Parses lines of address, index, prefix, scope, flags and name. Keeps only loopback and unique
/// local addresses, and no temporary ones (0x01): a provider may change others daily, and each
/// change would need a new certificate.
fn of_if_inet6(text: &str) -> BTreeSet<IpAddr> {
    let address = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [address, _, _, _, flags, _] = fields[..] else {
            return None;
        };
        let temporary = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 != 0);
        let address = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
        let lasting = !temporary && (address.is_loopback() || address.is_unique_local());
        lasting.then_some(IpAddr::V6(address))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Link-local, temporary and provider-assigned addresses do not belong into a certificate.
    #[test]
    fn lasting_addresses_are_found_and_temporary_ones_left_out() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 192.168.1.0\n        \
                    /24 link UNICAST\nLocal:\n        |-- 127.0.0.1\n           /32 host LOCAL\n        |-- 192.168.1.20\n           \
                    /32 host LOCAL\n        |-- 192.168.1.255\n           /32 link BROADCAST\n";
        let found: Vec<_> = of_fib_trie(trie).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["127.0.0.1", "192.168.1.20"]);
        let lines = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fd000000000000000000000000000007 02 40 00 80     eth0\n\
                     fd0000000000000000000000000000aa 02 40 00 01     eth0\n\
                     20010db8000000000000000000000007 02 40 00 80     eth0\n\
                     fe800000000000000000000000000001 02 40 20 80     eth0\n";
        let found: Vec<_> = of_if_inet6(lines).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["::1", "fd00::7"]);
    }

    /// The key stays the same over every renewal.
    #[test]
    fn our_certificate_lasts_until_it_expires_or_lacks_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OWN);
        let names = |names: &[&str]| {
            names
                .iter()
                .map(ToString::to_string)
                .collect::<BTreeSet<_>>()
        };
        let (board, now) = (
            names(&["board", "board.local", "192.168.1.20"]),
            1_795_000_000,
        );
        let own = |wanted: &BTreeSet<String>, now| own(&path, wanted, now, true).unwrap();
        let key = |pem: &str| pem[pem.find("-----BEGIN PRIVATE KEY").unwrap()..].to_string();
        let first = own(&board, now);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(own(&names(&["board"]), now + 700 * DAY), first);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        accept(first.as_bytes(), &path, first.as_bytes(), &path).unwrap();
        let renewed = own(&board, now + 770 * DAY);
        assert_ne!(renewed, first);
        accept(renewed.as_bytes(), &path, renewed.as_bytes(), &path).unwrap();
        // The clock was years ahead when that certificate was made.
        let set_right = own(&board, now);
        assert_ne!(set_right, renewed);
        let moved = own(&names(&["board", "192.168.1.21"]), now);
        assert!(moved != set_right && moved.contains("192.168.1.21"));
        for pem in [&renewed, &set_right, &moved] {
            assert_eq!(key(pem), key(&first));
        }
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        // A clock that was never set.
        own(&board, 5);
        std::fs::write(&path, "damaged").unwrap();
        assert_ne!(key(&own(&board, now)), key(&first));
    }

    #[test]
    fn a_clock_in_the_past_at_every_boot_costs_no_new_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(OWN);
        let (board, now) = (BTreeSet::from(["board".to_string()]), 1_795_000_000);
        let made = own(&path, &board, now, true).unwrap();
        for _ in 0..2 {
            assert_eq!(
                own(&path, &board, now - 100 * DAY, false).unwrap(),
                made,
                "before the time is known"
            );
            assert_eq!(own(&path, &board, now + 1, true).unwrap(), made);
        }
        assert_ne!(
            own(&path, &board, now + 790 * DAY, false).unwrap(),
            made,
            "its end is near"
        );
    }

    fn some_pem(folder: &Path) -> String {
        own(
            &folder.join(OWN),
            &BTreeSet::from(["board".into()]),
            1_795_000_000,
            true,
        )
        .unwrap()
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
