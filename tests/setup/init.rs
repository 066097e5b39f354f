//! `keybound init`: what it writes for which issuer and which token, and what it never writes.

use super::configured::configured;
use super::identity_provider::Placed;
use super::tokens::{Signer, tampered};
use super::world::{Ended, World, X5T, claims_of, now};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use keybound::clock::{Clock, SystemClock};
use keybound::config::Config;
use keybound::installation::{Checker, Installation};
use keybound_core::jose::Thumbprint;
use keybound_core::{Denial, Evidence, Field, PeerCertificate, Request, Target};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::runtime::Handle;

const API: &str = "https://api.example.com";
const EITHER: &str = "sender_constraint: either";

/// The configuration that was written, if it is complete.
fn valid(world: &World, ended: &Ended) -> Config {
    assert_eq!(ended.code, 0, "{ended:?}");
    configured(&ended.stdout, world.folder.path())
        .unwrap_or_else(|it| panic!("{it:?}\n{}", ended.stdout))
}

/// All that is ever written: none of it lets a token without an audience pass.
const KEYS: &[&str] = &[
    "",
    "issuers",
    "issuer",
    "provider",
    "audiences",
    "audience_claim",
    "algorithms",
    "token_types",
    "claim_names",
    "ca_file",
    "policies",
    "name",
    "sender_constraint",
];

const BINDINGS: &[&str] = &["certificate", "dpop", "either"];

/// What holds for whatever is written.
fn is_sound(ended: &Ended, token: &str) {
    let settings = ended.stdout.lines().filter(|it| !it.trim_start().starts_with('#'));
    for line in settings {
        let is_section = line.is_empty() || line == "issuers:" || line == "policies:";
        assert!(is_section || line.contains("  # "), "there is no reason: {line}");
        let (key, value) = line.trim_start_matches([' ', '-']).split_once(':').unwrap_or_default();
        assert!(KEYS.contains(&key), "{line}");
        let value = value.split("  # ").next().unwrap().trim();
        assert!(key != "sender_constraint" || BINDINGS.contains(&value), "{line}");
    }
    for text in [&ended.stdout, &ended.stderr] {
        assert!(token.is_empty() || !text.contains(token), "{text}");
        assert!(!text.contains(|it: char| it.is_control() && it != '\n'), "{text:?}");
    }
}

/// `init` for an issuer with a token of these claims.
async fn init(world: &World, issuer: &str, token: &str, more: &[&str]) -> Ended {
    world.file("token", token);
    let arguments = [&["init", "--issuer", issuer, "--token", "token"], more].concat();
    let ended = world.run(&arguments).await;
    is_sound(&ended, token);
    ended
}

/// The issuer as one of Keycloak's realms.
fn as_keycloak(world: &World) -> String {
    let issuer = world.provider.issuer() + "/realms/shop";
    let endpoint = format!("{issuer}/protocol/openid-connect/token");
    world.provider.edit_metadata(|it| {
        it["issuer"] = json!(issuer);
        it["token_endpoint"] = json!(endpoint);
    });
    world.provider.place("/realms/shop/.well-known/openid-configuration", Placed::Metadata);
    issuer
}

/// A token as Keycloak makes it for a client with an audience mapper.
fn keycloak_token() -> Value {
    json!({
        "typ": "Bearer", "client_id": null, "azp": "app", "aud": ["account", API],
        "scope": "email profile", "cnf": {"x5t#S256": X5T},
    })
}

