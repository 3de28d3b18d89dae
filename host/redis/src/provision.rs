//! Databases of peers: hardened configurations with fresh secrets, and servers as children of this process.

pub mod asked;
pub mod child;
pub mod server;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest as _, Sha256};
use skein_redis_module::FILE_NAME;

use crate::{Address, Options, Tls};

/// What is written, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder for the configuration, the secrets and the data; made if it is not there.
    pub dir: PathBuf,
    /// Address that other machines reach; without one there is only a Unix socket.
    pub listen: Option<SocketAddr>,
    /// Certificates, without which nothing but this machine is listened to.
    pub tls: Option<Tls>,
    /// Memory that the data may take, in MiB.
    pub memory_mib: u64,
    /// Skein's module; without it the host computes.
    pub module: Option<PathBuf>,
}

/// Names of the files.
pub const CONFIG_FILE: &str = "redis.conf";
const ACL_FILE: &str = "users.acl";
/// The socket of a database, in its folder.
pub const SOCKET_FILE: &str = "redis.sock";
/// What the server saves, in its folder.
const DATA_DIR: &str = "data";
const LOG_FILE: &str = "redis.log";
/// Bytes of a Unix socket's path, less the zero at its end.
const SOCKET_PATH_BYTES_MAX: usize = 107;
const OWNER: &str = "owner";
const WORKER: &str = "worker";
const READER: &str = "peer";

/// Writes a configuration, an access list and secrets that nobody has seen.
///
/// # Errors
/// The folder has a configuration already, or can not be written; an address of other machines without certificates.
pub fn write(settings: &Settings) -> Result<()> {
    let Settings { dir, listen, tls, .. } = settings;
    if let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback())
        && tls.is_none()
    {
        bail!("`{listen}` is reached from other machines: give `--tls-ca`, `--tls-certificate` and `--tls-key`");
    }
    let failed = || format!("failed to write the configuration of a database to `{}`", dir.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir.join(DATA_DIR)).with_context(failed)?;
    let dir = &dir.canonicalize().with_context(failed)?;
    ensure!(
        !dir.join(CONFIG_FILE).exists(),
        "`{}` has a configuration already: use it, or choose another folder",
        dir.display()
    );
    let socket = dir.join(SOCKET_FILE);
    ensure!(
        socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX,
        "the path of the socket `{}` is longer than the system bears: choose a folder with a shorter one",
        socket.display()
    );
    let owner = secret(&dir.join(password_file(OWNER)))?;
    let worker = secret(&dir.join(password_file(WORKER)))?;
    let reader = secret(&dir.join(password_file(READER)))?;
    create(&dir.join(ACL_FILE), &access_list([&owner, &worker, &reader], settings.module.is_some()))?;
    create(&dir.join(CONFIG_FILE), &configuration(dir, settings)?)
}

/// The module's file, which is built together with this program.
///
/// # Errors
/// It is not there.
pub fn module_file() -> Result<PathBuf> {
    let own = std::env::current_exe().context("failed to find this program's own file")?;
    let dir = own.parent().context("a program lies in a folder")?;
    // A program that was installed has it beside it; one that was just built, where its parts are.
    let candidates = [dir.join(FILE_NAME), dir.join("deps").join(FILE_NAME)];
    candidates
        .into_iter()
        .find(|path| path.exists())
        .with_context(|| format!("`{}` has no `{FILE_NAME}`: give `--module`, or `--without-module`", dir.display()))
}

/// How the owner of a database reaches it.
///
/// # Errors
/// The folder's path is no part of an address.
pub fn owner(dir: &Path) -> Result<Options> {
    options(dir, OWNER, None, None)
}

/// How workers of the peer reach it, on this machine or another.
///
/// # Errors
/// As [`owner`].
pub fn worker(dir: &Path, listen: Option<SocketAddr>, tls: Option<Tls>) -> Result<Options> {
    options(dir, WORKER, listen, tls)
}

/// How other peers reach it: as a user who may read what is published, and do nothing else.
///
/// # Errors
/// As [`owner`].
pub fn reader(dir: &Path, listen: Option<SocketAddr>, tls: Option<Tls>) -> Result<Options> {
    options(dir, READER, listen, tls)
}

fn options(dir: &Path, user: &str, listen: Option<SocketAddr>, tls: Option<Tls>) -> Result<Options> {
    let dir = dir.canonicalize().with_context(|| format!("there is no folder `{}`", dir.display()))?;
    let url = match listen {
        Some(listen) => format!("redis{}://{user}@{listen}", if tls.is_some() { "s" } else { "" }),
        None => format!("unix://{user}@{}", dir.join(SOCKET_FILE).display()),
    };
    let address: Address = url.parse()?;
    Ok(Options { password_file: Some(dir.join(password_file(user))), tls, ..Options::new(address) })
}

