//! The work queue on a real database: tasks count once, even if workers or the host die.

use std::time::{Duration, Instant};

use skein_redis::queue::{Completion, Consumer, Delivery, Outcome, Pace, Place, Queue, Role, Task};
use skein_store::StoreError;

use crate::scope;
use crate::server::{Kind, Server};

/// Interval of the beats in these tests: three of them are longer than a busy machine delays a beat.
const BEAT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(20);
/// Longer than any test runs.
const FOREVER: Duration = Duration::from_secs(3600);
const PACE: Pace = Pace { beat: BEAT, rest_min: Duration::from_millis(1), rest_max: Duration::from_millis(4) };
/// For consumers that must not count as silent.
const PATIENT: Pace = Pace { beat: Duration::from_secs(2), ..PACE };

fn run(test: impl AsyncFn(&Server, Queue)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let server = Kind::Plain.start(&[]);
        let queue = Queue::open(&server.options(), scope(1)).await.expect("a queue");
        test(&server, queue).await;
    });
}

async fn join(server: &Server, name: &str, role: Role, pace: Pace) -> Consumer {
    let place = Place { name: name.to_owned(), role, pace };
    Consumer::join(&server.options(), scope(1), place).await.expect("a place at the queue")
}

async fn worker(server: &Server, name: &str) -> Consumer {
    join(server, name, Role::Worker, PACE).await
}

async fn host(server: &Server) -> Consumer {
    join(server, "host", Role::Host, PACE).await
}

/// Returns the next task, which must arrive.
async fn next(consumer: &Consumer) -> Delivery {
    consumer.next(1, LONG).await.expect("an answer").pop().expect("a task")
}

/// Asserts that a consumer gets no task while tasks rest and beats are missed.
async fn gets_nothing(consumer: &Consumer) {
    assert_eq!(consumer.next(1, 4 * BEAT).await.expect("an answer"), []);
}

/// Takes the next task and fails at it.
async fn fail(consumer: &Consumer, reason: &str) -> Task {
    let delivery = next(consumer).await;
    consumer.release(&delivery, reason).await.expect("released");
    delivery.task
}

/// Takes the next task and falls silent, like a killed process. The returned consumer has the same name and does not
/// know of the task.
async fn stall(server: &Server, consumer: Consumer, name: &str) -> Consumer {
    next(&consumer).await;
    drop(consumer);
    worker(server, name).await
}

async fn complete(consumer: &Consumer, delivery: &Delivery) -> Completion {
    consumer.complete(delivery).await.expect("an answer")
}

async fn outcome(queue: &Queue) -> Option<Outcome> {
    queue.wait(1, LONG).await.expect("an outcome")
}

fn tasks(round: u64, count: u32) -> Vec<Task> {
    (0..count).map(|index| Task { round, index, payload: format!("task {index}") }).collect()
}

#[test]
fn tasks_are_done_once_and_the_last_one_wakes_the_host() {
    run(async |server, queue| {
        // Posted twice, as by a restarted host.
        for _ in 0..2 {
            queue.post(1, 3, &tasks(1, 3)).await.expect("posted");
        }
        let waiting = tokio::spawn(async move { queue.wait(1, LONG).await });
        let worker = worker(server, "a").await;
        let deliveries = worker.next(10, LONG).await.expect("tasks");
        assert_eq!(deliveries.iter().map(|delivery| delivery.task.clone()).collect::<Vec<_>>(), tasks(1, 3));
        for delivery in &deliveries {
            assert_eq!(worker.complete(delivery).await.expect("an answer"), Completion::Counted);
            assert_eq!(worker.complete(delivery).await.expect("an answer"), Completion::Duplicate);
        }
        assert_eq!(waiting.await.expect("it ends").expect("an outcome"), Some(Outcome::Done));
        assert_eq!(worker.next(10, Duration::from_millis(1)).await.expect("an answer"), []);
        worker.leave().await.expect("left");
    });
}

