//! What issuers said about tokens not long ago, and at which they failed, by the tokens' SHA-256.
//! Bounded by number and by bytes.

use super::rank::Rank;
use crate::state::introspection::IntrospectionUpkeep;
use crate::state::token_cache::{Digest, Seeded};
use crate::state::waits::{after, doubled};
use keybound_core::Denial;
use keybound_core::jose::SignedBy;
use keybound_core::oauth::AccessToken;
use keybound_core::oauth::Jwt;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What an issuer says about a token, as far as it counts here.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// It is active.
    Active(Introspected),
    /// It is not, or it is not for us.
    Refused(Denial),
}

/// A token that its issuer called active.
#[derive(Clone, Debug)]
pub struct Introspected {
    /// The token.
    pub token: Arc<AccessToken>,
    /// What goes upstream in its place.
    pub forward: Option<Arc<Jwt>>,
    /// How it was read.
    pub(super) reading: Reading,
    /// The key with which the issuer signed the answer, if it did.
    pub(super) signed_by: Option<SignedBy>,
    /// The answer, to be read again when the configuration asks something else of it.
    pub(super) said: Said,
}

/// What of the rules decides about how an answer is read, besides what tokens are held to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// A JWT goes upstream in place of an opaque token.
    pub(super) forward_jwt: bool,
    /// The answer may say nothing of its audience.
    pub(super) allow_missing_audience: bool,
}

/// What an issuer said, in its own words.
#[derive(Clone)]
pub(super) enum Said {
    /// A JSON object about the token.
    Statement(Arc<[u8]>),
    /// The JWT that the token stands for.
    AccessToken(Arc<Jwt>),
    /// Too much to be kept.
    Much,
}

/// What was found, each for a time. Refusals and failures have places of their own, so that a flood
/// of tokens that are none displaces none that is one.
pub(super) struct Answers {
    active: Arc<Bounded<Introspected>>,
    refused: Bounded<Denial>,
    troubles: Arc<Bounded<Trouble>>,
    upkeep: IntrospectionUpkeep,
}

type Bounded<T> = Cache<Digest, Kept<T>, Cost, Seeded>;

#[derive(Clone)]
pub(super) struct Kept<T> {
    what: T,
    since: Instant,
    /// When the token ends at the latest, or what was found of it.
    until: Instant,
}

/// What kept the issuer from saying anything about a token.
#[derive(Clone, Copy)]
pub(super) struct Trouble {
    /// How many calls in a row failed. None: it was turned away.
    calls: u32,
}

impl Answers {
    /// No answers; or those about active tokens of `heard`, and at which tokens the issuer failed of
    /// `failed`, which go on to be shared with them where the bounds allow.
    pub(super) fn new(
        upkeep: IntrospectionUpkeep,
        heard: Option<&Self>,
        failed: Option<&Self>,
    ) -> Self {
        let entries = upkeep.cache_entries;
        let same = |it: &Self| it.upkeep.cache_entries == entries;
        Self {
            active: heard.map_or_else(
                || Arc::new(bounded(entries)),
                |it| handed_on(&it.active, same(it), entries),
            ),
            refused: bounded(entries),
            troubles: failed.map_or_else(
                || Arc::new(bounded(entries)),
                |it| handed_on(&it.troubles, same(it), entries),
            ),
            upkeep,
        }
    }

    /// What was found of the token with this digest, while it counts.
    pub(super) fn get(&self, digest: &Digest) -> Option<Finding> {
        let now = Instant::now();
        if let Some(kept) = self.active.get(digest).filter(|it| self.counts(it, now)) {
            return Some(Finding::Active(kept.what));
        }
        self.refusal(digest).map(Finding::Refused)
    }

    /// Why the token with this digest is refused, while that counts.
    pub(super) fn refusal(&self, digest: &Digest) -> Option<Denial> {
        self.refused.get(digest).filter(|it| Instant::now() < it.until).map(|it| it.what)
    }

    fn counts(&self, kept: &Kept<Introspected>, now: Instant) -> bool {
        now < kept.until && now.saturating_duration_since(kept.since) < self.upkeep.cache_ttl
    }

    /// Remembers what was found of a token that ends after `lifetime`.
    pub(super) fn insert(&self, digest: Digest, finding: &Finding, lifetime: Duration) {
        let now = Instant::now();
        self.troubles.remove(&digest);
        // What was said before counts no more.
        match finding {
            Finding::Active(what) => {
                self.refused.remove(&digest);
                let until = after(now, lifetime);
                self.active.insert(digest, Kept { what: what.clone(), since: now, until });
            }
            Finding::Refused(what) => {
                self.active.remove(&digest);
                self.refuse(digest, *what);
            }
        }
    }

