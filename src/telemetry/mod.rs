//! Telemetry of checks: metrics, log lines and traces.
//!
//! Labels come from closed sets or from the configuration, never from a request. Nothing here ever
//! holds a token, a proof or a secret.

pub mod carried;
pub mod certificates;
pub mod check_event;
pub mod check_log;
pub mod collector;
pub mod connections;
pub mod denials;
pub mod history;
pub mod installed;
pub mod log;
pub mod meters;
pub mod metrics;
pub mod otlp;
mod process;
mod register;
pub mod reloads;
pub mod sample;
#[cfg(test)]
pub(crate) mod samples;
pub mod sinks;
pub mod spans;
pub mod trace_context;
