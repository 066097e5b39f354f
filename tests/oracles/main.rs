//! What must hold whatever comes in: each oracle draws a case, has it read or judged in a second
//! way, and holds the answer of this crate against that.
//!
//! Each has some 50,000 cases from a seeded generator, or as many as take seconds. `tests/fuzz` builds
//! the same files as a library, for targets that draw from the bytes of a fuzzer instead.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::missing_panics_doc,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic"
)]

pub mod choices;
pub mod claims;
pub mod installation;
pub mod redaction;
pub mod signer;
pub mod tokens;
pub mod uri;
pub mod wire;
pub mod xfcc;
