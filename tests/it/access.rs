//! Who may read a database: peers that were invited, by the certificate that their invitation names, until they are
//! revoked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skein_redis::{Invitation, Scope};
use skein_store::{PeerStore, StoreError};
use skein_types::{Digest, PeerId};

use crate::certificates::{Authority, files, port, served};
use crate::client::{self, Client};
use crate::harness::{Database, Place};
use crate::ready;

/// The owner of the database, and the peer that is invited to read it.
const OWNER: PeerId = PeerId([1; 32]);
const READER: PeerId = PeerId([7; 32]);

/// A database in the folder `db`, and those that it lets read.
struct Host {
    place: Place,
    listen: String,
    tls: bool,
}

impl Host {
    /// A database without TLS, for readers on this machine.
    fn plain() -> Host {
        Host { place: Place::new(), listen: format!("127.0.0.1:{}", port()), tls: false }
    }

    /// A database with a certificate that it signs itself.
    fn encrypted() -> Host {
        let host = Host { tls: true, ..Host::plain() };
        host.place.json(&["redis", "certificates", "--dir", "db", "--address", "127.0.0.1"]);
        host
    }

    fn start(&self) -> Database {
        let tls = ["--tls-certificate", "db/server.pem", "--tls-key", "db/server.key"];
        let tls = if self.tls { &tls[..] } else { &[] };
        Database::start(&self.place, "db", &[&["--without-module", "--listen", &self.listen], tls].concat())
    }

    fn invite(&self, to: &str) -> PathBuf {
        let printed = self.place.json(&["redis", "invite", &READER.to_string(), "--dir", "db", "--to", to]);
        assert_eq!(printed["user"], "peer-0707070707070707");
        self.place.path(to)
    }

    fn revoke(&self) -> String {
        let printed = self.place.json(&["redis", "revoke", &READER.to_string(), "--dir", "db"]);
        printed["running"].to_string()
    }

    /// Logs in over the socket.
    fn client(&self, user: &str) -> Client<std::os::unix::net::UnixStream> {
        let mut client = Client::unix(&self.place.path("db/redis.sock")).unwrap();
        let password = fs::read_to_string(self.place.path(&format!("db/{user}.password"))).unwrap();
        assert_eq!(client.ask(&["AUTH", user, password.trim()]).unwrap(), "OK");
        client
    }
}

fn reader(invitation: &Path) -> Arc<dyn PeerStore> {
    let scope = Scope { run: Digest([2; 32]), peer: OWNER, values: 3 };
    skein_redis::read_invited(&Invitation::load(invitation).unwrap(), invitation, scope).unwrap()
}

/// Asks for something that the peer may serve, which it does not.
fn read(store: &dyn PeerStore) -> Result<(), StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(store.served("nothing")).map(|found| assert_eq!(found, None))
}

fn is_denied(store: &dyn PeerStore) -> bool {
    matches!(read(store), Err(StoreError::Denied { .. }))
}

#[test]
fn a_peer_reads_by_its_invitation_until_it_is_revoked() {
    if ready::tls_server().is_none() {
        return;
    }
    let host = Host::encrypted();
    let mut database = host.start();
    let first = host.invite("first.invitation");
    assert_eq!(fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o600);
    let early = reader(&first);
    read(&*early).unwrap();

    // Another invitation replaces the password, on open connections too.
    let second = host.invite("second.invitation");
    let reading = reader(&second);
    read(&*reading).unwrap();
    assert!(is_denied(&*early), "the first password counted on");
    let line = "user peer-0707070707070707 on #";
    let users = || fs::read_to_string(host.place.path("db/users.acl")).unwrap();
    assert_eq!(users().matches(line).count(), 1, "{}", users());

    // What was invited and revoked outlasts the server.
    drop(database);
    database = host.start();
    read(&*reading).unwrap();
    assert_eq!(host.revoke(), "true");
    assert!(is_denied(&*reading), "its connection stayed open");
    assert!(is_denied(&*reader(&second)));
    assert!(!users().contains(line), "{}", users());
    drop(database);
    let _database = host.start();
    assert!(is_denied(&*reader(&second)));

    let error = host.place.fails(&["redis", "revoke", &READER.to_string(), "--dir", "db"]);
    let expected = "was not invited to the database in `";
    assert!(error.contains(expected) && error.contains("it has no user `peer-0707070707070707`"), "{error}");
}

