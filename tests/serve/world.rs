//! An issuer and what its clients send, as a service in a process of its own meets them.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic"
)]

use super::block_on;
use super::identity_provider::IdentityProvider;
use super::proofs::prove;
use super::service::{Service, request};
use super::tokens::Signer;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound_core::jose::Thumbprint;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fmt::Write;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use tokio::sync::oneshot;

/// An issuer on a thread of its own, and the certificate to which its tokens are bound.
pub(crate) struct World {
    _stop: oneshot::Sender<Infallible>,
    pub(crate) provider: IdentityProvider,
    signer: Signer,
    pub(crate) certificate: Vec<u8>,
}

impl World {
    pub(crate) fn new() -> Self {
        let signer = Signer::new(Algorithm::ES256, "1");
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let keys = [signer.jwk().clone()];
        thread::spawn(move || {
            block_on(async {
                tell.send(IdentityProvider::start(&keys).await).unwrap();
                drop(stopped.await);
            });
        });
        Self { _stop: stop, provider: told.recv().unwrap(), signer, certificate: certificate() }
    }

    pub(crate) fn service(&self) -> Service {
        self.service_with(|it| it, &[])
    }

    /// A service whose configuration is edited.
    pub(crate) fn service_with(
        &self,
        edit: impl FnOnce(String) -> String,
        arguments: &[&str],
    ) -> Service {
        let edit = |_: &Path, config: String| {
            let jwks_uri = format!("jwks_uri: '{}'", self.provider.jwks_uri());
            edit(config.replace("jwks_file: jwks.json", &jwks_uri))
        };
        let mut service = Service::start(edit, arguments);
        service.wait_for("ready");
        service
    }

    /// What the issuer signs.
    pub(crate) fn sign(&self, typ: &str, claims: &Value) -> String {
        self.signer.sign(typ, claims)
    }

    pub(crate) fn token(&self, scope: &str) -> String {
        let certificate = Thumbprint::of(&self.certificate).to_base64url();
        self.bound_token(scope, &json!({"x5t#S256": certificate}))
    }

    pub(crate) fn bound_token(&self, scope: &str, confirmation: &Value) -> String {
        self.token_with(&json!({"jti": scope, "scope": scope, "cnf": confirmation}))
    }

    /// A token with these claims beside, or in place of, the usual ones.
    pub(crate) fn token_with(&self, claims: &Value) -> String {
        let now = SystemClock.now().as_secs();
        let mut all = json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com", "sub": "somebody",
            "client_id": "client", "iat": now, "exp": now + 3600,
        });
        let own = claims.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(own);
        self.signer.sign("at+jwt", &all)
    }

    pub(crate) fn request(&self, scope: &str) -> CheckRequest {
        request(&format!("Bearer {}", self.token(scope)), &url_encoded(&self.certificate))
    }

    /// With a token that is bound to `key`, and a proof by it.
    pub(crate) fn proved_request(&self, key: &Signer) -> CheckRequest {
        let jwk = key.jwk();
        // RFC 7638 §3.2.
        let members = json!({"crv": jwk["crv"], "kty": jwk["kty"], "x": jwk["x"], "y": jwk["y"]});
        let jkt = Thumbprint::of(members.to_string().as_bytes()).to_base64url();
        let token = self.bound_token("payments", &json!({"jkt": jkt}));
        let claims = json!({
            "jti": "once", "htm": "GET", "htu": "https://api.example.com/payments",
            "iat": SystemClock.now().as_secs(),
            "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
        });
        let mut request = request(&format!("DPoP {token}"), "");
        let attributes = request.attributes.as_mut().unwrap();
        let http = attributes.request.as_mut().unwrap().http.as_mut().unwrap();
        http.headers.insert("dpop".to_owned(), prove(key, &claims));
        request
    }
}

pub(crate) fn certificate() -> Vec<u8> {
    rcgen::generate_simple_self_signed(vec![]).unwrap().cert.der().to_vec()
}

/// PEM as Envoy writes it.
pub(crate) fn url_encoded(der: &[u8]) -> String {
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    pem.bytes().fold(String::new(), |mut text, it| {
        if it.is_ascii_alphanumeric() || it == b'-' {
            text.push(char::from(it));
        } else {
            write!(text, "%{it:02X}").unwrap();
        }
        text
    })
}

/// The reason that one check gets, on a connection of its own.
pub(crate) fn reason(service: &Service, request: CheckRequest) -> String {
    block_on(async {
        let mut client = AuthorizationClient::new(service.channel().await);
        reason_of(&client.check(request).await.unwrap().into_inner())
    })
}

pub(crate) fn reason_of(response: &CheckResponse) -> String {
    let metadata = response.dynamic_metadata.as_ref().unwrap();
    match metadata.fields["reason"].kind.as_ref().unwrap() {
        google::protobuf::value::Kind::StringValue(reason) => reason.clone(),
        other => panic!("{other:?}"),
    }
}
