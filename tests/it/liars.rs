//! Invariant 4 with real peers: contributions of a liar are never aggregated unless the rule tolerates them, and no lie stops
//! the honest peers or lets them part.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skein_job::{Job, Manifest, Members};
use skein_peer::ceilings::Ceilings;
use skein_peer::checkpoint::Checkpoint;
use skein_peer::compute::Local;
use skein_peer::driver::log::Log;
use skein_peer::driver::{Peer, PeerConfig, PeerEvent, RoundReport};
use skein_peer::engines::EngineConfig;
use skein_peer::pool::FunctionPool;
use skein_peer::prepare::{PreparedJob, Tools};
use skein_protocol::identity::Identity;
use skein_protocol::node::Absence;
use skein_protocol::pace::PaceOptions;
use skein_protocol::record::payload::{Announcement, Body, Evaluation, Sum};
use skein_protocol::record::{Statement, Unverified};
use skein_runtime::{Options, Runtime};
use skein_store::{
    Accumulated, Average, BatchSlot, Contributions, Embedded, GradientSums, PeerStore, Ports, RecordLog, State,
    StoreError,
};
use skein_types::{Digest, PeerId, Status, Values};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Alters the contribution of a liar.
type Spoil = fn(&mut Vec<f32>);

/// What a liar publishes in place of a record that it signed, or beside it.
type Retell = fn(&Body) -> Vec<Body>;

/// How a peer lies.
#[derive(Clone, Copy, Default)]
struct Lie {
    /// Alters its contributions.
    spoil: Option<Spoil>,
    /// Whether the announcement has the hash of the altered values, or still that of the honest ones.
    announces_lie: bool,
    /// Index of the only peer that is lied to; `None` if all are.
    victim: Option<usize>,
    /// What it says instead.
    retell: Option<Retell>,
}

impl Lie {
    fn to_all(spoil: Spoil, announces_lie: bool) -> Lie {
        Lie { spoil: Some(spoil), announces_lie, ..Lie::default() }
    }

    fn saying(retell: Retell) -> Lie {
        Lie { retell: Some(retell), ..Lie::default() }
    }
}

/// Sums whose owner alters their average.
struct LyingSums {
    inner: Embedded,
    spoil: Spoil,
    announces_lie: bool,
}

#[async_trait]
impl GradientSums for LyingSums {
    async fn accumulate(&self, round: u64, slot: BatchSlot, gradient: Vec<f32>) -> Result<Accumulated, StoreError> {
        self.inner.accumulate(round, slot, gradient).await
    }

    async fn average(&self, round: u64, peer: PeerId) -> Result<Average, StoreError> {
        let average = self.inner.average(round, peer).await?;
        let mut values = self.inner.contribution(round, peer).await?.unwrap().to_vec();
        (self.spoil)(&mut values);
        let altered = self.inner.put_contribution(round, peer, values.into()).await?;
        Ok(Average { hash: if self.announces_lie { altered.hash } else { average.hash }, ..average })
    }
}

/// A store that shows an altered contribution of its owner.
struct LyingStore {
    inner: Embedded,
    owner: PeerId,
    spoil: Spoil,
}

#[async_trait]
impl PeerStore for LyingStore {
    async fn contribution(&self, round: u64, peer: PeerId) -> Result<Option<Values>, StoreError> {
        let Some(values) = self.inner.contribution(round, peer).await? else { return Ok(None) };
        if peer != self.owner {
            return Ok(Some(values));
        }
        let mut values = values.to_vec();
        (self.spoil)(&mut values);
        Ok(Some(values.into()))
    }

    async fn records(&self, after: u64, wait: Duration) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.inner.records(after, wait).await
    }

    async fn served(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.served(name).await
    }

    async fn state_after(&self, round: u64) -> Result<Option<(State, Vec<u8>)>, StoreError> {
        self.inner.state_after(round).await
    }
}

/// Records whose owner says something else than its node signed.
struct LyingRecords {
    inner: Embedded,
    identity: Identity,
    retell: Retell,
}

#[async_trait]
impl PeerStore for LyingRecords {
    async fn contribution(&self, round: u64, peer: PeerId) -> Result<Option<Values>, StoreError> {
        self.inner.contribution(round, peer).await
    }

