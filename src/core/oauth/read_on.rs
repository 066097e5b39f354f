//! Reading on: every demand on a token, each on its own, for an explanation of its refusal.

use super::access_token::{self as demands, AccessToken, Demands};
use super::claims::Claims;
use super::revocable::Revocable;
use crate::jose::json::Object;
use crate::jose::jws::Header;
use crate::mismatches::Mismatches;
use crate::policy::Issuer;
use crate::time::UnixTime;
use std::sync::Arc;

impl AccessToken {
    /// What can be read of a JWT, whatever it lacks; none if it is not known to which keys it is bound.
    /// Nothing may be allowed by it.
    pub(crate) fn read_on(
        (header, claims): (&Header, &Object),
        issuer: &Arc<Issuer>,
        selection: &Arc<[String]>,
        beside: &mut Mismatches,
    ) -> Option<Self> {
        beside.step(|it| demands::admit_type(header, issuer, it));
        for claim in &issuer.type_claims {
            beside.step(|it| demands::admit_type_claim(*claim, claims, issuer, it));
        }
        let Demands { issuer: named, audience, expiry } =
            Demands::of_jwt(issuer, issuer.claims_from);
        beside.step(|it| demands::admit_issuer(claims, issuer, named, it));
        let audience = beside.step(|it| demands::admit_audience(claims, issuer, audience, it));
        for path in demands::TEXTS {
            beside.step(|it| demands::admit_text(path, claims, issuer, it));
        }
        let expires = beside.step(|it| demands::end(claims, expiry, it)).unwrap_or(demands::END);
        let mut begins = demands::BEGINNING;
        for name in demands::STARTS {
            let start = beside.step(|it| demands::start(name, claims, it));
            begins = begins.max(start.unwrap_or(demands::BEGINNING));
        }
        let confirmation = beside.step(|it| demands::confirmation(claims, it))?;
        let has_audience = audience.unwrap_or_default();
        let revocable = Revocable::of(claims, issuer);
        let claims = Claims::select(claims, selection, &issuer.claim_names);
        let issuer = Arc::clone(issuer);
        Some(Self { issuer, confirmation, claims, revocable, expires, begins, has_audience })
    }

    /// The demands on its times.
    pub(crate) fn admit_on(&self, now: UnixTime, beside: &mut Mismatches) {
        beside.step(|it| self.admit_end(now, it));
        beside.step(|it| self.admit_start(now, it));
    }
}
