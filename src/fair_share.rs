//! A fair share of each thread for checks that need no signature, however many do.
//!
//! A thread serves many connections, and verifying a signature takes it 15 to 200 µs. Without this
//! module a burst of new tokens would be verified in one go while every other connection waits. So
//! after a stretch of such work the thread polls its other connections, and checks that need no
//! signature overtake those that do. The waiting checks are then resumed first come, first served,
//! as many at once as fit into a stretch.
//!
//! Polling costs a few system calls, which is a tenth of a DPoP check when stretches are short. So
//! a stretch grows while no check overtakes, and is short again after the first that does, and
//! after the thread was idle.

use keybound_core::{Turns, Waiting};
use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::Instant;

/// The shortest stretch: how long signatures may keep the thread from its connections.
const STRETCH: Duration = Duration::from_micros(100);

/// The longest stretch, when no check would overtake.
const LONGEST: Duration = Duration::from_micros(1200);

/// How many polls in a row must find nothing before the stretch doubles. With this figure, a
/// client that sends 500 checks a second keeps the stretch short.
const PATIENCE: u64 = 16;

/// How much of each [`GUEST_SPAN`] a proxy's thread spends on signatures: one or two of the costly
/// kinds. A thread that waits for events wakes up about as often when it is busy.
const GUEST_BUDGET: Duration = Duration::from_micros(300);

/// After this time a proxy's thread has its whole budget again.
const GUEST_SPAN: Duration = Duration::from_millis(1);

/// The state of one thread.
#[derive(Debug)]
struct FairShare {
    /// Time spent on signatures since the thread last polled its connections, in nanoseconds.
    spent: AtomicU64,
    /// Moving average of the time that one signature takes, in nanoseconds.
    usual: AtomicU64,
    /// The present stretch, in nanoseconds.
    stretch: AtomicU64,
    /// Checks that have overtaken waiting ones since the last poll.
    ahead: AtomicUsize,
    /// A [`Watch`] runs that resumes waiting checks.
    watched: AtomicBool,
    /// How many checks wait.
    waiting: AtomicUsize,
    /// One permit for each check that may resume. The semaphore is fair.
    passes: Semaphore,
}

thread_local! {
    static SHARE: OnceCell<Arc<FairShare>> = const { OnceCell::new() };
    static GUEST: Cell<Guest> = const { Cell::new(Guest { inside: false, since: None, spent: Duration::ZERO }) };
    /// When the present work started.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A single-threaded runtime that starts a new stretch whenever its thread was idle.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().on_thread_park(rest).build()
}

/// Starts a new stretch, since an idle thread has polled all its connections.
fn rest() {
    SHARE.with(|it| {
        if let Some(share) = it.get() {
            share.spent.store(0, Ordering::SeqCst);
            share.stretch.store(nanos(STRETCH), Ordering::SeqCst);
        }
    });
}

/// The share of costly work on the thread that asks.
#[derive(Clone, Copy, Debug)]
pub struct ThisThread;

