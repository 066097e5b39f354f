//! Resource limits of a connection: its calls, incomplete messages, and answers that the client has
//! not read yet. Each is bounded for the connection and for the process.

use bytes::{Buf, Bytes};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// A bounded resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bytes of messages that did not arrive in one piece.
    MessageBytes,
    /// Health calls whose message is incomplete.
    UnfinishedCalls,
    /// Health watches.
    Watches,
    /// Reflection calls.
    Reflections,
}

/// The totals of all connections of the process.
#[derive(Debug, Default)]
pub struct Everybody(Amounts);

/// One connection.
#[derive(Debug)]
pub struct Peer {
    calls: AtomicU64,
    under_way: AtomicUsize,
    held: Amounts,
    everybody: Arc<Everybody>,
    untaken: Generations,
    written: AtomicU64,
    blocked: AtomicBool,
}

#[derive(Debug, Default)]
struct Amounts {
    message_bytes: AtomicUsize,
    unfinished_calls: AtomicUsize,
    watches: AtomicUsize,
    reflections: AtomicUsize,
}

/// Bytes of untaken answers in two generations: those from before the last [`Peer::turn`], and
/// those from after it.
#[derive(Debug, Default)]
struct Generations {
    even: AtomicUsize,
    odd: AtomicUsize,
    present_is_odd: AtomicBool,
}

/// A share of a [`Resource`]. Returned on drop.
#[derive(Debug)]
pub struct Share {
    peer: Arc<Peer>,
    resource: Resource,
    amount: usize,
}

/// A call that is not answered yet.
#[derive(Debug)]
pub struct OpenCall(Arc<Peer>);

/// Bytes of an answer, which count as untaken until they are written out.
#[derive(Debug)]
pub struct Untaken {
    bytes: Bytes,
    peer: Arc<Peer>,
    weight: usize,
    odd: bool,
}

/// The approximate overhead of an answer: its stream, headers and trailers.
const ANSWER: usize = 1024;

const MIB: usize = 1024 * 1024;

impl Resource {
    /// The limits, for one connection and for all together.
    ///
    /// A connection may have one message of maximum length at a time, and a few health calls: no
    /// proxy needs more.
    const fn most(self) -> (usize, usize) {
        match self {
            Self::MessageBytes => (16 * MIB, 48 * MIB),
            Self::UnfinishedCalls | Self::Watches => (16, 1024),
            Self::Reflections => (4, 16),
        }
    }
}

impl Amounts {
    const fn of(&self, resource: Resource) -> &AtomicUsize {
        match resource {
            Resource::MessageBytes => &self.message_bytes,
            Resource::UnfinishedCalls => &self.unfinished_calls,
            Resource::Watches => &self.watches,
            Resource::Reflections => &self.reflections,
        }
    }

    /// Takes `amount` more, unless the total would exceed `most`.
    fn take(&self, resource: Resource, amount: usize, most: usize) -> bool {
        let more = |held: usize| held.checked_add(amount).filter(|it| *it <= most);
        self.of(resource).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, resource: Resource, amount: usize) {
        self.of(resource).fetch_sub(amount, Ordering::Relaxed);
    }
}

impl Peer {
    /// A new connection.
    pub fn new(everybody: Arc<Everybody>) -> Arc<Self> {
        Arc::new(Self {
            calls: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            held: Amounts::default(),
            everybody,
            untaken: Generations::default(),
            written: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
        })
    }

    /// Starts a call.
    pub fn call(self: &Arc<Self>) -> OpenCall {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        OpenCall(Arc::clone(self))
    }

    /// The number of calls so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// The number of unanswered calls.
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// A share of a resource, if that much is left.
    pub fn take(self: &Arc<Self>, resource: Resource, amount: usize) -> Option<Share> {
        self.add(resource, amount).then(|| Share { peer: Arc::clone(self), resource, amount })
    }

    fn add(&self, resource: Resource, amount: usize) -> bool {
        let (own, together) = resource.most();
        if !self.held.take(resource, amount, own) {
            return false;
        }
        let there_is = self.everybody.0.take(resource, amount, together);
        if !there_is {
            self.held.give_back(resource, amount);
        }
        there_is
    }

    /// Counts part of an answer as untaken.
    pub fn answer(self: &Arc<Self>, bytes: Bytes) -> Untaken {
        let weight = bytes.len().saturating_add(ANSWER);
        let odd = self.untaken.present_is_odd.load(Ordering::Relaxed);
        self.untaken.of(odd).fetch_add(weight, Ordering::Relaxed);
        Untaken { bytes, peer: Arc::clone(self), weight, odd }
    }

