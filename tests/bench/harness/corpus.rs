//! The corpus: requests as Envoy sends them, about tokens as banks issue them. Headers come
//! in a map, as they do unless a filter says `encode_raw_headers`.
//!
//! Everything is new with each run: nothing here is a secret.

use super::proofs::prove;
use super::tokens::{Signer, tampered};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use clap::Args;
use envoy_types::pb::envoy::service::auth::v3 as auth;
use jsonwebtoken::Algorithm;
use keybound::commands::demo::pki::{Authority, Identity};
use keybound_core::jose::Thumbprint;
use keybound_core::jose::thumbprint;
use keybound_core::oauth::EventSubject;
use miniz_oxide::deflate::compress_to_vec_zlib;
use prost::Message;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

#[derive(Args)]
pub(super) struct Options {
    /// The folder that is filled.
    folder: PathBuf,
    /// How many tokens there are.
    #[arg(long, default_value_t = 2000)]
    tokens: usize,
    /// How many proofs there are.
    #[arg(long, default_value_t = 20_000)]
    proofs: usize,
    /// The URL under which the folder is served.
    #[arg(long, default_value = "http://127.0.0.1:9")]
    served_at: String,
}

/// Who issues the tokens.
const ISSUER: &str = "https://as.bank.example/oauth/v2";

/// The file with the status list that tokens name.
const STATUS_LIST: &str = "statuses.jwt";

/// What is asked for.
pub(super) const HOST: &str = "api.bank.example";

/// What clients and proxies send besides.
pub(super) const HEADERS: &[(&str, &str)] = &[
    (":authority", HOST),
    (":method", "GET"),
    (":path", "/accounts/22289?expand=balances"),
    (":scheme", "https"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    ),
    ("accept", "application/json, text/plain, */*"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en-GB,en;q=0.9,de;q=0.7"),
    ("cache-control", "no-cache"),
    ("origin", "https://app.bank.example"),
    ("referer", "https://app.bank.example/accounts/overview"),
    ("sec-fetch-dest", "empty"),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-site", "same-site"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-fapi-auth-date", "Tue, 11 Sep 2012 19:43:31 GMT"),
    ("x-fapi-interaction-id", "93bac548-d2de-4546-b106-880a5018460d"),
    ("x-forwarded-proto", "https"),
];