    async fn records(&self, after: u64, wait: Duration) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.inner.records(after, wait).await
    }

    async fn served(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.served(name).await
    }

    async fn state_after(&self, round: u64) -> Result<Option<(State, Vec<u8>)>, StoreError> {
        self.inner.state_after(round).await
    }
}

#[async_trait]
impl RecordLog for LyingRecords {
    async fn publish(&self, record: Vec<u8>) -> Result<(), StoreError> {
        let record = Unverified::decode(&record).unwrap().trusted().unwrap();
        let slot = *record.slot();
        if slot.peer != self.identity.id() {
            return self.inner.publish(record.encode()).await;
        }
        for body in (self.retell)(record.body()) {
            self.inner.publish(Statement { slot, body }.sign(&self.identity).encode()).await?;
        }
        Ok(())
    }

    async fn serve(&self, round: Option<u64>, served: Vec<(String, Vec<u8>)>) -> Result<(), StoreError> {
        self.inner.serve(round, served).await
    }
}

/// A job of five peers on the digits that tolerates one liar.
async fn job(rounds: u64, train: &str) -> PreparedJob {
    let text = format!(
        "skein_manifest_version = 1\n[application]\nname = \"liars\"\n[data]\nsource = \"builtin:digits\"\n\
         [train]\npeers = 5\nbyzantine = 1\nrounds = {rounds}\nbatches_per_round = 1\n{train}"
    );
    let manifest = Manifest::parse(&text, Path::new("skein.toml")).unwrap();
    let runtime = Runtime::start(Options { concurrency: 2, ..Options::default() }).unwrap();
    let engine = EngineConfig::automatic();
    let status = Status::default();
    let tools = Tools { runtime: &runtime, engine: &engine, ceilings: Ceilings::default(), status: &status };
    PreparedJob::new(&manifest, &Members::derived(&manifest.train, 0), tools).await.unwrap()
}

/// Peers that nobody suspects, however busy the machine is.
const PACE: PaceOptions = PaceOptions {
    silent: Some(Duration::from_secs(60)),
    wait_min: Duration::from_secs(60),
    wait_max: Duration::from_secs(60),
};

/// The reports of each honest peer.
type Reports = Vec<Vec<RoundReport>>;

/// Peers that train, of which the last ones lie.
struct Trial {
    honest: JoinSet<(usize, Vec<RoundReport>)>,
    /// Liars are not awaited: left out by the others, they may wait for ever.
    _liars: JoinSet<()>,
    awaited: Vec<tokio::sync::watch::Receiver<Option<skein_peer::driver::Awaited>>>,
}

/// Starts all peers of a job, of which the last `liars` lie.
async fn start(prepared: &PreparedJob, liars: usize, lie: Lie) -> Trial {
    let pool = Arc::new(FunctionPool::start(2).unwrap());
    let job = &prepared.job;
    let stores = stores(job).await;
    let honest = stores.len() - liars;
    let liar = *stores.keys().last().unwrap();
    let mut trial = Trial { honest: JoinSet::new(), _liars: JoinSet::new(), awaited: Vec::new() };
    for (index, (peer, store)) in stores.iter().enumerate() {
        let mut others: BTreeMap<PeerId, Arc<dyn PeerStore>> =
            stores.iter().map(|(peer, store)| (*peer, Arc::new(store.clone()) as Arc<dyn PeerStore>)).collect();
        if let Some(spoil) = lie.spoil.filter(|_| lie.victim == Some(index)) {
            let inner = stores[&liar].clone();
            others.insert(liar, Arc::new(LyingStore { inner, owner: liar, spoil }));
        }
        others.remove(peer);
        let share = &job.shares[peer];
        let identity = Identity::derived(job.train.seed, share.index);
        let mut own = Ports::of(store.clone());
        if index >= honest {
            let inner = store.clone();
            // A liar with one victim must stay in step with the others.
            if let Some(spoil) = lie.spoil.filter(|_| lie.victim.is_none()) {
                own.sums = Arc::new(LyingSums { inner: inner.clone(), spoil, announces_lie: lie.announces_lie });
            }
            if let Some(retell) = lie.retell {
                own.records =
                    Arc::new(LyingRecords { inner, identity: Identity::derived(job.train.seed, share.index), retell });
            }
        }
        let compute = Arc::new(Local::new(prepared, &pool, &own, share));
        let start = Checkpoint::initial(job);
        let log = Log::volatile();
        let config = PeerConfig { identity, store: own, compute, others, log, start, pace: PACE, exchange: None };
        let peer = Peer::start(prepared.clone(), pool.clone(), config).unwrap();
        if index < honest {
            trial.awaited.push(peer.awaited());
            trial.honest.spawn(run_peer(index, peer));
        } else {
            trial._liars.spawn(async move { drop(run_peer(index, peer).await) });
        }
    }
    trial
}

