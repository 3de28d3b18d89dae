//! The address of a Redis: a server, a Unix socket, or sentinels or a cluster that name the server.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The address of a database, which never contains a password.
///
/// | form | database |
/// |---|---|
/// | `redis://[user@]host[:port][/db]` | a server over TCP |
/// | `rediss://…` | the same over TLS |
/// | `unix://[user@]path/to/socket[?db=0]` | a server's Unix socket; an absolute path begins with `/` |
/// | `redis+sentinel://[user@]host[:port],…/service[/db]` | the master that these sentinels name, `rediss+sentinel` over TLS |
/// | `redis+cluster://[user@]host[:port],…` | the node of a cluster that holds the peer's keys, `rediss+cluster` over TLS |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub(crate) place: Place,
    pub(crate) is_tls: bool,
    /// The user that logs in; if `None`, the server's default user.
    pub user: Option<String>,
    pub(crate) database: u32,
}

/// The server, or the servers that know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Server(Endpoint),
    Sentinel { sentinels: Vec<Endpoint>, service: String },
    Cluster { seeds: Vec<Endpoint> },
}

/// The network address or socket of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// A text is not a valid address.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a database address: {problem}")]
pub struct AddressError {
    text: String,
    problem: &'static str,
}

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        parse(text).map_err(|problem| {
            // The refused text is shown without anything that might be a password.
            let shown = match (text.split_once("://"), text.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://…@{rest}"),
                _ => text.to_owned(),
            };
            AddressError { text: shown, problem }
        })
    }
}

fn parse(text: &str) -> Result<Address, &'static str> {
    let (scheme, rest) = text.split_once("://").ok_or("it must begin with `redis://`, `rediss://` or `unix://`")?;
    if scheme == "unix" {
        // A user has no slash: an `@` after one is part of the path.
        let (user, rest) = user_of(rest.split_once('@').filter(|(user, _)| !user.contains('/')), rest)?;
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        if path.is_empty() {
            return Err("the path of the socket is missing: `unix:///path/to/socket`");
        }
        let database = match query {
            Some(query) => number(query.strip_prefix("db=").ok_or("only `?db=` may follow the path")?)?,
            None => 0,
        };
        return Ok(Address { place: Place::Server(Endpoint::Unix(path.into())), is_tls: false, user, database });
    }
    let (base, kind) = scheme.split_once('+').map_or((scheme, ""), |(base, kind)| (base, kind));
    let is_tls = match base {
        "redis" => false,
        "rediss" => true,
        _ => return Err("it must begin with `redis://`, `rediss://` or `unix://`"),
    };
    let (user, rest) = user_of(rest.rsplit_once('@'), rest)?;
    let (hosts, path) = rest.split_once('/').map_or((rest, ""), |(hosts, path)| (hosts, path));
    let endpoints = |port| hosts.split(',').map(|host| endpoint(host, port)).collect::<Result<Vec<_>, _>>();
    let (place, database) = match kind {
        "" => match <[Endpoint; 1]>::try_from(endpoints(PORT)?) {
            Ok([server]) => (Place::Server(server), path),
            Err(_) => return Err("several hosts need `redis+sentinel://` or `redis+cluster://`"),
        },
        "sentinel" => {
            let (service, database) = path.split_once('/').map_or((path, ""), |(service, rest)| (service, rest));
            if service.is_empty() {
                return Err("the name of the service is missing: `redis+sentinel://host:port/service`");
            }
            (Place::Sentinel { sentinels: endpoints(SENTINEL_PORT)?, service: service.to_owned() }, database)
        }
        "cluster" if path.is_empty() => (Place::Cluster { seeds: endpoints(PORT)? }, ""),
        "cluster" => return Err("a cluster has only one database"),
        _ => return Err("only `+sentinel` and `+cluster` are supported"),
    };
    let database = if database.is_empty() { 0 } else { number(database)? };
    Ok(Address { place, is_tls, user, database })
}

/// Returns the user and the rest of the address; `sides` are the parts around an `@`, if there is one.
fn user_of<'a>(sides: Option<(&str, &'a str)>, whole: &'a str) -> Result<(Option<String>, &'a str), &'static str> {
    match sides {
        Some((user, _)) if user.contains(':') => {
            Err("a password belongs in a file or in the environment, not in an address")
        }
        Some((user, rest)) => Ok((Some(user.to_owned()), rest)),
        None => Ok((None, whole)),
    }
}

fn number(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "the database must be a number")
}