/// Connections of others stay open: a host in the middle of a round would have to send its tensor again.
#[test]
fn an_invited_peer_may_do_what_other_peers_may_and_disturbs_nobody() {
    let host = Host::plain();
    let _database = host.start();
    let mut owner = host.client("owner");
    let invitation = Invitation::load(&host.invite("reader.invitation")).unwrap();
    let rights = |user: &str| {
        let users = fs::read_to_string(host.place.path("db/users.acl")).unwrap();
        let line = users.lines().find_map(|line| line.strip_prefix(&format!("user {user} on #"))).unwrap();
        line.split_once(' ').unwrap().1.to_owned()
    };
    assert_eq!(rights("peer-0707070707070707"), rights("peer"));

    let mut reader = Client::tcp(host.listen.split_once(':').unwrap().1).unwrap();
    assert_eq!(reader.ask(&["AUTH", "peer-0707070707070707", &invitation.password]).unwrap(), "OK");
    assert_eq!(owner.ask(&["SET", "skein:job:public:x", "1"]).unwrap(), "OK");
    assert_eq!(reader.ask(&["GET", "skein:job:public:x"]).unwrap(), "1");
    for words in [&["GET", "skein:job:x"][..], &["SET", "skein:job:public:x", "2"], &["ACL", "WHOAMI"]] {
        assert!(reader.ask(words).unwrap().starts_with("NOPERM"), "{words:?}");
    }
    // Its owner cannot change users either, only the admin, who can do nothing else.
    for words in [&["ACL", "SETUSER", "owner", "+@all"][..], &["CLIENT", "KILL", "USER", "peer"]] {
        assert!(owner.ask(words).unwrap().starts_with("NOPERM"), "{words:?}");
    }
    assert!(host.client("admin").ask(&["GET", "skein:job:x"]).unwrap().starts_with("NOPERM"));

    let again = Invitation::load(&host.invite("again.invitation")).unwrap();
    assert!(client::until(|| reader.ask(&["PING"]).is_err()), "a connection with the earlier password stayed open");
    let mut reader = Client::tcp(host.listen.split_once(':').unwrap().1).unwrap();
    assert!(reader.ask(&["AUTH", "peer-0707070707070707", &invitation.password]).unwrap().starts_with("WRONGPASS"));
    assert_eq!(reader.ask(&["AUTH", "peer-0707070707070707", &again.password]).unwrap(), "OK");
    assert_eq!(host.revoke(), "true");
    assert!(client::until(|| reader.ask(&["PING"]).is_err()), "its connection stayed open");
    assert_eq!(owner.ask(&["PING"]).unwrap(), "PONG", "the same connection as before");
}

#[test]
fn a_change_while_the_database_is_down_counts_from_its_start() {
    let host = Host::plain();
    drop(host.start());
    let invitation = host.invite("reader.invitation");
    let database = host.start();
    let reading = reader(&invitation);
    read(&*reading).unwrap();
    drop(database);
    assert_eq!(host.revoke(), "false");
    let _database = host.start();
    assert!(is_denied(&*reading));
}

