//! What a client of an authorization server sends, and the JSON that it gets.

use keybound::commands::demo::pki::{Authority, Identity};
use reqwest::{Certificate, Client, RequestBuilder, StatusCode, Url};
use serde_json::Value;
use std::time::Duration;

/// How long an answer may take: a server that has just started is slow.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client that trusts `authority` and shows `identity`.
pub(crate) fn client(authority: &Authority, identity: Option<&Identity>) -> Client {
    let authority = Certificate::from_pem(authority.certificate_pem().as_bytes()).unwrap();
    let mut builder = Client::builder().no_proxy().timeout(TIMEOUT).tls_certs_only([authority]);
    if let Some(identity) = identity {
        let pem = identity.certificate_pem() + &identity.key_pem();
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    builder.build().unwrap()
}

/// `request` with a form in its body.
pub(crate) fn form(request: RequestBuilder, fields: &[(&str, &str)]) -> RequestBuilder {
    // A query has the form of a form.
    let url = Url::parse_with_params("http://localhost", fields).unwrap();
    request
        .header("content-type", "application/x-www-form-urlencoded")
        .body(url.query().unwrap_or_default().to_owned())
}

/// `request` with JSON in its body.
pub(crate) fn json(request: RequestBuilder, body: &Value) -> RequestBuilder {
    request.header("content-type", "application/json").body(body.to_string())
}

/// The answer, and null for a body that is not JSON.
pub(crate) async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
}

/// The answer to what must succeed.
pub(crate) async fn success(request: RequestBuilder) -> Value {
    let (status, body) = answer(request).await;
    assert!(status.is_success(), "{status}: {body}");
    body
}
