//! A stream that reads from its connection in large pieces, whatever size its reader asks for.
//!
//! The HTTP/2 library asks for one frame at a time, which would be one system call per check. An
//! idle connection holds no buffer.

use bytes::{Buf, BytesMut};
use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// A stream with a read buffer.
#[derive(Debug)]
pub(super) struct ReadAhead<S> {
    inner: S,
    /// Data that was read but not requested yet. The buffer exists only while it holds data.
    read: Option<BytesMut>,
}

thread_local! {
    /// A spare buffer, left by the connection that this thread read last.
    static SPARE: Cell<BytesMut> = Cell::default();
}

/// The read size in bytes: some checks of a usual size.
const PIECE: usize = 32 * 1024;

impl<S> ReadAhead<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, read: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, read: place } = &mut *self;
        let read = place.get_or_insert_with(|| SPARE.take());
        if read.is_empty() {
            read.reserve(PIECE);
            match pin!(inner.read_buf(read)).poll(context) {
                Poll::Ready(Ok(_)) => (),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    SPARE.set(place.take().unwrap_or_default());
                    return Poll::Pending;
                }
            }
        }
        let now = read.len().min(buffer.remaining());
        buffer.put_slice(read.get(..now).unwrap_or_default());
        read.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    /// h2 copies small answers into one buffer and writes them together. If vectored writes are
    /// available, it treats an answer of 256 bytes as large and writes each by itself, which costs
    /// more than a whole check.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn what_comes_is_read_once_and_in_order_whatever_is_asked_for() {
        let sent: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for asked in [1000, PIECE - 1, PIECE, PIECE + 1, 100_000] {
            let (mut client, server) = tokio::io::duplex(3 * PIECE);
            let mut server = ReadAhead::new(server);
            let mut read = Vec::new();
            let mut piece = vec![0; asked];
            let (written, ()) = tokio::join!(
                async {
                    let written = client.write_all(&sent).await;
                    drop(client);
                    written
                },
                async {
                    while let count @ 1.. = server.read(&mut piece).await.unwrap() {
                        read.extend_from_slice(&piece[..count]);
                    }
                }
            );
            written.unwrap();
            assert_eq!(read, sent, "{asked}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_waits_holds_no_memory() {
        let (mut client, server) = tokio::io::duplex(100);
        let mut server = ReadAhead::new(server);
        client.write_all(b"a check").await.unwrap();
        let mut piece = [0; 100];
        assert_eq!(server.read(&mut piece).await.unwrap(), 7);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut buffer = ReadBuf::new(&mut piece);
        assert!(Pin::new(&mut server).poll_read(&mut context, &mut buffer).is_pending());
        assert!(server.read.is_none());
        SPARE.with(|it| {
            let spare = it.take();
            assert!(PIECE <= spare.capacity(), "it is for the next");
        });
    }

    #[tokio::test]
    async fn what_is_written_goes_through_as_it_is() {
        let (mut client, server) = tokio::io::duplex(100);
        let mut server = ReadAhead::new(server);
        server.write_all(b"an answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "an answer");
        assert!(!server.is_write_vectored());
    }
}
