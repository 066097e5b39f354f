//! What outlives a reload: for every key of the configuration, what becomes of all that is held
//! when it changes while the issuer is down. What is lost is told, or is what the change asks for.

use crate::support::configured::configured;
use crate::support::identity_provider::IdentityProvider;
use crate::support::introspection_endpoint::{IntrospectionEndpoint, Reply};
use crate::support::tokens::Signer;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, FixedClock};
use keybound::config;
use keybound::installation::{Checker, Installation, Made};
use keybound_core::oauth::ProofId;
use keybound_core::{Field, Request, Target, UnixTime, Use};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// All that a reload may lose.
const HELD: [&str; 6] = ["keys", "tokens", "answers", "proofs", "nonces", "events"];

/// What changes, and what of the things that are held does not outlive it.
struct Row {
    key: &'static str,
    base: Edit,
    edit: Edit,
    lost: Vec<&'static str>,
    /// The change asks for no less, so that nobody need be told.
    goes_without_saying: bool,
}

type Edit = Box<dyn Fn(&mut Value, &World)>;

/// Everything outlives a change of `key`, by `edit`.
fn row(key: &'static str, edit: impl Fn(&mut Value, &World) + 'static) -> Row {
    let (base, edit) = (Box::new(|_: &mut Value, _: &World| ()), Box::new(edit));
    Row { key, base, edit, lost: vec![], goes_without_saying: false }
}

/// Everything outlives that `key`, where it is at `pointer`, becomes `value`.
fn set(key: &'static str, pointer: &'static str, value: Value) -> Row {
    row(key, move |it, _| put(it, pointer, value.clone()))
}

impl Row {
    /// The configuration that is changed is another than the usual one.
    fn from(self, base: impl Fn(&mut Value, &World) + 'static) -> Self {
        Self { base: Box::new(base), ..self }
    }

