use crate::client_certificate::{HeaderFormat, Source};
use crate::config::{Address, Config, Problem, from_str};
use crate::front::forward_auth::{Asker, Flavour, Secret};
use crate::jose::algorithm::Algorithm;
use crate::policy::introspection::{ClientAuthentication, IntrospectionUpkeep};
use crate::policy::{
    HostPattern, IssuerId, KeySource, KeyUpkeep, NonceDemand, ProofRules, SenderConstraint,
    UpstreamAuthorization,
};
use crate::state::replay::ReplayRules;
use crate::telemetry::sample::Share;
use http::HeaderName;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MINIMAL: &str = "\
listen: {}
issuers:
- issuer: https://as.example.com
  audiences: [https://api.example.com]
client_certificate: {}
policies:
- name: payments
  sender_constraint: certificate
limits: {}
upstream: {}
telemetry: {}
";

/// The minimal configuration with `edit` for the one line that begins as it does.
fn edited(edit: &str) -> String {
    let key = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    assert_eq!(MINIMAL.lines().filter(|it| key(it) == key(edit)).count(), 1, "{edit}");
    let line = |it| if key(it) == key(edit) { edit } else { it };
    MINIMAL.lines().map(|it| line(it).to_owned() + "\n").collect()
}

fn read(text: &str) -> Result<Config, Vec<Problem>> {
    from_str(text, Path::new("."))
}

#[track_caller]
fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|problems| panic!("{text}{problems:#?}"))
}

#[track_caller]
fn one(problems: &[Problem], text: &str, expected: (&str, usize, &str)) {
    let [problem] = problems else { panic!("{text}{problems:#?}") };
    let (path, line, message) = expected;
    assert_eq!((problem.path.as_str(), problem.line), (path, Some(line)), "{problem}");
    assert!(problem.message.contains(message), "{problem}");
}

/// The edit makes one problem, at this path and line, whose message holds these words.
#[track_caller]
fn refuses(edit: &str, path: &str, line: usize, message: &str) {
    let text = edited(edit);
    one(&read(&text).unwrap_err(), &text, (path, line, message));
}

/// The edit is fine, but for one warning.
#[track_caller]
fn warns(edit: &str, path: &str, line: usize, message: &str) {
    let text = edited(edit);
    one(&config(&text).warnings, &text, (path, line, message));
}

/// The edit is fine.
#[track_caller]
fn takes(edit: &str) -> Config {
    let config = config(&edited(edit));
    assert_eq!(config.warnings, [], "{edit}");
    config
}

#[test]
fn what_is_left_out_is_as_the_contract_says() {
    let config = config(MINIMAL);
    assert_eq!(config.warnings, []);
    assert_eq!(config.listen.ext_authz.to_string(), "127.0.0.1:9001");
    assert_eq!(config.listen.admin.to_string(), "127.0.0.1:9003");
    assert_eq!(config.listen.tls, None);
    let rules = config.policies;
    let issuer = &rules.issuers[0];
    assert_eq!(issuer.algorithms, [Algorithm::ES256, Algorithm::PS256, Algorithm::EdDSA]);
    assert_eq!(issuer.token_types, ["at+jwt"]);
    assert_eq!(issuer.clock_leeway, Duration::from_secs(30));
    assert_eq!(issuer.keys.source, KeySource::Discovery);
    assert_eq!(issuer.keys.ca, None);
    let policy = &rules.policies[0];
    assert_eq!(policy.issuers, [IssuerId(0)]);
    assert_eq!((policy.scopes.len(), policy.claims.len()), (0, 0));
    assert_eq!(policy.matches, crate::policy::Match::default());
    assert_eq!(rules.client_certificate, Source::Peer);
    assert_eq!(rules.limits.token_bytes, 16_384);
    assert_eq!(rules.limits.check_deadline, Duration::from_millis(150));
    assert_eq!(rules.limits.concurrent_checks, 10_000);
    assert_eq!(rules.upstream.authorization, UpstreamAuthorization::Keep);
    let headers: Vec<_> =
        rules.upstream.headers.iter().map(|(name, path)| (&**name, path.as_str())).collect();
    let expected = [
        ("x-auth-client-id", "client_id"),
        ("x-auth-issuer", "iss"),
        ("x-auth-scope", "scope"),
        ("x-auth-subject", "sub"),
    ];
    assert_eq!(headers, expected);
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
    let (found, expected) = (config(&explicit.to_string()), config(MINIMAL));
    assert_eq!(format!("{:?}", found.listen), format!("{:?}", expected.listen));
    assert_eq!(format!("{:?}", found.policies), format!("{:?}", expected.policies));
    // Those that go with another source than the default one.
    let header = json!({"source": "header", "header": defaults("CertificateHeader")});
    let found = takes(&format!("client_certificate: {header}")).policies.client_certificate;
    let expected = takes("client_certificate: {source: header}").policies.client_certificate;
    assert_eq!(found, expected);
}

#[test]
fn listeners_have_addresses_of_their_own() {
    refuses("listen: {ext_authz: localhost:9001}", "listen.ext_authz", 1, "IP:PORT");
    refuses("listen: {ext_authz: 9001}", "listen.ext_authz", 1, "expected IP:PORT");
    refuses("listen: {ext_authz: 'unix:x'}", "listen.ext_authz", 1, "absolute");
    refuses("listen: {admin: 127.0.0.1:9001}", "listen.admin", 1, "as well");
    refuses("listen: {admin: 0.0.0.0:9001}", "listen.admin", 1, "as well");
    for taken in ["127.0.0.1:9001", "127.0.0.1:9003", "0.0.0.0:9001"] {
        refuses(
            &format!("listen: {{forward_auth: '{taken}'}}"),
            "listen.forward_auth",
            1,
            "as well",
        );
    }
    refuses("listen: {grpc: 127.0.0.1:9002}", "listen.grpc", 1, "unknown key");
    refuses("listen: {ext_auth: 127.0.0.1:1}", "listen.ext_auth", 1, "`ext_authz`");
    warns("listen: {ext_authz: 0.0.0.0:9001}", "listen.ext_authz", 1, "no TLS");
    warns("listen: {ext_authz: '[2001:db8::1]:9001'}", "listen.ext_authz", 1, "no TLS");
    let listen = takes("listen: {ext_authz: unix:/run/x.sock, admin: '0.0.0.0:9003'}").listen;
    assert_eq!(listen.ext_authz, Address::Unix("/run/x.sock".into()));
    takes("listen: {ext_authz: 127.0.0.1:0, admin: 127.0.0.1:0}");
}

