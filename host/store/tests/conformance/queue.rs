//! The work queue on a real database: tasks count once, whoever dies.

use std::time::Duration;

use skein_store::StoreError;
use skein_store::redis::queue::{Completion, Consumer, Outcome, Queue, Task};

use crate::scope;
use crate::server::{Kind, Server};

/// How often workers of these tests say that they are alive.
const BEAT: Duration = Duration::from_millis(40);
const LONG: Duration = Duration::from_secs(20);

fn run(test: impl AsyncFn(&Server, Queue)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let server = Kind::Plain.start(&[]);
        let queue = Queue::open(&server.options(), scope(1)).await.expect("a queue");
        test(&server, queue).await;
    });
}

async fn worker(server: &Server, name: &str) -> Consumer {
    Consumer::join(&server.options(), scope(1), name.to_owned(), BEAT).await.expect("a place at the queue")
}

fn tasks(round: u64, count: u32) -> Vec<Task> {
    (0..count).map(|index| Task { round, index, note: format!("task {index}") }).collect()
}

#[test]
fn tasks_are_done_once_and_the_last_one_wakes_the_host() {
    run(async |server, queue| {
        // Posted twice, as by a host that was started again.
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

/// A worker that says that it is alive keeps its tasks; one that is silent loses them and can not count them any more.
#[test]
fn tasks_of_a_silent_worker_go_to_another() {
    run(async |server, queue| {
        queue.post(1, 2, &tasks(1, 2)).await.expect("posted");
        let (silent, alive) = (worker(server, "silent").await, worker(server, "alive").await);
        let lost = silent.next(1, LONG).await.expect("a task").remove(0);
        let kept = alive.next(1, LONG).await.expect("a task").remove(0);
        assert_ne!(lost.task.index, kept.task.index);
        // Its place is gone, and with it its beat, as if it had been killed; the task is still in its name.
        drop(silent);
        let taken = loop {
            // The wait is what passes the time until the beats are missed.
            if let Some(taken) = alive.next(1, BEAT).await.expect("an answer").pop() {
                break taken;
            }
        };
        assert_eq!(taken.task, lost.task, "the own task is not taken, since its worker beats");
        let late = worker(server, "silent").await;
        assert_eq!(late.complete(&lost).await.expect("an answer"), Completion::Fenced);
        for delivery in [taken, kept] {
            assert_eq!(alive.complete(&delivery).await.expect("an answer"), Completion::Counted);
        }
        assert_eq!(late.complete(&lost).await.expect("an answer"), Completion::Duplicate);
        assert_eq!(queue.wait(1, LONG).await.expect("an outcome"), Some(Outcome::Done));
    });
}

#[test]
fn what_nobody_can_do_is_a_dead_letter_until_it_is_redriven() {
    run(async |server, queue| {
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted");
        let worker = worker(server, "a").await;
        for _ in 0..3 {
            let delivery = worker.next(1, LONG).await.expect("a task").remove(0);
            worker.release(&delivery, "it does not like this task").await.expect("given back");
        }
        let dead = Outcome::Dead { index: 0, reason: "it does not like this task".into() };
        assert_eq!(queue.wait(1, LONG).await.expect("an outcome"), Some(dead));
        assert_eq!(worker.next(1, Duration::from_millis(1)).await.expect("an answer"), []);
        let letters = queue.dead_letters().await.expect("letters");
        assert_eq!((letters.len(), &letters[0].task), (1, &tasks(1, 1)[0]));
        assert!(queue.redrive(&letters[0]).await.expect("an answer"));
        assert!(!queue.redrive(&letters[0]).await.expect("an answer"), "it is none any more");
        let delivery = worker.next(1, LONG).await.expect("a task").remove(0);
        assert_eq!(worker.complete(&delivery).await.expect("an answer"), Completion::Counted);
        assert_eq!(queue.wait(1, LONG).await.expect("an outcome"), Some(Outcome::Done));
    });
}

/// Three workers die over the same task: whatever is wrong with it, the fourth is spared.
#[test]
fn a_task_that_kills_its_workers_is_buried() {
    run(async |server, queue| {
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted");
        let spared = worker(server, "spared").await;
        for name in ["a", "b", "c"] {
            let victim = worker(server, name).await;
            while victim.next(1, BEAT).await.expect("an answer").is_empty() {}
        }
        while queue.dead_letters().await.expect("letters").is_empty() {
            assert_eq!(spared.next(1, BEAT).await.expect("an answer"), []);
        }
        let outcome = queue.wait(1, LONG).await.expect("an outcome");
        assert!(
            matches!(&outcome, Some(Outcome::Dead { index: 0, reason }) if reason.contains("silent")),
            "{outcome:?}"
        );
    });
}

#[test]
fn rounds_that_are_over_take_no_results() {
    run(async |server, queue| {
        queue.post(1, 1, &tasks(1, 1)).await.expect("posted");
        queue.put(Some(1), "batch", b"bytes").await.expect("kept");
        queue.put(None, "component", &[7; 5000]).await.expect("kept");
        let worker = worker(server, "a").await;
        let delivery = worker.next(1, LONG).await.expect("a task").remove(0);
        let store = skein_store::redis::open(&server.options(), scope(1)).await.expect("a store");
        store.forget(2).await.expect("forgets");
        assert_eq!(worker.complete(&delivery).await.expect("an answer"), Completion::Fenced);
        assert_eq!(queue.get("batch").await.expect("readable"), None);
        assert_eq!(queue.get("component").await.expect("readable"), Some(vec![7; 5000]));
        assert!(matches!(queue.wait(1, LONG).await, Err(StoreError::Incomplete { round: 1 })));
    });
}
