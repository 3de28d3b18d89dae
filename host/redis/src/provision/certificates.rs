//! Certificates that servers sign themselves, for groups without an authority: those who read are told the fingerprint.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::pki_types::ServerName;
use skein_types::Digest;

use super::create;
use crate::transport::tls::fingerprint;

/// The certificate, in the folder of its server.
pub const CERTIFICATE_FILE: &str = "server.pem";
/// The private key of the certificate, beside it.
pub const KEY_FILE: &str = "server.key";
/// How long a certificate is valid: longer than training takes. Invited hosts compare fingerprints and not dates.
const VALID: Duration = Duration::from_secs(3 * 365 * 24 * 60 * 60);
/// Clocks of other machines may be behind by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 60 * 60);

/// The certificate of a server and its key.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    /// The certificate, a PEM file.
    pub certificate: PathBuf,
    /// The private key, a PEM file that only its owner may read.
    pub key: PathBuf,
    /// SHA-256 of the certificate in DER.
    pub fingerprint: Digest,
}

/// Writes a self-signed certificate, valid for these addresses or names of hosts, and its key to a folder, which is
/// created if it does not exist.
///
/// # Errors
/// An address is neither an IP address nor the name of a host, or one of the files exists or cannot be written.
pub fn make(dir: &Path, addresses: &[String]) -> Result<ServerCertificate> {
    for address in addresses {
        ensure!(
            ServerName::try_from(address.as_str()).is_ok(),
            "`{address}` is neither an IP address nor the name of a host: pass those at which others reach the database, \
             without a port, as `--address`"
        );
    }
    let first = addresses.first().context("a certificate needs an address")?;
    let certificate = dir.join(CERTIFICATE_FILE);
    let key = dir.join(KEY_FILE);
    for path in [&certificate, &key] {
        ensure!(
            !path.exists(),
            "`{}` exists, and invitations may name its fingerprint: use it, or remove `{CERTIFICATE_FILE}` and \
             `{KEY_FILE}`, make others, restart the server, and invite all peers again",
            path.display()
        );
    }
    let failed = || format!("failed to create the folder `{}`", dir.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(failed)?;
    let pair = KeyPair::generate().context("failed to make a key")?;
    let signed = parameters(first, addresses)?.self_signed(&pair).context("failed to sign a certificate")?;
    create(&key, &pair.serialize_pem())?;
    create(&certificate, &signed.pem())?;
    Ok(ServerCertificate { certificate, key, fingerprint: fingerprint(signed.der()) })
}

fn parameters(first: &str, addresses: &[String]) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(addresses).context("failed to name a certificate")?;
    // Clients find the authority of a certificate by its name, which is that of the certificate itself here.
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, format!("skein database at {first}"));
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock shows a time before 1970")?;
    let epoch = date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    parameters.not_after = epoch + now + VALID;
    Ok(parameters)
}
