//! Secrets of a request: whatever becomes of it, none of them is in what is kept of it, logged,
//! listed, answered or explained; and what is kept is refused for the same reason.

use super::choices::Choices;
use super::installation::{NOW, Site};
use super::signer::Signer;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{self as pb, HttpRequest};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value as Protobuf};
use http::{Request as Question, StatusCode};
use http_body_util::{BodyExt, Full};
use keybound::admin::{Admin, explain};
use keybound::front::capture::{redacted, to_check_request};
use keybound::front::ext_authz::{encode, wire};
use keybound::gate::Gate;
use keybound::telemetry::history::History;
use keybound::telemetry::metrics::{Front, Metrics};
use keybound_core::Answer;
use keybound_core::jose::Thumbprint;
use prost::Message;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::{Instant, advance};
use tracing::dispatcher::with_default;
use tracing::{Dispatch, Level};

/// An installation, all that it tells, and who signs.
#[derive(Debug)]
pub struct World {
    admin: Admin,
    runtime: Runtime,
    log: Log,
    to_log: Dispatch,
    issuer: Signer,
    stranger: Signer,
    client: Signer,
    proofs: AtomicUsize,
    _folder: tempfile::TempDir,
}

const CONFIGURATION: &str = "
listen: {ext_authz: 127.0.0.1:9001, admin: 127.0.0.1:9003}
issuers:
  - issuer: https://as.example.com
    audiences: [https://api.example.com]
    keys: {jwks_file: keys.json}
client_certificate: {source: peer}
policies:
  - {name: report, match: {path_prefix: /report}, sender_constraint: certificate, mode: report}
  - {name: dpop, match: {path_prefix: /dpop}, sender_constraint: dpop, claims: {acr: [loa3]}}
  - {name: rest, sender_constraint: if_bound, scopes: [read]}
limits: {check_deadline: 5s}
";

impl World {
    /// A world in which nothing has happened.
    pub fn start() -> Self {
        let issuer = Signer::ed(21);
        let mut key = issuer.jwk();
        key["kid"] = "1".into();
        let keys = json!({"keys": [key]}).to_string();
        let site = Site::new(CONFIGURATION, &[("keys.json", keys)]);
        let Site { installation, checker, runtime, folder } = site;
        let metrics = Arc::new(Metrics::new().unwrap());
        let admin = Admin {
            gate: Arc::new(Gate::new(checker, installation, String::new(), metrics)),
            health: Arc::default(),
            started: Instant::now(),
            connections: Arc::default(),
            places: vec![],
            reloads: Arc::default(),
            history: Arc::new(History::since(Instant::now())),
            explaining: explain::Permits::default(),
        };
        let (stranger, client, log) = (Signer::ed(22), Signer::ed(23), Log::default());
        let to_log = log.dispatch();
        Self {
            admin,
            runtime,
            log,
            to_log,
            issuer,
            stranger,
            client,
            proofs: AtomicUsize::default(),
            _folder: folder,
        }
    }
}

/// Has a request with secrets in all places checked, and holds that none of them is told anywhere,
/// and that what is kept of it is refused for the same reason, as far as that can be without its
/// signatures.
pub fn no_secret_is_told(world: &World, choices: &mut Choices<'_>) -> &'static str {
    let Secrets { request, token, proof, needles } = world.request(choices);
    let message = request.encode_to_vec();
    let found = world.checked(&message, &needles);

    let certificate_header = choices.pick(&[None, Some("x-cert")]);
    let kept = redacted(&message, certificate_header).unwrap();
    holds_none(&needles, "what is kept", &kept);
    let read = wire::read_for(&message, world.admin.gate.active().rules());
    if let Ok(read) = &read {
        let other = redacted(&to_check_request(read, None), None).unwrap();
        holds_none(&needles, "what is kept for other proxies", &other);
    }

    let of_kept = world.checked(&kept, &needles);
    if of_kept != found {
        // The signature is the first thing of a signed token that nobody has any more.
        assert_eq!(of_kept, "token_signature_invalid", "{found} {request:?}");
        assert!(!BEFORE_THE_SIGNATURE.contains(&&*found), "{found} {request:?}");
    }
    if choices.one_in(4) {
        let (text, _) = world.explained(&json!({"request": STANDARD.encode(&message)}));
        holds_none(&needles, "the explanation", text.as_bytes());
        let put_back = json!({
            "request": STANDARD.encode(&kept), "token": token, "proof": proof, "at": NOW.to_string(),
        });
        let (text, reason) = world.explained(&put_back);
        holds_none(&needles, "the explanation of what was kept", text.as_bytes());
        if token.is_some() {
            assert_eq!(reason, found, "{text}\n{request:?}");
        }
    }
    match &*found {
        "allowed" => "allowed",
        "token_malformed" => "token malformed",
        _ if of_kept == found => "refused, and kept with the same reason",
        _ => "refused, and kept without the signature",
    }
}

/// An unknown key is another reason while its issuer may not be asked once more.
fn steady(reason: &str) -> String {
    if reason == "keys_unavailable" { "token_key_unknown".to_owned() } else { reason.to_owned() }
}

/// Reasons for which a request is refused before anybody looks at a signature.
const BEFORE_THE_SIGNATURE: &[&str] = &[
    "request_malformed",
    "credentials_missing",
    "credentials_ambiguous",
    "scheme_unsupported",
    "token_issuer_unknown",
    "token_algorithm_forbidden",
    "token_key_unknown",
];

#[track_caller]
fn holds_none(needles: &[String], place: &str, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    for needle in needles {
        assert!(!text.contains(needle.as_str()), "{place} holds {needle}: {text}");
    }
}

impl World {
    /// The reason for which a request is refused, after a look at all that is told of that.
    fn checked(&self, message: &[u8], needles: &[String]) -> String {
        let gate = &self.admin.gate;
        let told = with_default(&self.to_log, || {
            self.runtime.block_on(async {
                // Of denials in one second, some have no line.
                advance(Duration::from_secs(1)).await;
                let call = gate.enter(Front::ExtAuthz);
                let active = gate.active();
                let read = wire::read_for(message, active.rules());
                let verdict = match &read {
                    Ok(request) => call.admit().unwrap().check(request).await,
                    Err(refusal) => call.refuse(*refusal),
                };
                let answer = call.answer(&verdict, read.as_ref().ok());
                let mut encoded = vec![];
                encode::response(&answer, &mut encoded);
                holds_none(needles, "the answer", &encoded);
                let explained = format!("{verdict:?}");
                holds_none(needles, "the debugging text", explained.as_bytes());
                let (Answer::Allow { metadata, .. }
                | Answer::Deny { metadata, .. }
                | Answer::Served { metadata, .. }) = &answer;
                let told = |name| metadata.iter().find(|it| it.0 == name).map(|it| steady(it.1));
                told("would_deny").or_else(|| told("reason")).unwrap()
            })
        });
        holds_none(needles, "the log", &self.log.take());
        let denials = gate.denials().status(Instant::now());
        let last = denials.first().map(|it| serde_json::to_string(it).unwrap());
        holds_none(needles, "the last denials", last.unwrap_or_default().as_bytes());
        told
    }

    /// The explanation of a question on the page, and the reason in it.
    fn explained(&self, question: &Value) -> (String, String) {
        let question = Question::post("/explain")
            .header("host", "127.0.0.1:9003")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(question.to_string())))
            .unwrap();
        let answer = self.runtime.block_on(self.admin.respond(question));
        assert_eq!(answer.status(), StatusCode::OK);
        let text = self.runtime.block_on(answer.into_body().collect()).unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let last = text.lines().last().unwrap();
        let reason = match last.rsplit_once(": ") {
            Some((_, reason)) if !last.contains("allowed; ") => steady(reason),
            _ => "allowed".to_owned(),
        };
        (text, reason)
    }
}

