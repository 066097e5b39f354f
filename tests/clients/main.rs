//! End to end with clients and servers that others wrote: an MCP client before an MCP server, and clients of
//! DPoP whose clocks are wrong, with a real Envoy and the real service between them; issuers with status
//! lists.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

mod clocks;
#[path = "../support/dpop_client.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod dpop_client;
#[path = "../support/installation.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod installation;
mod mcp;
mod mcp_world;
mod node;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/proofs.rs"]
mod proofs;
mod status_lists;
#[path = "../support/tokens.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod tokens;
