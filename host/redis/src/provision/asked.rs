//! Options of a database from the command line, compared with those its folder was created with.
//!
//! Most options take effect only when the folder is created. A later option that differs would be ignored, so it is
//! refused.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{CONFIG_FILE, ServerTls, Settings, module_file, write_if_new};

/// Options of a database from the command line. One that is left out is taken from the folder, or has its default in a
/// new folder.
#[derive(Debug, Clone)]
pub struct RequestedSettings {
    /// Folder of the database.
    pub dir: PathBuf,
    /// Address for other machines.
    pub listen: Option<SocketAddr>,
    /// Certificates of the server and its authority.
    pub tls: Option<ServerTls>,
    /// The server's `maxmemory`, in MiB.
    pub memory_mib: Option<u64>,
    /// Which module to load, if any.
    pub module: Module,
}

/// Which module a database loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Module {
    /// The module beside this program.
    Own,
    /// The module in this file.
    File(PathBuf),
    /// No module: the host computes.
    Without,
}

impl RequestedSettings {
    /// Returns the settings of the folder, which is created if it has none; `memory_mib` is the default of a new one.
    ///
    /// # Errors
    /// The folder was created with other settings, or cannot be read or created.
    pub fn settle(&self, memory_mib: u64) -> Result<Settings> {
        let settings = self.decide(memory_mib)?;
        write_if_new(&settings)?;
        Ok(settings)
    }

    /// Returns the settings of the folder, or those that a new one will have; writes nothing.
    ///
    /// # Errors
    /// The folder was created with other settings, or cannot be read.
    pub fn decide(&self, memory_mib: u64) -> Result<Settings> {
        if !self.dir.join(CONFIG_FILE).exists() {
            return self.settings(memory_mib);
        }
        let made = read(&self.dir)?;
        self.compare(&made)?;
        Ok(made)
    }

    /// Returns the settings of a new folder; `memory_mib` is the default.
    ///
    /// # Errors
    /// The module is not beside the program.
    pub fn settings(&self, memory_mib: u64) -> Result<Settings> {
        let RequestedSettings { dir, listen, tls, .. } = self.clone();
        let module = match &self.module {
            Module::Own => Some(module_file()?),
            Module::File(path) => Some(path.clone()),
            Module::Without => None,
        };
        Ok(Settings { dir, listen, tls, memory_mib: self.memory_mib.unwrap_or(memory_mib), module })
    }

    /// Refuses the first option that differs from the folder's settings.
    fn compare(&self, made: &Settings) -> Result<()> {
        self.same("--listen", self.listen, made.listen)?;
        self.same("--memory", self.memory_mib, Some(made.memory_mib))?;
        let made_tls = made.tls.as_ref();
        if let Some(tls) = &self.tls {
            self.same_file("--tls-ca", tls.ca.as_ref(), made_tls.and_then(|made| made.ca.as_ref()))?;
            self.same_file("--tls-certificate", Some(&tls.certificate), made_tls.map(|made| &made.certificate))?;
            self.same_file("--tls-key", Some(&tls.key), made_tls.map(|made| &made.key))?;
        }
        match (&self.module, &made.module) {
            (Module::Without, Some(path)) => {
                Err(self.refused(&format!("with `--module {}`", path.display()), "--without-module"))
            }
            (Module::File(path), made) => self.same_file("--module", Some(path), made.as_ref()),
            (Module::Own, _) | (Module::Without, None) => Ok(()),
        }
    }

    fn same<T: PartialEq + ToString>(&self, option: &str, asked: Option<T>, made: Option<T>) -> Result<()> {
        let Some(asked) = asked.filter(|asked| made.as_ref() != Some(asked)) else { return Ok(()) };
        let made = match made {
            Some(made) => format!("with `{option} {}`", made.to_string()),
            None => format!("without `{option}`"),
        };
        Err(self.refused(&made, &format!("{option} {}", asked.to_string())))
    }

    /// Two paths to one file count as equal.
    fn same_file(&self, option: &str, asked: Option<&PathBuf>, made: Option<&PathBuf>) -> Result<()> {
        let text = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone()).display().to_string();
        self.same(option, asked.map(text), made.map(text))
    }

    fn refused(&self, made: &str, asked: &str) -> anyhow::Error {
        let dir = self.dir.display();
        anyhow::anyhow!(
            "the database in `{dir}` was created {made}, not with `{asked}`: leave the option out, change \
             `{dir}/{CONFIG_FILE}`, or choose another folder"
        )
    }
}