impl Turns for ThisThread {
    fn turn(&self) -> Option<Waiting<'_, ()>> {
        let mut guest = GUEST.get();
        if guest.inside {
            let may_start = guest.has_time(Instant::now());
            GUEST.set(guest);
            return (!may_start).then(|| -> Waiting<'_, ()> { Box::pin(elsewhere()) });
        }
        let share = of_this_thread();
        share.is_busy().then(|| -> Waiting<'_, ()> { Box::pin(async move { share.wait().await }) })
    }

    fn work_begins(&self) {
        BEGAN.set(Some(Instant::now()));
    }

    fn work_ends(&self) {
        let Some(began) = BEGAN.take() else { return };
        let guest = GUEST.get();
        if guest.inside {
            GUEST.set(Guest { spent: guest.spent.saturating_add(began.elapsed()), ..guest });
        } else {
            of_this_thread().spend(began.elapsed());
        }
    }
}

/// What is left of the budget of a proxy's thread.
#[derive(Clone, Copy, Debug)]
struct Guest {
    /// Whether the thread runs our code now.
    inside: bool,
    /// When it last had its whole budget.
    since: Option<Instant>,
    /// What it has spent since.
    spent: Duration,
}

impl Guest {
    fn has_time(&mut self, now: Instant) -> bool {
        let begins_anew =
            self.since.is_none_or(|it| GUEST_SPAN <= now.saturating_duration_since(it));
        if begins_anew {
            (self.since, self.spent) = (Some(now), Duration::ZERO);
        }
        self.spent < GUEST_BUDGET
    }
}

/// Runs `work` on a thread of the proxy, which has a budget for signatures.
///
/// A future that is polled in `work` and needs more stays pending, and nothing wakes it there: it must
/// then be polled on a thread with a [`runtime`], where it takes its turn.
pub fn as_guest<T>(work: impl FnOnce() -> T) -> T {
    /// The thread is the proxy's again, even after a panic.
    struct Leaving;
    impl Drop for Leaving {
        fn drop(&mut self) {
            GUEST.set(Guest { inside: false, ..GUEST.get() });
        }
    }
    GUEST.set(Guest { inside: true, ..GUEST.get() });
    let _leaving = Leaving;
    work()
}

/// Waits for a thread of our own, and its turn there.
async fn elsewhere() {
    poll_fn(|_| if GUEST.get().inside { Poll::Pending } else { Poll::Ready(()) }).await;
    let share = of_this_thread();
    if share.is_busy() {
        share.wait().await;
    }
}

fn of_this_thread() -> Arc<FairShare> {
    SHARE.with(|it| Arc::clone(it.get_or_init(Arc::default)))
}

/// Counts a check that finished without waiting, and so overtook any that wait.
pub fn passed_waiting() {
    SHARE.with(|it| {
        if let Some(share) = it.get() {
            share.count_passed();
        }
    });
}

impl FairShare {
    /// Whether a new piece of work has to wait.
    fn is_busy(&self) -> bool {
        self.watched.load(Ordering::SeqCst) || self.is_over()
    }

