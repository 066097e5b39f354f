//! Verification of a DPoP proof for a request and its token, by the numbered checks of RFC 9449
//! §4.3.

use super::access_token;
use super::credentials::Proof;
use crate::denial::Denial;
use crate::explanation::{Explanation, Finding};
use crate::jose::algorithm::{self, Algorithm};
use crate::jose::json::Object;
use crate::jose::jws::{Header, Unverified, Verified};
use crate::jose::key::PublicJwk;
use crate::jose::thumbprint::Thumbprint;
use crate::mismatches::Mismatches;
use crate::policy::{NonceDemand, ProofRules, ProofTime};
use crate::time::UnixTime;
use crate::uri::HttpUri;
use serde_json::Value;
use std::time::Duration;

/// What a proof must match.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    /// The method of the request.
    pub method: &'a str,
    /// The URI of the request.
    pub target: &'a HttpUri,
    /// The SHA-256 of the access token.
    pub ath: Thumbprint,
    /// The key to which that token is bound (`cnf.jkt`).
    pub bound_to: Thumbprint,
}

/// A proof that passed every check except the replay check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VerifiedProof {
    /// The identity of the proof.
    pub id: ProofId,
    /// When the proof expires. Its use must be remembered until then (RFC 9449 §11.1), and longer
    /// by the clock difference between replicas.
    pub until: UnixTime,
}

/// The identity of a proof: its key and its `jti`.
///
/// Both are hashes, so the size does not depend on the `jti` that a client chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProofId {
    /// The thumbprint of the key.
    pub key: [u8; 32],
    /// The SHA-256 of the `jti`.
    pub jti: [u8; 32],
}

/// Verifies a proof against what is expected, and records each check in `explanation`.
///
/// `admit_nonce` gets the proof's `nonce` and decides whether it is accepted (check 10), and until
/// when, if it is one of this server's. That there is only one proof (check 1) is checked by [`super::credentials::Credentials::read`]. The replay
/// check is left to the caller, as the last step.
pub(crate) fn verify(
    proof: Proof<'_>,
    expected: &Expected<'_>,
    rules: &ProofRules,
    now: UnixTime,
    admit_nonce: impl FnOnce(Option<&str>) -> Result<Option<UnixTime>, Denial>,
    explanation: &mut Explanation,
) -> Result<VerifiedProof, Denial> {
    let verified = signed_by_the_bound_key(proof, expected.bound_to, rules, explanation)?;
    // 3. The required claims.
    let claims = verified.claims();
    let Claims { jti, htm, htu, ath, iat, exp, nbf } = explanation
        .record(Claims::of(claims), |_| names(claims).wanting("jti, htm, htu, iat and ath"))?;
    for_the_method(htm, expected, explanation)?;
    at_the_target(htu, expected, explanation)?;
    let nonce_until = with_nonce(claims, rules.nonce, admit_nonce, explanation)?;
    let until = match rules.time {
        ProofTime::Nonce => timely_by_nonce(nonce_until, iat, explanation)?,
        ProofTime::Iat => {
            let until = timely(iat, rules.window, now, explanation)?;
            until.min(within_its_own_times(exp, nbf, rules.window, now, explanation)?)
        }
    };
    with_the_token(ath, expected, explanation)?;
    let id =
        ProofId { key: *expected.bound_to.octets(), jti: *Thumbprint::of(jti.as_bytes()).octets() };
    Ok(VerifiedProof { id, until })
}

/// Every demand on a proof, each on its own, for an explanation of its refusal.
pub(crate) fn read_on(
    proof: Proof<'_>,
    expected: &Expected<'_>,
    rules: &ProofRules,
    now: UnixTime,
    admit_nonce: impl FnOnce(Option<&str>) -> Result<Option<UnixTime>, Denial>,
    beside: &mut Mismatches,
) {
    let bound_to = expected.bound_to;
    let verified = beside.step(|it| signed_by_the_bound_key(proof, bound_to, rules, it));
    let Some(verified) = verified else { return };
    let claims = verified.claims();
    let read = beside.step(|it| {
        it.record_error(Claims::of(claims), || names(claims).wanting("jti, htm, htu, iat and ath"))
    });
    let Some(Claims { jti: _, htm, htu, ath, iat, exp, nbf }) = read else { return };
    beside.step(|it| for_the_method(htm, expected, it));
    beside.step(|it| at_the_target(htu, expected, it));
    let nonce = beside.step(|it| with_nonce(claims, rules.nonce, admit_nonce, it));
    match rules.time {
        // Without a nonce that is accepted, there is no time, and that is told already.
        ProofTime::Nonce => {
            nonce.and_then(|until| beside.step(|it| timely_by_nonce(until, iat, it)));
        }
        ProofTime::Iat => {
            beside.step(|it| timely(iat, rules.window, now, it));
            beside.step(|it| within_its_own_times(exp, nbf, rules.window, now, it));
        }
    }
    beside.step(|it| with_the_token(ath, expected, it));
}

/// 8. The method, which is case-sensitive.
fn for_the_method(
    htm: &str,
    expected: &Expected<'_>,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    explanation.demand(htm == expected.method, Denial::ProofMethodMismatch, || {
        Finding::new(PART, "8 htm", htm).wanting(expected.method)
    })
}

