use super::*;
use crate::jose::algorithm::Algorithm;
use crate::oauth::examples::issuer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use miniz_oxide::deflate::compress_to_vec_zlib;
use serde_json::json;

const URI: &str = "https://as.example.com/statuses/1";
const NOW: i64 = 1_800_000_000;
const LEEWAY: i64 = 30;

/// An issuer's key, and the set that has it.
struct Signer {
    key: EcdsaKeyPair,
    set: KeySet,
}

impl Signer {
    fn new() -> Self {
        Self::owned_by(None)
    }

    fn owned_by(owner: Option<&str>) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (x, y) = key.public_key().as_ref()[1..].split_at(32);
        let mut jwk = json!({"kty": "EC", "crv": "P-256", "kid": "1",
            "x": base64url::encode(x), "y": base64url::encode(y)});
        if let Some(owner) = owner {
            jwk["issuer"] = owner.into();
        }
        let set = KeySet::parse(json!({ "keys": [jwk] }).to_string().as_bytes()).unwrap();
        Self { key, set }
    }

    fn sign(&self, header: &Value, claims: &Value) -> Vec<u8> {
        let parts = [header, claims].map(|it| base64url::encode(it.to_string().as_bytes()));
        let input = parts.join(".");
        let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", base64url::encode(signature.as_ref())).into_bytes()
    }
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "1", "typ": "statuslist+jwt"})
}

fn claims() -> Value {
    let list = base64url::encode(&compress_to_vec_zlib(&[0b10], 9));
    json!({"sub": URI, "iat": NOW, "status_list": {"bits": 1, "lst": list}})
}

fn verify(token: &[u8], keys: &KeySet) -> Result<StatusList, BadStatusList> {
    StatusList::verify(token, URI, &issuer(), keys, UnixTime::from_secs(NOW))
}

/// The outcome for a list after one edit.
#[track_caller]
fn check(edit: impl FnOnce(&mut Value, &mut Value), expected: Result<(), BadStatusList>) {
    let (mut header, mut claims) = (header(), claims());
    edit(&mut header, &mut claims);
    let signer = Signer::new();
    let found = verify(&signer.sign(&header, &claims), &signer.set).map(drop);
    assert_eq!(found, expected, "{header} {claims}");
}

fn with(name: &str, value: impl Into<Value>) -> impl FnOnce(&mut Value, &mut Value) {
    move |_, it| it[name] = value.into()
}

fn without(name: &str) -> impl FnOnce(&mut Value, &mut Value) {
    move |_, it| drop(it.as_object_mut().unwrap().remove(name))
}

#[test]
fn a_list_tells_the_status_at_each_place() {
    let signer = Signer::new();
    let list = verify(&signer.sign(&header(), &claims()), &signer.set).unwrap();
    assert_eq!(list.status(0), Some(Status::Valid));
    assert_eq!(list.status(1), Some(Status::Invalid));
    assert_eq!((list.status(7), list.status(8)), (Some(Status::Valid), None));
    assert_eq!((list.ttl(), list.expires(), list.len()), (None, None, 8));
    assert_eq!(list.issued(), UnixTime::from_secs(NOW));
    assert!(list.lives(UnixTime::from_secs(i64::MAX)), "it has no end of its own");
    assert!(signer.set.behind(list.signed_by()).is_some());
}

#[test]
fn its_type_is_that_of_a_list_and_no_other() {
    for same in ["statuslist+jwt", "application/statuslist+jwt"] {
        check(|it, _| it["typ"] = same.into(), Ok(()));
    }
    for other in ["JWT", "at+jwt", "statuslist+cwt", "statuslist", "statuslist+jwt ", ""] {
        check(|it, _| it["typ"] = other.into(), Err(BadStatusList::TypeWrong));
    }
    let absent = |it: &mut Value, _: &mut Value| drop(it.as_object_mut().unwrap().remove("typ"));
    check(absent, Err(BadStatusList::TypeWrong));
}

