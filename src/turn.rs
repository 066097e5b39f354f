//! Knows how costly work takes its turn, so that a flood of it holds nobody up.
//!
//! A thread serves many connections, and a signature costs it 15 to 200 µs. A burst of new tokens
//! would be verified in one go while every other connection waits. So after each `STRETCH` of
//! such work the thread looks what else has come in, and what needs no signature goes ahead. The
//! checks that wait go on in the order in which they came, as many at once as fit into a stretch:
//! each look costs some system calls.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::Instant;

/// For so long costly work may go on before the thread looks after its connections.
const STRETCH: Duration = Duration::from_micros(200);

/// The turns on one thread.
#[derive(Debug)]
struct Turns {
    /// How long costly work has gone on since the thread looked up, in nanoseconds.
    spent: AtomicU64,
    /// How long one piece of it takes, about, in nanoseconds.
    usual: AtomicU64,
    /// Somebody sees to it that the thread looks up, and lets those who wait go on.
    watched: AtomicBool,
    /// How many wait.
    waiting: AtomicUsize,
    /// One permit for each who may go on. It is fair: first come, first served.
    passes: Semaphore,
}

thread_local! {
    static TURNS: OnceCell<Arc<Turns>> = const { OnceCell::new() };
}

/// What `work` gives, once it is its turn on this thread. It must not be long in itself.
pub async fn costly<T>(work: impl FnOnce() -> T) -> T {
    let turns = TURNS.with(|it| Arc::clone(it.get_or_init(Arc::default)));
    turns.take(work).await
}

impl Turns {
    async fn take<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        if self.watched.load(Ordering::SeqCst) || is_over(self.spent.load(Ordering::SeqCst)) {
            self.wait().await;
        }
        let start = Instant::now();
        let done = work();
        self.spend(start.elapsed());
        done
    }

    fn spend(&self, span: Duration) {
        let nanos = nanos(span);
        self.spent.fetch_add(nanos, Ordering::SeqCst);
        let usual = self.usual.load(Ordering::SeqCst);
        let usual = usual.saturating_mul(7).saturating_add(nanos) / 8;
        self.usual.store(usual, Ordering::SeqCst);
    }

    async fn wait(self: &Arc<Self>) {
        let place = Place::of(self);
        if !self.watched.swap(true, Ordering::SeqCst) {
            // Its own task, since a check that waits may be given up.
            let Ok(runtime) = Handle::try_current() else { return };
            runtime.spawn(Arc::clone(self).watch());
        }
        // It is never closed. If it were, work would go on without turns.
        if let Ok(pass) = self.passes.acquire().await {
            pass.forget();
        }
        drop(place);
    }

    /// Lets those who wait go on, a stretch at a time, until nobody does.
    async fn watch(self: Arc<Self>) {
        loop {
            // Comes back when all others had their turn and the connections were looked at, and
            // then once more, when what they brought has been answered.
            yield_now().await;
            yield_now().await;
            self.spent.store(0, Ordering::SeqCst);
            if self.waiting.load(Ordering::SeqCst) == 0 {
                self.watched.store(false, Ordering::SeqCst);
                let nobody = self.waiting.load(Ordering::SeqCst) == 0;
                if nobody || self.watched.swap(true, Ordering::SeqCst) {
                    return;
                }
            }
            // Of those who gave up, passes may be left.
            self.passes.forget_permits(self.passes.available_permits());
            let fit = nanos(STRETCH).checked_div(self.usual.load(Ordering::SeqCst));
            let fit = usize::try_from(fit.unwrap_or(1).max(1)).unwrap_or(1);
            self.passes.add_permits(fit.min(self.waiting.load(Ordering::SeqCst)));
        }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            spent: AtomicU64::new(0),
            usual: AtomicU64::new(nanos(STRETCH)),
            watched: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            passes: Semaphore::new(0),
        }
    }
}

fn is_over(spent: u64) -> bool {
    nanos(STRETCH) <= spent
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
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
        turns.usual.store(nanos(STRETCH) / 3, Ordering::SeqCst);
        let done = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..7 {
            let (turns, done) = (Arc::clone(&turns), Arc::clone(&done));
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
        assert_eq!(seen, [0, 3, 6, 7]);
        tasks.join_all().await;
    }

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
