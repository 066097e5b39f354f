//! What `explain` says is what `serve` decides, in words that are kept in `tests/vectors/explain`.
//!
//! `KEYBOUND_BLESS=1` writes them anew.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, Metadata};
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value as ProtobufValue};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use keybound::clock::{Clock, FixedClock};
use keybound::config;
use keybound::front::capture::{Capture, CaptureRules};
use keybound::front::ext_authz::wire;
use keybound::installation::{Checker, Installation};
use keybound_core::jose;
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::NonceKeys;
use keybound_core::policy::Mode;
use keybound_core::{Answer, Denial, Detail, Facts, Field, Mark, UnixTime, Verdict};
use prost::Message;
use rcgen::KeyPair;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://as.example.com";

/// A key that is the same in every run, so that what is told of it is as well.
struct FixedKey {
    private: EncodingKey,
    public: Value,
}

impl FixedKey {
    fn new(seed: u8) -> Self {
        // RFC 8410 §7: a private key in PKCS #8.
        let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        der.extend([seed; 32]);
        let pair = KeyPair::try_from(der.as_slice()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
        let public = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
        Self { private: EncodingKey::from_ed_der(&der), public }
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.private).unwrap()
    }

    fn thumbprint(&self) -> Thumbprint {
        jose::thumbprint(self.public.as_object().unwrap()).unwrap()
    }
}

/// An installation: its configuration and keys in a folder, and an issuer that signs.
struct Site {
    folder: TempDir,
    issuer: FixedKey,
    client: FixedKey,
}

impl Site {
    fn new() -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
            issuer: FixedKey::new(7),
            client: FixedKey::new(9),
        };
        let mut jwk = site.issuer.public.clone();
        jwk["kid"] = json!("key-1");
        site.write("jwks.json", json!({"keys": [jwk]}).to_string());
        // RFC 7515, appendix A.3, for an algorithm of another curve.
        let point = [
            "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        ];
        let odd = json!({"kty": "EC", "crv": "P-256", "alg": "ES384", "kid": "key-2",
            "x": point[0], "y": point[1]});
        let es256 =
            json!({"kty": "EC", "crv": "P-256", "kid": "key-3", "x": point[0], "y": point[1]});
        site.write("mixed.json", json!({"keys": [jwk, odd, es256]}).to_string());
        let mixed = CONFIGURATION.replace("jwks.json", "mixed.json");
        site.write("mixed.yaml", mixed);
        for (name, source) in [("peer", "peer"), ("xfcc", "xfcc")] {
            let source = format!("client_certificate: {{source: {source}}}\n");
            site.write(&format!("{name}.yaml"), CONFIGURATION.to_owned() + &source);
        }
        site
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn config(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.yaml"))
    }

    fn claims() -> Value {
        json!({
            "iss": ISSUER, "aud": "https://api.example.com", "exp": NOW + 300, "iat": NOW,
            "sub": "alice", "client_id": "app", "scope": "payments read", "acr": "loa3",
            "cnf": {"x5t#S256": thumbprint("p256").to_base64url()},
        })
    }

    fn token(&self, edit: impl FnOnce(&mut Value)) -> String {
        let mut claims = Self::claims();
        edit(&mut claims);
        self.issuer.sign(&header("at+jwt", "key-1"), &claims)
    }

    fn dpop_token(&self) -> String {
        let jkt = self.client.thumbprint().to_base64url();
        self.token(|it| it["cnf"] = json!({"jkt": jkt}))
    }

    /// A request with a proof that has had one edit.
    fn proved(&self, key: &FixedKey, edit: impl FnOnce(&mut Value)) -> CheckRequest {
        let token = self.dpop_token();
        let mut claims = json!({
            "jti": "1", "htm": "GET", "htu": "https://api.example.com/dpop/x", "iat": NOW,
            "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
        });
        edit(&mut claims);
        let jwk = Some(serde_json::from_value(key.public.clone()).unwrap());
        let header =
            Header { typ: Some("dpop+jwt".to_owned()), jwk, ..Header::new(Algorithm::EdDSA) };
        let proof = key.sign(&header, &claims);
        let headers = [("authorization", format!("DPoP {token}")), ("dpop", proof)];
        request("untrusted-nocert", "/dpop/x", &headers)
    }

    async fn installation(&self, config: &str, clock: &Arc<dyn Clock>) -> Installation {
        let config = config::load(&self.config(config)).unwrap();
        let runtime = tokio::runtime::Handle::current();
        let made = Installation::start(config.rules, None, clock, &runtime);
        let installation = made.unwrap().installation;
        installation.issuers[0].keys.ready().await;
        installation
    }
}

