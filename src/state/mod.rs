//! State that outlives a request, and the network calls that fill it.

pub mod certificates;
pub mod discovery;
pub mod freshness;
pub mod http;
pub mod introspection;
pub mod jwks;
mod refreshes;
pub mod replay;
pub mod revocation;
mod snapshot;
pub mod token_cache;
mod token_tag;
mod waits;

pub use refreshes::LastError;