#[test]
fn it_is_signed_by_a_key_of_its_issuer() {
    let (own, other) = (Signer::new(), Signer::new());
    let list = own.sign(&header(), &claims());
    assert!(verify(&list, &own.set).is_ok());
    assert_eq!(verify(&list, &other.set).err(), Some(BadStatusList::SignatureInvalid));
    assert_eq!(verify(&list, &KeySet::default()).err(), Some(BadStatusList::KeyUnknown));
    check(|it, _| it["kid"] = "2".into(), Err(BadStatusList::KeyUnknown));
    check(|it, _| drop(it.as_object_mut().unwrap().remove("kid")), Ok(()));
    for forbidden in ["RS256", "HS256", "none"] {
        check(|it, _| it["alg"] = forbidden.into(), Err(BadStatusList::AlgorithmForbidden));
    }
    let mut strict = (*issuer()).clone();
    strict.algorithms = vec![Algorithm::PS256];
    let now = UnixTime::from_secs(NOW);
    let found = StatusList::verify(&list, URI, &strict, &own.set, now);
    assert_eq!(found.err(), Some(BadStatusList::AlgorithmForbidden));
}

#[test]
fn what_is_no_signed_jwt_is_no_list() {
    let signer = Signer::new();
    let list = signer.sign(&header(), &claims());
    let mut parts = list.split(|it| *it == b'.');
    let (header, payload) = (parts.next().unwrap(), parts.next().unwrap());
    let unsigned = [header, payload, b""].join(&b'.');
    assert_eq!(verify(&unsigned, &signer.set).err(), Some(BadStatusList::SignatureInvalid));
    for odd in [&b""[..], b"<html>", b"{\"bits\":1,\"lst\":\"eNrbuRgAAhcBXQ\"}", header] {
        assert_eq!(verify(odd, &signer.set).err(), Some(BadStatusList::Malformed));
    }
    check(|_, it| *it = json!([]), Err(BadStatusList::Malformed));
    check(|it, _| it["crit"] = json!(["exp"]), Err(BadStatusList::Malformed));
    let long = vec![b'a'; STATUS_LIST_TOKEN_BYTES + 1];
    assert_eq!(verify(&long, &signer.set).err(), Some(BadStatusList::TooLarge));
}

#[test]
fn its_subject_is_the_uri_letter_by_letter() {
    for other in [
        "https://as.example.com/statuses/2",
        "https://as.example.com/statuses/1/",
        "https://as.example.com:443/statuses/1",
        "https://AS.example.com/statuses/1",
        "",
    ] {
        check(with("sub", other), Err(BadStatusList::SubjectMismatch));
    }
    check(with("sub", json!([URI])), Err(BadStatusList::ClaimMalformed("sub")));
    check(without("sub"), Err(BadStatusList::ClaimMissing("sub")));
}

#[test]
fn who_and_for_whom_it_is_must_be_right_where_it_says_so() {
    check(with("iss", "https://as.example.com"), Ok(()));
    for other in [json!("https://as.example.com/"), json!("https://other.example.com"), json!(null)]
    {
        check(with("iss", other), Err(BadStatusList::IssuerMismatch));
    }
    check(with("aud", "api"), Ok(()));
    check(with("aud", json!(["other", "api"])), Ok(()));
    for other in [json!("other"), json!(["other"]), json!(7)] {
        check(with("aud", other), Err(BadStatusList::AudienceMismatch));
    }
}

#[test]
fn it_has_begun_and_has_not_ended() {
    check(with("iat", NOW + LEEWAY), Ok(()));
    check(with("iat", NOW + LEEWAY + 1), Err(BadStatusList::Premature));
    check(with("iat", 0), Ok(()));
    check(with("nbf", NOW + LEEWAY), Ok(()));
    check(with("nbf", NOW + LEEWAY + 1), Err(BadStatusList::Premature));
    check(with("exp", NOW - LEEWAY + 1), Ok(()));
    check(with("exp", NOW - LEEWAY), Err(BadStatusList::Expired));
    check(without("iat"), Err(BadStatusList::ClaimMissing("iat")));
    for (name, odd) in [("iat", json!("now")), ("exp", json!(null)), ("nbf", json!([]))] {
        let found = BadStatusList::ClaimMalformed(name);
        check(|_, it| it[name] = odd, Err(found));
    }
}

