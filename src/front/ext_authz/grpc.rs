//! gRPC framing of a single message over HTTP/2 (gRPC, PROTOCOL-HTTP2).

use crate::front::peer::{Peer, Resource, Share};
use bytes::{Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use keybound_core::{Denial, Detail, Refusal};
use std::cmp::Ordering;
use std::convert::Infallible;
use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Code;

/// The longest message accepted, in bytes. Envoy itself accepts at most 8 MiB of headers.
pub const MESSAGE_BYTES: usize = 8 * 1024 * 1024;

/// Why the message of a call cannot be read. Answered with a denial, since the proxy may be
/// configured to allow requests on a gRPC error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message exceeds the limit.
    TooLarge,
    /// The message is compressed, which was not negotiated.
    Compressed,
    /// The body ends before the message does.
    Truncated,
    /// More data follows the message.
    Excess,
    /// The stream was reset.
    Broken,
    /// The memory for incomplete messages is used up.
    NoRoom,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let detail = match fault {
            Fault::NoRoom => return Denial::Overloaded.into(),
            Fault::TooLarge => Detail::MessageTooLarge,
            Fault::Compressed => Detail::MessageCompressed,
            Fault::Truncated | Fault::Broken => Detail::MessageTruncated,
            Fault::Excess => Detail::MessageExcess,
        };
        detail.into()
    }
}

/// Reads the only message of a unary call, of at most `limit` bytes, for `peer`.
///
/// A message in a single data frame is not copied, and memory grows only with the bytes received. A
/// message that does not arrive at once counts against the limit of `peer`.
pub async fn read_message<B>(body: B, limit: usize, peer: &Arc<Peer>) -> Result<Message, Fault>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body);
    let mut received = Received::default();
    let mut complete = false;
    loop {
        let frame = match poll_fn(|it| Poll::Ready(body.as_mut().poll_frame(it))).await {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                received.hold(peer)?;
                body.frame().await
            }
        };
        let Some(frame) = frame else { break };
        if let Ok(data) = frame.or(Err(Fault::Broken))?.into_data() {
            received.add(data, peer)?;
            complete = received.is_complete(limit)?;
        }
    }
    if complete { Ok(received.into_message()) } else { Err(Fault::Truncated) }
}

/// A message, with its share of the memory for incomplete ones.
#[derive(Debug)]
pub struct Message {
    /// The bytes.
    pub bytes: Bytes,
    _share: Option<Share>,
}

/// The data received so far: a single frame unchanged, or several joined.
#[derive(Default)]
struct Received {
    only: Bytes,
    joined: BytesMut,
    share: Option<Share>,
}

impl Received {
    fn add(&mut self, data: Bytes, peer: &Arc<Peer>) -> Result<(), Fault> {
        if self.whole().is_empty() {
            self.only = data;
            return Ok(());
        }
        self.hold(peer)?;
        self.take(data.len(), peer)?;
        self.joined.extend_from_slice(&data);
        Ok(())
    }

    /// Copies the data: a slice would keep the whole read buffer of the connection alive.
    fn hold(&mut self, peer: &Arc<Peer>) -> Result<(), Fault> {
        if !self.only.is_empty() {
            self.take(self.only.len(), peer)?;
            self.joined.extend_from_slice(&mem::take(&mut self.only));
        }
        Ok(())
    }

    fn take(&mut self, bytes: usize, peer: &Arc<Peer>) -> Result<(), Fault> {
        if let Some(share) = &mut self.share {
            return if share.grow(bytes) { Ok(()) } else { Err(Fault::NoRoom) };
        }
        self.share = Some(peer.take(Resource::MessageBytes, bytes).ok_or(Fault::NoRoom)?);
        Ok(())
    }

    fn is_complete(&self, limit: usize) -> Result<bool, Fault> {
        let Some((&[flag, length @ ..], message)) = self.whole().split_first_chunk::<PREFIX>()
        else {
            return Ok(false);
        };
        let length = usize::try_from(u32::from_be_bytes(length)).or(Err(Fault::TooLarge))?;
        if flag != UNCOMPRESSED {
            return Err(Fault::Compressed);
        }
        if limit < length {
            return Err(Fault::TooLarge);
        }
        match message.len().cmp(&length) {
            Ordering::Less => Ok(false),
            Ordering::Equal => Ok(true),
            Ordering::Greater => Err(Fault::Excess),
        }
    }

