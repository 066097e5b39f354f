//! A limit on the connections of a listener, and which are closed to make room for new ones.
//!
//! Connections that have not sent anything are closed first, then idle ones. On a listener that
//! anybody can reach, busy ones follow, and those just accepted come last.

use crate::front::peer::{Everybody, Peer};
use crate::rate_limit::{Allowance, RateLimit};
use std::collections::HashMap;
use std::mem::discriminant;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The connection limit of one listener.
#[derive(Debug)]
pub struct Places {
    listener: &'static str,
    rules: PlaceRules,
    everybody: Arc<Everybody>,
    open: Mutex<Open>,
    refused: RateLimit,
    made: RateLimit,
}

/// The limit, and which connections may be closed for new ones.
#[derive(Clone, Copy, Debug)]
pub struct PlaceRules {
    /// The maximum number of open connections.
    pub most: usize,
    /// How long a connection without a call takes to count as idle.
    pub idle: Duration,
    /// Whether the oldest connection is closed if none is silent or idle.
    pub anybody: bool,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    all: HashMap<u64, Entry>,
}

/// An open connection, and its state when last inspected.
#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    end: Option<AbortHandle>,
    opened: Instant,
    calls: u64,
    last_call: Instant,
    turned: Instant,
    written: u64,
    last_written: Instant,
}

/// The place of a connection, given back when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
    peer: Arc<Peer>,
}

/// A handle that can abort a connection.
#[derive(Debug)]
pub struct Hold {
    places: Arc<Places>,
    number: u64,
}

/// The order in which connections are closed: lower ones first, and among equal ones the longest in
/// that state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Silent(Instant),
    /// Just opened, on a listener for proxies. These rest between requests, and opening many at
    /// once must not close them.
    New(Instant),
    Idle(Instant),
    Busy(Instant),
    /// Just opened, on a listener where any connection may be closed. The request of a probe may be
    /// on its way.
    Probe(Instant),
}

/// How long a connection without a request counts as new.
const NEW: Duration = Duration::from_secs(1);

/// How often connections are to be inspected.
pub const LOOK: Duration = Duration::from_millis(500);

/// How long an answer may stay unread before its connection is closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same while more than [`UNTAKEN`] bytes are unread in all.
const LITTLE_PATIENCE: Duration = Duration::from_secs(1);

/// The limit on unread bytes of all connections, beyond which slow readers are disconnected sooner.
const UNTAKEN: usize = 32 * 1024 * 1024;

/// The limit for one connection. A client with so many unread answers is not a proxy.
const UNTAKEN_OF_ONE: usize = 16 * 1024 * 1024;

/// This fraction of the connections is closed at a time, so that a flood does not cause a search
/// per connection.
const PART: usize = 64;

impl Places {
    /// A limit for the listener of this name. `everybody` holds the connections of all listeners.
    pub fn new(listener: &'static str, rules: PlaceRules, everybody: Arc<Everybody>) -> Arc<Self> {
        let (open, refused, made) = (Mutex::default(), RateLimit::of(1), RateLimit::of(1));
        Arc::new(Self { listener, rules, everybody, open, refused, made })
    }

