//! Tokens and proofs: a request is allowed if and only if a judge says so who knows the RFCs and
//! nothing of this crate.

use super::choices::Choices;
use super::installation::{NOW, Site};
use super::signer::Signer;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keybound_core::jose::Thumbprint;
use keybound_core::{Denial, Evidence, Field, PeerCertificate, Request, Target};
use serde_json::{Value, json};

/// Two issuers, whose keys share their names, and a policy for each sender constraint.
#[derive(Debug)]
pub struct World {
    site: Site,
    keys: Vec<Key>,
    clients: [Client; 2],
    proofs: usize,
    edits: Edits,
}

/// Who makes proofs.
#[derive(Debug)]
struct Client {
    signer: Signer,
    jkt: String,
}

/// What may become of the members of an object. None: the member is taken out.
type Table = Vec<(&'static str, Vec<Option<Value>>)>;

#[derive(Debug)]
struct Edits {
    token_header: Table,
    claims: Table,
    proof_header: Table,
    proof_claims: Table,
}

/// A key that an issuer publishes, or nobody.
#[derive(Debug)]
struct Key {
    issuer: &'static str,
    kid: &'static str,
    /// The algorithms for which it may be used under its issuer.
    serves: &'static [&'static str],
    signer: Signer,
    published: Value,
}

const ONE: &str = "https://one.example.com";
const OTHER: &str = "https://other.example.com";
const API: &str = "https://api.example.com";

