use super::*;

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
    warns("listen: {admin: 0.0.0.0:9003}", "listen.admin", 1, "only probes and Prometheus");
    let listen = takes("listen: {ext_authz: unix:/run/x.sock, admin: '[::1]:9003'}").listen;
    assert_eq!(listen.ext_authz, Address::Unix("/run/x.sock".into()));
    takes("listen: {ext_authz: 127.0.0.1:0, admin: 127.0.0.1:0}");
}

#[test]
fn tls_needs_a_certificate_and_its_key() {
    let folder = private_folder();
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
    let expected = ("listen.ext_authz", 1, "set `listen.tls.client_ca_file`");
    one(&config.warnings, pair, expected);
    let tls = config.listen.tls.unwrap();
    assert!(tls.key.starts_with(b"-----BEGIN PRIVATE KEY"));
    assert!(tls.client_ca.is_none() && !format!("{tls:?}").contains("45, 45"), "{tls:?}");
    assert!(format!("{tls:?}").contains("redacted"));
    let mutual = format!("{pair}, client_ca_file: two-cert.pem");
    let config = read(&mutual).unwrap();
    one(&config.warnings, &mutual, ("listen.tls.client_ca_file", 1, "in `client_names`"));
    let tls = config.listen.tls.unwrap();
    assert_eq!((tls.client_ca.is_some(), tls.client_names), (true, vec![]));

    let names = format!("{mutual}, client_names: ['spiffe://x/y', Envoy.example.com]");
    let config = read(&names).unwrap();
    assert_eq!(config.warnings, []);
    let names = ["spiffe://x/y", "envoy.example.com"].map(|it| ProxyName::parse(it).unwrap());
    assert_eq!(config.listen.tls.unwrap().client_names, names);
    for (given, path, message) in [
        ("[]", "", "is empty: leave it out"),
        ("['*.example.com']", "[0]", "one name"),
        ("[envoy.example.com, 'a b']", "[1]", "a URI or the name of a host"),
        ("envoy.example.com", "", "list"),
    ] {
        let path = format!("listen.tls.client_names{path}");
        refuses(&format!("{mutual}, client_names: {given}"), &path, message);
    }
    let without = format!("{pair}, client_names: [envoy.example.com]");
    refuses(&without, "listen.tls.client_names", "needs `client_ca_file`");

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
    let folder = private_folder();
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
fn whoever_can_reach_the_listener_of_a_proxy_can_claim_any_certificate() {
    let everywhere = "0.0.0.0:9002";
    let warnings = |listen| forward_auth(listen, "{flavour: nginx}").unwrap().1;
    assert_eq!(warnings("127.0.0.1:9002"), [""; 0]);
    assert_eq!(warnings("[::1]:9002"), [""; 0]);
    assert_eq!(warnings("unix:/run/keybound.sock"), [""; 0]);
    let [warning] = &warnings(everywhere)[..] else { panic!("one warning") };
    assert!(warning.starts_with("listen.forward_auth: 0.0.0.0:9002"), "{warning}");
    assert!(warning.contains("can claim"), "{warning}");

    let folder = private_folder();
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
    assert!(warned(tls, "").contains("can claim"));
    assert!(warned("", secret).contains("unencrypted"));
    assert_eq!(warned(tls, secret), "");
    assert!(!warned(mutual, "").contains("0.0.0.0"));
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
fn the_client_certificate_has_one_source() {
    let source = |given: &str| takes(&format!("client_certificate: {given}")).rules.policies;
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
        ("{source: header, header: {name: 'a b'}}", ".header.name", "not a header name"),
        ("{source: header, header: {name: Authorization}}", ".header.name", "something else"),
        ("{source: header, header: {name: X-Forwarded-Client-Cert}}", ".header.name", "xfcc"),
        ("{source: header, header: {format: pem}}", ".header.format", "`pem-base64`"),
        ("{source: {peer: {}}}", ".source", "expected a string"),
    ] {
        let path = format!("client_certificate{path}");
        refuses(&format!("client_certificate: {given}"), &path, 5, message);
    }
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
fn the_upstream_gets_headers_that_mean_what_they_say() {
    for (given, path, message) in [
        ("authorization: strip", "authorization", "`keep`, `remove`, `bearer`"),
        ("headers: {'a b': sub}", r#"headers["a b"]"#, "not a header name"),
        ("headers: {':path': sub}", r#"headers[":path"]"#, "pseudo-header"),
        ("headers: {Host: sub}", "headers.Host", "something else"),
        ("headers: {authorization: sub}", "headers.authorization", "something else"),
        ("headers: {grpc_timeout: sub}", "headers.grpc_timeout", "something else"),
        ("headers: {connection: sub}", "headers.connection", "something else"),
        ("headers: {X-A: sub, x-a: iss}", "headers.x-a", "same as `x-a`: remove one"),
        ("headers: {x-a: ''}", "headers.x-a", "path of a claim"),
        ("headers: {x-a: cnf.}", "headers.x-a", "path of a claim"),
        ("headers: {x_a: sub, x-a: iss}", "headers.x_a", "same as `x-a`: remove one"),
        ("headers: {x.a: sub, x_a: iss}", "headers.x_a", "same as `x.a`: remove one"),
        ("headers: {x_forwarded_client_cert: sub}", "headers.x_forwarded_client_cert", "else"),
        ("headers: {'x-a*': sub}", "headers[\"x-a*\"]", "at its end"),
        ("headers: {x-a: {format: json}}", "headers.x-a", "which claim"),
        ("headers: {x-a: {claim: 'a.'}}", "headers.x-a", "path of a claim"),
        ("headers: {x-a: {claim: a, format: xml}}", "headers.x-a.format", "`plain` or `json`"),
        ("headers: {x-a: {claim: a, formt: json}}", "headers.x-a.formt", "did you mean `format`"),
        ("headers: {x-a: [a]}", "headers.x-a", "`claim` and `format`"),
        ("headers: {x-a: 7}", "headers.x-a", "path of a claim"),
        ("headers: [x-a]", "headers", "mapping"),
        ("remove: ['']", "remove[0]", "not a header name"),
        ("remove: [':authority']", "remove[0]", "pseudo-header"),
        ("remove: [host]", "remove[0]", "every request"),
        ("remove: [Authorization]", "remove[0]", "`authorization: remove`"),
        ("remove: [x-auth-subject]", "remove[0]", "by `headers`: remove it here or there"),
        ("remove: ['*']", "remove[0]", "every header"),
        ("remove: ['x-*-y']", "remove[0]", "at its end"),
        ("remove: ['x-**']", "remove[0]", "at its end"),
        ("remove: ['*-id']", "remove[0]", "at its end"),
        ("remove: ['a b*']", "remove[0]", "not a header name"),
        ("remove: [':*']", "remove[0]", "pseudo-header"),
        ("remove: ['ho*']", "remove[0]", "`host`, which is part of every request"),
        ("remove: ['Content*']", "remove[0]", "`content-length`, which is"),
        ("remove: ['content_*']", "remove[0]", "`content-length`, which is"),
        ("remove: ['t*']", "remove[0]", "`transfer-encoding`, which is"),
        ("remove: ['auth*']", "remove[0]", "`authorization: remove`"),
    ] {
        refuses(&format!("upstream: {{{given}}}"), &format!("upstream.{path}"), 10, message);
    }
    let edit = "upstream: {authorization: bearer, headers: {X-Key: cnf.jkt}, remove: [DPoP, dpop]}";
    let upstream = takes(edit).rules.policies.upstream;
    assert_eq!(upstream.authorization, UpstreamAuthorization::Bearer);
    assert_eq!(upstream.headers, [IdentityHeader::new("x-key", "cnf.jkt")]);
    assert_eq!(upstream.remove, ["dpop"].map(Arc::from));
    assert_eq!(takes("upstream: {headers: {}}").rules.policies.upstream.headers, []);
    let edit = "upstream: {headers: {x-g: {claim: groups, format: json}, x-h: {claim: sub}}}";
    let json = IdentityHeader { format: ClaimFormat::Json, ..IdentityHeader::new("x-g", "groups") };
    let expected = [json, IdentityHeader::new("x-h", "sub")];
    let policies = takes(edit).rules.policies;
    assert_eq!(policies.upstream.headers, expected);
    assert!(policies.claims_asked_for().contains(&"groups".to_owned()));
    let upstream =
        takes("upstream: {remove: [X-Auth-*, x-auth-*, x_auth_subject]}").rules.policies.upstream;
    assert_eq!(upstream.remove_beginning, ["x-auth-"].map(Arc::from));
    assert_eq!(upstream.remove, ["x_auth_subject"].map(Arc::from));
}

/// A configuration with this flavour and these lines of `upstream`.
fn asked_by(flavour: &str, upstream: &str) -> Result<Config, Vec<Problem>> {
    let listen = "listen: {forward_auth: 127.0.0.1:9002}";
    let asked = format!("{listen}\nforward_auth: {{flavour: {flavour}}}");
    read(&edited(&asked).replace("upstream: {}", &format!("upstream: {{{upstream}}}")))
}

#[test]
fn what_strips_by_a_beginning_says_what_a_proxy_can_do_about_it() {
    let strips = |name: &str| format!("remove: ['{name}*']");
    for flavour in ["nginx", "traefik", "caddy"] {
        asked_by(flavour, &strips("x-auth-")).unwrap();
        let problems = asked_by(flavour, &strips("x-forwarded-")).unwrap_err();
        let [problem] = &problems[..] else { panic!("{problems:#?}") };
        assert_eq!(problem.path, "upstream.remove[0]");
        assert!(problem.message.contains("strip these headers in the proxy"), "{problem}");
    }
    let config = asked_by("envoy", &strips("x-auth-")).unwrap();
    let found: Vec<_> =
        config.warnings.iter().filter(|it| it.path == "upstream.remove[0]").collect();
    assert!(
        found.len() == 1 && found[0].message.contains("includeRequestHeadersInCheck"),
        "{found:?}"
    );
}

#[test]
fn over_http_envoy_is_told_of_so_many_aliases_and_no_more() {
    let name = |dashes: usize| "x-".repeat(dashes) + "x";
    let headers = |dashes| format!("headers: {{{}: sub}}", name(dashes));
    for (flavour, dashes, good) in
        [("envoy", 6, true), ("envoy", 7, false), ("nginx", 7, true), ("caddy", 40, true)]
    {
        let found = asked_by(flavour, &headers(dashes));
        assert_eq!(found.is_ok(), good, "{flavour} {dashes} {found:?}");
        for problem in found.err().iter().flatten() {
            assert_eq!(problem.path, "upstream.headers");
            assert!(problem.message.contains("ask by gRPC"), "{problem}");
        }
    }
    takes(&format!("upstream: {{{}}}", headers(40)));
}

#[test]
fn what_the_proxy_writes_is_relied_on() {
    for (flavour, written) in [
        ("nginx", "x-original-uri"),
        ("traefik", "x-forwarded-uri"),
        ("caddy", "x-forwarded-method"),
        ("envoy", "x-forwarded-proto"),
    ] {
        let reserved = ReservedHeaders::of(&asked_by(flavour, "").unwrap().rules.policies);
        for name in [written, "x-auth-subject", "x-forwarded-client-cert"] {
            assert!(reserved.must_go(name.replace('-', "_").as_bytes()), "{flavour} {name}");
            assert!(!reserved.must_go(name.as_bytes()), "{flavour} {name}");
        }
    }
    let edit = "client_certificate: {source: header, header: {name: x-cert}}";
    let reserved = ReservedHeaders::of(&takes(edit).rules.policies);
    assert!(reserved.must_go(b"X.CERT") && !reserved.must_go(b"X_Original_Uri"));
}
