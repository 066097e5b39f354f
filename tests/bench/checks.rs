//! What a check costs in this process, from the bytes that Envoy sends to the bytes that it gets,
//! beside the bare signature verifications that it cannot do without.
//!
//! Rounds are interleaved and medians taken, so that a noisy machine disturbs all rows alike. The
//! figures to quote are the differences and ratios within one run.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a benchmark may panic and prints"
)]

#[path = "../support/proofs.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod proofs;
#[path = "../support/tokens.rs"]
#[expect(unreachable_pub, dead_code, reason = "shared between tests")]
mod tokens;

use envoy_types::pb::envoy::service::auth::v3 as auth;
use jsonwebtoken::Algorithm as Signing;
use keybound::answer::Answer;
use keybound::check::{Checker, Dpop, Rules};
use keybound::clock::{Clock, ManualClock, UnixTime};
use keybound::config;
use keybound::front::ext_authz::{encode, grpc, wire};
use keybound::jose::algorithm::Algorithm;
use keybound::jose::jws::Signed;
use keybound::jose::key::{VerifyingKey, thumbprint};
use keybound::jose::thumbprint::Thumbprint;
use keybound::state::jwks;
use keybound::state::token_cache::TokenCache;
use proofs::prove;
use prost::Message;
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokens::Signer;

const NOW: i64 = 1_800_000_000;
const ROUNDS: usize = 9;
const EACH: usize = 2000;

const CONFIGURATION: &str = "
issuers:
- issuer: https://as.example.com
  audiences: [https://api.example.com]
  algorithms: [ES256, RS256]
  keys: {jwks_file: jwks.json}
policies:
- {name: api, sender_constraint: either, scopes: [read]}
limits: {token_cache_entries: 100000}
";

/// Requests that are checked in turn, and how many of them one round takes.
struct Case {
    name: &'static str,
    requests: Vec<Vec<u8>>,
    next: usize,
    allowed: bool,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let (issuer, rsa) = (Signer::new(Signing::ES256, "ec"), Signer::new(Signing::RS256, "rsa"));
    let client = Signer::new(Signing::ES256, "client");
    let (rules, checker) = service(&[&issuer, &rsa]).await;
    let certificate = rcgen::generate_simple_self_signed(vec![]).unwrap().cert.der().to_vec();
    let x5t = json!({"x5t#S256": Thumbprint::of(&certificate).to_base64url()});
    let jkt = thumbprint(client.jwk().as_object().unwrap()).unwrap().to_base64url();
    let token = |signer: &Signer, sub: usize, cnf: &Value| {
        let claims = json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com", "exp": NOW + 300,
            "iat": NOW, "sub": format!("user-{sub}"), "client_id": "app", "scope": "read write",
            "cnf": cnf,
        });
        signer.sign("at+jwt", &claims)
    };
    let bound =
        |signer: &Signer, sub| request("Bearer", &token(signer, sub, &x5t), &certificate, None);
    let fresh = ROUNDS * EACH;
    let dpop = token(&issuer, 0, &json!({"jkt": jkt}));
    let proofs = (0..fresh).map(|jti| {
        let claims = json!({
            "jti": jti.to_string(), "htm": "GET", "htu": "https://api.example.com/v1/things",
            "iat": NOW, "ath": Thumbprint::of(dpop.as_bytes()).to_base64url(),
        });
        request("DPoP", &dpop, &[], Some(&prove(&client, &claims)))
    });
    let stolen = request("Bearer", &token(&issuer, 0, &x5t), b"0\0", None);
    let mut cases = [
        case("certificate-bound, token seen before", true, (0..EACH).map(|it| bound(&issuer, it))),
        case(
            "certificate-bound, new ES256 token",
            true,
            (EACH..EACH + fresh).map(|it| bound(&issuer, it)),
        ),
        case("certificate-bound, new RS256 token", true, (0..fresh).map(|it| bound(&rsa, it))),
        case("DPoP, token seen before, new proof", true, proofs),
        case("stolen token, no certificate", false, std::iter::once(stolen)),
    ];
    let es256 = bare(&issuer, &token(&issuer, 0, &x5t), Algorithm::ES256);
    let rs256 = bare(&rsa, &token(&rsa, 0, &x5t), Algorithm::RS256);
    for place in [0, 3] {
        measure(&mut cases[place], &rules, &checker, 1).await;
        cases[place].next = usize::from(place == 3);
    }
    warm(&mut cases[0], &rules, &checker).await;

    let mut times = vec![vec![]; cases.len() + 2];
    for _ in 0..ROUNDS {
        for (case, times) in cases.iter_mut().zip(&mut times) {
            let each = if case.name.starts_with("DPoP") { EACH - 1 } else { EACH };
            times.push(measure(case, &rules, &checker, each).await);
        }
        let place = cases.len();
        times[place].push(repeat(&es256));
        times[place + 1].push(repeat(&rs256));
    }
    let mut medians: Vec<f64> = times.iter_mut().map(|it| median(it)).collect();
    let (rs256, es256) = (medians.pop().unwrap(), medians.pop().unwrap());
    println!("{:38} {:>10} {:>22}", "", "µs", "beyond its signature");
    println!("{:38} {es256:>10.1}", "bare ES256 verification");
    println!("{:38} {rs256:>10.1}", "bare RS256 verification");
    for (case, median) in cases.iter().zip(&medians) {
        let signature = match case.name {
            it if it.contains("ES256") || it.contains("DPoP") => es256,
            it if it.contains("RS256") => rs256,
            _ => 0.0,
        };
        println!("{:38} {median:>10.1} {:>22.1}", case.name, median - signature);
    }
    println!("DPoP check / bare ES256 verification: {:.2}", medians[3] / es256);
}