/// What is warned of, where the rest of the minimal configuration speaks of a certificate in a
/// header.
fn forward_auth(listen: &str, section: &str) -> Result<(Asker, Vec<String>), Vec<Problem>> {
    let text = edited(&format!("listen: {{forward_auth: '{listen}'}}\nforward_auth: {section}"))
        .replace("client_certificate: {}", "client_certificate: {source: header}");
    let config = read(&text)?;
    let warnings = config.warnings.into_iter().map(|it| it.path + ": " + &it.message).collect();
    Ok((config.listen.forward_auth.unwrap().asker, warnings))
}

#[test]
fn a_proxy_that_asks_by_subrequest_says_how() {
    let here = "127.0.0.1:9002";
    let flavour = |section| forward_auth(here, section).unwrap().0.flavour;
    let envoy = |prefix: &str| Flavour::Envoy { path_prefix: prefix.to_owned() };
    assert_eq!(flavour("{}"), envoy(""));
    assert_eq!(flavour("{flavour: envoy, path_prefix: /check}"), envoy("/check"));
    assert_eq!(flavour("{flavour: nginx}"), Flavour::Nginx);
    assert_eq!(flavour("{flavour: traefik}"), Flavour::Traefik);
    assert_eq!(flavour("{flavour: caddy}"), Flavour::Traefik);
    for (section, path, message) in [
        ("{flavour: apache}", "forward_auth.flavour", "nginx"),
        ("{flavour: nginx, path_prefix: /check}", "forward_auth.path_prefix", "`flavour: envoy`"),
        ("{path_prefix: check}", "forward_auth.path_prefix", "slash"),
        ("{path_prefix: /check/}", "forward_auth.path_prefix", "slash"),
        ("{path_prefix: ''}", "forward_auth.path_prefix", "slash"),
        ("{secret_header: x-secret}", "forward_auth.secret_header", "`secret_file`"),
        ("{secret_file: missing}", "forward_auth.secret_file", "cannot read"),
    ] {
        one(&forward_auth(here, section).unwrap_err(), section, (path, 2, message));
    }
    refuses("listen: {}\nforward_auth: {}", "forward_auth", 2, "has no effect");
    assert_eq!(config(MINIMAL).listen.forward_auth, None);
}

#[test]
fn a_secret_is_long_and_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let read = |secret: &str, header: &str| {
        fs::write(folder.path().join("secret"), secret).unwrap();
        let section = format!("{{secret_file: secret{header}}}");
        let listen = "listen: {forward_auth: 127.0.0.1:9002}";
        let text = edited(&format!("{listen}\nforward_auth: {section}"));
        from_str(&text, folder.path())
            .map(|it| it.listen.forward_auth.unwrap().asker.secret)
            .map_err(|it| it.into_iter().map(|it| it.path).collect::<Vec<_>>())
    };
    let of = |header| Some(Secret::new(HeaderName::from_static(header), b"sixteen-letters!"));
    assert_eq!(read("sixteen-letters!\n", ""), Ok(of("x-keybound-secret")));
    assert_eq!(read("sixteen-letters!", ", secret_header: X-Other"), Ok(of("x-other")));
    for odd in ["", "\n", "fifteen-letters", "sixteen-letters!\nsixteen", "sixteen letters!"] {
        assert_eq!(read(odd, ""), Err(vec!["forward_auth.secret_file".to_owned()]), "{odd}");
    }
    for odd in ["'a b'", "Authorization", "dpop"] {
        let found = read("sixteen-letters!", &format!(", secret_header: {odd}"));
        assert_eq!(found, Err(vec!["forward_auth.secret_header".to_owned()]), "{odd}");
    }
}

