//! End to end behind proxies that ask over HTTP: a client with mutual TLS, the proxy with the files
//! that are there to deploy, the real service, an upstream.

#![expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod aliases;
mod caddy;
#[path = "../support/dpop_client.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod dpop_client;
mod installation;
mod nginx;
#[path = "../support/programs.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod programs;
#[path = "../support/proofs.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod proofs;
mod specification;
#[path = "../support/switching.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod switching;
#[path = "../support/tokens.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod tokens;
mod traefik;
#[path = "../support/verbatim.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod verbatim;
#[path = "../support/wsgi.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod wsgi;
