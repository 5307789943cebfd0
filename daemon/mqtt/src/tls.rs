//! Certificates and key of an encrypted connection, read again for each connection so that renewed
//! files take effect.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Paths of PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Authorities for the broker's certificate; `None` for those of this system.
    pub ca: Option<PathBuf>,
    /// Client certificate with its chain, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Problem with the certificates or the key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file is missing, unreadable, or holds no PEM of this kind.
    #[error("{} {what}: {why}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Expected content.
        what: &'static str,
        /// Message of the reader.
        why: String,
    },
    /// This system has no certificate authorities.
    #[error(
        "no certificate authorities were found on this system; name the broker's with mqtt.ca_file"
    )]
    NoAuthorities,
    /// The key does not belong to its certificate, or is of an unknown kind.
    #[error("the certificate and key of mqtt.client_cert and mqtt.client_key cannot be used: {0}")]
    Client(rustls::Error),
    /// No usable protocol version.
    #[error("{0}")]
    Versions(rustls::Error),
}

/// Builds the configuration of an encrypted connection.
pub(super) fn client(files: &Files) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => {
            roots.add_parsable_certificates(certificates(
                path,
                "holds no certificate of an authority",
            )?);
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(match &files.ca {
            None => TlsError::NoAuthorities,
            Some(path) => {
                let why = "none of its certificates can be used".into();
                TlsError::File {
                    path: path.clone(),
                    what: "holds no certificate of an authority",
                    why,
                }
            }
        });
    }
    // Named explicitly, so that no other use of the library in this program matters.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder
        .map_err(TlsError::Versions)?
        .with_root_certificates(roots);
    let config = match &files.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate, "holds no certificate")?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| of(key, "holds no private key", &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(TlsError::Client)?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| of(path, what, &error))?;
    if found.is_empty() {
        return Err(of(path, what, &PemError::NoItemsFound));
    }
    Ok(found)
}

fn of(path: &Path, what: &'static str, error: &PemError) -> TlsError {
    TlsError::File {
        path: path.into(),
        what,
        why: error.to_string(),
    }
}