#[test]
fn whoever_can_reach_the_listener_of_a_proxy_can_invent_certificates() {
    let everywhere = "0.0.0.0:9002";
    let warnings = |listen| forward_auth(listen, "{flavour: nginx}").unwrap().1;
    assert_eq!(warnings("127.0.0.1:9002"), [""; 0]);
    assert_eq!(warnings("[::1]:9002"), [""; 0]);
    assert_eq!(warnings("unix:/run/keybound.sock"), [""; 0]);
    let [warning] = &warnings(everywhere)[..] else { panic!("one warning") };
    assert!(warning.starts_with("listen.forward_auth: 0.0.0.0:9002"), "{warning}");
    assert!(warning.contains("invent"), "{warning}");

    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["keybound.example.com".to_owned()]).unwrap();
    fs::write(folder.path().join("tls.pem"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("tls-key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.path().join("secret"), "sixteen-letters!").unwrap();
    let warned = |tls: &str, section: &str| {
        let listen = format!("listen: {{forward_auth: '{everywhere}'{tls}}}");
        let text = edited(&format!("{listen}\nforward_auth: {{flavour: nginx{section}}}"))
            .replace("client_certificate: {}", "client_certificate: {source: header}");
        let config = from_str(&text, folder.path()).unwrap();
        config.warnings.into_iter().map(|it| it.message).collect::<String>()
    };
    let tls = ", tls: {certificate_file: tls.pem, key_file: tls-key.pem}";
    let mutual =
        ", tls: {certificate_file: tls.pem, key_file: tls-key.pem, client_ca_file: tls.pem}";
    let secret = ", secret_file: secret";
    assert!(warned(tls, "").contains("invent"));
    assert!(warned("", secret).contains("in the clear"));
    assert_eq!(warned(tls, secret), "");
    assert_eq!(warned(mutual, ""), "");
}

#[test]
fn a_proxy_must_be_able_to_tell_the_certificate() {
    let warned = |flavour: &str, source: &str| {
        let listen = "listen: {forward_auth: 127.0.0.1:9002}";
        let text = edited(&format!("{listen}\nforward_auth: {{flavour: {flavour}}}"))
            .replace("client_certificate: {}", &format!("client_certificate: {{{source}}}"));
        let warnings = config(&text).warnings;
        assert!(warnings.iter().all(|it| it.path == "client_certificate.source"), "{warnings:?}");
        !warnings.is_empty()
    };
    for (flavour, source, expected) in [
        ("nginx", "source: header", false),
        ("nginx", "source: xfcc", true),
        ("nginx", "source: peer", true),
        ("traefik", "source: xfcc", true),
        ("envoy", "source: header", false),
        ("envoy", "source: xfcc", false),
        ("envoy", "source: xfcc, xfcc: {behind: [a]}", true),
        ("envoy", "source: peer", true),
    ] {
        assert_eq!(warned(flavour, source), expected, "{flavour} {source}");
    }
}

#[test]
fn issuers_are_named_and_exact() {
    let issuer = "issuers[0].issuer";
    refuses("- issuer: ''", issuer, 3, "`iss`");
    refuses("- issuer: as.example.com", issuer, 3, "keys are discovered");
    refuses("- issuer: http://as.example.com", issuer, 3, "must be https");
    refuses("- issuer: https://as.example.com?x", issuer, 3, "query");
    refuses("- issuer: https://as.example.com#x", issuer, 3, "fragment");
    refuses("- issuer: 2026", issuer, 3, "quotes");
    refuses("- issuer:", issuer, 3, "no value");
    warns("- issuer: http://127.0.0.1:8080", issuer, 3, "over http");
}

#[test]
fn a_token_is_meant_for_someone_and_signed_with_something() {
    let at = "issuers[0].audiences";
    refuses("  audiences: []", at, 4, "must not be empty");
    refuses("  audiences: ['']", "issuers[0].audiences[0]", 4, "must not be empty");
    refuses("  audiences: a", at, 4, "expected a list");
    refuses("  audiences: [a, 1]", "issuers[0].audiences[1]", 4, "expected a string");
    for (more, path, message) in [
        ("algorithms: []", "algorithms", "must not be empty"),
        ("algorithms: [none]", "algorithms[0]", "unsigned"),
        ("algorithms: [ES256, HS256]", "algorithms[1]", "symmetric"),
        ("algorithms: [es256]", "algorithms[0]", "not known"),
        ("algorithms: ES256", "algorithms", "expected a list"),
        ("token_types: []", "token_types", "must not be empty"),
        ("token_types: ['']", "token_types[0]", "media type"),
        ("token_types: [application/]", "token_types[0]", "media type"),
        ("token_types: ['a b']", "token_types[0]", "media type"),
        ("clock_leeway: 30", "clock_leeway", "unit"),
        ("clock_leeway: 301s", "clock_leeway", "at most 5m"),
        ("clock_leeway: -1s", "clock_leeway", "not a duration"),
    ] {
        refuses(&format!("  audiences: [a]\n  {more}"), &format!("issuers[0].{path}"), 5, message);
    }
    takes("  audiences: [a]\n  clock_leeway: 5m");
    let config = takes("  audiences: [a]\n  token_types: [application/AT+JWT]");
    assert_eq!(config.policies.issuers[0].token_types, ["at+jwt"]);
    warns("  audiences: [a]\n  token_types: [JWT]", "issuers[0].token_types[0]", 5, "ID tokens");
}

#[test]
fn keys_come_from_one_place() {
    let keys = "issuers[0].keys";
    for (given, path, message) in [
        ("{discovery: false}", "", "must name a source"),
        ("{discovery: true, jwks_uri: https://as.example.com/jwks}", "", "exactly one"),
        ("{jwks_uri: https://as.example.com/jwks, jwks_file: x}", "", "exactly one"),
        ("{jwks_uri: http://as.example.com/jwks}", ".jwks_uri", "must be https"),
        ("{jwks_uri: /jwks}", ".jwks_uri", "not a URL"),
        ("{jwks_file: no-such-file.json}", ".jwks_file", "no-such-file.json"),
        ("{jwks_file: .}", ".jwks_file", "regular file"),
        ("{jwks_file: ''}", ".jwks_file", "name of a file"),
        ("{jwks_url: https://as.example.com/jwks}", ".jwks_url", "`jwks_uri`"),
        ("{discovery: yes}", ".discovery", "expected a boolean"),
    ] {
        let edit = format!("  audiences: [a]\n  keys: {given}");
        refuses(&edit, &format!("{keys}{path}"), 5, message);
    }
    let edit = "  audiences: [a]\n  keys: {discovery: false, jwks_uri: 'https://a.example/jwks'}";
    let source = takes(edit).policies.issuers[0].keys.source.clone();
    assert_eq!(source, KeySource::Uri("https://a.example/jwks".to_owned()));
    let edit = "  audiences: [a]\n  keys: {jwks_uri: 'http://[::1]/jwks'}";
    warns(edit, "issuers[0].keys.jwks_uri", 5, "over http");
}

#[test]
fn an_issuer_whose_keys_are_named_need_not_be_a_url() {
    let text = edited("- issuer: accounts.example.com")
        .replace("[https://api.example.com]", "[a]\n  keys: {jwks_uri: 'https://a.example/jwks'}");
    assert_eq!(&*config(&text).policies.issuers[0].name, "accounts.example.com");
}

const JWKS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

#[test]
fn the_keeping_of_keys_has_limits() {
    let keys = "issuers[0].keys";
    for (given, path, message) in [
        ("{refresh_min: 999ms}", ".refresh_min", "must be 1s"),
        ("{refresh_max: 25h, max_stale: 48h}", ".refresh_max", "must be 1s"),
        ("{refresh_min: 2m, refresh_max: 1m}", ".refresh_max", "less than refresh_min"),
        ("{refresh_default: 29s}", ".refresh_default", "refresh_min to refresh_max"),
        ("{refresh_default: 61m}", ".refresh_default", "refresh_min to refresh_max"),
        ("{max_stale: 1h}", ".max_stale", "more than refresh_max"),
        ("{max_stale: 169h}", ".max_stale", "must be 1s"),
        ("{unknown_kid_cooldown: 0s}", ".unknown_kid_cooldown", "must be 1s"),
        ("{fetch_timeout: 31s}", ".fetch_timeout", "must be 100ms"),
        ("{max_bytes: 1023}", ".max_bytes", "must be 1024"),
        ("{max_stale: 7200}", ".max_stale", "unit"),
    ] {
        refuses(
            &format!("  audiences: [a]\n  keys: {given}"),
            &format!("{keys}{path}"),
            5,
            message,
        );
    }
    let upkeep = |given: &str| {
        let config = takes(&format!("  audiences: [a]\n  keys: {given}"));
        config.policies.issuers[0].keys.upkeep.clone()
    };
    assert_eq!(upkeep("{}"), KeyUpkeep::default());
    let given = upkeep("{refresh_max: 1m, max_stale: 61s, snapshot_file: /var/lib/keys.json}");
    assert_eq!(given.refresh_default, Duration::from_secs(60), "no more than the most");
    assert_eq!(given.max_stale, Duration::from_secs(61));
    assert_eq!(given.snapshot_file, Some("/var/lib/keys.json".into()));
}

#[test]
fn files_are_read_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("jwks.json"), JWKS).unwrap();
    fs::write(folder.path().join("empty.json"), r#"{"keys": [{"kty": "oct", "k": "AA"}]}"#)
        .unwrap();
    fs::write(folder.path().join("list.json"), "[]").unwrap();
    fs::write(folder.path().join("broken.json"), "{").unwrap();
    let made = rcgen::generate_simple_self_signed(["as.example.com".to_owned()]).unwrap();
    fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let read = |keys: &str, more: &str| {
        let text = edited(&format!("  audiences: [a]\n  keys: {keys}\n{more}"));
        from_str(&text, folder.path()).map_err(|it| it.iter().map(ToString::to_string).collect())
    };
    let source = |config: &Config| config.policies.issuers[0].keys.clone();

    let config = read("{jwks_file: jwks.json}", "").unwrap();
    let expected = KeySource::File(folder.path().join("jwks.json"));
    assert_eq!((source(&config).source, config.warnings.len()), (expected, 0));
    let config = read("{discovery: true}", "  ca_file: ca.pem").unwrap();
    assert_eq!(source(&config).ca, Some(made.cert.pem().into_bytes()));
    let config = read("{jwks_file: jwks.json}", "  ca_file: ca.pem").unwrap();
    assert!(config.warnings[0].message.contains("no effect"));

    let refuses = |keys: &str, more: &str, message: &str| {
        let found: Vec<String> = read(keys, more).unwrap_err();
        assert!(found.len() == 1 && found[0].contains(message), "{found:#?}");
    };
    refuses("{jwks_file: list.json}", "", "not a JWK Set");
    refuses("{jwks_file: broken.json}", "", "not a JWK Set");
    refuses("{jwks_file: empty.json}", "", "no key that can be used");
    refuses("{discovery: true}", "  ca_file: key.pem", "holds no certificate");
    refuses("{discovery: true}", "  ca_file: jwks.json", "holds no certificate");
    refuses("{discovery: true}", "  ca_file: none.pem", "none.pem");
}

#[test]
fn tls_needs_a_certificate_and_its_key() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        let made = rcgen::generate_simple_self_signed([format!("{name}.example.com")]).unwrap();
        let at = |kind: &str| folder.path().join(format!("{name}-{kind}.pem"));
        fs::write(at("cert"), made.cert.pem()).unwrap();
        fs::write(at("key"), made.signing_key.serialize_pem()).unwrap();
    }
    let read = |tls: &str| {
        let text = edited(&format!("listen: {{ext_authz: '0.0.0.0:9001', tls: {{{tls}}}}}"));
        from_str(&text, folder.path())
    };
    let refuses = |tls: &str, path: &str, message: &str| {
        one(&read(tls).unwrap_err(), tls, (path, 1, message));
    };
    let pair = "certificate_file: one-cert.pem, key_file: one-key.pem";
    let config = read(pair).unwrap();
    assert_eq!(config.warnings, []);
    let tls = config.listen.tls.unwrap();
    assert!(tls.key.starts_with(b"-----BEGIN PRIVATE KEY"));
    assert!(tls.client_ca.is_none() && !format!("{tls:?}").contains("45, 45"), "{tls:?}");
    assert!(format!("{tls:?}").contains("redacted"));
    let config = read(&format!("{pair}, client_ca_file: two-cert.pem")).unwrap();
    assert!(config.listen.tls.unwrap().client_ca.is_some());

    refuses("certificate_file: one-cert.pem", "listen.tls.key_file", "missing");
    refuses("key_file: one-key.pem", "listen.tls.certificate_file", "missing");
    refuses("certificate_file: one-cert.pem, key_file: two-key.pem", "listen.tls", "key");
    let swapped = "certificate_file: one-cert.pem, key_file: one-cert.pem";
    refuses(swapped, "listen.tls.key_file", "no private key");
    let missing = format!("{pair}, client_ca_file: none.pem");
    refuses(&missing, "listen.tls.client_ca_file", "none.pem");
    let wrong = format!("{pair}, client_ca_file: one-key.pem");
    refuses(&wrong, "listen.tls.client_ca_file", "no certificate");
}

