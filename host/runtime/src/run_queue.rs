//! Fair shares of the processors: which calls run guest code now, and which wait for their turn.
//!
//! As many calls as there are processors have a turn. A turn ends when the call waits for something, or yields at the
//! next tick. A call is served first until it has used [`FIRST_SHARE`]. Then it goes to the background, which gets the
//! turns that nobody is served first in, and at least every [`BACKGROUND_EVERY`]th. A call that is served first and
//! finds no turn ends the tick at once, unless another has done so within [`TICK_MIN`]: then it waits for the next, as those
//! in the background do. So a short call waits for about a tick at most, however many long ones run, and long ones never
//! starve.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use wasmtime::{Engine, EngineWeak};

use crate::clock::CpuClock;

/// Processor time for which a call is served first.
const FIRST_SHARE: Duration = Duration::from_millis(20);
/// Of so many turns in a row, one is the background's if it waits for any.
const BACKGROUND_EVERY: u32 = 5;
/// Time between two ticks at least. A yield takes some 10 µs, so that they cost about one percent when calls arrive all
/// the time.
const TICK_MIN: Duration = Duration::from_millis(1);

/// Gives calls their turns. Cloning shares it.
#[derive(Clone)]
pub(crate) struct RunQueue(Arc<Queue>);

struct Queue {
    waiting: Mutex<Waiting>,
    /// What guests run on: their calls yield when its epoch advances.
    engines: Vec<EngineWeak>,
}

struct Waiting {
    /// Turns that no call has; none while a call waits.
    free: usize,
    first: VecDeque<oneshot::Sender<Turn>>,
    background: VecDeque<oneshot::Sender<Turn>>,
    /// Turns since the last one of the background.
    since_background: u32,
    /// When a call last advanced the tick.
    advanced: Option<Instant>,
}

/// The right to run until it is dropped, which passes it on.
struct Turn(Option<RunQueue>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(queue) = self.0.take() {
            queue.pass_on();
        }
    }
}

