use super::*;
use crate::installation::Limits;
use crate::state::token_cache::TokenCacheLimits;
use keybound_core::policy::Introspection;

#[test]
fn what_is_left_out_is_as_the_contract_says() {
    let config = config(MINIMAL);
    assert_eq!(config.warnings, []);
    assert_eq!(config.listen.ext_authz.to_string(), "127.0.0.1:9001");
    assert_eq!(config.listen.admin.to_string(), "127.0.0.1:9003");
    assert_eq!(config.listen.tls, None);
    let limits = Limits {
        check_deadline: Duration::from_millis(150),
        concurrent_checks: 10_000,
        token_cache: TokenCacheLimits { entries: 100_000, bytes: 64 << 20 },
    };
    assert_eq!(config.rules.limits, limits);
    assert_eq!(config.rules.issuers[0].keys.source, KeySource::Discovery);
    assert_eq!(config.rules.issuers[0].keys.ca, None);
    let rules = config.rules.policies;
    let issuer = &rules.issuers[0];
    assert_eq!(
        issuer.algorithms,
        [
            Algorithm::ES256,
            Algorithm::PS256,
            Algorithm::RS256,
            Algorithm::EdDSA,
            Algorithm::Ed25519
        ]
    );
    assert_eq!((&*issuer.audience_claim, issuer.allow_missing_audience), ("aud", false));
    assert_eq!(issuer.claim_names.client_id, ["client_id", "azp"]);
    assert_eq!(issuer.claim_names.scope, ["scope"]);
    assert_eq!((issuer.provider, issuer.tenants.len()), (None, 0));
    assert_eq!(issuer.token_types, [keybound_core::policy::TokenType::Named("at+jwt".to_owned())]);
    assert_eq!(issuer.clock_leeway, Duration::from_secs(30));
    assert_eq!(issuer.introspection, Introspection::Never);
    let policy = &rules.policies[0];
    assert_eq!(policy.issuers, [IssuerId(0)]);
    assert_eq!((policy.scopes.len(), policy.claims.len()), (0, 0));
    assert_eq!(policy.matches, keybound_core::policy::Match::default());
    assert_eq!(rules.client_certificate, Source::Peer);
    assert_eq!(rules.token_bytes, 16_384);
    assert_eq!(rules.upstream.authorization, UpstreamAuthorization::Keep);
    let headers: Vec<_> = rules.upstream.headers.iter().map(|it| (&*it.name, &*it.claim)).collect();
    let expected = [
        ("x-auth-client-id", "client_id"),
        ("x-auth-issuer", "iss"),
        ("x-auth-scope", "scope"),
        ("x-auth-subject", "sub"),
    ];
    assert_eq!(headers, expected);
    assert!(rules.upstream.headers.iter().all(|it| it.format == ClaimFormat::Plain));
    assert!(rules.upstream.remove.is_empty());
}

#[test]
fn the_defaults_in_the_schema_are_the_defaults() {
    let schema = crate::config::schema();
    let defaults = |name: &str| -> serde_json::Map<_, _> {
        let properties = schema["$defs"][name]["properties"].as_object().unwrap();
        let with_default = properties
            .iter()
            .filter_map(|(key, it)| Some((key.clone(), it.get("default")?.clone())));
        with_default.collect()
    };
    let mut issuer = defaults("Issuer");
    issuer.insert("issuer".to_owned(), json!("https://as.example.com"));
    issuer.insert("audiences".to_owned(), json!(["https://api.example.com"]));
    let mut policy = defaults("Policy");
    policy.insert("name".to_owned(), json!("payments"));
    policy.insert("sender_constraint".to_owned(), json!("certificate"));
    let explicit = json!({
        "listen": defaults("Listen"), "issuers": [issuer], "policies": [policy],
        "client_certificate": defaults("ClientCertificate"), "limits": defaults("Limits"),
        "upstream": defaults("Upstream"), "dpop": defaults("Dpop"),
    });
    let (mut found, expected) = (config(&explicit.to_string()), config(MINIMAL));
    assert_eq!(std::mem::take(&mut found.listen.for_proxies), ["listen.ext_authz"]);
    assert_eq!(format!("{:?}", found.listen), format!("{:?}", expected.listen));
    assert_eq!(format!("{:?}", found.rules.policies), format!("{:?}", expected.rules.policies));
    // Those that go with another source than the default one.
    let header = json!({"source": "header", "header": defaults("CertificateHeader")});
    let found = takes(&format!("client_certificate: {header}")).rules.policies.client_certificate;
    let expected = takes("client_certificate: {source: header}").rules.policies.client_certificate;
    assert_eq!(found, expected);
}

/// Every key of the contract.
const WHOLE: &str = "\
listen:
  ext_authz: 127.0.0.1:9001
  forward_auth: 127.0.0.1:9002
  admin: 127.0.0.1:9003
  tls: {certificate_file: a.pem, key_file: b.pem, client_ca_file: c.pem}
