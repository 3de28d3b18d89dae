//! TLS with client certificates, against a real server.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use skein_redis::{self, Invitation, Options, Tls, fingerprint_of, secret};
use skein_store::{State, StoreError};
use tempfile::TempDir;

use crate::server::Kind;
use crate::{ME, ready, scope, shown};

/// A certificate authority, and the files of its certificates.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        // Without a distinct name, the certificates that it signs would look self-signed.
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let authority = Authority { dir: TempDir::new().expect("a folder"), issuer };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        secret::create(&path, text).expect("written");
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs a certificate for this machine; returns the files of the certificate and its key.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let certificate = self.write(&format!("{name}.pem"), &certificate.pem());
        (certificate, self.write(&format!("{name}.key"), &key.serialize_pem()))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path")
}

#[test]
fn both_sides_must_have_certificates_of_one_authority() {
    let Some(program) = ready::tls_server() else { return };
    let own = Authority::new();
    let foreign = Authority::new();
    let (server_certificate, server_key) = own.sign("server");
    let (certificate, key) = own.sign("client");
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    let port_text = port.to_string();
    let ca = own.path("ca.pem");
    let arguments = [
        ["--tls-port", &port_text],
        ["--tls-ca-cert-file", text(&ca)],
        ["--tls-cert-file", text(&server_certificate)],
        ["--tls-key-file", text(&server_key)],
        ["--tls-auth-clients", "yes"],
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let _server = Kind::Module.start_program(&program, &arguments.concat());
        let url = format!("rediss://127.0.0.1:{port}").parse().expect("an address");
        let options = |tls: Option<Tls>| Options { tls, allow_vulnerable: true, ..Options::new(url) };
        let with = |ca: &Path, pair: Option<(&PathBuf, &PathBuf)>| Tls {
            ca: ca.to_owned(),
            certificate: pair.map(|(certificate, _)| certificate.clone()),
            key: pair.map(|(_, key)| key.clone()),
        };
        let good = Options { tls: Some(with(&ca, Some((&certificate, &key)))), ..options(None) };
        let store = skein_redis::open(&good, scope(70_000)).await.expect("certificates that fit");
        let state = State::new(0, (0..70_000).map(|i| i as f32).collect::<Vec<_>>().into(), vec![]);
        store.state.set_state(state.clone()).await.expect("a state");
        let fresh = skein_redis::open(&good, scope(70_000)).await.expect("certificates that fit");
        assert_eq!(fresh.state.state().await.expect("a state"), state, "tensors are read as they were stored");

        let (foreign_certificate, foreign_key) = foreign.sign("client");
        for bad in [
            with(&foreign.path("ca.pem"), Some((&certificate, &key))),
            with(&ca, Some((&foreign_certificate, &foreign_key))),
            with(&ca, None),
        ] {
            let refused = skein_redis::open(&Options { tls: Some(bad.clone()), ..good.clone() }, scope(1)).await;
            let error = refused.err().unwrap_or_else(|| panic!("{bad:?} was accepted"));
            assert!(matches!(error, StoreError::Certificate { .. }), "{bad:?}: {error:?}");
        }
        let exposed = own.write("exposed.key", &std::fs::read_to_string(&key).expect("a key"));
        std::fs::set_permissions(&exposed, PermissionsExt::from_mode(0o640)).expect("it is ours");
        for (bad, expected) in [
            (Some(with(&ca, Some((&certificate, &exposed)))), "others may read the key `"),
            (Some(with(&own.path("none.pem"), None)), "none.pem"),
            (Some(with(&key, None)), "it contains no certificate"),
            (None, "needs a `tls` table"),
        ] {
            let refused = skein_redis::open(&Options { tls: bad, ..good.clone() }, scope(1)).await;
            let error = shown(&refused.err().expect("files that do not fit"));
            assert!(error.contains(expected), "{error}");
        }
    });
}

/// A server that shows one certificate and signs with the key of another, and what it is told after the handshake.
async fn impostor(shown: &Path, key: &Path) -> (u16, tokio::task::JoinHandle<std::io::Result<usize>>) {
    let chain = CertificateDer::pem_file_iter(shown).expect("a file").collect::<Result<_, _>>().expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth();
    let certificate = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.with_cert_resolver(certificate)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let told = tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut stream = acceptor.accept(stream).await?;
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await
    });
    (port, told)
}

/// Anybody may copy a certificate: the key decides.
#[test]
fn a_server_that_only_shows_the_pinned_certificate_is_told_nothing() {
    let authority = Authority::new();
    let (own, own_key) = authority.sign("own");
    let (_, other_key) = authority.sign("other");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        for (key, is_told) in [(&own_key, true), (&other_key, false)] {
            let (port, told) = impostor(&own, key).await;
            let invitation = Invitation {
                reader: ME,
                url: format!("rediss://peer@127.0.0.1:{port}").parse().expect("an address"),
                password: "secret".into(),
                certificate: Some(fingerprint_of(&own).expect("a certificate")),
            };
            let reader =
                skein_redis::read_invited(&invitation, Path::new("own.invitation"), scope(1)).expect("a reader");
            let reading = tokio::spawn(async move { reader.served("nothing").await });
            let heard = told.await.expect("it ends");
            assert_eq!(heard.is_ok_and(|bytes| bytes > 0), is_told);
            if is_told {
                reading.abort();
                continue;
            }
            let error = reading.await.expect("it ends").expect_err("another key");
            assert!(matches!(error, StoreError::Certificate { .. }), "{error:?}");
            let expected =
                "shows the certificate that the invitation `own.invitation` names, and does not have its key";
            assert!(error.to_string().contains(expected), "{error}");
        }
    });
}