const CONFIGURATION: &str = "
listen: {ext_authz: 127.0.0.1:9001, admin: 127.0.0.1:9003}
issuers:
  - issuer: https://one.example.com
    audiences: [https://api.example.com]
    algorithms: [ES256, EdDSA]
    clock_leeway: 30s
    keys: {jwks_file: one.json}
  - issuer: https://other.example.com
    audiences: [https://api.example.com, api]
    algorithms: [Ed25519]
    token_types: [JWT]
    clock_leeway: 30s
    keys: {jwks_file: other.json}
client_certificate: {source: peer}
dpop: {proof_window: 60s}
policies:
  - {name: certificate, match: {path_prefix: /1}, sender_constraint: certificate, scopes: [read]}
  - {name: dpop, match: {path_prefix: /2}, sender_constraint: dpop, scopes: [read]}
  - {name: either, match: {path_prefix: /3}, sender_constraint: either, scopes: [read]}
  - {name: if_bound, match: {path_prefix: /4}, sender_constraint: if_bound, scopes: [read]}
  - {name: none, match: {path_prefix: /5}, sender_constraint: none, scopes: [read]}
  - name: other
    match: {path_prefix: /6}
    sender_constraint: if_bound
    scopes: [read]
    issuers: [https://other.example.com]
";

const POLICIES: &[&str] = &["certificate", "dpop", "either", "if_bound", "none", "other"];

impl World {
    /// A world in which nothing has happened.
    pub fn start() -> Self {
        let key = |issuer, kid: &'static str, serves, signer: Signer, more: Value| {
            let mut published = signer.jwk();
            published["kid"] = kid.into();
            published.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            Key { issuer, kid, serves, signer, published }
        };
        let keys = vec![
            key(ONE, "1", &["ES256"], Signer::ec(), json!({"alg": "ES256", "use": "sig"})),
            key(ONE, "2", &["EdDSA"], Signer::ed(2), json!({"key_ops": ["verify"]})),
            key(OTHER, "1", &["Ed25519"], Signer::ed(3), json!({"alg": "EdDSA"})),
            key(ONE, "4", &[], Signer::ed(4), json!({"use": "enc"})),
            key(ONE, "5", &[], Signer::ed(5), json!({"alg": "ES256"})),
            key(OTHER, "6", &[], Signer::ed(6), json!({"key_ops": ["sign"]})),
            key("nobody", "2", &[], Signer::ed(7), json!({})),
        ];
        let set = |issuer| {
            let keys = keys.iter().filter(|it| it.issuer == issuer).map(|it| &it.published);
            json!({"keys": keys.collect::<Vec<_>>()}).to_string()
        };
        let files = [("one.json", set(ONE)), ("other.json", set(OTHER))];
        let site = Site::new(CONFIGURATION, &files);
        let clients = [11, 12].map(Signer::ed).map(|it| Client { jkt: it.jkt(), signer: it });
        let edits = Edits {
            token_header: token_header_edits(),
            claims: claim_edits(&clients),
            proof_header: proof_header_edits(&clients[0].signer),
            proof_claims: proof_claim_edits(),
        };
        Self { site, keys, clients, proofs: 0, edits }
    }
}

/// Sends a request with a token, perhaps a proof and perhaps a certificate, with some edits to all of
/// them. Holds that it is allowed exactly where the judge says so, and again from memory.
pub fn allowed_if_and_only_if(world: &mut World, choices: &mut Choices<'_>) -> &'static str {
    let policy = choices.pick(POLICIES);
    let bound = choices.pick(&["certificate", "key", "both", "nothing"]);
    let (token, good_token) = world.token(choices, policy, bound);
    let by_dpop = matches!(bound, "key" | "both");
    let usual = if by_dpop { "DPoP" } else { "Bearer" };
    let any = choices.pick(&["Bearer", "DPoP", "bEARER", "dpop"]);
    let scheme = if choices.one_in(8) { any } else { usual };
    let shown = if choices.one_in(6) { choices.below(4) } else { 0 };
    let certificate = match shown {
        0 => url_encoded(CERTIFICATES[0]),
        1 => url_encoded(CERTIFICATES[1]),
        2 => String::new(),
        _ => "-----BEGIN%20CERTIFICATE-----%0AMIIB".to_owned(),
    };
    let proof = (by_dpop != choices.one_in(12)).then(|| world.proof(choices, &token.text));

    let authorization = format!("{scheme} {}", token.text);
    let request = Request {
        policy: Some(policy),
        target: Target {
            method: "GET",
            scheme: "https",
            authority: "api.example.com",
            path: "/a?b",
        },
        authorization: Field::One(authorization.as_bytes()),
        proof: proof.as_ref().map_or(Field::Absent, |it| Field::One(it.0.as_bytes())),
        evidence: Evidence {
            peer_certificate: PeerCertificate::url_encoded_pem(certificate.as_bytes()),
            ..Evidence::default()
        },
        ..Request::default()
    };
    let cnf = token.claims.get("cnf");
    let uses_proof = policy != "none" && cnf.is_some_and(|it| it.get("jkt").is_some());
    let possession = Possession {
        by_dpop_scheme: scheme.eq_ignore_ascii_case("DPoP"),
        certificate: (shown < 2).then(|| thumbprint(CERTIFICATES[shown])),
        key: proof.as_ref().and_then(|it| it.1.clone()),
    };
    let expected = good_token && possession.proves(cnf, policy);
    let found = world.site.check(&request).outcome;
    let told = || format!("{policy} {scheme} {token:?}\n{proof:?} {possession:?}");
    assert_eq!(found.is_ok(), expected, "{found:?} {}", told());
    // Once more, for tokens are remembered, and so are proofs.
    let again = world.site.check(&request).outcome;
    match found {
        Ok(()) if uses_proof => assert_eq!(again, Err(Denial::ProofReplayed), "{}", told()),
        _ => assert_eq!(again.is_ok(), expected, "{again:?} {}", told()),
    }
    match (found, good_token) {
        (Ok(()), _) if uses_proof => "allowed with a proof",
        (Ok(()), _) => "allowed",
        (Err(_), true) => "possession not proved",
        (Err(_), false) => "token refused",
    }
}

// The judge.

/// What the caller has proved.
#[derive(Debug)]
struct Possession {
    by_dpop_scheme: bool,
    certificate: Option<String>,
    /// The thumbprint of the key that made a good proof.
    key: Option<String>,
}

impl Possession {
    /// Whether that is what a token with a well-formed `cnf` asks for, and what the policy does
    /// (RFC 8705 §3, RFC 9449 §7.1, §7.2).
    fn proves(&self, cnf: Option<&Value>, policy: &str) -> bool {
        let member = |name| cnf.and_then(|it| it.get(name)).and_then(Value::as_str);
        let (x5t, jkt) = (member("x5t#S256"), member("jkt"));
        let demanded = match policy {
            "none" => return true,
            "certificate" => x5t.is_some(),
            "dpop" => jkt.is_some(),
            "either" => x5t.is_some() || jkt.is_some(),
            _ => true,
        };
        let known = cnf.is_none() || x5t.is_some() || jkt.is_some();
        demanded
            && known
            && self.by_dpop_scheme == jkt.is_some()
            && x5t.is_none_or(|it| self.certificate.as_deref() == Some(it))
            && jkt.is_none_or(|it| self.key.as_deref() == Some(it))
    }
}

/// Whether a header is one of a token of an issuer (RFC 7515 §4, RFC 9068 §2.1).
fn good_header(header: &Value, key: &Key) -> bool {
    let typ = if key.issuer == OTHER { "jwt" } else { "at+jwt" };
    is_type(header, typ)
        && header.get("alg").and_then(Value::as_str).is_some_and(|it| key.serves.contains(&it))
        && header.get("kid").is_none_or(|it| it == key.kid)
        && ["crit", "b64"].iter().all(|it| header.get(it).is_none())
}

fn is_type(header: &Value, expected: &str) -> bool {
    let typ = header.get("typ").and_then(Value::as_str).map(str::to_ascii_lowercase);
    typ.is_some_and(|it| it.strip_prefix("application/").unwrap_or(&it) == expected)
}

/// Whether claims are those of a token that is for us, at this time (RFC 9068 §4, RFC 7519 §4.1).
fn good_claims(claims: &Value, key: &Key, policy: &str) -> bool {
    let accepted: &[&str] = if policy == "other" { &[OTHER] } else { &[ONE, OTHER] };
    let ours: &[&str] = if key.issuer == OTHER { &[API, "api"] } else { &[API] };
    let is_ours = |it: &Value| it.as_str().is_some_and(|it| ours.contains(&it));
    let audience = match &claims["aud"] {
        Value::Array(members) => {
            members.iter().all(Value::is_string) && members.iter().any(is_ours)
        }
        one => is_ours(one),
    };
    let now = 1_800_000_000.0;
    let begun =
        |name| claims.get(name).is_none_or(|it| it.as_f64().is_some_and(|it| it <= now + 30.0));
    let there = |name: &&&str| claims.get(name).is_some_and(|it| !it.is_null());
    let client = ["client_id", "azp"].iter().find(there).unwrap_or(&"client_id");
    let is_text = |name: &&str| claims.get(name).is_none_or(|it| it.is_string() || it.is_null());
    let has_read = match claims.get("scope") {
        Some(Value::String(words)) => words.split(' ').any(|it| it == "read"),
        Some(Value::Array(words)) => {
            words.iter().all(Value::is_string) && words.iter().any(|it| it == "read")
        }
        _ => false,
    };
    accepted.contains(&key.issuer)
        && claims["iss"] == key.issuer
        && audience
        && claims["exp"].as_f64().is_some_and(|it| now < it + 30.0)
        && begun("nbf")
        && begun("iat")
        && ["sub", "jti", client].iter().all(is_text)
        && has_read
        && ["events", "at_hash", "c_hash"].iter().all(|it| !there(&it))
        && claims.get("cnf").is_none_or(good_confirmation)
}

/// RFC 7800 §3.1: an object; RFC 8705 §3.1, RFC 9449 §6.1: 32 octets in base64url.
fn good_confirmation(cnf: &Value) -> bool {
    let is_thumbprint = |it: &Value| {
        let octets = it.as_str().and_then(|it| URL_SAFE_NO_PAD.decode(it).ok());
        octets.is_some_and(|it| it.len() == 32)
    };
    cnf.is_object() && ["x5t#S256", "jkt"].iter().all(|it| cnf.get(it).is_none_or(is_thumbprint))
}

/// Whether a proof is for this request and token (RFC 9449 §4.3).
fn good_proof(header: &Value, claims: &Value, token: &str) -> bool {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let ath = Thumbprint::of(token.as_bytes()).to_base64url();
    let now = 1_800_000_000.0;
    let private = ["d", "k"].iter().any(|it| header["jwk"].get(it).is_some());
    is_type(header, "dpop+jwt")
        && ["EdDSA", "Ed25519"].iter().any(|it| header["alg"] == *it)
        && header["jwk"]["crv"] == "Ed25519"
        && !private
        && header.get("kid").is_none_or(Value::is_string)
        && header.get("crit").is_none()
        && text("jti").is_some_and(|it| !it.is_empty())
        && text("htm") == Some("GET")
        && text("htu").is_some_and(|it| SAME_TARGET.contains(&it))
        && text("ath") == Some(&ath)
        && claims["iat"].as_f64().is_some_and(|it| (it - now).abs() <= 60.0)
        && claims.get("exp").is_none_or(|it| it.as_f64().is_some_and(|it| now < it + 60.0))
        && claims.get("nbf").is_none_or(|it| it.as_f64().is_some_and(|it| it <= now + 60.0))
        && claims.get("nonce").is_none_or(Value::is_string)
}

const SAME_TARGET: &[&str] = &[
    "https://api.example.com/a",
    "https://api.example.com/a?x",
    "https://api.example.com/a#x",
    "HTTPS://API.example.com:443/%61",
    "https://api.example.com/b/../a",
];

// Tokens, proofs and what is wrong with them.

#[derive(Debug)]
struct Token {
    text: String,
    claims: Value,
}

fn edit(choices: &mut Choices<'_>, object: &mut Value, edits: &Table) {
    let (name, values) = &edits[choices.below(edits.len())];
    match &values[choices.below(values.len())] {
        Some(value) => object[*name] = value.clone(),
        None => drop(object.as_object_mut().unwrap().remove(*name)),
    }
}

/// Makes of an object a text, and says whether it is still one that everybody reads alike.
fn written(choices: &mut Choices<'_>, object: &Value) -> (String, bool) {
    let text = object.to_string();
    let Some((name, value)) = object.as_object().unwrap().iter().next() else {
        return (text, true);
    };
    if !choices.one_in(24) {
        return (text, true);
    }
    let inside = &text[1..];
    match choices.below(8) {
        0 => (format!(" {{\n{inside}\t"), true),
        1 => (format!("{{\"\\u0078\":1,{inside}"), true),
        // The same name twice, whatever it says.
        2 => (format!("{{{}:{value},{inside}", json!(name)), false),
        3 => (format!("{{\"x\":{{\"a\":1,\"\\u0061\":1}},{inside}"), false),
        4 => (format!("[{text}]"), false),
        5 => (format!("{text}{text}"), false),
        6 => (format!("\u{feff}{text}"), false),
        _ => (format!("{text}\0"), false),
    }
}

/// Makes something else of a signed text, and says whether it is as good as before.
fn carried(choices: &mut Choices<'_>, jwt: String) -> (String, bool) {
    if !choices.one_in(12) {
        return (jwt, true);
    }
    let (signed, signature) = jwt.rsplit_once('.').unwrap();
    let mut octets = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let edited = match choices.below(9) {
        0 => {
            let at = choices.below(octets.len());
            octets[at] ^= 1 << choices.below(8);
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(octets))
        }
        1 => format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&octets[1..])),
        2 => format!("{signed}.{}", URL_SAFE_NO_PAD.encode([&octets[..], &[0]].concat())),
        3 => format!("{signed}.{}", URL_SAFE_NO_PAD.encode(vec![0; octets.len()])),
        4 => format!("{signed}."),
        5 => format!("{jwt}=="),
        6 => format!("{jwt}.{signature}"),
        7 => signed.to_owned(),
        // The last of 86 characters has four bits that say nothing.
        _ => {
            let last = signature.as_bytes()[signature.len() - 1];
            let other = if last == b'A' { 'B' } else { char::from(last + 1) };
            format!("{signed}.{}{other}", &signature[..signature.len() - 1])
        }
    };
    (edited, false)
}