/// What is logged.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn dispatch(&self) -> Dispatch {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().json().with_max_level(Level::TRACE);
        Dispatch::new(subscriber.with_writer(move || log.clone()).finish())
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// Requests with secrets.

struct Secrets {
    request: CheckRequest,
    /// The token and the proof, to be put back, if there is one of each place.
    token: Option<String>,
    proof: Option<String>,
    /// What must not be told.
    needles: Vec<String>,
}

/// It is in every secret that is not signed. It is base64url of 9 octets, and may be a signature.
const MARK: &str = "S3cr3tW0rd77";

impl World {
    fn request(&self, choices: &mut Choices<'_>) -> Secrets {
        let mut needles = vec![MARK.to_owned()];
        let mut sign = |signer: &Signer, header: &Value, claims: &Value| {
            let jwt = signer.jwt(&header.to_string(), &claims.to_string());
            needles.push(jwt.rsplit('.').next().unwrap().to_owned());
            jwt
        };
        let bound = choices.one_in(2);
        let token = self.token(choices, bound, &mut sign);
        let mut claims = json!({
            "jti": self.proofs.fetch_add(1, Ordering::Relaxed).to_string(), "htm": "GET", "iat": NOW,
            "htu": "https://api.example.com/dpop", "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
        });
        if choices.one_in(4) {
            claims["iat"] = json!(NOW - 3600);
        }
        let header = json!({"typ": "dpop+jwt", "alg": "EdDSA", "jwk": self.client.jwk()});
        let proof = match choices.below(8) {
            0 => MARK.to_owned(),
            1 => format!("e30.e30.{MARK}"),
            _ => sign(&self.client, &header, &claims),
        };
        let scheme = match (bound, choices.one_in(4)) {
            (true, _) => "DPoP",
            (false, false) => "Bearer",
            (false, true) => "MTLS_POP",
        };
        let authorization = match choices.below(48) {
            0 => format!("Basic {MARK}"),
            1 => MARK.to_owned(),
            2 => format!("{MARK} {token}"),
            3 => format!("{scheme} {token},{scheme} {MARK}"),
            4 => format!("{scheme} {MARK} {token}"),
            5 => format!("{scheme}\t{MARK}"),
            6 => format!("{scheme}:{MARK}"),
            7 => format!("{scheme}=\"{MARK}\""),
            8 => format!("Digest username=\"x\", response=\"{MARK}\""),
            9 => format!(" {scheme} {token}"),
            10 => scheme.to_owned(),
            11 => String::new(),
            _ => format!("{scheme} {token}"),
        };
        let usual = authorization == format!("{scheme} {token}");
        let mut lines = vec![("authorization", authorization)];
        if bound != choices.one_in(8) {
            lines.push(("dpop", proof.clone()));
        }
        if choices.one_in(32) {
            lines.push(("Authorization", format!("Bearer {MARK}")));
        }
        if choices.one_in(32) {
            lines.push(("DPoP", MARK.to_owned()));
        }
        let sole = usual
            && lines.len() <= 2
            && lines.iter().filter(|it| it.0 == "DPoP").count() == 0
            && lines.iter().filter(|it| it.0 == "Authorization").count() == 0;
        let has_proof = lines.iter().any(|it| it.0 == "dpop");
        for name in ["cookie", "x-api-key", "proxy-authorization", "x-original-uri", ":path", ""] {
            if choices.one_in(4) {
                lines.push((name, format!("a={MARK}")));
            }
        }
        let request = http_request(choices, lines);
        Secrets {
            request,
            token: sole.then_some(token),
            proof: (sole && has_proof).then_some(proof),
            needles,
        }
    }

