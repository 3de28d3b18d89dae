//! `docs/two-machines.md`, tried by its own commands: on two loopback addresses, and in two network namespaces.
//!
//! Where root may create namespaces, the machines have the addresses of the page and reach nothing but each other.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Place, root};
use crate::page::{Block, blocks};
use crate::ready;
use crate::script::without_numbers;

const PAGE: &str = "docs/two-machines.md";
/// What the page assumes of both machines.
const FOLDER: &str = "/srv/skein";
const ADDRESSES: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const PORT: &str = "6380";
/// Enough for a worker to join while the hosts train.
const ROUNDS: [&str; 2] = ["rounds = 200", "rounds = 100"];

/// A command that keeps running; it is stopped when this is dropped.
struct Running {
    child: Child,
    printed: String,
}

impl Running {
    /// Reads what the command prints until every line of `wanted` was there, and at least one line.
    fn read_until(&mut self, wanted: &str) {
        let mut wanted: Vec<String> = wanted.lines().map(without_numbers).collect();
        let mut output = BufReader::new(self.child.stdout.take().unwrap());
        let mut line = String::new();
        while (!wanted.is_empty() || self.printed.is_empty()) && output.read_line(&mut line).unwrap() > 0 {
            wanted.retain(|wanted| *wanted != without_numbers(&line));
            self.printed += &line;
            line.clear();
        }
        assert!(wanted.is_empty(), "it did not print {wanted:?}:\n{}", self.printed);
        // Lines that were read ahead would be lost with the reader.
        self.printed += &String::from_utf8_lossy(output.buffer());
        self.child.stdout = Some(output.into_inner());
    }

    /// Waits for its end, and returns all that it printed.
    fn finish(&mut self) -> String {
        let mut output = self.child.stdout.take().unwrap();
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut output, &mut rest).unwrap();
        self.printed += &rest;
        assert!(self.child.wait().unwrap().success(), "{}", self.printed);
        self.printed.clone()
    }

    fn interrupt(&self) {
        // It may have ended already.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.interrupt();
        let _ = self.child.wait();
    }
}

/// One of the two machines of the page.
struct Machine {
    name: &'static str,
    folder: PathBuf,
    address: &'static str,
    namespace: Option<String>,
    /// The last ones stop first.
    running: Vec<Running>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        while self.running.pop().is_some() {}
    }
}

impl Machine {
    fn command(&self, line: &str) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, "sh"]);
                command
            }
            None => Command::new("sh"),
        };
        let programs = Path::new(env!("CARGO_BIN_EXE_skein")).parent().unwrap().display().to_string();
        let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
        command.args(["-ec", &format!("exec 2>&1\nexec {line}")]).current_dir(&self.folder).env("PATH", path);
        command.env("SKEIN_CACHE_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache")).env_remove("SKEIN_LOG");
        // The lines on the page are those of the engine in the program.
        command.env("SKEIN_ENGINE", "rten").stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    fn run(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{} ran `{line}`: {text}", self.name);
        text
    }

    fn start(&mut self, line: &str, until: &str) {
        let mut running = Running { child: self.command(line).spawn().unwrap(), printed: String::new() };
        running.read_until(until);
        self.running.push(running);
    }
}

/// Two network namespaces, joined by a cable; removed when this is dropped.
struct Namespaces([String; 2]);

