//! A proxy in front of a Redis, which lets answers through or holds them back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A proxy in front of a Redis.
pub(crate) struct Proxy {
    port: u16,
    holds: Arc<watch::Sender<bool>>,
    connections: Arc<AtomicUsize>,
    /// How many octets have come from clients, and gone to Redis.
    passed: Arc<AtomicUsize>,
    /// Ends with the proxy.
    _task: JoinSet<()>,
}

impl Proxy {
    /// One that lets all through.
    pub(crate) async fn start(redis: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let holds = Arc::new(watch::Sender::new(false));
        let (connections, passed) = (Arc::default(), Arc::default());
        let proxying = {
            let (holds, connections, passed) =
                (Arc::clone(&holds), Arc::clone(&connections), Arc::clone(&passed));
            async move {
                let mut pairs = JoinSet::new();
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    AtomicUsize::fetch_add(&connections, 1, Ordering::SeqCst);
                    let (holds, passed) = (holds.subscribe(), Arc::clone(&passed));
                    pairs.spawn(pass(client, redis.clone(), holds, passed));
                }
            }
        };
        let mut task = JoinSet::new();
        task.spawn(proxying);
        Self { port, holds, connections, passed, _task: task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From here on answers are held back.
    pub(crate) fn hold(&self) {
        self.holds.send_replace(true);
    }

    /// Lets go what was held back, and what comes.
    pub(crate) fn release(&self) {
        self.holds.send_replace(false);
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Waits until no more comes from the client for as long as a few turns of the runtime take.
    pub(crate) async fn settled(&self) {
        loop {
            let before = self.passed.load(Ordering::SeqCst);
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            if self.passed.load(Ordering::SeqCst) == before {
                return;
            }
        }
    }
}

async fn pass(
    client: TcpStream,
    redis: impl AsRef<Path>,
    mut holds: watch::Receiver<bool>,
    passed: Arc<AtomicUsize>,
) {
    let redis = UnixStream::connect(redis).await.unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_redis, mut to_redis) = redis.into_split();
    let there = async {
        let mut room = [0; 16_384];
        while let Ok(length @ 1..) = from_client.read(&mut room).await {
            to_redis.write_all(room.get(..length).unwrap()).await.unwrap();
            passed.fetch_add(length, Ordering::SeqCst);
        }
    };
    let back = async {
        let mut room = [0; 16_384];
        while let Ok(length @ 1..) = from_redis.read(&mut room).await {
            holds.wait_for(|it| !it).await.unwrap();
            if to_client.write_all(room.get(..length).unwrap()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => (),
        () = back => (),
    }
}

/// Time that passes by [`tokio::time::advance`] alone. Paused time of itself would run ahead of the
/// sockets whenever nothing else is to be done; it does not while something blocks.
pub(crate) struct StillTime(Option<mpsc::Sender<()>>);

impl StillTime {
    pub(crate) fn begin() -> Self {
        let (end, ended) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || ended.recv().is_err());
        tokio::time::pause();
        Self(Some(end))
    }
}

impl Drop for StillTime {
    fn drop(&mut self) {
        tokio::time::resume();
        drop(self.0.take());
    }
}