    /// Remembers that a token is refused, whatever else is known of it.
    pub(super) fn refuse(&self, digest: Digest, what: Denial) {
        let now = Instant::now();
        let until = after(now, self.upkeep.negative_ttl);
        if now < until {
            self.refused.insert(digest, Kept { what, since: now, until });
        }
    }

    /// Puts what an answer says under other rules in its place, for no longer than it stood.
    pub(super) fn replace(&self, digest: Digest, what: &Introspected) {
        if let Some(kept) = self.active.get(&digest) {
            // An error says that it has just been displaced.
            drop(self.active.replace(digest, Kept { what: what.clone(), ..kept }, false));
        }
    }

    /// Remembers that the issuer failed at a token of this rank: for a moment, so that a good token
    /// gets over a short outage; for twice as long with each failure, so that one at which the
    /// issuer always fails is asked about seldom.
    pub(super) fn failed(&self, digest: Digest, rank: Rank) {
        let before = self.troubles.get(&digest).map_or(0, |it| it.what.calls);
        let doublings = if rank == Rank::Known { 0 } else { before };
        let pause = doubled(MOMENT, doublings, self.upkeep.negative_ttl);
        let now = Instant::now();
        let until = after(now, pause);
        let what = Trouble { calls: before.saturating_add(1) };
        self.troubles.insert(digest, Kept { what, since: now, until });
    }

    /// Remembers that the issuer was not asked about a token.
    pub(super) fn turned_away(&self, digest: Digest) {
        if self.troubles.get(&digest).is_none() {
            let now = Instant::now();
            let kept = Kept { what: Trouble { calls: 0 }, since: now, until: now };
            self.troubles.insert(digest, kept);
        }
    }

    /// Whether the issuer failed at a token just now.
    pub(super) fn has_just_failed(&self, digest: &Digest) -> bool {
        self.troubles.get(digest).is_some_and(|it| Instant::now() < it.until)
    }

    /// What is known of a token about which no answer counts.
    pub(super) fn rank(&self, digest: &Digest) -> Rank {
        let now = Instant::now();
        let lately = |since| now.saturating_duration_since(since) < LATELY;
        if self.active.get(digest).is_some_and(|it| lately(it.since)) {
            return Rank::Known;
        }
        match self.troubles.get(digest) {
            Some(it) if it.what.calls == 0 => Rank::Returning,
            Some(_) | None => Rank::New,
        }
    }

    /// How many tokens are remembered as active.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// How many tokens are remembered as refused.
    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (active, refused) = (self.active(), self.refused());
        f.debug_struct("Answers").field("active", &active).field("refused", &refused).finish()
    }
}

impl Said {
    /// The words of an answer, unless they are many.
    pub(super) fn statement(words: &[u8]) -> Self {
        if words.len() <= MUCH { Self::Statement(words.into()) } else { Self::Much }
    }

    /// What it takes together with what goes upstream, which may be the same JWT.
    fn bytes_with(&self, forward: Option<&Arc<Jwt>>) -> usize {
        let apart =
            |it: &&Arc<Jwt>| !matches!(self, Self::AccessToken(said) if Arc::ptr_eq(said, it));
        let forward = forward.filter(apart).map_or(0, |it| it.as_str().len());
        self.bytes().saturating_add(forward)
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Statement(words) => words.len(),
            Self::AccessToken(jwt) => jwt.as_str().len(),
            Self::Much => 0,
        }
    }
}

/// Claims are not for logs.
impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Said({} bytes)", self.bytes())
    }
}

/// What was kept: the same where its bound stays, else as much of it as fits.
fn handed_on<T: Clone>(kept: &Arc<Bounded<T>>, same: bool, entries: usize) -> Arc<Bounded<T>>
where
    Cost: Weighter<Digest, Kept<T>>,
{
    if same {
        return Arc::clone(kept);
    }
    let new = bounded(entries);
    kept.iter().for_each(|(digest, kept)| new.insert(digest, kept));
    Arc::new(new)
}

fn bounded<T: Clone>(entries: usize) -> Bounded<T>
where
    Cost: Weighter<Digest, Kept<T>>,
{
    let expected = entries.min(EXPECTED);
    // An entry weighs at least its share, so that the one bound keeps the other too.
    let cost = Cost { share: BYTES.div_ceil(u64::try_from(entries).unwrap_or(u64::MAX).max(1)) };
    let options = OptionsBuilder::new()
        .estimated_items_capacity(expected)
        .weight_capacity(BYTES)
        .shards(SHARDS)
        .build();
    let cache = options
        .map(|it| Cache::with_options(it, cost, <_>::default(), DefaultLifecycle::default()));
    cache.unwrap_or_else(|_| {
        Cache::with(expected, BYTES, cost, <_>::default(), DefaultLifecycle::default())
    })
}