/// 9. The target, with both sides normalised.
fn at_the_target(
    htu: &str,
    expected: &Expected<'_>,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    let named = HttpUri::parse(htu);
    let same = named.as_ref() == Ok(expected.target);
    explanation.demand(same, Denial::ProofTargetMismatch, || {
        let named = named.as_ref().map_or("no http or https URI", HttpUri::as_str);
        Finding::new(PART, "9 htu", named).wanting(expected.target.as_str())
    })
}

/// 10. The nonce. Returns until when it is accepted, if it is one of this server's.
fn with_nonce(
    claims: &Object,
    demand: NonceDemand,
    admit: impl FnOnce(Option<&str>) -> Result<Option<UnixTime>, Denial>,
    explanation: &mut Explanation,
) -> Result<Option<UnixTime>, Denial> {
    let nonce = match claims.get("nonce") {
        None => admit(None),
        Some(Value::String(nonce)) => admit(Some(nonce)),
        Some(_) => Err(Denial::ProofMalformed),
    };
    explanation.record(nonce, |_| nonce_finding(claims.contains_key("nonce"), demand))
}

/// 11. The time. Returns when the proof expires by it.
fn timely(
    iat: UnixTime,
    window: Duration,
    now: UnixTime,
    explanation: &mut Explanation,
) -> Result<UnixTime, Denial> {
    let until = iat.saturating_add(window);
    let timely = now <= until && iat <= now.saturating_add(window);
    explanation.demand(timely, Denial::ProofStale, || {
        let wanted = format!("within {window:?} of {}", now.to_rfc3339());
        Finding::new(PART, "11 iat", iat.to_rfc3339()).wanting(wanted)
    })?;
    Ok(until)
}

/// 11, by the nonce: it tells when the proof was made, and the client's clock does not. Returns when
/// the proof expires by it.
fn timely_by_nonce(
    until: Option<UnixTime>,
    iat: UnixTime,
    explanation: &mut Explanation,
) -> Result<UnixTime, Denial> {
    explanation.record(until.ok_or(Denial::NonceRequired), |until| {
        let iat = iat.to_rfc3339();
        let found = match until {
            Some(until) => {
                format!("until {} by the nonce, whatever its iat, {iat}", until.to_rfc3339())
            }
            None => format!("no nonce, and its iat, {iat}, does not count"),
        };
        Finding::new(PART, "11 time", found).wanting("that of a nonce (dpop.time: nonce)")
    })
}

/// 12. The token.
fn with_the_token(
    ath: &str,
    expected: &Expected<'_>,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    if explanation.redacted().token_hash {
        explanation.note(|| Finding::new(PART, "12 ath", format!("{ath}: {NOT_COMPARED}")));
        return Ok(());
    }
    let same = Thumbprint::from_base64url(ath) == Some(expected.ath);
    explanation.demand(same, Denial::ProofTokenMismatch, || {
        let wanted = format!("{}, the SHA-256 of the token", expected.ath);
        Finding::new(PART, "12 ath", ath).wanting(wanted)
    })
}

/// Checks `exp` and `nbf` of a proof, if present, within the window (RFC 7519 §4.1.4, §4.1.5).
/// Returns when the proof expires by them.
fn within_its_own_times(
    exp: Option<UnixTime>,
    nbf: Option<UnixTime>,
    window: Duration,
    now: UnixTime,
    explanation: &mut Explanation,
) -> Result<UnixTime, Denial> {
    let until = exp.map_or(FOREVER, |it| it.saturating_add(window));
    if let Some(exp) = exp {
        explanation.demand(now < until, Denial::ProofStale, || {
            let wanted = format!("later than {:?} before {}", window, now.to_rfc3339());
            Finding::new(PART, "exp", exp.to_rfc3339()).wanting(wanted)
        })?;
    }
    if let Some(nbf) = nbf {
        explanation.demand(nbf <= now.saturating_add(window), Denial::ProofStale, || {
            let wanted = format!("at most {:?} after {}", window, now.to_rfc3339());
            Finding::new(PART, "nbf", nbf.to_rfc3339()).wanting(wanted)
        })?;
    }
    Ok(until)
}

/// The `exp` of a proof without one.
const FOREVER: UnixTime = UnixTime::from_millis(i64::MAX);

/// The required claims of a proof, and its optional times.
struct Claims<'a> {
    jti: &'a str,
    htm: &'a str,
    htu: &'a str,
    ath: &'a str,
    iat: UnixTime,
    exp: Option<UnixTime>,
    nbf: Option<UnixTime>,
}

impl<'a> Claims<'a> {
    fn of(claims: &'a Object) -> Result<Self, Denial> {
        let (jti, htm, htu) = (text(claims, "jti")?, text(claims, "htm")?, text(claims, "htu")?);
        let ath = text(claims, "ath")?;
        let iat = time(claims, "iat", f64::round)?.ok_or(Denial::ProofMalformed)?;
        let exp = time(claims, "exp", f64::floor)?;
        let nbf = time(claims, "nbf", f64::ceil)?;
        if jti.is_empty() {
            return Err(Denial::ProofMalformed);
        }
        Ok(Self { jti, htm, htu, ath, iat, exp, nbf })
    }
}

/// The names of the checks of a proof in an explanation; the numbers are those of RFC 9449 §4.3.
const PART: &str = "proof";

fn names(claims: &Object) -> Finding {
    let names: Vec<&str> = claims.keys().map(String::as_str).collect();
    Finding::new(PART, "3 claims", names.join(", "))
}