/// Runs a job in which the last `liars` peers lie; returns the reports of each honest peer.
async fn run(prepared: &PreparedJob, liars: usize, lie: Lie) -> Reports {
    let mut ends = start(prepared, liars, lie).await.honest.join_all().await;
    ends.sort_by_key(|(index, _)| *index);
    ends.into_iter().map(|(_, reports)| reports).collect()
}

/// A store for each peer of a job, with the initial state.
async fn stores(job: &Job) -> BTreeMap<PeerId, Embedded> {
    let mut stores = BTreeMap::new();
    for peer in job.shares.keys() {
        let store = Embedded::default();
        Checkpoint::initial(job).restore(&store).await.unwrap();
        stores.insert(*peer, store);
    }
    stores
}

/// Runs one peer to the end of the job; returns its index and its reports.
async fn run_peer(index: usize, peer: Peer) -> (usize, Vec<RoundReport>) {
    let (sender, mut events) = mpsc::channel(1);
    let run = tokio::spawn(async move { peer.run(&sender).await });
    let mut reports = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            PeerEvent::Applied(report) => reports.push(*report),
            PeerEvent::Save(..) => {}
            PeerEvent::Stopped(_) => panic!("training stopped early"),
        }
    }
    run.await.unwrap().unwrap();
    (index, reports)
}

/// Checks that all honest peers finished with the same state.
#[track_caller]
fn in_step(reports: &Reports, rounds: usize) {
    for of_peer in reports {
        assert_eq!(of_peer.len(), rounds);
        assert_eq!(of_peer[rounds - 1].state_hash, reports[0][rounds - 1].state_hash);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn non_finite_values_wrong_shapes_and_wrong_hashes_are_left_out() {
    let job = job(1, "").await;
    let liar = *job.job.shares.keys().last().unwrap();
    let nan: Spoil = |values| values[7] = f32::NAN;
    let infinite: Spoil = |values| values[0] = f32::INFINITY;
    let long: Spoil = |values| values.push(0.0);
    let short: Spoil = |values| values.truncate(values.len() - 1);
    let other: Spoil = |values| values[0] += 1.0;
    for (spoil, announces_lie) in [(nan, true), (infinite, true), (long, true), (short, true), (other, false)] {
        let reports = run(&job, 1, Lie::to_all(spoil, announces_lie)).await;
        in_step(&reports, 1);
        // One that sees the others go on need not look at the values itself.
        assert!(reports.iter().flatten().any(|report| report.absent.get(&liar) == Some(&Absence::Wrong)));
        for report in reports.iter().flatten() {
            assert_eq!((report.present, report.absent.keys().collect::<Vec<_>>()), (4, vec![&liar]));
            assert!(report.checkpoint.state.parameters().iter().all(|value| value.is_finite()));
        }
    }
}

/// One peer that signed a wrong check once stopped all others, again after each restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_check_of_one_peer_stops_no_other() {
    let lie = Lie::saying(|body| match body {
        Body::Check(check) => {
            vec![Body::Check(skein_protocol::record::payload::Check { state: Digest([7; 32]), ..*check })]
        }
        body => vec![body.clone()],
    });
    let reports = run(&job(3, "").await, 1, lie).await;
    in_step(&reports, 3);
    assert!(reports.iter().flatten().all(|report| report.present == 5));
}

/// A peer that got other values than the rest once aggregated them unchecked, and stopped all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_are_wrong_for_one_peer_are_fetched_from_another() {
    let job = job(3, "").await;
    for spoil in [|values: &mut Vec<f32>| values[0] += 1.0, |values: &mut Vec<f32>| values.truncate(3)] {
        let reports = run(&job, 1, Lie { victim: Some(0), ..Lie::to_all(spoil, false) }).await;
        in_step(&reports, 3);
        for report in reports.iter().flatten() {
            assert_eq!(report.present, 5, "round {} without {:?}", report.round(), report.absent);
        }
    }
}

