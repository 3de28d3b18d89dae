//! Output to terminals, to pipes, and to readers that are gone.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::harness::{Place, dist};

/// Standard output or standard error whose reader is gone.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// `skein … | head`: a reader may stop early.
#[test]
fn unread_results_end_a_command_quietly() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\n");
    for arguments in [
        &["schema"][..],
        &["completions", "bash"],
        &["engine", "list"],
        &["identity", "--key-file", "own.key"],
        &["train", "--quiet"],
        &["train", "--quiet", "-o", "json"],
        &["up", "--redis", "--quiet"],
    ] {
        let output = place.command(arguments).stdout(closed()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.is_empty(), "{arguments:?}: {} {said}", output.status);
    }
    let failing = ["train", "-f", "nowhere.toml", "-o", "json"];
    let output = place.command(&failing).stdout(closed()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "it fails as it does with a reader: {}", output.status);
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

/// A host that logs to a pipe continues when the reader of the pipe is gone.
#[test]
fn training_continues_when_its_log_is_not_read() {
    let place = Place::new();
    place.job("[train]\nrounds = 3\n");
    for log in ["warn", "debug"] {
        let mut command = place.command(&["train", "-o", "json"]);
        let output = command.env("SKEIN_LOG", log).stderr(closed()).output().unwrap();
        assert!(output.status.success(), "{}", output.status);
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["rounds"], 3);
    }
    let output = place.command(&["train", "-f", "nowhere.toml"]).stderr(closed()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", output.status);
}

/// A terminal sends Ctrl-C to all processes at once, and the command stops reading the output of its hosts.
#[test]
fn an_interrupted_command_ends_without_a_panic() {
    let place = Place::new();
    place.job("[train]\npeers = 2\nbyzantine = 0\nrounds = 100000\n");
    let mut command = place.command(&["up", "--redis"]);
    command.env("SKEIN_LOG", "skein_runtime=debug").stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut up = command.spawn().unwrap();
    let mut stderr = BufReader::new(up.stderr.take().unwrap());
    for _ in 0..40 {
        stderr.read_line(&mut String::new()).unwrap();
    }
    kill_process_group(Pid::from_child(&up), Signal::INT).unwrap();
    let mut rest = Vec::new();
    stderr.read_to_end(&mut rest).unwrap();
    let rest = String::from_utf8_lossy(&rest);
    assert!(!up.wait().unwrap().success());
    assert!(rest.contains("interrupted") && !rest.contains("panicked"), "{rest}");
}