    /// These are lost, and it is told.
    fn losing(self, lost: &[&'static str]) -> Self {
        Self { lost: lost.to_vec(), ..self }
    }

    /// JWTs are verified once more, by keys that are at hand.
    fn verified_anew(self) -> Self {
        self.changing(&["tokens"])
    }

    /// These are lost, since the change asks for it.
    fn changing(self, lost: &[&'static str]) -> Self {
        Self { lost: lost.to_vec(), goes_without_saying: true, ..self }
    }
}

/// Puts `value` at `pointer`, and all that it must be in.
fn put(document: &mut Value, pointer: &str, value: Value) {
    let mut place = document;
    for step in pointer.split('/').skip(1) {
        place = match place {
            Value::Array(list) => &mut list[step.parse::<usize>().unwrap()],
            Value::Object(members) => members.entry(step).or_insert(Value::Null),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                *place = Value::Object(Map::new());
                place.as_object_mut().unwrap().entry(step).or_insert(Value::Null)
            }
        };
    }
    *place = value;
}

fn redis(url_file: &'static str) -> impl Fn(&mut Value, &World) {
    move |it, _| put(it, "/dpop/replay", json!({"store": "redis", "url_file": url_file}))
}

/// The master that sentinels watch, and its sentinels.
fn watched(url_file: &'static str, sentinels: &'static str) -> impl Fn(&mut Value, &World) {
    move |it, _| {
        let replay =
            json!({"store": "redis", "url_file": url_file, "sentinel_url_file": sentinels});
        put(it, "/dpop/replay", replay);
    }
}

fn redis_identity(it: &mut Value, _: &World) {
    put(it, "/dpop/replay/certificate_file", json!("cert.pem"));
    put(it, "/dpop/replay/key_file", json!("key.pem"));
}

fn tls(it: &mut Value, _: &World) {
    put(it, "/listen/tls", json!({"certificate_file": "cert.pem", "key_file": "key.pem"}));
}

fn mutual_tls(it: &mut Value, world: &World) {
    tls(it, world);
    put(it, "/listen/tls/client_ca_file", json!("ca.pem"));
}

fn traces(it: &mut Value, _: &World) {
    put(it, "/telemetry/otlp/endpoint", json!("https://otel.example.com/v1/traces"));
}

fn by_header(it: &mut Value, _: &World) {
    let header = json!({"name": "client-cert", "format": "rfc9440"});
    put(it, "/client_certificate", json!({"source": "header", "header": header}));
}

fn by_certificate(it: &mut Value, _: &World) {
    let introspection = it["issuers"][0]["introspection"].as_object_mut().unwrap();
    introspection.remove("client_secret_file");
    introspection.insert("certificate_file".to_owned(), json!("cert.pem"));
    introspection.insert("key_file".to_owned(), json!("key.pem"));
}

fn by_private_key(it: &mut Value, _: &World) {
    let introspection = it["issuers"][0]["introspection"].as_object_mut().unwrap();
    introspection.remove("client_secret_file");
    introspection.insert("private_key_file".to_owned(), json!("key.pem"));
}

/// The keys of the issuer come from there, and from there alone.
fn source(it: &mut Value, name: &str, value: &Value) {
    it["issuers"][0]["keys"] = json!({ name: value });
}

fn rows() -> Vec<Row> {
    let of_issuers = [issuers(), introspection(), revocation(), security_events()];
    let others = [dpop(), policies(), listeners()];
    of_issuers.into_iter().chain(others).flatten().collect()
}

fn polled(it: &mut Value, _: &World) {
    let endpoint = "https://127.0.0.1:1/poll";
    let events = json!({"delivery": "poll", "endpoint": endpoint, "audience": "us"});
    put(it, "/issuers/0/revocation/events", events);
}

fn verified(it: &mut Value, world: &World) {
    polled(it, world);
    let endpoint = json!("https://127.0.0.1:1/verify");
    put(it, "/issuers/0/revocation/events/verification_endpoint", endpoint);
}

fn pushed(it: &mut Value, _: &World) {
    put(it, "/listen/events/address", json!("127.0.0.1:9104"));
    let events = json!({"delivery": "push", "bearer_token_file": "secret", "audience": "us"});
    put(it, "/issuers/0/revocation/events", events);
}

fn pushed_over_tls(it: &mut Value, world: &World) {
    pushed(it, world);
    let tls =
        json!({"certificate_file": "cert.pem", "key_file": "key.pem", "client_ca_file": "ca.pem"});
    put(it, "/listen/events/tls", tls);
}

fn security_events() -> Vec<Row> {
    let set_event = |key: &'static str, value: Value| {
        let pointer = key.replace("issuers[].", "/issuers/0/").replace('.', "/");
        row(key, move |it, _| put(it, &pointer, value.clone())).from(polled)
    };
    let events = |name: &str| -> &'static str {
        let key = format!("issuers[].revocation.events.{name}");
        Box::leak(key.into_boxed_str())
    };
    vec![
        row(events("delivery"), pushed).from(polled),
        set_event(events("endpoint"), json!("https://127.0.0.1:2/poll")),
        set_event(events("audience"), json!("others")),
        set_event(events("bearer_token_file"), json!("secret")),
        set_event(events("issuer"), json!("https://events.example.com")).losing(&["events"]),
        set_event(events("jwks_uri"), json!("https://127.0.0.1:1/jwks")),
        set_event(events("poll_interval"), json!("9s")),
        set_event(events("keep"), json!("1h")),
        set_event(events("capacity"), json!(5)),
        set_event(events("snapshot_file"), json!("events")),
        set_event(events("verification_endpoint"), json!("https://127.0.0.1:1/verify")),
        set_event(events("stream_id"), json!("s")).from(verified),
        set_event(events("verification_token_file"), json!("secret")).from(verified),
        // Until it has been read, nothing is known of what other replicas were told.
        set_event(events("store"), json!("redis"))
            .from(|it, world| {
                polled(it, world);
                redis("redis")(it, world);
            })
            .losing(&["tokens", "answers", "events"]),
    ]
}