impl RunQueue {
    /// A queue for so many turns at a time, of calls of these engines.
    pub(crate) fn new<'a>(processors: usize, engines: impl IntoIterator<Item = &'a Engine>) -> RunQueue {
        let waiting = Waiting {
            free: processors,
            first: VecDeque::new(),
            background: VecDeque::new(),
            since_background: 0,
            advanced: None,
        };
        let engines = engines.into_iter().map(Engine::weak).collect();
        RunQueue(Arc::new(Queue { waiting: Mutex::new(waiting), engines }))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that can panic runs under the lock.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn, or where it will arrive.
    fn request(&self, is_first: bool) -> Result<Turn, oneshot::Receiver<Turn>> {
        let mut waiting = self.lock();
        if waiting.free > 0 {
            waiting.free -= 1;
            return Ok(Turn(Some(self.clone())));
        }
        let (sender, receiver) = oneshot::channel();
        let queue = if is_first { &mut waiting.first } else { &mut waiting.background };
        queue.push_back(sender);
        let advances = is_first && waiting.advances();
        drop(waiting);
        if advances {
            self.0.engines.iter().filter_map(EngineWeak::upgrade).for_each(|engine| engine.increment_epoch());
        }
        Err(receiver)
    }

    /// Passes a turn to the next call that still waits.
    fn pass_on(&self) {
        loop {
            let mut waiting = self.lock();
            let Some(next) = waiting.next() else {
                waiting.free += 1;
                return;
            };
            drop(waiting);
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // The call has ended.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

impl Waiting {
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let is_of_background = self.first.is_empty() || self.since_background + 1 >= BACKGROUND_EVERY;
        if is_of_background && let Some(next) = self.background.pop_front() {
            self.since_background = 0;
            return Some(next);
        }
        self.since_background = self.since_background.saturating_add(1);
        self.first.pop_front()
    }

    /// Whether a call may advance the tick now, which the caller then does.
    fn advances(&mut self) -> bool {
        let may = self.advanced.is_none_or(|advanced| advanced.elapsed() >= TICK_MIN);
        if may {
            self.advanced = Some(Instant::now());
        }
        may
    }
}

/// A call that runs in its turns only. Its output comes with its processor time counted by the clock.
pub(crate) struct InTurns<'a, F> {
    call: Pin<&'a mut F>,
    queue: &'a RunQueue,
    clock: &'a CpuClock,
    state: CallState,
    /// How long it has waited for turns that it got.
    waited: Duration,
}

enum CallState {
    /// It waits for something else than a turn, or has yielded.
    Away,
    Queued(oneshot::Receiver<Turn>, Instant),
    Runs {
        _turn: Turn,
    },
}

impl<'a, F> InTurns<'a, F> {
    pub(crate) fn new(call: Pin<&'a mut F>, queue: &'a RunQueue, clock: &'a CpuClock) -> InTurns<'a, F> {
        InTurns { call, queue, clock, state: CallState::Away, waited: Duration::ZERO }
    }

    /// Takes a turn, or a place in the queue.
    fn enter(&mut self) {
        self.state = match self.queue.request(self.clock.used() < FIRST_SHARE) {
            Ok(turn) => CallState::Runs { _turn: turn },
            Err(coming) => CallState::Queued(coming, Instant::now()),
        };
    }

    /// How long the call has waited for turns.
    pub(crate) fn waited(&self) -> Duration {
        match &self.state {
            CallState::Queued(_, since) => self.waited + since.elapsed(),
            CallState::Away | CallState::Runs { .. } => self.waited,
        }
    }
}

impl<F: Future> Future for InTurns<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        loop {
            match &mut this.state {
                CallState::Away => this.enter(),
                CallState::Queued(coming, since) => {
                    let Poll::Ready(turn) = Pin::new(coming).poll(context) else { return Poll::Pending };
                    this.waited += since.elapsed();
                    let turn = turn.expect("a turn is dropped only after it was passed on");
                    this.state = CallState::Runs { _turn: turn };
                }
                CallState::Runs { .. } => {
                    let result = this.clock.count(|| this.call.as_mut().poll(context));
                    this.state = CallState::Away;
                    // A call that yielded stands in the queue at once. The executor polls it again only when it has
                    // nothing else to do, and others would take the turns until then.
                    if result.is_pending() && this.clock.take_yield() {
                        this.enter();
                        if let CallState::Queued(..) = this.state {
                            continue;
                        }
                    }
                    return result;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    impl fmt::Debug for Turn {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("Turn").finish_non_exhaustive()
        }
    }

    /// The classes of the calls that get the next turns; `None` once no call waits.
    fn served(queue: &RunQueue, calls: &mut Vec<(char, oneshot::Receiver<Turn>)>) -> Option<char> {
        queue.lock().free = 0;
        queue.pass_on();
        let index =
            calls.iter_mut().position(|(_, coming)| coming.try_recv().is_ok_and(|mut turn| turn.0.take().is_some()))?;
        Some(calls.remove(index).0)
    }

    #[test]
    fn calls_in_the_background_get_every_fifth_turn_and_all_that_are_left() {
        let queue = RunQueue::new(0, []);
        let mut calls: Vec<_> = "bbbfffffffff"
            .chars()
            .map(|class| (class, queue.request(class == 'f').expect_err("no turn is free")))
            .collect();
        let order: String = std::iter::from_fn(|| served(&queue, &mut calls)).collect();
        assert_eq!(order, "ffffbffffbfb");
    }

    /// Nothing else advances the epoch here, so without the queue the guest never ends.
    #[test]
    fn a_call_that_is_served_first_ends_the_tick() {
        let engine = Engine::new(wasmtime::Config::new().epoch_interruption(true)).expect("an engine");
        let bytes = wat::parse_str(r#"(module (func (export "spin") (loop (br 0))))"#).expect("a module");
        let module = wasmtime::Module::new(&engine, bytes).expect("a module");
        let mut store = wasmtime::Store::new(&engine, ());
        store.set_epoch_deadline(1);
        store.epoch_deadline_trap();
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).expect("it has no imports");
        let spin = instance.get_typed_func::<(), ()>(&mut store, "spin").expect("its only function");
        let queue = RunQueue::new(0, [&engine]);
        drop(queue.request(false).expect_err("no turn is free"));
        assert!(queue.lock().advanced.is_none(), "a call in the background waits for the tick");
        let _waiting = queue.request(true).expect_err("no turn is free");
        let error = spin.call(&mut store, ()).expect_err("its tick is over");
        assert_eq!(error.downcast_ref(), Some(&wasmtime::Trap::Interrupt));
        assert!(!queue.lock().advances(), "not twice in a row");
    }

    #[test]
    fn a_turn_of_a_call_that_ended_goes_to_the_next() {
        let queue = RunQueue::new(1, []);
        let turn = queue.request(true).expect("the only turn");
        drop(queue.request(true).expect_err("a call that ends while it waits"));
        let mut ended_later = queue.request(true).expect_err("it waits");
        let mut last = queue.request(true).expect_err("it waits");
        drop(turn);
        assert!(last.try_recv().is_err(), "the call before it has the turn");
        ended_later.close();
        drop(ended_later);
        drop(last.try_recv().expect("the turn that its owner never used"));
        assert_eq!(queue.lock().free, 1);
    }
}
