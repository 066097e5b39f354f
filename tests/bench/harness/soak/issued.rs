//! Tokens that say of themselves by which key they are signed, and of which session they are.

use super::super::corpus::claims;
use super::super::tokens::Signer;
use serde_json::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) text: String,
    /// The number of the key that signed it.
    pub(super) key: usize,
    /// The number of the session that it is of.
    pub(super) session: usize,
}

impl Token {
    /// A token by a key of this number, that is good for so many seconds.
    pub(super) fn new(
        signer: &Signer,
        key: usize,
        session: usize,
        cnf: &Value,
        good_for: i64,
    ) -> Self {
        let mut claims = claims(0, cnf);
        claims["jti"] = unique().into();
        claims["sid"] = sid(session).into();
        claims["exp"] = (i64::try_from(now()).unwrap() + good_for).into();
        Self { text: signer.sign("at+jwt", &claims), key, session }
    }

    /// A token by a key that nobody published, issued so long ago that it would have been.
    pub(super) fn by_stranger(signer: &Signer, cnf: &Value) -> Self {
        let mut claims = claims(0, cnf);
        claims["iat"] = (now() - 3600).into();
        Self { text: signer.sign("at+jwt", &claims), key: 0, session: 0 }
    }
}

/// What `sid` names a session.
pub(super) fn sid(session: usize) -> String {
    format!("session-{session}")
}

/// A `jti` that no other token or proof has.
pub(super) fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:08x}-4b0e-8f0c-ab54bd2b6f1d", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