fn issuers() -> Vec<Row> {
    let lost = ["keys", "tokens"];
    vec![
        set("issuers[].algorithms", "/issuers/0/algorithms", json!(["ES256", "RS256"]))
            .verified_anew(),
        set("issuers[].audiences", "/issuers/0/audiences", json!(["api", "more"])).verified_anew(),
        set("issuers[].token_types", "/issuers/0/token_types", json!(["at+jwt", "JWT"]))
            .verified_anew(),
        set("issuers[].provider", "/issuers/0/provider", json!("keycloak")).verified_anew(),
        row("issuers[].tenants", |it, _| {
            it["issuers"][0]["tenants"] = json!(["a"]);
            it["issuers"][0]["issuer"] = json!("https://as.example.com/{tenantid}");
        })
        .changing(&["keys", "tokens", "answers"]),
        set("issuers[].audience_claim", "/issuers/0/audience_claim", json!("client_id"))
            .changing(&["tokens", "answers"]),
        set("issuers[].allow_missing_audience", "/issuers/0/allow_missing_audience", json!(true))
            .verified_anew(),
        set("issuers[].claim_names.client_id", "/issuers/0/claim_names/client_id", json!(["cid"]))
            .verified_anew(),
        set("issuers[].claim_names.scope", "/issuers/0/claim_names/scope", json!(["scp"]))
            .verified_anew(),
        set("issuers[].clock_leeway", "/issuers/0/clock_leeway", json!("31s")).verified_anew(),
        set("issuers[].allow_http", "/issuers/0/allow_http", json!(true)),
        set("issuers[].allow_http", "/issuers/0/allow_http", json!(false))
            .from(|it, _| put(it, "/issuers/0/allow_http", json!(true)))
            .losing(&lost),
        set("issuers[].ca_file", "/issuers/0/ca_file", json!("ca.pem")),
        // Another issuer.
        set("issuers[].issuer", "/issuers/0/issuer", json!("https://other.example.com"))
            .changing(&["keys", "tokens", "answers"]),
        row("issuers[].keys.jwks_uri", |it, world| {
            source(it, "jwks_uri", &json!(format!("{}/elsewhere", world.provider.issuer())));
        })
        .losing(&lost),
        row("issuers[].keys.jwks_file", |it, _| source(it, "jwks_file", &json!("jwks.json")))
            .losing(&lost),
        row("issuers[].keys.discovery", |it, _| source(it, "discovery", &json!(true)))
            .from(|it, world| it["issuers"][0]["issuer"] = world.provider.issuer().into())
            .losing(&lost),
        set("issuers[].keys.refresh_min", "/issuers/0/keys/refresh_min", json!("29s")),
        set("issuers[].keys.refresh_max", "/issuers/0/keys/refresh_max", json!("2h")),
        set("issuers[].keys.refresh_default", "/issuers/0/keys/refresh_default", json!("6m")),
        set("issuers[].keys.max_stale", "/issuers/0/keys/max_stale", json!("48h")),
        set(
            "issuers[].keys.withdrawn_key_grace",
            "/issuers/0/keys/withdrawn_key_grace",
            json!("1m"),
        ),
        set(
            "issuers[].keys.unknown_kid_cooldown",
            "/issuers/0/keys/unknown_kid_cooldown",
            json!("9s"),
        ),
        set("issuers[].keys.fetch_timeout", "/issuers/0/keys/fetch_timeout", json!("4s")),
        set("issuers[].keys.max_bytes", "/issuers/0/keys/max_bytes", json!(1024)),
        set(
            "issuers[].keys.bearer_token_file",
            "/issuers/0/keys/bearer_token_file",
            json!("secret"),
        ),
        set("issuers[].keys.snapshot_file", "/issuers/0/keys/snapshot_file", json!("as.json")),
    ]
}

fn revocation() -> Vec<Row> {
    vec![
        set(
            "issuers[].revocation.denylist_file",
            "/issuers/0/revocation/denylist_file",
            json!("revoked.yaml"),
        )
        .verified_anew(),
        set(
            "issuers[].revocation.status_list",
            "/issuers/0/revocation/status_list",
            json!("if_present"),
        )
        .verified_anew(),
    ]
}

