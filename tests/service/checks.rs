//! Whole checks: a `CheckRequest` as Envoy sends it goes in, the answer that Envoy gets comes out.
//! Each is made over HTTP as well, as other proxies ask, and explained, with the same answer.
//!
//! Each case is one edit of a request that is allowed.

use crate::support::clock::ManualClock;
use crate::support::identity_provider::IdentityProvider;
use crate::support::proofs::prove;
use crate::support::subrequest::{Twin, checked};
use crate::support::tokens::{self, Signer};
use envoy_types::pb::envoy::service::auth::v3 as auth;
use jsonwebtoken::Algorithm as Signing;
use keybound::clock::Clock;
use keybound::front::ext_authz::{encode, wire};
use keybound::installation::{
    Checker, DpopRules, Installation, InstallationRules, IssuerRules, Limits, LiveIssuer,
};
use keybound::state::jwks::{self, IssuerKeys};
use keybound::state::jwks::{KeyRules, KeySource};
use keybound::state::replay::memory::MemoryLimits;
use keybound::state::replay::{ReplayRules, ReplayStore};
use keybound_core::client_certificate::Source;
use keybound_core::jose::Algorithm;
use keybound_core::jose::Thumbprint;
use keybound_core::jose::thumbprint;
use keybound_core::policy::{
    Authentication, ClaimFormat, ClaimRule, ClaimValues, HostPattern, IdentityHeader, Issuer,
    IssuerId, Match, Mode, NonceDemand, Policy, PolicySet, ProofRules, ProofTime, SenderConstraint,
    Streams, TokenType, TypeClaim, Upstream, UpstreamAuthorization,
};
use keybound_core::{Answer, Denial, Detail, Facts, Origin, Refusal, Rules, UnixTime, Verdict};
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://as.example.com";
const OTHER_ISSUER: &str = "https://other.example.com";

/// An installation: two issuers whose keys have the same names, and policies of every kind.
struct World {
    /// The client's DPoP key.
    key: Signer,
    es256: Signer,
    rs256: Signer,
    other: Signer,
    stranger: Signer,
    certificate: Vec<u8>,
    installation: Installation,
    checker: Checker,
    /// The same installation, for proxies that ask over HTTP.
    twin: Twin,
    /// The same, inside Envoy.
    inside: Twin,
    /// The same, which explains.
    explainer: Twin,
    clock: Arc<ManualClock>,
    _files: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let es256 = Signer::new(Signing::ES256, "key-1");
        let rs256 = Signer::new(Signing::RS256, "key-rsa");
        let other = Signer::new(Signing::ES256, "key-1");
        let stranger = Signer::new(Signing::ES256, "key-1");
        let files = tempfile::tempdir().unwrap();
        let key_file = |name: &str, keys: &[&Signer]| {
            let path = files.path().join(name);
            let keys: Vec<&Value> = keys.iter().map(|it| it.jwk()).collect();
            std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
            KeySource::File(path)
        };
        let issuer = |name: &str, source| {
            let issuer = Arc::new(Issuer {
                algorithms: vec![Algorithm::ES256, Algorithm::PS256, Algorithm::EdDSA],
                ..Issuer::new(name, "https://api.example.com")
            });
            IssuerRules { issuer, keys: kept_at(source), introspection: None, revocation: None }
        };
        let issuers = [
            issuer(ISSUER, key_file("as.json", &[&es256, &rs256])),
            issuer(OTHER_ISSUER, key_file("other.json", &[&other])),
        ];
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(NOW)));
        let shared: Arc<dyn Clock> = clock.clone();
        let runtime = tokio::runtime::Handle::current();
        let policies = policies(issuers.iter().map(|it| Arc::clone(&it.issuer)).collect());
        let (limits, dpop) = (Limits::default(), DpopRules::default());
        let rules = InstallationRules { policies, issuers: issuers.into(), limits, dpop };
        let made = Installation::start(rules, None, &shared, &runtime).unwrap();
        for issuer in &made.installation.issuers {
            issuer.keys.ready().await;
        }
        Self {
            key: Signer::new(Signing::ES256, "client"),
            es256,
            rs256,
            other,
            stranger,
            certificate: rcgen::generate_simple_self_signed(vec![]).unwrap().cert.der().to_vec(),
            installation: made.installation,
            checker: Checker::new(shared),
            twin: Twin::start(&runtime),
            inside: Twin::start(&runtime),
            explainer: Twin::start(&runtime),
            clock,
            _files: files,
        }
    }

    /// From here on these policies are in force.
    fn demand(&mut self, policies: PolicySet) {
        let rules = Rules::new(policies, Arc::clone(&self.installation.rules.nonces));
        let Installation { issuers, cache, replay, limits, .. } = &self.installation;
        let (cache, replay) = (Arc::clone(cache), Arc::clone(replay));
        self.installation = Installation::new(rules, issuers.clone(), *limits, cache, replay);
    }

    fn claims(&self) -> Value {
        json!({
            "iss": ISSUER, "aud": "https://api.example.com", "exp": NOW + 300, "iat": NOW,
            "sub": "alice", "client_id": "app", "scope": "read write", "acr": "loa3",
            "cnf": {"x5t#S256": Thumbprint::of(&self.certificate).to_base64url()},
        })
    }

    fn token(&self, edit: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        edit(&mut claims);
        self.es256.sign("at+jwt", &claims)
    }

    /// A request with this token and the certificate to which good tokens are bound.
    fn request(&self, token: &str) -> auth::CheckRequest {
        let mut request = auth::CheckRequest::default();
        let attributes = request.attributes.get_or_insert_default();
        let source = attributes.source.get_or_insert_default();
        source.certificate = url_encoded_pem(&self.certificate);
        let http = attributes.request.get_or_insert_default().http.get_or_insert_default();
        http.method = "GET".into();
        http.scheme = "https".into();
        http.host = "api.example.com".into();
        http.path = "/v1/things?x=1".into();
        http.headers.insert("authorization".to_owned(), format!("Bearer {token}"));
        request
    }

    async fn answer(&self, request: &auth::CheckRequest) -> auth::CheckResponse {
        let message = request.encode_to_vec();
        let read = wire::read(&message, None, None);
        let verdict = match &read {
            Ok(request) => checked(&self.checker, &self.installation, request).await,
            Err(refusal) => Verdict::refused(*refusal, &self.installation.rules.policies),
        };
        let answer = Answer::of(&verdict, &self.installation.rules.policies, read.as_ref().ok());
        self.twin.agrees(&self.checker, &self.installation, request, &answer).await;
        let clock = Arc::clone(self.checker.clock());
        self.inside.decides(clock, &self.installation, request, &answer).await;
        if let Ok(request) = &read {
            self.explainer.explains(&self.checker, &self.installation, request, &answer).await;
        }
        let mut encoded = vec![];
        encode::response(&answer, &mut encoded);
        auth::CheckResponse::decode(&*encoded).unwrap()
    }

    /// The reason that the metadata gives, after checking that the parts of the answer agree.
    async fn reason(&self, request: &auth::CheckRequest) -> String {
        let answer = self.answer(request).await;
        let told = told(&answer);
        let denied = denied(&answer);
        assert_eq!(told["decision"] == "deny", denied.is_some(), "{answer:?}");
        assert_eq!(answer.status.as_ref().unwrap().code != 0, denied.is_some());
        told["reason"].clone()
    }
}

fn case(what: &str, request: &auth::CheckRequest, expected: &str) -> Case {
    Case { what: what.to_owned(), request: request.clone(), expected: expected.to_owned() }
}

struct Case {
    what: String,
    request: auth::CheckRequest,
    expected: String,
}

impl World {
    fn jkt(&self) -> String {
        thumbprint(self.key.jwk().as_object().unwrap()).unwrap().to_base64url()
    }

    /// A token that is bound to the client's DPoP key, and to nothing else.
    fn dpop_token(&self) -> String {
        self.token(|it| it["cnf"] = json!({"jkt": self.jkt()}))
    }

    fn dpop_request(&self, policy: &str, token: &str, proof: &str) -> auth::CheckRequest {
        let mut request = named(without_certificate(self.request(token)), policy);
        let headers = headers(&mut request);
        headers.insert("authorization".to_owned(), format!("DPoP {token}"));
        headers.insert("dpop".to_owned(), proof.to_owned());
        request
    }

    /// A request under policy `dpop` whose proof has had one edit.
    fn proved(&self, jti: &str, edit: impl FnOnce(&mut Value)) -> auth::CheckRequest {
        let token = self.dpop_token();
        let mut claims = proof_claims(jti, &token);
        edit(&mut claims);
        self.dpop_request("dpop", &token, &prove(&self.key, &claims))
    }

    async fn headers_to_client(&self, request: &auth::CheckRequest) -> Vec<String> {
        let answer = self.answer(request).await;
        let headers = match denied(&answer) {
            Some(denied) => &denied.headers,
            None => &allowed(&answer).response_headers_to_add,
        };
        let shown = headers.iter().map(|it| it.header.clone().unwrap());
        shown.map(|it| format!("{}: {}", it.key, it.value)).collect()
    }
}

fn kept_at(source: KeySource) -> KeyRules {
    KeyRules::new(source)
}