#[test]
fn the_client_certificate_has_one_source() {
    let source = |given: &str| takes(&format!("client_certificate: {given}")).policies;
    assert_eq!(source("{source: peer}").client_certificate, Source::Peer);
    let xfcc = |behind: &[&str]| Source::Xfcc {
        behind: behind.iter().map(|it| (*it).to_owned()).collect(),
    };
    assert_eq!(source("{source: xfcc}").client_certificate, xfcc(&[]));
    let given = "{source: xfcc, xfcc: {behind: ['spiffe://a/b']}}";
    assert_eq!(source(given).client_certificate, xfcc(&["spiffe://a/b"]));
    let name = "client-cert".to_owned();
    let header = Source::Header { name, format: HeaderFormat::Rfc9440 };
    assert_eq!(source("{source: header}").client_certificate, header);
    let name = "x-ssl-cert".to_owned();
    let header = Source::Header { name, format: HeaderFormat::PemUrlencoded };
    let given = "{source: header, header: {name: X-SSL-Cert, format: pem-urlencoded}}";
    assert_eq!(source(given).client_certificate, header);

    for (given, path, message) in [
        ("{source: tls}", ".source", "`peer`, `xfcc`, `header`"),
        ("{source: tls, header: {}}", ".source", "unknown value"),
        ("{source: xfcc, xfcc: {behind: ['']}}", ".xfcc.behind[0]", "identity"),
        ("{source: header, header: {name: 'a b'}}", ".header.name", "no name of a header"),
        ("{source: header, header: {name: Authorization}}", ".header.name", "something else"),
        ("{source: header, header: {name: X-Forwarded-Client-Cert}}", ".header.name", "xfcc"),
        ("{source: header, header: {format: pem}}", ".header.format", "`pem-base64`"),
    ] {
        let path = format!("client_certificate{path}");
        refuses(&format!("client_certificate: {given}"), &path, 5, message);
    }
}

