//! The metadata of an authorization server: where it is published and what is taken from it
//! (RFC 8414, OpenID Connect Discovery 1.0).

mod introspection;
mod vicinity;

pub use introspection::IntrospectionMetadata;

use crate::state::http::{self, Client, Limits, Reach};
use keybound_core::jose::json::{self, Object};
use reqwest::{StatusCode, Url};
use std::fmt;

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

/// Why metadata could not be obtained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The issuer is not a URL, or has a query or a fragment (RFC 8414 §2).
    IssuerNotAUrl,
    /// The document could not be fetched.
    Http(http::Failure),
    /// The document is not a JSON object.
    Malformed,
    /// The document is that of another issuer (RFC 8414 §3.3).
    IssuerMismatch,
    /// The document points to a URL that must not be asked.
    UrlRefused,
}

/// Fetches the metadata of `issuer`, first from the location of RFC 8414, then from that of OpenID.
///
/// A server without metadata at the first location may answer anything there, even an HTML page, so
/// the second is tried after any other answer. It is not tried if there was no answer at all, since
/// both are on one host.
pub async fn discover(client: &Client, issuer: &str, limits: Limits) -> Result<Metadata, Failure> {
    let [oauth, openid] = locations(issuer).ok_or(Failure::IssuerNotAUrl)?;
    let first = match ask(client, &oauth, issuer, limits).await {
        Err(failure) if failure.is_an_answer() => failure,
        settled => return settled,
    };
    match ask(client, &openid, issuer, limits).await {
        // A document of another issuer is a better hint for the operator than a 404.
        Err(failure) if failure.is_not_found() => Err(first),
        settled => settled,
    }
}

async fn ask(client: &Client, at: &Url, issuer: &str, limits: Limits) -> Result<Metadata, Failure> {
    let fetched = client.fetch(at, None, limits).await.map_err(Failure::Http)?;
    read(&fetched.body.unwrap_or_default(), issuer, at)
}

/// The locations of the metadata: RFC 8414 §3.1 inserts the well-known path before the path of the
/// issuer, OpenID Connect Discovery §4.1 appends it.
fn locations(issuer: &str) -> Option<[Url; 2]> {
    let url = Url::parse(issuer).ok()?;
    if url.query().is_some() || url.fragment().is_some() || url.cannot_be_a_base() {
        return None;
    }
    let path = url.path().trim_end_matches('/');
    let at = |path: String| {
        let mut url = url.clone();
        url.set_path(&path);
        url
    };
    Some([
        at(format!("/.well-known/oauth-authorization-server{path}")),
        at(format!("{path}/.well-known/openid-configuration")),
    ])
}

fn read(document: &[u8], issuer: &str, from: &Url) -> Result<Metadata, Failure> {
    let document = json::object(document).or(Err(Failure::Malformed))?;
    // RFC 8414 §3.3: identical, that is, without any normalisation.
    if document.get("issuer").and_then(|it| it.as_str()) != Some(issuer) {
        return Err(Failure::IssuerMismatch);
    }
    let endpoint = |name: &str| document.get(name).map(|it| endpoint(it.as_str(), from));
    Ok(Metadata {
        location: from.clone(),
        jwks_uri: endpoint("jwks_uri").transpose()?,
        introspection: IntrospectionMetadata::read(&document, from),
        document,
    })
}

/// The URL `text` in a document from `from`. Other hosts are common, for example a CDN for keys.
/// But a document must not point to where only this machine or its network can connect, since
/// services there may trust their neighbours.
fn endpoint(text: Option<&str>, from: &Url) -> Result<Url, Failure> {
    let url = text.and_then(|it| Url::parse(it).ok()).ok_or(Failure::UrlRefused)?;
    let in_the_clear = match Reach::of(&url) {
        Some(Reach::Outside) => false,
        Some(Reach::Loopback) => true,
        None => return Err(Failure::UrlRefused),
    };
    if in_the_clear && Reach::of(from) != Some(Reach::Loopback) {
        return Err(Failure::UrlRefused);
    }
    if vicinity::may_point(from, &url) { Ok(url) } else { Err(Failure::UrlRefused) }
}

impl Failure {
    /// Whether the server answered with something else than the document.
    const fn is_an_answer(&self) -> bool {
        match self {
            Self::Malformed | Self::IssuerMismatch => true,
            Self::Http(failure) => match failure {
                http::Failure::Status(_)
                | http::Failure::Redirected(_)
                | http::Failure::TooLarge
                | http::Failure::Compressed
                | http::Failure::NotModifiedUnasked => true,
                http::Failure::UrlRefused
                | http::Failure::NoAuthorities(_)
                | http::Failure::Unreachable(_)
                | http::Failure::TimedOut => false,
            },
            Self::IssuerNotAUrl | Self::UrlRefused => false,
        }
    }