    /// A token, which may be good.
    fn token(
        &self,
        choices: &mut Choices<'_>,
        bound: bool,
        sign: &mut impl FnMut(&Signer, &Value, &Value) -> String,
    ) -> String {
        let mut header = json!({"typ": "at+jwt", "alg": "EdDSA", "kid": "1"});
        let mut claims = json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com", "exp": NOW + 300,
            "sub": "alice", "scope": "read", "acr": "loa3",
        });
        if bound {
            claims["cnf"] = json!({"jkt": self.client.jkt()});
        }
        match choices.below(40) {
            0 => return format!("{MARK}-._~+/="),
            1 => return format!("{MARK}.{MARK}"),
            2 => return format!("{MARK}.a.b"),
            3 => return format!("a.{MARK}.b"),
            4 => return format!("e30.e30.{MARK}"),
            5 => return format!("e30.e30.e30.{MARK}"),
            6 => return format!("W10.{MARK}.c"),
            7 => return format!("eyJhbGciOiJFZERTQSJ9.e30.{MARK}"),
            8 => claims["exp"] = json!(NOW - 3600),
            9 => claims["aud"] = json!("https://other.example.com"),
            10 => claims["iss"] = json!("https://other.example.com"),
            11 => claims["scope"] = json!("write"),
            12 => claims["acr"] = json!("loa1"),
            13 => header["alg"] = json!("ES256"),
            14 => header["kid"] = json!("2"),
            15 => header["typ"] = json!("JWT"),
            16 => return sign(&self.stranger, &header, &claims),
            17 => claims["cnf"] = json!({"x5t#S256": Thumbprint::of(b"x").to_base64url()}),
            _ => (),
        }
        sign(&self.issuer, &header, &claims)
    }
}

