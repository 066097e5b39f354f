use super::*;

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
    refuses("  sender_constraint: {dpop: a}", at, 8, "expected a string");
    refuses("  sender_constraint: ~", at, 8, "no value");
    let text = MINIMAL.replace("  sender_constraint: certificate\n", "");
    one(
        &read(&text).unwrap_err(),
        &text,
        (at, 7, "is missing: write certificate, dpop, either, if_bound or none"),
    );
    // By the name that others have for it, it is not missing as well.
    let text = MINIMAL.replace("  sender_constraint: certificate\n", "  type: certificate-bound\n");
    let told = ("policies[0].type", 8, "is `sender_constraint: certificate`");
    one(&read(&text).unwrap_err(), &text, told);
    warns("  sender_constraint: none", at, 8, "no proof of possession");
    for constraint in ["dpop", "either"] {
        let edit = format!("  sender_constraint: {constraint}\n  origin: https://api.example.com");
        warns(&edit, "dpop.replay", 1, "several replicas");
    }
    let edit = "  sender_constraint: if_bound\n  origin: https://api.example.com";
    let config = takes(edit);
    assert_eq!(config.rules.policies.policies[0].sender_constraint, SenderConstraint::IfBound);
}

/// The configuration with a public policy that has more keys.
fn public(more: &str) -> String {
    let keys = format!("  public: true\n  {more}\n");
    MINIMAL.replace("  sender_constraint: certificate\n", &keys)
}

#[test]
fn a_public_policy_asks_for_no_token() {
    let policy = |text: &str| Arc::clone(&config(text).rules.policies.policies[0]);
    let health = policy(&public("match: {path_prefix: /healthz}"));
    assert!(health.is_public() && health.issuers.is_empty());
    for more in ["mode: report", "streams: ignore", "mode: enforce"] {
        assert!(policy(&public(more)).is_public(), "{more}");
    }
    takes("  sender_constraint: certificate\n  public: false");
    assert!(!policy(&edited("  sender_constraint: certificate\n  public: false")).public);
    let none_says_so = public("").replace("public: true", "public: false");
    let found = read(&none_says_so).unwrap_err();
    one(&found, &none_says_so, ("policies[0].sender_constraint", 7, "is missing"));
    let unread = public("").replace("public: true", "public: yes please");
    one(&read(&unread).unwrap_err(), &unread, ("policies[0].public", 8, "a boolean"));
}

#[test]
fn a_public_policy_can_demand_nothing_of_a_token() {
    let origin = "https://api.example.com";
    for (key, value, message) in [
        ("sender_constraint", "certificate", "leave out `sender_constraint`"),
        ("sender_constraint", "none", "leave out `sender_constraint`"),
        ("scopes", "[pay]", "leave out `scopes`"),
        ("scopes", "[]", "leave out `scopes`"),
        ("claims", "{acr: phr}", "leave out `claims`"),
        ("authentication", "{max_age: 5m}", "leave out `authentication`"),
        ("streams", "end_with_token", "leave out `streams`"),
        ("issuers", "['https://as.example.com']", "asks for no token"),
        ("origin", origin, "asks for no token"),
        ("realm", "x", "asks for no token"),
        ("resource_metadata", "https://a.example/x", "asks for no token"),
    ] {
        let text = public(&format!("{key}: {value}"));
        let found = read(&text).unwrap_err();
        one(&found, &text, (&format!("policies[0].{key}"), 9, message));
    }
    let text = public(&format!("origin: {origin}\n  resource: {{}}"));
    let found = read(&text).unwrap_err();
    let at: Vec<_> = found.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(at, ["policies[0].origin", "policies[0].resource"]);
}

#[test]
fn a_public_policy_that_is_for_everything_or_for_everybody_to_choose_is_pointed_out() {
    let warned = |more: &str, path: &str| {
        let warnings = config(&public(more)).warnings;
        warnings.into_iter().find(|it| it.path == path).map(|it| it.message)
    };
    let for_all = "policies[0].public";
    assert!(warned("", for_all).unwrap().contains("passes without a token"));
    for narrow in ["path_prefix: /healthz", "hosts: [a.test]", "methods: [OPTIONS]"] {
        assert_eq!(warned(&format!("match: {{{narrow}}}"), for_all), None, "{narrow}");
    }
    let chosen = warned("allow_route_annotation: true", "policies[0].allow_route_annotation");
    assert!(chosen.unwrap().contains("asks for no token"));
}

