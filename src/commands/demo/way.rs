//! The two ways to run a scenario: through a real Envoy over mutual TLS, or as a `CheckRequest`
//! like the one that Envoy would send.

use super::Failure;
use super::cast::Cast;
use super::envoy::Envoy;
use super::pki::Identity;
use super::roles::PATH;
use super::scenarios::{Observed, Scenario};
use crate::front::ext_authz::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use crate::front::ext_authz::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request,
};
use crate::front::ext_authz::pb::envoy::service::auth::v3::check_response::HttpResponse;
use crate::front::ext_authz::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse,
};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// How long a response may take, so that the demo never hangs.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The host of requests without an Envoy.
const HOST: &str = "payments.demo.test";

/// How a scenario's request reaches the authorizer.
#[derive(Debug)]
pub(super) enum Way {
    /// Through Envoy, by HTTP/2 over mutual TLS.
    Envoy(Envoy, Door),
    /// Directly to the authorizer's gRPC listener.
    Direct(SocketAddr),
}

/// Envoy's listener.
#[derive(Clone, Debug)]
pub(super) struct Door {
    /// `https://host:port`.
    pub(super) origin: String,
    /// The authority of its server certificate, in PEM.
    pub(super) ca: String,
}

impl Way {
    /// The URL of the requests.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Envoy(_, door) => format!("{}{PATH}", door.origin),
            Self::Direct(_) => format!("https://{HOST}{PATH}"),
        }
    }

    /// Runs `scenario` and returns its outcome.
    pub(super) async fn play(
        &mut self,
        scenario: &Scenario,
        cast: &Cast,
    ) -> Result<Observed, Failure> {
        match self {
            Self::Envoy(envoy, door) => through_envoy(envoy, door, scenario, cast).await,
            Self::Direct(authorizer) => direct(*authorizer, scenario, cast).await,
        }
    }
}

impl Door {
    /// A client with the certificate of `identity`.
    pub(super) fn client(&self, identity: Option<&Identity>) -> Result<reqwest::Client, Failure> {
        let failure = |cause| Failure::new("setting up a client", cause);
        let ca = reqwest::Certificate::from_pem(self.ca.as_bytes()).map_err(failure)?;
        let mut builder =
            reqwest::Client::builder().no_proxy().timeout(TIMEOUT).tls_certs_only([ca]);
        if let Some(identity) = identity {
            let pem = identity.certificate_pem() + &identity.key_pem();
            let identity = reqwest::Identity::from_pem(pem.as_bytes()).map_err(failure)?;
            builder = builder.identity(identity);
        }
        builder.build().map_err(failure)
    }
}

async fn through_envoy(
    envoy: &mut Envoy,
    door: &Door,
    scenario: &Scenario,
    cast: &Cast,
) -> Result<Observed, Failure> {
    let client = door.client(cast.identity(scenario.caller))?;
    // Titles repeat ("… and"), but the access log needs unique names.
    let Scenario { caller, token, proof, trick, .. } = scenario;
    let id = format!("{caller:?}-{token:?}-{proof:?}-{trick:?}");
    let mut request = client.get(format!("{}{PATH}", door.origin)).header("x-scenario", &id);
    for (name, value) in scenario.headers(cast) {
        request = request.header(name, value);
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(cause) => {
            envoy.check()?;
            return Err(Failure::new("asking Envoy", cause));
        }
    };
    let status = response.status().as_u16();
    let body = response.bytes().await.map_err(|cause| Failure::new("asking Envoy", cause))?;
    let entry = envoy.access(&id).await?;
    let reason = entry.get("reason").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Observed { status, reason, subjects: subjects_in_echo(&body) })
}

/// The `x-auth-subject` headers that the upstream received; empty if it was not reached.
fn subjects_in_echo(body: &[u8]) -> Vec<String> {
    let seen: Value = serde_json::from_slice(body).unwrap_or_default();
    let subjects = seen.pointer("/headers/x-auth-subject").and_then(Value::as_array);
    subjects.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

async fn direct(
    authorizer: SocketAddr,
    scenario: &Scenario,
    cast: &Cast,
) -> Result<Observed, Failure> {
    let request = check_request(scenario, cast);
    let response = call(authorizer, &request)
        .await
        .map_err(|cause| Failure::new("asking the authorizer", cause))?;
    let reason = response.dynamic_metadata.as_ref().and_then(|it| it.fields.get("reason"));
    let reason = match reason.and_then(|it| it.kind.as_ref()) {
        Some(prost_types::value::Kind::StringValue(reason)) => reason.clone(),
        _ => String::new(),
    };
    let allowed = response.status.as_ref().is_none_or(|it| it.code == 0);
    let (status, subjects) = match response.http_response {
        Some(HttpResponse::OkResponse(ok)) if allowed => {
            let set = ok.headers.into_iter().filter_map(|it| it.header);
            let subjects = set.filter(|it| it.key == "x-auth-subject").map(|it| it.value);
            (200, subjects.collect())
        }
        Some(HttpResponse::DeniedResponse(denied)) if !allowed => {
            let code = denied.status.map_or(403, |it| it.code);
            (u16::try_from(code).unwrap_or_default(), vec![])
        }
        // As Envoy would treat it.
        _ => (if allowed { 200 } else { 403 }, vec![]),
    };
    Ok(Observed { status, reason, subjects })
}

fn check_request(scenario: &Scenario, cast: &Cast) -> CheckRequest {
    let headers = scenario.headers(cast).into_iter().map(|(name, value)| HeaderValue {
        key: name.to_owned(),
        raw_value: value.into_bytes(),
        ..HeaderValue::default()
    });
    let certificate = cast.identity(scenario.caller).map(|it| urlencoded(&it.certificate_pem()));
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer { certificate: certificate.unwrap_or_default(), ..Peer::default() }),
            request: Some(Request {
                http: Some(HttpRequest {
                    method: "GET".to_owned(),
                    scheme: "https".to_owned(),
                    host: HOST.to_owned(),
                    path: PATH.to_owned(),
                    protocol: "HTTP/2".to_owned(),
                    header_map: Some(HeaderMap { headers: headers.collect() }),
                    ..HttpRequest::default()
                }),
                ..Request::default()
            }),
            ..AttributeContext::default()
        }),
    }
}

/// As Envoy writes `source.certificate`: all but the unreserved characters is encoded.
fn urlencoded(pem: &str) -> String {
    let spelled = pem.bytes().map(|byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    });
    spelled.collect()
}

/// One unary call (gRPC over HTTP/2: a flag, four bytes of length, the message).
async fn call(
    authorizer: SocketAddr,
    request: &CheckRequest,
) -> Result<CheckResponse, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(authorizer).await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(request.encoded_len())?);
    request.encode(&mut body)?;
    let request = hyper::Request::post(format!(
        "http://{authorizer}/envoy.service.auth.v3.Authorization/Check"
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .body(Full::<Bytes>::from(body.freeze()))?;
    let answer = async {
        let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        let (_, message) = body.split_at_checked(5).ok_or("a gRPC error without a message")?;
        Ok(CheckResponse::decode(message)?)
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => Err(ended.err().map_or_else(|| "hung up".into(), Into::into)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_spelled_as_envoy_spells_it() {
        let pem = "-----BEGIN CERTIFICATE-----\nMI+/=\n";
        assert_eq!(urlencoded(pem), "-----BEGIN%20CERTIFICATE-----%0AMI%2B%2F%3D%0A");
    }
}