/// A worker that beats keeps its tasks; a silent one loses them and cannot complete them any more.
#[test]
fn tasks_of_a_silent_worker_go_to_another() {
    run(async |server, queue| {
        queue.post(1, 2, &tasks(1, 2)).await.expect("posted");
        let silent = worker(server, "silent").await;
        let alive = worker(server, "alive").await;
        let lost = silent.next(1, LONG).await.expect("a task").remove(0);
        let kept = alive.next(1, LONG).await.expect("a task").remove(0);
        assert_ne!(lost.task.index, kept.task.index);
        // The consumer and its beat end, as if killed; it still holds the task in the database.
        drop(silent);
        let taken = loop {
            // Waiting for tasks also waits until enough beats are missed.
            if let Some(taken) = alive.next(1, BEAT).await.expect("an answer").pop() {
                break taken;
            }
        };
        assert_eq!(taken.task, lost.task, "a task is not taken from a worker that beats");
        let late = worker(server, "silent").await;
        assert_eq!(late.complete(&lost).await.expect("an answer"), Completion::Fenced);
        for delivery in [taken, kept] {
            assert_eq!(alive.complete(&delivery).await.expect("an answer"), Completion::Counted);
        }
        assert_eq!(late.complete(&lost).await.expect("an answer"), Completion::Duplicate);
        assert_eq!(queue.wait(1, LONG).await.expect("an outcome"), Some(Outcome::Done));
    });
}

/// A worker that fails at every task, beside one that succeeds: every task is counted, and the failing one never gets
/// the same task again.
#[test]
fn a_worker_that_always_fails_loses_no_task_and_gets_none_twice() {
    const TASKS: u32 = 40;
    run(async |server, queue| {
        queue.post(1, TASKS, &tasks(1, TASKS)).await.expect("posted");
        let bad = worker(server, "bad").await;
        let good = worker(server, "good").await;
        let mut seen = Vec::new();
        // The first ten tasks go to it, so that it fails however fast the other worker is.
        for _ in 0..10 {
            seen.push(fail(&bad, "this worker lacks something").await.index);
        }
        let counted = async {
            let mut counted = 0;
            while counted < TASKS {
                counted += u32::from(complete(&good, &next(&good).await).await == Completion::Counted);
            }
        };
        let failing = async {
            while queue.wait(1, Duration::from_millis(1)).await.expect("an answer").is_none() {
                for delivery in bad.next(1, BEAT).await.expect("an answer") {
                    bad.release(&delivery, "this worker lacks something").await.expect("released");
                    seen.push(delivery.task.index);
                }
            }
        };
        tokio::join!(counted, failing);
        assert_eq!(outcome(&queue).await, Some(Outcome::Done));
        assert_eq!(queue.counted(1).await.expect("counted").count, u64::from(TASKS));
        assert_eq!(queue.dead_letters().await.expect("letters"), []);
        let times = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), times, "it never got a task twice");
    });
}

/// A worker alone cannot bury a task: one that it fails at waits for the host.
#[test]
fn a_task_that_the_only_worker_fails_at_waits_for_the_host() {
    run(async |server, queue| {
        queue.post(1, 2, &tasks(1, 2)).await.expect("posted");
        let bad = worker(server, "bad").await;
        for _ in 0..2 {
            fail(&bad, "this worker lacks something").await;
        }
        gets_nothing(&bad).await;
        assert_eq!(queue.dead_letters().await.expect("letters"), []);
        let host = host(server).await;
        for _ in 0..2 {
            assert_eq!(complete(&host, &next(&host).await).await, Completion::Counted);
        }
        assert_eq!(outcome(&queue).await, Some(Outcome::Done));
    });
}

/// The host tries a task that all workers failed at, and only the host's failure makes it a dead letter.
#[test]
fn only_the_host_makes_dead_letters_with_its_reason() {
    run(async |server, queue| {
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted");
        for name in ["a", "b", "c"] {
            fail(&worker(server, name).await, "the worker's reason").await;
        }
        let fourth = worker(server, "d").await;
        gets_nothing(&fourth).await;
        assert_eq!(queue.dead_letters().await.expect("letters"), []);
        let host = host(server).await;
        for _ in 0..2 {
            assert_eq!(queue.wait(1, Duration::from_millis(1)).await.expect("an answer"), None);
            fail(&host, "the host's reason").await;
        }
        let dead = Outcome::Dead { index: 0, reason: "the host's reason".into() };
        assert_eq!(outcome(&queue).await, Some(dead));
        for consumer in [&fourth, &host] {
            gets_nothing(consumer).await;
        }
        let letters = queue.dead_letters().await.expect("letters");
        assert_eq!((letters.len(), &letters[0].task), (1, &tasks(1, 1)[0]));
        assert_eq!(letters[0].reason, "the host's reason");
        assert!(queue.redrive(&letters[0]).await.expect("an answer"));
        assert!(!queue.redrive(&letters[0]).await.expect("an answer"), "it is not a dead letter any more");
        // Earlier failures do not count any more: a worker may try it first.
        assert_eq!(complete(&fourth, &next(&fourth).await).await, Completion::Counted);
        assert_eq!(outcome(&queue).await, Some(Outcome::Done));
    });
}

