//! A stream that enforces deadlines on what the client must send, and that notes whether the client
//! reads what is written.

use super::beginning::Beginning;
use crate::front::peer::Peer;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// A stream with deadlines.
#[derive(Debug)]
pub(super) struct Paced<S> {
    inner: S,
    peer: Arc<Peer>,
    /// Where its beginning is noted, until it has come.
    beginning: Option<Arc<OnceLock<Beginning>>>,
    due: Due,
    /// Whether the head of each request has a deadline once it has started (HTTP/1.1).
    has_heads: bool,
    /// Created lazily, since what is due is nearly always there at once.
    timer: Option<Pin<Box<Sleep>>>,
    closing: Arc<AtomicBool>,
    lingering: Option<Lingering>,
}

/// What the client must send, and by when.
#[derive(Debug)]
enum Due {
    /// Nothing.
    Nothing,
    /// The rest of the HTTP/2 preface.
    Preface { missing: usize, end: Instant },
    /// The head of an HTTP/1.1 request. It is complete once the connection has more than `calls`
    /// calls.
    Head { calls: u64, end: Instant },
}

/// What is still read and discarded after the last answer.
#[derive(Debug)]
struct Lingering {
    end: Pin<Box<Sleep>>,
    bytes: usize,
}

/// How long a client may take for the HTTP/2 preface, or for the head of a request.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// `PRI * HTTP/2.0 …` (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// How long to read and discard data after the last answer. Closing a connection with unread data
/// resets it, and then the client may lose the answer (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);

/// How many bytes are discarded at most.
const LINGER_BYTES: usize = 1024 * 1024;

impl<S> Paced<S> {
    /// A stream that must start with the HTTP/2 preface.
    pub(super) fn http2(inner: S, peer: Arc<Peer>) -> Self {
        let due = within_patience(|end| Due::Preface { missing: PREFACE_BYTES, end });
        Self::new(inner, peer, due, false)
    }

    /// A stream of requests over HTTP/1.1.
    pub(super) fn http1(inner: S, peer: Arc<Peer>) -> Self {
        let calls = peer.calls();
        let due = within_patience(|end| Due::Head { calls, end });
        Self::new(inner, peer, due, true)
    }

    fn new(inner: S, peer: Arc<Peer>, due: Due, has_heads: bool) -> Self {
        let (timer, closing, lingering) = (None, Arc::default(), None);
        let beginning = Some(Arc::default());
        Self { inner, peer, beginning, due, has_heads, timer, closing, lingering }
    }

    /// What it begins with, once something has come.
    pub(super) fn beginning(&self) -> Arc<OnceLock<Beginning>> {
        self.beginning.clone().unwrap_or_default()
    }

    /// A flag to set when the connection is closed while its client may still be sending.
    pub(super) fn closing(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.closing)
    }

    /// Records that `bytes` bytes were read.
    fn has_read(&mut self, bytes: usize) {
        match &mut self.due {
            Due::Preface { missing, .. } => {
                *missing = missing.saturating_sub(bytes);
                if *missing == 0 {
                    self.has_come();
                }
            }
            Due::Nothing if self.has_heads && self.peer.under_way() == 0 => {
                let calls = self.peer.calls();
                self.due = within_patience(|end| Due::Head { calls, end });
            }
            Due::Nothing | Due::Head { .. } => (),
        }
    }

    fn has_come(&mut self) {
        self.due = Due::Nothing;
        self.timer = None;
    }

    /// Ready once a deadline has passed.
    fn late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let end = match self.due {
            Due::Nothing => return Poll::Pending,
            Due::Preface { end, .. } | Due::Head { end, .. } => end,
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        timer.as_mut().poll(context)
    }

    /// Records whether the write was accepted.
    fn wrote<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.peer.wrote(written.is_ready());
        written
    }
}

/// The deadline from now on; none if the clock cannot represent it.
fn within_patience(due: impl FnOnce(Instant) -> Due) -> Due {
    Instant::now().checked_add(PATIENCE).map_or(Due::Nothing, due)
}

