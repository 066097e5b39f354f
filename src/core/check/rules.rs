//! What a check goes by: the policies, and what is worked out from them beforehand.

use crate::oauth::nonce::NonceKeys;
use crate::policy::PolicySet;
use crate::policy::reserved::ReservedHeaders;
use std::sync::Arc;

/// What a check goes by. It says what is demanded; what is known comes from
/// [`Sources`](crate::sources::Sources).
#[derive(Debug)]
pub struct Rules {
    /// What is demanded.
    pub policies: PolicySet,
    /// The secrets behind the nonces of DPoP.
    pub nonces: Arc<NonceKeys>,
    /// The claims that somebody will ask for.
    pub(super) selection: Arc<[String]>,
    reserved: ReservedHeaders,
    heeds_routes: bool,
}

impl Rules {
    /// Rules that demand what `policies` say, and make nonces with `nonces`.
    pub fn new(policies: PolicySet, nonces: Arc<NonceKeys>) -> Self {
        let selection = policies.claims_asked_for().into();
        let heeds_routes = policies.heeds_routes();
        let reserved = ReservedHeaders::of(&policies);
        Self { policies, nonces, selection, reserved, heeds_routes }
    }

    /// The names of request headers that no client may use in another spelling.
    pub const fn reserved_headers(&self) -> &ReservedHeaders {
        &self.reserved
    }

    /// Whether what the annotations of a route say counts.
    pub const fn heeds_routes(&self) -> bool {
        self.heeds_routes
    }
}
