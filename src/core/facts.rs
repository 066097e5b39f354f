//! The facts that are published about a finished check: each with its name, its value and the
//! outputs that include it.
//!
//! Nothing is formatted until an output needs it.

use crate::check::{Seen, Verdict};
use crate::denial::{Denial, Detail};
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::access_token::AccessToken;
use crate::oauth::confirmation::Confirmation;
use crate::request::Request;
use Value::{Flag, Given, Label, Made, Number, Own, Print, Span};
use serde::{Serialize, Serializer};
use std::time::Duration;

/// An output of facts, or a set of outputs.
pub type Places = u8;

/// The dynamic metadata of the answer.
pub const METADATA: Places = 1;
/// The span of a trace.
pub const SPAN: Places = 1 << 1;
/// The line in the log.
pub const LOG: Places = 1 << 2;
/// The last denials in `/status`.
pub const LAST_DENIALS: Places = 1 << 3;
/// The explanation in JSON.
pub const EXPLANATION: Places = 1 << 4;

/// All facts, in the order of output.
const FACTS: &[Fact] = &[
    // The outcome, which a policy in report mode does not enforce.
    fact("decision", METADATA | SPAN | EXPLANATION, |it| Some(Label(it.decision()))),
    fact("reason", METADATA | SPAN | EXPLANATION, |it| Some(Label(it.reason(it.verdict.denied())))),
    fact("would_deny", METADATA | SPAN | EXPLANATION, |it| {
        it.verdict.would_deny().map(|denial| Label(denial.label()))
    }),
    // What the check found, in either mode.
    fact("reason", LOG | LAST_DENIALS, |it| Some(Label(it.reason(it.verdict.outcome.err())))),
    fact("detail", LOG | LAST_DENIALS | EXPLANATION, |it| it.detail().map(Label)),
    fact("let_through", LAST_DENIALS, |it| Some(Flag(it.verdict.would_deny().is_some()))),
    fact("front", LOG | LAST_DENIALS | SPAN, |it| it.front.map(Label)),
    fact("policy", METADATA | SPAN | LOG | LAST_DENIALS | EXPLANATION, |it| {
        it.verdict.facts.policy.as_ref().map(|policy| Own(&policy.name))
    }),
    fact("method", LOG | LAST_DENIALS, |it| it.request.map(|it| Given(it.target.method))),
    fact("host", LOG | LAST_DENIALS, |it| it.request.map(|it| Given(it.target.host_and_port()))),
    fact("path", LOG | LAST_DENIALS, |it| it.request.map(|it| Given(it.target.path_only()))),
    fact("issuer", METADATA | SPAN, |it| it.issuer().map(Own)),
    fact("issuer", LOG | LAST_DENIALS, |it| {
        it.issuer().map(Own).or_else(|| it.seen(true)?.issuer.as_deref().map(Given))
    }),
    // By a token that nothing verifies: anybody may have written it.
    fact("claimed_issuer", LOG | LAST_DENIALS, |it| it.seen(false)?.issuer.as_deref().map(Given)),
    fact("subject", METADATA, |it| it.claim("sub").map(Given)),
    fact("kid", LOG | LAST_DENIALS, |it| it.verdict.facts.kid.as_deref().map(Given)),
    fact("client_id", METADATA, |it| it.claim("client_id").map(Given)),
    fact("client_id", LOG | LAST_DENIALS, |it| it.client_id().map(Given)),
    fact("certificate", LOG | LAST_DENIALS, |it| it.verdict.facts.certificate.map(Print)),
    // For whom tokens are bound to that certificate, where the token is bound to another: a client that
    // has renewed it, or a thief.
    fact("certificate_client", LOG | LAST_DENIALS, |it| {
        it.verdict.facts.seen.as_deref()?.certificate_client.as_deref().map(Given)
    }),
    // The keys to which the token of a refused request is bound, and that of the proof if it is another.
    fact("bound_certificate", LOG | LAST_DENIALS, |it| it.bound_to()?.x5t_s256.map(Print)),
    fact("bound_key", LOG | LAST_DENIALS, |it| it.bound_to()?.jkt.map(Print)),
    fact("proof_key", LOG | LAST_DENIALS, |it| {
        it.verdict.facts.seen.as_deref()?.proof_key.map(Print)
    }),
    // How long ago the time was in the token or proof that was refused for it.
    fact("skew_seconds", LOG | LAST_DENIALS, |it| it.verdict.facts.seen.as_deref()?.skew.map(Span)),
    fact("sender_constraint", METADATA | SPAN | EXPLANATION, |it| Some(Label(it.proved()))),
    fact("proved", LOG | LAST_DENIALS, |it| Some(Label(it.proved()))),
    fact("trace_id", LOG | LAST_DENIALS, |it| it.trace_id.map(Own)),
    fact("span_id", LOG, |it| it.span_id.map(Own)),
    fact("request_id", LOG | LAST_DENIALS, |it| it.request_id().map(Given)),
    fact("micros", LOG, |it| it.elapsed.map(|it| Number(saturated(it.as_micros())))),
];

