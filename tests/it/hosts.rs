//! Configurations of hosts, databases and workers: valid ones are written, invalid ones refused.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::Place;

/// Checks that a host refuses a valid configuration after `change` was applied to it.
fn refuses(change: impl Fn(String) -> String, expected: &str) {
    let place = Place::new();
    place.job("[train]\npeers = 2\nbyzantine = 0\n");
    let id = place.json(&["identity", "--key-file", "own.key"])["id"].as_str().unwrap().to_owned();
    let other = "7".repeat(64);
    let store = |name: &str| format!("{{ url = \"unix:///nowhere/{name}.sock\" }}");
    let text = format!(
        "job = \"skein.toml\"\ndir = \"run\"\nidentity = {{ key_file = \"own.key\" }}\nstore = {}\n\
         [[roster]]\nid = \"{id}\"\n[[roster]]\nid = \"{other}\"\nstore = {}\n",
        store("own"),
        store("other")
    );
    place.write("host.toml", change(text));
    let error = place.fails(&["host", "--config", "host.toml"]);
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_host_that_cannot_run_reports_why() {
    refuses(|text| text, "the database `unix:///nowhere/own.sock` is out of reach");
    refuses(|text| text.replace(&"7".repeat(64), "seven"), "64 hexadecimal digits");
    refuses(|text| text.replace("dir =", "folder ="), "unknown field `folder`, expected one of `job`, `dir`, ");
    refuses(|text| text.replace("dir =", "dirr ="), "; did you mean `dir`?");
    refuses(|text| text.replace("key_file", "keyfile"), "; did you mean `key_file`?");
    refuses(|text| text.replace("skein.toml", "none.toml"), "none.toml");
    refuses(|text| text.replace("own.key", "none.key"), "failed to read the key");
    refuses(|text| text.replace("unix:///nowhere/own.sock", "redis://:secret@host"), "a password belongs in a file");
    refuses(|text| text.replace("unix:///nowhere/own.sock", "rediss://host"), "a `tls` table");
    refuses(|text| text.replace("{ key_file = \"own.key\" }", "{ index = 0 }"), "the roster does not have this peer");
    refuses(|text| text.split("[[roster]]").take(2).collect::<Vec<_>>().join("[[roster]]"), "asks for 2");
    let twice = |text: String| {
        let members: Vec<&str> = text.split("[[roster]]").collect();
        [members[0], members[1], members[1]].join("[[roster]]")
    };
    refuses(twice, "has peer");
    let ceilings = |set: &str| format!("[ceilings]\n{set}\n[store]\nurl = \"unix:///nowhere/own.sock\"\n[[roster]]");
    let limited = |set: &str| {
        let table = ceilings(set);
        move |text: String| {
            let text = text.replacen("store = { url = \"unix:///nowhere/own.sock\" }\n", "", 1);
            text.replacen("[[roster]]", &table, 1)
        }
    };
    refuses(limited("memory = 5"), "unknown field `memory`");
    let total = "MiB with its engine, all functions together 99 MiB (`[ceilings.total] memory_mib`)";
    refuses(limited("total = { memory_mib = 99 }"), total);
    let no_store = |text: String| text.rsplit_once("store =").unwrap().0.to_owned();
    refuses(no_store, "has no `store` and no `invitation`");
}

/// The key of an index follows from the job, which every peer has.
#[test]
fn a_key_that_is_not_secret_is_refused_beside_databases_of_other_machines() {
    let with = |url: &'static str| {
        move |text: String| {
            let text = text.replace("{ key_file = \"own.key\" }", "{ index = 0 }");
            text.replace("unix:///nowhere/other.sock", url)
        }
    };
    for url in [
        "rediss://peer@10.0.0.2:6380",
        "rediss+sentinel://peer@127.0.0.1,10.0.0.2/mine",
        "rediss+cluster://peer@bob.example",
    ] {
        refuses(with(url), "anybody could sign as this peer");
        refuses(with(url), "`skein identity --key-file FILE`");
        refuses(with(url), url.split('@').nth(1).unwrap().split(['/', ',']).next().unwrap());
    }
    for url in ["redis://peer@127.0.0.1:6380", "redis+sentinel://peer@127.0.0.1/mine", "redis://peer@localhost"] {
        refuses(with(url), "the roster does not have this peer");
    }
}

