//! End to end behind proxies that ask over HTTP: a client with mutual TLS, the proxy with the files
//! that are there to deploy, the real service, an upstream.

#![expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod aliases;
mod caddy;
#[path = "../support/dpop_client.rs"]
mod dpop_client;
mod installation;
mod nginx;
mod pages;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/proofs.rs"]
mod proofs;
mod specification;
#[path = "../support/switching.rs"]
mod switching;
#[path = "../support/tokens.rs"]
mod tokens;
mod traefik;
#[path = "../support/verbatim.rs"]
mod verbatim;
#[path = "../support/wsgi.rs"]
mod wsgi;