/// One row of the table.
#[derive(Clone, Copy)]
struct Fact {
    name: &'static str,
    places: Places,
    value: Reading,
}

type Reading = for<'a> fn(&Known<'a>) -> Option<Value<'a>>;

const fn fact(name: &'static str, places: Places, value: Reading) -> Fact {
    Fact { name, places, value }
}

/// A finished check, and the circumstances it was made in.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The outcome and the facts.
    pub verdict: &'a Verdict,
    /// The request, unless it could not be parsed.
    pub request: Option<&'a Request<'a>>,
    /// The front end.
    pub front: Option<&'static str>,
    /// The trace ID, in hexadecimal.
    pub trace_id: Option<&'a str>,
    /// The ID of the span of the check, or else of its parent, in hexadecimal.
    pub span_id: Option<&'a str>,
    /// The duration of the check.
    pub elapsed: Option<Duration>,
}

/// The value of a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// One of a fixed set.
    Label(&'static str),
    /// Text from the configuration, or generated here.
    Own(&'a str),
    /// Text from the client or the issuer of its token: any content, any length.
    Given(&'a str),
    /// A thumbprint, written in base64url.
    Print(Thumbprint),
    /// Text formatted on request.
    Made(String),
    /// A flag.
    Flag(bool),
    /// A number.
    Number(u64),
    /// A number of seconds, which may be negative.
    Span(i64),
}

/// The facts for one of the outputs, in the order of [`names`]; none for a fact that is not known.
pub fn of<'k, 'a>(
    place: Places,
    known: &'k Known<'a>,
) -> impl Iterator<Item = (&'static str, Option<Value<'a>>)> + use<'k, 'a> {
    let facts = if place == METADATA { &OF_METADATA } else { FACTS };
    let there = facts.iter().filter(move |it| it.places & place != 0);
    there.map(|it| (it.name, (it.value)(known)))
}

/// The facts for the metadata, which every answer has: in a row, they are read faster.
static OF_METADATA: [Fact; number(METADATA)] = those(METADATA);

const fn number(place: Places) -> usize {
    let (mut number, mut facts) = (0_usize, FACTS);
    while let Some((fact, rest)) = facts.split_first() {
        if fact.places & place != 0 {
            number = number.saturating_add(1);
        }
        facts = rest;
    }
    number
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "it is for the compiler, which says so"
)]
const fn those<const N: usize>(place: Places) -> [Fact; N] {
    let (mut those, mut filled, mut facts) = ([FACTS[0]; N], 0, FACTS);
    while let Some((fact, rest)) = facts.split_first() {
        if fact.places & place != 0 {
            those[filled] = *fact;
            filled += 1;
        }
        facts = rest;
    }
    those
}

/// The names of the facts for one of the outputs, padded with empty ones to `N`. More than `N` is a
/// compile error in a constant.
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "it is for the compiler, which says so"
)]
pub const fn names<const N: usize>(place: Places) -> [&'static str; N] {
    let (mut names, mut filled, mut facts) = ([""; N], 0, FACTS);
    while let Some((fact, rest)) = facts.split_first() {
        if fact.places & place != 0 {
            names[filled] = fact.name;
            filled += 1;
        }
        facts = rest;
    }
    names
}

impl<'a> Known<'a> {
    /// The facts that the check alone provides.
    pub const fn by(verdict: &'a Verdict) -> Self {
        let (request, front, trace_id, span_id, elapsed) = (None, None, None, None, None);
        Self { verdict, request, front, trace_id, span_id, elapsed }
    }