#[test]
fn an_address_on_another_machine_is_refused_without_tls_in_every_form() {
    for url in [
        "redis://peer@10.0.0.2:6380",
        "redis+sentinel://peer@10.0.0.2/mine",
        "redis+sentinel://peer@127.0.0.1,10.0.0.2/mine",
        "redis+cluster://peer@127.0.0.1,bob.example",
    ] {
        refuses(
            |text| text.replace("unix:///nowhere/other.sock", url),
            "is on another machine: use a `rediss` address",
        );
        refuses(|text| text.replace("unix:///nowhere/own.sock", url), "is on another machine: use a `rediss` address");
    }
}

/// Checks that a host refuses an invitation of the other peer with this text and this mode.
fn refuses_invitation(mode: u32, change: impl Fn(String) -> String, expected: &str) {
    let place = Place::new();
    place.job("[train]\npeers = 2\nbyzantine = 0\n");
    let id = place.json(&["identity", "--key-file", "own.key"])["id"].as_str().unwrap().to_owned();
    let other = "7".repeat(64);
    let invitation = format!(
        "skein_invitation_version = 1\nreader = \"{id}\"\nurl = \"rediss://peer-7@10.0.0.2:6380\"\n\
         password = \"secret\"\ncertificate_sha256 = \"{other}\"\n"
    );
    place.write("keys/other.invitation", change(invitation));
    std::fs::set_permissions(place.path("keys/other.invitation"), std::fs::Permissions::from_mode(mode)).unwrap();
    let text = format!(
        "job = \"skein.toml\"\ndir = \"run\"\nidentity = {{ key_file = \"own.key\" }}\n\
         store = {{ url = \"unix:///nowhere/own.sock\" }}\n\
         [[roster]]\nid = \"{id}\"\n[[roster]]\nid = \"{other}\"\ninvitation = \"keys/other.invitation\"\n"
    );
    place.write("host.toml", &text);
    let error = place.fails(&["host", "--config", "host.toml"]);
    assert!(error.contains(expected), "{error}");
    assert!(!error.contains("secret"), "{error}");
    place.write("host.toml", text + "store = { url = \"unix:///nowhere/other.sock\" }\n");
    let error = place.fails(&["host", "--config", "host.toml"]);
    assert!(error.contains(&format!("peer `{other}` of the roster has both `store` and `invitation`")), "{error}");
}

#[test]
fn an_invitation_is_read_as_carefully_as_a_key() {
    refuses_invitation(0o600, |text| text, "the database `unix:///nowhere/own.sock` is out of reach");
    refuses_invitation(0o640, |text| text, "others may read the invitation `keys/other.invitation`: run `chmod 600");
    refuses_invitation(0o604, |text| text, "others may read the invitation");
    refuses_invitation(0o600, |text| text.replace("version = 1", "version = 2"), "this program reads version 1");
    refuses_invitation(0o600, |text| text.replace("certificate_sha256", "certificate"), "is not an invitation");
    refuses_invitation(0o600, |text| text.replace("rediss", "redis"), "without `certificate_sha256`, or the reverse");
    let of_another = |text: String| {
        let id = text.split('"').nth(1).unwrap().to_owned();
        text.replace(&id, &"9".repeat(64))
    };
    refuses_invitation(0o600, of_another, &format!("is for peer {}, and this host is ", "9".repeat(64)));
    let plain = |text: String| {
        let lines = text.lines().filter(|line| !line.starts_with("certificate"));
        lines.map(|line| line.replace("rediss", "redis") + "\n").collect::<String>()
    };
    refuses_invitation(0o600, plain, "is on another machine: use a `rediss` address");
}

/// Its own key was the only secret that was looked at.
#[test]
fn a_password_that_others_may_read_is_refused() {
    let store = "store = { url = \"unix:///nowhere/other.sock\" }";
    let exposed = "host.toml";
    let password = format!("store = {{ url = \"unix:///nowhere/other.sock\", password_file = \"{exposed}\" }}");
    refuses(
        |text| text.replace(store, &password),
        "others may read the password `host.toml`: run `chmod 600 host.toml`",
    );
}

