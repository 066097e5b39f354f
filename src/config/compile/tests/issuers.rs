use super::*;
use keybound_core::policy::TokenType;
use std::os::unix::fs::{PermissionsExt, symlink};

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
    warns("- issuer: http://127.0.0.1:8080", issuer, 3, "over plain http");
}

#[test]
fn other_machines_are_asked_over_plain_http_only_where_that_is_allowed() {
    let at = "issuers[0].issuer";
    refuses("- issuer: http://as.example.com", at, 3, "`allow_http: true`");
    let uri = "  audiences: [a]\n  keys: {jwks_uri: 'http://as.iam.svc:8080/jwks'}";
    refuses(uri, "issuers[0].keys.jwks_uri", 5, "`allow_http: true`");
    warns(&format!("{uri}\n  allow_http: true"), "issuers[0].allow_http", 6, "plain http");
    refuses(&format!("{uri}\n  allow_http: false"), "issuers[0].keys.jwks_uri", 5, "allow_http");
    refuses("  audiences: [a]\n  allow_http: often", "issuers[0].allow_http", 5, "boolean");
    let config = config(&edited(&format!("{uri}\n  allow_http: true")));
    assert!(config.rules.issuers[0].keys.allow_http);
    assert!(!takes("  audiences: [a]").rules.issuers[0].keys.allow_http);

    let asked = "  audiences: [a]\n  introspection: {client_id: a, client_secret_file: secret, \
                 endpoint: 'http://as.iam.svc:8080/introspect'}";
    refuses_with_files(asked, "issuers[0].introspection.endpoint", "`allow_http: true`");
    let allowed = with_files(&format!("{asked}\n  allow_http: true")).unwrap();
    let warned = |path: &str| allowed.warnings.iter().any(|it| it.path == path);
    assert!(warned("issuers[0].allow_http") && !warned("issuers[0].introspection.endpoint"));
}

#[test]
fn a_bearer_token_for_the_keys_is_one_line_that_nobody_is_shown() {
    let keys = |keys: &str| format!("  audiences: [a]\n  keys: {keys}");
    let at = "issuers[0].keys.bearer_token_file";
    let https = "jwks_uri: 'https://a.example/jwks'";
    let odd = "must hold one bearer token";
    for (file, message) in
        [("lines", odd), ("empty", odd), ("key.pem", odd), ("none", "cannot read"), ("''", "name")]
    {
        refuses_with_files(&keys(&format!("{{bearer_token_file: {file}}}")), at, message);
        let told = with_files(&keys(&format!("{{bearer_token_file: {file}}}"))).unwrap_err();
        assert!(!told[0].contains("PRIVATE"), "{told:?}");
    }
    for (given, warned) in [
        ("bearer_token_file: secret".to_owned(), None),
        (format!("bearer_token_file: secret, {https}"), None),
        ("bearer_token_file: secret, jwks_uri: 'http://[::1]/jwks'".to_owned(), Some("plain http")),
    ] {
        let config = takes_with_files(&keys(&format!("{{{given}}}")));
        let token = &config.rules.issuers[0].keys.bearer;
        assert!(token.is_some() && !format!("{token:?}").contains("0123456789abcdef"));
        let found = config.warnings.iter().find(|it| it.path == at);
        assert_eq!(found.is_some(), warned.is_some(), "{found:?}");
        assert!(warned.is_none_or(|it| found.unwrap().message.contains(it)));
    }
    assert!(config(&edited("  audiences: [a]")).rules.issuers[0].keys.bearer.is_none());
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
    assert_eq!(
        config.rules.policies.issuers[0].token_types,
        [TokenType::Named("at+jwt".to_owned())]
    );
    warns("  audiences: [a]\n  token_types: [JWT]", "issuers[0].token_types[0]", 5, "ID tokens");
}