    /// The name of the listener.
    pub const fn listener(&self) -> &'static str {
        self.listener
    }

    /// The number of open connections.
    pub fn taken(&self) -> usize {
        self.lock().all.len()
    }

    /// A place for a new connection, closing others if need be.
    pub fn take(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let mut open = self.lock();
        if self.rules.most <= open.all.len() && self.make_place(&mut open, now) == 0 {
            if let Allowance::Within { untold } = self.refused.take(now) {
                let (listener, limit) = (self.listener, self.rules.most);
                tracing::warn!(listener, limit, untold, "connection refused: the limit is reached");
            }
            return None;
        }
        let number = open.next;
        open.next = number.wrapping_add(1);
        let peer = Peer::new(Arc::clone(&self.everybody));
        open.all.insert(number, Entry::new(Arc::clone(&peer), now));
        drop(open);
        Some(Place { places: Arc::clone(self), number, peer })
    }

    /// Closes silent or idle connections although there are places, because another resource is
    /// short.
    pub fn shrink(&self, now: Instant) {
        self.make_place(&mut self.lock(), now);
    }

    /// Inspects every connection, and closes those that do not read their answers.
    pub fn look(&self, now: Instant) {
        let mut open = self.lock();
        let mut untaken: usize = 0;
        for entry in open.all.values_mut() {
            entry.look(now);
            untaken = untaken.saturating_add(entry.peer.untaken());
        }
        let patience = if UNTAKEN < untaken { LITTLE_PATIENCE } else { PATIENCE };
        let gone = |(number, entry): (&u64, &Entry)| {
            let waits = UNTAKEN_OF_ONE < entry.peer.untaken() || entry.waits(now, patience);
            waits.then_some(*number)
        };
        let gone: Vec<_> = open.all.iter().filter_map(gone).collect();
        for number in &gone {
            open.end(*number);
        }
        drop(open);
        if !gone.is_empty() {
            let (listener, connections) = (self.listener, gone.len());
            let message = "connection ended: its answers are not taken";
            tracing::warn!(listener, connections, "{message}");
        }
    }

    /// Closes the least active connections, and returns how many.
    fn make_place(&self, open: &mut Open, now: Instant) -> usize {
        let gone = self.least(open, now);
        for number in &gone {
            open.end(*number);
        }
        if !gone.is_empty()
            && let Allowance::Within { untold } = self.made.take(now)
        {
            let (listener, limit, ended) = (self.listener, self.rules.most, gone.len());
            tracing::warn!(listener, limit, ended, untold, "closed idle connections to make room");
        }
        gone.len()
    }

    /// The least active connections: a fraction of the silent or idle ones, otherwise a single one,
    /// so that no more busy ones are closed than necessary.
    fn least(&self, open: &Open, now: Instant) -> Vec<u64> {
        let claim = |(number, it): (&u64, &Entry)| Some((it.claim(now, self.rules)?, *number));
        let claims = || open.all.iter().filter_map(claim);
        let Some((first, number)) = claims().min() else { return vec![] };
        let part = self.rules.most.div_euclid(PART);
        if part < 2 || matches!(first, Claim::Idle(_) | Claim::Busy(_)) {
            return vec![number];
        }
        let mut alike: Vec<_> =
            claims().filter(|(it, _)| discriminant(it) == discriminant(&first)).collect();
        alike.sort_unstable();
        alike.into_iter().take(part).map(|(_, number)| number).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // The state is consistent whenever the lock is held, even after a panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn end(&mut self, number: u64) {
        if let Some(end) = self.all.remove(&number).and_then(|it| it.end) {
            end.abort();
        }
    }
}

impl Entry {
    fn new(peer: Arc<Peer>, now: Instant) -> Self {
        Self {
            peer,
            end: None,
            opened: now,
            calls: 0,
            last_call: now,
            turned: now,
            written: 0,
            last_written: now,
        }
    }

    fn look(&mut self, now: Instant) {
        let calls = self.peer.calls();
        if calls != self.calls || self.peer.under_way() != 0 {
            (self.calls, self.last_call) = (calls, now);
        }
        // Only then are all unread answers of the previous generation older than `turned`.
        if self.peer.untaken_before() == 0 {
            self.peer.turn();
            self.turned = now;
        }
        let (written, blocked) = self.peer.writing();
        if written != self.written || !blocked {
            (self.written, self.last_written) = (written, now);
        }
    }

    /// Whether answers have been unread for longer than `patience`.
    fn waits(&self, now: Instant, patience: Duration) -> bool {
        let long = |since| patience <= now.saturating_duration_since(since);
        (self.peer.untaken_before() != 0 && long(self.turned)) || long(self.last_written)
    }

    fn claim(&self, now: Instant, rules: PlaceRules) -> Option<Claim> {
        let calls = self.peer.calls();
        if calls == 0 {
            let is_new = now.saturating_duration_since(self.opened) < NEW;
            return Some(match (is_new, rules.anybody) {
                (false, _) => Claim::Silent(self.opened),
                (true, false) => Claim::New(self.opened),
                (true, true) => Claim::Probe(self.opened),
            });
        }
        let rests = calls == self.calls && self.peer.under_way() == 0;
        if rests && rules.idle <= now.saturating_duration_since(self.last_call) {
            return Some(Claim::Idle(self.last_call));
        }
        rules.anybody.then_some(Claim::Busy(self.opened))
    }
}

impl Place {
    /// Its connection.
    pub const fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// A handle to register how the connection can be aborted.
    pub fn hold(&self) -> Hold {
        Hold { places: Arc::clone(&self.places), number: self.number }
    }
}

