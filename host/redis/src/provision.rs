//! Databases of peers: hardened configurations with new secrets, and servers as child processes.

pub mod asked;
pub mod certificates;
pub mod child;
pub mod guard;
pub mod install;
pub mod invited;
pub mod program;
pub mod reachable;
pub mod server;

#[cfg(test)]
#[path = "../tests/redis/ready.rs"]
mod ready;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use skein_redis_module::FILE_NAME;

use crate::{Address, Options, secret};

/// Settings of a database and its folder.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder for the configuration, the secrets and the data; created if it does not exist.
    pub dir: PathBuf,
    /// Address for other machines; if `None`, the server listens on a Unix socket only.
    pub listen: Option<SocketAddr>,
    /// Certificates; without them the server may listen on loopback addresses only.
    pub tls: Option<ServerTls>,
    /// The server's `maxmemory`, in MiB.
    pub memory_mib: u64,
    /// Skein's module; if `None`, the host computes.
    pub module: Option<PathBuf>,
}

/// Certificates of a server as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The authority that signed the certificates of all clients. If `None`, clients have only passwords.
    pub ca: Option<PathBuf>,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

/// The server's configuration, in its folder.
pub const CONFIG_FILE: &str = "redis.conf";
const ACL_FILE: &str = "users.acl";
/// The server's Unix socket, in its folder.
pub const SOCKET_FILE: &str = "redis.sock";
/// Folder of the files that the server saves, in its folder.
const DATA_DIR: &str = "data";
const LOG_FILE: &str = "redis.log";
/// Longest path of a Unix socket, without the terminating zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// The user that changes who may read; only `skein redis` uses it.
const ADMIN: &str = "admin";
const OWNER: &str = "owner";
const WORKER: &str = "worker";
const READER: &str = "peer";

/// Writes a configuration, an access list and randomly generated passwords.
///
/// # Errors
/// The folder already has a configuration or cannot be written, or other machines could reach the server without TLS.
pub fn write(settings: &Settings) -> Result<()> {
    let Settings { dir, listen, tls, .. } = settings;
    if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback())
        && tls.is_none()
    {
        bail!(
            "other machines can reach `{listen}`: pass `--tls-certificate` and `--tls-key`, which `skein redis certificates` makes"
        );
    }
    let failed = || format!("failed to write the configuration of a database to `{}`", dir.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join(DATA_DIR)).with_context(failed)?;
    let dir = &dir.canonicalize().with_context(failed)?;
    ensure!(
        !dir.join(CONFIG_FILE).exists(),
        "`{}` already has a configuration: use it, or choose another folder",
        dir.display()
    );
    let socket = dir.join(SOCKET_FILE);
    ensure!(
        socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX,
        "the path of the socket `{}` is longer than {SOCKET_PATH_BYTES_MAX} bytes: choose a folder with a shorter path",
        socket.display()
    );
    let mut users = "user default off\n".to_owned();
    for user in [ADMIN, OWNER, WORKER, READER] {
        let password = random_password()?;
        create(&dir.join(password_file(user)), &format!("{password}\n"))?;
        users += &access(user, &password, settings.module.is_some());
    }
    create(&dir.join(ACL_FILE), &users)?;
    create(&dir.join(CONFIG_FILE), &configuration(dir, settings)?)
}

/// As [`write()`], if the folder has no configuration yet.
///
/// # Errors
/// As [`write()`].
pub fn write_if_new(settings: &Settings) -> Result<()> {
    if settings.dir.join(CONFIG_FILE).exists() { Ok(()) } else { write(settings) }
}

/// Returns the file of Skein's module, which is built together with this program.
///
/// # Errors
/// The file is not beside this program.
pub fn module_file() -> Result<PathBuf> {
    let own = std::env::current_exe().context("failed to find this program's own file")?;
    let dir = own.parent().context("this program's own file is not in a folder")?;
    // Beside an installed program; in `deps` beside one that cargo has built.
    let candidates = [dir.join(FILE_NAME), dir.join("deps").join(FILE_NAME)];
    candidates
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("`{}` has no `{FILE_NAME}`: pass `--module` or `--without-module`", dir.display()))
}

/// Returns the options with which the owner of a database reaches it.
///
/// # Errors
/// The folder does not exist, or its path cannot be part of an address.
pub fn owner(dir: &Path) -> Result<Options> {
    options(dir, OWNER, None, false)
}

/// Returns the options for workers of the peer, on this machine or another.
///
/// # Errors
/// As [`owner`].
pub fn worker(dir: &Path, listen: Option<SocketAddr>, is_tls: bool) -> Result<Options> {
    options(dir, WORKER, listen, is_tls)
}

/// Returns the options for other peers, whose user may only read published keys.
///
/// # Errors
/// As [`owner`].
pub fn reader(dir: &Path, listen: Option<SocketAddr>, is_tls: bool) -> Result<Options> {
    options(dir, READER, listen, is_tls)
}

fn options(dir: &Path, user: &str, listen: Option<SocketAddr>, is_tls: bool) -> Result<Options> {
    let dir = dir.canonicalize().with_context(|| format!("failed to find the folder `{}`", dir.display()))?;
    let url = match listen {
        Some(listen) => format!("redis{}://{user}@{listen}", if is_tls { "s" } else { "" }),
        None => format!("unix://{user}@{}", dir.join(SOCKET_FILE).display()),
    };
    let address: Address = url.parse()?;
    Ok(Options { password_file: Some(dir.join(password_file(user))), ..Options::new(address) })
}

fn password_file(user: &str) -> String {
    format!("{user}.password")
}

/// 256 random bits as text.
fn random_password() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("failed to get random bytes from the operating system")?;
    Ok(hex::encode(bytes))
}

