//! The version of a server, and its known vulnerabilities.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// A server, as it answers `INFO server` or as its program describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Name of the software in lower case: `redis` or `valkey`.
    pub(crate) name: String,
    /// Numbers of the version, most significant first.
    pub(crate) version: Vec<u32>,
    /// Path of the program on the server's machine.
    executable: String,
}

/// Per release line, the first release that fixes the vulnerabilities of 2025 with which an authenticated user can run
/// code (CVE-2025-49844 and the three found with it).
const FLOORS: [(&str, [u32; 2], [u32; 3]); 8] = [
    ("redis", [6, 2], [6, 2, 20]),
    ("redis", [7, 2], [7, 2, 11]),
    ("redis", [7, 4], [7, 4, 6]),
    ("redis", [8, 0], [8, 0, 4]),
    ("redis", [8, 2], [8, 2, 2]),
    ("valkey", [7, 2], [7, 2, 11]),
    ("valkey", [8, 0], [8, 0, 6]),
    ("valkey", [8, 1], [8, 1, 4]),
];
/// The oldest release line with the access rules used here.
const OLDEST: [u32; 2] = [7, 0];
/// The last release of Redis 7.0. Debian backports fixes to it; [`DEBIAN_12`] is the first package without
/// CVE-2026-66373.
const LAST_OF_7_0: [u32; 3] = [7, 0, 15];
const DEBIAN_12: &str = "5:7.0.15-1~deb12u9";
/// CVE-2026-81934: anyone who reaches the port of a server with TLS can run code, without logging in.
const DEBIAN_12_TLS: &str = "5:7.0.15-1~deb12u10";

impl Server {
    pub(crate) fn parse(info: &str) -> Server {
        let fields: BTreeMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(':')).collect();
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        // Valkey reports itself as Redis 7.2.4, for clients that only know Redis.
        let (name, version) = match field("valkey_version") {
            "" => ("redis", field("redis_version")),
            version => ("valkey", version),
        };
        Server { name: name.to_owned(), version: numbers(version), executable: field("executable").to_owned() }
    }

    /// The server of a program on this machine; `text` is its answer to `--version`, such as
    /// `Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64`.
    pub(crate) fn of_program(program: &Path, text: &str) -> Server {
        let name = text.split(' ').next().unwrap_or_default().to_lowercase();
        let version = text.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or_default();
        Server { name, version: numbers(version), executable: program.display().to_string() }
    }

    /// Returns why the server is unsafe or too old, or `None`. `package` returns the distribution's package of a
    /// program, if the program is on this machine.
    pub(crate) fn vulnerability(&self, is_tls: bool, package: impl Fn(&str) -> Option<Package>) -> Option<String> {
        let shown = self.version.iter().map(ToString::to_string).collect::<Vec<_>>().join(".");
        let Server { name, version, executable } = self;
        let line = version.get(..2)?;
        if version[..] < OLDEST[..] {
            return Some(format!("{name} {shown} lacks the access rules of {name} 7.0"));
        }
        if name == "redis" && line == OLDEST {
            return match package(executable) {
                Some(package) if is_tls && !package.is_at_least(DEBIAN_12_TLS) => {
                    Some(format!("{name} {} has CVE-2026-81934: upgrade to {DEBIAN_12_TLS}", package.0))
                }
                Some(package) if !package.is_at_least(DEBIAN_12) => {
                    Some(format!("{name} {} has CVE-2026-66373: upgrade to {DEBIAN_12}", package.0))
                }
                Some(_) => None,
                None if is_tls => Some(format!("{name} {shown} has CVE-2026-81934 unless a distribution has fixed it")),
                // The distribution may have backported the fix; the version does not show it.
                None => (version[..] < LAST_OF_7_0[..]).then(|| format!("{name} {shown} has CVE-2023-41056")),
            };
        }
        let (.., floor) = FLOORS.iter().find(|(of, release, _)| of == name && line == release)?;
        let floor_shown = floor.map(|number| number.to_string()).join(".");
        (version[..] < floor[..]).then(|| format!("{name} {shown} has CVE-2025-49844: upgrade to {floor_shown}"))
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|number| number.parse().ok()).collect()
}

/// The version of a Debian package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package(String);

impl Package {
    /// Returns the package that a program on this machine belongs to.
    pub(crate) fn of(executable: &str) -> Option<Package> {
        let output = |program: &str, arguments: &[&str]| {
            let output =
                Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
            String::from_utf8(output.stdout).ok()
        };
        // Debian's server is a link to a program that also checks files.
        let path = std::fs::canonicalize(executable).ok()?;
        let owner = output("dpkg-query", &["--search", path.to_str()?])?;
        let (name, _) = owner.split_once(':')?;
        Some(Package(output("dpkg-query", &["--show", "--showformat=${Version}", name])?))
    }

    fn is_at_least(&self, other: &str) -> bool {
        let status = Command::new("dpkg").args(["--compare-versions", &self.0, "ge", other]).status();
        status.is_ok_and(|status| status.success())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(info: &str, is_tls: bool, package: Option<&str>, expected: Option<&str>) {
        let server = Server::parse(info);
        let vulnerability = server.vulnerability(is_tls, |_| package.map(|version| Package(version.to_owned())));
        assert_eq!(vulnerability.is_some(), expected.is_some(), "{info}: {vulnerability:?}");
        assert!(vulnerability.unwrap_or_default().contains(expected.unwrap_or_default()), "{info}");
    }

    #[test]
    fn known_vulnerabilities_are_found() {
        check("redis_version:6.0.16\r\n", false, None, Some("access rules"));
        check("redis_version:7.0.11\r\n", false, None, Some("CVE-2023-41056"));
        check("redis_version:7.0.15\r\n", false, None, None);
        check("redis_version:7.0.15\r\n", true, None, Some("CVE-2026-81934"));
        check("redis_version:7.2.10\r\n", false, None, Some("upgrade to 7.2.11"));
        check("redis_version:7.2.11\r\n", true, None, None);
        check("redis_version:8.0.3\r\n", false, None, Some("upgrade to 8.0.4"));
        check("redis_version:8.4.0\r\n", true, None, None);
        check("redis_version:7.2.4\r\nvalkey_version:8.1.3\r\n", false, None, Some("upgrade to 8.1.4"));
        check("redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n", true, None, None);
    }

    #[test]
    fn a_program_is_known_by_its_version_text() {
        let check = |text: &str, name: &str, version: &[u32]| {
            let server = Server::of_program(Path::new("/usr/bin/server"), text);
            assert_eq!((server.name.as_str(), &server.version[..]), (name, version), "{text}");
            assert_eq!(server.executable, "/usr/bin/server");
        };
        check("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64\n", "redis", &[7, 0, 15]);
        check("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64\n", "valkey", &[9, 1, 2]);
    }

    #[test]
    fn packages_of_a_distribution_are_distinguished() {
        if Command::new("dpkg").arg("--version").output().is_err() {
            println!("skipped: `dpkg` is not installed");
            return;
        }
        let info = "redis_version:7.0.15\r\nexecutable:/usr/bin/redis-server\r\n";
        check(info, false, Some("5:7.0.15-1~deb12u8"), Some("CVE-2026-66373"));
        check(info, false, Some("5:7.0.15-1~deb12u9"), None);
        check(info, true, Some("5:7.0.15-1~deb12u9"), Some("CVE-2026-81934"));
        check(info, true, Some("5:7.0.15-1~deb12u10"), None);
    }
}