    fn whole(&self) -> &[u8] {
        if self.joined.is_empty() { &self.only } else { &self.joined }
    }

    fn into_message(self) -> Message {
        let mut whole = if self.joined.is_empty() { self.only } else { self.joined.freeze() };
        Message { bytes: whole.split_off(PREFIX.min(whole.len())), _share: self.share }
    }
}

/// A flag and a length of four bytes.
const PREFIX: usize = 5;
const UNCOMPRESSED: u8 = 0;

/// The response of a successful call. `framed` is the message in its frame.
pub fn reply(framed: Bytes) -> Response<Reply> {
    let ok = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
    response(Reply { data: Some(framed), trailers: Some(ok) })
}

/// The framed message that `write` appends, for [`reply`].
pub fn framed(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut framed = Vec::with_capacity(USUAL);
    framed.extend_from_slice(&[UNCOMPRESSED; PREFIX]);
    write(&mut framed);
    // Unreachable in practice: a message of 4 GiB would be sent truncated.
    let length = u32::try_from(framed.len().saturating_sub(PREFIX)).unwrap_or(u32::MAX);
    if let Some((_, place)) = framed.first_chunk_mut::<PREFIX>().and_then(|it| it.split_first_mut())
    {
        place.copy_from_slice(&length.to_be_bytes());
    }
    framed.into()
}

/// The initial capacity in bytes, enough for most answers.
const USUAL: usize = 1024;

/// The response to a call that is not supported, such as of an unknown method: no body, with the
/// status in the headers. Never for a decision. `message` is printable ASCII without `%`.
pub fn error(code: Code, message: &'static str) -> Response<Reply> {
    let mut response = response(Reply { data: None, trailers: None });
    let headers = response.headers_mut();
    headers.insert(GRPC_STATUS, i32::from(code).into());
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    response
}

