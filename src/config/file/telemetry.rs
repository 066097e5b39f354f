//! The shape of the configuration of telemetry.

use crate::config::usual;
use schemars::JsonSchema;
use serde::Deserialize;

/// Telemetry of checks, besides the metrics and a log line for each denial.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Telemetry {
    /// Traces by OpenTelemetry; absent: none.
    pub(in crate::config) otlp: Option<Otlp>,
    /// The log.
    pub(in crate::config) log: Option<Log>,
}

/// The export of spans to a collector: OTLP over HTTP, in protobuf.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Otlp {
    /// The URL of the collector, such as <http://127.0.0.1:4318/v1/traces>: https, or http to this
    /// machine.
    #[schemars(required)]
    pub(in crate::config) endpoint: Option<String>,
    /// PEM file with the authorities to trust for the endpoint; absent: those of the system.
    pub(in crate::config) ca_file: Option<String>,
    /// A file with more headers for each request, such as an API key: one `name: value` per line.
    pub(in crate::config) headers_file: Option<String>,
    /// The share of checks that are sampled, 0 to 1, if the proxy's call is not part of a trace. If
    /// it is, the proxy's decision is followed, but never that of a client.
    #[schemars(range(min = 0, max = 1), extend("default" = usual::SAMPLE_RATIO))]
    pub(in crate::config) sample_ratio: Option<f64>,
    /// The service name of the spans.
    #[schemars(length(min = 1), extend("default" = usual::SERVICE_NAME))]
    pub(in crate::config) service_name: Option<String>,
}

/// The log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Log {
    /// The share of allowed requests, 0 to 1, that are logged at level `info`. Denials always are.
    #[schemars(range(min = 0, max = 1), extend("default" = 0))]
    pub(in crate::config) allow_sample: Option<f64>,
}
