//! Defaults of settings whose own types have none ([`Limits`](crate::installation::Limits) is one
//! that has). Both the schema and the compiler take them from here.

use super::values::Address;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The gRPC listener.
pub(super) fn ext_authz() -> Address {
    local(9001)
}

/// The listener for health, metrics and status.
pub(super) fn admin() -> Address {
    local(9003)
}

fn local(port: u16) -> Address {
    Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// The header with a proxy's secret.
pub(super) const SECRET_HEADER: &str = "x-keybound-secret";

/// The accepted `typ` of tokens (RFC 9068 §2.1).
pub(super) const TOKEN_TYPES: [&str; 1] = ["at+jwt"];

/// The tolerated difference between an issuer's clock and ours.
pub(super) const CLOCK_LEEWAY: Duration = Duration::from_secs(30);

/// The header that carries the client certificate (RFC 9440).
pub(super) const CERTIFICATE_HEADER: &str = "client-cert";

/// Headers and the claims that identify the caller, in the order of the names.
pub(super) const IDENTITY_HEADERS: [(&str, &str); 4] = [
    ("x-auth-client-id", "client_id"),
    ("x-auth-issuer", "iss"),
    ("x-auth-scope", "scope"),
    ("x-auth-subject", "sub"),
];

/// The share of checks that start a trace.
pub(super) const SAMPLE_RATIO: f64 = 0.01;

/// The service name of spans.
pub(super) const SERVICE_NAME: &str = "keybound";
