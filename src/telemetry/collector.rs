//! The export of spans to a collector: OTLP over HTTP, in batches, apart from the checks.

use super::metrics::{Metrics, SpanFate};
use super::otlp;
use super::sample::Share;
use super::spans::Span;
use crate::state::http::{BadCredentials, Client, Credentials, Failure, Limits};
use ::http::header::CONTENT_TYPE;
use ::http::{HeaderName, HeaderValue, Method};
use prometheus::IntCounter;
use reqwest::{Request, Url};
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Where spans are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// The URL of the collector: `https`, or `http` to this machine.
    pub endpoint: Url,
    /// PEM of the certification authorities to trust, instead of those of the system.
    pub ca: Option<Vec<u8>>,
    /// More headers of each request, such as an API key. The values are marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The share of checks without a traced caller that start a trace.
    pub sample: Share,
    /// The service name of the spans.
    pub service_name: String,
}

/// A task that exports spans.
#[derive(Debug)]
pub struct Export {
    task: JoinSet<()>,
    stop: oneshot::Sender<()>,
}

/// Sends spans in batches. A batch that fails is lost, since checks matter more than their traces.
#[derive(Debug)]
struct Exporter {
    collector: Collector,
    client: Client,
    spans: Receiver<Span>,
    exported: IntCounter,
    failed: IntCounter,
    failing: bool,
}

/// The maximum number of spans per request.
const BATCH: usize = 512;

/// How long a span waits for its batch to fill.
const LINGER: Duration = Duration::from_secs(1);

/// The limits of a request. The response is empty, or counts rejected spans.
const REQUEST: Limits = Limits { bytes: 64 * 1024, deadline: Duration::from_secs(5) };

/// How long the last spans may take at shutdown.
const LAST_SPANS: Duration = Duration::from_secs(2);

impl Export {
    /// Starts to send `spans` to `collector`. Must be called on a tokio runtime.
    pub fn start(
        collector: Collector,
        spans: Receiver<Span>,
        metrics: &Metrics,
    ) -> Result<Self, BadCredentials> {
        let credentials = Credentials { ca: collector.ca.as_deref(), identity: None };
        let client = Client::new(credentials)?;
        let (exported, failed) =
            (metrics.spans(SpanFate::Exported), metrics.spans(SpanFate::Failed));
        let sender = Exporter { collector, client, spans, exported, failed, failing: false };
        let (stop, stopped) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(sender.run(stopped));
        Ok(Self { task, stop })
    }

    /// Sends the remaining spans, within a time limit.
    pub async fn finish(mut self) {
        drop(self.stop);
        if timeout(LAST_SPANS, self.task.join_next()).await.is_err() {
            tracing::warn!("spans lost at shutdown");
        }
    }
}

impl Exporter {
    /// Sends spans until `stop`, and then the remaining ones.
    async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                count = self.spans.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                }
                _ = &mut stop, if !self.spans.is_closed() => {
                    self.spans.close();
                    continue;
                }
            }
            // Waits for the batch to fill, except at shutdown.
            tokio::select! {
                _ = timeout(LINGER, fill(&mut self.spans, &mut batch)) => (),
                _ = &mut stop, if !self.spans.is_closed() => self.spans.close(),
            }
            self.send(&batch).await;
            batch.clear();
        }
    }

    async fn send(&mut self, batch: &[Span]) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        match self.post(otlp::request(&self.collector.service_name, batch)).await {
            Ok(rejected) => {
                let rejected = rejected.min(count);
                self.exported.inc_by(count.saturating_sub(rejected));
                self.failed.inc_by(rejected);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("spans are exported again");
                }
            }
            Err(failure) => {
                self.failed.inc_by(count);
                // Logged once per outage, not once per batch.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%failure, "spans cannot be exported");
                }
            }
        }
    }

    /// Sends one request, and returns how many spans were rejected.
    async fn post(&self, body: Vec<u8>) -> Result<u64, Failure> {
        let mut request = Request::new(Method::POST, self.collector.endpoint.clone());
        let headers = request.headers_mut();
        for (name, value) in &self.collector.headers {
            headers.append(name, value.clone());
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        *request.body_mut() = Some(body.into());
        let reply = self.client.send(request, REQUEST).await?;
        if reply.status.is_success() {
            Ok(otlp::rejected(&reply.body))
        } else {
            Err(Failure::Status(reply.status))
        }
    }
}

async fn fill(spans: &mut Receiver<Span>, batch: &mut Vec<Span>) {
    while let Some(room) = BATCH.checked_sub(batch.len()).filter(|it| 0 < *it) {
        if spans.recv_many(batch, room).await == 0 {
            return;
        }
    }
}
