//! Graphs of the job on every engine of this machine: kept results, large batches, runs that last too long.

use super::driver::{BOUNDS, Expected, LONG_MS, Place, Process, dist, gradient, networks, probe};
use super::guests::{self, IMPORTS, ITEMS, reserving};
use super::protocol::{Bounds, Network, Request, WIDE};

/// Results of graphs are memory from the moment they exist, whichever engine holds them.
pub(crate) fn hoarding() {
    let place = Place::new();
    for network in networks() {
        let mut process = Process::start(&place, LONG_MS);
        let case = format!("kept results of {}", network.engine);
        let bounds = Bounds { memory_mib: 24, handles: 1_000_000, ..BOUNDS };
        // If its handles alone counted, what it keeps would take gigabytes.
        let network = Network { model: WIDE.into(), ..network };
        let request = Request { network: Some(network), ..probe("graph-hoard", bounds) };
        process.check(&case, &request, Expected::Limit("memory_mib"));
        println!("  {process}");
    }
}

/// The memory that a run takes grows with its batch, so the batch of the call bounds it.
pub(crate) fn large_batch() {
    let place = Place::new();
    let items = format!("{ITEMS} {}", reserving(500));
    let body = "
      (i32.store (i32.const 2048) (i32.const 100000))
      (i32.store (i32.const 2052) (i32.const 64))
      (call $put (i32.const 4096) (i32.const 1040) (i32.const 5)
        (call $tensor (i32.const 2048) (i32.const 2) (i32.const 1) (i32.const 131072) (i32.const 25600000)))
      (call $put (i32.const 4108) (i32.const 1048) (i32.const 6)
        (call $tensor (i32.const 2048) (i32.const 1) (i32.const 6) (i32.const 131072) (i32.const 800000)))
      (call $compute (call $job-context) (i32.const 4096) (i32.const 2) (i32.const 512))
      (if (i32.load8_u (i32.const 512)) (then (call $refuse (i32.load (i32.const 516)))))";
    let path = place.component("large-batch", &guests::gradient(IMPORTS, &items, body));
    for network in networks() {
        let mut process = Process::start(&place, LONG_MS);
        let case = format!("a batch of 100,000 on {}", network.engine);
        let bounds = Bounds { memory_mib: 128, ..BOUNDS };
        let request = Request { network: Some(network), ..gradient(&path, bounds) };
        let words = "it has 100000 samples, the batch of this call has 4";
        process.check(&case, &request, Expected::Error { kind: "refused", words });
        println!("  {process}");
    }
}

/// Calls at the same time, as many as the process runs.
const AT_ONCE: usize = 2;
/// Samples of a batch that takes much longer than [`BRIEF_MS`].
const MANY: u32 = 96;
/// The wall limit of calls that last too long, in milliseconds.
const BRIEF_MS: u64 = 30;
/// How often runs are stopped.
const TRIES: usize = 5;
/// Threads that may be left over: those of the executor that wait for work, some seconds each.
const THREADS_MORE: u64 = AT_ONCE as u64 + 2;

/// A run once went on after its call: its slot was free for the next call, which compiled another session of the graph.
pub(crate) fn stopping() {
    let place = Place::new();
    for network in networks() {
        let mut process = Process::start(&place, LONG_MS);
        let network = Network { model: "resnet.plain.onnx".into(), ..network };
        let engine = network.engine.clone();
        let request = |number, wall_ms| Request {
            number,
            at_once: AT_ONCE,
            network: Some(network.clone()),
            ..gradient(&dist("gradient-onnx.wasm"), Bounds { wall_ms, memory_mib: 256, ..BOUNDS })
        };
        let mut good = |number| {
            let reply = process.call(&request(number, LONG_MS));
            assert!(reply.outcomes.iter().all(|outcome| Expected::Result.is_met(outcome)), "{engine}: {reply:?}");
            reply
        };
        let first = good(2);
        let full = good(MANY).cpu_ms - first.cpu_ms;
        let case = format!("runs on {engine} that last too long");
        process.check(&case, &request(MANY, BRIEF_MS), Expected::Limit("wall"));

        // A run that is not stopped takes its full time whenever it is tried; a busy machine only adds to the others.
        let stopped = (0..TRIES).map(|_| {
            let before = process.call(&request(2, LONG_MS)).cpu_ms;
            process.call(&request(MANY, BRIEF_MS));
            // It gets a slot when a run has ended, and needs no session, which takes time to compile.
            let after = process.call(&Request { at_once: AT_ONCE, ..probe("zeros", BOUNDS) });
            after.cpu_ms - before
        });
        let stopped: Vec<u64> = stopped.collect();
        println!("  {engine}: {stopped:?} ms of the processor, {full} ms to the end");
        let least = stopped.iter().min().expect("some tries");
        assert!(*least < full / 2, "{engine}: {stopped:?} ms of the processor, {full} ms to the end");
        let last = process.call(&request(2, LONG_MS));
        assert!(last.outcomes.iter().all(|outcome| Expected::Result.is_met(outcome)), "{engine}: {last:?}");
        assert!(last.sessions_peak <= AT_ONCE, "{engine}: a call began while a run went on: {last:?}");
        let bound = first.threads + THREADS_MORE;
        assert!(last.threads <= bound, "{engine}: {} threads at first, {} at last", first.threads, last.threads);
        println!("  {process}");
    }
}
