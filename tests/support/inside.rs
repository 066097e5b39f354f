//! The same request inside Envoy, which must be decided alike.

use super::subrequest::Twin;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use keybound::clock::Clock;
use keybound::front::ext_authz::wire;
use keybound::front::module::{Begun, Decision, Endpoint, Peer};
use keybound::gate::Gate;
use keybound::installation::{Checker, Installation};
use keybound::telemetry::metrics::Metrics;
use keybound_core::Answer;
use keybound_core::client_certificate::{ClientCertificate, Source};
use prost::Message;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What Envoy would say of the client.
struct Client {
    digest: Option<String>,
    principal: String,
}

impl Peer for Client {
    fn certificate_digest(&self) -> Option<&[u8]> {
        self.digest.as_deref().map(str::as_bytes)
    }

    fn principal(&self) -> &[u8] {
        self.principal.as_bytes()
    }
}

impl Client {
    fn of(request: &CheckRequest) -> Self {
        let bytes = request.encode_to_vec();
        let read = wire::read(&bytes, None, None);
        let shown = read.map(|it| Source::Peer.read(&it.evidence));
        let digest = match shown {
            Ok(ClientCertificate::Presented(thumbprint)) => Some(thumbprint.to_hex()),
            // Envoy never has half a digest; what is none must be refused all the same.
            Ok(ClientCertificate::Malformed) => Some("00".to_owned()),
            Ok(ClientCertificate::Absent | ClientCertificate::Conflict) | Err(_) => None,
        };
        let source = request.attributes.clone().unwrap_or_default().source.unwrap_or_default();
        Self { digest, principal: source.principal }
    }
}

impl Twin {
    /// Has `request` checked under the same rules inside Envoy, and holds the decision against `expected`.
    pub(crate) async fn decides(
        &self,
        clock: Arc<dyn Clock>,
        installation: &Installation,
        request: &CheckRequest,
        expected: &Answer<'_>,
    ) {
        let source = installation.policies().client_certificate.clone();
        let twin = self.of(installation, source);
        let metrics = Arc::new(Metrics::new().unwrap());
        let gate = Gate::new(Checker::new(clock), twin, String::new(), metrics);
        let endpoint = Arc::new(Endpoint::new(Arc::new(gate), Handle::current()));
        let attributes = request.attributes.clone().unwrap_or_default();
        let http = attributes.request.and_then(|it| it.http).unwrap_or_default();
        let pseudo = [
            (":method", &http.method),
            (":scheme", &http.scheme),
            (":authority", &http.host),
            (":path", &http.path),
        ];
        let raw = http.header_map.iter().flat_map(|it| &it.headers);
        let raw = raw.map(|it| (it.key.as_bytes(), [it.value.as_bytes(), &it.raw_value].concat()));
        let raw: Vec<_> = raw.collect();
        let lines = pseudo.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let headers = http.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let lines = lines.chain(headers).chain(raw.iter().map(|(name, value)| (*name, &**value)));
        let policy = attributes.context_extensions.get("policy").map(String::as_str);
        let client = Client::of(request);
        let found = match endpoint.begin(lines, &client, policy) {
            Begun::Ended(finished) => finished,
            Begun::Waits(check) => check.end().await,
        };
        assert_eq!(found.decision(), Decision::from(expected.clone()));
    }
}