impl World {
    fn token(&self, choices: &mut Choices<'_>, policy: &str, bound: &str) -> (Token, bool) {
        let usual = if policy == "other" { 2 } else { choices.below(3) };
        let key =
            &self.keys[if choices.one_in(12) { choices.below(self.keys.len()) } else { usual }];
        let other = key.issuer == OTHER;
        let mut header = json!({
            "typ": if other { "JWT" } else { "at+jwt" },
            "alg": if other { "Ed25519" } else { key.signer.algorithm() },
            "kid": key.kid,
        });
        let (x5t, jkt) = (thumbprint(CERTIFICATES[0]), &self.clients[0].jkt);
        let mut claims = json!({
            "iss": if key.issuer == "nobody" { ONE } else { key.issuer }, "aud": API,
            "exp": NOW + 300, "iat": NOW, "sub": "alice", "client_id": "app", "scope": "read write",
        });
        match bound {
            "certificate" => claims["cnf"] = json!({"x5t#S256": x5t}),
            "key" => claims["cnf"] = json!({"jkt": jkt}),
            "both" => claims["cnf"] = json!({"x5t#S256": x5t, "jkt": jkt}),
            _ => (),
        }
        for _ in 0..choices.pick(&[0, 0, 0, 1, 1, 2]) {
            if choices.one_in(3) {
                edit(choices, &mut header, &self.edits.token_header);
            } else {
                edit(choices, &mut claims, &self.edits.claims);
            }
        }
        let (written_header, one_header) = written(choices, &header);
        let (written_claims, one_claims) = written(choices, &claims);
        let jwt = key.signer.jwt(&written_header, &written_claims);
        let (text, whole) = carried(choices, jwt);
        let good = one_header
            && one_claims
            && whole
            && good_header(&header, key)
            && good_claims(&claims, key, policy);
        (Token { text, claims }, good)
    }

