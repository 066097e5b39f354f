//! The metadata of an authorization server: where it is published and what is taken from it
//! (RFC 8414, OpenID Connect Discovery 1.0).

mod introspection;
mod vicinity;

pub use introspection::IntrospectionMetadata;

use crate::state::http::{self, Client, Limits, Reach};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use keybound_core::jose::json::{self, Object};
use keybound_core::policy::TENANT;
use reqwest::{StatusCode, Url};
use serde_json::Value;
use std::fmt;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The members of an authorization server's metadata that are used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Where they were found.
    pub location: Url,
    /// The URL of its JWK Set.
    pub jwks_uri: Option<Url>,
    /// What they say about introspection.
    pub introspection: IntrospectionMetadata,
    /// All members, for telling which product the server is.
    pub document: Object,
}

/// What metadata are fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The issuer's keys.
    Keys,
    /// Its introspection endpoint.
    Introspection,
}

/// Why metadata could not be obtained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The issuer is not a URL, or has a query or a fragment (RFC 8414 §2).
    IssuerNotAUrl,
    /// They are at none of the places: what was found at each, in order.
    Nowhere(Vec<Attempt>),
}

/// A place that was asked in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The URL that was asked.
    pub at: Url,
    /// Why it did not serve.
    pub cause: Cause,
}

/// Why a place does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The document could not be fetched.
    Http(http::Failure),
    /// The document is not a JSON object.
    Malformed,
    /// The document is that of another issuer (RFC 8414 §3.3).
    IssuerMismatch {
        /// The issuer that it names, if any.
        found: Option<String>,
        /// The one in the configuration.
        wanted: String,
    },
    /// Its `jwks_uri` must not be asked.
    UrlRefused(String),
}

/// Fetches the metadata of `issuer` from the first of its places that has what is `wanted`.
///
/// A place that fails does not stop the next one: servers answer anything at a place that they do not
/// know, gateways in front of them hang up, and some never answer. The next place is asked as soon as
/// one has failed, or has had its share of the time; the late one may still answer first. A
/// document without the wanted member counts if no place has a better one.
pub async fn discover(
    client: &Client,
    issuer: &str,
    wanted: Wanted,
    limits: Limits,
) -> Result<Metadata, Failure> {
    let begun = Instant::now();
    let share = limits.deadline.checked_div(PLACES).unwrap_or_default();
    let mut places = locations(issuer).ok_or(Failure::IssuerNotAUrl)?.into_iter().enumerate();
    let mut asked = FuturesUnordered::new();
    let (mut lacking, mut attempts) = (None, vec![]);
    loop {
        if let Some((place, at)) = places.next() {
            let deadline = limits.deadline.saturating_sub(begun.elapsed());
            let limits = Limits { deadline, ..limits };
            let answer = async move {
                let answer = ask(client, &at, issuer, wanted, limits).await;
                answer.map_err(|cause| (place, Attempt { at, cause }))
            };
            asked.push(answer);
        }
        let patience = if places.len() == 0 { Duration::MAX } else { share };
        let Ok(answer) = timeout(patience, asked.next()).await else { continue };
        match answer {
            Some(Ok(metadata)) if metadata.has(wanted) => return Ok(metadata),
            Some(Ok(metadata)) => lacking = lacking.or(Some(metadata)),
            Some(Err(attempt)) => attempts.push(attempt),
            None => break,
        }
    }
    attempts.sort_by_key(|(place, _)| *place);
    let attempts = attempts.into_iter().map(|(_, it)| it).collect();
    lacking.ok_or(Failure::Nowhere(attempts))
}

/// How many places an issuer has at most.
const PLACES: u32 = 3;

async fn ask(
    client: &Client,
    at: &Url,
    issuer: &str,
    wanted: Wanted,
    limits: Limits,
) -> Result<Metadata, Cause> {
    let fetched = client.fetch(at, None, limits).await.map_err(Cause::Http)?;
    let from = From { at, allow_http: client.allows_http() };
    read(&fetched.body.unwrap_or_default(), issuer, wanted, from)
}