forward_auth: {flavour: envoy}
issuers:
  - issuer: https://as.example.com
    audiences: [https://api.example.com]
    provider: keycloak
    audience_claim: aud
    allow_missing_audience: false
    claim_names: {client_id: [client_id, azp], scope: [scope]}
    algorithms: [ES256, PS256, EdDSA]
    token_types: [at+jwt, JWT, absent]
    clock_leeway: 30s
    keys:
      discovery: false
      jwks_uri: https://as.example.com/jwks
    ca_file: d.pem
    introspection:
      endpoint: https://as.example.com/introspect
      client_id: gateway
      client_secret_file: secret
      forward_jwt: true
client_certificate:
  source: peer
  xfcc: {behind: []}
  header: {name: client-cert, format: rfc9440}
dpop:
  algorithms: [ES256, PS256, EdDSA]
  proof_window: 60s
  time: iat
  nonce: off
  nonce_secret_file: secret
  replay: {store: memory, capacity: 1000000}
policies:
  - name: payments
    match: {hosts: [api.example.com], path_prefix: /payments, methods: [GET, POST]}
    sender_constraint: certificate
    issuers: [https://as.example.com]
    scopes: [payments]
    claims: {acr: [urn:example:loa3]}
    origin: https://api.example.com
    mode: report
limits: {token_bytes: 16384, check_deadline: 150ms, concurrent_checks: 10000}
upstream:
  authorization: keep
  headers: {x-auth-subject: sub, x-auth-client-id: client_id, x-auth-groups: {claim: groups, format: json}}
  remove: [x-auth-*]
";

#[test]
fn of_the_contract_only_what_is_not_there_is_refused() {
    let problems = read(WHOLE).unwrap_err();
    assert!(problems.iter().all(|it| it.message.contains("cannot read")), "{problems:#?}");
    assert_eq!(problems.len(), 6, "{problems:#?}");
}

#[test]
fn limits_have_limits() {
    for (key, within, beyond) in [
        ("token_bytes", ["256", "1048576"], ["255", "1048577"]),
        ("concurrent_checks", ["1", "1000000"], ["0", "1000001"]),
        ("check_deadline", ["1ms", "199ms"], ["0ms", "60001ms"]),
    ] {
        for value in within {
            takes(&format!("limits: {{{key}: {value}}}"));
        }
        for value in beyond {
            refuses(&format!("limits: {{{key}: {value}}}"), &format!("limits.{key}"), 9, "must be");
        }
    }
    for value in ["200ms", "60s"] {
        warns(&format!("limits: {{check_deadline: {value}}}"), "limits.check_deadline", 9, "Envoy");
    }
    refuses("limits: {check_deadline: 150}", "limits.check_deadline", 9, "unit");
    refuses("limits: {token_bytes: 16k}", "limits.token_bytes", 9, "whole number");
    refuses("limits: {token_bytes: 1e4}", "limits.token_bytes", 9, "whole number");
}

#[test]
fn a_misspelt_key_is_not_missing_as_well() {
    for (right, wrong, path, line) in [
        ("issuer: https", "isuer: https", "issuers[0].isuer", 3),
        ("audiences", "audience", "issuers[0].audience", 4),
        ("name", "nam", "policies[0].nam", 7),
        ("sender_constraint", "sender_constrained", "policies[0].sender_constrained", 8),
    ] {
        let text = MINIMAL.replace(right, wrong);
        let meant = right.split(':').next().unwrap();
        let message = format!("did you mean `{meant}`?");
        one(&read(&text).unwrap_err(), &text, (path, line, &message));
    }
    let text = MINIMAL.replace("name: payments", "title: payments");
    let problems = read(&text).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:#?}");
}

#[test]
fn five_mistakes_are_five_problems() {
    let text = "\
limits: {token_bytes: 1, check_deadline: 150}
issuers:
- issuer: https://as.example.com
  audience: [a]
policies:
- name: a b
  sender_constraint: certificate
  issuers: [https://other.example.com]
";
    let found: Vec<_> =
        read(text).unwrap_err().into_iter().map(|it| (it.line.unwrap(), it.path)).collect();
    let expected = [
        (1, "limits.check_deadline"),
        (1, "limits.token_bytes"),
        (4, "issuers[0].audience"),
        (6, "policies[0].name"),
        (8, "policies[0].issuers[0]"),
    ];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
}

#[test]
fn an_unreadable_issuer_does_not_make_its_name_unknown() {
    let text = "\
issuers:
- {issuer: https://a.example, audiences: [a]}
- https://b.example
policies:
- {name: a, sender_constraint: certificate, issuers: [https://b.example]}
";
    one(&read(text).unwrap_err(), text, ("issuers[1]", 3, "expected a mapping"));
}

#[test]
fn a_file_cut_off_anywhere_is_read_without_a_panic() {
    let text = MINIMAL.replace("upstream: {}", "upstream:\n  \"headers\": {'x-\\u00e9': >-\n");
    for (end, _) in text.char_indices() {
        let (head, tail) = text.split_at(end);
        for odd in ["", "\t", "é", "- ", "{", "]", ":", "? ", "\"", "%", "|", "&a ", "*a", "!"] {
            for text in [format!("{head}{odd}{tail}"), format!("{head}{odd}")] {
                let problems = read(&text).err();
                assert!(problems.is_none_or(|it| !it.is_empty()), "{text}");
            }
        }
    }
}
