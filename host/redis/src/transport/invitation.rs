//! Invitations: what one peer needs to read the database of another, in one file.
//!
//! The owner of a database writes it for one reader. It holds a password, so it travels over a way that both trust.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skein_types::{Digest, PeerId};

use crate::secret::{self, SecretError};
use crate::transport::address::Address;

/// The version of the file that this program writes and reads.
pub const INVITATION_VERSION: u32 = 1;

/// What a peer needs to read the database of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// The peer that may read.
    pub reader: PeerId,
    /// Where the database is, with the user of the reader.
    pub url: Address,
    /// The password of the user.
    pub password: String,
    /// SHA-256 of the server's certificate in DER; `None` if the server is on the same machine and has no TLS.
    pub certificate: Option<Digest>,
}

/// A file is not an invitation.
#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    /// The file cannot be read, or others may read it.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The file has another form.
    #[error("`{}` is not an invitation", path.display())]
    Form {
        /// The file that was read.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another version of the program wrote the file.
    #[error(
        "the invitation `{}` has version {theirs}, this program reads version {INVITATION_VERSION}: both owners need the \
         same version of the program, and then another invitation",
        path.display()
    )]
    Version {
        /// The file that was read.
        path: PathBuf,
        /// The version in it.
        theirs: u32,
    },
    /// The address and the certificate contradict each other.
    #[error(
        "the invitation `{}` has a `rediss` address without `certificate_sha256`, or the reverse: ask its owner for \
         another one",
        path.display()
    )]
    Certificate {
        /// The file that was read.
        path: PathBuf,
    },
}

/// The form of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    skein_invitation_version: u32,
    reader: String,
    url: String,
    password: String,
    certificate_sha256: Option<String>,
}

/// The only key that every version has.
#[derive(Deserialize)]
struct Versioned {
    skein_invitation_version: u32,
}

impl Invitation {
    /// Reads an invitation from a file.
    ///
    /// # Errors
    /// The file cannot be read, others may read it, or it is not an invitation of this version.
    pub fn load(path: &Path) -> Result<Invitation, InvitationError> {
        let text = secret::read("invitation", path)?;
        let form = |source| InvitationError::Form { path: path.to_owned(), source };
        // A parser's message would show the line of the password.
        let toml = |error: toml::de::Error| form(error.message().to_owned().into());
        let Versioned { skein_invitation_version: theirs } = toml::from_str(&text).map_err(toml)?;
        if theirs != INVITATION_VERSION {
            return Err(InvitationError::Version { path: path.to_owned(), theirs });
        }
        let Form { reader, url, password, certificate_sha256, .. } = toml::from_str(&text).map_err(toml)?;
        let reader: Digest = reader.parse().map_err(|error| form(format!("`reader`: {error}").into()))?;
        let url: Address = url.parse().map_err(|error: crate::AddressError| form(error.into()))?;
        let certificate = certificate_sha256.map(|text| text.parse()).transpose();
        let certificate = certificate.map_err(|error| form(format!("`certificate_sha256`: {error}").into()))?;
        if url.is_tls != certificate.is_some() {
            return Err(InvitationError::Certificate { path: path.to_owned() });
        }
        Ok(Invitation { reader: PeerId(reader.0), url, password, certificate })
    }

    /// The invitation as the text of a file.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "# Lets one peer read the database of another: `invitation = \"this file\"` in the roster of its `host.toml`.\n\
             # It holds a password: send it over a way that you both trust, and keep it with `chmod 600`.\n\
             skein_invitation_version = {INVITATION_VERSION}\nreader = \"{}\"\nurl = \"{}\"\npassword = \"{}\"\n",
            self.reader, self.url, self.password
        );
        if let Some(certificate) = self.certificate {
            // Writing to a string never fails.
            let _ = writeln!(text, "certificate_sha256 = \"{certificate}\"");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invitation() -> Invitation {
        Invitation {
            reader: PeerId([7; 32]),
            url: "rediss://peer-0707070707070707@10.0.0.1:6380".parse().expect("an address"),
            password: "secret".into(),
            certificate: Some(Digest([9; 32])),
        }
    }

    fn load(text: &str) -> Result<Invitation, InvitationError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bob.invitation");
        secret::create(&path, text).expect("written");
        Invitation::load(&path)
    }

    #[test]
    fn an_invitation_is_read_as_it_was_written() {
        let local = "redis://peer-0707070707070707@127.0.0.1:6380".parse().expect("an address");
        for written in [invitation(), Invitation { url: local, certificate: None, ..invitation() }] {
            assert_eq!(load(&written.to_text()).expect("its own form"), written);
        }
    }

    #[test]
    fn a_file_of_another_form_is_refused_and_its_password_is_not_shown() {
        let good = invitation().to_text();
        let digest = Digest([9; 32]).to_string();
        for (text, expected) in [
            (String::new(), "missing field `skein_invitation_version`"),
            (good.replace("version = 1", "version = 2"), "has version 2, this program reads version 1"),
            (good.replace("reader", "redear"), "unknown field `redear`"),
            (good.replace(&digest, "9"), "`certificate_sha256`: a digest must have 64 hexadecimal digits"),
            (good.replace(&"07".repeat(32), "07"), "`reader`: a digest must have 64 hexadecimal digits"),
            (good.replace("rediss", "redis"), "without `certificate_sha256`, or the reverse"),
            (good.replace("rediss://", "http://"), "it must begin with"),
            (good.replace("\"secret\"", "secret"), "is not an invitation"),
        ] {
            let error = load(&text).expect_err(expected);
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            let shown = format!("{error}: {cause}");
            assert!(shown.contains(expected), "{expected}: {shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }
}