#[tokio::test]
async fn a_keycloak_and_its_token_give_a_configuration_that_passes_the_token_at_once() {
    let world = World::over_tls().await;
    let issuer = as_keycloak(&world);
    let token = world.signer.sign("JWT", &claims_of(&issuer, &keycloak_token()));
    let ended = init(&world, &issuer, &token, &["--ca-file", "ca.pem"]).await;
    let config = valid(&world, &ended);
    assert_eq!(config.warnings, [], "it passes check-config --strict");
    let rules = config.rules.issuers[0].issuer.clone();
    assert_eq!((rules.provider, &*rules.audiences), (Some("keycloak"), &[API.to_owned()][..]));

    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let made = Installation::start(config.rules, None, &clock, &Handle::current()).unwrap();
    let authorization = format!("Bearer {token}");
    for (shown, expected) in [
        (Thumbprint::of(b""), Ok(())),
        (Thumbprint::of(b"another"), Err(Denial::CertificateMismatch)),
    ] {
        let request = Request {
            target: Target { method: "GET", scheme: "https", authority: "api", path: "/" },
            authorization: Field::One(authorization.as_bytes()),
            evidence: Evidence {
                peer_certificate: PeerCertificate::Sha256(shown),
                ..Evidence::default()
            },
            ..Request::default()
        };
        let (rules, sources) = (&made.installation.rules, &made.installation);
        sources.issuers[0].keys.shared().tried().await;
        let checker = Checker::new(Arc::clone(&clock));
        let verdict = checker.explain_with(rules, sources, &request, None).await;
        assert_eq!(verdict.outcome, expected, "{:?}", verdict.facts.explanation);
    }
}

/// What one edit of a token or of the issuer makes of the configuration.
struct Case {
    what: &'static str,
    typ: Option<&'static str>,
    claims: Value,
    more: &'static [&'static str],
    /// Lines that are there, without their reasons.
    lines: &'static [&'static str],
    /// What is said of them.
    told: &'static str,
}