#[test]
fn an_invitation_that_nobody_could_use_is_not_written() {
    let place = Place::new();
    place.json(&["redis", "certificates", "--dir", "certificates", "--address", "10.0.0.1"]);
    let own = ["--tls-certificate", "certificates/server.pem", "--tls-key", "certificates/server.key"];
    let config = |dir: &str, options: &[&str]| {
        place.json(&[&["redis", "config", "--without-module", "--dir", dir], options].concat());
    };
    config("socket", &[]);
    config("here", &["--listen", "127.0.0.1:6380"]);
    config("everywhere", &[&["--listen", "0.0.0.0:6380"][..], &own].concat());
    config("signed", &[&["--listen", "10.0.0.1:6380", "--tls-ca", "certificates/server.pem"][..], &own].concat());
    config("old", &["--listen", "127.0.0.1:6380"]);
    let users = fs::read_to_string(place.path("old/users.acl")).unwrap();
    place.write(
        "old/users.acl",
        users.lines().filter(|line| !line.starts_with("user admin")).collect::<Vec<_>>().join("\n"),
    );
    place.write("there.invitation", "");
    let peer = READER.to_string();
    for (dir, more, parts) in [
        ("none", &[][..], ["`none` has no `redis.conf`", "`skein redis run` or `skein redis config`"]),
        ("socket", &[], ["listens on a Unix socket only", "`skein redis config --listen ADDRESS:PORT`"]),
        ("everywhere", &[], ["listens on all addresses of this machine", "`--address`"]),
        ("signed", &[], ["asks for certificates that the authority in `", "`tls-auth-clients optional`"]),
        ("here", &["--address", "10.0.0.1"], ["has no TLS, so only this machine", "`skein redis certificates`"]),
        ("old", &[], ["has no user `admin`", "`skein redis config`"]),
        ("everywhere", &["--address", "a,b"], ["is not a database address", "several hosts"]),
    ] {
        let error = place.fails(&[&["redis", "invite", &peer, "--dir", dir, "--to", "new.invitation"], more].concat());
        assert!(parts.iter().all(|part| error.contains(part)), "{dir}: {error}");
        assert!(!place.path("new.invitation").exists());
    }
    let error = place.fails(&["redis", "invite", &peer, "--dir", "here", "--to", "there.invitation"]);
    assert!(error.contains("`there.invitation` exists: choose another file with `--to`"), "{error}");
    assert!(!fs::read_to_string(place.path("here/users.acl")).unwrap().contains("peer-07"), "nobody was invited");
    for key in ["07", &"x".repeat(64), "../../etc"] {
        let error = place.fails(&["redis", "invite", key, "--dir", "here", "--to", "new.invitation"]);
        assert!(error.contains("a public key has 64 hexadecimal digits"), "{error}");
        assert!(place.fails(&["redis", "revoke", key, "--dir", "here"]).contains("64 hexadecimal digits"));
    }

    for (index, (address, url)) in [
        ("alice.example", "rediss://peer-0707070707070707@alice.example:6380"),
        ("10.0.0.1:7000", "rediss://peer-0707070707070707@10.0.0.1:7000"),
        ("2001:db8::1", "rediss://peer-0707070707070707@[2001:db8::1]:6380"),
    ]
    .into_iter()
    .enumerate()
    {
        let to = format!("{index}.invitation");
        let invite = ["redis", "invite", &peer, "--dir", "everywhere", "--to", &to, "--address", address];
        assert_eq!(place.json(&invite)["url"], url);
    }
    // A peer without a certificate of the authority may log in with a password there.
    let path = "signed/redis.conf";
    let text = fs::read_to_string(place.path(path)).unwrap();
    place.write(path, text.replace("tls-auth-clients yes", "tls-auth-clients optional"));
    place.json(&["redis", "invite", &peer, "--dir", "signed", "--to", "signed.invitation"]);
}