fn introspection() -> Vec<Row> {
    vec![
        row("issuers[].introspection.endpoint", |it, world| {
            put(
                it,
                "/issuers/0/introspection/endpoint",
                json!(format!("{}?x", world.endpoint.url())),
            );
        })
        .losing(&["answers"]),
        set(
            "issuers[].introspection.client_id",
            "/issuers/0/introspection/client_id",
            json!("other"),
        )
        .losing(&["answers"]),
        set(
            "issuers[].introspection.client_secret_file",
            "/issuers/0/introspection/client_secret_file",
            json!("other-secret"),
        ),
        row("issuers[].introspection.certificate_file", by_certificate),
        row("issuers[].introspection.key_file", by_certificate),
        set(
            "issuers[].introspection.authentication",
            "/issuers/0/introspection/authentication",
            json!("client_secret_post"),
        ),
        row("issuers[].introspection.private_key_file", by_private_key),
        set(
            "issuers[].introspection.private_key_id",
            "/issuers/0/introspection/private_key_id",
            json!("gateway-1"),
        )
        .from(by_private_key),
        // No JWT is at hand that could go upstream.
        set(
            "issuers[].introspection.forward_jwt",
            "/issuers/0/introspection/forward_jwt",
            json!(true),
        )
        .changing(&["answers"]),
        set(
            "issuers[].introspection.introspect",
            "/issuers/0/introspection/introspect",
            json!("always"),
        )
        .verified_anew(),
        set(
            "issuers[].introspection.claims_from",
            "/issuers/0/introspection/claims_from",
            json!("answer"),
        )
        .verified_anew(),
        set(
            "issuers[].introspection.allow_missing_audience",
            "/issuers/0/introspection/allow_missing_audience",
            json!(true),
        ),
        set("issuers[].introspection.timeout", "/issuers/0/introspection/timeout", json!("4s")),
        set(
            "issuers[].introspection.cache_ttl",
            "/issuers/0/introspection/cache_ttl",
            json!("50s"),
        ),
        set(
            "issuers[].introspection.negative_ttl",
            "/issuers/0/introspection/negative_ttl",
            json!("4s"),
        ),
        set(
            "issuers[].introspection.cache_entries",
            "/issuers/0/introspection/cache_entries",
            json!(9),
        ),
        set(
            "issuers[].introspection.concurrency",
            "/issuers/0/introspection/concurrency",
            json!(50),
        ),
    ]
}

fn dpop() -> Vec<Row> {
    vec![
        set("dpop.algorithms", "/dpop/algorithms", json!(["ES256"])),
        set("dpop.proof_window", "/dpop/proof_window", json!("50s")),
        set("dpop.proof_window", "/dpop/proof_window", json!("61s")).losing(&["proofs"]),
        set("dpop.time", "/dpop/time", json!("nonce"))
            .from(|it, _| put(it, "/dpop/nonce", json!("required")))
            .losing(&["proofs"]),
        row("dpop.time", |it, _| put(it, "/dpop/time", json!("iat")))
            .from(|it, _| put(it, "/dpop", json!({"nonce": "required", "time": "nonce"})))
            .losing(&["proofs"]),
        set("dpop.nonce", "/dpop/nonce", json!("required")),
        set("dpop.nonce_secret_file", "/dpop/nonce_secret_file", json!("nonce-secret"))
            .losing(&["nonces"]),
        // As README says to change it: the new secret behind the old one, and then before it.
        set("dpop.nonce_secret_file", "/dpop/nonce_secret_file", json!("nonce-secrets"))
            .from(|it, _| put(it, "/dpop/nonce_secret_file", json!("nonce-secret"))),
        set("dpop.replay.capacity", "/dpop/replay/capacity", json!(2000)),
        set("dpop.replay.per_key", "/dpop/replay/per_key", json!(7)),
        row("dpop.replay.store", redis("redis")).losing(&["proofs"]),
        row("dpop.replay.url_file", redis("redis-password")).from(redis("redis")),
        row("dpop.replay.url_file", redis("redis-elsewhere"))
            .from(redis("redis"))
            .losing(&["proofs"]),
        row("dpop.replay.sentinel_url_file", watched("master", "sentinels-more"))
            .from(watched("master", "sentinels")),
        row("dpop.replay.url_file", watched("master-password", "sentinels"))
            .from(watched("master", "sentinels")),
        row("dpop.replay.sentinel_url_file", watched("master", "sentinels-elsewhere"))
            .from(watched("master", "sentinels"))
            .losing(&["proofs"]),
        row("dpop.replay.url_file", watched("master-other", "sentinels"))
            .from(watched("master", "sentinels"))
            .losing(&["proofs"]),
        row("dpop.replay.sentinel_url_file", watched("master", "sentinels"))
            .from(redis("redis"))
            .losing(&["proofs"]),
        set("dpop.replay.timeout", "/dpop/replay/timeout", json!("60ms")).from(redis("redis")),
        set("dpop.replay.ca_file", "/dpop/replay/ca_file", json!("ca.pem")).from(redis("rediss")),
        row("dpop.replay.certificate_file", redis_identity).from(redis("rediss")),
        row("dpop.replay.key_file", redis_identity).from(redis("rediss")),
        set("dpop.replay.cluster", "/dpop/replay/cluster", json!(true))
            .from(redis("redis"))
            .losing(&["proofs"]),
    ]
}

