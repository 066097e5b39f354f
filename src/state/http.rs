//! An HTTP client that does not trust the server: limits on which URLs it asks, how long it waits,
//! and how much it reads.

mod story;

use crate::state::freshness;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use keybound_core::jose::Thumbprint;
use keybound_core::jose::json::Object;
use reqwest::{Certificate, ClientBuilder, Identity, Request, Response, Url, redirect};
use serde_json::Value;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A client for the servers of one issuer.
///
/// It follows no redirect, sends no `Referer` and keeps no cookies. It asks for uncompressed
/// responses and rejects others, so that the limit on bytes is a limit on memory.
///
/// Requests that leave the machine use `https` and the proxy in `HTTPS_PROXY` and `NO_PROXY`, as
/// operators of closed networks expect. Plain `http` is for loopback only, unless the operator allows
/// more, and never uses a proxy.
#[derive(Clone, Debug)]
pub struct Client {
    /// An error if the machine has no certification authorities, so that `https` is impossible.
    outside: Result<reqwest::Client, String>,
    plain: reqwest::Client,
    allow_http: bool,
    /// A token for documents, and the server that it is for.
    bearer: Option<(Url, BearerToken)>,
}

/// A bearer token (RFC 6750 §2.1). `Debug` shows nothing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BearerToken(HeaderValue);

impl BearerToken {
    /// The token `text`, if it is one: a `b64token`.
    pub fn new(text: &str) -> Option<Self> {
        let symbols = text.trim_end_matches('=');
        let is_symbol = |it: char| it.is_ascii_alphanumeric() || "-._~+/".contains(it);
        if symbols.is_empty() || !symbols.chars().all(is_symbol) {
            return None;
        }
        let mut value = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// Its length, in bytes.
    pub fn length(&self) -> usize {
        self.0.len().saturating_sub(BEARER.len())
    }

    /// The `Authorization` that shows it.
    pub const fn header(&self) -> &HeaderValue {
        &self.0
    }

    /// Whether an `Authorization` shows it, in time that tells nothing of it. The name of the scheme has
    /// no case (RFC 9110 §11.1).
    pub fn is(&self, authorization: &HeaderValue) -> bool {
        let token = |it: &HeaderValue| {
            let (scheme, rest) = it.as_bytes().split_at_checked(BEARER.len())?;
            scheme.eq_ignore_ascii_case(BEARER).then(|| Thumbprint::of(rest))
        };
        token(authorization).is_some_and(|it| Some(it) == token(&self.0))
    }
}

const BEARER: &[u8] = b"Bearer ";

/// A request that brings `body` to `url`, and shows `bearer`.
pub fn post_json(url: &Url, bearer: Option<&BearerToken>, body: Object) -> Request {
    let mut request = Request::new(Method::POST, url.clone());
    let headers = request.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json.clone());
    headers.insert(header::ACCEPT, json);
    if let Some(bearer) = bearer {
        headers.insert(header::AUTHORIZATION, bearer.header().clone());
    }
    *request.body_mut() = Some(Value::Object(body).to_string().into());
    request
}

/// The authorities that a client trusts, and its own certificate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// PEM of the certification authorities to trust, instead of those of the system.
    pub ca: Option<&'a [u8]>,
    /// PEM of a certificate chain and its key, for mutual TLS.
    pub identity: Option<&'a [u8]>,
}

/// The credentials cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadCredentials {
    /// The certification authorities are not PEM, or there is none.
    Authorities,
    /// The certificate and key are not PEM, or do not match.
    Identity,
}

/// The limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest response body, in bytes.
    pub bytes: usize,
    /// The time for the whole exchange, from name resolution to the last byte.
    pub deadline: Duration,
}

/// A fetched document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The document; `None` if the known version is still current (304).
    pub body: Option<Bytes>,
    /// The entity tag of this version.
    pub etag: Option<HeaderValue>,
    /// What it is said to be (`Content-Type`).
    pub kind: Option<HeaderValue>,
    /// How long it may be cached, if the server says so.
    pub lifetime: Option<Duration>,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status; never a redirect.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, which is read for successful responses only.
    pub body: Bytes,
}

