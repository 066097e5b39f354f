//! Knows how costly work takes its turn, so that a flood of it holds nobody up.
//!
//! A thread serves many connections, and a signature costs it 15 to 200 µs. A burst of new tokens
//! would be verified in one go while every other connection waits. So after a stretch of such work
//! the thread looks what else has come in, and what needs no signature goes ahead. The checks that
//! wait go on in the order in which they came, as many at once as fit into a stretch.
//!
//! A look costs some system calls: a tenth of a DPoP check, with short stretches. So they grow
//! while nothing comes that would go ahead, and are short again with the first that does, and after
//! a rest.

use std::cell::{Cell, OnceCell};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::Instant;

/// For so long costly work may go on before the thread looks after its connections, when others
/// wait for it.
const STRETCH: Duration = Duration::from_micros(100);

/// For so long when nobody does.
const LONGEST: Duration = Duration::from_micros(1200);

/// So many looks that find nobody let stretches grow. Whoever comes 500 times a second is found.
const PATIENCE: u64 = 16;

/// The turns on one thread.
#[derive(Debug)]
struct Turns {
    /// How long costly work has gone on since the thread looked up, in nanoseconds.
    spent: AtomicU64,
    /// How long one piece of it takes, about, in nanoseconds.
    usual: AtomicU64,
    /// How long it may go on at present, in nanoseconds.
    stretch: AtomicU64,
    /// How many checks have gone ahead of those who wait since the thread looked up.
    ahead: AtomicUsize,
    /// Somebody sees to it that the thread looks up, and lets those who wait go on.
    watched: AtomicBool,
    /// How many wait.
    waiting: AtomicUsize,
    /// One permit for each who may go on. It is fair: first come, first served.
    passes: Semaphore,
}

thread_local! {
    static TURNS: OnceCell<Arc<Turns>> = const { OnceCell::new() };
    /// When the work began that is under way.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A runtime of one thread, whose costly work takes turns.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().on_thread_park(rest).build()
}

/// A thread that has nothing to do looks after its connections, and is there for whoever comes.
fn rest() {
    TURNS.with(|it| {
        if let Some(turns) = it.get() {
            turns.spent.store(0, Ordering::SeqCst);
            turns.stretch.store(nanos(STRETCH), Ordering::SeqCst);
        }
    });
}

/// Waits until it is the turn of costly work on this thread; none: it is now.
pub fn comes() -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
    let turns = of_this_thread();
    turns.is_taken().then(|| -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move { turns.wait().await })
    })
}

/// Costly work begins on this thread. It must not be long in itself, and must end before the thread
/// does anything else.
pub fn begins() {
    BEGAN.set(Some(Instant::now()));
}

/// Costly work has ended on this thread.
pub fn ends() {
    if let Some(began) = BEGAN.take() {
        of_this_thread().spend(began.elapsed());
    }
}

fn of_this_thread() -> Arc<Turns> {
    TURNS.with(|it| Arc::clone(it.get_or_init(Arc::default)))
}

/// A check on this thread was over as soon as it came: whoever has costly work would have waited
/// for others who do.
pub fn went_ahead() {
    TURNS.with(|it| {
        if let Some(turns) = it.get() {
            turns.let_ahead();
        }
    });
}

impl Turns {
    /// Whether others come first.
    fn is_taken(&self) -> bool {
        self.watched.load(Ordering::SeqCst) || self.is_over()
    }

    fn let_ahead(&self) {
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
        // Without a runtime there is nobody who could let it go on: it goes at once.
        let Ok(runtime) = Handle::try_current() else { return };
        let place = Place::of(self);
        if !self.watched.swap(true, Ordering::SeqCst) {
            // Its own task, since a check that waits may be given up.
            let watch = Watch { turns: Arc::clone(self), over: false };
            runtime.spawn(watch.run());
        }
        // It is never closed. If it were, work would go on without turns.
        if let Ok(pass) = self.passes.acquire().await {
            pass.forget();
        }
        drop(place);
    }

    /// Whether nobody waits any longer, so that nobody need watch.
    fn is_done(&self) -> bool {
        self.spent.store(0, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) != 0 {
            return false;
        }
        self.watched.store(false, Ordering::SeqCst);
        let nobody = self.waiting.load(Ordering::SeqCst) == 0;
        nobody || self.watched.swap(true, Ordering::SeqCst)
    }

