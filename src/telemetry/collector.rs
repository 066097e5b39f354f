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

/// Where spans go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// The URL that takes them: `https`, or `http` to this machine.
    pub endpoint: Url,
    /// PEM of the only certification authorities that count; none: the system's.
    pub ca: Option<Vec<u8>>,
    /// What else each request carries, such as a key. The values are marked as sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How many of the checks that nobody traces begin a trace.
    pub sample: Share,
    /// As which service they are told.
    pub service_name: String,
}

/// The export of spans, in a task beside the checks.
#[derive(Debug)]
pub struct Export {
    task: JoinSet<()>,
    stop: oneshot::Sender<()>,
}

/// Sends spans, batch by batch. A batch that fails is lost: checks come before their traces.
#[derive(Debug)]
struct Exporter {
    collector: Collector,
    client: Client,
    spans: Receiver<Span>,
    exported: IntCounter,
    failed: IntCounter,
    failing: bool,
}

/// The most spans that go in one request.
const BATCH: usize = 512;

/// How long a span waits for others.
const LINGER: Duration = Duration::from_secs(1);

/// What bounds a request. The answer is empty, or says how many spans were not taken.
const REQUEST: Limits = Limits { bytes: 64 * 1024, deadline: Duration::from_secs(5) };

/// How long the last spans get when the process ends.
const LAST_SPANS: Duration = Duration::from_secs(2);

impl Export {
    /// Sends `spans` to `collector` from here on. To be called on a tokio runtime.
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

    /// Sends what is left. It does not take long, whatever the collector does.
    pub async fn finish(mut self) {
        drop(self.stop);
        if timeout(LAST_SPANS, self.task.join_next()).await.is_err() {
            tracing::warn!("spans lost at shutdown");
        }
    }
}

impl Exporter {
    /// Sends spans until `stop` comes, and then those that are left.
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
            // Time enough for a batch to fill up, unless this is the end.
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
                // Once for an outage, not once for each batch.
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%failure, "spans cannot be exported");
                }
            }
        }
    }

    /// Sends one request, and says how many spans of it were not taken.
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