/// What a liar announces, with an evaluation over these samples.
fn with_evaluation(body: &Body, samples: u64, loss_sum: f64) -> Vec<Body> {
    let Body::Announcement(announcement) = body else { return vec![body.clone()] };
    let sums = [("loss".to_owned(), Sum { sum: loss_sum, weight: samples as f64 })].into();
    let evaluation = Some(Evaluation { samples, sums });
    vec![Body::Announcement(Announcement { evaluation, ..announcement.clone() })]
}

/// Evaluations that were not due once ended a job, or lowered its learning rate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evaluations_count_only_when_they_are_due_and_for_the_samples_of_a_peer() {
    let rules = "early_stopping = { patience = 1 }\nreduce_on_plateau = { patience = 0 }\n";
    let never = job(4, &format!("evaluate_every = 1000\n{rules}")).await;
    let reports = run(&never, 1, Lie::saying(|body| with_evaluation(body, 1, 5.0))).await;
    in_step(&reports, 4);
    assert!(reports[0].iter().all(|report| report.evaluation.is_none() && report.learning_rate == 0.05));

    let always = job(3, "evaluate_every = 1\n").await;
    let shares = always.job.shares.values().take(4).map(|share| share.validation.len() as u64);
    let honest: u64 = shares.sum();
    for retell in
        [|body: &Body| with_evaluation(body, 1 << 30, f64::MAX), |body: &Body| with_evaluation(body, 1, f64::MAX)]
    {
        let reports = run(&always, 1, Lie::saying(retell)).await;
        in_step(&reports, 3);
        let evaluated = reports[0][2].evaluation.unwrap();
        assert!(evaluated.samples <= honest && evaluated.loss() < 10.0, "{evaluated:?}");
    }
}

/// A well-formed lie is in the round, but the rule tolerates it: the honest peers stay in step and learn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_well_formed_lie_is_tolerated_by_the_rule() {
    let lie = Lie::to_all(|values| values.iter_mut().for_each(|value| *value *= -1e6), true);
    let reports = run(&job(30, "").await, 1, lie).await;
    in_step(&reports, 30);
    let norm = |report: &RoundReport| skein_kernels::norm::l2_norm(report.checkpoint.state.parameters());
    let first = norm(&reports[0][0]);
    let last = norm(&reports[0][29]);
    assert!(last < 10.0 * first, "the lie moved the parameters from {first} to {last}");
}

/// Two announcements of one round prove that the peer lies: it takes part in no further round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_two_things_is_removed() {
    let job = job(4, "").await;
    let liar = *job.job.shares.keys().last().unwrap();
    let lie = Lie::saying(|body| match body {
        Body::Announcement(announcement) => {
            vec![body.clone(), Body::Announcement(Announcement { loss: 9.0, ..announcement.clone() })]
        }
        body => vec![body.clone()],
    });
    let reports = run(&job, 1, lie).await;
    in_step(&reports, 4);
    for of_peer in &reports {
        assert_eq!(of_peer[3].absent.get(&liar), Some(&Absence::Removed));
        assert!(of_peer[3].checkpoint.standing.removed.contains(&liar));
    }
}

/// The others once ended with an error. Now they wait, since liars may come to their senses, and say for whom.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_liars_than_tolerated_hold_up_the_round() {
    let job = job(1, "").await;
    let liars: Vec<PeerId> = job.job.shares.keys().skip(3).copied().collect();
    let lie = Lie::to_all(|values| values[0] = f32::NAN, true);
    let mut trial = start(&job, 2, lie).await;
    for awaited in &mut trial.awaited {
        let waits_for_liars = |awaited: &Option<skein_peer::driver::Awaited>| {
            awaited.as_ref().is_some_and(|awaited| awaited.waits.peers.iter().eq(&liars) && awaited.until.is_none())
        };
        awaited.wait_for(waits_for_liars).await.unwrap();
    }
    assert!(trial.honest.try_join_next().is_none(), "nothing was applied");
}
