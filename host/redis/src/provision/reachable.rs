//! Checks before a server starts that others will reach it: its port is free, every host accepts its certificate,
//! and the key belongs to that.
//!
//! Hosts of other owners check names and signatures, and this machine cannot see that they refuse. So they are checked
//! here by the same code.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error};

use super::{CONFIG_FILE, SOCKET_FILE, ServerTls, Settings};
use crate::secret;
use crate::transport::certificate::{is_without_extensions, made_for, names, valid_for};
use crate::transport::tls::{authorities, certificates};

/// Checks a server that is about to start. Returns what others have to know about its address, if anything.
///
/// # Errors
/// Its port is taken, the address is not one of this machine, hosts would refuse the certificate, or the key does not
/// belong to it.
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

fn check_port(dir: &Path, listen: SocketAddr, is_tls: bool) -> Result<()> {
    let Err(error) = listen_briefly(listen) else { return Ok(()) };
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

/// Listens for a moment, as the server will: it binds `[::]` without the addresses of IPv4.
fn listen_briefly(address: SocketAddr) -> io::Result<()> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    net::listen(&socket, 1)?;
    Ok(())
}

fn check_certificate(tls: &ServerTls, listen: SocketAddr) -> Result<Option<String>> {
    let ServerTls { ca, certificate: path, key } = tls;
    let file = path.display();
    let chain = certificates(path)?;
    let (own, intermediates) = chain.split_first().context("a file with certificates has a first one")?;
    // A server that listens on all addresses is reached at some name or address that only its owner knows.
    let wanted = if listen.ip().is_unspecified() { "IP:ADDRESS".to_owned() } else { format!("IP:{}", listen.ip()) };
    let unnamed = |is_valid_for: &str| {
        anyhow!("the certificate `{file}` {is_valid_for}, so every other host would refuse it: {}", made_for(&wanted))
    };
    let certificate = match ParsedCertificate::try_from(own) {
        Ok(certificate) => certificate,
        Err(error) if is_without_extensions(&error) => return Err(unnamed(&valid_for(&[]))),
        Err(error) => return Err(error).with_context(|| format!("`{file}` is not a certificate that hosts accept")),
    };
    if let Some(ca) = ca {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        let signed = verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &authorities(ca)?,
            intermediates,
            UnixTime::now(),
            algorithms,
        );
        signed.map_err(|error| unsigned(&error, ca, path))?;
    }
    check_key(key, &chain, path)?;
    let Err(error) = verify_server_name(&certificate, &ServerName::from(listen.ip())) else { return Ok(None) };
    let Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) = error else {
        return Err(error).with_context(|| format!("failed to read the names in `{file}`"));
    };
    let names = names(&presented);
    // Whether a name or another address leads here is decided elsewhere: by resolvers, or by a router that forwards.
    // Hosts that were invited compare the certificate itself.
    ensure!(ca.is_none() || !names.is_empty(), unnamed(&valid_for(&names)));
    Ok(Some(format!("the certificate `{file}` {}: others reach this database by such a name", valid_for(&names))))
}

/// Checks that a key belongs to a certificate and that no other user may read it. The server would refuse it only once
/// its folder names both.
fn check_key(path: &Path, chain: &[CertificateDer<'static>], certificate: &Path) -> Result<()> {
    let key = path.display();
    let bytes = std::fs::read(path).with_context(|| format!("failed to read the key `{key}`"))?;
    // Only the server has the passphrase, in its configuration.
    if String::from_utf8_lossy(&bytes).contains("ENCRYPTED") {
        return Ok(());
    }
    let secret =
        PrivateKeyDer::from_pem_slice(&bytes).with_context(|| format!("`{key}` is not a private key in PEM format"))?;
    match CertifiedKey::from_der(chain.to_vec(), secret, &rustls::crypto::ring::default_provider()) {
        Ok(_) => Ok(secret::read("key", path).map(drop)?),
        Err(Error::InconsistentKeys(_)) => bail!(
            "`{key}` is not the key of the certificate `{}`: pass the file that `skein redis certificates` or \
             `openssl req -keyout` wrote for it as `--tls-key`",
            certificate.display()
        ),
        Err(error) => Err(error).with_context(|| {
            format!(
                "`{key}` is not a key that hosts accept: use RSA with 2048 to 4096 bits, ECDSA on P-256 or P-384, or \
                 Ed25519"
            )
        }),
    }
}

/// The error of a certificate that does not follow from the authority of all peers.
fn unsigned(error: &Error, ca: &Path, path: &Path) -> anyhow::Error {
    let file = path.display();
    let ca = ca.display();
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
