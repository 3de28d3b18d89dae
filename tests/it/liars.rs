//! Invariant 4 with real peers: contributions of a liar are never aggregated, and the liar is accused.

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
use skein_peer::driver::{Peer, PeerConfig, RoundEnd, RoundReport};
use skein_peer::engines::EngineConfig;
use skein_peer::pool::FunctionPool;
use skein_peer::prepare::{PreparedJob, Tools};
use skein_protocol::identity::Identity;
use skein_protocol::round::announcement::{Announcement, Evaluation, Vote};
use skein_protocol::round::record::{Header, Kind, Record};
use skein_protocol::round::{Absence, Misbehaviour};
use skein_runtime::{Options, Runtime};
use skein_store::{
    Accumulated, Average, BatchSlot, Contributions, Embedded, GradientSums, PeerStore, Ports, RecordLog, StoreError,
};
use skein_types::{PeerId, Status, Values};
use tokio::task::JoinSet;

/// Alters the contribution of a liar.
type Spoil = fn(&mut Vec<f32>);

/// The reports of a peer, and the result of its run.
type End = (Vec<RoundReport>, anyhow::Result<()>);

/// How a peer lies about its contribution.
#[derive(Clone, Copy)]
struct Lie {
    spoil: Spoil,
    /// Whether the announcement has the hash of the altered values, or still that of the honest ones.
    announces_lie: bool,
    /// Index of the only peer that is lied to; `None` if all are.
    victim: Option<usize>,
}

impl Lie {
    fn to_all(spoil: Spoil, announces_lie: bool) -> Lie {
        Lie { spoil, announces_lie, victim: None }
    }
}

/// Sums whose owner alters their average.
struct LyingSums {
    inner: Embedded,
    lie: Lie,
}

#[async_trait]
impl GradientSums for LyingSums {
    async fn accumulate(&self, round: u64, slot: BatchSlot, gradient: Vec<f32>) -> Result<Accumulated, StoreError> {
        self.inner.accumulate(round, slot, gradient).await
    }