/// Each shard has a lock.
const SHARDS: usize = 16;

/// Room that is made at the start; more is made as tokens come.
const EXPECTED: usize = 10_000;

/// What the tokens of one issuer may take. An answer has half a kilobyte, and a JWT one or two.
const BYTES: u64 = 64 << 20;

/// A longer answer is not kept to be read again.
const MUCH: usize = 8 * 1024;

/// The first pause after a failure.
const MOMENT: Duration = Duration::from_millis(250);

/// For so long a token that was active goes before others.
const LATELY: Duration = Duration::from_secs(3600);

/// The memory that an entry takes.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    share: u64,
}

impl Weighter<Digest, Kept<Introspected>> for Cost {
    fn weight(&self, _: &Digest, kept: &Kept<Introspected>) -> u64 {
        let Introspected { token, forward, said, .. } = &kept.what;
        let bytes = token.bytes().saturating_add(said.bytes_with(forward.as_ref()));
        u64::try_from(bytes).unwrap_or(u64::MAX).max(self.share)
    }
}

impl Weighter<Digest, Kept<Denial>> for Cost {
    fn weight(&self, _: &Digest, _: &Kept<Denial>) -> u64 {
        self.share
    }
}

impl Weighter<Digest, Kept<Trouble>> for Cost {
    fn weight(&self, _: &Digest, _: &Kept<Trouble>) -> u64 {
        self.share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::jose::Thumbprint;
    use tokio::time::advance;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn answers() -> (Answers, Digest) {
        (Answers::new(IntrospectionUpkeep::default(), None, None), Thumbprint::of(b"token").into())
    }

    #[test]
    fn a_jwt_that_is_both_the_answer_and_what_goes_upstream_takes_its_room_once() {
        let jwt = |text: &str| Arc::new(Jwt::verified(text));
        let same = jwt("a.b.c");
        for (said, forward, expected) in [
            (Said::AccessToken(Arc::clone(&same)), Some(&same), 5),
            (Said::AccessToken(Arc::clone(&same)), None, 5),
            (Said::AccessToken(jwt("a.b.c")), Some(&same), 10),
            (Said::statement(b"{}"), Some(&same), 7),
            (Said::Much, Some(&same), 5),
        ] {
            assert_eq!(said.bytes_with(forward), expected, "{said:?}, {forward:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_failure_in_a_row_is_remembered_for_twice_as_long_up_to_the_negative_ttl() {
        for (rank, pauses) in [
            (Rank::New, [250, 500, 1000, 2000, 4000, 5000, 5000]),
            (Rank::Returning, [250, 500, 1000, 2000, 4000, 5000, 5000]),
            (Rank::Known, [250; 7]),
        ] {
            let (answers, token) = answers();
            for pause in pauses {
                answers.failed(token, rank);
                advance(Duration::from_millis(pause).saturating_sub(MILLISECOND)).await;
                assert!(answers.has_just_failed(&token), "{rank:?}, {pause} ms");
                advance(MILLISECOND).await;
                assert!(!answers.has_just_failed(&token), "{rank:?}, {pause} ms");
            }
            answers.insert(token, &Finding::Refused(Denial::TokenInactive), Duration::MAX);
            answers.failed(token, rank);
            advance(Duration::from_millis(250)).await;
            assert!(!answers.has_just_failed(&token), "an answer clears what was before");
        }
        let upkeep =
            IntrospectionUpkeep { negative_ttl: Duration::ZERO, ..IntrospectionUpkeep::default() };
        let (answers, token) = (Answers::new(upkeep, None, None), answers().1);
        answers.failed(token, Rank::New);
        assert!(!answers.has_just_failed(&token), "nothing bad is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_turned_away_ranks_before_whom_nobody_knows_and_whom_the_issuer_failed_at() {
        let (answers, token) = answers();
        assert_eq!(answers.rank(&token), Rank::New);
        answers.turned_away(token);
        assert!(!answers.has_just_failed(&token));
        assert_eq!(answers.rank(&token), Rank::Returning);
        answers.failed(token, Rank::Returning);
        assert_eq!(answers.rank(&token), Rank::New);
        answers.turned_away(token);
        assert_eq!(answers.rank(&token), Rank::New);
        assert!(answers.has_just_failed(&token));
    }
}