impl Hold {
    /// Registers `task`, whose abort closes the connection. It is aborted at once if the place is
    /// already gone.
    pub fn on(self, task: AbortHandle) {
        match self.places.lock().all.get_mut(&self.number) {
            Some(entry) => entry.end = Some(task),
            None => task.abort(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::future::pending;
    use tokio::task::JoinSet;
    use tokio::time::advance;

    const SECOND: Duration = seconds(1);

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn places(most: usize, anybody: bool) -> Arc<Places> {
        let rules = PlaceRules { most, idle: seconds(5), anybody };
        Places::new("ext_authz", rules, Arc::default())
    }

    /// Connections by name, each of which lives until it is ended.
    struct Crowd {
        places: Arc<Places>,
        tasks: JoinSet<()>,
        all: Vec<(Arc<Peer>, AbortHandle)>,
    }

    impl Crowd {
        fn new(places: Arc<Places>) -> Self {
            Self { places, tasks: JoinSet::new(), all: vec![] }
        }

        /// One more, if there is a place for it.
        async fn open(&mut self) -> bool {
            let taken = self.places.take(Instant::now());
            let come = taken.is_some();
            if let Some(place) = taken {
                let (peer, hold) = (Arc::clone(place.peer()), place.hold());
                let task = self.tasks.spawn(async move {
                    pending::<()>().await;
                    drop(place);
                });
                hold.on(task.clone());
                self.all.push((peer, task));
            }
            tokio::task::yield_now().await;
            come
        }

        async fn say(&self, who: usize) {
            drop(self.all[who].0.call());
            self.look().await;
        }

        async fn look(&self) {
            self.places.look(Instant::now());
            tokio::task::yield_now().await;
        }

        fn open_ones(&self) -> Vec<usize> {
            (0..self.all.len()).filter(|it| !self.all[*it].1.is_finished()).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_just_come_goes_last_for_its_question_may_be_on_its_way() {
        for (anybody, others_asked, left) in [
            (true, true, [1, 2, 3].as_slice()),
            (true, false, &[1, 2, 3]),
            (false, false, &[1, 2, 3]),
        ] {
            let mut crowd = Crowd::new(places(3, anybody));
            for who in 0..2 {
                assert!(crowd.open().await);
                if others_asked {
                    crowd.say(who).await;
                }
            }
            advance(SECOND).await;
            // A probe, and whoever comes before it has asked.
            assert!(crowd.open().await);
            assert!(crowd.open().await);
            assert_eq!(crowd.open_ones(), left, "{anybody} {others_asked}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_opens_many_at_once_ends_no_connection_that_rests() {
        let mut crowd = Crowd::new(places(3, false));
        assert!(crowd.open().await);
        crowd.say(0).await;
        advance(seconds(60)).await;
        for _ in 0..9 {
            assert!(crowd.open().await);
        }
        assert_eq!(crowd.open_ones(), [0, 8, 9], "of those who have just come, the oldest go");
        crowd.say(8).await;
        crowd.say(9).await;
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), [8, 9, 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_is_heard_before_those_who_rest() {
        let mut crowd = Crowd::new(places(2, true));
        assert!(crowd.open().await);
        crowd.say(0).await;
        advance(seconds(60)).await;
        assert!(crowd.open().await && crowd.open().await);
        assert_eq!(crowd.open_ones(), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_nothing_goes_first_and_of_those_the_oldest() {
        let mut crowd = Crowd::new(places(3, false));
        for _ in 0..3 {
            assert!(crowd.open().await);
            advance(SECOND).await;
        }
        crowd.say(0).await;
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), [0, 2, 3]);
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), [0, 3, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn then_whoever_is_idle_for_longest_and_never_who_is_busy() {
        let mut crowd = Crowd::new(places(3, false));
        for who in [0, 1, 2] {
            assert!(crowd.open().await);
            crowd.say(who).await;
        }
        assert!(!crowd.open().await, "nobody is idle yet");
        advance(seconds(2)).await;
        crowd.say(0).await;
        advance(seconds(3)).await;
        crowd.say(2).await;
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), [0, 2, 3]);
        crowd.say(3).await;
        assert!(!crowd.open().await);
        advance(seconds(2)).await;
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), [2, 3, 4], "it has said nothing for five seconds");
        assert_eq!(crowd.places.taken(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_is_not_idle() {
        let mut crowd = Crowd::new(places(1, false));
        assert!(crowd.open().await);
        let call = crowd.all[0].0.call();
        for _ in 0..60 {
            advance(SECOND).await;
            crowd.look().await;
        }
        assert!(!crowd.open().await);
        drop(call);
        assert!(!crowd.open().await, "it is idle from here on");
        advance(seconds(5)).await;
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_since_the_last_look_counts() {
        let mut crowd = Crowd::new(places(1, false));
        assert!(crowd.open().await);
        crowd.say(0).await;
        advance(seconds(60)).await;
        drop(crowd.all[0].0.call());
        assert!(!crowd.open().await);
    }

    #[tokio::test(start_paused = true)]
    async fn where_anybody_makes_place_the_oldest_does_in_the_end() {
        let mut crowd = Crowd::new(places(2, true));
        assert!(crowd.open().await && crowd.open().await);
        let calls: Vec<_> = crowd.all.iter().map(|it| it.0.call()).collect();
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), [1, 2]);
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), [2, 3], "who has just come goes last");
        advance(SECOND).await;
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), [3, 4], "who says nothing goes first");
        drop(calls);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_makes_place_for_itself_and_for_others() {
        let most = 10 * PART;
        let mut crowd = Crowd::new(places(most, false));
        for _ in 0..most {
            assert!(crowd.open().await);
            advance(Duration::from_millis(1)).await;
        }
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones().len(), most - 10 + 1);
        assert_eq!(crowd.open_ones()[0], 10, "the oldest have gone");
    }

    #[tokio::test(start_paused = true)]
    async fn of_those_who_rest_no_more_go_than_must() {
        let most = 10 * PART;
        let mut crowd = Crowd::new(places(most, false));
        for who in 0..most {
            assert!(crowd.open().await);
            drop(crowd.all[who].0.call());
        }
        crowd.look().await;
        advance(seconds(5)).await;
        assert!(crowd.open().await);
        assert_eq!(crowd.open_ones(), (1..=most).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_given_back_is_there_for_the_next() {
        let places = places(1, false);
        let now = Instant::now();
        let place = places.take(now).unwrap();
        drop(place.peer().call());
        assert!(places.take(now).is_none());
        drop(place);
        assert!(places.take(now).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_lost_its_place_before_it_was_served_is_not() {
        let places = places(1, false);
        let first = places.take(Instant::now()).unwrap();
        let _second = places.take(Instant::now()).unwrap();
        let mut tasks = JoinSet::new();
        first.hold().on(tasks.spawn(pending::<()>()));
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
        drop(first);
        assert_eq!(places.taken(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_in_time_ends_its_connection() {
        let mut crowd = Crowd::new(places(3, false));
        for _ in 0..2 {
            assert!(crowd.open().await);
        }
        let _untaken = crowd.all[0].0.answer(Bytes::from_static(b"answer"));
        crowd.look().await;
        for _ in 0..9 {
            advance(SECOND).await;
            // That others are taken meanwhile changes nothing.
            drop(crowd.all[0].0.answer(Bytes::from_static(b"answer")));
            drop(crowd.all[1].0.answer(Bytes::from_static(b"answer")));
            crowd.look().await;
        }
        assert_eq!(crowd.open_ones(), [0, 1]);
        advance(SECOND).await;
        crowd.look().await;
        assert_eq!(crowd.open_ones(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_connection_that_takes_its_answers_goes_on() {
        let mut crowd = Crowd::new(places(1, false));
        assert!(crowd.open().await);
        let mut waits = crowd.all[0].0.answer(Bytes::from_static(b"answer"));
        for _ in 0..60 {
            advance(SECOND).await;
            crowd.look().await;
            // There is always one that waits, and never for long.
            waits = crowd.all[0].0.answer(Bytes::from_static(b"answer"));
        }
        drop(waits);
        assert_eq!(crowd.open_ones(), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_cannot_be_written_to_ends() {
        let mut crowd = Crowd::new(places(1, false));
        assert!(crowd.open().await);
        for taken in [false, true, false] {
            crowd.all[0].0.wrote(taken);
            advance(seconds(9)).await;
            crowd.look().await;
        }
        assert_eq!(crowd.open_ones(), [0], "it moved in between");
        advance(seconds(10)).await;
        crowd.look().await;
        assert_eq!(crowd.open_ones(), [0_usize; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_shorter_when_much_is_not_taken() {
        let mut crowd = Crowd::new(places(9, false));
        let piece = Bytes::from(vec![0; UNTAKEN_OF_ONE / 2]);
        let mut untaken = vec![];
        for who in 0..5 {
            assert!(crowd.open().await);
            untaken.push(crowd.all[who].0.answer(piece.clone()));
        }
        crowd.look().await;
        advance(SECOND).await;
        assert!(crowd.open().await);
        let _new = crowd.all[5].0.answer(piece.clone());
        crowd.look().await;
        assert_eq!(crowd.open_ones(), [5], "who has just been answered may take it");
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_that_takes_nothing_ends_when_it_is_too_much() {
        let mut crowd = Crowd::new(places(2, false));
        let piece = Bytes::from(vec![0; UNTAKEN_OF_ONE - ANSWER]);
        for who in 0..2 {
            assert!(crowd.open().await);
            std::mem::forget(crowd.all[who].0.answer(piece.clone()));
            crowd.look().await;
        }
        assert_eq!(crowd.open_ones(), [0, 1]);
        std::mem::forget(crowd.all[0].0.answer(Bytes::new()));
        crowd.look().await;
        assert_eq!(crowd.open_ones(), [1]);
    }

    const ANSWER: usize = 1024;
}
