//! Connections, distributed over the cores.
//!
//! Each core has one single-threaded runtime, which serves whole connections: no work stealing, and
//! no answer crosses threads. A sidecar opens few connections, so they are assigned one by one
//! rather than by the kernel's hash.

use super::connection::{self, Serving};
use crate::fair_share;
use crate::invariant;
use crate::listener::Arrival;
use std::convert::Infallible;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// All shards.
#[derive(Debug)]
pub struct Shards {
    all: Vec<Shard>,
    open: Arc<[Arc<AtomicUsize>]>,
    done: mpsc::Receiver<Infallible>,
}

#[derive(Debug)]
struct Shard {
    connections: mpsc::UnboundedSender<Dealt>,
    open: Arc<AtomicUsize>,
}

/// A connection assigned to a shard.
struct Dealt {
    arrival: Arrival,
    serving: Serving,
    counted: Counted,
}

/// A guard that counts a connection in its shard until dropped.
struct Counted(Arc<AtomicUsize>);

impl Shards {
    /// Starts `count` shards. At shutdown, connections may take `drain` to finish.
    pub fn start(count: NonZero<usize>, drain: Duration) -> io::Result<Self> {
        let (running, done) = mpsc::channel(1);
        let start = |index: usize| {
            let (connections, dealt) = mpsc::unbounded_channel();
            let running = running.clone();
            // Created here, so that a lack of resources fails the start.
            let runtime = fair_share::runtime()?;
            thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
                run(&runtime, dealt, drain);
                drop(running);
            })?;
            Ok(Shard { connections, open: Arc::default() })
        };
        let all = (0..count.get()).map(start).collect::<io::Result<Vec<_>>>()?;
        let open = all.iter().map(|it| Arc::clone(&it.open)).collect();
        Ok(Self { all, open, done })
    }

    /// Assigns a new connection to the shard with the fewest.
    pub fn deal(&self, arrival: Arrival, serving: Serving) {
        let Some(shard) = self.all.iter().min_by_key(|it| it.open.load(Ordering::Relaxed)) else {
            invariant::broken("there is a shard to deal connections to");
            return;
        };
        shard.open.fetch_add(1, Ordering::Relaxed);
        let dealt = Dealt { arrival, serving, counted: Counted(Arc::clone(&shard.open)) };
        if shard.connections.send(dealt).is_err() {
            tracing::error!("connection closed: its shard has ended");
        }
    }

    /// The number of open connections of each shard.
    pub fn open(&self) -> &Arc<[Arc<AtomicUsize>]> {
        &self.open
    }

    /// Stops taking connections and waits until the open ones have ended.
    pub async fn drain(mut self) {
        self.all.clear();
        // Nothing is ever sent; the channel closes when the last shard has ended.
        let _closed = self.done.recv().await;
    }
}

fn run(runtime: &Runtime, mut dealt: mpsc::UnboundedReceiver<Dealt>, drain: Duration) {
    runtime.block_on(async {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                next = dealt.recv() => match next {
                    Some(next) => {
                        let hold = next.arrival.place.hold();
                        hold.on(connections.spawn(serve(next)));
                    }
                    None => break,
                },
                Some(_) = connections.join_next() => (),
            }
        }
        let all_ended = async { while connections.join_next().await.is_some() {} };
        if timeout(drain, all_ended).await.is_err() {
            tracing::warn!(connections = connections.len(), "connections aborted");
        }
    });
}

async fn serve(dealt: Dealt) {
    let Dealt { arrival, serving, counted } = dealt;
    connection::serve(arrival, serving).await;
    drop(counted);
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
