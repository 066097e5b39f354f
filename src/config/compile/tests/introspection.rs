use super::*;
use keybound_core::policy::Introspection;

#[test]
fn an_issuer_is_asked_about_opaque_tokens_as_somebody() {
    let at = "issuers[0].introspection";
    let secret = "client_id: gateway, client_secret_file: secret";
    let mutual = "client_id: gateway, certificate_file: ca.pem, key_file: key.pem";
    for (given, path, message) in [
        ("{client_secret_file: secret}".to_owned(), ".client_id", "client id of this service"),
        ("{client_id: gateway}".to_owned(), "", "client_secret_file, or else"),
        ("{client_id: a, certificate_file: ca.pem}".to_owned(), "", "hold key_file"),
        ("{client_id: a, key_file: key.pem}".to_owned(), "", "hold certificate_file"),
        (
            "{client_id: a, client_secret_file: none}".to_owned(),
            ".client_secret_file",
            "cannot read",
        ),
        ("{client_id: a, client_secret_file: empty}".to_owned(), ".client_secret_file", "empty"),
        ("{client_id: a, client_secret_file: lines}".to_owned(), ".client_secret_file", "one line"),
        (format!("{{{secret}, endpoint: 'http://as.example.com/'}}"), ".endpoint", "https"),
        (format!("{{{secret}, introspect: never}}"), ".introspect", "`always`"),
        (
            format!("{{{secret}, claims_from: answer, introspect: opaque}}"),
            ".introspect",
            "contradicts `claims_from: answer`",
        ),
        (format!("{{{secret}, timeout: 60s}}"), ".timeout", "check_deadline"),
        (format!("{{{secret}, cache_ttl: 61m}}"), ".cache_ttl", "must be 0s to 1h, not 61m"),
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
        takes_with_files(&edit).rules.issuers[0].introspection.clone().unwrap()
    };
    for (given, expected) in [
        (format!("{{{secret}}}"), Introspection::OpaqueTokens),
        (format!("{{{secret}, introspect: opaque}}"), Introspection::OpaqueTokens),
        (format!("{{{secret}, introspect: always}}"), Introspection::AllTokens),
        (format!("{{{secret}, claims_from: answer}}"), Introspection::AllTokens),
        (format!("{{{secret}, claims_from: token}}"), Introspection::OpaqueTokens),
    ] {
        let edit = format!("  audiences: [a]\n  introspection: {given}");
        let found = takes_with_files(&edit).rules.policies.issuers[0].introspection;
        assert_eq!(found, expected, "{given}");
    }
    let usual = rules(&format!("{{{secret}}}"));
    assert_eq!(usual.upkeep, IntrospectionUpkeep::default());
    let text = edited(&format!("  audiences: [a]\n  introspection: {{{secret}}}"));
    let text = text.replace("limits: {}", "limits: {check_deadline: 100ms}");
    let hurried = among_files(&text).unwrap().rules.issuers[0].introspection.clone().unwrap();
    assert_eq!(hurried.upkeep.timeout, Duration::from_millis(80));
    let of_file = "0123456789abcdef0123456789abcdef".to_owned();
    assert_eq!(usual.authentication, ClientAuthentication::SecretBasic(of_file));
    assert!(!usual.forward_jwt && !usual.allow_missing_audience);
    let given = rules(&format!("{{{mutual}, introspect: always, forward_jwt: true}}"));
    assert!(given.forward_jwt);
    assert_eq!(given.authentication, ClientAuthentication::TlsClientAuth);
    assert!(given.identity.is_some());
}

#[test]
fn the_times_of_envoy_of_a_check_and_of_an_issuer_go_together() {
    let check = |timeout: &str, limits: &str, expected: Result<(u64, u64), &[&str]>| {
        let introspection = format!("{{client_id: a, {SECRET}{timeout}}}");
        let text = edited(&format!("  audiences: [a]\n  introspection: {introspection}"));
        let text = text.replace("limits: {}", &format!("limits: {{{limits}}}"));
        let found = among_files(&text).map(|config| {
            let rules = &config.rules;
            let times = [
                rules.limits.check_deadline,
                rules.issuers[0].introspection.as_ref().unwrap().upkeep.timeout,
            ];
            let told: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
            (times.map(|it| u64::try_from(it.as_millis()).unwrap()), told)
        });
        match (found, expected) {
            (Ok((times, told)), Ok((deadline, answer))) => {
                assert_eq!(times, [deadline, answer], "{text}");
                let envoy = 200 <= deadline;
                assert_eq!(told.len(), usize::from(envoy), "{told:?}");
                for told in told {
                    assert!(told.contains("limits.check_deadline: "), "{told}");
                    assert!(told.contains("issuers[0].introspection.timeout"), "{told}");
                    assert!(told.contains("`timeout: "), "{told}");
                }
            }
            (Err(found), Err(parts)) => {
                assert_eq!(found.len(), 1, "{found:?}");
                assert!(parts.iter().all(|it| found[0].contains(it)), "{found:?}");
            }
            (found, expected) => panic!("{found:?} {expected:?}"),
        }
    };
    check("", "", Ok((1000, 800)));
    check(", timeout: 120ms", "", Ok((150, 120)));
    check(", timeout: 10ms", "", Ok((150, 10)));
    check(", timeout: 2s", "", Ok((2500, 2000)));
    check("", "check_deadline: 100ms", Ok((100, 80)));
    check("", "check_deadline: 150ms", Ok((150, 120)));
    check("", "check_deadline: 5s", Ok((5000, 800)));
    check(", timeout: 149ms", "check_deadline: 150ms", Ok((150, 149)));
    let parts = ["`timeout: 0.235s`", "limits.check_deadline to 188ms", "timeout to 150ms"];
    check(", timeout: 150ms", "check_deadline: 150ms", Err(&parts));
    check(
        ", timeout: 500ms",
        "check_deadline: 150ms",
        Err(&["which is 150ms", "`timeout: 0.782s`"]),
    );
}