fn create(path: &Path, text: &str) -> Result<()> {
    secret::create(path, text).with_context(|| format!("failed to write `{}`", path.display()))
}

/// A line of the access list, which has the hash of the password.
fn access(user: &str, password: &str, has_module: bool) -> String {
    format!("user {user} on #{} {}\n", hex::encode(Sha256::digest(password)), rights(user, has_module))
}

/// What a user may do. The owner may run all commands that cannot harm the server, the admin changes users, workers use
/// the keys of jobs, and all others are peers, which read published keys.
fn rights(user: &str, has_module: bool) -> String {
    // A server refuses a list that names commands it does not know.
    let tensors = |names: &[&str]| {
        if has_module { names.iter().map(|name| format!(" +skein.{name}")).collect() } else { String::new() }
    };
    match user {
        ADMIN => "resetkeys resetchannels -@all +ping +hello +auth +acl|setuser +acl|deluser +client|list +client|kill"
            .to_owned(),
        OWNER => "~* &* +@all -@dangerous +info".to_owned(),
        WORKER => format!(
            "~skein:* resetchannels -@all +@read +@write -@dangerous +eval +info +ping +auth +select{}",
            tensors(&["version", "get", "stat", "meta", "acc"])
        ),
        _ => format!(
            "resetkeys resetchannels %R~skein:*:public:* -@all +ping +auth +get +getrange +strlen +exists +xread \
             +xrange{}",
            tensors(&["version", "get", "getrange", "meta", "stat"])
        ),
    }
}

fn configuration(dir: &Path, settings: &Settings) -> Result<String> {
    let quoted = |path: &Path| -> Result<String> {
        let text = path.to_str().filter(|text| !text.contains(['"', '\\', '\n']));
        let text =
            text.with_context(|| format!("`{}` has characters that `{CONFIG_FILE}` cannot hold", path.display()));
        Ok(format!("\"{}\"", text?))
    };
    let in_dir = |name: &str| quoted(&dir.join(name));
    let mut lines = vec![
        "# Written by `skein redis config`. Passwords are in the files beside it, which only their owner may read."
            .into(),
        format!("dir {}", in_dir(DATA_DIR)?),
        format!("logfile {}", in_dir(LOG_FILE)?),
        format!("aclfile {}", in_dir(ACL_FILE)?),
        format!("unixsocket {}", in_dir(SOCKET_FILE)?),
        "unixsocketperm 700".into(),
        "protected-mode yes".into(),
    ];
    lines.extend(network(settings, quoted)?);
    if let Some(module) = &settings.module {
        lines.push(format!("loadmodule {}", quoted(&module.canonicalize()?)?));
    }
    lines.extend(memory(settings.memory_mib));
    lines.extend(FIXED.lines().map(str::to_owned));
    Ok(lines.join("\n") + "\n")
}

/// Bounds of the memory that data and clients use together.
///
/// A server that closes the connections holding the most memory closes uploads first. If connections may hold all of
/// the memory together, it closes only those that it would have to refuse anyway.
fn memory(mib: u64) -> [String; 5] {
    let hard = mib / 2;
    let soft = mib / 4;
    [
        format!("maxmemory {mib}mb"),
        "# A connection holds an incoming gradient twice, and workers send many at a time.".into(),
        "maxmemory-clients 100%".into(),
        "# A reply is at most one tensor, and at least two are stored: the parameters and a contribution.".into(),
        format!("client-output-buffer-limit normal {hard}mb {soft}mb 60"),
    ]
}

fn network(settings: &Settings, quoted: impl Fn(&Path) -> Result<String>) -> Result<Vec<String>> {
    let Some(listen) = settings.listen else { return Ok(vec!["port 0".into()]) };
    let bind = format!("bind {}", listen.ip());
    let Some(tls) = &settings.tls else { return Ok(vec![bind, format!("port {}", listen.port())]) };
    let found = |path: &Path| path.canonicalize().with_context(|| format!("failed to find `{}`", path.display()));
    let file = |path: &Path| quoted(&found(path)?);
    let mut lines = vec![
        bind,
        "port 0".into(),
        format!("tls-port {}", listen.port()),
        format!("tls-cert-file {}", file(&tls.certificate)?),
        format!("tls-key-file {}", file(&tls.key)?),
        "tls-protocols \"TLSv1.3\"".into(),
    ];
    match &tls.ca {
        Some(ca) => lines.extend([format!("tls-ca-cert-file {}", file(ca)?), "tls-auth-clients yes".into()]),
        None => lines.push("tls-auth-clients no".into()),
    }
    Ok(lines)
}

/// Lines that are the same for every server.
const FIXED: &str = "\
# A host handles the error of a server without memory; eviction would silently lose tensors.
maxmemory-policy noeviction
# Those of all users together: `skein redis run` closes connections of others that leave too few to the owner.
maxclients 256
# A tensor is a single value: the largest model that a function can hold fits.
proto-max-bulk-len 4gb
client-query-buffer-limit 5gb
client-output-buffer-limit replica 8gb 4gb 120
# The host keeps checkpoints; a snapshot spares it from restoring one. A log of every gradient would write ten times as
# much.
save 300 1
# The server ends when asked to, or when its parent ends, even if it cannot save the data.
shutdown-on-sigterm force
shutdown-on-sigint force
appendonly no
rdbcompression no
# No client loads modules, debugs or changes protected settings while the server runs.
enable-module-command no
enable-debug-command no
enable-protected-configs no
replica-read-only yes
cluster-enabled no
daemonize no
tcp-keepalive 60
latency-monitor-threshold 100
slowlog-max-len 256
acllog-max-len 256";
