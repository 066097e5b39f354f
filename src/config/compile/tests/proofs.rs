use super::*;

#[test]
fn proofs_are_bounded_and_recorded() {
    for (given, path, message) in [
        ("{algorithms: []}", ".algorithms", "must not be empty"),
        ("{algorithms: [HS256]}", ".algorithms[0]", "symmetric"),
        ("{proof_window: 0s}", ".proof_window", "must be 1s"),
        ("{proof_window: 301s}", ".proof_window", "must be 1s"),
        ("{proof_window: 60}", ".proof_window", "unit"),
        ("{time: clock, nonce: required}", ".time", "`nonce`"),
        ("{time: nonce}", ".time", "set `nonce: required` too"),
        ("{time: nonce, nonce: off}", ".time", "set `nonce: required` too"),
        ("{time: nonce, nonce: offered}", ".time", "set `nonce: required` too"),
        ("{nonce: on}", ".nonce", "`offered`"),
        ("{nonce: false}", ".nonce", "expected a string"),
        ("{nonce: {off: a}}", ".nonce", "invalid type: mapping, expected a string"),
        ("{nonce: }", ".nonce", "no value"),
        ("{nonce: required, nonce_secret_file: none}", ".nonce_secret_file", "cannot read"),
        ("{nonce: required, nonce_secret_file: short}", ".nonce_secret_file", "32"),
        ("{replay: {store: disk}}", ".replay.store", "`redis`"),
        ("{replay: {store: {memory: {}}}}", ".replay.store", "expected a string"),
        ("{replay: {capacity: 0}}", ".replay.capacity", "must be 1 to"),
        ("{replay: {per_key: 0}}", ".replay.per_key", "must be 1"),
        ("{replay: {url_file: redis}}", ".replay.url_file", "`store: redis`"),
        ("{replay: {timeout: 1s}}", ".replay.timeout", "`store: redis`"),
        ("{replay: {store: redis, url_file: redis, per_key: 0}}", ".replay.per_key", "must be 1"),
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
        ("{replay: {certificate_file: ca.pem}}", ".replay.certificate_file", "`store: redis`"),
        ("{replay: {key_file: key.pem}}", ".replay.key_file", "`store: redis`"),
        ("{replay: {sentinel_url_file: sentinels}}", ".replay.sentinel_url_file", "`store: redis`"),
    ] {
        refuses_with_files(
            &format!("limits: {{}}\ndpop: {given}"),
            &format!("dpop{path}"),
            message,
        );
    }
    for (given, path, message) in [
        ("certificate_file: ca.pem", ".key_file", "is missing: the certificate needs its key"),
        ("key_file: key.pem", ".certificate_file", "is missing: the key needs its certificate"),
        ("certificate_file: none, key_file: key.pem", ".certificate_file", "cannot read"),
        ("certificate_file: ca.pem, key_file: none", ".certificate_file", "cannot read"),
        ("certificate_file: short, key_file: key.pem", ".certificate_file", "no certificate"),
        ("certificate_file: ca.pem, key_file: short", ".certificate_file", "no private key"),
        ("certificate_file: ca.pem, key_file: other.pem", ".certificate_file", "cannot be used"),
    ] {
        let replay = format!("{{store: redis, url_file: rediss, {given}}}");
        let edit = format!("limits: {{}}\ndpop: {{replay: {replay}}}");
        refuses_with_files(&edit, &format!("dpop.replay{path}"), message);
    }
    let in_the_clear =
        "{store: redis, url_file: redis, certificate_file: ca.pem, key_file: key.pem}";
    refuses_with_files(
        &format!("limits: {{}}\ndpop: {{replay: {in_the_clear}}}"),
        "dpop.replay.certificate_file",
        "rediss",
    );
    let usual = takes_with_files("limits: {}\ndpop: {}");
    assert_eq!(usual.rules.policies.proofs, ProofRules::default());
    assert_eq!(usual.rules.dpop.replay, ReplayRules::default());
    let given = "{algorithms: [ES384], proof_window: 300s, nonce: required,
  nonce_secret_file: secret, replay: {store: redis, url_file: rediss, ca_file: ca.pem,
  certificate_file: ca.pem, key_file: key.pem}}";
    let config = takes_with_files(&format!("limits: {{}}\ndpop: {given}"));
    assert_eq!(config.rules.policies.proofs.algorithms, [Algorithm::ES384]);
    assert_eq!(config.rules.policies.proofs.nonce, NonceDemand::Required);
    assert_eq!(config.rules.policies.proofs.time, ProofTime::Iat);
    assert!(config.rules.dpop.nonce_keys.is_some());
    assert!(matches!(config.rules.dpop.replay, ReplayRules::Redis(_)));
    let unused = takes_with_files("limits: {}\ndpop: {nonce: off, nonce_secret_file: secret}");
    assert!(unused.warnings[0].message.contains("no effect"));
}

#[test]
fn sentinels_name_a_master_and_no_cluster() {
    for (given, path, message) in [
        ("url_file: master, sentinel_url_file: none", ".sentinel_url_file", "cannot read"),
        ("url_file: master, sentinel_url_file: empty", ".sentinel_url_file", "must hold the URL"),
        (
            "url_file: master, sentinel_url_file: http",
            ".sentinel_url_file",
            "must hold nothing but",
        ),
        ("sentinel_url_file: sentinels", ".url_file", "name a file"),
        ("url_file: other-port, sentinel_url_file: sentinels", ".url_file", "name of the master"),
        (
            "url_file: master, sentinel_url_file: sentinels, cluster: true",
            ".sentinel_url_file",
            "no cluster",
        ),
        ("url_file: master, sentinel_url_file: sentinels, ca_file: ca.pem", ".url_file", "rediss"),
    ] {
        let edit = format!("limits: {{}}\ndpop: {{replay: {{store: redis, {given}}}}}");
        refuses_with_files(&edit, &format!("dpop.replay{path}"), message);
    }
    let given = "{replay: {store: redis, url_file: master, sentinel_url_file: sentinels}}";
    let config = takes_with_files(&format!("limits: {{}}\ndpop: {given}"));
    assert!(format!("{:?}", config.rules.dpop.replay).contains("Watched"));
}