    fn count_passed(&self) {
        if self.watched.load(Ordering::SeqCst) {
            self.ahead.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn spend(&self, span: Duration) {
        let nanos = nanos(span);
        self.spent.fetch_add(nanos, Ordering::SeqCst);
        let usual = self.usual.load(Ordering::SeqCst);
        let usual = usual.saturating_mul(7).saturating_add(nanos) / 8;
        self.usual.store(usual, Ordering::SeqCst);
    }

    fn is_over(&self) -> bool {
        self.stretch.load(Ordering::SeqCst) <= self.spent.load(Ordering::SeqCst)
    }

    async fn wait(self: &Arc<Self>) {
        // Without a runtime nothing could resume it, so it does not wait.
        let Ok(runtime) = Handle::try_current() else { return };
        let place = Place::of(self);
        if !self.watched.swap(true, Ordering::SeqCst) {
            // A task of its own, since the future of a waiting check may be dropped.
            let watch = Watch { share: Arc::clone(self), over: false };
            runtime.spawn(watch.run());
        }
        // The semaphore is never closed. If it were, work would go on without waiting.
        if let Ok(pass) = self.passes.acquire().await {
            pass.forget();
        }
        drop(place);
    }

    /// Whether no check waits any longer, so that the watch can end.
    fn is_done(&self) -> bool {
        self.spent.store(0, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) != 0 {
            return false;
        }
        self.watched.store(false, Ordering::SeqCst);
        let nobody = self.waiting.load(Ordering::SeqCst) == 0;
        nobody || self.watched.swap(true, Ordering::SeqCst)
    }

    /// Resumes as many waiting checks as fit into a stretch.
    fn resume(&self, in_vain: &mut u64) {
        let stretch = self.adapt(in_vain);
        // Checks that were dropped while they waited may have left permits.
        self.passes.forget_permits(self.passes.available_permits());
        let fit = stretch.checked_div(self.usual.load(Ordering::SeqCst));
        let fit = usize::try_from(fit.unwrap_or(1).max(1)).unwrap_or(1);
        self.passes.add_permits(fit.min(self.waiting.load(Ordering::SeqCst)));
    }

    /// The next stretch. `in_vain` counts the polls after which no check overtook.
    fn adapt(&self, in_vain: &mut u64) -> u64 {
        let nobody = self.ahead.swap(0, Ordering::SeqCst) == 0;
        let mut stretch = self.stretch.load(Ordering::SeqCst);
        *in_vain = if nobody { in_vain.saturating_add(1) } else { 0 };
        if *in_vain == 0 {
            stretch = nanos(STRETCH);
        } else if PATIENCE <= *in_vain {
            *in_vain = 0;
            stretch = stretch.saturating_mul(2).min(nanos(LONGEST));
        }
        self.stretch.store(stretch, Ordering::SeqCst);
        stretch
    }
}

impl Default for FairShare {
    fn default() -> Self {
        Self {
            spent: AtomicU64::new(0),
            usual: AtomicU64::new(nanos(STRETCH)),
            stretch: AtomicU64::new(nanos(STRETCH)),
            ahead: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            passes: Semaphore::new(0),
        }
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// The task that resumes waiting checks.
struct Watch {
    share: Arc<FairShare>,
    over: bool,
}

impl Watch {
    /// Resumes waiting checks, a stretch at a time, until none is left.
    async fn run(mut self) {
        let mut in_vain = 0;
        loop {
            // The first returns once all other tasks and the connections have been polled, the
            // second once what was read from them has been answered.
            yield_now().await;
            yield_now().await;
            if self.share.is_done() {
                self.over = true;
                return;
            }
            self.share.resume(&mut in_vain);
        }
    }
}

impl Drop for Watch {
    /// A runtime that shuts down drops its tasks. Checks that wait on another runtime are resumed,
    /// and later ones start another watch.
    fn drop(&mut self) {
        if !self.over {
            self.share.watched.store(false, Ordering::SeqCst);
            self.share.passes.add_permits(self.share.waiting.load(Ordering::SeqCst));
        }
    }
}

/// A place among the waiting checks, given back when dropped.
struct Place<'t>(&'t AtomicUsize);

impl<'t> Place<'t> {
    fn of(share: &'t FairShare) -> Self {
        share.waiting.fetch_add(1, Ordering::SeqCst);
        Self(&share.waiting)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The result of `work`, after waiting for this thread's time.
#[cfg(test)]
async fn costly<T>(work: impl FnOnce() -> T) -> T {
    if let Some(turn) = ThisThread.turn() {
        turn.await;
    }
    ThisThread.work_begins();
    let done = work();
    ThisThread.work_ends();
    done
}

#[cfg(test)]
impl FairShare {
    async fn take<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        if self.is_busy() {
            self.wait().await;
        }
        let start = Instant::now();
        let done = work();
        self.spend(start.elapsed());
        done
    }
}

/// The result of `work` while another check waits on this thread, and how many overtook it.
#[cfg(test)]
pub async fn counting_passed<T>(work: impl Future<Output = T>) -> (T, usize) {
    let share = SHARE.with(|it| Arc::clone(it.get_or_init(Arc::default)));
    share.watched.store(true, Ordering::SeqCst);
    let done = work.await;
    share.watched.store(false, Ordering::SeqCst);
    (done, share.ahead.swap(0, Ordering::SeqCst))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use std::sync::Mutex;
    use tokio::task::JoinSet;

    /// Work that takes so long, by a clock that stands still otherwise.
    async fn lasting(
        share: &Arc<FairShare>,
        span: Duration,
        name: usize,
        done: &Mutex<Vec<usize>>,
    ) {
        share.take(|| done.lock().unwrap().push(name)).await;
        share.spend(span);
    }

    const OTHER: usize = 100;

    /// In which order `count` pieces of work that take so long are done, and something else that
    /// comes in behind them.
    async fn order(share: &Arc<FairShare>, count: usize, span: Duration) -> Vec<usize> {
        let done = Mutex::default();
        let work = join_all((0..count).map(|it| lasting(share, span, it, &done)));
        tokio::join!(work, async { done.lock().unwrap().push(OTHER) });
        done.into_inner().unwrap()
    }

    /// Work on a proxy's thread that takes so long; whether it was done there.
    fn as_guest_lasting(span: Duration) -> bool {
        let done = as_guest(|| costly(|| 7).now_or_never()).is_some();
        let guest = GUEST.get();
        GUEST.set(Guest { spent: guest.spent.saturating_add(span), ..guest });
        done
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxys_thread_has_a_budget_and_what_exceeds_it_goes_on_elsewhere() {
        let short = GUEST_BUDGET.saturating_sub(Duration::from_nanos(1));
        assert!(as_guest_lasting(short), "there is something left");
        assert!(as_guest_lasting(Duration::from_nanos(1)));
        assert!(!as_guest_lasting(Duration::ZERO), "all of it is spent");
        let mut later = Box::pin(costly(|| 7));
        assert_eq!(as_guest(|| later.as_mut().now_or_never()), None);
        assert_eq!(later.now_or_never(), Some(7), "this thread is our own");
        tokio::time::advance(GUEST_SPAN.saturating_sub(Duration::from_nanos(1))).await;
        assert!(!as_guest_lasting(Duration::ZERO));
        tokio::time::advance(Duration::from_nanos(1)).await;
        assert!(as_guest_lasting(GUEST_BUDGET));
        assert!(!as_guest_lasting(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_leaves_the_thread_as_it_was() {
        let panics = std::panic::catch_unwind(|| as_guest(|| panic!("as it should")));
        assert!(panics.is_err() && !GUEST.get().inside);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_alone_is_done_at_once() {
        assert_eq!(costly(|| 7).now_or_never(), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_stretch_of_work_others_get_in_between() {
        let short = STRETCH.saturating_sub(Duration::from_nanos(1));
        for (span, expected) in [(STRETCH, [0, OTHER, 1]), (short, [0, 1, OTHER])] {
            assert_eq!(order(&Arc::default(), 2, span).await, expected);
        }
    }

    #[test]
    fn a_thread_that_rests_begins_another_stretch() {
        runtime().unwrap().block_on(async {
            tokio::time::pause();
            let spend = || SHARE.with(|it| it.get().unwrap().spend(STRETCH));
            costly(spend).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(costly(|| 7).now_or_never(), Some(7));

            SHARE.with(|it| it.get().unwrap().stretch.store(nanos(LONGEST), Ordering::SeqCst));
            tokio::time::sleep(Duration::from_millis(1)).await;
            costly(spend).await;
            yield_now().await;
            assert_eq!(costly(|| 7).now_or_never(), None, "others had their turn, and that is all");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_go_on_in_order() {
        let share = Arc::default();
        let expected: Vec<_> = [0, OTHER].into_iter().chain(1..50).collect();
        assert_eq!(order(&share, 50, STRETCH).await, expected);
        while share.watched.load(Ordering::SeqCst) {
            yield_now().await;
        }
        assert_eq!(share.take(|| 7).now_or_never(), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_go_on_at_once_as_fit_into_a_stretch() {
        let share: Arc<FairShare> = Arc::default();
        share.spent.store(u64::MAX / 2, Ordering::SeqCst);
        assert_eq!(batches(&share, 7).await, [0, 3, 6, 7]);
    }

    /// How many of `count` who wait are done after each look. Of their work, three pieces fit into
    /// the first stretch.
    async fn batches(share: &Arc<FairShare>, count: usize) -> Vec<usize> {
        share.usual.store(nanos(STRETCH) / 3, Ordering::SeqCst);
        let done = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (share, done) = (Arc::clone(share), Arc::clone(&done));
            tasks.spawn(async move {
                share.take(|| done.fetch_add(1, Ordering::SeqCst)).await;
                share.usual.store(nanos(STRETCH) / 3, Ordering::SeqCst);
            });
        }
        let mut seen = vec![];
        for _ in 0..12 {
            yield_now().await;
            seen.push(done.load(Ordering::SeqCst));
        }
        seen.dedup();
        tasks.join_all().await;
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn a_stretch_that_has_grown_has_room_for_more() {
        let share: Arc<FairShare> = Arc::default();
        share.stretch.store(nanos(STRETCH * 2), Ordering::SeqCst);
        assert_eq!(order(&share, 3, STRETCH).await, [0, 1, OTHER, 2]);

        let share: Arc<FairShare> = Arc::default();
        share.spent.store(u64::MAX / 2, Ordering::SeqCst);
        share.stretch.store(nanos(STRETCH * 2), Ordering::SeqCst);
        assert_eq!(batches(&share, 7).await, [0, 6, 7]);
    }

    #[test]
    fn a_check_that_is_answered_while_others_wait_has_overtaken_them() {
        let share = FairShare::default();
        share.count_passed();
        assert_eq!(share.ahead.load(Ordering::SeqCst), 0);
        share.watched.store(true, Ordering::SeqCst);
        share.count_passed();
        assert_eq!(share.ahead.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn stretches_grow_while_nobody_goes_ahead() {
        let share = FairShare::default();
        let mut in_vain = 0;
        let mut look = |ahead| {
            share.ahead.store(ahead, Ordering::SeqCst);
            Duration::from_nanos(share.adapt(&mut in_vain))
        };
        for factor in [1, 2, 4, 8] {
            for _ in 1..PATIENCE {
                assert_eq!(look(0), STRETCH * factor);
            }
            assert_eq!(look(0), (STRETCH * factor * 2).min(LONGEST));
        }
        assert_eq!(look(1), STRETCH, "one went ahead");
        for _ in 1..PATIENCE {
            assert_eq!(look(0), STRETCH);
        }
        assert_eq!(look(1), STRETCH, "just in time");
        assert_eq!(look(0), STRETCH);
    }

    #[test]
    fn without_a_runtime_work_is_done_at_once() {
        let share: Arc<FairShare> = Arc::default();
        share.spent.store(u64::MAX / 2, Ordering::SeqCst);
        for expected in 0..4 {
            assert_eq!(share.take(|| expected).now_or_never(), Some(expected));
        }
        // And the thread is as good as new for a runtime that comes to it.
        let later = runtime().unwrap().block_on(async { share.take(|| 7).await });
        assert_eq!(later, 7);
    }

    #[test]
    fn a_runtime_that_ends_leaves_nobody_waiting() {
        let share: Arc<FairShare> = Arc::default();
        share.spent.store(u64::MAX / 2, Ordering::SeqCst);
        let first = runtime().unwrap();
        let mut early = Box::pin(share.take(|| 1));
        let mut late = Box::pin(share.take(|| 2));
        first.block_on(async {
            assert_eq!(early.as_mut().now_or_never(), None, "it has somebody look after it");
        });
        // The one who looks ends with the runtime, and others wait still, or come yet.
        let second = runtime().unwrap();
        second.block_on(async { assert_eq!(late.as_mut().now_or_never(), None) });
        drop(first);
        let all = async { tokio::join!(early, late, share.take(|| 3)) };
        let done = second.block_on(async { tokio::time::timeout(LONG, all).await });
        assert_eq!(done, Ok((1, 2, 3)));
    }

    /// Nothing here takes so long; a test that fails should end.
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_makes_way() {
        let share: Arc<FairShare> = Arc::default();
        share.spent.store(u64::MAX / 2, Ordering::SeqCst);
        assert_eq!(share.take(|| 1).now_or_never(), None);
        assert_eq!(share.waiting.load(Ordering::SeqCst), 0);
        assert_eq!(share.take(|| 2).await, 2);
        while share.watched.load(Ordering::SeqCst) {
            yield_now().await;
        }
        assert_eq!(share.take(|| 3).now_or_never(), Some(3));
    }
}