/// Why a request failed. The text contains neither the URL, which may hold secrets, nor any of the
/// body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The URL is neither `https` nor `http` that is allowed, or it holds a password.
    UrlRefused,
    /// The machine has no certification authorities, so that no server can be verified.
    NoAuthorities(String),
    /// No connection, no TLS, or no HTTP.
    Unreachable(String),
    /// The deadline passed.
    TimedOut,
    /// The server redirected.
    Redirected(StatusCode),
    /// An unexpected status.
    Status(StatusCode),
    /// The body is longer than the limit, or says that it is.
    TooLarge,
    /// The body is compressed although identity was requested.
    Compressed,
    /// The server answered 304 to an unconditional request.
    NotModifiedUnasked,
}

impl Client {
    /// A client with these credentials.
    pub fn new(credentials: Credentials<'_>) -> Result<Self, BadCredentials> {
        let mut outside = bare().https_only(true);
        if let Some(pem) = credentials.ca {
            outside = outside.tls_certs_only(authorities(pem)?);
        }
        if let Some(pem) = credentials.identity {
            outside = outside.identity(Identity::from_pem(pem).or(Err(BadCredentials::Identity))?);
        }
        let outside = match outside.build() {
            Ok(client) => Ok(client),
            Err(_) if credentials.identity.is_some() => return Err(BadCredentials::Identity),
            Err(_) if credentials.ca.is_some() => return Err(BadCredentials::Authorities),
            Err(error) => Err(story::of(&error)),
        };
        let plain = bare().no_proxy().tls_certs_only([]).build();
        let plain = plain.or(Err(BadCredentials::Authorities))?;
        Ok(Self { outside, plain, allow_http: false, bearer: None })
    }

    /// The same client, which asks other machines over plain `http`, too, if that is allowed.
    #[must_use]
    pub fn allowing_http(self, allow_http: bool) -> Self {
        Self { allow_http, ..self }
    }

    /// The same client, which sends `token` with each request for a document of the server of `url`:
    /// the same scheme, host and port. Others never see it, whatever leads to them.
    #[must_use]
    pub fn with_bearer(self, url: &Url, token: BearerToken) -> Self {
        Self { bearer: Some((url.clone(), token)), ..self }
    }

    /// Whether there is a token that is not for the server of `url`.
    pub fn withholds_bearer(&self, url: &Url) -> bool {
        self.bearer.as_ref().is_some_and(|(server, _)| server.origin() != url.origin())
    }

    /// Whether it asks other machines over plain `http`.
    pub const fn allows_http(&self) -> bool {
        self.allow_http
    }

    /// Fetches the JSON document at `url`, unless it is still the one that `known` names.
    pub async fn fetch(
        &self,
        url: &Url,
        known: Option<&HeaderValue>,
        limits: Limits,
    ) -> Result<Fetched, Failure> {
        self.fetch_as("application/json, */*;q=0.5", url, known, limits).await
    }

    /// The same, for a document of the kind that `accept` says.
    pub async fn fetch_as(
        &self,
        accept: &'static str,
        url: &Url,
        known: Option<&HeaderValue>,
        limits: Limits,
    ) -> Result<Fetched, Failure> {
        let mut request = Request::new(Method::GET, url.clone());
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if let Some((server, token)) = &self.bearer
            && server.origin() == url.origin()
        {
            headers.insert(header::AUTHORIZATION, token.0.clone());
        }
        if let Some(etag) = known {
            headers.insert(header::IF_NONE_MATCH, etag.clone());
        }
        let reply = self.send(request, limits).await?;
        let body = match reply.status {
            StatusCode::OK => Some(reply.body),
            StatusCode::NOT_MODIFIED if known.is_some() => None,
            StatusCode::NOT_MODIFIED => return Err(Failure::NotModifiedUnasked),
            status => return Err(Failure::Status(status)),
        };
        let etag = reply.headers.get(header::ETAG).cloned();
        let kind = reply.headers.get(header::CONTENT_TYPE).cloned();
        Ok(Fetched { body, etag, kind, lifetime: freshness::lifetime(&reply.headers) })
    }

