//! A cache of introspection results and failures, keyed by the tokens' SHA-256 and bounded by
//! number and by bytes.

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

/// An introspection result.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// It is active.
    Active(Introspected),
    /// The token is inactive, or not for us.
    Refused(Refused),
}

/// A token that is not accepted by what its issuer said.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub(super) denial: Denial,
    /// What it lacks, in words for the operator.
    pub(super) why: Option<Arc<str>>,
}

impl From<Denial> for Refused {
    fn from(denial: Denial) -> Self {
        Self { denial, why: None }
    }
}

/// An active token.
#[derive(Clone, Debug)]
pub struct Introspected {
    /// The token.
    pub token: Arc<AccessToken>,
    /// The JWT to forward in its place.
    pub forward: Option<Arc<Jwt>>,
    /// The settings under which the response was read.
    pub(super) reading: Reading,
    /// The key that signed the response, if it was signed.
    pub(super) signed_by: Option<SignedBy>,
    /// The response, kept to be read again when the configuration changes.
    pub(super) said: Said,
}

/// The settings, besides the claim rules, that affect how a response is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// A JWT is forwarded in place of an opaque token.
    pub(super) forward_jwt: bool,
    /// The response may lack an audience.
    pub(super) allow_missing_audience: bool,
}

/// The response of the issuer, unparsed.
#[derive(Clone)]
pub(super) enum Said {
    /// A JSON object about the token.
    Statement(Arc<[u8]>),
    /// The JWT that the token stands for.
    AccessToken(Arc<Jwt>),
    /// Too long to be kept.
    Much,
}

/// Results with their lifetimes. Refusals and failures are kept apart from active tokens, so that a
/// flood of bad tokens evicts no good one.
pub(super) struct Answers {
    active: Arc<Bounded<Introspected>>,
    refused: Bounded<Refused>,
    troubles: Arc<Bounded<Trouble>>,
    upkeep: IntrospectionUpkeep,
}

type Bounded<T> = Cache<Digest, Kept<T>, Cost, Seeded>;

#[derive(Clone)]
pub(super) struct Kept<T> {
    what: T,
    since: Instant,
    /// The latest time at which this may be used.
    until: Instant,
}

/// Why there was no result for a token.
#[derive(Clone, Copy)]
pub(super) struct Trouble {
    /// The number of failed calls in a row; 0 if no call was made.
    calls: u32,
}

impl Answers {
    /// An empty cache, or one that shares the active tokens of `heard` and the failures of `failed`
    /// where their bounds allow.
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

    /// The result for the token with this digest, while it is valid.
    pub(super) fn get(&self, digest: &Digest) -> Option<Finding> {
        let now = Instant::now();
        if let Some(kept) = self.active.get(digest).filter(|it| self.counts(it, now)) {
            return Some(Finding::Active(kept.what));
        }
        self.refusal(digest).map(Finding::Refused)
    }

    /// The refusal of the token with this digest, while it is valid.
    pub(super) fn refusal(&self, digest: &Digest) -> Option<Refused> {
        self.refused.get(digest).filter(|it| Instant::now() < it.until).map(|it| it.what)
    }

    fn counts(&self, kept: &Kept<Introspected>, now: Instant) -> bool {
        now < kept.until && now.saturating_duration_since(kept.since) < self.upkeep.cache_ttl
    }

    /// Caches a result for at most `lifetime`.
    pub(super) fn insert(&self, digest: Digest, finding: &Finding, lifetime: Duration) {
        let now = Instant::now();
        self.troubles.remove(&digest);
        // The earlier result no longer applies.
        match finding {
            Finding::Active(what) => {
                self.refused.remove(&digest);
                let until = after(now, lifetime);
                self.active.insert(digest, Kept { what: what.clone(), since: now, until });
            }
            Finding::Refused(what) => {
                self.active.remove(&digest);
                self.refuse(digest, what.clone());
            }
        }
    }

    /// Caches a refusal, which takes precedence over an active result.
    pub(super) fn refuse(&self, digest: Digest, what: Refused) {
        let now = Instant::now();
        let until = after(now, self.upkeep.negative_ttl);
        if now < until {
            self.refused.insert(digest, Kept { what, since: now, until });
        }
    }

    /// Replaces a result by the same response read under other rules, keeping its expiry.
    pub(super) fn replace(&self, digest: Digest, what: &Introspected) {
        if let Some(kept) = self.active.get(&digest) {
            // An error means that the entry was just evicted.
            drop(self.active.replace(digest, Kept { what: what.clone(), ..kept }, false));
        }
    }

    /// Caches that the call for a token of this rank failed: briefly at first, so that a good token
    /// survives a short outage, and twice as long with each failure, so that a token at which the
    /// issuer always fails causes few calls.
    pub(super) fn failed(&self, digest: Digest, rank: Rank) {
        let before = self.troubles.get(&digest).map_or(0, |it| it.what.calls);
        let doublings = if rank == Rank::Known { 0 } else { before };
        let pause = doubled(MOMENT, doublings, self.upkeep.negative_ttl);
        let now = Instant::now();
        let until = after(now, pause);
        let what = Trouble { calls: before.saturating_add(1) };
        self.troubles.insert(digest, Kept { what, since: now, until });
    }

    /// Caches that no call was made for a token.
    pub(super) fn turned_away(&self, digest: Digest) {
        if self.troubles.get(&digest).is_none() {
            let now = Instant::now();
            let kept = Kept { what: Trouble { calls: 0 }, since: now, until: now };
            self.troubles.insert(digest, kept);
        }
    }

    /// Whether the call for this token has just failed.
    pub(super) fn has_just_failed(&self, digest: &Digest) -> bool {
        self.troubles.get(digest).is_some_and(|it| Instant::now() < it.until)
    }

    /// The rank of a token without a valid result.
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

    /// The number of tokens cached as active.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// The number of tokens cached as refused.
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
    /// The response, unless it is too long.
    pub(super) fn statement(words: &[u8]) -> Self {
        if words.len() <= MUCH { Self::Statement(words.into()) } else { Self::Much }
    }

    /// Its size together with the JWT to forward, which may be the same.
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

/// The cache for a new configuration: the same one if its bound is unchanged, else a new one with
/// as many entries as fit.
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
    // An entry weighs at least its share of the bytes, so that one bound enforces both limits.
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

/// Initial capacity in entries; the cache grows as needed.
const EXPECTED: usize = 10_000;

/// Maximum size per issuer in bytes. A response takes half a kilobyte, and a JWT one or two.
const BYTES: u64 = 64 << 20;

/// Longer responses are not kept for reading again.
const MUCH: usize = 8 * 1024;

/// How long the first failure is cached.
const MOMENT: Duration = Duration::from_millis(250);

/// How long a token that was active keeps its priority.
const LATELY: Duration = Duration::from_secs(3600);

/// The size of an entry in bytes.
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

impl Weighter<Digest, Kept<Refused>> for Cost {
    fn weight(&self, _: &Digest, kept: &Kept<Refused>) -> u64 {
        let words = kept.what.why.as_ref().map_or(0, |it| it.len());
        u64::try_from(words).unwrap_or(u64::MAX).max(self.share)
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
            answers.insert(token, &Finding::Refused(Denial::TokenInactive.into()), Duration::MAX);
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
