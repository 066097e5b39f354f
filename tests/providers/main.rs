//! End to end with real authorization servers: their tokens, a real Envoy, the real service, an
//! upstream.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

#[path = "../support/dpop_client.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod dpop_client;
#[path = "../support/installation.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod installation;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/proofs.rs"]
mod proofs;
#[path = "../support/tokens.rs"]
mod tokens;

mod bound;
mod event_tokens;
mod http;
mod hydra;
mod introspected;
mod keycloak;
mod keycloak_events;
mod opaque;
mod post_quantum;
mod realm;
mod written;

use installation::{Call, Door, Installation, Outcome, Way};
use keybound::commands::demo::pki::Identity;
use keybound_core::Denial;
use reqwest::Version;

/// Clients may come without a certificate; the service hears of theirs from Envoy itself.
const DOOR: Door = Door {
    name: "door",
    source: "peer",
    forward_client_cert: "SANITIZE",
    certificate_required: false,
    way: Way::Grpc,
};

/// What a client sends, and what must come of it.
struct Row<'a> {
    what: &'a str,
    identity: Option<&'a Identity>,
    path: &'a str,
    headers: Vec<(&'static str, String)>,
    expected: Result<(), Denial>,
}

/// Sends a row, and holds the answer against what is expected.
async fn check(it: &mut Installation, row: Row<'_>) -> Outcome {
    let Row { what, identity, path, headers, expected } = row;
    let call = Call { door: DOOR.name, http: Version::HTTP_2, identity, path, headers };
    let outcome = it.call(&call).await.unwrap();
    let (status, reason) = match expected {
        Ok(()) => (200, "allowed"),
        Err(denial) => (denial.status(), denial.label()),
    };
    assert_eq!(
        (outcome.status.as_u16(), outcome.reason()),
        (status, reason),
        "{what}: {outcome:?}"
    );
    outcome
}

fn bearer(token: &str) -> Vec<(&'static str, String)> {
    vec![("authorization", format!("Bearer {token}"))]
}
