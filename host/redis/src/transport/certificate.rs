//! Explains why a certificate was refused: whose it is, what is wrong with it, and what helps.

use std::net::IpAddr;

use rustls::{AlertDescription, CertificateError, Error};

use super::address::{Address, Endpoint, Place};
use super::tls::{OtherCertificate, PinnedCertificate, Tls, Trust};

/// What a server answers that does not accept the certificate of this host.
const ABOUT_CERTIFICATES: [AlertDescription; 9] = [
    AlertDescription::AccessDenied,
    AlertDescription::BadCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRequired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::DecryptError,
    AlertDescription::UnknownCA,
    AlertDescription::UnsupportedCertificate,
];

/// How an owner makes a certificate that is valid for a name.
pub(crate) fn made_for(name: &str) -> String {
    format!(
        "request one with `-addext \"subjectAltName={name}\"` of `openssl req`, and sign it with `-copy_extensions copy` \
         of `openssl x509`"
    )
}

/// The addresses and names of hosts that a refused certificate has, as openssl writes them. Names of other kinds never
/// match a host.
pub(crate) fn names(presented: &[String]) -> Vec<String> {
    // The library describes a name as `IpAddress(10.0.0.1)` or `DnsName("host")`.
    let name = |text: &String| {
        let (kind, value) = text.split_once('(')?;
        let value = value.trim_end_matches(')').trim_matches('"');
        match kind {
            "IpAddress" => Some(format!("IP:{value}")),
            "DnsName" => Some(format!("DNS:{value}")),
            _ => None,
        }
    };
    presented.iter().filter_map(name).collect()
}

/// The names as the predicate of a sentence about a certificate.
pub(crate) fn valid_for(names: &[String]) -> String {
    if names.is_empty() {
        "has no `IP` or `DNS` subject alternative name".to_owned()
    } else {
        format!("is valid for {} only", names.join(", "))
    }
}

/// Whether a certificate has the form from before version 3, which openssl writes if it copies no names.
pub(crate) fn is_without_extensions(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    other.0.to_string().contains("UnsupportedCertVersion")
}

/// Why this host and a database did not accept each other's certificates, and what helps.
pub(crate) fn explain(error: &Error, address: &Address, trust: &Trust) -> String {
    match error {
        Error::InvalidMessage(_) => {
            "it does not answer in TLS: compare `url`, or `--redis`, with what `skein redis run` printed".to_owned()
        }
        error => match trust {
            Trust::Signed(tls) => explain_signed(error, address, tls),
            Trust::Pinned(pin) => explain_pinned(error, pin),
        },
    }
}

fn explain_pinned(error: &Error, pin: &PinnedCertificate) -> String {
    let PinnedCertificate { owner, invitation, .. } = pin;
    let invitation = invitation.display();
    match error {
        Error::AlertReceived(alert) if ABOUT_CERTIFICATES.contains(alert) => format!(
            "the server of peer {owner} asks for a certificate ({alert:?}), which the invitation `{invitation}` does not \
             replace: its owner has to set `tls-auth-clients optional` in `redis.conf` and restart it"
        ),
        Error::InvalidCertificate(CertificateError::BadSignature) => format!(
            "the server of peer {owner} shows the certificate that the invitation `{invitation}` names, and does not have \
             its key: nothing was sent to it, another server answers at this address"
        ),
        error => match other_certificate(error) {
            Some(OtherCertificate { expected, actual }) => format!(
                "the server of peer {owner} shows a certificate with the fingerprint {actual}, and the invitation \
                 `{invitation}` names {expected}: nothing was sent to it. Ask its owner, over a way that you trust, for \
                 the fingerprint: if it has changed, for another invitation; if not, another server answers at this address"
            ),
            None => format!("the server of peer {owner}: {error}"),
        },
    }
}

/// The fingerprints, if a server showed another certificate than the pinned one.
fn other_certificate(error: &Error) -> Option<&OtherCertificate> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return None };
    other.0.downcast_ref()
}

fn explain_signed(error: &Error, address: &Address, tls: &Tls) -> String {
    let ca = tls.ca.display();
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => format!(
            "its certificate is not signed by the authority in `{ca}`: get the file that its owner passes as `--tls-ca`, \
             and name it as `tls.ca`, or pass it as `--tls-ca`"
        ),
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            let is_valid_for = valid_for(&names(presented));
            let host = expected.to_str();
            format!(
                "its certificate {is_valid_for}, and it was reached as `{host}`: put a name that it has into `url`, or \
                 `--redis`, or let its owner {}",
                made_for(&alternative_name(&host))
            )
        }
        Error::InvalidCertificate(CertificateError::ExpiredContext { .. } | CertificateError::Expired) => {
            "its certificate has expired: its owner has to make a new one".to_owned()
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { .. } | CertificateError::NotValidYet) => {
            "its certificate is not valid yet: compare the clocks of both machines".to_owned()
        }
        error if is_without_extensions(error) => {
            format!("its certificate has no subject alternative name: let its owner {}", made_for(&name_in(address)))
        }
        Error::AlertReceived(alert) if ABOUT_CERTIFICATES.contains(alert) => match &tls.certificate {
            Some(own) => format!(
                "it refuses the certificate `{}` ({alert:?}): this has to be signed by the authority that its owner passes \
                 as `--tls-ca`",
                own.display()
            ),
            None => format!(
                "it asks for a certificate ({alert:?}): set `tls.certificate` and `tls.key`, or pass \
                 `--tls-certificate` and `--tls-key`, signed by the authority that its owner passes as `--tls-ca`"
            ),
        },
        error => error.to_string(),
    }
}

/// A host or an address as a subject alternative name.
fn alternative_name(host: &str) -> String {
    let is_address = host.parse::<IpAddr>().is_ok();
    format!("{}:{host}", if is_address { "IP" } else { "DNS" })
}

/// The subject alternative name of the server in an address. Sentinels and clusters name the server themselves.
fn name_in(address: &Address) -> String {
    match &address.place {
        Place::Server(Endpoint::Tcp { host, .. }) => alternative_name(host),
        _ => "IP:ADDRESS".to_owned(),
    }
}
