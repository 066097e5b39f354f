//! Proxies other than Envoy, which ask over HTTP and must be answered alike.

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use http::header::{HeaderMap, HeaderName};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use keybound::front::forward_auth::{Flavour, read, write};
use keybound::installation::{Checker, Installation};
use keybound::state::replay::{ReplayRules, ReplayStore};
use keybound::state::token_cache::TokenCache;
use keybound::state::token_cache::TokenCacheLimits;
use keybound_core::client_certificate::{HeaderFormat, Source};
use keybound_core::policy::PolicySet;
use keybound_core::{Answer, Field, Header, Mark, Overrides, Refusal, Request, Rules, Verdict};
use std::sync::Arc;
use tokio::runtime::Handle;

const CERTIFICATE: &str = "x-ssl-client-cert";
const ENVOY: Flavour = Flavour::Envoy { path_prefix: String::new() };

/// What a second installation has for itself, so that no proof is seen twice by the same one.
pub(crate) struct Twin {
    cache: Arc<TokenCache>,
    replay: Arc<ReplayStore>,
}

impl Twin {
    pub(crate) fn start(runtime: &Handle) -> Self {
        Self {
            cache: Arc::new(TokenCache::new(TokenCacheLimits::default()).unwrap()),
            replay: Arc::new(ReplayStore::start(&ReplayRules::default(), runtime)),
        }
    }

    /// Has `request` checked under the same rules as it comes from nginx, and holds the answer
    /// against `expected`.
    pub(crate) async fn agrees(
        &self,
        checker: &Checker,
        installation: &Installation,
        request: &CheckRequest,
        expected: &Answer<'_>,
    ) {
        let format = HeaderFormat::PemUrlencoded;
        let twin = &self.of(installation, Source::Header { name: CERTIFICATE.to_owned(), format });
        let question = question(request, &Flavour::Nginx);
        let read = read_alike(request, &question);
        let verdict = match &read {
            Ok(request) => checked(checker, twin, request).await,
            Err(refusal) => Verdict::refused(*refusal, twin.policies()),
        };
        let found = Answer::of(&verdict, twin.policies(), read.as_ref().ok());
        assert_eq!(&found, expected);
        for flavour in [Flavour::Nginx, Flavour::Traefik, ENVOY] {
            is_told(expected, &flavour, &question.headers);
        }
    }

    /// Has `request` explained under the same rules, and holds the answer against `expected`.
    pub(crate) async fn explains(
        &self,
        checker: &Checker,
        installation: &Installation,
        request: &Request<'_>,
        expected: &Answer<'_>,
    ) {
        let told = installation.policies().client_certificate.clone();
        let twin = &self.of(installation, told);
        let verdict = checker.explain_with(&twin.rules, twin, request, None).await;
        let steps = verdict.facts.explanation.steps();
        let failed = steps.iter().filter(|it| it.mark == Mark::Failed).count();
        let last = steps.last().is_some_and(|it| it.mark == Mark::Failed);
        assert_eq!((failed, last), (usize::from(last), verdict.outcome.is_err()), "{steps:?}");
        assert_eq!(&Answer::of(&verdict, twin.policies(), Some(request)), expected);
    }

    /// `installation`, with the certificate from there.
    pub(crate) fn of(
        &self,
        installation: &Installation,
        client_certificate: Source,
    ) -> Installation {
        let policies = PolicySet { client_certificate, ..installation.policies().clone() };
        let rules = Rules::new(policies, Arc::clone(&installation.rules.nonces));
        let (cache, replay) = (Arc::clone(&self.cache), Arc::clone(&self.replay));
        Installation::new(rules, installation.issuers.clone(), installation.limits, cache, replay)
    }
}

/// How a check of `request` ends.
pub(crate) async fn checked(
    checker: &Checker,
    installation: &Installation,
    request: &Request<'_>,
) -> Verdict {
    keybound_core::check(&installation.rules, installation, request, checker.clock().now()).await
}

/// What is read of the question of nginx, after a look at whether the others tell the same.
fn read_alike<'a>(request: &CheckRequest, question: &'a Parts) -> Result<Request<'a>, Refusal> {
    let found = read::request(question, &Flavour::Nginx, Some(CERTIFICATE));
    let of_traefik = self::question(request, &Flavour::Traefik);
    let of_traefik = read::request(&of_traefik, &Flavour::Traefik, Some(CERTIFICATE));
    assert_eq!(of_traefik.as_ref().ok(), found.as_ref().ok());
    // Envoy's question names no policy.
    if found.as_ref().is_ok_and(|it| it.policy.is_none()) {
        let of_envoy = self::question(request, &ENVOY);
        let of_envoy = read::request(&of_envoy, &ENVOY, Some(CERTIFICATE));
        assert_eq!(of_envoy.as_ref().ok(), found.as_ref().ok());
    }
    found.map_err(Refusal::from)
}