impl Namespaces {
    /// Creates them; the reason if this machine does not allow it.
    fn create() -> Result<Namespaces, String> {
        let names = ["a", "b"].map(|side| format!("skein-{}-{side}", std::process::id()));
        let [a, b] = &names;
        // From here on, dropping removes what is there.
        let namespaces = Namespaces(names.clone());
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        ip(&format!("link add cable netns {a} type veth peer name cable netns {b}"))?;
        for (name, address) in names.iter().zip(ADDRESSES) {
            ip(&format!("-n {name} address add {address}/24 dev cable"))?;
            ip(&format!("-n {name} link set cable up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(namespaces)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            // It is absent if its creation failed.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output();
    let output = output.map_err(|error| format!("failed to run `ip`: {error}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("`ip {arguments}`: {}", error.trim())) }
}

/// The page while it is tried.
struct Trial {
    machines: [Machine; 2],
    /// What the page shows, and what it is here: ports, keys.
    replaced: Vec<(String, String)>,
}

impl Trial {
    /// Puts the values of a machine in the place of those on the page.
    fn here(&self, text: &str, machine: usize) -> String {
        let mut text = text.replace(FOLDER, &self.machines[machine].folder.display().to_string());
        for (shown, real) in &self.replaced {
            text = text.replace(shown, real);
        }
        text
    }

    /// Carries out a line of a block on a machine, and returns what it printed.
    fn step(&mut self, machine: usize, block: &Block, line: &str, output: &str) -> String {
        let line = self.here(line, machine);
        if let Some(copied) = line.strip_prefix("scp ") {
            let (from, to) = copied.split_once(' ').unwrap();
            let (address, to) = to.split_once(':').unwrap();
            let other = self.machines.iter().find(|other| other.address == address).unwrap();
            let own = &self.machines[machine].folder;
            let to = Path::new(to).strip_prefix(own).unwrap();
            fs::copy(own.join(from), other.folder.join(to)).unwrap_or_else(|error| panic!("`{line}`: {error}"));
            return String::new();
        }
        if block.words.iter().any(|word| word == "background") {
            let output = self.here(output, machine);
            self.machines[machine].start(&line, &output);
            return String::new();
        }
        self.machines[machine].run(&line)
    }

    /// Goes through the page from its first block to its last.
    fn walk(&mut self) {
        let page = blocks(&fs::read_to_string(root().join(PAGE)).unwrap());
        let mut blocks = page.iter().peekable();
        while let Some(block) = blocks.next() {
            let owners = (0..2).filter(|machine| block.words.iter().any(|word| *word == self.machines[*machine].name));
            for machine in owners.collect::<Vec<_>>() {
                if let Some(file) = block.value("file") {
                    let text = self.here(&block.text, machine).replace(ROUNDS[0], ROUNDS[1]);
                    fs::write(self.machines[machine].folder.join(file), text).unwrap();
                } else if block.language == "text" {
                    let printed = self.machines[machine].running.last_mut().unwrap().finish();
                    let printed: Vec<String> = printed.lines().map(without_numbers).collect();
                    for line in block.text.lines() {
                        assert!(printed.contains(&without_numbers(line)), "`{line}` is not in {printed:#?}");
                    }
                } else {
                    // Output without a machine belongs to the block before it.
                    let output = blocks.peek().filter(|next| next.language == "text" && next.words.is_empty());
                    let output = output.map_or("", |next| next.text.as_str());
                    for line in block.commands() {
                        let printed = self.step(machine, block, line, output);
                        if line.starts_with("skein identity") {
                            self.replaced.push((output.trim().to_owned(), printed.trim().to_owned()));
                        }
                    }
                }
            }
        }
    }
}

/// Tries the page on two machines with these addresses.
fn try_page(addresses: [&'static str; 2], port: u16, namespaces: Option<&Namespaces>) {
    let place = Place::new();
    let machine = |index: usize| {
        let name = ["alice", "bob"][index];
        fs::create_dir(place.path(name)).unwrap();
        let namespace = namespaces.map(|namespaces| namespaces.0[index].clone());
        Machine { name, folder: place.path(name), address: addresses[index], namespace, running: Vec::new() }
    };
    let mut replaced = vec![(format!(":{PORT}"), format!(":{port}"))];
    replaced.extend(ADDRESSES.iter().zip(addresses).map(|(shown, real)| ((*shown).to_owned(), real.to_owned())));
    let mut trial = Trial { machines: [machine(0), machine(1)], replaced };
    trial.walk();

    // Bob's database, his host, and the worker for Alice.
    let [alice, bob] = &mut trial.machines;
    let [_, host, worker] = &mut bob.running[..] else { panic!("the page starts three commands on Bob's machine") };
    let state = |printed: &str| {
        let line = printed.lines().find(|line| line.starts_with("state of ")).unwrap_or_else(|| panic!("{printed}"));
        line.split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(state(&host.finish()), state(&alice.running.last().unwrap().printed));
    worker.interrupt();
    let counted = worker.finish();
    let counted = counted.lines().find_map(|line| line.split_once(" tasks counted")).unwrap().0.to_owned();
    assert!(counted.parse::<u64>().unwrap() > 0, "the worker computed no batch");
}

#[test]
fn two_owners_train_on_two_addresses_of_this_machine() {
    if ready::tls_server().is_none() {
        return;
    }
    let addresses = ["127.0.0.1", "127.0.0.2"];
    // A port that was free on both a moment ago.
    let sockets = addresses.map(|address| TcpListener::bind((address, 0)).unwrap());
    let port = sockets[0].local_addr().unwrap().port();
    drop(sockets);
    try_page(addresses, port, None);
}

#[test]
fn two_owners_train_in_two_network_namespaces() {
    if ready::tls_server().is_none() {
        return;
    }
    match Namespaces::create() {
        Ok(namespaces) => try_page(ADDRESSES, PORT.parse().unwrap(), Some(&namespaces)),
        Err(reason) => {
            assert!(std::env::var_os("SKEIN_NAMESPACES_REQUIRED").is_none(), "{reason}");
            println!("skipped: this machine allows no network namespaces: {reason}");
        }
    }
}