const CONFIGURATION: &str = "
listen: {ext_authz: '127.0.0.1:0', admin: '127.0.0.1:0'}
issuers:
- issuer: https://as.example.com
  audiences: [https://api.example.com]
  keys: {jwks_file: jwks.json}
policies:
- name: refunds
  match: {methods: [DELETE]}
  sender_constraint: certificate
- name: payments
  match: {hosts: [api.example.com], path_prefix: /payments}
  sender_constraint: certificate
  scopes: [payments]
  claims: {acr: [loa3]}
- name: proven
  match: {hosts: [api.example.com], path_prefix: /dpop}
  sender_constraint: dpop
- name: trial
  match: {hosts: [api.example.com], path_prefix: /trial}
  sender_constraint: certificate
  mode: report
- name: chosen
  match: {hosts: [nowhere.test]}
  sender_constraint: certificate
  allow_route_annotation: true
- name: transfers
  match: {hosts: [api.example.com], path_prefix: /transfers}
  sender_constraint: certificate
  scopes: [transfer]
  origin: https://api.example.com
  resource: {name: Transfers}
  authentication: {acr: [phr, 'urn:example:loa3'], max_age: 5m}
- name: health
  match: {hosts: [api.example.com], path_prefix: /healthz}
  public: true
";

fn header(typ: &str, kid: &str) -> Header {
    let (typ, kid) = (Some(typ.to_owned()), Some(kid.to_owned()));
    Header { typ, kid, ..Header::new(Algorithm::EdDSA) }
}

fn vectors(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(folder)
}

fn thumbprint(certificate: &str) -> Thumbprint {
    let path = vectors("envoy/certs").join(format!("{certificate}.crt"));
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().skip_while(|it| !it.starts_with("-----BEGIN")).skip(1);
    let body: String = lines.take_while(|it| !it.starts_with('-')).collect();
    Thumbprint::of(&base64::engine::general_purpose::STANDARD.decode(body).unwrap())
}

/// What Envoy sent for another request, with this path and these headers.
fn request(capture: &str, path: &str, headers: &[(&str, String)]) -> CheckRequest {
    let captured = fs::read(vectors("envoy").join(format!("{capture}.pb"))).unwrap();
    let mut request = CheckRequest::decode(&*captured).unwrap();
    let attributes = request.attributes.as_mut().unwrap();
    let http = attributes.request.as_mut().unwrap().http.as_mut().unwrap();
    http.host = "api.example.com".into();
    http.scheme = "https".into();
    http.path = path.into();
    let ours = ["authorization", "dpop"];
    http.headers.retain(|name, _| !ours.contains(&name.as_str()));
    let lines = &mut http.header_map.get_or_insert_default().headers;
    lines.retain(|it| !ours.contains(&it.key.as_str()));
    for (name, value) in headers {
        let raw_value = value.clone().into_bytes();
        lines.push(HeaderValue { key: (*name).to_owned(), raw_value, ..HeaderValue::default() });
    }
    request
}

fn bearer(capture: &str, path: &str, token: &str) -> CheckRequest {
    request(capture, path, &[("authorization", format!("Bearer {token}"))])
}

/// The same, on a route whose annotation names this policy, as Envoy Gateway tells it.
fn annotated(mut request: CheckRequest, policy: &str) -> CheckRequest {
    let structure = |name: &str, it: Kind| {
        let value = ProtobufValue { kind: Some(it) };
        Struct { fields: HashMap::from([(name.to_owned(), value)]) }
    };
    let annotations = structure("keybound-policy", Kind::StringValue(policy.into()));
    let resource = structure("annotations", Kind::StructValue(annotations));
    let resource = ProtobufValue { kind: Some(Kind::StructValue(resource)) };
    let list = ListValue { values: vec![resource] };
    let ours = structure("resources", Kind::ListValue(list));
    let filter_metadata = HashMap::from([("envoy-gateway".to_owned(), ours)]);
    let metadata = Metadata { filter_metadata, ..Metadata::default() };
    request.attributes.as_mut().unwrap().route_metadata_context = Some(metadata);
    request
}

/// The text, the diagnostics and the exit code of the program.
fn run(arguments: &[&str], input: &[u8]) -> (String, String, i32) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_keybound"))
        .arg("explain")
        .args(arguments)
        .env_remove("KEYBOUND_CONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that finds its arguments wrong does not read its input.
    let _written = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

fn explain(config: &Path, message: &[u8], more: &[&str]) -> (String, String, i32) {
    let config = config.to_str().unwrap();
    let at = NOW.to_string();
    let arguments = [&["--config", config, "--request", "-", "--at", &at], more].concat();
    run(&arguments, message)
}

fn cases(site: &Site) -> Vec<(&'static str, &'static str, CheckRequest)> {
    let pay = |token: &str| bearer("cert-p256", "/payments/7?secret=x", token);
    let pop = |token: &str| {
        let authorization = format!("MTLS_POP {token}");
        request("cert-p256", "/payments", &[("authorization", authorization)])
    };
    let good = site.token(|_| {});
    let (signed, _) = good.rsplit_once('.').unwrap();
    let redacted = format!("{signed}.{}", "A".repeat(86));
    let without = |name: &str| site.token(|it| drop(it.as_object_mut().unwrap().remove(name)));
    let dpop = site.dpop_token();
    let hs256 = {
        let header = Header::new(Algorithm::HS256);
        let key = EncodingKey::from_secret(b"secret");
        jsonwebtoken::encode(&header, &Site::claims(), &key).unwrap()
    };
    let by = |header: &Header| pay(&site.issuer.sign(header, &Site::claims()));
    let edited = |edit: fn(&mut Value)| pay(&site.token(edit));
    let client = &site.client;
    vec![
        ("peer", "allowed", pay(&good)),
        ("peer", "certificate_mismatch", bearer("cert-p384", "/payments", &good)),
        ("peer", "certificate_missing", bearer("untrusted-nocert", "/payments", &good)),
        ("xfcc", "certificate_conflict", bearer("inj-all-element", "/payments", &good)),
        ("xfcc", "allowed-xfcc", pay(&good)),
        ("peer", "allowed-annotated", annotated(pay(&good), "chosen")),
        ("peer", "token_expired", edited(|it| it["exp"] = json!(NOW - 60))),
        ("peer", "token_premature", edited(|it| it["nbf"] = json!(NOW + 60))),
        ("peer", "token_audience_mismatch", edited(|it| it["aud"] = json!(["a", "b\u{1b}[2J"]))),
        ("peer", "token_issuer_unknown", edited(|it| it["iss"] = json!("https://as.example.com/"))),
        ("peer", "token_claim_missing", pay(&without("exp"))),
        ("peer", "scope_insufficient", edited(|it| it["scope"] = json!("read"))),
        ("peer", "claim_insufficient", edited(|it| it["acr"] = json!("loa1"))),
        (
            "peer",
            "authentication_insufficient",
            bearer("cert-p256", "/transfers", &site.token(|it| it["auth_time"] = json!(NOW - 331))),
        ),
        (
            "peer",
            "served",
            request("cert-p256", "/.well-known/oauth-protected-resource/transfers", &[]),
        ),
        ("peer", "public", bearer("cert-p256", "/healthz", &good)),
        (
            "peer",
            "credentials_ambiguous-public",
            request("cert-p256", "/healthz?access_token=x", &[]),
        ),
        ("peer", "token_signature_invalid", pay(&redacted)),
        ("peer", "token_key_unknown", by(&header("at+jwt", "key-2"))),
        ("mixed", "token_key_unknown-skipped", by(&header("at+jwt", "key-2"))),
        ("mixed", "token_algorithm_forbidden-key", by(&header("at+jwt", "key-3"))),
        ("peer", "token_algorithm_forbidden", pay(&hs256)),
        ("peer", "token_type_wrong", by(&header("JWT", "key-1"))),
        ("peer", "token_malformed", pay("opaque")),
        ("peer", "binding_missing", pay(&without("cnf"))),
        ("peer", "scheme_mismatch", pay(&dpop)),
        ("peer", "scheme_mismatch-unbound", pop(&without("cnf"))),
        ("peer", "allowed-mtls-pop", pop(&good)),
        ("peer", "credentials_missing", request("cert-p256", "/payments", &[])),
        ("peer", "policy_unknown", bearer("cert-p256", "/elsewhere", &good)),
        ("peer", "reported", bearer("cert-p384", "/trial", &good)),
        ("peer", "allowed-dpop", site.proved(client, |_| {})),
        ("peer", "proof_target_mismatch", site.proved(client, |it| it["htu"] = json!("https://a"))),
        ("peer", "proof_stale", site.proved(client, |it| it["iat"] = json!(NOW - 61))),
        ("peer", "proof_key_mismatch", site.proved(&FixedKey::new(11), |_| {})),
        (
            "peer",
            "proof_missing",
            request("cert-p256", "/dpop", &[("authorization", format!("DPoP {dpop}"))]),
        ),
        ("peer", "request_malformed", CheckRequest::default()),
    ]
}

#[test]
fn each_case_is_told_in_these_words() {
    let site = Site::new();
    let bless = std::env::var_os("KEYBOUND_BLESS").is_some();
    let mut different = vec![];
    for (config, name, request) in cases(&site) {
        let message = request.encode_to_vec();
        let (text, diagnostics, code) = explain(&site.config(config), &message, &[]);
        assert_eq!(diagnostics, "", "{name}");
        // How long the keys took to read is chance.
        let text = (1..60).fold(text, |it, age| it.replace(&format!(" {age}s old"), " 0s old"));
        let is_allowed =
            name.starts_with("allowed") || ["public", "reported", "served"].contains(&name);
        assert_eq!(code, if is_allowed { 0 } else { 3 }, "{name}: {text}");
        let last = text.lines().last().unwrap();
        let reason = name.split('-').next().unwrap();
        assert!(is_allowed || last.ends_with(&format!(": {reason}")), "{name}: {text}");
        let path = vectors("explain").join(format!("{name}.txt"));
        if bless {
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            different.push(format!("{name}:\n{text}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// The file in which `serve --capture` keeps a request that ended so, under the configuration with this
/// digest, in a folder of its own.
fn kept(within: &Path, verdict: &Verdict, digest: &str, message: &[u8]) -> PathBuf {
    let folder = tempfile::tempdir_in(within).unwrap().keep();
    let rules = CaptureRules { folder: folder.clone(), reasons: vec![], most: 1 };
    let clock = Arc::new(FixedClock(UnixTime::from_secs(NOW)));
    let capture = Capture::start(rules, clock).unwrap();
    capture.take(verdict, digest, None, || message.to_vec().into());
    drop(capture);
    loop {
        // Its thread writes it soon.
        std::thread::yield_now();
        let mut files = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().path());
        if let Some(file) = files.find(|it| it.extension().is_some_and(|it| it == "pb")) {
            return file;
        }
    }
}

/// The explanation of a file, with nothing but the configuration.
fn explained(config: &Path, file: &Path, more: &[&str]) -> (String, i32) {
    let (config, file) = (config.to_str().unwrap(), file.to_str().unwrap());
    let arguments = [&["--config", config, "--request", file], more].concat();
    let (text, diagnostics, code) = run(&arguments, b"");
    assert_eq!(diagnostics, "");
    (text, code)
}

#[tokio::test]
async fn what_was_kept_is_explained_for_the_reason_for_which_it_was_kept() {
    let site = Site::new();
    let clock: Arc<dyn Clock> = Arc::new(FixedClock(UnixTime::from_secs(NOW)));
    let folder = tempfile::tempdir().unwrap();
    let mut explained_ones = 0;
    for (config, name, request) in cases(&site) {
        let installation = site.installation(config, &clock).await;
        let digest = config::load(&site.config(config)).unwrap().digest;
        let message = request.encode_to_vec();
        let Ok(read) = wire::read_for(&message, &installation.rules) else { continue };
        let verdict = keybound_core::check(&installation.rules, &installation, &read, clock.now());
        let verdict = verdict.await;
        // One is no check at all: it is served.
        let Some(reason) = verdict.outcome.err().filter(|_| name != "served") else { continue };
        let file = kept(folder.path(), &verdict, &digest, &message);
        let (text, code) = explained(&site.config(config), &file, &[]);
        assert_eq!(code, if name == "reported" { 0 } else { 3 }, "{name}: {text}");
        assert!(text.contains("as checked at 2027-01-15T08:00:00Z\n"), "{name}: {text}");
        let last =
            format!("kept at 2027-01-15T08:00:00.000Z, under this configuration, for: {reason}\n");
        assert!(text.ends_with(&last), "{name}: {text}");
        // By the steps of the check, and not only because the file says so.
        assert!(text.contains("✗") && !text.contains("✗ kept"), "{name}: {text}");
        explained_ones += 1;
    }
    assert!(25 < explained_ones, "{explained_ones}");
}

#[tokio::test]
async fn what_no_file_can_hold_is_explained_for_the_reason_for_which_it_was_kept() {
    let site = Site::new();
    let config = &site.config("peer");
    let digest = config::load(config).unwrap().digest;
    let folder = tempfile::tempdir().unwrap();
    let message = site.proved(&site.client, |_| {}).encode_to_vec();
    let details = Detail::ALL.iter().map(|it| (it.denial(), Some(*it)));
    for (reason, detail) in Denial::ALL.iter().map(|it| (*it, None)).chain(details) {
        let facts = Facts { detail, ..Facts::default() };
        let verdict = Verdict { outcome: Err(reason), facts, mode: Mode::Enforce };
        let file = kept(folder.path(), &verdict, &digest, &message);
        let (text, code) = explained(config, &file, &[]);
        assert_eq!(code, 3, "{reason}: {text}");
        let status = format!("✗ denied with status {}: {reason}\nkept at ", reason.status());
        assert!(text.contains(&status), "{reason}: {text}");
        assert!(text.ends_with(&format!(" for: {reason}\n")), "{reason}: {text}");
        let told = detail.map(|it| format!("detail: {} ({it})", it.sentence()));
        assert!(told.is_none_or(|it| text.contains(&it)), "{reason}: {text}");
    }
}

#[tokio::test]
async fn what_was_kept_counts_as_verified_only_as_it_was_kept() {
    let site = Site::new();
    let config = &site.config("peer");
    let digest = config::load(config).unwrap().digest;
    let folder = tempfile::tempdir().unwrap();
    let token = site.token(|_| {});
    let message = bearer("cert-p384", "/payments", &token).encode_to_vec();
    let verdict = Verdict {
        outcome: Err(Denial::CertificateMismatch),
        facts: Facts::default(),
        mode: Mode::Enforce,
    };
    let file = &kept(folder.path(), &verdict, &digest, &message);
    let (text, _) = explained(config, file, &[]);
    let believed =
        "· key           signature    redacted when the request was kept: taken as verified";
    assert!(text.contains(believed), "{text}");
    assert!(text.contains("and is taken as verified: --token FILE restores it"), "{text}");

    // With a token, its own signature counts, and what the file says decides nothing.
    let stranger = FixedKey::new(8).sign(&header("at+jwt", "key-1"), &Site::claims());
    for (other, reason) in
        [(&token, "certificate_mismatch"), (&stranger, "token_signature_invalid")]
    {
        let path = site.write("token", other);
        let (text, code) = explained(config, file, &["--token", path.to_str().unwrap()]);
        assert_eq!(code, 3);
        assert!(text.contains(&format!("✗ denied with status 401: {reason}\n")), "{text}");
        assert!(!text.contains("taken as verified"), "{text}");
        assert!(text.ends_with(" for: certificate_mismatch\n"), "{text}");
    }
    let (text, _) = explained(config, file, &["--at", &(NOW + 3600).to_string()]);
    assert!(text.contains(": token_expired\n"), "{text}");

    // Under another configuration, that one decides.
    let bound = "path_prefix: /payments}\n  sender_constraint: certificate";
    let unbound = "path_prefix: /payments}\n  sender_constraint: none";
    let other = site.write("other.yaml", CONFIGURATION.replace(bound, unbound));
    let (text, code) = explained(&other, file, &[]);
    assert_eq!(code, 0, "{text}");
    let which = format!(
        "under another configuration (digest {}), for: certificate_mismatch\n",
        digest.split_at(12).0
    );
    assert!(text.ends_with(&which), "{text}");
    let (text, _) = explained(&other, file, &["--json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        told["kept"],
        json!({"at": "2027-01-15T08:00:00.000Z", "reason": "certificate_mismatch", "detail": null,
            "configuration": digest, "same_configuration": false})
    );
    assert_eq!(told["decision"], "allow");
}

#[test]
fn its_page_shows_it_as_it_is() {
    let page = fs::read_to_string(vectors("../../docs/explain.md")).unwrap();
    let shown = page.split("```text\nGET ").nth(1).unwrap().split("```").next().unwrap();
    let told = fs::read_to_string(vectors("explain/certificate_mismatch.txt")).unwrap();
    for line in format!("GET {shown}").lines().filter(|it| *it != "…") {
        assert!(told.lines().any(|it| it == line), "{line}");
    }
}

#[test]
fn nothing_secret_is_told() {
    let site = Site::new();
    for (config, name, request) in cases(&site) {
        let message = request.encode_to_vec();
        let sent = wire::read(&message, None, None).unwrap_or_default();
        let secrets = [sent.authorization, sent.proof].map(|it| match it {
            Field::One(value) => String::from_utf8(value.to_vec()).unwrap(),
            Field::Absent | Field::Many => String::new(),
        });
        for more in [&[][..], &["--json"]] {
            let (text, _, _) = explain(&site.config(config), &message, more);
            for part in secrets.iter().flat_map(|it| it.split(['.', ' '])) {
                assert!(part.len() < 20 || !text.contains(part), "{name}: {text}");
            }
            assert!(!text.contains("secret=x"), "{name}: {text}");
        }
    }
}

#[tokio::test]
async fn it_decides_as_serve_does_for_every_capture() {
    let site = Site::new();
    let clock: Arc<dyn Clock> = Arc::new(FixedClock(UnixTime::from_secs(NOW)));
    let token = site.token(|_| {});
    let mut compared = 0;
    for config in ["peer", "xfcc"] {
        let (served, explained) =
            (site.installation(config, &clock).await, site.installation(config, &clock).await);
        let checker = Checker::new(Arc::clone(&clock));
        let captures = fs::read_dir(vectors("envoy")).unwrap().map(|it| it.unwrap().path());
        for path in captures.filter(|it| it.extension().is_some_and(|it| it == "pb")) {
            let sent = fs::read(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let with_token = bearer(name, "/payments", &token).encode_to_vec();
            for message in [sent, with_token] {
                let Ok(request) = wire::read_for(&message, &served.rules) else { continue };
                let verdict =
                    keybound_core::check(&served.rules, &served, &request, clock.now()).await;
                let expected = Answer::of(&verdict, served.policies(), Some(&request));
                let verdict =
                    checker.explain_with(&explained.rules, &explained, &request, None).await;
                let failed =
                    verdict.facts.explanation.steps().iter().any(|it| it.mark == Mark::Failed);
                assert_eq!(failed, verdict.outcome.is_err(), "{name}");
                let found = Answer::of(&verdict, explained.policies(), Some(&request));
                assert_eq!(found, expected, "{name}");
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn a_header_that_could_be_taken_for_one_of_ours_is_named() {
    let site = Site::new();
    let mut request = bearer("cert-p256", "/payments", &site.token(|_| {}));
    let http =
        request.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http.headers.insert("x_auth_subject".to_owned(), "root".to_owned());
    http.headers.insert("accept".to_owned(), "*".to_owned());
    let (text, _, code) = explain(&site.config("peer"), &request.encode_to_vec(), &[]);
    assert!(text.contains("removed") && text.contains("x_auth_subject"), "{text}");
    assert_eq!(code, 0, "{text}");
}

#[test]
fn an_annotation_that_counts_for_nothing_is_told_to() {
    let site = Site::new();
    let config = CONFIGURATION.replace("  allow_route_annotation: true\n", "");
    let config = site.write("unheeding.yaml", config);
    for policy in ["chosen", "payments"] {
        let request = bearer("cert-p256", "/payments", &site.token(|_| {}));
        let (text, _, code) = explain(&config, &annotated(request, policy).encode_to_vec(), &[]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("payments, the first") && text.contains("is ignored"), "{text}");
    }
}

/// A configuration with one issuer, with these lines about it, and one policy.
fn configuration(issuer: &str, policy: &str, besides: &str) -> String {
    format!(
        "listen: {{ext_authz: '127.0.0.1:0', admin: '127.0.0.1:0'}}
issuers:
- {issuer}
policies:
- name: all
  {policy}
{besides}
"
    )
}

const PLAIN: &str = "issuer: https://as.example.com
  audiences: [https://api.example.com]
  keys: {jwks_file: jwks.json}";
const REALM: &str = "issuer: https://sso.example.com/realms/shop
  audiences: [https://api.example.com]
  keys: {jwks_file: jwks.json}";
const BOUND: &str = "sender_constraint: certificate";
const SCOPED: &str = "sender_constraint: certificate
  scopes: [payments]";

/// A wrong advice that was given once: a token, the configuration, what must be advised now, and what
/// must not.
struct WrongAdvice {
    config: String,
    token: String,
    right: &'static str,
    wrong: &'static str,
}

/// A token of three parts that nobody signed.
fn unsigned(header: &Value) -> String {
    let part = |it: &Value| URL_SAFE_NO_PAD.encode(it.to_string());
    format!("{}.{}.", part(header), part(&Site::claims()))
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn wrong_advices(site: &Site) -> Vec<WrongAdvice> {
    let with =
        |config: String, token: String, right, wrong| WrongAdvice { config, token, right, wrong };
    let plain = || configuration(PLAIN, BOUND, "");
    let issuer = |more: &str| configuration(&format!("{PLAIN}\n  {more}"), BOUND, "");
    let certificates = |source: &str| {
        configuration(PLAIN, BOUND, &format!("client_certificate: {{source: {source}}}"))
    };
    let signed = |header: &Header, edit: &dyn Fn(&mut Value)| {
        let mut claims = Site::claims();
        edit(&mut claims);
        site.issuer.sign(header, &claims)
    };
    let token = |edit: &dyn Fn(&mut Value)| signed(&header("at+jwt", "key-1"), edit);
    let untyped = Header { typ: None, ..header("", "key-1") };
    let jwt = header("JWT", "key-1");
    let hex = thumbprint("p256").to_hex();
    let pairs: Vec<_> = hex.as_bytes().chunks(2).map(|it| str::from_utf8(it).unwrap()).collect();
    let colons = pairs.join(":").to_uppercase();
    let sha1 = hex.get(..40).unwrap();
    let keycloak = |it: &mut Value| it["iss"] = json!("https://sso.example.com/realms/shop");
    let hs256 = || {
        let key = EncodingKey::from_secret(b"secret");
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &Site::claims(), &key).unwrap()
    };
    let other = "issuer: https://other.example.com
  audiences: [https://api.example.com]
  keys: {jwks_file: jwks.json}
- issuer: https://as.example.com
  audiences: [https://api.example.com]
  keys: {jwks_file: jwks.json}";
    vec![
        with(
            issuer("token_types: [at+jwt, JWT]"),
            signed(&untyped, &|_| {}),
            "`token_types: [at+jwt, jwt, absent]`",
            "token_types: [JWT]",
        ),
        with(
            plain(),
            signed(&untyped, &|_| {}),
            "`token_types: [at+jwt, absent]`",
            "token_types: [JWT]",
        ),
        with(plain(), signed(&jwt, &|_| {}), "`token_types: [at+jwt, JWT]`", "RFC 9068"),
        with(
            plain(),
            signed(&jwt, &|it| it["nonce"] = json!("n")),
            "the client must send the access token",
            "token_types",
        ),
        with(plain(), token(&|it| it["at_hash"] = json!("x")), "it is an ID token", "token_types"),
        with(plain(), token(&|it| it["events"] = json!({})), "it is a logout token", "token_types"),
        with(
            plain(),
            signed(&header("dpop+jwt", "key-1"), &|_| {}),
            "it is a DPoP proof",
            "token_types",
        ),
        with(plain(), hs256(), "a symmetric algorithm is never accepted", "add "),
        with(plain(), unsigned(&json!({"alg": "none"})), "the token is not signed", "add "),
        with(
            plain(),
            unsigned(&json!({"alg": "ES256K"})),
            "an algorithm that is supported here: RS256",
            "add ",
        ),
        with(
            issuer("algorithms: [ES256]"),
            token(&|_| {}),
            "add EdDSA to the issuer's `algorithms`",
            "supported here",
        ),
        with(
            configuration(PLAIN, SCOPED, ""),
            token(&|it| it["scope"] = json!(["payments", 7])),
            "a list of strings",
            "introspection",
        ),
        with(
            configuration(PLAIN, SCOPED, ""),
            token(&|it| {
                it["scope"] = json!(null);
                it["scp"] = json!(["read", "payments"]);
            }),
            "`claim_names: {scope: [scope, scp]}`",
            "must ask for",
        ),
        with(
            configuration(PLAIN, SCOPED, ""),
            token(&|it| {
                it["scope"] = json!("read");
                it["permissions"] = json!(["payments"]);
            }),
            "`claims: {permissions: […]}`",
            "must ask for",
        ),
        with(
            configuration(PLAIN, SCOPED, ""),
            token(&|it| it["scope"] = json!("read")),
            "must ask for",
            "claim_names",
        ),
        with(
            plain(),
            token(&|it| it["iat"] = json!(NOW * 1000)),
            "milliseconds",
            "compare the clocks",
        ),
        with(
            plain(),
            token(&|it| it["exp"] = json!("2027-01-15")),
            "a number of seconds since 1970",
            "introspection",
        ),
        with(
            plain(),
            token(&|it| drop(it.as_object_mut().unwrap().remove("exp"))),
            "put `exp`",
            "aud",
        ),
        with(plain(), token(&|it| it["cnf"] = json!({"x5t#S256": hex})), "in hex", "introspection"),
        with(
            plain(),
            token(&|it| {
                it["cnf"]["x5t#S256"] = json!(format!("{}=", thumbprint("p256").to_base64url()));
            }),
            "without padding",
            "introspection",
        ),
        with(
            plain(),
            token(&|it| it["cnf"] = json!({"x5t#S256": colons})),
            "in hex",
            "introspection",
        ),
        with(plain(), token(&|it| it["cnf"] = json!({"x5t#S256": sha1})), "a SHA-1", "in hex"),
        with(
            plain(),
            token(&|it| it["cnf"] = json!({"x5t#S256": "2jmj7l5rSw0yVb/vlWAYkK/YBwk="})),
            "a SHA-1",
            "without padding",
        ),
        with(
            plain(),
            unsigned(&json!({"alg": "ES256", "kid": 7})),
            "the step `form` says",
            "introspection",
        ),
        with(
            plain(),
            "a.b.c.d.e".to_owned(),
            "`introspection`, or have it leave its access tokens unencrypted",
            "did the client",
        ),
        with(plain(), "opaque".to_owned(), "opaque tokens need `introspection`", "unencrypted"),
        with(
            certificates("peer"),
            token(&|_| {}),
            "include_peer_certificate: true",
            "SANITIZE_SET",
        ),
        with(
            certificates("xfcc"),
            token(&|_| {}),
            "x-forwarded-client-cert",
            "include_peer_certificate",
        ),
        with(
            certificates("header, header: {name: client-cert, format: rfc9440}"),
            token(&|_| {}),
            "the header client-cert",
            "include_peer_certificate",
        ),
        with(
            configuration(REALM, BOUND, ""),
            token(&|it| {
                keycloak(it);
                it["aud"] = json!("account");
            }),
            "audience mapper in Keycloak",
            "`audiences` must name",
        ),
        with(
            configuration(REALM, BOUND, ""),
            token(&|it| {
                keycloak(it);
                it["aud"] = json!(null);
            }),
            "audience mapper in Keycloak",
            "allow_missing",
        ),
        with(plain(), token(&|it| it["aud"] = json!(null)), "`audience_claim`", "allow_missing"),
        with(
            plain(),
            token(&|it| it["iss"] = json!("https://as.example.com/")),
            "differ in the final slash",
            "compare",
        ),
        with(
            plain(),
            token(&|it| it["iss"] = json!("http://as.example.com")),
            "http and https",
            "compare",
        ),
        with(
            configuration(
                other,
                "sender_constraint: certificate\n  issuers: [https://other.example.com]",
                "",
            ),
            token(&|_| {}),
            "`issuers` leave it out",
            "compare",
        ),
        with(
            plain(),
            token(&|it| drop(it.as_object_mut().unwrap().remove("cnf"))),
            "over mutual TLS",
            "DPoP",
        ),
        with(
            configuration(PLAIN, "sender_constraint: dpop", ""),
            token(&|it| drop(it.as_object_mut().unwrap().remove("cnf"))),
            "with a DPoP proof",
            "mutual TLS",
        ),
    ]
}

#[test]
fn advice_names_the_cure_and_leads_nobody_away() {
    let site = Site::new();
    for (number, case) in wrong_advices(&site).into_iter().enumerate() {
        let WrongAdvice { config, token, right, wrong } = case;
        let config = site.write(&format!("advice-{number}.yaml"), config);
        let told = told(&config, &bearer("untrusted-nocert", "/payments", &token));
        // The first is of what decides.
        let all = told["besides"].as_array().unwrap().iter().map(|it| &it["advice"]);
        let all: Vec<_> =
            [&told["advice"]].into_iter().chain(all).filter_map(Value::as_str).collect();
        assert!(all[0].contains(right), "{right}: {all:?} {}", told["steps"]);
        assert!(!all[0].contains(wrong), "{wrong}: {all:?}");
    }
}

#[test]
fn a_scope_that_is_not_read_is_written_where_it_is_asked_for() {
    let site = Site::new();
    let token = site.token(|it| {
        it["scope"] = json!(null);
        it["scp"] = json!("payments");
    });
    let request = bearer("cert-p256", "/payments", &token);
    let plain = site.write("scoped.yaml", configuration(PLAIN, SCOPED, ""));
    let before = told(&plain, &request);
    let block = before["configuration"].as_str().unwrap();
    let line = block.lines().find(|it| it.contains("claim_names")).unwrap().trim();
    assert!(line.starts_with("claim_names: {scope: [scope, scp]}"), "{block}");
    let issuer = format!("{PLAIN}\n  {line}");
    let pasted = site.write("scoped.yaml", configuration(&issuer, SCOPED, ""));
    assert_eq!(told(&pasted, &request)["reason"], "allowed");
    let unasked = site.write("scoped.yaml", configuration(PLAIN, BOUND, ""));
    let stolen = told(&unasked, &bearer("cert-p384", "/payments", &token));
    assert_eq!(
        (&stolen["reason"], &stolen["configuration"]),
        (&json!("certificate_mismatch"), &Value::Null)
    );
}

/// An HTTP server that answers each request so, as long as the test runs.
fn answering(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let mut asked = Vec::new();
            while !is_whole(&asked) {
                let mut some = [0; 1024];
                match connection.read(&mut some) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => asked.extend_from_slice(&some[..length]),
                }
            }
            let _written = connection.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}/")
}

/// Whether this is a request with its body.
fn is_whole(asked: &[u8]) -> bool {
    let text = String::from_utf8_lossy(asked).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
    length.map_or(0, |it| it.parse().unwrap()) <= body.len()
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

#[test]
fn advice_on_an_issuer_goes_by_what_came_of_asking_it() {
    let site = Site::new();
    site.write("secret", "secret");
    let json = "content-type: application/json\r\n";
    let active = r#"{"active": true, "client_id": "app"}"#;
    for (answer, reason, found, right) in [
        (
            answer("401 Unauthorized", "", ""),
            "introspection_unavailable",
            "with 401",
            "compare `client_id`",
        ),
        (
            answer("404 Not Found", "", ""),
            "introspection_unavailable",
            "with 404",
            "`introspection.endpoint` names another",
        ),
        (
            answer("200 OK", "content-type: text/html\r\n", "<html>"),
            "introspection_unavailable",
            "text/html",
            "a web page",
        ),
        (
            answer("200 OK", json, r#"{"active": "true"}"#),
            "introspection_unavailable",
            "`active` must be",
            "and no string",
        ),
        (
            answer("200 OK", &format!("{json}content-encoding: gzip\r\n"), active),
            "introspection_unavailable",
            "compressed",
            "uncompressed",
        ),
        (
            answer("200 OK", "content-type: application/jwt\r\n", active),
            "introspection_unavailable",
            "not a signed JWT",
            "the answer is signed as",
        ),
        (
            answer("200 OK", json, active),
            "token_claim_missing",
            "aud: absent",
            "`introspection.allow_missing_audience: true`",
        ),
        (
            answer("200 OK", json, r#"{"active": false}"#),
            "token_inactive",
            "is not active",
            "must get a new one",
        ),
    ] {
        let endpoint = answering(answer);
        let introspection = format!(
            "{PLAIN}\n  introspection: {{endpoint: '{endpoint}', client_id: k, client_secret_file: secret}}"
        );
        let config = site.write("asked.yaml", configuration(&introspection, BOUND, ""));
        let request = bearer("cert-p256", "/payments", "opaque").encode_to_vec();
        let (text, diagnostics, _) = explain(&config, &request, &["--online", "--json"]);
        let told: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["reason"], reason, "{text} {diagnostics}");
        assert!(told["steps"].to_string().contains(found), "{found}: {text}");
        assert!(told["advice"].as_str().unwrap().contains(right), "{right}: {text}");
    }
    let keys = answering(answer("401 Unauthorized", "", ""));
    let issuer = PLAIN.replace("jwks_file: jwks.json", &format!("jwks_uri: '{keys}'"));
    let config = site.write("asked.yaml", configuration(&issuer, BOUND, ""));
    let told = told(&config, &bearer("cert-p256", "/payments", &site.token(|_| {})));
    assert_eq!(told["reason"], "keys_unavailable");
    assert!(told["advice"].as_str().unwrap().contains("keys.bearer_token_file"), "{told}");
}

/// What the program says as JSON.
fn told(config: &Path, request: &CheckRequest) -> Value {
    let (text, diagnostics, _) = explain(config, &request.encode_to_vec(), &["--json"]);
    assert_eq!(diagnostics, "");
    serde_json::from_str(&text).unwrap()
}

/// The names of the mismatches beside the one that decides, and whether they are verified.
fn besides(told: &Value) -> Vec<(&str, bool)> {
    let members = told["besides"].as_array().unwrap().iter();
    let names = members.map(|it| match it["what"].as_str().unwrap() {
        "claim" => it["found"].as_str().unwrap().split(':').next().unwrap(),
        what => what,
    });
    let verified = told["besides"].as_array().unwrap().iter().map(|it| it["verified"] == true);
    names.zip(verified).collect()
}

type Fault = (&'static str, fn(&mut Header, &mut Value));

/// Faults of a token that do not depend on each other, in the order of the check.
const FAULTS: [Fault; 10] = [
    ("typ", |header, _| header.typ = Some("JWT".to_owned())),
    ("events", |_, it| it["events"] = json!({})),
    ("aud", |_, it| it["aud"] = json!("account")),
    ("client_id", |_, it| it["client_id"] = json!(7)),
    ("iat", |_, it| it["iat"] = json!("yesterday")),
    ("exp", |_, it| it["exp"] = json!(NOW - 60)),
    ("nbf, iat", |_, it| it["nbf"] = json!(NOW + 60)),
    ("scope", |_, it| it["scope"] = json!("read")),
    ("acr", |_, it| it["acr"] = json!("loa1")),
    ("thumbprint", |_, it| it["cnf"]["x5t#S256"] = json!("A".repeat(43))),
];

#[test]
fn of_any_two_faults_the_first_decides_and_the_other_is_named_beside_it() {
    let site = Site::new();
    let config = site.config("peer");
    let told_of = |faults: &[usize]| {
        let (mut header, mut claims) = (header("at+jwt", "key-1"), Site::claims());
        for fault in faults {
            FAULTS[*fault].1(&mut header, &mut claims);
        }
        told(&config, &bearer("cert-p256", "/payments", &site.issuer.sign(&header, &claims)))
    };
    for (first, (first_name, _)) in FAULTS.iter().enumerate() {
        let alone = told_of(&[first]);
        assert_eq!(besides(&alone), [], "{first_name}");
        for (second, (name, _)) in FAULTS.iter().enumerate().skip(first + 1) {
            let both = told_of(&[first, second]);
            assert_eq!(both["reason"], alone["reason"]);
            let last = |told: &Value| told["steps"].as_array().unwrap().last().cloned();
            assert_eq!(last(&both), last(&alone), "the check itself does not go on");
            assert_eq!(besides(&both), [(*name, true)], "{first_name} {name}");
        }
    }
    let all: Vec<_> = (0..FAULTS.len()).collect();
    let names: Vec<_> = FAULTS.iter().skip(1).map(|(name, _)| (*name, true)).collect();
    assert_eq!(besides(&told_of(&all)), names);
}

type Edit = fn(&mut Value);

#[test]
fn a_login_that_is_not_enough_hides_nothing_and_is_named_beside_what_decides() {
    let site = Site::new();
    let told_of = |edit: fn(&mut Value)| {
        let token = site.token(|it| {
            (it["acr"], it["auth_time"], it["scope"]) =
                (json!("phr"), json!(NOW), json!("transfer"));
            edit(it);
        });
        told(&site.config("peer"), &bearer("cert-p256", "/transfers", &token))
    };
    let faults: [(&str, &str, Edit); 4] = [
        ("exp", "token_expired", |it| it["exp"] = json!(NOW - 60)),
        ("acr", "authentication_insufficient", |it| it["acr"] = json!("pwd")),
        ("auth_time", "authentication_insufficient", |it| it["auth_time"] = json!(null)),
        ("scope", "scope_insufficient", |it| it["scope"] = json!("read")),
    ];
    for (name, reason, edit) in faults {
        let told = told_of(edit);
        assert_eq!((told["reason"].as_str(), besides(&told)), (Some(reason), vec![]), "{name}");
    }
    let all = told_of(|it| {
        (it["exp"], it["acr"], it["scope"]) = (json!(NOW - 60), json!("pwd"), json!("read"));
        it["auth_time"] = json!(null);
    });
    assert_eq!(all["reason"], "token_expired");
    assert_eq!(besides(&all), [("acr", true), ("auth_time", true), ("scope", true)]);
}

#[test]
fn what_no_key_verifies_is_never_told_as_verified() {
    let site = Site::new();
    let faulty = |edit: &dyn Fn(&mut Header)| {
        let (mut header, mut claims) = (header("JWT", "key-1"), Site::claims());
        claims["aud"] = json!("account");
        edit(&mut header);
        site.issuer.sign(&header, &claims)
    };
    let hs256 = {
        let mut claims = Site::claims();
        claims["aud"] = json!("account");
        let key = EncodingKey::from_secret(b"secret");
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    };
    let good = faulty(&|_| {});
    let (signed, _) = good.rsplit_once('.').unwrap();
    for (token, reason) in [
        (faulty(&|it| it.kid = Some("key-2".to_owned())), "token_key_unknown"),
        (hs256, "token_algorithm_forbidden"),
        (format!("{signed}.{}", "A".repeat(86)), "token_signature_invalid"),
    ] {
        let request = bearer("cert-p256", "/payments", &token);
        let told = told(&site.config("peer"), &request);
        assert_eq!(told["reason"], reason);
        assert_eq!(besides(&told), [("typ", false), ("aud", false)], "{reason}");
        let (text, _, _) = explain(&site.config("peer"), &request.encode_to_vec(), &[]);
        let (_, besides) = text.split_once("anybody may have written it:").unwrap();
        assert!(besides.contains("account") && !text.contains("not what decides"), "{text}");
    }
}

#[test]
fn an_algorithm_that_is_not_on_the_list_hides_nothing_of_a_token_that_the_issuer_signed() {
    let site = Site::new();
    let narrow = CONFIGURATION.replace("  keys:", "  algorithms: [ES256]\n  keys:");
    let config = site.write("narrow.yaml", narrow);
    let token = site.issuer.sign(&header("JWT", "key-1"), &Site::claims());
    let told = told(&config, &bearer("cert-p384", "/payments", &token));
    assert_eq!(told["reason"], "token_algorithm_forbidden");
    assert_eq!(besides(&told), [("typ", true), ("thumbprint", true)]);
}

#[test]
fn all_that_is_wrong_with_a_proof_is_named() {
    let site = Site::new();
    let request = site.proved(&site.client, |it| {
        it["htm"] = json!("POST");
        it["htu"] = json!("https://a");
        it["iat"] = json!(NOW - 61);
        it["ath"] = json!("A".repeat(43));
    });
    let told = told(&site.config("peer"), &request);
    assert_eq!(told["reason"], "proof_method_mismatch");
    assert_eq!(besides(&told), [("9 htu", true), ("11 iat", true), ("12 ath", true)]);
    let wrong = told["besides"].as_array().unwrap();
    let reasons: Vec<_> = wrong.iter().map(|it| it["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["proof_target_mismatch", "proof_stale", "proof_token_mismatch"]);
}

#[test]
fn where_the_time_of_a_nonce_counts_no_other_is_held_against_a_proof() {
    let site = Site::new();
    let secret = "0123456789abcdef0123456789abcdef";
    site.write("secret", secret);
    let dpop = "dpop: {nonce: required, nonce_secret_file: secret, time: nonce}\n";
    let config = site.write("by-nonce.yaml", CONFIGURATION.to_owned() + dpop);
    let keys = NonceKeys::parse(secret.as_bytes()).unwrap();
    let nonce = |seconds| keys.issue(UnixTime::from_secs(NOW + seconds));
    let proved = |nonce: Option<String>, method: &str| {
        site.proved(&site.client, |it| {
            it["iat"] = json!(NOW - 3600);
            it["exp"] = json!(NOW - 3000);
            it["htm"] = json!(method);
            if let Some(nonce) = nonce {
                it["nonce"] = json!(nonce);
            }
        })
    };
    for (nonce, method, reason, beside) in [
        (Some(nonce(-60)), "GET", "allowed", &[][..]),
        (Some(nonce(-60)), "POST", "proof_method_mismatch", &[]),
        (Some(nonce(-120)), "GET", "nonce_required", &[]),
        (Some(nonce(-120)), "POST", "proof_method_mismatch", &[("10 nonce", true)]),
        (None, "POST", "proof_method_mismatch", &[("10 nonce", true)]),
    ] {
        let told = told(&config, &proved(nonce, method));
        assert_eq!(told["reason"], reason, "{told:#}");
        assert_eq!(besides(&told), beside, "{told:#}");
    }
    let (text, _, _) = explain(&config, &proved(Some(nonce(-60)), "GET").encode_to_vec(), &[]);
    let line = "✓ proof         11 time      until 2027-01-15T08:00:59Z by the nonce, whatever its iat, \
                2027-01-15T07:00:00Z";
    assert!(text.lines().any(|it| it == line), "{text}");
}

#[test]
fn json_is_for_machines() {
    let site = Site::new();
    let expired = bearer("cert-p256", "/payments", &site.token(|it| it["exp"] = json!(1)));
    let (text, _, code) = explain(&site.config("peer"), &expired.encode_to_vec(), &["--json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 3);
    for (name, value) in [
        ("decision", json!("deny")),
        ("reason", json!("token_expired")),
        ("status", json!(401)),
        ("error", json!("invalid_token")),
        ("policy", json!("payments")),
        ("at", json!("2027-01-15T08:00:00Z")),
        ("would_deny", json!(null)),
    ] {
        assert_eq!(told[name], value, "{name}");
    }
    let last = told["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["what"], &last["result"]), (&json!("exp"), &json!("failed")));

    let good = bearer("cert-p256", "/payments", &site.token(|_| {}));
    let (text, _, code) = explain(&site.config("peer"), &good.encode_to_vec(), &["--json"]);
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 0);
    for (name, value) in
        [("decision", json!("allow")), ("reason", json!("allowed")), ("error", json!(null))]
    {
        assert_eq!(told[name], value, "{name}");
    }
}

#[test]
fn a_request_may_be_described_as_for_curl() {
    let site = Site::new();
    let config = site.config("peer");
    let certificate = vectors("envoy/certs").join("p256.crt");
    let authorization = format!("Authorization: Bearer {}", site.token(|_| {}));
    let at = NOW.to_string();
    let described = |more: &[&str]| {
        let head = ["--config", config.to_str().unwrap(), "--at", &at, "-H", &authorization];
        let (text, diagnostics, code) = run(&[&head, more].concat(), b"");
        assert_eq!(diagnostics, "");
        (text.lines().last().unwrap().to_owned(), code)
    };
    let url = "https://api.example.com/payments/7";
    let certificate = certificate.to_str().unwrap();
    let (last, code) = described(&["-X", "POST", "--cert", certificate, url]);
    assert_eq!((&*last, code), ("✓ allowed; proved possession of: certificate", 0));
    let (last, code) = described(&[url]);
    assert_eq!((&*last, code), ("✗ denied with status 401: certificate_missing", 3));
    let (last, code) = described(&["--policy", "unheard-of", url]);
    assert_eq!((&*last, code), ("✗ denied with status 403: policy_unknown", 3));
    let elsewhere = "https://api.example.com/elsewhere";
    let (last, code) = described(&["--annotation", "chosen", "--cert", certificate, elsewhere]);
    assert_eq!((&*last, code), ("✓ allowed; proved possession of: certificate", 0));
    let (last, code) = described(&["--annotation", "payments", "--cert", certificate, url]);
    assert_eq!((&*last, code), ("✗ denied with status 403: policy_unknown", 3));
}

#[test]
fn the_token_is_pasted_back_into_a_request_that_was_kept_without_it() {
    let site = Site::new();
    let good = site.token(|_| {});
    let (signed, _) = good.rsplit_once('.').unwrap();
    let kept = bearer("cert-p256", "/payments", &format!("{signed}.{}", "A".repeat(86)));
    let token = site.write("token.txt", good.clone() + "\n");
    let more = ["--token", token.to_str().unwrap()];
    let (text, _, code) = explain(&site.config("peer"), &kept.encode_to_vec(), &more);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn wrong_input_is_told_apart_from_wrong_usage_and_from_a_denial() {
    let site = Site::new();
    let config = site.config("peer");
    let broken = site.write("broken.yaml", "policies: 7");
    let (config, broken) = (config.to_str().unwrap(), broken.to_str().unwrap());
    for (arguments, expected) in [
        (&["--config", config, "--request", "/nonexistent"][..], 1),
        (&["--config", broken, "--request", "-"], 1),
        (&["--config", config, "--request", "-", "--token", "/nonexistent"], 1),
        (&["--config", config, "--request", "/dev/zero"], 1),
        (&["--config", config, "--request", "-", "--token", "/dev/zero"], 1),
        (&["--config", config, "--cert", "/dev/zero", "https://x"], 1),
        (&["--config", config, "api.example.com"], 1),
        (&["--config", config], 2),
        (&["--config", config, "--request", "-", "https://x"], 2),
        (&["--config", config, "--request", "-", "--at", "noon"], 2),
        (&["--request", "-"], 2),
    ] {
        let (text, diagnostics, code) = run(arguments, b"");
        assert_eq!(code, expected, "{arguments:?}: {diagnostics}");
        assert_eq!(text, "", "{arguments:?}");
        assert!(!diagnostics.is_empty(), "{arguments:?}");
        let endless = arguments.contains(&"/dev/zero");
        assert_eq!(diagnostics.contains("longer than"), endless, "{arguments:?}: {diagnostics}");
    }
    let (_, diagnostics, code) = explain(&site.config("peer"), b"{\"attributes\": ", &[]);
    assert!(code == 1 && diagnostics.contains("JSON"), "{diagnostics}");
}

#[test]
fn an_issuer_is_not_asked_about_a_token_unless_it_is_meant_to_be() {
    let site = Site::new();
    let introspection = "  introspection: {endpoint: 'https://as.example.com/i', client_id: k, \
                         client_secret_file: secret}\n";
    site.write("secret", "secret");
    let config = CONFIGURATION.replace("policies:\n", &format!("{introspection}policies:\n"));
    let config = site.write("opaque.yaml", config);
    let opaque = bearer("cert-p256", "/payments", "opaque").encode_to_vec();
    let (text, diagnostics, code) = explain(&config, &opaque, &[]);
    assert_eq!(code, 1, "{text}{diagnostics}");
    assert!(text.contains("undecided") && text.contains("not asked"), "{text}");
    let told: Value = serde_json::from_str(&explain(&config, &opaque, &["--json"]).0).unwrap();
    assert_eq!((&told["decision"], &told["reason"]), (&json!("open"), &Value::Null), "{told}");
}