#[test]
fn keys_are_created_once_and_only_their_owner_can_read_them() {
    let place = Place::new();
    let first = place.json(&["identity", "--key-file", "a.key"]);
    assert_eq!(place.json(&["identity", "--key-file", "a.key"]), first, "the same key is shown again");
    assert_ne!(place.json(&["identity", "--key-file", "b.key"]), first);
    let path = place.path("a.key");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = place.fails(&["identity", "--key-file", "a.key"]);
    assert!(error.contains("others may read the key") && error.contains("chmod 600"), "{error}");
    place.write("c.key", "no key");
    std::fs::set_permissions(place.path("c.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(place.fails(&["identity", "--key-file", "c.key"]).contains("holds no key"));
}

#[test]
fn configurations_of_databases_are_hardened_and_their_secrets_fresh() {
    let place = Place::new();
    let mut secrets = Vec::new();
    for dir in ["a", "b"] {
        place.json(&["redis", "config", "--dir", dir]);
        for file in ["redis.conf", "users.acl", "admin.password", "owner.password", "worker.password", "peer.password"]
        {
            let path = place.path(dir).join(file);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
            if file.ends_with("password") {
                secrets.push(std::fs::read_to_string(path).unwrap());
            }
        }
        assert_eq!(std::fs::metadata(place.path(dir)).unwrap().permissions().mode() & 0o077, 0, "{dir}");
    }
    let count = secrets.len();
    secrets.sort();
    secrets.dedup();
    assert_eq!((secrets.len(), count), (8, 8), "no secret twice");
    let files: String =
        ["redis.conf", "users.acl"].map(|file| std::fs::read_to_string(place.path("a").join(file)).unwrap()).concat();
    assert!(!secrets.iter().any(|secret| files.contains(secret.trim())), "a list of users has hashes only");
    for line in ["port 0", "enable-module-command no", "enable-debug-command no", "maxmemory-policy noeviction"] {
        assert!(files.lines().any(|found| found == line), "{line}");
    }
    assert!(files.contains("user default off"));
    let error = place.fails(&["redis", "config", "--dir", "a"]);
    assert!(error.contains("already has a configuration"), "{error}");
    let error = place.fails(&["redis", "config", "--dir", "c", "--listen", "0.0.0.0:6380"]);
    assert!(error.contains("`--tls-key`, which `skein redis certificates` makes"), "{error}");
    let deep = "d".repeat(100);
    assert!(place.fails(&["redis", "config", "--dir", &deep]).contains("longer than 107 bytes"));
}

#[test]
fn a_worker_without_a_database_reports_it() {
    let place = Place::new();
    let worker = ["worker", "--peer", &"01".repeat(32), "--redis"];
    let error = place.fails(&[&worker[..], &["unix:///nowhere/redis.sock"]].concat());
    assert!(error.contains("out of reach"), "{error}");
    let usage = place.fails(&[&worker[..], &["redis://user:secret@host"]].concat());
    assert!(usage.contains("a password belongs in a file"), "{usage}");
}

/// A host that was interrupted while its database did not answer once kept waiting.
#[test]
fn a_host_that_waits_for_its_database_can_be_interrupted() {
    let place = Place::new();
    place.job("[train]\npeers = 1\nbyzantine = 0\n");
    let id = place.json(&["identity", "--key-file", "own.key"])["id"].as_str().unwrap().to_owned();
    let socket = place.path("own.sock");
    // It accepts connections and never answers.
    let hung = UnixListener::bind(&socket).unwrap();
    let text = format!(
        "job = \"skein.toml\"\ndir = \".\"\nidentity = {{ key_file = \"own.key\" }}\n\
         store = {{ url = \"unix://{}\" }}\n[[roster]]\nid = \"{id}\"\n",
        socket.display()
    );
    place.write("host.toml", text);
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = place.command(&["host", "--config", "host.toml", "--quiet"]);
        let host = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let _connection = hung.accept().unwrap();
        kill_process(Pid::from_child(&host), signal).unwrap();
        let output = host.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(error, "error: interrupted while it opened its database: start it again to continue\n");
        assert_eq!(output.status.code(), Some(1), "it ended by itself");
    }
}