/// A task that the host fails at is not dead while a live worker has not tried it, however long that worker is busy.
#[test]
fn the_host_leaves_tasks_that_it_fails_at_to_workers() {
    run(async |server, queue| {
        queue.post(1, 2, &tasks(1, 2)).await.expect("posted");
        let worker = join(server, "a", Role::Worker, PATIENT).await;
        let host = join(server, "host", Role::Host, PATIENT).await;
        let busy_with = next(&worker).await;
        let failed = fail(&host, "not enough memory").await;
        gets_nothing(&host).await;
        assert_eq!(complete(&worker, &busy_with).await, Completion::Counted);
        assert_eq!(fail(&worker, "not enough memory either").await, failed);
        // No worker is left, so the host tries once more.
        assert_eq!(complete(&host, &next(&host).await).await, Completion::Counted);
        assert_eq!(outcome(&queue).await, Some(Outcome::Done));
    });
}

/// However often the same workers stall, each counts once.
#[test]
fn repeated_stalls_of_a_worker_count_once() {
    run(async |server, queue| {
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted");
        let mut a = worker(server, "a").await;
        let mut b = worker(server, "b").await;
        for _ in 0..3 {
            a = stall(server, a, "a").await;
            b = stall(server, b, "b").await;
        }
        assert_eq!(queue.dead_letters().await.expect("letters"), []);
        // Two of three tries are used up, so it is not left to the host.
        assert_eq!(complete(&a, &next(&a).await).await, Completion::Counted);
        assert_eq!(outcome(&queue).await, Some(Outcome::Done));
    });
}

/// After three workers die over the same task, a fourth does not get it, and the host takes it.
#[test]
fn a_task_that_kills_its_workers_is_left_to_the_host() {
    run(async |server, queue| {
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted");
        for name in ["a", "b", "c"] {
            next(&worker(server, name).await).await;
        }
        let spared = worker(server, "spared").await;
        gets_nothing(&spared).await;
        assert_eq!(queue.dead_letters().await.expect("letters"), []);
        let host = host(server).await;
        assert_eq!(complete(&host, &next(&host).await).await, Completion::Counted);
        assert_eq!(outcome(&queue).await, Some(Outcome::Done));
    });
}

/// A failed task rests, longer after every failure but at most `rest_max`.
#[test]
fn a_failed_task_rests_before_the_next_try() {
    run(async |server, queue| {
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted");
        fail(&worker(server, "a").await, "it fails").await;
        let endless = Pace { rest_min: FOREVER, rest_max: FOREVER, ..PACE };
        gets_nothing(&join(server, "waiting", Role::Worker, endless).await).await;

        let rest_min = Duration::from_millis(60);
        let pace = Pace { rest_min, rest_max: 3 * rest_min, ..PACE };
        let mut failed: Option<Instant> = None;
        for (name, role, rest) in [("b", Role::Worker, 1), ("c", Role::Worker, 2), ("d", Role::Host, 3)] {
            let consumer = join(server, name, role, pace).await;
            let delivery = next(&consumer).await;
            if let Some(rested) = failed.map(|failed| failed.elapsed()) {
                // The server counts whole milliseconds.
                assert!(rested + Duration::from_millis(1) >= rest * rest_min, "{name} got it after {rested:?}");
            }
            failed = Some(Instant::now());
            consumer.release(&delivery, "it fails").await.expect("released");
        }
    });
}

/// A dead worker's task is found behind those of live workers.
#[test]
fn a_task_of_a_silent_worker_does_not_wait_for_older_ones() {
    run(async |server, queue| {
        queue.post(1, 31, &tasks(1, 31)).await.expect("posted");
        let alive = join(server, "alive", Role::Worker, Pace { beat: BEAT / 5, ..PACE }).await;
        assert_eq!(alive.next(30, LONG).await.expect("tasks").len(), 30);
        let silent = worker(server, "silent").await;
        let lost = next(&silent).await;
        drop(silent);
        let one = worker(server, "one").await;
        assert_eq!(next(&one).await.task, lost.task);
    });
}