    /// A proof for a token, and the thumbprint of the key that it is good for.
    fn proof(&mut self, choices: &mut Choices<'_>, token: &str) -> (String, Option<String>) {
        self.proofs += 1;
        let client = &self.clients[usize::from(choices.one_in(12))];
        let mut header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": client.signer.jwk()});
        let mut claims = json!({
            "jti": format!("proof {}", self.proofs), "htm": "GET", "iat": NOW,
            "htu": "https://api.example.com/a", "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
        });
        if choices.one_in(4) {
            if choices.one_in(3) {
                edit(choices, &mut header, &self.edits.proof_header);
            } else {
                edit(choices, &mut claims, &self.edits.proof_claims);
            }
        }
        let (written_header, one_header) = written(choices, &header);
        let (written_claims, one_claims) = written(choices, &claims);
        let (text, whole) = carried(choices, client.signer.jwt(&written_header, &written_claims));
        let good = one_header && one_claims && whole && good_proof(&header, &claims, token);
        (text, good.then(|| client.jkt.clone()))
    }
}

fn claim_edits(clients: &[Client; 2]) -> Table {
    let (x5t, jkt) = (thumbprint(CERTIFICATES[0]), &clients[0].jkt);
    let (x5t_of_other, jkt_of_other) = (thumbprint(CERTIFICATES[1]), &clients[1].jkt);
    let now = 1_800_000_000.0;
    let time = |more: Value| {
        let mut values: Vec<_> =
            [null(), json!(true), json!("1800000100"), json!([NOW]), json!({})]
                .into_iter()
                .chain([json!(1e300), json!(-1e300), json!(0), json!(-1), json!(u64::MAX)])
                .map(Some)
                .collect();
        values.extend(more.as_array().unwrap().iter().cloned().map(Some));
        values.push(None);
        values
    };
    let any = || some([null(), json!(7), json!(["x"]), json!({}), json!(""), json!("x")]);
    vec![
        (
            "iss",
            some([
                json!(ONE),
                json!(OTHER),
                json!("https://one.example.com/"),
                json!([ONE]),
                null(),
            ]),
        ),
        (
            "aud",
            some([
                json!([API]),
                json!(["x", API]),
                json!("api"),
                json!(["x"]),
                json!([API, 7]),
                json!([]),
                json!([[API]]),
                json!({API: API}),
                json!("https://api.example.com/"),
                json!("https://api.example.com x"),
                null(),
            ]),
        ),
        ("exp", time(json!([NOW - 29, NOW - 30, NOW - 31, now - 29.5, now - 30.5, now - 30.0]))),
        ("nbf", time(json!([NOW, NOW + 29, NOW + 30, NOW + 31, now + 29.5, now + 30.5]))),
        ("iat", time(json!([NOW, NOW + 29, NOW + 30, NOW + 31, now + 29.5, now + 30.5]))),
        ("sub", any()),
        ("client_id", any()),
        ("azp", any()),
        ("jti", any()),
        ("events", any()),
        ("at_hash", any()),
        ("c_hash", any()),
        ("scope", {
            let mut scopes = any();
            scopes.extend(some([
                json!("read"),
                json!("write read"),
                json!("reader"),
                json!("READ"),
            ]));
            scopes.extend(some([json!(["read"]), json!("a,read"), json!("write  read")]));
            scopes.extend(some([json!(["a", "read"]), json!(["a read"]), json!(["read", 1])]));
            scopes
        }),
        (
            "cnf",
            some([
                json!({}),
                null(),
                json!("x"),
                json!([{"x5t#S256": x5t}]),
                json!({"x5t#S256": x5t_of_other}),
                json!({"x5t#S256": format!("{x5t}=")}),
                json!({"x5t#S256": null}),
                json!({"x5t#S256": [x5t]}),
                json!({"x5t#S256": ""}),
                json!({"x5t#S256": Thumbprint::of(CERTIFICATES[0].as_bytes()).to_hex()}),
                json!({"X5T#S256": x5t}),
                json!({"x5t": x5t}),
                json!({"x5t#S256": x5t, "kid": "x"}),
                json!({"x5t#S256": x5t, "jkt": jkt_of_other}),
                json!({"x5t#S256": x5t_of_other, "jkt": jkt}),
                json!({"x5t#S256": x5t, "jkt": null}),
                json!({"jkt": jkt_of_other}),
                json!({"jkt": 7}),
                json!({"jwk": clients[0].signer.jwk()}),
            ]),
        ),
    ]
}

