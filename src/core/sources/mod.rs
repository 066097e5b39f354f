//! What a check gets from elsewhere, and the one thing that it leaves behind.
//!
//! A check reads no clock and does no I/O. Besides the request and the rules it needs keys,
//! introspection and the record of used proofs, for which it asks a [`Sources`]. Whatever may take long
//! is a future, which may be polled by any runtime, or by none if it is ready at once.

mod fixed;

pub use fixed::Fixed;

use crate::client_certificate::{ClientCertificate, Source};
use crate::denial::{Denial, Detail, Refusal};
use crate::jose::jwk::{KeySet, SignedBy};
use crate::jose::key::VerifyingKey;
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::access_token::AccessToken;
use crate::oauth::credentials::Token;
use crate::oauth::dpop::ProofId;
use crate::oauth::introspection::Jwt;
use crate::policy::IssuerId;
use crate::request::Evidence;
use crate::time::UnixTime;
use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// What may not be there at once. Any runtime may poll it, on any thread.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What checks get from elsewhere.
///
/// Only the keys and the record of used proofs are required; everything else has a safe default. For
/// keys that do not change, [`Fixed`] is ready-made.
pub trait Sources: Sync {
    /// The keys of one issuer.
    type Keys: Keys;

    /// The keys of an issuer. There must be some for each: without, its tokens are refused as
    /// [`Denial::Internal`]. Keys that are not there yet are [`Keys::current`]'s to say.
    fn keys(&self, issuer: IssuerId) -> Option<&Self::Keys>;

    /// Records that `proof` is used, and returns whether it was used before, in one atomic step: of
    /// two calls for the same proof only one may get [`Use::First`] (RFC 9449 §11.1).
    ///
    /// `expires` is the last moment at which the proof would be accepted otherwise: the record must
    /// live through it.
    fn record<'a>(
        &'a self,
        proof: &'a ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Waiting<'a, Result<Use, NotRecorded>>;

    /// Where used proofs are recorded, for an explanation.
    fn record_label(&self) -> &'static str {
        "memory"
    }

    /// Whether [`Self::introspect`] asks this issuer at all.
    fn introspects(&self, _issuer: IssuerId) -> bool {
        false
    }

    /// What an issuer says about `token`, whose SHA-256 is `hash` (RFC 7662).
    ///
    /// Of a token that is itself a JWT only the state is asked for. Whether an active token is valid
    /// at this time is checked by the caller.
    fn introspect<'a>(
        &'a self,
        _issuer: IssuerId,
        _token: Token<'a>,
        _hash: Thumbprint,
    ) -> Waiting<'a, Result<Introspected, Unconfirmed>> {
        Box::pin(ready(Err(Denial::IntrospectionUnavailable.into())))
    }

    /// Whether `token` was revoked. Asked about each token of an issuer that
    /// [revokes](crate::policy::Issuer::revokes) some, at each check, whether or not it is cached.
    fn standing<'a>(
        &'a self,
        _issuer: IssuerId,
        _token: &'a AccessToken,
        _now: UnixTime,
    ) -> Standing<'a> {
        Standing::Good
    }

    /// What [`Self::standing`] looks at, for an explanation.
    fn describe_standing(&self, _issuer: IssuerId) -> String {
        "nothing".to_owned()
    }

    /// What was cached of `token`. Everything but its signature is checked again.
    ///
    /// What is returned for another token is as good as a forged signature: whoever keeps less than the
    /// whole text of a token keeps of it what nobody can find a second token for.
    fn remembered(&self, _token: Token<'_>) -> Option<VerifiedToken> {
        None
    }

    /// Caches what was verified of `token`, whose signature is good.
    fn remember(&self, _token: Token<'_>, _verified: VerifiedToken) {}

    /// The client for which a verified token was bound to `certificate` before, if that is known. It
    /// decides nothing: operators read it where a token is bound to another certificate.
    fn client_of(&self, _certificate: Thumbprint) -> Option<Arc<str>> {
        None
    }

    /// The client's certificate by `source`: the result of [`Source::read`], which may be cached.
    fn certificate(&self, source: &Source, evidence: &Evidence<'_>) -> ClientCertificate {
        source.read(evidence)
    }

    /// How costly work of a check takes turns with that of others.
    fn turns(&self) -> &dyn Turns {
        &AtOnce
    }
}

/// How costly work (a verification of a signature, some tens of microseconds) takes turns on a thread
/// that has much else to do. By default it starts at once.
pub trait Turns: Sync {
    /// Waits until costly work may start; none if it may start now.
    fn turn(&self) -> Option<Waiting<'_, ()>> {
        None
    }

    /// Costly work starts on this thread.
    fn work_begins(&self) {}

    /// It has ended. This thread did nothing else in between.
    fn work_ends(&self) {}
}