/// The first issuer's keys, as they are there.
async fn start(provider: &IdentityProvider, clock: &Arc<ManualClock>) -> Arc<IssuerKeys> {
    let rules = kept_at(KeySource::Uri(provider.jwks_uri()));
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    let runtime = tokio::runtime::Handle::current();
    let keys = jwks::prepare(&ISSUER.into(), &rules, None, &clock, &runtime).unwrap().keys;
    keys.ready().await;
    keys
}

fn live(keys: &Arc<IssuerKeys>) -> Arc<LiveIssuer> {
    Arc::new(LiveIssuer::new(keys, None, Duration::from_secs(1)))
}

fn policies(issuers: Vec<Arc<Issuer>>) -> PolicySet {
    let policy = |name: &str, sender_constraint| Policy {
        matches: Match { methods: vec!["NEVER".to_owned()], ..Match::default() },
        issuers: vec![IssuerId(0), IssuerId(1)],
        ..Policy::new(name, sender_constraint)
    };
    let demanding = Policy {
        scopes: vec!["read".to_owned(), "write".to_owned()],
        claims: vec![ClaimRule {
            path: "acr".to_owned(),
            values: ClaimValues::parse(json!(["loa2", "loa3"])).unwrap(),
        }],
        ..policy("demanding", SenderConstraint::Certificate)
    };
    let only =
        Policy { issuers: vec![IssuerId(0)], ..policy("only", SenderConstraint::Certificate) };
    let chosen = |name: &str, matches, scope: &str| Policy {
        matches,
        scopes: vec![scope.to_owned()],
        ..policy(name, SenderConstraint::Certificate)
    };
    let payments = Match { path_prefix: vec![b"payments".to_vec()], ..Match::default() };
    let deleted = Match { methods: vec!["DELETE".to_owned()], ..Match::default() };
    let tenant = HostPattern::Exact("tenant.example.com".to_owned());
    let of_tenant = Match { hosts: vec![tenant], ..Match::default() };
    let api = Policy { matches: Match::default(), ..policy("api", SenderConstraint::Certificate) };
    let headers =
        [("x-auth-subject", "sub"), ("x-auth-scope", "scope"), ("x-auth-tenant", "tenant")];
    PolicySet {
        issuers,
        policies: [
            demanding,
            only,
            policy("dpop", SenderConstraint::Dpop),
            Policy {
                origin: Some(Origin::parse("https://public.example.com").unwrap()),
                resource_metadata: Some("https://public.example.com/metadata".to_owned()),
                realm: "public".to_owned(),
                ..policy("public", SenderConstraint::Dpop)
            },
            Policy {
                mode: Mode::Report,
                scopes: vec!["read".to_owned()],
                ..policy("report", SenderConstraint::Certificate)
            },
            Policy {
                authentication: Authentication {
                    acr: vec!["phr".to_owned(), "urn:example:loa3".to_owned()],
                    max_age_seconds: Some(300),
                },
                scopes: vec!["pay".to_owned()],
                ..policy("login", SenderConstraint::Either)
            },
            Policy {
                streams: Streams::EndWithToken,
                ..policy("streams", SenderConstraint::Certificate)
            },
            Policy {
                streams: Streams::EndWithToken,
                mode: Mode::Report,
                ..policy("reported-streams", SenderConstraint::Certificate)
            },
            Policy {
                authentication: Authentication {
                    max_age_seconds: Some(300),
                    ..Authentication::default()
                },
                streams: Streams::EndWithToken,
                ..policy("login-streams", SenderConstraint::Certificate)
            },
            policy("either", SenderConstraint::Either),
            policy("if-bound", SenderConstraint::IfBound),
            policy("none", SenderConstraint::None),
            Policy { public: true, issuers: vec![], ..policy("open", SenderConstraint::None) },
            chosen("payments", payments, "write"),
            chosen("delete", deleted, "delete"),
            chosen("tenant", of_tenant, "tenant"),
            api,
        ]
        .map(Arc::new)
        .into(),
        client_certificate: Source::Peer,
        token_bytes: 16_384,
        upstream: Upstream {
            authorization: UpstreamAuthorization::Keep,
            headers: headers.map(|(name, claim)| IdentityHeader::new(name, claim)).into(),
            remove: vec!["x-forwarded-client-cert".into()],
            ..Upstream::default()
        },
        proofs: ProofRules::default(),
    }
}

fn url_encoded_pem(der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        body.as_bytes().chunks(64).map(|it| str::from_utf8(it).unwrap()).collect();
    let pem =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    pem.replace(' ', "%20").replace('\n', "%0A").replace('+', "%2B").replace('/', "%2F")
}

fn headers(request: &mut auth::CheckRequest) -> &mut std::collections::HashMap<String, String> {
    &mut http(request).headers
}

fn http(request: &mut auth::CheckRequest) -> &mut auth::attribute_context::HttpRequest {
    let attributes = request.attributes.as_mut().unwrap();
    attributes.request.as_mut().unwrap().http.as_mut().unwrap()
}

fn named(mut request: auth::CheckRequest, policy: &str) -> auth::CheckRequest {
    let attributes = request.attributes.as_mut().unwrap();
    attributes.context_extensions.insert("policy".to_owned(), policy.to_owned());
    request
}

fn without_certificate(mut request: auth::CheckRequest) -> auth::CheckRequest {
    request.attributes.as_mut().unwrap().source = None;
    request
}

fn told(answer: &auth::CheckResponse) -> BTreeMap<String, String> {
    use envoy_types::pb::google::protobuf::value::Kind;
    let fields = &answer.dynamic_metadata.as_ref().unwrap().fields;
    let text = |value: &envoy_types::pb::google::protobuf::Value| match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    fields.iter().map(|(name, value)| (name.clone(), text(value))).collect()
}

fn denied(answer: &auth::CheckResponse) -> Option<&auth::DeniedHttpResponse> {
    match answer.http_response.as_ref().unwrap() {
        auth::check_response::HttpResponse::DeniedResponse(denied) => Some(denied),
        auth::check_response::HttpResponse::OkResponse(_) => None,
        other => panic!("{other:?}"),
    }
}

fn allowed(answer: &auth::CheckResponse) -> &auth::OkHttpResponse {
    match answer.http_response.as_ref().unwrap() {
        auth::check_response::HttpResponse::OkResponse(ok) => ok,
        other => panic!("{other:?}"),
    }
}

async fn hold(world: &World, cases: Vec<Case>) {
    for case in cases {
        // Twice, for a token that was seen before takes another way.
        for time in ["first", "second"] {
            let found = world.reason(&case.request).await;
            assert_eq!(found, case.expected, "{}, the {time} time", case.what);
        }
    }
}

