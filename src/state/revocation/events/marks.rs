//! What events revoke, in memory, bounded by number.
//!
//! Nothing is forgotten before its time. What there is no room for revokes more than it says: all tokens
//! of the issuer that were issued until then.

use keybound_core::UnixTime;
use keybound_core::oauth::{EventKind, SubjectKey};
use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// What is revoked of one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The last time of issue that is revoked.
    pub until: UnixTime,
    /// Until when this counts.
    pub expires: UnixTime,
    /// The event that said so; of several, the latest.
    pub kind: EventKind,
}

/// A subject with what is revoked of it.
pub(super) type Marked = (SubjectKey, Mark);

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// An event says so.
    Event(Mark),
    /// It was issued until this time, and there was no room for an event of then.
    NoRoom(UnixTime),
}

/// What putting a mark into force has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// Nothing: all of it was in force.
    Nothing,
    /// More is revoked now of its subject: this.
    More(Mark),
    /// There was no room for it, and more is revoked now of all subjects.
    MoreOfAll,
}

/// The marks of one issuer.
#[derive(Debug)]
pub(super) struct Marks {
    shards: [RwLock<HashMap<SubjectKey, Mark>>; SHARDS],
    /// Changes with each mark that revokes more. No other store of this process has the same.
    number: AtomicU64,
    entries: AtomicUsize,
    capacity: AtomicUsize,
    /// The latest time of issue for whose events there was no room; else [`NEVER`].
    unmarked: AtomicI64,
    /// Until when that counts.
    unmarked_until: AtomicI64,
    /// When a full store is next searched for what has expired.
    look_again: AtomicI64,
}

/// Checks on several threads rarely meet at one lock.
const SHARDS: usize = 32;

/// The number of the next change of any store.
static NEXT: AtomicU64 = AtomicU64::new(1);

fn next_number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

const NEVER: i64 = i64::MIN;