fn policies() -> Vec<Row> {
    vec![
        set("policies[].name", "/policies/1/name", json!("renamed")),
        set("policies[].match.hosts", "/policies/1/match/hosts", json!(["other.example.com"])),
        set("policies[].match.path_prefix", "/policies/1/match/path_prefix", json!("/elsewhere")),
        set("policies[].match.methods", "/policies/1/match/methods", json!(["POST"])),
        row("policies[].public", |it, _| {
            let policy = it["policies"][1].as_object_mut().unwrap();
            policy.retain(|key, _| ["name", "match"].contains(&key.as_str()));
            policy.insert("public".to_owned(), json!(true));
        }),
        set("policies[].sender_constraint", "/policies/1/sender_constraint", json!("dpop")),
        set("policies[].issuers", "/policies/1/issuers", json!(["https://as.example.com"])),
        set("policies[].scopes", "/policies/1/scopes", json!(["read"])),
        // Its value was not kept of the tokens that were verified.
        set("policies[].claims", "/policies/1/claims", json!({"acr": ["high"]})).verified_anew(),
        set("policies[].authentication.acr", "/policies/1/authentication/acr", json!(["phr"]))
            .verified_anew(),
        set("policies[].authentication.max_age", "/policies/1/authentication/max_age", json!("5m"))
            .verified_anew(),
        set("policies[].origin", "/policies/1/origin", json!("https://api.example.com")),
        set("policies[].streams", "/policies/1/streams", json!("end_with_token")),
        set("policies[].mode", "/policies/1/mode", json!("report")),
        set("policies[].realm", "/policies/1/realm", json!("elsewhere")),
        set(
            "policies[].resource_metadata",
            "/policies/1/resource_metadata",
            json!("https://api/m"),
        ),
        set("policies[].resource.name", "/policies/1/resource/name", json!("Payments"))
            .from(|it, _| put(it, "/policies/1/origin", json!("https://api.example.com"))),
        set(
            "policies[].resource.documentation",
            "/policies/1/resource/documentation",
            json!("https://a/b"),
        )
        .from(|it, _| put(it, "/policies/1/origin", json!("https://api.example.com"))),
        set("policies[].allow_route_annotation", "/policies/1/allow_route_annotation", json!(true)),
        set("upstream.authorization", "/upstream/authorization", json!("remove")),
        set("upstream.headers", "/upstream/headers", json!({"x-tenant": "tenant"})).verified_anew(),
        set("upstream.remove", "/upstream/remove", json!(["x-other"])),
        set("limits.token_bytes", "/limits/token_bytes", json!(20_000)),
        set("limits.check_deadline", "/limits/check_deadline", json!("59s")),
        set("limits.concurrent_checks", "/limits/concurrent_checks", json!(50)),
        set("limits.token_cache_entries", "/limits/token_cache_entries", json!(500)),
        set("limits.token_cache_bytes", "/limits/token_cache_bytes", json!(10_000_000)),
        set("client_certificate.source", "/client_certificate/source", json!("xfcc")),
        set(
            "client_certificate.xfcc.behind",
            "/client_certificate/xfcc/behind",
            json!(["spiffe://a"]),
        )
        .from(|it, _| put(it, "/client_certificate/source", json!("xfcc"))),
        set("client_certificate.header.name", "/client_certificate/header/name", json!("x-cert"))
            .from(by_header),
        set(
            "client_certificate.header.format",
            "/client_certificate/header/format",
            json!("sha256-hex"),
        )
        .from(by_header),
    ]
}