#[test]
fn how_tokens_are_read_can_be_said() {
    for (more, path, message) in [
        ("provider: Keycloak", "provider", "keycloak"),
        ("audience_claim: ''", "audience_claim", "must name a claim"),
        ("allow_missing_audience: 1", "allow_missing_audience", "expected a boolean"),
        ("claim_names: {client_id: []}", "claim_names.client_id", "must not be empty"),
        ("claim_names: {scope: ['']}", "claim_names.scope[0]", "must name a claim"),
        ("claim_names: {sub: [uid]}", "claim_names.sub", "unknown key"),
        ("tenants: [a]", "tenants", "needs `{tenantid}` in `issuer`"),
    ] {
        refuses(&format!("  audiences: [a]\n  {more}"), &format!("issuers[0].{path}"), 5, message);
    }
    let types = "issuers[0].token_types[0]";
    warns("  audiences: [a]\n  token_types: [absent]", types, 5, "does not tell access tokens");
    warns(
        "  audiences: [a]\n  allow_missing_audience: true",
        "issuers[0].allow_missing_audience",
        5,
        "meant for another service",
    );
    let config = takes(
        "  audiences: [a]\n  audience_claim: client_id\n  claim_names: {client_id: [cid, azp], scope: \
         [scp]}",
    );
    let issuer = &config.rules.policies.issuers[0];
    assert_eq!(issuer.audience_claim, "client_id");
    assert_eq!(issuer.claim_names.client_id, ["cid", "azp"]);
    assert_eq!(issuer.claim_names.scope, ["scp"]);
}

#[test]
fn tenants_stand_where_the_issuer_says() {
    let issuer = "- issuer: https://login.example.com/{tenantid}/v2.0\n  keys: {jwks_uri: \
                  'https://login.example.com/keys'}";
    refuses(issuer, "issuers[0].tenants", 3, "name who may be");
    for (tenants, path, message) in [
        ("[]", "", "must not be empty"),
        ("['']", "[0]", "not the id of a tenant"),
        ("['a/b']", "[0]", "not the id of a tenant"),
        ("['{tenantid}']", "[0]", "not the id of a tenant"),
    ] {
        let edit = format!("{issuer}\n  tenants: {tenants}");
        refuses(&edit, &format!("issuers[0].tenants{path}"), 5, message);
    }
    let discovered = "- issuer: https://login.example.com/{tenantid}/v2.0\n  tenants: [a]";
    assert_eq!(takes(discovered).rules.issuers[0].keys.source, KeySource::Discovery);
    let config = takes(&format!("{issuer}\n  tenants: [7f1d8a52-1, b]"));
    assert_eq!(config.rules.policies.issuers[0].tenants, ["7f1d8a52-1", "b"]);
}

#[test]
fn what_is_written_wins_over_a_provider() {
    let config = takes("  audiences: [a]\n  provider: okta\n  algorithms: [ES256]");
    let issuer = &config.rules.policies.issuers[0];
    assert_eq!(issuer.provider, Some("okta"));
    assert_eq!(issuer.algorithms, [Algorithm::ES256]);
    assert_eq!(issuer.claim_names.client_id, ["client_id", "cid"]);
    let config = takes("  audiences: [a]\n  provider: cognito\n  audience_claim: aud");
    assert_eq!(config.rules.policies.issuers[0].audience_claim, "aud");
    let config = takes("  audiences: [a]\n  provider: keycloak\n  token_types: [JWT]");
    let issuer = &config.rules.policies.issuers[0];
    assert_eq!(issuer.token_types, [TokenType::Named("jwt".to_owned())]);
    assert_eq!(issuer.type_claims.len(), 4, "what tells its tokens apart stays");
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
    let source = takes(edit).rules.issuers[0].keys.source.clone();
    assert_eq!(source, KeySource::Uri("https://a.example/jwks".to_owned()));
    let edit = "  audiences: [a]\n  keys: {jwks_uri: 'http://[::1]/jwks'}";
    warns(edit, "issuers[0].keys.jwks_uri", 5, "over plain http");
}

