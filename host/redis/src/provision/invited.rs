//! Who may read a database: each invited peer has a user of its own, in the access list and in the running server.
//!
//! The access list in the folder is what counts when the server starts. A change to it is applied to a running server by
//! single commands, because a server that loads the whole list may close the connections of all users.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::BoxFuture;
use skein_types::PeerId;

use super::{ACL_FILE, ADMIN, CONFIG_FILE, SOCKET_FILE, ServerTls, Settings, access, asked, options, random_password};
use crate::transport::{Client, Failure};
use crate::{Address, Invitation, Options, fingerprint_of, secret};

/// Digits of a peer's key in the name of its user: no two peers of a group share as many.
const USER_DIGITS: usize = 16;
/// How long readers may hold all connections of the server: it is counted once a second who has too many.
const WAIT: Duration = Duration::from_secs(10);
/// Largest reply of the server: `OK`, a number, or the reason of a refusal.
const REPLY_BYTES_MAX: usize = 1 << 10;

/// Who is invited to read which database.
#[derive(Debug, Clone)]
pub struct Invite {
    /// Folder of the database.
    pub dir: PathBuf,
    /// The peer that may read.
    pub reader: PeerId,
    /// Host or `host:port` at which the reader reaches the server; if `None`, where the server listens.
    pub address: Option<String>,
    /// File for the invitation, which must not exist yet.
    pub to: PathBuf,
}

/// What an invitation or its withdrawal changed.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The user of the reader.
    pub user: String,
    /// Whether the server runs, so that the change counts from now on; otherwise it counts from its start.
    pub is_running: bool,
}

/// The user of an invited peer.
pub fn user(reader: PeerId) -> String {
    format!("peer-{}", &reader.to_string()[..USER_DIGITS])
}

/// Creates a user for a peer, or gives the one it has another password, and writes the invitation.
///
/// # Errors
/// The folder has no database that other machines reach, or one that asks for certificates; the file exists; or the
/// running server does not accept the change.
pub fn invite(invite: &Invite) -> BoxFuture<'_, Result<(Invitation, Changed)>> {
    Box::pin(async move {
        let Invite { dir, reader, address, to } = invite;
        let folder = Folder::open(dir)?;
        let url = folder.url(&user(*reader), address.as_deref())?;
        let tls = folder.settings.tls.as_ref();
        let certificate = tls.map(|tls| fingerprint_of(&tls.certificate)).transpose()?;
        let invitation = Invitation { reader: *reader, url, password: random_password()?, certificate };
        let written = secret::create(to, &invitation.to_text());
        written.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => anyhow::anyhow!("`{}` exists: choose another file with `--to`", to.display()),
            _ => anyhow::Error::new(error).context(format!("failed to write `{}`", to.display())),
        })?;
        let changed = folder.admit(&invitation).await;
        if changed.is_err() {
            // It names a password that does not count.
            let _ = fs::remove_file(to);
        }
        Ok((invitation, changed?))
    })
}

/// Removes the user of a peer and closes its connections.
///
/// # Errors
/// The peer was not invited, or the running server does not accept the change.
pub fn revoke(dir: &Path, reader: PeerId) -> BoxFuture<'_, Result<Changed>> {
    Box::pin(async move { Folder::open(dir)?.expel(reader).await })
}

/// The folder of a database, in which nobody else changes users meanwhile.
struct Folder {
    dir: PathBuf,
    settings: Settings,
    configuration: String,
    _lock: File,
}

impl Folder {
    fn open(dir: &Path) -> Result<Folder> {
        let path = dir.join(CONFIG_FILE);
        ensure!(
            path.exists(),
            "`{}` has no `{CONFIG_FILE}`: `--dir` is the folder that `skein redis run` or `skein redis config` made",
            dir.display()
        );
        let settings = asked::read(dir)?;
        let failed = || format!("failed to read `{}`", path.display());
        let lock = File::open(&path).with_context(failed)?;
        lock.lock().with_context(|| format!("failed to lock `{}`", path.display()))?;
        let configuration = fs::read_to_string(&path).with_context(failed)?;
        let folder = Folder { dir: dir.canonicalize()?, settings, configuration, _lock: lock };
        ensure!(
            folder.users()?.lines().any(|line| is_of(line, ADMIN)),
            "`{}` has no user `{ADMIN}`: an earlier version of the program wrote it. Make another folder with \
             `skein redis config`",
            folder.dir.join(ACL_FILE).display()
        );
        Ok(folder)
    }