/// They are no part of what decides.
fn listeners() -> Vec<Row> {
    vec![
        set("listen.ext_authz", "/listen/ext_authz", json!("127.0.0.1:9101")),
        set("listen.forward_auth", "/listen/forward_auth", json!("127.0.0.1:9102")),
        set("listen.admin", "/listen/admin", json!("127.0.0.1:9103")),
        set("listen.events.address", "/listen/events/address", json!("127.0.0.1:9105"))
            .from(pushed),
        row("listen.events.tls.certificate_file", pushed_over_tls).from(pushed),
        row("listen.events.tls.key_file", pushed_over_tls).from(pushed),
        row("listen.events.tls.client_ca_file", pushed_over_tls).from(pushed),
        set(
            "listen.events.tls.client_names",
            "/listen/events/tls/client_names",
            json!(["as.example.com"]),
        )
        .from(pushed_over_tls),
        row("listen.tls.certificate_file", tls),
        row("listen.tls.key_file", tls),
        row("listen.tls.client_ca_file", mutual_tls),
        set("listen.tls.client_names", "/listen/tls/client_names", json!(["proxy.example.com"]))
            .from(mutual_tls),
        set("forward_auth.flavour", "/forward_auth/flavour", json!("nginx")),
        set("forward_auth.path_prefix", "/forward_auth/path_prefix", json!("/check")),
        set("forward_auth.secret_file", "/forward_auth/secret_file", json!("other-secret")),
        set("forward_auth.secret_header", "/forward_auth/secret_header", json!("x-other")),
        row("telemetry.otlp.endpoint", traces),
        set("telemetry.otlp.ca_file", "/telemetry/otlp/ca_file", json!("ca.pem")).from(traces),
        set("telemetry.otlp.headers_file", "/telemetry/otlp/headers_file", json!("headers"))
            .from(traces),
        set("telemetry.otlp.sample_ratio", "/telemetry/otlp/sample_ratio", json!(0.5)).from(traces),
        set("telemetry.otlp.service_name", "/telemetry/otlp/service_name", json!("x")).from(traces),
        set("telemetry.log.allow_sample", "/telemetry/log/allow_sample", json!(0.5)),
    ]
}

/// An issuer that is up until it is not, and the files that configurations name.
struct World {
    provider: IdentityProvider,
    endpoint: IntrospectionEndpoint,
    signer: Signer,
    files: TempDir,
}

/// What is held under one configuration.
struct Held {
    installation: Installation,
    jwt: String,
    nonce: String,
}

