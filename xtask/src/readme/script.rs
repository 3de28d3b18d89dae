//! Runs the blocks of a page in a scratch folder, and compares what they print with the page.
//!
//! Numbers and hashes are not compared: they differ between machines, and between a full run and one with fewer rounds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::page::{Block, blocks};

/// Folder with what blocks write that are not run everywhere.
pub(crate) const MADE: &str = "tests/data/docs";
/// What is linked into a scratch folder, as if it were a clone of the repository.
const LINKED: [&str; 2] = ["host", "wit"];
/// Commands that have been run already when a page is tried.
const DONE: [&str; 2] = ["cargo build --release", "cargo test --release"];
/// By how much a shortened run has fewer rounds.
const SHORTER: u64 = 20;

/// How pages are run.
pub(crate) struct Runner<'a> {
    /// The folder of the repository.
    pub(crate) root: &'a Path,
    /// The program that pages call `skein`.
    pub(crate) program: &'a Path,
    /// What this machine has of what blocks need: `python`, `wasm`.
    pub(crate) has: &'a [&'a str],
    /// Folders to search for programs before those of the environment.
    pub(crate) path: &'a [PathBuf],
    /// Variables for the commands.
    pub(crate) variables: &'a [(&'a str, PathBuf)],
    /// Train for a fraction of the rounds.
    pub(crate) shorten: bool,
    /// Print commands and output as they come.
    pub(crate) print: bool,
}

impl Runner<'_> {
    /// Runs the blocks of a page in an empty folder. Returns what blocks wrote that other machines cannot.
    ///
    /// # Errors
    /// A command failed, or printed something else than the page shows; names the page and the line.
    pub(crate) fn run(&self, page: &str, folder: &Path) -> Result<Vec<PathBuf>> {
        self.prepare(folder)?;
        let text = fs::read_to_string(self.root.join(page)).with_context(|| format!("failed to read `{page}`"))?;
        let mut made = Vec::new();
        let mut printed: Option<String> = None;
        for block in blocks(&text) {
            let place = || format!("{page}:{}", block.line);
            if let Some(file) = block.value("file") {
                write(&folder.join(file), self.shortened(&block.text)).with_context(place)?;
            }
            for file in block.list("uses") {
                self.take(folder, file).with_context(place)?;
            }
            match block.language.as_str() {
                "sh" if self.can_run(&block) => {
                    printed = Some(self.shell(&block, folder).with_context(place)?);
                    made.extend(block.list("makes").map(|file| folder.join(file)));
                }
                "sh" => {
                    printed = None;
                    block.list("makes").try_for_each(|file| self.take(folder, file)).with_context(place)?;
                }
                "text" => compare(&block, printed.as_deref()).with_context(place)?,
                _ => {}
            }
        }
        Ok(made)
    }

    fn can_run(&self, block: &Block) -> bool {
        block.value("needs").is_none_or(|need| self.has.contains(&need))
    }

    /// Makes the folder look like a clone in which the program was built.
    fn prepare(&self, folder: &Path) -> Result<()> {
        for name in LINKED {
            symlink(self.root.join(name), folder.join(name))?;
        }
        fs::create_dir_all(folder.join("target/release"))?;
        symlink(self.program, folder.join("target/release/skein"))?;
        for entry in fs::read_dir(self.root.join("runtime-config"))? {
            let path = entry?.path();
            let name = Path::new("runtime-config").join(path.file_name().context("an entry has a name")?);
            write(&folder.join(name), self.shortened(&fs::read_to_string(&path)?))?;
        }
        Ok(())
    }

    /// Takes a file that another machine made.
    fn take(&self, folder: &Path, file: &str) -> Result<()> {
        let to = folder.join(file);
        let name = to.file_name().context("a file has a name")?;
        let from = self.root.join(MADE).join(name);
        let bytes = fs::read(&from).with_context(|| {
            format!("failed to read `{}`: write it by `cargo xtask readme --python --update`", from.display())
        })?;
        write(&to, bytes)
    }

    /// Runs the lines of a block in one shell, and returns what they print on both outputs.
    fn shell(&self, block: &Block, folder: &Path) -> Result<String> {
        let mut printed = String::new();
        for line in block.commands().filter(|line| !DONE.contains(line)) {
            if self.print {
                println!("$ {line}");
            }
            let line = self.shortened(&line.replace("cargo run --release -- ", "skein "));
            let output = self.command(folder).arg(format!("exec 2>&1\n{line}")).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            if self.print {
                print!("{text}");
            }
            ensure!(output.status.success(), "`{line}` failed:\n{text}");
            printed += &text;
        }
        Ok(printed)
    }

    fn command(&self, folder: &Path) -> Command {
        let own = [folder.join("target/release")];
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let inherited: Vec<PathBuf> = std::env::split_paths(&inherited).collect();
        let path = std::env::join_paths(own.iter().chain(self.path).chain(&inherited)).expect("no folder has a colon");
        let mut command = Command::new("sh");
        command.arg("-ec").current_dir(folder).stdin(Stdio::null()).env("PATH", path);
        // As on a new machine: no engine but the one in the program, and the build folder of a new project.
        command.env("SKEIN_ENGINES", folder.join("engines")).env_remove("CARGO_TARGET_DIR");
        command.env("PIP_QUIET", "1").envs(self.variables.iter().map(|(name, value)| (*name, value)));
        for name in ["SKEIN_ENGINE", "SKEIN_LOG", "RUST_LOG", "SKEIN_REDIS_PASSWORD"] {
            command.env_remove(name);
        }
        command
    }

    /// Divides the rounds of a manifest or a command, if runs are to be short.
    fn shortened(&self, text: &str) -> String {
        if !self.shorten {
            return text.to_owned();
        }
        let mut result = String::new();
        for line in text.split_inclusive('\n') {
            let number = line.split_once("rounds").map(|(_, rest)| rest.trim_start_matches([' ', '=']));
            let digits: String = number.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
            match digits.parse::<u64>() {
                Ok(rounds) => result += &line.replacen(&digits, &(rounds / SHORTER).max(1).to_string(), 1),
                Err(_) => result += line,
            }
        }
        result
    }
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content).with_context(|| format!("failed to write `{}`", path.display()))
}

/// Checks that every line of a `text` block was printed, whatever its numbers.
fn compare(block: &Block, printed: Option<&str>) -> Result<()> {
    let Some(printed) = printed else { return Ok(()) };
    let present: Vec<String> = printed.split(['\n', '\r']).map(without_numbers).collect();
    for line in block.text.lines().filter(|line| !line.is_empty()) {
        if !present.contains(&without_numbers(line)) {
            bail!("the page shows `{line}`, but the command printed:\n{printed}");
        }
    }
    Ok(())
}

/// A line with `#` for every word that has a digit, and without the units of times.
pub(crate) fn without_numbers(line: &str) -> String {
    let words = line.split_whitespace().filter(|word| !["ms", "s", "min"].contains(word));
    let words = words.map(|word| if word.contains(|letter: char| letter.is_ascii_digit()) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}