/// The locations of the metadata: RFC 8414 §3.1 inserts the well-known path before the path of the
/// issuer, OpenID Connect Discovery §4.1 appends it. Some servers append that of RFC 8414, too.
///
/// Where a tenant belongs into the issuer, the metadata for all of them stand in the place of a tenant
/// that is called `common`, as Microsoft has it. They name the issuer with the place left open.
fn locations(issuer: &str) -> Option<Vec<Url>> {
    let url = Url::parse(&issuer.replace(TENANT, "common")).ok()?;
    if url.query().is_some() || url.fragment().is_some() || url.cannot_be_a_base() {
        return None;
    }
    let path = url.path().trim_end_matches('/');
    let at = |path: String| {
        let mut url = url.clone();
        url.set_path(&path);
        url
    };
    let mut places = vec![
        at(format!("/.well-known/oauth-authorization-server{path}")),
        at(format!("{path}/.well-known/openid-configuration")),
    ];
    if !path.is_empty() {
        places.push(at(format!("{path}/.well-known/oauth-authorization-server")));
    }
    Some(places)
}

/// Where a document is from.
#[derive(Clone, Copy, Debug)]
struct From<'a> {
    at: &'a Url,
    /// Whether it may point to URLs with plain `http`.
    allow_http: bool,
}

fn read(document: &[u8], issuer: &str, wanted: Wanted, from: From<'_>) -> Result<Metadata, Cause> {
    let document = json::object(document).or(Err(Cause::Malformed))?;
    // RFC 8414 §3.3: identical, that is, without any normalisation.
    let found = document.get("issuer").and_then(Value::as_str);
    if found != Some(issuer) {
        let found = found.map(shortened);
        return Err(Cause::IssuerMismatch { found, wanted: issuer.to_owned() });
    }
    let jwks_uri = match document.get("jwks_uri").filter(|it| !it.is_null()) {
        None => None,
        Some(uri) => match (endpoint(uri.as_str(), from), wanted) {
            (Some(uri), _) => Some(uri),
            // Who does not need it need not mind.
            (None, Wanted::Introspection) => None,
            (None, Wanted::Keys) => return Err(Cause::UrlRefused(shortened(&uri.to_string()))),
        },
    };
    Ok(Metadata {
        location: from.at.clone(),
        jwks_uri,
        introspection: IntrospectionMetadata::read(&document, from),
        document,
    })
}

impl Metadata {
    const fn has(&self, wanted: Wanted) -> bool {
        match wanted {
            Wanted::Keys => self.jwks_uri.is_some(),
            Wanted::Introspection => {
                self.introspection.endpoint.is_some() || self.introspection.mtls_endpoint.is_some()
            }
        }
    }
}

/// The beginning of a text from a document.
fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

/// The most characters of a text from a document that an error shows.
const SHOWN_CHARS: usize = 200;

/// The URL `text` in a document of somebody who is known by `named`, if it may be asked: the rule for the
/// `jwks_uri` in metadata.
pub(in crate::state) fn led_to(text: &str, named: &Url, allow_http: bool) -> Option<Url> {
    endpoint(Some(text), From { at: named, allow_http })
}

/// The URL `text` in a document from `from`, if it may be asked. Other hosts are common, for example
/// a CDN for keys. But a document must not point to where only this machine or its network can
/// connect, since services there may trust their neighbours.
fn endpoint(text: Option<&str>, from: From<'_>) -> Option<Url> {
    let url = Url::parse(text?).ok()?;
    match Reach::of(&url, from.allow_http)? {
        Reach::Outside | Reach::Network => (),
        Reach::Loopback if Reach::of(from.at, false) == Some(Reach::Loopback) => (),
        Reach::Loopback => return None,
    }
    vicinity::may_point(from.at, &url).then_some(url)
}

impl Failure {
    /// The label in metrics: that of the place that tells the most.
    pub fn label(&self) -> &'static str {
        match self {
            Self::IssuerNotAUrl => "issuer_not_a_url",
            Self::Nowhere(attempts) => {
                let telling = attempts.iter().find(|it| !it.cause.is_not_found());
                telling
                    .or_else(|| attempts.first())
                    .map_or("metadata_missing", |it| it.cause.label())
            }
        }
    }
}

impl Cause {
    fn is_not_found(&self) -> bool {
        *self == Self::Http(http::Failure::Status(StatusCode::NOT_FOUND))
    }