fn case(what: &'static str, claims: Value, lines: &'static [&'static str]) -> Case {
    Case { what, typ: Some("at+jwt"), claims, more: &[], lines, told: "" }
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test]
async fn each_shape_of_a_token_has_its_lines() {
    let world = World::new().await;
    let issuer = world.provider.issuer();
    for Case { what, typ, claims, more, lines, told } in [
        case("of RFC 9068, unbound", json!({}), &["audiences: [https://api.example.com]", EITHER]),
        Case { told: "bound to nothing", ..case("unbound", json!({}), &[EITHER]) },
        case(
            "bound to a certificate",
            json!({"cnf": {"x5t#S256": X5T}}),
            &["sender_constraint: certificate"],
        ),
        case("bound to a key", json!({"cnf": {"jkt": X5T}}), &["sender_constraint: dpop"]),
        case(
            "bound to both",
            json!({"cnf": {"jkt": X5T, "x5t#S256": X5T}}),
            &["sender_constraint: certificate"],
        ),
        case("bound to what nobody knows", json!({"cnf": {"kid": "x"}}), &[EITHER]),
        Case { typ: Some("JWT"), ..case("JWT", json!({}), &["token_types: [jwt]"]) },
        Case { typ: None, ..case("no type", json!({}), &["token_types: [absent]"]) },
        case(
            "the client in cid",
            json!({"client_id": null, "cid": "app"}),
            &["claim_names: {client_id: [client_id, azp, cid]}"],
        ),
        case("the scope in scp", json!({"scp": ["a b"]}), &["claim_names: {scope: [scope, scp]}"]),
        case(
            "both",
            json!({"client_id": null, "appid": "app", "scp": "a"}),
            &["claim_names: {client_id: [client_id, azp, appid], scope: [scope, scp]}"],
        ),
        case(
            "its own client beside the API",
            json!({"aud": ["app", API]}),
            &["audiences: [https://api.example.com]"],
        ),
        Case {
            told: "several",
            ..case("several audiences", json!({"aud": [API, "https://other.example.com"]}), &[])
        },
        Case {
            told: "\"gateway\" is no URI",
            ..case(
                "a URI beside the names of clients",
                json!({"aud": ["gateway", API, "account"]}),
                &["audiences: [https://api.example.com]"],
            )
        },
        Case {
            told: "several",
            ..case("several names", json!({"aud": ["gateway", "orders"]}), &[])
        },
        Case { told: "the client itself", ..case("only the client", json!({"aud": "app"}), &[]) },
        Case { told: "Keycloak", ..case("only the account", json!({"aud": "account"}), &[]) },
        Case {
            told: "`allow_missing_audience` is not written",
            ..case("no audience", json!({"aud": null}), &[])
        },
        Case {
            told: "`allow_missing_audience` is not written",
            ..case("an empty audience", json!({"aud": []}), &[])
        },
        Case {
            more: &["--audience", "https://mine.example.com"],
            told: "will be refused",
            ..case(
                "another audience than that of the operator",
                json!({}),
                &["audiences: [https://mine.example.com]"],
            )
        },
        Case {
            more: &["--audience", API],
            ..case(
                "several, of which the operator names one",
                json!({"aud": [API, "other"]}),
                &["audiences: [https://api.example.com]"],
            )
        },
        Case {
            more: &["--provider", "cognito"],
            typ: None,
            ..case(
                "Cognito",
                json!({"aud": null, "token_use": "access"}),
                &["provider: cognito", "audiences: [app]"],
            )
        },
        Case {
            more: &["--provider", "cognito"],
            typ: None,
            ..case(
                "Cognito with a resource",
                json!({"token_use": "access"}),
                &["audiences: [https://api.example.com]", "audience_claim: aud"],
            )
        },
        Case {
            more: &["--provider", "duende"],
            typ: Some("JWT"),
            ..case("Duende by JWT", json!({}), &["token_types: [jwt]"])
        },
    ] {
        let token = world.signer.sign(typ, &claims_of(&issuer, &claims));
        let ended = init(&world, &issuer, &token, more).await;
        assert_eq!(ended.code, 0, "{what} {ended:?}");
        for line in lines {
            let found = ended
                .stdout
                .lines()
                .any(|it| it.trim_start_matches([' ', '-']).starts_with(&format!("{line}  # ")));
            assert!(found, "{what}: {line} is not in\n{}", ended.stdout);
        }
        assert!(ended.stdout.contains(told), "{what}: {told} is not in\n{}", ended.stdout);
        if ended.stdout.contains("# audiences: ") {
            let problems = configured(&ended.stdout, world.folder.path()).unwrap_err();
            assert_eq!(problems[0].path, "issuers[0].audiences", "{what}");
            assert!(problems.len() == 1 && problems[0].message.contains("name the audiences"));
            assert!(ended.stderr.contains("`audiences` is yours to fill in"), "{}", ended.stderr);
        } else {
            valid(&world, &ended);
        }
    }
}

#[tokio::test]
async fn nothing_is_taken_from_what_is_no_access_token_of_the_issuer_that_lives() {
    let world = World::new().await;
    let issuer = world.provider.issuer();
    let claims = |more: Value| claims_of(&issuer, &more);
    let sign = |typ: &str, more: Value| world.signer.sign(typ, &claims(more));
    let bound = json!({"cnf": {"x5t#S256": X5T}});
    let logout = "http://schemas.openid.net/event/backchannel-logout";
    let good = sign("at+jwt", bound.clone());
    let same_name = Signer::new(Algorithm::RS256, "1");
    let hs256 = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims(json!({})),
        &EncodingKey::from_secret(b"secret"),
    );
    let unsigned = good.split('.').nth(1).map(|it| format!("eyJhbGciOiJub25lIn0.{it}.")).unwrap();
    for (token, told) in [
        (tampered(&good), "signature does not verify"),
        (same_name.sign("at+jwt", &claims(bound.clone())), "signature does not verify"),
        (
            Signer::new(Algorithm::RS256, "2").sign("at+jwt", &claims(bound)),
            "is not among the issuer's",
        ),
        (
            Signer::new(Algorithm::ES256, "1").sign("at+jwt", &claims(json!({}))),
            "is not among the issuer's",
        ),
        (hs256.unwrap(), "algorithm is none that is supported"),
        (unsigned, "algorithm is none that is supported"),
        (sign("JWT", json!({"at_hash": "x"})), "it is an ID token"),
        (sign("at+jwt", json!({"c_hash": "x"})), "it is an ID token"),
        (sign("JWT", json!({"client_id": null, "azp": "app", "nonce": "n"})), "it is an ID token"),
        (sign("JWT", json!({"client_id": null})), "nothing in it tells it from an ID token"),
        (sign("JWT", json!({"typ": "ID"})), "it is an ID token"),
        (sign("JWT", json!({"typ": "Refresh"})), "it is a refresh token"),
        (sign("logout+jwt", json!({})), "it is a logout token"),
        (sign("JWT", json!({"events": {logout: {}}})), "it is a logout token"),
        (sign("secevent+jwt", json!({"events": {"x": {}}})), "it is a security event token"),
        (sign("dpop+jwt", json!({})), "it is a DPoP proof"),
        (sign("vc+jwt", json!({})), "`typ` is"),
        (sign("at+jwt", json!({"exp": now() - 60})), "expired"),
        (sign("at+jwt", json!({"exp": null})), "`exp` is"),
        (sign("at+jwt", json!({"nbf": now() + 600})), "not later than"),
        (sign("at+jwt", json!({"iss": format!("{issuer}/")})), "its `iss` is"),
        (sign("at+jwt", json!({"iss": null})), "a required claim"),
        (sign("at+jwt", json!({"cnf": {"x5t#S256": "x"}})), "`cnf` is"),
        ("00D5g!AQ4AQ".to_owned(), "opaque"),
        (String::new(), "opaque"),
        ("a.b.c".to_owned(), "opaque"),
    ] {
        let ended = init(&world, &issuer, &token, &["--audience", API]).await;
        let line = ended.stderr.lines().find(|it| it.contains("nothing was taken")).unwrap_or("");
        assert!(line.contains(told), "{told} is not in {}", ended.stderr);
        assert!(ended.stdout.contains("nothing was taken from it"), "{}", ended.stdout);
        let nothing = world.run(&["init", "--issuer", &issuer, "--audience", API]).await;
        let settings = |it: &Ended| {
            let lines = it.stdout.lines().filter(|it| !it.trim_start().starts_with('#'));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(settings(&ended), settings(&nothing));
        valid(&world, &ended);
    }
}

#[tokio::test]
async fn an_id_token_of_a_provider_is_told_by_its_row() {
    let world = World::new().await;
    let issuer = as_keycloak(&world);
    for (typ, told) in [("ID", "it is an ID token"), ("Other", "`typ` is")] {
        let mut claims = keycloak_token();
        claims["typ"] = json!(typ);
        let token = world.signer.sign("JWT", &claims_of(&issuer, &claims));
        let ended = init(&world, &issuer, &token, &[]).await;
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
        assert!(ended.stdout.contains("\n    provider: keycloak  # "), "{}", ended.stdout);
        assert!(ended.stdout.contains("sender_constraint: either"), "{}", ended.stdout);
    }
}

#[tokio::test]
async fn what_others_chose_stays_what_it_is_and_where_it_is() {
    let mut world = World::new().await;
    let issuer = world.provider.issuer();
    for odd in [
        "a\"b",
        "a\\b",
        "a: b",
        "a #b",
        "a\n  sender_constraint: none",
        "]\nissuers: []",
        "'a'",
        "- a",
        "{a: b}",
        "*a",
        "&a",
        "!!int 7",
        "true",
        "null",
        "~",
        "0x7f",
        "1e3",
        "216",
        " a ",
        "\u{85}",
        "a\u{2028}b",
        "\u{feff}a",
        "\u{202e}a",
        "é\u{1f511}",
        "%A",
        "@a",
        "`a`",
        "<<",
        "...",
        "---",
    ] {
        world.signer = Signer::new(Algorithm::ES256, odd);
        world
            .provider
            .publish(&[world.signer.jwk().clone(), json!({"kty": odd, "kid": odd, "alg": odd})]);
        world.provider.edit_metadata(|it| it["token_endpoint"] = json!(odd));
        for claims in [
            json!({"aud": odd}),
            json!({"aud": [odd, "account"]}),
            json!({"cnf": {odd: odd}, "aud": odd}),
        ] {
            let token = world.signer.sign("at+jwt", &claims_of(&issuer, &claims));
            let ended = init(&world, &issuer, &token, &[]).await;
            let config = valid(&world, &ended);
            assert_eq!(config.rules.issuers[0].issuer.audiences, [odd], "{}", ended.stdout);
            assert_eq!(config.rules.policies.policies.len(), 1);
        }
        let given = format!("--audience={odd}");
        let given = world.run(&["init", "--issuer", &issuer, &given]).await;
        assert_eq!(valid(&world, &given).rules.issuers[0].issuer.audiences, [odd]);
        let several = claims_of(&issuer, &json!({"aud": [odd, "other"]}));
        let ended = init(&world, &issuer, &world.signer.sign("at+jwt", &several), &[]).await;
        let problems = configured(&ended.stdout, world.folder.path()).unwrap_err();
        assert_eq!((problems.len(), &*problems[0].path), (1, "issuers[0].audiences"));
    }
}

#[tokio::test]
async fn the_same_issuer_and_token_give_the_same_text() {
    let world = World::new().await;
    let issuer = as_keycloak(&world);
    let token = world.signer.sign("JWT", &claims_of(&issuer, &keycloak_token()));
    let first = init(&world, &issuer, &token, &[]).await;
    let again = init(&world, &issuer, &token, &[]).await;
    assert_eq!((first.stdout, first.stderr), (again.stdout, again.stderr));
}

#[tokio::test]
async fn an_issuer_that_cannot_be_read_is_named() {
    let world = World::new().await;
    let issuer = world.provider.issuer();
    let fails = async |issuer: &str, more: &[&str], told: &[&str]| {
        let ended = world.run(&[&["init", "--issuer", issuer], more].concat()).await;
        assert_eq!((ended.code, &*ended.stdout), (1, ""), "{issuer} {ended:?}");
        for told in told {
            assert!(ended.stderr.contains(told), "{told} is not in {}", ended.stderr);
        }
    };
    fails("http://as.example.com", &[], &["http://as.example.com", "allow_http"]).await;
    fails("as.example.com", &[], &["as.example.com"]).await;
    fails("https://a\nb", &[], &["\"https://a\\nb\""]).await;
    fails(&format!("{issuer}/none"), &[], &[&format!("{issuer}/none")]).await;
    fails(&format!("{issuer}/"), &[], &[&format!("{issuer}/")]).await;
    fails(&issuer, &["--token", "missing"], &["missing"]).await;
    fails(&issuer, &["--ca-file", "missing"], &["missing"]).await;
    fails(&issuer, &["--audience", ""], &["--audience"]).await;
    world.provider.publish(&[json!({"kty": "oct", "kid": "odd", "k": "AA"})]);
    fails(&issuer, &[], &[&world.provider.jwks_uri(), "\"odd\""]).await;
    world.provider.edit_metadata(|it| it["jwks_uri"] = json!(null));
    fails(&issuer, &[], &[&issuer]).await;
    world.provider.go_down().await;
    fails(&issuer, &[], &[&issuer]).await;
    let usage = world.run(&["init", "--issuer", &issuer, "--provider", "none"]).await;
    assert_eq!(usage.code, 2, "{usage:?}");
}

#[tokio::test]
async fn without_a_token_the_metadata_and_the_keys_say_what_they_can() {
    let world = World::new().await;
    let issuer = as_keycloak(&world);
    let ended = world.run(&["init", "--issuer", &issuer]).await;
    is_sound(&ended, "");
    for line in
        ["    provider: keycloak  # ", "    # audiences: [", "    sender_constraint: either  # "]
    {
        assert!(ended.stdout.contains(&format!("\n{line}")), "{line}: {}", ended.stdout);
    }
    let key = Signer::new(Algorithm::ES384, "1");
    world.provider.publish(&[key.jwk().clone()]);
    let ended = world.run(&["init", "--issuer", &issuer, "--audience", API]).await;
    assert!(ended.stdout.contains("\n    algorithms: [ES384]  # "), "{}", ended.stdout);
    valid(&world, &ended);
}

#[tokio::test]
async fn an_opaque_token_leads_to_introspection() {
    let world = World::new().await;
    let issuer = world.provider.issuer();
    let endpoint = format!("{issuer}/introspect");
    world.provider.edit_metadata(|it| it["introspection_endpoint"] = json!(endpoint));
    let ended = init(&world, &issuer, "00D5g!AQ4AQ", &[]).await;
    assert!(ended.stdout.contains("    # introspection: {client_id: "), "{}", ended.stdout);
    assert!(ended.stdout.contains(&endpoint), "{}", ended.stdout);
}