#[test]
fn policies_demand_what_tokens_can_hold() {
    for (more, path, message) in [
        ("issuers: []", "issuers", "must not be empty"),
        ("issuers: [https://as.example.com/]", "issuers[0]", "not the name of one"),
        ("scopes: ['']", "scopes[0]", "not a scope"),
        ("scopes: [a, 'b c']", "scopes[1]", "several scopes"),
        ("scopes: ['a\"b']", "scopes[0]", "not a scope"),
        ("scopes: payments", "scopes", "expected a list"),
        ("claims: {acr: []}", "claims.acr", "must not be empty"),
        ("claims: {acr: {a: b}}", "claims.acr", "a string, a number or a boolean"),
        ("claims: {acr: [[a]]}", "claims.acr", "a string, a number or a boolean"),
        ("claims: {acr: ~}", "claims.acr", "no value"),
        ("claims: {a..b: c}", r#"claims["a..b"]"#, "path of a claim"),
        ("claims: {'': c}", r#"claims[""]"#, "path of a claim"),
        ("claims: [acr]", "claims", "mapping"),
        ("origin: api.example.com", "origin", "not an origin"),
        ("origin: https://api.example.com/v1", "origin", "not an origin"),
        ("authentication: {}", "authentication", "demands nothing"),
        ("authentication: {acr: []}", "authentication.acr", "must not be empty"),
        ("authentication: {acr: phr}", "authentication.acr", "list"),
        ("authentication: {acr: [a, 'b c']}", "authentication.acr[1]", "without spaces"),
        ("authentication: {acr: ['a\"']}", "authentication.acr[0]", "quotes"),
        ("authentication: {max_age: 300}", "authentication.max_age", "with its unit"),
        ("authentication: {max_age: 0s}", "authentication.max_age", "must be 1s to 8760h, not 0s"),
        ("authentication: {max_age: 8761h}", "authentication.max_age", "not 8761h"),
        ("authentication: {max_age: 1500ms}", "authentication.max_age", "whole seconds"),
        ("authentication: {min_age: 1s}", "authentication.min_age", "unknown key"),
        ("realm: 'a\"b'", "realm", "without quotes"),
        ("resource_metadata: http://a.example/x", "resource_metadata", "https"),
        ("resource: {}", "resource", "needs `origin`"),
        ("resource: Payments", "resource", "a mapping"),
        ("streams: end", "streams", "expected `ignore` or `end_with_token`"),
        ("streams: true", "streams", "quotes"),
        ("mode: observe", "mode", "unknown value `observe`, expected `enforce` or `report`"),
        ("mode: Report", "mode", "`report`"),
        ("mode: {report: a}", "mode", "expected a string"),
        ("match: {hosts: []}", "match.hosts", "every host"),
        ("match: {hosts: ['a:443']}", "match.hosts[0]", "port"),
        ("match: {methods: []}", "match.methods", "every method"),
        ("match: {methods: [get]}", "match.methods[0]", "write GET"),
        ("match: {methods: ['G T']}", "match.methods[0]", "not a method"),
        ("match: {path_prefix: pay}", "match.path_prefix", "begin"),
        ("match: {path: /pay}", "match.path", "unknown key"),
        ("match: {path_prefix: /pay/*}", "match.path_prefix", "not a pattern"),
        ("match: {path_prefix: '/users/{id}'}", "match.path_prefix", "%7B"),
        ("match:", "match", "no value"),
    ] {
        let edit = format!("  sender_constraint: certificate\n  {more}");
        refuses(&edit, &format!("policies[0].{path}"), 9, message);
    }
    takes("  sender_constraint: certificate\n  mode: enforce");
    let edit = "  sender_constraint: certificate\n  mode: report";
    warns(edit, "policies[0].mode", 9, "report mode");
    let edit = "  sender_constraint: certificate\n  mode: report\n\
                - {name: other, sender_constraint: certificate, match: {hosts: [b]}}";
    let warnings = config(&edited(edit)).warnings;
    assert!(warnings[0].message.contains("belongs to no policy, and is refused"), "{warnings:?}");
    let edit = "  sender_constraint: certificate
  origin: HTTPS://api.example.com:443/
  realm: payments of today
  resource_metadata: https://api.example.com/.well-known/oauth-protected-resource";
    let policy = Arc::clone(&takes(edit).rules.policies.policies[0]);
    assert_eq!(policy.origin.as_ref().unwrap().as_str(), "https://api.example.com");
    assert_eq!(policy.realm, "payments of today");
    assert!(policy.resource_metadata.is_some());
    let edit = "  sender_constraint: certificate
  match: {hosts: ['*.Example.com', a.example.], path_prefix: /pay%2Dments, methods: [GET]}
  issuers: [https://as.example.com, https://as.example.com]
  claims: {acr: [a, 1], cnf.x: true}";
    let config = takes(edit);
    let policy = &config.rules.policies.policies[0];
    assert_eq!(policy.matches.hosts[0], HostPattern::Below("example.com".to_owned()));
    assert_eq!(policy.matches.hosts[1], HostPattern::Exact("a.example".to_owned()));
    assert_eq!(policy.matches.path_prefix, [b"pay-ments"]);
    assert_eq!(policy.issuers, [IssuerId(0)]);
    assert_eq!(policy.claims[0].values.to_string(), r#""a" or 1"#);
    assert_eq!(
        (policy.claims[1].path.as_str(), policy.claims[1].values.to_string().as_str()),
        ("cnf.x", "true")
    );
}

#[test]
fn a_login_is_demanded_by_its_class_its_time_or_both() {
    for (given, acr, max_age_seconds) in [
        ("{acr: [phr, 'urn:example:loa3']}", &["phr", "urn:example:loa3"][..], None),
        ("{max_age: 1s}", &[], Some(1)),
        ("{acr: [phr], max_age: 8760h}", &["phr"], Some(31_536_000)),
    ] {
        let edit = format!("  sender_constraint: certificate\n  authentication: {given}");
        let policy = &takes(&edit).rules.policies.policies[0];
        let acr = acr.iter().map(ToString::to_string).collect();
        assert_eq!(policy.authentication, Authentication { acr, max_age_seconds }, "{given}");
    }
    let policy = &takes("  sender_constraint: certificate").rules.policies.policies[0];
    assert!(policy.authentication.is_any());
}

#[test]
fn a_route_may_choose_what_it_is_given_to_choose_from() {
    let with = |more: &str| format!("  sender_constraint: certificate\n  {more}");
    let chosen = |edit: &str| takes(edit).rules.policies.policies[0].routes_may_name_it;
    assert!(!chosen("  sender_constraint: certificate"));
    assert!(!chosen(&with("allow_route_annotation: false")));
    assert!(chosen(&with("allow_route_annotation: true")));
    let at = "policies[0].allow_route_annotation";
    refuses(&with("allow_route_annotation: payments"), at, 9, "a boolean");
    for (constraint, mode, weakness) in
        [("none", "enforce", "requires no proof"), ("certificate", "report", "denies nothing")]
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
fn names_differ() {
    let two =
        "- issuer: https://as.example.com\n  audiences: [a]\n- issuer: https://as.example.com";
    refuses(two, "issuers[1].issuer", 5, "used twice");
    let two = "- name: a\n  sender_constraint: certificate\n- name: a";
    let problems = read(&edited(two)).unwrap_err();
    one(&problems, two, ("policies[1].name", 9, "used twice"));
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

/// The warnings about policies of these rows, each a name and what it says; `if_bound` unless it says
/// something else.
fn warned(rows: &[(&str, &str)], more: &str) -> Vec<(String, String)> {
    let row = |(name, given): &(&str, &str)| {
        let constraint = if given.contains("sender_constraint") {
            ""
        } else {
            ", sender_constraint: certificate"
        };
        format!("- {{name: {name}, {given}{constraint}}}\n")
    };
    let text = MINIMAL.replace(
        "- name: payments\n  sender_constraint: certificate\n",
        &rows.iter().map(row).collect::<String>(),
    );
    let text = text.replace("listen: {}\n", &format!("listen: {{{more}}}\n"));
    let warnings = config(&text).warnings.into_iter();
    warnings.filter(|it| it.path.starts_with("policies")).map(|it| (it.path, it.message)).collect()
}

/// The policies of these rows cause these warnings, at this path and with these words.
#[track_caller]
fn warn(rows: &[(&str, &str)], expected: &[(&str, &str)]) {
    let found = warned(rows, "");
    let as_expected = found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(it, (path, message))| it.0 == *path && it.1.contains(message));
    assert!(as_expected, "{rows:?}\n{found:#?}");
}

const HOST: &str = "for any Host, and asks for less than `pay` above";
const SUFFIX: &str = "asks for less than `pay` above, and is for the same path with a suffix";

#[test]
fn a_policy_that_asks_for_less_and_can_be_had_by_host_is_pointed_out() {
    let pay = ("pay", "match: {hosts: [a.test]}, scopes: [pay]");
    let at = "policies[1]";
    for (rest, expected) in [
        ("mode: report", &[(at, HOST), ("policies[1].mode", "")][..]),
        ("scopes: []", &[(at, HOST)]),
        ("sender_constraint: either, scopes: [pay], origin: 'https://a.test'", &[(at, HOST)]),
        ("match: {path_prefix: /x}", &[(at, HOST)]),
        ("match: {methods: [GET]}", &[(at, HOST)]),
        ("scopes: [pay]", &[]),
        ("scopes: [pay, more]", &[]),
        ("match: {hosts: [b.test]}", &[]),
        ("match: {hosts: ['*.test']}", &[]),
    ] {
        let mut found = warned(&[pay, ("rest", rest)], "");
        found.sort();
        let as_expected = found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|(it, (path, words))| it.0 == *path && it.1.contains(words));
        assert!(as_expected, "{rest}\n{found:#?}");
    }
    // Nobody is let through who is not asked for as much in between.
    warn(&[pay, ("all", "scopes: [pay]"), ("named", "allow_route_annotation: true")], &[]);
    let other = ("docs", "match: {path_prefix: /docs}");
    warn(&[("pay", "match: {hosts: [a.test], path_prefix: /pay}, scopes: [pay]"), other], &[]);
    let reports = ("pay", "match: {hosts: [a.test]}, scopes: [pay], mode: report");
    warn(&[reports, ("rest", "scopes: []")], &[("policies[0].mode", "")]);
}

#[test]
fn a_policy_that_asks_for_less_and_can_be_had_by_a_suffix_is_pointed_out() {
    let pay = ("pay", "match: {path_prefix: /v1/pay}, scopes: [pay]");
    let at = "policies[1]";
    for (rest, expected) in [
        ("scopes: []", &[(at, SUFFIX)][..]),
        ("match: {path_prefix: /v1}", &[(at, SUFFIX)]),
        ("match: {hosts: [a.test]}", &[(at, SUFFIX)]),
        ("match: {methods: [GET]}", &[(at, SUFFIX)]),
        ("scopes: [pay]", &[]),
        ("match: {path_prefix: /v2}", &[]),
        ("match: {path_prefix: /v1/docs}", &[]),
        ("match: {path_prefix: /v1/pay.json}", &[]),
    ] {
        warn(&[pay, ("rest", rest)], expected);
    }
    let by_method = ("pay", "match: {path_prefix: /pay, methods: [POST]}, scopes: [pay]");
    warn(&[by_method, ("rest", "match: {methods: [GET]}")], &[]);
    warn(&[by_method, ("rest", "match: {methods: [GET, POST]}")], &[(at, SUFFIX)]);
    let by_host = ("pay", "match: {path_prefix: /pay, hosts: [a.test]}, scopes: [pay]");
    warn(&[by_host, ("rest", "match: {hosts: [b.test]}")], &[]);
    warn(&[by_host, ("rest", "match: {hosts: [a.test]}")], &[(at, SUFFIX)]);
    // What is above it, and what is not for it.
    warn(&[("rest", "match: {path_prefix: /health}, scopes: []"), pay], &[]);
}

#[test]
fn proofs_for_whatever_host_the_request_names_are_pointed_out() {
    for (constraint, warns) in
        [("dpop", true), ("either", true), ("if_bound", true), ("certificate", false)]
    {
        for (more, helps) in [
            ("", false),
            (", match: {path_prefix: /x}", false),
            (", match: {hosts: ['*.a.test']}", true),
            (", origin: 'https://a.test'", true),
        ] {
            let policy = format!("sender_constraint: {constraint}{more}");
            let warnings = [("policies[0]", "made for another server")];
            warn(&[("p", &policy)], if warns && !helps { &warnings } else { &[] });
        }
    }
}

#[test]
fn a_method_that_a_header_may_override_unseen_is_pointed_out() {
    let rows = [
        ("read", "match: {methods: [GET]}, scopes: [read]"),
        ("erase", "match: {methods: [DELETE]}, scopes: [read, erase]"),
        ("rest", "scopes: [read]"),
    ];
    let same = [("read", "match: {methods: [GET]}"), ("write", "match: {methods: [POST]}")];
    for (more, warns) in [
        ("forward_auth: '127.0.0.1:0'", true),
        ("forward_auth: '127.0.0.1:0'}\nforward_auth: {flavour: nginx", false),
        ("", false),
    ] {
        let paths: Vec<_> = warned(&rows, more).into_iter().map(|it| it.0).collect();
        let expected: &[&str] = if warns { &["policies[1].match.methods"] } else { &[] };
        assert_eq!(paths, expected, "{more}");
        assert_eq!(warned(&same, more), [], "{more}");
    }
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
fn streams_end_by_a_header_that_nothing_may_take_away() {
    let ends = "  sender_constraint: certificate\n  streams: end_with_token";
    let policies = takes(ends).rules.policies;
    assert_eq!(policies.policies[0].streams, Streams::EndWithToken);
    assert_eq!(takes("upstream: {}").rules.policies.policies[0].streams, Streams::Ignore);
    for (removed, is_refused) in [
        ("grpc-timeout", true),
        ("Grpc-Timeout", true),
        // To who strips these, ours is another spelling of them.
        ("grpc_timeout", true),
        ("grpc-*", true),
        ("GRPC_T*", true),
        ("grpc-timeouts", false),
        ("grpc-timeout-*", false),
        ("grpc-x*", false),
    ] {
        let upstream = format!("upstream: {{remove: ['{removed}']}}");
        assert!(read(&edited(&upstream)).is_ok(), "{removed}: without such a policy");
        let text = edited(ends).replace("upstream: {}", &upstream);
        match read(&text) {
            Err(problems) => {
                assert!(is_refused, "{removed}: {problems:?}");
                one(&problems, &text, ("policies[0].streams", 9, "`upstream.remove` takes away"));
            }
            Ok(_) => assert!(!is_refused, "{removed}"),
        }
    }
}

#[test]
fn streams_that_a_proxy_cannot_end_are_warned_of() {
    let ends = edited("  sender_constraint: certificate\n  streams: end_with_token");
    for (flavour, is_warned_of) in [("nginx", true), ("traefik", true), ("envoy", false)] {
        let listens = "listen: {forward_auth: '127.0.0.1:9002'}\nforward_auth: {flavour: FLAVOUR}";
        let text = ends.replace("listen: {}", &listens.replace("FLAVOUR", flavour));
        let source = "client_certificate: {source: header}";
        let text = text.replace("client_certificate: {}", source);
        let warnings = config(&text).warnings;
        let found = warnings.iter().any(|it| it.message.contains("cannot end a stream"));
        assert_eq!(found, is_warned_of, "{flavour}: {warnings:#?}");
        let without = text.replace("  streams: end_with_token\n", "");
        let warnings = config(&without).warnings;
        assert!(!warnings.iter().any(|it| it.message.contains("stream")), "{warnings:#?}");
    }
}

#[test]
fn streams_of_tokens_whose_answers_are_not_cached_are_warned_of() {
    let issuer = "  audiences: [https://api.example.com]\n  introspection: {endpoint:                   'https://as.example.com/i', client_id: a, authentication: none, cache_ttl: TTL}";
    let ends = "  sender_constraint: certificate\n  streams: end_with_token";
    for (streams, ttl, is_warned_of) in
        [(true, "0s", true), (true, "1s", false), (false, "0s", false)]
    {
        let mut text = edited(&issuer.replace("TTL", ttl));
        if streams {
            text = text.replace("  sender_constraint: certificate", ends);
        }
        let warnings = config(&text).warnings;
        let found = warnings.iter().any(|it| {
            it.path == "issuers[0].introspection.cache_ttl" && it.message.contains("1 ms")
        });
        assert_eq!(found, is_warned_of, "{streams} {ttl}: {warnings:#?}");
    }
}
