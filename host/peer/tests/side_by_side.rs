//! Several jobs in one process: each reports its own events, and ends by itself or on request.

use std::future::pending;
use std::path::Path;
use std::sync::Arc;

use skein_job::{Manifest, Members};
use skein_peer::ceilings::Ceilings;
use skein_peer::engines::EngineConfig;
use skein_peer::events::Event;
use skein_peer::in_process::{Options, train};
use skein_peer::pool::FunctionPool;
use skein_peer::prepare::{PreparedJob, Tools};
use skein_peer::report::Summary;
use skein_runtime::Runtime;
use skein_types::Status;
use tokio::sync::watch;

/// The runtime and the threads that jobs of one process share.
struct Process {
    runtime: Runtime,
    pool: Arc<FunctionPool>,
}

impl Process {
    fn new() -> Process {
        let options = skein_runtime::Options { concurrency: 2, ..Default::default() };
        let runtime = Runtime::start(options).expect("a runtime");
        Process { runtime, pool: Arc::new(FunctionPool::start(2).expect("threads")) }
    }

    /// A job on the built-in digits.
    async fn job(&self, train: &str) -> PreparedJob {
        let text = format!(
            "skein_manifest_version = 1\n[application]\nname = \"job\"\n[model]\nhidden = [8]\n\
             [data]\nsource = \"builtin:digits\"\n[train]\n{train}"
        );
        let manifest = Manifest::parse(&text, Path::new("skein.toml")).expect("a manifest");
        let engine = EngineConfig::automatic();
        let status = Status::default();
        let tools = Tools { runtime: &self.runtime, engine: &engine, ceilings: Ceilings::default(), status: &status };
        PreparedJob::new(&manifest, &Members::derived(&manifest.train, 0), tools).await.expect("a job")
    }

    /// Runs a job; returns its result and the rounds that it reported, which are also sent to `reported`.
    async fn run(
        &self,
        job: PreparedJob,
        reported: watch::Sender<u64>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> (anyhow::Result<Summary>, Vec<u64>) {
        let mut rounds = Vec::new();
        let mut sink = |event: Event<'_>| {
            if let Event::Round { summary, .. } = event {
                rounds.push(summary.report.round());
                reported.send_replace(summary.report.round());
            }
        };
        let summary = train(job, self.pool.clone(), Options::default(), &mut sink, Box::pin(shutdown)).await;
        (summary, rounds)
    }

    async fn alone(&self, job: PreparedJob) -> Summary {
        self.run(job, watch::Sender::new(0), pending()).await.0.expect("the job finishes")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_jobs_side_by_side_have_the_bits_of_each_alone() {
    let process = Process::new();
    let one = process.job("rounds = 12\npeers = 3\nseed = 1\n").await;
    let other = process.job("rounds = 7\npeers = 4\nseed = 2\noptimizer = { name = \"adam\" }\n").await;
    let reported = || watch::Sender::new(0);
    let both = tokio::join!(
        process.run(one.clone(), reported(), pending()),
        process.run(other.clone(), reported(), pending())
    );
    for ((summary, rounds), (job, expected)) in [(both.0, (one, 12)), (both.1, (other, 7))] {
        let summary = summary.expect("the job finishes");
        assert_eq!(rounds, (1..=expected).collect::<Vec<_>>(), "its own rounds, in their order");
        assert_eq!(summary.state_hashes, process.alone(job).await.state_hashes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_shut_down_leaves_the_other_alone() {
    let process = Process::new();
    let endless = process.job("rounds = 1000000\nseed = 1\n").await;
    let other = process.job("rounds = 9\nseed = 2\n").await;
    let (reported, mut heard) = watch::channel(0);
    let shutdown = async move {
        heard.wait_for(|round| *round >= 5).await.expect("it is in the middle of its run");
    };
    let ((ended, rounds), (summary, _)) = tokio::join!(
        process.run(endless, reported, shutdown),
        process.run(other.clone(), watch::Sender::new(0), pending())
    );
    let error = ended.err().expect("it was shut down").to_string();
    let last = rounds.last().expect("it ran");
    assert_eq!(error, format!("interrupted after round {last}"));
    let summary = summary.expect("the job finishes");
    assert_eq!(summary.state_hashes, process.alone(other).await.state_hashes);
}