    /// Sends `request` and reads the answer.
    pub async fn send(&self, mut request: Request, limits: Limits) -> Result<Reply, Failure> {
        // Without this header the server may use any coding (RFC 9110 §12.5.3).
        let identity = HeaderValue::from_static("identity");
        request.headers_mut().insert(header::ACCEPT_ENCODING, identity);
        let reach = Reach::of(request.url(), self.allow_http).ok_or(Failure::UrlRefused)?;
        let client = match reach {
            Reach::Loopback | Reach::Network => &self.plain,
            Reach::Outside => {
                self.outside.as_ref().map_err(|it| Failure::NoAuthorities(it.clone()))?
            }
        };
        let exchange = async {
            let response = client.execute(request).await.map_err(unreachable)?;
            read(response, limits.bytes).await
        };
        tokio::time::timeout(limits.deadline, exchange).await.unwrap_or(Err(Failure::TimedOut))
    }
}

/// Where a URL points, if it may be asked at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// `http` to this machine.
    Loopback,
    /// `https` to any host.
    Outside,
    /// `http` to another machine, where the operator allows it.
    Network,
}

impl Reach {
    /// The reach of `url`; `None` if it must not be asked.
    pub fn of(url: &Url, allow_http: bool) -> Option<Self> {
        if !url.username().is_empty() || url.password().is_some() {
            return None;
        }
        match url.scheme() {
            "https" => Some(Self::Outside),
            "http" if is_loopback(url.host_str()?) => Some(Self::Loopback),
            "http" if allow_http => Some(Self::Network),
            _ => None,
        }
    }
}

/// `url` for an error message or a log: without its query, which may hold secrets.
pub fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    let query = if url.query().is_some() { "?…" } else { "" };
    format!("{shown}{query}")
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
}

fn bare() -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("keybound/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE)
}

fn authorities(pem: &[u8]) -> Result<Vec<Certificate>, BadCredentials> {
    match Certificate::from_pem_bundle(pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(BadCredentials::Authorities),
    }
}

async fn read(mut response: Response, limit: usize) -> Result<Reply, Failure> {
    let status = response.status();
    if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
        return Err(Failure::Redirected(status));
    }
    let headers = std::mem::take(response.headers_mut());
    if !status.is_success() {
        return Ok(Reply { status, headers, body: Bytes::new() });
    }
    if headers.get(header::CONTENT_ENCODING).is_some_and(|it| it != "identity") {
        return Err(Failure::Compressed);
    }
    let limit_reached = |length: u64| usize::try_from(length).map_or(true, |it| limit < it);
    // An announced length is used only to reject early; the body is counted anyway.
    if response.content_length().is_some_and(limit_reached) {
        return Err(Failure::TooLarge);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if limit < body.len().saturating_add(chunk.len()) {
            return Err(Failure::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, headers, body: body.freeze() })
}

#[expect(clippy::needless_pass_by_value, reason = "it is called by map_err")]
fn unreachable(error: reqwest::Error) -> Failure {
    if error.is_timeout() { Failure::TimedOut } else { Failure::Unreachable(story::of(&error)) }
}

impl Failure {
    /// The label in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::UrlRefused => "url_refused",
            Self::NoAuthorities(_) => "no_authorities",
            Self::Unreachable(_) => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Redirected(_) => "redirected",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Compressed => "compressed",
            Self::NotModifiedUnasked => "not_modified_unasked",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UrlRefused => f.write_str(
                "the URL is neither https nor http to loopback, and the issuer has no `allow_http`",
            ),
            Self::NoAuthorities(why) => write!(f, "no certification authorities: {why}"),
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Redirected(status) => write!(f, "redirected with {}", status.as_u16()),
            Self::Status(status) => write!(f, "answered with {}", status.as_u16()),
            Self::TooLarge => f.write_str("the answer is too large"),
            Self::Compressed => f.write_str("the answer is compressed"),
            Self::NotModifiedUnasked => f.write_str("answered 304 to an unconditional request"),
        }
    }
}

impl fmt::Display for BadCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authorities => "not a PEM bundle of certification authorities",
            Self::Identity => "not a PEM certificate chain with its private key",
        })
    }
}

impl Error for Failure {}
impl Error for BadCredentials {}

