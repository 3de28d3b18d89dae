//! Checks before a server starts that others will reach it: its port is free, and its certificate is one that every
//! host accepts.
//!
//! Hosts of other owners check names and signatures, and this machine cannot see that they refuse. So they are checked
//! here by the same code.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error};

use super::{CONFIG_FILE, SOCKET_FILE, Settings};
use crate::Tls;
use crate::transport::certificate::{is_without_extensions, made_for, names, valid_for};
use crate::transport::tls::certificates;

/// Checks a server that is about to start. Returns what others have to know about its address, if anything.
///
/// # Errors
/// Its port is taken, the address is not one of this machine, or hosts would refuse the certificate.
pub fn check(settings: &Settings) -> Result<Option<String>> {
    let Some(listen) = settings.listen else { return Ok(None) };
    // `Server::start` names a server that already runs in the folder, which is what holds the port.
    if UnixStream::connect(settings.dir.join(SOCKET_FILE)).is_err() {
        check_port(&settings.dir, listen, settings.tls.is_some())?;
    }
    match &settings.tls {
        Some(tls) => check_certificate(tls, listen),
        None => Ok(None),
    }
}

/// Listens for a moment, as the server will.
fn check_port(dir: &Path, listen: SocketAddr, is_tls: bool) -> Result<()> {
    let Err(error) = TcpListener::bind(listen) else { return Ok(()) };
    let config = dir.join(CONFIG_FILE);
    let in_file = |key: &str, option: &str| {
        if config.exists() { format!("`{key}` in `{}`", config.display()) } else { format!("`{option}`") }
    };
    match error.kind() {
        ErrorKind::AddrInUse => {
            let port = if is_tls { "tls-port" } else { "port" };
            bail!(
                "another program listens on `{listen}`: stop it, or choose another port by {}",
                in_file(port, "--listen")
            )
        }
        ErrorKind::AddrNotAvailable => {
            bail!("`{}` is not an address of this machine: choose one by {}", listen.ip(), in_file("bind", "--listen"))
        }
        _ => Err(error).with_context(|| format!("failed to listen on `{listen}`")),
    }
}

fn check_certificate(tls: &Tls, listen: SocketAddr) -> Result<Option<String>> {
    let path = tls.certificate.as_ref().context("a server needs a certificate: pass `--tls-certificate`")?;
    let file = path.display();
    let chain = certificates(path)?;
    let (own, intermediates) = chain.split_first().context("a file with certificates has a first one")?;
    // A server that listens on all addresses is reached at some name or address that only its owner knows.
    let is_everywhere = listen.ip().is_unspecified();
    let wanted = if is_everywhere { "IP:ADDRESS".to_owned() } else { format!("IP:{}", listen.ip()) };
    let unnamed = |is_valid_for: &str| {
        anyhow!(
            "the certificate `{file}` {is_valid_for}, but the database listens on `{listen}`, so every other host would \
             refuse it: {}",
            made_for(&wanted)
        )
    };
    let certificate = match ParsedCertificate::try_from(own) {
        Ok(certificate) => certificate,
        Err(error) if is_without_extensions(&error) => return Err(unnamed(&valid_for(&[]))),
        Err(error) => return Err(error).with_context(|| format!("`{file}` is not a certificate that hosts accept")),
    };
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    let authorities = tls.authorities()?;
    let signed = verify_server_cert_signed_by_trust_anchor(
        &certificate,
        &authorities,
        intermediates,
        UnixTime::now(),
        algorithms,
    );
    signed.map_err(|error| unsigned(&error, tls, path))?;
    let Err(error) = verify_server_name(&certificate, &ServerName::from(listen.ip())) else { return Ok(None) };
    let Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) = error else {
        return Err(error).with_context(|| format!("failed to read the names in `{file}`"));
    };
    let names = names(&presented);
    let has_host = names.iter().any(|name| name.starts_with("DNS:"));
    // Whether a host's name leads here is decided by the resolvers of others.
    ensure!(has_host || is_everywhere && !names.is_empty(), unnamed(&valid_for(&names)));
    Ok(Some(format!("the certificate `{file}` {}: others reach this database by such a name", valid_for(&names))))
}

/// The error of a certificate that does not follow from the authority of all peers.
fn unsigned(error: &Error, tls: &Tls, path: &Path) -> anyhow::Error {
    let file = path.display();
    let ca = tls.ca.display();
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => anyhow!(
            "the certificate `{file}` is not signed by the authority in `{ca}`, so every other host would refuse it: sign \
             it with the key of that authority, `openssl x509 -req -CA {ca} …`, or pass the authority that signed it as \
             `--tls-ca`"
        ),
        Error::InvalidCertificate(CertificateError::ExpiredContext { .. } | CertificateError::Expired) => {
            anyhow!("the certificate `{file}` has expired: sign a new one, `openssl x509 -req -days 365 …`")
        }
        error => anyhow!("every other host would refuse the certificate `{file}`: {error}"),
    }
}
