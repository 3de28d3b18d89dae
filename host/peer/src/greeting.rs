//! What hosts tell each other before they share a run: their versions, and everything that the run id covers.
//!
//! Hosts with other settings, another roster or other data have another run id, and would never hear of each other. So
//! each says in its database, under a name that belongs to no run, what it is about to do, for as long as it runs. It
//! goes on without a peer that says something else, as without one that is absent; if too many do, it ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use skein_job::Job;
use skein_job::identity::{Identifier, list};
use skein_protocol::fault_model::FaultModel;
use skein_protocol::record::VERSION;
use skein_redis::{Greeting, KEYS_FORMAT};
use skein_types::{PeerId, counted};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// How often a host repeats what it says. One that says the same as before may have ended.
const SAY: Duration = Duration::from_millis(500);
/// How often it looks what another one says: at first, and later.
const LOOK_FIRST: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_secs(2);
/// Looks that are the first.
const LOOKS_FIRST: u32 = 8;
/// How long a database has to answer, over the slowest of links.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a host that starts listens before it begins.
const FIRST: Duration = Duration::from_millis(1500);
/// What was not repeated for so long does not count any more.
const STALE: Duration = Duration::from_secs(15);
/// Longest text of another host that is shown.
const SHOWN_MAX: usize = 4096;

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

    /// What differs, as what follows a colon; `there` is a claim of another peer, which may be anything.
    fn differences(&self, there: &Said) -> String {
        let program = |said: &Said| format!("{} (records {}, keys {})", said.program, said.records, said.keys);
        if program(self) != program(there) {
            let [theirs, ours] = [there, self].map(program);
            return shown(&format!(" it runs version {theirs} of the program, this host {ours}; "));
        }
        // The run covers the job by its digest alone.
        let [here, there] =
            if self.job == there.job { [&self.run, &there.run] } else { [&self.job, &there.job] }.map(identifier);
        match here.zip(there) {
            Some((here, there)) => shown(&list(&here.differences(&there), "there")),
            None => " what it says of its job cannot be read; ".to_owned(),
        }
    }
}

