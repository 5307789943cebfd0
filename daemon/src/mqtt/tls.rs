//! Certificates and key for an encrypted connection. Read anew for each connection, so that renewed
//! ones are taken up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Files in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Who must have signed the broker's certificate; `None`: whom this system trusts.
    pub ca: Option<PathBuf>,
    /// Our certificate, with what lies between it and the broker's authority, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// What is wrong with them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not there, not readable, or no PEM of this kind in it.
    #[error("{} {what}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// As the reader says.
        why: String,
    },
    /// This system trusts nobody.
    #[error(
        "no certificate authorities were found on this system; name the broker's with mqtt.ca_file"
    )]
    NoAuthorities,
    /// A key that does not belong to its certificate, a kind of key nobody knows.
    #[error("the certificate and key of mqtt.client_cert and mqtt.client_key cannot be used: {0}")]
    Client(rustls::Error),
    /// No protocol version is left.
    #[error("{0}")]
    Versions(rustls::Error),
}

/// What an encrypted connection is made with.
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
    // Named here, so that nothing depends on what else in the program uses the library.
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