/// The keys of one issuer.
pub trait Keys: Sync {
    /// The keys that may be used now.
    fn current(&self) -> Option<Arc<KeySet>>;

    /// The same, but may wait for the first keys if there have been none yet.
    fn available(&self) -> Waiting<'_, Option<Arc<KeySet>>> {
        Box::pin(ready(self.current()))
    }

    /// A newer set than `seen`, which does not have the key of a token. It must not wait for longer
    /// than a request can.
    fn newer_than<'a>(&'a self, _seen: &'a Arc<KeySet>) -> Waiting<'a, Newer> {
        Box::pin(ready(Newer::None))
    }

    /// `keys` with the most likely one first, for a token that names none.
    fn by_likelihood<'k>(&self, keys: Vec<&'k VerifyingKey>) -> Vec<&'k VerifyingKey> {
        keys
    }

    /// Whether this many more keys may be tried for a token that names none. Each try is a
    /// verification, and anybody can send such tokens.
    fn may_try(&self, _keys: u64) -> bool {
        true
    }

    /// `key` verified a token that names none, for which this many tries were granted.
    fn was_the_one(&self, _key: &Arc<Thumbprint>, _granted: u64) {}

    /// What keys there are and since when, for an explanation.
    fn describe(&self) -> String {
        let count = self.current().map_or(0, |it| it.len());
        format!("keys: {count}")
    }

    /// As [`Sources::turns`].
    fn turns(&self) -> &dyn Turns {
        &AtOnce
    }
}

/// The result of looking for a newer set of keys.
#[derive(Clone, Debug)]
pub enum Newer {
    /// A newer set.
    Set(Arc<KeySet>),
    /// The issuer still publishes the set that was seen.
    None,
    /// The issuer may not be asked now, or did not answer.
    Unasked {
        /// When it last answered; none if it never did.
        heard: Option<UnixTime>,
        /// In how many seconds it may be asked again.
        ask_again: u64,
    },
}

/// What is known of a proof that has just been recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is used for the first time.
    First,
    /// It has been used before.
    Repeat,
}

/// A proof could not be recorded. It must not be accepted then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRecorded(pub Detail);

/// A token that its issuer called active.
#[derive(Clone, Debug)]
pub struct Introspected {
    /// The token.
    pub token: Arc<AccessToken>,
    /// What goes upstream in its place.
    pub forward: Option<Arc<Jwt>>,
    /// How long this may be relied on before the issuer is asked again.
    pub good_for: Duration,
}

/// Whether a token was revoked.
pub enum Standing<'a> {
    /// It was not.
    Good,
    /// It was, or nobody can tell.
    Refused(Unconfirmed),
    /// This will tell. It must not wait for longer than a request can.
    Waits(Waiting<'a, Result<(), Unconfirmed>>),
}

impl fmt::Debug for Standing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good => f.write_str("Good"),
            Self::Refused(it) => f.debug_tuple("Refused").field(it).finish(),
            Self::Waits(_) => f.write_str("Waits"),
        }
    }
}

/// Why a token is not confirmed: by its issuer, or because it was revoked.
#[derive(Clone, Debug)]
pub struct Unconfirmed {
    /// The reason, and its detail.
    pub refusal: Refusal,
    /// What lies behind it, in words for the operator: clients never read them. They may hold what the
    /// issuer sent, and never the token.
    pub why: Option<Arc<str>>,
}

impl<T: Into<Refusal>> From<T> for Unconfirmed {
    fn from(refusal: T) -> Self {
        Self { refusal: refusal.into(), why: None }
    }
}

impl Unconfirmed {
    /// All that is known of it, in words for the operator.
    pub(crate) fn in_words(&self) -> String {
        let Refusal { denial, detail } = self.refusal;
        let usual = detail.map_or_else(|| denial.sentence(), Detail::sentence);
        match (&self.why, detail) {
            (None, _) => usual.to_owned(),
            (Some(why), None | Some(Detail::IssuerAnswerUnusable)) => why.to_string(),
            (Some(why), Some(_)) => format!("{usual}; {why}"),
        }
    }
}

/// A JWT whose signature and claims were verified.
#[derive(Clone, Debug)]
pub struct VerifiedToken {
    /// The token.
    pub token: Arc<AccessToken>,
    /// The key that verified it.
    pub signed_by: SignedBy,
}

/// Work that starts at once.
#[derive(Clone, Copy, Debug)]
struct AtOnce;

impl Turns for AtOnce {}

/// Runs `work` when it may start.
pub(crate) async fn in_turn<T>(turns: &dyn Turns, work: impl FnOnce() -> T) -> T {
    if let Some(turn) = turns.turn() {
        turn.await;
    }
    turns.work_begins();
    let done = work();
    turns.work_ends();
    done
}