/// Nobody but the holder of the certificate in the invitation gets the password, whatever an authority signed.
#[test]
fn a_server_with_another_certificate_gets_nothing_and_both_fingerprints_are_named() {
    if ready::tls_server().is_none() {
        return;
    }
    let place = Place::new();
    let authority = Authority::new(&place, "ca");
    authority.sign("first", "IP:127.0.0.1");
    authority.sign("second", "IP:127.0.0.1");
    let listen = format!("127.0.0.1:{}", port());
    let start = |name: &str| {
        let files = files(name);
        // Only the authority's own clients show certificates.
        let options = served(&listen, "ca.pem", &files);
        if !place.path("db").exists() {
            place.json(&[&["redis", "config"][..], &options[2..]].concat());
        }
        let config = fs::read_to_string(place.path("db/redis.conf")).unwrap();
        let config = config.replace("clients yes", "clients optional").replace("/first.", &format!("/{name}."));
        place.write("db/redis.conf", config);
        Database::start(&place, "db", &["--without-module"])
    };
    let database = start("first");
    place.json(&["redis", "invite", &READER.to_string(), "--dir", "db", "--to", "reader.invitation"]);
    let path = place.path("reader.invitation");
    let expected = Invitation::load(&path).unwrap().certificate.unwrap();
    read(&*reader(&path)).unwrap();
    drop(database);

    let _database = start("second");
    let actual = skein_redis::fingerprint_of(&place.path("second.pem")).unwrap();
    let host = Host { place, listen, tls: true };
    let logins = || {
        let info = host.client("owner").ask(&["INFO", "commandstats"]).unwrap();
        let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_auth:calls=")?.split(',').next());
        calls.unwrap().parse::<u64>().unwrap()
    };
    let before = logins();
    let error = read(&*reader(&path)).unwrap_err();
    assert!(matches!(error, StoreError::Certificate { .. }), "{error:?}");
    let error = error.to_string();
    for part in [
        &format!("the server of peer {OWNER} shows a certificate with the fingerprint {actual}"),
        &format!("reader.invitation` names {expected}: nothing was sent to it"),
        "if it has changed, for another invitation; if not, another server answers at this address",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(logins(), before + 1, "only this test logged in: the reader sent no password");
}

#[test]
fn certificates_are_made_once_for_addresses_and_their_keys_kept_secret() {
    let place = Place::new();
    let make = ["redis", "certificates", "--dir", "db", "--address"];
    for address in ["10.0.0.1:6380", "", "a b"] {
        let error = place.fails(&[&make[..], &[address]].concat());
        assert!(error.contains(&format!("`{address}` is neither an IP address nor the name of a host")), "{error}");
        assert!(!place.path("db").exists());
    }
    let made = place.json(&[&make[..], &["10.0.0.1", "alice.example", "--address", "2001:db8::1"]].concat());
    assert_eq!(fs::metadata(place.path("db/server.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let openssl = |arguments: &str| {
        let mut command = std::process::Command::new("openssl");
        let output = command.args(arguments.split(' ')).current_dir(place.path("db")).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let names = openssl("x509 -in server.pem -noout -ext subjectAltName");
    assert!(names.contains("IP Address:10.0.0.1, DNS:alice.example, IP Address:2001:DB8:0:0:0:0:0:1"), "{names}");
    let fingerprint = openssl("x509 -in server.pem -noout -fingerprint -sha256");
    let fingerprint = fingerprint.split_once('=').unwrap().1.replace(':', "").to_lowercase();
    assert_eq!(made["sha256"], fingerprint);
    // For two years from now, but not for ten.
    assert!(openssl("x509 -in server.pem -noout -checkend 63072000").contains("will not expire"));
    assert!(openssl("x509 -in server.pem -noout -checkend 315360000").contains("will expire"));
    let error = place.fails(&[&make[..], &["10.0.0.1"]].concat());
    assert!(error.contains("`db/server.pem` exists") && error.contains("invite all peers again"), "{error}");
    assert_eq!(skein_redis::fingerprint_of(&place.path("db/server.pem")).unwrap().to_string(), fingerprint);
}

/// A worker has no invitation: the certificate is its own authority.
#[test]
fn a_worker_accepts_a_certificate_that_signs_itself_as_its_authority() {
    if ready::tls_server().is_none() {
        return;
    }
    let host = Host::encrypted();
    let _database = host.start();
    let url = format!("rediss://worker@{}", host.listen);
    let peer = READER.to_string();
    let worker =
        ["worker", "--peer", &peer, "--redis", &url, "--password-file", "db/worker.password", "--allow-vulnerable"];
    let error = host.place.fails(&[&worker[..], &["--tls-ca", "db/server.pem"]].concat());
    assert!(error.contains("no host has used the database"), "{error}");
    host.place.json(&["redis", "certificates", "--dir", "other", "--address", "127.0.0.1"]);
    let error = host.place.fails(&[&worker[..], &["--tls-ca", "other/server.pem"]].concat());
    assert!(error.contains("do not accept each other's certificates"), "{error}");
}

/// Servers refuse the owner too once a reader has used up `maxclients`, and reserve no connection for it.
#[test]
fn a_reader_that_takes_all_connections_does_not_lock_the_owner_out() {
    let host = Host::plain();
    host.place.job("[train]\npeers = 1\nbyzantine = 0\nrounds = 3\n");
    let id = host.place.json(&["identity", "--key-file", "own.key"])["id"].as_str().unwrap().to_owned();
    let text = format!(
        "job = \"skein.toml\"\ndir = \"run\"\nidentity = {{ key_file = \"own.key\" }}\n[store]\n\
         url = \"unix://owner@db/redis.sock\"\npassword_file = \"db/owner.password\"\noutage_max = \"15s\"\n\
         [[roster]]\nid = \"{id}\"\n"
    );
    host.place.write("host.toml", text);
    let _database = host.start();
    let invitation = Invitation::load(&host.invite("reader.invitation")).unwrap();
    let port = host.listen.split_once(':').unwrap().1;
    let mut taken = Vec::new();
    for _ in 0..2 {
        // Until the server refuses one.
        loop {
            let mut connection = Client::tcp(port).unwrap();
            let answer = connection.ask(&["AUTH", "peer-0707070707070707", &invitation.password]);
            if !answer.is_ok_and(|answer| answer == "OK") {
                break;
            }
            taken.push(connection);
        }
        assert!(taken.len() > 200, "{} connections are few", taken.len());
        // It neither begins without connections nor loses those that it has.
        let _ = fs::remove_dir_all(host.place.path("run"));
        assert_eq!(host.place.json(&["host", "--config", "host.toml"])["rounds"], 3);
    }
    let mut owner = host.client("owner");
    let list = owner.ask(&["INFO", "clients"]).unwrap();
    let connected = list.lines().find_map(|line| line.strip_prefix("connected_clients:")).unwrap();
    assert!(connected.parse::<usize>().unwrap() <= 192 + 16, "{list}");
    assert_eq!(host.revoke(), "true");
}