fn case(name: &'static str, allowed: bool, requests: impl Iterator<Item = Vec<u8>>) -> Case {
    Case { name, requests: requests.collect(), next: 0, allowed }
}

async fn service(signers: &[&Signer]) -> (Rules, Checker) {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<&Value> = signers.iter().map(|it| it.jwk()).collect();
    std::fs::write(folder.path().join("jwks.json"), json!({ "keys": keys }).to_string()).unwrap();
    let config = config::from_str(CONFIGURATION, folder.path()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(UnixTime::from_secs(NOW)));
    let runtime = tokio::runtime::Handle::current();
    let keys = jwks::start_all(&config.policies.issuers, &[], &clock, &runtime).unwrap();
    for keys in &keys {
        keys.ready().await;
    }
    let dpop = Dpop::start(&config.dpop.replay, None, &runtime).unwrap();
    let cache = Arc::new(TokenCache::new(config.policies.limits.token_cache));
    (Rules::new(config.policies, keys, vec![None], cache, dpop), Checker::new(clock))
}

fn request(scheme: &str, token: &str, certificate: &[u8], proof: Option<&str>) -> Vec<u8> {
    let mut request = auth::CheckRequest::default();
    let attributes = request.attributes.get_or_insert_default();
    attributes.source.get_or_insert_default().certificate = pem(certificate);
    let http = attributes.request.get_or_insert_default().http.get_or_insert_default();
    http.method = "GET".into();
    http.scheme = "https".into();
    http.host = "api.example.com".into();
    http.path = "/v1/things?x=1".into();
    http.headers.insert("authorization".into(), format!("{scheme} {token}"));
    for name in
        ["accept", "user-agent", "x-request-id", "x-forwarded-for", "cookie", "accept-encoding"]
    {
        http.headers.insert(name.into(), "a value of a usual length, more or less".into());
    }
    http.headers.extend(proof.map(|it| ("dpop".to_owned(), it.to_owned())));
    request.encode_to_vec()
}

fn pem(der: &[u8]) -> String {
    use base64::Engine;
    if der.len() < 3 {
        return String::new();
    }
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|it| str::from_utf8(it).unwrap()).collect();
    let text = lines.join("\n");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    pem.replace(' ', "%20").replace('\n', "%0A").replace('+', "%2B").replace('/', "%2F")
}

/// A verification of the token's signature and nothing else.
fn bare(issuer: &Signer, token: &str, algorithm: Algorithm) -> impl Fn() + use<> {
    let key = VerifyingKey::from_jwk(issuer.jwk().as_object().unwrap()).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    assert!(Signed::parse(token.as_bytes()).is_ok());
    let signature = keybound::jose::base64url::decode(signature.as_bytes()).unwrap();
    let signed = signed.to_owned();
    move || assert!(key.verifies(algorithm, black_box(signed.as_bytes()), &signature))
}

fn repeat(work: &impl Fn()) -> f64 {
    let start = Instant::now();
    for _ in 0..EACH {
        work();
    }
    per_call(start.elapsed(), EACH)
}

async fn warm(case: &mut Case, rules: &Rules, checker: &Checker) {
    measure(case, rules, checker, EACH).await;
    case.next = 0;
}

async fn measure(case: &mut Case, rules: &Rules, checker: &Checker, times: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..times {
        let message = &case.requests[case.next % case.requests.len()];
        case.next += 1;
        let request = wire::read(message, None).unwrap();
        let verdict = checker.check(rules, &request).await;
        assert_eq!(verdict.outcome.is_ok(), case.allowed, "{}: {:?}", case.name, verdict.outcome);
        let answer = Answer::of(&verdict, &rules.policies, Some(&request));
        black_box(grpc::framed(|it| encode::response(&answer, it)));
    }
    per_call(start.elapsed(), times)
}

fn per_call(elapsed: Duration, calls: usize) -> f64 {
    elapsed.as_secs_f64() * 1e6 / f64::from(u32::try_from(calls).unwrap())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
