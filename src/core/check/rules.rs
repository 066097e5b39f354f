//! The rules of a check: the policies, and what is computed from them in advance.

use crate::oauth::nonce::NonceKeys;
use crate::policy::PolicySet;
use crate::policy::reserved::ReservedHeaders;
use crate::request::Request;
use crate::resource::{ResourceMetadata, Resources};
use std::sync::Arc;

/// The rules of a check: what is required of a request. Keys and stores come from
/// [`Sources`](crate::sources::Sources).
#[derive(Debug)]
pub struct Rules {
    /// The policies, and the issuers they accept.
    pub policies: PolicySet,
    /// The secrets from which DPoP nonces are made.
    pub nonces: Arc<NonceKeys>,
    /// The claims to keep of a token: those that policies or headers use.
    pub(super) selection: Arc<[String]>,
    reserved: ReservedHeaders,
    heeds_routes: bool,
    resources: Resources,
}

impl Rules {
    /// Rules that require what `policies` say, and make nonces with `nonces`.
    pub fn new(policies: PolicySet, nonces: Arc<NonceKeys>) -> Self {
        let selection = policies.claims_asked_for().into();
        let heeds_routes = policies.heeds_routes();
        let reserved = ReservedHeaders::of(&policies);
        let resources = Resources::of(&policies);
        Self { policies, nonces, selection, reserved, heeds_routes, resources }
    }

    /// The names of request headers that clients must not send in another spelling.
    pub const fn reserved_headers(&self) -> &ReservedHeaders {
        &self.reserved
    }

    /// The metadata that a request asks for, which are answered with [`Verdict::serving`] in place of a
    /// check. A check knows nothing of them, and refuses a request for them like any other.
    ///
    /// [`Verdict::serving`]: crate::Verdict::serving
    pub fn metadata_asked_for(&self, request: &Request<'_>) -> Option<&Arc<ResourceMetadata>> {
        self.resources.asked_for(request)
    }

    /// Whether some policy may be selected by an annotation of the route.
    pub const fn heeds_routes(&self) -> bool {
        self.heeds_routes
    }
}
