//! Verification events, which are asked for at an interval: a stream that brings none is broken,
//! however well its transmitter answers (SSF 1.0 §8.1.4).

use super::receiver::Receiver;
use super::rules::Verification;
use crate::randomness;
use crate::state::http::{Client, Failure, Limits};
use ::http::{HeaderValue, Method, StatusCode, header};
use keybound_core::jose::base64url;
use keybound_core::jose::json::Object;
use reqwest::{Request, Url};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The task that asks.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) receiver: Arc<Receiver>,
    pub(super) client: Client,
    pub(super) endpoint: Url,
    pub(super) rules: Verification,
}

/// The time between two requests.
pub(super) const INTERVAL: Duration = Duration::from_secs(120);

const LIMITS: Limits = Limits { bytes: 64 * 1024, deadline: Duration::from_secs(10) };

impl Asker {
    /// Asks without end.
    pub(super) async fn run(self) {
        loop {
            self.ask().await;
            sleep(INTERVAL).await;
        }
    }

    async fn ask(&self) {
        let answer = self.client.send(self.request(), LIMITS).await;
        let failure = match answer.map(|it| it.status) {
            // Another replica has just asked.
            Ok(StatusCode::TOO_MANY_REQUESTS) => return,
            Ok(status) if status.is_success() => return,
            Ok(status) => Failure::Status(status),
            Err(failure) => failure,
        };
        let issuer = &*self.receiver.issuer.name;
        self.receiver
            .report
            .failed(&format_args!("verification: {failure}"), self.receiver.clock.now());
        tracing::warn!(issuer, error = %failure, "verification of the event stream not asked for");
    }

    fn request(&self) -> Request {
        let mut state = [0; 16];
        if randomness::fill(&mut state).is_err() {
            tracing::debug!("no randomness: the state of a verification event repeats");
        }
        let mut body = Object::new();
        body.insert("state".to_owned(), base64url::encode(&state).into());
        if let Some(stream) = &self.rules.stream_id {
            body.insert("stream_id".to_owned(), stream.as_str().into());
        }
        let mut request = Request::new(Method::POST, self.endpoint.clone());
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(bearer) = &self.rules.bearer {
            headers.insert(header::AUTHORIZATION, bearer.header().clone());
        }
        *request.body_mut() = Some(Value::Object(body).to_string().into());
        request
    }
}
