//! The options of a database: its address, credentials and limits.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::secret::{self, SecretError};
use crate::transport::address::Address;
use crate::transport::tls::Tls;

/// The environment variable with the password of the peer's own database, used if no file is named. Passwords for other
/// peers' databases are never taken from it.
pub const PASSWORD_VARIABLE: &str = "SKEIN_REDIS_PASSWORD";

/// The options of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Where the database is; see [`Address`] for the forms.
    #[serde(with = "text")]
    pub url: Address,
    /// File whose first line is the password; if `None`, the peer's own database uses [`PASSWORD_VARIABLE`].
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Certificates, for addresses with `rediss`.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Whether the database or the host computes on tensors.
    #[serde(default)]
    pub compute: Compute,
    /// How long a database may be out of reach before commands fail.
    #[serde(default = "default_outage", with = "humantime_serde")]
    pub outage_max: Duration,
    /// Use a server despite known vulnerabilities.
    #[serde(default)]
    pub allow_vulnerable: bool,
}

/// Who computes on the tensors of a database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// The database if it has the module, otherwise the host.
    #[default]
    Auto,
    /// The database, which must have the module.
    Database,
    /// The host, which fetches values and stores results; the database must not have the module.
    Host,
}

/// How long a database may be out of reach if nothing else is set.
pub(crate) const OUTAGE_DEFAULT: Duration = Duration::from_secs(60);

fn default_outage() -> Duration {
    OUTAGE_DEFAULT
}

impl Options {
    /// The defaults, for a database at `url`.
    pub fn new(url: Address) -> Options {
        Options {
            url,
            password_file: None,
            tls: None,
            compute: Compute::Auto,
            outage_max: OUTAGE_DEFAULT,
            allow_vulnerable: false,
        }
    }

    /// Reads the password from the file, if the options name one.
    ///
    /// # Errors
    /// The file cannot be read, or others may read it.
    pub fn password(&self) -> Result<Option<String>, SecretError> {
        let Some(path) = &self.password_file else { return Ok(None) };
        let text = secret::read("password", path)?;
        Ok(text.lines().next().map(|line| line.trim().to_owned()))
    }
}

mod text {
    //! Serializes addresses as text.
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::Address;

    pub(super) fn serialize<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