#[test]
fn policies_have_names_and_say_what_must_be_proved() {
    let name = "policies[0].name";
    refuses("- name: ''", name, 7, "letters");
    refuses("- name: a b", name, 7, "letters");
    refuses(&format!("- name: {}", "x".repeat(65)), name, 7, "64");
    takes(&format!("- name: {}", "x".repeat(64)));
    refuses("- name: 1", name, 7, "quotes");
    let at = "policies[0].sender_constraint";
    refuses("  sender_constraint: certificat", at, 8, "`certificate`");
    refuses("  sender_constraint: off", at, 8, "`if_bound`");
    refuses("  sender_constraint: true", at, 8, "quotes");
    refuses("  sender_constraint: ~", at, 8, "no value");
    let text = MINIMAL.replace("  sender_constraint: certificate\n", "");
    one(&read(&text).unwrap_err(), &text, (at, 7, "missing"));
    warns("  sender_constraint: none", at, 8, "nothing is proved");
    warns("  sender_constraint: dpop", "dpop.replay", 1, "several replicas");
    warns("  sender_constraint: either", "dpop.replay", 1, "several replicas");
    let config = takes("  sender_constraint: if_bound");
    assert_eq!(config.policies.policies[0].sender_constraint, SenderConstraint::IfBound);
}

