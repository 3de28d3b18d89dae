//! What hosts tell each other before they share a run: their versions, and everything that the run id covers.
//!
//! Hosts with other settings, another roster or other data have another run id, and would never hear of each other. So
//! each says in its database, under a name that belongs to no run, what it is about to do, for as long as it runs. It
//! goes on without a peer that says something else, as without one that is absent; if too many do, it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use skein_job::Job;
use skein_job::identity::{Identifier, list};
use skein_protocol::fault_model::FaultModel;
use skein_protocol::record::VERSION;
use skein_redis::{Greeting, KEYS_FORMAT};
use skein_types::{PeerId, counted};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often a host repeats what it says. One that says the same as before may have ended.
const SAY: Duration = Duration::from_millis(500);
/// How often it looks what the others say: at the start, and later.
const LOOK_FIRST: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(500);
/// How long it looks at the start, and how long a database has to answer.
const FIRST: Duration = Duration::from_millis(1500);
const ANSWER: Duration = Duration::from_millis(500);

/// What a host says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Said {
    /// Version of the program.
    program: String,
    /// Version of the records that it signs.
    records: u64,
    /// Format of the keys in its database.
    keys: u64,
    /// The encoded [`Identifier`]s of the job and of the run, as hexadecimal digits.
    job: String,
    run: String,
    /// When it said so, in microseconds since 1970.
    at: u64,
}

impl Said {
    fn of(job: &Job) -> Said {
        Said {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            records: u64::from(VERSION),
            keys: u64::from(KEYS_FORMAT),
            job: hex::encode(job.identifier.encode()),
            run: hex::encode(job.run.encode()),
            at: 0,
        }
    }

    /// Whether both hosts are about to share a run.
    fn agrees(&self, there: &Said) -> bool {
        Said { at: 0, ..self.clone() } == Said { at: 0, ..there.clone() }
    }

    /// What differs, as what follows a colon; `there` is a claim of another peer.
    fn differences(&self, there: &Said) -> String {
        let program = |said: &Said| format!("{} (records {}, keys {})", said.program, said.records, said.keys);
        if program(self) != program(there) {
            let theirs: String = program(there).chars().filter(|char| !char.is_control()).take(80).collect();
            return format!(" it runs version {theirs} of the program, this host {}; ", program(self));
        }
        // The run covers the job by its digest alone.
        let [here, there] =
            if self.job == there.job { [&self.run, &there.run] } else { [&self.job, &there.job] }.map(identifier);
        match here.zip(there) {
            Some((here, there)) => list(&here.differences(&there), "there"),
            None => " what it says of its job cannot be read; ".to_owned(),
        }
    }
}

fn identifier(digits: &String) -> Option<Identifier> {
    Identifier::decode(&hex::decode(digits).ok()?).ok()
}

/// A peer whose host is about to do something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// The peer.
    pub peer: PeerId,
    /// What differs, as what follows a colon.
    pub differences: String,
}

/// What this host says, and looks for at the others.
pub(crate) struct Greetings {
    own: Greeting,
    said: Said,
    others: BTreeMap<PeerId, Greeting>,
    model: FaultModel,
    /// What each peer had said last when this host looked first: it may have ended since.
    first: BTreeMap<PeerId, Option<u64>>,
    strangers: BTreeMap<PeerId, Stranger>,
    agreeing: BTreeSet<PeerId>,
}

impl Greetings {
    /// The greetings of the peer whose own greeting is `own`.
    pub(crate) fn new(job: &Job, own: Greeting, others: BTreeMap<PeerId, Greeting>) -> Greetings {
        Greetings {
            own,
            said: Said::of(job),
            others,
            model: job.train.fault_model(),
            first: BTreeMap::new(),
            strangers: BTreeMap::new(),
            agreeing: BTreeSet::new(),
        }
    }

