//! Verification events, which are asked for at an interval: a stream that brings none is broken,
//! however well its transmitter answers (SSF 1.0 §8.1.4).

use super::receiver::Receiver;
use super::rules::Verification;
use crate::state::http::{Client, Failure, Limits, post_json};
use ::http::StatusCode;
use keybound_core::jose::json::Object;
use reqwest::{Request, Url};
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
        let transmitter = &self.receiver.rules.transmitter;
        let mut body = Object::new();
        if let Some(stream) = transmitter.stream.as_deref() {
            body.insert("stream_id".to_owned(), stream.into());
        }
        body.insert("state".to_owned(), transmitter.verification_state().into());
        post_json(&self.endpoint, self.rules.bearer.as_ref(), body)
    }
}
