//! The configuration of `skein host`: its job, its key, its database, and the other peers.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use skein_job::manifest::{self, WaitBounds};
use skein_protocol::identity::Identity;
use skein_redis::{Invitation, Options, secret};
use skein_types::Digest;
use skein_types::PeerId;

use crate::ceilings::{Ceilings, is_default};
use crate::checkpoint::KEEP_DEFAULT;

/// Usual name of a configuration in the folder of its host.
pub const HOST_FILE: &str = "host.toml";

/// One peer of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Path of the job's manifest.
    pub job: PathBuf,
    /// Folder for the checkpoint and the metrics.
    pub dir: PathBuf,
    /// Key of this peer.
    pub identity: Key,
    /// Number of the run. To train once more with the same manifest and keys, all peers choose another number.
    #[serde(default)]
    pub run: u64,
    /// Which checkpoints are kept in `dir`.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// What functions may use here, whatever the manifest asks for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ceilings: Ceilings,
    /// How long this host waits for the others, in place of `train.wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitBounds>,
    /// The peer's own database.
    pub store: Options,
    /// All peers of the job, this one included, in an order that is the same for all.
    pub roster: Vec<Member>,
}

/// Which checkpoints a host keeps.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Checkpoints of the last rounds, at least 1, beside the one with the lowest validation loss.
    pub keep: NonZeroU32,
}

impl Default for CheckpointConfig {
    fn default() -> CheckpointConfig {
        CheckpointConfig { keep: KEEP_DEFAULT }
    }
}

/// A peer's secret key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Key {
    /// A file with the 64 hexadecimal digits of an Ed25519 secret key, which no other user may read.
    KeyFile(PathBuf),
    /// Number of the peer among those of one owner: the key is derived from the job's seed and is not secret.
    Index(u32),
}

/// A peer of the job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its public key, as 64 hexadecimal digits.
    #[serde(with = "hexadecimal")]
    pub id: PeerId,
    /// Its database, with a user who may only read what it publishes; not needed for this peer itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Options>,
    /// The invitation that its owner wrote for this peer, in place of `store`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<PathBuf>,
}

impl Config {
    /// Reads and checks a configuration. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// The file cannot be read, or a key or value is wrong.
    pub fn load(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("failed to read the configuration `{}`", path.display()))?;
        let parsed = toml::from_str(&text).map_err(|error| anyhow!(manifest::explain(&error)));
        let mut config: Config =
            parsed.with_context(|| format!("`{}` is not a valid configuration", path.display()))?;
        config.resolve(path.parent().unwrap_or(Path::new("")));
        let mut ids: Vec<_> = config.roster.iter().map(|member| member.id).collect();
        ids.sort();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            bail!("`{}`: the roster has peer `{}` twice", path.display(), twice[0]);
        }
        for member in &config.roster {
            ensure!(
                member.store.is_none() || member.invitation.is_none(),
                "`{}`: peer `{}` of the roster has both `store` and `invitation`: leave one out",
                path.display(),
                member.id
            );
        }
        config.refuse_open_key(path)?;
        if let Some((key, problem)) = config.wait.and_then(|wait| wait.check().err()) {
            bail!("`{}`: `{key}` {problem}", path.display());
        }
        Ok(config)
    }

    /// Refuses a key that is not secret if peers of other machines take part.
    fn refuse_open_key(&self, path: &Path) -> Result<()> {
        let Key::Index(index) = self.identity else { return Ok(()) };
        for member in &self.roster {
            let invited = member.invitation.as_deref().map(Invitation::load).transpose()?;
            let urls = member.store.as_ref().map(|store| &store.url).into_iter();
            let urls = urls.chain(invited.as_ref().map(|invitation| &invitation.url));
            if let Some(url) = urls.into_iter().find(|url| url.names_other_machine()) {
                bail!(
                    "`{}`: the key of `identity = {{ index = {index} }}` is derived from the job's seed, so anybody could sign \
                     as this peer, and the roster has the database `{url}` of another machine: make a key with `skein \
                     identity --key-file FILE`, write `identity = {{ key_file = \"FILE\" }}`, and put the public key that \
                     it prints into the roster of every host",
                    path.display()
                );
            }
        }
        Ok(())
    }

    fn resolve(&mut self, dir: &Path) {
        let from = |path: &mut PathBuf| *path = dir.join(&*path);
        from(&mut self.job);
        from(&mut self.dir);
        if let Key::KeyFile(path) = &mut self.identity {
            from(path);
        }
        self.roster.iter_mut().filter_map(|member| member.invitation.as_mut()).for_each(from);
        let others = self.roster.iter_mut().filter_map(|member| member.store.as_mut());
        for store in others.chain([&mut self.store]) {
            store.url.resolve(dir);
            store.password_file.iter_mut().for_each(from);
            if let Some(tls) = &mut store.tls {
                from(&mut tls.ca);
                tls.certificate.iter_mut().chain(&mut tls.key).for_each(from);
            }
        }
    }
}

impl Key {
    /// The identity of the key.
    ///
    /// # Errors
    /// The file cannot be read, holds no key, or may be read by others.
    pub fn load(&self, seed: u64) -> Result<Identity> {
        let path = match self {
            Key::Index(index) => return Ok(Identity::derived(seed, *index)),
            Key::KeyFile(path) => path,
        };
        let text = secret::read("key", path)?;
        let secret: Digest = text.trim().parse().with_context(|| format!("`{}` holds no key", path.display()))?;
        Ok(Identity::from_secret(secret.0))
    }

    /// Writes a new key to a file that must not exist yet.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn create(path: &Path) -> Result<Identity> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).context("the operating system provided no random bytes")?;
        let written = secret::create(path, &format!("{}\n", Digest(secret)));
        written.with_context(|| format!("failed to write the key `{}`", path.display()))?;
        Ok(Identity::from_secret(secret))
    }
}

mod hexadecimal {
    //! Public keys as text.
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use skein_types::Digest;

    use super::PeerId;

    pub(super) fn serialize<S: Serializer>(id: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PeerId, D::Error> {
        let digest: Digest = String::deserialize(deserializer)?.parse().map_err(D::Error::custom)?;
        Ok(PeerId(digest.0))
    }
}