/// Text of another host without what would act on a terminal, and not more of it than anybody reads.
fn shown(text: &str) -> String {
    let plain = text.chars().map(|char| if char.is_control() && char != '\n' { '?' } else { char });
    let mut lines: String = plain.take(SHOWN_MAX).collect();
    if text.chars().count() > SHOWN_MAX {
        lines += "…\n";
    }
    lines
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

/// What this host says, and hears from the others.
pub(crate) struct Greetings {
    own: Greeting,
    said: Said,
    model: FaultModel,
    /// Tasks that read what the others say; they end with this.
    _listeners: JoinSet<()>,
    heard: mpsc::Receiver<(PeerId, Option<Said>)>,
    others: BTreeMap<PeerId, Heard>,
    strangers: BTreeMap<PeerId, Stranger>,
}

/// What was heard of one peer.
#[derive(Default)]
struct Heard {
    /// When it said so by its clock, if it said anything; `None` if it was not heard yet.
    last: Option<Option<u64>>,
    /// When it was last heard to say something new: before that, it may have ended long ago.
    new: Option<Instant>,
    /// Whether what it says is what this host says.
    agrees: bool,
}

impl Greetings {
    /// Listens to what the others say; `own` is what the peer of this host says.
    pub(crate) fn new(job: &Job, own: Greeting, others: BTreeMap<PeerId, Greeting>) -> Greetings {
        let (sender, heard) = mpsc::channel(others.len().max(1));
        let mut listeners = JoinSet::new();
        let ids = others.keys().map(|peer| (*peer, Heard::default())).collect();
        for (peer, greeting) in others {
            listeners.spawn(listen(peer, greeting, sender.clone()));
        }
        Greetings {
            own,
            said: Said::of(job),
            model: job.train.fault_model(),
            _listeners: listeners,
            heard,
            others: ids,
            strangers: BTreeMap::new(),
        }
    }

    /// Says what this host is about to do, and listens for a moment whether the others are too.
    ///
    /// # Errors
    /// The own database cannot be used, or so many others are about to do something else that the run cannot begin.
    pub(crate) async fn open(&mut self) -> Result<()> {
        self.say().await?;
        let mut says = repetitions();
        let until = Instant::now() + FIRST;
        while self.is_doubtful() {
            tokio::select! {
                _ = says.tick() => self.say().await?,
                Some((peer, said)) = self.heard.recv() => self.take(peer, said),
                () = tokio::time::sleep_until(until) => break,
            }
            self.check().await?;
        }
        Ok(())
    }

    /// Whether a peer was not heard yet, or says something else and may have ended.
    fn is_doubtful(&self) -> bool {
        let is_known = |(peer, heard): (&PeerId, &Heard)| match heard.last {
            None => false,
            Some(None) => true,
            Some(Some(_)) => heard.agrees || self.strangers.contains_key(peer),
        };
        !self.others.iter().all(is_known)
    }

    /// Goes on saying and listening; sends each peer that is about to do something else.
    ///
    /// # Errors
    /// So many others are about to do something else that the run cannot go on.
    pub(crate) async fn keep_up(mut self, found: mpsc::UnboundedSender<Stranger>) -> Result<Infallible> {
        // A run that no longer listens is ending.
        self.strangers.values().for_each(|stranger| drop(found.send(stranger.clone())));
        let mut says = repetitions();
        loop {
            tokio::select! {
                // The peer's own work finds out what is wrong with its database.
                _ = says.tick() => drop(self.say().await),
                Some((peer, said)) = self.heard.recv() => {
                    let is_known = self.strangers.contains_key(&peer);
                    self.take(peer, said);
                    if let Some(stranger) = self.strangers.get(&peer).filter(|_| !is_known) {
                        let _ = found.send(stranger.clone());
                    }
                    self.check().await?;
                }
            }
        }
    }

    async fn say(&self) -> Result<()> {
        let at = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_micros() as u64;
        let said = serde_json::to_string(&Said { at, ..self.said.clone() })?;
        self.own.say(said).await.context("failed to write what this host is about to do")
    }

    /// Notes what a peer says.
    fn take(&mut self, peer: PeerId, said: Option<Said>) {
        let now = Instant::now();
        let Some(heard) = self.others.get_mut(&peer) else { return };
        let at = said.as_ref().map(|said| said.at);
        let is_new = heard.last.is_some_and(|last| last != at);
        heard.last = Some(at);
        if is_new {
            heard.new = Some(now);
        }
        let Some(said) = said else { return };
        heard.agrees = self.said.agrees(&said);
        if heard.agrees {
            self.strangers.remove(&peer);
        } else if is_new {
            let differences = self.said.differences(&said);
            self.strangers.entry(peer).or_insert(Stranger { peer, differences });
        }
        let others = &self.others;
        let is_fresh = |peer: &PeerId| others[peer].new.is_some_and(|new| now - new < STALE);
        self.strangers.retain(|peer, _| is_fresh(peer));
    }

    /// Goes on saying for a moment, so that those who listen only now hear why.
    async fn linger(&self) {
        let mut says = repetitions();
        let until = Instant::now() + 2 * FIRST;
        while Instant::now() < until && self.say().await.is_ok() {
            says.tick().await;
        }
    }

    /// Checks that enough others may still do the same. Before it fails, those that listen only now are to hear why.
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

/// When to say it again. After a while in which the database was away, once is enough.
fn repetitions() -> Interval {
    let mut says = tokio::time::interval_at(Instant::now() + SAY, SAY);
    says.set_missed_tick_behavior(MissedTickBehavior::Delay);
    says
}

/// Reads what a peer says, again and again: one that agrees may be started with something else. A database cannot tell its
/// readers that a key has changed, so it is polled.
async fn listen(peer: PeerId, greeting: Greeting, heard: mpsc::Sender<(PeerId, Option<Said>)>) {
    for look in 0u32.. {
        // A database that cannot be read says nothing, not even that its peer says nothing.
        if let Ok(Ok(text)) = tokio::time::timeout(ANSWER, greeting.hear()).await {
            let said = text.and_then(|text| serde_json::from_slice(&text).ok());
            if heard.send((peer, said)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(if look < LOOKS_FIRST { LOOK_FIRST } else { LOOK }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_host_says_acts_on_no_terminal_and_fills_none() {
        assert_eq!(shown("`a` is 1 here\nand \u{1b}[2J\r2 there"), "`a` is 1 here\nand ?[2J?2 there");
        let long = shown(&"x".repeat(1 << 20));
        assert_eq!(long.len(), SHOWN_MAX + "…\n".len());
    }
}