fn endpoint(text: &str, default: u16) -> Result<Endpoint, &'static str> {
    // An IPv6 address is in brackets, since it contains colons.
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']').ok_or("a bracket is not closed")) {
        Some(bracketed) => {
            let (host, rest) = bracketed?;
            (host, rest.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("a host has no name");
    }
    let port = match port {
        Some(port) => port.parse().map_err(|_| "a port must be a number up to 65535")?,
        None => default,
    };
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

impl Address {
    /// Makes the path of a Unix socket relative to a folder; an absolute one stays.
    pub fn resolve(&mut self, dir: &Path) {
        if let Place::Server(Endpoint::Unix(path)) = &mut self.place {
            *path = dir.join(&*path);
        }
    }

    /// Whether the server is certainly on this machine.
    pub(crate) fn is_local(&self) -> bool {
        match &self.place {
            Place::Server(endpoint) => endpoint.is_local(),
            _ => false,
        }
    }

    /// Whether the server, or one of those that name it, is on another machine.
    pub fn names_other_machine(&self) -> bool {
        !self.endpoints().iter().all(Endpoint::is_local)
    }

    /// The servers to ask first: the server itself, or those that name it.
    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        match &self.place {
            Place::Server(endpoint) => std::slice::from_ref(endpoint),
            Place::Sentinel { sentinels: endpoints, .. } | Place::Cluster { seeds: endpoints } => endpoints,
        }
    }
}

impl Endpoint {
    /// Whether traffic to the server stays on this machine.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Endpoint::Unix(_) => true,
            Endpoint::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |endpoints: &[Endpoint]| endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        let user = self.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
        match &self.place {
            Place::Server(endpoint @ Endpoint::Unix(_)) => write!(f, "unix://{user}{endpoint}"),
            Place::Server(endpoint) => write!(f, "{scheme}://{user}{endpoint}"),
            Place::Sentinel { sentinels, service } => {
                write!(f, "{scheme}+sentinel://{user}{}/{service}", list(sentinels))
            }
            Place::Cluster { seeds } => write!(f, "{scheme}+cluster://{user}{}", list(seeds)),
        }?;
        match (&self.place, self.database) {
            (_, 0) => Ok(()),
            (Place::Server(Endpoint::Unix(_)), database) => write!(f, "?db={database}"),
            (_, database) => write!(f, "/{database}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_parsed_and_shown() {
        for (text, shown) in [
            ("redis://host", "redis://host:6379"),
            ("redis://peer@10.0.0.1:7000/3", "redis://peer@10.0.0.1:7000/3"),
            ("rediss://[::1]:7000", "rediss://[::1]:7000"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("unix://owner@/run/redis.sock", "unix://owner@/run/redis.sock"),
            ("unix:///run/redis.sock?db=2", "unix:///run/redis.sock?db=2"),
            ("unix:///run/a@b/redis.sock", "unix:///run/a@b/redis.sock"),
            ("unix://redis/redis.sock", "unix://redis/redis.sock"),
            ("unix://owner@redis/redis.sock?db=2", "unix://owner@redis/redis.sock?db=2"),
            ("redis+sentinel://a,b:1/mine/4", "redis+sentinel://a:26379,b:1/mine/4"),
            ("rediss+cluster://u@a,b:1", "rediss+cluster://u@a:6379,b:1"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Address>().expect(shown), address);
        }
    }

    #[test]
    fn only_relative_sockets_are_resolved() {
        for (text, resolved) in [
            ("unix://owner@redis/redis.sock", "unix://owner@/srv/skein/redis/redis.sock"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("redis://host", "redis://host:6379"),
        ] {
            let mut address: Address = text.parse().expect(text);
            address.resolve(Path::new("/srv/skein"));
            assert_eq!(address.to_string(), resolved);
        }
    }

    #[test]
    fn invalid_addresses_are_refused_and_no_password_is_shown() {
        for (text, expected) in [
            ("localhost:6379", "must begin with"),
            ("http://localhost", "must begin with"),
            ("redis://", "no name"),
            ("redis://a:b", "a port must be a number"),
            ("redis://a/b", "the database must be a number"),
            ("redis://a,b", "several hosts"),
            ("redis+sentinel://a", "name of the service"),
            ("redis+cluster://a/1", "only one database"),
            ("redis+ring://a", "only `+sentinel`"),
            ("unix://", "the path of the socket is missing"),
            ("unix://owner@?db=1", "the path of the socket is missing"),
            ("unix:///run/redis.sock?x=1", "`?db=`"),
            ("redis://[::1", "bracket"),
            ("unix://owner:secret@/run/redis.sock", "a password belongs in a file"),
            ("unix://owner:secret@redis/redis.sock", "a password belongs in a file"),
            ("redis://:secret@a", "a password belongs in a file"),
        ] {
            let error = text.parse::<Address>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