#[test]
fn policies_demand_what_tokens_can_hold() {
    for (more, path, message) in [
        ("issuers: []", "issuers", "must not be empty"),
        ("issuers: [https://as.example.com/]", "issuers[0]", "not the name of one"),
        ("scopes: ['']", "scopes[0]", "no scope"),
        ("scopes: [a, 'b c']", "scopes[1]", "several scopes"),
        ("scopes: ['a\"b']", "scopes[0]", "no scope"),
        ("scopes: payments", "scopes", "expected a list"),
        ("claims: {acr: []}", "claims.acr", "must not be empty"),
        ("claims: {acr: {a: b}}", "claims.acr", "a string, a number or a boolean"),
        ("claims: {acr: [[a]]}", "claims.acr", "a string, a number or a boolean"),
        ("claims: {acr: ~}", "claims.acr", "no value"),
        ("claims: {a..b: c}", r#"claims["a..b"]"#, "path of a claim"),
        ("claims: {'': c}", r#"claims[""]"#, "path of a claim"),
        ("claims: [acr]", "claims", "mapping"),
        ("origin: api.example.com", "origin", "no origin"),
        ("origin: https://api.example.com/v1", "origin", "no origin"),
        ("realm: 'a\"b'", "realm", "without quotes"),
        ("resource_metadata: http://a.example/x", "resource_metadata", "https"),
        ("mode: observe", "mode", "`enforce`"),
        ("match: {hosts: []}", "match.hosts", "every host"),
        ("match: {hosts: ['a:443']}", "match.hosts[0]", "port"),
        ("match: {methods: []}", "match.methods", "every method"),
        ("match: {methods: [get]}", "match.methods[0]", "write GET"),
        ("match: {methods: ['G T']}", "match.methods[0]", "no method"),
        ("match: {path_prefix: pay}", "match.path_prefix", "begin"),
        ("match: {path: /pay}", "match.path", "unknown key"),
        ("match:", "match", "no value"),
    ] {
        let edit = format!("  sender_constraint: certificate\n  {more}");
        refuses(&edit, &format!("policies[0].{path}"), 9, message);
    }
    takes("  sender_constraint: certificate\n  mode: enforce");
    let edit = "  sender_constraint: certificate\n  mode: report";
    warns(edit, "policies[0].mode", 9, "nothing is refused");
    let edit = "  sender_constraint: certificate
  origin: HTTPS://api.example.com:443/
  realm: payments of today
  resource_metadata: https://api.example.com/.well-known/oauth-protected-resource";
    let policy = Arc::clone(&takes(edit).policies.policies[0]);
    assert_eq!(policy.origin.as_ref().unwrap().as_str(), "https://api.example.com");
    assert_eq!(policy.realm, "payments of today");
    assert!(policy.resource_metadata.is_some());
    let edit = "  sender_constraint: certificate
  match: {hosts: ['*.Example.com', a.example.], path_prefix: /pay%2Dments, methods: [GET]}
  issuers: [https://as.example.com, https://as.example.com]
  claims: {acr: [a, 1], cnf.x: true}";
    let config = takes(edit);
    let policy = &config.policies.policies[0];
    assert_eq!(policy.matches.hosts[0], HostPattern::Below("example.com".to_owned()));
    assert_eq!(policy.matches.hosts[1], HostPattern::Exact("a.example".to_owned()));
    assert_eq!(policy.matches.path_prefix, [b"pay-ments"]);
    assert_eq!(policy.issuers, [IssuerId(0)]);
    assert_eq!(policy.claims[0].values, [json!("a"), json!(1)]);
    assert_eq!(
        (policy.claims[1].path.as_str(), &policy.claims[1].values[0]),
        ("cnf.x", &json!(true))
    );
}

#[test]
fn a_route_may_choose_what_it_is_given_to_choose_from() {
    let with = |more: &str| format!("  sender_constraint: certificate\n  {more}");
    let chosen = |edit: &str| takes(edit).policies.policies[0].routes_may_name_it;
    assert!(!chosen("  sender_constraint: certificate"));
    assert!(!chosen(&with("allow_route_annotation: false")));
    assert!(chosen(&with("allow_route_annotation: true")));
    let at = "policies[0].allow_route_annotation";
    refuses(&with("allow_route_annotation: payments"), at, 9, "a boolean");
    for (constraint, mode, weakness) in
        [("none", "enforce", "have nothing proved"), ("certificate", "report", "nothing refused")]
    {
        let text = edited(&format!(
            "  sender_constraint: {constraint}\n  mode: {mode}\n  allow_route_annotation: true"
        ));
        let warnings = config(&text).warnings;
        let found = warnings.iter().find(|it| it.path == at).unwrap();
        assert!(found.line == Some(10) && found.message.contains(weakness), "{found}");
    }
    // Nobody else gets it, and that is what it is for.
    takes(
        "- name: all\n  sender_constraint: certificate\n- name: payments\n  allow_route_annotation: true",
    );
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
fn names_differ() {
    let two =
        "- issuer: https://as.example.com\n  audiences: [a]\n- issuer: https://as.example.com";
    refuses(two, "issuers[1].issuer", 5, "there already");
    let two = "- name: a\n  sender_constraint: certificate\n- name: a";
    let problems = read(&edited(two)).unwrap_err();
    one(&problems, two, ("policies[1].name", 9, "there already"));
}

#[test]
fn what_can_never_apply_is_pointed_out() {
    let two = "- name: all\n  sender_constraint: certificate\n- name: payments";
    warns(two, "policies[1]", 9, "`all` above");
    let policies = |rows: &[(&str, &str)]| {
        let row = |(name, given): &(&str, &str)| {
            format!("- {{name: {name}, match: {{{given}}}, sender_constraint: certificate}}\n")
        };
        MINIMAL.replace(
            "- name: payments\n  sender_constraint: certificate\n",
            &rows.iter().map(row).collect::<String>(),
        )
    };
    let (a, b) = (("a", "hosts: [a.test], methods: [GET]"), ("b", "hosts: ['*.test']"));
    for (last, shadows) in [
        ("hosts: [a.test], methods: [GET], path_prefix: /x", Some("`a` above does")),
        ("hosts: [a.test, b.test], methods: [GET, POST]", Some("`a` and `b` above do")),
        ("hosts: [a.test, b.test, a.test], methods: [GET]", Some("that `a` and `b` above do")),
        ("hosts: [a.test, b.test, c.example], methods: [GET]", None),
        ("hosts: [test]", None),
        ("methods: [GET]", None),
    ] {
        let text = policies(&[a, b, ("last", last)]);
        let warnings = config(&text).warnings;
        let found = warnings.iter().find(|it| it.path == "policies[2]");
        let holds = |it: &&str| found.is_some_and(|found| found.message.contains(*it));
        assert_eq!(shadows.filter(holds), shadows, "{last}: {warnings:?}");
        assert_eq!(found.is_some(), shadows.is_some(), "{last}: {warnings:?}");
    }
    let idle = "- issuer: https://b.example\n  audiences: [b]\n- issuer: https://as.example.com";
    let text =
        edited(idle).replace("certificate\n", "certificate\n  issuers: ['https://b.example']\n");
    one(&config(&text).warnings, &text, ("issuers[1]", 5, "no policy accepts"));
}

#[test]
fn there_is_an_issuer_and_a_policy() {
    let empty = "issuers: []\npolicies: []\n";
    let paths = |text: &str| -> Vec<_> {
        read(text).unwrap_err().into_iter().map(|it| (it.path, it.line)).collect()
    };
    let at = |path: &str, line| (path.to_owned(), Some(line));
    assert_eq!(paths(empty), [at("issuers", 1), at("policies", 2)]);
    assert_eq!(paths("limits: {}"), [at("issuers", 1), at("policies", 1)]);
    assert_eq!(paths("issuers:\npolicies:\n"), [at("issuers", 1), at("policies", 2)]);
    assert_eq!(paths("issuers: {}\npolicies: a\n"), [at("issuers", 1), at("policies", 2)]);
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
fn the_upstream_gets_headers_that_mean_what_they_say() {
    for (given, path, message) in [
        ("authorization: strip", "authorization", "`keep`, `remove`, `bearer`"),
        ("headers: {'a b': sub}", r#"headers["a b"]"#, "no name of a header"),
        ("headers: {':path': sub}", r#"headers[":path"]"#, "pseudo-header"),
        ("headers: {Host: sub}", "headers.Host", "something else"),
        ("headers: {authorization: sub}", "headers.authorization", "something else"),
        ("headers: {connection: sub}", "headers.connection", "something else"),
        ("headers: {X-A: sub, x-a: iss}", "headers.x-a", "there already"),
        ("headers: {x-a: ''}", "headers.x-a", "path of a claim"),
        ("headers: {x-a: cnf.}", "headers.x-a", "path of a claim"),
        ("headers: [x-a]", "headers", "mapping"),
        ("remove: ['']", "remove[0]", "no name of a header"),
        ("remove: [':authority']", "remove[0]", "pseudo-header"),
        ("remove: [host]", "remove[0]", "every request"),
        ("remove: [Authorization]", "remove[0]", "`authorization: remove`"),
        ("remove: [x-auth-subject]", "remove[0]", "cannot be both"),
    ] {
        refuses(&format!("upstream: {{{given}}}"), &format!("upstream.{path}"), 10, message);
    }
    let edit = "upstream: {authorization: bearer, headers: {X-Key: cnf.jkt}, remove: [DPoP, dpop]}";
    let upstream = takes(edit).policies.upstream;
    assert_eq!(upstream.authorization, UpstreamAuthorization::Bearer);
    assert_eq!(upstream.headers, [("x-key".into(), "cnf.jkt".to_owned())]);
    assert_eq!(upstream.remove, ["dpop"].map(Arc::from));
    assert_eq!(takes("upstream: {headers: {}}").policies.upstream.headers, []);
}

/// What becomes of a configuration with these lines at `dpop` or `introspection`, in a folder with
/// files of every kind.
fn with_files(edit: &str) -> Result<Config, Vec<String>> {
    among_files(&edited(edit))
}

fn among_files(text: &str) -> Result<Config, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["gateway".to_owned()]).unwrap();
    for (name, text) in [
        ("secret", "0123456789abcdef0123456789abcdef\n".to_owned()),
        ("short", "0123".to_owned()),
        ("empty", "\n".to_owned()),
        ("lines", "a\nb".to_owned()),
        ("redis", "redis://127.0.0.1:6379/0\n".to_owned()),
        ("rediss", "rediss://127.0.0.1:6379/0\n".to_owned()),
        ("http", "http://127.0.0.1:6379\n".to_owned()),
        ("ca.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    from_str(text, folder.path()).map_err(|it| it.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn takes_with_files(edit: &str) -> Config {
    with_files(edit).unwrap()
}

#[track_caller]
fn refuses_with_files(edit: &str, path: &str, message: &str) {
    let found = with_files(edit).unwrap_err();
    let told = found.len() == 1 && found[0].contains(&format!(": {path}: "));
    assert!(told && found[0].contains(message), "{edit}\n{found:#?}");
}

#[test]
fn what_belongs_to_another_source_has_no_effect() {
    for (given, path, message) in [
        ("{source: peer, xfcc: {behind: []}}", ".xfcc", "`source: xfcc`"),
        ("{header: {name: client-cert, format: rfc9440}}", ".header", "`source: header`"),
        ("{source: xfcc, header: {}}", ".header", "`source: header`"),
        ("{source: header, xfcc: {behind: [a]}}", ".xfcc", "`source: xfcc`"),
    ] {
        let path = format!("client_certificate{path}");
        warns(&format!("client_certificate: {given}"), &path, 5, message);
    }
}

#[test]
fn proofs_are_bounded_and_recorded() {
    for (given, path, message) in [
        ("{algorithms: []}", ".algorithms", "must not be empty"),
        ("{algorithms: [HS256]}", ".algorithms[0]", "symmetric"),
        ("{proof_window: 0s}", ".proof_window", "must be 1s"),
        ("{proof_window: 301s}", ".proof_window", "must be 1s"),
        ("{proof_window: 60}", ".proof_window", "unit"),
        ("{nonce: on}", ".nonce", "`offered`"),
        ("{nonce: false}", ".nonce", "expected a string"),
        ("{nonce: required, nonce_secret_file: none}", ".nonce_secret_file", "cannot read"),
        ("{nonce: required, nonce_secret_file: short}", ".nonce_secret_file", "32"),
        ("{replay: {store: disk}}", ".replay.store", "`redis`"),
        ("{replay: {capacity: 0}}", ".replay.capacity", "must be 1 to"),
        ("{replay: {per_key: 0}}", ".replay.per_key", "must be 1"),
        ("{replay: {url_file: redis}}", ".replay.url_file", "`store: redis`"),
        ("{replay: {timeout: 1s}}", ".replay.timeout", "`store: redis`"),
        ("{replay: {store: redis}}", ".replay.url_file", "name a file"),
        ("{replay: {store: redis, url_file: none}}", ".replay.url_file", "cannot read"),
        ("{replay: {store: redis, url_file: http}}", ".replay.url_file", "redis"),
        ("{replay: {store: redis, url_file: redis, capacity: 1000}}", ".replay.capacity", "memory"),
        (
            "{replay: {store: redis, url_file: redis, timeout: 0ms}}",
            ".replay.timeout",
            "must be 1ms",
        ),
        (
            "{replay: {store: redis, url_file: redis, ca_file: ca.pem}}",
            ".replay.url_file",
            "rediss",
        ),
        ("{replay: {store: redis, url_file: rediss, ca_file: short}}", ".replay.ca_file", "PEM"),
    ] {
        refuses_with_files(
            &format!("limits: {{}}\ndpop: {given}"),
            &format!("dpop{path}"),
            message,
        );
    }
    let usual = takes_with_files("limits: {}\ndpop: {}");
    assert_eq!(usual.policies.proofs, ProofRules::default());
    assert_eq!(usual.dpop.replay, ReplayRules::default());
    let given = "{algorithms: [ES384], proof_window: 300s, nonce: required,
  nonce_secret_file: secret, replay: {store: redis, url_file: rediss, ca_file: ca.pem}}";
    let config = takes_with_files(&format!("limits: {{}}\ndpop: {given}"));
    assert_eq!(config.policies.proofs.algorithms, [Algorithm::ES384]);
    assert_eq!(config.policies.proofs.nonce, NonceDemand::Required);
    assert!(config.dpop.nonce_keys.is_some());
    assert!(matches!(config.dpop.replay, ReplayRules::Redis(_)));
    let unused = takes_with_files("limits: {}\ndpop: {nonce: off, nonce_secret_file: secret}");
    assert!(unused.warnings[0].message.contains("no effect"));
}

#[test]
fn an_issuer_is_asked_about_opaque_tokens_as_somebody() {
    let at = "issuers[0].introspection";
    let secret = "client_id: gateway, client_secret_file: secret";
    let mutual = "client_id: gateway, certificate_file: ca.pem, key_file: key.pem";
    for (given, path, message) in [
        ("{client_secret_file: secret}".to_owned(), ".client_id", "name of this service"),
        ("{client_id: gateway}".to_owned(), "", "client_secret_file, or else"),
        (format!("{{{secret}, certificate_file: ca.pem}}"), "", "client_secret_file, or else"),
        ("{client_id: a, certificate_file: ca.pem}".to_owned(), "", "client_secret_file, or else"),
        (
            "{client_id: a, client_secret_file: none}".to_owned(),
            ".client_secret_file",
            "cannot read",
        ),
        ("{client_id: a, client_secret_file: empty}".to_owned(), ".client_secret_file", "empty"),
        ("{client_id: a, client_secret_file: lines}".to_owned(), ".client_secret_file", "one line"),
        (format!("{{{secret}, endpoint: 'http://as.example.com/'}}"), ".endpoint", "https"),
        (format!("{{{secret}, introspect: never}}"), ".introspect", "`always`"),
        (format!("{{{secret}, timeout: 150ms}}"), ".timeout", "check_deadline"),
        (format!("{{{secret}, cache_ttl: 61m}}"), ".cache_ttl", "must be 0ns"),
        (format!("{{{secret}, concurrency: 0}}"), ".concurrency", "must be 1"),
        (format!("{{{secret}, client_secret: x}}"), ".client_secret", "client_secret_file"),
    ] {
        let edit = format!("  audiences: [a]\n  introspection: {given}");
        refuses_with_files(&edit, &format!("{at}{path}"), message);
    }
    let without = "  audiences: [a]\n  keys: {jwks_uri: 'https://as.example.com/jwks'}";
    let edit = format!("{without}\n  introspection: {{{secret}}}");
    refuses_with_files(&edit, "issuers[0].introspection.endpoint", "required");

    let rules = |given: &str| {
        let edit = format!("  audiences: [a]\n  introspection: {given}");
        takes_with_files(&edit).policies.issuers[0].introspection.clone().unwrap()
    };
    let usual = rules(&format!("{{{secret}}}"));
    assert_eq!(usual.upkeep, IntrospectionUpkeep::default());
    let text = edited(&format!("  audiences: [a]\n  introspection: {{{secret}}}"));
    let text = text.replace("limits: {}", "limits: {check_deadline: 100ms}");
    let hurried = among_files(&text).unwrap().policies.issuers[0].introspection.clone().unwrap();
    assert_eq!(hurried.upkeep.timeout, Duration::from_millis(80));
    let of_file = "0123456789abcdef0123456789abcdef".to_owned();
    assert_eq!(usual.authentication, ClientAuthentication::Secret(of_file));
    assert!(!usual.always && !usual.forward_jwt && !usual.allow_missing_audience);
    let given = rules(&format!("{{{mutual}, introspect: always, forward_jwt: true}}"));
    assert!(given.always && given.forward_jwt);
    assert!(matches!(given.authentication, ClientAuthentication::MutualTls(_)));
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
    algorithms: [ES256, PS256, EdDSA]
    token_types: [at+jwt]
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
  headers: {x-auth-subject: sub, x-auth-client-id: client_id}
  remove: []
";

#[test]
fn of_the_contract_only_what_is_not_there_is_refused() {
    let problems = read(WHOLE).unwrap_err();
    assert!(problems.iter().all(|it| it.message.contains("cannot read")), "{problems:#?}");
    assert_eq!(problems.len(), 6, "{problems:#?}");
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

#[test]
fn nothing_is_told_to_others_unless_asked_for() {
    let telemetry = config(MINIMAL).telemetry;
    assert_eq!((telemetry.collector, telemetry.log_allows), (None, Share::NONE));
    let edit = "telemetry: {otlp: {endpoint: 'https://otel.example.com/v1/traces'}}";
    let collector = takes(edit).telemetry.collector.unwrap();
    assert_eq!(collector.endpoint.as_str(), "https://otel.example.com/v1/traces");
    assert_eq!((collector.ca, collector.headers.len()), (None, 0));
    assert_eq!((collector.sample.percent(), &*collector.service_name), ("1%".into(), "keybound"));
    let telemetry = takes("telemetry: {log: {allow_sample: 0.001}}").telemetry;
    assert_eq!(telemetry.log_allows.percent(), "0.1%");
}

#[test]
fn a_collector_must_be_one_that_may_know() {
    let otlp = |inside: &str| format!("telemetry: {{otlp: {{{inside}}}}}");
    let here = "endpoint: 'http://127.0.0.1:4318/v1/traces'";
    takes(&otlp(here));
    takes(&otlp(&format!("{here}, sample_ratio: 0, service_name: edge")));
    takes(&otlp(&format!("{here}, sample_ratio: 1")));
    for (inside, key, message) in [
        ("sample_ratio: 1", "endpoint", "give the URL"),
        ("endpoint: 'http://otel.example.com/v1/traces'", "endpoint", "must be https"),
        ("endpoint: 'http://127.0.0.1:4318'", "endpoint", "has no path"),
        ("endpoint: 'https://u:p@otel.example.com/x'", "endpoint", "credentials"),
        (&format!("{here}, sample_ratio: 1.1"), "sample_ratio", "0 to 1"),
        (&format!("{here}, sample_ratio: -0.1"), "sample_ratio", "0 to 1"),
        (&format!("{here}, sample_ratio: .nan"), "sample_ratio", ""),
        (&format!("{here}, service_name: ''"), "service_name", "empty"),
        (&format!("{here}, ca_file: missing.pem"), "ca_file", "cannot read"),
        (&format!("{here}, ca_file: Cargo.toml"), "ca_file", "holds no certificate"),
        (&format!("{here}, headers_file: missing"), "headers_file", "cannot read"),
        (&format!("{here}, headers_file: README.md"), "headers_file", "no header in line"),
    ] {
        refuses(&otlp(inside), &format!("telemetry.otlp.{key}"), 11, message);
    }
    refuses("telemetry: {log: {allow_sample: 2}}", "telemetry.log.allow_sample", 11, "0 to 1");
}

#[test]
fn headers_for_the_collector_come_from_a_file_and_are_secret() {
    let folder = tempfile::tempdir().unwrap();
    let text = edited(
        "telemetry: {otlp: {endpoint: 'https://otel.example.com/x', headers_file: headers}}",
    );
    let read = |lines: &str| {
        fs::write(folder.path().join("headers"), lines).unwrap();
        from_str(&text, folder.path()).map(|it| it.telemetry.collector.unwrap().headers)
    };
    let headers = read("# a key\n\nX-Api-Key: k:1 \nx-scope:eu\n").unwrap();
    let told: Vec<_> = headers.iter().map(|it| (it.0.as_str(), it.1.as_bytes())).collect();
    assert_eq!(told, [("x-api-key", &b"k:1"[..]), ("x-scope", b"eu")]);
    assert!(!format!("{headers:?}").contains("k:1"));
    for (lines, message) in [
        ("secret", "no header in line 1"),
        ("a: b\nsecret text: x", "no header in line 2"),
        ("a: \u{7f}secret", "no header in line 1"),
        ("Content-Type: text/plain", "not free"),
        ("host: secret", "not free"),
    ] {
        let problems = read(lines).unwrap_err();
        one(&problems, lines, ("telemetry.otlp.headers_file", 11, message));
        assert!(!problems[0].message.contains("secret"), "{problems:?}");
    }
}