/// How a proxy of this flavour asks about `request`.
fn question(request: &CheckRequest, flavour: &Flavour) -> Parts {
    let attributes = request.attributes.clone().unwrap_or_default();
    let http = attributes.request.and_then(|it| it.http).unwrap_or_default();
    let policy = attributes.context_extensions.get("policy");
    let check = policy.map_or_else(|| "/check".to_owned(), |it| format!("/check/{it}"));
    let mut lines = vec![
        (CERTIFICATE, attributes.source.unwrap_or_default().certificate),
        ("x-forwarded-proto", http.scheme),
    ];
    let mut question = http::Request::builder();
    match flavour {
        Flavour::Nginx => {
            lines.push(("x-original-method", http.method));
            lines.push(("x-original-uri", http.path));
            lines.push(("x-forwarded-host", http.host));
            question = question.uri(check);
        }
        Flavour::Traefik => {
            lines.push(("x-forwarded-method", http.method));
            lines.push(("x-forwarded-uri", http.path));
            lines.push(("x-forwarded-host", http.host));
            question = question.uri(check);
        }
        Flavour::Envoy { .. } => {
            lines.push(("host", http.host));
            question = question.method(&*http.method).uri(http.path);
        }
    }
    let mut question = question.body(()).unwrap().into_parts().0;
    // Envoy sends what it is told to, the others all that the client sent.
    let told = [&["authorization", "dpop"][..], &Overrides::METHOD, &Overrides::URL].concat();
    let is_sent = |name: &str| *flavour != ENVOY || told.contains(&name);
    let headers = http.headers.iter().map(|(name, value)| (name.as_str(), value.clone()));
    // What the proxy says takes the place of what the client said, and a header without a value is
    // not sent.
    let said = lines.into_iter().filter(|it| !it.1.is_empty());
    for (name, value) in headers.filter(|it| is_sent(it.0)).chain(said) {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        question.headers.insert(HeaderName::try_from(name).unwrap(), value);
    }
    question
}

/// Holds the response that a proxy of this flavour gets against the answer that it stands for.
fn is_told(answer: &Answer<'_>, flavour: &Flavour, asked: &HeaderMap) {
    let authorization = asked.get("authorization").map(HeaderValue::as_bytes);
    let authorization = authorization.map_or(Field::Absent, Field::One);
    let response = write::response(answer, flavour, authorization, &HeaderValue::from_static(""));
    let value = |name: &str| response.headers().get(name).map(HeaderValue::as_bytes);
    let is_told = |it: &Header<'_>| {
        assert_eq!(value(it.name), Some(it.value.as_bytes()), "{} {flavour:?}", it.name);
    };
    match answer {
        Answer::Allow { set, remove, to_client, .. } => {
            assert_eq!(response.status(), StatusCode::OK);
            set.iter().chain(to_client).for_each(is_told);
            let listed = value("x-envoy-auth-headers-to-remove").map(<[u8]>::to_vec);
            match flavour {
                Flavour::Envoy { .. } => {
                    let names = remove.join(",").into_bytes();
                    assert_eq!(listed, Some(names).filter(|it| !it.is_empty()));
                }
                Flavour::Nginx | Flavour::Traefik => {
                    assert!(remove.iter().all(|it| value(it) == Some(b"")), "{response:?}");
                }
            }
        }
        Answer::Deny { status, to_client, .. } => {
            let found = response.status().as_u16();
            let nginx_may_not = *flavour == Flavour::Nginx && *status == 400;
            assert!(found == *status || (nginx_may_not && [401, 403].contains(&found)), "{found}");
            let name = HeaderName::from_static("www-authenticate");
            let challenges = to_client.iter().filter(|it| *it.name == *name.as_str());
            let challenges: Vec<&str> = challenges.map(|it| &*it.value).collect();
            let lines = response.headers().get_all(&name).iter().map(|it| it.to_str().unwrap());
            assert_eq!(lines.collect::<Vec<_>>().join(", "), challenges.join(", "));
            let others = ["dpop-nonce", "retry-after"];
            to_client.iter().filter(|it| others.contains(&it.name)).for_each(is_told);
        }
        Answer::Served { .. } => assert_eq!(response.status(), StatusCode::NOT_FOUND),
    }
}