    fn is_not_found(&self) -> bool {
        *self == Self::Http(http::Failure::Status(StatusCode::NOT_FOUND))
    }

    /// The label in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::IssuerNotAUrl => "issuer_not_a_url",
            Self::Http(failure) => failure.label(),
            Self::Malformed => "metadata_malformed",
            Self::IssuerMismatch => "issuer_mismatch",
            Self::UrlRefused => "url_refused",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IssuerNotAUrl => f.write_str("the issuer is not a URL without query"),
            Self::Http(failure) => failure.fmt(f),
            Self::Malformed => f.write_str("not a JSON object"),
            Self::IssuerMismatch => f.write_str("the document is that of another issuer"),
            Self::UrlRefused => f.write_str(
                "it points to a URL that is not https, or nearer to this machine than the issuer \
                 is: if that is right, name it in the configuration",
            ),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ISSUER: &str = "https://as.example.com/realm";

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn one_standard_inserts_and_the_other_appends() {
        for (issuer, oauth, openid) in [
            (
                "https://as.example.com",
                "https://as.example.com/.well-known/oauth-authorization-server",
                "https://as.example.com/.well-known/openid-configuration",
            ),
            (
                "https://as.example.com/",
                "https://as.example.com/.well-known/oauth-authorization-server",
                "https://as.example.com/.well-known/openid-configuration",
            ),
            (
                "https://as.example.com:8443/a/b",
                "https://as.example.com:8443/.well-known/oauth-authorization-server/a/b",
                "https://as.example.com:8443/a/b/.well-known/openid-configuration",
            ),
            (
                "https://as.example.com/a/",
                "https://as.example.com/.well-known/oauth-authorization-server/a",
                "https://as.example.com/a/.well-known/openid-configuration",
            ),
        ] {
            assert_eq!(locations(issuer), Some([url(oauth), url(openid)]), "{issuer}");
        }
    }

    #[test]
    fn an_issuer_that_is_no_plain_url_has_no_metadata() {
        for issuer in ["", "as.example.com", "urn:example:as", "https://as/?a", "https://as/#a"] {
            assert_eq!(locations(issuer), None, "{issuer}");
        }
    }

    #[track_caller]
    fn check(edit: impl FnOnce(&mut Value), refusal: Option<&Failure>) {
        let mut document = json!({
            "issuer": ISSUER,
            "jwks_uri": "https://keys.example.net/jwks",
            "introspection_endpoint": "https://as.example.com/introspect",
        });
        edit(&mut document);
        let at = url("https://as.example.com/.well-known/openid-configuration");
        assert_eq!(read(document.to_string().as_bytes(), ISSUER, &at).err().as_ref(), refusal);
    }

    #[test]
    fn each_member_is_held_to_its_rule() {
        check(|_| (), None);
        for other in [
            json!("https://as.example.com/realm/"),
            json!("https://AS.example.com/realm"),
            json!("https://as.example.com"),
            json!("https://evil.example/realm"),
            json!(null),
            json!([ISSUER]),
        ] {
            check(|it| it["issuer"] = other, Some(&Failure::IssuerMismatch));
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
            json!(null),
            json!(["https://as.example.com/jwks"]),
        ] {
            check(|it| it["introspection_endpoint"] = place.clone(), None);
            check(|it| it["jwks_uri"] = place, Some(&Failure::UrlRefused));
        }
    }

    #[test]
    fn loopback_may_point_to_loopback() {
        let document = json!({"issuer": "http://127.0.0.1:1", "jwks_uri": "http://127.0.0.1:2/"});
        let at = url("http://127.0.0.1:1/.well-known/openid-configuration");
        let found = read(document.to_string().as_bytes(), "http://127.0.0.1:1", &at).unwrap();
        assert_eq!(found.jwks_uri, Some(url("http://127.0.0.1:2/")));
        assert_eq!((found.location, Value::Object(found.document)), (at, document));
    }

    #[test]
    fn a_document_that_is_not_an_object_is_malformed() {
        let at = url("https://as.example.com/");
        for document in ["", "<html></html>", "[]", "{", "null", "{\"issuer\":1,\"issuer\":2}"] {
            assert_eq!(read(document.as_bytes(), ISSUER, &at), Err(Failure::Malformed));
        }
    }
}