const SECRET: &str = "client_secret_file: secret";
const CERTIFICATE: &str = "certificate_file: ca.pem, key_file: key.pem";
const PRIVATE_KEY: &str = "private_key_file: key.pem, private_key_id: gateway-1";

#[test]
fn who_asks_authenticates_as_is_written_or_as_the_files_are_for() {
    for (files, method, expected) in [
        (SECRET, "", "client_secret_basic"),
        (SECRET, "client_secret_basic", "client_secret_basic"),
        (SECRET, "client_secret_post", "client_secret_post"),
        (CERTIFICATE, "", "tls_client_auth"),
        (CERTIFICATE, "tls_client_auth", "tls_client_auth"),
        (PRIVATE_KEY, "", "private_key_jwt"),
        ("private_key_file: key.pem", "", "private_key_jwt"),
        (PRIVATE_KEY, "private_key_jwt", "private_key_jwt"),
        ("", "none", "none"),
    ] {
        for certificate in ["", CERTIFICATE] {
            let twice = files == CERTIFICATE || method == "none" || method.is_empty();
            if !certificate.is_empty() && twice {
                continue;
            }
            let method = Some(method).filter(|it| !it.is_empty());
            let method = method.map(|it| format!("authentication: {it}")).unwrap_or_default();
            let keys = ["client_id: gateway", files, certificate, &method];
            let keys: Vec<_> = keys.into_iter().filter(|it| !it.is_empty()).collect();
            let edit = format!("  audiences: [a]\n  introspection: {{{}}}", keys.join(", "));
            let rules = takes_with_files(&edit).rules.issuers[0].introspection.clone().unwrap();
            assert_eq!(rules.authentication.name(), expected, "{edit}");
            let shows = keys.contains(&CERTIFICATE);
            assert_eq!(rules.identity.is_some(), shows, "{edit}");
            assert_eq!(rules.client_id.as_deref(), Some("gateway"));
        }
    }
    let edit = "  audiences: [a]\n  introspection: {authentication: none}";
    let rules = takes_with_files(edit).rules.issuers[0].introspection.clone().unwrap();
    assert_eq!(rules.client_id, None);
}

#[test]
fn credentials_that_do_not_go_together_are_errors_that_say_what_to_write() {
    let several = "write `authentication: …`";
    let no_secret = "leave it out, or write `authentication: client_secret_basic`";
    let no_certificate = "leave it out, or write `authentication: tls_client_auth`";
    let no_key = "leave it out, or write `authentication: private_key_jwt`";
    for (keys, path, message) in [
        (String::new(), "", "or write `authentication: none`"),
        (format!("{SECRET}, {CERTIFICATE}"), "", several),
        (format!("{SECRET}, certificate_file: ca.pem"), "", several),
        (format!("{SECRET}, {PRIVATE_KEY}"), "", several),
        (format!("{CERTIFICATE}, {PRIVATE_KEY}"), "", several),
        ("private_key_id: a".to_owned(), "", "private_key_file"),
        (format!("{SECRET}, private_key_id: a"), ".private_key_id", no_key),
        (format!("{SECRET}, authentication: none"), ".client_secret_file", no_secret),
        ("key_file: key.pem, authentication: none".to_owned(), ".key_file", no_certificate),
        ("private_key_id: a, authentication: none".to_owned(), ".private_key_id", no_key),
        (format!("{CERTIFICATE}, authentication: client_secret_post"), "", "client_secret_file"),
        (format!("{SECRET}, authentication: private_key_jwt"), ".client_secret_file", no_secret),
        ("authentication: private_key_jwt".to_owned(), "", "private_key_file"),
        (
            format!("{SECRET}, certificate_file: ca.pem, authentication: client_secret_post"),
            "",
            "key_file",
        ),
        (
            format!("{CERTIFICATE}, {SECRET}, authentication: tls_client_auth"),
            ".client_secret_file",
            no_secret,
        ),
        ("private_key_file: secret".to_owned(), ".private_key_file", "openssl pkcs8"),
        ("private_key_file: none".to_owned(), ".private_key_file", "cannot read"),
        ("authentication: basic".to_owned(), ".authentication", "client_secret_basic"),
    ] {
        let edit = format!("  audiences: [a]\n  introspection: {{client_id: gateway, {keys}}}");
        let found = with_files(&edit).unwrap_err();
        let told = format!("issuers[0].introspection{path}: ");
        let told = found.iter().any(|it| it.contains(&told) && it.contains(message));
        assert!(told, "{edit}\n{found:#?}");
    }
}