/// Rules for tokens that are signed by `algorithm`.
pub(super) fn configuration(algorithm: &str) -> String {
    format!(
        "
issuers:
- issuer: {ISSUER}
  audiences: [https://api.bank.example]
  algorithms: [{algorithm}]
  keys: {{jwks_file: jwks.json}}
policies:
- {{name: api, sender_constraint: either}}
dpop: {{proof_window: 5m}}
upstream:
  headers: {{x-auth-subject: sub}}
"
    )
}

/// Where nginx puts the client's certificate, as in deploy/nginx.
const NGINX: &str = "\
forward_auth: {flavour: nginx}
client_certificate: {source: header, header: {name: x-ssl-client-cert, format: pem-urlencoded}}
";

/// Long enough for a machine that has other things to do, or that counts each instruction.
const PATIENT: &str = "limits: {check_deadline: 60s}\n";

/// The same, and of two tokens that come in turn, none is remembered.
const FORGETFUL: &str =
    "limits: {check_deadline: 60s, token_cache_entries: 1, token_cache_bytes: 65536}\n";

const KEYS: &str = "  keys: {jwks_file: jwks.json}\n";

/// All that may revoke a token, and keys at the side of the list.
fn revoking(served_at: &str) -> String {
    format!(
        "  keys: {{jwks_uri: '{served_at}/jwks.json'}}
  revocation:
    denylist_file: revoked.jsonl
    status_list: required
    events: {{delivery: poll, endpoint: '{served_at}/poll', poll_interval: 1h, audience: gateway,
             snapshot_file: events}}
"
    )
}

/// The status list of an issuer where each token is good.
fn status_list(issuer: &Signer, uri: &str, tokens: usize) -> String {
    let statuses = compress_to_vec_zlib(&vec![0; tokens.div_ceil(8)], 9);
    let list = json!({"bits": 1, "lst": URL_SAFE_NO_PAD.encode(statuses)});
    let claims = json!({"sub": uri, "iat": now(), "ttl": 86_400, "status_list": list});
    issuer.sign("statuslist+jwt", &claims)
}

/// A journal of events about others: behind each line stands a check over it and all before.
fn events() -> String {
    let (until, expires) = (now() * 1000, (now() + 86_400) * 1000);
    let mut journal = format!("keybound security events, version 2\nissuer {ISSUER}\n");
    let mut check = Thumbprint::of(journal.as_bytes());
    for it in 0..1000 {
        let subject = EventSubject::User(format!("other-{it}").into()).key();
        let key = URL_SAFE_NO_PAD.encode(subject.octets());
        let line = format!("{key} {until} {expires} session-revoked");
        check = Thumbprint::of(&[check.octets(), line.as_bytes()].concat());
        let told = URL_SAFE_NO_PAD.encode(&check.octets()[..8]);
        journal.extend([&line, " ", &told, "\n"]);
    }
    journal
}

/// Entries of a denylist for others, of each kind.
fn revoked() -> String {
    let kinds = ["jti", "sub", "sid", "client_id"];
    let entries = (0..1000).flat_map(|it| kinds.map(|kind| json!({kind: format!("other-{it}")})));
    let both = json!({"sub": "other", "client_id": "other", "before": 1_800_000_000});
    let lines: Vec<_> = entries.chain([both]).map(|it| it.to_string()).collect();
    lines.join("\n") + "\n"
}

pub(super) fn make(options: &Options) {
    let folder = &options.folder;
    fs::create_dir_all(folder).unwrap();
    let put = |name: &str, text: &[u8]| fs::write(folder.join(name), text).unwrap();
    let (issuer, client) =
        (Signer::new(Algorithm::RS256, "key"), Signer::new(Algorithm::ES256, "client"));
    put("jwks.json", json!({"keys": [issuer.jwk()]}).to_string().as_bytes());
    let rules = configuration("RS256");
    put("keybound.yaml", format!("{rules}{PATIENT}").as_bytes());
    put("nginx.yaml", format!("{rules}{PATIENT}{NGINX}").as_bytes());
    put("forgetful.yaml", format!("{rules}{FORGETFUL}").as_bytes());
    let revoking = rules.replacen(KEYS, &revoking(&options.served_at), 1);
    put("revoking.yaml", format!("{revoking}{PATIENT}").as_bytes());
    put("revoked.jsonl", revoked().as_bytes());
    put("events", events().as_bytes());

    let Parties { client: identity, another } = certificates(folder);
    let x5t = json!({"x5t#S256": identity.thumbprint().to_base64url()});
    let token = |number, cnf| issuer.sign("at+jwt", &claims(number, cnf));
    let tokens: Vec<String> = (0..options.tokens).map(|it| token(it, &x5t)).collect();
    put("tokens.txt", tokens.join("\n").as_bytes());
    let pem = url_encoded_pem(identity.certificate_der());
    let bearer =
        |pem: &str, token: &String| check(pem, &[("authorization", &format!("Bearer {token}"))]);
    put("cached.grpc", &frames(tokens.iter().map(|it| bearer(&pem, it))));
    let uri = format!("{}/{STATUS_LIST}", options.served_at);
    let listed: Vec<String> = (0..options.tokens)
        .map(|number| {
            let mut claims = claims(number, &x5t);
            claims["status"] = json!({"status_list": {"idx": number, "uri": uri}});
            issuer.sign("at+jwt", &claims)
        })
        .collect();
    put("listed.grpc", &frames(listed.iter().map(|it| bearer(&pem, it))));
    put(STATUS_LIST, status_list(&issuer, &uri, options.tokens).as_bytes());
    let another = url_encoded_pem(another.certificate_der());
    put("wrong-certificate.grpc", &frames(tokens.iter().map(|it| bearer(&another, it))));
    put("forged.grpc", &frames([bearer(&pem, &tampered(&tokens[0]))].into_iter()));

    let jkt = thumbprint(client.jwk().as_object().unwrap()).unwrap().to_base64url();
    let bound = token(0, &json!({"jkt": jkt}));
    let proofs = (0..options.proofs).map(|number| dpop_check(&client, &bound, number));
    put("dpop.grpc", &frames(proofs));
}

/// Who has certificates.
pub(super) struct Parties {
    pub(super) client: Identity,
    pub(super) another: Identity,
}

/// Certificates of the server, of the client that tokens are bound to, and of another, put into `folder`
/// with their keys.
pub(super) fn certificates(folder: &Path) -> Parties {
    let put = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    fs::create_dir_all(folder).unwrap();
    let authority = Authority::new("authority").unwrap();
    let client_of = |name| {
        let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        authority.client(name, rsa).unwrap()
    };
    let (client, another) = (client_of("payments-client"), client_of("accounting-client"));
    let servers = [authority.server(&[HOST]).unwrap(), authority.server(&[HOST]).unwrap()];
    put("ca.pem", &authority.certificate_pem());
    let named = [("client", &client), ("another", &another)];
    let servers = ["server", "renewed"].into_iter().zip(&servers);
    for (name, identity) in named.into_iter().chain(servers) {
        put(&format!("{name}.pem"), &identity.certificate_pem());
        put(&format!("{name}.key"), &identity.key_pem());
    }
    Parties { client, another }
}

/// What the client or another shows in mutual TLS, of a folder that [`certificates`] filled.
pub(super) fn tls_client(folder: &Path, name: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap()).unwrap();
    let chain = CertificateDer::from_pem_file(folder.join(format!("{name}.pem"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
    let builder = ClientConfig::builder().with_root_certificates(roots);
    builder.with_client_auth_cert(vec![chain], key).unwrap()
}

pub(super) fn claims(number: usize, cnf: &Value) -> Value {
    let now = now();
    json!({
        "iss": ISSUER,
        "sub": "2f6c8a7e-6d0b-4c39-a0b6-3d1d0a8c1c77",
        "aud": ["https://api.bank.example", "https://payments.bank.example"],
        "client_id": "1cbc9a3e-5b2e-4b3f-9a41-3c53c1b8c6e1",
        "iat": now, "nbf": now, "exp": now + 10 * 86_400, "auth_time": now - 60,
        "jti": format!("{number:08x}-9d55-4b0e-8f0c-ab54bd2b6f1d"),
        "scope": "openid accounts payments fundsconfirmations",
        "acr": "urn:openbanking:psd2:sca",
        "cnf": cnf,
        "openbanking_intent_id": "urn-bank-intent-58923-0f1e2d3c4b5a69788796a5b4c3d2e1f0",
        "roles": ["accounts:read", "balances:read", "transactions:read"],
    })
}

/// A request with `token`, and a proof of its own by `client`.
pub(super) fn dpop_check(client: &Signer, token: &str, number: usize) -> Vec<u8> {
    let claims = json!({
        "jti": format!("{number:08x}-4b0e-8f0c-ab54bd2b6f1d"), "htm": "GET", "iat": now(),
        "htu": format!("https://{HOST}/accounts/22289"),
        "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
    });
    let proof = prove(client, &claims);
    check("", &[("authorization", &format!("DPoP {token}")), ("dpop", &proof)])
}

pub(super) fn check(certificate: &str, own: &[(&str, &str)]) -> Vec<u8> {
    let mut request = auth::CheckRequest::default();
    let attributes = request.attributes.get_or_insert_default();
    let source = attributes.source.get_or_insert_default();
    source.certificate = certificate.into();
    source.principal = "CN=payments-client,O=Example Third Party,C=GB".into();
    attributes.destination.get_or_insert_default();
    let http = attributes.request.get_or_insert_default().http.get_or_insert_default();
    http.id = "1234567890123456789".into();
    http.method = "GET".into();
    http.scheme = "https".into();
    http.host = HOST.into();
    http.path = "/accounts/22289?expand=balances".into();
    http.protocol = "HTTP/1.1".into();
    let headers = HEADERS.iter().chain(own);
    http.headers.extend(headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    request.encode_to_vec()
}

pub(super) fn frames(messages: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut all = vec![];
    for message in messages {
        all.push(0);
        all.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        all.extend_from_slice(&message);
    }
    all
}

/// As Envoy writes it into `source.certificate`.
pub(super) fn url_encoded_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|it| str::from_utf8(it).unwrap()).collect();
    let lines = lines.join("\n");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n");
    let encoded = pem.bytes().map(|it| match it {
        b'-' => "-".to_owned(),
        it if it.is_ascii_alphanumeric() => char::from(it).to_string(),
        it => format!("%{it:02X}"),
    });
    encoded.collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