/// The time between two searches of a full store.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Marks {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            number: AtomicU64::new(next_number()),
            entries: AtomicUsize::new(0),
            capacity: AtomicUsize::new(capacity),
            unmarked: AtomicI64::new(NEVER),
            unmarked_until: AtomicI64::new(NEVER),
            look_again: AtomicI64::new(NEVER),
        }
    }

    /// How many marks there may be. Fewer than there are drops none.
    pub(super) fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Ordering::Relaxed);
    }

    /// What stays the same until more is revoked. Whoever takes it and then finds a token to be good need
    /// not look again while it is the same.
    pub(super) fn number(&self) -> NonZeroU64 {
        NonZeroU64::new(self.number.load(Ordering::Acquire)).unwrap_or(NonZeroU64::MIN)
    }

    /// The number of marks, with those that have expired and were not dropped yet.
    pub(super) fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Why a token with these subjects that was issued at `issued` is refused at `now`.
    pub(super) fn find(
        &self,
        subjects: impl Iterator<Item = SubjectKey>,
        issued: UnixTime,
        now: UnixTime,
    ) -> Option<Hit> {
        if 0 < self.entries() {
            for subject in subjects {
                let found = self.read(&subject).get(&subject).copied();
                let counts = |it: &Mark| now < it.expires && issued <= it.until;
                if let Some(mark) = found.filter(counts) {
                    return Some(Hit::Event(mark));
                }
            }
        }
        self.no_room(now).filter(|it| issued <= *it).map(Hit::NoRoom)
    }

    /// The latest time of issue for whose events there was no room.
    pub(super) fn no_room(&self, now: UnixTime) -> Option<UnixTime> {
        let at = self.unmarked.load(Ordering::Acquire);
        let until = self.unmarked_until.load(Ordering::Acquire);
        (at != NEVER && now.as_millis() < until).then_some(UnixTime::from_millis(at))
    }

    /// Puts a mark into force. Of two for one subject the later time counts, in whatever order they come.
    pub(super) fn put(&self, marked: Marked, now: UnixTime) -> Put {
        let put = self.put_somehow(marked, now);
        if put != Put::Nothing {
            self.number.store(next_number(), Ordering::Release);
        }
        put
    }

    fn put_somehow(&self, marked: Marked, now: UnixTime) -> Put {
        if let Some(put) = self.put_if_room(marked) {
            return put;
        }
        let made_room = self.may_look_again(now) && 0 < self.drop_expired(now);
        let put = if made_room { self.put_if_room(marked) } else { None };
        put.unwrap_or_else(|| {
            let Mark { until, expires, .. } = marked.1;
            if self.pass_over((until, expires)) { Put::MoreOfAll } else { Put::Nothing }
        })
    }

    fn put_if_room(&self, (subject, mark): Marked) -> Option<Put> {
        let mut marks = self.write(&subject);
        if let Some(known) = marks.get_mut(&subject) {
            let before = *known;
            let kind = if known.until < mark.until { mark.kind } else { known.kind };
            let (until, expires) = (known.until.max(mark.until), known.expires.max(mark.expires));
            *known = Mark { until, expires, kind };
            return Some(if before == *known { Put::Nothing } else { Put::More(*known) });
        }
        let has_room = self.entries() < self.capacity.load(Ordering::Relaxed);
        has_room.then(|| {
            marks.insert(subject, mark);
            self.entries.fetch_add(1, Ordering::Relaxed);
            Put::More(mark)
        })
    }

    /// Whether it is time to look for what has expired: in a flood not at each event.
    fn may_look_again(&self, now: UnixTime) -> bool {
        let next = now.saturating_add(LOOK_AGAIN).as_millis();
        let before = self.look_again.load(Ordering::Relaxed);
        let may = before <= now.as_millis() || next < before;
        may && self
            .look_again
            .compare_exchange(before, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Refuses all tokens that were issued until then, since there was no room for an event about some, and
    /// says whether that is new. It counts until the second time.
    pub(super) fn pass_over(&self, (until, expires): (UnixTime, UnixTime)) -> bool {
        // In this order, a reader never sees the new time with the old end.
        self.unmarked_until.fetch_max(expires.as_millis(), Ordering::AcqRel);
        let before = self.unmarked.fetch_max(until.as_millis(), Ordering::AcqRel);
        self.number.store(next_number(), Ordering::Release);
        before < until.as_millis()
    }

    /// Drops the marks that no longer count, and returns how many.
    pub(super) fn drop_expired(&self, now: UnixTime) -> usize {
        let mut dropped = 0_usize;
        for shard in &self.shards {
            let mut marks = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = marks.len();
            marks.retain(|_, it| now < it.expires);
            dropped = dropped.saturating_add(before.saturating_sub(marks.len()));
        }
        self.entries.fetch_sub(dropped, Ordering::Relaxed);
        dropped
    }

    /// Those that count at `now`.
    pub(super) fn all(&self, now: UnixTime) -> Vec<Marked> {
        self.by_shard(now).flatten().collect()
    }

    /// The same in parts, of which each is copied once it is asked for: nobody waits while they are written
    /// somewhere.
    pub(super) fn by_shard(&self, now: UnixTime) -> impl Iterator<Item = Vec<Marked>> {
        self.shards.iter().map(move |shard| {
            let marks = shard.read().unwrap_or_else(PoisonError::into_inner);
            marks.iter().filter(|(_, it)| now < it.expires).map(|(k, it)| (*k, *it)).collect()
        })
    }

    /// The time of issue for whose events there was no room, with its end.
    pub(super) fn passed_over(&self, now: UnixTime) -> Option<(UnixTime, UnixTime)> {
        let until = self.unmarked_until.load(Ordering::Acquire);
        Some((self.no_room(now)?, UnixTime::from_millis(until)))
    }

    fn read(&self, subject: &SubjectKey) -> RwLockReadGuard<'_, HashMap<SubjectKey, Mark>> {
        self.shard(subject).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, subject: &SubjectKey) -> RwLockWriteGuard<'_, HashMap<SubjectKey, Mark>> {
        self.shard(subject).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, subject: &SubjectKey) -> &RwLock<HashMap<SubjectKey, Mark>> {
        let [octet, ..] = *subject.octets();
        let [first, ..] = &self.shards;
        self.shards.get(usize::from(octet) % SHARDS).unwrap_or(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::oauth::EventSubject;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(seconds: i64) -> UnixTime {
        UnixTime::from_secs(NOW.as_secs().saturating_add(seconds))
    }

    fn user(name: &str) -> SubjectKey {
        EventSubject::User(name.into()).key()
    }

    fn mark(name: &str, until: i64) -> Marked {
        let kind = EventKind::SessionRevoked;
        (user(name), Mark { until: at(until), expires: NOW.saturating_add(DAY), kind })
    }

    fn is_hit(marks: &Marks, name: &str, issued: i64, now: UnixTime) -> bool {
        marks.find([user(name)].into_iter(), at(issued), now).is_some()
    }

    #[test]
    fn what_was_issued_until_the_event_is_revoked() {
        let marks = Marks::new(10);
        assert_eq!(marks.put(mark("alice", 0), NOW), Put::More(mark("alice", 0).1));
        for (name, issued, expected) in
            [("alice", -1, true), ("alice", 0, true), ("alice", 1, false), ("bob", -1, false)]
        {
            assert_eq!(is_hit(&marks, name, issued, NOW), expected, "{name} {issued}");
        }
        let beginning = UnixTime::from_millis(i64::MIN);
        assert!(marks.find([user("alice")].into_iter(), beginning, NOW).is_some());
    }

    #[test]
    fn the_latest_event_counts_in_whatever_order_they_come() {
        for order in [[0, 50, 100], [100, 50, 0], [50, 100, 0], [0, 100, 50]] {
            let marks = Marks::new(10);
            for it in order {
                marks.put(mark("alice", it), NOW);
            }
            assert!(is_hit(&marks, "alice", 100, NOW) && !is_hit(&marks, "alice", 101, NOW));
            assert_eq!(marks.entries(), 1);
            assert_eq!(marks.put(mark("alice", 100), NOW), Put::Nothing, "twice is once");
        }
    }

    #[test]
    fn an_event_counts_until_it_has_been_kept_long_enough() {
        let marks = Marks::new(10);
        marks.put(mark("alice", 0), NOW);
        let end = NOW.saturating_add(DAY);
        let before = end.saturating_sub(Duration::from_millis(1));
        assert!(is_hit(&marks, "alice", -1, before) && !is_hit(&marks, "alice", -1, end));
        assert_eq!((marks.drop_expired(before), marks.drop_expired(end)), (0, 1));
        assert_eq!(marks.entries(), 0);
    }

    #[test]
    fn an_event_without_room_is_not_forgotten_but_revokes_more() {
        let marks = Marks::new(2);
        marks.put(mark("alice", 0), NOW);
        marks.put(mark("bob", 0), NOW);
        assert_eq!(marks.no_room(NOW), None);
        assert!(!is_hit(&marks, "carol", 5, NOW));
        assert_eq!(marks.put(mark("dave", 5), NOW), Put::MoreOfAll, "there is no room");
        assert_eq!(marks.put(mark("dave", 5), NOW), Put::Nothing);
        assert_eq!((marks.entries(), marks.no_room(NOW)), (2, Some(at(5))));
        for name in ["carol", "dave"] {
            let found = marks.find([user(name)].into_iter(), at(5), NOW);
            assert_eq!(found, Some(Hit::NoRoom(at(5))), "{name}");
            assert!(!is_hit(&marks, name, 6, NOW), "issued after all that was missed");
        }
        let found = marks.find([user("alice")].into_iter(), at(0), NOW);
        assert!(matches!(found, Some(Hit::Event(_))), "what is known is told");
        let more = marks.put(mark("alice", 9), NOW);
        assert_eq!(more, Put::More(mark("alice", 9).1), "what is known needs no room");
        assert!(is_hit(&marks, "alice", 9, NOW));
        // No longer than an event would count.
        let end = NOW.saturating_add(DAY);
        assert!(!is_hit(&marks, "carol", 5, end));
    }

    #[test]
    fn a_number_stands_for_what_is_revoked() {
        let (marks, other) = (Marks::new(1), Marks::new(1));
        assert_ne!(marks.number(), other.number());
        let mut numbers = vec![marks.number()];
        marks.put(mark("alice", 0), NOW);
        numbers.push(marks.number());
        marks.put(mark("alice", 0), NOW);
        assert_eq!(numbers.last(), Some(&marks.number()), "twice is once");
        marks.put(mark("alice", 1), NOW);
        numbers.push(marks.number());
        marks.put(mark("bob", 1), NOW);
        numbers.push(marks.number());
        marks.pass_over((UnixTime::from_secs(2), NOW.saturating_add(DAY)));
        numbers.push(marks.number());
        let distinct: std::collections::HashSet<_> = numbers.iter().collect();
        assert_eq!(distinct.len(), 5);
    }

    #[test]
    fn what_has_expired_makes_room() {
        let marks = Marks::new(1);
        marks.put(mark("alice", 0), NOW);
        let later = NOW.saturating_add(DAY);
        let (subject, of_bob) = mark("bob", 0);
        let of_bob = Mark { expires: later.saturating_add(DAY), ..of_bob };
        marks.put((subject, of_bob), later);
        assert_eq!((marks.entries(), marks.no_room(later)), (1, None));
        assert_eq!(marks.all(later), [(subject, of_bob)]);
    }

    #[test]
    fn more_room_counts_from_then_on() {
        let marks = Marks::new(0);
        marks.put(mark("alice", 0), NOW);
        assert_eq!(marks.entries(), 0);
        marks.set_capacity(1);
        marks.put(mark("alice", 0), NOW);
        assert_eq!(marks.entries(), 1);
        let after = Marks::new(1);
        after.pass_over(marks.passed_over(NOW).unwrap());
        assert!(is_hit(&after, "carol", 0, NOW));
    }
}
