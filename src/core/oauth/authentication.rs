//! The login behind a token: how and how recently the user authenticated (RFC 9470 §6).

use super::access_token::{AccessToken, one_of, time};
use super::claims::Claim;
use crate::denial::Denial;
use crate::explanation::{Explanation, Finding};
use crate::jose::json;
use crate::policy::Authentication;
use crate::time::UnixTime;
use std::time::Duration;

impl AccessToken {
    /// Checks that the user logged in as `demanded`. A token that does not say how or when, is refused
    /// where that matters.
    pub fn admit_authentication(
        &self,
        demanded: &Authentication,
        now: UnixTime,
        explanation: &mut Explanation,
    ) -> Result<(), Denial> {
        self.admit_acr(demanded, explanation)?;
        self.admit_auth_time(demanded, now, explanation)
    }

    /// `acr` must be one of the classes, as a string (RFC 9470 §6.1).
    pub(crate) fn admit_acr(
        &self,
        demanded: &Authentication,
        explanation: &mut Explanation,
    ) -> Result<(), Denial> {
        if demanded.acr.is_empty() {
            return Ok(());
        }
        let own = self.claims.text("acr");
        let fits = own.is_some_and(|own| demanded.acr.iter().any(|it| it == own));
        explanation.demand(fits, Denial::AuthenticationInsufficient, || {
            Finding::new("token", "acr", told(self.claims.get("acr")))
                .wanting(one_of(&demanded.acr))
        })
    }

    /// `auth_time` must be within `max_age` before now. One in the future is no login that has taken
    /// place; it may be in milliseconds, and would count as recent for ever.
    pub(crate) fn admit_auth_time(
        &self,
        demanded: &Authentication,
        now: UnixTime,
        explanation: &mut Explanation,
    ) -> Result<(), Denial> {
        let Some(seconds) = demanded.max_age_seconds else { return Ok(()) };
        let (max_age, leeway) = (Duration::from_secs(seconds.into()), self.issuer.clock_leeway);
        let earliest = now.saturating_sub(max_age).saturating_sub(leeway);
        let latest = now.saturating_add(leeway);
        let at = self.auth_time();
        let fits = at.is_some_and(|it| earliest <= it && it <= latest);
        explanation.demand(fits, Denial::AuthenticationInsufficient, || {
            let written = || told(self.claims.get("auth_time"));
            let found = at.map_or_else(written, UnixTime::to_rfc3339);
            Finding::new("token", "auth_time", found).wanting(format!(
                "from {} to {}, which is now and {max_age:?} before, with {leeway:?} of leeway",
                earliest.to_rfc3339(),
                latest.to_rfc3339()
            ))
        })
    }

    /// Until when the login counts as recent where it is `demanded`; none where that does not matter.
    pub(crate) fn login_ends(&self, demanded: &Authentication) -> Option<UnixTime> {
        let max_age = Duration::from_secs(demanded.max_age_seconds?.into());
        Some(self.auth_time()?.saturating_add(max_age).saturating_add(self.issuer.clock_leeway))
    }

    /// When the user logged in; none without a number that says so.
    fn auth_time(&self) -> Option<UnixTime> {
        match self.claims.get("auth_time")? {
            Claim::Text(_) => None,
            Claim::Json(text) => time(&json::value(text.as_bytes()).ok()?, f64::floor).ok(),
        }
    }
}