#[test]
fn an_issuer_whose_keys_are_named_need_not_be_a_url() {
    let text = edited("- issuer: accounts.example.com")
        .replace("[https://api.example.com]", "[a]\n  keys: {jwks_uri: 'https://a.example/jwks'}");
    assert_eq!(&*config(&text).rules.policies.issuers[0].name, "accounts.example.com");
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
        ("{withdrawn_key_grace: 25h}", ".withdrawn_key_grace", "must be 0s to 24h, not 25h"),
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
        config.rules.issuers[0].keys.upkeep.clone()
    };
    let found = upkeep("{}");
    let algorithms = found.algorithms.clone();
    assert_eq!(algorithms, takes("  audiences: [a]").rules.issuers[0].issuer.algorithms);
    assert_eq!(found, KeyUpkeep { algorithms, ..KeyUpkeep::default() });
    let given = upkeep("{refresh_max: 1m, max_stale: 61s, snapshot_file: /var/lib/keys.json}");
    assert_eq!(given.refresh_default, Duration::from_secs(60), "no more than the most");
    assert_eq!(given.max_stale, Duration::from_secs(61));
    assert_eq!(given.snapshot_file, Some("/var/lib/keys.json".into()));
    for (grace, warnings) in [("0s", 0), ("1h", 0), ("3601s", 1), ("24h", 1)] {
        let text = edited(&format!("  audiences: [a]\n  keys: {{withdrawn_key_grace: {grace}}}"));
        let config = from_str(&text, Path::new("")).unwrap();
        assert_eq!(config.warnings.len(), warnings, "{grace}");
    }
}

#[test]
fn no_file_is_written_that_is_something_else() {
    let folder = private_folder();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("jwks.json"), JWKS).unwrap();
    fs::write(path("secret"), "a-secret-of-sixteen-characters").unwrap();
    fs::create_dir(path("keys")).unwrap();
    symlink(path("jwks.json"), path("link.json")).unwrap();
    symlink(path("."), path("here")).unwrap();
    let check = |snapshot: &str, message: Option<&str>| {
        let text = format!(
            "listen: {{ext_authz: 'unix:{}', forward_auth: '127.0.0.1:9002'}}
forward_auth: {{secret_file: secret}}
issuers:
- {{issuer: a, audiences: [a], keys: {{jwks_file: jwks.json, snapshot_file: keys/a.json}}}}
- {{issuer: b, audiences: [a], keys: {{jwks_file: jwks.json, snapshot_file: '{snapshot}'}}}}
policies: [{{name: p, sender_constraint: certificate}}]
",
            path("socket").display()
        );
        fs::write(path("keybound.yaml"), text).unwrap();
        let problems = crate::config::load(&path("keybound.yaml")).err().unwrap_or_default();
        match message {
            None => assert_eq!(problems, vec![], "{snapshot}"),
            Some(message) => {
                let [problem] = &problems[..] else { panic!("{snapshot}: {problems:?}") };
                assert_eq!(problem.path, "issuers[1].keys.snapshot_file", "{snapshot}");
                assert!(problem.message.contains(message), "{snapshot}: {problem}");
            }
        }
    };
    check("keys/b.json", None);
    check("missing/b.json", None);
    check("keys/a.json", Some("that of issuers[0].keys.snapshot_file as well"));
    check("./keys/../keys/a.json", Some("that of issuers[0].keys.snapshot_file as well"));
    check("here/keys/a.json", Some("that of issuers[0].keys.snapshot_file as well"));
    check("keybound.yaml", Some("is this configuration"));
    check("here/./keybound.yaml", Some("is this configuration"));
    check("missing/../keybound.yaml", Some("is this configuration"));
    check(
        "missing/./deep/../../keys/a.json",
        Some("that of issuers[0].keys.snapshot_file as well"),
    );
    check("jwks.json", Some("is read for something else"));
    check("link.json", Some("is read for something else"));
    check("secret", Some("is read for something else"));
    check("socket", Some("is a socket"));
    check("keys", Some("must be the name of a file"));
    check("", Some("must be the name of a file"));
}

#[test]
fn a_snapshot_that_would_not_be_used_is_told() {
    let folder = private_folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let warnings = |name: &str| {
        let keys = format!("  audiences: [a]\n  keys: {{snapshot_file: {name}}}");
        let config = from_str(&edited(&keys), folder.path()).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(warnings("as.json")[0].contains("everybody may write its folder"));
    assert_eq!(warnings("keys/as.json"), Vec::<String>::new());
}

#[test]
fn files_are_read_beside_the_configuration() {
    let folder = private_folder();
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
    let source = |config: &Config| config.rules.issuers[0].keys.clone();

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