fn nonce_finding(is_there: bool, demand: NonceDemand) -> Finding {
    let wanted = match demand {
        NonceDemand::Off => "nothing",
        NonceDemand::Offered => "absent, or one of this server's that is not old",
        NonceDemand::Required => "one of this server's that is not old",
    };
    Finding::new(PART, "10 nonce", if is_there { "present" } else { "absent" }).wanting(wanted)
}

/// The verified claims of a proof that is signed with the key to which the token is bound.
fn signed_by_the_bound_key(
    proof: Proof<'_>,
    bound_to: Thumbprint,
    rules: &ProofRules,
    explanation: &mut Explanation,
) -> Result<Verified, Denial> {
    // 2. One well-formed JWT.
    let length = proof.as_bytes().len();
    let most = longest(&rules.algorithms);
    let jws = Some(proof.as_bytes()).filter(|it| it.len() <= most);
    let jws = jws.and_then(|it| Unverified::parse(it).ok()).ok_or(Denial::ProofMalformed);
    let jws = explanation.record(jws, |_| {
        Finding::new(PART, "2 form", format!("{length} bytes")).wanting(form(length, most))
    })?;
    let header = jws.header();
    // 4. The type.
    explanation.demand(header.is_type(TYPE), Denial::ProofMalformed, || {
        Finding::new(PART, "4 typ", header.typ.as_deref().unwrap_or("absent")).wanting(TYPE)
    })?;
    // 5. The algorithm.
    let algorithm = header
        .algorithm
        .filter(|it| rules.algorithms.contains(it))
        .ok_or(Denial::ProofAlgorithmForbidden);
    let algorithm = explanation.record(algorithm, |_| {
        Finding::new(PART, "5 alg", header.alg()).wanting(algorithm::one_of(&rules.algorithms))
    })?;
    let shown = explanation.record_error(shown_key(header), || {
        Finding::new(PART, "7 jwk", "absent or malformed").wanting("a public key")
    })?;
    // 12, brought forward. Verifying a signature is expensive and inventing one is free, so only
    // the bound key is tried.
    explanation.demand(shown.id() == bound_to, Denial::ProofKeyMismatch, || {
        let wanted = format!("{bound_to}, the token's cnf.jkt");
        Finding::new(PART, "12 key", shown.id().to_string()).wanting(wanted)
    })?;
    // 6. The signature, and 7, that the key is not a private one.
    let key = shown.key_for(algorithm).or(Err(Denial::ProofMalformed));
    let key = explanation.record(key, |key| {
        let found = if key.is_some() { "a public key" } else { "a private or unfit key" };
        Finding::new(PART, "7 jwk", found)
    })?;
    if explanation.redacted().proof {
        explanation.note(|| Finding::new(PART, "6 signature", REDACTED));
        return Ok(jws.taken_as_verified());
    }
    let verified = jws.verify(algorithm, [&key]).or(Err(Denial::ProofSignatureInvalid));
    let (verified, _) = explanation.record(verified, |it| {
        let found = if it.is_some() { "by that key" } else { "not by that key" };
        Finding::new(PART, "6 signature", found)
    })?;
    Ok(verified)
}

/// What a refused proof shows, for telling operators why it was refused.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// The thumbprint of its key.
    pub key: Option<Thumbprint>,
    /// Its `iat`.
    pub issued_at: Option<UnixTime>,
}

impl Shown {
    /// What `proof` shows, as far as it can be parsed.
    pub(crate) fn by(proof: Proof<'_>) -> Self {
        let jws = Some(proof.as_bytes()).filter(|it| it.len() <= LARGE_PROOF_BYTES);
        let Some(jws) = jws.and_then(|it| Unverified::parse(it).ok()) else {
            return Self::default();
        };
        let issued_at = jws.peek_issued_at().and_then(|it| access_token::time(it, f64::round).ok());
        Self { key: shown_key(jws.header()).ok().map(|it| it.id()), issued_at }
    }
}

/// The key in the header.
fn shown_key(header: &Header) -> Result<PublicJwk<'_>, Denial> {
    let Some(Value::Object(jwk)) = &header.jwk else { return Err(Denial::ProofMalformed) };
    PublicJwk::read(jwk).or(Err(Denial::ProofMalformed))
}

fn text<'a>(claims: &'a Object, name: &str) -> Result<&'a str, Denial> {
    claims.get(name).and_then(Value::as_str).ok_or(Denial::ProofMalformed)
}

/// A time, if present, rounded down to a millisecond.
fn time(claims: &Object, name: &str, round: fn(f64) -> f64) -> Result<Option<UnixTime>, Denial> {
    let time = claims.get(name).map(|it| access_token::time(it, round)).transpose();
    time.or(Err(Denial::ProofMalformed))
}

/// The longest proof accepted, in bytes, where these algorithms are.
fn longest(algorithms: &[Algorithm]) -> usize {
    if algorithms.iter().any(|it| it.is_large()) { LARGE_PROOF_BYTES } else { PROOF_BYTES }
}

/// The form of a proof in words; for one that is longer than `most`, also what would make room.
fn form(length: usize, most: usize) -> String {
    let form = format!("a signed JWT of at most {most} bytes");
    if length <= most || LARGE_PROOF_BYTES < length {
        return form;
    }
    format!("{form} ({LARGE_PROOF_BYTES} where dpop.algorithms names ML-DSA)")
}