    /// Where a user reaches the server from another machine.
    fn url(&self, user: &str, address: Option<&str>) -> Result<Address> {
        let dir = self.dir.display();
        let Settings { listen, tls, .. } = &self.settings;
        let listen = listen.with_context(|| {
            format!(
                "the database in `{dir}` listens on a Unix socket only, so no other machine reaches it: make another \
                 folder with `skein redis config --listen ADDRESS:PORT`"
            )
        })?;
        if let Some(ServerTls { ca: Some(ca), .. }) = tls
            && !["no", "optional"].contains(&asked::value(&self.configuration, "tls-auth-clients").unwrap_or("yes"))
        {
            bail!(
                "the database in `{dir}` asks for certificates that the authority in `{}` signed, which an invitation does \
                 not replace: set `tls-auth-clients optional` in `{dir}/{CONFIG_FILE}` and restart it, or make another \
                 folder without `--tls-ca`",
                ca.display()
            );
        }
        ensure!(
            address.is_some() || !listen.ip().is_unspecified(),
            "the database in `{dir}` listens on all addresses of this machine: pass the one at which the peer reaches it \
             as `--address`"
        );
        let place = match address {
            Some(address) if address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) => {
                format!("[{address}]:{}", listen.port())
            }
            Some(address) if has_port(address) => address.to_owned(),
            Some(address) => format!("{address}:{}", listen.port()),
            None => listen.to_string(),
        };
        let url: Address = format!("redis{}://{user}@{place}", if tls.is_some() { "s" } else { "" }).parse()?;
        ensure!(
            url.is_tls || !url.names_other_machine(),
            "the database in `{dir}` has no TLS, so only this machine may use it: make another folder with \
             `--tls-certificate` and `--tls-key`, which `skein redis certificates` makes"
        );
        Ok(url)
    }

    /// Adds the reader of an invitation, or replaces its password.
    async fn admit(&self, invitation: &Invitation) -> Result<Changed> {
        let user = user(invitation.reader);
        let line = access(&user, &invitation.password, self.settings.module.is_some());
        let before = self.users()?;
        self.write_users(&(self.users_without(&user)? + &line))?;
        let Some(server) = self.server()? else { return Ok(Changed { user, is_running: false }) };
        let rules = line.split_whitespace().skip(2);
        let words: Vec<&str> = ["ACL", "SETUSER", &user, "reset"].into_iter().chain(rules).collect();
        if let Err(refused) = self.command(&server, &words).await {
            // The invitation that the peer has goes on counting.
            self.write_users(&before)?;
            return Err(refused);
        }
        // Those that logged in with an earlier password.
        self.command(&server, &["CLIENT", "KILL", "USER", &user]).await?;
        Ok(Changed { user, is_running: true })
    }

    /// Removes a reader.
    async fn expel(&self, reader: PeerId) -> Result<Changed> {
        let user = user(reader);
        ensure!(
            self.users()?.lines().any(|line| is_of(line, &user)),
            "peer {reader} was not invited to the database in `{}`: it has no user `{user}`",
            self.dir.display()
        );
        let server = self.server()?;
        if let Some(server) = &server {
            // First without a way to log in: a connection that is closed could come back at once.
            self.command(server, &["ACL", "SETUSER", &user, "reset"]).await?;
            self.command(server, &["CLIENT", "KILL", "USER", &user]).await?;
            self.command(server, &["ACL", "DELUSER", &user]).await?;
        }
        // Last: if the server refuses, the same command can be repeated.
        self.write_users(&self.users_without(&user)?)?;
        Ok(Changed { user, is_running: server.is_some() })
    }

    fn users(&self) -> Result<String> {
        let path = self.dir.join(ACL_FILE);
        fs::read_to_string(&path).with_context(|| format!("failed to read `{}`", path.display()))
    }

    fn users_without(&self, user: &str) -> Result<String> {
        let users = self.users()?;
        Ok(users.lines().filter(|line| !is_of(line, user)).map(|line| format!("{line}\n")).collect())
    }

    /// Replaces the access list in one step: a server that starts meanwhile reads all of it.
    fn write_users(&self, text: &str) -> Result<()> {
        let path = self.dir.join(ACL_FILE);
        let failed = || format!("failed to write `{}`", path.display());
        let new = path.with_extension("new");
        // Of a command that was killed.
        let _ = fs::remove_file(&new);
        secret::create(&new, text).with_context(failed)?;
        File::open(&new).and_then(|file| file.sync_all()).with_context(failed)?;
        fs::rename(&new, &path).with_context(failed)
    }

    /// The running server as its admin; `None` if it does not run.
    fn server(&self) -> Result<Option<Client>> {
        if UnixStream::connect(self.dir.join(SOCKET_FILE)).is_err() {
            return Ok(None);
        }
        let options = Options { outage_max: WAIT, ..options(&self.dir, ADMIN, None, false)? };
        Ok(Some(Client::new(&options, None, String::new())?))
    }

    async fn command(&self, server: &Client, words: &[&str]) -> Result<()> {
        let bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let failed = |failure: Failure| {
            anyhow::Error::new(failure).context(format!(
                "the running database in `{}` did not carry out `{}`: stop the database, repeat the command, and start it again",
                self.dir.display(),
                words[..2].join(" ")
            ))
        };
        server.call(&bytes, REPLY_BYTES_MAX).await.map(drop).map_err(failed)
    }
}

/// Whether a line of an access list is about a user.
fn is_of(line: &str, user: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("user") && words.next() == Some(user)
}

/// Whether an address ends with a port.
fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}