/// Shorter than the deadline of an exchange, so that an unreachable host fails sooner than a slow
/// one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Idle connections kept per host. Introspection uses them; key sets are fetched rarely.
const MAX_IDLE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_recognised_by_all_of_it() {
        let own = BearerToken::new("secret").unwrap();
        for (authorization, expected) in [
            ("Bearer secret", true),
            ("bearer secret", true),
            ("Bearer secret ", false),
            ("Bearer  secret", false),
            ("Bearer Secret", false),
            ("Bearer secre", false),
            ("Bearer secrets", false),
            ("Basic secret", false),
            ("secret", false),
            ("Bearer ", false),
            ("", false),
        ] {
            let authorization = HeaderValue::from_static(authorization);
            assert_eq!(own.is(&authorization), expected, "{authorization:?}");
        }
    }

    #[test]
    fn https_goes_anywhere_and_http_to_loopback_only() {
        for (url, expected) in [
            ("https://as.example.com/jwks", Some(Reach::Outside)),
            ("https://127.0.0.1/jwks", Some(Reach::Outside)),
            ("http://127.0.0.1:8080/jwks", Some(Reach::Loopback)),
            ("http://127.255.0.1/", Some(Reach::Loopback)),
            ("http://[::1]:8080/jwks", Some(Reach::Loopback)),
            ("http://LOCALHOST/jwks", Some(Reach::Loopback)),
            ("http://as.example.com/jwks", None),
            ("http://localhost.example.com/", None),
            ("http://127.0.0.1.example.com/", None),
            ("http://10.0.0.1/", None),
            ("http://169.254.169.254/latest/meta-data", None),
            ("http://0.0.0.0/", None),
            ("http://[::]/", None),
            ("http://127.0.0.1@as.example.com/", None),
            ("https://user:secret@as.example.com/", None),
            ("https://user@as.example.com/", None),
            ("ftp://127.0.0.1/", None),
            ("file:///etc/passwd", None),
            ("data:application/json,{}", None),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(Reach::of(&url, false), expected, "{url}");
            let bare = url.username().is_empty() && url.scheme() == "http";
            let expected = expected.or_else(|| bare.then_some(Reach::Network));
            assert_eq!(Reach::of(&url, true), expected, "{url}, with allow_http");
        }
    }

    #[test]
    fn a_bearer_token_is_one_word_and_not_printed() {
        for (text, expected) in [
            ("eyJ.a-b._~+/", true),
            ("abc==", true),
            ("", false),
            ("=", false),
            ("a=b", false),
            ("a b", false),
            ("a\nb", false),
            ("a,b", false),
            ("é", false),
        ] {
            let token = BearerToken::new(text);
            assert_eq!(token.is_some(), expected, "{text}");
            assert!(expected.then(|| format!("{token:?}")).is_none_or(|it| !it.contains(text)));
        }
    }

    #[test]
    fn authorities_that_cannot_be_read_are_refused() {
        for pem in [
            &b""[..],
            b"not PEM",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            let credentials = Credentials { ca: Some(pem), identity: None };
            assert_eq!(Client::new(credentials).err(), Some(BadCredentials::Authorities));
        }
    }

    #[test]
    fn an_identity_that_cannot_be_read_is_refused() {
        let credentials = Credentials { ca: None, identity: Some(b"not PEM") };
        assert_eq!(Client::new(credentials).err(), Some(BadCredentials::Identity));
    }

    #[tokio::test]
    async fn a_url_that_is_refused_is_never_asked() {
        let client = Client::new(Credentials::default()).unwrap();
        let url = Url::parse("http://as.example.com/").unwrap();
        let limits = Limits { bytes: 1, deadline: Duration::from_secs(5) };
        assert_eq!(client.fetch(&url, None, limits).await, Err(Failure::UrlRefused));
    }

    #[tokio::test]
    async fn no_failure_tells_a_url() {
        let client = bare().https_only(true).build().unwrap();
        let request = client.get("http://secret.example.com/?token=secret").build().unwrap();
        let error = client.execute(request).await.unwrap_err();
        assert!(error.to_string().contains("secret"), "reqwest itself tells it");
        let told = story::of(&error);
        assert!(!told.contains("secret"), "{told}");
    }
}
