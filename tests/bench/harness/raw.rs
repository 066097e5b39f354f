//! What the verification of a signature costs by itself, in CPU time of this thread.

use super::load::cpu_nanos;
use super::tokens::Signer;
use jsonwebtoken::Algorithm as Signing;
use keybound_core::jose::Algorithm;
use keybound_core::jose::VerifyingKey;
use keybound_core::jose::base64url;
use serde_json::json;
use std::hint::black_box;

const EACH: u32 = 20_000;

pub(super) fn measure() {
    let figures =
        [("RS256", Signing::RS256, Algorithm::RS256), ("ES256", Signing::ES256, Algorithm::ES256)]
            .map(|(name, signing, algorithm)| (name.to_owned(), json!(micros(signing, algorithm))));
    println!("{}", serde_json::Value::Object(figures.into_iter().collect()));
}

fn micros(signing: Signing, algorithm: Algorithm) -> f64 {
    let issuer = Signer::new(signing, "key");
    let token = issuer.sign("at+jwt", &json!({"padding": "x".repeat(600)}));
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let signature = base64url::decode(signature.as_bytes()).unwrap();
    let key = VerifyingKey::from_jwk(issuer.jwk().as_object().unwrap()).unwrap();
    let before = cpu_nanos("self");
    for _ in 0..EACH {
        assert!(key.verifies(algorithm, black_box(signed.as_bytes()), &signature));
    }
    (cpu_nanos("self") - before) as f64 / 1e3 / f64::from(EACH)
}