impl World {
    async fn new() -> Self {
        let signer = Signer::new(Algorithm::ES256, "key-1");
        let provider = IdentityProvider::start(&[signer.jwk().clone()]).await;
        let answer = json!({"active": true, "aud": "api", "sub": "alice"});
        let endpoint = IntrospectionEndpoint::start(Reply::json(&answer)).await;
        let files = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["as.example.com".to_owned()]).unwrap();
        let other = Signer::new(Algorithm::ES256, "key-2");
        for (name, content) in [
            ("ca.pem", made.cert.pem()),
            ("cert.pem", made.cert.pem()),
            ("key.pem", made.signing_key.serialize_pem()),
            ("jwks.json", json!({"keys": [other.jwk()]}).to_string()),
            ("secret", "a-secret-of-the-proxy".to_owned()),
            ("other-secret", "another-secret-of-ours".to_owned()),
            ("nonce-secret", "0123456789abcdef0123456789abcdef".to_owned()),
            ("nonce-secrets", format!("{}\n{}", "f".repeat(32), "0123456789abcdef".repeat(2))),
            ("redis", "redis://us:old@127.0.0.1:1".to_owned()),
            ("redis-password", "redis://us:new@127.0.0.1:1".to_owned()),
            ("redis-elsewhere", "redis://us:old@127.0.0.1:2".to_owned()),
            ("rediss", "rediss://us:old@127.0.0.1:1".to_owned()),
            ("master", "redis://us:old@mymaster".to_owned()),
            ("master-password", "redis://us:new@mymaster".to_owned()),
            ("master-other", "redis://us:old@other".to_owned()),
            ("sentinels", "redis://127.0.0.1:1".to_owned()),
            ("sentinels-more", "redis://:new@127.0.0.1:2\nredis://:new@127.0.0.1:1".to_owned()),
            ("sentinels-elsewhere", "redis://127.0.0.1:2".to_owned()),
            ("headers", "x-key: 1\n".to_owned()),
            ("revoked.yaml", "revoked: []\n".to_owned()),
        ] {
            fs::write(files.path().join(name), content).unwrap();
        }
        Self { provider, endpoint, signer, files }
    }

    fn configuration(&self) -> Value {
        json!({
            "listen": {"forward_auth": "127.0.0.1:9002"},
            "forward_auth": {"flavour": "envoy", "secret_file": "secret"},
            "issuers": [{
                "issuer": "https://as.example.com",
                "audiences": ["api"],
                "keys": {"jwks_uri": self.provider.jwks_uri()},
                "introspection": {
                    "endpoint": self.endpoint.url(), "client_id": "gateway",
                    "client_secret_file": "secret", "timeout": "5s",
                },
            }],
            "dpop": {"nonce": "offered"},
            "policies": [
                {"name": "probe", "sender_constraint": "if_bound"},
                {"name": "other", "sender_constraint": "certificate"},
            ],
            // A machine that is busy with other tests.
            "limits": {"check_deadline": "60s"},
        })
    }

    fn make(&self, configuration: &Value, previous: Option<&Installation>) -> Made {
        let config = configured(&configuration.to_string(), self.files.path());
        let config = config.unwrap_or_else(|it| panic!("{it:?}: {configuration:#}"));
        let clock: Arc<dyn Clock> = Arc::new(FixedClock(NOW));
        Installation::start(config.rules, previous, &clock, &Handle::current()).unwrap()
    }

    /// What is held once each thing was had, before the issuer went down.
    async fn held(&self, configuration: &Value) -> Held {
        let installation = self.make(configuration, None).installation;
        installation.issuers[0].keys.ready().await;
        let claims = json!({
            "iss": configuration["issuers"][0]["issuer"], "aud": "api", "sub": "alice",
            "client_id": "app", "iat": NOW.as_secs(), "exp": NOW.as_secs().saturating_add(300),
            "jti": "1",
        });
        let jwt = self.signer.sign("at+jwt", &claims);
        assert!(is_allowed(&installation, &jwt).await);
        assert!(is_allowed(&installation, "opaque").await);
        // An error says that there is no Redis.
        let _recorded = installation.replay.record(&PROOF, expiry(), NOW).await;
        let nonce = installation.rules.nonces.issue(NOW);
        self.provider.go_down().await;
        self.endpoint.reply(Reply::status(500));
        Held { installation, jwt, nonce }
    }

    /// What is not to be had any more under the new rules.
    async fn lost(&self, held: &Held, made: &Made) -> Vec<&'static str> {
        let Made { installation, losses } = made;
        let keys = installation.issuers[0].keys.current().is_some_and(|it| it.knows("key-1"));
        let tokens = is_remembered(installation, &held.jwt).await;
        let calls = self.endpoint.calls();
        let answers = is_allowed(installation, "opaque").await && calls == self.endpoint.calls();
        let good_again = |it: &String| it.contains("good for longer now");
        let proofs = if losses.iter().any(good_again) {
            false
        } else if installation.replay.label() == "memory" {
            installation.replay.record(&PROOF, expiry(), NOW).await == Ok(Use::Repeat)
        } else {
            !losses.iter().any(|it| it.starts_with("dpop.replay"))
        };
        let nonces = installation.rules.nonces.check(&held.nonce, NOW).is_some();
        let events = !losses.iter().any(|it| it.contains("its events now come from another"));
        let had = [keys, tokens, answers, proofs, nonces, events];
        HELD.into_iter().zip(had).filter(|(_, had)| !had).map(|(name, _)| name).collect()
    }
}