    fn decision(&self) -> &'static str {
        match (self.verdict.served(), self.verdict.denied()) {
            (Some(_), _) => "served",
            (None, Some(_)) => "deny",
            (None, None) => "allow",
        }
    }

    fn reason(&self, denial: Option<Denial>) -> &'static str {
        let other = || match () {
            () if self.verdict.served().is_some() => RESOURCE_METADATA,
            () if self.verdict.is_public() => PUBLIC,
            () => "allowed",
        };
        denial.map_or_else(other, Denial::label)
    }

    /// The detail behind the reason, if there is one.
    fn detail(&self) -> Option<&'static str> {
        self.verdict.outcome.err().and(self.verdict.facts.detail).map(Detail::label)
    }

    fn proved(&self) -> &'static str {
        self.verdict.facts.proved.label()
    }

    fn issuer(&self) -> Option<&'a str> {
        self.verdict.facts.token.as_deref().map(AccessToken::iss)
    }

    /// The client that a verified token names, even if the token is refused.
    pub fn client_id(&self) -> Option<&'a str> {
        self.claim("client_id").or_else(|| self.seen(true)?.client_id.as_deref())
    }

    /// The issuer that the token names, whether or not that is verified.
    pub fn named_issuer(&self) -> Option<&'a str> {
        self.issuer().or_else(|| self.verdict.facts.seen.as_deref()?.issuer.as_deref())
    }

    /// What was seen of a refused token that is verified, or is not.
    fn seen(&self, verified: bool) -> Option<&'a Seen> {
        self.verdict.facts.seen.as_deref().filter(|it| it.is_verified == verified)
    }

    /// To which keys the token of a refused request is bound.
    fn bound_to(&self) -> Option<&'a Confirmation> {
        self.verdict.outcome.err()?;
        self.verdict.facts.token.as_deref().map(|it| &it.confirmation)
    }

    fn claim(&self, name: &str) -> Option<&'a str> {
        self.verdict.facts.token.as_deref()?.claims.text(name)
    }

    fn request_id(&self) -> Option<&'a str> {
        str::from_utf8(self.request?.request_id?).ok()
    }
}

impl<'a> Value<'a> {
    /// The text, if it does not have to be formatted.
    pub fn borrowed(self) -> Option<&'a str> {
        match self {
            Label(it) | Own(it) | Given(it) => Some(it),
            Print(_) | Made(_) | Flag(_) | Number(_) | Span(_) => None,
        }
    }

    /// The value, with untrusted text cut short.
    #[must_use]
    pub fn shortened(self) -> Self {
        match self {
            Given(it) => Given(shortened(it)),
            Label(_) | Own(_) | Print(_) | Made(_) | Flag(_) | Number(_) | Span(_) => self,
        }
    }

    /// The value, owned.
    pub fn kept(self) -> Value<'static> {
        match self {
            Label(it) => Label(it),
            Own(it) | Given(it) => Made(it.to_owned()),
            Print(it) => Print(it),
            Made(it) => Made(it),
            Flag(it) => Flag(it),
            Number(it) => Number(it),
            Span(it) => Span(it),
        }
    }

    /// The value, as text if it is a thumbprint.
    #[must_use]
    pub fn written(self) -> Self {
        match self {
            Print(it) => Made(it.to_base64url()),
            Label(_) | Own(_) | Given(_) | Made(_) | Flag(_) | Number(_) | Span(_) => self,
        }
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Label(it) | Own(it) | Given(it) => serializer.serialize_str(it),
            Print(it) => serializer.serialize_str(&it.to_base64url()),
            Made(it) => serializer.serialize_str(it),
            Flag(it) => serializer.serialize_bool(*it),
            Number(it) => serializer.serialize_u64(*it),
            Span(it) => serializer.serialize_i64(*it),
        }
    }
}

/// The reason where metadata of a resource are sent in place of a check.
pub const RESOURCE_METADATA: &str = "resource_metadata";

/// The reason where a policy lets requests through without a token.
pub const PUBLIC: &str = "public";

/// The most characters of untrusted text in one value.
const GIVEN_CHARS: usize = 128;

