//! Replicas repeat their master's commands, with the same bits.

use crate::client::{Client, blob, noise};
use crate::server::{Server, on_each};

const LEN: usize = 50_000;

fn accumulate(client: &mut Client, leaf: u64, leaves: u64) {
    let words = format!("SKEIN.ACC sum p 1 {leaf} {leaves} {} 0.25", leaf + 1);
    let values = blob(&noise(leaf, LEN));
    let arguments: Vec<&[u8]> = words.split(' ').map(str::as_bytes).chain([values.as_slice()]).collect();
    assert_eq!(client.call(&arguments).integer(), 1);
}

fn digest(client: &mut Client) -> String {
    client.say("DEBUG DIGEST").text()
}

/// The replica is attached in the middle of a round, so it gets a part of the round as a snapshot.
#[test]
fn a_replica_has_the_same_bits() {
    on_each("threads 3 --port 0", |master| {
        let mut client = master.client();
        client.set("p", 0, &noise(99, LEN));
        client.set("m", 0, &vec![0.0; LEN]);
        (0..5).for_each(|leaf| accumulate(&mut client, leaf, 13));
        let replica = attach(master);
        (5..13).rev().for_each(|leaf| accumulate(&mut client, leaf, 13));
        client.say("SKEIN.AVERAGE own sum 1");
        client.set("other", 1, &noise(5, LEN));
        client.say("SKEIN.SETRANGE other 3 abcd").ok();
        client.say("SKEIN.AGG agg 1 trimmed-mean 1 3 own other p").ok();
        let apply = "SKEIN.APPLY 2 p m ROWS 2 own other 1 weighted-mean 0 WEIGHTS 2 1 3 TRAINED 49000 CLIPNORM 0.5 CLIPVALUE none OPTIMIZER nesterov(weight_decay=0.01) STEP 1 0.1";
        assert_eq!(client.say(apply).integer(), 1);
        client.say("SELECT 3").ok();
        client.set("elsewhere", 1, &noise(6, LEN));
        client.say("SKEIN.AGG mean 1 mean 0 1 elsewhere").ok();
        client.say("MULTI").ok();
        client.say("SKEIN.AGG again 1 mean 0 1 elsewhere");
        client.say("EXEC");
        assert_eq!(client.say("WAIT 1 30000").integer(), 1);
        let mut other = replica.client();
        assert_eq!(digest(&mut other), digest(&mut client));
        assert_eq!(other.info("commands_failed"), 0);
        other.set_is_refused();
    });
}

/// The link to a master has no user; its commands were permitted on the master.
#[test]
fn a_replica_follows_whatever_its_own_users_may() {
    on_each("--port 0", |master| {
        let mut client = master.client();
        ["p", "own", "other"].iter().zip(1..).for_each(|(key, seed)| client.set(key, 0, &noise(seed, LEN)));
        let replica = attach(master);
        let mut other = replica.client();
        other.say("ACL SETUSER default resetkeys %R~hello:*").ok();
        client.say("SKEIN.AGG agg 1 mean 0 2 own other").ok();
        let apply = "SKEIN.APPLY 1 p ROWS 2 own other 1 mean 0 WEIGHTS 0 TRAINED 9 CLIPNORM 0.5 CLIPVALUE none OPTIMIZER sgd STEP 1 1";
        assert_eq!(client.say(apply).integer(), 1);
        client.say("MULTI").ok();
        client.say("SKEIN.AGG again 1 median 0 1 p");
        client.say("EXEC").array()[0].ok();
        assert_eq!(client.say("WAIT 1 30000").integer(), 1);
        assert_eq!(digest(&mut other), digest(&mut client));
        assert_eq!(other.info("commands_failed"), 0);
    });
}

impl Client {
    /// Checks that a replica refuses writes from clients.
    fn set_is_refused(&mut self) {
        self.say("SKEIN.SET x 1 abcd").fails("READONLY");
    }
}

/// Starts a replica. Replication needs a port; the operating system chooses a free one for the master.
fn attach(master: &Server) -> Server {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    master.client().say(&format!("CONFIG SET port {port}")).ok();
    let replica = Server::start(master.program(), "threads 1");
    let mut client = replica.client();
    client.say(&format!("REPLICAOF 127.0.0.1 {port}"));
    client.until(|client| client.say("INFO replication").text().contains("master_link_status:up"));
    replica
}
