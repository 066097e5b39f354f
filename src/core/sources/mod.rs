//! The ways out of a decision: all that a check gets from elsewhere, and the one mark that it leaves.
//!
//! A check reads no clock and does no I/O. What it needs besides the request and the rules it asks a
//! [`Sources`] for: keys, introspection, the record of used proofs. Whatever may take long is a future,
//! which may be polled by any runtime, or by none where it is ready at once.

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
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

/// What may not be there at once. Any runtime may poll it, on any thread.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What checks get from elsewhere.
///
/// Only the keys and the record of used proofs must be given; all else has a default that is safe and
/// does nothing. [`Fixed`] is ready-made for keys that do not change.
pub trait Sources: Turns {
    /// The keys of one issuer.
    type Keys: Keys;

    /// The keys of an issuer; none: it has none here, and its tokens are refused.
    fn keys(&self, issuer: IssuerId) -> Option<&Self::Keys>;

    /// Records that `proof` is used, and says whether it was before, in one step: of two calls for
    /// the same proof only one may be told [`Use::First`] (RFC 9449 §11.1).
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
    ) -> Waiting<'a, Result<Introspected, Refusal>> {
        Box::pin(ready(Err(Denial::IntrospectionUnavailable.into())))
    }

    /// The token with this SHA-256, if it was remembered. It is checked again all the same, but for
    /// its signature.
    fn remembered(&self, _hash: Thumbprint) -> Option<VerifiedToken> {
        None
    }

    /// Remembers a token whose signature was verified.
    fn remember(&self, _hash: Thumbprint, _token: VerifiedToken) {}

    /// What `source` tells of the client's certificate, which is what [`Source::read`] says; it may be
    /// remembered from before.
    fn certificate(&self, source: &Source, evidence: &Evidence<'_>) -> ClientCertificate {
        source.read(evidence)
    }

    /// What `work` gives, some tens of microseconds of computation, once it is its turn.
    fn in_turn<T: Send>(&self, work: impl FnOnce() -> T + Send) -> impl Future<Output = T> + Send {
        ready(work())
    }
}

/// Costly computation, some tens of microseconds at a time, takes turns where a thread has much else to
/// do. Where nothing is said, it is always its turn.
pub trait Turns: Sync {
    /// Waits until it is the turn of costly work; none: it is now.
    fn turn(&self) -> Option<Waiting<'_, ()>> {
        None
    }

    /// Costly work begins on this thread.
    fn work_begins(&self) {}

    /// It has ended. There was nothing else on this thread in between.
    fn work_ends(&self) {}
}

/// The keys of one issuer.
pub trait Keys: Turns {
    /// The keys that may be used now.
    fn current(&self) -> Option<Arc<KeySet>>;

    /// The same. May wait for the first keys where there have been none yet.
    fn available(&self) -> Waiting<'_, Option<Arc<KeySet>>> {
        Box::pin(ready(self.current()))
    }

    /// Another set than `seen`, in which the key of a token was looked for in vain. It must not wait
    /// for longer than is good for a request.
    fn newer_than<'a>(&'a self, _seen: &'a Arc<KeySet>) -> Waiting<'a, Newer> {
        Box::pin(ready(Newer::None))
    }

    /// `keys` with the likeliest first, for a token that names none.
    fn by_likelihood<'k>(&self, keys: Vec<&'k VerifyingKey>) -> Vec<&'k VerifyingKey> {
        keys
    }

    /// Whether so many more keys may be tried for a token that names none: each try is a
    /// verification, and anybody can send such tokens.
    fn may_try(&self, _keys: u64) -> bool {
        true
    }

    /// `key` verified a token that names none, after so many keys were granted for it.
    fn was_the_one(&self, _key: &Arc<Thumbprint>, _granted: u64) {}

    /// What keys there are and since when, for an explanation.
    fn describe(&self) -> String {
        let count = self.current().map_or(0, |it| it.len());
        format!("keys: {count}")
    }

    /// As [`Sources::in_turn`].
    fn in_turn<T: Send>(&self, work: impl FnOnce() -> T + Send) -> impl Future<Output = T> + Send {
        ready(work())
    }
}

/// What came of looking for another set of keys.
#[derive(Clone, Debug)]
pub enum Newer {
    /// There is another.
    Set(Arc<KeySet>),
    /// The issuer stands by the one that was seen.
    None,
    /// The issuer may not be asked just now, or did not answer.
    Unasked {
        /// When it was last heard; none: never.
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
}

/// A JWT whose signature and claims were verified.
#[derive(Clone, Debug)]
pub struct VerifiedToken {
    /// The token.
    pub token: Arc<AccessToken>,
    /// The key that verified it.
    pub signed_by: SignedBy,
}

/// What `work` gives, once it is its turn.
pub(crate) async fn in_turn<S: Turns + ?Sized, T>(turns: &S, work: impl FnOnce() -> T) -> T {
    if let Some(turn) = turns.turn() {
        turn.await;
    }
    turns.work_begins();
    let done = work();
    turns.work_ends();
    done
}