    /// Says what this host is about to do, and looks for a moment whether the others are too.
    ///
    /// # Errors
    /// The own database cannot be used, or so many others are about to do something else that the run cannot begin.
    pub(crate) async fn open(&mut self) -> Result<()> {
        self.say().await?;
        let until = Instant::now() + FIRST;
        loop {
            self.look().await;
            self.check().await?;
            // One that says something else may have ended: that shows if it goes on saying so.
            let is_known = |peer: &PeerId| self.agreeing.contains(peer) || self.strangers.contains_key(peer);
            let is_doubtful = self.first.iter().any(|(peer, said)| said.is_some() && !is_known(peer));
            if !is_doubtful || Instant::now() >= until {
                return Ok(());
            }
            tokio::time::sleep(LOOK_FIRST).await;
        }
    }

    /// Goes on saying and looking; sends each peer that is about to do something else.
    ///
    /// # Errors
    /// So many others are about to do something else that the run cannot go on.
    pub(crate) async fn keep_up(mut self, found: mpsc::UnboundedSender<Stranger>) -> Result<Infallible> {
        self.strangers.values().for_each(|stranger| drop(found.send(stranger.clone())));
        let mut says = tokio::time::interval(SAY);
        let mut looks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                // The peer's own work finds out what is wrong with its database.
                _ = says.tick() => drop(self.say().await),
                _ = looks.tick() => {
                    let known: BTreeSet<PeerId> = self.strangers.keys().copied().collect();
                    self.look().await;
                    let new = self.strangers.values().filter(|stranger| !known.contains(&stranger.peer));
                    new.for_each(|stranger| drop(found.send(stranger.clone())));
                    self.check().await?;
                }
            }
        }
    }

    /// Goes on saying for a moment, so that those who look only now see that this host has just said it.
    async fn linger(&self) {
        let until = Instant::now() + FIRST;
        while Instant::now() < until && self.say().await.is_ok() {
            tokio::time::sleep(SAY).await;
        }
    }

    async fn say(&self) -> Result<()> {
        let at = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros() as u64;
        let said = serde_json::to_string(&Said { at, ..self.said.clone() })?;
        self.own.say(said).await.context("failed to write what this host is about to do")
    }

    /// Looks at those that have not said the same yet.
    async fn look(&mut self) {
        let awaited = self.others.iter().filter(|(peer, _)| !self.agreeing.contains(peer));
        let heard = join_all(awaited.map(|(peer, greeting)| async { (*peer, heard(greeting).await) })).await;
        for (peer, said) in heard {
            let Some(said) = said else { continue };
            let first = *self.first.entry(peer).or_insert(said.as_ref().map(|said| said.at));
            let Some(said) = said else { continue };
            if self.said.agrees(&said) {
                self.agreeing.insert(peer);
                self.strangers.remove(&peer);
            } else if first != Some(said.at) {
                let differences = self.said.differences(&said);
                self.strangers.entry(peer).or_insert(Stranger { peer, differences });
            }
        }
    }

    /// Checks that enough others may still do the same. Before it fails, those that look only now are to see why.
    async fn check(&self) -> Result<()> {
        let model = self.model;
        let most = (model.members() - model.answering()) as usize;
        let Some(first) = self.strangers.values().next().filter(|_| self.strangers.len() > most) else { return Ok(()) };
        self.linger().await;
        bail!(
            "{} of {} do something else than this host, and the run needs {} that do the same; peer {:?}:{}make the \
             manifests, rosters and data of all hosts the same, and start them again",
            counted(self.strangers.len(), "other peer"),
            model.members(),
            model.answering(),
            first.peer,
            first.differences
        )
    }
}

/// What a peer says, if anything; `None` if that cannot be read now.
async fn heard(greeting: &Greeting) -> Option<Option<Said>> {
    let text = tokio::time::timeout(ANSWER, greeting.hear()).await.ok()?.ok()?;
    Some(text.and_then(|text| serde_json::from_slice(&text).ok()))
}
