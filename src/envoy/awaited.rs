//! What our own thread will have for a stream: it wakes the stream's worker, and is there then.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Has Envoy call [`Stream::goes_on`](crate::stream::Stream::goes_on) on the stream's worker.
pub(crate) trait Wake: Send + 'static {
    /// May be called by any thread.
    fn wake(&self);
}

/// What comes of work in our own thread. Dropped, the work is broken off.
#[derive(Debug)]
pub(crate) struct Awaited<T> {
    outcome: Arc<Outcome<T>>,
    task: AbortHandle,
}

/// What has come of it. The end of the work and that of its stream share a lock, so that nobody wakes a
/// stream that is gone.
#[derive(Debug)]
struct Outcome<T>(Mutex<State<T>>);

enum State<T> {
    /// Nothing yet.
    Open(Box<dyn Wake>),
    /// This.
    Come(T),
    /// The stream has it, or is gone.
    Over,
}

impl<T: Send + 'static> Awaited<T> {
    /// Does `work` in `runtime`, and wakes the stream by `wake` when it is done.
    pub(crate) fn new(
        runtime: &Handle,
        wake: impl Wake,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        let outcome = Arc::new(Outcome(Mutex::new(State::Open(Box::new(wake)))));
        let told = Arc::clone(&outcome);
        let task = runtime.spawn(async move { told.becomes(work.await) });
        Self { outcome, task: task.abort_handle() }
    }
}

impl<T> Awaited<T> {
    /// What has come of the work, once.
    pub(crate) fn come(&self) -> Option<T> {
        let mut state = self.outcome.state();
        match mem::replace(&mut *state, State::Over) {
            State::Come(outcome) => Some(outcome),
            was @ (State::Open(_) | State::Over) => {
                *state = was;
                None
            }
        }
    }
}

impl<T> Outcome<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The work is done: wakes the stream, if it is still there.
    fn becomes(&self, outcome: T) {
        let mut state = self.state();
        if let State::Open(wake) = &*state {
            wake.wake();
            *state = State::Come(outcome);
        }
    }
}

impl<T> Drop for Awaited<T> {
    fn drop(&mut self) {
        self.task.abort();
        *self.outcome.state() = State::Over;
    }
}

impl<T> fmt::Debug for State<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open(_) => "Open",
            Self::Come(_) => "Come",
            Self::Over => "Over",
        })
    }
}