fn token_header_edits() -> Table {
    let algorithms =
        ["none", "HS256", "RS256", "PS256", "ES256", "ES384", "EdDSA", "Ed25519", "es256", ""];
    let types = [
        "at+jwt",
        "AT+JWT",
        "application/at+jwt",
        "Application/AT+jwt",
        "JWT",
        "jwt",
        "at+jwt ",
        "",
    ];
    vec![
        ("typ", [some(types.map(Value::from)), some([null(), json!(7)]), vec![None]].concat()),
        (
            "alg",
            [some(algorithms.map(Value::from)), some([null(), json!(["ES256"])]), vec![None]]
                .concat(),
        ),
        (
            "kid",
            [
                some(["1", "2", "4", "5", "6", "3", "1 ", ""].map(Value::from)),
                some([null(), json!(1)]),
                vec![None],
            ]
            .concat(),
        ),
        ("crit", some([json!(["exp"]), json!([]), null(), json!(["b64"])])),
        ("b64", some([json!(true), json!(false)])),
        ("jwk", some([Signer::ed(7).jwk(), null()])),
        ("jku", some([json!("https://evil.example.com/keys")])),
        ("x5c", some([json!([]), json!("x")])),
        ("cty", some([json!("JWT")])),
    ]
}

fn proof_header_edits(client: &Signer) -> Table {
    let mut private = client.jwk();
    private["d"] = json!("AAAA");
    vec![
        (
            "typ",
            some([
                json!("JWT"),
                json!("at+jwt"),
                json!("DPoP+JWT"),
                json!("application/dpop+jwt"),
                null(),
            ]),
        ),
        ("alg", some([json!("none"), json!("ES256"), json!("Ed25519"), json!("HS256"), null()])),
        (
            "jwk",
            [
                some([private, null(), json!({}), Signer::ec().jwk(), json!([client.jwk()])]),
                vec![None],
            ]
            .concat(),
        ),
        ("kid", some([json!("x"), json!(7)])),
        ("crit", some([json!([]), json!(["exp"])])),
    ]
}