fn told(claim: Option<Claim<'_>>) -> String {
    claim.map_or_else(|| "absent".to_owned(), |it| it.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::Audience;
    use crate::oauth::examples::issuer;
    use serde_json::{Value, json};

    const NOW: i64 = 1_800_000_000;
    const LEEWAY: i64 = 30;

    /// What becomes of a token with these claims where `demanded` is.
    fn judged(claims: &Value, demanded: &Authentication) -> Result<(), Denial> {
        let paths = Authentication::CLAIMS.iter().map(ToString::to_string).collect();
        let (claims, none) = (claims.as_object().unwrap(), &mut Explanation::default());
        let token =
            AccessToken::introspected(claims, &issuer(), &paths, Audience::IfSaid, none).unwrap();
        let at = UnixTime::from_secs(NOW);
        let found = token.admit_authentication(demanded, at, none);
        assert_eq!(token.admit_authentication(demanded, at, &mut Explanation::kept()), found);
        found
    }

    #[test]
    fn a_login_counts_until_the_moment_after_which_it_is_refused() {
        let claims = json!({"auth_time": NOW});
        let none = &mut Explanation::default();
        let paths = Authentication::CLAIMS.iter().map(ToString::to_string).collect();
        let claims = claims.as_object().unwrap();
        let token =
            AccessToken::introspected(claims, &issuer(), &paths, Audience::IfSaid, none).unwrap();
        let demanded = Authentication { max_age_seconds: Some(300), ..Authentication::default() };
        let ends = token.login_ends(&demanded).unwrap();
        assert_eq!(ends, UnixTime::from_secs(NOW + 300 + LEEWAY));
        for (later, fits) in [(0, true), (1, false)] {
            let now = ends.saturating_add(Duration::from_millis(later));
            let found = token.admit_authentication(&demanded, now, none);
            assert_eq!(found.is_ok(), fits, "{later} ms later");
        }
        assert_eq!(token.login_ends(&Authentication::default()), None);
    }

    #[test]
    fn the_class_is_one_of_those_that_are_accepted() {
        let acr = vec!["phr".to_owned(), "urn:example:loa3".to_owned()];
        let demanded = Authentication { acr, ..Authentication::default() };
        for (claims, fits) in [
            (json!({"acr": "phr"}), true),
            (json!({"acr": "urn:example:loa3"}), true),
            (json!({"acr": "PHR"}), false),
            (json!({"acr": "phr urn:example:loa3"}), false),
            (json!({"acr": ["phr"]}), false),
            (json!({"acr": ""}), false),
            (json!({"acr": null}), false),
            (json!({"acr": 1}), false),
            (json!({"auth_time": NOW}), false),
            (json!({}), false),
        ] {
            let expected = if fits { Ok(()) } else { Err(Denial::AuthenticationInsufficient) };
            assert_eq!(judged(&claims, &demanded), expected, "{claims}");
            assert_eq!(judged(&claims, &Authentication::default()), Ok(()), "{claims}");
        }
    }

    #[test]
    fn the_login_is_neither_too_long_ago_nor_to_come() {
        let demanded = Authentication { max_age_seconds: Some(300), ..Authentication::default() };
        let earliest = NOW - 300 - LEEWAY;
        for (auth_time, fits) in [
            (json!(NOW), true),
            (json!(earliest), true),
            (json!(earliest - 1), false),
            (json!(NOW + LEEWAY), true),
            (json!(NOW + LEEWAY + 1), false),
            (json!(1_799_999_999.5), true),
            (json!(1_799_999_669.999), false),
            (json!(NOW * 1000), false),
            (json!(1e300), false),
            (json!(-1e300), false),
            (json!(NOW.to_string()), false),
            (json!([NOW]), false),
            (json!(true), false),
            (json!(null), false),
        ] {
            let expected = if fits { Ok(()) } else { Err(Denial::AuthenticationInsufficient) };
            let claims = json!({"auth_time": auth_time});
            assert_eq!(judged(&claims, &demanded), expected, "{claims}");
            assert_eq!(judged(&claims, &Authentication::default()), Ok(()), "{claims}");
        }
        // What the token was issued at says nothing of the login.
        let without = judged(&json!({"iat": NOW, "acr": "phr"}), &demanded);
        assert_eq!(without, Err(Denial::AuthenticationInsufficient));
    }

    #[test]
    fn both_must_hold_where_both_are_asked_for() {
        let demanded = Authentication { acr: vec!["phr".to_owned()], max_age_seconds: Some(300) };
        let refused = Err(Denial::AuthenticationInsufficient);
        for (claims, expected) in [
            (json!({"acr": "phr", "auth_time": NOW}), Ok(())),
            (json!({"acr": "pwd", "auth_time": NOW}), refused),
            (json!({"acr": "phr", "auth_time": NOW - 331}), refused),
            (json!({"acr": "phr"}), refused),
            (json!({"auth_time": NOW}), refused),
        ] {
            assert_eq!(judged(&claims, &demanded), expected, "{claims}");
        }
    }
}
