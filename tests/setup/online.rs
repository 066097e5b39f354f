//! `keybound check-config --online`: what it says of an issuer, and what it holds against it.

use super::identity_provider::{Behaviour, Placed};
use super::tokens::Signer;
use super::world::{Ended, World, X5T, claims_of};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

/// A configuration of `world`'s issuer, with more of it.
fn configure(world: &World, more: &Value) {
    let mut issuer =
        json!({"issuer": world.provider.issuer(), "audiences": ["https://api.example.com"]});
    for (name, value) in more.as_object().unwrap() {
        issuer[name] = value.clone();
    }
    let policies = json!([{"name": "default", "sender_constraint": "certificate"}]);
    world.file("keybound.yaml", &json!({"issuers": [issuer], "policies": policies}).to_string());
    world.file("secret", "s3cret");
}

async fn check(world: &World, more: &[&str]) -> Ended {
    world.run(&[&["check-config", "keybound.yaml", "--online"], more].concat()).await
}

#[tokio::test]
async fn an_issuer_that_fits_is_told_with_its_places_and_keys() {
    let world = World::over_tls().await;
    let mut encryption = key(Algorithm::ES256, "enc");
    encryption["use"] = json!("enc");
    world.provider.publish(&[world.signer.jwk().clone(), encryption]);
    configure(&world, &json!({"ca_file": "ca.pem"}));
    let issuer = world.provider.issuer();
    let ended = check(&world, &["--strict"]).await;
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    for line in [
        format!("metadata of this issuer at {issuer}/.well-known/oauth-authorization-server"),
        format!("1 keys at {issuer}/jwks"),
        "key \"1\" (RSA): RS256".to_owned(),
        "skipped key \"enc\" (EC, P-256): it is not for verifying signatures, by its `use` or `key_ops`"
            .to_owned(),
    ] {
        assert!(
            ended.stdout.contains(&format!("\n{issuer}: {line}\n")),
            "{line}: {}",
            ended.stdout
        );
    }
    let ended = check(&world, &["--json"]).await;
    let told: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((told["valid"].as_bool(), ended.code, &*ended.stderr), (Some(true), 0, ""));
    assert_eq!((&told["problems"], &told["warnings"]), (&json!([]), &json!([])));
    let online = &told["issuers"][0]["online"];
    assert_eq!(online["keys"], json!([{"kid": "1", "kty": "RSA", "algorithms": ["RS256"]}]));
    assert_eq!(online["skipped_keys"][0]["kid"], "enc");
    assert_eq!(online["introspection"], Value::Null);
    assert_eq!(told["policies"][0]["name"], "default");
    let offline = world.run(&["check-config", "keybound.yaml", "--json"]).await;
    let offline: Value = serde_json::from_str(&offline.stdout).unwrap();
    assert_eq!(offline["issuers"][0]["online"], Value::Null, "nobody was asked");
}

/// What an issuer publishes, what is configured of it, and what is said of that.
struct Case {
    what: &'static str,
    publish: fn(&World),
    more: Value,
    /// The place of the problem or warning, and words of it; none if all is well.
    told: Option<(&'static str, &'static str)>,
}

fn key(algorithm: Algorithm, kid: &str) -> Value {
    Signer::new(algorithm, kid).jwk().clone()
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test]
async fn each_misfit_is_told_with_its_place() {
    let nothing = || json!({});
    let ask = |more: Value| {
        let mut rules = json!({"client_id": "g", "client_secret_file": "secret"});
        rules.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "introspection": rules })
    };
    let endpoint = |it: &World| {
        let url = it.provider.issuer() + "/introspect";
        it.provider.edit_metadata(|it| it["introspection_endpoint"] = json!(url));
    };
    let problems = [
        Case { what: "all is well", publish: |_| (), more: nothing(), told: None },
        Case {
            what: "another issuer",
            publish: |it| {
                it.provider.edit_metadata(|it| it["issuer"] = json!("https://evil.example"));
            },
            more: nothing(),
            told: Some(("issuers[0].issuer", "https://evil.example")),
        },
        Case {
            what: "no metadata",
            publish: |it| {
                for path in ["oauth-authorization-server", "openid-configuration"] {
                    it.provider.place(&format!("/.well-known/{path}"), Placed::Status(404));
                }
            },
            more: nothing(),
            told: Some(("issuers[0].issuer", "404")),
        },
        Case {
            what: "keys that fail",
            publish: |it| it.provider.behave(Behaviour::Status(500)),
            more: nothing(),
            told: Some(("issuers[0].keys", "500")),
        },
        Case {
            what: "no key at all",
            publish: |it| it.provider.publish(&[]),
            more: nothing(),
            told: Some(("issuers[0].keys", "the set is empty")),
        },
        Case {
            what: "no key that can be used",
            publish: |it| it.provider.publish(&[json!({"kty": "oct", "kid": "odd", "k": "AA"})]),
            more: nothing(),
            told: Some(("issuers[0].keys", "\"odd\"")),
        },
        Case {
            what: "no key for what is accepted",
            publish: |it| it.provider.publish(&[key(Algorithm::ES384, "2")]),
            more: nothing(),
            told: Some(("issuers[0].algorithms", "its keys are for ES384")),
        },
        Case {
            what: "an endpoint that the metadata do not name",
            publish: |_| (),
            more: ask(json!({})),
            told: Some(("issuers[0].introspection", "give `endpoint`")),
        },
        Case { what: "an endpoint", publish: endpoint, more: ask(json!({})), told: None },
        Case {
            what: "an endpoint where nobody is",
            publish: |_| (),
            more: ask(json!({"endpoint": "http://127.0.0.1:1/introspect"})),
            told: Some((
                "issuers[0].introspection",
                "http://127.0.0.1:1/introspect cannot be reached",
            )),
        },
    ];
    tell(problems, 1, "").await;
    let warnings = [
        Case {
            what: "a key that is skipped",
            publish: |it| {
                let odd = json!({"kty": "oct", "kid": "odd", "k": "AA"});
                it.provider.publish(&[it.signer.jwk().clone(), odd]);
            },
            more: nothing(),
            told: Some(("issuers[0].keys", "\"odd\"")),
        },
        Case {
            what: "a key for what is not accepted",
            publish: |it| {
                it.provider.publish(&[it.signer.jwk().clone(), key(Algorithm::ES384, "2")]);
            },
            more: nothing(),
            told: Some(("issuers[0].algorithms", "tokens under \"2\" (EC): ES384")),
        },
        Case {
            what: "an algorithm that was named and is not served",
            publish: |_| (),
            more: json!({"algorithms": ["RS256", "PS512"]}),
            told: Some(("issuers[0].algorithms", "no key of the issuer serves PS512")),
        },
        Case {
            what: "a method that is not announced",
            publish: |it| {
                let url = it.provider.issuer() + "/introspect";
                it.provider.edit_metadata(|it| {
                    it["introspection_endpoint"] = json!(url);
                    it["introspection_endpoint_auth_methods_supported"] =
                        json!(["private_key_jwt"]);
                });
            },
            more: ask(json!({})),
            told: Some(("issuers[0].introspection", "announces private_key_jwt")),
        },
    ];
    tell(warnings, 0, "warning: ").await;
}