#[tokio::test]
async fn a_bound_token_with_its_certificate_is_allowed_and_says_who_it_is() {
    let world = World::new().await;
    let mut request = world.request(&world.token(|_| {}));
    headers(&mut request).insert("x-auth-tenant".to_owned(), "forged".to_owned());
    for _ in 0..2 {
        let answer = world.answer(&request).await;
        let told = told(&answer);
        for (name, value) in [
            ("decision", "allow"),
            ("reason", "allowed"),
            ("policy", "api"),
            ("issuer", ISSUER),
            ("subject", "alice"),
            ("client_id", "app"),
            ("sender_constraint", "certificate"),
        ] {
            assert_eq!(told.get(name).map(String::as_str), Some(value), "{name}");
        }
        let ok = allowed(&answer);
        #[expect(deprecated, reason = "Envoy heeds it")]
        let header = |it: &envoy_types::pb::envoy::config::core::v3::HeaderValueOption| {
            let header = it.header.clone().unwrap();
            (header.key, header.value, it.append.map(|it| it.value), it.append_action)
        };
        let set: Vec<_> = ok.headers.iter().map(header).collect();
        let overwrite =
            |name: &str, value: &str| (name.to_owned(), value.to_owned(), Some(false), 2);
        assert_eq!(
            set,
            [overwrite("x-auth-subject", "alice"), overwrite("x-auth-scope", "read write")]
        );
        assert_eq!(ok.headers_to_remove, ["x-forwarded-client-cert", "x-auth-tenant"]);
    }
    assert_eq!(world.installation.cache.hits(), 1);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_would_be_refused_where_the_policy_says_so() {
    let world = World::new().await;
    let lives = world.token(|_| {});
    let ends = world.token(|it| it["exp"] = json!(NOW - 29));
    let endless = world.token(|it| it["exp"] = json!(1e300));
    let of_login = |ago: i64| world.token(|it| it["auth_time"] = json!(NOW - ago));
    let (old_login, new_login) = (of_login(200), of_login(0));
    for (policy, token, own, expected) in [
        ("streams", &lives, None, Some("330000m")),
        ("streams", &ends, None, Some("1000m")),
        ("streams", &endless, None, Some("99999999H")),
        // The client may want less time, and gets no more for nonsense.
        ("streams", &lives, Some("5S"), Some("5000m")),
        ("streams", &lives, Some("1H"), Some("330000m")),
        ("streams", &lives, Some("0S"), Some("330000m")),
        ("streams", &lives, Some("1S,1S"), Some("330000m")),
        ("reported-streams", &lives, None, Some("330000m")),
        // Its login is too old before its end comes.
        ("login-streams", &old_login, None, Some("130000m")),
        ("login-streams", &new_login, None, Some("330000m")),
        ("streams", &old_login, None, Some("330000m")),
        ("api", &lives, None, None),
        ("api", &lives, Some("5S"), None),
    ] {
        let mut request = named(world.request(token), policy);
        headers(&mut request).extend(own.map(|it| ("grpc-timeout".to_owned(), it.to_owned())));
        let found = grpc_timeout(&world.answer(&request).await);
        assert_eq!(found.as_deref(), expected, "{policy} {own:?}");
    }
    // Let through without a certificate, no token was accepted.
    let denied = named(without_certificate(world.request(&lives)), "reported-streams");
    let answer = world.answer(&denied).await;
    assert!(told(&answer).contains_key("would_deny"));
    assert_eq!(grpc_timeout(&answer), None);
}

/// The `grpc-timeout` that is set, and set once.
fn grpc_timeout(answer: &auth::CheckResponse) -> Option<String> {
    let set = allowed(answer).headers.iter().filter_map(|it| it.header.clone());
    let found: Vec<_> = set.filter(|it| it.key == "grpc-timeout").map(|it| it.value).collect();
    assert!(found.len() <= 1, "{found:?}");
    found.into_iter().next()
}

/// What the proxy is told to remove of a request that is let through, or why it is not.
async fn removed(world: &World, request: &auth::CheckRequest) -> Result<Vec<String>, Refusal> {
    let message = request.encode_to_vec();
    let read = wire::read_for(&message, &world.installation.rules)?;
    let verdict = checked(&world.checker, &world.installation, &read).await;
    let answer = Answer::of(&verdict, &world.installation.rules.policies, Some(&read));
    let mut encoded = vec![];
    encode::response(&answer, &mut encoded);
    let answer = auth::CheckResponse::decode(&*encoded).unwrap();
    Ok(allowed(&answer).headers_to_remove.clone())
}

/// The request with these lines more, in place of its map of headers.
fn with_lines(mut request: auth::CheckRequest, lines: &[(&str, &str)]) -> auth::CheckRequest {
    use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
    let map = std::mem::take(headers(&mut request));
    let map = map.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let line = |(key, value): (&str, &str)| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let headers = map.chain(lines.iter().copied()).map(line).collect();
    http(&mut request).header_map = Some(HeaderMap { headers });
    request
}

const REMOVED_ANYWAY: [&str; 2] = ["x-forwarded-client-cert", "x-auth-tenant"];

#[tokio::test]
async fn what_an_upstream_could_take_for_an_identity_header_is_removed_as_it_is_spelled() {
    let world = World::new().await;
    let good = world.request(&world.token(|_| {}));
    for alias in [
        "x_auth_subject",
        "x-auth_subject",
        "X.Auth.Subject",
        "X-AUTH_TENANT",
        "x~auth!tenant",
        "x_forwarded_client_cert",
    ] {
        let mut in_map = good.clone();
        headers(&mut in_map).insert(alias.to_owned(), "root".to_owned());
        let twice = with_lines(good.clone(), &[(alias, "root"), (alias, "admin")]);
        for request in [in_map, twice] {
            let expected = [&REMOVED_ANYWAY[..], &[alias]].concat();
            assert_eq!(removed(&world, &request).await.unwrap(), expected);
        }
    }
    let other =
        [":path", "x-auth-subject", "x_auth_subjects", "author_ization", "x_other", "d_pop"];
    let lines = other.map(|it| (it, "root"));
    let request = with_lines(good.clone(), &lines);
    assert_eq!(removed(&world, &request).await.unwrap(), REMOVED_ANYWAY);
}

#[tokio::test]
async fn of_very_many_aliases_a_request_is_refused() {
    let world = World::new().await;
    let good = world.request(&world.token(|_| {}));
    let aliases = ["x_auth_subject", "x.auth.subject"].iter().cycle();
    let lines: Vec<_> = aliases.map(|it| (*it, "root")).take(257).collect();
    let found = removed(&world, &with_lines(good.clone(), &lines[..256])).await.unwrap();
    assert_eq!(found.len(), REMOVED_ANYWAY.len() + 256);
    let refused = removed(&world, &with_lines(good.clone(), &lines)).await;
    assert_eq!(refused, Err(Detail::HeaderUnremovable.into()));
    // One that comes very often is named once.
    let lines = [("x_auth_subject", "root"); 500];
    let found = removed(&world, &with_lines(good, &lines)).await.unwrap();
    assert_eq!(found.len(), REMOVED_ANYWAY.len() + 1);
}

#[tokio::test]
async fn all_that_begins_as_the_operator_says_is_removed_but_for_what_is_set() {
    let mut world = World::new().await;
    let mut policies = world.installation.rules.policies.clone();
    policies.upstream.remove_beginning = vec!["x-auth-".into(), "x-forwarded-c".into()];
    world.demand(policies);
    let good = world.request(&world.token(|_| {}));
    let gone = ["x-auth-groups", "X_Auth_Groups", "x-auth_subject", "x-forwarded-city"];
    let stays = ["x-auth-subject", "x-auth", "x-forwarded-for", "accept"];
    let lines: Vec<_> = gone.iter().chain(&stays).map(|it| (*it, "root")).collect();
    let found = removed(&world, &with_lines(good, &lines)).await.unwrap();
    assert_eq!(found, [&REMOVED_ANYWAY[..], &gone].concat());
}

#[tokio::test]
async fn a_claim_that_a_header_could_not_tell_from_another_is_not_told() {
    let mut world = World::new().await;
    let mut policies = world.installation.rules.policies.clone();
    let json =
        IdentityHeader { format: ClaimFormat::Json, ..IdentityHeader::new("x-json", "groups") };
    policies.upstream.headers = vec![IdentityHeader::new("x-plain", "groups"), json];
    policies.upstream.remove = vec![];
    world.demand(policies);
    for (groups, plain, json) in [
        (json!(["staff", "admin"]), Some("staff admin"), r#"["staff","admin"]"#),
        (json!(["staff admin"]), None, r#"["staff admin"]"#),
        (json!("staff "), None, r#""staff ""#),
        (json!("Zoë"), Some("Zoë"), r#""Zo\u00eb""#),
    ] {
        let request = world.request(&world.token(|it| it["groups"] = groups));
        let answer = world.answer(&request).await;
        let found = allowed(&answer);
        let told = found.headers.iter().map(|it| it.header.clone().unwrap());
        let told: Vec<_> = told.map(|it| (it.key, it.value)).collect();
        let plain = plain.map(|it| ("x-plain".to_owned(), it.to_owned()));
        let removed = if plain.is_none() { vec!["x-plain"] } else { vec![] };
        let expected: Vec<_> =
            plain.into_iter().chain([("x-json".to_owned(), json.to_owned())]).collect();
        assert_eq!(told, expected);
        assert_eq!(found.headers_to_remove, removed);
    }
}

#[tokio::test]
async fn a_token_is_worth_nothing_without_its_key() {
    let world = World::new().await;
    let bound = world.request(&world.token(|_| {}));
    let mut thief = bound.clone();
    let other = rcgen::generate_simple_self_signed(vec![]).unwrap().cert.der().to_vec();
    thief.attributes.as_mut().unwrap().source.as_mut().unwrap().certificate =
        url_encoded_pem(&other);
    let mut broken = bound.clone();
    broken.attributes.as_mut().unwrap().source.as_mut().unwrap().certificate =
        "-----BEGIN%20CERTIFICATE-----%0AAAAA".into();
    let none = without_certificate(bound.clone());
    let cnf = |cnf: Value| world.request(&world.token(|it| it["cnf"] = cnf));
    let unbound = world.request(&world.token(|it| drop(it.as_object_mut().unwrap().remove("cnf"))));
    let jkt = Thumbprint::of(b"key").to_base64url();
    let mut cases = vec![
        case("bound", &bound, "allowed"),
        case("stolen", &thief, "certificate_mismatch"),
        case("no certificate", &none, "certificate_missing"),
        case("unreadable certificate", &broken, "certificate_malformed"),
        case("unbound", &unbound, "binding_missing"),
        case("unknown method", &cnf(json!({"kid": "x"})), "binding_unsupported"),
        case("empty cnf", &cnf(json!({})), "binding_unsupported"),
        case("broken cnf", &cnf(json!("x")), "token_malformed"),
        case("hex thumbprint", &cnf(json!({"x5t#S256": "00ff"})), "token_malformed"),
        case("DPoP-bound as Bearer", &cnf(json!({"jkt": jkt})), "scheme_mismatch"),
    ];
    for policy in ["either", "if-bound"] {
        cases.push(case(policy, &named(bound.clone(), policy), "allowed"));
        cases.push(case(policy, &named(thief.clone(), policy), "certificate_mismatch"));
    }
    cases.push(case("either", &named(unbound.clone(), "either"), "binding_missing"));
    cases.push(case("if-bound", &named(unbound.clone(), "if-bound"), "allowed"));
    cases.push(case("dpop", &named(bound.clone(), "dpop"), "binding_missing"));
    cases.push(case("none", &named(thief, "none"), "allowed"));
    cases.push(case("none", &named(unbound, "none"), "allowed"));
    hold(&world, cases).await;
}

/// A token whose claims are nested so deep. Nobody need sign it.
fn deep(levels: usize) -> String {
    let claims = format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let parts = [r#"{"alg":"ES256","typ":"at+jwt"}"#, &claims, "signature"];
    parts.map(|it| keybound_core::jose::base64url::encode(it.as_bytes())).join(".")
}

#[tokio::test]
async fn a_token_must_be_an_access_token_of_the_issuer_for_this_audience_and_time() {
    let world = World::new().await;
    let with =
        |name: &'static str, value: Value| world.request(&world.token(|it| it[name] = value));
    let typed = |typ: &str| world.request(&world.es256.sign(typ, &world.claims()));
    let by = |signer: &Signer| world.request(&signer.sign("at+jwt", &world.claims()));
    let good = world.token(|_| {});
    // Its issuer was heard since, and does not have that key.
    let mut claims = world.claims();
    claims["iat"] = (NOW - 60).into();
    let unknown = Signer::new(Signing::ES256, "key-2").sign("at+jwt", &claims);
    let cases = vec![
        case("expired", &with("exp", json!(NOW - 30)), "token_expired"),
        case("just not expired", &with("exp", json!(NOW - 29)), "allowed"),
        case("premature", &with("nbf", json!(NOW + 31)), "token_premature"),
        case("audience", &with("aud", json!("other")), "token_audience_mismatch"),
        case("issuer", &with("iss", json!("https://evil.example")), "token_issuer_unknown"),
        case("ID token", &typed("JWT"), "token_type_wrong"),
        case("proof as token", &typed("dpop+jwt"), "token_type_wrong"),
        case("algorithm", &by(&world.rs256), "token_algorithm_forbidden"),
        case("stranger", &by(&world.stranger), "token_signature_invalid"),
        case("key of another issuer", &by(&world.other), "token_signature_invalid"),
        case("unknown key", &world.request(&unknown), "token_key_unknown"),
        case("tampered", &world.request(&tokens::tampered(&good)), "token_signature_invalid"),
        case("opaque", &world.request("opaque"), "token_malformed"),
        case("garbage", &world.request("a.b.c"), "token_malformed"),
        case("too large", &world.request(&"a".repeat(16_385)), "token_too_large"),
        case("5,000 deep", &world.request(&deep(5_000)), "token_malformed"),
        case("10,000 deep", &world.request(&deep(10_000)), "token_too_large"),
        case("1 MiB", &world.request(&"a".repeat(1 << 20)), "token_too_large"),
    ];
    hold(&world, cases).await;
}

#[tokio::test]
async fn no_other_token_of_the_issuer_passes_for_an_access_token() {
    let mut world = World::new().await;
    let mut policies = world.installation.rules.policies.clone();
    let issuer = Arc::make_mut(&mut policies.issuers[0]);
    issuer.token_types = vec![TokenType::Absent, TokenType::Named("jwt".to_owned())];
    issuer.type_claims.push(TypeClaim::there("client_id"));
    world.demand(policies);
    let signed = |typ: Option<&str>, edit: fn(&mut Value)| {
        let mut claims = world.claims();
        edit(&mut claims);
        world.request(&world.es256.sign(typ, &claims))
    };
    let without_client = |it: &mut Value| drop(it.as_object_mut().unwrap().remove("client_id"));
    let cases = vec![
        case("no type", &signed(None, |_| {}), "allowed"),
        case("JWT", &signed(Some("JWT"), |_| {}), "allowed"),
        case("in full", &signed(Some("application/jwt"), |_| {}), "allowed"),
        case("called absent", &signed(Some("absent"), |_| {}), "token_type_wrong"),
        case("at+jwt", &signed(Some("at+jwt"), |_| {}), "token_type_wrong"),
        case("empty", &signed(Some(""), |_| {}), "token_type_wrong"),
        case("logout", &signed(Some("JWT"), |it| it["events"] = json!({})), "token_type_wrong"),
        case("ID token", &signed(None, |it| it["at_hash"] = json!("x")), "token_type_wrong"),
        case("hybrid", &signed(None, |it| it["c_hash"] = json!("x")), "token_type_wrong"),
        case("no client", &signed(None, without_client), "token_type_wrong"),
    ];
    hold(&world, cases).await;
}

#[tokio::test]
async fn what_a_policy_demands_is_demanded() {
    let world = World::new().await;
    let with = |edit: fn(&mut Value)| named(world.request(&world.token(edit)), "demanding");
    let of_other = |policy| {
        let mut claims = world.claims();
        claims["iss"] = json!(OTHER_ISSUER);
        named(world.request(&world.other.sign("at+jwt", &claims)), policy)
    };
    let cases = vec![
        case("all", &with(|_| {}), "allowed"),
        case("one scope", &with(|it| it["scope"] = json!("read")), "scope_insufficient"),
        case("acr", &with(|it| it["acr"] = json!("loa1")), "claim_insufficient"),
        case("no acr", &with(|it| it["acr"] = json!(null)), "claim_insufficient"),
        case("acr among others", &with(|it| it["acr"] = json!(["x", "loa2"])), "allowed"),
        case("issuer", &of_other("demanding"), "allowed"),
        case("issuer of another policy", &of_other("only"), "token_issuer_unknown"),
        case("unknown", &named(world.request("x"), "unknown"), "policy_unknown"),
    ];
    hold(&world, cases).await;
}

#[tokio::test]
async fn who_must_log_in_again_is_told_how() {
    let world = World::new().await;
    let with = |acr: Value, auth_time: Value, scope: &str| {
        let token = world.token(|it| {
            it["acr"] = acr;
            it["auth_time"] = auth_time;
            it["scope"] = json!(scope);
        });
        named(world.request(&token), "login")
    };
    let weak = with(json!("pwd"), json!(NOW), "pay");
    let refused = "authentication_insufficient";
    let cases = vec![
        case("as it must be", &with(json!("phr"), json!(NOW - 300), "pay"), "allowed"),
        case("the other class", &with(json!("urn:example:loa3"), json!(NOW), "pay"), "allowed"),
        case("weak", &weak, refused),
        case("long ago", &with(json!("phr"), json!(NOW - 331), "pay"), refused),
        case("no class", &with(json!(null), json!(NOW), "pay"), refused),
        case("no time", &with(json!("phr"), json!(null), "pay"), refused),
        case("weak, and without the scope", &with(json!("pwd"), json!(NOW), "x"), refused),
        case("without the scope", &with(json!("phr"), json!(NOW), "x"), "scope_insufficient"),
    ];
    hold(&world, cases).await;
    let answer = world.answer(&weak).await;
    assert_eq!(denied(&answer).unwrap().status.as_ref().unwrap().code, 401);
    let told = world.headers_to_client(&weak).await;
    assert_eq!(
        told[..2],
        [
            "www-authenticate: Bearer realm=\"login\", error=\"insufficient_user_authentication\", \
             error_description=\"the user must log in again, more strongly or more recently\", \
             acr_values=\"phr urn:example:loa3\", max_age=\"300\", scope=\"pay\"",
            "www-authenticate: DPoP realm=\"login\", algs=\"ES256 PS256 RS256 EdDSA Ed25519\", \
             scope=\"pay\"",
        ]
    );
}

#[tokio::test]
async fn a_login_grows_old_while_its_token_is_remembered() {
    let world = World::new().await;
    let token = world.token(|it| {
        it["acr"] = json!("phr");
        it["auth_time"] = json!(NOW - 200);
        it["scope"] = json!("pay");
    });
    let request = named(world.request(&token), "login");
    for (seconds, expected) in
        [(0, "allowed"), (130, "allowed"), (1, "authentication_insufficient")]
    {
        world.clock.advance(Duration::from_secs(seconds));
        assert_eq!(world.reason(&request).await, expected, "{seconds}");
    }
}

#[tokio::test]
async fn a_request_must_carry_one_token_in_one_way() {
    let world = World::new().await;
    let good = world.token(|_| {});
    let with = |value: &str| {
        let mut request = world.request(&good);
        headers(&mut request).insert("authorization".to_owned(), value.to_owned());
        request
    };
    let mut nothing = world.request(&good);
    headers(&mut nothing).clear();
    let mut twice = world.request(&good);
    http(&mut twice).path = format!("/?access_token={good}");
    let mut proofs = world.request(&good);
    headers(&mut proofs).insert("dpop".to_owned(), "a,b".to_owned());
    let cases = vec![
        case("nothing", &nothing, "credentials_missing"),
        case("empty", &with(""), "credentials_missing"),
        case("Basic", &with("Basic dXNlcg=="), "scheme_unsupported"),
        case("Microsoft's for bound ones", &with(&format!("MTLS_POP {good}")), "allowed"),
        case("two", &with(&format!("Bearer {good},Bearer {good}")), "credentials_ambiguous"),
        case("in the query too", &twice, "credentials_ambiguous"),
        case("two proofs", &proofs, "credentials_ambiguous"),
        case("not ASCII", &with("Bearer é"), "token_malformed"),
        case("DPoP scheme", &with(&format!("DPoP {good}")), "scheme_mismatch"),
    ];
    hold(&world, cases).await;
    let no_attributes = auth::CheckRequest::default();
    assert_eq!(world.reason(&no_attributes).await, "request_malformed");
}

#[tokio::test]
async fn a_remembered_token_is_still_checked_for_time() {
    let world = World::new().await;
    let request = world.request(&world.token(|_| {}));
    assert_eq!(world.reason(&request).await, "allowed");
    world.clock.advance(Duration::from_secs(329));
    assert_eq!(world.reason(&request).await, "allowed");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.reason(&request).await, "token_expired");
    assert_eq!(world.installation.cache.misses(), 1);
}

#[tokio::test]
async fn a_remembered_token_goes_with_the_key_that_verified_it() {
    let mut world = World::new().await;
    let provider = IdentityProvider::start(&[world.es256.jwk().clone()]).await;
    let keys = start(&provider, &world.clock).await;
    world.installation.issuers[0] = live(&keys);

    let request = world.request(&world.token(|_| {}));
    hold(&world, vec![case("the old key", &request, "allowed")]).await;
    assert!(world.installation.cache.hits() > 0);

    // A rotation without overlap: the new key is known with the first token that names it.
    world.clock.advance(Duration::from_secs(60));
    let new = Signer::new(Signing::ES256, "key-2");
    provider.publish(&[new.jwk().clone()]);
    let renewed = world.request(&new.sign("at+jwt", &world.claims()));
    assert_eq!(world.reason(&renewed).await, "allowed");
    hold(&world, vec![case("the withdrawn key", &request, "token_key_unknown")]).await;
    // Another one so soon: nobody can say yet that the issuer has no such key.
    let newest = Signer::new(Signing::ES256, "key-3");
    let mut claims = world.claims();
    claims["iat"] = world.clock.now().as_secs().into();
    let renewed = world.request(&newest.sign("at+jwt", &claims));
    hold(&world, vec![case("not known yet", &renewed, "keys_unavailable")]).await;
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test]
async fn a_remembered_token_goes_with_the_algorithm_that_its_key_served() {
    let mut world = World::new().await;
    let jwk = |alg: &str| {
        let mut jwk = world.rs256.jwk().clone();
        jwk["alg"] = alg.into();
        jwk
    };
    let provider = IdentityProvider::start(&[jwk("RS256")]).await;
    let mut issuer = Issuer::clone(&world.installation.rules.policies.issuers[0]);
    issuer.algorithms = vec![Algorithm::RS256, Algorithm::PS256, Algorithm::ES256];
    let keys = start(&provider, &world.clock).await;
    world.installation.issuers[0] = live(&keys);
    world.installation.rules.policies.issuers[0] = Arc::new(issuer);
    let request = world.request(&world.rs256.sign("at+jwt", &world.claims()));
    hold(&world, vec![case("before", &request, "allowed")]).await;

    // The very key, for another algorithm alone; it is noticed with the first unknown name.
    provider.publish(&[jwk("PS256"), world.es256.jwk().clone()]);
    assert_eq!(world.reason(&world.request(&world.token(|_| {}))).await, "allowed");
    let hits = world.installation.cache.hits();
    hold(&world, vec![case("in memory", &request, "token_algorithm_forbidden")]).await;
    assert!(hits < world.installation.cache.hits(), "it is still in memory");
}

#[tokio::test]
async fn the_name_of_the_key_is_told_also_of_a_remembered_token() {
    let world = World::new().await;
    let message = world.request(&world.token(|_| {})).encode_to_vec();
    let request = wire::read(&message, None, None).unwrap();
    for hits in 0..2 {
        let verdict = checked(&world.checker, &world.installation, &request).await;
        assert_eq!(verdict.facts.kid.as_deref(), Some("key-1"));
        assert_eq!(world.installation.cache.hits(), hits);
    }
}

#[tokio::test]
async fn a_remembered_token_is_read_anew_for_claims_that_nobody_asked_for_before() {
    let mut world = World::new().await;
    let request = world.request(&world.token(|_| {}));
    assert_eq!(world.reason(&request).await, "allowed");
    let mut policies = world.installation.rules.policies.clone();
    policies.upstream.headers = vec![IdentityHeader::new("x-auth-audience", "aud")];
    world.demand(policies);
    let answer = world.answer(&request).await;
    let header = allowed(&answer).headers[0].header.clone().unwrap();
    assert_eq!((&*header.key, &*header.value), ("x-auth-audience", "https://api.example.com"));
}

type Change = fn(&mut Issuer);

#[tokio::test]
async fn a_remembered_token_is_held_to_what_is_asked_of_its_issuer_now() {
    let mut world = World::new().await;
    let request = world.request(&world.token(|_| {}));
    assert_eq!(world.reason(&request).await, "allowed");
    let edits: [(Change, &str); 3] = [
        (
            |it| it.audiences = vec!["https://other.example.com".to_owned()],
            "token_audience_mismatch",
        ),
        (|it| it.token_types = vec![TokenType::Named("jwt".to_owned())], "token_type_wrong"),
        (|it| it.algorithms = vec![Algorithm::EdDSA], "token_algorithm_forbidden"),
    ];
    let before = world.installation.rules.policies.clone();
    for (edit, reason) in edits {
        let mut policies = before.clone();
        edit(Arc::make_mut(&mut policies.issuers[0]));
        world.demand(policies);
        assert_eq!(world.reason(&request).await, reason);
    }
}

#[tokio::test]
async fn a_remembered_token_still_needs_a_policy_that_accepts_its_issuer() {
    let world = World::new().await;
    let mut claims = world.claims();
    claims["iss"] = json!(OTHER_ISSUER);
    let request = world.request(&world.other.sign("at+jwt", &claims));
    assert_eq!(world.reason(&request).await, "allowed");
    assert_eq!(world.reason(&named(request, "only")).await, "token_issuer_unknown");
}

#[tokio::test]
async fn the_client_is_told_how_to_do_better_and_no_more() {
    let world = World::new().await;
    let good = world.token(|_| {});
    let told = async |request: auth::CheckRequest| {
        let answer = world.answer(&request).await;
        let denied = denied(&answer).unwrap().clone();
        let headers = denied.headers.iter().map(|it| it.header.clone().unwrap());
        let headers: Vec<_> = headers.map(|it| format!("{}: {}", it.key, it.value)).collect();
        (denied.status.unwrap().code, headers, denied.body)
    };
    let missing = named(without_certificate(world.request(&good)), "demanding");
    let (status, headers, body) = told(missing).await;
    assert_eq!(status, 401);
    assert_eq!(
        headers,
        [
            "www-authenticate: Bearer realm=\"demanding\", error=\"invalid_token\", \
             error_description=\"the access token is bound to a client certificate and the request \
             has none\", scope=\"read write\"",
            "cache-control: no-store",
            "content-type: application/json",
        ]
    );
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["error"], "invalid_token");

    let narrow = named(world.request(&world.token(|it| it["scope"] = json!("read"))), "demanding");
    let (status, headers, _) = told(narrow).await;
    assert_eq!(status, 403);
    assert!(headers[0].ends_with("scope=\"read write\""), "{headers:?}");

    let mut nothing = named(world.request(&good), "either");
    http(&mut nothing).headers.clear();
    let (status, headers, _) = told(nothing).await;
    assert_eq!(status, 401);
    assert_eq!(headers[0], "www-authenticate: Bearer realm=\"either\"");
    assert!(headers[1].starts_with("www-authenticate: DPoP realm=\"either\""));

    // RFC 9449 §7.2: the error stands with the scheme that was tried.
    let old = named(world.request(&world.token(|it| it["exp"] = json!(1))), "either");
    let (_, headers, _) = told(old).await;
    assert!(headers[0].starts_with("www-authenticate: Bearer realm=\"either\", error="));
    assert!(headers[1].ends_with("\"ES256 PS256 RS256 EdDSA Ed25519\""), "{headers:?}");

    let (status, headers, _) = told(named(world.request(&good), "unknown")).await;
    assert_eq!(status, 403);
    assert!(!headers.iter().any(|it| it.starts_with("www-authenticate")), "{headers:?}");
}

#[tokio::test]
async fn only_who_came_at_a_bad_time_is_told_to_come_again() {
    let world = World::new().await;
    let policy = world.installation.rules.policies.policies.iter().find(|it| &*it.name == "either");
    for denial in Denial::ALL {
        let facts = Facts { policy: policy.cloned(), ..Facts::default() };
        let verdict = Verdict::new(Err(*denial), facts, &world.installation.rules.policies);
        let mut encoded = vec![];
        encode::response(
            &Answer::of(&verdict, &world.installation.rules.policies, None),
            &mut encoded,
        );
        let answer = auth::CheckResponse::decode(&*encoded).unwrap();
        let headers = &denied(&answer).unwrap().headers;
        let with = |name: &str| {
            let headers = headers.iter().map(|it| it.header.clone().unwrap());
            headers.filter(|it| it.key == name).map(|it| it.value).collect::<Vec<_>>()
        };
        let expected: &[&str] = if denial.status() == 503 { &["1"] } else { &[] };
        assert_eq!(with("retry-after"), expected, "{denial}");
        let facts = Facts { retry_after: Some(7), ..Facts::default() };
        let later = Verdict::new(Err(*denial), facts, &world.installation.rules.policies);
        let later = format!("{:?}", Answer::of(&later, &world.installation.rules.policies, None));
        assert_eq!(later.contains("retry-after: \"7\""), denial.status() == 503, "{later}");
        // No other credentials would do better.
        let challenges = if denial.status() < 500 { 2 } else { 0 };
        assert_eq!(with("www-authenticate").len(), challenges, "{denial}");
    }
}

type Edit = fn(&mut Value);

#[tokio::test]
async fn a_proof_is_good_once_and_for_what_it_was_made() {
    let world = World::new().await;
    let first = world.proved("jti-1", |_| {});
    let answer = world.answer(&first).await;
    assert_eq!(told(&answer)["reason"], "allowed");
    assert_eq!(told(&answer)["sender_constraint"], "dpop");
    assert_eq!(world.reason(&first).await, "proof_replayed");
    let mut other_query = world.proved("jti-1", |_| {});
    http(&mut other_query).path = "/v1/things?x=2".to_owned();
    assert_eq!(world.reason(&other_query).await, "proof_replayed");

    let refused: [(&str, Edit, &str); 7] = [
        ("method", |it| it["htm"] = json!("POST"), "proof_method_mismatch"),
        (
            "scheme",
            |it| it["htu"] = json!("http://api.example.com/v1/things"),
            "proof_target_mismatch",
        ),
        ("path", |it| it["htu"] = json!("https://api.example.com/v1"), "proof_target_mismatch"),
        ("old", |it| it["iat"] = json!(NOW - 61), "proof_stale"),
        ("early", |it| it["iat"] = json!(NOW + 61), "proof_stale"),
        ("token", |it| it["ath"] = json!("x"), "proof_token_mismatch"),
        ("jti", |it| it["jti"] = json!(""), "proof_malformed"),
    ];
    let mut cases = vec![];
    for (what, edit, reason) in refused {
        cases.push(case(what, &world.proved("jti-2", edit), reason));
    }
    hold(&world, cases).await;
    // None of them used it up.
    assert_eq!(world.reason(&world.proved("jti-2", |_| {})).await, "allowed");
}

#[tokio::test]
async fn a_dpop_bound_token_needs_a_proof_of_its_own_key() {
    let world = World::new().await;
    let token = world.dpop_token();
    let mut missing = world.dpop_request("dpop", &token, "x");
    headers(&mut missing).remove("dpop");
    let thief = Signer::new(Signing::ES256, "thief");
    let claims = proof_claims("jti", &token);
    let mut bearer = world.proved("jti", |_| {});
    headers(&mut bearer).insert("authorization".to_owned(), format!("Bearer {token}"));
    let both = world.token(|it| it["cnf"]["jkt"] = json!(world.jkt()));
    let proof = |jti| prove(&world.key, &proof_claims(jti, &both));
    let without = world.dpop_request("either", &both, &proof("a"));
    let cases = vec![
        case("no proof", &missing, "proof_missing"),
        case(
            "thief's",
            &world.dpop_request("dpop", &token, &prove(&thief, &claims)),
            "proof_key_mismatch",
        ),
        case("garbage", &world.dpop_request("dpop", &token, "x"), "proof_malformed"),
        case("as Bearer", &bearer, "scheme_mismatch"),
        case("both, one proved", &without, "certificate_missing"),
    ];
    hold(&world, cases).await;

    let mut proved = world.dpop_request("either", &both, &proof("b"));
    proved.attributes.as_mut().unwrap().source = world.request(&both).attributes.unwrap().source;
    let answer = world.answer(&proved).await;
    assert_eq!(told(&answer)["sender_constraint"], "certificate+dpop");
}

#[tokio::test]
async fn the_target_is_at_the_origin_of_the_policy_and_forwarded_headers_never_count() {
    let world = World::new().await;
    let token = world.dpop_token();
    let request = |htu: &str, jti: &str| {
        let mut claims = proof_claims(jti, &token);
        claims["htu"] = json!(htu);
        let mut request = world.dpop_request("public", &token, &prove(&world.key, &claims));
        headers(&mut request).insert("x-forwarded-host".to_owned(), "evil.example".to_owned());
        request
    };
    let cases = [
        ("https://public.example.com/v1/things", "allowed"),
        ("https://PUBLIC.example.com:443/v1/./things?x=9", "allowed"),
        ("https://api.example.com/v1/things", "proof_target_mismatch"),
        ("https://evil.example/v1/things", "proof_target_mismatch"),
    ];
    for (place, (htu, reason)) in cases.into_iter().enumerate() {
        assert_eq!(world.reason(&request(htu, &place.to_string())).await, reason, "{htu}");
    }
    let told = world.headers_to_client(&request("https://evil.example/", "x")).await;
    assert_eq!(
        told[0],
        "www-authenticate: DPoP realm=\"public\", algs=\"ES256 PS256 RS256 EdDSA Ed25519\", \
         error=\"invalid_dpop_proof\", error_description=\"the DPoP proof was made for another \
         target\", resource_metadata=\"https://public.example.com/metadata\""
    );
    assert_eq!(told.iter().filter(|it| it.starts_with("www-authenticate")).count(), 1);
}

#[tokio::test]
async fn a_grpc_call_is_proved_like_any_other_request() {
    let world = World::new().await;
    let mut call = world.proved("jti", |it| {
        it["htm"] = json!("POST");
        it["htu"] = json!("https://api.example.com/pkg.Service/Method");
    });
    http(&mut call).method = "POST".to_owned();
    http(&mut call).path = "/pkg.Service/Method".to_owned();
    headers(&mut call).insert("content-type".to_owned(), "application/grpc".to_owned());
    assert_eq!(world.reason(&call).await, "allowed");
}

#[tokio::test]
async fn of_fifty_checks_with_one_proof_one_passes() {
    let world = World::new().await;
    let request = world.proved("jti", |_| {});
    let all = futures_util::future::join_all((0..50).map(|_| world.reason(&request))).await;
    assert_eq!(all.iter().filter(|it| *it == "allowed").count(), 1);
    assert_eq!(all.iter().filter(|it| *it == "proof_replayed").count(), 49);
}

/// What a proof for the usual request with this token claims.
fn proof_claims(jti: &str, token: &str) -> Value {
    json!({
        "jti": jti, "htm": "GET", "htu": "https://api.example.com/v1/things", "iat": NOW,
        "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
    })
}

/// The nonce among the headers to the client.
fn nonce_among(headers: &[String]) -> Option<String> {
    headers.iter().find_map(|it| it.strip_prefix("dpop-nonce: ")).map(str::to_owned)
}

#[tokio::test]
async fn a_nonce_is_demanded_given_and_renewed() {
    let mut world = World::new().await;
    world.installation.rules.policies.proofs.nonce = NonceDemand::Required;
    let without = world.proved("jti-1", |_| {});
    assert_eq!(world.reason(&without).await, "nonce_required");
    let headers = world.headers_to_client(&without).await;
    assert!(headers[0].contains("error=\"use_dpop_nonce\""), "{headers:?}");
    let nonce = nonce_among(&headers).unwrap();

    let with = |jti: &str, nonce: &str| world.proved(jti, |it| it["nonce"] = json!(nonce));
    let fresh = with("jti-1", &nonce);
    assert_eq!(nonce_among(&world.headers_to_client(&fresh).await), None, "it will do yet");
    assert_eq!(world.reason(&fresh).await, "proof_replayed");
    assert_eq!(world.reason(&with("jti-2", "forged")).await, "nonce_required");

    world.clock.advance(Duration::from_secs(60));
    let aging = with("jti-3", &nonce);
    let renewed = nonce_among(&world.headers_to_client(&aging).await).unwrap();
    assert_ne!(renewed, nonce);
    world.clock.advance(Duration::from_secs(60));
    let stale = world.proved("jti-4", |it| {
        it["nonce"] = json!(nonce);
        it["iat"] = json!(NOW + 120);
    });
    assert_eq!(world.reason(&stale).await, "nonce_required");
}

/// Both sides of each end of a nonce's life, which is two minutes here.
#[tokio::test]
async fn by_the_time_of_a_nonce_a_client_an_hour_off_passes_once_while_the_nonce_lives() {
    for (place, skew) in [-3600, -61, 0, 61, 3600].into_iter().enumerate() {
        let mut world = World::new().await;
        world.installation.rules.policies.proofs.nonce = NonceDemand::Required;
        let nonce = world.installation.rules.nonces.issue(world.clock.now());
        let made = |jti: &str| {
            world.proved(jti, |it| {
                it["nonce"] = json!(nonce);
                it["iat"] = json!(NOW + skew);
                it["exp"] = json!(NOW + skew + 30);
                it["nbf"] = json!(NOW + skew);
            })
        };
        let (used, late, unused) = (made("used"), made("late"), made("unused"));
        let by_iat = if skew == 0 { "allowed" } else { "proof_stale" };
        assert_eq!(world.reason(&made("by its iat")).await, by_iat, "{place}");

        world.installation.rules.policies.proofs.time = ProofTime::Nonce;
        for (millis, first, then) in [
            (0, "allowed", "proof_replayed"),
            (59_999, "proof_replayed", "proof_replayed"),
            (60_000, "proof_replayed", "proof_replayed"),
            (119_998, "proof_replayed", "proof_replayed"),
            (119_999, "proof_replayed", "proof_replayed"),
            (120_000, "nonce_required", "nonce_required"),
            (180_000, "nonce_required", "nonce_required"),
        ] {
            world.clock.set(UnixTime::from_millis(NOW * 1000 + millis));
            assert_eq!(world.reason(&used).await, first, "{skew} {millis}");
            assert_eq!(world.reason(&used).await, then, "{skew} {millis}");
            let late_is = if millis == 119_999 { "allowed" } else { "nonce_required" };
            if 119_999 <= millis {
                assert_eq!(world.reason(&late).await, late_is, "{skew} {millis}");
            }
        }
        assert_eq!(world.reason(&unused).await, "nonce_required");
    }
}

/// Rules that no configuration makes.
#[tokio::test]
async fn without_a_nonce_there_is_no_time_of_a_nonce() {
    let mut world = World::new().await;
    world.installation.rules.policies.proofs.time = ProofTime::Nonce;
    let nonce = world.installation.rules.nonces.issue(world.clock.now());
    for (demand, with_nonce) in [
        (NonceDemand::Off, "nonce_required"),
        (NonceDemand::Offered, "allowed"),
        (NonceDemand::Required, "allowed"),
    ] {
        world.installation.rules.policies.proofs.nonce = demand;
        let without = world.proved("without", |_| {});
        assert_eq!(world.reason(&without).await, "nonce_required", "{demand}");
        let with = world.proved(&format!("with {demand}"), |it| it["nonce"] = json!(nonce));
        assert_eq!(world.reason(&with).await, with_nonce, "{demand}");
    }
}

#[tokio::test]
async fn an_offered_nonce_may_be_left_out_but_not_made_up() {
    let mut world = World::new().await;
    world.installation.rules.policies.proofs.nonce = NonceDemand::Offered;
    let headers = world.headers_to_client(&world.proved("jti-1", |_| {})).await;
    assert!(nonce_among(&headers).is_some(), "{headers:?}");
    let forged = world.proved("jti-2", |it| it["nonce"] = json!("forged"));
    assert_eq!(world.reason(&forged).await, "nonce_required");
    // A client that cannot come with a proof is not bothered.
    let bound = world.request(&world.token(|_| {}));
    assert_eq!(nonce_among(&world.headers_to_client(&bound).await), None);
}

/// Where proofs are no use, no nonce is given: not to who cannot come with one, and not when it was
/// not the client's fault.
#[tokio::test]
async fn a_nonce_goes_to_whoever_may_come_with_a_proof() {
    let mut world = World::new().await;
    world.installation.rules.policies.proofs.nonce = NonceDemand::Offered;
    let tampered = tokens::tampered(&world.token(|_| {}));
    let bearer = |policy| named(world.request(&tampered), policy);
    for (request, reason, given) in [
        (bearer("dpop"), "token_signature_invalid", true),
        (bearer("either"), "token_signature_invalid", true),
        (bearer("if-bound"), "token_signature_invalid", true),
        (bearer("demanding"), "token_signature_invalid", false),
        (bearer("none"), "token_signature_invalid", false),
        (world.dpop_request("demanding", &tampered, ""), "token_signature_invalid", true),
        (world.proved("jti", |it| it["htm"] = json!("PUT")), "proof_method_mismatch", true),
    ] {
        assert_eq!(world.reason(&request).await, reason);
        let headers = world.headers_to_client(&request).await;
        assert_eq!(nonce_among(&headers).is_some(), given, "{reason}: {headers:?}");
    }
    let full = ReplayRules::Memory(MemoryLimits { capacity: 0, per_key: 0 });
    let runtime = tokio::runtime::Handle::current();
    world.installation.replay = Arc::new(ReplayStore::start(&full, &runtime));
    let message = world.proved("jti", |_| {}).encode_to_vec();
    let request = wire::read(&message, None, None).unwrap();
    let verdict = checked(&world.checker, &world.installation, &request).await;
    assert_eq!(verdict.outcome, Err(Denial::ReplayUnavailable));
    assert_eq!(verdict.facts.detail, Some(Detail::ClientOverShare));
    let Answer::Deny { to_client, .. } =
        Answer::of(&verdict, &world.installation.rules.policies, Some(&request))
    else {
        panic!("{verdict:?}")
    };
    assert!(!to_client.iter().any(|it| it.name == "dpop-nonce"), "{to_client:?}");
}

#[tokio::test]
async fn the_upstream_may_get_the_token_as_bearer_and_no_proof() {
    let mut world = World::new().await;
    world.installation.rules.policies.upstream.authorization = UpstreamAuthorization::Bearer;
    let request = world.proved("jti", |_| {});
    let sent = request.attributes.clone().unwrap().request.unwrap().http.unwrap();
    let token = sent.headers["authorization"].replace("DPoP ", "");
    let answer = world.answer(&request).await;
    let ok = allowed(&answer);
    let authorization = ok.headers.iter().map(|it| it.header.clone().unwrap());
    let authorization = authorization.into_iter().find(|it| it.key == "authorization").unwrap();
    assert_eq!(authorization.value, format!("Bearer {token}"));
    assert!(ok.headers_to_remove.contains(&"dpop".to_owned()));
}

/// Every scheme × binding × constraint, with all that can be proved of the token.
#[tokio::test]
async fn a_scheme_takes_the_tokens_that_are_bound_as_it_says_and_no_others() {
    let world = World::new().await;
    let x5t = Thumbprint::of(&world.certificate).to_base64url();
    let jkt = thumbprint(world.key.jwk().as_object().unwrap()).unwrap().to_base64url();
    let (mut proofs, mut allowed_as_pop) = (0, vec![]);
    for (bound, cnf) in [
        ("nothing", None),
        ("certificate", Some(json!({"x5t#S256": x5t}))),
        ("key", Some(json!({"jkt": jkt}))),
        ("both", Some(json!({"x5t#S256": x5t, "jkt": jkt}))),
        ("unknown", Some(json!({"kid": "k"}))),
    ] {
        let token = world.token(|it| match &cnf {
            Some(cnf) => it["cnf"] = cnf.clone(),
            None => drop(it.as_object_mut().unwrap().remove("cnf")),
        });
        for scheme in ["Bearer", "DPoP", "MTLS_POP", "mtls_pop"] {
            for policy in ["only", "dpop", "either", "if-bound", "none"] {
                proofs += 1;
                let mut request = named(world.request(&token), policy);
                let lines = headers(&mut request);
                lines.insert("authorization".to_owned(), format!("{scheme} {token}"));
                let proof = prove(&world.key, &proof_claims(&proofs.to_string(), &token));
                lines.insert("dpop".to_owned(), proof);
                let fits = match scheme {
                    "Bearer" => ["nothing", "certificate"].contains(&bound),
                    "DPoP" => ["key", "both"].contains(&bound),
                    _ => bound == "certificate",
                };
                let satisfied = match policy {
                    "only" => ["certificate", "both"].contains(&bound),
                    "dpop" => ["key", "both"].contains(&bound),
                    "either" => bound != "nothing",
                    _ => true,
                };
                let pop = scheme.eq_ignore_ascii_case("MTLS_POP");
                let expected = match (policy, bound) {
                    ("none", _) if !pop => "allowed",
                    ("only" | "dpop" | "either" | "if-bound", "unknown") => "binding_unsupported",
                    _ if !fits => "scheme_mismatch",
                    _ if !satisfied => "binding_missing",
                    _ => "allowed",
                };
                let found = world.reason(&request).await;
                assert_eq!(found, expected, "{scheme}, bound to {bound}, under {policy}");
                if pop && found == "allowed" {
                    allowed_as_pop.push(policy);
                }
                let thief = world.reason(&without_certificate(request)).await;
                let held = pop && expected == "allowed" && policy != "none";
                assert!(!held || thief == "certificate_missing", "{thief} under {policy}");
            }
        }
    }
    let each = ["only", "either", "if-bound", "none"];
    assert_eq!(allowed_as_pop, [each, each].concat());
}

/// RFC 8705 has such tokens sent as `Bearer`, so that nobody else hears of Microsoft's scheme.
#[tokio::test]
async fn who_used_mtls_pop_is_challenged_in_kind_and_nobody_else() {
    let world = World::new().await;
    let old = world.token(|it| it["exp"] = json!(1));
    for (scheme, policy, expected) in [
        ("MTLS_POP", "only", &["Bearer", "MTLS_POP !"][..]),
        ("mtls_pop", "either", &["Bearer", "DPoP", "MTLS_POP !"]),
        ("MTLS_POP", "if-bound", &["Bearer", "DPoP", "MTLS_POP !"]),
        ("MTLS_POP", "dpop", &["DPoP !"]),
        ("MTLS_POP", "none", &["Bearer !"]),
        ("Bearer", "only", &["Bearer !"]),
        ("Bearer", "either", &["Bearer !", "DPoP"]),
        ("DPoP", "either", &["Bearer", "DPoP !"]),
        ("Basic", "either", &["Bearer", "DPoP"]),
    ] {
        let mut request = named(world.request(&old), policy);
        headers(&mut request).insert("authorization".to_owned(), format!("{scheme} {old}"));
        let told = world.headers_to_client(&request).await;
        let told: Vec<_> = told
            .iter()
            .filter_map(|it| it.strip_prefix("www-authenticate: "))
            .map(|it| {
                let blamed = if it.contains("error=\"invalid_token\"") { " !" } else { "" };
                format!("{}{blamed}", it.split(' ').next().unwrap())
            })
            .collect();
        assert_eq!(told, expected, "{scheme} under {policy}");
    }
}

#[tokio::test]
async fn the_upstream_may_get_a_token_that_came_as_mtls_pop_as_bearer() {
    use UpstreamAuthorization::{Bearer, Keep, Remove};
    for (authorization, set, removed) in
        [(Keep, false, false), (Bearer, true, false), (Remove, false, true)]
    {
        let mut world = World::new().await;
        world.installation.rules.policies.upstream.authorization = authorization;
        let token = world.token(|_| {});
        let mut request = world.request(&token);
        headers(&mut request).insert("authorization".to_owned(), format!("MTLS_POP {token}"));
        let answer = world.answer(&request).await;
        let ok = allowed(&answer);
        let told = ok.headers.iter().filter_map(|it| it.header.as_ref());
        let told = told.filter(|it| it.key == "authorization").map(|it| it.value.clone());
        let expected = set.then(|| format!("Bearer {token}"));
        assert_eq!(told.collect::<Vec<_>>(), Vec::from_iter(expected), "{authorization:?}");
        let gone = ok.headers_to_remove.iter().any(|it| it == "authorization");
        assert_eq!(gone, removed, "{authorization:?}");
    }
}

#[tokio::test]
async fn a_public_policy_lets_everybody_through_and_nothing_that_nobody_checked() {
    let mut world = World::new().await;
    let good = world.request(&world.token(|_| {}));
    let mut bare = good.clone();
    headers(&mut bare).clear();
    let mut odd = good.clone();
    headers(&mut odd).extend([
        ("authorization".to_owned(), "Basic a, Bearer b".to_owned()),
        ("dpop".to_owned(), "a,b".to_owned()),
        ("x-auth-subject".to_owned(), "root".to_owned()),
    ]);
    let mut query = good.clone();
    http(&mut query).path = "/v1/things?Access%5FToken=x".to_owned();
    for authorization in
        [UpstreamAuthorization::Keep, UpstreamAuthorization::Bearer, UpstreamAuthorization::Remove]
    {
        let mut policies = world.installation.rules.policies.clone();
        policies.upstream.authorization = authorization;
        world.demand(policies);
        for request in [&good, &bare, &odd] {
            let answer = world.answer(&named(request.clone(), "open")).await;
            let told = told(&answer);
            let named = ["decision", "reason", "policy"].map(|it| told[it].as_str());
            assert_eq!(named, ["allow", "public", "open"]);
            assert!(!["issuer", "subject", "client_id"].iter().any(|it| told.contains_key(*it)));
            let allowed = allowed(&answer);
            assert!(allowed.headers.is_empty(), "{allowed:?}");
            let mut removed = allowed.headers_to_remove.clone();
            removed.sort();
            let expected = [
                "authorization",
                "dpop",
                "x-auth-scope",
                "x-auth-subject",
                "x-auth-tenant",
                "x-forwarded-client-cert",
            ];
            assert_eq!(removed, expected);
        }
        let answer = world.answer(&named(query.clone(), "open")).await;
        assert_eq!(told(&answer)["reason"], "credentials_ambiguous");
        let refused = denied(&answer).unwrap();
        let shown = refused.headers.iter().map(|it| &it.header.as_ref().unwrap().key);
        assert!(!shown.into_iter().any(|it| it == "www-authenticate"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_policy_that_reports_lets_through_and_tells() {
    let world = World::new().await;
    let good = world.request(&world.token(|_| {}));
    let answer = world.answer(&named(good.clone(), "report")).await;
    assert_eq!(told(&answer).get("would_deny"), None);
    let tampered = tokens::tampered(&world.token(|_| {}));
    let cases = [
        (without_certificate(good), "certificate_missing", true),
        (world.request(&tampered), "token_signature_invalid", false),
        (world.request(&world.token(|it| it["exp"] = json!(NOW - 60))), "token_expired", false),
        (world.request(&world.token(|it| it["scope"] = json!("x"))), "scope_insufficient", true),
    ];
    for (request, reason, identified) in cases {
        let answer = world.answer(&named(request, "report")).await;
        let (told, ok) = (told(&answer), allowed(&answer));
        assert_eq!(answer.status.as_ref().unwrap().code, 0, "{reason}");
        assert_eq!((&*told["decision"], &*told["would_deny"]), ("allow", reason));
        // Who a token says it is counts when the token itself does.
        assert_eq!(
            ok.headers.iter().any(|it| it.header.as_ref().unwrap().key == "x-auth-subject"),
            identified
        );
        let removed = ok.headers_to_remove.contains(&"x-auth-subject".to_owned());
        assert_eq!(removed, !identified, "{reason}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_request_picks_a_policy_that_asks_for_less() {
    let world = World::new().await;
    let good = world.request(&world.token(|_| {}));
    let reader = world.request(&world.token(|it| it["scope"] = json!("read")));
    let at = |path: &str, mut request: auth::CheckRequest| {
        path.clone_into(&mut http(&mut request).path);
        request
    };
    let mut cases = vec![];
    for path in ["/payments/7", "/payments//7", "/payments/x%2Fy", "/payments/A;v=1", "/%70ayments"]
    {
        cases.push(case(path, &at(path, good.clone()), "allowed"));
        cases.push(case(path, &at(path, reader.clone()), "scope_insufficient"));
    }
    for path in [
        "/;x/payments/7",
        "/;/payments",
        "/;a/;b/payments",
        "/payments;v=1/7",
        "/payments%3bv=1/7",
        "/Payments/7",
        "/payments%20",
        "/payments.",
        "/%2570ayments",
        "//payments",
        "/payments%2f7",
        "/payments%5c7",
        "/payments%00",
        "/x/..;/payments",
        "/x/../payments",
        "/x/%c0%ae%c0%ae/payments",
    ] {
        for request in [&good, &reader] {
            cases.push(case(path, &at(path, request.clone()), "request_malformed"));
        }
        cases.push(case(path, &named(at(path, reader.clone()), "if-bound"), "allowed"));
    }
    for path in ["/projects/group%2Fname", "/x//y", "/x/../y", "/x;y/%zz", "/payments.json", "/X"] {
        cases.push(case(path, &at(path, reader.clone()), "allowed"));
    }
    hold(&world, cases).await;
}

#[tokio::test]
async fn no_method_and_no_url_in_a_header_picks_a_policy_that_asks_for_less() {
    let world = World::new().await;
    let good = world.request(&world.token(|_| {}));
    let by = |method: &str, header: Option<(&str, &str)>| {
        let mut request = good.clone();
        method.clone_into(&mut http(&mut request).method);
        let header = header.map(|(name, value)| (name.to_owned(), value.to_owned()));
        headers(&mut request).extend(header);
        request
    };
    let mut cases = vec![
        case("POST", &by("POST", None), "allowed"),
        case("DELETE", &by("DELETE", None), "scope_insufficient"),
        case("delete", &by("delete", None), "request_malformed"),
        case("post", &by("post", None), "allowed"),
    ];
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        for (value, expected) in
            [("DELETE", "request_malformed"), ("delete", "request_malformed"), ("PUT", "allowed")]
        {
            cases.push(case(name, &by("POST", Some((name, value))), expected));
        }
    }
    for name in ["x-original-url", "x-rewrite-url"] {
        for (value, expected) in [
            ("/payments/7", "request_malformed"),
            ("https://api.example.com/Payments", "request_malformed"),
            ("/other", "allowed"),
        ] {
            cases.push(case(name, &by("POST", Some((name, value))), expected));
        }
    }
    let mut in_query = by("POST", None);
    http(&mut in_query).path = "/form?_method=delete".into();
    cases.push(case("_method", &in_query, "request_malformed"));
    hold(&world, cases).await;
}

#[tokio::test]
async fn no_spelling_of_a_host_picks_a_policy_that_asks_for_less() {
    let world = World::new().await;
    let good = world.request(&world.token(|_| {}));
    let cases = [
        ("api.example.com", "allowed"),
        ("tenant.example.com", "scope_insufficient"),
        ("TENANT.example.com.:443", "scope_insufficient"),
        ("tenant.example.com..", "request_malformed"),
        ("user@tenant.example.com", "request_malformed"),
        ("api.example.com,tenant.example.com", "request_malformed"),
        ("tenant.example.com:44x", "request_malformed"),
        ("user@api.example.com", "allowed"),
    ];
    let cases = cases.map(|(host, expected)| {
        let mut request = good.clone();
        host.clone_into(&mut http(&mut request).host);
        case(host, &request, expected)
    });
    hold(&world, cases.into()).await;
}
