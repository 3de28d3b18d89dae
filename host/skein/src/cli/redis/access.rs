//! `skein redis certificates`, `skein redis invite` and `skein redis revoke`: who may read a peer's database.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use skein_redis::provision::certificates;
use skein_redis::provision::invited::{Invite, invite, revoke};
use skein_types::PeerId;

use super::super::worker::peer_key;
use crate::output::Output;

/// Arguments of `skein redis certificates`.
#[derive(clap::Args)]
pub(crate) struct CertificateArguments {
    /// Folder for the certificate `server.pem` and its key `server.key`; may be that of the database
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// IP address or name of the host at which others reach the database; may be repeated
    #[arg(long = "address", value_name = "HOST", required = true, num_args = 1..)]
    addresses: Vec<String>,
}

impl CertificateArguments {
    pub(super) fn run(self, output: &mut Output) -> Result<()> {
        let made = certificates::make(&self.dir, &self.addresses)?;
        let certificate = made.certificate.display().to_string();
        let key = made.key.display().to_string();
        let sha256 = made.fingerprint.to_string();
        Ok(output.result(
            || format!("certificate  {certificate}\nkey          {key}\nSHA-256      {sha256}\n"),
            || json!({ "certificate": certificate, "key": key, "sha256": sha256 }),
        )?)
    }
}

/// Arguments of `skein redis invite`.
#[derive(clap::Args)]
pub(crate) struct InviteArguments {
    /// Public key of the peer that may read, as `skein identity` prints it
    #[arg(value_name = "PEER", value_parser = peer_key)]
    peer: PeerId,
    /// Folder of the database
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// File for the invitation; send it to the owner of that peer only
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Host or HOST:PORT at which the peer reaches the database [default: where it listens]
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
}

impl InviteArguments {
    pub(super) async fn run(self, output: &mut Output) -> Result<()> {
        let InviteArguments { peer, dir, to, address } = self;
        let asked = Invite { dir, reader: peer, address, to };
        let (invitation, changed) = invite(&asked).await?;
        let file = asked.to.display().to_string();
        let url = invitation.url.to_string();
        let sha256 = invitation.certificate.map(|digest| digest.to_string());
        let from = counts_from(changed.is_running);
        Ok(output.result(
            || format!("`{file}` lets peer {peer:?} read `{url}`, {from}: send it to the owner of that peer only\n"),
            || {
                json!({
                    "peer": peer.to_string(), "user": changed.user, "url": url, "file": file,
                    "certificate_sha256": sha256, "running": changed.is_running,
                })
            },
        )?)
    }
}

/// Arguments of `skein redis revoke`.
#[derive(clap::Args)]
pub(crate) struct RevokeArguments {
    /// Public key of the peer that may no longer read
    #[arg(value_name = "PEER", value_parser = peer_key)]
    peer: PeerId,
    /// Folder of the database
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl RevokeArguments {
    pub(super) async fn run(self, output: &mut Output) -> Result<()> {
        let RevokeArguments { peer, dir } = self;
        let changed = revoke(&dir, peer).await?;
        let from = counts_from(changed.is_running);
        Ok(output.result(
            || format!("peer {peer:?} may no longer read the database in `{}`, {from}\n", dir.display()),
            || json!({ "peer": peer.to_string(), "user": changed.user, "running": changed.is_running }),
        )?)
    }
}

/// When a change of users counts.
fn counts_from(is_running: bool) -> &'static str {
    if is_running { "from now on" } else { "from the next start of the database" }
}