fn http_request(choices: &mut Choices<'_>, lines: Vec<(&'static str, String)>) -> CheckRequest {
    let mark = || MARK.to_owned();
    let parameters: Vec<_> = (0..choices.below(4)).map(|_| choices.pick(PARAMETERS)).collect();
    let query = parameters.join(choices.pick(&["&", "&&", "&;"]));
    let path = choices.pick(&["/dpop", "/dpop", "/report", "/a"]);
    let user = if choices.one_in(8) { format!("{MARK}:{MARK}@") } else { String::new() };
    let mut http = HttpRequest {
        method: "GET".to_owned(),
        scheme: "https".to_owned(),
        host: format!("{user}api.example.com"),
        path: if choices.one_in(4) { format!("{path}?{query}") } else { path.to_owned() },
        ..HttpRequest::default()
    };
    if choices.one_in(2) {
        (http.query, http.fragment, http.body, http.raw_body) =
            (mark(), mark(), mark(), MARK.as_bytes().to_vec());
    }
    if choices.one_in(2) {
        let headers = lines.into_iter().map(|(key, value)| line(choices, key, value)).collect();
        http.header_map = Some(HeaderMap { headers });
    } else {
        let lines = lines.into_iter().map(|(name, value)| (name.to_owned(), value));
        http.headers = lines.collect();
    }
    let mut attributes = AttributeContext {
        request: Some(pb::Request { http: Some(http), ..pb::Request::default() }),
        ..AttributeContext::default()
    };
    if choices.one_in(4) {
        attributes.context_extensions.insert("key".to_owned(), mark());
        let secret = Protobuf { kind: Some(Kind::StringValue(mark())) };
        let fields = Struct { fields: [("resources".to_owned(), secret)].into() };
        let namespaces = ["envoy-gateway", "other"].map(|it| (it.to_owned(), fields.clone()));
        let metadata = Metadata { filter_metadata: namespaces.into(), ..Metadata::default() };
        attributes.metadata_context = Some(metadata.clone());
        attributes.route_metadata_context = Some(metadata);
    }
    CheckRequest { attributes: Some(attributes) }
}

fn line(choices: &mut Choices<'_>, key: &str, value: String) -> HeaderValue {
    let key = key.to_owned();
    if choices.one_in(4) {
        HeaderValue { key, value, ..HeaderValue::default() }
    } else {
        HeaderValue { key, raw_value: value.into_bytes(), ..HeaderValue::default() }
    }
}

/// Parameters of queries. A name before a value is no secret.
const PARAMETERS: &[&str] = &[
    "a=1",
    "a=S3cr3tW0rd77",
    "S3cr3tW0rd77",
    "a=1;S3cr3tW0rd77",
    "a;b=S3cr3tW0rd77;",
    "access_token=S3cr3tW0rd77",
    "access%5ftoken=S3cr3tW0rd77",
    "=S3cr3tW0rd77",
    "S3cr3tW0rd77=",
    "S3cr3tW0rd77==",
    "a==S3cr3tW0rd77",
    "a=b=S3cr3tW0rd77",
    "?S3cr3tW0rd77",
    "#S3cr3tW0rd77",
    "",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::outcomes;

    /// Fewer than of others: each is signed and checked several times.
    const CASES: u64 = 5_000;

    #[test]
    fn no_secret_of_a_request_is_told_anywhere() {
        let world = World::start();
        outcomes(CASES, |choices| no_secret_is_told(&world, choices)).came_up(&[
            "allowed",
            "token malformed",
            "refused, and kept with the same reason",
            "refused, and kept without the signature",
        ]);
    }
}
