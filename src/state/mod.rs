//! What outlives a request: all I/O but that of the front ends is here.

pub mod certificates;
pub mod discovery;
pub mod freshness;
pub mod http;
pub mod introspection;
pub mod jwks;
pub mod replay;
pub mod token_cache;
mod waits;