    const fn label(&self) -> &'static str {
        match self {
            Self::Http(failure) => failure.label(),
            Self::Malformed => "metadata_malformed",
            Self::IssuerMismatch { .. } => "issuer_mismatch",
            Self::UrlRefused(_) => "url_refused",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IssuerNotAUrl => f.write_str("the issuer is not a URL without query"),
            Self::Nowhere(attempts) => {
                for (place, Attempt { at, cause }) in attempts.iter().enumerate() {
                    let separator = if place == 0 { "" } else { "; " };
                    write!(f, "{separator}{at}: {cause}")?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(failure) => failure.fmt(f),
            Self::Malformed => f.write_str("not a JSON object"),
            Self::IssuerMismatch { found, wanted } => {
                match found {
                    Some(found) => write!(f, "the document is that of the issuer {found:?}")?,
                    None => f.write_str("the document names no issuer")?,
                }
                write!(f, ", and the configuration says {wanted:?}: they must be identical")
            }
            Self::UrlRefused(url) => write!(
                f,
                "its jwks_uri is {url}, which is not https (`allow_http` lifts that), or nearer to \
                 this machine than the issuer is: if that is right, name it in the configuration \
                 (`keys.jwks_uri`)"
            ),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ISSUER: &str = "https://as.example.com/realm";

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    const fn strict(at: &Url) -> From<'_> {
        From { at, allow_http: false }
    }

    #[test]
    fn one_standard_inserts_and_the_other_appends() {
        for (issuer, places) in [
            (
                "https://as.example.com",
                &[
                    "https://as.example.com/.well-known/oauth-authorization-server",
                    "https://as.example.com/.well-known/openid-configuration",
                ][..],
            ),
            (
                "https://as.example.com/",
                &[
                    "https://as.example.com/.well-known/oauth-authorization-server",
                    "https://as.example.com/.well-known/openid-configuration",
                ],
            ),
            (
                "https://as.example.com:8443/a/b",
                &[
                    "https://as.example.com:8443/.well-known/oauth-authorization-server/a/b",
                    "https://as.example.com:8443/a/b/.well-known/openid-configuration",
                    "https://as.example.com:8443/a/b/.well-known/oauth-authorization-server",
                ],
            ),
            (
                "https://as.example.com/{tenantid}/v2.0",
                &[
                    "https://as.example.com/.well-known/oauth-authorization-server/common/v2.0",
                    "https://as.example.com/common/v2.0/.well-known/openid-configuration",
                    "https://as.example.com/common/v2.0/.well-known/oauth-authorization-server",
                ],
            ),
            (
                "https://as.example.com/a/",
                &[
                    "https://as.example.com/.well-known/oauth-authorization-server/a",
                    "https://as.example.com/a/.well-known/openid-configuration",
                    "https://as.example.com/a/.well-known/oauth-authorization-server",
                ],
            ),
        ] {
            assert_eq!(
                locations(issuer),
                Some(places.iter().map(|it| url(it)).collect()),
                "{issuer}"
            );
        }
    }

    #[test]
    fn an_issuer_that_is_no_plain_url_has_no_metadata() {
        for issuer in ["", "as.example.com", "urn:example:as", "https://as/?a", "https://as/#a"] {
            assert_eq!(locations(issuer), None, "{issuer}");
        }
    }

    fn edited(edit: impl FnOnce(&mut Value), wanted: Wanted) -> Result<Metadata, Cause> {
        let mut document = json!({
            "issuer": ISSUER,
            "jwks_uri": "https://keys.example.net/jwks",
            "introspection_endpoint": "https://as.example.com/introspect",
        });
        edit(&mut document);
        let at = url("https://as.example.com/.well-known/openid-configuration");
        read(document.to_string().as_bytes(), ISSUER, wanted, strict(&at))
    }

    #[test]
    fn each_member_is_held_to_its_rule() {
        assert!(edited(|_| (), Wanted::Keys).is_ok());
        for other in [
            json!("https://as.example.com/realm/"),
            json!("https://AS.example.com/realm"),
            json!("https://as.example.com"),
            json!("https://evil.example/realm"),
            json!(null),
            json!([ISSUER]),
        ] {
            let found = other.as_str().map(str::to_owned);
            let refusal = edited(|it| it["issuer"] = other, Wanted::Keys).unwrap_err();
            assert_eq!(refusal, Cause::IssuerMismatch { found, wanted: ISSUER.to_owned() });
        }
        for place in [
            json!("http://as.example.com/jwks"),
            json!("http://127.0.0.1:8080/jwks"),
            json!("http://169.254.169.254/"),
            json!("https://169.254.169.254/"),
            json!("https://127.0.0.1/jwks"),
            json!("https://localhost/jwks"),
            json!("https://10.0.0.1/jwks"),
            json!("https://user:secret@as.example.com/jwks"),
            json!("file:///etc/passwd"),
            json!("/jwks"),
            json!(""),
            json!(["https://as.example.com/jwks"]),
        ] {
            let odd = |name: &'static str| {
                let place = place.clone();
                move |it: &mut Value| it[name] = place
            };
            assert!(edited(odd("introspection_endpoint"), Wanted::Keys).is_ok(), "{place}");
            let found = edited(odd("jwks_uri"), Wanted::Keys);
            assert_eq!(found, Err(Cause::UrlRefused(place.to_string())));
            let found = edited(odd("jwks_uri"), Wanted::Introspection).unwrap();
            assert!(!found.has(Wanted::Keys) && found.has(Wanted::Introspection), "{place}");
        }
        let found = edited(|it| it["jwks_uri"] = json!(null), Wanted::Keys).unwrap();
        assert!(!found.has(Wanted::Keys), "a null is as good as absent");
    }

    #[test]
    fn plain_http_is_for_those_who_allow_it_and_leads_no_nearer() {
        for (from, to, expected) in [
            ("https://as.example.com", "http://keys.iam.svc:8080/jwks", [false, true]),
            ("http://as.iam.svc:8080", "http://as.iam.svc:8080/jwks", [false, true]),
            ("http://as.iam.svc:8080", "https://as.iam.svc/jwks", [true, true]),
            ("http://10.0.0.1", "http://10.0.0.2/jwks", [false, true]),
            ("http://as.iam.svc:8080", "http://127.0.0.1/jwks", [false, false]),
            ("http://as.iam.svc:8080", "http://localhost/jwks", [false, false]),
            ("http://as.iam.svc:8080", "http://10.0.0.1/jwks", [false, false]),
            ("http://as.iam.svc:8080", "http://169.254.169.254/latest", [false, false]),
            ("http://as.iam.svc:8080", "http://user@as.iam.svc:8080/jwks", [false, false]),
            ("http://127.0.0.1:1", "http://127.0.0.1:2/jwks", [true, true]),
        ] {
            let at = url(from);
            let found = [false, true]
                .map(|allow_http| endpoint(Some(to), From { at: &at, allow_http }).is_some());
            assert_eq!(found, expected, "{from} to {to}");
        }
    }

    #[test]
    fn a_failure_names_what_was_asked_and_what_was_found() {
        let attempt =
            |path: &str, cause| Attempt { at: url("https://a").join(path).unwrap(), cause };
        let not_found = || Cause::Http(http::Failure::Status(StatusCode::NOT_FOUND));
        let mismatch =
            Cause::IssuerMismatch { found: Some("https://a/".into()), wanted: "https://a".into() };
        let failure = Failure::Nowhere(vec![attempt("/1", not_found()), attempt("/2", mismatch)]);
        let told = "https://a/1: answered with 404; https://a/2: the document is that of the issuer \
                    \"https://a/\", and the configuration says \"https://a\": they must be identical";
        assert_eq!(failure.to_string(), told);
        assert_eq!(failure.label(), "issuer_mismatch", "it tells more than a 404");
        assert_eq!(Failure::Nowhere(vec![attempt("/1", not_found())]).label(), "status");
    }

    #[test]
    fn loopback_may_point_to_loopback() {
        let document = json!({"issuer": "http://127.0.0.1:1", "jwks_uri": "http://127.0.0.1:2/"});
        let at = url("http://127.0.0.1:1/.well-known/openid-configuration");
        let text = document.to_string();
        let found = read(text.as_bytes(), "http://127.0.0.1:1", Wanted::Keys, strict(&at)).unwrap();
        assert_eq!(found.jwks_uri, Some(url("http://127.0.0.1:2/")));
        assert_eq!((found.location, Value::Object(found.document)), (at, document));
    }

    #[test]
    fn a_document_that_is_not_an_object_is_malformed() {
        let at = url("https://as.example.com/");
        for document in ["", "<html></html>", "[]", "{", "null", "{\"issuer\":1,\"issuer\":2}"] {
            let found = read(document.as_bytes(), ISSUER, Wanted::Keys, strict(&at));
            assert_eq!(found, Err(Cause::Malformed));
        }
    }
}