/// `code` is that of a case with something to say; with `--strict` it is always 1.
async fn tell(cases: impl IntoIterator<Item = Case>, code: i32, kind: &str) {
    for Case { what, publish, more, told } in cases {
        let world = World::new().await;
        configure(&world, &more);
        publish(&world);
        let ended = check(&world, &[]).await;
        assert_eq!(ended.code, if told.is_some() { code } else { 0 }, "{what} {ended:?}");
        // Keys over plain HTTP, and other remarks on the file alone.
        let offline = world.run(&["check-config", "keybound.yaml"]).await.stderr;
        let new: Vec<_> = ended.stderr.lines().filter(|it| !offline.contains(it)).collect();
        let Some((place, words)) = told else {
            assert!(new.is_empty(), "{what} {ended:?}");
            continue;
        };
        let begins = format!("keybound.yaml:1: {kind}{place}: ");
        assert!(matches!(*new, [line] if line.starts_with(&begins)), "{what} {ended:?}");
        assert!(new[0].contains(words), "{what} {ended:?}");
        assert_eq!(check(&world, &["--strict"]).await.code, 1, "{what}");
        let json = check(&world, &["--json"]).await;
        let document: Value = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!((document["valid"].as_bool(), json.code), (Some(code == 0), code), "{what}");
        let list = if code == 0 { "warnings" } else { "problems" };
        let list = document[list].as_array().unwrap();
        assert!(list.iter().any(|it| it["path"] == place && it["line"] == 1), "{what} {list:?}");
    }
}

#[tokio::test]
async fn no_token_and_no_secret_is_sent() {
    let world = World::new().await;
    let url = world.provider.issuer() + "/introspect";
    world.provider.edit_metadata(|it| it["introspection_endpoint"] = json!(url));
    let rules = json!({"client_id": "g", "client_secret_file": "secret"});
    configure(&world, &json!({ "introspection": rules }));
    let ended = check(&world, &[]).await;
    assert!(ended.stdout.contains(&format!("introspection at {url}, answered 404 to HEAD")));
    let asked = world.provider.asked();
    assert!(asked.iter().any(|it| it.path == "/introspect"));
    assert!(asked.iter().all(|it| !it.headers.contains_key("authorization")));
    assert!(asked.iter().all(|it| !it.headers.contains_key("content-type")));
}

#[tokio::test]
async fn what_init_writes_is_checked_as_it_comes() {
    let world = World::over_tls().await;
    let issuer = world.provider.issuer();
    let claims = claims_of(&issuer, &json!({"cnf": {"x5t#S256": X5T}}));
    world.file("token", &world.signer.sign("at+jwt", &claims));
    let given = ["--token", "token", "--ca-file", "ca.pem"];
    let written = world.run(&[&["init", "--issuer", &issuer], &given[..]].concat()).await;
    let ended = world.pipe(&written.stdout, &["check-config", "--online", "--strict", "-"]).await;
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    let broken = written.stdout.replace("audiences", "audience");
    let ended = world.pipe(&broken, &["check-config", "--json", "--config", "-"]).await;
    let document: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((ended.code, document["valid"].as_bool()), (1, Some(false)));
    assert!(!document["problems"].as_array().unwrap().is_empty(), "{document}");
    assert_eq!((&document["issuers"], &document["policies"]), (&json!([]), &json!([])));
}
