//! Databases that the program configures and runs: options of their folders, startup, and memory limits of their users.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Database, Place};

/// A raw connection, which can send part of a command.
struct Connection(BufReader<UnixStream>);

impl Connection {
    /// Logs in to the database of a folder.
    fn open(dir: &Path, user: &str) -> Connection {
        let stream = UnixStream::connect(dir.join("redis.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut connection = Connection(BufReader::new(stream));
        let password = std::fs::read_to_string(dir.join(format!("{user}.password"))).unwrap();
        assert_eq!(connection.ask(&["AUTH", user, password.trim()]), "OK");
        connection
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Sends a command and returns its answer as text.
    fn ask(&mut self, words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.write(&command(&words)).unwrap();
        self.answer().unwrap()
    }

    fn answer(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let Some(bytes) = line.strip_prefix('$') else { return Ok(line[1..].trim_end().to_owned()) };
        let mut text = vec![0; bytes.trim_end().parse::<usize>().unwrap() + 2];
        self.0.read_exact(&mut text)?;
        Ok(String::from_utf8(text).unwrap())
    }

    /// A number from the server's `INFO`.
    fn info(&mut self, name: &str) -> u64 {
        let info = self.ask(&["INFO", "everything"]);
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no `{name}`: {info}")).trim().parse().unwrap()
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).into_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// An option that counts only when the folder is created must not be ignored later.
#[test]
fn a_folder_that_was_made_for_something_else_is_refused_with_both_named() {
    let place = Place::new();
    for file in ["ca.pem", "own.pem", "own.key", "other.pem"] {
        place.write(file, "");
    }
    let tls = ["--tls-ca", "ca.pem", "--tls-certificate", "own.pem", "--tls-key", "own.key"];
    let module = ["--module", "own.pem"];
    let made = [
        ("here", &[&["--listen", "127.0.0.1:7001", "--memory", "512", "--without-module"][..]].concat()),
        ("tls", &[&["--listen", "10.0.0.1:7001"][..], &tls, &module].concat()),
        ("socket", &[&["--without-module"][..]].concat()),
    ];
    for (dir, options) in made {
        place.json(&[&["redis", "config", "--dir", dir], &options[..]].concat());
        // `/bin/false` is not a server, which is noticed after the options were compared with the folder.
        let run = ["redis", "run", "--dir", dir, "--server", "/bin/false"];
        for fitting in [&[][..], options] {
            let error = place.fails(&[&run[..], fitting].concat());
            assert!(error.contains("is not a Redis or Valkey server"), "{dir}, {fitting:?}: {error}");
        }
    }
    let other_tls = ["--tls-ca", "ca.pem", "--tls-certificate", "other.pem", "--tls-key", "own.key"];
    for (dir, options, made, asked) in [
        ("here", &["--listen", "127.0.0.1:7002"][..], "with `--listen 127.0.0.1:7001`", "`--listen 127.0.0.1:7002`"),
        ("socket", &["--listen", "127.0.0.1:7002"], "without `--listen`", "`--listen 127.0.0.1:7002`"),
        ("here", &["--memory", "4096"], "with `--memory 512`", "`--memory 4096`"),
        ("here", &tls, "without `--tls-ca`", "ca.pem`"),
        ("tls", &other_tls, "own.pem`", "other.pem`"),
        ("tls", &["--without-module"], "with `--module ", "`--without-module`"),
        ("here", &module, "without `--module`", "own.pem`"),
        ("tls", &["--module", "other.pem"], "own.pem`", "other.pem`"),
    ] {
        let run = ["redis", "run", "--dir", dir, "--server", "/bin/false"];
        let error = place.fails(&[&run[..], options].concat());
        let expected = format!("the database in `{dir}` was created ");
        for part in [&expected, made, asked, "leave the option out"] {
            assert!(error.contains(part), "{dir}, {options:?}: {error}");
        }
    }
}

#[test]
fn a_database_reports_its_address_with_and_without_the_options() {
    let place = Place::new();
    // A port that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap().to_string();
    for options in [&["--listen", &address, "--without-module"][..], &[]] {
        let database = Database::start(&place, "db", options);
        assert_eq!(database.printed["users"]["worker"]["url"], format!("redis://worker@{address}"), "{options:?}");
        assert_eq!(database.printed["module"], false);
    }
}

/// The server's own reason was the last of three lines of its log, without a way out.
#[test]
fn a_port_that_is_taken_is_named_with_the_way_out() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = ["redis", "run", "--dir", "db", "--listen", &address, "--without-module"];
    let taken_by = format!("another program listens on `{address}`: stop it, or choose another port by ");
    let error = place.fails(&run);
    assert!(error.contains(&format!("{taken_by}`--listen`")), "{error}");
    assert!(!place.path("db").exists(), "the folder would keep the port");
    place.json(&["redis", "config", "--dir", "db", "--listen", &address, "--without-module"]);
    let error = place.fails(&run);
    assert!(error.contains(&format!("{taken_by}`port` in `db/redis.conf`")), "{error}");
    drop(taken);
    let _database = Database::start(&place, "db", &[]);
    let error = place.fails(&run);
    assert!(error.contains("a server already listens at `db/redis.sock`"), "{error}");

    // Of a reserved block, which networks do not use.
    place.json(&["redis", "config", "--dir", "far", "--listen", "127.0.0.1:7001", "--without-module"]);
    let config = std::fs::read_to_string(place.path("far/redis.conf")).unwrap();
    place.write("far/redis.conf", config.replace("bind 127.0.0.1", "bind 240.0.0.1"));
    let error = place.fails(&["redis", "run", "--dir", "far"]);
    assert!(error.contains("`240.0.0.1` is not an address of this machine: choose one by `bind` in"), "{error}");
}

/// Servers bind `[::]` to IPv6 alone, so another program may have the port in IPv4.
#[test]
fn a_port_that_is_taken_in_ipv4_is_free_in_ipv6() {
    if let Err(reason) = TcpListener::bind("[::]:0") {
        println!("skipped: this machine has no IPv6: {reason}");
        return;
    }
    let place = Place::new();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let listen = format!("[::]:{}", taken.local_addr().unwrap().port());
    // Certificates are missed after the port was checked.
    let error = place.fails(&["redis", "run", "--dir", "db", "--listen", &listen, "--without-module"]);
    assert!(error.contains(&format!("other machines can reach `{listen}`: pass `--tls-certificate`")), "{error}");
}

#[test]
fn a_command_that_runs_all_peers_refuses_other_options_for_existing_folders() {
    let place = Place::new();
    place.job("[train]\npeers = 1\nbyzantine = 0\nrounds = 1\n");
    place.json(&["up", "--redis", "--dir", "run", "--memory", "256"]);
    let error = place.fails(&["up", "--redis", "--dir", "run", "--memory", "512"]);
    assert!(error.contains("with `--memory 256`, not with `--memory 512`"), "{error}");
    place.json(&["up", "--redis", "--dir", "run"]);
}

/// A database that reads its data for a while does not look as if it hangs.
#[test]
fn a_database_that_reads_its_data_reports_its_progress() {
    let place = Place::new();
    let database = Database::start(&place, "db", &["--without-module"]);
    let mut owner = Connection::open(&place.path("db"), "owner");
    for key in 0..60 {
        assert_eq!(owner.ask(&["SET", &format!("key:{key}"), &"x".repeat(2000)]), "OK");
    }
    drop(database);
    // 50 ms for every key, and clients are served after each.
    let config = std::fs::read_to_string(place.path("db/redis.conf")).unwrap();
    place.write("db/redis.conf", config + "key-load-delay 50000\nloading-process-events-interval-bytes 1024\n");
    let mut command = place.command(&["redis", "run", "--dir", "db"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = child.stderr.take().unwrap();
    let database = Database::running(child);
    assert_eq!(Connection::open(&place.path("db"), "owner").ask(&["DBSIZE"]), "60");
    drop(database);
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    let is_progress =
        |line: &str| line.starts_with("starting the database in `db`: ") && line.contains(" % of its data loaded, ");
    assert!(said.lines().any(is_progress), "{said}");
}

/// Connections hold gradients twice while they arrive. They were once closed at two fifths of the memory.
#[test]
fn uploads_of_most_of_the_memory_at_once_are_not_cut() {
    const UPLOADS: usize = 14;
    // With the server's overhead, 8 MiB each in the size classes of its allocator.
    const BYTES: usize = (8 << 20) - 4096;
    let place = Place::new();
    let _database = Database::start(&place, "db", &["--without-module", "--memory", "256"]);
    let mut watch = Connection::open(&place.path("db"), "owner");
    let keys: Vec<String> = (0..UPLOADS).map(|index| format!("skein:upload:{index}")).collect();
    let mut uploads: Vec<Connection> = Vec::new();
    for key in &keys {
        let mut upload = Connection::open(&place.path("db"), "owner");
        let whole = command(&[b"SET", key.as_bytes(), &vec![7; BYTES]]);
        upload.write(&whole[..whole.len() - 1]).unwrap();
        // When the server answers a later command, it has read this one from its socket.
        assert_eq!(watch.ask(&["PING"]), "PONG");
        uploads.push(upload);
    }
    let held = watch.info("mem_clients_normal");
    assert!(held > 2 * (256 << 20) / 5, "{held} bytes are held by clients");
    for upload in &mut uploads {
        upload.write(b"\n").unwrap();
        assert_eq!(upload.answer().unwrap(), "OK");
    }
    assert_eq!(watch.info("evicted_clients"), 0);
    for key in &keys {
        assert_eq!(watch.ask(&["STRLEN", key]), BYTES.to_string());
    }
}

/// Replies that a reader requested and does not read use memory of the database's owner.
#[test]
fn a_reader_that_reads_nothing_is_disconnected() {
    const BYTES: usize = 4 << 20;
    const MEMORY: u64 = 128 << 20;
    let place = Place::new();
    let _database = Database::start(&place, "db", &["--without-module", "--memory", "128"]);
    let mut owner = Connection::open(&place.path("db"), "owner");
    let key = "skein:job:public:contribution";
    let tensor = command(&[b"SET", key.as_bytes(), &vec![7; BYTES]]);
    owner.write(&tensor).unwrap();
    assert_eq!(owner.answer().unwrap(), "OK");
    // A well-behaved reader gets all of it.
    let mut honest = Connection::open(&place.path("db"), "peer");
    assert_eq!(honest.ask(&["GET", key]).len(), BYTES + 2);

    let mut reader = Connection::open(&place.path("db"), "peer");
    let asked = 100;
    for _ in 0..asked {
        // It may be disconnected before it has sent all requests.
        if reader.write(&command(&[b"GET", key.as_bytes()])).is_err() {
            break;
        }
    }
    // Commands are served in turn: this one is answered after all requests of the reader.
    assert_eq!(owner.ask(&["PING"]), "PONG");
    let used = owner.info("used_memory_peak");
    assert!(used < MEMORY, "{used} bytes were used of {MEMORY}");
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    while let Ok(bytes @ 1..) = reader.0.read(&mut buffer) {
        taken += bytes;
    }
    assert!(taken < asked * BYTES, "it is disconnected");
    assert_eq!(honest.ask(&["GET", key]).len(), BYTES + 2, "others are not");
    owner.write(&tensor).unwrap();
    assert_eq!(owner.answer().unwrap(), "OK");
}