/// Runs the program on a new terminal and returns everything written there.
fn on_a_terminal(place: &Place, setup: &str, arguments: &[&str]) -> String {
    let program = place.command(arguments);
    let words = [&[program.get_program().to_str().unwrap()], arguments].concat();
    let mut script = Command::new("script");
    script.args(["-qec", &format!("{setup}; {}", words.join(" ")), "/dev/null"]);
    script.current_dir(place.path("")).stdin(Stdio::null());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    // A terminal that can move its cursor, wherever the tests themselves run.
    script.env("TERM", "xterm").env_remove("NO_COLOR");
    let output = script.output().expect("`script` comes with util-linux");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines that a terminal shows, without control sequences.
fn shown(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(letter) = rest.next() {
        match letter {
            // A control sequence ends with its first letter.
            '\u{1b}' => drop(rest.by_ref().find(char::is_ascii_alphabetic)),
            letter => plain.push(letter),
        }
    }
    let lines = plain.split(['\r', '\n']).map(|line| line.trim_end().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn logs_have_colours_only_on_a_terminal() {
    let place = Place::new();
    place.job("[train]\nrounds = 1\n");
    let arguments = ["train", "--quiet"];
    let output = place.command(&arguments).env("SKEIN_LOG", "skein_runtime=debug").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("skein_runtime") && !log.contains('\u{1b}'), "{log}");
    let log = on_a_terminal(&place, "export SKEIN_LOG=skein_runtime=debug", &arguments);
    assert!(log.contains("skein_runtime") && log.contains("\u{1b}["), "{log}");
    let log = on_a_terminal(&place, "export SKEIN_LOG=skein_runtime=debug NO_COLOR=1", &arguments);
    assert!(log.contains("skein_runtime") && !log.contains('\u{1b}'), "{log}");
}

#[test]
fn the_bar_of_a_run_stays_within_its_terminal() {
    let place = Place::new();
    place.job("[model]\nhidden = [16]\n[train]\nrounds = 200\nevaluate_every = 10\n");
    for columns in [80, 40] {
        let text =
            on_a_terminal(&place, &format!("stty rows 24 cols {columns}"), &["train", "--out", &columns.to_string()]);
        let bars: Vec<String> = shown(&text).into_iter().filter(|line| line.contains("█")).collect();
        assert!(bars.iter().any(|bar| bar.contains("/200  loss ")), "{text}");
        let widest = bars.iter().max_by_key(|bar| bar.chars().count()).unwrap();
        assert!(widest.chars().count() <= columns, "{columns} columns: {widest}");
    }
}

/// A gradient function that takes seconds to compile, since a module with many long functions follows its own. What it
/// returns is refused in the end.
fn slow_to_compile() -> Vec<u8> {
    const FUNCTIONS: u32 = 2100;
    const STEPS: u32 = 1500;
    let body = |function: u32| {
        // One local of 32 bits; each step sets it to its square plus a number.
        let mut code = vec![1, 1, 0x7f];
        for step in 0..STEPS {
            code.extend([0x20, 0, 0x20, 0, 0x6c, 0x41]);
            code.extend(leb128((function + step) & 63));
            code.extend([0x6a, 0x21, 0]);
        }
        code.push(0x0b);
        sized(code)
    };
    let counted = |items: Vec<Vec<u8>>| [leb128(items.len() as u32), items.concat()].concat();
    let section = |id: u8, content: Vec<u8>| [vec![id], sized(content)].concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, counted(vec![vec![0x60, 0, 0]])),
        section(3, counted(vec![vec![0]; FUNCTIONS as usize])),
        section(10, counted((0..FUNCTIONS).map(body).collect())),
    ];
    [std::fs::read(dist("gradient-probe")).unwrap(), section(1, module.concat())].concat()
}

fn sized(content: Vec<u8>) -> Vec<u8> {
    [leb128(content.len() as u32), content].concat()
}

fn leb128(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A program that compiles for seconds without output seems to hang.
#[test]
fn a_function_is_named_while_it_compiles_for_long() {
    let place = Place::new();
    let component = slow_to_compile();
    let compiling = format!("compiling `mine`, {:.1} MB", component.len() as f64 / 1e6);
    place.write("mine.wasm", component);
    place.job("[train]\ngradient = \"mine\"\n[function.mine]\nsource = \"mine.wasm\"\n");
    let error = place.fails(&["train", "--cache-dir", "cache"]);
    let lines = error.lines().filter(|line| *line == compiling).count();
    assert_eq!(lines, 1, "{error}");
    std::fs::remove_dir_all(place.path("cache")).unwrap();
    let text = on_a_terminal(&place, "stty rows 24 cols 80", &["train", "--cache-dir", "cache"]);
    let lines = shown(&text);
    let timed = format!(" {compiling} (");
    let seconds = |line: &String| -> Option<u64> {
        let spinner = line.strip_prefix(['|', '/', '-', '\\'])?;
        spinner.strip_prefix(&timed)?.strip_suffix(" s)")?.parse().ok()
    };
    let seconds: Vec<u64> = lines.iter().filter_map(seconds).collect();
    assert!(seconds.len() > 2 && seconds.is_sorted(), "it turns: {text}");
    assert!(lines.last().unwrap().starts_with("error: "), "{text}");
    assert!(!lines.iter().any(|line| line.contains("aggregate")), "quick steps are not named: {text}");

    std::fs::copy(dist("gradient-mlp"), place.path("mine.wasm")).unwrap();
    let finished = place.run(&["train", "--rounds", "1"]);
    assert!(finished.success && !finished.stderr.contains("compiling"), "{}", finished.stderr);
}