/// Reads the settings that a folder was created with, or that were changed by hand since.
pub(super) fn read(dir: &Path) -> Result<Settings> {
    let path = dir.join(CONFIG_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    parse(dir, &text).with_context(|| format!("`{}` is not the configuration of a peer's database", path.display()))
}

fn parse(dir: &Path, text: &str) -> Result<Settings> {
    let value = |name: &str| value(text, name);
    let port = |name: &str| -> Result<u16> {
        let Some(value) = value(name) else { return Ok(0) };
        value.parse().with_context(|| format!("`{name} {value}` is not a port"))
    };
    let plain = port("port")?;
    let encrypted = port("tls-port")?;
    let tls = (encrypted != 0).then(|| {
        let file = |name: &str| value(name).map(PathBuf::from);
        ServerTls {
            ca: file("tls-ca-cert-file"),
            certificate: file("tls-cert-file").unwrap_or_default(),
            key: file("tls-key-file").unwrap_or_default(),
        }
    });
    let listen = match if encrypted == 0 { plain } else { encrypted } {
        0 => None,
        port => {
            let addresses = value("bind").context("it has a port and no `bind`")?;
            let first = addresses.split_whitespace().next().unwrap_or_default();
            let address: IpAddr = first.parse().with_context(|| format!("`bind {addresses}` is not an address"))?;
            Some(SocketAddr::new(address, port))
        }
    };
    let memory = value("maxmemory").context("it has no `maxmemory`")?;
    let memory_mib = mebibytes(memory).with_context(|| format!("`maxmemory {memory}` is not a size"))?;
    Ok(Settings { dir: dir.to_owned(), listen, tls, memory_mib, module: value("loadmodule").map(PathBuf::from) })
}

/// The value of a key in a configuration, as the server reads it: the last line with the name counts.
pub(super) fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().rev().filter_map(|line| line.trim().split_once(char::is_whitespace));
    lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().trim_matches('"'))
}

/// Parses a size in the server's notation, such as `4gb`.
fn mebibytes(text: &str) -> Result<u64> {
    let text = text.to_ascii_lowercase();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        unit => bail!("`{unit}` is not a unit"),
    };
    Ok(digits.parse::<u64>()?.saturating_mul(unit) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(dir: &Path) -> RequestedSettings {
        RequestedSettings { dir: dir.to_owned(), listen: None, tls: None, memory_mib: None, module: Module::Without }
    }

    #[test]
    fn a_folder_is_read_as_it_was_created() {
        let place = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = place.path().canonicalize().expect("a path").join(name);
            std::fs::write(&path, "").expect("written");
            path
        };
        let tls = ServerTls { ca: Some(file("ca.pem")), certificate: file("own.pem"), key: file("own.key") };
        let pinned = ServerTls { ca: None, ..tls.clone() };
        let address = |text: &str| Some(text.parse().expect("an address"));
        for (index, (listen, tls, module)) in [
            (None, None, Module::Without),
            (address("127.0.0.1:7001"), None, Module::File(file("module.so"))),
            (address("[::1]:7001"), Some(tls), Module::Without),
            (address("10.0.0.1:7001"), Some(pinned), Module::Without),
        ]
        .into_iter()
        .enumerate()
        {
            let dir = place.path().join(index.to_string());
            let asked = RequestedSettings { listen, tls, memory_mib: Some(77), module, ..asked(&dir) };
            let made = asked.settle(1).expect("it is created");
            let found = read(&dir).expect("it is read");
            let shown = |settings: &Settings| format!("{settings:?}");
            assert_eq!(shown(&found), shown(&made));
            assert_eq!(shown(&asked.settle(1).expect("the same options")), shown(&made));
            let nothing = RequestedSettings { module: Module::Own, ..super::tests::asked(&dir) };
            assert_eq!(shown(&nothing.settle(1).expect("no options")), shown(&made));
        }
    }

    #[test]
    fn a_configuration_changed_by_hand_is_read_as_the_server_reads_it() {
        let parse = |text: &str| parse(Path::new("d"), text);
        let settings = parse("bind 127.0.0.1\nport 1\nmaxmemory 4gb\n bind 10.0.0.1 ::1\nPORT 2\n").expect("right");
        assert_eq!(settings.listen, Some("10.0.0.1:2".parse().expect("an address")));
        assert_eq!(settings.memory_mib, 4096);
        for (text, expected) in [
            ("port 0", "no `maxmemory`"),
            ("port x\nmaxmemory 1", "is not a port"),
            ("port 1\nmaxmemory 1", "no `bind`"),
            ("port 1\nbind here\nmaxmemory 1", "is not an address"),
            ("maxmemory 1tb", "is not a size"),
            ("maxmemory many", "is not a size"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
