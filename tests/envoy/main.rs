//! End to end: a client with mutual TLS, a real Envoy, the real service, an upstream.

#![expect(clippy::duplicate_mod, reason = "the same tests, whoever checks")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::arithmetic_side_effects, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, reason = "a test may panic")]

#[path = "../support/browser.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod chromium;
#[path = "../support/dpop_client.rs"]
mod dpop_client;
#[path = "../support/identity_provider.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod identity_provider;
#[path = "../support/installation.rs"]
mod installation;
#[path = "../support/introspection_endpoint.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod introspection_endpoint;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/proofs.rs"]
mod proofs;
#[path = "../support/redis.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod redis;
#[path = "../support/tokens.rs"]
mod tokens;

mod browser;
mod channel;
mod module;
mod service;

use installation::{Call, Door, Installation, Outcome, Way};
use keybound_core::Denial;
use reqwest::Version;

const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// Clients may come without a certificate; the service hears of theirs from Envoy itself.
const OPTIONAL: Door = Door {
    name: "optional",
    source: "peer",
    forward_client_cert: "SANITIZE",
    certificate_required: false,
    way: Way::Grpc,
};

/// The same tests, whoever checks.
macro_rules! whoever_checks {
    ($($name:ident: $way:expr;)*) => {$(
        #[path = "."]
        mod $name {
            use super::{
                BOTH, Door, Way, channel, check, dpop_client, installation, introspection_endpoint, proofs, tokens,
            };

            const OPTIONAL: Door = Door { way: $way, ..super::OPTIONAL };

            #[path = "dpop.rs"]
            mod dpop;
            #[path = "grpc.rs"]
            mod grpc;
            #[path = "metadata.rs"]
            mod metadata;
            #[path = "mutual_tls.rs"]
            mod mutual_tls;
            #[path = "opaque.rs"]
            mod opaque;
            #[path = "public.rs"]
            mod public;
            #[path = "streams.rs"]
            mod streams;
        }
    )*};
}

whoever_checks! {
    by_ext_authz: Way::Grpc;
    inside_envoy_1_38: Way::Inside("envoy-1.38");
    inside_envoy_1_39: Way::Inside("envoy-1.39");
    inside_envoy_1_40: Way::Inside("envoy");
}

/// What Envoy is told of streams and of headers to remove reaches it over HTTP, too.
#[path = "."]
mod by_ext_authz_over_http {
    use super::{BOTH, Door, Way, channel, installation};

    const OPTIONAL: Door = Door { way: Way::Http, ..super::OPTIONAL };

    #[path = "public.rs"]
    mod public;
    #[path = "streams.rs"]
    mod streams;
}

/// Makes `call` and holds the answer against `expected`: its status, its reason in the metadata that
/// Envoy logs, and the challenge.
async fn check(it: &mut Installation, call: &Call<'_>, expected: Result<(), Denial>) -> Outcome {
    let outcome = it.call(call).await.unwrap();
    let context = format!("{} {:?} {}: {outcome:?}", call.door, call.http, call.path);
    let (status, reason) = match expected {
        Ok(()) => (200, "allowed"),
        Err(denial) => (denial.status(), denial.label()),
    };
    assert_eq!((outcome.status.as_u16(), outcome.reason()), (status, reason), "{context}");
    if let Err(denial) = expected {
        assert_eq!(outcome.body["error_description"], denial.sentence(), "{context}");
        let challenged = outcome.headers.contains_key("www-authenticate");
        assert_eq!(challenged, status == 401 || denial.error().is_some(), "{context}");
    }
    outcome
}
