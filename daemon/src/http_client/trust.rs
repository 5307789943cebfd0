//! Trust in a server's certificate: by the system's authorities, given ones, or a fingerprint.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

/// Certificates that are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those of this system's authorities.
    #[default]
    System,
    /// Those of these authorities, and these certificates themselves, whatever name they hold.
    Ca(Vec<CertificateDer<'static>>),
    /// The one with this SHA-256, whatever name it holds.
    Fingerprint([u8; 32]),
}

impl Trust {
    /// Reads the certificates of a PEM file. The error is the end of a sentence about it.
    pub fn of_file(path: &Path) -> Result<Self, String> {
        let read = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("cannot be read as certificates in PEM: {error}"))?;
        if read.is_empty() {
            return Err("holds no certificate in PEM".into());
        }
        Ok(Self::Ca(read))
    }

    /// Returns trust in the certificate with this SHA-256, as `fingerprint` parses it.
    pub fn of_fingerprint(text: &str) -> Option<Self> {
        fingerprint(text).map(Self::Fingerprint)
    }

    /// Returns the configuration of encrypted connections.
    pub(super) async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        // Named explicitly, so that no other use of the library in this program matters.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        match self {
            Self::System => {
                let loading = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs);
                let loaded = loading.await.map_err(|error| error.to_string())?;
                roots.add_parsable_certificates(loaded.certs);
                if roots.is_empty() {
                    return Err("no certificate authorities were found on this system".into());
                }
            }
            Self::Ca(certificates) => {
                roots.add_parsable_certificates(certificates.iter().cloned());
            }
            Self::Fingerprint(_) => {}
        }
        let authorities = if roots.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
            Some(builder.build().map_err(|error| error.to_string())?)
        };
        let pinned = match self {
            Self::System => Vec::new(),
            Self::Ca(certificates) => certificates.iter().map(|one| sha256(one)).collect(),
            Self::Fingerprint(fingerprint) => vec![*fingerprint],
        };
        let verifier = Verifier {
            pinned,
            authorities,
            provider: provider.clone(),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Parses a SHA-256 in hexadecimal digits, with or without colons, as browsers and `openssl` show
/// it.
pub fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: String = text.chars().filter(|c| !":- ".contains(*c)).collect();
    let mut fingerprint = [0; 32];
    for (at, byte) in fingerprint.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    (digits.len() == 64).then_some(fingerprint)
}

fn sha256(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// Verifies that a certificate is pinned or issued by an authority. A refusal is an
/// `Error::General` with the fingerprint, which operators need next.
#[derive(Debug)]
struct Verifier {
    pinned: Vec<[u8; 32]>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let fingerprint = sha256(certificate);
        if self.pinned.contains(&fingerprint) {
            return Ok(ServerCertVerified::assertion());
        }
        let why = match &self.authorities {
            None => "it is another one than was given".to_owned(),
            Some(authorities) => {
                let verified =
                    authorities.verify_server_cert(certificate, intermediates, name, ocsp, now);
                match verified {
                    Ok(verified) => return Ok(verified),
                    Err(Error::InvalidCertificate(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                }
            }
        };
        let mut shown = String::new();
        for byte in fingerprint {
            let colon = if shown.is_empty() { "" } else { ":" };
            let _ = write!(shown, "{colon}{byte:02X}");
        }
        Err(Error::General(format!("{why} (its SHA-256 is {shown})")))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