    async fn average(&self, round: u64, peer: PeerId) -> Result<Average, StoreError> {
        let average = self.inner.average(round, peer).await?;
        let mut values = self.inner.contribution(round, peer).await?.unwrap().to_vec();
        (self.lie.spoil)(&mut values);
        let altered = self.inner.put_contribution(round, peer, values.into()).await?;
        Ok(Average { hash: if self.lie.announces_lie { altered.hash } else { average.hash }, ..average })
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
}

/// A job of five peers on the digits that tolerates one liar.
async fn job(train: &str) -> PreparedJob {
    let text = format!(
        "skein_manifest_version = 1\n[application]\nname = \"liars\"\n[data]\nsource = \"builtin:digits\"\n\
         [train]\npeers = 5\nfaults = 1\nbatches_per_round = 1\nwait = {{ min = \"5s\", max = \"30s\" }}\n{train}"
    );
    let manifest = Manifest::parse(&text, Path::new("skein.toml")).unwrap();
    let runtime = Runtime::start(Options { concurrency: 2, ..Options::default() }).unwrap();
    let engine = EngineConfig::automatic();
    let status = Status::default();
    let tools = Tools { runtime: &runtime, engine: &engine, ceilings: Ceilings::default(), status: &status };
    PreparedJob::new(&manifest, &Members::derived(&manifest.train, 0), tools).await.unwrap()
}

/// Starts a peer with its own store.
async fn start(
    prepared: &PreparedJob,
    pool: &Arc<FunctionPool>,
    (peer, store): (PeerId, Ports),
    others: BTreeMap<PeerId, Arc<dyn PeerStore>>,
) -> Peer {
    let share = &prepared.job.shares[&peer];
    let identity = Identity::derived(prepared.job.train.seed, share.index);
    let compute = Arc::new(Local::new(prepared, pool, &store, share));
    let config = PeerConfig { identity, store, compute, others, log: Log::volatile() };
    Peer::start(prepared.clone(), pool.clone(), config).await.unwrap()
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

/// Runs `rounds` rounds in which the last `liars` peers of the roster lie; returns the reports of each honest peer, and
/// the result of its run.
async fn run(prepared: &PreparedJob, liars: usize, lie: Lie, rounds: u64) -> Vec<End> {
    let pool = Arc::new(FunctionPool::start(2).unwrap());
    let stores = stores(&prepared.job).await;
    let honest = stores.len() - liars;
    let liar = *stores.keys().last().unwrap();
    let mut tasks = JoinSet::new();
    let mut liars_tasks = JoinSet::new();
    for (index, (peer, store)) in stores.iter().enumerate() {
        let mut others: BTreeMap<PeerId, Arc<dyn PeerStore>> =
            stores.iter().map(|(peer, store)| (*peer, Arc::new(store.clone()) as Arc<dyn PeerStore>)).collect();
        if lie.victim == Some(index) {
            let inner = stores[&liar].clone();
            others.insert(liar, Arc::new(LyingStore { inner, owner: liar, spoil: lie.spoil }));
        }
        others.remove(peer);
        let mut own = Ports::of(store.clone());
        // A liar with one victim must stay in step with the others.
        if index >= honest && lie.victim.is_none() {
            own.sums = Arc::new(LyingSums { inner: store.clone(), lie });
        }
        let peer = start(prepared, &pool, (*peer, own), others).await;
        if index < honest {
            tasks.spawn(run_peer(index, peer, rounds));
        } else {
            // Liars are not awaited: left out by the others, they may wait forever for votes.
            liars_tasks.spawn(run_peer(index, peer, rounds));
        }
    }
    ends_of(tasks).await
}

/// Runs the rounds of one peer; returns its index, reports and result.
async fn run_peer(index: usize, mut peer: Peer, rounds: u64) -> (usize, End) {
    let mut reports = Vec::new();
    for round in 1..=rounds {
        match peer.round(round).await {
            Ok(RoundEnd::Applied(report)) => reports.push(*report),
            Ok(RoundEnd::Stopped { .. }) => return (index, (reports, Err(anyhow::anyhow!("stopped early")))),
            Err(error) => return (index, (reports, Err(error))),
        }
    }
    (index, (reports, Ok(())))
}

async fn ends_of(tasks: JoinSet<(usize, End)>) -> Vec<End> {
    let mut ends = tasks.join_all().await;
    ends.sort_by_key(|(index, _)| *index);
    ends.into_iter().map(|(_, end)| end).collect()
}

/// The announcements and checks of a peer that computes nothing.
#[derive(Clone, Copy, Default)]
struct Script {
    evaluation: Option<Evaluation>,
    /// The state hash that it claims; `None` to claim that of the others.
    check: Option<[u8; 32]>,
}

/// Runs `rounds` rounds in which the last peer follows a script.
async fn run_beside(prepared: &PreparedJob, script: Script, rounds: u64) -> Vec<End> {
    let pool = Arc::new(FunctionPool::start(2).unwrap());
    let job = &prepared.job;
    let stores = stores(job).await;
    let mut tasks = JoinSet::new();
    let mut liars = JoinSet::new();
    for (index, (peer, share)) in job.shares.iter().enumerate() {
        let mut others = stores.clone();
        let store = others.remove(peer).unwrap();
        if index + 1 == job.shares.len() {
            let identity = Identity::derived(job.train.seed, share.index);
            liars.spawn(follow(job.clone(), identity, store, others, script));
            continue;
        }
        let others = others.into_iter().map(|(peer, store)| (peer, Arc::new(store) as Arc<dyn PeerStore>)).collect();
        let peer = start(prepared, &pool, (*peer, Ports::of(store)), others).await;
        tasks.spawn(run_peer(index, peer, rounds));
    }
    ends_of(tasks).await
}

/// Takes part in every round by copying the records of the others, until the test ends.
async fn follow(job: Arc<Job>, me: Identity, store: Embedded, others: BTreeMap<PeerId, Embedded>, script: Script) {
    for round in 1.. {
        let announced = said(&others, round, Kind::Announcement).await;
        let header = |kind| Header { kind, peer: me.id(), ..*announced[0].header() };
        let values = Values::from(vec![0.0; job.layout.len()]);
        let hash = values.statistics().hash;
        store.put_contribution(round, me.id(), values).await.unwrap();
        let own = Announcement { values: hash, samples: 1, loss: 1.0, evaluation: script.evaluation };
        let own = Record::sign(&me, header(Kind::Announcement), own.encode());
        store.publish(own.encode()).await.unwrap();
        let mut held: Vec<_> = announced.iter().chain([&own]).map(|r| (r.header().peer, r.hash())).collect();
        held.sort();
        let vote = Vote { held, accused: Vec::new() };
        store.publish(Record::sign(&me, header(Kind::Vote), vote.encode()).encode()).await.unwrap();
        let checked = said(&others, round, Kind::Check).await;
        let state = script.check.map_or_else(|| checked[0].payload().to_vec(), Vec::from);
        store.publish(Record::sign(&me, header(Kind::Check), state).encode()).await.unwrap();
    }
}

/// The record of this kind that each of these peers published for a round.
async fn said(peers: &BTreeMap<PeerId, Embedded>, round: u64, kind: Kind) -> Vec<Record> {
    let mut all = Vec::new();
    for store in peers.values() {
        let mut last = 0;
        let record = 'found: loop {
            for (number, bytes) in store.records(last, Duration::from_secs(60)).await.unwrap() {
                last = number;
                let record = Record::decode(&bytes).unwrap();
                if record.header().round == round && record.header().kind == kind {
                    break 'found record;
                }
            }
        };
        all.push(record);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn non_finite_values_wrong_shapes_and_wrong_hashes_are_charged() {
    let job = job("").await;
    let liar = *job.job.shares.keys().last().unwrap();
    let nan: Spoil = |values| values[7] = f32::NAN;
    let infinite: Spoil = |values| values[0] = f32::INFINITY;
    let long: Spoil = |values| values.push(0.0);
    let short: Spoil = |values| values.truncate(values.len() - 1);
    let other: Spoil = |values| values[0] += 1.0;
    for (spoil, announces_lie, misbehaviour) in [
        (nan, true, Misbehaviour::NonFinite),
        (infinite, true, Misbehaviour::NonFinite),
        (long, true, Misbehaviour::Shape),
        (short, true, Misbehaviour::Shape),
        (other, false, Misbehaviour::Hash),
    ] {
        let ends = run(&job, 1, Lie::to_all(spoil, announces_lie), 1).await;
        let hash = ends[0].0[0].state_hash;
        for (reports, end) in &ends {
            end.as_ref().unwrap();
            let report = &reports[0];
            assert_eq!(report.absent, BTreeMap::from([(liar, Absence::Accused(misbehaviour))]), "{misbehaviour:?}");
            assert_eq!((report.present, report.state_hash), (4, hash));
            assert!(report.state.parameters().iter().all(|value| value.is_finite()));
        }
    }
}

/// Checks that all honest peers finished with the same state.
#[track_caller]
fn in_step(ends: &[End], rounds: usize) {
    for (reports, end) in ends {
        end.as_ref().unwrap();
        assert_eq!(reports.len(), rounds);
        assert_eq!(reports[rounds - 1].state_hash, ends[0].0[rounds - 1].state_hash);
    }
}

/// One peer that signed a wrong check once stopped all others, again after each restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_check_of_one_peer_stops_no_other() {
    let script = Script { check: Some([7; 32]), ..Script::default() };
    let ends = run_beside(&job("").await, script, 3).await;
    in_step(&ends, 3);
    assert!(ends.iter().flat_map(|(reports, _)| reports).all(|report| report.present == 5));
}

/// A peer that got other values than the rest once aggregated them unchecked, and stopped all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_are_wrong_for_one_peer_are_fetched_from_another() {
    let job = job("").await;
    for spoil in [|values: &mut Vec<f32>| values[0] += 1.0, |values: &mut Vec<f32>| values.truncate(3)] {
        let ends = run(&job, 1, Lie { victim: Some(0), ..Lie::to_all(spoil, false) }, 3).await;
        in_step(&ends, 3);
        for report in ends.iter().flat_map(|(reports, _)| reports) {
            assert_eq!(report.present, 5, "round {} without {:?}", report.round, report.absent);
        }
    }
}

/// Evaluations that were not due once ended a job, or lowered its learning rate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evaluations_count_only_when_they_are_due_and_for_the_samples_of_a_peer() {
    let evaluation = |samples, loss_sum| Script {
        evaluation: Some(Evaluation { samples, correct: None, loss_sum }),
        ..Script::default()
    };
    let rules = "early_stopping = { patience = 1 }\nreduce_on_plateau = { patience = 0 }\n";
    let never = job(&format!("evaluate_every = 1000\n{rules}")).await;
    let ends = run_beside(&never, evaluation(1, 5.0), 4).await;
    in_step(&ends, 4);
    assert!(ends[0].0.iter().all(|report| report.evaluation.is_none() && report.learning_rate == 0.05));