fn password_file(user: &str) -> String {
    format!("{user}.password")
}

/// Writes 256 fresh random bits to a file that only its owner may read.
fn secret(path: &Path) -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("the operating system gave no random bytes")?;
    let text = hex::encode(bytes);
    create(path, &format!("{text}\n"))?;
    Ok(text)
}

fn create(path: &Path, text: &str) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("failed to write `{}`", path.display()))
}

/// Users by the hashes of their passwords. The owner may do everything but harm the server, workers touch what is the
/// job's, other peers read what is published.
fn access_list([owner, worker, reader]: [&str; 3], has_module: bool) -> String {
    let hash = |password: &str| hex::encode(Sha256::digest(password));
    // A server refuses a list that names commands it does not know.
    let tensors = |names: &[&str]| match has_module {
        true => names.iter().map(|name| format!(" +skein.{name}")).collect(),
        false => String::new(),
    };
    format!(
        "user default off\n\
         user {OWNER} on #{} ~* &* +@all -@dangerous +info\n\
         user {WORKER} on #{} ~skein:* resetchannels -@all +@read +@write -@dangerous +eval +info +ping +hello +auth \
         +select{}\n\
         user {READER} on #{} resetkeys resetchannels %R~skein:*:public:* -@all +ping +hello +auth +get +getrange \
         +strlen +exists +xread +xrange{}\n",
        hash(owner),
        hash(worker),
        tensors(&["version", "get", "stat", "meta", "acc"]),
        hash(reader),
        tensors(&["version", "get", "getrange", "meta", "stat"])
    )
}

fn configuration(dir: &Path, settings: &Settings) -> Result<String> {
    let quoted = |path: &Path| -> Result<String> {
        let text = path.to_str().filter(|text| !text.contains(['"', '\\', '\n']));
        Ok(format!("\"{}\"", text.with_context(|| format!("`{}` can not stand in a file", path.display()))?))
    };
    let in_dir = |name: &str| quoted(&dir.join(name));
    let mut lines = vec![
        "# Written by `skein redis config`. Secrets are in the files beside it, which only their owner may read."
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

/// Bounds of the memory that data and clients take together.
///
/// A server that ends connections because they hold much ends uploads first. Where all of them together may hold all of
/// the memory, it ends none that it would not refuse as well.
fn memory(mib: u64) -> [String; 5] {
    let hard = mib / 2;
    let soft = mib / 4;
    [
        format!("maxmemory {mib}mb"),
        "# A gradient on its way in is held twice by its connection, and workers send many at a time.".into(),
        "maxmemory-clients 100%".into(),
        "# No reply is more than one tensor, of which there are two at least: the parameters and a contribution."
            .into(),
        format!("client-output-buffer-limit normal {hard}mb {soft}mb 60"),
    ]
}

fn network(settings: &Settings, quoted: impl Fn(&Path) -> Result<String>) -> Result<Vec<String>> {
    let Some(listen) = settings.listen else { return Ok(vec!["port 0".into()]) };
    let bind = format!("bind {}", listen.ip());
    let Some(tls) = &settings.tls else { return Ok(vec![bind, format!("port {}", listen.port())]) };
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        bail!("a server needs a certificate and its key: give `--tls-certificate` and `--tls-key`");
    };
    let file = |path: &Path| quoted(&path.canonicalize().with_context(|| format!("there is no `{}`", path.display()))?);
    Ok(vec![
        bind,
        "port 0".into(),
        format!("tls-port {}", listen.port()),
        format!("tls-ca-cert-file {}", file(&tls.ca)?),
        format!("tls-cert-file {}", file(certificate)?),
        format!("tls-key-file {}", file(key)?),
        "tls-auth-clients yes".into(),
        "tls-protocols \"TLSv1.3\"".into(),
    ])
}

/// What does not depend on where the server is.
const FIXED: &str = "\
# Running out of memory is an error that a host understands; eviction would lose tensors in silence.
maxmemory-policy noeviction
maxclients 256
# Tensors are single values: the largest model that a function can hold fits.
proto-max-bulk-len 4gb
client-query-buffer-limit 5gb
client-output-buffer-limit replica 8gb 4gb 120
# The host keeps checkpoints; a snapshot saves it from restoring one. A log of every gradient would cost ten times the
# write.
save 300 1
# Whoever asks the server to end, or dies, is obeyed, even where the data can not be saved.
shutdown-on-sigterm force
shutdown-on-sigint force
appendonly no
rdbcompression no
# Nobody loads modules, debugs or changes what is written here while the server runs.
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