    /// The bytes of all untaken answers.
    pub fn untaken(&self) -> usize {
        let [even, odd] = [false, true].map(|it| self.untaken.of(it).load(Ordering::Relaxed));
        even.saturating_add(odd)
    }

    /// The bytes of untaken answers from before the last [`Self::turn`].
    pub fn untaken_before(&self) -> usize {
        let present = self.untaken.present_is_odd.load(Ordering::Relaxed);
        self.untaken.of(!present).load(Ordering::Relaxed)
    }

    /// Starts a new generation of answers. There are two, so the generation before the last turn is
    /// reused for new answers.
    pub fn turn(&self) {
        self.untaken.present_is_odd.fetch_xor(true, Ordering::Relaxed);
    }

    /// Records whether the operating system accepted a write, or its buffer was full.
    pub fn wrote(&self, taken: bool) {
        self.blocked.store(!taken, Ordering::Relaxed);
        if taken {
            self.written.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of writes so far, and whether one is blocked.
    pub fn writing(&self) -> (u64, bool) {
        (self.written.load(Ordering::Relaxed), self.blocked.load(Ordering::Relaxed))
    }
}

impl Generations {
    const fn of(&self, odd: bool) -> &AtomicUsize {
        if odd { &self.odd } else { &self.even }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Share {
    /// Takes more of the same resource. Returns whether that much was left.
    #[must_use]
    pub fn grow(&mut self, amount: usize) -> bool {
        let grown = self.peer.add(self.resource, amount);
        if grown {
            self.amount = self.amount.saturating_add(amount);
        }
        grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.peer.held.give_back(self.resource, self.amount);
        self.peer.everybody.0.give_back(self.resource, self.amount);
    }
}

impl Buf for Untaken {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.peer.untaken.of(self.odd).fetch_sub(self.weight, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(everybody: &Arc<Everybody>) -> Arc<Peer> {
        Peer::new(Arc::clone(everybody))
    }

    #[test]
    fn a_resource_is_bounded_for_one_connection_and_for_all() {
        for resource in [
            Resource::MessageBytes,
            Resource::UnfinishedCalls,
            Resource::Watches,
            Resource::Reflections,
        ] {
            let everybody = Arc::default();
            let (own, together) = resource.most();
            let first = peer(&everybody);
            assert!(first.take(resource, own + 1).is_none(), "{resource:?}");
            let share = first.take(resource, own).unwrap();
            assert!(first.take(resource, 1).is_none(), "{resource:?}");
            let others: Vec<_> = (1..together / own)
                .map(|_| peer(&everybody).take(resource, own).unwrap())
                .collect();
            assert!(peer(&everybody).take(resource, 1).is_none(), "{resource:?}");
            drop(share);
            assert!(peer(&everybody).take(resource, own).is_some(), "{resource:?}");
            drop(others);
            assert_eq!(everybody.0.of(resource).load(Ordering::Relaxed), 0, "{resource:?}");
            assert_eq!(first.held.of(resource).load(Ordering::Relaxed), 0, "{resource:?}");
        }
    }

    #[test]
    fn a_share_grows_as_far_as_there_is_something_left() {
        let (own, _) = Resource::MessageBytes.most();
        let peer = peer(&Arc::default());
        let mut share = peer.take(Resource::MessageBytes, 1).unwrap();
        assert!(share.grow(own - 1));
        assert!(!share.grow(1));
        drop(share);
        assert!(peer.take(Resource::MessageBytes, own).is_some());
    }

    #[test]
    fn an_answer_counts_until_it_is_dropped_wherever_generations_stand() {
        let peer = peer(&Arc::default());
        let mut old = peer.answer(Bytes::from_static(b"answer"));
        assert_eq!((peer.untaken(), peer.untaken_before()), (6 + ANSWER, 0));
        peer.turn();
        let new = peer.answer(Bytes::from_static(b"another"));
        assert_eq!((peer.untaken(), peer.untaken_before()), (13 + 2 * ANSWER, 6 + ANSWER));
        assert_eq!(&old.copy_to_bytes(6)[..], b"answer");
        assert_eq!(old.remaining(), 0);
        drop(old);
        assert_eq!((peer.untaken(), peer.untaken_before()), (7 + ANSWER, 0));
        drop(new);
        assert_eq!(peer.untaken(), 0);
    }

    #[test]
    fn a_call_is_under_way_until_it_is_dropped() {
        let peer = peer(&Arc::default());
        let calls = [peer.call(), peer.call()];
        assert_eq!((peer.calls(), peer.under_way()), (2, 2));
        drop(calls);
        assert_eq!((peer.calls(), peer.under_way()), (2, 0));
    }
}
