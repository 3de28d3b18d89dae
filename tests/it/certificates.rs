//! Certificates of several owners, made by openssl: those that others would refuse are found before a database starts,
//! and a host that meets one names it and the way out.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::harness::{Database, Place};
use crate::ready;

/// An authority `NAME.pem` in a folder, which signs certificates.
pub(crate) struct Authority<'a> {
    place: &'a Place,
    name: &'a str,
}

impl<'a> Authority<'a> {
    pub(crate) fn new(place: &'a Place, name: &'a str) -> Authority<'a> {
        let authority = Authority { place, name };
        let days = ["-days", "1", "-subj", &format!("/CN={name}")].map(str::to_owned);
        authority
            .openssl(&[&words(&format!("req -x509 {KEY} -keyout {name}.key -out {name}.pem"))[..], &days].concat());
        authority
    }

    /// Signs `FILE.pem`, valid for `names`; without them, as openssl does if it is not told to copy any.
    pub(crate) fn sign(&self, file: &str, names: &str) {
        let subject = format!("/CN={file}");
        let mut request = words(&format!("req -new {KEY} -keyout {file}.key -out {file}.csr"));
        request.extend(["-subj".to_owned(), subject]);
        let ca = self.name;
        let mut signed =
            words(&format!("x509 -req -in {file}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 1"));
        signed.extend(words(&format!("-out {file}.pem")));
        if !names.is_empty() {
            request.extend(["-addext".to_owned(), format!("subjectAltName={names}")]);
            signed.extend(words("-copy_extensions copy"));
        }
        self.openssl(&request);
        self.openssl(&signed);
    }

    fn openssl(&self, arguments: &[String]) {
        let output = Command::new("openssl").args(arguments).current_dir(self.place.path("")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A port that was free a moment ago.
pub(crate) fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The options for a database with certificates.
pub(crate) fn served<'a>(listen: &'a str, ca: &'a str, files: &'a [String; 2]) -> Vec<&'a str> {
    let [certificate, key] = files;
    let tls = ["--tls-ca", ca, "--tls-certificate", certificate, "--tls-key", key];
    [&["redis", "run", "--dir", "db", "--without-module", "--listen", listen][..], &tls].concat()
}

pub(crate) fn files(name: &str) -> [String; 2] {
    [format!("{name}.pem"), format!("{name}.key")]
}

/// Starts a database with the certificate `NAME.pem`; its log is read once it has ended.
fn start(place: &Place, listen: &str, name: &str) -> (Database, ChildStderr) {
    let mut command = place.command(&served(listen, "ca.pem", &files(name)));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = child.stderr.take().unwrap();
    (Database::running(child), log)
}

/// A host that runs until this is dropped.
struct Host(Child);