const PROOF: ProofId = ProofId { key: [1; 32], jti: [2; 32] };

fn expiry() -> UnixTime {
    NOW.saturating_add(Duration::from_secs(60))
}

async fn explained(installation: &Installation, token: &str) -> (bool, bool) {
    let authorization = format!("Bearer {token}");
    let request = Request {
        policy: Some("probe"),
        target: Target { method: "GET", scheme: "https", authority: "api", path: "/" },
        authorization: Field::One(authorization.as_bytes()),
        ..Request::default()
    };
    let verdict = Checker::new(Arc::new(FixedClock(NOW)))
        .explain_with(&installation.rules, installation, &request, None)
        .await;
    let steps = verdict.facts.explanation.steps();
    (verdict.outcome.is_ok(), steps.iter().any(|it| it.finding.what == "memory"))
}

async fn is_allowed(installation: &Installation, token: &str) -> bool {
    explained(installation, token).await.0
}

/// Whether a JWT is allowed, and its signature needs no look.
async fn is_remembered(installation: &Installation, jwt: &str) -> bool {
    explained(installation, jwt).await == (true, true)
}

/// Every key of the schema that holds a value, with its place.
fn keys(schema: &Value, at: &str, root: &Value, found: &mut BTreeSet<String>) {
    let schema = resolved(schema, root);
    let items = schema.get("items").map(|it| resolved(it, root));
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        for (name, property) in properties {
            let dot = if at.is_empty() { "" } else { "." };
            keys(property, &format!("{at}{dot}{name}"), root, found);
        }
    } else if let Some(items) = items.filter(|it| it.get("properties").is_some()) {
        keys(items, &format!("{at}[]"), root, found);
    } else {
        found.insert(at.to_owned());
    }
}

fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(name) => root.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

#[test]
fn of_every_key_it_is_said_what_outlives_its_change() {
    let schema = config::schema();
    let mut known = BTreeSet::new();
    keys(&schema, "", &schema, &mut known);
    let said: BTreeSet<_> = rows().iter().map(|it| it.key.to_owned()).collect();
    assert_eq!(known.difference(&said).collect::<Vec<_>>(), Vec::<&String>::new(), "not said");
    assert_eq!(said.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "no keys");
}

#[tokio::test]
async fn all_that_is_held_outlives_a_reload_or_is_told_to_be_lost() {
    let mut wrong = vec![];
    for Row { key, base, edit, lost, goes_without_saying } in rows() {
        let world = World::new().await;
        let mut configuration = world.configuration();
        base(&mut configuration, &world);
        let held = world.held(&configuration).await;
        let before = configuration.clone();
        edit(&mut configuration, &world);
        assert_ne!(configuration, before, "{key}");
        let made = world.make(&configuration, Some(&held.installation));
        let found = world.lost(&held, &made).await;
        let told = !lost.is_empty() && !goes_without_saying;
        if found != lost || told == made.losses.is_empty() {
            wrong
                .push(format!("{key}: {found:?} is lost and not {lost:?}, told {:?}", made.losses));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