fn proof_claim_edits() -> Table {
    let mut targets = SAME_TARGET.to_vec();
    targets.extend([
        "http://api.example.com/a",
        "https://api.example.com/A",
        "/a",
        "https://x@api.example.com/a",
    ]);
    targets.extend([
        "https://api.example.com/a/",
        "https://api.example.com.:443/a",
        "https://api.example.com//a",
    ]);
    let now = 1_800_000_000.0;
    vec![
        ("jti", [some([json!(""), json!(7), null()]), vec![None]].concat()),
        (
            "htm",
            [some([json!("get"), json!("POST"), json!("GET "), json!(["GET"])]), vec![None]]
                .concat(),
        ),
        (
            "htu",
            [targets.into_iter().map(|it| Some(json!(it))).collect(), some([null()]), vec![None]]
                .concat(),
        ),
        ("ath", [some([json!(thumbprint("x")), json!(""), json!(7), null()]), vec![None]].concat()),
        (
            "iat",
            [
                some([
                    json!(NOW - 60),
                    json!(NOW + 60),
                    json!(NOW - 61),
                    json!(NOW + 61),
                    json!(now + 59.5),
                    json!(now - 60.5),
                    json!("1"),
                    null(),
                    json!(1e300),
                ]),
                vec![None],
            ]
            .concat(),
        ),
        ("nonce", some([json!("x"), json!(7), null()])),
        ("exp", some([json!(0), json!(NOW - 59), json!(NOW - 60), json!(now - 59.5), null()])),
        ("nbf", some([json!(0), json!(NOW + 60), json!(NOW + 61), json!(now + 60.5), json!("0")])),
    ]
}

fn some<const N: usize>(values: [Value; N]) -> Vec<Option<Value>> {
    values.map(Some).to_vec()
}

fn null() -> Value {
    Value::Null
}

/// The DER of two certificates, as far as anybody looks into it (X.690 §8.1).
const CERTIFICATES: [&str; 2] = ["0\u{6}client", "0\u{5}other"];

fn thumbprint(der: &str) -> String {
    Thumbprint::of(der.as_bytes()).to_base64url()
}

fn url_encoded(der: &str) -> String {
    let body = STANDARD.encode(der).replace('=', "%3D");
    format!("-----BEGIN%20CERTIFICATE-----%0A{body}%0A-----END%20CERTIFICATE-----%0A")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::outcomes;

    /// Fewer than of others: each is signed, and its signature verified.
    const CASES: u64 = 20_000;

    #[test]
    fn a_request_is_allowed_if_and_only_if_the_rfcs_say_so() {
        let mut world = World::start();
        outcomes(CASES, |choices| allowed_if_and_only_if(&mut world, choices)).came_up(&[
            "allowed",
            "allowed with a proof",
            "possession not proved",
            "token refused",
        ]);
    }
}