impl Host {
    /// Waits for a line of the log that contains the words.
    fn line(&mut self, words: &'static str) -> String {
        let log = BufReader::new(self.0.stderr.take().unwrap()).lines().map_while(Result::ok);
        let (sender, line) = channel();
        // Keep reading, or the host would block on a full pipe.
        std::thread::spawn(move || {
            for line in log {
                println!("{line}");
                if line.contains(words) {
                    // Only the first one is awaited.
                    let _ = sender.send(line);
                }
            }
        });
        line.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|error| panic!("no line has `{words}`: {error}"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Such a database once started without a word, and every other owner's host failed.
#[test]
fn a_database_that_other_hosts_would_refuse_does_not_start() {
    if ready::tls_server().is_none() {
        return;
    }
    let place = Place::new();
    let authority = Authority::new(&place, "ca");
    Authority::new(&place, "other");
    authority.sign("other-kind", "URI:urn:skein");
    authority.sign("nameless", "");
    authority.sign("fitting", "IP:127.0.0.1");
    let port = port();
    let here = format!("127.0.0.1:{port}");
    let everywhere = format!("0.0.0.0:{port}");
    let fix = "-addext \"subjectAltName=IP:127.0.0.1\"` of `openssl req`, and sign it with `-copy_extensions copy`";
    let unnamed = "has no `IP` or `DNS` subject alternative name, so every other host would refuse it";
    for (listen, ca, name, parts) in [
        (&here, "ca.pem", "other-kind", [unnamed, fix, ""]),
        (&here, "ca.pem", "nameless", [unnamed, fix, ""]),
        (&everywhere, "ca.pem", "other-kind", [unnamed, "subjectAltName=IP:ADDRESS", ""]),
        (&everywhere, "ca.pem", "nameless", [unnamed, "subjectAltName=IP:ADDRESS", ""]),
        (&here, "other.pem", "fitting", ["not signed by the authority in `other.pem`", "-CA other.pem", "`--tls-ca`"]),
        (&here, "ca.pem", "ca", ["every other host would refuse the certificate `ca.pem`", "CaUsedAsEndEntity", ""]),
    ] {
        let files = files(name);
        let error = place.fails(&served(listen, ca, &files));
        assert!(error.contains(&format!("the certificate `{name}.pem`")), "{error}");
        assert!(parts.iter().all(|part| error.contains(part)), "{name} on {listen}: {error}");
        assert!(!place.path("db").exists(), "the folder would keep the address and the files");
    }
    for (key, part) in [
        ("nameless.key", "`nameless.key` is not the key of the certificate `fitting.pem`"),
        ("fitting.pem", "`fitting.pem` is not a private key in PEM format"),
        ("absent.key", "failed to read the key `absent.key`"),
    ] {
        let files = ["fitting.pem".to_owned(), key.to_owned()];
        let error = place.fails(&served(&here, "ca.pem", &files));
        assert!(error.contains(part), "{error}");
        assert!(!place.path("db").exists(), "the folder would keep the key");
    }
}

/// Whether the name of a host leads to the address is decided elsewhere, so it is told and not refused.
#[test]
fn a_database_whose_certificate_has_the_name_of_its_host_says_so() {
    if ready::tls_server().is_none() {
        return;
    }
    let place = Place::new();
    let authority = Authority::new(&place, "ca");
    authority.sign("named", "DNS:localhost");
    let listen = format!("127.0.0.1:{}", port());
    let (database, mut log) = start(&place, &listen, "named");
    let by = |host: &str| {
        let url = format!("rediss://worker@{}", listen.replace("127.0.0.1", host));
        reached(&place, &url, ["ca.pem", "named"])
    };
    let error = by("localhost");
    assert!(error.contains("no host has used the database"), "{error}");
    let error = by("127.0.0.1");
    let parts = [
        "is valid for DNS:localhost only, and it was reached as `127.0.0.1`",
        "put a name that it has into `url`, or `--redis`",
        "subjectAltName=IP:127.0.0.1",
    ];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    drop(database);
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    let expected =
        "the certificate `named.pem` is valid for DNS:localhost only: others reach this database by such a name";
    assert!(said.contains(expected), "{said}");
}

/// Hosts reach a server behind a port-forward at an address that its machine does not have.
#[test]
fn a_database_whose_certificate_has_another_address_starts_and_tells_it() {
    if ready::tls_server().is_none() {
        return;
    }
    let place = Place::new();
    Authority::new(&place, "ca").sign("forwarded", "IP:10.9.8.7,URI:urn:skein");
    let (database, mut log) = start(&place, &format!("127.0.0.1:{}", port()), "forwarded");
    drop(database);
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    let expected = "`forwarded.pem` is valid for IP:10.9.8.7 only: others reach this database by such a name";
    assert!(said.contains(expected), "{said}");
}

/// Some key: a worker that cannot reach its database does not get to compare it.
const PEER: &str = "0000000000000000000000000000000000000000000000000000000000000001";

/// The error of a worker that reaches the database in `db` with an authority and a certificate, if it has one.
fn reached(place: &Place, url: &str, [ca, own]: [&str; 2]) -> String {
    let password = ["--password-file", "db/worker.password", "--tls-ca", ca, "--allow-vulnerable"];
    let [certificate, key] = files(own);
    let tls = ["--tls-certificate", &certificate, "--tls-key", &key];
    let tls = if own.is_empty() { &[][..] } else { &tls };
    place.fails(&[&["worker", "--peer", PEER, "--redis", url][..], &password, tls].concat())
}

/// A host once repeated an error that named neither the file nor the fix, every second.
#[test]
fn a_refused_certificate_is_named_with_the_way_out() {
    if ready::tls_server().is_none() {
        return;
    }
    let place = Place::new();
    let authority = Authority::new(&place, "ca");
    authority.sign("bob", "IP:127.0.0.1");
    Authority::new(&place, "other").sign("foreign", "IP:127.0.0.1");
    let listen = format!("127.0.0.1:{}", port());
    let bob = files("bob");
    let _bob = Database::start_by(place.command(&[&served(&listen, "ca.pem", &bob)[..], &["-o", "json"]].concat()));
    let url = format!("rediss://worker@{listen}");
    for (ca, own, parts) in [
        ("ca.pem", "bob", ["no host has used the database", &url]),
        (
            "other.pem",
            "bob",
            ["not signed by the authority in `other.pem`", "name it as `tls.ca`, or pass it as `--tls-ca`"],
        ),
        ("ca.pem", "foreign", ["it refuses the certificate `foreign.pem` (UnknownCA)", "passes as `--tls-ca`"]),
        (
            "ca.pem",
            "",
            ["it asks for a certificate (CertificateRequired)", "or pass `--tls-certificate` and `--tls-key`"],
        ),
    ] {
        let error = reached(&place, &url, [ca, own]);
        assert!(parts.iter().all(|part| error.contains(part)), "{ca}, {own:?}: {error}");
    }

    place.job("[model]\nhidden = [4]\n[train]\npeers = 2\nbyzantine = 0\naggregate = \"aggregate-mean\"\n");
    let _alice = Database::start(&place, "alice/redis", &["--without-module"]);
    let id = |name: &str| {
        place.json(&["identity", "--key-file", &format!("alice/{name}.key")])["id"].as_str().unwrap().to_owned()
    };
    let alice_id = id("alice");
    let bob_id = id("bob");
    // Paths are relative to the folder of the configuration, that of the socket too.
    let text = format!(
        "job = \"../skein.toml\"\ndir = \"run\"\nidentity = {{ key_file = \"alice.key\" }}\n\
         [store]\nurl = \"unix://owner@redis/redis.sock\"\npassword_file = \"redis/owner.password\"\n\
         [[roster]]\nid = \"{alice_id}\"\n[[roster]]\nid = \"{bob_id}\"\n[roster.store]\nurl = \"rediss://peer@{listen}\"\n\
         password_file = \"../db/peer.password\"\n\
         tls = {{ ca = \"../other.pem\", certificate = \"../bob.pem\", key = \"../bob.key\" }}\n"
    );
    place.write("alice/host.toml", text);
    let mut command = place.command(&["host", "--config", "alice/host.toml"]);
    let mut host = Host(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let line = host.line("failed to read the database of a peer");
    let address = format!("`rediss://peer@{listen}`");
    for part in
        [&bob_id[..8], "times=1", &address, "`alice/../other.pem`", "get the file that its owner passes as `--tls-ca`"]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
}
