//! Keeps connections free for the owner of a database, whatever its readers do.
//!
//! Redis and Valkey count all connections together and reserve none, not on the Unix socket either. So the process that
//! runs the server holds one connection from the start, and closes those of others that exceed their share.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;

use super::{ADMIN, CONFIG_FILE, OWNER, asked, options, password_file};
use crate::Options;
use crate::transport::{Client, Failure};

/// How often connections are counted: the owner's host waits longer before it gives up.
const INTERVAL: Duration = Duration::from_secs(1);
/// The server's own default of `maxclients`, if somebody removed the line.
const CLIENTS_DEFAULT: usize = 10_000;
/// Longest description of a connection, of which the server sends one for each.
const CLIENT_BYTES_MAX: usize = 1 << 10;

/// Counts connections until it is dropped.
pub struct Guard {
    server: Client,
    clients_max: usize,
}

impl Guard {
    /// Connects to the server of a folder, which has just started; `None` if an earlier version of the program wrote the
    /// folder, without the user that may close connections.
    ///
    /// # Errors
    /// The configuration cannot be read, or the server does not answer.
    pub fn connect(dir: &Path) -> BoxFuture<'_, Result<Option<Guard>>> {
        Box::pin(async move {
            if !dir.join(password_file(ADMIN)).exists() {
                tracing::warn!(dir = %dir.display(), "an earlier version wrote this folder: its readers may take all connections");
                return Ok(None);
            }
            let path = dir.join(CONFIG_FILE);
            let text = std::fs::read_to_string(&path);
            let text = text.with_context(|| format!("failed to read `{}`", path.display()))?;
            let clients_max = asked::value(&text, "maxclients").and_then(|value| value.parse().ok());
            let options = Options { outage_max: INTERVAL, ..options(dir, ADMIN, None, false)? };
            let server = Client::new(&options, None, String::new())?;
            let guard = Guard { server, clients_max: clients_max.unwrap_or(CLIENTS_DEFAULT) };
            guard.look().await.context("failed to count the connections of the database")?;
            Ok(Some(guard))
        })
    }

    /// Closes what exceeds its share, again and again.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(failure) = self.look().await {
                tracing::warn!(%failure, "failed to count the connections of the database");
            }
        }
    }

    async fn look(&self) -> Result<(), Failure> {
        let list = self.server.call(&[b"CLIENT", b"LIST"], self.clients_max * CLIENT_BYTES_MAX).await?;
        let list = String::from_utf8_lossy(&list.bytes()?).into_owned();
        for (user, connections) in excess(&list, others_max(self.clients_max)) {
            tracing::warn!(
                user,
                closed = connections.len(),
                "closed connections of a user that left too few to the owner: `skein redis revoke` removes an invited peer"
            );
            for id in connections {
                self.server.call(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()], CLIENT_BYTES_MAX).await?;
            }
        }
        Ok(())
    }
}

/// Connections that others may have together: three quarters.
fn others_max(clients_max: usize) -> usize {
    clients_max - clients_max / 4
}

/// A connection in the server's list.
struct Connection<'a> {
    id: &'a str,
    user: &'a str,
    idle_s: u64,
}

impl Connection<'_> {
    fn parse(line: &str) -> Option<Connection<'_>> {
        let field = |name: &str| line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        Some(Connection { id: field("id")?, user: field("user")?, idle_s: field("idle")?.parse().ok()? })
    }
}

/// The connections to close, by user: always one of the user that has most of them, the one that was idle longest.
/// Connections that have not logged in are those of the user `default`.
fn excess(list: &str, others_max: usize) -> BTreeMap<&str, Vec<&str>> {
    let mut others: BTreeMap<&str, Vec<Connection<'_>>> = BTreeMap::new();
    for connection in list.lines().filter_map(Connection::parse) {
        if ![ADMIN, OWNER].contains(&connection.user) {
            others.entry(connection.user).or_default().push(connection);
        }
    }
    others.values_mut().for_each(|connections| connections.sort_by_key(|connection| connection.idle_s));
    let count: usize = others.values().map(Vec::len).sum();
    let mut excess: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for _ in others_max..count {
        let most = others.values_mut().max_by_key(|connections| connections.len());
        let Some(connection) = most.and_then(Vec::pop) else { break };
        excess.entry(connection.user).or_default().push(connection.id);
    }
    excess
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list of a server with as many connections of each user; earlier ones were idle for longer.
    fn list(users: &[(&str, usize)]) -> String {
        let mut text = String::new();
        let mut id = 0;
        for (user, count) in users {
            for index in 0..*count {
                id += 1;
                let idle = count - index;
                text += &format!("id={id} addr=10.0.0.2:7{id} name= age=9 idle={idle} flags=N user={user} resp=2\n");
            }
        }
        text
    }

    #[track_caller]
    fn check(users: &[(&str, usize)], others_max: usize, expected: &[(&str, usize)]) {
        let list = list(users);
        let closed: Vec<_> = excess(&list, others_max).into_iter().map(|(user, ids)| (user, ids.len())).collect();
        assert_eq!(closed, expected);
    }

    #[test]
    fn the_user_with_most_connections_loses_them() {
        check(&[("peer-a", 3), ("peer-b", 3)], 6, &[]);
        check(&[("peer-a", 3), ("peer-b", 7)], 6, &[("peer-b", 4)]);
        check(&[("peer-a", 5), ("default", 7)], 6, &[("default", 4), ("peer-a", 2)]);
        check(&[("worker", 9), ("peer", 1)], 6, &[("worker", 4)]);
        check(&[("owner", 90), ("admin", 9), ("peer", 6)], 6, &[]);
        check(&[], 0, &[]);
        assert_eq!(excess("nonsense\n\nid=1 user=peer\n", 0), BTreeMap::new());
    }

    #[test]
    fn the_connections_that_were_idle_longest_are_closed() {
        let list = list(&[("peer", 5)]);
        assert_eq!(excess(&list, 3), BTreeMap::from([("peer", vec!["1", "2"])]));
    }
}
