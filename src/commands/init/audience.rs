//! The audience of a new configuration: what the operator says, or what a token says, unless it names
//! somebody else.

use super::sample::Sample;
use crate::config::written::shown;
use keybound_core::policy::AUDIENCE;

/// The audience to demand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// This one, and why.
    Known(String, String),
    /// The operator must say, and why: a clause.
    Unknown(String),
}

impl Audience {
    /// The audience as `given`, or as `sample` names it in `claim`.
    pub(super) fn of(
        given: Option<&str>,
        issuer: &str,
        claim: &str,
        sample: Option<&Sample>,
    ) -> Self {
        if let Some(given) = given {
            return Self::Known(given.to_owned(), of_the_operator(given, claim, sample));
        }
        let Some(sample) = sample else {
            return Self::Unknown("no token says it".to_owned());
        };
        let named = sample.texts(claim);
        // A claim that stands in for the audience names clients, which is what it is for.
        let stranger = |it: &str| foreign(it, issuer, sample).filter(|_| claim == AUDIENCE);
        let left: Vec<_> = named.iter().copied().filter(|it| stranger(it).is_none()).collect();
        let only_uri = left.iter().filter(|it| is_uri(it)).count() == 1;
        let client =
            |it: &str| (only_uri && !is_uri(it)).then_some("no URI, as a client's name is");
        let own: Vec<_> = left.into_iter().filter(|it| client(it).is_none()).collect();
        let word = |it: &str| stranger(it).or_else(|| client(it));
        let others = named.iter().filter_map(|it| Some(format!("{} is {}", shown(it), word(it)?)));
        let left_out = others.collect::<Vec<_>>().join(", ");
        match *own {
            [only] if claim != AUDIENCE => Self::Known(
                only.to_owned(),
                format!(
                    "`{claim}` of the token, since this provider's tokens name clients and no API"
                ),
            ),
            [only] if left_out.is_empty() => {
                Self::Known(only.to_owned(), format!("`{claim}` of the token: is this your API?"))
            }
            [only] => Self::Known(
                only.to_owned(),
                format!("`{claim}` of the token, without others: {left_out}"),
            ),
            [] if named.is_empty() => Self::Unknown(format!(
                "the token has no `{claim}`: have the issuer put your API there; \
                 `allow_missing_audience` is not written, for such a token may be meant for another \
                 service"
            )),
            [] => Self::Unknown(format!(
                "the token is for nobody but others: {left_out}; have the issuer put your API there"
            )),
            _ => {
                let own: Vec<_> = own.iter().map(|it| shown(it)).collect();
                Self::Unknown(format!("the token is for several: name yours of {}", own.join(", ")))
            }
        }
    }
}

fn of_the_operator(given: &str, claim: &str, sample: Option<&Sample>) -> String {
    let Some(sample) = sample else { return "as given".to_owned() };
    let named = sample.texts(claim);
    if named.contains(&given) {
        return format!("as given, and in `{claim}` of the token");
    }
    let named: Vec<_> = named.iter().map(|it| shown(it)).collect();
    let named = if named.is_empty() { "nothing".to_owned() } else { named.join(", ") };
    format!(
        "as given; the token names {named} in `{claim}` and will be refused: have the issuer put it there"
    )
}

/// Whether an audience is named as an API is (RFC 8707 §2), and not as a client.
fn is_uri(audience: &str) -> bool {
    audience.contains("://") || audience.starts_with("urn:")
}

/// Who an audience is that is not the operator's API.
fn foreign(audience: &str, issuer: &str, sample: &Sample) -> Option<&'static str> {
    let is_client = |claim: &&str| sample.texts(claim).contains(&audience);
    if ["client_id", "azp", "cid", "appid"].iter().any(is_client) {
        return Some("the client itself");
    }
    if KEYCLOAKS.contains(&audience) || audience.ends_with("-realm") {
        return Some("a client that Keycloak brings along");
    }
    let issuer = issuer.trim_end_matches('/');
    let below = audience.strip_prefix(issuer);
    if below.is_some_and(|it| it.is_empty() || it.starts_with('/')) {
        return Some("the issuer itself");
    }
    if audience.starts_with("https://kubernetes.default.svc") {
        return Some("the API server of the cluster");
    }
    if MICROSOFTS.iter().any(|it| audience.trim_end_matches('/') == *it) {
        return Some("an API of Microsoft");
    }
    audience.is_empty().then_some("nobody")
}

/// The clients of every realm.
const KEYCLOAKS: &[&str] = &[
    "account",
    "account-console",
    "admin-cli",
    "broker",
    "realm-management",
    "security-admin-console",
];

/// Graph, its predecessor, and the management of Azure.
const MICROSOFTS: &[&str] = &[
    "00000003-0000-0000-c000-000000000000",
    "https://graph.microsoft.com",
    "00000002-0000-0000-c000-000000000000",
    "https://graph.windows.net",
    "https://management.azure.com",
    "https://management.core.windows.net",
];