/// Untrusted text, cut short.
pub fn shortened(text: &str) -> &str {
    text.char_indices().nth(GIVEN_CHARS).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

fn saturated(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Facts;
    use crate::check::Rules;
    use crate::oauth::nonce::NonceKeys;
    use crate::policy::{Mode, Policy, PolicySet, Resource, SenderConstraint};
    use crate::request::Target;
    use crate::uri::Origin;
    use std::sync::Arc;

    fn told(place: Places, outcome: Result<(), Denial>, mode: Mode) -> serde_json::Value {
        let facts = Facts { detail: Some(Detail::MessageTooLarge), ..Facts::default() };
        let verdict = Verdict { outcome, facts, mode };
        let known = Known::by(&verdict);
        let told: serde_json::Map<_, _> = of(place, &known)
            .filter_map(|(name, it)| Some((name.to_owned(), serde_json::to_value(it?).unwrap())))
            .collect();
        told.into()
    }

    #[test]
    fn each_place_gets_the_facts_that_its_readers_know_by_these_names() {
        for (place, expected) in [
            (
                METADATA,
                "decision reason would_deny policy issuer subject client_id sender_constraint",
            ),
            (SPAN, "decision reason would_deny front policy issuer sender_constraint"),
            (
                LOG,
                "reason detail front policy method host path issuer claimed_issuer kid client_id \
                 certificate certificate_client bound_certificate bound_key proof_key skew_seconds proved trace_id \
                 span_id request_id micros",
            ),
            (
                LAST_DENIALS,
                "reason detail let_through front policy method host path issuer claimed_issuer kid \
                 client_id certificate certificate_client bound_certificate bound_key proof_key skew_seconds proved \
                 trace_id request_id",
            ),
            (EXPLANATION, "decision reason would_deny detail policy sender_constraint"),
        ] {
            assert_eq!(names::<32>(place).join(" ").trim_end(), expected);
        }
    }

    #[test]
    fn no_place_gets_two_facts_of_one_name() {
        for (index, one) in FACTS.iter().enumerate() {
            for other in &FACTS[index + 1..] {
                assert!(one.name != other.name || one.places & other.places == 0, "{}", one.name);
            }
        }
    }

    #[test]
    fn what_is_let_through_is_an_allow_to_clients_and_a_denial_to_operators() {
        let denied = Err(Denial::RequestMalformed);
        for (outcome, mode, decision, would_deny, reason) in [
            (Ok(()), Mode::Enforce, ("allow", "allowed"), None, "allowed"),
            (denied, Mode::Enforce, ("deny", "request_malformed"), None, "request_malformed"),
            (
                denied,
                Mode::Report,
                ("allow", "allowed"),
                Some("request_malformed"),
                "request_malformed",
            ),
        ] {
            for place in [METADATA, SPAN, EXPLANATION] {
                let told = told(place, outcome, mode);
                assert_eq!(
                    (&told["decision"], &told["reason"]),
                    (&decision.0.into(), &decision.1.into())
                );
                assert_eq!(told.get("would_deny").and_then(|it| it.as_str()), would_deny);
            }
            for place in [LOG, LAST_DENIALS] {
                let told = told(place, outcome, mode);
                assert_eq!(told["reason"], reason);
                let detail = outcome.is_err().then_some("message_too_large");
                assert_eq!(told.get("detail").and_then(|it| it.as_str()), detail);
            }
        }
    }

    #[test]
    fn what_is_served_is_neither_an_allow_nor_a_denial() {
        let mut policy = Policy::new("payments", SenderConstraint::Dpop);
        policy.origin = Origin::parse("https://api.example.com").ok();
        policy.resource = Some(Resource::default());
        let set = PolicySet::new([], [policy]);
        let rules = Rules::new(set, Arc::new(NonceKeys::from_octets(&[0; 32])));
        let (authority, path) = ("api.example.com", "/.well-known/oauth-protected-resource");
        let target = Target { method: "GET", scheme: "https", authority, path };
        let request = Request { target, ..Request::default() };
        let verdict = Verdict::serving(rules.metadata_asked_for(&request).unwrap());
        for place in [METADATA, SPAN, LOG, LAST_DENIALS, EXPLANATION] {
            let told: Vec<_> = of(place, &Known::by(&verdict)).collect();
            let value = |name| told.iter().find(|it| it.0 == name).and_then(|it| it.1.clone());
            assert_eq!(value("reason"), Some(Label("resource_metadata")));
            assert_eq!(value("policy"), Some(Own("payments")));
            assert!(value("decision").is_none_or(|it| it == Label("served")));
        }
        assert_eq!((verdict.denied(), verdict.would_deny()), (None, None));
    }

    #[test]
    fn what_is_let_through_without_a_token_has_a_reason_of_its_own() {
        let set = PolicySet::new([], [Policy::public("health")]);
        let facts = Facts { policy: set.policies.first().cloned(), ..Facts::default() };
        let verdict = Verdict::new(Ok(()), facts, &set);
        for place in [METADATA, SPAN, LOG, EXPLANATION] {
            let told: Vec<_> = of(place, &Known::by(&verdict)).collect();
            let value = |name| told.iter().find(|it| it.0 == name).and_then(|it| it.1.clone());
            assert_eq!(value("reason"), Some(Label("public")));
            assert_eq!(value("policy"), Some(Own("health")));
            assert!(value("decision").is_none_or(|it| it == Label("allow")));
        }
    }

    #[test]
    fn what_others_chose_is_cut_between_characters() {
        let (full, long) = ("é".repeat(128), "é".repeat(129));
        assert_eq!(Given(&full).shortened(), Given(&full));
        assert_eq!(Given(&long).shortened(), Given(&full));
        assert_eq!(Own(&long).shortened(), Own(&long));
    }
}