    let always = job("evaluate_every = 1\n").await;
    let ends = run_beside(&always, evaluation(1 << 30, f64::MAX), 3).await;
    in_step(&ends, 3);
    let shares = always.job.shares.values().take(4).map(|share| share.validation.len() as u64);
    assert_eq!(ends[0].0[2].evaluation.unwrap().samples, shares.sum::<u64>(), "the samples of the honest peers");
    let ends = run_beside(&always, evaluation(1, f64::MAX), 3).await;
    in_step(&ends, 3);
}

/// A well-formed lie is not accused, but the rule tolerates it: the honest peers stay in step and learn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_well_formed_lie_is_tolerated_by_the_rule() {
    let job = job("").await;
    let lie = Lie::to_all(|values| values.iter_mut().for_each(|value| *value *= -1e6), true);
    let ends = run(&job, 1, lie, 30).await;
    in_step(&ends, 30);
    let norm = |report: &RoundReport| skein_kernels::norm::l2_norm(report.state.parameters());
    let first = norm(&ends[0].0[0]);
    let last = norm(&ends[0].0[29]);
    assert!(last < 10.0 * first, "the lie moved the parameters from {first} to {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_liars_than_tolerated_stop_the_round_with_the_reason() {
    let job = job("").await;
    for (reports, end) in run(&job, 2, Lie::to_all(|values| values[0] = f32::NAN, true), 1).await {
        assert!(reports.is_empty(), "nothing was applied");
        let reason = format!("{:#}", end.unwrap_err());
        assert!(reason.contains("2 peers are accused, but the job tolerates at most 1"), "{reason}");
        assert!(reason.contains("a contribution that is not finite"), "{reason}");
    }
}
