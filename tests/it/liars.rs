//! Invariant 4 with real peers: what a liar sends is never aggregated, and the liar is charged for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skein::checkpoint::Checkpoint;
use skein::job::Job;
use skein::manifest::Manifest;
use skein::peer::{Peer, RoundEnd, RoundReport, Seat};
use skein::workers::Workers;
use skein_runtime::{Options, Runtime};
use skein_store::{
    Accumulated, Average, Embedded, Head, Leaf, PeerKey, Published, State, Statistics, Store, StoreError, Update,
    Values,
};
use skein_workflow::identity::{Identity, PeerId};
use skein_workflow::round::{Absence, Charge};
use tokio::task::JoinSet;

/// What a liar makes of its contribution.
type Spoil = fn(&mut Vec<f32>);

/// A store as its owner sees it, and as others do.
type Faces = (Arc<dyn Store>, Arc<dyn Published>);

/// A store whose owner lies about its own contribution.
struct Lying {
    inner: Embedded,
    owner: PeerKey,
    spoil: Spoil,
    /// Whether the announcement has the hash of the spoilt values, or still that of the honest ones.
    hash_of_spoilt: bool,
}

#[async_trait]
impl Published for Lying {
    async fn contribution(&self, round: u64, peer: PeerKey) -> Result<Option<Values>, StoreError> {
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

#[async_trait]
impl Store for Lying {
    fn aggregates(&self) -> bool {
        false
    }

    async fn average(&self, round: u64, peer: PeerKey) -> Result<Average, StoreError> {
        let average = self.inner.average(round, peer).await?;
        let spoilt = self.contribution(round, peer).await?.unwrap();
        Ok(Average { hash: if self.hash_of_spoilt { spoilt.statistics().hash } else { average.hash }, ..average })
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.inner.head().await
    }

    async fn parameters(&self) -> Result<(u64, Values), StoreError> {
        self.inner.parameters().await
    }

    async fn state(&self) -> Result<State, StoreError> {
        self.inner.state().await
    }

    async fn set_state(&self, state: State) -> Result<(), StoreError> {
        self.inner.set_state(state).await
    }

    async fn accumulate(&self, round: u64, leaf: Leaf, gradient: Vec<f32>) -> Result<Accumulated, StoreError> {
        self.inner.accumulate(round, leaf, gradient).await
    }

    async fn put_contribution(&self, round: u64, peer: PeerKey, values: Values) -> Result<Statistics, StoreError> {
        self.inner.put_contribution(round, peer, values).await
    }

    async fn apply(&self, update: Update) -> Result<Head, StoreError> {
        self.inner.apply(update).await
    }

    async fn remember(&self, round: u64, note: Vec<u8>) -> Result<(), StoreError> {
        self.inner.remember(round, note).await
    }

    async fn recall(&self, round: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.recall(round).await
    }

    async fn publish(&self, record: Vec<u8>) -> Result<(), StoreError> {
        self.inner.publish(record).await
    }

    async fn forget(&self, round: u64) -> Result<(), StoreError> {
        self.inner.forget(round).await
    }
}

/// A job of five peers on the digits, of which `faults` may lie.
async fn job(faults: u32) -> Arc<Job> {
    let text = format!(
        "skein_manifest_version = 1\n[application]\nname = \"liars\"\n[data]\nsource = \"builtin:digits\"\n\
         [train]\npeers = 5\nfaults = {faults}\nbatches_per_round = 1\n"
    );
    let manifest = Manifest::parse(&text, Path::new("skein.toml")).unwrap();
    let runtime = Runtime::start(Options { concurrency: 2, ..Options::default() }).unwrap();
    Arc::new(Job::prepare(&manifest, &runtime, &skein::engines::Choice::automatic()).await.unwrap())
}

/// Runs `rounds` rounds in which the last `liars` peers of the roster lie; gives what each honest peer reports, and
/// how its run ended.
async fn run(
    job: &Arc<Job>,
    liars: usize,
    spoil: Spoil,
    hash_of_spoilt: bool,
    rounds: u64,
) -> Vec<(Vec<RoundReport>, anyhow::Result<()>)> {
    let workers = Arc::new(Workers::start(2).unwrap());
    let honest = job.shares.len() - liars;
    let mut stores: BTreeMap<PeerId, Faces> = BTreeMap::new();
    for (index, peer) in job.shares.keys().enumerate() {
        let inner = Embedded::default();
        Checkpoint::initial(job).restore(&inner).await.unwrap();
        let faces: Faces = match index < honest {
            true => (Arc::new(inner.clone()), Arc::new(inner)),
            false => {
                let lying = Arc::new(Lying { inner, owner: peer.0, spoil, hash_of_spoilt });
                (lying.clone(), lying)
            }
        };
        stores.insert(*peer, faces);
    }
    let (mut tasks, mut liars_tasks) = (JoinSet::new(), JoinSet::new());
    for (index, share) in job.shares.values().enumerate() {
        let identity = Identity::derived(job.train.seed, share.index);
        let others = stores.iter().filter(|(peer, _)| **peer != identity.id());
        let others = others.map(|(peer, (_, published))| (*peer, published.clone())).collect();
        let seat = Seat { store: stores[&identity.id()].0.clone(), identity, desk: None, others };
        let mut peer = Peer::start(job.clone(), workers.clone(), seat).await.unwrap();
        let rounds = async move {
            let mut reports = Vec::new();
            for round in 1..=rounds {
                match peer.round(round).await {
                    Ok(RoundEnd::Applied(report)) => reports.push(*report),
                    Ok(RoundEnd::Stopped { .. }) => unreachable!("there is no early stopping"),
                    Err(error) => return (index, reports, Err(error)),
                }
            }
            (index, reports, Ok(()))
        };
        match index < honest {
            true => drop(tasks.spawn(rounds)),
            // Nobody waits for liars: left out by the others, they may wait for votes that never come.
            false => drop(liars_tasks.spawn(rounds)),
        }
    }
    let mut ends = tasks.join_all().await;
    ends.sort_by_key(|(index, ..)| *index);
    ends.into_iter().map(|(_, reports, end)| (reports, end)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_finite_of_the_wrong_shape_or_of_another_hash_is_charged() {
    let job = job(1).await;
    let liar = *job.shares.keys().last().unwrap();
    let nan: Spoil = |values| values[7] = f32::NAN;
    let infinite: Spoil = |values| values[0] = f32::INFINITY;
    let long: Spoil = |values| values.push(0.0);
    let short: Spoil = |values| values.truncate(values.len() - 1);
    let other: Spoil = |values| values[0] += 1.0;
    for (spoil, hash_of_spoilt, charge) in [
        (nan, true, Charge::NonFinite),
        (infinite, true, Charge::NonFinite),
        (long, true, Charge::Shape),
        (short, true, Charge::Shape),
        (other, false, Charge::Hash),
    ] {
        let ends = run(&job, 1, spoil, hash_of_spoilt, 1).await;
        let hash = ends[0].0[0].state_hash;
        for (reports, end) in &ends {
            end.as_ref().unwrap();
            let report = &reports[0];
            assert_eq!(report.absent, BTreeMap::from([(liar, Absence::Charged(charge))]), "{charge:?}");
            assert_eq!((report.present, report.state_hash), (4, hash));
            assert!(report.state.parameters().iter().all(|value| value.is_finite()));
        }
    }
}

/// A lie in the right form is no offence, but the rule bears it: the honest peers stay in step and learn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_well_formed_lie_is_borne_by_the_rule() {
    let job = job(1).await;
    let ends = run(&job, 1, |values| values.iter_mut().for_each(|value| *value *= -1e6), true, 30).await;
    let last: Vec<_> = ends.iter().map(|(reports, end)| (end.is_ok(), reports[29].state_hash)).collect();
    assert!(last.iter().all(|end| end.0 && *end == last[0]), "{last:?}");
    let norm = |report: &RoundReport| skein_kernels::norm::l2_norm(report.state.parameters());
    let (first, last) = (norm(&ends[0].0[0]), norm(&ends[0].0[29]));
    assert!(last < 10.0 * first, "the lie moved the parameters from {first} to {last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_liars_than_tolerated_stop_the_round_with_the_reason() {
    let job = job(1).await;
    for (reports, end) in run(&job, 2, |values| values[0] = f32::NAN, true, 1).await {
        assert!(reports.is_empty(), "nothing was applied");
        let reason = format!("{:#}", end.unwrap_err());
        assert!(reason.contains("2 peers are charged where the job tolerates 1 faults"), "{reason}");
        assert!(reason.contains("a contribution that is not finite"), "{reason}");
    }
}
