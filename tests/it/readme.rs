//! Commands of README that need certificates and several machines, run as they are written there.

use std::net::TcpListener;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Database, Place, root};
use crate::ready;

/// Address of the database in README.
const README_ADDRESS: &str = "10.0.0.1:6380";

/// The only command line of README that begins with `begin`, without the program's name and with `address`.
fn command_line(begin: &str, address: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let lines: Vec<&str> = readme.lines().filter(|line| line.starts_with(begin)).collect();
    let [line] = lines[..] else { panic!("README has {} lines that begin with `{begin}`", lines.len()) };
    let line = line.replace(README_ADDRESS, address);
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

fn words(line: &[String]) -> Vec<&str> {
    line.iter().map(String::as_str).collect()
}

/// Writes an authority, and certificates for this machine that it signed, under the file names in README.
fn certify(place: &Place, addresses: &[&str]) {
    let mut params = CertificateParams::default();
    // With the same name, its certificates would look self-signed.
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    place.write("ca.pem", authority.pem());
    for name in ["peer-0", "worker"] {
        let key = KeyPair::generate().unwrap();
        let names = addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &authority).unwrap();
        place.write(&format!("{name}.pem"), certificate.pem());
        place.write(&format!("{name}.pem.key"), key.serialize_pem());
    }
}

/// Runs README's database, host and worker, which must take tasks. `more` are further arguments of the worker.
fn run_at(host: &str, more: &[&str]) {
    if ready::tls_server().is_none() {
        return;
    }
    let place = Place::new();
    place.job("[model]\nhidden = [16]\n[train]\npeers = 1\nfaults = 0\nrounds = 1000000\n");
    certify(&place, &[host]);
    // A port that was free a moment ago.
    let address = TcpListener::bind((host, 0)).and_then(|socket| socket.local_addr()).unwrap().to_string();
    let identity = place.run(&words(&command_line("skein identity", &address)));
    let id = identity.stdout.trim();
    let run = command_line("skein redis run", &address);
    let options: Vec<&str> = words(&run).into_iter().skip_while(|word| *word != "--listen").collect();
    let _database = Database::start(&place, "redis", &options);
    assert!(words(&run).starts_with(&["redis", "run", "--dir", "redis", "--listen"]), "{run:?}");

    let redis = place.path("redis").display().to_string();
    place.write(
        "host.toml",
        format!(
            "job = \"skein.toml\"\ndir = \"run\"\nidentity = {{ key_file = \"peer-0.key\" }}\n\
             store = {{ url = \"unix://owner@{redis}/redis.sock\", password_file = \"{redis}/owner.password\" }}\n\
             [[roster]]\nid = \"{id}\"\n"
        ),
    );
    let mut host = place.start(&words(&command_line("skein host", &address)), 4);
    // The user copies the password to the worker's machine.
    std::fs::copy(place.path("redis/worker.password"), place.path("worker.password")).unwrap();
    let worker = command_line("skein worker", &address);
    // The first line names its queue; each other one is a call.
    let worker = place.start(&[&words(&worker), more].concat(), 4);
    kill_process(Pid::from_child(&worker), Signal::TERM).unwrap();
    assert!(worker.wait_with_output().unwrap().status.success(), "it leaves when it is asked to");
    kill_process(Pid::from_child(&host), Signal::TERM).unwrap();
    host.wait().unwrap();
}

#[test]
fn the_worker_of_readme_works_for_the_database_of_readme() {
    run_at("127.0.0.1", &[]);
}

/// From another machine, a worker cannot see whether a distribution has fixed the vulnerabilities of its server.
#[test]
fn a_worker_on_another_machine_can_be_told_that_the_server_was_fixed() {
    // An address of this machine, but not its usual one.
    run_at("127.0.0.2", &["--allow-vulnerable"]);
}