fn response(body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The body of a response: one data frame and the trailers, or nothing.
#[derive(Debug)]
pub struct Reply {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::stream::{self, StreamExt};
    use http_body_util::{Full, StreamBody};

    async fn read<B: Body<Data = Bytes>>(body: B, limit: usize) -> Result<Bytes, Fault> {
        let peer = Peer::new(Arc::default());
        read_message(body, limit, &peer).await.map(|it| it.bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_at_once_takes_its_share() {
        let (most, beyond) = (16 * 1024 * 1024, 16 * 1024 * 1024 + 1);
        let framed = framed(|it| it.extend_from_slice(b"message"));
        for (pieces, taken) in [(1, 0), (2, 12)] {
            let peer = Peer::new(Arc::default());
            let size = framed.len().div_ceil(pieces);
            let pieces = framed.chunks(size).map(|it| Frame::data(Bytes::copy_from_slice(it)));
            let message = read_message(body(pieces.collect()), 7, &peer).await.unwrap();
            assert!(peer.take(Resource::MessageBytes, most - taken).is_some());
            assert!(peer.take(Resource::MessageBytes, beyond - taken).is_none());
            drop(message);
            assert!(peer.take(Resource::MessageBytes, most).is_some(), "it is given back");
        }
    }

    #[tokio::test]
    async fn what_is_waited_for_holds_no_more_than_itself() {
        let peer = Peer::new(Arc::default());
        let read = Bytes::from(vec![0; 16_384]);
        let first = Ok::<_, Infallible>(Frame::data(read.slice(..5)));
        let frames = stream::iter([first]).chain(stream::pending());
        let mut reading = Box::pin(read_message(StreamBody::new(frames), 7, &peer));
        assert!(reading.as_mut().now_or_never().is_none());
        assert!(read.is_unique(), "what was read with it is free");
        assert!(peer.take(Resource::MessageBytes, 16 * 1024 * 1024).is_none());
    }

    #[tokio::test]
    async fn without_room_nothing_is_waited_for() {
        let peer = Peer::new(Arc::default());
        let _full = peer.take(Resource::MessageBytes, 16 * 1024 * 1024 - 5).unwrap();
        let pieces = [&b"\0\0\0\0\x07"[..], b"message"].map(Bytes::from_static);
        let body = body(pieces.map(Frame::data).into());
        assert_eq!(read_message(body, 7, &peer).await.map(drop), Err(Fault::NoRoom));
    }

    #[tokio::test]
    async fn a_message_in_one_frame_is_not_copied() {
        let framed = framed(|it| it.extend_from_slice(b"message"));
        let read = read(Full::new(framed.clone()), 7).await.unwrap();
        assert_eq!(read, "message");
        assert_eq!(read.as_ptr(), framed.slice(PREFIX..).as_ptr());
    }

    #[tokio::test]
    async fn a_message_may_come_in_any_pieces() {
        let framed = framed(|it| it.extend_from_slice(b"message"));
        for size in 1..=framed.len() {
            let data = framed.chunks(size).map(Bytes::copy_from_slice);
            let pieces = data.flat_map(|it| [Frame::data(Bytes::new()), Frame::data(it)]);
            let trailers = [Frame::trailers(HeaderMap::new())];
            let body = body(pieces.chain(trailers).collect());
            assert_eq!(read(body, 7).await.unwrap(), "message", "{size}");
        }
    }

    #[tokio::test]
    async fn an_empty_message_is_a_message() {
        assert_eq!(read(whole(b"\0\0\0\0\0"), 0).await, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn what_is_not_one_plain_message_is_a_fault() {
        let faults: [(&[u8], Fault); 8] = [
            (b"", Fault::Truncated),
            (b"\0\0\0\0", Fault::Truncated),
            (b"\0\0\0\0\x02a", Fault::Truncated),
            (b"\0\0\0\0\x02abc", Fault::Excess),
            (b"\0\0\0\0\x01a\0\0\0\0\x01a", Fault::Excess),
            (b"\x01\0\0\0\x02ab", Fault::Compressed),
            (b"\xff\0\0\0\x02ab", Fault::Compressed),
            (b"\0\xff\xff\xff\xffab", Fault::TooLarge),
        ];
        for (bytes, fault) in faults {
            assert_eq!(read(whole(bytes), 9).await, Err(fault), "{bytes:?}");
            let single = bytes.iter().map(|it| Frame::data(Bytes::copy_from_slice(&[*it])));
            assert_eq!(read(body(single.collect()), 9).await, Err(fault), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn the_limit_is_the_longest_message() {
        let framed = framed(|it| it.extend_from_slice(&[0; 10]));
        assert_eq!(read(whole(&framed), 9).await, Err(Fault::TooLarge));
        assert!(read(whole(&framed), 10).await.is_ok());
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_is_not_waited_for() {
        let announced = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\0\0\x0a")));
        let frames = stream::iter([announced]).chain(stream::pending());
        assert_eq!(read(StreamBody::new(frames), 9).await, Err(Fault::TooLarge));
    }

    #[tokio::test]
    async fn a_broken_stream_is_a_fault_even_behind_a_whole_message() {
        let frames = [Ok(Frame::data(framed(|it| it.extend_from_slice(b"message")))), Err("reset")];
        let body = StreamBody::new(stream::iter(frames));
        assert_eq!(read(body, 7).await, Err(Fault::Broken));
    }

    #[tokio::test]
    async fn a_reply_is_one_frame_of_data_and_the_status() {
        let response = reply(framed(|it| it.extend_from_slice(b"message")));
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let mut body = response.into_body();
        assert!(!body.is_end_stream());
        let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data, &b"\0\0\0\0\x07message"[..]);
        assert!(!body.is_end_stream());
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers, HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]));
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    #[tokio::test]
    async fn an_error_is_all_in_the_headers() {
        let response = error(Code::Unimplemented, "no such method");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(response.headers()["grpc-message"], "no such method");
        let mut body = response.into_body();
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }

    fn whole(bytes: &[u8]) -> Full<Bytes> {
        Bytes::copy_from_slice(bytes).into()
    }

    fn body(frames: Vec<Frame<Bytes>>) -> impl Body<Data = Bytes, Error = Infallible> {
        StreamBody::new(stream::iter(frames.into_iter().map(Ok)))
    }
}
