//! Comparison of policies by strictness: a partial order.

use super::{Mode, Policy, SenderConstraint};

impl Policy {
    /// Whether this policy is at least as strict as `other` in every respect: what it allows,
    /// `other` allows as well.
    ///
    /// A policy in report mode refuses nothing, and a public one asks for nothing: none is less strict.
    pub fn asks_at_least(&self, other: &Self) -> bool {
        // Destructured in full, so that a new field must be considered here.
        let Self {
            name: _,
            matches: _,
            public: _,
            sender_constraint,
            issuers,
            scopes,
            claims,
            authentication,
            origin,
            streams,
            mode,
            routes_may_name_it: _,
            realm: _,
            resource: _,
            resource_metadata: _,
        } = other;
        if *mode == Mode::Report || other.is_public() {
            return true;
        }
        let origin_is_asked_for = *sender_constraint != SenderConstraint::None && origin.is_some();
        self.mode == Mode::Enforce
            && !self.is_public()
            && self.sender_constraint.asks_at_least(*sender_constraint)
            && self.issuers.iter().all(|it| issuers.contains(it))
            && scopes.iter().all(|it| self.scopes.contains(it))
            && claims.iter().all(|asked| self.claims.iter().any(|it| it.asks_at_least(asked)))
            && self.authentication.asks_at_least(authentication)
            && self.streams.asks_at_least(*streams)
            // Without an origin, a proof must name the host of the request itself.
            && (!origin_is_asked_for || self.origin == *origin)
    }
}