#[test]
fn the_window_of_a_proof_counts_where_its_own_time_does() {
    for (given, time, warned) in [
        ("nonce: required", ProofTime::Iat, false),
        ("nonce: required, proof_window: 60s", ProofTime::Iat, false),
        ("nonce: required, proof_window: 60s, time: iat", ProofTime::Iat, false),
        ("nonce: required, time: nonce", ProofTime::Nonce, false),
        ("nonce: required, proof_window: 60s, time: nonce", ProofTime::Nonce, true),
    ] {
        let config = takes_with_files(&format!("limits: {{}}\ndpop: {{{given}}}"));
        assert_eq!(config.rules.policies.proofs.time, time, "{given}");
        let warnings = config.warnings;
        let found = warnings.iter().any(|it| it.path == "dpop.proof_window");
        assert_eq!(found, warned, "{given}: {warnings:?}");
    }
}

#[test]
fn a_client_has_a_share_of_each_store() {
    for (given, expected) in [
        ("{}", "per_key: 50000"),
        ("{capacity: 2000000}", "per_key: 100000"),
        ("{per_key: 7}", "per_key: 7"),
        ("{store: redis, url_file: redis}", "share: 50000"),
        ("{store: redis, url_file: redis, per_key: 7}", "share: 7"),
    ] {
        let config = takes_with_files(&format!("limits: {{}}\ndpop: {{replay: {given}}}"));
        let found = format!("{:?}", config.rules.dpop.replay);
        assert!(found.contains(expected), "{given}: {found}");
    }
}

#[test]
fn what_goes_to_redis_on_another_machine_is_encrypted() {
    let folder = private_folder();
    for (urls, cluster, host) in [
        ("redis://127.0.0.1", false, None),
        ("redis://user:secret@localhost:6379/0", false, None),
        ("redis://[::1]:6379", false, None),
        ("redis+unix:///run/redis.sock", false, None),
        ("rediss://redis.example.com", false, None),
        ("redis://user:secret@redis.example.com:6379/0", false, Some("redis.example.com")),
        ("redis://10.0.0.1", false, Some("10.0.0.1")),
        ("redis://127.0.0.1:1\nredis://10.0.0.1:1", true, Some("10.0.0.1")),
    ] {
        fs::write(folder.path().join("urls"), urls).unwrap();
        let replay = format!("{{store: redis, url_file: urls, cluster: {cluster}}}");
        let text = edited(&format!("limits: {{}}\ndpop: {{replay: {replay}}}"));
        let warnings = from_str(&text, folder.path()).unwrap().warnings;
        let told: Vec<_> = warnings.iter().filter(|it| it.path == "dpop.replay.url_file").collect();
        let Some(host) = host else {
            assert_eq!(told.len(), 0, "{urls}: {told:?}");
            continue;
        };
        let [told] = *told else { panic!("{urls}: {told:?}") };
        assert!(told.message.contains(host) && told.message.contains("rediss"), "{told}");
        assert!(!told.message.contains("secret"), "{told}");
    }
}

#[test]
fn what_sentinels_on_another_machine_say_is_encrypted() {
    let folder = private_folder();
    let at = |name: &str| folder.path().join(name);
    for (server, sentinels, of_server, of_sentinels) in [
        ("rediss://mymaster", "rediss://10.0.0.1\nredis://127.0.0.1", None, None),
        ("rediss://mymaster", "rediss://10.0.0.1\nredis://10.0.0.2", None, Some("10.0.0.2")),
        ("redis://u:secret@mymaster", "redis+unix:///run/s.sock", Some("mymaster"), None),
        ("redis://mymaster", "redis://u:secret@s1", Some("mymaster"), Some("s1")),
    ] {
        fs::write(at("urls"), server).unwrap();
        fs::write(at("sentinels"), sentinels).unwrap();
        let replay = "{store: redis, url_file: urls, sentinel_url_file: sentinels}";
        let text = edited(&format!("limits: {{}}\ndpop: {{replay: {replay}}}"));
        let warnings = from_str(&text, folder.path()).unwrap().warnings;
        for (key, host) in [("url_file", of_server), ("sentinel_url_file", of_sentinels)] {
            let path = format!("dpop.replay.{key}");
            let told = warnings.iter().find(|it| it.path == path).map(|it| &it.message);
            assert_eq!(told.is_some(), host.is_some(), "{server} {sentinels}: {told:?}");
            if let (Some(told), Some(host)) = (told, host) {
                assert!(told.contains(host) && told.contains("rediss"), "{told}");
                assert!(!told.contains("secret"), "{told}");
            }
        }
    }
}

#[test]
fn replicas_that_share_used_proofs_are_to_share_the_secret_of_nonces() {
    for (given, warned) in [
        ("nonce: required", true),
        ("nonce: offered", true),
        ("nonce: off", false),
        ("nonce: required, nonce_secret_file: secret", false),
    ] {
        for (store, shared) in [("{store: redis, url_file: redis}", true), ("{}", false)] {
            let text = format!("limits: {{}}\ndpop: {{{given}, replay: {store}}}");
            let warnings = takes_with_files(&text).warnings;
            let found = warnings.iter().any(|it| it.path == "dpop.nonce");
            assert_eq!(found, warned && shared, "{text}: {warnings:?}");
        }
    }
}