impl<S: AsyncRead + Unpin> Paced<S> {
    /// Reads and discards data after the last answer.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let lingering = self
            .lingering
            .get_or_insert_with(|| Lingering { end: Box::pin(sleep(LINGER)), bytes: LINGER_BYTES });
        if lingering.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut piece = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut piece);
            let read = ready!(Pin::new(&mut self.inner).poll_read(context, &mut buffer));
            let count = buffer.filled().len();
            lingering.bytes = lingering.bytes.saturating_sub(count);
            if read.is_err() || count == 0 || lingering.bytes == 0 {
                return Poll::Ready(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.due, Due::Head { calls, .. } if calls != this.peer.calls()) {
            this.has_come();
        }
        let before = buffer.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut this.inner).poll_read(context, buffer) {
            let more = buffer.filled().len().saturating_sub(before);
            if more != 0 {
                if let Some(beginning) = this.beginning.take() {
                    let first = buffer.filled().get(before..).unwrap_or_default();
                    beginning.get_or_init(|| Beginning::of(first));
                }
                this.has_read(more);
            }
            return Poll::Ready(done);
        }
        ready!(this.late(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        self.wrote(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
        }
        if this.closing.load(Ordering::Relaxed) {
            ready!(this.poll_linger(context));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{advance, timeout};

    const SECOND: Duration = seconds(1);

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn streams(http1: bool) -> (DuplexStream, Paced<DuplexStream>, Arc<Peer>) {
        let (client, server) = duplex(1000);
        let peer = Peer::new(Arc::default());
        let new = if http1 { Paced::http1 } else { Paced::http2 };
        (client, new(server, Arc::clone(&peer)), peer)
    }

    /// How long the next read takes, and whether it gives something.
    async fn read(server: &mut Paced<DuplexStream>) -> (Duration, bool) {
        let begun = Instant::now();
        let read = timeout(seconds(3600), server.read(&mut [0; 100])).await;
        (begun.elapsed(), matches!(read, Ok(Ok(1..))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_must_say_in_time_that_it_speaks_http2() {
        let (_client, mut server, _) = streams(false);
        assert_eq!(read(&mut server).await, (PATIENCE, false));

        let (mut client, mut server, _) = streams(false);
        client.write_all(&[0; PREFACE_BYTES - 1]).await.unwrap();
        advance(seconds(4)).await;
        assert_eq!(read(&mut server).await, (Duration::ZERO, true));
        assert_eq!(read(&mut server).await, (seconds(6), false));
    }

    #[tokio::test(start_paused = true)]
    async fn then_it_may_be_silent() {
        let (mut client, mut server, _) = streams(false);
        client.write_all(&[0; PREFACE_BYTES]).await.unwrap();
        assert_eq!(read(&mut server).await, (Duration::ZERO, true));
        assert_eq!(read(&mut server).await, (seconds(3600), false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_must_come_in_time_however_it_trickles() {
        let (mut client, mut server, _) = streams(true);
        for _ in 0..10 {
            client.write_all(b"G").await.unwrap();
            assert_eq!(read(&mut server).await, (Duration::ZERO, true));
            advance(SECOND).await;
        }
        assert_eq!(read(&mut server).await, (Duration::ZERO, false));
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_it_may_be_silent_and_the_next_head_must_come_in_time_again() {
        let (mut client, mut server, peer) = streams(true);
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1").await.unwrap();
            assert_eq!(read(&mut server).await, (Duration::ZERO, true));
            drop(peer.call());
            assert_eq!(read(&mut server).await, (seconds(3600), false));
        }
        client.write_all(b"GET / HTTP/1.1").await.unwrap();
        assert_eq!(read(&mut server).await, (Duration::ZERO, true));
        assert_eq!(read(&mut server).await, (PATIENCE, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_as_long_as_its_call_allows() {
        let (mut client, mut server, peer) = streams(true);
        let call = peer.call();
        client.write_all(b"body").await.unwrap();
        assert_eq!(read(&mut server).await, (Duration::ZERO, true));
        assert_eq!(read(&mut server).await, (seconds(3600), false));
        drop(call);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_noted_whether_what_is_written_is_taken() {
        let (mut client, mut server, peer) = streams(false);
        server.write_all(&[0; 1000]).await.unwrap();
        assert_eq!(peer.writing(), (1, false));
        let mut more = Box::pin(server.write_all(&[0; 1]));
        assert!(more.as_mut().now_or_never().is_none());
        assert_eq!(peer.writing(), (1, true));
        client.read_exact(&mut [0; 1000]).await.unwrap();
        more.await.unwrap();
        assert_eq!(peer.writing(), (2, false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_the_last_answer_is_read_past_for_a_while() {
        for (closing, waits) in [(false, Duration::ZERO), (true, LINGER)] {
            let (mut client, mut server, _) = streams(true);
            server.closing().store(closing, Ordering::Relaxed);
            client.write_all(b"more").await.unwrap();
            let begun = Instant::now();
            poll_fn(|it| Pin::new(&mut server).poll_shutdown(it)).await.unwrap();
            assert_eq!(begun.elapsed(), waits);
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "its end is told at once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_ends_is_not_waited_for() {
        let (client, mut server, _) = streams(true);
        server.closing().store(true, Ordering::Relaxed);
        drop(client);
        let begun = Instant::now();
        poll_fn(|it| Pin::new(&mut server).poll_shutdown(it)).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