    /// Lets as many go on as fit into a stretch.
    fn let_on(&self, in_vain: &mut u64) {
        let stretch = self.adapt(in_vain);
        // Of those who gave up, passes may be left.
        self.passes.forget_permits(self.passes.available_permits());
        let fit = stretch.checked_div(self.usual.load(Ordering::SeqCst));
        let fit = usize::try_from(fit.unwrap_or(1).max(1)).unwrap_or(1);
        self.passes.add_permits(fit.min(self.waiting.load(Ordering::SeqCst)));
    }

    /// The next stretch, after a look at who came; `in_vain` counts the looks that found nobody.
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

impl Default for Turns {
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

/// The task that lets those who wait go on.
struct Watch {
    turns: Arc<Turns>,
    over: bool,
}

impl Watch {
    /// Lets those who wait go on, a stretch at a time, until nobody does.
    async fn run(mut self) {
        let mut in_vain = 0;
        loop {
            // Comes back when all others had their turn and the connections were looked at, and
            // then once more, when what they brought has been answered.
            yield_now().await;
            yield_now().await;
            if self.turns.is_done() {
                self.over = true;
                return;
            }
            self.turns.let_on(&mut in_vain);
        }
    }
}

impl Drop for Watch {
    /// A runtime that ends drops its tasks. Whoever waits elsewhere goes on, and whoever comes
    /// later starts another watch.
    fn drop(&mut self) {
        if !self.over {
            self.turns.watched.store(false, Ordering::SeqCst);
            self.turns.passes.add_permits(self.turns.waiting.load(Ordering::SeqCst));
        }
    }
}

/// A place among those who wait. Given back when it is dropped.
struct Place<'t>(&'t AtomicUsize);

impl<'t> Place<'t> {
    fn of(turns: &'t Turns) -> Self {
        turns.waiting.fetch_add(1, Ordering::SeqCst);
        Self(&turns.waiting)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What `work` gives, once it is its turn on this thread.
#[cfg(test)]
async fn costly<T>(work: impl FnOnce() -> T) -> T {
    if let Some(turn) = comes() {
        turn.await;
    }
    begins();
    let done = work();
    ends();
    done
}

#[cfg(test)]
impl Turns {
    async fn take<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        if self.is_taken() {
            self.wait().await;
        }
        let start = Instant::now();
        let done = work();
        self.spend(start.elapsed());
        done
    }
}

/// What `work` gives while somebody waits on this thread, and how many went ahead meanwhile.
#[cfg(test)]
pub async fn counting_ahead<T>(work: impl Future<Output = T>) -> (T, usize) {
    let turns = TURNS.with(|it| Arc::clone(it.get_or_init(Arc::default)));
    turns.watched.store(true, Ordering::SeqCst);
    let done = work.await;
    turns.watched.store(false, Ordering::SeqCst);
    (done, turns.ahead.swap(0, Ordering::SeqCst))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use std::sync::Mutex;
    use tokio::task::JoinSet;

    /// Work that takes so long, by a clock that stands still otherwise.
    async fn lasting(turns: &Arc<Turns>, span: Duration, name: usize, done: &Mutex<Vec<usize>>) {
        turns.take(|| done.lock().unwrap().push(name)).await;
        turns.spend(span);
    }

    const OTHER: usize = 100;

    /// In which order `count` pieces of work that take so long are done, and something else that
    /// comes in behind them.
    async fn order(turns: &Arc<Turns>, count: usize, span: Duration) -> Vec<usize> {
        let done = Mutex::default();
        let work = join_all((0..count).map(|it| lasting(turns, span, it, &done)));
        tokio::join!(work, async { done.lock().unwrap().push(OTHER) });
        done.into_inner().unwrap()
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
            let spend = || TURNS.with(|it| it.get().unwrap().spend(STRETCH));
            costly(spend).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(costly(|| 7).now_or_never(), Some(7));

            TURNS.with(|it| it.get().unwrap().stretch.store(nanos(LONGEST), Ordering::SeqCst));
            tokio::time::sleep(Duration::from_millis(1)).await;
            costly(spend).await;
            yield_now().await;
            assert_eq!(costly(|| 7).now_or_never(), None, "others had their turn, and that is all");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_go_on_in_order() {
        let turns = Arc::default();
        let expected: Vec<_> = [0, OTHER].into_iter().chain(1..50).collect();
        assert_eq!(order(&turns, 50, STRETCH).await, expected);
        while turns.watched.load(Ordering::SeqCst) {
            yield_now().await;
        }
        assert_eq!(turns.take(|| 7).now_or_never(), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_go_on_at_once_as_fit_into_a_stretch() {
        let turns: Arc<Turns> = Arc::default();
        turns.spent.store(u64::MAX / 2, Ordering::SeqCst);
        assert_eq!(batches(&turns, 7).await, [0, 3, 6, 7]);
    }

    /// How many of `count` who wait are done after each look. Of their work, three pieces fit into
    /// the first stretch.
    async fn batches(turns: &Arc<Turns>, count: usize) -> Vec<usize> {
        turns.usual.store(nanos(STRETCH) / 3, Ordering::SeqCst);
        let done = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (turns, done) = (Arc::clone(turns), Arc::clone(&done));
            tasks.spawn(async move {
                turns.take(|| done.fetch_add(1, Ordering::SeqCst)).await;
                turns.usual.store(nanos(STRETCH) / 3, Ordering::SeqCst);
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
        let turns: Arc<Turns> = Arc::default();
        turns.stretch.store(nanos(STRETCH * 2), Ordering::SeqCst);
        assert_eq!(order(&turns, 3, STRETCH).await, [0, 1, OTHER, 2]);

        let turns: Arc<Turns> = Arc::default();
        turns.spent.store(u64::MAX / 2, Ordering::SeqCst);
        turns.stretch.store(nanos(STRETCH * 2), Ordering::SeqCst);
        assert_eq!(batches(&turns, 7).await, [0, 6, 7]);
    }

    #[test]
    fn who_is_answered_while_others_wait_went_ahead() {
        let turns = Turns::default();
        turns.let_ahead();
        assert_eq!(turns.ahead.load(Ordering::SeqCst), 0);
        turns.watched.store(true, Ordering::SeqCst);
        turns.let_ahead();
        assert_eq!(turns.ahead.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn stretches_grow_while_nobody_goes_ahead() {
        let turns = Turns::default();
        let mut in_vain = 0;
        let mut look = |ahead| {
            turns.ahead.store(ahead, Ordering::SeqCst);
            Duration::from_nanos(turns.adapt(&mut in_vain))
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
        let turns: Arc<Turns> = Arc::default();
        turns.spent.store(u64::MAX / 2, Ordering::SeqCst);
        for expected in 0..4 {
            assert_eq!(turns.take(|| expected).now_or_never(), Some(expected));
        }
        // And the thread is as good as new for a runtime that comes to it.
        let later = runtime().unwrap().block_on(async { turns.take(|| 7).await });
        assert_eq!(later, 7);
    }

    #[test]
    fn a_runtime_that_ends_leaves_nobody_waiting() {
        let turns: Arc<Turns> = Arc::default();
        turns.spent.store(u64::MAX / 2, Ordering::SeqCst);
        let first = runtime().unwrap();
        let mut early = Box::pin(turns.take(|| 1));
        let mut late = Box::pin(turns.take(|| 2));
        first.block_on(async {
            assert_eq!(early.as_mut().now_or_never(), None, "it has somebody look after it");
        });
        // The one who looks ends with the runtime, and others wait still, or come yet.
        let second = runtime().unwrap();
        second.block_on(async { assert_eq!(late.as_mut().now_or_never(), None) });
        drop(first);
        let all = async { tokio::join!(early, late, turns.take(|| 3)) };
        let done = second.block_on(async { tokio::time::timeout(LONG, all).await });
        assert_eq!(done, Ok((1, 2, 3)));
    }

    /// Nothing here takes so long; a test that fails should end.
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_makes_way() {
        let turns: Arc<Turns> = Arc::default();
        turns.spent.store(u64::MAX / 2, Ordering::SeqCst);
        assert_eq!(turns.take(|| 1).now_or_never(), None);
        assert_eq!(turns.waiting.load(Ordering::SeqCst), 0);
        assert_eq!(turns.take(|| 2).await, 2);
        while turns.watched.load(Ordering::SeqCst) {
            yield_now().await;
        }
        assert_eq!(turns.take(|| 3).now_or_never(), Some(3));
    }
}