impl SenderConstraint {
    /// Whether `other` accepts every token that this policy accepts, with no more to prove.
    const fn asks_at_least(self, other: Self) -> bool {
        match (self, other) {
            (_, Self::None)
            | (Self::Certificate, Self::Certificate)
            | (Self::Dpop, Self::Dpop)
            | (Self::Certificate | Self::Dpop | Self::Either, Self::Either)
            | (Self::Certificate | Self::Dpop | Self::Either | Self::IfBound, Self::IfBound) => {
                true
            }
            (Self::Certificate, Self::Dpop)
            | (Self::Dpop, Self::Certificate)
            | (Self::Either | Self::IfBound, Self::Certificate | Self::Dpop)
            | (Self::IfBound, Self::Either)
            | (Self::None, Self::Certificate | Self::Dpop | Self::Either | Self::IfBound) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Authentication, ClaimRule, ClaimValues, IssuerId, Streams};
    use crate::uri::Origin;
    use crate::words::Words;
    use SenderConstraint::{Certificate, Dpop, Either, IfBound, None};
    use serde_json::json;

    fn values(given: serde_json::Value) -> ClaimValues {
        ClaimValues::parse(given).unwrap()
    }

    #[test]
    fn a_binding_that_fewer_tokens_have_asks_for_more() {
        for (one, at_least) in [
            (Certificate, &[Certificate, Either, IfBound, None][..]),
            (Dpop, &[Dpop, Either, IfBound, None]),
            (Either, &[Either, IfBound, None]),
            (IfBound, &[IfBound, None]),
            (None, &[None]),
        ] {
            for other in SenderConstraint::all() {
                let policy = |constraint| Policy::new("p", constraint);
                let found = policy(one).asks_at_least(&policy(other));
                assert_eq!(found, at_least.contains(&other), "{one:?} {other:?}");
            }
        }
    }

    fn login(acr: &[&str], max_age_seconds: Option<u32>) -> Authentication {
        Authentication { acr: acr.iter().map(ToString::to_string).collect(), max_age_seconds }
    }

    /// A policy with every requirement, after one edit.
    fn edited(edit: impl FnOnce(&mut Policy)) -> Policy {
        let claim = ClaimRule { path: "acr".to_owned(), values: values(json!(["a", "b"])) };
        let mut policy = Policy {
            issuers: vec![IssuerId(0), IssuerId(1)],
            scopes: vec!["read".to_owned(), "write".to_owned()],
            claims: vec![claim],
            authentication: login(&["phr", "phrh"], Some(300)),
            origin: Some(Origin::parse("https://api.example.com").unwrap()),
            streams: Streams::EndWithToken,
            ..Policy::new("p", Either)
        };
        edit(&mut policy);
        policy
    }

    #[test]
    fn each_demand_counts_by_itself() {
        let full = edited(|_| ());
        let other = || Some(Origin::parse("https://other.example.com").unwrap());
        // Whether `full` is as strict as the edited one, and the reverse.
        for (what, edited, as_much, is_as_much) in [
            ("nothing", edited(|_| ()), true, true),
            ("a name", edited(|it| it.name = "q".into()), true, true),
            ("a realm", edited(|it| it.realm = "q".to_owned()), true, true),
            ("a route", edited(|it| it.routes_may_name_it = true), true, true),
            ("mode", edited(|it| it.mode = Mode::Report), true, false),
            ("binding", edited(|it| it.sender_constraint = IfBound), true, false),
            ("one issuer", edited(|it| it.issuers.truncate(1)), false, true),
            ("one more", edited(|it| it.issuers.push(IssuerId(2))), true, false),
            ("one scope", edited(|it| it.scopes.truncate(1)), true, false),
            ("another scope", edited(|it| it.scopes[0] = "pay".to_owned()), false, false),
            ("scopes turned", edited(|it| it.scopes.reverse()), true, true),
            ("no claim", edited(|it| it.claims.clear()), true, false),
            ("one value", edited(|it| it.claims[0].values = values(json!("a"))), false, true),
            ("another claim", edited(|it| it.claims[0].path = "amr".to_owned()), false, false),
            ("no login", edited(|it| it.authentication = login(&[], Option::None)), true, false),
            ("one class", edited(|it| it.authentication.acr.truncate(1)), false, true),
            ("later", edited(|it| it.authentication.max_age_seconds = Some(299)), false, true),
            (
                "any time",
                edited(|it| it.authentication.max_age_seconds = Option::None),
                true,
                false,
            ),
            ("endless streams", edited(|it| it.streams = Streams::Ignore), true, false),
            ("no origin", edited(|it| it.origin = Option::None), true, false),
            ("another origin", edited(|it| it.origin = other()), false, false),
        ] {
            assert_eq!(full.asks_at_least(&edited), as_much, "{what}");
            assert_eq!(edited.asks_at_least(&full), is_as_much, "{what}");
        }
    }

    #[test]
    fn a_public_policy_asks_for_less_than_any_that_wants_a_token() {
        let public = Policy::public("health");
        let reporting = Policy { mode: Mode::Report, ..Policy::new("p", Dpop) };
        for constraint in SenderConstraint::all() {
            let other = Policy::new("p", constraint);
            assert!(
                other.asks_at_least(&public) && !public.asks_at_least(&other),
                "{constraint:?}"
            );
        }
        assert!(public.asks_at_least(&reporting) && reporting.asks_at_least(&public));
        assert!(public.asks_at_least(&Policy::public("docs")));
    }

    #[test]
    fn who_calls_itself_public_and_demands_something_is_not() {
        let scopes = vec!["read".to_owned()];
        let claim = ClaimRule { path: "acr".to_owned(), values: values(json!("a")) };
        let public = || Policy::public("p");
        assert!(public().is_public());
        assert!(!Policy { public: false, ..public() }.is_public());
        for constraint in [Certificate, Dpop, Either, IfBound] {
            assert!(!Policy { sender_constraint: constraint, ..public() }.is_public());
        }
        for (what, policy) in [
            ("scopes", Policy { scopes, ..public() }),
            ("claims", Policy { claims: vec![claim], ..public() }),
            ("a class", Policy { authentication: login(&["phr"], Option::None), ..public() }),
            ("a time", Policy { authentication: login(&[], Some(300)), ..public() }),
            ("streams", Policy { streams: Streams::EndWithToken, ..public() }),
        ] {
            assert!(!policy.is_public(), "{what}");
        }
    }

    #[test]
    fn who_only_reports_asks_for_nothing() {
        let reports = |edit: fn(&mut Policy)| {
            edited(|it| {
                it.mode = Mode::Report;
                edit(it);
            })
        };
        let weaker = reports(|it| it.scopes.clear());
        assert!(weaker.asks_at_least(&reports(|_| ())));
        assert!(Policy::new("p", None).asks_at_least(&reports(|_| ())));
        assert!(!reports(|_| ()).asks_at_least(&Policy::new("p", None)));
    }
}
