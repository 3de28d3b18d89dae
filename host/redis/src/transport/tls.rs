//! TLS: which certificates of a server are accepted, and what this host shows of itself.
//!
//! Both kinds of connections use it. A server is verified before anything is sent to it, passwords included.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use skein_types::{Digest, PeerId};

use crate::secret;

/// Certificates as PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authority that signed the server's certificate.
    pub ca: PathBuf,
    /// The client's certificate; needs `key`.
    pub certificate: Option<PathBuf>,
    /// The private key of the certificate.
    pub key: Option<PathBuf>,
}

/// A certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("failed to use the certificate `{}`", path.display())]
pub struct TlsError {
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Which certificates of a server are accepted.
#[derive(Debug, Clone)]
pub(crate) enum Trust {
    /// Those that an authority signed for the server's name.
    Signed(Tls),
    /// One certificate, whatever its names and dates are and no matter who signed it.
    Pinned(PinnedCertificate),
}

/// The certificate of another peer's database, as its invitation names it.
#[derive(Debug, Clone)]
pub(crate) struct PinnedCertificate {
    /// The peer that owns the database.
    pub(crate) owner: PeerId,
    /// SHA-256 of the certificate in DER.
    pub(crate) fingerprint: Digest,
    /// The file of the invitation.
    pub(crate) invitation: PathBuf,
}

/// A server showed another certificate than the pinned one.
#[derive(Debug, thiserror::Error)]
#[error("the certificate has the fingerprint {actual}, not {expected}")]
pub(crate) struct OtherCertificate {
    pub(crate) expected: Digest,
    pub(crate) actual: Digest,
}

/// The SHA-256 of a certificate in DER, by which it is pinned.
pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> Digest {
    Digest(Sha256::digest(certificate).into())
}

/// The fingerprint of the certificate that a server with this file shows: the first in the file.
///
/// # Errors
/// The file cannot be read, or contains no certificate.
pub fn fingerprint_of(path: &Path) -> Result<Digest, TlsError> {
    Ok(certificates(path)?.first().map(fingerprint).unwrap_or_default())
}

impl Trust {
    /// The configuration of connections.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        match self {
            Trust::Signed(tls) => tls.config(),
            Trust::Pinned(pin) => pin.config(),
        }
    }
}

impl Tls {
    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let roots = authorities(&self.ca)?;
        let builder = builder(|builder| builder.with_root_certificates(roots));
        let builder = builder.map_err(|error| failed(&self.ca, error))?;
        let config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let pem = secret::read("key", key).map_err(|error| failed(key, error))?;
                let secret = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| failed(key, error))?;
                let chain = certificates(certificate)?;
                builder.with_client_auth_cert(chain, secret).map_err(|error| failed(certificate, error))?
            }
            (None, None) => builder.with_no_client_auth(),
            (Some(path), None) | (None, Some(path)) => {
                return Err(failed(path, io::Error::other("a certificate and its key must be set together")));
            }
        };
        Ok(Arc::new(config))
    }
}

impl PinnedCertificate {
    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let verifier = Arc::new(PinnedVerifier { fingerprint: self.fingerprint, algorithms });
        let builder = builder(|builder| builder.dangerous().with_custom_certificate_verifier(verifier));
        let config = builder.map_err(|error| failed(&self.invitation, error))?.with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// A configuration that lacks only the client's own certificate.
fn builder(
    trust: impl FnOnce(ConfigBuilder<ClientConfig, rustls::WantsVerifier>) -> ConfigBuilder<ClientConfig, WantsClientCert>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(trust(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?))
}

/// Accepts a server that shows the pinned certificate and holds its key.
#[derive(Debug)]
struct PinnedVerifier {
    fingerprint: Digest,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let actual = fingerprint(end_entity);
        if actual == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        let other = OtherCertificate { expected: self.fingerprint, actual };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))))
    }

    // Anybody can show the certificate; the signature of the handshake proves that the server has its key.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The authorities in a file, whose signatures count.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| failed(path, error))?;
    }
    Ok(roots)
}

/// The certificates in a file, at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(path, error))?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|error| failed(path, error))?;
    if certificates.is_empty() {
        Err(failed(path, io::Error::other("it contains no certificate")))
    } else {
        Ok(certificates)
    }
}

fn failed(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TlsError {
    TlsError { path: path.to_owned(), source: error.into() }
}