/// If one of two dead tasks is posted again, the round still has the other one.
#[test]
fn a_round_is_dead_until_its_last_dead_letter_is_redriven() {
    run(async |server, queue| {
        queue.post(1, 2, &tasks(1, 2)).await.expect("posted");
        let host = host(server).await;
        while queue.dead_letters().await.expect("letters").len() < 2 {
            let task = fail(&host, "the host fails").await;
            assert!(task.index < 2);
        }
        let letters = queue.dead_letters().await.expect("letters");
        let Some(Outcome::Dead { index, .. }) = outcome(&queue).await else { panic!("two are dead") };
        let (first, second): (Vec<_>, Vec<_>) = letters.iter().partition(|letter| letter.task.index == index);
        assert!(queue.redrive(first[0]).await.expect("an answer"));
        let dead = Outcome::Dead { index: second[0].task.index, reason: "the host fails".into() };
        assert_eq!(outcome(&queue).await, Some(dead));
        assert!(queue.redrive(second[0]).await.expect("an answer"));
        for _ in 0..2 {
            assert_eq!(complete(&host, &next(&host).await).await, Completion::Counted);
        }
        assert_eq!(outcome(&queue).await, Some(Outcome::Done));
    });
}

/// A worker is slow, the host fails, and the task is buried; then the worker completes it, with its gradient in the
/// sum.
#[test]
fn a_success_that_comes_after_the_burial_counts_once() {
    run(async |server, queue| {
        queue.post(1, 2, &tasks(1, 2)).await.expect("posted");
        let slow = worker(server, "slow").await;
        let late = next(&slow).await;
        drop(slow);
        let host = host(server).await;
        let other = next(&host).await;
        assert_ne!(other.task, late.task);
        for _ in 0..2 {
            assert_eq!(fail(&host, "the host fails").await, late.task);
        }
        assert!(matches!(outcome(&queue).await, Some(Outcome::Dead { .. })));
        let slow = worker(server, "slow").await;
        assert_eq!(complete(&slow, &late).await, Completion::Counted);
        assert_eq!(complete(&slow, &late).await, Completion::Duplicate);
        assert_eq!(queue.dead_letters().await.expect("letters"), []);
        assert_eq!(queue.wait(1, Duration::from_millis(1)).await.expect("an answer"), None, "one task is left");
        assert_eq!(complete(&host, &other).await, Completion::Counted);
        assert_eq!(outcome(&queue).await, Some(Outcome::Done));
        let counted = queue.counted(1).await.expect("counted");
        assert_eq!((counted.tasks, counted.count), (2, 2));
    });
}

/// A task that is posted anew after a loss is another task: the old result may not be in the new sum.
#[test]
fn a_success_of_a_task_that_was_posted_anew_does_not_count() {
    run(async |server, queue| {
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted");
        let slow = worker(server, "slow").await;
        let host = host(server).await;
        let late = next(&slow).await;
        slow.discard(&late).await.expect("dropped");
        assert_eq!(complete(&slow, &late).await, Completion::Fenced);
        assert_eq!(queue.counted(1).await.expect("counted").count, 0, "a task without a result is not counted");
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted again");
        slow.leave().await.expect("left");
        for _ in 0..2 {
            fail(&host, "the host fails").await;
        }
        let slow = worker(server, "slow").await;
        assert_eq!(complete(&slow, &late).await, Completion::Fenced);
        assert!(matches!(outcome(&queue).await, Some(Outcome::Dead { .. })));
    });
}

#[test]
fn pruned_rounds_accept_no_results() {
    run(async |server, queue| {
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted");
        queue.put(Some(1), "batch", b"bytes").await.expect("kept");
        queue.put(None, "component", &[7; 5000]).await.expect("kept");
        let worker = worker(server, "a").await;
        let delivery = worker.next(1, LONG).await.expect("a task").remove(0);
        let store = skein_redis::open(&server.options(), scope(1)).await.expect("a store");
        store.state.prune_before(2).await.expect("pruned");
        assert_eq!(worker.complete(&delivery).await.expect("an answer"), Completion::Fenced);
        assert_eq!(queue.get("batch").await.expect("readable"), None);
        assert_eq!(queue.get("component").await.expect("readable"), Some(vec![7; 5000]));
        assert!(matches!(queue.wait(1, LONG).await, Err(StoreError::Incomplete { round: 1 })));
    });
}