/// A proof with an RSA-4096 key and a URI of 2000 characters takes less than half of it.
const PROOF_BYTES: usize = 8 * 1024;

/// A proof with ML-DSA-87 takes 11,331 bytes and what its URI and `jti` add, since the key in its header
/// is encoded twice.
const LARGE_PROOF_BYTES: usize = 12 * 1024;

/// Instead of a signature that is no longer there.
pub(crate) const REDACTED: &str = "redacted when the request was kept: taken as verified";

const NOT_COMPARED: &str = "not compared, because the token was redacted when the request was kept";

/// The `typ` of a proof.
const TYPE: &str = "dpop+jwt";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::base64url;
    use crate::jose::key;
    use crate::oauth::credentials::Credentials;
    use crate::policy::NonceDemand;
    use crate::request::{Field, Request};
    use crate::uri::Origin;
    use crate::words::Words;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, ML_DSA_44_SIGNING,
        ML_DSA_65_SIGNING, ML_DSA_87_SIGNING, PqdsaKeyPair, PqdsaSigningAlgorithm,
    };
    use serde_json::json;
    use std::collections::HashSet;
    use std::sync::LazyLock;

    const NOW: i64 = 1_800_000_000;
    const WINDOW: i64 = 60;
    const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";

    static MINE: LazyLock<EcdsaKeyPair> =
        LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
    static OTHER: LazyLock<EcdsaKeyPair> =
        LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());

    fn jwk(pair: &EcdsaKeyPair) -> Value {
        let point = pair.public_key().as_ref();
        let (x, y) = point.split_at(1).1.split_at(32);
        json!({"kty": "EC", "crv": "P-256",
            "x": base64url::encode(x), "y": base64url::encode(y)})
    }

    fn thumbprint(pair: &EcdsaKeyPair) -> Thumbprint {
        key::thumbprint(jwk(pair).as_object().unwrap()).unwrap()
    }

    fn good() -> Value {
        json!({
            "header": {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk(&MINE)},
            "claims": {
                "jti": "e1j3V_bKic8-LAEB", "htm": "GET", "iat": NOW,
                "htu": "https://resource.example.org/protectedresource",
                "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
            },
        })
    }

    fn signed(parts: &Value, pair: &EcdsaKeyPair) -> String {
        let input = [&parts["header"], &parts["claims"]]
            .map(|it| base64url::encode(it.to_string().as_bytes()))
            .join(".");
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", base64url::encode(signature.as_ref()))
    }

    fn rules() -> ProofRules {
        ProofRules {
            algorithms: vec![Algorithm::ES256, Algorithm::EdDSA],
            time: ProofTime::Iat,
            window: Duration::from_secs(60),
            nonce: NonceDemand::Off,
        }
    }

    /// Verifies a proof for a GET of the resource with the token.
    fn verified(
        proof: &str,
        bound_to: Thumbprint,
        now: UnixTime,
        admit_nonce: impl FnOnce(Option<&str>) -> Result<Option<UnixTime>, Denial>,
    ) -> Result<VerifiedProof, Denial> {
        verified_under(&rules(), proof, bound_to, now, admit_nonce)
    }

    /// The same, under other rules.
    fn verified_under(
        rules: &ProofRules,
        proof: &str,
        bound_to: Thumbprint,
        now: UnixTime,
        admit_nonce: impl FnOnce(Option<&str>) -> Result<Option<UnixTime>, Denial>,
    ) -> Result<VerifiedProof, Denial> {
        explained(rules, proof, bound_to, now, admit_nonce, &mut Explanation::default())
    }

    /// The same, with an explanation.
    fn explained(
        rules: &ProofRules,
        proof: &str,
        bound_to: Thumbprint,
        now: UnixTime,
        admit_nonce: impl FnOnce(Option<&str>) -> Result<Option<UnixTime>, Denial>,
        explanation: &mut Explanation,
    ) -> Result<VerifiedProof, Denial> {
        let authorization = format!("DPoP {TOKEN}");
        let credentials = Credentials::read(&Request {
            authorization: Field::One(authorization.as_bytes()),
            proof: Field::One(proof.as_bytes()),
            ..Request::default()
        })?;
        let origin = Origin::new("https", "resource.example.org").unwrap();
        let expected = Expected {
            method: "GET",
            target: &HttpUri::new(&origin, "/protectedresource?page=2").unwrap(),
            ath: credentials.token_hash(),
            bound_to,
        };
        let proof = credentials.proof.unwrap();
        verify(proof, &expected, rules, now, admit_nonce, explanation)
    }

    fn outcome(proof: &str) -> Result<(), Denial> {
        let now = UnixTime::from_secs(NOW);
        verified(proof, thumbprint(&MINE), now, |_| Ok(None)).map(drop)
    }

    /// The outcome for a good proof after one edit, made before it is signed.
    #[track_caller]
    fn check(edit: impl FnOnce(&mut Value), expected: Result<(), Denial>) {
        let mut parts = good();
        edit(&mut parts);
        assert_eq!(outcome(&signed(&parts, &MINE)), expected, "{parts}");
    }

    fn remove(parts: &mut Value, part: &str, name: &str) {
        parts[part].as_object_mut().unwrap().remove(name).unwrap();
    }

    #[test]
    fn the_example_of_the_rfc_holds() {
        // Code component of RFC 9449, §7.1 (Revised BSD License, IETF Trust).
        let proof = concat!(
            "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgt",
            "MzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VO",
            "SmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUV",
            "CIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXN",
            "vdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUl",
            "pS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy",
            "1dqd-jfxSYoMxhAJpLjA"
        );
        let jkt = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
        let bound_to = Thumbprint::from_base64url(jkt).unwrap();
        let now = UnixTime::from_secs(1_562_262_618);
        let found = verified(proof, bound_to, now, |_| Ok(None)).unwrap();
        assert_eq!(found.id.key, *bound_to.octets());
        assert_eq!(found.until, UnixTime::from_secs(1_562_262_618 + WINDOW));
    }

    #[test]
    fn a_good_proof_holds() {
        check(|_| {}, Ok(()));
        check(|it| it["header"]["typ"] = json!("application/DPoP+JWT"), Ok(()));
        check(|it| it["header"]["jwk"]["kid"] = json!("k"), Ok(()));
        check(|it| it["header"]["jwk"]["alg"] = json!("ES256"), Ok(()));
        check(|it| it["header"]["jwk"]["use"] = json!("sig"), Ok(()));
        check(|it| it["header"]["kid"] = json!("ignored"), Ok(()));
        check(|it| it["claims"]["more"] = json!({"a": 1}), Ok(()));
    }

    #[test]
    fn check_2_it_is_one_well_formed_jwt() {
        let good = signed(&good(), &MINE);
        for odd in [
            "",
            "a.b",
            "a.b.c",
            &format!("{good}."),
            &format!("{good}.{good}"),
            &format!("{good}="),
            &format!(" {good}"),
        ] {
            assert_eq!(outcome(odd), Err(Denial::ProofMalformed), "{odd}");
        }
        check(|it| it["header"]["crit"] = json!(["exp"]), Err(Denial::ProofMalformed));
    }

    #[test]
    fn check_2_its_length_is_bounded() {
        let padded = |header: usize, claims: usize| {
            let mut parts = good();
            parts["header"]["x"] = json!("x".repeat(header));
            parts["claims"]["x"] = json!("x".repeat(claims));
            signed(&parts, &MINE)
        };
        for (algorithms, most) in [
            (vec![Algorithm::ES256, Algorithm::RS512, Algorithm::ES512, Algorithm::Ed25519], 8192),
            (vec![Algorithm::ES256, Algorithm::MlDsa44], 12_288),
            (vec![Algorithm::MlDsa65, Algorithm::ES256], 12_288),
            (vec![Algorithm::MlDsa87, Algorithm::ES256], 12_288),
        ] {
            let rules = ProofRules { algorithms, ..rules() };
            let spare = (most - padded(0, 0).len()) * 3 / 4;
            let around = |it| (spare - 4..spare + 4).map(move |to| (it, to));
            let mut lengths = HashSet::new();
            // Three octets are four characters: the one part alone does not come to every length.
            for (header, claims) in (0..3).flat_map(around) {
                let proof = padded(header, claims);
                let fits = proof.len() <= most;
                let expected = if fits { Ok(()) } else { Err(Denial::ProofMalformed) };
                let now = UnixTime::from_secs(NOW);
                let found = verified_under(&rules, &proof, thumbprint(&MINE), now, |_| Ok(None));
                assert_eq!(found.map(drop), expected, "{}", proof.len());
                lengths.insert(proof.len());
            }
            assert!([most, most + 1].iter().all(|it| lengths.contains(it)), "{lengths:?}");
        }
    }

    /// A good proof by a new ML-DSA key after one edit, and the thumbprint of its key.
    fn by_lattice(
        algorithm: &'static PqdsaSigningAlgorithm,
        alg: &str,
        edit: impl FnOnce(&mut Value),
    ) -> (String, Thumbprint) {
        let pair = PqdsaKeyPair::generate(algorithm).unwrap();
        let public = base64url::encode(pair.public_key().as_ref());
        let mut parts = good();
        parts["header"]["alg"] = json!(alg);
        parts["header"]["jwk"] = json!({"kty": "AKP", "alg": alg, "pub": public});
        let id = key::thumbprint(parts["header"]["jwk"].as_object().unwrap()).unwrap();
        edit(&mut parts);
        let input = [&parts["header"], &parts["claims"]]
            .map(|it| base64url::encode(it.to_string().as_bytes()))
            .join(".");
        let mut signature = vec![0; algorithm.signature_len()];
        pair.sign(input.as_bytes(), &mut signature).unwrap();
        (format!("{input}.{}", base64url::encode(&signature)), id)
    }

    const LATTICES: [(&PqdsaSigningAlgorithm, &str); 3] = [
        (&ML_DSA_44_SIGNING, "ML-DSA-44"),
        (&ML_DSA_65_SIGNING, "ML-DSA-65"),
        (&ML_DSA_87_SIGNING, "ML-DSA-87"),
    ];

    #[test]
    fn a_proof_by_ml_dsa_is_good_where_that_is_named() {
        for (signing, alg) in LATTICES {
            let judged = |algorithms: &[Algorithm], edit: &dyn Fn(&mut Value)| {
                let rules = ProofRules { algorithms: algorithms.to_vec(), ..rules() };
                let (proof, id) = by_lattice(signing, alg, edit);
                let now = UnixTime::from_secs(NOW);
                verified_under(&rules, &proof, id, now, |_| Ok(None)).map(drop)
            };
            let own = Algorithm::named(alg).unwrap();
            assert_eq!(judged(&[own], &|_| {}), Ok(()), "{alg}");
            let long = |it: &mut Value| {
                it["claims"]["htu"] = json!(format!(
                    "https://resource.example.org/{}/../protectedresource",
                    "x".repeat(500)
                ));
            };
            assert_eq!(judged(&[own], &long), Ok(()), "{alg}, with a long URI");
            let others: Vec<_> = Algorithm::all().filter(|it| *it != own).collect();
            assert_eq!(judged(&others, &|_| {}), Err(Denial::ProofAlgorithmForbidden), "{alg}");
            let edited = |name: &str, value: Value| {
                judged(&[own], &|it| it["header"]["jwk"][name] = value.clone())
            };
            assert_eq!(edited("priv", json!("AAAA")), Err(Denial::ProofMalformed), "{alg}");
            assert_eq!(edited("alg", json!(null)), Err(Denial::ProofMalformed), "{alg}");
            assert_eq!(edited("alg", json!("ES256")), Err(Denial::ProofMalformed), "{alg}");
        }
    }

    #[test]
    fn who_uses_ml_dsa_without_its_name_reads_that_it_would_make_room() {
        for (algorithms, padding, wanted) in [
            (
                vec![Algorithm::ES256],
                6_000,
                "8192 bytes (12288 where dpop.algorithms names ML-DSA)",
            ),
            (vec![Algorithm::ES256], 12_000, "a signed JWT of at most 8192 bytes"),
            (vec![Algorithm::ES256, Algorithm::MlDsa65], 12_000, "of at most 12288 bytes"),
        ] {
            let mut parts = good();
            parts["claims"]["x"] = json!("x".repeat(padding));
            let rules = ProofRules { algorithms, ..rules() };
            let (now, mut told) = (UnixTime::from_secs(NOW), Explanation::kept());
            let (proof, id) = (signed(&parts, &MINE), thumbprint(&MINE));
            let found = explained(&rules, &proof, id, now, |_| Ok(None), &mut told);
            assert_eq!(found.map(drop), Err(Denial::ProofMalformed));
            let told = &told.fault().unwrap().wanted;
            assert!(told.ends_with(wanted), "{told}");
        }
    }

    #[test]
    fn the_algorithms_of_the_header_and_of_an_akp_key_agree() {
        let rules = ProofRules { algorithms: Algorithm::all().collect(), ..rules() };
        for (signing, alg) in LATTICES {
            for other in Algorithm::all().filter(|it| it.name() != alg) {
                let (proof, id) =
                    by_lattice(signing, alg, |it| it["header"]["alg"] = json!(other.name()));
                let now = UnixTime::from_secs(NOW);
                let found = verified_under(&rules, &proof, id, now, |_| Ok(None));
                assert_eq!(found.map(drop), Err(Denial::ProofMalformed), "{alg} {other}");
            }
        }
    }

    #[test]
    fn check_3_every_claim_is_there_and_of_its_type() {
        for name in ["jti", "htm", "htu", "iat", "ath"] {
            check(|it| remove(it, "claims", name), Err(Denial::ProofMalformed));
            for odd in [json!(null), json!(true), json!(["GET"]), json!({})] {
                check(|it| it["claims"][name] = odd, Err(Denial::ProofMalformed));
            }
        }
        check(|it| it["claims"]["jti"] = json!(""), Err(Denial::ProofMalformed));
        check(|it| it["claims"]["jti"] = json!(1), Err(Denial::ProofMalformed));
        check(|it| it["claims"]["iat"] = json!(NOW.to_string()), Err(Denial::ProofMalformed));
    }

    #[test]
    fn check_4_the_type_is_that_of_proofs() {
        check(|it| remove(it, "header", "typ"), Err(Denial::ProofMalformed));
        for odd in ["JWT", "at+jwt", "dpop", "dpop+jwt "] {
            check(|it| it["header"]["typ"] = json!(odd), Err(Denial::ProofMalformed));
        }
    }

    #[test]
    fn check_5_the_algorithm_is_one_that_is_allowed() {
        for odd in ["none", "HS256", "RS256", "ES384", "es256", ""] {
            check(|it| it["header"]["alg"] = json!(odd), Err(Denial::ProofAlgorithmForbidden));
        }
        // Allowed, but not for this key.
        check(|it| it["header"]["alg"] = json!("EdDSA"), Err(Denial::ProofMalformed));
    }

    #[test]
    fn check_6_the_signature_is_that_of_the_key_in_the_proof() {
        let forged = signed(&good(), &OTHER);
        assert_eq!(outcome(&forged), Err(Denial::ProofSignatureInvalid));
        let (input, signature) = forged.rsplit_once('.').unwrap();
        assert_eq!(outcome(&format!("{input}.")), Err(Denial::ProofSignatureInvalid));
        let mut edited = good();
        edited["claims"]["jti"] = json!("another");
        let edited = signed(&edited, &MINE);
        let (input, _) = edited.rsplit_once('.').unwrap();
        let moved = format!("{input}.{signature}");
        assert_eq!(outcome(&moved), Err(Denial::ProofSignatureInvalid));
    }

    #[test]
    fn check_7_the_key_is_a_public_key_for_signatures() {
        check(|it| remove(it, "header", "jwk"), Err(Denial::ProofMalformed));
        for odd in [json!(null), json!("key"), json!([]), json!({})] {
            check(|it| it["header"]["jwk"] = odd, Err(Denial::ProofMalformed));
        }
        for (name, odd) in [
            ("d", json!("AAAA")),
            ("k", json!("AAAA")),
            ("use", json!("enc")),
            ("key_ops", json!(["sign"])),
            ("alg", json!("ES384")),
            ("alg", json!("HS256")),
            ("kty", json!("oct")),
            ("crv", json!("secp256k1")),
            ("x", json!("AAAA")),
        ] {
            check(|it| it["header"]["jwk"][name] = odd, Err(Denial::ProofMalformed));
        }
    }

    #[test]
    fn check_8_the_method_compares_exactly() {
        for odd in ["POST", "get", "GET ", ""] {
            check(|it| it["claims"]["htm"] = json!(odd), Err(Denial::ProofMethodMismatch));
        }
    }

    #[test]
    fn check_9_the_target_compares_normalised_and_without_the_query() {
        let is = |htu: &str, expected| check(|it| it["claims"]["htu"] = json!(htu), expected);
        is("HTTPS://Resource.Example.ORG:443/protectedresource", Ok(()));
        is("https://resource.example.org/x/../%70rotectedresource?other=1#f", Ok(()));
        for odd in [
            "http://resource.example.org/protectedresource",
            "https://resource.example.org:8443/protectedresource",
            "https://other.example.org/protectedresource",
            "https://resource.example.org/ProtectedResource",
            "https://resource.example.org/protectedresource/",
            "https://resource.example.org//protectedresource",
            "https://user@resource.example.org/protectedresource",
            "/protectedresource",
            "",
        ] {
            is(odd, Err(Denial::ProofTargetMismatch));
        }
    }

    #[test]
    fn check_10_the_nonce_is_for_another_to_judge() {
        let with = |nonce: Option<Value>, wanted: Option<&str>| {
            let mut parts = good();
            if let Some(nonce) = nonce {
                parts["claims"]["nonce"] = nonce;
            }
            let now = UnixTime::from_secs(NOW);
            let judge = |found: Option<&str>| {
                if found == wanted { Ok(None) } else { Err(Denial::NonceRequired) }
            };
            verified(&signed(&parts, &MINE), thumbprint(&MINE), now, judge).map(drop)
        };
        assert_eq!(with(None, None), Ok(()));
        assert_eq!(with(Some(json!("n")), Some("n")), Ok(()));
        assert_eq!(with(Some(json!("n")), Some("m")), Err(Denial::NonceRequired));
        assert_eq!(with(None, Some("n")), Err(Denial::NonceRequired));
        assert_eq!(with(Some(json!(1)), None), Err(Denial::ProofMalformed));
    }

    #[test]
    fn check_11_the_proof_was_made_just_now() {
        let made = |iat: Value, expected| check(|it| it["claims"]["iat"] = iat, expected);
        made(json!(NOW - WINDOW), Ok(()));
        made(json!(NOW + WINDOW), Ok(()));
        made(json!(NOW - WINDOW - 1), Err(Denial::ProofStale));
        made(json!(NOW + WINDOW + 1), Err(Denial::ProofStale));
        made(json!(1_799_999_940.0), Ok(()));
        made(json!(1_799_999_939.999), Err(Denial::ProofStale));
        made(json!(1_800_000_060.001), Err(Denial::ProofStale));
        for odd in [json!(0), json!(-1), json!(i64::MAX), json!(1e300), json!(-1e300)] {
            made(odd, Err(Denial::ProofStale));
        }
    }

    #[test]
    fn check_11_the_time_of_the_nonce_counts_in_place_of_all_that_the_client_says() {
        let (now, end) = (UnixTime::from_secs(NOW), UnixTime::from_secs(NOW + 90));
        let by_nonce =
            ProofRules { time: ProofTime::Nonce, nonce: NonceDemand::Required, ..rules() };
        let outcome = |rules: &ProofRules, edit: &dyn Fn(&mut Value), nonce: Option<UnixTime>| {
            let mut parts = good();
            edit(&mut parts["claims"]);
            let (proof, id) = (signed(&parts, &MINE), thumbprint(&MINE));
            verified_under(rules, &proof, id, now, |_| Ok(nonce)).map(|it| it.until)
        };
        let stale = Err(Denial::ProofStale);
        for (name, time, by_iat) in [
            ("iat", json!(NOW - 3600), stale),
            ("iat", json!(NOW + 3600), stale),
            ("iat", json!(0), stale),
            ("iat", json!(1e300), stale),
            ("exp", json!(NOW - 3600), stale),
            ("nbf", json!(NOW + 3600), stale),
            ("exp", json!(NOW), Ok(UnixTime::from_secs(NOW + WINDOW))),
        ] {
            let edit = |it: &mut Value| it[name] = time.clone();
            assert_eq!(outcome(&rules(), &edit, Some(end)), by_iat, "{name} {time}");
            assert_eq!(outcome(&by_nonce, &edit, Some(end)), Ok(end), "{name} {time}");
            assert_eq!(outcome(&by_nonce, &edit, None), Err(Denial::NonceRequired), "{name}");
        }
        for name in ["iat", "exp", "nbf"] {
            for odd in [json!(null), json!("1800000000"), json!([NOW])] {
                let edit = |it: &mut Value| it[name] = odd.clone();
                let found = outcome(&by_nonce, &edit, Some(end));
                assert_eq!(found, Err(Denial::ProofMalformed), "{name} {odd}");
            }
        }
        let without = |it: &mut Value| drop(it.as_object_mut().unwrap().remove("iat"));
        assert_eq!(outcome(&by_nonce, &without, Some(end)), Err(Denial::ProofMalformed));
    }

    #[test]
    fn the_times_that_a_proof_names_itself_count_give_or_take_the_window() {
        let says = |name: &str, it: Value, expected| {
            check(|parts| parts["claims"][name] = it.clone(), expected);
        };
        for (name, time, expected) in [
            ("exp", json!(NOW - WINDOW + 1), Ok(())),
            ("exp", json!(NOW - WINDOW), Err(Denial::ProofStale)),
            ("exp", json!(1_799_999_940.001), Ok(())),
            ("exp", json!(1_799_999_940.000_9), Err(Denial::ProofStale)),
            ("exp", json!(NOW + 3600), Ok(())),
            ("exp", json!(1e300), Ok(())),
            ("exp", json!(0), Err(Denial::ProofStale)),
            ("exp", json!(-1e300), Err(Denial::ProofStale)),
            ("nbf", json!(NOW + WINDOW), Ok(())),
            ("nbf", json!(NOW + WINDOW + 1), Err(Denial::ProofStale)),
            ("nbf", json!(1_800_000_060.000_1), Err(Denial::ProofStale)),
            ("nbf", json!(0), Ok(())),
            ("nbf", json!(-1e300), Ok(())),
            ("nbf", json!(1e300), Err(Denial::ProofStale)),
        ] {
            says(name, time, expected);
        }
        for name in ["exp", "nbf"] {
            for odd in [json!(null), json!("1800000000"), json!(true), json!([NOW]), json!({})] {
                says(name, odd, Err(Denial::ProofMalformed));
            }
        }
    }

    #[test]
    fn a_proof_is_remembered_for_as_long_as_it_would_hold() {
        for (iat, exp, until) in [
            (NOW, None, NOW + WINDOW),
            (NOW + WINDOW, None, NOW + 2 * WINDOW),
            (NOW, Some(NOW + 3600), NOW + WINDOW),
            (NOW, Some(NOW), NOW + WINDOW),
            (NOW, Some(NOW - 10), NOW + WINDOW - 10),
            (NOW + WINDOW, Some(NOW + 1), NOW + WINDOW + 1),
        ] {
            let mut parts = good();
            parts["claims"]["iat"] = json!(iat);
            if let Some(exp) = exp {
                parts["claims"]["exp"] = json!(exp);
            }
            let proof = signed(&parts, &MINE);
            let at = |millis| {
                let now = UnixTime::from_millis(millis);
                verified(&proof, thumbprint(&MINE), now, |_| Ok(None)).map(|it| it.until)
            };
            assert_eq!(at(NOW * 1000), Ok(UnixTime::from_secs(until)), "{iat} {exp:?}");
            assert!(at(until * 1000 - 1).is_ok(), "{iat} {exp:?}");
            assert_eq!(at(until * 1000 + 1), Err(Denial::ProofStale), "{iat} {exp:?}");
        }
    }

    #[test]
    fn check_12_the_token_is_the_one_that_the_proof_names() {
        let hash = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo";
        for odd in ["", "x", &format!("{hash}="), &hash.replace('f', "g")] {
            check(|it| it["claims"]["ath"] = json!(odd), Err(Denial::ProofTokenMismatch));
        }
    }

    #[test]
    fn check_12_the_key_is_the_one_to_which_the_token_is_bound() {
        let mut parts = good();
        parts["header"]["jwk"] = jwk(&OTHER);
        assert_eq!(outcome(&signed(&parts, &OTHER)), Err(Denial::ProofKeyMismatch));
        // Even with a signature by the bound key.
        assert_eq!(outcome(&signed(&parts, &MINE)), Err(Denial::ProofKeyMismatch));
    }

    #[test]
    fn a_proof_is_known_by_its_key_and_its_jti() {
        let id = |jti: &str, age: i64, pair: &EcdsaKeyPair| {
            let mut parts = good();
            parts["header"]["jwk"] = jwk(pair);
            parts["claims"]["jti"] = json!(jti);
            parts["claims"]["iat"] = json!(NOW - age);
            let now = UnixTime::from_secs(NOW);
            verified(&signed(&parts, pair), thumbprint(pair), now, |_| Ok(None)).unwrap().id
        };
        assert_eq!(id("a", 0, &MINE), id("a", 1, &MINE));
        assert_ne!(id("a", 0, &MINE), id("b", 0, &MINE));
        assert_ne!(id("a", 0, &MINE), id("a", 0, &OTHER));
        let long = "a".repeat(2000);
        assert_ne!(id(&long, 0, &MINE), id(&format!("{long}b"), 0, &MINE));
    }

    #[test]
    fn it_would_hold_until_its_window_ends() {
        let mut parts = good();
        parts["claims"]["iat"] = json!(NOW + 30);
        let proof = signed(&parts, &MINE);
        let at = |now| verified(&proof, thumbprint(&MINE), now, |_| Ok(None));
        let until = at(UnixTime::from_secs(NOW)).unwrap().until;
        assert_eq!(until, UnixTime::from_secs(NOW + 30 + WINDOW));
        assert!(at(until).is_ok());
        let later = until.saturating_add(Duration::from_millis(1));
        assert_eq!(at(later), Err(Denial::ProofStale));
    }
}