#[test]
fn it_ends_with_the_leeway_of_its_issuer() {
    let signer = Signer::new();
    let mut claims = claims();
    claims["exp"] = json!(NOW + 60);
    let list = verify(&signer.sign(&header(), &claims), &signer.set).unwrap();
    assert_eq!(list.expires(), Some(UnixTime::from_secs(NOW + 60)));
    for (now, lives) in [(NOW, true), (NOW + 60 + LEEWAY - 1, true), (NOW + 60 + LEEWAY, false)] {
        assert_eq!(list.lives(UnixTime::from_secs(now)), lives, "{now}");
    }
}

#[test]
fn its_time_to_live_is_a_positive_number() {
    for (ttl, expected) in [
        (json!(1), Duration::from_secs(1)),
        (json!(43_200), Duration::from_secs(43_200)),
        (json!(0.5), Duration::from_millis(500)),
        (json!(1e300), Duration::MAX),
    ] {
        let signer = Signer::new();
        let mut claims = claims();
        claims["ttl"] = ttl;
        let list = verify(&signer.sign(&header(), &claims), &signer.set).unwrap();
        assert_eq!(list.ttl(), Some(expected), "{claims}");
    }
    for odd in [json!(0), json!(-1), json!("60"), json!(null), json!([60])] {
        check(with("ttl", odd), Err(BadStatusList::ClaimMalformed("ttl")));
    }
}

#[test]
fn its_statuses_must_be_readable() {
    let list = claims()["status_list"]["lst"].clone();
    check(without("status_list"), Err(BadStatusList::ClaimMissing("status_list")));
    let more = json!({"bits": 1, "lst": list, "aggregation_uri": "https://as.example.com/all"});
    check(with("status_list", more), Ok(()));
    for odd in [
        json!(list),
        json!({ "lst": list }),
        json!({"bits": 1}),
        json!({"bits": 3, "lst": list}),
        json!({"bits": "1", "lst": list}),
        json!({"bits": 1, "lst": [0]}),
    ] {
        check(with("status_list", odd), Err(BadStatusList::ClaimMalformed("status_list")));
    }
    for odd in ["", "=", "AAAA", "eNrbuRgAAhcBXQ=="] {
        let odd = json!({"bits": 1, "lst": odd});
        check(with("status_list", odd), Err(BadStatusList::NotZlib));
    }
    let bomb = base64url::encode(&compress_to_vec_zlib(&vec![0; STATUS_LIST_BYTES + 1], 9));
    let bomb = json!({"bits": 1, "lst": bomb});
    check(with("status_list", bomb), Err(BadStatusList::TooLong));
}

#[test]
fn a_tenant_speaks_for_itself_alone() {
    let mut issuer = Issuer::new("https://login.example/{tenantid}", "api");
    issuer.tenants = vec!["a".to_owned(), "b".to_owned()];
    let now = UnixTime::from_secs(NOW);
    let found = |owner: Option<&str>, iss: Option<&str>| {
        let signer = Signer::owned_by(owner);
        let mut claims = claims();
        if let Some(iss) = iss {
            claims["iss"] = iss.into();
        }
        StatusList::verify(&signer.sign(&header(), &claims), URI, &issuer, &signer.set, now)
    };
    let (a, b) = ("https://login.example/a", "https://login.example/b");
    let list = found(None, Some(a)).unwrap();
    assert!(list.speaks_of(a) && !list.speaks_of(b));
    assert!(found(Some(a), Some(a)).is_ok());
    assert!(found(Some("https://login.example/{tenantid}"), Some(a)).is_ok());
    for (owner, iss, expected) in [
        (None, None, BadStatusList::ClaimMissing("iss")),
        (None, Some("https://login.example/c"), BadStatusList::IssuerMismatch),
        (Some(b), Some(a), BadStatusList::IssuerMismatch),
    ] {
        assert_eq!(found(owner, iss).err(), Some(expected), "{owner:?} {iss:?}");
    }
}

#[test]
fn a_list_is_not_printed() {
    let signer = Signer::new();
    let list = verify(&signer.sign(&header(), &claims()), &signer.set).unwrap();
    assert!(format!("{list:?}").contains("octets: 1"));
}
